"""The profile holds every open question once, refuses what it does not know, and names what it refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from reference.numerics.profile import (
    CHAIN,
    DEFAULT,
    KERNELS,
    PARTS,
    QUESTIONS,
    STATUSES,
    NumericsProfile,
    question_of,
    variants,
)

IDS = [
    *(f"U{n}" for n in range(1, 13)),
    *(f"V{n}" for n in range(1, 12)),
    *(f"S{n}" for n in range(1, 7)),
    *("G1", "G2", "D1", "D2", "Q1"),
]


def test_every_open_question_of_the_fact_sheet_has_a_row():
    assert list(QUESTIONS) == IDS


def test_every_field_belongs_to_one_question():
    own = {"generation", "nki", "evidence"}
    assert {item.name for item in dataclasses.fields(NumericsProfile)} == set(PARTS) | own
    assert sum(len(row.parts) for row in QUESTIONS.values()) == len(PARTS)


@pytest.mark.parametrize("identifier", IDS)
def test_row_is_complete(identifier: str):
    row = QUESTIONS[identifier]
    assert row.question.endswith("?")
    assert row.source
    assert row.status in STATUSES
    assert row.engines
    assert set(row.kernels) <= set(KERNELS)
    assert question_of(row.field) is row
    for part in row.parts:
        assert part.default in part.candidates
        assert set(part.envelope) <= set(part.candidates)
        assert all(part.candidates.values())
        assert getattr(DEFAULT, part.field) == part.default
        assert not part.envelope or part.default in part.envelope


def test_row_that_cannot_be_played_says_what_is_missing():
    for row in QUESTIONS.values():
        if all(len(part.candidates) == 1 for part in row.parts) and row.id not in ("U11", "D2"):
            assert row.unmodelled, row.id


def test_product_rounding_is_left_out_of_the_envelope_unless_asked_for():
    assert not any(part.envelope for part in QUESTIONS["U12"].parts)
    assert not any(name.startswith("product_round") for name, _ in variants())
    asked = dict(variants(include=["U12"]))
    assert asked["product_round=bf16"] == DEFAULT.replace(product_round="bf16")


def test_variants_change_one_field_each():
    played = dict(variants())
    assert len(played) == len(list(variants()))
    assert "matmul_order=chain" in played
    assert "matmul_order=exact" not in played
    assert all(len(profile.changed()) == 1 for profile in played.values())
    assert "matmul_order=exact" in dict(variants(CHAIN))


@pytest.mark.parametrize("name", list(PARTS))
def test_every_candidate_is_accepted_and_no_other(name: str):
    for value in PARTS[name].candidates:
        assert getattr(DEFAULT.replace(**{name: value}), name) == value
    with pytest.raises(ValueError, match=name) as error:
        DEFAULT.replace(**{name: "no such thing"})
    assert "'no such thing'" in str(error.value)
    assert all(repr(value) in str(error.value) for value in PARTS[name].candidates)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "number for a flag": (lambda: DEFAULT.replace(fma_vector=1), "fma_vector.*1.*False, True"),
    "unknown field": (lambda: DEFAULT.replace(matmul_orders="chain"), "no field 'matmul_orders'"),
    "unknown field in a dictionary": (lambda: NumericsProfile.from_dict({"u1": "chain"}), "no field 'u1'"),
    "unknown generation": (lambda: DEFAULT.replace(generation="gen5"), "gen5.*gen2.*gen3.*gen4"),
    "version as text": (lambda: DEFAULT.replace(nki="0.6"), "nki.*0.6"),
    "empty version": (lambda: DEFAULT.replace(nki=()), "nki"),
    "evidence for no question": (lambda: DEFAULT.replace(evidence=(("U99", "probe"),)), "U99"),
    "variant of no question": (lambda: list(variants(include=["U99"])), "U99"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_refusal_names_field_value_and_candidates(case: str):
    act, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        act()


def test_profile_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT.matmul_order = "chain"  # type: ignore[misc]
    with pytest.raises(TypeError):
        QUESTIONS["U1"].candidates["chain"] = ""  # type: ignore[index]


@pytest.mark.parametrize("profile", [DEFAULT, CHAIN, DEFAULT.replace(nki=(0, 4), evidence=(("V1", "trn2"),))])
def test_profile_survives_json(profile: NumericsProfile):
    assert NumericsProfile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


def test_partial_dictionary_takes_defaults():
    assert NumericsProfile.from_dict({"matmul_order": "tree"}) == DEFAULT.replace(matmul_order="tree")


def test_digest_depends_on_every_choice_and_not_on_evidence():
    digests = {DEFAULT.digest(), DEFAULT.replace(nki=(0, 4)).digest()}
    digests |= {DEFAULT.replace(generation=name).digest() for name in ("gen2", "gen4")}
    others = [(name, value) for name, part in PARTS.items() for value in part.candidates if value != part.default]
    digests |= {DEFAULT.replace(**{name: value}).digest() for name, value in others}
    assert len(digests) == 4 + len(others)
    assert DEFAULT.replace(evidence=(("U1", "probe"),)).digest() == DEFAULT.digest()
    assert len(DEFAULT.digest()) == 12


def test_evidence_makes_an_answer_measured():
    measured = DEFAULT.replace(evidence=(("U1", "trn2, probe U1"),))
    assert measured.status("U1") == "measured"
    assert measured.status("U2") == QUESTIONS["U2"].status == DEFAULT.status("U2")


@pytest.mark.parametrize(("version", "bias"), [((0, 4), 0), ((0, 4, 9), 0), ((0, 5), 1), ((0, 6, 0), 1), ((1, 0), 1)])
def test_scale_rule_changed_with_nki_0_5(version: tuple[int, ...], bias: int):
    assert DEFAULT.replace(nki=version).mx_scale_bias == bias


def test_chain_profile_puts_every_sum_in_sequence():
    orders = [name for name, part in PARTS.items() if {"exact", "chain"} <= set(part.candidates)]
    assert orders
    assert all(getattr(CHAIN, name) == "chain" for name in orders)
    assert set(CHAIN.changed()) == {*orders, "mx_dot"}
