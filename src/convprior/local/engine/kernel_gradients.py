"""The gradient of every position's kernel, contracted at once to that of bases and weights.

``dW(p)[t] = source[s(p, t)]' dy[p]``, a product along the batch, is computed one unit at a time for
a few positions, added to ``dB_k += w_k(p) dW(p)`` and ``dw_k(p) = <dW(p), B_k>``, and forgotten.
"""

import numpy as np
from numpy.typing import NDArray

from convprior.local.engine.compiling import compiled
from convprior.local.engine.microkernel import VECTORS, multiply
from convprior.local.engine.mixing import POSITIONS as AT_ONCE
from convprior.local.engine.mixing import contract
from convprior.local.engine.panels import keep_rows, load, panel_bytes, row_bytes
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
from convprior.local.engine.sums import Buffers, steps_of_kernel
from convprior.local.engine.transposing import put_floats, put_halves
from convprior.local.engine.vectors import BYTES, LANES


@compiled
def gradient_buffers(plan: Plan, share: Share) -> Buffers:
    """Panels of sources come first, then the units of some kernels, then panels of targets."""
    kernels = plan.slots * row_bytes(plan, share)
    kernel_bytes = plan.unit_rows * min(plan.vectors, VECTORS) * BYTES + 64
    targets = kernels + POSITIONS * kernel_bytes
    target_bytes = steps_of(plan, share.images) * plan.vectors * BYTES + 64
    return Buffers(kernels, kernel_bytes, targets, target_bytes, targets + POSITIONS * target_bytes)


@compiled
def steps_of(plan: Plan, images: int) -> int:
    """Images, or pairs of them."""
    return (images + 1) // 2 if plan.pairs else images


@compiled
def sum_kernel_gradients(
    plan: Plan,
    source: int,
    target_gradient: int,
    bases: int,
    bases_gradient: int,
    weights: NDArray[np.float32],
    weights_gradient: NDArray[np.float32],
    rows: Table,
    columns: Table,
    scratch: int,
    share: Share,
) -> None:
    """Adds what a share of the targets contributes.

    Args:
        plan: the problem, with ``along_batch``.
        source: address of the sources, channels last.
        target_gradient: address of dy, channels last.
        bases: address of the bases, laid out without pairs.
        bases_gradient: address of their gradient, this thread's own; added to. For given kernels,
            of theirs; written.
        weights: (positions, rank).
        weights_gradient: of the same shape; the share's positions are added to.
        rows: the source row of each target row and row of taps.
        columns: the same along columns.
        scratch: address of ``gradient_buffers(...).total`` bytes, zero at first.
        share: which rows, columns and images.
    """
    buffers = gradient_buffers(plan, share)
    kernels, kernel_bytes = scratch + buffers.kernels, buffers.kernel_bytes
    targets, target_bytes = scratch + buffers.sums, buffers.sum_bytes
    kept = np.full(plan.slots, OUTSIDE, np.int64)
    slots = np.full(plan.kernel_height, OUTSIDE, np.int64)
    near_weights = np.zeros((POSITIONS, plan.rank), np.float32)
    dots = np.zeros((POSITIONS, plan.rank), np.float32)
    for row in range(share.first_row, share.last_row):
        keep_rows(plan, rows[row], kept, slots, source, scratch, share)
        for column in range(share.first_column, share.last_column, POSITIONS):
            positions = min(POSITIONS, share.last_column - column)
            first = row * plan.target_width + column
            load_targets(plan, target_gradient, targets, target_bytes, first, positions, share)
            dots[:] = 0
            for p in range(POSITIONS):
                for k in range(plan.rank):
                    near_weights[p, k] = weights[first + p, k] if p < positions else 0
            for panel in range(plan.panels):
                vector, width = panel_of(plan, panel)
                for index in range(plan.units):
                    unit = unit_of(plan, index)
                    multiply_unit(
                        plan, unit, vector, width, rows[row], column, columns, slots, scratch,
                        buffers, share,
                    )  # fmt: skip
                    start = vector * plan.rows + width * (unit.tap * plan.words + unit.word)
                    if plan.given:
                        put_unit(
                            plan, unit, vector, width, bases_gradient, first, positions, kernels,
                            kernel_bytes,
                        )  # fmt: skip
                        continue
                    for p in range(0, positions, AT_ONCE):
                        contract(
                            kernels + p * kernel_bytes,
                            kernel_bytes,
                            bases + start * BYTES,
                            bases_gradient + start * BYTES,
                            plan.rows * plan.vectors * BYTES,
                            (unit.last_tap - unit.tap) * unit.length * width,
                            plan.rank,
                            near_weights[p].ctypes.data,
                            dots[p].ctypes.data,
                        )
            for p in range(positions):
                for k in range(plan.rank):
                    weights_gradient[first + p, k] += dots[p, k]


