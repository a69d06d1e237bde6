"""Each gate by itself: it rejects the subject that is broken in its way, accepts the right one, and is not asked where
it rejects the model's own output.

The subjects are those of scaled_add, which run on the host.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from conformance.bounds import Bound
from conformance.gates import DEVICE, GATES, Sight, look, merged, reference_of, stopped
from conformance.grades import Grade
from conformance.required import requirement
from conformance.subject import Arrays, Case, Subject
from conformance.tests.suite.scaled_add import BROKEN, SUBJECT, Config, HostBackend, broken
from conformance.tolerances import Tolerance

NORMAL, EXACT = SUBJECT.catalog


def _unbounded(subject: Subject) -> Subject:
    return dataclasses.replace(subject, bounds=lambda config, inputs: {})


def _loose(subject: Subject) -> Subject:
    """With a bound of two roundings to bfloat16."""

    def bounds(config: Config, inputs: Arrays) -> dict[str, Bound]:
        return {"y": Bound(np.abs(subject.truth(config, inputs)["y"]) * 2.0**-7 + 2.0**-4)}

    return dataclasses.replace(subject, bounds=bounds)


def _sight(subject: Subject, case: Case = NORMAL) -> Sight:
    reference = reference_of(subject, case)
    return look(subject, case, subject.kernel(case.config, reference.inputs, HostBackend()), reference)


def test_the_right_kernel_is_rejected_by_no_gate() -> None:
    for case in (NORMAL, EXACT):
        sight = _sight(SUBJECT, case)
        assert not sight.faults
        assert not sight.hardware
        assert not sight.differs


#: What each broken kernel must fail on normal data, with a bound; 'exact' does not apply there.
REJECTING = {
    "rounds_the_product": {"bits", "B", "C"},
    "swaps_two_rows": {"bits", "B", "C", "D"},
    "is_dead": {"structure", "bits", "C", "D"},
    "leaves_total": {"structure", "bits", "C", "D"},
    "returns_float32": {"structure", "bits", "B", "C", "D"},
    "drops_a_column": {"structure", "bits", "B", "C", "D"},
    "makes_a_nan": {"structure", "bits", "C", "D"},
}


def test_every_broken_kernel_that_ends_is_held_to_every_gate() -> None:
    assert set(REJECTING) == {name for name, output in BROKEN.items() if output}


@pytest.mark.parametrize("name", sorted(REJECTING))
def test_a_broken_kernel_fails_the_gates_of_its_fault(name: str) -> None:
    sight = _sight(broken(name))
    assert REJECTING[name] - {"D"} <= set(sight.faults)
    assert set(sight.faults) <= REJECTING[name]
    assert set(sight.faults) <= set(GATES)
    assert sight.hardware


def test_an_extra_rounding_is_inside_a_bound_of_two_and_its_load_is_told() -> None:
    sight = _sight(_loose(broken("rounds_the_product")))
    assert set(sight.faults) == {"bits"}
    assert not sight.hardware
    assert sight.share is not None
    assert sight.load is not None
    assert 0 < sight.share <= sight.load <= 1


def test_bits_decide_in_an_exact_lane() -> None:
    exact = _sight(broken("swaps_two_rows"), EXACT)
    assert {"bits", "exact"} <= set(exact.faults)
    assert exact.hardware.startswith("y: not A")


def test_without_a_bound_hardware_cannot_tell() -> None:
    sight = _sight(_unbounded(broken("swaps_two_rows")))
    assert "C" not in sight.asked
    assert "D" in sight.faults
    assert not sight.hardware


def test_a_gate_that_rejects_the_model_is_not_asked() -> None:
    impossible = Tolerance("scaled_add", "*", "*", 0.0, 0.0, "nothing is that near")
    subject = dataclasses.replace(broken("swaps_two_rows"), tolerances=(impossible,))
    assert "D" not in _sight(subject).asked
    narrow = dataclasses.replace(subject, bounds=lambda config, inputs: {"y": Bound(np.full((4, 8), 1e-12))})
    sight = _sight(narrow)
    assert "C" not in sight.asked
    assert not sight.hardware


def test_the_envelope_is_played_only_where_the_answer_hangs_on_it() -> None:
    runs: list[Any] = []

    def model(config: Config, inputs: Arrays, **keywords: Any) -> Arrays:
        runs.append(keywords.get("profile"))
        return SUBJECT.model(config, inputs, **keywords)

    counted = dataclasses.replace(broken("swaps_two_rows"), model=model)
    assert {"B", "C"} <= set(_sight(counted).faults)
    # Rows that changed places are further off than any legal variant: one run made the reference.
    assert len(runs) == 1
    runs.clear()
    # One ULP off is beyond a bound of half of one, and within the envelope, which has to say so.
    reference = reference_of(counted, NORMAL)
    assert reference.model is not None
    got = {name: array.copy() for name, array in reference.model.items()}
    got["y"].view(np.uint16)[...] += 1
    runs.clear()
    sight = look(counted, NORMAL, got, reference)
    assert "C" in sight.faults
    assert "B" in sight.asked
    assert "B" not in sight.faults
    assert not sight.hardware
    assert len(runs) > 1


@pytest.mark.parametrize("lane", ["normal", "exact", "exact_rounding", "fp8_edge"])
def test_what_hardware_must_reach_is_read_from_the_table_of_required_grades(lane: str) -> None:
    needed = requirement("scaled_add", "y", "bfloat16", "none", lane, DEVICE).grade
    assert needed is (Grade.A if lane.startswith("exact") else Grade.C)


def test_a_stop_differs_and_says_nothing_of_outputs() -> None:
    sight = stopped(NORMAL, "it hangs")
    assert sight.differs
    assert set(sight.faults) == sight.asked == {"machine", "stop"}
    assert not sight.hardware


def test_sights_of_several_outputs_keep_the_first_reason_and_the_largest_share() -> None:
    one = Sight("small", "normal", {"bits": "y"}, frozenset({"bits"}), "", 0.5, 0.6)
    other = Sight("small", "normal", {"bits": "total", "D": "total"}, frozenset({"bits", "D"}), "total: C", 0.7, 0.2)
    both = merged(NORMAL, [one, other])
    assert both.faults == {"bits": "y", "D": "total"}
    assert both.asked == {"bits", "D"}
    assert both.hardware == "total: C"
    assert (both.share, both.load) == (0.7, 0.6)
