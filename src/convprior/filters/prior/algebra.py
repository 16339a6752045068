"""Covariances made from others: mixtures, products, rescaled taps."""

from typing import Self

import torch
from torch import Tensor

from convprior.errors import InputError
from convprior.filters.prior.covariance import TapCovariance
from convprior.filters.prior.gaussian import as_float64, split_covariance


class TapAlgebra(TapCovariance):
    """A covariance that others can be made from; arguments as in :class:`TapCovariance`."""

    def shrink(self, amount: float, toward: TapCovariance | None = None) -> Self:
        """Returns the prior ``(1 - amount) Sigma + amount T``: an explicit jitter, or a mixture.

        Args:
            amount: in [0, 1]; 1 gives ``toward``.
            toward: the prior whose covariance is ``T``; None means independent taps.

        Raises:
            InputError: ``amount`` is outside [0, 1], or ``toward`` has another kernel size.
        """
        if not 0.0 <= amount <= 1.0:
            raise InputError(f"shrinkage is {amount}; give 0 to 1")
        other = "" if toward is None else f", toward={toward._made}"
        toward = TapCovariance(torch.ones(self._kernel_size)) if toward is None else toward
        self._check_size(toward.kernel_size, "the prior to shrink toward")
        if self.is_diagonal and toward.is_diagonal:
            shrunk = type(self)((1.0 - amount) * self._variance + amount * toward._variance)
        else:
            mixed = (1.0 - amount) * self.covariance + amount * toward.covariance
            variance, correlation = split_covariance(mixed)
            shrunk = type(self)(variance.view(self._kernel_size), correlation)
        return shrunk._named(f"{self._made}.shrink({amount}{other})")

    def product(self, other: TapCovariance) -> Self:
        """The elementwise (Schur) product of two covariances, also written ``self * other``.

        Variances and correlations multiply. The mean pool, all ones, changes nothing; uncorrelated
        taps stay so: use :meth:`scaled` to give correlated taps a locality profile.

        Raises:
            InputError: ``other`` has another kernel size.
        """
        self._check_size(other.kernel_size, "the other prior")
        diagonal = self.is_diagonal or other.is_diagonal
        correlation = None if diagonal else self.correlation * other.correlation
        made = f"{self._made}.product({other._made})"
        return type(self)(self.variance * other.variance, correlation)._named(made)

    def __mul__(self, other: object) -> Self:
        return self.product(other) if isinstance(other, TapCovariance) else NotImplemented

    def scaled(self, profile: Tensor | TapCovariance) -> Self:
        """``S Sigma S`` with ``S = diag(profile)``: the correlation stays, taps grow or shrink.

        Args:
            profile: factors > 0 of the kernel's shape, or a prior whose tap deviations
                ``sqrt(variance)`` are the factors.

        Raises:
            InputError: another shape, or a factor that is not > 0.

        Example:
            >>> from convprior.filters import FilterPrior
            >>> central = FilterPrior.correlated(3).scaled(FilterPrior.locality(3))
            >>> torch.allclose(central.variance, FilterPrior.locality(3).variance)
            True
        """
        made = profile._made if isinstance(profile, TapCovariance) else "..."
        if isinstance(profile, TapCovariance):
            profile = profile.variance.sqrt()
        profile = as_float64(profile, "the profile")
        self._check_size(tuple(profile.shape), "the profile")
        wrong = profile[~(torch.isfinite(profile) & (profile > 0))]
        if len(wrong):
            raise InputError(
                f"a factor of the profile is {float(wrong[0]):g}; give finite ones > 0"
            )
        scaled = type(self)(self.variance * (profile / profile.max()).square(), self._dense)
        return scaled._named(f"{self._made}.scaled({made})")

    def uncorrelated(self) -> Self:
        """The same variances without correlation: what a per-tap weight decay sees."""
        return type(self)(self.variance)._named(f"{self._made}.uncorrelated()")

    def _named(self, made: str) -> Self:
        self._made = made
        return self
