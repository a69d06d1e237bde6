"""How far a right attention_tkg may be from the truth, per element: a companion run of truth on absolute
values.

Every rounding on the path of an element enters with its worst case, for any order of accumulation, so the
bound holds for all candidates of the profile's noise class. First order in the small quantities, with the
second order covered by one division at the end.

With w = softmax weights, a score error dx is a relative error of its weight, and

    |out' - out| <= sum_k w_k eps_k (|V_k| + |out|) + (sums, reciprocal, products) * (sum_k w_k |V_k| + |out|)
                    + sum_k w_k |dV_k| + cast
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.attention_tkg_layout import (
    arranged,
    arranged_keys,
    by_column,
    kept_keys,
    prior_rows,
    sink_columns,
)
from reference.attention_tkg_truth import exact_queries, exact_scores, exact_softmax
from reference.contracts.attention_tkg import Config, validate_call
from reference.contracts.attention_tkg_plan import PARTITIONS
from reference.numerics.formats import format_of
from reference.rope import BACK, SHIFTS, TURN, split_pairs

Array = NDArray[Any]
Arrays = dict[str, Array]

#: Half a unit in the last place of float32, relative.
UNIT = 2.0**-24
#: Error of an elementary function of float32, relative: one rounding, and one unit for inexact tables (S2,
#: V6).
FUNCTION = 3 * UNIT
#: Half of the smallest subnormal of float32.
TINY = 2.0**-150
#: No finite score differs from a finite maximum by more; keeps infinities out of products with zero weights.
FAR = 1e4


def half_ulp(dtype: str) -> float:
    """Relative error of one rounding to `dtype` in its normal range."""
    return float(2.0 ** -(format_of(dtype).mantissa_bits + 1))


def underflow(dtype: str) -> float:
    """Absolute error of one rounding to `dtype` below its normal range."""
    return format_of(dtype).min_subnormal / 2


@dataclass(frozen=True)
class Errors:
    """Bounds of the errors in what the kernel multiplies, in common order."""

    q: Array  # [d, B, H, s]
    k_active: Array  # [d, B, 1, s]
    v_active: Array  # [B, s, d]


def bound(config: Config, inputs: Arrays) -> Arrays:
    """Largest |result - truth| of a right kernel, float64, for out and k_out in their shapes.

    Where truth is not finite the bound is NaN or infinite and says nothing. Values that only some columns
    of a batch drop must be finite.

    Raises:
        KernelArgumentError: the config or a tensor is not legal.
    """
    validate_call(config, inputs)
    q, k_active = exact_queries(config, inputs)
    errors = _errors(config, inputs, q, k_active)
    out = out_bound(config, inputs, q, k_active, errors)
    found = {"out": arranged(config, out)}
    if config.k_out:
        found["k_out"] = arranged_keys(config, _rotation_error(config, inputs, "k_active"))
    return found


# --- what enters the matmuls ------------------------------------------------------------------------------


def _errors(config: Config, inputs: Arrays, q: Array, k_active: Array) -> Errors:
    rotated_q = np.zeros_like(q)
    rotated_k = np.zeros_like(k_active)
    if config.fuse_rope:
        rotated_q, rotated_k = (_rotation_error(config, inputs, name) for name in ("q", "k_active"))
        rotated_q = rotated_q / np.sqrt(config.d_head)
        rotated_q += _cast_error(config.dtype, np.abs(q) + rotated_q) + 2 * UNIT * np.abs(q)
    v_active = inputs["v_active"][:, 0].astype(np.float64)
    if config.active_dtype == config.kv_dtype:
        return Errors(rotated_q, rotated_k, np.zeros_like(v_active))
    rotated_k = rotated_k + _cast_error(config.kv_dtype, np.abs(k_active) + rotated_k)
    return Errors(rotated_q, rotated_k, _cast_error(config.kv_dtype, np.abs(v_active)))


def _cast_error(dtype: str, magnitude: Array) -> Array:
    return half_ulp(dtype) * magnitude + underflow(dtype)


def _rotation_error(config: Config, inputs: Arrays, name: str) -> Array:
    """Error of a rotated tensor [d, B, heads, s] before it is scaled."""
    x = by_column(config, inputs[name], config.q_head if name == "q" else 1).astype(np.float64)
    positions = inputs["rope_pos_ids"].astype(np.float64)[None, :, None]
    theta = positions * inputs["inv_freqs"].astype(np.float64)[:, :, None, None]
    wave = _angle_error(theta) + FUNCTION
    e, o = (np.abs(part) for part in split_pairs(x, "contiguous"))
    pair = np.concatenate((e + o, e + o))
    stored = half_ulp(config.dtype) if config.qk_in_sb else UNIT
    inner = pair * (np.concatenate((wave, wave)) + stored + 3 * UNIT) + 2 * underflow(config.dtype)
    return inner + _cast_error(config.dtype, pair + inner)


def _angle_error(theta: Array) -> Array:
    """Error of the reduced angle, from the constants and from the roundings of float32 on the way."""
    shifted = theta + 1.5 * np.pi
    turns = shifted / (2 * np.pi) + 1
    constants = abs(float(TURN) - 2 * np.pi) * turns + abs(float(BACK) + np.pi)
    constants += max(abs(float(SHIFTS[0]) - np.pi), abs(float(SHIFTS[1]) - 1.5 * np.pi))
    return constants + UNIT * (theta + shifted + 2 * np.pi * turns + 16)


# --- scores, weights, output ------------------------------------------------------------------------------


def out_bound(config: Config, inputs: Arrays, q: Array, k_active: Array, errors: Errors) -> Array:
    """Bound [B, d, G] of attention's result before it is arranged, from exact operands and the errors they bring."""
    kept, sink = kept_keys(config, inputs), sink_columns(config, inputs)
    scores, values = exact_scores(config, inputs, q, k_active, kept)
    top, total, weights = exact_softmax(scores, sink)
    rows = np.where(np.any(kept, axis=2, keepdims=True), values.astype(np.float64), 0.0)
    found = np.empty((config.bs, config.d_head, config.columns_per_batch))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for b in range(config.bs):
            of_scores = _score_error(config, inputs, q, k_active, errors, b)
            softmax = _Softmax(
                kept[b],
                weights[b] / total[b],
                _weight_error(config, scores[b], top[b], of_scores),
                _sink_error(sink, top[b], total[b]),
            )
            found[b] = _column_bound(config, rows[b], softmax, errors.v_active[b])
    return found


