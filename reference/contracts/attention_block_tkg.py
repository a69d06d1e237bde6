"""The contract of `attention_block_tkg`: one decode step of an attention layer over a KV cache with one KV head.

Letters: B batches, S new tokens, T = B*S, H hidden size, q query heads of d channels, I = d*(q+2), S_ctx slots
attended to, S_max slots of a flat cache, io dtype of X. R_T(x) is one rounding of a float32 value to dtype T.

Three stages are those of other contracts, with their points: `qkv` in token generation, `attention_tkg` and
`output_projection_tkg`; `Config` gives each as a call. Sources: the published API page of the release that this
signature is from, and the fact sheet of the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reference.contract import (
    Argument,
    Contract,
    Refusal,
    Result,
    Rule,
    first_refusal,
    raise_refusal,
)
from reference.contracts.attention_block_tkg_config import (
    FLOATS,
    FP8,
    IO_DTYPES,
    QUANTIZATIONS,
    SKIP,
    Config,
    cache_shape,
    results,
    tensors,
)
from reference.contracts.attention_block_tkg_history import DECISIONS, DEFECTS
from reference.contracts.attention_block_tkg_points import POINTS
from reference.contracts.attention_block_tkg_rules import RULES
from reference.contracts.attention_tkg import MASK_DTYPES
from reference.contracts.tensor_call import TENSOR_RULES, TensorCall

__all__ = [
    "CALL_RULES",
    "CONTRACT",
    "SKIP",
    "Call",
    "Config",
    "cache_shape",
    "call_refusal",
    "refusal",
    "results",
    "tensors",
    "validate",
    "validate_call",
]

KERNEL = "attention_block_tkg"

_BOOL = ("False", "True")
_ARGUMENTS = (
    Argument(
        "X", "hbm or sbuf", "[B, S, H]; SBUF [128, T, H/128]: [p, t, l*H1s + j] = X[t, l*H/LNC + p*H1s + j]",
        IO_DTYPES, "Hidden states; the dtype is called io. Never written.",
    ),
    Argument("X_hidden_dim_actual", "", "", ("None", "1 .. H"), "Divisor of the mean; None is H."),
    Argument("rmsnorm_X_enabled", "", "", _BOOL, "RMSNorm of X."),
    Argument("rmsnorm_X_eps", "", "", ("None", "float >= 0"), "None is 1e-3."),
    Argument("rmsnorm_X_gamma", "hbm", "[1, H]", (*FLOATS, "None"), "Given exactly with the norm."),
    Argument("W_qkv", "hbm", "[H, d*(q+2)]", ("io", FP8), "Columns: query heads, key head, value head."),
    Argument("bias_qkv", "hbm", "[1, d*(q+2)]", ("io", "None"), "Added on the first core, never scaled."),
    Argument("quantization_type_qkv", "", "", QUANTIZATIONS, "Of W_qkv."),
    Argument(
        "weight_dequant_scale_qkv", "hbm", "STATIC [1 or 128, 3], ROW [1 or 128, d*(q+2)]",
        ("float32", "None"), "Given exactly when quantized; row 0 is read.",
    ),
    Argument(
        "input_dequant_scale_qkv", "hbm", "[1 or 128, 1]", ("float32", "None"), "Given exactly in STATIC.",
    ),
    Argument("rmsnorm_QK_pre_rope_enabled", "", "", _BOOL, "RMSNorm of every head before RoPE."),
    Argument("rmsnorm_QK_pre_rope_eps", "", "", ("float >= 0",), ""),
    Argument("cos", "hbm", "[d/2, B, S]", (*FLOATS, "None"), "None: no RoPE."),
    Argument("sin", "hbm", "[d/2, B, S]", (*FLOATS, "None"), "Given exactly with cos, same dtype."),
    Argument("rope_contiguous_layout", "", "", _BOOL, "Pairs are halves, else neighbours."),
    Argument("rmsnorm_QK_post_rope_enabled", "", "", _BOOL, "RMSNorm of every head after RoPE."),
    Argument("rmsnorm_QK_post_rope_eps", "", "", ("float >= 0",), ""),
    Argument("rmsnorm_QK_post_rope_W_Q", "hbm", "[1, d]", (*FLOATS, "None"), "Weights of the query heads."),
    Argument("rmsnorm_QK_post_rope_W_K", "hbm", "[1, d]", (*FLOATS, "None"), "Weights of the key head."),
    Argument("K_cache_transposed", "", "", _BOOL, "K_cache is [B, d, S_max]; not with blocks."),
    Argument("active_blocks_table", "hbm", "[B, n_blk]", ("uint32", "None"), "Given: block KV cache."),
    Argument(
        "K_cache", "hbm",
        "flat [B, S_max, d], transposed [B, d, S_max], both also with a head axis 1; block [num_blocks, "
        "block_len, d], also with a head axis 2 or 1", ("io", FP8), "float8_e4m3 exactly with both scales.",
    ),
    Argument("V_cache", "hbm", "flat [B, S_max, d]; block as K_cache", ("io", FP8), "As K_cache."),
    Argument(
        "attention_mask", "hbm", "[S_ctx, B, q, S]; block: rows in the order of attention_tkg", MASK_DTYPES,
        "Nonzero keeps; the last S rows are the new tokens.",
    ),
    Argument("sink", "hbm", "[q, 1]", (*FLOATS, "None"), "Logits without a value."),
    Argument("update_cache", "", "", _BOOL, "Write new keys and values into the caches, or return them."),
    Argument(
        "kv_cache_update_idx", "hbm", "[B, 1] or [B, S]", ("uint32", "None"),
        "First slot (block: row) of a batch, or the slot of every token; 0xFFFFFFFF for none. Given exactly with "
        "update_cache.",
    ),
    Argument("W_out", "hbm", "[q*d, H]", (*IO_DTYPES, FP8, "None"), "None: attention is the result."),
    Argument("bias_out", "hbm", "[1, H]", (*FLOATS, "None"), "Only with W_out."),
    Argument("quantization_type_out", "", "", QUANTIZATIONS, "Of W_out."),
    Argument(
        "weight_dequant_scale_out", "hbm", "STATIC [128, 1], ROW [128, H]", ("float32", "None"),
        "Given exactly when quantized.",
    ),
    Argument("input_dequant_scale_out", "hbm", "[128, 1]", ("float32", "None"), "Given exactly in STATIC."),
    Argument("transposed_out", "", "", _BOOL, "Hidden index on the partitions; needs W_out."),
    Argument("out_in_sb", "", "", _BOOL, "Leave the result in SBUF."),
    Argument("softmax_scale", "", "", ("None", "float"), "None is d**-0.5.", "None"),
    Argument("k_scale", "hbm", "[1 or 128, 1]", (*FLOATS, "None"), "New keys times this become FP8.", "None"),
    Argument("v_scale", "hbm", "[1 or 128, 1]", (*FLOATS, "None"), "As k_scale, for values.", "None"),
    Argument("sbm", "", "", ("None", "SbufManager"), "Places tiles; no effect on values.", "None"),
    Argument("skip_attention", "", "", _BOOL, "The queries, unscaled, in place of attention.", "False"),
)  # fmt: skip

_RESULTS = (
    Result("out", "hbm or sbuf", "as output_projection_tkg; SBUF stacked over cores", "io", "W_out"),
    Result("out", "hbm", "[B, q, d, S]; skip_attention [d, B*q*S]", "io", "no W_out, not out_in_sb"),
    Result("out", "sbuf", "[d, B*q*S], the same on every core; stacked", "io", "no W_out, out_in_sb"),
    Result("K_out", "hbm", "K_cache itself, updated in place", "dtype of the caches", "update_cache"),
    Result("V_out", "hbm", "V_cache itself, updated in place", "dtype of the caches", "update_cache"),
    Result("K_out", "hbm", "[d, B, S]", "dtype of the caches", "not update_cache"),
    Result("V_out", "hbm", "[B, 1, S, d]", "dtype of the caches", "not update_cache"),
)

CONTRACT: Contract[Config] = Contract(
    kernel=KERNEL,
    summary="RMSNorm, QKV, head norms, RoPE, FP8 KV, attention, cache update and output projection in one call.",
    arguments=_ARGUMENTS,
    results=_RESULTS,
    rules=RULES,
    points=POINTS,
    decisions=DECISIONS,
    defects=DEFECTS,
)

refusal, validate = CONTRACT.refusal, CONTRACT.validate


# --- calls ------------------------------------------------------------------------------------------------


Call = TensorCall[Config]


def _named(call: Call) -> list[list[int]]:
    """What each batch names: slots (block: rows) of tokens, or the first one; [] where values are not at hand."""
    index = call.values("kv_cache_update_idx")
    return [] if index is None else [[slot for slot in batch if slot != SKIP] for batch in index.tolist()]


def _slots(call: Call) -> list[list[int]]:
    """Every slot that each batch writes."""
    c = call.config
    run = 1 if c.idx_per_token else c.S
    return [[first + s for first in batch for s in range(run)] for batch in _named(call)]


def _largest_block(call: Call) -> int:
    table = call.values("active_blocks_table")
    return 0 if table is None else int(np.max(table))


def _within_cache(call: Call) -> bool:
    c = call.config
    rows = c.blocks * c.block_len if c.block_kv else c.S_max
    return all(slot < rows for batch in _slots(call) for slot in batch)


def _within_block(call: Call) -> bool:
    """Whether no run of rows goes on in a block that its index does not name."""
    c = call.config
    if not c.block_kv or c.idx_per_token:
        return True
    return all(first % c.block_len + c.S <= c.block_len for batch in _named(call) for first in batch)


def _distinct(call: Call) -> bool:
    """Batches of a block cache share its rows; in a flat one each has its own."""
    slots = _slots(call)
    apart = [[slot for batch in slots for slot in batch]] if call.config.block_kv else slots
    return all(len(set(some)) == len(some) for some in apart)


def _index(call: Call) -> str:
    return f"{_named(call)} with S={call.config.S}"


#: Tried after the rules about the Config.
CALL_RULES: tuple[Rule[Call], ...] = (
    *TENSOR_RULES,
    Rule(
        "block_id_range", "active_blocks_table", "block ids must be below the number of blocks",
        lambda c: not c.config.block_kv or _largest_block(c) < c.config.blocks,
        lambda c: f"id {_largest_block(c)} of {c.config.blocks} blocks", "point unused entries at any valid block",
        "fact sheet 4.4",
    ),
    Rule(
        "idx_range", "kv_cache_update_idx", "all slots that are written must lie within the cache",
        _within_cache, _index, "pass 0xFFFFFFFF to write nothing", "decision AB-D12",
    ),
    Rule(
        "idx_block", "kv_cache_update_idx", "with an index per batch, all S rows of a batch must lie in one block",
        _within_block, _index, "pass an index per token, [B, S]", "decision AB-D11",
    ),
    Rule(
        "idx_distinct", "kv_cache_update_idx", "no two tokens may write one slot",
        _distinct, _index, "give every token a slot of its own", "fact sheet 7",
    ),
)  # fmt: skip


def call_refusal(config: Config, given: Mapping[str, Any]) -> Refusal | None:
    """The first rule, about the Config or about the tensors beside it, that a call violates.

    `given` holds tensors by argument name; None counts as not given. Values are looked at where a tensor is a
    NumPy array.
    """
    return refusal(config) or first_refusal(KERNEL, CALL_RULES, Call(config, given, tensors(config)))


def validate_call(config: Config, given: Mapping[str, Any]) -> None:
    """Raises KernelArgumentError before anything is launched when a call is not legal."""
    raise_refusal(call_refusal(config, given))
