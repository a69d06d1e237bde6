"""Required grades: the table's few promises, and that nothing goes without a requirement."""

from __future__ import annotations

import pytest

from conformance.backends import BACKENDS
from conformance.grades import Grade
from conformance.lanes import LANES
from conformance.registry import kernels
from conformance.required import REQUIRED, Requirement, requirement


def _asked(backend: str, lane: str = "normal") -> Grade:
    return requirement("any_kernel", "out", "bfloat16", "none", lane, backend).grade


@pytest.mark.parametrize("lane", sorted(LANES))
def test_the_machine_must_give_the_models_bits_on_every_lane(lane: str) -> None:
    assert _asked("sim", lane) is Grade.A


@pytest.mark.parametrize("backend", ["nki-sim", "trn2", "trn3"])
def test_elsewhere_exact_lanes_are_exact_and_others_in_bound(backend: str) -> None:
    assert _asked(backend, "exact") is Grade.A
    assert _asked(backend, "normal") is Grade.C


@pytest.mark.parametrize("lane", sorted(LANES))
def test_the_model_itself_must_be_within_its_bound_on_every_lane(lane: str) -> None:
    """The published tolerance would let it drop tokens, and no lane is beyond what a bound can say."""
    assert _asked("model", lane) is Grade.C


def test_every_row_says_why() -> None:
    assert all(len(row.reason.split()) >= 4 for row in REQUIRED)


@pytest.mark.parametrize("row", REQUIRED, ids=lambda row: f"{row.backend}-{row.kernel}-{row.lane}")
def test_every_row_can_decide_something(row: Requirement) -> None:
    """A row after one that covers it would never be read."""
    lanes = {lane for subject in kernels().values() for lane in subject.lanes} | set(LANES)
    # A pattern without its star is an example of it.
    example = [text.rstrip("*") or "any" for text in (row.kernel, row.output, row.dtype, row.quantization)]
    decided = {requirement(*example, lane, backend) for backend in [*BACKENDS, "model"] for lane in lanes}
    assert row in decided


def test_an_output_without_requirement_is_an_error() -> None:
    rows = (Requirement("sim", Grade.A, "only the machine has a row here"),)
    assert requirement("k", "y", "float32", "none", "normal", "sim", rows) is rows[0]
    with pytest.raises(KeyError, match=r"no required grade for k\.y \(float32, none, lane normal\) on trn9"):
        requirement("k", "y", "float32", "none", "normal", "trn9", rows)


def test_the_first_row_that_fits_decides() -> None:
    rows = (
        Requirement("trn*", Grade.B, "one kernel is special", kernel="special"),
        Requirement("*", Grade.C, "all the others"),
    )
    assert requirement("special", "y", "", "", "", "trn2", rows).grade is Grade.B
    assert requirement("special", "y", "", "", "", "sim", rows).grade is Grade.C
    assert requirement("plain", "y", "", "", "", "trn2", rows).grade is Grade.C
