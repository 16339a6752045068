"""Counter-based random numbers: a pure function of integers, the same on every device.

The generator is SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014) applied to a running
combination of the counters. No state exists, so nothing has to be saved, and the number of
workers, their order and the batch a sample falls into change nothing.
"""

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def mix(*counters: int) -> int:
    """Hashes integers to one in ``[0, 2**63)``: a seed for :class:`torch.Generator`."""
    state = 0
    for counter in counters:
        state = _finalize((state ^ (counter & _MASK)) + _GAMMA)
    return state >> 1


def uniform(seed: int, index: Tensor, draws: int) -> Tensor:
    """Uniform numbers in ``[0, 1)`` that depend on ``seed`` and ``index`` alone.

    Args:
        seed: from :func:`mix`.
        index: (n,) int64, which samples.
        draws: numbers wanted for each sample.

    Returns:
        (n, draws) float32 on the device of ``index``.
    """
    counter = torch.arange(draws, device=index.device)
    state = _finalize_tensor(index[:, None] * draws + counter + _signed(seed * _GAMMA))
    state = _finalize_tensor(state + _signed(_GAMMA))
    return _logical_shift(state, 40).to(torch.float32) * 2.0**-24


def random_bytes(seed: int, index: Tensor, draws: int) -> Tensor:
    """Uniform bytes that depend on ``seed`` and ``index`` alone: an eighth of the work.

    Args:
        seed: from :func:`mix`.
        index: (n,) int64, which samples.
        draws: bytes wanted for each sample, a multiple of 8.

    Returns:
        (n, draws) uint8 on the device of ``index``.
    """
    words = draws // 8
    counter = torch.arange(words, device=index.device)
    state = _finalize_tensor(index[:, None] * words + counter + _signed(seed * _GAMMA))
    state = _finalize_tensor(state + _signed(_GAMMA))
    bytes_ = [(state >> shift & 0xFF).to(torch.uint8) for shift in range(0, 64, 8)]
    return torch.stack(bytes_, -1).flatten(1)


def _finalize(state: int) -> int:
    state &= _MASK
    state = ((state ^ (state >> 30)) * _FIRST) & _MASK
    state = ((state ^ (state >> 27)) * _SECOND) & _MASK
    return state ^ (state >> 31)


def _finalize_tensor(state: Tensor) -> Tensor:
    state = (state ^ _logical_shift(state, 30)) * _signed(_FIRST)
    state = (state ^ _logical_shift(state, 27)) * _signed(_SECOND)
    return state ^ _logical_shift(state, 31)


def _logical_shift(state: Tensor, bits: int) -> Tensor:
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value
