"""Spearman's correlation of the size of weights with their distance from the center."""

import torch
from torch import Tensor

from convprior.filters.taps.regions import tap_rings

_BITS = 12
"""Kept of a magnitude's mantissa: 13 significant bits with the leading one."""
_RANGE = 24
"""Powers of two below the largest magnitude that are told apart; smaller ones tie with zero."""


def distance_correlation(weight: Tensor) -> float | None:
    r"""Spearman's rank correlation of ``|w|`` with the distance of its tap, over all weights.

    With mean ranks for ties. Distances take few values, so what is needed of the magnitudes is
    the sum of their ranks on each ring of equal distance, and a histogram gives it without
    sorting: magnitudes are cut to 13 significant bits first, which moves the coefficient by less
    than 1e-4, or by a rank or two where there are but a few hundred weights.

    Args:
        weight: (filters, channels, *kernel_size), finite.

    Returns:
        A number in [-1, 1]: negative where weights shrink outward; None where all distances or
        all magnitudes are equal.

    Source: Spearman (1904); the histogram is ours.
    """
    ring, taps = tap_rings(tuple(weight.shape[2:]))
    wide = weight.dtype == torch.float64
    mantissa, layout = (52, torch.int64) if wide else (23, torch.int32)
    magnitude = weight.abs() if wide else weight.to(torch.float32).abs()
    # The bits of a non-negative float grow with its value: exponent first, then mantissa.
    key = magnitude.contiguous().view(layout) >> (mantissa - _BITS)
    bins = (_RANGE << _BITS) + 1
    key = key.sub_(int(key.max()) - bins + 1).clamp_(min=0)
    key = key.mul_(len(taps)).view(-1, len(ring)).add_(ring.to(key))
    counts = torch.bincount(key.flatten(), minlength=bins * len(taps)).view(bins, -1)

    total = key.numel()
    by_size, by_ring = counts.sum(1).double(), counts.sum(0).double()
    size_rank, ring_rank = (c.cumsum(0) - (c - 1) / 2 - (total + 1) / 2 for c in (by_size, by_ring))
    covariance = float(size_rank @ counts.double() @ ring_rank)
    spread = float((by_size * size_rank**2).sum() * (by_ring * ring_rank**2).sum()) ** 0.5
    return covariance / spread if spread > 0 else None
