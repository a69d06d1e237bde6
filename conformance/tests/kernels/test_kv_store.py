"""Claims about how rows get into KV caches: products, clamps, casts, slots.

Expected codes are written by hand. Every test is deterministic: run it again by its id.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from reference.kv_store import flat_slots, quantize_rows, store_rows
from reference.numerics import DEFAULT

E4M3 = ml_dtypes.float8_e4m3
SYMMETRIC = (-240.0, 240.0)


def codes(values: Any, limits: tuple[float, float] = SYMMETRIC, dtype: str = "float8_e4m3") -> list[int]:
    rows = np.asarray(values, np.float32)
    return quantize_rows(rows, np.float32(1), limits, dtype).view(np.uint8).tolist()


def test_codes_of_e4m3_around_its_end_and_its_ties() -> None:
    assert codes([240, 247.9, 248, 1e38, np.inf, -np.inf]) == [0x77] * 5 + [0xF7]
    # 1.0625 and 1.1875 lie between codes: to the even one.
    assert codes([1.0625, 1.1875, -0.0, 2.0**-10, 1.5 * 2.0**-10]) == [0x38, 0x3A, 0x80, 0x00, 0x01]


def test_the_product_is_not_rounded_before_the_clamp_and_the_cast() -> None:
    # 17.0039 is a neighbour of the tie at 17; rounded to bfloat16 on the way it would be the tie.
    row = np.array([17.0], ml_dtypes.bfloat16)
    factor = np.float32(1.00023)
    assert float(quantize_rows(row, factor, SYMMETRIC, "float8_e4m3")[0]) == 18
    assert float(quantize_rows(row, np.float32(1), SYMMETRIC, "float8_e4m3")[0]) == 16


def test_infinite_factors_are_clamped_and_zero_times_them_is_nan() -> None:
    got = quantize_rows(np.array([3, -3, 0], np.float32), np.float32(np.inf), SYMMETRIC, "float8_e4m3")
    assert got[:2].astype(float).tolist() == [240, -240]
    assert np.isnan(float(got[2]))


def test_the_order_of_the_clamps_shows_at_nan_where_maxima_prefer_numbers() -> None:
    profile = DEFAULT.replace(maxmin_nan="number")
    nan = np.array([np.nan], np.float32)
    limits = (-3.0, 5.0)
    first_low = quantize_rows(nan, np.float32(1), limits, "float8_e4m3", profile)
    first_high = quantize_rows(nan, np.float32(1), limits, "float8_e4m3", profile, ("minimum", "maximum"))
    assert (float(first_low[0]), float(first_high[0])) == (-3, 5)


def test_flat_slots_leave_room_behind_every_batch() -> None:
    assert flat_slots(2, 3, 5).tolist() == [0, 1, 2, 5, 6, 7]
    with pytest.raises(ValueError, match="6 tokens need as many rows"):
        flat_slots(2, 6, 5)


def cache() -> NDArray[Any]:
    return np.arange(24, dtype=np.uint8).reshape(4, 3, 2).view(E4M3)


def test_rows_go_to_their_slots_and_nothing_else_changes() -> None:
    table, rows = cache(), np.array([[1, 2], [3, 4], [5, 6]], np.float32).astype(E4M3)
    store_rows(table, rows, np.array([7, -1, 0]))
    expected = cache().reshape(12, 2).view(np.uint8)
    expected[7], expected[0] = rows[0].view(np.uint8), rows[2].view(np.uint8)
    assert (table.reshape(12, 2).view(np.uint8) == expected).all()


def test_a_cache_with_gaps_between_its_blocks_is_written_in_place() -> None:
    whole = np.zeros((4, 5, 2), E4M3)
    rows = np.ones((2, 2), E4M3)
    store_rows(whole[:, :3], rows, np.array([3, 11]))
    hit = np.argwhere(whole.astype(float).any(axis=-1)).tolist()
    assert hit == [[1, 0], [3, 2]]


@pytest.mark.parametrize(
    ("slots", "error", "message"),
    [
        ([0, 12], IndexError, "12 rows"),
        ([0, -2], IndexError, "-2 to 0"),
        ([4, 4], ValueError, "twice"),
    ],
)
def test_illegal_slots_are_refused_and_nothing_is_written(slots: list[int], error: Any, message: str) -> None:
    table, rows = cache(), np.zeros((2, 2), E4M3)
    with pytest.raises(error, match=message):
        store_rows(table, rows, np.array(slots))
    assert (table.view(np.uint8) == cache().view(np.uint8)).all()


def test_skipping_may_be_repeated() -> None:
    table = cache()
    store_rows(table, np.zeros((2, 2), E4M3), np.array([-1, -1]))
    assert (table.view(np.uint8) == cache().view(np.uint8)).all()


def test_rows_of_another_dtype_are_refused() -> None:
    with pytest.raises(ValueError, match="quantize them first"):
        store_rows(cache(), np.zeros((1, 2), np.float32), np.array([0]))
