"""Straight-line vector code for Numba: a thin layer over LLVM's instruction builder.

Numba compiles scalar Python; whether it vectorizes a loop, and keeps its sums in registers, is up
to an optimizer. A matrix kernel cannot leave that to chance, so the innermost loops are written as
LLVM instructions on vectors of sixteen floats: one register with AVX-512, two with AVX2, four with
NEON. ``code.fma(a, b, c)`` computes nothing; it writes the instruction that will.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import Parameter, Signature, signature
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

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
ZEROS = ir.Constant(FLOATS, None)


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
    """Writes the body of one LLVM function."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def constant(self, value: int) -> Value:
        """An integer."""
        return ir.Constant(INT64, value)

    def times(self, value: Value, factor: Value | int) -> Value:
        """The product of two integers."""
        factor = self.constant(factor) if isinstance(factor, int) else factor
        return self.builder.mul(value, factor)

    def at(self, base: Value, offset: Value | int = 0) -> Value:
        """The address ``base + offset``, in bytes."""
        offset = self.constant(offset) if isinstance(offset, int) else offset
        base = self.builder.inttoptr(base, POINTER) if base.type == INT64 else base
        return self.builder.gep(base, [offset], source_etype=BYTE)

    def variable(self, value: Value) -> Value:
        """A variable with a first value; the optimizer turns it into a register."""
        with self.builder.goto_entry_block():
            place = self.builder.alloca(value.type)
        self.set(place, value)
        return place

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
        nothing = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(nothing, scalar, INT64(0))
        return self.builder.shuffle_vector(first, nothing, ir.Constant(WORDS, None))

    def call(self, name: str, result: Any, *arguments: Value) -> Value:
        """Calls an LLVM intrinsic by its full name."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        module = self.builder.module
        function = module.globals.get(name) or ir.Function(module, kind, name)
        return self.builder.call(function, arguments)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """The vector ``a * b + c``, rounded once where the processor can."""
        return self.call("llvm.fmuladd.v16f32", FLOATS, a, b, c)

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

    def dot_pairs(self, a: Value, b: Value, total: Value) -> Value:
        """Adds to each float of ``total`` the products of two pairs of bfloat16 (AVX512-BF16)."""
        a, b = self.builder.bitcast(a, PAIRS), self.builder.bitcast(b, PAIRS)
        return self.call("llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, total, a, b)

    def round_pairs(self, low: Value, high: Value) -> Value:
        """Thirty-two floats rounded to the nearest bfloat16 (AVX512-BF16)."""
        return self.call("llvm.x86.avx512bf16.cvtne2ps2bf16.512", PAIRS, high, low)

    def round_neighbors(self, low: Value, high: Value) -> Value:
        """The same, as sixteen pairs (low[i], high[i])."""
        halves = ir.VectorType(HALF, 2 * LANES)
        rounded = self.builder.bitcast(self.round_pairs(low, high), halves)
        order = [lane // 2 + LANES * (lane % 2) for lane in range(2 * LANES)]
        lanes = ir.Constant(ir.VectorType(WORD, 2 * LANES), order)
        return self.builder.shuffle_vector(rounded, ir.Constant(halves, ir.Undefined), lanes)

    @contextmanager
    def loop(self, count: Value) -> Iterator[Value]:
        """Repeats what is inside for 0, 1, ... ``count - 1``; not at all if ``count`` <= 0."""
        builder, before = self.builder, self.builder.block
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


def vector_code(emit: Callable[..., None], **options: bool) -> Callable[..., None]:
    """A procedure of integers, for compiled code to call, from a function that writes its body.

    ``emit(code, *arguments, **options)`` writes into an LLVM function of its own, once a module,
    however often the procedure is called. Arguments are addresses, sizes in bytes, or counts.
    """
    name = "_".join(["convprior", emit.__name__, *(f"{key}_{options[key]}" for key in options)])

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        function = builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [INT64] * len(arguments))
            function = ir.Function(builder.module, kind, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            inner = ir.IRBuilder(function.append_basic_block("entry"))
            emit(Code(inner), *function.args, **options)
            inner.ret_void()
        builder.call(function, arguments)
        return context.get_dummy_value()

    def typed(_typing: Any, *arguments: Any) -> Any:
        return types.void(*[types.int64] * len(arguments)), generate

    return _intrinsic(typed, [key for key in signature(emit).parameters if key not in options][1:])


def indirect(emit: Callable[..., None]) -> Callable[..., None]:
    """A procedure that calls the one at an address, its first argument; the others as ``emit``'s.

    What is called this way is compiled once, and not again into each of its callers.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, *rest = arguments
        kind = ir.FunctionType(ir.VoidType(), [INT64] * len(rest))
        builder.call(builder.inttoptr(address, kind.as_pointer()), rest)
        return context.get_dummy_value()

    def typed(_typing: Any, *arguments: Any) -> Any:
        return types.void(*[types.int64] * len(arguments)), generate

    names = [key for key, value in signature(emit).parameters.items() if value.kind.value < 2]
    return _intrinsic(typed, ["address", *names[1:]])


def _intrinsic(typed: Any, names: list[str]) -> Callable[..., None]:
    """Numba asks a function for the names of its arguments."""
    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("typing", *names)]
    typed.__signature__ = Signature(parameters)
    procedure: Callable[..., None] = intrinsic(typed)
    return procedure
