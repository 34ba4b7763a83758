"""Vector code inside Numba kernels, written as expressions: what LLVM's own vectoriser does not find.

It cannot know that sums do not overlap what a loop reads, so it stores them at every step; and it spreads choices over
masked stores, which the next load waits for. An intrinsic made with `vector_function` says which values are vectors
and stay in registers:

    @intrinsic
    def double(typingctx, numbers, count):
        return vector_function(_double, numbers, count)

    def _double(code, numbers, count):
        with code.loop(0, count // 16) as i:
            numbers.store(i * 16, 2.0 * numbers.vector(i * 16, 16))

Numbers are float32, indices int64. Arrays are flat and contiguous; nothing checks their bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.np.arrayobj import make_array

from fit3d_ns.rasterization._vector_values import F32, I32, I64, Number, Value


class Floats:
    """A float32 array."""

    def __init__(self, builder: Any, pointer: Any) -> None:
        self.builder, self.pointer = builder, pointer

    def _place(self, at: Number, lanes: int | None) -> Any:
        index = at.register if isinstance(at, Value) else ir.Constant(I64, at)
        place = self.builder.gep(self.pointer, [index])
        return place if lanes is None else self.builder.bitcast(place, ir.VectorType(F32, lanes).as_pointer())

    def number(self, at: Number) -> Value:
        return Value(self.builder, self.builder.load(self._place(at, None), align=4))

    def vector(self, at: Number, lanes: int) -> Value:
        """Elements at .. at + lanes - 1."""
        return Value(self.builder, self.builder.load(self._place(at, lanes), align=4))

    def store(self, at: Number, value: Value) -> None:
        self.builder.store(value.register, self._place(at, value.lanes), align=4)

    def prefetch(self, at: Number) -> None:
        """Ask for the cache line of an element, to be read soon."""
        address = self.builder.bitcast(self._place(at, None), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        self.builder.call(function, [address, *(ir.Constant(I32, flag) for flag in (0, 2, 1))])


class Ints:
    """An int32 or int64 array; its elements are read as indices and written from them."""

    def __init__(self, builder: Any, pointer: Any, bits: int) -> None:
        self.builder, self.pointer, self.bits = builder, pointer, bits

    def _place(self, at: Number) -> Any:
        return self.builder.gep(self.pointer, [at.register if isinstance(at, Value) else ir.Constant(I64, at)])

    def number(self, at: Number) -> Value:
        loaded = self.builder.load(self._place(at))
        return Value(self.builder, loaded if self.bits == 64 else self.builder.sext(loaded, I64))

    def store(self, at: Number, value: Value) -> None:
        stored = value.register if self.bits == 64 else self.builder.trunc(value.register, ir.IntType(self.bits))
        self.builder.store(stored, self._place(at))


class Variable:
    """A value that changes in a loop; LLVM keeps it in a register."""

    def __init__(self, value: Value) -> None:
        self.builder = value.builder
        self.place = cgutils.alloca_once(value.builder, value.register.type)
        self.set(value)

    def get(self) -> Value:
        return Value(self.builder, self.builder.load(self.place))

    def set(self, value: Value) -> None:
        self.builder.store(value.register, self.place)

    def add(self, value: Value) -> None:
        self.set(self.get() + value)


class Code:
    """Where code is emitted: constants and control flow."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def index(self, value: Number) -> Value:
        return value if isinstance(value, Value) else Value(self.builder, ir.Constant(I64, value))

    def constant(self, *lanes: float) -> Value:
        """A vector of these numbers."""
        return Value(self.builder, ir.Constant(ir.VectorType(F32, len(lanes)), [float(v) for v in lanes]))

    def indices(self, *lanes: int) -> Value:
        """A vector of these indices."""
        return Value(self.builder, ir.Constant(ir.VectorType(I64, len(lanes)), list(lanes)))

    def opaque(self, value: int) -> Value:
        """An index that LLVM does not know: it unrolls loops of known length, and then runs out of registers."""
        same = ir.InlineAsm(ir.FunctionType(I64, [I64]), "", "=r,0")
        return Value(self.builder, self.builder.call(same, [self.index(value).register]))

    @contextmanager
    def loop(self, begin: Number, end: Number) -> Iterator[Value]:
        """i from begin to end - 1."""
        first, stop = self.index(begin), self.index(end)
        with cgutils.for_range(self.builder, (stop - first).register, intp=I64) as turn:
            yield Value(self.builder, turn.index) + first

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        with self.builder.if_then(condition.register):
            yield


def vector_function(generate: Callable[..., Value | None], *kinds: Any, returns: Any = types.void) -> Any:
    """Signature and code of an intrinsic: what it returns to Numba.

    Args:
        generate: emits the code; gets a `Code`, then `Floats`, `Ints` and `Value`s for the arguments, and returns a
            `Value` where `returns` says so.
        kinds: Numba's types of the arguments. Whole numbers arrive as int64, others as float32.
        returns: Numba's type of the result.
    """

    def taken(kind: Any) -> Any:
        if isinstance(kind, types.Array):
            if kind.layout != "C" or kind.dtype not in (types.float32, types.int32, types.int64):
                raise TypeError(f"a contiguous array of float32, int32 or int64 is needed, not {kind}")
            return kind
        return types.float32 if isinstance(kind, types.Float) else types.int64

    def wrap(context: Any, builder: Any, kind: Any, value: Any) -> Any:
        if not isinstance(kind, types.Array):
            return Value(builder, value)
        pointer = make_array(kind)(context, builder, value).data
        return Floats(builder, pointer) if kind.dtype == types.float32 else Ints(builder, pointer, kind.dtype.bitwidth)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        arguments = [wrap(context, builder, kind, value) for kind, value in zip(signature.args, values, strict=True)]
        result = generate(Code(builder), *arguments)
        return context.get_dummy_value() if result is None else result.register

    return returns(*(taken(kind) for kind in kinds)), code
