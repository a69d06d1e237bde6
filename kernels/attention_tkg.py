"""Attention of a few new tokens over a KV cache, one KV head per call (decode).

Keys lie on partitions: scores of a key tile are one matmul [128 keys, columns], softmax runs down the columns of
`cascaded_softmax`, and values are weighted before they are normalised. Caches longer than 8192 keys per core are
taken in flash tiles with running maxima and sums. On two cores the batches are split, or the keys; then maxima, sums
and normalised outputs are exchanged once.
"""

from dataclasses import dataclass

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.attention_tkg_arguments import (
    check_caches,
    check_debug,
    check_dtypes,
    check_mask,
    check_new_tokens,
    check_plan,
    check_positions,
    check_results,
    check_sizes,
)
from kernels.attention_tkg_call import AttnCall, FlashState, FlashTile
from kernels.attention_tkg_output import correction, sink_term, sum_up, weigh
from kernels.attention_tkg_plan import P, attention_plan
from kernels.attention_tkg_scores import exponentiate
from kernels.cascaded_softmax import column_tiles, column_vector, tile_columns
from kernels.lnc import exchange, program_sharding
from kernels.rope import load_angles, rotate, wave_of
from kernels.sbuf_manager import ALIGNMENT, manager_or_automatic


@dataclass
class AttnTKGConfig(nl.NKIObject):
    """Shapes and flags of one call; positional in this order."""

    #: Batches, query heads, new tokens, slots used by this call (the new tokens' included) and allocated, head size.
    bs: int = 0
    q_head: int = 0
    s_active: int = 0
    curr_sprior: int = 0
    full_sprior: int = 0
    d_head: int = 0
    #: Block length of a block KV cache; 0 for a flat one.
    block_len: int = 0
    #: True: k_prior holds rows [.., S, d], transposed while loading; False: [.., d, S].
    tp_k_prior: bool = False
    #: Order of keys on the partitions of a flat cache: strided reads values in long runs.
    strided_mm1: bool = True
    #: Make the mask from rope_pos_ids; `mask` then holds the active part alone.
    use_pos_id: bool = False
    #: Rotate q and k_active, then scale q by 1/sqrt(d).
    fuse_rope: bool = False
    #: Exchange between cores by the GpSimd's DMA where its limits allow.
    use_gpsimd_sb2sb: bool = True
    #: Where q and k_active, k_out and out are.
    qk_in_sb: bool = False
    k_out_in_sb: bool = False
    out_in_sb: bool = False
    #: Flash tiling above 8192 keys per core.
    enable_fa_s_prior_tiling: bool = True


@nki.jit
def attention_tkg(
    q,
    k_active,
    v_active,
    k_prior,
    v_prior,
    mask,
    out,
    cfg,
    sbm,
    inv_freqs=None,
    rope_pos_ids=None,
    sink=None,
    active_blocks_table=None,
    k_out=None,
    DBG_TENSORS=None,
):
    """softmax(q K) V of s new tokens whose keys and values replace the last s of S slots; returns (out, k_out).

    q [d, B*H*s] and k_active [d, B*s] in SBUF, or with fuse_rope also [B, d, H, s] and [B, d, s] in HBM; v_active
    [B, 1, s, d]; caches flat [B+, 1, S+, d] (keys [B+, 1, d, S+] unless tp_k_prior) or in blocks
    [blocks, block_len, d] with active_blocks_table [B, S/block_len]; mask [S, B, H, s], not 0 keeps (use_pos_id:
    [s, B, H, s]); sink [H, 1]; out [B, H, d, s] in HBM or [d, B*H*s] in SBUF. `sbm` places tiles (None: the compiler
    does). Masked keys and values nobody keeps may hold anything. A column without any kept key or sink is NaN.
    """
    n_prgs, prg = program_sharding()
    check_sizes(cfg)
    check_dtypes(q, k_active, v_active, k_prior, v_prior, cfg)
    check_new_tokens(q, k_active, v_active, cfg)
    check_caches(k_prior, v_prior, cfg, active_blocks_table)
    check_mask(mask, sink, cfg)
    check_positions(inv_freqs, rope_pos_ids, cfg)
    check_results(out, k_out, q.dtype, cfg)
    plan = attention_plan(cfg, q.dtype, n_prgs, prg)
    check_plan(cfg, plan, k_prior)
    check_debug(DBG_TENSORS, q.dtype, cfg, plan)
    space = manager_or_automatic(sbm)
    space.open_scope("attention_tkg")
    if cfg.fuse_rope:
        q, k_active = rotate_queries_and_keys(space, q, k_active, cfg, plan, inv_freqs, rope_pos_ids, k_out)
    ones = space.alloc((P, 1), q.dtype, name="ones")
    nisa.memset(dst=ones, value=1.0)
    call = AttnCall(
        cfg=cfg, plan=plan, space=space, q=q, k_active=k_active, v_active=v_active, k_prior=k_prior, v_prior=v_prior,
        mask=mask, rope_pos_ids=rope_pos_ids, table=active_blocks_table, sink=None, ones=ones, out=out,
        debug=DBG_TENSORS,
    )
    if sink != None:
        call.sink = load_sink(space, sink, plan, cfg)
    for bt in range(plan.batch_tiles()):
        attend_batch_tile(call, bt)
    if cfg.out_in_sb and plan.n_bat == 2:
        half = plan.batches * plan.columns
        exchange(
            out[:, nl.ds(prg * half, half)], out[:, nl.ds((1 - prg) * half, half)], prg, cfg.use_gpsimd_sb2sb
        )
    space.close_scope()
    return out, k_out


