"""What attention_tkg relies on, asserted before anything is allocated.

The host-side entry refuses the same calls with better words before the launch, and those whose values are illegal; what
a caller inside another kernel could get wrong as well is repeated here.
"""

import nki.language as nl

from kernels.attention_tkg_plan import BANK, P
from kernels.operand_checks import check_flags, check_operand, is_float

#: Longest context of fused RoPE: above, the angle reduction leaves the range of the sine.
ROPE_LIMIT = 131072
#: Block ids pass through fp32.
ID_LIMIT = 16777216
#: Bytes of one batch's scores in a flash tile, at 8 per score.
SCORE_LIMIT = 16777216


def is_multiplied(dtype):
    """Whether a dtype is one of queries, keys and values."""
    return is_float(dtype) or dtype == nl.float8_e4m3


def check_sizes(cfg):
    """Sizes that hold in every mode, and flags."""
    assert cfg.bs > 0 and cfg.q_head > 0 and cfg.s_active > 0, "bs, q_head and s_active must be at least 1"
    assert 0 < cfg.d_head and cfg.d_head <= P, "d_head must be 1 to 128"
    assert cfg.s_active <= P, "s_active must be at most 128"
    assert cfg.q_head * cfg.s_active <= BANK, "q_head * s_active must be at most 512"
    assert cfg.s_active <= cfg.curr_sprior, "curr_sprior must hold the active tokens"
    assert cfg.curr_sprior <= cfg.full_sprior, "curr_sprior must lie within full_sprior"
    assert cfg.block_len >= 0, "block_len must be 0 for a flat cache, or the length of a block"
    check_flags((
        cfg.tp_k_prior, cfg.strided_mm1, cfg.use_pos_id, cfg.fuse_rope, cfg.use_gpsimd_sb2sb, cfg.qk_in_sb,
        cfg.k_out_in_sb, cfg.out_in_sb, cfg.enable_fa_s_prior_tiling,
    ))


def check_dtypes(q, k_active, v_active, k_prior, v_prior, cfg):
    """Pairs that the tensor engine multiplies, and casts that the kernel makes."""
    fp8 = k_prior.dtype == nl.float8_e4m3
    io = q.dtype
    assert is_multiplied(io), "q must be float32, bfloat16, float16 or float8_e4m3"
    assert is_multiplied(k_prior.dtype), "k_prior must be float32, bfloat16, float16 or float8_e4m3"
    assert v_prior.dtype == k_prior.dtype, "k_prior and v_prior must have one dtype"
    assert v_active.dtype == k_active.dtype, "k_active and v_active must have one dtype"
    assert (k_active.dtype == nl.float8_e4m3) == fp8, "all of keys and values are float8_e4m3, or none is"
    assert (io == nl.float32) == (k_prior.dtype == nl.float32), "float32 multiplies only with float32"
    assert fp8 or io != nl.float8_e4m3, "a float8_e4m3 q needs float8_e4m3 keys"
    assert not fp8 or (cfg.qk_in_sb and not cfg.fuse_rope), "float8_e4m3 keys need qk_in_sb and no fuse_rope"
    if cfg.fuse_rope:
        assert k_active.dtype == io, "with fuse_rope k_active must have the dtype of q"
    else:
        same = k_active.dtype == io or k_active.dtype == k_prior.dtype
        assert same, "k_active must have the dtype of q or of the cache"


def check_new_tokens(q, k_active, v_active, cfg):
    """Where queries and new keys are, and what they and new values look like."""
    B, H, s, d = cfg.bs, cfg.q_head, cfg.s_active, cfg.d_head
    assert cfg.qk_in_sb or cfg.fuse_rope, "q and k_active must be in SBUF (qk_in_sb) without fuse_rope"
    assert nl.is_sbuf(q.buffer) == cfg.qk_in_sb, "q must be in SBUF exactly with qk_in_sb"
    assert nl.is_sbuf(k_active.buffer) == cfg.qk_in_sb, "k_active must be in SBUF exactly with qk_in_sb"
    queries = (d, B * H * s) if cfg.qk_in_sb else (B, d, H, s)
    keys = (d, B * s) if cfg.qk_in_sb else (B, d, s)
    assert q.shape == queries, f"q must be of shape {queries}"
    assert k_active.shape == keys, f"k_active must be of shape {keys}"
    assert v_active.shape == (B, 1, s, d), f"v_active must be of shape {(B, 1, s, d)}"


