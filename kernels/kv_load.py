"""Keys and values from the cache into SBUF, one load at a time: a few batches by a run of key tiles.

Whatever the cache looks like, a load gives tiles that the tensor engine takes as they are:
    values  [128, batches, tiles, d]   partition = token of the key tile
    keys    [d, batches, tiles, 128]   transposed on the way where the cache holds rows of d
Layouts of tokens: see attention_tkg_plan.
"""

import nki.isa as nisa
import nki.language as nl

from kernels.attention_tkg_plan import LOAD_BYTES, P
from kernels.item_size import item_size
from kernels.sbuf_manager import ALIGNMENT
from kernels.token_tail import place_tail, rows_of, tail_pieces

#: Bytes of one PSUM bank.
BANK_BYTES = 2048
#: SBUF bytes per partition of all that one load allocates: its tiles, or rows and transposed keys of half the size.
LOAD_SECTION_BYTES = LOAD_BYTES + 2 * ALIGNMENT


class KvLoad(nl.NKIObject):
    """What one load brings: flash tile f, `batches` batches from global batch `batch`, `tiles` key tiles from `low`.

    `ids` are the sub-block ids of the flash tile [128, folds, batches of the id tile], the load's first batch being
    column `id_column`; None for flat caches.
    """

    f: int
    batch: int
    batches: int
    low: int
    tiles: int
    ids: nl.NkiTensor = None
    id_column: int = 0


def tiles_per_load(dtype, staged):
    """Key tiles that LOAD_BYTES hold; half of them where keys are staged before they are transposed."""
    tiles = LOAD_BYTES // (P * item_size(dtype))
    return tiles // 2 if staged else tiles


# ---- rows: values, and keys before a transpose on the tensor engine ----------------------------------------------


def load_rows(space, cache, plan, load, name):
    """[128, batches, tiles, d] of a cache of rows."""
    rows = space.alloc((P, load.batches, load.tiles, plan.d_head), cache.dtype, name=name)
    if plan.layout == "block":
        for b in range(load.batches):
            gather_rows(rows[:, b, :, :], cache, plan, load, load.id_column + b)
    else:
        nisa.dma_copy(dst=rows, src=flat_rows(cache, plan, load))
    return rows


def flat_rows(cache, plan, load):
    """The view [128, batches, tiles, d] of a flat cache [B, 1, S, d] in the order of the layout."""
    n = plan.key_tiles(load.f)
    rows = flat_part(cache, plan, load, 1)
    if plan.layout == "strided":
        split = rows.reshape_dim(1, (P, n)).slice(2, load.low, load.low + load.tiles)
        return split.permute((1, 0, 2, 3))
    split = rows.reshape_dim(1, (n, P)).slice(1, load.low, load.low + load.tiles)
    return split.permute((2, 0, 1, 3))


def flat_part(cache, plan, load, token_axis):
    """The load's batches and the flash tile's tokens of a flat cache, its axis of one KV head dropped."""
    first = plan.first_token(load.f)
    part = cache.slice(0, load.batch, load.batch + load.batches).squeeze_dim(1)
    return part.slice(token_axis, first, first + plan.key_tiles(load.f) * P)


