"""Faults in the corners of the option spaces: each shows in one situation, and no other short case shows it.

They were made without a look at the other catalogs, by someone who wanted to get past the suite; the cases that reveal
them stand at the end of each kernel's catalog. Of the same making are eight detours, such as another size from which
double rows are taken, which give what a right kernel may give: no faults to hardware, and held by the model's bits in
simulation alone.
"""

from __future__ import annotations

from conformance.mutants import unseen as unseen_because
from conformance.mutants.mutant import Mutant, Patch


def _mutant(
    kernel: str, kind: str, name: str, fault: str, case: str, point: str, *patches: Patch, unseen: str = "",
    seen_in: str = "",
) -> Mutant:  # fmt: skip
    source = "class: a corner of the option space"
    return Mutant(name, kernel, fault, patches, case, point, source, kind, unseen=unseen, seen_in=seen_in)


MUTANTS = (
    _mutant(
        "output_projection_tkg", "tail", "outproj-ragged-block-lost",
        "columns of a shard that fill no whole block of 2048 are dropped",
        "shard-2560", "",
        Patch(
            "output_projection_tkg.py",
            "    if columns % width != 0:\n        width = columns if columns < 2 * BLOCK_COLUMNS else 512\n",
            "",
        ),
    ),
    _mutant(
        "output_projection_tkg", "rows", "outproj-tile-wraps",
        "a tile beyond the fourth takes the weights of the one four before it",
        "shard-2560", "out_psum",
        Patch(
            "output_projection_tkg.py",
            "w[:, k, :, nl.ds(512 * i, psums[i].shape[1])]",
            "w[:, k, :, nl.ds(512 * (i % 4), psums[i].shape[1])]",
        ),
    ),
    _mutant(
        "output_projection_tkg", "accumulator", "outproj-double-rows-restart",
        "with double rows the sum begins anew at each block of weights",
        "double-rows-streamed", "out_psum",
        Patch(
            "output_projection_tkg.py",
            "                    low + k == 0,",
            "                    (k if slots == 2 else low + k) == 0,",
        ),
    ),
    _mutant(
        "output_projection_tkg", "term", "outproj-sbuf-bias-first-tile",
        "every transposed PSUM tile takes the bias of the first, results in SBUF only",
        "sbuf-transposed-bias-two-tiles", "out",
        Patch(
            "output_projection_tkg.py",
            "over_tokens(bias_tile, low, count, tokens) if bias_tile != None else None,",
            "over_tokens(bias_tile, low if out != None else 0, count, tokens) if bias_tile != None else None,",
        ),
    ),
    _mutant(
        "output_projection_tkg", "rows", "outproj-double-rows-wrong-pairs",
        "double rows pair the wrong ones of packed heads",
        "double-rows-packed", "attention_packed",
        Patch(
            "head_packing.py",
            "split = attention.reshape((D, B, passes, slots, g, S))",
            "split = attention.reshape((D, B, passes, g, slots, S))",
        ),
        Patch(
            "head_packing.py",
            "split[:, :, :, j, off, :]",
            "split[:, :, :, off, j, :]",
        ),
    ),
    _mutant(
        "output_projection_tkg", "rounding", "outproj-transposed-bias-narrowed",
        "a bias wider than the results is rounded to their dtype before it is added",
        "transposed-wide-bias", "out_bias",
        Patch(
            "output_projection_tkg.py",
            "bias_tile = load_transposed_vector(bias, bias.dtype, \"out_bias\", first, H_2)",
            "bias_tile = load_transposed_vector(bias, io, \"out_bias\", first, H_2)",
        ),
    ),
    _mutant(
        "output_projection_tkg", "rounding", "outproj-static-fp16-unrounded",
        "float16 activations divided by their scale are not rounded before the clamp",
        "static-fp16", "attention_scaled",
        Patch(
            "output_projection_tkg.py",
            "scaled = nl.ndarray((D, B, N, S), dtype=attention.dtype, name=\"attention_scaled\")",
            "scaled = nl.ndarray((D, B, N, S), dtype=nl.float32 if attention.dtype == nl.float16 else "
            "attention.dtype, name=\"attention_scaled\")",
        ),
    ),
    _mutant(
        "output_projection_tkg", "rounding", "outproj-transposed-weight-bf16",
        "transposed float16 weights are loaded as bfloat16",
        "transposed-fp16-weight", "out_psum",
        Patch(
            "output_projection_tkg.py",
            "w = nl.ndarray((rows, passes, slots, H_1, size), dtype=shard.dtype",
            "w = nl.ndarray((rows, passes, slots, H_1, size), dtype=(nl.bfloat16 if shard.dtype == "
            "nl.float16 else shard.dtype)",
        ),
    ),
    _mutant(
        "qkv", "accumulator", "qkv-static-sum-restarts",
        "the sum of FP8 products begins anew at each block of weights",
        "cte-static-streamed", "product",
        Patch(
            "qkv_cte.py",
            "            moving=block.data[:, nl.ds(j, 2), part],\n            accumulate=t > 0,",
            "            moving=block.data[:, nl.ds(j, 2), part],\n            accumulate=j > 0,",
        ),
    ),
    _mutant(
        "qkv", "accumulator", "qkv-mx-sum-restarts",
        "the sum of MX products begins anew at each block of weights",
        "cte-mx-streamed", "product",
        Patch(
            "qkv_cte.py",
            "            moving_scale=block.scale[:, j, part],\n            accumulate=t > 0,",
            "            moving_scale=block.scale[:, j, part],\n            accumulate=j > 0,",
        ),
    ),
    _mutant(
        "qkv", "scale", "qkv-mx-scales-of-first-block",
        "every block of MX weights takes the scales of the first",
        "cte-mx-streamed", "product",
        Patch(
            "qkv_cte_weights.py",
            "block.scale = load_scales(plan.scales, first, count)",
            "block.scale = load_scales(plan.scales, 0, count)",
        ),
    ),
    _mutant(
        "qkv", "accumulator", "qkv-sum-restarts",
        "the sum begins anew at each block of weights",
        "cte-streamed", "product",
        Patch(
            "qkv_cte.py",
            "        nisa.nc_matmul(\n            dst=product,\n            stationary=operand.data[:, t, :],\n"
            "            moving=block.data[:, j, part],\n            accumulate=t > 0,",
            "        nisa.nc_matmul(\n            dst=product,\n            stationary=operand.data[:, t, :],\n"
            "            moving=block.data[:, j, part],\n            accumulate=j > 0,",
        ),
    ),
    _mutant(
        "qkv", "clamp", "qkv-lower-limit-of-dtype",
        "an upper limit without a lower one leaves the lower at the dtype's",
        "cte-fp8-max-alone", "k_quantized",
        Patch(
            "qkv_cte.py",
            "call.lower = -call.upper if fp8_min == None else fp8_min",
            "call.lower = -largest_finite(k_cache.dtype) if fp8_min == None else fp8_min",
        ),
    ),
    _mutant(
        "qkv", "clamp", "qkv-upper-limit-from-lower",
        "a lower limit without an upper one is taken for both",
        "cte-fp8-min-alone", "k_quantized",
        Patch(
            "qkv_cte.py",
            "call.upper = largest_finite(k_cache.dtype) if fp8_max == None else fp8_max",
            "call.upper = (largest_finite(k_cache.dtype) if fp8_min == None else -fp8_min) if fp8_max == "
            "None else fp8_max",
        ),
    ),
    _mutant(
        "qkv", "clamp", "qkv-e5m2-at-448",
        "float8_e5m2 caches are clamped at the limit of another format",
        "cte-e5m2-heavy", "k_quantized",
        Patch(
            "kv_store.py",
            "    if dtype == nl.float8_e5m2:\n        return 57344.0\n",
            "",
        ),
    ),
    _mutant(
        "qkv", "slot", "qkv-flat-second-tile",
        "a later tile of tokens of one sequence goes to the slots of its first",
        "cte-flat-two-tiles", "",
        Patch(
            "kv_store.py",
            "b, s = (first + done) // S, (first + done) % S",
            "b, s = (first + done) // S, (first + done) % S if done > 0 or first < S else max(0, (first + "
            "done) % S - (first + done) % S // 128 * 128)",
        ),
    ),
    _mutant(
        "qkv", "norm", "qkv-layer-norm-last-piece",
        "LayerNorm leaves out a last piece shorter than 512",
        "cte-layer-norm-ragged", "bn_stats",
        Patch(
            "norm_cte.py",
            "pieces = (H + STATS_COLUMNS - 1) // STATS_COLUMNS",
            "pieces = max(1, H // STATS_COLUMNS)",
        ),
    ),
    _mutant(
        "qkv", "layout", "qkv-rope-values-misplaced",
        "values lie where the second key head belongs, with RoPE in layout NBSd",
        "cte-rope-two-kv-heads", "",
        Patch(
            "qkv_cte.py",
            "store_columns(call.out, projected[:, call.rotated : call.I], call.rotated, first)",
            "store_columns(call.out, projected[:, call.rotated : call.I], call.rotated if call.I - "
            "call.rotated <= 128 else call.rotated - 128 * (len(call.out.shape) - 3), first)",
        ),
    ),
    _mutant(
        "qkv", "norm", "qkv-hidden-without-gamma",
        "the mean is over all elements where there is no gamma",
        "cte-skip-gamma-hidden", "inverse_root",
        Patch(
            "qkv_cte.py",
            "rms_norm_tokens(hidden, call.eps, call.divisor, s)",
            "rms_norm_tokens(hidden, call.eps, call.divisor if call.norm_type == NormType.RMS_NORM else "
            "call.H, s)",
        ),
    ),
    _mutant(
        "qkv", "term", "qkv-beta-without-dma",
        "beta is dropped where the tensor engine transposes",
        "cte-layer-norm-no-dma", "operand",
        Patch(
            "qkv_cte.py",
            "        transpose_tokens(dst, source, call.gamma, call.beta, call.dma_transpose)\n"
            "        return operand\n    padded",
            "        transpose_tokens(dst, source, call.gamma, call.beta if call.dma_transpose else None, "
            "call.dma_transpose)\n        return operand\n    padded",
        ),
    ),
    _mutant(
        "qkv", "scale", "qkv-mx-gamma-of-lane-0",
        "all four lanes of MX operands take the gamma of the first",
        "cte-mx-layer-norm", "operand",
        Patch(
            "token_transpose.py",
            "column = nl.ds(first + t * lanes + k, 1)",
            "column = nl.ds(first + t * lanes, 1)",
        ),
    ),
    _mutant(
        "qkv", "rows", "qkv-residual-first-step",
        "the sum of residuals of later tokens is stored at the first",
        "tkg-norm-steps-residual", "",
        Patch(
            "qkv_tkg.py",
            "            store_fused(shape, fused_hidden, own, first)",
            "            store_fused(shape, fused_hidden, own, 0)",
        ),
    ),
    _mutant(
        "qkv", "norm", "qkv-hidden-first-step",
        "only the first step of tokens takes the mean over fewer elements",
        "tkg-norm-steps-hidden", "norm_rsqrt",
        Patch(
            "qkv_tkg.py",
            "y = rms_norm(x, own, gamma_tile, constant, eps, hidden_actual, k)",
            "y = rms_norm(x, own, gamma_tile, constant, eps, hidden_actual if k == 0 else shape.H, k)",
        ),
    ),
    _mutant(
        "qkv", "order", "qkv-two-groups-at-32",
        "32 tokens are summed in two groups already",
        "tkg-32-tokens", "psum",
        Patch(
            "qkv_tkg.py",
            "if shape.T > 32:",
            "if shape.T >= 32:",
        ),
    ),
    _mutant(
        "qkv", "order", "qkv-one-group-at-64",
        "64 tokens are summed in one group already",
        "tkg-64-tokens", "psum",
        Patch(
            "qkv_tkg.py",
            "if shape.T > 64:",
            "if shape.T >= 64:",
        ),
        seen_in="exact_rounding",
    ),
    _mutant(
        "qkv", "order", "qkv-ragged-groups-kept",
        "a last block of tiles that its groups do not divide keeps them",
        "tkg-ragged-groups", "psum",
        Patch(
            "qkv_tkg.py",
            "last = F if rest % F == 0 else 1",
            "last = F if rest % F == 0 or rest > F else 1",
        ),
    ),
    _mutant(
        "qkv", "order", "qkv-decode-residual-order",
        "in decode the residuals are added in the other order",
        "tkg-residual-order", "x",
        Patch(
            "qkv_tkg.py",
            "        sources.append(attention_prev.reshape((B * S, H)))\n"
            "        sources.append(mlp_prev.reshape((B * S, H)))",
            "        sources.append(mlp_prev.reshape((B * S, H)))\n"
            "        sources.append(attention_prev.reshape((B * S, H)))",
        ),
        seen_in="exact_rounding",
    ),
    _mutant(
        "qkv", "eps", "qkv-static-eps-narrowed",
        "eps is rounded to the dtype of the data in front of FP8 weights",
        "cte-static-eps", "inverse_root",
        Patch(
            "qkv_cte.py",
            "call.eps = eps_tile(norm_eps, nl.float32 if call.static else call.C)",
            "call.eps = eps_tile(norm_eps, call.C)",
        ),
        unseen=unseen_because.OF_LITTLE_WEIGHT,
    ),
    _mutant(
        "attention_tkg", "rows", "attn-entry-across-cores",
        "a core whose keys begin inside a table entry begins at the entry",
        "entry-across-cores", "score",
        Patch(
            "block_table.py",
            "skip = first - low * factor",
            "skip = 0",
        ),
    ),
    _mutant(
        "attention_tkg", "rows", "attn-ids-second-group",
        "batches beyond the 128th take the block ids of the first",
        "blocks-200-batches", "score",
        Patch(
            "attention_tkg_call.py",
            "id_column=b,",
            "id_column=b if group.low == 0 else 0,",
        ),
    ),
    _mutant(
        "attention_tkg", "mask", "attn-mask-second-chunk",
        "a later chunk of a wide mask is read from the wrong rows",
        "wide-mask-chunks", "max_local",
        Patch(
            "attention_mask.py",
            "src=source[:, low : low + count, :, :])",
            "src=source[:, low // n : low // n + count, :, :])",
        ),
    ),
    _mutant(
        "attention_tkg", "memory", "attn-rows-cleared-once",
        "rows nobody keeps are cleared in the first load only",
        "loads-poisoned", "pv",
        Patch(
            "kv_load.py",
            "    clear_rows(values, keep)\n    return values",
            "    if load.low == 0:\n        clear_rows(values, keep)\n    return values",
        ),
    ),
    _mutant(
        "attention_tkg", "batch", "attn-later-load-batch",
        "new keys of a later load are those of the core's first batch",
        "loads-two-batches", "score",
        Patch(
            "kv_load.py",
            "tokens = k_active.reshape_dim(1, (-1, plan.s_active)).slice(1, load.batch, load.batch + "
            "load.batches)",
            "tokens = k_active.reshape_dim(1, (-1, plan.s_active)).slice(1, load.batch if load.low == 0 else "
            "plan.first_batch(), (load.batch if load.low == 0 else plan.first_batch()) + load.batches)",
        ),
    ),
    _mutant(
        "attention_tkg", "layout", "attn-debug-columns",
        "the debug maximum of a tile of batches is stored at a whole multiple of 128",
        "batch-tiles-debug", "",
        Patch(
            "attention_tkg_debug.py",
            "    first = tile.first * plan.columns\n    for ct",
            "    first = tile.first * plan.columns // P * P\n    for ct",
        ),
    ),
    _mutant(
        "attention_tkg", "mask", "attn-active-wide-mask",
        "new tokens of later batches take the wide mask of the first",
        "batch-tiles-wide-mask", "shift",
        Patch(
            "attention_mask.py",
            "    source = mask[:, batch : batch + batches, :, :]\n",
            "    source = mask[:, batch : batch + batches, :, :] if mask.dtype == nl.uint8 else mask[:, 0 : "
            "batches, :, :]\n",
        ),
        unseen=unseen_because.OF_LITTLE_WEIGHT,
    ),
    _mutant(
        "attention_tkg", "maximum", "attn-nothing-kept-infinite",
        "the maximum of a column that keeps nothing stays infinite",
        "nothing-kept-debug", "max_local",
        Patch(
            "cascaded_softmax.py",
            "op0=nl.maximum, operand0=-FLT_MAX",
            "op0=nl.maximum, operand0=-float('inf')",
        ),
    ),
    _mutant(
        "attention_segmented_cte", "maximum", "segatt-unseen-maximum",
        "the maximum of a row that sees nothing is not limited",
        "nothing-seen", "neg_max",
        Patch(
            "segment_attention.py",
            "limit = TOP if before == None else before",
            "limit = 3.4028235e38 if before == None else before",
        ),
    ),
    _mutant(
        "attention_segmented_cte", "maximum", "segatt-unseen-divisor",
        "the divisor of a row that sees nothing is not limited",
        "nothing-seen-poisoned", "recip",
        Patch(
            "segment_state.py",
            "op0=nl.maximum, operand0=SMALLEST_SUM",
            "op0=nl.maximum, operand0=0.0",
        ),
    ),
    _mutant(
        "attention_segmented_cte", "rows", "segatt-start-stale",
        "where a segment starts is not moved on between full segments",
        "many-full-segments", "logit",
        Patch(
            "attention_segmented_cte.py",
            "        nisa.tensor_scalar(\n"
            "            dst=start, data=start, op0=nl.subtract, operand0=float(call.segment), "
            "engine=nisa.vector_engine\n        )\n",
            "",
        ),
    ),
    _mutant(
        "attention_segmented_cte", "mask", "segatt-window-split-row",
        "the window of the second core's part is that of the first's",
        "window-split-row", "logit",
        Patch(
            "attention_segmented_cte.py",
            "affine(as_column(prior), -1, area - part.first)",
            "affine(as_column(prior), -1, area)",
        ),
    ),
    _mutant(
        "attention_segmented_cte", "memory", "segatt-window-loads-before",
        "tokens before the window are loaded too",
        "window-poisoned", "score",
        Patch(
            "attention_segmented_cte.py",
            "head, length, area - call.window, None)",
            "head, length, 0, None)",
        ),
    ),
    _mutant(
        "attention_segmented_cte", "tail", "segatt-last-group-lost",
        "the last group of the second core's part is left out of transposed results",
        "split-row-tp-out", "",
        Patch(
            "attention_segmented_cte.py",
            "    for g in range(state.groups):\n        last = group_state(state, g)",
            "    for g in range(state.groups if part.first == 0 or not call.tp_out else max(1, state.groups "
            "- state.groups % 2)):\n        last = group_state(state, g)",
        ),
    ),
    _mutant(
        "attention_segmented_cte", "scale", "segatt-k-scale-of-rows",
        "k_scale is ignored where queries come as rows",
        "k-scale-rows-of-q", "score",
        Patch(
            "attention_segmented_cte.py",
            "    if call.k_scale == None:\n        return query",
            "    if call.k_scale == None or not call.tp_q:\n        return query",
        ),
    ),
    _mutant(
        "attention_segmented_cte", "rounding", "segatt-scale-before-rounding",
        "k_scale is applied before float32 queries are rounded",
        "k-scale-rows-of-fp32-q", "query",
        Patch(
            "attention_segmented_cte.py",
            "        nisa.tensor_copy(dst=query, src=wide, engine=nisa.vector_engine)\n"
            "    if call.k_scale == None:",
            "        nisa.tensor_copy(dst=query, src=wide, engine=nisa.vector_engine)\n"
            "        if call.k_scale != None:\n            product(query, wide, call.k_scale)\n"
            "            return query\n    if call.k_scale == None:",
        ),
        unseen=unseen_because.ONE_OF_MANY,
    ),
    _mutant(
        "attention_block_tkg", "eps", "block-eps-zero",
        "an eps of 0 is taken for none given",
        "eps-zero", "norm_rsqrt",
        Patch(
            "attention_block_tkg.py",
            "DEFAULT_EPS if eps == None else eps",
            "DEFAULT_EPS if eps == None or eps == 0.0 else eps",
        ),
        unseen=unseen_because.OF_LITTLE_WEIGHT,
    ),
    _mutant(
        "attention_block_tkg", "rope", "block-interleaved-one-token",
        "keys of one token are rotated as halves though they are interleaved",
        "interleaved-one-token", "rope_even_cos",
        Patch(
            "attention_block_tkg.py",
            "key = rotate_columns(key, cosines, sines, shape.B, 1, rope_contiguous_layout, 1)",
            "key = rotate_columns(key, cosines, sines, shape.B, 1, rope_contiguous_layout or shape.S == 1, 1)",
        ),
    ),
    _mutant(
        "attention_block_tkg", "slot", "block-transposed-third-batch",
        "transposed keys of later batches go one element further",
        "transposed-four-batches", "",
        Patch(
            "cache_update.py",
            "offset=b * d * S_max, vector_offset",
            "offset=b * d * S_max + (0 if b < 2 else 1), vector_offset",
        ),
    ),
    _mutant(
        "attention_block_tkg", "rows", "block-fifth-tile",
        "a QKV tile beyond the fourth is the one four before it",
        "many-heads", "heads",
        Patch(
            "attention_block_tkg.py",
            "dst=joined[:, nl.ds(512 * i, tiles[i].shape[1])], src=tiles[i]",
            "dst=joined[:, nl.ds(512 * i, tiles[i].shape[1])], src=tiles[i if i < 4 else i - 4][:, 0 : "
            "tiles[i].shape[1]]",
        ),
    ),
)  # fmt: skip
