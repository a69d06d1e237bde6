"""Kernels of the vector-engine probes. Rows are partitions; [R, n] inputs come in tiles of 128 rows."""

import nki
import nki.isa as nisa
import nki.language as nl

from conformance.probes.kernels.tiles import load


@nki.jit
def multiply_add(x, factor, term):
    """x * factor + term on three instructions: fp32 x [P, n], factor [P, 1], term [P, 1] -> three fp32 [P, n]."""
    one = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    two = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    three = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    data = load(x)
    scale = load(factor)
    bias = load(term)
    terms = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=terms, src=term.ap([[1, x.shape[0]], [0, x.shape[1]]]))
    result = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=result,
        data=data,
        op0=nl.multiply,
        operand0=scale,
        op1=nl.add,
        operand1=bias,
        engine=nisa.engine.vector,
    )
    nisa.dma_copy(dst=one, src=result)
    other = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.scalar_tensor_tensor(dst=other, data=data, op0=nl.multiply, operand0=scale, op1=nl.add, operand1=terms)
    nisa.dma_copy(dst=two, src=other)
    state = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor_scan(dst=state, data0=data, data1=terms, initial=scale, op0=nl.multiply, op1=nl.add)
    nisa.dma_copy(dst=three, src=state)
    return one, two, three


@nki.jit
def row_sums(rows):
    """Sums of the rows of [R, n] by tensor_reduce: fp32 [R, 1]."""
    out = nl.ndarray((rows.shape[0], 1), dtype=nl.float32, buffer=nl.shared_hbm)
    for start in range(0, rows.shape[0], 128):
        count = min(128, rows.shape[0] - start)
        total = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=total, op=nl.add, data=load(rows[nl.ds(start, count), :]), axis=1)
        nisa.dma_copy(dst=out[nl.ds(start, count), :], src=total)
    return out


@nki.jit
def row_sums_two_axes(rows):
    """Sums of [R, a, b] over both free axes: fp32 [R, 1]."""
    out = nl.ndarray((rows.shape[0], 1), dtype=nl.float32, buffer=nl.shared_hbm)
    for start in range(0, rows.shape[0], 128):
        count = min(128, rows.shape[0] - start)
        total = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=total, op=nl.add, data=load(rows[nl.ds(start, count), :, :]), axis=(1, 2))
        nisa.dma_copy(dst=out[nl.ds(start, count), :], src=total)
    return out


@nki.jit
def row_sums_strided(rows):
    """Sums of every second element of the rows of [R, 2 n]: fp32 [R, 1]."""
    out = nl.ndarray((rows.shape[0], 1), dtype=nl.float32, buffer=nl.shared_hbm)
    width = rows.shape[1]
    for start in range(0, rows.shape[0], 128):
        count = min(128, rows.shape[0] - start)
        tile = load(rows[nl.ds(start, count), :])
        total = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=total, op=nl.add, data=tile[:, 0:width:2], axis=1)
        nisa.dma_copy(dst=out[nl.ds(start, count), :], src=total)
    return out


@nki.jit
def register_sums(rows):
    """Sums of the rows of [R, n] in the accumulator register, by tensor_scalar_reduce (x * 1): fp32 [R, 1]."""
    out = nl.ndarray((rows.shape[0], 1), dtype=nl.float32, buffer=nl.shared_hbm)
    for start in range(0, rows.shape[0], 128):
        count = min(128, rows.shape[0] - start)
        tile = load(rows[nl.ds(start, count), :])
        total = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_scalar_reduce(
            dst=tile,
            data=tile,
            op0=nl.multiply,
            operand0=1.0,
            reduce_op=nl.add,
            reduce_res=total,
            reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )
        nisa.dma_copy(dst=out[nl.ds(start, count), :], src=total)
    return out


