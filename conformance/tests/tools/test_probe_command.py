"""Claim: `nki-oracle probe` tells what a backend does, writes it down, and exits 1 where nothing known fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance.backends import detection
from conformance.backends.availability import Availability
from conformance.backends.sim import SimBackend
from conformance.ledger import Ledger
from conformance.subject import Call
from conformance.tests.probes.odd_machines import Odd, name_of, refuses, segments_of_16
from conformance.tests.tools.command_line import Answer
from conformance.versions import versions
from tools import cli, recording, selection

pytestmark = pytest.mark.sim

Command = Callable[..., Answer]


@pytest.fixture
def probe(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `nki-oracle probe` with these words in this process."""

    def run(*words: str) -> Answer:
        capsys.readouterr()
        code = cli.run(["probe", *words])
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Odd], str]:
    """Makes a machine the backend of the name it returns."""

    def known(machine: Odd) -> str:
        row = detection._Row(lambda: Availability(True, ""), f"{__name__}:made")
        monkeypatch.setitem(_MACHINES, "odd", machine)
        rows = {**detection.BACKENDS, "odd": row}
        monkeypatch.setattr(detection, "BACKENDS", rows)
        monkeypatch.setattr(selection, "BACKENDS", rows)
        return "odd"

    return known


_MACHINES: dict[str, Odd] = {}


def made(name: str) -> Odd:
    """The machine that a test has put under a name."""
    return _MACHINES[name]


def test_one_question_with_what_it_needs(probe: Command) -> None:
    answer = probe("--question", "u1", "--profile", "U1=seg32")
    assert answer.code == 0
    assert "chains of 32 rows, then the segment sums in a chain, ascending" in answer.out
    assert "default was exact" in answer.out
    assert "chain(chain(0, 1 .. 31), chain(32, 33 .. 63)" in answer.out
    assert "3 questions on sim (trn2): 3 decided" in answer.out
    assert "profile found: matmul_order=seg32" in answer.out
    assert "measures nothing" in answer.out


def test_what_is_written_is_read_by_profile_options(probe: Command, tmp_path: Path) -> None:
    found, again = tmp_path / "found.json", tmp_path / "again.json"
    first = probe(
        "--question", "V1", "--question", "V8", "--profile", "V1=true,V8=rounded", "--profile-out", str(found)
    )
    assert first.code == 0
    assert str(found) in first.out
    assert probe("--question", "V1", "--question", "V8", "--profile", str(found), "--json", str(again)).code == 0
    questions = {one["id"]: one for one in json.loads(again.read_text())["questions"]}
    assert questions["V1"]["candidates_left"] == ["fma_vector=True"]
    assert questions["V8"]["candidates_left"] == ["scan_state=rounded"]


def test_json_on_stdout_stands_alone(probe: Command) -> None:
    answer = probe("--question", "V8", "--json", "-")
    assert json.loads(answer.out)["passed"] is True


def test_a_chip_that_cannot_be_asked_leaves_the_question(probe: Command) -> None:
    assert "not on trn2" in probe("--question", "U9").out
    assert "1 questions on sim (trn3): 1 decided" in probe("--question", "U9", "--target", "trn3").out


def test_an_outcome_that_no_candidate_has_is_told_in_full(probe: Command, backend: Callable[[Odd], str]) -> None:
    answer = probe("--question", "U1", "--backend", backend(Odd("matmul", segments_of_16, "odd")))
    assert answer.code == 1
    assert "none of the known candidates" in answer.out
    assert "U1.matmul_order: two masked rows" in answer.out
    assert "masked sums: cell " in answer.out
    assert "expected" in answer.out


def test_a_launch_that_fails_is_told_in_one_line(probe: Command, backend: Callable[[Odd], str]) -> None:
    machine = refuses("scan_into_bf16")
    machine.name = "odd"
    answer = probe("--question", "V8", "--backend", backend(machine))
    assert answer.code == 1
    assert "could not run" in answer.out
    assert "V8.scan_state  RuntimeError: no scan_into_bf16 today, nor tomorrow" in answer.out


# ---- results as they come ------------------------------------------------------------------------------------------

ASKED = ("--question", "U1", "--profile", "U1=seg32")


