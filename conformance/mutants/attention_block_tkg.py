"""Faults of attention_block_tkg, of the parts that only it has, and of its calls to its stages.

Sources ABn: the defects of the contract's history, each of them played by a mutant or named in `NOT_PLAYED`. Most
cases end before the output projection and are on one core, since both cost time and hide nothing.
"""

from __future__ import annotations

from conformance.mutants import unseen as unseen_because
from conformance.mutants.mutant import Mutant, Patch
from conformance.mutants.snippets import one_step_off, rows_swapped, truncated

_KERNEL, _NORM, _ROPE, _UPDATE = "attention_block_tkg.py", "head_norm.py", "rope_tkg.py", "cache_update.py"
_QKV, _LOAD, _PLAN = "qkv_tkg.py", "kv_load.py", "attention_tkg_plan.py"
_SCORES, _OUTPUT, _PROJECTION = "attention_tkg_scores.py", "attention_tkg_output.py", "output_projection_tkg.py"


def _cfg(more: str = "", lane: str = "normal", seed: int = 0, S_max: int = 256) -> str:
    """A small case without output projection, on one core."""
    cores = "" if "lnc=" in more else ",lnc=1"
    sizes = f"B=2,S=3,H=1024,q=3,d=64,S_ctx=256,S_max={S_max},W_out=null{cores}"
    return ",".join(filter(None, (f"cfg:lane={lane},seed={seed},{sizes}", more)))


_POST = "rmsnorm_QK_post_rope_enabled=true"
_PRE = "rmsnorm_QK_pre_rope_enabled=true"
_FP8_KV = "kv_dtype=float8_e4m3,k_scale=float32,v_scale=float32"
_BARE = "rmsnorm_X_enabled=false,gamma=null,cos=null,sin=null"
_STATIC = "W_qkv=float8_e4m3,quantization_type_qkv=STATIC"
_BLOCK = "block_len=16,num_blocks=40"
#: Flash tiles of 8192 and 128 keys on each core.
_FLASH = "B=1,S=1,H=512,q=1,d=32,S_ctx=16640,S_max=16640,W_out=null,cos=null,sin=null"
#: 1408 columns of QKV.
_TILES = "cfg:lane=normal,seed=0,B=1,S=3,H=512,q=9,d=128,S_ctx=128,S_max=128,lnc=1,W_out=null"


def _patched(
    kind: str, name: str, fault: str, patches: tuple[Patch, ...], case: str, point: str, source: str,
    also: tuple[str, ...] = (), unseen: str = "", seen_in: str = "",
) -> Mutant:  # fmt: skip
    name = f"block-{name}"
    return Mutant(name, "attention_block_tkg", fault, patches, case, point, source, kind, also, unseen, "", seen_in)


def _mutant(
    kind: str, name: str, fault: str, find: str, replace: str, case: str, point: str = "", source: str = "",
    file: str = _KERNEL, count: int = 1, also: tuple[str, ...] = (), unseen: str = "", seen_in: str = "",
) -> Mutant:  # fmt: skip
    patch = Patch(file, find, replace, count)
    return _patched(kind, name, fault, (patch,), case, point, source, also, unseen, seen_in)


#: Defects that no mutant plays on a case of the suite, and why.
NOT_PLAYED = {
    "AB16": "cos without sin is refused before launch (AB-D7)",
    "AB26": "rows past the slots of a batch are refused before launch (AB-D12)",
    "AB27": "a cache of 2**24 rows takes 4 GB to judge; ROW_INDEX_IN_FLOAT32 is caught by the test of the defect",
    "AB36": "about the signature, which a test compares with the contract's; the suite calls by keyword",
}

ROW_INDEX_IN_FLOAT32 = _mutant(
    "slot", "row-index-in-float32", "the batch's offset is added to the index in float32",
    "nisa.tensor_tensor(dst=moved, data1=index, data2=step, op=nl.add, engine=nisa.gpsimd_engine)",
    "nisa.tensor_tensor(dst=moved, data1=index, data2=step, op=nl.add, engine=nisa.vector_engine)",
    "", "", "AB27", file=_UPDATE,
)  # fmt: skip

