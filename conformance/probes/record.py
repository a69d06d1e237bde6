"""A session as JSON, and as a measured profile with its evidence.

The file of a measured profile holds the profile under 'profile', which every --profile option reads, and beside it
what the answers rest on. Only a chip makes an answer "measured"; the same session on the embedded machine or on
the official simulator tells what those play, and its profile says so by carrying no evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from conformance.probes import catalog, inseparable
from conformance.probes.evidence import pack, unpack
from conformance.probes.probe import Array
from conformance.probes.session import FieldFinding, Finding, ProbeResult, ReadingResult, Report
from reference.numerics.profile import DEFAULT, PARTS, QUESTIONS, NumericsProfile, Value

Document = dict[str, Any]

#: Readings of up to so many cells stand in the evidence as numbers; all of them are in the raw outputs.
_LISTED = 64

VERDICTS: Mapping[str, str] = {
    "decided": "decided",
    "open": "open",
    "none": "none of the known candidates",
    "failed": "could not run",
    "skipped": "not asked",
    "unstable": "not deterministic",
}


def verdict(status: str, report: Report) -> str:
    """A status in words."""
    return VERDICTS.get(status) or f"not on {report.setting.target}"


def answers(report: Report) -> dict[str, Value]:
    """One value for every field that agrees with everything seen; the default where nothing was, or nothing fits."""
    defaults = {name: part.default for name, part in PARTS.items()}
    unknown = {one.field for finding in report.findings for one in finding.fields if one.status == "none"}
    return defaults | {name: value for name, value in report.possible.items() if name not in unknown}


def profile_of(report: Report, hardware: bool) -> NumericsProfile:
    """The profile that plays what was seen: decided answers, and of several left the default or the first.

    A known answer that the profile cannot play leaves the default, and so does an outcome that fits nothing
    known. `evidence` names the questions that a chip has answered, so that their status is 'measured'; without
    `hardware` it is empty.
    """
    found = answers(report)
    playable = {name: value for name, value in found.items() if value in PARTS[name].candidates}
    evidence = tuple((one.question, _source(one, report)) for one in report.findings if hardware and one.decided)
    setting = report.setting
    return DEFAULT.replace(generation=setting.generation, nki=setting.nki, evidence=evidence, **playable)


def _source(finding: Finding, report: Report) -> str:
    inputs = ", ".join(result.inputs for result in finding.probes if result.inputs)
    return f"probed on {report.backend}, inputs {inputs}"


def profile_document(report: Report, hardware: bool, versions: Mapping[str, str]) -> Document:
    """The file of a measured profile."""
    return {
        "profile": profile_of(report, hardware).to_dict(),
        "backend": report.backend,
        "target": report.setting.target,
        "versions": dict(versions),
        "unsettled": unsettled(report),
        "unasked": list(report.unasked),
        "measurements": {one.question: _measurement(one, report, hardware) for one in report.findings},
    }


def unsettled(report: Report) -> list[str]:
    """Fields whose value in the profile is not the one answer that was seen: 'field: verdict'."""
    fields = [one for finding in report.findings for one in finding.fields]
    return [
        f"{one.field}: {verdict(one.status, report) if one.modelled else 'the profile cannot play it'}"
        for one in fields
        if one.status != "decided" or not one.modelled
    ]


def _measurement(finding: Finding, report: Report, hardware: bool) -> Document:
    plain = question_document(finding, report)
    settled = "measured" if hardware else f"played by {report.backend}, not measured"
    return {"status": settled if finding.decided else plain["verdict"], **plain}


def document(report: Report, versions: Mapping[str, str]) -> Document:
    """The JSON of the command."""
    return {
        "command": "probe",
        "version": 1,
        "backend": report.backend,
        "target": report.setting.target,
        "tables": report.setting.tables,
        "passed": passed(report),
        "unasked": list(report.unasked),
        "versions": dict(versions),
        "profile": profile_of(report, False).to_dict(),
        "combinations": [
            {"fields": list(one.fields), "rows": [list(row) for row in one.rows]} for one in report.combinations
        ],
        "questions": [question_document(one, report) for one in report.findings],
    }


def passed(report: Report) -> bool:
    """Whether every probe was asked, ran, repeated itself, and fitted some candidate."""
    statuses = {result.status for one in report.findings for result in one.probes}
    return not report.unasked and not statuses & {"none", "unstable", "failed"}


def question_document(finding: Finding, report: Report) -> Document:
    """One question: verdict, candidates left as 'field=value', and the evidence."""
    return {
        "id": finding.question,
        "question": QUESTIONS[finding.question].question,
        "verdict": verdict(finding.status, report),
        "candidates_left": [f"{one.field}={value}" for one in finding.fields for value in one.left],
        "fields": {one.field: _field(one, report) for one in finding.fields},
        "evidence": [_probe(result) for result in finding.probes if result.status != "generation"],
    }


def _field(found: FieldFinding, report: Report) -> Document:
    return {
        "verdict": verdict(found.status, report),
        "left": list(found.left),
        "meanings": {str(value): meaning(found.field, value) for value in found.left},
        "modelled": found.modelled,
        "reason": reason(found, report),
    }


def meaning(name: str, value: Value) -> str:
    """One line on a candidate, of the profile or known to a table alone."""
    return {**PARTS[name].candidates, **catalog.others(name)}[value]


def reason(found: FieldFinding, report: Report) -> str:
    """Why a field stays open, '' where it does not or nothing is known about it."""
    if found.status != "open":
        return ""
    row = inseparable.row_of(found.field, answers(report))
    alike = row is not None and set(found.left) <= set(row.values)
    return row.reason if alike and row is not None else ""


def _probe(result: ProbeResult) -> Document:
    return {
        "probe": result.probe.name,
        "asks": result.probe.asks,
        "status": result.status,
        "error": result.error,
        "inputs": result.inputs,
        "launches": result.repeats,
        "seconds": round(result.seconds, 3),
        "readings": [_reading(one) for one in result.readings],
        "notes": list(result.notes),
        "outputs": {
            f"{launch}/{name}": pack(array)
            for launch, outputs in result.outputs.items()
            for name, array in outputs.items()
        },
    }


def _reading(one: ReadingResult) -> Document:
    flat = one.cells.reshape(-1)
    return {
        "name": one.name,
        "cells": [float(x) for x in flat] if flat.size <= _LISTED else int(flat.size),
        "fits": {name: list(values) for name, values in one.fits.items()},
        "decisive": one.decisive,
        "against": one.against,
    }


def unpacked(raw: Mapping[str, Any]) -> Array:
    """An output of the evidence as an array of its storage bytes: its dtype where NumPy knows it, else unsigned."""
    try:
        return unpack(raw, np.dtype(raw["dtype"]))
    except TypeError:
        return unpack(raw)
