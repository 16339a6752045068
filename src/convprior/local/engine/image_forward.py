"""The output of an image: ``y(p) = sum_k w_k(p) sum_t B_k[t]' x(s(p, t))``."""

import numpy as np

from convprior.local.engine.compiling import compiled
from convprior.local.engine.images import (
    Places,
    Shape,
    add_weighted,
    block_height,
    clear,
    give,
    laid_out,
    take,
)
from convprior.local.engine.microkernel import VECTORS, multiply
from convprior.local.engine.plan import OUTSIDE, Table, panel_of
from convprior.local.engine.vectors import BYTES

_COLUMNS = 48  # neighbors whose products stay in the first-level cache


@compiled
def forward_places(shape: Shape) -> Places:
    """A frame of x, the outputs of a block of rows, and some products."""
    frame = shape.input_height * shape.frame_width * shape.words * 4
    sums = block_height(shape) * shape.output_width * shape.vectors * BYTES
    return laid_out(frame, 0, sums, _COLUMNS * VECTORS * BYTES)


@compiled
def forward_image(
    shape: Shape, x: int, bases: int, weights: int, y: int, rows: Table, scratch: int
) -> None:
    """Computes one image.

    Args:
        shape: the layer, from inputs to outputs.
        x: address of the image, channels last.
        bases: address of the bases, as ``Tiling.lay_out`` has them.
        weights: address of (K, H', W') floats.
        y: address of the outputs, channels last; written.
        rows: the input row of each output row and row of taps.
        scratch: address of ``forward_places(shape).total`` bytes, zero at first.
    """
    places = forward_places(shape)
    frame, sums = scratch + places.inputs, scratch + places.sums
    pixel, step = shape.words * 4, shape.vectors * BYTES
    positions, height = shape.output_height * shape.output_width, block_height(shape)
    for row in range(shape.input_height):
        for column in range(shape.input_width):
            take(
                frame + (row * shape.frame_width + shape.left + column) * pixel,
                x + (row * shape.input_width + column) * shape.source * shape.itemsize,
                shape.source,
                shape.itemsize,
                shape.itemsize == 2 and not shape.pairs,
            )
    for first in range(0, shape.output_height, height):
        last = min(first + height, shape.output_height)
        count = (last - first) * shape.output_width
        clear(count * shape.vectors, sums)
        for k in range(shape.rank):
            _add_basis(
                shape, first, last, frame, bases + k * shape.rows * step,
                weights + k * positions * 4, sums, scratch + places.products, rows,
            )  # fmt: skip
        for p in range(count):
            place = y + (first * shape.output_width + p) * shape.target * shape.itemsize
            give(place, sums + p * step, shape.target, shape.itemsize)


@compiled
def _add_basis(
    shape: Shape,
    first_row: int,
    last_row: int,
    frame: int,
    basis: int,
    weights: int,
    sums: int,
    products: int,
    rows: Table,
) -> None:
    """Adds the part of a basis to some rows of outputs."""
    segments = np.zeros((shape.kernel_height * shape.kernel_width, 2), np.int64)
    pixel, step = shape.words * 4, shape.vectors * BYTES
    for panel in range(shape.panels):
        vector, width = panel_of(shape, panel)
        for row in range(first_row, last_row):
            found = 0
            for tap in range(len(segments)):
                source_row = rows[row, tap // shape.kernel_width]
                if source_row != OUTSIDE:
                    column = tap % shape.kernel_width * shape.dilation
                    segments[found, 0] = (source_row * shape.frame_width + column) * pixel
                    segments[found, 1] = tap * shape.words * width * BYTES
                    found += 1
            for column in range(0, shape.output_width, _COLUMNS):
                count = min(_COLUMNS, shape.output_width - column)
                p = row * shape.output_width + column
                multiply(
                    shape.product,
                    count,
                    width,
                    frame + column * shape.stride * pixel,
                    shape.stride * pixel,
                    4,
                    found,
                    segments.ctypes.data,
                    shape.words,
                    basis + vector * shape.rows * BYTES,
                    products,
                    width * BYTES,
                    0,
                )
                place = sums + (p - first_row * shape.output_width) * step + vector * BYTES
                add_weighted(count, width, products, weights + p * 4, place, step)
