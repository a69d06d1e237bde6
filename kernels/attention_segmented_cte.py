"""Attention of a chunk of new tokens over a paged KV cache that already holds them (prefill with prefix caching).

The prior is met in segments whose number only the device knows: the chunk's own keys first, then a partial segment,
then full ones from the latest to the earliest, with a running softmax. Rows of q that share a KV head share what is
loaded. Two cores divide the rows; an odd last row they divide by queries. With a sliding window all keys a query can
see are one segment.
"""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.attention_segmented_cte_arguments import (
    check_caches,
    check_count,
    check_launch,
    check_lengths,
    check_load,
    check_options,
    check_queries,
    check_table,
)
from kernels.float_to_int import ceil_nisa_kernel, floor_nisa_kernel
from kernels.lnc import program_sharding
from kernels.modular_allocator import address_of, restore, sbuf_tile
from kernels.paged_load import (
    P,
    block_rows,
    gather_tokens,
    load_key_columns,
    load_key_rows,
    load_segment,
    padded_table,
    paged_cache,
    tail_entries,
    token_rows,
)
from kernels.segment_attention import KEY_TILE, Segment, attend
from kernels.segment_schedule import (
    affine,
    as_column,
    core_slices,
    entry_of,
    kv_head_of,
    load_scalar,
    passes,
    segment_schedule,
)
from kernels.segment_state import (
    RowState,
    allocate_state,
    flash_update,
    group_state,
    merge,
    normalise,
    product,
    put,
)

__all__ = ["attention_segmented_cte", "ceil_nisa_kernel", "floor_nisa_kernel", "load_kv_cache"]

#: Kinds of segments, as tile names count them.
ACTIVE, PARTIAL, FULL, EXTRA, WINDOW = 0, 1, 2, 3, 4


class SegmentedCall(nl.NKIObject):
    """Arguments and constants that every step needs."""

    q: nl.ndarray = None
    block_tables: nl.ndarray = None
    cache: nl.NKIObject = None
    segment: int = 0
    scale: float = 1.0
    tp_q: bool = True
    tp_out: bool = False
    window: int = 0
    sink: nl.ndarray = None
    heads: int = 1
    #: fp32 [128, 1] columns; None where the call has none.
    offset: nl.ndarray = None
    k_scale: nl.ndarray = None
    #: fp32 [128, d], the same row in every partition.
    v_scale: nl.ndarray = None
    schedule: nl.NKIObject = None
    #: fp32 [128, groups]: number of a query in its slice; fp32 [128, 1]: 0.
    queries: nl.ndarray = None
    zero: nl.ndarray = None
    out: nl.ndarray = None
    neg_max: nl.ndarray = None
    sum_recip: nl.ndarray = None

    def seqlen(self):
        return self.q.shape[1] if self.tp_q else self.q.shape[2]


