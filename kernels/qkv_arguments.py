"""What qkv relies on, asserted before anything is allocated; the host-side entry states the rules with more words.

Options that context encoding alone has are checked there as well.
"""

import nki.language as nl

from kernels.common_types import NormType, QKVOutputLayout, QuantizationType
from kernels.item_size import item_size
from kernels.lnc import program_sharding
from kernels.operand_checks import check_operand, check_scale, is_float, is_number

P = 128


def check_sizes(input, weights, bias, quantization_type):
    """Shapes and dtypes of what is multiplied and added."""
    assert len(input.shape) == 3, "input must be [B, S, H]"
    B, S, H = input.shape
    assert B > 0 and S > 0 and H > 0, "input must not be empty"
    assert is_float(input.dtype), "input must be float32, bfloat16 or float16"
    rows = H // 4 if quantization_type == QuantizationType.MX else H
    whole = len(weights.shape) == 2 and weights.shape[0] == rows
    assert whole, "fused_qkv_weights must be [H, I], with MX [H/4, I]"
    assert H <= 24576 and H % P == 0, "H must be at most 24576 and a multiple of 128"
    I = weights.shape[1]
    assert I > 0 and I <= 4096, "I must be 1 to 4096"
    check_operand(bias, (1, I), "bias")


def check_heads(input, weights, output_layout, d_head, num_q_heads, num_kv_heads, fused_rope, cos_cache, sin_cache):
    """How the columns are divided, and the tables that rotate them."""
    B, S, H = input.shape
    I = weights.shape[1]
    assert output_layout == QKVOutputLayout.BSD or output_layout == QKVOutputLayout.NBSd, "layout must be BSD or NBSd"
    if output_layout == QKVOutputLayout.NBSd:
        assert d_head == P and I % P == 0, "NBSd needs d_head 128"
    assert d_head == None or d_head > 0, "d_head must be at least 1"
    assert num_q_heads == None or num_q_heads > 0, "num_q_heads must be at least 1"
    assert num_kv_heads == None or num_kv_heads > 0, "num_kv_heads must be at least 1"
    given = d_head != None and num_q_heads != None and num_kv_heads != None
    if given:
        assert (num_q_heads + 2 * num_kv_heads) * d_head == I, "the heads must fill I"
    tables = cos_cache != None and sin_cache != None
    none = cos_cache == None and sin_cache == None
    assert (fused_rope and tables) or (not fused_rope and none), "cos and sin belong to fused_rope"
    if fused_rope:
        assert given, "fused_rope needs the head sizes"
        check_operand(cos_cache, (B, S, d_head), "cos_cache")
        check_operand(sin_cache, (B, S, d_head), "sin_cache")
        assert cos_cache.dtype == sin_cache.dtype, "cos_cache and sin_cache must have one dtype"


