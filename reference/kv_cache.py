"""KV caches as the attention kernels find them: flat, transposed or in blocks, and the tiles they are read
in.

All of it moves data and computes nothing: every function returns views or copies with the bits unchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.contracts.attention_tkg_plan import PARTITIONS, resized_block_len

__all__ = [
    "PARTITIONS",
    "flat_keys",
    "flat_values",
    "gather_blocks",
    "key_tiles",
    "replace_tail",
    "resized_block_len",
    "resized_table",
    "token_map",
]

Array = NDArray[Any]


def flat_keys(cache: Array, rows_first: bool, batches: int, slots: int) -> Array:
    """Keys [batches, slots, d] of a flat cache, as a view.

    Args:
        cache: [B+, 1, slots+, d] if `rows_first` (the kernels call this tp_k_prior), else [B+, 1, d, slots+].
    """
    if rows_first:
        return flat_values(cache, batches, slots)
    return cache[:batches, 0, :, :slots].transpose(0, 2, 1)


def flat_values(cache: Array, batches: int, slots: int) -> Array:
    """Values [batches, slots, d] of a flat cache [B+, 1, slots+, d], as a view."""
    return cache[:batches, 0, :slots, :]


def gather_blocks(cache: Array, table: Array) -> Array:
    """Rows [batches, blocks*block_len, d] of a block cache, in token order, as a copy.

    Args:
        cache: [num_blocks, block_len, d].
        table: [batches, blocks] block ids in token order; IndexError for an id outside the cache.
    """
    picked = cache[table.astype(np.int64)]
    return picked.reshape(len(table), -1, cache.shape[-1])


def resized_table(table: Array, factor: int) -> Array:
    """Table of a cache whose blocks are cut into `factor` shorter ones: id a becomes a*factor + 0..factor-1.

    [batches, blocks] -> [batches, blocks*factor], dtype of `table`. With it, `gather_blocks` of the cache
    seen as [num_blocks*factor, block_len/factor, d] gives the same rows.
    """
    steps = np.arange(factor, dtype=table.dtype)
    finer: Array = table[:, :, None] * table.dtype.type(factor) + steps
    return finer.reshape(len(table), -1)


def replace_tail(rows: Array, active: Array) -> Array:
    """A copy of rows [batches, slots, d] whose last slots hold `active` [batches, s, d] of the same dtype.

    New tokens replace, they do not extend: token j takes slot `slots - s + j`.
    """
    joined = np.array(rows)
    joined[:, rows.shape[1] - active.shape[1] :] = active
    return joined


def key_tiles(x: Array, layout: str, block_len: int = 0) -> Array:
    """The view [batches, n, 128, ...] of x [batches, keys, ...]: key tile t, partition p.

    The keys of one tile meet in one contraction, and tiles are accumulated in ascending order, so the layout
    changes bits. `layout` is 'strided' (k = p*n + t), 'sequential' (k = t*128 + p) or 'block'
    (k = (t//L)*128*L + p*L + t%L with L = `block_len`). `keys` is a multiple of 128, of 128*L for blocks.
    Like any reshape it copies where the axes of `x` do not allow a view.
    """
    batches, keys, *rest = x.shape
    if layout == "sequential":
        return x.reshape(batches, keys // PARTITIONS, PARTITIONS, *rest)
    length = keys // PARTITIONS if layout == "strided" else block_len
    folds = x.reshape(batches, keys // (PARTITIONS * length), PARTITIONS, length, *rest)
    return np.moveaxis(folds, 3, 2).reshape(batches, keys // PARTITIONS, PARTITIONS, *rest)


def token_map(layout: str, keys: int, block_len: int = 0) -> NDArray[np.int64]:
    """The key that sits at [t, p], for every key tile t and partition p: [n, 128]."""
    tiles: NDArray[np.int64] = key_tiles(np.arange(keys)[None], layout, block_len)[0]
    return tiles
