"""A mismatch report ranks by ULP, shows values and bits, and says nothing where nothing differs."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from conformance.mismatch import bits_text, mismatch_report

BF16 = ml_dtypes.bfloat16


def test_equal_bits_make_no_report() -> None:
    values = np.array([1.0, np.nan, -0.0], BF16)
    assert mismatch_report("y", values.copy(), values) == ""


def test_a_small_element_wholly_wrong_comes_before_a_large_one_off_by_a_rounding() -> None:
    expected = np.array([[1024.0, 0.25], [3.0, 4.0]], BF16)
    got = np.array([[1032.0, 1.0], [3.0, 4.0]], BF16)
    lines = mismatch_report("y", got, expected, truth=expected.astype(np.float64)).splitlines()
    assert lines == [
        # Two binades of 128 codes apart, against one code.
        "y (bfloat16): 2 of 4 elements differ (50.000%), the worst by 256 ULP",
        "  [0, 1] got 1 (0x3f80), expected 0.25 (0x3e80), 256 ULP, truth 0.25",
        "  [0, 0] got 1032 (0x4481), expected 1024 (0x4480), 1 ULP, truth 1024",
    ]


def test_a_nan_comes_first_and_a_sign_of_zero_last() -> None:
    expected = np.array([0.0, 1.0, 2.0], np.float32)
    got = np.array([-0.0, np.nan, 4.0], np.float32)
    lines = mismatch_report("y", got, expected).splitlines()
    assert "the worst by a NaN on one side" in lines[0]
    assert [line.split("]")[0] for line in lines[1:]] == ["  [1", "  [2", "  [0"]
    assert lines[-1] == "  [0] got -0 (0x80000000), expected 0 (0x00000000), 0 ULP"


def test_no_more_than_the_worst_few_are_shown() -> None:
    expected = np.arange(1, 101, dtype=np.float32)
    assert len(mismatch_report("y", expected * 2, expected).splitlines()) == 1 + 5
    assert len(mismatch_report("y", expected * 2, expected, worst=2).splitlines()) == 1 + 2


def test_another_shape_or_dtype_is_told_as_such() -> None:
    report = mismatch_report("y", np.zeros((2, 3), np.float32), np.zeros((3, 2), BF16))
    assert report == "y: float32[2, 3], expected bfloat16[3, 2]"


def test_bits_are_those_of_the_format() -> None:
    assert bits_text(np.float32(1.0)) == "0x3f800000"
    assert bits_text(np.array(240.0, ml_dtypes.float8_e4m3)) == "0x77"
    assert bits_text(np.int32(-2)) == "0xfffffffe"
