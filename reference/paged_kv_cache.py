"""A paged KV cache as prefill finds it: rows of tokens through a block table, skipped pages as zeros.

Moves data and computes nothing: what a table entry does not name, or a caller does not ask for, is +0 and not
the content of some other page, so nothing stale can reach a sum through a weight of 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def block_rows(pages: Array) -> Array:
    """The view [NB, bs, d] of pages [NB, d, bs] of a pre-transposed cache of keys."""
    return pages.transpose(0, 2, 1)


def head_pages(cache: Array, head: int, kv_heads: int, pre_transposed: bool = False) -> Array:
    """The view [NB, bs, d] of one KV head.

    Args:
        cache: [NB, Hkv, bs, d]; pre-transposed [NB*Hkv, d, bs], row block*Hkv + head.
    """
    return block_rows(cache[head::kv_heads]) if pre_transposed else cache[:, head]


def load_blocks(pages: Array, table: Array, offset: int, num_blocks: int, length: int) -> Array:
    """Rows [length, d] of `num_blocks` pages in the order of the table, from entry `offset` on; then zeros.

    Entries below 0 (-1 skips a page), entries of no page of the cache and entries before or behind the table
    give zeros too. `pages` [NB, bs, d] keeps its dtype, bits are kept.
    """
    size, depth = pages.shape[1:]
    rows = np.zeros((num_blocks, size, depth), pages.dtype)
    entries = np.arange(offset, offset + num_blocks)
    inside = (entries >= 0) & (entries < len(table))
    blocks = np.full(num_blocks, -1, np.int64)
    blocks[inside] = table[entries[inside]]
    named = (blocks >= 0) & (blocks < len(pages))
    rows[named] = pages[blocks[named]]
    found = np.zeros((length, depth), pages.dtype)
    flat = rows.reshape(-1, depth)[:length]
    found[: len(flat)] = flat
    return found
