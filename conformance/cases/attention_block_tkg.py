"""attention_block_tkg as the suite sees it: configs, inputs, and the calls of truth, model and kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance import lanes
from conformance.bounds import Bound, likely_limit
from conformance.cases._attention_block_tkg_inputs import LANES, build, fits
from conformance.cases._attention_block_tkg_spoilings import SPOILINGS
from conformance.cases._rarely import rarely
from conformance.pairwise import flags, some
from conformance.subject import Bench, Call, Case, Output, Subject, Unrounded
from reference import attention_block_tkg as reference
from reference.attention_block_tkg_bound import errors
from reference.attention_block_tkg_truth import truth_of
from reference.contracts.attention_block_tkg import CONTRACT, FLOATS, FP8, MASK_DTYPES, Config, call_refusal, refusal
from reference.contracts.attention_block_tkg_config import GENERATIONS, IO_DTYPES, QUANTIZATIONS
from reference.numerics.cast import to_float32
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.recorder import NO_RECORD, Recorder

Arrays = dict[str, NDArray[Any]]


def _updates(config: Config) -> bool:
    return config.update_cache


OUTPUTS = (
    Output("out", description="hidden states, or attention without W_out; SBUF results stacked by core"),
    Output("K_out", "K_cache", description="the cache of keys after the call, or the new keys", updates=_updates),
    Output("V_out", "V_cache", description="the cache of values after the call, or the new values", updates=_updates),
    Output("X_kept", description="the caller's SBUF X after the call, stacked by core"),
)

# ---- configs ----------------------------------------------------------------------------------------------------

#: (B, S, q): at most 128 columns.
_COLUMNS = (
    (1, 1, 1), (2, 1, 2), (1, 3, 2), (2, 3, 4), (3, 1, 5), (4, 1, 8), (5, 2, 3), (8, 1, 2), (1, 40, 1), (6, 5, 4),
    (16, 1, 8), (1, 128, 1), (33, 1, 3),
)  # fmt: skip
#: Most columns of W_qkv and most elements of one cache of configs that are drawn.
_MOST_COLUMNS, _MOST_ELEMENTS = 1024, 2**18
#: Of one with flash tiles, which takes more than 8192 keys.
_MOST_FLASH_ELEMENTS = 2**20


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Legal configs: every option of every stage, at sizes of tens of milliseconds."""
    lnc = draw(st.sampled_from((1, 2, 2)))
    # A value in the middle: those at the ends are drawn more often.
    flash = draw(st.integers(0, 31)) == 17
    many = not flash and rarely(draw, 24)
    sizes = _flash_sizes if flash else _many_heads if many else _sizes
    fields = sizes(draw, lnc) | {"lnc": lnc}
    io = draw(st.sampled_from(("bfloat16", "float16")))
    fields |= {"dtype": io} | _qkv(draw, io, fields["H"]) | _heads(draw, fields["d"])
    fields |= _caches(draw, io, fields["S_ctx"], fields["S"])
    fields |= _out(draw, fields["H"] % (512 * lnc) == 0)
    config = Config(**fields)
    most = _MOST_FLASH_ELEMENTS if flash else _MOST_ELEMENTS
    assume(config.B * config.S_max * config.d <= most and (many or config.I <= _MOST_COLUMNS))
    assume(refusal(config) is None)
    return config


def _sizes(draw: st.DrawFn, lnc: int) -> dict[str, Any]:
    B, S, q = draw(st.sampled_from(_COLUMNS))
    d = draw(st.sampled_from((64, 128, 32, 64, 80, 10)))
    H = 128 * lnc * draw(st.sampled_from((4, 1, 2, 5, 8)))
    # One key tile, which no two cores share, only where there is one tile on one core as well.
    S_ctx = 128 * draw(st.sampled_from((1, 2, 3, 4))) * lnc
    if draw(st.integers(0, 3)) == 0:
        S_ctx = 128
    return {"B": B, "S": S, "q": q, "d": d, "H": H, "S_ctx": S_ctx, "S_max": S_ctx}


