"""The fuzzer finds every wrong kernel and every error outside its bound, shrinks it to a case to run again, and
passes the right one."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from conformance import fuzz as fuzzing
from conformance.bounds import Bound
from conformance.fuzz import SIZES, FuzzFailure, fuzz, fuzz_cases, fuzz_illegal, fuzz_legal
from conformance.fuzz_result import shares
from conformance.lanes import LaneError
from conformance.pairwise import Flag
from conformance.refusals import refusal_complaint
from conformance.runner import run_case
from conformance.subject import Call, Case, Subject
from conformance.tests.suite import scaled_add
from conformance.tests.suite.scaled_add import BROKEN, SUBJECT, Config, Hill, HostBackend
from conformance.tolerances import Tolerance


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


def test_seeking_error_climbs_where_drawing_alone_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = scaled_add.hill(0.9)
    climbed = fuzz(subject, 400, 1, backend=HostBackend(), illegal=0)
    monkeypatch.setattr(fuzzing, "target", lambda share, label: None)
    drawn = fuzz(subject, 400, 1, backend=HostBackend(), illegal=0)
    assert climbed.passed
    assert drawn.passed
    assert (climbed.examples, drawn.examples) == (400, 400)
    # The hill is 0.9 high; 400 draws at random from a cube end some way below the summit.
    assert climbed.worst_share is not None
    assert drawn.worst_share is not None
    assert climbed.worst_share > 0.899
    assert drawn.worst_share < 0.89


def test_the_worst_case_can_be_run_again() -> None:
    subject = scaled_add.hill(0.9)
    (worst,) = fuzz(subject, 60, 1, backend=HostBackend(), illegal=0).worst
    assert (worst.output, worst.family, worst.size) == ("y", "none", 16)
    assert worst.repro.endswith(f"--case {worst.case} --kernel {subject.implementation}")
    again = run_case(subject, subject.case(worst.case), HostBackend())
    assert again.passed
    assert shares(again) == {"y": worst.share}


def test_an_output_outside_its_bound_is_a_finding_though_bits_agree() -> None:
    result = fuzz(scaled_add.hill(1.2), 200, 1, backend=HostBackend(), illegal=0)
    assert not result.passed
    report = result.failure.splitlines()
    assert report[1].startswith("model y: grade D, required C")
    assert re.search(r"4 elements outside their bound, the worst at 1(\.\d+)? times it", report[2])
    assert report[-1].startswith("again: nki-oracle check scaled_add --case cfg:lane=normal,seed=0,")
    # Shrunk: no step further from the summit is outside still.
    assert result.case is not None
    assert 1 < 1.2 * scaled_add.height(scaled_add.Hill(**result.case.config)) < 1.001


def test_bits_alone_ask_for_no_truth() -> None:
    def no_truth(config: Any, inputs: Any) -> Any:
        raise RuntimeError("asked for truth")

    subject = dataclasses.replace(scaled_add.hill(1.2), truth=no_truth)
    assert fuzz(subject, 40, 1, backend=HostBackend(), illegal=0, seek=False).passed
    assert "asked for truth" in fuzz(subject, 40, 1, backend=HostBackend(), illegal=0).failure


def _biased(error: float, tolerance: float, bound: float = 1.0) -> Subject:
    """Inside its bound, but every element is off the same way, by less and less down to half of it."""
    errors = np.float32(error) * np.linspace(1.0, 0.5, 4096, dtype=np.float32)

    def wrong(config: Hill, inputs: Any, **_: Any) -> Any:
        return {"y": (inputs["a"] + errors).astype(np.float32)}

    return dataclasses.replace(
        scaled_add.hill(0.0),
        build=lambda config, lane, seed: {"a": np.arange(4096, dtype=np.float32)},
        model=wrong,
        call=lambda config, inputs, _: Call(lambda: wrong(config, inputs)["y"], {}, ("y",)),
        bounds=lambda config, inputs: {"y": Bound(np.full(4096, bound))},
        tolerances=(Tolerance("scaled_add", "*", "*", tolerance, tolerance, "test"),),
    )


def test_a_model_that_only_misses_a_gate_over_the_tensor_is_a_finding_as_it_is_to_check() -> None:
    result = fuzz(_biased(0.75, 10.0), 20, 1, backend=HostBackend(), illegal=0)
    assert "grade D, required C" in result.failure
    assert "error/spread" in result.failure
    assert fuzz(_biased(0.0, 10.0), 20, 1, backend=HostBackend(), illegal=0).passed


def test_a_model_that_misses_the_published_tolerance_too_is_a_finding() -> None:
    assert "grade F" in fuzz(_biased(0.75, 1e-6), 20, 1, backend=HostBackend(), illegal=0).failure


def test_where_the_bound_is_infinite_a_missed_tolerance_is_told_and_no_finding() -> None:
    result = fuzz(_biased(0.75, 1e-6, bound=np.inf), 20, 1, backend=HostBackend(), illegal=0)
    assert result.passed
    (remark,) = result.remarks
    assert (remark.output, remark.family) == ("y", "none")
    assert "the bound says something about 0.0% of the elements only; not D:" in remark.why
    assert not fuzz(_biased(0.0, 10.0), 20, 1, backend=HostBackend(), illegal=0).remarks


def test_infinity_out_of_place_is_a_finding_where_the_bound_is_finite() -> None:
    assert "Inf out of place" in fuzz(_biased(np.inf, 10.0), 20, 1, backend=HostBackend(), illegal=0).failure


def _wrong_in_a_corner() -> Subject:
    """Wrong for one config in 48."""

    def wrong(a: Any, b: Any, total: Any, scale: float) -> Any:
        y = scaled_add.kernel(a, b, total, scale)
        if a.shape[0] == 13 and a.dtype == "float16":
            y[0, 0] += 1
        return y

    return dataclasses.replace(SUBJECT, call=lambda config, inputs, _: scaled_add.call(config, inputs, wrong))


def test_a_failing_example_is_kept_and_comes_first_in_the_next_run(tmp_path: Path) -> None:
    subject = _wrong_in_a_corner()
    found = _fuzz(subject, 400, database=tmp_path)
    assert found.case is not None
    assert _fuzz(subject, 5).passed
    again = _fuzz(subject, 5, database=tmp_path)
    assert again.case is not None
    assert again.case.case == found.case.case
    assert again.examples == 0
    assert _fuzz(subject, 5, database=tmp_path, replay=False).passed
    assert _fuzz(SUBJECT, 5, database=tmp_path).passed


def test_examples_of_another_implementation_are_kept_apart(tmp_path: Path) -> None:
    assert not _fuzz(scaled_add.broken("is_dead"), database=tmp_path).passed
    assert not _fuzz(scaled_add.broken("leaves_total"), database=tmp_path).passed
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interrupt_ends_the_run_and_keeps_what_was_found() -> None:
    calls = []

    def interrupted(a: Any, b: Any, total: Any, scale: float) -> Any:
        calls.append(a.shape)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return scaled_add.kernel(a, b, total, scale)

    subject = dataclasses.replace(SUBJECT, call=lambda config, inputs, _: scaled_add.call(config, inputs, interrupted))
    result = _fuzz(subject)
    assert (result.interrupted, result.passed, result.examples, result.refusals) == (True, True, 7, 3)
    assert not _fuzz(SUBJECT).interrupted


def test_a_run_that_is_told_to_stop_begins_no_further_example() -> None:
    calls = HostBackend()
    result = fuzz(SUBJECT, 40, 1, backend=calls, illegal=0, stop=lambda: calls.calls >= 5)
    assert (result.examples, result.interrupted) == (5, True)


def test_results_add_up_travel_and_name_each_finding_once() -> None:
    one, two = _fuzz(scaled_add.broken("is_dead")), _fuzz(scaled_add.broken("is_dead"))
    assert pickle.loads(pickle.dumps(one)) == one
    both = one + two
    assert (len(both.findings), both.refusals) == (1, one.refusals + two.refusals)
    near, far = (fuzz(scaled_add.hill(top), 20, 1, backend=HostBackend(), illegal=0) for top in (0.9, 0.3))
    assert [worst.share for worst in (far + near).worst] == [near.worst_share]
    with pytest.raises(ValueError, match="do not add up"):
        one + dataclasses.replace(two, kernel="other")
    json.dumps(both.to_dict())


def test_a_case_that_was_not_drawn_is_made_smaller_field_by_field() -> None:
    def wrong(a: Any, b: Any, total: Any, scale: float) -> Any:
        y = scaled_add.kernel(a, b, total, scale)
        if a.shape[0] >= 3:
            y[0, 0] += 1
        return y

    subject = dataclasses.replace(SUBJECT, call=lambda config, inputs, _: scaled_add.call(config, inputs, wrong))
    config = Config(rows=100, cols=11, dtype="float32", scale=-3.0)
    with pytest.raises(FuzzFailure) as failure:
        fuzz_cases(subject, [Case("cfg:given", config, "exact", 9)], HostBackend())
    found = failure.value.result
    assert found is not None
    smaller = Config(**found.config)
    # Defaults are what is simple; rows may only take sizes that were drawn for the covering set.
    assert (found.lane, found.seed, smaller.cols, smaller.dtype, smaller.scale) == ("normal", 0, 8, "bfloat16", 0.75)
    assert smaller.rows >= 3


def test_a_case_without_room_for_its_lane_is_run_with_normal_data() -> None:
    seen: list[str] = []

    def build(config: Config, lane: str, seed: int) -> Any:
        if lane == "exact":
            raise LaneError("no room")
        seen.append(lane)
        return scaled_add.build(config, lane, seed)

    options = (Flag("dtype", ("bfloat16", "float16")), Flag("rows", (4,)))
    subject = dataclasses.replace(SUBJECT, build=build, flags=options)
    pairs = fuzz_cases(subject, [Case("cfg:given", Config(), "exact")], HostBackend())
    assert seen == ["normal"]
    assert pairs == {"dtype=bfloat16 & rows=4"}
