"""Reductions: exact sums against fractions, other orders against recovered trees and loops, V5 by its rules."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import reduce as fold
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance.tests.numerics.fractions_reference import bits, nearest_float32, total
from reference.numerics.alu import BINARY
from reference.numerics.profile import CHAIN, DEFAULT, PARTS, NumericsProfile
from reference.numerics.reduce import (
    REDUCTIONS,
    _beyond_53_bits,
    accumulate,
    exact_reduce_add,
    reduce_add,
    reduce_max,
    reduce_multiply,
    reduce_subtract,
)

Array = NDArray[Any]
ORDERS = list(PARTS["reduce_order"].candidates)
LARGE = 2.0**60


# --- exact sums -------------------------------------------------------------------------------------------

PATTERNS = st.integers(0, 2**32 - 1)


@settings(max_examples=300, deadline=None)
@given(st.lists(PATTERNS, min_size=1, max_size=8))
def test_exact_sum_of_any_bit_patterns(patterns: list[int]):
    x = np.array(patterns, np.uint32).view(np.float32)
    special = x[~np.isfinite(x)]
    with np.errstate(invalid="ignore"):
        expected = np.float32(sum(special.tolist())) if special.size else nearest_float32(total(x))
    assert bits(reduce_add(x)) == bits(expected)


H = 2.0**-24
CASES: dict[str, list[float]] = {
    "tie to even below": [1.0, H],
    "tie to even above": [1 + 2.0**-23, H],
    "a hair above a tie": [1.0, H, 2.0**-100],
    "a hair below a tie": [1.0, H, -(2.0**-100)],
    "cancellation": [1e30, 1.0, -1e30],
    "exact zero": [1.5, 2.5, -4.0],
    "cancellation down to a hair": [1e30, 1e-30, -1e30],
    "subnormal": [2.0**-149, 2.0**-149, -(2.0**-148)],
    "overflow on the way only": [3e38, 3e38, -3e38],
    "overflow": [3e38, 3e38],
    "just below overflow": [2.0**127, 2.0**127, -(2.0**103), -1.0],
    "overflow by a tie": [2.0**127, 2.0**127, -(2.0**103)],
    "many small ones under a large one": [2.0**24] + [1.0] * 300,
}


@pytest.mark.parametrize("rounding", ["rne", "rz"])
@pytest.mark.parametrize("case", list(CASES))
def test_adversarial_sum(case: str, rounding: str):
    x = np.array(CASES[case], np.float32)
    for sign in (1, -1):
        expected = nearest_float32(total(sign * x), rounding)
        assert bits(exact_reduce_add(sign * x, rounding)) == bits(expected)
        # A long row of zeros changes the certificate and not the sum.
        padded = np.concatenate([sign * x, np.zeros(500, np.float32)])
        assert bits(exact_reduce_add(padded, rounding)) == bits(expected)


@pytest.mark.parametrize("fraction", [1 - 2.0**-24, 1 - 2.0**-8], ids=["24 bits", "8 bits"])
@pytest.mark.parametrize("depth", range(10, 50))
def test_exponents_prove_53_bits_and_not_one_more(fraction: float, depth: int):
    """Seven values next to 1 and one next to 2^-depth: 3 bits for the carries, depth, and the significand."""
    row = np.full((1, 8), fraction, np.float32)
    row[0, 5] = np.ldexp(fraction, -depth)
    significand = Fraction(fraction).denominator.bit_length() - 1
    assert total(row[0]) * Fraction(2) ** (depth + significand) > 2 ** (2 + depth + significand)
    assert _beyond_53_bits(row)[0] == (3 + depth + significand > 53)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_sums_called_exact_are_exact_in_any_order(values: list[float]):
    row = np.array([values], np.float32)
    if not _beyond_53_bits(row)[0]:
        sums = {Fraction(float(np.cumsum(order, dtype=np.float64)[-1])) for order in (row[0], row[0][::-1])}
        assert sums == {total(values)}


def test_float64_sum_rounded_has_wrong_bits_here():
    """Twin: the hairs of the cases above are lost by a float64 sum."""
    for case in ("a hair above a tie", "cancellation down to a hair"):
        x = np.array(CASES[case], np.float32)
        assert bits(x.sum(dtype=np.float64).astype(np.float32)) != bits(nearest_float32(total(x)))


@pytest.mark.parametrize("spread", [0, 10, 60])
def test_exact_sum_of_rows(spread: int):
    rng = np.random.default_rng(spread)
    x = (rng.standard_normal((20, 300)) * 2.0 ** rng.integers(-spread, spread + 1, (20, 300))).astype(np.float32)
    rounded = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    for rows in (x, rounded):
        assert bits(reduce_add(rows)) == bits([nearest_float32(total(row)) for row in rows])


def test_exact_sum_does_not_depend_on_the_order_of_values():
    rng = np.random.default_rng(9)
    x = (rng.standard_normal((5, 700)) * 10.0 ** rng.integers(-5, 6, (5, 700))).astype(np.float32)
    expected = bits(reduce_add(x))
    for _ in range(5):
        assert bits(reduce_add(x[:, rng.permutation(700)])) == expected
    assert bits(reduce_add(x, CHAIN)) != expected


@pytest.mark.parametrize("order", ORDERS)
def test_zero_and_empty_sums_are_plus_zero(order: str):
    profile = DEFAULT.replace(reduce_order=order)
    assert bits(reduce_add(np.full((2, 5), -0.0, np.float32), profile)) == [0, 0]
    assert bits(reduce_add(np.zeros((2, 0), np.float32), profile)) == [0, 0]
    assert bits(reduce_add(np.zeros((0, 4), np.float32), profile)) == []


# --- orders -----------------------------------------------------------------------------------------------


def survivors_of(order: str, count: int, i: int, j: int) -> int:
    """Units left when value i is +M, value j is -M and M swallows units, from the description of the order."""
    values: list[Any] = [1] * count
    values[i], values[j] = "+", "-"

    def meet(x: Any, y: Any) -> Any:
        if {x, y} == {"+", "-"}:
            return 0
        return next((v for v in (x, y) if isinstance(v, str)), None) or x + y

    if order == "tree":
        while len(values) > 1:
            paired = [meet(values[k], values[k + 1]) for k in range(0, len(values) - 1, 2)]
            values = paired + values[2 * len(paired) :]
        return int(values[0])
    lanes = {"chain": 1, "lanes4": 4, "lanes8": 8}[order]
    registers = [fold(meet, values[lane::lanes], 0) for lane in range(lanes)]
    return int(fold(meet, registers))


@pytest.mark.parametrize("count", [8, 13, 64])
@pytest.mark.parametrize("order", [o for o in ORDERS if o != "exact"])
def test_recovered_tree_is_the_documented_one(order: str, count: int):
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    x = np.ones((len(pairs), count), np.float32)
    for n, (i, j) in enumerate(pairs):
        x[n, i], x[n, j] = LARGE, -LARGE
    expected = [survivors_of(order, count, i, j) for i, j in pairs]
    assert reduce_add(x, DEFAULT.replace(reduce_order=order)).tolist() == expected
    assert (reduce_add(x) == count - 2).all()


def test_trees_of_all_orders_differ():
    pairs = [(i, j) for i in range(16) for j in range(i)]
    named = [order for order in ORDERS if order != "exact"]
    assert len({tuple(survivors_of(order, 16, *pair) for pair in pairs) for order in named}) == len(named)


def test_several_axes_are_reduced_row_major():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    x[0, 1, 2], x[1, 2, 3] = LARGE, -LARGE
    flat = x.reshape(2, 12)
    assert bits(reduce_add(x, CHAIN, axis=(1, 2))) == bits(reduce_add(flat, CHAIN))
    assert bits(reduce_add(x, CHAIN, axis=(-1, -2))) == bits(reduce_add(flat, CHAIN))
    assert bits(reduce_add(x, CHAIN, axis=0)) == bits(reduce_add(np.ascontiguousarray(x.transpose(1, 2, 0)), CHAIN))


def test_product_is_a_chain_and_its_lanes():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 30)).astype(np.float32)
    chain = [fold(lambda p, q: np.float32(p * q), row, np.float32(1)) for row in x]
    assert bits(reduce_multiply(x)) == bits(reduce_multiply(x, CHAIN)) == bits(chain)
    lanes = [[fold(lambda p, q: np.float32(p * q), row[i::4]) for i in range(4)] for row in x]
    expected = [np.float32(np.float32(np.float32(r[0] * r[1]) * r[2]) * r[3]) for r in lanes]
    assert bits(reduce_multiply(x, DEFAULT.replace(reduce_order="lanes4"))) == bits(expected)


def test_subtract_takes_all_others_from_the_first():
    x = np.array([[10.0, 1.0, 2.0], [2.0**24, 1.0, 1.0]], np.float32)
    assert reduce_subtract(x).tolist() == [7.0, 2.0**24 - 2]
    assert reduce_subtract(x, CHAIN).tolist() == [7.0, 2.0**24 - 2]
    up = np.array([[-(2.0**24), 1.0, 1.0]], np.float32)
    assert reduce_subtract(up).tolist() == [-(2.0**24) - 2]
    assert reduce_subtract(up, CHAIN).tolist() == [-(2.0**24)]


def test_reduction_refuses_other_dtypes():
    with pytest.raises(ValueError, match="bfloat16"):
        reduce_add(np.ones(3, ml_dtypes.bfloat16))


def test_subnormals_are_flushed_when_asked():
    x = np.array([[2.0**-130, 2.0**-130, 1.0, -1.0]], np.float32)
    assert reduce_add(x)[0] == 2.0**-129
    for rule in ("daz", "ftz", "daz_ftz"):
        assert reduce_add(x, DEFAULT.replace(subnormals_alu=rule))[0] == 0.0
    small = np.array([[-(2.0**-130)]], np.float32)
    assert bits(reduce_max(small, DEFAULT.replace(subnormals_alu="daz"))) == [0x80000000]


# --- registers (V3, S4) -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "lanes"), [("chain", 1), ("lanes4", 4), ("lanes8", 8)])
def test_probe_v3_number_of_partial_sums(order: str, lanes: int):
    """load_reduce with 2^24 over n ones: each lane but the first can count."""
    register, ones = np.array([2.0**24], np.float32), np.ones((1, 64), np.float32)
    expected = 2.0**24 + 64 * (lanes - 1) // lanes
    for engine, name in (
        ("vector", "accum_order"),
        ("scalar", "act_reduce_order"),
        ("gpsimd", "partition_reduce_order"),
    ):
        profile = DEFAULT.replace(**{name: order})
        assert accumulate(register, ones, "add", profile, engine=engine)[0] == expected
        assert accumulate(register, ones, "add", DEFAULT, engine=engine)[0] == 2.0**24 + 64


def test_register_joins_the_exact_sum_with_one_rounding():
    register = np.array([1.0], np.float32)
    x = np.array([[2.0**-24, 2.0**-60]], np.float32)
    assert accumulate(register, x)[0] == 1 + 2.0**-23
    assert accumulate(register, x, "add", CHAIN)[0] == 1.0


@pytest.mark.parametrize("op", list(REDUCTIONS))
def test_register_comes_first(op: str):
    if op.startswith("logical") or op == "add":
        values = np.array([[0.0, 3.0]], np.float32)
    else:
        values = np.array([[2.0, -5.0]], np.float32)
    register = np.array([4.0], np.float32)
    both = np.concatenate([register[:, None], values], axis=-1)
    assert bits(accumulate(register, values, op)) == bits(REDUCTIONS[op](both))


def test_registers_of_many_lanes_run_on():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((128, 3, 40)).astype(np.float32)
    register = np.zeros(128, np.float32)
    for step in range(3):
        register = accumulate(register, x[:, step], "add", CHAIN)
    assert bits(register) == bits(reduce_add(x, CHAIN, axis=(1, 2)))


# --- maxima and minima (V5) -------------------------------------------------------------------------------

SIGNED = [np.nan, 1.0, -1.0, 0.0, -0.0, np.inf, -np.inf]
V5 = [
    DEFAULT.replace(maxmin_nan=nan, maxmin_zero=zero)
    for nan, zero in product(PARTS["maxmin_nan"].candidates, PARTS["maxmin_zero"].candidates)
]


@pytest.mark.parametrize("profile", V5, ids=lambda p: f"{p.maxmin_nan}-{p.maxmin_zero}")
@pytest.mark.parametrize("op", ["maximum", "minimum", "abs_max", "abs_min"])
def test_reduction_is_the_chain_of_the_two_operand_rule(op: str, profile: NumericsProfile):
    rows = np.array(list(product(SIGNED, repeat=3)), np.float32)
    binary: Callable[..., Any] = BINARY[op]
    expected = binary(binary(rows[:, 0], rows[:, 1], profile), rows[:, 2], profile)
    assert bits(REDUCTIONS[op](rows, profile)) == bits(expected)


V5_VECTORS = [
    ("propagate", "first", [1.0, np.nan, 2.0], np.nan),
    ("number", "first", [1.0, np.nan, 2.0], 2.0),
    ("number", "first", [np.nan, np.nan], np.nan),
    ("second", "first", [3.0, np.nan, 2.0], 2.0),
    ("second", "first", [3.0, np.nan], np.nan),
    ("propagate", "first", [-1.0, -0.0, 0.0], -0.0),
    ("propagate", "second", [-1.0, -0.0, 0.0, -0.0], -0.0),
    ("propagate", "ieee", [-0.0, 0.0, -0.0], 0.0),
]


@pytest.mark.parametrize(("nan", "zero", "row", "expected"), V5_VECTORS)
def test_maximum_by_hand(nan: str, zero: str, row: list[float], expected: float):
    profile = DEFAULT.replace(maxmin_nan=nan, maxmin_zero=zero)
    assert bits(reduce_max(np.array([row], np.float32), profile)) == bits(np.float32(expected))


def test_long_rows_with_zeros_of_both_signs_do_not_depend_on_the_machine():
    rng = np.random.default_rng(3)
    x = np.where(rng.random((50, 1000)) < 0.5, 0.0, -0.0).astype(np.float32)
    assert bits(reduce_max(x)) == bits(x[:, 0])
    assert bits(reduce_max(x, DEFAULT.replace(maxmin_zero="second"))) == bits(x[:, -1])


@pytest.mark.parametrize(
    ("op", "empty"),
    [("maximum", -np.inf), ("minimum", np.inf), ("abs_max", 0.0), ("abs_min", np.inf), ("multiply", 1.0)],
)
def test_empty_rows_give_the_identity(op: str, empty: float):
    assert bits(REDUCTIONS[op](np.zeros((2, 0), np.float32))) == bits([empty, empty])


def test_logical_reductions():
    x = np.array([[0.0, -0.0], [0.0, np.nan], [2.0, -1.0]], np.float32)
    assert REDUCTIONS["logical_and"](x).tolist() == [0.0, 0.0, 1.0]
    assert REDUCTIONS["logical_or"](x).tolist() == [0.0, 1.0, 1.0]
    assert REDUCTIONS["logical_xor"](x).tolist() == [0.0, 1.0, 0.0]
