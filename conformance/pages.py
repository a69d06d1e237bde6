"""Paged caches: logical rows scattered over blocks in random order, everything else poisoned."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.lanes import LaneError, poison, require_poison
from conformance.randomness import Stream

Array = NDArray[Any]


def scatter(stream: Stream, rows: Array, block_len: int, num_blocks: int) -> tuple[Array, NDArray[np.int32]]:
    """A cache [num_blocks, block_len, ...] and its table [batch, tokens / block_len].

    `rows` is [batch, tokens, ...]. Entry i of table row b is the block of tokens [i*block_len,
    (i+1)*block_len). Blocks that no entry names are NaN (-1 in integer arrays). LaneError where tokens are
    no multiple of block_len or blocks too few.
    """
    batch, tokens = rows.shape[:2]
    per_row = tokens // block_len
    if tokens % block_len or batch * per_row > num_blocks:
        raise LaneError(
            f"lane pages: {batch}x{tokens} tokens do not fill whole blocks among {num_blocks}x{block_len}"
        )
    table = stream.permutation(num_blocks)[: batch * per_row].reshape(batch, per_row).astype(np.int32)
    cache = np.zeros((num_blocks, block_len, *rows.shape[2:]), rows.dtype)
    cache[table] = rows.reshape(batch, per_row, block_len, *rows.shape[2:])
    cache = poison(cache, _named(cache, table))
    require_scattered(cache, table, rows)
    return cache, table


def gather(cache: Array, table: NDArray[Any]) -> Array:
    """The rows [batch, tokens, ...] that `scatter` laid out."""
    batch, per_row = table.shape
    rows: Array = cache[table].reshape(batch, per_row * cache.shape[1], *cache.shape[2:])
    return rows


def require_scattered(cache: Array, table: NDArray[Any], rows: Array) -> None:
    """LaneError unless the table leads to every row, bit for bit, and all other blocks are poison."""
    if gather(cache, table).tobytes() != np.ascontiguousarray(rows).tobytes():
        raise LaneError("lane pages: the table does not lead back to the rows")
    require_poison(cache, _named(cache, table))


def _named(cache: Array, table: NDArray[Any]) -> NDArray[np.bool_]:
    named = np.zeros(len(cache), np.bool_)
    named[table.ravel()] = True
    return named.reshape(-1, *(1,) * (cache.ndim - 1))
