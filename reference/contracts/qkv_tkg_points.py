"""Rounding points of `qkv` in token generation.

Letters: H1 = H/128, H1s = H1/LNC; core s, partition p, column j hold h = s*H/LNC + p*H1s + j; token tile k has
`tokens` of the T tokens; I tile i has w_i columns from 512*i on; group g holds PE tiles in ascending j.
"""

from __future__ import annotations

from reference.contract import RoundingPoint

_TOKENS = "[128, tokens]"
_FULL = "[128, tokens, H1], column c = s*H1s + j"
_SHARD = "[128, tokens, H1s], the core's own columns"
_OUT = "[T, w_i]"

POINTS: tuple[RoundingPoint, ...] = (
    RoundingPoint(
        "x", "io", "sbuf", f"{_FULL}; without norm [128, T, H1s]", ("k",),
        "input; with residual R_io((input + attention_prev) + mlp_prev), one rounding", when="TKG",
    ),
    RoundingPoint(
        "norm_square", "float32", "sbuf", _FULL, ("k",), "x * x, ScalarE", when="TKG, RMS_NORM or LAYER_NORM",
    ),
    RoundingPoint(
        "norm_part", "float32", "sbuf", _TOKENS, ("k",), "sum over c of norm_square, VectorE",
        when="TKG, RMS_NORM or LAYER_NORM",
    ),
    RoundingPoint(
        "norm_sum", "float32", "sbuf", _TOKENS, ("k",), "sum over c of x, VectorE", when="TKG, LAYER_NORM",
    ),
    RoundingPoint(
        "norm_total", "float32", "psum", _TOKENS, ("k",), "ones [128, 128] times norm_part",
        when="TKG, RMS_NORM",
    ),
    RoundingPoint(
        "norm_mean_square", "float32", "psum", _TOKENS, ("k",), "float32(1/H) [128, 128] times norm_part",
        when="TKG, LAYER_NORM",
    ),
    RoundingPoint(
        "norm_mean", "float32", "psum", _TOKENS, ("k",), "float32(1/H) [128, 128] times norm_sum",
        when="TKG, LAYER_NORM",
    ),
    RoundingPoint(
        "norm_centred", "io", "sbuf", _SHARD, ("k",), "R_io(x - norm_mean)", when="TKG, LAYER_NORM",
    ),
    RoundingPoint(
        "norm_mean_squared", "float32", "sbuf", _TOKENS, ("k",), "norm_mean * norm_mean",
        when="TKG, LAYER_NORM",
    ),
    RoundingPoint(
        "norm_spread", "float32", "sbuf", _TOKENS, ("k",), "norm_mean_square - norm_mean_squared",
        when="TKG, LAYER_NORM",
    ),
    RoundingPoint(
        "norm_variance", "float32", "sbuf", _TOKENS, ("k",), "max(norm_spread, 0)", when="TKG, LAYER_NORM",
    ),
    RoundingPoint(
        "norm_rsqrt", "float32", "sbuf", _TOKENS, ("k",),
        "RMS_NORM rsqrt(norm_total * float32(1/hidden_actual) + eps), LAYER_NORM rsqrt(norm_variance + eps), "
        "ScalarE, eps in float32", when="TKG, RMS_NORM or LAYER_NORM",
    ),
    RoundingPoint(
        "norm_gamma", "RMS_NORM float32, LAYER_NORM io", "sbuf", _SHARD, ("k",),
        "RMS_NORM x * gamma, LAYER_NORM R_io(norm_centred * gamma)", when="TKG, RMS_NORM or LAYER_NORM",
    ),
    RoundingPoint(
        "norm_scaled", "io", "sbuf", _SHARD, ("k",), "R_io(norm_gamma * norm_rsqrt)",
        when="TKG, LAYER_NORM with beta",
    ),
    RoundingPoint(
        "y", "io", "sbuf", _SHARD, ("k",),
        "R_io(norm_gamma * norm_rsqrt); with beta R_io(norm_scaled + beta)",
        when="TKG, RMS_NORM or LAYER_NORM",
    ),
    RoundingPoint(
        "in_scale_inverse", "float32", "sbuf", "[128, 1]", (), "reciprocal of qkv_in_scale, VectorE",
        when="STATIC",
    ),
    RoundingPoint(
        "dequant_scale", "float32", "sbuf", "[128, 3]", (), "qkv_w_scale * qkv_in_scale, one per Q, K, V",
        when="STATIC",
    ),
    RoundingPoint(
        "scaled", "io", "sbuf", _SHARD, ("k",), "R_io(y * in_scale_inverse), x without norm", when="TKG, STATIC",
    ),
    RoundingPoint(
        "quantized", "float8_e4m3", "sbuf", _SHARD, ("k",), "R_fp8(max(min(scaled, 240), -240))",
        when="TKG, STATIC",
    ),
    RoundingPoint(
        "psum", "float32", "psum", _OUT, ("i", "g"),
        "sum over the PE tiles j of group g, ascending, of operand[:, T, j] (stationary) times W[:, j, w_i]; "
        "the first overwrites", when="TKG",
    ),
    RoundingPoint(
        "bias_tile", "io", "sbuf", "[T, I]", (), "every row the bias; core 0 only", exact=True,
        when="TKG, bias",
    ),
    RoundingPoint(
        "partial", "io", "sbuf", _OUT, ("i", "g"),
        "R_io(partial of g-1 + psum); g = 0: bias (NONE, core 0) or 0 instead", when="TKG",
    ),
    RoundingPoint(
        "dequant", "io", "sbuf", _OUT, ("i",),
        "STATIC R_io(last partial * dequant_scale of Q, K or V), ROW R_io(last partial * qkv_w_scale)",
        when="TKG, STATIC or ROW",
    ),
    RoundingPoint(
        "biased", "io", "sbuf", _OUT, ("i",), "R_io(dequant + bias); core 0 only",
        when="TKG, STATIC or ROW, bias",
    ),
    RoundingPoint(
        "total", "io", "sbuf", _OUT, ("i",), "R_io(own part + the other core's)", when="TKG, LNC=2",
    ),
)  # fmt: skip