# ---- before the first tile ---------------------------------------------------------------------------------------


def rotate_queries_and_keys(space, q, k_active, cfg, plan, inv_freqs, rope_pos_ids, k_out):
    """(q, k_active) in SBUF, rotated; q also scaled by 1/sqrt(d). Stores k_out."""
    d, s = cfg.d_head, cfg.s_active
    io = q.dtype
    query = space.alloc((d, cfg.bs * plan.columns), io, name="rope_query")
    key = space.alloc((d, cfg.bs * s), io, name="rope_sum_1")
    space.open_scope("rope")
    angle = load_angles(space, rope_pos_ids, inv_freqs)
    sine = wave_of(space, angle, 0)
    cosine = wave_of(space, angle, 1)
    if not cfg.qk_in_sb:
        wide_q = space.alloc((d, cfg.bs * plan.columns), nl.float32, name="q_wide")
        nisa.dma_copy(dst=wide_q, src=q.permute((1, 0, 2, 3)))
        wide_k = space.alloc((d, cfg.bs * s), nl.float32, name="k_active_wide")
        nisa.dma_copy(dst=wide_k, src=k_active.permute((1, 0, 2)))
        q, k_active = wide_q, wide_k
    rotated = space.alloc((d, cfg.bs * plan.columns), io, name="rope_sum_0")
    rotate(space, rotated, q, sine, cosine, cfg.bs, cfg.q_head, 0)
    rotate(space, key, k_active, sine, cosine, cfg.bs, 1, 1)
    scale = 0.125 if d == 64 else 0.08838834764831845
    nisa.activation(dst=query, op=nl.copy, data=rotated, scale=scale)
    space.close_scope()
    if k_out != None:
        if cfg.k_out_in_sb:
            nisa.tensor_copy(dst=k_out, src=key, engine=nisa.vector_engine)
        elif plan.prg == (1 if plan.n_seq == 2 else 0):
            nisa.dma_copy(dst=k_out.squeeze_dim(1).permute((1, 0, 2)), src=key)
    return query, key


def load_sink(space, sink, plan, cfg):
    """Column vector: the sink of every column of a batch tile, fp32."""
    columns = plan.batch_tile * plan.columns
    vector = column_vector(space, columns, "sink_column")
    space.open_scope("sink")
    row = space.alloc((1, columns), sink.dtype, name="sink_row")
    heads = sink.reshape((1, cfg.q_head, 1))
    nisa.dma_copy(dst=row, src=heads.broadcast(0, plan.batch_tile).broadcast(2, cfg.s_active))
    wide = space.alloc((1, columns), nl.float32, name="sink_row_wide")
    nisa.tensor_copy(dst=wide, src=row, engine=nisa.vector_engine)
    for ct in range(len(vector)):
        cols = tile_columns(columns, ct)
        turned = nl.ndarray((cols, 1), dtype=nl.float32, buffer=nl.psum, name="sink_turned")
        nisa.nc_transpose(dst=turned, data=wide[:, nl.ds(ct * P, cols)], engine=nisa.tensor_engine)
        nisa.tensor_copy(dst=vector[ct], src=turned, engine=nisa.vector_engine)
    space.close_scope()
    return vector


# ---- one batch tile ----------------------------------------------------------------------------------------------


def attend_batch_tile(call, bt):
    """All flash tiles of batch tile bt, one after the other; the last one stores the output."""
    plan, space = call.plan, call.space
    first = bt * plan.batch_tile
    batches = min(plan.batch_tile, plan.batches - first)
    columns = batches * plan.columns
    space.open_scope("flash state", sections=2, section_bytes=state_bytes(columns, plan.flash_tiles()))
    state = None
    for f in range(plan.flash_tiles()):
        space.next_section()
        tile = FlashTile(
            f=f, bt=bt, first=first, batches=batches, n=plan.key_tiles(f), columns=columns,
            last=f == plan.flash_tiles() - 1,
        )
        state = attend_flash_tile(call, tile, state)
    space.close_scope()


def state_bytes(columns, flash_tiles):
    """SBUF bytes per partition of a FlashState."""
    size = 2 * ALIGNMENT * column_tiles(columns)
    if flash_tiles > 1:
        size = size + 4 * columns + ALIGNMENT
    return size


def attend_flash_tile(call, tile, before):
    """The FlashState after one flash tile; `before` is that of the one before it, None at first."""
    plan, space = call.plan, call.space
    name = f"{tile.f}_{tile.bt}"
    state = FlashState(
        run_max=column_vector(space, tile.columns, f"run_max_{name}"),
        run_sum=column_vector(space, tile.columns, f"run_sum_{name}"),
        run_out=None,
    )
    if plan.flash_tiles() > 1:
        state.run_out = space.alloc((plan.d_head, tile.columns), nl.float32, name=f"run_out_{name}")
    space.open_scope("flash tile")
    prob = space.alloc((P, tile.n * tile.columns), call.q.dtype, name=f"prob_{name}")
    prob = prob.reshape((P, tile.n, tile.columns))
    mask = space.alloc((P, tile.n, tile.columns), nl.uint8, name="mask")
    exponentiate(call, tile, state, before, prob, mask)
    corr = correction(call, tile, state, before)
    term = sink_term(call, tile, state.run_max)
    sum_up(call, tile, state, before, prob, corr, term)
    weigh(call, tile, state, before, prob, mask, corr, term)
    space.close_scope()
    return state
