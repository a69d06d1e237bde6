"""Folding heads into the contraction: several short heads share one pass of the tensor engine.

A packed head starts at partition offset k * D, and compute engines only start at multiples of 32 partitions, so D must
be a multiple of 32.
"""

import nki.isa as nisa
import nki.language as nl


def heads_per_group(N, D):
    """Largest divisor g of N with g * D <= 128 partitions; 1 where D is no multiple of 32."""
    if D % 32 != 0:
        return 1
    g = N
    while N % g != 0 or g * D > nl.tile_size.pmax:
        g = g - 1
    return g


def pack_heads(packed, attention, g, slots):
    """Copy attention [D, B, N, S] (HBM or SBUF) into packed [g*D, slots, passes*B*S], head-major columns.

    Pass k, slot j holds the heads (k*slots + j)*g ... + g - 1, one below the other, tokens ordered (b, s).
    """
    D, B, N, S = attention.shape
    passes = N // (g * slots)
    split = attention.reshape((D, B, passes, slots, g, S))
    for j in range(slots):
        for off in range(g):
            src = split[:, :, :, j, off, :].permute((0, 2, 1, 3))
            dst = packed[off * D : (off + 1) * D, j, :].reshape((D, passes, B, S))
            if nl.is_sbuf(attention.buffer):
                nisa.tensor_copy(dst=dst, src=src, engine=nisa.vector_engine)
            else:
                nisa.dma_copy(dst=dst, src=src)
