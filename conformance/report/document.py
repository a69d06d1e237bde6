"""The report as data: the page shows this document and nothing else, and so can anyone's own tools.

Every part comes from the JSON of one command; a part whose command was not run is None, and the page says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conformance import claims
from conformance.backends import is_hardware
from conformance.report.faults import faults
from conformance.report.grades_reached import matrices, options, tally
from conformance.report.histograms import histograms
from conformance.versions import versions
from reference.numerics.profile import QUESTIONS

Document = dict[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sources:
    """JSON documents of the commands, as far as they were run; `check` always."""

    check: Mapping[str, Any]
    mutants: Mapping[str, Any] | None = None
    fuzz: Mapping[str, Any] | None = None
    probe: Mapping[str, Any] | None = None
    drift: Mapping[str, Any] | None = None
    budgets: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def document(sources: Sources) -> Document:
    """Everything the page shows, JSON-able."""
    results = sources.check["results"]
    names = list(dict.fromkeys(row["kernel"] for row in results))
    return {
        "command": "report",
        "version": 1,
        "backend": sources.check["backend"],
        "hardware": is_hardware(sources.check["backend"]),
        "passed": bool(sources.check["passed"]) and _held(sources),
        "checked": bool(sources.check["passed"]),
        "cases": len(_fit(results)),
        "failures": [_failure(row) for row in _fit(results) if not _passed(row)],
        "waived": [_failure(row) for row in results if row["status"] == "waived"],
        "kernels": [_kernel(name, results, sources) for name in names],
        "mutants": sources.mutants,
        "faults": faults(sources.mutants),
        "fuzz": sources.fuzz,
        "drift": sources.drift,
        "questions": _questions(sources.probe),
        "probed_on": None if sources.probe is None else sources.probe["backend"],
        "probe_is_hardware": sources.probe is not None and is_hardware(sources.probe["backend"]),
        "versions": sources.check.get("versions") or versions(),
    }


def _held(sources: Sources) -> bool:
    """Whether what else was run is right too."""
    others = (sources.mutants, sources.fuzz, sources.drift)
    return all(one.get("passed", True) for one in others if one is not None)


def _fit(results: Iterable[Row]) -> list[Row]:
    """A config without room for what a lane promises says nothing of a kernel."""
    return [row for row in results if row["status"] != "unfit"]


def _passed(row: Row) -> bool:
    return row["status"] in ("passed", "waived")


def _failure(row: Row) -> Document:
    bad = [one for one in row["outputs"] if not one["passed"]]
    return {
        "kernel": row["kernel"],
        "case": row["case"],
        "status": row["status"],
        "error": row["error"],
        "repro": row["repro"],
        "outputs": [{name: one[name] for name in ("rung", "name", "grade", "required", "missed")} for one in bad],
    }


def _kernel(name: str, results: Sequence[Row], sources: Sources) -> Document:
    rows = [row for row in _fit(results) if row["kernel"] == name]
    page = claims.page(name)
    return {
        "name": name,
        "title": page.title if page else name,
        "cases": len(rows),
        "passed": all(map(_passed, rows)),
        "grades": tally(rows),
        "matrices": matrices(rows),
        "options": options(rows),
        "histograms": histograms(rows),
        "worst": _worst(rows),
        "budgets": [one for one in sources.budgets if one["kernel"] == name],
        "claims": None if page is None else _claims(page),
    }


def _worst(rows: Sequence[Row]) -> list[Document]:
    """Per rung and output the case that uses most of its bound."""
    worst: dict[tuple[str, str], Document] = {}
    for row in rows:
        for output in row["outputs"]:
            share = output.get("share_of_bound")
            # JSON has no infinity: it comes as text.
            if share is None or isinstance(share, str):
                continue
            key = (output["rung"], output["name"])
            if key not in worst or worst[key]["share"] < share:
                worst[key] = {"rung": key[0], "output": key[1], "share": share} | _place(row)
    return list(worst.values())


def _place(row: Row) -> Document:
    return {"case": row["case"], "lane": row["lane"]}


def _claims(page: claims.Page) -> Document:
    rows = [
        {"section": one.section, "says": one.says, "holders": list(one.holders), "decided": one.decided,
         "open": one.open}
        for one in page.claims
    ]  # fmt: skip
    return {"title": page.title, "total": len(rows), "held": sum(one.held for one in page.claims), "rows": rows}


def _questions(probe: Mapping[str, Any] | None) -> list[Document]:
    probed = {} if probe is None else {one["id"]: one for one in probe["questions"]}
    return [
        {
            "id": one.id,
            "question": one.question,
            "status": one.status,
            "source": one.source,
            "kernels": list(one.kernels),
            "parts": [
                {"field": part.field, "default": str(part.default),
                 "candidates": [[str(value), text] for value, text in part.candidates.items()]}
                for part in one.parts
            ],
            "unmodelled": list(one.unmodelled),
            "probe": probed.get(one.id),
        }
        for one in QUESTIONS.values()
    ]  # fmt: skip
