"""Claim: a kernel whose bits change from run to run fails for that, whatever its grade; one that is steady passes.

By hand: `nki-oracle check KERNEL --repeat 5`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from conformance.backends.child import ChildBackend
from conformance.repeat import unsteady_outputs
from conformance.results import CaseResult
from conformance.runner import run_case
from conformance.subject import Arrays, Call
from conformance.tests import standin
from conformance.tests.standin.fixtures import Stage, stage
from conformance.tests.suite import scaled_add
from conformance.tests.suite.scaled_add import SUBJECT, HostBackend

__all__ = ["stage"]

SMALL = SUBJECT.catalog[0]


class _Unsteady(HostBackend):
    """Right, but for one element of y, which grows by one unit with the runs after `steady` ones."""

    def __init__(self, steady: int) -> None:
        super().__init__()
        self._steady = steady

    def run(self, call: Call) -> Arrays:
        outputs = super().run(call)
        if self.calls > self._steady:
            outputs["y"].view(np.uint16)[0, 1] += 1
        return outputs


def _repeated(backend: Any, repeat: int) -> CaseResult:
    return run_case(SUBJECT, SMALL, backend, repeat=repeat)


def test_a_steady_kernel_passes_and_is_launched_as_often_as_asked() -> None:
    backend = HostBackend()
    result = _repeated(backend, 4)
    assert result.passed, result.report()
    assert (backend.calls, result.repeats) == (4, 4)
    assert {output.rung for output in result.outputs} == {"model", "sim"}


def test_an_element_that_changes_in_the_third_run_is_a_failure_of_its_own() -> None:
    result = _repeated(_Unsteady(steady=2), 4)
    assert result.status == "failed"
    assert result.error == "not deterministic: y"
    (bad,) = [output for output in result.outputs if not output.passed]
    assert (bad.rung, bad.name, bad.differing, bad.max_ulp) == ("repeat", "y", 1, 1)
    assert bad.missed == "not deterministic: 1 of 32 elements differ between run 1 and run 3"
    assert result.report().endswith("--repeat 4")


def test_two_runs_do_not_see_what_changes_in_the_third() -> None:
    assert _repeated(_Unsteady(steady=2), 2).passed


def test_once_is_not_repeated() -> None:
    backend = HostBackend()
    assert _repeated(backend, 1).passed
    assert backend.calls == 1
    assert "--repeat" not in _repeated(backend, 1).repro


def test_a_wrong_result_and_a_changing_one_are_told_apart() -> None:
    wrong = run_case(scaled_add.broken("swaps_two_rows"), SMALL, HostBackend(), repeat=3)
    assert wrong.error == ""
    assert {output.rung for output in wrong.outputs if not output.passed} == {"sim"}


@pytest.mark.parametrize(
    ("later", "why"),
    [
        ({"y": np.zeros(3, np.float32)}, "run 2 returned y: float32[3], expected float32[2]"),
        ({"y": np.zeros(2, np.float16)}, "run 2 returned y: float16[2], expected float32[2]"),
        ({}, "only in run 1"),
        ({"y": np.zeros(2, np.float32), "z": np.zeros(1)}, "only in run 2"),
        ({"y": np.array([0, -0.0], np.float32)}, "1 of 2 elements differ between run 1 and run 2"),
    ],
)
def test_whatever_changes_is_told(later: Arrays, why: str) -> None:
    (found,) = unsteady_outputs({"y": np.zeros(2, np.float32)}, lambda: later, 2)
    assert found.missed == f"not deterministic: {why}"


def test_one_nan_is_as_good_as_another() -> None:
    one, other = (np.array([code], np.uint16).view(ml_dtypes.bfloat16) for code in (0x7FC0, 0xFFC1))
    assert unsteady_outputs({"y": one}, lambda: {"y": other}, 2) == []


@pytest.fixture
def backend(stage: Stage) -> Iterator[ChildBackend]:
    made = standin.make()
    yield made
    made.close()


SUBJECT_NKI = SUBJECT.with_implementation("conformance.tests.suite.scaled_add_nki:scaled_add")


def test_a_device_whose_bits_change_is_found(backend: ChildBackend, stage: Stage) -> None:
    stage.plays("unsteady")
    result = run_case(SUBJECT_NKI, SMALL, backend, repeat=3)
    assert "y" in result.error
    assert result.error.startswith("not deterministic")


def test_a_steady_device_passes_and_a_death_in_a_later_run_is_one(backend: ChildBackend, stage: Stage) -> None:
    assert run_case(SUBJECT_NKI, SMALL, backend, repeat=3).passed
    stage.plays("right", "right", "exit")
    backend.close()
    result = run_case(SUBJECT_NKI, SMALL, backend, repeat=3)
    assert result.status == "died"
    assert result.error.startswith("repeat: ")
