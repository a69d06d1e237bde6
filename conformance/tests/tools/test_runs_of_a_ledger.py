"""Claim: the runs of a ledger can be seen and named, and a run is not held against itself.

By hand: the words of each test after `nki-oracle`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.ledger import Ledger
from conformance.tests.suite import scaled_add
from conformance.tests.tools.command_line import CommandLine

CHECK = ("check", "scaled_add", "--backend", "host", "--jobs", "1")


@pytest.fixture
def ledger(command: CommandLine, tmp_path: Path) -> Path:
    """A run of the right kernel, and one of a broken one."""
    path = tmp_path / "nights.ledger"
    for kernel in ("kernel", "swaps_two_rows"):
        command(*CHECK, "--ledger", str(path), "--kernel", f"{scaled_add.__name__}:{kernel}")
    return path


def test_the_runs_of_a_ledger_are_listed_with_what_came_of_them(command: CommandLine, ledger: Path) -> None:
    answer = command("list", "--ledger", str(ledger))
    assert answer.code == 0
    lines = [line.split() for line in answer.out.splitlines() if line.startswith("20")]
    assert [line[0] for line in lines] == [run.id for run in Ledger(ledger).runs()]
    assert [line[2:6] for line in lines] == [["host", "check", "2", "2"], ["host", "check", "2", "0"]]


def test_two_runs_of_one_ledger_are_compared_by_the_names_that_the_list_tells(
    command: CommandLine, ledger: Path
) -> None:
    names = [line.split()[0] for line in command("list", "--ledger", str(ledger)).out.splitlines()[1:3]]
    answer = command("drift", *(f"{ledger}@{name}" for name in names), "--jobs", "1")
    assert answer.code == 1
    assert f"new: {ledger}@{names[1]}" in answer.out


@pytest.mark.parametrize("how", ["", "@", "@latest"])
def test_a_run_is_not_held_against_itself(command: CommandLine, ledger: Path, how: str) -> None:
    latest = Ledger(ledger).run().id
    answer = command("drift", str(ledger), f"{ledger}{how.replace('latest', latest[:-2])}")
    assert answer.code == 2
    assert f"both sides are {ledger}@{latest}; `nki-oracle list --ledger FILE`" in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [(("--ledger", "nowhere"), "there is no such ledger"), (("scaled_add", "--ledger", "x"), "two questions")],
)
def test_what_cannot_be_listed_is_one_line_and_code_2(command: CommandLine, words: tuple[str, ...], told: str) -> None:
    answer = command("list", *words)
    assert answer.code == 2
    assert told in answer.err
    assert answer.err.count("\n") == 1
