"""The micro-kernel: a tile of a matrix product whose sums stay in registers.

``C[m, :] += sum_s sum_k A[s, m, k] B[s, k, :]`` for up to six rows m and four vectors of columns. On
AVX-512 that is 24 of the 32 registers for sums, four for a row of B and one for an element of A, so
24 multiply-adds share ten loads. The segments s are the taps of a kernel: their products are summed
without a detour through memory (the "batch-reduce" form of Georganas et al., 2020).

An element is 32 bits wide: a float, or a pair of bfloat16 that are neighbors along k.
"""

from typing import Any

from llvmlite import binding, ir
from numba.extending import intrinsic

from convprior.local.engine.vectors import (
    BYTES,
    FLOAT,
    FLOATS,
    POINTER,
    WORD,
    WORDS,
    Code,
    Value,
    procedure,
)

_FEATURES = binding.get_host_cpu_features()
HAS_PAIRS = bool(_FEATURES.get("avx512bf16"))
ROWS = 6
VECTORS = 4 if _FEATURES.get("avx512f") else 1


def _tile(code: Code, rows: int, vectors: int, pairs: bool, **argument: Value) -> None:
    """One register tile, unrolled."""
    a, b, c, a_row, a_step, c_row = (
        argument[name] for name in ("a", "b", "c", "a_row", "a_step", "c_row")
    )
    sums = [[code.variable(FLOATS) for _ in range(vectors)] for _ in range(rows)]
    zero = ir.Constant(FLOATS, None)
    outputs = [code.at(c, code.multiply(c_row, code.constant(row))) for row in range(rows)]
    fresh = code.builder.icmp_signed("==", argument["accumulate"], code.constant(0))
    with code.builder.if_else(fresh) as (then, otherwise):
        with then:
            for row in range(rows):
                for vector in range(vectors):
                    code.set(sums[row][vector], zero)
        with otherwise:
            for row in range(rows):
                for vector in range(vectors):
                    code.set(sums[row][vector], code.load(code.at(outputs[row], vector * BYTES)))
    with code.loop(argument["segments"]) as segment:
        offsets = code.at(argument["offsets"], code.multiply(segment, code.constant(16)))
        a_segment = code.at(a, code.load(offsets, a_row.type))
        b_segment = code.at(b, code.load(code.at(offsets, 8), a_row.type))
        starts = [
            code.at(a_segment, code.multiply(a_row, code.constant(row))) for row in range(rows)
        ]
        with code.loop(argument["steps"]) as step:
            a_offset = code.multiply(step, a_step)
            b_row = code.at(b_segment, code.multiply(step, code.constant(vectors * BYTES)))
            kind, element = (WORDS, WORD) if pairs else (FLOATS, FLOAT)
            columns = [code.load(code.at(b_row, v * BYTES), kind) for v in range(vectors)]
            for row in range(rows):
                scalar = code.splat(code.load(code.at(starts[row], a_offset), element), kind)
                for vector in range(vectors):
                    total = code.get(sums[row][vector])
                    if pairs:
                        total = code.dot_pairs(total, scalar, columns[vector])
                    else:
                        total = code.fma(scalar, columns[vector], total)
                    code.set(sums[row][vector], total)
    for row in range(rows):
        for vector in range(vectors):
            code.store(code.get(sums[row][vector]), code.at(outputs[row], vector * BYTES))


def _emit(code: Code, pairs: bool, rows: Value, vectors: Value, *rest: Value) -> None:
    """Jumps to the tile of ``rows`` by ``vectors``."""
    a, a_row, a_step, segments, offsets, steps, b, c, c_row, accumulate = rest
    builder = code.builder
    a, offsets, b, c = (builder.inttoptr(value, POINTER) for value in (a, offsets, b, c))
    which = code.add(code.multiply(rows, code.constant(VECTORS + 1)), vectors)
    end = builder.append_basic_block("end")
    choice = builder.switch(which, end)
    for row_count in range(1, ROWS + 1):
        for vector_count in range(1, VECTORS + 1):
            block = builder.append_basic_block(f"tile_{row_count}x{vector_count}")
            choice.add_case(row_count * (VECTORS + 1) + vector_count, block)
            builder.position_at_end(block)
            _tile(
                code,
                row_count,
                vector_count,
                pairs,
                a=a,
                a_row=a_row,
                a_step=a_step,
                segments=segments,
                offsets=offsets,
                steps=steps,
                b=b,
                c=c,
                c_row=c_row,
                accumulate=accumulate,
            )
            builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def multiply_floats(
    typing: Any,
    rows: Any,
    vectors: Any,
    a: Any,
    a_row: Any,
    a_step: Any,
    segments: Any,
    offsets: Any,
    steps: Any,
    b: Any,
    c: Any,
    c_row: Any,
    accumulate: Any,
) -> Any:
    return procedure(
        "convprior_multiply_floats", 12, lambda code, *values: _emit(code, False, *values)
    )


@intrinsic
def multiply_pairs(
    typing: Any,
    rows: Any,
    vectors: Any,
    a: Any,
    a_row: Any,
    a_step: Any,
    segments: Any,
    offsets: Any,
    steps: Any,
    b: Any,
    c: Any,
    c_row: Any,
    accumulate: Any,
) -> Any:
    return procedure(
        "convprior_multiply_pairs", 12, lambda code, *values: _emit(code, HAS_PAIRS, *values)
    )
