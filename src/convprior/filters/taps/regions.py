"""Where a filter's center, edges and corners are, for any kernel size, and how large they are."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from convprior.filters.laws import tap_distances


@dataclass(frozen=True, eq=False)
class TapRegions:
    """Row-major indices of the taps of each region; empty where a kernel has no such region.

    Attributes:
        center: the taps nearest to the geometric center: one for odd sizes, 2, 4 or 8 for even.
        edge: the middle of each side: as far out as possible along one axis, as near to the
            middle as possible along the others. For a 1xk kernel its two ends.
        corner: as far out as possible along every axis.
    """

    center: Tensor
    edge: Tensor
    corner: Tensor


@lru_cache
def tap_regions(kernel_size: tuple[int, ...]) -> TapRegions:
    """The regions of a kernel.

    Along an axis of one or two taps all taps are equally far from the middle, so such an axis
    has no outside: a 1x1 or 2x2 kernel has neither edge nor corner, a 1x3 or 2x3 kernel has edges
    and no corner. Three axes: edges are the middles of the faces, corners the eight outermost.

    Source: our choice.
    """
    outside, middle = [], []
    for axis, size in enumerate(kernel_size):
        offset = (2 * torch.arange(size) - (size - 1)).abs()
        shape = [-1 if other == axis else 1 for other in range(len(kernel_size))]
        middle.append((offset == offset.min()).view(shape).expand(kernel_size))
        if size > 2:
            outside.append((axis, (offset == size - 1).view(shape).expand(kernel_size)))
    edge = torch.zeros(kernel_size, dtype=torch.bool)
    corner = torch.full(kernel_size, len(outside) > 1)
    for axis, far in outside:
        others = [near for other, near in enumerate(middle) if other != axis]
        edge |= torch.stack([far, *others]).all(0)
        corner &= far
    center = torch.stack(middle).all(0)
    return TapRegions(*(region.flatten().nonzero().flatten() for region in (center, edge, corner)))


@lru_cache
def tap_rings(kernel_size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Taps of equal distance from the center: the ring of each tap, row-major, and ring sizes."""
    distance = tap_distances(kernel_size).flatten()
    _, ring, taps = torch.unique(distance, return_inverse=True, return_counts=True)
    return ring, taps


def center_ratios(moments: Tensor, regions: TapRegions) -> dict[str, Tensor]:
    """RMS of the center over the RMS of edges and corners, ``sqrt(mean m2 / mean m2)``.

    Args:
        moments: (..., taps) second moments or sums of squares; the scale does not matter.
        regions: of the kernel.

    Returns:
        ``centre_edge`` and ``centre_corner`` of shape (...), each if the kernel has that region;
        infinite or NaN where the region is zero.

    Source: the paper reports such ratios of trained networks; the regions are our choice.
    """
    center = moments[..., regions.center].mean(-1)
    outer = {"centre_edge": regions.edge, "centre_corner": regions.corner}
    return {
        name: (center / moments[..., taps].mean(-1)).sqrt()
        for name, taps in outer.items()
        if len(taps)
    }
