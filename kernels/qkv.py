"""Fused QKV projection: residual, norm, projection, dequantisation, bias, RoPE and KV-cache store in one launch.

Few tokens go the way of decode (qkv_tkg), many, and everything that only context encoding offers, that of qkv_cte.
"""

import nki
import nki.language as nl

from kernels.common_types import NormType, QKVOutputLayout, QuantizationType
from kernels.lnc import program_sharding
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
    check_arguments(
        input, fused_qkv_weights, output_layout, bias, quantization_type, qkv_w_scale, qkv_in_scale,
        fused_residual_add, mlp_prev, attention_prev, fused_norm_type, gamma_norm_weights, layer_norm_bias,
        fused_rope, cos_cache, sin_cache, d_head, num_q_heads, num_kv_heads, store_output_in_sbuf,
    )
    check_unused(quantization_type, qkv_w_scale, qkv_in_scale, norm_eps, hidden_actual, input.shape[2])
    check_cache(k_cache, v_cache, k_scale, v_scale, fp8_max, fp8_min, kv_dtype, use_block_kv, block_size, slot_mapping)
    H = input.shape[2]
    divisor = H if hidden_actual == None else hidden_actual
    cached = k_cache != None or v_cache != None or k_scale != None or v_scale != None or use_block_kv
    if is_context_encoding(
        input, fused_rope, cached, fused_norm_type, quantization_type, is_input_swizzled
    ):
        return qkv_cte(
            input, fused_qkv_weights, output_layout, bias, quantization_type, qkv_w_scale, qkv_in_scale,
            fused_residual_add, mlp_prev, attention_prev, fused_norm_type, gamma_norm_weights, layer_norm_bias,
            norm_eps, divisor, fused_rope, cos_cache, sin_cache, d_head, num_q_heads, num_kv_heads, k_cache, v_cache,
            k_scale, v_scale, fp8_max, fp8_min, use_block_kv, slot_mapping, load_input_with_DMA_transpose,
            is_input_swizzled,
        )
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


def check_arguments(
    input, weights, output_layout, bias, quantization_type, w_scale, in_scale, fused_residual_add, mlp_prev,
    attention_prev, norm_type, gamma, beta, fused_rope, cos_cache, sin_cache, d_head, num_q_heads, num_kv_heads,
    store_output_in_sbuf,
):
    """What both modes rely on; the host-side entry states the rules with more words."""
    n, prg = program_sharding()
    assert len(input.shape) == 3, "input must be [B, S, H]"
    B, S, H = input.shape
    I = weights.shape[1]
    rows = H // 4 if quantization_type == QuantizationType.MX else H
    assert weights.shape[0] == rows, "fused_qkv_weights must be [H, I], with MX [H/4, I]"
    assert H <= 24576 and H % 128 == 0, "H must be at most 24576 and a multiple of 128"
    assert I <= 4096, "I must be at most 4096"
    assert not store_output_in_sbuf, "store_output_in_sbuf is not supported"
    assert output_layout == QKVOutputLayout.BSD or output_layout == QKVOutputLayout.NBSd, "layout must be BSD or NBSd"
    if output_layout == QKVOutputLayout.NBSd:
        assert d_head == 128 and I % 128 == 0, "NBSd needs d_head 128"
    assert bias == None or bias.shape == (1, I), "bias must be [1, I]"
    residual = mlp_prev != None and attention_prev != None
    none = mlp_prev == None and attention_prev == None
    assert (fused_residual_add and residual) or (not fused_residual_add and none), "residual needs both tensors"
    weighted = norm_type == NormType.RMS_NORM or norm_type == NormType.LAYER_NORM
    assert weighted == (gamma != None), "gamma belongs to RMS_NORM and LAYER_NORM"
    assert beta == None or norm_type == NormType.LAYER_NORM, "layer_norm_bias belongs to LAYER_NORM"
    assert fused_rope == (cos_cache != None and sin_cache != None), "cos and sin belong to fused_rope"
    if d_head != None and num_q_heads != None and num_kv_heads != None:
        assert (num_q_heads + 2 * num_kv_heads) * d_head == I, "the heads must fill I"
    if quantization_type == QuantizationType.STATIC:
        assert w_scale != None and in_scale != None, "STATIC needs qkv_w_scale and qkv_in_scale"
        assert d_head != None and num_q_heads != None and num_kv_heads != None, "STATIC needs the head sizes"
    if quantization_type == QuantizationType.ROW:
        assert w_scale != None and in_scale == None, "ROW needs qkv_w_scale alone"
        assert input.dtype != nl.float32, "float32 multiplies only with float32"


def check_unused(quantization_type, w_scale, in_scale, norm_eps, hidden_actual, H):
    """What a mode cannot use is refused, never ignored."""
    if quantization_type == QuantizationType.NONE:
        assert w_scale == None and in_scale == None, "scales belong to a quantization"
    if quantization_type == QuantizationType.MX:
        assert w_scale != None and in_scale == None, "MX needs qkv_w_scale alone"
    assert norm_eps >= 0.0, "norm_eps must not be negative"
    assert hidden_actual == None or (hidden_actual >= 1 and hidden_actual <= H), "hidden_actual must be 1 to H"


def check_cache(
    k_cache, v_cache, k_scale, v_scale, fp8_max, fp8_min, kv_dtype, use_block_kv, block_size, slot_mapping
):
    """A KV cache comes whole, in fp8 and with limits its dtype has; without one none of its options may be there."""
    if k_cache == None and v_cache == None and k_scale == None and v_scale == None and not use_block_kv:
        assert fp8_max == None and fp8_min == None and kv_dtype == None, "fp8 limits and kv_dtype belong to a KV cache"
        assert block_size == None and slot_mapping == None, "block_size and slot_mapping belong to use_block_kv"
        return
    whole = k_cache != None and v_cache != None and k_scale != None and v_scale != None
    assert whole, "a KV cache needs both caches and both scales"
    largest = 0.0
    if k_cache.dtype == nl.float8_e4m3:
        largest = 240.0
    if k_cache.dtype == nl.float8_e5m2:
        largest = 57344.0
    if k_cache.dtype == nl.float8_e4m3fn:
        largest = 448.0
    assert largest > 0.0 and v_cache.dtype == k_cache.dtype, "the caches must be fp8 of one kind"
    upper = largest if fp8_max == None else fp8_max
    lower = -upper if fp8_min == None else fp8_min
    assert lower <= upper, "fp8_min must not exceed fp8_max"
    assert upper <= largest and lower >= -largest, "fp8_max and fp8_min must lie in the range of the cache's dtype"
    if use_block_kv:
        assert block_size != None and slot_mapping != None, "use_block_kv needs block_size and slot_mapping"
