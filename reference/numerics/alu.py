"""The arithmetic and logic operations of the engines, by their NKI operator names.

`BINARY` and `UNARY` are the arithmetic class: operands have been cast to float32, the result is float32 and
not yet cast to the destination. IEEE 754 decides all but what the profile asks: NaN and signed zeros in
maximum and minimum (V5), subnormals (U6 `subnormals_alu`), the last bit of reciprocal, rsqrt and power (V6),
and whether a multiply and an add are fused (V1, S1: `multiply_add`). `BITWISE` works on raw integer patterns,
`INTEGER` on 32-bit integers as GpSimd does (G1). Sources: facts 5.1 to 5.3 and 7 of the numerics sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics import elementary
from reference.numerics.exact_sum import round_to_odd, two_sum
from reference.numerics.power import is_exact_power, power
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.subnormals import read_operand, write_result

Array = NDArray[Any]
Rule = Callable[[Array, Array, NumericsProfile], Array]


# --- operands and results ---------------------------------------------------------------------------------


def _operand(x: Any, profile: NumericsProfile) -> Array:
    return read_operand(np.asarray(x, np.float32), profile)


def _result(y: Any, profile: NumericsProfile) -> Array:
    return write_result(np.asarray(y, np.float32), profile)


def _binary(rule: Rule) -> Callable[..., Array]:
    """The rule between operands read and results written as U6 says; floating-point flags are ignored."""

    def operation(a: Any, b: Any, profile: NumericsProfile = DEFAULT) -> Array:
        with np.errstate(all="ignore"):
            return _result(rule(_operand(a, profile), _operand(b, profile), profile), profile)

    return operation


def _unary(rule: Callable[[Array, NumericsProfile], Array]) -> Callable[..., Array]:
    def operation(a: Any, profile: NumericsProfile = DEFAULT) -> Array:
        with np.errstate(all="ignore"):
            return _result(rule(_operand(a, profile), profile), profile)

    return operation


# --- maximum and minimum ----------------------------------------------------------------------------------


def _maximum(a: Array, b: Array, profile: NumericsProfile) -> Array:
    chosen = (np.fmax if profile.maxmin_nan == "number" else np.maximum)(a, b)
    # The sum of two zeros is -0 only if both are: that is the larger zero.
    return _by_rules(chosen, a, b, profile, lambda: a + b)


def _minimum(a: Array, b: Array, profile: NumericsProfile) -> Array:
    chosen = (np.fmin if profile.maxmin_nan == "number" else np.minimum)(a, b)
    return _by_rules(chosen, a, b, profile, lambda: -((-a) - b))


def _by_rules(chosen: Array, a: Array, b: Array, profile: NumericsProfile, ieee_zero: Callable[[], Array]) -> Array:
    """NumPy's choice corrected where NumPy does not promise it: between zeros, and for NaN under 'second'."""
    if profile.maxmin_nan == "second":
        chosen = np.where(np.isnan(a) | np.isnan(b), b, chosen)
    if np.all(chosen):
        return chosen
    zeros = (a == 0) & (b == 0)
    choice = {"first": lambda: a, "second": lambda: b, "ieee": ieee_zero}[profile.maxmin_zero]()
    return np.where(zeros, choice, chosen)


def _by_magnitude(first_wins: Callable[[Array, Array], Array]) -> Rule:
    """The operand whose magnitude wins, with its sign; the second on equal magnitude (facts 5.2)."""

    def rule(a: Array, b: Array, profile: NumericsProfile) -> Array:
        # Comparisons with NaN are false, so the second operand wins: the candidate 'second' as it stands.
        chosen = np.where(first_wins(np.abs(a), np.abs(b)), a, b)
        if profile.maxmin_nan == "propagate":
            return np.where(np.isnan(a), a, chosen)
        return np.where(np.isnan(b), a, chosen) if profile.maxmin_nan == "number" else chosen

    return rule


# --- the arithmetic tables --------------------------------------------------------------------------------


