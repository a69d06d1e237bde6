"""Transposing a small tile on the tensor engine, which moves bits: NaN, infinities and signs of zero included."""

import nki.isa as nisa
import nki.language as nl

from kernels.item_size import item_size


def transpose_into(dst, source):
    """dst [columns, rows] := source [rows, columns], both in SBUF, at most 128 x 128.

    8-bit floats pass the array as bfloat16, which holds all of them.
    """
    rows, columns = source.shape
    moved = source
    if item_size(source.dtype) == 1:
        moved = nl.ndarray((rows, columns), dtype=nl.bfloat16)
        nisa.tensor_copy(dst=moved, src=source, engine=nisa.vector_engine)
    # 128 columns, whatever the number of rows: an odd number of 16-bit values would end between two words.
    turned = nl.ndarray((columns, 128), dtype=moved.dtype, buffer=nl.psum)
    nisa.nc_transpose(dst=turned[:, 0:rows], data=moved, engine=nisa.tensor_engine)
    nisa.tensor_copy(dst=dst, src=turned[:, 0:rows], engine=nisa.vector_engine)


def transposed(source):
    """A new SBUF tile [columns, rows] of source [rows, columns]."""
    tile = nl.ndarray((source.shape[1], source.shape[0]), dtype=source.dtype)
    transpose_into(tile, source)
    return tile
