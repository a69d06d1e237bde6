"""Claim: `budget` shows where the error of a case comes from, as table, JSON and chart, and refuses what it cannot do.

By hand: `nki-oracle budget attention_tkg --case fp8-kv --chart budget.svg`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from conformance.tests.suite.rounding_toy import subject
from conformance.tests.tools.command_line import CommandLine

LARGE = "cfg:lane=normal,seed=4,rows=64,cols=64"


@pytest.fixture
def toy(command: CommandLine) -> CommandLine:
    command.judge(subject("float8_e4m3", "bfloat16"))
    return command


def test_table_begins_with_the_rounding_that_dominates(toy: CommandLine) -> None:
    answer = toy("budget", "scaled_add", "--case", LARGE)
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    rows = [line for line in lines if "float8_e4m3" in line or "bfloat16" in line]
    assert rows[0].split()[:2] == ["product", "float8_e4m3"]
    assert "R(a * scale)" in rows[0]
    assert "█" in rows[0]
    assert "other outputs (--output): total" in answer.out
    assert f"again: nki-oracle budget scaled_add --case {LARGE}" in answer.out


def test_json_has_every_share_and_they_sum_to_one(toy: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    assert toy("budget", "scaled_add", "--case", LARGE, "--json", str(path)).code == 0
    document = json.loads(path.read_text())
    assert (document["command"], document["version"], document["output"]) == ("budget", 1, "y")
    assert {"point", "description", "dtype", "share", "error", "introduced", "without"} <= set(document["points"][0])
    assert document["points"][0]["name"] == "product"
    assert math.fsum(row["share"] for row in document["points"]) == pytest.approx(1.0)
    assert document["total"] == document["outputs"]["y"]["error"]


def test_json_on_stdout_is_all_there_is(toy: CommandLine) -> None:
    answer = toy("budget", "scaled_add", "--case", LARGE, "--output", "total", "--json", "-")
    document = json.loads(answer.out)
    assert document["output"] == "total"
    assert document["points"][0]["name"] == "total_sum"


def test_seed_and_lane_choose_other_data(toy: CommandLine) -> None:
    errors = set()
    for words in (("--seed", "1"), ("--seed", "2"), ("--lane", "exact")):
        answer = toy("budget", "scaled_add", "--case", "small", *words, "--json", "-")
        errors.add(json.loads(answer.out)["total"])
    assert len(errors) == 3


def test_chart_is_written(toy: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "budget.svg"
    assert toy("budget", "scaled_add", "--case", LARGE, "--chart", str(path)).code == 0
    assert "product" in path.read_text()


def test_case_without_error_says_so(toy: CommandLine) -> None:
    answer = toy("budget", "scaled_add", "--case", "exact")
    assert answer.code == 0
    assert "every element is truth's own" in answer.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--case", "large"), "scaled_add has no case 'large'"),
        (("--case", "cfg:lane=normal,seed=0,rows=129"), "rows must be 1 to 128"),
        (("--case", "small", "--output", "z"), "no output 'z'; its outputs are y, total"),
        (("--case", "small", "--chart", "bars.jpg"), "give a name that ends in .svg, .png, .pdf"),
        (("--case", "small", "--chart", "nowhere/bars.svg"), "there is no such folder"),
        (("--case", "small", "--caches"), "--caches: scaled_add reads no cache"),
        (("--case", "small", "--profile", "U1=sideways"), "'sideways' is no answer to U1; matmul_order: exact, chain"),
        (("--case", "small", "--profile", "X9=1"), "no question 'X9'"),
        (("--case", "small", "--profile", "nothing.json"), "the file cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_code_2(toy: CommandLine, words: tuple[str, ...], message: str) -> None:
    answer = toy("budget", "scaled_add", *words)
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1
