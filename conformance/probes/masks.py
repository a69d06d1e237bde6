"""Rows with two masked elements (FPRev) as launches of the engines that add along free axes or partitions."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np

from conformance.probes import fprev, host
from conformance.probes.probe import Array

#: Elements of a masked row: eight rounds of eight lanes.
LENGTH = 64
#: A row shorter than a round of many lanes.
SHORT = 8
#: Longer rows, which an engine may take in pieces; some pairs of them are masked, as many as one instruction has
#: partitions.
LONG = {length: tuple(fprev.some_pairs(length, 128)) for length in (512, 2048)}


def rows(dtype: Any = np.float32, length: int = LENGTH) -> Array:
    """[pairs, length]: every pair of 64 elements (2016) or so masked once, or some pairs of a long row (128)."""
    return np.ascontiguousarray(fprev.masked(length, LONG.get(length, ())).astype(dtype))


def counts(order: str, length: int = LENGTH) -> Array:
    """What the rows of that length leave in an order of V2."""
    return fprev.expected_counts(order, length, LONG.get(length, ()))


def spread(values: Array) -> Array:
    """Elements at every second place, ones between: what a strided reader must not see."""
    wide = np.ones((len(values), 2 * values.shape[1]), values.dtype)
    wide[:, ::2] = values
    return wide


def random_rows(seed: int, count: int = 32) -> Array:
    """fp32 [count, 64] of sizes far apart, so that every order rounds in its own way."""
    source = Random(seed)
    values = [source.uniform(-1, 1) * 2.0 ** source.randint(-8, 8) for _ in range(count * LENGTH)]
    return np.array(values, np.float32).reshape(count, LENGTH)


def random_sums(seed: int, order: str, count: int = 32) -> Array:
    """The sums of `random_rows` in an order of V2."""
    return np.array([host.float32_sum([float(x) for x in row], order) for row in random_rows(seed, count)])


def describe(what: str, found: Mapping[str, Array], length: int = LENGTH) -> list[str]:
    """The recovered orders of an instruction by way of use, as lines of a report: one where all ways agree."""
    told = {way: fprev.describe(counts, length) for way, counts in found.items()}
    if len(set(told.values())) == 1:
        return [f"{what} ({', '.join(told)}): {next(iter(told.values()))}"]
    return [f"{what} ({way}): {text}" for way, text in told.items()]
