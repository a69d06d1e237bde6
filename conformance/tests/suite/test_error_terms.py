"""The terms of error bounds, each against what it stands for: a rounding that is made, a sum in an unlucky order.

A term that is too small lets a right kernel fail, one that is too large lets a wrong one pass: both sides are held.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.randomness import Stream
from reference.attention_bound_terms import ScoreErrors, weights_of
from reference.error_terms import (
    ADDITION,
    FUNCTION,
    UNIT,
    Known,
    across,
    additions,
    clamped,
    dot,
    exact,
    half_step,
    inverse_root,
    leading_power,
    matrix,
    maximum_error,
    mean_of,
    mx_rounding,
    off,
    overflow,
    plus,
    product,
    quantised,
    rounded,
    scaled,
    squared,
    summed,
    weight_error,
)
from reference.numerics.cast import cast, to_float32
from reference.numerics.dot import matmul_pass
from reference.numerics.formats import format_of
from reference.numerics.mx import MxOperand, quantize_mx, scale_values
from reference.numerics.profile import DEFAULT
from reference.numerics.ulp import ulp_size

Array = NDArray[np.float64]

NARROW = ("bfloat16", "float16", "float8_e4m3", "float8_e5m2", "float8_e4m3fn")


def _normal(name: str, *shape: int) -> Array:
    return Stream(3, name).normal(shape).astype(np.float64)


def _rounding(values: Array, dtype: str) -> Array:
    return to_float32(cast(values.astype(np.float32), dtype)).astype(np.float64)


# --- casts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NARROW)
def test_half_a_step_is_half_of_an_ulp(dtype: str) -> None:
    values = np.abs(_normal("x", 500)) * 10.0 ** np.linspace(-9, 1, 500)
    assert np.array_equal(half_step(dtype, values), ulp_size(values, dtype) / 2)


@pytest.mark.parametrize("dtype", NARROW)
def test_a_rounding_errs_by_half_a_step_at_most_and_by_nearly_as_much(dtype: str) -> None:
    values = _normal("x", 4000)
    share = np.abs(_rounding(values, dtype) - values.astype(np.float32)) / half_step(dtype, np.abs(values))
    assert 0.95 < share.max() <= 1


@pytest.mark.parametrize("dtype", NARROW)
def test_overflow_begins_where_the_cast_has_no_finite_value(dtype: str) -> None:
    most = overflow(dtype)
    below, at = (np.float32(x) for x in (np.nextafter(np.float32(most), np.float32(0)), most))
    assert float(to_float32(cast(below, dtype))) == format_of(dtype).max_finite
    if format_of(dtype).has_inf:
        assert np.isinf(to_float32(cast(at, dtype)))
    assert half_step(dtype, np.array([float(below), most, np.nan, 0.0])).tolist()[1:] == [np.inf, np.inf, 0.0]
    assert np.isfinite(half_step(dtype, np.array([float(below)]))).all()


def test_what_comes_exact_has_the_error_it_has() -> None:
    """1 + 2^-9 loses 2^-9 in bfloat16, 1 nothing; what is computed first may be anywhere."""
    known = rounded(exact(np.array([1.0, 1 + 2.0**-9])), "bfloat16", operations=0)
    assert known.error.tolist() == [0.0, 2.0**-9]
    assert (rounded(exact(np.array([1.0, 1 + 2.0**-9])), "bfloat16").error >= 2.0**-8).all()


def test_the_variance_of_roundings_is_that_of_what_they_do() -> None:
    values = exact(np.linspace(1.0, 2.0, 4001))
    done = _rounding(values.value, "bfloat16") - values.value.astype(np.float32)
    assert np.mean(rounded(values, "bfloat16").variance) == pytest.approx(np.mean(np.square(done)), rel=0.05)


def test_a_worst_case_beyond_the_format_overflows_only_if_it_is_likely() -> None:
    close, wide = np.array([500.0]), np.array([40000.0])
    may = rounded(Known(np.array([60000.0]), wide, np.square(wide / 10)), "float16")
    hardly = rounded(Known(np.array([60000.0]), wide, np.square(close / 10)), "float16")
    assert np.isinf(may.error).all()
    assert hardly.error[0] == pytest.approx(wide[0] + 16, rel=1e-2)


# --- sums ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [{"matmul_order": "chain", "acc_round": "rz"}, {"matmul_order": "fdpa24"}, {"matmul_order": "tree"}],
    ids=lambda answers: "-".join(map(str, answers.values())),
)
def test_a_dot_of_one_sign_is_within_its_additions_in_every_order(answers: dict[str, str]) -> None:
    a, b = (np.abs(_normal(name, 128, 8)).astype(np.float32) for name in "ab")
    a, b = (to_float32(cast(x, "bfloat16")) for x in (a, b))
    known = dot(exact(a.T), matrix(b), additions(128, 1, "bfloat16"))
    done = matmul_pass(cast(a, "bfloat16"), cast(b, "bfloat16"), DEFAULT.replace(**answers))
    assert (np.abs(done - known.value) <= known.error).all()
    # An order towards zero uses up a part that is not small.
    if answers.get("acc_round"):
        assert (np.abs(done - known.value) / known.error).max() > 0.02


def test_truncation_drifts_by_no_more_than_the_variance_of_a_dot_counts() -> None:
    # Products of 22 bits, alike in size: every addition rounds, and the sum grows steadily.
    a, b = (to_float32(cast(1 + np.abs(_normal(name, 128, 64)) / 4, "float16")) for name in "ab")
    known = dot(exact(a.T), matrix(b), additions(128, 1, "bfloat16"))
    towards_zero = DEFAULT.replace(matmul_order="chain", acc_round="rz")
    done = matmul_pass(cast(a, "float16"), cast(b, "float16"), towards_zero).astype(np.float64)
    bias = np.mean((done - known.value) / np.sqrt(known.variance))
    assert -0.5 < bias < -0.2


def test_a_float32_dot_takes_four_passes_onto_psum() -> None:
    assert additions(128, 3, "bfloat16") == 131
    assert additions(128, 3, "float32") == 128 + 12 + 1


def test_errors_of_operands_reach_a_dot() -> None:
    x, w = _normal("x", 5, 64), _normal("w", 64, 7)
    dx, dw = 0.01 * np.abs(x), 0.02 * np.abs(w)
    known = dot(Known(x, dx, np.square(dx)), matrix(Known(w, dw, np.square(dw))), 0)
    worst = (x + dx * np.sign(x)) @ (w + dw * np.sign(w)) - x @ w
    signs = Stream(0, "signs").signs((2, 64)).astype(np.float64)
    drawn = (x + dx * signs[0]) @ (w + dw * signs[1][:, None]) - x @ w
    assert (np.abs(worst) <= known.error).all()
    assert (np.abs(drawn) <= known.error).all()
    assert 0.3 < np.mean(np.square(drawn) / known.variance) < 3


def test_large_matrices_are_bounded_in_float32_by_no_less_and_hardly_more() -> None:
    x, w = np.abs(_normal("x", 16, 1024)), _normal("w", 1024, 512) * 1e-3
    prepared = matrix(w)
    assert prepared.value.dtype == np.float32
    true = x @ np.abs(w)
    found = across(x, prepared.size) * prepared.unit
    assert (found >= true).all()
    assert (found <= true * 1.01).all()
    known, small = dot(exact(x), prepared, 136), x @ w
    assert np.abs(known.value - small).max() < 1e-2 * known.error.min()


def test_nan_fills_its_row_of_a_large_product_and_no_other() -> None:
    x = np.abs(_normal("x", 4, 1024))
    x[2, 7] = np.nan
    found = across(x, matrix(np.ones((1024, 256), np.float32)).size)
    assert np.isnan(found[2]).all()
    assert np.isfinite(found[[0, 1, 3]]).all()


# --- functions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "error"), [(1.0, 0.1), (1.0, 5.0), (0.0, 1e-3), (1e-6, 1.0)])
def test_an_inverse_root_is_bounded_at_both_ends_of_its_mean(mean: float, error: float) -> None:
    eps = 1e-6
    root, relative = inverse_root(np.array([mean]), np.array([error]), eps)
    for off_by in np.linspace(-error, error, 21):
        found = 1 / np.sqrt(max(mean + off_by, 0.0) + eps)
        assert abs(found - root[0]) <= relative[0] * root[0]
    assert relative[0] < 1.5 * max(np.sqrt((mean + eps) / (max(mean - error, 0) + eps)) - 1, 1)


def test_a_score_error_becomes_an_error_of_its_weight() -> None:
    for score_error in (1e-6, 1e-3, 0.3, 2.0):
        relative = weight_error(np.array([score_error]), np.array([3.0]), 0)[0]
        assert np.expm1(score_error) <= relative <= 1.8 * np.expm1(score_error + 8 * UNIT + FUNCTION)


def test_each_correction_adds_a_function_and_its_products() -> None:
    plain, twice = (weight_error(np.zeros(1), np.zeros(1), count)[0] for count in (0, 2))
    assert twice - plain == pytest.approx(2 * (FUNCTION + 4 * UNIT), rel=1e-3)


def test_a_maximum_errs_by_what_may_become_one() -> None:
    """A far key with a large error says nothing of the maximum, a near one does."""
    values = np.array([[10.0, 9.0, -50.0, -np.inf], [-np.inf] * 4])
    errors = np.array([[0.1, 0.2, 30.0, np.nan], [1.0] * 4])
    assert maximum_error(values, errors, axis=1).tolist() == pytest.approx([0.1, 0.0])
    errors[0, 1] = 2.5
    assert maximum_error(values, errors, axis=1)[0] == pytest.approx(1.5)


def test_means_and_squares_are_bounded() -> None:
    x, dx = _normal("x", 3, 256), 0.01
    known = Known(x, np.full_like(x, dx), np.full_like(x, dx**2 / 3))
    mean = mean_of(squared(known), 256, 256)
    drawn = np.mean(np.square(x + dx * Stream(0, "e").uniform(-1.0, 1.0, x.shape)), axis=1, keepdims=True)
    assert (np.abs(drawn - mean.value) <= mean.error).all()
    assert (np.abs(drawn - mean.value) <= 6 * np.sqrt(mean.variance)).all()
    assert (mean.error < 0.05).all()


# --- quantisation -------------------------------------------------------------------------------------------


def test_a_clamp_leaves_no_error_beyond_its_limits() -> None:
    known = clamped(Known(np.array([1000.0, 100.0]), np.array([1e6, 1.0]), np.array([1e12, 1.0])), -240.0, 240.0)
    assert known.value.tolist() == [240.0, 100.0]
    assert known.error.tolist() == [480.0, 1.0]


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_quantised_values_err_as_they_are_bounded_to(stored: str) -> None:
    values, factor = _normal("x", 4000) * 90, 1 / 0.7
    known = quantised(exact(values), factor, "float8_e4m3", (-240.0, 240.0), stored=stored)
    inner = _rounding(values.astype(np.float32) * np.float32(factor), stored)
    done = _rounding(np.clip(inner, -240, 240), "float8_e4m3")
    share = np.abs(done - known.value) / known.error
    assert 0.9 < share.max() <= 1
    assert 0.8 < np.mean(np.square(done - known.value) / known.variance) < 1.2


def test_mx_rounding_is_that_of_the_instruction() -> None:
    """One token of 512 columns: 128 partitions x 4 lanes."""
    values = to_float32(cast(_normal("x", 512) * 10.0 ** np.repeat(np.linspace(-3, 3, 16), 32), "bfloat16"))
    data, scales = quantize_mx(values.reshape(128, 4), "float8_e4m3fn_x4")
    operand = MxOperand.unpack(data, scales, "float8_e4m3fn_x4")
    done = (operand.lanes * np.repeat(scale_values(scales), 8, axis=0)[:, None, :]).reshape(-1)
    share = np.abs(done - values) / mx_rounding(np.abs(values[None]).astype(np.float64))[0]
    assert 0.9 < share.max() <= 1


# --- algebra ------------------------------------------------------------------------------------------------


def test_products_sums_and_factors_carry_their_errors() -> None:
    x, y = (Known(*np.array([[v], [e], [e**2]])) for v, e in ((2.0, 0.1), (-3.0, 0.2)))
    assert product(x, y).error[0] == pytest.approx(2.1 * 3.2 - 6)
    assert product(x, y).variance[0] == pytest.approx(0.01 * 9 + 4 * 0.04 + 0.0004)
    assert (plus(x, y).error[0], plus(x, y, -1.0).value[0]) == (pytest.approx(0.3), 5.0)
    assert (scaled(x, -2.0).error[0], scaled(x, -2.0).variance[0]) == pytest.approx((0.2, 0.04))
    assert (off(x, np.array([0.5])).error[0], off(x, np.array([0.5])).variance[0]) == pytest.approx((0.6, 0.26))


def test_sums_count_their_terms() -> None:
    assert summed(np.array([2.0]), 100)[0] == pytest.approx(200 * ADDITION, rel=1e-4)


def test_the_leading_power_is_one() -> None:
    assert leading_power(np.array([1.0, 1.99, 2.0, 0.3])).tolist() == [1.0, 1.0, 2.0, 0.25]
    assert leading_power(np.array([1.99, 0.3], np.float32)).tolist() == [1.0, 0.25]


def _sum_error(kept: bool) -> np.ndarray:
    """Relative error of the sum of two weights of which the second query of two keeps none, or one."""
    exponents = np.array([[0.0, -1.0], [0.0 if kept else -np.inf, -np.inf]])
    total = np.exp(exponents).sum(axis=1, keepdims=True)
    errors = ScoreErrors(np.full((2, 2), 2.0**-10), None, 4)
    return weights_of(exponents, total, errors, None, 0, "bfloat16", True).of_sum


def test_a_sum_of_no_weights_has_no_error_and_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _sum_error(kept=False)[1, 0] == 0
    assert _sum_error(kept=True)[1, 0] > 0
    assert _sum_error(kept=True)[0, 0] == _sum_error(kept=False)[0, 0] > 0
