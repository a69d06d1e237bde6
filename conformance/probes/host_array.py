"""What the array of the tensor engine leaves in PSUM under an assignment of answers, by exact host arithmetic.

Follows the words of the candidates in `reference/numerics/profile.py`, not the code that plays them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conformance.probes.host import (
    ORDERS,
    SHIFT,
    Add,
    Answers,
    Exact,
    as_bfloat16,
    as_float32,
    number,
    plus,
    rounded,
    times,
    whole,
)

#: The contraction of one cell: (stationary, moving) values, row 0 first.
Rows = Sequence[tuple[float, float]]

#: Candidates of U2, and one the profile only names: significant bits of the register, and its rounding.
_REGISTER = {"rne": (24, "rne"), "rz": (24, "rz"), "floor": (24, "floor"), "wide28": (28, "rne")}


# --- one pass -----------------------------------------------------------------------------------------------


def product(a: float, b: float, answers: Answers) -> Exact:
    """One product on its way into an adder of float32 terms, after U12."""
    term = rounded(times(a, b))
    width = answers["product_round"]
    if width == "exact":
        return term
    return as_bfloat16(term) if width == "bf16" else rounded(term, int(width.removesuffix("_bits")))


def adder(answers: Answers) -> Add:
    """An addition in the array's register (U2)."""
    bits, mode = _REGISTER[answers["acc_round"]]

    def add(register: Exact, term: Exact) -> Exact:
        if term == 0:
            return register
        total = plus(register, term)
        return as_float32(total, mode) if bits == 24 else rounded(total, bits, mode, -SHIFT)

    return add


def leave(total: Exact, answers: Answers) -> Exact:
    """A sum that is rounded for the first time when it leaves the array."""
    return as_float32(total, "rne" if answers["acc_round"] == "wide28" else answers["acc_round"])


def array_sum(rows: Rows, answers: Answers, start: Exact | None = None) -> Exact:
    """The sum over K of one pass (U1, U2, U12), rounded to float32; `start` takes the place of the first +0."""
    order = answers["matmul_order"]
    if order.startswith("fdpa"):
        return fused(rows, int(order[-2:]), answers, start)
    if order == "exact" and answers["product_round"] == "exact":
        return leave(plus(*(times(a, b) for a, b in rows), start or 0), answers)
    return sum_terms([product(a, b, answers) for a, b in rows], answers, start)


def sum_terms(terms: Sequence[Exact], answers: Answers, start: Exact | None = None) -> Exact:
    """Terms that enter with one rounding each, in the array's order; rounded to float32."""
    order = answers["matmul_order"]
    if order not in ORDERS:
        return leave(plus(*terms, start or 0), answers)
    return as_float32(ORDERS[order](terms, start, adder(answers)))


def fused(rows: Rows, fraction: int, answers: Answers, start: Exact | None = None) -> Exact:
    """All terms cut, towards zero, to `fraction` bits below the largest exponent; added exactly, rounded once.

    The exponent of a product is the sum of its operands' exponents. A term that is no finite number decides alone.
    """
    exact = answers["product_round"] == "exact"
    terms = [times(a, b) if exact else product(a, b, answers) for a, b in rows]
    if any(isinstance(term, float) for term in terms):
        return plus(*terms)
    exponents = [math.frexp(a)[1] + math.frexp(b)[1] - 2 for a, b in rows if a and b]
    if start:
        terms, exponents = [*terms, start], [*exponents, abs(int(start)).bit_length() - 1 - SHIFT]
    last = SHIFT + max(exponents, default=0) - fraction
    return leave(sum(_cut(int(term), last) for term in terms), answers)


def _cut(n: int, last: int) -> int:
    kept = abs(n) >> last << last
    return -kept if n < 0 else kept


def onto_psum(array: Callable[[Exact | None], Exact], before: Exact | None, answers: Answers) -> Exact:
    """PSUM after an instruction whose array sum from a start value is `array` (U3)."""
    if before is None:
        return array(None)
    if answers["psum_entry"] == "seeds_chain":
        return array(before)
    return as_float32(plus(before, array(None)), answers["psum_add_round"])


def instruction(rows: Rows, answers: Answers, before: Exact | None = None) -> Exact:
    """PSUM after one matmul of operands of 16 bits and less, accumulated onto `before` if that is not None."""
    return onto_psum(lambda start: array_sum(rows, answers, start), before, answers)


