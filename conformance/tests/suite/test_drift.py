"""Claim: every change between two runs or two sets of goldens gets the class that its bits, grade or values deserve,
and is located by what both sides know.

Each class has its twin: the least change that is still in it, and one that must fall into a worse one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance import goldens, registry
from conformance.backends.sim import SimBackend
from conformance.bounds import Bound
from conformance.drift import AFTER_THE_LAST, Change, Drift, Moved, drift
from conformance.drift_sides import Side, side_of_goldens, side_of_run
from conformance.ledger import Ledger, Row
from conformance.results import CaseResult
from conformance.runner import run_case
from conformance.subject import Arrays, Call, Case, Subject
from conformance.tests.suite import scaled_add
from conformance.tests.suite.scaled_add import SUBJECT, Config, HostBackend
from conformance.waivers import Waiver, run_waived
from reference.numerics.cast import cast, to_float32
from reference.numerics.profile import CHAIN, DEFAULT, NumericsProfile
from reference.recorder import NO_RECORD, Recorder

SMALL, EXACT = SUBJECT.catalog
NKI = "conformance.tests.suite.scaled_add_nki"


def _bounds(config: Config, inputs: Arrays) -> dict[str, Bound]:
    """Two roundings to bfloat16 (product and result), each half a unit of what is rounded."""
    product, b = (np.abs(inputs[name].astype(np.float64)) for name in ("a", "b"))
    product = product * abs(config.scale)
    return {"y": Bound(2.0**-8 * (2 * product + b), roundings=2)}


#: The toy with a derived bound and no published tolerance, so that its outputs are A, C or F.
BOUND = dataclasses.replace(SUBJECT, bounds=_bounds, tolerances=())


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[Subject], None]:
    """Makes a subject the one that this project knows by the name scaled_add."""

    def know(subject: Subject) -> None:
        monkeypatch.setattr(registry, "kernel", {"scaled_add": subject}.__getitem__)

    know(BOUND)
    return know


# ------------------------------------------------------------------------------------------- ledgers


class Runs:
    """Runs in a ledger, each of the results it is given."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger(path)

    def __call__(self, *results: CaseResult, backend: str = "sim", profile: NumericsProfile = DEFAULT) -> Side:
        run = self.ledger.begin(backend, profile)
        for result in results:
            assert self.ledger.add(run, Row.of(result))
        return side_of_run(self.ledger, run)


@pytest.fixture
def runs(tmp_path: Path, known: Any) -> Runs:
    return Runs(tmp_path / "runs.ledger")


def _result(name: str = "", case: Case = SMALL, subject: Subject = BOUND, **options: Any) -> CaseResult:
    """`name` is one of the wrong kernels, '' for the right one."""
    judged = subject.with_implementation(f"{scaled_add.__name__}:{name}") if name else subject
    return run_case(judged, case, HostBackend(), **options)


def _row(found: Drift, output: str, rung: str = "sim") -> Moved:
    (row,) = [row for row in found.moved if (row.output, row.rung) == (output, rung)]
    return row


def test_equal_runs_have_nothing_to_tell(runs: Runs) -> None:
    found = drift(runs(_result()), runs(_result()))
    assert (found.moved, found.passed, found.same) == ((), True, 4)
    assert found.counts == {one.value: 4 if one is Change.SAME else 0 for one in Change}


@pytest.mark.parametrize("unfinished", [0, 1])
def test_a_run_that_was_broken_off_fails_the_drift_on_either_side(runs: Runs, unfinished: int) -> None:
    """Every case that is there has its bits."""
    sides = [runs(_result()), runs(_result())]
    sides[unfinished] = dataclasses.replace(sides[unfinished], lacking="run incomplete: 1 of 3 cases")
    found = drift(*sides)
    assert (found.moved, found.passed) == ((), False)
    assert found.to_dict()["lacking"] == [f"{sides[unfinished].label}: run incomplete: 1 of 3 cases"]


