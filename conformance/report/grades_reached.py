"""The grade reached beside the grade required, gathered over cases: by number format and lane, and by option."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from conformance.config_codec import config_from_dict
from conformance.grades import Grade
from conformance.registry import kernel
from conformance.subject import Subject

Row = Mapping[str, Any]
Cell = dict[str, Any]

GRADES = tuple(grade.name for grade in Grade)


def tally(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Per rung, how many outputs have which grade."""
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        for output in row["outputs"]:
            rung = counts.setdefault(output["rung"], dict.fromkeys(GRADES, 0))
            rung[output["grade"]] += 1
    return counts


def matrices(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Per rung a table: lanes down, number formats across, the worst output of all cases in each cell."""
    cells: dict[str, dict[tuple[str, str], Cell]] = {}
    for row in rows:
        place = (_formats(row), row["lane"])
        for output in row["outputs"]:
            table = cells.setdefault(output["rung"], {})
            table[place] = _with(table.get(place), row, output)
    return [_matrix(rung, table) for rung, table in cells.items()]


def options(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Per option and value the worst output of the kernel's rung over all cases that have it."""
    found: dict[tuple[str, str], Cell] = {}
    for row in rows:
        for key in _values(row):
            for output in (one for one in row["outputs"] if one["rung"] != "model"):
                found[key] = _with(found.get(key), row, output)
    return [{"option": option, "value": value} | cell for (option, value), cell in sorted(found.items())]


def _matrix(rung: str, table: Mapping[tuple[str, str], Cell]) -> dict[str, Any]:
    lanes = sorted({lane for _, lane in table}, key=lambda lane: (lane != "normal", lane))
    formats = sorted({label for label, _ in table}, key=lambda label: (label != "none", label))
    lines = [{"lane": lane, "cells": [table.get((label, lane)) for label in formats]} for lane in lanes]
    return {"rung": rung, "formats": formats, "rows": lines}


def _with(cell: Cell | None, row: Row, output: Mapping[str, Any]) -> Cell:
    """A cell with one more output: the least margin between reached and required is what it shows."""
    new = {name: output[name] for name in ("grade", "required", "because", "passed")}
    new |= {"case": row["case"], "output": output["name"]}
    if cell is None:
        return new | {"outputs": 1, "cases": [row["case"]]}
    worse = _margin(new) < _margin(cell)
    cases = cell["cases"] if row["case"] in cell["cases"] else [*cell["cases"], row["case"]]
    return cell | (new if worse else {}) | {"outputs": cell["outputs"] + 1, "cases": cases}


def _margin(cell: Mapping[str, Any]) -> tuple[int, int]:
    grade, required = GRADES.index(cell["grade"]), GRADES.index(cell["required"])
    return (required - grade, -grade)


def _config(row: Row) -> tuple[Subject, Any]:
    subject = kernel(row["kernel"])
    return subject, config_from_dict(subject.config_type, row["config"])


def _formats(row: Row) -> str:
    subject, config = _config(row)
    return subject.quantization(config)


def _values(row: Row) -> Iterator[tuple[str, str]]:
    """The options of a case as (name, value)."""
    subject, config = _config(row)
    for flag in subject.flags:
        index = flag.index(config)
        if index is not None:
            name, _, value = flag.text(index).partition("=")
            yield name, value
