"""What a run of the fuzzer drew, met and found: records that travel between processes and add up."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from conformance.pairwise import Coverage
from conformance.results import CaseResult

#: Outputs of a case together at most, in bytes, that are fit to be kept as a golden.
SMALL = 2**16


@dataclass(frozen=True)
class Worst:
    """The case that used most of its bound in one output, of those with one kind of number formats."""

    output: str
    #: Label of the number formats, as `Subject.quantization` gives it.
    family: str
    #: Largest |error| / bound.
    share: float
    #: Text from which the case can be run again.
    case: str
    repro: str
    #: Bytes of all outputs of the case.
    size: int

    @property
    def key(self) -> tuple[str, str, bool]:
        """What one worst case is kept of; small cases apart, since they alone become goldens."""
        return self.output, self.family, self.size <= SMALL


@dataclass(frozen=True)
class Finding:
    """Something wrong: the report on the smallest case that shows it, and the line that runs it again."""

    report: str
    repro: str = ""
    #: The failing case, where a legal config failed.
    case: CaseResult | None = None


@dataclass(frozen=True)
class Remark:
    """A case whose model is inside its bound and yet misses grade C by a gate over the whole tensor.

    The gates expect rounding errors that are independent and a bound that says something; a case without either is
    no fault of a kernel, but one of the gates or of the lane may be.
    """

    output: str
    family: str
    #: The gates that were missed.
    why: str
    case: str
    repro: str

    @property
    def key(self) -> tuple[str, str]:
        """What is told once: an output and the kind of gate, whatever the numbers."""
        return self.output, re.sub(r"[0-9.e+-]+", "#", self.why)


@dataclass(frozen=True)
class FuzzResult:
    """One run, or several added up. `worst` holds the cases nearest to their bounds, the nearest first."""

    kernel: str
    #: Legal cases that were run, and illegal configs that were refused.
    examples: int
    refusals: int
    seconds: float
    seed: int
    #: Legal configs that were refused for their spoiled inputs.
    spoiled: int = 0
    findings: tuple[Finding, ...] = ()
    worst: tuple[Worst, ...] = ()
    remarks: tuple[Remark, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)
    #: Whether the run ended before its time, by the user's wish.
    interrupted: bool = False

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def failure(self) -> str:
        """The report on the first finding, '' for none."""
        return self.findings[0].report if self.findings else ""

    @property
    def case(self) -> CaseResult | None:
        """The failing case of the first finding, where it has one."""
        return self.findings[0].case if self.findings else None

    @property
    def worst_share(self) -> float | None:
        """The largest share of a bound that was seen; None where there was no bound."""
        return max((one.share for one in self.worst), default=None)

    def __add__(self, other: FuzzResult) -> FuzzResult:
        if self.kernel != other.kernel:
            raise ValueError(f"results of {self.kernel} and of {other.kernel} do not add up")
        return FuzzResult(
            self.kernel,
            self.examples + other.examples,
            self.refusals + other.refusals,
            self.seconds + other.seconds,
            min(self.seed, other.seed),
            self.spoiled + other.spoiled,
            _each_once((*self.findings, *other.findings)),
            worst_of((*self.worst, *other.worst)),
            told_once((*self.remarks, *other.remarks)),
            self.coverage + other.coverage,
            self.interrupted or other.interrupted,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "kernel": self.kernel,
            "seed": self.seed,
            "passed": self.passed,
            "interrupted": self.interrupted,
            "examples": self.examples,
            "refusals": self.refusals,
            "spoiled": self.spoiled,
            "seconds": self.seconds,
            "failure": self.failure,
            "case": None if self.case is None else self.case.to_dict(),
            "findings": [
                {"report": one.report, "repro": one.repro, "case": one.case and one.case.to_dict()}
                for one in self.findings
            ],
            "worst": [dataclasses.asdict(one) for one in self.worst],
            "remarks": [dataclasses.asdict(one) for one in self.remarks],
            "coverage": self.coverage.to_dict(),
        }


def worst_of(cases: Iterable[Worst]) -> tuple[Worst, ...]:
    """The worst case of each key, the nearest to its bound first."""
    kept: dict[tuple[str, str, bool], Worst] = {}
    for one in cases:
        if one.key not in kept or one.share > kept[one.key].share:
            kept[one.key] = one
    return tuple(sorted(kept.values(), key=lambda one: (-one.share, one.key)))


def told_once(remarks: Iterable[Remark]) -> tuple[Remark, ...]:
    """The first remark of each key."""
    kept: dict[tuple[str, str], Remark] = {}
    for one in remarks:
        kept.setdefault(one.key, one)
    return tuple(kept.values())


def worst_by_output(worst: Iterable[Worst]) -> dict[str, Worst]:
    """The worst case of each output, whatever its formats and size."""
    found: dict[str, Worst] = {}
    for one in worst:
        if one.output not in found or one.share > found[one.output].share:
            found[one.output] = one
    return found


def shares(result: CaseResult) -> Mapping[str, float]:
    """Largest share of a bound per output, over the rungs; without outputs that have no bound."""
    found: dict[str, float] = {}
    for output in result.outputs:
        if output.share_of_bound is not None:
            found[output.name] = max(found.get(output.name, 0.0), output.share_of_bound)
    return found


def is_inside(share: float) -> bool:
    """Whether an output is inside its bound; no number is not."""
    return not math.isnan(share) and share <= 1


def _each_once(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    # Parts of one run find the same fault, and shrink it to the same case.
    return tuple(functools.reduce(lambda kept, one: kept | {one.report: one}, findings, dict[str, Finding]()).values())
