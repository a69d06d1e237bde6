"""Random inputs for tests of `qkv` in context encoding, by config."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.tests.kernels.qkv_inputs import Inputs, random_inputs, stored
from reference.contracts.qkv import Config
from reference.numerics.formats import format_of

Array = NDArray[Any]


def cte_inputs(config: Config, seed: int = 0, octaves: float = 0.0) -> Inputs:
    """Inputs of `random_inputs`, and what only context encoding has. Caches hold 0x11 in every byte."""
    plain = replace(config, quantization="NONE", weight_dtype="float32") if config.quantization == "MX" else config
    inputs = random_inputs(plain, seed, octaves)
    draw = np.random.default_rng(seed + 1)
    if config.quantization == "MX":
        codes = draw.normal(size=(config.H // 4, config.I, 4)) * 32
        scales = draw.integers(110, 130, (config.H // 32, config.I))
        inputs |= {"fused_qkv_weights": packed(codes), "qkv_w_scale": scales.astype(np.uint8)}
    if config.fused_rope:
        for name in ("cos_cache", "sin_cache"):
            shape = config.B, config.S, config.d_head or 0
            inputs[name] = stored(draw.uniform(-1, 1, shape), str(config.rope_dtype))
    return inputs | (_caches(config, draw) if config.kv_cache != "NONE" else {})


def _caches(config: Config, draw: np.random.Generator) -> Inputs:
    inputs: Inputs = {}
    for name, scale in (("k", 0.04), ("v", 0.07)):
        codes = np.full(config.cache_shape, 0x11, np.uint8)
        inputs[f"{name}_cache"] = codes.view(format_of(config.kv_dtype).storage)
        inputs[f"{name}_scale"] = np.full((128, 1), scale, np.float32)
    if config.kv_cache == "BLOCK":
        slots = draw.permutation(config.cache_shape[0] * config.cache_shape[1])[: config.tokens]
        slots[::3] = -1
        inputs["slot_mapping"] = slots.astype(np.int32).reshape(config.B, config.S)
    return inputs


def packed(values: Any) -> Array:
    """Numbers [..., 4] as items of float8_e4m3fn_x4 [...], lane 0 in the low byte."""
    return np.ascontiguousarray(stored(values, "float8_e4m3fn").view(np.uint8)).view("<u4")[..., 0]


def swizzled(tokens: Array) -> Array:
    """Tokens [B, S, H] in the order of is_input_swizzled: column 512 t + 4 p + k at (k*H/512 + t)*128 + p."""
    H = tokens.shape[2]
    column = np.arange(H)
    t, p, k = column // 512, column % 512 // 4, column % 4
    result = np.empty_like(tokens)
    result[:, :, (k * (H // 512) + t) * 128 + p] = tokens
    return result
