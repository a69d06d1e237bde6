"""attention_block_tkg as a fused layer calls it, X on chip: HBM in, SBUF between, HBM out."""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.attention_block_tkg import attention_block_tkg
from kernels.lnc import program_sharding


@nki.jit
def attention_block_tkg_on_chip(
    X,
    X_hidden_dim_actual,
    rmsnorm_X_enabled,
    rmsnorm_X_eps,
    rmsnorm_X_gamma,
    W_qkv,
    bias_qkv,
    quantization_type_qkv,
    weight_dequant_scale_qkv,
    input_dequant_scale_qkv,
    rmsnorm_QK_pre_rope_enabled,
    rmsnorm_QK_pre_rope_eps,
    cos,
    sin,
    rope_contiguous_layout,
    rmsnorm_QK_post_rope_enabled,
    rmsnorm_QK_post_rope_eps,
    rmsnorm_QK_post_rope_W_Q,
    rmsnorm_QK_post_rope_W_K,
    K_cache_transposed,
    active_blocks_table,
    K_cache,
    V_cache,
    attention_mask,
    sink,
    update_cache,
    kv_cache_update_idx,
    W_out,
    bias_out,
    quantization_type_out,
    weight_dequant_scale_out,
    input_dequant_scale_out,
    transposed_out,
    out_in_sb,
    softmax_scale=None,
    k_scale=None,
    v_scale=None,
    skip_attention=False,
    X_in_sb=False,
    block=attention_block_tkg,
):
    """(out, K_out, V_out), all in HBM; an `out` that stays in SBUF comes stacked, one per core.

    With X_in_sb, X [128, B*S, H/128] is loaded into SBUF, and a fourth result is each core's tile after the call: it
    must be unchanged. Every argument is named: NKI has neither *args nor **kwargs.
    """
    n, prg = program_sharding()
    source = X
    if X_in_sb:
        source = nl.ndarray(X.shape, dtype=X.dtype, name="caller_X")
        nisa.dma_copy(dst=source, src=X)
    out, K_out, V_out = block(
        source, X_hidden_dim_actual, rmsnorm_X_enabled, rmsnorm_X_eps, rmsnorm_X_gamma, W_qkv, bias_qkv,
        quantization_type_qkv, weight_dequant_scale_qkv, input_dequant_scale_qkv, rmsnorm_QK_pre_rope_enabled,
        rmsnorm_QK_pre_rope_eps, cos, sin, rope_contiguous_layout, rmsnorm_QK_post_rope_enabled,
        rmsnorm_QK_post_rope_eps, rmsnorm_QK_post_rope_W_Q, rmsnorm_QK_post_rope_W_K, K_cache_transposed,
        active_blocks_table, K_cache, V_cache, attention_mask, sink, update_cache, kv_cache_update_idx, W_out, bias_out,
        quantization_type_out, weight_dequant_scale_out, input_dequant_scale_out, transposed_out, out_in_sb,
        softmax_scale=softmax_scale, k_scale=k_scale, v_scale=v_scale, skip_attention=skip_attention,
    )
    if out_in_sb:
        out = stacked(out, n, prg, "stacked_out")
    if not X_in_sb:
        return out, K_out, V_out
    return out, K_out, V_out, stacked(source, n, prg, "kept_X")


def stacked(tile, n, prg, name):
    """A tile of every core as [cores, ...] in HBM."""
    rows = nl.ndarray((n,) + tile.shape, dtype=tile.dtype, buffer=nl.shared_hbm, name=name)
    nisa.dma_copy(dst=rows[prg], src=tile)
    return rows
