"""Inputs of attention_tkg: queries, keys and values of a lane in logical order, and their places in caches and masks.

Logical order is [batch, token, d] for keys and values, token S-s+j being active token j, and [batch, head, query,
token] for what is kept. Everything else (transposed caches, blocks, rows of masks) is arrangement of these.
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
from reference.contracts.attention_tkg import FP8, Config, tensors
from reference.numerics.cast import cast
from reference.numerics.formats import format_of

Array = NDArray[Any]
Bools = NDArray[np.bool_]

#: Elements of one tensor that are drawn; configs at the contract's limits would fill a laptop's memory.
_MOST_ELEMENTS = 2**26
#: A sink so low that its term vanishes beside any score of these lanes.
_NO_SINK = -30000.0
#: Largest values of lane exact_rounding: whole numbers that float8_e4m3, and that bfloat16, hold one and all.
_LARGEST_8_BITS, _LARGEST = 15, 127
#: Score that the shift lane puts on all keys.
_SHIFT = 384.0
#: Tiles of the rising lane at most, and the scores from one to the next.
_STEPS, _STEP = 8, 32.0


@dataclass(frozen=True)
class Logical:
    """One call in logical order. `prior` counts all S tokens, the last s of which no kernel may use."""

    q: Array  # [B, H, s, d], dtype of q
    k_prior: Array  # [B, S, d], dtype of the caches
    v_prior: Array
    k_active: Array  # [B, s, d], dtype of active keys and values
    v_active: Array
    keep: Bools  # [B, H, s, S]
    positions: Array  # [B, s], float32


def build(config: Config, lane: str, seed: int) -> dict[str, Array]:
    """Inputs by argument name, in storage dtypes. LaneError where the config leaves no room for the lane."""
    largest = max(math.prod(tensor.shape) for tensor in tensors(config).values())
    if largest > _MOST_ELEMENTS:
        raise LaneError(f"lane {lane}: a tensor of {largest} elements; builders stop at {_MOST_ELEMENTS}")
    stream = Stream(seed, "attention_tkg", lane)
    call = _logical(config, lane, stream)
    found = _arranged_caches(config, lane, stream, call) | {
        "q": _columns(call.q) if config.qk_in_sb else np.ascontiguousarray(call.q.transpose(0, 3, 1, 2)),
        "k_active": _keys(config, call.k_active),
        "v_active": np.ascontiguousarray(call.v_active[:, None]),
        "mask": _mask(config, stream.child("mask"), call.keep),
    }
    if config.sink is not None:
        found["sink"] = _sink(config, lane, stream.child("sink"))
    if config.fuse_rope or config.use_pos_id:
        found["rope_pos_ids"] = call.positions
    if config.fuse_rope:
        found["inv_freqs"] = stream.child("inv_freqs").uniform(0.0, 1.0, (config.d_head // 2, 1))
    return {name: found[name] for name in tensors(config)}


def fits(config: Config, lane: str) -> bool:
    """Whether the lane can be built: scores of known relation need queries that nobody rotates."""
    if lane in (*lanes.EXACT_LANES, "shift", "rising"):
        room = config.d_head >= 2 and (lane != "rising" or config.curr_sprior >= 256)
        return not config.fuse_rope and room
    if lane == "one_hot":
        return config.d_head >= 2
    if lane == "pages":
        return config.block_kv
    if lane == "fp8_edge":
        return config.kv_dtype == FP8
    return True


# ---- what is kept ------------------------------------------------------------------------------------------------


def _kept(config: Config, lane: str, stream: Stream) -> tuple[Bools, Array]:
    """keep [B, H, s, S], and the position of each batch's first query: the length of its context."""
    c = config
    room = c.curr_sprior - c.s_active
    lengths = np.full(c.bs, room, np.int64)
    if lane == "one_hot" and c.use_pos_id and c.fuse_rope:
        lengths[:] = 0
    elif lane not in ("shift", "rising"):
        # A third full, a third anything (none at all included), a third beyond the room that prior tokens have.
        # Poison needs something to be dropped: there every context ends somewhere inside.
        lengths = stream.child("lengths").integers(0, max(1, room) if lane == "poison" else room + 1, c.bs)
        kind = np.full(c.bs, 2) if lane == "poison" else stream.child("kind").integers(0, 3, c.bs)
        lengths = np.where(kind == 0, room, lengths)
        lengths = np.where((kind == 1) & c.use_pos_id, room + c.s_active, lengths)
    prior = np.arange(room) < lengths[:, None, None, None]
    keep = np.zeros((c.bs, c.q_head, c.s_active, c.curr_sprior), np.bool_)
    keep[..., :room] = prior
    keep[..., room:] = _tree(config, stream.child("tree"))
    if lane in ("shift", "rising"):
        keep[:] = True
    elif not c.use_pos_id and lane != "one_hot" and room:
        holes = stream.child("holes").words(prior.shape[0] * c.columns_per_batch * room) % np.uint64(8) == 0
        # Whole contexts in even batches, contexts with holes that differ by column in odd ones.
        odd = (np.arange(c.bs) % 2 == 1)[:, None, None, None]
        keep[..., :room] &= ~(holes.reshape(keep[..., :room].shape) & odd)
    if lane == "one_hot" and not (c.use_pos_id and not c.fuse_rope):
        keep = _single(config, stream.child("single"), c.use_pos_id)
    if lane == "poison" and not c.use_pos_id:
        # One column keeps nothing: NaN there, 0 with a sink, and nothing anywhere else.
        keep[-1, -1, -1] = False
    return keep, lengths.astype(np.float32)