@compiled
def multiply_unit(
    plan: Plan,
    unit: Unit,
    vector: int,
    width: int,
    needed: Table,
    column: int,
    columns: Table,
    slots: Table,
    scratch: int,
    buffers: Buffers,
    share: Share,
) -> None:
    """Computes a unit of dW of neighboring targets; zeros for taps and targets outside."""
    whole = np.zeros(2, np.int64)
    steps = steps_of(plan, share.images)
    for tap in range(unit.tap, unit.last_tap):
        tap_row, tap_column = tap // plan.kernel_width, tap % plan.kernel_width
        offset = (tap - unit.tap) * unit.length * width * BYTES
        for p in range(POSITIONS):
            source_column = OUTSIDE
            if column + p < share.last_column and needed[tap_row] != OUTSIDE:
                source_column = columns[column + p, tap_column]
            panel = slots[tap_row] * row_bytes(plan, share)
            panel += (source_column - share.first_source) * panel_bytes(plan, share.images)
            multiply(
                plan.product,
                unit.length,
                width,
                scratch + panel + unit.word * 4,
                4,
                plan.source_channels * 4,
                int(source_column != OUTSIDE),
                whole.ctypes.data,
                steps,
                scratch + buffers.sums + p * buffers.sum_bytes + vector * steps * BYTES,
                scratch + buffers.kernels + p * buffers.kernel_bytes + offset,
                width * BYTES,
                0,
            )


@compiled
def put_unit(
    plan: Plan,
    unit: Unit,
    vector: int,
    width: int,
    gradient: int,
    first: int,
    positions: int,
    kernels: int,
    kernel_bytes: int,
) -> None:
    """Copies a unit of dW of neighboring targets to where the gradient of given kernels is."""
    source_step, target_step = steps_of_kernel(plan)
    for p in range(positions):
        kernel = gradient + (first + p) * plan.weight_bytes
        kernel += unit.word * source_step + vector * LANES * target_step
        for tap in range(unit.tap, unit.last_tap):
            put = (
                kernels + p * kernel_bytes + (tap - unit.tap) * unit.length * width * BYTES,
                kernel + tap * plan.itemsize,
                unit.length,
                min(width * LANES, plan.target_channels - vector * LANES),
                source_step,
                target_step,
                width * BYTES,
            )
            if plan.itemsize == 4:
                put_floats(*put)
            else:
                put_halves(*put)


@compiled
def load_targets(
    plan: Plan,
    gradient: int,
    targets: int,
    target_bytes: int,
    first: int,
    positions: int,
    share: Share,
) -> None:
    """Copies dy of neighboring targets into panels, one for each panel of the kernel's columns."""
    pixel = plan.target_channels * plan.itemsize
    whole = plan.target_height * plan.target_width * pixel
    steps = steps_of(plan, share.images)
    for step in range(steps):
        n = step * 2 if plan.pairs else step
        for p in range(positions):
            source = gradient + (share.first_image + n) * whole + (first + p) * pixel
            for panel in range(plan.panels):
                vector, width = panel_of(plan, panel)
                channels = min(width * LANES, plan.target_channels - vector * LANES)
                target = targets + p * target_bytes + (vector * steps + step * width) * BYTES
                start = source + vector * LANES * plan.itemsize
                load(plan, target, start, whole if n + 1 < share.images else 0, channels)