def _many_heads(draw: st.DrawFn, lnc: int) -> dict[str, Any]:
    """More than four tiles of 512 columns of W_qkv; everything else is small."""
    H, S = 128 * lnc * draw(st.sampled_from((1, 2, 4))), draw(st.sampled_from((1, 3)))
    return {"B": 1, "S": S, "q": 18, "d": 128, "H": H, "S_ctx": 128, "S_max": 128}


def _flash_sizes(draw: st.DrawFn, lnc: int) -> dict[str, Any]:
    """One query over one, two or three tiles of keys on each core, the last one short: flash tiles hold 8192 keys."""
    S_ctx = lnc * draw(st.sampled_from((8192 + 128, 2 * 8192 + 128 if lnc == 1 else 8192 + 256)))
    S = draw(st.sampled_from((1, 3)))
    return {"B": 1, "S": S, "q": 1, "d": 32, "H": 128 * lnc, "S_ctx": S_ctx, "S_max": S_ctx}


def _qkv(draw: st.DrawFn, io: str, H: int) -> dict[str, Any]:
    kind, norm = draw(st.sampled_from(("NONE", "NONE", "STATIC", "ROW"))), draw(st.booleans())
    return {
        "X_in_sb": draw(st.booleans()),
        "X_hidden_dim_actual": draw(st.sampled_from((None, H, H - 28))),
        "rmsnorm_X_enabled": norm,
        "rmsnorm_X_eps": draw(st.sampled_from((None, 1e-6, 7.0, 0.0, 0.9))),
        "gamma": draw(st.sampled_from(FLOATS)) if norm else None,
        "W_qkv": io if kind == "NONE" else FP8,
        "bias_qkv": draw(st.sampled_from((None, io))),
        "quantization_type_qkv": kind,
        "scale_rows": draw(st.sampled_from((1, 128))),
    }


def _heads(draw: st.DrawFn, d: int) -> dict[str, Any]:
    table = draw(st.sampled_from((None, *FLOATS))) if d in (64, 128) else None
    post = draw(st.booleans())
    weights = st.sampled_from((None, *FLOATS)) if post else st.none()
    return {
        "rmsnorm_QK_pre_rope_enabled": draw(st.booleans()),
        "rmsnorm_QK_pre_rope_eps": draw(st.sampled_from((1e-6, 0.5))),
        "cos": table,
        "sin": table,
        "rope_contiguous_layout": draw(st.booleans()),
        "rmsnorm_QK_post_rope_enabled": post,
        "rmsnorm_QK_post_rope_eps": draw(st.sampled_from((1e-5, 2.0))),
        "W_Q": draw(weights),
        "W_K": draw(weights),
    }


def _caches(draw: st.DrawFn, io: str, S_ctx: int, S: int) -> dict[str, Any]:
    quantized, block, update = draw(st.integers(0, 2)) == 0, draw(st.booleans()), draw(st.booleans())
    found: dict[str, Any] = {
        "kv_dtype": FP8 if quantized else io,
        "cache_rank": draw(st.sampled_from((3, 4))),
        "mask_dtype": draw(st.sampled_from(("uint8", *MASK_DTYPES))),
        "sink": draw(st.sampled_from((None, None, *FLOATS))),
        "softmax_scale": draw(st.sampled_from((None, 1.0, 0.07, -0.125, 0))),
        "update_cache": update,
        "idx_per_token": update and S > 1 and draw(st.booleans()),
        "skip_attention": draw(st.integers(0, 4)) == 0,
    }
    if quantized:
        found |= {name: draw(st.sampled_from(FLOATS)) for name in ("k_scale", "v_scale")}
        found |= {f"{name}_rows": draw(st.sampled_from((1, 128))) for name in ("k_scale", "v_scale")}
    if block:
        found |= {"block_len": draw(st.sampled_from((16, 32, 128))), "K_cache_transposed": False}
        return found | {"block_head_axis": draw(st.sampled_from((2, 1))) if found["cache_rank"] == 4 else 2}
    return found | {"S_max": S_ctx + draw(st.sampled_from((0, 128, 77))), "K_cache_transposed": draw(st.booleans())}


