"""How far a right `qkv` in token generation may be from the truth, per element.

A companion run of truth that carries, beside every value, the worst case of all roundings on its path, for any
order of accumulation; so the bound holds for all candidates of the profile's noise class. Second-order terms
are covered by the errors that enter each step already. Overflow is not covered: a float16 sum that overflows
is outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reference.contracts.qkv_config import FP8, FP8_MAX, PARTITIONS, Config
from reference.numerics.cast import to_float32
from reference.numerics.formats import format_of
from reference.qkv_tkg import Groups
from reference.qkv_truth import hidden_states, normalised, weight_columns

Array = NDArray[Any]
Inputs = Mapping[str, Any]

#: Half a unit in the last place of float32, relative.
UNIT = 2.0**-24
#: Error of an elementary function of float32, relative: one rounding, and one unit for inexact tables (S2).
FUNCTION = 3 * UNIT
#: Half of the smallest subnormal of float32.
TINY = 2.0**-150


class Known(NamedTuple):
    """A value in float64 and what a right kernel's may differ from it."""

    value: Array
    error: Array


def limits(config: Config, inputs: Inputs) -> dict[str, Array]:
    """Per result of `reference.qkv.model` the largest |model - truth|, float64, >= 0.

    Raises nothing: `config` and `inputs` are those of a legal call that token generation serves.
    """
    with np.errstate(all="ignore"):
        hidden = _hidden(config, inputs)
        operand = _quantized(config, inputs, _normalised(config, inputs, hidden))
        out = _projected(config, inputs, operand)
    found = {"out": _arranged(config, out.error)}
    if config.fused_residual_add:
        found["fused_hidden"] = hidden.error.reshape(config.B, config.S, config.H)
    return found


def _wide(tensor: Any) -> Array:
    return to_float32(tensor).astype(np.float64)


def rounded(known: Known, dtype: str, operations: int = 1) -> Known:
    """After some float32 operations whose intermediate values are no larger, and a cast to `dtype`."""
    fmt = format_of(dtype)
    relative = 2.0 ** -(fmt.mantissa_bits + 1) + operations * UNIT
    size = np.abs(known.value) + known.error
    return Known(known.value, known.error + relative * size + fmt.min_subnormal / 2 + operations * TINY)


def _hidden(config: Config, inputs: Inputs) -> Known:
    """[T, H]."""
    value = hidden_states(config, inputs).reshape(config.tokens, config.H)
    if not config.fused_residual_add:
        return Known(value, np.zeros_like(value))
    sizes = sum(np.abs(_wide(inputs[name])) for name in ("input", "attention_prev", "mlp_prev"))
    # A partial sum may be larger than the sum.
    error = 2 * UNIT * np.asarray(sizes).reshape(value.shape)
    return rounded(Known(value, error), config.dtype)


def _normalised(config: Config, inputs: Inputs, x: Known) -> Known:
    if config.norm == "NO_NORM":
        return x
    shape = (config.B, config.S, config.H)
    value = normalised(config, inputs, x.value.reshape(shape)).reshape(x.value.shape)
    step = _rms if config.norm == "RMS_NORM" else _layer_norm
    return Known(value, step(config, inputs, x, value))


def _sum_error(config: Config) -> float:
    """Relative error of a float32 sum over H of terms of one sign, in any order, of rounded terms."""
    return (config.h_tiles + PARTITIONS + 4) * UNIT


def inverse_root_error(mean: Array, error: Array, eps: float) -> Array:
    """Error of 1 / sqrt(mean + eps), where the kernel takes a negative mean as 0."""
    right = 1 / np.sqrt(mean + eps)
    low = np.maximum(mean - error, 0) + eps * (1 - UNIT)
    return np.asarray((1 / np.sqrt(low) - right) + 2 * FUNCTION / np.sqrt(low))


def _rms(config: Config, inputs: Inputs, x: Known, y: Array) -> Array:
    gamma = np.abs(_wide(inputs["gamma_norm_weights"])[0])
    size = np.abs(x.value) + x.error
    mean = (x.value**2).sum(-1, keepdims=True) / config.norm_divisor
    mean_error = (2 * size * x.error).sum(-1, keepdims=True) / config.norm_divisor
    mean_error = mean_error + _sum_error(config) * (size**2).sum(-1, keepdims=True) / config.norm_divisor
    root = 1 / np.sqrt(mean + config.norm_eps)
    root_error = inverse_root_error(mean, mean_error, config.norm_eps)
    error = gamma * (x.error * (root + root_error) + np.abs(x.value) * root_error)
    # The product with gamma is rounded to float32 before the root multiplies it.
    error = error + TINY * (root + root_error)
    return rounded(Known(y, error), config.dtype, operations=2).error


