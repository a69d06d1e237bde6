"""Claim: `drift` exits 0 where nothing is out, 1 where something is or fell below its grade, 2 on what is no side; and
`check` keeps in a ledger what drift needs.

By hand: the words of each test after `nki-oracle`.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from conformance import ledger as ledgers
from conformance import waivers
from conformance.ledger import Ledger
from conformance.results import CaseResult
from conformance.tests.suite import scaled_add
from conformance.tests.tools.command_line import Answer, CommandLine
from conformance.waivers import Waiver
from tools.recording import Recording

CHECK = ("check", "scaled_add", "--backend", "host", "--jobs", "1")
WAIVER = Waiver("swap", "scaled_add", "rows swapped", "https://example.org/1", implementation="*", output="y")


class Runs:
    """Runs of `check` into one ledger, and `drift` on it."""

    def __init__(self, command: CommandLine, path: Path) -> None:
        self.command, self.path = command, path

    def check(self, kernel: str = "kernel", *words: str) -> str:
        """A run of the right kernel or of a broken one; its id."""
        implementation = f"{scaled_add.__name__}:{kernel}"
        self.command(*CHECK, "--ledger", str(self.path), "--kernel", implementation, *words)
        return Ledger(self.path).run().id

    def drift(self, old: str, new: str = "", *words: str) -> Answer:
        """Drift from one run to another, the latest unless told."""
        newer = f"{self.path}@{new}" if new else str(self.path)
        return self.command("drift", f"{self.path}@{old}", newer, "--jobs", "1", *words)


@pytest.fixture
def runs(command: CommandLine, tmp_path: Path) -> Runs:
    return Runs(command, tmp_path / "runs.ledger")


def test_equal_runs_exit_0(runs: Runs) -> None:
    old, new = runs.check(), runs.check()
    answer = runs.drift(old)
    assert (answer.code, answer.err) == (0, "")
    assert [line for line in answer.out.splitlines() if "same bits" in line] == ["8 same bits"]
    assert f"new: {runs.path}@{new}" in answer.out


def test_what_is_out_exits_1_with_the_reason_and_what_differs(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    old = runs.check()
    newer = {**ledgers.versions(), "neuronx-cc": "2.22.1"}
    monkeypatch.setattr(ledgers, "versions", lambda: newer)
    runs.check("swaps_two_rows", "--case", "small")
    answer = runs.drift(old)
    assert answer.code == 1
    assert "1 out, 1 gone, 3 same bits, 1 below the required grade" in answer.out
    lines = [" ".join(line.split()) for line in answer.out.splitlines()]
    assert "compiler (neuronx-cc) none 2.22.1" in lines
    (row,) = [line for line in lines if line.startswith("out scaled_add small y sim A -> F, needs A")]
    assert "the kernel's own" in row
    assert any(line.startswith("scaled_add small y sim: grade F is below the required A;") for line in lines)


def test_a_run_is_named_by_the_beginning_of_its_id(runs: Runs) -> None:
    right, wrong = runs.check(), runs.check("is_dead")
    assert runs.drift(wrong, right[:-1]).code == 0
    assert runs.drift(right, wrong).code == 1


def test_json_has_counts_and_rows(runs: Runs, tmp_path: Path) -> None:
    old = runs.check()
    runs.check("rounds_the_product", "--points")
    file = tmp_path / "drift.json"
    assert runs.drift(old, "", "--json", str(file)).code == 1
    document = json.loads(file.read_text())
    assert (document["command"], document["version"], document["passed"]) == ("drift", 1, False)
    assert document["counts"]["same bits"] == 8 - len(document["changes"])
    assert {row["output"] for row in document["changes"]} == {"y"}
    assert all(row["grades"][0] == "A" for row in document["changes"])
    assert json.loads(runs.drift(old, "", "--json", "-").out) == document


def test_two_golden_folders(runs: Runs, tmp_path: Path) -> None:
    command, folders = runs.command, [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        assert command("golden", "regen", "--accept", "x", "--directory", str(folder), "--jobs", "1").code == 0
        command.change_model(lambda outputs: outputs["y"].reshape(-1).view("uint16")[2:3].__ixor__(1))
    answer = command("drift", *map(str, folders), "--jobs", "1")
    assert answer.code == 1
    assert "1 out, 1 legal variant, 2 same bits" in answer.out
    same = shutil.copytree(folders[0], tmp_path / "same")
    assert command("drift", str(folders[0]), str(same)).code == 0


def test_many_cases_of_one_side_alone_are_one_row(runs: Runs) -> None:
    old = runs.check()
    many = runs.check("kernel", *(word for seed in range(20, 26) for word in ("--case", _free(seed))))
    answer = runs.drift(old, many)
    assert answer.code == 0
    assert "6 cases: cfg:lane=normal,seed=20" in answer.out
    rows = [" ".join(line.split()) for line in answer.out.splitlines()]
    assert [row for row in rows if row.startswith("gone")] == ["gone scaled_add exact sim", "gone scaled_add small sim"]


def test_a_check_that_was_killed_makes_drift_fail_until_it_is_gone_on_with(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = runs.check()
    add = Recording.add

    def killed(self: Recording, result: CaseResult) -> None:
        add(self, result)
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "add", killed)
        with pytest.raises(RuntimeError, match="killed"):
            runs.check()
    answer = runs.drift(old)
    assert answer.code == 1
    assert "run incomplete: 1 of 2 cases" in answer.out
    runs.check("kernel", "--resume")
    assert runs.drift(old).code == 0


def _free(seed: int) -> str:
    return f"cfg:lane=normal,seed={seed},rows=2"


# ------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere", "nowhere: no ledger, no run of one (LEDGER@RUN) and no folder of goldens"),
        ("{ledger}@never", "it has no run 'never'; the latest is "),
        ("{text}", "file is not a database"),
        ("{other}", "an SQLite file, but no ledger of nki-oracle"),
        ("{half}", "malformed"),
        ("{folder}", "manifest.json: it is missing"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_side_that_is_none_is_one_line_and_code_2(
    runs: Runs, tmp_path: Path, text: str, message: str, first: bool
) -> None:
    runs.check()
    names = {name: tmp_path / name for name in ("text", "other", "half", "folder")}
    names["text"].write_text("no database\n" * 1000)
    with sqlite3.connect(names["other"]) as file:
        file.execute("CREATE TABLE run (id)")
    names["half"].write_bytes(runs.path.read_bytes()[: runs.path.stat().st_size // 2])
    names["folder"].mkdir()
    sides = [text.format(ledger=runs.path, **names), str(runs.path)]
    answer = runs.command("drift", *(sides if first else sides[::-1]))
    assert answer.code == 2
    assert answer.err.startswith("nki-oracle: ")
    assert message in answer.err
    assert answer.err.count("\n") == 1


def test_a_ledger_that_is_none_stops_a_check_before_it_runs(runs: Runs) -> None:
    runs.path.write_text("no database\n" * 1000)
    answer = runs.command(*CHECK, "--ledger", str(runs.path))
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1


# -------------------------------------------------------------------------------------------- waivers


def test_a_waived_failure_passes_check_and_drift_and_is_shown(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    old = runs.check()
    monkeypatch.setattr(waivers, "WAIVERS", (WAIVER,))
    implementation = f"{scaled_add.__name__}:swaps_two_rows"
    answer = runs.command(*CHECK, "--ledger", str(runs.path), "--kernel", implementation)
    assert answer.code == 0
    assert "0 of 2 cases passed, 2 waived (swap) in" in answer.out
    assert "F waived" in answer.out
    told = runs.drift(old)
    assert told.code == 0
    assert "2 out, 6 same bits, 2 waived" in told.out


def test_a_waiver_that_is_no_longer_needed_fails_check(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waivers, "WAIVERS", (WAIVER,))
    answer = runs.command(*CHECK)
    assert answer.code == 1
    assert "waiver swap is no longer needed: remove it (scaled_add small y passes on sim)" in answer.out


def test_a_waiver_of_nothing_fails_check(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = Waiver("old", "scaled_add", "why", "where", case="renamed", implementation="*")
    monkeypatch.setattr(waivers, "WAIVERS", (stale,))
    file = tmp_path / "check.json"
    answer = runs.command(*CHECK, "--json", str(file))
    assert answer.code == 1
    assert "waiver old matches no case: correct or remove it" in answer.out
    document = json.loads(file.read_text())
    assert (document["passed"], len(document["complaints"])) == (False, 1)
