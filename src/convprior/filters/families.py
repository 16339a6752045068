"""Correlation families: how alike two taps of one filter are, given the distance between them."""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from convprior.errors import InputError
from convprior.filters.laws import KernelSize, as_kernel_size

Family = Literal["squared_exponential", "matern32", "exponential"]

_FAMILIES: dict[str, Callable[[Tensor], Tensor]] = {
    "squared_exponential": lambda r: torch.exp(-(r**2) / 2.0),
    "matern32": lambda r: (1.0 + math.sqrt(3.0) * r) * torch.exp(-math.sqrt(3.0) * r),
    "exponential": lambda r: torch.exp(-r),
}


def tap_correlation(kernel_size: KernelSize, family: Family, lengthscale: float) -> Tensor:
    r"""Correlation ``R[p, q] = f(|p - q| / lengthscale)`` between the taps of a filter.

    ``squared_exponential``: ``f(r) = exp(-r^2/2)``; ``matern32``:
    ``f(r) = (1 + sqrt(3) r) exp(-sqrt(3) r)``; ``exponential``: ``f(r) = exp(-r)``.

    Args:
        kernel_size: as in :func:`convprior.filters.tap_costs`.
        family: one of the three.
        lengthscale: in taps; 0 means independent taps, ``inf`` all taps equal.

    Returns:
        float64 (taps, taps), row-major taps, unit diagonal.

    Raises:
        InputError: unknown family or negative length scale.

    Source: stationary kernels of the Gaussian-process literature; ``exponential`` is what
    Fortuin et al. (ICLR 2022) fitted to trained filters.
    """
    if not lengthscale >= 0.0:
        raise InputError(f"lengthscale is {lengthscale}; give 0 (independent) to inf, in taps")
    sizes = as_kernel_size(kernel_size)
    axes = [torch.arange(k, dtype=torch.float64) for k in sizes]
    taps = torch.cartesian_prod(*axes).reshape(-1, len(sizes))
    # Not cdist: its expansion of the square would leave distances of 1e-8 on the diagonal.
    distance = (taps[:, None] - taps[None]).square().sum(-1).sqrt()
    correlation = correlation_at(family, distance / (lengthscale or 1.0))
    return torch.eye(len(taps), dtype=torch.float64) if lengthscale == 0.0 else correlation


def correlation_at(family: Family, ratio: Tensor) -> Tensor:
    """``f(ratio)`` of a family, ``ratio`` the distance over the length scale.

    Raises:
        InputError: unknown family.
    """
    if family not in _FAMILIES:
        raise InputError(f"family is {family!r}; choose one of {', '.join(get_args(Family))}")
    return _FAMILIES[family](ratio)
