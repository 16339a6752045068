"""A convolution cut into tiles: neighboring outputs of one row, with the inputs they read.

Per tile the patches are products' operands that stay in the cache, so no order of evaluation needs
the patches of a whole image (nine times the input, for a 3x3 kernel).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from convprior.local.geometry import Geometry


@dataclass(frozen=True)
class Tile:
    """Outputs ``first`` to ``last``, exclusive, of output row ``row``."""

    row: int
    first: int
    last: int

    @property
    def columns(self) -> int:
        """Outputs in the tile, R in the shapes below."""
        return self.last - self.first


def tiles(geometry: Geometry, columns: int) -> Iterator[Tile]:
    """Every output once, at most ``columns`` of them a tile."""
    rows, width = geometry.output_size
    for row in range(rows):
        for first in range(0, width, columns):
            yield Tile(row, first, min(first + columns, width))


class Patches:
    """The patches of each tile of ``x``, and the way back for their gradients.

    The buffer holds the ``kh`` input rows of a tile side by side, (N, columns, groups, kh, C /
    groups), so that a patch is contiguous: with one group and no column dilation patches are views
    of it. Their taps come in the order (kw, kh, C / groups), which ``flat_kernels`` follows.

    Args:
        x: (N, C, H, W) in any layout; rows of a layout other than channels-last are copied once.
        geometry: of the convolution.
        columns: of the widest tile.
    """

    def __init__(self, x: Tensor, geometry: Geometry, columns: int) -> None:
        self.geometry = geometry
        self._x = torch.unflatten(x, 1, (geometry.groups, -1))  # (N, groups, C / groups, H, W)
        n, groups, channels = self._x.shape[:3]
        kh = geometry.kernel_size[0]
        self._buffer = x.new_empty(n, self._width(columns), groups, kh, channels)
        self._rows: dict[int, Tensor] = {}

    def read(self, tile: Tile) -> Tensor:
        """The patches of a tile, (N, R, groups, taps), valid until the next call of a method."""
        buffer, image, inside = self._place(tile)
        buffer[:, : inside.start].zero_()
        buffer[:, inside.stop :].zero_()
        for a, row in enumerate(self._input_rows(tile)):
            if row is None:
                buffer[:, inside, :, a].zero_()
            else:
                buffer[:, inside, :, a].copy_(self._input_row(row)[:, image])
        taps = buffer.flatten(3)  # (N, columns, groups, kh * C / groups)
        size = (*taps.shape[:1], tile.columns, taps.shape[2], self.geometry.kernel_size[1])
        strides = taps.stride()
        steps = (self.geometry.stride[1] * strides[1], self.geometry.dilation[1] * strides[1])
        patches = taps.as_strided(
            (*size, taps.shape[3]), (strides[0], steps[0], strides[2], steps[1], 1)
        )
        return patches.flatten(3)

    def add_to(self, grad_x: Tensor, grad: Tensor, tile: Tile) -> None:
        """Adds the gradient of a tile's patches, (N, R, groups, taps), to ``grad_x``."""
        buffer, image, inside = self._place(tile)
        stride, dilation = self.geometry.stride[1], self.geometry.dilation[1]
        buffer.zero_()
        for b, part in enumerate(
            torch.unflatten(grad, 3, (self.geometry.kernel_size[1], -1)).unbind(3)
        ):
            first = b * dilation
            last = first + (tile.columns - 1) * stride + 1
            buffer[:, first:last:stride] += torch.unflatten(part, 3, buffer.shape[3:])
        rows = torch.unflatten(grad_x, 1, buffer.shape[2::2])
        for a, row in enumerate(self._input_rows(tile)):
            if row is not None:
                rows[:, :, :, row, image] += buffer[:, inside, :, a].permute(0, 2, 3, 1)

    def _width(self, columns: int) -> int:
        """Input columns that neighboring outputs read."""
        geometry = self.geometry
        reach = geometry.dilation[1] * (geometry.kernel_size[1] - 1)
        return (columns - 1) * geometry.stride[1] + reach + 1

    def _place(self, tile: Tile) -> tuple[Tensor, slice, slice]:
        """The tile's part of the buffer; image columns it reads, and where they are in it."""
        width, size = self._width(tile.columns), self.geometry.input_size[1]
        start = tile.first * self.geometry.stride[1] - self.geometry.padding[2]
        first, last = (min(max(end, 0), size) for end in (start, start + width))
        # Where the tile lies in the padding alone, both slices are empty.
        inside = slice(first - start, last - start) if first < last else slice(0, 0)
        return self._buffer[:, :width], slice(first, last), inside

    def _input_rows(self, tile: Tile) -> list[int | None]:
        """The input row of each kernel row, None in the padding."""
        geometry = self.geometry
        start = tile.row * geometry.stride[0] - geometry.padding[0]
        rows = (start + a * geometry.dilation[0] for a in range(geometry.kernel_size[0]))
        return [row if 0 <= row < geometry.input_size[0] else None for row in rows]

    def _input_row(self, row: int) -> Tensor:
        """(N, W, groups, C / groups)."""
        found = self._x[:, :, :, row].permute(0, 3, 1, 2)
        if found.stride(3) == 1:
            return found
        if row not in self._rows:
            if len(self._rows) > self.geometry.dilation[0] * (self.geometry.kernel_size[0] - 1):
                del self._rows[min(self._rows)]
            self._rows[row] = found.contiguous()
        return self._rows[row]


def flat_kernels(kernels: Tensor, groups: int) -> Tensor:
    """(..., F, C / groups, kh, kw) as (..., groups, F / groups, taps), taps as ``Patches`` has."""
    ordered = kernels.movedim((-1, -2, -3), (-3, -2, -1)).flatten(-3)
    return torch.unflatten(ordered, -2, (groups, -1))


def shaped_kernels(flat: Tensor, kernel_size: tuple[int, int]) -> Tensor:
    """The inverse of ``flat_kernels``: (..., F, C / groups, kh, kw)."""
    ordered = torch.unflatten(flat.flatten(-3, -2), -1, (kernel_size[1], kernel_size[0], -1))
    return ordered.movedim((-3, -2, -1), (-1, -2, -3))
