"""What a legal call of `qkv` fulfils, in the order in which it is tried: both modes, then one of them."""

from __future__ import annotations

from typing import Any

from reference.contract import Rule
from reference.contracts.float32_number import is_float32_number
from reference.contracts.qkv_config import (
    FLOATS,
    FP8,
    GENERATIONS,
    H_LIMIT,
    I_LIMIT,
    KV_CACHES,
    KV_DTYPES,
    LAYOUTS,
    MX_WEIGHT,
    NORMS,
    PARTITIONS,
    QUANTIZATIONS,
    Config,
    mode,
)

_API = "published API page"
_FLAGS = (
    "fused_residual_add",
    "fused_rope",
    "store_output_in_sbuf",
    "use_auto_allocation",
    "load_input_with_DMA_transpose",
    "is_input_swizzled",
)
_SIZES = ("B", "S", "H", "I")
_OPTIONAL_SIZES = (
    "d_head",
    "num_q_heads",
    "num_kv_heads",
    "hidden_actual",
    "max_seq_len",
    "num_blocks",
    "block_size",
)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 1


def _values(config: Config, names: tuple[str, ...]) -> str:
    return ", ".join(f"{name}={getattr(config, name)!r}" for name in names)


def _tkg(config: Config) -> bool:
    return mode(config) == "TKG"


def _cte(config: Config) -> bool:
    return mode(config) == "CTE"


def _weight_dtypes(config: Config) -> tuple[str, ...]:
    return {"NONE": FLOATS, "MX": (MX_WEIGHT,)}.get(config.quantization, (FP8,))


def _pe_pairs(config: Config) -> bool:
    if config.quantization == "ROW":
        return config.dtype != "float32"
    return config.quantization != "NONE" or (config.dtype == "float32") == (config.weight_dtype == "float32")


def _head_columns(config: Config) -> bool:
    return not config.heads_given or config.q_dim + 2 * config.kv_dim == config.I


def _limits_in_order(config: Config) -> bool:
    given = [limit for limit in (config.fp8_min, config.fp8_max) if limit is not None]
    if not all(map(is_float32_number, given)) or config.kv_cache == "NONE":
        return all(map(is_float32_number, given))
    largest = KV_DTYPES[str(config.kv_dtype)]
    return -largest <= config.kv_min <= config.kv_max <= largest


def _kv_sizes(config: Config) -> bool:
    needed = {
        "NONE": (),
        "FLAT": (config.max_seq_len,),
        "BLOCK": (config.num_blocks, config.block_size),
    }[config.kv_cache]
    given = [size for size in (config.max_seq_len, config.num_blocks, config.block_size) if size is not None]
    return None not in needed and len(given) == len(needed)


