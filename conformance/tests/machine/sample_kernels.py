"""Ten kernels in ten styles, written for this purpose: what people write, not what our kernels happen to need.

Each is ordinary NKI: tiled, with explicit memory, and inside the language subset.
"""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def tiled_matmul(lhs_t, rhs):
    """lhs_t [K, M], rhs [K, N] -> fp32 [M, N]; K in passes of 128, M in 128s, N in PSUM banks of 512."""
    K, M = lhs_t.shape
    N = rhs.shape[1]
    out = nl.ndarray((M, N), dtype=nl.float32, buffer=nl.shared_hbm)
    for m in range(0, M, 128):
        rows = min(128, M - m)
        for n in range(0, N, 512):
            columns = min(512, N - n)
            psum = nl.ndarray((rows, columns), dtype=nl.float32, buffer=nl.psum)
            for k in range(0, K, 128):
                depth = min(128, K - k)
                a = nl.ndarray((depth, rows), dtype=lhs_t.dtype)
                b = nl.ndarray((depth, columns), dtype=rhs.dtype)
                nisa.dma_copy(dst=a, src=lhs_t[nl.ds(k, depth), nl.ds(m, rows)])
                nisa.dma_copy(dst=b, src=rhs[nl.ds(k, depth), nl.ds(n, columns)])
                nisa.nc_matmul(dst=psum, stationary=a, moving=b)
            tile = nl.ndarray((rows, columns), dtype=nl.float32)
            nisa.tensor_copy(dst=tile, src=psum)
            nisa.dma_copy(dst=out[nl.ds(m, rows), nl.ds(n, columns)], src=tile)
    return out


@nki.jit
def softmax(x):
    """Row softmax of x [rows, F], rows <= 128: max, exp with a fused sum, reciprocal, scale."""
    rows, F = x.shape
    out = nl.ndarray((rows, F), dtype=x.dtype, buffer=nl.shared_hbm)
    tile = nl.ndarray((rows, F), dtype=x.dtype)
    nisa.dma_copy(dst=tile, src=x)
    shift = nl.ndarray((rows, 1), dtype=nl.float32)
    nisa.tensor_reduce(dst=shift, op=nl.maximum, data=tile, axis=1, negate=True)
    weights = nl.ndarray((rows, F), dtype=nl.float32)
    total = nl.ndarray((rows, 1), dtype=nl.float32)
    nisa.activation_reduce(
        dst=weights, op=nl.exp, data=tile, reduce_op=nl.add, reduce_res=total, bias=shift, scale=1.0
    )
    inverse = nl.ndarray((rows, 1), dtype=nl.float32)
    nisa.reciprocal(dst=inverse, data=total)
    result = nl.ndarray((rows, F), dtype=x.dtype)
    nisa.tensor_scalar(dst=result, data=weights, op0=nl.multiply, operand0=inverse)
    nisa.dma_copy(dst=out, src=result)
    return out


@nki.jit
def layernorm(x, gamma, beta, eps):
    """LayerNorm over F of x [rows, F] by bn_stats of 512-column chunks; gamma, beta [1, F] broadcast by DMA."""
    rows, F = x.shape
    out = nl.ndarray((rows, F), dtype=nl.float32, buffer=nl.shared_hbm)
    tile = nl.ndarray((rows, F), dtype=nl.float32)
    nisa.dma_copy(dst=tile, src=x)
    chunks = (F + 511) // 512
    stats = nl.ndarray((rows, chunks * 6), dtype=nl.float32)
    for i in range(chunks):
        nisa.bn_stats(dst=stats[:, nl.ds(6 * i, 6)], data=tile[:, nl.ds(512 * i, min(512, F - 512 * i))])
    moments = nl.ndarray((rows, 2), dtype=nl.float32)
    nisa.bn_aggr(dst=moments, data=stats)
    spread = nl.ndarray((rows, 1), dtype=nl.float32)
    nisa.activation(dst=spread, op=nl.rsqrt, data=moments[:, 1:2], bias=eps)
    centred = nl.ndarray((rows, F), dtype=nl.float32)
    nisa.tensor_scalar(
        dst=centred,
        data=tile,
        op0=nl.subtract,
        operand0=moments[:, 0:1],
        op1=nl.multiply,
        operand1=spread,
    )
    weight = nl.ndarray((rows, F), dtype=nl.float32)
    offset = nl.ndarray((rows, F), dtype=nl.float32)
    nisa.dma_copy(dst=weight, src=gamma.ap([[0, rows], [1, F]]))
    nisa.dma_copy(dst=offset, src=beta.ap([[0, rows], [1, F]]))
    nisa.tensor_tensor(dst=centred, data1=centred, data2=weight, op=nl.multiply)
    nisa.tensor_tensor(dst=centred, data1=centred, data2=offset, op=nl.add)
    nisa.dma_copy(dst=out, src=centred)
    return out


