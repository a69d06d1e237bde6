"""Faults of attention_block_tkg and of the parts that only it has; its stages are broken in catalogs of their own."""

from __future__ import annotations

from typing import Any

from conformance.mutants.mutant import Mutant, Patch
from conformance.subject import case_id
from reference.contracts.attention_block_tkg import Config

_KERNEL, _NORM, _ROPE, _UPDATE = "attention_block_tkg.py", "head_norm.py", "rope_tkg.py", "cache_update.py"

_BASE: dict[str, Any] = {"B": 2, "S": 3, "H": 512, "q": 3, "d": 64, "S_ctx": 256, "S_max": 256, "lnc": 1, "W_out": None}


def _stage(lane: str = "normal", seed: int = 0, **fields: Any) -> str:
    """A case that ends with attention on one core.

    Tiles of QKV whose names the output projection or attention of two cores have, too, would be found before those
    between them: points are looked at in the order of the contract, which has one row for a name.
    """
    return case_id(Config(**_BASE | fields), lane, seed)


_NORMS: dict[str, Any] = {"rmsnorm_QK_pre_rope_enabled": True, "rmsnorm_QK_post_rope_enabled": True}
_WEIGHTED: dict[str, Any] = _NORMS | {"W_Q": "float32", "W_K": "bfloat16"}
_FP8_KV: dict[str, Any] = {"kv_dtype": "float8_e4m3", "k_scale": "float32", "v_scale": "bfloat16"}
_BARE: dict[str, Any] = {"rmsnorm_X_enabled": False, "gamma": None, "cos": None, "sin": None}


def _mutant(
    name: str, fault: str, find: str, replace: str, case: str, point: str = "", source: str = "",
    file: str = _KERNEL, count: int = 1,
) -> Mutant:  # fmt: skip
    patch = Patch(file, find, replace, count)
    return Mutant(f"block-{name}", "attention_block_tkg", fault, (patch,), case, point, source)


