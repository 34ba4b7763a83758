"""Values in registers, numbers and vectors, with operators that emit code; see `_vector_code` for what it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)

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
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), self.register, ir.Constant(I32, 0))
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
        if self._element == F32:
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
        compare = self.builder.fcmp_ordered if self._element == F32 else self.builder.icmp_signed
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
        kind = ir.VectorType(I32, self.lanes) if self.lanes else I32
        bits = change(self.builder.bitcast(self.register, kind))
        return Value(self.builder, self.builder.bitcast(bits, self.register.type))

    def to_float(self) -> Value:
        """An index as a float32."""
        return Value(self.builder, self.builder.sitofp(self.register, F32))

    def to_index(self) -> Value:
        """A float32 cut to an index."""
        return Value(self.builder, self.builder.fptosi(self.register, I64))

    def part(self, first: int, lanes: int) -> Value:
        """Lanes first .. first + lanes - 1 of a vector."""
        picked = _indices(range(first, first + lanes))
        return Value(self.builder, self.builder.shuffle_vector(self.register, self.register, picked))

    def total(self) -> Value:
        """The sum over the lanes of a vector."""
        rest, lanes = self, self.lanes or 1
        while lanes > 1:
            lanes //= 2
            rest = rest.part(0, lanes) + rest.part(lanes, lanes)
        return Value(self.builder, self.builder.extract_element(rest.register, ir.Constant(I32, 0)))

    def mask_bits(self) -> Value:
        """A mask as an index: bit i is lane i; a single truth value as 0 or 1."""
        bits = self.register
        if self.lanes:
            bits = self.builder.bitcast(bits, ir.IntType(self.lanes))
        return Value(self.builder, self.builder.zext(bits, I64))


def _indices(lanes: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))


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
