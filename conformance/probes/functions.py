"""Correctly rounded values of functions, for the probes of tables: mpmath at 200 bits, rounded by `host`.

Shares no formula and no code with `reference.numerics`. A candidate "correctly rounded", "one ulp up", "one ulp
down" is told from these values; a device with tables of its own fits none of them, and then the errors are what
the probe has to say (`errors`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np

from conformance.probes.host import SHIFT, as_float32, number
from conformance.probes.probe import Array

_mp = mpmath.mp.clone()
_mp.prec = 200

#: Largest argument that is evaluated: beyond it functions have saturated, or overflow.
_FAR = 100.0
_SMALLEST_NORMAL = 2.0**-126
#: Functions that a line names one by one.
_NAMED = 4


@dataclass(frozen=True)
class Function:
    """A real function: its formula in mpmath, where it is exact, and the documented range of its table."""

    formula: Callable[[Any], Any]
    #: Arguments at which the value is a float32 exactly.
    exact_at: tuple[float, ...] = ()
    low: float = -_FAR
    high: float = _FAR
    #: Values of few bits: whether they are exact shows in the value itself.
    algebraic: bool = False


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + _mp.exp(-x))


def _normal(x: Any) -> Any:
    return _mp.erfc(-x / _mp.sqrt(2)) / 2


def _tanh_form(x: Any) -> Any:
    return x / 2 * (1 + _mp.tanh(_mp.sqrt(2 / _mp.pi) * (x + _mp.mpf("0.044715") * x**3)))


_ZERO = (0.0,)
#: In the order of `kernels.scalar.functions`. Ranges: numerics fact sheet 6.3.
FUNCTIONS: Mapping[str, Function] = {
    "exp": Function(_mp.exp, _ZERO, low=-87.0, high=88.0),
    "log": Function(_mp.log, (1.0,), low=2.0**-64),
    "tanh": Function(_mp.tanh, _ZERO),
    "sigmoid": Function(_sigmoid, _ZERO, low=-87.0),
    "silu": Function(lambda x: x * _sigmoid(x), _ZERO, low=-80.0),
    "silu_dx": Function(lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)), _ZERO, low=-80.0),
    "gelu": Function(lambda x: x * _normal(x), _ZERO, low=-12.0),
    "gelu_dx": Function(lambda x: _normal(x) + x * _mp.npdf(x), _ZERO, low=-12.0),
    "gelu_apprx_tanh": Function(_tanh_form, _ZERO, low=-8.0),
    "gelu_apprx_sigmoid": Function(lambda x: x * _sigmoid(_mp.mpf("1.702") * x), _ZERO, low=-48.0),
    "erf": Function(_mp.erf, _ZERO),
    "erf_dx": Function(lambda x: 2 / _mp.sqrt(_mp.pi) * _mp.exp(-x * x), low=-9.0, high=9.0),
    "softplus": Function(lambda x: _mp.log1p(_mp.exp(x)), low=-87.0),
    "mish": Function(lambda x: x * _mp.tanh(_mp.log1p(_mp.exp(x))), _ZERO, low=-80.0),
    "sin": Function(_mp.sin, _ZERO, low=-math.pi, high=math.pi),
    "arctan": Function(_mp.atan, _ZERO, low=-math.pi / 2, high=math.pi / 2),
    "sqrt": Function(_mp.sqrt, low=2.0**-116, algebraic=True),
    "rsqrt": Function(lambda x: 1 / _mp.sqrt(x), low=2.0**-87, algebraic=True),
    "reciprocal": Function(lambda x: 1 / x, low=-_FAR, algebraic=True),
}


def nearest(name: str, x: Array) -> tuple[Array, Array]:
    """(correctly rounded float32 values as float64, where they are inexact) for float32 `x` inside `domain`."""
    found = [_nearest(name, float(value)) for value in x.reshape(-1)]
    values, inexact = (np.array(part).reshape(x.shape) for part in zip(*found, strict=True))
    return values, inexact


def domain(name: str, x: Array) -> Array:
    """Arguments that a table is judged at: in its range, the value normal."""
    row = FUNCTIONS[name]
    inside = np.isfinite(x) & (x >= row.low) & (x <= row.high) & (np.abs(x) >= 2.0**-40)
    inside[inside] &= [abs(_nearest(name, float(value))[0]) >= _SMALLEST_NORMAL for value in x[inside]]
    return np.asarray(inside)


def exact_power(x: float, y: float) -> tuple[float, bool]:
    """x to the y, correctly rounded to float32, and whether that is inexact."""
    return _rounded(_mp.power(_mp.mpf(x), _mp.mpf(y)))


@lru_cache(maxsize=1 << 21)
def _nearest(name: str, x: float) -> tuple[float, bool]:
    row = FUNCTIONS[name]
    value, inexact = _rounded(row.formula(_mp.mpf(x)))
    return value, inexact if row.algebraic else x not in row.exact_at


def _rounded(value: Any) -> tuple[float, bool]:
    sign, mantissa, exponent, _ = value._mpf_
    shift = exponent + SHIFT
    n = int(mantissa) << shift if shift >= 0 else int(mantissa) >> -shift | 1
    n = -n if sign else n
    near = as_float32(n)
    return number(near), near != n


# --- candidates and errors ----------------------------------------------------------------------------------


def moved(values: Array, inexact: Array, accuracy: str) -> Array:
    """Correctly rounded values as a candidate of V6, V10 or S2 has them: where inexact one float32 off."""
    if accuracy == "correct":
        return values
    with np.errstate(all="ignore"):
        step = np.nextafter(values.astype(np.float32), np.float32(np.inf if accuracy == "ulp_up" else -np.inf))
    return np.where(inexact, step.astype(np.float64), values)


def all_errors(tables: Mapping[str, tuple[Array, Array, Array]]) -> list[str]:
    """`errors` of every table (arguments, values, nearest) that has any; one line where none has."""
    wrong = {name: one for name, one in tables.items() if not np.array_equal(one[1], one[2])}
    if wrong:
        return [errors(name, *one) for name, one in wrong.items()]
    total = sum(len(x) for x, _, _ in tables.values())
    named = ", ".join(tables) if len(tables) <= _NAMED else f"{len(tables)} functions"
    return [f"{named}: all {total} values correctly rounded"]


def errors(name: str, x: Array, got: Array, near: Array) -> str:
    """One line: the largest distance from the correctly rounded values in ulp, and where; values are float32."""
    distance = np.abs(_order(got) - _order(near))
    worst = int(np.argmax(distance))
    share = np.mean(distance == 0)
    return (
        f"{name}: {share:.1%} of {len(x)} correctly rounded, at most {int(distance[worst])} ulp off"
        f" (at {float(x[worst])!r}: {float(got[worst])!r}, nearest {float(near[worst])!r})"
    )


def _order(values: Array) -> Array:
    """float32 values as integers in their order; NaN beyond everything."""
    bits = values.astype(np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


# --- arguments ----------------------------------------------------------------------------------------------


def sample(seed: int, count: int, low: float, high: float) -> Array:
    """float32 arguments [count] with 24 significant bits between two positive ends; the ends are powers of two."""
    source = Random(seed)
    found = []
    for _ in range(count):
        # ldexp and not exp: the arguments are the same on every machine.
        exponent = source.randint(math.frexp(low)[1], math.frexp(high)[1] - 1)
        found.append(math.ldexp(2**23 + 2 * source.getrandbits(22) + 1, exponent - 24))
    return np.array(found, np.float32)


def all_bfloat16() -> Array:
    """Every bfloat16 code as float32, [65536]."""
    return (np.arange(65536, dtype=np.uint32) << np.uint32(16)).view(np.float32)
