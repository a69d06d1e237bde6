"""qkv for context encoding: many tokens, 128 to a tile and stationary; every token is one core's own.

Tokens go in groups whose products fill the PSUM banks together, so that streamed weights are loaded once per group.
"""

import nki.isa as nisa
import nki.language as nl

from kernels.common_types import NormType, QKVOutputLayout, QuantizationType
from kernels.kv_store import inverse_scale, largest_finite, load_slots, quantize_rows, store_flat, store_slots
from kernels.lnc import program_sharding
from kernels.mx_load import quantize_tokens
from kernels.norm_cte import eps_tile, layer_norm_tokens, rms_norm_tokens
from kernels.qkv_cte_weights import weight_block, weight_plan
from kernels.rope_cte import load_tables, rotate_heads
from kernels.token_transpose import transpose_tokens

#: float32 columns of one PSUM bank, and banks.
BANK_COLUMNS, BANKS = 512, 8
#: Bytes per partition for the operands of a group of token tiles.
GROUP_BYTES = 98304
#: fp32 values per partition of scratch when an operand is quantised.
SCRATCH_VALUES = 4096


class CteCall(nl.NKIObject):
    """One call on one core: arguments by name, dtypes of data (C) and results (E), and the tiles loaded once."""

    sources: object = None
    H: int = 0
    I: int = 0
    S: int = 0
    C: object = None
    E: object = None
    static: bool = False
    mx: bool = False
    swizzled: bool = False
    dma_transpose: bool = False
    norm_type: object = None
    divisor: int = 0
    eps: object = None
    gamma: object = None
    beta: object = None
    bias: object = None
    in_inverse: object = None
    dequant: object = None
    borders: object = None
    cos_cache: object = None
    sin_cache: object = None
    rotated: int = 0
    k_inverse: object = None
    v_inverse: object = None
    upper: float = 0.0
    lower: float = 0.0
    slot_mapping: object = None
    out: object = None
    k_cache: object = None
    v_cache: object = None


class Operand(nl.NKIObject):
    """The stationary side of one token tile: data [128, row tiles, columns]; MX: scales, and an even column count."""

    data: object = None
    scale: object = None
    s: int = 0
    first: int = 0
    tokens: int = 0


def qkv_cte(
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
    fused_rope,
    cos_cache,
    sin_cache,
    d_head,
    num_q_heads,
    num_kv_heads,
    k_cache,
    v_cache,
    k_scale,
    v_scale,
    fp8_max,
    fp8_min,
    use_block_kv,
    slot_mapping,
    load_input_with_DMA_transpose,
    is_input_swizzled,
):
    """Returns out, or with a KV cache (q, k_cache, v_cache)."""
    check_options(quantization_type, norm_type, fused_residual_add, is_input_swizzled, fused_rope, d_head)
    check_cache(input, output_layout, d_head, k_cache, v_cache, k_scale, v_scale, use_block_kv, slot_mapping)
    B, S, H = input.shape
    static = quantization_type == QuantizationType.STATIC
    data_type = nl.bfloat16 if input.dtype == nl.float32 else input.dtype
    call = CteCall(
        H=H,
        I=weights.shape[1],
        S=S,
        C=data_type,
        E=nl.bfloat16 if static else data_type,
        static=static,
        mx=quantization_type == QuantizationType.MX,
        swizzled=is_input_swizzled,
        dma_transpose=load_input_with_DMA_transpose,
        norm_type=norm_type,
        divisor=hidden_actual,
    )
    call.sources = token_rows(input, mlp_prev, attention_prev, fused_residual_add)
    cached = k_cache != None
    if cached or fused_rope or static:
        heads = d_head != None and num_q_heads != None and num_kv_heads != None
        assert heads, "RoPE, a KV cache and STATIC need d_head, num_q_heads and num_kv_heads"
        q_end = num_q_heads * d_head
        call.borders = (q_end, q_end + num_kv_heads * d_head, call.I)
    if fused_rope:
        call.cos_cache = cos_cache
        call.sin_cache = sin_cache
        call.rotated = call.borders[1]
    if cached:
        call.k_cache = k_cache
        call.v_cache = v_cache
        call.slot_mapping = slot_mapping if use_block_kv else None
        call.upper = largest_finite(k_cache.dtype) if fp8_max == None else fp8_max
        call.lower = -call.upper if fp8_min == None else fp8_min
    call.out = allocate_out(call, input, output_layout, d_head)
    first, count = tokens_of_core(B * S)
    if count > 0:
        load_constants(call, bias, in_scale, w_scale, gamma, beta, norm_eps, k_scale, v_scale)
        plan = plan_weights(call, weights, w_scale)
        encode(call, plan, first, count)
    if cached:
        return call.out, k_cache, v_cache
    return call.out


