"""Scalar arithmetic by definition: rational numbers and one explicit rounding, for expected values of models.

Slow and independent: shares no code with `reference`. Values are Python floats (every narrow format fits),
dtypes are names; zeros keep the sign that IEEE 754 gives them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np

#: name: (bits of the significand, exponent of the smallest normal, largest finite value)
PRECISION = {
    "float32": (24, -126, float(2**128 - 2**104)),
    "float16": (11, -14, 65504.0),
    "bfloat16": (8, -126, float(2**128 - 2**120)),
    "float8_e4m3": (4, -6, 240.0),
    "float8_e4m3fn": (4, -6, 448.0),
    "float8_e5m2": (3, -14, 57344.0),
}


def rounded(value: Fraction, fmt: str) -> float:
    """`value` to nearest even; beyond the largest finite value infinity; +0 for zero."""
    bits, lowest, largest = PRECISION[fmt]
    if value == 0:
        return 0.0
    quantum = Fraction(2) ** (max(_exponent(value), lowest) - bits + 1)
    near = round(value / quantum) * quantum
    if abs(near) > largest:
        return math.copysign(math.inf, value)
    return math.copysign(float(near), value)


def _exponent(value: Fraction) -> int:
    """e with 2^e <= |value| < 2^(e+1)."""
    guess = abs(value.numerator).bit_length() - value.denominator.bit_length()
    return guess if Fraction(2) ** guess <= abs(value) else guess - 1


def to(value: float, fmt: str) -> float:
    """One rounding of a float; the sign of zero, infinity and NaN pass."""
    if value == 0 or not math.isfinite(value):
        return value
    return rounded(Fraction(value), fmt)


def multiply(x: float, y: float) -> float:
    """float32 product."""
    if not (math.isfinite(x) and math.isfinite(y)) or x == 0 or y == 0:
        return x * y
    return rounded(Fraction(x) * Fraction(y), "float32")


def add(x: float, y: float) -> float:
    """float32 sum; exact cancellation is +0."""
    if not (math.isfinite(x) and math.isfinite(y)) or (x == 0 and y == 0):
        return x + y
    return rounded(Fraction(x) + Fraction(y), "float32")


def reciprocal(x: float) -> float:
    """float32 quotient 1/x of a finite nonzero x."""
    return rounded(1 / Fraction(x), "float32")


def reciprocal_root(x: float) -> float:
    """float32 of 1/sqrt(x) of a finite positive x, from an integer root of 200 bits after the point."""
    return rounded(Fraction(math.isqrt(int((1 / Fraction(x)) * 4**200)), 2**200), "float32")


def dot(pairs: Iterable[tuple[float, float]]) -> float:
    """Exact sum of exact products of finite numbers, rounded once to float32; an exact zero is +0."""
    return rounded(sum((Fraction(x) * Fraction(y) for x, y in pairs), Fraction(0)), "float32")


def values(array: Any) -> list[Any]:
    """An array of any float storage dtype as nested lists of Python floats."""
    nested: list[Any] = np.asarray(array).astype(np.float32).tolist()
    return nested
