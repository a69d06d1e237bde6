"""Cells of the tensor-engine probes: many small sums packed into one matmul, read back by name.

Cell c is column c of both operands; its sum is element (c, c) of the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from conformance.probes.host_array import Rows
from conformance.probes.probe import Array, Readings, cells


@dataclass(frozen=True)
class Sum:
    """One cell: the reading it belongs to, its rows, and what PSUM holds before (in up to three bf16 terms)."""

    reading: str
    rows: Rows
    before: tuple[float, ...] = ()


def operands(sums: Sequence[Sum], depth: int, dtype: Any) -> dict[str, Array]:
    """stationary and moving [depth, cells]; rows beyond those of a cell are zeros."""
    left, right = (np.zeros((depth, len(sums))) for _ in range(2))
    for column, one in enumerate(sums):
        for row, (a, b) in enumerate(one.rows):
            left[row, column], right[row, column] = a, b
    return {"stationary": stored(left, dtype), "moving": stored(right, dtype)}


def psum_operands(sums: Sequence[Sum], dtype: Any) -> dict[str, Array]:
    """Operands [3, cells] whose matmul leaves every cell's `before` in PSUM."""
    ones = [Sum("", [(1.0, term) for term in one.before]) for one in sums]
    both = operands(ones, 3, dtype)
    return {"first_stationary": both["stationary"], "first_moving": both["moving"]}


def stored(values: Array, dtype: Any) -> Array:
    """Values as an array of `dtype`; ValueError where one of them does not fit it exactly."""
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(np.float32).astype(dtype)
    back = cells(result)
    if not ((back == values) | (np.isnan(back) & np.isnan(values))).all():
        raise ValueError(f"a probe's input is no {np.dtype(dtype)}")
    return result


def diagonal(sums: Sequence[Sum], out: Array) -> Readings:
    """The cells of a result by reading."""
    return grouped(sums, np.diagonal(cells(out)))


def grouped(sums: Sequence[Sum], values: Iterable[float]) -> Readings:
    """One value per cell, by reading."""
    named: dict[str, list[float]] = {}
    for one, value in zip(sums, values, strict=True):
        named.setdefault(one.reading, []).append(value)
    return {name: np.array(found, np.float64) for name, found in named.items()}


def random_bf16(source: Random, lowest: int, highest: int) -> float:
    """A bf16 number of 8 random significant bits, its exponent in the given range, any sign."""
    size = (128 + source.getrandbits(7)) / 128 * 2.0 ** source.randint(lowest, highest)
    return size if source.getrandbits(1) else -size


def random_e5m2(source: Random, lowest: int, highest: int) -> float:
    """An e5m2 number of 3 random significant bits, its exponent in the given range, any sign."""
    size = (4 + source.getrandbits(2)) / 4 * 2.0 ** source.randint(lowest, highest)
    return size if source.getrandbits(1) else -size


def random_float32(source: Random) -> float:
    """A float32 of 24 significant bits in [1, 2), the last of them set, any sign."""
    size = 1 + (2 * source.getrandbits(22) + 1) * 2.0**-23
    return size if source.getrandbits(1) else -size


def placements(values: Sequence[float]) -> Iterator[list[tuple[float, float]]]:
    """Rows of the values times 1, the middle one taking every place."""
    first, middle, last = values
    for order in ((middle, first, last), (first, middle, last), (first, last, middle)):
        yield [(value, 1.0) for value in order]
