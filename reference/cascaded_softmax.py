"""The softmax of the decode kernels in pieces: maxima and sums cascaded over key tiles, flash tiles and
cores.

Scores [batches, n, 128, G] are those of one flash tile: n key tiles of 128 keys, G columns (head, query). A
running maximum and sum pass from flash tile to flash tile; `correction` brings earlier tiles to the newer
maximum. Everything is per column, so cutting batches or columns changes no bit.

NaN: a NaN score that is kept makes its column NaN and no other (under the default of profile question V5).
-inf: a dropped score; a column of nothing else has the maximum -FLT_MAX, exponentials 0 and sum 0. +inf: a
kept score of +inf makes its column NaN. Overflow cannot happen: exponents are never positive.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.activation import activation
from reference.numerics.alu import BINARY, multiply_add
from reference.numerics.dot import matmul_pass
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.reduce import reduce_add, reduce_max
from reference.rounding import round_to

Array = NDArray[Any]
Float32 = NDArray[np.float32]

#: The floor of a maximum: -inf - (-inf) would be NaN, -inf - FLOOR is -inf.
FLOOR = np.float32(-3.4028235e38)


def drop(scores: Float32, kept: NDArray[np.bool_]) -> Float32:
    """Scores where kept, -inf elsewhere: a select, so a NaN in a dropped score is gone."""
    return np.where(kept, scores, np.float32(-np.inf))


def tile_maximum(scores: Float32, profile: NumericsProfile = DEFAULT) -> Float32:
    """Maximum [batches, G] of a flash tile, first over key tiles, then over partitions, at least FLOOR.

    Exact; the two steps and the place of the floor decide only the sign of a zero and what a NaN does.
    """
    per_partition = reduce_max(scores, profile, axis=1)
    return maximum(reduce_max(per_partition, profile, axis=1), FLOOR, profile)


def maximum(first: Array, second: Array | np.float32, profile: NumericsProfile = DEFAULT) -> Float32:
    """maximum(first, second) of the vector engine."""
    return np.asarray(BINARY["maximum"](first, second, profile))


def exponentials(
    scores: Float32, top: Float32, dtype: str, profile: NumericsProfile
) -> tuple[Float32, Array]:
    """The shifted scores `scores - top`, one rounding, and their exponentials rounded to `dtype`, point "prob".

    Args:
        scores: [batches, n, 128, G], -inf where dropped.
        top: [batches, G].
    """
    shift = BINARY["subtract"](scores, top[:, None, None], profile)
    return shift, round_to("prob", activation("exp", shift, profile), dtype, profile)


def partial_sums(prob: Array, profile: NumericsProfile = DEFAULT) -> Float32:
    """Sum over the partitions of each key tile, [batches, n, G]: one matmul with a column of ones each.

    The rounded exponentials are summed, the same values that meet V.
    """
    ones = np.ones((prob.shape[2], 1), prob.dtype)
    return matmul_pass(prob, ones, profile)[..., 0]


def tile_sum(parts: Float32, profile: NumericsProfile = DEFAULT) -> Float32:
    """Sum [batches, G] of the partial sums over the key tiles, by a reduction of the vector engine."""
    return reduce_add(parts, profile, axis=1)


def correction(newer: Float32, older: Float32, profile: NumericsProfile = DEFAULT) -> Float32:
    """exp(-newer + older): what sums and outputs of earlier flash tiles are multiplied by, at most 1.

    Scale -1 and a bias on the scalar engine: the product is exact, so fused or not is one rounding (S1).
    """
    exponent = multiply_add(newer, np.float32(-1), older, profile, fused=profile.fma_scalar)
    return activation("exp", exponent, profile)


def sink_term(sink: Array, top: Float32, profile: NumericsProfile = DEFAULT) -> tuple[Float32, Float32]:
    """sink - top, and its exponential in float32: a sink is summed unrounded, and has no value row.

    Args:
        sink: float32 [G] or [batches, G], one logit per column.
        top: [batches, G].
    """
    shift = BINARY["subtract"](sink, top, profile)
    return shift, activation("exp", shift, profile)
