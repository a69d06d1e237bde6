"""Claims about the records of a contract, the refusals they give, and the recorder of rounding points."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from reference.contract import Argument, Contract, RoundingPoint, Rule
from reference.errors import KernelArgumentError
from reference.recorder import NO_RECORD, ListRecorder, split_name, tile_name

RULES = (
    Rule("positive", "x", "x must be positive", lambda x: x > 0, lambda x: f"x={x}", "negate it"),
    # Would divide by zero if it were asked before the first rule.
    Rule("divides_12", "x", "x must divide 12", lambda x: 12 % x == 0, lambda x: f"x={x}", "round it"),
)


def contract(**changes: object) -> Contract[int]:
    parts = {"arguments": (), "results": (), "rules": RULES, "points": ()}
    return Contract(kernel="toy", summary="", **{**parts, **changes})  # type: ignore[arg-type]


def test_legal_config_has_no_refusal() -> None:
    assert contract().refusal(4) is None
    contract().validate(4)


def test_later_rules_are_not_asked_once_one_is_violated() -> None:
    found = contract().refusal(0)
    assert found is not None
    assert (found.rule, found.got) == ("positive", "x=0")


def test_refusal_is_one_line_with_kernel_argument_rule_value_and_remedy() -> None:
    with pytest.raises(KernelArgumentError) as caught:
        contract().validate(5)
    assert str(caught.value) == "toy: x: x must divide 12 [divides_12]; got x=5; round it"


def test_argument_error_is_what_both_documents_name() -> None:
    error = KernelArgumentError("k", "a", "r", "c", "line\n  break", "m")
    assert isinstance(error, ValueError)
    assert isinstance(error, AssertionError)
    assert str(error) == "k: a: c [r]; got line break; m"


def test_argument_error_survives_pickle() -> None:
    error = pickle.loads(pickle.dumps(KernelArgumentError("k", "a", "r", "c", 7, "m")))
    assert (error.kernel, error.argument, error.rule, error.got, str(error)) == (
        "k", "a", "r", "7", "k: a: c [r]; got 7; m",
    )  # fmt: skip


def test_rules_and_points_are_found_by_name() -> None:
    point = RoundingPoint("psum", "float32", "psum", "[]", (), "")
    assert contract().rule("positive") is RULES[0]
    assert contract(points=(point,)).point("psum") is point
    with pytest.raises(KeyError):
        contract().point("psum")


@pytest.mark.parametrize("kind", ["rules", "points"])
def test_a_name_given_twice_is_refused(kind: str) -> None:
    point = RoundingPoint("psum", "float32", "psum", "[]", (), "")
    twice = {"rules": (*RULES, RULES[0]), "points": (point, point)}[kind]
    with pytest.raises(ValueError, match="defined twice"):
        contract(**{kind: twice})


def test_a_point_name_must_not_read_as_a_tile() -> None:
    RoundingPoint("attention_fp8", "", "", "", (), "")
    with pytest.raises(ValueError, match="trailing integer"):
        RoundingPoint("pass_2", "", "", "", (), "")


def test_signature_lists_arguments_with_their_defaults() -> None:
    arguments = (Argument("x", "hbm", "[1]", (), ""), Argument("flag", "", "", (), "", "False"))
    assert contract(arguments=arguments).signature == "toy(x, flag=False)"


@pytest.mark.parametrize(
    ("point", "tile", "name"),
    [
        ("psum", (0, 3), "psum_0_3"),
        ("inv_scale", (), "inv_scale"),
        ("attention_fp8", (12,), "attention_fp8_12"),
    ],
)
def test_tile_names_are_read_back(point: str, tile: tuple[int, ...], name: str) -> None:
    assert tile_name(point, tile) == name
    assert split_name(name) == (point, tile)


def test_recorder_counts_occurrences_per_core_and_keeps_copies() -> None:
    record, value = ListRecorder(), np.zeros(2, np.float32)
    record("psum", (0,), value)
    record("psum", (0,), value, core=1)
    value[:] = 1
    record("psum", (0,), value)
    assert [(e.core, e.occurrence, e.value[0]) for e in record] == [(0, 0, 0), (1, 0, 0), (0, 1, 1)]
    assert record.value("psum", (0,))[0] == 1
    assert record.value("psum", (0,), occurrence=0)[0] == 0
    assert record.value("psum", (0,), core=1)[0] == 0
    assert record.points == ("psum",)
    assert [entry.name for entry in record] == ["psum_0"] * 3


@pytest.mark.parametrize("asked", [("out", (), 0), ("psum", (1,), 0), ("psum", (0,), 1)])
def test_asking_for_what_was_not_recorded_names_it(asked: tuple[str, tuple[int, ...], int]) -> None:
    record = ListRecorder()
    record("psum", (0,), np.zeros(1, np.float32))
    with pytest.raises(KeyError, match=tile_name(asked[0], asked[1])):
        record.value(*asked)


def test_no_record_tells_models_to_skip_the_work() -> None:
    assert not NO_RECORD.enabled
    assert ListRecorder().enabled
    NO_RECORD("psum", (0,), np.zeros(1, np.float32))
