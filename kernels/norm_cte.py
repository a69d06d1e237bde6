"""RMSNorm and LayerNorm of context encoding: a tile of tokens on the partitions, all of H along the free axis.

gamma and beta come later, when the columns are on the partitions and they are one value each.
"""

import nki.isa as nisa
import nki.language as nl

#: Columns of one bn_stats.
STATS_COLUMNS = 512


def eps_tile(norm_eps, dtype):
    """[128, 1] fp32 with norm_eps as `dtype` has it."""
    exact = nl.ndarray((128, 1), dtype=nl.float32)
    nisa.memset(dst=exact, value=norm_eps)
    if dtype == nl.float32:
        return exact
    rounded = nl.ndarray((128, 1), dtype=dtype)
    nisa.tensor_copy(dst=rounded, src=exact, engine=nisa.vector_engine)
    widened = nl.ndarray((128, 1), dtype=nl.float32)
    nisa.tensor_copy(dst=widened, src=rounded, engine=nisa.vector_engine)
    return widened


def rms_norm_tokens(hidden, eps, divisor, s):
    """normalized_{s}: hidden [tokens, H] * rsqrt(sum of squares / divisor + eps); the sum runs over all of H."""
    tokens = hidden.shape[0]
    normalized = nl.ndarray(hidden.shape, dtype=hidden.dtype, name=f"normalized_{s}")
    square_sum = nl.ndarray((tokens, 1), dtype=nl.float32, name=f"square_sum_{s}")
    # The rounded squares go where the result will be; what is summed are the fp32 ones.
    nisa.activation(
        dst=normalized,
        op=nl.square,
        data=hidden,
        reduce_op=nl.add,
        reduce_res=square_sum,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )
    root = nl.ndarray((tokens, 1), dtype=nl.float32, name=f"inverse_root_{s}")
    nisa.activation(dst=root, op=nl.rsqrt, data=square_sum, scale=1.0 / divisor, bias=eps[0:tokens, :])
    nisa.tensor_scalar(dst=normalized, data=hidden, op0=nl.multiply, operand0=root, engine=nisa.vector_engine)
    return normalized


def layer_norm_tokens(hidden, eps, s):
    """normalized_{s}: (hidden - mean) * rsqrt(variance + eps) of [tokens, H], one rounding."""
    tokens, H = hidden.shape
    pieces = (H + STATS_COLUMNS - 1) // STATS_COLUMNS
    stats = nl.ndarray((tokens, 6 * pieces), dtype=nl.float32, name=f"bn_stats_{s}")
    for q in range(pieces):
        low = STATS_COLUMNS * q
        nisa.bn_stats(dst=stats[:, nl.ds(6 * q, 6)], data=hidden[:, nl.ds(low, min(STATS_COLUMNS, H - low))])
    moments = nl.ndarray((tokens, 2), dtype=nl.float32, name=f"moments_{s}")
    nisa.bn_aggr(dst=moments, data=stats)
    root = nl.ndarray((tokens, 1), dtype=nl.float32, name=f"inverse_root_{s}")
    nisa.activation(dst=root, op=nl.rsqrt, data=moments[:, 1:2], scale=1.0, bias=eps[0:tokens, :])
    normalized = nl.ndarray(hidden.shape, dtype=hidden.dtype, name=f"normalized_{s}")
    nisa.tensor_scalar(
        dst=normalized,
        data=hidden,
        op0=nl.subtract,
        operand0=moments[:, 0:1],
        op1=nl.multiply,
        operand1=root,
        engine=nisa.vector_engine,
    )
    return normalized
