"""How fast a correlation falls with distance: the curve, and one length scale that sums it up."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from convprior.errors import InputError
from convprior.filters.families import Family, correlation_at
from convprior.filters.laws import KernelSize, as_kernel_size

# Decimal logarithms of the scales tried, in taps. The ends stand for 0 and infinity: at 1e-2 a
# neighbor's correlation is below 1e-43, at 1e4 that of any two taps of a window is 1 to 3 digits.
_FIRST, _LAST, _TRIES, _ZOOMS = -2.0, 4.0, 301, 5
_END = 0.01


@dataclass(frozen=True)
class LengthscaleFit:
    """The least-squares fit of one correlation family; see :func:`fit_lengthscale`."""

    family: Family
    lengthscale: float
    """In taps; 0: nothing is correlated, ``inf``: everything is alike."""
    error: float
    """Root mean square of what the fit leaves, in units of correlation."""


def correlation_by_distance(
    correlation: Tensor, kernel_size: KernelSize
) -> list[tuple[float, float]]:
    """Mean correlation at each distance between two taps.

    Args:
        correlation: (taps, taps), row-major taps.
        kernel_size: as in :func:`convprior.filters.tap_costs`.

    Returns:
        (distance in taps, mean over the displacements of that length), nearest first, from 0.

    Raises:
        InputError: the sizes do not fit.

    Source: our choice; an empirical correlogram.
    """
    distance, value = _displacements(correlation, kernel_size)
    rings, ring = torch.unique(distance, return_inverse=True)
    means = [float(value[ring == i].mean()) for i in range(len(rings))]
    return list(zip(rings.sqrt().tolist(), means, strict=True))


def fit_lengthscale(
    correlation: Tensor, kernel_size: KernelSize, family: Family = "exponential"
) -> LengthscaleFit:
    """The length scale ``l`` whose ``f(d / l)`` is nearest to a correlation, by least squares.

    Every displacement between two taps counts once, whatever the number of tap pairs that have
    it; displacement 0 does not count.

    Args:
        correlation: (taps, taps), row-major taps, of a window or of filters.
        kernel_size: as in :func:`convprior.filters.tap_costs`, more than one tap.
        family: as in :func:`convprior.filters.tap_correlation`.

    Returns:
        The scale in taps and what it leaves.

    Raises:
        InputError: the sizes do not fit, or there is one tap only.

    Example:
        >>> from convprior.filters import tap_correlation
        >>> round(fit_lengthscale(tap_correlation(3, "exponential", 1.5), 3).lengthscale, 6)
        1.5

    Source: our choice.
    """
    squared, value = _displacements(correlation, kernel_size)
    distance, value = squared[squared > 0].sqrt(), value[squared > 0]
    if not len(distance):
        raise InputError("one tap has no neighbor and no length scale; give a larger kernel_size")
    low, high = _FIRST, _LAST
    for _ in range(_ZOOMS):
        tries = torch.linspace(low, high, _TRIES, dtype=torch.float64)
        left = correlation_at(family, distance / 10.0 ** tries[:, None]) - value
        best = int(left.square().sum(1).argmin())
        low, high = float(tries[max(best - 1, 0)]), float(tries[min(best + 1, _TRIES - 1)])
    error = float(left[best].square().mean().sqrt())
    scale = float(tries[best])
    if scale <= _FIRST + _END:
        return LengthscaleFit(family, 0.0, error)
    return LengthscaleFit(family, math.inf if scale >= _LAST - _END else 10.0**scale, error)


def _displacements(correlation: Tensor, kernel_size: KernelSize) -> tuple[Tensor, Tensor]:
    """Squared length and mean correlation of each displacement between taps."""
    sizes = as_kernel_size(kernel_size)
    taps = list(itertools.product(*(range(k) for k in sizes)))
    if correlation.shape != (len(taps), len(taps)):
        raise InputError(
            f"correlation has shape {tuple(correlation.shape)}; kernel size {sizes} needs "
            f"({len(taps)}, {len(taps)})"
        )
    values: dict[tuple[int, ...], list[float]] = {}
    rows = correlation.detach().double().tolist()
    for (i, p), (j, q) in itertools.product(enumerate(taps), enumerate(taps)):
        values.setdefault(tuple(b - a for a, b in zip(p, q, strict=True)), []).append(rows[i][j])
    squared = [float(sum(s * s for s in step)) for step in values]
    means = [sum(found) / len(found) for found in values.values()]
    return torch.tensor(squared).double(), torch.tensor(means, dtype=torch.float64)
