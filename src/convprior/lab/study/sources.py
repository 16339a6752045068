"""Looks at the data, the networks and the priors of a study before its first cell starts."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from convprior.errors import InputError
from convprior.lab.data import DataRecipe, prepare
from convprior.lab.study.design import Study
from convprior.lab.train import ModelRecipe, PriorRecipe, Recipe, build_model
from convprior.lab.train.priors import build_prior, shape_filters_


def check_sources(study: Study) -> None:
    """Opens every source, chooses every split, decodes every image once, builds every network.

    Decoded images stay in the cache, where the workers find them.

    Raises:
        InputError: data are missing, broken or too few, a network cannot take them, or a prior
            does not fit a network; the message names the arm.
    """
    seen: set[tuple[DataRecipe, ModelRecipe]] = set()
    networks: dict[ModelRecipe, nn.Module] = {}
    fitting: set[tuple[ModelRecipe, PriorRecipe]] = set()
    for arm, recipe in _recipes(study):
        # Which images, and of what shape: the rest of the augmentation cannot fail.
        images = replace(recipe.data, flip=False, cutout=0, color=0.0)
        with torch.random.fork_rng(devices=[]):
            if (images, recipe.model) not in seen:
                seen.add((images, recipe.model))
                plain = replace(recipe, prior=PriorRecipe())
                networks[recipe.model] = build_model(plain, prepare(images))
            if (recipe.model, recipe.prior) not in fitting:
                fitting.add((recipe.model, recipe.prior))
                try:
                    network = copy.deepcopy(networks[recipe.model])
                    shape_filters_(network, recipe)
                    build_prior(network, recipe)
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
