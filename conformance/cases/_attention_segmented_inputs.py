"""Inputs of attention_segmented_cte: queries, keys and values of a lane in logical order, and their pages.

Logical order is [row, query, d] for queries and [sequence, token, KV head, d] for keys and values, token P + i
being that of query i. How many tokens are cached is no part of a config: seed 0 fills the table, other seeds draw
a prior, pages of padding behind the tokens, and an offset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance import lanes, pages, score_lanes
from conformance.lanes import LaneError
from conformance.randomness import Stream
from reference.contracts.attention_segmented_cte import SCALE_ROWS, Config, tensors
from reference.numerics.cast import cast

Array = NDArray[Any]

#: Elements of one tensor that are drawn; configs at the contract's limits would fill a laptop's memory.
_MOST_ELEMENTS = 2**26
#: A sink so low that its term vanishes beside any score of these lanes.
_NO_SINK = -30000.0
#: Score that the shift lane puts on all keys.
_SHIFT = 384.0
#: Tiles of the rising lane at most, and the scores from one to the next.
_STEPS, _STEP = 8, 32.0
#: Deviation of normal scores: weights of a row differ by orders of magnitude, none rules alone.
_DEVIATION = 1.5
#: Keys at the edges of an 8-bit float are about as much larger than normal ones, and queries as much smaller.
_EDGE = 2.0**7
#: Lanes whose scores obey a relation, which a scale would bend.
RELATED = (*lanes.EXACT_LANES, "one_hot", "rising", "shift")
#: Largest values of lane exact_rounding: whole numbers that both 8-bit formats, and that bfloat16, hold one and all.
_LARGEST_8_BITS, _LARGEST = 7, 127


@dataclass(frozen=True)
class Lengths:
    """What the device is told, and how many pages at the end of each sequence's chunk are -1."""

    prior: int
    offset: int
    skipped: tuple[int, ...]


def build(config: Config, lane: str, seed: int) -> dict[str, Array]:
    """Inputs by argument name, in storage dtypes. LaneError where the config leaves no room for the lane."""
    largest = max(math.prod(tensor.shape) for tensor in tensors(config).values())
    if largest > _MOST_ELEMENTS:
        raise LaneError(f"lane {lane}: a tensor of {largest} elements; builders stop at {_MOST_ELEMENTS}")
    stream = Stream(seed, "attention_segmented_cte", lane)
    lengths = _lengths(config, lane, seed, stream.child("lengths"))
    scales = _scales(config, lane, stream.child("scales"))
    q, k, v = _logical(config, lane, stream, lengths, scales)
    found = _paged(config, lane, stream, lengths, k, v) | scales
    found["q"] = np.ascontiguousarray(q if config.tp_q else q.transpose(0, 2, 1))
    found["prior_tokens"] = np.full((1, 1), lengths.prior, np.int32)
    if config.kvp:
        found["kvp_offset"] = np.full((1, 1), lengths.offset, np.int32)
    if config.sink is not None:
        found["sink"] = _sink(config, lane, stream.child("sink"), lengths)
    return {name: found[name] for name in tensors(config)}


def fits(config: Config, lane: str) -> bool:
    """Whether it can be built: edges need 8-bit caches, relations plain scores, ties a key that all queries see."""
    if lane == "fp8_edge":
        return config.kv_dtype != "bfloat16"
    if lane not in RELATED:
        return True
    alone = lane in (*lanes.EXACT_LANES, "one_hot") and 0 < config.sliding_window < config.seqlen_q
    return config.scale == 1.0 and config.d_head >= 2 and not alone


# ---- lengths -----------------------------------------------------------------------------------------------------


