"""How far a right attention_block_tkg may be from the truth: the companions of its stages in a row.

Each stage takes the errors of the one before and adds its own: `qkv_tkg_bound`, then per head the norms and the
rotation (terms of `error_terms`), `attention_tkg_bound`, `output_projection_tkg_bound`.

The worst case of `out` is finite wherever truth is, and of use where scores are small. A query comes out of up to ten
roundings to io, so in the worst case the score of a key is off by d channels that err as one, some tenths at the
default scale; exponentiated, that is anything from a share of a weight to many times it. Beyond a first order the
result is then bounded by what mean the weights could give, and in the end by the values themselves. No smaller worst
case can be derived without following one error of the query through all keys at once, whose second order is as large
again at these sizes. The variance goes on, as independent roundings never conspire like that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference import output_projection_tkg_bound, qkv_tkg_bound
from reference.attention_block_tkg_layout import (
    arranged,
    attention_inputs,
    by_channel,
    projection_inputs,
    qkv_inputs,
    returned,
    split_heads,
    stored,
    waves,
)
from reference.attention_tkg_bound import attended
from reference.attention_tkg_layout import arranged as arranged_attention
from reference.contracts.attention_block_tkg import Config, validate_call
from reference.contracts.attention_block_tkg_config import FP8, FP8_MAX
from reference.error_terms import (
    Known,
    additions,
    clamped,
    each,
    exact,
    inverse_root,
    mean_of,
    off,
    plus,
    product,
    rounded,
    scaled,
    squared,
)
from reference.numerics.cast import to_float32
from reference.rope import join_pairs, split_pairs

Array = NDArray[Any]
Arrays = dict[str, Array]


def bound(config: Config, inputs: Arrays) -> Arrays:
    """The worst cases of `errors` alone."""
    return {name: known.error for name, known in errors(config, inputs).items()}


def errors(config: Config, inputs: Arrays) -> dict[str, Known]:
    """Truth, worst case and variance of out, K_out and V_out in their shapes.

    Rows of the caches that are not written are exact. The worst case is infinite or NaN where truth is not finite or
    nothing can be said.

    Raises:
        KernelArgumentError: the config or a tensor is not legal.
    """
    validate_call(config, inputs)
    with np.errstate(all="ignore"):
        q, keys, values = _operands(config, inputs)
        attention = q if config.skip_attention else _attention(config, inputs, q, keys, values)
        return {"out": _output(config, inputs, attention)} | _stored(config, inputs, keys, values)


def _wide(tensor: Array) -> Array:
    return np.asarray(to_float32(tensor), np.float64)


def _operands(config: Config, inputs: Arrays) -> tuple[Known, Known, Known]:
    """Q, K and V as they enter attention, Q not scaled."""
    y = qkv_tkg_bound.errors(config.qkv, qkv_inputs(config, inputs))["out"]
    q, keys, new = (Known(*parts) for parts in zip(*(split_heads(config, part) for part in y), strict=True))
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
    """One ratio for all channels of a head; the elements: two float32 products (one without weight), one cast."""
    mean = mean_of(squared(x), config.d, additions(config.d, 1, "float32"), axis=0)
    root, worst = inverse_root(mean.value, mean.error, eps)
    _, likely = inverse_root(mean.value, np.minimum(np.sqrt(mean.variance), mean.error), eps)
    factor = 1.0 if weight is None else _wide(weight).reshape(-1, 1, 1, 1)
    y = scaled(x, root * factor)
    y = y._replace(error=y.error * (1 + worst))
    return rounded(off(y, worst * np.abs(y.value), np.square(likely * y.value)), config.dtype, operations=2)


def _rotated(config: Config, inputs: Arrays, x: Known) -> Known:
    """Every product and every sum is rounded."""
    cos, sin = (exact(_wide(wave)) for wave in waves(config, inputs))
    e, o = (Known(*parts) for parts in zip(*(split_pairs(part, config.rope_layout) for part in x), strict=True))

    def turned(first: Known, second: Known, sign: float) -> Known:
        one, other = (rounded(part, config.dtype) for part in (first, second))
        return rounded(plus(one, other, sign), config.dtype)

    even, odd = turned(product(e, cos), product(o, sin), -1.0), turned(product(o, cos), product(e, sin), 1.0)
    return Known(*(join_pairs(*parts, config.rope_layout) for parts in zip(even, odd, strict=True)))


def _quantized(x: Known, scale: Array) -> Known:
    kept = clamped(rounded(scaled(x, _wide(scale)[0, 0]), "float32"), -FP8_MAX, FP8_MAX)
    return rounded(kept, FP8, operations=0, ceiling=FP8_MAX)


def _attention(config: Config, inputs: Arrays, q: Known, keys: Known, values: Known) -> Known:
    # softmax_scale itself is rounded to float32, hence the second operation.
    query = rounded(scaled(q, config.scale), config.dtype, operations=2)
    stage = config.attention
    stage_inputs = attention_inputs(config, inputs, query.value, keys.value, values.value)
    out = attended(stage, stage_inputs, query, keys, values)
    return each(out, lambda part: by_channel(config, arranged_attention(stage, part)))


def _output(config: Config, inputs: Arrays, attention: Known) -> Known:
    if config.W_out is None:
        return each(attention, lambda part: arranged(config, part))
    rows = each(attention, lambda part: part.transpose(1, 3, 2, 0).reshape(config.tokens, -1))
    stage_inputs = projection_inputs(config, inputs, attention.value)
    return output_projection_tkg_bound.projected(config.projection, stage_inputs, rows)


def _stored(config: Config, inputs: Arrays, keys: Known, values: Known) -> dict[str, Known]:
    if not config.update_cache:
        parts = [returned(config, k, v) for k, v in zip(keys, values, strict=True)]
        return {name: Known(*(part[name] for part in parts)) for name in parts[0]}
    caches = [_wide(inputs[name]) for name in ("K_cache", "V_cache")]
    # What is not written is exact.
    nothing = [np.zeros(cache.shape) for cache in caches]
    index = inputs["kv_cache_update_idx"]
    parts = [
        stored(config, old[0], old[1], k, v, index)
        for old, k, v in zip((caches, nothing, nothing), keys, values, strict=True)
    ]
    return {name: Known(*(part[name] for part in parts)) for name in parts[0]}
