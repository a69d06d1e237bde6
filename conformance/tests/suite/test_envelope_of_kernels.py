"""Grade B for every kernel: what the machine gives under another legal profile is a legal variant, three ULP is not.

The machine plays a candidate that changes bits, the model that it is judged by does not: A where a candidate changes
nothing in this case, else B, never less. The twin moves single elements beyond what any candidate gives.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.envelope import Envelope, envelope_faults, envelopes
from conformance.grades import Grade
from conformance.registry import kernels
from conformance.runner import named_backend, run_case
from conformance.subject import Arrays, Case, Subject
from reference.numerics.profile import DEFAULT, NumericsProfile

SUBJECTS = kernels()
#: A quick case of each kernel in which candidates move many elements of an output.
CASES = {
    "qkv": "tkg-fp32",
    "attention_tkg": "fp32",
    "attention_segmented_cte": "kvp-drawn",
    "output_projection_tkg": "plain-fp32",
    "attention_block_tkg": "fp16",
}
PLAYED: dict[str, dict[str, Any]] = {
    "sequential": {"matmul_order": "chain"},
    "towards-zero": {"acc_round": "rz"},
    "functions-high": {"act_table": "ulp_up"},
    "sums-in-a-tree": {"reduce_order": "tree"},
    "registers-in-sequence": {"act_reduce_order": "chain"},
}


def _case(subject: Subject) -> Case:
    return subject.case(CASES[subject.name])


@cache
def _spans(kernel: str) -> tuple[Arrays, dict[str, Envelope]]:
    """The model's outputs and their envelopes."""
    subject = SUBJECTS[kernel]
    case = _case(subject)
    inputs = subject.build(case.config, case.lane, case.seed)
    return subject.model(case.config, inputs), envelopes(subject, case.config, inputs)


def test_every_kernel_has_a_case_here() -> None:
    assert set(CASES) == set(SUBJECTS)


@pytest.mark.sim
@pytest.mark.parametrize("played", PLAYED)
@pytest.mark.parametrize("kernel", CASES)
def test_the_machine_under_another_candidate_is_a_legal_variant(kernel: str, played: str) -> None:
    subject, profile = SUBJECTS[kernel], DEFAULT.replace(**PLAYED[played])
    case = _case(subject)
    inputs = subject.build(case.config, case.lane, case.seed)
    got = subject.kernel(case.config, inputs, named_backend("sim", profile))
    spans = _spans(kernel)[1]
    assert {name: faults for name, array in got.items() if (faults := envelope_faults(array, spans[name]))} == {}


@pytest.mark.sim
@pytest.mark.parametrize("kernel", CASES)
def test_a_candidate_that_moves_bits_is_graded_b_and_the_suite_says_so(kernel: str) -> None:
    """Through the runner, as `check --envelope` goes: the machine adds in sequence, the model as it is."""
    subject = SUBJECTS[kernel]
    result = run_case(subject, _case(subject), _machine(subject, DEFAULT.replace(matmul_order="chain")), envelope=True)
    grades = {output.name: output.grade for output in result.outputs if output.rung == "sim"}
    assert set(grades.values()) <= {Grade.A, Grade.B}
    assert Grade.B in grades.values()


def _machine(subject: Subject, profile: NumericsProfile) -> Any:
    """The machine under a profile that the runner does not hear of."""
    return named_backend("sim", profile)


def _edge(array: NDArray[Any], span: Envelope) -> NDArray[Any]:
    """The end of the envelope that is further from zero, which is still a legal result."""
    return np.where(array.astype(np.float64) > 0, span.high, span.low).astype(array.dtype)


def _widest(array: NDArray[Any], span: Envelope) -> int:
    """Where candidates differ most, in shares of the value, among elements that are not nearly zero."""
    values = np.abs(array.astype(np.float64))
    judged = np.isfinite(values) & (values > 1e-3)
    assert judged.any()
    widths = np.where(judged, (span.high - span.low) / np.where(judged, values, 1.0), -1.0)
    return int(widths.argmax())


def _moved(array: NDArray[Any], at: int, steps: int) -> NDArray[Any]:
    """One element so many codes further from zero."""
    codes = array.copy().reshape(-1).view(f"u{array.dtype.itemsize}")
    codes[at] += steps
    return codes.view(array.dtype).reshape(array.shape)


@pytest.mark.parametrize("kernel", CASES)
def test_three_ulp_beyond_every_candidate_is_no_legal_variant_and_one_is(kernel: str) -> None:
    model, spans = _spans(kernel)
    assert model
    for name, array in model.items():
        span = spans[name]
        edge, at = _edge(array, span), _widest(array, span)
        assert envelope_faults(edge, span) == [], name
        assert envelope_faults(_moved(edge, at, 1), span) == [], name
        assert envelope_faults(_moved(edge, at, 3), span) != [], name


@pytest.mark.parametrize("kernel", CASES)
def test_the_candidates_of_a_kernel_move_something(kernel: str) -> None:
    """Else its grade B would be grade A with one ULP, and the ends of the envelope those of nothing."""
    spans = _spans(kernel)[1]
    assert max(np.mean(span.low != span.high) for span in spans.values()) > 0.1