def check_options(quantization_type, norm_type, fused_residual_add, is_input_swizzled, fused_rope, d_head):
    """What context encoding alone asks for; the host-side entry states the rules with more words."""
    assert quantization_type != QuantizationType.ROW, "ROW is not supported in context encoding"
    if is_input_swizzled:
        assert quantization_type == QuantizationType.MX, "a swizzled input belongs to MX"
        assert norm_type == NormType.NO_NORM and not fused_residual_add, "a swizzled input is projected as it is"
    if fused_rope:
        assert d_head != None and d_head % 2 == 0, "fused_rope needs an even d_head"


def check_cache(input, output_layout, d_head, k_cache, v_cache, k_scale, v_scale, use_block_kv, slot_mapping):
    """All of a KV cache or nothing of it: half of one would be left unwritten in silence."""
    cached = k_cache != None
    assert (v_cache != None) == cached, "k_cache and v_cache belong together"
    assert (k_scale != None) == cached and (v_scale != None) == cached, "caches need k_scale and v_scale"
    assert cached or not use_block_kv, "use_block_kv needs the caches"
    assert use_block_kv == (slot_mapping != None), "slot_mapping belongs to use_block_kv"
    if not cached:
        return
    B, S, H = input.shape
    assert output_layout == QKVOutputLayout.BSD and d_head != None, "a KV cache needs BSD and the head sizes"
    assert k_cache.shape == v_cache.shape and len(k_cache.shape) == 3, "the caches must be alike, [., ., kv_dim]"
    if use_block_kv:
        assert slot_mapping.shape == (B, S), "slot_mapping must be [B, S]"
    else:
        assert k_cache.shape[0] == B and k_cache.shape[1] >= S, "a flat cache must be [B, max_seq_len >= S, kv_dim]"


def token_rows(input, mlp_prev, attention_prev, fused_residual_add):
    """The [T, H] tensors whose sum is encoded; their order is that of the fp32 additions."""
    B, S, H = input.shape
    sources = [input.reshape((B * S, H))]
    if fused_residual_add:
        sources.append(mlp_prev.reshape((B * S, H)))
        sources.append(attention_prev.reshape((B * S, H)))
    return sources


