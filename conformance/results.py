"""What came of a case: records that tell it in JSON and in text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from conformance.grades import Grade

#: 'refused': the contract says no. 'unfit': this config has no room for what the lane promises, or is for another
#: chip. 'violation': the machine says that the kernel breaks one of its rules. 'compile-failed': a compiler refused
#: it, nothing ran. 'timed-out': no answer within the time limit. 'died': the process of the launch ended in the
#: middle of it, or the device did. 'not-run': nothing was launched, for a reason outside the kernel. 'crashed':
#: anything else was raised. 'failed': an output is below its required grade. 'waived': what went wrong is a known
#: failure (conformance/waivers.py).
STATUSES = (
    "passed",
    "waived",
    "failed",
    "refused",
    "unfit",
    "violation",
    "compile-failed",
    "timed-out",
    "died",
    "not-run",
    "crashed",
)

#: Figures of an output that may be infinite.
_FIGURES = ("max_abs_error", "relative_l2", "share_of_bound")
#: Of these, what says nothing of the numbers, and is tried again when a run is resumed.
UNDONE = ("timed-out", "died", "not-run")


@dataclass(frozen=True)
class OutputResult:
    """One output of one rung beside what it had to be.

    `rung` is 'model' or the backend's name. `max_ulp` and `differing` compare with the model (the model's
    own with truth rounded once into its dtype), max_ulp as of `reference.numerics.ulp`; None where names,
    shapes or dtypes forbid it. Errors are against truth, infinite where one side is not finite; None
    without truth. `share_of_bound` is the largest |error| / bound of grade C; None without a bound.
    `digest` is of dtype, shape and bits (`conformance.digests`), `ulp_histogram` that of
    `reference.numerics.metrics` against what max_ulp is against; both empty where the output is not there.
    """

    rung: str
    name: str
    dtype: str
    grade: Grade
    required: Grade
    #: Why this grade is required.
    because: str
    #: Why no better grade was reached.
    missed: str
    elements: int = 0
    differing: int | None = None
    max_ulp: int | None = None
    max_abs_error: float | None = None
    relative_l2: float | None = None
    share_of_bound: float | None = None
    #: The worst elements, '' where the grade suffices.
    report: str = ""
    shape: tuple[int, ...] = ()
    digest: str = ""
    ulp_histogram: Mapping[str, int] = field(default_factory=dict)
    #: Id of the waiver that tolerates a grade below the required one.
    waiver: str = ""

    @property
    def passed(self) -> bool:
        """Whether the grade meets the required one; no waiver makes it so."""
        return self.grade.meets(self.required)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: grades as letters."""
        letters = {"grade": self.grade.name, "required": self.required.name, "passed": self.passed}
        plain = dataclasses.asdict(self) | letters | {"shape": list(self.shape)}
        # JSON has no infinity.
        return {name: repr(value) if value == float("inf") else value for name, value in plain.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OutputResult:
        """What `to_dict` turned into `values`; TypeError, KeyError or ValueError for anything else."""
        plain = {name: value for name, value in values.items() if name != "passed"}
        plain |= {name: float("inf") for name, value in plain.items() if value == "inf" and name in _FIGURES}
        letters = {name: Grade[plain[name]] for name in ("grade", "required")}
        return cls(**plain | letters | {"shape": tuple(plain["shape"])})

    def text(self) -> str:
        """What was reached, what was required, and the worst elements."""
        head = f"{self.rung} {self.name}: grade {self.grade}, required {self.required} ({self.because})"
        return "\n".join(part for part in (head, self.missed, self.report) if part)


@dataclass(frozen=True)
class CaseResult:
    """One case on its rungs. `error` is one line; `details` the traceback of a crash or violation."""

    kernel: str
    case: str
    config: dict[str, Any]
    lane: str
    seed: int
    backend: str
    profile: dict[str, Any]
    repro: str
    status: str = "passed"
    outputs: tuple[OutputResult, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    error: str = ""
    details: str = ""
    #: How many times the kernel was launched; more than once to see whether its bits are always the same.
    repeats: int = 1
    #: 'module:attribute' of the kernel that was judged.
    implementation: str = ""
    #: Per rung the digest of every rounding point, in the order of the points; empty unless asked for.
    points: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Ids of the waivers that tolerate what went wrong.
    waivers: tuple[str, ...] = ()
    #: What the launches of a probe gave (conformance/probes/evidence.py); empty for a case.
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every rung ran and every output met its grade."""
        return self.status == "passed"

    @property
    def tolerated(self) -> bool:
        """Whether a run that holds this result may end well: it passed, or what went wrong is waived."""
        return self.status in ("passed", "waived")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        outputs = [output.to_dict() for output in self.outputs]
        plain = dataclasses.asdict(self) | {"outputs": outputs, "waivers": list(self.waivers)}
        return plain if self.evidence else {name: value for name, value in plain.items() if name != "evidence"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CaseResult:
        """What `to_dict` turned into `values`; TypeError, KeyError or ValueError for anything else."""
        outputs = tuple(OutputResult.from_dict(one) for one in values["outputs"])
        return cls(**{**values, "outputs": outputs, "waivers": tuple(values["waivers"])})

    def report(self) -> str:
        """What went wrong, in text that ends with the command to run again; '' where nothing did."""
        if self.passed:
            return ""
        head = f"{self.kernel} {self.case} on {self.backend}: {self.status}"
        bad = [output.text() for output in self.outputs if not output.passed]
        parts = [part for part in (head, self.error, *bad, self.details.rstrip()) if part]
        return "\n".join([*parts, f"again: {self.repro}"])
