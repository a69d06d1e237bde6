"""Claim: `fuzz` finds what is wrong and nothing else, and a seed draws the same for any number of jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conformance.tests.suite import scaled_add
from conformance.tests.tools.command_line import CommandLine
from tools import fuzz

FUZZ = ("fuzz", "scaled_add", "--backend", "host", "--jobs", "1", "--examples", "30")


def test_right_kernel_survives(command: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "fuzz.json"
    assert command(*FUZZ, "--json", str(file)).code == 0
    parts = json.loads(file.read_text())["results"]
    assert [part["seed"] for part in parts] == [0, 1]
    assert 0 < sum(part["examples"] for part in parts) <= 30


@pytest.mark.parametrize("name", ["swaps_two_rows", "crashes"])
def test_broken_kernel_is_found_and_can_be_run_again(command: CommandLine, tmp_path: Path, name: str) -> None:
    command.judge(scaled_add.broken(name))
    file = tmp_path / "fuzz.json"
    answer = command(*FUZZ, "--json", str(file))
    assert answer.code == 1
    assert "failed" in answer.out
    case = json.loads(file.read_text())["results"][0]["case"]["case"]
    assert command("check", "scaled_add", "--backend", "host", "--jobs", "1", "--case", case).code == 1


@pytest.mark.parametrize(("examples", "parts"), [(1, [1]), (25, [25]), (60, [25, 25, 10])])
def test_parts_do_not_depend_on_jobs(examples: int, parts: list[int]) -> None:
    assert fuzz._parts(examples) == parts


def test_bad_input(command: CommandLine) -> None:
    assert command("fuzz", "nonsense").code == 2
    assert command(*FUZZ, "--kernel", "no.such:thing").code == 2
