"""The attention mask of one flash tile and batch tile in SBUF: uint8 [128, tiles, batches * columns], not 0 = keep.

Loaded from HBM, or made from the position of each batch's first query; and which rows of values nobody keeps.
"""

import nki.isa as nisa
import nki.language as nl

from kernels.attention_tkg_plan import LOAD_BYTES, P
from kernels.item_size import item_size
from kernels.token_tail import place_tail, tail_pieces


def load_mask(space, keep, mask, plan, f, batch, batches):
    """keep := mask [S, B, H, s], rows as the layout wants them; wider dtypes are cast to uint8 by the vector engine.

    Flat caches: row = token. Block caches: the 128 rows of each key tile are contiguous.
    """
    n = keep.shape[1]
    first = plan.first_token(f)
    rows = mask[first : first + n * P, batch : batch + batches, :, :].flatten_dims(2, 3)
    if plan.layout == "strided":
        source = rows.reshape_dim(0, (P, n))
    else:
        source = rows.reshape_dim(0, (n, P)).permute((1, 0, 2, 3))
    if mask.dtype == nl.uint8:
        nisa.dma_copy(dst=keep, src=source)
        return
    step = max(1, LOAD_BYTES // (keep.shape[2] * item_size(mask.dtype)))
    space.open_scope("wide mask", sections=2, section_bytes=step * keep.shape[2] * item_size(mask.dtype))
    for low in range(0, n, step):
        count = min(step, n - low)
        space.next_section()
        wide = space.alloc((P, count, keep.shape[2]), mask.dtype, name="mask_wide")
        nisa.dma_copy(dst=wide, src=source[:, low : low + count, :, :])
        nisa.tensor_copy(dst=keep[:, low : low + count, :], src=wide, engine=nisa.vector_engine)
    space.close_scope()


def make_mask(space, keep, mask, rope_pos_ids, plan, f, batch, batches):
    """keep := 1 where token < rope_pos_ids[batch, 0], for every query; the active tokens' slots come from mask.

    mask is [s_key, B, H, s_query]: which active tokens each query sees.
    """
    n = keep.shape[1]
    space.open_scope("mask from positions")
    tokens = space.alloc((P, n), nl.float32, name="tokens")
    fill_tokens(tokens, plan, f)
    positions = space.alloc((P, batches), nl.float32, name="positions")
    first = rope_pos_ids[batch : batch + batches, 0:1].permute((1, 0))
    nisa.dma_copy(dst=positions, src=first.broadcast(0, P))
    nisa.tensor_tensor(
        dst=keep.reshape_dim(2, (batches, plan.columns)),
        data1=tokens.expand_dim(2).broadcast(2, batches).expand_dim(3).broadcast(3, plan.columns),
        data2=positions.expand_dim(1).broadcast(1, n).expand_dim(3).broadcast(3, plan.columns),
        op=nl.less,
        engine=nisa.vector_engine,
    )
    if plan.owns_tail() and f == plan.flash_tiles() - 1:
        place_active_mask(space, keep, mask, plan, batch, batches)
    space.close_scope()


def fill_tokens(tokens, plan, f):
    """tokens [128, n] fp32 := the global token at every partition and key tile; exact below 2**24."""
    n = tokens.shape[1]
    pattern, stride = [[P, n]], 1
    if plan.layout == "strided":
        pattern, stride = [[1, n]], n
    elif plan.layout == "block":
        length = plan.block_len
        pattern, stride = [[P * length, n // length], [1, length]], length
    nisa.iota(dst=tokens, pattern=pattern, offset=plan.first_token(f), channel_multiplier=stride)


def place_active_mask(space, keep, mask, plan, batch, batches):
    """Overwrite the last s slots of keep with mask [s_key, B, H, s_query]."""
    n = keep.shape[1]
    source = mask[:, batch : batch + batches, :, :]
    if mask.dtype != nl.uint8:
        wide = space.alloc((plan.s_active, keep.shape[2]), mask.dtype, name="active_mask_wide")
        nisa.dma_copy(dst=wide, src=source)
        source = space.alloc((plan.s_active, keep.shape[2]), nl.uint8, name="active_mask")
        nisa.tensor_copy(dst=source, src=wide, engine=nisa.vector_engine)
    place_tail(keep, source, tail_pieces(plan.s_active, plan.tail_width(n), n, 0, n))


def kept_rows(space, keep, columns):
    """uint8 [128, tiles, batches]: not 0 where at least one of a batch's `columns` keeps the token."""
    batches = keep.shape[2] // columns
    if columns == 1:
        return keep
    rows = space.alloc((P, keep.shape[1], batches), nl.uint8, name="kept_rows")
    nisa.tensor_reduce(
        dst=rows, op=nl.maximum, data=keep.reshape_dim(2, (batches, columns)), axis=3
    )
    return rows
