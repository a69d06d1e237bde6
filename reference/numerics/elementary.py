"""Elementary functions of float32, correctly rounded for every argument.

The value of a function is the float32 nearest to the real function of the float32 argument: one rounding,
gradual underflow, infinity on overflow. That value is unique, so it is the same on every machine (see
`certify`). Square root, reciprocal and square need nothing of this: IEEE 754 rounds them correctly.

A function is one `Function` row. The common rules, unless a row says otherwise:

- NaN gives NaN; an argument outside the real domain (log and rsqrt below 0, sin of infinity) gives NaN;
- infinite arguments give the limit, with the sign of the values before it: silu(-inf) = gelu(-inf) = -0;
- -0 gives -0 where the function is odd or has the factor x; a result that underflows keeps its sign.

The slow path takes 0 to 4 in a million arguments, all bfloat16 codes among them, and some 30 in a million of
silu and power, which come near midpoints for arguments of few bits (measured by conformance.audit_elementary).

Hardware evaluates tables instead (S2) and documents narrower valid ranges (facts 6.3), which the rows carry
for the engines to check. gelu_apprx_sigmoid means x sigmoid(1.702 x) and gelu_apprx_tanh
x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) with the decimals as written (S5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics import estimates, exact_forms
from reference.numerics.cast import to_float32
from reference.numerics.certify import (
    RealFunction,
    decide,
    round_relative_where_sure,
    round_where_sure,
    settle,
)
from reference.numerics.power import power as power
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.subnormals import read_operand, write_result

Array = NDArray[Any]

#: Elements estimated at a time: their float64 temporaries stay in the second-level cache.
_BLOCK = 16384


@dataclass(frozen=True)
class Tie:
    """A stretch of tiny arguments where a function is an exact midpoint plus a hair, and its exact answer.

    There the interval test would fail for a good part of all arguments. `head` is exact in float64 and
    already moved by one float64 unit in the direction of the hair, which rounds as the function does.
    """

    below: float
    head: Callable[[Array], Array]


@dataclass(frozen=True)
class Function:
    """One elementary function: how to estimate it, how well, and what decides the rest."""

    name: str
    #: float64 copies of float32 arguments to estimates, or to (estimates, scales).
    estimate: Callable[[Array], Any]
    #: Bound of the estimate's error, as a fraction of the estimate or of the scale. None: `estimate` takes
    #: float32 and is one exact operation.
    bound: float | None
    #: The real function for finite arguments, in mpmath.
    real: RealFunction | None = None
    tie: Tie | None = None
    #: Finite arguments at which the function takes a float32 value exactly, zeros of the function apart.
    exact_at: tuple[float, ...] = ()
    #: (x, y) in float64 -> where y is the value at x exactly, for functions with many such points.
    check: Callable[[Array, Array], Array] | None = None
    #: Interval the ScalarE table is documented for (facts 6.3).
    valid: tuple[float, float] = (-math.inf, math.inf)

    def __call__(self, x: Any) -> Array:
        """The function of every element of `x` (all that `to_float32` takes): float32, the same shape."""
        values = to_float32(x)
        if self.bound is None:
            with np.errstate(all="ignore"):
                return np.asarray(self.estimate(values))
        flat = np.ascontiguousarray(values).reshape(-1)
        result = np.empty_like(flat)
        with np.errstate(all="ignore"):
            for start in range(0, flat.size, _BLOCK):
                block = flat[start : start + _BLOCK]
                rounded, doubt = self.attempt(block)
                result[start : start + _BLOCK] = settle(rounded, doubt, self._decider(block))
        return np.asarray(result.reshape(values.shape))

    def attempt(self, x: Array) -> tuple[Array, Array]:
        """Results for float32 `x`, and the mask of those the estimate does not decide (the slow share)."""
        with np.errstate(all="ignore"):
            if self.bound is None:
                return self.estimate(x), np.zeros(x.shape, bool)
            rounded, doubt = self._round(self.estimate(x.astype(np.float64)))
            if self.tie is not None:
                self._answer_ties(x, rounded, doubt)
        return rounded, doubt

    def _round(self, estimate: Any) -> tuple[Array, Array]:
        assert self.bound is not None
        if isinstance(estimate, tuple):
            value, scale = estimate
            return round_where_sure(value, scale * self.bound)
        return round_relative_where_sure(estimate, self.bound)

    def _answer_ties(self, x: Array, rounded: Array, doubt: Array) -> None:
        assert self.tie is not None
        tiny = np.abs(x) < self.tie.below
        if tiny.any():
            rounded[tiny] = self.tie.head(x[tiny].astype(np.float64)).astype(np.float32)
            doubt[tiny] = False

    def _decider(self, x: Array) -> Callable[[Array], Array]:
        def exact(indices: Array) -> Array:
            patterns = x[indices].view(np.uint32)
            return np.array([_decided(self.name, int(pattern)) for pattern in patterns], np.float32)

        return exact

    def is_exact(self, x: Array, y: Array) -> Array:
        """Where float32 `y`, the value at `x`, is the value itself: not rounded, or a limit (0, inf, NaN)."""
        known: Array = ~np.isfinite(x) | ~np.isfinite(y) | (y == 0)
        for point in self.exact_at:
            known |= x == point
        if self.check is None:
            return known
        with np.errstate(all="ignore"):
            return known | self.check(x.astype(np.float64), y.astype(np.float64))


@lru_cache(maxsize=1 << 17)
def _decided(name: str, pattern: int) -> np.float32:
    """Remembered, because the arguments that are hard are often many of a kind."""
    real = _SIN_BEYOND_PI.real if name == _SIN_BEYOND_PI.name else FUNCTIONS[name].real
    assert real is not None
    return decide(real, _float_of(pattern))


def _float_of(pattern: int) -> float:
    return float(np.array(pattern, np.uint32).view(np.float32))


# --- the rows ---------------------------------------------------------------------------------------------
#
# Bounds are in multiples of u = 2^-53. A library call is trusted to 32 units in the last place, 64 u; every
# operation adds u. The sum of the errors along each estimate, and the power of two above it:
#   exp, log, tanh, arctan, erf_dx: 67 u -> 2^-46      sigmoid, silu: 68 u -> 2^-46
#   softplus: 130 u -> 2^-45                           mish: 133 u -> 2^-45
#   silu_dx: 140 u of scale -> 2^-45                   gelu, gelu_dx: erfcx 34 u, exp 64 u; 110 u -> 2^-45
#   gelu_apprx_sigmoid(_dx): 2 u in the exponent, which is below 110 where float32 does not underflow;
#     365 u -> 2^-44
#   gelu_apprx_tanh: 8 u in the exponent, likewise; 948 u -> 2^-42
#   erf: 80 u -> 2^-46                                 sin, cos, tan: 36 u -> 2^-46
#   sin_beyond_pi: 12 u of scale -> 2^-48              rsqrt: 3 u -> 2^-50


def _above_half_of(x: Array) -> Array:
    return np.where(x == 0, 0.5 * x, np.nextafter(0.5 * x, np.inf))


#: x/2 + c x^2 with 0 < c < 1: x/2 is a midpoint for every odd subnormal x. The hair is below 2^-29 |x|.
_HALF = Tie(2.0**-30, _above_half_of)
#: 1/2 + x/4 - x^3/48: a midpoint for odd multiples of 2^-23. The head is exact where that matters; the hair
#: is smaller than the unit of x/4 and so than the distance from any midpoint other than the head itself.
_SIGMOID = Tie(2.0**-15, lambda x: np.nextafter(0.5 + 0.25 * x, 0.5))
#: 1/2 + x/2 - x^3/12, likewise.
_SILU_DX = Tie(2.0**-16, lambda x: np.nextafter(0.5 + 0.5 * x, 0.5))

_AT_ZERO = (0.0,)


def _everywhere(x: Array, y: Array) -> Array:
    return np.ones(x.shape, bool)


def _relu(x: Array) -> Array:
    # np.maximum may give either zero for (-0, +0); adding +0 makes it +0.
    return np.asarray(np.maximum(x, np.float32(0)) + np.float32(0))


def _is_power_of_four(x: Array, y: Array) -> Array:
    fraction, exponent = np.frexp(x)
    return np.asarray((fraction == 0.5) & (exponent % 2 == 1))


def _certified() -> tuple[Function, ...]:
    est, real = estimates, exact_forms
    return (
        Function("exp", est.exp, 2.0**-46, lambda m, x: m.exp(x), exact_at=_AT_ZERO),
        Function("log", est.log, 2.0**-46, lambda m, x: m.log(x), exact_at=(1.0,), valid=(2.0**-64, 2.0**64)),
        Function("tanh", est.tanh, 2.0**-46, lambda m, x: m.tanh(x)),
        Function("sigmoid", est.sigmoid, 2.0**-46, real.sigmoid, _SIGMOID, exact_at=_AT_ZERO),
        Function("silu", est.silu, 2.0**-46, real.silu, _HALF),
        Function("silu_dx", est.silu_dx, 2.0**-45, real.silu_dx, _SILU_DX, exact_at=_AT_ZERO),
        Function("gelu", est.gelu, 2.0**-45, real.gelu, _HALF),
        Function("gelu_dx", est.gelu_dx, 2.0**-45, real.gelu_dx, exact_at=_AT_ZERO),
        Function("gelu_apprx_tanh", est.gelu_apprx_tanh, 2.0**-42, real.gelu_apprx_tanh, _HALF),
        Function("gelu_apprx_sigmoid", est.gelu_apprx_sigmoid, 2.0**-44, real.gelu_apprx_sigmoid, _HALF),
        Function(
            "gelu_apprx_sigmoid_dx",
            est.gelu_apprx_sigmoid_dx,
            2.0**-44,
            real.gelu_apprx_sigmoid_dx,
            exact_at=_AT_ZERO,
        ),
        Function("erf", est.erf, 2.0**-46, lambda m, x: m.erf(x)),
        Function("erf_dx", est.erf_dx, 2.0**-46, real.erf_dx),
        Function("softplus", est.softplus, 2.0**-45, real.softplus),
        Function("mish", est.mish, 2.0**-45, real.mish),
        Function("sin", est.sin, 2.0**-46, lambda m, x: m.sin(x), valid=(-math.pi, math.pi)),
        Function("cos", est.cos, 2.0**-46, lambda m, x: m.cos(x), exact_at=_AT_ZERO),
        Function("tan", est.tan, 2.0**-46, lambda m, x: m.tan(x)),
        Function("arctan", est.arctan, 2.0**-46, lambda m, x: m.atan(x), valid=(-math.pi / 2, math.pi / 2)),
        Function("rsqrt", est.rsqrt, 2.0**-50, real.rsqrt, check=_is_power_of_four, valid=(2.0**-87, 2.0**97)),
    )


def _exact_operations() -> tuple[Function, ...]:
    """Functions that are one float32 operation, which IEEE 754 rounds correctly, or none."""
    return (
        Function("sqrt", np.sqrt, None, check=lambda x, y: y * y == x, valid=(2.0**-116, 2.0**118)),
        # The documented range has both signs: +-[2^-42, 2^42].
        Function(
            "reciprocal",
            lambda x: np.float32(1) / x,
            None,
            check=lambda x, y: x * y == 1,
            valid=(2.0**-42, 2.0**42),
        ),
        Function("square", np.square, None, check=lambda x, y: x * x == y),
        Function("sign", lambda x: np.where(x == 0, x, np.sign(x)), None, check=_everywhere),
        Function("abs", np.abs, None, check=_everywhere),
        Function("relu", _relu, None, check=_everywhere),
        Function("copy", np.copy, None, check=_everywhere),
    )


#: Every unary function by its NKI name.
FUNCTIONS: Mapping[str, Function] = MappingProxyType({row.name: row for row in (*_certified(), *_exact_operations())})

exp, log, tanh, sigmoid = (FUNCTIONS[name] for name in ("exp", "log", "tanh", "sigmoid"))
silu, silu_dx, mish, softplus = (FUNCTIONS[name] for name in ("silu", "silu_dx", "mish", "softplus"))
gelu, gelu_dx, gelu_apprx_tanh = (FUNCTIONS[name] for name in ("gelu", "gelu_dx", "gelu_apprx_tanh"))
gelu_apprx_sigmoid, gelu_apprx_sigmoid_dx = (
    FUNCTIONS[name] for name in ("gelu_apprx_sigmoid", "gelu_apprx_sigmoid_dx")
)
erf, erf_dx, sin, cos, tan, arctan = (FUNCTIONS[name] for name in ("erf", "erf_dx", "sin", "cos", "tan", "arctan"))
sqrt, rsqrt, reciprocal, square = (FUNCTIONS[name] for name in ("sqrt", "rsqrt", "reciprocal", "square"))
sign, abs, relu, copy = (FUNCTIONS[name] for name in ("sign", "abs", "relu", "copy"))


# --- what is no function of one real argument, and the candidates of the profile ---------------------------


def prelu(x: Any, slope: Any) -> Array:
    """x where x >= 0, else slope * x rounded to float32; NaN gives NaN, -0 stays -0. Shapes broadcast."""
    values, factor = to_float32(x), to_float32(slope)
    with np.errstate(all="ignore"):
        return np.asarray(np.where(values >= 0, values, factor * values))


_SIN_BEYOND_PI = Function("sin_beyond_pi", estimates.sin_beyond_pi, 2.0**-48, exact_forms.sin_beyond_pi)


def sin_engine(x: Any) -> Array:
    """The sine of the scalar engine, which reduces no range: the cubic of its last table segment goes on.

    Inside [-pi, pi] the correctly rounded sine; outside the correctly rounded Taylor cubic about the nearer
    end, -d + d^3/6 with d = |x| - pi, odd in x, infinite at infinity. sin_engine(9) = 27.6526, where the
    documents print 27.65 (facts 6.3; S6). The true coefficients are not public.
    """
    values = to_float32(x)
    inside = ~(np.abs(values) > math.pi)
    result = np.empty_like(values)
    result[inside], result[~inside] = sin(values[inside]), _SIN_BEYOND_PI(values[~inside])
    return result


def with_accuracy(y: Array, exact: Array, accuracy: str) -> Array:
    """Correctly rounded float32 `y`, moved as a candidate of V6, V10 or S2 says.

    'correct': `y`. 'ulp_up', 'ulp_down': one float32 step towards +inf or -inf where not `exact`.
    """
    if accuracy == "correct":
        return y
    with np.errstate(all="ignore"):
        moved = np.nextafter(y, np.float32(np.inf if accuracy == "ulp_up" else -np.inf))
    return np.asarray(np.where(exact, y, moved))


def activate(name: str, x: Any, profile: NumericsProfile = DEFAULT) -> Array:
    """Function `name` as the scalar engine computes it under `profile`: U6, S2 (accuracy), S3 (exp), S6 (sin).

    Raises:
        ValueError: no function has that name.
    """
    if name not in FUNCTIONS:
        raise ValueError(f"no function {name!r}; known are {', '.join(FUNCTIONS)}")
    values = read_operand(to_float32(x), profile)
    if name == "sin" and profile.sin_outside == "cubic":
        y = sin_engine(values)
    else:
        y = FUNCTIONS[name](values)
    if profile.act_table != "correct":
        y = with_accuracy(y, FUNCTIONS[name].is_exact(values, y), profile.act_table)
    if name == "exp" and profile.exp_underflow == "flush":
        y = np.where(y < 2.0**-126, np.float32(0), y)
    return write_result(y, profile)
