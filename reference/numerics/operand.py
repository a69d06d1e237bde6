"""Operands of a dot product, widened to float64, and what error certificates need to know of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.formats import format_of

Array = NDArray[Any]

#: A span that no sum has room for.
_UNBOUNDED = 10_000


@dataclass(frozen=True)
class Columns:
    """What the elements of each column of an operand [B, K, n] have in common."""

    #: Largest magnitude [B, n] in a float dtype; NaN or infinity if the column holds one.
    top: Array
    #: Bits from the top of the largest element to the last place of the smallest nonzero one, or more, [B, n] int16.
    span: Array
    #: Whether no element is NaN or infinite.
    finite: bool

    @cached_property
    def largest(self) -> Array:
        """`top` in float64; few products get as far as needing it."""
        return widen(self.top)

    @classmethod
    def of(cls, x: Array) -> Columns:
        """The facts of an array [B, K, n] of any signed float storage dtype or float64."""
        # Codes of these formats order like magnitudes once the sign is off, and are narrow to scan.
        layout = _layout(x.dtype)
        one = layout.unsigned.type(1)
        codes = x.view(layout.unsigned) & layout.magnitude
        top = codes.max(axis=1)
        finite = int(top.max()) < layout.first_special
        idle = _idle_bits(codes)
        if not finite or layout.size == 8 or (layout.size == 4 and idle < 8):
            return cls(top.view(x.dtype), np.full(top.shape, _UNBOUNDED, np.int16), finite)
        codes -= one  # a zero wraps round to the largest code
        low = codes.min(axis=1) + one
        return cls(top.view(x.dtype), _place_span(top, low, layout.mantissa_bits, idle), finite)

    def part(self, columns: slice) -> Columns:
        """The facts of some of the columns."""
        top = self.top[:, columns]
        finite = self.finite or bool(np.isfinite(widen(top)).all())
        return Columns(top, self.span[:, columns], finite)


@dataclass(frozen=True)
class Operand:
    """One block [B, K, n] of an operand in float64, exact; the contraction runs along K."""

    values: Array
    columns: Columns

    @property
    def depth(self) -> int:
        """K, the number of products of one sum."""
        return int(self.values.shape[1])

    def part(self, columns: slice) -> Operand:
        """The operand of some of the columns."""
        return Operand(self.values[:, :, columns], self.columns.part(columns))

    def finite_part(self) -> Operand:
        """The operand with 0 for NaN and infinity; its spans are not known."""
        values = np.where(np.isfinite(self.values), self.values, 0.0)
        largest = np.abs(values).max(axis=1)
        return Operand(values, Columns(largest, np.full(largest.shape, _UNBOUNDED, np.int16), True))


def widen(x: Array) -> Array:
    """Values of any storage dtype as float64, exact; NaN and infinities stay."""
    if x.dtype.itemsize == 1:
        return np.take(_byte_values(x.dtype), x.view(np.uint8))
    wide = np.empty(x.shape, np.float64)
    with np.errstate(invalid="ignore"):  # signalling NaN
        np.copyto(wide, x, casting="unsafe")
    return wide


@cache
def _byte_values(dtype: np.dtype[Any]) -> Array:
    return np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32).astype(np.float64)


def _idle_bits(codes: Array) -> int:
    """Trailing code bits that no element uses: float32 often holds what was bfloat16 before."""
    if codes.dtype.itemsize != 4:
        return 0
    used = int(np.bitwise_or.reduce(codes, axis=None))
    return min(23, (used & -used).bit_length() - 1) if used else 23


def _place_span(top: Array, low: Array, mantissa_bits: int, idle: int) -> Array:
    """From the codes of the largest and the smallest nonzero element; subnormals count as full binades."""
    high, base = (np.maximum(codes >> mantissa_bits, 1).astype(np.int16) for codes in (top, low))
    span = high - base + np.int16(mantissa_bits + 1 - idle)
    span[top == 0] = -_UNBOUNDED
    return np.asarray(span)


@dataclass(frozen=True)
class _Layout:
    """Codes of a float dtype as unsigned integers."""

    size: int
    unsigned: np.dtype[Any]
    #: All bits but the sign.
    magnitude: Any
    mantissa_bits: int
    #: The smallest magnitude code that is no finite number.
    first_special: int


@cache
def _layout(dtype: np.dtype[Any]) -> _Layout:
    unsigned = np.dtype(f"u{dtype.itemsize}")
    most = (1 << (8 * unsigned.itemsize - 1)) - 1
    mantissa_bits = 52 if dtype == np.float64 else format_of(dtype).mantissa_bits
    if unsigned.itemsize == 1:
        special = ~np.isfinite(_byte_values(dtype)[: most + 1])
        first_special = int(np.argmax(special)) if special.any() else most + 1
    else:
        first_special = int(np.array([np.inf]).astype(dtype).view(unsigned)[0])
    return _Layout(unsigned.itemsize, unsigned, unsigned.type(most), mantissa_bits, first_special)


def set_bit_span(x: Array) -> Array:
    """Per column of float64 x [K, n]: bits from the top of the largest to the lowest set bit of any element.

    Sharper than the span of places (an integer has no bits behind the point, whatever its format could hold);
    very negative for a column of zeros. Finite values only.
    """
    mantissa, exponent = np.frexp(x)
    digits = (mantissa * 2.0**53).astype(np.int64)
    lowest = np.frexp((digits & -digits).astype(np.float64))[1] - 54 + exponent
    top = np.where(x == 0, -_UNBOUNDED, exponent).max(axis=0)
    return np.asarray(top - np.where(x == 0, _UNBOUNDED, lowest).min(axis=0))


def zero_subnormals(x: Array) -> Array:
    """The float array with its format's subnormals replaced by zeros of the same sign."""
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    sign = unsigned.type(1 << (8 * unsigned.itemsize - 1))
    codes = x.view(unsigned)
    normal = unsigned.type(1 << format_of(x.dtype).mantissa_bits)
    return np.where(codes & ~sign < normal, codes & sign, codes).view(x.dtype)


