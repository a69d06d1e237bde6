"""Certified rounding (Ziv's test): the correctly rounded float32 of a real number known to within a bound.

The correctly rounded result is unique, so it has the same bits on every machine, whatever computed the
estimate: SIMD, BLAS, another libm. Where both ends of the interval [value - error, value + error] round to
the same float32, that is the answer; the rare rest is computed again in higher precision until decided.

The price of a wrong bound is a wrong bit that no machine agrees on, so bounds are generous: a bound of 2^-45
still sends only about one result in a million the slow way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Real function of float arguments in an mpmath context: `function(context, *arguments)`.
RealFunction = Callable[..., Any]

#: Working precisions tried in turn, in bits. Exact midpoints never end here: see `decide`.
_PRECISIONS = (120, 250, 600, 1500, 4000)
#: Bits of the working precision that a `RealFunction` may lose, by cancellation near its roots above all.
_LOST_BITS = 60

_FRACTION_BITS = 24
_MIN_EXPONENT = -149
_MAX_EXPONENT = 104


def round_certified(value: Array, error: Array | float, exact: Callable[[Array], Array]) -> Array:
    """float32 nearest to real numbers within `error` of `value`.

    NaN and infinite values pass. Results overflow to infinity and underflow gradually; a zero takes the sign
    of `value`.

    Args:
        value: float64 estimates, any shape.
        error: absolute bounds >= 0, broadcastable to `value`. They must hold with 2^-52 |value| to spare,
            which pays for the roundings of the test itself.
        exact: gives the correctly rounded float32 for flat indices into `value`, where the test fails.
    """
    result, doubt = round_where_sure(value, error)
    return settle(result, doubt, exact)


def round_where_sure(value: Array, error: Array | float) -> tuple[Array, Array]:
    """float32 of `value`, and a mask of the elements for which `value` +- `error` leaves two candidates."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        low = (value - error).astype(np.float32)
        high = (value + error).astype(np.float32)
        return value.astype(np.float32), (low != high) & np.isfinite(value)


def round_relative_where_sure(value: Array, relative: float) -> tuple[Array, Array]:
    """As `round_where_sure` for a bound that is a fraction of |value|; cheaper."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        low = (value * (1 - relative)).astype(np.float32)
        high = (value * (1 + relative)).astype(np.float32)
    # Compared as patterns, a NaN equals itself.
    return low, low.view(np.uint32) != high.view(np.uint32)


def settle(result: Array, doubt: Array, exact: Callable[[Array], Array]) -> Array:
    """`result` with its doubtful elements replaced by `exact(flat indices)`, in place where it can be."""
    if doubt.any():
        indices = np.flatnonzero(doubt)
        result.reshape(-1)[indices] = exact(indices)
    return result


def decide(function: RealFunction, *arguments: float) -> np.float32:
    """The float32 nearest to `function(context, *arguments)`, by Ziv's loop in mpmath.

    The function must keep all but 60 bits of the working precision, relative to its value, and must not be an
    exact midpoint of two float32 numbers (no precision would decide that): the callers' functions take
    transcendental values at all arguments they hand over, or have their exact cases taken out before.

    Raises:
        ArithmeticError: not decided at 4,000 bits, which means one of these conditions is broken.
    """
    for precision in _PRECISIONS:
        context = _context(precision)
        value = function(context, *(context.mpf(argument) for argument in arguments))
        margin = abs(value) * context.ldexp(1, _LOST_BITS - precision)
        low, high = _nearest(value - margin), _nearest(value + margin)
        if low.tobytes() == high.tobytes():
            return low
    raise ArithmeticError(f"rounding of a function of {arguments} is undecided at {_PRECISIONS[-1]} bits")


@cache
def _context(precision: int) -> Any:
    # Contexts of our own: the precision of the shared `mpmath.mp` belongs to the caller of this package.
    context = mpmath.mp.clone()
    context.prec = precision
    return context


def _nearest(value: Any) -> np.float32:
    sign, mantissa, exponent, _ = value._mpf_
    return nearest_float32(-int(mantissa) if sign else int(mantissa), exponent)


def nearest_float32(mantissa: int, exponent: int) -> np.float32:
    """mantissa * 2^exponent rounded to float32, to nearest even; overflow to infinity, gradual underflow.

    In integers, since no float64 on the way would be exact. A negative mantissa that underflows gives -0.
    """
    size = abs(mantissa)
    unit = max(exponent + size.bit_length() - _FRACTION_BITS, _MIN_EXPONENT)
    whole = _divide_to_even(size, unit - exponent)
    overflow = unit > _MAX_EXPONENT or (unit == _MAX_EXPONENT and whole >= 1 << _FRACTION_BITS)
    # A number of 25 bits at most (a carry included) within the range of float64, so exact.
    result = math.inf if overflow else math.ldexp(whole, unit)
    return np.float32(-result if mantissa < 0 else result)


def _divide_to_even(mantissa: int, shift: int) -> int:
    """mantissa / 2^shift rounded to nearest even."""
    if shift <= 0:
        return mantissa << -shift
    if shift > mantissa.bit_length() + 1:
        return 0
    whole, rest = mantissa >> shift, mantissa & ((1 << shift) - 1)
    half = 1 << (shift - 1)
    return whole + (rest > half or (rest == half and whole & 1))
