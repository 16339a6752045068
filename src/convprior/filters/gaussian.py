"""Linear algebra of small covariance matrices: checks, roots, inverses. All in float64."""

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


def inverse(covariance: Tensor, name: str) -> Tensor:
    """``covariance^-1``.

    Raises:
        InputError: it is singular to rounding; the message gives its smallest eigenvalue.
    """
    eigenvalues = torch.linalg.eigvalsh(covariance)
    if float(eigenvalues[0]) <= ROUNDING * float(eigenvalues[-1]):
        raise InputError(
            f"{name} has no precision: the smallest eigenvalue of its covariance is "
            f"{float(eigenvalues[0]):.3g}; use prior.shrink(0.01) or another small share"
        )
    return torch.cholesky_inverse(torch.linalg.cholesky(covariance))


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
