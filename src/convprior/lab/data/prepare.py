"""From a recipe to tensors: the whole way of the data into a run."""

from dataclasses import dataclass

import torch
from torch import Tensor

from convprior.errors import InputError
from convprior.lab.data.augment import Augment
from convprior.lab.data.decode import Format
from convprior.lab.data.images import ImageSet
from convprior.lab.data.load import load
from convprior.lab.data.recipe import DataRecipe
from convprior.lab.data.resolve import open_source
from convprior.lab.data.source import Part, Rows
from convprior.lab.data.splits import choose, hold_out_test
from convprior.lab.data.statistics import kept_statistics
from convprior.lab.data.stream import StreamedSet


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a run trains on and is judged on."""

    train: ImageSet | StreamedSet
    evaluation: ImageSet | StreamedSet
    mean: tuple[float, ...]
    """Mean of each channel over the training images, full scale = 1."""
    std: tuple[float, ...]
    """Standard deviation of each channel likewise; 1 for a constant channel."""
    classes: tuple[str, ...]
    augment: Augment | None


def prepare(
    recipe: DataRecipe,
    device: torch.device | str = "cpu",
    *,
    memory_limit: int | None = None,
    workers: int | None = None,
) -> Prepared:
    """Opens, splits and decodes the data of a recipe.

    Labels are read first; then only the images that the recipe needs are decoded. With
    ``evaluate="validation"`` no test image is opened.

    Args:
        recipe: which data.
        device: where the images go.
        memory_limit: largest decoded size of a set in bytes before it is streamed from disk; None:
            ``CONVPRIOR_MEMORY_LIMIT`` gigabytes (4). It changes no result.
        workers: decoding processes of a streamed set; None: one a core, 0: none.

    Raises:
        InputError: the source is not found, or its images or labels break a rule.
    """
    source = open_source(recipe.source)
    if len(source.classes) < 2:
        raise InputError(
            f"{source.name} has {len(source.classes)} class ({', '.join(source.classes)}), so "
            "there is nothing to tell apart: give at least two"
        )
    train, test = source.train, source.test
    _check_labels(train, source.classes, f"the training part of {source.name}")
    if test is None:
        kept, held = hold_out_test(train.labels, source.classes)
        train, test = Rows(train, kept), Rows(train, held)
    fit, validation = choose(train.labels, source.classes, recipe)
    wanted = Format(recipe.image_size, recipe.channels)
    device = torch.device(device)

    def loaded(part: Part, rows: Tensor, name: str) -> ImageSet | StreamedSet:
        return load(part, rows, source.classes, name, wanted, device, memory_limit, workers)

    if recipe.evaluate == "validation":
        training = loaded(train, fit, f"{source.name} (train)")
        evaluation = loaded(train, validation, f"{source.name} (validation)")
    else:
        _check_labels(test, source.classes, f"the test part of {source.name}")
        training = loaded(
            train, torch.cat([fit, validation]).sort().values, f"{source.name} (train)"
        )
        evaluation = loaded(test, torch.arange(len(test)), f"{source.name} (test)")
    _check_equal_shape(training, evaluation)
    augment = Augment(recipe.flip, recipe.crop, recipe.cutout, recipe.color)
    if recipe.crop >= min(training.size):
        raise InputError(
            f"crop (={recipe.crop}) reflects that many pixels at the border, so it must be smaller "
            f"than the image ({training.size[1]}x{training.size[0]}): lower crop"
        )
    mean, std = kept_statistics(training)
    return Prepared(
        training, evaluation, mean, std, source.classes,
        augment if augment.any else None,
    )  # fmt: skip


def _check_labels(part: Part, classes: tuple[str, ...], name: str) -> None:
    wrong = torch.nonzero((part.labels < 0) | (part.labels >= len(classes))).flatten()
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"{part.where(row)} in {name} has the label {int(part.labels[row])}, but the "
            f"{len(classes)} classes are numbered 0 to {len(classes) - 1}: give every image a class"
        )


def _check_equal_shape(train: ImageSet | StreamedSet, other: ImageSet | StreamedSet) -> None:
    if train.channels != other.channels:
        raise InputError(
            f"{other.name} has {other.channels} channels but {train.name} has {train.channels}: "
            "set channels = 3 (or 1)"
        )
    if train.size != other.size:
        raise InputError(
            f"{other.name} is {other.size[1]}x{other.size[0]} pixels but {train.name} is "
            f"{train.size[1]}x{train.size[0]}: set image_size"
        )
