"""attention_tkg as a fused kernel calls it, operands on chip: HBM in, SBUF between, HBM out."""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.attention_tkg import attention_tkg
from kernels.lnc import program_sharding
from kernels.sbuf_manager import SbufManager


@nki.jit
def attention_tkg_on_chip(
    q,
    k_active,
    v_active,
    k_prior,
    v_prior,
    mask,
    cfg,
    out_dtype,
    inv_freqs=None,
    rope_pos_ids=None,
    sink=None,
    active_blocks_table=None,
    with_k_out=False,
    debug_shapes=None,
    sbuf_bytes=0,
    attend=attention_tkg,
):
    """(out, k_out or None, DBG tensors ...), all in HBM; results that stay in SBUF come stacked, one per core.

    q and k_active are taken into SBUF if cfg.qk_in_sb. `debug_shapes` asks for DBG_TENSORS of these shapes.
    `sbuf_bytes` > 0 gives `attend` a manager over that many bytes per partition, 0 gives it None.
    """
    n_prgs, prg = program_sharding()
    space = SbufManager(upper=sbuf_bytes)
    space.open_scope("caller")
    io = q.dtype
    if cfg.qk_in_sb:
        q = load(space, q, "caller_q")
        k_active = load(space, k_active, "caller_k_active")
    d, columns = cfg.d_head, cfg.bs * cfg.q_head * cfg.s_active
    shape = (d, columns) if cfg.out_in_sb else (cfg.bs, cfg.q_head, d, cfg.s_active)
    out = result(space, shape, out_dtype, cfg.out_in_sb, "out")
    k_out = None
    if with_k_out:
        shape = (d, cfg.bs * cfg.s_active) if cfg.k_out_in_sb else (cfg.bs, 1, d, cfg.s_active)
        k_out = result(space, shape, io, cfg.k_out_in_sb, "k_out")
    debug = debug_tensors(debug_shapes, io)
    attend(
        q,
        k_active,
        v_active,
        k_prior,
        v_prior,
        mask,
        out,
        cfg,
        space if sbuf_bytes > 0 else None,
        inv_freqs=inv_freqs,
        rope_pos_ids=rope_pos_ids,
        sink=sink,
        active_blocks_table=active_blocks_table,
        k_out=k_out,
        DBG_TENSORS=debug,
    )
    returned = [stacked(out, cfg.out_in_sb, n_prgs, prg, "stacked_out")]
    if with_k_out:
        returned.append(stacked(k_out, cfg.k_out_in_sb, n_prgs, prg, "stacked_k_out"))
    if debug != None:
        for i in range(len(debug)):
            returned.append(debug[i])
    space.close_scope()
    return tuple(returned)


def load(space, tensor, name):
    """An SBUF copy of a tensor in HBM."""
    tile = space.alloc(tensor.shape, tensor.dtype, name=name)
    nisa.dma_copy(dst=tile, src=tensor)
    return tile


def result(space, shape, dtype, in_sb, name):
    """An unwritten result where the caller wants it."""
    if in_sb:
        return space.alloc(shape, dtype, name=f"caller_{name}")
    return nl.ndarray(shape, dtype=dtype, buffer=nl.shared_hbm, name=name)


def stacked(tile, in_sb, n_prgs, prg, name):
    """A result in SBUF as [cores, ...] in HBM; one in HBM as it is."""
    if not in_sb:
        return tile
    rows = nl.ndarray((n_prgs,) + tile.shape, dtype=tile.dtype, buffer=nl.shared_hbm, name=name)
    nisa.dma_copy(dst=rows[prg], src=tile)
    return rows


def debug_tensors(shapes, io):
    """DBG_TENSORS in HBM: scores, maxima, weights, sums, and block ids where there is a fifth shape."""
    if shapes == None:
        return None
    dtypes = (nl.float32, nl.float32, io, nl.float32, nl.int32)
    tensors = []
    for i in range(len(shapes)):
        tensors.append(nl.ndarray(shapes[i], dtype=dtypes[i], buffer=nl.shared_hbm, name=f"debug_{i}"))
    return tuple(tensors)
