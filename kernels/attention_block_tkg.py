"""One attention layer of decode in one launch: norm, QKV, head norms, RoPE, attention, cache update, projection.

Queries, keys and values of the new tokens stay in SBUF from the projection to the attention. Heads stand as columns
[d, columns] there: queries as b*(q*S) + h*S + s, keys as b*S + s. Both cores prepare all of them; attention and
projections divide their work as kernels of their own do.
"""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.attention_block_tkg_arguments import (
    block_shape,
    check_caches,
    check_heads,
    check_numbers,
    check_out,
    check_qkv,
    check_quantization,
    check_sizes,
    check_update,
)
from kernels.attention_tkg import AttnTKGConfig, attention_tkg
from kernels.cache_update import quantize_new, update_keys, update_transposed_keys, update_values
from kernels.common_types import NormType
from kernels.head_norm import head_rms_norm
from kernels.lnc import program_sharding
from kernels.operand_checks import check_flags
from kernels.output_projection_tkg import output_projection_tkg
from kernels.qkv_tkg import TkgShape, norm_and_project
from kernels.rope_tkg import load_table, rotate_columns
from kernels.token_transpose import transpose_tokens

#: rmsnorm_X_eps where None is given.
DEFAULT_EPS = 1e-3


@nki.jit
def attention_block_tkg(
    X,
    X_hidden_dim_actual,
    rmsnorm_X_enabled,
    rmsnorm_X_eps,
    rmsnorm_X_gamma,
    W_qkv,
    bias_qkv,
    quantization_type_qkv,
    weight_dequant_scale_qkv,
    input_dequant_scale_qkv,
    rmsnorm_QK_pre_rope_enabled,
    rmsnorm_QK_pre_rope_eps,
    cos,
    sin,
    rope_contiguous_layout,
    rmsnorm_QK_post_rope_enabled,
    rmsnorm_QK_post_rope_eps,
    rmsnorm_QK_post_rope_W_Q,
    rmsnorm_QK_post_rope_W_K,
    K_cache_transposed,
    active_blocks_table,
    K_cache,
    V_cache,
    attention_mask,
    sink,
    update_cache,
    kv_cache_update_idx,
    W_out,
    bias_out,
    quantization_type_out,
    weight_dequant_scale_out,
    input_dequant_scale_out,
    transposed_out,
    out_in_sb,
    softmax_scale=None,
    k_scale=None,
    v_scale=None,
    sbm=None,
    skip_attention=False,
):
    """(out, K_out, V_out) of new tokens X [B, S, H] in HBM or [128, B*S, H/128] in SBUF, with one KV head.

    out is what output_projection_tkg returns; without W_out attention [B, q, d, S] in HBM or [d, B*q*S] in SBUF. K_out
    and V_out are the caches, updated at kv_cache_update_idx after they were read, or without update_cache new keys
    [d, B, S] and values [B, 1, S, d]. The index is [B, 1], where each batch begins, or [B, S], where each token goes.
    With k_scale and v_scale new keys and values are float8_e4m3 of their products with these. skip_attention passes on
    the queries, unscaled, in place of attention. The compiler places all tiles, whatever `sbm` is.
    """
    n, prg = program_sharding()
    blocks = active_blocks_table != None
    shape = block_shape(X, W_qkv, attention_mask, V_cache, blocks, n, prg)
    check_sizes(shape, X, W_qkv, attention_mask)
    check_flags((
        rmsnorm_X_enabled, rmsnorm_QK_pre_rope_enabled, rope_contiguous_layout, rmsnorm_QK_post_rope_enabled,
        K_cache_transposed, update_cache, transposed_out, out_in_sb, skip_attention,
    ))
    check_numbers(
        shape, X_hidden_dim_actual, rmsnorm_X_eps, rmsnorm_QK_pre_rope_eps, rmsnorm_QK_post_rope_eps, softmax_scale
    )
    check_quantization(quantization_type_qkv, W_qkv, weight_dequant_scale_qkv, input_dequant_scale_qkv, 3, True)
    check_qkv(shape, X.dtype, W_qkv, bias_qkv, rmsnorm_X_gamma, rmsnorm_X_enabled)
    check_heads(
        shape, cos, sin, rmsnorm_QK_post_rope_enabled, rmsnorm_QK_post_rope_W_Q, rmsnorm_QK_post_rope_W_K, sink
    )
    check_caches(
        shape, X.dtype, K_cache, V_cache, K_cache_transposed, active_blocks_table, k_scale, v_scale
    )
    check_update(shape, update_cache, kv_cache_update_idx)
    check_out(
        shape, W_out, bias_out, quantization_type_out, weight_dequant_scale_out, input_dequant_scale_out,
        transposed_out,
    )

    tokens = project_tokens(
        shape, X, W_qkv, bias_qkv, quantization_type_qkv, weight_dequant_scale_qkv, input_dequant_scale_qkv,
        rmsnorm_X_gamma, rmsnorm_X_eps, X_hidden_dim_actual,
    )
    query, key = split_heads(shape, tokens, 0), split_heads(shape, tokens, 1)
    value = tokens[:, nl.ds((shape.q + 1) * shape.d, shape.d)]
    if rmsnorm_QK_pre_rope_enabled:
        query = head_rms_norm(query, rmsnorm_QK_pre_rope_eps, None, "pre", 0)
        key = head_rms_norm(key, rmsnorm_QK_pre_rope_eps, None, "pre", 1)
    if cos != None:
        cosines, sines = load_table(cos), load_table(sin)
        query = rotate_columns(query, cosines, sines, shape.B, shape.q, rope_contiguous_layout, 0)
        key = rotate_columns(key, cosines, sines, shape.B, 1, rope_contiguous_layout, 1)
    if rmsnorm_QK_post_rope_enabled:
        query = head_rms_norm(query, rmsnorm_QK_post_rope_eps, rmsnorm_QK_post_rope_W_Q, "post", 0)
        key = head_rms_norm(key, rmsnorm_QK_post_rope_eps, rmsnorm_QK_post_rope_W_K, "post", 1)
    if k_scale != None:
        key = quantize_new(key, k_scale, K_cache.dtype, 1)
        value = quantize_new(value, v_scale, V_cache.dtype, 2)

    out_on_chip = W_out != None or out_in_sb
    if skip_attention:
        attended = query if out_on_chip else store_queries(shape, query)
    else:
        attended = attend(
            shape, query, key, value, K_cache, V_cache, K_cache_transposed, attention_mask, sink, active_blocks_table,
            softmax_scale, out_on_chip,
        )
    if update_cache:
        if n == 2 and not skip_attention:
            # Slots about to be written may still be read by the other core's attention.
            nisa.core_barrier(data=K_cache, cores=(0, 1))
            nisa.core_barrier(data=V_cache, cores=(0, 1))
        update_caches(shape, key, value, K_cache, V_cache, K_cache_transposed, kv_cache_update_idx)
        K_out, V_out = K_cache, V_cache
    else:
        K_out, V_out = return_new(shape, key, value)
    if W_out == None:
        return attended, K_out, V_out
    out = output_projection_tkg(
        attended.reshape((shape.d, shape.B, shape.q, shape.S)),
        W_out,
        bias_out,
        TRANSPOSE_OUT=transposed_out,
        OUT_IN_SB=out_in_sb,
        quantization_type=quantization_type_out,
        weight_scale=weight_dequant_scale_out,
        input_scale=input_dequant_scale_out,
    )
    return out, K_out, V_out


