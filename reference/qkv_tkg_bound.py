"""How far a right `qkv` in token generation may be from the truth, per element.

A companion run of truth; the terms of single operations are those of `error_terms`, what tokens share is that of
`qkv_bound_terms`. In the order of the rounding points of the contract:

hidden    the residual sum: two float32 additions by DMA in either order, one cast. Exact without.
norm      RMS: squares, their sum over a partition's columns and over partitions (a float32 matmul), rsqrt: one shared
          ratio. The elements: two float32 products, one cast.
          LAYER: mean and mean square likewise; their difference loses the spread of tokens with a large mean, and so
          does the bound. The mean's error is shared. The elements: centred, times gamma, times the root, plus beta,
          each one operation and one cast.
quantise  STATIC: times a reciprocal, rounded to io, clamped, cast to fp8. From here on nothing is shared.
psum      a dot over the PE tiles of one group, one addition onto PSUM per tile.
partial   the groups' sums added one by one, each sum rounded to io; the bias begins the chain where not quantised.
dequant   STATIC, ROW: one operation and one cast; the bias: another.
total     the cores' parts: one operation, one cast.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.contracts.qkv_config import FP8, FP8_MAX, PARTITIONS, Config
from reference.error_terms import (
    TINY,
    UNIT,
    Known,
    additions,
    each,
    exact,
    matrix,
    mean_of,
    off,
    plus,
    quantised,
    rounded,
    scaled,
    squared,
)
from reference.numerics.cast import to_float32
from reference.qkv_bound_terms import Projected, Tokens, factors, hidden, shared_root, wide
from reference.qkv_tkg import Groups

Array = NDArray[Any]
Inputs = Mapping[str, Any]


def errors(config: Config, inputs: Inputs) -> dict[str, Known]:
    """Per result of `reference.qkv.model` truth, worst case and variance, in its shape.

    Raises nothing: `config` and `inputs` are those of a legal call that token generation serves. Where truth is not
    finite, or a sum overflows, the worst case is infinite or NaN.
    """
    with np.errstate(all="ignore"):
        residual = hidden(config, inputs, config.dtype)
        out = _projected(config, inputs, _operand(config, inputs, residual))
    found = {"out": each(out, lambda rows: _arranged(config, rows))}
    if config.fused_residual_add:
        found["fused_hidden"] = each(residual, lambda x: x.reshape(config.B, config.S, config.H))
    return found


def limits(config: Config, inputs: Inputs) -> dict[str, Array]:
    """The worst cases of `errors` alone."""
    return {name: known.error for name, known in errors(config, inputs).items()}


# --- tokens -----------------------------------------------------------------------------------------------


def _operand(config: Config, inputs: Inputs, x: Known) -> Tokens:
    """What the PE multiplies."""
    tokens = Tokens(x)
    if config.norm != "NO_NORM":
        tokens = (_rms if config.norm == "RMS_NORM" else _layer_norm)(config, inputs, x)
    if config.quantization != "STATIC":
        return tokens
    inverse = 1 / np.float64(inputs["qkv_in_scale"][0, 0])
    return Tokens(quantised(tokens.settled, inverse, FP8, (-FP8_MAX, FP8_MAX), stored=config.dtype))


def _terms(config: Config) -> int:
    """Additions on the path of a statistic: over the columns of a partition, then over the partitions."""
    return config.h_tiles + additions(PARTITIONS, 1, "float32")


def _rms(config: Config, inputs: Inputs, x: Known) -> Tokens:
    gamma, _ = factors(config, inputs)
    root, ratio = shared_root(mean_of(squared(x), config.norm_divisor, _terms(config)), config.norm_eps)
    # The product with gamma is rounded to float32 before the root multiplies it.
    own = scaled(off(scaled(x, gamma), np.full_like(x.value, TINY)), root)
    tokens = Tokens(_grown(own, ratio), ratio)
    return dataclasses.replace(tokens, y=rounded(tokens.y, config.dtype, operations=2, whole=tokens.settled))


def _layer_norm(config: Config, inputs: Inputs, x: Known) -> Tokens:
    gamma, beta = factors(config, inputs)
    mean = mean_of(x, config.H, _terms(config))
    root, ratio = shared_root(_spread(config, x, mean), config.norm_eps)
    tokens = Tokens(plus(x, exact(mean.value), -1.0), ratio, shift=mean, slope=np.ones(config.H))
    tokens = _step(config, tokens)
    tokens = _step(config, _scaled(tokens, gamma))
    tokens = _step(config, _scaled(dataclasses.replace(tokens, y=_grown(tokens.y, ratio)), root))
    if beta is None:
        return tokens
    y = plus(tokens.y, exact(np.broadcast_to(beta, x.value.shape)))
    return _step(config, dataclasses.replace(tokens, y=y, fixed=beta))


def _spread(config: Config, x: Known, mean: Known) -> Known:
    """Mean square minus squared mean, [T, 1]."""
    away = np.abs(x.value - mean.value)
    value = np.mean(away**2, axis=-1, keepdims=True)
    # What x errs by reaches the spread through its distance from the mean, what float32 does through its size.
    through = np.mean((2 * away + 2 * x.error) * x.error, axis=-1, keepdims=True)
    likely = np.mean(4 * away**2 * x.variance, axis=-1, keepdims=True) / config.H
    sizes = exact(x.size)
    of_square, of_mean = (mean_of(part, config.H, _terms(config)) for part in (squared(sizes), sizes))
    inner = of_square.error + (2 * np.abs(mean.value) + of_mean.error) * of_mean.error
    inner = inner + 2 * UNIT * (of_square.size + mean.size**2)
    return off(Known(value, through, likely), inner)


def _grown(x: Known, ratio: Known) -> Known:
    """Own errors are multiplied by the kernel's root, not by the true one."""
    return x._replace(error=x.error * (1 + ratio.error))


