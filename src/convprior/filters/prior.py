"""FilterPrior: a zero-mean Gaussian over the taps of one convolution filter.

One object draws weights, penalizes them, and is measured from a trained network. Its form,
``Sigma = D^(1/2) R D^(1/2)``, separates which taps are large (the variance profile ``D``) from
how taps go together (the correlation ``R``).
"""

import math
from typing import Self

import torch
from torch import Generator, Tensor
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from convprior.errors import InputError
from convprior.filters.families import Family, tap_correlation
from convprior.filters.gaussian import (
    check_correlation,
    inverse,
    split_covariance,
    sum_normalized,
    symmetric_root,
)
from convprior.filters.laws import Control, KernelSize, Law, as_kernel_size, tap_costs
from convprior.filters.measure import decreasing_outward, second_moments


class FilterPrior:
    r"""A Gaussian ``N(0, Sigma)`` over the taps of a filter, ``trace(Sigma) = taps``.

    Build one with :meth:`independent`, :meth:`locality`, :meth:`correlated`, :meth:`mean_pool` or
    :meth:`measured`; the constructor takes the two parts directly. Taps are row-major in the
    orientation of ``nn.Conv2d`` (cross-correlation). Everything is float64 and never changes.

    Args:
        variance: tap variances ``D``, (k_h, k_w) or another kernel's shape, all > 0; scaled to
            mean 1.
        correlation: ``R``, (taps, taps), unit diagonal, positive semi-definite; None means the
            identity.

    Raises:
        InputError: a variance is not > 0, or ``correlation`` is no correlation matrix (the
            message gives its smallest eigenvalue).

    Example:
        >>> prior = FilterPrior.locality(3, floor=0.25)
        >>> prior.variance[1].tolist()  # left edge, center, right edge
        [0.93..., 3.04..., 0.93...]

    Source: our choice; it joins locality (arXiv 1905.10661), the smooth-kernel penalty (Feinman
    and Lake, arXiv 1903.01882) and correlated initialization (arXiv 2003.04422).
    """

    def __init__(self, variance: Tensor, correlation: Tensor | None = None) -> None:
        variance = variance.detach().to("cpu", torch.float64)
        sizes = as_kernel_size(tuple(variance.shape), "the shape of variance")
        if not bool((torch.isfinite(variance) & (variance > 0)).all()):
            least = float(variance.min())
            raise InputError(f"the smallest tap variance is {least:g}; every one must be > 0")
        taps = variance.numel()
        identity = torch.eye(taps, dtype=torch.float64)
        if correlation is None:
            correlation = identity
        correlation = correlation.detach().to("cpu", torch.float64)
        check_correlation(correlation, taps)
        self._kernel_size = sizes
        self._variance = variance / variance.mean()
        self._correlation = correlation
        self._diagonal = torch.equal(correlation, identity)
        self._made = f"FilterPrior(kernel_size={sizes})"

    @classmethod
    def independent(cls, kernel_size: KernelSize) -> Self:
        """Independent taps of equal variance: the ordinary initialization, plain L2."""
        sizes = as_kernel_size(kernel_size)
        return cls(torch.ones(sizes))._named(f"independent(kernel_size={sizes})")

    @classmethod
    def locality(
        cls,
        kernel_size: KernelSize,
        law: Law = "quadratic",
        floor: float = 0.25,
        *,
        parameter: float | None = None,
        control: Control | None = None,
        seed: int = 0,
    ) -> Self:
        """Independent taps of variance ``1 / c``, ``c`` the costs of :func:`tap_costs`.

        Under it, the penalty ``strength * sum c w^2`` is minus the log density, up to scale.

        Args:
            kernel_size: as in :func:`tap_costs`.
            law: as in :func:`tap_costs`.
            floor: as in :func:`tap_costs`, but > 0 where the law lets a tap go free.
            parameter: as in :func:`tap_costs`.
            control: as in :func:`tap_costs`.
            seed: as in :func:`tap_costs`.

        Raises:
            InputError: a tap is free, so its variance would be infinite.
        """
        costs = tap_costs(kernel_size, law, floor, parameter=parameter, control=control, seed=seed)
        if bool((costs == 0).any()):
            raise InputError(
                f"floor is {floor}, which leaves a tap free: its variance is infinite; "
                "give floor > 0"
            )
        extra = "" if control is None else f", control={control!r}"
        if parameter is not None:
            extra = f", parameter={parameter}{extra}"
        name = f"locality(kernel_size={tuple(costs.shape)}, law={law!r}, floor={floor}{extra})"
        return cls(1.0 / costs)._named(name)

    @classmethod
    def correlated(
        cls, kernel_size: KernelSize, family: Family = "squared_exponential", lengthscale: float = 1
    ) -> Self:
        """Equal variances and the correlation of :func:`tap_correlation`: smooth filters.

        ``lengthscale`` is in taps; 0 equals :meth:`independent`, ``inf`` equals :meth:`mean_pool`.

        Raises:
            InputError: unknown family or negative length scale.
        """
        sizes = as_kernel_size(kernel_size)
        correlation = tap_correlation(sizes, family, lengthscale)
        name = f"correlated(kernel_size={sizes}, family={family!r}, lengthscale={lengthscale})"
        return cls(torch.ones(sizes), correlation)._named(name)

    @classmethod
    def mean_pool(cls, kernel_size: KernelSize) -> Self:
        """All taps of a filter equal: the filter averages its window. Singular."""
        sizes = as_kernel_size(kernel_size)
        taps = math.prod(sizes)
        ones = torch.ones(taps, taps, dtype=torch.float64)
        return cls(torch.ones(sizes), ones)._named(f"mean_pool(kernel_size={sizes})")

    @classmethod
    def measured(
        cls,
        source: _ConvNd | Tensor,
        *,
        shrinkage: float = 0.0,
        monotone: bool = False,
    ) -> Self:
        """The raw second moments of existing filters: ``Sigma`` proportional to mean ``w w'``.

        The mean over filters is not taken off, and the scale of the weights does not matter.

        Args:
            source: a convolution, or its weight ``(out, in/groups, *kernel_size)``.
            shrinkage: share of the independent prior mixed in, in [0, 1]; needed for a precision
                when there are fewer filters than taps.
            monotone: make the variances equal at equal distance from the center and
                non-increasing outward (pool-adjacent-violators).

        Raises:
            InputError: a tap is zero in every filter (the message names layer and tap), or the
                weight has no kernel axes.
        """
        moments, sizes = second_moments(source)
        variance, correlation = split_covariance(moments)
        variance = variance.view(sizes)
        if monotone:
            variance = decreasing_outward(variance)
        prior = cls(variance, correlation)
        if shrinkage:
            prior = prior.shrink(shrinkage)
        return prior._named(f"measured(kernel_size={sizes})")

    def shrink(self, amount: float) -> Self:
        """Returns the prior ``(1 - amount) Sigma + amount I``: an explicit jitter.

        Args:
            amount: in [0, 1]; 1 gives :meth:`independent`.

        Raises:
            InputError: ``amount`` is outside [0, 1].
        """
        if not 0.0 <= amount <= 1.0:
            raise InputError(f"shrinkage is {amount}; give 0 to 1")
        identity = torch.eye(self._variance.numel(), dtype=torch.float64)
        variance, correlation = split_covariance(
            (1.0 - amount) * self.covariance + amount * identity
        )
        shrunk = type(self)(variance.view(self._kernel_size), correlation)
        return shrunk._named(f"{self._made.removeprefix('FilterPrior.')}.shrink({amount})")

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """The kernel's sizes, a pair for 2-d filters."""
        return self._kernel_size

    @property
    def is_diagonal(self) -> bool:
        """Whether the taps are uncorrelated, that is, ``R`` is the identity."""
        return self._diagonal

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
        deviation = self._variance.flatten().sqrt()
        covariance = self._correlation * torch.outer(deviation, deviation)
        covariance.diagonal().copy_(self._variance.flatten())
        return covariance

    @property
    def precision(self) -> Tensor:
        """``Sigma^-1``, (taps, taps).

        Raises:
            InputError: ``Sigma`` is singular; the message gives its smallest eigenvalue.
        """
        if self._diagonal:
            return torch.diag(1.0 / self._variance.flatten())
        return inverse(self.covariance, repr(self))

    def kernel_covariance(self) -> Tensor:
        """``Sigma / (1' Sigma 1)``: entries sum to 1, the form infinite-width kernels use.

        Raises:
            InputError: the entries of ``Sigma`` sum to about 0 (the filters have zero sum), so
                no scale makes the sum 1.
        """
        return sum_normalized(self.covariance, repr(self))

    def sample(
        self,
        out_channels: int,
        in_channels: int,
        generator: Generator | None = None,
        *,
        gain: float = math.sqrt(2.0),
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draws weights ``w_f ~ N(0, Sigma gain^2 / fan_in)``, ``fan_in = in_channels * taps``.

        The expected squared norm is that of the usual independent draw with the same gain.

        Args:
            out_channels: filters to draw.
            in_channels: channels each filter sees (input channels / groups).
            generator: source of the normal numbers; None is PyTorch's global one.
            gain: ``sqrt(2)`` keeps the scale through ReLU (He et al., 2015).
            dtype: of the result; half types are drawn in float32.

        Returns:
            ``(out_channels, in_channels, *kernel_size)`` on the generator's device.
        """
        taps = self._variance.numel()
        drawn = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        device = generator.device if generator is not None else torch.device("cpu")
        size = (out_channels, in_channels, *self._kernel_size)
        normal = torch.randn(size, generator=generator, dtype=drawn, device=device)
        scale = gain / math.sqrt(in_channels * taps)
        if self._diagonal:
            weight = normal * (self._variance.sqrt() * scale).to(normal)
        else:
            root = symmetric_root(self.covariance) * scale
            weight = (normal.view(-1, taps) @ root.to(normal)).view(size)
        return weight.to(dtype)

    @torch.no_grad()
    def init_(
        self,
        module: _ConvNd,
        generator: Generator | None = None,
        *,
        gain: float = math.sqrt(2.0),
    ) -> _ConvNd:
        """Draws the weight of a convolution in place; dtype, device and memory format stay.

        Dense, grouped, depthwise and transposed alike: ``fan_in = in_channels/groups * taps``.
        The bias is left alone.

        Args:
            module: ``nn.Conv1d`` to ``nn.Conv3d`` or a transposed one.
            generator: as in :meth:`sample`.
            gain: as in :meth:`sample`.

        Returns:
            ``module``.

        Raises:
            InputError: not a convolution, another kernel size, or a parametrized weight.
        """
        if not isinstance(module, _ConvNd):
            raise InputError(f"{type(module).__name__} is no convolution; init_ draws only those")
        if is_parametrized(module, "weight") or "weight" not in module._parameters:
            raise InputError(f"the weight of {module} is parametrized; draw before parametrizing")
        self._check_size(tuple(module.kernel_size), str(module))
        weight = module.weight
        filters = weight.shape[0] * weight.shape[1]
        fan_channels = module.in_channels // module.groups
        # Drawn as (all filters, 1): a transposed weight has its input channels first.
        draw = self.sample(
            filters, 1, generator, gain=gain / math.sqrt(fan_channels), dtype=weight.dtype
        )
        weight.copy_(draw.view(weight.shape))
        return module

    def penalty(self, weight: Tensor) -> Tensor:
        """``sum over filters of w_f' A w_f``, ``A = Sigma^-1`` scaled to ``trace(A) = taps``.

        With uncorrelated taps this is ``sum c w^2`` with ``c`` proportional to ``1 / variance``
        and mean 1, hence comparable with plain L2; multiply it by a strength. With correlated
        taps it is the smooth-kernel penalty (Feinman and Lake, arXiv 1903.01882, who fix the
        determinant instead of the trace).

        Args:
            weight: ``(out, in/groups, *kernel_size)``.

        Returns:
            Scalar, differentiable; half-precision weights are summed in float32.

        Raises:
            InputError: another kernel size, or a singular covariance.
        """
        self._check_size(tuple(weight.shape[2:]), f"a weight of shape {tuple(weight.shape)}")
        taps = self._variance.numel()
        precision = self.precision
        precision = precision * (taps / precision.trace())
        wide = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
        if self._diagonal:
            return (wide.square() * precision.diagonal().view(self._kernel_size).to(wide)).sum()
        with torch.autocast(weight.device.type, enabled=False):
            rows = wide.reshape(-1, taps)
            return (rows @ precision.to(wide) * rows).sum()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FilterPrior):
            return NotImplemented
        same_size = self._kernel_size == other._kernel_size
        return same_size and torch.equal(self.covariance, other.covariance)

    def __hash__(self) -> int:
        return hash((self._kernel_size, tuple(self.covariance.flatten().tolist())))

    def __repr__(self) -> str:
        return self._made

    def _named(self, made: str) -> Self:
        self._made = f"FilterPrior.{made}"
        return self

    def _check_size(self, kernel_size: tuple[int, ...], what: str) -> None:
        if kernel_size != self._kernel_size:
            raise InputError(
                f"{what} has kernel size {kernel_size} and the prior {self._kernel_size}; "
                "build a prior of that size"
            )
