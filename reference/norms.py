"""RMSNorm and LayerNorm as kernels compute them: every step that is stored, in the order of its roundings.

A norm gives a named tuple whose fields bear the names of the rounding points. The last field is the result.

Token generation sees a token's hidden columns as [n, 128, H1s]: shard, partition, column of the partition.
Statistics are summed over the columns of a partition first, then over the partitions by a matmul, which leaves
the same value on all 128 partitions. Source: fact sheet of qkv, 6.3 and 6.4.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reference.activation import activation
from reference.numerics.alu import BINARY, multiply_add
from reference.numerics.cast import to_float32
from reference.numerics.dot import matmul_pass
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.reduce import reduce_add
from reference.rounding import round_to

Array = NDArray[Any]


class RmsGammaFirst(NamedTuple):
    """Steps of `rms_gamma_first`; statistics are [128, T], the rest has the shape of x."""

    norm_square: Array
    norm_part: Array
    norm_total: Array
    norm_rsqrt: Array
    norm_gamma: Array
    y: Array


class LayerNormGammaFirst(NamedTuple):
    """Steps of `layer_norm_gamma_first`; statistics are [128, T], the rest has the shape of x."""

    norm_square: Array
    norm_part: Array
    norm_sum: Array
    norm_mean_square: Array
    norm_mean: Array
    norm_centred: Array
    norm_mean_squared: Array
    norm_spread: Array
    norm_variance: Array
    norm_rsqrt: Array
    norm_gamma: Array
    #: None without beta.
    norm_scaled: Array | None
    y: Array


def rms_gamma_first(
    x: Array, gamma: Array, divisor: int, eps: float, profile: NumericsProfile = DEFAULT, dtype: object = None
) -> RmsGammaFirst:
    """x * gamma / sqrt(sum x^2 / divisor + eps), rounded to x's dtype once, after both factors.

    A token of zeros gives zeros while eps > 0; an infinite element gives NaN there and zeros elsewhere; NaN
    fills its token. Squares that overflow float32 give zeros.

    Args:
        x: [T, n, 128, H1s] in its storage dtype.
        gamma: [n, 128, H1s], any float dtype.
        divisor: elements counted by the mean; the sum runs over all of them, padding included.
        dtype: what is rounded to; None for the dtype of x.
    """
    values, fmt = to_float32(x), x.dtype if dtype is None else dtype
    square = activation("square", values, profile)
    part = _column_sums(square, profile)
    total = over_partitions(part, np.float32(1), profile)
    root = inverse_root(total, np.float32(1 / divisor), eps, profile)
    scaled = BINARY["multiply"](values, to_float32(gamma), profile)
    y = round_to("y", BINARY["multiply"](scaled, _per_token(root), profile), fmt, profile)
    return RmsGammaFirst(square, part, total, root, scaled, y)


def layer_norm_gamma_first(
    x: Array, gamma: Array, beta: Array | None, eps: float, profile: NumericsProfile = DEFAULT, dtype: object = None
) -> LayerNormGammaFirst:
    """(x - mean) * gamma / sqrt(variance + eps) + beta, rounded to x's dtype after every step.

    The variance is E[x^2] - mean^2 in float32: it loses the spread of tokens whose mean exceeds 1000 times
    their deviation, and is taken as 0 where that difference is negative. NaN and infinity fill their token
    with NaN.

    Args:
        x: [T, n, 128, H1s] in its storage dtype.
        gamma, beta: [n, 128, H1s], any float dtype.
        dtype: what is rounded to; None for the dtype of x.
    """
    values, fmt = to_float32(x), x.dtype if dtype is None else dtype

    def step(point: str, op: str, first: Array, operand: Array) -> Array:
        """One float32 operation, rounded."""
        return round_to(point, BINARY[op](to_float32(first), operand, profile), fmt, profile)

    square = activation("square", values, profile)
    part, sums = _column_sums(square, profile), _column_sums(values, profile)
    share = np.float32(1 / values[0].size)
    mean_square, mean = (over_partitions(row, share, profile) for row in (part, sums))
    centred = step("norm_centred", "subtract", values, _per_token(mean))
    mean_squared = BINARY["multiply"](mean, mean, profile)
    spread = BINARY["subtract"](mean_square, mean_squared, profile)
    variance = BINARY["maximum"](spread, np.float32(0), profile)
    root = inverse_root(variance, np.float32(1), eps, profile)
    by_gamma = step("norm_gamma", "multiply", centred, to_float32(gamma))
    scaled = step("y" if beta is None else "norm_scaled", "multiply", by_gamma, _per_token(root))
    y = scaled if beta is None else step("y", "add", scaled, to_float32(beta))
    return LayerNormGammaFirst(
        square, part, sums, mean_square, mean, centred, mean_squared, spread, variance, root, by_gamma,
        None if beta is None else scaled, y,
    )  # fmt: skip


def _column_sums(values: Array, profile: NumericsProfile) -> Array:
    """Sum over the columns of each partition, shard after shard: [T, n, 128, H1s] to [128, T]."""
    return reduce_add(values.transpose(2, 0, 1, 3), profile, axis=(2, 3))


def over_partitions(part: Array, weight: np.float32, profile: NumericsProfile) -> Array:
    """Sum over partitions of weight * part [rows, T]: a float32 matmul whose rows are alike, [rows, T]."""
    # One column of the stationary tile stands for all, which hold one constant.
    column = np.full((len(part), 1), weight, np.float32)
    return np.broadcast_to(matmul_pass(column, part, profile), part.shape)


def inverse_root(mean: Array, scale: np.float32, eps: float, profile: NumericsProfile) -> Array:
    """rsqrt(mean * scale + eps) of the scalar engine, [rows, T] with equal rows."""
    argument = multiply_add(mean[:1], scale, np.float32(eps), profile, fused=profile.fma_scalar)
    return np.broadcast_to(activation("rsqrt", argument, profile), mean.shape)


def _per_token(statistic: Array) -> Array:
    """[128, T] with equal rows as one value per token of [T, n, 128, H1s]."""
    return np.asarray(statistic[0])[:, None, None, None]
