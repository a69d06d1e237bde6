"""Kernels of the probes of quantize_mx (gen4)."""

import nki
import nki.isa as nisa
import nki.language as nl

from conformance.probes.kernels.tiles import load


@nki.jit
def quantize(x):
    """bf16 [32, n] to e5m2 elements and their scales: packed items uint32 [32, n / 4] and bytes uint8 [4, n / 4]."""
    items = nl.ndarray((32, x.shape[1] // 4), dtype=nl.uint32, buffer=nl.shared_hbm)
    bytes_ = nl.ndarray((4, x.shape[1] // 4), dtype=nl.uint8, buffer=nl.shared_hbm)
    packed = nl.ndarray((32, x.shape[1] // 4), dtype=nl.float8_e5m2_x4, buffer=nl.sbuf)
    scale = nl.ndarray((32, x.shape[1] // 4), dtype=nl.uint8, buffer=nl.sbuf)
    nisa.quantize_mx(dst=packed, src=load(x), dst_scale=scale)
    nisa.dma_copy(dst=items, src=packed.view(nl.uint32))
    nisa.dma_copy(dst=bytes_, src=scale[0:4, :])
    return items, bytes_
