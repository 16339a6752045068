"""Sums over taps with a kernel for each position: the forward pass and the input's gradient.

``target[p] = sum over taps t of source[s(p, t)] W[t]``, where source[s] is the panel of a position
and W the kernel of p (or of s). A unit of a few kernels is mixed from the bases just before it is
used, while it stays in the cache; all the kernels together are never anywhere.
"""

from typing import NamedTuple

import numpy as np

from convprior.local.engine.compiling import compiled
from convprior.local.engine.copying import copy, round_halves
from convprior.local.engine.microkernel import VECTORS, multiply
from convprior.local.engine.mixing import mix_floats, mix_pairs
from convprior.local.engine.panels import keep_rows, panel_bytes, row_bytes
from convprior.local.engine.plan import (
    OUTSIDE,
    POSITIONS,
    Plan,
    Share,
    Table,
    Unit,
    panel_of,
    unit_of,
)
from convprior.local.engine.transposing import take_floats, take_halves, take_pairs
from convprior.local.engine.vectors import BYTES, LANES


class Buffers(NamedTuple):
    """Where a thread keeps what: offsets into its scratch memory, in bytes."""

    kernels: int
    kernel_bytes: int
    sums: int
    sum_bytes: int
    total: int


@compiled
def sum_buffers(plan: Plan, share: Share) -> Buffers:
    """Panels come first, then the units of some kernels, then sums of as many positions."""
    kernels = plan.slots * row_bytes(plan, share)
    kernel_bytes = plan.unit_rows * min(plan.vectors, VECTORS) * BYTES + 64
    sums = kernels + POSITIONS * kernel_bytes
    sum_bytes = share.images * plan.vectors * BYTES + 64
    return Buffers(kernels, kernel_bytes, sums, sum_bytes, sums + POSITIONS * sum_bytes)


@compiled
def sum_over_taps(
    plan: Plan,
    source: int,
    target: int,
    bases: int,
    weights: int,
    rows: Table,
    columns: Table,
    scratch: int,
    share: Share,
) -> None:
    """Computes a share of the targets.

    Args:
        plan: the problem.
        source: address of the sources, channels last.
        target: address of the targets, channels last; written.
        bases: address of the bases, as ``Tiling.lay_out`` has them.
        weights: address of (positions, rank) floats, or of the given kernels.
        rows: the source row of each target row and row of taps.
        columns: the same along columns.
        scratch: address of ``sum_buffers(...).total`` bytes, zero at first.
        share: which rows, columns and images.
    """
    buffers = sum_buffers(plan, share)
    kept = np.full(plan.slots, OUTSIDE, np.int64)
    slots = np.full(plan.kernel_height, OUTSIDE, np.int64)
    segments = np.zeros((POSITIONS, plan.group, 2), np.int64)
    counts = np.zeros(POSITIONS, np.int64)
    started = np.zeros(POSITIONS, np.int64)
    for row in range(share.first_row, share.last_row):
        keep_rows(plan, rows[row], kept, slots, source, scratch, share)
        for column in range(share.first_column, share.last_column, POSITIONS):
            positions = min(POSITIONS, share.last_column - column)
            for panel in range(plan.panels):
                vector, width = panel_of(plan, panel)
                started[:] = 0
                for index in range(plan.units):
                    unit = unit_of(plan, index)
                    mix_unit(
                        plan, unit, bases, weights, vector, width, row, column, positions,
                        rows, columns, slots, segments, counts, scratch + buffers.kernels,
                        buffers.kernel_bytes, share,
                    )  # fmt: skip
                    for p in range(positions):
                        if counts[p] == 0 and (started[p] or index < plan.units - 1):
                            continue
                        multiply(
                            plan.product,
                            share.images,
                            width,
                            scratch,
                            plan.words * 4,
                            4,
                            counts[p],
                            segments[p].ctypes.data,
                            unit.length,
                            scratch + buffers.kernels + p * buffers.kernel_bytes,
                            scratch + buffers.sums + p * buffers.sum_bytes + vector * BYTES,
                            plan.vectors * BYTES,
                            started[p],
                        )
                        started[p] = 1
            store(plan, scratch + buffers.sums, buffers.sum_bytes, target, row, column, share)


