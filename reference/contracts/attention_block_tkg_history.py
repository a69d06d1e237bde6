"""What the contract of `attention_block_tkg` decides, and the defects of implementations its tests look for."""

from __future__ import annotations

from reference.contract import Decision, Defect

DECISIONS = (
    Decision(
        "AB-D1", "Parameters with a default come last.", "The printed order is not legal Python; 2.29 did the same.",
    ),
    Decision(
        "AB-D2",
        "The order is head norm, RoPE, head norm, attention, cache update; attention reads the caches as they were "
        "before the call, on every core.",
        "The page's flow line says so; its step list swaps RoPE and the norm, and update and attention. The two "
        "agree wherever the mask drops the slots that are written.",
    ),
    Decision(
        "AB-D3", "Index 0xFFFFFFFF writes nothing, in every layout.",
        "The page names no layout; public code skips only in block caches (AB1).",
    ),
    Decision("AB-D4", "B*S*q <= 128 is enforced.", "The page requires it; public tests go beyond."),
    Decision(
        "AB-D5", "softmax_scale None is d**-0.5 also with quantized keys; nothing is dequantized.",
        "The page; later releases fold 1/k_scale into the default (AB19).",
    ),
    Decision(
        "AB-D6", "Masked scores are dropped by selection.",
        "The page adds -inf: the same for finite scores, and selection also drops NaN and +inf.",
    ),
    Decision(
        "AB-D7", "Arguments that the call cannot use are refused: cos without sin, k_scale without v_scale, gamma, "
        "W_Q, W_K, kv_cache_update_idx, bias_out and scales beside a mode that has no use for them. Accepted without "
        "effect are X_hidden_dim_actual and every eps beside a norm that is off, sink and softmax_scale with "
        "skip_attention.",
        "An option that is not honoured must not be ignored in silence. The exceptions are constants of a layer: a "
        "serving stack passes them whatever it switches off for debugging, none of them asks for a stage, and two of "
        "the eps have no value that stands for none.",
    ),
    Decision(
        "AB-D8", "Head norms take every legal d; RoPE takes 64 and 128.",
        "Public code asserts 128 for the norms without need; the halves of RoPE start at partitions 32 and 64.",
    ),
    Decision("AB-D9", "X in SBUF is never written.", "Public code overwrites it (AB34); no caller asks for that."),
    Decision(
        "AB-D10", "Interleaved RoPE keeps NaN and infinity within their pair.",
        "Public code permutes by a matmul, where 0 * inf spreads them; the layouts must agree.",
    ),
    Decision(
        "AB-D11", "kv_cache_update_idx is [B, 1], the first of S consecutive slots, in a block cache of one block, or "
        "[B, S], a slot per token in any order, and 0xFFFFFFFF skips that token alone.",
        "The releases of the page take the first form, later ones the second, and they do not contradict. One index "
        "per batch cannot name rows of two blocks: refused, where public code runs into the physically next one (AB2).",
    ),
    Decision(
        "AB-D12", "Rows past the cache are refused, in flat caches past the batch's own slots.",
        "Public code spills into the next batch or channel (AB26).",
    ),
    Decision("AB-D13", "rmsnorm_X_eps None is 1e-3.", "The page."),
    Decision(
        "AB-D14", "4-D caches have their head axis at 1 (flat), or at 2 or 1 (blocks; the size 1 tells), and come back "
        "as they were.",
        "The releases of the page's signature have 2 for blocks, later ones 1; with block_len 1 both are one shape.",
    ),
    Decision(
        "AB-D15", "skip_attention gives the queries unscaled, [d, B*q*S] where there is no projection.",
        "The page says only that attention is skipped; this is the public debug path.",
    ),
    Decision(
        "AB-D16", "ROW quantization is allowed at both projections; flash tiling above 8192 keys is part of it.",
        "Later than the page, and the stages have both.",
    ),
    Decision("AB-D17", "float16 works in every layout.", "The page supports it; one release refuses it (AB22)."),
    Decision("AB-D18", "More than 128 tokens are refused.", "Follows from the page's limit."),
)  # fmt: skip

