"""Which images train, validate and test: fixed rules on labels alone, no image is opened."""

from collections.abc import Sequence

import torch
from torch import Tensor

from convprior._random import mix
from convprior.errors import InputError
from convprior.lab.data.recipe import DataRecipe, fitted_share

TEST_SHARE = 0.2
"""Share of each class that becomes the test set of a source that has none."""

# Constants that keep the random choices of different purposes apart.
_TEST, _RANDOM, _VALIDATION = 0x7E, 0x4A, 0x5A


def class_rows(labels: Tensor, num_classes: int) -> list[Tensor]:
    """Returns the rows of each class in file order: a list of (n_c,) int64."""
    return [torch.nonzero(labels == label).flatten() for label in range(num_classes)]


def hold_out_test(labels: Tensor, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Splits a source without a test set into rows for training and for the test.

    Of each class with ``n`` images, ``round(0.2 n)`` (at least one) chosen by a fixed shuffle are
    the test set: the same for every recipe, seed and machine.

    Returns:
        Training rows and test rows, both in file order.

    Raises:
        InputError: a class has fewer than two images.
    """
    train, test = [], []
    for label, rows in enumerate(class_rows(labels, len(classes))):
        if len(rows) < 2:
            raise InputError(
                f"class {classes[label]!r} has {len(rows)} images, but a test set can be held out "
                "only of classes with 2 or more: add images or a test split"
            )
        shuffled = _shuffled(rows, _TEST, label)
        held = max(1, round(TEST_SHARE * len(rows)))
        test.append(shuffled[:held])
        train.append(shuffled[held:])
    return _file_order(train), _file_order(test)


def choose(labels: Tensor, classes: Sequence[str], recipe: DataRecipe) -> tuple[Tensor, Tensor]:
    """Chooses a recipe's images among a training set.

    With ``per_class`` = n the rule ``consecutive`` takes, of each class and in file order, images
    ``[split n, (split + 1) n)``; the first ``round(n (1 - validation))`` of them are for fitting
    and the rest for validation. This is the split rule of the DEIC and GEM benchmarks (Brigato et
    al.; n = 50, validation 0.4). The rule ``random`` does the same after one fixed shuffle of each
    class. Without ``per_class`` all images are chosen and the validation part is a fixed random
    share of each class.

    Args:
        labels: (N,) int64, the training labels in file order.
        classes: the class names.
        recipe: the choice.

    Returns:
        Rows for fitting and rows for validation, disjoint, both in file order.

    Raises:
        InputError: a class has too few images.
    """
    fit, validation = [], []
    for label, rows in enumerate(class_rows(labels, len(classes))):
        chosen, kept = _choose_of_class(rows, label, classes[label], recipe)
        fit.append(chosen[:kept])
        validation.append(chosen[kept:])
    return _file_order(fit), _file_order(validation)


def _choose_of_class(rows: Tensor, label: int, name: str, recipe: DataRecipe) -> tuple[Tensor, int]:
    n = recipe.per_class
    if n is None:
        kept = fitted_share(len(rows), recipe.validation)
        if len(rows) == 0 or (recipe.evaluate == "validation" and not 0 < kept < len(rows)):
            raise InputError(
                f"class {name!r} has {len(rows)} training images, too few to hold back "
                f"validation = {recipe.validation} and keep one: add images or remove the class"
            )
        return _shuffled(rows, _VALIDATION, label), kept
    needed = (recipe.split + 1) * n
    if len(rows) < needed:
        raise InputError(
            f"class {name!r} has {len(rows)} training images, but split = {recipe.split} with "
            f"per_class = {n} needs {needed}: lower per_class or split, or add images"
        )
    if recipe.rule == "random":
        rows = _shuffled(rows, _RANDOM, label)
    return rows[recipe.split * n : needed], fitted_share(n, recipe.validation)


def _shuffled(rows: Tensor, *purpose: int) -> Tensor:
    generator = torch.Generator().manual_seed(mix(*purpose))
    return rows[torch.randperm(len(rows), generator=generator)]


def _file_order(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts).sort().values if parts else torch.empty(0, dtype=torch.int64)
