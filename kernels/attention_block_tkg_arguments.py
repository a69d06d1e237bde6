"""Sizes of a call of attention_block_tkg, and what the kernel relies on, asserted before anything is allocated.

The host-side entry refuses the same calls with better words, and those whose values (indices, block ids) are illegal.
"""

import nki.language as nl

from kernels.common_types import QuantizationType
from kernels.operand_checks import check_eps, check_operand, check_scale, is_float, is_number

P = 128
#: Columns of W_qkv, and q*H of a transposed output projection.
I_LIMIT, NH_LIMIT = 4096, 163840
#: Output columns per core that a projection which is not transposed takes at a time.
BANK = 512


class BlockShape(nl.NKIObject):
    """B batches of S new tokens, q query heads of d channels, H; S_ctx slots attended to of S_max; cores and own id.

    block_len is 0 for flat caches.
    """

    B: int = 0
    S: int = 0
    H: int = 0
    q: int = 0
    d: int = 0
    S_ctx: int = 0
    S_max: int = 0
    block_len: int = 0
    n: int = 1
    prg: int = 0


def block_shape(X, W_qkv, attention_mask, V_cache, blocks, n, prg):
    """The sizes that the tensors of a call imply."""
    assert len(attention_mask.shape) == 4, "attention_mask must be [S_ctx, B, q, S]"
    assert len(W_qkv.shape) == 2, "W_qkv must be [H, d*(q+2)]"
    rank = len(V_cache.shape)
    assert rank == 3 or rank == 4, "the caches must have 3 dimensions, or 4 with one head"
    S_ctx, B, q, S = attention_mask.shape
    block_len = 0
    if blocks:
        # An axis of one head stands before or behind that of rows.
        block_len = V_cache.shape[1] if rank == 3 else V_cache.shape[1] * V_cache.shape[2]
    S_max = S_ctx if blocks else V_cache.shape[rank - 2]
    return BlockShape(
        B=B, S=S, H=W_qkv.shape[0], q=q, d=V_cache.shape[rank - 1], S_ctx=S_ctx, S_max=S_max, block_len=block_len,
        n=n, prg=prg,
    )


def is_io(dtype):
    """Whether a dtype is one that stages may hand on."""
    return dtype == nl.bfloat16 or dtype == nl.float16


