"""Faults of qkv, of both modes and of the parts they share. Sources QKVn: the defect list of the contract."""

from __future__ import annotations

from typing import Any

from conformance.mutants import unseen as unseen_because
from conformance.mutants.mutant import Mutant, Patch
from conformance.mutants.snippets import narrowed, one_step_off, rows_swapped, truncated
from conformance.subject import case_id
from reference.contracts.qkv_config import FP8, MX_WEIGHT, Config

_DISPATCH, _TKG, _CTE, _WEIGHTS = "qkv.py", "qkv_tkg.py", "qkv_cte.py", "qkv_cte_weights.py"
_NORM_TKG, _NORM_CTE, _ROPE, _STORE = "norm_tkg.py", "norm_cte.py", "rope_cte.py", "kv_store.py"
_TRANSPOSE, _MX = "token_transpose.py", "mx_load.py"


def _mutant(
    kind: str, name: str, fault: str, file: str, find: str, replace: str, case: str, point: str = "", source: str = "",
    more: tuple[Patch, ...] = (), count: int = 1, also: tuple[str, ...] = (), unseen: str = "", refused: str = "",
    seen_in: str = "",
) -> Mutant:  # fmt: skip
    patches = (Patch(file, find, replace, count), *more)
    return Mutant(f"qkv-{name}", "qkv", fault, patches, case, point, source, kind, also, unseen, refused, seen_in)


def _case(lane: str = "normal", **fields: Any) -> str:
    return case_id(Config(**{**_SMALL, **fields}), lane, 0)


_SMALL: dict[str, Any] = {"B": 1, "S": 3, "H": 512, "I": 640, "d_head": 128, "num_q_heads": 3, "num_kv_heads": 1}
_RMS: dict[str, Any] = {"norm": "RMS_NORM", "gamma": "bfloat16"}
_FP32: dict[str, Any] = {"dtype": "float32", "weight_dtype": "float32"}
_STATIC: dict[str, Any] = {"quantization": "STATIC", "weight_dtype": FP8, "bias": "bfloat16"}
_MX8: dict[str, Any] = {"quantization": "MX", "weight_dtype": MX_WEIGHT, "generation": "gen4"}
_ROPE96: dict[str, Any] = {
    "fused_rope": True, "rope_dtype": "bfloat16", "d_head": 96, "num_q_heads": 6, "num_kv_heads": 1, "I": 768,
}  # fmt: skip
_FLAT: dict[str, Any] = {"kv_cache": "FLAT", "kv_dtype": FP8, "max_seq_len": 131}
#: Where decode has scaled its operand, and a clamp that comes before the one of the kernel.
_SCALED = "    nisa.tensor_scalar(dst=scaled, data=y, op0=nl.multiply, operand0=inverse, engine=nisa.vector_engine)\n"
_CLAMPED = (
    '    result = nl.ndarray(y.shape, dtype=fp8, name=f"quantized_{{k}}")\n'
    "    nisa.tensor_scalar(\n"
    "        dst=result, data=scaled, op0=nl.minimum, operand0={high}, op1=nl.maximum, operand1={low},\n"
    "        engine=nisa.vector_engine,\n"
    "    )\n"
    "    return result\n"
)
#: Streams the weights two row tiles at a time, which changes no bit by itself.
_STREAMED = (
    Patch(_WEIGHTS, "SBUF_BYTES = 204800", "SBUF_BYTES = 0"),
    Patch(_WEIGHTS, "BLOCK_BYTES = 16384", "BLOCK_BYTES = 1"),
)

_DISPATCHED = (
    _mutant(
        "dispatch", "batch-ignored", "the dispatch looks at S alone, and decode repeats the tokens it has room for",
        _DISPATCH, "S > TKG_S_LIMIT or B * S > TKG_TOKEN_LIMIT or", "S > TKG_S_LIMIT or",
        _case(B=64, S=4), "", "QKV2",
        more=(
            Patch(_TKG, "T=B * S", "T=min(B * S, 128)"),
            Patch(
                _TKG, "        nisa.dma_copy(dst=out.reshape((B * S, I))[:, nl.ds(column, width)], src=tile)\n",
                "        for first in range(0, B * S, shape.T):\n"
                "            rows = out.reshape((B * S, I))[nl.ds(first, shape.T), nl.ds(column, width)]\n"
                "            nisa.dma_copy(dst=rows, src=tile)\n",
            ),
        ),
    ),
    _mutant(
        "dispatch", "dispatch-at-96", "96 tokens of one sequence go to context encoding",
        _DISPATCH, "S > TKG_S_LIMIT", "S >= TKG_S_LIMIT",
        _case(S=96, **_RMS), "", "class: threshold off by one",
        seen_in="exact_rounding",
    ),
    _mutant(
        "dispatch", "dispatch-at-128", "more than 96 tokens of one sequence go to decode",
        _DISPATCH, "S > TKG_S_LIMIT or", "S > 128 or",
        _case(S=97, **_RMS), "", "class: threshold off by one",
        seen_in="exact_rounding",
    ),
    _mutant(
        "slot", "cache-of-short-calls", "a short call leaves its caches alone",
        _CTE, "    k = quantize_rows(keys,", "    if call.S <= 96:\n        return\n    k = quantize_rows(keys,",
        "cte-kv-flat", "", "QKV3",
    ),
    _mutant(
        "norm", "hidden-actual-tkg", "the mean of RMSNorm is over H columns",
        _DISPATCH, "divisor = H if hidden_actual == None else hidden_actual", "divisor = H",
        "tkg-rms-residual", "norm_rsqrt", "class: 1/H for 1/hidden_actual",
    ),
    _mutant(
        "norm", "hidden-actual-cte", "the mean of RMSNorm is over H columns",
        _DISPATCH, "divisor = H if hidden_actual == None else hidden_actual", "divisor = H",
        "cte-rms-residual", "inverse_root", "class: 1/H for 1/hidden_actual",
    ),
)  # fmt: skip

