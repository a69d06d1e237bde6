"""Claim: `check` exits 0 when every required grade is reached, 1 when one is not, 2 on what cannot be asked.

By hand: the words of each test after `nki-oracle`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conformance.tests.suite import scaled_add
from conformance.tests.tools.command_line import CommandLine

CHECK = ("check", "scaled_add", "--backend", "host", "--jobs", "1")


def test_right_kernel_passes(command: CommandLine) -> None:
    answer = command(*CHECK)
    assert answer.code == 0
    assert "2 of 2 cases passed" in answer.out
    assert answer.err == ""


@pytest.mark.parametrize("name", scaled_add.BROKEN)
def test_broken_kernel_fails(command: CommandLine, name: str) -> None:
    command.judge(scaled_add.broken(name))
    answer = command(*CHECK, "--case", "small")
    assert answer.code == 1
    assert "0 of 1 cases passed" in answer.out
    assert "again: nki-oracle check scaled_add --case small" in answer.out


def test_other_implementation_is_judged_by_name(command: CommandLine) -> None:
    implementation = "conformance.tests.suite.scaled_add:swaps_two_rows"
    answer = command(*CHECK, "--kernel", implementation)
    assert answer.code == 1
    assert f"--kernel {implementation}" in answer.out


def test_table_shows_grade_beside_requirement(command: CommandLine) -> None:
    rows = [line.split() for line in command(*CHECK, "--case", "small").out.splitlines()]
    assert ["scaled_add", "small", "y", "model"] in [row[:4] for row in rows]
    assert ["y", "sim", "A", "A", "0"] in [row[:5] for row in rows]


def test_json_holds_every_result(command: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    assert command(*CHECK, "--json", str(file)).code == 0
    document = json.loads(file.read_text())
    assert document["passed"] is True
    assert [one["case"] for one in document["results"]] == ["small", "exact"]
    assert {output["rung"] for output in document["results"][0]["outputs"]} == {"model", "sim"}


def test_json_on_stdout_is_nothing_but_json(command: CommandLine) -> None:
    assert json.loads(command(*CHECK, "--json", "-").out)["command"] == "check"


@pytest.mark.parametrize(
    ("words", "lane", "seed"),
    [
        (("--seed", "5"), "normal", 5),
        (("--lane", "exact"), "exact", 0),
        (("--lane", "exact", "--seed", "7"), "exact", 7),
    ],
    ids=["seed", "lane", "both"],
)
def test_other_data_can_be_run_again_by_id(
    command: CommandLine, tmp_path: Path, words: tuple[str, ...], lane: str, seed: int
) -> None:
    file = tmp_path / "results.json"
    assert command(*CHECK, "--case", "small", *words, "--json", str(file)).code == 0
    (first,) = json.loads(file.read_text())["results"]
    assert (first["lane"], first["seed"]) == (lane, seed)
    assert command(*CHECK, "--case", first["case"], "--json", str(file)).code == 0
    assert json.loads(file.read_text())["results"][0]["config"] == first["config"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "nonsense"), "no kernel 'nonsense'; known: scaled_add"),
        (("check", "--backend", "gpu"), "no backend 'gpu'; known: sim, nki-sim, trn2, trn3, host"),
        (("check", "--case", "small"), "--case belongs to one kernel: name exactly one before it"),
        (("check", "--kernel", "a:b"), "--kernel belongs to one kernel: name exactly one before it"),
        ((*CHECK, "--case", "large"), "scaled_add has no case 'large'; known: small, exact"),
        ((*CHECK, "--case", "cfg:lane=normal,seed=0,color=red"), "Config has no field 'color'"),
        ((*CHECK, "--lane", "rising"), "scaled_add has no lane 'rising'; its lanes are normal, exact"),
        ((*CHECK, "--tag", "fast"), "no case of scaled_add is tagged 'fast'; known: all, check, ci, golden"),
        ((*CHECK, "--seed", "-1"), "Invalid value for '--seed'"),
        ((*CHECK, "--jobs", "0"), "Invalid value for '--jobs'"),
        ((*CHECK, "--speed", "9"), "No such option: --speed"),
        ((*CHECK, "--kernel", "no.such:thing"), "--kernel no.such:thing cannot be imported"),
        ((*CHECK, "--kernel", "json:thing"), "--kernel json:thing cannot be imported"),
        ((*CHECK, "--json", "/no/such/folder/file"), "cannot write /no/such/folder/file"),
        (("chekc",), "No such command 'chekc'"),
    ],
    ids=lambda one: "-".join(one).replace("/", "_") if isinstance(one, tuple) else "",
)
def test_bad_input_is_one_line_and_code_2(command: CommandLine, words: tuple[str, ...], message: str) -> None:
    answer = command(*words)
    assert answer.code == 2
    assert answer.err.startswith("nki-oracle: ")
    assert message in answer.err
    assert answer.err.count("\n") == 1


def test_without_words_the_help_is_shown(command: CommandLine) -> None:
    answer = command()
    assert answer.code == 2
    assert "check" in answer.out
    assert answer.err == ""


def test_list_names_kernels_and_cases(command: CommandLine) -> None:
    assert "scaled_add" in command("list").out
    cases = command("list", "scaled_add")
    assert cases.code == 0
    assert "small" in cases.out
