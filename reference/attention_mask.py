"""Which keys a query attends: masks from positions and lengths, and the row orders kernels expect them in.

Masks select, they do not add: 1 keeps, 0 drops. Everything is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.kv_cache import token_map
from reference.numerics import DEFAULT, NumericsProfile
from reference.numerics.cast import cast

Array = NDArray[Any]
Mask = NDArray[np.uint8]


def keep(mask: Any, profile: NumericsProfile = DEFAULT) -> NDArray[np.bool_]:
    """Where a mask of any dtype keeps: its cast to uint8 (nearest even, saturating) is not zero.

    So 0.5, -1 and -inf drop, 0.6 and +inf keep, and NaN follows `profile.nan_to_int`.
    """
    return np.not_equal(cast(mask, "uint8", profile), 0)


def prior_mask(tokens: Array, end: Array) -> NDArray[np.bool_]:
    """Keeps tokens before `end`: bool [batches, keys] from int tokens [keys] and float32 ends [batches].

    Compared as float32, like the machine: exact below 2^24. A NaN end keeps nothing.
    """
    return np.less(tokens.astype(np.float32)[None, :], np.asarray(end, np.float32)[:, None])


def decode_mask(prior: NDArray[np.bool_], active: Array, heads: int) -> Mask:
    """The mask [S, B, H, s] of a decode step, row = token.

    Args:
        prior: what each query may see of the cache, [B, S], or [B, s, S] where queries differ. Its last s
            slots are replaced by the active part.
        active: among the active tokens, [s_key, s_query], or [s_key, B, H, s_query].
    """
    s_key, s_query = active.shape[0], active.shape[-1]
    batches, slots = len(prior), prior.shape[-1]
    seen = prior[:, None] if prior.ndim == 2 else prior
    per_query = np.broadcast_to(seen, (batches, s_query, slots))
    shape = (slots, batches, heads, s_query)
    mask = np.broadcast_to(per_query.transpose(2, 0, 1)[:, :, None], shape).astype(np.uint8)
    mask[slots - s_key :] = active if active.ndim == 4 else active[:, None, None]
    return mask


def position_mask(positions: Array, active: Array, slots: int) -> Mask:
    """The mask [slots, B, H, s] that kernels generate from position ids.

    Keeps prior tokens before the FIRST query's id, for every query of the batch, then the active part as
    given: a position in (slots - s, slots] therefore adds nothing.

    Args:
        positions: float32 [B, s].
        active: [s_key, B, H, s_query], any value other than 0 keeps.
    """
    prior = prior_mask(np.arange(slots), positions[:, 0])
    return decode_mask(prior, active, active.shape[2])


def block_rows(slots: int, shards: int, block_len: int) -> NDArray[np.int64]:
    """The token of each row of a mask for a block KV cache, [slots].

    The rows of a core's share follow its key tiles, 128 rows each, so that one tile is one contiguous piece.
    `block_len` is the resized one, `shards` the number of cores the sequence is split over.
    """
    share = slots // shards
    local = token_map("block", share, block_len).reshape(-1)
    return (np.arange(shards)[:, None] * share + local).reshape(-1)
