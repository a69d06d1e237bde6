"""Claim: `golden` tells same from moved and from damaged by its exit code, and replaces only for a reason.

By hand: the words of each test after `nki-oracle`; --directory points away from the project's store.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance import golden_store
from conformance.drift_sides import stored
from conformance.tests.tools.command_line import Answer, CommandLine


class Goldens:
    """`golden` commands on a store in a temporary folder."""

    def __init__(self, command: CommandLine, directory: Path) -> None:
        self.command, self.directory = command, directory

    def __call__(self, *words: str) -> Answer:
        return self.command("golden", *words, "--directory", str(self.directory), "--jobs", "1")

    def bytes(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.directory.iterdir()}


@pytest.fixture
def goldens(command: CommandLine, tmp_path: Path) -> Goldens:
    made = Goldens(command, tmp_path / "golden")
    assert made("regen", "--accept", "first set").code == 0
    return made


def _one_bit(outputs: dict[str, Any]) -> None:
    outputs["y"].view(np.uint16).ravel()[3] ^= 1


def test_fresh_set_verifies(goldens: Goldens) -> None:
    answer = goldens("verify")
    assert (answer.code, answer.out) == (0, "2 goldens, 0 with drift\n")


def test_one_bit_of_a_model_is_drift(goldens: Goldens) -> None:
    goldens.command.change_model(_one_bit)
    answer = goldens("verify")
    assert answer.code == 1
    assert "2 goldens, 2 with drift" in answer.out
    row = next(line for line in answer.out.splitlines() if "small" in line).split()
    assert row == [
        *("legal", "variant", "scaled_add", "small", "y", "model"),
        *("1", "of", "32,", "up", "to", "1", "ULP", "after", "the", "last", "point"),
    ]
    assert "1 out, 1 legal variant, 2 same bits" in answer.out
    assert "in lane exact every legal order gives the model's bits" in answer.out


def test_one_bit_of_a_file_is_damage(goldens: Goldens) -> None:
    path = min(goldens.directory.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for words in (("verify",), ("diff",)):
        answer = goldens(*words)
        assert answer.code == 2
        assert path.name in answer.err
        assert answer.err.count("\n") == 1


def test_regen_without_a_reason_writes_nothing(goldens: Goldens) -> None:
    goldens.command.change_model(_one_bit)
    before = goldens.bytes()
    answer = goldens("regen")
    assert answer.code == 1
    assert "1 ULP" in answer.out
    assert goldens.bytes() == before
    assert goldens("regen", "--accept", "  ").code == 2
    assert goldens.bytes() == before


def test_regen_with_a_reason_replaces_and_logs(goldens: Goldens) -> None:
    goldens.command.change_model(_one_bit)
    assert goldens("regen", "--accept", "a bit was wrong").code == 0
    assert goldens("verify").code == 0
    log = (goldens.directory / golden_store.CHANGES).read_text()
    assert "first set" in log
    assert "a bit was wrong" in log
    assert "1 out, 1 legal variant, 2 same bits" in log
    moved = "| legal variant | scaled_add | small | y | model |  |  | 1 of 32, up to 1 ULP | after the last point |"
    assert moved in log


def test_regen_without_drift_writes_nothing(goldens: Goldens) -> None:
    before = goldens.bytes()
    assert goldens("regen", "--accept", "no reason").code == 0
    assert goldens.bytes() == before


def test_regen_repairs_a_damaged_store(goldens: Goldens) -> None:
    whole = goldens.bytes()
    min(goldens.directory.glob("*.safetensors")).unlink()
    assert goldens("regen", "scaled_add", "--accept", "repair").code == 2
    assert goldens("regen", "--accept", "repair").code == 0
    assert goldens("verify").code == 0
    assert set(goldens.bytes()) == set(whole)


def test_diff_shows_the_worst_elements(goldens: Goldens) -> None:
    assert goldens("diff").code == 0
    goldens.command.change_model(_one_bit)
    answer = goldens("diff")
    assert answer.code == 1
    assert "[0, 3] got" in answer.out


def test_diff_against_another_store(goldens: Goldens, tmp_path: Path) -> None:
    other = Goldens(goldens.command, tmp_path / "other")
    assert other("regen", "--accept", "same").code == 0
    assert goldens("diff", "--against", str(other.directory)).code == 0
    goldens.command.change_model(_one_bit)
    assert other("regen", "--accept", "moved").code == 0
    assert goldens("diff", "--against", str(other.directory)).code == 1


def test_moved_rounding_point_is_named(goldens: Goldens) -> None:
    model = goldens.command.subject.model

    def wider_sum(config: Any, inputs: Any, profile: Any, record: Any) -> Any:
        def moved(point: str, tile: Any, value: Any, core: int = 0) -> None:
            record(point, tile, value + 1 if point == "sum" else value, core)

        return model(config, inputs, profile, moved)

    goldens.command.subject = dataclasses.replace(goldens.command.subject, model=wider_sum)
    answer = goldens("verify")
    assert answer.code == 1
    rows = [line.split() for line in answer.out.splitlines() if line.startswith("same bits")]
    assert [(row[3], row[-1]) for row in rows] == [("exact", "sum"), ("small", "sum")]


def test_case_that_is_new_gone_or_changed_is_drift(goldens: Goldens) -> None:
    small, exact = goldens.command.subject.catalog
    other = dataclasses.replace(small, id="new-one", config=dataclasses.replace(small.config, rows=2))
    renamed = dataclasses.replace(small, id="renamed")
    catalog = (other, renamed, dataclasses.replace(exact, seed=4))
    goldens.command.subject = dataclasses.replace(goldens.command.subject, catalog=catalog)
    answer = goldens("verify")
    assert answer.code == 1
    rows = {tuple(" ".join(line.split()).split(" scaled_add ")) for line in answer.out.splitlines()}
    assert {
        ("new", "new-one model"),
        ("gone", "exact seed: 3 -> 4 model"),
        ("new", "exact seed: 3 -> 4 model"),
        ("same bits", "renamed case: small -> renamed model"),
    } <= rows


def test_profile_that_answers_otherwise_is_drift_although_no_bit_moved(goldens: Goldens, tmp_path: Path) -> None:
    answered = [
        dataclasses.replace(golden, profile={**golden.profile, "ties": "highest"}, profile_digest="0a1b2c")
        for golden in _read(goldens.directory)
    ]
    golden_store.write(tmp_path / "other", answered, "another profile")
    answer = Goldens(goldens.command, tmp_path / "other")("verify")
    assert answer.code == 1
    assert "4 same bits" in answer.out
    assert "2 goldens, 2 with drift" in answer.out
    assert "profile ties highest lowest" in [" ".join(line.split()) for line in answer.out.splitlines()]


def _read(directory: Path) -> list[golden_store.Golden]:
    manifest = golden_store.read_manifest(directory)
    return [stored(directory, manifest, entry) for entry in manifest.entries]


def test_missing_store_is_damage(goldens: Goldens, tmp_path: Path) -> None:
    answer = Goldens(goldens.command, tmp_path / "nowhere")("verify")
    assert answer.code == 2
    assert "manifest.json: it is missing" in answer.err


def test_unknown_kernel_is_bad_input(goldens: Goldens) -> None:
    answer = goldens("verify", "nonsense")
    assert answer.code == 2
    assert "no kernel 'nonsense'; known: scaled_add" in answer.err
