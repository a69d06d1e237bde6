"""What is done to the arguments of qkv so that a rule about calls refuses them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from conformance.randomness import Stream
from conformance.spoilings import Arrays, Changes, Spoiling, any_place, other_dtype, other_shape, pick, with_value
from reference.contracts.qkv_config import FLOATS, Config
from reference.numerics.cast import cast
from reference.numerics.formats import format_of

_RESIDUALS = ("mlp_prev", "attention_prev")
_TABLES = ("cos_cache", "sin_cache")
_CACHES = ("k_cache", "v_cache")
_KV_SCALES = ("k_scale", "v_scale")


def _shape_of(rule: str, name: str, fits: Callable[[Config], bool]) -> Spoiling:
    return Spoiling(rule, lambda config, inputs, stream: {name: other_shape(stream, inputs[name])}, fits)


def _bad(inputs: Arrays, name: str, stream: Stream) -> Changes:
    """One that is not there, or of another shape or dtype."""
    return {name: pick(stream, (None, other_shape(stream.child("how"), inputs[name]), other_dtype(inputs[name])))}


def _rank(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    x = inputs["input"]
    return {"input": pick(stream, (x[0], x[None], x.reshape(-1)))}


def _weight_rows(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    w = inputs["fused_qkv_weights"]
    return {"fused_qkv_weights": pick(stream, (w[:-1], w[1:], w[None], w[..., None]))}


def _weight_scale(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    if config.quantization == "NONE":
        return {"qkv_w_scale": np.ones((128, 3), np.float32)}
    scale = inputs["qkv_w_scale"]
    bad = (None, scale[:, :-1], scale[None], np.repeat(scale, 3, axis=0), other_dtype(scale))
    return {"qkv_w_scale": pick(stream, bad)}


def _in_scale(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    if config.quantization != "STATIC":
        return {"qkv_in_scale": np.ones((config.scale_rows, 1), np.float32)}
    scale = inputs["qkv_in_scale"]
    return {"qkv_in_scale": pick(stream, (None, scale[:, :-1], np.repeat(scale, 2, axis=0), other_dtype(scale)))}


def _residual(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    name = pick(stream, _RESIDUALS)
    return _bad(inputs, name, stream.child("bad")) if config.fused_residual_add else {name: inputs["input"]}


def _tables(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    return _bad(inputs, pick(stream, _TABLES), stream.child("bad"))


def _not_together(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    return {pick(stream, (*_CACHES, *_KV_SCALES)): None}


def _kv_scale(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    name = pick(stream, _KV_SCALES)
    scale = inputs[name]
    return {name: pick(stream.child("bad"), (scale[:1], scale[0], scale[:-1], cast(scale, "float16")))}


def _block_arguments(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    """Of what blocks need, something is missing; or it is given without blocks."""
    if config.kv_cache == "BLOCK":
        return {"slot_mapping": None}
    slots = np.arange(config.B * config.S, dtype=np.int32).reshape(config.B, config.S)
    return pick(stream, ({"slot_mapping": slots}, {"block_size": 16}, {"use_block_kv": True}))


def _cache_shape(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    """One cache alone, or both alike, in a way that no size explains."""
    name = pick(stream, _CACHES)
    cache = inputs[name]
    alone: Changes = {name: pick(stream.child("alone"), (cache[:, :-1], cache[:-1], cache[..., :-1]))}
    alike: Changes = {one: inputs[one][..., :-1] for one in _CACHES}
    flat: Changes = {one: inputs[one].reshape(-1, inputs[one].shape[-1]) for one in _CACHES}
    return pick(stream.child("kind"), (alone, alike, flat))


def _cache_dtype(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    other = "float8_e5m2" if config.kv_dtype == "float8_e4m3" else "float8_e4m3"
    return {name: inputs[name].view(format_of(other).storage) for name in _CACHES}


def _slot_form(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    slots = inputs["slot_mapping"]
    bad = (slots.astype(np.int64), slots.astype(np.uint32), slots.reshape(-1), slots[:, :-1])
    return {"slot_mapping": pick(stream, bad)}


def _slot_value(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    """Outside the cache, or the row of another token."""
    slots, rows = inputs["slot_mapping"], int(np.prod(inputs["k_cache"].shape[:2]))
    place = any_place(stream.child("place"), slots)
    used = [int(slot) for other, slot in np.ndenumerate(slots) if other != place and slot != -1]
    bad = pick(stream, (rows, rows + 1, 2**31 - 1, -2, -(2**31), *used[:3]))
    return {"slot_mapping": with_value(slots, place, bad)}


def _another_call(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    """Tensors that are legal among themselves, and tell of a gamma of another dtype."""
    other = pick(stream, [name for name in FLOATS if name != config.gamma])
    return {"gamma_norm_weights": cast(inputs["gamma_norm_weights"], other)}


def _has_cache(config: Config) -> bool:
    return config.kv_cache != "NONE"


def _has_blocks(config: Config) -> bool:
    return config.kv_cache == "BLOCK"


SPOILINGS = (
    Spoiling("input_rank", _rank),
    Spoiling(
        "call_quantization_kind",
        lambda config, inputs, stream: {"quantization_type": pick(stream, ("INT8", "none", 8))},
    ),
    Spoiling("weight_rows", _weight_rows),
    _shape_of("bias_shape", "bias", lambda config: config.bias is not None),
    Spoiling("qkv_w_scale", _weight_scale),
    Spoiling("qkv_in_scale", _in_scale),
    Spoiling("residual_tensors", _residual),
    _shape_of("gamma_shape", "gamma_norm_weights", lambda config: config.gamma is not None),
    _shape_of("beta_shape", "layer_norm_bias", lambda config: config.beta is not None),
    Spoiling("rope_shape", _tables, lambda config: config.fused_rope),
    Spoiling("kv_together", _not_together, _has_cache),
    Spoiling("kv_scale_shape", _kv_scale, _has_cache),
    Spoiling("use_block_kv_bool", lambda config, inputs, stream: {"use_block_kv": int(_has_blocks(config))}),
    Spoiling("block_arguments", _block_arguments),
    Spoiling("kv_cache_shape", _cache_shape, _has_cache),
    Spoiling("kv_dtype_of_cache", _cache_dtype, _has_cache),
    Spoiling("slot_mapping", _slot_form, _has_blocks),
    Spoiling("slot_values", _slot_value, _has_blocks),
    Spoiling("tensor_shapes", _another_call, lambda config: config.gamma is not None),
)
