"""Kernels of the scalar-engine probes."""

import nki
import nki.isa as nisa
import nki.language as nl

from conformance.probes.kernels.tiles import load


@nki.jit
def scale_and_bias(x, factor, term):
    """x * factor + term: activation(copy) and tensor_scalar on the scalar engine; fp32 [P, n] and [P, 1] -> two."""
    activated = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    scaled = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    data = load(x)
    scale = load(factor)
    bias = load(term)
    result = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=result, op=nl.copy, data=data, scale=scale, bias=bias)
    nisa.dma_copy(dst=activated, src=result)
    nisa.tensor_scalar(
        dst=result,
        data=data,
        op0=nl.multiply,
        operand0=scale,
        op1=nl.add,
        operand1=bias,
        engine=nisa.engine.scalar,
    )
    nisa.dma_copy(dst=scaled, src=result)
    return activated, scaled


@nki.jit
def staged_scale_and_bias(x, factor, term):
    """gen4: x * factor + term in the two stages of activate2(copy); fp32 [P, n]."""
    out = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    result = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.activate2(
        dst=result, op=nl.copy, data=load(x), imm0=load(factor), imm1=load(term), op0=nl.multiply, op1=nl.add
    )
    nisa.dma_copy(dst=out, src=result)
    return out


@nki.jit
def activation_sums(rows):
    """Sums of the rows of [R, n] in the registers of activation(copy): fp32 [R, 1]."""
    out = nl.ndarray((rows.shape[0], 1), dtype=nl.float32, buffer=nl.shared_hbm)
    for start in range(0, rows.shape[0], 128):
        count = min(128, rows.shape[0] - start)
        tile = load(rows[nl.ds(start, count), :])
        total = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(
            dst=tile,
            op=nl.copy,
            data=tile,
            reduce_op=nl.add,
            reduce_res=total,
            reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )
        nisa.dma_copy(dst=out[nl.ds(start, count), :], src=total)
    return out


@nki.jit
def activation_sums_behind_bf16(rows):
    """Sums of fp32 rows [P, n] that leave as bf16: the registers as fp32 [P, 1]."""
    out = nl.ndarray((rows.shape[0], 1), dtype=nl.float32, buffer=nl.shared_hbm)
    narrow = nl.ndarray(rows.shape, dtype=nl.bfloat16, buffer=nl.sbuf)
    total = nl.ndarray((rows.shape[0], 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(
        dst=narrow,
        op=nl.copy,
        data=load(rows),
        reduce_op=nl.add,
        reduce_res=total,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )
    nisa.dma_copy(dst=out, src=total)
    return out


@nki.jit
def functions(x):
    """The tables of the scalar engine on fp32 [P, n]: fp32 [functions, P, n], in the order of FUNCTION_NAMES."""
    ops = (
        nl.exp,
        nl.log,
        nl.tanh,
        nl.sigmoid,
        nl.silu,
        nl.silu_dx,
        nl.gelu,
        nl.gelu_dx,
        nl.gelu_apprx_tanh,
        nl.gelu_apprx_sigmoid,
        nl.erf,
        nl.erf_dx,
        nl.softplus,
        nl.mish,
        nl.sin,
        nl.arctan,
        nl.sqrt,
        nl.rsqrt,
        nl.reciprocal,
    )
    out = nl.ndarray((len(ops), x.shape[0], x.shape[1]), dtype=nl.float32, buffer=nl.shared_hbm)
    data = load(x)
    for i in range(len(ops)):
        result = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=result, op=ops[i], data=data)
        nisa.dma_copy(dst=out[i], src=result)
    return out


@nki.jit
def exponential(x):
    """activation(exp) of fp32 [P, n]."""
    out = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    result = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=result, op=nl.exp, data=load(x))
    nisa.dma_copy(dst=out, src=result)
    return out


@nki.jit
def sine(x):
    """activation(sin) of fp32 [P, n], without range reduction."""
    out = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    result = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=result, op=nl.sin, data=load(x))
    nisa.dma_copy(dst=out, src=result)
    return out


@nki.jit
def gelu_variants(x):
    """gelu_apprx_sigmoid, gelu_apprx_tanh, mish and softplus of fp32 [P, n]: four fp32 [P, n]."""
    by_sigmoid = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    by_tanh = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    mish = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    softplus = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    data = load(x)
    result = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=result, op=nl.gelu_apprx_sigmoid, data=data)
    nisa.dma_copy(dst=by_sigmoid, src=result)
    nisa.activation(dst=result, op=nl.gelu_apprx_tanh, data=data)
    nisa.dma_copy(dst=by_tanh, src=result)
    nisa.activation(dst=result, op=nl.mish, data=data)
    nisa.dma_copy(dst=mish, src=result)
    nisa.activation(dst=result, op=nl.softplus, data=data)
    nisa.dma_copy(dst=softplus, src=result)
    return by_sigmoid, by_tanh, mish, softplus
