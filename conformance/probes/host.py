"""Exact arithmetic on the host: numbers, roundings and orders of adding, by hand formulas on whole numbers.

A finite number is a Python int in units of 2^-700, so sums and products of every format are exact, and a rounding
is a shift and a comparison. Infinity and NaN are Python floats, which every function passes on. Nothing here knows
`reference.numerics` or the machine: agreement is evidence.

Signs of zero are not kept: every sum here starts from +0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, reduce
from typing import Any

#: Whole numbers count units of 2^-SHIFT: below the product of any two subnormals that have scales on them.
SHIFT = 700

#: A whole number of units, or infinity or NaN.
Exact = int | float
Answers = Mapping[str, Any]
Add = Callable[[Exact, Exact], Exact]


# Inputs of probes are few and come again in every table.
@lru_cache(maxsize=1 << 17)
def whole(x: float) -> Exact:
    """The number `x` in units of 2^-SHIFT, exact; infinity and NaN as they are."""
    if not math.isfinite(x):
        return x
    numerator, denominator = float(x).as_integer_ratio()
    return numerator << (SHIFT + 1 - denominator.bit_length())


def number(n: Exact) -> float:
    """The float64 nearest to a whole number of units; exact for all that fits 53 bits."""
    return n if isinstance(n, float) else n / (1 << SHIFT)


def times(x: float, y: float) -> Exact:
    """x * y in units; exact, for the product of two numbers of up to 26 bits fits a float64, by IEEE otherwise."""
    return whole(x * y)


def plus(*terms: Exact) -> Exact:
    """The exact sum; by IEEE where a term is no finite number."""
    special = [term for term in terms if isinstance(term, float)]
    return sum(special) if special else sum(terms)


_LARGEST = int(whole((2.0 - 2.0**-23) * 2.0**127))


def rounded(n: Exact, bits: int = 24, mode: str = "rne", lowest: int = -149) -> Exact:
    """`n` to `bits` significant bits, no bit below 2^lowest kept: 'rne', 'rz', or 'floor' (towards -inf).

    The default is float32 without its overflow.
    """
    if isinstance(n, float):
        return n
    size = abs(n)
    drop = max(size.bit_length() - bits, SHIFT + lowest)
    kept, rest = size >> drop, size & ((1 << drop) - 1)
    if not rest:
        return n
    half = 1 << (drop - 1)
    away = {"rne": rest > half or (rest == half and kept & 1), "rz": False, "floor": n < 0}[mode]
    size = (kept + bool(away)) << drop
    return -size if n < 0 else size


def as_float32(n: Exact, mode: str = "rne") -> Exact:
    """`n` rounded to float32, with its overflow: to infinity, or under 'rz' to the largest finite number."""
    result = rounded(n, 24, mode)
    if isinstance(result, float) or abs(result) <= _LARGEST:
        return result
    limit: Exact = _LARGEST if mode == "rz" else math.inf
    return -limit if result < 0 else limit


def as_bfloat16(n: Exact) -> Exact:
    """`n` rounded to bfloat16, to nearest even, without its overflow."""
    return rounded(n, 8, "rne", -133)


def float32(x: float) -> float:
    """A float64 rounded once to float32, to nearest even."""
    return number(as_float32(whole(x)))


def bfloat16(x: float) -> float:
    """A float64 rounded once to bfloat16, to nearest even, without its overflow."""
    return number(as_bfloat16(whole(x)))


# --- orders of adding -------------------------------------------------------------------------------------


def chain(terms: Sequence[Exact], start: Exact | None, add: Add) -> Exact:
    """((start + t0) + t1) + ...; start +0 where there is none."""
    return reduce(add, terms, start or 0)


def _chain_rev(terms: Sequence[Exact], start: Exact | None, add: Add) -> Exact:
    return chain(terms[::-1], start, add)


def _seg32(terms: Sequence[Exact], start: Exact | None, add: Add) -> Exact:
    parts = [chain(terms[i : i + 32], None, add) for i in range(0, len(terms), 32)]
    return chain(parts, start, add)


def _tree(terms: Sequence[Exact], start: Exact | None, add: Add) -> Exact:
    level = [add(0, term) for term in terms]
    while len(level) > 1:
        odd = level[len(level) // 2 * 2 :]
        level = [add(x, y) for x, y in zip(level[0::2], level[1::2], strict=False)] + odd
    return level[0] if start is None else add(start, level[0])


def _lanes(count: int) -> Callable[[Sequence[Exact], Exact | None, Add], Exact]:
    def in_lanes(terms: Sequence[Exact], start: Exact | None, add: Add) -> Exact:
        registers = [chain(terms[i::count], start if i == 0 else None, add) for i in range(count)]
        return reduce(add, registers)

    return in_lanes


#: Candidates of U1 and V2 that are an order of binary additions: (terms, start, add) -> sum.
ORDERS: Mapping[str, Callable[[Sequence[Exact], Exact | None, Add], Exact]] = {
    "chain": chain,
    "chain_rev": _chain_rev,
    "seg32": _seg32,
    "tree": _tree,
    "lanes4": _lanes(4),
    "lanes8": _lanes(8),
}


def float32_sum(values: Sequence[float], order: str, start: float | None = None) -> float:
    """Sum of float32 values in an order of V2; 'exact' rounds once."""
    terms, begin = [whole(x) for x in values], None if start is None else whole(start)
    if order == "exact":
        return number(as_float32(plus(*terms, begin or 0)))
    return number(ORDERS[order](terms, begin, lambda x, y: as_float32(plus(x, y))))