@pytest.mark.parametrize(
    ("name", "change", "grades"),
    [("rounds_the_product", Change.IN_BOUND, ("A", "C")), ("swaps_two_rows", Change.OUT, ("A", "F"))],
)
def test_other_bits_are_classed_by_the_grade_they_reach(
    runs: Runs, name: str, change: Change, grades: tuple[str, str]
) -> None:
    """Both are below the A that sim requires, so both fail; the class says how bad it is."""
    found = drift(runs(_result()), runs(_result(name)))
    row = _row(found, "y")
    assert (row.change, row.grades, row.fell, found.passed) == (change, grades, True, False)
    assert row.shares[0] is not None
    assert row.ulps[0] == 0 != row.ulps[1]
    assert [one.output for one in found.moved] == ["y"]
    assert found.same == 3


def test_a_grade_that_is_not_required_may_fall(runs: Runs) -> None:
    """On a device C is enough, so that in bound is a remark and out a failure."""
    ours, theirs = (_on_device(_result(name)) for name in ("", "rounds_the_product"))
    found = drift(runs(ours), runs(theirs))
    assert (_row(found, "y", "trn2").change, found.passed) == (Change.IN_BOUND, True)
    assert not drift(runs(ours), runs(_on_device(_result("swaps_two_rows")))).passed


def _on_device(result: CaseResult) -> CaseResult:
    """The same as a device would have it: graded by the rows of a device."""
    required = {"sim": "C", "model": "D"}
    outputs = [
        {**output.to_dict(), "rung": output.rung.replace("sim", "trn2"), "required": required[output.rung]}
        for output in result.outputs
    ]
    return CaseResult.from_dict(result.to_dict() | {"backend": "trn2", "outputs": outputs})


def test_a_kernel_in_the_envelope_of_its_model_is_a_legal_variant(runs: Runs) -> None:
    """The product is rounded to bfloat16 under one candidate; the new kernel does that always."""

    def model(config: Config, inputs: Arrays, profile: Any, **_: Any) -> Arrays:
        if profile.matmul_order == "exact":
            return scaled_add.model(config, inputs)
        y = scaled_add.rounds_the_product(inputs["a"], inputs["b"], inputs["total"].copy(), config.scale)
        return {"y": y, "total": scaled_add.model(config, inputs)["total"]}

    subject = dataclasses.replace(BOUND, model=model)
    sides = [runs(_on_device(_result(name, subject=subject, envelope=True))) for name in ("", "rounds_the_product")]
    found = drift(*sides)
    assert (_row(found, "y", "trn2").change, _row(found, "y", "trn2").grades) == (Change.LEGAL, ("A", "B"))
    assert found.passed


def test_a_grade_that_fell_is_told_although_no_bit_of_the_kernel_moved(runs: Runs) -> None:
    """The model moved from under the kernel."""
    moved = dataclasses.replace(BOUND, model=_rounding_model)
    found = drift(runs(_result()), runs(_result(subject=moved)))
    kernel, model = _row(found, "y"), _row(found, "y", "model")
    assert (kernel.change, kernel.grades, kernel.fell) == (Change.SAME, ("A", "C"), True)
    assert (model.change, model.fell) == (Change.IN_BOUND, False)
    assert not found.passed
    assert found.counts[Change.SAME.value] == 3


def _rounding_model(
    config: Config, inputs: Arrays, profile: NumericsProfile = DEFAULT, record: Recorder = NO_RECORD
) -> Arrays:
    """The model with a second rounding, and the points to see it at."""
    product = to_float32(cast(to_float32(inputs["a"]) * np.float32(config.scale), config.dtype))
    record("product", (0,), product)
    total = product + to_float32(inputs["b"])
    record("sum", (0,), total)
    return {"y": cast(total, config.dtype), "total": scaled_add.model(config, inputs)["total"]}


@pytest.mark.parametrize(
    ("new", "change", "fails"),
    [
        ({"status": "crashed", "error": "kernel: IndexError"}, Change.OUT, True),
        ({"status": "timed-out"}, Change.OUT, True),
        ({"status": "unfit"}, Change.GONE, False),
        ({"status": "waived", "error": "not launched"}, Change.GONE, False),
    ],
)
def test_a_case_that_has_no_outputs_any_more_is_out_unless_it_was_not_tried(
    runs: Runs, new: dict[str, Any], change: Change, fails: bool
) -> None:
    old = _result()
    silent = dataclasses.replace(old, outputs=(), **new)
    found = drift(runs(old), runs(silent))
    (row,) = found.moved
    assert (row.change, row.output, found.passed) == (change, "", not fails)
    assert new["status"] in row.why
    back = drift(runs(silent), runs(old))
    assert [row.change for row in back.moved] == [Change.NEW]
    assert back.passed
    quiet = drift(runs(silent), runs(silent))
    assert (quiet.moved, quiet.silent) == ((), 1)