# ---- from X to heads ---------------------------------------------------------------------------------------------


def project_tokens(shape, X, weights, bias, kind, w_scale, in_scale, gamma, eps, hidden_actual):
    """QKV of all tokens: [B*S, d*(q+2)] in SBUF, the same on both cores."""
    T, H, n = shape.B * shape.S, shape.H, shape.n
    source = X if nl.is_sbuf(X.buffer) else X.reshape((T, H))
    tiles = norm_and_project(
        TkgShape(T=T, H=H, I=weights.shape[1], n=n, prg=shape.prg, H1s=H // 128 // n),
        [source],
        None,
        weights,
        bias,
        kind,
        w_scale,
        in_scale,
        NormType.NO_NORM if gamma == None else NormType.RMS_NORM,
        gamma,
        None,
        DEFAULT_EPS if eps == None else eps,
        H if hidden_actual == None else hidden_actual,
        shape.d,
        shape.q,
        1,
        None,
    )
    if len(tiles) == 1:
        return tiles[0]
    # A head may begin in one tile and end in the next.
    joined = nl.ndarray((T, weights.shape[1]), dtype=X.dtype)
    for i in range(len(tiles)):
        nisa.tensor_copy(
            dst=joined[:, nl.ds(512 * i, tiles[i].shape[1])], src=tiles[i], engine=nisa.vector_engine
        )
    return joined


def split_heads(shape, tokens, r):
    """heads_{r} [d, B*heads*S]: the query heads (r = 0) or the key head (r = 1) of tokens, as columns."""
    T, d = shape.B * shape.S, shape.d
    count = shape.q if r == 0 else 1
    first = 0 if r == 0 else shape.q * d
    heads = nl.ndarray((d, T * count), dtype=tokens.dtype, name=f"heads_{r}")
    source = tokens[:, nl.ds(first, count * d)].reshape((T, count, 1, d))
    places = heads.reshape((d, shape.B, count, shape.S)).permute((0, 2, 1, 3))
    transpose_tokens(places, source, None, None, False)
    return heads


# ---- attention ---------------------------------------------------------------------------------------------------


def attend(
    shape, query, key, value, K_cache, V_cache, K_cache_transposed, mask, sink, table, softmax_scale, out_on_chip
):
    """Attention of the scaled queries over the caches and the new tokens: [d, B*q*S] in SBUF or [B, q, d, S] in HBM."""
    c = shape
    blocks = c.block_len > 0
    scale = c.d ** -0.5 if softmax_scale == None else softmax_scale
    scaled = nl.ndarray(query.shape, dtype=query.dtype, name="scaled_query")
    nisa.tensor_scalar(dst=scaled, data=query, op0=nl.multiply, operand0=scale, engine=nisa.vector_engine)
    # Every core reads values back that it wrote itself.
    v_active = nl.ndarray((c.B, 1, c.S, c.d), dtype=value.dtype, buffer=nl.private_hbm, name="v_active")
    nisa.dma_copy(dst=v_active.reshape((c.B * c.S, c.d)), src=value)
    if out_on_chip:
        out = nl.ndarray((c.d, c.B * c.q * c.S), dtype=query.dtype, name="attention")
    else:
        out = nl.ndarray((c.B, c.q, c.d, c.S), dtype=query.dtype, buffer=nl.shared_hbm, name="out")
    cfg = AttnTKGConfig(
        bs=c.B, q_head=c.q, s_active=c.S, curr_sprior=c.S_ctx, full_sprior=c.S_max, d_head=c.d, block_len=c.block_len,
        tp_k_prior=not K_cache_transposed, strided_mm1=not blocks, qk_in_sb=True, out_in_sb=out_on_chip,
    )
    if blocks:
        k_prior, v_prior = block_view(K_cache), block_view(V_cache)
    else:
        k_prior, v_prior = flat_view(K_cache), flat_view(V_cache)
    attention_tkg(
        scaled, key, v_active, k_prior, v_prior, mask, out, cfg, None, sink=sink, active_blocks_table=table
    )
    return out


def flat_view(cache):
    """A flat cache [B, r, c] with its axis of one head: [B, 1, r, c]."""
    if len(cache.shape) == 4:
        return cache
    B, rows, columns = cache.shape
    return cache.reshape((B, 1, rows, columns))


def rows_view(cache):
    """A flat cache without its axis of one head."""
    if len(cache.shape) == 3:
        return cache
    B, heads, rows, columns = cache.shape
    return cache.reshape((B, rows, columns))


def block_view(cache):
    """A block cache [blocks, block_len, d] without its axis of one head, before or behind that of rows."""
    if len(cache.shape) == 3:
        return cache
    count, outer, inner, d = cache.shape
    return cache.reshape((count, outer * inner, d))


def store_queries(shape, query):
    """The queries in HBM, where nothing attends; one core stores."""
    out = nl.ndarray(query.shape, dtype=query.dtype, buffer=nl.shared_hbm, name="out")
    if shape.prg == 0:
        nisa.dma_copy(dst=out, src=query)
    return out


# ---- new keys and values -----------------------------------------------------------------------------------------


def update_caches(shape, key, value, K_cache, V_cache, K_cache_transposed, idx):
    """Values are written by the first core, keys by the last."""
    flat = shape.block_len == 0
    if shape.prg == 0:
        values = rows_view(V_cache) if flat else block_view(V_cache)
        update_values(values, value, idx, shape.S, flat)
    if shape.prg == shape.n - 1:
        keys = rows_view(K_cache) if flat else block_view(K_cache)
        if K_cache_transposed:
            update_transposed_keys(keys, key, idx, shape.S)
        else:
            update_keys(keys, key, idx, shape.S, flat)


def return_new(shape, key, value):
    """(keys [d, B, S], values [B, 1, S, d]) in HBM; one core stores."""
    B, S, d = shape.B, shape.S, shape.d
    K_out = nl.ndarray((d, B, S), dtype=key.dtype, buffer=nl.shared_hbm, name="K_out")
    V_out = nl.ndarray((B, 1, S, d), dtype=value.dtype, buffer=nl.shared_hbm, name="V_out")
    if shape.prg == 0:
        nisa.dma_copy(dst=K_out.reshape((d, B * S)), src=key)
        nisa.dma_copy(dst=V_out.reshape((B * S, d)), src=value)
    return K_out, V_out
