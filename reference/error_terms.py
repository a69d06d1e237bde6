"""What each operation of a kernel adds to the error of a value: the terms that every error bound is made of.

A companion run of truth carries three arrays beside each other (`Known`): the value in float64, the worst case of
what a right kernel's value may differ from it, and the variance of that difference where roundings are
independent. The worst case holds for every answer of the noise class to an open question. Outside are U12
(products rounded to bfloat16), and a PSUM value that seeds a sequential sum (U3 together with U1), which would put
every product of all passes on one path: that the array sums first and PSUM is added to is documented.

With u = 2^-24, half a unit in the last place of float32, and |x| the size of what is rounded, its error included:

operation               worst case                        why
float32 operation       u |x| + 2^-150                    one rounding to nearest; the vector, scalar and DMA engines
                                                          compute in float32, documented. Fused (V1, S1): one less.
sum of n terms, dot     2 n u sum|terms|                  each of at most n additions on a term's path errs by one unit
                        + 2 n 2^-150                      at most, rounding towards zero (U2, U3) included: 2 u. A tree
                                                          (U1, V2, S4) has shorter paths. Wide registers (U2) err less.
                                                          Fused (fdpa24, MX fused24): each of n products is cut below
                                                          2^-24 of the largest, n u sum|terms|, and one rounding ends.
dot of float32          PSUM is added to 4 times as often the operands' halves meet in four passes (U4); the passes
                        and one addition more             with a low half add up 2^-10 of the terms' sizes at most
elementary function     3 u relative                      one rounding, and one unit for an inexact table (S2, V6, V10)
cast                    half a step of the target at |x|  to nearest even, documented; exact for what is 0, and known
                                                          for what comes exact. Infinite where the target has no
                                                          finite value, if that is within 32 deviations
product, sum of values  |x| ey + |y| ex + ex ey, ex + ey  algebra
clamp                   min(e, high - low)                brings two numbers no further apart, and ends in the interval
dot of values           ex |w| + |x| ew + ex ew + sum's   algebra, `dot`
1 / sqrt(m + eps)       the function at the ends of m     monotonic; a negative mean counts as 0
exp(x - top)            expm1(ex + 2u(|x - top| + ex + 1) the error of an exponent is a relative error; the
                        + corrections (3u + 4u))          rounding of a difference is at most u of it; a factor
                                                          exp(top - newer top) per later tile, each with its product
MX                      half a step of the element, or    the scale is at most 2^-7 of the group's largest magnitude,
                        of its subnormals under the       and its smallest is 2^-127
                        group's scale

The variance of a rounding to nearest is step^2/12, a third of the half step squared. It is exact for a value that
lies anywhere between two neighbours, and an upper estimate for one that tends to be representable. A sum of n
float32 additions has the variance n (2u sum|terms|)^2, n roundings of either mode, of partial sums as large as
they can be, and (n u sum)^2, the drift of roundings towards zero in a sum that grows steadily. Float32 errors of
single operations count in full, as a variant may make them all alike. Parts that are not independent are added
before they are squared.

What is not covered: overflow of a sum on the way (the result is finite in truth and infinite in the kernel), and
U6, where subnormals are flushed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import cast, to_float32
from reference.numerics.formats import format_of

Array = NDArray[Any]

#: Half a unit in the last place of float32, relative.
UNIT = 2.0**-24
#: Largest relative error of one addition of the tensor engine or of a reduction, in any rounding mode.
ADDITION = 2 * UNIT
#: Largest relative error of an elementary function of float32: one rounding, and one unit for inexact tables.
FUNCTION = 3 * UNIT
#: Half of the smallest subnormal of float32.
TINY = 2.0**-150
#: No finite score differs from a finite maximum by more; keeps infinities out of products with zero weights.
FAR = 1e4
#: No sum of independent roundings is as many deviations long: five for the tail of many elements, the rest for what
#: the first order leaves out.
FAR_OUT = 32.0
#: Passes through the array of float32 operands (U4).
FLOAT32_PASSES = 4


class Known(NamedTuple):
    """A value and what a right kernel's may differ from it; float64 arrays of one shape."""

    value: Array
    #: Worst case, >= 0; infinite or NaN where nothing can be said.
    error: Array
    #: Expected square of the difference where roundings are independent.
    variance: Array

    @property
    def size(self) -> Array:
        """Largest magnitude of the kernel's value."""
        return np.asarray(np.abs(self.value) + self.error)

    @property
    def likely_size(self) -> Array:
        """Magnitude of the kernel's value by its variance: what is likely to be rounded."""
        return np.asarray(np.sqrt(np.square(self.value) + self.variance))

    @property
    def is_exact(self) -> bool:
        """Whether the kernel has this very value everywhere."""
        return not np.any(self.error)