_DECODE_OPERAND = (
    _mutant(
        "order", "residual-order-tkg", "decode adds mlp_prev before attention_prev",
        _TKG,
        "sources.append(attention_prev.reshape((B * S, H)))\n        sources.append(mlp_prev.reshape((B * S, H)))",
        "sources.append(mlp_prev.reshape((B * S, H)))\n        sources.append(attention_prev.reshape((B * S, H)))",
        _case(fused_residual_add=True, **_FP32), "x", "class: order of a sum",
        seen_in="exact_rounding",
    ),
    _mutant(
        "core", "fused-hidden-of-core-1", "the residual sum of core 1 is stored over that of core 0",
        _TKG, ".permute((2, 0, 1, 3))[:, :, shape.prg, :], src=own", ".permute((2, 0, 1, 3))[:, :, 0, :], src=own",
        "tkg-rms-residual", "", "class: wrong half of a core",
    ),
    _mutant(
        "barrier", "fused-hidden-raced", "the residual sum is read back from HBM while the other core writes its half",
        _TKG, "            store_fused(shape, fused_hidden, own, first)\n",
        "            store_fused(shape, fused_hidden, own, first)\n"
        "            B, S, H = fused_hidden.shape\n"
        "            x = load_x(shape, [fused_hidden.reshape((B * S, H))], first, tokens, normed, k)\n",
        "tkg-rms-residual", "", "QKV19",
    ),
    _mutant(
        "core", "other-shard-loaded", "without a norm both cores load the first shard of the input",
        _TKG, "rows[:, :, nl.ds(shape.prg, 1), :]", "rows[:, :, nl.ds(0, 1), :]",
        "tkg-plain", "x", "class: wrong half of a core",
    ),
    _mutant(
        "core", "other-shard-normed", "after a norm both cores keep the columns of the first shard",
        _TKG, "own = x[:, :, nl.ds(shape.prg * shape.H1s, shape.H1s)]", "own = x[:, :, nl.ds(0, shape.H1s)]",
        "tkg-zero-token", "norm_gamma", "class: wrong half of a core",
    ),
    _mutant(
        "core", "gamma-of-core-0", "core 1 multiplies by core 0's gamma",
        _TKG, "nl.ds(shape.prg * width, width)", "nl.ds(0, width)",
        "tkg-zero-token", "norm_gamma", "class: wrong half of a core",
    ),
    _mutant(
        "norm", "shard-normed-alone", "each core takes the mean square of its own shard",
        _TKG, "y = rms_norm(x, own,", "y = rms_norm(own, own,",
        "tkg-zero-token", "norm_square", "class: partial sum for the whole",
    ),
    _mutant(
        "tail", "last-norm-tile-lost", "tokens that do not fill a norm tile are not normed",
        _TKG, "for first in range(0, shape.T, step):", "for first in range(0, shape.T // step * step, step):",
        _case(B=65, S=1, H=8192, **_RMS), "", "class: tail lost",
    ),
    _mutant(
        "tail", "odd-tokens-split", "the norm takes tokens two by two and forgets the odd one",
        _TKG, "        if norm_type == NormType.LAYER_NORM:\n",
        "        if norm_type == NormType.RMS_NORM and tokens % 2 == 1:\n"
        "            odd = nl.ds(tokens - 1, 1)\n"
        "            nisa.tensor_copy(dst=y[:, odd, :], src=own[:, odd, :])\n"
        "        if norm_type == NormType.LAYER_NORM:\n",
        _case(B=19, S=1, lnc=2, fused_residual_add=True, **_RMS), "y", "QKV18",
    ),
    _mutant(
        "eps", "eps-before-the-mean", "eps is added to the sum of squares instead of their mean",
        _NORM_TKG,
        "    nisa.activation(dst=rsqrt, op=nl.rsqrt, data=total, scale=1.0 / hidden_actual, bias=eps)\n",
        "    raised = nl.ndarray((128, tokens), dtype=nl.float32)\n"
        "    nisa.tensor_scalar(dst=raised, data=total, op0=nl.add, operand0=eps, engine=nisa.vector_engine)\n"
        "    nisa.activation(dst=rsqrt, op=nl.rsqrt, data=raised, scale=1.0 / hidden_actual)\n",
        _case(norm_eps=77.0, **_RMS), "norm_rsqrt", "class: eps in the wrong place",
    ),
    _mutant(
        "order", "gamma-after-root", "decode multiplies by the root first and by gamma second",
        _NORM_TKG,
        "dst=weighted, data1=own, data2=over_tokens(gamma, tokens), op=nl.multiply, engine=nisa.vector_engine",
        "dst=weighted, data1=own, data2=over_columns(rsqrt, columns), op=nl.multiply, engine=nisa.vector_engine",
        _case(**_RMS, **_FP32), "norm_gamma", "class: order of factors",
        more=(
            Patch(
                _NORM_TKG,
                "    y = nl.ndarray((128, tokens, columns), dtype=x.dtype, name=f\"y_{k}\")\n"
                "    nisa.tensor_tensor(\n"
                "        dst=y, data1=weighted, data2=over_columns(rsqrt, columns), op=nl.multiply,",
                "    y = nl.ndarray((128, tokens, columns), dtype=x.dtype, name=f\"y_{k}\")\n"
                "    nisa.tensor_tensor(\n"
                "        dst=y, data1=weighted, data2=over_tokens(gamma, tokens), op=nl.multiply,",
            ),
        ),
        unseen=unseen_because.LAST_BITS,
    ),
    _mutant(
        "rounding", "gamma-rounded", "RMSNorm of decode rounds x * gamma to io as well",
        _NORM_TKG, 'weighted = nl.ndarray((128, tokens, columns), dtype=nl.float32, name=f"norm_gamma_{k}")',
        'weighted = nl.ndarray((128, tokens, columns), dtype=x.dtype, name=f"norm_gamma_{k}")',
        "tkg-zero-token", "norm_gamma", "class: rounding doubled",
        seen_in="exact_rounding",
    ),
    _mutant(
        "rounding", "centred-unrounded", "LayerNorm of decode keeps x - mean in fp32",
        _NORM_TKG, 'centred = nl.ndarray((128, tokens, columns), dtype=x.dtype,',
        'centred = nl.ndarray((128, tokens, columns), dtype=nl.float32,',
        "tkg-layer-norm", "norm_centred", "class: rounding dropped",
        seen_in="exact_rounding",
    ),
    _mutant(
        "norm", "variance-negative", "the variance of decode may fall below 0",
        _NORM_TKG, "op0=nl.maximum, operand0=0.0", "op0=nl.maximum, operand0=-1.0e30",
        _case("near_constant", B=4, S=8, norm="LAYER_NORM", gamma="bfloat16", **_FP32),
        "norm_variance", "QKV16",
    ),
    _mutant(
        "norm", "mean-of-shard", "the mean of LayerNorm divides by the columns of a shard",
        _TKG, "else 1.0 / shape.H, (128, 128)", "else 1.0 / (shape.H // shape.n), (128, 128)",
        "tkg-layer-norm", "norm_mean_square", "class: 1/H of a shard",
    ),
    _mutant(
        "norm", "root-added", "LayerNorm of decode adds the root instead of multiplying by it",
        _NORM_TKG, "dst=scaled, data1=weighted, data2=over_columns(rsqrt, columns), op=nl.multiply",
        "dst=scaled, data1=weighted, data2=over_columns(rsqrt, columns), op=nl.add",
        "tkg-layer-norm", "norm_scaled", "class: wrong operation",
    ),
    _mutant(
        "scale", "scale-multiplied-tkg", "decode multiplies by qkv_in_scale instead of dividing",
        _TKG, "nisa.reciprocal(dst=inverse, data=broadcast_row(in_scale, 128))",
        "nisa.tensor_copy(dst=inverse, src=broadcast_row(in_scale, 128), engine=nisa.vector_engine)",
        "tkg-static", "in_scale_inverse", "class: scale multiplied",
    ),
    _mutant(
        "rounding", "scaled-unrounded", "decode quantises from fp32 instead of io",
        _TKG, 'scaled = nl.ndarray(y.shape, dtype=y.dtype, name=f"scaled_{k}")',
        'scaled = nl.ndarray(y.shape, dtype=nl.float32, name=f"scaled_{k}")',
        "tkg-static", "scaled", "class: rounding dropped",
        seen_in="exact_rounding",
    ),
    _mutant(
        "clamp", "clamp-448-tkg", "decode clamps to the OCP limit",
        _TKG, _SCALED, _SCALED + _CLAMPED.format(low=-448.0, high=448.0),
        "tkg-static-edge", "quantized", "QKV31",
    ),
    _mutant(
        "clamp", "clamp-upper-only-tkg", "decode does not clamp negative values",
        _TKG, _SCALED, _SCALED + _CLAMPED.format(low=-1.0e30, high=240.0),
        "tkg-static-edge", "quantized", "class: clamp missing",
    ),
)  # fmt: skip

