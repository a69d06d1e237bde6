"""Audit: floor and ceiling of float32 as int32, against NumPy's exact floor on many values.

    python -m conformance.audit_floor --values 10000000

What is claimed: the five-step helper gives the floor, whatever integer next to the value the cast chose, for
every float32, and saturates beyond int32. Half of the values lie around integers, at distances from nothing to
a half; half are random codes. Exit status 1 if any result is wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.float_to_int import ceil_to_int32, floor_to_int32

Array = NDArray[Any]

_INT32 = np.iinfo(np.int32)
_AT_ONCE = 1_000_000


def samples(count: int, seed: int = 0) -> Array:
    """float32 [count]: around integers of every size, and any codes."""
    draw = np.random.default_rng(seed)
    near = count // 2
    size = np.exp2(draw.uniform(0, 25, near))
    offset = draw.choice([0, 0.5, 1.0], near) * np.exp2(-draw.integers(0, 26, near).astype(np.float64))
    around = np.copysign(np.rint(size), draw.uniform(-1, 1, near)) + np.copysign(offset, draw.uniform(-1, 1, near))
    codes = draw.integers(0, 2**32, count - near, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return np.concatenate([around.astype(np.float32), codes])


def expected(values: Array) -> tuple[Array, Array]:
    """Floor and ceiling in int32, saturated; 0 for NaN."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=2.0**40, neginf=-(2.0**40))
    floor, ceiling = (np.clip(f(wide), _INT32.min, _INT32.max).astype(np.int64) for f in (np.floor, np.ceil))
    return floor, ceiling


def disagreements(values: Array) -> list[str]:
    """One line per value, the first few, whose floor or ceiling is wrong."""
    found = []
    for name, function, wanted in zip(
        ("floor", "ceil"), (floor_to_int32, ceil_to_int32), expected(values), strict=True
    ):
        got = function(values)
        for index in np.flatnonzero(got != wanted)[:5]:
            found.append(f"{name}({float(values[index]).hex()}) = {got[index]}, expected {wanted[index]}")
    return found


def _pieces(count: int) -> Iterator[Array]:
    for seed, start in enumerate(range(0, count, _AT_ONCE)):
        yield samples(min(_AT_ONCE, count - start), seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=10_000_000)
    count, started = parser.parse_args().values, time.perf_counter()
    wrong = [line for values in _pieces(count) for line in disagreements(values)]
    print(f"{count} values, floor and ceiling, {time.perf_counter() - started:.1f} s: {len(wrong)} wrong")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
