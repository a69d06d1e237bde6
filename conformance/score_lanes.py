"""Queries and keys whose scores obey a relation: tied, shifted by a constant, or rising from tile to tile.

All arrays are float32 with values that bfloat16, float16 and float8_e4m3 hold exactly, except for the small
normal parts named below; a case module reshapes and casts them to its layout. Coordinate 0 of the head
dimension carries the relation, so a kernel that rotates or normalises q and k needs builders of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.lanes import LaneError, require_exact_dot, require_exact_sum
from conformance.randomness import Stream

Array = NDArray[Any]

#: exp of anything below is zero in float32 under every candidate of subnormal results (S3): 2^-150 is e^-104.
GAP = 512.0


def tied(
    stream: Stream, queries: int, head_dim: int, selected: NDArray[np.bool_], level: bool = False
) -> tuple[Array, Array]:
    """q [queries, head_dim] and k [len(selected), head_dim]: all selected keys tie, all others vanish.

    Per query the selected keys have one common score and the rest lie 1024 below, so that softmax weights
    are 1/n and 0 whatever the order, the tiling or the error of exp. `level` makes that score 0 for every query,
    where a sink of 0 ties as well. LaneError where head_dim < 2.
    """
    if head_dim < 2:
        raise LaneError(f"lane exact: ties need a head dimension of 2 or more, not {head_dim}")
    half = (head_dim + 1) // 2
    q = np.zeros((queries, head_dim), np.float32)
    q[:, 0] = 16
    q[:, 1:half] = 0 if level else stream.integers(-2, 3, (queries, half - 1))
    k = stream.integers(-4, 5, (len(selected), head_dim)).astype(np.float32)
    k[:, 0] = np.where(selected, 0, -64)
    # Where q is not zero all keys are alike; where keys differ, q is zero.
    k[:, 1:half] = stream.integers(-1, 2, (half - 1,))
    require_tied(q, k, selected)
    return q, k


def require_tied(q: Array, k: Array, selected: NDArray[np.bool_], gap: float = GAP) -> None:
    """LaneError unless the selected keys tie for every query and all others score lower by `gap` or more."""
    scores = exact_scores(q, k)
    best = scores[:, selected].max(axis=1, keepdims=True)
    if not (scores[:, selected] == best).all():
        raise LaneError("lane exact: selected keys do not tie")
    if (scores[:, ~selected] > best - gap).any():
        raise LaneError(f"lane exact: a key that is not selected comes within {gap} of the tied score")


def exact_values(stream: Stream, keys: int, head_dim: int, selected: NDArray[np.bool_]) -> Array:
    """v [keys, head_dim] of integers from -4 to 4 whose mean over the selected keys is exact in float32."""
    v = stream.integers(-4, 5, (keys, head_dim)).astype(np.float32)
    require_exact_mean(v, selected)
    return v


def rounded_values(
    stream: Stream, keys: int, head_dim: int, selected: NDArray[np.bool_], most: int, sinks: int = 0
) -> Array:
    """v [keys, head_dim] of integers from 1 to `most`: their mean over the selected keys is exact in float32.

    Sums grow with every key, past the 8 bits of a bfloat16 where enough keys are selected, so that each place that
    rounds to a narrow format decides bits. `sinks` tie with the keys and have the value 0.
    """
    v = stream.integers(1, most + 1, (keys, head_dim)).astype(np.float32)
    require_exact_mean(v, selected, sinks)
    return v


def tying(room: int, sinks: int = 0) -> int:
    """How many of `room` keys can tie at most, so that with `sinks` beside them they are a power of two."""
    return 2 ** ((room + sinks).bit_length() - 1) - sinks


def require_exact_mean(v: Array, selected: NDArray[np.bool_], sinks: int = 0) -> None:
    """LaneError unless sums of the selected rows are exact in every order and their count a power of two."""
    count = int(selected.sum()) + sinks
    if count == sinks or count & (count - 1):
        raise LaneError(f"lane exact: {count} tied keys; 1/{count} is exact for powers of two alone")
    require_exact_sum(v[selected], axis=0)


def shifted(
    stream: Stream, queries: int, keys: int, head_dim: int, amount: float = 384.0
) -> tuple[Array, Array]:
    """q [queries, head_dim] and k [keys, head_dim] with normal scores of deviation 1 or less, plus `amount`.

    exp of a score overflows float32 from 88.7 on, and `amount`/16 must be exact in the dtype of k.
    """
    q, k = _gentle(stream, queries, keys, head_dim)
    q[:, 0], k[:, 0] = 16, amount / 16
    require_shifted(q, k)
    return q, k


def require_shifted(q: Array, k: Array, floor: float = 100.0) -> None:
    """LaneError unless every score is above `floor`."""
    lowest = float(_scores(q, k).min())
    if lowest <= floor:
        raise LaneError(f"lane shift: the lowest score is {lowest:.1f}, which exp survives")


def rising(stream: Stream, queries: int, keys: int, head_dim: int, tile: int) -> tuple[Array, Array]:
    """q [queries, head_dim] and k [keys, head_dim]: each tile of `tile` keys outscores all before it.

    Steps of 32 per tile, over normal scores of deviation 1 or less; up to 30 tiles where k is float8_e4m3.
    """
    q, k = _gentle(stream, queries, keys, head_dim)
    q[:, 0], k[:, 0] = 4, 8 * (np.arange(keys) // tile)
    require_rising(q, k, tile)
    return q, k


def require_rising(q: Array, k: Array, tile: int, step: float = 8.0) -> None:
    """LaneError unless for every query each tile's maximum exceeds the one before by `step` or more."""
    scores = _scores(q, k)
    tops = np.maximum.reduceat(scores, np.arange(0, scores.shape[1], tile), axis=1)
    if tops.shape[1] < 2:
        raise LaneError(f"lane rising: {scores.shape[1]} keys make one tile of {tile}; nothing can rise")
    if (np.diff(tops, axis=1) < step).any():
        raise LaneError("lane rising: a tile's largest score does not exceed that of the tile before")


def exact_scores(q: Array, k: Array) -> Array:
    """q k^T [queries, keys] as float64; LaneError unless float32 gives the same in every order."""
    require_exact_dot(q, k)
    return _scores(q, k)


def _gentle(stream: Stream, queries: int, keys: int, head_dim: int) -> tuple[Array, Array]:
    """Normal q and k, scaled by powers of two so that scores have a deviation between 1/2 and 1."""
    shrink = np.float32(2.0 ** -(((head_dim - 1).bit_length() + 3) // 4))
    return stream.normal((queries, head_dim)) * shrink, stream.normal((keys, head_dim)) * shrink


def _scores(q: Array, k: Array) -> Array:
    """Only for checks with room to spare, or of values that float64 sums exactly: BLAS may take any order."""
    return q.astype(np.float64) @ k.astype(np.float64).T
