"""Every kernel's bound, on every lane: each legal answer to an open question is inside, and faults are not.

The smallest catalog case of each lane stands for it, and of each number format beside. A bound is only as good as it
is narrow: the second half says what the largest error makes of it, and that a result of the wrong token is outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from conformance.bounds import Bound, bound_faults, figures
from conformance.envelope import values64
from conformance.grading import Evidence, judge
from conformance.registry import kernels
from conformance.subject import Arrays, Case, Subject
from reference.numerics.profile import CHAIN, DEFAULT, NumericsProfile, question_of, variants

SUBJECTS = kernels()
#: Sequential sums that round towards zero, functions off by a unit: the answers that lead away from truth, together.
AWAY = CHAIN.replace(acc_round="rz", psum_add_round="rz", act_table="ulp_up", reciprocal_accuracy="ulp_down")


@cache
def _smallest(kernel: str, lane: str, formats: str = "*") -> Case:
    """The case of a lane (and of number formats, by their label) with the smallest results."""
    subject = SUBJECTS[kernel]
    fits = [
        case
        for case in subject.catalog
        if "ci" in case.tags and case.lane == lane and formats in ("*", subject.quantization(case.config))
    ]
    return min(fits, key=lambda case: sum(array.size for array in _built(kernel, case.id)[1].values()))


@cache
def _built(kernel: str, case_id: str) -> tuple[Arrays, Arrays]:
    """Inputs and truth."""
    subject = SUBJECTS[kernel]
    case = subject.case(case_id)
    inputs = subject.build(case.config, case.lane, case.seed)
    return inputs, subject.truth(case.config, inputs)


@cache
def _bounds(kernel: str, case_id: str) -> dict[str, Bound]:
    subject = SUBJECTS[kernel]
    return dict(subject.bounds(subject.case(case_id).config, _built(kernel, case_id)[0]))


@cache
def _model(kernel: str, case_id: str, profile: NumericsProfile = DEFAULT) -> Arrays:
    subject = SUBJECTS[kernel]
    return subject.model(subject.case(case_id).config, _built(kernel, case_id)[0], profile=profile)


#: Answers that stand for their neighbours on lanes other than 'normal': what is slow to play is played there alone.
_LIKE_OTHERS = {
    *(f"matmul_order={order}" for order in ("chain_rev", "seg32", "tree", "fdpa24", "fdpa28")),
    *(f"{field}={order}" for field in ("reduce_order", "act_reduce_order") for order in ("lanes4", "lanes8", "tree")),
    "accum_order=lanes4", "accum_order=lanes8", "accum_order=tree", "double_row_pair=halves", "fp32_matmul=split_11_13",
}  # fmt: skip


def _played(subject: Subject, lane: str) -> Iterator[tuple[str, NumericsProfile]]:
    yield "default", DEFAULT
    yield "away", AWAY
    for name, profile in variants():
        concerns = subject.name in question_of(name.partition("=")[0]).kernels
        if concerns and (lane == "normal" or name not in _LIKE_OTHERS):
            yield name, profile


def _faults(subject: Subject, case: Case, profile: NumericsProfile) -> list[str]:
    """Outputs of the model that are not of grade C against truth."""
    got, (inputs, truth) = _model(subject.name, case.id, profile), _built(subject.name, case.id)
    undefined, bounds = subject.undefined(case.config, inputs), _bounds(subject.name, case.id)
    verdicts = {
        name: judge(
            got[name],
            Evidence(
                subject.output(name), truth=truth[name], undefined=undefined.get(name), bound=bounds.get(name)
            ),
        )
        for name in got
    }
    return [f"{name}: {verdict.reason}" for name, verdict in verdicts.items() if verdict.grade.name != "C"]


def _formats(subject: Subject) -> list[str]:
    normal = [case for case in subject.catalog if "ci" in case.tags and case.lane == "normal"]
    return sorted({subject.quantization(case.config) for case in normal})


def _params(of: Callable[[Subject], Iterable[str]]) -> list[Any]:
    return [
        pytest.param(subject, value, id=f"{subject.name}-{value}")
        for subject in SUBJECTS.values()
        for value in of(subject)
    ]


@pytest.mark.parametrize(("subject", "lane"), _params(lambda subject: subject.lanes))
def test_every_legal_answer_is_in_bound_on_every_lane(subject: Subject, lane: str) -> None:
    case = _smallest(subject.name, lane)
    faults = {name: _faults(subject, case, profile) for name, profile in _played(subject, lane)}
    assert {name: found for name, found in faults.items() if found} == {}


@pytest.mark.parametrize(("subject", "formats"), _params(_formats))
def test_the_answers_that_lead_away_together_are_in_bound_in_every_format(subject: Subject, formats: str) -> None:
    assert _faults(subject, _smallest(subject.name, "normal", formats), AWAY) == []


# --- narrow -----------------------------------------------------------------------------------------------

#: Results in float32 err by one rounding per pass under the default, and are allowed as many as there are terms: in
#: which order they are summed is open. Their bound cannot be narrower than that.
_ORDER_IS_OPEN = {
    "attention_tkg": {"dbg_qk", "dbg_qk_max", "dbg_exp_sum"},
    "attention_segmented_cte": {"neg_max", "sum_recip"},
}


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_the_largest_error_of_every_output_is_no_small_part_of_its_bound(subject: Subject) -> None:
    """At least a twentieth, over all lanes; of one that is narrower, half."""
    shares: dict[str, float] = {}
    cases = [_smallest(subject.name, lane) for lane in subject.lanes]
    cases += [_smallest(subject.name, "normal", formats) for formats in _formats(subject)]
    for case in cases:
        got, (_, truth), bounds = (f(subject.name, case.id) for f in (_model, _built, _bounds))
        for name, bound in bounds.items():
            if np.any(bound.limit > 0):
                share = figures(values64(got[name]), np.asarray(truth[name], np.float64), bound).share
                shares[name] = max(shares.get(name, 0.0), share)
    least = {name: 0.001 if name in _ORDER_IS_OPEN.get(subject.name, ()) else 0.05 for name in shares}
    assert {name: share for name, share in shares.items() if share < least[name]} == {}


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_what_belongs_to_another_place_is_out_of_bound(subject: Subject) -> None:
    """Every element one place further, of everything but copies."""
    case = _smallest(subject.name, "normal")
    got, (_, truth), bounds = (f(subject.name, case.id) for f in (_model, _built, _bounds))
    uncertain = [name for name, bound in bounds.items() if np.any(bound.limit > 0)]
    assert uncertain
    for name in uncertain:
        wrong = np.roll(values64(got[name]).reshape(-1), 1).reshape(got[name].shape)
        assert bound_faults(wrong, np.asarray(truth[name], np.float64), bounds[name]) != [], name
