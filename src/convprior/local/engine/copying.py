"""Vector code that moves rows of channels: copied, widened, rounded, two rows interleaved."""

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from convprior.local.engine.vectors import (
    FLOATS,
    HALF,
    HALVES,
    LANES,
    POINTER,
    WORD,
    WORDS,
    Code,
    Value,
    procedure,
)


def _pieces(code: Code, count: Value, body: Any) -> None:
    """Runs ``body(first, vector)`` on vectors of lanes, then on the single lanes that are left."""
    vectors = code.builder.udiv(count, code.constant(LANES))
    with code.loop(vectors) as vector:
        body(code.multiply(vector, code.constant(LANES)), True)
    done = code.multiply(vectors, code.constant(LANES))
    with code.loop(code.builder.sub(count, done)) as rest:
        body(code.add(done, rest), False)


def _at(code: Code, base: Value, index: Value, size: int) -> Value:
    return code.at(base, code.multiply(index, code.constant(size)))


def _pointers(code: Code, *addresses: Value) -> list[Value]:
    return [code.builder.inttoptr(address, POINTER) for address in addresses]


def _copy(code: Code, target: Value, source: Value, count: Value) -> None:
    target, source = _pointers(code, target, source)

    def body(first: Value, vector: bool) -> None:
        kind = HALVES if vector else HALF
        code.store(code.load(_at(code, source, first, 2), kind), _at(code, target, first, 2))

    _pieces(code, count, body)


def _widen(code: Code, target: Value, source: Value, count: Value) -> None:
    target, source = _pointers(code, target, source)

    def body(first: Value, vector: bool) -> None:
        kind, wide = (HALVES, WORDS) if vector else (HALF, WORD)
        value = code.builder.zext(code.load(_at(code, source, first, 2), kind), wide)
        code.store(code.builder.shl(value, _words(16, wide)), _at(code, target, first, 4))

    _pieces(code, count, body)


def _interleave(code: Code, target: Value, low: Value, high: Value, count: Value) -> None:
    target, low, high = _pointers(code, target, low, high)

    def body(first: Value, vector: bool) -> None:
        kind, wide = (HALVES, WORDS) if vector else (HALF, WORD)
        even, odd = (
            code.builder.zext(code.load(_at(code, source, first, 2), kind), wide)
            for source in (low, high)
        )
        word = code.builder.or_(even, code.builder.shl(odd, _words(16, wide)))
        code.store(word, _at(code, target, first, 4))

    _pieces(code, count, body)


def _round(code: Code, target: Value, source: Value, count: Value) -> None:
    target, source = _pointers(code, target, source)
    builder = code.builder

    def body(first: Value, vector: bool) -> None:
        floats, wide, kind = (FLOATS, WORDS, HALVES) if vector else (ir.FloatType(), WORD, HALF)
        value = code.load(_at(code, source, first, 4), floats)
        bits = builder.bitcast(value, wide)
        high = builder.lshr(bits, _words(16, wide))
        half = builder.add(builder.and_(high, _words(1, wide)), _words(0x7FFF, wide))
        rounded = builder.lshr(builder.add(bits, half), _words(16, wide))
        quiet = builder.or_(high, _words(0x40, wide))
        rounded = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
        code.store(builder.trunc(rounded, kind), _at(code, target, first, 2))

    _pieces(code, count, body)


def _words(value: int, kind: Any) -> Value:
    return ir.Constant(kind, [value] * LANES if kind is WORDS else value)


@intrinsic
def copy(typing: Any, target: Any, source: Any, count: Any) -> Any:
    """Copies ``count`` halves (of two bytes)."""
    return procedure("convprior_copy", 3, _copy)


@intrinsic
def widen(typing: Any, target: Any, source: Any, count: Any) -> Any:
    """Copies bfloat16 to float32."""
    return procedure("convprior_widen", 3, _widen)


@intrinsic
def round_to_bfloat16(typing: Any, target: Any, source: Any, count: Any) -> Any:
    """Copies float32 to bfloat16, rounded to the nearest, ties to even."""
    return procedure("convprior_round", 3, _round)


@intrinsic
def interleave(typing: Any, target: Any, low: Any, high: Any, count: Any) -> Any:
    """Writes the pairs ``(low[i], high[i])`` of two rows of bfloat16."""
    return procedure("convprior_interleave", 4, _interleave)
