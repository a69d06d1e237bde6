"""qkv as the suite sees it: configs of both modes, inputs, and the calls of truth, model and kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance.bounds import Bound
from conformance.cases._qkv_inputs import build, fits
from conformance.cases._qkv_spoilings import SPOILINGS
from conformance.cases._rarely import rarely
from conformance.pairwise import Flag, flags, some
from conformance.subject import Bench, Call, Case, Output, Subject
from reference import qkv as reference
from reference import qkv_cte_bound, qkv_tkg_bound
from reference.contracts.qkv import CONTRACT, inputs_refusal, refusal
from reference.contracts.qkv_config import (
    FLOATS,
    FP8,
    GENERATIONS,
    KV_CACHES,
    KV_DTYPES,
    LAYOUTS,
    MX_WEIGHT,
    NORMS,
    QUANTIZATIONS,
    Config,
    mode,
)

Arrays = dict[str, NDArray[Any]]

LANES = (
    "normal", "exact", "exact_rounding", "one_sided", "one_hot", "heavy_tailed", "near_constant", "zero_token",
    "fp8_edge", "mx_edge", "poison",
)  # fmt: skip


# ---- configs ----------------------------------------------------------------------------------------------------

#: (B, S) of token generation; 32, 64 and 128 tokens, and a sequence of 96, are the last of their kind.
_TKG_TOKENS = (
    (1, 1), (2, 3), (4, 1), (5, 7), (33, 1), (1, 65), (16, 5), (64, 2), (100, 1), (32, 1), (8, 4), (64, 1), (1, 96),
    (2, 64),
)  # fmt: skip
#: (B, S) of context encoding; some have tiles of 128 tokens that end inside a sequence, or sequences of several tiles.
_CTE_TOKENS = ((1, 97), (1, 130), (2, 101), (3, 67), (1, 256), (2, 150), (1, 1), (2, 5), (1, 3))
#: Of 1e-6 nothing is seen beside a mean square of one; of the others it is, and 0.3 and 77.3 are no bfloat16.
_EPS = (1e-6, 1e-5, 0.3, 77.0, 77.3)
#: Least H at which 4096 columns of a weight, which is held in a dtype, no longer fit and are streamed.
_STREAMED_H = {"float32": 1536, "bfloat16": 2048, "float16": 2048, FP8: 3584, MX_WEIGHT: 3072}


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Legal configs of both modes with every option, at sizes a laptop runs in milliseconds."""
    return draw(tkg_configs()) if draw(st.booleans()) else draw(cte_configs())


@st.composite
def tkg_configs(draw: st.DrawFn) -> Config:
    """Token generation: up to 128 tokens, no RoPE, no cache."""
    B, S = draw(st.sampled_from(_TKG_TOKENS))
    quantization = draw(st.sampled_from(("NONE", "NONE", "STATIC", "ROW")))
    dtype = draw(st.sampled_from(FLOATS if quantization != "ROW" else ("bfloat16", "float16")))
    lnc = draw(st.sampled_from((1, 2)))
    fields = _heads(draw, quantization == "STATIC")
    norm = draw(st.sampled_from(("NO_NORM", "RMS_NORM", "LAYER_NORM")))
    H = 128 * lnc * draw(st.sampled_from((1, 2, 3, 5, 8, 17, 19) if B * S < 64 else (1, 2, 3, 5)))
    if rarely(draw, 20):
        # So many hidden values that tokens are normalised in several steps, for few columns.
        B, S, H = 128, 1, 4352 if lnc == 2 else 4224
        fields = {"I": 48, "d_head": 16, "num_q_heads": 1, "num_kv_heads": 1}
    return Config(
        B=B, S=S, H=H, dtype=dtype, **fields,
        weight_dtype=_weight_dtype(draw, quantization, dtype),
        bias=draw(st.sampled_from((None, dtype))),
        quantization=quantization,
        scale_rows=128 if quantization == "NONE" else draw(st.sampled_from((1, 128))),
        fused_residual_add=draw(st.booleans()),
        lnc=lnc,
        **_norm(draw, norm, H),
        **_layout(draw, fields),
    )  # fmt: skip


