"""Random inputs for tests of `qkv`, by config."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.contracts.qkv import Config
from reference.numerics.formats import format_of

Array = NDArray[Any]
Inputs = dict[str, Any]


def stored(values: Any, dtype: str) -> Array:
    return np.asarray(values, np.float32).astype(format_of(dtype).storage)


def random_inputs(config: Config, seed: int = 0, octaves: float = 0.0) -> Inputs:
    """Normal numbers, or with `octaves` magnitudes over +-`octaves` powers of two, evenly.

    STATIC: about one token element in a hundred exceeds 240 times its scale. For token generation.
    """
    draw = np.random.default_rng(seed)

    def numbers(*shape: int) -> Array:
        signs: Array = draw.normal(size=shape)
        return np.copysign(np.exp2(draw.uniform(-octaves, octaves, shape)), signs) if octaves else signs

    tokens = (config.B, config.S, config.H)
    inputs: Inputs = {"input": stored(numbers(*tokens), config.dtype)}
    weight = numbers(config.H, config.I)
    if config.quantization != "NONE":
        weight = np.clip(weight * 32, -240, 240)
        width = 3 if config.quantization == "STATIC" else config.I
        scale = np.exp2(draw.uniform(-7, -3, (1, width))).astype(np.float32)
        inputs["qkv_w_scale"] = np.repeat(scale, config.scale_rows, axis=0)
    if config.quantization == "STATIC":
        inputs["qkv_in_scale"] = np.full((config.scale_rows, 1), 2.6 / 240, np.float32)
    inputs["fused_qkv_weights"] = stored(weight, config.weight_dtype)
    if config.fused_residual_add:
        for name in ("mlp_prev", "attention_prev"):
            inputs[name] = stored(numbers(*tokens), config.dtype)
    columns = (("gamma_norm_weights", config.gamma, config.H), ("layer_norm_bias", config.beta, config.H))
    for name, dtype, size in (*columns, ("bias", config.bias, config.I)):
        if dtype is not None:
            inputs[name] = stored(numbers(1, size), dtype)
    return inputs