def _out(draw: st.DrawFn, plain: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"out_in_sb": draw(st.booleans()), "W_out": None}
    if draw(st.integers(0, 2)) == 0:
        return found
    kind = draw(st.sampled_from(("NONE", "NONE", "STATIC", "ROW")))
    return found | {
        "W_out": FP8 if kind != "NONE" else draw(st.sampled_from(("bfloat16", "float16"))),
        "bias_out": draw(st.sampled_from((None, *FLOATS))),
        "quantization_type_out": kind,
        "transposed_out": not plain or draw(st.booleans()),
    }


#: A legal config that any one change below takes past a single rule.
_PLAIN: dict[str, Any] = {"B": 2, "S": 2, "H": 1024, "q": 2, "d": 64, "S_ctx": 256, "S_max": 256}
_BLOCK: dict[str, Any] = {"block_len": 32}

_VIOLATIONS: Mapping[str, Mapping[str, Any]] = {
    "flags": {"update_cache": 1},
    "quantization_kinds": {"quantization_type_out": "MX"},
    "sizes": {"q": 0},
    "lnc": {"lnc": 3},
    "generation": {"generation": "gen2"},
    "cache_rank": {"cache_rank": 5},
    "dtypes": {"mask_dtype": FP8},
    "d_even": {"d": 63},
    "d_head": {"d": 130},
    "columns": {"B": 33},
    "h_limit": {"H": 24576 + 1024},
    "h_multiple": {"H": 1024 + 128},
    "i_limit": {"B": 1, "S": 1, "q": 63},
    "hidden_actual": {"X_hidden_dim_actual": 1025},
    "eps": {"rmsnorm_QK_post_rope_eps": -1.0},
    "softmax_scale": {"softmax_scale": 1e39},
    "gamma": {"gamma": None},
    "scale_rows": {"scale_rows": 64},
    "rope_pair": {"sin": None},
    "rope_d": {"d": 80},
    "head_weights": {"W_Q": "float32"},
    "kv_scales_pair": {"k_scale": "float32"},
    "kv_dtype": {"kv_dtype": FP8},
    "head_axis": {"cache_rank": 4, "block_head_axis": 1},
    "idx_per_token": {"S": 1, "idx_per_token": True},
    "block_transposed": _BLOCK | {"K_cache_transposed": True},
    "block_multiple": _BLOCK | {"S_max": 288},
    "context": {"S_max": 255},
    "key_tiles": {"S_ctx": 384, "S_max": 384},
    "block_ids": _BLOCK | {"num_blocks": 2**24 + 1},
    "transposed_needs_out": {"W_out": None, "transposed_out": True},
    "out_unused": {"W_out": None, "bias_out": "float32"},
    "out_h_plain": {"H": 512},
    "out_nh": {"transposed_out": True, "q": 20, "B": 1, "H": 8448},
}  # fmt: skip


@st.composite
def illegal(draw: st.DrawFn) -> tuple[Config, str]:
    """(config, rule that refuses it first)."""
    rule = draw(st.sampled_from(sorted(_VIOLATIONS)))
    return Config(**_PLAIN | _VIOLATIONS[rule]), rule


# ---- the rungs --------------------------------------------------------------------------------------------------


def _kept(config: Config, inputs: Arrays) -> Arrays:
    """X in the caller's SBUF comes back as it went in (decision AB-D9)."""
    return {"X_kept": np.stack([inputs["X"]] * config.lnc)} if config.X_in_sb else {}


def _exactly_kept(config: Config, inputs: Arrays) -> Arrays:
    return {name: to_float32(value).astype(np.float64) for name, value in _kept(config, inputs).items()}


def truth(config: Config, inputs: Arrays) -> Arrays:
    """The results in float64, and the caller's tile."""
    return reference.truth(config, inputs) | _exactly_kept(config, inputs)


def _truth_of(config: Config, inputs: Arrays) -> Arrays:
    return truth_of(config, inputs) | _exactly_kept(config, inputs)


