"""Every kernel on every rung: what the project promises of each, with nothing said per kernel.

Claims: the catalog's `ci` cases give the model's bits on the machine and stay inside their tolerance of truth;
so do configs that Hypothesis draws; illegal configs and spoiled arguments are refused by the rule they break, with
nothing launched and nothing written; two-core kernels give the same bits under other legal interleavings. A failure
ends with the command that runs its case again; what conformance/waivers.py lists is expected to fail, and must.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest

from conformance.backends import available, backend
from conformance.fuzz import SIZES, fuzz_illegal, fuzz_legal, fuzz_spoiled
from conformance.held import hold
from conformance.registry import kernels
from conformance.subject import Case, Subject
from conformance.waivers import run_waived, unmatched
from reference.neuroncore.options import Options

KERNELS = tuple(kernels().values())
SIZE = SIZES.get(os.environ.get("HYPOTHESIS_PROFILE", "dev"), SIZES["dev"])
#: Seeds of the interleavings that LNC2 cases are run under beside the fixed one.
INTERLEAVINGS = (1, 2)


def _cases(tag: str) -> list[Any]:
    return [
        pytest.param(subject, case, id=f"{subject.name}-{case.id}")
        for subject in KERNELS
        for case in subject.catalog
        if tag in case.tags
    ]


def _two_core_cases() -> list[Any]:
    """Every fourth: what an interleaving can break does not depend on a case's other flags."""
    return [param for param in _cases("ci") if getattr(param.values[1].config, "lnc", 1) == 2][::4]


def _subjects() -> list[Any]:
    return [pytest.param(subject, id=subject.name) for subject in KERNELS]


def _marks(name: str) -> Any:
    """The marker of a backend, with the reason for skipping where it is not here."""
    here, reason = available(name)
    return pytest.mark.skipif(not here, reason=f"{name}: {reason}")


@pytest.mark.sim
@_marks("sim")
@pytest.mark.parametrize(("subject", "case"), _cases("ci"))
def test_the_machine_gives_the_models_bits_and_the_model_is_near_truth(
    subject: Subject, case: Case, record_property: Any
) -> None:
    hold(run_waived(subject, case), record_property)


@pytest.mark.parametrize("subject", _subjects())
def test_the_call_updates_the_arguments_that_its_outputs_name(subject: Subject) -> None:
    """What is judged for having been left as it was is what the launch may write, and in no config anything else."""
    updated = set()
    for case in subject.catalog:
        if "ci" in case.tags:
            inputs = subject.build(case.config, case.lane, case.seed)
            call = subject.call(case.config, inputs, subject.load())
            assert dict(call.in_place) == subject.in_place(case.config), case.id
            assert set(call.in_place.values()) <= set(inputs)
            updated |= set(call.in_place)
    assert updated == {output.name for output in subject.outputs if output.argument}


@pytest.mark.sim
@_marks("sim")
@pytest.mark.parametrize("part", range(SIZE.parts))
@pytest.mark.parametrize("subject", _subjects())
def test_drawn_configs_give_the_models_bits(subject: Subject, part: int) -> None:
    assert fuzz_legal(subject, SIZE.legal // SIZE.parts, seed=1000 * part) > 0


@pytest.mark.parametrize("subject", _subjects())
def test_illegal_configs_are_refused_by_their_rule_with_nothing_written(subject: Subject) -> None:
    assert fuzz_illegal(subject, SIZE.illegal, seed=0) > 0


@pytest.mark.parametrize("subject", _subjects())
def test_spoiled_calls_are_refused_by_every_rule_about_arguments_with_nothing_written(subject: Subject) -> None:
    """Each after its legal twin, the same call before one of its arguments was spoiled, was let in."""
    rules = {rule.id for rule in importlib.import_module(f"reference.contracts.{subject.name}").CALL_RULES}
    refused = fuzz_spoiled(subject, SIZE.illegal, seed=0)
    assert rules | {"tensor_shapes"} == set(refused)


@pytest.mark.sim
@_marks("sim")
@pytest.mark.parametrize("seed", INTERLEAVINGS)
@pytest.mark.parametrize(("subject", "case"), _two_core_cases())
def test_two_cores_give_the_same_bits_under_other_interleavings(
    subject: Subject, case: Case, seed: int, record_property: Any
) -> None:
    shuffled = backend("sim", options=Options(seed=seed, quantum=1))
    hold(run_waived(subject, case, shuffled, rungs=("model", "kernel")), record_property)


def test_every_waiver_is_of_something_the_project_has() -> None:
    assert unmatched(KERNELS) == []


@pytest.mark.parametrize("subject", _subjects())
def test_every_lane_of_a_kernel_has_a_case_that_ci_runs(subject: Subject) -> None:
    covered = {case.lane for case in subject.catalog if "ci" in case.tags}
    assert covered == set(subject.lanes)


@pytest.mark.parametrize("subject", _subjects())
def test_a_kernel_has_goldens_and_device_cases_to_run(subject: Subject) -> None:
    tags = {tag for case in subject.catalog for tag in case.tags}
    assert {"ci", "golden"} <= tags
