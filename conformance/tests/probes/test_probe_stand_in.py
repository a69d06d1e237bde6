"""Claim: probes go through the same door as kernels, so that a device is asked in a child process: what it plays is
found there, and a launch that kills it costs one question."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conformance.backends.child import ChildBackend
from conformance.probes import record, session
from conformance.probes.probe import Setting
from conformance.probes.session import Report
from conformance.tests import standin
from conformance.tests.standin.fixtures import Stage, stage

__all__ = ["stage"]

pytestmark = pytest.mark.sim


@pytest.fixture
def device(stage: Stage) -> Iterator[ChildBackend]:
    made = standin.make()
    yield made
    made.close()


def statuses(report: Report) -> dict[str, str]:
    return {one.field: one.status for finding in report.findings for one in finding.fields}


def test_a_whole_session_on_a_device_that_plays_another_order(stage: Stage, device: ChildBackend) -> None:
    stage.plays("variant:matmul_order=chain_rev")
    report = session.run(device, Setting("gen3"), repeat=1)
    assert set(statuses(report).values()) <= {"decided", "open", "generation"}
    assert record.profile_of(report, hardware=False).changed() == {"matmul_order": "chain_rev"}


def test_a_launch_that_kills_the_device_costs_one_question(stage: Stage, device: ChildBackend) -> None:
    stage.plays("exit", "right")
    report = session.run(device, Setting("gen3"), ("V8", "V1"), repeat=1)
    assert statuses(report) == {"fma_vector": "failed", "scan_state": "decided"}
    assert "Died" in report.finding("V1").probes[0].error


def test_a_device_that_returns_zeros_plays_nothing_known(stage: Stage, device: ChildBackend) -> None:
    stage.plays("zeros")
    report = session.run(device, Setting("gen3"), ("V8", "G1"), repeat=1)
    assert set(statuses(report).values()) == {"none"}
    assert not record.passed(report)
