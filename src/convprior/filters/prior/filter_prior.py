"""FilterPrior: a zero-mean Gaussian over the taps of one convolution filter.

One object draws weights, penalizes them, is measured from a trained network and kept in a file.
Here are the ways to make one; what it does is in its bases.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from convprior.errors import InputError, RunError
from convprior.filters.families import Family, tap_correlation
from convprior.filters.filter_banks import FilterBank, Source
from convprior.filters.laws import Control, KernelSize, Law, as_kernel_size, tap_costs
from convprior.filters.prior.chart import draw
from convprior.filters.prior.covariance import TapCovariance
from convprior.filters.prior.file import StoredPrior, damaged, read_priors, write_priors
from convprior.filters.prior.gaussian import check_taps, split_covariance
from convprior.filters.prior.measure import decreasing_outward, pooled_moments
from convprior.filters.prior.sources import banks_of_one_size, size_of
from convprior.filters.prior.tap_gaussian import TapGaussian
from convprior.filters.prior.text import describe


class FilterPrior(TapGaussian):
    r"""A Gaussian ``N(0, Sigma)`` over the taps of a filter, ``trace(Sigma) = taps``.

    ``Sigma = D^(1/2) R D^(1/2)``: the variance profile ``D`` says which taps are large, the
    correlation ``R`` how taps go together. Make one with :meth:`independent`, :meth:`locality`,
    :meth:`correlated`, :meth:`mean_pool`, :meth:`separable` or :meth:`measured`, another from it
    with :meth:`shrink`, :meth:`product`, :meth:`scaled` or :meth:`uncorrelated`; the constructor
    takes the two parts directly. Taps are row-major in the orientation of ``nn.Conv2d``
    (cross-correlation). Everything is float64 and never changes; two priors are equal if their
    kernel sizes and covariances are, and ``repr`` says when one is singular.

    Args:
        variance: tap variances ``D``, (k_h, k_w) or another kernel's shape, all > 0; a tensor or
            nested lists; scaled to mean 1.
        correlation: ``R``, (taps, taps), unit diagonal, positive semi-definite; None means the
            identity. It and every other (taps, taps) matrix need at most 4096 taps.

    Raises:
        InputError: a variance is not > 0 or vanishes beside the largest, ``correlation`` is no
            correlation matrix (the message gives its smallest eigenvalue), or it has more than
            4096 taps.

    Example:
        >>> prior = FilterPrior.locality(3, floor=0.25)
        >>> prior.variance[1].tolist()  # left edge, center, right edge
        [0.93..., 3.04..., 0.93...]
        >>> print(FilterPrior.mean_pool((1, 3)))
        FilterPrior.mean_pool(kernel_size=(1, 3)) (singular: rank 1 of 3)
          variance          1        1        1
          neighbors  mean correlation 1 along width
          rank       1 of 3, singular: no precision but in its subspace

    Source: our choice; it joins locality (arXiv 1905.10661), the smooth-kernel penalty (Feinman
    and Lake, arXiv 1903.01882) and correlated initialization (arXiv 2003.04422).
    """

    @classmethod
    def independent(cls, kernel_size: KernelSize) -> Self:
        """Independent taps of equal variance: the ordinary initialization, plain L2."""
        sizes = as_kernel_size(kernel_size)
        return cls(torch.ones(sizes))._named(f"FilterPrior.independent(kernel_size={sizes})")

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
        Arguments as in :func:`tap_costs`, but ``floor`` > 0 where the law lets a tap go free.

        Raises:
            InputError: a tap is free, so its variance would be infinite.
        """
        costs = tap_costs(kernel_size, law, floor, parameter=parameter, control=control, seed=seed)
        if bool((costs == 0).any()):
            raise InputError(
                f"floor is {floor}, which leaves a tap free: its variance is infinite; "
                "give floor > 0"
            )
        extra = "" if parameter is None else f", parameter={parameter}"
        extra += "" if control is None else f", control={control!r}"
        extra += "" if control != "permuted" else f", seed={seed}"
        size = tuple(costs.shape)
        name = f"FilterPrior.locality(kernel_size={size}, law={law!r}, floor={floor}{extra})"
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
        check_taps(math.prod(sizes))
        correlation = tap_correlation(sizes, family, lengthscale)
        arguments = f"kernel_size={sizes}, family={family!r}, lengthscale={lengthscale}"
        return cls(torch.ones(sizes), correlation)._named(f"FilterPrior.correlated({arguments})")

    @classmethod
    def mean_pool(cls, kernel_size: KernelSize) -> Self:
        """All taps of a filter equal: the filter averages its window. Singular, rank 1."""
        sizes = as_kernel_size(kernel_size)
        taps = math.prod(sizes)
        check_taps(taps)
        ones = torch.ones(taps, taps, dtype=torch.float64)
        return cls(torch.ones(sizes), ones)._named(f"FilterPrior.mean_pool(kernel_size={sizes})")

    @classmethod
    def separable(cls, *axes: TapCovariance) -> Self:
        """The Kronecker product of 1-d priors: ``Sigma[(i, j), (k, l)] = A[i, k] B[j, l]``.

        Args:
            axes: one to three priors of 1-d kernels, such as ``FilterPrior.locality((5,))``; the
                kernel size is theirs in order.

        Raises:
            InputError: a prior is not 1-d, or there are none or more than three.

        Example:
            >>> smooth = FilterPrior.correlated((3,))
            >>> len(FilterPrior.separable(smooth, FilterPrior.independent((5,))).factors)
            2
        """
        sizes = tuple(size for axis in axes for size in axis.kernel_size)
        if len(sizes) != len(axes) or not 1 <= len(axes) <= 3:
            given = ", ".join(str(axis.kernel_size) for axis in axes) or "none"
            raise InputError(f"separable got kernel sizes {given}; give one to three 1-d priors")
        variance = torch.ones(1, 1, dtype=torch.float64)
        for axis in axes:
            variance = torch.kron(variance, axis.variance[None])
        correlation = None
        if not all(axis.is_diagonal for axis in axes):
            check_taps(variance.numel())
            correlation = torch.ones(1, 1, dtype=torch.float64)
            for axis in axes:
                correlation = torch.kron(correlation, axis.correlation)
        made = f"FilterPrior.separable({', '.join(axis._made for axis in axes)})"
        return cls(variance.view(sizes), correlation)._named(made)

    @classmethod
    def measured(
        cls,
        source: Source,
        *,
        layer: str | None = None,
        kernel_size: KernelSize | None = None,
        shrinkage: float = 0.0,
        toward: TapCovariance | None = None,
        monotone: bool = False,
    ) -> Self:
        """The raw second moments of existing filters: ``Sigma`` proportional to mean ``w w'``.

        The mean over filters is not taken off, and the scale of the weights does not matter.
        Several layers are pooled: the mean over layers of each one's moments, scaled to trace =
        taps, so that a layer counts the same whatever its width. With fewer filters than taps
        ``Sigma`` is singular, which ``repr`` says; ``shrinkage`` mends it.

        Args:
            source: a convolution, a weight ``(out, in/groups, *kernel_size)``, a network, a state
                dict, or the path of a ``.safetensors`` file or of a run's folder.
            layer: name of one layer of it, its parent's, or a shell pattern; None means all.
            kernel_size: of the layers to pool; needed when they have several sizes beyond 1x1.
            shrinkage: share of ``toward`` mixed in, in [0, 1].
            toward: a prior of that kernel size, which needs ``shrinkage`` > 0; None means
                :meth:`independent`.
            monotone: make the variances equal at equal distance from the center and
                non-increasing outward (pool-adjacent-violators); before shrinking.

        Raises:
            InputError: no convolution, several kernel sizes, a tap that is zero in every
                filter (the message names layer and tap), or ``toward`` without ``shrinkage``.
        """
        check_toward(shrinkage, toward)
        banks = banks_of_one_size(source, layer, kernel_size)
        return cls._of_banks(banks, shrinkage, toward, monotone)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the prior to one safetensors file, atomically and exact to the last bit.

        Raises:
            RunError: the file cannot be written.
        """
        write_priors(Path(path), {"prior": self._stored()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads the only prior of a file; it equals the one saved and has the same ``repr``.

        Raises:
            RunError: the file is absent, damaged or of another kind, or holds several priors.
        """
        stored = read_priors(Path(path))
        if len(stored) > 1:
            names = ", ".join(stored)
            raise RunError(f"{path} holds {len(stored)} priors ({names}); use load_priors")
        return cls._restored(Path(path), *stored.values())

    def chart(self) -> Any:
        """An altair chart: the tap variances as a heat map, beside the correlation matrix.

        ``.save("prior.svg")`` writes it; both need the extra ``lab``.

        Raises:
            MissingExtraError: altair is not installed.
        """
        return draw(self)

    def __str__(self) -> str:
        return describe(self)

    @classmethod
    def _of_banks(
        cls,
        banks: Sequence[FilterBank],
        shrinkage: float,
        toward: TapCovariance | None,
        monotone: bool,
    ) -> Self:
        sizes = size_of(banks[0])
        variance, correlation = split_covariance(pooled_moments(banks))
        variance = variance.view(sizes)
        if monotone:
            variance = decreasing_outward(variance)
        filters = sum(bank.weight.shape[:2].numel() for bank in banks)
        counts = f"layers={len(banks)}, filters={filters}"
        extra = ", monotone=True" if monotone else ""
        made = f"FilterPrior.measured(kernel_size={sizes}, {counts}{extra})"
        prior = cls(variance, correlation)._named(made)
        prior._filters = filters
        return prior.shrink(shrinkage, toward) if shrinkage else prior

    def _stored(self) -> StoredPrior:
        return StoredPrior(self._variance, self.correlation, self._made)

    @classmethod
    def _restored(cls, path: Path, stored: StoredPrior) -> Self:
        try:
            prior = cls(stored.variance, stored.correlation)
        except InputError as error:
            raise damaged(path, str(error)) from error
        if abs(float(stored.variance.mean()) - 1.0) > 1e-9:
            raise damaged(path, "the variances do not have mean 1")
        prior._variance = stored.variance  # dividing by the mean again may change the last bit
        return prior._named(stored.made)


def check_toward(shrinkage: float, toward: TapCovariance | None) -> None:
    """Refuses a prior to shrink toward by nothing.

    Raises:
        InputError: ``toward`` is given and ``shrinkage`` is 0.
    """
    if toward is not None and shrinkage == 0:
        raise InputError("toward is given and shrinkage is 0, so it has no effect; give > 0")
