"""Straight-line vector code for Numba: a thin layer over LLVM's instruction builder.

Numba compiles scalar Python; whether it vectorizes a loop, and keeps its sums in registers, is up to
an optimizer. A matrix kernel cannot leave that to chance, so the innermost loops are written here as
LLVM instructions on vectors of sixteen floats: one register with AVX-512, two with AVX2, four with
NEON.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import types

LANES = 16
BYTES = 4 * LANES

Value = Any  # llvmlite has no type annotations

INT64 = ir.IntType(64)
FLOAT = ir.FloatType()
FLOATS = ir.VectorType(FLOAT, LANES)
BYTE = ir.IntType(8)
WORD = ir.IntType(32)
WORDS = ir.VectorType(WORD, LANES)
HALF = ir.IntType(16)
HALVES = ir.VectorType(HALF, LANES)
POINTER = ir.PointerType()


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


PAIRS = ir.VectorType(_BFloat(), 2 * LANES)


class Code:
    """Writes the body of one LLVM function; addresses are pointers, sizes and offsets bytes."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.add, self.multiply = builder.add, builder.mul

    def constant(self, value: int) -> Value:
        """An integer."""
        return ir.Constant(INT64, value)

    def at(self, base: Value, offset: Value | int) -> Value:
        """The address ``base + offset``."""
        offset = self.constant(offset) if isinstance(offset, int) else offset
        return self.builder.gep(base, [offset], source_etype=BYTE)

    def variable(self, kind: Any) -> Value:
        """A variable, which the optimizer turns into a register."""
        with self.builder.goto_entry_block():
            return self.builder.alloca(kind)

    def get(self, variable: Value, kind: Any = FLOATS) -> Value:
        """The value of a variable."""
        return self.builder.load(variable, typ=kind)

    def set(self, variable: Value, value: Value) -> None:
        """Assigns to a variable."""
        self.builder.store(value, variable)

    def load(self, address: Value, kind: Any = FLOATS) -> Value:
        """Reads a value that may lie anywhere."""
        return self.builder.load(address, typ=kind, align=1)

    def store(self, value: Value, address: Value) -> None:
        """Writes a value that may lie anywhere."""
        self.builder.store(value, address, align=1)

    def splat(self, scalar: Value, kind: Any = FLOATS) -> Value:
        """The vector whose lanes are all ``scalar``."""
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, INT64(0))
        lanes = ir.Constant(ir.VectorType(WORD, LANES), None)
        return self.builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), lanes)

    def call(self, name: str, result: Any, *arguments: Value) -> Value:
        """Calls an LLVM intrinsic by its full name."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        module = self.builder.module
        function = module.globals.get(name) or ir.Function(module, kind, name)
        return self.builder.call(function, arguments)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """The vector ``a * b + c``."""
        return self.call("llvm.fma.v16f32", FLOATS, a, b, c)

    def sum_lanes(self, vector: Value) -> Value:
        """The sum of a vector's lanes, by halves."""
        width = LANES
        while width > 1:
            width //= 2
            nothing = ir.Constant(vector.type, ir.Undefined)
            low, high = (
                self.builder.shuffle_vector(
                    vector, nothing, ir.Constant(ir.VectorType(WORD, width), lanes)
                )
                for lanes in (list(range(width)), list(range(width, 2 * width)))
            )
            vector = self.builder.fadd(low, high)
        return self.builder.extract_element(vector, INT64(0))

    def dot_pairs(self, total: Value, a: Value, b: Value) -> Value:
        """Adds to each float of ``total`` the products of two pairs of bfloat16 (AVX512-BF16)."""
        a, b = self.builder.bitcast(a, PAIRS), self.builder.bitcast(b, PAIRS)
        return self.call("llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, total, a, b)

    def round_pairs(self, low: Value, high: Value) -> Value:
        """Thirty-two floats rounded to the nearest bfloat16 (AVX512-BF16)."""
        return self.call("llvm.x86.avx512bf16.cvtne2ps2bf16.512", PAIRS, high, low)

    @contextmanager
    def loop(self, count: Value) -> Iterator[Value]:
        """Repeats what is inside for 0, 1, ... ``count - 1``; not at all if ``count`` <= 0."""
        builder = self.builder
        before = builder.block
        head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(INT64)
        index.add_incoming(self.constant(0), before)
        builder.cbranch(builder.icmp_signed("<", index, count), body, after)
        builder.position_at_end(body)
        yield index
        index.add_incoming(builder.add(index, self.constant(1)), builder.block)
        builder.branch(head)
        builder.position_at_end(after)


Emit = Callable[..., None]


def procedure(name: str, count: int, emit: Emit) -> tuple[Any, Callable[..., Any]]:
    """The signature and code generator of an intrinsic with ``count`` integer arguments.

    The code goes into a function of its own, once a module, however often it is called.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [INT64] * count)
            function = ir.Function(builder.module, kind, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            inner = ir.IRBuilder(function.append_basic_block("entry"))
            emit(Code(inner), *function.args)
            inner.ret_void()
        builder.call(function, arguments)
        return context.get_dummy_value()

    return types.void(*[types.int64] * count), generate
