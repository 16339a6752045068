"""The order of samples and their random numbers: pure functions of (seed, epoch, sample)."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from convprior._random import mix, uniform
from convprior.lab.data.augment import DRAWS

# Constants that keep the random numbers of different purposes apart.
_ORDER, _AUGMENT = 0x0D, 0xA6


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Returns the permutation of ``count`` samples that an epoch runs through, (count,) int64."""
    generator = torch.Generator().manual_seed(mix(seed, _ORDER, epoch))
    return torch.randperm(count, generator=generator)


@lru_cache(maxsize=4)
def epoch_plan(count: int, seed: int, epoch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the order of an epoch and the uniform numbers (count, DRAWS) in that order.

    Both are made once an epoch, so that a batch costs two slices.
    """
    order = epoch_order(count, seed, epoch).to(device)
    return order, uniform(mix(seed, _AUGMENT, epoch), order, DRAWS)


def segments(first: int, last: int, count: int) -> Iterator[tuple[int, int, int]]:
    """Cuts samples [first, last) of the endless stream of epochs into (epoch, begin, end)."""
    while first < last:
        epoch, begin = divmod(first, count)
        end = min(count, begin + last - first)
        yield epoch, begin, end
        first += end - begin


def share(first: int, last: int, rank: int, world_size: int) -> tuple[int, int]:
    """Returns the contiguous part of [first, last) that belongs to one of several processes."""
    length = last - first
    return first + length * rank // world_size, first + length * (rank + 1) // world_size


def stream_slice(
    count: int, seed: int, first: int, last: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Returns index (n,) and draws (n, DRAWS) of samples [first, last) of the endless stream."""
    pieces = []
    for epoch, begin, end in segments(first, last, count):
        order, draws = epoch_plan(count, seed, epoch, device)
        pieces.append((order[begin:end], draws[begin:end]))
    if len(pieces) == 1:
        return pieces[0]
    if not pieces:
        empty = torch.empty(0, dtype=torch.int64, device=device)
        return empty, torch.empty(0, DRAWS, device=device)
    return torch.cat([piece[0] for piece in pieces]), torch.cat([piece[1] for piece in pieces])