def _score_error(config: Config, inputs: Arrays, q: Array, k_active: Array, errors: Errors, b: int) -> Array:
    """Error [S, G] of the scores of one batch."""
    keys = np.abs(prior_rows(config, inputs)[0][b].astype(np.float64))
    keys[-config.s_active :] = np.abs(k_active[:, b, 0].T)
    key_errors = np.zeros((config.s_active, config.d_head)) + errors.k_active[:, b, 0].T
    query = np.abs(q[:, b]).reshape(config.d_head, -1)
    query_error = errors.q[:, b].reshape(config.d_head, -1)
    found = (keys @ query) * ((config.d_head + 1) * UNIT) + keys @ query_error + config.d_head * TINY
    found[-config.s_active :] += key_errors @ (query + query_error)
    return np.asarray(found)


def _weight_error(config: Config, scores: Array, top: Array, score_error: Array) -> Array:
    """Relative error [S, G] of the exponentials in `prob`, times the corrections of later flash tiles."""
    distance = np.minimum(np.abs(scores - top), FAR)
    tiles = len(config.plan.flash_tiles)
    exponent = score_error + 2 * UNIT * (distance + score_error + 1)
    grown = np.expm1(exponent + tiles * (FUNCTION + 4 * UNIT) + FUNCTION)
    return np.asarray(grown + half_ulp(config.dtype) * (1 + grown))


def _sink_error(sink: Array | None, top: Array, total: Array) -> Array:
    """Error of the sink's term, as a share of the sum."""
    if sink is None:
        return np.zeros_like(top)
    distance = np.minimum(np.abs(sink - top), FAR)
    relative: Array = np.expm1(2 * UNIT * distance + 2 * FUNCTION)
    return np.asarray(np.exp(-distance) / total * relative)


@dataclass(frozen=True)
class _Softmax:
    """Weights of one batch and their errors."""

    kept: Array  # [S, G]
    weights: Array  # [S, G], true
    relative: Array  # [S, G], error as a share of the weight
    sink: Array  # [G], error of the sink's term as a share of the sum


def _column_bound(config: Config, rows: Array, softmax: _Softmax, v_error: Array) -> Array:
    """Bound [d, G] of one batch, from its values [S, d] and the errors [s, d] of its new values."""
    kept, weights = softmax.kept, softmax.weights
    out = np.abs(rows.T @ weights)
    magnitude = np.abs(rows).T @ weights
    slack = np.where(kept, underflow(config.dtype) + TINY, 0.0)
    moved = np.where(kept, weights * softmax.relative, 0.0) + slack
    of_sum = moved.sum(axis=0) + softmax.sink
    sums = (PARTITIONS + config.curr_sprior // PARTITIONS + 6 * len(config.plan.flash_tiles) + 12) * UNIT
    error = np.abs(rows).T @ moved + out * of_sum + sums * (magnitude + out)
    error += v_error.T @ weights[-config.s_active :] + config.curr_sprior * TINY
    # Second order: the sum that is divided by may be smaller than the true one by its own error.
    share = of_sum + sums
    error = np.where(share < 0.5, error / (1 - share), np.inf)
    return np.asarray(error + _cast_error(config.out_dtype, out + error))
