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
        code.store(_up(code, piece.words(source)), piece.address(target, 4))


@vector_code
def interleave(code: Code, target: Value, even: Value, odd: Value, count: Value) -> None:
    """Writes the pairs (even[i], odd[i]) of two rows of bfloat16."""
    for piece in _pieces(code, count):
        pair = code.builder.or_(piece.words(even), _up(code, piece.words(odd)))
        code.store(pair, piece.address(target, 4))


@vector_code
def interleave_zeros(code: Code, target: Value, even: Value, count: Value) -> None:
    """Writes the pairs (even[i], 0)."""
    for piece in _pieces(code, count):
        code.store(piece.words(even), piece.address(target, 4))


@vector_code
def round_halves(code: Code, target: Value, source: Value, count: Value) -> None:
    """Copies float32 to bfloat16."""
    for piece in _pieces(code, count):
        values = code.load(piece.address(source, 4), piece.real)
        code.store(rounded(code, values), piece.address(target, 2))


def rounded(code: Code, values: Value) -> Value:
    """Floats as the nearest bfloat16, ties to even; a NaN stays one."""
    builder = code.builder
    word, half = (WORDS, HALVES) if values.type == FLOATS else (WORD, HALF)
    bits = builder.bitcast(values, word)
    high = builder.lshr(bits, _constant(16, word))
    odd = builder.and_(high, _constant(1, word))
    nearest = builder.add(bits, builder.add(odd, _constant(0x7FFF, word)))
    nearest = builder.lshr(nearest, _constant(16, word))
    quiet = builder.or_(high, _constant(0x40, word))
    unordered = builder.fcmp_unordered("uno", values, values)
    return builder.trunc(builder.select(unordered, quiet, nearest), half)


def _up(code: Code, words: Value) -> Value:
    return code.builder.shl(words, _constant(16, words.type))


def _constant(value: int, word: Any) -> Value:
    return ir.Constant(word, [value] * LANES if word == WORDS else value)
