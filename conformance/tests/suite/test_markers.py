"""Claim: a test marked for a backend is skipped exactly where that backend cannot run, and says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conformance import markers
from conformance.backends import BACKENDS, Availability
from conformance.tests import standin


@pytest.fixture
def only_sim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markers, "available", lambda name: Availability(name == "sim", "not today"))


@pytest.mark.usefixtures("only_sim")
@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["sim"], ""),
        (["trn2"], "trn2: not today"),
        (["sim", "trn2"], "trn2: not today"),
        (["parametrize", "slow"], ""),
        ([], ""),
    ],
)
def test_reason_to_skip(names: list[str], reason: str) -> None:
    assert markers.reason_to_skip(names) == reason


def test_every_backend_has_a_registered_marker(pytestconfig: pytest.Config) -> None:
    registered = {line.split(":")[0] for line in pytestconfig.getini("markers")}
    assert set(BACKENDS) <= registered


@pytest.mark.trn2
def test_marked_test_runs_only_where_its_backend_can() -> None:
    assert markers.reason_to_skip(["trn2"]) == ""


@pytest.mark.parametrize(("official", "ignored"), [(False, "[]"), (True, "['tests/machine']")])
def test_tests_of_the_machine_stand_aside_where_the_official_package_is(official: bool, ignored: str) -> None:
    """They would stop `pytest -m trn2` at their imports. The stand-in is found as the official package is."""
    variables = {"PYTHONPATH": standin.FOLDER, standin.PLAN: "right"} if official else {}
    code = "import conformance.conftest as c; print(c.collect_ignore)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == ignored