@nki.jit
def attention_segmented_cte(
    q,
    k_cache,
    v_cache,
    block_tables,
    prior_tokens,
    block_size,
    prior_seg_size,
    scale=1.0,
    tp_q=True,
    tp_out=False,
    sliding_window=None,
    sink=None,
    num_q_heads=1,
    kvp_offset=None,
    k_pre_transposed=False,
    k_scale=None,
    v_scale=None,
):
    """softmax(scale * q K) V of S new tokens over prior_tokens + S keys of a paged cache.

    q [B*H, S, d] (tp_q; else [B*H, d, S]) bf16 or fp32; v_cache [blocks, KV heads, block_size, d]; k_cache the same, or
    k_pre_transposed [blocks * KV heads, d, block_size]; block_tables [B, entries] int32, entry e of a row for tokens
    e * block_size on, -1 behind the tokens; prior_tokens [1, 1] int32; sink [B*H, 1], one logit per row without a
    value; k_scale, v_scale [128, 1] fp32 along the head. Returns out like q ([B*H, d, S] with tp_out). kvp_offset
    [1, 1]: query i sees keys up to i + kvp_offset, and the result is (out, neg_max, sum_recip) with [B*H, S] fp32
    statistics. A page that is skipped reads as zeros; nothing else of the cache or the table is followed.
    """
    n_prgs, prg = program_sharding()
    window = 0 if sliding_window == None else sliding_window
    check_launch(n_prgs, tp_q, tp_out, k_pre_transposed)
    check_caches(k_cache, v_cache, k_pre_transposed)
    assert block_size == v_cache.shape[2], "block_size must be that of the caches"
    check_table(block_tables, block_size)
    check_queries(q, v_cache, block_tables, tp_q, num_q_heads)
    rows, seqlen, d = q.shape[0], q.shape[1] if tp_q else q.shape[2], v_cache.shape[3]
    check_lengths(seqlen, block_size, prior_seg_size, window, block_tables)
    check_count(prior_tokens, "prior_tokens")
    check_options(rows, scale, window, sink, kvp_offset, k_scale, v_scale)
    call = SegmentedCall(
        q=q, block_tables=block_tables, segment=prior_seg_size, scale=float(scale), tp_q=tp_q, tp_out=tp_out,
        window=window, sink=sink, heads=num_q_heads,
    )
    call.out = nl.ndarray((rows, d, seqlen) if tp_out else (rows, seqlen, d), dtype=q.dtype, buffer=nl.shared_hbm)
    longest = max(prior_seg_size, seqlen)
    if window > 0:
        longest = window_area(window) + seqlen
    call.cache = paged_cache(k_cache, v_cache, k_pre_transposed, longest, None)
    load_constants(call, k_scale, v_scale)
    if kvp_offset != None:
        call.offset = as_column(load_scalar(kvp_offset))
        call.neg_max = nl.ndarray((rows, seqlen), dtype=nl.float32, buffer=nl.shared_hbm)
        call.sum_recip = nl.ndarray((rows, seqlen), dtype=nl.float32, buffer=nl.shared_hbm)
    if window == 0:
        call.schedule = segment_schedule(prior_tokens, prior_seg_size)
    slices = core_slices(rows, seqlen, block_size, kvp_offset != None, n_prgs, prg)
    groups = passes(slices, num_q_heads, v_cache.shape[1], d, window == 0)
    for i in range(len(groups)):
        if window > 0:
            attend_window(call, groups[i], prior_tokens)
        else:
            attend_slices(call, groups[i])
    if kvp_offset != None:
        return call.out, call.neg_max, call.sum_recip
    return call.out


# ---- constants ---------------------------------------------------------------------------------------------------


def load_constants(call, k_scale, v_scale):
    """Scales and the numbers of the queries."""
    d, groups = call.cache.d_head(), call.seqlen() // P
    call.queries = nl.ndarray((P, groups), dtype=nl.float32)
    nisa.iota(dst=call.queries, pattern=[[P, groups]], offset=0, channel_multiplier=1)
    call.zero = nl.ndarray((P, 1), dtype=nl.float32)
    nisa.memset(dst=call.zero, value=0.0)
    if k_scale != None:
        call.k_scale = nl.ndarray((d, 1), dtype=nl.float32)
        nisa.dma_copy(dst=call.k_scale, src=k_scale[0:d, :])
    if v_scale != None:
        call.v_scale = nl.ndarray((P, d), dtype=nl.float32)
        nisa.dma_copy(dst=call.v_scale, src=v_scale.ap(pattern=[[0, P], [1, d]]))


# ---- queries -----------------------------------------------------------------------------------------------------