_DECODE_PROJECTION = (
    _mutant(
        "rows", "h-map-strided", "partition p takes every 128th row of the weight instead of consecutive ones",
        _TKG, ".reshape_dim(0, (128, shape.H1s))\n",
        ".reshape_dim(0, (shape.H1s, 128)).permute((1, 0, 2))\n",
        "tkg-plain", "psum", "class: index map of H",
    ),
    _mutant(
        "core", "weights-of-core-0", "each core multiplies with the other one's rows",
        _TKG, "weights[nl.ds(shape.prg * rows, rows), :]", "weights[nl.ds(shape.H - rows - shape.prg * rows, rows), :]",
        "tkg-plain", "psum", "class: wrong half of a core",
    ),
    _mutant(
        "rows", "second-block-one-on", "weight blocks after the first are loaded from the second row tile",
        _TKG, "src=shard[:, nl.ds(start, count),", "src=shard[:, nl.ds(min(start, 1), count),",
        _case(H=4096, I=1024, num_q_heads=6), "psum", "QKV14",
    ),
    _mutant(
        "tail", "last-odd-tile-lost", "the last row tile of an odd number is not multiplied",
        _TKG, "for j in range(count):", "for j in range(count - count % 2):",
        _case(H=384), "psum", "QKV15",
    ),
    _mutant(
        "order", "groups-in-blocks", "consecutive row tiles share a group",
        _TKG, "return j % F\n", "return j // (GROUP_BLOCK // F)\n",
        _case(H=2048), "psum", "class: group order",
    ),
    _mutant(
        "order", "rest-in-all-groups", "a last block that the groups do not divide is spread over them",
        _TKG, "last = F if rest % F == 0 else 1", "last = F",
        _case(H=2432), "psum", "class: group order",
    ),
    _mutant(
        "order", "groups-of-32-tokens", "32 tokens already use two groups",
        _TKG, "if shape.T > 32:", "if shape.T >= 32:",
        _case(B=32, S=1, H=2048), "psum", "class: threshold off by one",
    ),
    _mutant(
        "accumulator", "first-pass-added", "a group's first pass is added to what the bank held",
        _TKG, "accumulate=not first_of_group(shape, start + j)", "accumulate=start + j > 0",
        "tkg-plain", "", "class: accumulation flag",
    ),
    _mutant(
        "accumulator", "last-pass-alone", "a group's passes overwrite each other",
        _TKG, "accumulate=not first_of_group(shape, start + j)", "accumulate=False",
        _case(H=2048), "psum", "class: accumulation flag",
    ),
    _mutant(
        "rounding", "groups-unrounded", "the sums of groups are added in fp32",
        _TKG, 'partial = nl.ndarray((shape.T, width), dtype=io,',
        'partial = nl.ndarray((shape.T, width), dtype=nl.float32,',
        "tkg-row", "partial", "QKV17",
        seen_in="exact",
    ),
    _mutant(
        "term", "bias-on-both-cores", "both cores add the bias",
        _TKG, "if bias == None or shape.prg != 0:", "if bias == None:",
        "tkg-layer-norm", "partial", "class: term applied twice",
    ),
    _mutant(
        "order", "bias-last", "the bias is added after the groups instead of before them",
        _TKG, "if g == 0 and plain and bias_tile != None:", "if g == len(psums) - 1 and plain and bias_tile != None:",
        _case(H=2048, bias="bfloat16"), "partial", "class: order of a sum",
    ),
    _mutant(
        "scale", "bias-scaled-tkg", "the bias is added before the sum is dequantised",
        _TKG, "if g == 0 and plain and bias_tile != None:", "if g == 0 and bias_tile != None:",
        "tkg-row", "partial", "QKV30",
        more=(Patch(_TKG, "    if bias_tile == None:\n        return result\n", "    return result\n"),),
    ),
    _mutant(
        "tail", "bias-first-quadrant", "the bias reaches the first 32 tokens only",
        _TKG, "for start in range(0, shape.T, 32):", "for start in range(0, min(shape.T, 32), 32):",
        _case(B=33, S=1, bias="bfloat16"), "", "class: tail lost",
    ),
    _mutant(
        "scale", "in-scale-forgotten", "the dequantisation leaves qkv_in_scale out",
        _TKG, "data=broadcast_row(w_scale, 128), scale=broadcast_row(in_scale, 128)",
        "data=broadcast_row(w_scale, 128), scale=1.0",
        "tkg-static", "dequant_scale", "QKV12",
    ),
    _mutant(
        "scale", "scale-of-q", "K and V are dequantised by the scale of Q",
        _TKG, "scales.segments[0 : shape.T, segment : segment + 1]", "scales.segments[0 : shape.T, 0:1]",
        "tkg-static", "dequant", "class: wrong segment",
    ),
    _mutant(
        "rows", "v-end-of-more-q-tkg", "the columns of V end at (2*nq + nkv)*d",
        _TKG, "q_end + num_kv_heads * d_head, shape.I)",
        "q_end + num_kv_heads * d_head, q_end + q_end + num_kv_heads * d_head)",
        _case(num_q_heads=1, num_kv_heads=2, **_STATIC), "", "QKV29",
    ),
    _mutant(
        "rows", "row-scale-of-first-tile", "every I tile is dequantised by the scales of the first",
        _TKG, "data2=scales.columns[:, nl.ds(column, width)]", "data2=scales.columns[:, nl.ds(0, width)]",
        "tkg-row", "dequant", "QKV4",
    ),
    _mutant(
        "scale", "row-scale-dropped", "ROW results are not dequantised",
        _TKG,
        "            data2=scales.columns[:, nl.ds(column, width)],\n            op=nl.multiply,",
        "            data2=scales.columns[:, nl.ds(column, width)],\n            op=nl.add,",
        "tkg-row", "dequant", "QKV4",
    ),
    _mutant(
        "core", "cores-not-merged", "the sums of the cores are not added",
        _TKG, "        if shape.n > 1:\n", "        if shape.n > 2:\n", "tkg-plain", "", "class: exchange missing",
    ),
    _mutant(
        "core", "own-sum-twice", "each core adds its own sum to itself",
        _TKG, "data1=tile, data2=remote, op=nl.add", "data1=tile, data2=tile, op=nl.add",
        "tkg-plain", "total", "class: exchange missing",
    ),
    _mutant(
        "tail", "ragged-tile-kept-back", "an I tile of fewer than 512 columns is not stored",
        _TKG, "if column // 512 % shape.n == shape.prg:",
        "if column // 512 % shape.n == shape.prg and tile.shape[1] == 512:",
        "tkg-plain", "", "class: tail lost",
    ),
    _mutant(
        "layout", "heads-reversed", "NBSd has the heads of a tile in the order of columns from the end",
        _TKG, "nl.ds(column // d, width // d), :, :]", "nl.ds((shape.I - column - width) // d, width // d), :, :]",
        "tkg-bias-nbsd", "", "class: layout",
    ),
)  # fmt: skip

