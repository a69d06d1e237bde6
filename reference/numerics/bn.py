"""Batch-norm statistics as the vector engine gathers and joins them (V7): float32, every operation rounded.

bn_stats splits a row into its even- and odd-indexed elements and gives (count, mean, sum of squared
deviations) of each; bn_aggr joins such triples into mean and population variance. Source: numerics fact sheet
5.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.reduce import reduce_add
from reference.numerics.subnormals import read_operand, write_result

Array = NDArray[Any]
Moments = tuple[Array, Array]


def bn_stats(x: Array, profile: NumericsProfile = DEFAULT) -> Array:
    """Statistics of float32 [..., n]: float32 [..., 6], (count, mean, M2) of the even, then of the odd
    elements.

    NaN and infinity follow the operations. An odd half without elements (n = 1) is (0, 0, 0), or (0, NaN,
    NaN) by profile V7 `bn_empty`; the sums take the order of V2.
    """
    values = read_operand(x, profile)
    halves = [_half(values[..., start::2], profile) for start in (0, 1)]
    return write_result(np.concatenate(halves, axis=-1), profile)


def bn_aggr(triples: Array, profile: NumericsProfile = DEFAULT) -> Array:
    """Mean and population variance out of float32 [..., 3 k] triples (count, mean, M2): float32 [..., 2].

    N = sum c, mean = (sum c m) / N, variance = (sum (M2 + c (m - mean)^2)) / N; NaN where all counts are 0.
    """
    values = read_operand(triples, profile)
    count, mean, m2 = (values[..., i::3] for i in range(3))
    with np.errstate(all="ignore"):
        total = reduce_add(count, profile)
        centre = reduce_add(count * mean, profile) / total
        deviation = mean - centre[..., None]
        spread = m2 + count * (deviation * deviation)
        variance = reduce_add(spread, profile) / total
    return write_result(np.stack([centre, variance], axis=-1), profile)


def _half(x: Array, profile: NumericsProfile) -> Array:
    count = np.full(x.shape[:-1], x.shape[-1], np.float32)
    if not x.shape[-1]:
        nothing = np.full(x.shape[:-1], 0 if profile.bn_empty == "zero" else np.nan, np.float32)
        return np.stack([count, nothing, nothing], axis=-1)
    with np.errstate(all="ignore"):
        return np.stack([count, *_MOMENTS[profile.bn](x, profile)], axis=-1)


def _twopass(x: Array, profile: NumericsProfile) -> Moments:
    mean = reduce_add(x, profile) / np.float32(x.shape[-1])
    deviation = x - mean[..., None]
    return mean, reduce_add(deviation * deviation, profile)


def _welford(x: Array, profile: NumericsProfile) -> Moments:
    mean: Array = np.zeros(x.shape[:-1], np.float32)
    m2 = np.zeros_like(mean)
    for i in range(x.shape[-1]):
        before = x[..., i] - mean
        mean = mean + before / np.float32(i + 1)
        m2 = m2 + before * (x[..., i] - mean)
    return mean, m2


def _sum_of_squares(x: Array, profile: NumericsProfile) -> Moments:
    total = reduce_add(x, profile)
    mean = total / np.float32(x.shape[-1])
    return mean, reduce_add(x * x, profile) - total * mean


_MOMENTS: Mapping[str, Callable[[Array, NumericsProfile], Moments]] = MappingProxyType(
    {"twopass": _twopass, "welford": _welford, "sumsq": _sum_of_squares}
)
