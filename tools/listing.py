"""`nki-oracle list`: the kernels, their cases and lanes; the runs of a ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from conformance.ledger import Ledger
from conformance.subject import Subject
from tools import selection
from tools.errors import BadInput
from tools.output import console


def list_kernels(
    kernels: Annotated[list[str] | None, typer.Argument(metavar="[KERNEL]...")] = None,
    ledger: Annotated[Path | None, typer.Option(help="List the runs of this ledger instead.")] = None,
) -> int:
    """Without a name: the kernels. With names: their cases, lanes, seeds and tags. With a ledger: its runs."""
    if ledger is not None:
        if kernels:
            raise BadInput("list: kernels and --ledger are two questions; ask one")
        console().print(_runs(Ledger(ledger)))
        return 0
    chosen = selection.subjects(kernels or [])
    for table in map(_cases, chosen) if kernels else [_overview(chosen)]:
        console().print(table)
    return 0


def _overview(subjects: list[Subject]) -> Table:
    table = _table("kernel", "cases", "outputs", "lanes")
    for subject in subjects:
        outputs = ", ".join(output.name for output in subject.outputs)
        table.add_row(subject.name, str(len(subject.catalog)), outputs, ", ".join(subject.lanes))
    return table


def _cases(subject: Subject) -> Table:
    table = _table("case", "lane", "seed", "tags", "note", title=subject.name)
    for case in subject.catalog:
        table.add_row(case.id, case.lane, str(case.seed), ", ".join(sorted(case.tags)), case.note)
    return table


def _runs(ledger: Ledger) -> Table:
    table = _table("run", "started", "backend", "task", "results", "passed", "asked")
    for run in ledger.runs():
        last = {(*row.key[:5], row.result.case): row.result for row in ledger.rows(run.id)}
        passed = sum(result.tolerated for result in last.values())
        table.add_row(run.id, run.started, run.backend, run.task, str(len(last)), str(passed), run.note)
    return table


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, box=None, pad_edge=False, title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
