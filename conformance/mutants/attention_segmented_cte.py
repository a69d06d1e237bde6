"""Faults of attention_segmented_cte. Sources Bn: the defect list of the kernel's fact sheet.

B17 is no fault of a result: a kernel without that refusal differs only on a call that the contract refuses.
"""

from __future__ import annotations

from conformance.mutants import unseen as unseen_because
from conformance.mutants.mutant import Mutant, Patch
from conformance.mutants.snippets import narrowed, one_step_off, rows_swapped, truncated

_ENTRY, _SCHEDULE, _ATTEND = "attention_segmented_cte.py", "segment_schedule.py", "segment_attention.py"
_STATE, _LOAD = "segment_state.py", "paged_load.py"

#: Two full segments, two value tiles in each: the smallest of that kind.
_FULL = (
    "cfg:lane=normal,seed=0,batch=1,num_q_heads=2,seqlen_q=128,block_size=16,prior_seg_size=256,max_blocks=40,"
    "num_blocks=44,d_head=16"
)
#: Multiplied by the rounded reciprocal, a prior of one segment is no full one.
_RECIPROCAL = (
    "cfg:lane=normal,seed=0,batch=1,num_q_heads=1,seqlen_q=128,block_size=16,prior_seg_size=656,max_blocks=49,"
    "num_blocks=53,d_head=16,lnc=1"
)
#: Pages of -1 behind the tokens of the first two sequences.
_PADDED = (
    "cfg:lane=poison,seed=4,batch=3,num_q_heads=1,seqlen_q=256,block_size=16,prior_seg_size=256,max_blocks=41,"
    "num_blocks=127,d_head=16"
)
#: Nothing before the window's tokens, and a block 0 that the table does not name.
_POISON_WINDOW = (
    "cfg:lane=poison,seed=2,batch=1,num_q_heads=2,seqlen_q=128,block_size=16,prior_seg_size=128,max_blocks=8,"
    "num_blocks=40,d_head=16,sliding_window=128"
)


def _patched(
    kind: str, name: str, fault: str, patches: tuple[Patch, ...], case: str, point: str = "", source: str = "",
    also: tuple[str, ...] = (), unseen: str = "", refused: str = "", seen_in: str = "",
) -> Mutant:  # fmt: skip
    return Mutant(
        f"segatt-{name}", "attention_segmented_cte", fault, patches, case, point, source, kind, also, unseen, refused,
        seen_in,
    )  # fmt: skip


def _mutant(
    kind: str, name: str, file: str, fault: str, find: str, replace: str, case: str, point: str = "", source: str = "",
    count: int = 1, also: tuple[str, ...] = (), unseen: str = "", refused: str = "", seen_in: str = "",
) -> Mutant:  # fmt: skip
    patch = Patch(file, find, replace, count)
    return _patched(kind, name, fault, (patch,), case, point, source, also, unseen, refused, seen_in)


