"""The kill table for the page, counted from what became of every mutant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

#: Who looks, by the name under which a mutant's record says whether it was caught; the last two are what public
#: suites have.
JUDGES: Mapping[str, str] = {
    "killed": "caught",
    "hardware": "by what a device can be held to",
    "outputs": "of these by outputs, not refusals",
    "tolerance": "by the public tolerance, any lane",
    "tolerance_on_normal": "by the public tolerance, random normal data",
}


def faults(document: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Counts per kernel, per class, and per gate and lane; None where no mutants were run."""
    if document is None:
        return None
    rows = document["mutants"]
    return {
        "count": len(rows),
        "judges": list(JUDGES.values()),
        "totals": dict(zip(JUDGES, _counts(rows), strict=True)),
        "kernels": _by(rows, "kernel"),
        "classes": _by(rows, "class"),
        "gates": _gates(rows),
        "survivors": [row for row in rows if not row["killed"] or row["complaints"]],
        "unseen": [row for row in rows if row["survives"]],
        "refused": [row for row in rows if row["stops"] and row["refused"]],
    }


def _counts(rows: Sequence[Row]) -> list[int]:
    return [sum(row[judge] for row in rows) for judge in JUDGES]


def _by(rows: Sequence[Row], what: str) -> list[dict[str, Any]]:
    names = sorted({row[what] for row in rows})
    groups = {name: [row for row in rows if row[what] == name] for name in names}
    return [{"name": name, "count": len(group), "counts": _counts(group)} for name, group in groups.items()]


def _gates(rows: Sequence[Row]) -> dict[str, Any]:
    """How many mutants each gate rejects on each lane, of those it could judge there."""
    sights = [(row["id"], sight) for row in rows for sight in row["sights"]]
    lanes = sorted({sight["lane"] for _, sight in sights}, key=lambda lane: (lane != "normal", lane))
    gates = list(dict.fromkeys(gate for _, sight in sights for gate in sight["asked"]))
    return {
        "gates": gates,
        "rows": [
            {"lane": lane, "cells": [_cell((one for one in sights if one[1]["lane"] == lane), gate) for gate in gates]}
            for lane in lanes
        ],
    }


def _cell(sights: Iterable[tuple[str, Row]], gate: str) -> list[int]:
    found = [(mutant, gate in sight["faults"]) for mutant, sight in sights if gate in sight["asked"]]
    return [len({mutant for mutant, killed in found if killed}), len({mutant for mutant, _ in found})]
