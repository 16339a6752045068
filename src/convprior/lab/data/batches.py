"""Batches as pure functions of the step: nothing to save, nothing to restore."""

from collections.abc import Iterator
from itertools import count
from typing import TypeAlias

import torch
from torch import Tensor

from convprior.errors import InputError
from convprior.lab.data.augment import Augment, gather
from convprior.lab.data.images import ImageSet
from convprior.lab.data.order import share, stream_slice
from convprior.lab.data.stream import StreamedSet

Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""x (n, C, H, W) channels_last, normalized; labels y (n,) int64; index (n,) int64 in the set."""


def training_batch(
    images: ImageSet,
    step: int,
    batch_size: int,
    *,
    seed: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: Augment | None = None,
    dtype: torch.dtype = torch.float32,
    rank: int = 0,
    world_size: int = 1,
) -> Batch:
    """Returns the batch of one training step: a pure function of its arguments.

    Training runs through an endless stream, one random permutation of the set after the other;
    step ``k`` covers its samples ``[k * batch_size, (k + 1) * batch_size)``. No sample is dropped,
    and a batch may span two epochs.

    Args:
        images: the training images.
        step: 0, 1, 2, ...
        batch_size: samples of all processes together.
        seed: of order and augmentation.
        mean: C numbers, of the training images, full scale = 1.
        std: C numbers likewise.
        augment: the random changes; None for none.
        dtype: of ``x``.
        rank: this process; it gets a contiguous share of the batch.
        world_size: number of processes.

    Raises:
        InputError: no image, or a batch size below 1.
    """
    _check(len(images), batch_size)
    first, last = share(step * batch_size, (step + 1) * batch_size, rank, world_size)
    index, draws = stream_slice(len(images), seed, first, last, images.device)
    x = gather(images.images, index, mean, std, augment, draws, dtype)
    return x, images.labels[index], index


def training_batches(
    images: ImageSet | StreamedSet,
    batch_size: int,
    *,
    seed: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: Augment | None = None,
    dtype: torch.dtype = torch.float32,
    rank: int = 0,
    world_size: int = 1,
    first_step: int = 0,
) -> Iterator[Batch]:
    """Yields the batches of steps ``first_step, first_step + 1, ...`` without end.

    The batches are those of :func:`training_batch`; a streamed set is decoded ahead by worker
    processes.
    """
    _check(len(images), batch_size)
    if isinstance(images, ImageSet):
        for step in count(first_step):
            yield training_batch(
                images, step, batch_size, seed=seed, mean=mean, std=std, augment=augment,
                dtype=dtype, rank=rank, world_size=world_size,
            )  # fmt: skip
    else:
        cuts = (
            share(step * batch_size, (step + 1) * batch_size, rank, world_size)
            for step in count(first_step)
        )
        parts = (stream_slice(len(images), seed, *cut, torch.device("cpu")) for cut in cuts)
        yield from _streamed(images, parts, mean, std, augment, dtype)


def batches(
    images: ImageSet | StreamedSet,
    batch_size: int,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int | None = None,
    epoch: int = 0,
    augment: Augment | None = None,
    dtype: torch.dtype = torch.float32,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
) -> Iterator[Batch]:
    """Yields every sample of the set once, the last batch as small as it has to be.

    Args:
        images: the images.
        batch_size: samples of all processes together.
        mean: C numbers, full scale = 1.
        std: C numbers likewise.
        seed: of order and augmentation; None: in file order without augmentation (evaluation).
        epoch: which permutation.
        augment: the random changes; None for none.
        dtype: of the images.
        rank: this process; it gets a contiguous share of each batch.
        world_size: number of processes.
        start: samples of this epoch already seen, by all processes together.

    Raises:
        InputError: no image, a batch size below 1, or an augmentation without a seed.
    """
    _check(len(images), batch_size)
    if seed is None and augment is not None and augment.any:
        raise InputError("augment needs a seed: pass seed=, or augment=None to evaluate")
    device = images.device if isinstance(images, ImageSet) else torch.device("cpu")
    parts = _pass(len(images), batch_size, seed, epoch, device, rank, world_size, start)
    if isinstance(images, ImageSet):
        for index, draws in parts:
            x = gather(images.images, index, mean, std, augment, draws, dtype)
            yield x, images.labels[index], index
    else:
        yield from _streamed(images, parts, mean, std, augment, dtype)


def _pass(
    total: int,
    batch_size: int,
    seed: int | None,
    epoch: int,
    device: torch.device,
    rank: int,
    world_size: int,
    start: int,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    for begin in range(start, total, batch_size):
        first, last = share(begin, min(begin + batch_size, total), rank, world_size)
        if seed is None:
            yield torch.arange(first, last, device=device), None
        else:
            yield stream_slice(total, seed, epoch * total + first, epoch * total + last, device)


def _streamed(
    images: StreamedSet,
    parts: Iterator[tuple[Tensor, Tensor | None]],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: Augment | None,
    dtype: torch.dtype,
) -> Iterator[Batch]:
    device = images.device
    for pixels, index, draws in images.read(parts):
        position = torch.arange(len(index), device=device)
        moved = None if draws is None else draws.to(device)
        x = gather(pixels.to(device, non_blocking=True), position, mean, std, augment, moved, dtype)
        yield x, images.labels[index].to(device), index.to(device)


def _check(total: int, batch_size: int) -> None:
    if total < 1:
        raise InputError("the set has no image (N = 0), so it has no batch: choose other data")
    if batch_size < 1:
        raise InputError(f"batch_size (={batch_size}) must be at least 1")
