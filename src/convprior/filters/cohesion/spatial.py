"""Spatial correlation of maps: how alike two positions of an image or a feature map are."""

import itertools
import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from convprior.errors import InputError
from convprior.filters.laws import KernelSize, as_kernel_size

# Elements of one piece of a batch in float64: keeps it near the cache, or a GPU busy.
_PIECE = {"cpu": 1 << 19, "cuda": 1 << 24}

Step = tuple[int, ...]


class SpatialCorrelation:
    r"""Correlation between the taps of a window, collected over batches of maps.

    For a displacement ``d`` between two taps, the covariance is the mean over channels, images
    and all pairs of positions ``(p, p + d)`` of ``(x_p - m_c) (x_{p+d} - m_c)``, with ``m_c`` the
    mean of channel ``c`` over everything seen. It is a function of ``d`` alone (the maps are
    taken as stationary) and the same for ``d`` and ``-d``. Only pairs inside the map count:
    padding is not seen. A channel counts by its variance. Sums are kept in float64, so batches
    and their order change the result by rounding only.

    Args:
        kernel_size: of the window, as in :func:`convprior.filters.tap_costs`.
        dilation: spacing of its taps.

    Raises:
        InputError: a size or spacing is not a positive int.

    Example:
        >>> seen = SpatialCorrelation(3)
        >>> for seed in range(2):
        ...     noise = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
        ...     _ = seen.update(nn.functional.avg_pool2d(noise, 2, stride=1))
        >>> near = seen.correlation()[0, 1]  # two 2x2 means that share two of four numbers: 0.5
        >>> bool(abs(near - 0.5) < 0.03)
        True

    Source: our choice of estimator; it is the sample covariance of a stationary field.
    """

    def __init__(self, kernel_size: KernelSize, dilation: KernelSize = 1) -> None:
        self.kernel_size = as_kernel_size(kernel_size)
        spacing = (dilation,) * len(self.kernel_size) if isinstance(dilation, int) else dilation
        self.dilation = as_kernel_size(tuple(spacing), "dilation")
        if len(self.dilation) != len(self.kernel_size):
            raise InputError(
                f"dilation {dilation!r} and kernel_size {kernel_size!r} differ in length"
            )
        self.steps = _half_plane(self.kernel_size)
        self.maps = 0
        """Maps seen so far: images, each with all its channels."""
        self._shift = torch.empty(0, dtype=torch.float64)
        self._products = torch.zeros(len(self.steps), dtype=torch.float64)
        self._pairs = torch.zeros(len(self.steps), dtype=torch.float64)
        self._sums = torch.empty(0, dtype=torch.float64)

    @torch.no_grad()
    def update(self, maps: Tensor) -> Self:
        """Adds a batch of maps.

        Args:
            maps: ``(n, C, *sizes)``, any floating or integer type; sizes may differ from batch to
                batch.

        Returns:
            This object.

        Raises:
            InputError: another number of axes or channels, a map smaller than the window, or a
                value that is not finite; nothing is added then.
        """
        self._check(maps)
        maps = maps.detach()
        if maps.device.type not in _PIECE:  # such as mps, which has no float64
            maps = maps.cpu()
        shift = self._shift.to(maps.device)
        if not self.maps:
            # Any number near the mean will do: it keeps a large mean from drowning a variance.
            shift = maps[0].double().flatten(1).mean(1)
        count = max(1, _PIECE[maps.device.type] // maps[0].numel())
        sums, products = torch.zeros((), dtype=torch.float64), torch.zeros_like(self._products)
        for piece in torch.split(maps, count):
            moved = piece.double() - shift.view(-1, *[1] * len(self.kernel_size))
            sums = sums + self._end_sums(moved.sum(0)).cpu()
            products += self._dot_products(moved).cpu()
        if not bool(torch.isfinite(products).all()):
            raise InputError("the maps hold values that are not finite; nothing was added")
        sizes = maps.shape[2:]
        inside = [
            math.prod(n - abs(s) * d for n, s, d in zip(sizes, step, self.dilation, strict=True))
            for step in self.steps
        ]
        self._shift = shift.cpu()
        self._sums = sums if not self.maps else self._sums + sums
        self._products += products
        self._pairs += torch.tensor(inside, dtype=torch.float64) * len(maps)
        self.maps += len(maps)
        return self

    def covariance(self, center: bool = True) -> Tensor:
        """Covariance between the taps; with ``center=False`` the raw second moments.

        Returns:
            float64 (taps, taps), row-major taps, in the squared unit of the maps.

        Raises:
            InputError: no maps were added.
        """
        return self._spread(self._by_step(center))

    def correlation(self, center: bool = True) -> Tensor:
        """The covariance over its value at displacement 0: unit diagonal.

        It is not exactly positive semi-definite, since pairs of different displacement come
        from slightly different positions.

        Returns:
            float64 (taps, taps), row-major taps.

        Raises:
            InputError: no maps were added, or they are constant (all 0 with ``center=False``).
        """
        return self._spread(self._normalized(center))

    def by_displacement(self, center: bool = True) -> dict[Step, float]:
        """Correlation for each displacement in taps, one of every pair ``d``, ``-d``.

        Raises:
            InputError: as :meth:`correlation`.
        """
        return dict(zip(self.steps, self._normalized(center).tolist(), strict=True))

    def _check(self, maps: Tensor) -> None:
        axes = len(self.kernel_size)
        if maps.ndim != axes + 2 or not maps.numel() or maps.is_complex():
            raise InputError(
                f"maps have shape {tuple(maps.shape)}; a window of {axes} axes needs real "
                f"(n, C, {', '.join(['size'] * axes)}), none of them 0"
            )
        if self.maps and maps.shape[1] != len(self._shift):
            raise InputError(
                f"maps have {maps.shape[1]} channels, those before {len(self._shift)}; "
                "use one SpatialCorrelation each"
            )
        need = tuple((k - 1) * d + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))
        if any(n < least for n, least in zip(maps.shape[2:], need, strict=True)):
            raise InputError(
                f"maps of {tuple(maps.shape[2:])} are smaller than the window of {need}, so some "
                "taps have no pair of positions; give larger maps or a smaller kernel_size"
            )

    def _end_sums(self, total: Tensor) -> Tensor:
        """Per channel and step, the sum over all pairs of both ends, ``(C, steps)``."""
        ends = []
        for step in self.steps:
            first, second = self._ends(total, step)
            ends.append((first + second).flatten(1).sum(1))
        return torch.stack(ends, dim=1)

    def _dot_products(self, maps: Tensor) -> Tensor:
        """Per step, the sum over images, channels and pairs of the product of both ends.

        One matrix product over the last axis gives all displacements along it at once: they are
        the sums of its diagonals.
        """
        *_, width = self.kernel_size
        gap = self.dilation[-1]
        found: dict[Step, Tensor] = {}
        for step in dict.fromkeys(step[:-1] for step in self.steps):
            first, second = self._ends(maps, (*step, 0))
            size = maps.shape[-1]
            gram = first.reshape(-1, size).T @ second.reshape(-1, size)
            for along in range(1 - width, width):
                found[(*step, along)] = gram.diagonal(along * gap).sum()
        return torch.stack([found[step] for step in self.steps])

    def _ends(self, maps: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """The maps at ``p`` and at ``p + step``, over all ``p`` where both are inside."""
        leading = maps.ndim - len(step)
        first, second = [slice(None)] * leading, [slice(None)] * leading
        for size, taps, gap in zip(maps.shape[leading:], step, self.dilation, strict=True):
            move = taps * gap
            first.append(slice(max(0, -move), size - max(0, move)))
            second.append(slice(max(0, move), size - max(0, -move)))
        return maps[tuple(first)], maps[tuple(second)]

    def _by_step(self, center: bool) -> Tensor:
        if not self.maps:
            raise InputError("no maps were added; call update(maps) first")
        # (x - m)(y - m) summed from sums of x, y and xy; raw moments are the case m = -shift.
        zero = self.steps.index((0,) * len(self.kernel_size))
        channels = len(self._shift)
        mean = self._sums[:, zero] / (2.0 * self._pairs[zero]) if center else -self._shift
        crossed = (mean[:, None] * self._sums).sum(0)
        average = (self._products - crossed) / (self._pairs * channels)
        return average + mean.square().mean()

    def _normalized(self, center: bool) -> Tensor:
        covariance = self._by_step(center)
        zero = self.steps.index((0,) * len(self.kernel_size))
        variance = float(covariance[zero])
        floor = 1e-24 * float(self._shift.square().mean()) if center else 0.0
        if not variance > floor:
            what = "constant" if center else "all 0"
            raise InputError(f"the maps are {what}, so they have no correlation; give others")
        return covariance / variance

    def _spread(self, values: Tensor) -> Tensor:
        """Values by step as a matrix between taps."""
        index = {step: i for i, step in enumerate(self.steps)}
        index |= {tuple(-s for s in step): i for step, i in index.items()}
        taps = list(itertools.product(*(range(k) for k in self.kernel_size)))
        rows = [
            [index[tuple(b - a for a, b in zip(p, q, strict=True))] for q in taps] for p in taps
        ]
        return values[torch.tensor(rows)]


def spatial_correlation(
    maps: Tensor, kernel_size: KernelSize, dilation: KernelSize = 1, *, center: bool = True
) -> Tensor:
    """Correlation between the taps of a window that slides over maps.

    It is what ``law`` of :func:`convprior.filters.feature_cohesion` and the correlation of a
    :class:`convprior.filters.FilterPrior` take. :class:`SpatialCorrelation`, which says how it
    is estimated, takes many batches.

    Args:
        maps: ``(n, C, *sizes)``: images or the input of a convolution.
        kernel_size: of the window, as in :func:`convprior.filters.tap_costs`.
        dilation: spacing of its taps.
        center: take each channel's mean off; False: raw second moments.

    Returns:
        float64 (taps, taps), row-major taps, unit diagonal.

    Raises:
        InputError: as :class:`SpatialCorrelation`.

    Example:
        >>> ramp = torch.arange(6.0).expand(1, 1, 6, 6)
        >>> spatial_correlation(ramp, 3)[0, [1, 3]].tolist()  # to the right, and below
        [0.6, 1.0]

    Source: our choice.
    """
    return SpatialCorrelation(kernel_size, dilation).update(maps).correlation(center)


def _half_plane(kernel_size: Sequence[int]) -> list[Step]:
    """Displacements between taps, one of each pair ``d``, ``-d``: the first number is not < 0."""
    every = itertools.product(*(range(1 - k, k) for k in kernel_size))
    return [step for step in every if step >= (0,) * len(step)]
