"""A golden and the present part at the first rounding point whose digest moved, with values where these can be had.

By hand: `nki-oracle explain attention_tkg --case sequence --golden golden`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance import golden_store, goldens
from conformance.explain_golden import GoldenExplanation, golden_difference, store_difference
from conformance.golden_store import GoldenError
from conformance.subject import Arrays, Subject
from conformance.tests.suite.scaled_add import SUBJECT
from reference.numerics.cast import cast, to_float32
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.recorder import NO_RECORD, Recorder

CASE = SUBJECT.catalog[0]


def _subject(fault: str = "") -> Subject:
    """scaled_add, whose sum is one too large under profile 'chain', or by a fault."""

    def model(config: Any, inputs: Arrays, profile: NumericsProfile = DEFAULT, record: Recorder = NO_RECORD) -> Arrays:
        product = to_float32(inputs["a"]) * np.float32(config.scale) + np.float32(fault == "product")
        record("product", (0,), product)
        total = product + to_float32(inputs["b"]) + np.float32(fault == "sum" or profile.matmul_order == "chain")
        record("sum", (0,), total)
        record("untouched", (), to_float32(inputs["b"]))
        shift = np.float32(fault == "output")
        return {"y": cast(total + shift, config.dtype), "total": inputs["total"]}

    return dataclasses.replace(SUBJECT, model=model)


def _store(directory: Path, profile: NumericsProfile = DEFAULT, fault: str = "") -> Path:
    directory.mkdir()
    golden_store.write(directory, [goldens.compute(_subject(fault), CASE, profile)], "a test")
    return directory


def _held(store: Path, fault: str = "") -> GoldenExplanation:
    return golden_difference(_subject(fault), CASE.id, store)


def test_model_that_did_not_change_agrees(tmp_path: Path) -> None:
    found = _held(_store(tmp_path / "golden"))
    assert found.agrees
    assert (found.moved, found.kept) == ((), ("product", "sum", "untouched"))
    assert "has the bits of the golden" in found.text()


def test_first_point_that_moved_is_named_with_what_it_infects_and_what_it_does_not(tmp_path: Path) -> None:
    found = _held(_store(tmp_path / "golden"), "product")
    assert not found.agrees
    assert (found.moved, found.kept) == (("product", "sum"), ("untouched",))
    text = found.text()
    assert "first parts from the golden" in text
    assert "at rounding point product" in text
    assert "it infects, in the order of the model: sum" in text
    assert "unmoved: untouched" in text
    assert [one.name for one in found.outputs] == ["y"]
    assert "output y: 32 of 32 elements, up to " in text
    a = SUBJECT.build(CASE.config, CASE.lane, CASE.seed)["a"]
    product = to_float32(a) * np.float32(CASE.config.scale) + np.float32(1)
    assert f"the model has 1 tiles of it, 32 values, {product.min():.9g} to {product.max():.9g}" in text
    assert found.traces is None


def test_later_fault_is_not_looked_for_earlier(tmp_path: Path) -> None:
    assert _held(_store(tmp_path / "golden"), "sum").moved == ("sum",)


def test_fault_behind_the_last_point_is_told_as_such(tmp_path: Path) -> None:
    found = _held(_store(tmp_path / "golden"), "output")
    assert (found.moved, found.agrees) == ((), False)
    assert "no rounding point moved" in found.text()


def test_golden_of_another_profile_is_compared_value_by_value(tmp_path: Path) -> None:
    found = _held(_store(tmp_path / "golden", DEFAULT.replace(matmul_order="chain")))
    assert found.moved == ("sum",)
    assert found.traces is not None
    assert found.traces.first is not None
    assert found.traces.first.tile == "sum_0"
    assert found.traces.first.got == pytest.approx(found.traces.first.expected - 1)
    assert "the profiles differ in matmul_order (chain, exact)" in found.text()
    assert "profile.matmul_order: chain -> exact" in found.facts


def test_profile_is_not_blamed_where_the_model_changed_too(tmp_path: Path) -> None:
    found = _held(_store(tmp_path / "golden", DEFAULT.replace(matmul_order="chain")), "product")
    assert found.moved[0] == "product"
    assert found.traces is None


def test_two_stores_are_held_against_each_other(tmp_path: Path) -> None:
    old, new = _store(tmp_path / "old"), _store(tmp_path / "new", fault="sum")
    found = store_difference(_subject(), CASE.id, (old, new))
    assert (found.moved, found.kept, found.present) == (("sum",), ("product", "untouched"), "")
    assert f"--golden {old} --golden {new}" in found.text()
    assert store_difference(_subject(), CASE.id, (old, old)).agrees


def test_explanation_is_json(tmp_path: Path) -> None:
    found = _held(_store(tmp_path / "golden", DEFAULT.replace(matmul_order="chain")))
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (document["first"], document["agrees"]) == ("sum", False)
    assert document["traces"]["first"]["tile"] == "sum_0"


def test_case_without_golden_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(GoldenError, match="no golden of scaled_add large; it has small"):
        golden_difference(_subject(), "large", _store(tmp_path / "golden"))
