"""Grade C: the worst case per element, and what errors may do together over a tensor.

Legal errors are simulated by rounding: sums of n uniform rounding errors stay far inside n units.
"""

from __future__ import annotations

import numpy as np
import pytest

from conformance.bounds import Bound, bound_faults
from conformance.randomness import Stream

ELEMENTS, ROUNDINGS = 2000, 64


def _rounding_errors(seed: int) -> np.ndarray:
    """Per element the sum of `ROUNDINGS` errors, each uniform in half a unit of 1/ROUNDINGS of the bound."""
    single = Stream(seed, "errors").uniform(-1.0, 1.0, (ELEMENTS, ROUNDINGS)).astype(np.float64)
    return single.sum(axis=1) / ROUNDINGS


TRUTH = np.linspace(-3.0, 3.0, ELEMENTS)
BOUND = Bound(np.ones(ELEMENTS), ROUNDINGS)


@pytest.mark.parametrize("seed", range(5))
def test_independent_rounding_errors_pass_every_gate(seed: int) -> None:
    assert bound_faults(TRUTH + _rounding_errors(seed), TRUTH, BOUND) == []


def test_one_element_outside_is_caught() -> None:
    got = TRUTH + _rounding_errors(0)
    got[7] = TRUTH[7] + 1.25
    assert bound_faults(got, TRUTH, BOUND) == ["1 elements outside their bound, the worst at 1.25 times it"]


def test_a_small_error_of_one_sign_everywhere_is_caught_as_bias() -> None:
    """Truncation instead of rounding: each error is half a unit to one side, none near the bound."""
    faults = bound_faults(TRUTH + _rounding_errors(0) + 0.02, TRUTH, BOUND)
    assert [fault.split(" ")[0] for fault in faults] == ["bias"]


def test_errors_that_use_up_their_bounds_together_are_caught_as_variance() -> None:
    signs = Stream(0).signs(ELEMENTS).astype(np.float64)
    faults = bound_faults(TRUTH + 0.9 * signs, TRUTH, BOUND)
    assert any(fault.startswith("variance of error/bound is 0.81") for fault in faults)


def test_elements_that_err_together_are_not_called_biased() -> None:
    """One shared softmax weight shifts a whole row; a subject says so by `independent`."""
    got = TRUTH + 0.1
    assert bound_faults(got, TRUTH, BOUND) != []
    assert bound_faults(got, TRUTH, Bound(BOUND.limit, ROUNDINGS, independent=4)) == []


def test_one_element_alone_may_use_its_whole_bound() -> None:
    assert bound_faults(np.array([2.0]), np.array([1.0]), Bound(np.ones(1), 1000)) == []


def test_a_zero_bound_demands_equality_and_an_infinite_one_nothing() -> None:
    limit = np.array([0.0, np.inf, 1.0])
    truth = np.array([5.0, 5.0, 5.0])
    assert bound_faults(np.array([5.0, -1e30, 5.0]), truth, Bound(limit, 1)) == []
    assert bound_faults(np.array([5.5, 5.0, 5.0]), truth, Bound(limit, 1)) == [
        "1 elements outside their bound, the worst at inf times it"
    ]


def test_nan_is_outside_every_finite_bound() -> None:
    got = np.array([np.nan, 5.0])
    assert bound_faults(got, np.array([5.0, 5.0]), Bound(np.ones(2), 1)) != []
