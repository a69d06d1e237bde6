"""K and V of consecutive tokens out of a paged cache, the page table followed on the device.

A private copy of a table row has -1 on both sides of it, so that a segment may stick out. Whatever an entry does not
name - -1, a block that does not exist, tokens a segment does not have - is out of bounds for the gather, which skips
it; tiles are zeroed first, so skipped tokens are zeros and never what SBUF held before.
"""

import nki.isa as nisa
import nki.language as nl

from kernels.modular_allocator import sbuf_tile

P = 128
#: Tokens whose keys are staged as rows before they are turned.
STAGED_TOKENS = 2048


class PagedCache(nl.NKIObject):
    """Both caches and what their shapes say; `allocator` places temporaries (None: the compiler does)."""

    k_cache: nl.ndarray = None
    v_cache: nl.ndarray = None
    k_pre_transposed: bool = False
    allocator: nl.NKIObject = None
    #: Constant int32 tiles [128, tiles]: token of a segment, and its place in its block.
    position: nl.ndarray = None
    inside: nl.ndarray = None

    def blocks(self):
        return self.v_cache.shape[0]

    def kv_heads(self):
        return self.v_cache.shape[1]

    def block_size(self):
        return self.v_cache.shape[2]

    def d_head(self):
        return self.v_cache.shape[3]

    def tile(self, shape, dtype):
        """A temporary."""
        return sbuf_tile(self.allocator, shape, dtype)


def paged_cache(k_cache, v_cache, k_pre_transposed, tokens, allocator):
    """The PagedCache for segments of up to `tokens` tokens."""
    blocks, kv_heads, block_size, d = v_cache.shape
    assert blocks * kv_heads * block_size < 2**31, "the gather counts the tokens of all blocks and heads in 32 bits"
    cache = PagedCache(k_cache=k_cache, v_cache=v_cache, k_pre_transposed=k_pre_transposed, allocator=allocator)
    tiles = value_tiles(tokens)
    cache.position = cache.tile((P, tiles), nl.int32)
    nisa.iota(dst=cache.position, pattern=[[P, tiles]], offset=0, channel_multiplier=1)
    cache.inside = cache.tile((P, tiles), nl.int32)
    nisa.tensor_scalar(
        dst=cache.inside, data=cache.position, op0=nl.bitwise_and, operand0=block_size - 1, engine=nisa.vector_engine
    )
    return cache


def value_tiles(tokens):
    """Value tiles of 128 tokens, the last one perhaps short."""
    return (tokens + P - 1) // P


def log2(number):
    """Exponent of a power of two."""
    exponent = 0
    while 2**exponent < number:
        exponent = exponent + 1
    assert 2**exponent == number, f"block_size must be a power of two, not {number}"
    return exponent


# ---- tables ------------------------------------------------------------------------------------------------------


def padded_table(block_tables, b, front, tail, allocator):
    """[1, front + MB + tail] in private HBM: row b of the table between entries of -1."""
    entries = block_tables.shape[1]
    table = nl.ndarray((1, front + entries + tail), dtype=nl.int32, buffer=nl.private_hbm)
    nisa.dma_copy(dst=table[:, nl.ds(front, entries)], src=block_tables[b : b + 1, :])
    pad = sbuf_tile(allocator, (1, max(front, tail, 1)), nl.int32)
    nisa.memset(dst=pad, value=-1)
    if front > 0:
        nisa.dma_copy(dst=table[:, 0:front], src=pad[:, 0:front])
    if tail > 0:
        nisa.dma_copy(dst=table[:, nl.ds(front + entries, tail)], src=pad[:, 0:tail])
    return table


