"""The functions as mpmath formulas: what `certify.decide` evaluates where a float64 estimate does not decide.

Each formula keeps its precision, relative to its value, but for cancellation at a root, where no float32
argument is near enough to lose more than about 30 bits. Decimal constants (1.702, 0.044715) are the decimals
themselves, not their float32 neighbours. Arguments are finite.
"""

from __future__ import annotations

from typing import Any


def sigmoid(m: Any, x: Any) -> Any:
    return 1 / (1 + m.exp(-x))


def softplus(m: Any, x: Any) -> Any:
    return m.log1p(m.exp(x))


def silu(m: Any, x: Any) -> Any:
    return x * sigmoid(m, x)


def silu_dx(m: Any, x: Any) -> Any:
    return sigmoid(m, x) * (1 + x * sigmoid(m, -x))


def mish(m: Any, x: Any) -> Any:
    n = m.exp(x) * (m.exp(x) + 2)
    return x * n / (n + 2)


def normal(m: Any, x: Any) -> Any:
    """P(X <= x) for a standard normal X."""
    return m.erfc(-x / m.sqrt(2)) / 2


def gelu(m: Any, x: Any) -> Any:
    return x * normal(m, x)


def gelu_dx(m: Any, x: Any) -> Any:
    return normal(m, x) + x * m.exp(-x * x / 2) / m.sqrt(2 * m.pi)


def gelu_apprx_sigmoid(m: Any, x: Any) -> Any:
    return x * sigmoid(m, m.mpf("1.702") * x)


def gelu_apprx_sigmoid_dx(m: Any, x: Any) -> Any:
    return silu_dx(m, m.mpf("1.702") * x)


def gelu_apprx_tanh(m: Any, x: Any) -> Any:
    return x * sigmoid(m, 2 * m.sqrt(2 / m.pi) * (x + m.mpf("0.044715") * x**3))


def erf_dx(m: Any, x: Any) -> Any:
    return 2 * m.exp(-x * x) / m.sqrt(m.pi)


def sin_beyond_pi(m: Any, x: Any) -> Any:
    d = abs(x) - m.pi
    return m.sign(x) * (d**3 / 6 - d)


def rsqrt(m: Any, x: Any) -> Any:
    return 1 / m.sqrt(x)
