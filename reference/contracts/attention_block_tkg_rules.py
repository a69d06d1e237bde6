"""What a legal call of `attention_block_tkg` fulfils, in the order in which it is tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reference.contract import Rule
from reference.contracts.attention_block_tkg_config import (
    FLOATS,
    FP8,
    GENERATIONS,
    IO_DTYPES,
    PARTITIONS,
    QUANTIZATIONS,
    Config,
)
from reference.contracts.attention_tkg import ID_LIMIT, MASK_DTYPES
from reference.contracts.float32_number import is_float32_number
from reference.contracts.output_projection_tkg import BANK, NH_LIMIT
from reference.contracts.qkv_config import H_LIMIT, I_LIMIT

_SIZES = ("B", "S", "H", "q", "d", "S_ctx", "S_max")
_OPTIONAL_SIZES = ("block_len", "num_blocks")
_FLAGS = (
    "X_in_sb", "rmsnorm_X_enabled", "rmsnorm_QK_pre_rope_enabled", "rope_contiguous_layout",
    "rmsnorm_QK_post_rope_enabled", "K_cache_transposed", "update_cache", "idx_per_token", "transposed_out",
    "out_in_sb", "skip_attention",
)  # fmt: skip
_EPS = ("rmsnorm_QK_pre_rope_eps", "rmsnorm_QK_post_rope_eps")
_FLOAT_TENSORS = ("gamma", "cos", "sin", "W_Q", "W_K", "sink", "k_scale", "v_scale", "bias_out")
_DTYPES = ("dtype", "W_qkv", "bias_qkv", *_FLOAT_TENSORS, "kv_dtype", "mask_dtype", "W_out")
_SCALE_ROWS = ("scale_rows", "k_scale_rows", "v_scale_rows")


def _show(*names: str) -> Callable[[Config], str]:
    return lambda config: ", ".join(f"{name}={getattr(config, name)!r}" for name in names)


def _whole(config: Config, names: tuple[str, ...], least: int) -> bool:
    sizes = [getattr(config, name) for name in names]
    return all(type(size) is int and size >= least for size in sizes)


def _is_eps(value: Any) -> bool:
    return is_float32_number(value) and value >= 0


def _weight_dtypes(quantization: str, plain: tuple[str, ...]) -> tuple[str, ...]:
    return plain if quantization == "NONE" else (FP8,)


def _legal_dtypes(c: Config) -> bool:
    optional = all(getattr(c, name) in (None, *FLOATS) for name in _FLOAT_TENSORS)
    projections = (
        c.W_qkv in _weight_dtypes(c.quantization_type_qkv, (c.dtype,))
        and c.bias_qkv in (None, c.dtype)
        and (c.W_out is None or c.W_out in _weight_dtypes(c.quantization_type_out, IO_DTYPES))
    )
    caches = c.kv_dtype in (*IO_DTYPES, FP8) and c.mask_dtype in MASK_DTYPES
    return c.dtype in IO_DTYPES and optional and projections and caches


def _gamma_matches(c: Config) -> bool:
    return (c.gamma is not None) == c.rmsnorm_X_enabled


def _head_axis(c: Config) -> bool:
    known = type(c.block_head_axis) is int and c.block_head_axis in (1, 2)
    return known and (c.block_head_axis == 2 or (c.block_kv and c.cache_rank == 4))


def _nothing_to_project(c: Config) -> bool:
    return c.W_out is not None or (c.bias_out is None and c.quantization_type_out == "NONE")


_API, _FACTS = "published API page", "fact sheet"
RULES: tuple[Rule[Config], ...] = (
    Rule(
        "flags", "flags", "the flags must be bool",
        lambda c: all(type(getattr(c, name)) is bool for name in _FLAGS), _show(*_FLAGS),
        "pass every argument by keyword: versions of this API order them differently", f"{_FACTS} AB36",
    ),
    Rule(
        "quantization_kinds", "quantization_type_qkv, quantization_type_out",
        "the kinds must be NONE, STATIC or ROW",
        lambda c: c.quantization_type_qkv in QUANTIZATIONS and c.quantization_type_out in QUANTIZATIONS,
        _show("quantization_type_qkv", "quantization_type_out"), "name one of these", "decision AB-D16",
    ),
    Rule(
        "sizes", "X, W_qkv, attention_mask, K_cache, V_cache",
        "B, S, H, q, d, S_ctx and S_max must be integers of at least 1",
        lambda c: _whole(c, _SIZES, 1) and _whole(c, _OPTIONAL_SIZES, 0), _show(*_SIZES, *_OPTIONAL_SIZES),
        "do not launch on empty tensors", "the machine has no empty tiles",
    ),
    Rule(
        "lnc", "launch grid", "LNC must be 1 or 2", lambda c: type(c.lnc) is int and c.lnc in (1, 2),
        _show("lnc"), "launch on one or two cores", "logical cores of trn2",
    ),
    Rule(
        "generation", "target", "the generation must be gen3 or gen4", lambda c: c.generation in GENERATIONS,
        _show("generation"), "build for trn2 or later", f"{_API}, Constraints",
    ),
    Rule(
        "cache_rank", "K_cache, V_cache", "the caches must have 3 dimensions, or 4 with one head",
        lambda c: c.cache_rank in (3, 4), _show("cache_rank"), "one KV head per call", f"{_FACTS} 4.4",
    ),
    Rule(
        "dtypes", "tensors",
        f"X must be of {', '.join(IO_DTYPES)}, W_qkv and bias_qkv like X, W_out a 16-bit float, weights {FP8} "
        f"exactly when quantized, the mask of {', '.join(MASK_DTYPES)}, all else of {', '.join(FLOATS)}",
        _legal_dtypes, _show(*_DTYPES), "cast the tensor", f"{_API}, Supported Data Types",
    ),
    Rule("d_even", "V_cache", "d must be even", lambda c: c.d % 2 == 0, _show("d"), "pad the heads", _API),
    Rule(
        "d_head", "V_cache", "d must be at most 128", lambda c: c.d <= PARTITIONS, _show("d"),
        "split the heads", f"{_FACTS} 11",
    ),
    Rule(
        "columns", "X", "B*S*q must be at most 128", lambda c: c.B * c.S * c.q <= PARTITIONS,
        _show("B", "S", "q"), "split the batch or the heads", f"{_API}, Constraints; decision AB-D4",
    ),
    Rule(
        "h_limit", "X", f"H must be at most {H_LIMIT}", lambda c: c.H <= H_LIMIT, _show("H"),
        "split the contraction", "the limit of qkv",
    ),
    Rule(
        "h_multiple", "X", "H must be a multiple of 128 on every core",
        lambda c: c.H % PARTITIONS == 0 and c.H // PARTITIONS % c.lnc == 0, _show("H", "lnc"),
        "pad H with zeros and pass X_hidden_dim_actual", f"{_API}, Constraints",
    ),
    Rule(
        "i_limit", "W_qkv", f"d*(q+2) must be at most {I_LIMIT}", lambda c: c.I <= I_LIMIT, _show("d", "q"),
        "split the heads over several calls", "the limit of qkv",
    ),
    Rule(
        "hidden_actual", "X_hidden_dim_actual", "X_hidden_dim_actual must be None or 1 .. H",
        lambda c: c.X_hidden_dim_actual is None
        or (_whole(c, ("X_hidden_dim_actual",), 1) and c.X_hidden_dim_actual <= c.H),
        _show("X_hidden_dim_actual", "H"), "pass the size without padding", _API,
    ),
    Rule(
        "eps", "rmsnorm_X_eps, rmsnorm_QK_pre_rope_eps, rmsnorm_QK_post_rope_eps",
        "every eps must be a number of at least 0, finite in float32",
        lambda c: _is_eps(c.eps) and all(_is_eps(getattr(c, name)) for name in _EPS),
        _show("rmsnorm_X_eps", *_EPS), "pass a small positive number", _FACTS,
    ),
    Rule(
        "softmax_scale", "softmax_scale", "softmax_scale must be None or a number, finite in float32",
        lambda c: is_float32_number(c.scale), _show("softmax_scale"), "leave it out for 1/sqrt(d)", _API,
    ),
    Rule(
        "gamma", "rmsnorm_X_gamma", "gamma must be given exactly with rmsnorm_X_enabled", _gamma_matches,
        _show("gamma", "rmsnorm_X_enabled"), "pass gamma exactly with the norm", "decision AB-D7",
    ),
    Rule(
        "scale_rows", "weight_dequant_scale_qkv, k_scale, v_scale", "scales must have 1 or 128 rows",
        lambda c: all(getattr(c, name) in (1, PARTITIONS) for name in _SCALE_ROWS), _show(*_SCALE_ROWS),
        "repeat the scale on 128 rows", f"{_FACTS} 1",
    ),
    Rule(
        "rope_pair", "cos, sin", "cos and sin must be given both, with one dtype, or not at all",
        lambda c: c.cos == c.sin, _show("cos", "sin"), "pass both, or neither", "decision AB-D7",
    ),
    Rule(
        "rope_d", "V_cache", "RoPE needs d = 64 or 128", lambda c: not c.rope or c.d in (64, 128), _show("d"),
        "pad the heads, or rotate before the call", f"{_FACTS} 6.4; decision AB-D8",
    ),
    Rule(
        "head_weights", "rmsnorm_QK_post_rope_W_Q, rmsnorm_QK_post_rope_W_K",
        "the weights of the head norms need rmsnorm_QK_post_rope_enabled",
        lambda c: c.rmsnorm_QK_post_rope_enabled or (c.W_Q, c.W_K) == (None, None),
        _show("W_Q", "W_K", "rmsnorm_QK_post_rope_enabled"), "leave them out, or turn the norm on",
        "decision AB-D7",
    ),
    Rule(
        "kv_scales_pair", "k_scale, v_scale", "k_scale and v_scale must be given both or not at all",
        lambda c: (c.k_scale is None) == (c.v_scale is None), _show("k_scale", "v_scale"),
        "pass both: one alone quantizes nothing", "decision AB-D7",
    ),
    Rule(
        "kv_dtype", "K_cache, V_cache", f"the caches must be {FP8} with k_scale and v_scale, else like X",
        lambda c: c.kv_dtype == (FP8 if c.quantized_kv else c.dtype), _show("kv_dtype", "k_scale", "dtype"),
        "cast the caches, or pass both scales", f"{_FACTS} 6.5",
    ),
    Rule(
        "head_axis", "K_cache, V_cache", "the head axis of block caches must be 2, or 1 in 4-D ones",
        _head_axis, _show("block_head_axis", "block_len", "cache_rank"), "leave it at 2 for all other caches",
        "decision AB-D14",
    ),
    Rule(
        "idx_per_token", "kv_cache_update_idx", "an index per token needs update_cache and more than one token",
        lambda c: not c.idx_per_token or (c.update_cache and c.S > 1), _show("idx_per_token", "update_cache", "S"),
        "with one token both forms are [B, 1]", "decision AB-D11",
    ),
    Rule(
        "block_transposed", "K_cache_transposed", "a block KV cache holds keys as rows",
        lambda c: not (c.block_kv and c.K_cache_transposed), _show("block_len", "K_cache_transposed"),
        "pass K_cache_transposed=False", f"{_FACTS} 1",
    ),
    Rule(
        "block_multiple", "active_blocks_table", "with a block KV cache S_ctx and S_max are n_blk*block_len",
        lambda c: not c.block_kv or (c.S_ctx % c.block_len == 0 and c.S_max == c.S_ctx),
        _show("S_ctx", "S_max", "block_len"), "round S_ctx up to whole blocks and mask the rest",
        f"{_FACTS} 2",
    ),
    Rule(
        "context", "attention_mask", "S <= S_ctx <= S_max must hold", lambda c: c.S <= c.S_ctx <= c.S_max,
        _show("S", "S_ctx", "S_max"), "S_ctx counts the new tokens and lies within the cache", f"{_FACTS} 11",
    ),
    Rule(
        "key_tiles", "attention_mask",
        "S_ctx must be a multiple of 128, of 256 when attention is sharded over it",
        lambda c: c.S_ctx % (PARTITIONS * c.attention.plan.n_seq) == 0, _show("S_ctx", "B", "lnc"),
        "round S_ctx up and mask the rest", "the limit of attention_tkg",
    ),
    Rule(
        "block_ids", "K_cache", "block ids after the resize must be below 2**24",
        lambda c: not c.block_kv or c.blocks * c.attention.plan.block_factor <= ID_LIMIT,
        lambda c: f"{c.blocks} blocks cut in {c.attention.plan.block_factor}", "use longer blocks",
        f"{_FACTS} 4.5",
    ),
    Rule(
        "transposed_needs_out", "transposed_out", "transposed_out needs W_out",
        lambda c: not c.transposed_out or c.W_out is not None, _show("transposed_out", "W_out"),
        "pass W_out", _API,
    ),
    Rule(
        "out_unused", "bias_out, quantization_type_out", "without W_out there is neither bias nor quantization",
        _nothing_to_project, _show("W_out", "bias_out", "quantization_type_out"), "leave them out",
        "decision AB-D7",
    ),
    Rule(
        "out_h_plain", "W_out", "without transposed_out, H must be a multiple of 512*LNC",
        lambda c: c.W_out is None or c.transposed_out or c.H % (BANK * c.lnc) == 0,
        _show("H", "lnc"), "pad H", "the limit of output_projection_tkg",
    ),
    Rule(
        "out_nh", "W_out", f"with transposed_out, q*H must be at most {NH_LIMIT}",
        lambda c: not c.transposed_out or c.q * c.H <= NH_LIMIT, _show("q", "H"),
        "call once per part of H", "the limit of output_projection_tkg",
    ),
)  # fmt: skip
