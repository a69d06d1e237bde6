"""Inputs of attention_block_tkg for the tests of its model: every tensor that a config asks for, of useful size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.attention_mask import block_rows
from reference.contracts.attention_block_tkg import Config, refusal, tensors
from reference.contracts.tensor_call import Tensor
from reference.numerics.cast import cast

Array = NDArray[Any]
Inputs = dict[str, Array]

FLAT = {"B": 2, "S": 3, "H": 1024, "q": 2, "d": 64, "S_ctx": 256, "S_max": 300}
BLOCK = {"block_len": 16, "S_max": 256, "num_blocks": 40}
FP8_KV = {"k_scale": "float32", "v_scale": "float32", "kv_dtype": "float8_e4m3"}
FLOAT16 = {"dtype": "float16", "W_qkv": "float16", "kv_dtype": "float16", "W_out": "float16"}
STATIC = {"quantization_type_qkv": "STATIC", "W_qkv": "float8_e4m3"}
STATIC_OUT = {"quantization_type_out": "STATIC", "W_out": "float8_e4m3"}
NORMS = {"rmsnorm_QK_pre_rope_enabled": True, "rmsnorm_QK_post_rope_enabled": True, "W_Q": "float32", "W_K": "bfloat16"}
NO_ROPE = {"cos": None, "sin": None}
NO_OUT = {"W_out": None}
PLAIN = {"rmsnorm_X_enabled": False, "gamma": None, **NO_ROPE, **NO_OUT}


def config_of(**changes: Any) -> Config:
    """A legal small config: flat caches, RMSNorm, RoPE, output projection, LNC2, unless changed."""
    config = Config(**(FLAT | changes))
    assert (found := refusal(config)) is None, found
    return config


def stored(values: Any, dtype: str) -> Array:
    if dtype == "uint32":
        return np.asarray(values).astype(np.uint32)
    return cast(np.asarray(values, np.float32), dtype)


def cached(config: Config) -> Array:
    """Tokens in the cache of every batch, [B]: all different, room for the new ones."""
    room = config.S_ctx - config.S
    if config.block_kv:
        # The first new slot begins a block, so that all of them lie in it; with an index per token it ends one.
        blocks = np.array([(3 + 2 * b) % (room // config.block_len) for b in range(config.B)])
        return blocks * config.block_len + (config.block_len - 1 if config.idx_per_token else 0)
    return np.array([(3 * b + 3 * (config.S_ctx // 4)) % room for b in range(config.B)])


def build(config: Config, seed: int = 0) -> Inputs:
    """Values of order one; the mask of a decode step after `cached` tokens; indices right behind them."""
    draw = np.random.default_rng(seed)
    inputs = {}
    for name, tensor in tensors(config).items():
        make = SPECIAL.get(name, _normal)
        inputs[name] = stored(make(config, draw, tensor), tensor.dtype)
    if "kv_cache_update_idx" in inputs:
        inputs["kv_cache_update_idx"] = indices(config, inputs.get("active_blocks_table"))
    return inputs


def indices(config: Config, table: Array | None) -> Array:
    """The slot behind the cached tokens of every batch, [B, 1], or those of all new tokens, [B, S]."""
    token = cached(config)[:, None] + np.arange(config.S if config.idx_per_token else 1)
    if table is None:
        return token.astype(np.uint32)
    block = np.take_along_axis(table.astype(np.int64), token // config.block_len, axis=1)
    return (block * config.block_len + token % config.block_len).astype(np.uint32)


def decode_mask(config: Config, count: Array) -> Array:
    """[S_ctx, B, q, S], the cached tokens and the new ones up to the query, in the row order of the cache."""
    token, query = np.arange(config.S_ctx)[:, None, None], np.arange(config.S)
    new = token - (config.S_ctx - config.S)
    kept = (token < count[:, None]) & (new < 0) | (new >= 0) & (new <= query)
    mask = np.repeat(kept[:, :, None], config.q, axis=2)
    if not config.block_kv:
        return mask
    plan = config.attention.plan
    return np.asarray(mask[block_rows(config.S_ctx, plan.n_seq, plan.block_len)])


def _normal(config: Config, draw: np.random.Generator, tensor: Tensor) -> Array:
    return draw.standard_normal(tensor.shape)


def _weight(config: Config, draw: np.random.Generator, tensor: Tensor) -> Array:
    size = 16.0 if tensor.dtype == "float8_e4m3" else tensor.shape[0] ** -0.5
    return draw.standard_normal(tensor.shape) * size


def _about_one(config: Config, draw: np.random.Generator, tensor: Tensor) -> Array:
    return draw.uniform(0.5, 1.5, tensor.shape)


def _wave(config: Config, draw: np.random.Generator, tensor: Tensor) -> Array:
    return draw.uniform(-1, 1, tensor.shape)


def _kv_scale(config: Config, draw: np.random.Generator, tensor: Tensor) -> Array:
    return np.full(tensor.shape, draw.uniform(4, 8))


def _qkv_weight_scale(config: Config, draw: np.random.Generator, tensor: Tensor) -> Array:
    row = draw.uniform(0.5, 1.5, (1, tensor.shape[1])) / 16 * config.H**-0.5
    return np.repeat(row, tensor.shape[0], axis=0)


def _out_weight_scale(config: Config, draw: np.random.Generator, tensor: Tensor) -> Array:
    row = draw.uniform(0.5, 1.5, (1, tensor.shape[1])) / 16 * (config.q * config.d) ** -0.5
    return np.repeat(row, tensor.shape[0], axis=0)


def _input_scale(config: Config, draw: np.random.Generator, tensor: Tensor) -> Array:
    return np.full(tensor.shape, draw.uniform(0.02, 0.04))


def _mask(config: Config, draw: np.random.Generator, tensor: Tensor) -> Array:
    return decode_mask(config, cached(config))


def _table(config: Config, draw: np.random.Generator, tensor: Tensor) -> Array:
    return draw.permutation(config.blocks)[: tensor.shape[0] * tensor.shape[1]].reshape(tensor.shape)


SPECIAL = {
    "W_qkv": _weight,
    "W_out": _weight,
    "rmsnorm_X_gamma": _about_one,
    "rmsnorm_QK_post_rope_W_Q": _about_one,
    "rmsnorm_QK_post_rope_W_K": _about_one,
    "cos": _wave,
    "sin": _wave,
    "k_scale": _kv_scale,
    "v_scale": _kv_scale,
    "weight_dequant_scale_qkv": _qkv_weight_scale,
    "input_dequant_scale_qkv": _input_scale,
    "weight_dequant_scale_out": _out_weight_scale,
    "input_dequant_scale_out": _input_scale,
    "attention_mask": _mask,
    "active_blocks_table": _table,
}
