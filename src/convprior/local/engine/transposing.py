"""Vector code between kernels as PyTorch keeps them and units as the micro-kernel reads them.

A kernel (F, C, kh, kw) has its taps side by side; a unit has the target channels of a tap side by
side. The steps between source channels and between target channels are arguments, so that the same
code serves the transposed product.
"""

from convprior.local.engine.copying import rounded
from convprior.local.engine.vectors import (
    BYTES,
    FLOATS,
    HALF,
    LANES,
    WORD,
    WORDS,
    Code,
    Value,
    vector_code,
)


def _take(
    code: Code,
    unit: Value,
    kernel: Value,
    sources: Value,
    targets: Value,
    source_step: Value,
    target_step: Value,
    row: Value,
    *,
    halves: bool,
    pairs: bool,
) -> None:
    """Copies one tap of a kernel to a unit.

    Args:
        code: where to write.
        unit: its address.
        kernel: address of the first weight.
        sources: how many source channels.
        targets: how many target channels.
        source_step: bytes from one source channel of the kernel to the next.
        target_step: likewise.
        row: bytes from one row of the unit to the next.
        halves: the kernel is bfloat16 (otherwise float32) and widened, unless ...
        pairs: ... rows of the unit are pairs of source channels.
    """
    builder = code.builder

    def weight(address: Value) -> Value:
        if not halves:
            return code.load(address, WORD)
        return builder.zext(code.load(address, HALF), WORD)

    def up(word: Value) -> Value:
        return builder.shl(word, WORD(16))

    def element(address: Value, alone: bool) -> Value:
        if pairs and not alone:
            return builder.or_(weight(address), up(weight(code.at(address, source_step))))
        return up(weight(address)) if halves and not pairs else weight(address)

    def fill(index: Value, alone: bool = False) -> None:
        start = code.at(kernel, code.times(code.times(source_step, index), 2 if pairs else 1))
        target = code.at(unit, code.times(row, index))
        vectors = builder.udiv(targets, code.constant(LANES))
        with code.loop(vectors) as vector:
            first = code.at(start, code.times(code.times(target_step, vector), LANES))
            lanes = WORDS(None)
            for lane in range(LANES):
                value = element(code.at(first, code.times(target_step, lane)), alone)
                lanes = builder.insert_element(lanes, value, WORD(lane))
            code.store(lanes, code.at(target, code.times(vector, BYTES)))
        done = code.times(vectors, LANES)
        with code.loop(builder.sub(targets, done)) as rest:
            channel = builder.add(done, rest)
            value = element(code.at(start, code.times(target_step, channel)), alone)
            code.store(value, code.at(target, code.times(channel, 4)))

    rows = builder.udiv(sources, code.constant(2)) if pairs else sources
    with code.loop(rows) as index:
        fill(index)
    if pairs:
        with code.loop(builder.urem(sources, code.constant(2))):
            fill(rows, alone=True)


take_floats = vector_code(_take, halves=False, pairs=False)
take_halves = vector_code(_take, halves=True, pairs=False)
take_pairs = vector_code(_take, halves=True, pairs=True)


def _put(
    code: Code,
    unit: Value,
    kernel: Value,
    sources: Value,
    targets: Value,
    source_step: Value,
    target_step: Value,
    row: Value,
    *,
    halves: bool,
) -> None:
    """Copies a unit of floats to one tap of a kernel; the arguments are those of ``_take``."""
    builder = code.builder
    with code.loop(sources) as index:
        start = code.at(kernel, code.times(source_step, index))
        values = code.at(unit, code.times(row, index))
        vectors = builder.udiv(builder.add(targets, code.constant(LANES - 1)), code.constant(LANES))
        with code.loop(vectors) as vector:
            lanes = code.load(code.at(values, code.times(vector, BYTES)), FLOATS)
            lanes = rounded(code, lanes) if halves else lanes
            first = code.times(vector, LANES)
            for lane in range(LANES):
                channel = builder.add(first, code.constant(lane))
                with builder.if_then(builder.icmp_signed("<", channel, targets)):
                    value = builder.extract_element(lanes, WORD(lane))
                    code.store(value, code.at(start, code.times(target_step, channel)))


put_floats = vector_code(_put, halves=False)
put_halves = vector_code(_put, halves=True)