def _tree(config: Config, stream: Stream) -> Bools:
    """[B, H, s query, s key]: each query sees itself, the first active token, and some of those between."""
    c = config
    shape = (c.bs, c.q_head, c.s_active, c.s_active)
    query, key = np.arange(c.s_active)[:, None], np.arange(c.s_active)
    sees = stream.integers(0, 2, shape) == 1
    return (query == key) | (key == 0) | (sees & (key < query))


def _single(config: Config, stream: Stream, active_only: bool) -> Bools:
    """One token per column, anywhere or among the active ones."""
    c = config
    first = c.curr_sprior - c.s_active if active_only else 0
    place = stream.integers(first, c.curr_sprior, (c.bs, c.q_head, c.s_active, 1))
    return np.asarray(np.arange(c.curr_sprior) == place)


# ---- queries, keys, values ---------------------------------------------------------------------------------------


def _logical(config: Config, lane: str, stream: Stream) -> Logical:
    c = config
    keep, lengths = _kept(config, lane, stream)
    positions = lengths[:, None] + np.arange(c.s_active, dtype=np.float32)
    tied = lane in lanes.EXACT_LANES or (lane == "one_hot" and c.use_pos_id and not c.fuse_rope)
    related = tied or lane in ("shift", "rising")
    q, k, v = _related(config, lane, stream, keep) if related else (None, None, None)
    split = c.curr_sprior - c.s_active
    kind = lane if lane in ("heavy_tailed", "fp8_edge") else "normal"
    kinds = {"k": kind, "v": "one_sided" if lane == "one_sided" else kind}
    prior, active = (c.bs, c.curr_sprior, c.d_head), (c.bs, c.s_active, c.d_head)

    def values(name: str, given: Array | None) -> tuple[Array, Array]:
        """Prior tokens in the dtype of the caches, active ones in their own."""
        if given is not None:
            return cast(given, c.kv_dtype), cast(given[:, split:], c.active_dtype)
        return (
            lanes.fill(kinds[name], stream.child(f"{name}_prior"), prior, c.kv_dtype),
            lanes.fill(kinds[name], stream.child(f"{name}_active"), active, c.active_dtype),
        )

    k_prior, k_active = values("k", k)
    v_prior, v_active = values("v", v)
    return Logical(_queries(config, stream, q), k_prior, v_prior, k_active, v_active, keep, positions)


