"""Exact sums and their one rounding, against `fractions.Fraction`."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.tests.numerics.fractions_reference import bits, nearest_float32, total
from reference.numerics.exact_sum import (
    add,
    exact_total,
    few_total,
    keep_28_bits,
    narrow,
    round_to_odd,
    total_to_float32,
    two_sum,
)

#: float64 numbers that are products of two float32 numbers have exponents like these.
WIDE = st.builds(lambda m, e: float(np.ldexp(m, e)), st.integers(-(2**53), 2**53), st.integers(-320, 180))
NARROW = st.floats(width=32, allow_nan=False, allow_infinity=False)
CLOSE = st.builds(lambda m, e: float(np.ldexp(m, e)), st.integers(-8, 8), st.integers(-80, 4))
TERMS = st.lists(st.one_of(WIDE, NARROW, CLOSE), min_size=1, max_size=8)


def _nearest_with_bits(value: Fraction, significant: int) -> Fraction:
    """Round to nearest even at a number of significant bits, without limits of exponent."""
    if value == 0:
        return value
    exponent = 0
    while abs(value) >= Fraction(2) ** (exponent + significant):
        exponent += 1
    while abs(value) < Fraction(2) ** (exponent + significant - 1):
        exponent -= 1
    # round() of a Fraction goes to even.
    return round(value / Fraction(2) ** exponent) * Fraction(2) ** exponent


@given(st.one_of(WIDE, CLOSE), st.one_of(WIDE, CLOSE))
def test_two_sum_loses_nothing(x: float, y: float):
    s, e = two_sum(np.array([x]), np.array([y]))
    assert total([s[0], e[0]]) == total([x, y])


@given(st.one_of(WIDE, CLOSE), st.one_of(WIDE, CLOSE))
def test_round_to_odd_is_one_of_the_two_neighbours_and_odd_if_inexact(x: float, y: float):
    s, e = two_sum(np.array([x]), np.array([y]))
    odd = round_to_odd(s, e)[0]
    exact = total([x, y])
    if e[0] == 0:
        assert bits64(odd) == bits64(s[0])
        return
    assert bits64(odd) % 2 == 1
    below, above = sorted([Fraction(float(np.nextafter(odd, -np.inf))), Fraction(float(np.nextafter(odd, np.inf)))])
    assert below < exact < above


def bits64(x: Any) -> int:
    return int(np.float64(x).view(np.uint64))


MIDPOINT = 1 + 2.0**-24  # between 1 and 1 + 2^-23
DOUBLE_ROUNDING = {
    "above a midpoint": ([1.0, 2.0**-24, 2.0**-90], 1 + 2.0**-23),
    "below a midpoint": ([1.0, 2.0**-24, -(2.0**-90)], 1.0),
    "on a midpoint, even below": ([1.0, 2.0**-24], 1.0),
    "on a midpoint, even above": ([1.0 + 2.0**-23, 2.0**-24], 1 + 2.0**-22),
    "above a subnormal midpoint": ([2.0**-150, 2.0**-260], 2.0**-149),
    "below a subnormal midpoint": ([2.0**-150, -(2.0**-260)], 0.0),
    "on the smallest midpoint": ([2.0**-150], 0.0),
    "below the overflow threshold": ([2.0**128 - 2.0**103, -(2.0**-20)], float(np.finfo(np.float32).max)),
    "on the overflow threshold": ([2.0**128 - 2.0**103], np.inf),
}


@pytest.mark.parametrize("case", list(DOUBLE_ROUNDING))
def test_sum_is_rounded_once(case: str):
    terms, expected = DOUBLE_ROUNDING[case]
    for sign in (1, -1):
        assert bits(total_to_float32([sign * term for term in terms])) == bits(sign * np.float32(expected))


def test_rounding_twice_would_be_wrong_here():
    """The inputs above are adversarial indeed: by way of float64 the first two give the tie's even neighbour."""
    for case in ("above a midpoint", "above a subnormal midpoint"):
        terms, expected = DOUBLE_ROUNDING[case]
        assert np.float32(float(total(terms))) != np.float32(expected)


