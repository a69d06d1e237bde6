"""The operators of the engines, against tables written by hand.

What IEEE 754 leaves no choice in is checked on special pairs; what the profile chooses (V5, V6, U6, V1, G1)
is checked for every candidate. Bits are compared, with NaN as one value.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reference.numerics.alu import BINARY, BITWISE, INTEGER, UNARY, multiply_add, store_integer
from reference.numerics.profile import DEFAULT

Array = NDArray[Any]
N, I = np.nan, np.inf  # noqa: E741  (I as in infinity)


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def assert_same(got: Array, expected: Any, context: str = "") -> None:
    wanted = np.asarray(expected, np.float32)
    assert got.dtype == np.float32
    assert got.shape == wanted.shape
    same = (got.view(np.uint32) == wanted.view(np.uint32)) | (np.isnan(got) & np.isnan(wanted))
    assert same.all(), f"{context}: got {got[~same]}, expected {wanted[~same]}"


# --- maximum and minimum (V5) -----------------------------------------------------------------------------

A = f32(N, 1, N, 1, -0.0, 0.0, 0.0, -0.0, I, -I, N, -I, 2, -1, -0.0, 1)
B = f32(N, N, 1, 2, 0.0, -0.0, 0.0, -0.0, N, I, -I, -2, 1, -0.0, -1, 1)

#: (maxmin_nan, maxmin_zero) -> maximum, minimum of A and B.
MAXMIN: dict[tuple[str, str], tuple[list[float], list[float]]] = {
    ("propagate", "first"): (
        [N, N, N, 2, -0.0, 0.0, 0.0, -0.0, N, I, N, -2, 2, -0.0, -0.0, 1],
        [N, N, N, 1, -0.0, 0.0, 0.0, -0.0, N, -I, N, -I, 1, -1, -1, 1],
    ),
    ("propagate", "second"): (
        [N, N, N, 2, 0.0, -0.0, 0.0, -0.0, N, I, N, -2, 2, -0.0, -0.0, 1],
        [N, N, N, 1, 0.0, -0.0, 0.0, -0.0, N, -I, N, -I, 1, -1, -1, 1],
    ),
    ("propagate", "ieee"): (
        [N, N, N, 2, 0.0, 0.0, 0.0, -0.0, N, I, N, -2, 2, -0.0, -0.0, 1],
        [N, N, N, 1, -0.0, -0.0, 0.0, -0.0, N, -I, N, -I, 1, -1, -1, 1],
    ),
    ("number", "first"): (
        [N, 1, 1, 2, -0.0, 0.0, 0.0, -0.0, I, I, -I, -2, 2, -0.0, -0.0, 1],
        [N, 1, 1, 1, -0.0, 0.0, 0.0, -0.0, I, -I, -I, -I, 1, -1, -1, 1],
    ),
    ("second", "first"): (
        [N, N, 1, 2, -0.0, 0.0, 0.0, -0.0, N, I, -I, -2, 2, -0.0, -0.0, 1],
        [N, N, 1, 1, -0.0, 0.0, 0.0, -0.0, N, -I, -I, -I, 1, -1, -1, 1],
    ),
}


@pytest.mark.parametrize(("nan", "zero"), MAXMIN)
def test_maximum_and_minimum_of_special_pairs(nan: str, zero: str) -> None:
    profile = DEFAULT.replace(maxmin_nan=nan, maxmin_zero=zero)
    largest, smallest = MAXMIN[nan, zero]
    assert_same(BINARY["maximum"](A, B, profile), largest, "maximum")
    assert_same(BINARY["minimum"](A, B, profile), smallest, "minimum")


def test_the_default_is_to_propagate_nan_and_keep_the_first_zero() -> None:
    largest, smallest = MAXMIN["propagate", "first"]
    assert_same(BINARY["maximum"](A, B), largest)
    assert_same(BINARY["minimum"](A, B), smallest)


def test_long_rows_take_the_same_choices_as_single_elements() -> None:
    """Vector code paths of NumPy choose between zeros by lane position; ours must not."""
    for zero in ("first", "second", "ieee"):
        profile = DEFAULT.replace(maxmin_zero=zero)
        for name, table in zip(("maximum", "minimum"), MAXMIN["propagate", zero], strict=True):
            got = BINARY[name](np.tile(A, 33), np.tile(B, 33), profile)
            assert_same(got, np.tile(np.float32(table), 33), name)


#: Operands of equal magnitude give the second (facts 5.2); NaN as the profile says.
MAGNITUDES: dict[str, tuple[list[float], list[float]]] = {
    "propagate": ([-3, 2, -2, 0.0, -0.0, N, N, N, -I, I], [1, -2, 2, 0.0, -0.0, N, N, N, 5, I]),
    "number": ([-3, 2, -2, 0.0, -0.0, 1, 1, N, -I, I], [1, -2, 2, 0.0, -0.0, 1, 1, N, 5, I]),
    "second": ([-3, 2, -2, 0.0, -0.0, 1, N, N, -I, I], [1, -2, 2, 0.0, -0.0, 1, N, N, 5, I]),
}


@pytest.mark.parametrize("nan", MAGNITUDES)
def test_abs_max_and_abs_min_return_the_signed_original(nan: str) -> None:
    a = f32(-3, -2, 2, -0.0, 0.0, N, 1, N, -I, -I)
    b = f32(1, 2, -2, 0.0, -0.0, 1, N, N, 5, I)
    largest, smallest = MAGNITUDES[nan]
    smallest = [1, 2, -2, *smallest[3:]]
    profile = DEFAULT.replace(maxmin_nan=nan)
    assert_same(BINARY["abs_max"](a, b, profile), largest, "abs_max")
    assert_same(BINARY["abs_min"](a, b, profile), smallest, "abs_min")


# --- comparisons, logic, arithmetic -----------------------------------------------------------------------

PAIRS_A = f32(N, N, 1, -0.0, 1, 2, -I, I, 0)
PAIRS_B = f32(N, 1, N, 0.0, 1, 1, I, I, 2.0**-149)
TRUTH_TABLES = {
    "equal": [0, 0, 0, 1, 1, 0, 0, 1, 0],
    "not_equal": [1, 1, 1, 0, 0, 1, 1, 0, 1],
    "greater": [0, 0, 0, 0, 0, 1, 0, 0, 0],
    "greater_equal": [0, 0, 0, 1, 1, 1, 0, 1, 0],
    "less": [0, 0, 0, 0, 0, 0, 1, 0, 1],
    "less_equal": [0, 0, 0, 1, 1, 0, 1, 1, 1],
    "logical_and": [1, 1, 1, 0, 1, 1, 1, 1, 0],
    "logical_or": [1, 1, 1, 0, 1, 1, 1, 1, 1],
    "logical_xor": [0, 0, 0, 0, 0, 0, 0, 0, 1],
}


@pytest.mark.parametrize("name", TRUTH_TABLES)
def test_comparisons_and_logic_give_one_and_zero(name: str) -> None:
    assert_same(BINARY[name](PAIRS_A, PAIRS_B), TRUTH_TABLES[name], name)


def test_arithmetic_is_ieee_single_precision() -> None:
    big = 3e38
    assert_same(BINARY["add"](f32(I, big, -0.0, 2**24), f32(-I, big, -0.0, 1)), [N, I, -0.0, 2**24])
    assert_same(BINARY["subtract"](f32(I, 1, 0.0, N), f32(I, 1, 0.0, 1)), [N, 0.0, 0.0, N])
    assert_same(BINARY["multiply"](f32(I, -0.0, 2.0**-75), f32(0, 3, 2.0**-75)), [N, -0.0, 0.0])
    # FP32_MIN as a mask value: -inf minus it stays -inf (facts 2.6).
    assert_same(BINARY["subtract"](f32(-I), np.finfo(np.float32).min), [-I])


def test_operands_broadcast_and_python_numbers_are_rounded_to_float32() -> None:
    assert_same(BINARY["multiply"](f32(1, 2), 0.1), [np.float32(0.1), np.float32(0.2)])
    assert BINARY["add"](np.ones((3, 1), np.float32), f32(1, 2)).shape == (3, 2)
    assert_same(BINARY["maximum"](1.0, 2.0), 2.0)


def test_unary_operators() -> None:
    x = f32(-0.0, -4, 4, N, I, -I, 2.0**-149)
    assert_same(UNARY["abs"](x), [0, 4, 4, N, I, I, 2.0**-149])
    assert_same(UNARY["square"](x), [0, 16, 16, N, I, I, 0])
    assert_same(UNARY["relu"](x), [0, 0, 4, N, I, 0, 2.0**-149])
    assert_same(UNARY["reciprocal"](x), [-I, -0.25, 0.25, N, 0, -0.0, I])
    assert_same(UNARY["rsqrt"](f32(4, 0.25, 0.0, I, -1, N)), [0.5, 2, I, 0, N, N])


def test_relu_of_nan_follows_the_rule_of_maximum() -> None:
    for choice, expected in {"propagate": N, "number": 0, "second": 0}.items():
        assert_same(UNARY["relu"](f32(N), DEFAULT.replace(maxmin_nan=choice)), [expected])


def test_power_comes_correctly_rounded() -> None:
    assert_same(BINARY["power"](f32(2, 3, 4097), f32(0.5, 2, 2)), [2**0.5, 9, 16785408])


# --- candidates of the profile ----------------------------------------------------------------------------


def test_subnormals_as_the_profile_says() -> None:
    tiny, normal = 2.0**-130, 2.0**-126
    for choice, expected in {
        "keep": [tiny, -tiny, 2 * tiny, normal],
        "daz": [0, -0.0, 0, normal],
        "ftz": [0, -0.0, 0, normal],
        "daz_ftz": [0, -0.0, 0, normal],
    }.items():
        profile = DEFAULT.replace(subnormals_alu=choice)
        got = BINARY["multiply"](f32(tiny, -tiny, 2 * tiny, normal), f32(1, 1, 1, 1), profile)
        assert_same(got, expected, choice)
    # Operand and result are told apart by operations that cross the border.
    up, down = (f32(tiny), f32(2.0**10)), (f32(normal), f32(0.5))
    daz, ftz = DEFAULT.replace(subnormals_alu="daz"), DEFAULT.replace(subnormals_alu="ftz")
    assert_same(BINARY["multiply"](*up, daz), [0])
    assert_same(BINARY["multiply"](*up, ftz), [2.0**-120])
    assert_same(BINARY["multiply"](*down, daz), [2.0**-127])
    assert_same(BINARY["multiply"](*down, ftz), [0])
    assert_same(UNARY["abs"](f32(-tiny), daz), [0])


@pytest.mark.parametrize(("choice", "side"), [("ulp_up", np.inf), ("ulp_down", -np.inf)])
def test_inexact_results_move_by_one_ulp_under_v6(choice: str, side: float) -> None:
    profile = DEFAULT.replace(reciprocal_accuracy=choice)
    third = np.nextafter(np.float32(1) / np.float32(3), np.float32(side))
    assert_same(UNARY["reciprocal"](f32(3, 4, 0, I, N), profile), [third, 0.25, I, 0, N])
    half_root = np.nextafter(np.float32(np.sqrt(0.5)), np.float32(side))
    assert_same(UNARY["rsqrt"](f32(2, 4, 16, 0), profile), [half_root, 0.5, 0.25, I])
    root = np.nextafter(np.float32(np.sqrt(2.0)), np.float32(side))
    got = BINARY["power"](f32(2, 4, 3, 2, -2, 0, 9, 1), f32(0.5, 0.5, 2, -3, 3, 2, -0.5, N), profile)
    third = np.nextafter(np.float32(1 / 3), np.float32(side))
    assert_same(got, [root, 2, 9, 0.125, -8, 0, third, 1])


def test_fused_and_unfused_multiply_add_differ_on_the_probe_values() -> None:
    """The probe of V1: x = s = 1 + 2^-12, b = -(1 + 2^-11)."""
    x, b = f32(1 + 2.0**-12), f32(-(1 + 2.0**-11))
    assert_same(multiply_add(x, x, b, fused=False), [0])
    assert_same(multiply_add(x, x, b, fused=True), [2.0**-24])


def test_fused_multiply_add_rounds_the_exact_sum_once() -> None:
    rng = np.random.default_rng(11)
    a, b = (rng.standard_normal(20_000).astype(np.float32) for _ in range(2))
    # Addends near minus the product cancel; huge and tiny ones exercise the sticky bit.
    c = -(a * b) * np.float32(1 + 2.0**-20) * (2.0 ** rng.integers(-60, 60, 20_000)).astype(np.float32)
    got = multiply_add(a, b, c, fused=True)
    for x, y, z, result in zip(a[:3000], b, c, got, strict=False):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        below, above = (np.nextafter(result, np.float32(side)) for side in (-np.inf, np.inf))
        error = abs(Fraction(float(result)) - exact)
        assert all(error <= abs(Fraction(float(other)) - exact) for other in (below, above))


def test_fused_multiply_add_sees_what_a_float64_sum_cannot_hold() -> None:
    """The sum lies 2^-70 below a midpoint of float32; in float64 it is the midpoint, and even is up."""
    a, b, c = f32((1 + 2.0**-23) * 2.0**-12), f32((1 - 2.0**-23) * 2.0**-12), f32(1 + 2.0**-23)
    in_float64 = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
    assert in_float64.astype(np.float32) == 1 + 2.0**-22, "the trap is not set"
    assert_same(multiply_add(a, b, c, fused=True), [1 + 2.0**-23])
    assert_same(multiply_add(-a, b, -c, fused=True), [-1 - 2.0**-23])


def test_multiply_add_specials() -> None:
    for fused in (False, True):
        assert_same(
            multiply_add(
                f32(I, I, 0, 1, 3e38, -0.0),
                f32(0, 1, 5, N, 3e38, 1),
                f32(1, -I, -0.0, 1, -I, -0.0),
                fused=fused,
            ),
            [N, N, 0, N, -I if fused else N, -0.0],
        )
        assert multiply_add(1.0, 2.0, 3.0, fused=fused) == 5
        assert multiply_add(np.ones((2, 1)), np.ones(3), 1.0, fused=fused).shape == (2, 3)


# --- bit patterns and integers ----------------------------------------------------------------------------


def test_bitwise_operators_work_on_raw_patterns() -> None:
    a, b = np.uint8([0b1100, 0xFF]), np.uint8([0b1010, 0x0F])
    assert BITWISE["bitwise_and"](a, b).tolist() == [0b1000, 0x0F]
    assert BITWISE["bitwise_or"](a, b).tolist() == [0b1110, 0xFF]
    assert BITWISE["bitwise_xor"](a, b).tolist() == [0b0110, 0xF0]
    assert BITWISE["invert"](a).tolist() == [0xF3, 0]
    assert BITWISE["invert"](np.int16([0, -1])).tolist() == [-1, 0]
    assert BITWISE["bitwise_and"](np.int32([-1]), 0xFFFF0000).tolist() == [-65536]


def test_right_shift_is_logical_and_wide_shifts_give_zero() -> None:
    assert BITWISE["right_shift"](np.int32([-1, -(2**31)]), np.int32([1, 31])).tolist() == [2**31 - 1, 1]
    assert BITWISE["right_shift"](np.uint32([2**31]), 4).tolist() == [2**27]
    assert BITWISE["left_shift"](np.int8([1, 1, 3]), np.int8([7, 8, 1])).tolist() == [-128, 0, 6]
    assert BITWISE["right_shift"](np.uint16([0xFFFF]), np.uint16([16])).tolist() == [0]
    # A negative amount is a huge unsigned one.
    assert BITWISE["left_shift"](np.int32([1]), -1).tolist() == [0]


def test_bitwise_operators_refuse_floats_and_unequal_widths() -> None:
    with pytest.raises(ValueError, match="operands must be integers"):
        BITWISE["bitwise_or"](f32(1), f32(1))
    with pytest.raises(ValueError, match="the widths must be equal"):
        BITWISE["bitwise_or"](np.int32([1]), np.int16([1]))


def test_integer_arithmetic_wraps_or_saturates_at_the_destination() -> None:
    top, saturate = np.int32([2**31 - 1]), DEFAULT.replace(int_overflow="saturate")
    total = INTEGER["add"](top, np.int32([1]))
    assert total.tolist() == [2**31]
    assert store_integer(total, np.int32).tolist() == [-(2**31)]
    assert store_integer(total, np.uint32).tolist() == [2**31]
    assert store_integer(total, np.int32, saturate).tolist() == [2**31 - 1]
    below = INTEGER["subtract"](np.uint32([0]), np.uint32([1]))
    assert store_integer(below, np.uint32).tolist() == [2**32 - 1]
    assert store_integer(below, np.uint32, saturate).tolist() == [0]


def test_integer_products_keep_their_low_bits_and_saturate_when_asked() -> None:
    saturate = DEFAULT.replace(int_overflow="saturate")
    for x, y in [(65537, 65537), (2**32 - 1, 2**32 - 1), (2**32 - 1, 2**31), (2**24 + 1, 3)]:
        a, b = np.uint32([x]), np.uint32([y])
        assert store_integer(INTEGER["multiply"](a, b), np.uint32).tolist() == [x * y % 2**32]
        limited = INTEGER["multiply"](a, b, saturate)
        assert store_integer(limited, np.uint32, saturate).tolist() == [min(x * y, 2**32 - 1)]
    low = INTEGER["multiply"](np.int32([-(2**31)]), np.uint32([2**32 - 1]), saturate)
    assert store_integer(low, np.int32, saturate).tolist() == [-(2**31)]


def test_integers_above_two_to_the_24_stay_exact() -> None:
    a, b = np.int32([2**24 + 1, -5, 7]), np.int32([2**24, 5, 7])
    expected = {
        "subtract": [1, -10, 0], "maximum": [2**24 + 1, 5, 7], "minimum": [2**24, -5, 7], "equal": [0, 0, 1],
        "not_equal": [1, 1, 0], "greater": [1, 0, 0], "greater_equal": [1, 0, 1], "less": [0, 1, 0],
        "less_equal": [0, 1, 1], "logical_and": [1, 1, 1], "logical_or": [1, 1, 1], "logical_xor": [0, 0, 0],
        "abs_max": [2**24 + 1, 5, 7], "abs_min": [2**24, 5, 7],
    }  # fmt: skip
    for name, values in expected.items():
        assert INTEGER[name](a, b).tolist() == values, name


def test_integer_operands_must_be_integers() -> None:
    with pytest.raises(ValueError, match="integer operation on float32"):
        INTEGER["add"](f32(1), np.int32([1]))
