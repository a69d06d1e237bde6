"""What pytest makes of a result: properties for the JUnit report, and passed, skipped, expected to fail, or failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conformance.results import CaseResult

#: Figures of an output that a report may want beside the verdict.
_FIGURES = ("grade", "required", "share_of_bound", "digest")


def properties(result: CaseResult) -> Iterator[tuple[str, str]]:
    """Name and value of what to keep beside a test: 'sim.out.grade' is 'A'. What is not known is left out."""
    yield "status", result.status
    for name in result.waivers:
        yield "waiver", name
    for output in result.outputs:
        plain: dict[str, Any] = output.to_dict()
        for name in _FIGURES:
            if plain[name] not in (None, ""):
                yield f"{output.rung}.{output.name}.{name}", str(plain[name])


def hold(result: CaseResult, record_property: Callable[[str, object], None]) -> None:
    """Ends the test as the result says: a known failure is expected to fail, what could not be tried is skipped."""
    for name, value in properties(result):
        record_property(name, value)
    if result.status == "waived":
        pytest.xfail(f"waived by {', '.join(result.waivers)}: {result.error or result.report()}")
    if result.status == "unfit":
        pytest.skip(result.error)
    assert result.passed, result.report()
