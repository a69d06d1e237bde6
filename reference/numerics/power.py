"""x to the power y in float32, correctly rounded.

Unlike the functions of one argument, a power can be an exact midpoint of two float32 numbers (4097^2), and
often is for data of few bits. So a doubtful power is first tried in integers.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import to_float32
from reference.numerics.certify import decide, nearest_float32, round_relative_where_sure, settle

Array = NDArray[Any]

#: np.power is trusted to 32 units in the last place, 64 * 2^-53.
_BOUND = 2.0**-46
#: Longest significand of a dyadic power that can be a midpoint (25 bits) or a float32 (24), with room.
_LONGEST = 64
_BLOCK = 16384


def power(x: Any, y: Any) -> Array:
    """x^y element by element as float32, rounded once from the real power of the float32 arguments.

    Special values as C99 and IEEE 754 `pow`: x^0 = 1 and 1^y = 1 even for NaN, otherwise NaN gives NaN;
    (+-0)^y is an infinity for y < 0 (signed for odd integers) and a zero for y > 0 (likewise); a negative x
    with a y that is no integer gives NaN; overflow gives infinity, underflow is gradual and keeps the sign.

    Args:
        x, y: anything `to_float32` takes; shapes broadcast.
    """
    base, exponent = np.broadcast_arrays(to_float32(x), to_float32(y))
    bases, exponents = base.reshape(-1), exponent.reshape(-1)
    result = np.empty(bases.shape, np.float32)
    for start in range(0, bases.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        result[block] = _power_block(bases[block], exponents[block])
    return result.reshape(base.shape)


def attempt_power(x: Array, y: Array) -> tuple[Array, Array]:
    """Powers of float32 arrays, and the mask of those that float64 does not decide."""
    with np.errstate(all="ignore"):
        return round_relative_where_sure(np.power(x.astype(np.float64), y.astype(np.float64)), _BOUND)


def _power_block(x: Array, y: Array) -> Array:
    result, doubt = attempt_power(x, y)
    if doubt.any():
        _take_single_operations(x, y, result, doubt)

    def exact(indices: Array) -> Array:
        pairs = zip(x[indices].tolist(), y[indices].tolist(), strict=True)
        return np.array([_decided_power(base, exponent) for base, exponent in pairs], np.float32)

    return settle(result, doubt, exact)


def _take_single_operations(x: Array, y: Array, result: Array, doubt: Array) -> None:
    """Squares, roots and reciprocals are one IEEE operation, and their midpoints are the common ones."""
    with np.errstate(all="ignore"):
        for exponent, values in ((2.0, np.square), (0.5, np.sqrt), (-1.0, np.reciprocal)):
            here = doubt & (y == exponent)
            result[here] = values(x[here])
            doubt &= ~here


@lru_cache(maxsize=1 << 17)
def _decided_power(x: float, y: float) -> np.float32:
    dyadic = dyadic_power(x, y)
    if dyadic is not None:
        return nearest_float32(*dyadic)
    return decide(lambda context, base, exponent: context.power(base, exponent), x, y)


def is_exact_power(x: Array, y: Array, result: Array) -> Array:
    """Where float32 `result`, the rounded power, is the power itself (so count zero, infinity and NaN)."""
    plain = np.isfinite(x) & np.isfinite(y) & np.isfinite(result) & (x != 0) & (result != 0)
    exact = np.frompyfunc(_is_exact, 4, 1)(x, y, result, plain)
    return np.asarray(exact, dtype=bool)


def _is_exact(x: np.float32, y: np.float32, result: np.float32, plain: bool) -> bool:
    dyadic = dyadic_power(float(x), float(y)) if plain else None
    if dyadic is None:
        return not plain
    numerator, denominator = float(result).as_integer_ratio()
    mantissa, exponent = dyadic
    # A result that is not 0 or infinite bounds the exponent, so both shifts are small.
    return numerator << max(-exponent, 0) == mantissa * denominator << max(exponent, 0)


def dyadic_power(x: float, y: float) -> tuple[int, int] | None:
    """x^y as (mantissa, exponent of 2) if it is exactly such a number with few bits, else None.

    x and y are finite, x is not 0, and the power is real. A number with more than 64 significant bits also
    gives None: it is no midpoint, and the interval test gets by without knowing that it is exact.
    """
    numerator, denominator = x.as_integer_ratio()
    twos = (numerator & -numerator).bit_length() - 1
    odd, exponent = abs(numerator) >> twos, twos - (denominator.bit_length() - 1)
    whole, roots = y.as_integer_ratio()
    while roots > 1:
        root = math.isqrt(odd)
        if root * root != odd or exponent % 2:
            return None
        odd, exponent, roots = root, exponent // 2, roots // 2
    sign = -1 if x < 0 and whole % 2 else 1
    if odd == 1:
        return sign, exponent * whole
    if whole < 0 or odd.bit_length() * whole > _LONGEST:
        return None
    return sign * odd**whole, exponent * whole
