"""Inputs of attention_block_tkg: those of its stages by their own builders, renamed, and what stands between them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance import lanes
from conformance.cases import _attention_block_exact as exact
from conformance.cases import _attention_tkg_inputs as attention
from conformance.cases import _qkv_inputs as qkv
from conformance.cases.output_projection_tkg import build as build_projection
from conformance.lanes import LaneError
from conformance.randomness import Stream
from reference.contracts.attention_block_tkg import SKIP, Config, cache_shape, tensors
from reference.numerics.cast import cast

Arrays = dict[str, NDArray[Any]]

LANES = (
    "normal", "exact", "exact_rounding", "one_sided", "one_hot", "heavy_tailed", "zero_token", "nan_token",
    "nan_channel", "poison", "pages", "fp8_edge",
)  # fmt: skip

#: Lane of the QKV stage, and of the caches and the mask, where they are not 'normal'.
_QKV_LANES = {
    "exact": "exact", "exact_rounding": "exact_rounding", "one_sided": "one_sided", "heavy_tailed": "heavy_tailed",
    "zero_token": "zero_token", "nan_token": "poison", "fp8_edge": "fp8_edge",
}  # fmt: skip
_ATTENTION_LANES = {
    "one_sided": "one_sided", "one_hot": "one_hot", "heavy_tailed": "heavy_tailed", "poison": "poison",
    "pages": "pages",
}  # fmt: skip
_QKV_NAMES = {
    "input": "X", "fused_qkv_weights": "W_qkv", "bias": "bias_qkv", "gamma_norm_weights": "rmsnorm_X_gamma",
    "qkv_w_scale": "weight_dequant_scale_qkv", "qkv_in_scale": "input_dequant_scale_qkv",
}  # fmt: skip
#: What new keys and values are multiplied by in lane exact_rounding: exact in every float, and no power of two.
_EXACT_SCALE = 1.375 / 64
_OUT_NAMES = {
    "weight": "W_out", "bias": "bias_out", "weight_scale": "weight_dequant_scale_out",
    "input_scale": "input_dequant_scale_out",
}  # fmt: skip


def fits(config: Config, lane: str) -> bool:
    """Whether a lane can be built for a config."""
    c = config
    norms = c.rmsnorm_QK_pre_rope_enabled or c.rmsnorm_QK_post_rope_enabled
    between = c.rope or norms
    if lane in lanes.EXACT_LANES and not c.skip_attention:
        return exact.fits(config, lane)
    if lane in lanes.EXACT_LANES:
        # One exact sum: the projection, whose result nothing else adds up.
        return c.W_out is None and not norms and (qkv.fits(c.qkv, lane) if lane != "exact" else _bare(config))
    if lane == "nan_channel":
        return c.bias_qkv is not None and c.skip_attention and c.W_out is None
    if lane == "fp8_edge":
        # What the input holds reaches the cast of new keys and values as it is.
        straight = not between and not c.rmsnorm_X_enabled and c.bias_qkv is None
        return c.quantized_kv and straight and c.quantization_type_qkv == "NONE"
    if lane == "zero_token":
        return 0.0 not in _eps_in_use(c)
    return lane != "pages" or c.block_kv


def _eps_in_use(config: Config) -> list[float | None]:
    """Without one a norm of zeros asks for the root of 0, for which the table of the hardware promises nothing."""
    norms = (
        (config.rmsnorm_X_enabled, config.rmsnorm_X_eps),
        (config.rmsnorm_QK_pre_rope_enabled, config.rmsnorm_QK_pre_rope_eps),
        (config.rmsnorm_QK_post_rope_enabled, config.rmsnorm_QK_post_rope_eps),
    )
    return [eps for enabled, eps in norms if enabled]


def _bare(config: Config) -> bool:
    """Whether nothing follows the projection and nothing precedes it."""
    return not config.rope and not config.rmsnorm_X_enabled


def build(config: Config, lane: str, seed: int) -> Arrays:
    """Inputs by argument name, in storage dtypes. The rows of a scale are alike."""
    if not fits(config, lane):
        raise LaneError(f"lane {lane} does not fit {config}")
    stream = Stream(seed, "attention_block_tkg", lane)
    if lane in lanes.EXACT_LANES and not config.skip_attention:
        found = exact.build(config, lane, seed)
        if config.update_cache:
            found["kv_cache_update_idx"] = _index(config, stream.child("index"))
        return {name: found[name] for name in tensors(config)}
    found = _projected(config, lane, seed) | _caches(config, lane, seed) | _between(config, lane, stream)
    if config.update_cache:
        found["kv_cache_update_idx"] = _index(config, stream.child("index"))
    if config.W_out is not None:
        given = build_projection(config.projection, "normal", seed)
        found |= {ours: given[theirs] for theirs, ours in _OUT_NAMES.items() if theirs in given}
    if lane == "nan_channel":
        _put_nan(config, found["bias_qkv"])
    if config.X_in_sb:
        found["X"] = _on_chip(config, found["X"])
    return {name: found[name] for name in tensors(config)}


def _projected(config: Config, lane: str, seed: int) -> Arrays:
    stage = _QKV_LANES.get(lane, "normal")
    given = qkv.build(config.qkv, stage, seed)
    if stage == "exact" and lane == "exact":
        qkv.require_exact(config.qkv, given)
    if "qkv_w_scale" in given:
        # Heads of order one, as without quantisation: a softmax over larger scores only picks their maximum.
        given["qkv_w_scale"] *= np.float32(2.0 ** -(config.H.bit_length() // 2))
    return {ours: given[theirs] for theirs, ours in _QKV_NAMES.items() if theirs in given}


def _caches(config: Config, lane: str, seed: int) -> Arrays:
    """Caches, mask, sink and block table, as attention alone would have them."""
    given = attention.build(config.attention, _ATTENTION_LANES.get(lane, "normal"), seed)
    found = {
        "K_cache": given["k_prior"].reshape(cache_shape(config, config.K_cache_transposed)),
        "V_cache": given["v_prior"].reshape(cache_shape(config, False)),
        "attention_mask": given["mask"],
    }
    return found | {name: given[name] for name in ("sink", "active_blocks_table") if name in given}


def _between(config: Config, lane: str, stream: Stream) -> Arrays:
    """Tables of RoPE (no unit circle: cosines and sines are independent), weights of the head norms, KV scales."""
    c = config
    found: Arrays = {}
    for name, dtype in (("cos", c.cos), ("sin", c.sin)):
        if dtype is not None:
            found[name] = cast(_wave(stream.child(name), lane, (c.d // 2, c.B, c.S)), dtype)
    for suffix, dtype in (("W_Q", c.W_Q), ("W_K", c.W_K)):
        if dtype is not None:
            found[f"rmsnorm_QK_post_rope_{suffix}"] = lanes.fill("normal", stream.child(suffix), (1, c.d), dtype)
    for name, dtype, rows in (("k_scale", c.k_scale, c.k_scale_rows), ("v_scale", c.v_scale, c.v_scale_rows)):
        if dtype is not None:
            scale = 1.0 if lane == "fp8_edge" else float(stream.child(name).uniform(0.5, 4.0))
            scale = _EXACT_SCALE if lane == "exact_rounding" else scale
            found[name] = cast(np.full((rows, 1), scale, np.float32), dtype)
    return found


def _wave(stream: Stream, lane: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Cosines or sines: anything, or of so many bits that products with them must be rounded, and are exact before."""
    if lane == "exact_rounding":
        return stream.integers(-127, 128, shape).astype(np.float32) / np.float32(128)
    return stream.uniform(-1.0, 1.0, shape)


