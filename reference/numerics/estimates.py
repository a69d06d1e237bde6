"""float64 estimates of the functions the machine is asked for, each with a bound that holds on every machine.

An estimate takes float64 copies of float32 numbers and gives float64. Its error comes from two sources:

- the library: np.exp, np.log, np.log1p, np.tanh, np.arctan and np.power differ between machines. They are
  trusted to 32 units in the last place, from which `elementary` derives the bound of every function;
  implementations in use claim 4 or better. A test measures the machine it runs on.
- IEEE operations (half a unit each), and the truncation of our own series. Sine and cosine and the error
  function are our own: libraries differ too much near multiples of pi, and NumPy has no error function.

All functions that could cancel are written so that they do not, or give the scale that their error is
relative to. Arguments that would give inf * 0 are clipped where the float32 result has long been 0, 1 or x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: No function here differs from its limit in float32 beyond this argument, log, power and trigonometry apart.
_FAR = 1000.0

_SQRT_HALF = math.sqrt(0.5)
#: pi is math.pi + _PI_LOW to 2^-105.
_PI_LOW = 1.2246467991473532e-16


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    """Horner's rule, highest coefficient first."""
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total *= x
        total += coefficient
    return total


# --- exponential family -----------------------------------------------------------------------------------


def exp(x: Array) -> Array:
    return np.exp(x)


def log(x: Array) -> Array:
    return np.log(x)


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def tanh(x: Array) -> Array:
    return np.tanh(x)


def softplus(x: Array) -> Array:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def silu(x: Array) -> Array:
    return np.maximum(x, -_FAR) * sigmoid(x)


def mish(x: Array) -> Array:
    """x tanh(ln(1 + e^x)) = x n / (n + 2) with n = e^x (e^x + 2): nothing cancels."""
    e = np.exp(np.minimum(x, 50.0))
    n = e * (e + 2.0)
    return np.maximum(x, -_FAR) * (n / (n + 2.0))


def silu_dx(x: Array) -> tuple[Array, Array]:
    """s (1 + x (1 - s)) with its scale s (1 + |x| (1 - s)): the bracket has a root near -1.278."""
    x = np.clip(x, -_FAR, _FAR)
    s, term = sigmoid(x), x * sigmoid(-x)
    return s * (1.0 + term), s * (1.0 + np.abs(term))


def gelu_apprx_sigmoid(x: Array) -> Array:
    return np.maximum(x, -_FAR) * sigmoid(1.702 * x)


def gelu_apprx_sigmoid_dx(x: Array) -> tuple[Array, Array]:
    return silu_dx(1.702 * np.clip(x, -_FAR, _FAR))


def gelu_apprx_tanh(x: Array) -> Array:
    """x / 2 (1 + tanh u) = x sigmoid(2 u), which does not cancel for negative u."""
    x = np.clip(x, -_FAR, None)
    return x * sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (x * (1.0 + 0.044715 * (x * x))))


# --- error function family --------------------------------------------------------------------------------


@cache
def _erfcx_coefficients() -> tuple[float, ...]:
    """(1 + 2 z) e^(z^2) erfc(z) as a polynomial in t = (z - 3.75) / (z + 3.75), which is in [-1, 1).

    The substitution of Shepherd and Laframboise (1981). Degree 27 truncates below 2^-55.
    """

    def scaled(t: Any) -> Any:
        z = mpmath.mpf(15) / 4 * (1 + t) / (1 - t)
        return (1 + 2 * z) * mpmath.exp(z * z) * mpmath.erfc(z)

    with mpmath.workdps(50):
        return _interpolate(scaled, 28)


def _interpolate(function: Callable[[Any], Any], count: int) -> tuple[float, ...]:
    """Coefficients, highest first, of the polynomial through `function` at `count` Chebyshev nodes."""
    angles = [mpmath.pi * (2 * k + 1) / (2 * count) for k in range(count)]
    values = [function(mpmath.cos(angle)) for angle in angles]
    total, previous, current = [mpmath.mpf(0)] * count, [0] * count, [1] + [0] * (count - 1)
    for j in range(count):
        weight = sum(value * mpmath.cos(j * angle) for value, angle in zip(values, angles, strict=True))
        total = [t + weight * (1 if j == 0 else 2) / count * c for t, c in zip(total, current, strict=True)]
        # T(j + 1) = 2 t T(j) - T(j - 1), and t T(0) for the first: integer coefficients, lowest first.
        shifted = [(1 if j == 0 else 2) * c for c in [0, *current[:-1]]]
        previous, current = current, [s - p for s, p in zip(shifted, previous, strict=True)]
    return tuple(float(t) for t in reversed(total))


