"""Claim: `mutants` exits 0 when faults die as they have to, 1 when one does not, 2 on what cannot be asked.

By hand: the words of each test after `nki-oracle`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from conformance import registry
from conformance.backends.detection import Availability
from conformance.gates import GATES, Sight
from conformance.grades import Grade
from conformance.kill_table import Standing
from conformance.legal_variants import VariantResult
from conformance.mutants import Mutant, mutants
from tools import cli, selection
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


MANY = [_standing(f"seen-{i}") for i in range(18)] + [
    _standing(f"unseen-{i}", hardware="", unseen="nobody can see it") for i in range(3)
]


def test_too_many_listed_survivors_of_the_whole_catalog_exit_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _with(monkeypatch, MANY, [])
    code, out, _ = _run(capsys, "--no-variants", "--jobs", "1")
    assert code == 1
    assert "hardware would kill 85.7%, at least 95% are required" in out
    assert "part of the catalog" not in out


@pytest.mark.parametrize("words", [(NAME,), ("--class", "term")])
def test_of_a_part_of_the_catalog_no_rate_is_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """And the same part is wrong where a mutant of it survives."""
    _with(monkeypatch, MANY, [])
    code, out, _ = _run(capsys, *words, "--no-variants", "--jobs", "1")
    assert code == 0
    assert "a part of the catalog, so 95% by a device are not asked of it" in " ".join(out.split())
    _with(monkeypatch, [*MANY, _standing("two", killed=False)], [])
    assert _run(capsys, *words, "--no-variants", "--jobs", "1")[0] == 1


def test_all_kernels_by_their_names_are_the_whole_catalog(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _with(monkeypatch, MANY, [])
    assert _run(capsys, *registry.kernel_names(), "--no-variants", "--jobs", "1")[0] == 1


def test_a_survivor_can_be_run_again_by_what_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "mutants.json"
    _with(monkeypatch, [_standing("two", killed=False)], [])
    assert _run(capsys, NAME, "--jobs", "1", "--json", str(file))[0] == 1
    document = json.loads(file.read_text())
    assert document["complaints"] == [
        "two: the embedded machine does not show it",
        "two: no gate of hardware shows it, and no reason is listed",
    ]
    (one,) = document["mutants"]
    assert one["repro"] == f"nki-oracle mutants {NAME} --id two"
    assert _run(capsys, *one["repro"].split()[2:], "--jobs", "1")[0] == 1


def test_a_list_names_the_mutants_and_runs_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "run", None)
    code, out, err = _run(capsys, NAME, "--list")
    assert (code, err) == (0, "")
    expected = [one.id for one in mutants() if one.kernel == NAME]
    assert [line.split()[0] for line in out.splitlines() if line.startswith("outproj-")] == expected
    assert TWICE not in _run(capsys, "qkv", "--list")[1]


def test_without_the_machine_mutants_are_listed_and_not_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "available", lambda name: Availability(False, "the official nki is installed"))
    code, out, err = _run(capsys, NAME, "--id", TWICE)
    assert (code, out) == (2, "")
    assert "backend sim cannot run here: the official nki is installed" in err
    assert _run(capsys, NAME, "--list")[0] == 0


@pytest.mark.parametrize("width", [80, 160])
def test_no_heading_of_a_table_breaks_into_pieces(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    _with(monkeypatch, [_standing("one")], [_variant()])
    monkeypatch.setattr(command, "console", lambda: Console(width=width, file=sys.stdout))
    code, out, _ = _run(capsys, NAME, "--jobs", "1")
    assert code == 0
    assert max(map(len, out.splitlines())) <= width
    heads = [line.split() for line in out.splitlines() if line.startswith((NAME, "lane ", "gate ", "kernel "))]
    long = [NAME, "faults", *GATES, "sim", "outputs", "hardware", "D", "alone", "D", "alone,", "normal", "data"]
    short = [NAME, "n", "mach", "stop", "struct", "bits", "exact", "B", "C", "D", "sim", "out", "hw", "D-", "D-n"]
    assert heads[0] == (short if width == 80 else long)
    assert heads[1][0] == ("lane" if width == 80 else "gate")


def test_the_longest_name_of_a_kernel_leaves_room_for_the_headings(capsys: pytest.CaptureFixture[str]) -> None:
    longest = max(registry.kernel_names(), key=len)
    Console(width=80, file=sys.stdout).print(command._kernel_table(longest, MANY, narrow=True))
    head = capsys.readouterr().out.splitlines()[0]
    assert head.split()[-3:] == ["hw", "D-", "D-n"]
    # The same table with its long headings is what breaks.
    Console(width=80, file=sys.stdout).print(command._kernel_table(longest, MANY))
    assert capsys.readouterr().out.splitlines()[0].split()[-1] != "data"


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
