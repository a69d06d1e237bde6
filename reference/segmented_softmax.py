"""Online softmax over segments of keys: the state of a group of queries and the two ways to extend it.

A state holds per query the NEGATED running maximum, the sum of exponentials and the unnormalised output, all
float32. `flash` takes a segment whose exponentials were already made with the common maximum; `merge` joins two
results that know nothing of each other. They are the same mathematics and differ in bits.

NaN in any part stays in its query. A query that saw no key has the negated maximum TOP, sum 0 and output 0; it
has no weight in a merge with one that saw some.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.activation import activation
from reference.numerics.alu import BINARY, UNARY, multiply_add
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.reduce import accumulate, reduce_add, reduce_max

Array = NDArray[Any]
Float32 = NDArray[np.float32]

#: Score of a key that is not seen. Finite: the engines' range select takes no other fill.
MASKED = np.float32(-3.4028235e38)
#: Largest negated maximum: MASKED + TOP is so low that its exponential is 0 where nothing is seen.
TOP = np.float32(2.0**127)
#: Smallest sum that is divided by.
LEAST_SUM = np.float32(2.0**-126)


@dataclass
class State:
    """What is known of some queries: `neg_max` and `total` [queries], `out` [queries, d], float32."""

    neg_max: Float32
    total: Float32
    out: Float32

    def rows(self, queries: slice) -> State:
        """A view of some of the queries."""
        return State(self.neg_max[queries], self.total[queries], self.out[queries])

    def assign(self, other: State) -> None:
        """Overwrite in place."""
        self.neg_max[...], self.total[...], self.out[...] = other.neg_max, other.total, other.out


def negated(maximum: Float32, profile: NumericsProfile = DEFAULT) -> Float32:
    """minimum(-1 * maximum, TOP) of the vector engine; exact. A maximum of +0 gives -0."""
    turned = BINARY["multiply"](maximum, np.float32(-1), profile)
    return np.asarray(BINARY["minimum"](turned, TOP, profile))


def row_maximum(logits: Float32, profile: NumericsProfile = DEFAULT) -> Float32:
    """Maximum over the last axis."""
    return np.asarray(reduce_max(logits, profile))


def exponentials(logits: Float32, neg_max: Float32, profile: NumericsProfile = DEFAULT) -> Float32:
    """exp(logits + neg_max) in float32, one instruction of the scalar engine: one addition, one exponential.

    The bias is added to logits times a scale of 1, so fused or not (S1) is the same.
    """
    return activation("exp", BINARY["add"](logits, neg_max[..., None], profile), profile)


def accumulated(values: Float32, profile: NumericsProfile = DEFAULT) -> Float32:
    """Sum over the last axis by the scalar engine's registers, from a reset: the order of S4."""
    if profile.act_reduce_order == "exact":
        return np.asarray(reduce_add(values, profile, order="exact"))
    start = np.zeros(values.shape[:-1], np.float32)
    return np.asarray(accumulate(start, values, "add", profile, engine="scalar"))


def flash(old: State, new: State, profile: NumericsProfile = DEFAULT) -> tuple[State, Float32]:
    """`old` brought to the maximum of `new` and added to it; also the factor, exp(neg_max - old.neg_max).

    `new.neg_max` is already the minimum of both. Each product and each sum is one rounding, or both are one
    where V1 is fused.
    """
    exponent = multiply_add(old.neg_max, np.float32(-1), new.neg_max, profile, fused=profile.fma_scalar)
    factor = activation("exp", exponent, profile)
    total = multiply_add(old.total, factor, new.total, profile, fused=profile.fma_vector)
    out = multiply_add(old.out, factor[..., None], new.out, profile, fused=profile.fma_vector)
    return State(new.neg_max, np.asarray(total), np.asarray(out)), factor


def merge(old: State, new: State, profile: NumericsProfile = DEFAULT) -> tuple[State, Mapping[str, Float32]]:
    """The state of two independent results, and the values on the way by rounding point."""
    top = BINARY["minimum"](old.neg_max, new.neg_max, profile)
    factors = [activation("exp", BINARY["subtract"](top, x.neg_max, profile), profile) for x in (old, new)]
    sums = [BINARY["multiply"](x.total, f, profile) for x, f in zip((old, new), factors, strict=True)]
    total = BINARY["add"](*sums, profile)
    old_out = BINARY["multiply"](old.out, factors[0][..., None], profile)
    out = multiply_add(new.out, factors[1][..., None], old_out, profile, fused=profile.fma_vector)
    merged = State(np.asarray(top), np.asarray(total), np.asarray(out))
    return merged, {
        "merged_top": merged.neg_max,
        "old_factor": factors[0],
        "new_factor": factors[1],
        "old_sum": sums[0],
        "new_sum": sums[1],
        "merged_sum": merged.total,
        "old_out": old_out,
        "merged_out": merged.out,
    }


def reciprocal_of_sum(total: Float32, profile: NumericsProfile = DEFAULT) -> Float32:
    """1 / maximum(total, LEAST_SUM) of the vector engine."""
    return np.asarray(UNARY["reciprocal"](BINARY["maximum"](total, LEAST_SUM, profile), profile))
