"""With stride 1 the gradient of the input is again a local layer, of the gradient of the output.

``dx(q) = sum_t W(p)[t]' dy(p)`` with ``p = q + padding - t dilation`` for tap t: a layer with
taps in reverse order and in and out exchanged, whose kernels take each tap from another position.
It writes each input once, where the general way adds the gradients of overlapping patches.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from convprior.local.geometry import Geometry
from convprior.local.paths.tiles import Tile


def turned(geometry: Geometry) -> Geometry:
    """Of the layer from output gradients to input gradients; its padding may be negative."""
    reach = [
        spread * (kernel - 1)
        for spread, kernel in zip(geometry.dilation, geometry.kernel_size, strict=True)
    ]
    top, bottom, left, right = geometry.padding
    sides = (reach[0] - top, reach[0] - bottom, reach[1] - left, reach[1] - right)
    return replace(geometry, input_size=geometry.output_size, padding=sides)


class TurnedKernels:
    """The kernels of that layer: at input q, tap t, ``sum_k w_k(p) B_k[t]'``, 0 for no such p.

    Args:
        bases: (K, F, C, kh, kw): one group.
        weights: (K, H', W'), or (K, H', 1) for one kernel a row.
        geometry: of the forward layer, with stride 1 and one group.
    """

    def __init__(self, bases: Tensor, weights: Tensor, geometry: Geometry) -> None:
        self.shared = weights.shape[2] == 1
        reversed_taps = bases.flip(3, 4).permute(0, 4, 3, 1, 2)  # (K, kw, kh, F, C)
        self._tables = reversed_taps.flatten(3).flatten(1, 2).transpose(0, 1).contiguous()
        self._shape = (bases.shape[1], bases.shape[2])
        top, bottom, left, right = turned(geometry).padding
        columns = (0, 0) if self.shared else (left, right)
        self._weights = nn.functional.pad(weights.to(bases.dtype), (*columns, top, bottom))
        self._taps = [
            (a * geometry.dilation[0], 0 if self.shared else b * geometry.dilation[1])
            for b in range(geometry.kernel_size[1])
            for a in range(geometry.kernel_size[0])
        ]

    def of(self, tile: Tile) -> Tensor:
        """(R or 1, 1, C, taps): taps in the order (kw, kh, F)."""
        first, last = (0, 1) if self.shared else (tile.first, tile.last)
        mixed = self._tables.new_empty(last - first, *self._tables.shape[::2])
        for tap, (row, column) in enumerate(self._taps):
            weights = self._weights[:, tile.row + row, first + column : last + column]
            torch.mm(weights.t(), self._tables[tap], out=mixed[:, tap])
        return torch.unflatten(mixed, 2, self._shape).flatten(1, 2).mT.unsqueeze(1)
