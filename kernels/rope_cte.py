"""Rotary position embedding of tokens on the partitions: pairs (i, i + d/2) of every head, tables given.

The two products are rounded to the dtype of the tile before they are added. Of the sine table only the first half of
the columns is read; the cosine table is read whole.
"""

import nki.isa as nisa
import nki.language as nl


def load_tables(cos_cache, sin_cache, first, tokens, dtype, s):
    """(cos_{s} [tokens, d], sin_{s} [tokens, d/2]) of tokens first.. of the [B, S, d] tables, in `dtype`."""
    B, S, d = cos_cache.shape
    cos = nl.ndarray((tokens, d), dtype=dtype, name=f"cos_{s}")
    nisa.dma_copy(dst=cos, src=cos_cache.reshape((B * S, d))[nl.ds(first, tokens), :])
    sin = nl.ndarray((tokens, d // 2), dtype=dtype, name=f"sin_{s}")
    nisa.dma_copy(dst=sin, src=sin_cache.reshape((B * S, d))[nl.ds(first, tokens), 0 : d // 2])
    return cos, sin


def over_heads(table, heads):
    """[tokens, columns] repeated for every head, as a stride-0 view [tokens, heads, columns]."""
    return table.expand_dim(1).broadcast(1, heads)


def rotate_heads(x, cos, sin, s):
    """rotated_{s} [tokens, heads*d] = x * cos + (-second half, first half) * sin, all heads at once."""
    tokens, columns = x.shape
    d = cos.shape[1]
    heads, half = columns // d, d // 2
    negated = nl.ndarray(sin.shape, dtype=sin.dtype)
    nisa.tensor_scalar(dst=negated, data=sin, op0=nl.multiply, operand0=-1.0, engine=nisa.vector_engine)
    sine_part = nl.ndarray((tokens, columns), dtype=x.dtype, name=f"sine_part_{s}")
    turned, halves = sine_part.reshape((tokens, heads, 2, half)), x.reshape((tokens, heads, 2, half))
    nisa.tensor_tensor(
        dst=turned[:, :, 0, :],
        data1=halves[:, :, 1, :],
        data2=over_heads(negated, heads),
        op=nl.multiply,
        engine=nisa.vector_engine,
    )
    nisa.tensor_tensor(
        dst=turned[:, :, 1, :],
        data1=halves[:, :, 0, :],
        data2=over_heads(sin, heads),
        op=nl.multiply,
        engine=nisa.vector_engine,
    )
    cosine_part = nl.ndarray((tokens, columns), dtype=x.dtype, name=f"cosine_part_{s}")
    nisa.tensor_tensor(
        dst=cosine_part.reshape((tokens, heads, d)),
        data1=x.reshape((tokens, heads, d)),
        data2=over_heads(cos, heads),
        op=nl.multiply,
        engine=nisa.vector_engine,
    )
    rotated = nl.ndarray((tokens, columns), dtype=x.dtype, name=f"rotated_{s}")
    nisa.tensor_tensor(dst=rotated, data1=cosine_part, data2=sine_part, op=nl.add, engine=nisa.vector_engine)
    return rotated
