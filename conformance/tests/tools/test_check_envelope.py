"""`check --envelope` on every kernel of the project."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conformance.registry import kernels
from conformance.tests.suite.test_envelope_of_kernels import CASES
from tools import cli


@pytest.mark.sim
@pytest.mark.parametrize("kernel", kernels())
def test_every_kernel_can_be_checked_with_its_envelope(kernel: str, tmp_path: Path) -> None:
    report = tmp_path / "check.json"
    words = ["check", kernel, "--case", CASES[kernel], "--envelope", "--jobs", "1", "--json", str(report)]
    assert cli.run(words) == 0
    (result,) = json.loads(report.read_text())["results"]
    assert {(output["rung"], output["required"]) for output in result["outputs"]} == {("model", "C"), ("sim", "A")}
    assert all(output["passed"] for output in result["outputs"])
