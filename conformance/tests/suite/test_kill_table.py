"""The kill table tells a fault from a right kernel, a device's gates from the machine's, and a trial from none.

The subjects are small faults of the output projection, whose cases run in milliseconds.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from conformance import kill_table
from conformance.gates import Sight
from conformance.kill_table import Standing, cases, margin, stand, with_lane
from conformance.mutants import Mutant, Patch, mutants
from conformance.mutants.kinds import KINDS
from conformance.registry import kernel
from conformance.subject import Arrays

NAME = "output_projection_tkg"
FILE = f"{NAME}.py"
SUBJECT = kernel(NAME)

pytestmark = pytest.mark.sim


def _known(identifier: str) -> Mutant:
    return next(mutant for mutant in mutants(NAME) if mutant.id == identifier)


def _mutant(identifier: str, *patches: Patch, **fields: str) -> Mutant:
    given = {"case": "plain", "kind": "term", **fields}
    return Mutant(f"outproj-test-{identifier}", NAME, "a fault of this test", patches, **given)


def _sight(lane: str = "normal", **fields: object) -> Sight:
    return dataclasses.replace(Sight("plain", lane), **fields)


def test_a_fault_is_killed_on_every_lane_and_its_place_is_told() -> None:
    found = stand(_known("outproj-core-halves-swapped"))
    assert found.killed
    assert found.on_hardware
    assert found.by_tolerance_on_normal
    assert (found.point, found.complaints) == ("out_psum", ())
    assert found.location.startswith(f"kernels/{FILE}:")
    assert found.killed_by("C", "normal")
    assert found.killed_by("exact", "exact")
    assert not found.killed_by("machine")
    assert found.load is not None
    assert found.load > 1


def test_the_right_kernel_is_a_mutant_that_nothing_kills() -> None:
    found = stand(_mutant("none"))
    assert not found.killed
    assert not found.on_hardware
    assert not found.by_tolerance
    assert found.complaints == (
        "the embedded machine does not show it",
        "no gate of hardware shows it, and no reason is listed",
    )


def test_a_rounding_dropped_passes_the_tolerance_and_dies_in_the_exact_lanes() -> None:
    found = stand(_known("outproj-dequant-unrounded"))
    assert found.on_hardware
    assert found.killed_by("exact")
    assert not found.by_tolerance
    assert "lane exact" in found.by


def test_what_the_machine_stops_is_judged_without_its_rules_as_well() -> None:
    found = stand(_known("outproj-bias-first-quadrant"))
    assert found.killed_by("machine")
    # Memory that nobody wrote holds NaN then, and the places of NaN are looked at on hardware too.
    assert found.killed_by("structure")
    assert not found.killed_by("stop")
    assert found.on_hardware


_WRONG_SHAPE = Patch(FILE, "out_sb = nl.ndarray((tokens, columns), dtype=", "out_sb = nl.ndarray((tokens, 1), dtype=")


def test_what_stops_without_rules_too_is_no_kill_of_hardware() -> None:
    found = stand(_mutant("stops", _WRONG_SHAPE), explain=False)
    assert found.killed_by("stop")
    assert found.by_stop
    assert not found.on_hardware
    assert not found.by_tolerance
    assert found.complaints == ("no gate of hardware shows it, and no reason is listed",)


def test_a_stop_counts_where_a_device_is_documented_to_refuse_the_same() -> None:
    found = stand(_mutant("refused", _WRONG_SHAPE, refused="a page that says so"), explain=False)
    assert found.by_stop
    assert found.on_hardware
    assert found.by_tolerance_on_normal
    assert not found.by_outputs
    assert found.by.startswith("lane normal: stop: ")
    assert found.complaints == ()


def test_what_is_said_to_be_refused_has_to_stop() -> None:
    said = dataclasses.replace(_known("outproj-bias-twice"), refused="a page that says so")
    found = stand(said, explain=False)
    assert found.by_outputs
    assert found.complaints == ("said to be refused by a device, and stops nowhere",)


def test_a_patch_that_makes_no_kernel_is_no_kill() -> None:
    found = stand(_mutant("crash", Patch(FILE, "    return psums\n", "    return undefined_name\n")))
    assert not found.killed
    assert found.broken.startswith("crashes on plain: NameError")
    assert found.complaints == (found.broken,)


def test_a_patch_that_no_longer_applies_is_no_kill() -> None:
    found = stand(_mutant("gone", Patch(FILE, "this text is not in the kernel", "")))
    assert "stands 0 times" in found.broken


def test_where_the_right_kernel_fails_no_trial_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(*given: Any, **named: Any) -> Arrays:
        return {name: array * array.dtype.type(2) for name, array in SUBJECT.model(*given, **named).items()}

    twice = dataclasses.replace(SUBJECT, model=doubled)
    monkeypatch.setattr(kill_table, "kernel", lambda name: twice)
    kill_table._reference.cache_clear()
    try:
        found = stand(_known("outproj-core-halves-swapped"))
    finally:
        kill_table._reference.cache_clear()
    assert found.broken.startswith("the right kernel fails on plain")
    assert not found.killed


def test_a_listed_fault_that_hardware_sees_is_a_complaint() -> None:
    listed = dataclasses.replace(_known("outproj-bias-twice"), unseen="said to be unseen")
    assert stand(listed, explain=False).complaints == ("listed as unseen by hardware, and seen",)


def test_another_point_than_the_recorded_one_is_a_complaint() -> None:
    moved = dataclasses.replace(_known("outproj-bias-twice"), point="out_psum")
    assert stand(moved).complaints == ("parts from the model at out, its record says 'out_psum'",)


def test_a_further_case_shows_what_the_first_hides() -> None:
    # Without a bias nothing is added twice.
    hidden = dataclasses.replace(_known("outproj-bias-twice"), case="plain", also=("plain-bias",))
    found = stand(hidden, explain=False)
    assert not found.killed
    assert found.on_hardware
    assert [sight.case for sight in found.sights[:2]] == ["plain", "plain-bias"]


def test_cases_are_the_revealing_one_and_every_lane_that_fits() -> None:
    found = cases(_known("outproj-clamp-448"), SUBJECT)
    assert found[0].id == "static-edge"
    assert {case.lane for case in found} == set(SUBJECT.lanes)
    assert len(found) == len(SUBJECT.lanes)
    assert len({case.config for case in found}) == 1
    assert with_lane(found[0], "exact").id.startswith("cfg:lane=exact,seed=0,")


def test_the_margin_is_the_least_load_of_what_the_bound_kills() -> None:
    mutant = _known("outproj-bias-twice")
    by_bound = Standing(mutant, (_sight(faults={"C": "far"}, load=3.0), _sight("exact", faults={"C": "far"}, load=8.0)))
    nearer = Standing(mutant, (_sight(faults={"C": "near"}, load=1.5),))
    by_bits = Standing(mutant, (_sight(faults={"bits": "one"}, load=0.2),))
    assert margin([by_bound, nearer, by_bits]) == 1.5
    assert margin([by_bits]) is None


def test_a_standing_is_told_in_json() -> None:
    plain = stand(_known("outproj-bias-twice")).to_dict()
    assert (plain["class"], plain["case"], plain["lane"]) == ("term", "plain-bias", "normal")
    assert plain["killed"] is True
    assert plain["gates"]["C"] is True
    assert plain["gates"]["structure"] is False
    assert plain["sights"][0]["faults"]["bits"].startswith("out: ")


def test_every_mutant_is_of_a_class_and_every_class_has_one() -> None:
    assert {mutant.kind for mutant in mutants()} == set(KINDS)


def test_reasons_are_listed_for_few_enough() -> None:
    unseen = [mutant for mutant in mutants() if mutant.unseen]
    assert len(unseen) <= (1 - kill_table.LEAST_ON_HARDWARE) * len(mutants())
    assert all(len(mutant.unseen) > 20 for mutant in unseen)


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(ValueError, match="kind 'colour' is none of"):
        _mutant("colour", kind="colour")
