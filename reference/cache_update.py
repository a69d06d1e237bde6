"""Writing new keys and values into KV caches at given slots; bytes move, nothing rounds.

An index per batch names the first of its consecutive slots, an index per token that token's slot: of the batch's own
rows in a flat cache, of all rows in a block cache. The skip value writes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.contracts.attention_block_tkg_config import SKIP
from reference.kv_store import NO_SLOT, store_rows

Array = NDArray[Any]


def token_slots(index: Array, tokens: int, room: int) -> NDArray[np.int64]:
    """Rows of `tokens` tokens per batch, [B, tokens], -1 where the batch or the token is skipped.

    Args:
        index: uint32 [B, 1], or [B, tokens].
        room: rows of one batch in a flat cache seen as [B*room, d]; 0 for a block cache, whose rows have no batch.
    """
    # int64 throughout: the rows of a large cache do not fit float32, and the skip value must not wrap.
    named = index.astype(np.int64)
    steps = np.arange(tokens) if named.shape[1] == 1 else np.zeros(tokens, np.int64)
    slots: NDArray[np.int64] = named + room * np.arange(len(named))[:, None] + steps
    return np.where(named == SKIP, NO_SLOT, slots)


def updated(cache: Array, rows: Array, index: Array, block_kv: bool) -> Array:
    """A copy of `cache` [a, b, d] with the rows [B, S, d] of the new tokens in place.

    Raises:
        IndexError, ValueError: as `kv_store.store_rows`.
    """
    found = np.array(cache)
    slots = token_slots(index, rows.shape[1], 0 if block_kv else cache.shape[1])
    store_rows(found, rows.reshape(-1, rows.shape[2]), slots.reshape(-1))
    return found
