"""Twins of the hazard tests: for every known fault put into the kernel, a test that bears its id fails.

The kernel itself is the subject those tests accept; here they get the mutants whose source is the defect.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conformance.cases.qkv import SUBJECT
from conformance.mutants import Mutant, implementation, mutants
from conformance.mutants.patched import forget
from conformance.tests.kernels import test_qkv_hazards as hazards

pytestmark = [pytest.mark.sim, pytest.mark.filterwarnings("ignore:nisa.activation")]

FAULTS = tuple(mutant for mutant in mutants("qkv") if mutant.source.startswith("QKV"))


def hazard_tests(defect: str) -> list[Callable[..., None]]:
    return [test for name, test in vars(hazards).items() if name.endswith(f"_{defect.lower()}")]


def arguments_of(test: Callable[..., None]) -> Iterator[dict[str, Any]]:
    """What pytest would call the test with, one dict per call."""
    marks = [mark.args for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    for values in itertools.product(*(rows for _, rows in marks)):
        arguments: dict[str, Any] = {}
        for (names, _), row in zip(marks, values, strict=True):
            arguments |= {names: row} if isinstance(names, str) else dict(zip(names, row, strict=True))
        yield arguments


def fails(test: Callable[..., None], arguments: dict[str, Any]) -> bool:
    try:
        test(**arguments)
    except (Exception, pytest.fail.Exception):
        return True
    return False


@pytest.mark.parametrize("mutant", FAULTS, ids=lambda mutant: mutant.id)
def test_a_fault_fails_a_test_of_its_defect(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = SUBJECT.with_implementation(implementation(mutant, SUBJECT.implementation))
    monkeypatch.setattr(hazards, "SUBJECT", faulty)
    try:
        assert any(fails(test, row) for test in hazard_tests(mutant.source) for row in arguments_of(test))
    finally:
        forget(mutant)


def test_the_calls_of_a_hazard_test_are_those_of_pytest() -> None:
    (test,) = hazard_tests("QKV30")
    assert list(arguments_of(test)) == [{"lnc": lnc, "served": served} for lnc in (1, 2) for served in ("TKG", "CTE")]
    assert not any(fails(test, row) for row in arguments_of(test))
