"""Claim: `explain` says nothing parts where nothing does, and else names point, instruction and source line.

By hand: `nki-oracle explain output_projection_tkg --case plain`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance import golden_store, goldens
from conformance.tests.suite import scaled_add
from conformance.tests.tools.command_line import CommandLine
from reference.numerics.profile import DEFAULT
from reference.recorder import NO_RECORD
from tools import cli

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


def test_json_holds_the_first_difference(command: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    words = ("--case", "small", "--kernel", f"{KERNELS}:adds_b_twice", "--json", str(path))
    assert command("explain", "scaled_add", *words).code == 1
    document = json.loads(path.read_text())
    assert (document["command"], document["version"], document["agrees"]) == ("explain", 1, False)
    assert document["first"]["point"] == "sum"


@pytest.mark.parametrize("profiles", [("chain",), ("default", "chain"), ("U1=chain", "U1=chain")])
def test_profiles_are_compared_by_the_model(command: CommandLine, profiles: tuple[str, ...]) -> None:
    words = [word for one in profiles for word in ("--profile", one)]
    answer = command("explain", "scaled_add", "--case", "small", *words)
    # The model of the toy sums nothing: no profile can tell.
    assert answer.code == 0
    assert "all 2 tiles and all outputs agree" in answer.out


def test_profile_that_matters_parts_at_a_named_point(command: CommandLine) -> None:
    def late(config: Any, inputs: Any, profile: Any = DEFAULT, record: Any = NO_RECORD) -> Any:
        outputs = scaled_add.model(config, inputs, profile)
        record("sum", (0,), outputs["total"] + np.float32(profile.matmul_order == "chain"))
        return outputs

    command.judge(dataclasses.replace(scaled_add.SUBJECT, model=late))
    answer = command("explain", "scaled_add", "--case", "small", "--profile", "U1=chain")
    assert answer.code == 1
    assert "default and U1=chain first part here" in answer.out
    assert "rounding point sum: tile sum_0" in answer.out


def test_goldens_are_compared(command: CommandLine, tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        golden_store.write(
            tmp_path / name, [goldens.compute(scaled_add.SUBJECT, scaled_add.SUBJECT.case("small"))], "x"
        )
    old = ("--golden", str(tmp_path / "old"))
    assert command("explain", "scaled_add", "--case", "small", *old).code == 0
    assert command("explain", "scaled_add", "--case", "small", *old, "--golden", str(tmp_path / "new")).code == 0

    def spoil(outputs: dict[str, Any]) -> None:
        outputs["y"] += 1

    command.change_model(spoil)
    answer = command("explain", "scaled_add", "--case", "small", *old)
    assert answer.code == 1
    assert "no rounding point moved" in answer.out
    assert "output y: 32 of 32 elements" in answer.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nonsense", "--case", "small"), "no kernel 'nonsense'"),
        (("scaled_add", "--case", "large"), "scaled_add has no case 'large'"),
        (("scaled_add",), "--case ID is missing"),
        (("scaled_add", "--case", "cfg:lane=normal,seed=0,rows=129"), "rows must be 1 to 128"),
        (("scaled_add", "--case", "small", "--profile", "U1=sideways"), "'sideways' is no answer to U1"),
        (("scaled_add", "--case", "small", *("--profile", "chain") * 3), "--profile can be given twice, not 3 times"),
        (("scaled_add", "--case", "small", "--profile", "chain", "--golden", "x"), "give one of --kernel"),
        (("scaled_add", "--case", "small", "--golden", "nowhere"), "nowhere/manifest.json: it is missing"),
        (("scaled_add", "--case", "small", "--json", "nowhere/x.json"), "there is no such folder"),
    ],
    ids=["kernel", "case", "no-case", "refused", "profile", "three", "two-questions", "no-store", "no-folder"],
)
def test_bad_input_is_one_line_and_code_2(command: CommandLine, words: tuple[str, ...], message: str) -> None:
    answer = command("explain", *words)
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1


# ---- mutants -----------------------------------------------------------------------------------------------------

MUTANT = ("explain", "output_projection_tkg", "--mutant")


@pytest.mark.sim
def test_a_mutant_is_explained_by_its_id_and_tells_how_to_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*MUTANT, "outproj-bias-twice"]) == 1
    out = capsys.readouterr().out
    assert "rounding point out: tile out" in out
    again = out.splitlines()[-1]
    assert again == "again: nki-oracle explain output_projection_tkg --mutant outproj-bias-twice"
    assert cli.run(again.split()[2:]) == 1
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*MUTANT, "nothing"), "no mutant 'nothing' of output_projection_tkg; `nki-oracle mutants "),
        (("explain", "qkv", "--mutant", "outproj-bias-twice"), "no mutant 'outproj-bias-twice' of qkv"),
        ((*MUTANT, "outproj-bias-twice", "--kernel", "a:b"), "give one of --kernel or --provider, --mutant,"),
    ],
)
def test_what_is_no_mutant_or_no_case_is_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert cli.run(list(words)) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
