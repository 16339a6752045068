"""The covariance of a filter's taps and what can be read off it, all in float64.

Its form, ``Sigma = D^(1/2) R D^(1/2)``, separates which taps are large (the variance profile
``D``) from how taps go together (the correlation ``R``).
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from convprior.errors import InputError
from convprior.filters.laws import as_kernel_size
from convprior.filters.prior.gaussian import (
    ROUNDING,
    axis_factors,
    check_correlation,
    range_inverse,
    sum_normalized,
)


class TapCovariance:
    """``Sigma`` over the taps of one filter, ``trace(Sigma) = taps``; it never changes.

    Args:
        variance: tap variances ``D``, of the kernel's shape, all > 0; scaled to mean 1.
        correlation: ``R``, (taps, taps), unit diagonal, positive semi-definite; None means the
            identity.

    Raises:
        InputError: a variance is not > 0, or ``correlation`` is no correlation matrix.

    Source: our choice.
    """

    def __init__(self, variance: Tensor, correlation: Tensor | None = None) -> None:
        variance = variance.detach().to("cpu", torch.float64)
        sizes = as_kernel_size(tuple(variance.shape), "the shape of variance")
        wrong = variance[~(torch.isfinite(variance) & (variance > 0))]
        if len(wrong):
            raise InputError(
                f"a tap variance is {float(wrong[0]):g}; every one must be > 0 and finite"
            )
        taps = variance.numel()
        identity = torch.eye(taps, dtype=torch.float64)
        if correlation is None:
            correlation = identity
        correlation = correlation.detach().to("cpu", torch.float64)
        check_correlation(correlation, taps)
        self._kernel_size = sizes
        self._variance = variance / variance.mean()
        self._correlation = correlation.clone()
        self._diagonal = torch.equal(correlation, identity)
        self._made = f"FilterPrior(kernel_size={sizes})"

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """The kernel's sizes, a pair for 2-d filters."""
        return self._kernel_size

    @property
    def variance(self) -> Tensor:
        """Tap variances ``D``, shape ``kernel_size``, mean 1."""
        return self._variance.clone()

    @property
    def correlation(self) -> Tensor:
        """Tap correlations ``R``, (taps, taps), unit diagonal."""
        return self._correlation.clone()

    @property
    def covariance(self) -> Tensor:
        """``Sigma = D^(1/2) R D^(1/2)``, (taps, taps), row-major taps, trace = taps."""
        covariance = self._correlation * self._deviations()
        covariance.diagonal().copy_(self._variance.flatten())
        return covariance

    @property
    def is_diagonal(self) -> bool:
        """Whether the taps are uncorrelated, that is, ``R`` is the identity."""
        return self._diagonal

    @property
    def factors(self) -> tuple[Tensor, ...] | None:
        """The ``(k, k)`` covariances of the axes whose Kronecker product is ``Sigma``.

        Each has trace ``k``. None when ``Sigma`` is not such a product, up to rounding.
        """
        return axis_factors(self.covariance, self._kernel_size)

    @property
    def rank(self) -> int:
        """Dimensions in which filters can lie: the rank of ``R``, which is that of ``Sigma``.

        An eigenvalue of ``R`` below 1e-12 of the largest counts as 0. ``R`` decides because it
        does not change when taps are scaled.
        """
        return int((self._eigenvalues > ROUNDING * self._eigenvalues[-1]).sum())

    @property
    def is_singular(self) -> bool:
        """Whether some direction has variance 0, so that there is no density and no precision."""
        return self.rank < len(self._eigenvalues)

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue of ``Sigma``; ``inf`` when singular."""
        if self.is_singular:
            return math.inf
        if self._diagonal:
            return float(self._variance.max() / self._variance.min())
        # The smallest eigenvalue is more exact as the inverse's largest.
        largest = torch.linalg.eigvalsh(self.covariance)[-1]
        return float(largest * torch.linalg.eigvalsh(self.precision)[-1])

    @property
    def precision(self) -> Tensor:
        """``Sigma^-1 = D^(-1/2) R^-1 D^(-1/2)``, (taps, taps).

        Raises:
            InputError: ``Sigma`` is singular; the message gives the smallest eigenvalue of ``R``.
        """
        if self._diagonal:
            return torch.diag(1.0 / self._variance.flatten())
        if self.is_singular:
            raise InputError(
                f"{self._made} has no precision: it is singular, rank {self.rank} of "
                f"{len(self._eigenvalues)}, and the smallest eigenvalue of its correlation is "
                f"{float(self._eigenvalues[0]):.3g}; use prior.shrink(0.01) or another small "
                "share, or ask for its subspace"
            )
        root: Tensor = torch.linalg.cholesky(self._correlation)
        return torch.cholesky_inverse(root) / self._deviations()

    def subspace_precision(self) -> Tensor:
        """The Moore-Penrose inverse of ``Sigma``: its precision on the filters it can draw.

        ``Sigma^+ = sum of v v' / lambda`` over the ``rank`` eigenvectors ``v`` of largest
        eigenvalue; 0 on the directions without variance. Equals :attr:`precision` when there is
        one.
        """
        return range_inverse(self.covariance, self.rank) if self.is_singular else self.precision

    def kernel_covariance(self) -> Tensor:
        """``Sigma / (1' Sigma 1)``: entries sum to 1, the form infinite-width kernels use.

        Raises:
            InputError: the entries of ``Sigma`` sum to about 0 (the filters have zero sum), so
                no scale makes the sum 1.
        """
        return sum_normalized(self.covariance, self._made)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TapCovariance):
            return NotImplemented
        same_size = self._kernel_size == other._kernel_size
        return same_size and torch.equal(self.covariance, other.covariance)

    def __hash__(self) -> int:
        return hash((self._kernel_size, tuple(self.covariance.flatten().tolist())))

    def __repr__(self) -> str:
        if not self.is_singular:
            return self._made
        return f"{self._made} (singular: rank {self.rank} of {len(self._eigenvalues)})"

    @cached_property
    def _eigenvalues(self) -> Tensor:
        values: Tensor = torch.linalg.eigvalsh(self._correlation)
        return values

    def _deviations(self) -> Tensor:
        deviation: Tensor = self._variance.flatten().sqrt()
        return deviation[:, None] * deviation

    def _check_size(self, kernel_size: tuple[int, ...], what: str) -> None:
        if kernel_size != self._kernel_size:
            raise InputError(
                f"{what} has kernel size {kernel_size} and the prior {self._kernel_size}; "
                "build a prior of that size"
            )