def erfcx(z: Array) -> Array:
    """e^(z^2) erfc(z) for z >= 0, relative error below 2^-48; 0 at infinity."""
    z = np.minimum(z, 1e30)
    return _polynomial((z - 3.75) / (z + 3.75), _erfcx_coefficients()) / (1.0 + 2.0 * z)


@cache
def _erf_coefficients() -> tuple[float, ...]:
    """erf(x) / x as a polynomial in x^2 for |x| <= 1: the Taylor series, truncated below 2^-60."""
    scale = 2.0 / math.sqrt(math.pi)
    return tuple(scale * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(19, -1, -1))


def erf(x: Array) -> Array:
    small = np.clip(x, -1.0, 1.0)
    inner = small * _polynomial(small * small, _erf_coefficients())
    # x * x is exact: the argument is a float32. So is x * x / 2 below.
    outer = np.copysign(1.0 - erfcx(np.abs(x)) * np.exp(-x * x), x)
    return np.asarray(np.where(np.abs(x) <= 1.0, inner, outer))


def erf_dx(x: Array) -> Array:
    return np.asarray(2.0 / math.sqrt(math.pi) * np.exp(-x * x))


def _normal_tail(x: Array) -> Array:
    """P(X > |x|) for a standard normal X: relative accuracy far into the tail."""
    return 0.5 * erfcx(np.abs(x) * _SQRT_HALF) * np.exp(-0.5 * (x * x))


def gelu(x: Array) -> Array:
    tail = _normal_tail(x)
    return np.maximum(x, -_FAR) * np.where(x < 0, tail, 1.0 - tail)


def gelu_dx(x: Array) -> tuple[Array, Array]:
    """P + x p (normal distribution and density) with its scale; the root is near -0.752.

    For negative x the density is a factor of both terms: p (r + x), r the Mills ratio, keeps the sign of the
    result where p underflows.
    """
    x = np.clip(x, -_FAR, _FAR)
    size = np.abs(x)
    density = 1.0 / math.sqrt(2.0 * math.pi) * np.exp(-0.5 * (x * x))
    mills = math.sqrt(math.pi / 2.0) * erfcx(size * _SQRT_HALF)
    negative, positive = density * (mills - size), density * (size - mills)
    scale = density * (mills + size)
    return np.where(x < 0, negative, 1.0 + positive), np.where(x < 0, scale, 1.0 + scale)


# --- trigonometry -----------------------------------------------------------------------------------------

#: Pattern exponent of the smallest float32 above pi/4 whose argument is reduced (2^-1 <= x).
_FIRST_EXPONENT = 126


@cache
def _two_over_pi_words() -> Array:
    """floor(2^126 (2^(e - 150) 2/pi mod 4)) in four 32-bit words, least first, for exponents e 126..254."""
    rows = []
    with mpmath.workprec(400):
        for exponent in range(_FIRST_EXPONENT, 255):
            turns = mpmath.ldexp(2 / mpmath.pi, exponent - 150)
            scaled = int(mpmath.floor(mpmath.ldexp(turns, 126))) % (1 << 128)
            rows.append([(scaled >> shift) & 0xFFFFFFFF for shift in (0, 32, 64, 96)])
    return np.array(rows, dtype=np.uint64).T.copy()


def _reduce(size: Array) -> tuple[Array, Array]:
    """(r, q) with size = q pi/2 + r modulo 2 pi and |r| a hair over pi/4 at most, for float32 size >= 0.

    No float32 is nearer than 2^-30 to a multiple of pi/2 (Muller, Elementary Functions), so absolute errors
    of 2^-84 in r are relative errors of 2^-54. Infinity and NaN give numbers that the caller must replace.
    """
    return _reduce_moderate(size) if size.size and size.max() < _MODERATE else _reduce_any(size)


