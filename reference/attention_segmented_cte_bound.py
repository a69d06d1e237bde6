"""How far a right attention_segmented_cte may be from the truth, per element: a companion run of truth on
absolute values.

Every rounding on the path of an element enters with its worst case, for any order of accumulation, so the bound
holds for all candidates of the profile's noise class. First order in the small quantities, with the second order
covered by one division at the end. With w = softmax weights and eps the relative error of a weight,

    |out' - out| <= sum_k w_k (eps_k + bf16) |V_k| + |out| * (sum_k w_k eps_k + sink's)
                    + (sums, reciprocal, products) * (sum_k w_k |V_k| + |out|) + two casts to bf16

Weights are rounded to bf16 before they meet V; the sum that is divided by takes them unrounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.attention_segmented_cte_truth import Part, parts, put, weighted
from reference.contracts.attention_segmented_cte import Config, results, validate_call
from reference.contracts.attention_segmented_cte_plan import PARTITIONS
from reference.numerics.formats import format_of
from reference.segment_schedule import KEY_TILE, LARGE_TILE

Array = NDArray[Any]
Arrays = dict[str, Array]

#: Half a unit in the last place of float32 and of bfloat16, relative.
UNIT = 2.0**-24
NARROW = 2.0**-8
#: Error of an elementary function of float32, relative: one rounding, and one unit for inexact tables (S2, V6).
FUNCTION = 3 * UNIT
#: Halves of the smallest subnormals.
TINY = 2.0**-150
UNDERFLOW = format_of("bfloat16").min_subnormal / 2
#: No finite score differs from a finite maximum by more; keeps infinities out of products with zero weights.
FAR = 1e4


def bound(config: Config, inputs: Arrays) -> Arrays:
    """Largest |result - truth| of a right kernel, float64, for every result in its shape.

    Where truth is not finite the bound is NaN or infinite and says nothing. Values of tokens that a query's
    segments load must be finite.

    Raises:
        KernelArgumentError: the config, a tensor or a value is not legal.
    """
    validate_call(config, inputs)
    found = {name: np.zeros(tensor.shape) for name, tensor in results(config).items()}
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for part in parts(config, inputs):
            errors = _errors(config, inputs, part)
            put(config, found["out"], part, _out_bound(config, inputs, part, errors))
            if config.kvp:
                neg_max, sum_recip = _statistics_bound(part, errors)
                found["neg_max"][part.row, part.queries] = neg_max
                found["sum_recip"][part.row, part.queries] = sum_recip
    return found


@dataclass(frozen=True)
class _Errors:
    """Error bounds of some queries."""

    score: Array  # [queries, tokens]
    #: Of a weight before it is rounded, as a share of it, [queries, tokens].
    weight: Array
    #: Of the sink's term, as a share of the sum, [queries].
    sink: Array
    #: Relative error of sums of non-negative terms over all keys.
    sums: float


def _errors(config: Config, inputs: Arrays, part: Part) -> _Errors:
    score = _score_error(config, part)
    updates = _updates(config, inputs)
    distance = np.minimum(np.abs(part.scores - part.top[:, None]), FAR)
    exponent = score + 2 * UNIT * (distance + score + 1)
    weight = np.expm1(exponent + (updates + 1) * (FUNCTION + 4 * UNIT))
    sink = np.zeros_like(part.total)
    if part.sink is not None:
        off = np.minimum(np.abs(part.sink - part.top), FAR)
        relative = np.expm1(2 * UNIT * off + (updates + 1) * (FUNCTION + 4 * UNIT))
        sink = np.exp(-off) / np.maximum(part.total, 1.0) * relative
    tiles = len(part.keys) // KEY_TILE + updates
    sums = (KEY_TILE + 2 * tiles + LARGE_TILE // PARTITIONS + 4 * updates + 12) * UNIT
    return _Errors(score, weight, sink, sums)


def _updates(config: Config, inputs: Arrays) -> int:
    """How often a slice's state is extended, at most."""
    if config.sliding_window:
        return 0
    return int(inputs["prior_tokens"][0, 0]) // config.prior_seg_size + 3


def _score_error(config: Config, part: Part) -> Array:
    """Error [queries, tokens] of the scores; `part.keys` already hold k_scale."""
    of_query = 0.0 if config.dtype == "bfloat16" else NARROW
    of_query += NARROW + UNIT if config.k_scale else 0.0
    relative = of_query * (1 + NARROW) + (config.d_head + 2) * UNIT
    products = np.abs(part.q) @ np.abs(part.keys).T
    # A subnormal query has an error of its own, as large as the keys make it.
    slack = UNDERFLOW * np.abs(part.keys).sum(axis=1) + config.d_head * TINY
    return np.asarray(abs(config.scale) * (products * relative + slack) + TINY)


def _out_bound(config: Config, inputs: Arrays, part: Part, errors: _Errors) -> Array:
    total = np.maximum(part.total, 2.0**-126)[:, None]
    share = part.weights / total
    magnitude = weighted(share, np.abs(part.values))
    out = np.abs(weighted(share, part.values))
    moved = np.where(share > 0, share * errors.weight, 0.0)
    slack = np.where(np.isfinite(part.scores), UNDERFLOW + TINY, 0.0)
    of_sum = (moved + slack).sum(axis=1)[:, None] + errors.sink[:, None]
    rounded = np.where(share > 0, (share + moved) * NARROW, 0.0)
    error = weighted(moved + rounded + slack, np.abs(part.values))
    error += out * of_sum + errors.sums * (magnitude + out)
    settled = of_sum + errors.sums
    error = np.where(settled < 0.5, error / (1 - settled), np.inf)
    return _finished(config, inputs, out, error)


def _finished(config: Config, inputs: Arrays, out: Array, error: Array) -> Array:
    """After the rounding before the normalisation, the products and the final cast."""
    error = error + NARROW * (out + error) + UNDERFLOW
    error = error + (FUNCTION + 2 * UNIT) * (out + error)
    if config.v_scale:
        scale = np.abs(inputs["v_scale"][: config.d_head, 0].astype(np.float64))
        out, error = out * scale, error * scale + UNIT * (out + error) * scale
    return np.asarray(error + NARROW * (out + error) + UNDERFLOW)


def _statistics_bound(part: Part, errors: _Errors) -> tuple[Array, Array]:
    """Bounds [queries] of neg_max and sum_recip."""
    seen = np.isfinite(part.scores)
    of_top = np.where(seen, errors.score, 0.0).max(axis=1)
    total = np.maximum(part.total, 2.0**-126)
    of_sum = (np.where(seen, part.weights * errors.weight, 0.0)).sum(axis=1) / total
    relative = np.expm1(of_sum + errors.sink + of_top + errors.sums + FUNCTION)
    relative = np.where(relative < 0.5, relative / (1 - relative), np.inf)
    # Where nothing is seen both are constants.
    return np.where(part.total > 0, of_top, 0.0), np.where(part.total > 0, relative / total, 0.0)
