"""New keys and values of decode: their FP8 codes, and their places in caches that calls address by run-time index.

`idx` uint32 in HBM is [B, 1], the first of S consecutive slots of a batch, or [B, S], the slot of every token; slots of
a batch in a flat cache, rows of all rows in a block cache. What 0xFFFFFFFF stands for, a batch or a token, leaves the
caches as they are. Only bits are moved; an index is never more than added to, on the engine whose integers are exact.
Both ways of overflow of those keep what is skipped skipped: the larger of an index and its sum is the index itself
where the sum wrapped.
"""

import nki.isa as nisa
import nki.language as nl

from kernels.exact_transpose import transposed
from kernels.fp8_clamp import clamped_fp8
from kernels.kv_store import store_slots


def quantize_new(values, scale, dtype, r):
    """kv_quantized_{r}: fp8 of values * scale, clamped to +-240; values [partitions, columns], scale in HBM, row 0."""
    rows = values.shape[0]
    narrow = nl.ndarray((rows, 1), dtype=scale.dtype)
    nisa.dma_copy(dst=narrow, src=scale.ap([[0, rows], [1, 1]]))
    wide = nl.ndarray((rows, 1), dtype=nl.float32)
    nisa.tensor_copy(dst=wide, src=narrow, engine=nisa.vector_engine)
    scaled = nl.ndarray(values.shape, dtype=nl.float32, name=f"kv_scaled_{r}")
    nisa.tensor_scalar(dst=scaled, data=values, op0=nl.multiply, operand0=wide, engine=nisa.vector_engine)
    return clamped_fp8(scaled, dtype, f"kv_quantized_{r}")


def shifted_index(index, pattern, channel_multiplier):
    """uint32 index + iota(pattern, channel_multiplier); 0xFFFFFFFF stays."""
    step = nl.ndarray(index.shape, dtype=nl.uint32)
    nisa.iota(dst=step, pattern=pattern, offset=0, channel_multiplier=channel_multiplier)
    moved = nl.ndarray(index.shape, dtype=nl.uint32)
    nisa.tensor_tensor(dst=moved, data1=index, data2=step, op=nl.add, engine=nisa.gpsimd_engine)
    result = nl.ndarray(index.shape, dtype=nl.uint32)
    nisa.tensor_tensor(dst=result, data1=index, data2=moved, op=nl.maximum, engine=nisa.gpsimd_engine)
    return result


def row_slots(idx, S, batch_rows):
    """uint32 [B*S, 1]: the row of token b*S + s in a cache where `batch_rows` rows lie between batches."""
    B, given = idx.shape
    first = nl.ndarray((1, B, S), dtype=nl.uint32)
    if given == S:
        nisa.dma_copy(dst=first, src=idx.reshape((1, B, S)))
        rows = shifted_index(first, [[batch_rows, B], [0, S]], 0)
    else:
        nisa.dma_copy(dst=first, src=idx.reshape((1, B, 1)).broadcast(2, S))
        rows = shifted_index(first, [[batch_rows, B], [1, S]], 0)
    slots = nl.ndarray((B * S, 1), dtype=nl.uint32)
    nisa.dma_copy(dst=slots, src=rows.reshape((1, B * S)))
    return slots


def update_values(cache, values, idx, S, flat):
    """Rows of values [B*S, d] to a cache [B, S_max, d] (flat) or [blocks, block_len, d]."""
    store_slots(cache, values, row_slots(idx, S, cache.shape[1] if flat else 0))


def update_keys(cache, keys, idx, S, flat):
    """The columns of keys [d, B*S] as rows of such a cache."""
    update_values(cache, transposed(keys), idx, S, flat)


def update_transposed_keys(cache, keys, idx, S):
    """keys [d, B*S] to columns of a cache [B, d, S_max]: a run of slots, per batch or per token, in each of d rows."""
    B, d, S_max = cache.shape
    runs = B * idx.shape[1]
    slots = B * S // runs
    index = nl.ndarray((d, runs), dtype=nl.uint32)
    nisa.dma_copy(dst=index, src=idx.reshape((1, runs)).broadcast(0, d))
    starts = shifted_index(index, [[0, runs]], S_max)
    elements = cache.reshape((B * d * S_max, 1))
    for r in range(runs):
        b = r * slots // S
        nisa.dma_copy(
            dst=elements.ap(
                [[1, d], [1, slots]], offset=b * d * S_max, vector_offset=starts[:, r : r + 1], indirect_dim=0
            ),
            src=keys[:, nl.ds(r * slots, slots)],
            oob_mode=nisa.oob_mode.skip,
        )
