"""Every kernel on whatever can run it beside the machine: the official simulator, Trainium2, Trainium3.

Claims: the cases of `nki-oracle check` reach the grades required of a backend; launches happen in a child process, so
that one that hangs or dies fails its own test alone, with the status in its report. `pytest -m trn2` runs those of one
backend; where it cannot run, a single test stands for them and is skipped with what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from conformance.backends import BACKENDS, available, in_child
from conformance.held import hold
from conformance.registry import kernels
from conformance.runner import named_backend
from conformance.subject import Case, Subject
from conformance.waivers import run_waived

TAG = "check"


def _tests() -> Iterator[Any]:
    for name in filter(in_child, BACKENDS):
        mark = getattr(pytest.mark, name)
        here, reason = available(name)
        if not here:
            yield pytest.param(name, None, None, id=name, marks=(mark, pytest.mark.skip(f"{name}: {reason}")))
            continue
        for subject, case in _cases():
            yield pytest.param(name, subject, case, id=f"{name}-{subject.name}-{case.id}", marks=mark)


def _cases() -> list[tuple[Subject, Case]]:
    """By number of cores, since a child process serves launches on one number of them."""
    cases = [(subject, case) for subject in kernels().values() for case in subject.catalog if TAG in case.tags]
    return sorted(cases, key=lambda pair: getattr(pair[1].config, "lnc", 1))


@pytest.mark.parametrize(("name", "subject", "case"), list(_tests()))
def test_a_kernel_reaches_the_grades_required_of_the_backend(
    name: str, subject: Subject, case: Case, record_property: Any
) -> None:
    hold(run_waived(subject, case, named_backend(name)), record_property)
