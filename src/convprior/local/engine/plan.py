"""What a compiled routine must know of a problem: integers, and tables of positions."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convprior.local.engine.compiling import compiled
from convprior.local.engine.microkernel import product
from convprior.local.engine.tiling import Tiling

Table = NDArray[np.int64]
OUTSIDE = -1
POSITIONS = 8  # neighbors that share a pass over the bases; a multiple of four


class Plan(NamedTuple):
    """A sum over taps: for every target position, over the panels of the sources that it reads.

    Forward, targets are outputs and sources are inputs. For the input's gradient it is the other
    way around, and the kernels belong to the sources (``by_source``). For the kernels' gradient the
    sum runs over the batch, so pairs are of images (``along_batch``). ``product`` is an address.
    Kernels are mixed from ``rank`` bases, or ``given`` for each position as (F, C, kh, kw).
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
    slots: int
    itemsize: int
    pairs: bool
    product: int
    along_batch: bool
    by_source: bool
    given: bool
    weight_bytes: int
    words: int
    rows: int
    vectors: int
    panels: int
    blocks: int
    length: int
    group: int
    units: int
    unit_rows: int

    @classmethod
    def of(
        cls,
        tiling: Tiling,
        sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
        rank: int,
        rows: Table,
        itemsize: int,
        pairs: bool,
        along_batch: bool = False,
        by_source: bool = False,
        given: bool = False,
    ) -> "Plan":
        """A plan from the sizes of source, target and kernel, and the table of rows."""
        kernel_bytes = tiling.taps * tiling.source * tiling.target * itemsize
        source, target, kernel = sizes
        return cls(
            *source,
            tiling.source,
            *target,
            tiling.target,
            *kernel,
            rank,
            _slots(rows),
            itemsize,
            pairs,
            product(pairs).address,
            along_batch,
            by_source,
            given,
            kernel_bytes if given else 4 * rank,
            tiling.words,
            tiling.rows,
            tiling.vectors,
            tiling.panels,
            tiling.blocks,
            tiling.length,
            tiling.group,
            tiling.units,
            tiling.unit_rows,
        )


class Share(NamedTuple):
    """A thread's part of the work: some rows and columns of targets, for some images.

    ``first_source`` and ``sources`` are the source columns that they read.
    """

    first_image: int
    images: int
    first_row: int
    last_row: int
    first_column: int
    last_column: int
    first_source: int
    sources: int


class Unit(NamedTuple):
    """Rows of a kernel: whole taps, or ``length`` rows of one from ``word`` on."""

    tap: int
    last_tap: int
    word: int
    length: int


@compiled
def unit_of(plan: Plan, index: int) -> Unit:
    """The taps and rows of a unit."""
    if plan.blocks > 1:
        tap, part = index // plan.blocks, index % plan.blocks
        word = part * plan.length
        return Unit(tap, tap + 1, word, min(plan.length, plan.words - word))
    tap, taps = index * plan.group, plan.kernel_height * plan.kernel_width
    return Unit(tap, min(tap + plan.group, taps), 0, plan.words)


@compiled
def panel_of(plan: Any, panel: int) -> tuple[int, int]:
    """A panel's first vector and how many, as ``Tiling.widths``, of whatever has both counts."""
    least, wider = plan.vectors // plan.panels, plan.vectors % plan.panels
    return panel * least + min(panel, wider), least + (panel < wider)


def input_table(inputs: int, outputs: int, taps: int, stride: int, pad: int, step: int) -> Table:
    """(outputs, taps): the input that a tap of an output reads, or ``OUTSIDE``."""
    read = np.arange(outputs)[:, None] * stride - pad + np.arange(taps) * step
    return np.where((read >= 0) & (read < inputs), read, OUTSIDE).astype(np.int64)


def output_table(inputs: int, outputs: int, taps: int, stride: int, pad: int, step: int) -> Table:
    """(inputs, taps): the output whose tap reads an input, or ``OUTSIDE``."""
    ahead = np.arange(inputs)[:, None] + pad - np.arange(taps) * step
    place, remainder = np.divmod(ahead, stride)
    valid = (remainder == 0) & (place >= 0) & (place < outputs)
    return np.where(valid, place, OUTSIDE).astype(np.int64)


def _slots(rows: Table) -> int:
    """Rows of panels to keep so that each is loaded once, or, with much dilation, some again."""
    beyond = np.iinfo(np.int64).max
    lowest = np.where(rows == OUTSIDE, beyond, rows).min(axis=1)
    reach = np.where(lowest == beyond, 1, rows.max(axis=1) - lowest + 1)
    return int(min(reach.max(), 2 * rows.shape[1]))
