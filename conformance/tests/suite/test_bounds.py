"""Grade C: the worst case per element, and what errors may do together over a tensor.

Legal errors are drawn: one rounding to nearest is uniform within half a step. The limit of these tests is several
times that, as that of a sum of many roundings is.
"""

from __future__ import annotations

import numpy as np
import pytest

from conformance.bounds import LEAST_JUDGED, Bound, bound_faults, figures
from conformance.randomness import Stream

ELEMENTS, ROUNDINGS = 2000, 64
HALF_STEP = 1 / 8


def _uniform(seed: int, count: int = ELEMENTS) -> np.ndarray:
    """Errors of one rounding to nearest."""
    return Stream(seed, "errors").uniform(-HALF_STEP, HALF_STEP, (count,)).astype(np.float64)


TRUTH = np.linspace(-3.0, 3.0, ELEMENTS) + 0.01
BOUND = Bound(np.ones(ELEMENTS), spread=np.full(ELEMENTS, HALF_STEP / np.sqrt(3)))


@pytest.mark.parametrize("seed", range(5))
def test_roundings_to_nearest_pass_every_gate(seed: int) -> None:
    assert bound_faults(TRUTH + _uniform(seed), TRUTH, BOUND) == []


def test_one_element_outside_is_caught() -> None:
    got = TRUTH + _uniform(0)
    got[7] = TRUTH[7] + 1.25
    assert bound_faults(got, TRUTH, BOUND) == ["1 elements outside their bound, the worst at 1.25 times it"]


def _causes(faults: list[str]) -> list[str]:
    return [fault.partition(" of error/spread")[0] for fault in faults]


def test_truncation_is_caught_by_both_gates_whichever_its_direction() -> None:
    """Towards zero the mean of the errors is 0 where signs are even: the gate looks towards truth as well."""
    towards_zero = TRUTH - np.sign(TRUTH) * (HALF_STEP + _uniform(0))
    assert abs(np.mean(towards_zero - TRUTH)) < 0.01
    assert _causes(bound_faults(towards_zero, TRUTH, BOUND)) == ["mean square", "mean bias towards truth's sign"]
    down = TRUTH - (HALF_STEP + _uniform(0))
    assert _causes(bound_faults(down, TRUTH, BOUND)) == ["mean square", "mean bias"]


def test_a_small_error_of_one_sign_passes_and_a_larger_one_does_not() -> None:
    """Legal answers to open questions err a little to one side: 0.3 of a spread passes, 0.8 does not."""
    spread = float(BOUND.deviation[0])
    assert bound_faults(TRUTH + _uniform(0) + 0.3 * spread, TRUTH, BOUND) == []
    assert _causes(bound_faults(TRUTH + _uniform(0) + 0.8 * spread, TRUTH, BOUND)) == ["mean bias"]


def test_a_second_rounding_of_twice_the_step_is_caught_and_one_of_the_same_step_is_not_said_to_be() -> None:
    """Variances add: 1 + 4 is far above 2, 1 + 1 at its edge."""
    assert bound_faults(TRUTH + _uniform(0) + 0.9 * _uniform(1), TRUTH, BOUND) == []
    assert _causes(bound_faults(TRUTH + _uniform(0) + 2 * _uniform(1), TRUTH, BOUND)) == ["mean square"]