# --- operands of 32 bits, and pairs -------------------------------------------------------------------------


def halves(x: float, split: str) -> tuple[float, float]:
    """float32 `x` as high and low part (U4)."""
    n = whole(x)
    if split.startswith("split_bf16"):
        high = as_bfloat16(n)
        return number(high), number(as_bfloat16(plus(n, -high)))
    high = rounded(n, 12 if split == "split_12_12" else 11, "rz", -SHIFT)
    return number(high), number(plus(n, -high))


def wide_instruction(rows: Rows, answers: Answers) -> Exact:
    """PSUM after one overwriting matmul of float32 operands, in the passes of U4."""
    split = answers["fp32_matmul"]
    if split == "exact_products":
        return instruction(rows, answers)
    pairs = [(halves(a, split), halves(b, split)) for a, b in rows]
    passes = [(0, 0), (0, 1), (1, 0)] + ([] if split == "split_bf16_3" else [(1, 1)])
    psum: Exact | None = None
    for i, j in passes:
        psum = instruction([(a[i], b[j]) for a, b in pairs], answers, psum)
    assert psum is not None
    return psum


def double_row_sum(slots: tuple[Rows, Rows], answers: Answers) -> Exact:
    """The sum of one double_row instruction: row p of both slots shares a processing element (U7)."""
    pair, order = answers["double_row_pair"], answers["matmul_order"]
    if pair == "halves":
        return array_sum([*slots[0], *slots[1]], answers)
    together = list(zip(*slots, strict=True))
    if pair == "two_steps" or order.startswith("fdpa"):
        return array_sum([row for two in together for row in two], answers)
    sums = [plus(*(product(a, b, answers) for a, b in two)) for two in together]
    return sum_terms([rounded(one) for one in sums] if pair == "rounded_pair" else sums, answers)


# --- block formats ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """One partition of an MX operand: four elements and the scale byte of their group."""

    lanes: tuple[float, float, float, float]
    scale: int


def mx_sum(left: Sequence[Block], right: Sequence[Block], answers: Answers) -> Exact:
    """The sum of one nc_matmul_mx of P partitions (U8). Products of 8-bit elements are exact, so U12 is none."""
    answers = {**answers, "product_round": "exact"}
    way, order = answers["mx_dot"], answers["matmul_order"]
    if way == "group_dot":
        return _group_sum(left, right, answers)
    wide = way.startswith("fused") or answers["mx_scale_overflow"] == "wide"
    blocks = [
        list(zip(_scaled(x, answers, wide), _scaled(y, answers, wide), strict=True))
        for x, y in zip(left, right, strict=True)
    ]
    rows = [row for block in blocks for row in block]
    if way == "dequant_exact" or (way == "dequant_order" and order == "exact"):
        return leave(plus(*(times(a, b) for a, b in rows)), answers)
    if way.startswith("fused") or order.startswith("fdpa"):
        return fused(rows, int((way if way.startswith("fused") else order)[-2:]), answers)
    return sum_terms([plus(*(times(a, b) for a, b in block)) for block in blocks], answers)


def scale_value(byte: int, answers: Answers) -> float:
    """2^(byte - 127); 0xFF is NaN or 2^128."""
    return math.nan if byte == 255 and answers["mx_scale_ff"] == "nan" else 2.0 ** (byte - 127)


def _scaled(block: Block, answers: Answers, wide: bool) -> list[float]:
    scale = scale_value(block.scale, answers)
    if not any(block.lanes) and scale == scale:
        return list(block.lanes)
    values = [times(element, scale) for element in block.lanes]
    return [number(value if wide else as_float32(value)) for value in values]


def _group_sum(left: Sequence[Block], right: Sequence[Block], answers: Answers) -> Exact:
    dots = []
    for first in range(0, len(left), 8):
        x, y = left[first : first + 8], right[first : first + 8]
        rows = [row for a, b in zip(x, y, strict=True) for row in zip(a.lanes, b.lanes, strict=True)]
        dot = number(leave(plus(*(times(a, b) for a, b in rows)), answers))
        scale = scale_value(x[0].scale, answers) * scale_value(y[0].scale, answers)
        value = times(dot, scale)
        dots.append(as_float32(value) if answers["mx_scale_overflow"] == "ieee" else value)
    return sum_terms(dots, answers)
