"""The report as data: the page shows this document and nothing else, and so can anyone's own tools.

Every part comes from the JSON of one command; a part whose command was not run is None, and the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from conformance import claims
from conformance.backends import is_hardware
from conformance.report.faults import faults
from conformance.report.grades_reached import matrices, options, tally
from conformance.report.histograms import histograms
from conformance.report.parts import Sources, cut, left_out, of_other_versions
from conformance.report.verdict import fit, passed, reasons
from reference.numerics.profile import QUESTIONS

Document = dict[str, Any]
Row = Mapping[str, Any]


def document(whole: Sources) -> Document:
    """Everything the page shows, JSON-able: the kernels that the check has results of, as far as they were asked for.

    `reasons` says all that is wrong, a line each; `remarks` what a reader has to know of parts that are not shown, or
    not of the same versions.
    """
    sources = cut(whole)
    results = sources.check["results"]
    wrong, apart = reasons(whole, sources), of_other_versions(sources)
    return {
        "command": "report",
        "version": 1,
        "backend": sources.check["backend"],
        "hardware": is_hardware(sources.check["backend"]),
        "passed": not wrong,
        "reasons": wrong,
        "remarks": left_out(whole) + [f"{part}: {text}" for part, text in apart.items()],
        "apart": apart,
        "cases": len(fit(results)),
        "failures": [_failure(row) for row in fit(results) if not passed(row)],
        "waived": [_failure(row) for row in results if row["status"] == "waived"],
        "kernels": [_kernel(name, results, sources) for name in sources.shown],
        "mutants": sources.mutants,
        "faults": faults(sources.mutants),
        "fuzz": sources.fuzz,
        "drift": sources.drift,
        "questions": _questions(sources.probe),
        "probed_on": None if sources.probe is None else sources.probe["backend"],
        "probe_is_hardware": sources.probe is not None and is_hardware(sources.probe["backend"]),
        "versions": dict(sources.check.get("versions") or {}),
    }


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
    rows = [row for row in fit(results) if row["kernel"] == name]
    page = claims.page(name)
    return {
        "name": name,
        "title": page.title if page else name,
        "cases": len(rows),
        "passed": all(map(passed, rows)),
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
