"""The micro-kernel: a tile of a matrix product whose sums stay in registers.

``C[m, :] += sum_s sum_k A[s, m, k] B[s, k, :]`` for up to six rows m and four vectors of columns.
With AVX-512 that is 24 of the 32 registers for sums, four for a row of B and one for an element of
A, so 24 multiply-adds share ten loads. The segments s are the taps of a kernel: their products are
summed without a detour through memory, the "batch-reduce" product of Georganas et al. (2019,
arXiv:1906.06440).

An element of A and B is 32 bits wide: a float, or two bfloat16 that are neighbors along k.
"""

from functools import cache
from inspect import signature
from typing import Any

from llvmlite import binding
from numba.core import config

from convprior.local.engine.compiling import compiled_callback
from convprior.local.engine.vectors import (
    BYTES,
    FLOAT,
    FLOATS,
    INT64,
    WORD,
    WORDS,
    ZEROS,
    Code,
    Value,
    indirect,
    vector_code,
)

# Numba can be told to compile for another processor; then nothing is assumed of it.
_SETTINGS: Any = config
_RESTRICTED = _SETTINGS.CPU_NAME or _SETTINGS.CPU_FEATURES or not _SETTINGS.ENABLE_AVX
_FEATURES = {} if _RESTRICTED else binding.get_host_cpu_features()
HAS_PAIRS = bool(_FEATURES.get("avx512bf16"))
ROWS = 6
VECTORS = 4 if _FEATURES.get("avx512f") else 1


def _multiply(
    code: Code,
    rows: Value,
    vectors: Value,
    a: Value,
    a_row: Value,
    a_step: Value,
    segments: Value,
    offsets: Value,
    steps: Value,
    b: Value,
    c: Value,
    c_row: Value,
    add: Value,
    *,
    pairs: bool,
) -> None:
    """A product, in tiles of nearly equal height.

    Args:
        code: where to write.
        rows: of C; any number.
        vectors: of a row, at most ``VECTORS``.
        a: address of A.
        a_row: bytes from one m to the next.
        a_step: bytes from one k to the next.
        segments: how many.
        offsets: address of two integers a segment, its offsets in A and B.
        steps: k of a segment.
        b: address of B, whose rows are contiguous and ``vectors`` vectors long.
        c: address of C.
        c_row: bytes from one m to the next.
        add: 0 to overwrite C.
        pairs: elements are pairs of bfloat16, with sums in float32.
    """
    builder = code.builder
    tiles = builder.sdiv(builder.add(rows, code.constant(ROWS - 1)), code.constant(ROWS))
    with code.loop(tiles) as tile:
        first, last = (
            builder.sdiv(code.times(rows, index), tiles)
            for index in (tile, builder.add(tile, code.constant(1)))
        )
        a_tile, c_tile = (
            builder.add(base, code.times(first, row)) for base, row in ((a, a_row), (c, c_row))
        )
        operands = (a_tile, a_row, a_step, segments, offsets, steps, b, c_tile, c_row, add)
        _choose(code, pairs, builder.sub(last, first), vectors, *operands)


def _choose(code: Code, pairs: bool, rows: Value, vectors: Value, *operands: Value) -> None:
    """Jumps to the code of a tile's size."""
    builder = code.builder
    end = builder.append_basic_block("end")
    choice = builder.switch(builder.add(code.times(rows, VECTORS + 1), vectors), end)
    for height in range(1, ROWS + 1):
        for width in range(1, VECTORS + 1):
            block = builder.append_basic_block(f"tile_{height}x{width}")
            choice.add_case(height * (VECTORS + 1) + width, block)
            builder.position_at_end(block)
            _tile(code, pairs, height, width, *operands)
            builder.branch(end)
    builder.position_at_end(end)


def _tile(
    code: Code,
    pairs: bool,
    height: int,
    width: int,
    a: Value,
    a_row: Value,
    a_step: Value,
    segments: Value,
    offsets: Value,
    steps: Value,
    b: Value,
    c: Value,
    c_row: Value,
    add: Value,
) -> None:
    places = [(row, vector) for row in range(height) for vector in range(width)]
    outputs = {
        (row, vector): code.at(code.at(c, code.times(c_row, row)), vector * BYTES)
        for row, vector in places
    }
    sums = {place: code.variable(ZEROS) for place in places}
    with code.builder.if_then(code.builder.icmp_signed("!=", add, code.constant(0))):
        for place in places:
            code.set(sums[place], code.load(outputs[place]))
    element, vector_kind = (WORD, WORDS) if pairs else (FLOAT, FLOATS)
    multiply_add = code.dot_pairs if pairs else code.fma
    with code.loop(segments) as segment:
        entry = code.at(offsets, code.times(segment, 16))
        a_start = code.at(a, code.load(entry, INT64))
        b_start = code.at(b, code.load(code.at(entry, 8), INT64))
        a_rows = [code.at(a_start, code.times(a_row, row)) for row in range(height)]
        with code.loop(steps) as step:
            a_offset = code.times(step, a_step)
            b_row = code.at(b_start, code.times(step, width * BYTES))
            b_vectors = [code.load(code.at(b_row, v * BYTES), vector_kind) for v in range(width)]
            for row in range(height):
                scalar = code.load(code.at(a_rows[row], a_offset), element)
                a_vector = code.splat(scalar, vector_kind)
                for vector in range(width):
                    total = sums[row, vector]
                    code.set(total, multiply_add(a_vector, b_vectors[vector], code.get(total)))
    for place in places:
        code.store(code.get(sums[place]), outputs[place])


_multiply_floats = vector_code(_multiply, pairs=False)
_multiply_pairs = vector_code(_multiply, pairs=HAS_PAIRS)

multiply = indirect(_multiply)
"""``multiply(address, rows, ...)`` runs the procedure at ``product(pairs).address``."""


def _floats(
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
    add: int,
) -> None:
    _multiply_floats(rows, vectors, a, a_row, a_step, segments, offsets, steps, b, c, c_row, add)


def _pairs(
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
    add: int,
) -> None:
    _multiply_pairs(rows, vectors, a, a_row, a_step, segments, offsets, steps, b, c, c_row, add)


@cache
def product(pairs: bool) -> Any:
    """The compiled product of floats, or of pairs of bfloat16 (which needs ``HAS_PAIRS``)."""
    arguments = len(signature(_multiply).parameters) - 2
    return compiled_callback(_pairs if pairs else _floats, arguments)
