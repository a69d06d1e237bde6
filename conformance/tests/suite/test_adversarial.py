"""Adversarial cases are kept where they are worse, replayed like any other case, and noticed when touched."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance import adversarial, registry
from conformance.adversarial import AdversarialError, entries, keep, share_now, with_cases
from conformance.bounds import Bound
from conformance.fuzz import fuzz
from conformance.fuzz_result import SMALL, Worst
from conformance.subject import Subject, case_id
from conformance.tests.suite import scaled_add
from conformance.tests.suite.scaled_add import SUMMIT, Hill, HostBackend

HILL = scaled_add.hill(0.9)


def _worst(share: float, output: str = "y", family: str = "none", size: int = 16, config: Hill = SUMMIT) -> Worst:
    case = adversarial_text(config)
    return Worst(output, family, share, case, f"nki-oracle check scaled_add --case {case}", size)


def adversarial_text(config: Hill) -> str:
    return case_id(config, "normal", 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "adversarial.json"


def test_what_fuzzing_finds_is_kept_and_runs_again_from_the_catalog(file: Path) -> None:
    found = fuzz(HILL, 60, 1, backend=HostBackend(), illegal=0)
    assert keep(HILL, found.worst, file) == [f"worst-none: y at {found.worst[0].share:.4g}"]
    (entry,) = entries(file)
    (case,) = with_cases(HILL, file).catalog
    assert (case.id, case.tags) == ("worst-none", adversarial.TAGS)
    assert case.config == with_cases(HILL, file).case(found.worst[0].case).config
    assert share_now(HILL, entry) == pytest.approx(entry.share, rel=1e-3)


def test_only_a_worse_case_takes_the_place(file: Path) -> None:
    keep(HILL, [_worst(0.5, config=Hill(100, 295, 543))], file)
    # Taken anew, the kept case is worth what it measures, not what was said of it.
    measured = 0.9 * scaled_add.height(Hill(100, 295, 543))
    assert keep(HILL, [_worst(measured, config=Hill(1, 2, 3))], file) == [
        f"worst-none: y at {measured:.4g}, before 0.5"
    ]
    assert entries(file)[0].case == adversarial_text(Hill(100, 295, 543))
    assert keep(HILL, [_worst(0.9)], file) == [f"worst-none: y at 0.9, before {measured:.4g}"]
    assert entries(file)[0].case == adversarial_text(SUMMIT)
    assert keep(HILL, [_worst(0.8)], file) == []


@pytest.mark.parametrize("worst", [_worst(0.9, size=SMALL + 1), _worst(1.5), _worst(0.0), _worst(float("inf"))])
def test_large_cases_and_such_as_are_not_inside_are_not_kept(file: Path, worst: Worst) -> None:
    assert keep(HILL, [worst], file) == []
    assert entries(file) == ()
    assert keep(HILL, [dataclasses.replace(worst, size=SMALL, share=0.9)], file) != []


def test_the_first_output_has_a_case_per_family_and_others_one_each() -> None:
    subject = dataclasses.replace(HILL, outputs=(*HILL.outputs, *scaled_add.SUBJECT.outputs[1:]))
    slots = [
        adversarial.slot(subject, _worst(0.5, output, family))
        for output in ("y", "total")
        for family in ("none", "cte-static+fp8-cache")
    ]
    assert slots == ["worst-none", "worst-cte-static-fp8-cache", "worst-total", "worst-total"]


def test_a_tighter_bound_changes_the_share_of_what_is_kept(file: Path) -> None:
    keep(HILL, [_worst(0.9)], file)
    tighter = dataclasses.replace(HILL, bounds=lambda config, inputs: {"y": Bound(np.full(4, 0.95))})
    assert keep(tighter, [], file) == ["worst-none: y at 0.9474, before 0.9"]
    broken = dataclasses.replace(HILL, bounds=lambda config, inputs: {"y": Bound(np.full(4, 0.5))})
    assert keep(broken, [], file) == ["worst-none: dropped, it cannot be run any more"]


@dataclasses.dataclass(frozen=True)
class OtherHill:
    x: int = 0
    y: int = 0
    z: int = 0
    w: int = 0


@pytest.mark.parametrize(
    "change",
    [{"config_type": OtherHill}, {"lane_fits": lambda config, lane: False}, {"legal": lambda config: "refused"}],
)
def test_a_case_that_can_no_longer_be_run_leaves_the_catalog_and_is_dropped(file: Path, change: dict[str, Any]) -> None:
    keep(HILL, [_worst(0.9)], file)
    changed: Subject = dataclasses.replace(HILL, **change)
    assert with_cases(changed, file) is changed
    assert keep(changed, [], file) == ["worst-none: dropped, it cannot be run any more"]
    assert entries(file) == ()


def test_cases_of_other_kernels_stay(file: Path) -> None:
    keep(HILL, [_worst(0.9)], file)
    other = dataclasses.replace(HILL, name="other")
    assert with_cases(other, file) is other
    keep(other, [_worst(0.9)], file)
    keep(other, [], file)
    assert [one.kernel for one in entries(file)] == ["other", "scaled_add"]


def test_a_touched_file_is_noticed(file: Path) -> None:
    keep(HILL, [_worst(0.9)], file)
    text = file.read_text()
    file.write_text(text.replace("0.9", "0.8"))
    with pytest.raises(AdversarialError, match=r"adversarial\.json: its content does not match"):
        entries(file)
    file.write_text(text)
    assert len(entries(file)) == 1


def test_a_touched_file_is_told_by_the_registry(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("{}")
    monkeypatch.setattr(adversarial, "FILE", file)
    registry.kernel.cache_clear()
    try:
        with pytest.raises(registry.CaseModuleError, match=r"adversarial\.json: not a sealed document"):
            registry.kernel("qkv")
    finally:
        registry.kernel.cache_clear()


@pytest.mark.parametrize("name", registry.kernel_names())
def test_every_kept_case_has_the_share_that_is_said_of_it(name: str) -> None:
    """Where a bound or a model has changed since: `nki-oracle fuzz --keep-worst --examples 1` takes the shares anew."""
    subject = registry.kernel(name)
    kept = [one for one in entries() if one.kernel == name]
    assert kept
    for entry in kept:
        assert entry.id in {case.id for case in subject.catalog}
        assert share_now(subject, entry) == pytest.approx(entry.share, rel=0.01)


@pytest.mark.parametrize("name", registry.kernel_names())
def test_every_kept_case_is_among_what_goldens_and_devices_replay(name: str) -> None:
    tags = [case.tags for case in registry.kernel(name).catalog if "adversarial" in case.tags]
    assert tags
    assert all({"golden", "ci", "check"} <= one for one in tags)