def _rows(seed: int, rows: int) -> np.ndarray:
    """Errors that all elements of a row share, as outputs of one softmax may."""
    return np.repeat(_uniform(seed, rows), ELEMENTS // rows)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rows", [2, 10, 100])
def test_elements_that_err_together_are_judged_as_groups(rows: int, seed: int) -> None:
    """As single elements they would be called biased by the luck of a few."""
    truth, got = (x.reshape(rows, -1) for x in (TRUTH, TRUTH + _rows(seed, rows)))
    limit = np.ones_like(truth)
    bound = Bound(limit, spread=HALF_STEP / np.sqrt(3) * limit, alike=(1,))
    assert bound_faults(got, truth, bound) == []


def test_a_truncation_that_every_group_has_is_caught_still() -> None:
    truth, got = (x.reshape(100, -1) for x in (TRUTH, TRUTH - np.sign(TRUTH) * (HALF_STEP + _rows(0, 100))))
    limit = np.ones_like(truth)
    bound = Bound(limit, spread=HALF_STEP / np.sqrt(3) * limit, alike=(1,))
    assert _causes(bound_faults(got, truth, bound)) == ["mean bias towards truth's sign"]


def test_a_single_group_says_nothing_of_means() -> None:
    truth, got = TRUTH[None], TRUTH[None] + 0.9
    limit = np.ones_like(truth)
    spread = HALF_STEP / np.sqrt(3) * limit
    assert bound_faults(got, truth, Bound(limit, spread=spread)) != []
    assert bound_faults(got, truth, Bound(limit, spread=spread, alike=(1,))) == []


def test_equal_elements_are_not_independent() -> None:
    """All alike, they are rounded alike: twelve times the same error is one error."""
    truth, got = np.full(12, 3.0), np.full(12, 3.0 + HALF_STEP)
    bound = Bound(np.ones(12), spread=np.full(12, HALF_STEP / np.sqrt(3)))
    assert bound_faults(got, truth, bound) == []


def _tied(seed: int, levels: int, toward: float = 0.0) -> np.ndarray:
    """Errors of values on a grid: each of `levels` values has one, whose sign goes with truth's with 1/2 + toward."""
    stream = Stream(seed, "ties", levels)
    sizes = (1 + np.arange(levels)) / levels * HALF_STEP
    signs = np.where(stream.child("signs").uniform(0.0, 1.0, (levels,)) < 0.5 + toward, 1.0, -1.0)
    return (sizes * signs)[stream.child("values").integers(0, levels, (ELEMENTS,))] * np.sign(TRUTH)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("levels", [2, 4, 8, 16])
def test_few_values_on_a_grid_round_to_one_side_by_chance(seed: int, levels: int) -> None:
    assert bound_faults(TRUTH + _tied(seed, levels), TRUTH, BOUND) == []


def test_some_of_these_would_be_refused_as_independent_elements() -> None:
    """They lean to one side by more than 1/2 and what thousands of independent errors may add."""
    leaning = [figures(TRUTH + _tied(seed, 8), TRUTH, BOUND).bias[1].value for seed in range(20)]
    assert max(map(abs, leaning)) > 0.65


def test_a_lean_of_many_values_on_a_grid_is_caught_still() -> None:
    assert _causes(bound_faults(TRUTH + _tied(0, 400, toward=0.5), TRUTH, BOUND)) == ["mean bias towards truth's sign"]


def test_what_must_be_equal_does_not_thin_the_means() -> None:
    """A cache of which one row in fifty is written."""
    truth, got, limit = (np.zeros((50, ELEMENTS)) for _ in range(3))
    truth[0], got[0], limit[0] = TRUTH, TRUTH + 0.8 * HALF_STEP, 1.0
    bound = Bound(limit, spread=limit * HALF_STEP / np.sqrt(3))
    assert figures(got, truth, bound).bias[0].value == pytest.approx(0.8 * np.sqrt(3))
    assert bound_faults(got, truth, bound) != []


def test_a_count_of_roundings_stands_for_a_spread() -> None:
    single = Stream(0, "errors").uniform(-1.0, 1.0, (ELEMENTS, ROUNDINGS)).astype(np.float64)
    bound = Bound(np.ones(ELEMENTS), ROUNDINGS)
    assert bound_faults(TRUTH + single.sum(axis=1) / ROUNDINGS, TRUTH, bound) == []
    assert _causes(bound_faults(TRUTH + 3 * single.sum(axis=1) / ROUNDINGS, TRUTH, bound)) == ["mean square"]


def test_one_element_alone_may_use_its_whole_bound() -> None:
    assert bound_faults(np.array([2.0]), np.array([1.0]), Bound(np.ones(1))) == []


def test_a_zero_bound_demands_equality_and_an_infinite_one_nothing() -> None:
    limit = np.array([0.0, np.inf, 1.0])
    truth = np.array([5.0, 5.0, 5.0])
    assert bound_faults(np.array([5.0, -1e30, 5.0]), truth, Bound(limit)) == []
    assert bound_faults(np.array([5.5, 5.0, 5.0]), truth, Bound(limit)) == [
        "1 elements outside their bound, the worst at inf times it"
    ]


def test_a_bound_that_frees_most_elements_is_none() -> None:
    """Else an output whose bound is infinite everywhere would have grade C whatever it holds."""
    limit = np.where(np.arange(ELEMENTS) < LEAST_JUDGED * ELEMENTS, 1.0, np.inf)
    got = TRUTH + _uniform(0)
    assert bound_faults(got, TRUTH, Bound(limit, spread=BOUND.spread)) == []
    limit[:10] = np.inf
    assert bound_faults(got, TRUTH, Bound(limit, spread=BOUND.spread)) == [
        "the bound says something about 49.5% of the elements only"
    ]
    assert bound_faults(got, TRUTH, Bound(np.full(ELEMENTS, np.inf))) != []


def test_truth_that_is_nowhere_finite_asks_nothing() -> None:
    nothing = np.full(4, np.nan)
    assert bound_faults(nothing, nothing, Bound(np.full(4, np.nan))) == []


def test_a_bound_that_is_no_number_is_an_error_where_truth_is_one() -> None:
    limit, truth = np.ones(4), np.array([1.0, 2.0, np.nan, np.inf])
    limit[2:] = np.nan
    assert bound_faults(truth, truth, Bound(limit, spread=limit)) == []
    limit[0] = np.nan
    with pytest.raises(ValueError, match="limit is NaN for 1 finite elements of truth"):
        bound_faults(truth, truth, Bound(limit))
    with pytest.raises(ValueError, match="spread is NaN for 1 finite elements of truth"):
        bound_faults(truth, truth, Bound(np.ones(4), spread=limit))


def test_nan_is_outside_every_finite_bound() -> None:
    got = np.array([np.nan, 5.0])
    assert bound_faults(got, np.array([5.0, 5.0]), Bound(np.ones(2))) != []


def test_elements_that_must_be_equal_and_are_change_no_figure() -> None:
    rng = np.random.default_rng(8)
    truth = rng.standard_normal(400)
    got, limit, spread = truth + rng.uniform(-0.5, 0.5, 400), np.full(400, 0.5), np.full(400, 0.3)
    alone = figures(got, truth, Bound(limit, spread=spread))
    cache = rng.standard_normal(1000)
    cache[3] = np.nan
    nothing = np.zeros(1000)
    wide = [np.concatenate(pair) for pair in ((got, cache), (truth, cache), (limit, nothing), (spread, nothing))]
    assert figures(wide[0], wide[1], Bound(wide[2], spread=wide[3])) == alone
    wide[0][-1] += 1e-9
    assert figures(wide[0], wide[1], Bound(wide[2], spread=wide[3])).outside == 1
