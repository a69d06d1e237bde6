"""Candidates that no experiment tells apart, given the other answers: where a session leaves several, and why.

Each row holds only under its condition. A report prints the reason; the tests of the probes accept no other
question to stay open on the generation that can ask it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reference.numerics.profile import Value

_FUSED = ("fdpa24", "fdpa28")
_ONCE = ("exact", *_FUSED)


@dataclass(frozen=True)
class Inseparable:
    """Values of one field that look alike where `when` holds for the answers to all fields."""

    field: str
    values: tuple[Value, ...]
    when: Callable[[Mapping[str, Any]], bool]
    reason: str


def _root_of_tree(answers: Mapping[str, Any]) -> bool:
    alike = answers["psum_entry"] == "seeds_chain" or answers["psum_add_round"] == answers["acc_round"]
    return bool(answers["matmul_order"] == "tree" and answers["acc_round"] in ("rne", "rz") and alike)


def _goes_on(answers: Mapping[str, Any]) -> bool:
    """Whether instruction after instruction adds as one instruction would."""
    order, rounding = answers["matmul_order"], answers["acc_round"]
    seeds = answers["psum_entry"] == "seeds_chain"
    by_segment = order == "seg32" and (seeds or answers["psum_add_round"] == rounding)
    return bool(rounding != "wide28" and (by_segment or (order == "chain" and seeds)))


def _rounded_once(answers: Mapping[str, Any]) -> bool:
    return _only_once(answers) and answers["acc_round"] != "rz"


def _only_once(answers: Mapping[str, Any]) -> bool:
    return answers["matmul_order"] in _ONCE


ROWS = (
    Inseparable("acc_round", ("rne", "wide28"), _rounded_once, "the sum of an instruction is rounded once, at its end"),
    Inseparable(
        "psum_entry",
        ("after_array", "seeds_chain"),
        _root_of_tree,
        "a tree takes PSUM in at its root, where the addition behind the array would stand",
    ),
    Inseparable(
        "psum_add_round",
        ("rne", "rz", "floor"),
        lambda answers: answers["psum_entry"] == "seeds_chain" or _root_of_tree(answers),
        "nothing is added behind the array where PSUM seeds it",
    ),
    Inseparable(
        "double_row_pair",
        ("exact_pair", "two_steps", "halves"),
        lambda answers: answers["matmul_order"] == "exact" and answers["double_row_pair"] != "rounded_pair",
        "all products of the instruction are summed exactly",
    ),
    Inseparable(
        "double_row_pair",
        ("exact_pair", "rounded_pair", "two_steps", "halves"),
        lambda answers: answers["matmul_order"] in _FUSED,
        "all products of the instruction enter one fused adder",
    ),
    Inseparable(
        "double_row_pair",
        ("exact_pair", "rounded_pair", "two_steps"),
        lambda answers: (
            (answers["matmul_order"], answers["acc_round"]) == ("tree", "rne")
            and answers["double_row_pair"] != "halves"
        ),
        "the first level of a tree adds the pairs",
    ),
    Inseparable(
        "double_row_pair",
        ("exact_pair", "two_steps"),
        lambda answers: (
            answers["matmul_order"] == "tree"
            and answers["acc_round"] != "rne"
            and answers["double_row_pair"] in ("exact_pair", "two_steps")
        ),
        "the first level of a tree adds the pairs",
    ),
    Inseparable(
        "mx_dot",
        ("dequant_exact", "dequant_order"),
        lambda answers: answers["matmul_order"] == "exact" and answers["mx_dot"].startswith("dequant"),
        "the order is the exact sum",
    ),
    Inseparable(
        "mx_dot",
        ("dequant_order", "fused24"),
        lambda answers: answers["matmul_order"] == "fdpa24" and _like_fused(answers),
        "the order is the fused adder of 24 bits",
    ),
    Inseparable(
        "mx_scale_overflow",
        ("ieee", "wide"),
        lambda answers: (
            answers["mx_dot"].startswith("fused") or (answers["matmul_order"] == "fdpa24" and _like_fused(answers))
        ),
        "a fused adder joins the exponents: no scaled operand exists",
    ),
    Inseparable(
        "mx_scale_overflow",
        ("ieee", "wide"),
        lambda answers: (
            answers["mx_dot"] == "group_dot" and (answers["matmul_order"], answers["acc_round"]) == ("tree", "rne")
        ),
        "a group's dot beyond fp32 overflows as a leaf of the tree, too",
    ),
    Inseparable(
        "row_tiling",
        ("per_instruction", "as_one"),
        _goes_on,
        "each instruction goes on where the one before has ended",
    ),
    Inseparable(
        "exp_underflow",
        ("gradual", "flush"),
        lambda answers: "ftz" in answers["subnormals_alu"],
        "subnormal results are flushed anyway",
    ),
)


def _like_fused(answers: Mapping[str, Any]) -> bool:
    wide_order = (answers["mx_dot"], answers["mx_scale_overflow"]) == ("dequant_order", "wide")
    return answers["mx_dot"] == "fused24" or wide_order


def values(field: str, answers: Mapping[str, Any]) -> tuple[Value, ...]:
    """All values of a field that look like the one in `answers`, which hold a value for every field."""
    row = row_of(field, answers)
    return (answers[field],) if row is None else row.values


def row_of(field: str, answers: Mapping[str, Any]) -> Inseparable | None:
    """The row that keeps a field open under these answers, None where there is none."""
    return next((row for row in ROWS if row.field == field and row.when(answers)), None)