def load_rows(call, slices, running):
    """A RowState per Slice; `running`: with unwritten running values."""
    states = []
    for i in range(len(slices)):
        part = slices[i]
        state = RowState(row=part.row, groups=part.length // P)
        state.query = load_query(call, part)
        if call.sink != None:
            state.sink = load_sink(call, part.row)
        if running:
            allocate_state(state, call.cache.d_head())
        states.append(state)
    return states


def load_query(call, part):
    """bf16 [d, queries] of a Slice, multiplied by k_scale where there is one."""
    d = call.cache.d_head()
    query = nl.ndarray((d, part.length), dtype=nl.bfloat16, name=f"query_{part.row}")
    if call.tp_q:
        turn_query(call, part, query)
    elif call.q.dtype == nl.bfloat16:
        nisa.dma_copy(dst=query, src=call.q[part.row, :, nl.ds(part.first, part.length)])
    else:
        wide = nl.ndarray((d, part.length), dtype=call.q.dtype)
        nisa.dma_copy(dst=wide, src=call.q[part.row, :, nl.ds(part.first, part.length)])
        nisa.tensor_copy(dst=query, src=wide, engine=nisa.vector_engine)
    if call.k_scale == None:
        return query
    scaled = nl.ndarray((d, part.length), dtype=nl.bfloat16, name=f"query_scaled_{part.row}")
    product(scaled, query, call.k_scale)
    return scaled


def turn_query(call, part, query):
    """query [d, queries] := a Slice of q [rows, S, d]."""
    d, groups = query.shape[0], part.length // P
    staged = nl.ndarray((P, groups, d), dtype=call.q.dtype)
    start = (part.row * call.seqlen() + part.first) * d
    nisa.dma_copy(dst=staged, src=call.q.ap(pattern=[[d, P], [P * d, groups], [1, d]], offset=start))
    if call.q.dtype != nl.bfloat16:
        wide = staged
        staged = nl.ndarray((P, groups, d), dtype=nl.bfloat16)
        nisa.tensor_copy(dst=staged, src=wide, engine=nisa.vector_engine)
    nisa.dma_transpose(
        dst=query.reshape((d, 1, groups, P)), src=staged.reshape((P, 1, groups, d)), axes=(3, 1, 2, 0)
    )


def load_sink(call, row):
    """fp32 [128, 1]: the row's sink in every partition."""
    narrow = nl.ndarray((P, 1), dtype=call.sink.dtype)
    nisa.dma_copy(dst=narrow, src=call.sink.ap(pattern=[[0, P], [1, 1]], offset=row))
    if call.sink.dtype == nl.float32:
        return narrow
    wide = nl.ndarray((P, 1), dtype=nl.float32)
    nisa.tensor_copy(dst=wide, src=narrow, engine=nisa.vector_engine)
    return wide


# ---- rows that share their keys, without a window ----------------------------------------------------------------


def attend_slices(call, slices):
    """All segments of rows that share their keys, then their results."""
    part, schedule = slices[0], call.schedule
    size = call.cache.block_size()
    states = load_rows(call, slices, True)
    table = padded_table(
        call.block_tables, part.row // call.heads, 0, tail_entries(call.segment, size), call.cache.allocator
    )
    attend_active(call, states, table, part)

    def partial(trip):
        attend_partial(call, states, table)

    nl.fori_loop(0, schedule.partial_trips, partial)
    attend_full_segments(call, states, table)
    if part.first > 0 and call.offset == None:
        attend_extra(call, states, table, part)
    for i in range(len(states)):
        finish(call, states[i], slices[i])


def loaded_segment(call, states, table, entry, kind, length, limit):
    """A Segment from table entry `entry` on."""
    head = kv_head_of(states[0].row, call.heads, call.cache.kv_heads())
    keys, values = load_segment(call.cache, table, entry, head, length, 0, limit)
    return Segment(kind=kind, length=length, keys=keys, values=values)


def sees_up_to(call, segment, start):
    """Mask by kvp_offset: query i sees key k iff k <= i + (kvp_offset - start), start an fp32 column."""
    shift = nl.ndarray((P, 1), dtype=nl.float32)
    nisa.tensor_tensor(dst=shift, data1=call.offset, data2=start, op=nl.subtract, engine=nisa.vector_engine)
    segment.lower = call.zero
    segment.upper = nl.ndarray(call.queries.shape, dtype=nl.float32)
    nisa.tensor_scalar(
        dst=segment.upper, data=call.queries, op0=nl.add, operand0=shift, engine=nisa.vector_engine
    )


def attend_active(call, states, table, part):
    """The Slice's own tokens: they set the running values. The sink is counted here and nowhere else."""
    size = call.cache.block_size()
    entry = entry_of(call.schedule.prior, size, part.first // size)
    segment = loaded_segment(call, states, table, entry, ACTIVE, part.length, None)
    if call.offset == None:
        segment.diagonal = 0
        segment.lower = call.zero
        segment.upper = call.queries
    else:
        sees_up_to(call, segment, call.schedule.prior_column)
    for i in range(len(states)):
        for g in range(states[i].groups):
            new = attend(states[i], segment, g, call.scale, None, call.sink != None)
            put(states[i], g, new.n, new.sum, new.o)


def attend_partial(call, states, table):
    """What is left of the prior behind its full segments; a trip of a loop, merged."""
    schedule = call.schedule
    entry = affine(schedule.num_full, call.segment // call.cache.block_size(), 0)
    segment = loaded_segment(call, states, table, entry, PARTIAL, call.segment, schedule.partial_column)
    last = affine(schedule.partial_column, 1, -1)
    if call.offset == None:
        segment.lower = call.zero
        segment.upper = last
    else:
        sees_up_to(call, segment, schedule.partial_start)
        nisa.tensor_scalar(
            dst=segment.upper, data=segment.upper, op0=nl.minimum, operand0=last, engine=nisa.vector_engine
        )
    merge_segment(call, states, segment)


def merge_segment(call, states, segment):
    """Attend a segment by itself and merge it."""
    for i in range(len(states)):
        for g in range(states[i].groups):
            new = attend(states[i], segment, g, call.scale, None, False)
            merge(states[i], g, segment.kind, new)


def attend_full_segments(call, states, table):
    """Full segments from the latest to the earliest, as many as the device counts."""
    schedule = call.schedule
    step = call.segment // call.cache.block_size()
    # Written in every trip, so each pass over rows has its own.
    entry = affine(schedule.num_full, step, -step)
    start = affine(schedule.partial_start, 1, -call.segment)

    def full(trip):
        attend_full(call, states, table, entry, start)
        nisa.tensor_scalar(
            dst=entry, data=entry, op0=nl.subtract, operand0=float(step), engine=nisa.vector_engine
        )
        nisa.tensor_scalar(
            dst=start, data=start, op0=nl.subtract, operand0=float(call.segment), engine=nisa.vector_engine
        )

    nl.fori_loop(0, schedule.full_trips, full)


def attend_full(call, states, table, entry, start):
    """One full segment: a flash update, or with kvp_offset a merge."""
    segment = loaded_segment(call, states, table, entry, FULL, call.segment, None)
    if call.offset != None:
        sees_up_to(call, segment, start)
        merge_segment(call, states, segment)
        return
    for i in range(len(states)):
        for g in range(states[i].groups):
            before = group_state(states[i], g)
            new = attend(states[i], segment, g, call.scale, before.n, False)
            flash_update(states[i], g, new)


def attend_extra(call, states, table, part):
    """The other core's tokens of a split row: all of them lie before this core's."""
    entry = entry_of(call.schedule.prior, call.cache.block_size(), 0)
    merge_segment(call, states, loaded_segment(call, states, table, entry, EXTRA, part.first, None))


# ---- sliding window ----------------------------------------------------------------------------------------------


def window_area(window):
    """Columns in front of a Slice's own tokens: whole key tiles."""
    return (window + KEY_TILE - 1) // KEY_TILE * KEY_TILE


def attend_window(call, slices, prior_tokens):
    """One segment of everything that rows sharing their keys can see, then their results."""
    part, size, area = slices[0], call.cache.block_size(), window_area(call.window)
    states = load_rows(call, slices, False)
    table = padded_table(
        call.block_tables, part.row // call.heads, area // size, tail_entries(P, size), call.cache.allocator
    )
    prior = load_scalar(prior_tokens)
    # The pad in front of the table is as long as the area: entry number of the area's first token.
    entry = entry_of(prior, size, part.first // size)
    head = kv_head_of(part.row, call.heads, call.cache.kv_heads())
    length = area + part.length
    keys, values = load_segment(call.cache, table, entry, head, length, area - call.window, None)
    segment = Segment(
        kind=WINDOW, length=length, keys=keys, values=values, diagonal=area, window=call.window, certain=area
    )
    segment.upper = affine(call.queries, 1, area)
    segment.lower = affine(call.queries, 1, area - call.window + 1)
    first_token = affine(as_column(prior), -1, area - part.first)
    nisa.tensor_scalar(
        dst=segment.lower, data=segment.lower, op0=nl.maximum, operand0=first_token, engine=nisa.vector_engine
    )
    for i in range(len(states)):
        result = result_tile(call, slices[i])
        for g in range(states[i].groups):
            new = attend(states[i], segment, g, call.scale, None, call.sink != None)
            finish_group(call, slices[i], g, new.n, new.sum, new.o, result)
        store_turned(call, slices[i], result)


# ---- results -----------------------------------------------------------------------------------------------------


def finish(call, state, part):
    """Normalise and store a row's running values."""
    result = result_tile(call, part)
    for g in range(state.groups):
        last = group_state(state, g)
        finish_group(call, part, g, last.n, last.sum, last.o, result)
    store_turned(call, part, result)


def result_tile(call, part):
    """[d, queries] for a result that is stored head dim first; else None."""
    if not call.tp_out:
        return None
    return nl.ndarray((call.cache.d_head(), part.length), dtype=call.q.dtype)


def finish_group(call, part, g, n, total, o, result):
    """Normalise a group; store it, or turn it into `result`. Statistics go out beside it."""
    recip, out = normalise(part.row, g, total, o, call.v_scale)
    queries = nl.ds(part.first + g * P, P)
    if call.neg_max != None:
        nisa.dma_copy(dst=call.neg_max[part.row, queries], src=n)
        nisa.dma_copy(dst=call.sum_recip[part.row, queries], src=recip)
    if call.tp_out:
        turned = nl.ndarray((out.shape[1], P), dtype=nl.bfloat16, buffer=nl.psum)
        nisa.nc_transpose(dst=turned, data=out, engine=nisa.tensor_engine)
        nisa.tensor_copy(dst=result[:, nl.ds(g * P, P)], src=turned, engine=nisa.vector_engine)
        return
    if call.q.dtype != nl.bfloat16:
        narrow = out
        out = nl.ndarray(narrow.shape, dtype=call.q.dtype)
        nisa.tensor_copy(dst=out, src=narrow, engine=nisa.vector_engine)
    nisa.dma_copy(dst=call.out[part.row, queries, :], src=out)


def store_turned(call, part, result):
    """A row [d, queries] into out [rows, d, S]."""
    if result != None:
        nisa.dma_copy(dst=call.out[part.row, :, nl.ds(part.first, part.length)], src=result)


# ---- the loader by itself ----------------------------------------------------------------------------------------


def load_kv_cache(
    k_cache,
    v_cache,
    block_tables,
    k_sbuf,
    v_sbuf,
    b_i,
    h_i,
    block_table_offset,
    num_blocks,
    allocator,
    k_pre_transposed=False,
):
    """Blocks offset .. offset + num_blocks - 1 of row b_i of the table, KV head h_i, into SBUF.

    k_sbuf: tiles bf16 [d, 512 tokens]; v_sbuf: tiles bf16 [128 tokens, d]; block_table_offset (1, 1) int32 or uint32
    in SBUF. All tiles are written: what no block fills, or whose entry is not in the cache or outside the table, is 0.
    `allocator` places temporaries and is left where it was (None: the compiler places them).
    """
    check_caches(k_cache, v_cache, k_pre_transposed)
    check_table(block_tables, v_cache.shape[2])
    check_load(v_cache, block_tables, k_sbuf, v_sbuf, b_i, h_i, block_table_offset, num_blocks)
    address = address_of(allocator)
    cache = paged_cache(k_cache, v_cache, k_pre_transposed, num_blocks * v_cache.shape[2], allocator)
    tokens = num_blocks * cache.block_size()
    pad = tail_entries(tokens, cache.block_size())
    table = padded_table(block_tables, b_i, pad, pad, allocator)
    entry = sbuf_tile(allocator, (1, 1), nl.int32)
    nisa.tensor_scalar(
        dst=entry, data=block_table_offset, op0=nl.minimum, operand0=float(block_tables.shape[1]), op1=nl.maximum,
        operand1=float(-pad), engine=nisa.vector_engine,
    )
    nisa.tensor_scalar(dst=entry, data=entry, op0=nl.add, operand0=float(pad), engine=nisa.vector_engine)
    rows = token_rows(cache, table, entry, h_i, tokens, 0, None)
    columns = None
    if k_pre_transposed:
        columns = block_rows(cache, table, entry, h_i, tokens, 0, None)
    for v in range(len(v_sbuf)):
        count = max(0, min(P, tokens - v * P))
        load_value_tile(cache, v_sbuf[v], rows, v, count)
    for t in range(len(k_sbuf)):
        count = max(0, min(KEY_TILE, tokens - t * KEY_TILE))
        load_key_tile(cache, k_sbuf[t], rows, columns, t, count)
    restore(allocator, address)


def load_value_tile(cache, tile, rows, v, count):
    """Value tile v [128, d] := its first `count` tokens, then zeros."""
    if count == 0:
        nisa.memset(dst=tile, value=0.0)
        return
    d = cache.d_head()
    gather_tokens(tile.reshape((P, 1, d)), cache.v_cache, rows, v * P, count, d)


def load_key_tile(cache, tile, rows, columns, t, count):
    """Key tile t [d, 512] := its first `count` tokens, then zeros."""
    if count < KEY_TILE:
        nisa.memset(dst=tile, value=0.0)
    if count == 0:
        return
    keys = tile[:, 0:count]
    if cache.k_pre_transposed:
        load_key_columns(cache, keys, columns, t * KEY_TILE, count)
        return
    address = address_of(cache.allocator)
    load_key_rows(cache, keys, rows, t * KEY_TILE, count)
    restore(cache.allocator, address)