def test_what_is_waived_is_shown_and_fails_nothing(runs: Runs) -> None:
    waiver = Waiver("rows", "scaled_add", "rows swapped", "https://example.org/1", output="y", implementation="*")
    wrong = BOUND.with_implementation(f"{scaled_add.__name__}:swaps_two_rows")
    found = drift(runs(_result()), runs(run_waived(wrong, SMALL, HostBackend(), rows=(waiver,))))
    row = _row(found, "y")
    assert (row.change, row.fell, row.waived, found.passed) == (Change.OUT, True, True, True)


def test_a_kernel_that_is_not_deterministic_all_at_once_is_out(runs: Runs) -> None:
    class Unsteady(HostBackend):
        def run(self, call: Call) -> Arrays:
            outputs = super().run(call)
            outputs["y"].view(np.uint16)[0, 1] += self.calls > 1
            return outputs

    steady, unsteady = (run_case(BOUND, SMALL, backend, repeat=2) for backend in (HostBackend(), Unsteady()))
    found = drift(runs(steady), runs(unsteady))
    assert [(row.change, row.rung) for row in found.moved] == [(Change.OUT, "repeat")]
    assert [row.change for row in drift(runs(unsteady), runs(steady)).moved] == [Change.GONE]


def test_cases_of_one_side_alone_are_new_or_gone(runs: Runs) -> None:
    found = drift(runs(_result()), runs(_result(case=EXACT)))
    assert [(row.change, row.case) for row in found.moved] == [(Change.GONE, "small"), (Change.NEW, "exact")]
    assert found.passed


def test_another_seed_is_another_case_and_another_name_is_not(runs: Runs) -> None:
    other = _result(case=dataclasses.replace(SMALL, seed=7))
    found = drift(runs(_result()), runs(other))
    assert {(row.change, row.facts) for row in found.moved} == {
        (Change.GONE, ("seed: 0 -> 7",)),
        (Change.NEW, ("seed: 0 -> 7",)),
    }
    (row,) = drift(runs(_result()), runs(_result(case=dataclasses.replace(SMALL, id="tiny")))).moved
    assert (row.change, row.facts, row.fails) == (Change.SAME, ("case: small -> tiny",), False)


def test_a_field_that_one_version_does_not_know_is_a_fact_and_one_that_differs_another_case(runs: Runs) -> None:
    new = _result()
    old = dataclasses.replace(new, config={name: value for name, value in new.config.items() if name != "scale"})
    (row,) = drift(runs(old), runs(new)).moved
    assert (row.change, row.facts) == (Change.SAME, ("config.scale: None -> 0.75",))
    other = dataclasses.replace(new, config={**new.config, "scale": 0.5})
    assert [row.change for row in drift(runs(new), runs(other)).moved] == [Change.GONE, Change.NEW]


def test_of_a_case_that_was_tried_again_the_last_counts(runs: Runs) -> None:
    right = _result()
    run = runs.ledger.begin("sim", DEFAULT)
    runs.ledger.add(run, Row.of(dataclasses.replace(right, status="died", outputs=())))
    runs.ledger.add(run, Row.of(right, repetition=1))
    assert drift(runs(right), side_of_run(runs.ledger, run)).moved == ()


