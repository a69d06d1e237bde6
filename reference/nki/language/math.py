"""Arithmetic of nki.language.

Each function allocates an SBUF tile for its result, in `dtype` or else the dtype of the first tile. Most
kernels use the functions only as operator names: nisa.tensor_tensor(..., op=nl.add).
"""

from __future__ import annotations

from typing import Any

from reference.neuroncore import tile_math as machine
from reference.neuroncore.tensor import Tensor


class Operator:
    """A function of nki.language that instructions also take as an operator; `nki_op` is its name there."""

    def __init__(self, name: str, doc: str) -> None:
        self.nki_op = name
        self.__name__ = self.__qualname__ = name
        self.__doc__ = doc

    def __repr__(self) -> str:
        return f"nl.{self.nki_op}"


class Unary(Operator):
    """f(x, dtype=None)."""

    def __call__(self, x: Any, dtype: Any = None) -> Tensor:
        return machine.unary(self.nki_op, x, dtype)


class Binary(Operator):
    """f(x, y, dtype=None); x or y may be a number, two tiles have equal shapes."""

    def __call__(self, x: Any, y: Any, dtype: Any = None) -> Tensor:
        return machine.binary(self.nki_op, x, y, dtype)


add = Binary("add", "x + y.")
subtract = Binary("subtract", "x - y.")
multiply = Binary("multiply", "x * y.")
divide = Binary("divide", "x / y, rounded once. The hardware has no divide.")
maximum = Binary("maximum", "The larger of x and y (NaN by profile V5).")
minimum = Binary("minimum", "The smaller of x and y (NaN by profile V5).")
abs_max = Binary("abs_max", "The operand of larger magnitude, y on a tie (gen4).")
abs_min = Binary("abs_min", "The operand of smaller magnitude, y on a tie (gen4).")
power = Binary("power", "x to the power y, correctly rounded.")
mod = Binary("mod", "Remainder of x / y with the sign of y. The hardware has none.")
fmod = Binary("fmod", "Remainder of x / y with the sign of x, exact. The hardware has none.")
equal = Binary("equal", "1.0 where x == y, else 0.0.")
not_equal = Binary("not_equal", "1.0 where x != y, else 0.0.")
less = Binary("less", "1.0 where x < y, else 0.0.")
less_equal = Binary("less_equal", "1.0 where x <= y, else 0.0.")
greater = Binary("greater", "1.0 where x > y, else 0.0.")
greater_equal = Binary("greater_equal", "1.0 where x >= y, else 0.0.")
bitwise_and = Binary("bitwise_and", "Bits set in both.")
bitwise_or = Binary("bitwise_or", "Bits set in either.")
bitwise_xor = Binary("bitwise_xor", "Bits set in one.")
left_shift = Binary("left_shift", "Bits of x moved up by y, zeros filled in.")
right_shift = Binary("right_shift", "Bits of x moved down by y, zeros filled in.")
logical_and = Binary("logical_and", "1.0 where both are not 0, else 0.0.")
logical_or = Binary("logical_or", "1.0 where either is not 0, else 0.0.")
logical_xor = Binary("logical_xor", "1.0 where exactly one is not 0, else 0.0.")

abs = Unary("abs", "Magnitude.")
square = Unary("square", "x * x.")
negative = Unary("negative", "-x.")
sign = Unary("sign", "-1, 0 or 1.")
ceil = Unary("ceil", "The smallest integer that is not below x.")
floor = Unary("floor", "The largest integer that is not above x.")
trunc = Unary("trunc", "x without its fraction.")
invert = Unary("invert", "Every bit flipped.")
logical_not = Unary("logical_not", "1.0 where x is 0, else 0.0.")
exp = Unary("exp", "e to the power x.")
log = Unary("log", "Natural logarithm; NaN below 0.")
sqrt = Unary("sqrt", "Square root; NaN below 0.")
rsqrt = Unary("rsqrt", "1 / sqrt(x).")
reciprocal = Unary("reciprocal", "1 / x.")
tanh = Unary("tanh", "Hyperbolic tangent.")
sigmoid = Unary("sigmoid", "1 / (1 + exp(-x)).")
relu = Unary("relu", "max(x, 0).")
gelu = Unary("gelu", "x * Phi(x), with erf.")
gelu_apprx_sigmoid = Unary("gelu_apprx_sigmoid", "x * sigmoid(1.702 x).")
gelu_apprx_tanh = Unary("gelu_apprx_tanh", "x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).")
gelu_dx = Unary("gelu_dx", "Derivative of gelu.")
gelu_apprx_sigmoid_dx = Unary("gelu_apprx_sigmoid_dx", "Derivative of gelu_apprx_sigmoid.")
silu = Unary("silu", "x * sigmoid(x).")
silu_dx = Unary("silu_dx", "Derivative of silu.")
softplus = Unary("softplus", "log(1 + exp(x)).")
mish = Unary("mish", "x * tanh(softplus(x)).")
erf = Unary("erf", "Error function.")
erf_dx = Unary("erf_dx", "Derivative of erf.")
sin = Unary("sin", "Sine on the whole line (nisa.activation reduces no range).")
cos = Unary("cos", "Cosine on the whole line.")
tan = Unary("tan", "Tangent on the whole line.")
arctan = Unary("arctan", "Inverse tangent.")


def where(condition: Any, x: Any, y: Any, dtype: Any = None) -> Tensor:
    """x where condition is not 0, else y; x and y tiles or numbers."""
    return machine.where(condition, x, y, dtype)


def dropout(x: Any, rate: float, dtype: Any = None) -> Tensor:
    """x with each element zeroed with probability `rate`, by the generator of `random_seed`; nothing is
    rescaled."""
    return machine.dropout(x, rate, dtype)


def softmax(x: Any, axis: Any = -1, dtype: Any = None) -> Tensor:
    """exp(x - max(x)) / sum over the last free axes, each step in fp32."""
    return machine.softmax(x, axis, dtype)


def rms_norm(
    x: Any, w: Any, axis: Any, n: int, epsilon: float = 1e-06, dtype: Any = None, compute_dtype: Any = None
) -> Tensor:
    """x * rsqrt(sum(x^2) / n + epsilon) * w over the last free axes, each step in fp32."""
    return machine.rms_norm(x, w, axis, n, epsilon, dtype, compute_dtype)


class Reduction(Operator):
    """f(x, axis, dtype=None, keepdims=False) over the last contiguous free axes, in fp32."""

    def __init__(self, name: str, rule: str, doc: str) -> None:
        super().__init__(name, doc)
        self._rule = rule

    def __call__(self, x: Any, axis: Any, dtype: Any = None, keepdims: bool = False) -> Tensor:
        return machine.reduce(self._rule, x, axis, dtype, keepdims or self._rule == "var")


sum = Reduction("sum", "add", "Sum.")
prod = Reduction("prod", "multiply", "Product.")
max = Reduction("max", "maximum", "Largest value.")
min = Reduction("min", "minimum", "Smallest value.")
mean = Reduction("mean", "mean", "Sum divided by the count.")
var = Reduction("var", "var", "Population variance; the reduced axes stay with size 1.")


def all(x: Any, axis: Any, dtype: Any = None) -> Tensor:
    """1.0 where every element along the axes is not 0, else 0.0."""
    return machine.reduce("logical_and", x, axis, dtype, False)
