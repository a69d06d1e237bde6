"""Claim: an outcome that no candidate has is told with its values and decides nothing; what fails, differs between
launches or gives evidence alone spoils no other question."""

from __future__ import annotations

import numpy as np
import pytest

from conformance.probes import record, session
from conformance.probes.knowledge import Knowledge
from conformance.probes.probe import Band, Setting, fits
from conformance.probes.session import Report
from conformance.tests.probes.odd_machines import (
    Odd,
    chained_where,
    drawn,
    drifting,
    kept_wide,
    refuses,
    segments_of_16,
    sloppy,
)
from reference.numerics.profile import DEFAULT, PARTS

GEN3 = Setting("gen3")


def asked(machine: Odd, *questions: str, repeat: int = 1) -> Report:
    return session.run(machine, GEN3, questions, repeat)


def statuses(report: Report) -> dict[str, str]:
    return {one.field: one.status for finding in report.findings for one in finding.fields}


@pytest.mark.sim
class TestOddMachines:
    def test_an_order_that_no_candidate_has_is_printed_and_not_guessed(self) -> None:
        report = asked(Odd("matmul", segments_of_16), "U1")
        assert statuses(report) == {"matmul_order": "none", "acc_round": "decided", "product_round": "decided"}
        found = report.finding("U1").fields[0]
        assert found.left == ()
        assert not record.passed(report)
        (probe,) = report.finding("U1").probes
        groups = ", ".join(f"chain({i}, {i + 1} .. {i + 15})" for i in range(0, 128, 16))
        assert probe.notes == (f"rows of one matmul: chain({groups})",)
        masked = next(one for one in probe.readings if one.name == "masked sums")
        assert "cell" in masked.against
        assert "expected" in masked.against
        assert record.profile_of(report, hardware=True).matmul_order == DEFAULT.matmul_order
        assert dict(record.profile_of(report, hardware=True).evidence).keys() == {"U2", "U12"}

    @pytest.mark.parametrize("length", [8, 512, 2048])
    def test_rows_of_one_length_that_are_added_in_another_way_are_seen(self, length: int) -> None:
        report = asked(Odd("row_sums", chained_where(length)), "V2")
        assert statuses(report) == {"reduce_order": "none"}
        (probe,) = report.finding("V2").probes
        fits = {one.name: one.fits["reduce_order"] for one in probe.readings}
        for name, orders in fits.items():
            assert ("exact" in orders) == (not name.startswith(f"{length} long"))
            assert ("chain" in orders) == name.startswith(f"{length} long")

    def test_questions_behind_an_unknown_order_go_on_with_all_orders(self) -> None:
        report = asked(Odd("matmul", segments_of_16), "U5")
        assert statuses(report)["matmul_order"] == "none"
        assert statuses(report)["tf32_operand"] == "decided"

    def test_random_sums_are_not_asked_where_no_order_is_known(self) -> None:
        report = asked(Odd("matmul", segments_of_16), "U7", "U3")
        assert statuses(report)["double_row_pair"] == "skipped"
        # The designed cells of U3 decide without the random ones.
        assert "after_array" in report.finding("U3").fields[0].left
        (probe,) = report.finding("U7").probes
        assert probe.error == "its table needs matmul_order, which fits nothing known"

    def test_a_table_of_its_own_is_measured_in_ulp(self) -> None:
        report = asked(Odd("reciprocal", sloppy), "V6")
        assert statuses(report) == {"reciprocal_accuracy": "none"}
        (probe,) = report.finding("V6").probes
        assert probe.notes[0].startswith("reciprocal: ")
        assert "ulp off (at " in probe.notes[0]
        fitting = {one.name: one.fits["reciprocal_accuracy"] for one in probe.readings}
        assert fitting == {"reciprocal": (), "rsqrt": ("correct",), "power": ("correct",)}

    def test_launches_that_differ_decide_nothing(self) -> None:
        machine = Odd("scan_into_bf16", drifting())
        report = asked(machine, "V8", repeat=3)
        assert machine.launches == 3
        assert statuses(report) == {"scan_state": "unstable"}
        assert report.finding("V8").fields[0].left == tuple(PARTS["scan_state"].candidates)
        assert not record.passed(report)

    def test_equal_launches_are_no_matter(self) -> None:
        assert statuses(asked(Odd("scan_into_bf16", lambda call, outputs: outputs), "V8", repeat=3)) == {
            "scan_state": "decided"
        }

    def test_a_failing_launch_is_one_line_and_the_session_goes_on(self) -> None:
        report = asked(refuses("row_sums"), "V2", "V8")
        assert statuses(report) == {"reduce_order": "failed", "scan_state": "decided"}
        (probe,) = report.finding("V2").probes
        assert probe.error == "RuntimeError: no row_sums today, nor tomorrow"
        assert not record.passed(report)

    def test_outputs_that_cannot_be_read_fail_the_probe(self) -> None:
        report = asked(Odd("scan_into_bf16", lambda call, outputs: {}), "V8")
        assert statuses(report) == {"scan_state": "failed"}

    def test_evidence_that_cannot_be_had_spoils_nothing(self) -> None:
        report = asked(refuses("partition_average"), "G1")
        assert set(statuses(report).values()) == {"decided"}
        notes = [note for probe in report.finding("G1").probes for note in probe.notes]
        assert "'average', which gives evidence alone, could not run" in notes
        assert record.passed(report)

    def test_a_known_answer_that_the_profile_cannot_play_is_found_and_not_written(self) -> None:
        report = session.run(Odd("accumulate_bf16", kept_wide), Setting("gen4"), ("U9",), 1)
        (found,) = report.finding("U9").fields
        assert (found.status, found.left, found.modelled) == ("decided", ("kept_wide",), False)
        assert record.profile_of(report, hardware=True).bf16_psum == "rounded_each"
        assert record.profile_of(report, hardware=True).evidence == ()

    def test_stochastic_rounding_is_recognised(self) -> None:
        machine = Odd("casts", drawn())
        report = session.run(machine, GEN3, ("V9",), 1)
        assert report.finding("V9").fields[0].left == ("drawn",)