def test_what_differs_between_two_runs_is_told(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    from conformance import ledger

    old = runs(_result())
    newer = {**ledger.versions(), "neuronx-cc": "2.22.1"}
    monkeypatch.setattr(ledger, "versions", lambda: newer)
    new = runs(_result(), backend="trn2", profile=DEFAULT.replace(ties="highest"))
    assert set(drift(old, new).differs) == {
        ("backend", "sim", "trn2"),
        ("neuronx-cc", "", "2.22.1"),
        ("profile ties", "lowest", "highest"),
    }


# ---------------------------------------------------------------------------------- where it began


def test_the_kernels_own_points_tell_where_it_moved(runs: Runs) -> None:
    def run(name: str, points: bool = True) -> CaseResult:
        return run_case(BOUND.with_implementation(f"{NKI}:{name}"), SMALL, SimBackend(), points=points)

    old = runs(run("scaled_add"))
    assert _row(drift(old, runs(run("rounds_the_product"))), "y").first == "product"
    assert _row(drift(old, runs(run("adds_b_twice"))), "y").first == "sum"
    assert _row(drift(old, runs(run("stores_a_row_late"))), "y").first == AFTER_THE_LAST
    blind = drift(old, runs(run("adds_b_twice", points=False)))
    assert _row(blind, "y").first == "the kernel's own, as its model kept every bit; check --points keeps digests"


def test_the_models_points_tell_where_both_moved(runs: Runs) -> None:
    """A kernel without points of its own, that moved as its model did."""
    moved = dataclasses.replace(BOUND, model=_rounding_model)
    old, new = _result(points=True), _result("rounds_the_product", subject=moved, points=True)
    found = drift(runs(old), runs(new))
    assert (_row(found, "y", "model").first, _row(found, "y").first) == ("product", "model: product")


def test_a_device_shows_no_inner_values_and_the_row_says_what_does(runs: Runs) -> None:
    old, new = (_on_device(_result(name)) for name in ("", "swaps_two_rows"))
    row = _row(drift(runs(old, backend="trn2"), runs(new, backend="trn2")), "y", "trn2")
    assert row.first.startswith("the kernel's own, as its model kept every bit; trn2 shows no inner values")


def _answering(
    config: Config, inputs: Arrays, profile: NumericsProfile = DEFAULT, record: Recorder = NO_RECORD
) -> Arrays:
    """Another model under another answer."""
    model = scaled_add.model if profile.matmul_order == "exact" else _rounding_model
    return model(config, inputs, profile, record)


def test_two_profiles_are_told_apart_by_running_the_model_again(runs: Runs, known: Any) -> None:
    subject = dataclasses.replace(BOUND, model=_answering)
    known(subject)
    results = {one: _result(subject=subject, profile=one, rungs=("truth", "model")) for one in (DEFAULT, CHAIN)}
    old, new = (runs(result, profile=one) for one, result in results.items())
    assert not any(record.points for side in (old, new) for record in side.records)
    assert _row(drift(old, new), "y", "model").first == "product"
    known(BOUND)
    assert "no digests of points on the new side" in _row(drift(old, new), "y", "model").first


# ------------------------------------------------------------------------------------------- goldens


def _goldens(subject: Subject, *cases: Case, profile: NumericsProfile = DEFAULT) -> Side:
    return side_of_goldens("here", [goldens.compute(subject, case, profile) for case in cases or (SMALL,)])


def _model(change: Callable[[Any, Config], Any]) -> Subject:
    """The toy with a model whose y is changed."""

    def model(
        config: Config, inputs: Arrays, profile: NumericsProfile = DEFAULT, record: Recorder = NO_RECORD
    ) -> Arrays:
        outputs = scaled_add.model(config, inputs, profile, record)
        return {**outputs, "y": change(outputs["y"], config)}

    return dataclasses.replace(BOUND, model=model)


def _one_bit(y: Any, config: Config) -> Any:
    y = y.copy()
    y.view(np.uint16).ravel()[3] ^= 1
    return y


def _swapped(y: Any, config: Config) -> Any:
    return y[::-1].copy()


def _widened(y: Any, config: Config) -> Any:
    return to_float32(y)


SECOND_ROUNDING = dataclasses.replace(BOUND, model=_rounding_model)


@pytest.mark.parametrize(
    ("subject", "change"),
    [
        (_model(_one_bit), Change.LEGAL),
        (SECOND_ROUNDING, Change.IN_BOUND),
        (_model(_swapped), Change.OUT),
        (_model(_widened), Change.OUT),
    ],
    ids=["one step", "another rounding", "rows swapped", "another dtype"],
)
@pytest.mark.parametrize("present", ["old", "new"])
def test_new_values_are_judged_by_the_old_ones_whichever_the_model_of_today_gives(
    known: Any, subject: Subject, change: Change, present: str
) -> None:
    """Today's model may be the broken one; it must not excuse itself."""
    known(BOUND if present == "old" else subject)
    found = drift(_goldens(BOUND), _goldens(subject))
    (row,) = found.moved
    assert (row.output, row.change, found.same) == ("y", change, 1)
    assert row.fails is (change is Change.OUT)
    assert row.apart
    assert row.report
    assert row.why


def test_a_legal_answer_is_as_wide_around_the_old_values_as_around_the_models(known: Any) -> None:
    """The other answer of an open question is legal by more than one step; twice as far is not."""
    subject = dataclasses.replace(BOUND, model=_answering, bounds=lambda *_: {})
    known(subject)
    old, new = (_goldens(subject, profile=one) for one in (DEFAULT, CHAIN))
    assert drift(old, new).moved[0].change is Change.LEGAL

    def too_far(config: Config, inputs: Arrays, **_: Any) -> Arrays:
        base, other = (to_float32(one(config, inputs)["y"]) for one in (scaled_add.model, _rounding_model))
        y = cast(base + np.float32(8) * (other - base), config.dtype)
        return {**scaled_add.model(config, inputs), "y": y}

    assert drift(old, _goldens(dataclasses.replace(subject, model=too_far))).moved[0].change is Change.OUT


def test_in_the_exact_lane_every_other_bit_is_out(known: Any) -> None:
    found = drift(_goldens(BOUND, EXACT), _goldens(_model(_one_bit), EXACT))
    assert [row.change for row in found.moved] == [Change.OUT]
    assert "lane exact" in found.moved[0].why


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ({"kernel": "gone_add"}, "not judged: no kernel gone_add here"),
        ({"config": {"color": "red"}}, "not judged: the case cannot be computed here: ValueError"),
        ({"lane": "no_such"}, "not judged: the case cannot be computed here"),
        ({"profile": {"no_such_question": 1}}, "not judged: the case cannot be computed here: ValueError"),
    ],
)
def test_what_this_project_cannot_compute_is_out_with_the_reason(known: Any, spoil: dict[str, Any], why: str) -> None:
    golden = goldens.compute(BOUND, SMALL)
    bent = dict(golden.outputs, y=_one_bit(golden.outputs["y"], Config()))
    old = side_of_goldens("old", [dataclasses.replace(golden, **spoil)])
    found = drift(old, side_of_goldens("new", [dataclasses.replace(golden, outputs=bent, **spoil)]))
    assert found.moved[0].change is Change.OUT
    assert found.moved[0].why.startswith(why)


