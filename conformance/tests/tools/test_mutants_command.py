"""Claim: `mutants` exits 0 when faults die as they have to, 1 when one does not, 2 on what cannot be asked.

By hand: the words of each test after `nki-oracle`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from conformance.gates import Sight
from conformance.grades import Grade
from conformance.kill_table import Standing
from conformance.legal_variants import VariantResult
from conformance.mutants import Mutant, mutants
from tools import cli
from tools import mutants as command

NAME = "output_projection_tkg"
TWICE, SHIFTED = "outproj-bias-twice", "outproj-core-halves-swapped"


def _run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.run(["mutants", *words])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.sim
def test_faults_that_die_exit_0_and_the_table_tells_by_what(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, NAME, "--id", TWICE, "--id", SHIFTED, "--jobs", "1")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    # Two faults: bits, exact, B, C and D reject both, on hardware too.
    assert rows["all"][:3] == ["2", "2", "2"]
    assert rows["term"][0] == rows["core"][0] == "1"
    assert "2 of 2 mutants killed in simulation, 2 (100.0%) by what a device is held to" in " ".join(out.split())


@pytest.mark.sim
def test_json_holds_every_mutant_and_sight(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mutants.json"
    assert _run(capsys, NAME, "--id", TWICE, "--json", str(file), "--jobs", "1")[0] == 0
    document = json.loads(file.read_text())
    assert (document["command"], document["version"], document["passed"]) == ("mutants", 1, True)
    (one,) = document["mutants"]
    assert (one["id"], one["class"], one["point"]) == (TWICE, "term", "out")
    assert document["summary"]["killed"] == document["summary"]["hardware"] == 1
    assert document["variants"] == []


@pytest.mark.sim
def test_variants_are_played_with_whole_catalogs_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played = []
    monkeypatch.setattr(command, "variant_cases", lambda subject: played.append(subject.name) or [])
    monkeypatch.setattr(command, "all_mutants", lambda: [m for m in mutants() if m.id == TWICE])
    assert _run(capsys, NAME, "--jobs", "1")[0] == 0
    assert played == [NAME]
    for words in (("--no-variants",), ("--id", TWICE), ("--class", "term")):
        assert _run(capsys, NAME, *words, "--jobs", "1")[0] == 0
    assert played == [NAME]


def _standing(identifier: str, *, killed: bool = True, hardware: str = "not C: far", unseen: str = "") -> Standing:
    mutant = Mutant(identifier, NAME, "a fault", (), "plain", kind="term", unseen=unseen)
    faults = {"bits": "out: 3 of 8 elements differ"} if killed else {}
    return Standing(mutant, (Sight("plain", "normal", faults, frozenset({"bits"}), hardware if killed else ""),))


def _variant(missed: str = "", noise: bool = True) -> VariantResult:
    return VariantResult(NAME, "plain", "normal", "matmul_order=chain", noise, True, Grade.C, 0.4, 0.5, missed)


def _with(monkeypatch: pytest.MonkeyPatch, standings: list[Standing], results: list[VariantResult]) -> None:
    """Makes the command find these outcomes."""
    monkeypatch.setattr(command, "all_mutants", lambda: [one.mutant for one in standings])
    monkeypatch.setattr(command, "variant_cases", lambda subject: [subject.case("plain")])

    def outcome(job: command.Job) -> Any:
        return results if job.case is not None else [one for one in standings if one.mutant in job.mutants]

    monkeypatch.setattr(command, "run", outcome)


def test_a_survivor_exits_1_by_name(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _with(monkeypatch, [_standing("one"), _standing("two", killed=False)], [_variant()])
    code, out, _ = _run(capsys, NAME, "--jobs", "1")
    assert code == 1
    assert "two: the embedded machine does not show it" in out
    assert "one:" not in out


def test_a_listed_survivor_of_hardware_is_named_with_its_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _with(monkeypatch, [_standing("one"), _standing("two", hardware="", unseen="nobody can see it")], [_variant()])
    code, out, _ = _run(capsys, NAME, "--jobs", "1")
    assert code == 0
    assert "two: nobody can see it" in out


def test_too_many_listed_survivors_exit_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    many = [_standing(f"seen-{i}") for i in range(18)] + [
        _standing(f"unseen-{i}", hardware="", unseen="nobody can see it") for i in range(3)
    ]
    _with(monkeypatch, many, [_variant()])
    code, out, _ = _run(capsys, NAME, "--jobs", "1")
    assert code == 1
    assert "hardware would kill 85.7%, at least 95% are required" in out


def test_a_legal_variant_that_is_rejected_exits_1_and_one_beyond_noise_does_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _with(monkeypatch, [_standing("one")], [_variant("out: D for C")])
    code, out, _ = _run(capsys, NAME, "--jobs", "1")
    assert code == 1
    assert "plain under matmul_order=chain: out: D for C" in " ".join(out.split())
    _with(monkeypatch, [_standing("one")], [_variant("out: D for C", noise=False)])
    code, out, _ = _run(capsys, NAME, "--jobs", "1")
    assert code == 0
    assert f"matmul_order=chain: told by {NAME}" in out


def test_margins_stand_beside_each_other(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    far = _standing("one")
    sight = dataclasses.replace(far.sights[0], faults={"bits": "3", "C": "far"}, load=7.25)
    _with(monkeypatch, [dataclasses.replace(far, sights=(sight,))], [_variant()])
    code, out, _ = _run(capsys, NAME, "--jobs", "1")
    assert code == 0
    (row,) = [line.split() for line in out.splitlines() if line.startswith(NAME) and "7.25" in line]
    assert row == [NAME, "1", "1", "0.5", "7.25"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--id", "nothing"), "no mutant 'nothing' of output_projection_tkg"),
        (("--class", "colour"), "no class 'colour' of mutants; known: rounding, clamp"),
        (("--id", TWICE, "--class", "rope"), "no mutant is of all that was asked"),
        (("--json", "/nowhere/x.json"), "there is no such folder"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    code, out, err = _run(capsys, NAME, *words)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


def test_an_unknown_kernel_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = _run(capsys, "no_such_kernel")
    assert code == 2
    assert "no kernel 'no_such_kernel'" in err