@nki.jit
def rope(x, cos, sin):
    """Contiguous-half RoPE of x [rows, d] with cos, sin [rows, d/2]."""
    rows, d = x.shape
    half = d // 2
    out = nl.ndarray((rows, d), dtype=nl.float32, buffer=nl.shared_hbm)
    tile = nl.ndarray((rows, d), dtype=nl.float32)
    c = nl.ndarray((rows, half), dtype=nl.float32)
    s = nl.ndarray((rows, half), dtype=nl.float32)
    nisa.dma_copy(dst=tile, src=x)
    nisa.dma_copy(dst=c, src=cos)
    nisa.dma_copy(dst=s, src=sin)
    rotated = nl.ndarray((rows, d), dtype=nl.float32)
    turned = nl.ndarray((rows, half), dtype=nl.float32)
    first, second = tile[:, 0:half], tile[:, half:d]
    nisa.tensor_tensor(dst=rotated[:, 0:half], data1=first, data2=c, op=nl.multiply)
    nisa.tensor_tensor(dst=turned, data1=second, data2=s, op=nl.multiply)
    nisa.tensor_tensor(dst=rotated[:, 0:half], data1=rotated[:, 0:half], data2=turned, op=nl.subtract)
    nisa.tensor_tensor(dst=rotated[:, half:d], data1=second, data2=c, op=nl.multiply)
    nisa.tensor_tensor(dst=turned, data1=first, data2=s, op=nl.multiply)
    nisa.tensor_tensor(dst=rotated[:, half:d], data1=rotated[:, half:d], data2=turned, op=nl.add)
    nisa.dma_copy(dst=out, src=rotated)
    return out


@nki.jit
def top16(x):
    """The 16 largest of every row of x [rows, F] and their places: max8, find, replace, and once more."""
    rows, F = x.shape
    values = nl.ndarray((rows, 16), dtype=nl.float32, buffer=nl.shared_hbm)
    places = nl.ndarray((rows, 16), dtype=nl.uint32, buffer=nl.shared_hbm)
    tile = nl.ndarray((rows, F), dtype=nl.float32)
    nisa.dma_copy(dst=tile, src=x)
    for part in range(2):
        best = nl.ndarray((rows, 8), dtype=nl.float32)
        where = nl.ndarray((rows, 8), dtype=nl.uint32)
        nisa.max8(dst=best, src=tile)
        nisa.nc_find_index8(dst=where, data=tile, vals=best)
        nisa.dma_copy(dst=values[:, nl.ds(8 * part, 8)], src=best)
        nisa.dma_copy(dst=places[:, nl.ds(8 * part, 8)], src=where)
        rest = nl.ndarray((rows, F), dtype=nl.float32)
        nisa.nc_match_replace8(dst=rest, data=tile, vals=best, imm=-3.0e38)
        tile = rest
    return values, places


@nki.jit
def gather_scale_scatter(table, rows_in, rows_out, scale):
    """Rows of table [R, F] named by rows_in [n, 1] (negative: skipped, stays 0), scaled, written to rows rows_out."""
    R, F = table.shape
    n = rows_in.shape[0]
    out = nl.ndarray((R, F), dtype=table.dtype, buffer=nl.shared_hbm)
    zero = nl.ndarray((R, F), dtype=table.dtype)
    nisa.memset(dst=zero, value=0.0)
    nisa.dma_copy(dst=out, src=zero)
    source = nl.ndarray((n, 1), dtype=nl.int32)
    target = nl.ndarray((n, 1), dtype=nl.int32)
    nisa.dma_copy(dst=source, src=rows_in)
    nisa.dma_copy(dst=target, src=rows_out)
    picked = nl.ndarray((n, F), dtype=table.dtype)
    nisa.memset(dst=picked, value=0.0)
    nisa.dma_copy(
        dst=picked,
        src=table.ap([[F, n], [1, F]], vector_offset=source, indirect_dim=0),
        oob_mode=nisa.oob_mode.skip,
    )
    nisa.tensor_scalar(dst=picked, data=picked, op0=nl.multiply, operand0=scale)
    nisa.dma_copy(dst=out.ap([[F, n], [1, F]], vector_offset=target, indirect_dim=0), src=picked)
    return out


