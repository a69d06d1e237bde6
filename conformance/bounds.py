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

Both gates are wider for few independent elements, by five standard deviations of their mean, so that a legal
kernel fails one in a million times at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

#: Largest mean square and mean of error / spread in a tensor of many elements.
MOST_VARIANCE, MOST_BIAS = 2.0, 0.5
#: Standard deviations of the mean that are allowed on top.
_DEVIATIONS = 5.0
#: A spread is not taken for less than this share of its bound: nothing is known that well.
_LEAST_SPREAD = 2.0**-10
#: Least share of the finite elements of truth that a bound must say something about.
LEAST_JUDGED = 0.5
#: Elements that are looked at when equal ones are counted.
_SAMPLE = 2**16


@dataclass(frozen=True)
class Bound:
    """What |out - truth| may be.

    limit        float64, shape of the output, >= 0; zero demands equality, inf frees an element
    roundings    number of roundings on the path of an element, for a bound without a spread of its own: then n
                 roundings of one size are taken, with the spread sqrt(0.4 / n) of TOSA's gate
    independent  how many elements have errors of their own: outputs that share their softmax weights, say,
                 err together, and a mean over them says less; None for all elements
    spread       float64, shape of the output: standard deviation of the error where roundings are independent
    """

    limit: Float64
    roundings: int = 1
    independent: int | None = None
    spread: Float64 | None = None

    @property
    def deviation(self) -> Float64:
        """The spread, or what `roundings` says of it."""
        spread = self.limit * math.sqrt(0.4 / self.roundings) if self.spread is None else self.spread
        return np.maximum(spread, self.limit * _LEAST_SPREAD)


@dataclass(frozen=True)
class Figures:
    """How the errors of an output lie to its bound. Zeros where nothing is judged.

    share      largest |error| / limit; inf where a limit of zero is missed
    variance   mean of (error / spread)^2
    bias       mean of error / spread, the larger of: as it is, and towards the sign of truth
    judged     share of the finite elements of truth that have a finite limit
    """

    share: float
    variance: float
    bias: float
    judged: float
    outside: int
    independent: int


def figures(got: NDArray[Any], truth: Float64, bound: Bound) -> Figures:
    """`got` holds float values; only finite truth is looked at."""
    finite = np.isfinite(truth)
    held = finite & np.isfinite(bound.limit)
    count = int(held.sum())
    judged = count / max(int(finite.sum()), 1) if finite.any() else 1.0
    if not count:
        return Figures(0.0, 0.0, 0.0, judged, 0, 0)
    want, limit = truth[held], bound.limit[held]
    error = got.astype(np.float64)[held] - want
    outside = ~(np.abs(error) <= limit)
    shares = _ratio(np.abs(error), limit)
    share = math.inf if np.isnan(shares).any() else float(shares.max())
    if outside.any():
        return Figures(share, math.inf, math.inf, judged, int(outside.sum()), count)
    # What must be equal (rows of a cache that are not written) would thin the means.
    free = limit > 0
    if not free.any():
        return Figures(share, 0.0, 0.0, judged, 0, 0)
    want, ratios = want[free], _ratio(error[free], bound.deviation[held][free])
    bias = max(abs(float(np.mean(ratios))), abs(float(np.mean(ratios * np.sign(want)))))
    independent = min(bound.independent or want.size, _distinct(want))
    return Figures(share, float(np.mean(np.square(ratios))), bias, judged, 0, independent)


def bound_faults(got: NDArray[Any], truth: Float64, bound: Bound) -> list[str]:
    """Why `got` (float values) is not inside `bound`, [] where it is. Finite truth is judged alone."""
    found = figures(got, truth, bound)
    if found.outside:
        return [f"{found.outside} elements outside their bound, the worst at {found.share:.3g} times it"]
    if found.judged < LEAST_JUDGED:
        return [f"the bound says something about {found.judged:.1%} of the elements only"]
    if not found.independent:
        return []
    most_variance = MOST_VARIANCE + _DEVIATIONS * math.sqrt(2 / found.independent)
    most_bias = MOST_BIAS + _DEVIATIONS / math.sqrt(found.independent)
    faults = []
    if found.variance > most_variance:
        faults.append(f"mean square of error/spread is {found.variance:.3g}, more than {most_variance:.3g}")
    if found.bias > most_bias:
        faults.append(f"mean of error/spread is {found.bias:.3g}, more than {most_bias:.3g}")
    return faults


def _ratio(error: Float64, size: Float64) -> Float64:
    """error / size; 0 where both are 0, inf where only the size is."""
    ratio = np.full_like(error, np.inf)
    np.divide(error, size, out=ratio, where=size > 0)
    ratio[(error == 0) & (size == 0)] = 0.0
    return ratio


def _distinct(values: Float64) -> int:
    """How many different values there are, from a sample: equal values are rounded alike."""
    step = max(1, values.size // _SAMPLE)
    sample = values[::step]
    return max(1, len(np.unique(sample)) * values.size // sample.size)