def _plain(ufunc: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    """An operation with nothing for the profile to say; comparisons and logic come out as 1.0 and 0.0."""
    return _binary(lambda a, b, profile: ufunc(a, b))


def _power(a: Array, b: Array, profile: NumericsProfile) -> Array:
    y = power(a, b)
    if profile.reciprocal_accuracy == "correct":
        return y
    return elementary.with_accuracy(y, is_exact_power(a, b, y), profile.reciprocal_accuracy)


def _with_v6(name: str) -> Callable[[Array, NumericsProfile], Array]:
    function = elementary.FUNCTIONS[name]

    def rule(a: Array, profile: NumericsProfile) -> Array:
        y = function(a)
        if profile.reciprocal_accuracy == "correct":
            return y
        return elementary.with_accuracy(y, function.is_exact(a, y), profile.reciprocal_accuracy)

    return rule


def _relu(a: Array, profile: NumericsProfile) -> Array:
    """maximum(a, +0) under the NaN rule of V5, and +0 for both zeros."""
    kept = elementary.relu(a)
    return kept if profile.maxmin_nan == "propagate" else np.where(np.isnan(kept), np.float32(0), kept)


#: operator name -> (a, b, profile) -> float32. Operands broadcast and may be Python numbers (rounded to
#: float32). Comparisons with NaN are false but for not_equal; logic takes all but the zeros, so NaN, as true.
BINARY: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "add": _plain(np.add),
        "subtract": _plain(np.subtract),
        "multiply": _plain(np.multiply),
        "maximum": _binary(_maximum),
        "minimum": _binary(_minimum),
        "equal": _plain(np.equal),
        "not_equal": _plain(np.not_equal),
        "greater": _plain(np.greater),
        "greater_equal": _plain(np.greater_equal),
        "less": _plain(np.less),
        "less_equal": _plain(np.less_equal),
        "logical_and": _plain(np.logical_and),
        "logical_or": _plain(np.logical_or),
        "logical_xor": _plain(np.logical_xor),
        "power": _binary(_power),
        "abs_max": _binary(_by_magnitude(np.greater)),
        "abs_min": _binary(_by_magnitude(np.less)),
    }
)

#: operator name -> (a, profile) -> float32, the unary operators that may stand as op0.
UNARY: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "abs": _unary(lambda a, profile: np.abs(a)),
        "square": _unary(lambda a, profile: np.square(a)),
        "relu": _unary(_relu),
        "rsqrt": _unary(_with_v6("rsqrt")),
        "reciprocal": _unary(_with_v6("reciprocal")),
    }
)


def multiply_add(a: Any, b: Any, c: Any, profile: NumericsProfile = DEFAULT, *, fused: bool) -> Array:
    """a * b + c in float32: two roundings, or one if `fused` (V1 `fma_vector`, S1 `fma_scalar`).

    NaN, infinities and zeros as in IEEE 754 fusedMultiplyAdd; overflow to infinity, gradual underflow unless
    `subnormals_alu` says otherwise. Shapes broadcast.
    """
    if not fused:
        return BINARY["add"](BINARY["multiply"](a, b, profile), c, profile)
    with np.errstate(all="ignore"):
        x, y, z = (_operand(operand, profile).astype(np.float64) for operand in (a, b, c))
        # A product of two float32 is exact in float64; the sum is rounded to odd, so float32 rounds it once.
        total, rest = two_sum(x * y, z)
        odd = round_to_odd(np.atleast_1d(total), np.atleast_1d(np.where(np.isfinite(total), rest, 0.0)))
        return _result(odd.reshape(np.shape(total)).astype(np.float32), profile)


# --- bit patterns -----------------------------------------------------------------------------------------


def _pattern(x: Any, like: np.dtype[Any] | None = None) -> Array:
    """`x` as unsigned integers of its own width; a Python number takes the width of `like`, modulo."""
    if isinstance(x, int) and like is not None:
        return np.array(x % (1 << 8 * like.itemsize), f"u{like.itemsize}")
    values = np.asarray(x)
    if values.dtype.kind not in "iu":
        raise ValueError(f"bitwise operation on {values.dtype}: operands must be integers, view the bits first")
    if like is not None and values.dtype.itemsize != like.itemsize:
        raise ValueError(f"bitwise operation on {like} and {values.dtype}: the widths must be equal")
    return values.view(f"u{values.dtype.itemsize}")


