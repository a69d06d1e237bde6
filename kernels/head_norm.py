"""RMSNorm over the channels of a head, for heads that stand as columns [d, columns]: one norm per column."""

import nki.isa as nisa
import nki.language as nl

from kernels.norm_tkg import constant_tile, over_partitions


def head_rms_norm(x, eps, weight, stage, r):
    """R_io(x * rsqrt(mean over the partitions of x^2 + eps)), with a weight [1, d] in HBM R_io((x * rsqrt) * weight).

    x is [d, columns]; `stage` and `r` name the tiles. Products and sums are fp32.
    """
    d, columns = x.shape
    square = nl.ndarray((d, columns), dtype=nl.float32, name=f"{stage}_square_{r}")
    nisa.tensor_tensor(dst=square, data1=x, data2=x, op=nl.multiply, engine=nisa.vector_engine)
    total = over_partitions(square, constant_tile(1.0, (d, d)), f"{stage}_total_{r}")
    rsqrt = nl.ndarray((d, columns), dtype=nl.float32, name=f"{stage}_rsqrt_{r}")
    nisa.activation(dst=rsqrt, op=nl.rsqrt, data=total, scale=1.0 / d, bias=constant_tile(eps, (d, 1)))
    normed = nl.ndarray((d, columns), dtype=x.dtype, name=f"{stage}_normed_{r}")
    if weight == None:
        nisa.tensor_tensor(dst=normed, data1=x, data2=rsqrt, op=nl.multiply, engine=nisa.vector_engine)
        return normed
    scaled = nl.ndarray((d, columns), dtype=nl.float32, name=f"{stage}_scaled_{r}")
    nisa.tensor_tensor(dst=scaled, data1=x, data2=rsqrt, op=nl.multiply, engine=nisa.vector_engine)
    nisa.tensor_scalar(
        dst=normed, data=scaled, op0=nl.multiply, operand0=channel_weights(weight), engine=nisa.vector_engine
    )
    return normed


def channel_weights(weight):
    """A weight [1, d] in HBM as fp32 [d, 1]."""
    d = weight.shape[1]
    narrow = nl.ndarray((d, 1), dtype=weight.dtype)
    nisa.dma_copy(dst=narrow, src=weight.reshape((d, 1)))
    wide = nl.ndarray((d, 1), dtype=nl.float32)
    nisa.tensor_copy(dst=wide, src=narrow, engine=nisa.vector_engine)
    return wide