def exact(value: Any) -> Known:
    """A value that the kernel has as well. Error and variance are views of one zero: not to be written to."""
    wide = np.asarray(value, np.float64)
    nothing = np.broadcast_to(np.float64(0), wide.shape)
    return Known(wide, nothing, nothing)


def each(x: Known, change: Callable[[Array], Array]) -> Known:
    """The same movement of data in value, error and variance: an index, a reshape, a transpose."""
    return Known(*map(change, x))


def joined(parts: list[Known], axis: int) -> Known:
    """Parts side by side."""
    return Known(*(np.concatenate(arrays, axis=axis) for arrays in zip(*parts, strict=True)))


# --- single operations ------------------------------------------------------------------------------------


def half_step(dtype: str, size: Array) -> Array:
    """Half the distance between neighbours of `dtype` at `size` >= 0: the largest error of one rounding to nearest.

    0 at 0; infinite for NaN and where rounding would give infinity or NaN.
    """
    half = leading_power(size)
    np.maximum(half, format_of(dtype).min_normal, out=half)
    half *= half_ulp(dtype)
    if not size.all():
        half[size == 0] = 0.0
    if not size.max(initial=0.0) < overflow(dtype):
        half[~(size < overflow(dtype))] = np.inf
    return half


def overflow(dtype: str) -> float:
    """Magnitude from which on rounding to nearest leaves the finite numbers."""
    most = format_of(dtype).max_finite
    return most + half_ulp(dtype) * float(leading_power(np.asarray(most)))


def half_ulp(dtype: str) -> float:
    """Relative error of one rounding to `dtype` in its normal range."""
    return float(2.0 ** -(format_of(dtype).mantissa_bits + 1))


def underflow(dtype: str) -> float:
    """Absolute error of one rounding to `dtype` below its normal range."""
    return format_of(dtype).min_subnormal / 2


def leading_power(x: Array) -> Array:
    """The largest power of two that is no larger than x > 0, in the normal range of its float dtype; 0 for 0."""
    exponents = x.view(np.int32) & 0x7F800000 if x.dtype == np.float32 else x.view(np.int64) & 0x7FF0000000000000
    return np.asarray(exponents.view(x.dtype))


def rounded(
    x: Known, dtype: str, operations: int = 1, whole: Known | None = None, ceiling: float = math.inf
) -> Known:
    """After some float32 operations whose intermediate values are no larger, and a cast to `dtype`.

    Args:
        whole: x with all its errors, where part of them is carried elsewhere.
        ceiling: largest magnitude of the kernel's value, where it was clamped.
    """
    if x.is_exact and not operations:
        # What the kernel rounds is known, and so is what it gets.
        step = np.abs(to_float32(cast(x.value, dtype)) - x.value)
        return Known(x.value, np.where(np.isfinite(step), step, np.inf), np.square(step))
    whole = x if whole is None else whole
    size, likely = (np.fmin(part, ceiling) for part in (whole.size, whole.likely_size))
    error, variance = x.error, x.variance
    # Not without operations: 0 times infinity is NaN.
    if operations:
        size = size + (of_operations := operations * (UNIT * size + TINY))
        error = error + of_operations
        variance = variance + np.square(operations * (UNIT * likely + TINY))
    # The operation has rounded to float32 already; what is left is overflow.
    half = np.zeros(size.shape) if dtype == "float32" else half_step(dtype, size)
    likely_half = half if dtype == "float32" else half_step(dtype, likely)
    beyond = ~(size < overflow(dtype))
    if beyond.any():
        # The worst of many roundings may overflow where no likely one does.
        far = np.abs(whole.value) + FAR_OUT * np.sqrt(whole.variance)
        top = half_ulp(dtype) * leading_power(np.asarray(format_of(dtype).max_finite))
        half = np.where(beyond, np.where(np.fmin(size, far) < overflow(dtype), top, np.inf), half)
    return Known(x.value, error + half, variance + np.square(likely_half) / 3)


def scaled(x: Known, factor: Any) -> Known:
    """Times an exact factor, not rounded."""
    wide = np.asarray(factor, np.float64)
    return Known(x.value * wide, x.error * np.abs(wide), x.variance * np.square(wide))


