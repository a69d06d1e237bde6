"""The truth of attention_segmented_cte: the mathematics in float64, no segments, no rounding of intermediates.

Its last bits depend on the host's libraries. It serves error bounds, not goldens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.contracts.attention_segmented_cte import Config, entries_in_use, results, validate_call
from reference.paged_kv_cache import head_pages, load_blocks
from reference.segmented_softmax import LEAST_SUM, TOP

Array = NDArray[Any]
Arrays = dict[str, Array]
Bool = NDArray[np.bool_]

#: Queries looked at at once.
_QUERIES = 512


@dataclass(frozen=True)
class Part:
    """Some queries of one row: what is known before and after the softmax; float64 for truth."""

    row: int
    queries: slice
    q: Array  # [queries, d]
    keys: Array  # [tokens, d], times k_scale
    values: Array  # [tokens, d]
    scores: Array  # [queries, tokens], -inf where not seen
    sink: float | None
    top: Array  # [queries]
    weights: Array  # [queries, tokens], exp(scores - top)
    total: Array  # [queries]


def truth(config: Config, inputs: Arrays) -> Arrays:
    """The results in float64: out, with kvp_offset also neg_max and sum_recip.

    A query that sees nothing has out 0, neg_max 2^127 and sum_recip 2^126. Tokens of skipped pages have keys
    and values 0. Values that a query does not see do not reach it, whatever they are.

    Raises:
        KernelArgumentError: the config, a tensor or a value is not legal.
    """
    validate_call(config, inputs)
    return truth_of(config, inputs)


def truth_of(config: Config, inputs: Arrays) -> Arrays:
    """`truth` of a legal call; the caches may come in float32, whatever the config says."""
    found = {name: np.zeros(tensor.shape) for name, tensor in results(config).items()}
    scale = inputs["v_scale"][: config.d_head, 0].astype(np.float64) if config.v_scale else 1.0
    for part in parts(config, inputs):
        out = weighted(part.weights, part.values) / np.maximum(part.total, LEAST_SUM)[:, None] * scale
        put(config, found["out"], part, out)
        if config.kvp:
            seen = part.total > 0
            found["neg_max"][part.row, part.queries] = np.where(seen, -part.top, TOP)
            found["sum_recip"][part.row, part.queries] = 1 / np.maximum(part.total, LEAST_SUM)
    return found


def parts(
    config: Config, inputs: Arrays, real: type[Any] = np.float64, together: int = _QUERIES
) -> Iterator[Part]:
    """All queries of a call, some together, in float64 or, for what needs no more, float32."""
    prior = int(inputs["prior_tokens"][0, 0])
    for row in range(config.rows):
        q = inputs["q"][row].astype(real)
        q = q if config.tp_q else q.T
        keys, values = (x.astype(real, copy=False) for x in tokens(config, inputs, row, prior))
        sink = None if config.sink is None else float(inputs["sink"][row, 0])
        for first in range(0, config.seqlen_q, together):
            queries = slice(first, min(first + together, config.seqlen_q))
            scores = exact_scores(config, inputs, q[queries], keys, queries, prior)
            yield Part(
                row, queries, q[queries], keys, values, scores, sink, *exact_softmax(scores, sink)
            )


def tokens(config: Config, inputs: Arrays, row: int, prior: int) -> tuple[Array, Array]:
    """Keys, times k_scale, and values [prior + S, d] of a row's KV head; zeros where nothing may be read."""
    table = inputs["block_tables"][config.sequence(row)]
    first, _, end = entries_in_use(config, prior)
    found = []
    for name, transposed in (("k_cache", config.k_pre_transposed), ("v_cache", False)):
        pages = head_pages(inputs[name], config.kv_head(row), config.num_kv_heads, transposed)
        wide = np.zeros((end * config.block_size, config.d_head))
        length = (end - first) * config.block_size
        wide[first * config.block_size :] = load_blocks(pages, table, first, end - first, length)
        found.append(wide)
    if config.k_scale:
        found[0] *= inputs["k_scale"][: config.d_head, 0].astype(np.float64)
    return found[0], found[1]


def exact_scores(
    config: Config, inputs: Arrays, q: Array, keys: Array, queries: slice, prior: int
) -> Array:
    """Scores [queries, tokens] in float64, -inf where a query does not see a token."""
    with np.errstate(invalid="ignore"):
        scores: Array = (q @ keys.T) * config.scale
    last = np.arange(queries.start, queries.stop)[:, None]
    last = last + (int(inputs["kvp_offset"][0, 0]) if config.kvp else prior)
    token = np.arange(len(keys))[None]
    hidden = token > last
    if config.sliding_window:
        hidden |= token <= last - config.sliding_window
    scores[hidden] = -np.inf
    return scores


def exact_softmax(scores: Array, sink: float | None) -> tuple[Array, Array, Array]:
    """Maximum, exponentials and sum of scores that are -inf where not seen."""
    top = scores.max(axis=1)
    top = top if sink is None else np.maximum(top, sink)
    # -inf - (-inf) would be NaN; any finite number in its place gives exponentials of 0.
    floor = np.where(np.isneginf(top), 0.0, top)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - floor[:, None])
    extra = 0.0 if sink is None else np.exp(sink - floor)
    return top, weights, weights.sum(axis=1) + extra


def weighted(weights: Array, values: Array) -> Array:
    """weights @ values, where a weight of 0 silences NaN and infinity."""
    sound: Bool = np.asarray(np.isfinite(values).all(axis=1))
    found: Array = weights @ np.where(sound[:, None], values, 0.0)
    for token in np.flatnonzero(~sound):
        hit = weights[:, token] > 0
        found[hit] += weights[hit, token][:, None] * values[token]
    return found


def put(config: Config, out: Array, part: Part, value: Array) -> None:
    """A value [queries, d] in its place in out."""
    if config.tp_out:
        out[part.row, :, part.queries] = value.T
    else:
        out[part.row, part.queries] = value
