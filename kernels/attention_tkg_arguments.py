"""What attention_tkg relies on, asserted before anything is allocated.

The host-side entry refuses the same calls with better words before the launch; only what a caller inside another
kernel could get wrong as well is repeated here.
"""

import nki.language as nl

from kernels.attention_tkg_plan import BANK, P

#: Longest context of fused RoPE: above, the angle reduction leaves the range of the sine.
ROPE_LIMIT = 131072
#: Block ids pass through fp32.
ID_LIMIT = 16777216
#: Bytes of one batch's scores in a flash tile, at 8 per score.
SCORE_LIMIT = 16777216


def check_sizes(cfg):
    """Sizes that hold in every mode."""
    assert cfg.bs > 0 and cfg.q_head > 0 and cfg.s_active > 0, "bs, q_head and s_active must be at least 1"
    assert 0 < cfg.d_head and cfg.d_head <= P, "d_head must be 1 to 128"
    assert cfg.s_active <= P, "s_active must be at most 128"
    assert cfg.q_head * cfg.s_active <= BANK, "q_head * s_active must be at most 512"
    assert cfg.s_active <= cfg.curr_sprior, "curr_sprior must hold the active tokens"
    assert cfg.curr_sprior <= cfg.full_sprior, "curr_sprior must lie within full_sprior"


def check_dtypes(q, k_active, v_active, k_prior, v_prior, cfg):
    """Pairs that the tensor engine multiplies, and casts that the kernel makes."""
    fp8 = k_prior.dtype == nl.float8_e4m3
    io = q.dtype
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


def check_placement(q, k_active, k_prior, v_prior, cfg, table):
    """Where q is, and what the caches look like."""
    assert cfg.qk_in_sb or cfg.fuse_rope, "q and k_active must be in SBUF (qk_in_sb) without fuse_rope"
    assert nl.is_sbuf(q.buffer) == cfg.qk_in_sb, "q must be in SBUF exactly with qk_in_sb"
    assert nl.is_sbuf(k_active.buffer) == cfg.qk_in_sb, "k_active must be in SBUF exactly with qk_in_sb"
    assert (table != None) == (cfg.block_len > 0), "active_blocks_table and block_len belong together"
    if cfg.block_len > 0:
        assert not cfg.strided_mm1, "block KV needs strided_mm1=False"
        assert cfg.tp_k_prior, "block KV needs tp_k_prior=True"
        assert cfg.qk_in_sb, "block KV needs qk_in_sb"
        assert cfg.curr_sprior % cfg.block_len == 0, "curr_sprior must be a multiple of block_len"
        shape = (k_prior.shape[0], cfg.block_len, cfg.d_head)
        assert k_prior.shape == shape and v_prior.shape == shape, "block caches must be [blocks, block_len, d]"
    else:
        rows = v_prior.shape[0]
        turned = (rows, 1, cfg.d_head, cfg.full_sprior)
        plain = (rows, 1, cfg.full_sprior, cfg.d_head)
        assert rows >= cfg.bs, "a flat cache must have a row per batch"
        assert v_prior.shape == plain, "v_prior must be [B+, 1, full_sprior, d]"
        assert k_prior.shape == (plain if cfg.tp_k_prior else turned), "k_prior must be as tp_k_prior says"


def check_modes(cfg, inv_freqs, rope_pos_ids, k_out, debug):
    """Operands that a mode needs are there, and results that nobody would write are not."""
    if cfg.fuse_rope:
        assert inv_freqs != None and rope_pos_ids != None, "fuse_rope needs inv_freqs and rope_pos_ids"
        assert cfg.d_head % 64 == 0, "fuse_rope needs d_head 64 or 128"
        assert cfg.curr_sprior <= ROPE_LIMIT, "fuse_rope needs curr_sprior <= 131072"
    else:
        assert k_out == None, "k_out is written with fuse_rope alone"
    assert k_out != None or not cfg.k_out_in_sb, "k_out_in_sb without k_out"
    assert not cfg.use_pos_id or rope_pos_ids != None, "use_pos_id needs rope_pos_ids"
    wanted = 5 if cfg.block_len > 0 else 4
    assert debug == None or len(debug) == wanted, "DBG_TENSORS must be 4 tensors, 5 with block KV"


def check_plan(cfg, plan, k_prior):
    """Limits that depend on how the work is cut."""
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
