"""Vector code between kernels and bases: mixing them, and the gradient of mixing them.

A kernel is the combination ``W(p) = sum_k w_k(p) B_k``. Both directions work on a tile of a few
kilobytes for several positions p at a time, so that a basis is read from the cache once for all of
them.
"""

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from convprior.local.engine.microkernel import HAS_PAIRS
from convprior.local.engine.vectors import (
    BYTES,
    FLOAT,
    FLOATS,
    INT64,
    POINTER,
    Code,
    Value,
    procedure,
)

POSITIONS = 4
BASES = 4


def _mix(code: Code, pairs: bool, *arguments: Value) -> None:
    bases, stride, vectors, rank, weights, tiles, positions = arguments
    builder = code.builder
    bases, weights, tiles = (builder.inttoptr(value, POINTER) for value in (bases, weights, tiles))
    last = 2 if pairs else 1
    zero = ir.Constant(FLOATS, None)

    def some(first: Value, count: int) -> None:
        """Mixes ``count`` vectors from the vector ``first`` on."""
        start = code.multiply(first, code.constant(BYTES))
        written = builder.udiv(start, code.constant(last))
        basis = code.at(bases, start)
        with code.loop(positions) as position:
            entry = code.multiply(position, code.constant(8))
            weight = builder.inttoptr(code.load(code.at(weights, entry), INT64), POINTER)
            tile = builder.inttoptr(code.load(code.at(tiles, entry), INT64), POINTER)
            sums = [code.variable(FLOATS) for _ in range(count)]
            for total in sums:
                code.set(total, zero)
            with code.loop(rank) as k:
                offset = code.multiply(k, code.constant(4))
                scalar = code.splat(code.load(code.at(weight, offset), FLOAT))
                row = code.at(basis, code.multiply(k, stride))
                for vector, total in enumerate(sums):
                    value = code.load(code.at(row, vector * BYTES))
                    code.set(total, code.fma(scalar, value, code.get(total)))
            tile = code.at(tile, written)
            for vector in range(0, count, last):
                value = code.get(sums[vector])
                if pairs:
                    value = code.round_pairs(value, code.get(sums[vector + 1]))
                code.store(value, code.at(tile, vector // last * BYTES))

    fours = builder.udiv(vectors, code.constant(4))
    with code.loop(fours) as four:
        some(code.multiply(four, code.constant(4)), 4)
    done = code.multiply(fours, code.constant(4))
    with code.loop(builder.udiv(builder.sub(vectors, done), code.constant(last))) as rest:
        some(code.add(done, code.multiply(rest, code.constant(last))), last)


@intrinsic
def mix_floats(
    typing: Any,
    bases: Any,
    stride: Any,
    vectors: Any,
    rank: Any,
    weights: Any,
    tiles: Any,
    positions: Any,
) -> Any:
    """Writes the tiles ``sum_k weight[k] * basis[k]`` of several positions.

    ``weights`` and ``tiles`` are the addresses of two lists of addresses, one a position.
    """
    return procedure("convprior_mix_floats", 7, lambda code, *rest: _mix(code, False, *rest))


@intrinsic
def mix_pairs(
    typing: Any,
    bases: Any,
    stride: Any,
    vectors: Any,
    rank: Any,
    weights: Any,
    tiles: Any,
    positions: Any,
) -> Any:
    """``mix_floats`` rounded once, at the end, to bfloat16."""
    return procedure("convprior_mix_pairs", 7, lambda code, *rest: _mix(code, HAS_PAIRS, *rest))


def _contract(code: Code, *arguments: Value) -> None:
    kernels, kernel_stride, bases, gradients, stride, vectors, rank, weights, dots = arguments
    builder = code.builder
    kernels, bases, gradients, weights, dots = (
        builder.inttoptr(value, POINTER) for value in (kernels, bases, gradients, weights, dots)
    )
    weight_row = code.multiply(rank, code.constant(4))

    def some(first: Value, count: int) -> None:
        """Contracts with ``count`` bases from the basis ``first`` on."""
        starts = [
            code.multiply(code.add(first, code.constant(basis)), stride) for basis in range(count)
        ]
        column = code.multiply(first, code.constant(4))
        sums = [[code.variable(FLOATS) for _ in range(count)] for _ in range(POSITIONS)]
        for row in sums:
            for total in row:
                code.set(total, ir.Constant(FLOATS, None))
        with code.loop(vectors) as vector:
            offset = code.multiply(vector, code.constant(BYTES))
            kernel = [
                code.load(
                    code.at(
                        code.at(kernels, offset),
                        code.multiply(kernel_stride, code.constant(position)),
                    )
                )
                for position in range(POSITIONS)
            ]
            for basis in range(count):
                value = code.load(code.at(code.at(bases, starts[basis]), offset))
                address = code.at(code.at(gradients, starts[basis]), offset)
                gradient = code.load(address)
                for position in range(POSITIONS):
                    total = sums[position][basis]
                    code.set(total, code.fma(kernel[position], value, code.get(total)))
                    entry = code.at(weights, code.multiply(weight_row, code.constant(position)))
                    weight = code.load(code.at(code.at(entry, column), 4 * basis), FLOAT)
                    gradient = code.fma(code.splat(weight), kernel[position], gradient)
                code.store(gradient, address)
        for position in range(POSITIONS):
            entry = code.at(
                code.at(dots, code.multiply(weight_row, code.constant(position))), column
            )
            for basis in range(count):
                address = code.at(entry, 4 * basis)
                total = code.sum_lanes(code.get(sums[position][basis]))
                code.store(builder.fadd(code.load(address, FLOAT), total), address)

    chunks = builder.udiv(rank, code.constant(BASES))
    with code.loop(chunks) as chunk:
        some(code.multiply(chunk, code.constant(BASES)), BASES)
    done = code.multiply(chunks, code.constant(BASES))
    end = builder.append_basic_block("end")
    choice = builder.switch(builder.sub(rank, done), end)
    for count in range(1, BASES):
        block = builder.append_basic_block(f"last_{count}")
        choice.add_case(count, block)
        builder.position_at_end(block)
        some(done, count)
        builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def contract(
    typing: Any,
    kernels: Any,
    kernel_stride: Any,
    bases: Any,
    gradients: Any,
    stride: Any,
    vectors: Any,
    rank: Any,
    weights: Any,
    dots: Any,
) -> Any:
    """The gradient of mixing, for four positions: ``dB_k += w_k(p) dW(p)``, ``dw_k(p) += <dW(p), B_k>``.

    ``weights`` and ``dots`` are tables of four rows of ``rank`` floats.
    """
    return procedure("convprior_contract", 9, _contract)
