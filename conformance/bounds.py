"""Grade C: error bounds per element, and the gates on what the errors do over the whole tensor.

A bound comes from a companion run of truth that counts the roundings on the path of an element (the `*_bound`
modules beside the models, made of `reference.error_terms`). Per element it is the worst case, which no legal
kernel exceeds. Worst cases do not add up over a tensor, though: errors of independent roundings to nearest are
spread with a deviation that the companion run counts too, mostly a small part of the bound. Two gates, the idea
of the TOSA verifier for dot products, hold the errors of the whole tensor to that deviation, with r = error /
spread:

variance   mean r^2 is 1 where every rounding is independent and to nearest. More than 2 fails: a rounding too
           many of the largest kind, a truncation (4), a sum kept in a narrow format. Between 1 and 2 stands what
           legal kernels may add: values that are no random multiples of their step.
bias       |mean r|, and |mean r| taken towards the sign of truth: 0 for rounding to nearest, 1.7 for truncation
           of the result. More than 1/2 fails. It is not 0 that is asked, as some legal answers have a sign: sums of
           the tensor engine that round towards zero, functions one unit high. They are float32 errors. Where a
           narrow rounding follows they are far below half of its spread; where none follows, `spread` counts them
           in full. A narrow cast has no legal bias.

Both gates are wider by five standard errors of their means, estimated from the scatter between groups of elements
whose errors are not independent: along the axes `alike`, as outputs that share their softmax weights, and of one size.
Errors of one size come of ties in data on a grid (integers of few bits, an edge of a format): all halfway cases of one
value round to the same side, to the even neighbour, however many elements have it. Where errors are real numbers no
two are of one size, and a group is an element. A legal kernel fails one in a million times at most, as far as five
standard errors say so: of few groups they are wider, but few groups estimate them badly too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.error_terms import FAR_OUT

Float64 = NDArray[np.float64]

#: Largest mean square and mean of error / spread in a tensor of many elements.
MOST_VARIANCE, MOST_BIAS = 2.0, 0.5
#: Standard errors of a mean that are allowed on top, and how many groups it takes to estimate one well.
_DEVIATIONS, _FEW = 5.0, 8.0
#: A spread is not taken for less than this share of its bound.
_LEAST_SPREAD = 2.0**-24
#: Least share of the finite elements of truth that a bound must say something about.
LEAST_JUDGED = 0.5
#: How the complaint about a bound that says less begins.
VACUOUS = "the bound says something about"
#: Elements that are looked at when equal ones are counted.
_SAMPLE = 2**16


@dataclass(frozen=True)
class Bound:
    """What |out - truth| may be.

    limit      float64, shape of the output, >= 0; zero demands equality, inf frees an element
    roundings  number of roundings on the path of an element, for a bound without a spread of its own: then n
               roundings of one size are taken, with the spread sqrt(0.4 / n) of TOSA's gate
    spread     float64, shape of the output: standard deviation of the error where roundings are independent
    alike      axes along which elements have errors in common
    """

    limit: Float64
    roundings: int = 1
    spread: Float64 | None = None
    alike: tuple[int, ...] = ()

    def at(self, elements: NDArray[np.bool_]) -> Bound:
        """The bound of some elements, in a row."""
        spread = None if self.spread is None else self.spread[elements]
        return Bound(self.limit[elements], self.roundings, spread)

    @property
    def deviation(self) -> Float64:
        """The spread, or what `roundings` says of it."""
        spread = self.limit * math.sqrt(0.4 / self.roundings) if self.spread is None else self.spread
        return np.maximum(spread, self.limit * _LEAST_SPREAD)


def likely_limit(worst: Float64, spread: Float64) -> Float64:
    """The worst case, and `FAR_OUT` deviations where that is less.

    For outputs whose worst case says nothing, as an error of a score that is exponentiated; elsewhere the worst case
    is to be kept, as it holds for roundings that are not independent too.
    """
    return np.fmin(worst, FAR_OUT * spread)


@dataclass(frozen=True)
class Mean:
    """A mean over the elements of an output and what it may stray by in a legal kernel."""

    value: float = 0.0
    slack: float = 0.0


@dataclass(frozen=True)
class Figures:
    """How the errors of an output lie to its bound. Zeros where nothing is judged.

    share     largest |error| / limit; inf where a limit of zero is missed
    outside   elements beyond their limit; the means are not formed where there are any
    judged    share of the finite elements of truth that have a finite limit
    variance  mean of (error / spread)^2
    bias      mean of error / spread, and the same taken towards the sign of truth
    """

    share: float = 0.0
    outside: int = 0
    judged: float = 1.0
    variance: Mean = Mean()
    bias: tuple[Mean, Mean] = (Mean(), Mean())


def load(found: Figures) -> float:
    """How much of the limit that is nearest is used up: above 1 where grade C is missed."""
    means = ((found.variance, MOST_VARIANCE), (found.bias[0], MOST_BIAS), (found.bias[1], MOST_BIAS))
    if found.judged < LEAST_JUDGED:
        return math.inf
    return max(found.share, *(abs(mean.value) / (most + mean.slack) for mean, most in means))


def figures(got: NDArray[Any], truth: Float64, bound: Bound) -> Figures:
    """`got` holds float values; only finite truth is looked at. ValueError where the bound is no number there."""
    finite = np.isfinite(truth)
    _require_numbers(bound, finite)
    held = finite & np.isfinite(bound.limit)
    judged = int(held.sum()) / max(int(finite.sum()), 1) if finite.any() else 1.0
    if not bound.alike:
        # Where nothing may differ and nothing does, as in most of a cache, there is nothing to look at.
        held &= (bound.limit > 0) | (got != truth)
        got, truth, bound = got[held], truth[held], bound.at(held)
        held = np.ones(truth.shape, np.bool_)
    if not held.any():
        return Figures(judged=judged)
    error = np.where(held, got.astype(np.float64) - np.where(held, truth, 0.0), 0.0)
    limit = np.where(held, bound.limit, np.inf)
    outside = int(np.count_nonzero(~(np.abs(error) <= limit)))
    share = float(np.nan_to_num(_ratio(np.abs(error), limit), nan=np.inf, posinf=np.inf).max())
    # What must be equal (rows of a cache that are not written) would thin the means.
    free = held & (limit > 0) & np.isfinite(bound.deviation)
    if outside or not free.any():
        return Figures(share, outside, judged)
    ratios = _ratio(error, np.where(free, bound.deviation, np.inf))
    least, ties = 1 / math.sqrt(_distinct(truth[free])), _ties(np.abs(error[free]))
    variance, bias, towards = (
        _mean(part, free, bound.alike, ties, least) for part in (np.square(ratios), ratios, ratios * np.sign(truth))
    )
    return Figures(share, 0, judged, variance, (bias, towards))


def bound_faults(got: NDArray[Any], truth: Float64, bound: Bound) -> list[str]:
    """Why `got` (float values) is not inside `bound`, [] where it is. Finite truth is judged alone."""
    return faults_in(figures(got, truth, bound))


def faults_in(found: Figures) -> list[str]:
    """What is wrong with such figures, [] where nothing is."""
    if found.outside:
        return [f"{found.outside} elements outside their bound, the worst at {found.share:.3g} times it"]
    if found.judged < LEAST_JUDGED:
        return [f"{VACUOUS} {found.judged:.1%} of the elements only"]
    named = [("square", found.variance, MOST_VARIANCE), ("bias", found.bias[0], MOST_BIAS)]
    named.append(("bias towards truth's sign", found.bias[1], MOST_BIAS))
    return [
        f"mean {name} of error/spread is {mean.value:.3g}, more than {most + mean.slack:.3g}"
        for name, mean, most in named
        if abs(mean.value) > most + mean.slack
    ]


def _require_numbers(bound: Bound, finite: NDArray[np.bool_]) -> None:
    """Infinity frees an element on purpose; NaN would do so by accident."""
    for name, values in (("limit", bound.limit), ("spread", bound.spread)):
        missing = 0 if values is None else int(np.count_nonzero(np.isnan(values) & finite))
        if missing:
            raise ValueError(f"a bound's {name} is NaN for {missing} finite elements of truth")


def _ratio(error: Float64, size: Float64) -> Float64:
    """error / size; 0 where both are 0, inf where only the size is."""
    ratio = np.full_like(error, np.inf)
    np.divide(error, size, out=ratio, where=size > 0)
    ratio[(error == 0) & (size == 0)] = 0.0
    return ratio


def _mean(
    values: Float64, free: NDArray[np.bool_], alike: tuple[int, ...], ties: NDArray[np.intp] | None, least: float
) -> Mean:
    """Mean of the free values, and five standard errors of it from the scatter between groups.

    `ties` names the group of every free value, beside the groups along the axes `alike`. `least` is the standard
    error of as many independent values of deviation 1 as there are different ones: equal values are rounded alike.
    """
    count = np.add.reduce(free, axis=alike, dtype=np.float64) if alike else free.astype(np.float64)
    sums = np.add.reduce(np.where(free, values, 0.0), axis=alike) if alike else np.where(free, values, 0.0)
    slack = _slack(sums, count, least)
    if ties is not None:
        of_ties = np.bincount(ties, values[free]).astype(np.float64)
        slack = max(slack, _slack(of_ties, np.bincount(ties).astype(np.float64), least))
    return Mean(float(sums.sum() / count.sum()), slack)


def _slack(sums: Float64, count: Float64, least: float) -> float:
    """Five standard errors of a mean, from the sums of groups and how many values each has.

    Few groups tell little of their scatter, a single one nothing.
    """
    groups, total = int(np.count_nonzero(count)), float(count.sum())
    scatter = float(np.square(sums - float(sums.sum()) / total * count).sum())
    off = math.sqrt(scatter) / total if groups > 1 else math.inf
    return _DEVIATIONS * max(off, least) * (1 + _FEW / groups)


def _ties(sizes: Float64) -> NDArray[np.intp] | None:
    """The group of every error by its size; None where most sizes of a sample stand alone, as real numbers do.

    Only bits are compared: a bound and its errors are on a grid exactly or not at all.
    """
    step = max(1, sizes.size // _SAMPLE)
    sample = sizes[::step]
    if 2 * np.unique(sample).size > sample.size:
        return None
    return np.unique(sizes, return_inverse=True)[1].reshape(-1)


def _distinct(values: Float64) -> float:
    """How many different values there are, from a sample, by their shares: equal values are rounded alike.

    n values of equal shares count as n, one that is half of all as at most 4.
    """
    step = max(1, values.size // _SAMPLE)
    counts = np.unique(values[::step], return_counts=True)[1].astype(np.float64)
    most = float(np.square(counts.sum()) / np.square(counts).sum())
    # A sample of different values says nothing of how many there are beyond it.
    return most if most < counts.sum() / 2 else most * step
