"""What the error bounds of the attention kernels have in common: softmax weights with errors, and what they average.

With w = softmax weights, a score error dx is a relative error of its weight; out = sum w V / sum w gives, to first
order,

    out' - out = sum_k w_k (dx_k + p_k) (V_k - out) + sum_k w_k dV_k + (sums, products, cast)

with p the rounding of the weight, which reaches out also where the sum takes weights unrounded (then V_k alone
stands behind it). In the worst case V_k - out is |V_k| + |out|; the second order is covered by a division by one
less the error of the sum. In the variance roundings p and errors of single keys are independent, hence a sum of
squares; errors of a query reach all keys together, and cancel where V does not follow k. That part is drawn: one
set of signs for the query's errors, the resulting difference of out, its mean square over the head dimension.

Arrays are [n, K] for n queries (columns) and K keys, [n, d] for results. All of it may be float32: a weight is then
off by far less than its own error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.error_terms import (
    ADDITION,
    TINY,
    Known,
    Matrix,
    across,
    additions,
    apart,
    half_step,
    half_ulp,
    underflow,
    weight_error,
)

Array = NDArray[Any]

#: Allows for a companion in float32 near a power of two.
_NEAR = 1 + 2.0**-10


@dataclass(frozen=True)
class Query:
    """Queries [n, d] with the worst case and the variance of their elements; None where they are exact."""

    value: Array
    error: Array | None = None
    variance: Array | None = None

    @classmethod
    def of(cls, known: Known, real: type[Any]) -> Query:
        """From any arrays [n, d]."""
        value = known.value.astype(real)
        return cls(value) if known.is_exact else cls(value, known.error.astype(real), known.variance.astype(real))


@dataclass(frozen=True)
class Keys:
    """Keys [K, d], exact."""

    value: Array

    @cached_property
    def sizes(self) -> Array:
        """Magnitudes [d, K]. NaN makes a score NaN where it is seen; where it is not, it counts for nothing."""
        sizes = np.abs(self.value)
        if not np.isfinite(sizes).all():
            sizes = np.where(np.isfinite(sizes), sizes, 0)
        return sizes.T


@dataclass(frozen=True)
class ScoreErrors:
    """Of scores [n, K]: the worst case, and the variance of what keys do not share."""

    worst: Array
    #: None where it is worst^2 / terms: all of the error is that of a sum of so many terms.
    own: Array | None
    terms: int


def score_errors(query: Query, keys: Keys, dtype: str, operations: int = 0, new: Known | None = None) -> ScoreErrors:
    """Of q k^T: the errors of the query, of a dot over d, and of operations on the score.

    Args:
        new: the last keys [s, d], where the kernel's differ.
    """
    terms = additions(keys.value.shape[1], 1, dtype) + operations
    worst = np.abs(query.value) @ keys.sizes
    own = None
    if query.error is not None or new is not None:
        own = np.square(worst * (ADDITION * terms**0.5))
    worst *= terms * ADDITION * _NEAR
    worst += terms * 2 * TINY
    if query.error is not None:
        worst += (query.error * (1 + terms * ADDITION)) @ keys.sizes
    if new is not None and own is not None:
        size = np.abs(query.value) if query.error is None else np.abs(query.value) + query.error
        worst[:, -len(new.value) :] += size @ new.error.T
        own[:, -len(new.value) :] += np.square(query.value) @ new.variance.T
    return ScoreErrors(worst, own, terms)


@dataclass(frozen=True)
class Weights:
    """Softmax weights before they are divided by their sum, and their errors; [n, K], [n, 1]."""

    value: Array
    #: Worst case before the weight is rounded, and what rounding adds.
    before: Array
    rounding: Array
    #: Variance of both, without what keys share.
    variance: Array
    total: Array
    #: Worst case of the sink's term, as a share of the sum.
    sink: Array
    #: Whether the sum takes the rounded weights.
    summed_rounded: bool

    @property
    def of_sum(self) -> Array:
        """Worst case of the sum of weights, relative."""
        moved: Array = self.before.sum(axis=1, keepdims=True)
        if self.summed_rounded:
            moved = moved + self.rounding.sum(axis=1, keepdims=True)
        return np.asarray(moved / self.total + self.sink)


def weights_of(
    exponents: Array,
    total: Array,
    errors: ScoreErrors,
    sink: Array | None,
    corrections: int,
    dtype: str,
    summed_rounded: bool,
    value: Array | None = None,
) -> Weights:
    """Weights exp(exponents), -inf where dropped.

    Args:
        exponents: score - top [n, K]; total: [n, 1].
        sink: sink - top [n, 1], None without one.
        corrections: times a weight is brought to a newer maximum, at most.
        dtype: what exponentials are rounded to.
        value: exp(exponents), where it is known already.
    """
    raised = np.exp(exponents) if value is None else value
    before = raised * weight_error(errors.worst, np.abs(exponents), corrections)
    size = raised + before
    # A weight that a later maximum scales down was rounded at a larger size, by no larger a share of it.
    rounding = half_step(dtype, size * _NEAR) if not corrections else size * half_ulp(dtype) + underflow(dtype)
    if corrections or dtype == "float32":
        rounding += 4 * TINY
        rounding[raised == 0] = 0
    # What is likely is rounded where the weight truly is, not at its worst.
    variance = np.square(half_step(dtype, raised)) / 3
    variance += np.square(before) / errors.terms if errors.own is None else np.square(raised) * errors.own
    of_sink = np.zeros_like(total)
    if sink is not None:
        of_sink = np.exp(sink) / total * weight_error(np.zeros_like(total), np.abs(sink), corrections + 1)
    return Weights(raised, before, rounding, variance, total, of_sink, summed_rounded)


def averaged(
    weights: Weights, values: Matrix, sums: float, query: Query, keys: Keys, new: Known | None = None
) -> Known:
    """The result [n, d] of weights and values [K, d], before any rounding of its own.

    Args:
        sums: relative error of the sums over keys, and of what products follow.
        query, keys: to draw what the query's errors do.
        new: values of the last keys [s, d], where the kernel's differ from them.
    """
    total, unit, of_sum = weights.total, values.unit, weights.of_sum
    out = apart(weights.value, values.value) * (unit / total)
    moved = weights.value * sums
    moved += weights.before
    moved += weights.rounding
    error = across(moved, values.size) * (unit / total) + np.abs(out) * (of_sum + sums)
    variance = across(weights.variance, values.square) * np.square(unit / total)
    if weights.summed_rounded:
        variance = variance + np.square(out / total) * weights.variance.sum(axis=1, keepdims=True)
    variance = variance + np.square(sums * out) + _drawn(weights, values, query, keys, out)
    if new is not None and not new.is_exact:
        last = slice(-len(new.value), None)
        error = error + ((weights.value + weights.before)[:, last] / total) @ new.error
        variance = variance + np.square(weights.value[:, last] / total) @ new.variance
    # The sum that is divided by may be smaller than the true one by its own error.
    settled = of_sum + sums
    error = np.where(settled < 0.5, error / (1 - settled), np.inf)
    return Known(out.astype(np.float64), error.astype(np.float64), variance.astype(np.float64))


def _drawn(weights: Weights, values: Matrix, query: Query, keys: Keys, out: Array) -> Array | float:
    """Mean square [n, 1] of what errors of the query do to the result, from one draw of their signs."""
    if query.variance is None:
        return 0.0
    exponents = (np.sqrt(query.variance) * _signs(query.value.shape)).astype(keys.value.dtype) @ keys.value.T
    moved = np.where(weights.value > 0, weights.value * exponents, 0) / weights.total
    change = apart(moved, values.value) * values.unit - out * moved.sum(axis=1, keepdims=True)
    return np.asarray(np.square(change).mean(axis=1, keepdims=True))


def _signs(shape: tuple[int, ...]) -> Array:
    """The same scattered signs in every run: a bit of a multiplicative hash of the place."""
    place = np.arange(int(np.prod(shape)), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.where((place >> np.uint64(40)) & np.uint64(1), 1.0, -1.0).reshape(shape)
