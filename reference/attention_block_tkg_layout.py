"""The tensors of attention_block_tkg in the order of its stages, for model, truth and bound. All bits are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.cache_update import updated
from reference.contracts.attention_block_tkg import Config, cache_shape
from reference.contracts.attention_block_tkg_config import PARTITIONS

Array = NDArray[Any]
Arrays = dict[str, Array]


def hidden_rows(config: Config, x: Array) -> Array:
    """X as [B, S, H], from HBM or from the SBUF tile [128, T, H/128] whose grouping depends on LNC."""
    if not config.X_in_sb:
        return x
    grouped = x.reshape(PARTITIONS, config.tokens, config.lnc, -1)
    return grouped.transpose(1, 2, 0, 3).reshape(config.B, config.S, config.H)


def hidden_tile(config: Config, rows: Array) -> Array:
    """Inverse of `hidden_rows` for X in SBUF."""
    grouped = rows.reshape(config.tokens, config.lnc, PARTITIONS, -1)
    return np.ascontiguousarray(grouped.transpose(2, 0, 1, 3).reshape(PARTITIONS, config.tokens, -1))


def qkv_inputs(config: Config, inputs: Arrays) -> dict[str, Any]:
    """Tensors of the QKV stage by the names of `qkv`."""
    return {
        "input": hidden_rows(config, inputs["X"]),
        "fused_qkv_weights": inputs["W_qkv"],
        "bias": inputs.get("bias_qkv"),
        "gamma_norm_weights": inputs.get("rmsnorm_X_gamma"),
        "qkv_w_scale": inputs.get("weight_dequant_scale_qkv"),
        "qkv_in_scale": inputs.get("input_dequant_scale_qkv"),
    }


def split_heads(config: Config, qkv: Array) -> tuple[Array, Array, Array]:
    """Q [d, B, q, S], K [d, B, 1, S] and V [B, S, d] of [B, S, I], as copies in their order on the chip."""
    heads = qkv.reshape(config.B, config.S, config.q + 2, config.d)
    channels = heads.transpose(3, 0, 2, 1)
    queries, keys = channels[:, :, : config.q], channels[:, :, config.q : config.q + 1]
    return np.ascontiguousarray(queries), np.ascontiguousarray(keys), np.ascontiguousarray(heads[:, :, -1])


def waves(config: Config, inputs: Arrays) -> tuple[Array, Array]:
    """cos and sin as [d/2, B, 1, S], one for all heads."""
    return inputs["cos"][:, :, None], inputs["sin"][:, :, None]


def attention_inputs(config: Config, inputs: Arrays, q: Array, keys: Array, values: Array) -> Arrays:
    """Tensors of the attention stage by the names of `attention_tkg`, from Q, K and V as `split_heads` has them."""
    rank3 = cache_rows(config, inputs["K_cache"], config.K_cache_transposed), cache_rows(config, inputs["V_cache"])
    prior = rank3 if config.block_kv else [cache[:, None] for cache in rank3]
    found = {
        "q": q.reshape(config.d, -1),
        "k_active": keys.reshape(config.d, -1),
        "v_active": values[:, None],
        "k_prior": prior[0],
        "v_prior": prior[1],
        "mask": inputs["attention_mask"],
    }
    optional = {name: inputs.get(name) for name in ("sink", "active_blocks_table")}
    return found | {name: tensor for name, tensor in optional.items() if tensor is not None}


def cache_rows(config: Config, cache: Array, transposed: bool = False) -> Array:
    """A cache without its head axis."""
    shape, axis = cache_shape(config, transposed), config.head_axis
    return cache.reshape(shape[:axis] + shape[axis + 1 :]) if config.cache_rank == 4 else cache


def projection_inputs(config: Config, inputs: Arrays, attention: Array) -> dict[str, Any]:
    """Tensors of the output projection by the names of `output_projection_tkg`; attention [d, B, q, S]."""
    return {
        "attention": attention,
        "weight": inputs["W_out"],
        "bias": inputs.get("bias_out"),
        "weight_scale": inputs.get("weight_dequant_scale_out"),
        "input_scale": inputs.get("input_dequant_scale_out"),
    }


def arranged(config: Config, attention: Array) -> Array:
    """Attention, or skipped queries, [d, B, q, S] as the result of a call without W_out."""
    if config.out_in_sb:
        return np.stack([attention.reshape(config.d, -1)] * config.lnc)
    if config.skip_attention:
        return attention.reshape(config.d, -1)
    return np.ascontiguousarray(attention.transpose(1, 2, 0, 3))


def by_channel(config: Config, out: Array) -> Array:
    """The result of the attention stage as [d, B, q, S]."""
    if config.attention_in_sb:
        queries: Array = out[0].reshape(config.d, config.B, config.q, config.S)
        return queries
    return np.ascontiguousarray(out.transpose(2, 0, 1, 3))


def returned(config: Config, keys: Array, values: Array) -> Arrays:
    """New keys and values as results of a call that leaves the caches alone."""
    return {"K_out": keys[:, :, 0], "V_out": values[:, None]}


def stored(config: Config, k_cache: Array, v_cache: Array, keys: Array, values: Array, index: Array) -> Arrays:
    """Both caches after the update, in the shapes the caller gave them; keys [d, B, 1, S], values [B, S, d]."""
    old_keys = cache_rows(config, k_cache, config.K_cache_transposed)
    if config.K_cache_transposed:
        old_keys = old_keys.transpose(0, 2, 1)
    new_keys = updated(old_keys, keys[:, :, 0].transpose(1, 2, 0), index, config.block_kv)
    if config.K_cache_transposed:
        new_keys = np.ascontiguousarray(new_keys.transpose(0, 2, 1))
    new_values = updated(cache_rows(config, v_cache), values, index, config.block_kv)
    return {
        "K_out": new_keys.reshape(cache_shape(config, config.K_cache_transposed)),
        "V_out": new_values.reshape(cache_shape(config, False)),
    }
