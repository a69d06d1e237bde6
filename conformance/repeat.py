"""The same launch several times over: its outputs must have the same bits every time, on any backend.

A wrong result that is always the same and one that changes are different faults; the second is a race, a read of
stale memory, or rounding at random. So it is a failure of its own, beside the grade of the first run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.grades import Grade
from conformance.mismatch import mismatch_report
from conformance.results import OutputResult
from conformance.subject import Arrays
from reference.numerics.metrics import compare
from reference.numerics.ulp import same_bits

RUNG = "repeat"


def unsteady_outputs(first: Arrays, launch: Callable[[], Arrays], runs: int) -> list[OutputResult]:
    """Launches `runs` - 1 times more; one result per output whose bits change, at the first run that shows it.

    Bits are compared as for grade A: any NaN equals any NaN, +0 differs from -0.
    """
    found: dict[str, OutputResult] = {}
    for run in range(2, runs + 1):
        for result in _compared(first, launch(), run):
            found.setdefault(result.name, result)
    return list(found.values())


def _compared(first: Arrays, later: Arrays, run: int) -> Iterator[OutputResult]:
    for name in sorted(first.keys() | later.keys()):
        if name not in first or name not in later:
            yield _unsteady(name, f"not deterministic: only in run {run if name in later else 1}")
        elif (first[name].shape, first[name].dtype) != (later[name].shape, later[name].dtype):
            told = mismatch_report(name, later[name], first[name])
            yield _unsteady(name, f"not deterministic: run {run} returned {told}")
        elif not _equal(first[name], later[name]):
            yield _changed(name, first[name], later[name], run)


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    # Bytes first: that is all there is to do for a kernel that is as it should be.
    return one.tobytes() == other.tobytes() or bool(np.all(same_bits(one, other)))


def _changed(name: str, first: NDArray[Any], later: NDArray[Any], run: int) -> OutputResult:
    apart = compare(later, first, worst=0)
    why = f"not deterministic: {apart.different} of {first.size} elements differ between run 1 and run {run}"
    return _unsteady(
        name,
        why,
        dtype=str(first.dtype),
        elements=first.size,
        differing=apart.different,
        max_ulp=apart.max_ulp,
        report=mismatch_report(name, later, first),
    )


def _unsteady(name: str, why: str, dtype: str = "", **figures: Any) -> OutputResult:
    because = "the same launch gives the same bits every time"
    return OutputResult(RUNG, name, dtype, Grade.F, Grade.A, because, why, **figures)
