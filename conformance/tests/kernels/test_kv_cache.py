"""Claims about the layouts of KV caches: where each token is, by formulas written out once more here."""

from __future__ import annotations

import numpy as np
import pytest

from reference.kv_cache import (
    flat_keys,
    flat_values,
    gather_blocks,
    key_tiles,
    replace_tail,
    resized_block_len,
    resized_table,
    token_map,
)


def test_flat_caches_are_read_in_both_orders_without_a_copy() -> None:
    rows = np.arange(3 * 10 * 4).reshape(3, 1, 10, 4)
    turned = np.ascontiguousarray(rows.swapaxes(2, 3))
    expected = rows[:2, 0, :8]
    assert (flat_keys(rows, True, 2, 8) == expected).all()
    assert (flat_keys(turned, False, 2, 8) == expected).all()
    assert (flat_values(rows, 2, 8) == expected).all()
    assert np.shares_memory(flat_keys(turned, False, 2, 8), turned)


def test_blocks_are_gathered_in_token_order() -> None:
    cache = np.arange(6 * 2 * 3).reshape(6, 2, 3)
    table = np.array([[5, 0], [3, 3]], np.uint32)
    rows = gather_blocks(cache, table)
    for b in range(2):
        for token in range(4):
            assert (rows[b, token] == cache[table[b, token // 2], token % 2]).all()


def test_a_block_id_outside_the_cache_is_an_error() -> None:
    with pytest.raises(IndexError):
        gather_blocks(np.zeros((2, 2, 3)), np.array([[2]], np.uint32))


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_a_resized_table_addresses_the_same_rows(factor: int) -> None:
    cache = np.arange(7 * 8 * 3).reshape(7, 8, 3)
    table = np.array([[6, 1, 4], [0, 2, 2]], np.uint32)
    shorter = cache.reshape(7 * factor, 8 // factor, 3)
    finer = resized_table(table, factor)
    assert finer.dtype == table.dtype
    assert (gather_blocks(shorter, finer) == gather_blocks(cache, table)).all()


#: (block_len, keys per core, flash tiles?) -> resized length; the cases of the fact sheet, section 3.3.
RESIZED = {
    (16, 4096, False): 16,
    (16, 5120, False): 8,
    (16, 8320, True): 1,
    (16, 41216, True): 2,
    (16, 82432, True): 4,
    (128, 4096, False): 32,
    (128, 16384, True): 64,
    (128, 16384, False): 128,
}


@pytest.mark.parametrize("case", RESIZED)
def test_block_lengths_are_resized_as_published(case: tuple[int, int, bool]) -> None:
    length = resized_block_len(*case)
    assert length == RESIZED[case]
    block_len, keys, flash = case
    lengths = [min(8192, keys - start) for start in range(0, keys, 8192)] if flash else [keys]
    fitting = [
        n for n in range(1, block_len + 1) if block_len % n == 0 and all(k % (128 * n) == 0 for k in lengths)
    ]
    assert length == max(fitting)


def test_new_tokens_replace_the_last_slots_of_a_copy() -> None:
    rows = np.zeros((2, 6, 3))
    active = np.ones((2, 2, 3))
    joined = replace_tail(rows, active)
    assert (joined[:, 4:] == 1).all()
    assert (joined[:, :4] == 0).all()
    assert (rows == 0).all()


@pytest.mark.parametrize("keys", [128, 384, 1024])
@pytest.mark.parametrize("layout", ["strided", "sequential", "block"])
def test_keys_sit_where_the_map_says(layout: str, keys: int) -> None:
    n, length = keys // 128, {384: 3, 1024: 4}.get(keys, 1)
    at = token_map(layout, keys, length)
    assert at.shape == (n, 128)
    for t in range(n):
        for p in range(128):
            expected = {
                "strided": p * n + t,
                "sequential": t * 128 + p,
                "block": (t // length) * 128 * length + p * length + t % length,
            }[layout]
            assert at[t, p] == expected


@pytest.mark.parametrize("layout", ["strided", "sequential", "block"])
def test_tiles_of_rows_follow_the_map_of_tokens(layout: str) -> None:
    x = np.random.default_rng(0).integers(0, 100, (2, 512, 3, 5))
    tiles = key_tiles(x, layout, 2)
    assert tiles.shape == (2, 4, 128, 3, 5)
    assert (tiles == x[:, token_map(layout, 512, 2)]).all()


@pytest.mark.parametrize("layout", ["strided", "sequential"])
def test_tiles_of_a_flat_cache_are_views(layout: str) -> None:
    x = np.zeros((2, 512, 3))
    assert np.shares_memory(key_tiles(x, layout), x)
