"""`explain` names the first rounding point that is wrong, its instruction and its line, and no other.

The toy kernel runs on the machine; each wrong variant parts from the model at a place known beforehand.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

import numpy as np
import pytest

from conformance import explain
from conformance.explain import Explanation, first_difference, profile_difference
from conformance.runner import run_case
from conformance.subject import Arrays
from conformance.tests.suite import scaled_add_nki
from conformance.tests.suite.scaled_add import SUBJECT
from reference.neuroncore.errors import MachineError
from reference.numerics.cast import to_float32
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.ulp import NAN_DISTANCE
from reference.recorder import NO_RECORD, Recorder

CASE = SUBJECT.catalog[0]
IN_FLOAT16 = f"{scaled_add_nki.__name__}:holds_the_product_in_float16"


def _explain(name: str) -> Explanation:
    return first_difference(SUBJECT.with_implementation(f"{scaled_add_nki.__name__}:{name}"), CASE)


def _line_of(text: str) -> int:
    """Number of the line of the toy kernel's source that holds `text`."""
    lines = inspect.getsource(scaled_add_nki).splitlines()
    return 1 + next(place for place, line in enumerate(lines) if text in line)


@pytest.mark.parametrize("name", ["scaled_add", "uses_a_larger_tile"])
def test_a_right_kernel_agrees_everywhere(name: str) -> None:
    found = _explain(name)
    assert found.agrees
    assert found.compared == 2
    assert "all 2 tiles and all outputs agree" in found.text()


def test_the_first_of_two_wrong_points_is_shown_with_values_bits_and_line() -> None:
    found = _explain("rounds_the_product")
    assert not found.agrees
    first = found.first
    assert first is not None
    assert (first.point, first.tile, first.core, first.occurrence) == ("product", "product_0", 0, 0)
    a = SUBJECT.build(CASE.config, CASE.lane, CASE.seed)["a"]
    model = a.astype(np.float32)[first.index] * np.float32(CASE.config.scale)
    assert (first.expected, first.got) == (float(model), float(model.astype(a.dtype)))
    assert first.expected_bits == f"0x{int(model.view(np.uint32)):08x}"
    assert first.instruction == "tensor_copy"
    assert first.location.endswith(f"scaled_add_nki.py:{_line_of('tensor_copy(dst=product')}")
    assert [(one.point, one.differing, one.tiles) for one in found.points] == [("product", 1, 1), ("sum", 1, 1)]
    assert [one.point for one in found.infected] == ["sum"]
    assert "it infects, in the order of the model:\n  sum: 1 of 1 tiles differ, up to " in found.text()


def test_a_point_that_is_right_is_passed_over() -> None:
    found = _explain("adds_b_twice")
    assert found.first is not None
    assert found.first.point == "sum"
    assert [(one.point, one.differing) for one in found.points] == [("product", 0), ("sum", 1)]
    assert found.infected == ()
    assert "it infects" not in found.text()
    # The element was written twice; the second addition wrote it last.
    assert found.first.location.endswith(f":{_line_of('data1=sum_tile, data2=b_tile')}")
    assert found.first.differing == 32


def test_a_tile_of_another_dtype_is_told_as_such_with_values_and_line() -> None:
    # A factor of so many bits that float16 does not hold the products.
    case = dataclasses.replace(CASE, config=dataclasses.replace(CASE.config, scale=0.7))
    found = first_difference(SUBJECT.with_implementation(IN_FLOAT16), case)
    first = found.first
    assert first is not None
    assert first.why == "dtype float16, expected float32"
    a = SUBJECT.build(CASE.config, CASE.lane, CASE.seed)["a"]
    model = a.astype(np.float32) * np.float32(case.config.scale)
    held = model.astype(np.float16)
    assert first.index == tuple(int(i) for i in np.argwhere(held.astype(np.float64) != model.astype(np.float64))[0])
    assert (first.got, first.expected) == (float(held[first.index]), float(model[first.index]))
    assert first.got_bits == f"0x{int(held[first.index].view(np.uint16)):04x}"
    steps = abs(int(held[first.index].astype(np.float32).view(np.int32)) - int(model[first.index].view(np.int32)))
    assert first.ulp == steps > 0
    assert first.location == found.place
    assert first.location.endswith(f"scaled_add_nki.py:{_line_of('tensor_copy(dst=product')}")
    text = found.text()
    assert "rounding point product: tile product_0 on core 0: dtype float16" in text
    assert "ULP, others up to" in text
    assert "once rounded to the expected dtype\n  written by tensor_copy at " in text


def test_a_tile_of_another_dtype_with_equal_values_says_so() -> None:
    first = _explain("holds_the_product_in_float16").first
    assert first is not None
    assert (first.why, first.differing, first.index) == ("dtype float16, expected float32", 0, ())
    assert "elements are equal\n  written by tensor_copy at " in first.text(("model", "kernel"))


@pytest.mark.parametrize(
    ("got", "expected", "distance"),
    [
        (np.array([1.0, 2.5], np.float32), np.array([1.0, 2.0], np.float16), 256),
        (np.array([1.0, 2.0], np.float32), np.array([1, 3], np.int32), 1),
        (np.array([1, 7], np.int32), np.array([1, 3], np.int32), 4),
        (np.array([1.0, np.nan], np.float32), np.array([1, 3], np.int32), NAN_DISTANCE),
    ],
)
def test_values_of_any_two_dtypes_are_compared(got: Any, expected: Any, distance: int) -> None:
    found = explain._apart(got, expected, lambda index: ("op", "line"))
    assert (found["differing"], found["index"], found["max_ulp"]) == (1, (1,), distance)