#: Below this, q has 19 bits at most and its products with the first two parts of pi/2 are exact.
_MODERATE = 2.0**19
#: pi/2 in two parts of 33 bits and a third of 53, after Cody and Waite.
_HALF_PI_PARTS = (
    float.fromhex("0x1.921fb54400000p+0"),
    float.fromhex("0x1.0b4611a600000p-34"),
    float.fromhex("0x1.3198a2e037073p-69"),
)


def _reduce_moderate(size: Array) -> tuple[Array, Array]:
    """The first difference is exact, the second rounds r itself, the third product is off by 2^-102."""
    count = np.rint(size * (2.0 / math.pi))
    for part in _HALF_PI_PARTS:
        size = size - count * part
    return size, count.astype(np.uint64) & np.uint64(3)


def _reduce_any(size: Array) -> tuple[Array, Array]:
    """After Payne and Hanek: the 24-bit significand times 128 bits of 2/pi, in 64-bit integers, to 2^-102."""
    bits = size.astype(np.float32).view(np.uint32)
    exponent = np.clip((bits >> 23).astype(np.int64), _FIRST_EXPONENT, 254) - _FIRST_EXPONENT
    significand = ((bits & 0x7FFFFF) | 0x800000).astype(np.uint64)
    products, carry = [], np.uint64(0)
    for word in _two_over_pi_words():
        product = significand * word[exponent] + carry
        carry = product >> np.uint64(32)
        products.append(product & np.uint64(0xFFFFFFFF))
    low, high = (products[1] << np.uint64(32)) | products[0], (products[3] << np.uint64(32)) | products[2]
    quadrant = (high + np.uint64(1 << 61)) >> np.uint64(62)
    fraction = (high - (quadrant << np.uint64(62))).view(np.int64).astype(np.float64)
    reduced = (fraction + low.astype(np.float64) * 2.0**-64) * (2.0**-62 * math.pi / 2.0)
    small = size < math.pi / 4.0
    return np.where(small, size, reduced), np.where(small, np.uint64(0), quadrant & np.uint64(3))


@cache
def _taylor(first: int) -> tuple[float, ...]:
    """Coefficients of sin(r)/r (first = 1) and cos(r) (first = 0) in r^2, truncated below 2^-57 at pi/4."""
    return tuple((-1) ** n / math.factorial(2 * n + first) for n in range(8, -1, -1))


def _sin_cos(size: Array) -> tuple[Array, Array]:
    """Sine and cosine of float64 copies of float32 size >= 0, relative error below 2^-49; NaN at infinity."""
    reduced, quadrant = _reduce(size)
    square = reduced * reduced
    s, c = reduced * _polynomial(square, _taylor(1)), _polynomial(square, _taylor(0))
    swap = (quadrant & np.uint64(1)).astype(bool)
    sine, cosine = np.where(swap, c, s), np.where(swap, s, c)
    np.negative(sine, out=sine, where=quadrant >= 2)
    np.negative(cosine, out=cosine, where=(quadrant == 1) | (quadrant == 2))
    bad = ~np.isfinite(size)
    if bad.any():
        sine[bad] = cosine[bad] = np.nan
    return sine, cosine


def sin(x: Array) -> Array:
    return np.copysign(1.0, x) * _sin_cos(np.abs(x))[0]


def cos(x: Array) -> Array:
    return _sin_cos(np.abs(x))[1]


def tan(x: Array) -> Array:
    sine, cosine = _sin_cos(np.abs(x))
    return np.copysign(1.0, x) * (sine / cosine)


def arctan(x: Array) -> Array:
    return np.arctan(x)


def sin_beyond_pi(x: Array) -> tuple[Array, Array]:
    """The cubic Taylor polynomial of sine about the nearer of +-pi, continued outwards, with its scale.

    With d = |x| - pi: sin = d (d^2 / 6 - 1), times the sign of x; it has a root at d = sqrt(6).
    """
    d = (np.abs(x) - math.pi) - _PI_LOW
    cubic = d * d / 6.0
    return np.copysign(1.0, x) * (d * (cubic - 1.0)), np.abs(d) * (cubic + 1.0)


# --- algebra ----------------------------------------------------------------------------------------------


def rsqrt(x: Array) -> Array:
    return 1.0 / np.sqrt(x)
