"""The covariance of a filter's taps and what can be read off it, all in float64.

Its form, ``Sigma = D^(1/2) R D^(1/2)``, separates which taps are large (the variance profile
``D``) from how taps go together (the correlation ``R``).
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from convprior.errors import InputError
from convprior.filters.laws import as_kernel_size
from convprior.filters.prior.gaussian import (
    ROUNDING,
    as_float64,
    axis_factors,
    check_correlation,
    check_taps,
    range_inverse,
    sum_normalized,
    symmetric_root,
    unit_mean,
)


class TapCovariance:
    """``Sigma`` over the taps of one filter, ``trace(Sigma) = taps``; it never changes.

    Args:
        variance: tap variances ``D``, of the kernel's shape, all > 0; scaled to mean 1.
        correlation: ``R``, (taps, taps), unit diagonal, positive semi-definite; None means the
            identity. It and every other (taps, taps) matrix need at most 4096 taps.

    Raises:
        InputError: a variance is not > 0 or vanishes beside the largest, ``correlation`` is no
            correlation matrix, or it has more than 4096 taps.

    Source: our choice.
    """

    def __init__(
        self, variance: Tensor | Sequence[Any], correlation: Tensor | Sequence[Any] | None = None
    ) -> None:
        variance = as_float64(variance, "variance")
        sizes = as_kernel_size(tuple(variance.shape), "the shape of variance")
        self._variance = unit_mean(variance)
        self._kernel_size = sizes
        self._dense: Tensor | None = None  # R where it is not the identity
        if correlation is not None:
            check_taps(variance.numel())
            dense = as_float64(correlation, "correlation")
            check_correlation(dense, variance.numel())
            identity = torch.eye(variance.numel(), dtype=torch.float64)
            self._dense = None if torch.equal(dense, identity) else dense.clone()
        self._made = f"FilterPrior(kernel_size={sizes})"
        self._filters: int | None = None  # how many it was measured from

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
        if self._dense is not None:
            return self._dense.clone()
        check_taps(self._variance.numel())
        return torch.eye(self._variance.numel(), dtype=torch.float64)

    @property
    def covariance(self) -> Tensor:
        """``Sigma = D^(1/2) R D^(1/2)``, (taps, taps), row-major taps, trace = taps."""
        if self._dense is None:
            check_taps(self._variance.numel())
            return torch.diag(self._variance.flatten())
        covariance = self._dense * self._deviations()
        covariance.diagonal().copy_(self._variance.flatten())
        return covariance

    @property
    def is_diagonal(self) -> bool:
        """Whether the taps are uncorrelated, that is, ``R`` is the identity."""
        return self._dense is None

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
        if self._dense is None:
            return self._variance.numel()
        return int((self._eigenvalues > ROUNDING * self._eigenvalues[-1]).sum())

    @property
    def is_singular(self) -> bool:
        """Whether some direction has variance 0, so that there is no density and no precision."""
        return self.rank < self._variance.numel()

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue of ``Sigma``; ``inf`` when singular."""
        if self.is_singular:
            return math.inf
        if self._dense is None:
            return float(self._variance.max() / self._variance.min())
        # The smallest eigenvalue is more exact as the inverse's largest.
        largest = torch.linalg.eigvalsh(self.covariance)[-1]
        return float(largest * torch.linalg.eigvalsh(self.precision)[-1])

    @property
    def precision(self) -> Tensor:
        """``Sigma^-1 = D^(-1/2) R^-1 D^(-1/2)``, (taps, taps).

        Raises:
            InputError: ``Sigma`` is singular; the message gives its rank.
        """
        if self._dense is None:
            check_taps(self._variance.numel())
            return torch.diag(1.0 / self._variance.flatten())
        if self.is_singular:
            raise InputError(self._singular())
        root: Tensor = torch.linalg.cholesky(self._dense)
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
        if self._kernel_size != other._kernel_size or self.is_diagonal != other.is_diagonal:
            return False
        if not torch.equal(self._variance, other._variance):
            return False
        return self.is_diagonal or torch.equal(self.covariance, other.covariance)

    def __hash__(self) -> int:
        return hash((self._kernel_size, tuple(self._variance.flatten().tolist())))

    def __repr__(self) -> str:
        if not self.is_singular:
            return self._made
        return f"{self._made} (singular: rank {self.rank} of {self._variance.numel()})"

    @cached_property
    def _eigenvalues(self) -> Tensor:
        values: Tensor = torch.linalg.eigvalsh(self.correlation)
        return values

    @cached_property
    def _root(self) -> Tensor:
        """``A^(1/2)`` of :meth:`FilterPrior.penalty`; by subspace where there is no precision."""
        precision = self.subspace_precision()
        return symmetric_root(precision * (self.rank / precision.trace()))

    def _singular(self) -> str:
        taps = self._variance.numel()
        fault = f"{self._made} is singular (rank {self.rank} of {taps}), so it has no precision"
        if self._filters is not None and self._filters < taps:
            fix = f"it is measured from {self._filters} filters for {taps} taps; give shrinkage=0.1"
            return f"{fault}: {fix}, or use prior.shrink(0.1) or penalty(w, subspace=True)"
        return f"{fault}; use prior.shrink(0.01), or penalty(w, subspace=True)"

    def _deviations(self) -> Tensor:
        deviation: Tensor = self._variance.flatten().sqrt()
        return deviation[:, None] * deviation

    def _check_size(self, kernel_size: tuple[int, ...], what: str) -> None:
        if kernel_size != self._kernel_size:
            raise InputError(
                f"{what} has kernel size {kernel_size} and the prior {self._kernel_size}; "
                "build a prior of that size"
            )
