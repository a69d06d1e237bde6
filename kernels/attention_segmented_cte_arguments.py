"""What attention_segmented_cte relies on, asserted before anything is allocated.

The host-side entry refuses the same calls with better words, and those whose values (counts of tokens, block ids) are
illegal.
"""

import nki.language as nl

from kernels.operand_checks import P, check_flags, is_number
from kernels.segment_attention import KEY_TILE

#: Longest chunk, prior segment and window.
SECTION = 10240
#: Token positions and block rows pass through fp32.
TOKEN_LIMIT, ROW_LIMIT = 8388608, 16777216


def check_caches(k_cache, v_cache, k_pre_transposed):
    """Layout and dtype of the paged caches."""
    assert len(v_cache.shape) == 4, "v_cache must be [blocks, KV heads, block_size, d]"
    blocks, kv_heads, block_size, d = v_cache.shape
    assert blocks > 0 and kv_heads > 0 and d > 0, "the caches must not be empty"
    assert d <= P, "the head size must be at most 128"
    assert 4 <= block_size and block_size <= KEY_TILE, "block_size must be a power of two from 4 to 512"
    assert block_size & (block_size - 1) == 0, "block_size must be a power of two from 4 to 512"
    assert blocks * kv_heads < ROW_LIMIT, "blocks * KV heads must be below 2**24, as they pass through fp32"
    keys = (blocks * kv_heads, d, block_size) if k_pre_transposed else (blocks, kv_heads, block_size, d)
    assert k_cache.shape == keys, f"k_cache must be of shape {keys}, as v_cache and k_pre_transposed say"
    assert k_cache.dtype == v_cache.dtype, "both caches must have one dtype"
    narrow = v_cache.dtype == nl.float8_e4m3 or v_cache.dtype == nl.float8_e5m2
    assert narrow or v_cache.dtype == nl.bfloat16, "the caches must be bfloat16, float8_e4m3 or float8_e5m2"


def check_table(block_tables, block_size):
    """The table that names the pages of every sequence."""
    assert len(block_tables.shape) == 2, "block_tables must be [B, entries]"
    assert block_tables.shape[0] > 0 and block_tables.shape[1] > 0, "block_tables must not be empty"
    assert block_tables.dtype == nl.int32, "block_tables must be int32"
    tokens = block_tables.shape[1] * block_size
    assert tokens <= TOKEN_LIMIT, "the table must be for at most 2**23 tokens, whose positions pass through fp32"


def check_queries(q, v_cache, block_tables, tp_q, num_q_heads):
    """Rows of queries: a sequence and a head each."""
    kv_heads, d = v_cache.shape[1], v_cache.shape[3]
    assert len(q.shape) == 3, "q must be [B*H, S, d], without tp_q [B*H, d, S]"
    assert (q.shape[2] if tp_q else q.shape[1]) == d, "q and the caches must have one head size"
    assert q.dtype == nl.bfloat16 or q.dtype == nl.float32, "q must be bfloat16 or float32"
    assert num_q_heads > 0, "num_q_heads must be at least 1"
    assert q.shape[0] == block_tables.shape[0] * num_q_heads, "q must have a row per sequence and head"
    assert num_q_heads == 1 or num_q_heads % kv_heads == 0, "num_q_heads must be a multiple of the KV heads, or 1"


def check_lengths(seqlen, block_size, prior_seg_size, window, block_tables):
    """Tokens of the chunk, of a prior segment and of a window, 0 for none."""
    assert seqlen > 0 and prior_seg_size > 0, "the chunk and prior_seg_size must be at least 1 token"
    assert window >= 0, "sliding_window must be None or at least 0"
    assert seqlen % P == 0 and seqlen % block_size == 0, "the chunk must be a multiple of 128 and of block_size"
    assert prior_seg_size % block_size == 0, "prior_seg_size must be a multiple of block_size"
    assert window % block_size == 0, "sliding_window must be a multiple of block_size"
    assert max(seqlen, prior_seg_size, window) <= SECTION, "chunk, segment and window must be at most 10240 tokens"
    assert block_tables.shape[1] * block_size >= seqlen, "the table must have room for the chunk"


def check_count(count, name):
    """A number that only the device knows."""
    assert count.shape == (1, 1), f"{name} must be of shape (1, 1)"
    assert count.dtype == nl.int32, f"{name} must be int32"


def check_options(rows, scale, window, sink, kvp_offset, k_scale, v_scale):
    """Operands that may be left out, and the number that multiplies scores."""
    assert is_number(scale), "scale must be finite in float32"
    if sink != None:
        assert sink.shape == (rows, 1), f"sink must be of shape {(rows, 1)}, a logit per row of q"
        assert sink.dtype == nl.float32 or sink.dtype == nl.bfloat16, "sink must be float32 or bfloat16"
    if kvp_offset != None:
        assert window == 0, "kvp_offset cannot be combined with sliding_window"
        check_count(kvp_offset, "kvp_offset")
    check_head_scale(k_scale, "k_scale")
    check_head_scale(v_scale, "v_scale")


def check_head_scale(scale, name):
    """A factor per channel of the head, on 128 rows whatever the head size."""
    if scale != None:
        assert scale.shape == (P, 1), f"{name} must be of shape {(P, 1)}"
        assert scale.dtype == nl.float32, f"{name} must be float32"


def check_launch(n_prgs, tp_q, tp_out, k_pre_transposed):
    """Cores and layouts."""
    assert n_prgs == 1 or n_prgs == 2, "the launch must be on 1 or 2 cores"
    check_flags((tp_q, tp_out, k_pre_transposed))


def check_load(v_cache, block_tables, k_sbuf, v_sbuf, b_i, h_i, offset, num_blocks):
    """Which blocks the loader by itself is asked for, and the tiles that take them."""
    d = v_cache.shape[3]
    assert b_i >= 0 and b_i < block_tables.shape[0], "b_i must be a row of block_tables"
    assert h_i >= 0 and h_i < v_cache.shape[1], "h_i must be a KV head of the caches"
    assert num_blocks > 0, "num_blocks must be at least 1"
    assert offset.shape == (1, 1), "block_table_offset must be of shape (1, 1)"
    assert offset.dtype == nl.int32 or offset.dtype == nl.uint32, "block_table_offset must be int32 or uint32"
    for i in range(len(k_sbuf)):
        assert k_sbuf[i].shape == (d, KEY_TILE) and k_sbuf[i].dtype == nl.bfloat16, (
            f"tiles of k_sbuf must be bfloat16 of shape {(d, KEY_TILE)}"
        )
    for i in range(len(v_sbuf)):
        assert v_sbuf[i].shape == (P, d) and v_sbuf[i].dtype == nl.bfloat16, (
            f"tiles of v_sbuf must be bfloat16 of shape {(P, d)}"
        )