_DECODE_FAULTS = (
    _mutant(
        "rounding", "result-one-step-off-tkg", "every result of decode is the number after it",
        _TKG, "        if out == None:\n            kept.append(tile)\n",
        one_step_off("tile", 8) + "        if out == None:\n            kept.append(tile)\n",
        "tkg-plain", "total", "class: one step off",
        seen_in="exact",
    ),
    _mutant(
        "rows", "two-weight-rows-swapped", "two rows of the weight change places",
        _TKG, "        for i in range(len(psums)):\n            for j in range(count):\n",
        rows_swapped("w", 8) + "        for i in range(len(psums)):\n            for j in range(count):\n",
        "tkg-plain", "psum", "class: swapped rows",
    ),
    _mutant(
        "norm", "gamma-added", "decode adds gamma instead of multiplying by it",
        _NORM_TKG, "dst=weighted, data1=own, data2=over_tokens(gamma, tokens), op=nl.multiply",
        "dst=weighted, data1=own, data2=over_tokens(gamma, tokens), op=nl.add",
        "tkg-zero-token", "norm_gamma", "class: wrong operation",
    ),
)  # fmt: skip

_CONTEXT_OPERAND = (
    _mutant(
        "memory", "large-i-unwritten",
        "weights that do not fit four times leave no room for a block, so nothing is done",
        _CTE, "    group = group_size(call, plan)\n",
        "    group = group_size(call, plan)\n    if 4 * 8 * call.I * 2 > 196608:\n        tiles = 0\n",
        _case(S=97, H=128, I=4096, num_q_heads=30), "", "QKV1",
    ),
    _mutant(
        "tail", "odd-token-lost", "the last core leaves out the odd token",
        _CTE, "return prg * share, T - prg * share", "return prg * share, share",
        _case(S=131, lnc=2), "", "class: tail lost",
    ),
    _mutant(
        "tail", "tail-tile-lost", "tokens that do not fill a tile are not encoded",
        _CTE, "tiles = (count + 127) // 128", "tiles = max(1, count // 128)",
        _case(S=150), "", "class: tail lost",
    ),
    _mutant(
        "tail", "swizzled-tail-lost", "a swizzled input loses up to 96 last rows",
        _CTE, "tiles = (count + 127) // 128",
        "tiles = (count + 127) // 128\n"
        "    if call.swizzled and count > 128 and 0 < count % 128 <= 96:\n        tiles = count // 128",
        _case(S=320, lnc=2, is_input_swizzled=True, **_MX8), "", "QKV10",
    ),
    _mutant(
        "core", "cores-share-tokens", "both cores encode the tokens of the first",
        _CTE, "return prg * share, T - prg * share", "return 0, T - prg * share",
        "cte-plain", "", "class: wrong half of a core",
    ),
    _mutant(
        "order", "residual-order-cte", "context encoding adds attention_prev before mlp_prev",
        _CTE,
        "sources.append(mlp_prev.reshape((B * S, H)))\n        sources.append(attention_prev.reshape((B * S, H)))",
        "sources.append(attention_prev.reshape((B * S, H)))\n        sources.append(mlp_prev.reshape((B * S, H)))",
        _case(S=128, H=1024, fused_residual_add=True, **_FP32), "hidden", "class: order of a sum",
        seen_in="exact_rounding",
    ),
    _mutant(
        "rounding", "residual-rounded-twice", "the sum of two is rounded before the third is added",
        _CTE, "        nisa.dma_compute(dst=hidden, srcs=views, reduce_op=nl.add, scales=[1.0, 1.0, 1.0])\n",
        "        two = nl.ndarray((tokens, call.H), dtype=call.C)\n"
        "        nisa.dma_compute(dst=two, srcs=[views[0], views[1]], reduce_op=nl.add)\n"
        "        nisa.dma_compute(dst=hidden, srcs=[two, views[2]], reduce_op=nl.add)\n",
        "cte-rms-residual", "hidden", "class: rounding doubled",
        also=(_case("exact_rounding", S=97, fused_residual_add=True),),
    ),
    _mutant(
        "rounding", "float32-kept", "a float32 input is not rounded to bfloat16",
        _CTE, "data_type = nl.bfloat16 if input.dtype == nl.float32 else input.dtype", "data_type = input.dtype",
        _case(S=97, **_FP32, load_input_with_DMA_transpose=False),
        "hidden", "class: rounding dropped",
        seen_in="exact",
    ),
    _mutant(
        "rounding", "eps-unrounded", "eps keeps its float32 value beside bfloat16 tiles",
        _NORM_CTE, "    if dtype == nl.float32:\n        return exact\n", "    return exact\n",
        _case(S=97, norm_eps=77.1, **_RMS), "inverse_root", "class: rounding dropped",
        seen_in="exact_rounding",
    ),
    _mutant(
        "eps", "eps-in-fp8", "STATIC rounds eps to fp8, where 1e-6 is 0",
        _CTE, "eps_tile(norm_eps, nl.float32 if call.static else call.C)",
        "eps_tile(norm_eps, nl.float8_e4m3 if call.static else call.C)",
        _case("zero_token", S=97, **{**_STATIC, **_RMS}), "inverse_root", "QKV6",
    ),
    _mutant(
        "rounding", "tiles-in-fp8", "STATIC keeps bias, tables and RoPE scratch in fp8",
        _CTE, "E=nl.bfloat16 if static else data_type", "E=nl.float8_e4m3 if static else data_type",
        "cte-static-rope-odd", "bias_rows", "QKV6",
    ),
    _mutant(
        "rounding", "squares-rounded", "the squares are rounded to bfloat16 before they are summed",
        _NORM_CTE,
        "    nisa.activation(\n"
        "        dst=normalized,\n"
        "        op=nl.square,\n"
        "        data=hidden,\n"
        "        reduce_op=nl.add,\n"
        "        reduce_res=square_sum,\n"
        "        reduce_cmd=nisa.reduce_cmd.reset_reduce,\n"
        "    )\n",
        "    nisa.activation(dst=normalized, op=nl.square, data=hidden)\n"
        "    nisa.tensor_reduce(dst=square_sum, op=nl.add, data=normalized, axis=1)\n",
        "cte-skip-gamma", "square_sum", "class: rounding doubled",
        seen_in="exact_rounding",
    ),
    _mutant(
        "norm", "padding-not-summed", "the sum of squares stops at hidden_actual",
        _NORM_CTE, "        dst=normalized,\n        op=nl.square,\n        data=hidden,",
        "        dst=normalized[:, 0:divisor],\n        op=nl.square,\n        data=hidden[:, 0:divisor],",
        "cte-rms-residual", "square_sum", "class: 1/H for 1/hidden_actual",
    ),
    _mutant(
        "tail", "last-statistics-lost", "columns beyond a multiple of 512 have no part in mean and variance",
        _NORM_CTE, "pieces = (H + STATS_COLUMNS - 1) // STATS_COLUMNS", "pieces = H // STATS_COLUMNS",
        _case(S=97, H=640, norm="LAYER_NORM", gamma="bfloat16"), "bn_stats", "class: tail lost",
    ),
    _mutant(
        "norm", "mean-kept", "LayerNorm of context encoding does not subtract the mean",
        _NORM_CTE, "op0=nl.subtract,\n        operand0=moments[:, 0:1]", "op0=nl.subtract,\n        operand0=0.0",
        "cte-layer-norm", "normalized", "class: term missing",
    ),
    _mutant(
        "norm", "gamma-skipped-by-dma", "the DMA transpose takes the way without gamma whatever the norm",
        _TRANSPOSE, "if use_dma and gamma == None:", "if use_dma:",
        "cte-rms-residual", "operand", "QKV13",
    ),
    _mutant(
        "term", "beta-dropped", "beta is not added after gamma",
        _TRANSPOSE, "    elif beta == None:\n", "    elif gamma != None:\n",
        "cte-layer-norm", "operand", "class: term missing",
    ),
    _mutant(
        "rows", "gamma-map-plain", "MX multiplies by gamma in the order of plain operands",
        _CTE, "    lanes = lanes_of(call)\n", "    lanes = 1\n", "cte-mx", "operand", "class: index map of H",
    ),
    _mutant(
        "rows", "swizzle-order", "a swizzled input is taken as tile by tile, lane by lane",
        _CTE, "value.reshape((tokens, 4, H // 512, 128)).permute((0, 2, 1, 3))",
        "value.reshape((tokens, H // 512, 4, 128))",
        _case(S=97, H=1024, is_input_swizzled=True, **_MX8), "operand", "class: swizzle order",
    ),
    _mutant(
        "rows", "swizzle-ignored", "a swizzled input is taken as a plain one",
        _CTE, "    if call.swizzled:\n", "    if False:\n", "cte-mx-swizzled", "operand", "class: swizzle order",
    ),
    _mutant(
        "scale", "scale-multiplied-cte", "context encoding multiplies by qkv_in_scale instead of dividing",
        _CTE, "nisa.reciprocal(dst=call.in_inverse, data=scale)",
        "nisa.tensor_copy(dst=call.in_inverse, src=scale, engine=nisa.vector_engine)",
        "cte-static", "in_scale_inverse", "class: scale multiplied",
    ),
    _mutant(
        "rounding", "fp8-rounded-twice", "the scaled operand is rounded to bfloat16 before the cast to fp8",
        _CTE, "scaled = nl.ndarray((width, min(step, columns - low), tokens), dtype=nl.float32)",
        "scaled = nl.ndarray((width, min(step, columns - low), tokens), dtype=nl.bfloat16)",
        "cte-static", "operand_fp8", "class: rounding doubled",
        seen_in="exact_rounding",
    ),
    _mutant(
        "clamp", "clamp-448-cte", "context encoding clamps to the OCP limit",
        _CTE, "operand0=240.0,\n            op1=nl.maximum,\n            operand1=-240.0",
        "operand0=448.0,\n            op1=nl.maximum,\n            operand1=-448.0",
        "cte-static-edge", "operand_fp8", "QKV31",
    ),
    _mutant(
        "rounding", "mx-scale-one-on", "the scales of activations are one power of two too large",
        _MX, "    return data, scale\n",
        "    nisa.tensor_scalar(dst=scale, data=scale, op0=nl.add, operand0=1, engine=nisa.vector_engine)\n"
        "    return data, scale\n",
        "cte-mx", "operand_scale", "QKV26",
    ),
    _mutant(
        "memory", "mx-padding-not-zero", "the token that makes the count even is what memory held",
        _CTE, "    if padded > tokens:\n", "    if False:\n", _case(S=97, **_MX8), "", "QKV28",
        unseen=unseen_because.NEVER_USED,
    ),
    _mutant(
        "tail", "mx-odd-tokens", "the last token of an odd number counts as padding",
        _CTE, "        nisa.memset(dst=operand[:, :, tokens, :], value=0.0)\n",
        "        nisa.memset(dst=operand[:, :, nl.ds(tokens - 1, 2), :], value=0.0)\n"
        "        tokens = tokens - 1\n",
        _case(S=97, **_MX8), "operand", "QKV24",
        more=(
            Patch(
                _CTE, "value.reshape((tokens, H // 512, 128, 4))",
                "value[0:tokens, :].reshape((tokens, H // 512, 128, 4))",
            ),
        ),
    ),
    _mutant(
        "rows", "mx-scales-by-column", "the weight's scales stand in the order of the other index",
        _MX, "groups = codes.reshape((rows // 16, 4, 4, I))",
        "groups = codes.reshape((rows // 16, 4, 4, I)).permute((0, 2, 1, 3))",
        "cte-mx", "product", "class: index map of scales",
    ),
)  # fmt: skip

