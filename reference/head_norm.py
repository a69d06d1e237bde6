"""RMSNorm of single heads as the fused decode kernel computes it: channels on the partitions, x * r before W.

The sum of squares over the channels is a float32 matmul with ones, which leaves it on every partition. Source:
fact sheet of the fused attention block, 6.3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reference.norms import inverse_root, over_partitions
from reference.numerics.alu import BINARY
from reference.numerics.cast import to_float32
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.rounding import round_to

Array = NDArray[Any]


class HeadNorm(NamedTuple):
    """Steps of `head_norm`, all [d, columns], under the last part of their points' names."""

    square: Array
    total: Array
    rsqrt: Array
    #: None without weight.
    scaled: Array | None
    normed: Array


def head_norm(
    x: Array,
    weight: Array | None,
    eps: float,
    profile: NumericsProfile = DEFAULT,
    dtype: object = None,
    point: str = "normed",
    tile: tuple[int, ...] = (),
) -> HeadNorm:
    """x / sqrt(mean of x^2 over d + eps) (* weight), rounded to the dtype of x once, at the end.

    A head of zeros gives zeros while eps > 0, NaN without eps; an infinite channel gives NaN there and zeros
    elsewhere; NaN fills its head. Squares that overflow float32 give zeros.

    Args:
        x: [d, columns] in its storage dtype, one column per head and token.
        weight: [d], any float dtype.
        dtype: what is rounded to; None for the dtype of x.
        point, tile: name of the one rounding.
    """
    values, fmt = to_float32(x), x.dtype if dtype is None else dtype
    square = BINARY["multiply"](values, values, profile)
    total = over_partitions(square, np.float32(1), profile)
    root = inverse_root(total, np.float32(1 / len(x)), eps, profile)
    scaled = BINARY["multiply"](values, root, profile)
    if weight is None:
        return HeadNorm(square, total, root, None, round_to(point, scaled, fmt, profile, tile))
    factor = np.broadcast_to(to_float32(weight)[:, None], x.shape)
    weighted = BINARY["multiply"](scaled, factor, profile)
    return HeadNorm(square, total, root, scaled, round_to(point, weighted, fmt, profile, tile))


def head_norm_exact(x: Array, weight: Array | None, eps: float) -> Array:
    """The norm in float64, no rounding modelled; x [d, ...]."""
    unit = x / np.sqrt((x**2).mean(axis=0) + eps)
    return unit if weight is None else np.asarray(unit * _wide(weight).reshape(-1, *[1] * (x.ndim - 1)))


def _wide(weight: Array) -> Array:
    return to_float32(weight).astype(np.float64)
