"""The gradient of the bases from an image: ``dB_k[t] += sum_p x(s(p, t)) (w_k(p) dy(p))'``.

A product along positions: ``w_k dy`` is computed for a few rows at a time and used for all taps. In
bfloat16, pairs are of neighboring positions.
"""

import numpy as np

from convprior.local.engine.compiling import compiled
from convprior.local.engine.copying import interleave, interleave_zeros, widen
from convprior.local.engine.images import Places, Shape, block_height, laid_out, take
from convprior.local.engine.microkernel import HAS_PAIRS, multiply
from convprior.local.engine.plan import OUTSIDE, Table, panel_of
from convprior.local.engine.vectors import BYTES, FLOAT, ZEROS, Code, Value, vector_code

_WORDS = 256  # 32-bit elements along positions: more of them, and fewer visits to the sums


@compiled
def kernels_places(shape: Shape) -> Places:
    """A frame of x, an image of dy, and ``w_k dy`` of some rows."""
    frame = shape.input_height * shape.frame_width * shape.source * 4
    outputs = shape.output_height * shape.output_width * shape.vectors * BYTES
    return laid_out(frame, outputs, 0, _rows(shape) * _steps(shape) * shape.vectors * BYTES)


@compiled
def _steps(shape: Shape) -> int:
    """Positions of a row, or pairs of them."""
    return (shape.output_width + 1) // 2 if shape.pairs else shape.output_width


@compiled
def _rows(shape: Shape) -> int:
    """Rows of outputs that are summed over at once."""
    return max(1, _WORDS // _steps(shape))


@compiled
def add_kernel_gradients(
    shape: Shape, x: int, grad_y: int, weights: int, gradients: int, rows: Table, scratch: int
) -> None:
    """Adds the part of one image.

    Args:
        shape: the layer, from inputs to outputs, with ``pairs`` along positions.
        x: address of the image, channels last.
        grad_y: address of dy, channels last.
        weights: address of (K, H', W') floats.
        gradients: address of the bases' gradients, laid out without pairs; added to.
        rows: the input row of each output row and row of taps.
        scratch: address of ``kernels_places(shape).total`` bytes, zero at first.
    """
    places = kernels_places(shape)
    outputs, step, size = scratch + places.outputs, shape.vectors * BYTES, shape.itemsize
    positions = shape.output_height * shape.output_width
    _take_frame(shape, x, scratch + places.inputs)
    for p in range(positions):
        source = grad_y + p * shape.target * size
        take(outputs + p * step, source, shape.target, size, size == 2)
    for first in range(0, shape.output_height, block_height(shape)):
        last = min(first + block_height(shape), shape.output_height)
        for k in range(shape.rank):
            for top in range(first, last, _rows(shape)):
                _add_rows(
                    shape, top, min(top + _rows(shape), last), scratch + places.inputs, outputs,
                    weights + k * positions * 4, scratch + places.products,
                    gradients + k * shape.rows * step, rows,
                )  # fmt: skip


@compiled
def _take_frame(shape: Shape, x: int, frame: int) -> None:
    """Copies an image into its frame: floats, or with pairs (x(i, j), x(i, j + stride)) at j."""
    channels, size = shape.source, shape.itemsize
    ahead = shape.stride if shape.pairs else 0
    for row in range(shape.input_height):
        for column in range(-min(ahead, shape.left), shape.input_width):
            place = row * shape.frame_width + shape.left + column
            target = frame + place * channels * 4
            source = x + (row * shape.input_width + column) * channels * size
            other = source + ahead * channels * size
            inside = column + ahead < shape.input_width
            if not shape.pairs:
                take(target, source, channels, size, size == 2)
            elif column < 0 and inside:
                widen(target, other, channels)  # the pair (0, x)
            elif column >= 0 and inside:
                interleave(target, source, other, channels)
            elif column >= 0:
                interleave_zeros(target, source, channels)


@compiled
def _add_rows(
    shape: Shape,
    first_row: int,
    last_row: int,
    frame: int,
    outputs: int,
    weights: int,
    weighted: int,
    gradients: int,
    rows: Table,
) -> None:
    """Adds the part of some rows of outputs to the gradient of one basis."""
    segments = np.zeros((last_row - first_row, 2), np.int64)
    pixel, step = shape.source * 4, shape.vectors * BYTES
    for panel in range(shape.panels):
        vector, width = panel_of(shape, panel)
        row_bytes = _steps(shape) * width * BYTES
        for row in range(first_row, last_row):
            first = row * shape.output_width
            weigh = (
                shape.output_width,
                width,
                outputs + first * step + vector * BYTES,
                step,
                weights + first * 4,
                weighted + (row - first_row) * row_bytes,
            )
            if shape.pairs:
                _weigh_pairs(*weigh)
            else:
                _weigh_floats(*weigh)
        for tap in range(shape.kernel_height * shape.kernel_width):
            column = tap % shape.kernel_width * shape.dilation
            found = 0
            for row in range(first_row, last_row):
                source_row = rows[row, tap // shape.kernel_width]
                if source_row != OUTSIDE:
                    segments[found, 0] = (source_row * shape.frame_width + column) * pixel
                    segments[found, 1] = (row - first_row) * row_bytes
                    found += 1
            multiply(
                shape.product,
                shape.source,
                width,
                frame,
                4,
                (2 if shape.pairs else 1) * shape.stride * pixel,
                found,
                segments.ctypes.data,
                _steps(shape),
                weighted,
                gradients + (vector * shape.rows + tap * shape.source * width) * BYTES,
                width * BYTES,
                1,
            )


def _weigh(
    code: Code,
    count: Value,
    vectors: Value,
    outputs: Value,
    step: Value,
    weights: Value,
    results: Value,
    *,
    pairs: bool,
) -> None:
    """Multiplies rows by their weights.

    Args:
        code: where to write.
        count: how many rows.
        vectors: of a row.
        outputs: address of the first row, of floats.
        step: bytes from one row to the next.
        weights: address of a float a row.
        results: address of the first result; the next one follows it.
        pairs: two neighboring rows, rounded to bfloat16, become one; zeros follow an odd last one.
    """
    builder = code.builder

    def weighted(row: Value, vector: Value) -> Value:
        weight = code.splat(code.load(code.at(weights, code.times(row, 4)), FLOAT))
        place = code.at(code.at(outputs, code.times(step, row)), code.times(vector, BYTES))
        return builder.fmul(weight, code.load(place))

    def place_of(result: Value, vector: Value) -> Value:
        index = builder.add(code.times(vectors, result), vector)
        return code.at(results, code.times(index, BYTES))

    if not pairs:
        with code.loop(count) as row, code.loop(vectors) as vector:
            code.store(weighted(row, vector), place_of(row, vector))
        return
    twos = builder.udiv(count, code.constant(2))
    with code.loop(twos) as two, code.loop(vectors) as vector:
        even = code.times(two, 2)
        odd = builder.add(even, code.constant(1))
        both = code.round_neighbors(weighted(even, vector), weighted(odd, vector))
        code.store(both, place_of(two, vector))
    with code.loop(builder.and_(count, code.constant(1))), code.loop(vectors) as vector:
        last = weighted(code.times(twos, 2), vector)
        code.store(code.round_neighbors(last, ZEROS), place_of(twos, vector))


_weigh_floats = vector_code(_weigh, pairs=False)
_weigh_pairs = vector_code(_weigh, pairs=HAS_PAIRS)