def product(x: Known, y: Known) -> Known:
    """Of two values with errors of their own, not rounded."""
    error = x.error * np.abs(y.value) + np.abs(x.value) * y.error + x.error * y.error
    variance = x.variance * np.square(y.value) + np.square(x.value) * y.variance + x.variance * y.variance
    return Known(x.value * y.value, error, variance)


def plus(x: Known, y: Known, sign: Any = 1.0) -> Known:
    """x + sign * y, not rounded."""
    return Known(x.value + sign * y.value, x.error + y.error, x.variance + y.variance)


def clamped(x: Known, low: float, high: float) -> Known:
    """Clamping brings two numbers no further apart, and ends within its limits."""
    reach = high - low
    return Known(np.clip(x.value, low, high), np.minimum(x.error, reach), np.minimum(x.variance, reach**2))


def off(x: Known, error: Array, variance: Array | None = None) -> Known:
    """With one more error; by default one that elements may share, so that it counts in full."""
    return Known(x.value, x.error + error, x.variance + (np.square(error) if variance is None else variance))


def quantised(x: Known, factor: float, dtype: str, limits: tuple[float, float], stored: str = "float32") -> Known:
    """x times a factor that is a reciprocal or rounded itself, rounded to `stored`, clamped, cast to `dtype`."""
    moved = scaled(x, factor)
    # The factor may be one unit off for all elements alike.
    moved = rounded(off(moved, FUNCTION * moved.size, np.square(FUNCTION * moved.likely_size)), stored)
    return rounded(clamped(moved, *limits), dtype, operations=0, ceiling=max(map(abs, limits)))


# --- sums -------------------------------------------------------------------------------------------------


def summed(size: Array, terms: int) -> Array:
    """Error of a float32 sum of `terms` rounded terms in any order; `size` is the sum of their magnitudes."""
    return np.asarray(np.expm1(terms * ADDITION) * size + terms * 2 * TINY)


def additions(depth: int, passes: int, dtype: str) -> int:
    """Most additions on the path of a product: `depth` rows of one pass, then `passes` onto PSUM."""
    return depth + FLOAT32_PASSES * passes + 1 if dtype == "float32" else depth + passes


#: Elements of a matrix above which products with it are formed in float32.
_LARGE = 2**18
#: Covers the error of float32 products of matrices without negative elements, up to a depth of 2^14.
_INFLATION = 1 + 2.0**-9


@dataclass(frozen=True)
class Matrix:
    """The second operand [K, N] of dots: in float64, or if large in float32 and units of a power of two.

    In float32 the value of a dot is off by less than the error of the kernel's own sum, and serves to tell the size
    of what is rounded next; errors are rounded up.
    """

    value: Array
    unit: float = 1.0
    #: Where the kernel's values are not these.
    error: Array | None = None
    variance: Array | None = None

    @cached_property
    def size(self) -> Array:
        """Largest magnitudes of the kernel's values."""
        return np.abs(self.value) if self.error is None else np.abs(self.value) + self.error

    @cached_property
    def square(self) -> Array:
        """Squares, for variances."""
        return np.square(self.value)


def matrix(w: Array | Known) -> Matrix:
    """`w` as an array is exact. NaN and infinity fill their columns of every product."""
    value = w.value if isinstance(w, Known) else np.asarray(w)
    dtype, unit = (np.float32, _unit(value)) if value.size >= _LARGE else (np.float64, 1.0)

    def narrow(x: Array, by: float) -> Array:
        return (x / by).astype(dtype) if by != 1.0 else x.astype(dtype, copy=False)

    if not isinstance(w, Known) or w.is_exact:
        return Matrix(narrow(value, unit), unit)
    return Matrix(narrow(value, unit), unit, narrow(w.error, unit), narrow(w.variance, unit**2))


def _unit(x: Array) -> float:
    """A power of two that brings the largest finite magnitude near 1."""
    peak = max(float(np.nanmax(x)), -float(np.nanmin(x))) if x.size and not np.isnan(x).all() else 0.0
    return 2.0 ** round(math.log2(peak)) if 0.0 < peak < math.inf else 1.0


def apart(a: Array, b: Array) -> Array:
    """a [M, K] @ b [K, N], formed in the precision of b; float64, but float32 where both are."""
    if b.dtype != np.float32 or a.dtype == np.float32:
        return np.asarray(a @ b)
    rows = np.abs(a).max(axis=-1, keepdims=True)
    rows = np.where(np.isfinite(rows) & (rows > 0), rows, 1.0)
    return np.asarray(((a / rows).astype(np.float32) @ b) * rows)


