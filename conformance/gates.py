"""The gates of the suite, each by itself: which of them rejects an output that is not the model's.

`judge` stops at the best grade that holds. Whoever asks what a gate is worth needs every gate's own answer, and
which of them a device could ask. Gates that reject the model's own output (an 8-bit edge that truth does not know)
are no evidence against a kernel and are not asked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.bounds import Bound
from conformance.envelope import envelopes, values64
from conformance.grades import Grade
from conformance.grading import (
    Evidence,
    golden_of,
    grade_faults,
    liveness_faults,
    load_of_bound,
    sentinel_faults,
    share_of_bound,
    structure_faults,
)
from conformance.judging import Reference, evidence_of
from conformance.required import requirement
from conformance.subject import Arrays, Case, Subject
from reference.numerics.formats import format_of
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.ulp import same_bits, ulp_size

Array = NDArray[Any]

#: What each gate looks at. 'machine' and 'bits' need the embedded machine; the others a device has as well.
GATES: Mapping[str, str] = MappingProxyType(
    {
        "machine": "the embedded machine stops it: a broken rule, a race, a deadlock, memory never written",
        "stop": "the machine's model of the instructions ends it without those rules too, so that there are no outputs",
        "structure": "shape, dtype, places of NaN and Inf, outputs that are dead, sentinels",
        "bits": "grade A: the model's bits",
        "exact": "grade A in a lane where every legal order gives the same bits",
        "B": "inside the envelope of the open questions",
        "C": "inside the derived bound, its spread and its bias",
        "D": "within the published tolerance",
    }
)
#: Whose required grades stand for hardware.
DEVICE = "trn2"

#: Grades from the cheapest to ask to the dearest: the envelope costs many model runs.
_BY_COST = (Grade.A, Grade.C, Grade.D, Grade.B)
_GATE_OF = {Grade.A: "bits", Grade.B: "B", Grade.C: "C", Grade.D: "D"}

#: What a gate finds wrong, [] for nothing, None where it cannot tell.
Answers = Callable[[Grade], "list[str] | None"]


@dataclass(frozen=True)
class Sight:
    """What the gates say of all outputs of one case.

    faults    gate -> why it rejects an output, of the gates that reject one
    asked     the gates that could tell; the envelope is asked only where the answer of hardware hangs on it
    hardware  why outputs miss the grade required of a device, '' where they meet it or where there are none
    share     largest |error| / bound of an output that differs from the model's, None where there is no bound
    load      how much of the nearest limit of grade C such an output uses up, above 1 where it is missed; else None
    """

    case: str
    lane: str
    faults: Mapping[str, str] = field(default_factory=dict)
    asked: frozenset[str] = frozenset()
    hardware: str = ""
    share: float | None = None
    load: float | None = None

    @property
    def differs(self) -> bool:
        """Whether anything at all is not as the model has it."""
        return bool({"machine", "stop", "structure", "bits"} & set(self.faults))


def reference_of(subject: Subject, case: Case, profile: NumericsProfile = DEFAULT) -> Reference:
    """All that outputs of a case are judged by; bounds and envelopes are computed when first asked.

    LaneError where the config has no room for the lane.
    """
    config = case.config
    inputs = subject.build(config, case.lane, case.seed)
    return Reference(
        inputs=inputs,
        truth=subject.truth(config, inputs),
        model=subject.model(config, inputs, profile=profile),
        spans=functools.cache(lambda: envelopes(subject, config, inputs, profile)),
        bounds=functools.cache(lambda: subject.bounds(config, inputs)),
        undefined=subject.undefined(config, inputs),
    )


def stopped(case: Case, why: str) -> Sight:
    """Of a launch that gave no outputs.

    A device that computes on where the embedded machine ends is not played: nothing is said of what it would return.
    """
    faults = dict.fromkeys(("machine", "stop"), why)
    return Sight(case.id, case.lane, faults, frozenset(faults))


def look(subject: Subject, case: Case, got: Arrays, reference: Reference) -> Sight:
    """Every gate on every output of one launch. Bounds are not computed where nothing differs."""
    if _all_equal(got, reference):
        return Sight(case.id, case.lane, asked=frozenset({"structure", "bits"}))
    bounds = reference.bounds() if reference.bounds is not None else {}
    return merged(case, [_output(subject, case, name, got, reference, bounds) for name in sorted(reference.expected)])


def _all_equal(got: Arrays, reference: Reference) -> bool:
    model = reference.model or {}
    alike = {name for name in got if name in model and got[name].shape == model[name].shape}
    same = (got[name].dtype == model[name].dtype and bool(np.all(same_bits(got[name], model[name]))) for name in alike)
    return alike == reference.expected and all(same)


def merged(case: Case, sights: Iterable[Sight]) -> Sight:
    """One sight of several: a gate rejects where it rejects any of them."""
    seen = list(sights)
    faults: dict[str, str] = {}
    for sight in seen:
        faults = dict(sight.faults) | faults
    return Sight(
        case.id,
        case.lane,
        faults,
        frozenset().union(*(sight.asked for sight in seen)),
        next((sight.hardware for sight in seen if sight.hardware), ""),
        _largest(sight.share for sight in seen),
        _largest(sight.load for sight in seen),
    )


def _output(
    subject: Subject, case: Case, name: str, got: Arrays, reference: Reference, bounds: Mapping[str, Bound]
) -> Sight:
    evidence = evidence_of(subject, case, name, reference, bounds)
    if name not in got:
        return _unfit(case, f"{name} is missing", evidence)
    out, golden = got[name], golden_of(got[name], evidence)
    structure = structure_faults(out, golden)
    if out.shape != golden.shape or out.dtype != golden.dtype:
        return _unfit(case, f"{name}: {structure[0]}", evidence)
    structure = structure or liveness_faults(out, golden, evidence) + sentinel_faults(out, golden, evidence)
    row = requirement(
        subject.name, name, str(out.dtype), subject.quantization(case.config), case.lane, DEVICE
    )
    return _seen(case, name, out, evidence, structure, row.grade)


def _seen(case: Case, name: str, out: Array, evidence: Evidence, structure: list[str], needed: Grade) -> Sight:
    known: dict[Grade, list[str] | None] = {}

    def answers(grade: Grade) -> list[str] | None:
        if grade not in known:
            known[grade] = _answer(grade, out, evidence)
        return known[grade]

    missed = f"structure: {structure[0]}" if structure else _missed(needed, answers)
    if answers(Grade.A):
        answers(Grade.C), answers(Grade.D)
    found = {_GATE_OF[grade]: faults for grade, faults in known.items() if faults is not None}
    found["structure"] = structure
    if evidence.exact:
        found["exact"] = found["bits"]
    return Sight(
        case.id,
        case.lane,
        {gate: f"{name}: {faults[0]}" for gate, faults in found.items() if faults},
        frozenset(found),
        f"{name}: {missed}" if missed else "",
        share_of_bound(out, evidence) if "C" in found else None,
        load_of_bound(out, evidence) if "C" in found else None,
    )


def _missed(needed: Grade, answers: Answers) -> str:
    """Why not even the least of the grades that suffice is reached, '' where one is or a gate cannot tell."""
    why = ""
    for grade in _BY_COST:
        if grade.meets(needed):
            faults = answers(grade)
            if not faults:
                return ""
            why = why or f"not {needed.name}: {faults[0]}" if grade is needed else why
    return why


def _answer(grade: Grade, out: Array, evidence: Evidence) -> list[str] | None:
    """The gate's faults; nothing said of the kernel where the model's own output is rejected."""
    if grade is Grade.B and (beyond := _beyond_every_variant(out, evidence)):
        return [f"{beyond} elements further from truth than any legal variant"]
    faults = grade_faults(grade, out, evidence)
    if not faults or grade in (Grade.A, Grade.B):
        return faults
    assert evidence.model is not None
    return None if grade_faults(grade, evidence.model, evidence) else faults


def _beyond_every_variant(out: Array, evidence: Evidence) -> int:
    """Elements that no envelope can hold: it spans legal variants, whom the bound holds, and one ULP beside them.

    Spares the many model runs of an envelope where the answer is known.
    """
    if evidence.truth is None or evidence.bound is None:
        return 0
    truth, got = np.asarray(evidence.truth, np.float64), values64(out)
    with np.errstate(invalid="ignore"):
        reach = np.where(np.isfinite(truth), evidence.bound.limit, np.inf)
        edge = np.abs(truth) + reach
        room = reach + 2 * np.nan_to_num(ulp_size(edge, format_of(out.dtype)), nan=np.inf)
        return int(np.count_nonzero(np.abs(got - truth) > room))


def _unfit(case: Case, why: str, evidence: Evidence) -> Sight:
    """What is missing, or is of another shape or dtype, is rejected by everyone."""
    gates = ("structure", "bits", "B", "C", "D", *(["exact"] if evidence.exact else []))
    return Sight(case.id, case.lane, dict.fromkeys(gates, why), frozenset(gates), f"structure: {why}")


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