def _index(config: Config, stream: Stream) -> NDArray[np.uint32]:
    """Slots anywhere a call may write, slots that the mask keeps included; about a quarter writes nothing."""
    return _token_slots(config, stream) if config.idx_per_token else _first_slots(config, stream)


def _token_slots(config: Config, stream: Stream) -> NDArray[np.uint32]:
    """[B, S]: per batch a run in its order, one out of order, or slots anywhere; single tokens write nothing."""
    c = config
    kinds = stream.child("kind").integers(0, 3, c.B)
    found = np.full((c.B, c.S), SKIP, np.int64)
    for b, rows in enumerate(_own_rows(config, stream.child("rows"))):
        own = stream.child(f"batch {b}")
        places = _run(config, own, len(rows)) if kinds[b] < 2 else own.child("anywhere").permutation(len(rows))[: c.S]
        if kinds[b] == 1:
            places = places[own.child("order").permutation(len(places))]
        found[b, : len(places)] = rows[places]
    skipped = stream.child("skip").integers(0, 4, (c.B, c.S)) == 0
    # A call that writes nothing shows nothing.
    skipped[0, 0] = False
    return np.where(skipped, SKIP, found).astype(np.uint32)


def _own_rows(config: Config, stream: Stream) -> list[NDArray[np.int64]]:
    """Slots that each batch may take: those of its flat cache, or the rows of blocks drawn for it, block by block."""
    c = config
    if not c.block_kv:
        return [np.arange(c.S_max)] * c.B
    inside = np.arange(c.block_len)
    shares = np.array_split(stream.permutation(c.blocks), c.B)
    return [np.add.outer(blocks * c.block_len, inside).reshape(-1) for blocks in shares]


def _run(config: Config, stream: Stream, count: int) -> NDArray[np.int64]:
    """S consecutive places of `count`, over the edge of a block where there is one; all where there are too few."""
    c = config
    last = max(0, count - c.S)
    first = int(stream.child("first").integers(0, last + 1))
    # What ends at the last row crosses nothing.
    edge = min((first // c.block_len + 1) * c.block_len, count - c.block_len) if c.block_kv else 0
    if edge > 0:
        first = min(max(0, edge - int(stream.child("before").integers(1, c.S))), last)
    return np.arange(first, min(first + c.S, count))


def _first_slots(config: Config, stream: Stream) -> NDArray[np.uint32]:
    """[B, 1]."""
    c = config
    if c.block_kv:
        inside = stream.child("row").integers(0, max(1, c.block_len - c.S + 1), c.B)
        first = stream.child("block").permutation(c.blocks)[: c.B] * c.block_len + inside
    else:
        first = stream.child("slot").integers(0, c.S_max - c.S + 1, c.B)
    skipped = stream.child("skip").integers(0, 4, c.B) == 0
    skipped[0] = c.block_kv and c.block_len < c.S
    if skipped[0]:
        skipped[:] = True
    return np.where(skipped, SKIP, first).astype(np.uint32).reshape(c.B, 1)


def _put_nan(config: Config, bias: NDArray[Any]) -> None:
    """One channel of the last query head and one of the key head."""
    last = (config.q - 1) * config.d
    for column in (last + 5 % config.d, config.q * config.d + config.d // 2):
        bias[0, column] = np.nan


def _on_chip(config: Config, hidden: NDArray[Any]) -> NDArray[Any]:
    """[B, S, H] as [128, T, H/128]: the halves of H of the cores side by side."""
    c = config
    width = c.H // 128 // c.lnc
    shards = hidden.reshape(c.tokens, c.lnc, 128, width)
    return np.ascontiguousarray(shards.transpose(2, 0, 1, 3)).reshape(128, c.tokens, c.lnc * width)
