"""qkv for decode: up to 128 tokens, the tokens stationary, H sharded over the cores and their sums exchanged."""

import nki.isa as nisa
import nki.language as nl

from kernels.common_types import NormType, QKVOutputLayout, QuantizationType
from kernels.fp8_clamp import clamped_fp8
from kernels.item_size import item_size
from kernels.lnc import exchange, program_sharding
from kernels.norm_tkg import constant_tile, layer_norm, rms_norm

#: Columns of H per token and partition that one norm tile holds.
NORM_COLUMNS = 4096
#: Bytes per partition of one weight block; two are in flight.
WEIGHT_BLOCK_BYTES = 32768
#: Tiles of 128 rows after which the column groups start anew.
GROUP_BLOCK = 16


class TkgShape(nl.NKIObject):
    """Sizes of one call: tokens T, H, I, cores n, own core, columns per partition of the shard."""

    T: int = 0
    H: int = 0
    I: int = 0
    n: int = 1
    prg: int = 0
    H1s: int = 0


def qkv_tkg(
    input,
    weights,
    output_layout,
    bias,
    quantization_type,
    w_scale,
    in_scale,
    fused_residual_add,
    mlp_prev,
    attention_prev,
    norm_type,
    gamma,
    beta,
    norm_eps,
    hidden_actual,
    d_head,
    num_q_heads,
    num_kv_heads,
):
    """Returns out, or (out, fused_hidden) with fused_residual_add."""
    n, prg = program_sharding()
    B, S, H = input.shape
    shape = TkgShape(T=B * S, H=H, I=weights.shape[1], n=n, prg=prg, H1s=H // 128 // n)
    fused_hidden = None
    if fused_residual_add:
        fused_hidden = nl.ndarray((B, S, H), dtype=input.dtype, buffer=nl.shared_hbm, name="fused_hidden")
    sources = residual_sources(input, attention_prev, mlp_prev, fused_residual_add)
    out_shape = (B, S, shape.I)
    if output_layout == QKVOutputLayout.NBSd:
        out_shape = (shape.I // 128, B, S, 128)
    out = nl.ndarray(out_shape, dtype=input.dtype, buffer=nl.shared_hbm, name="out")
    norm_and_project(
        shape, sources, fused_hidden, weights, bias, quantization_type, w_scale, in_scale, norm_type, gamma, beta,
        norm_eps, hidden_actual, d_head, num_q_heads, num_kv_heads, out,
    )
    if fused_residual_add:
        return out, fused_hidden
    return out


def norm_and_project(
    shape, sources, fused_hidden, weights, bias, quantization_type, w_scale, in_scale, norm_type, gamma, beta, norm_eps,
    hidden_actual, d_head, num_q_heads, num_kv_heads, out,
):
    """All of it for `sources`: [T, H] tensors in HBM, or the one tile [128, T, H/128] in SBUF.

    Stores to `out`; without one, returns the result as tiles [T, <=512] of consecutive columns, the same on both
    cores.
    """
    io = sources[0].dtype
    operand = normalized_operand(
        shape, sources, fused_hidden, norm_type, gamma, beta, norm_eps, hidden_actual, quantization_type, in_scale,
        weights.dtype,
    )
    scales = dequantization(shape, quantization_type, w_scale, in_scale, d_head, num_q_heads, num_kv_heads)
    bias_tile = load_bias(shape, bias)
    return project(shape, operand, weights, bias_tile, scales, out, io)


# ---- what is projected --------------------------------------------------------------------------------------------


def residual_sources(input, attention_prev, mlp_prev, fused_residual_add):
    """The [T, H] tensors whose sum is normed; their order is that of the fp32 additions."""
    B, S, H = input.shape
    sources = [input.reshape((B * S, H))]
    if fused_residual_add:
        sources.append(attention_prev.reshape((B * S, H)))
        sources.append(mlp_prev.reshape((B * S, H)))
    return sources


def load_x(shape, sources, first, tokens, full, k):
    """Tokens first.. of the sum as [128, tokens, columns]: all of H, or the own shard."""
    if nl.is_sbuf(sources[0].buffer):
        return copy_x(shape, sources[0], first, tokens, full, k)
    views = []
    for source in sources:
        rows = source[nl.ds(first, tokens), :].reshape_dim(1, (shape.n, 128, shape.H1s)).permute((2, 0, 1, 3))
        views.append(rows if full else rows[:, :, nl.ds(shape.prg, 1), :])
    shards = shape.n if full else 1
    x = nl.ndarray((128, tokens, shards * shape.H1s), dtype=sources[0].dtype, name=f"x_{k}")
    dst = x.reshape((128, tokens, shards, shape.H1s))
    if len(views) == 1:
        nisa.dma_copy(dst=dst, src=views[0])
    else:
        nisa.dma_compute(dst=dst, srcs=views, reduce_op=nl.add)
    return x


def copy_x(shape, source, first, tokens, full, k):
    """load_x from the caller's tile [128, T, H/128], whose columns already stand shard by shard; it is left alone."""
    start = 0 if full else shape.prg * shape.H1s
    columns = shape.n * shape.H1s if full else shape.H1s
    x = nl.ndarray((128, tokens, columns), dtype=source.dtype, name=f"x_{k}")
    nisa.tensor_copy(
        dst=x, src=source[:, nl.ds(first, tokens), nl.ds(start, columns)], engine=nisa.vector_engine
    )
    return x


def store_fused(shape, fused_hidden, own, first):
    """The own shard of the residual sum to HBM."""
    B, S, H = fused_hidden.shape
    tokens = own.shape[1]
    rows = fused_hidden.reshape((B * S, H))[nl.ds(first, tokens), :]
    nisa.dma_copy(
        dst=rows.reshape_dim(1, (shape.n, 128, shape.H1s)).permute((2, 0, 1, 3))[:, :, shape.prg, :], src=own
    )


def shard_of(shape, vector):
    """The own columns of a [1, H] weight as a tile [128, H1s] of its own dtype."""
    tile = nl.ndarray((128, shape.H1s), dtype=vector.dtype)
    width = shape.H // shape.n
    nisa.dma_copy(dst=tile, src=vector[0, nl.ds(shape.prg * width, width)].reshape((128, shape.H1s)))
    return tile


def normalized_operand(
    shape, sources, fused_hidden, norm_type, gamma, beta, norm_eps, hidden_actual, quantization_type, in_scale, fp8
):
    """The stationary operand [128, T, H1s]: own shard, normed, and in fp8 with STATIC."""
    normed = norm_type != NormType.NO_NORM
    H1 = shape.n * shape.H1s
    step = shape.T
    eps, constant, gamma_tile, beta_tile, inverse = None, None, None, None, None
    if normed:
        step = min(shape.T, max(1, NORM_COLUMNS // H1))
        eps = constant_tile(norm_eps, (128, 1))
        constant = constant_tile(1.0 if norm_type == NormType.RMS_NORM else 1.0 / shape.H, (128, 128))
        gamma_tile = shard_of(shape, gamma)
        if beta != None:
            beta_tile = shard_of(shape, beta)
    static = quantization_type == QuantizationType.STATIC
    if static:
        inverse = nl.ndarray((128, 1), dtype=nl.float32, name="in_scale_inverse")
        nisa.reciprocal(dst=inverse, data=broadcast_row(in_scale, 128))
    operand = None
    if step < shape.T:
        dtype = fp8 if static else sources[0].dtype
        operand = nl.ndarray((128, shape.T, shape.H1s), dtype=dtype)
    for first in range(0, shape.T, step):
        k = first // step
        tokens = min(step, shape.T - first)
        x = load_x(shape, sources, first, tokens, normed, k)
        own = x[:, :, nl.ds(shape.prg * shape.H1s, shape.H1s)] if normed else x
        if fused_hidden != None:
            store_fused(shape, fused_hidden, own, first)
        y = own
        if norm_type == NormType.RMS_NORM:
            y = rms_norm(x, own, gamma_tile, constant, eps, hidden_actual, k)
        if norm_type == NormType.LAYER_NORM:
            y = layer_norm(x, own, gamma_tile, beta_tile, constant, eps, k)
        if static:
            y = quantized(y, inverse, fp8, k)
        if operand == None:
            return y
        nisa.tensor_copy(dst=operand[:, nl.ds(first, tokens), :], src=y, engine=nisa.vector_engine)
    return operand


def quantized(y, inverse, fp8, k):
    """fp8 of y / in_scale: scaled in io, then clamped to +-240 and cast."""
    scaled = nl.ndarray(y.shape, dtype=y.dtype, name=f"scaled_{k}")
    nisa.tensor_scalar(dst=scaled, data=y, op0=nl.multiply, operand0=inverse, engine=nisa.vector_engine)
    return clamped_fp8(scaled, fp8, f"quantized_{k}")


# ---- scales and bias ----------------------------------------------------------------------------------------------


class Dequantization(nl.NKIObject):
    """Scale tile and where it applies: per segment of columns (Q, K, V), or per column; None without quantisation."""

    segments: object = None
    borders: object = None
    columns: object = None


def broadcast_row(tensor, partitions):
    """Row 0 of an HBM tensor [rows, F] on every partition: [partitions, F]."""
    columns = tensor.shape[1]
    tile = nl.ndarray((partitions, columns), dtype=tensor.dtype)
    nisa.dma_copy(dst=tile, src=tensor.ap([[0, partitions], [1, columns]]))
    return tile


def dequantization(shape, quantization_type, w_scale, in_scale, d_head, num_q_heads, num_kv_heads):
    """STATIC: three fp32 scales with the column where each ends. ROW: one scale per column, on every token's row."""
    if quantization_type == QuantizationType.STATIC:
        scale = nl.ndarray((128, 3), dtype=nl.float32, name="dequant_scale")
        nisa.activation(
            dst=scale, op=nl.copy, data=broadcast_row(w_scale, 128), scale=broadcast_row(in_scale, 128)
        )
        q_end = num_q_heads * d_head
        return Dequantization(segments=scale, borders=(q_end, q_end + num_kv_heads * d_head, shape.I))
    if quantization_type == QuantizationType.ROW:
        return Dequantization(columns=broadcast_row(w_scale, shape.T))
    return Dequantization()


def load_bias(shape, bias):
    """[T, I] with the bias in every row, on core 0 only: the shards are added up afterwards."""
    if bias == None or shape.prg != 0:
        return None
    tile = nl.ndarray((shape.T, shape.I), dtype=bias.dtype, name="bias_tile")
    nisa.dma_copy(dst=tile[0:1, :], src=bias)
    zeros = [0] * 32
    for start in range(0, shape.T, 32):
        stop = min(start + 32, shape.T)
        nisa.nc_stream_shuffle(dst=tile[start:stop, :], src=tile[0:1, :], shuffle_mask=zeros)
    return tile


# ---- the projection -----------------------------------------------------------------------------------------------


def group_count(shape):
    """(groups of a full block of 16 tiles, of the last block, that exist at all): sums kept apart until eviction."""
    F = 4
    if shape.T > 32:
        F = 2
    if shape.T > 64:
        F = 1
    full = shape.H1s // GROUP_BLOCK
    rest = shape.H1s % GROUP_BLOCK
    last = F if rest % F == 0 else 1
    return F, last, (F if full > 0 else last)


def group_of(shape, j):
    """Which group tile j of 128 rows is added to."""
    F, last, _count = group_count(shape)
    start = shape.H1s // GROUP_BLOCK * GROUP_BLOCK
    if j < start:
        return j % F
    return (j - start) % last


def project(shape, operand, weights, bias_tile, scales, out, io):
    """out[token, i]: I tiles of 512 in as many PSUM banks as the groups leave, H in ascending tiles of 128 rows.

    Without `out`, the list of its tiles [T, <=512].
    """
    groups = group_count(shape)[2]
    batch = 512 * (8 // groups)
    kept = []
    for low in range(0, shape.I, batch):
        width = min(batch, shape.I - low)
        tiles = project_columns(shape, operand, weights, bias_tile, scales, out, io, low, width, groups)
        for i in range(len(tiles)):
            kept.append(tiles[i])
    return kept


def project_columns(shape, operand, weights, bias_tile, scales, out, io, low, width, groups):
    """One batch of I tiles to `out`, or returned in a list; its PSUM banks are free again when this returns."""
    kept = []
    psums = accumulate(shape, operand, weights, low, width, groups)
    for i in range(len(psums)):
        column = low + 512 * i
        tile = combine(shape, psums[i], bias_tile, scales, column, io)
        tile = dequantize(shape, tile, bias_tile, scales, column, io)
        if shape.n > 1:
            tile = merge(shape, tile, column // 512, io)
        if out == None:
            kept.append(tile)
        # Both cores hold the result: they take turns in storing it.
        elif column // 512 % shape.n == shape.prg:
            store(shape, out, tile, column)
    return kept


def accumulate(shape, operand, weights, low, width, groups):
    """PSUM tiles [i][g] of [T, <=512] over the columns low.., weights streamed in blocks of tiles."""
    psums = []
    for column in range(0, width, 512):
        row = []
        for g in range(groups):
            row.append(
                nl.ndarray(
                    (shape.T, min(512, width - column)),
                    dtype=nl.float32,
                    buffer=nl.psum,
                    name=f"psum_{(low + column) // 512}_{g}",
                )
            )
        psums.append(row)
    rows = shape.H // shape.n
    shard = weights[nl.ds(shape.prg * rows, rows), :].reshape_dim(0, (128, shape.H1s))
    step = max(1, WEIGHT_BLOCK_BYTES // (width * item_size(weights.dtype)))
    for start in range(0, shape.H1s, step):
        count = min(step, shape.H1s - start)
        w = nl.ndarray((128, count, width), dtype=weights.dtype)
        nisa.dma_copy(dst=w, src=shard[:, nl.ds(start, count), nl.ds(low, width)])
        for i in range(len(psums)):
            for j in range(count):
                g = group_of(shape, start + j)
                nisa.nc_matmul(
                    dst=psums[i][g],
                    stationary=operand[:, :, start + j],
                    moving=w[:, j, nl.ds(512 * i, psums[i][g].shape[1])],
                    accumulate=not first_of_group(shape, start + j),
                )
    return psums


def first_of_group(shape, j):
    """Whether no earlier tile belongs to the group of tile j."""
    g = group_of(shape, j)
    for earlier in range(min(j, GROUP_BLOCK)):
        if group_of(shape, earlier) == g:
            return False
    return True


def combine(shape, psums, bias_tile, scales, column, io):
    """Add the groups in ascending order, each sum rounded to io; the unquantised bias comes first."""
    i, width = column // 512, psums[0].shape[1]
    plain = scales.segments == None and scales.columns == None
    previous = None
    for g in range(len(psums)):
        partial = nl.ndarray((shape.T, width), dtype=io, name=f"partial_{i}_{g}")
        if g == 0 and plain and bias_tile != None:
            previous = bias_tile[:, nl.ds(column, width)]
        if previous == None:
            nisa.tensor_scalar(
                dst=partial, data=psums[g], op0=nl.add, operand0=0.0, engine=nisa.vector_engine
            )
        else:
            nisa.tensor_tensor(
                dst=partial, data1=previous, data2=psums[g], op=nl.add, engine=nisa.vector_engine
            )
        previous = partial
    return previous


def dequantize(shape, tile, bias_tile, scales, column, io):
    """Scale the raw sum of quantised products, then add the bias."""
    i, width = column // 512, tile.shape[1]
    if scales.segments == None and scales.columns == None:
        return tile
    result = nl.ndarray((shape.T, width), dtype=io, name=f"dequant_{i}")
    if scales.columns != None:
        nisa.tensor_tensor(
            dst=result,
            data1=tile,
            data2=scales.columns[:, nl.ds(column, width)],
            op=nl.multiply,
            engine=nisa.vector_engine,
        )
    else:
        start = 0
        for segment in range(3):
            stop = min(max(scales.borders[segment] - column, start), width)
            if stop > start:
                nisa.tensor_scalar(
                    dst=result[:, start:stop],
                    data=tile[:, start:stop],
                    op0=nl.multiply,
                    operand0=scales.segments[0 : shape.T, segment : segment + 1],
                    engine=nisa.vector_engine,
                )
            start = stop
    if bias_tile == None:
        return result
    biased = nl.ndarray((shape.T, width), dtype=io, name=f"biased_{i}")
    nisa.tensor_tensor(
        dst=biased, data1=result, data2=bias_tile[:, nl.ds(column, width)], op=nl.add, engine=nisa.vector_engine
    )
    return biased


def merge(shape, tile, i, io):
    """The sum of both cores' shards, on both cores."""
    remote = nl.ndarray(tile.shape, dtype=io)
    exchange(tile, remote, shape.prg, False)
    total = nl.ndarray(tile.shape, dtype=io, name=f"total_{i}")
    nisa.tensor_tensor(dst=total, data1=tile, data2=remote, op=nl.add, engine=nisa.vector_engine)
    return total


def store(shape, out, tile, column):
    """One I tile to [B, S, I], or head by head to [I/128, B, S, 128]."""
    width = tile.shape[1]
    if len(out.shape) == 3:
        B, S, I = out.shape
        nisa.dma_copy(dst=out.reshape((B * S, I))[:, nl.ds(column, width)], src=tile)
    else:
        heads, B, S, d = out.shape
        rows = out.reshape((heads, B * S, d))[nl.ds(column // d, width // d), :, :]
        nisa.dma_copy(dst=rows.permute((1, 0, 2)), src=tile.reshape((shape.T, width // d, d)))