@given(TERMS, st.sampled_from(["rne", "rz"]))
def test_total_to_float32_is_the_rounded_exact_sum(terms: list[float], rounding: str):
    got = total_to_float32(terms, rounding)
    assert bits(got) == bits(nearest_float32(total(terms), rounding))


@given(TERMS, st.sampled_from(["rne", "rz"]))
def test_few_total_is_the_rounded_exact_sum(terms: list[float], rounding: str):
    got = few_total([np.array([term]) for term in terms], rounding)
    assert got.dtype == np.float32
    assert bits(got) == bits(nearest_float32(total(terms), rounding))


def test_rests_that_cancel_leave_the_smallest_to_decide():
    """2^-60 and -2^-60 swallow 2^-120 between them, which alone lifts the sum above a tie."""
    terms = [1 + 2.0**-24, 2.0**-60, 2.0**-120, -(2.0**-60)]
    assert sum(terms) == 1 + 2.0**-24
    assert few_total([np.array([term]) for term in terms])[0] == np.float32(1 + 2.0**-23)


@given(TERMS)
def test_few_total_in_a_wide_register_keeps_28_bits(terms: list[float]):
    got = few_total([np.array([term]) for term in terms], "wide28")
    assert Fraction(float(got[0])) == _nearest_with_bits(total(terms), 28)


@given(TERMS)
def test_exact_total_rounds_to_odd(terms: list[float]):
    got, exact = exact_total(terms), total(terms)
    if Fraction(got) != exact:
        assert bits64(got) % 2 == 1
        assert Fraction(float(np.nextafter(got, -np.inf))) < exact < Fraction(float(np.nextafter(got, np.inf)))


@given(NARROW, NARROW, st.sampled_from(["rne", "rz"]))
def test_add_rounds_once(x: float, y: float, rounding: str):
    got = add(np.array([x], np.float32), np.array([y], np.float32), rounding)
    expected = nearest_float32(total([x, y]), rounding)
    assert got.dtype == np.float32
    # An exact zero is +0 unless both are -0; the reference has no signed zero.
    both_negative = np.signbit(x) and np.signbit(y) and x == 0 and y == 0
    assert bits(got) == bits(np.float32(-0.0) if both_negative else expected)


@given(st.one_of(WIDE, NARROW))
def test_keep_28_bits_rounds_to_nearest_even(x: float):
    assert Fraction(float(keep_28_bits(np.array([x]))[0])) == _nearest_with_bits(Fraction(x), 28)


SPECIAL = [np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0]


@pytest.mark.parametrize("rounding", ["rne", "rz", "wide28"])
@pytest.mark.parametrize("x", SPECIAL)
@pytest.mark.parametrize("y", SPECIAL)
def test_specials_follow_ieee_addition(x: float, y: float, rounding: str):
    pair = np.array([x], np.float32), np.array([y], np.float32)
    with np.errstate(invalid="ignore"):
        expected = pair[0] + pair[1]
    assert bits(add(*pair, rounding)) == bits(expected)
    few = few_total([part.astype(np.float64) for part in pair], rounding)
    # The sum of few parts starts from +0.
    assert bits(few) == bits(expected + np.float32(0))


@pytest.mark.parametrize("x", SPECIAL)
def test_narrow_passes_specials(x: float):
    for rounding in ("rne", "rz", "wide28"):
        assert bits(narrow(np.array([x]), rounding)) == bits(np.float32(x))


def test_towards_zero_never_overflows():
    largest = np.finfo(np.float32).max
    assert narrow(np.array([1e300, -1e300]), "rz").tolist() == [largest, -largest]
    assert add(np.array([largest]), np.array([largest]), "rz")[0] == largest