def unrounded(config: Config, lane: str, seed: int) -> Arrays:
    """The caches as they are drawn, before the one rounding into their dtype; in FP8 that of K times k_scale."""
    found = build(dataclasses.replace(config, kv_dtype="float32"), lane, seed)
    return {name: lanes.before_rounding(lane, found[name], config.kv_dtype) for name in ("K_cache", "V_cache")}


def model(
    config: Config, inputs: Arrays, profile: NumericsProfile = DEFAULT, record: Recorder = NO_RECORD
) -> Arrays:
    """The bit-faithful results, and the caller's tile."""
    return reference.model(config, inputs, profile, record) | _kept(config, inputs)


_TENSORS = (
    "X", "rmsnorm_X_gamma", "W_qkv", "bias_qkv", "weight_dequant_scale_qkv", "input_dequant_scale_qkv", "cos", "sin",
    "rmsnorm_QK_post_rope_W_Q", "rmsnorm_QK_post_rope_W_K", "active_blocks_table", "K_cache", "V_cache",
    "attention_mask", "sink", "kv_cache_update_idx", "W_out", "bias_out", "weight_dequant_scale_out",
    "input_dequant_scale_out", "k_scale", "v_scale",
)  # fmt: skip
_SCALARS = (
    "X_hidden_dim_actual", "rmsnorm_X_enabled", "rmsnorm_X_eps", "rmsnorm_QK_pre_rope_enabled",
    "rmsnorm_QK_pre_rope_eps", "rope_contiguous_layout", "rmsnorm_QK_post_rope_enabled", "rmsnorm_QK_post_rope_eps",
    "K_cache_transposed", "update_cache", "transposed_out", "out_in_sb", "softmax_scale", "skip_attention",
)  # fmt: skip


def call(config: Config, inputs: Arrays, implementation: Callable[..., Any]) -> Call:
    """The launch, every argument by keyword. On-chip operands go through a kernel that loads and stores them."""
    from kernels.attention_block_tkg_on_chip import attention_block_tkg_on_chip
    from kernels.common_types import QuantizationType

    arguments: dict[str, Any] = {name: inputs.get(name) for name in _TENSORS}
    arguments |= {name: getattr(config, name) for name in _SCALARS}
    arguments |= {
        name: QuantizationType[getattr(config, name)] for name in ("quantization_type_qkv", "quantization_type_out")
    }
    function, returns = implementation, ("out", "K_out", "V_out")
    if config.X_in_sb or config.out_in_sb:
        function = attention_block_tkg_on_chip
        arguments |= {"X_in_sb": config.X_in_sb, "block": implementation}
        returns += ("X_kept",) if config.X_in_sb else ()
    target = {"gen3": "trn2", "gen4": "trn3"}[config.generation]
    return Call(function, arguments, returns, config.lnc, SUBJECT.in_place(config), target)


def quantization(config: Config) -> str:
    """Label of the number formats: what is FP8, in the order of the stages."""
    kinds = [
        f"qkv-{config.quantization_type_qkv.lower()}" if config.quantization_type_qkv != "NONE" else "",
        "fp8-kv" if config.quantized_kv else "",
        f"out-{config.quantization_type_out.lower()}" if config.quantization_type_out != "NONE" else "",
    ]
    return "+".join(kind for kind in kinds if kind) or "none"


def bounds(config: Config, inputs: Arrays) -> Mapping[str, Bound]:
    """Grade C per output. The elements of a token share its norms, its weights and the roundings of its stages.

    The worst case of a query's error is exponentiated by the softmax and says little; there the spread does.
    """
    limits = {name: Bound(np.zeros(value.shape)) for name, value in _kept(config, inputs).items()}
    for name, known in errors(config, inputs).items():
        spread = np.sqrt(known.variance)
        limits[name] = Bound(likely_limit(known.error, spread), spread=spread, alike=_alike(config, name))
    return limits


def _alike(config: Config, name: str) -> tuple[int, ...]:
    """Axes of an output that do not tell tokens apart, or batches, whose queries all average the same FP8 values."""
    if name != "out" and config.update_cache:
        return (-2,) if name == "K_out" and config.K_cache_transposed else (-1,)
    if name != "out":
        return (0,) if name == "K_out" else (3,)
    if config.W_out is None:
        averaged = (1, 2, 3) if config.quantized_kv else (2,)
        return (0, 1) if config.out_in_sb else (0,) if config.skip_attention else averaged
    if config.transposed_out:
        return (0, 1, 2)
    return (0, 2) if config.out_in_sb else (1,)


