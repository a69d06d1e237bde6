"""Grade C: error bounds per element, and the gates on what the errors do over the whole tensor.

A bound comes from a companion run of truth on absolute values that counts the roundings on the path of an
element. Per element it is the worst case; over a tensor, rounding errors of n roundings are expected to add
like a random walk, far below it. The gates and their constants are those of the TOSA verifier for dot
products, restated in shares of the bound: there |err| <= 2 n units, the mean of err^2 <= 4 * 0.4 n, and
|sum of err| <= sqrt(10 * 1.6 n * elements).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Bound:
    """What |out - truth| may be.

    limit        float64, shape of the output, >= 0; zero demands equality, inf frees an element
    roundings    number of roundings on the path of an element, at least 1
    independent  how many elements have errors of their own: outputs that share their softmax weights, say,
                 err together, and a mean over them says less; None for all elements
    """

    limit: NDArray[np.float64]
    roundings: int
    independent: int | None = None


def bound_faults(got: NDArray[Any], truth: NDArray[np.float64], bound: Bound) -> list[str]:
    """Why `got` (float values) is not inside `bound`, [] where it is. Finite truth is judged alone."""
    judged = np.isfinite(truth) & np.isfinite(bound.limit)
    error = got.astype(np.float64)[judged] - truth[judged]
    limit = bound.limit[judged]
    outside = ~(np.abs(error) <= limit)
    if outside.any():
        return [_element_fault(error, limit, outside)]
    shares = np.divide(error, limit, out=np.zeros_like(error), where=limit > 0)
    return _tensor_faults(shares, bound) if shares.size else []


def _element_fault(error: NDArray[Any], limit: NDArray[Any], outside: NDArray[np.bool_]) -> str:
    excess = np.divide(np.abs(error), limit, out=np.full_like(error, np.inf), where=limit > 0)
    worst = float(np.nan_to_num(excess[outside], nan=np.inf, posinf=np.inf).max())
    return f"{int(outside.sum())} elements outside their bound, the worst at {worst:.3g} times it"


def _tensor_faults(shares: NDArray[np.float64], bound: Bound) -> list[str]:
    variance, bias = float(np.mean(np.square(shares))), abs(float(np.mean(shares)))
    independent = min(bound.independent or shares.size, shares.size)
    # One element may use all of its bound, hence the second terms; a tensor of many may not.
    most_variance = 0.4 / bound.roundings + 1.0 / independent
    most_bias = 2.0 / math.sqrt(bound.roundings * independent) + 1.0 / independent
    faults = []
    if variance > most_variance:
        faults.append(f"variance of error/bound is {variance:.3g}, more than {most_variance:.3g}")
    if bias > most_bias:
        faults.append(f"bias of error/bound is {bias:.3g}, more than {most_bias:.3g}")
    return faults
