"""Kernels of the probes of GpSimd, of DMA, and of casts, which every engine has."""

import nki
import nki.isa as nisa
import nki.language as nl

from conformance.probes.kernels.tiles import load


@nki.jit
def casts(x, dtype):
    """fp32 [P, n] cast on the vector, scalar and GpSimd engines and by DMA: four [P, n] of `dtype`."""
    on_vector = nl.ndarray(x.shape, dtype=dtype, buffer=nl.shared_hbm)
    on_scalar = nl.ndarray(x.shape, dtype=dtype, buffer=nl.shared_hbm)
    on_gpsimd = nl.ndarray(x.shape, dtype=dtype, buffer=nl.shared_hbm)
    by_dma = nl.ndarray(x.shape, dtype=dtype, buffer=nl.shared_hbm)
    data = load(x)
    result = nl.ndarray(x.shape, dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=result, src=data, engine=nisa.engine.vector)
    nisa.dma_copy(dst=on_vector, src=result)
    nisa.activation(dst=result, op=nl.copy, data=data)
    nisa.dma_copy(dst=on_scalar, src=result)
    nisa.tensor_copy(dst=result, src=data, engine=nisa.engine.gpsimd)
    nisa.dma_copy(dst=on_gpsimd, src=result)
    nisa.dma_copy(dst=by_dma, src=x)
    return on_vector, on_scalar, on_gpsimd, by_dma


@nki.jit
def descriptors(x, dtype):
    """fp32 [P, n] cast by DMA in mode unknown and with software descriptors, and copied by hardware ones: three."""
    by_choice = nl.ndarray(x.shape, dtype=dtype, buffer=nl.shared_hbm)
    by_software = nl.ndarray(x.shape, dtype=dtype, buffer=nl.shared_hbm)
    by_hardware = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=by_choice, src=x, dge_mode=nisa.dge_mode.unknown)
    nisa.dma_copy(dst=by_software, src=x, dge_mode=nisa.dge_mode.swdge)
    nisa.dma_copy(dst=by_hardware, src=x, dge_mode=nisa.dge_mode.hwdge)
    return by_choice, by_software, by_hardware


@nki.jit
def sum_of_sources(a, b, c):
    """a + b + c of fp32 [P, n] by dma_compute."""
    out = nl.ndarray(a.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    total = nl.ndarray(a.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.dma_compute(dst=total, srcs=[load(a), load(b), load(c)], reduce_op=nl.add)
    nisa.dma_copy(dst=out, src=total)
    return out


@nki.jit
def integers(a, b):
    """a + b, a - b and a * b of int32 [P, n] on GpSimd: three int32 [P, n]."""
    added = nl.ndarray(a.shape, dtype=nl.int32, buffer=nl.shared_hbm)
    subtracted = nl.ndarray(a.shape, dtype=nl.int32, buffer=nl.shared_hbm)
    multiplied = nl.ndarray(a.shape, dtype=nl.int32, buffer=nl.shared_hbm)
    left = load(a)
    right = load(b)
    result = nl.ndarray(a.shape, dtype=nl.int32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=result, data1=left, data2=right, op=nl.add, engine=nisa.engine.gpsimd)
    nisa.dma_copy(dst=added, src=result)
    nisa.tensor_tensor(dst=result, data1=left, data2=right, op=nl.subtract, engine=nisa.engine.gpsimd)
    nisa.dma_copy(dst=subtracted, src=result)
    nisa.tensor_tensor(dst=result, data1=left, data2=right, op=nl.multiply, engine=nisa.engine.gpsimd)
    nisa.dma_copy(dst=multiplied, src=result)
    return added, subtracted, multiplied


@nki.jit
def partition_sums(columns):
    """Sums over the partitions of fp32 [P, n]: fp32 [1, n]."""
    out = nl.ndarray((1, columns.shape[1]), dtype=nl.float32, buffer=nl.shared_hbm)
    total = nl.ndarray((1, columns.shape[1]), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_partition_reduce(dst=total, op=nl.add, data=load(columns))
    nisa.dma_copy(dst=out, src=total)
    return out


@nki.jit
def partition_average(columns):
    """Average over the partitions of int32 [P, n]: int32 [1, n]."""
    out = nl.ndarray((1, columns.shape[1]), dtype=nl.int32, buffer=nl.shared_hbm)
    mean = nl.ndarray((1, columns.shape[1]), dtype=nl.int32, buffer=nl.sbuf)
    nisa.tensor_partition_reduce(dst=mean, op=nl.average, data=load(columns))
    nisa.dma_copy(dst=out, src=mean)
    return out


@nki.jit
def ties(values):
    """topk(4) of the 16 bf16 values [16, 1] of one group: values and places of the four, [4, 1] each."""
    best = nl.ndarray((4, 1), dtype=nl.bfloat16, buffer=nl.shared_hbm)
    places = nl.ndarray((4, 1), dtype=nl.uint32, buffer=nl.shared_hbm)
    found = nl.ndarray((16, 4), dtype=nl.bfloat16, buffer=nl.sbuf)
    where = nl.ndarray((16, 4), dtype=nl.uint32, buffer=nl.sbuf)
    nisa.topk(val_dst=found, idx_dst=where, src=load(values), n=16)
    nisa.dma_copy(dst=best, src=found[0:4, 0:1])
    nisa.dma_copy(dst=places, src=where[0:4, 0:1])
    return best, places


@nki.jit
def eight_of_zeros(rows):
    """The 8 largest of the rows of fp32 [P, n]: fp32 [P, 8]."""
    out = nl.ndarray((rows.shape[0], 8), dtype=nl.float32, buffer=nl.shared_hbm)
    best = nl.ndarray((rows.shape[0], 8), dtype=nl.float32, buffer=nl.sbuf)
    nisa.max8(dst=best, src=load(rows))
    nisa.dma_copy(dst=out, src=best)
    return out
