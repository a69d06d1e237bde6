"""Elementary functions are correctly rounded, exact where they must be, and seldom slow.

The witness is mpmath in 400 bits with formulas of its own, shared with `conformance.audit_elementary`, which
checks millions of arguments in the same way; a failure here is reproduced there with `--functions <name>`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.audit_elementary import (
    FORMULAS,
    MpmathWitness,
    arguments_for,
    audit,
    audit_named,
    bfloat16_codes,
    random_inputs,
)
from reference.numerics import elementary
from reference.numerics.elementary import FUNCTIONS, activate, prelu, sin_engine, with_accuracy
from reference.numerics.profile import DEFAULT

Array = NDArray[Any]
I = np.inf  # noqa: E741  (I as in infinity)
CERTIFIED = [name for name, row in FUNCTIONS.items() if row.bound is not None]
#: Functions that go on changing however large the argument.
UNBOUNDED = {"log", "sin", "cos", "tan", "arctan", "rsqrt"}
WITNESS = MpmathWitness()


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def assert_bits(got: Array, expected: Any, context: str = "") -> None:
    wanted = np.asarray(expected, np.float32)
    same = (got.view(np.uint32) == wanted.view(np.uint32)) | (np.isnan(got) & np.isnan(wanted))
    assert got.dtype == np.float32
    assert same.all(), f"{context}: got {got[~same][:5]}, expected {wanted[~same][:5]}"


def sample() -> Array:
    """2,048 bfloat16 codes spread over all, 2,048 random float32, and what surrounds powers of two."""
    codes = np.random.default_rng(0).permutation(bfloat16_codes())[:2048]
    powers = (2.0 ** np.arange(-149, 10)).astype(np.float32)
    around = [np.nextafter(powers, f32(0)), powers, np.nextafter(powers, f32(I))]
    edges = np.concatenate(around)
    return np.concatenate([codes, random_inputs(2048, 1), edges, -edges])


# --- correct rounding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMULAS)
def test_results_are_the_nearest_float32(name: str) -> None:
    row = audit_named(name, sample(), WITNESS)
    assert row.inputs > 2000
    assert not row.wrong, f"{len(row.wrong)} of {row.inputs} wrong, first {row.wrong[:3]}"
    assert not row.undecided


@pytest.mark.parametrize("name", ["exp", "gelu", "square"])
def test_the_audit_catches_a_result_one_unit_off(name: str) -> None:
    function = FUNCTIONS[name]
    x = arguments_for(name, random_inputs(100, 3))
    y = function(x)
    x = x[(np.abs(y) > 2.0**-149) & (np.abs(y) < 2.0**127)]
    assert len(x) > 50
    for side in (-I, I):

        def off_by_one(values: Array, side: float = side) -> Array:
            return np.nextafter(function(values), np.float32(side))

        assert len(audit(name, (x,), WITNESS, off_by_one, 0).wrong) == len(x)


def test_the_audit_catches_a_zero_of_the_wrong_sign() -> None:
    x = f32(-200, -300)
    assert not audit("gelu", (x,), WITNESS, FUNCTIONS["gelu"], 0).wrong
    assert len(audit("gelu", (x,), WITNESS, lambda values: np.abs(FUNCTIONS["gelu"](values)), 0).wrong) == 2


@pytest.mark.parametrize("name", CERTIFIED)
def test_the_slow_path_gives_the_same_bits(name: str) -> None:
    """With a bound a million times too wide, most results are decided by mpmath instead."""
    function = FUNCTIONS[name]
    x = arguments_for(name, random_inputs(400, 4))
    x = x[(np.abs(x) > 2.0**-14) & (np.abs(x) < 80)]
    doubting = replace(function, bound=2.0**-24, tie=None)
    assert doubting.attempt(x)[1].mean() > 0.3
    assert_bits(doubting(x), function(x), name)


def test_a_bound_that_is_too_small_gives_wrong_bits() -> None:
    """Why bounds matter: an estimate that is off by 2^-30 needs a bound of 2^-29; 2^-46 is no substitute."""
    x = random_inputs(400_000, 5)
    x = x[(np.abs(x) > 2.0**-10) & (np.abs(x) < 80)]
    exp = FUNCTIONS["exp"]
    shifted = replace(exp, estimate=lambda values: np.exp(values) * (1 + 2.0**-30))
    assert (shifted(x[:4000]) != exp(x[:4000])).any()
    assert_bits(replace(shifted, bound=2.0**-29)(x[:4000]), exp(x[:4000]))


# --- exact values and limits ------------------------------------------------------------------------------

#: name -> values at +0, -0, +inf, -inf. NaN gives NaN everywhere.
SPECIAL: dict[str, tuple[float, float, float, float]] = {
    "exp": (1, 1, I, 0),
    "log": (-I, -I, I, np.nan),
    "tanh": (0.0, -0.0, 1, -1),
    "sigmoid": (0.5, 0.5, 1, 0),
    "silu": (0.0, -0.0, I, -0.0),
    "silu_dx": (0.5, 0.5, 1, -0.0),
    "gelu": (0.0, -0.0, I, -0.0),
    "gelu_dx": (0.5, 0.5, 1, -0.0),
    "gelu_apprx_tanh": (0.0, -0.0, I, -0.0),
    "gelu_apprx_sigmoid": (0.0, -0.0, I, -0.0),
    "gelu_apprx_sigmoid_dx": (0.5, 0.5, 1, -0.0),
    "erf": (0.0, -0.0, 1, -1),
    "erf_dx": (1.12837916709551257, 1.12837916709551257, 0, 0),
    "softplus": (0.693147180559945309, 0.693147180559945309, I, 0),
    "mish": (0.0, -0.0, I, -0.0),
    "sin": (0.0, -0.0, np.nan, np.nan),
    "cos": (1, 1, np.nan, np.nan),
    "tan": (0.0, -0.0, np.nan, np.nan),
    "arctan": (0.0, -0.0, 1.57079632679489662, -1.57079632679489662),
    "sqrt": (0.0, -0.0, I, np.nan),
    "rsqrt": (I, -I, 0, np.nan),
    "reciprocal": (I, -I, 0, -0.0),
    "square": (0, 0, I, I),
    "sign": (0.0, -0.0, 1, -1),
    "abs": (0, 0, I, I),
    "relu": (0, 0, I, 0),
    "copy": (0.0, -0.0, I, -I),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_at_zeros_infinities_and_nan(name: str) -> None:
    x = f32(0.0, -0.0, I, -I)
    assert_bits(FUNCTIONS[name](x), SPECIAL[name], name)
    nans = np.uint32([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF]).view(np.float32)
    assert np.isnan(FUNCTIONS[name](nans)).all()


@pytest.mark.parametrize("name", [name for name in CERTIFIED if name not in UNBOUNDED])
def test_far_out_there_are_only_limits(name: str) -> None:
    """From |x| = 1000 on the value is that at infinity, or x itself."""
    sizes = np.abs(random_inputs(4000, 6))
    sizes = np.concatenate([f32(1000, np.finfo(np.float32).max), sizes[sizes >= 1000]])
    _, _, up, down = SPECIAL[name]
    expected = np.full_like(sizes, up) if name == "exp" or up != I else sizes
    assert_bits(FUNCTIONS[name](sizes), expected, name)
    assert_bits(FUNCTIONS[name](-sizes), np.full_like(sizes, down), name)


def test_exp_overflows_and_underflows_where_ieee_says() -> None:
    x = f32(88.72283, 88.72284, -87.33655, -103.2789, -103.97207, -103.9721, -104)
    got = FUNCTIONS["exp"](x)
    assert np.isfinite(got[0])
    assert got[1] == I
    assert 0 < got[3] < 2.0**-126, "subnormal"
    assert (got[4], got[5], got[6]) == (2.0**-149, 0, 0)
    assert audit("exp", (x,), WITNESS, FUNCTIONS["exp"], 0).wrong == []


def test_exactly_representable_values_are_hit_without_the_slow_path() -> None:
    powers = 2.0 ** np.arange(-120, 120, 2)
    cases: list[tuple[str, Any, Any]] = [
        ("exp", 0.0, 1.0),
        ("log", 1.0, 0.0),
        ("cos", 0.0, 1.0),
        ("sigmoid", 0.0, 0.5),
        ("rsqrt", powers, powers**-0.5),
        ("sqrt", np.arange(4096.0) ** 2, np.arange(4096.0)),
        ("square", np.arange(4096.0), np.arange(4096.0) ** 2),
        ("reciprocal", powers, 1 / powers),
        ("sign", np.arange(-3.0, 4), [-1, -1, -1, 0, 1, 1, 1]),
        ("relu", np.arange(-3.0, 4), [0, 0, 0, 0, 1, 2, 3]),
    ]
    for name, x, y in cases:
        values = np.asarray(x, np.float32).reshape(-1)
        assert_bits(FUNCTIONS[name](values), np.asarray(y, np.float32).reshape(-1), name)
        assert not FUNCTIONS[name].attempt(values)[1].any(), name


# --- ties, and the share of slow arguments ----------------------------------------------------------------

#: Stretches where a function is a midpoint and a hair: odd subnormals, and odd multiples of 2^-23 near 1/2.
SUBNORMAL = np.arange(1, 400, dtype=np.uint32).view(np.float32)
LATTICE = (np.arange(1, 512) * 2.0**-24).astype(np.float32)
TIES = [
    *((name, SUBNORMAL) for name in ("silu", "gelu", "gelu_apprx_tanh", "gelu_apprx_sigmoid", "mish")),
    *((name, LATTICE[LATTICE < 2.0**-16]) for name in ("sigmoid", "silu_dx")),
]


@pytest.mark.parametrize(("name", "x"), TIES, ids=[name for name, _ in TIES])
def test_midpoints_and_a_hair_are_answered_without_the_slow_path(name: str, x: Array) -> None:
    both = np.concatenate([x, -x])
    assert not FUNCTIONS[name].attempt(both)[1].any()
    assert audit(name, (both,), WITNESS, FUNCTIONS[name], 0).wrong == []


@pytest.mark.parametrize("name", ["silu", "gelu", "sigmoid", "silu_dx"])
def test_those_ties_would_go_the_slow_way_otherwise(name: str) -> None:
    x = dict(TIES)[name]
    assert replace(FUNCTIONS[name], tie=None).attempt(x)[1].mean() > 0.2


@pytest.mark.parametrize("name", CERTIFIED)
def test_few_arguments_take_the_slow_path(name: str) -> None:
    rng = np.random.default_rng(8)
    x = np.concatenate([rng.standard_normal(200_000).astype(np.float32) * 4, random_inputs(50_000, 9)])
    assert FUNCTIONS[name].attempt(x)[1].mean() <= 4e-5
    codes = FUNCTIONS[name].attempt(bfloat16_codes())[1]
    assert codes.sum() <= 64


# --- the estimates on this machine ------------------------------------------------------------------------


@pytest.mark.parametrize("name", CERTIFIED)
def test_estimates_of_this_machine_keep_well_within_their_bounds(name: str) -> None:
    """The bounds allow 32 units for a call of the library. A machine that comes near needs looking at."""
    function = FUNCTIONS[name]
    x = arguments_for(name, random_inputs(1500, 10))
    with np.errstate(all="ignore"):
        estimate = function.estimate(x.astype(np.float64))
    values, scales = estimate if isinstance(estimate, tuple) else (estimate, np.abs(estimate))
    for point, value, scale in zip(x.tolist(), values.tolist(), scales.tolist(), strict=True):
        if scale > 2.0**-160 and abs(value) < 2.0**130:
            real = FORMULAS[name](WITNESS.m, WITNESS.m.mpf(point))
            assert abs(real - value) <= function.bound * scale / 2, (point, value)


def near_multiples_of_half_pi(largest: float) -> Array:
    """float32 numbers below `largest` that lie extremely close to a multiple of pi/2."""
    x = (np.arange(1, largest * 2 / np.pi) * (np.pi / 2)).astype(np.float32)
    with np.errstate(all="ignore"):
        closeness = np.minimum(np.abs(np.sin(x.astype(np.float64))), np.abs(np.cos(x.astype(np.float64))))
    hardest = x[np.argsort(closeness)[:200]]
    with mpmath.workprec(200):
        assert all(abs(mpmath.sin(2 * mpmath.mpf(float(h)))) < 2.0**-16 for h in hardest), "not that close"
    return hardest


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
@pytest.mark.parametrize("company", [1.0, 2.0**19 + 1, 3e38])
def test_reduction_is_exact_next_to_multiples_of_half_pi(name: str, company: float) -> None:
    """The largest argument of a block decides which of the two reductions all of them take."""
    x = near_multiples_of_half_pi(2.0**19)
    # 16367173 * 2^72, the float32 nearest of all to a multiple of pi/2, takes part in the general reduction.
    x = np.append(x, f32(company, 16367173 * 2.0**72) if company > 2.0**20 else f32(company))
    estimate = FUNCTIONS[name].estimate(np.concatenate([x, -x]).astype(np.float64))
    for point, value in zip(np.concatenate([x, -x]).tolist(), estimate.tolist(), strict=True):
        real = FORMULAS[name](WITNESS.m, WITNESS.m.mpf(point))
        assert abs(real - value) <= abs(real) * 2.0**-48, point


SCRIPT = """
import hashlib, numpy as np
from conformance.audit_elementary import random_inputs
from reference.numerics.elementary import FUNCTIONS
from reference.numerics.power import power
x = random_inputs(20000, 11)
y = {name: FUNCTIONS[name](x) for name in FUNCTIONS}
y['power'] = power(np.abs(x), x[::-1])
digest = hashlib.sha256()
for name in sorted(y):
    digest.update(np.where(np.isnan(y[name]), np.float32(7), y[name]).tobytes())
