"""All outputs of one rung, each graded beside its requirement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.bounds import Bound
from conformance.digests import digest_text
from conformance.envelope import Envelope, values64
from conformance.grades import Grade
from conformance.grading import Evidence, golden_of, judge, share_of_bound
from conformance.lanes import EXACT_LANES
from conformance.mismatch import mismatch_report
from conformance.required import requirement
from conformance.results import OutputResult
from conformance.subject import Arrays, Case, Subject
from conformance.tolerances import TOLERANCES, tolerance_for
from reference.numerics.metrics import compare, errors
from reference.numerics.ulp import same_bytes

Array = NDArray[Any]
Spans = Callable[[], Mapping[str, Envelope]]


@dataclass(frozen=True)
class Reference:
    """What a rung is held against: truth, model or both, with the inputs they were computed from.

    `spans` gives the envelopes of grade B when first asked, `bounds` the bounds of grade C; None where that
    grade is not wanted. `below` holds the results of the model, by output: what has its bytes has its errors.
    """

    inputs: Arrays
    truth: Arrays | None = None
    model: Arrays | None = None
    spans: Spans | None = None
    bounds: Callable[[], Mapping[str, Bound]] | None = None
    undefined: Arrays = field(default_factory=dict)
    below: Mapping[str, OutputResult] = field(default_factory=dict)

    @property
    def expected(self) -> set[str]:
        """Names of the outputs that this config has."""
        return set(self.model if self.model is not None else self.truth or {})


def judge_rung(subject: Subject, case: Case, rung: str, got: Arrays, reference: Reference) -> list[OutputResult]:
    """Results in the order of `subject.outputs`; an output that is missing or too many is one of grade F.

    ValueError for an output that the subject does not declare: that is an error of the case module.
    """
    declared = [output.name for output in subject.outputs]
    strays = sorted((set(got) | reference.expected) - set(declared))
    if strays:
        raise ValueError(f"{rung} has outputs that the subject does not declare: {', '.join(strays)}")
    names = [name for name in declared if name in got or name in reference.expected]
    bounds = {} if reference.truth is None or reference.bounds is None else reference.bounds()
    return [_judge_output(subject, case, rung, name, got, reference, bounds) for name in names]


def _judge_output(
    subject: Subject,
    case: Case,
    rung: str,
    name: str,
    got: Arrays,
    reference: Reference,
    bounds: Mapping[str, Any],
) -> OutputResult:
    if name not in got or name not in reference.expected:
        return _out_of_place(rung, name, "missing" if name in reference.expected else "not an output of this config")
    evidence = evidence_of(subject, case, name, reference, bounds)
    quantization = subject.quantization(case.config)
    row = requirement(subject.name, name, str(got[name].dtype), quantization, case.lane, rung)
    return _result(rung, got[name], evidence, row.grade, row.reason, reference.below.get(name))


def evidence_of(subject: Subject, case: Case, name: str, reference: Reference, bounds: Mapping[str, Bound]) -> Evidence:
    """Everything that one output of a case is judged by."""
    record, spans = subject.output(name), reference.spans
    rows = (*subject.tolerances, *TOLERANCES)
    return Evidence(
        output=record,
        model=(reference.model or {}).get(name),
        truth=(reference.truth or {}).get(name),
        before=reference.inputs.get(record.updated(case.config)),
        undefined=reference.undefined.get(name),
        envelope=None if spans is None else lambda: spans()[name],
        bound=bounds.get(name),
        tolerance=tolerance_for(subject.name, subject.quantization(case.config), name, rows),
        exact=case.lane in EXACT_LANES,
    )


def _result(
    rung: str, got: Array, evidence: Evidence, required: Grade, because: str, below: OutputResult | None
) -> OutputResult:
    name, golden = evidence.output.name, golden_of(got, evidence)
    if (got.shape, got.dtype) != (golden.shape, golden.dtype):
        return replace(
            _out_of_place(rung, name, mismatch_report(name, got, golden)), shape=got.shape, digest=digest_text(got)
        )
    verdict, apart = judge(got, evidence), compare(got, golden, worst=0)
    twin = below if below is not None and same_bytes(got, golden) else None
    max_abs, relative_l2 = _errors(got, evidence) if twin is None else (twin.max_abs_error, twin.relative_l2)
    return OutputResult(
        rung=rung,
        name=name,
        dtype=str(got.dtype),
        grade=verdict.grade,
        required=required,
        because=because,
        missed=verdict.reason,
        elements=got.size,
        differing=apart.different,
        max_ulp=apart.max_ulp,
        max_abs_error=max_abs,
        relative_l2=relative_l2,
        share_of_bound=share_of_bound(got, evidence) if twin is None else twin.share_of_bound,
        shape=got.shape,
        digest=digest_text(got) if twin is None else twin.digest,
        ulp_histogram=apart.histogram,
        report="" if verdict.grade.meets(required) else mismatch_report(name, got, golden, evidence.truth),
    )


def _out_of_place(rung: str, name: str, why: str) -> OutputResult:
    """No lane and no backend excuses an output that is not there, or of another shape or dtype."""
    return OutputResult(rung, name, "", Grade.F, Grade.D, "outputs have their names, shapes and dtypes", why)


def _errors(got: Array, evidence: Evidence) -> tuple[float | None, float | None]:
    """Largest absolute and relative L2 error against truth, where the contract defines a value."""
    if evidence.truth is None:
        return None, None
    pair = values64(got), np.asarray(evidence.truth, np.float64)
    return errors(*pair) if evidence.undefined is None else errors(*(part[~evidence.undefined] for part in pair))