def special_sums(left: Array, right: Array) -> Array:
    """What the products with NaN or infinity of left [B, K, M] and right [B, K, N] add up to, [B, M, N].

    Infinity with its sign, NaN (a NaN operand, inf * 0, or infinities of both signs), or 0 where every
    product is finite.
    """
    a, b = _classes(left), _classes(right)
    plus = _count(a, b, (("+inf", "+"), ("-inf", "-"), ("+", "+inf"), ("-", "-inf")))
    minus = _count(a, b, (("+inf", "-"), ("-inf", "+"), ("+", "-inf"), ("-", "+inf")))
    invalid = _count(a, b, (("inf", "0"), ("0", "inf"), ("nan", "any"), ("any", "nan")))
    special = np.where(plus > 0, np.inf, np.where(minus > 0, -np.inf, 0.0))
    return np.where((invalid > 0) | ((plus > 0) & (minus > 0)), np.nan, special)


def _classes(x: Array) -> dict[str, Array]:
    return {
        "+inf": x == np.inf,
        "-inf": x == -np.inf,
        "inf": np.isinf(x),
        "+": x > 0,
        "-": x < 0,
        "0": x == 0,
        "nan": np.isnan(x),
        "any": np.ones(x.shape, bool),
    }


def _count(a: dict[str, Array], b: dict[str, Array], pairs: tuple[tuple[str, str], ...]) -> Array:
    """How many k have a product of one of the class pairs; small integers, exact in any order of adding."""
    left = np.concatenate([a[name] for name, _ in pairs], axis=1, dtype=np.float64)
    right = np.concatenate([b[name] for _, name in pairs], axis=1, dtype=np.float64)
    return np.asarray(np.matmul(left.transpose(0, 2, 1), right))