def allocate_out(call, input, output_layout, d_head):
    """The result in HBM: the query part with a KV cache, all columns otherwise."""
    B, S, H = input.shape
    if call.k_cache != None:
        return nl.ndarray((B, S, call.borders[0]), dtype=input.dtype, buffer=nl.shared_hbm, name="out")
    dtype = nl.bfloat16 if call.static else input.dtype
    shape = (B, S, call.I)
    if output_layout == QKVOutputLayout.NBSd:
        shape = (call.I // d_head, B, S, d_head)
    return nl.ndarray(shape, dtype=dtype, buffer=nl.shared_hbm, name="out")


def tokens_of_core(T):
    """(first, count): equal shares, the last core with the odd token too."""
    n, prg = program_sharding()
    share = T // n
    if prg == n - 1:
        return prg * share, T - prg * share
    return prg * share, share


# ---- loaded once ---------------------------------------------------------------------------------------------------


def load_constants(call, bias, in_scale, w_scale, gamma, beta, norm_eps, k_scale, v_scale):
    """Everything that the token tiles share, except the weights."""
    if call.norm_type != NormType.NO_NORM:
        call.eps = eps_tile(norm_eps, nl.float32 if call.static else call.C)
    if gamma != None:
        call.gamma = columns_of(call, gamma)
    if beta != None:
        call.beta = columns_of(call, beta)
    if bias != None:
        call.bias = nl.ndarray((128, call.I), dtype=call.E, name="bias_rows")
        nisa.dma_copy(dst=call.bias, src=bias.ap([[0, 128], [1, call.I]]))
    if call.static:
        scale = spread_row(in_scale)
        call.in_inverse = nl.ndarray((128, 1), dtype=nl.float32, name="in_scale_inverse")
        nisa.reciprocal(dst=call.in_inverse, data=scale)
        call.dequant = nl.ndarray((128, 3), dtype=nl.float32, name="dequant_scale")
        nisa.tensor_scalar(
            dst=call.dequant, data=spread_row(w_scale), op0=nl.multiply, operand0=scale, engine=nisa.vector_engine
        )
    if call.k_cache != None:
        call.k_inverse = inverse_scale(k_scale, "k_scale_inverse")
        call.v_inverse = inverse_scale(v_scale, "v_scale_inverse")


def spread_row(scale):
    """Row 0 of a scale [rows, columns] on every partition."""
    columns = scale.shape[1]
    tile = nl.ndarray((128, columns), dtype=nl.float32)
    nisa.dma_copy(dst=tile, src=scale.ap([[0, 128], [1, columns]]))
    return tile


def columns_of(call, vector):
    """A [1, H] weight as fp32 [128, H/128], column of the operand by column."""
    tile = nl.ndarray((128, call.H // 128), dtype=nl.float32)
    lanes = lanes_of(call)
    view = vector.reshape((call.H // 128 // lanes, 128, lanes)).permute((1, 0, 2))
    nisa.dma_copy(dst=tile.reshape((128, call.H // 128 // lanes, lanes)), src=view)
    return tile


def lanes_of(call):
    """Consecutive hidden columns per partition in the operand: the 4 lanes of an x4 element, or 1."""
    return 4 if call.mx else 1


def plan_weights(call, weights, w_scale):
    """Weights in C, in STATIC and MX as they are; resident beside one token tile with its results, if they fit."""
    working = 6 * call.H + 14 * call.I + 4 * SCRATCH_VALUES
    if call.mx:
        return weight_plan(weights, w_scale, nl.float8_e4m3fn_x4, working)
    return weight_plan(weights, None, weights.dtype if call.static else call.C, working)


# ---- token tiles ---------------------------------------------------------------------------------------------------


def encode(call, plan, first, count):
    """All tokens of the core, group by group; tile s holds its tokens 128*s .."""
    tiles = (count + 127) // 128
    group = group_size(call, plan)
    for low in range(0, tiles, group):
        encode_group(call, plan, first, count, low, min(low + group, tiles))


def group_size(call, plan):
    """Token tiles whose products share the PSUM banks; one where the weights are at hand anyway."""
    if plan.resident != None:
        return 1
    banks = (call.I + BANK_COLUMNS - 1) // BANK_COLUMNS
    return max(1, min(BANKS // banks, GROUP_BYTES // (2 * call.H)))


def encode_group(call, plan, first, count, low, high):
    """Token tiles low .. high-1: transposes before products, since both want the banks of PSUM."""
    operands = []
    for s in range(low, high):
        operands.append(operand_of(call, s, first + 128 * s, min(128, count - 128 * s)))
    products = project(call, plan, operands)
    for k in range(len(operands)):
        finish(call, operands[k], products[k])


def load_hidden(call, s, first, tokens):
    """hidden_{s} [tokens, H] in C: the rows, or the sum of three rows rounded once."""
    hidden = nl.ndarray((tokens, call.H), dtype=call.C, name=f"hidden_{s}")
    views = []
    for source in call.sources:
        views.append(source[nl.ds(first, tokens), :])
    if len(views) == 1:
        nisa.dma_copy(dst=hidden, src=views[0])
    else:
        nisa.dma_compute(dst=hidden, srcs=views, reduce_op=nl.add, scales=[1.0, 1.0, 1.0])
    return hidden


def normalized_tokens(call, s, first, tokens):
    """The tokens after residual and norm, [tokens, H] in C; gamma and beta still to come."""
    hidden = load_hidden(call, s, first, tokens)
    if call.norm_type == NormType.NO_NORM:
        return hidden
    if call.norm_type == NormType.LAYER_NORM:
        return layer_norm_tokens(hidden, call.eps, s)
    return rms_norm_tokens(hidden, call.eps, call.divisor, s)


def operand_of(call, s, first, tokens):
    """The stationary operand of token tile s."""
    result = Operand(s=s, first=first, tokens=tokens)
    operand = transposed_tokens(call, normalized_tokens(call, s, first, tokens), s)
    if call.mx:
        data, scale = quantize_tokens(operand, s)
        result.data = data
        result.scale = scale
    elif call.static:
        result.data = quantize_operand(operand, call.in_inverse, s)
    else:
        result.data = operand
    return result


def transposed_tokens(call, value, s):
    """operand_{s}: [128, H/128, tokens]; MX [128, H/512, tokens rounded up to even, 4], the padding zero."""
    tokens, H = value.shape
    if not call.mx:
        operand = nl.ndarray((128, H // 128, tokens), dtype=call.C, name=f"operand_{s}")
        source, dst = value.reshape((tokens, H // 128, 1, 128)), operand.reshape((128, H // 128, 1, tokens))
        transpose_tokens(dst, source, call.gamma, call.beta, call.dma_transpose)
        return operand
    padded = tokens + tokens % 2
    operand = nl.ndarray((128, H // 512, padded, 4), dtype=call.C, name=f"operand_{s}")
    if padded > tokens:
        nisa.memset(dst=operand[:, :, tokens, :], value=0.0)
    if call.swizzled:
        source = value.reshape((tokens, 4, H // 512, 128)).permute((0, 2, 1, 3))
    else:
        source = value.reshape((tokens, H // 512, 128, 4)).permute((0, 1, 3, 2))
    dst = operand[:, :, 0:tokens, :].permute((0, 1, 3, 2))
    transpose_tokens(dst, source, call.gamma, call.beta, call.dma_transpose)
    return operand


def quantize_operand(operand, inverse, s):
    """operand_fp8_{s}: fp8 of operand / in_scale, clamped in fp32 before the one cast."""
    width, columns, tokens = operand.shape
    quantized = nl.ndarray(operand.shape, dtype=nl.float8_e4m3, name=f"operand_fp8_{s}")
    step = max(1, SCRATCH_VALUES // tokens)
    for low in range(0, columns, step):
        part = nl.ds(low, min(step, columns - low))
        scaled = nl.ndarray((width, min(step, columns - low), tokens), dtype=nl.float32)
        nisa.tensor_scalar(
            dst=scaled, data=operand[:, part, :], op0=nl.multiply, operand0=inverse, engine=nisa.vector_engine
        )
        nisa.tensor_scalar(
            dst=quantized[:, part, :],
            data=scaled,
            op0=nl.minimum,
            operand0=240.0,
            op1=nl.maximum,
            operand1=-240.0,
            engine=nisa.vector_engine,
        )
    return quantized


# ---- products ------------------------------------------------------------------------------------------------------


def project(call, plan, operands):
    """PSUM tiles [token tile][i] = operand x weights, row tiles in ascending order."""
    products = []
    for operand in operands:
        products.append(product_tiles(call, operand))
    for first in range(0, plan.tiles, plan.step):
        multiply_block(call, operands, products, weight_block(plan, first), plan.tiles)
    return products


def product_tiles(call, operand):
    """One PSUM tile [columns of the operand, <= 512] for every I tile."""
    row = []
    for column in range(0, call.I, BANK_COLUMNS):
        row.append(
            nl.ndarray(
                (operand.data.shape[2], min(BANK_COLUMNS, call.I - column)),
                dtype=nl.float32,
                buffer=nl.psum,
                name=f"product_{operand.s}_{column // BANK_COLUMNS}",
            )
        )
    return row


def multiply_block(call, operands, products, block, tiles):
    """Add one block of row tiles; an operand stays in the array for all I tiles."""
    for k in range(len(operands)):
        j = 0
        while j < block.count:
            # Double rows take two row tiles at a time; a last odd one goes alone.
            rows = 2 if call.static and block.first + j + 1 < tiles else 1
            for i in range(len(products[k])):
                part = nl.ds(BANK_COLUMNS * i, products[k][i].shape[1])
                multiply(operands[k], products[k][i], block, j, rows, part)
            j = j + rows


def multiply(operand, product, block, j, rows, part):
    """One pass: row tile j of the block (and j + 1 with rows = 2) onto a PSUM tile."""
    t = block.first + j
    if operand.scale != None:
        nisa.nc_matmul_mx(
            dst=product,
            stationary=operand.data[:, t, :],
            moving=block.data[:, j, part],
            stationary_scale=operand.scale[:, t, :],
            moving_scale=block.scale[:, j, part],
            accumulate=t > 0,
        )
    elif rows == 2:
        nisa.nc_matmul(
            dst=product,
            stationary=operand.data[:, nl.ds(t, 2), :],
            moving=block.data[:, nl.ds(j, 2), part],
            accumulate=t > 0,
            perf_mode=nisa.matmul_perf_mode.double_row,
        )
    else:
        nisa.nc_matmul(
            dst=product,
            stationary=operand.data[:, t, :],
            moving=block.data[:, j, part],
            accumulate=t > 0,
        )


# ---- results -------------------------------------------------------------------------------------------------------


def finish(call, operand, product):
    """From the products of one token tile to HBM."""
    s, first, tokens = operand.s, operand.first, operand.tokens
    projected = nl.ndarray((tokens, call.I), dtype=call.E, name=f"projected_{s}")
    if call.static:
        dequantize(call, projected, product, s)
    else:
        evict(call, projected, product)
    rotated = projected
    if call.rotated > 0:
        cos, sin = load_tables(call.cos_cache, call.sin_cache, first, tokens, call.E, s)
        rotated = rotate_heads(projected[:, 0 : call.rotated], cos, sin, s)
    if call.k_cache == None:
        store_columns(call.out, rotated, 0, first)
        if call.rotated > 0:
            store_columns(call.out, projected[:, call.rotated : call.I], call.rotated, first)
        return
    q_end, k_end, v_end = call.borders
    store_columns(call.out, rotated[:, 0:q_end], 0, first)
    store_cache(call, rotated[:, q_end:k_end], projected[:, k_end:v_end], s, first)


def evict(call, projected, product):
    """projected := product (+ bias), one rounding."""
    tokens = projected.shape[0]
    for i in range(len(product)):
        part = nl.ds(BANK_COLUMNS * i, product[i].shape[1])
        if call.bias == None:
            nisa.tensor_copy(dst=projected[:, part], src=product[i][0:tokens, :], engine=nisa.vector_engine)
        else:
            nisa.tensor_tensor(
                dst=projected[:, part],
                data1=product[i][0:tokens, :],
                data2=call.bias[0:tokens, part],
                op=nl.add,
                engine=nisa.vector_engine,
            )


def dequantize(call, projected, product, s):
    """projected := raw * scale of the segment (+ bias); with RoPE directly from PSUM, else from raw_{s} in bf16."""
    tokens = projected.shape[0]
    if call.rotated > 0:
        for i in range(len(product)):
            dequantize_columns(call, projected, product[i][0:tokens, :], BANK_COLUMNS * i)
        return
    raw = nl.ndarray(projected.shape, dtype=nl.bfloat16, name=f"raw_{s}")
    for i in range(len(product)):
        part = nl.ds(BANK_COLUMNS * i, product[i].shape[1])
        nisa.tensor_copy(dst=raw[:, part], src=product[i][0:tokens, :], engine=nisa.vector_engine)
    dequantize_columns(call, projected, raw, 0)


def dequantize_columns(call, projected, value, low):
    """The columns low.. of projected from `value` [tokens, width], segment by segment."""
    tokens, width = value.shape
    start = 0
    for segment in range(3):
        stop = min(max(call.borders[segment] - low, start), width)
        if stop > start:
            scale = call.dequant[0:tokens, segment : segment + 1]
            part = projected[:, low + start : low + stop]
            if call.bias == None:
                nisa.tensor_scalar(
                    dst=part,
                    data=value[:, start:stop],
                    op0=nl.multiply,
                    operand0=scale,
                    engine=nisa.vector_engine,
                )
            else:
                nisa.scalar_tensor_tensor(
                    dst=part,
                    data=value[:, start:stop],
                    op0=nl.multiply,
                    operand0=scale,
                    op1=nl.add,
                    operand1=call.bias[0:tokens, low + start : low + stop],
                )
        start = stop


def store_columns(out, tile, column, first):
    """tile [tokens, width] to columns column.. of [B, S, columns], or to whole heads of [heads, B, S, d]."""
    tokens, width = tile.shape
    if len(out.shape) == 3:
        B, S, columns = out.shape
        nisa.dma_copy(dst=out.reshape((B * S, columns))[nl.ds(first, tokens), nl.ds(column, width)], src=tile)
    else:
        heads, B, S, d = out.shape
        rows = out.reshape((heads, B * S, d))[nl.ds(column // d, width // d), nl.ds(first, tokens), :]
        nisa.dma_copy(dst=rows.permute((1, 0, 2)), src=tile.reshape((tokens, width // d, d)))


def store_cache(call, keys, values, s, first):
    """Keys and values of one token tile, quantised, to their places in the caches."""
    dtype = call.k_cache.dtype
    k = quantize_rows(keys, call.k_inverse, call.upper, call.lower, dtype, f"k_quantized_{s}")
    v = quantize_rows(values, call.v_inverse, call.upper, call.lower, dtype, f"v_quantized_{s}")
    if call.slot_mapping == None:
        store_flat(call.k_cache, k, first, call.S)
        store_flat(call.v_cache, v, first, call.S)
    else:
        slots = load_slots(call.slot_mapping, first, keys.shape[0])
        store_slots(call.k_cache, k, slots)
        store_slots(call.v_cache, v, slots)
