"""How far one array is from another: largest errors, relative L2, a histogram in ULP, and a mismatch summary.

All metrics take a result and what was expected and compare values as float64. Where one side alone is finite
the error is infinite, and never averaged away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import to_float32
from reference.numerics.ulp import NAN_DISTANCE, same_bits, ulp_distance

Array = NDArray[Any]

#: Upper ends (inclusive) of the bins of `ulp_histogram`; what lies beyond the last is '>1024', NaN is 'nan'.
ULP_BINS = (0, 1, 2, 4, 8, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Mismatch:
    """One element that differs: where, and both values."""

    index: tuple[int, ...]
    got: float
    expected: float
    ulp: int


@dataclass(frozen=True)
class Summary:
    """What `compare` finds between two arrays of one shape and dtype."""

    elements: int
    #: Elements whose bits differ (any NaN equals any NaN; +0 differs from -0).
    different: int
    max_abs: float
    max_ulp: int
    relative_l2: float
    #: ULP bin -> elements, see `ulp_histogram`.
    histogram: Mapping[str, int]
    #: The worst elements, farthest first.
    worst: tuple[Mismatch, ...]


def absolute_error(got: Any, expected: Any) -> Array:
    """|got - expected| as float64, per element.

    0 where both are the same infinity or both NaN; infinite where exactly one is not finite or the infinities
    differ in sign. Any dtypes with values (packed items: unpack first); shapes must be equal.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = _values(got), _values(expected)
    _require_one_shape(a, b)
    with np.errstate(all="ignore"):
        error: Array = np.abs(a - b)
    if np.isfinite(error).all():
        return error
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isfinite(a) & np.isfinite(b), error, np.inf))


def max_abs(got: Any, expected: Any) -> float:
    """Largest `absolute_error`; 0 for empty arrays."""
    return float(np.max(absolute_error(got, expected), initial=0.0))


def max_ulp(got: Any, expected: Any, fmt: object = None) -> int:
    """Largest `ulp_distance`; 0 for empty arrays, `NAN_DISTANCE` where NaN meets a number."""
    return int(np.max(ulp_distance(got, expected, fmt), initial=0))


def relative_l2(got: Any, expected: Any) -> float:
    """|got - expected| / |expected| in the Euclidean norm, over all elements.

    0 if there is no error, even where expected is 0 everywhere; infinite if any error is infinite or if there
    are errors and expected is 0 everywhere. Elements where both sides are the same infinity or NaN are left
    out of both norms. Scaled, so that float32 extremes neither overflow nor underflow.
    """
    return _relative(absolute_error(got, expected), expected)


def errors(got: Any, expected: Any) -> tuple[float, float]:
    """(`max_abs`, `relative_l2`) at the cost of one."""
    error = absolute_error(got, expected)
    return float(np.max(error, initial=0.0)), _relative(error, expected)


def _relative(error: Array, expected: Any) -> float:
    if not error.any():
        return 0.0
    wanted = _values(expected)
    wanted = np.where(np.isfinite(wanted), wanted, 0.0)
    if np.isinf(error).any() or not wanted.any():
        return float("inf")
    return _norm(error) / _norm(wanted)


def ulp_histogram(got: Any, expected: Any, fmt: object = None) -> dict[str, int]:
    """Number of elements per ULP distance: '0', '1', '2', '3-4', ... '>1024', and 'nan' for NaN and a number.

    Every bin is present, in order, so that histograms can be added and compared. '0' counts equal values,
    zeros of either sign included.
    """
    distance = ulp_distance(got, expected, fmt).reshape(-1)
    numbers = distance[distance < NAN_DISTANCE]
    bins = np.searchsorted(ULP_BINS, numbers, side="left")
    counts = np.bincount(bins, minlength=len(ULP_BINS) + 1)
    histogram = dict(zip(_bin_names(), map(int, counts), strict=True))
    return {**histogram, "nan": int(distance.size - numbers.size)}


def compare(got: Any, expected: Any, fmt: object = None, *, worst: int = 5) -> Summary:
    """All metrics of two arrays stored in one format, with the `worst` elements that differ.

    Worst means the largest ULP distance, then the lowest index; elements that differ in nothing but the sign
    of zero come last.
    """
    a, b = np.asarray(got), np.asarray(expected)
    _require_one_shape(a, b)
    # Elements with the same bits have no error and no distance: the others alone are looked at.
    different = np.flatnonzero(~same_bits(a, b))
    pair = a.reshape(-1)[different], b.reshape(-1)[different]
    distance = ulp_distance(*pair, fmt)
    histogram = ulp_histogram(*pair, fmt)
    return Summary(
        elements=a.size,
        different=different.size,
        max_abs=max_abs(*pair),
        max_ulp=int(np.max(distance, initial=0)),
        relative_l2=relative_l2(a, b) if different.size else 0.0,
        histogram=histogram | {"0": histogram["0"] + a.size - different.size},
        worst=_worst(a, b, different, distance, worst),
    )


def _worst(a: Array, b: Array, different: Array, distance: Array, count: int) -> tuple[Mismatch, ...]:
    """`different` are flat indices, `distance` belongs to them."""
    order = np.argsort(-distance, kind="stable")[:count]
    got, expected = (_values(x.reshape(-1)[different[order]]) for x in (a, b))
    return tuple(
        Mismatch(
            index=tuple(int(i) for i in np.unravel_index(different[at], a.shape)),
            got=float(got[k]),
            expected=float(expected[k]),
            ulp=int(distance[at]),
        )
        for k, at in enumerate(order)
    )


def _bin_names() -> list[str]:
    names = [str(ULP_BINS[0])]
    for low, high in pairwise(ULP_BINS):
        names.append(str(high) if high == low + 1 else f"{low + 1}-{high}")
    return [*names, f">{ULP_BINS[-1]}"]


def _require_one_shape(a: Array, b: Array) -> None:
    if a.shape != b.shape:
        raise ValueError(f"metrics: shapes differ, got {a.shape}, expected {b.shape}")


def _norm(x: Array) -> float:
    scale = float(np.max(np.abs(x)))
    return scale * float(np.sqrt(np.sum(np.square(x / scale))))


def _values(x: Any) -> Array:
    values = np.asarray(x)
    numbers = values if values.dtype.kind in "fiub" else to_float32(values)
    return numbers.astype(np.float64, copy=False)
