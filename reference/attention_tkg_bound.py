"""How far a right attention_tkg may be from the truth, per element.

A companion run of truth; the terms of single operations are those of `error_terms`, those of softmax and the average
over values that of `attention_bound_terms`. In the order of the rounding points of the contract:

RoPE      the angle: one product, the shift, the turns taken away, each a float32 operation, and constants that are
          2 pi to 24 bits; sine and cosine are functions. x cos stays in float32, x sin is rounded to io where q and
          k lie in SBUF, their sum is rounded to io. The query is then scaled and rounded again.
new keys  and values are cast to the dtype of the cache where theirs differs.
scores    one dot over d.
weights   exp(score - maximum) rounded to the dtype of q. Which maximum is current changes no weight's share, only
          where it is rounded: one factor exp(older - newer) per later flash tile.
sum       over partitions by the tensor engine, over key tiles by the vector engine, from flash tile to flash tile and
          from core to core: of the rounded weights. The sink's term is a float32 exponential.
P V       PSUM over the key tiles of a flash tile, then as the sum.
out       times the reciprocal of the sum, the cores' halves added, one cast.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.attention_bound_terms import Keys, Query, ScoreErrors, Weights, averaged, score_errors, weights_of
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
from reference.attention_tkg_truth import exact_debug, exact_queries
from reference.contracts.attention_tkg import Config, validate_call
from reference.contracts.attention_tkg_plan import PARTITIONS
from reference.error_terms import (
    ADDITION,
    FUNCTION,
    TINY,
    UNIT,
    Known,
    additions,
    each,
    exact,
    half_step,
    matrix,
    maximum_error,
    off,
    plus,
    product,
    rounded,
    scaled,
    underflow,
    weight_error,
)
from reference.kv_cache import key_tiles
from reference.numerics.cast import to_float32
from reference.rope import BACK, SHIFTS, TURN, join_pairs, split_pairs

Array = NDArray[Any]
Arrays = dict[str, Array]

#: Elements of one batch's keys above which the companion is float32.
_LARGE = 2**18


def bound(config: Config, inputs: Arrays) -> Arrays:
    """The worst cases of `errors` alone."""
    return {name: known.error for name, known in errors(config, inputs).items()}


def errors(config: Config, inputs: Arrays) -> dict[str, Known]:
    """Truth, worst case and variance of all results in their shapes.

    Where truth is not finite the worst case is NaN or infinite and says nothing. Values that only some columns of a
    batch drop must be finite.

    Raises:
        KernelArgumentError: the config or a tensor is not legal.
    """
    validate_call(config, inputs)
    q, k_active = (_operand(config, inputs, name) for name in ("q", "k_active"))
    found = {}
    if config.k_out:
        found["k_out"] = each(k_active, lambda x: arranged_keys(config, x))
    if config.active_dtype != config.kv_dtype:
        k_active = rounded(k_active, config.kv_dtype, operations=0)
    v_active = exact(inputs["v_active"][:, 0].astype(np.float64))
    if config.active_dtype != config.kv_dtype:
        v_active = rounded(v_active, config.kv_dtype, operations=0)
    batches = _batches(config, inputs, q, k_active, v_active)
    found["out"] = each(_finished(config, batches), lambda x: arranged(config, x))
    return found | (_debug(config, inputs, batches) if config.debug else {})


# --- what enters the matmuls ------------------------------------------------------------------------------


def _operand(config: Config, inputs: Arrays, name: str) -> Known:
    """q, scaled where the kernel does it, or k_active, [d, B, heads, s]."""
    exact_q, exact_k = exact_queries(config, inputs)
    if not config.fuse_rope:
        return exact(exact_q if name == "q" else exact_k)
    rotated = _rotated(config, inputs, name)
    if name == "k_active":
        return rotated
    # The factor is rounded to float32 itself, hence two operations.
    return rounded(scaled(rotated, 1 / np.sqrt(config.d_head)), config.dtype, operations=2)


def _rotated(config: Config, inputs: Arrays, name: str) -> Known:
    x = exact(by_column(config, inputs[name], config.q_head if name == "q" else 1))
    theta = inputs["rope_pos_ids"].astype(np.float64)[None, :, None]
    theta = theta * inputs["inv_freqs"].astype(np.float64)[:, :, None, None]
    cos, sin = (_wave(theta, wave(theta)) for wave in (np.cos, np.sin))
    e, o = (Known(*parts) for parts in zip(*(split_pairs(part, "contiguous") for part in x), strict=True))
    stored = config.dtype if config.qk_in_sb else "float32"
    turned = [
        rounded(plus(rounded(product(own, cos), "float32"), rounded(product(other, sin), stored), sign), config.dtype)
        for own, other, sign in ((e, o, -1.0), (o, e, 1.0))
    ]
    return Known(*(join_pairs(even, odd, "contiguous") for even, odd in zip(*turned, strict=True)))


def _wave(theta: Array, value: Array) -> Known:
    return off(exact(value), _angle_error(theta) + FUNCTION)


def _angle_error(theta: Array) -> Array:
    """Error of the reduced angle, from the constants and from the roundings of float32 on the way."""
    shifted = theta + 1.5 * np.pi
    turns = shifted / (2 * np.pi) + 1
    constants = abs(float(TURN) - 2 * np.pi) * turns + abs(float(BACK) + np.pi)
    constants += max(abs(float(SHIFTS[0]) - np.pi), abs(float(SHIFTS[1]) - 1.5 * np.pi))
    return np.asarray(constants + UNIT * (theta + shifted + 2 * np.pi * turns + 16))


# --- scores, weights, output ------------------------------------------------------------------------------


def attended(config: Config, inputs: Arrays, q: Known, k_active: Known, v_active: Known) -> Known:
    """Attention's result [B, d, G] before it is arranged, in the dtype of the result.

    q [d, B, heads, s], k_active [d, B, 1, s] and v_active [B, s, d] may carry errors of stages before.
    """
    return _finished(config, _batches(config, inputs, q, k_active, v_active))


@dataclass(frozen=True)
class _Batch:
    """One batch: its results [G, d] before the cast, its scores [G, S], and its weights."""

    out: Known
    scores: Array
    top: Array  # [G, 1]
    errors: ScoreErrors
    weights: Weights


def _batches(config: Config, inputs: Arrays, q: Known, k_active: Known, v_active: Known) -> list[_Batch]:
    kept, sink = kept_keys(config, inputs), sink_columns(config, inputs)
    keys, values = prior_rows(config, inputs)
    with np.errstate(all="ignore"):
        return [
            _batch(
                config,
                (keys[b], values[b], kept[b].T, sink),
                each(q, itemgetter((slice(None), b))),
                each(k_active, itemgetter((slice(None), b))),
                each(v_active, itemgetter(b)),
            )
            for b in range(config.bs)
        ]


def _finished(config: Config, batches: list[_Batch]) -> Known:
    """The results [B, d, G], cast."""
    parts = zip(*(batch.out for batch in batches), strict=True)
    with np.errstate(all="ignore"):
        return rounded(
            Known(*(np.stack(part).transpose(0, 2, 1) for part in parts)), config.out_dtype, operations=0
        )


def _batch(
    config: Config, stored: tuple[Array, Array, Array, Array | None], q: Known, k_active: Known, v_active: Known
) -> _Batch:
    """One batch, from its cache rows [S, d], q [d, heads, s] and new rows [d, 1, s], [s, d]."""
    old_keys, old_values, kept, sink = stored
    real = np.float32 if old_keys.size >= _LARGE else np.float64
    keys, values = (_wide(rows).astype(real) for rows in (old_keys, old_values))
    new_keys = each(k_active, lambda part: part[:, 0].T)
    keys[-config.s_active :], values[-config.s_active :] = new_keys.value, v_active.value
    values[~kept.any(axis=0)] = 0
    query = Query.of(each(q, lambda part: part.reshape(config.d_head, -1).T), real)
    scores = np.where(kept, query.value @ keys.T, -np.inf)
    top = scores.max(axis=1, keepdims=True)
    if sink is not None:
        top = np.maximum(top, sink[:, None])
    exponents = scores - np.where(np.isneginf(top), 0, top)
    raised = np.exp(exponents)
    total, of_sink = raised.sum(axis=1, keepdims=True), None
    if sink is not None:
        of_sink = sink[:, None] - top
        total = total + np.exp(of_sink)
    all_keys = Keys(keys)
    score_error = score_errors(query, all_keys, config.dtype, new=None if new_keys.is_exact else new_keys)
    flash_tiles = len(config.plan.flash_tiles)
    corrections = flash_tiles if flash_tiles > 1 else 0
    weights = weights_of(exponents, total, score_error, of_sink, corrections, config.dtype, True, raised)
    out = averaged(weights, matrix(values), _sums(config), query, all_keys, v_active)
    return _Batch(out, scores, top, score_error, weights)


def _wide(rows: Array) -> Array:
    return np.array(to_float32(rows))


def _sums(config: Config) -> float:
    """Relative error of the sums over keys in PSUM, over flash tiles and cores, and of reciprocal and products."""
    terms = additions(PARTITIONS, config.curr_sprior // PARTITIONS, config.dtype)
    return float(np.expm1((terms + 6 * len(config.plan.flash_tiles) + 12) * ADDITION))


# --- debug results ----------------------------------------------------------------------------------------


def _debug(config: Config, inputs: Arrays, batches: list[_Batch]) -> dict[str, Known]:
    """Scores, maxima, weights and sums as they are shown; the block ids are exact. Float32 errors count in full."""
    scores, worst = (np.stack(rows) for rows in ([b.scores.T for b in batches], [b.errors.worst.T for b in batches]))
    columns = [(b.top[:, 0], b.weights.total[:, 0], b.weights.of_sum[:, 0]) for b in batches]
    top, total, of_sum = (np.stack(rows) for rows in zip(*columns, strict=True))
    with np.errstate(all="ignore"):
        value = exact_debug(config, inputs, scores, top, total)
        of_top = _of_maxima(config, scores, worst)
        of_total = total * (np.expm1(of_top + _sums(config)) + of_sum)
        found = _laid_out(config, inputs, worst, of_top, of_total)
        weights = value["dbg_qk_exp"]
        relative = weight_error(found["dbg_qk"] + found["dbg_qk_exp"], np.abs(np.log(weights)), 0)
        moved = np.where(weights > 0, weights * relative, 0)
        # A weight may be too small for the companion, but not for nothing.
        least = np.isfinite(value["dbg_qk"]) * (underflow(config.dtype) + 4 * TINY)
        rounding = np.fmax(half_step(config.dtype, weights + moved), least)
        found["dbg_qk_exp"] = moved + rounding
    variances = {name: np.square(error) for name, error in found.items()}
    variances["dbg_qk_exp"] = np.square(moved) + np.square(rounding) / 3
    return {name: Known(value[name], error, variances[name]) for name, error in found.items()}


def _of_maxima(config: Config, scores: Array, worst: Array) -> Array:
    """Error [B, G] of the maximum of any number of key tiles, from scores [B, S, G]."""
    if len(config.plan.flash_tiles) == 1:
        return maximum_error(scores, worst, axis=1)
    # Of a running maximum no more is known than the worst of the scores that are kept.
    return np.asarray(np.where(np.isfinite(scores), worst, 0).max(axis=1))


def _laid_out(config: Config, inputs: Arrays, worst: Array, of_top: Array, of_total: Array) -> Arrays:
    """Errors of scores [B, S, G], maxima and sums [B, G] where these are shown; in a weight's place its maximum's."""
    plan, debug = config.plan, DebugTensors(config, np.float64)
    for core in range(plan.shards):
        rows, first = share(plan, core, range(plan.batches_per_core))
        batches = slice(rows.start, rows.stop)
        for f, tile in enumerate(plan.flash_tiles):
            part = worst[batches, first + tile.offset : first + tile.offset + tile.keys]
            beside = np.broadcast_to(of_top[batches, None], part.shape)
            tiles = (key_tiles(x, plan.layout, plan.block_len) for x in (part, beside))
            debug.scores(core, f, range(len(rows)), *tiles)
    for core in range(plan.n_bat):
        rows, _ = share(plan, core, range(plan.batches_per_core))
        batches = slice(rows.start, rows.stop)
        # Maxima are shown negated.
        debug.column(core, range(len(rows)), -of_top[batches], of_total[batches])
    found = debug.results(inputs)
    if "dbg_active_table" in found:
        found["dbg_active_table"] = np.zeros(found["dbg_active_table"].shape)
    return found
