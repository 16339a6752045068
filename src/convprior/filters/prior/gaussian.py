"""Linear algebra of small covariance matrices: checks, roots, inverses. All in float64."""

import math
import string

import torch
from torch import Tensor

from convprior.errors import InputError

# An eigenvalue (or sum) below this share of the largest is zero up to float64 rounding.
ROUNDING = 1e-12


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
