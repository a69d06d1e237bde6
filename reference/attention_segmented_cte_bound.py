"""How far a right attention_segmented_cte may be from the truth, per element.

A companion run of truth; the terms of single operations are those of `error_terms`, those of softmax and the average
over values that of `attention_bound_terms`. In the order of the rounding points of the contract:

query     cast to bf16; with k_scale a product, rounded to bf16 again.
logit     one dot over d, times scale, one operation.
weights   exp(logit - maximum) in float32, summed as they are by the scalar engine's registers per key tile and then
          over tiles; rounded to bf16 where they meet V, so that roundings are not made good by the sum.
update    one factor exp(older - newer maximum) per later segment, each with a product and a sum (or fused, V1).
P V       PSUM over a large tile, then float32 additions over large tiles and segments.
out       rounded to bf16 before it is divided, at the size it then has; times the reciprocal of the sum, times
          v_scale, cast to bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.attention_bound_terms import Keys, Query, ScoreErrors, Weights, averaged, score_errors, weights_of
from reference.attention_segmented_cte_truth import Part, parts, put
from reference.contracts.attention_segmented_cte import Config, results, validate_call
from reference.contracts.attention_segmented_cte_plan import PARTITIONS
from reference.error_terms import FUNCTION, UNIT, Known, Matrix, exact, matrix, maximum_error, off, rounded, scaled
from reference.segment_schedule import KEY_TILE, LARGE_TILE
from reference.segmented_softmax import LEAST_SUM

Array = NDArray[Any]
Arrays = dict[str, Array]

NARROW = "bfloat16"
#: Scores of a call above which the companion is float32.
_LARGE = 2**20
#: Queries looked at at once: rows of a prior of some thousand tokens stay in cache.
_QUERIES = 64
#: Deviations that an error of a score reaches with some likelihood, among as many keys as there are.
_LIKELY = 4.0


def bound(config: Config, inputs: Arrays) -> Arrays:
    """The worst cases of `errors` alone."""
    return {name: known.error for name, known in errors(config, inputs).items()}


def errors(config: Config, inputs: Arrays) -> dict[str, Known]:
    """Truth, worst case and variance of every result in its shape.

    Where truth is not finite the worst case is NaN or infinite and says nothing. Values of tokens that a query's
    segments load must be finite.

    Raises:
        KernelArgumentError: the config, a tensor or a value is not legal.
    """
    validate_call(config, inputs)
    found = {name: Known(*(np.zeros(tensor.shape) for _ in range(3))) for name, tensor in results(config).items()}
    scores = config.rows * config.seqlen_q * config.max_blocks * config.block_size
    row: _Row | None = None
    with np.errstate(all="ignore"):
        for part in parts(config, inputs, np.float32 if scores > _LARGE else np.float64, _QUERIES):
            if row is None or row.number != part.row:
                row = _row(config, part)
            of_score, weights, out = _attended(config, inputs, part, row)
            for array, value in zip(found["out"], out, strict=True):
                put(config, array, part, value)
            if config.kvp:
                statistics = _statistics(config, inputs, part, of_score, weights)
                for name, known in zip(("neg_max", "sum_recip"), statistics, strict=True):
                    for array, value in zip(found[name], known, strict=True):
                        array[part.row, part.queries] = value
    return found


@dataclass(frozen=True)
class _Row:
    """What the queries of a row share."""

    number: int
    #: Times k_scale and the magnitude of the scale.
    keys: Keys
    #: Zeros in place of tokens that hold NaN or infinity, and these tokens.
    values: Matrix
    broken: Array


def _row(config: Config, part: Part) -> _Row:
    keys = part.keys if config.scale == 1 else part.keys * part.keys.dtype.type(abs(config.scale))
    sound = np.asarray(np.isfinite(part.values).all(axis=1))
    values = part.values if sound.all() else np.where(sound.reshape(-1, 1), part.values, 0)
    return _Row(part.row, Keys(keys), matrix(values), np.flatnonzero(~sound))


def _attended(config: Config, inputs: Arrays, part: Part, row: _Row) -> tuple[ScoreErrors, Weights, Known]:
    """Errors of scores and weights, and the finished rows [queries, d]."""
    query = _query(config, inputs, part)
    of_score = score_errors(query, row.keys, NARROW, operations=2)
    total = np.maximum(part.total, LEAST_SUM)[:, None]
    top = np.where(np.isneginf(part.top), 0, part.top)[:, None]
    sink = None if part.sink is None else (part.sink - top).astype(np.float64)
    exponents = part.scores - top
    updates = _updates(config, inputs)
    weights = weights_of(exponents, total, of_score, sink, updates, NARROW, summed_rounded=False, value=part.weights)
    out = averaged(weights, row.values, _sums(config, inputs, part), query, row.keys)
    for token in row.broken:
        hit = part.weights[:, token] > 0
        out.value[hit], out.error[hit] = np.nan, np.nan
    return of_score, weights, _finished(config, inputs, out, total.astype(np.float64))


def _query(config: Config, inputs: Arrays, part: Part) -> Query:
    """In the units of q, where the kernel's query holds k_scale."""
    q = exact(part.q)
    if config.dtype != NARROW:
        q = rounded(q, NARROW, operations=0)
    if config.k_scale:
        scale = inputs["k_scale"][: config.d_head, 0].astype(np.float64)
        q = scaled(rounded(scaled(q, scale), NARROW), np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0))
    return Query.of(q, part.q.dtype.type)