def test_a_session_without_such_a_question_is_refused() -> None:
    with pytest.raises(ValueError, match="no question 'U77'"):
        session.run(Odd("", lambda call, outputs: outputs), GEN3, ("U77",))


# --- what is known ------------------------------------------------------------------------------------------


def test_combinations_are_kept_where_no_field_alone_is_settled() -> None:
    known = Knowledge({"a": (1, 2), "b": (True, False), "c": ("x", "y")})
    known.keep(("a", "b"), [{"a": 1, "b": True}, {"a": 2, "b": False}])
    assert known.left == {"a": (1, 2), "b": (True, False), "c": ("x", "y")}
    assert list(known.assignments(("a", "b"))) == [{"a": 1, "b": True}, {"a": 2, "b": False}]
    (relation,) = known.combinations()
    assert relation.rows == ((1, True), (2, False))
    known.keep(("b", "c"), [{"b": False, "c": "y"}])
    assert known.left == {"a": (2,), "b": (False,), "c": ("y",)}
    assert known.combinations() == ()


def test_flags_and_numbers_do_not_meet() -> None:
    known = Knowledge({"a": (True, 1)})
    known.keep(("a",), [{"a": 1}])
    assert known.left == {"a": (1,)}
    assert known.left["a"][0] is not True


def test_one_possible_assignment_keeps_to_the_combinations() -> None:
    known = Knowledge({"a": (1, 2), "b": ("x", "y")})
    known.keep(("a", "b"), [{"a": 1, "b": "y"}, {"a": 2, "b": "x"}])
    assert known.one({"a": 1, "b": "x"}) == {"a": 1, "b": "y"}
    assert known.one({"a": 2}) == {"a": 2, "b": "x"}


def test_nothing_left_is_refused() -> None:
    with pytest.raises(ValueError, match="no combination left of a"):
        Knowledge({"a": (1,)}).keep(("a",), [])


def test_cells_fit_by_bits_or_inside_a_band() -> None:
    cells = np.array([0.0, np.nan, 1.0])
    assert fits(cells, np.array([0.0, np.nan, 1.0]))
    assert not fits(cells, np.array([-0.0, np.nan, 1.0]))
    assert not fits(cells, np.array([0.0, 1.0, 1.0]))
    assert not fits(cells, np.array([0.0, np.nan]))
    assert fits(np.array([1.5, np.inf]), Band(np.array([1.0, np.inf]), np.array([2.0, np.inf])))
    assert not fits(np.array([2.5]), Band(np.array([1.0]), np.array([2.0])))
    assert not fits(np.array([np.nan]), Band(np.array([-np.inf]), np.array([np.inf])))
