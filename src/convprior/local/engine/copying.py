"""Vector code that moves rows of channels: copied, widened, rounded, two rows interleaved."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from llvmlite import ir

from convprior.local.engine.vectors import (
    FLOAT,
    FLOATS,
    HALF,
    HALVES,
    LANES,
    WORD,
    WORDS,
    Code,
    Value,
    vector_code,
)


class _Piece(NamedTuple):
    """Sixteen channels of a row, or one of the last few."""

    code: Code
    first: Value
    half: Any
    word: Any
    real: Any

    def address(self, row: Value, size: int) -> Value:
        return self.code.at(row, self.code.times(self.first, size))

    def words(self, row: Value) -> Value:
        """Halves of a row, as words."""
        return self.code.builder.zext(self.code.load(self.address(row, 2), self.half), self.word)

    def constant(self, value: int) -> Value:
        return ir.Constant(self.word, [value] * LANES if self.word is WORDS else value)

    def up(self, words: Value) -> Value:
        return self.code.builder.shl(words, self.constant(16))

    def down(self, words: Value) -> Value:
        return self.code.builder.lshr(words, self.constant(16))


def _pieces(code: Code, count: Value) -> Iterator[_Piece]:
    builder = code.builder
    vectors = builder.udiv(count, code.constant(LANES))
    done = code.times(vectors, LANES)
    with code.loop(vectors) as vector:
        yield _Piece(code, code.times(vector, LANES), HALVES, WORDS, FLOATS)
    with code.loop(builder.sub(count, done)) as rest:
        yield _Piece(code, builder.add(done, rest), HALF, WORD, FLOAT)


@vector_code
def copy(code: Code, target: Value, source: Value, count: Value) -> None:
    """Copies ``count`` times two bytes."""
    for piece in _pieces(code, count):
        code.store(code.load(piece.address(source, 2), piece.half), piece.address(target, 2))


@vector_code
def widen(code: Code, target: Value, source: Value, count: Value) -> None:
    """Copies bfloat16 to float32."""
    for piece in _pieces(code, count):
        code.store(piece.up(piece.words(source)), piece.address(target, 4))


@vector_code
def interleave(code: Code, target: Value, even: Value, odd: Value, count: Value) -> None:
    """Writes the pairs (even[i], odd[i]) of two rows of bfloat16."""
    for piece in _pieces(code, count):
        pair = code.builder.or_(piece.words(even), piece.up(piece.words(odd)))
        code.store(pair, piece.address(target, 4))


@vector_code
def interleave_zeros(code: Code, target: Value, even: Value, count: Value) -> None:
    """Writes the pairs (even[i], 0)."""
    for piece in _pieces(code, count):
        code.store(piece.words(even), piece.address(target, 4))


@vector_code
def round_halves(code: Code, target: Value, source: Value, count: Value) -> None:
    """Copies float32 to bfloat16: the nearest, ties to even; a NaN stays one."""
    builder = code.builder
    for piece in _pieces(code, count):
        value = code.load(piece.address(source, 4), piece.real)
        bits = builder.bitcast(value, piece.word)
        odd = builder.and_(piece.down(bits), piece.constant(1))
        nearest = piece.down(builder.add(bits, builder.add(odd, piece.constant(0x7FFF))))
        quiet = builder.or_(piece.down(bits), piece.constant(0x40))
        rounded = builder.select(builder.fcmp_unordered("uno", value, value), quiet, nearest)
        code.store(builder.trunc(rounded, piece.half), piece.address(target, 2))
