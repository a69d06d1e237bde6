"""What the contract of `qkv` decides, and the defects of implementations that its tests look for."""

from __future__ import annotations

from reference.contract import Decision, Defect

DECISIONS = (
    Decision(
        "Q1", "Signature of release 2.28, arithmetic of 2.29; a CTE-only option is served by CTE.",
        "The published page fixes names; 2.29 is the newest arithmetic known in full. Dispatch of 2.28 ignores "
        "B and drops the KV cache of short calls.",
    ),
    Decision(
        "Q2", "H <= 24576, I <= 4096 and d_head = 128 for NBSd bind both modes.",
        "The published page states them without naming a mode; public TKG accepts more.",
    ),
    Decision(
        "Q3", "float32 stays float32 in TKG and becomes bfloat16 in CTE.",
        "The page says converted; public TKG computes in float32, and nothing is lost by it.",
    ),
    Decision(
        "Q4", "LayerNorm in TKG keeps E[x^2] - E[x]^2, with a negative variance taken as 0.",
        "The rounding points are those of 2.29; the root of a negative number is right for no input.",
    ),
    Decision(
        "Q5", "ROW is refused in CTE, MX in TKG does not exist (it is served by CTE).",
        "Public CTE of 2.29 ignores the scales; the page says that MX is CTE only.",
    ),
    Decision(
        "Q6", "Quantized sums are rounded to io before they are scaled.",
        "Public behaviour; float16 overflows at 65504 raw units (QKV17).",
    ),
    Decision(
        "Q7", "Residual, norm, LNC=2 and an odd number of tokens are legal together.",
        "Public TKG refuses above 18 (RMS) and 10 (LN) tokens because it splits tokens; the result does not depend "
        "on that split.",
    ),
    Decision(
        "Q8", "All rows of a scale are identical; row 0 is read.",
        "Layouts read different rows, so differing rows have no common meaning.",
    ),
    Decision(
        "Q9", "Input and output are in HBM.", "The page: store_output_in_sbuf must be False.",
    ),
    Decision(
        "Q10", "Slot -1 leaves the caches alone; other slots must be rows of the cache, none twice.",
        "Padding of callers; public versions fail on -1, and the last writer of a slot is undefined.",
    ),
    Decision(
        "Q11", "An argument that the call cannot use is refused.",
        "Public versions ignore scales, caches and limits in silence (QKV3, QKV4, QKV5, QKV12).",
    ),
    Decision(
        "Q12", "STATIC in CTE keeps eps in float32 and bias, cos, sin and RoPE scratch in bfloat16.",
        "Public versions hold them in fp8 as a side effect (QKV6).",
    ),
    Decision(
        "Q13", "fp8_min defaults to -fp8_max.", "The page says so; public versions take the limit of kv_dtype.",
    ),
    Decision(
        "Q14", "Allocation and DMA hints are accepted in both modes.",
        "They change no bit, so there is nothing to honour.",
    ),
)  # fmt: skip

DEFECTS = (
    Defect("QKV1", "output left unwritten for large I", "CTE, H=4096, I=4096, S=256, sentinel in the output"),
    Defect("QKV2", "batch ignored by the dispatch", "B=64, S=4: 256 tokens"),
    Defect("QKV3", "KV cache dropped for short sequences", "S=64 with caches and scales"),
    Defect("QKV4", "ROW in CTE ignores the scales", "ROW, S=128"),
    Defect("QKV5", "block KV without scales, or one scale only, writes nothing", "use_block_kv, k_scale None"),
    Defect("QKV6", "STATIC CTE keeps eps, bias, cos, sin in fp8", "STATIC, RMS_NORM, an all-zero token"),
    Defect("QKV7", "STATIC CTE with odd H/128 reads a stale tile", "STATIC, H=384"),
    Defect("QKV8", "RoPE mislocates heads when d_head does not divide 512", "d=96, 6 heads"),
    Defect("QKV9", "second half of sin read", "halves of sin that differ"),
    Defect("QKV10", "swizzled MX drops the last rows", "swizzled, LNC=2, S=320"),
    Defect("QKV11", "fp8 input of MX scaled twice", "fp8 input with MX; refused here"),
    Defect("QKV12", "qkv_in_scale with MX applied to the output only", "MX with qkv_in_scale; refused here"),
    Defect("QKV13", "MX layout check follows the flag, the data another one", "MX with RMS_NORM, DMA flag"),
    Defect("QKV14", "second weight block of TKG MX loaded one row on", "TKG MX; not in this contract"),
    Defect("QKV15", "TKG MX drops 512 columns for odd H/512", "H=1536, LNC=2; not in this contract"),
    Defect("QKV16", "variance of LayerNorm negative", "TKG, LAYER_NORM, constant rows of 1000"),
    Defect("QKV17", "raw quantized sums overflow float16", "ROW, float16, weights of 240"),
    Defect("QKV18", "odd token counts refused", "residual, RMS_NORM, LNC=2, T=19; LAYER_NORM, T=11"),
    Defect("QKV19", "run-to-run differences on two cores", "TKG with residual and norm, ten runs"),
    Defect("QKV20", "flat KV cache reshaped across the batch", "B=2, S=256, caches"),
    Defect("QKV21", "transposed K cache mislaid", "transpose_k_cache; not in this contract"),
    Defect("QKV22", "slot_mapping of one dimension taken", "slot_mapping [S]; refused here"),
    Defect("QKV23", "slot -1 not skipped", "slot_mapping with -1"),
    Defect("QKV24", "token counts not divisible by 4 refused for MX", "MX, T=3"),
    Defect("QKV25", "output without query heads", "num_q_heads=0; refused here"),
    Defect("QKV26", "MX scale of a group one power too small", "group with its largest value in (1.75, 2) * 2^e"),
    Defect("QKV27", "double_row taken for a plain matmul", "STATIC in CTE"),
    Defect("QKV28", "columns beyond the tokens reach valid rows", "S=127 with NaN around"),
    Defect("QKV29", "V columns end at (2*nq + nkv)*d", "STATIC, num_q_heads < num_kv_heads"),
    Defect("QKV30", "bias scaled with the product", "ROW or STATIC with bias and a scale far from 1"),
    Defect("QKV31", "clamp at 448 in a format that ends at 240", "STATIC, input/in_scale in {248, 300, 448}"),
)  # fmt: skip
