"""Every lane builds what it claims, and its check catches data that are not so.

For each lane one array it must accept (its own) and one it must refuse (a near miss made by hand).
"""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from conformance import lanes, pages, score_lanes
from conformance.lanes import LANES, LaneError
from conformance.randomness import Stream

FLOATS = ("float32", "bfloat16", "float16", "float8_e4m3", "float8_e5m2", "float8_e4m3fn")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("lane", sorted(LANES))
def test_every_lane_fills_every_float_format(lane: str, dtype: str) -> None:
    for shape in ((5,), (128, 33), (2, 3, 64)):
        built = lanes.fill(lane, Stream(1, lane), shape, dtype)
        assert built.shape == shape
        lanes.check(lane, built, dtype)


def test_the_same_stream_gives_the_same_bytes() -> None:
    first, second = (lanes.fill("heavy_tailed", Stream(9, "k"), (64, 64), "bfloat16") for _ in range(2))
    assert first.tobytes() == second.tobytes()


NEAR_MISSES = {
    "normal": np.array([0.5, np.inf], np.float32),
    "exact": np.array([1.0, 2.5], np.float32),
    "exact_rounding": np.array([3.0, 128.0], np.float32),
    "one_sided": np.array([3.0, -0.5], np.float32),
    "one_hot": np.array([[0, 1, 0], [1, 1, 0]], np.float32),
    "heavy_tailed": Stream(0).normal(1000),
    "fp8_edge": Stream(0).normal(1000),
    "subnormal": Stream(0).normal(1000),
    "shift": np.array([np.nan], np.float32),
    "rising": np.array([-np.inf], np.float32),
}


@pytest.mark.parametrize("lane", sorted(NEAR_MISSES))
def test_a_near_miss_is_caught(lane: str) -> None:
    with pytest.raises(LaneError, match=f"lane {lane}, float32"):
        lanes.check(lane, NEAR_MISSES[lane], "float32")


def test_the_fp8_edge_lane_holds_ties_of_e4m3() -> None:
    built = lanes.fill("fp8_edge", Stream(0), 4096, "float32")
    magnitude = np.abs(built.astype(np.float64))
    # 232 lies half way between the codes 224 and 240; 248 half way between 240 and what would be 256.
    assert (magnitude == 232).any()
    assert (magnitude == 248).any()
    assert (built < 0).any()


def test_a_format_without_subnormals_is_refused() -> None:
    with pytest.raises(LaneError, match="int8 has no subnormals"):
        lanes.fill("subnormal", Stream(0), 8, "int8")


@pytest.mark.parametrize(
    ("values", "expected"), [((6.0, 0.0, 0.375), 0.125), ((-3.0,), 1.0), ((2.0**-149,), 2.0**-149)]
)
def test_grid_is_the_lowest_set_bit(values: tuple[float, ...], expected: float) -> None:
    assert lanes.grid(np.array(values)) == expected


def test_the_grid_of_zeros_is_infinite() -> None:
    assert lanes.grid(np.zeros(3)) == np.inf


def test_a_sum_at_24_bits_is_exact_and_one_past_is_caught() -> None:
    at_limit = np.array([2.0**24 - 1, 1.0])
    lanes.require_exact_sum(at_limit)
    with pytest.raises(LaneError, match="a sum needs"):
        lanes.require_exact_sum(np.array([2.0**24 - 1, 2.0]))
    # The twin is real: these two orders of three terms do round differently in float32.
    one, large = np.float32(1), np.float32(2.0**24)
    assert (one + one) + large != (large + one) + one


def test_a_dot_product_is_judged_by_all_pairs_of_rows() -> None:
    a, b = np.full((4, 16), 2.0**10), np.full((3, 16), 2.0**9)
    lanes.require_exact_dot(a, b)
    b[0, 0] = 1.0
    with pytest.raises(LaneError, match="a dot product needs"):
        lanes.require_exact_dot(a * 256 + 1, b)


def test_sums_below_the_normal_range_are_no_exact_lane() -> None:
    with pytest.raises(LaneError, match="normal range"):
        lanes.require_exact_sum(np.array([2.0**-140, 2.0**-140]))


@pytest.mark.parametrize(
    "dtype", [np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3, ml_dtypes.float8_e5m2]
)
def test_poison_is_nan_outside_and_untouched_inside(dtype: type) -> None:
    values = np.ones((4, 8), dtype)
    keep = np.arange(8) < 5
    poisoned = lanes.poison(values, keep)
    assert np.isnan(poisoned[:, 5:].astype(np.float32)).all()
    assert poisoned[:, :5].tobytes() == values[:, :5].tobytes()
    assert (values == 1).all()


def test_integer_poison_is_out_of_range_and_a_healthy_value_is_caught() -> None:
    poisoned = lanes.poison(np.zeros(4, np.uint32), np.array([True, True, False, False]))
    assert poisoned.tolist() == [0, 0, 2**32 - 1, 2**32 - 1]
    with pytest.raises(LaneError, match="2 values outside"):
        lanes.require_poison(poisoned, np.zeros(4, np.bool_))


def test_a_format_without_nan_cannot_be_poisoned() -> None:
    with pytest.raises(LaneError, match="no NaN"):
        lanes.poison(np.zeros(4, ml_dtypes.float4_e2m1fn), np.zeros(4, np.bool_))