_CONTEXT_RESULT = (
    _mutant(
        "rows", "second-weight-block", "blocks after the first are loaded from the second row tile",
        _WEIGHTS, "[nl.ds(first, count), :, :]", "[nl.ds(min(first, 1), count), :, :]",
        "cte-plain", "product", "QKV14", more=_STREAMED,
    ),
    _mutant(
        "rows", "second-scale-block", "streamed MX weights take the scales of the first block",
        _MX, "src=groups[nl.ds(first, count), quadrant, :, :]", "src=groups[nl.ds(0, count), quadrant, :, :]",
        _case(S=97, H=2048, **_MX8), "product", "QKV27", more=_STREAMED,
    ),
    _mutant(
        "rows", "stale-odd-tile", "the last tile of an odd number is paired with the one before it once more",
        _CTE, "rows = 2 if call.static and block.first + j + 1 < tiles else 1", "rows = 2 if call.static else 1",
        "cte-static-rope-odd", "product", "QKV7",
        more=(
            Patch(
                _CTE, "    t = block.first + j\n",
                "    t = block.first + j\n"
                "    if rows == 2 and t + 1 == operand.data.shape[1]:\n"
                "        t = t - 1\n"
                "        j = j - 1\n",
            ),
        ),
    ),
    _mutant(
        "tail", "odd-tile-lost", "the last tile of an odd number is left out of double rows",
        _CTE, "while j < block.count:", "while j + 1 < block.count:",
        "cte-static-rope-odd", "product", "QKV7",
    ),
    _mutant(
        "order", "double-row-as-two", "double rows are multiplied as two passes",
        _CTE, "rows = 2 if call.static and block.first + j + 1 < tiles else 1", "rows = 1",
        _case(S=256, H=2048, **_STATIC), "product", "QKV27",
        unseen=unseen_because.LEGAL,
    ),
    _mutant(
        "rounding", "raw-unrounded", "the raw sums are not rounded to bfloat16 before they are scaled",
        _CTE, "raw = nl.ndarray(projected.shape, dtype=nl.bfloat16,",
        "raw = nl.ndarray(projected.shape, dtype=nl.float32,",
        "cte-static", "raw", "class: rounding dropped",
        seen_in="exact_rounding",
    ),
    _mutant(
        "rounding", "bias-in-fp32", "a float32 bias is not rounded to the dtype of the result",
        _CTE, 'call.bias = nl.ndarray((128, call.I), dtype=call.E,',
        'call.bias = nl.ndarray((128, call.I), dtype=nl.float32,',
        "cte-bias-nbsd", "bias_rows", "class: rounding dropped",
        seen_in="exact_rounding",
    ),
    _mutant(
        "rows", "bias-of-first-tile", "every I tile is given the bias of the first",
        _CTE, "data2=call.bias[0:tokens, part]", "data2=call.bias[0:tokens, nl.ds(0, product[i].shape[1])]",
        "cte-bias-nbsd", "projected", "class: wrong tile order",
    ),
    _mutant(
        "scale", "bias-scaled-cte", "the bias is scaled with the product",
        _CTE,
        "                nisa.scalar_tensor_tensor(\n"
        "                    dst=part,\n"
        "                    data=value[:, start:stop],\n"
        "                    op0=nl.multiply,\n"
        "                    operand0=scale,\n"
        "                    op1=nl.add,\n"
        "                    operand1=call.bias[0:tokens, low + start : low + stop],\n"
        "                )\n",
        "                nisa.tensor_tensor(\n"
        "                    dst=part,\n"
        "                    data1=value[:, start:stop],\n"
        "                    data2=call.bias[0:tokens, low + start : low + stop],\n"
        "                    op=nl.add,\n"
        "                    engine=nisa.vector_engine,\n"
        "                )\n"
        "                nisa.tensor_scalar(\n"
        "                    dst=part, data=part, op0=nl.multiply, operand0=scale, engine=nisa.vector_engine\n"
        "                )\n",
        "cte-static", "projected", "QKV30",
    ),
    _mutant(
        "rows", "v-end-of-more-q-cte", "the columns of V end at (2*nq + nkv)*d",
        _CTE, "call.borders = (q_end, q_end + num_kv_heads * d_head, call.I)",
        "call.borders = (q_end, q_end + num_kv_heads * d_head, q_end + q_end + num_kv_heads * d_head)",
        _case(S=97, num_q_heads=1, num_kv_heads=2, **_STATIC), "", "QKV29",
    ),
    _mutant(
        "rounding", "static-result-in-io", "STATIC returns the dtype of the input",
        _CTE, "dtype = nl.bfloat16 if call.static else input.dtype\n    shape", "dtype = input.dtype\n    shape",
        _case(S=97, dtype="float16", **_STATIC), "", "class: result dtype",
    ),
    _mutant(
        "rope", "rope-sign", "both halves of a head add the sine part",
        _ROPE, "operand0=-1.0", "operand0=1.0", "cte-rope", "sine_part", "class: RoPE sign",
    ),
    _mutant(
        "rope", "rope-second-half-of-sin", "the second half of the sine table is read",
        _ROPE, "[nl.ds(first, tokens), 0 : d // 2]", "[nl.ds(first, tokens), d // 2 : d]", "cte-rope", "sin", "QKV9",
    ),
    _mutant(
        "rope", "rope-half-of-cos", "the first half of the cosine table serves both halves",
        _ROPE, "nisa.dma_copy(dst=cos, src=cos_cache.reshape((B * S, d))[nl.ds(first, tokens), :])",
        "rows = cos_cache.reshape((B * S, d))[nl.ds(first, tokens), 0 : d // 2]\n"
        "    nisa.dma_copy(dst=cos[:, 0 : d // 2], src=rows)\n"
        "    nisa.dma_copy(dst=cos[:, d // 2 : d], src=rows)",
        "cte-rope", "cos", "QKV9",
    ),
    _mutant(
        "rope", "rope-interleaved", "neighbouring columns form a pair",
        _ROPE,
        "sine_part.reshape((tokens, heads, 2, half)), x.reshape((tokens, heads, 2, half))",
        "sine_part.reshape((tokens, heads, half, 2)).permute((0, 1, 3, 2)), "
        "x.reshape((tokens, heads, half, 2)).permute((0, 1, 3, 2))",
        "cte-rope", "sine_part", "class: RoPE pairs",
    ),
    _mutant(
        "rounding", "rope-in-fp32", "the sine part is not rounded before it is added",
        _ROPE, 'nl.ndarray((tokens, columns), dtype=x.dtype, name=f"sine_part_{s}")',
        'nl.ndarray((tokens, columns), dtype=nl.float32, name=f"sine_part_{s}")',
        "cte-rope", "sine_part", "class: rounding dropped",
        seen_in="exact_rounding",
    ),
    _mutant(
        "rope", "rope-from-position-0", "every tile takes the sines of the first tokens",
        _ROPE, "src=sin_cache.reshape((B * S, d))[nl.ds(first, tokens)",
        "src=sin_cache.reshape((B * S, d))[nl.ds(0, tokens)",
        "cte-rope", "sin", "class: wrong position",
    ),
    _mutant(
        "rope", "rope-heads-by-bank", "heads are looked for where 512 columns hold a whole number of them",
        _CTE, "        rotated = rotate_heads(projected[:, 0 : call.rotated], cos, sin, s)\n",
        "        moved = nl.ndarray((tokens, call.rotated), dtype=call.E)\n"
        "        d = cos.shape[1]\n"
        "        for g in range(call.rotated // d):\n"
        "            low = g // (512 // d) * 512 + g % (512 // d) * d\n"
        "            nisa.tensor_copy(dst=moved[:, nl.ds(g * d, d)], src=projected[:, nl.ds(low, d)])\n"
        "        rotated = rotate_heads(moved, cos, sin, s)\n",
        _case(S=97, **_ROPE96), "sine_part", "QKV8",
    ),
    _mutant(
        "rows", "v-rotated", "the value heads are rotated as well",
        _CTE, "        call.rotated = call.borders[1]\n", "        call.rotated = call.I\n",
        _case(S=97, fused_rope=True, rope_dtype="bfloat16"), "", "class: wrong segment",
        more=(
            Patch(
                _CTE, "        store_columns(call.out, rotated, 0, first)\n        if call.rotated > 0:\n",
                "        store_columns(call.out, rotated, 0, first)\n        if 0 < call.rotated < call.I:\n",
            ),
        ),
    ),
    _mutant(
        "layout", "heads-of-v-over-q", "the unrotated columns are stored from the first column on",
        _CTE, "store_columns(call.out, projected[:, call.rotated : call.I], call.rotated, first)",
        "store_columns(call.out, projected[:, call.rotated : call.I], 0, first)",
        "cte-rope", "", "class: layout",
    ),
    _mutant(
        "term", "q-of-cache-unrotated", "the queries beside a cache are those before RoPE",
        _CTE, "store_columns(call.out, rotated[:, 0:q_end], 0, first)",
        "store_columns(call.out, projected[:, 0:q_end], 0, first)",
        "cte-kv-flat", "", "class: term missing",
    ),
    _mutant(
        "term", "k-of-cache-unrotated", "the cached keys are those before RoPE",
        _CTE, "store_cache(call, rotated[:, q_end:k_end],", "store_cache(call, projected[:, q_end:k_end],",
        "cte-kv-flat", "k_quantized", "class: term missing",
    ),
    _mutant(
        "rows", "v-from-k", "the cached values are the columns of the keys",
        _CTE, "projected[:, k_end:v_end], s, first)", "projected[:, q_end:k_end], s, first)",
        "cte-kv-block", "v_quantized", "class: wrong segment",
    ),
    _mutant(
        "scale", "v-by-k-scale", "values are divided by the scale of the keys",
        _CTE, "quantize_rows(values, call.v_inverse,", "quantize_rows(values, call.k_inverse,",
        "cte-kv-block", "v_quantized", "class: wrong scale",
    ),
    _mutant(
        "slot", "v-cache-untouched", "only the keys are stored",
        _CTE, "        store_slots(call.v_cache, v, slots)\n", "        pass\n", "cte-kv-block", "", "QKV5",
    ),
    _mutant(
        "clamp", "fp8-min-of-format", "fp8_min defaults to the format's limit instead of -fp8_max",
        _CTE, "call.lower = -call.upper if", "call.lower = -largest_finite(k_cache.dtype) if",
        _case(S=97, fp8_max=10.0, **_FLAT), "k_quantized", "class: default of a limit",
    ),
    _mutant(
        "scale", "cache-scale-multiplied", "keys and values are multiplied by their scales",
        _STORE, "nisa.reciprocal(dst=inverse, data=tile)",
        "nisa.tensor_copy(dst=inverse, src=tile, engine=nisa.vector_engine)",
        "cte-kv-block", "k_scale_inverse", "class: scale multiplied",
    ),
    _mutant(
        "clamp", "cache-clamp-448", "an e4m3 cache is clamped to the OCP limit",
        _STORE, "return 240.0", "return 448.0", _case("fp8_edge", S=97, **_FLAT), "k_quantized", "QKV31",
    ),
    _mutant(
        "clamp", "cache-clamp-missing", "keys and values are not clamped from above",
        _STORE, "op1=nl.minimum,\n        operand1=upper,", "op1=nl.minimum,\n        operand1=1.0e30,",
        "cte-kv-edge", "k_quantized", "class: clamp missing",
    ),
    _mutant(
        "rounding", "cache-rounded-twice", "the scaled rows are rounded to bfloat16 before the cast",
        _STORE, "scaled = nl.ndarray(values.shape, dtype=nl.float32)",
        "scaled = nl.ndarray(values.shape, dtype=nl.bfloat16)",
        "cte-kv-block", "k_quantized", "class: rounding doubled",
    ),
    _mutant(
        "slot", "flat-cache-folded", "a flat cache is filled as if its batches had no room at their ends",
        _STORE, "    done, tokens = 0, rows.shape[0]\n",
        "    batches, slots, columns = cache.shape\n"
        "    nisa.dma_copy(\n"
        "        dst=cache.reshape((batches * slots, columns))[nl.ds(first, rows.shape[0]), :], src=rows\n"
        "    )\n"
        "    done, tokens = rows.shape[0], rows.shape[0]\n",
        "cte-kv-flat", "", "QKV20",
    ),
    _mutant(
        "batch", "cache-of-batch-0", "all batches write the cache of the first",
        _STORE, "dst=cache[nl.ds(b, batches)", "dst=cache[nl.ds(0, batches)", "cte-kv-flat", "", "class: wrong batch",
    ),
    _mutant(
        "slot", "flat-row-one-on", "tokens are stored one row behind their place",
        _STORE, "nl.ds(s, count), :], src=rows", "nl.ds(s + 1, count), :], src=rows",
        _case(S=97, **_FLAT), "", "class: slot off by one",
    ),
    _mutant(
        "layout", "rows-transposed", "the heads of a row are stored across each other",
        _STORE, "dst=cache[nl.ds(b, batches), nl.ds(s, count), :],",
        "dst=cache[nl.ds(b, batches), nl.ds(s, count), :].reshape_dim(2, (64, 2)).permute((0, 1, 3, 2)),",
        "cte-kv-flat", "", "QKV21",
    ),
    _mutant(
        "slot", "slot-one-on", "a block cache's row is the one after its slot",
        _STORE, "    return slots\n",
        "    nisa.tensor_scalar(dst=slots, data=slots, op0=nl.add, operand0=1, engine=nisa.vector_engine)\n"
        "    return slots\n",
        "cte-kv-block", "", "class: slot off by one",
    ),
    _mutant(
        "slot", "skipped-slot-wraps", "slot -1 is the last row of the cache",
        _STORE, "    blocks, block_size, columns = cache.shape\n",
        "    blocks, block_size, columns = cache.shape\n"
        "    wrapped = nl.ndarray(slots.shape, dtype=nl.uint32)\n"
        "    nisa.tensor_scalar(\n"
        "        dst=wrapped, data=slots, op0=nl.minimum, operand0=blocks * block_size - 1, engine=nisa.vector_engine\n"
        "    )\n"
        "    slots = wrapped\n",
        "cte-kv-block", "", "QKV23",
    ),
    _mutant(
        "slot", "skipped-slot-refused", "slot -1 stops the launch",
        _STORE, "oob_mode=nisa.oob_mode.skip", "oob_mode=nisa.oob_mode.error", "cte-kv-block", "", "QKV23",
        refused=unseen_because.OUT_OF_BOUNDS,
    ),
)  # fmt: skip

