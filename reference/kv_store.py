"""KV caches as the projection kernels fill them: scaled, clamped and cast rows, flat or in blocks.

The float32 product is clamped before the one cast, so a value beyond the format never becomes infinity or NaN
on the way. (`kv_cache` has the caches as the attention kernels read them.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.alu import BINARY
from reference.numerics.cast import to_float32
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.rounding import round_to

Array = NDArray[Any]

#: Slot of a token that is not stored.
NO_SLOT = -1


def quantize_rows(
    x: Array,
    factor: Array,
    limits: tuple[float, float],
    dtype: object,
    profile: NumericsProfile = DEFAULT,
    order: tuple[str, str] = ("maximum", "minimum"),
    point: str = "quantized",
) -> Array:
    """R_dtype(clamp(x * factor)): float32 product, two-step clamp, one rounding; the shape of x.

    NaN stays NaN by default (profile V5 decides in the clamp). Infinity becomes a limit. A limit that `dtype`
    cannot hold is rounded by the cast, beyond the limit if that is nearer; one beyond the largest finite value
    overflows as `cast` says.

    Args:
        x: rows of any storage dtype.
        factor: float32, broadcast against x.
        limits: (low, high).
        order: which end is clamped first; the two differ only at NaN and zeros.
        point: name of the one rounding.
    """
    return clamp_rows(BINARY["multiply"](to_float32(x), factor, profile), limits, dtype, profile, order, point)


def clamp_rows(
    value: Array,
    limits: tuple[float, float],
    dtype: object,
    profile: NumericsProfile = DEFAULT,
    order: tuple[str, str] = ("maximum", "minimum"),
    point: str = "quantized",
    tile: tuple[int, ...] = (),
) -> Array:
    """The second half of `quantize_rows`: R_dtype(clamp(value)) of float32 products."""
    bounds = {"maximum": np.float32(limits[0]), "minimum": np.float32(limits[1])}
    for op in order:
        value = BINARY[op](value, bounds[op], profile)
    return round_to(point, value, dtype, profile, tile)


def flat_slots(batches: int, tokens: int, room: int) -> NDArray[np.int64]:
    """Row of token (b, s) in a flat cache [batches, room, width] seen as [batches * room, width]: [batches*tokens].

    Raises:
        ValueError: a batch entry has more tokens than rows.
    """
    if tokens > room:
        raise ValueError(f"flat cache: {tokens} tokens need as many rows, the cache has {room}")
    slots: NDArray[np.int64] = np.add.outer(np.arange(batches) * room, np.arange(tokens)).reshape(-1)
    return slots


def store_rows(cache: Array, rows: Array, slots: Array) -> None:
    """Write rows [n, width] to their slots of a cache [a, b, width] (row a*b' + b of it); bits are copied.

    Slot -1 writes nothing. Every other row of the cache stays. Nothing is written when an error is raised.

    Raises:
        IndexError: a slot outside the cache.
        ValueError: a slot named twice (which row would stay is undefined), or dtypes that differ.
    """
    if rows.dtype != cache.dtype:
        raise ValueError(f"KV cache of {cache.dtype} takes no rows of {rows.dtype}; quantize them first")
    kept = slots != NO_SLOT
    used = slots[kept]
    room = cache.shape[0] * cache.shape[1]
    if used.size and (used.min() < 0 or used.max() >= room):
        raise IndexError(f"KV cache of {room} rows has no slots {used.min()} to {used.max()}")
    if len(np.unique(used)) != used.size:
        raise ValueError("KV cache: a slot is named twice; map every token to a row of its own")
    # Two indices rather than a reshaped view, which a cache with gaps between its blocks could not give.
    cache[used // cache.shape[1], used % cache.shape[1]] = rows[kept]
