"""RMSNorm and LayerNorm with one token per partition: statistics over the free axis, gamma after a transpose.

The norm rounds to the tile dtype before gamma is applied, gamma rounds once more. A norm gives a named tuple
whose fields bear the names of the rounding points; the last field is the result. (`norms` has the norms of
token generation, which put the hidden index on the partitions.) Source: fact sheet of qkv, 7.3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reference.activation import activation
from reference.numerics.alu import BINARY, multiply_add
from reference.numerics.bn import bn_aggr, bn_stats
from reference.numerics.cast import cast, to_float32
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.reduce import accumulate
from reference.rounding import round_to

Array = NDArray[Any]

#: Elements of a partition that one bn_stats instruction takes.
BN_COLUMNS = 512


class RmsSteps(NamedTuple):
    """Steps of `rms_norm`: statistics [T, 1], the result [T, H]."""

    square_sum: Array
    inverse_root: Array
    normalized: Array


class LayerNormSteps(NamedTuple):
    """Steps of `layer_norm`: [T, 6 * ceil(H/512)], [T, 2], [T, 1] and the result [T, H]."""

    bn_stats: Array
    moments: Array
    inverse_root: Array
    normalized: Array


def rms_norm(
    x: Array, divisor: int, eps: np.float32, profile: NumericsProfile = DEFAULT, dtype: object = None
) -> RmsSteps:
    """x / sqrt(sum x^2 / divisor + eps), rounded to x's dtype; the sum is that of the float32 squares.

    A token of zeros gives zeros while eps > 0, and NaN for eps = 0. An infinite element gives NaN there and
    zeros elsewhere; NaN fills its token. Squares that overflow float32 give zeros.

    Args:
        x: [T, H] in its storage dtype.
        divisor: elements counted by the mean; the sum runs over all H, padding included.
        dtype: what is rounded to; None for the dtype of x.
    """
    values, fmt = to_float32(x), x.dtype if dtype is None else dtype
    squares = activation("square", values, profile)
    if not profile.act_reduce_precast:
        squares = to_float32(cast(squares, fmt, profile))
    total = accumulate(np.zeros(len(x), np.float32), squares, "add", profile, engine="scalar")[:, None]
    root = inverse_root(total, np.float32(1 / divisor), eps, profile)
    normalized = BINARY["multiply"](values, root, profile)
    return RmsSteps(total, root, round_to("normalized", normalized, fmt, profile))


def layer_norm(
    x: Array, eps: np.float32, profile: NumericsProfile = DEFAULT, dtype: object = None
) -> LayerNormSteps:
    """(x - mean) / sqrt(variance + eps) with the population variance, rounded to x's dtype once.

    A token of equal elements gives zeros while eps > 0. NaN and infinity fill their token with NaN.

    Args:
        x: [T, H] in its storage dtype.
        dtype: what is rounded to; None for the dtype of x.
    """
    values, fmt = to_float32(x), x.dtype if dtype is None else dtype
    chunks = range(0, x.shape[1], BN_COLUMNS)
    stats = np.concatenate([bn_stats(values[:, i : i + BN_COLUMNS], profile) for i in chunks], axis=1)
    moments = bn_aggr(stats, profile)
    root = inverse_root(moments[:, 1:], np.float32(1), eps, profile)
    centred = BINARY["subtract"](values, moments[:, :1], profile)
    normalized = round_to("normalized", BINARY["multiply"](centred, root, profile), fmt, profile)
    return LayerNormSteps(stats, moments, root, normalized)


def inverse_root(mean: Array, scale: np.float32, eps: np.float32, profile: NumericsProfile) -> Array:
    """rsqrt(mean * scale + eps) of the scalar engine, float32 and the shape of `mean`."""
    return activation("rsqrt", multiply_add(mean, scale, eps, profile, fused=profile.fma_scalar), profile)


def apply_gamma(
    x: Array, gamma: Array, beta: Array | None, profile: NumericsProfile = DEFAULT, dtype: object = None
) -> Array:
    """x * gamma (+ beta) rounded once, point "operand", to `dtype` or that of x; gamma and beta [1, H] act as float32.

    NaN and infinity follow the operations.
    """
    values, factor, fmt = to_float32(x), to_float32(gamma), x.dtype if dtype is None else dtype
    if beta is None:
        return round_to("operand", BINARY["multiply"](values, factor, profile), fmt, profile)
    total = multiply_add(values, factor, to_float32(beta), profile, fused=profile.fma_vector)
    return round_to("operand", total, fmt, profile)