def _weight_dtype(draw: st.DrawFn, quantization: str, dtype: str) -> str:
    if quantization != "NONE":
        return FP8
    return "float32" if dtype == "float32" else draw(st.sampled_from(("bfloat16", "float16")))


def _heads(draw: st.DrawFn, needed: bool) -> dict[str, Any]:
    d = draw(st.sampled_from((32, 128, 64, 80, 96, 128)))
    nq, nkv = draw(st.sampled_from(((1, 1), (2, 1), (3, 2), (1, 2), (4, 1))))
    given = needed or draw(st.booleans())
    heads: dict[str, Any] = {"I": (nq + 2 * nkv) * d}
    return heads | ({"d_head": d, "num_q_heads": nq, "num_kv_heads": nkv} if given else {})


def _layout(draw: st.DrawFn, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"output_layout": draw(st.sampled_from(("BSD", "NBSd")))} if fields.get("d_head") == 128 else {}


def _norm(draw: st.DrawFn, norm: str, H: int) -> dict[str, Any]:
    fields: dict[str, Any] = {"norm": norm}
    if norm in ("RMS_NORM", "LAYER_NORM"):
        fields["gamma"] = draw(st.sampled_from(FLOATS))
    if norm == "LAYER_NORM":
        fields["beta"] = draw(st.sampled_from((None, *FLOATS)))
    if norm.startswith("RMS"):
        fields["hidden_actual"] = draw(st.sampled_from((None, H, H - 28)))
        fields["norm_eps"] = draw(st.sampled_from(_EPS))
    return fields


@st.composite
def cte_configs(draw: st.DrawFn) -> Config:
    """Context encoding: many tokens, or an option that only it has."""
    quantization = draw(st.sampled_from(("NONE", "NONE", "STATIC", "MX")))
    rope, cache = draw(st.booleans()), draw(st.sampled_from(("NONE", "NONE", "FLAT", "BLOCK")))
    B, S = draw(st.sampled_from(_CTE_TOKENS))
    fields = _heads(draw, rope or cache != "NONE" or quantization == "STATIC")
    dtype = draw(st.sampled_from(FLOATS if quantization != "MX" else ("bfloat16", "float32")))
    swizzled = quantization == "MX" and draw(st.booleans())
    norm = "NO_NORM" if swizzled else draw(
        st.sampled_from(("NO_NORM", "RMS_NORM", "RMS_NORM_SKIP_GAMMA", "LAYER_NORM"))
    )  # fmt: skip
    H = (512 if quantization == "MX" else 128) * draw(st.sampled_from((1, 2) if quantization == "MX" else (1, 2, 3, 5)))
    cte_only = rope or cache != "NONE" or quantization == "MX" or norm == "RMS_NORM_SKIP_GAMMA"
    weight_dtype = {"MX": MX_WEIGHT, "STATIC": FP8}.get(quantization) or draw(st.sampled_from(FLOATS))
    if cte_only and rarely(draw, 16):
        # Few tokens; only an option of this mode brings them here.
        B, S, H = 1, draw(st.sampled_from((3, 1))), _STREAMED_H[dtype if quantization == "NONE" else weight_dtype]
        fields = {"I": 4096, "d_head": 128, "num_q_heads": 30, "num_kv_heads": 1}
    if not cte_only and S <= 96 and B * S <= 128:
        B, S = 1, 97 + S
    return Config(
        B=B, S=S, H=H, dtype=dtype, **fields,
        weight_dtype=weight_dtype,
        bias=draw(st.sampled_from((None, *FLOATS))),
        quantization=quantization,
        scale_rows=draw(st.sampled_from((1, 128))) if quantization == "STATIC" else 128,
        fused_residual_add=not swizzled and draw(st.booleans()),
        fused_rope=rope,
        rope_dtype=draw(st.sampled_from(FLOATS)) if rope else None,
        is_input_swizzled=swizzled,
        load_input_with_DMA_transpose=draw(st.booleans()),
        lnc=draw(st.sampled_from((1, 2))),
        generation="gen4" if quantization == "MX" else "gen3",
        **_norm(draw, norm, H),
        **(_layout(draw, fields) if cache == "NONE" else {}),
        **_cache(draw, cache, B, S),
    )  # fmt: skip


