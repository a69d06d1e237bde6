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
#: A longer row, which an engine may take in pieces; some pairs of it are masked.
LONG = 512
SOME = tuple(fprev.some_pairs(LONG, 128))


def rows(dtype: Any = np.float32) -> Array:
    """[2016, 64]: every pair of 64 elements masked once."""
    return np.ascontiguousarray(fprev.masked(LENGTH).astype(dtype))


def long_rows() -> Array:
    """fp32 [128, 512]: some pairs of 512 elements."""
    return fprev.masked(LONG, SOME)


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


def describe(what: str, found: Mapping[str, Array]) -> list[str]:
    """The recovered orders of an instruction by way of use, as lines of a report: one where all ways agree."""
    told = {way: fprev.describe(counts, LENGTH) for way, counts in found.items()}
    if len(set(told.values())) == 1:
        return [f"{what} ({', '.join(told)}): {next(iter(told.values()))}"]
    return [f"{what} ({way}): {text}" for way, text in told.items()]