def check_caches(k_prior, v_prior, cfg, table):
    """Layout of the caches, and the table that names blocks."""
    assert (table != None) == (cfg.block_len > 0), "active_blocks_table and block_len belong together"
    if cfg.block_len > 0:
        assert not cfg.strided_mm1, "block KV needs strided_mm1=False"
        assert cfg.tp_k_prior, "block KV needs tp_k_prior=True"
        assert cfg.qk_in_sb, "block KV needs qk_in_sb"
        assert cfg.curr_sprior % cfg.block_len == 0, "curr_sprior must be a multiple of block_len"
        shape = (k_prior.shape[0], cfg.block_len, cfg.d_head)
        assert k_prior.shape == shape and v_prior.shape == shape, "block caches must be [blocks, block_len, d]"
        entries = (cfg.bs, cfg.curr_sprior // cfg.block_len)
        assert table.shape == entries, f"active_blocks_table must be of shape {entries}"
        assert table.dtype == nl.uint32, "active_blocks_table must be uint32"
    else:
        rows = v_prior.shape[0]
        turned = (rows, 1, cfg.d_head, cfg.full_sprior)
        plain = (rows, 1, cfg.full_sprior, cfg.d_head)
        assert rows >= cfg.bs, "a flat cache must have a row per batch"
        assert v_prior.shape == plain, "v_prior must be [B+, 1, full_sprior, d]"
        assert k_prior.shape == (plain if cfg.tp_k_prior else turned), "k_prior must be as tp_k_prior says"


def check_mask(mask, sink, cfg):
    """Who attends to whom, and the logits without a value."""
    rows = cfg.s_active if cfg.use_pos_id else cfg.curr_sprior
    shape = (rows, cfg.bs, cfg.q_head, cfg.s_active)
    assert mask.shape == shape, f"mask must be of shape {shape}"
    kept = mask.dtype
    assert is_float(kept) or kept == nl.uint8 or kept == nl.int32, "mask must be uint8, int32 or a float"
    check_operand(sink, (cfg.q_head, 1), "sink")


def check_positions(inv_freqs, rope_pos_ids, cfg):
    """Operands of RoPE and of the mask that is made from positions are there exactly where they are read."""
    assert (inv_freqs != None) == cfg.fuse_rope, "inv_freqs is given exactly with fuse_rope"
    read = cfg.fuse_rope or cfg.use_pos_id
    assert (rope_pos_ids != None) == read, "rope_pos_ids is given exactly with fuse_rope or use_pos_id"
    if cfg.fuse_rope:
        assert cfg.d_head % 64 == 0, "fuse_rope needs d_head 64 or 128"
        assert cfg.curr_sprior <= ROPE_LIMIT, "fuse_rope needs curr_sprior <= 131072"
        assert inv_freqs.shape == (cfg.d_head // 2, 1), f"inv_freqs must be of shape {(cfg.d_head // 2, 1)}"
        assert inv_freqs.dtype == nl.float32, "inv_freqs must be float32"
    if read:
        shape = (cfg.bs, cfg.s_active)
        assert rope_pos_ids.shape == shape, f"rope_pos_ids must be of shape {shape}"
        assert rope_pos_ids.dtype == nl.float32, "rope_pos_ids must be float32"


def check_results(out, k_out, io, cfg):
    """Where results go; none that nobody would write."""
    B, H, s, d = cfg.bs, cfg.q_head, cfg.s_active, cfg.d_head
    shape = (d, B * H * s) if cfg.out_in_sb else (B, H, d, s)
    assert nl.is_sbuf(out.buffer) == cfg.out_in_sb, "out must be in SBUF exactly with out_in_sb"
    check_operand(out, shape, "out")
    assert cfg.fuse_rope or k_out == None, "k_out is written with fuse_rope alone"
    assert k_out != None or not cfg.k_out_in_sb, "k_out_in_sb without k_out"
    if k_out != None:
        shape = (d, B * s) if cfg.k_out_in_sb else (B, 1, d, s)
        assert nl.is_sbuf(k_out.buffer) == cfg.k_out_in_sb, "k_out must be in SBUF exactly with k_out_in_sb"
        assert k_out.shape == shape, f"k_out must be of shape {shape}"
        assert k_out.dtype == io, "k_out must have the dtype of q"


def check_debug(debug, io, cfg, plan):
    """DBG_TENSORS are as attention_tkg_debug lists them."""
    if debug == None:
        return
    columns = plan.batches * plan.columns
    tiles = (columns + P - 1) // P
    scores = (P, plan.n_seq, plan.keys // P, plan.n_bat, columns)
    column = (plan.n_bat, tiles, P if tiles > 1 else columns)
    shapes = [scores, column, scores, column]
    dtypes = [nl.float32, nl.float32, io, nl.float32]
    if cfg.block_len > 0:
        shapes.append((P, cfg.curr_sprior // (plan.block_len * P), cfg.bs))
        dtypes.append(nl.int32)
    assert len(debug) == len(shapes), "DBG_TENSORS must be 4 tensors, 5 with block KV"
    for i in range(len(shapes)):
        assert debug[i].shape == shapes[i], f"DBG_TENSORS[{i}] must be of shape {shapes[i]}"
        assert debug[i].dtype == dtypes[i], f"DBG_TENSORS[{i}] must be {dtypes[i]}"


def check_plan(cfg, plan, k_prior):
    """Limits that depend on how the work is cut."""
    assert plan.n_prgs == 1 or plan.n_prgs == 2, "the launch must be on 1 or 2 cores"
    assert plan.keys % P == 0, "curr_sprior must be a multiple of 128, of 256 when sharded over the sequence"
    assert plan.flash_keys <= P * BANK, "without flash tiling a core must have at most 65536 keys"
    scores = 8 * plan.columns * plan.flash_keys
    assert scores <= SCORE_LIMIT, "8 * q_head * s_active * keys of a flash tile must be at most 16 MiB"
    if cfg.fuse_rope:
        small = plan.n_bat == 1 and cfg.bs * plan.columns <= P
        assert small, "fuse_rope needs bs * q_head * s_active <= 128 and no batch sharding"
    if cfg.block_len > 0:
        blocks = k_prior.shape[0] * plan.block_factor
        assert blocks <= ID_LIMIT, "block ids after the resize must be below 2**24"
