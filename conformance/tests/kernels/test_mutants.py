"""Every mutant dies on the case that reveals it, and its trace parts from the model's where its record says.

Reproduce one: `nki-oracle mutants --id ID`.
"""

from __future__ import annotations

import pytest

from conformance.grades import Grade
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


@pytest.mark.sim
@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.id)
def test_the_suite_kills_every_mutant_at_the_point_its_record_names(mutant: Mutant) -> None:
    verdict = trial(mutant)
    assert verdict.killed, f"{mutant.id} ({mutant.fault}) survives {mutant.case}"
    assert verdict.by in ("failed", "violation"), f"{mutant.id} ends as {verdict.by}: {verdict.result.error}"
    assert verdict.point == mutant.point


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
