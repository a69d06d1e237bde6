"""Claim: `fuzz` finds what is wrong and nothing else, tells what it covered, and a seed draws the same for any jobs."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from conformance import adversarial, pairwise
from conformance.fuzz_result import FuzzResult
from conformance.pairwise import Coverage
from conformance.tests.suite import scaled_add
from conformance.tests.tools.command_line import CommandLine
from tools import fuzz
from tools.fuzz_board import Board

FUZZ = ("fuzz", "scaled_add", "--backend", "host", "--jobs", "1")
FLAGS = pairwise.flags(
    scaled_add.Config,
    dtype=("bfloat16", "float16", "float32"),
    rows=pairwise.some("rows", 1, 16),
    scale=pairwise.some("scale", 1.0, 0.75),
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs by the clock keep examples in the working directory."""
    monkeypatch.chdir(tmp_path)


def _results(command: CommandLine, *words: str) -> dict[str, Any]:
    command(*FUZZ, *words, "--json", "fuzz.json")
    document: dict[str, Any] = json.loads(Path("fuzz.json").read_text())
    return document


def test_right_kernel_survives(command: CommandLine) -> None:
    document = _results(command, "--examples", "30")
    (result,) = document["results"]
    assert document["passed"]
    assert (result["seed"], result["examples"], result["failure"]) == (0, 30, "")
    assert command(*FUZZ, "--examples", "30").code == 0


@pytest.mark.parametrize("name", ["swaps_two_rows", "crashes"])
def test_broken_kernel_is_found_and_can_be_run_again(command: CommandLine, name: str) -> None:
    command.judge(scaled_add.broken(name))
    answer = command(*FUZZ, "--examples", "30", "--json", "fuzz.json")
    assert answer.code == 1
    assert "findings: 1" in answer.out
    (finding,) = json.loads(Path("fuzz.json").read_text())["results"][0]["findings"]
    assert f"again: {finding['repro']}" in answer.out
    words = finding["repro"].split()[1:5]
    assert words[:3] == ["check", "scaled_add", "--case"]
    assert command(*words, "--backend", "host", "--jobs", "1").code == 1


def test_every_pair_is_covered_or_named_with_its_rule(command: CommandLine) -> None:
    command.judge(dataclasses.replace(scaled_add.SUBJECT, flags=FLAGS))
    answer = command(*FUZZ, "--examples", "1", "--json", "fuzz.json")
    assert "scaled_add: pairs covered 16 of 16, 0 impossible" in answer.out
    only_bfloat16 = dataclasses.replace(
        scaled_add.SUBJECT,
        flags=FLAGS,
        legal=lambda config: None if config.dtype == "bfloat16" else scaled_add.CONTRACT.rules[0].refusal(
            "scaled_add", scaled_add.Config(rows=0)
        ),
        strategy=lambda: scaled_add.strategy().filter(lambda config: config.dtype == "bfloat16"),
    )
    command.judge(only_bfloat16)
    document = _results(command, "--examples", "1")
    coverage = document["results"][0]["coverage"]
    assert (coverage["pairs"], coverage["covered"], coverage["missing"]) == (8, 8, [])
    assert {"pair": "rows=1 & dtype=float32", "rules": ["rows"]} in coverage["impossible"]


def test_a_pair_that_was_not_covered_is_named(command: CommandLine) -> None:
    command.judge(dataclasses.replace(scaled_add.broken("is_dead"), flags=FLAGS))
    answer = command(*FUZZ, "--examples", "1")
    assert answer.code == 1
    assert "not covered: rows=1 & dtype=float32" in answer.out


def test_the_worst_case_is_told_with_its_command(command: CommandLine) -> None:
    command.judge(scaled_add.hill(0.9))
    answer = command(*FUZZ, "--examples", "40")
    assert answer.code == 0
    document = _results(command, "--examples", "40")
    worst = document["results"][0]["worst"][0]
    assert f"scaled_add y: at most {worst['share']:.3f} of its bound (none)\n  {worst['repro']}" in answer.out
    assert worst["repro"].startswith(f"nki-oracle check scaled_add --case {worst['case']}")


def test_bits_only_asks_nothing_of_truth(command: CommandLine) -> None:
    command.judge(scaled_add.hill(1.2))
    assert command(*FUZZ, "--examples", "100").code == 1
    answer = command(*FUZZ, "--examples", "100", "--bits-only")
    assert answer.code == 0
    assert "of its bound" not in answer.out


def test_minutes_are_those_of_the_whole_run_and_keep_examples(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "_PART", 20)
    started = time.monotonic()
    document = _results(command, "--minutes", "0.05")
    assert 2 < time.monotonic() - started < 60
    # More than one part, and none with a time of its own.
    assert document["results"][0]["examples"] > 20
    # With nothing left to look for, the run is over.
    command.judge(scaled_add.broken("is_dead"))
    assert not _results(command, "--minutes", "5")["passed"]
    assert time.monotonic() - started < 120
    kept = list((Path(".nki-oracle") / "examples").iterdir())
    # Of the right kernel what was near its bound would be kept, of the wrong one what failed.
    assert any(path.name.startswith("scaled_add") for path in kept)


def test_a_failing_example_comes_first_in_the_next_run(command: CommandLine) -> None:
    command.judge(scaled_add.broken("swaps_two_rows"))
    first = _results(command, "--examples", "200", "--database", "kept")["results"][0]
    again = _results(command, "--examples", "200", "--database", "kept")["results"][0]
    assert again["case"]["case"] == first["case"]["case"]
    assert again["examples"] == 0