def check_quantization(
    input, weights, quantization_type, w_scale, in_scale, d_head, num_q_heads, num_kv_heads
):
    """Scales that the mode needs are there, those that it cannot use are not; dtype of the weights."""
    I = weights.shape[1]
    fp8 = weights.dtype == nl.float8_e4m3
    none = quantization_type == QuantizationType.NONE
    static = quantization_type == QuantizationType.STATIC
    row = quantization_type == QuantizationType.ROW
    mx = quantization_type == QuantizationType.MX
    assert none or static or row or mx, "quantization_type must be NONE, STATIC, ROW or MX"
    if none:
        assert w_scale == None and in_scale == None, "scales belong to a quantization"
        assert is_float(weights.dtype), "fused_qkv_weights must be float32, bfloat16 or float16, or quantized"
    if static:
        assert w_scale != None and in_scale != None, "STATIC needs qkv_w_scale and qkv_in_scale"
        heads = d_head != None and num_q_heads != None and num_kv_heads != None
        assert heads, "STATIC needs the head sizes"
        check_scale(w_scale, 3, True, "qkv_w_scale")
        check_scale(in_scale, 1, True, "qkv_in_scale")
        assert in_scale.dtype == nl.float32, "qkv_in_scale must be float32"
    if row:
        assert w_scale != None and in_scale == None, "ROW needs qkv_w_scale alone"
        check_scale(w_scale, I, True, "qkv_w_scale")
        assert input.dtype != nl.float32, "float32 multiplies only with float32"
    if static or row:
        assert fp8, "weights of STATIC and ROW must be float8_e4m3"
        assert w_scale.dtype == nl.float32, "qkv_w_scale must be float32"
    if mx:
        packed = weights.dtype == nl.float8_e4m3fn_x4 or weights.dtype == nl.uint32
        assert packed, "weights of MX must be float8_e4m3fn_x4, or uint32 that holds it"
        assert w_scale != None and in_scale == None, "MX needs qkv_w_scale alone"
        assert w_scale.shape == (input.shape[2] // 32, I), "qkv_w_scale of MX must be [H/32, I]"
        assert item_size(w_scale.dtype) == 1, "qkv_w_scale of MX must be of bytes"


def check_residual(input, fused_residual_add, mlp_prev, attention_prev):
    """What is added to the input is like it."""
    residual = mlp_prev != None and attention_prev != None
    none = mlp_prev == None and attention_prev == None
    assert (fused_residual_add and residual) or (not fused_residual_add and none), "residual needs both tensors"
    if residual:
        assert mlp_prev.shape == input.shape and mlp_prev.dtype == input.dtype, "mlp_prev must be like input"
        alike = attention_prev.shape == input.shape and attention_prev.dtype == input.dtype
        assert alike, "attention_prev must be like input"


def check_norm(input, norm_type, gamma, beta, hidden_actual):
    """Weights that the norm needs are there, those that it cannot use are not; what it divides by."""
    H = input.shape[2]
    layer = norm_type == NormType.LAYER_NORM
    weighted = norm_type == NormType.RMS_NORM or layer
    plain = norm_type == NormType.NO_NORM or norm_type == NormType.RMS_NORM_SKIP_GAMMA
    assert weighted or plain, "the norm must be NO_NORM, RMS_NORM, LAYER_NORM or RMS_NORM_SKIP_GAMMA"
    assert weighted == (gamma != None), "gamma belongs to RMS_NORM and LAYER_NORM"
    assert beta == None or layer, "layer_norm_bias belongs to LAYER_NORM"
    check_operand(gamma, (1, H), "gamma_norm_weights")
    check_operand(beta, (1, H), "layer_norm_bias")
    assert hidden_actual == None or (hidden_actual >= 1 and hidden_actual <= H), "hidden_actual must be 1 to H"
    whole = hidden_actual == None or hidden_actual == H
    assert not layer or whole, "LAYER_NORM cannot leave out padding"


def check_cache(
    input, k_cache, v_cache, k_scale, v_scale, fp8_max, fp8_min, kv_dtype, use_block_kv, block_size, slot_mapping,
    d_head, num_kv_heads,
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
    assert k_cache.dtype == kv_dtype, "kv_dtype must be the dtype of the caches"
    check_scale(k_scale, 1, False, "k_scale")
    check_scale(v_scale, 1, False, "v_scale")
    assert k_scale.dtype == nl.float32 and v_scale.dtype == nl.float32, "k_scale and v_scale must be float32"
    upper = largest if fp8_max == None else fp8_max
    lower = -upper if fp8_min == None else fp8_min
    assert is_number(upper) and is_number(lower), "fp8_max and fp8_min must be finite"
    assert lower <= upper, "fp8_min must not exceed fp8_max"
    assert upper <= largest and lower >= -largest, "fp8_max and fp8_min must lie in the range of the cache's dtype"
    assert d_head != None and num_kv_heads != None, "a KV cache needs BSD and the head sizes"
    whole = len(k_cache.shape) == 3 and k_cache.shape[2] == num_kv_heads * d_head
    assert whole and v_cache.shape == k_cache.shape, "the caches must be alike, [., ., num_kv_heads * d_head]"
    if not use_block_kv:
        assert block_size == None and slot_mapping == None, "block_size and slot_mapping belong to use_block_kv"
        return
    assert block_size != None and slot_mapping != None, "use_block_kv needs block_size and slot_mapping"
    assert k_cache.shape[1] == block_size, "caches in blocks must be [num_blocks, block_size, kv_dim]"
    assert slot_mapping.shape == (input.shape[0], input.shape[1]), "slot_mapping must be [B, S]"
    assert slot_mapping.dtype == nl.int32, "slot_mapping must be int32"


def check_decode(input, weights, bias, quantization_type):
    """What decode alone asks for."""
    n, prg = program_sharding()
    H = input.shape[2]
    assert (H // P) % n == 0, "H/128 must be a multiple of the LNC size"
    assert bias == None or bias.dtype == input.dtype, "in decode bias must have the dtype of input"
    if quantization_type == QuantizationType.NONE:
        alike = (input.dtype == nl.float32) == (weights.dtype == nl.float32)
        assert alike, "float32 multiplies only with float32"


def check_context_encoding(input, quantization_type):
    """What MX, which context encoding alone has, asks for."""
    if quantization_type == QuantizationType.MX:
        assert input.shape[2] % 512 == 0, "MX needs H to be a multiple of 512"
        assert input.dtype != nl.float16, "MX needs a bfloat16 or float32 input"
