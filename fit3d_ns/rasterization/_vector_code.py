"""Vector code inside Numba kernels, written as expressions: what LLVM's own vectoriser does not find.

It cannot know that sums do not overlap what a loop reads, so it stores them at every step; and it spreads choices over
masked stores, which the next load waits for. An intrinsic made with `vector_function` says which values are vectors
and stay in registers:

    @intrinsic
    def double(typingctx, numbers, count):
        return vector_function(_double, numbers, count)

    def _double(code, numbers, count):
        with code.loop(0, count) as i:
            numbers.store(i, 2.0 * numbers.vector(i, 16))

Numbers are float32, indices int64. Arrays are flat and contiguous; nothing checks their bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.np.arrayobj import make_array

_F32, _I1, _I32, _I64 = ir.FloatType(), ir.IntType(1), ir.IntType(32), ir.IntType(64)

# Products and sums may be fused, nothing more: forward and backward passes must come to the same numbers.
_FLAGS = ("contract", "nsz")

Number = Any
"""A `Value` or a Python number."""


class Value:
    """A number or vector in a register; operators emit code. Numbers meet vectors as vectors of that number."""

    def __init__(self, builder: Any, register: Any) -> None:
        self.builder, self.register = builder, register

    @property
    def lanes(self) -> int | None:
        """Length of a vector, None for a single number."""
        kind = self.register.type
        return kind.count if isinstance(kind, ir.VectorType) else None

    @property
    def _element(self) -> Any:
        kind = self.register.type
        return kind.element if isinstance(kind, ir.VectorType) else kind

    def splat(self, lanes: int) -> Value:
        """A vector of this number."""
        kind = ir.VectorType(self.register.type, lanes)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), self.register, ir.Constant(_I32, 0))
        return Value(self.builder, self.builder.shuffle_vector(one, one, _indices([0] * lanes)))

    def _meet(self, other: Number) -> tuple[Any, Any]:
        """Both registers, as vectors if one is."""
        if not isinstance(other, Value):
            other = Value(self.builder, ir.Constant(self._element, other))
        lanes = self.lanes or other.lanes
        a, b = (v if lanes is None or v.lanes else v.splat(lanes) for v in (self, other))
        return a.register, b.register

    def _operate(self, floats: str, integers: str, other: Number, swap: bool = False) -> Value:
        a, b = self._meet(other)
        if swap:
            a, b = b, a
        if self._element == _F32:
            return Value(self.builder, getattr(self.builder, floats)(a, b, flags=_FLAGS))
        return Value(self.builder, getattr(self.builder, integers)(a, b))

    def __add__(self, other: Number) -> Value:
        return self._operate("fadd", "add", other)

    __radd__ = __add__

    def __sub__(self, other: Number) -> Value:
        return self._operate("fsub", "sub", other)

    def __rsub__(self, other: Number) -> Value:
        return self._operate("fsub", "sub", other, swap=True)

    def __mul__(self, other: Number) -> Value:
        return self._operate("fmul", "mul", other)

    __rmul__ = __mul__

    def __truediv__(self, other: Number) -> Value:
        return self._operate("fdiv", "", other)

    def __floordiv__(self, other: Number) -> Value:
        return self._operate("", "sdiv", other)

    def __mod__(self, other: Number) -> Value:
        return self._operate("", "srem", other)

    def __and__(self, other: Number) -> Value:
        return self._operate("", "and_", other)

    def __rshift__(self, other: Number) -> Value:
        return self._operate("", "lshr", other)

    def _compare(self, sign: str, other: Number) -> Value:
        a, b = self._meet(other)
        compare = self.builder.fcmp_ordered if self._element == _F32 else self.builder.icmp_signed
        return Value(self.builder, compare(sign, a, b))

    def __lt__(self, other: Number) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Number) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Number) -> Value:
        return self._compare(">", other)

    def at_most(self, other: Number) -> Value:
        """The smaller one; `other` where this is NaN."""
        return select(self < other, self, other)

    def at_least(self, other: Number) -> Value:
        """The larger one; `other` where this is NaN."""
        return select(self > other, self, other)

    def __abs__(self) -> Value:
        return self._with_bits(lambda bits: self.builder.and_(bits, _bits(bits.type, 0x7FFFFFFF)))

    def negative_where(self, mask: Value) -> Value:
        """-abs(self) where the mask holds, else self."""

        def change(bits: Any) -> Any:
            sign = self.builder.and_(self.builder.sext(mask.register, bits.type), _bits(bits.type, 0x80000000))
            return self.builder.or_(bits, sign)

        return self._with_bits(change)

    def _with_bits(self, change: Callable[[Any], Any]) -> Value:
        kind = ir.VectorType(_I32, self.lanes) if self.lanes else _I32
        bits = change(self.builder.bitcast(self.register, kind))
        return Value(self.builder, self.builder.bitcast(bits, self.register.type))

    def to_float(self) -> Value:
        """An index as a float32."""
        return Value(self.builder, self.builder.sitofp(self.register, _F32))

    def to_index(self) -> Value:
        """A float32 cut to an index."""
        return Value(self.builder, self.builder.fptosi(self.register, _I64))

    def part(self, first: int, lanes: int) -> Value:
        """Lanes first .. first + lanes - 1 of a vector."""
        picked = _indices(range(first, first + lanes))
        return Value(self.builder, self.builder.shuffle_vector(self.register, self.register, picked))

    def mask_bits(self) -> Value:
        """A mask as an index: bit i is lane i; a single truth value as 0 or 1."""
        bits = self.register
        if self.lanes:
            bits = self.builder.bitcast(bits, ir.IntType(self.lanes))
        return Value(self.builder, self.builder.zext(bits, _I64))


def _indices(lanes: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes))


def _bits(kind: Any, pattern: int) -> Any:
    return ir.Constant(kind, [pattern] * kind.count if isinstance(kind, ir.VectorType) else pattern)


def select(condition: Value, a: Value, b: Number) -> Value:
    """a where the condition holds, else b."""
    first, second = a._meet(b)
    return Value(a.builder, a.builder.select(condition.register, first, second))


def transposed(rows: Sequence[Value]) -> list[Value]:
    """The rows of a square matrix to its columns: off-diagonal blocks change places, size by size."""
    result, lanes, size = list(rows), len(rows), 1
    while size < lanes:
        low = _indices([j if not j & size else lanes + j - size for j in range(lanes)])
        high = _indices([j + size if not j & size else lanes + j for j in range(lanes)])
        for i in (i for i in range(lanes) if not i & size):
            a, b = result[i], result[i + size]
            for at, picked in ((i, low), (i + size, high)):
                result[at] = Value(a.builder, a.builder.shuffle_vector(a.register, b.register, picked))
        size *= 2
    return result


def lane_sums(vectors: Sequence[Value], lanes: int) -> Value:
    """A vector whose lane i is the sum over the lanes of vectors[i], 0 beyond them."""
    zero = Value(vectors[0].builder, ir.Constant(vectors[0].register.type, [0.0] * lanes))
    level, size = [*vectors, *[zero] * (lanes - len(vectors))], 1
    while size < lanes:
        half = len(level) // 2
        low = _indices([j if not j & size else lanes + j - size for j in range(lanes)])
        high = _indices([j + size if not j & size else lanes + j for j in range(lanes)])
        pairs = [(level[2 * i], level[2 * i + 1]) for i in range(half)]
        level = [
            Value(a.builder, a.builder.shuffle_vector(a.register, b.register, low))
            + Value(a.builder, a.builder.shuffle_vector(a.register, b.register, high))
            for a, b in pairs
        ]
        size *= 2
    return level[0]


class Floats:
    """A float32 array."""

    def __init__(self, builder: Any, pointer: Any) -> None:
        self.builder, self.pointer = builder, pointer

    def _place(self, at: Number, lanes: int | None) -> Any:
        index = at.register if isinstance(at, Value) else ir.Constant(_I64, at)
        place = self.builder.gep(self.pointer, [index])
        return place if lanes is None else self.builder.bitcast(place, ir.VectorType(_F32, lanes).as_pointer())

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
        kind = ir.FunctionType(ir.VoidType(), [address.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        self.builder.call(function, [address, *(ir.Constant(_I32, flag) for flag in (0, 2, 1))])


class Ints:
    """An int32 or int64 array; its elements are read as indices and written from them."""

    def __init__(self, builder: Any, pointer: Any, bits: int) -> None:
        self.builder, self.pointer, self.bits = builder, pointer, bits

    def _place(self, at: Number) -> Any:
        return self.builder.gep(self.pointer, [at.register if isinstance(at, Value) else ir.Constant(_I64, at)])

    def number(self, at: Number) -> Value:
        loaded = self.builder.load(self._place(at))
        return Value(self.builder, loaded if self.bits == 64 else self.builder.sext(loaded, _I64))

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
        return value if isinstance(value, Value) else Value(self.builder, ir.Constant(_I64, value))

    def constant(self, *lanes: float) -> Value:
        """A vector of these numbers."""
        return Value(self.builder, ir.Constant(ir.VectorType(_F32, len(lanes)), [float(v) for v in lanes]))

    def indices(self, *lanes: int) -> Value:
        """A vector of these indices."""
        return Value(self.builder, ir.Constant(ir.VectorType(_I64, len(lanes)), list(lanes)))

    def opaque(self, value: int) -> Value:
        """An index that LLVM does not know: it unrolls loops of known length, and then runs out of registers."""
        same = ir.InlineAsm(ir.FunctionType(_I64, [_I64]), "", "=r,0")
        return Value(self.builder, self.builder.call(same, [self.index(value).register]))

    @contextmanager
    def loop(self, begin: Number, end: Number) -> Iterator[Value]:
        """i from begin to end - 1."""
        first, stop = self.index(begin), self.index(end)
        with cgutils.for_range(self.builder, (stop - first).register, intp=_I64) as turn:
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