COMMON_RULES: tuple[Rule[Config], ...] = (
    Rule(
        "flags_are_bool", "flags", "the flags must be bool",
        lambda c: all(type(getattr(c, name)) is bool for name in _FLAGS), lambda c: _values(c, _FLAGS),
        "pass every argument after bias by keyword: versions of this API order them differently", _API,
    ),
    Rule(
        "output_layout", "output_layout", "the layout must be BSD or NBSd",
        lambda c: c.output_layout in LAYOUTS, lambda c: repr(c.output_layout),
        "transpose the result of NBSd", _API,
    ),
    Rule(
        "quantization_kind", "quantization_type", "the kind must be NONE, STATIC, ROW or MX",
        lambda c: c.quantization in QUANTIZATIONS, lambda c: repr(c.quantization),
        "name one of these", "fact sheet 0",
    ),
    Rule(
        "norm_kind", "fused_norm_type",
        "the norm must be NO_NORM, RMS_NORM, LAYER_NORM or RMS_NORM_SKIP_GAMMA",
        lambda c: c.norm in NORMS, lambda c: repr(c.norm), "name one of these", _API,
    ),
    Rule(
        "kv_cache_kind", "k_cache", "the KV cache must be none, flat or in blocks",
        lambda c: c.kv_cache in KV_CACHES, lambda c: repr(c.kv_cache), "name one of these", _API,
    ),
    Rule(
        "sizes_positive", "input", "B, S, H and I must be integers of at least 1",
        lambda c: all(_is_size(getattr(c, name)) for name in _SIZES), lambda c: _values(c, _SIZES),
        "do not launch on empty tensors", "the machine has no empty tiles",
    ),
    Rule(
        "optional_sizes_positive", "d_head, num_q_heads, num_kv_heads, hidden_actual, block_size",
        "sizes that are given must be integers of at least 1",
        lambda c: all(_is_size(v) for n in _OPTIONAL_SIZES if (v := getattr(c, n)) is not None),
        lambda c: _values(c, _OPTIONAL_SIZES), "leave out what does not apply", "defect QKV25",
    ),
    Rule(
        "lnc", "launch grid", "LNC must be 1 or 2",
        lambda c: type(c.lnc) is int and c.lnc in (1, 2), lambda c: repr(c.lnc),
        "launch on one or two cores", "logical cores of trn2",
    ),
    Rule(
        "generation", "target", "the generation must be gen3 or gen4",
        lambda c: c.generation in GENERATIONS, lambda c: repr(c.generation),
        "build for trn2 or later", "fact sheet 9, hardware",
    ),
    Rule(
        "store_output_in_sbuf", "store_output_in_sbuf", "store_output_in_sbuf must be False",
        lambda c: not c.store_output_in_sbuf, lambda c: repr(c.store_output_in_sbuf),
        "take the result from HBM", f"{_API}: currently unsupported",
    ),
    Rule(
        "h_limit", "input", f"H must be at most {H_LIMIT}",
        lambda c: c.H <= H_LIMIT, lambda c: f"H={c.H}", "split the contraction", _API,
    ),
    Rule(
        "h_multiple_of_128", "input", "H must be a multiple of 128",
        lambda c: c.H % PARTITIONS == 0, lambda c: f"H={c.H}", "pad H and pass hidden_actual", _API,
    ),
    Rule(
        "i_limit", "fused_qkv_weights", f"I must be at most {I_LIMIT}",
        lambda c: c.I <= I_LIMIT, lambda c: f"I={c.I}", "split the heads over several calls", _API,
    ),
    Rule(
        "input_dtype", "input", f"dtype must be one of {', '.join(FLOATS)}",
        lambda c: c.dtype in FLOATS, lambda c: repr(c.dtype), "cast the input", _API,
    ),
    Rule(
        "weight_dtype", "fused_qkv_weights",
        f"dtype must be a float (NONE), {FP8} (STATIC, ROW) or {MX_WEIGHT} (MX)",
        lambda c: c.weight_dtype in _weight_dtypes(c),
        lambda c: f"{c.weight_dtype!r} with {c.quantization}",
        "name the quantization the weight has", "fact sheet 9",
    ),
    Rule(
        "bias_dtype", "bias", f"dtype must be one of {', '.join(FLOATS)}",
        lambda c: c.bias is None or c.bias in FLOATS, lambda c: repr(c.bias), "cast the bias", "fact sheet 9",
    ),
    Rule(
        "head_columns", "fused_qkv_weights", "(num_q_heads + 2*num_kv_heads) * d_head must be I",
        _head_columns, lambda c: f"{_values(c, ('num_q_heads', 'num_kv_heads', 'd_head'))} with I={c.I}",
        "fuse the weights as Q heads, K heads, V heads", _API,
    ),
    Rule(
        "nbsd_d_head", "d_head", "the layout NBSd needs d_head = 128",
        lambda c: c.output_layout != "NBSd" or c.d_head == PARTITIONS,
        lambda c: f"d_head={c.d_head}", "take the layout BSD", f"{_API}, Constraints; decision Q2",
    ),
    Rule(
        "nbsd_columns", "fused_qkv_weights", "the layout NBSd needs I to be a multiple of d_head",
        lambda c: c.output_layout != "NBSd" or c.I % PARTITIONS == 0, lambda c: f"I={c.I}",
        "take the layout BSD", "fact sheet 3",
    ),
    Rule(
        "gamma_needed", "gamma_norm_weights", "RMS_NORM and LAYER_NORM need gamma",
        lambda c: c.gamma is not None or not c.gamma_applied, lambda c: f"None with {c.norm}",
        "pass gamma, or take RMS_NORM_SKIP_GAMMA", _API,
    ),
    Rule(
        "gamma_unused", "gamma_norm_weights", "only RMS_NORM and LAYER_NORM use gamma",
        lambda c: c.gamma is None or c.gamma_applied, lambda c: f"{c.gamma!r} with {c.norm}",
        "leave gamma out", "fact sheet 3",
    ),
    Rule(
        "gamma_dtype", "gamma_norm_weights", f"dtype must be one of {', '.join(FLOATS)}",
        lambda c: c.gamma is None or c.gamma in FLOATS, lambda c: repr(c.gamma), "cast gamma", "fact sheet 9",
    ),
    Rule(
        "beta_unused", "layer_norm_bias", "only LAYER_NORM uses beta",
        lambda c: c.beta is None or c.norm == "LAYER_NORM", lambda c: f"{c.beta!r} with {c.norm}",
        "leave beta out", _API,
    ),
    Rule(
        "beta_dtype", "layer_norm_bias", f"dtype must be one of {', '.join(FLOATS)}",
        lambda c: c.beta is None or c.beta in FLOATS, lambda c: repr(c.beta), "cast beta", "fact sheet 9",
    ),
    Rule(
        "norm_eps", "norm_eps", "norm_eps must be a number of at least 0, finite in float32",
        lambda c: is_float32_number(c.norm_eps) and c.norm_eps >= 0, lambda c: repr(c.norm_eps),
        "pass a small positive number", "fact sheet 3",
    ),
    Rule(
        "hidden_actual_limit", "hidden_actual", "hidden_actual must be at most H",
        lambda c: c.hidden_actual is None or c.hidden_actual <= c.H,
        lambda c: f"hidden_actual={c.hidden_actual} with H={c.H}", "pass the size without padding",
        "fact sheet 3",
    ),
    Rule(
        "hidden_actual_layer_norm", "hidden_actual", "LAYER_NORM cannot leave out padding",
        lambda c: c.norm != "LAYER_NORM" or c.hidden_actual in (None, c.H),
        lambda c: f"hidden_actual={c.hidden_actual} with H={c.H}", "normalise before the call",
        "fact sheet 1: both modes ignore it",
    ),
    Rule(
        "scale_rows", "qkv_w_scale", "scales must have 1 or 128 rows",
        lambda c: c.quantization in ("NONE", "MX") or c.scale_rows in (1, PARTITIONS),
        lambda c: repr(c.scale_rows), "repeat the scale on 128 rows", "fact sheet 1",
    ),
    Rule(
        "static_heads", "d_head, num_q_heads, num_kv_heads", "STATIC needs d_head and the head counts",
        lambda c: c.quantization != "STATIC" or c.heads_given,
        lambda c: _values(c, ("num_q_heads", "num_kv_heads", "d_head")),
        "pass them: Q, K and V have scales of their own", "fact sheet 3",
    ),
    Rule(
        "rope_caches", "cos_cache, sin_cache", "the RoPE caches must be given exactly with fused_rope",
        lambda c: (c.rope_dtype is not None) == c.fused_rope,
        lambda c: f"fused_rope={c.fused_rope}, caches {c.rope_dtype}", "pass both caches, or neither", _API,
    ),
    Rule(
        "kv_scale_options", "kv_dtype, fp8_max, fp8_min", "they must be given only with a KV cache",
        lambda c: c.kv_cache != "NONE" or (c.kv_dtype, c.fp8_max, c.fp8_min) == (None, None, None),
        lambda c: _values(c, ("kv_dtype", "fp8_max", "fp8_min")), "pass k_scale, v_scale and the caches",
        "decision Q11",
    ),
    Rule(
        "kv_cache_sizes", "k_cache, block_size",
        "a flat cache has max_seq_len, a cache in blocks has num_blocks and block_size",
        _kv_sizes, lambda c: _values(c, ("kv_cache", "max_seq_len", "num_blocks", "block_size")),
        "pass block_size and slot_mapping exactly with use_block_kv", _API,
    ),
)  # fmt: skip


