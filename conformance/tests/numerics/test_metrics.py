"""Metrics on arrays small enough to compute by hand, with NaN, infinities and zeros in every place."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from reference.numerics.metrics import (
    ULP_BINS,
    absolute_error,
    compare,
    errors,
    max_abs,
    max_ulp,
    relative_l2,
    ulp_histogram,
)
from reference.numerics.ulp import NAN_DISTANCE, same_bits, ulp_distance

INF, NAN = np.inf, np.nan


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_absolute_error_counts_one_sided_infinities_and_nan_as_infinite() -> None:
    got = f32(1, INF, -INF, NAN, NAN, 1, INF, -0.0)
    expected = f32(3, INF, INF, NAN, 1, NAN, 1, 0.0)
    assert absolute_error(got, expected).tolist() == [2, 0, INF, 0, INF, INF, INF, 0]


def test_absolute_error_is_taken_in_float64() -> None:
    assert max_abs(f32(3e38), f32(-3e38)) == 2 * float(np.float32(3e38))
    assert max_abs(np.array([1.0]), f32(1 + 2.0**-23)) == 2.0**-23


def test_largest_errors() -> None:
    got, expected = f32(1, 2, 4), f32(1, 2 + 2.0**-22, 4 - 3 * 2.0**-22)
    assert max_abs(got, expected) == 3 * 2.0**-22
    assert max_ulp(got, expected) == 3
    assert max_ulp(f32(1, NAN), f32(1, 1)) == NAN_DISTANCE
    assert max_ulp(np.array([256], ml_dtypes.bfloat16), np.array([260], ml_dtypes.bfloat16)) == 2


def test_empty_arrays_have_no_error() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert (max_abs(empty, empty), max_ulp(empty, empty), relative_l2(empty, empty)) == (0, 0, 0)
    assert compare(empty, empty).worst == ()


def test_relative_l2() -> None:
    assert relative_l2(f32(3, 0), f32(0, 4)) == 5 / 4
    assert relative_l2(f32(0, 0), f32(0, 0)) == 0
    assert relative_l2(f32(1, 0), f32(0, 0)) == INF
    assert relative_l2(f32(1, NAN), f32(1, 1)) == INF
    # The same infinity on both sides belongs to neither norm.
    assert relative_l2(f32(INF, 3), f32(INF, 4)) == 1 / 4
    assert relative_l2(f32(NAN, 4), f32(NAN, 4)) == 0


def test_relative_l2_at_the_ends_of_float32_range() -> None:
    big, tiny = np.full(4, 3e38, np.float32), np.full(4, 2.0**-149, np.float32)
    assert relative_l2(np.zeros(4, np.float32), big) == 1
    assert relative_l2(2 * tiny, tiny) == 1


def test_histogram_bins_are_inclusive_and_complete() -> None:
    start = np.float32(1).view(np.uint32)
    steps = np.array([0, 1, 2, 3, 4, 5, 1024, 1025, 2**20], np.uint32)
    got = (start + steps).view(np.float32)
    expected = np.full(len(steps), 1, np.float32)
    histogram = ulp_histogram(got, expected)
    assert histogram == {
        "0": 1, "1": 1, "2": 1, "3-4": 2, "5-8": 1, "9-16": 0, "17-64": 0, "65-256": 0, "257-1024": 1,
        ">1024": 2, "nan": 0,
    }  # fmt: skip
    assert ulp_histogram(f32(NAN, NAN, 0), f32(NAN, 1, -0.0))["nan"] == 1
    assert ulp_histogram(f32(NAN, NAN, 0), f32(NAN, 1, -0.0))["0"] == 2
    assert len(histogram) == len(ULP_BINS) + 2


def test_summary_names_the_worst_elements_farthest_first() -> None:
    expected = np.ones((2, 3), np.float32)
    got = expected.copy()
    got[0, 2] += np.float32(2.0**-23)
    got[1, 0] += np.float32(2.0**-20)
    got[1, 1] = NAN
    summary = compare(got, expected, worst=2)
    assert (summary.elements, summary.different, summary.max_abs) == (6, 3, INF)
    assert [item.index for item in summary.worst] == [(1, 1), (1, 0)]
    assert (summary.worst[1].got, summary.worst[1].expected, summary.worst[1].ulp) == (1 + 2.0**-20, 1, 8)
    assert summary.histogram["nan"] == 1


def test_zeros_of_different_sign_differ_in_bits_alone() -> None:
    summary = compare(f32(0, 1), f32(-0.0, 1))
    assert (summary.different, summary.max_ulp, summary.max_abs, summary.relative_l2) == (1, 0, 0, 0)
    assert summary.worst[0].index == (0,)


def test_equal_arrays_show_nothing() -> None:
    x = f32(1, NAN, INF, -0.0)
    summary = compare(x, x.copy())
    assert (summary.different, summary.max_abs, summary.max_ulp, summary.worst) == (0, 0, 0, ())


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"shapes differ, got \(2,\), expected \(3,\)"):
        absolute_error(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32, ml_dtypes.float8_e4m3])
def test_looking_at_what_differs_alone_finds_what_looking_at_everything_does(dtype: type) -> None:
    rng = np.random.default_rng(5)
    expected = rng.standard_normal((40, 30)).astype(np.float32)
    expected[rng.random(expected.shape) < 0.1] = 0
    expected[rng.random(expected.shape) < 0.05] = INF
    expected[rng.random(expected.shape) < 0.05] = NAN
    got = np.where(rng.random(expected.shape) < 0.2, expected * 1.25, expected)
    got[rng.random(expected.shape) < 0.02] = NAN
    got[rng.random(expected.shape) < 0.05] *= -1
    got, expected = got.astype(dtype), expected.astype(dtype)
    found = compare(got, expected)
    assert found.different == int(np.count_nonzero(~same_bits(got, expected)))
    assert (found.max_abs, found.max_ulp) == (max_abs(got, expected), max_ulp(got, expected))
    assert found.relative_l2 == relative_l2(got, expected)
    assert found.histogram == ulp_histogram(got, expected)
    assert errors(got, expected) == (max_abs(got, expected), relative_l2(got, expected))
    distance = ulp_distance(got, expected)
    for one in found.worst:
        assert distance[one.index] == one.ulp == found.max_ulp
        assert np.array_equal(np.float32(one.got), got[one.index].astype(np.float32), equal_nan=True)
