"""Who attends what, and when: rows over cores before the launch, segments of the prior on the device."""

import nki.isa as nisa
import nki.language as nl

from kernels.float_to_int import floor_nisa_kernel
from kernels.paged_load import P, log2

#: SBUF bytes of a partition that queries and running values may take; the rest is for one segment at work.
STATE_BYTES = 80 * 1024


class Slice(nl.NKIObject):
    """Queries first .. first + length - 1 of a row of q."""

    row: int = 0
    first: int = 0
    length: int = 0


class Schedule(nl.NKIObject):
    """What follows from prior_tokens, on the device: (1, 1) int32 tiles, fp32 columns [128, 1] and trip counts."""

    prior: nl.ndarray = None
    num_full: nl.ndarray = None
    partial: nl.ndarray = None
    prior_column: nl.ndarray = None
    #: Tokens of the partial segment; its first token.
    partial_column: nl.ndarray = None
    partial_start: nl.ndarray = None
    partial_trips: nl.ndarray = None
    full_trips: nl.ndarray = None


def core_slices(rows, queries, block_size, with_offset, n_prgs, prg):
    """The Slices of core `prg`, rows ascending. An odd last row is cut in two, unless a kvp_offset is given."""
    if n_prgs == 1:
        return whole_rows(0, rows, queries)
    if with_offset:
        half = (rows + 1) // 2
        return whole_rows(prg * half, half if prg == 0 else rows - half, queries)
    half = rows // 2
    found = whole_rows(prg * half, half, queries)
    if rows % 2 == 1:
        unit = max(P, block_size)
        cut = unit * ((queries + 2 * unit - 1) // (2 * unit))
        if prg == 0:
            found.append(Slice(row=rows - 1, first=0, length=cut))
        elif cut < queries:
            found.append(Slice(row=rows - 1, first=cut, length=queries - cut))
    return found


def whole_rows(first, count, queries):
    """A Slice for each of `count` rows."""
    found = []
    for row in range(first, first + count):
        found.append(Slice(row=row, first=0, length=queries))
    return found


def kv_head_of(row, heads, kv_heads):
    """The KV head that a row of q attends."""
    return row % heads * kv_heads // heads


def passes(slices, heads, kv_heads, d, running):
    """Lists of Slices that share the keys they meet, and whose state fits SBUF together."""
    found = []
    for i in range(len(slices)):
        part = slices[i]
        joins = False
        if len(found) > 0:
            group = found[len(found) - 1]
            joins = shares_keys(group[0], part, heads, kv_heads) and (
                (len(group) + 1) * slice_bytes(part.length, d, running) <= STATE_BYTES
            )
        if joins:
            group.append(part)
        else:
            found.append([part])
    return found


def shares_keys(one, other, heads, kv_heads):
    """Whether two Slices meet the same keys of the same sequence."""
    same_head = kv_head_of(one.row, heads, kv_heads) == kv_head_of(other.row, heads, kv_heads)
    return same_head and one.row // heads == other.row // heads and one.first == other.first and (
        one.length == other.length
    )


def slice_bytes(queries, d, running):
    """SBUF bytes per partition that a row keeps between segments."""
    size = 2 * queries
    if running:
        size = size + queries // P * 4 * (d + 2)
    return size


# ---- on the device -----------------------------------------------------------------------------------------------


def load_scalar(source):
    """(1, 1) int32 in SBUF."""
    tile = nl.ndarray((1, 1), dtype=nl.int32)
    nisa.dma_copy(dst=tile, src=source)
    return tile


def as_column(tile):
    """fp32 [128, 1] with the value of a (1, 1) tile in every partition."""
    single = nl.ndarray((1, 1), dtype=nl.float32)
    nisa.tensor_copy(dst=single, src=tile, engine=nisa.vector_engine)
    result = nl.ndarray((P, 1), dtype=nl.float32)
    nisa.dma_copy(dst=result, src=single.ap(pattern=[[1, 1], [0, P]]))
    return result


def affine(tile, factor, term):
    """A fresh tile like `tile`: tile * factor + term, through fp32, exact below 2**24."""
    result = nl.ndarray(tile.shape, dtype=tile.dtype)
    nisa.tensor_scalar(
        dst=result, data=tile, op0=nl.multiply, operand0=float(factor), op1=nl.add, operand1=float(term),
        engine=nisa.vector_engine,
    )
    return result


def trips(tile):
    """A register with the value of a (1, 1) tile."""
    register = nisa.register_alloc(None)
    nisa.register_load(dst=register, src=tile)
    return register


def segment_schedule(prior_tokens, segment):
    """The Schedule of a prior that is cut into segments of `segment` tokens.

    Multiplied by the rounded reciprocal: P = G = 5248 gives no full segment and a partial one of 5248 tokens. The
    product is never above the quotient.
    """
    prior = load_scalar(prior_tokens)
    wide = nl.ndarray((1, 1), dtype=nl.float32)
    nisa.tensor_copy(dst=wide, src=prior, engine=nisa.vector_engine)
    turns = nl.ndarray((1, 1), dtype=nl.float32, name="turns")
    nisa.tensor_scalar(dst=turns, data=wide, op0=nl.multiply, operand0=1.0 / segment, engine=nisa.vector_engine)
    num_full = nl.ndarray((1, 1), dtype=nl.int32, name="num_full")
    floor_nisa_kernel(turns, num_full, 1, 1, None)
    partial = nl.ndarray((1, 1), dtype=nl.int32, name="partial")
    nisa.scalar_tensor_tensor(
        dst=partial, data=num_full, op0=nl.multiply, operand0=float(-segment), op1=nl.add, operand1=prior
    )
    has_partial = nl.ndarray((1, 1), dtype=nl.int32)
    nisa.tensor_scalar(dst=has_partial, data=partial, op0=nl.greater, operand0=0.0, engine=nisa.vector_engine)
    return Schedule(
        prior=prior, num_full=num_full, partial=partial, prior_column=as_column(prior),
        partial_column=as_column(partial), partial_start=affine(as_column(num_full), segment, 0),
        partial_trips=trips(has_partial), full_trips=trips(num_full),
    )


def entry_of(tokens, block_size, shift):
    """(1, 1) int32: the table entry of a token count in a (1, 1) tile, plus `shift`."""
    entry = nl.ndarray((1, 1), dtype=nl.int32)
    nisa.tensor_scalar(
        dst=entry, data=tokens, op0=nl.right_shift, operand0=log2(block_size), engine=nisa.vector_engine
    )
    return affine(entry, 1, shift)
