"""The report on an output that differs: worst elements first, both values in decimal and in bits.

Ranked by ULP of the output's dtype, not by absolute error, so that a small element that is wholly wrong is
not hidden behind a large one that is off by a rounding.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.formats import format_of
from reference.numerics.metrics import Mismatch, compare
from reference.numerics.ulp import NAN_DISTANCE

Array = NDArray[Any]

#: How many elements a report shows.
WORST = 5


def mismatch_report(
    name: str, got: Array, expected: Array, truth: Array | None = None, worst: int = WORST
) -> str:
    """What differs between an output and what it should be; '' where no bit does.

    Both in storage dtypes; any NaN equals any NaN, +0 differs from -0. `truth` (float64) is shown beside.
    Arrays of different shape or dtype are told as such. The command to run again is the caller's to add.
    """
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return f"{name}: {got.dtype}{list(got.shape)}, expected {expected.dtype}{list(expected.shape)}"
    found = compare(got, expected, worst=worst)
    if not found.different:
        return ""
    share = f"{found.different} of {found.elements} elements differ ({found.different / found.elements:.3%})"
    head = f"{name} ({format_of(got.dtype).name}): {share}, the worst by {ulp_text(found.max_ulp)}"
    return "\n".join([head, *(_line(row, got, expected, truth) for row in found.worst)])


def bits_text(value: Any) -> str:
    """The bits of one stored value in hexadecimal: 0x3f80 for bfloat16 1.0."""
    array = np.asarray(value)
    return f"0x{int.from_bytes(array.tobytes(), sys.byteorder):0{2 * array.dtype.itemsize}x}"


def ulp_text(steps: int) -> str:
    """A ULP distance in words: NaN is no number of steps away."""
    return "a NaN on one side" if steps >= NAN_DISTANCE else f"{steps} ULP"


def _line(row: Mismatch, got: Array, expected: Array, truth: Array | None) -> str:
    place = row.index
    sides = [
        f"{word} {value:.9g} ({bits_text(array[place])})"
        for word, value, array in (("got", row.got, got), ("expected", row.expected, expected))
    ]
    beside = [] if truth is None else [f"truth {float(truth[place]):.9g}"]
    return f"  [{', '.join(map(str, place))}] " + ", ".join([*sides, ulp_text(row.ulp), *beside])