def _cache(draw: st.DrawFn, cache: str, B: int, S: int) -> dict[str, Any]:
    if cache == "NONE":
        return {}
    fields: dict[str, Any] = {"kv_cache": cache, "kv_dtype": draw(st.sampled_from((FP8, "float8_e5m2")))}
    if cache == "FLAT":
        fields["max_seq_len"] = S + draw(st.sampled_from((0, 1, 31)))
    else:
        fields["block_size"] = draw(st.sampled_from((1, 16, 32)))
        fields["num_blocks"] = -(-B * S // fields["block_size"]) + draw(st.integers(0, 3))
    # One without the other stands for both; two need not be alike, nor on both sides of zero.
    return fields | {
        "fp8_max": draw(st.sampled_from((None, 100.5, 32.0, 7.25))),
        "fp8_min": draw(st.sampled_from((None, -100.5, -32.0, -3.0, 0.5))),
    }


_PLAIN: dict[str, Any] = {"B": 2, "S": 3, "H": 256, "I": 384}
_HEADS: dict[str, Any] = {"d_head": 128, "num_q_heads": 1, "num_kv_heads": 1}
_LONG: dict[str, Any] = {"B": 1, "S": 130, "H": 512, "I": 384, **_HEADS}
_FLAT: dict[str, Any] = {**_LONG, "kv_cache": "FLAT", "kv_dtype": FP8, "max_seq_len": 130}
_MX: dict[str, Any] = {**_LONG, "quantization": "MX", "weight_dtype": MX_WEIGHT, "generation": "gen4"}

#: Per rule, a config that this rule refuses first.
_ILLEGAL: Mapping[str, Mapping[str, Any]] = {
    "flags_are_bool": {**_PLAIN, "fused_rope": 1},
    "output_layout": {**_PLAIN, "output_layout": "NBdS"},
    "quantization_kind": {**_PLAIN, "quantization": "INT8"},
    "norm_kind": {**_PLAIN, "norm": "BATCH_NORM"},
    "kv_cache_kind": {**_PLAIN, "kv_cache": "RING"},
    "sizes_positive": {**_PLAIN, "S": 0},
    "optional_sizes_positive": {**_PLAIN, **_HEADS, "num_q_heads": 0},
    "lnc": {**_PLAIN, "lnc": 3},
    "generation": {**_PLAIN, "generation": "gen2"},
    "store_output_in_sbuf": {**_PLAIN, "store_output_in_sbuf": True},
    "h_limit": {**_PLAIN, "H": 24576 + 128},
    "h_multiple_of_128": {**_PLAIN, "H": 200},
    "i_limit": {**_PLAIN, "I": 4097},
    "input_dtype": {**_PLAIN, "dtype": FP8},
    "weight_dtype": {**_PLAIN, "weight_dtype": FP8},
    "bias_dtype": {**_PLAIN, "bias": "int32"},
    "head_columns": {**_PLAIN, **_HEADS, "num_q_heads": 2},
    "nbsd_d_head": {**_PLAIN, "output_layout": "NBSd", "d_head": 64},
    "gamma_needed": {**_PLAIN, "norm": "RMS_NORM"},
    "gamma_unused": {**_PLAIN, "gamma": "bfloat16"},
    "gamma_dtype": {**_PLAIN, "norm": "RMS_NORM", "gamma": FP8},
    "beta_unused": {**_PLAIN, "norm": "RMS_NORM", "gamma": "bfloat16", "beta": "bfloat16"},
    "norm_eps": {**_PLAIN, "norm_eps": -1.0},
    "hidden_actual_limit": {**_PLAIN, "hidden_actual": 257},
    "hidden_actual_layer_norm": {**_PLAIN, "norm": "LAYER_NORM", "gamma": "bfloat16", "hidden_actual": 200},
    "static_heads": {**_PLAIN, "quantization": "STATIC", "weight_dtype": FP8},
    "rope_caches": {**_PLAIN, **_HEADS, "fused_rope": True},
    "kv_scale_options": {**_PLAIN, "fp8_max": 100.0},
    "tkg_h_per_core": {**_PLAIN, "H": 384, "lnc": 2},
    "tkg_bias_dtype": {**_PLAIN, "bias": "float32"},
    "tkg_pe_float32": {**_PLAIN, "dtype": "float32"},
    "cte_row": {**_LONG, "quantization": "ROW", "weight_dtype": FP8},
    "kv_layout": {**_FLAT, "output_layout": "NBSd"},
    "kv_dtype": {**_FLAT, "kv_dtype": "bfloat16"},
    "kv_dtype_generation": {**_FLAT, "kv_dtype": "float8_e4m3fn"},
    "kv_limits": {**_FLAT, "fp8_max": 1000.0},
    "kv_room": {**_FLAT, "max_seq_len": 129},
    "mx_generation": {**_MX, "generation": "gen3"},
    "mx_h": {**_MX, "H": 640},
    "mx_input_dtype": {**_MX, "dtype": "float16"},
    "swizzled_mx": {**_LONG, "is_input_swizzled": True},
    "swizzled_plain": {**_MX, "is_input_swizzled": True, "norm": "RMS_NORM_SKIP_GAMMA"},
}


@st.composite
def illegal(draw: st.DrawFn) -> tuple[Config, str]:
    """(config, rule that refuses it first)."""
    rule = draw(st.sampled_from(sorted(_ILLEGAL)))
    return Config(**_ILLEGAL[rule]), rule


# ---- the call ---------------------------------------------------------------------------------------------------

_TENSORS = (
    "input", "fused_qkv_weights", "bias", "qkv_w_scale", "qkv_in_scale", "mlp_prev", "attention_prev",
    "gamma_norm_weights", "layer_norm_bias", "cos_cache", "sin_cache", "k_cache", "v_cache", "k_scale", "v_scale",
    "slot_mapping",
)  # fmt: skip
_SCALARS = (
    "fused_residual_add", "norm_eps", "hidden_actual", "fused_rope", "d_head", "num_q_heads", "num_kv_heads",
    "fp8_max", "fp8_min", "block_size", "use_auto_allocation", "load_input_with_DMA_transpose", "is_input_swizzled",
)  # fmt: skip


def _writes_cache(config: Config) -> bool:
    return config.kv_cache != "NONE"


def call(config: Config, inputs: Arrays, implementation: Callable[..., Any]) -> Call:
    """The launch, every argument by keyword."""
    from kernels.common_types import NormType, QKVOutputLayout, QuantizationType

    arguments: dict[str, Any] = {name: inputs[name] for name in _TENSORS if name in inputs}
    arguments |= {name: getattr(config, name) for name in _SCALARS}
    arguments |= {
        "output_layout": QKVOutputLayout[config.output_layout],
        "quantization_type": QuantizationType[config.quantization],
        "fused_norm_type": NormType[config.norm],
        "use_block_kv": config.kv_cache == "BLOCK",
        "kv_dtype": config.kv_dtype,
    }
    target = {"gen3": "trn2", "gen4": "trn3"}[config.generation]
    in_place = SUBJECT.in_place(config)
    if in_place:
        return Call(implementation, arguments, ("out", "k_cache", "v_cache"), config.lnc, in_place, target)
    fused = mode(config) == "TKG" and config.fused_residual_add
    returns = ("out", "fused_hidden") if fused else ("out",)
    return Call(implementation, arguments, returns, config.lnc, target=target)


def quantization(config: Config) -> str:
    """Label of the number formats, by which tolerances and required grades are looked up."""
    kind = "" if config.quantization == "NONE" else f"-{config.quantization.lower()}"
    return f"{mode(config).lower()}{kind}{'+fp8-cache' if config.kv_cache != 'NONE' else ''}"


def bounds(config: Config, inputs: Arrays) -> Mapping[str, Bound]:
    """Grade C per output. The elements of a token share its norm, and the roundings of its operand."""
    derived = qkv_tkg_bound if mode(config) == "TKG" else qkv_cte_bound
    alike = {"out": (0, 3) if config.output_layout == "NBSd" else (2,)}
    return {
        name: Bound(known.error, spread=np.sqrt(known.variance), alike=alike.get(name, (2,)))
        for name, known in derived.errors(config, inputs).items()
    }


def _plain_fp32(config: Config, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """RMSNorm and projection in plain fp32 NumPy; inputs are fp32 already."""
    x = inputs["input"].reshape(config.tokens, config.H)
    scale = 1 / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + np.float32(config.norm_eps))
    result: NDArray[np.float32] = (x * scale * inputs["gamma_norm_weights"]) @ inputs["fused_qkv_weights"]
    return result


# ---- the catalog ------------------------------------------------------------------------------------------------

_CI, _GOLDEN, _CHECK = frozenset({"ci", "check"}), frozenset({"ci", "golden", "check"}), frozenset({"check"})
_CORNER = frozenset({"ci"})


def _case(
    name: str, base: Mapping[str, Any], lane: str = "normal", tags: frozenset[str] = _GOLDEN, note: str = "",
    **more: Any,
) -> Case:  # fmt: skip
    return Case(name, Config(**{**base, **more}), lane, 0, tags, note)


_LLAMA: dict[str, Any] = {
    "H": 8192, "I": 1280, "d_head": 128, "num_q_heads": 8, "num_kv_heads": 1, "lnc": 2, "norm": "RMS_NORM",
    "gamma": "bfloat16",
}  # fmt: skip
_GQA: dict[str, Any] = {"I": 640, "d_head": 128, "num_q_heads": 3, "num_kv_heads": 1, "lnc": 2}
_TKG: dict[str, Any] = {"B": 2, "S": 3, "H": 1024, **_GQA}
_CTE: dict[str, Any] = {"B": 1, "S": 150, "H": 512, **_GQA}
_RMS: dict[str, Any] = {"norm": "RMS_NORM", "gamma": "bfloat16"}
_LN: dict[str, Any] = {"norm": "LAYER_NORM", "gamma": "float32", "beta": "bfloat16"}
_STATIC: dict[str, Any] = {"quantization": "STATIC", "weight_dtype": FP8, "bias": "bfloat16"}
_BLOCKS: dict[str, Any] = {"kv_cache": "BLOCK", "kv_dtype": FP8, "block_size": 16, "num_blocks": 12}
_ROPE: dict[str, Any] = {"fused_rope": True, "rope_dtype": "bfloat16"}
_MX8: dict[str, Any] = {"quantization": "MX", "weight_dtype": MX_WEIGHT, "generation": "gen4"}
_ONE_HEAD: dict[str, Any] = {"d_head": 128, "num_q_heads": 1, "num_kv_heads": 1}

CATALOG = (
    _case("decode-b4", _LLAMA, tags=_CHECK, B=4, S=1),
    _case("decode-h16384", {**_LLAMA, "H": 16384}, tags=_CHECK, B=4, S=1, fused_residual_add=True),
    _case("prefill-s2048", _LLAMA, tags=_CHECK, B=1, S=2048, **_ROPE),
    _case("prefill-kv", {**_LLAMA, "H": 2048}, tags=_CHECK, B=1, S=512, **_ROPE, **{**_BLOCKS, "num_blocks": 40}),
    _case("prefill-mx", {**_LLAMA, "H": 2048}, tags=_CHECK, B=1, S=256, **_MX8),
    _case("tkg-plain", _TKG),
    _case("tkg-bias-nbsd", _TKG, bias="bfloat16", output_layout="NBSd"),
    _case("tkg-rms-residual", {**_TKG, **_RMS}, fused_residual_add=True, hidden_actual=1000),
    _case("tkg-layer-norm", {**_TKG, **_LN}, bias="bfloat16"),
    _case("tkg-near-constant", {**_TKG, **_LN}, "near_constant"),
    _case("tkg-static", {**_TKG, **_STATIC, **_RMS}),
    _case("tkg-row", {**_TKG, **_STATIC, "quantization": "ROW"}),
    _case("tkg-fp16", {**_TKG, "dtype": "float16", "weight_dtype": "float16"}, "heavy_tailed", lnc=1),
    _case("tkg-fp32", {**_TKG, **_RMS, "dtype": "float32", "weight_dtype": "float32"}, lnc=1),
    _case("tkg-exact", _TKG, "exact", bias="bfloat16"),
    _case("tkg-one-hot", {**_TKG, "H": 2432, "lnc": 1}, "one_hot"),
    _case("tkg-t50", {**_TKG, "B": 50, "S": 1, **_RMS}),
    _case("tkg-nan-token", {**_TKG, **_RMS}, "poison"),
    _case("tkg-static-edge", {**_TKG, **_STATIC}, "fp8_edge"),
    _case("tkg-zero-token", {**_TKG, **_RMS}, "zero_token"),
    _case("cte-plain", _CTE),
    _case("cte-bias-nbsd", _CTE, bias="float32", output_layout="NBSd"),
    _case("cte-rms-residual", {**_CTE, **_RMS}, fused_residual_add=True, hidden_actual=500),
    _case("cte-skip-gamma", {**_CTE, "norm": "RMS_NORM_SKIP_GAMMA"}, "zero_token"),
    _case("cte-layer-norm", {**_CTE, **_LN}, "near_constant"),
    _case("cte-rope", {**_CTE, **_ROPE}, bias="bfloat16"),
    _case("cte-rope-d96", {**_CTE, **_ROPE, "I": 480, "d_head": 96}),
    _case("cte-fp32", {**_CTE, **_RMS, "dtype": "float32", "weight_dtype": "float32"}),
    _case("cte-static", {**_CTE, **_STATIC, **_RMS}),
    _case("cte-static-rope-odd", {**_CTE, **_STATIC, **_ROPE, "H": 384}),
    _case("cte-static-edge", {**_CTE, **_STATIC}, "fp8_edge"),
    _case("cte-kv-flat", {**_CTE, **_ROPE, "B": 2, "S": 70, "kv_cache": "FLAT", "kv_dtype": FP8, "max_seq_len": 80}),
    _case("cte-kv-block", {**_CTE, **_BLOCKS}),
    _case("cte-kv-edge", {**_CTE, **_BLOCKS, "kv_dtype": "float8_e5m2"}, "fp8_edge", fp8_max=300.0, fp8_min=-300.0),
    _case("cte-mx", {**_CTE, **_MX8, **_RMS}),
    _case("cte-mx-swizzled", {**_CTE, **_MX8, "is_input_swizzled": True}),
    _case("cte-mx-edge", {**_CTE, **_MX8}, "mx_edge"),
    _case("cte-exact", _CTE, "exact"),
    _case("tkg-exact-rounding", {**_TKG, **_STATIC, **_RMS}, "exact_rounding", _CI),
    _case("cte-exact-rounding", {**_CTE, **_RMS, **_ROPE, **_BLOCKS}, "exact_rounding", _CI, bias="float32"),
    _case("tkg-one-sided", {**_TKG, **_RMS}, "one_sided", _CI),
    _case("cte-one-sided", _CTE, "one_sided", _CI),
    _case("cte-nan-token", {**_CTE, **_RMS}, "poison"),
    _case("cte-heavy", {**_CTE, **_RMS}, "heavy_tailed"),
    # Corners of the option space: each shows a fault that no other short case shows.
    _case(
        "cte-static-streamed", {}, "normal", _CORNER, note="FP8 weights in more than one block", B=1, S=97, H=3584,
        I=4096, weight_dtype="float8_e4m3", quantization="STATIC", d_head=128, num_q_heads=30, num_kv_heads=1,
    ),
    _case(
        "cte-mx-streamed", {}, "normal", _CORNER, note="MX weights and scales in more than one block", B=1, S=97,
        H=3072, I=4096, weight_dtype="float8_e4m3fn_x4", quantization="MX", generation="gen4",
    ),
    _case("cte-streamed", {}, "normal", _CORNER, note="weights in more than one block", B=1, S=97, H=2048, I=4096),
    _case(
        "cte-wide-hidden", {}, "normal", _CORNER, note="so wide a hidden state that few tiles of tokens stay together",
        B=4, S=100, H=8064, I=1024,
    ),
    _case(
        "cte-fp8-max-alone", _ONE_HEAD, "normal", _CORNER, note="an upper limit of the cache without a lower one", B=1,
        S=100, H=256, I=384, kv_cache="FLAT", max_seq_len=100, kv_dtype="float8_e4m3", fp8_max=100.0,
    ),
    _case(
        "cte-fp8-min-alone", _ONE_HEAD, "normal", _CORNER, note="a lower limit of the cache without an upper one", B=1,
        S=100, H=256, I=384, kv_cache="FLAT", max_seq_len=100, kv_dtype="float8_e4m3", fp8_min=-100.0,
    ),
    _case(
        "cte-e5m2-heavy", _ONE_HEAD, "heavy_tailed", _CORNER, note="values near the largest of float8_e5m2", B=1,
        S=100, H=256, I=384, kv_cache="FLAT", max_seq_len=100, kv_dtype="float8_e5m2",
    ),
    _case(
        "cte-flat-two-tiles", _ONE_HEAD, "normal", _CORNER, note="a flat cache that takes two tiles of one sequence",
        B=2, S=200, H=128, I=384, kv_cache="FLAT", kv_dtype="float8_e4m3", max_seq_len=200,
    ),
    _case(
        "cte-layer-norm-ragged", {}, "normal", _CORNER, note="LayerNorm over a last piece shorter than the others",
        B=1, S=100, H=640, I=128, norm="LAYER_NORM", gamma="bfloat16",
    ),
    _case(
        "cte-rope-two-kv-heads", {}, "normal", _CORNER, note="RoPE of several key heads in layout NBSd", B=1, S=100,
        H=256, I=640, fused_rope=True, rope_dtype="bfloat16", output_layout="NBSd", d_head=128, num_q_heads=1,
        num_kv_heads=2,
    ),
    _case(
        "cte-skip-gamma-hidden", {}, "normal", _CORNER,
        note="a mean over fewer elements than there are, without gamma", B=1, S=100, H=256, I=128,
        norm="RMS_NORM_SKIP_GAMMA", hidden_actual=200,
    ),
    _case(
        "cte-layer-norm-no-dma", {}, "normal", _CORNER, note="LayerNorm with beta where the tensor engine transposes",
        B=1, S=100, H=256, I=128, norm="LAYER_NORM", gamma="bfloat16", beta="bfloat16",
        load_input_with_DMA_transpose=False,
    ),
    _case(
        "cte-mx-layer-norm", {}, "normal", _CORNER, note="LayerNorm in front of MX", B=1, S=100, H=512, I=128,
        weight_dtype="float8_e4m3fn_x4", quantization="MX", norm="LAYER_NORM", gamma="bfloat16", beta="bfloat16",
        generation="gen4",
    ),
    _case(
        "tkg-norm-steps-residual", {}, "normal", _CORNER, note="tokens normalised in several steps, residual kept",
        B=128, S=1, H=4224, I=128, fused_residual_add=True, norm="RMS_NORM", gamma="bfloat16",
    ),
    _case(
        "tkg-norm-steps-hidden", {}, "normal", _CORNER,
        note="tokens normalised in several steps, mean over fewer elements", B=128, S=1, H=4224, I=128,
        norm="RMS_NORM", gamma="bfloat16", hidden_actual=2000,
    ),
    _case(
        "tkg-32-tokens", {}, "exact_rounding", _CORNER, note="32 tokens: the last with four groups", B=32, S=1, H=512,
        I=256,
    ),
    _case("tkg-64-tokens", {}, "normal", _CORNER, note="64 tokens: the last with two groups", B=64, S=1, H=512, I=256),
    _case(
        "tkg-ragged-groups", {}, "heavy_tailed", _CORNER, note="a last block of tiles that its groups do not divide",
        B=2, S=1, H=2816, I=256,
    ),
    _case(
        "tkg-96", {}, "normal", _CORNER, note="96 tokens of a sequence: the last that decode takes", B=1, S=96, H=512,
        I=256, bias="bfloat16",
    ),
    _case(
        "tkg-128-tokens", {}, "normal", _CORNER, note="128 tokens: the last that decode takes", B=2, S=64, H=512,
        I=256,
    ),
    _case(
        "tkg-residual-order", {}, "normal", _CORNER, note="the order in which residuals are added", B=2, S=1, H=512,
        I=256, dtype="float32", weight_dtype="float32", fused_residual_add=True,
    ),
    _case(
        "cte-static-eps", _ONE_HEAD, "normal", _CORNER, note="an eps that is no bfloat16", B=1, S=100, H=256, I=384,
        weight_dtype="float8_e4m3", quantization="STATIC", norm="RMS_NORM_SKIP_GAMMA", norm_eps=0.3,
    ),
)

FLAGS = flags(
    Config,
    Flag("mode", ("TKG", "CTE"), of=mode),
    dtype=FLOATS,
    weight_dtype=(*FLOATS, FP8, MX_WEIGHT),
    bias=(None, *FLOATS),
    output_layout=LAYOUTS,
    quantization=QUANTIZATIONS,
    scale_rows=(1, 128),
    norm=NORMS,
    gamma=(None, *FLOATS),
    beta=(None, *FLOATS),
    hidden_actual=some("hidden_actual", None, 100),
    rope_dtype=(None, *FLOATS),
    num_q_heads=some("num_q_heads", None, 1),
    kv_cache=KV_CACHES,
    kv_dtype=(None, *KV_DTYPES),
    fp8_max=some("fp8_max", None, 100.5),
    sbm=(None, "auto", "manual"),
    lnc=(1, 2),
    generation=GENERATIONS,
)

SUBJECT = Subject(
    name="qkv",
    config_type=Config,
    contract=CONTRACT,
    outputs=(
        Output("out", description="projection; with a KV cache its query columns"),
        Output("fused_hidden", description="residual sum before the norm (decode)"),
        Output("k_cache", "k_cache", description="quantised keys at the addressed rows", updates=_writes_cache),
        Output("v_cache", "v_cache", description="quantised values at the addressed rows", updates=_writes_cache),
    ),
    lanes=LANES,
    catalog=CATALOG,
    implementation="kernels.qkv:qkv",
    legal=refusal,
    call_refusal=inputs_refusal,
    strategy=configs,
    illegal=illegal,
    spoilings=SPOILINGS,
    build=build,
    truth=reference.truth,
    model=reference.model,
    call=call,
    lane_fits=fits,
    quantization=quantization,
    bounds=bounds,
    flags=FLAGS,
    bench=(
        Bench("decode-b4", Config(**{**_LLAMA, "B": 4, "S": 1}), _plain_fp32),
        Bench("prefill-2048", Config(**{**_LLAMA, "B": 1, "S": 2048}), _plain_fp32),
    ),
)

__all__ = ["CATALOG", "SUBJECT", "build", "call", "configs", "cte_configs", "illegal", "tkg_configs"]
