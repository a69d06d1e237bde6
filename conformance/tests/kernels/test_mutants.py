"""Every mutant dies on the case that reveals it, its trace parts from the model's where its record says, and the gates
that a device has see it on a case that its record names, or nowhere there where it is listed as unseen.

Reproduce one: `nki-oracle mutants --id ID`.
"""

from __future__ import annotations

import dataclasses

import pytest

from conformance.grades import Grade
from conformance.kill_table import LEAST_ON_HARDWARE, stand
from conformance.mutants import Mutant, Patch, PatchError, mutants
from conformance.mutants.patched import patched_sources
from conformance.mutants.trial import trial

#: One of each class that a first look at a kernel should find, each reported as F at the right point.
DELIBERATE = {
    "outproj-bias-tile-order": "out",
    "outproj-dequant-unrounded": "out_dequant",
    "outproj-packing-reversed": "attention_packed",
    "outproj-core-halves-swapped": "out_psum",
    "outproj-last-pass-missing": "out_psum",
}


#: Mutants of one case after each other, as truth, model and bounds of a case are computed once.
BY_CASE = sorted(mutants(), key=lambda mutant: (mutant.kernel, mutant.case))


@pytest.mark.sim
@pytest.mark.parametrize("mutant", BY_CASE, ids=lambda mutant: mutant.id)
def test_the_suite_kills_every_mutant_where_its_record_says(mutant: Mutant) -> None:
    found = stand(mutant, everywhere=False)
    assert found.complaints == (), f"{mutant.id} ({mutant.fault})"
    assert found.killed
    assert found.explained
    assert found.point == mutant.point
    # Which is what the complaints hold; said once more, since a rate hangs on it.
    assert found.by_outputs is (not mutant.unseen and not mutant.refused)


def test_all_but_few_are_held_to_show_in_outputs() -> None:
    held = [mutant for mutant in mutants() if not mutant.unseen and not mutant.refused]
    assert len(held) >= LEAST_ON_HARDWARE * len(mutants())


@pytest.mark.sim
def test_a_record_that_names_no_case_on_which_hardware_sees_it_is_a_complaint() -> None:
    known = next(mutant for mutant in mutants() if mutant.id == "outproj-result-truncated")
    silent = dataclasses.replace(known, seen_in="")
    assert stand(known, explain=False, everywhere=False).complaints == ()
    assert stand(silent, explain=False, everywhere=False).complaints == (
        "no gate of hardware shows it, and no reason is listed",
    )
    (told,) = stand(silent, explain=False).complaints
    assert told.startswith("hardware sees it on no case that its record names, and on cfg:lane=exact")


@pytest.mark.sim
@pytest.mark.parametrize("name", sorted(DELIBERATE))
def test_a_deliberate_fault_is_graded_f_and_found_at_its_rounding_point(name: str) -> None:
    verdict = trial(next(mutant for mutant in mutants() if mutant.id == name))
    grades = [output.grade for output in verdict.result.outputs if output.rung == "sim"]
    assert Grade.F in grades
    assert verdict.point == DELIBERATE[name]


def test_the_unpatched_kernel_passes_the_same_trial() -> None:
    for mutant in mutants():
        if mutant.id in DELIBERATE:
            harmless = Mutant(f"{mutant.id}-none", mutant.kernel, "none", (), mutant.case)
            assert not trial(harmless, explain=False).killed


def test_a_patch_that_no_longer_applies_fails_loudly() -> None:
    gone = Patch("output_projection_tkg.py", "this text is not in the kernel", "")
    with pytest.raises(PatchError, match="stands 0 times, not 1"):
        patched_sources(Mutant("gone", "output_projection_tkg", "none", (gone,), "plain"))
    twice = Patch("output_projection_tkg.py", "import", "")
    with pytest.raises(PatchError, match="rewrite the patch"):
        patched_sources(Mutant("twice", "output_projection_tkg", "none", (twice,), "plain"))