TKG_RULES: tuple[Rule[Config], ...] = (
    Rule(
        "tkg_h_per_core", "input", "H/128 must be a multiple of LNC",
        lambda c: not _tkg(c) or c.h_tiles % c.lnc == 0, lambda c: f"H={c.H} with LNC={c.lnc}",
        "pad H, or launch on one core", "fact sheet 3",
    ),
    Rule(
        "tkg_bias_dtype", "bias", "in token generation the bias must have the dtype of the input",
        lambda c: not _tkg(c) or c.bias in (None, c.dtype), lambda c: f"{c.bias!r} with input {c.dtype!r}",
        "cast the bias", "fact sheet 6.5",
    ),
    Rule(
        "tkg_pe_float32", "fused_qkv_weights", "the PE multiplies float32 with float32 only",
        lambda c: not _tkg(c) or _pe_pairs(c),
        lambda c: f"input {c.dtype}, weight {c.weight_dtype}",
        "cast one of them so that both or neither are float32", "fact sheet 6.7, 6.8",
    ),
    Rule(
        "tkg_sbm", "sbm", "token generation allocates automatically",
        lambda c: not _tkg(c) or c.sbm in (None, "auto"), lambda c: repr(c.sbm),
        "pass an automatic manager, or none", _API,
    ),
)  # fmt: skip