@nki.jit
def linear_recurrence(decay, x, initial):
    """s_t = decay_t * s_(t-1) + x_t along the free axis, [rows, T]."""
    rows, T = x.shape
    out = nl.ndarray((rows, T), dtype=nl.float32, buffer=nl.shared_hbm)
    a = nl.ndarray((rows, T), dtype=nl.float32)
    b = nl.ndarray((rows, T), dtype=nl.float32)
    start = nl.ndarray((rows, 1), dtype=nl.float32)
    nisa.dma_copy(dst=a, src=decay)
    nisa.dma_copy(dst=b, src=x)
    nisa.dma_copy(dst=start, src=initial)
    state = nl.ndarray((rows, T), dtype=nl.float32)
    nisa.tensor_tensor_scan(dst=state, data0=a, data1=b, initial=start, op0=nl.multiply, op1=nl.add)
    nisa.dma_copy(dst=out, src=state)
    return out


@nki.jit
def mx_matmul(lhs, rhs):
    """Quantise lhs [K, 4*M], rhs [K, 4*N] (bf16, four contraction values side by side) to MXFP8 and multiply (gen4)."""
    K, M = lhs.shape[0], lhs.shape[1] // 4
    N = rhs.shape[1] // 4
    out = nl.ndarray((M, N), dtype=nl.float32, buffer=nl.shared_hbm)
    operands = []
    for matrix in (lhs, rhs):
        tile = nl.ndarray(matrix.shape, dtype=nl.bfloat16)
        nisa.dma_copy(dst=tile, src=matrix)
        packed = nl.ndarray((K, matrix.shape[1] // 4), dtype=nl.float8_e4m3fn_x4)
        scale = nl.ndarray((K, matrix.shape[1] // 4), dtype=nl.uint8)
        nisa.memset(dst=scale, value=0)
        nisa.quantize_mx(dst=packed, src=tile, dst_scale=scale)
        operands.append(packed)
        operands.append(scale)
    psum = nl.ndarray((M, N), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul_mx(
        dst=psum,
        stationary=operands[0],
        moving=operands[2],
        stationary_scale=operands[1],
        moving_scale=operands[3],
    )
    tile = nl.ndarray((M, N), dtype=nl.float32)
    nisa.tensor_copy(dst=tile, src=psum)
    nisa.dma_copy(dst=out, src=tile)
    return out


@nki.jit
def lnc_all_reduce(x):
    """Sum of the two cores' slabs x[core] ([rows, F] each), on both cores: sendrecv, add, and a barrier."""
    rows, F = x.shape[1], x.shape[2]
    core = nl.program_id(0)
    out = nl.ndarray((2, rows, F), dtype=nl.float32, buffer=nl.shared_hbm)
    mine = nl.ndarray((rows, F), dtype=nl.float32)
    theirs = nl.ndarray((rows, F), dtype=nl.float32)
    nisa.dma_copy(dst=mine, src=x[core])
    nisa.sendrecv(src=mine, dst=theirs, send_to_rank=1 - core, recv_from_rank=1 - core, pipe_id=0)
    total = nl.ndarray((rows, F), dtype=nl.float32)
    nisa.tensor_tensor(dst=total, data1=mine, data2=theirs, op=nl.add)
    nisa.dma_copy(dst=out[core], src=total)
    nisa.core_barrier(data=out, cores=(0, 1))
    # Behind the barrier each core may read what the other one wrote.
    other = nl.ndarray((rows, F), dtype=nl.float32)
    nisa.dma_copy(dst=other, src=out[1 - core])
    same = nl.ndarray((2, rows, F), dtype=nl.float32, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=same[core], src=other)
    return out, same


@nki.jit
def dynamic_row_sum(table, count):
    """Sum of the first `count` rows of table [R, F]; count is an int32 in HBM, known on the device only."""
    R, F = table.shape
    out = nl.ndarray((1, F), dtype=nl.float32, buffer=nl.shared_hbm)
    total = nl.ndarray((1, F), dtype=nl.float32)
    nisa.memset(dst=total, value=0.0)
    trips = nl.ndarray((1, 1), dtype=nl.int32)
    nisa.dma_copy(dst=trips, src=count)
    register = nisa.register_alloc()
    nisa.register_load(dst=register, src=trips)

    def add_row(i):
        row = nl.ndarray((1, F), dtype=nl.float32)
        nisa.dma_copy(dst=row, src=table.ap([[F, 1], [1, F]], scalar_offset=i, indirect_dim=0))
        nisa.tensor_tensor(dst=total, data1=total, data2=row, op=nl.add)

    nl.fori_loop(0, register, add_row)
    nisa.dma_copy(dst=out, src=total)
    return out
