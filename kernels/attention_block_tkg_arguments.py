"""Sizes of a call of attention_block_tkg, and what the kernel relies on, asserted before anything is allocated.

The host-side entry refuses the same calls with better words, and those whose values (indices, block ids) are illegal.
"""

import nki.language as nl

from kernels.common_types import QuantizationType

#: Slots of a flat cache hold one head, as an axis of size 1 or as none.
P = 128


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
    S_ctx, B, q, S = attention_mask.shape
    d = V_cache.shape[len(V_cache.shape) - 1]
    H = W_qkv.shape[0]
    rank = len(V_cache.shape)
    block_len = V_cache.shape[1] if blocks else 0
    S_max = S_ctx if blocks else V_cache.shape[rank - 2]
    return BlockShape(B=B, S=S, H=H, q=q, d=d, S_ctx=S_ctx, S_max=S_max, block_len=block_len, n=n, prg=prg)


def check_sizes(shape, X, W_qkv):
    """Limits of sizes, and the shapes of what is projected."""
    c = shape
    tokens = c.B * c.S
    if nl.is_sbuf(X.buffer):
        assert X.shape == (P, tokens, c.H // P), "X in SBUF must be [128, B*S, H/128]"
    else:
        assert X.shape == (c.B, c.S, c.H), "X must be [B, S, H]"
    assert X.dtype == nl.bfloat16 or X.dtype == nl.float16, "X must be bfloat16 or float16"
    assert c.d % 2 == 0 and c.d <= P, "d must be even and at most 128"
    assert tokens * c.q <= P, "B*S*q must be at most 128"
    assert c.H <= 24576 and c.H % P == 0 and (c.H // P) % c.n == 0, "H must be <= 24576, a multiple of 128 per core"
    assert W_qkv.shape[1] == c.d * (c.q + 2), "W_qkv must be [H, d*(q+2)]"
    assert W_qkv.shape[1] <= 4096, "d*(q+2) must be at most 4096"
    assert c.S <= c.S_ctx and c.S_ctx <= c.S_max, "S <= S_ctx <= S_max must hold"


def check_quantization(kind, weight, weight_scale, input_scale):
    """Scales are there exactly where the mode has them."""
    none = kind == QuantizationType.NONE
    static = kind == QuantizationType.STATIC
    assert none or static or kind == QuantizationType.ROW, "quantization must be NONE, STATIC or ROW"
    assert (weight_scale == None) == none, "weight_dequant_scale is given exactly when quantized"
    assert (input_scale != None) == static, "input_dequant_scale is given exactly in STATIC"
    if weight != None:
        assert (weight.dtype == nl.float8_e4m3) == (not none), "weights are float8_e4m3 exactly when quantized"


def check_heads(shape, gamma, norm_enabled, cos, sin, post_enabled, W_Q, W_K):
    """Options of the norms and of RoPE."""
    assert (gamma != None) == norm_enabled, "rmsnorm_X_gamma is given exactly with rmsnorm_X_enabled"
    assert (cos == None) == (sin == None), "cos and sin are given both or neither"
    if cos != None:
        table = (shape.d // 2, shape.B, shape.S)
        assert cos.shape == table and sin.shape == table, "cos and sin must be [d/2, B, S]"
        assert cos.dtype == sin.dtype, "cos and sin must have one dtype"
        assert shape.d == 64 or shape.d == P, "RoPE needs d of 64 or 128"
    assert post_enabled or (W_Q == None and W_K == None), "head weights belong to rmsnorm_QK_post_rope_enabled"


def check_caches(shape, io, K_cache, V_cache, K_cache_transposed, blocks, k_scale, v_scale, update_cache, idx):
    """Layout and dtype of the caches, and what updating them needs."""
    assert (k_scale == None) == (v_scale == None), "k_scale and v_scale are given both or neither"
    dtype = io if k_scale == None else nl.float8_e4m3
    assert K_cache.dtype == dtype and V_cache.dtype == dtype, "caches are float8_e4m3 with both scales, else like X"
    assert len(K_cache.shape) == len(V_cache.shape), "K_cache and V_cache must have the same rank"
    assert not (blocks and K_cache_transposed), "a block cache holds keys as rows"
    assert (idx != None) == update_cache, "kv_cache_update_idx is given exactly with update_cache"
    if blocks:
        assert shape.S_ctx % shape.block_len == 0, "S_ctx must be a multiple of block_len"


def check_out(W_out, bias_out, kind, transposed_out):
    """Options of the output projection need one."""
    if W_out == None:
        assert bias_out == None and kind == QuantizationType.NONE, "without W_out no bias and no quantization"
        assert not transposed_out, "transposed_out needs W_out"
