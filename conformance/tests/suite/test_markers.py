"""Claim: a test marked for a backend is skipped exactly where that backend cannot run, and says why."""

from __future__ import annotations

import pytest

from conformance import markers
from conformance.backends import BACKENDS, Availability


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
