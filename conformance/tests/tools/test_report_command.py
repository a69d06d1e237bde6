"""`nki-oracle report`: both files, the exit code, and what it refuses to read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance import waivers
from conformance.ledger import Ledger, Row
from conformance.report import grades_reached
from conformance.results import CaseResult
from conformance.tests.tools.command_line import Answer, CommandLine
from conformance.versions import versions
from conformance.waivers import Waiver
from tools import cli
from tools import report as reporting
from tools.output import write_json
from tools.recording import Recording


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("check") / "check.json"
    case = ["--case", "plain"]
    assert cli.run(["check", "output_projection_tkg", *case, "--json", str(path)]) == 0
    return path


def test_page_and_json_are_written_side_by_side(checked: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    assert cli.run(["report", "--check", str(checked), "-o", str(page)]) == 0
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads(page.with_suffix(".json").read_text())["command"] == "report"


def test_wrong_results_exit_with_1(checked: Path, tmp_path: Path) -> None:
    found = json.loads(checked.read_text())
    found["passed"] = False
    found["results"][0]["status"] = "crashed"
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(found))
    assert cli.run(["report", "--check", str(wrong), "-o", str(tmp_path / "out.html")]) == 1
    assert "1 of 1 cases fail" in (tmp_path / "out.html").read_text()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ('{"command": "fuzz", "version": 1}', "was not written by `nki-oracle check --json`, version 1"),
        ('{"command": "check", "version": 9}', "was not written by `nki-oracle check --json`, version 1"),
        (None, "cannot read"),
    ],
)
def test_a_file_that_is_no_result_is_told_and_nothing_is_written(
    text: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, page = tmp_path / "in.json", tmp_path / "out.html"
    if text is not None:
        source.write_text(text)
    assert cli.run(["report", "--check", str(source), "-o", str(page)]) == 2
    assert told in capsys.readouterr().err
    assert not page.exists()


def test_a_page_named_like_its_json_or_in_no_folder_is_refused(checked: Path, tmp_path: Path) -> None:
    assert cli.run(["report", "--check", str(checked), "-o", str(tmp_path / "out.json")]) == 2
    assert cli.run(["report", "--check", str(checked), "-o", str(tmp_path / "no" / "out.html")]) == 2


def test_results_of_one_kernel_are_picked_out(checked: Path, tmp_path: Path) -> None:
    page = str(tmp_path / "out.html")
    assert cli.run(["report", "output_projection_tkg", "--check", str(checked), "-o", page]) == 0
    assert cli.run(["report", "qkv", "--check", str(checked), "-o", page]) == 2


def test_a_page_on_stdout_is_refused(checked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["report", "--check", str(checked), "-o", "-"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_is_not_overwritten_by_the_json_beside_the_page(
    checked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "check.json"
    source.write_text(checked.read_text())
    assert cli.run(["report", "--check", str(source), "-o", str(tmp_path / "check.html")]) == 2
    assert "check.json is read, and would be overwritten" in capsys.readouterr().err
    assert source.read_text() == checked.read_text()


def _without_seed(row: dict[str, Any]) -> None:
    del row["seed"]


def _without_waivers(row: dict[str, Any]) -> None:
    del row["waivers"]


def _without_grade(row: dict[str, Any]) -> None:
    del row["outputs"][0]["grade"]


def _of_a_new_field(row: dict[str, Any]) -> None:
    row["config"]["colour"] = "red"


def _of_no_kernel(row: dict[str, Any]) -> None:
    row["kernel"] = "nothing"


def _of_a_new_figure(row: dict[str, Any]) -> None:
    row["mood"] = "good"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_without_seed, "results[0]: CaseResult.__init__() missing 1 required positional argument: 'seed'"),
        (_without_waivers, "results[0]: it lacks or does not know 'waivers'"),
        (_without_grade, "results[0].outputs[0].grade is missing"),
        (_of_a_new_field, "has no field 'colour'"),
        (_of_no_kernel, "results[0]: there is no kernel 'nothing' here"),
        (_of_a_new_figure, "unexpected keyword argument 'mood'"),
    ],
)
def test_results_of_another_release_are_one_line_that_names_the_file(
    checked: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[dict[str, Any]], None],
    told: str,
) -> None:
    found = json.loads(checked.read_text())
    spoil(found["results"][0])
    path = tmp_path / "other.json"
    path.write_text(json.dumps(found))
    capsys.readouterr()
    assert cli.run(["report", "--check", str(path), "-o", str(tmp_path / "out.html")]) == 2
    err = capsys.readouterr().err
    assert str(path) in err
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["mutants", "fuzz", "probe", "drift", "budget"])
def test_a_part_that_lacks_what_it_should_hold_is_one_line(
    checked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = tmp_path / "part.json"
    path.write_text(json.dumps({"command": command, "version": 1}))
    words = ["report", "--check", str(checked), f"--{command}", str(path), "-o", str(tmp_path / "out.html")]
    assert cli.run(words) == 2
    err = capsys.readouterr().err
    assert (err.count("\n"), f"{path}: " in err, "is missing" in err) == (1, True, True)


def test_what_is_wrong_is_told_on_the_terminal_too(
    checked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(checked.read_text()) | {"complaints": ["waiver old matches no case"], "passed": False}
    path = tmp_path / "check.json"
    path.write_text(json.dumps(found))
    capsys.readouterr()
    assert cli.run(["report", "--check", str(path), "-o", str(tmp_path / "out.html")]) == 1
    assert "not everything is right:\n  waiver old matches no case\n" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------- ledgers


class Runs:
    """Reports of a ledger that `check` of the tiny kernel fills."""

    def __init__(self, command: CommandLine, folder: Path) -> None:
        self.command, self.ledger, self.page = command, folder / "runs.ledger", folder / "out.html"

    def check(self, *words: str) -> int:
        line = ("check", "scaled_add", "--backend", "host", "--jobs", "1", "--ledger", str(self.ledger))
        return self.command(*line, *words).code

    def report(self, *words: str) -> Answer:
        return self.command("report", *words, "--ledger", str(self.ledger), "-o", str(self.page))


@pytest.fixture
def runs(command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(reporting, "kernel_names", lambda: ("scaled_add",))
    for module in (reporting, grades_reached):
        monkeypatch.setattr(module, "kernel", lambda name: command.subject)
    return Runs(command, tmp_path)


def test_a_whole_run_of_a_ledger_is_right(runs: Runs) -> None:
    assert runs.check() == 0
    answer = runs.report()
    assert (answer.code, "everything right" in answer.out) == (0, True)


def test_half_a_run_is_not_right_before_it_is_gone_on_with(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    add = Recording.add

    def killed(self: Recording, result: CaseResult) -> None:
        add(self, result)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "add", killed)
        with contextlib.suppress(KeyboardInterrupt):
            runs.check()
    for words in ((), ("scaled_add",)):
        answer = runs.report(*words)
        assert (answer.code, "run incomplete: 1 of 2 cases" in answer.out) == (1, True)
    assert "run incomplete: 1 of 2 cases" in runs.page.read_text()
    assert runs.check("--resume") == 0
    assert runs.report().code == 0


def test_what_a_run_complained_of_and_what_else_it_did_is_not_forgotten(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = Waiver("old", "scaled_add", "why", "where", case="renamed", implementation="*")
    with monkeypatch.context() as patch:
        patch.setattr(waivers, "WAIVERS", (stale,))
        assert runs.check() == 1
    answer = runs.report()
    assert (answer.code, "waiver old matches no case" in answer.out) == (1, True)
    assert runs.check() == 0
    book = Ledger(runs.ledger)
    (row, *_) = book.rows(book.run().id)
    lost = dataclasses.replace(row.result, status="died", outputs=(), error="gone")
    book.add(book.run().id, Row.of(lost, "fuzz"))
    answer = runs.report()
    assert (answer.code, f"fuzz scaled_add {lost.case}: died (gone)" in answer.out) == (1, True)


def test_every_json_of_a_command_tells_its_versions(runs: Runs, tmp_path: Path) -> None:
    """One of a command that does not put them there itself, and one of a document that is of no command."""
    path = tmp_path / "drift.json"
    sides = []
    for _ in range(2):
        assert runs.check() == 0
        sides.append(f"{runs.ledger}@{Ledger(runs.ledger).run().id}")
    assert runs.command("drift", *sides, "--jobs", "1", "--json", str(path)).code == 0
    assert json.loads(path.read_text())["versions"] == versions()
    write_json(path, {"matmul_order": "chain"})
    assert json.loads(path.read_text()) == {"matmul_order": "chain"}
