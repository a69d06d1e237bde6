"""How far a right `qkv` in context encoding may be from the truth, per element.

A companion run of truth; the terms of single operations are those of `error_terms`, what tokens share is that of
`qkv_bound_terms`. Tokens are worked on in blocks, as each is bounded on its own. In the order of the rounding points
of the contract:

hidden    cast to the tile dtype by DMA; the residual sum is two float32 additions before that cast.
norm      RMS: a register's sum of squares, rsqrt: one shared ratio; one product, one cast.
          LAYER: bn_stats over 512 columns and their aggregation, two passes, so that the mean's error reaches the
          spread in second order and through parts; centred and multiplied: two operations, one cast.
gamma     one product, with beta one sum more (or fused, V1), one cast.
quantise  STATIC: times a reciprocal, clamped, cast to fp8 without a stop in between. MX: cast to float8_e4m3fn under
          the group's scale. After STATIC nothing is shared.
product   a dot of passes of 128 rows (STATIC 256 in double row; MX 512 products, four of which enter together).
projected STATIC: rounded to bf16 without RoPE, dequantised; bias; one cast.
RoPE      cos and sin are cast by DMA; every product and every sum is rounded.
stored    query: a DMA cast where the result is narrower. Caches: times a reciprocal, clamped, cast to 8 bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.contracts.qkv_config import BANK, FP8, FP8_MAX, PARTITIONS, Config
from reference.error_terms import (
    TINY,
    UNIT,
    Known,
    Matrix,
    additions,
    each,
    exact,
    half_ulp,
    joined,
    matrix,
    mean_of,
    mx_rounding,
    off,
    plus,
    product,
    quantised,
    rounded,
    scaled,
    squared,
)
from reference.numerics.cast import to_float32
from reference.numerics.formats import format_of
from reference.qkv_bound_terms import Tokens, factors, hidden, shared_root, wide
from reference.qkv_truth import cache_rows, weight_columns

Array = NDArray[Any]
Inputs = Mapping[str, Any]

#: Tokens worked on together: their rows stay in cache.
_BLOCK = 128
#: Columns of one bn_stats instruction.
_BN = 512


def errors(config: Config, inputs: Inputs) -> dict[str, Known]:
    """Per result of `reference.qkv.model` truth, worst case and variance, in its shape; caches keep their old rows.

    Raises nothing: `config` and `inputs` are those of a legal call that context encoding serves. Where truth is not
    finite, or a sum overflows, the worst case is infinite or NaN.
    """
    with np.errstate(all="ignore"):
        residual, weight = hidden(config, inputs, _tile(config)), matrix(_weight(config, inputs))
        blocks = [slice(start, start + _BLOCK) for start in range(0, config.tokens, _BLOCK)]
        rows = [_block(config, inputs, each(residual, itemgetter(at)), weight, at) for at in blocks]
        return _stored(config, inputs, joined(rows, axis=0))


def limits(config: Config, inputs: Inputs) -> dict[str, Array]:
    """The worst cases of `errors` alone."""
    return {name: known.error for name, known in errors(config, inputs).items()}


def _block(config: Config, inputs: Inputs, x: Known, weight: Matrix, at: slice) -> Known:
    """The finished rows of some tokens, [tokens, I]."""
    tokens = _quantized(config, inputs, _normalised(config, inputs, x))
    y = _projected(config, inputs, tokens, weight)
    return _rotated(config, inputs, y, at) if config.fused_rope else y


def _tile(config: Config) -> str:
    return "bfloat16" if config.dtype == "float32" else config.dtype


def _end(config: Config) -> str:
    return "bfloat16" if config.quantization == "STATIC" else _tile(config)


def _moved(tensor: Any, dtype: str) -> Known:
    """A tensor that a DMA casts."""
    known = exact(wide(tensor))
    return known if tensor.dtype == format_of(dtype).storage else rounded(known, dtype, operations=0)


# --- up to the PE -----------------------------------------------------------------------------------------


def _normalised(config: Config, inputs: Inputs, x: Known) -> Tokens:
    if config.norm == "NO_NORM":
        return Tokens(x)
    unit = (_layer_norm if config.norm == "LAYER_NORM" else _rms)(config, x)
    return _with_gamma(config, inputs, unit) if config.gamma_applied else unit


def _eps_error(config: Config) -> float:
    """STATIC keeps eps in float32, else it is read from a tile."""
    return config.norm_eps * (UNIT if config.quantization == "STATIC" else half_ulp(_tile(config)))


def _rms(config: Config, x: Known) -> Tokens:
    mean = mean_of(squared(x), config.norm_divisor, config.H)
    return _unit(config, Tokens(x), mean, operations=1)


def _layer_norm(config: Config, x: Known) -> Tokens:
    terms = min(config.H, _BN) + config.H // _BN + 16
    mean = mean_of(x, config.H, terms)
    # Means of parts err like the largest elements, not like the mean of all.
    part = mean.error + terms * 2 * UNIT * x.size.max(axis=-1, keepdims=True)
    away = np.abs(x.value - mean.value)
    off_mean = x.error + part
    value = np.mean(away**2, axis=-1, keepdims=True)
    through = np.mean((2 * away + off_mean) * off_mean, axis=-1, keepdims=True)
    likely = np.mean(4 * away**2 * x.variance, axis=-1, keepdims=True) / config.H
    of_sum = terms * 2 * UNIT * (value + through) + part**2
    spread = Known(value, through + of_sum, likely + of_sum**2)
    centred = Tokens(plus(x, exact(mean.value), -1.0), shift=mean, slope=np.ones(config.H))
    return _unit(config, centred, spread, operations=2)


def _unit(config: Config, tokens: Tokens, mean: Known, operations: int) -> Tokens:
    """Times the root, rounded to the tile dtype."""
    root, ratio = shared_root(mean, config.norm_eps, _eps_error(config))
    own = scaled(tokens.y, root)
    own = own._replace(error=own.error * (1 + ratio.error))
    shift = None if tokens.shift is None else scaled(tokens.shift, root)
    tokens = dataclasses.replace(tokens, y=own, ratio=ratio, shift=shift)
    return dataclasses.replace(tokens, y=rounded(own, _tile(config), operations, whole=tokens.settled))


def _with_gamma(config: Config, inputs: Inputs, unit: Tokens) -> Tokens:
    gamma, beta = factors(config, inputs)
    y, slope = scaled(unit.y, gamma), None if unit.slope is None else unit.slope * gamma
    if beta is not None:
        # The product is rounded to float32 first, and may be larger than the sum.
        y = off(y, UNIT * y.size + TINY)
        y = plus(y, exact(np.broadcast_to(beta, y.value.shape)))
    tokens = dataclasses.replace(unit, y=y, fixed=beta, slope=slope)
    return dataclasses.replace(tokens, y=rounded(y, _tile(config), whole=tokens.settled))


def _quantized(config: Config, inputs: Inputs, tokens: Tokens) -> Tokens:
    if config.quantization == "STATIC":
        inverse = 1 / np.float64(inputs["qkv_in_scale"][0, 0])
        return Tokens(quantised(tokens.settled, inverse, FP8, (-FP8_MAX, FP8_MAX)))
    if config.quantization == "MX":
        rounding = mx_rounding(tokens.settled.size)
        return dataclasses.replace(tokens, y=off(tokens.y, rounding, np.square(rounding) / 3))
    return tokens


# --- behind the PE ----------------------------------------------------------------------------------------


def _projected(config: Config, inputs: Inputs, tokens: Tokens, weight: Matrix) -> Known:
    end = _end(config)
    total = tokens.times(weight, slice(None), _additions(config))
    if config.quantization == "STATIC":
        return _dequantised(config, inputs, total.settled(tokens))
    if config.bias is None:
        return total.rounded(tokens, end, operations=0).settled(tokens)
    bias = each(_moved(inputs["bias"], end), lambda x: np.broadcast_to(x, total.turning.shape))
    return total._replace(own=plus(total.own, bias)).rounded(tokens, end).settled(tokens)


def _additions(config: Config) -> int:
    if config.quantization == "NONE":
        return additions(PARTITIONS, config.h_tiles, _tile(config))
    # Two slots of a double row; or four products that enter together, or are cut together, two units for each.
    return additions(2 * PARTITIONS, config.h_tiles, FP8)


def _weight(config: Config, inputs: Inputs) -> Array | Known:
    if config.quantization == "NONE":
        weight = inputs["fused_qkv_weights"]
        narrow = weight.dtype == format_of(_tile(config)).storage
        return to_float32(weight) if narrow else _moved(weight, _tile(config))
    columns = [weight_columns(config, inputs, slice(i, i + BANK)) for i in range(0, config.I, BANK)]
    return np.concatenate(columns, axis=1)


def _dequantised(config: Config, inputs: Inputs, total: Known) -> Known:
    """STATIC. Without RoPE the raw sums are rounded first; scale and bias are two operations, or one fused."""
    end = _end(config)
    raw = total if config.fused_rope else rounded(total, end, operations=0)
    scale = wide(inputs["qkv_w_scale"])[0] * np.float64(inputs["qkv_in_scale"][0, 0])
    y = product(raw, rounded(exact(np.repeat(scale, config.segments)), "float32"))
    if config.bias is None:
        return rounded(y, end)
    # The product is rounded to float32 first, and may be larger than the sum.
    return rounded(plus(rounded(y, "float32"), _moved(inputs["bias"], end)), end)


def _rotated(config: Config, inputs: Inputs, y: Known, at: slice) -> Known:
    """RoPE on the columns of Q and K."""
    end, half, rows = _end(config), int(config.d_head or 0) // 2, len(y.value)
    turning = config.q_dim + config.kv_dim
    cos, sin = (_wave(config, inputs[f"{name}_cache"], at) for name in ("cos", "sin"))
    sin = each(sin, lambda wave: wave[:, :, :1])
    heads = each(y, lambda x: x[:, :turning].reshape(rows, -1, 2, half))
    straight = rounded(product(heads, cos), end)
    crossed = rounded(product(each(heads, lambda x: x[:, :, ::-1]), sin), end)
    turned = rounded(plus(straight, crossed, np.array([-1.0, 1.0]).reshape(1, 1, 2, 1)), end)
    return joined([each(turned, lambda x: x.reshape(rows, -1)), each(y, lambda x: x[:, turning:])], axis=1)


def _wave(config: Config, cache: Array, at: slice) -> Known:
    half = int(config.d_head or 0) // 2
    return _moved(cache.reshape(config.tokens, 1, 2, half)[at], _end(config))


def _stored(config: Config, inputs: Inputs, y: Known) -> dict[str, Known]:
    if config.kv_cache == "NONE":
        if _end(config) != config.dtype != "float32" and config.quantization != "STATIC":
            y = rounded(y, config.dtype, operations=0)
        return {"out": each(y, lambda x: _arranged(config, x))}
    start, stop = config.q_dim, config.q_dim + config.kv_dim
    query = each(y, lambda x: x[:, :start])
    if _end(config) != config.dtype != "float32":
        query = rounded(query, config.dtype, operations=0)
    found = {"out": each(query, lambda x: x.reshape(config.out_shape))}
    for name, columns in (("k", slice(start, stop)), ("v", slice(stop, None))):
        found[f"{name}_cache"] = _cache(config, inputs, name, Known(*(part[:, columns] for part in y)))
    return found


def _arranged(config: Config, rows: Array) -> Array:
    tokens: Array = rows.reshape(config.B, config.S, config.I)
    if config.output_layout == "NBSd":
        return tokens.reshape(*tokens.shape[:2], -1, int(config.d_head or 0)).transpose(2, 0, 1, 3)
    return tokens


def _cache(config: Config, inputs: Inputs, name: str, y: Known) -> Known:
    """A cache: exact in rows that no token has."""
    inverse = 1 / np.float64(inputs[f"{name}_scale"][0, 0])
    codes = quantised(y, inverse, str(config.kv_dtype), (config.kv_min, config.kv_max))
    rows = cache_rows(config, inputs)
    cache = wide(inputs[f"{name}_cache"])
    found = Known(cache, np.zeros_like(cache), np.zeros_like(cache))
    for whole, new in zip(found, codes, strict=True):
        whole.reshape(-1, config.kv_dim)[rows[rows >= 0]] = new[rows >= 0]
    return found
