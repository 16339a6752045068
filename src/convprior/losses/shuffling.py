"""Weights on the wrong examples: the control that keeps everything but the match."""

import math

import torch
from torch import Tensor

from convprior._random import mix, uniform

# Keeps these random numbers apart from others of the same seed.
_SHUFFLED = 0x5F1E


def shuffled(values: Tensor, counted: Tensor, seed: int, call: Tensor) -> Tensor:
    """The counted values in another order, the others in their places.

    The order is that of hashes of ``seed``, ``call`` and the position in the batch: no generator
    whose state could be lost, nothing that waits for the device, and the same on every process.

    Args:
        values: (n,).
        counted: (n,) bool, which values change places.
        seed: any integer.
        call: 0-d int64, counts the batches.
    """
    position = torch.arange(len(values), device=values.device)
    key = uniform(mix(seed, _SHUFFLED), (call << 32) + position, 1)[:, 0]
    source = key.masked_fill(~counted, math.inf).argsort(stable=True)
    place = (~counted).to(torch.uint8).argsort(stable=True)
    return torch.empty_like(values).scatter(0, place, values[source])
