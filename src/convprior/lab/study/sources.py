"""Looks at the data and the networks of a study before its first cell starts."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from convprior.lab.data import DataRecipe, prepare
from convprior.lab.study.design import Study
from convprior.lab.train import ModelRecipe, Recipe, build_model


def check_sources(study: Study) -> None:
    """Opens every source, chooses every split, decodes every image once, builds every network.

    Decoded images stay in the cache, where the workers find them.

    Raises:
        InputError: data are missing, broken or too few, or a network cannot take them.
    """
    seen: set[tuple[DataRecipe, ModelRecipe]] = set()
    for recipe in _recipes(study):
        # Which images, and of what shape: the rest of the augmentation cannot fail.
        images = replace(recipe.data, flip=False, cutout=0, color=0.0)
        if (images, recipe.model) in seen:
            continue
        seen.add((images, recipe.model))
        with torch.random.fork_rng(devices=[]):
            build_model(recipe, prepare(images))


def _recipes(study: Study) -> Iterator[Recipe]:
    for slot in study.slots():
        for split in study.splits:
            yield study.recipe(slot, {}, split, study.seeds[0])
        if study.tune is not None and study.arm(slot.arm).space:
            for split in study.tune.splits or study.splits:
                recipe = study.recipe(slot, {}, split, study.seeds[0])
                yield replace(recipe, data=replace(recipe.data, evaluate="validation"))