def _updates(config: Config, inputs: Arrays) -> int:
    """How often a slice's state is extended, at most."""
    if config.sliding_window:
        return 0
    return int(inputs["prior_tokens"][0, 0]) // config.prior_seg_size + 3


def _sums(config: Config, inputs: Arrays, part: Part) -> float:
    """Relative error of the sums over keys: a chain over a key tile, then over tiles and segments.

    The registers round to nearest. PSUM may not, at twice the error, but a large tile is 128 rows and 16 passes.
    """
    updates = _updates(config, inputs)
    tiles = len(part.keys) // KEY_TILE + updates
    terms = max(KEY_TILE, 2 * (PARTITIONS + LARGE_TILE // PARTITIONS)) + 2 * tiles + 4 * updates + 32
    return float(np.expm1(terms * UNIT))


def _finished(config: Config, inputs: Arrays, out: Known, total: Array) -> Known:
    """After the rounding before the normalisation, the products and the final cast."""
    out = scaled(rounded(scaled(out, total), NARROW, operations=0), 1 / total)
    out = off(out, (FUNCTION + UNIT) * out.size, np.square((FUNCTION + UNIT) * out.likely_size))
    if config.v_scale:
        out = rounded(scaled(out, inputs["v_scale"][: config.d_head, 0].astype(np.float64)), "float32")
    return rounded(out, NARROW)


def _statistics(
    config: Config, inputs: Arrays, part: Part, of_score: ScoreErrors, weights: Weights
) -> tuple[Known, Known]:
    """neg_max and sum_recip [queries]; constants where nothing is seen."""
    of_top = maximum_error(part.scores, of_score.worst, axis=1).astype(np.float64)
    # Another key may come to the top where its own error is large: heavy tails have such keys.
    deviations = _LIKELY * np.sqrt(of_score.variance)
    likely_top = np.square(maximum_error(part.scores, deviations, axis=1).astype(np.float64) / _LIKELY)
    total = np.maximum(part.total, LEAST_SUM).astype(np.float64)
    sums = _sums(config, inputs, part) + FUNCTION
    relative = np.expm1(weights.of_sum[:, 0] + of_top + sums)
    relative = np.where(relative < 0.5, relative / (1 - relative), np.inf)
    # Weights err by their scores, all by that of the maximum; sums may err to one side.
    likely = likely_top + np.square(sums)
    likely = likely + (weights.variance.sum(axis=1) * np.square(weights.unit[:, 0]) / np.square(total))
    seen = part.total > 0
    top = np.where(seen, -part.top, 2.0**127).astype(np.float64)
    worst = np.where(seen, relative / total, 0)
    known = Known(top, np.where(seen, of_top, 0), np.where(seen, likely_top, 0).astype(np.float64))
    return known, Known(1 / total, worst, np.where(seen, np.expm1(likely) / np.square(total), 0))