@nki.jit
def register_goes_on(first, rows):
    """A register loaded with first [P, 1] takes in the rows of [P, n]: fp32 [P, 1]."""
    out = nl.ndarray(first.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    tile = load(rows)
    total = nl.ndarray(first.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar_reduce(
        dst=tile,
        data=tile,
        op0=nl.multiply,
        operand0=1.0,
        reduce_op=nl.add,
        reduce_res=total,
        reduce_cmd=nisa.reduce_cmd.load_reduce,
        reduce_init=load(first),
    )
    nisa.dma_copy(dst=out, src=total)
    return out


@nki.jit
def register_behind_bf16(rows):
    """fp32 rows [P, n] through a bf16 destination: the register [P, 1], and a running sum [P, n], both as fp32."""
    out = nl.ndarray((rows.shape[0], 1), dtype=nl.float32, buffer=nl.shared_hbm)
    running = nl.ndarray(rows.shape, dtype=nl.bfloat16, buffer=nl.shared_hbm)
    tile = load(rows)
    narrow = nl.ndarray(rows.shape, dtype=nl.bfloat16, buffer=nl.sbuf)
    total = nl.ndarray((rows.shape[0], 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar_reduce(
        dst=narrow,
        data=tile,
        op0=nl.multiply,
        operand0=1.0,
        reduce_op=nl.add,
        reduce_res=total,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )
    nisa.dma_copy(dst=out, src=total)
    sums = nl.ndarray(rows.shape, dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.tensor_scalar_cumulative(
        dst=sums, src=tile, op0=nl.multiply, op1=nl.add, imm0=1.0, reduce_cmd=nisa.reduce_cmd.reset_reduce
    )
    nisa.dma_copy(dst=running, src=sums)
    return out, running


@nki.jit
def exponential_goes_on(first, rows):
    """gen4: a register loaded with first [P, 1] takes in exp of the rows of [P, n]: fp32 [P, 1]."""
    out = nl.ndarray(first.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    tile = load(rows)
    total = nl.ndarray(first.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.exponential(
        dst=tile, src=tile, reduce_res=total, reduce_cmd=nisa.reduce_cmd.load_reduce, reduce_init=load(first)
    )
    nisa.dma_copy(dst=out, src=total)
    return out


@nki.jit
def exponential(x):
    """gen4: exp of fp32 [P, n] on the vector engine, fp32."""
    out = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    result = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.exponential(dst=result, src=load(x), max_value=0.0, reduce_cmd=nisa.reduce_cmd.idle)
    nisa.dma_copy(dst=out, src=result)
    return out


@nki.jit
def extremes(a, b):
    """maximum and minimum of fp32 a and b [P, n] on the vector engine and on GpSimd: four fp32 [P, n]."""
    vector_max = nl.ndarray(a.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    vector_min = nl.ndarray(a.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    gpsimd_max = nl.ndarray(a.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    gpsimd_min = nl.ndarray(a.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    left = load(a)
    right = load(b)
    result = nl.ndarray(a.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=result, data1=left, data2=right, op=nl.maximum, engine=nisa.engine.vector)
    nisa.dma_copy(dst=vector_max, src=result)
    nisa.tensor_tensor(dst=result, data1=left, data2=right, op=nl.minimum, engine=nisa.engine.vector)
    nisa.dma_copy(dst=vector_min, src=result)
    nisa.tensor_tensor(dst=result, data1=left, data2=right, op=nl.maximum, engine=nisa.engine.gpsimd)
    nisa.dma_copy(dst=gpsimd_max, src=result)
    nisa.tensor_tensor(dst=result, data1=left, data2=right, op=nl.minimum, engine=nisa.engine.gpsimd)
    nisa.dma_copy(dst=gpsimd_min, src=result)
    return vector_max, vector_min, gpsimd_max, gpsimd_min


@nki.jit
def row_extremes(rows):
    """Maxima and minima of the rows of fp32 [P, n] by tensor_reduce, and their 8 largest: [P, 1], [P, 1], [P, 8]."""
    highest = nl.ndarray((rows.shape[0], 1), dtype=nl.float32, buffer=nl.shared_hbm)
    lowest = nl.ndarray((rows.shape[0], 1), dtype=nl.float32, buffer=nl.shared_hbm)
    eight = nl.ndarray((rows.shape[0], 8), dtype=nl.float32, buffer=nl.shared_hbm)
    tile = load(rows)
    result = nl.ndarray((rows.shape[0], 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=result, op=nl.maximum, data=tile, axis=1)
    nisa.dma_copy(dst=highest, src=result)
    nisa.tensor_reduce(dst=result, op=nl.minimum, data=tile, axis=1)
    nisa.dma_copy(dst=lowest, src=result)
    best = nl.ndarray((rows.shape[0], 8), dtype=nl.float32, buffer=nl.sbuf)
    nisa.max8(dst=best, src=tile)
    nisa.dma_copy(dst=eight, src=best)
    return highest, lowest, eight


@nki.jit
def reciprocal(x):
    """1 / x of fp32 [P, n] on the vector engine."""
    out = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    result = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.reciprocal(dst=result, data=load(x))
    nisa.dma_copy(dst=out, src=result)
    return out


@nki.jit
def rsqrt_and_power(x, y):
    """GpSimd: 1 / sqrt(x) and x to the y, of fp32 [P, n]."""
    root = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    powers = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    data = load(x)
    result = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=result, data=data, op0=nl.rsqrt, operand0=None, engine=nisa.engine.gpsimd)
    nisa.dma_copy(dst=root, src=result)
    nisa.tensor_tensor(dst=result, data1=data, data2=load(y), op=nl.power, engine=nisa.engine.gpsimd)
    nisa.dma_copy(dst=powers, src=result)
    return root, powers


@nki.jit
def batch_statistics(rows):
    """bn_stats of fp32 [P, n], of its first element alone, and bn_aggr of the former: [P, 6], [P, 6], [P, 2]."""
    stats = nl.ndarray((rows.shape[0], 6), dtype=nl.float32, buffer=nl.shared_hbm)
    single = nl.ndarray((rows.shape[0], 6), dtype=nl.float32, buffer=nl.shared_hbm)
    moments = nl.ndarray((rows.shape[0], 2), dtype=nl.float32, buffer=nl.shared_hbm)
    tile = load(rows)
    found = nl.ndarray((rows.shape[0], 6), dtype=nl.float32, buffer=nl.sbuf)
    nisa.bn_stats(dst=found, data=tile)
    nisa.dma_copy(dst=stats, src=found)
    joined = nl.ndarray((rows.shape[0], 2), dtype=nl.float32, buffer=nl.sbuf)
    nisa.bn_aggr(dst=joined, data=found)
    nisa.dma_copy(dst=moments, src=joined)
    alone = nl.ndarray((rows.shape[0], 6), dtype=nl.float32, buffer=nl.sbuf)
    nisa.bn_stats(dst=alone, data=tile[:, 0:1])
    nisa.dma_copy(dst=single, src=alone)
    return stats, single, moments


@nki.jit
def scan_into_bf16(ones, steps, first):
    """s = ones * s + steps from first, the states stored as bf16: [P, n]."""
    out = nl.ndarray(ones.shape, dtype=nl.bfloat16, buffer=nl.shared_hbm)
    states = nl.ndarray(ones.shape, dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.tensor_tensor_scan(
        dst=states, data0=load(ones), data1=load(steps), initial=load(first), op0=nl.multiply, op1=nl.add
    )
    nisa.dma_copy(dst=out, src=states)
    return out


@nki.jit
def integers_and_scalars(x, operand):
    """int32 x [P, n] by tensor_scalar: x + 0, x * 1, x + 1 with integer immediates, x + fp32 operand; four [P, n]."""
    zero = nl.ndarray(x.shape, dtype=nl.int32, buffer=nl.shared_hbm)
    once = nl.ndarray(x.shape, dtype=nl.int32, buffer=nl.shared_hbm)
    more = nl.ndarray(x.shape, dtype=nl.int32, buffer=nl.shared_hbm)
    mixed = nl.ndarray(x.shape, dtype=nl.int32, buffer=nl.shared_hbm)
    data = load(x)
    result = nl.ndarray(x.shape, dtype=nl.int32, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=result, data=data, op0=nl.add, operand0=0, engine=nisa.engine.vector)
    nisa.dma_copy(dst=zero, src=result)
    nisa.tensor_scalar(dst=result, data=data, op0=nl.multiply, operand0=1, engine=nisa.engine.vector)
    nisa.dma_copy(dst=once, src=result)
    nisa.tensor_scalar(dst=result, data=data, op0=nl.add, operand0=1, engine=nisa.engine.vector)
    nisa.dma_copy(dst=more, src=result)
    nisa.tensor_scalar(dst=result, data=data, op0=nl.add, operand0=load(operand), engine=nisa.engine.vector)
    nisa.dma_copy(dst=mixed, src=result)
    return zero, once, more, mixed


@nki.jit
def products(x, y):
    """x * y of fp32 [P, n] on the vector engine, the scalar engine (x times y[:, 0]) and GpSimd: three fp32 [P, n]."""
    on_vector = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    on_scalar = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    on_gpsimd = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    left = load(x)
    right = load(y)
    result = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=result, data1=left, data2=right, op=nl.multiply, engine=nisa.engine.vector)
    nisa.dma_copy(dst=on_vector, src=result)
    nisa.tensor_scalar(dst=result, data=left, op0=nl.multiply, operand0=right[:, 0:1], engine=nisa.engine.scalar)
    nisa.dma_copy(dst=on_scalar, src=result)
    nisa.tensor_tensor(dst=result, data1=left, data2=right, op=nl.multiply, engine=nisa.engine.gpsimd)
    nisa.dma_copy(dst=on_gpsimd, src=result)
    return on_vector, on_scalar, on_gpsimd


@nki.jit
def extremes_of_nan(rows):
    """inf * 0, inf - inf and NaN + 1 on the vector engine: fp32 rows [P, 4] = (inf, 0, NaN, 1) -> fp32 [P, 3]."""
    out = nl.ndarray((rows.shape[0], 3), dtype=nl.float32, buffer=nl.shared_hbm)
    tile = load(rows)
    result = nl.ndarray((rows.shape[0], 3), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=result[:, 0:1], data1=tile[:, 0:1], data2=tile[:, 1:2], op=nl.multiply, engine=nisa.engine.vector
    )
    nisa.tensor_tensor(
        dst=result[:, 1:2], data1=tile[:, 0:1], data2=tile[:, 0:1], op=nl.subtract, engine=nisa.engine.vector
    )
    nisa.tensor_tensor(dst=result[:, 2:3], data1=tile[:, 2:3], data2=tile[:, 3:4], op=nl.add, engine=nisa.engine.vector)
    nisa.dma_copy(dst=out, src=result)
    return out