def _lengths(config: Config, lane: str, seed: int, stream: Stream) -> Lengths:
    c = config
    room = min(c.max_blocks, c.num_blocks // c.batch) * c.block_size - c.seqlen_q
    if room < 0:
        raise LaneError(f"lane {lane}: {c.num_blocks} blocks cannot hold {c.batch} sequences")
    if seed == 0:
        return Lengths(room, room, (0,) * c.batch)
    prior = _prior(config, room, stream)
    related = lane in RELATED
    own = c.seqlen_q // c.block_size
    skipped = tuple(
        0 if related or stream.child(f"pad {b}").integers(0, 2) else int(stream.child(f"pages {b}").integers(0, own))
        for b in range(c.batch)
    )
    return Lengths(prior, prior if related else _offset(config, prior, stream.child("offset")), skipped)


def _prior(config: Config, room: int, stream: Stream) -> int:
    """None, whole segments, all there is room for, or anything."""
    c = config
    kind = int(stream.integers(0, 6))
    if kind < 2:
        return (0, room)[kind]
    unit = c.prior_seg_size if kind < 4 else c.block_size
    return unit * int(stream.child("units").integers(0, room // unit + 1))


def _offset(config: Config, prior: int, stream: Stream) -> int:
    """Causal, all visible, or so low that first queries see nothing."""
    kind = int(stream.integers(0, 4))
    total = prior + config.seqlen_q
    if kind == 3:
        return int(stream.child("low").integers(-config.seqlen_q - 1, total))
    return (prior, prior, total)[kind]


# ---- queries, keys, values ---------------------------------------------------------------------------------------


def _logical(
    config: Config, lane: str, stream: Stream, lengths: Lengths, scales: dict[str, Array]
) -> tuple[Array, Array, Array]:
    c = config
    shape = (c.batch, lengths.prior + c.seqlen_q, c.num_kv_heads, c.d_head)
    kind = lane if lane in ("heavy_tailed", "fp8_edge") else "normal"
    v = lanes.fill("one_sided" if lane == "one_sided" else kind, stream.child("v"), shape, c.kv_dtype)
    if lane not in RELATED:
        factor = _DEVIATION / math.sqrt(c.d_head)
        if c.scale and math.isfinite(c.scale):
            factor /= abs(c.scale)
        if lane == "fp8_edge":
            factor /= _EDGE
        q = lanes.fill("normal", stream.child("q"), (c.rows, c.seqlen_q, c.d_head), c.dtype, factor)
        return q, lanes.fill(kind, stream.child("k"), shape, c.kv_dtype), v
    q = np.zeros((c.rows, c.seqlen_q, c.d_head), np.float32)
    k = np.zeros(shape, np.float32)
    exact = np.zeros(shape, np.float32)
    for b in range(c.batch):
        for head in range(c.num_kv_heads):
            rows = [r for r in range(c.rows) if c.sequence(r) == b and c.kv_head(r) == head]
            one = stream.child(f"head {b} {head}")
            pair = _related(config, lane, one, lengths, max(1, len(rows)) * c.seqlen_q)
            q[rows] = pair[0].reshape(-1, c.seqlen_q, c.d_head)[: len(rows)]
            k[b, :, head], exact[b, :, head] = pair[1], pair[2]
    if c.k_scale:
        q = q / scales["k_scale"][: c.d_head, 0]
    return cast(q, c.dtype), cast(k, c.kv_dtype), cast(exact, c.kv_dtype) if lane in lanes.EXACT_LANES else v


def _related(config: Config, lane: str, stream: Stream, lengths: Lengths, queries: int) -> tuple[Array, Array, Array]:
    """Queries, keys and exact values of one KV head."""
    d, total = config.d_head, lengths.prior + config.seqlen_q
    values = np.zeros((total, d), np.float32)
    if lane == "shift":
        return (*score_lanes.shifted(stream, queries, total, d, _SHIFT), values)
    if lane == "rising":
        return (*score_lanes.rising(stream, queries, total, d, -(-total // _steps(total))), values)
    sinks = int(config.sink is not None) if lane == "exact_rounding" else 0
    selected = _selected(config, lane, stream.child("selected"), lengths, sinks)
    q, k = score_lanes.tied(stream, queries, d, selected, level=sinks > 0)
    if lane == "exact_rounding":
        most = _LARGEST if config.kv_dtype == "bfloat16" else _LARGEST_8_BITS
        values = score_lanes.rounded_values(stream.child("values"), total, d, selected, most, sinks)
    if lane == "exact":
        values = score_lanes.exact_values(stream.child("values"), total, d, selected)
    return q, k, values


def _steps(total: int) -> int:
    return min(_STEPS, total // 64)


def _selected(config: Config, lane: str, stream: Stream, lengths: Lengths, sinks: int) -> NDArray[np.bool_]:
    """The tokens that tie, among those that every query sees: a power of two, all there can be, or one."""
    total = lengths.prior + config.seqlen_q
    first = max(0, total - config.sliding_window) if config.sliding_window else 0
    common = np.arange(first, lengths.prior + 1)
    most = common.size.bit_length() - 1
    count = 1 if lane == "one_hot" else 2 ** int(stream.integers(0, most + 1))
    if lane == "exact_rounding":
        count = score_lanes.tying(common.size, sinks)
    selected = np.zeros(total, np.bool_)
    selected[common[stream.permutation(common.size)[:count]]] = True
    return selected


def _sink(config: Config, lane: str, stream: Stream, lengths: Lengths) -> Array:
    """Near the log-sum-exp of a row, another for every row: lost, doubled or taken from a neighbour, it shows."""
    assert config.sink is not None
    total = lengths.prior + config.seqlen_q
    seen = min(total, config.sliding_window or total)
    if lane in (*lanes.EXACT_LANES, "one_hot"):
        values = np.full((config.rows, 1), 0.0 if lane == "exact_rounding" else _NO_SINK, np.float32)
    else:
        level = {"shift": _SHIFT, "rising": _STEP * (_steps(total) - 1)}.get(lane, _DEVIATION**2 / 2)
        values = stream.normal((config.rows, 1)) + np.float32(level + math.log(seen))
    return cast(values, config.sink)


def _scales(config: Config, lane: str, stream: Stream) -> dict[str, Array]:
    """Another scale for every place of the head; NaN behind it, powers of two where bits must tie."""
    found = {}
    for name in ("k_scale", "v_scale"):
        if not getattr(config, name):
            continue
        one = stream.child(name)
        shape = (SCALE_ROWS, 1)
        values = one.choice((0.5, 1.0, 2.0), shape) if lane in RELATED else one.uniform(0.5, 1.5, shape)
        found[name] = lanes.poison(values, (np.arange(SCALE_ROWS) < config.d_head)[:, None])
    return found


# ---- pages -------------------------------------------------------------------------------------------------------


def _paged(config: Config, lane: str, stream: Stream, lengths: Lengths, k: Array, v: Array) -> dict[str, Array]:
    """Caches and table: blocks in random order, NaN in those nobody may read where the lane is about them."""
    c = config
    caches, table = [], np.zeros((c.batch, 0), np.int32)
    for rows in (k, v):
        cache, table = pages.scatter(stream.child("pages"), rows, c.block_size, c.num_blocks)
        caches.append(cache)
    whole = _table(config, stream.child("table"), lengths, table)
    named = _named(config, lengths, whole)
    if lane in ("pages", "poison"):
        caches = [lanes.poison(cache, named[:, None, :, None]) for cache in caches]
    else:
        for index, cache in enumerate(caches):
            unused = np.setdiff1d(np.arange(c.num_blocks), table)
            filler = stream.child(f"unused {index}")
            cache[unused] = lanes.fill("normal", filler, (unused.size, *cache.shape[1:]), c.kv_dtype)
    keys, values = (np.ascontiguousarray(cache.transpose(0, 2, 1, 3)) for cache in caches)
    if c.k_pre_transposed:
        keys = np.ascontiguousarray(keys.transpose(0, 1, 3, 2).reshape(-1, c.d_head, c.block_size))
    return {"k_cache": keys, "v_cache": values, "block_tables": whole}


def _table(config: Config, stream: Stream, lengths: Lengths, table: NDArray[np.int32]) -> NDArray[np.int32]:
    """All entries of the table: in use, skipped, and anything at all where no kernel may follow."""
    c = config
    first, own, end = _in_use(config, lengths)
    junk = np.array([-1, 0, c.num_blocks, c.num_blocks + 7, -5, 2**31 - 1, -(2**31), c.num_blocks - 1])
    whole = junk[stream.integers(0, junk.size, (c.batch, c.max_blocks))].astype(np.int32)
    whole[:, first:end] = table[:, first:end]
    for b, count in enumerate(lengths.skipped):
        whole[b, max(own, end - count) : end] = -1
    return whole


def _in_use(config: Config, lengths: Lengths) -> tuple[int, int, int]:
    """First entry that is followed, first of the new tokens, end."""
    own = lengths.prior // config.block_size
    first = max(0, own - config.sliding_window // config.block_size) if config.sliding_window else 0
    return first, own, own + config.seqlen_q // config.block_size


def _named(config: Config, lengths: Lengths, table: NDArray[np.int32]) -> NDArray[np.bool_]:
    """[blocks, KV heads]: what some row of q may read."""
    first, _, end = _in_use(config, lengths)
    entries = table[:, first:end]
    blocks = np.zeros(config.num_blocks, np.bool_)
    blocks[entries[entries >= 0]] = True
    heads = np.zeros(config.num_kv_heads, np.bool_)
    heads[[config.kv_head(row) for row in range(config.rows)]] = True
    return np.asarray(blocks[:, None] & heads)
