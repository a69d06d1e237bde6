"""Claim: functions of nki.language give the correctly rounded fp32 function of each element, rounded once to
the dtype, and the names of nki.language are what kernels take them for."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest

from conformance.tests.machine.bench import bits, out, refusal, run, tile

import nki.language as nl  # isort: skip

X = np.array([[-3.75, -1.5, -1.0, -0.25, -0.0, 0.0, 0.3, 0.5, 1.0, 2.5, 7.0, 40.0]], np.float32)
Y = np.array([[2.0, -0.5, 3.0, 0.25, 1.0, -2.0, 0.3, 4.0, -1.0, 2.5, -3.0, 0.1]], np.float32)


def of_mp(function: Any, x: np.float32) -> np.float32:
    """The real function in 60 digits, rounded to fp32."""
    with mpmath.workdps(60):
        try:
            value = function(mpmath.mpf(float(x)))
        except (ValueError, ZeroDivisionError):
            return np.float32(np.nan)
        if isinstance(value, mpmath.mpc):
            return np.float32(np.nan)
        # A 60-digit value passes float64 without a tie that fp32 could see, for these arguments.
        return np.float32(float(value))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


def normal(x: Any) -> Any:
    return mpmath.ncdf(x)


def apprx(x: Any) -> Any:
    return x * sigmoid(mpmath.mpf("1.702") * x)


UNARY: dict[str, Any] = {
    "abs": abs,
    "square": lambda x: x * x,
    "negative": lambda x: -x,
    "sign": mpmath.sign,
    "ceil": mpmath.ceil,
    "floor": mpmath.floor,
    "trunc": lambda x: mpmath.floor(x) if x > 0 else mpmath.ceil(x),
    "logical_not": lambda x: mpmath.mpf(x == 0),
    "exp": mpmath.exp,
    "tanh": mpmath.tanh,
    "sigmoid": sigmoid,
    "relu": lambda x: max(x, mpmath.mpf(0)),
    "gelu": lambda x: x * normal(x),
    "gelu_dx": lambda x: normal(x) + x * mpmath.npdf(x),
    "gelu_apprx_sigmoid": apprx,
    "gelu_apprx_sigmoid_dx": lambda x: mpmath.diff(apprx, x),
    "gelu_apprx_tanh": lambda x: (
        x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)))
    ),
    "silu": lambda x: x * sigmoid(x),
    "silu_dx": lambda x: sigmoid(x) * (1 + x * (1 - sigmoid(x))),
    "softplus": lambda x: mpmath.log(1 + mpmath.exp(x)),
    "mish": lambda x: x * mpmath.tanh(mpmath.log(1 + mpmath.exp(x))),
    "erf": mpmath.erf,
    "erf_dx": lambda x: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-x * x),
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tan": mpmath.tan,
    "arctan": mpmath.atan,
}
POSITIVE: dict[str, Any] = {
    "log": mpmath.log,
    "sqrt": mpmath.sqrt,
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "reciprocal": lambda x: 1 / x,
}


def applied(x: Any, name: str, dtype: Any = None) -> Any:
    return out(getattr(nl, name)(tile(x), dtype=dtype))


@pytest.mark.parametrize("name", sorted(UNARY))
def test_unary_functions(name: str) -> None:
    got = run(applied, X, name)
    assert got.tolist() == [[of_mp(UNARY[name], x) for x in X[0]]]


@pytest.mark.parametrize("name", sorted(POSITIVE))
def test_functions_of_positive_numbers(name: str) -> None:
    x = np.abs(X[:, [0, 1, 2, 3, 6, 9, 10, 11]])
    assert run(applied, x, name).tolist() == [[of_mp(POSITIVE[name], v) for v in x[0]]]


def test_results_take_the_dtype_of_the_tile_or_the_one_asked_for() -> None:
    x = X.astype(ml_dtypes.bfloat16)
    same = run(applied, x, "exp")
    wide = run(applied, x, "exp", nl.float32)
    assert (same.dtype, wide.dtype) == (ml_dtypes.bfloat16, np.float32)
    assert (bits(same) == bits(wide.astype(ml_dtypes.bfloat16))).all()


def test_nan_and_infinities_pass() -> None:
    x = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    assert run(applied, x, "exp")[0, 1:].tolist() == [np.inf, 0.0]
    assert np.isnan(run(applied, x, "exp")[0, 0])
    assert run(applied, x, "tanh")[0, 1:].tolist() == [1.0, -1.0]


BINARY: dict[str, Any] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}


def combined(x: Any, y: Any, name: str, dtype: Any = None) -> Any:
    return out(getattr(nl, name)(tile(x), tile(y), dtype=dtype))


@pytest.mark.parametrize("name", sorted(BINARY))
def test_binary_functions(name: str) -> None:
    with np.errstate(all="ignore"):
        expected = BINARY[name](X, Y).astype(np.float32)
    assert (run(combined, X, Y, name) == expected).all()


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "maximum", "less"])
def test_numbers_on_either_side(name: str) -> None:
    function = getattr(nl, name)
    with np.errstate(all="ignore"):
        right, left = BINARY[name](X, np.float32(0.3)), BINARY[name](np.float32(0.3), X)
    assert (run(lambda x: out(function(tile(x), 0.3)), X) == right.astype(np.float32)).all()
    assert (run(lambda x: out(function(0.3, tile(x))), X) == left.astype(np.float32)).all()


def test_remainders() -> None:
    assert run(combined, X, Y, "fmod").tolist() == [
        [math.fmod(x, y) for x, y in zip(X[0], Y[0], strict=True)]
    ]
    python = [[np.float32(float(x) % float(y)) for x, y in zip(X[0], Y[0], strict=True)]]
    assert run(combined, X, Y, "mod").tolist() == python


def test_power() -> None:
    x, y = np.abs(X[:, [0, 1, 6, 9]]), Y[:, [0, 1, 2, 3]]
    with mpmath.workdps(60):
        expected = [
            [
                np.float32(float(mpmath.mpf(float(a)) ** mpmath.mpf(float(b))))
                for a, b in zip(x[0], y[0], strict=True)
            ]
        ]
    assert run(combined, x, y, "power").tolist() == expected
    assert run(lambda x: out(nl.power(tile(x), 2.0)), X).tolist() == (X * X).tolist()


def test_magnitude_operators_take_the_second_on_a_tie() -> None:
    x, y = np.array([[1.0, -3.0, 2.0]], np.float32), np.array([[-1.0, 2.0, -5.0]], np.float32)
    assert run(combined, x, y, "abs_max", generation="gen4").tolist() == [[-1.0, -3.0, -5.0]]
    assert run(combined, x, y, "abs_min", generation="gen4").tolist() == [[-1.0, 2.0, 2.0]]
    refusal(combined, x, y, "abs_max", generation="gen3")


def test_bit_operators_work_on_patterns() -> None:
    x, y = np.array([[0b1100, -1]], np.int32), np.array([[0b1010, 4]], np.int32)
    assert run(combined, x, y, "bitwise_and").tolist() == [[0b1000, 4]]
    assert run(combined, x, y, "bitwise_or").tolist() == [[0b1110, -1]]
    assert run(combined, x, y, "bitwise_xor").tolist() == [[0b0110, -5]]
    assert run(combined, x, y, "left_shift").tolist() == [[0b1100 << 10, -16]]
    assert run(combined, x, y, "right_shift").tolist() == [[0b1100 >> 10, 2**28 - 1]]
    assert run(applied, x, "invert").tolist() == [[~0b1100, 0]]


def test_shapes_are_equal_and_one_side_is_a_tile() -> None:
    assert refusal(lambda x, y: combined(x, y, "add"), X, Y[:, :1]).rule == "operand.shape"
    assert refusal(lambda x: nl.add(1.0, 2.0), X).rule == "operand.type"


def test_where_keeps_bits_of_equal_dtypes() -> None:
    x, y = np.array([[2**24 + 1, 5]], np.int32), np.array([[7, 2**24 + 3]], np.int32)
    condition = np.array([[1, 0]], np.uint8)
    assert run(lambda c, x, y: out(nl.where(tile(c), tile(x), tile(y))), condition, x, y).tolist() == [
        [2**24 + 1, 2**24 + 3]
    ]
    assert run(lambda c, x: out(nl.where(tile(c), tile(x), -1)), condition, x).tolist() == [[2**24 + 1, -1]]


# ---- reductions ----

Z = np.array([[[1, 2, 3], [4, 5, -6]], [[0.5, 0, 7], [1, 1, 1]]], np.float32)


@pytest.mark.parametrize(
    ("name", "witness"),
    [
        ("sum", np.sum),
        ("prod", np.prod),
        ("max", np.max),
        ("min", np.min),
        (
            "mean",
            lambda x, axis: np.sum(x, axis=axis) / np.float32(x.size / 2 if isinstance(axis, tuple) else 3),
        ),
    ],
)
@pytest.mark.parametrize(("axis", "axes"), [(2, 2), (-1, 2), ((1, 2), (1, 2))])
def test_reductions(name: str, witness: Any, axis: Any, axes: Any) -> None:
    got = run(lambda x: out(getattr(nl, name)(tile(x), axis)), Z)
    expected = witness(Z, axis=axes)
    assert got.shape == (expected.shape if expected.ndim > 1 else (2, 1))
    assert (got.reshape(expected.shape) == expected.astype(np.float32)).all()
    assert run(lambda x: out(getattr(nl, name)(tile(x), axis, keepdims=True)), Z).ndim == 3


def test_variance_and_all() -> None:
    got = run(lambda x: out(nl.var(tile(x), 2)), Z)
    assert got.shape == (2, 2, 1)
    assert got[0, 0, 0] == np.float32(2.0) / np.float32(3.0)
    assert run(lambda x: out(nl.all(tile(x), axis=2)), Z).tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize("axis", [0, 1, (0, 1, 2), (0, 2)])
def test_only_the_last_free_axes_are_reduced(axis: Any) -> None:
    assert refusal(lambda x: nl.sum(tile(x), axis), Z).rule == "reduce.axis"


def test_softmax_and_rms_norm_step_by_step() -> None:
    x = np.array([[0.0, 1.0, -2.0, 3.0]], np.float32)
    e = np.array([of_mp(mpmath.exp, v) for v in x[0] - np.float32(3.0)], np.float32)
    total = np.float32(math.fsum(float(v) for v in e))
    inverse = np.float32(1) / total
    assert (run(lambda x: out(nl.softmax(tile(x))), x) == e * inverse).all()
    w = np.array([[1.0, 2.0, 0.5, -1.0]], np.float32)
    mean = np.float32(math.fsum(float(v) for v in np.square(x[0]))) / np.float32(4)
    scale = of_mp(POSITIVE["rsqrt"], mean + np.float32(1e-6))
    got = run(lambda x, w: out(nl.rms_norm(tile(x), tile(w), 1, 4)), x, w)
    assert (got == x * scale * w).all()
