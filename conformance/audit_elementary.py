"""Audit: the elementary functions against mpmath, on all bfloat16 codes and a million random float32 inputs.

    python -m conformance.audit_elementary --inputs 1000000

What is claimed: the result is the float32 nearest to the real function of the argument, for every argument.
What is checked: the real function lies between the midpoints around the result, by a witness that shares no
formula with `reference.numerics` and works in 400 bits. The witness is mpmath, or with `--witness flint` the
ball arithmetic of python-flint, whose bounds are proven (an optional package, and twenty times as fast). The
table printed also gives the share of arguments that the float64 estimate left undecided: the slow path.

Exit status 1 if any result is wrong or the witness cannot decide. With mpmath it takes most of an hour; the
test suite runs the same checks on fewer arguments.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray

from reference.numerics.elementary import FUNCTIONS, sin_engine
from reference.numerics.power import attempt_power, power

Array = NDArray[Any]
Formula = Callable[[Any, Any], Any]

_BITS = 400


# --- witnesses --------------------------------------------------------------------------------------------


class MpmathWitness:
    """Formulas in 400-bit mpmath, with an error of 2^-330, relative and absolute, allowed for."""

    name = "mpmath"

    def __init__(self) -> None:
        self.m = mpmath.mp.clone()
        self.m.prec = _BITS
        self._last: tuple[Any, Any] = (None, None)

    def order(self, formula: Callable[..., Any], arguments: Sequence[float], bound: float) -> int | None:
        """Sign of formula(arguments) - bound; None if too close to tell."""
        value = self._value(formula, arguments)
        difference = value - bound
        # No difference at all in 400 bits is no accident: squares and powers hit midpoints exactly.
        if difference == 0:
            return 0
        margin = self.m.ldexp(abs(value) + 1, -330)
        return None if abs(difference) <= margin else int(self.m.sign(difference))

    def sign(self, formula: Callable[..., Any], arguments: Sequence[float]) -> int | None:
        """Sign of formula(arguments); None for 0, which is what 1 + tanh(-1000) leaves of a number."""
        return int(self.m.sign(self._value(formula, arguments))) or None

    def _value(self, formula: Callable[..., Any], arguments: Sequence[float]) -> Any:
        # One result is asked about twice or more in a row.
        if self._last[0] != (formula, arguments):
            self._last = (formula, arguments), formula(self.m, *map(self.m.mpf, arguments))
        return self._last[1]


class FlintWitness:
    """Formulas in the ball arithmetic of python-flint, at rising precision; mpmath beyond its exponents."""

    name = "flint"

    def __init__(self) -> None:
        import flint

        self.flint = flint
        self.m = _FlintContext(flint.arb)
        self.other = MpmathWitness()

    def order(self, formula: Callable[..., Any], arguments: Sequence[float], bound: float) -> int | None:
        for precision in (128, _BITS, 4 * _BITS):
            self.flint.ctx.prec = precision
            value, limit = formula(self.m, *map(self.flint.arb, arguments)), self.flint.arb(bound)
            if value > limit or value < limit:
                return 1 if value > limit else -1
            if value.is_exact() and value == limit:
                return 0
        return self.other.order(formula, arguments, bound)

    def sign(self, formula: Callable[..., Any], arguments: Sequence[float]) -> int | None:
        return self.other.sign(formula, arguments)


class _FlintContext:
    """The few names of an mpmath context that the formulas use, for arb."""

    def __init__(self, arb: Any) -> None:
        self._arb = arb

    @property
    def pi(self) -> Any:
        return self._arb.pi()

    def mpf(self, decimal: str) -> Any:
        return self._arb(decimal)

    def power(self, base: Any, exponent: Any) -> Any:
        return base**exponent

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        # mpmath calls it atan like arb; the other names agree, too.
        return lambda x: getattr(self._arb(x), name)()


# --- formulas, by definition ------------------------------------------------------------------------------


def _sigmoid(m: Any, x: Any) -> Any:
    return 1 / (1 + m.exp(-x))


def _gelu_dx(m: Any, x: Any) -> Any:
    return m.erfc(-x / m.sqrt(2)) / 2 + x * m.exp(-(x**2) / 2) / m.sqrt(2 * m.pi)


def _swish_dx(m: Any, z: Any) -> Any:
    s = _sigmoid(m, z)
    return s + z * s * (1 - s)


def _gelu_apprx_tanh(m: Any, x: Any) -> Any:
    return x / 2 * (1 + m.tanh(m.sqrt(2 / m.pi) * (x + m.mpf("0.044715") * x**3)))


def _mish(m: Any, x: Any) -> Any:
    return x * m.tanh(m.log1p(m.exp(x)))


FORMULAS: Mapping[str, Formula] = {
    "exp": lambda m, x: m.exp(x),
    "log": lambda m, x: m.log(x),
    "tanh": lambda m, x: m.tanh(x),
    "sigmoid": _sigmoid,
    "silu": lambda m, x: x / (1 + m.exp(-x)),
    "silu_dx": _swish_dx,
    "gelu": lambda m, x: x * m.erfc(-x / m.sqrt(2)) / 2,
    "gelu_dx": _gelu_dx,
    "gelu_apprx_tanh": _gelu_apprx_tanh,
    "gelu_apprx_sigmoid": lambda m, x: x * _sigmoid(m, m.mpf("1.702") * x),
    "gelu_apprx_sigmoid_dx": lambda m, x: _swish_dx(m, m.mpf("1.702") * x),
    "erf": lambda m, x: m.erf(x),
    "erf_dx": lambda m, x: 2 / m.sqrt(m.pi) * m.exp(-(x**2)),
    "softplus": lambda m, x: m.log1p(m.exp(x)),
    "mish": _mish,
    "sin": lambda m, x: m.sin(x),
    "cos": lambda m, x: m.cos(x),
    "tan": lambda m, x: m.sin(x) / m.cos(x),
    "arctan": lambda m, x: m.atan(x),
    "sqrt": lambda m, x: m.sqrt(x),
    "rsqrt": lambda m, x: 1 / m.sqrt(x),
    "reciprocal": lambda m, x: 1 / x,
    "square": lambda m, x: x * x,
    "sin_engine": lambda m, x: m.sin(x) if abs(x) < m.pi else _cubic(m, x),
    "power": lambda m, x, y: m.power(x, y),
}


def _cubic(m: Any, x: Any) -> Any:
    d = abs(x) - m.pi
    return (d**3 / 6 - d) * (1 if x > 0 else -1)


#: Functions whose real domain is x > 0.
POSITIVE = {"log", "sqrt", "rsqrt"}


# --- the check --------------------------------------------------------------------------------------------


def neighbours(y: Array) -> tuple[Array, Array]:
    """float64 midpoints below and above float32 `y`; beyond the largest finite number the next is 2^128."""

    def widened(values: Array) -> Array:
        wide = values.astype(np.float64)
        return np.where(np.isinf(wide), np.copysign(2.0**128, wide), wide)

    with np.errstate(over="ignore", under="ignore"):
        below = widened(np.nextafter(y, np.float32(-np.inf)))
        above = widened(np.nextafter(y, np.float32(np.inf)))
    here = widened(y)
    return np.where(y == -np.inf, -np.inf, (below + here) / 2), np.where(y == np.inf, np.inf, (here + above) / 2)


def verdict(
    witness: Any,
    formula: Callable[..., Any],
    arguments: Sequence[float],
    y: np.float32,
    low: float,
    high: float,
) -> str:
    """'right', 'wrong' or 'undecided' for one result; a midpoint is right for the even neighbour, and a zero
    must have the sign of the real value."""
    even = int(np.array(y).view(np.uint32)) % 2 == 0
    for bound, side in ((low, 1), (high, -1)):
        if np.isinf(bound):
            continue
        order = witness.order(formula, arguments, bound)
        if order is None:
            return "undecided"
        if order == -side or (order == 0 and not even):
            return "wrong"
    if y == 0:
        sign = witness.sign(formula, arguments)
        return "wrong" if sign is not None and sign == (1 if np.signbit(y) else -1) else "right"
    return "right"


@dataclass
class Row:
    """What the audit found for one function."""

    name: str
    inputs: int = 0
    undecided: int = 0
    slow: int = 0
    seconds: float = 0.0
    wrong: list[tuple[tuple[float, ...], float]] = field(default_factory=list)


def audit(name: str, arguments: tuple[Array, ...], witness: Any, function: Callable[..., Array], slow: int) -> Row:
    """Check `function` at finite float32 `arguments` (one array per argument)."""
    row, start = Row(name, inputs=len(arguments[0]), slow=slow), time.perf_counter()
    results = function(*arguments)
    low, high = neighbours(results)
    columns = [a.astype(np.float64).tolist() for a in arguments]
    for i, point in enumerate(zip(*columns, strict=True)):
        found = verdict(witness, FORMULAS[name], point, results[i], low[i], high[i])
        row.undecided += found == "undecided"
        if found == "wrong":
            row.wrong.append((point, float(results[i])))
    row.seconds = time.perf_counter() - start
    return row


def bfloat16_codes() -> Array:
    """All bfloat16 codes as float32, as patterns."""
    return (np.arange(65536, dtype=np.uint32) << 16).view(np.float32)


def random_inputs(count: int, seed: int) -> Array:
    """Finite float32 other than 0: half from all patterns, half with exponents where functions bend."""
    rng = np.random.default_rng(seed)
    anywhere = rng.integers(1, 0x7F800000, count // 2, dtype=np.uint32)
    # Exponents -16 to 7: from where 1 + x is nearly 1 in float32 to where all functions have saturated.
    bent = rng.integers(111 << 23, 135 << 23, count - count // 2, dtype=np.uint32)
    patterns = np.concatenate([anywhere, bent])
    return (patterns | (rng.integers(0, 2, count, dtype=np.uint32) << 31)).view(np.float32)


def arguments_for(name: str, values: Array) -> Array:
    """Those of `values` that are finite and not zero, as magnitudes if only these are in the domain."""
    kept = values[np.isfinite(values) & (values != 0)]
    return np.abs(kept) if name in POSITIVE else kept


def audit_named(name: str, values: Array, witness: Any) -> Row:
    """Check one function of the table on those of `values` that fit."""
    if name == "power":
        return _audit_power(values, witness)
    x = arguments_for(name, values)
    if name == "sin_engine":
        return audit(name, (x,), witness, sin_engine, int(FUNCTIONS["sin"].attempt(x)[1].sum()))
    function = FUNCTIONS[name]
    return audit(name, (x,), witness, function, int(function.attempt(x)[1].sum()))


def _audit_power(values: Array, witness: Any) -> Row:
    """Positive bases of every size to exponents of moderate size, and whole exponents for negative bases."""
    x = arguments_for("power", values)
    rng = np.random.default_rng(len(x))
    y = (rng.standard_normal(len(x)) * 2.0 ** rng.integers(-3, 5, len(x))).astype(np.float32)
    y = np.where((x < 0) | (rng.random(len(x)) < 0.25), np.rint(y), y)
    y = np.where((x > 0) & (rng.random(len(x)) < 0.1), np.float32(-0.5), y).astype(np.float32)
    x, y = x[y != 0], y[y != 0]
    return audit("power", (x, y), witness, power, int(attempt_power(x, y)[1].sum()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the audit and print its table; the exit status of the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="random float32 inputs per function")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--witness", choices=("mpmath", "flint"), default="mpmath")
    parser.add_argument("--functions", default=",".join(FORMULAS), help="comma-separated names")
    options = parser.parse_args(argv)
    witness = FlintWitness() if options.witness == "flint" else MpmathWitness()
    values = np.concatenate([bfloat16_codes(), random_inputs(options.inputs, options.seed)])
    print(f"witness {witness.name}; all bfloat16 codes and {options.inputs} random float32, seed {options.seed}")
    print(f"{'function':22} {'inputs':>9} {'wrong':>6} {'undecided':>9} {'slow':>6} {'slow share':>10} {'s':>6}")
    failed = False
    for name in options.functions.split(","):
        row = audit_named(name, values, witness)
        failed |= bool(row.wrong or row.undecided)
        print(
            f"{row.name:22} {row.inputs:9} {len(row.wrong):6} {row.undecided:9} {row.slow:6} "
            f"{row.slow / row.inputs:10.1e} {row.seconds:6.0f}",
            flush=True,
        )
        for point, result in row.wrong[:5]:
            print(f"    {row.name}{point} gave {result!r} ({np.float32(result).view(np.uint32):#010x})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
