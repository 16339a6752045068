"""Vector code between kernels and bases: mixing them, and the gradient of mixing them.

A kernel is the combination ``W(p) = sum_k w_k(p) B_k``. Both directions work on a part of a kernel,
some kilobytes, for several positions p at a time, so that a basis is read from the cache once for
all of them.
"""

from llvmlite import ir

from convprior.local.engine.microkernel import HAS_PAIRS
from convprior.local.engine.vectors import (
    BYTES,
    FLOAT,
    FLOATS,
    HALVES,
    INT64,
    LANES,
    WORDS,
    ZEROS,
    Code,
    Value,
    vector_code,
)

POSITIONS = 4  # of ``contract``: with four bases at a time, sixteen sums in registers
_BASES = 4
_VECTORS = 4  # of ``mix``: with as many positions, sixteen sums in registers
_TOGETHER = 4


def _mix(
    code: Code,
    bases: Value,
    stride: Value,
    vectors: Value,
    rank: Value,
    weights: Value,
    results: Value,
    positions: Value,
    *,
    pairs: bool,
) -> None:
    """Mixes a part of the kernels of several positions.

    Args:
        code: where to write.
        bases: address of that part of the first basis.
        stride: bytes from one basis to the next.
        vectors: of the part.
        rank: how many bases.
        weights: address of a list of addresses, those of a position's ``rank`` weights.
        results: address of a list of addresses, where ``sum_k weight[k] * basis[k]`` goes.
        positions: how many.
        pairs: bases are pairs of bfloat16; the sums, in float32, are rounded once at the end.
    """
    builder = code.builder

    def values(row: Value, count: int) -> list[Value]:
        """So many vectors of floats."""
        if not pairs:
            return [code.load(code.at(row, vector * BYTES)) for vector in range(count)]
        halves = [code.load(code.at(row, v * BYTES // 2), HALVES) for v in range(count)]
        high = ir.Constant(WORDS, [16] * LANES)
        words = [builder.shl(builder.zext(half, WORDS), high) for half in halves]
        return [builder.bitcast(word, FLOATS) for word in words]

    def mix_some(offset: Value, count: int, first: Value, several: int) -> None:
        """``count`` vectors of floats of ``several`` positions, all their sums in registers."""
        basis = code.at(bases, offset)
        entries = [code.times(builder.add(first, code.constant(p)), 8) for p in range(several)]
        factors = [code.load(code.at(weights, entry), INT64) for entry in entries]
        sums = [[code.variable(ZEROS) for _ in range(count)] for _ in range(several)]
        with code.loop(rank) as k:
            row = values(code.at(basis, code.times(k, stride)), count)
            for factor, totals in zip(factors, sums, strict=True):
                scalar = code.splat(code.load(code.at(factor, code.times(k, 4)), FLOAT))
                for value, total in zip(row, totals, strict=True):
                    code.set(total, code.fma(scalar, value, code.get(total)))
        for entry, totals in zip(entries, sums, strict=True):
            mixed = [code.get(total) for total in totals]
            if pairs:
                mixed = list(map(code.round_pairs, mixed[::2], mixed[1::2]))
            result = code.at(code.load(code.at(results, entry), INT64), offset)
            for vector, value in enumerate(mixed):
                code.store(value, code.at(result, vector * BYTES))

    def mix_positions(offset: Value, count: int) -> None:
        groups = builder.udiv(positions, code.constant(_TOGETHER))
        done = code.times(groups, _TOGETHER)
        with code.loop(groups) as group:
            mix_some(offset, count, code.times(group, _TOGETHER), _TOGETHER)
        with code.loop(builder.sub(positions, done)) as rest:
            mix_some(offset, count, builder.add(done, rest), 1)

    deep = 2 if pairs else 1  # vectors of floats in a vector of the layout
    at_once = _VECTORS // deep
    several = builder.udiv(vectors, code.constant(at_once))
    done = code.times(several, at_once)
    with code.loop(several) as index:
        mix_positions(code.times(index, at_once * BYTES), _VECTORS)
    with code.loop(builder.sub(vectors, done)) as index:
        mix_positions(code.times(builder.add(done, index), BYTES), deep)


mix_floats = vector_code(_mix, pairs=False)
mix_pairs = vector_code(_mix, pairs=HAS_PAIRS)


@vector_code
def contract(
    code: Code,
    kernels: Value,
    kernel_stride: Value,
    bases: Value,
    gradients: Value,
    stride: Value,
    vectors: Value,
    rank: Value,
    weights: Value,
    dots: Value,
) -> None:
    """The gradient of mixing for four positions: ``dB_k += w_k dW`` and ``dw_k += <dW, B_k>``.

    Args:
        code: where to write.
        kernels: address of dW.
        kernel_stride: bytes from one position to the next.
        bases: address of B.
        gradients: address of dB.
        stride: bytes from one basis to the next, of both.
        vectors: of the part of a kernel that is contracted.
        rank: how many bases.
        weights: address of w, four rows of ``rank`` floats.
        dots: address of dw, likewise.
    """
    builder = code.builder

    def table(base: Value, position: int, column: Value) -> Value:
        return code.at(code.at(base, code.times(rank, 4 * position)), code.times(column, 4))

    def contract_some(first: Value, count: int) -> None:
        starts = [
            code.times(stride, builder.add(first, code.constant(basis))) for basis in range(count)
        ]
        sums = [[code.variable(ZEROS) for _ in range(count)] for _ in range(POSITIONS)]
        with code.loop(vectors) as vector:
            offset = code.times(vector, BYTES)
            kernel = [
                code.load(code.at(code.at(kernels, offset), code.times(kernel_stride, position)))
                for position in range(POSITIONS)
            ]
            for basis in range(count):
                value = code.load(code.at(code.at(bases, starts[basis]), offset))
                place = code.at(code.at(gradients, starts[basis]), offset)
                gradient = code.load(place)
                for position in range(POSITIONS):
                    total = sums[position][basis]
                    code.set(total, code.fma(kernel[position], value, code.get(total)))
                    weight = code.load(code.at(table(weights, position, first), 4 * basis), FLOAT)
                    gradient = code.fma(code.splat(weight), kernel[position], gradient)
                code.store(gradient, place)
        for position in range(POSITIONS):
            for basis in range(count):
                place = code.at(table(dots, position, first), 4 * basis)
                total = code.sum_lanes(code.get(sums[position][basis]))
                code.store(builder.fadd(code.load(place, FLOAT), total), place)

    several = builder.udiv(rank, code.constant(_BASES))
    done = code.times(several, _BASES)
    with code.loop(several) as index:
        contract_some(code.times(index, _BASES), _BASES)
    end = builder.append_basic_block("end")
    choice = builder.switch(builder.sub(rank, done), end)
    for count in range(1, _BASES):
        block = builder.append_basic_block(f"last_{count}")
        choice.add_case(count, block)
        builder.position_at_end(block)
        contract_some(done, count)
        builder.branch(end)
    builder.position_at_end(end)
