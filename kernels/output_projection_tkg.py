"""Output projection for decode: out[b*S+s, h] = sum_{n,d} attention[d, b, n, s] * weight[n*D+d, h] + bias[0, h].

Weights stream through SBUF in blocks; every PSUM tile is accumulated over the head groups in ascending order and
evicted once. H is sharded over the cores of the LNC, which never exchange data.
"""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.common_types import QuantizationType
from kernels.fp8_clamp import clamped_fp8
from kernels.head_packing import heads_per_group, pack_heads
from kernels.lnc import program_sharding
from kernels.operand_checks import check_flags, check_operand, is_float

#: Bytes per partition that one weight block may take; two blocks are in flight.
WEIGHT_BLOCK_BYTES = 32768
#: Bytes per partition that resident weights may take when the output is transposed.
RESIDENT_BYTES = 163840
#: Widest block of output columns (not transposed): four PSUM banks, so that four more are free to evict.
BLOCK_COLUMNS = 2048


@nki.jit
def output_projection_tkg(
    attention,
    weight,
    bias,
    TRANSPOSE_OUT=False,
    OUT_IN_SB=False,
    quantization_type=QuantizationType.NONE,
    weight_scale=None,
    input_scale=None,
    sbm=None,
):
    """Project attention [D, B, N, S] with weight [N*D, H] (and bias [1, H] or None).

    Returns [B*S, H] in HBM, or [128, LNC, H/(128*LNC), B*S] with TRANSPOSE_OUT; with OUT_IN_SB this core's shard in
    SBUF: [B*S, H/LNC] or [128, H/(128*LNC), B*S]. The dtype is that of attention. STATIC: fp8 weights, weight_scale
    and input_scale [128, 1] fp32; ROW: fp8 weights, weight_scale [128, H] fp32.
    """
    n_prgs, prg = program_sharding()
    check_arguments(
        attention, weight, bias, TRANSPOSE_OUT, OUT_IN_SB, quantization_type, weight_scale, input_scale, sbm, n_prgs
    )
    H = weight.shape[1]
    D, B, N, S = attention.shape
    g = heads_per_group(N, D)
    groups = N // g
    slots = 1
    static = quantization_type == QuantizationType.STATIC
    if static and groups % 2 == 0 and (groups * B) % 32 == 0 and B * S >= 64:
        slots = 2

    scale = None
    source = attention
    if static:
        scale, source = quantize_attention(attention, weight_scale, input_scale, weight.dtype)
    columns = (groups // slots) * B * S
    if slots == 2:
        packed = nl.ndarray((g * D, slots, columns), dtype=source.dtype, name="attention_packed")
    else:
        packed = nl.ndarray((g * D, columns), dtype=source.dtype, name="attention_packed").expand_dim(1)
    pack_heads(packed, source, g, slots)
    weight_view = weight.reshape((groups // slots, slots, g * D, H))

    if TRANSPOSE_OUT:
        return project_transposed(
            packed, weight_view, bias, scale, weight_scale, quantization_type, OUT_IN_SB, attention.dtype, n_prgs, prg
        )
    return project_plain(
        packed, weight_view, bias, scale, weight_scale, quantization_type, OUT_IN_SB, attention.dtype, n_prgs, prg
    )


def check_arguments(
    attention, weight, bias, TRANSPOSE_OUT, OUT_IN_SB, quantization_type, weight_scale, input_scale, sbm, n_prgs
):
    """What the code below relies on; the host-side entry states the same rules with more words."""
    assert len(attention.shape) == 4, "attention must be [D, B, N, S]"
    D, B, N, S = attention.shape
    assert D > 0 and B > 0 and N > 0 and S > 0, "attention must not be empty"
    assert is_float(attention.dtype), "attention must be float32, bfloat16 or float16"
    check_flags((TRANSPOSE_OUT, OUT_IN_SB))
    assert len(weight.shape) == 2 and weight.shape[0] == N * D, "weight must be [N*D, H]"
    H = weight.shape[1]
    assert H > 0, "H must be at least 1"
    check_operand(bias, (1, H), "bias")
    assert sbm == None, "sbm is not supported"
    check_quantization(attention, weight, quantization_type, weight_scale, input_scale)
    assert H % n_prgs == 0, "H must be a multiple of the LNC size"
    assert B * S <= nl.tile_size.pmax, "B*S must be <= 128"
    assert D <= nl.tile_size.pmax, "D must be <= 128"
    if TRANSPOSE_OUT:
        assert H % (128 * n_prgs) == 0, "TRANSPOSE_OUT needs H to be a multiple of 128*LNC"
        limit = 81920 if weight.dtype == nl.float32 else 163840
        assert N * H <= limit, "TRANSPOSE_OUT needs N*H <= 163840 (81920 for 32-bit weights)"
    else:
        assert H % (512 * n_prgs) == 0, "H must be a multiple of 512*LNC"


def check_quantization(attention, weight, quantization_type, weight_scale, input_scale):
    """Scales that the mode needs are there, those it cannot use are not, and the dtypes can be multiplied."""
    none = quantization_type == QuantizationType.NONE
    static = quantization_type == QuantizationType.STATIC
    row = quantization_type == QuantizationType.ROW
    assert none or static or row, "quantization_type must be NONE, STATIC or ROW"
    if none:
        assert weight_scale == None and input_scale == None, "NONE takes no scales"
        assert is_float(weight.dtype), "weight must be float32, bfloat16 or float16, or quantised"
        fp32_io = attention.dtype == nl.float32
        fp32_weight = weight.dtype == nl.float32
        assert fp32_io == fp32_weight, "float32 multiplies only with float32"
    else:
        assert weight.dtype == nl.float8_e4m3, "quantised weights must be float8_e4m3"
        assert weight_scale != None, "weight_scale is missing"
        assert weight_scale.dtype == nl.float32, "weight_scale must be float32"
    if static:
        assert input_scale != None, "STATIC needs input_scale"
        assert weight_scale.shape == (128, 1) and input_scale.shape == (128, 1), "STATIC scales must be [128, 1]"
        assert input_scale.dtype == nl.float32, "input_scale must be float32"
    if row:
        assert input_scale == None, "ROW takes no input_scale"
        assert weight_scale.shape == (128, weight.shape[1]), "ROW weight_scale must be [128, H]"
        assert attention.dtype != nl.float32, "float32 multiplies only with float32"


def quantize_attention(attention, weight_scale, input_scale, fp8):
    """(combined dequantisation scale [128, 1], attention in fp8 [D, B, N, S]); the caller's tile is left alone."""
    D, B, N, S = attention.shape
    ws = nl.ndarray((128, 1), dtype=nl.float32, name="weight_scale_sb")
    nisa.dma_copy(dst=ws, src=weight_scale)
    xs = nl.ndarray((128, 1), dtype=nl.float32, name="input_scale_sb")
    nisa.dma_copy(dst=xs, src=input_scale)
    scale = nl.ndarray((128, 1), dtype=nl.float32, name="scale")
    nisa.tensor_tensor(dst=scale, data1=ws, data2=xs, op=nl.multiply, engine=nisa.vector_engine)
    inv_scale = nl.ndarray((128, 1), dtype=nl.float32, name="inv_scale")
    nisa.reciprocal(dst=inv_scale, data=xs)

    loaded = attention
    if not nl.is_sbuf(attention.buffer):
        loaded = nl.ndarray((D, B, N, S), dtype=attention.dtype, name="attention_sb")
        nisa.dma_copy(dst=loaded, src=attention)
    scaled = nl.ndarray((D, B, N, S), dtype=attention.dtype, name="attention_scaled")
    nisa.tensor_scalar(
        dst=scaled, data=loaded, op0=nl.multiply, operand0=inv_scale[0:D, :], engine=nisa.vector_engine
    )
    return scale, clamped_fp8(scaled, fp8, "attention_fp8")


def item_bytes(dtype):
    """Bytes of one weight element."""
    if dtype == nl.float32:
        return 4
    if dtype == nl.float8_e4m3:
        return 1
    return 2


def matmul_pass(dst, stationary, moving, slots, first):
    """One accumulating pass; operands carry a slot axis of 1 (plain) or 2 (double row) behind the partitions."""
    if slots == 2:
        nisa.nc_matmul(
            dst=dst,
            stationary=stationary,
            moving=moving,
            accumulate=not first,
            perf_mode=nisa.matmul_perf_mode.double_row,
        )
    else:
        nisa.nc_matmul(dst=dst, stationary=stationary[:, 0, :], moving=moving[:, 0, :], accumulate=not first)


def evict(out, psum, bias, scale, row_scale, dequant):
    """Round a complete PSUM tile into `out`: dequantise first (its own rounding when a bias follows), then add bias."""
    dequantised = scale != None or row_scale != None
    target = out
    if dequantised and bias != None:
        target = dequant
    if scale != None:
        nisa.activation(dst=target, op=nl.copy, data=psum, scale=scale)
    if row_scale != None:
        nisa.tensor_tensor(dst=target, data1=psum, data2=row_scale, op=nl.multiply, engine=nisa.vector_engine)
    if bias != None:
        summand = dequant if dequantised else psum
        nisa.tensor_tensor(dst=out, data1=summand, data2=bias, op=nl.add, engine=nisa.vector_engine)
    elif not dequantised:
        nisa.tensor_copy(dst=out, src=psum, engine=nisa.vector_engine)


# ---- [B*S, H]: attention is stationary --------------------------------------------------------------------------


def load_plain_row_vectors(bias, weight_scale, row, tokens, first, columns):
    """(bias_tile, row_scale) for every token row of the shard; None where there is none."""
    bias_tile = None
    if bias != None:
        bias_tile = nl.ndarray((tokens, columns), dtype=bias.dtype, name="out_bias")
        nisa.dma_copy(dst=bias_tile[0:1, :], src=bias[0:1, nl.ds(first, columns)])
        zeros = [0] * 32
        for start in range(0, tokens, 32):
            stop = min(start + 32, tokens)
            nisa.nc_stream_shuffle(dst=bias_tile[start:stop, :], src=bias_tile[0:1, :], shuffle_mask=zeros)
    row_scale = None
    if row:
        row_scale = nl.ndarray((tokens, columns), dtype=nl.float32, name="row_scale")
        nisa.dma_copy(dst=row_scale, src=weight_scale[0:tokens, nl.ds(first, columns)])
    return bias_tile, row_scale


def project_plain(
    packed, weight_view, bias, scale, weight_scale, quantization_type, OUT_IN_SB, io, n_prgs, prg
):
    """out[token, h] on this core's contiguous columns, H tiles of 512 = one PSUM bank each."""
    passes, slots, rows, H = weight_view.shape
    tokens = packed.shape[2] // passes
    columns = H // n_prgs
    first = prg * columns
    row = quantization_type == QuantizationType.ROW
    bias_tile, row_scale = load_plain_row_vectors(bias, weight_scale, row, tokens, first, columns)
    out_sb = nl.ndarray((tokens, columns), dtype=io, name="out_0")
    out = None
    if not OUT_IN_SB:
        out = nl.ndarray((tokens, H), dtype=io, buffer=nl.shared_hbm, name="out")

    width = min(BLOCK_COLUMNS, columns)
    if columns % width != 0:
        width = columns if columns < 2 * BLOCK_COLUMNS else 512
    chunk = max(1, WEIGHT_BLOCK_BYTES // (slots * width * item_bytes(weight_view.dtype)))
    for block in range(columns // width):
        start = block * width
        psums = accumulate_block(packed, weight_view, tokens, first + start, width, chunk, start // 512)
        for i in range(len(psums)):
            column = start + 512 * i
            size = min(512, start + width - column)
            part = nl.ds(column, size)
            dequant = None
            if bias != None and quantization_type != QuantizationType.NONE:
                dequant = nl.ndarray((tokens, size), dtype=io, name=f"out_dequant_0_{column // 512}")
            evict(
                out_sb[:, part],
                psums[i],
                bias_tile[:, part] if bias != None else None,
                scale[0:tokens, :] if scale != None else None,
                row_scale[:, part] if row else None,
                dequant,
            )
        if not OUT_IN_SB:
            nisa.dma_copy(dst=out[:, nl.ds(first + start, width)], src=out_sb[:, nl.ds(start, width)])
    return out_sb if OUT_IN_SB else out


def accumulate_block(packed, weight_view, tokens, first, width, chunk, tile):
    """The PSUM tiles [tokens, <=512] of one block of columns, summed over all passes, weights streamed in chunks."""
    passes, slots, rows, H = weight_view.shape
    psums = []
    for column in range(0, width, 512):
        size = min(512, width - column)
        psums.append(
            nl.ndarray((tokens, size), dtype=nl.float32, buffer=nl.psum, name=f"out_psum_0_{tile + column // 512}")
        )
    for low in range(0, passes, chunk):
        count = min(chunk, passes - low)
        w = nl.ndarray((rows, count, slots, width), dtype=weight_view.dtype, name="weight_block")
        nisa.dma_copy(
            dst=w, src=weight_view[low : low + count, :, :, nl.ds(first, width)].permute((2, 0, 1, 3))
        )
        for i in range(len(psums)):
            for k in range(count):
                matmul_pass(
                    psums[i],
                    packed[:, :, nl.ds((low + k) * tokens, tokens)],
                    w[:, k, :, nl.ds(512 * i, psums[i].shape[1])],
                    slots,
                    low + k == 0,
                )
    return psums


# ---- [128, LNC, H_2, B*S]: weight is stationary -----------------------------------------------------------------


def load_transposed_vector(vector, dtype, name, first, H_2):
    """[128, H_2] of one row of an HBM tensor: partition h_1 holds the H_2 consecutive values from h_1*H_2 on."""
    tile = nl.ndarray((128, H_2), dtype=dtype, name=name)
    nisa.dma_copy(dst=tile, src=vector[0, nl.ds(first, 128 * H_2)].reshape((128, H_2)))
    return tile


def over_tokens(vector, low, count, tokens):
    """Columns low..low+count of [128, H_2] repeated for every token, as a stride-0 view [128, count, tokens]."""
    return vector[:, nl.ds(low, count)].expand_dim(2).broadcast(2, tokens)


def project_transposed(
    packed, weight_view, bias, scale, weight_scale, quantization_type, OUT_IN_SB, io, n_prgs, prg
):
    """out[h_1, core, h_2, token]; one PSUM bank holds P = 512 // tokens values of h_2 side by side."""
    passes, slots, rows, H = weight_view.shape
    tokens = packed.shape[2] // passes
    H_2 = H // (128 * n_prgs)
    first = prg * 128 * H_2
    row = quantization_type == QuantizationType.ROW
    bias_tile = None
    if bias != None:
        bias_tile = load_transposed_vector(bias, bias.dtype, "out_bias", first, H_2)
    row_scale = None
    if row:
        row_scale = load_transposed_vector(weight_scale, nl.float32, "row_scale", first, H_2)
    out_sb = nl.ndarray((128, H_2, tokens), dtype=io, name="out_0")
    out = None
    if not OUT_IN_SB:
        out = nl.ndarray((128, n_prgs, H_2, tokens), dtype=io, buffer=nl.shared_hbm, name="out")

    per_tile = min(512 // tokens, H_2)
    step = values_per_block(passes * slots * 128 * item_bytes(weight_view.dtype), per_tile, H_2)
    # H = core, h_1, h_2: the stationary of one h_2 takes columns H_2 apart.
    shard = weight_view[:, :, :, nl.ds(first, 128 * H_2)].reshape_dim(3, (128, H_2))
    psum = None
    w = None
    for h_2 in range(H_2):
        low = h_2 // per_tile * per_tile
        count = min(per_tile, H_2 - low)
        if h_2 % step == 0:
            w = load_transposed_block(shard, h_2, min(step, H_2 - h_2))
        if h_2 == low:
            psum = nl.ndarray(
                (128, count, tokens), dtype=nl.float32, buffer=nl.psum, name=f"out_psum_{low // per_tile}"
            )
        for k in range(passes):
            matmul_pass(
                psum[:, h_2 - low, :],
                w[:, k, :, :, h_2 % step],
                packed[:, :, nl.ds(k * tokens, tokens)],
                slots,
                k == 0,
            )
        if h_2 == low + count - 1:
            evict_transposed(
                out_sb, out, psum, bias_tile, scale, row_scale, low, f"out_dequant_{low // per_tile}", io, prg
            )
    return out_sb if OUT_IN_SB else out


def values_per_block(bytes_per_value, per_tile, H_2):
    """How many values of h_2 one weight block holds: all, when the shard fits; else whole PSUM tiles if possible.

    Rows of a block are contiguous in HBM only over h_2, so a wide block means long DMA bursts.
    """
    if bytes_per_value * H_2 <= RESIDENT_BYTES:
        return H_2
    step = max(1, RESIDENT_BYTES // 2 // bytes_per_value)
    if step > per_tile:
        step = step // per_tile * per_tile
    return step


def load_transposed_block(shard, low, size):
    """Weight columns of `size` values of h_2 for all passes: [rows, passes, slots, 128, size]."""
    passes, slots, rows, H_1, H_2 = shard.shape
    w = nl.ndarray((rows, passes, slots, H_1, size), dtype=shard.dtype, name="weight_block")
    for k in range(passes):
        for slot in range(slots):
            nisa.dma_copy(dst=w[:, k, slot, :, :], src=shard[k, slot, :, :, nl.ds(low, size)])
    return w


def evict_transposed(out_sb, out, psum, bias_tile, scale, row_scale, low, dequant_name, io, prg):
    """Round one PSUM tile [128, count, tokens] into the output, and send it on unless it stays in SBUF."""
    count, tokens = psum.shape[1], psum.shape[2]
    values = nl.ds(low, count)
    dequant = None
    if bias_tile != None and (scale != None or row_scale != None):
        dequant = nl.ndarray((128, count, tokens), dtype=io, name=dequant_name)
    evict(
        out_sb[:, values, :],
        psum,
        over_tokens(bias_tile, low, count, tokens) if bias_tile != None else None,
        scale,
        over_tokens(row_scale, low, count, tokens) if row_scale != None else None,
        dequant,
    )
    if out != None:
        nisa.dma_copy(dst=out[:, prg, values, :], src=out_sb[:, values, :])
