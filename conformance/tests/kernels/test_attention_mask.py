"""Claims about masks: what a query may see, token by token, and the order of rows a kernel wants."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from reference.attention_mask import (
    block_rows,
    decode_mask,
    keep,
    position_mask,
    prior_mask,
)
from reference.numerics import DEFAULT
from reference.numerics.cast import cast


@pytest.mark.parametrize(
    ("dtype", "values", "kept"),
    [
        ("uint8", [0, 1, 2, 255], [0, 1, 1, 1]),
        ("int32", [0, -1, 256, 7], [0, 0, 1, 1]),
        ("float32", [0.5, 0.6, -3.0, -0.0, np.inf, -np.inf, 1.5], [0, 1, 0, 0, 1, 0, 1]),
        ("bfloat16", [0.5, 1.0, 0.0], [0, 1, 0]),
    ],
)
def test_a_mask_keeps_where_its_cast_to_uint8_is_not_zero(
    dtype: str, values: list[float], kept: list[int]
) -> None:
    array = np.array(values, np.int32) if dtype == "int32" else cast(np.array(values, np.float32), dtype)
    assert keep(array).tolist() == [bool(one) for one in kept]


def test_nan_in_a_mask_follows_the_profile() -> None:
    nan = np.array([np.nan], np.float32)
    assert not keep(nan)[0]
    assert keep(nan, DEFAULT.replace(nan_to_int="max"))[0]


def test_prior_tokens_are_kept_before_the_end_only() -> None:
    mask = prior_mask(np.arange(6), np.array([0.0, 2.0, 6.0, 9.0, np.nan], np.float32))
    assert mask.astype(int).tolist() == [[0] * 6, [1, 1, 0, 0, 0, 0], [1] * 6, [1] * 6, [0] * 6]


def test_the_active_part_takes_the_last_slots() -> None:
    prior = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], bool)
    mask = decode_mask(prior, np.triu(np.ones((2, 2), np.uint8)), heads=3)
    assert mask.shape == (5, 2, 3, 2)
    assert mask.dtype == np.uint8
    for b, h, j in itertools.product(range(2), range(3), range(2)):
        assert mask[:3, b, h, j].tolist() == prior[b, :3].astype(int).tolist()
        assert mask[3:, b, h, j].tolist() == [1, int(j == 1)]


def test_queries_may_differ_in_what_they_see() -> None:
    prior = np.random.default_rng(0).integers(0, 2, (2, 3, 9)).astype(bool)
    mask = decode_mask(prior, np.zeros((3, 2, 4, 3)), heads=4)
    for b, h, j in itertools.product(range(2), range(4), range(3)):
        assert mask[:6, b, h, j].astype(bool).tolist() == prior[b, j, :6].tolist()
    assert not mask[6:].any()


def test_positions_count_for_the_first_query_alone() -> None:
    positions = np.array([[2, 3], [0, 1], [7, 8]], np.float32)
    active = np.random.default_rng(1).integers(0, 2, (2, 3, 2, 2))
    mask = position_mask(positions, active, slots=8)
    for b, h, j, k in itertools.product(range(3), range(2), range(2), range(8)):
        wanted: Any = k < positions[b, 0] if k < 6 else active[k - 6, b, h, j]
        assert mask[k, b, h, j] == wanted


@pytest.mark.parametrize(
    ("slots", "shards", "length"), [(256, 1, 2), (1024, 2, 4), (1536, 2, 3), (512, 2, 1)]
)
def test_rows_for_blocks_follow_fold_place_in_block_partition(slots: int, shards: int, length: int) -> None:
    rows = block_rows(slots, shards, length)
    assert sorted(rows) == list(range(slots))
    share = slots // shards
    for r in range(slots):
        core, i = divmod(r, share)
        fold, rest = divmod(i, 128 * length)
        u, p = divmod(rest, 128)
        assert rows[r] == core * share + fold * 128 * length + p * length + u