def _bitwise(rule: Callable[[Array, Array], Array]) -> Callable[[Any, Any], Array]:
    def operation(a: Any, b: Any) -> Array:
        first = np.asarray(a)
        result = rule(_pattern(first), _pattern(b, first.dtype))
        return np.asarray(result).view(first.dtype)

    return operation


def _shift(ufunc: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """A logical shift; by the width or more it gives 0, where C leaves it undefined."""

    def rule(a: Array, b: Array) -> Array:
        width = a.dtype.type(8 * a.dtype.itemsize)
        return np.where(b < width, ufunc(a, np.minimum(b, width - a.dtype.type(1))), a.dtype.type(0))

    return rule


def _invert(a: Any) -> Array:
    first = np.asarray(a)
    return np.asarray(np.invert(_pattern(first))).view(first.dtype)


#: operator name -> (a, b) -> integers of a's dtype; `invert` takes a alone. Shift amounts are read unsigned.
#: ValueError for operands that are no integers or differ in width.
BITWISE: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "invert": _invert,
        "bitwise_and": _bitwise(np.bitwise_and),
        "bitwise_or": _bitwise(np.bitwise_or),
        "bitwise_xor": _bitwise(np.bitwise_xor),
        "left_shift": _bitwise(_shift(np.left_shift)),
        "right_shift": _bitwise(_shift(np.right_shift)),
    }
)


# --- integers ---------------------------------------------------------------------------------------------


def _integer(rule: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    """The rule on 64-bit copies, where all results of 32-bit operands fit but some products of two uint32."""

    def operation(a: Any, b: Any, profile: NumericsProfile = DEFAULT) -> Array:
        return np.asarray(rule(_wide(a), _wide(b)).astype(np.int64))

    return operation


def _multiply_integers(a: Any, b: Any, profile: NumericsProfile = DEFAULT) -> Array:
    """The product modulo 2^64, which is what wrapping needs, or kept at 2^62 and below, which saturates."""
    x, y = _wide(a), _wide(b)
    product = np.asarray(x * y)
    if profile.int_overflow == "wrap":
        return product
    size = x.astype(np.float64) * y.astype(np.float64)
    return np.where(np.abs(size) < 2.0**62, product, np.where(size < 0, -(2**62), 2**62))


def _wide(x: Any) -> Array:
    values = np.asarray(x)
    if values.dtype.kind not in "iu":
        raise ValueError(f"integer operation on {values.dtype}: operands must be integers")
    return values.astype(np.int64)


def store_integer(x: Array, dtype: Any, profile: NumericsProfile = DEFAULT) -> Array:
    """64-bit results of `INTEGER` in the integer type of the destination: modulo 2^n, or saturated (G1)."""
    target = np.dtype(dtype)
    if profile.int_overflow == "saturate":
        info = np.iinfo(target)
        return np.clip(x, info.min, info.max).astype(target)
    return x.astype(target)


#: operator name -> (a, b, profile) -> int64, for int32 and uint32 operands in any mixture (GpSimd). Two
#: operators may follow each other on the 64-bit values; `store_integer` ends the instruction.
INTEGER: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "add": _integer(np.add),
        "subtract": _integer(np.subtract),
        "multiply": _multiply_integers,
        "maximum": _integer(np.maximum),
        "minimum": _integer(np.minimum),
        "equal": _integer(np.equal),
        "not_equal": _integer(np.not_equal),
        "greater": _integer(np.greater),
        "greater_equal": _integer(np.greater_equal),
        "less": _integer(np.less),
        "less_equal": _integer(np.less_equal),
        "logical_and": _integer(np.logical_and),
        "logical_or": _integer(np.logical_or),
        "logical_xor": _integer(np.logical_xor),
        "abs_max": _integer(lambda a, b: np.where(np.abs(a) > np.abs(b), a, b)),
        "abs_min": _integer(lambda a, b: np.where(np.abs(a) < np.abs(b), a, b)),
    }
)
