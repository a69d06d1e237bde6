"""Legal variants pass and more than noise is told by name; a bound that is too tight, or an exact lane that is not,
is caught.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from conformance.bounds import Bound
from conformance.gates import look, reference_of
from conformance.kill_table import with_lane
from conformance.lanes import EXACT_LANES
from conformance.legal_variants import cases, largest_load, play, variants_of
from conformance.registry import kernel, kernel_names
from conformance.subject import Arrays, Case, Subject
from reference.numerics.profile import PARTS

SUBJECT = kernel("output_projection_tkg")


def _exact_cases() -> list[Any]:
    """The smallest case of each exact lane of every kernel."""
    found = []
    for name in kernel_names():
        for lane in EXACT_LANES:
            of_lane = [case for case in kernel(name).catalog if case.lane == lane and "ci" in case.tags]
            found += [pytest.param(kernel(name), case, id=f"{name}-{case.id}") for case in of_lane]
    return found


@pytest.mark.parametrize(("subject", "case"), _exact_cases())
def test_no_answer_of_the_noise_class_moves_a_bit_in_an_exact_lane(subject: Subject, case: Case) -> None:
    reference = reference_of(subject, case)
    for variant in variants_of(subject):
        if variant.noise:
            got = subject.model(case.config, reference.inputs, profile=variant.profile)
            sight = look(subject, case, got, reference)
            assert not sight.differs, f"{variant.name}: {sight.faults}"


def test_the_same_answers_move_bits_elsewhere() -> None:
    case = SUBJECT.case("plain")
    reference = reference_of(SUBJECT, case)
    moved = [
        variant.name
        for variant in variants_of(SUBJECT)
        if variant.noise
        and look(
            SUBJECT, case, SUBJECT.model(case.config, reference.inputs, profile=variant.profile), reference
        ).differs
    ]
    assert "matmul_order=chain" in moved


def test_variants_are_all_other_candidates_of_what_a_kernel_can_notice() -> None:
    names = [variant.name for variant in variants_of(SUBJECT)]
    assert len(names) == len(set(names))
    assert "matmul_order=chain" in names
    assert "matmul_order=exact" not in names
    # A question that only attention asks.
    assert not [name for name in names if name.startswith("exp_underflow")]
    noise = {variant.name for variant in variants_of(SUBJECT) if variant.noise}
    assert "product_round=bf16" in set(names) - noise
    assert {name.partition("=")[0] for name in names} <= set(PARTS)


@pytest.mark.sim
def test_the_kernel_passes_under_every_legal_variant_and_more_than_noise_is_told() -> None:
    results = play(SUBJECT, SUBJECT.case("plain"))
    assert not [one.profile for one in results if one.wrong]
    load = largest_load(results)
    assert load is not None
    assert 0 < load <= 1
    rounded = next(one for one in results if one.profile == "product_round=bf16")
    assert rounded.noticed
    assert not rounded.passed
    assert not rounded.wrong
    assert rounded.to_dict()["passed"] is False


@pytest.mark.sim
def test_a_bound_that_is_too_tight_rejects_a_legal_kernel_and_is_told() -> None:
    def tight(config: Any, inputs: Arrays) -> dict[str, Bound]:
        model = SUBJECT.model(config, inputs)["out"].astype(np.float64)
        error = np.abs(model - SUBJECT.truth(config, inputs)["out"])
        # What the model itself misses truth by, and nothing more.
        return {"out": Bound(error * (1 + 1e-12))}

    results = play(dataclasses.replace(SUBJECT, bounds=tight), SUBJECT.case("plain-fp32"))
    assert "matmul_order=chain" in {one.profile for one in results if one.wrong}


@pytest.mark.sim
def test_an_exact_lane_with_data_that_are_not_is_told() -> None:
    def build(config: Any, lane: str, seed: int) -> Arrays:
        return SUBJECT.build(config, "normal", seed)

    results = play(dataclasses.replace(SUBJECT, build=build), with_lane(SUBJECT.case("plain-fp32"), "exact"))
    wrong = [one for one in results if one.wrong]
    assert wrong
    assert all(one.missed.startswith("out: F for A") for one in wrong)


def test_cases_are_one_per_lane_and_label_of_quantisation() -> None:
    for name in kernel_names():
        subject = kernel(name)
        chosen = cases(subject)
        labels = [(case.lane, subject.quantization(case.config)) for case in chosen]
        assert len(labels) == len(set(labels))
        assert {lane for lane, _ in labels} == set(subject.lanes)