# AB18 also names a clamp after the cast: the cast makes infinities of what the clamp would have met, and the clamp
# makes 240 of these, so that the bits are the same.
MUTANTS = (
    # norm and projection of X
    _mutant(
        "eps", "default-eps", "the default eps is that of another release", "DEFAULT_EPS = 1e-3", "DEFAULT_EPS = 1e-6",
        _cfg(), "norm_rsqrt", "AB12",
        also=("exact-rounding",),
    ),
    _mutant(
        "norm", "padded-mean", "padding counts in the mean", "H if hidden_actual == None else hidden_actual", "H",
        _cfg("X_hidden_dim_actual=1000"), "norm_rsqrt", "AB13",
    ),
    _mutant(
        "norm", "norm-skipped", "X is projected as it is", "NormType.NO_NORM if gamma == None else NormType.RMS_NORM",
        "NormType.NO_NORM", _cfg(), "psum", "class: stage missing",
    ),
    _mutant(
        "eps", "eps-in-fp8",
        "eps is held in the dtype of quantized operands", "eps = constant_tile(norm_eps, (128, 1))",
        "narrow = nl.ndarray((128, 1), dtype=nl.float8_e4m3)\n"
        "        nisa.tensor_copy(dst=narrow, src=constant_tile(norm_eps, (128, 1)))\n"
        "        eps = nl.ndarray((128, 1), dtype=nl.float32)\n"
        "        nisa.tensor_copy(dst=eps, src=narrow)",
        _cfg(_STATIC + ",rmsnorm_X_eps=0.00001", "zero_token"), "norm_rsqrt", "AB35", file=_QKV,
    ),
    _mutant(
        "rounding", "raw-sums-wide", "raw sums of quantized products stay in fp32",
        'partial = nl.ndarray((shape.T, width), dtype=io, name', 'partial = nl.ndarray((shape.T, width), dtype=nl.float32, name',  # noqa: E501  (a line of the kernel, as it stands)
        _cfg(_STATIC), "partial", "AB21", file=_QKV,
        also=(_cfg(_STATIC + ",skip_attention=true,cos=null,sin=null", "exact_rounding"),),
    ),
    _mutant(
        "order", "two-groups", "few tokens are summed in as many groups as 33 of them", "    F = 4\n", "    F = 2\n",
        _cfg(), "psum", "AB23", file=_QKV,
        also=("exact",),
    ),
    _mutant(
        "term", "bias-on-both-cores", "each core adds the bias to its shard", "if bias == None or shape.prg != 0:",
        "if bias == None:", _cfg("bias_qkv=bfloat16,lnc=2"), "partial", "AB24", file=_QKV,
    ),
    _mutant(
        "memory", "x-on-chip-overwritten", "the caller's tile is used up",
        "columns)], engine=nisa.vector_engine\n    )\n    return x",
        "columns)], engine=nisa.vector_engine\n    )\n"
        "    nisa.memset(dst=source[:, nl.ds(first, tokens), :], value=0.0)\n    return x",
        _cfg("X_in_sb=true"), "", "AB34", file=_QKV,
    ),
    # heads
    _mutant(
        "rows", "key-is-value", "the key head is taken from the columns of values",
        "first = 0 if r == 0 else shape.q * d", "first = 0 if r == 0 else (shape.q + 1) * d",
        _cfg(), "heads", "class: wrong segment",
    ),
    _mutant(
        "rows", "heads-token-major", "columns stand token by token, not head by head",
        "heads.reshape((d, shape.B, count, shape.S)).permute((0, 2, 1, 3))",
        "heads.reshape((d, shape.B, shape.S, count)).permute((0, 3, 1, 2))",
        _cfg(), "heads", "class: index order",
    ),
    _mutant(
        "rows", "heads-of-all-requests", "heads stand before requests",
        "heads.reshape((d, shape.B, count, shape.S)).permute((0, 2, 1, 3))",
        "heads.reshape((d, count, shape.B, shape.S))",
        _cfg(), "heads", "AB30",
    ),
    _mutant(
        "rows", "first-tile-repeated", "every tile of QKV is the first one", "src=tiles[i], engine",
        "src=tiles[0][:, 0 : tiles[i].shape[1]], engine", _TILES, "heads", "class: wrong tile",
    ),
    # norms of heads
    _mutant(
        "norm", "pre-norm-skips-keys", "keys are not normed before RoPE",
        'key = head_rms_norm(key, rmsnorm_QK_pre_rope_eps, None, "pre", 1)', "key = key",
        _cfg(_PRE), "rope_even_cos", "class: stage missing",
        seen_in="one_sided",
    ),
    _patched(
        "norm", "norms-exchanged", "the norm after RoPE is done before it",
        (
            Patch(_KERNEL, "if rmsnorm_QK_pre_rope_enabled:\n", "if rmsnorm_QK_post_rope_enabled and True:\n"),
            Patch(_KERNEL, "if rmsnorm_QK_post_rope_enabled:\n", "if rmsnorm_QK_pre_rope_enabled and True:\n"),
        ),
        _cfg(_POST), "rope_even_cos", "class: stage order",
    ),
    _mutant(
        "norm", "post-norm-twice", "keys are normed twice after RoPE",
        'key = head_rms_norm(key, rmsnorm_QK_post_rope_eps, rmsnorm_QK_post_rope_W_K, "post", 1)',
        'key = head_rms_norm(key, rmsnorm_QK_post_rope_eps, rmsnorm_QK_post_rope_W_K, "post", 1)\n'
        '        key = head_rms_norm(key, rmsnorm_QK_post_rope_eps, rmsnorm_QK_post_rope_W_K, "again", 1)',
        _cfg(_POST + ",W_K=float32"), "score", "class: stage twice",
    ),
    _mutant(
        "eps", "eps-of-the-other-norm", "the norm of keys after RoPE takes the eps of the one before",
        "key, rmsnorm_QK_post_rope_eps", "key, rmsnorm_QK_pre_rope_eps",
        _cfg(_POST + ",rmsnorm_QK_post_rope_eps=0.5"), "post_rsqrt", "class: neighbouring argument",
    ),
    _mutant(
        "eps", "head-eps-constant", "the norms of heads have an eps of their own", "constant_tile(eps, (d, 1))",
        "constant_tile(1e-6, (d, 1))", _cfg(_PRE + ",rmsnorm_QK_pre_rope_eps=0.5"), "pre_rsqrt",
        "class: option ignored", file=_NORM,
    ),
    _mutant(
        "norm", "weights-exchanged", "keys are weighted with the weights of queries",
        "rmsnorm_QK_post_rope_eps, rmsnorm_QK_post_rope_W_K", "rmsnorm_QK_post_rope_eps, rmsnorm_QK_post_rope_W_Q",
        _cfg(_POST + ",W_Q=float32,W_K=bfloat16"), "post_normed", "AB14",
    ),
    _mutant(
        "norm", "mean-over-128", "the mean of squares divides by 128", "scale=1.0 / d", "scale=1.0 / 128",
        _cfg(_PRE), "pre_rsqrt", "decision AB-D8", file=_NORM,
    ),
    _mutant(
        "rounding", "weighted-after-rounding", "the weight is applied to the rounded product",
        'scaled = nl.ndarray((d, columns), dtype=nl.float32', 'scaled = nl.ndarray((d, columns), dtype=x.dtype',
        _cfg(_POST + ",W_Q=float32"), "post_scaled", "class: extra rounding", file=_NORM,
        unseen=unseen_because.ONE_OF_MANY,
    ),
    # RoPE
    _mutant(
        "rope", "rope-sign", "pairs turn the other way", "op=nl.subtract", "op=nl.add",
        _cfg(), "rope_even", "AB15", file=_ROPE,
    ),
    _mutant(
        "rounding", "rope-unrounded", "products of RoPE stay in fp32",
        "result = nl.ndarray(values.shape, dtype=values.dtype, name=name)",
        "result = nl.ndarray(values.shape, dtype=nl.float32, name=name)",
        _cfg(), "rope_even_cos", "class: missing rounding", file=_ROPE,
        also=("exact-rounding",),
    ),
    _mutant(
        "rope", "rope-tables-exchanged", "cosines and sines are exchanged", "load_table(cos), load_table(sin)",
        "load_table(sin), load_table(cos)", _cfg(), "rope_even_cos", "class: neighbouring argument",
    ),
    _mutant(
        "rope", "rope-tables-head-major", "the tables are repeated by head, not by request",
        "wave.reshape((wave.shape[0], batches, 1, wave.shape[1] // batches)).broadcast(2, heads)",
        "wave.reshape((wave.shape[0], 1, batches, wave.shape[1] // batches)).broadcast(1, heads)",
        _cfg(), "rope_even_cos", "AB15", file="rope.py",
    ),
    _mutant(
        "rope", "rope-skips-keys", "keys are not turned",
        "key = rotate_columns(key, cosines, sines, shape.B, 1, rope_contiguous_layout, 1)", "key = key",
        _cfg(), "score", "class: stage missing",
    ),
    _mutant(
        "rope", "rope-layout-ignored", "neighbours are rotated as halves", "rope_contiguous_layout, 0)", "True, 0)",
        _cfg("rope_contiguous_layout=false"), "rope_even_cos", "AB15",
    ),
    _mutant(
        "rope", "rope-rejoined-in-halves", "interleaved pairs come back as halves",
        "join_pairs(rotated, turned_even, turned_odd, contiguous)",
        "join_pairs(rotated, turned_even, turned_odd, True)",
        _cfg("rope_contiguous_layout=false"), "rotated", "AB15", file=_ROPE,
    ),
    # queries, and FP8 of keys and values
    _mutant(
        "scale", "scale-dropped", "queries are not scaled", "operand0=scale, engine", "operand0=1.0, engine",
        _cfg(), "scaled_query", "class: stage missing",
    ),
    _mutant(
        "scale", "scale-twice", "queries are scaled twice", "operand0=scale, engine",
        "operand0=scale, op1=nl.multiply, operand1=scale, engine",
        _cfg("softmax_scale=0.05"), "scaled_query", "AB17",
    ),
    _mutant(
        "scale", "scale-ignored", "queries are scaled by d**-0.5 whatever is given",
        "scale = c.d ** -0.5 if softmax_scale == None else softmax_scale", "scale = c.d ** -0.5",
        _cfg("softmax_scale=1.0"), "scaled_query", "AB17",
    ),
    _patched(
        "scale", "keys-scaled", "new keys are scaled as queries are",
        (
            Patch(
                _KERNEL, "    # Every core reads values back",
                "    scaled_key = nl.ndarray(key.shape, dtype=key.dtype)\n"
                "    nisa.tensor_scalar(dst=scaled_key, data=key, op0=nl.multiply, operand0=scale)\n"
                "    # Every core reads values back",
            ),
            Patch(_KERNEL, "        scaled, key, v_active", "        scaled, scaled_key, v_active"),
        ),
        _cfg(), "score", "AB17",
    ),
    _mutant(
        "scale", "queries-scaled-where-skipped", "queries that nothing attends with are scaled",
        "        nisa.dma_copy(dst=out, src=query)\n",
        "        scaled = nl.ndarray(query.shape, dtype=query.dtype)\n"
        "        nisa.tensor_scalar(dst=scaled, data=query, op0=nl.multiply, operand0=0.125)\n"
        "        nisa.dma_copy(dst=out, src=scaled)\n",
        _cfg("skip_attention=true"), "", "AB17",
    ),
    _mutant(
        "scale", "scores-dequantized", "queries are divided by k_scale", "        value = quantize_new(",
        "        inverse = nl.ndarray((shape.d, 1), dtype=nl.float32)\n"
        "        nisa.dma_copy(dst=inverse, src=k_scale[0 : shape.d, :])\n"
        "        nisa.reciprocal(dst=inverse, data=inverse)\n"
        "        smaller = nl.ndarray(query.shape, dtype=query.dtype)\n"
        "        nisa.tensor_scalar(dst=smaller, data=query, op0=nl.multiply, operand0=inverse)\n"
        "        query = smaller\n"
        "        value = quantize_new(",
        _cfg(_FP8_KV), "scaled_query", "AB19",
    ),
    _mutant(
        "scale", "scale-divides", "new keys and values are divided by their scales",
        "nisa.tensor_copy(dst=wide, src=narrow, engine=nisa.vector_engine)",
        "nisa.reciprocal(dst=wide, data=narrow)", _cfg(_FP8_KV), "kv_scaled", "AB18", file=_UPDATE,
    ),
    _mutant(
        "scale", "values-by-k-scale", "values are scaled with k_scale",
        "quantize_new(value, v_scale, V_cache.dtype, 2)", "quantize_new(value, k_scale, V_cache.dtype, 2)",
        _cfg(_FP8_KV), "kv_scaled", "class: neighbouring argument",
    ),
    _mutant(
        "scale", "kv-scale-by-row", "a scale of one row reaches the first partition alone",
        "    nisa.dma_copy(dst=narrow, src=scale.ap([[0, rows], [1, 1]]))\n",
        "    given = min(rows, scale.shape[0])\n"
        "    nisa.memset(dst=narrow, value=1.0)\n"
        "    nisa.dma_copy(dst=narrow[0:given, :], src=scale.ap([[1, given], [1, 1]]))\n",
        _cfg(_FP8_KV + ",k_scale_rows=1"), "kv_scaled", "AB18", file=_UPDATE,
    ),
    _mutant(
        "clamp", "clamp-at-448", "the clamp is that of another FP8 format", "FP8_MAX = 240.0", "FP8_MAX = 448.0",
        _cfg(f"{_FP8_KV},{_BARE}", "fp8_edge"), "kv_quantized", "AB18", file="fp8_clamp.py",
    ),
    _mutant(
        "clamp", "clamp-missing", "new keys and values overflow to infinity",
        'return clamped_fp8(scaled, dtype, f"kv_quantized_{r}")',
        'result = nl.ndarray(values.shape, dtype=dtype, name=f"kv_quantized_{r}")\n'
        "    nisa.tensor_copy(dst=result, src=scaled, engine=nisa.vector_engine)\n    return result",
        _cfg(f"{_FP8_KV},{_BARE}", "fp8_edge"), "kv_quantized", "AB18", file=_UPDATE,
    ),
    _patched(
        "scale", "attention-before-quantization",
        "attention sees new keys and values that were cast without their scales",
        (
            Patch(
                _KERNEL, "    if k_scale != None:\n        key = ",
                "    plain_key, plain_value = key, value\n    if k_scale != None:\n"
                "        plain_key = nl.ndarray(key.shape, dtype=K_cache.dtype)\n"
                "        nisa.tensor_copy(dst=plain_key, src=key)\n"
                "        plain_value = nl.ndarray(value.shape, dtype=V_cache.dtype)\n"
                "        nisa.tensor_copy(dst=plain_value, src=value)\n        key = ",
            ),
            Patch(
                _KERNEL, "shape, query, key, value, K_cache, V_cache, K_cache_transposed, attention_mask",
                "shape, query, plain_key, plain_value, K_cache, V_cache, K_cache_transposed, attention_mask",
            ),
        ),
        _cfg(_FP8_KV), "score", "AB20",
        seen_in="exact_rounding",
    ),
    # attention over the caches
    _mutant(
        "tail", "new-keys-lost", "the stale slots are attended to, not the new keys",
        "        place_active_keys(keys, k_active, plan, load)\n", "        pass\n",
        _cfg(), "score", "AB6", file=_LOAD,
    ),
    _mutant(
        "tail", "new-values-lost", "the values of the stale slots are weighed, not the new ones",
        "        place_active_values(space, values, v_active, plan, load)\n", "        pass\n",
        _cfg(), "pv", "AB6", file=_LOAD,
    ),
    _mutant(
        "rows", "new-values-of-short-blocks", "each partition's new values begin with the first token",
        "tokens = source.slice(dim, piece.first, piece.first + piece.partitions * piece.row)",
        "first = 0 if dim == 0 else piece.first\n"
        "    tokens = source.slice(dim, first, first + piece.partitions * piece.row)",
        "cfg:lane=normal,seed=0,B=2,S=10,H=512,q=1,d=64,S_ctx=1024,S_max=1024,W_out=null,block_len=16,num_blocks=150",
        "pv", "AB5", file="token_tail.py",
    ),
    _mutant(
        "mask", "masked-values-used", "values that nobody keeps are multiplied by their weight 0",
        "    clear_rows(values, keep)\n", "", _cfg("", "poison"), "pv", "AB7", file=_LOAD,
    ),
    _mutant(
        "mask", "nothing-kept-is-zero", "a query that keeps nothing attends with weights of 0",
        "        nisa.reciprocal(dst=recip[ct], data=total[ct])\n",
        "        positive = nl.ndarray(recip[ct].shape, dtype=nl.float32)\n"
        "        nisa.tensor_scalar(dst=positive, data=total[ct], op0=nl.maximum, operand0=1e-30)\n"
        "        nisa.reciprocal(dst=recip[ct], data=positive)\n",
        _cfg("", "poison"), "recip", "AB10", file=_OUTPUT,
    ),
    _mutant(
        "memory", "blocks-left-unset", "the rows of a fold are not gathered",
        "    pieces = fold_pieces(plan, load)\n    for k in range(len(pieces)):\n"
        "        fold, inside, count, tile = pieces[k]\n        nisa.dma_copy(\n            dst=rows",
        "    pieces = fold_pieces(plan, load)\n    for k in range(1, len(pieces)):\n"
        "        fold, inside, count, tile = pieces[k]\n        nisa.dma_copy(\n            dst=rows",
        _cfg(_BLOCK), "", "AB8", file=_LOAD,
    ),
    _mutant(
        "rows", "blocks-cut-in-halves", "the mask's rows are those of another block length",
        "resized_block_len(cfg.block_len, keys, flash_keys)",
        "max(1, resized_block_len(cfg.block_len, keys, flash_keys) // 2)",
        "cfg:lane=normal,seed=0,B=2,S=1,H=512,q=2,d=64,S_ctx=1024,S_max=1024,W_out=null,block_len=32,num_blocks=80",
        "score", "AB11", file=_PLAN,
    ),
    _mutant(
        "mask", "slots-beyond-context", "the context begins one slot late where the cache is longer",
        "    first = plan.first_token(load.f)\n    part",
        "    first = min(plan.first_token(load.f) + 1, cache.shape[token_axis + 1] - plan.key_tiles(load.f) * P)\n    part",  # noqa: E501  (a line of the kernel, as it stands)
        _cfg("", S_max=300), "score", "AB25", file=_LOAD,
    ),
    _mutant(
        "maximum", "maximum-unclamped", "a fully masked flash tile has the maximum -inf",
        "operand0=-FLT_MAX", 'operand0=float("-inf")',
        f"cfg:lane=normal,seed=3,{_FLASH}", "max_local", "AB9", file="cascaded_softmax.py",
    ),
    _mutant(
        "sink", "sink-outside-maximum", "the sink does not take part in the maximum", "joins = call.sink != None and (",
        "joins = call.sink == 0 and (", _cfg("sink=bfloat16,softmax_scale=0.0"), "run_max", "AB33", file=_SCORES,
        unseen=unseen_because.SHIFT_FREE,
    ),
    _mutant(
        "sink", "sink-on-both-cores", "each core adds the sink's term to its sum",
        "elif term != None and plan.n_seq == 1:", "elif term != None:",
        _cfg("sink=bfloat16,lnc=2"), "run_sum", "AB33", file=_OUTPUT,
    ),
    # caches after the call
    _mutant(
        "slot", "keys-not-updated",
        "no core writes the new keys", "if shape.prg == shape.n - 1:", "if shape.prg == shape.n:",
        _cfg("lnc=2"), "", "AB4",
    ),
    _patched(
        "slot", "caches-exchanged", "new keys go to the cache of values, and values to that of keys",
        (
            Patch(_KERNEL, "values = rows_view(V_cache) if flat", "values = rows_view(K_cache) if flat"),
            Patch(_KERNEL, "keys = rows_view(K_cache) if flat", "keys = rows_view(V_cache) if flat"),
        ),
        _cfg(), "", "AB4",
    ),
    _mutant(
        "slot", "skip-wraps", "a skipped batch writes into the last slot of the batch before",
        "nisa.tensor_tensor(dst=result, data1=index, data2=moved, op=nl.maximum, engine=nisa.gpsimd_engine)",
        "nisa.tensor_copy(dst=result, src=moved, engine=nisa.gpsimd_engine)",
        "cfg:lane=normal,seed=0,B=4,S=1,H=512,q=2,d=64,S_ctx=256,S_max=256,W_out=null", "", "AB1", file=_UPDATE,
    ),
    _mutant(
        "slot", "skip-wraps-in-blocks", "the later tokens of a skipped batch go to the first rows",
        "nisa.tensor_tensor(dst=result, data1=index, data2=moved, op=nl.maximum, engine=nisa.gpsimd_engine)",
        "nisa.tensor_copy(dst=result, src=moved, engine=nisa.gpsimd_engine)",
        "cfg:lane=normal,seed=0,B=4,S=3,H=512,q=2,d=64,S_ctx=256,S_max=256,W_out=null,block_len=16,num_blocks=80",
        "", "AB3", file=_UPDATE,
    ),
    _mutant(
        "slot", "slot-late",
        "new rows are written one slot late", "pattern=pattern, offset=0", "pattern=pattern, offset=1",
        _cfg("", S_max=300), "", "class: off by one", file=_UPDATE,
    ),
    _mutant(
        "slot", "rows-overlap", "the tokens of a batch all go to its first row", "[[batch_rows, B], [1, S]]",
        "[[batch_rows, B], [0, S]]", _cfg(), "", "class: stride", file=_UPDATE,
    ),
    _mutant(
        "rounding", "float16-as-bfloat16", "keys of two bytes turn as bfloat16 on their way to the cache",
        "if item_size(source.dtype) == 1:", "if item_size(source.dtype) <= 2:",
        _cfg("dtype=float16,W_qkv=float16,kv_dtype=float16"), "", "AB22", file="exact_transpose.py",
    ),
    _mutant(
        "slot", "tokens-follow-the-first",
        "tokens go to the physically next rows after the batch's first slot, whatever their own index says",
        "        nisa.dma_copy(dst=first, src=idx.reshape((1, B, S)))\n"
        "        rows = shifted_index(first, [[batch_rows, B], [0, S]], 0)\n",
        "        nisa.dma_copy(dst=first, src=idx.ap([[0, 1], [S, B], [0, S]]))\n"
        "        rows = shifted_index(first, [[batch_rows, B], [1, S]], 0)\n",
        _cfg(_BLOCK + ",idx_per_token=true"), "", "AB2", file=_UPDATE,
    ),
    _mutant(
        "slot", "block-rows-by-batch", "rows of a block cache are moved on by batch", "cache.shape[1] if flat else 0",
        "cache.shape[1]", _cfg(_BLOCK, seed=1), "", "class: wrong page", file=_UPDATE,
    ),
    _mutant(
        "batch", "transposed-batch-stride", "transposed keys of all batches go to the first", "offset=b * d * S_max",
        "offset=0 * b", _cfg("K_cache_transposed=true", seed=1), "", "class: wrong batch", file=_UPDATE,
    ),
    _mutant(
        "layout", "transposed-as-rows",
        "channels of transposed keys stand side by side", "[[0, runs]], S_max)", "[[0, runs]], 1)",
        _cfg("K_cache_transposed=true"), "", "class: wrong layout", file=_UPDATE,
    ),
    _mutant(
        "barrier", "barrier-missing", "caches are written while the other core reads them",
        "nisa.core_barrier(data=K_cache, cores=(0, 1))\n            nisa.core_barrier(data=V_cache, cores=(0, 1))",
        "pass", _cfg("lnc=2"), "", "AB32",
        unseen=unseen_because.TIMING,
    ),
    _mutant(
        "slot", "update-before-attention", "attention reads slots that the call has written",
        "    out_on_chip = W_out != None or out_in_sb\n",
        "    out_on_chip = W_out != None or out_in_sb\n    if update_cache:\n"
        "        update_caches(shape, key, value, K_cache, V_cache, K_cache_transposed, kv_cache_update_idx)\n",
        _cfg(), "score", "decision AB-D2",
    ),
    _mutant(
        "batch", "new-values-of-one-batch", "every batch returns the new values of the last one",
        "src=value)\n    return K_out, V_out",
        "src=value)\n    nisa.dma_copy(dst=V_out[0:1], src=V_out[B - 1 : B])\n    return K_out, V_out",
        _cfg("update_cache=false"), "", "class: wrong batch",
    ),
    _mutant(
        "memory", "cache-touched", "a row of a cache is moved that no token goes to",
        "        K_out, V_out = K_cache, V_cache\n",
        "        K_out, V_out = K_cache, V_cache\n"
        "        nisa.dma_copy(dst=V_cache[0:1, 0:1], src=V_cache[1:2, 0:1])\n",
        _cfg(), "", "AB28",
    ),
    _mutant(
        "batch", "rank-4-axes",
        "the axis of heads is taken for that of batches", "return cache.reshape((B, rows, columns))",
        "return cache.reshape((heads, B * rows, columns))", _cfg("cache_rank=4", seed=1), "", "AB29",
    ),
    _mutant(
        "barrier", "both-cores-store-queries", "both cores write the same memory",
        "    if shape.prg == 0:\n        nisa.dma_copy(dst=out, src=query)", "    nisa.dma_copy(dst=out, src=query)",
        _cfg("skip_attention=true,lnc=2"), "", "class: a race",
        unseen=unseen_because.SAME_BYTES,
    ),
    _mutant(
        "rounding", "rope-truncated", "products of RoPE are cut off instead of rounded",
        "    nisa.tensor_tensor(dst=result, data1=values, data2=table, op=nl.multiply, engine=nisa.vector_engine)\n",
        "    whole = nl.ndarray(values.shape, dtype=nl.float32)\n"
        "    nisa.tensor_tensor(dst=whole, data1=values, data2=table, op=nl.multiply, engine=nisa.vector_engine)\n"
        + truncated("whole", "result", 4),
        _cfg(), "rope_even_cos", "class: truncation", file=_ROPE,
        also=("fp16",),
    ),
    _mutant(
        "rounding", "heads-one-step-off", "every element of a head is the number after it",
        "    transpose_tokens(places, source, None, None, False)\n    return heads\n",
        "    transpose_tokens(places, source, None, None, False)\n" + one_step_off("heads", 4) + "    return heads\n",
        _cfg(), "heads", "class: one step off",
        seen_in="exact",
    ),
    _mutant(
        "rows", "new-tokens-swapped", "the first two tokens exchange their new values",
        "    v_active = nl.ndarray((c.B, 1, c.S, c.d),", rows_swapped("value", 4)
        + "    v_active = nl.ndarray((c.B, 1, c.S, c.d),",
        _cfg(), "partial", "class: swapped rows",
    ),
    _mutant(
        "tail", "last-new-row-lost", "the last new row of values is not stored",
        "store_slots(cache, values, row_slots(idx, S, cache.shape[1] if flat else 0))",
        "store_slots(cache, values[0 : values.shape[0] - 1],"
        " row_slots(idx, S, cache.shape[1] if flat else 0)[0 : values.shape[0] - 1])",
        _cfg("", seed=1), "", "class: last token lost", file=_UPDATE,
    ),
    # output projection
    _mutant(
        "term", "bias-out-dropped", "the bias of the output projection is not passed on",
        "        bias_out,\n        TRANSPOSE",
        "        None,\n        TRANSPOSE", "transposed-out", "out", "class: option ignored",
    ),
    _mutant(
        "layout", "attention-head-major", "the projection takes heads for requests",
        "attended.reshape((shape.d, shape.B, shape.q, shape.S))",
        "attended.reshape((shape.d, shape.q, shape.B, shape.S)).permute((0, 2, 1, 3))",
        "plain", "attention_packed", "AB30",
    ),
    _mutant(
        "core", "shards-exchanged", "each core projects to the other one's shard", "first = prg * 128 * H_2",
        "first = (n_prgs - 1 - prg) * 128 * H_2", "transposed-out-on-chip", "out_psum", "AB31", file=_PROJECTION,
    ),
)  # fmt: skip
