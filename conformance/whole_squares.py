"""Whole numbers whose sum and sum of squares are given: tokens whose norm is a power of two.

With them the root of a mean square is exact, and so is whatever a norm multiplies by it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.lanes import LaneError
from conformance.randomness import Stream

#: Trials of a step before the sizes are taken for hopeless; a few hundred suffice where there is a solution.
_TRIALS = 100_000


def whole_squares(stream: Stream, count: int, squares: int, total: int, most: int) -> NDArray[np.int64]:
    """`count` integers of magnitude `most` at most, whose sum is `total` and whose squares add up to `squares`.

    Begins with integers of about that deviation and moves pairs: one up, one down keeps the sum and changes the
    squares by twice the pair's distance. LaneError where no way is found (the parities of both sums must agree).
    """
    if (squares - total) % 2 or squares * count < total * total or squares > count * most * most:
        raise LaneError(f"no {count} integers up to {most} have the sum {total} and squares of {squares}")
    values = _with_sum(stream, count, squares, total, most)
    draws = stream.integers(0, count, (_TRIALS, 2))
    missing = (squares - int(np.square(values).sum())) // 2
    for up, down in draws:
        if missing == 0:
            return values
        gain = int(values[up] - values[down] + 1)
        inside = values[up] < most and values[down] > -most
        if up != down and inside and abs(missing - gain) < abs(missing):
            values[up] += 1
            values[down] -= 1
            missing -= gain
    raise LaneError(f"{count} integers up to {most} with squares of {squares} were not found")


def _with_sum(stream: Stream, count: int, squares: int, total: int, most: int) -> NDArray[np.int64]:
    """Integers of the right sum and about the right squares."""
    width = min(most, int((3 * squares / count) ** 0.5))
    values = stream.integers(-width, width + 1, count)
    while (rest := total - int(values.sum())) != 0:
        step = np.sign(rest)
        movable = np.flatnonzero(np.abs(values + step) <= most)[: abs(rest)]
        values[movable] += step
    return values


def shuffled(stream: Stream, values: NDArray[Any], rows: int, signs: bool) -> NDArray[Any]:
    """`rows` permutations of `values`, with signs of their own where the sum does not matter."""
    order = np.argsort(stream.words(rows * values.size).reshape(rows, -1), axis=1, kind="stable")
    found = values[order]
    return found * stream.signs(found.shape).astype(np.int64) if signs else found
