"""Vector code between kernels and bases: mixing them, and the gradient of mixing them.

A kernel is the combination ``W(p) = sum_k w_k(p) B_k``. Both directions work on a part of a kernel,
some kilobytes, for several positions p at a time, so that a basis is read from the cache once for
all of them.
"""

from convprior.local.engine.microkernel import HAS_PAIRS
from convprior.local.engine.vectors import (
    BYTES,
    FLOAT,
    INT64,
    ZEROS,
    Code,
    Value,
    vector_code,
)

POSITIONS = 4  # of ``contract``: with four bases at a time, sixteen sums in registers
_BASES = 4
_VECTORS = 4  # of ``mix``: sums in registers that do not wait for each other


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
        vectors: of the part; an even number with ``pairs``.
        rank: how many bases.
        weights: address of a list of addresses, those of a position's ``rank`` weights.
        results: address of a list of addresses, where ``sum_k weight[k] * basis[k]`` goes.
        positions: how many.
        pairs: the sums are rounded, once at the end, to bfloat16.
    """
    builder = code.builder
    least = 2 if pairs else 1  # vectors that become one in the result

    def mix_some(first: Value, count: int) -> None:
        basis = code.at(bases, code.times(first, BYTES))
        offset = builder.udiv(code.times(first, BYTES), code.constant(least))
        with code.loop(positions) as position:
            entry = code.times(position, 8)
            weight = code.load(code.at(weights, entry), INT64)
            result = code.at(code.load(code.at(results, entry), INT64), offset)
            sums = [code.variable(ZEROS) for _ in range(count)]
            with code.loop(rank) as k:
                scalar = code.splat(code.load(code.at(weight, code.times(k, 4)), FLOAT))
                row = code.at(basis, code.times(k, stride))
                for vector, total in enumerate(sums):
                    value = code.load(code.at(row, vector * BYTES))
                    code.set(total, code.fma(scalar, value, code.get(total)))
            mixed = [code.get(total) for total in sums]
            if pairs:
                mixed = [
                    code.round_pairs(low, high)
                    for low, high in zip(mixed[::2], mixed[1::2], strict=True)
                ]
            for vector, value in enumerate(mixed):
                code.store(value, code.at(result, vector * BYTES))

    several = builder.udiv(vectors, code.constant(_VECTORS))
    done = code.times(several, _VECTORS)
    with code.loop(several) as index:
        mix_some(code.times(index, _VECTORS), _VECTORS)
    with code.loop(builder.udiv(builder.sub(vectors, done), code.constant(least))) as index:
        mix_some(builder.add(done, code.times(index, least)), least)


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
