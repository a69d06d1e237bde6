"""`nki-oracle report`: both files, the exit code, and what it refuses to read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import cli


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
