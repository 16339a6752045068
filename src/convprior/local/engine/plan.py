"""What a compiled routine must know of a problem: plain integers and tables of positions."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convprior.local.engine.tiling import Tiling

Table = NDArray[np.int64]
OUTSIDE = -1


class Plan(NamedTuple):
    """Sizes of a sum over taps: of every target position, over the panels of source positions.

    Forward, targets are outputs and sources inputs; for the input's gradient it is the other way
    around, and ``by_source`` says that the kernels belong to the sources.
    """

    source_height: int
    source_width: int
    source_channels: int
    target_height: int
    target_width: int
    target_channels: int
    kernel_height: int
    kernel_width: int
    rank: int
    by_source: int
    itemsize: int
    pairs: int
    words: int
    rows: int
    vectors: int
    panels: int
    blocks: int
    length: int
    group: int
    units: int
    unit_rows: int
    slots: int
    positions: int

    @classmethod
    def of(
        cls,
        tiling: Tiling,
        source_size: tuple[int, int],
        target_size: tuple[int, int],
        kernel_size: tuple[int, int],
        rank: int,
        itemsize: int,
        slots: int,
        positions: int,
        pairs: bool,
        by_source: bool = False,
    ) -> "Plan":
        """A plan from the parts it repeats."""
        return cls(
            *source_size,
            tiling.source,
            *target_size,
            tiling.target,
            *kernel_size,
            rank,
            int(by_source),
            itemsize,
            int(pairs),
            tiling.words,
            tiling.rows,
            tiling.vectors,
            tiling.panels,
            tiling.blocks,
            tiling.length,
            tiling.group,
            tiling.units,
            tiling.unit_rows,
            slots,
            positions,
        )


def input_table(inputs: int, outputs: int, taps: int, stride: int, pad: int, step: int) -> Table:
    """(outputs, taps): the input that a tap of an output reads, or ``OUTSIDE``."""
    read = np.arange(outputs)[:, None] * stride - pad + np.arange(taps) * step
    return np.where((read >= 0) & (read < inputs), read, OUTSIDE).astype(np.int64)


def output_table(inputs: int, outputs: int, taps: int, stride: int, pad: int, step: int) -> Table:
    """(inputs, taps): the output whose tap reads an input, or ``OUTSIDE``."""
    place, remainder = np.divmod(np.arange(inputs)[:, None] + pad - np.arange(taps) * step, stride)
    valid = (remainder == 0) & (place >= 0) & (place < outputs)
    return np.where(valid, place, OUTSIDE).astype(np.int64)


def slots_for(rows: Table) -> int:
    """Rows of panels to keep, so that few are loaded twice: the reach of a target, within reason."""
    beyond = np.iinfo(np.int64).max
    lowest = np.where(rows == OUTSIDE, beyond, rows).min(axis=1)
    reach = np.where(lowest == beyond, 1, rows.max(axis=1) - lowest + 1)
    return int(min(reach.max(), 2 * rows.shape[1]))
