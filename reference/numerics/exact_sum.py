"""Exact sums of float64 values and their one rounding to float32: the slow half of certified rounding.

Everything here is IEEE-exact arithmetic, so its bits are the same on every machine. The fast half, which
calls this for the few sums it cannot certify, is in `exact_dot` and `reduce`.

The trap all of this avoids: an exact sum rounded to float64 first and to float32 after is rounded twice, and
a sum within 2^-54 of a float32 midpoint, relatively, then goes the wrong way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Unit roundoff of float64.
UNIT = 2.0**-53
#: What an addition may do (U2); see `narrow` and `add`.
ROUNDINGS = ("rne", "rz", "wide28")


def two_sum(x: Array, y: Array) -> tuple[Array, Array]:
    """(s, e) with s = fl(x + y) and x + y = s + e exactly (Knuth); finite operands, no overflow."""
    total = x + y
    other = total - x
    return total, (x - (total - other)) + (y - other)


def round_to_odd(total: Array, rest: Array) -> Array:
    """The float64 neighbour of total + rest with an odd significand, or `total` where `rest` is 0.

    `total` must be the float64 nearest to total + rest. A value rounded to odd with 53 bits and then to 51 or
    fewer bits in any mode is rounded as if once (Boldo and Melquiond 2008).
    """
    bits = np.ascontiguousarray(total, dtype=np.float64).view(np.int64)
    step = (rest != 0) & (bits & 1 == 0)
    # Patterns of one sign order like magnitudes: away from zero is +1. A zero total has no rest.
    away = np.where(np.signbit(total) == np.signbit(rest), 1, -1)
    return (bits + np.where(step, away, 0)).view(np.float64)


def narrow(x: Array, rounding: str = "rne") -> Array:
    """float64 to float32 in one rounding: 'rne' (overflows to infinity) or 'rz' (to the largest finite).

    'wide28' rounds like 'rne': it names the width of a register and not of the value that leaves it.
    NaN, infinities and the sign of zero pass; results may be subnormal.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        near = np.asarray(x, dtype=np.float64).astype(np.float32)
        if rounding != "rz":
            return near
        beyond = (np.abs(near.astype(np.float64)) > np.abs(x)) & np.isfinite(x)
        return np.where(beyond, np.nextafter(near, np.float32(0)), near)


def keep_28_bits(x: Array) -> Array:
    """float64 rounded to 28 significant bits, to nearest even; NaN and infinities pass.

    A value that stands for an inexact sum must come rounded to odd.
    """
    bits = np.ascontiguousarray(x, dtype=np.float64).view(np.int64)
    kept = (bits + ((1 << 24) - 1) + ((bits >> 25) & 1)) & ~np.int64((1 << 25) - 1)
    return np.where(np.isfinite(x), kept.view(np.float64), x)


def add(x: Array, y: Array, rounding: str = "rne") -> Array:
    """x + y rounded once: float32 in and out for 'rne' and 'rz', float64 register in and out for 'wide28'.

    IEEE at NaN and infinities; 'rz' never overflows from finite operands. An exact zero sum is +0 unless both
    operands are -0.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if rounding == "rne":
            return np.add(x, y, dtype=np.float32)
        total, rest = two_sum(np.asarray(x, np.float64), np.asarray(y, np.float64))
        finite = np.isfinite(total)
        odd = np.where(finite, round_to_odd(total, np.where(finite, rest, 0.0)), total)
    return narrow(odd, "rz") if rounding == "rz" else keep_28_bits(odd)


def exact_total(values: Iterable[float]) -> float:
    """The exact sum of finite float64 values, rounded to odd in float64; an exact zero is +0.

    The sum must stay below 2^1023 in magnitude; products and sums of float32 values do.
    """
    terms = list(values)
    total = math.fsum(terms) + 0.0
    rest = math.fsum([*terms, -total])
    return float(round_to_odd(np.array([total]), np.array([rest]))[0])


def total_to_float32(values: Iterable[float], rounding: str = "rne") -> np.float32:
    """The exact sum of finite float64 values, rounded once to float32 by `narrow`."""
    narrowed = narrow(np.array([exact_total(values)]), rounding)
    return np.float32(narrowed[0])


def few_total(parts: Sequence[Array], rounding: str = "rne") -> Array:
    """Element-wise exact sum of a few float64 arrays of one shape, rounded once.

    Gives float32 for 'rne' and 'rz', a float64 register of 28 significant bits for 'wide28'. An exact zero is
    +0. NaN and infinities follow IEEE addition.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = parts[0] + 0.0
        rests = []
        for part in parts[1:]:
            total, rest = two_sum(total, part)
            rests.append(rest)
        tail = np.sum(rests, axis=0) if rests else np.zeros_like(total)
        finite = np.isfinite(total)
        # What summing the rests can have lost; nothing where at most one of them is not zero.
        several = np.count_nonzero(rests, axis=0) > 1 if rests else np.zeros(total.shape, bool)
        doubt = np.where(finite & several, len(parts) * 2 * UNIT * np.sum(np.abs(rests), axis=0), 0.0)
        low = _finish(total, tail - doubt, finite, rounding)
        high = _finish(total, tail + doubt, finite, rounding)
    return _settle_few(parts, low, high, rounding)


def _finish(total: Array, tail: Array, finite: Array, rounding: str) -> Array:
    head, rest = two_sum(total, np.where(finite, tail, 0.0))
    odd = np.where(finite, round_to_odd(head, np.where(finite, rest, 0.0)), total)
    return _register(odd, rounding)


def _register(odd: Array, rounding: str) -> Array:
    return keep_28_bits(odd) if rounding == "wide28" else narrow(odd, rounding)


def _settle_few(parts: Sequence[Array], low: Array, high: Array, rounding: str) -> Array:
    same = (low == high) & (np.signbit(low) == np.signbit(high)) | np.isnan(low)
    for index in zip(*np.nonzero(~same), strict=True):
        odd = np.array([exact_total(float(part[index]) for part in parts)])
        low[index] = _register(odd, rounding)[0]
    return low