def _plain_fp32(config: Config, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The same mathematics in plain fp32 NumPy for flat caches of rows, X normed and RoPE in halves."""
    c = config
    x = inputs["X"].reshape(c.tokens, c.H)
    inverse = 1 / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + np.float32(c.eps))
    heads = ((x * inverse * inputs["rmsnorm_X_gamma"]) @ inputs["W_qkv"]).reshape(c.B, c.S, c.q + 2, c.d)
    cos, sin = (inputs[name].transpose(1, 2, 0)[:, :, None] for name in ("cos", "sin"))
    e, o = heads[:, :, : c.q + 1, : c.d // 2], heads[:, :, : c.q + 1, c.d // 2 :]
    turned = np.concatenate((e * cos - o * sin, o * cos + e * sin), axis=-1)
    k, v = (inputs[name].reshape(c.B, c.S_max, c.d)[:, : c.S_ctx].copy() for name in ("K_cache", "V_cache"))
    k[:, -c.S :], v[:, -c.S :] = turned[:, :, c.q], heads[:, :, c.q + 1]
    q = turned[:, :, : c.q].transpose(0, 2, 1, 3).reshape(c.B, c.q * c.S, c.d) * np.float32(c.scale)
    keep = inputs["attention_mask"].transpose(1, 2, 3, 0).reshape(c.B, c.q * c.S, c.S_ctx) != 0
    scores = np.where(keep, q @ k.transpose(0, 2, 1), np.float32(-np.inf))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = weights @ v / weights.sum(axis=-1, keepdims=True)
    rows = mixed.reshape(c.B, c.q, c.S, c.d).transpose(0, 2, 1, 3).reshape(c.tokens, c.q * c.d)
    out: NDArray[np.float32] = rows @ inputs["W_out"]
    return out


# ---- the catalog ------------------------------------------------------------------------------------------------

_CI, _GOLDEN, _CHECK = frozenset({"ci", "check"}), frozenset({"ci", "golden", "check"}), frozenset({"check"})
_CORNER = frozenset({"ci"})


def _case(
    name: str, base: Mapping[str, Any], lane: str = "normal", tags: frozenset[str] = _GOLDEN, note: str = "",
    **more: Any,
) -> Case:  # fmt: skip
    fields = {**base, **more}
    return Case(name, Config(**{"S_max": fields["S_ctx"], **fields}), lane, 0, tags, note)


_LLAMA: dict[str, Any] = {"B": 4, "S": 1, "H": 8192, "q": 8, "d": 128, "S_ctx": 8192}
_QWEN: dict[str, Any] = {
    "B": 4, "S": 1, "H": 4096, "q": 4, "d": 128, "S_ctx": 4096, "rmsnorm_X_eps": 1e-6,
    "rmsnorm_QK_pre_rope_enabled": True,
}  # fmt: skip
_GPT_OSS: dict[str, Any] = {
    "B": 4, "S": 1, "H": 3072, "X_hidden_dim_actual": 2880, "q": 8, "d": 64, "S_ctx": 4096, "rmsnorm_X_eps": 1e-5,
    "bias_qkv": "bfloat16", "bias_out": "bfloat16", "sink": "bfloat16",
}  # fmt: skip
_SMALL: dict[str, Any] = {"B": 2, "S": 3, "H": 1024, "q": 3, "d": 64, "S_ctx": 512}
#: New keys and values returned: a golden of them is small, one of whole caches is not.
_FRESH: dict[str, Any] = _SMALL | {"update_cache": False}
_SHORT: dict[str, Any] = _SMALL | {"S_ctx": 256}
_ALONE: dict[str, Any] = _SMALL | {"lnc": 1, "S_ctx": 384}
_BARE: dict[str, Any] = {"rmsnorm_X_enabled": False, "gamma": None, "cos": None, "sin": None}
_NORMS: dict[str, Any] = {"rmsnorm_QK_pre_rope_enabled": True, "rmsnorm_QK_post_rope_enabled": True}
_WEIGHTS: dict[str, Any] = {"rmsnorm_QK_post_rope_enabled": True, "W_Q": "float32", "W_K": "bfloat16"}
_FP8_KV: dict[str, Any] = {"kv_dtype": FP8, "k_scale": "float32", "v_scale": "bfloat16"}
_BLOCKS: dict[str, Any] = _SMALL | {"block_len": 16, "num_blocks": 80}
_TOKENS: dict[str, Any] = {"idx_per_token": True}
#: Whole caches of little size.
_TINY: dict[str, Any] = {"H": 256, "S_ctx": 128, "W_out": None}
_TINY_BLOCKS: dict[str, Any] = _BLOCKS | _TINY | {"num_blocks": 20}
_STATIC: dict[str, Any] = {
    "W_qkv": FP8, "quantization_type_qkv": "STATIC", "W_out": FP8, "quantization_type_out": "STATIC",
}  # fmt: skip
_ROW: dict[str, Any] = {
    "W_qkv": FP8, "quantization_type_qkv": "ROW", "W_out": FP8, "quantization_type_out": "ROW",
}  # fmt: skip
_NO_OUT: dict[str, Any] = {"W_out": None}
_SKIP: dict[str, Any] = {"W_out": None, "skip_attention": True}
_FP16: dict[str, Any] = {
    "dtype": "float16", "W_qkv": "float16", "W_out": "float16", "kv_dtype": "float16", "cos": "float16",
    "sin": "float16", "gamma": "float16",
}  # fmt: skip
_SMALL_LAYER: dict[str, Any] = {"H": 1024, "q": 3, "d": 64, "S_ctx": 128}

CATALOG = (
    _case("decode-8k", _LLAMA, tags=_CHECK, note="Llama-3-70B at TP8"),
    _case("decode-8k-lnc1", _LLAMA, tags=_CHECK, lnc=1),
    _case("decode-8k-s3", _LLAMA, tags=_CHECK, S=3, note="Llama-3-70B at TP8, speculative"),
    _case("decode-8k-fp8", {**_LLAMA, **_FP8_KV, **_STATIC}, tags=_CHECK),
    _case("decode-8k-paged", _LLAMA, "pages", tags=_CHECK, block_len=32, num_blocks=1100),
    _case("qwen3", _QWEN, tags=_CHECK, note="norms per head"),
    _case("gpt-oss", _GPT_OSS, tags=_CHECK, note="sink and biases, padded hidden size"),
    _case("widest", _LLAMA, tags=_CHECK, B=16, S_ctx=1024, H=16384, note="B*S*q at its limit"),
    _case("flash", _SMALL, tags=_CHECK, q=1, d=32, S_ctx=16640, sink="float32", cos=None, sin=None),
    _case("plain", _SMALL),
    _case("alone", _ALONE, S_max=400),
    _case("one-token", {**_SMALL, "B": 1, "S": 1, "q": 1, "S_ctx": 128}),
    _case("batch", {**_SMALL, "B": 4, "S": 1, "S_ctx": 128}, note="batches divided"),
    _case("both-alone", {**_SMALL, "B": 3, "S": 1, "S_ctx": 128}, sink="float32", note="nothing to share"),
    _case("tiles", {**_FRESH, "q": 9, "d": 128, "B": 1}, lnc=1, bias_qkv="bfloat16", note="heads across I tiles"),
    _case("heads-d80", {**_FRESH, "d": 80, "q": 6}, cos=None, sin=None, rmsnorm_QK_pre_rope_enabled=True),
    _case("fp16", {**_SHORT, **_FP16}),
    _case("bare", {**_FRESH, **_BARE}),
    _case("x-on-chip", _SHORT, X_in_sb=True, out_in_sb=True),
    _case("x-on-chip-bare", {**_FRESH, **_BARE}, X_in_sb=True, bias_qkv="bfloat16", X_hidden_dim_actual=1000),
    _case("x-on-chip-static", {**_FRESH, **_STATIC}, lnc=1, X_in_sb=True, X_hidden_dim_actual=1000, rmsnorm_X_eps=1e-5),
    _case("interleaved", _FRESH, rope_contiguous_layout=False),
    _case("interleaved-d128", {**_FRESH, "d": 128}, rope_contiguous_layout=False, cos="float32", sin="float32"),
    _case("norms", {**_FRESH, **_NORMS}, rmsnorm_QK_pre_rope_eps=1e-5),
    _case("norms-weighted", {**_FRESH, **_NORMS, **_WEIGHTS}, rope_contiguous_layout=False),
    _case("norm-of-keys", {**_FRESH, **_WEIGHTS}, W_Q=None),
    _case("keys-transposed", _SHORT, K_cache_transposed=True, S_max=300),
    _case("rank-4", _SHORT, K_cache_transposed=True, cache_rank=4, sink="bfloat16"),
    _case("no-update", _FRESH),
    _case("no-update-fp8", {**_FRESH, **_FP8_KV}, K_cache_transposed=True),
    _case("scale", _FRESH, softmax_scale=-0.3, mask_dtype="float32", bias_out="float32"),
    _case("fp8-kv", {**_SHORT, **_FP8_KV}, S_max=320),
    _case("fp8-kv-transposed", {**_SHORT, **_FP8_KV}, K_cache_transposed=True, k_scale_rows=1),
    _case("fp8-kv-edge", {**_SHORT, **_FP8_KV, **_BARE}, "fp8_edge"),
    _case("static", {**_FRESH, **_STATIC}, bias_qkv="bfloat16", bias_out="bfloat16"),
    _case("row", {**_FRESH, **_ROW}, bias_qkv="bfloat16", bias_out="float32", scale_rows=1),
    _case("all-fp8", {**_SHORT, **_STATIC, **_FP8_KV, **_NORMS, **_WEIGHTS}),
    _case("block", _BLOCKS, "pages"),
    _case("block-rank-4", {**_BLOCKS, **_FP8_KV}, "pages", S_ctx=256, num_blocks=40, cache_rank=4),
    _case("block-d128", {**_BLOCKS, "d": 128}, sink="float32", update_cache=False),
    _case("block-no-update", {**_BLOCKS, "lnc": 1}, update_cache=False),
    _case("block-head-axis-1", _TINY_BLOCKS, "pages", cache_rank=4, block_head_axis=1),
    _case("block-tokens", {**_TINY_BLOCKS, **_TOKENS}, "pages", note="rows of two blocks"),
    _case("block-tokens-fp8", {**_TINY_BLOCKS, **_TOKENS, **_FP8_KV}, S=5, cache_rank=4, block_head_axis=1),
    _case("tokens", {**_SMALL, **_TINY, **_TOKENS}, S_max=150, note="slots in any order"),
    _case("tokens-transposed", {**_SMALL, **_TINY, **_TOKENS}, S_max=150, lnc=1, K_cache_transposed=True, cache_rank=4),
    _case("transposed-out", _FRESH, transposed_out=True, bias_out="bfloat16"),
    _case("transposed-out-on-chip", _FRESH, transposed_out=True, out_in_sb=True, H=1280),
    _case("attention", {**_FRESH, **_NO_OUT}),
    _case("attention-on-chip", {**_SHORT, **_NO_OUT}, out_in_sb=True),
    _case("skip", {**_FRESH, **_SKIP}),
    _case("skip-on-chip", {**_SHORT, **_SKIP}, out_in_sb=True, K_cache_transposed=True),
    _case("skip-projected", {**_FRESH, "skip_attention": True}),
    _case("exact", {**_FRESH, **_SKIP, **_BARE}, "exact", bias_qkv="bfloat16"),
    _case("exact-whole", _SMALL, "exact", _CI, bias_qkv="bfloat16", bias_out="float32", sink="float32"),
    _case("exact-whole-fp8-kv", {**_SMALL, **_FP8_KV}, "exact", _CI, rope_contiguous_layout=False),
    _case("exact-rounding", {**_SMALL, **_FP8_KV, **_SKIP}, "exact_rounding", _CI),
    _case("exact-rounding-whole", _BLOCKS, "exact_rounding", _CI, sink="bfloat16"),
    _case("one-sided", _SMALL, "one_sided", _CI),
    _case("one-hot", {**_FRESH, **_NO_OUT}, "one_hot"),
    _case("heavy-tailed", _FRESH, "heavy_tailed"),
    _case("zero-token", {**_FRESH, **_NORMS}, "zero_token"),
    _case("nan-token", _SHORT, "nan_token", rope_contiguous_layout=False),
    _case("nan-channel", {**_FRESH, **_SKIP}, "nan_channel", rope_contiguous_layout=False, bias_qkv="bfloat16"),
    _case("poison", {**_SHORT, **_NO_OUT}, "poison", S_max=300),
    _case("poison-sink", _BLOCKS, "poison", sink="float32", update_cache=False),
    # Corners of the option space: each shows a fault that no other short case shows.
    _case(
        "eps-zero", _SMALL_LAYER, "normal", _CORNER, note="an eps of 0 is given, not left out", B=2, S=3,
        rmsnorm_X_eps=0.0,
    ),
    _case(
        "interleaved-one-token", _SMALL_LAYER, "normal", _CORNER, note="interleaved RoPE of one token", B=4, S=1,
        rope_contiguous_layout=False,
    ),
    _case(
        "transposed-four-batches", _SMALL_LAYER, "normal", _CORNER, note="transposed keys of more than two batches",
        B=4, S=1, K_cache_transposed=True,
    ),
    _case(
        "many-heads", {}, "normal", _CORNER, note="more than four tiles of QKV columns", B=1, S=3, H=1024, q=18, d=128,
        S_ctx=128,
    ),
)

FLAGS = flags(
    Config,
    dtype=IO_DTYPES,
    X_hidden_dim_actual=some("X_hidden_dim_actual", None, 100),
    rmsnorm_X_eps=some("rmsnorm_X_eps", None, 1e-6),
    gamma=(None, *FLOATS),
    W_qkv=(*IO_DTYPES, FP8),
    bias_qkv=(None, *IO_DTYPES),
    quantization_type_qkv=QUANTIZATIONS,
    scale_rows=(1, 128),
    cos=(None, *FLOATS),
    sin=(None, *FLOATS),
    W_Q=(None, *FLOATS),
    W_K=(None, *FLOATS),
    block_len=some("block_len", 0, 16),
    num_blocks=some("num_blocks", 0, 600),
    kv_dtype=(*IO_DTYPES, FP8),
    cache_rank=(3, 4),
    block_head_axis=(1, 2),
    mask_dtype=MASK_DTYPES,
    sink=(None, *FLOATS),
    softmax_scale=some("softmax_scale", None, 1.0),
    k_scale=(None, *FLOATS),
    v_scale=(None, *FLOATS),
    k_scale_rows=(1, 128),
    v_scale_rows=(1, 128),
    W_out=(None, *IO_DTYPES, FP8),
    bias_out=(None, *FLOATS),
    quantization_type_out=QUANTIZATIONS,
    lnc=(1, 2),
    generation=GENERATIONS,
)

SUBJECT = Subject(
    name="attention_block_tkg",
    config_type=Config,
    contract=CONTRACT,
    outputs=OUTPUTS,
    lanes=LANES,
    catalog=CATALOG,
    implementation="kernels.attention_block_tkg:attention_block_tkg",
    legal=refusal,
    call_refusal=call_refusal,
    strategy=configs,
    illegal=illegal,
    spoilings=SPOILINGS,
    build=build,
    truth=truth,
    model=model,
    call=call,
    lane_fits=fits,
    quantization=quantization,
    bounds=bounds,
    flags=FLAGS,
    bench=(Bench("decode-8k", Config(**_LLAMA, S_max=8192), _plain_fp32),),
    unrounded=Unrounded(unrounded, _truth_of),
)

__all__ = ["CATALOG", "SUBJECT", "build", "call", "configs", "illegal"]
