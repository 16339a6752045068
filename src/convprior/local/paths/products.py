"""Patches times kernels, a tile at a time, and the two products of its backward.

Where each position has its own kernel, a product has the N images as its rows, and the positions of
a tile are a batch of products. Where a line shares a kernel, the positions join the images.
"""

import math

import torch
from torch import Tensor

from convprior.local.geometry import Geometry
from convprior.local.paths.kernels import Kernels, LearnedKernels
from convprior.local.paths.tiles import Patches, Tile, tiles

TILE_BYTES = 5 << 19
"""The kernels of a tile, and its patches, take at most about this: little next to an input."""


def multiply(x: Tensor, kernels: Kernels, geometry: Geometry, y: Tensor) -> None:
    """Fills the outputs ``y``, (N, F, H', W')."""
    grouped = torch.unflatten(y, 1, (geometry.groups, -1))
    columns = tile_columns(x, geometry, y.shape[1], shared=kernels.shared)
    patches = Patches(x, geometry, columns)
    arranged = Arrangement(kernels.shared)
    for tile in tiles(geometry, columns):
        flat = kernels.of(tile).flatten(0, 1)
        rows = arranged.rows(patches.read(tile))
        product = arranged.undo(torch.bmm(rows, flat.mT), x.shape[0], tile.columns)
        part_of(grouped, tile).copy_(product)


def gradient_of_kernels(
    x: Tensor, kernels: LearnedKernels, grad_y: Tensor, geometry: Geometry
) -> None:
    """Gives ``kernels`` their gradient."""
    grouped = torch.unflatten(grad_y, 1, (geometry.groups, -1))
    columns = tile_columns(x, geometry, grad_y.shape[1], shared=kernels.shared)
    patches = Patches(x, geometry, columns)
    arranged = Arrangement(kernels.shared)
    for tile in tiles(geometry, columns):
        rows = arranged.rows(patches.read(tile))
        grad = arranged.rows(part_of(grouped, tile)).contiguous()
        product = torch.bmm(grad.mT, rows)
        kernels.add_gradient(tile, torch.unflatten(product, 0, (-1, geometry.groups)))


def gradient_of_input(x: Tensor, kernels: Kernels, grad_y: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of ``x``: adds up those of overlapping patches."""
    grad_x = torch.zeros_like(x)
    grouped = torch.unflatten(grad_y, 1, (geometry.groups, -1))
    columns = tile_columns(x, geometry, grad_y.shape[1], shared=kernels.shared)
    patches = Patches(x, geometry, columns)
    arranged = Arrangement(kernels.shared)
    for tile in tiles(geometry, columns):
        grad = arranged.rows(part_of(grouped, tile)).contiguous()
        product = torch.bmm(grad, kernels.of(tile).flatten(0, 1))
        patches.add_to(grad_x, arranged.undo(product, x.shape[0], tile.columns), tile)
    return grad_x


class Arrangement:
    """The axes of a product, from and to (N, R, groups, ...) of a tile.

    Args:
        shared: the R positions share a kernel: batch groups, rows N R; otherwise batch R groups,
            rows N.
    """

    def __init__(self, shared: bool) -> None:
        self._shared = shared

    def rows(self, part: Tensor) -> Tensor:
        """(N, R, groups, V) as the operand of a batch of products, a view if it can be."""
        if self._shared:
            return part.permute(2, 0, 1, 3).flatten(1, 2)
        return part.permute(1, 2, 0, 3).flatten(0, 1)

    def undo(self, product: Tensor, images: int, columns: int) -> Tensor:
        """The inverse of ``rows``."""
        if self._shared:
            return torch.unflatten(product, 1, (images, columns)).permute(1, 2, 0, 3)
        return torch.unflatten(product, 0, (columns, -1)).permute(2, 0, 1, 3)


def output_like(x: Tensor, filters: int, geometry: Geometry) -> Tensor:
    """Room for the outputs, channels-last where ``x`` is."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    size = (x.shape[0], filters, *geometry.output_size)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)


def tile_columns(x: Tensor, geometry: Geometry, filters: int, *, shared: bool) -> int:
    """How many outputs a tile has."""
    taps = x.shape[1] * geometry.kernel_size[0] * geometry.kernel_size[1]
    a_column = taps * (x.shape[0] if shared else max(x.shape[0], filters // geometry.groups))
    fitting = max(TILE_BYTES // (a_column * x.element_size()), 1)
    width = geometry.output_size[1]
    return math.ceil(width / math.ceil(width / fitting))  # tiles of about the same width


def part_of(grouped: Tensor, tile: Tile) -> Tensor:
    """Of (N, groups, F / groups, H', W') the tile, as (N, R, groups, F / groups)."""
    return grouped[:, :, :, tile.row, tile.first : tile.last].permute(0, 3, 1, 2)
