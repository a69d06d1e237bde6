"""Powers are correctly rounded, exact midpoints included, with the special values of C99."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.audit_elementary import MpmathWitness, audit
from reference.numerics.certify import nearest_float32
from reference.numerics.power import attempt_power, dyadic_power, is_exact_power, power

Array = NDArray[Any]
I, N = np.inf, np.nan  # noqa: E741  (I as in infinity)


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def assert_bits(got: Array, expected: Any) -> None:
    wanted = np.asarray(expected, np.float32)
    same = (got.view(np.uint32) == wanted.view(np.uint32)) | (np.isnan(got) & np.isnan(wanted))
    assert same.all(), f"got {got[~same][:5]}, expected {wanted[~same][:5]}"


#: (x, y, x^y)
SPECIAL = [
    (N, 0, 1), (0, 0, 1), (I, -0.0, 1), (1, N, 1), (1, I, 1), (-1, I, 1), (-1, -I, 1), (N, 1, N), (2, N, N),
    (0.0, 3, 0.0), (-0.0, 3, -0.0), (-0.0, 2, 0.0), (0.0, 0.5, 0.0), (-0.0, 0.5, 0.0),
    (0.0, -3, I), (-0.0, -3, -I), (-0.0, -2, I), (0.0, -I, I), (0.0, I, 0.0),
    (2, I, I), (0.5, I, 0), (2, -I, 0), (0.5, -I, I), (I, 2, I), (I, -2, 0), (I, 0.5, I),
    (-I, 3, -I), (-I, 2, I), (-I, -3, -0.0), (-I, -2, 0), (-I, 0.5, I),
    (-8, 1 / 3, N), (-2, 0.5, N), (-2, 3, -8), (-2, -3, -0.125), (-2, 2, 4),
    (2, 128, I), (2, 127, 2.0**127), (2, -149, 2.0**-149), (2, -150, 0), (-2, -151, -0.0), (-2, 129, -I),
    (10, 39, I), (10, -46, 0), (-10, -47, -0.0),
]  # fmt: skip


@pytest.mark.parametrize(("x", "y", "expected"), SPECIAL, ids=str)
def test_special_values(x: float, y: float, expected: float) -> None:
    assert_bits(power(f32(x), f32(y)), [expected])


def test_whole_powers_against_fractions() -> None:
    """Few bits and small exponents: every result is a fraction, and many are midpoints of two float32."""
    bases = [*range(-40, 41), *range(4000, 4200), *(k / 64 for k in range(65, 120)), 5793, 46341]
    pairs = [(float(x), n) for x in bases for n in range(1, 9)]
    x, y = f32(*(x for x, _ in pairs)), f32(*(n for _, n in pairs))
    exact = [Fraction(base) ** n for base, n in pairs]
    expected = [nearest_float32(e.numerator, 1 - e.denominator.bit_length()) for e in exact]
    assert_bits(power(x, y), expected)
    ties = [e for e in exact if e and _significant_bits(e) == 25]
    assert len(ties) > 50, "hardly a midpoint in the test"


def _significant_bits(value: Fraction) -> int:
    odd = abs(value.numerator)
    return (odd // (odd & -odd)).bit_length()


def test_midpoints_of_roots_and_fractions_of_powers() -> None:
    """4097^3 has 37 bits, so its square to the power 1.5 has too; (4097^2)^0.5 is representable."""
    assert_bits(power(f32(4097.0**2), f32(0.5)), [np.sqrt(f32(4097.0**2))[0]])
    odd = np.arange(4097.0, 5000.0, 2.0)
    squares = (odd.astype(np.float64) ** 2).astype(np.float32)
    assert_bits(power(odd.astype(np.float32), f32(2)), squares)
    assert attempt_power(odd.astype(np.float32), np.full(len(odd), 2, np.float32))[1].all(), "no ties in the test"


def test_reciprocals_and_roots_are_those_of_single_operations() -> None:
    x = np.abs(np.random.default_rng(1).standard_normal(20_000)).astype(np.float32)
    assert_bits(power(x, f32(0.5)), np.sqrt(x))
    assert_bits(power(x, f32(-1)), np.float32(1) / x)
    assert_bits(power(x, f32(2)), x * x)
    assert_bits(power(x, f32(1)), x)


def test_random_powers_are_the_nearest_float32() -> None:
    rng = np.random.default_rng(2)
    x = np.abs(rng.standard_normal(3000) * 2.0 ** rng.integers(-20, 20, 3000)).astype(np.float32)
    y = (rng.standard_normal(3000) * 3).astype(np.float32)
    y[::5] = np.rint(y[::5])
    keep = (y != 0) & (x != 1)
    row = audit("power", (x[keep], y[keep]), MpmathWitness(), power, 0)
    assert row.wrong == []
    assert row.undecided == 0


def test_shapes_broadcast() -> None:
    assert power(np.ones((3, 1)), np.ones(4)).shape == (3, 4)
    assert power(2.0, 3.0) == 8
    assert power(np.zeros((0, 2)), 1.0).shape == (0, 2)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (3.0, 2.0, (9, 0)),
        (-3.0, 3.0, (-27, 0)),
        (6.0, 2.0, (9, 2)),
        (0.25, -1.5, (1, 3)),
        (2.25, 0.5, (3, -1)),
        (16.0, 0.75, (1, 3)),
        (-1.0, 1e30, (1, 0)),
        (2.0, 0.5, None),
        (3.0, -1.0, None),
        (3.0, 41.0, None),
        (8.0, 0.5, None),
    ],
)
def test_dyadic_powers_are_recognised(x: float, y: float, expected: tuple[int, int] | None) -> None:
    got = dyadic_power(x, y)
    assert (got is None) == (expected is None)
    if got is not None and expected is not None:
        assert Fraction(got[0]) * Fraction(2) ** got[1] == Fraction(expected[0]) * Fraction(2) ** expected[1]


def test_which_powers_are_exact() -> None:
    x = f32(3, 4, 2, 0.25, 4097, 3, 0, N, 2, 1e-30, 1)
    y = f32(2, 0.5, 0.5, -1.5, 2, -1, 2, 2, 1000, 3, 0.3)
    expected = [True, True, False, True, False, False, True, True, True, True, True]
    assert is_exact_power(x, y, power(x, y)).tolist() == expected
