"""The truth of attention_block_tkg: the mathematics of its stages in float64, no rounding of intermediates.

Its last bits depend on the host's libraries. It serves error bounds, not goldens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
from reference.attention_tkg_truth import attended
from reference.contracts.attention_block_tkg import Config, validate_call
from reference.contracts.attention_block_tkg_config import FP8_MAX
from reference.head_norm import head_norm_exact
from reference.numerics.cast import to_float32
from reference.output_projection_tkg import projected
from reference.qkv_truth import truth_of as projected_qkv
from reference.rope import rotate_exact

Array = NDArray[Any]
Arrays = dict[str, Array]


class Exact(NamedTuple):
    """What enters attention in float64."""

    q: Array  # [d, B, q, S], not scaled
    keys: Array  # [d, B, 1, S], times k_scale and clamped where quantized
    values: Array  # [B, S, d], likewise


def truth(config: Config, inputs: Arrays) -> Arrays:
    """The results in float64: out, K_out, V_out, with no rounding of intermediates.

    Quantized operands are what their codes and scales say; activations over their scale, and new keys and values
    times theirs, are clamped but not rounded. Rows of the caches that are not written are their stored values.

    Raises:
        KernelArgumentError: the config or a tensor is not legal.
    """
    validate_call(config, inputs)
    return truth_of(config, inputs)


def truth_of(config: Config, inputs: Arrays) -> Arrays:
    """`truth` of a legal call; the caches may come in float32, whatever the config says."""
    with np.errstate(all="ignore"):
        exact = exact_operands(config, inputs)
        attention = exact.q if config.skip_attention else exact_attention(config, inputs, exact)
        return {"out": _output(config, inputs, attention)} | _stored(config, inputs, exact)


def exact_operands(config: Config, inputs: Arrays) -> Exact:
    """Queries, keys and values of a legal call as they enter attention."""
    q, keys, values = split_heads(config, projected_qkv(config.qkv, qkv_inputs(config, inputs))["out"])
    q, keys = (_processed(config, inputs, x, name) for x, name in ((q, "Q"), (keys, "K")))
    if config.quantized_kv:
        keys, values = (_clamped(x, inputs[name]) for x, name in ((keys, "k_scale"), (values, "v_scale")))
    return Exact(q, keys, values)


def exact_attention(config: Config, inputs: Arrays, exact: Exact) -> Array:
    """[d, B, q, S]."""
    q = exact.q * config.scale
    stage_inputs = attention_inputs(config, inputs, q, exact.keys, exact.values)
    return by_channel(config, attended(config.attention, stage_inputs, q, exact.keys)["out"])


def _processed(config: Config, inputs: Arrays, x: Array, name: str) -> Array:
    if config.rmsnorm_QK_pre_rope_enabled:
        x = head_norm_exact(x, None, config.rmsnorm_QK_pre_rope_eps)
    if config.rope:
        cos, sin = waves(config, inputs)
        x = rotate_exact(x, _wide(cos), _wide(sin), config.rope_layout)
    if config.rmsnorm_QK_post_rope_enabled:
        weight = inputs.get(f"rmsnorm_QK_post_rope_W_{name}")
        x = head_norm_exact(x, None if weight is None else weight[0], config.rmsnorm_QK_post_rope_eps)
    return x


def _clamped(x: Array, scale: Array) -> Array:
    return np.asarray(np.clip(x * _wide(scale)[0, 0], -FP8_MAX, FP8_MAX))


def _wide(tensor: Array) -> Array:
    return np.asarray(to_float32(tensor), np.float64)


def _output(config: Config, inputs: Arrays, attention: Array) -> Array:
    if config.W_out is None:
        return arranged(config, attention)
    return projected(config.projection, projection_inputs(config, inputs, attention))["out"]


def _stored(config: Config, inputs: Arrays, exact: Exact) -> Arrays:
    if not config.update_cache:
        return returned(config, exact.keys, exact.values)
    caches = _wide(inputs["K_cache"]), _wide(inputs["V_cache"])
    return stored(config, *caches, exact.keys, exact.values, inputs["kv_cache_update_idx"])
