"""Linear algebra of small covariance matrices: checks, roots, inverses. All in float64."""

import math
import string
from typing import Any

import torch
from torch import Tensor

from convprior.errors import InputError

# An eigenvalue (or sum) below this share of the largest is zero up to float64 rounding.
ROUNDING = 1e-12


# Matrices of (taps, taps) float64 numbers end here, at 128 MiB each: a kernel of 64x64.
_MOST_TAPS = 4096

# A smallest variance below this share of the largest: sums of precisions would overflow.
_LEAST_SHARE = 1e-250


def as_float64(values: Any, name: str) -> Tensor:
    """A tensor, array or nested sequence of real numbers, as a tensor on the CPU.

    Raises:
        InputError: it is none of these.
    """
    try:
        if not isinstance(values, Tensor):
            values = torch.as_tensor(values, dtype=torch.float64)
        if values.is_complex() or values.is_meta:
            raise TypeError(f"{values.dtype} on {values.device}")
        numbers: Tensor = values.detach().to("cpu", torch.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(
            f"{name} is no tensor of real numbers ({error}); give one, or nested lists"
        ) from error
    return numbers


def unit_mean(variance: Tensor) -> Tensor:
    """``variance / mean``, without overflow on the way.

    Raises:
        InputError: a variance is not finite and > 0, or next to nothing beside the largest.
    """
    wrong = variance[~(torch.isfinite(variance) & (variance > 0))]
    if len(wrong):
        raise InputError(f"a tap variance is {float(wrong[0]):g}; every one must be > 0 and finite")
    least, largest = float(variance.min()), float(variance.max())
    if least / largest < _LEAST_SHARE:
        raise InputError(
            f"the tap variances reach from {least:g} to {largest:g}, too far for float64; give a "
            f"smallest one of at least {_LEAST_SHARE:g} of the largest"
        )
    if not 1e-100 < largest < 1e100:  # elsewhere it would only change the last bit
        variance = variance / largest
    return variance / variance.mean()


def check_taps(taps: int) -> None:
    """Refuses kernels whose (taps, taps) matrices would not be small.

    Raises:
        InputError: more than 4096 taps.
    """
    if taps > _MOST_TAPS:
        raise InputError(
            f"{taps} taps need a {taps} x {taps} matrix and the limit is {_MOST_TAPS} taps; give a "
            "smaller kernel size, or keep to uncorrelated taps such as FilterPrior.locality, "
            "which draw and penalize without a matrix"
        )


def check_correlation(correlation: Tensor, taps: int) -> None:
    """Accepts a symmetric, positive semi-definite (taps, taps) matrix with unit diagonal.

    Raises:
        InputError: it is not one; the message gives the smallest eigenvalue where that is why.
    """
    if correlation.shape != (taps, taps):
        raise InputError(
            f"correlation has shape {tuple(correlation.shape)}; {taps} taps need ({taps}, {taps})"
        )
    unit = torch.allclose(correlation.diagonal(), correlation.new_ones(taps), rtol=1e-9)
    if not unit or not torch.allclose(correlation, correlation.T, atol=1e-12):
        raise InputError("correlation must be symmetric with ones on its diagonal; rescale it")
    least = float(torch.linalg.eigvalsh(correlation)[0])
    if least < -ROUNDING * taps:
        raise InputError(
            f"correlation is not positive semi-definite: its smallest eigenvalue is {least:.3g}; "
            "add a share of the identity"
        )


def split_covariance(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The variances (taps,) and the correlation (taps, taps) of a covariance matrix."""
    variance = covariance.diagonal().clone()
    correlation = covariance / torch.outer(variance.sqrt(), variance.sqrt())
    correlation = (correlation + correlation.T) / 2
    correlation.fill_diagonal_(1.0)
    return variance, correlation


def symmetric_root(covariance: Tensor) -> Tensor:
    """The positive semi-definite ``S`` with ``S S = covariance``; singular matrices too.

    Unlike eigenvectors or a pivoted factor it is unique, so draws do not depend on the library
    that computed it.
    """
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T
    return root


def range_inverse(covariance: Tensor, rank: int) -> Tensor:
    """The Moore-Penrose inverse of a positive semi-definite matrix of known rank."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = vectors[:, len(values) - rank :]
    inverse: Tensor = (kept / values[len(values) - rank :]) @ kept.T
    return inverse


def axis_factors(covariance: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...] | None:
    """The matrices, one an axis, whose Kronecker product is ``covariance``; None without any.

    If ``covariance = A (x) B``, the trace over the taps of ``B`` leaves ``A trace(B)``, so partial
    traces give the only candidates, up to scale, and their product shows whether they are right.

    Args:
        covariance: (taps, taps) with trace = taps, row-major taps.
        sizes: taps along each axis.

    Returns:
        ``(k, k)`` with trace ``k`` for each axis of size ``k``.
    """
    taps = math.prod(sizes)
    whole = covariance.view(*sizes, *sizes)
    letters = string.ascii_letters
    factors = []
    product = covariance.new_ones(1, 1)
    for axis, size in enumerate(sizes):
        rows = letters[: len(sizes)]
        columns = rows[:axis] + letters[len(sizes)] + rows[axis + 1 :]
        partial = torch.einsum(f"{rows}{columns}->{rows[axis]}{columns[axis]}", whole)
        factors.append(partial * (size / taps))
        product = torch.kron(product, factors[-1])
    if float((product - covariance).abs().max()) > ROUNDING * float(covariance.abs().max()):
        return None
    return tuple(factors)


def sum_normalized(covariance: Tensor, name: str) -> Tensor:
    """``covariance / sum of its entries``.

    Raises:
        InputError: the entries sum to about 0.
    """
    total = float(covariance.sum())
    if total <= ROUNDING * float(covariance.abs().sum()):
        raise InputError(
            f"the covariance entries of {name} sum to {total:.3g}, so they cannot be scaled to "
            "sum to 1; use prior.shrink(0.01) or another small share"
        )
    return covariance / total