def across(a: Array, b: Array) -> Array:
    """`apart` of matrices without negative elements, no smaller than it is."""
    return apart(a, b) * _INFLATION if b.dtype == np.float32 else apart(a, b)


def dot(x: Known, w: Matrix, terms: int) -> Known:
    """x [M, K] @ w by the tensor engine, `terms` additions on the longest path (see `additions`)."""
    value = apart(x.value, w.value) * w.unit
    growth = float(np.expm1(terms * ADDITION))
    error = across(x.error + growth * x.size, w.size) * w.unit + terms * 2 * TINY
    # Additions towards zero follow the sign of what they add to, half of the result on the way.
    drift = np.square(terms * UNIT * value)
    if x.is_exact and w.error is None:
        # All of the error is that of the sum: `terms` additions, each a share 1/terms of it.
        return Known(value, error, np.square(error) / terms + drift)
    # |x| |w| summed and squared is at most the depth times the sum of the squares.
    squares, of_sum = np.square(x.value), terms * ADDITION**2 * x.value.shape[-1]
    variance = across(x.variance + of_sum * squares, w.square) * w.unit**2
    if w.error is not None and w.variance is not None:
        error = error + across(x.size, w.error) * w.unit
        variance = variance + across(squares, w.variance) * w.unit**2
    return Known(value, error, variance + drift)


# --- functions and norms ----------------------------------------------------------------------------------


def inverse_root(mean: Array, error: Array, eps: float, eps_error: float = 0.0) -> tuple[Array, Array]:
    """1 / sqrt(mean + eps) and its relative error, where the kernel takes a negative mean as 0."""
    right = mean + eps
    low = (np.maximum(mean - error, 0) + max(eps - eps_error, 0.0)) * (1 - 4 * UNIT)
    high = (right + error + eps_error) * (1 + 4 * UNIT)
    # Below, the root runs away; above, where the mean cannot fall by as much, it shrinks by more.
    relative = np.maximum(np.sqrt(right / low) - 1, 1 - np.sqrt(right / high))
    return 1 / np.sqrt(right), np.asarray(relative + 2 * FUNCTION * (1 + relative))


def mean_of(x: Known, divisor: float, terms: int, axis: int = -1) -> Known:
    """Sum over an axis divided: a float32 sum of `terms` additions on the longest path, which tokens do not share."""
    of_sum, likely = (summed(x.sum(axis=axis, keepdims=True), terms + 2) for x in (x.size, x.likely_size))
    value, error = (part.sum(axis=axis, keepdims=True) / divisor for part in (x.value, x.error))
    variance = x.variance.sum(axis=axis, keepdims=True) / divisor**2
    return off(Known(value, error, variance), of_sum / divisor, np.square(likely / divisor))


def squared(x: Known) -> Known:
    """x * x in float32; errors to first order where they are small, else their own squares as well."""
    error = (2 * np.abs(x.value) + x.error) * x.error
    variance = (4 * np.square(x.value) + x.variance) * x.variance
    return rounded(Known(np.square(x.value), error, variance), "float32")


def weight_error(score_error: Array, distance: Array, corrections: int) -> Array:
    """Relative error of exp(score - top), brought to the final maximum by `corrections` factors."""
    exponent = np.minimum(distance, FAR)
    exponent += score_error
    exponent *= 2 * UNIT
    exponent += score_error
    exponent += 2 * UNIT + corrections * (FUNCTION + 4 * UNIT) + FUNCTION
    # expm1(x) is at most x + x^2 up to 1.
    return np.asarray(exponent * (1 + exponent) if exponent.max(initial=0.0) < 1 else np.expm1(exponent))


def maximum_error(values: Array, errors: Array, axis: int) -> Array:
    """Error of a maximum: what the largest of the values may rise to, or sink to; 0 where none is finite."""
    top = values.max(axis=axis, keepdims=True)
    with np.errstate(invalid="ignore"):
        up = np.where(np.isfinite(values), values + errors - top, 0).max(axis=axis)
        down = np.where(np.isfinite(values), top - values + errors, np.inf).min(axis=axis)
    return np.where(np.isfinite(down), np.maximum(up, down), 0)


def mx_rounding(size: Array) -> Array:
    """Error of quantising to float8_e4m3fn in groups of 32 consecutive elements of the last axis."""
    groups: Array = size.reshape(*size.shape[:-1], -1, 32)
    largest = groups.max(axis=-1, keepdims=True)
    scale = np.maximum(leading_power(largest) * 2.0**-7, 2.0**-127)
    return np.asarray(half_step("float8_e4m3fn", groups / scale) * scale).reshape(size.shape)