_CONTEXT_FAULTS = (
    _mutant(
        "rounding", "result-truncated-cte", "results of context encoding are cut off instead of rounded",
        _CTE, "    rotated = projected\n    if call.rotated > 0:\n",
        "    whole = nl.ndarray((tokens, call.I), dtype=nl.float32)\n"
        "    evict(call, whole, product)\n" + truncated("whole", "projected", 4)
        + "    rotated = projected\n    if call.rotated > 0:\n",
        "cte-plain", "projected", "class: truncation",
        seen_in="exact",
    ),
    _mutant(
        "accumulator", "product-in-bfloat16", "the sum passes bfloat16 after every row tile",
        _CTE, "            moving=block.data[:, j, part],\n            accumulate=t > 0,\n        )\n\n\n",
        "            moving=block.data[:, j, part],\n            accumulate=t > 0,\n        )\n"
        + narrowed("product", "product.shape", 8) + "\n\n",
        "cte-plain", "", "class: bf16 accumulator",
    ),
    _mutant(
        "clamp", "cache-clamp-after-cast", "keys and values are clamped when they are FP8 already",
        _STORE,
        "    nisa.tensor_scalar(\n        dst=quantized,\n        data=scaled,\n        op0=nl.maximum,",
        "    cast = nl.ndarray(values.shape, dtype=dtype)\n"
        "    nisa.tensor_copy(dst=cast, src=scaled, engine=nisa.vector_engine)\n"
        "    nisa.tensor_scalar(\n        dst=quantized,\n        data=cast,\n        op0=nl.maximum,",
        _case("fp8_edge", S=97, **{**_FLAT, "kv_dtype": "float8_e4m3fn"}, generation="gen4"),
        "k_quantized", "QKV31",
    ),
    _mutant(
        "slot", "two-slots-swapped", "the first two tokens of a tile exchange their slots",
        _STORE, "    return slots\n", rows_swapped("slots", 4) + "    return slots\n",
        "cte-kv-block", "", "class: swapped rows",
    ),
)  # fmt: skip

MUTANTS = (
    *_DISPATCHED, *_DECODE_OPERAND, *_DECODE_PROJECTION, *_DECODE_FAULTS, *_CONTEXT_OPERAND, *_CONTEXT_RESULT,
    *_CONTEXT_FAULTS,
)  # fmt: skip
