"""Claim: the benchmark measures what it says, in turn with plain NumPy, and prints a row per subject's row.

The times themselves are not tested; `nki-oracle bench` prints them.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest

from conformance.backends import Availability
from conformance.subject import Bench
from conformance.tests.suite import scaled_add
from conformance.tests.tools.command_line import CommandLine
from tools import bench


def test_medians_are_of_the_steps_they_are_named_after() -> None:
    found = bench._medians({"slow": lambda: time.sleep(0.02), "fast": lambda: None}, 3)
    assert found["slow"] >= 0.02 > found["fast"]


def test_peak_counts_arrays() -> None:
    assert 8 <= bench._peak_mib(lambda: np.ones(2**20)) < 9


def test_operations_of_a_dot_row() -> None:
    row = bench.DotRow("", np.float32, lambda a, b: None, k=3, m=5, n=7, tiles=2)
    assert row.operations == 2 * 2 * 3 * 5 * 7


@pytest.mark.parametrize("row", bench.DOT_ROWS, ids=lambda row: row.name)
def test_dot_row_is_measured_against_sgemm(row: bench.DotRow) -> None:
    found = bench._measure_dot(dataclasses.replace(row, tiles=1, m=8, n=16), 1)
    assert found.sgemm_ratio == pytest.approx(found.sgemm_gflops / found.gflops)


def test_command_prints_every_row(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = (Bench("small", scaled_add.Config(), lambda config, inputs: inputs["a"] * config.scale),)
    command.subject = dataclasses.replace(command.subject, bench=rows)
    # In this process: the child would not know the tiny kernel. Host functions do not run on the machine.
    monkeypatch.setattr(bench, "available", lambda name: Availability(False, ""))
    monkeypatch.setattr(bench, "run_all", lambda work, todo, jobs, title, apart: [work(job) for job in todo])
    monkeypatch.setattr(bench, "DOT_ROWS", bench.DOT_ROWS[:1])
    answer = command("bench", "--repeats", "1", "--json", str(tmp_path / "bench.json"))
    assert answer.code == 0
    assert "scaled_add  small" in answer.out
    assert "exact, bfloat16" in answer.out
    document = json.loads((tmp_path / "bench.json").read_text())
    assert (len(document["kernels"]), len(document["dots"])) == (1, 1)
