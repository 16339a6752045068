"""How kernels lie in memory for the micro-kernel.

A kernel is a matrix with one row for each (tap, source channel) and one column for each target
channel. It is cut into *panels* of up to four vectors of columns, each contiguous, and the rows of
a panel into *units* that fit into half of a first-level cache.
"""

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
    def words(self) -> int:
        """Rows of a tap."""
        return -(-self.source // 2) if self.pairs else self.source

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

    def lay_out(self, kernels: Tensor) -> Tensor:
        """(K, taps, source, target) as (K, elements), float32."""
        kernels = kernels.float()
        deep = 2 if self.pairs else 1
        padding = (0, self.vectors * LANES - self.target, 0, self.words * deep - self.source)
        kernels = torch.nn.functional.pad(kernels, padding)
        kernels = kernels.reshape(len(kernels), self.rows, deep, -1)
        panels = kernels.split_with_sizes([LANES * width for width in self.widths], dim=3)
        return torch.cat([panel.transpose(2, 3).flatten(1) for panel in panels], dim=1)

    def take_back(self, laid_out: Tensor) -> Tensor:
        """The inverse of ``lay_out``, for a layout without pairs."""
        sizes = [self.rows * LANES * width for width in self.widths]
        panels = [
            panel.view(len(panel), self.rows, -1)
            for panel in laid_out.split_with_sizes(sizes, dim=1)
        ]
        kernels = torch.cat(panels, dim=2)[..., : self.target]
        return kernels.reshape(len(kernels), self.taps, self.source, self.target)
