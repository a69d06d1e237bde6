"""Faults of output_projection_tkg. Sources OPn: the defect list of the kernel's fact sheet."""

from __future__ import annotations

from conformance.mutants.mutant import Mutant, Patch
from conformance.mutants.snippets import narrowed, one_step_off, rows_swapped, truncated

_KERNEL = "output_projection_tkg.py"
_PACKING = "head_packing.py"
_CLAMP = "fp8_clamp.py"


def _mutant(
    kind: str, name: str, fault: str, find: str, replace: str, case: str, point: str = "", source: str = "",
    file: str = _KERNEL, count: int = 1, also: tuple[str, ...] = (), unseen: str = "", seen_in: str = "",
) -> Mutant:  # fmt: skip
    patch = Patch(file, find, replace, count)
    name = f"outproj-{name}"
    return Mutant(name, "output_projection_tkg", fault, (patch,), case, point, source, kind, also, unseen, "", seen_in)


MUTANTS = (
    _mutant(
        "rows", "bias-tile-order", "the bias of the next H tile is added",
        "bias_tile[:, part] if bias",
        "bias_tile[:, nl.ds((column + 512) % columns, size)] if bias",
        "two-tiles", "out", "class: wrong tile order",
    ),
    _mutant(
        "rounding", "dequant-unrounded", "the dequantised sum is not rounded to io before the bias is added",
        'nl.ndarray((tokens, size), dtype=io, name=f"out_dequant_0_{column // 512}")',
        'nl.ndarray((tokens, size), dtype=nl.float32, name=f"out_dequant_0_{column // 512}")',
        "exact-static", "out_dequant", "OP11",
    ),
    _mutant(
        "rows", "packing-reversed", "packed heads stand in reverse order",
        "dst = packed[off * D : (off + 1) * D, j, :]",
        "dst = packed[(g - 1 - off) * D : (g - off) * D, j, :]",
        "packing-n6-d32", "attention_packed", "OP5", file=_PACKING,
    ),
    _mutant(
        "core", "core-halves-swapped", "each core computes the other one's half of H",
        "weight_view, tokens, first + start, width,", "weight_view, tokens, H - columns - first + start, width,",
        "plain", "out_psum", "class: wrong half of a core",
    ),
    _mutant(
        "tail", "last-pass-missing", "the last group of heads is not accumulated",
        "for k in range(count):\n                matmul_pass(\n                    psums[i],",
        "for k in range(max(1, count - 1)):\n                matmul_pass(\n                    psums[i],",
        "plain", "out_psum", "class: missing K tile",
    ),
    _mutant(
        "rows", "transposed-index", "h taken as h_2*128 + h_1",
        "reshape_dim(3, (128, H_2))", "reshape_dim(3, (H_2, 128)).permute((0, 1, 2, 4, 3))",
        "transposed-bias", "out_psum", "OP1",
    ),
    _mutant(
        "core", "slab-order", "each core writes the other one's slab",
        "out[:, prg, values, :]", "out[:, (out.shape[1] - 1 - prg), values, :]",
        "transposed-lnc2-h2-1", "", "OP2",
    ),
    _mutant(
        "core", "bias-shard-ignored", "core 1 adds core 0's bias",
        "src=bias[0:1, nl.ds(first, columns)]", "src=bias[0:1, nl.ds(0, columns)]",
        "plain-bias", "out_bias", "OP3",
    ),
    _mutant(
        "core", "bias-shard-ignored-transposed", "core 1 adds core 0's bias in the transposed layout",
        'load_transposed_vector(bias, bias.dtype, "out_bias", first, H_2)',
        'load_transposed_vector(bias, bias.dtype, "out_bias", 0, H_2)',
        "transposed-bias", "out_bias", "OP3",
    ),
    _mutant(
        "layout", "axes-b-s-swapped", "tokens are ordered (s, b) instead of (b, s)",
        "dst = packed[off * D : (off + 1) * D, j, :].reshape((D, passes, B, S))",
        "dst = packed[off * D : (off + 1) * D, j, :].reshape((D, passes, S, B)).permute((0, 1, 3, 2))",
        "plain", "attention_packed", "OP7", file=_PACKING,
    ),
    _mutant(
        "scale", "bias-before-dequant", "the bias is added before the sum is dequantised",
        "    if scale != None:\n        nisa.activation(dst=target, op=nl.copy, data=psum, scale=scale)\n",
        "    if scale != None and bias != None:\n"
        "        nisa.tensor_tensor(dst=dequant, data1=psum, data2=bias, op=nl.add, engine=nisa.vector_engine)\n"
        "        nisa.activation(dst=out, op=nl.copy, data=dequant, scale=scale)\n"
        "        return\n"
        "    if scale != None:\n        nisa.activation(dst=target, op=nl.copy, data=psum, scale=scale)\n",
        "static-bias", "out_dequant", "OP10",
    ),
    _mutant(
        "scale", "row-scale-dropped", "ROW results are not dequantised",
        "data1=psum, data2=row_scale, op=nl.multiply", "data1=psum, data2=row_scale, op=nl.add",
        "row-bias", "out_dequant", "OP10",
    ),
    _mutant(
        "scale", "scale-inverted", "the combined scale is weight_scale / input_scale",
        "nisa.tensor_tensor(dst=scale, data1=ws, data2=xs, op=nl.multiply",
        "nisa.reciprocal(dst=scale, data=xs)\n    nisa.tensor_tensor(dst=scale, data1=ws, data2=scale, op=nl.multiply",
        "static-bias", "scale", "OP12",
    ),
    _mutant(
        "clamp", "clamp-448", "attention is clamped to the OCP limit",
        "FP8_MAX = 240.0", "FP8_MAX = 448.0", "static-edge", "attention_fp8", "OP14", file=_CLAMP,
    ),
    _mutant(
        "clamp", "clamp-upper-only", "negative values are not clamped",
        "operand1=-FP8_MAX", "operand1=-1.0e30", "static-edge", "attention_fp8", "OP13", file=_CLAMP,
    ),
    _mutant(
        "rounding", "scaled-in-fp32", "the scaled attention is not rounded to io before the cast to fp8",
        "nl.ndarray((D, B, N, S), dtype=attention.dtype, name=\"attention_scaled\")",
        "nl.ndarray((D, B, N, S), dtype=nl.float32, name=\"attention_scaled\")",
        "static-bias", "attention_scaled", "OP11",
        seen_in="exact_rounding",
    ),
    _mutant(
        "scale", "scale-multiplied", "attention is multiplied by input_scale instead of its reciprocal",
        "operand0=inv_scale[0:D, :]", "operand0=xs[0:D, :]", "static-bias", "attention_scaled", "OP12",
    ),
    _mutant(
        "rows", "double-row-halves", "double row pairs groups (k, k + n/2)",
        "split = attention.reshape((D, B, passes, slots, g, S))",
        "split = attention.reshape((D, B, slots, passes, g, S)).permute((0, 1, 3, 2, 4, 5))",
        "static-double-row", "attention_packed", "OP16", file=_PACKING,
    ),
    _mutant(
        "rounding", "weight-dtype-out", "the result takes the weight's dtype",
        'out_sb = nl.ndarray((tokens, columns), dtype=io, name="out_0")',
        'out_sb = nl.ndarray((tokens, columns), dtype=weight_view.dtype, name="out_0")',
        "mixed-fp16-weight", "out", "OP19",
        seen_in="exact_rounding",
    ),
    _mutant(
        "memory", "input-clobbered", "the caller's SBUF attention is scaled in place",
        'scaled = nl.ndarray((D, B, N, S), dtype=attention.dtype, name="attention_scaled")',
        "scaled = loaded", "sbuf-static", "", "OP18",
    ),
    _mutant(
        "accumulator", "psum-bf16", "partial sums leave PSUM rounded to io between groups",
        "    return psums\n",
        "    rounded = nl.ndarray(psums[0].shape, dtype=nl.bfloat16)\n"
        "    for psum in psums:\n"
        "        nisa.tensor_copy(dst=rounded, src=psum)\n"
        "        nisa.tensor_copy(dst=psum, src=rounded)\n"
        "    return psums\n",
        "plain-fp32", "out_psum", "class: bf16 accumulator",
    ),
    _mutant(
        "term", "bias-twice", "the bias is added twice",
        "data1=summand, data2=bias, op=nl.add, engine=nisa.vector_engine)\n",
        "data1=summand, data2=bias, op=nl.add, engine=nisa.vector_engine)\n"
        "        nisa.tensor_tensor(dst=out, data1=out, data2=bias, op=nl.add, engine=nisa.vector_engine)\n",
        "plain-bias", "out", "class: term applied twice",
    ),
    _mutant(
        "tail", "bias-first-quadrant", "the bias reaches the first 32 tokens only",
        "for start in range(0, tokens, 32):", "for start in range(0, 32, 32):",
        "bias-33-tokens", "", "OP4",
    ),
    _mutant(
        "tail", "last-tile-dropped", "the last PSUM tile of a transposed result is not evicted",
        "if h_2 == low + count - 1:", "if h_2 == low + count - 1 and count == per_tile:",
        "transposed-ragged-tile", "", "OP8",
    ),
    _mutant(
        "rounding", "result-truncated", "results are cut off instead of rounded",
        "    elif not dequantised:\n        nisa.tensor_copy(dst=out, src=psum, engine=nisa.vector_engine)\n",
        "    elif not dequantised:\n        wide = nl.ndarray(psum.shape, dtype=nl.float32)\n"
        "        nisa.tensor_copy(dst=wide, src=psum, engine=nisa.vector_engine)\n" + truncated("wide", "out", 8),
        "plain", "out", "class: truncation",
        seen_in="exact",
    ),
    _mutant(
        "rounding", "result-one-step-off", "every result is the number after it",
        "    elif not dequantised:\n        nisa.tensor_copy(dst=out, src=psum, engine=nisa.vector_engine)\n",
        "    elif not dequantised:\n        nisa.tensor_copy(dst=out, src=psum, engine=nisa.vector_engine)\n"
        + one_step_off("out", 8),
        "plain", "out", "class: one step off",
        seen_in="exact",
    ),
    _mutant(
        "accumulator", "dequant-of-bfloat16", "the sum passes bfloat16 before it is dequantised",
        "    if scale != None:\n        nisa.activation(dst=target, op=nl.copy, data=psum, scale=scale)\n",
        "    if scale != None:\n" + narrowed("psum", "psum.shape", 8)
        + "        nisa.activation(dst=target, op=nl.copy, data=psum, scale=scale)\n",
        "static-bias", "out_psum", "class: bf16 accumulator",
        seen_in="exact_rounding",
    ),
    _mutant(
        "rows", "two-weight-rows-swapped", "two rows of the weight change places",
        "        for i in range(len(psums)):\n            for k in range(count):\n",
        rows_swapped("w", 8) + "        for i in range(len(psums)):\n            for k in range(count):\n",
        "plain", "out_psum", "class: swapped rows",
    ),
    _mutant(
        "core", "row-scale-of-first-core", "both cores take the row scales of the first one's columns",
        "src=weight_scale[0:tokens, nl.ds(first, columns)]", "src=weight_scale[0:tokens, nl.ds(0, columns)]",
        "row-bias", "row_scale", "class: wrong half of a core",
    ),
)
