"""What happens to one mutant on the case that should reveal it."""

from __future__ import annotations

from dataclasses import dataclass

from conformance.explain import first_difference
from conformance.mutants.mutant import Mutant
from conformance.mutants.patched import forget, implementation
from conformance.registry import kernel
from conformance.results import CaseResult
from conformance.runner import run_case


@dataclass(frozen=True)
class Trial:
    """Verdict of the suite on one mutant.

    `killed` is True where the case did not pass; `by` is the status of the case then: 'failed' (an output is
    worse than required), 'violation' (the machine stopped it), 'crashed', 'refused'. `point` is
    the first rounding point at which its trace parts from the model's, '' where no trace was left.
    """

    mutant: Mutant
    killed: bool
    by: str
    point: str
    result: CaseResult


def trial(mutant: Mutant, explain: bool = True) -> Trial:
    """Run the mutant on its revealing case in the embedded machine."""
    subject = kernel(mutant.kernel)
    faulty = subject.with_implementation(implementation(mutant, subject.implementation))
    case = faulty.case(mutant.case)
    try:
        result = run_case(faulty, case)
        point = ""
        if explain and result.status == "failed":
            first = first_difference(faulty, case).first
            point = first.point if first is not None else ""
    finally:
        forget(mutant)
    return Trial(mutant, not result.passed, "" if result.passed else result.status, point, result)
