"""Arguments and results of `qkv`, in the published order."""

from __future__ import annotations

from reference.contract import Argument, Result
from reference.contracts.qkv_config import FLOATS, FP8, KV_DTYPES, LAYOUTS, MX_WEIGHT, NORMS, QUANTIZATIONS

_BOOL = ("False", "True")

ARGUMENTS = (
    Argument("input", "hbm", "[B, S, H]", FLOATS, "Hidden states, token t = b*S + s; its dtype is called io."),
    Argument(
        "fused_qkv_weights", "hbm", "[H, I], for MX [H/4, I]", (*FLOATS, FP8, MX_WEIGHT),
        f"Columns head by head: Q heads, K heads, V heads. {FP8} with STATIC and ROW, {MX_WEIGHT} with MX. In "
        "TKG float32 exactly when the input is.",
    ),
    Argument("output_layout", "", "", LAYOUTS, "NBSd needs d_head = 128.", "QKVOutputLayout.BSD"),
    Argument("bias", "hbm", "[1, I]", (*FLOATS, "None"), "In TKG of dtype io.", "None"),
    Argument(
        "quantization_type", "", "", QUANTIZATIONS, "ROW in TKG only, MX in CTE on gen4 only.",
        "QuantizationType.NONE",
    ),
    Argument(
        "qkv_w_scale", "hbm", "STATIC [1|128, 3] (Q, K, V); ROW [1|128, I]; MX [H/32, I]; rows identical",
        ("float32", "uint8"), "Given exactly when quantized; E8M0 bytes for MX.", "None",
    ),
    Argument("qkv_in_scale", "hbm", "STATIC [1|128, 1]", ("float32",), "Given exactly in STATIC.", "None"),
    Argument("fused_residual_add", "", "", _BOOL, "Add attention_prev and mlp_prev to the input.", "False"),
    Argument("mlp_prev", "hbm", "[B, S, H]", ("io",), "Given exactly with fused_residual_add.", "None"),
    Argument("attention_prev", "hbm", "[B, S, H]", ("io",), "Given exactly with fused_residual_add.", "None"),
    Argument("fused_norm_type", "", "", NORMS, "RMS_NORM_SKIP_GAMMA is CTE only.", "NormType.NO_NORM"),
    Argument(
        "gamma_norm_weights", "hbm", "[1, H]", FLOATS, "Given exactly with RMS_NORM and LAYER_NORM.", "None",
    ),
    Argument("layer_norm_bias", "hbm", "[1, H]", FLOATS, "beta; only with LAYER_NORM.", "None"),
    Argument("norm_eps", "", "", ("finite, >= 0",), "Added to the mean square or variance.", "1e-6"),
    Argument(
        "hidden_actual", "", "", ("None", "1..H"),
        "RMSNorm divides by it; the sum runs over all H columns.", "None",
    ),
    Argument("fused_rope", "", "", _BOOL, "CTE only.", "False"),
    Argument("cos_cache", "hbm", "[B, S, d_head]", FLOATS, "Given exactly with fused_rope.", "None"),
    Argument(
        "sin_cache", "hbm", "[B, S, d_head]", FLOATS,
        "Given exactly with fused_rope; the first half of d_head is read.", "None",
    ),
    Argument("d_head", "", "", ("int", "None"), "Needed by NBSd, RoPE, STATIC and the KV cache.", "None"),
    Argument("num_q_heads", "", "", ("int", "None"), "Needed by RoPE, STATIC and the KV cache.", "None"),
    Argument("num_kv_heads", "", "", ("int", "None"), "Needed by RoPE, STATIC and the KV cache.", "None"),
    Argument(
        "k_cache", "hbm", "[B, max_seq_len, kv_dim]; use_block_kv [num_blocks, block_size, kv_dim]",
        tuple(KV_DTYPES), "Updated in place. CTE only.", "None",
    ),
    Argument("v_cache", "hbm", "as k_cache", tuple(KV_DTYPES), "Updated in place. CTE only.", "None"),
    Argument("k_scale", "hbm", "[128, 1], rows identical", ("float32",), "K is divided by it.", "None"),
    Argument("v_scale", "hbm", "[128, 1], rows identical", ("float32",), "V is divided by it.", "None"),
    Argument("fp8_max", "", "", ("finite",), "By default the largest value of kv_dtype.", "None"),
    Argument("fp8_min", "", "", ("finite",), "By default -fp8_max.", "None"),
    Argument("kv_dtype", "", "", tuple(KV_DTYPES), "The dtype of the caches.", "None"),
    Argument("use_block_kv", "", "", _BOOL, "Caches in blocks, rows by slot_mapping.", "False"),
    Argument("block_size", "", "", ("int", "None"), "Given exactly with use_block_kv.", "None"),
    Argument(
        "slot_mapping", "hbm", "[B, S]", ("int32",),
        "Row of each token in the caches, -1 to skip it; given exactly with use_block_kv.", "None",
    ),
    Argument("store_output_in_sbuf", "", "", ("False",), "Not supported.", "False"),
    Argument("sbm", "", "", ("None", "SbufManager"), "Places tiles, changes no bit.", "None"),
    Argument("use_auto_allocation", "", "", _BOOL, "Placement of tiles, changes no bit.", "False"),
    Argument("load_input_with_DMA_transpose", "", "", _BOOL, "How CTE loads, changes no bit.", "True"),
    Argument("is_input_swizzled", "", "", _BOOL, "MX only: input in the order of the MX operands.", "False"),
)  # fmt: skip

RESULTS = (
    Result("out", "hbm", "[B, S, I]", "io; CTE STATIC bfloat16", "BSD, no KV cache"),
    Result("out", "hbm", "[I/d_head, B, S, d_head]", "io; CTE STATIC bfloat16", "NBSd"),
    Result("out", "hbm", "[B, S, num_q_heads * d_head]", "io", "KV cache"),
    Result("k_cache", "hbm", "as given", "kv_dtype", "KV cache"),
    Result("v_cache", "hbm", "as given", "kv_dtype", "KV cache"),
    Result("fused_hidden", "hbm", "[B, S, H]", "io", "TKG with fused_residual_add"),
)  # fmt: skip
