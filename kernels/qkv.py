"""Fused QKV projection: residual, norm, projection, dequantisation, bias, RoPE and KV-cache store in one launch.

Few tokens go the way of decode (qkv_tkg), many, and everything that only context encoding offers, that of qkv_cte.
"""

import nki

from kernels.common_types import NormType, QKVOutputLayout, QuantizationType
from kernels.operand_checks import check_eps, check_flags
from kernels.qkv_arguments import (
    check_cache,
    check_context_encoding,
    check_decode,
    check_heads,
    check_norm,
    check_quantization,
    check_residual,
    check_sizes,
)
from kernels.qkv_cte import qkv_cte
from kernels.qkv_tkg import qkv_tkg

#: Longest sequence and most tokens of decode.
TKG_S_LIMIT = 96
TKG_TOKEN_LIMIT = 128


@nki.jit
def qkv(
    input,
    fused_qkv_weights,
    output_layout=QKVOutputLayout.BSD,
    bias=None,
    quantization_type=QuantizationType.NONE,
    qkv_w_scale=None,
    qkv_in_scale=None,
    fused_residual_add=False,
    mlp_prev=None,
    attention_prev=None,
    fused_norm_type=NormType.NO_NORM,
    gamma_norm_weights=None,
    layer_norm_bias=None,
    norm_eps=1e-6,
    hidden_actual=None,
    fused_rope=False,
    cos_cache=None,
    sin_cache=None,
    d_head=None,
    num_q_heads=None,
    num_kv_heads=None,
    k_cache=None,
    v_cache=None,
    k_scale=None,
    v_scale=None,
    fp8_max=None,
    fp8_min=None,
    kv_dtype=None,
    use_block_kv=False,
    block_size=None,
    slot_mapping=None,
    store_output_in_sbuf=False,
    sbm=None,
    use_auto_allocation=False,
    load_input_with_DMA_transpose=True,
    is_input_swizzled=False,
):
    """Project input [B, S, H] with fused_qkv_weights [H, I] (Q heads, K heads, V heads).

    Returns [B, S, I] (BSD) or [I/d, B, S, d] (NBSd); in decode with fused_residual_add the tuple (out, residual sum);
    with a KV cache the tuple (q [B, S, q columns], k_cache, v_cache), caches updated in place.
    """
    check_flags((
        fused_residual_add, fused_rope, use_block_kv, store_output_in_sbuf, use_auto_allocation,
        load_input_with_DMA_transpose, is_input_swizzled,
    ))
    assert not store_output_in_sbuf, "store_output_in_sbuf is not supported"
    check_eps(norm_eps, "norm_eps")
    check_sizes(input, fused_qkv_weights, bias, quantization_type)
    check_heads(
        input, fused_qkv_weights, output_layout, d_head, num_q_heads, num_kv_heads, fused_rope, cos_cache, sin_cache
    )
    check_quantization(
        input, fused_qkv_weights, quantization_type, qkv_w_scale, qkv_in_scale, d_head, num_q_heads, num_kv_heads
    )
    check_residual(input, fused_residual_add, mlp_prev, attention_prev)
    check_norm(input, fused_norm_type, gamma_norm_weights, layer_norm_bias, hidden_actual)
    check_cache(
        input, k_cache, v_cache, k_scale, v_scale, fp8_max, fp8_min, kv_dtype, use_block_kv, block_size, slot_mapping,
        d_head, num_kv_heads,
    )
    H = input.shape[2]
    divisor = H if hidden_actual == None else hidden_actual
    cached = k_cache != None or v_cache != None or k_scale != None or v_scale != None or use_block_kv
    if is_context_encoding(
        input, fused_rope, cached, fused_norm_type, quantization_type, is_input_swizzled
    ):
        check_context_encoding(input, quantization_type)
        return qkv_cte(
            input, fused_qkv_weights, output_layout, bias, quantization_type, qkv_w_scale, qkv_in_scale,
            fused_residual_add, mlp_prev, attention_prev, fused_norm_type, gamma_norm_weights, layer_norm_bias,
            norm_eps, divisor, fused_rope, cos_cache, sin_cache, d_head, num_q_heads, num_kv_heads, k_cache, v_cache,
            k_scale, v_scale, fp8_max, fp8_min, use_block_kv, slot_mapping, load_input_with_DMA_transpose,
            is_input_swizzled,
        )
    check_decode(input, fused_qkv_weights, bias, quantization_type)
    return qkv_tkg(
        input, fused_qkv_weights, output_layout, bias, quantization_type, qkv_w_scale, qkv_in_scale,
        fused_residual_add, mlp_prev, attention_prev, fused_norm_type, gamma_norm_weights, layer_norm_bias, norm_eps,
        divisor, d_head, num_q_heads, num_kv_heads,
    )


def is_context_encoding(input, fused_rope, cached, norm_type, quantization_type, is_input_swizzled):
    """Which of the two ways a call goes: by its sizes and options, never by values."""
    B, S, H = input.shape
    if S > TKG_S_LIMIT or B * S > TKG_TOKEN_LIMIT or fused_rope or cached or is_input_swizzled:
        return True
    return norm_type == NormType.RMS_NORM_SKIP_GAMMA or quantization_type == QuantizationType.MX