print(digest.hexdigest())
"""


def test_bits_do_not_depend_on_the_vector_code_numpy_chooses() -> None:
    features = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    if not features:
        pytest.skip("this NumPy has no code paths to switch off")
    runs = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT],
            env={**os.environ, **extra},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for extra in ({}, {"NPY_DISABLE_CPU_FEATURES": " ".join(features)})
    ]
    assert len(runs[0].strip()) == hashlib.sha256().digest_size * 2
    assert runs[0] == runs[1]


# --- arrays -----------------------------------------------------------------------------------------------


def test_shape_layout_and_type_of_the_argument_do_not_matter() -> None:
    exp = FUNCTIONS["exp"]
    x = np.random.default_rng(12).standard_normal((130, 257)).astype(np.float32)
    whole = exp(x)
    assert whole.shape == x.shape
    assert_bits(exp(x.T), whole.T)
    assert_bits(exp(x[::3, 1::2]), whole[::3, 1::2])
    assert_bits(exp(x[5, 7]), whole[5, 7])
    assert exp(np.zeros((3, 0, 2), np.float32)).shape == (3, 0, 2)
    assert exp(0.0) == 1
    half = x.astype(np.float16)
    assert_bits(exp(half), exp(half.astype(np.float32)))


def test_arguments_are_not_written_and_results_are_new() -> None:
    x = f32(-1, 0, 2)
    x.setflags(write=False)
    for name, function in FUNCTIONS.items():
        assert not np.shares_memory(function(x), x), name


# --- the scalar engine ------------------------------------------------------------------------------------


def test_sine_of_the_engine_continues_a_cubic_beyond_pi() -> None:
    """The documents print 27.65 for sin(9.0) (facts 6.3)."""
    assert round(float(sin_engine(f32(9.0))[0]), 2) == 27.65
    below, above = np.nextafter(f32(np.pi), f32(0)), f32(np.pi)
    assert float(above[0]) > np.pi > float(below[0])
    assert_bits(sin_engine(below), FUNCTIONS["sin"](below))
    # A few steps beyond pi cubic and sine agree: fused RoPE lands there.
    assert_bits(sin_engine(above), FUNCTIONS["sin"](above))
    x = f32(3.2, 5, 9, 1e10, I)
    assert_bits(sin_engine(-x), -sin_engine(x))
    assert_bits(sin_engine(f32(I, -I, np.nan, 0.0, -0.0, 1e30)), [I, -I, np.nan, 0.0, -0.0, I])


def test_activate_plays_the_candidates_of_the_profile() -> None:
    x = f32(9.0, 1.0)
    assert_bits(activate("sin", x), sin_engine(x))
    assert_bits(activate("sin", x, DEFAULT.replace(sin_outside="math")), FUNCTIONS["sin"](x))
    tiny = f32(-100.0, -87.0, 0.0, -I)
    flushed = activate("exp", tiny, DEFAULT.replace(exp_underflow="flush"))
    assert_bits(flushed, [0, FUNCTIONS["exp"](tiny)[1], 1, 0])
    assert_bits(activate("exp", tiny), FUNCTIONS["exp"](tiny))
    up = activate("exp", f32(0, 1, -I, -1000, I), DEFAULT.replace(act_table="ulp_up"))
    e = np.nextafter(FUNCTIONS["exp"](f32(1))[0], np.float32(I))
    assert_bits(up, [1, e, 0, 0, I])
    small = f32(2.0**-130, -(2.0**-126))
    assert_bits(activate("copy", small, DEFAULT.replace(subnormals_alu="daz")), [0, -(2.0**-126)])
    assert_bits(activate("silu", small, DEFAULT.replace(subnormals_alu="ftz")), [0, -0.0])
    assert_bits(activate("silu", small), [2.0**-131, -(2.0**-127)])
    with pytest.raises(ValueError, match="no function 'swish'; known are exp, log"):
        activate("swish", x)


def test_accuracy_candidates_move_inexact_values_only() -> None:
    y, exact = f32(1, 2, 0), np.array([True, False, False])
    assert_bits(with_accuracy(y, exact, "correct"), y)
    assert_bits(with_accuracy(y, exact, "ulp_up"), [1, 2 + 2.0**-22, 2.0**-149])
    assert_bits(with_accuracy(y, exact, "ulp_down"), [1, 2 - 2.0**-23, -(2.0**-149)])


#: name -> arguments with exact values, and arguments without.
EXACTNESS: list[tuple[str, list[float], list[float]]] = [
    ("exp", [0, -I, -2000, 2000], [1, -1, 1e-30]),
    ("log", [1, 0, I, -1], [2, 0.5]),
    ("sqrt", [4, 2.25, 0], [2, 3]),
    ("rsqrt", [4, 0.25, 16, 0], [2, 8, 3]),
    ("reciprocal", [4, -0.5, 0, I], [3, 1.5]),
    ("square", [3, 4095], [4097, 1 + 2.0**-23]),
    ("cos", [0, -0.0], [1, 1e-10]),
    ("sigmoid", [0, I, -I], [1, 1e-10]),
    ("gelu", [0, -I], [1, -1]),
    ("abs", [1, -3], []),
    ("relu", [1, -3], []),
]


@pytest.mark.parametrize(("name", "exact", "inexact"), EXACTNESS, ids=[row[0] for row in EXACTNESS])
def test_which_values_are_exact(name: str, exact: list[float], inexact: list[float]) -> None:
    function = FUNCTIONS[name]
    for values, expected in ((exact, True), (inexact, False)):
        x = np.array(values, np.float32)
        assert (function.is_exact(x, function(x)) == expected).all()


def test_prelu() -> None:
    x = f32(2, -2, 0.0, -0.0, np.nan, I, -I, -3)
    assert_bits(prelu(x, 0.1), [2, -np.float32(0.2), 0.0, -0.0, np.nan, I, -I, np.float32(-3) * np.float32(0.1)])
    assert prelu(np.ones((2, 3)), np.ones((2, 1))).shape == (2, 3)


def test_functions_carry_the_documented_ranges() -> None:
    assert FUNCTIONS["log"].valid == (2.0**-64, 2.0**64)
    assert FUNCTIONS["sqrt"].valid == (2.0**-116, 2.0**118)
    assert FUNCTIONS["rsqrt"].valid == (2.0**-87, 2.0**97)
    assert FUNCTIONS["reciprocal"].valid == (2.0**-42, 2.0**42)
    assert FUNCTIONS["gelu"].valid == (-I, I)


def test_every_function_is_a_name_of_the_module() -> None:
    callables: dict[str, Callable[..., Array]] = vars(elementary)
    assert all(callables[name] is row for name, row in FUNCTIONS.items())


def test_the_error_function_is_accurate_far_into_its_tail() -> None:
    from reference.numerics.estimates import erfcx

    z = np.concatenate([np.linspace(0, 12, 200), np.geomspace(1e-8, 1e6, 100)])
    with mpmath.workprec(300):
        for point, value in zip(z.tolist(), erfcx(z).tolist(), strict=True):
            real = mpmath.exp(mpmath.mpf(point) ** 2) * mpmath.erfc(mpmath.mpf(point))
            assert abs(real - value) <= real * 2.0**-49
