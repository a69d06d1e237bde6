"""Everything that makes a report red, a line each, told from the rows: what a file says of itself at its top counts
only where its rows do not show why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from conformance.report.parts import Part, Sources

Row = Mapping[str, Any]


def fit(results: Sequence[Row]) -> list[Row]:
    """A config without room for what a lane promises says nothing of a kernel."""
    return [row for row in results if row["status"] != "unfit"]


def passed(row: Row) -> bool:
    """Whether a case is right: it says so, and every output reaches its grade; or what is wrong is waived."""
    return row["status"] == "waived" or (row["status"] == "passed" and all(one["passed"] for one in row["outputs"]))


def reasons(whole: Sources, shown: Sources) -> list[str]:
    """Why the report is red, nothing where it is not; `shown` is the part of `whole` that the page is of."""
    found = [*_of_check(shown.check, shown.kernels)]
    for tell, name in ((_of_mutants, "mutants"), (_of_fuzz, "fuzz"), (_of_drift, "drift")):
        all_of_it, part = getattr(whole, name), getattr(shown, name)
        if part is not None:
            told = [*tell(part)]
            found += told or _only_said(name, all_of_it, part)
    return found


def _of_check(check: Part, kernels: Sequence[str]) -> Iterator[str]:
    cases = fit(check["results"])
    wrong = sum(not passed(row) for row in cases)
    if wrong:
        yield f"{wrong} of {len(cases)} cases fail"
    if not cases:
        yield "no case was judged: none has room for its data"
    if check.get("incomplete"):
        yield check["incomplete"]
    yield from check.get("complaints", ())
    # Where rows were picked out, what is said of all of them need not be of these.
    if not (check["passed"] or wrong or kernels or check.get("complaints")):
        yield "the check says that something is wrong, and none of its cases is"


def _of_mutants(part: Part) -> Iterator[str]:
    for row in part["mutants"]:
        why = row["complaints"] or ([] if row["killed"] else ["nothing in the suite shows it"])
        yield from (f"planted fault {row['id']} of {row['kernel']}: {one}" for one in why)
    for row in part["variants"]:
        if not row["passed"]:
            yield f"legal variant {row['profile']} of {row['kernel']} {row['case']} is rejected: {row['missed']}"


def _of_fuzz(part: Part) -> Iterator[str]:
    for row in part["results"]:
        if not row["passed"]:
            first = row["findings"][0] if row["findings"] else {"repro": "", "report": row["failure"]}
            yield f"fuzzing {row['kernel']}: findings: {max(len(row['findings']), 1)}, the first: {_line(first)}"


def _line(finding: Row) -> str:
    return str(finding["repro"] or (finding["report"].splitlines() or [""])[0])


def _of_drift(part: Part) -> Iterator[str]:
    yield from (f"drift: {one}" for one in part.get("lacking", ()))
    for row in part["changes"]:
        if row["fails"]:
            words = (row["kernel"], row["case"], row["output"], row["rung"], row["change"])
            yield f"drift: {' '.join(filter(None, words))}{': ' * bool(row['why'])}{row['why']}"


def _only_said(name: str, whole: Part, shown: Part) -> list[str]:
    """Of a part whose rows are all right and which says that it is not; nothing where rows were taken out of it."""
    if whole.get("passed", True) or _rows(whole) != _rows(shown):
        return []
    return [*whole.get("complaints", ())] or [f"{name}: its file says that something is wrong, and no row of it is"]


def _rows(part: Part) -> int:
    return sum(len(part.get(name, ())) for name in ("mutants", "variants", "results", "changes"))
