"""Claim: a session recovers drawn combinations of answers, an older chip leaves open what it cannot be asked, and
what is written plays what was seen."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from conformance.probes import record
from conformance.tests.probes.blind import expected, found, probed
from reference.numerics.profile import CHAIN, DEFAULT, PARTS

pytestmark = pytest.mark.sim

CHAINED = CHAIN.replace(act_table="ulp_up", ties="highest", product_round="bf16")
#: Under a tree with PSUM seeding it, several fields stay open.
OPEN = DEFAULT.replace(matmul_order="tree", psum_entry="seeds_chain", psum_add_round="rz", double_row_pair="two_steps")


@pytest.mark.parametrize("seed", range(3))
def test_any_combination_of_answers_is_recovered(seed: int) -> None:
    source = Random(seed)
    drawn: dict[str, Any] = {name: source.choice(list(part.candidates)) for name, part in PARTS.items()}
    profile = DEFAULT.replace(**drawn)
    report = probed(profile)
    assert {field: set(left) for field, left in found(report).items()} == expected(profile)


def test_the_profile_that_is_written_plays_what_was_seen() -> None:
    """Where several candidates are left the written one may differ from the one played; the probes cannot tell."""
    seen = probed(OPEN)
    written = record.profile_of(seen, hardware=False)
    assert written.changed() != OPEN.changed()
    reports = (seen, probed(written))
    outputs = [[result.outputs for one in report.findings for result in one.probes] for report in reports]
    for first, second in zip(*outputs, strict=True):
        for launch, arrays in first.items():
            assert all(array.tobytes() == second[launch][key].tobytes() for key, array in arrays.items())


def test_an_older_chip_leaves_open_what_it_cannot_be_asked() -> None:
    report = probed(CHAINED, "gen3")
    later = {"mx_dot", "mx_scale_overflow", "mx_scale_ff", "bf16_psum", "e4m3fn_overflow", "exponential_gen4"}
    later |= {"mx_round", "mx_special"}
    statuses = {one.field: one.status for finding in report.findings for one in finding.fields}
    assert {name for name, status in statuses.items() if status == "generation"} == later
    left = found(report)
    assert all(set(PARTS[name].candidates) <= set(left[name]) for name in later)
    others = {name: set(values) for name, values in left.items() if name not in later}
    assert others == {name: values for name, values in expected(CHAINED).items() if name not in later}


def test_the_old_rule_of_block_scales_is_no_obstacle() -> None:
    profile = DEFAULT.replace(nki=(0, 4), mx_round="rz", mx_special="by_exponent")
    report = probed(profile, questions=("Q1",))
    assert found(report)["mx_round"] == ("rz",)
    assert found(report)["mx_special"] == ("by_exponent",)
