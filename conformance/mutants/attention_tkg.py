"""Faults of attention_tkg. Sources Bn: the defect list of the kernel's fact sheet."""

from __future__ import annotations

from conformance.mutants import unseen as unseen_because
from conformance.mutants.mutant import Mutant, Patch
from conformance.mutants.snippets import narrowed, one_step_off, rows_swapped, truncated

_PLAN, _LOAD, _MASK = "attention_tkg_plan.py", "kv_load.py", "attention_mask.py"
_SCORES, _OUTPUT, _SOFTMAX = "attention_tkg_scores.py", "attention_tkg_output.py", "cascaded_softmax.py"
_ROPE, _TAIL, _TABLE, _ENTRY = "rope.py", "token_tail.py", "block_table.py", "attention_tkg.py"

#: Contexts end before the second core's keys, whose first two of three flash tiles keep nothing.
_LEADING_TILES_MASKED = (
    "cfg:lane=normal,seed=3,bs=1,q_head=1,s_active=1,curr_sprior=49152,full_sprior=49152,d_head=8,use_pos_id=true"
)
#: A scale that is no power of two.
_ROPE_D128 = (
    "cfg:lane=normal,seed=0,bs=2,q_head=2,s_active=3,curr_sprior=512,full_sprior=512,d_head=128,fuse_rope=true,"
    "qk_in_sb=false"
)


def _mutant(
    kind: str, name: str, file: str, fault: str, find: str, replace: str, case: str, point: str = "", source: str = "",
    count: int = 1, also: tuple[str, ...] = (), unseen: str = "", seen_in: str = "",
) -> Mutant:  # fmt: skip
    patch = Patch(file, find, replace, count)
    name = f"attn-{name}"
    return Mutant(name, "attention_tkg", fault, (patch,), case, point, source, kind, also, unseen, "", seen_in)


