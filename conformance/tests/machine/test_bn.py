"""Claim: bn_stats and bn_aggr give the counts, means and population variances of their definition, in fp32.

Sums are exact and rounded once by default, so each step can be written with fractions; the joined mean and
variance are checked against NumPy in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.test_reductions import exact_sum
from conformance.tests.machine.tiles import NUMERIC, Array, assert_same, execute, floats, numbers, refused, stored
from reference.numerics.profile import DEFAULT

import nki.isa as nisa  # isort: skip


def stats(data: Any, dtype: str = "float32", **options: Any) -> Array:
    array = data[0] if isinstance(data, tuple) else data
    return execute(
        lambda t: nisa.bn_stats(t.dst, t.data), {"data": data}, {"dst": ((array.shape[0], 6), dtype)}, **options
    )["dst"]


def aggregate(triples: Array, dtype: str = "float32", **options: Any) -> Array:
    return execute(
        lambda t: nisa.bn_aggr(t.dst, t.data), {"data": triples}, {"dst": ((len(triples), 2), dtype)}, **options
    )["dst"]


def two_pass(half: Array) -> list[float]:
    """Count, mean and sum of squared deviations, every operation rounded to fp32."""
    count = np.float32(len(half))
    mean = exact_sum(half) / count
    deviation = half - mean
    return [count, mean, exact_sum(deviation * deviation)]


def test_the_example_of_the_documents() -> None:
    got = stats(np.array([[1, 2, 3, 4, 5]], np.float32))
    assert got.tolist() == [[3, 3, 8, 2, 3, 2]]
    assert aggregate(got).tolist() == [[3, 2]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize("length", [2, 5, 77, 512])
def test_both_halves_are_two_passes_in_fp32(dtype: str, length: int) -> None:
    data = stored(np.random.default_rng(length).standard_normal((8, length)).astype(np.float32) * 9 + 3, dtype)
    expected = [two_pass(row[0::2]) + two_pass(row[1::2]) for row in floats(data)]
    assert_same(stats(data), np.array(expected, np.float32))
    assert_same(stats(data, "bfloat16", psum=("data", "dst")), stored(np.array(expected, np.float32), "bfloat16"))


@pytest.mark.parametrize("length", [77, 512])
def test_aggregates_are_the_mean_and_population_variance(length: int) -> None:
    data = np.random.default_rng(1).standard_normal((16, 2, length)).astype(np.float32) * 5 + 2

    def program(t: Any) -> None:
        nisa.bn_stats(t.parts[:, 0:6], t.data[:, 0, :])
        nisa.bn_stats(t.parts[:, 6:12], t.data[:, 1, :])
        nisa.bn_aggr(t.dst, t.parts)

    got = execute(program, {"data": data}, {"parts": ((16, 12), "float32"), "dst": ((16, 2), "float32")})["dst"]
    wide = data.reshape(16, -1).astype(np.float64)
    assert np.abs(got[:, 0] - wide.mean(axis=1)).max() < 2e-6
    assert np.abs(got[:, 1] - wide.var(axis=1)).max() < 2e-5


def test_aggregation_step_by_step() -> None:
    rng = np.random.default_rng(4)
    triples = np.abs(rng.standard_normal((8, 9))).astype(np.float32)
    triples[:, 0::3] = rng.integers(1, 500, (8, 3))
    expected = []
    for row in triples:
        count, mean, m2 = row[0::3], row[1::3], row[2::3]
        total = exact_sum(count)
        centre = exact_sum(count * mean) / total
        deviation = mean - centre
        expected.append([centre, exact_sum(m2 + count * (deviation * deviation)) / total])
    assert_same(aggregate(triples), np.array(expected, np.float32))


def test_sums_of_squares_show_on_large_means() -> None:
    data = np.float32(2.0**20) + np.tile([0, 0, 1, 1], 16)[None, :].astype(np.float32)
    for method in ("twopass", "welford"):
        got = stats(data, profile=DEFAULT.replace(bn=method))
        assert np.abs(got[0, [2, 5]] - 8).max() < 0.5, method
    assert np.abs(stats(data, profile=DEFAULT.replace(bn="sumsq"))[0, 2] - 8) > 1


def test_one_element_leaves_an_empty_odd_half() -> None:
    data = np.array([[7]], np.float32)
    assert stats(data).tolist() == [[1, 7, 0, 0, 0, 0]]
    assert_same(
        stats(data, profile=DEFAULT.replace(bn_empty="nan")), np.array([[1, 7, 0, 0, np.nan, np.nan]], np.float32)
    )
    assert aggregate(stats(data)).tolist() == [[7, 0]]
    assert np.isnan(aggregate(np.zeros((1, 3), np.float32))).all()


@pytest.mark.parametrize("dtype", NUMERIC)
def test_every_dtype_is_read_as_fp32(dtype: str) -> None:
    data = numbers(dtype, (128, 4))
    got, values = stats((data, dtype)), floats(data, dtype)
    # Squares of larger values overflow, which fractions cannot say.
    sound = np.flatnonzero((np.abs(values) < 1e15).all(axis=1))
    assert len(sound)
    expected = [two_pass(values[row, 0::2]) + two_pass(values[row, 1::2]) for row in sound]
    assert_same(got[sound], np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("shape", "out", "rule"),
    [((2, 513), (2, 6), "bn.fmax"), ((2, 8), (2, 5), "operand.shape"), ((2, 8), (1, 6), "operand.shape")],
)
def test_bn_stats_refuses(shape: tuple[int, int], out: tuple[int, int], rule: str) -> None:
    error = refused(
        lambda t: nisa.bn_stats(t.dst, t.data), {"data": np.ones(shape, np.float32)}, {"dst": (out, "float32")}
    )
    assert error.rule == rule


@pytest.mark.parametrize(("shape", "out", "rule"), [((2, 8), (2, 2), "bn.triples"), ((2, 6), (2, 3), "operand.shape")])
def test_bn_aggr_refuses(shape: tuple[int, int], out: tuple[int, int], rule: str) -> None:
    error = refused(
        lambda t: nisa.bn_aggr(t.dst, t.data), {"data": np.ones(shape, np.float32)}, {"dst": (out, "float32")}
    )
    assert error.rule == rule