def _queries(config: Config, stream: Stream, given: Array | None) -> Array:
    """Scaled by 1/sqrt(d) as callers do, unless the kernel scales."""
    c = config
    shape = (c.bs, c.q_head, c.s_active, c.d_head)
    if given is not None:
        return np.asarray(cast(given.reshape(shape), c.dtype))
    scale = 1.0 if c.fuse_rope else 1.0 / math.sqrt(c.d_head)
    return lanes.fill("normal", stream.child("q"), shape, c.dtype, scale)


def _related(config: Config, lane: str, stream: Stream, keep: Bools) -> tuple[Array, Array, Array | None]:
    """Queries [B, G, d] and keys [B, S, d] whose scores obey the lane; values where they must be exact, too."""
    c = config
    found = [_related_batch(config, lane, stream.child(f"batch {b}"), keep[b]) for b in range(c.bs)]
    q, k, v = zip(*found, strict=True)
    return np.stack(q), np.stack(k), None if v[0] is None else np.stack([one for one in v if one is not None])


def _related_batch(
    config: Config, lane: str, stream: Stream, keep: Bools
) -> tuple[Array, Array, Array | None]:
    c = config
    if lane == "shift":
        return (*score_lanes.shifted(stream, c.columns_per_batch, c.curr_sprior, c.d_head, _SHIFT), None)
    if lane == "rising":
        tile = -(-c.curr_sprior // _steps(config))
        return (*score_lanes.rising(stream, c.columns_per_batch, c.curr_sprior, c.d_head, tile), None)
    sinks = int(c.sink is not None) if lane == "exact_rounding" else 0
    selected = _selected(lane, stream.child("selected"), keep, sinks)
    q, k = score_lanes.tied(stream, c.columns_per_batch, c.d_head, selected, level=sinks > 0)
    if lane == "one_hot":
        return q, k, None
    if lane == "exact_rounding":
        most = _LARGEST_8_BITS if FP8 in (c.kv_dtype, c.active_dtype) else _LARGEST
        return q, k, score_lanes.rounded_values(stream.child("values"), c.curr_sprior, c.d_head, selected, most, sinks)
    return q, k, score_lanes.exact_values(stream.child("values"), c.curr_sprior, c.d_head, selected)


def _steps(config: Config) -> int:
    return min(_STEPS, config.curr_sprior // 128)


def _selected(lane: str, stream: Stream, keep: Bools, sinks: int) -> Bools:
    """The tokens that tie, among those that every column keeps: a power of two, all there can be, or one."""
    common = np.flatnonzero(keep.all(axis=(0, 1)))
    most = common.size.bit_length() - 1
    count = 1 if lane == "one_hot" else 2 ** int(stream.integers(0, most + 1))
    if lane == "exact_rounding":
        count = score_lanes.tying(common.size, sinks)
    selected = np.zeros(keep.shape[-1], np.bool_)
    selected[common[stream.permutation(common.size)[:count]]] = True
    return selected


def _sink(config: Config, lane: str, stream: Stream) -> Array:
    assert config.sink is not None
    if lane in ("exact", "one_hot", "exact_rounding"):
        values = np.full((config.q_head, 1), 0.0 if lane == "exact_rounding" else _NO_SINK, np.float32)
    else:
        level = {"shift": _SHIFT, "rising": _STEP * (_steps(config) - 1)}.get(lane, 0.0)
        values = stream.normal((config.q_head, 1)) + np.float32(level)
    return cast(values, config.sink)


# ---- arrangement -------------------------------------------------------------------------------------------------


def _columns(x: Array) -> Array:
    """[B, H, s, d] as [d, B*H*s]."""
    return np.ascontiguousarray(x.transpose(3, 0, 1, 2).reshape(x.shape[3], -1))


def _keys(config: Config, k_active: Array) -> Array:
    order = k_active.transpose(2, 0, 1).reshape(config.d_head, -1) if config.qk_in_sb else k_active.transpose(0, 2, 1)
    return np.ascontiguousarray(order)


def _arranged_caches(config: Config, lane: str, stream: Stream, call: Logical) -> dict[str, Array]:
    k, v = call.k_prior, call.v_prior
    if lane == "poison":
        # What no column of the batch keeps, and the slots that the active tokens replace.
        used = call.keep.any(axis=(1, 2))
        used[:, config.curr_sprior - config.s_active :] = False
        k, v = (lanes.poison(x, used[..., None]) for x in (k, v))
    if config.block_kv:
        return _blocks(config, lane, stream, k, v)
    k, v = (_flat(config, lane, stream.child(f"unused {name}"), x) for name, x in (("k", k), ("v", v)))
    return {"k_prior": k if config.tp_k_prior else np.ascontiguousarray(k.transpose(0, 1, 3, 2)), "v_prior": v}


def _flat(config: Config, lane: str, stream: Stream, rows: Array) -> Array:
    """[B, S, d] among the unused rows and slots of [B+, 1, Sf, d]."""
    c = config
    shape = (c.rows, 1, c.full_sprior, c.d_head)
    if rows.size == math.prod(shape):
        return rows.reshape(shape)
    cache = lanes.fill("normal", stream, shape, c.kv_dtype)
    if lane == "poison":
        cache = lanes.poison(cache, np.zeros((1, 1, 1, 1), np.bool_))
    cache[: c.bs, 0, : c.curr_sprior] = rows
    return cache


def _blocks(config: Config, lane: str, stream: Stream, k: Array, v: Array) -> dict[str, Array]:
    """Blocks in random order; those that no entry names are NaN where the lane is about them."""
    c = config
    k_cache, table = pages.scatter(stream.child("pages"), k, c.block_len, c.blocks)
    v_cache, _ = pages.scatter(stream.child("pages"), v, c.block_len, c.blocks)
    if lane not in ("poison", "pages"):
        unused = np.setdiff1d(np.arange(c.blocks), table)
        shape = (unused.size, c.block_len, c.d_head)
        for name, cache in (("k", k_cache), ("v", v_cache)):
            cache[unused] = lanes.fill("normal", stream.child(f"unused {name}"), shape, c.kv_dtype)
    return {"k_prior": k_cache, "v_prior": v_cache, "active_blocks_table": table.astype(np.uint32)}


def _mask(config: Config, stream: Stream, keep: Bools) -> Array:
    """The mask argument: rows are tokens, in the order of the layout; use_pos_id: the active tokens alone."""
    c = config
    rows = keep.transpose(3, 0, 1, 2)
    if c.use_pos_id:
        rows = rows[c.curr_sprior - c.s_active :]
    elif c.block_kv:
        rows = rows[block_row_tokens(config)]
    return _mask_values(c.mask_dtype, stream, rows)


def block_row_tokens(config: Config) -> Array:
    """Token of every mask row of a block KV cache: the 128 rows of each key tile stand together."""
    plan = config.plan
    keys, length = plan.keys_per_core, plan.block_len
    row = np.arange(config.curr_sprior)
    inside = row % keys
    fold, place = inside // (128 * length), inside % (128 * length)
    return row - inside + fold * 128 * length + place % 128 * length + place // 128


def _mask_values(dtype: str, stream: Stream, keep: Bools) -> Array:
    """Nonzero bytes of several values keep; wider dtypes round and saturate on their way to a byte."""
    kept, dropped = [1.0, 1.0, 2.0, 255.0], [0.0, 0.0]
    if dtype != "uint8":
        kept, dropped = [*kept, 256.0], [*dropped, -3.0]
    if format_of(dtype).kind == "float":
        kept, dropped = [*kept, 0.75], [*dropped, 0.5]
    values = np.where(keep, stream.choice(kept, keep.shape), stream.choice(dropped, keep.shape))
    return values.astype(format_of(dtype).storage) if format_of(dtype).kind == "int" else cast(values, dtype)
