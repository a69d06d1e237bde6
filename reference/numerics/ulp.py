"""Distances between floating-point numbers, counted in representable numbers, and equality of bits.

The codes of a format are mapped to integers in the order of their values, so that neighbours differ by 1.
Both zeros map to 0: their difference is one of bits, which `same_bits` sees.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import to_float32
from reference.numerics.formats import Format, format_of

Array = NDArray[Any]

#: Distance between a NaN and a number: farther than any two numbers of any format.
NAN_DISTANCE = 2**62


def ulp_distance(a: Any, b: Any, fmt: object = None) -> Array:
    """How many steps between neighbouring numbers lie between `a` and `b`, as int64.

    +0 and -0 are 0 apart. Two NaN are 0 apart, NaN and a number `NAN_DISTANCE`. Infinity is the number after
    the largest finite one. Integers and bool_ differ by their difference.

    Args:
        a, b: arrays of the storage dtype of `fmt`; shapes broadcast.
        fmt: their format, anything `format_of` takes; by default that of the dtype of `a`.

    Raises:
        ValueError: unknown or packed format, or arrays that are not stored in it.
    """
    first, second = np.asarray(a), np.asarray(b)
    row = _format_for(fmt, first, second)
    distance = np.abs(_ordinals(first, row) - _ordinals(second, row))
    if not row.has_nan:
        return np.asarray(distance)
    one, other = _is_nan(first), _is_nan(second)
    return np.where(one | other, np.where(one & other, 0, NAN_DISTANCE), distance)


def same_bits(a: Any, b: Any) -> Array:
    """Mask of the elements of two arrays of one dtype that have the same bits; any NaN equals any NaN.

    +0 differs from -0. Packed items compare as the integers that hold them.

    Raises:
        ValueError: the dtypes differ.
    """
    first, second = np.asarray(a), np.asarray(b)
    if first.dtype != second.dtype:
        raise ValueError(f"same_bits: dtypes differ, {first.dtype} and {second.dtype}")
    same: Array = np.asarray(_patterns(first) == _patterns(second))
    if first.dtype.kind in "iub" or same.all():
        return same
    # Most elements have the same bits; only the others can be two NaN.
    apart = ~same
    pair = (np.broadcast_to(x, same.shape)[apart] for x in (first, second))
    same[apart] = np.logical_and(*map(_is_nan, pair))
    return same


def same_bytes(a: Array, b: Array) -> bool:
    """Whether two arrays have one shape, one dtype and the same bits, NaN included: no metric tells them apart."""
    alike = a.shape == b.shape and a.dtype == b.dtype
    return alike and bool(np.array_equal(_patterns(a), _patterns(b)))


def ulp_size(x: Any, fmt: object) -> Array:
    """Distance between neighbouring numbers of `fmt` at the magnitude of `x`, as float64.

    For |x| in [2^e, 2^(e+1)) that is 2^(e - mantissa bits); at and below the smallest normal number, zero
    included, it is the smallest subnormal. Beyond the largest finite number it is that of the last binade.
    Integers and bool_: 1. NaN and infinity give NaN.

    Args:
        x: array of real numbers, any dtype (for instance a float64 truth).
    """
    row = format_of(fmt)
    size = np.abs(_as_float64(x))
    if not row.exponent_bits:
        return np.where(np.isfinite(size), 1.0, np.nan)
    limited = np.clip(np.where(np.isfinite(size), size, 1.0), row.min_normal, row.max_finite)
    step = np.ldexp(1.0, np.frexp(limited)[1] - 1 - row.mantissa_bits)
    return np.where(np.isfinite(size), step, np.nan)


def _format_for(fmt: object, first: Array, second: Array) -> Format:
    row = format_of(first.dtype if fmt is None else fmt)
    if row.kind == "packed":
        raise ValueError(f"ulp_distance: unpack {row.name} first, its items are no numbers")
    for array in (first, second):
        if array.dtype != row.storage:
            raise ValueError(f"ulp_distance: {row.name} is stored as {row.storage}, got an array of {array.dtype}")
    return row


def _ordinals(x: Array, row: Format) -> Array:
    """Codes as integers in the order of the values; tfloat32 counts its own steps of 2^13 float32 codes."""
    if not row.is_float:
        return x.astype(np.int64)
    patterns = _patterns(x).astype(np.int64)
    if not row.signed:
        return patterns
    bits = 4 if row.bits == 4 else 8 * row.itemsize
    magnitude = patterns & ((1 << (bits - 1)) - 1)
    ordinals = np.where(patterns >> (bits - 1), -magnitude, magnitude)
    return ordinals // (1 << 13) if row.name == "tfloat32" else ordinals


def _patterns(x: Array) -> Array:
    return x.view(f"u{x.dtype.itemsize}")


def _is_nan(x: Array) -> Array:
    return np.asarray(np.isnan(to_float32(x)))


def _as_float64(x: Any) -> Array:
    values = np.asarray(x)
    return values.astype(np.float64) if values.dtype.kind in "fiub" else to_float32(values).astype(np.float64)
