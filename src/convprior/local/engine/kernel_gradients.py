"""The gradient of every position's kernel, contracted at once to that of bases and weights.

``dW(p)[t] = source[s(p, t)]' dy[p]`` is a product over the batch. It is computed one unit at a time
for a few positions, added to ``dB_k += w_k(p) dW(p)`` and ``dw_k(p) = <dW(p), B_k>``, and forgotten.
"""

import numpy as np
from numpy.typing import NDArray

from convprior.local.engine.compiling import compiled
from convprior.local.engine.copying import copy, interleave, widen
from convprior.local.engine.mixing import POSITIONS, contract
from convprior.local.engine.panels import keep_rows, panel_size, row_size
from convprior.local.engine.plan import Plan, Table
from convprior.local.engine.sums import multiply


@compiled
def sum_kernel_gradients(
    plan: Plan,
    source: int,
    target_gradient: int,
    bases: int,
    weights: NDArray[np.float32],
    bases_gradient: int,
    weights_gradient: NDArray[np.float32],
    rows: Table,
    columns: Table,
    scratch: int,
    zeros: int,
    first_image: int,
    images: int,
    first_row: int,
    last_row: int,
) -> None:
    """Adds the gradients of some rows of targets and some images."""
    steps = (images + 1) // 2 if plan.pairs else images
    panel_bytes = panel_size(plan, images, plan.pairs)
    row_bytes = row_size(plan, images, plan.pairs)
    target_bytes = steps * plan.vectors * 64 + 64
    kernel_bytes = plan.unit_rows * 256 + 128
    targets = scratch + plan.slots * row_bytes
    kernels = targets + plan.positions * target_bytes
    stride = plan.rows * plan.vectors * 64
    kept = np.full(plan.slots, -1, np.int64)
    place = np.full(plan.kernel_height, -1, np.int64)
    taps = plan.kernel_height * plan.kernel_width
    whole = np.zeros(2, np.int64)
    some_weights = np.zeros((plan.positions, plan.rank), np.float32)
    dots = np.zeros((plan.positions, plan.rank), np.float32)
    for row in range(first_row, last_row):
        keep_rows(
            plan, rows[row], kept, place, source, scratch, first_image, images, plan.pairs, zeros
        )
        for column in range(0, plan.target_width, plan.positions):
            block = min(plan.positions, plan.target_width - column)
            first = row * plan.target_width + column
            load_targets(
                plan,
                target_gradient,
                targets,
                target_bytes,
                first_image,
                images,
                first,
                block,
                zeros,
            )
            some_weights[:] = 0
            some_weights[:block] = weights[first : first + block]
            dots[:] = 0
            vector = 0
            for panel in range(plan.panels):
                width = plan.vectors // plan.panels + (panel < plan.vectors % plan.panels)
                for unit in range(plan.units):
                    tap, word, length = unit * plan.group, 0, plan.words
                    last_tap = min(tap + plan.group, taps)
                    if plan.blocks > 1:
                        tap, part = unit // plan.blocks, unit % plan.blocks
                        last_tap, word = tap + 1, part * plan.length
                        length = min(plan.length, plan.words - word)
                    start = (vector * plan.rows + width * (tap * plan.words + word)) * 64
                    unit_row = 0
                    while tap < last_tap:
                        slot = place[tap // plan.kernel_width]
                        for p in range(plan.positions):
                            place_column = -1
                            if p < block:
                                place_column = columns[column + p, tap % plan.kernel_width]
                            valid = slot >= 0 and place_column >= 0
                            multiply(
                                plan.pairs,
                                length,
                                width,
                                scratch + slot * row_bytes + place_column * panel_bytes + word * 4,
                                4,
                                plan.source_channels * 4,
                                int(valid),
                                whole.ctypes.data,
                                steps,
                                targets + p * target_bytes + vector * steps * 64,
                                kernels + p * kernel_bytes + unit_row * width * 64,
                                width * 64,
                                0,
                            )
                        unit_row += length
                        tap += 1
                    for p in range(0, block, POSITIONS):
                        contract(
                            kernels + p * kernel_bytes,
                            kernel_bytes,
                            bases + start,
                            bases_gradient + start,
                            stride,
                            unit_row * width,
                            plan.rank,
                            some_weights[p].ctypes.data,
                            dots[p].ctypes.data,
                        )
                vector += width
            weights_gradient[first : first + block] += dots[:block]


@compiled
def load_targets(
    plan: Plan,
    image: int,
    targets: int,
    target_bytes: int,
    first_image: int,
    images: int,
    first: int,
    block: int,
    zeros: int,
) -> None:
    """Copies the gradients of neighboring targets into panels (columns, N, vectors of a panel)."""
    pixel = plan.target_channels * plan.itemsize
    whole = plan.target_height * plan.target_width * pixel
    step = 2 if plan.pairs else 1
    steps = -(-images // step)
    for n in range(0, images, step):
        low = image + (first_image + n) * whole + first * pixel
        for p in range(block):
            vector = 0
            for panel in range(plan.panels):
                width = plan.vectors // plan.panels + (panel < plan.vectors % plan.panels)
                channel = vector * 16
                channels = min(width * 16, plan.target_channels - channel)
                address = targets + p * target_bytes + (vector * steps + n // step * width) * 64
                start = low + channel * plan.itemsize
                if plan.pairs:
                    high = start + whole if n + 1 < images else zeros
                    interleave(address, start, high, channels)
                elif plan.itemsize == 2:
                    widen(address, start, channels)
                else:
                    copy(address, start, channels * 2)
                vector += width
            low += pixel
