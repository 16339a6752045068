"""One image at a time: what the routines for combining weights of every sample share.

Where each sample has kernels of its own, mixing them first saves nothing, and K products a tap are
computed. They are as fast as any: the positions of one image are the rows of a product, and what
becomes of its result, a weighted sum or a gradient, happens while it is in the cache.
"""

from typing import NamedTuple

from convprior.local.engine.compiling import compiled
from convprior.local.engine.copying import copy, round_halves, widen
from convprior.local.engine.vectors import BYTES, FLOAT, ZEROS, Code, Value, vector_code

AT_ONCE = 512  # positions for which a basis is gone through: their data fits the second-level cache
_APART = 64  # bytes between buffers


class Shape(NamedTuple):
    """A layer, and how its channels are kept.

    Frames are images with ``left`` columns of zeros before and some behind, ``frame_width`` in all.
    A row of ``source`` channels takes ``words`` elements of 32 bits, floats or ``pairs`` of
    bfloat16; one of ``target`` channels takes ``vectors`` vectors of floats, in ``panels``.
    ``product`` is the address of the micro-kernel.
    """

    rank: int
    source: int
    target: int
    input_height: int
    input_width: int
    output_height: int
    output_width: int
    kernel_height: int
    kernel_width: int
    stride: int
    dilation: int
    left: int
    frame_width: int
    itemsize: int
    pairs: bool
    product: int
    words: int
    rows: int
    vectors: int
    panels: int


class Places(NamedTuple):
    """Where a thread keeps what: offsets into its scratch memory, in bytes."""

    inputs: int
    outputs: int
    sums: int
    products: int
    total: int


@compiled
def laid_out(inputs: int, outputs: int, sums: int, products: int) -> Places:
    """Buffers of so many bytes, one after the other."""
    second = inputs + _APART
    third = second + outputs + _APART
    fourth = third + sums + _APART
    return Places(0, second, third, fourth, fourth + products)


@compiled
def block_height(shape: Shape) -> int:
    """Rows of outputs for which a basis is gone through."""
    return min(max(1, AT_ONCE // shape.output_width), shape.output_height)


@compiled
def take(target: int, source: int, channels: int, itemsize: int, widened: bool) -> None:
    """Copies a pixel's channels into a buffer."""
    if widened:
        widen(target, source, channels)
    else:
        copy(target, source, channels * itemsize // 2)


@compiled
def give(target: int, source: int, channels: int, itemsize: int) -> None:
    """Copies a pixel's floats out of a buffer."""
    if itemsize == 2:
        round_halves(target, source, channels)
    else:
        copy(target, source, 2 * channels)


@vector_code
def clear(code: Code, count: Value, vectors: Value) -> None:
    """Writes ``count`` vectors of zeros."""
    with code.loop(count) as index:
        code.store(ZEROS, code.at(vectors, code.times(index, BYTES)))


@vector_code
def add_weighted(
    code: Code,
    positions: Value,
    vectors: Value,
    products: Value,
    weights: Value,
    sums: Value,
    step: Value,
) -> None:
    """``sums[p] += weights[p] products[p]``.

    Args:
        code: where to write.
        positions: how many.
        vectors: of a product.
        products: their address, one after the other.
        weights: address of a float a position.
        sums: address of the first sum.
        step: bytes from one sum to the next.
    """
    with code.loop(positions) as position:
        weight = code.splat(code.load(code.at(weights, code.times(position, 4)), FLOAT))
        product = code.at(products, code.times(code.times(vectors, position), BYTES))
        total = code.at(sums, code.times(step, position))
        with code.loop(vectors) as vector:
            offset = code.times(vector, BYTES)
            place = code.at(total, offset)
            value = code.load(code.at(product, offset))
            code.store(code.fma(weight, value, code.load(place)), place)
