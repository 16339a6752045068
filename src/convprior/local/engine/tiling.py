"""How kernels lie in memory for the micro-kernel.

A kernel is a matrix with one row for each (tap, source channel) and one column for each target
channel. It is cut into *panels* of up to four vectors of columns, each contiguous, and the rows of
a panel into *units* that fit into half of a first-level cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from convprior.local.engine.microkernel import VECTORS
from convprior.local.engine.vectors import LANES

UNIT_ROWS = 64  # times four vectors of 64 bytes: 16 KB


@dataclass(frozen=True)
class Tiling:
    """The layout of kernels from ``source`` to ``target`` channels.

    Attributes:
        taps: kh times kw.
        source: channels that are summed over.
        target: channels that are computed.
        pairs: a row holds two neighboring source channels, side by side for each target channel.
    """

    taps: int
    source: int
    target: int
    pairs: bool

    @property
    def deep(self) -> int:
        """Source channels of a row."""
        return 2 if self.pairs else 1

    @property
    def words(self) -> int:
        """Rows of a tap."""
        return -(-self.source // self.deep)

    @property
    def rows(self) -> int:
        """Rows of a kernel."""
        return self.taps * self.words

    @property
    def vectors(self) -> int:
        """Vectors of a row."""
        return -(-self.target // LANES)

    @property
    def panels(self) -> int:
        """Into how many panels the columns are cut."""
        return -(-self.vectors // VECTORS)

    @cached_property
    def widths(self) -> list[int]:
        """Vectors of each panel, as equal as can be, the wider ones first."""
        least, wider = divmod(self.vectors, self.panels)
        return [least + (panel < wider) for panel in range(self.panels)]

    @property
    def blocks(self) -> int:
        """Into how many units a tap is cut; 1 if whole taps share a unit."""
        return -(-self.words // UNIT_ROWS)

    @property
    def length(self) -> int:
        """Rows of a unit that is a part of one tap."""
        return -(-self.words // self.blocks)

    @property
    def group(self) -> int:
        """Taps of a unit."""
        return min(self.taps, max(1, UNIT_ROWS // self.words))

    @property
    def units(self) -> int:
        """Units of a panel."""
        return self.taps * self.blocks if self.blocks > 1 else -(-self.taps // self.group)

    @property
    def unit_rows(self) -> int:
        """Rows of the largest unit."""
        return self.length if self.blocks > 1 else self.group * self.words

    def lay_out(self, kernels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(K, taps, source, target), of any strides, as (K, elements)."""
        exact = self.source == self.words * self.deep and self.target == self.vectors * LANES
        make = torch.empty if exact else torch.zeros
        laid_out = make(len(kernels), self.rows * self.deep * self.vectors * LANES, dtype=dtype)
        for panel, columns in self._panels(laid_out, kernels):
            for half in range(self.deep):
                part = columns[:, :, half :: self.deep]
                panel[:, :, : part.shape[2], : part.shape[3], half] = part
        return laid_out

    def take_back(self, laid_out: Tensor, kernels: Tensor) -> None:
        """Copies to ``kernels`` what ``lay_out`` would make ``laid_out``; without pairs."""
        for panel, columns in self._panels(laid_out, kernels):
            columns.copy_(panel[..., : columns.shape[3], 0])

    def _panels(self, laid_out: Tensor, kernels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each panel as (K, taps, words, target, deep), and the columns of kernels in it."""
        widths = [LANES * width for width in self.widths]
        sizes = [self.rows * self.deep * width for width in widths]
        parts = laid_out.split_with_sizes(sizes, dim=1)
        first = 0
        for part, width in zip(parts, widths, strict=True):
            panel = part.unflatten(1, (self.taps, self.words, width, self.deep))  # type: ignore[no-untyped-call]
            yield panel, kernels[..., first : first + width]
            first += width
