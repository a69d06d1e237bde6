"""Grade B plays the open questions that concern a kernel, one at a time, and no others unless asked."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from conformance.envelope import Envelope, envelope_faults, envelopes
from conformance.subject import Subject
from conformance.tests.suite.scaled_add import SUBJECT, Config
from reference.numerics.profile import DEFAULT, KERNELS, QUESTIONS, NumericsProfile


def _recording(name: str) -> tuple[Subject, list[NumericsProfile]]:
    """A subject whose model gives 1.0, or 2.0 where matmul_order is not the default, and what it was asked."""
    asked: list[NumericsProfile] = []

    def model(config: Config, inputs: Any, profile: NumericsProfile, **_: Any) -> Any:
        asked.append(profile)
        value = 1.0 if profile.matmul_order == DEFAULT.matmul_order else 2.0
        return {"y": np.array([value, 1.0], np.float32)}

    return dataclasses.replace(SUBJECT, name=name, model=model, tolerances=()), asked


def _candidates(name: str) -> set[str]:
    return {
        f"{part.field}={value}"
        for question in QUESTIONS.values()
        if name in question.kernels or name not in KERNELS
        for part in question.parts
        for value in part.envelope
        if value != part.default
    }


@pytest.mark.parametrize("name", [*KERNELS, "a_new_kernel"])
def test_every_candidate_that_concerns_the_kernel_is_played_alone(name: str) -> None:
    subject, asked = _recording(name)
    span = envelopes(subject, Config(), {})["y"]
    assert span.profiles[0] == "base"
    assert set(span.profiles[1:]) == _candidates(name)
    assert asked[0] == DEFAULT
    assert all(len(profile.changed()) == 1 for profile in asked[1:])


def test_a_question_outside_the_noise_class_is_played_when_named() -> None:
    subject, _ = _recording("qkv")
    plain = set(envelopes(subject, Config(), {})["y"].profiles)
    named = set(envelopes(subject, Config(), {}, include=("U12",))["y"].profiles)
    assert {name.partition("=")[0] for name in named - plain} == {part.field for part in QUESTIONS["U12"].parts}


def test_the_envelope_spans_the_models_of_all_profiles() -> None:
    subject, _ = _recording("qkv")
    span = envelopes(subject, Config(), {})["y"]
    assert (span.low.tolist(), span.high.tolist()) == ([1.0, 1.0], [2.0, 1.0])


@pytest.mark.parametrize(
    ("value", "inside"), [(0.99609375, True), (1.5, True), (2.015625, True), (0.984375, False), (2.046875, False)]
)
def test_one_step_of_the_output_format_is_allowed_on_either_side(value: float, inside: bool) -> None:
    """bfloat16: a step is 2^-7 above 1 (the half step below it is inside), 2^-6 above 2."""
    span = Envelope(np.array([1.0]), np.array([2.0]), ("base",))
    assert (envelope_faults(np.array([value], ml_dtypes.bfloat16), span) == []) is inside


def test_infinity_is_inside_where_a_profile_reaches_it_and_nan_never_is() -> None:
    span = Envelope(np.array([1.0]), np.array([np.inf]), ("base",))
    assert envelope_faults(np.array([np.inf], np.float32), span) == []
    assert envelope_faults(np.array([np.nan], np.float32), span) != []
    finite = Envelope(np.array([1.0]), np.array([3e38]), ("base",))
    assert envelope_faults(np.array([np.inf], np.float32), finite) != []