def test_a_fault_after_the_last_point_is_shown_in_the_output_with_the_instruction_that_stored_it() -> None:
    found = _explain("stores_a_row_late")
    assert found.first is None
    assert not found.agrees
    (gap,) = found.outputs
    assert (gap.name, gap.elements, gap.index) == ("y", 32, (0, 0))
    inputs = SUBJECT.build(CASE.config, CASE.lane, CASE.seed)
    model = SUBJECT.model(CASE.config, inputs)["y"]
    assert (gap.got, gap.expected) == (float(model[-1, 0]), float(model[0, 0]))
    assert gap.got_bits == f"0x{int(model[-1, 0].view(np.uint16)):04x}"
    assert gap.ulp > 0
    assert gap.location == found.place
    # Two stores make the output: this is the one of its first row.
    assert gap.location.endswith(f"scaled_add_nki.py:{_line_of('dma_copy(dst=y[0:row_shift')}")
    assert "all 2 tiles agree and y differ: look at what follows the last rounding point" in found.text()
    assert "  written by dma_copy at " in found.text()


@pytest.mark.parametrize(
    ("name", "only_model", "only_kernel"),
    [
        ("forgets_a_name", ("sum_0 (core 0, occurrence 0)",), ()),
        ("has_a_tile_of_its_own", ("sum_0 (core 0, occurrence 0)",), ("sum_1 (core 0, occurrence 0)",)),
    ],
)
def test_a_tile_without_partner_is_named(name: str, only_model: tuple[str, ...], only_kernel: tuple[str, ...]) -> None:
    found = _explain(name)
    assert not found.agrees
    assert (found.first, found.compared, found.outputs) == (None, 1, ())
    assert (found.only_expected, found.only_got) == (only_model, only_kernel)
    assert "outputs and 1 tiles agree; others have no partner" in found.text()


def test_the_text_ends_with_the_command_that_explains_again() -> None:
    command = f"nki-oracle explain scaled_add --case small --kernel {scaled_add_nki.__name__}:adds_b_twice"
    assert _explain("adds_b_twice").text().splitlines()[-1] == f"again: {command}"


def test_a_kernel_that_the_machine_stops_leaves_nothing_to_explain() -> None:
    with pytest.raises(MachineError):
        _explain("reads_what_it_never_wrote")


def test_the_ladder_runs_on_the_machine_and_calls_a_broken_rule_a_violation() -> None:
    right = SUBJECT.with_implementation(f"{scaled_add_nki.__name__}:scaled_add")
    assert run_case(right, CASE).passed
    broken = SUBJECT.with_implementation(f"{scaled_add_nki.__name__}:reads_what_it_never_wrote")
    result = run_case(broken, CASE)
    assert result.status == "violation"
    assert "scaled_add_nki.py:" in result.error


# ---- two profiles ------------------------------------------------------------------------------------------------

EXACT, CHAINED = DEFAULT, DEFAULT.replace(matmul_order="chain")
SEVERAL = DEFAULT.replace(matmul_order="tree")


def _looping(config: Any, inputs: Arrays, profile: NumericsProfile = DEFAULT, record: Recorder = NO_RECORD) -> Arrays:
    """Two turns of a loop: the sum of a turn comes before the factor of the next, whatever the contract's order."""
    a = to_float32(inputs["a"])
    first = a + np.float32(profile.matmul_order == "chain")
    record("sum", (0,), first)
    factor = a * np.float32(config.scale) + np.float32(profile.matmul_order == "tree")
    record("product", (1,), factor)
    record("sum", (1,), first + factor)
    record("untouched", (), a)
    return {"y": (first + factor).astype(inputs["a"].dtype), "total": inputs["total"]}


LOOPING = dataclasses.replace(SUBJECT, model=_looping)


def _between(profile: NumericsProfile) -> Explanation:
    return profile_difference(LOOPING, CASE, (EXACT, profile), ("default", "other"))


def test_equal_profiles_part_nowhere() -> None:
    found = _between(EXACT)
    assert found.agrees
    assert (found.compared, found.sides) == (4, ("default", "other"))
    assert "the profiles give the same answers" in found.text()


def test_first_is_what_the_model_reached_first_not_what_the_contract_lists_first() -> None:
    assert [point.name for point in LOOPING.contract.points] == ["product", "sum"]
    found = _between(CHAINED)
    assert found.first is not None
    assert (found.first.tile, found.first.got - found.first.expected) == ("sum_0", 1.0)
    assert [(one.point, one.differing) for one in found.points if one.differing] == [("sum", 2)]
    assert "the profiles differ in matmul_order (exact, chain)" in found.text()
    assert "agree behind it: product, untouched" in found.text()


def test_a_point_that_comes_back_is_first_where_it_is_wrong_first() -> None:
    found = _between(SEVERAL)
    assert found.first is not None
    assert found.first.tile == "product_1"
    assert [(one.point, one.differing, one.tiles) for one in found.infected] == [("sum", 1, 2)]
    # Its first turn was right and came earlier.
    assert [one.point for one in found.points] == ["product", "sum", "untouched"]
    assert found.first.instruction == ""
    assert "written by" not in found.text()
    assert [gap.name for gap in found.outputs] == ["y"]


def test_text_between_profiles_ends_with_the_command() -> None:
    command = "nki-oracle explain scaled_add --case small"
    assert _between(CHAINED).text().splitlines()[-1].startswith(f"again: {command}")
    assert _between(CHAINED).text().endswith("--profile 'default' --profile 'other'")


def test_explanation_is_json() -> None:
    document = json.loads(json.dumps(_between(SEVERAL).to_dict(), allow_nan=False))
    assert document["first"]["tile"] == "product_1"
    assert (document["infected"], document["agrees"]) == (["sum"], False)