MUTANTS = (
    _mutant(
        "default-eps", "the default eps is that of another release", "DEFAULT_EPS = 1e-3", "DEFAULT_EPS = 1e-6",
        "plain", "norm_rsqrt", "decision AB-D13",
    ),
    _mutant(
        "padded-mean", "padding counts in the mean", "H if hidden_actual == None else hidden_actual", "H",
        "x-on-chip-static", "norm_rsqrt", "class: option ignored",
    ),
    _mutant(
        "key-is-value", "the key head is taken from the columns of values",
        "first = 0 if r == 0 else shape.q * d", "first = 0 if r == 0 else (shape.q + 1) * d",
        _stage(), "heads", "class: wrong segment",
    ),
    _mutant(
        "heads-token-major", "columns stand token by token, not head by head",
        "heads.reshape((d, shape.B, count, shape.S)).permute((0, 2, 1, 3))",
        "heads.reshape((d, shape.B, shape.S, count)).permute((0, 3, 1, 2))",
        _stage(), "heads", "class: index order",
    ),
    _mutant(
        "joined-twice", "the first tile of QKV is joined in place of the second",
        "src=tiles[i], engine", "src=tiles[max(i - 1, 0)][:, 0 : tiles[i].shape[1]], engine",
        _stage(B=1, q=9, d=128), "heads", "class: wrong tile",
    ),
    _mutant(
        "pre-norm-skips-keys", "keys are not normed before RoPE",
        'key = head_rms_norm(key, rmsnorm_QK_pre_rope_eps, None, "pre", 1)', "key = key",
        _stage(**_NORMS), "rope_even_cos", "class: stage missing",
    ),
    _mutant(
        "eps-of-the-other-norm", "the norm after RoPE takes the eps of the one before",
        "key, rmsnorm_QK_post_rope_eps", "key, rmsnorm_QK_pre_rope_eps",
        _stage(rmsnorm_QK_post_rope_eps=0.5, **_NORMS), "post_rsqrt", "class: neighbouring argument",
    ),
    _mutant(
        "weights-exchanged", "keys are weighted with the weights of queries",
        "rmsnorm_QK_post_rope_eps, rmsnorm_QK_post_rope_W_K", "rmsnorm_QK_post_rope_eps, rmsnorm_QK_post_rope_W_Q",
        _stage(**_WEIGHTED), "post_normed", "class: neighbouring argument",
    ),
    _mutant(
        "mean-over-128", "the mean of squares divides by 128", "scale=1.0 / d", "scale=1.0 / 128",
        _stage(**_NORMS), "pre_rsqrt", "decision AB-D8", file=_NORM,
    ),
    _mutant(
        "weighted-unscaled", "the weight is applied to the rounded product",
        'scaled = nl.ndarray((d, columns), dtype=nl.float32', 'scaled = nl.ndarray((d, columns), dtype=x.dtype',
        _stage(**_WEIGHTED), "post_scaled", "class: extra rounding", file=_NORM,
    ),
    _mutant(
        "rope-sign", "pairs turn the other way", "op=nl.subtract", "op=nl.add",
        _stage(), "rope_even", "class: sign", file=_ROPE,
    ),
    _mutant(
        "rope-unrounded", "products of RoPE stay in fp32",
        "result = nl.ndarray(values.shape, dtype=values.dtype, name=name)",
        "result = nl.ndarray(values.shape, dtype=nl.float32, name=name)",
        _stage(), "rope_even_cos", "class: missing rounding", file=_ROPE,
    ),
    _mutant(
        "rope-layout-ignored", "neighbours are rotated as halves", "rope_contiguous_layout, 0)", "True, 0)",
        _stage(rope_contiguous_layout=False), "rope_even_cos", "class: option ignored",
    ),
    _mutant(
        "rope-rejoined-in-halves", "interleaved pairs come back as halves",
        "join_pairs(rotated, turned_even, turned_odd, contiguous)",
        "join_pairs(rotated, turned_even, turned_odd, True)",
        _stage(rope_contiguous_layout=False), "rotated", "class: index order", file=_ROPE,
    ),
    _mutant(
        "scale-dropped", "queries are not scaled", "operand0=scale, engine", "operand0=1.0, engine",
        _stage(), "scaled_query", "class: stage missing",
    ),
    _mutant(
        "values-as-keys-scale", "values are scaled with k_scale",
        "quantize_new(value, v_scale, V_cache.dtype, 2)", "quantize_new(value, k_scale, V_cache.dtype, 2)",
        _stage(**_FP8_KV), "kv_scaled", "class: neighbouring argument",
    ),
    _mutant(
        "clamp-missing", "new keys and values overflow to infinity",
        'return clamped_fp8(scaled, dtype, f"kv_quantized_{r}")',
        'result = nl.ndarray(values.shape, dtype=dtype, name=f"kv_quantized_{r}")\n'
        "    nisa.tensor_copy(dst=result, src=scaled, engine=nisa.vector_engine)\n    return result",
        _stage("fp8_edge", **_FP8_KV, **_BARE), "kv_quantized", "class: missing clamp", file=_UPDATE,
    ),
    _mutant(
        "slot-of-next-token", "rows are written one slot late", "[[batch_rows, B], [1, S]]",
        "[[batch_rows, B], [S, S]]", "plain", "", "class: stride", file=_UPDATE,
    ),
    _mutant(
        "skip-wraps", "a skipped batch wraps into the batch before",
        "nisa.tensor_tensor(dst=result, data1=index, data2=moved, op=nl.maximum, engine=nisa.gpsimd_engine)",
        "nisa.tensor_copy(dst=result, src=moved, engine=nisa.gpsimd_engine)",
        _stage(B=4, S=1), "", "AB: skip value", file=_UPDATE,
    ),
    _mutant(
        "transposed-batch-stride", "transposed keys of all batches go to the first",
        "offset=b * d * S_max", "offset=0 * b", _stage(B=4, S=1, K_cache_transposed=True), "",
        "class: stride", file=_UPDATE,
    ),
    _mutant(
        "barrier-missing", "caches are written while the other core reads them",
        "nisa.core_barrier(data=K_cache, cores=(0, 1))\n            nisa.core_barrier(data=V_cache, cores=(0, 1))",
        "pass", "plain", "", "decision AB-D2",
    ),
    _mutant(
        "returned-keys-of-queries", "without an update the queries of the first head come back as new keys",
        "return_new(shape, key, value)\n    if", "return_new(shape, query[:, 0 : shape.B * shape.S], value)\n    if",
        "no-update", "", "class: wrong operand",
    ),
)
