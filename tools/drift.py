"""`nki-oracle drift`: what moved between two runs, two golden folders, or two versions of anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from conformance.drift import Drift, gathered, moved, paired, stirs
from conformance.drift_sides import Side, side_of_folder, side_of_run
from conformance.ledger import Ledger
from tools import drift_table
from tools.errors import BadInput
from tools.output import require_folder, write_json
from tools.pool import run_all

#: Rows that a terminal can be expected to show.
_MOST = 40

_SIDE = "A ledger (its latest run), LEDGER@RUN, or a folder of goldens."


def drift(
    old: Annotated[str, typer.Argument(metavar="A", help=_SIDE)],
    new: Annotated[str, typer.Argument(metavar="B", help="The same: what to compare with A.")],
    every: Annotated[bool, typer.Option("--all", help=f"Show every row, not only the worst {_MOST}.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the drift here; - for stdout.")] = None,
) -> int:
    """Tell what moved from A to B and what it means; exit 1 if anything is out, below its grade, or not whole."""
    require_folder(json_file)
    found = compared(*_apart(side(old), side(new)), jobs)
    if json_file is not None:
        write_json(json_file, document(found))
    if json_file != Path("-"):
        drift_table.show(found, None if every else _MOST)
    return 0 if found.passed else 1


def _apart(old: Side, new: Side) -> tuple[Side, Side]:
    if old.label == new.label:
        raise BadInput(f"drift: both sides are {old.label}; `nki-oracle list --ledger FILE` tells the runs of a ledger")
    return old, new


def compared(old: Side, new: Side, jobs: int) -> Drift:
    """The drift of two sides, what is costly about it in several processes."""
    pairs = paired(old, new)
    rows = run_all(moved, [pair for pair in pairs if stirs(pair)], jobs, "judging")
    return gathered(old, new, pairs, rows)


def side(text: str) -> Side:
    """What the words of a side name. BadInput, LedgerError or GoldenError where they name nothing that is whole."""
    path = Path(text)
    if path.is_dir():
        return side_of_folder(path)
    if path.is_file():
        return side_of_run(Ledger(path))
    file, _, run = text.rpartition("@")
    if file and Path(file).is_file():
        return side_of_run(Ledger(Path(file)), run)
    raise BadInput(f"{text}: no ledger, no run of one (LEDGER@RUN) and no folder of goldens")


def document(found: Drift) -> dict[str, Any]:
    """A drift as the JSON of this command."""
    return {"command": "drift", "version": 1, **found.to_dict()}
