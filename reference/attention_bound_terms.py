"""What the error bounds of the attention kernels have in common: softmax weights with errors, and what they average.

With w = softmax weights, a score error dx is a relative error of its weight; out = sum w V / sum w gives, to first
order,

    out' - out = sum_k w_k (dx_k + p_k) (V_k - out) + sum_k w_k dV_k + (sums, products, cast)

with p the rounding of the weight, which reaches out also where the sum takes weights unrounded (then V_k alone
stands behind it). In the worst case V_k - out is |V_k| + |out|; the second order is covered by a division by one
less the error of the sum. Where that error is large, and with it the exponents of single keys, no first order helps:
then out is a mean under weights anywhere between their limits (`extreme_means`), which is within V whatever they are,
and that is often all that can be said: the worst case lets every key err on its own, as if the errors of one query
conspired for each of them. In the variance roundings p and errors of single keys are independent, hence a sum of
squares. Errors of a query reach all keys together: they count as if they did not, and where V follows k they are
more than that, so that part is drawn as well: one set of signs for the query's errors, the resulting difference of
out, its mean square over the head dimension; the larger of both counts. A score error of the deviation s moves its
weight by a factor of the variance e^s^2 (e^s^2 - 1), which is s^2 only where s is small.

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
    leading_power,
    underflow,
    weight_error,
)
from reference.extreme_means import reach

Array = NDArray[Any]

#: Error of a sum of weights, relative, below which the first order is taken for good enough, and above which weights
#: are taken for anything.
_SETTLED, _LOST = 2.0**-5, 2.0
#: Elements of the values above which the limits of single weights are not looked at: each query takes all of them.
_MANY = 2**18
#: Largest weight of a query below which squares are taken in a unit of it.
_FAINT = 2.0**-20
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

    @cached_property
    def squares(self) -> Array:
        """Of the sizes, [d, K]."""
        return np.square(self.sizes)


@dataclass(frozen=True)
class ScoreErrors:
    """Of scores [n, K]: the worst case, and the variance."""

    worst: Array
    #: None where it is worst^2 / terms: all of the error is that of a sum of so many terms.
    own: Array | None
    terms: int

    @property
    def variance(self) -> Array:
        """Variance of each score."""
        return np.square(self.worst) / self.terms if self.own is None else self.own


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
    if query.error is not None and query.variance is not None and own is not None:
        worst += (query.error * (1 + terms * ADDITION)) @ keys.sizes
        own += query.variance @ keys.squares
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
    #: Variance of both, in units [n, 1] that keep float32 from losing it where a sink outweighs all keys.
    variance: Array
    unit: Array
    total: Array
    #: The sink's term, and its worst case as a share of the sum.
    sink_term: Array
    sink: Array
    #: Score - top, -inf where dropped.
    exponents: Array
    #: Whether the sum takes the rounded weights.
    summed_rounded: bool
    #: What a weight is rounded to: half a unit, relative, and half of the smallest number.
    relative: float
    least: float

    @cached_property
    def kept(self) -> Array:
        """False where a key is dropped; a weight of 0 may be one that is too small."""
        return np.asarray(self.exponents > -np.inf)

    @property
    def of_sum(self) -> Array:
        """Worst case of the sum of weights, relative; 0 where no key is kept, since a sum of nothing has no error."""
        moved: Array = self.before.sum(axis=1, keepdims=True)
        if self.summed_rounded:
            moved = moved + self.rounding.sum(axis=1, keepdims=True)
        return np.asarray(_share_of(moved, self.total) + self.sink)


def _share_of(part: Array, total: Array) -> Array:
    """part / total; 0 where both are 0, inf where the total alone is."""
    share = np.where(part > 0, np.inf, np.zeros_like(part))
    np.divide(part, total, out=share, where=total > 0)
    return share


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
    unit = np.ones_like(total, dtype=raised.dtype)
    if sink is not None:
        peak = raised.max(axis=1, keepdims=True)
        unit = np.where(peak < _FAINT, leading_power(np.where(peak > 0, peak, 1)), 1).astype(raised.dtype)
    # What is likely is rounded where the weight truly is, not at its worst.
    parts = raised, before, half_step(dtype, raised)
    scaled, moved, steps = parts if (unit == 1).all() else (part / unit for part in parts)
    variance = np.square(steps, out=steps)
    variance /= 3
    variance += np.square(moved) / errors.terms if errors.own is None else np.square(scaled) * _of_weight(errors.own)
    sink_term, of_sink = np.zeros_like(total), np.zeros_like(total)
    if sink is not None:
        sink_term = np.exp(sink)
        of_sink = sink_term / total * weight_error(np.zeros_like(total), np.abs(sink), corrections + 1)
    return Weights(
        raised, before, rounding, variance, unit, total, sink_term, of_sink, exponents, summed_rounded, half_ulp(dtype),
        underflow(dtype),
    )  # fmt: skip


def _of_weight(variance: Array) -> Array:
    """Relative variance of a weight from that of its exponent."""
    return np.asarray(np.exp(variance) * np.expm1(variance))


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
    # In float64 from here: squares of small shares leave the range of float32.
    share = weights.unit.astype(np.float64) / total
    variance = across(weights.variance, values.square) * np.square(share * unit)
    if weights.summed_rounded:
        variance = variance + np.square(out * share) * weights.variance.sum(axis=1, keepdims=True)
    variance = np.maximum(variance, _drawn(weights, values, query, keys, out))
    variance = variance + np.square(sums * out.astype(np.float64))
    if new is not None and not new.is_exact:
        last = slice(-len(new.value), None)
        error = error + ((weights.value + weights.before)[:, last] / total) @ new.error
        variance = variance + np.square(weights.value[:, last] / total) @ new.variance
    # The sum that is divided by may be smaller than the true one by its own error.
    settled = of_sum + sums
    error = np.where(settled < 0.5, error / (1 - settled), np.inf)
    unsettled = ~(settled < _SETTLED)[:, 0]
    if unsettled.any():
        anywhere = _anywhere(weights, values, sums, out, new)
        error[unsettled] = np.fmin(error, anywhere)[unsettled]
    between = unsettled & (settled < _LOST)[:, 0] if values.value.size <= _MANY else ()
    for i in np.flatnonzero(between):
        error[i] = np.fmin(error[i], _farthest(weights, values, sums, out[i], new, int(i)))
    # No likely error is larger than the largest.
    error = error.astype(np.float64)
    return Known(out.astype(np.float64), error, np.fmin(variance, np.square(error)))


def _anywhere(weights: Weights, values: Matrix, sums: float, out: Array, new: Known | None) -> Array:
    """Worst case [n, d] under weights that may be anything: the result is among the values, all taken together."""
    rows = values.value[weights.kept.any(axis=0)] * values.unit
    ends = [end(axis=0, initial=0.0) for end in (rows.max, rows.min)]
    error = np.abs(np.stack(ends)[:, None] - out).max(axis=0) + _of_sums(sums) * np.abs(rows).max(axis=0, initial=0.0)
    if not weights.summed_rounded:
        # Rounded weights do not sum to what they are divided by. Their largest is near 1 or the sink is.
        off = weights.relative + weights.kept.shape[1] * weights.least
        error = error + off * np.abs(rows).max(axis=0, initial=0.0) * (1 + _of_sums(sums))
    return np.asarray(error if new is None else error + new.error.max(axis=0) * (1 + sums))


def _farthest(weights: Weights, values: Matrix, sums: float, out: Array, new: Known | None, i: int) -> Array:
    """Worst case [d] of one query under weights anywhere between their limits; infinite where nothing is kept."""
    kept = weights.kept[i]
    parts = (weights.value, weights.before, weights.rounding)
    value, before, rounding = (part[i, kept].astype(np.float64) for part in parts)
    rows = values.value[kept].astype(np.float64) * values.unit
    moved = before + rounding if weights.summed_rounded else before
    low, high = np.fmax(np.square(value) / (value + before) - (moved - before), 0), value + moved
    if weights.sink_term[i, 0] > 0:
        # A weight of the value 0.
        sink, off = float(weights.sink_term[i, 0]), float(weights.sink[i, 0] * weights.total[i, 0])
        low, high = np.append(low, max(sink - off, 0.0)), np.append(high, sink + off)
        rows = np.vstack((rows, np.zeros(rows.shape[1])))
    if not len(rows):
        return np.full(out.shape, np.inf)
    size = np.abs(rows)
    error = reach(low, high, rows, out.astype(np.float64)) + _of_sums(sums) * size.max(axis=0)
    if not weights.summed_rounded:
        error = error + rounding @ size[: len(rounding)] / low.sum()
    if new is not None:
        of_new = new.error[kept[-len(new.error) :]]
        error = error + of_new.max(axis=0, initial=0.0) * (1 + sums)
    return np.asarray(error)


def _of_sums(sums: float) -> float:
    """Errors of the sums over weighted values and over weights, in shares of the largest value."""
    return 2 * sums / (1 - sums)


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
