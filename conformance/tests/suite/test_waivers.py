"""Claim: a known failure is tolerated exactly as far as its entry says, and fails the suite on the day it passes.

Every entry has its twin: a subject that it covers, and one that it must not cover (or one that needs it no more).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from conformance.held import hold, properties
from conformance.results import CaseResult
from conformance.subject import Case, Subject
from conformance.tests.suite import scaled_add
from conformance.tests.suite.scaled_add import SUBJECT, HostBackend
from conformance.versions import versions
from conformance.waivers import WAIVERS, Waiver, run_waived, tolerate, unmatched

SMALL = SUBJECT.catalog[0]
WHY = {"reason": "the product is rounded once too often", "reference": "https://example.org/tracker/1"}


def _waiver(**more: Any) -> Waiver:
    return Waiver(**{"id": "rounded", "kernel": "scaled_add", "implementation": "*", **WHY, **more})


def _run(name: str, *rows: Waiver, case: Case = SMALL) -> CaseResult:
    return run_waived(_subject(name), case, HostBackend(), rows=rows)


def _subject(name: str) -> Subject:
    return SUBJECT if name == "right" else scaled_add.broken(name)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("swaps_two_rows", {"output": "y", "backend": "sim"}),
        ("leaves_total", {"output": "total"}),
        ("returns_float32", {"case": "small"}),
        ("crashes", {"status": "crashed"}),
        ("swaps_two_rows", {"case": "sm*", "versions": {"numpy": "*"}}),
    ],
)
def test_a_known_failure_is_waived_and_shown_as_it_is(name: str, more: dict[str, Any]) -> None:
    unwaived, result = _run(name), _run(name, _waiver(**more))
    assert unwaived.status in ("failed", "crashed")
    assert (result.status, result.waivers) == ("waived", ("rounded",))
    assert not result.passed
    assert result.tolerated
    assert [output.grade for output in result.outputs] == [output.grade for output in unwaived.outputs]
    assert {output.waiver for output in result.outputs if not output.passed} <= {"rounded"}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("swaps_two_rows", {"kernel": "other"}),
        ("swaps_two_rows", {"case": "exact"}),
        ("swaps_two_rows", {"backend": "trn2"}),
        ("swaps_two_rows", {"versions": {"neuronx-cc": "2.*"}}),
        ("swaps_two_rows", {"implementation": "kernels.*"}),
        ("crashes", {}),
        ("crashes", {"status": "died"}),
        ("crashes", {"output": "y"}),
    ],
)
def test_a_failure_that_no_entry_speaks_of_still_fails(name: str, more: dict[str, Any]) -> None:
    assert _untimed(_run(name, _waiver(**more))) == _untimed(_run(name))


def _untimed(result: CaseResult) -> CaseResult:
    return dataclasses.replace(result, seconds={})


@pytest.mark.parametrize(
    ("name", "more"),
    [("right", {}), ("swaps_two_rows", {"status": "crashed"}), ("swaps_two_rows", {"output": "total"})],
    ids=["the kernel came right", "it crashes no more", "another output is wrong"],
)
def test_an_entry_that_is_no_longer_needed_fails(name: str, more: dict[str, Any]) -> None:
    result = _run(name, _waiver(**more))
    assert result.status == "failed"
    assert "waiver rounded is no longer needed: remove it" in result.error
    assert "no longer needed" in result.report()


def test_one_of_two_wrong_outputs_without_an_entry_fails_the_case() -> None:
    def spoils_both(a: Any, b: Any, total: Any, scale: float) -> Any:
        return scaled_add.swaps_two_rows(a, b, total.copy(), scale)

    subject = dataclasses.replace(SUBJECT, call=lambda config, inputs, _: scaled_add.call(config, inputs, spoils_both))

    def run(*rows: Waiver) -> str:
        return run_waived(subject, SMALL, HostBackend(), rows=rows).status

    y, total = _waiver(id="y", output="y"), _waiver(id="total", output="total")
    assert run(y) == run(total) == "failed"
    assert run(y, total) == "waived"


def test_an_entry_for_the_model_holds_beside_any_kernel() -> None:
    wrong = dataclasses.replace(SUBJECT, truth=lambda *_: {"y": 3 * _truth["y"], "total": _truth["total"]})
    _truth = SUBJECT.truth(SMALL.config, SUBJECT.build(SMALL.config, SMALL.lane, SMALL.seed))
    row = _waiver(backend="model", output="y", implementation="kernels.*")
    assert run_waived(wrong, SMALL, HostBackend(), rows=()).status == "failed"
    assert run_waived(wrong, SMALL, HostBackend(), rows=(row,)).status == "waived"


class _Device(HostBackend):
    name = "trn2"


CRASHER = {"run": False, "backend": "trn2", "status": "died"}


def test_what_takes_a_device_down_is_not_launched_there_until_versions_change() -> None:
    device, now = _Device(), versions()
    known = _waiver(**CRASHER, versions={"numpy": now["numpy"]})
    result = run_waived(SUBJECT, SMALL, device, rows=(known,))
    assert (result.status, device.calls) == ("waived", 0)
    assert "not launched: waiver rounded: the product is rounded once too often" in result.error
    assert run_waived(SUBJECT, SMALL, device, rows=(_waiver(**CRASHER, versions={"numpy": "0.1"}),)).repro
    assert device.calls == 1
    host = HostBackend()
    assert run_waived(SUBJECT, SMALL, host, rows=(known,)).passed
    assert host.calls == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"reason": " "}, "reason is empty"),
        ({"reference": ""}, "reference is empty"),
        ({"id": "A b"}, "its id is not of lower-case letters"),
        ({"status": "passed"}, "status 'passed' cannot be waived"),
        ({"versions": {"compiler": "2"}}, "nothing tells a version of 'compiler'"),
        ({"status": "crashed", "output": "y"}, "leave out output"),
        ({"run": False, "versions": {"numpy": "2"}}, "name the device as backend"),
        ({"run": False, "backend": "trn2"}, "needs versions"),
    ],
)
def test_an_entry_that_says_too_little_cannot_be_made(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _waiver(**more)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, []),
        ({"case": "ex*"}, []),
        ({"case": "cfg:lane=normal,seed=7,rows=2"}, []),
        ({"kernel": "scaled_sub"}, ["waiver rounded matches no case: correct or remove it"]),
        ({"case": "smaller"}, ["waiver rounded matches no case: correct or remove it"]),
        ({"case": "cfg:lane=normal,seed=7,colour=2"}, ["waiver rounded matches no case: correct or remove it"]),
        ({"output": "z"}, ["waiver rounded matches no output: correct or remove it"]),
        ({"backend": "gpu"}, ["waiver rounded matches no backend: correct or remove it"]),
    ],
)
def test_an_entry_that_matches_nothing_is_told(more: dict[str, Any], line: list[str]) -> None:
    assert unmatched([SUBJECT], [_waiver(**more)]) == line


def test_a_case_that_was_not_tried_says_nothing_of_its_entry() -> None:
    unfit = dataclasses.replace(_run("right"), status="unfit", outputs=())
    assert tolerate(unfit, [_waiver()]) == unfit


def test_ids_are_told_apart() -> None:
    names = [row.id for row in WAIVERS]
    assert len(names) == len(set(names))


# ---------------------------------------------------------------------------------------- under pytest


def test_properties_hold_grade_share_and_digest_of_every_output() -> None:
    found = dict(properties(_run("swaps_two_rows", _waiver())))
    assert (found["status"], found["waiver"]) == ("waived", "rounded")
    assert (found["sim.y.grade"], found["sim.y.required"], found["sim.total.grade"]) == ("F", "A", "A")
    assert len(found["sim.y.digest"]) == 64
    assert float(found["sim.y.share_of_bound"]) > 1


@pytest.mark.parametrize(
    ("name", "rows", "outcome"),
    [
        ("swaps_two_rows", (), AssertionError),
        ("swaps_two_rows", (_waiver(),), pytest.xfail.Exception),
        ("right", (_waiver(),), AssertionError),
    ],
)
def test_a_test_ends_as_its_result_says(name: str, rows: tuple[Waiver, ...], outcome: type[BaseException]) -> None:
    attached: list[tuple[str, object]] = []
    with pytest.raises(outcome):
        hold(_run(name, *rows), lambda *pair: attached.append(pair))
    assert ("sim.total.grade", "A") in attached


def test_a_passed_case_ends_quietly_and_an_unfit_one_is_skipped() -> None:
    hold(_run("right"), lambda *pair: None)
    unfit = dataclasses.replace(_run("right"), status="unfit", error="no room")
    with pytest.raises(pytest.skip.Exception, match="no room"):
        hold(unfit, lambda *pair: None)
