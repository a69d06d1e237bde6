"""The ladder tells right from wrong, and refused, unfit, broken-rule and crashed from one another."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from conformance import goldens
from conformance.backends.sim import SimBackend
from conformance.bounds import Bound
from conformance.lanes import LaneError
from conformance.results import CaseResult
from conformance.runner import run_case
from conformance.subject import Arrays, Call, Case, Subject
from conformance.tests.suite import scaled_add
from conformance.tests.suite.scaled_add import BROKEN, SUBJECT, Config, HostBackend
from reference.errors import KernelArgumentError
from reference.neuroncore.errors import MachineError

SMALL = SUBJECT.catalog[0]


def _run(subject: Subject, case: Case = SMALL, **options: Any) -> CaseResult:
    return run_case(subject, case, HostBackend(), **options)


def _failed(result: CaseResult) -> list[tuple[str, str, str]]:
    """(rung, output, why) of every output below its grade."""
    bad = (output for output in result.outputs if not output.passed)
    return [(output.rung, output.name, output.missed) for output in bad]


@pytest.mark.parametrize("case", SUBJECT.catalog, ids=lambda case: case.id)
def test_the_right_kernel_passes_on_every_rung(case: Case) -> None:
    result = _run(SUBJECT, case)
    assert result.passed, result.report()
    grades = [(output.rung, output.name, output.grade.name) for output in result.outputs]
    assert grades == [("model", "y", "C"), ("model", "total", "C"), ("sim", "y", "A"), ("sim", "total", "A")]
    assert result.report() == ""


@pytest.mark.parametrize("name", [name for name, output in BROKEN.items() if output])
def test_each_wrong_kernel_fails_on_the_output_that_it_spoils_and_no_other(name: str) -> None:
    result = _run(scaled_add.broken(name))
    assert result.status == "failed"
    assert [(output.rung, output.name) for output in result.outputs if not output.passed] == [("sim", BROKEN[name])]
    lines = result.report().splitlines()
    assert lines[0] == "scaled_add small on sim: failed"
    assert lines[-1] == f"again: nki-oracle check scaled_add --case small --kernel {scaled_add.__name__}:{name}"


def test_an_exception_in_a_kernel_is_a_crash_with_its_traceback() -> None:
    result = _run(scaled_add.broken("crashes"))
    assert result.status == "crashed"
    assert result.error == "kernel: IndexError: list index out of range"
    assert "in crashes" in result.details
    assert result.outputs == ()


def _raising(error: Exception) -> Any:
    def raises(*_: Any, **__: Any) -> Any:
        raise error

    return raises


REFUSAL = KernelArgumentError("scaled_add", "a", "rows", "rows must be 1 to 128", 0, "tile it")


@pytest.mark.parametrize(
    ("field", "error", "status", "rung"),
    [
        ("call", MachineError("partition.start", "partition 7"), "violation", "kernel"),
        ("call", AssertionError("d must be 128"), "crashed", "kernel"),
        ("model", REFUSAL, "crashed", "model"),
        ("model", MachineError("partition.start", "partition 7"), "crashed", "model"),
        ("truth", ZeroDivisionError("x"), "crashed", "truth"),
        ("build", ValueError("x"), "crashed", "build"),
        ("build", LaneError("no room"), "unfit", "build"),
        ("legal", TypeError("x"), "crashed", "legal"),
        ("undefined", TypeError("x"), "crashed", "grading"),
    ],
)
def test_what_is_raised_becomes_a_status_that_names_the_rung(
    field: str, error: Exception, status: str, rung: str
) -> None:
    result = _run(dataclasses.replace(SUBJECT, **{field: _raising(error)}))
    assert result.status == status
    assert result.error.startswith(f"{rung}: {type(error).__name__}: ")
    assert not result.passed


def test_an_illegal_config_is_refused_without_a_launch() -> None:
    backend = HostBackend()
    result = run_case(SUBJECT, Case("none", Config(rows=0)), backend)
    assert result.status == "refused"
    assert "rows must be 1 to 128 [rows]; got 0" in result.error
    assert backend.calls == 0
    assert result.details == ""


def test_a_kernel_can_be_judged_without_a_model_and_a_model_without_a_kernel() -> None:
    without_model = _run(SUBJECT, rungs=("truth", "kernel"))
    assert [(output.rung, output.grade.name) for output in without_model.outputs] == [("sim", "C"), ("sim", "C")]
    assert without_model.status == "failed"
    model_alone = _run(scaled_add.broken("crashes"), rungs=("truth", "model"))
    assert model_alone.passed
    assert {output.rung for output in model_alone.outputs} == {"model"}


def test_without_truth_bits_are_compared_and_errors_left_open() -> None:
    result = _run(SUBJECT, rungs=("model", "kernel"))
    assert result.passed
    assert [output.max_abs_error for output in result.outputs] == [None, None]


def test_an_unknown_rung_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown rung 'mode'; known: truth, model, kernel"):
        _run(SUBJECT, rungs=("mode",))


def test_figures_of_an_output_are_those_of_its_difference() -> None:
    result = _run(scaled_add.broken("rounds_the_product"))
    y = next(output for output in result.outputs if (output.rung, output.name) == ("sim", "y"))
    inputs = SUBJECT.build(SMALL.config, SMALL.lane, SMALL.seed)
    truth = SUBJECT.truth(SMALL.config, inputs)["y"]
    total = inputs["total"].copy()
    got = scaled_add.rounds_the_product(inputs["a"], inputs["b"], total, SMALL.config.scale)
    model = SUBJECT.model(SMALL.config, inputs)["y"]
    assert y.differing == int((got.view(np.uint16) != model.view(np.uint16)).sum()) > 0
    assert y.elements == got.size
    assert y.max_abs_error == float(np.abs(got.astype(np.float64) - truth).max())


def test_a_missing_or_an_extra_output_fails_whatever_is_required() -> None:
    def forgets(config: Config, inputs: Arrays, implementation: Any) -> Call:
        return dataclasses.replace(scaled_add.call(config, inputs, implementation), in_place={})

    result = _run(dataclasses.replace(SUBJECT, call=forgets))
    assert [(output.name, output.missed) for output in result.outputs if not output.passed] == [("total", "missing")]

    def forgetful_model(*arguments: Any, **options: Any) -> Arrays:
        return {"y": scaled_add.model(*arguments, **options)["y"]}

    extra = _run(dataclasses.replace(SUBJECT, model=forgetful_model), rungs=("model", "kernel"))
    assert [output.missed for output in extra.outputs if not output.passed] == ["not an output of this config"]


def test_an_undeclared_output_is_an_error_of_the_case_module() -> None:
    outputs = tuple(output for output in SUBJECT.outputs if output.name == "y")
    result = _run(dataclasses.replace(SUBJECT, outputs=outputs))
    assert result.status == "crashed"
    assert "does not declare: total" in result.error


def test_results_survive_json() -> None:
    for subject in (SUBJECT, scaled_add.broken("makes_a_nan"), scaled_add.broken("crashes")):
        plain = _run(subject).to_dict()
        assert json.loads(json.dumps(plain, allow_nan=False)) == json.loads(json.dumps(plain))
        assert plain["kernel"] == "scaled_add"
    assert json.loads(json.dumps(_run(SUBJECT).to_dict()))["outputs"][2]["grade"] == "A"


def test_running_a_case_leaves_its_inputs_as_they_were() -> None:
    kept = SUBJECT.build(SMALL.config, SMALL.lane, SMALL.seed)
    before = {name: array.tobytes() for name, array in kept.items()}
    result = _run(dataclasses.replace(SUBJECT, build=lambda *_: kept))
    assert result.passed
    assert {name: array.tobytes() for name, array in kept.items()} == before


def test_grade_b_is_tried_when_asked_for_and_plays_the_other_profiles() -> None:
    """A model whose product is rounded to bfloat16 under one candidate; the kernel does that always."""

    def model(config: Config, inputs: Arrays, profile: Any, **_: Any) -> Arrays:
        if profile.matmul_order == "exact":
            return scaled_add.model(config, inputs)
        total = inputs["total"].copy()
        y = scaled_add.rounds_the_product(inputs["a"], inputs["b"], total, config.scale)
        return {"y": y, "total": total}

    subject = dataclasses.replace(scaled_add.broken("rounds_the_product"), model=model)
    asked = _run(subject, envelope=True)
    assert [output.grade.name for output in asked.outputs if output.rung == "sim"] == ["B", "A"]
    unasked = _run(subject)
    assert [output.grade.name for output in unasked.outputs if output.rung == "sim"] == ["D", "A"]


def _bounds(config: Config, inputs: Arrays) -> dict[str, Bound]:
    """Two roundings to bfloat16 (product and result), each half a unit of what is rounded."""
    product, b = (np.abs(inputs[name].astype(np.float64)) for name in ("a", "b"))
    product = product * abs(config.scale)
    return {"y": Bound(2.0**-8 * (2 * product + b), roundings=2)}


@pytest.mark.parametrize(("name", "grade"), [("rounds_the_product", "C"), ("swaps_two_rows", "F")])
def test_a_derived_bound_parts_a_second_rounding_from_a_wrong_row(name: str, grade: str) -> None:
    wide = dataclasses.replace(scaled_add.broken(name), bounds=_bounds, tolerances=())
    y = next(output for output in _run(wide).outputs if (output.rung, output.name) == ("sim", "y"))
    assert y.grade.name == grade


def test_the_bound_of_the_right_roundings_catches_one_more() -> None:
    subject = dataclasses.replace(scaled_add.broken("rounds_the_product"), tolerances=())
    (y,) = (output for output in _run(subject).outputs if (output.rung, output.name) == ("sim", "y"))
    assert y.grade.name == "F"
    assert "outside their bound" in y.missed


def test_points_are_kept_where_asked_for_and_are_those_of_a_golden() -> None:
    assert _run(SUBJECT).points == {}
    kept = _run(SUBJECT, points=True)
    assert kept.points == {"model": {one.name: one.digest for one in goldens.compute(SUBJECT, SMALL).points}}
    assert list(kept.points["model"]) == ["product", "sum"]


def test_points_of_the_machine_are_what_the_kernel_left_in_its_tiles() -> None:
    def points(name: str) -> dict[str, str]:
        subject = SUBJECT.with_implementation(f"conformance.tests.suite.scaled_add_nki:{name}")
        return run_case(subject, SMALL, SimBackend(), points=True).points["sim"]

    right = points("scaled_add")
    assert list(right) == ["product", "sum"]
    assert points("scaled_add") == right
    wrong = points("adds_b_twice")
    assert (wrong["product"] == right["product"], wrong["sum"] == right["sum"]) == (True, False)