DEFECTS = (
    Defect("AB1", "skip index ignored in flat caches, or batch b-1's last slot written",
           "flat, S=1, B>=2, one index 0xFFFFFFFF", "comment in public code"),
    Defect("AB2", "rows across a block boundary go to the physically next block",
           "[B, S]: rows across a boundary, the next block elsewhere; [B, 1]: refused", "public tracker"),
    Defect("AB3", "skip writes anyway in block caches", "last batch 0xFFFFFFFF, all bytes compared", "public tests"),
    Defect("AB4", "K and V swapped between cores, or only one cache updated", "LNC 1 and 2", "fact sheet 5"),
    Defect("AB5", "wrong batch slices of new V with blocks", "block, S > resized block_len, no multiple, B >= 2",
           "release notes 2.28"),
    Defect("AB6", "new tokens attended twice or not at all", "empty and full caches, sentinels in stale slots",
           "fact sheet 4.5"),
    Defect("AB7", "masked slots leak through 0 * NaN", "NaN and inf in all unused slots", "fact sheet 13"),
    Defect("AB8", "tile of an inactive block left unset", "unused table entries, poisoned memory", "release 2.28"),
    Defect("AB9", "NaN after fully masked leading flash tiles", "LNC1, S_ctx=24576, nothing cached", "fact sheet 13"),
    Defect("AB10", "query row that keeps nothing", "mask column all 0: NaN there, nowhere else", "fact sheet 13"),
    Defect("AB11", "block mask not permuted, or with another block length", "block_len 32, S_ctx=1024, LNC 1 and 2",
           "fact sheet 4.5"),
    Defect("AB12", "another default eps", "rmsnorm_X_eps=None with tiny X", "fact sheet 1"),
    Defect("AB13", "mean over padding", "X_hidden_dim_actual below H", "fact sheet 6.1"),
    Defect("AB14", "W_Q used for K", "distinct weights", "fact sheet 6.3"),
    Defect("AB15", "sign, layout or head broadcast of RoPE", "permuted channels, interleaved against contiguous",
           "fact sheet 6.4"),
    Defect("AB16", "cos without sin", "refused", "fact sheet 1"),
    Defect("AB17", "softmax_scale applied twice, to K, or under skip_attention", "scales 1, 0.05; skip_attention",
           "fact sheet 4.6"),
    Defect("AB18", "KV scale divided, clamped at 448, clamped after the cast, not broadcast",
           "k_scale 104.3, values beyond 240, scales of 1 and 128 rows", "fact sheet 6.5"),
    Defect("AB19", "scores dequantized", "quantized KV, softmax_scale None, k_scale not 1", "fact sheet 6.5"),
    Defect("AB20", "attention sees unquantized new K, V", "quantized KV, empty cache", "fact sheet 6.5"),
    Defect("AB21", "float16 overflow of raw sums", "float16, STATIC, large sums: infinity here too", "fact sheet 6.2"),
    Defect("AB22", "float16 refused in the update", "float16, flat, rows of keys", "release 2.28"),
    Defect("AB23", "another number of roundings in QKV", "T = 32, 33, 64, 65, remainder tiles, bias", "fact sheet 6.2"),
    Defect("AB24", "bias counted on both cores", "LNC 2, zero weights", "fact sheet 6.2"),
    Defect("AB25", "reads beyond S_ctx, wrong batch stride", "S_ctx < S_max, B >= 2", "public tests"),
    Defect("AB26", "rows past the slots of a batch", "index S_max-1, S=2: refused", "fact sheet 7"),
    Defect("AB27", "row index through float32", "B*S_max above 2**24", "fact sheet 7"),
    Defect("AB28", "update_cache=False touches the caches", "bytes compared", "fact sheet 4.6"),
    Defect("AB29", "4-D caches come back 3-D, or their head axis is mixed up",
           "4-D caches, of blocks with either axis", "fact sheet 4.4"),
    Defect("AB30", "heads of different requests mixed", "B >= 2, q >= 2, one-hot heads", "release 2.32"),
    Defect("AB31", "order of transposed_out, shard of out_in_sb", "LNC 2, both flags", "fact sheet 4.6"),
    Defect("AB32", "runs differ", "repeated runs, bits compared", "release notes 2.28, 2.30"),
    Defect("AB33", "sink counted once per core, or left out of the maximum", "small and large sinks, LNC 1 and 2",
           "release notes 2.30"),
    Defect("AB34", "X in SBUF changed", "the same tile twice", "fact sheet 4.1"),
    Defect("AB35", "paths for few and many tokens differ; eps in FP8", "one all-zero token; T > 128 refused",
           "fact sheet 10"),
    Defect("AB36", "positional arguments shift between releases", "keywords only; signature test", "release notes"),
)  # fmt: skip
