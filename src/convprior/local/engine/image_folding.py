"""The gradients of an image and of its combining weights, from the same products.

``G_k(p)[t] = B_k[t] dy(p)`` serves both: ``dw_k(p) = sum_t <G_k(p)[t], x(s(p, t))>`` and
``dx(s(p, t)) += w_k(p) G_k(p)[t]``. So K convolutions give what takes 2 K by ``conv(x, B_k)``. Some
positions of G are computed, used at once, and forgotten.
"""

import numpy as np

from convprior.local.engine.compiling import compiled
from convprior.local.engine.images import (
    Places,
    Shape,
    block_height,
    clear,
    give,
    laid_out,
    take,
)
from convprior.local.engine.microkernel import VECTORS, multiply
from convprior.local.engine.plan import OUTSIDE, Table, panel_of
from convprior.local.engine.vectors import BYTES, FLOAT, ZEROS, Code, Value, vector_code

_COLUMNS = 48  # neighbors whose products stay in the first-level cache


@compiled
def folding_places(shape: Shape) -> Places:
    """Images of x and dx together, an image of dy, sums of a block's positions, some products."""
    images = 2 * shape.input_height * shape.input_width * shape.vectors * BYTES
    outputs = shape.output_height * shape.output_width * shape.words * 4
    sums = block_height(shape) * shape.output_width * BYTES
    return laid_out(images, outputs, sums, _COLUMNS * VECTORS * BYTES)


@compiled
def fold_image(
    shape: Shape,
    x: int,
    grad_y: int,
    bases: int,
    weights: int,
    grad_x: int,
    grad_weights: int,
    rows: Table,
    columns: Table,
    scratch: int,
) -> None:
    """Both gradients of one image.

    Args:
        shape: the layer, from outputs to inputs.
        x: address of the image, channels last.
        grad_y: address of dy, channels last.
        bases: address of the bases, as ``Tiling.lay_out`` has them.
        weights: address of (K, H', W') floats.
        grad_x: address of dx, channels last; written.
        grad_weights: address of dw, (K, H', W') floats; written.
        rows: the input row of each output row and row of taps.
        columns: the same along columns.
        scratch: address of ``folding_places(shape).total`` bytes, zero at first.
    """
    places = folding_places(shape)
    outputs, dots = scratch + places.outputs, scratch + places.sums
    step, size = shape.vectors * BYTES, shape.itemsize
    positions = shape.output_height * shape.output_width
    pixels = shape.input_height * shape.input_width
    inputs, gradients = scratch + places.inputs, scratch + places.inputs + pixels * step
    widened = size == 2 and not shape.pairs
    for p in range(positions):
        source = grad_y + p * shape.source * size
        take(outputs + p * shape.words * 4, source, shape.source, size, widened)
    for p in range(pixels):
        take(inputs + p * step, x + p * shape.target * size, shape.target, size, size == 2)
    clear(pixels * shape.vectors, gradients)
    for first in range(0, shape.output_height, block_height(shape)):
        last = min(first + block_height(shape), shape.output_height)
        for k in range(shape.rank):
            plane = k * positions * 4
            _fold_rows(
                shape, first, last, outputs, inputs, gradients, bases + k * shape.rows * step,
                weights + plane, dots, scratch + places.products, rows, columns,
            )  # fmt: skip
            start = grad_weights + plane + first * shape.output_width * 4
            _sum_up((last - first) * shape.output_width, dots, start)
    for p in range(pixels):
        give(grad_x + p * shape.target * size, gradients + p * step, shape.target, size)


@compiled
def _fold_rows(
    shape: Shape,
    first_row: int,
    last_row: int,
    outputs: int,
    inputs: int,
    gradients: int,
    basis: int,
    weights: int,
    dots: int,
    products: int,
    rows: Table,
    columns: Table,
) -> None:
    """Computes and uses G of one basis and some rows of outputs, tap by tap."""
    whole = np.zeros(2, np.int64)
    step = shape.vectors * BYTES
    for panel in range(shape.panels):
        vector, width = panel_of(shape, panel)
        for tap in range(shape.kernel_height * shape.kernel_width):
            tap_row, tap_column = tap // shape.kernel_width, tap % shape.kernel_width
            left, right = _inside(columns, tap_column)
            kernel = basis + (vector * shape.rows + width * tap * shape.words) * BYTES
            for row in range(first_row, last_row):
                if rows[row, tap_row] == OUTSIDE:
                    continue
                for column in range(left, right, _COLUMNS):
                    count = min(_COLUMNS, right - column)
                    p = row * shape.output_width + column
                    multiply(
                        shape.product,
                        count,
                        width,
                        outputs + p * shape.words * 4,
                        shape.words * 4,
                        4,
                        1,
                        whole.ctypes.data,
                        shape.words,
                        kernel,
                        products,
                        width * BYTES,
                        0,
                    )
                    near = rows[row, tap_row] * shape.input_width + columns[column, tap_column]
                    _use(
                        count,
                        width,
                        products,
                        inputs + near * step + vector * BYTES,
                        gradients + near * step + vector * BYTES,
                        shape.stride * step,
                        weights + p * 4,
                        dots + (p - first_row * shape.output_width) * BYTES,
                    )


@compiled
def _inside(columns: Table, tap: int) -> tuple[int, int]:
    """The range of outputs whose tap lies inside the input."""
    first, last = 0, len(columns)
    while first < last and columns[first, tap] == OUTSIDE:
        first += 1
    while last > first and columns[last - 1, tap] == OUTSIDE:
        last -= 1
    return first, last


@vector_code
def _use(
    code: Code,
    positions: Value,
    vectors: Value,
    products: Value,
    inputs: Value,
    gradients: Value,
    step: Value,
    weights: Value,
    dots: Value,
) -> None:
    """Uses a part of G of several positions.

    Args:
        code: where to write.
        positions: how many.
        vectors: of the part.
        products: address of the part, one row a position.
        inputs: address of that part of x.
        gradients: address of that part of dx, added to.
        step: bytes from one position to the next, of both.
        weights: address of a float a position.
        dots: address of a vector a position, whose lanes add up to the gradient of the weight.
    """
    with code.loop(positions) as position:
        weight = code.splat(code.load(code.at(weights, code.times(position, 4)), FLOAT))
        product = code.at(products, code.times(code.times(vectors, position), BYTES))
        near, target = (code.at(base, code.times(step, position)) for base in (inputs, gradients))
        place = code.at(dots, code.times(position, BYTES))
        total = code.variable(code.load(place))
        with code.loop(vectors) as vector:
            offset = code.times(vector, BYTES)
            value = code.load(code.at(product, offset))
            code.set(total, code.fma(value, code.load(code.at(near, offset)), code.get(total)))
            added = code.at(target, offset)
            code.store(code.fma(weight, value, code.load(added)), added)
        code.store(code.get(total), place)


@vector_code
def _sum_up(code: Code, count: Value, vectors: Value, results: Value) -> None:
    """Writes the sum of each of ``count`` vectors, and zeros where they were."""
    with code.loop(count) as index:
        place = code.at(vectors, code.times(index, BYTES))
        code.store(code.sum_lanes(code.load(place)), code.at(results, code.times(index, 4)))
        code.store(ZEROS, place)
