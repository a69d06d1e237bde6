"""Claim: the JUnit report of a test run holds grade, requirement, share of the bound and digest of every output.

By hand: `pytest --junitxml report.xml conformance/tests/kernels/test_all_kernels.py`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

TEST = (
    "conformance/tests/kernels/test_all_kernels.py::"
    "test_the_machine_gives_the_models_bits_and_the_model_is_near_truth[output_projection_tkg-plain]"
)


def test_every_output_of_a_case_is_a_set_of_properties(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", "-W", "error", f"--junitxml={report}"]
    words = [sys.executable, "-m", "pytest", *options, TEST]
    done = subprocess.run(words, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (case,) = ElementTree.parse(report).iter("testcase")
    found = {one.attrib["name"]: one.attrib["value"] for one in case.iter("property")}
    assert found["status"] == "passed"
    assert (found["sim.out.grade"], found["sim.out.required"]) == ("A", "A")
    assert found["model.out.grade"] <= found["model.out.required"]
    assert found["model.out.digest"] == found["sim.out.digest"]
    assert re.fullmatch("[0-9a-f]{64}", found["sim.out.digest"])
    assert 0 < float(found["sim.out.share_of_bound"]) < 1
