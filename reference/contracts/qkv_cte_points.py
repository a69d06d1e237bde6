"""Rounding points of `qkv` in context encoding.

Letters: C = bfloat16 for a float32 input, else the input's dtype; E = bfloat16 in STATIC, else C; R_X one
rounding of a float32 value to X; mad(a, b, c) = a*b + c as a two-op instruction. Token tile s of a core has nt
tokens (128, the last one the rest), in MX nt' = nt rounded up to even, the extra token zero; I tile i has w_i
columns from 512*i on; H1 = H/128. `in_scale_inverse` and `dequant_scale` of STATIC are rows of both modes.
"""

from __future__ import annotations

from reference.contract import RoundingPoint

_HIDDEN = "[nt, H]"
_TOKENS = "[nt, 1]"
_OUT = "[nt, I]"
_ROPE = "[nt, (nq+nkv)*d]"
_S = ("s",)
_RMS = "CTE, RMS_NORM or RMS_NORM_SKIP_GAMMA"

POINTS: tuple[RoundingPoint, ...] = (
    RoundingPoint(
        "bias_rows", "E", "sbuf", "[128, I]", (), "every row R_E(bias)", when="CTE, bias",
    ),
    RoundingPoint(
        "k_scale_inverse", "float32", "sbuf", "[128, 1]", (), "reciprocal of k_scale, VectorE", when="KV cache",
    ),
    RoundingPoint(
        "v_scale_inverse", "float32", "sbuf", "[128, 1]", (), "reciprocal of v_scale, VectorE", when="KV cache",
    ),
    RoundingPoint(
        "hidden", "C", "sbuf", _HIDDEN, _S,
        "R_C(input); with residual R_C((input + mlp_prev) + attention_prev), one rounding", when="CTE",
    ),
    RoundingPoint(
        "square_sum", "float32", "sbuf", _TOKENS, _S,
        "sum over all H columns of hidden^2, one ScalarE instruction with reset_reduce, its other dst in C",
        when=_RMS,
    ),
    RoundingPoint(
        "bn_stats", "float32", "sbuf", "[nt, 6*ceil(H/512)]", _S,
        "bn_stats of hidden per 512 columns, ascending", when="CTE, LAYER_NORM",
    ),
    RoundingPoint(
        "moments", "float32", "sbuf", "[nt, 2]", _S, "bn_aggr of bn_stats: mean, population variance",
        when="CTE, LAYER_NORM",
    ),
    RoundingPoint(
        "inverse_root", "float32", "sbuf", _TOKENS, _S,
        "ScalarE rsqrt(mad(square_sum, float32(1/hidden_actual), eps)), LAYER_NORM rsqrt(variance + eps); eps "
        "rounded to C, in STATIC float32", when="CTE, norm",
    ),
    RoundingPoint(
        "normalized", "C", "sbuf", _HIDDEN, _S,
        "R_C(hidden * inverse_root), LAYER_NORM R_C((hidden - mean) * inverse_root)", when="CTE, norm",
    ),
    RoundingPoint(
        "operand", "C", "sbuf",
        "[128, H1, nt], h = 128*j + p; MX [128, H/512, nt', 4], h = 512*t + 4*p + k", _S,
        "transposed normalized (hidden without norm), with gamma R_C(* gamma), with beta R_C(mad(, gamma, beta))",
        when="CTE",
    ),
    RoundingPoint(
        "operand_fp8", "float8_e4m3", "sbuf", "[128, H1, nt]", _S,
        "R_fp8(max(min(operand * in_scale_inverse, 240), -240)), no rounding in between", when="CTE, STATIC",
    ),
    RoundingPoint(
        "operand_mx", "float8_e4m3fn_x4", "sbuf", "[128, H/512, nt'], lanes k = 0..3", _S,
        "quantize_mx of operand, groups of 32 consecutive h of a token", when="MX",
    ),
    RoundingPoint(
        "operand_scale", "uint8", "sbuf", "[128, H/512, nt'], group g in row 32*(g//4) + g%4, other rows 0", _S,
        "scale bytes of operand_mx", when="MX",
    ),
    RoundingPoint(
        "product", "float32", "psum", "[nt, w_i]; MX [nt', w_i]", ("s", "i"),
        "passes of 128 consecutive h ascending, STATIC 256 (double_row; the last 128 plain if H1 is odd), MX "
        "512; operand stationary; the first overwrites", when="CTE",
    ),
    RoundingPoint(
        "raw", "bfloat16", "sbuf", _OUT, _S, "R_bf16(product)", when="CTE, STATIC without RoPE",
    ),
    RoundingPoint(
        "projected", "E", "sbuf", _OUT, _S,
        "R_E(product [+ bias_rows]); STATIC R_E(mad(raw, dequant_scale, bias_rows)), with RoPE of product "
        "instead of raw; without bias the multiply alone", when="CTE",
    ),
    RoundingPoint(
        "cos", "E", "sbuf", "[nt, d]", _S, "R_E(cos_cache)", when="RoPE",
    ),
    RoundingPoint(
        "sin", "E", "sbuf", "[nt, d/2]", _S, "R_E(first half of sin_cache)", when="RoPE",
    ),
    RoundingPoint(
        "sine_part", "E", "sbuf", _ROPE, _S, "per head [-R_E(X2*sin), R_E(X1*sin)], X of projected",
        when="RoPE",
    ),
    RoundingPoint(
        "cosine_part", "E", "sbuf", _ROPE, _S, "R_E(X*cos), each half its own cos", when="RoPE",
    ),
    RoundingPoint(
        "rotated", "E", "sbuf", _ROPE, _S, "R_E(cosine_part + sine_part)", when="RoPE",
    ),
    RoundingPoint(
        "k_quantized", "kv_dtype", "sbuf", "[nt, nkv*d]", _S,
        "R_kv(min(max(k * k_scale_inverse, fp8_min), fp8_max)), no rounding in between", when="KV cache",
    ),
    RoundingPoint(
        "v_quantized", "kv_dtype", "sbuf", "[nt, nkv*d]", _S,
        "R_kv(min(max(v * v_scale_inverse, fp8_min), fp8_max)), no rounding in between", when="KV cache",
    ),
)  # fmt: skip
