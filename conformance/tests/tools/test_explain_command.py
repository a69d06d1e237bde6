"""Claim: `explain` says nothing parts where nothing does, and else names point, instruction and source line.

By hand: `nki-oracle explain output_projection_tkg --case plain`.
"""

from __future__ import annotations

import pytest

from conformance.tests.tools.command_line import CommandLine

KERNELS = "conformance.tests.suite.scaled_add_nki"


def _explain(command: CommandLine, name: str, case: str = "small") -> tuple[int, str]:
    answer = command("explain", "scaled_add", "--case", case, "--kernel", f"{KERNELS}:{name}")
    assert answer.err == ""
    return answer.code, answer.out


def test_right_kernel_agrees(command: CommandLine) -> None:
    code, out = _explain(command, "scaled_add")
    assert code == 0
    assert "all outputs agree" in out


def test_wrong_kernel_parts_at_a_named_line(command: CommandLine) -> None:
    code, out = _explain(command, "adds_b_twice")
    assert code == 1
    assert "rounding point sum: tile sum_0 on core 0" in out
    assert "scaled_add_nki.py:" in out
    assert f"again: nki-oracle explain scaled_add --case small --kernel {KERNELS}:adds_b_twice" in out


def test_kernel_that_breaks_a_rule_is_told_in_one_line(command: CommandLine) -> None:
    code, out = _explain(command, "reads_what_it_never_wrote")
    assert code == 1
    assert "the kernel stopped: " in out
    assert out.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nonsense", "--case", "small"), "no kernel 'nonsense'"),
        (("scaled_add", "--case", "large"), "scaled_add has no case 'large'"),
        (("scaled_add",), "Missing option '--case'"),
        (("scaled_add", "--case", "cfg:lane=normal,seed=0,rows=129"), "rows must be 1 to 128"),
    ],
    ids=["kernel", "case", "no-case", "refused"],
)
def test_bad_input_is_one_line_and_code_2(command: CommandLine, words: tuple[str, ...], message: str) -> None:
    answer = command("explain", *words)
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1
