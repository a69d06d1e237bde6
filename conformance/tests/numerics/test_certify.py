"""Certified rounding gives the nearest float32, and asks the exact function where it must and never else."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reference.numerics.certify import decide, nearest_float32, round_certified, round_relative_where_sure

Array = NDArray[Any]

#: A float32, the midpoint above it, and the unit of float64 there.
ONE, MIDPOINT, UNIT = 1.0, 1 + 2.0**-24, 2.0**-52


def never(indices: Array) -> Array:
    raise AssertionError(f"asked for {indices}")


def bits(x: Any) -> int:
    return int(np.float32(x).view(np.uint32))


# --- the interval test ------------------------------------------------------------------------------------


def test_sure_values_are_rounded_without_asking() -> None:
    value = np.array([ONE, MIDPOINT + 8 * UNIT, MIDPOINT - 8 * UNIT, 1e300, -1e300, 0.0, -0.0])
    got = round_certified(value, 4 * UNIT * np.abs(np.minimum(np.abs(value), 2)), never)
    expected = np.float32([1, 1 + 2.0**-23, 1, np.inf, -np.inf, 0.0, -0.0])
    assert got.dtype == np.float32
    assert got.tobytes() == expected.tobytes()


def test_nan_and_infinity_pass() -> None:
    got = round_certified(np.array([np.nan, np.inf, -np.inf]), np.array([1.0, 1.0, 0.0]), never)
    assert np.isnan(got[0])
    assert got[1:].tolist() == [np.inf, -np.inf]


def test_doubtful_values_are_asked_for_by_flat_index() -> None:
    value = np.array([[ONE, MIDPOINT], [MIDPOINT + 3 * UNIT, ONE]])
    asked = []

    def exact(indices: Array) -> Array:
        asked.extend(indices.tolist())
        return np.full(len(indices), 7, np.float32)

    got = round_certified(value, 4 * UNIT, exact)
    assert asked == [1, 2]
    assert got.tolist() == [[1, 7], [7, 1]]


def test_relative_test_doubts_what_its_bound_straddles() -> None:
    value = np.array([MIDPOINT, -MIDPOINT, MIDPOINT * (1 + 2.0**-40), 2.0**-150, 0.0, np.nan, np.inf])
    result, doubt = round_relative_where_sure(value, 2.0**-45)
    assert doubt.tolist() == [True, True, False, True, False, False, False]
    assert result[2] == 1 + 2.0**-23


# --- rounding in integers ---------------------------------------------------------------------------------


def test_nearest_float32_by_definition() -> None:
    """Against the nearest of the candidates around float64's own rounding, measured in fractions."""
    rng = np.random.default_rng(2)
    for _ in range(2000):
        mantissa = int(rng.integers(-(2**62), 2**62)) or 1
        exponent = int(rng.integers(-230, 70))
        exact = mantissa * Fraction(2) ** exponent
        got = nearest_float32(mantissa, exponent)
        if abs(exact) >= Fraction(2) ** 128 - Fraction(2) ** 103:
            assert abs(got) == np.inf
            continue
        around = [np.nextafter(got, np.float32(side)) for side in (-np.inf, np.inf)]
        error = abs(Fraction(float(got)) - exact)
        for other in around:
            distance = abs(Fraction(float(other)) - exact) if np.isfinite(other) else abs(2**128 - abs(exact))
            assert error < distance or (error == distance and bits(got) % 2 == 0)


@pytest.mark.parametrize(
    ("mantissa", "exponent", "expected"),
    [
        (2**24 + 1, 0, 2.0**24),
        (2**24 + 3, 0, 2.0**24 + 4),
        (2**25 - 1, 0, 2.0**25),
        (1, -150, 0.0),
        (-1, -150, -0.0),
        (3, -151, 2.0**-149),
        (3, -150, 2.0**-148),
        (2**24 - 1, 104, float(np.finfo(np.float32).max)),
        (2**25 - 1, 103, math.inf),
        (-1, 128, -math.inf),
        (1, 10**30, math.inf),
        (1, -(10**30), 0.0),
        (0, 5, 0.0),
    ],
)
def test_nearest_float32_at_ties_and_at_the_ends_of_the_range(mantissa: int, exponent: int, expected: float) -> None:
    assert bits(nearest_float32(mantissa, exponent)) == bits(expected)


# --- Ziv's loop -------------------------------------------------------------------------------------------


def test_decide_raises_its_precision_until_the_midpoint_is_left_behind() -> None:
    seen = []

    def hair_above_midpoint(context: Any, x: Any) -> Any:
        seen.append(context.prec)
        return x + context.ldexp(1, -24) + context.ldexp(1, -300)

    assert bits(decide(hair_above_midpoint, 1.0)) == bits(1 + 2.0**-23)
    assert bits(decide(lambda context, x: x + context.ldexp(1, -24) - context.ldexp(1, -300), 1.0)) == bits(1)
    assert len(seen) > 2, "the hair was visible at once: the test is too easy"


def test_decide_gives_up_on_an_exact_midpoint() -> None:
    with pytest.raises(ArithmeticError, match="undecided at 4000 bits"):
        decide(lambda context, x: x + context.ldexp(1, -24), 1.0)


def test_decide_leaves_the_shared_precision_of_mpmath_alone() -> None:
    import mpmath

    before = mpmath.mp.prec
    decide(lambda context, x: context.exp(x), 0.5)
    assert mpmath.mp.prec == before