@compiled
def mix_unit(
    plan: Plan,
    unit: Unit,
    bases: int,
    weights: int,
    vector: int,
    width: int,
    row: int,
    column: int,
    positions: int,
    rows: Table,
    columns: Table,
    slots: Table,
    segments: Table,
    counts: Table,
    kernels: int,
    kernel_bytes: int,
    share: Share,
) -> None:
    """Mixes a unit of the kernels of neighboring targets, and lists what they are multiplied with.

    ``segments[p, :counts[p]]`` are the offsets of panels and of taps in the unit, for those taps
    that lie inside the source.
    """
    weight_list = np.empty(POSITIONS, np.int64)
    kernel_list = np.empty(POSITIONS, np.int64)
    counts[:] = 0
    offset = 0
    for tap in range(unit.tap, unit.last_tap):
        tap_row, tap_column = tap // plan.kernel_width, tap % plan.kernel_width
        found = 0
        for p in range(positions):
            source_row, source_column = rows[row, tap_row], columns[column + p, tap_column]
            if source_row == OUTSIDE or source_column == OUTSIDE:
                continue
            position = row * plan.target_width + column + p
            if plan.by_source:
                position = source_row * plan.source_width + source_column
            weight_list[found] = weights + position * plan.weight_bytes
            kernel_list[found] = kernels + p * kernel_bytes + offset
            panel = slots[tap_row] * row_bytes(plan, share)
            panel += (source_column - share.first_source) * panel_bytes(plan, share.images)
            segments[p, counts[p], 0] = panel + unit.word * 4
            segments[p, counts[p], 1] = offset
            counts[p] += 1
            found += 1
        start = (vector * plan.rows + width * (tap * plan.words + unit.word)) * BYTES
        mix = (
            bases + start,
            plan.rows * plan.vectors * BYTES,
            unit.length * width,
            plan.rank,
            weight_list.ctypes.data,
            kernel_list.ctypes.data,
            found,
        )
        if plan.given:
            for index in range(found):
                take_tap(plan, unit, tap, vector, width, weight_list[index], kernel_list[index])
        elif plan.pairs:
            mix_pairs(*mix)
        else:
            mix_floats(*mix)
        offset += unit.length * width * BYTES


@compiled
def take_tap(
    plan: Plan, unit: Unit, tap: int, vector: int, width: int, kernel: int, target: int
) -> None:
    """Copies a unit's rows of one tap of a given kernel."""
    deep = 2 if plan.pairs else 1
    source_step, target_step = steps_of_kernel(plan)
    first = unit.word * deep
    take = (
        target,
        kernel + tap * plan.itemsize + first * source_step + vector * LANES * target_step,
        min(unit.length * deep, plan.source_channels - first),
        min(width * LANES, plan.target_channels - vector * LANES),
        source_step,
        target_step,
        width * BYTES,
    )
    if plan.itemsize == 4:
        take_floats(*take)
    elif plan.pairs:
        take_pairs(*take)
    else:
        take_halves(*take)


@compiled
def steps_of_kernel(plan: Plan) -> tuple[int, int]:
    """Bytes from one source and one target channel of a given kernel to the next."""
    inner = plan.kernel_height * plan.kernel_width * plan.itemsize
    if plan.by_source:
        return plan.target_channels * inner, inner
    return inner, plan.source_channels * inner


@compiled
def store(
    plan: Plan, sums: int, sum_bytes: int, target: int, row: int, column: int, share: Share
) -> None:
    """Copies the sums of neighboring positions to their places in channels-last images."""
    pixel = plan.target_channels * plan.itemsize
    for n in range(share.images):
        place = (share.first_image + n) * plan.target_height + row
        address = target + (place * plan.target_width + column) * pixel
        for p in range(min(POSITIONS, share.last_column - column)):
            values = sums + p * sum_bytes + n * plan.vectors * BYTES
            if plan.itemsize == 2:
                round_halves(address, values, plan.target_channels)
            else:
                copy(address, values, plan.target_channels * 2)
            address += pixel
