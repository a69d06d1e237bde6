"""The two cores of an LNC2 launch: who am I, and how do we exchange a tile."""

import nki.isa as nisa
import nki.language as nl

#: Elements per partition that the GpSimd's own DMA moves, of any dtype: 1024 B of 32-bit, 512 B of 16-bit values.
GPSIMD_ELEMENTS = 256
#: The GpSimd's cores own 16 partitions each. Public kernels pad to whole groups; no document says that others work.
GPSIMD_PARTITIONS = 16


def program_sharding():
    """(number of programs, own id); (1, 0) without a launch grid."""
    if nl.program_ndim() == 0:
        return 1, 0
    return nl.num_programs(0), nl.program_id(0)


def exchange(src, dst, prg, use_gpsimd):
    """Send `src` to the other core of two and receive its `src` into `dst`; bits are moved.

    `use_gpsimd` asks for the GpSimd's DMA, which is taken where the tile fits its limit.
    """
    transport = nisa.dma_engine.dma
    whole = src.shape[0] % GPSIMD_PARTITIONS == 0
    if use_gpsimd and whole and src.size // src.shape[0] <= GPSIMD_ELEMENTS:
        transport = nisa.dma_engine.gpsimd_dma
    nisa.sendrecv(
        src=src, dst=dst, send_to_rank=1 - prg, recv_from_rank=1 - prg, pipe_id=0, dma_engine=transport
    )
