"""RMSNorm and LayerNorm of decode: few tokens, H spread over the partitions.

A tile is [128, tokens, columns]: partition p, column c = shard * H1s + j hold h = shard * H/n + p * H1s + j. Sums
over H are a free-axis sum per partition and one matmul with a constant, which adds the partitions and spreads the
result.
Both cores norm all tokens, so that nothing is exchanged; each keeps the columns of its own shard.
"""

import nki.isa as nisa
import nki.language as nl


def over_columns(values, columns):
    """[128, tokens] repeated along the columns, as a stride-0 view [128, tokens, columns]."""
    return values.expand_dim(2).broadcast(2, columns)


def over_tokens(weights, tokens):
    """[128, columns] repeated for every token, as a stride-0 view [128, tokens, columns]."""
    return weights.expand_dim(1).broadcast(1, tokens)


def constant_tile(value, shape):
    """An fp32 tile of one value."""
    tile = nl.ndarray(shape, dtype=nl.float32)
    nisa.memset(dst=tile, value=value)
    return tile


def sum_of_squares(x, k):
    """Per partition and token the sum over the columns of x squared: fp32 [128, tokens]."""
    tokens = x.shape[1]
    square = nl.ndarray(x.shape, dtype=nl.float32, name=f"norm_square_{k}")
    nisa.activation(dst=square, op=nl.square, data=x)
    part = nl.ndarray((128, tokens), dtype=nl.float32, name=f"norm_part_{k}")
    nisa.tensor_reduce(dst=part, op=nl.add, data=square, axis=2)
    return part


def over_partitions(part, weights, name):
    """Sum over the partitions, weighted by a constant [128, 128] tile; every partition holds it. PSUM [128, tokens]."""
    total = nl.ndarray(part.shape, dtype=nl.float32, buffer=nl.psum, name=name)
    nisa.nc_matmul(dst=total, stationary=weights, moving=part, accumulate=False)
    return total


def rms_norm(x, own, gamma, ones, eps, hidden_actual, k):
    """y = R_io((x * gamma) * rsqrt(mean square + eps)) of the own columns of x [128, tokens, H1]."""
    tokens, columns = x.shape[1], own.shape[2]
    total = over_partitions(sum_of_squares(x, k), ones, f"norm_total_{k}")
    rsqrt = nl.ndarray((128, tokens), dtype=nl.float32, name=f"norm_rsqrt_{k}")
    nisa.activation(dst=rsqrt, op=nl.rsqrt, data=total, scale=1.0 / hidden_actual, bias=eps)
    weighted = nl.ndarray((128, tokens, columns), dtype=nl.float32, name=f"norm_gamma_{k}")
    nisa.tensor_tensor(
        dst=weighted, data1=own, data2=over_tokens(gamma, tokens), op=nl.multiply, engine=nisa.vector_engine
    )
    y = nl.ndarray((128, tokens, columns), dtype=x.dtype, name=f"y_{k}")
    nisa.tensor_tensor(
        dst=y, data1=weighted, data2=over_columns(rsqrt, columns), op=nl.multiply, engine=nisa.vector_engine
    )
    return y


def layer_norm(x, own, gamma, beta, share, eps, k):
    """LayerNorm of the own columns; `share` is a tile of 1/H. Variance is E[x^2] - E[x]^2, never below 0."""
    tokens, columns = x.shape[1], own.shape[2]
    part = sum_of_squares(x, k)
    plain = nl.ndarray((128, tokens), dtype=nl.float32, name=f"norm_sum_{k}")
    nisa.tensor_reduce(dst=plain, op=nl.add, data=x, axis=2)
    mean_square = over_partitions(part, share, f"norm_mean_square_{k}")
    mean = over_partitions(plain, share, f"norm_mean_{k}")
    centred = nl.ndarray((128, tokens, columns), dtype=x.dtype, name=f"norm_centred_{k}")
    nisa.tensor_tensor(
        dst=centred, data1=own, data2=over_columns(mean, columns), op=nl.subtract, engine=nisa.vector_engine
    )
    rsqrt = inverse_deviation(mean_square, mean, eps, k)
    weighted = nl.ndarray((128, tokens, columns), dtype=x.dtype, name=f"norm_gamma_{k}")
    nisa.tensor_tensor(
        dst=weighted, data1=centred, data2=over_tokens(gamma, tokens), op=nl.multiply, engine=nisa.vector_engine
    )
    scaled_name = f"y_{k}" if beta == None else f"norm_scaled_{k}"
    scaled = nl.ndarray((128, tokens, columns), dtype=x.dtype, name=scaled_name)
    nisa.tensor_tensor(
        dst=scaled, data1=weighted, data2=over_columns(rsqrt, columns), op=nl.multiply, engine=nisa.vector_engine
    )
    if beta == None:
        return scaled
    y = nl.ndarray((128, tokens, columns), dtype=x.dtype, name=f"y_{k}")
    nisa.tensor_tensor(
        dst=y, data1=scaled, data2=over_tokens(beta, tokens), op=nl.add, engine=nisa.vector_engine
    )
    return y


def inverse_deviation(mean_square, mean, eps, k):
    """rsqrt(max(mean_square - mean * mean, 0) + eps): fp32 [128, tokens]."""
    shape = mean.shape
    # A tensor_tensor reads PSUM on one side only.
    mean_sb = nl.ndarray(shape, dtype=nl.float32)
    nisa.tensor_copy(dst=mean_sb, src=mean, engine=nisa.vector_engine)
    squared = nl.ndarray(shape, dtype=nl.float32, name=f"norm_mean_squared_{k}")
    nisa.tensor_tensor(dst=squared, data1=mean, data2=mean_sb, op=nl.multiply, engine=nisa.vector_engine)
    spread = nl.ndarray(shape, dtype=nl.float32, name=f"norm_spread_{k}")
    nisa.tensor_tensor(dst=spread, data1=mean_square, data2=squared, op=nl.subtract, engine=nisa.vector_engine)
    variance = nl.ndarray(shape, dtype=nl.float32, name=f"norm_variance_{k}")
    nisa.tensor_scalar(dst=variance, data=spread, op0=nl.maximum, operand0=0.0, engine=nisa.vector_engine)
    rsqrt = nl.ndarray(shape, dtype=nl.float32, name=f"norm_rsqrt_{k}")
    nisa.activation(dst=rsqrt, op=nl.rsqrt, data=variance, scale=1.0, bias=eps)
    return rsqrt
