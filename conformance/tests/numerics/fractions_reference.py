"""Exact references in `fractions.Fraction`: slow, scalar, and sharing nothing with the code under test."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np


def nearest_float32(value: Fraction, rounding: str = "rne") -> np.float32:
    """A rational number rounded once to float32, to nearest even or towards zero.

    Zero gives +0, underflow keeps the sign.
    """
    sign, size = (-1 if value < 0 else 1), abs(value)
    if size == 0:
        return np.float32(0)
    exponent = max(_floor_log2(size) - 23, -149)
    quotient = size / Fraction(2) ** exponent
    whole = quotient.numerator // quotient.denominator
    rest = quotient - whole
    if rounding == "rne" and (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2)):
        whole += 1
    if whole * Fraction(2) ** exponent >= Fraction(2) ** 128:
        return np.float32(sign * (np.inf if rounding == "rne" else np.finfo(np.float32).max))
    return np.float32(sign * np.ldexp(np.float64(whole), exponent))


def _floor_log2(size: Fraction) -> int:
    guess = size.numerator.bit_length() - size.denominator.bit_length()
    return guess if Fraction(2) ** guess <= size else guess - 1


def dot(a: Iterable[float], b: Iterable[float], start: float = 0.0) -> Fraction:
    """Exact dot product of finite floats, plus `start`."""
    pairs = zip(a, b, strict=True)
    return sum((Fraction(float(x)) * Fraction(float(y)) for x, y in pairs), Fraction(float(start)))


def total(values: Iterable[float]) -> Fraction:
    """Exact sum of finite floats."""
    return sum((Fraction(float(x)) for x in values), Fraction(0))


def bits(x: object) -> list[int]:
    """float32 bit patterns, every NaN as one, so that comparing lists compares answers."""
    values = np.asarray(x, dtype=np.float32)
    return [int(b) for b in np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32)).ravel()]
