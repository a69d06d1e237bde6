"""Probes of the tensor engine: U1 to U12.

Unless said otherwise a result is the fp32 PSUM value, read back by a copy of the same dtype. Sources of the designs:
numerics fact sheet, 11.1 and 12.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random

import ml_dtypes
import numpy as np

from conformance.probes import fprev
from conformance.probes.host import Answers, Exact, bfloat16, number, plus, rounded, whole
from conformance.probes.host_array import (
    Block,
    Rows,
    array_sum,
    double_row_sum,
    instruction,
    mx_sum,
    wide_instruction,
)
from conformance.probes.probe import Array, Expected, Outputs, Probe, Readings, Setting, call, cells
from conformance.probes.sums import (
    Sum,
    diagonal,
    grouped,
    operands,
    placements,
    psum_operands,
    random_bf16,
    random_e5m2,
    random_float32,
    stored,
)
from conformance.subject import Call

_BF16, _FP16 = ml_dtypes.bfloat16, np.float16
_ARRAY = ("matmul_order", "acc_round")
_PSUM = (*_ARRAY, "psum_entry", "psum_add_round", "product_round")


def _matmul(sums: list[Sum], depth: int, dtype: object) -> Call:
    return call("tensor.matmul", operands(sums, depth, dtype))


# --- U12: products of 16-bit operands -----------------------------------------------------------------------


def _sweep(reading: str, bits: int) -> list[Sum]:
    """(1 + 2^-i) (1 + 2^-j): the last bit 2^-(i+j) of the product survives or does not."""
    pairs = [(i, j) for i in range(1, bits + 1) for j in range(i, bits + 1)]
    return [Sum(reading, [(1 + 2.0**-i, 1 + 2.0**-j)]) for i, j in pairs]


_A = 1 + 2.0**-7
_PRODUCTS = {
    "bf16": [Sum("1+2^-7 squared", [(_A, _A)]), *_sweep("bf16 sweep", 7), Sum("rest", [(_A, _A), (-1 - 2.0**-6, 1.0)])],
    "fp16": _sweep("fp16 sweep", 10),
}


def _products_table(answers: Answers, setting: Setting) -> Expected:
    exact = {**answers, "matmul_order": "chain", "acc_round": "rne"}
    found: Readings = {}
    for sums in _PRODUCTS.values():
        found |= grouped(sums, (number(array_sum(one.rows, exact)) for one in sums))
    return found


U12 = Probe(
    "U12",
    "K=1 products of 16-bit operands, down to their last bit; the residue shows whether they or the output rounded",
    ("product_round",),
    lambda setting: {
        "bf16": _matmul(_PRODUCTS["bf16"], 2, _BF16),
        "fp16": _matmul(_PRODUCTS["fp16"], 2, _FP16),
    },
    lambda out, setting: {
        **diagonal(_PRODUCTS["bf16"], out["bf16"]["out"]),
        **diagonal(_PRODUCTS["fp16"], out["fp16"]["out"]),
    },
    _products_table,
    others={
        "product_round": {f"{n}_bits": f"every product is rounded to {n} significant bits first" for n in range(9, 21)}
    },
)


# --- U6: subnormal numbers in the array ---------------------------------------------------------------------

#: dtype -> smallest normal exponent.
_FORMATS: dict[str, tuple[object, int]] = {
    "fp16": (_FP16, -14),
    "e4m3": (ml_dtypes.float8_e4m3, -6),
    "e5m2": (ml_dtypes.float8_e5m2, -14),
    "bf16": (_BF16, -126),
    "fp32": (np.float32, -126),
}
_SMALL: dict[str, list[Sum]] = {
    "fp16": [Sum("fp16 2^-24 x 1", [(2.0**-24, 1.0)])],
    "e4m3": [Sum("e4m3 2^-9 x 1", [(2.0**-9, 1.0)])],
    "e5m2": [Sum("e5m2 2^-16 x 1", [(2.0**-16, 1.0)])],
    "bf16": [
        Sum("bf16 2^-130 x 2^10", [(2.0**-130, 2.0**10)]),
        Sum("bf16 2^-65 x 2^-65", [(2.0**-65, 2.0**-65)]),
        Sum("bf16 2^-126 - 1.5 x 2^-126", [(2.0**-126, 1.0), (-1.5 * 2.0**-126, 1.0)]),
    ],
    "fp32": [Sum("fp32 2^-130 x 2^10", [(2.0**-130, 2.0**10)]), Sum("fp32 2^-130 x 1", [(2.0**-130, 1.0)])],
}


def _small_sum(rows: Rows, lowest: int, policy: str) -> float:
    def read(x: float) -> float:
        return 0.0 if "daz" in policy and abs(x) < 2.0**lowest else x

    total = math.fsum(read(a) * read(b) for a, b in rows)
    return 0.0 if "ftz" in policy and abs(total) < 2.0**-126 else total


def _small_table(answers: Answers, setting: Setting) -> Expected:
    found: Readings = {}
    for name, sums in _SMALL.items():
        found |= grouped(sums, (_small_sum(one.rows, _FORMATS[name][1], answers["subnormals"]) for one in sums))
    return found


def _read_small(out: Outputs, setting: Setting) -> Readings:
    found = [diagonal(sums, out[name]["out"]) for name, sums in _SMALL.items()]
    # The sign of a flushed zero is no part of the question.
    return {name: values + 0.0 for one in found for name, values in one.items()}


U6 = Probe(
    "U6",
    "subnormal operands of every format, subnormal products and sums, through the array",
    ("subnormals",),
    lambda setting: {name: _matmul(sums, 2, _FORMATS[name][0]) for name, sums in _SMALL.items()},
    _read_small,
    _small_table,
)


# --- U2: width and rounding of the register -----------------------------------------------------------------

_WIDTHS = [
    *(Sum("2^w + 1 - 2^w, w = 20..40", rows) for w in range(20, 41) for rows in placements((2.0**w, 1.0, -(2.0**w)))),
    Sum("2^24 + 3", [(2.0**24, 1.0), (3.0, 1.0)]),
    Sum("-2^24 - 3", [(-(2.0**24), 1.0), (-3.0, 1.0)]),
    *(Sum("2^24 + 1 + 1", rows) for rows in placements((1.0, 2.0**24, 1.0))),
    *(Sum("-2^24 - 1 - 1", rows) for rows in placements((-1.0, -(2.0**24), -1.0))),
    *(Sum("2^24 + 3 + 2^-2", rows) for rows in placements((3.0, 2.0**24, 2.0**-2))),
]


def _widths_table(answers: Answers, setting: Setting) -> Expected:
    return grouped(_WIDTHS, (number(array_sum(one.rows, {**answers, "product_round": "exact"})) for one in _WIDTHS))


U2 = Probe(
    "U2",
    "2^w + 1 - 2^w with the 1 in every place: the widest w it survives; 2^24 + 3 of both signs: the rounding",
    ("acc_round",),
    lambda setting: {"bf16": _matmul(_WIDTHS, 3, _BF16)},
    lambda out, setting: diagonal(_WIDTHS, out["bf16"]["out"]),
    _widths_table,
    needs=("matmul_order",),
    others={"acc_round": {"floor": "every addition rounds to fp32, towards -inf"}},
)


# --- U3: PSUM -----------------------------------------------------------------------------------------------


def _many(value: float) -> list[tuple[float, float]]:
    return [(value, 1.0)] * 128


def _random_rows(source: Random, span: int) -> list[tuple[float, float]]:
    return [(random_bf16(source, -span, span), 1.0) for _ in range(128)]


def _random_before(source: Random) -> tuple[float, ...]:
    """Three bf16 digits of one 24-bit number near 2^10: their sum is exact in any order."""
    return ((128 + source.getrandbits(7)) * 8.0, source.getrandbits(8) / 32.0, source.getrandbits(8) / 8192.0)


def _psum_cells() -> list[Sum]:
    return [
        *(Sum(f"2^24, then 128 x 2^-{e}", _many(2.0**-e), (2.0**24,)) for e in range(6)),
        Sum("2^24, then 3", [(3.0, 1.0)], (2.0**24,)),
        Sum("-2^24, then -3", [(-3.0, 1.0)], (-(2.0**24),)),
        Sum("2^24, then 1 + 2^-24", [(1.0, 1.0), (2.0**-24, 1.0)], (2.0**24,)),
        Sum("1 + 2^-23, then 1 + 2^-24", [(1.0, 1.0), (2.0**-24, 1.0)], (1.0, 2.0**-23)),
    ]


@cache
def _random_psum_cells() -> list[Sum]:
    source = Random(3)
    return [Sum("random", _random_rows(source, 12), _random_before(source)) for _ in range(48)]


def _psum_probe(asks: str, found: Callable[[], list[Sum]], strict: bool) -> Probe:
    def table(answers: Answers, setting: Setting) -> Expected:
        exact = {**answers, "product_round": "exact"}
        befores = (plus(*map(whole, one.before)) for one in found())
        sums = (instruction(one.rows, exact, before) for one, before in zip(found(), befores, strict=True))
        return grouped(found(), map(number, sums))

    def launches(setting: Setting) -> dict[str, Call]:
        arguments = psum_operands(found(), _BF16) | operands(found(), 128, _BF16)
        return {"bf16": call("tensor.matmul_onto", arguments)}

    return Probe(
        "U3",
        asks,
        ("psum_entry", "psum_add_round"),
        launches,
        lambda out, setting: diagonal(found(), out["bf16"]["out"]),
        table,
        needs=_ARRAY,
        strict=strict,
        others={"psum_add_round": {"floor": "towards -inf"}},
    )


U3 = _psum_probe(
    "one instruction leaves 2^24 in PSUM, the next adds ones (lost one by one, kept when summed first), or 3",
    _psum_cells,
    strict=False,
)
U3_RANDOM = _psum_probe("random sums of 128 rows onto random PSUM values", _random_psum_cells, strict=True)


# --- U1: order ----------------------------------------------------------------------------------------------

_DEPTH = 128


@cache
def _order_cells() -> list[Sum]:
    source = Random(1)

    def rows() -> list[tuple[float, float]]:
        return [(random_bf16(source, -6, 6), random_bf16(source, -6, 6)) for _ in range(_DEPTH)]

    return [Sum("random", rows()) for _ in range(32)]


def _masks() -> dict[str, Array]:
    return {
        "stationary": np.ones((_DEPTH, 1), _BF16),
        "moving": np.ascontiguousarray(stored(fprev.masked(_DEPTH), _BF16).T),
    }


def _order_table(answers: Answers, setting: Setting) -> Expected:
    random = grouped(_order_cells(), (number(array_sum(one.rows, answers)) for one in _order_cells()))
    return {"masked sums": fprev.expected_counts(answers["matmul_order"], _DEPTH), **random}


U1 = Probe(
    "U1",
    "two masked rows for all 8128 pairs of 128 rows (FPRev): the tree of additions; then random sums",
    ("matmul_order",),
    lambda setting: {"masks": call("tensor.matmul", _masks()), "random": _matmul(_order_cells(), _DEPTH, _BF16)},
    lambda out, setting: {
        "masked sums": fprev.counts(out["masks"]["out"]),
        **diagonal(_order_cells(), out["random"]["out"]),
    },
    _order_table,
    needs=("acc_round", "product_round"),
    notes=lambda readings, setting: [f"rows of one matmul: {fprev.describe(readings['masked sums'], _DEPTH)}"],
)


# --- U7: double_row -----------------------------------------------------------------------------------------


@cache
def _pair_cells() -> list[tuple[Sum, Sum]]:
    """Both slots of every cell: random e5m2, far apart in size."""
    source = Random(7)

    def rows() -> list[tuple[float, float]]:
        return [(random_e5m2(source, -12, 12), random_e5m2(source, -10, 0)) for _ in range(_DEPTH)]

    return [(Sum("random", rows()), Sum("random", rows())) for _ in range(48)]


def _pair_operands() -> dict[str, Array]:
    slots = [operands([cell[slot] for cell in _pair_cells()], _DEPTH, ml_dtypes.float8_e5m2) for slot in (0, 1)]
    return {name: np.stack([slot[name] for slot in slots], axis=1) for name in slots[0]}


def _pair_table(answers: Answers, setting: Setting) -> Expected:
    exact = {**answers, "product_round": "exact"}
    values = (number(double_row_sum((a.rows, b.rows), exact)) for a, b in _pair_cells())
    return grouped([a for a, _ in _pair_cells()], values)


U7 = Probe(
    "U7",
    "double_row sums of 256 fp8 products far apart in size: how a pair enters shows in the roundings",
    ("double_row_pair",),
    lambda setting: {"e5m2": call("tensor.double_row", _pair_operands())},
    lambda out, setting: diagonal([a for a, _ in _pair_cells()], out["e5m2"]["out"]),
    _pair_table,
    needs=_ARRAY,
    strict=True,
    since=3,
)


# --- U4, U5: operands of 32 bits ----------------------------------------------------------------------------

_X, _E = 1 + 2.0**-9 + 2.0**-18, 1 + 2.0**-12


@cache
def _wide_cells() -> list[Sum]:
    source = Random(4)
    return [
        Sum("x - 1, x = 1 + 2^-9 + 2^-18", [(_X, 1.0), (-1.0, 1.0)]),
        Sum("e e - 1 - 2^-11, e = 1 + 2^-12", [(_E, _E), (-1 - 2.0**-11, 1.0)]),
        Sum("e e - 1 - 2^-11, e = 1 + 2^-12", [(_E, _E), (-1.0, 1.0), (-(2.0**-11), 1.0)]),
        Sum("1 + 2^-11 + 2^-20", [(1 + 2.0**-11 + 2.0**-20, 1.0)]),
        *(Sum("random products", [(random_float32(source), random_float32(source))]) for _ in range(64)),
        *(
            Sum("random sums of 3", [(random_float32(source), random_float32(source)) for _ in range(3)])
            for _ in range(16)
        ),
    ]


def _wide_table(answers: Answers, setting: Setting) -> Expected:
    return grouped(_wide_cells(), (number(wide_instruction(one.rows, answers)) for one in _wide_cells()))


def _read_wide(out: Outputs, setting: Setting) -> Readings:
    declared = diagonal(_wide_cells(), out["onezero"]["out"]) if "onezero" in out else {}
    return diagonal(_wide_cells(), out["fp32"]["out"]) | {
        f"{name} (declared onezero)": values for name, values in declared.items()
    }


U4 = Probe(
    "U4",
    "fp32 products and residues that need the low halves; the same with the operand declared onezero, as evidence",
    ("fp32_matmul",),
    lambda setting: {
        "fp32": _matmul(_wide_cells(), 3, np.float32),
        "onezero": call("tensor.matmul_onezero", operands(_wide_cells(), 3, np.float32)),
    },
    _read_wide,
    _wide_table,
    needs=_PSUM,
    optional=("onezero",),
)

_TF32 = [1 + 3 * 2.0**-11, 1 + 2.0**-11, 1 + 2.0**-8 + 2.0**-12, 1 + 2.0**-8 + 3 * 2.0**-12, 1 + 2.0**-14]
_TF32_CELLS = [
    *(Sum("x", [(x, 1.0)]) for x in _TF32),
    *(Sum("x - 1", [(x, 1.0), (-1.0, 1.0)]) for x in _TF32),
]


def _tf32(x: float, rule: str) -> float:
    return x if rule == "none" else number(rounded(whole(x), 11, rule))


def _tf32_table(answers: Answers, setting: Setting) -> Expected:
    def total(one: Sum) -> float:
        rule = answers["tf32_operand"]
        return number(wide_instruction([(_tf32(a, rule), _tf32(b, rule)) for a, b in one.rows], answers))

    return grouped(_TF32_CELLS, map(total, _TF32_CELLS))


U5 = Probe(
    "U5",
    "fp32 bits viewed as tfloat32 just above and at the ties of 10 mantissa bits",
    ("tf32_operand",),
    lambda setting: {"tf32": call("tensor.matmul_tf32", operands(_TF32_CELLS, 2, np.float32))},
    lambda out, setting: diagonal(_TF32_CELLS, out["tf32"]["out"]),
    _tf32_table,
    needs=("fp32_matmul", *_PSUM),
)


# --- U8: block formats (gen4) -------------------------------------------------------------------------------

_PARTITIONS, _GROUP = 64, 8
_ONES = (1.0, 1.0, 1.0, 1.0)


MxCell = tuple[str, list[Block], list[Block]]


@cache
def _dot_cells() -> list[MxCell]:
    """(reading, stationary blocks, moving blocks), 64 partitions each."""
    return [
        *(("2^15 - 2^15 + 2^(15-w) in one element", *_in_one_item(w)) for w in range(16, 30)),
        *(("the same over a group", *_in_one_group(w)) for w in range(16, 30)),
        *(("the same over groups, by scales", *_over_groups(w, at)) for w in _FAR_APART for at in (0, 16, 32)),
        *(("random", *_random_blocks(Random(800 + seed))) for seed in range(12)),
    ]


def _overflow_cells() -> list[MxCell]:
    return [
        ("2^15 2^127 x 2^-14 2^-127", *_one_block(2.0**15, 254, 2.0**-14, 0)),
        ("2^254 - 2^254 + 1 over groups", *_cancelling()),
    ]


def _byte_cells() -> list[MxCell]:
    return [
        ("scale byte 255 x 2^-127", *_one_block(1.0, 255, 1.0, 0)),
        ("2^10 at scale byte 0", *_one_block(2.0**10, 0, 1.0, 127)),
    ]


def _blocks(items: Mapping[int, tuple[float, float, float, float]], scales: Mapping[int, int]) -> list[Block]:
    """64 partitions: elements by partition (else zeros), scale bytes by group (else 127)."""
    zeros = (0.0, 0.0, 0.0, 0.0)
    return [Block(items.get(p, zeros), scales.get(p // _GROUP, 127)) for p in range(_PARTITIONS)]


def _in_one_item(w: int) -> tuple[list[Block], list[Block]]:
    return _blocks({5: (2.0**15, -(2.0**15), 2.0 ** (15 - w), 0.0)}, {}), _blocks({5: _ONES}, {})


def _in_one_group(w: int) -> tuple[list[Block], list[Block]]:
    values = {8: 2.0**15, 11: -(2.0**15), 14: 2.0 ** (15 - w)}
    items = {p: (value, 0.0, 0.0, 0.0) for p, value in values.items()}
    return _blocks(items, {}), _blocks(dict.fromkeys(items, _ONES), {})


#: Exponents between the terms of one sum: around every width that a candidate has, and beyond.
_FAR_APART = (19, 20, 21, 23, 24, 25, 27, 28, 29, 40, 58)


def _over_groups(w: int, at: int) -> tuple[list[Block], list[Block]]:
    """2^w and -2^w in two of three groups, 1 in the group of partition `at`."""
    first, second = (p for p in (0, 16, 32) if p != at)
    items = {p: (-1.0 if p == second else 1.0, 0.0, 0.0, 0.0) for p in (0, 16, 32)}
    scales = {first // _GROUP: 127 + w, second // _GROUP: 127 + w}
    return _blocks(items, scales), _blocks(dict.fromkeys(items, _ONES), {})


def _one_block(a: float, s: int, b: float, t: int) -> tuple[list[Block], list[Block]]:
    return _blocks({3: (a, 0.0, 0.0, 0.0)}, {0: s}), _blocks({3: (b, 0.0, 0.0, 0.0)}, {0: t})


def _cancelling() -> tuple[list[Block], list[Block]]:
    items = {0: (1.0, 0.0, 0.0, 0.0), 16: (-1.0, 0.0, 0.0, 0.0), 32: (1.0, 0.0, 0.0, 0.0)}
    far = {0: 254, 2: 254}
    return _blocks(items, far), _blocks(dict.fromkeys(items, _ONES), far)


def _random_blocks(source: Random) -> tuple[list[Block], list[Block]]:
    def side() -> list[Block]:
        scales = [source.randint(117, 137) for _ in range(_PARTITIONS // _GROUP)]

        def lane() -> float:
            return random_e5m2(source, -12, 12)

        return [Block((lane(), lane(), lane(), lane()), scales[p // _GROUP]) for p in range(_PARTITIONS)]

    return side(), side()


def _mx_operands(found: Sequence[MxCell]) -> dict[str, Array]:
    # An MX matmul has an even number of stationary columns: a last cell may stand twice.
    found = [*found, *found[-1:]] if len(found) % 2 else found
    sides = {"stationary": [left for _, left, _ in found], "moving": [right for _, _, right in found]}
    arrays: dict[str, Array] = {}
    for name, columns in sides.items():
        lanes = np.array([[block.lanes for block in column] for column in columns]).transpose(1, 0, 2)
        codes = np.ascontiguousarray(stored(lanes, ml_dtypes.float8_e5m2)).view(np.uint8)
        arrays[name] = np.ascontiguousarray(codes).view(np.uint32)[..., 0]
        arrays[f"{name}_scale"] = _scale_tile(columns)
    return arrays


def _scale_tile(columns: list[list[Block]]) -> Array:
    """The scale of partition p in row 32 (p // 32) + (p % 32) // 8; other rows are not read and hold 127."""
    tile = np.full((_PARTITIONS, len(columns)), 127, np.uint8)
    for c, column in enumerate(columns):
        for p in range(0, _PARTITIONS, _GROUP):
            tile[32 * (p // 32) + p % 32 // _GROUP, c] = column[p].scale
    return tile


def _mx_probe(field: str, asks: str, found: Callable[[], list[MxCell]], *needs: str) -> Probe:
    def names() -> list[Sum]:
        return [Sum(name, []) for name, _, _ in found()]

    def table(answers: Answers, setting: Setting) -> Expected:
        # Cells of the dot have scales that no other field can notice.
        all_answers = {"mx_scale_overflow": "ieee", "mx_scale_ff": "nan", **answers}
        return grouped(names(), (number(mx_sum(left, right, all_answers)) for _, left, right in found()))

    def read(out: Outputs, setting: Setting) -> Readings:
        count = len(found())
        return diagonal(names(), out["e5m2"]["out"][:count, :count])

    def launches(setting: Setting) -> dict[str, Call]:
        return {"e5m2": call("tensor.matmul_mx", _mx_operands(found()))}

    return Probe("U8", asks, (field,), launches, read, table, needs=(*_ARRAY, *needs), since=4)


U8_DOT = _mx_probe(
    "mx_dot", "2^15 - 2^15 + 2^(15-w) within an element, a group and over groups; random blocks", _dot_cells
)
U8_OVERFLOW = _mx_probe(
    "mx_scale_overflow",
    "a scaled operand of 2^142 times one of 2^-141; 2^254 - 2^254 + 1 over groups",
    _overflow_cells,
    "mx_dot",
)
U8_BYTES = _mx_probe("mx_scale_ff", "scale bytes 255 and 0", _byte_cells, "mx_dot", "mx_scale_overflow")


# --- U9: bf16 in PSUM (gen4) --------------------------------------------------------------------------------

_STEPS = {"1, then 2^-9 three times": (1.0, 2.0**-9, 2.0**-9, 2.0**-9), "1, then 3 x 2^-9": (1.0, 3 * 2.0**-9)}


def _step_operands() -> dict[str, Array]:
    values = np.zeros((4, 1, len(_STEPS)))
    for column, steps in enumerate(_STEPS.values()):
        values[: len(steps), 0, column] = steps
    return {"stationary": np.ones((4, 1, 1), _BF16), "moving": stored(values, _BF16)}


def _steps_table(answers: Answers, setting: Setting) -> Expected:
    def total(steps: tuple[float, ...]) -> float:
        held = 0.0
        for step in steps:
            held = bfloat16(held + step) if answers["bf16_psum"] == "rounded_each" else held + step
        return bfloat16(held)

    return {name: np.array([total(steps)]) for name, steps in _STEPS.items()}


U9 = Probe(
    "U9",
    "four accumulating instructions into a bf16 PSUM tile: 1, then 2^-9 three times",
    ("bf16_psum",),
    lambda setting: {"bf16": call("tensor.accumulate_bf16", _step_operands())},
    lambda out, setting: dict(zip(_STEPS, cells(out["bf16"]["out"]).T, strict=True)),
    _steps_table,
    others={"bf16_psum": {"kept_wide": "fp32 between instructions, bf16 when it is read"}},
    since=4,
)


# --- U10: NaN and infinity ----------------------------------------------------------------------------------

_INF, _NAN = math.inf, math.nan
_SPECIAL = {
    "inf x 0": ([(_INF, 0.0)], _NAN),
    "inf - inf": ([(_INF, 1.0), (-_INF, 1.0)], _NAN),
    "NaN x 1 + 1": ([(_NAN, 1.0), (1.0, 1.0)], _NAN),
    "NaN x 0": ([(_NAN, 0.0)], _NAN),
    "inf + 1": ([(_INF, 1.0), (1.0, 1.0)], _INF),
    "-inf + 1": ([(-_INF, 1.0), (1.0, 1.0)], -_INF),
    "inf x -1": ([(_INF, -1.0)], -_INF),
}
_ALU = {"inf x 0": _NAN, "inf - inf": _NAN, "NaN + 1": _NAN}


def _special_sums() -> list[Sum]:
    return [Sum(name, rows) for name, (rows, _) in _SPECIAL.items()]


def _read_special(out: Outputs, setting: Setting) -> Readings:
    found: Readings = {}
    for name in ("bf16", "e5m2"):
        result = np.diagonal(out[name]["out"])
        for one, value in zip(_SPECIAL, result, strict=True):
            found[f"{name} {one}"] = cells([value])
        found[f"{name} bits"] = cells(np.ascontiguousarray(result).view(np.uint32))
    for one, value in zip(_ALU, out["vector"]["out"][0], strict=True):
        found[f"vector {one}"] = cells([value])
    found["vector bits"] = cells(np.ascontiguousarray(out["vector"]["out"]).view(np.uint32)[0])
    return found


def _special_table(answers: Answers, setting: Setting) -> Expected:
    matmul = {f"{name} {one}": [value] for name in ("bf16", "e5m2") for one, (_, value) in _SPECIAL.items()}
    alu = {f"vector {one}": [value] for one, value in _ALU.items()}
    return {name: np.array(value) for name, value in (matmul | alu).items()}


U10 = Probe(
    "U10",
    "inf x 0, inf - inf and NaN through the array and the vector engine; the bits of each NaN are evidence",
    ("nan",),
    lambda setting: {
        "bf16": _matmul(_special_sums(), 2, _BF16),
        "e5m2": _matmul(_special_sums(), 2, ml_dtypes.float8_e5m2),
        "vector": call("vector.extremes_of_nan", {"rows": np.array([[_INF, 0, _NAN, 1]], np.float32)}),
    },
    _read_special,
    _special_table,
    notes=lambda readings, setting: [
        f"NaN patterns, {name}: " + ", ".join(sorted({f"0x{int(bits):08x}" for bits in found if _is_nan(int(bits))}))
        for name, found in readings.items()
        if name.endswith(" bits")
    ],
)


def _is_nan(bits: int) -> bool:
    return bits & 0x7FFFFFFF > 0x7F800000


# --- U11: row tiles -----------------------------------------------------------------------------------------


def _tiled(rows: Rows, answers: Answers) -> float:
    if answers["row_tiling"] == "as_one":
        return number(instruction(rows, answers))
    held: Exact | None = None
    for first in range(0, _DEPTH, 32):
        held = instruction(rows[first : first + 32], answers, held)
    assert held is not None
    return number(held)


def _tiles_table(answers: Answers, setting: Setting) -> Expected:
    return {
        "four row tiles": np.array([_tiled(one.rows, answers) for one in _order_cells()]),
        "one instruction": np.array([number(instruction(one.rows, answers)) for one in _order_cells()]),
    }


U11 = Probe(
    "U11",
    "the same random sums of 128 rows as four accumulating row tiles of 32 and as one instruction",
    ("row_tiling",),
    lambda setting: {"bf16": call("tensor.row_tiles", operands(_order_cells(), _DEPTH, _BF16), "tiled", "whole")},
    lambda out, setting: {
        "four row tiles": np.diagonal(cells(out["bf16"]["tiled"])),
        "one instruction": np.diagonal(cells(out["bf16"]["whole"])),
    },
    _tiles_table,
    needs=_PSUM,
    strict=True,
    others={"row_tiling": {"as_one": "the tiles of one sum give what one instruction gives"}},
    since=3,
)

PROBES = (U1, U2, U3, U3_RANDOM, U4, U5, U6, U7, U8_DOT, U8_OVERFLOW, U8_BYTES, U9, U10, U11, U12)