def test_the_worst_cases_are_kept_on_request(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversarial, "FILE", Path("kept.json"))
    command.judge(scaled_add.hill(0.9))
    command(*FUZZ, "--examples", "40")
    assert not Path("kept.json").exists()
    answer = command(*FUZZ, "--examples", "40", "--keep-worst")
    assert answer.code == 0
    assert "kept: scaled_add worst-none: y at 0." in answer.out
    assert "nki-oracle golden regen scaled_add --accept" in answer.out
    assert [one.id for one in adversarial.entries()] == ["worst-none"]
    assert "kept:" not in command(*FUZZ, "--examples", "40", "--keep-worst").out


def test_an_interrupt_prints_what_was_found(command: CommandLine) -> None:
    calls = []

    def interrupted(a: Any, b: Any, total: Any, scale: float) -> Any:
        calls.append(a.shape)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return scaled_add.kernel(a, b, total, scale)

    command.judge(
        dataclasses.replace(
            scaled_add.SUBJECT, call=lambda config, inputs, _: scaled_add.call(config, inputs, interrupted)
        )
    )
    answer = command(*FUZZ, "--examples", "40", "--json", "fuzz.json")
    assert answer.code == 130
    document = json.loads(Path("fuzz.json").read_text())
    assert (document["interrupted"], document["results"][0]["examples"]) == (True, 7)
    assert "scaled_add" in answer.out


@pytest.mark.parametrize(("examples", "parts"), [(1, [1]), (200, [200]), (450, [200, 200, 50])])
def test_parts_do_not_depend_on_jobs(examples: int, parts: list[int]) -> None:
    assert fuzz._parts(examples) == parts


def test_a_kernel_that_has_shown_a_fault_is_left_alone_and_others_go_on() -> None:
    subjects = [scaled_add.SUBJECT, dataclasses.replace(scaled_add.SUBJECT, name="other")]
    wish = fuzz.Wish("sim", 600, 7, True, None, None)
    jobs = list(wish.jobs(subjects, lambda kernel: kernel == "other"))
    drawn = [(job.judged.kernel, job.seed, job.legal) for job in jobs if job.legal]
    assert drawn == [("scaled_add", 7, 200), ("scaled_add", 8, 200), ("scaled_add", 9, 200)]
    assert [job.judged.kernel for job in jobs if job.pairs] == ["scaled_add", "other"]
    assert [(job.illegal, job.replay) for job in jobs if job.illegal] == [(600, True)] * 2


def test_pairs_are_run_before_the_clock_begins(command: CommandLine) -> None:
    """Less time than one case takes: nothing is drawn, and every pair is covered."""
    command.judge(dataclasses.replace(scaled_add.SUBJECT, flags=FLAGS))
    document = _results(command, "--minutes", "0.000001")
    coverage = document["results"][0]["coverage"]
    assert (coverage["pairs"], coverage["covered"], document["passed"]) == (16, 16, True)


def test_a_pair_that_no_case_met_is_not_passed(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    command.judge(dataclasses.replace(scaled_add.SUBJECT, flags=FLAGS))
    whole = fuzz.fuzz_kernel

    def halved(*given: Any, **named: Any) -> FuzzResult:
        found = whole(*given, **named)
        met = frozenset(sorted(found.coverage.covered)[::2])
        return dataclasses.replace(found, coverage=dataclasses.replace(found.coverage, covered=met))

    monkeypatch.setattr(fuzz, "fuzz_kernel", halved)
    answer = command(*FUZZ, "--examples", "1", "--json", "fuzz.json")
    assert answer.code == 1
    assert "pairs incomplete" in answer.out
    assert not json.loads(Path("fuzz.json").read_text())["passed"]


def test_time_is_that_of_the_clock(command: CommandLine) -> None:
    started = time.monotonic()
    assert 0 < _results(command, "--examples", "10")["seconds"] <= time.monotonic() - started


def test_the_board_counts_down_and_shows_every_kernel() -> None:
    board = Board(["qkv", "scaled_add"], time.time() + 90, 17)
    coverage = Coverage(frozenset({"a", "b"}), frozenset({"a"}))
    board.show({"qkv": FuzzResult("qkv", 12, 3, 1.5, 0, 8, coverage=coverage)})
    table = board.__rich__()
    assert str(table.title) == "fuzzing for 0:00, 17 examples begun, 1:30 left"
    assert [list(column.cells) for column in table.columns][:6] == [
        ["qkv", "scaled_add"], ["12", "0"], ["3", "0"], ["8", "0"], ["-", "-"], ["1/2", "-"],
    ]  # fmt: skip


def test_bad_input(command: CommandLine) -> None:
    assert command("fuzz", "nonsense").code == 2
    assert command(*FUZZ, "--kernel", "no.such:thing").code == 2
    foreign = command(*FUZZ, "--keep-worst", "--kernel", "conformance.tests.suite.scaled_add:kernel")
    assert foreign.code == 2
    assert "--keep-worst keeps cases of this project's own kernels" in foreign.err
    Path("kept").write_text("")
    for words, told in (
        (("--minutes", "0"), "--minutes 0 is no time"),
        (("--minutes", "-1"), "--minutes -1 is no time"),
        (("--minutes", "1", "--examples", "5"), "--examples and --minutes each say when to end"),
        (("--database", "kept"), "--database kept is a file"),
    ):
        answer = command(*FUZZ, *words)
        assert (answer.code, answer.out) == (2, "")
        assert told in answer.err
