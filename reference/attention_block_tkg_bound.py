"""How far a right attention_block_tkg may be from the truth, per element: the companions of its stages in a row.

Each stage takes the worst error of the one before and adds its own, for any order of accumulation. Where scores
are large the bound grows like their exponential and says little; it is infinite where the sum of weights is not
certain.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.attention_block_tkg_layout import (
    arranged,
    attention_inputs,
    by_channel,
    qkv_inputs,
    returned,
    split_heads,
    stored,
    waves,
)
from reference.attention_block_tkg_truth import exact_attention, exact_operands
from reference.attention_tkg_bound import Errors, out_bound
from reference.attention_tkg_layout import arranged as arranged_attention
from reference.contracts.attention_block_tkg import Config, validate_call
from reference.contracts.attention_block_tkg_config import FP8, FP8_MAX
from reference.head_norm import head_norm_exact
from reference.numerics.cast import to_float32
from reference.output_projection_tkg import arrange
from reference.error_terms import TINY, UNIT
from reference.pair_terms import Known, inverse_root_error, rounded
from reference.qkv_tkg_bound import limits
from reference.qkv_truth import truth_of
from reference.rope import join_pairs, rotate_exact, split_pairs

Array = NDArray[Any]
Arrays = dict[str, Array]


def bound(config: Config, inputs: Arrays) -> Arrays:
    """Largest |result - truth| of a right kernel, float64, for out, K_out and V_out in their shapes.

    Zero for the rows of the caches that are not written. Infinite or NaN where truth is not finite or nothing can
    be said.

    Raises:
        KernelArgumentError: the config or a tensor is not legal.
    """
    validate_call(config, inputs)
    with np.errstate(all="ignore"):
        q, keys, values = _operands(config, inputs)
        attention = q if config.skip_attention else _attention(config, inputs, q, keys, values)
        return {"out": _output(config, inputs, attention)} | _stored(config, inputs, keys.error, values.error)


def _wide(tensor: Array) -> Array:
    return np.asarray(to_float32(tensor), np.float64)


def _operands(config: Config, inputs: Arrays) -> tuple[Known, Known, Known]:
    """Q, K and V as they enter attention, Q not scaled."""
    stage_inputs = qkv_inputs(config, inputs)
    values = split_heads(config, truth_of(config.qkv, stage_inputs)["out"])
    errors = split_heads(config, limits(config.qkv, stage_inputs)["out"])
    q, keys, new = (Known(value, error) for value, error in zip(values, errors, strict=True))
    q, keys = _processed(config, inputs, q, "Q"), _processed(config, inputs, keys, "K")
    if not config.quantized_kv:
        return q, keys, new
    return q, _quantized(keys, inputs["k_scale"]), _quantized(new, inputs["v_scale"])


def _processed(config: Config, inputs: Arrays, x: Known, name: str) -> Known:
    if config.rmsnorm_QK_pre_rope_enabled:
        x = _normed(config, x, None, config.rmsnorm_QK_pre_rope_eps)
    if config.rope:
        x = _rotated(config, inputs, x)
    if config.rmsnorm_QK_post_rope_enabled:
        weight = inputs.get(f"rmsnorm_QK_post_rope_W_{name}")
        x = _normed(config, x, None if weight is None else weight[0], config.rmsnorm_QK_post_rope_eps)
    return x


def _normed(config: Config, x: Known, weight: Array | None, eps: float) -> Known:
    size = np.abs(x.value) + x.error
    mean = (x.value**2).mean(axis=0)
    mean_error = (2 * size * x.error).mean(axis=0) + (config.d + 4) * UNIT * (size**2).mean(axis=0)
    root, of_root = 1 / np.sqrt(mean + eps), inverse_root_error(mean, mean_error, eps)
    factor = 1.0 if weight is None else np.abs(_wide(weight)).reshape(-1, 1, 1, 1)
    error = factor * (x.error * (root + of_root) + np.abs(x.value) * of_root + TINY)
    return rounded(Known(head_norm_exact(x.value, weight, eps), error), config.dtype, operations=2)


def _rotated(config: Config, inputs: Arrays, x: Known) -> Known:
    cos, sin = (_wide(wave) for wave in waves(config, inputs))
    value = rotate_exact(x.value, cos, sin, config.rope_layout)
    (e, o), (e_error, o_error) = (split_pairs(part, config.rope_layout) for part in x)

    def product(part: Array, error: Array, wave: Array) -> Array:
        return rounded(Known(part * wave, error * np.abs(wave)), config.dtype).error

    even = product(e, e_error, cos) + product(o, o_error, sin)
    odd = product(o, o_error, cos) + product(e, e_error, sin)
    return rounded(Known(value, join_pairs(even, odd, config.rope_layout)), config.dtype)


def _quantized(x: Known, scale: Array) -> Known:
    factor = float(_wide(scale)[0, 0])
    product = Known(x.value * factor, x.error * abs(factor) + UNIT * np.abs(x.value * factor) + TINY)
    # Clamping brings two numbers no further apart, and ends within 240.
    clamped = Known(np.clip(product.value, -FP8_MAX, FP8_MAX), np.minimum(product.error, 2 * FP8_MAX))
    return Known(clamped.value, rounded(clamped, FP8, operations=0).error)


def _attention(config: Config, inputs: Arrays, q: Known, keys: Known, values: Known) -> Known:
    exact = exact_operands(config, inputs)
    scale = config.scale
    # softmax_scale itself is rounded to float32, hence the second operation.
    query = rounded(Known(q.value * scale, q.error * abs(scale)), config.dtype, operations=2)
    stage_inputs = attention_inputs(config, inputs, query.value, keys.value, values.value)
    errors = Errors(query.error, keys.error, values.error)
    error = out_bound(config.attention, stage_inputs, query.value, keys.value, errors)
    return Known(
        exact_attention(config, inputs, exact), by_channel(config, arranged_attention(config.attention, error))
    )


def _output(config: Config, inputs: Arrays, attention: Known) -> Array:
    if config.W_out is None:
        return arranged(config, attention.error)
    stage = config.projection
    weight, scale = _wide(inputs["W_out"]), np.ones(config.H)
    if config.quantization_type_out == "STATIC":
        step = float(inputs["input_dequant_scale_out"][0, 0])
        scaled = rounded(Known(attention.value / step, attention.error / step), config.dtype, operations=3)
        clamped = Known(np.clip(scaled.value, -FP8_MAX, FP8_MAX), np.minimum(scaled.error, 2 * FP8_MAX))
        attention = Known(clamped.value, rounded(clamped, FP8, operations=0).error)
        scale = scale * step
    if config.quantization_type_out != "NONE":
        scale = scale * _wide(inputs["weight_dequant_scale_out"])[0]
    rows = Known(*(part.transpose(1, 3, 2, 0).reshape(config.tokens, -1) for part in attention))
    sums = (config.q * config.d + 2) * UNIT * ((np.abs(rows.value) + rows.error) @ np.abs(weight)) + TINY
    total = Known(rows.value @ weight * scale, (rows.error @ np.abs(weight) + sums) * np.abs(scale))
    total = rounded(total, config.dtype, operations=2)
    if config.bias_out is not None:
        total = rounded(Known(total.value + _wide(inputs["bias_out"])[0], total.error), config.dtype)
    return arrange(stage, total.error)


def _stored(config: Config, inputs: Arrays, keys: Array, values: Array) -> Arrays:
    if not config.update_cache:
        return returned(config, keys, values)
    k_cache, v_cache = (np.zeros(inputs[name].shape) for name in ("K_cache", "V_cache"))
    return stored(config, k_cache, v_cache, keys, values, inputs["kv_cache_update_idx"])
