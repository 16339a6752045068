"""Sums over taps, each position with a kernel of its own: the forward pass and the input's gradient.

``target[p] = sum over taps t of source[s(p, t)] W(p or s)[t]``, where source[s] is the N x C panel of
a position. A unit of a kernel is mixed from the bases for a few positions just before it is used,
while it stays in the cache; all the kernels together are never anywhere.
"""

import numpy as np

from convprior.local.engine.compiling import compiled
from convprior.local.engine.copying import copy, round_to_bfloat16
from convprior.local.engine.microkernel import ROWS, multiply_floats, multiply_pairs
from convprior.local.engine.mixing import mix_floats, mix_pairs
from convprior.local.engine.panels import keep_rows, panel_size, row_size
from convprior.local.engine.plan import Plan, Table


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
    first_image: int,
    images: int,
    first_row: int,
    last_row: int,
) -> None:
    """Computes rows of targets for some images; the arguments are addresses and tables."""
    panel_bytes = panel_size(plan, images, False)
    row_bytes = row_size(plan, images, False)
    sum_row = plan.vectors * 64
    sum_bytes = images * sum_row + 64
    mixed_bytes = plan.unit_rows * 256 + 128
    sums = scratch + plan.slots * row_bytes
    mixed = sums + plan.positions * sum_bytes
    kept = np.full(plan.slots, -1, np.int64)
    place = np.full(plan.kernel_height, -1, np.int64)
    taps = plan.kernel_height * plan.kernel_width
    segments = np.zeros((plan.positions, taps, 2), np.int64)
    counts = np.zeros(plan.positions, np.int64)
    started = np.zeros(plan.positions, np.int64)
    mixing = np.zeros((2, plan.positions), np.int64)
    for row in range(first_row, last_row):
        keep_rows(plan, rows[row], kept, place, source, scratch, first_image, images, False, 0)
        for column in range(0, plan.target_width, plan.positions):
            block = min(plan.positions, plan.target_width - column)
            vector = 0
            for panel in range(plan.panels):
                width = plan.vectors // plan.panels + (panel < plan.vectors % plan.panels)
                started[:] = 0
                for unit in range(plan.units):
                    tap, last_tap, word, length = unit * plan.group, 0, 0, plan.words
                    last_tap = min(tap + plan.group, taps)
                    if plan.blocks > 1:
                        tap, part = unit // plan.blocks, unit % plan.blocks
                        last_tap, word = tap + 1, part * plan.length
                        length = min(plan.length, plan.words - word)
                    counts[:] = 0
                    unit_row = 0
                    while tap < last_tap:
                        slot = place[tap // plan.kernel_width]
                        found = 0
                        if slot >= 0:
                            source_row = rows[row, tap // plan.kernel_width]
                            for p in range(block):
                                place_column = columns[column + p, tap % plan.kernel_width]
                                if place_column < 0:
                                    continue
                                position = row * plan.target_width + column + p
                                if plan.by_source:
                                    position = source_row * plan.source_width + place_column
                                mixing[0, found] = weights + position * plan.rank * 4
                                mixing[1, found] = mixed + p * mixed_bytes + unit_row * width * 64
                                segments[p, counts[p], 0] = (
                                    slot * row_bytes + place_column * panel_bytes + word * 4
                                )
                                segments[p, counts[p], 1] = unit_row * width * 64
                                counts[p] += 1
                                found += 1
                        if found > 0:
                            start = (vector * plan.rows + width * (tap * plan.words + word)) * 64
                            stride = plan.rows * plan.vectors * 64
                            if plan.pairs:
                                mix_pairs(
                                    bases + 2 * start,
                                    2 * stride,
                                    2 * length * width,
                                    plan.rank,
                                    mixing[0].ctypes.data,
                                    mixing[1].ctypes.data,
                                    found,
                                )
                            else:
                                mix_floats(
                                    bases + start,
                                    stride,
                                    length * width,
                                    plan.rank,
                                    mixing[0].ctypes.data,
                                    mixing[1].ctypes.data,
                                    found,
                                )
                        unit_row += length
                        tap += 1
                    for p in range(block):
                        if counts[p] > 0 or (unit == plan.units - 1 and started[p] == 0):
                            multiply(
                                plan.pairs,
                                images,
                                width,
                                scratch,
                                plan.words * 4,
                                4,
                                counts[p],
                                segments[p].ctypes.data,
                                length,
                                mixed + p * mixed_bytes,
                                sums + p * sum_bytes + vector * 64,
                                sum_row,
                                started[p],
                            )
                            started[p] = 1
                vector += width
            store(plan, sums, sum_bytes, target, first_image, images, row, column, block)


@compiled
def multiply(
    pairs: int,
    rows: int,
    vectors: int,
    a: int,
    a_row: int,
    a_step: int,
    segments: int,
    offsets: int,
    steps: int,
    b: int,
    c: int,
    c_row: int,
    accumulate: int,
) -> None:
    """A product with any number of rows: register tiles of nearly equal height."""
    tiles = -(-rows // ROWS)
    least, higher = rows // tiles, rows % tiles
    for tile in range(tiles):
        height = least + (tile < higher)
        if pairs:
            multiply_pairs(
                height, vectors, a, a_row, a_step, segments, offsets, steps, b, c, c_row, accumulate
            )
        else:
            multiply_floats(
                height, vectors, a, a_row, a_step, segments, offsets, steps, b, c, c_row, accumulate
            )
        a += height * a_row
        c += height * c_row


@compiled
def store(
    plan: Plan,
    sums: int,
    sum_bytes: int,
    target: int,
    first_image: int,
    images: int,
    row: int,
    column: int,
    block: int,
) -> None:
    """Copies the sums of neighboring positions to their places in a channels-last image."""
    pixel = plan.target_channels * plan.itemsize
    for n in range(images):
        place = (first_image + n) * plan.target_height + row
        address = target + (place * plan.target_width + column) * pixel
        for p in range(block):
            values = sums + p * sum_bytes + n * plan.vectors * 64
            if plan.itemsize == 2:
                round_to_bfloat16(address, values, plan.target_channels)
            else:
                copy(address, values, plan.target_channels * 2)
            address += pixel
