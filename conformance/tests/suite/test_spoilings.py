"""Spoiled calls: a door that refuses them by their rule passes, one that lets them in or writes is found and told."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from conformance.entry import launch
from conformance.fuzz import FuzzFailure, fuzz, fuzz_spoiled
from conformance.randomness import Stream
from conformance.refusals import call_complaint
from conformance.registry import kernels
from conformance.runner import run_case
from conformance.spoilings import Spoiling, lane_of, misshapen, missing, rule_of, unused
from conformance.subject import Case, Subject, case_id, repro_command
from conformance.tests.suite import scaled_add
from conformance.tests.suite.scaled_add import SUBJECT, Config, HostBackend
from reference.contract import Refusal
from reference.errors import KernelArgumentError

CASE = Case(case_id(Config(), "spoiled_same_shape", 0), Config(), "spoiled_same_shape")
OPEN = dataclasses.replace(SUBJECT, call_refusal=lambda config, inputs: None)


def _refusing(rule: str) -> Subject:
    """Whatever is spoiled is refused by one rule."""

    def call_refusal(config: Config, inputs: Any) -> Refusal | None:
        found = scaled_add.call_refusal(config, inputs)
        return None if found is None else dataclasses.replace(found, rule=rule)

    return dataclasses.replace(SUBJECT, call_refusal=call_refusal)


def _writing() -> Subject:
    def call_refusal(config: Config, inputs: Any) -> Refusal | None:
        found = scaled_add.call_refusal(config, inputs)
        if found is not None:
            inputs["total"][...] = 0
        return found

    return dataclasses.replace(SUBJECT, call_refusal=call_refusal)


def _refusing_all() -> Subject:
    spoiled = SUBJECT.build(Config(), "normal", 0) | {"b": np.zeros(1)}
    return dataclasses.replace(SUBJECT, call_refusal=lambda config, inputs: scaled_add.call_refusal(config, spoiled))


def test_spoiled_arguments_are_refused_at_the_door_and_reach_no_backend() -> None:
    backend, inputs = HostBackend(), SUBJECT.build(Config(), "normal", 0)
    with pytest.raises(KernelArgumentError, match=r"\[same_shape\]"):
        launch(SUBJECT, Config(), inputs | {"b": inputs["b"][:-1]}, backend)
    assert backend.calls == 0
    launch(SUBJECT, Config(), inputs, backend)
    assert backend.calls == 1


@pytest.mark.parametrize(
    ("subject", "complaint"),
    [
        (SUBJECT, ""),
        (OPEN, "launched, expected a refusal by rule 'same_shape'"),
        (_refusing("other"), "refused by rule 'other', expected 'same_shape'"),
        (_writing(), "refused, but total was changed"),
        (_refusing_all(), "refused by rule 'same_shape' before anything was spoiled"),
        (dataclasses.replace(OPEN, call=lambda *_: 1 / 0), "ZeroDivisionError: division by zero, expected a refusal"),
    ],
)
def test_a_door_is_right_that_refuses_by_the_rule_writes_nothing_and_lets_the_legal_twin_in(
    subject: Subject, complaint: str
) -> None:
    found = call_complaint(subject, CASE)
    assert found == "" if not complaint else found.startswith(complaint)


def test_a_door_that_lets_spoiled_calls_in_is_found_with_a_line_that_shows_it_again() -> None:
    assert fuzz_spoiled(SUBJECT, 10, 1) == {"same_shape": 10}
    with pytest.raises(FuzzFailure, match="launched, expected a refusal by rule 'same_shape'") as raised:
        fuzz_spoiled(OPEN, 10, 1)
    result = fuzz(OPEN, 10, seed=1, backend=HostBackend())
    assert [one.repro for one in result.findings] == [raised.value.repro]
    case = raised.value.repro.split()[raised.value.repro.split().index("--case") + 1]
    assert raised.value.repro == repro_command(OPEN, OPEN.case(case))
    backend = HostBackend()
    again, mended = run_case(OPEN, OPEN.case(case), backend), run_case(SUBJECT, SUBJECT.case(case), backend)
    assert (again.status, again.repro) == ("failed", raised.value.repro)
    assert "launched, expected a refusal" in again.report()
    assert (mended.status, mended.report(), backend.calls) == ("passed", "", 0)


def test_refused_calls_are_counted_beside_refused_configs_and_add_up() -> None:
    result = fuzz(SUBJECT, 5, seed=1, backend=HostBackend(), illegal=7)
    assert (result.examples, result.refusals, result.spoiled, result.passed) == (5, 3, 7, True)
    assert (result + result).spoiled == 14
    assert result.to_dict()["spoiled"] == 7


def test_a_subject_without_spoilings_draws_none_and_has_none_of_their_lanes() -> None:
    bare = dataclasses.replace(SUBJECT, spoilings=())
    assert fuzz(bare, 3, seed=1, backend=HostBackend()).spoiled == 0
    with pytest.raises(ValueError, match="no lane 'spoiled_same_shape'"):
        bare.case(CASE.id)


def test_a_lane_names_its_rule_and_other_lanes_none() -> None:
    assert (rule_of(lane_of("idx_range")), rule_of("normal")) == ("idx_range", "")


INPUTS = {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.int32)}


@pytest.mark.parametrize("seed", range(8))
def test_parts_of_spoilings_do_what_their_rules_forbid(seed: int) -> None:
    stream = Stream(seed, "parts")
    assert len(missing().spoiled(None, INPUTS, stream)) == 1
    ((name, array),) = misshapen().spoil(None, INPUTS, stream).items()
    assert (array.shape, array.dtype) != (INPUTS[name].shape, INPUTS[name].dtype)
    extra = unused(lambda config: ("a", "sink"), "a", "sink", "mask")
    assert set(extra.spoil(None, INPUTS, stream)) == {"mask"}
    assert not unused(lambda config: ("a", "sink"), "a", "sink").fits(None)


@pytest.mark.parametrize("name", sorted(kernels()))
def test_nothing_is_spoiled_in_place(name: str) -> None:
    """The legal twin of a spoiled call would be spoiled with it."""
    subject = kernels()[name]
    for spoiling in subject.spoilings:
        case = _first(subject, spoiling)
        inputs = subject.build(case.config, case.lane, case.seed)
        before = {name: array.tobytes() for name, array in inputs.items()}
        for seed in range(3):
            spoiling.spoil(case.config, inputs, Stream(seed, spoiling.rule))
        assert {name: array.tobytes() for name, array in inputs.items()} == before, spoiling.rule


def _first(subject: Subject, spoiling: Spoiling) -> Case:
    return next(case for case in subject.catalog if "ci" in case.tags and spoiling.fits(case.config))
