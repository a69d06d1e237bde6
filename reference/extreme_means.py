"""How far a weighted mean moves when each weight may be anywhere between two limits: the worst case, always finite.

The mean of values v under weights a, low <= a <= high, is largest with the high weight for every v above that very
mean and the low one for every v below. With g(m) = max over a of sum a (v - m), a convex falling function whose root is
the largest mean, Newton's steps from any smaller m stay below the root, and

    root <= m + g(m) / sum low,        root <= max v

hold at each of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Newton's steps at most, and the share of the way found so far that the rest of it may still be when they end.
_STEPS, _REST = 12, 0.01


def reach(low: Array, high: Array, values: Array, mean: Array) -> Array:
    """Largest |mean' - mean| [d] over all weights in [low, high] [K] of the values [K, d]; an upper bound of it.

    Args:
        low, high: >= 0; infinite or NaN high weights leave the spread of the values.
        mean: of the values under some weights within the limits.
    """
    both, level = np.concatenate((values, -values), axis=1), np.concatenate((mean, -mean))
    above, below = np.split(_largest(low, high, both, level) - level, 2)
    return np.asarray(np.maximum(above, below))


def _largest(low: Array, high: Array, values: Array, level: Array) -> Array:
    middle, half, least, start = (low + high) / 2, (high - low) / 2, low.sum(), level
    found, total, base = values.max(axis=0), middle.sum(), middle @ values
    for _ in range(_STEPS):
        apart = values - level
        gain = np.maximum(base - total * level + half @ np.abs(apart), 0)
        found = np.fmin(found, level + gain / least)
        if not (found - level > _REST * (level - start)).any():
            break
        level = level + gain / np.maximum(total + half @ np.sign(apart), least)
    return np.asarray(found)
