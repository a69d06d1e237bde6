"""Signature of the reference page of attention_tkg: the allocator is required."""

from dataclasses import dataclass

import nkilib
from nkilib.core.utils.allocator import SbufManager

from kernels.attention_tkg import AttnTKGConfig as OurConfig
from kernels.attention_tkg import attention_tkg as our_attention_tkg


@dataclass
class AttnTKGConfig:
    bs: int = 0
    q_head: int = 0
    s_active: int = 0
    curr_sprior: int = 0
    full_sprior: int = 0
    d_head: int = 0
    block_len: int = 0
    tp_k_prior: bool = False
    strided_mm1: bool = True
    use_pos_id: bool = False
    fuse_rope: bool = False
    use_gpsimd_sb2sb: bool = True
    qk_in_sb: bool = False
    k_out_in_sb: bool = False
    out_in_sb: bool = False


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
    assert type(cfg) is AttnTKGConfig
    assert type(sbm) is SbufManager
    assert sbm.use_auto_alloc
    return our_attention_tkg(
        q,
        k_active,
        v_active,
        k_prior,
        v_prior,
        mask,
        out,
        OurConfig(**vars(cfg)),
        None,
        inv_freqs=inv_freqs,
        rope_pos_ids=rope_pos_ids,
        sink=None if "attention_tkg" in nkilib.broken else sink,
        active_blocks_table=active_blocks_table,
        k_out=k_out,
        DBG_TENSORS=DBG_TENSORS,
    )