def tail_entries(tokens, block_size):
    """Entries behind the table that a segment of `tokens` may reach: whole value tiles are looked up."""
    return max(1, value_tiles(tokens) * P // block_size)


def head_rows(cache, entries, h_i):
    """entries int32 := entry * KV heads + h_i in place, negative or too large where it names no block."""
    nisa.tensor_scalar(
        dst=entries, data=entries, op0=nl.maximum, operand0=-1.0, op1=nl.minimum, operand1=float(cache.blocks()),
        engine=nisa.vector_engine,
    )
    nisa.tensor_scalar(
        dst=entries, data=entries, op0=nl.multiply, operand0=float(cache.kv_heads()), op1=nl.add,
        operand1=float(h_i), engine=nisa.vector_engine,
    )


def forget(cache, rows, position, low, limit):
    """rows int32 := -1 where the token `position` is below `low` (a number) or from `limit` on (an fp32 column)."""
    outside = None
    if low > 0:
        outside = cache.tile(rows.shape, nl.uint8)
        nisa.tensor_scalar(
            dst=outside, data=position, op0=nl.less, operand0=float(low), engine=nisa.vector_engine
        )
        nisa.tensor_copy_predicated(dst=rows, src=-1, predicate=outside)
    if limit != None:
        outside = cache.tile(rows.shape, nl.uint8)
        nisa.tensor_scalar(
            dst=outside, data=position, op0=nl.greater_equal, operand0=limit[0 : rows.shape[0], :],
            engine=nisa.vector_engine,
        )
        nisa.tensor_copy_predicated(dst=rows, src=-1, predicate=outside)


def token_rows(cache, table, offset, h_i, tokens, low, limit):
    """int32 [128, value tiles]: where token 128*v + p of a segment lies, in tokens of all blocks and heads.

    `offset` is an SBUF (1, 1) index into `table`, the entry of the segment's first token.
    """
    size, tiles = cache.block_size(), value_tiles(tokens)
    rows = cache.tile((P, tiles), nl.int32)
    if size <= P:
        pattern = [[1, P // size], [0, size], [P // size, tiles]]
    else:
        pattern = [[0, P], [1, tiles * P // size], [0, size // P]]
    nisa.dma_copy(dst=rows, src=table.ap(pattern=pattern, offset=0, scalar_offset=offset, indirect_dim=1))
    head_rows(cache, rows, h_i)
    forget(cache, rows, cache.position[:, 0:tiles], low, limit)
    nisa.tensor_scalar(
        dst=rows, data=rows, op0=nl.left_shift, operand0=log2(size), engine=nisa.vector_engine
    )
    nisa.tensor_tensor(
        dst=rows, data1=rows, data2=cache.inside[:, 0:tiles], op=nl.bitwise_or, engine=nisa.vector_engine
    )
    return rows


def block_rows(cache, table, offset, h_i, tokens, low, limit):
    """int32 [1, blocks]: the row of a pre-transposed cache that holds each block of a segment."""
    size = cache.block_size()
    count = tokens // size
    rows = cache.tile((1, count), nl.int32)
    nisa.dma_copy(
        dst=rows, src=table.ap(pattern=[[1, 1], [1, count]], offset=0, scalar_offset=offset, indirect_dim=1)
    )
    head_rows(cache, rows, h_i)
    if low > 0 or limit != None:
        position = cache.tile((1, count), nl.int32)
        nisa.iota(dst=position, pattern=[[size, count]], offset=0, channel_multiplier=0)
        forget(cache, rows, position, low, limit)
    return rows


# ---- gathers -----------------------------------------------------------------------------------------------------


def gather_tokens(dst, source, rows, first, tokens, d):
    """dst [128, tiles, d] := tokens first .. first + tokens - 1 of a segment, zeros where `rows` names none.

    `first` is a multiple of 128; 8-bit floats widen on the way, which is exact.
    """
    nisa.memset(dst=dst, value=0.0)
    flat = source.reshape((source.shape[0] * source.shape[1] * source.shape[2], d))
    for v in range(value_tiles(tokens)):
        count = min(P, tokens - v * P)
        index = rows[0:count, nl.ds(first // P + v, 1)]
        nisa.dma_copy(
            dst=dst[0:count, v, :],
            src=flat.ap(pattern=[[d, count], [1, d]], offset=0, vector_offset=index, indirect_dim=0),
            oob_mode=nisa.oob_mode.skip,
        )


def turn(dst, staged, tokens):
    """dst [d, tokens] := staged [128, tiles, d], the last tile short where tokens are no multiple of 128."""
    d = dst.shape[0]
    whole = tokens // P
    if whole > 0:
        nisa.dma_transpose(
            dst=dst[:, 0 : whole * P].reshape((d, 1, whole, P)),
            src=staged[:, 0:whole, :].reshape((P, 1, whole, d)),
            axes=(3, 1, 2, 0),
        )
    rest = tokens - whole * P
    if rest > 0:
        nisa.dma_transpose(
            dst=dst[:, nl.ds(whole * P, rest)].reshape((d, 1, 1, rest)),
            src=staged[0:rest, whole : whole + 1, :].reshape((rest, 1, 1, d)),
            axes=(3, 1, 2, 0),
        )


def load_key_rows(cache, keys, rows, first, tokens):
    """keys bf16 [d, tokens] := tokens first .. of a segment, from a cache that holds rows of d."""
    d = cache.d_head()
    staged = cache.tile((P, value_tiles(tokens), d), nl.bfloat16)
    gather_tokens(staged, cache.k_cache, rows, first, tokens, d)
    turn(keys, staged, tokens)


def load_key_columns(cache, keys, rows, first, tokens):
    """keys bf16 [d, tokens] := the same from a pre-transposed cache, a piece of a block per DMA.

    `first` and `tokens` are multiples of the block size.
    """
    d, size = cache.d_head(), cache.block_size()
    nisa.memset(dst=keys, value=0.0)
    for n in range(tokens // size):
        index = rows[:, nl.ds(first // size + n, 1)]
        nisa.dma_copy(
            dst=keys[:, nl.ds(n * size, size)],
            src=cache.k_cache.ap(pattern=[[size, d], [1, size]], offset=0, scalar_offset=index, indirect_dim=0),
            oob_mode=nisa.oob_mode.skip,
        )


def load_segment(cache, table, offset, h_i, tokens, low=0, limit=None):
    """(keys bf16 [d, tokens], values bf16 [128, value tiles, d]) of a segment.

    Tokens below `low`, and from the fp32 column `limit` on, are zeros and not read.
    """
    d = cache.d_head()
    keys = nl.ndarray((d, tokens), dtype=nl.bfloat16)
    values = nl.ndarray((P, value_tiles(tokens), d), dtype=nl.bfloat16)
    rows = token_rows(cache, table, offset, h_i, tokens, low, limit)
    gather_tokens(values, cache.v_cache, rows, 0, tokens, d)
    if cache.k_pre_transposed:
        columns = block_rows(cache, table, offset, h_i, tokens, low, limit)
        load_key_columns(cache, keys, columns, 0, tokens)
    else:
        for first in range(0, tokens, STAGED_TOKENS):
            count = min(STAGED_TOKENS, tokens - first)
            load_key_rows(cache, keys[:, nl.ds(first, count)], rows, first, count)
    return keys, values