MUTANTS = (
    # sink
    _mutant(
        "sink", "sink-in-every-segment", _ENTRY, "merged segments count the sink once more",
        "new = attend(states[i], segment, g, call.scale, None, False)",
        "new = attend(states[i], segment, g, call.scale, None, call.sink != None)",
        "partial-sink", "neg_max", "B1",
    ),
    _mutant(
        "sink", "sink-of-head-0", _ENTRY, "all rows take the sink of the first one",
        "src=call.sink.ap(pattern=[[0, P], [1, 1]], offset=row)",
        "src=call.sink.ap(pattern=[[0, P], [1, 1]], offset=0)",
        "partial-sink", "neg_max", "B3",
    ),
    _mutant(
        "sink", "sink-tile-overlapped", _ENTRY, "rows that share keys keep their sinks in one tile",
        "            state.sink = load_sink(call, part.row)\n",
        "            state.sink = load_sink(call, part.row)\n            if i > 0:\n"
        "                nisa.tensor_copy(dst=states[0].sink, src=state.sink, engine=nisa.vector_engine)\n",
        "partial-sink", "neg_max", "B9",
    ),
    _mutant(
        "sink", "sink-dropped", _ENTRY, "the active segment leaves the sink out",
        "new = attend(states[i], segment, g, call.scale, None, call.sink != None)\n            put(",
        "new = attend(states[i], segment, g, call.scale, None, False)\n            put(",
        "partial-sink", "neg_max", "class: sink ignored",
    ),
    _mutant(
        "sink", "sink-outside-sum", _ATTEND, "the sink's term is not added",
        "data=sums[:, 0 : len(tiles) + extra]", "data=sums[:, 0 : len(tiles)]",
        "partial-sink", "sum", "class: sink ignored",
    ),
    # segments and their tails
    _patched(
        "mask", "extra-segment-padded", "the extra segment's zero columns up to a key tile count",
        (
            Patch(_ENTRY, "longest = max(prior_seg_size, seqlen)", "longest = max(prior_seg_size, seqlen, KEY_TILE)"),
            Patch(
                _ENTRY, "entry, EXTRA, part.first, None)",
                "entry, EXTRA, window_area(part.first), affine(call.zero, 1, part.first))",
            ),
        ),
        "split-row", "row_sums", "B2",
    ),
    _mutant(
        "tail", "extra-segment-dropped", _ENTRY, "the second core does not meet the first one's tokens of a split row",
        "if part.first > 0 and call.offset == None:", "if part.first < 0 and call.offset == None:",
        "split-row", "recip", "class: missing segment",
    ),
    _mutant(
        "memory", "tiles-not-cleared", _LOAD, "tokens that the gather skips are what SBUF held before",
        "    nisa.memset(dst=dst, value=0.0)\n", "", _PADDED, "", "B4",
    ),
    _mutant(
        "tail", "short-key-tile-not-loaded", _LOAD, "pre-transposed keys of a short key tile stay zero",
        "for n in range(tokens // size):", "for n in range(tokens // 512 * 512 // size):",
        "keys-turned", "score", "B6",
    ),
    _mutant(
        "rows", "partial-segment-twice", _SCHEDULE, "the partial segment is met twice",
        "op0=nl.greater, operand0=0.0,", "op0=nl.greater, operand0=0.0, op1=nl.multiply, operand1=2.0,",
        "partial", "run_sum", "B8",
    ),
    _patched(
        "rows", "table-offset-shared", "all passes over rows count one table offset down, to 0 and no further",
        (
            Patch(
                _ENTRY, "    entry = affine(schedule.num_full, step, -step)\n",
                "    if schedule.partial != schedule.num_full:\n"
                "        schedule.partial = schedule.num_full\n"
                "        nisa.tensor_scalar(dst=schedule.num_full, data=schedule.num_full, op0=nl.multiply,\n"
                "            operand0=float(step), op1=nl.subtract, operand1=float(step), engine=nisa.vector_engine)\n"
                "    entry = schedule.num_full\n",
            ),
            Patch(
                _ENTRY, "dst=entry, data=entry, op0=nl.subtract, operand0=float(step), engine=nisa.vector_engine",
                "dst=entry, data=entry, op0=nl.subtract, operand0=float(step), op1=nl.maximum, operand1=0.0",
            ),
        ),
        "gqa", "num_full", "B11",
    ),
    _mutant(
        "mask", "offset-sees-padding", _ENTRY, "with kvp_offset the columns behind the partial segment's tokens count",
        "op0=nl.minimum, operand0=last,", "op0=nl.maximum, operand0=last,", "kvp", "logit", "B12",
    ),
    _mutant(
        "tail", "prior-of-one-segment-lost", _SCHEDULE, "a remainder of a whole segment counts as none",
        "data=partial, op0=nl.greater, operand0=0.0,",
        "data=partial, op0=nl.not_equal, operand0=float(segment),",
        _RECIPROCAL, "recip", "B13",
    ),
    _mutant(
        "tail", "segments-rounded", _SCHEDULE, "the number of full segments is rounded",
        "floor_nisa_kernel(turns, num_full, 1, 1, None)",
        "nisa.tensor_copy(dst=num_full, src=turns, engine=nisa.vector_engine)",
        "partial-sink", "num_full", "class: rounded instead of floored",
    ),
    _mutant(
        "order", "segments-from-the-earliest", _ENTRY, "full segments are met from the earliest on",
        "    entry = affine(schedule.num_full, step, -step)\n",
        "    entry = affine(schedule.num_full, 0, 0)\n    step = -step\n",
        _FULL, "score", "class: order of segments",
        unseen=unseen_because.LEGAL,
    ),
    _mutant(
        "rows", "partial-segment-from-0", _ENTRY, "the partial segment starts at the table's first entry",
        "affine(schedule.num_full, call.segment // call.cache.block_size(), 0)", "affine(schedule.num_full, 0, 0)",
        "partial", "score", "class: wrong page",
    ),
    # pages
    _mutant(
        "slot", "skipped-pages-stop", _LOAD, "a page of -1 stops the gather",
        "vector_offset=index, indirect_dim=0),\n            oob_mode=nisa.oob_mode.skip,",
        "vector_offset=index, indirect_dim=0),\n            oob_mode=nisa.oob_mode.error,",
        _PADDED, "", "B14", refused=unseen_because.OUT_OF_BOUNDS,
    ),
    _mutant(
        "rows", "skipped-pages-are-block-0", _LOAD, "a page of -1 reads block 0",
        "op0=nl.maximum, operand0=-1.0,", "op0=nl.maximum, operand0=0.0,", _PADDED, "score", "B15",
    ),
    _mutant(
        "rows", "table-padded-with-block-0", _LOAD, "what lies before a window's first entry reads block 0",
        "nisa.memset(dst=pad, value=-1)", "nisa.memset(dst=pad, value=0)", _POISON_WINDOW, "score", "B16",
    ),
    _mutant(
        "batch", "table-of-sequence-0", _ENTRY, "all rows follow the first sequence's pages",
        "call.block_tables, part.row // call.heads, 0,", "call.block_tables, 0, 0,",
        "partial-sink", "score", "class: page of another sequence",
    ),
    _mutant(
        "rows", "heads-taken-in-turn", _SCHEDULE, "query heads take KV heads in turn instead of in groups",
        "return row % heads * kv_heads // heads", "return row % heads % kv_heads", "gqa", "score",
        "class: wrong KV head",
    ),
    # masks and scores
    _mutant(
        "mask", "next-token-seen", _ENTRY, "a query sees the token behind its own",
        "segment.upper = call.queries", "segment.upper = affine(call.queries, 1, 1)", "partial", "logit",
        "class: off by one",
    ),
    _mutant(
        "mask", "window-too-long", _ENTRY, "a window holds one token more",
        "area - call.window + 1", "area - call.window", "window", "logit", "class: off by one",
    ),
    _mutant(
        "rows", "window-of-first-slice", _ENTRY, "the second half of a split row takes the first one's pages",
        "entry = entry_of(prior, size, part.first // size)\n    head", "entry = entry_of(prior, size, 0)\n    head",
        "window-sink", "score", "class: wrong page",
    ),
    _patched(
        "scale", "scale-ignored", "scores are not scaled",
        (
            Patch(_ATTEND, "operand0=scale, reduce_op", "operand0=1.0, reduce_op"),
            Patch(_ATTEND, "operand0=scale, engine", "operand0=1.0, engine"),
        ),
        "scaled", "logit", "class: scale missing",
    ),
    # softmax and its running state
    _mutant(
        "maximum", "stale-maximum", _ATTEND, "a full segment does not take in the running maximum",
        "limit = TOP if before == None else before", "limit = TOP", "rising", "neg_max", "class: stale maximum",
    ),
    _mutant(
        "rescale", "sum-not-rescaled", _STATE, "a flash update adds to the sum of the old maximum",
        "    multiply_add(total, before.sum, corr, new.sum)\n",
        "    nisa.tensor_tensor(dst=total, data1=before.sum, data2=new.sum, op=nl.add, engine=nisa.vector_engine)\n",
        _FULL, "run_sum", "class: missing rescale",
    ),
    _mutant(
        "rescale", "output-not-rescaled", _STATE, "a flash update adds to the output of the old maximum",
        "    multiply_add(o, before.o, corr, new.o)\n",
        "    nisa.tensor_tensor(dst=o, data1=before.o, data2=new.o, op=nl.add, engine=nisa.vector_engine)\n",
        _FULL, "run_out", "class: missing rescale",
    ),
    _mutant(
        "accumulator", "output-in-bfloat16", _STATE, "the running output is rounded between segments",
        "state.o = nl.ndarray((P, state.groups, d), dtype=nl.float32)",
        "state.o = nl.ndarray((P, state.groups, d), dtype=nl.bfloat16)",
        _FULL, "run_out", "B10",
        seen_in="exact_rounding",
    ),
    _mutant(
        "rescale", "merge-factor-of-new", _STATE, "a merge rescales the running output by the new segment's factor",
        "product(old_out, before.o, old_factor)", "product(old_out, before.o, new_factor)",
        "partial", "old_out", "class: wrong factor",
    ),
    _mutant(
        "maximum", "merge-to-smaller-maximum", _STATE, "a merge rescales both sides to the smaller maximum",
        "data1=before.n, data2=new.n, op=nl.minimum", "data1=before.n, data2=new.n, op=nl.maximum",
        "partial", "merged_top", "class: stale maximum",
        seen_in="rising",
    ),
    _mutant(
        "tail", "last-value-tile-lost", _ATTEND, "the values of a segment's last tile are not weighed",
        "for k in range(len(pieces)):", "for k in range(max(1, len(pieces) - 1)):", _FULL, "pv",
        "class: missing tile",
    ),
    _mutant(
        "maximum", "no-shift", _ATTEND, "scores are exponentiated as they are",
        "op0=nl.multiply, operand0=-1.0, op1=nl.minimum, operand1=limit,",
        "op0=nl.minimum, operand0=0.0, op1=nl.maximum, operand1=0.0,",
        "shift", "neg_max", "class: softmax without its shift",
    ),
    _mutant(
        "rounding", "weights-truncated", _ATTEND, "weights are cut off instead of rounded",
        "    nisa.activation(\n        dst=prob, op=nl.exp, data=logit, bias=n, reduce_op=nl.add, reduce_res=total,\n"
        "        reduce_cmd=nisa.reduce_cmd.reset_reduce,\n    )\n",
        "    whole = nl.ndarray((P, count), dtype=nl.float32)\n    nisa.activation(\n"
        "        dst=whole, op=nl.exp, data=logit, bias=n, reduce_op=nl.add, reduce_res=total,\n"
        "        reduce_cmd=nisa.reduce_cmd.reset_reduce,\n    )\n" + truncated("whole", "prob", 4),
        "one-sided", "prob", "class: truncation",
    ),
    _mutant(
        "scale", "scores-one-percent-high", _ATTEND, "scores are scaled by 1.01",
        "dst=prob, op=nl.exp, data=logit, bias=n,", "dst=prob, op=nl.exp, data=logit, scale=1.01, bias=n,",
        _FULL, "prob", "class: wrong scale",
    ),
    _mutant(
        "accumulator", "sum-in-bfloat16", _ATTEND, "the sum of a segment passes bfloat16",
        "data=sums[:, 0 : len(tiles) + extra], axis=1)\n",
        "data=sums[:, 0 : len(tiles) + extra], axis=1)\n" + narrowed("total", "(P, 1)", 4),
        _FULL, "sum", "class: bf16 accumulator",
        also=("kvp",),
    ),
    _mutant(
        "rows", "two-value-rows-swapped", _ENTRY, "two tokens of a segment exchange their values",
        "    keys, values = load_segment(call.cache, table, entry, head, length, 0, limit)\n",
        "    keys, values = load_segment(call.cache, table, entry, head, length, 0, limit)\n"
        + rows_swapped("values", 4),
        _FULL, "pv", "class: swapped rows",
    ),
    _mutant(
        "tail", "last-prior-token-dropped", _ENTRY, "the last token of the partial segment is not seen",
        "last = affine(schedule.partial_column, 1, -1)", "last = affine(schedule.partial_column, 1, -2)",
        "partial", "logit", "class: last token lost",
    ),
    _mutant(
        "core", "rows-of-core-0", _ENTRY, "both cores attend with the rows of the first",
        "core_slices(rows, seqlen, block_size, kvp_offset != None, n_prgs, prg)",
        "core_slices(rows, seqlen, block_size, kvp_offset != None, n_prgs, 0)",
        _FULL, "", "class: wrong half of a core",
    ),
    # scales and results
    _mutant(
        "rounding", "quotient-of-unrounded", _STATE, "the output is not rounded before it is divided by the sum",
        'nl.ndarray(o.shape, dtype=nl.bfloat16, name=f"rounded_{name}")',
        'nl.ndarray(o.shape, dtype=nl.float32, name=f"rounded_{name}")',
        _FULL, "rounded", "class: rounding dropped",
        unseen=unseen_because.NEARER,
    ),
    _mutant(
        "rounding", "output-one-step-off", _STATE, "every result is the number after it",
        "    return recip, out\n", one_step_off("out", 4) + "    return recip, out\n",
        _FULL, "out", "class: one step off",
        seen_in="exact",
    ),
    _mutant(
        "memory", "last-queries-unwritten", _ENTRY, "the last group of queries of a row is not stored",
        "    for g in range(state.groups):\n        last = group_state(state, g)\n",
        "    for g in range(max(1, state.groups - 1)):\n        last = group_state(state, g)\n",
        "full", "", "class: unwritten tail",
    ),
    _patched(
        "scale", "key-scale-not-in-partial", "the partial segment is met by queries without k_scale",
        (
            Patch(
                _STATE, "    query: nl.ndarray = None\n",
                "    query: nl.ndarray = None\n    plain: nl.ndarray = None\n",
            ),
            Patch(_ENTRY, "state.query = load_query(call, part)", "state.plain, state.query = load_query(call, part)"),
            Patch(_ENTRY, "        return query\n    scaled", "        return query, query\n    scaled"),
            Patch(_ENTRY, "    return scaled\n", "    return query, scaled\n"),
            Patch(
                _ATTEND, "stationary=state.query[:, nl.ds(g * P, P)]",
                "stationary=(state.plain if segment.kind == 1 else state.query)[:, nl.ds(g * P, P)]",
            ),
        ),
        "fp8", "score", "B5",
    ),
    _mutant(
        "scale", "key-scale-dropped", _ENTRY, "queries are not multiplied by k_scale",
        "product(scaled, query, call.k_scale)", "nisa.tensor_copy(dst=scaled, src=query, engine=nisa.vector_engine)",
        "fp8", "query_scaled", "class: scale missing",
    ),
    _mutant(
        "scale", "value-scale-per-query", _ENTRY, "v_scale multiplies query rows",
        "v_scale.ap(pattern=[[0, P], [1, d]])", "v_scale.ap(pattern=[[1, P], [0, d]])", "fp8", "out", "B7",
    ),
    _mutant(
        "scale", "value-scale-dropped", _STATE, "the normalised output is not multiplied by v_scale",
        "nisa.tensor_tensor(dst=out, data1=norm, data2=v_scale, op=nl.multiply, engine=nisa.vector_engine)",
        "nisa.tensor_copy(dst=out, src=norm, engine=nisa.vector_engine)", "fp8", "out", "class: scale missing",
    ),
    _mutant(
        "rescale", "reciprocal-missing", _STATE, "the output is multiplied by the sum",
        "nisa.reciprocal(dst=recip, data=divisor)",
        "nisa.tensor_copy(dst=recip, src=divisor, engine=nisa.vector_engine)",
        "short-blocks", "recip", "class: reciprocal missing",
    ),
    _mutant(
        "layout", "turned-groups-reversed", _ENTRY, "groups of a turned result are stored last to first",
        "dst=result[:, nl.ds(g * P, P)]", "dst=result[:, nl.ds(part.length - P - g * P, P)]",
        "split-row-sink", "", "class: wrong layout",
    ),
)  # fmt: skip