def _layer_norm(config: Config, inputs: Inputs, x: Known, y: Array) -> Array:
    gamma = np.abs(_wide(inputs["gamma_norm_weights"])[0])
    size = np.abs(x.value) + x.error
    mean, square = x.value.mean(-1, keepdims=True), (x.value**2).mean(-1, keepdims=True)
    mean_error = x.error.mean(-1, keepdims=True) + _sum_error(config) * size.mean(-1, keepdims=True)
    square_error = (2 * size * x.error).mean(-1, keepdims=True)
    square_error = square_error + _sum_error(config) * (size**2).mean(-1, keepdims=True)
    spread = ((x.value - mean) ** 2).mean(-1, keepdims=True)
    reach = np.abs(mean) + mean_error
    spread_error = square_error + 2 * reach * mean_error + 2 * UNIT * (square + square_error + reach**2)
    root = 1 / np.sqrt(spread + config.norm_eps)
    root_error = inverse_root_error(spread, spread_error, config.norm_eps)
    centred = rounded(Known(x.value - mean, x.error + mean_error), config.dtype)
    by_gamma = rounded(Known(centred.value * gamma, centred.error * gamma), config.dtype)
    scaled_error = by_gamma.error * (root + root_error) + np.abs(by_gamma.value) * root_error
    scaled = rounded(Known(by_gamma.value * root, scaled_error), config.dtype)
    return scaled.error if config.beta is None else rounded(Known(y, scaled.error), config.dtype).error


def _quantized(config: Config, inputs: Inputs, y: Known) -> Known:
    if config.quantization != "STATIC":
        return y
    scale = np.float64(inputs["qkv_in_scale"][0, 0])
    scaled = rounded(Known(y.value / scale, y.error / scale), config.dtype, operations=2)
    value = np.clip(scaled.value, -FP8_MAX, FP8_MAX)
    # Clamping brings two numbers no further apart, and ends within 240.
    codes = rounded(Known(value, np.minimum(scaled.error, 2 * FP8_MAX)), FP8, operations=0)
    return Known(value, codes.error)


def _projected(config: Config, inputs: Inputs, operand: Known) -> Known:
    """The sum over cores of their combined, dequantised groups; [T, I]."""
    parts = [_part(config, inputs, operand, core) for core in range(config.lnc)]
    if len(parts) == 1:
        return parts[0]
    total = Known(parts[0].value + parts[1].value, parts[0].error + parts[1].error)
    return rounded(total, config.dtype)


def _part(config: Config, inputs: Inputs, operand: Known, core: int) -> Known:
    bias = np.zeros(config.I)
    if config.bias is not None and core == 0:
        bias = _wide(inputs["bias"])[0]
    quantized = config.quantization != "NONE"
    first = np.zeros((config.tokens, config.I)) + (0 if quantized else bias)
    total = Known(first, np.zeros_like(first))
    for rows in _groups(config, core):
        psum = _psum(config, inputs, operand, rows)
        total = rounded(Known(total.value + psum.value, total.error + psum.error), config.dtype)
    if not quantized:
        return total
    scale = _scales(config, inputs)
    total = rounded(Known(total.value * scale, total.error * np.abs(scale)), config.dtype, operations=2)
    return rounded(Known(total.value + bias, total.error), config.dtype) if bias.any() else total


def _groups(config: Config, core: int) -> list[Array]:
    """Hidden indices of each group of a core."""
    groups = Groups(config.h_tiles // config.lnc, config.tokens)
    rows = np.arange(config.H).reshape(config.lnc, PARTITIONS, -1)[core]
    return [
        np.concatenate([rows[:, tiles].reshape(-1) for tiles in groups.members(group)]) for group in range(groups.count)
    ]


def _psum(config: Config, inputs: Inputs, operand: Known, rows: Array) -> Known:
    """One group's sum; MX never comes here, so the weight's rows are those of the operand."""
    weight = weight_columns(config, {**inputs, "fused_qkv_weights": inputs["fused_qkv_weights"][rows]}, slice(None))
    value, error = operand.value[:, rows], operand.error[:, rows]
    sums = (PARTITIONS + config.h_tiles + 2) * (UNIT * ((np.abs(value) + error) @ np.abs(weight)) + TINY)
    return Known(value @ weight, error @ np.abs(weight) + sums)


def _scales(config: Config, inputs: Inputs) -> Array:
    scale = _wide(inputs["qkv_w_scale"])[0]
    if config.quantization == "ROW":
        return np.asarray(scale)
    return np.asarray(np.repeat(scale, config.segments) * np.float64(inputs["qkv_in_scale"][0, 0]))


def _arranged(config: Config, rows: Array) -> Array:
    tokens: Array = rows.reshape(config.B, config.S, config.I)
    if config.output_layout == "BSD":
        return tokens
    return np.asarray(tokens.reshape(config.B, config.S, -1, PARTITIONS).transpose(2, 0, 1, 3))
