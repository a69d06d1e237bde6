"""Floor and ceil of fp32 tiles as int32, with the casts and comparisons that the vector engine has.

The cast rounds; where it rounded up, one is taken off. Right for any cast that lands on a neighbouring integer.
"""

import nki.isa as nisa
import nki.language as nl

from kernels.modular_allocator import address_of, restore, sbuf_tile


def floor_nisa_kernel(src_t, dst_t, p_size, f_size, allocator):
    """dst_t int32 [p_size, f_size] := floor of src_t fp32, both in SBUF; saturates, NaN gives what the cast gives.

    `allocator` places temporaries and is left where it was; None leaves them to the compiler.
    """
    address = address_of(allocator)
    shape = (p_size, f_size)
    src, dst = src_t[0:p_size, 0:f_size], dst_t[0:p_size, 0:f_size]
    nearest = sbuf_tile(allocator, shape, nl.int32)
    nisa.tensor_copy(dst=nearest, src=src, engine=nisa.vector_engine)
    back = sbuf_tile(allocator, shape, nl.float32)
    nisa.tensor_copy(dst=back, src=nearest, engine=nisa.vector_engine)
    # Float immediates: integer arithmetic would wrap at -2**31, fp32 saturates on the way out.
    below = sbuf_tile(allocator, shape, nl.int32)
    nisa.tensor_scalar(dst=below, data=nearest, op0=nl.subtract, operand0=1.0, engine=nisa.vector_engine)
    above = sbuf_tile(allocator, shape, nl.float32)
    nisa.tensor_tensor(dst=above, data1=back, data2=src, op=nl.greater, engine=nisa.vector_engine)
    fits = sbuf_tile(allocator, shape, nl.float32)
    nisa.tensor_scalar(
        dst=fits, data=above, op0=nl.multiply, operand0=-1.0, op1=nl.add, operand1=1.0, engine=nisa.vector_engine
    )
    low = sbuf_tile(allocator, shape, nl.int32)
    nisa.tensor_tensor(dst=low, data1=nearest, data2=fits, op=nl.multiply, engine=nisa.vector_engine)
    high = sbuf_tile(allocator, shape, nl.int32)
    nisa.tensor_tensor(dst=high, data1=below, data2=above, op=nl.multiply, engine=nisa.vector_engine)
    # One of the two is 0: the GpSimd adds integers exactly, and values above 2**24 stay whole.
    nisa.tensor_tensor(dst=dst, data1=high, data2=low, op=nl.add, engine=nisa.gpsimd_engine)
    restore(allocator, address)


def ceil_nisa_kernel(src_t, dst_t, p_size, f_size, allocator):
    """dst_t int32 [p_size, f_size] := ceil of src_t fp32, as -floor(-x); see `floor_nisa_kernel`."""
    address = address_of(allocator)
    shape = (p_size, f_size)
    negated = sbuf_tile(allocator, shape, nl.float32)
    nisa.tensor_scalar(
        dst=negated, data=src_t[0:p_size, 0:f_size], op0=nl.multiply, operand0=-1.0, engine=nisa.vector_engine
    )
    floor = sbuf_tile(allocator, shape, nl.int32)
    floor_nisa_kernel(negated, floor, p_size, f_size, allocator)
    nisa.tensor_scalar(
        dst=dst_t[0:p_size, 0:f_size], data=floor, op0=nl.multiply, operand0=-1.0, engine=nisa.vector_engine
    )
    restore(allocator, address)