def _scaled(tokens: Tokens, factor: Array) -> Tokens:
    shift = tokens.shift
    slope = tokens.slope
    if factor.shape[-1] == 1:
        shift = None if shift is None else scaled(shift, factor)
    else:
        slope = None if slope is None else slope * factor
    return dataclasses.replace(tokens, y=scaled(tokens.y, factor), shift=shift, slope=slope)


def _step(config: Config, tokens: Tokens) -> Tokens:
    """One float32 operation and one cast."""
    return dataclasses.replace(tokens, y=rounded(tokens.y, config.dtype, whole=tokens.settled))


# --- projection -------------------------------------------------------------------------------------------


def _projected(config: Config, inputs: Inputs, tokens: Tokens) -> Known:
    """The sum over cores of their combined, dequantised groups; [T, I]."""
    parts = [_part(config, inputs, tokens, core) for core in range(config.lnc)]
    total = parts[0] if len(parts) == 1 else parts[0].plus(parts[1]).rounded(tokens, config.dtype)
    return total.settled(tokens)


def _part(config: Config, inputs: Inputs, tokens: Tokens, core: int) -> Projected:
    bias = None
    if config.bias is not None and core == 0:
        bias = np.broadcast_to(wide(inputs["bias"]), (config.tokens, config.I))
    quantized = config.quantization != "NONE"
    nothing = np.zeros((config.tokens, config.I))
    total = Projected(exact(nothing if quantized or bias is None else bias), nothing, None)
    for group, rows in enumerate(_groups(config, core)):
        weight = matrix(to_float32(inputs["fused_qkv_weights"][rows]))
        terms = additions(PARTITIONS, len(rows) // PARTITIONS, config.dtype if not quantized else FP8)
        total = total.plus(tokens.times(weight, rows, terms))
        total = total.rounded(tokens, config.dtype, operations=0 if group == 0 and (quantized or bias is None) else 1)
    if not quantized:
        return total
    total = total.scaled(_scales(config, inputs)).rounded(tokens, config.dtype, operations=2)
    if bias is None:
        return total
    return total._replace(own=plus(total.own, exact(bias))).rounded(tokens, config.dtype)


def _groups(config: Config, core: int) -> list[Array]:
    """Hidden indices of each group of a core."""
    groups = Groups(config.h_tiles // config.lnc, config.tokens)
    rows = np.arange(config.H).reshape(config.lnc, PARTITIONS, -1)[core]
    return [
        np.concatenate([rows[:, tiles].reshape(-1) for tiles in groups.members(group)]) for group in range(groups.count)
    ]


def _scales(config: Config, inputs: Inputs) -> Array:
    scale = wide(inputs["qkv_w_scale"])[0]
    if config.quantization == "ROW":
        return np.asarray(scale)
    return np.asarray(np.repeat(scale, config.segments) * np.float64(inputs["qkv_in_scale"][0, 0]))


def _arranged(config: Config, rows: Array) -> Array:
    tokens: Array = rows.reshape(config.B, config.S, config.I)
    if config.output_layout == "BSD":
        return tokens
    return np.asarray(tokens.reshape(config.B, config.S, -1, PARTITIONS).transpose(2, 0, 1, 3))