def fold_pieces(plan, load):
    """(fold, first token in the block, tokens, first tile in the load) of every fold that a load touches."""
    pieces = []
    tile = load.low
    while tile < load.low + load.tiles:
        inside = tile % plan.block_len
        count = min(plan.block_len - inside, load.low + load.tiles - tile)
        pieces.append((tile // plan.block_len, inside, count, tile - load.low))
        tile = tile + count
    return pieces


def sub_blocks(cache, plan, load, fold, column, inside, count):
    """Rows gathered by id: [128, count * d] of tokens inside .. inside + count - 1 of the fold's sub-blocks."""
    d = plan.d_head
    length = plan.block_len * d
    blocks = cache.reshape((cache.shape[0] * plan.block_factor, length))
    return blocks.ap(
        pattern=[[length, P], [1, count * d]], offset=inside * d, vector_offset=load.ids[:, fold, column],
        indirect_dim=0,
    )


def gather_rows(rows, cache, plan, load, column):
    """rows [128, tiles, d] := the sub-blocks of one batch, a DMA per fold."""
    pieces = fold_pieces(plan, load)
    for k in range(len(pieces)):
        fold, inside, count, tile = pieces[k]
        nisa.dma_copy(
            dst=rows[:, tile : tile + count, :],
            src=sub_blocks(cache, plan, load, fold, column, inside, count),
        )


# ---- values ------------------------------------------------------------------------------------------------------


def load_values(space, v_prior, v_active, plan, load, keep):
    """[128, batches, tiles, d]: values with the active tokens in place, +0 where keep [128, tiles, batches] is 0.

    What nobody keeps may be NaN in the cache, and 0 * NaN would reach the output.
    """
    values = load_rows(space, v_prior, plan, load, "values")
    if plan.owns_tail() and load.f == plan.flash_tiles() - 1:
        place_active_values(space, values, v_active, plan, load)
    clear_rows(values, keep)
    return values


def place_active_values(space, values, v_active, plan, load):
    """Overwrite the last s slots with v_active [B, 1, s, d], cast once to the dtype of the cache."""
    pieces = load_tail(plan, load)
    if len(pieces) == 0:
        return
    source = v_active.slice(0, load.batch, load.batch + load.batches).squeeze_dim(1).permute((1, 0, 2))
    if v_active.dtype != values.dtype:
        shape = (plan.s_active, load.batches, plan.d_head)
        space.open_scope("active values")
        wide = space.alloc(shape, v_active.dtype, name="v_active_wide")
        nisa.dma_copy(dst=wide, src=source)
        source = space.alloc(shape, values.dtype, name="v_active_cast")
        nisa.tensor_copy(dst=source, src=wide, engine=nisa.vector_engine)
        place_tail(values.permute((0, 2, 1, 3)), source, pieces)
        space.close_scope()
    else:
        place_tail(values.permute((0, 2, 1, 3)), source, pieces)


def clear_rows(values, keep):
    """values [128, batches, tiles, d] := +0 where keep [128, tiles, batches] is 0; whole words at a time."""
    words = values
    if values.shape[3] * item_size(values.dtype) % 4 == 0:
        words = values.view(nl.uint32)
    kept = keep.permute((0, 2, 1)).expand_dim(3).broadcast(3, words.shape[3])
    nisa.tensor_copy_predicated(dst=words, src=0, predicate=kept, reverse_pred=True)


def load_tail(plan, load):
    """The pieces of the active tokens' slots that lie in a load of the last flash tile."""
    n = plan.key_tiles(load.f)
    return tail_pieces(plan.s_active, plan.tail_width(n), n, load.low, load.tiles)


# ---- keys --------------------------------------------------------------------------------------------------------


def load_keys(space, k_prior, k_active, plan, load, rows_first):
    """[d, batches, tiles, 128] (a view): keys with the active tokens in place, ready to be stationary.

    `rows_first`: the cache holds rows of d, which are transposed by the DMA where it can.
    """
    if not rows_first:
        keys = load_transposed_cache(space, k_prior, plan, load)
    elif keys_are_staged(plan, k_prior.dtype, rows_first):
        keys = transpose_on_tensor_engine(space, load_rows(space, k_prior, plan, load, "key_rows"))
    else:
        keys = space.alloc((plan.d_head, load.batches, load.tiles, P), k_prior.dtype, name="keys")
        if plan.layout == "block":
            gather_transposed(keys, k_prior, plan, load)
        else:
            nisa.dma_transpose(dst=keys, src=flat_rows(k_prior, plan, load), axes=(3, 1, 2, 0))
    if plan.owns_tail() and load.f == plan.flash_tiles() - 1:
        place_active_keys(keys, k_active, plan, load)
    return keys


def keys_are_staged(plan, dtype, rows_first):
    """Whether keys are loaded as rows and transposed on the tensor engine.

    The DMA moves elements of 2 or 4 bytes; a gather that transposes takes 2-byte rows of 128 elements alone.
    """
    if not rows_first:
        return False
    if plan.layout == "block":
        return item_size(dtype) != 2 or plan.d_head != P
    return item_size(dtype) == 1


def load_transposed_cache(space, k_prior, plan, load):
    """Keys of a cache [B, 1, d, S]: rows of d already stand on the partitions, tokens stay in order."""
    n = plan.key_tiles(load.f)
    part = flat_part(k_prior, plan, load, 2).permute((1, 0, 2))
    if plan.layout == "strided":
        keys = space.alloc((plan.d_head, load.batches, P, load.tiles), k_prior.dtype, name="keys")
        split = part.reshape_dim(2, (P, n)).slice(3, load.low, load.low + load.tiles)
        nisa.dma_copy(dst=keys, src=split)
        return keys.permute((0, 1, 3, 2))
    keys = space.alloc((plan.d_head, load.batches, load.tiles, P), k_prior.dtype, name="keys")
    nisa.dma_copy(dst=keys, src=part.reshape_dim(2, (n, P)).slice(2, load.low, load.low + load.tiles))
    return keys


def gather_transposed(keys, k_prior, plan, load):
    """keys [d, batches, tiles, 128] := sub-blocks, gathered and transposed by one DMA per batch and fold."""
    d = plan.d_head
    length = plan.block_len * d
    blocks = k_prior.reshape((k_prior.shape[0] * plan.block_factor, length))
    pieces = fold_pieces(plan, load)
    for b in range(load.batches):
        for k in range(len(pieces)):
            fold, inside, count, tile = pieces[k]
            rows = blocks.ap(
                pattern=[[length, P], [1, 1], [d, count], [1, d]], offset=inside * d,
                vector_offset=load.ids[:, fold, load.id_column + b], indirect_dim=0,
            )
            nisa.dma_transpose(dst=keys[:, b : b + 1, tile : tile + count, :], src=rows, axes=(3, 1, 2, 0))


def transpose_on_tensor_engine(space, rows):
    """keys [d, batches, tiles, 128] from rows [128, batches, tiles, d], as many tiles at a time as fit a PSUM bank.

    8-bit floats pass the array as bfloat16, which holds all of them.
    """
    batches, tiles, d = rows.shape[1], rows.shape[2], rows.shape[3]
    keys = space.alloc((d, batches, tiles, P), rows.dtype, name="keys")
    flat_rows_view = rows.flatten_dims(1, 2)
    flat_keys = keys.flatten_dims(1, 2)
    narrow = item_size(rows.dtype) == 1
    dtype = nl.bfloat16 if narrow else rows.dtype
    step = BANK_BYTES // (P * item_size(dtype))
    space.open_scope("transpose", sections=2, section_bytes=BANK_BYTES)
    for low in range(0, batches * tiles, step):
        count = min(step, batches * tiles - low)
        source = flat_rows_view[:, low : low + count, :]
        if narrow:
            space.next_section()
            wide = space.alloc((P, count, d), dtype, name="key_rows_wide")
            nisa.tensor_copy(dst=wide, src=source, engine=nisa.vector_engine)
            source = wide
        turned = nl.ndarray((d, count, P), dtype=dtype, buffer=nl.psum, name="keys_turned")
        for i in range(count):
            nisa.nc_transpose(dst=turned[:, i, :], data=source[:, i, :], engine=nisa.tensor_engine)
        nisa.tensor_copy(dst=flat_keys[:, low : low + count, :], src=turned, engine=nisa.vector_engine)
    space.close_scope()
    return keys


def place_active_keys(keys, k_active, plan, load):
    """Overwrite the last s slots with k_active [d, B*s], cast once to the dtype of the cache."""
    pieces = load_tail(plan, load)
    tokens = k_active.reshape_dim(1, (-1, plan.s_active)).slice(1, load.batch, load.batch + load.batches)
    for k in range(len(pieces)):
        piece = pieces[k]
        place = keys.slice(2, piece.tile, piece.tile + piece.tiles).slice(
            3, piece.partition, piece.partition + piece.partitions
        )
        nisa.tensor_copy(
            dst=place.permute((0, 1, 3, 2)), src=rows_of(tokens, 2, piece), engine=nisa.vector_engine
        )