def check_sizes(shape, X, W_qkv, attention_mask):
    """Limits of sizes, and what is projected and who attends to whom."""
    c = shape
    tokens = c.B * c.S
    assert c.B > 0 and c.S > 0 and c.H > 0, "B, S and H must be at least 1"
    assert c.q > 0 and c.d > 0 and c.S_ctx > 0, "q, d and S_ctx must be at least 1"
    if nl.is_sbuf(X.buffer):
        assert X.shape == (P, tokens, c.H // P), "X in SBUF must be [128, B*S, H/128]"
    else:
        assert X.shape == (c.B, c.S, c.H), "X must be [B, S, H]"
    assert is_io(X.dtype), "X must be bfloat16 or float16"
    assert c.d % 2 == 0 and c.d <= P, "d must be even and at most 128"
    assert tokens * c.q <= P, "B*S*q must be at most 128"
    assert c.H <= 24576 and c.H % P == 0 and (c.H // P) % c.n == 0, "H must be <= 24576, a multiple of 128 per core"
    assert W_qkv.shape[1] == c.d * (c.q + 2), "W_qkv must be [H, d*(q+2)]"
    assert W_qkv.shape[1] <= I_LIMIT, "d*(q+2) must be at most 4096"
    assert c.S <= c.S_ctx and c.S_ctx <= c.S_max, "S <= S_ctx <= S_max must hold"
    # Two cores share the keys of a context that is long enough.
    tiles = 2 * P if c.n == 2 and c.S_ctx >= 2 * P else P
    assert c.S_ctx % tiles == 0, "S_ctx must be a multiple of 128, from 256 on of 256 on two cores"
    kept = attention_mask.dtype
    assert is_float(kept) or kept == nl.uint8 or kept == nl.int32, "attention_mask must be uint8, int32 or a float"


def check_numbers(shape, hidden_actual, X_eps, pre_eps, post_eps, softmax_scale):
    """Scalars whose values would divide by nothing, or make every result NaN."""
    whole = hidden_actual == None or (hidden_actual >= 1 and hidden_actual <= shape.H)
    assert whole, "X_hidden_dim_actual must be None or 1 to H"
    if X_eps != None:
        check_eps(X_eps, "rmsnorm_X_eps")
    check_eps(pre_eps, "rmsnorm_QK_pre_rope_eps")
    check_eps(post_eps, "rmsnorm_QK_post_rope_eps")
    finite = softmax_scale == None or is_number(softmax_scale)
    assert finite, "softmax_scale must be None or finite in float32"


def check_quantization(kind, weight, weight_scale, input_scale, static_columns, one_row):
    """Scales are there exactly where the mode has them, on 128 rows or, with one_row, on 1.

    The weight has one of static_columns per tensor in STATIC, one per column in ROW.
    """
    none = kind == QuantizationType.NONE
    static = kind == QuantizationType.STATIC
    assert none or static or kind == QuantizationType.ROW, "quantization must be NONE, STATIC or ROW"
    assert (weight_scale == None) == none, "weight_dequant_scale is given exactly when quantized"
    assert (input_scale != None) == static, "input_dequant_scale is given exactly in STATIC"
    assert (weight.dtype == nl.float8_e4m3) == (not none), "weights are float8_e4m3 exactly when quantized"
    if not none:
        columns = static_columns if static else weight.shape[1]
        check_scale(weight_scale, columns, one_row, "weight_dequant_scale")
        assert weight_scale.dtype == nl.float32, "weight_dequant_scale must be float32"
    if static:
        check_scale(input_scale, 1, one_row, "input_dequant_scale")
        assert input_scale.dtype == nl.float32, "input_dequant_scale must be float32"


def check_qkv(shape, io, W_qkv, bias, gamma, norm_enabled):
    """Operands of the norm and of the first projection."""
    assert (gamma != None) == norm_enabled, "rmsnorm_X_gamma is given exactly with rmsnorm_X_enabled"
    check_operand(gamma, (1, shape.H), "rmsnorm_X_gamma")
    assert W_qkv.dtype == io or W_qkv.dtype == nl.float8_e4m3, "W_qkv must have the dtype of X, or be quantized"
    check_operand(bias, (1, W_qkv.shape[1]), "bias_qkv")
    assert bias == None or bias.dtype == io, "bias_qkv must have the dtype of X"


def check_heads(shape, cos, sin, post_enabled, W_Q, W_K, sink):
    """Operands of the head norms, of RoPE and of the softmax."""
    assert (cos == None) == (sin == None), "cos and sin are given both or neither"
    check_operand(cos, (shape.d // 2, shape.B, shape.S), "cos")
    check_operand(sin, (shape.d // 2, shape.B, shape.S), "sin")
    if cos != None:
        assert cos.dtype == sin.dtype, "cos and sin must have one dtype"
        assert shape.d == 64 or shape.d == P, "RoPE needs d of 64 or 128"
    assert post_enabled or (W_Q == None and W_K == None), "head weights belong to rmsnorm_QK_post_rope_enabled"
    check_operand(W_Q, (1, shape.d), "rmsnorm_QK_post_rope_W_Q")
    check_operand(W_K, (1, shape.d), "rmsnorm_QK_post_rope_W_K")
    check_operand(sink, (shape.q, 1), "sink")


def check_caches(shape, io, K_cache, V_cache, K_cache_transposed, table, k_scale, v_scale):
    """Layout and dtype of the caches, and the scales of what goes into them."""
    c = shape
    assert (k_scale == None) == (v_scale == None), "k_scale and v_scale are given both or neither"
    if k_scale != None:
        check_scale(k_scale, 1, True, "k_scale")
        check_scale(v_scale, 1, True, "v_scale")
        assert is_float(k_scale.dtype), "k_scale must be float32, bfloat16 or float16"
        assert is_float(v_scale.dtype), "v_scale must be float32, bfloat16 or float16"
    dtype = io if k_scale == None else nl.float8_e4m3
    assert K_cache.dtype == dtype and V_cache.dtype == dtype, "caches are float8_e4m3 with both scales, else like X"
    assert len(K_cache.shape) == len(V_cache.shape), "K_cache and V_cache must have the same rank"
    if table != None:
        check_blocks(c, K_cache, V_cache, K_cache_transposed, table)
        return
    head = (1,) if len(V_cache.shape) == 4 else ()
    rows, columns = (c.S_max, c.d), (c.d, c.S_max)
    assert V_cache.shape == (c.B,) + head + rows, "V_cache must be [B, S_max, d] or [B, 1, S_max, d]"
    assert K_cache.shape == (c.B,) + head + (columns if K_cache_transposed else rows), (
        "K_cache must be as V_cache, with K_cache_transposed its last two axes exchanged"
    )


def check_blocks(shape, K_cache, V_cache, K_cache_transposed, table):
    """Layout of block caches, and the table that names their blocks."""
    assert not K_cache_transposed, "a block cache holds keys as rows"
    assert K_cache.shape == V_cache.shape, "block caches of keys and values must have one shape"
    one = len(V_cache.shape) == 3 or V_cache.shape[1] == 1 or V_cache.shape[2] == 1
    assert one, "a block cache of rank 4 must have one head, at axis 1 or 2"
    assert shape.block_len > 0 and shape.S_ctx % shape.block_len == 0, "S_ctx must be a multiple of block_len"
    entries = (shape.B, shape.S_ctx // shape.block_len)
    assert table.shape == entries, "active_blocks_table must be [B, S_ctx/block_len]"
    assert table.dtype == nl.uint32, "active_blocks_table must be uint32"


def check_update(shape, update_cache, idx):
    """Where new keys and values go."""
    assert (idx != None) == update_cache, "kv_cache_update_idx is given exactly with update_cache"
    if idx != None:
        whole = idx.shape == (shape.B, 1) or idx.shape == (shape.B, shape.S)
        assert whole, "kv_cache_update_idx must be [B, 1] or [B, S]"
        assert idx.dtype == nl.uint32, "kv_cache_update_idx must be uint32"


def check_out(shape, W_out, bias_out, kind, weight_scale, input_scale, transposed_out):
    """Options of the output projection need one; its operands and limits."""
    if W_out == None:
        assert bias_out == None and kind == QuantizationType.NONE, "without W_out no bias and no quantization"
        assert weight_scale == None and input_scale == None, "without W_out no scales of its quantization"
        assert not transposed_out, "transposed_out needs W_out"
        return
    assert W_out.shape == (shape.q * shape.d, shape.H), "W_out must be [q*d, H]"
    check_quantization(kind, W_out, weight_scale, input_scale, 1, False)
    assert is_io(W_out.dtype) or W_out.dtype == nl.float8_e4m3, "W_out must be bfloat16 or float16, or quantized"
    check_operand(bias_out, (1, shape.H), "bias_out")
    if transposed_out:
        assert shape.q * shape.H <= NH_LIMIT, "transposed_out needs q*H of at most 163840"
    else:
        assert shape.H % (BANK * shape.n) == 0, "without transposed_out H must be a multiple of 512 per core"
