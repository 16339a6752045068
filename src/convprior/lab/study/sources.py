"""Looks at the data, networks, priors and losses of a study before its first cell starts."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from convprior.errors import InputError
from convprior.lab.data import DataRecipe, Prepared, prepare
from convprior.lab.study.design import Study
from convprior.lab.train import ConnectivityRecipe, PriorRecipe, Recipe, build_model
from convprior.lab.train.objective import check_features
from convprior.lab.train.priors import build_prior, shape_filters_

# What a network is built for: class count, channels and size of the images.
Shape = tuple[int, int, tuple[int, int]]


def check_sources(study: Study) -> None:
    """Opens every source, chooses every split, decodes every image once, builds every network.

    Decoded images stay in the cache, where the workers find them.

    Raises:
        InputError: data are missing, broken or too few, a network cannot take them, or a prior, a
            connectivity or a loss does not fit a network; the message names the arm.
    """
    shapes: dict[DataRecipe, Shape] = {}
    examples: dict[Shape, Prepared] = {}
    seen: set[tuple[object, ...]] = set()
    for arm, recipe in _recipes(study):
        # Which images, and of what shape: the rest of the augmentation cannot fail.
        images = replace(recipe.data, flip=False, cutout=0, color=0.0)
        with torch.random.fork_rng(devices=[]):
            if images not in shapes:
                data = prepare(images)
                shapes[images] = len(data.classes), data.train.channels, data.train.size
                examples.setdefault(shapes[images], data)
            shape, data = shapes[images], examples[shapes[images]]
            plain = replace(recipe, prior=PriorRecipe(), connectivity=ConnectivityRecipe())
            if (shape, recipe.model) not in seen:
                seen.add((shape, recipe.model))
                build_model(plain, data)
            fit = (shape, recipe.model, recipe.connectivity, recipe.prior, recipe.loss)
            if fit in seen:
                continue
            seen.add(fit)
            try:
                network = build_model(replace(plain, connectivity=recipe.connectivity), data)
                shape_filters_(network, recipe)
                build_prior(network, recipe)
                channels, size = shape[1:]
                check_features(network, recipe.loss, torch.zeros(2, channels, *size))
            except InputError as error:
                raise InputError(f"arms.{arm}: {error}") from error


def _recipes(study: Study) -> Iterator[tuple[str, Recipe]]:
    for slot in study.slots():
        for split in study.splits:
            yield slot.arm, study.recipe(slot, {}, split, study.seeds[0])
        if study.tune is not None and study.arm(slot.arm).space:
            for split in study.tune.splits or study.splits:
                recipe = study.recipe(slot, {}, split, study.seeds[0])
                yield slot.arm, replace(recipe, data=replace(recipe.data, evaluate="validation"))