CTE_RULES: tuple[Rule[Config], ...] = (
    Rule(
        "cte_row", "quantization_type", "context encoding has no ROW quantization",
        lambda c: not _cte(c) or c.quantization != "ROW", lambda c: f"S={c.S}, B*S={c.tokens}",
        "quantize STATIC, or dequantize the weight", "decision Q5; defect QKV4",
    ),
    Rule(
        "rope_heads", "num_q_heads, num_kv_heads", "RoPE needs d_head and the head counts",
        lambda c: not c.fused_rope or c.heads_given,
        lambda c: _values(c, ("num_q_heads", "num_kv_heads", "d_head")), "pass them", _API,
    ),
    Rule(
        "rope_d_even", "d_head", "RoPE needs an even d_head",
        lambda c: not c.fused_rope or (c.d_head or 0) % 2 == 0, lambda c: f"d_head={c.d_head}",
        "pad the heads", "fact sheet 7.4",
    ),
    Rule(
        "rope_dtype", "cos_cache, sin_cache", f"dtype must be one of {', '.join(FLOATS)}",
        lambda c: not c.fused_rope or c.rope_dtype in FLOATS, lambda c: repr(c.rope_dtype),
        "cast the caches", "fact sheet 7.1",
    ),
    Rule(
        "kv_layout", "output_layout", "a KV cache needs the layout BSD",
        lambda c: c.kv_cache == "NONE" or c.output_layout == "BSD", lambda c: repr(c.output_layout),
        "take the layout BSD", f"{_API}, Constraints",
    ),
    Rule(
        "kv_heads", "num_q_heads, num_kv_heads, d_head", "a KV cache needs d_head and the head counts",
        lambda c: c.kv_cache == "NONE" or c.heads_given,
        lambda c: _values(c, ("num_q_heads", "num_kv_heads", "d_head")), "pass them", "fact sheet 3",
    ),
    Rule(
        "kv_dtype", "kv_dtype", f"kv_dtype must be one of {', '.join(KV_DTYPES)}",
        lambda c: c.kv_cache == "NONE" or c.kv_dtype in KV_DTYPES, lambda c: repr(c.kv_dtype),
        "pass the dtype of the caches", "fact sheet 3",
    ),
    Rule(
        "kv_dtype_generation", "kv_dtype", "float8_e4m3fn needs gen4",
        lambda c: c.kv_dtype != "float8_e4m3fn" or c.generation == "gen4", lambda c: c.generation,
        "take float8_e4m3", "numerics fact sheet 1.1",
    ),
    Rule(
        "kv_limits", "fp8_max, fp8_min", "fp8_min <= fp8_max must lie in the range of kv_dtype",
        _limits_in_order, lambda c: _values(c, ("fp8_min", "fp8_max")), "leave them out", _API,
    ),
    Rule(
        "kv_room", "k_cache", "a flat cache must have a row per token",
        lambda c: c.kv_cache != "FLAT" or (c.max_seq_len or 0) >= c.S,
        lambda c: f"max_seq_len={c.max_seq_len} with S={c.S}", "enlarge the cache", "fact sheet 7.7",
    ),
    Rule(
        "cte_sbm", "sbm, use_auto_allocation", "the manager must allocate as use_auto_allocation says",
        lambda c: not _cte(c) or c.sbm in (None, "auto" if c.use_auto_allocation else "manual"),
        lambda c: _values(c, ("sbm", "use_auto_allocation")), "make the two agree", "fact sheet 2",
    ),
    Rule(
        "mx_generation", "quantization_type", "MX needs gen4",
        lambda c: c.quantization != "MX" or c.generation == "gen4", lambda c: c.generation,
        "quantize STATIC", "fact sheet 9",
    ),
    Rule(
        "mx_h", "input", "MX needs H to be a multiple of 512",
        lambda c: c.quantization != "MX" or c.H % 512 == 0, lambda c: f"H={c.H}", "pad H", "fact sheet 3",
    ),
    Rule(
        "mx_input_dtype", "input", "MX needs a bfloat16 or float32 input",
        lambda c: c.quantization != "MX" or c.dtype != "float16", lambda c: repr(c.dtype),
        "cast the input", "fact sheet 9",
    ),
    Rule(
        "swizzled_mx", "is_input_swizzled", "only MX takes a swizzled input",
        lambda c: not c.is_input_swizzled or c.quantization == "MX", lambda c: c.quantization,
        "pass the input as it is", _API,
    ),
    Rule(
        "swizzled_plain", "is_input_swizzled", "a swizzled input takes neither norm nor residual",
        lambda c: not c.is_input_swizzled or (c.norm == "NO_NORM" and not c.fused_residual_add),
        lambda c: _values(c, ("norm", "fused_residual_add")), "pass the input as it is", "fact sheet 3",
    ),
)  # fmt: skip

RULES: tuple[Rule[Config], ...] = (*COMMON_RULES, *TKG_RULES, *CTE_RULES)