def test_the_first_point_of_a_golden_that_moved_is_named(known: Any) -> None:
    assert drift(_goldens(BOUND), _goldens(SECOND_ROUNDING)).moved[0].first == "product"
    assert drift(_goldens(BOUND), _goldens(_model(_one_bit))).moved[0].first == AFTER_THE_LAST


def test_a_point_that_moved_under_equal_outputs_is_a_remark(known: Any) -> None:
    golden = goldens.compute(BOUND, SMALL)
    points = tuple(dataclasses.replace(one, digest="0") for one in golden.points)
    new = side_of_goldens("new", [dataclasses.replace(golden, points=points)])
    found = drift(_goldens(BOUND), new)
    (row,) = found.moved
    assert (row.change, row.output, row.first, found.passed) == (Change.SAME, "", "product", True)


def test_goldens_and_a_run_are_compared_by_their_models(runs: Runs) -> None:
    run = runs(_result("swaps_two_rows", points=True))
    assert drift(_goldens(BOUND), run).moved == ()
    found = drift(_goldens(SECOND_ROUNDING), run)
    assert [(row.rung, row.output, row.change) for row in found.moved] == [("model", "y", Change.IN_BOUND)]
    assert found.moved[0].first == "product"
    back = drift(run, _goldens(SECOND_ROUNDING))
    assert [(row.rung, row.output, row.change) for row in back.moved] == [("model", "y", Change.IN_BOUND)]
    assert [row.change for row in drift(run, _goldens(_model(_swapped))).moved] == [Change.OUT]


def test_the_worst_stands_first_and_everything_survives_json(known: Any, runs: Runs) -> None:
    old = runs(_result(), _result(case=EXACT))
    new = runs(_result("rounds_the_product"), _result("swaps_two_rows", case=EXACT))
    found = drift(old, new)
    assert [row.change for row in found.moved] == [Change.OUT, Change.IN_BOUND]
    plain = json.loads(json.dumps(found.to_dict(), default=repr))
    assert plain["counts"]["out"] == 1
    assert [row["change"] for row in plain["changes"]] == ["out", "in bound"]
    assert plain["passed"] is False