@pytest.mark.parametrize("head_dim", [2, 3, 64, 128])
def test_tied_keys_tie_and_fit_fp8(head_dim: int) -> None:
    stream = Stream(head_dim, "tied")
    selected = stream.subset(256, 16)
    q, k = score_lanes.tied(stream, 8, head_dim, selected)
    for side in (q, k):
        assert (side.astype(ml_dtypes.float8_e4m3).astype(np.float32) == side).all()
    # Integer arithmetic on its own: the tie and the gap.
    scores = q.astype(np.int64) @ k.astype(np.int64).T
    assert len({tuple(row) for row in scores[:, selected].T.tolist()}) == 1
    assert (scores[:, selected].min() - scores[:, ~selected].max(axis=1) >= 512).all()
    score_lanes.exact_values(stream, 256, head_dim, selected)


def test_a_broken_tie_is_caught() -> None:
    stream = Stream(4)
    selected = stream.subset(64, 8)
    q, k = score_lanes.tied(stream, 4, 16, selected)
    k[np.flatnonzero(selected)[0], 0] += 1
    with pytest.raises(LaneError, match="do not tie"):
        score_lanes.require_tied(q, k, selected)


def test_an_unselected_key_too_close_is_caught() -> None:
    stream = Stream(4)
    selected = stream.subset(64, 8)
    q, k = score_lanes.tied(stream, 4, 16, selected)
    k[np.flatnonzero(~selected)[0], 0] = -1
    with pytest.raises(LaneError, match="comes within 512"):
        score_lanes.require_tied(q, k, selected)


def test_three_tied_keys_are_no_exact_mean() -> None:
    stream = Stream(4)
    with pytest.raises(LaneError, match="powers of two"):
        score_lanes.exact_values(stream, 64, 8, stream.subset(64, 3))


def test_rounded_values_leave_something_to_round_and_their_mean_is_exact() -> None:
    stream = Stream(4)
    selected = stream.subset(512, 255)
    v = score_lanes.rounded_values(stream, 512, 8, selected, most=15, sinks=1)
    sums = v[selected].astype(np.int64).sum(axis=0)
    # In steps of 8 and 16 a bfloat16 holds one in eight or sixteen of such sums.
    assert (sums > 1024).all()
    assert (sums % 8 != 0).any()
    mean = sums / 256
    assert (mean.astype(np.float32) == mean).all()
    with pytest.raises(LaneError, match=r"256 tied keys|powers of two"):
        score_lanes.rounded_values(stream, 512, 8, stream.subset(512, 254), most=15, sinks=1)


@pytest.mark.parametrize(("room", "sinks", "expected"), [(1, 0, 1), (1, 1, 1), (255, 1, 255), (255, 0, 128), (6, 1, 3)])
def test_as_many_keys_tie_as_make_a_power_of_two_with_the_sinks(room: int, sinks: int, expected: int) -> None:
    assert score_lanes.tying(room, sinks) == expected


def test_level_ties_have_the_score_of_a_sink_of_zero() -> None:
    stream = Stream(4)
    selected = stream.subset(64, 7)
    q, k = score_lanes.tied(stream, 4, 16, selected, level=True)
    scores = q.astype(np.int64) @ k.astype(np.int64).T
    assert (scores[:, selected] == 0).all()
    assert (scores[:, ~selected] == -1024).all()


def test_shifted_scores_overflow_exp_and_plain_ones_are_caught() -> None:
    q, k = score_lanes.shifted(Stream(1), 8, 64, 64)
    with np.errstate(over="ignore"):
        assert np.isinf(np.exp((q @ k.T).astype(np.float32))).all()
    k[:, 0] = 0
    with pytest.raises(LaneError, match="exp survives"):
        score_lanes.require_shifted(q, k)


def test_rising_tiles_rise_and_a_flat_one_is_caught() -> None:
    q, k = score_lanes.rising(Stream(1), 8, 512, 128, 128)
    tops = [(q @ k[start : start + 128].T).max(axis=1) for start in range(0, 512, 128)]
    assert all((later > earlier).all() for earlier, later in itertools.pairwise(tops))
    k[256:, 0] = k[128, 0]
    with pytest.raises(LaneError, match="does not exceed"):
        score_lanes.require_rising(q, k, 128)
    with pytest.raises(LaneError, match="nothing can rise"):
        score_lanes.rising(Stream(1), 8, 128, 128, 128)


def test_pages_lead_back_to_rows_and_a_swapped_table_is_caught() -> None:
    rows = Stream(2).normal((3, 64, 8))
    cache, table = pages.scatter(Stream(2, "table"), rows, 16, 20)
    assert np.isnan(cache).sum() == (20 - 12) * 16 * 8
    assert pages.gather(cache, table).tobytes() == rows.tobytes()
    assert table.ravel().tolist() != sorted(table.ravel().tolist())
    with pytest.raises(LaneError, match="does not lead back"):
        pages.require_scattered(cache, table[:, ::-1], rows)


def test_a_healthy_block_among_those_that_no_table_names_is_caught() -> None:
    rows = Stream(2).normal((3, 64, 8))
    cache, table = pages.scatter(Stream(2, "table"), rows, 16, 20)
    unnamed = sorted(set(range(20)) - set(table.ravel().tolist()))
    cache[unnamed[3], 5, 2] = 0.0
    with pytest.raises(LaneError, match="lane poison: 1 values outside what may be read are not poison"):
        pages.require_scattered(cache, table, rows)


def test_too_few_blocks_are_refused() -> None:
    with pytest.raises(LaneError, match="whole blocks"):
        pages.scatter(Stream(2), np.zeros((2, 64), np.float32), 16, 7)
