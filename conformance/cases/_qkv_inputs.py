"""Inputs of qkv by argument name, lane by lane, for both modes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance import lanes
from conformance.cases import _qkv_exact_rounding as exact_rounding
from conformance.lanes import LaneError
from conformance.randomness import Stream
from reference.contracts.qkv_config import FP8, MX_WEIGHT, Config
from reference.numerics.cast import cast, to_float32
from reference.numerics.formats import format_of

Arrays = dict[str, NDArray[Any]]

#: Deviation of random fp8 weights: they use the format's range and stay below 240.
_FP8_SPREAD = 32.0
#: Magnitudes at which an MX block changes its scale: powers of two and just below, subnormal, and zero.
_MX_EDGES = (1.0, 2.0, 1.9921875, 0.99609375, 448.0, 446.0, 2.0**-130, 0.0, 3.5, 240.0)
#: From the edges of float8_e4m3 to those of float8_e5m2: 224 becomes its largest, 240 the tie with infinity.
_TO_E5M2 = np.float32(2**8)
#: Largest number of the dtypes that hidden states come in.
_MOST = {name: np.float32(format_of(name).max_finite) for name in ("float32", "bfloat16", "float16")}


def fits(config: Config, lane: str) -> bool:
    """Whether a lane can be built for a config."""
    exact = config.norm == "NO_NORM" and not config.fused_rope
    if lane == "exact_rounding":
        return exact_rounding.fits(config)
    if lane in ("exact", "one_hot"):
        # One-hot rows and integers survive a projection, not a norm or a rotation.
        return exact and config.quantization in ("NONE", "STATIC", "ROW")
    if lane == "near_constant":
        return config.norm == "LAYER_NORM"
    if lane == "mx_edge":
        return config.quantization == "MX" and config.norm == "NO_NORM" and not config.fused_residual_add
    if lane == "fp8_edge":
        # The edges come to the first FP8 cast as they are: to that of the input, or through the projection.
        straight = config.quantization == "NONE" and config.bias is None and not config.fused_rope
        unmixed = config.norm == "NO_NORM" and not config.fused_residual_add
        return unmixed and (straight or config.quantization == "STATIC")
    if lane == "zero_token":
        # Without an eps the norm asks for the root of 0, for which the hardware's table promises nothing.
        return config.norm == "NO_NORM" or config.norm_eps != 0
    return True


def build(config: Config, lane: str, seed: int) -> Arrays:
    """Inputs in storage dtypes. The rows of a scale are alike."""
    if not fits(config, lane):
        raise LaneError(f"lane {lane} does not fit {config.norm}, {config.quantization}")
    stream = Stream(seed, "qkv", lane)
    if lane == "exact_rounding":
        return exact_rounding.build(config, stream) | _cache(config, lane, stream.child("cache"))
    inputs: Arrays = {
        "input": _hidden(config, lane, stream.child("input")),
        "fused_qkv_weights": _weights(config, lane, stream.child("weights")),
    }
    kind = lane if lane in ("exact", "one_sided") else "normal"
    if config.bias is not None:
        inputs["bias"] = lanes.fill(kind, stream.child("bias"), (1, config.I), config.bias)
    if config.fused_residual_add:
        shape = (config.B, config.S, config.H)
        for name in ("mlp_prev", "attention_prev"):
            inputs[name] = lanes.fill(kind, stream.child(name), shape, config.dtype)
    for name, dtype in (("gamma_norm_weights", config.gamma), ("layer_norm_bias", config.beta)):
        if dtype is not None:
            inputs[name] = lanes.fill("normal", stream.child(name), (1, config.H), dtype)
    inputs |= _scales(config, lane, stream.child("scales"))
    inputs |= _rope(config, stream.child("rope"))
    inputs |= _cache(config, lane, stream.child("cache"))
    return inputs


def _hidden(config: Config, lane: str, stream: Stream) -> NDArray[Any]:
    shape = (config.B, config.S, config.H)
    if lane == "near_constant":
        rows = np.float32(1000) + np.float32(0.01) * stream.normal(shape)
        rows[..., 0, :] = np.float32(1000)
        return cast(rows, config.dtype)
    if lane == "zero_token":
        values = lanes.fill("normal", stream, shape, config.dtype)
        values[-1, -1, :] = 0
        return values
    if lane == "mx_edge":
        return _mx_edges(config, stream)
    if lane == "poison":
        keep = np.ones(shape, np.bool_)
        keep[-1, -1, :] = False
        return lanes.poison(lanes.fill("normal", stream, shape, config.dtype), keep)
    kind = lane if lane in ("exact", "one_hot", "one_sided", "heavy_tailed", "fp8_edge") else "normal"
    values = lanes.fill(kind, stream, shape, config.dtype)
    if kind == "fp8_edge" and _clamps_at_e5m2(config):
        values = cast(np.clip(to_float32(values) * _TO_E5M2, -_MOST[config.dtype], _MOST[config.dtype]), config.dtype)
    if config.hidden_actual is not None:
        # Padding is zero by contract: it is summed, only the divisor leaves it out.
        values[..., config.hidden_actual :] = 0
    return values


def _clamps_at_e5m2(config: Config) -> bool:
    """Whether the first clamp that values meet is that of caches at the largest float8_e5m2."""
    first = config.kv_cache != "NONE" and config.quantization == "NONE"
    # A call that gives limits of its own has its edges elsewhere.
    return first and config.kv_dtype == "float8_e5m2" and (config.fp8_max, config.fp8_min) == (None, None)


def _mx_edges(config: Config, stream: Stream) -> NDArray[Any]:
    """Blocks of 32 columns, each with one value at an edge and the rest far below; one block has a NaN."""
    blocks = config.tokens * config.H // 32
    tops = stream.choice(_MX_EDGES, (blocks, 1)) * stream.signs((blocks, 1))
    values = stream.uniform(-0.4, 0.4, (blocks, 32)) * np.abs(tops)
    values[np.arange(blocks), stream.integers(0, 32, blocks)] = tops[:, 0]
    values[blocks // 2, 3] = np.nan
    return cast(values.reshape(config.B, config.S, config.H), config.dtype)


def _weights(config: Config, lane: str, stream: Stream) -> NDArray[Any]:
    shape = (config.H, config.I)
    kind = "one_sided" if lane == "one_sided" else "normal"
    if config.weight_dtype == MX_WEIGHT:
        codes = lanes.fill(kind, stream, (config.H // 4, config.I, 4), "float8_e4m3fn", _FP8_SPREAD)
        return np.ascontiguousarray(codes).view(format_of(MX_WEIGHT).storage)[..., 0]
    if lane == "fp8_edge":
        # Every column takes one input column, so that the edges reach the caches as they are.
        picked = np.zeros(shape, np.float32)
        picked[stream.integers(0, config.H, config.I), np.arange(config.I)] = 1
        return cast(picked, config.weight_dtype)
    if lane == "exact":
        return lanes.fill("exact", stream, shape, config.weight_dtype)
    if config.weight_dtype == FP8:
        return lanes.fill(kind, stream, shape, config.weight_dtype, _fp8_spread(config, lane))
    # A power of two near 1/sqrt(H) keeps results of order one.
    return lanes.fill(kind, stream, shape, config.weight_dtype, 2.0 ** -(config.H.bit_length() // 2))


def _fp8_spread(config: Config, lane: str) -> float:
    """Raw sums of quantised products pass through the dtype of the hidden states: small where float16 ends early."""
    if config.dtype != "float16":
        return _FP8_SPREAD
    # Quantised hidden states end at 240, most of them far below. Sums grow with the root of H, or with H where signs
    # agree.
    size = 128.0 if config.quantization == "STATIC" else 16.0 if lane == "heavy_tailed" else 1.0
    growth = config.H if lane == "one_sided" else 8 * math.sqrt(config.H)
    return min(_FP8_SPREAD, 2.0 ** math.floor(math.log2(float(np.finfo(np.float16).max) / (size * growth))))


def _scales(config: Config, lane: str, stream: Stream) -> Arrays:
    rows = config.scale_rows
    exact = lane in ("exact", "one_hot", "fp8_edge")
    if config.quantization == "MX":
        scale = stream.integers(115, 126, (config.H // 32, config.I)).astype(np.uint8)
        return {"qkv_w_scale": scale}
    if config.quantization == "ROW":
        row = stream.choice((0.5, 1.0, 2.0), (1, config.I)) if exact else stream.uniform(0.01, 0.05, (1, config.I))
        return {"qkv_w_scale": np.repeat(row, rows, axis=0)}
    if config.quantization == "STATIC":
        three = stream.choice((0.5, 1.0, 2.0), (1, 3)) if exact else stream.uniform(0.01, 0.05, (1, 3))
        # Slightly too small for the largest values, so that the clamp is reached.
        one = np.float32(1.0) if exact else np.float32(stream.uniform(0.015, 0.02))
        return {
            "qkv_w_scale": np.repeat(three, rows, axis=0),
            "qkv_in_scale": np.full((rows, 1), one, np.float32),
        }
    return {}


def _rope(config: Config, stream: Stream) -> Arrays:
    """Halves of cos and sin that differ: only the first half of sin is read, all of cos."""
    if not config.fused_rope:
        return {}
    shape = (config.B, config.S, config.d_head or 0)
    return {
        name: cast(stream.child(name).uniform(-1.0, 1.0, shape), str(config.rope_dtype))
        for name in ("cos_cache", "sin_cache")
    }


def _cache(config: Config, lane: str, stream: Stream) -> Arrays:
    """Caches full of poison, scales, and slots in any order with some tokens skipped."""
    if config.kv_cache == "NONE":
        return {}
    dtype = str(config.kv_dtype)
    nan = cast(np.full(config.cache_shape, np.nan, np.float32), dtype)
    power = lane in ("exact", "one_hot", "fp8_edge")
    scales = (1.0, 1.0) if power else tuple(float(v) for v in stream.uniform(0.01, 0.05, (2,)))
    if lane == "exact_rounding":
        scales = (float(exact_rounding.cache_scale(config)),) * 2
    arrays: Arrays = {
        "k_cache": nan,
        "v_cache": nan.copy(),
        "k_scale": np.full((128, 1), scales[0], np.float32),
        "v_scale": np.full((128, 1), scales[1], np.float32),
    }
    if config.kv_cache == "BLOCK":
        rows = config.cache_shape[0] * config.cache_shape[1]
        # Tokens that find no row are skipped.
        slots = np.full(config.tokens, -1, np.int32)
        slots[: min(rows, config.tokens)] = stream.permutation(rows)[: config.tokens]
        slots[stream.subset(config.tokens, config.tokens // 5)] = -1
        arrays["slot_mapping"] = slots.reshape(config.B, config.S)
    return arrays


def require_exact(config: Config, inputs: Arrays) -> None:
    """LaneError unless every order of the projection's sums gives the same bits."""
    hidden = to_float32(inputs["input"]).reshape(config.tokens, config.H)
    for name in ("mlp_prev", "attention_prev"):
        if name in inputs:
            hidden = hidden + to_float32(inputs[name]).reshape(hidden.shape)
    lanes.require_exact_dot(hidden, to_float32(inputs["fused_qkv_weights"]).T)