def _interrupted_after(launches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes someone press Ctrl-C after so many launches."""
    original, left = SimBackend.run, iter(range(launches))

    def run(self: SimBackend, call: Call) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return original(self, call)

    monkeypatch.setattr(SimBackend, "run", run)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that the machine launched."""
    seen: list[str] = []
    original = SimBackend.run

    def run(self: SimBackend, call: Call) -> Any:
        seen.append(name_of(call))
        return original(self, call)

    monkeypatch.setattr(SimBackend, "run", run)
    return seen


def _told(file: Path) -> dict[str, Any]:
    """What a document says beside times and versions."""
    plain = json.loads(file.read_text())
    for question in plain["questions"]:
        for one in question["evidence"]:
            del one["seconds"]
    return {name: value for name, value in plain.items() if name != "versions"}


def test_an_interrupted_session_writes_what_it_has_and_goes_on(
    probe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: list[str]
) -> None:
    ledger, part, profile, whole, plain = (
        tmp_path / name for name in ("ledger", "part.json", "profile.json", "whole.json", "plain.json")
    )
    words = ("--ledger", str(ledger))
    with monkeypatch.context() as interrupted:
        _interrupted_after(5, interrupted)
        answer = probe(*ASKED, *words, "--json", str(part), "--profile-out", str(profile))
    assert answer.code == 130
    # Of the second probe a launch is missing, and so all of it.
    assert len(launched) == 5
    assert f"results are in {ledger}; go on with --resume" in answer.err
    told = json.loads(part.read_text())
    assert told["unasked"]
    assert told["passed"] is False
    assert json.loads(profile.read_text())["unasked"] == told["unasked"]

    assert probe(*ASKED, *words, "--resume", "--json", str(whole)).code == 0
    resumed = len(launched) - 5
    assert probe(*ASKED, "--json", str(plain)).code == 0
    assert _told(whole) == _told(plain)
    assert len(launched) - 5 - resumed == 4 + resumed
    # A third time there is nothing left to launch.
    del launched[:]
    assert probe(*ASKED, *words, "--resume", "--json", str(whole)).code == 0
    assert launched == []
    assert _told(whole) == _told(plain)
    assert len(Ledger(ledger).runs()) == 1


def test_without_a_ledger_the_files_hold_what_there_is(
    probe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupted_after(5, monkeypatch)
    answer = probe(*ASKED, "--json", str(tmp_path / "part.json"))
    assert answer.code == 130
    assert "results are in" in answer.err
    assert "--ledger FILE keeps them" in answer.err


@pytest.mark.parametrize("other", [("--profile", "chain"), ("--repeat", "1"), ("--target", "trn3")])
def test_evidence_of_another_session_is_not_taken_for_this_ones(
    probe: Command, tmp_path: Path, launched: list[str], other: tuple[str, ...]
) -> None:
    words = ("--question", "V8", "--ledger", str(tmp_path / "ledger"))
    assert probe(*words).code == 0
    del launched[:]
    assert probe(*words, *other, "--resume").code == 0
    assert launched
    # The twin: the same again is known.
    del launched[:]
    assert probe(*words, *other, "--resume").code == 0
    assert launched == []


def test_evidence_of_other_versions_is_refused(
    probe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--question", "V8", "--ledger", str(tmp_path / "ledger"))
    assert probe(*words).code == 0
    monkeypatch.setattr(recording, "versions", lambda: {**versions(), "driver": "2.99"})
    answer = probe(*words, "--resume")
    assert answer.code == 2
    assert "had driver none (now 2.99)" in answer.err


def test_a_launch_that_failed_is_asked_again(
    probe: Command, backend: Callable[[Odd], str], tmp_path: Path
) -> None:
    machine = refuses("scan_into_bf16")
    machine.name = "odd"
    words = ("--question", "V8", "--backend", backend(machine), "--ledger", str(tmp_path / "ledger"))
    assert probe(*words).code == 1
    machine.kernel = "none at all"
    assert probe(*words, "--resume").code == 0


REFUSED = {
    "unknown question": (("--question", "X1"), "no question 'X1'"),
    "unknown chip": (("--target", "trn9"), "known are trn1, inf2, trn2, trn3"),
    "unknown backend": (("--backend", "abacus"), "no backend 'abacus'"),
    "no such folder": (("--json", "/nowhere/at/all.json"), "cannot write"),
    "nothing to go on with": (("--resume",), "--resume goes on with a run in a ledger: give --ledger FILE"),
    "no repetition": (("--repeat", "0"), "--repeat"),
    "profile of nothing": (("--profile", "U1=nonsense"), "no answer to U1"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_bad_input_is_one_line(probe: Command, case: str) -> None:
    words, message = REFUSED[case]
    answer = probe(*words)
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1


def test_only_the_embedded_machine_plays_a_profile(probe: Command, backend: Callable[[Odd], str]) -> None:
    name = backend(Odd("", lambda call, outputs: outputs, "odd"))
    answer = probe("--backend", name, "--profile", "chain")
    assert answer.code == 2
    assert "has answers of its own" in answer.err
