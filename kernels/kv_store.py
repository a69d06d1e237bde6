"""Keys and values of a tile of tokens into FP8 caches: divide by the scale, clamp, cast once, store the rows.

A flat cache is [B, max_seq_len, columns], a block cache [num_blocks, block_size, columns] whose rows slots address.
"""

import nki.isa as nisa
import nki.language as nl


def largest_finite(dtype):
    """Largest value of an FP8 format."""
    if dtype == nl.float8_e4m3:
        return 240.0
    if dtype == nl.float8_e5m2:
        return 57344.0
    return 448.0


def inverse_scale(scale, name):
    """fp32 [128, 1] reciprocal of a scale [128, 1]."""
    tile = nl.ndarray((128, 1), dtype=nl.float32)
    nisa.dma_copy(dst=tile, src=scale)
    inverse = nl.ndarray((128, 1), dtype=nl.float32, name=name)
    nisa.reciprocal(dst=inverse, data=tile)
    return inverse


def quantize_rows(values, inverse, upper, lower, dtype, name):
    """`dtype` of min(max(values * inverse, lower), upper); values [tokens, columns], nothing rounded in between."""
    tokens = values.shape[0]
    scaled = nl.ndarray(values.shape, dtype=nl.float32)
    nisa.tensor_scalar(
        dst=scaled, data=values, op0=nl.multiply, operand0=inverse[0:tokens, :], engine=nisa.vector_engine
    )
    quantized = nl.ndarray(values.shape, dtype=dtype, name=name)
    nisa.tensor_scalar(
        dst=quantized,
        data=scaled,
        op0=nl.maximum,
        operand0=lower,
        op1=nl.minimum,
        operand1=upper,
        engine=nisa.vector_engine,
    )
    return quantized


def store_flat(cache, rows, first, S):
    """Rows of tokens first.. (token b*S + s) to cache[b, s]: one DMA for whole sequences, one for either end."""
    done, tokens = 0, rows.shape[0]
    while done < tokens:
        b, s = (first + done) // S, (first + done) % S
        count = min(S - s, tokens - done)
        batches = 1
        if s == 0 and count == S:
            batches = (tokens - done) // S
        nisa.dma_copy(dst=cache[nl.ds(b, batches), nl.ds(s, count), :], src=rows[nl.ds(done, batches * count), :])
        done = done + batches * count


def load_slots(slot_mapping, first, tokens):
    """uint32 [tokens, 1]: the rows of tokens first.. in a block cache; -1 reads as a row beyond any end."""
    B, S = slot_mapping.shape
    slots = nl.ndarray((tokens, 1), dtype=nl.uint32)
    nisa.dma_copy(dst=slots, src=slot_mapping.reshape((B * S, 1)).view(nl.uint32)[nl.ds(first, tokens), :])
    return slots


def store_slots(cache, rows, slots):
    """Row r to the row slots[r] of the block cache; a slot beyond its end is skipped."""
    blocks, block_size, columns = cache.shape
    nisa.dma_copy(
        dst=cache.reshape((blocks * block_size, columns)).ap(
            [[columns, rows.shape[0]], [1, columns]], vector_offset=slots, indirect_dim=0
        ),
        src=rows,
        oob_mode=nisa.oob_mode.skip,
    )
