"""`qkv` in float64: one function per step of the published mathematics, the same for both modes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.contracts.qkv_config import FP8_MAX, Config, mode
from reference.numerics.cast import to_float32
from reference.numerics.formats import format_of

Array = NDArray[Any]
Inputs = Mapping[str, Any]

#: Rows of weight and columns of I widened to float64 at a time.
_BLOCK = 512


def truth_of(config: Config, inputs: Inputs) -> dict[str, Array]:
    """Results by name for a legal call, float64."""
    with np.errstate(all="ignore"):
        hidden = hidden_states(config, inputs)
        flat = _quantized(config, inputs, normalised(config, inputs, hidden)).reshape(config.tokens, config.H)
        y = projected(config, inputs, flat)
        if config.fused_rope:
            y = rotated(config, inputs, y)
        results = _stored(config, inputs, y.reshape(config.B, config.S, config.I))
    if config.fused_residual_add and mode(config) == "TKG":
        results["fused_hidden"] = hidden
    return results


def _wide(tensor: Any) -> Array:
    return to_float32(tensor).astype(np.float64)


def hidden_states(config: Config, inputs: Inputs) -> Array:
    """input + attention_prev + mlp_prev, [B, S, H] in the order of the hidden columns."""
    hidden = _wide(inputs["input"])
    if config.fused_residual_add:
        hidden = hidden + _wide(inputs["attention_prev"]) + _wide(inputs["mlp_prev"])
    if not config.is_input_swizzled:
        return hidden
    # Stored [k, t, p] holds column 512 t + 4 p + k.
    swizzled: Array = hidden.reshape(*hidden.shape[:2], 4, config.H // 512, 128)
    return np.asarray(swizzled.transpose(0, 1, 3, 4, 2).reshape(hidden.shape))


def normalised(config: Config, inputs: Inputs, hidden: Array) -> Array:
    """The norm of each token, [B, S, H]."""
    if config.norm == "NO_NORM":
        return hidden
    if config.norm == "LAYER_NORM":
        centred = hidden - hidden.mean(axis=-1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + config.norm_eps)
    else:
        mean = (hidden**2).sum(axis=-1, keepdims=True) / config.norm_divisor
        unit = hidden / np.sqrt(mean + config.norm_eps)
    scaled = unit * _wide(inputs["gamma_norm_weights"])[0] if config.gamma_applied else unit
    return scaled if config.beta is None else np.asarray(scaled + _wide(inputs["layer_norm_bias"])[0])


def _quantized(config: Config, inputs: Inputs, hidden: Array) -> Array:
    """What the weight is multiplied with: in STATIC the tokens over their scale, clamped, not rounded."""
    if config.quantization != "STATIC":
        return hidden
    return np.asarray(np.clip(hidden / np.float64(inputs["qkv_in_scale"][0, 0]), -FP8_MAX, FP8_MAX))


def projected(config: Config, inputs: Inputs, flat: Array) -> Array:
    """flat [T, H] @ weight, dequantised, + bias: [T, I]."""
    y = np.empty((flat.shape[0], config.I))
    for start in range(0, config.I, _BLOCK):
        block = slice(start, start + _BLOCK)
        np.matmul(flat, weight_columns(config, inputs, block), out=y[:, block])
    y = y * _dequantisation(config, inputs)
    return np.asarray(y if config.bias is None else y + _wide(inputs["bias"])[0])


def weight_columns(config: Config, inputs: Inputs, columns: slice) -> Array:
    """Some columns of the weight in float64, [H, columns]; MX codes times their scales."""
    weight = inputs["fused_qkv_weights"]
    if config.quantization != "MX":
        return _wide(weight[:, columns])
    # Packed row r holds rows 4 r .. 4 r + 3; the lanes come out along the last axis.
    lanes = to_float32(np.ascontiguousarray(weight[:, columns].T), format_of(config.weight_dtype)).T
    exponents = inputs["qkv_w_scale"][:, columns].view(np.uint8).astype(np.int64) - 127
    return np.asarray(lanes.astype(np.float64) * np.repeat(np.ldexp(1.0, exponents), 32, axis=0))


def _dequantisation(config: Config, inputs: Inputs) -> Any:
    """One factor per column of I."""
    if config.quantization not in ("STATIC", "ROW"):
        return np.float64(1)
    scale = _wide(inputs["qkv_w_scale"])[0]
    if config.quantization == "ROW":
        return scale
    return np.repeat(scale, config.segments) * np.float64(inputs["qkv_in_scale"][0, 0])


def rotated(config: Config, inputs: Inputs, y: Array) -> Array:
    """RoPE on the Q and K heads of [T, I]: halves (x1, x2) become (x1 c1 - x2 s, x2 c2 + x1 s), s the first half
    of sin."""
    assert config.d_head is not None
    half = config.d_head // 2
    turning = config.q_dim + config.kv_dim
    cos = _wide(inputs["cos_cache"]).reshape(config.tokens, 1, 2, half)
    sin = _wide(inputs["sin_cache"]).reshape(config.tokens, 1, 2, half)[:, :, 0]
    heads: Array = y[:, :turning].reshape(config.tokens, -1, 2, half)
    first, second = heads[:, :, 0], heads[:, :, 1]
    turned = np.stack([first * cos[:, :, 0] - second * sin, second * cos[:, :, 1] + first * sin], axis=2).reshape(
        config.tokens, turning
    )
    return np.concatenate([turned, y[:, turning:]], axis=1)


def _stored(config: Config, inputs: Inputs, y: Array) -> dict[str, Array]:
    """[B, S, I] as the results of the call."""
    if config.kv_cache != "NONE":
        return _cached(config, inputs, y)
    if config.output_layout == "NBSd":
        return {"out": y.reshape(config.B, config.S, -1, int(config.d_head or 0)).transpose(2, 0, 1, 3)}
    return {"out": y}


def _cached(config: Config, inputs: Inputs, y: Array) -> dict[str, Array]:
    """The query part, and both caches with the tokens' rows replaced; a slot of -1 replaces none."""
    start, stop = config.q_dim, config.q_dim + config.kv_dim
    results = {"out": y[:, :, :start]}
    for name, part in (("k", y[:, :, start:stop]), ("v", y[:, :, stop:])):
        value = part / np.float64(inputs[f"{name}_scale"][0, 0])
        value = np.clip(value, config.kv_min, config.kv_max).reshape(config.tokens, -1)
        cache = _wide(inputs[f"{name}_cache"])
        rows = cache_rows(config, inputs)
        cache.reshape(-1, config.kv_dim)[rows[rows >= 0]] = value[rows >= 0]
        results[f"{name}_cache"] = cache
    return results


def cache_rows(config: Config, inputs: Inputs) -> Array:
    """The row of the caches, seen as [rows, kv_dim], of each of the T tokens; -1 for none."""
    if config.kv_cache == "BLOCK":
        return np.asarray(inputs["slot_mapping"], np.int64).reshape(-1)
    return np.add.outer(np.arange(config.B) * int(config.max_seq_len or 0), np.arange(config.S)).reshape(-1)
