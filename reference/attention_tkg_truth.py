"""The truth of attention_tkg: the mathematics in float64, no tiling, no rounding of intermediates.

Its last bits depend on the host's libraries. It serves error bounds, not goldens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.attention_tkg_layout import (
    DebugTensors,
    arranged,
    arranged_keys,
    by_column,
    kept_keys,
    prior_rows,
    share,
    sink_columns,
)
from reference.contracts.attention_tkg import Config, validate_call
from reference.kv_cache import key_tiles, replace_tail
from reference.rope import rotate_exact

Array = NDArray[Any]
Arrays = dict[str, Array]
Bool = NDArray[np.bool_]


def truth(config: Config, inputs: Arrays) -> Arrays:
    """The results in float64: softmax(q K) V with no tiling and no rounding of intermediates.

    A column that keeps nothing and has no sink is NaN (0/0); with a sink it is 0. Values that no column of
    a batch keeps count as 0. `dbg_qk_exp` is taken relative to the maximum that is current in the flash
    tile, as the contract says, all else does not depend on tiles.

    Raises:
        KernelArgumentError: the config or a tensor is not legal.
    """
    validate_call(config, inputs)
    return truth_of(config, inputs)


def truth_of(config: Config, inputs: Arrays) -> Arrays:
    """`truth` of a legal call; keys and values may come in float32, whatever the config says."""
    return attended(config, inputs, *exact_queries(config, inputs))


def attended(config: Config, inputs: Arrays, q: Array, k_active: Array) -> Arrays:
    """`truth` of a legal call, from exact queries [d, B, heads, s] and new keys [d, B, 1, s].

    v_active may be float64, where a stage before this one made it.
    """
    kept = kept_keys(config, inputs)
    scores, values = exact_scores(config, inputs, q, k_active, kept)
    top, total, weights = exact_softmax(scores, sink_columns(config, inputs))
    out = np.empty((config.bs, config.d_head, config.columns_per_batch))
    with np.errstate(invalid="ignore", divide="ignore"):
        for b in range(config.bs):
            rows = np.where(kept[b].any(axis=1)[:, None], values[b].astype(np.float64), 0.0)
            out[b] = rows.T @ weights[b] / total[b]
    found = {"out": arranged(config, out)}
    if config.k_out:
        found["k_out"] = arranged_keys(config, k_active)
    if config.debug:
        found |= exact_debug(config, inputs, scores, top, total)
    return found


def exact_scores(
    config: Config, inputs: Arrays, q: Array, k_active: Array, kept: Bool
) -> tuple[Array, Array]:
    """Scores [B, S, G] in float64, -inf where dropped, and the values [B, S, d] as they are stored."""
    keys, values = prior_rows(config, inputs)
    scores = np.empty(kept.shape)
    with np.errstate(invalid="ignore"):
        for b in range(config.bs):
            joined = keys[b].astype(np.float64)
            joined[-config.s_active :] = k_active[:, b, 0].T
            scores[b] = joined @ q[:, b].reshape(config.d_head, -1)
    scores[~kept] = -np.inf
    # Casting the new rows to the dtype of the cache would round them.
    new = inputs["v_active"][:, 0]
    wide = values.dtype if new.dtype == values.dtype else np.result_type(new.dtype, np.float32)
    return scores, replace_tail(values.astype(wide), new.astype(wide))


def exact_queries(config: Config, inputs: Arrays) -> tuple[Array, Array]:
    """q and k_active in float64 [d, B, heads, s], rotated and scaled where the kernel does so."""
    q = by_column(config, inputs["q"], config.q_head).astype(np.float64)
    k_active = by_column(config, inputs["k_active"], 1).astype(np.float64)
    if not config.fuse_rope:
        return q, k_active
    positions = inputs["rope_pos_ids"].astype(np.float64)[None, :, None]
    angle = positions * inputs["inv_freqs"].astype(np.float64)[:, :, None, None]
    cos, sin = np.cos(angle), np.sin(angle)
    rotated = rotate_exact(q, cos, sin, "contiguous") / np.sqrt(config.d_head)
    return rotated, rotate_exact(k_active, cos, sin, "contiguous")


def exact_softmax(scores: Array, sink: Array | None) -> tuple[Array, Array, Array]:
    """Maximum and sum [B, G], and exponentials [B, S, G], of scores that are -inf where dropped."""
    top = scores.max(axis=1)
    if sink is not None:
        top = np.maximum(top, sink)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - _floored(top)[:, None])
        extra = 0.0 if sink is None else np.exp(sink - _floored(top))
    return top, weights.sum(axis=1) + extra, weights


def _floored(top: Array) -> Array:
    """-inf - (-inf) would be NaN; any finite number in its place gives exponentials of 0."""
    return np.where(np.isneginf(top), 0.0, top)


def exact_debug(config: Config, inputs: Arrays, scores: Array, top: Array, total: Array) -> Arrays:
    """The debug results, from scores [B, S, G] that are -inf where dropped, maxima and sums [B, G]."""
    plan, sink = config.plan, sink_columns(config, inputs)
    debug = DebugTensors(config, np.float64)
    for core in range(plan.shards):
        rows, first = share(plan, core, range(plan.batches_per_core))
        running = np.full((len(rows), plan.columns_per_batch), -np.inf)
        for f, tile in enumerate(plan.flash_tiles):
            part = scores[rows.start : rows.stop, first + tile.offset : first + tile.offset + tile.keys]
            last = f == len(plan.flash_tiles) - 1
            running = np.maximum(running, part.max(axis=1))
            if sink is not None and plan.n_seq == 1:
                running = np.maximum(running, sink)
            at = top[rows.start : rows.stop] if plan.n_seq == 2 and last else running
            with np.errstate(invalid="ignore"):
                prob = np.exp(part - _floored(at)[:, None])
            tiles = (key_tiles(x, plan.layout, plan.block_len) for x in (part, prob))
            debug.scores(core, f, range(len(rows)), *tiles)
    for core in range(plan.n_bat):
        rows, _ = share(plan, core, range(plan.batches_per_core))
        debug.column(core, range(len(rows)), top[rows.start : rows.stop], total[rows.start : rows.stop])
    return debug.results(inputs)
