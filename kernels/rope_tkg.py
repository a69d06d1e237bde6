"""Rotary position embedding of heads that stand as columns [d, columns], with given tables of cosines and sines.

A pair (e, o) of channels becomes (e*cos - o*sin, o*cos + e*sin). All four products and both sums are rounded to the
dtype of the heads. Pairs are halves (i, i + d/2) or neighbours (2i, 2i + 1); neighbours are taken apart by transposes,
which leave a NaN in its pair where a permutation by matmul would spread it over the column.
"""

import nki.isa as nisa
import nki.language as nl

from kernels.exact_transpose import transpose_into, transposed
from kernels.rope import over_heads


def load_table(table):
    """[d/2, B*S] in SBUF of a table [d/2, B, S] in HBM, in its own dtype."""
    half, B, S = table.shape
    tile = nl.ndarray((half, B * S), dtype=table.dtype)
    nisa.dma_copy(dst=tile, src=table.reshape((half, B * S)))
    return tile


def rotate_columns(x, cos, sin, batches, heads, contiguous, r):
    """rotated_{r}: x [d, B*heads*S] turned by the tables [d/2, B*S], the same for every head."""
    even, odd = split_pairs(x, contiguous)
    cosines, sines = over_heads(cos, batches, heads), over_heads(sin, batches, heads)
    even_cos = product(even, cosines, f"rope_even_cos_{r}")
    odd_sin = product(odd, sines, f"rope_odd_sin_{r}")
    odd_cos = product(odd, cosines, f"rope_odd_cos_{r}")
    even_sin = product(even, sines, f"rope_even_sin_{r}")
    turned_even = nl.ndarray(even.shape, dtype=x.dtype, name=f"rope_even_{r}")
    nisa.tensor_tensor(
        dst=turned_even, data1=even_cos, data2=odd_sin, op=nl.subtract, engine=nisa.vector_engine
    )
    turned_odd = nl.ndarray(odd.shape, dtype=x.dtype, name=f"rope_odd_{r}")
    nisa.tensor_tensor(dst=turned_odd, data1=odd_cos, data2=even_sin, op=nl.add, engine=nisa.vector_engine)
    rotated = nl.ndarray(x.shape, dtype=x.dtype, name=f"rotated_{r}")
    join_pairs(rotated, turned_even, turned_odd, contiguous)
    return rotated


def product(values, table, name):
    """values * table, rounded to the dtype of the values."""
    result = nl.ndarray(values.shape, dtype=values.dtype, name=name)
    nisa.tensor_tensor(dst=result, data1=values, data2=table, op=nl.multiply, engine=nisa.vector_engine)
    return result


def split_pairs(x, contiguous):
    """(even, odd): the first and the second channels of all pairs, both [d/2, columns] from partition 0 on."""
    half = x.shape[0] // 2
    if contiguous:
        odd = nl.ndarray((half, x.shape[1]), dtype=x.dtype)
        nisa.tensor_copy(dst=odd, src=x[half : 2 * half, :], engine=nisa.vector_engine)
        return x[0:half, :], odd
    pairs = transposed(x).reshape((x.shape[1], half, 2))
    return transposed(pairs[:, :, 0]), transposed(pairs[:, :, 1])


def join_pairs(x, even, odd, contiguous):
    """x [d, columns] := even and odd, put back where `split_pairs` took them from."""
    half, columns = even.shape
    if contiguous:
        nisa.tensor_copy(dst=x[0:half, :], src=even, engine=nisa.vector_engine)
        nisa.tensor_copy(dst=x[half : 2 * half, :], src=odd, engine=nisa.vector_engine)
    else:
        rows = nl.ndarray((columns, 2 * half), dtype=x.dtype)
        pairs = rows.reshape((columns, half, 2))
        transpose_into(pairs[:, :, 0], even)
        transpose_into(pairs[:, :, 1], odd)
        transpose_into(x, rows)