MUTANTS = (
    # maxima
    _mutant(
        "maximum", "stale-maximum-of-core", _SCORES, "each core keeps its own maximum",
        "larger(call, tile, state, running, remote, joins)", "larger(call, tile, state, running, running, joins)",
        "sequence", "run_max", "class: stale maximum",
    ),
    _mutant(
        "maximum", "stale-maximum-of-tile", _SCORES, "a flash tile ignores the maximum of those before it",
        "larger(call, tile, state, before.run_max, running, meets or joins)",
        "larger(call, tile, state, running, running, meets or joins)",
        "flash", "max_remote", "class: stale maximum",
    ),
    _mutant(
        "sink", "sink-outside-maximum", _SCORES, "the sink does not take part in the maximum",
        "joins = call.sink != None and (", "joins = call.sink == 0 and (",
        "shift", "run_max", "class: sink ignored",
        unseen=unseen_because.SHIFT_FREE,
    ),
    _mutant(
        "maximum", "maximum-unclamped", _SOFTMAX, "a fully masked flash tile has the maximum -inf",
        "operand0=-FLT_MAX", 'operand0=float("-inf")', _LEADING_TILES_MASKED, "max_local", "B8",
    ),
    _mutant(
        "maximum", "maximum-of-first-tile", _SOFTMAX, "the maximum is taken over the first key tile",
        "data=scores.permute((0, 2, 1)), axis=2", "data=scores[:, 0:1, :].permute((0, 2, 1)), axis=2",
        "rising", "max_local", "class: stale maximum",
        seen_in="one_hot",
    ),
    _mutant(
        "maximum", "columns-beyond-128", _SOFTMAX, "column tiles share the vector of the first one",
        "tile = vector[(low + column) // P]", "tile = vector[0][0 : vector[(low + column) // P].shape[0], :]",
        "sequence-wide", "shift", "B7",
    ),
    # weights and sums
    _mutant(
        "maximum", "no-shift", _SOFTMAX, "scores are exponentiated as they are",
        "data1=scores[:, low : low + count, :],\n            data2=maximum.expand_dim(1).broadcast(1, count),\n"
        "            op=nl.subtract,",
        "data1=scores[:, low : low + count, :],\n            data2=maximum.expand_dim(1).broadcast(1, count),\n"
        "            op=nl.maximum,",
        "shift", "shift", "class: softmax without its shift",
    ),
    _mutant(
        "core", "sum-of-one-core", _OUTPUT, "the other core's sum is not added",
        "combine(pair, state.run_sum, remote, nl.add)", "copy_column(pair, state.run_sum)",
        "sequence", "sum_pair", "class: missing exchange",
    ),
    _mutant(
        "rescale", "sum-not-rescaled", _OUTPUT, "the sum of earlier flash tiles keeps its old maximum",
        "combine(scaled, before.run_sum, corr, nl.multiply)", "copy_column(scaled, before.run_sum)",
        "flash", "sum_scaled", "class: missing rescale",
    ),
    _mutant(
        "sink", "sink-outside-sum", _OUTPUT, "the sink's term is not added",
        "combine(state.run_sum, local, term, nl.add)", "copy_column(state.run_sum, local)",
        "alone-sink", "run_sum", "class: sink ignored",
        seen_in="exact_rounding",
    ),
    _mutant(
        "sink", "sink-on-both-cores", _OUTPUT, "each core adds the sink's term to its sum",
        "elif term != None and plan.n_seq == 1:", "elif term != None:",
        "sequence-sink", "run_sum", "class: sink counted twice",
    ),
    _mutant(
        "sink", "sink-of-first-head", _ENTRY, "all heads have the sink of the first one",
        "heads = sink.reshape((1, cfg.q_head, 1))",
        "heads = sink.reshape((1, cfg.q_head, 1))[:, 0:1, :].broadcast(1, cfg.q_head)",
        "alone-sink", "sink_shift", "class: neighbouring argument",
        seen_in="one_sided",
    ),
    _mutant(
        "rounding", "weights-truncated", _SOFTMAX, "weights are cut off instead of rounded",
        "        nisa.activation(dst=prob[:, low : low + count, :], op=nl.exp, data=shift)\n",
        "        whole = nl.ndarray((P, count, columns), dtype=nl.float32)\n"
        "        nisa.activation(dst=whole, op=nl.exp, data=shift)\n"
        + truncated("whole", "prob[:, low : low + count, :]", 8),
        "one-sided", "prob", "class: truncation",
        also=("fp16",),
    ),
    _mutant(
        "scale", "scores-one-percent-high", _SOFTMAX, "scores are scaled by 1.01",
        "op=nl.exp, data=shift)", "op=nl.exp, data=shift, scale=1.01)", "sequence", "prob", "class: wrong scale",
    ),
    _mutant(
        "accumulator", "sum-in-bfloat16", _SOFTMAX, "the sum of weights passes bfloat16",
        "        nisa.tensor_reduce(dst=result[ct], op=nl.add, data=parts, axis=1)\n",
        "        nisa.tensor_reduce(dst=result[ct], op=nl.add, data=parts, axis=1)\n"
        + narrowed("result[ct]", "(cols, 1)", 8),
        "sequence", "sum_local", "class: bf16 accumulator",
        also=("fp16",),
    ),
    # values
    _mutant(
        "accumulator", "output-in-bfloat16", _OUTPUT, "the running output is rounded between flash tiles",
        "            engine=nisa.vector_engine,\n        )\n\n\n# ---- the result",
        "            engine=nisa.vector_engine,\n        )\n    if call.plan.flash_tiles() > 1:\n"
        + narrowed("state.run_out[:, columns]", "(call.plan.d_head, call.plan.columns)", 8) + "\n\n# ---- the result",
        "flash", "run_out", "class: bf16 accumulator",
        seen_in="exact_rounding",
    ),
    _mutant(
        "rounding", "output-one-step-off", _OUTPUT, "every result is the number after it",
        "    nisa.tensor_copy(dst=rounded, src=total, engine=nisa.vector_engine)\n",
        "    nisa.tensor_copy(dst=rounded, src=total, engine=nisa.vector_engine)\n" + one_step_off("rounded", 4),
        "sequence", "out_tile", "class: one step off",
        seen_in="exact",
    ),
    _mutant(
        "memory", "last-query-unwritten", _OUTPUT, "the last query's results are not stored",
        "        nisa.dma_copy(dst=place, src=rounded)\n",
        "        whole = rounded.reshape((plan.d_head, tile.batches, cfg.q_head, cfg.s_active))\n"
        "        kept = cfg.s_active - 1\n"
        "        nisa.dma_copy(dst=place[:, :, :, 0:kept], src=whole[:, :, :, 0:kept])\n",
        "sequence", "", "class: unwritten tail",
    ),
    _mutant(
        "rows", "two-value-rows-swapped", _LOAD, "two tokens exchange their values",
        "    clear_rows(values, keep)\n", rows_swapped("values", 4) + "    clear_rows(values, keep)\n",
        "sequence", "pv", "class: swapped rows",
    ),
    _mutant(
        "batch", "caches-of-first-batch", _LOAD, "every load begins at the first batch's cache",
        "cache.slice(0, load.batch, load.batch + load.batches)", "cache.slice(0, 0, load.batches)",
        "batch", "score", "class: wrong batch",
    ),
    _mutant(
        "tail", "last-token-dropped", _SCORES, "nobody sees the last token",
        "    space.open_scope(\"scores\")\n",
        "    if plan.owns_tail() and tile.f == plan.flash_tiles() - 1:\n"
        "        none = nl.ndarray((1, 1, tile.columns), dtype=nl.uint8)\n"
        "        nisa.memset(dst=none, value=0)\n"
        "        nisa.dma_copy(dst=mask[P - 1 : P, tile.n - 1 : tile.n, :], src=none)\n"
        "    space.open_scope(\"scores\")\n",
        "sequence", "shift", "class: last token lost",
        seen_in="shift",
    ),
    _mutant(
        "rescale", "output-not-rescaled", _OUTPUT, "the output of earlier flash tiles keeps its old maximum",
        "multiply(scaled, before.run_out, rows)",
        "nisa.tensor_copy(dst=scaled, src=before.run_out, engine=nisa.vector_engine)",
        "flash", "out_scaled", "class: missing rescale",
    ),
    _mutant(
        "tail", "last-key-tile-missing", _OUTPUT, "the values of the last key tile are not weighed",
        "for t in range(load.low, load.low + load.tiles):",
        "for t in range(load.low, max(load.low + 1, load.low + load.tiles - 1)):",
        "sequence", "pv", "class: missing tile",
    ),
    _mutant(
        "mask", "dropped-values-used", _LOAD, "values that nobody keeps are multiplied by their weight 0",
        "    clear_rows(values, keep)\n", "", "poison", "pv", "B18",
    ),
    _mutant(
        "mask", "values-kept-by-first-column", _MASK, "a value row counts as dropped when the first column drops it",
        "data=keep.reshape_dim(2, (batches, columns)), axis=3",
        "data=keep.reshape_dim(2, (batches, columns))[:, :, :, 0:1], axis=3",
        "one-hot", "pv", "class: mask of the wrong column",
    ),
    _mutant(
        "core", "other-core-not-added", _OUTPUT, "core 0 stores its own part",
        "nisa.tensor_tensor(dst=total, data1=norm, data2=remote, op=nl.add, engine=nisa.vector_engine)",
        "nisa.tensor_copy(dst=total, src=norm, engine=nisa.vector_engine)",
        "sequence", "norm_pair", "class: missing exchange",
    ),
    _mutant(
        "core", "normalised-by-own-sum", _OUTPUT, "each core divides by its own sum",
        "total = divisor(call, tile, state, term)", "divisor(call, tile, state, term)\n        total = state.run_sum",
        "sequence", "recip", "class: missing exchange",
    ),
    _mutant(
        "core", "halves-not-exchanged", _ENTRY, "each core keeps its own half of an output on chip",
        "if cfg.out_in_sb and plan.n_bat == 2:", "if cfg.out_in_sb and plan.n_bat == 3:",
        "batch-sbuf", "", "class: missing exchange",
    ),
    _mutant(
        "barrier", "both-cores-store", _PLAN, "two cores that do the same work both write memory",
        "return self.n_bat == 2 or self.prg == 0", "return True", "both-alone", "", "decision D9: a race",
        unseen=unseen_because.SAME_BYTES,
    ),
    # masks
    _mutant(
        "mask", "mask-rows-in-tile-order", _MASK, "rows of a flat mask are read tile by tile",
        'if plan.layout == "strided":\n        source = rows', 'if plan.layout == "none":\n        source = rows',
        "one-hot", "max_local", "B13",
    ),
    _mutant(
        "mask", "mask-not-applied", _SCORES, "every score counts",
        "nisa.tensor_copy_predicated(\n"
        "                    dst=scores[:, nl.ds(begin, count), nl.ds(column, width)],\n"
        "                    src=psum,\n"
        "                    predicate=mask[:, nl.ds(begin, count), nl.ds(column, width)],\n"
        "                )",
        "nisa.tensor_copy(dst=scores[:, nl.ds(begin, count), nl.ds(column, width)], src=psum)",
        "sequence", "max_local", "class: mask ignored",
    ),
    _mutant(
        "mask", "active-mask-of-core-0", _MASK, "the second core uses the active mask of the first one's batches",
        "source = mask[:, batch : batch + batches, :, :]", "source = mask[:, 0:batches, :, :]",
        "batch-pos-id", "shift", "B4",
    ),
    _mutant(
        "mask", "position-included", _MASK, "the slot at the position itself is seen",
        "op=nl.less,", "op=nl.less_equal,", "sequence-pos-id", "shift", "class: off by one",
    ),
    _mutant(
        "mask", "position-of-second-query", _MASK, "the context ends at the second query's position",
        "rope_pos_ids[batch : batch + batches, 0:1]", "rope_pos_ids[batch : batch + batches, 1:2]",
        "poison-pos-id", "max_local", "B5",
    ),
    _mutant(
        "mask", "mask-of-first-flash-tile", _MASK, "every flash tile takes the rows of the first one",
        "first = plan.first_token(f)\n    rows = mask", "first = plan.first_key()\n    rows = mask",
        "flash", "max_local", "class: wrong tile",
    ),
    # keys, values and their places
    _mutant(
        "tail", "active-keys-lost", _LOAD, "the new keys do not replace the last slots",
        "        place_active_keys(keys, k_active, plan, load)\n", "        pass\n",
        "sequence", "score", "class: last token lost",
    ),
    _mutant(
        "tail", "active-values-lost", _LOAD, "the new values do not replace the last slots",
        "        place_active_values(space, values, v_active, plan, load)\n", "        pass\n",
        "sequence", "pv", "class: last token lost",
    ),
    _mutant(
        "rows", "active-slices-of-short-blocks", _TAIL, "rows of new values restart in every partition",
        "split.slice(dim + 1, piece.skip, piece.skip + piece.tiles)",
        "split.slice(dim, 0, 1).broadcast(dim, piece.partitions).slice(dim + 1, piece.skip, piece.skip + piece.tiles)"
        " if piece.partitions > 1 and piece.row > 0 and source.shape[dim] > piece.row else "
        "split.slice(dim + 1, piece.skip, piece.skip + piece.tiles)",
        "block-pos-id", "score", "B2",
    ),
    _mutant(
        "core", "keys-of-the-other-core", _PLAN, "each core takes the other one's keys",
        "return self.prg * self.keys if self.n_seq == 2 else 0",
        "return (1 - self.prg) * self.keys if self.n_seq == 2 else 0",
        "sequence", "score", "class: wrong half of a core",
    ),
    _mutant(
        "rows", "blocks-cut-by-cores", _PLAN, "blocks are cut for the number of cores instead of sequence shards",
        "resized_block_len(cfg.block_len, keys, flash_keys)",
        "resized_block_len(cfg.block_len, cfg.curr_sprior // n_prgs, cfg.curr_sprior // n_prgs)",
        "block-batch", "score", "B10",
    ),
    _mutant(
        "rows", "block-ids-not-cut", _TABLE, "table entries are not multiplied by the pieces of a block",
        "op0=nl.multiply, operand0=factor,", "op0=nl.multiply, operand0=1,", "block-16", "score", "class: wrong page",
    ),
    _mutant(
        "rows", "first-fold-repeated", _LOAD, "every fold takes the blocks of the first one",
        "vector_offset=load.ids[:, fold, column],", "vector_offset=load.ids[:, 0, column],",
        "flash-block", "score", "class: wrong page",
    ),
    _mutant(
        "rows", "keys-in-sequential-order", _LOAD, "strided keys are read tile by tile",
        "split = part.reshape_dim(2, (P, n)).slice(3, load.low, load.low + load.tiles)",
        "split = part.reshape_dim(2, (n, P)).permute((0, 1, 3, 2)).slice(3, load.low, load.low + load.tiles)",
        "sequence", "score", "class: wrong layout",
    ),
    # rotation
    _mutant(
        "rope", "rotation-sign", _ROPE, "the upper half enters with its own sign",
        "op0=nl.multiply, operand0=-1.0,", "op0=nl.multiply, operand0=1.0,", "rope", "rope_sine_part",
        "class: wrong sign",
    ),
    _mutant(
        "rope", "turns-cut", _ROPE, "whole turns are cut off instead of rounded",
        "nisa.tensor_copy(dst=count, src=turns, engine=nisa.vector_engine)",
        "nisa.tensor_scalar(dst=count, data=turns, op0=nl.add, operand0=-0.5, engine=nisa.vector_engine)",
        "rope", "rope_count", "B17",
    ),
    _mutant(
        "scale", "query-not-scaled", _ENTRY, "rotated queries are not scaled",
        "data=rotated, scale=scale", "data=rotated, scale=1.0", "rope", "rope_query", "class: scale missing",
    ),
    _mutant(
        "rounding", "query-scaled-before-rounding", _ENTRY, "the sum is scaled before it is rounded to io",
        'rotated = space.alloc((d, cfg.bs * plan.columns), io, name="rope_sum_0")',
        'rotated = space.alloc((d, cfg.bs * plan.columns), nl.float32, name="rope_sum_0")',
        _ROPE_D128, "rope_sum", "class: dropped rounding",
        unseen=unseen_because.NEARER,
    ),
    _mutant(
        "rope", "position-of-first-token", _ROPE, "all new tokens of a batch rotate by the first one's angle",
        "wave.reshape((wave.shape[0], batches, 1, wave.shape[1] // batches)).broadcast(2, heads)",
        "wave.reshape((wave.shape[0], batches, 1, wave.shape[1] // batches))[:, :, :, 0:1]"
        ".broadcast(2, heads).broadcast(3, wave.shape[1] // batches)",
        "rope", "rope_cosine_part", "class: one position per batch",
    ),
)  # fmt: skip
