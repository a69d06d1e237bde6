"""How far a right `qkv` in context encoding may be from the truth, per element.

A companion run of truth that carries, beside every value, the worst case of all roundings on its path, for any
order of accumulation (see `qkv_tkg_bound`, whose steps it shares). Elements whose sums or stored limits
overflow are outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.contracts.qkv_config import FP8, FP8_MAX, Config
from reference.numerics.cast import to_float32
from reference.numerics.formats import format_of
from reference.qkv_tkg_bound import FUNCTION, TINY, UNIT, Known, rounded
from reference.qkv_truth import cache_rows, hidden_states, normalised, weight_columns

Array = NDArray[Any]
Inputs = Mapping[str, Any]

#: Most products of one matmul instruction.
DEPTH = 512
#: Half a unit in the last place of float8_e4m3fn, relative, and half of its smallest subnormal.
MX_RELATIVE, MX_SMALL = 2.0**-4, 2.0**-10
#: Largest scale of a group over its largest magnitude, and half a subnormal at the smallest scale there is.
MX_SCALE, MX_TINY = 2.0**-7, 2.0**-137


def limits(config: Config, inputs: Inputs) -> dict[str, Array]:
    """Per result of `reference.qkv.model` the largest |model - truth|, float64, >= 0.

    Raises nothing: `config` and `inputs` are those of a legal call that context encoding serves.
    """
    with np.errstate(all="ignore"):
        operand = _quantized(config, inputs, _normalised(config, inputs, _hidden(config, inputs)))
        out = _projected(config, inputs, operand)
        if config.fused_rope:
            out = _rotated(config, inputs, out)
        return _stored(config, inputs, out)


def _wide(tensor: Any) -> Array:
    return to_float32(tensor).astype(np.float64)


def _tile(config: Config) -> str:
    return "bfloat16" if config.dtype == "float32" else config.dtype


def _end(config: Config) -> str:
    return "bfloat16" if config.quantization == "STATIC" else _tile(config)


def _moved(tensor: Any, dtype: str) -> Known:
    """A tensor that a DMA casts."""
    value = _wide(tensor)
    exact = Known(value, np.zeros_like(value))
    return exact if tensor.dtype == format_of(dtype).storage else rounded(exact, dtype, operations=0)


def _times(x: Known, y: Known) -> Known:
    """An exact product of two values with errors."""
    error = x.error * np.abs(y.value) + np.abs(x.value) * y.error + x.error * y.error
    return Known(x.value * y.value, error)


# --- up to the PE -----------------------------------------------------------------------------------------


def _hidden(config: Config, inputs: Inputs) -> Known:
    """[T, H], columns in their natural order."""
    value = hidden_states(config, inputs).reshape(config.tokens, config.H)
    if not config.fused_residual_add:
        exact = Known(value, np.zeros_like(value))
        return rounded(exact, _tile(config), operations=0) if config.dtype == "float32" else exact
    sizes = sum(np.abs(_wide(inputs[name])) for name in ("input", "attention_prev", "mlp_prev"))
    # A partial sum may be larger than the sum.
    return rounded(Known(value, 2 * UNIT * np.asarray(sizes).reshape(value.shape)), _tile(config))


def _normalised(config: Config, inputs: Inputs, x: Known) -> Known:
    if config.norm == "NO_NORM":
        return x
    bare = {**inputs, "gamma_norm_weights": np.ones((1, config.H), np.float32)}
    bare["layer_norm_bias"] = np.zeros((1, config.H), np.float32)
    value = normalised(config, bare, x.value.reshape(config.B, config.S, config.H)).reshape(x.value.shape)
    error = (_layer_norm if config.norm == "LAYER_NORM" else _rms)(config, x)
    unit = rounded(Known(value, error), _tile(config), operations=2)
    return _with_gamma(config, inputs, unit) if config.gamma_applied else unit


def _with_gamma(config: Config, inputs: Inputs, unit: Known) -> Known:
    gamma = _wide(inputs["gamma_norm_weights"])
    value, error = unit.value * gamma, unit.error * np.abs(gamma)
    if config.beta is not None:
        # The product is rounded to float32 first, and may be larger than the sum.
        error = error + UNIT * (np.abs(value) + error) + TINY
        value = value + _wide(inputs["layer_norm_bias"])
    return rounded(Known(value, error), _tile(config))


def _sum_error(config: Config) -> float:
    """Relative error of a float32 sum over H of rounded terms of one sign, in any order."""
    return (config.H + 16) * UNIT


def _root(config: Config, mean: Array, error: Array) -> tuple[Array, Array]:
    """1 / sqrt(mean + eps) and its error; eps may be rounded to the tile dtype."""
    eps = config.norm_eps
    away = 0.0 if config.quantization == "STATIC" else float(_moved(np.full(1, eps), _tile(config)).error[0])
    root = 1 / np.sqrt(mean + eps)
    low = (np.maximum(mean - error, 0) + max(eps - away, 0.0)) * (1 - 4 * UNIT)
    return root, np.asarray(1 / np.sqrt(low) - root + 2 * FUNCTION / np.sqrt(low))


def _rms(config: Config, x: Known) -> Array:
    size = np.abs(x.value) + x.error
    mean = (x.value**2).sum(-1, keepdims=True) / config.norm_divisor
    error = (2 * size * x.error + _sum_error(config) * size**2).sum(-1, keepdims=True) / config.norm_divisor
    root, root_error = _root(config, mean, error)
    return np.asarray(x.error * (root + root_error) + np.abs(x.value) * root_error)


def _layer_norm(config: Config, x: Known) -> Array:
    size = np.abs(x.value) + x.error
    mean = x.value.mean(-1, keepdims=True)
    # The largest, as means are taken of parts of a token.
    mean_error = x.error.max(-1, keepdims=True) + _sum_error(config) * size.max(-1, keepdims=True)
    away = np.abs(x.value - mean)
    off = x.error + mean_error
    spread = (away**2).mean(-1, keepdims=True)
    error = (2 * away * off + off**2 + _sum_error(config) * (away + off) ** 2).mean(-1, keepdims=True)
    root, root_error = _root(config, spread, error)
    return np.asarray(off * (root + root_error) + away * root_error)


def _quantized(config: Config, inputs: Inputs, y: Known) -> Known:
    if config.quantization == "STATIC":
        return _static(inputs, y)
    return _mx(y) if config.quantization == "MX" else y


def _static(inputs: Inputs, y: Known) -> Known:
    scale = np.float64(inputs["qkv_in_scale"][0, 0])
    value, error = y.value / scale, y.error / scale
    error = error + 2 * UNIT * (np.abs(value) + error) + TINY
    # Clamping brings two numbers no further apart, and ends within 240.
    clamped = Known(np.clip(value, -FP8_MAX, FP8_MAX), np.minimum(error, 2 * FP8_MAX))
    return rounded(clamped, FP8, operations=0)


def _mx(y: Known) -> Known:
    size = np.abs(y.value) + y.error
    largest = size.reshape(len(size), -1, 32).max(-1).repeat(32, axis=1)
    rounding = MX_RELATIVE * size + MX_SMALL * MX_SCALE * largest + MX_TINY
    return Known(y.value, y.error + rounding)


# --- behind the PE ----------------------------------------------------------------------------------------


def _projected(config: Config, inputs: Inputs, operand: Known) -> Known:
    end = _end(config)
    product = _product(config, inputs, operand)
    if config.quantization == "STATIC":
        product = _dequantised(config, inputs, product)
    if config.bias is None:
        return rounded(product, end)
    bias = _moved(inputs["bias"], end)
    error = product.error + bias.error + UNIT * (np.abs(product.value) + product.error) + TINY
    return rounded(Known(product.value + bias.value, error), end)


def _product(config: Config, inputs: Inputs, operand: Known) -> Known:
    weight = _weight(config, inputs)
    size, across = np.abs(operand.value) + operand.error, np.abs(weight.value) + weight.error
    sums = (DEPTH + config.h_tiles + 2) * (UNIT * (size @ across) + TINY)
    error = operand.error @ np.abs(weight.value) + size @ weight.error + sums
    return Known(operand.value @ weight.value, error)


def _weight(config: Config, inputs: Inputs) -> Known:
    if config.quantization == "NONE":
        return _moved(inputs["fused_qkv_weights"], _tile(config))
    value = weight_columns(config, inputs, slice(None))
    return Known(value, np.zeros_like(value))


def _dequantised(config: Config, inputs: Inputs, product: Known) -> Known:
    raw = product if config.fused_rope else rounded(product, "bfloat16", operations=0)
    scale = _wide(inputs["qkv_w_scale"])[0] * np.float64(inputs["qkv_in_scale"][0, 0])
    factor = np.repeat(scale, config.segments)
    return _times(raw, Known(factor, UNIT * np.abs(factor)))


def _rotated(config: Config, inputs: Inputs, y: Known) -> Known:
    """RoPE on the columns of Q and K."""
    end, half = _end(config), int(config.d_head or 0) // 2
    turning = config.q_dim + config.kv_dim
    waves = {}
    for name in ("cos", "sin"):
        wave = _moved(inputs[f"{name}_cache"].reshape(config.tokens, 1, 2, half), end)
        waves[name] = wave if name == "cos" else Known(*(part[:, :, :1] for part in wave))
    heads = Known(*(part[:, :turning].reshape(config.tokens, -1, 2, half) for part in y))
    straight = rounded(_times(heads, waves["cos"]), end)
    crossed = rounded(_times(Known(*(part[:, :, ::-1] for part in heads)), waves["sin"]), end)
    sign = np.array([-1.0, 1.0]).reshape(1, 1, 2, 1)
    total = Known(straight.value + sign * crossed.value, straight.error + crossed.error)
    turned = rounded(total, end)
    joined = [np.concatenate([a.reshape(config.tokens, -1), b[:, turning:]], 1) for a, b in zip(turned, y, strict=True)]
    return Known(*joined)


def _stored(config: Config, inputs: Inputs, y: Known) -> dict[str, Array]:
    if config.kv_cache == "NONE":
        tokens: Array = y.error.reshape(config.B, config.S, config.I)
        if config.output_layout == "NBSd":
            tokens = tokens.reshape(*tokens.shape[:2], -1, int(config.d_head or 0)).transpose(2, 0, 1, 3)
        return {"out": tokens}
    start, stop = config.q_dim, config.q_dim + config.kv_dim
    query = Known(*(part[:, :start] for part in y))
    if _end(config) != config.dtype != "float32":
        query = rounded(query, config.dtype, operations=0)
    found = {"out": query.error.reshape(config.out_shape)}
    for name, columns in (("k", slice(start, stop)), ("v", slice(stop, None))):
        found[f"{name}_cache"] = _cache(config, inputs, name, Known(*(part[:, columns] for part in y)))
    return found


def _cache(config: Config, inputs: Inputs, name: str, y: Known) -> Array:
    """Errors of a cache: none in rows that no token has."""
    scale = np.float64(inputs[f"{name}_scale"][0, 0])
    value, error = y.value / scale, y.error / scale
    error = error + 2 * UNIT * (np.abs(value) + error) + TINY
    low, high = config.kv_min, config.kv_max
    codes = rounded(Known(np.clip(value, low, high), np.minimum(error, high - low)), str(config.kv_dtype), 0)
    cache = np.zeros(config.cache_shape)
    rows = cache_rows(config, inputs)
    cache.reshape(-1, config.kv_dim)[rows[rows >= 0]] = codes.error[rows >= 0]
    return cache
