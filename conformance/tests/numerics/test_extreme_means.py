"""The worst weighted mean, held against all corners of the box of weights."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from reference.extreme_means import reach


def by_corners(low: np.ndarray, high: np.ndarray, values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """A quotient of linear functions is largest in a corner."""
    corners = [np.where(choice, high, low) for choice in product((False, True), repeat=len(low))]
    means = np.array([corner @ values / corner.sum() for corner in corners])
    return np.abs(means - mean).max(axis=0)


@pytest.mark.parametrize("factor", [1.01, 1.3, 3.0, 10.0])
def test_no_corner_of_the_weights_goes_farther_and_one_goes_nearly_as_far(factor: float) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        weights, values = rng.uniform(0.1, 1, 9), rng.standard_normal((9, 4))
        mean = weights @ values / weights.sum()
        found = reach(weights / factor, weights * factor, values, mean)
        true = by_corners(weights / factor, weights * factor, values, mean)
        assert (found >= true * (1 - 1e-12)).all()
        assert (found <= true * 1.02).all()


def test_certain_weights_leave_the_mean_where_it_is() -> None:
    weights, values = np.array([1.0, 3.0]), np.array([[2.0], [6.0]])
    assert reach(weights, weights, values, np.array([5.0])).tolist() == [0]


@pytest.mark.parametrize("high", [1e300, np.inf, np.nan])
def test_weights_that_may_be_anything_leave_the_spread_of_the_values(high: float) -> None:
    values = np.array([[1.0, -4.0], [3.0, 7.0]])
    with np.errstate(all="ignore"):
        found = reach(np.zeros(2), np.full(2, high), values, np.array([1.5, 0.0]))
    assert found.tolist() == [1.5, 7.0]


def test_one_value_has_nowhere_to_go() -> None:
    with np.errstate(all="ignore"):
        assert reach(np.array([0.0]), np.array([np.inf]), np.array([[2.5]]), np.array([2.5])).tolist() == [0]
