"""The fuzzer finds every wrong kernel, shrinks it to a case to run again, and passes the right one."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
from hypothesis import strategies as st

from conformance.fuzz import SIZES, FuzzFailure, fuzz, fuzz_illegal, fuzz_legal, refusal_complaint
from conformance.lanes import LaneError
from conformance.runner import run_case
from conformance.subject import Subject
from conformance.tests.suite import scaled_add
from conformance.tests.suite.scaled_add import BROKEN, SUBJECT, Config, HostBackend


def _fuzz(subject: Subject, examples: int = 40, **options: Any) -> Any:
    return fuzz(subject, examples, seed=1, backend=HostBackend(), **options)


def test_the_right_kernel_passes_and_everything_drawn_is_counted() -> None:
    result = _fuzz(SUBJECT)
    assert result.passed
    assert (result.examples, result.failure, result.case) == (40, "", None)
    # The three illegal configs of the toy subject exhaust its strategy.
    assert result.refusals == 3


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_every_wrong_kernel_is_found(name: str) -> None:
    result = _fuzz(scaled_add.broken(name))
    assert not result.passed
    assert result.failure.splitlines()[-1].startswith("again: nki-oracle check scaled_add --case cfg:lane=")


def test_a_failure_shrinks_to_the_smallest_config_and_can_be_run_again() -> None:
    """Wrong from 3 rows and 5 columns on; larger configs are drawn, and this one is told."""

    def wrong_when_large(a: Any, b: Any, total: Any, scale: float) -> Any:
        y = scaled_add.kernel(a, b, total, scale)
        if a.shape[0] >= 3 and a.shape[1] >= 5:
            y[0, 0] += 1
        return y

    subject = dataclasses.replace(
        SUBJECT, call=lambda config, inputs, _: scaled_add.call(config, inputs, wrong_when_large)
    )
    result = _fuzz(subject)
    assert result.case is not None
    assert (result.case.config["rows"], result.case.config["cols"], result.case.seed) == (3, 5, 0)
    again = run_case(subject, subject.case(result.case.case), HostBackend())
    assert again.status == "failed"
    assert not again.outputs[2].passed


def test_a_seed_fixes_what_is_drawn_and_another_draws_other_configs() -> None:
    def drawn(seed: int) -> list[Any]:
        seen: list[Any] = []
        subject = dataclasses.replace(SUBJECT, legal=lambda config: seen.append(config))
        fuzz_legal(subject, 20, seed, HostBackend())
        return seen

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_the_time_limit_stops_new_examples_and_hides_no_failure() -> None:
    started = time.monotonic()
    result = _fuzz(SUBJECT, examples=10**6, minutes=0.01, illegal=0)
    assert time.monotonic() - started < 20
    assert result.passed
    assert 0 < result.examples < 10**6
    assert not _fuzz(scaled_add.broken("is_dead"), examples=10**6, minutes=0.05, illegal=0).passed


def test_configs_without_room_for_a_lane_are_left_out() -> None:
    def build(config: Config, lane: str, seed: int) -> Any:
        if config.cols < 8:
            raise LaneError("no room")
        return scaled_add.build(config, lane, seed)

    result = _fuzz(dataclasses.replace(SUBJECT, build=build))
    assert result.passed
    assert result.examples == 40


def test_lanes_that_do_not_fit_a_config_are_not_drawn() -> None:
    seen: list[str] = []

    def build(config: Config, lane: str, seed: int) -> Any:
        seen.append(lane)
        return scaled_add.build(config, lane, seed)

    subject = dataclasses.replace(SUBJECT, build=build, lane_fits=lambda config, lane: lane == "exact")
    fuzz_legal(subject, 20, 1, HostBackend())
    assert set(seen) == {"exact"}


def test_a_strategy_that_draws_illegal_configs_is_reported() -> None:
    subject = dataclasses.replace(SUBJECT, strategy=lambda: st.just(Config(rows=0)))
    assert "refused" in _fuzz(subject).failure


@pytest.mark.parametrize(
    ("config", "rule", "complaint"),
    [
        (Config(rows=0), "rows", ""),
        (Config(scale=0.0), "scale", ""),
        (Config(rows=0), "scale", "refused by rule 'rows', expected 'scale'"),
        (Config(), "rows", "launched, expected a refusal by rule 'rows'"),
    ],
)
def test_a_refusal_counts_only_by_its_own_rule_and_without_a_launch(config: Config, rule: str, complaint: str) -> None:
    assert refusal_complaint(SUBJECT, config, rule) == complaint


def test_a_refusal_that_touched_an_argument_is_caught() -> None:
    kept: dict[str, Any] = {}

    def build(config: Config, lane: str, seed: int) -> Any:
        kept.update(scaled_add.build(config, lane, seed))
        return kept

    def legal(config: Config) -> Any:
        kept["total"][...] = 0
        return scaled_add.CONTRACT.refusal(config)

    subject = dataclasses.replace(SUBJECT, build=build, legal=legal)
    assert refusal_complaint(subject, Config(rows=129), "rows") == "refused, but total was changed"


def test_inputs_of_an_illegal_config_need_not_exist() -> None:
    def build(config: Config, lane: str, seed: int) -> Any:
        raise ValueError("negative dimensions")

    assert refusal_complaint(dataclasses.replace(SUBJECT, build=build), Config(rows=0), "rows") == ""


def test_an_illegal_config_that_is_let_in_is_found() -> None:
    subject = dataclasses.replace(SUBJECT, legal=lambda config: None)
    with pytest.raises(FuzzFailure, match="launched, expected a refusal by rule"):
        fuzz_illegal(subject, 10, 1)
    assert "launched, expected" in _fuzz(subject).failure


def test_every_hypothesis_profile_of_the_suite_has_a_size() -> None:
    assert set(SIZES) == {"ci", "dev", "nightly"}
    assert all(size.legal >= size.parts for size in SIZES.values())
