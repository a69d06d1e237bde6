"""Every legal variant passes: real kernels under each other answer to an open question, judged as a device is.

The judge knows the model of the default profile alone, as it does where a device answers otherwise. In the exact
lanes bits must be equal; elsewhere an output must lie inside its derived bound, whatever the envelope would allow,
since a device differs in several answers at once and the envelope in one.

Candidates outside the noise class (`Part.envelope`) are more than accumulation noise: a device that gives such an
answer is told by a probe, and gets a profile of its own. They are played too, and what they would miss is named.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from conformance.backends.sim import SimBackend
from conformance.entry import launch
from conformance.gates import DEVICE, look, reference_of
from conformance.grades import Grade
from conformance.judging import Reference, judge_rung
from conformance.results import OutputResult
from conformance.subject import Arrays, Case, Subject
from reference.neuroncore.errors import MachineWarning
from reference.neuroncore.options import Options
from reference.numerics.profile import DEFAULT, KERNELS, PARTS, NumericsProfile, question_of

#: Lanes of values, on which candidates beyond noise are played as well: others are about places and order.
_BEYOND_NOISE = ("normal", "exact", "heavy_tailed", "fp8_edge", "mx_edge", "subnormal")


@dataclass(frozen=True)
class Variant:
    """One other answer to one open question."""

    name: str
    profile: NumericsProfile
    #: Whether it differs from the default by accumulation noise only, so that it has to pass.
    noise: bool


@dataclass(frozen=True)
class VariantResult:
    """One variant of one kernel on one case.

    noticed    whether an output has other bits than the model of the default profile
    grade      worst grade of its outputs
    share      largest |error| / bound of an output that differs and has one
    load       how much of the nearest limit of grade C such an output uses up
    missed     why a required grade was missed, '' where all were reached
    """

    kernel: str
    case: str
    lane: str
    profile: str
    noise: bool
    noticed: bool
    grade: Grade
    share: float | None
    load: float | None
    missed: str

    @property
    def passed(self) -> bool:
        """Whether every output reached what a device has to reach."""
        return not self.missed

    @property
    def wrong(self) -> bool:
        """Whether the suite is: it rejects a legal kernel."""
        return self.noise and not self.passed

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "kernel": self.kernel,
            "case": self.case,
            "lane": self.lane,
            "profile": self.profile,
            "noise": self.noise,
            "noticed": self.noticed,
            "grade": self.grade.name,
            "share_of_bound": self.share,
            "load_of_bound": self.load,
            "passed": self.passed,
            "missed": self.missed,
        }


def variants_of(subject: Subject, base: NumericsProfile = DEFAULT) -> Iterator[Variant]:
    """Every other candidate of every open question that the kernel can notice."""
    for name, part in PARTS.items():
        known = question_of(name).kernels
        if subject.name in known or subject.name not in KERNELS:
            for value in part.candidates:
                if value != getattr(base, name):
                    profile = base.replace(**{name: value})
                    yield Variant(f"{name}={value}", profile, value in part.envelope)


def cases(subject: Subject) -> list[Case]:
    """One case of every lane and every label of quantisation, the first of those that every test run has."""
    found: dict[tuple[str, str], Case] = {}
    for case in subject.catalog:
        if "ci" in case.tags:
            found.setdefault((case.lane, subject.quantization(case.config)), case)
    return list(found.values())


def play(subject: Subject, case: Case) -> list[VariantResult]:
    """The variants of a kernel on one case, those beyond noise where they may show. What a kernel raises passes
    through."""
    reference = reference_of(subject, case)
    played = (variant for variant in variants_of(subject) if variant.noise or case.lane in _BEYOND_NOISE)
    return [result(subject, case, variant, reference) for variant in played]


def result(subject: Subject, case: Case, variant: Variant, reference: Reference) -> VariantResult:
    """One variant on a case whose reference is known."""
    got = _outputs(subject, case, variant, reference)
    seen = look(subject, case, got, reference)
    if not seen.differs:
        return VariantResult(
            subject.name, case.id, case.lane, variant.name, variant.noise, False, Grade.A, None, None, ""
        )
    judged = judge_rung(subject, case, DEVICE, got, _without_envelope(reference))
    return VariantResult(
        subject.name,
        case.id,
        case.lane,
        variant.name,
        variant.noise,
        True,
        max((output.grade for output in judged), key=lambda grade: grade.name),
        seen.share,
        seen.load,
        "; ".join(_missed(output) for output in judged if not output.passed),
    )


def largest_load(results: Iterable[VariantResult]) -> float | None:
    """The most that a legal variant uses up of the nearest limit of grade C."""
    return max((one.load for one in results if one.noise and one.load is not None), default=None)


def _outputs(subject: Subject, case: Case, variant: Variant, reference: Reference) -> Arrays:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MachineWarning)
        return launch(subject, case.config, reference.inputs, SimBackend(Options(profile=variant.profile)))


def _without_envelope(reference: Reference) -> Reference:
    return dataclasses.replace(reference, spans=None)


def _missed(output: OutputResult) -> str:
    return f"{output.name}: {output.grade} for {output.required}, {output.missed}"
