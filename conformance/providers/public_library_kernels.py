"""attention_tkg of the public library as the project's on-chip kernel calls it, with an allocator handed in.

Imported where the library is installed only.
"""

import nki
import nki.language as nl

try:
    from nkilib.core.attention.attention_tkg import attention_tkg as library_attention_tkg
except ModuleNotFoundError:
    from nkilib.core.attention_tkg import attention_tkg as library_attention_tkg
from nkilib.core.utils.allocator import SbufManager


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
    """As the library's; `sbm` None becomes an allocator that leaves addresses to the compiler."""
    if sbm == None:  # noqa: E711  (kernels have no `is`)
        sbm = SbufManager(0, nl.tile_size.total_available_sbuf_size, use_auto_alloc=True)
    return library_attention_tkg(
        q,
        k_active,
        v_active,
        k_prior,
        v_prior,
        mask,
        out,
        cfg,
        sbm,
        inv_freqs=inv_freqs,
        rope_pos_ids=rope_pos_ids,
        sink=sink,
        active_blocks_table=active_blocks_table,
        k_out=k_out,
        DBG_TENSORS=DBG_TENSORS,
    )
