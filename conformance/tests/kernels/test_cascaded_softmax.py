"""Claims about the pieces of the cascaded softmax: each step alone, and their composition over tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.tests.kernels.attention_tkg_by_hand import function
from conformance.tests.kernels.by_hand import add, dot, to
from reference.cascaded_softmax import (
    FLOOR,
    correction,
    drop,
    exponentials,
    maximum,
    partial_sums,
    sink_term,
    tile_maximum,
    tile_sum,
)
from reference.numerics import CHAIN, DEFAULT
from reference.numerics.cast import cast

INF = np.float32(np.inf)


def scores(seed: int = 0, tiles: int = 2, columns: int = 3) -> Any:
    return (4 * np.random.default_rng(seed).standard_normal((2, tiles, 128, columns))).astype(np.float32)


def test_dropping_selects_and_never_adds() -> None:
    x = np.float32([np.nan, np.inf, 1.0, -2.0])
    kept = np.array([False, False, False, True])
    assert drop(x, kept).tolist() == [-np.inf, -np.inf, -np.inf, -2.0]
    assert np.isnan(drop(x, ~kept)[0])


def test_the_maximum_of_a_tile_is_the_largest_kept_score() -> None:
    x = scores()
    assert (tile_maximum(x) == x.max(axis=(1, 2))).all()


def test_a_column_of_dropped_scores_has_the_floor_for_maximum() -> None:
    x = scores()
    x[1, :, :, 2] = -INF
    top = tile_maximum(x)
    assert top[1, 2] == FLOOR == np.finfo(np.float32).min
    assert np.isfinite(top).all()


def test_nan_stays_in_its_column() -> None:
    x = scores()
    x[0, 1, 77, 1] = np.nan
    assert np.argwhere(np.isnan(tile_maximum(x))).tolist() == [[0, 1]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float8_e4m3"])
def test_exponentials_are_rounded_to_the_dtype_of_the_queries(dtype: str) -> None:
    x = scores(columns=1)[:, :, :16]
    top = x.max(axis=(1, 2))
    shift, prob = exponentials(x, top, dtype, DEFAULT)
    for b, t, p in np.ndindex(2, 2, 16):
        wanted = add(float(x[b, t, p, 0]), -float(top[b, 0]))
        assert shift[b, t, p, 0] == wanted
        assert float(prob[b, t, p, 0]) == to(function("exp", wanted), dtype)


def test_dropped_scores_have_no_weight_whatever_the_maximum() -> None:
    for top in (FLOOR, np.float32(3), np.finfo(np.float32).max):
        _, prob = exponentials(np.full((1, 1, 128, 1), -INF), np.full((1, 1), top), "bfloat16", DEFAULT)
        assert (prob.astype(np.float32) == 0).all()


def test_partial_sums_add_the_rounded_exponentials_of_a_tile() -> None:
    prob = cast(np.abs(scores()), "bfloat16")
    parts = partial_sums(prob)
    assert parts.shape == (2, 2, 3)
    for b, t, g in np.ndindex(parts.shape):
        assert parts[b, t, g] == dot((float(p), 1.0) for p in prob[b, t, :, g])


def test_the_sum_of_a_tile_has_one_rounding_by_default_and_one_per_part_in_a_chain() -> None:
    parts = np.float32([1, 2.0**-24, 2.0**-24, 1.5 * 2.0**-23]).reshape(1, 4, 1)
    assert tile_sum(parts)[0, 0] == np.float32(1 + 2.0**-22)
    assert tile_sum(parts, CHAIN)[0, 0] == np.float32(1 + 2.0**-23 + 2.0**-23)


@pytest.mark.parametrize(("newer", "older"), [(3.0, 3.0), (5.5, -2.25), (0.1, 0.0), (7.0, float(FLOOR))])
def test_a_correction_is_the_exponential_of_the_step(newer: float, older: float) -> None:
    got = correction(np.float32([newer]), np.float32([older]))[0]
    assert got == function("exp", add(-float(np.float32(newer)), float(np.float32(older))))
    for fused in (False, True):
        profile = DEFAULT.replace(fma_scalar=fused)
        assert correction(np.float32([newer]), np.float32([older]), profile)[0] == got


def test_two_floors_in_a_row_need_no_correction() -> None:
    assert correction(np.full(1, FLOOR), np.full(1, FLOOR))[0] == 1


def test_a_sink_is_summed_unrounded() -> None:
    shift, term = sink_term(np.float32([0.3, -1.7]), np.float32([[0.5, 2.0]]))
    for g, (sink, top) in enumerate(((0.3, 0.5), (-1.7, 2.0))):
        wanted = add(to(sink, "float32"), -top)
        assert shift[0, g] == wanted
        assert term[0, g] == function("exp", wanted)
        assert term[0, g] != to(float(term[0, g]), "bfloat16")


def test_maxima_follow_the_profile_between_zeros_and_for_nan() -> None:
    zeros = maximum(np.float32([-0.0]), np.float32([0.0]))
    assert np.signbit(zeros[0])
    second = DEFAULT.replace(maxmin_zero="second", maxmin_nan="number")
    assert not np.signbit(maximum(np.float32([-0.0]), np.float32([0.0]), second)[0])
    assert maximum(np.float32([np.nan]), np.float32([1.0]), second)[0] == 1


def test_tiles_in_sequence_give_the_softmax_of_the_whole() -> None:
    """Sum over flash tiles with corrections, against float64 over all of them at once."""
    tiles = [scores(seed, columns=2) + step for seed, step in enumerate((0, 5, -3))]
    top = np.full((2, 2), FLOOR)
    total = np.zeros((2, 2), np.float32)
    for x in tiles:
        newer = maximum(top, tile_maximum(x))
        _, prob = exponentials(x, newer, "float32", DEFAULT)
        total = total * correction(newer, top) + tile_sum(partial_sums(prob))
        top = newer
    whole = np.concatenate(tiles, axis=1).astype(np.float64)
    assert (top == whole.max(axis=(1, 2))).all()
    exact = np.exp(whole - whole.max(axis=(1, 2), keepdims=True)).sum(axis=(1, 2))
    np.testing.assert_allclose(total, exact, rtol=40 * 2.0**-24)


@pytest.mark.parametrize(("mode", "lost"), [("keep", False), ("ftz", True), ("daz_ftz", True)])
def test_subnormal_exponentials_are_flushed_where_the_profile_says(mode: str, lost: bool) -> None:
    profile = DEFAULT.replace(subnormals_alu=mode)
    _, term = sink_term(np.float32([-90]), np.float32([[0]]), profile)
    assert (term[0, 0] == 0) == lost
