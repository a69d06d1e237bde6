"""Bringing a tensor into SBUF, as the probes do it: DMA moves the bits."""

import nki.isa as nisa
import nki.language as nl


def load(source):
    """An SBUF tile with the bits of an HBM tensor (or view) of at most 128 rows."""
    tile = nl.ndarray(source.shape, dtype=source.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=source)
    return tile


def out_of_psum(psum, dtype):
    """An SBUF copy of a PSUM tile; with its own dtype the bits move."""
    tile = nl.ndarray(psum.shape, dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=tile, src=psum, engine=nisa.engine.vector)
    return tile
