"""Claim: answers that tables know and the profile cannot play are found as well, on machines that give them.

The machines compute with NumPy and fractions of their own (odd_machines); the session is told nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest

from conformance.probes import catalog, session
from conformance.probes.probe import Setting
from conformance.tests.probes import odd_machines
from conformance.tests.probes.odd_machines import Odd
from reference.numerics.profile import PARTS, Value, question_of

pytestmark = pytest.mark.sim

#: (field, answer) -> the machine that gives it.
MACHINES: Mapping[tuple[str, Value], Callable[[], Odd]] = {
    **{("product_round", f"{n}_bits"): lambda n=n: Odd("matmul", odd_machines.products_of(n)) for n in range(9, 21)},
    ("acc_round", "floor"): lambda: Odd("matmul", odd_machines.floors),
    ("psum_add_round", "floor"): lambda: Odd("matmul_onto", odd_machines.floors_onto),
    ("bf16_psum", "kept_wide"): lambda: Odd("accumulate_bf16", odd_machines.kept_wide),
    ("row_tiling", "as_one"): lambda: Odd("row_tiles", odd_machines.tiles_as_one),
    ("gelu", "sigmoid_1_7"): lambda: Odd("gelu_variants", odd_machines.gelu_by(1.7)),
    ("gelu", "sigmoid_1_6"): lambda: Odd("gelu_variants", odd_machines.gelu_by(2 * math.sqrt(2 / math.pi))),
    ("stochastic", "drawn"): lambda: Odd("casts", odd_machines.drawn()),
}  # fmt: skip
#: What a machine plays beside its answer, where that is not the default.
BESIDE: Mapping[str, dict[str, Value]] = {
    name: {"matmul_order": "chain"} for name in ("product_round", "acc_round")
}


def test_every_such_answer_has_a_machine() -> None:
    known = {(name, value) for name in PARTS for value in catalog.others(name)}
    assert known == set(MACHINES)


@pytest.mark.parametrize("answer", list(MACHINES), ids=lambda answer: "-".join(map(str, answer)))
def test_an_answer_that_no_profile_has_is_found(answer: tuple[str, Value]) -> None:
    name, value = answer
    asked = {question_of(name).id, *(question_of(beside).id for beside in BESIDE.get(name, {}))}
    report = session.run(MACHINES[answer](), Setting("gen4"), sorted(asked), 1)
    left = {one.field: one.left for finding in report.findings for one in finding.fields}
    assert left[name] == (value,)
    for beside, played in BESIDE.get(name, {}).items():
        assert left[beside] == (played,)
    assert {one.status for finding in report.findings for one in finding.fields} <= {"decided", "open"}
