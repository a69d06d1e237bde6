"""`nki-oracle golden`: verify the goldens, show what moved, replace them with a reason."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from conformance import golden_store, goldens
from conformance.golden_drift import Drift, drift
from conformance.golden_manifest import GoldenEntry, Manifest
from conformance.golden_store import Golden, GoldenError
from conformance.mismatch import ulp_text
from tools import selection
from tools.errors import BadInput
from tools.output import console
from tools.pool import run_all

golden = typer.Typer(help="The stored outputs of the models.", no_args_is_help=True)

Kernels = Annotated[list[str] | None, typer.Argument(metavar="[KERNEL]...")]
Directory = Annotated[Path, typer.Option("--directory", help="The golden store.")]
Jobs = Annotated[int, typer.Option(help="Processes.", min=1)]


@golden.command()
def verify(kernels: Kernels = None, directory: Directory = golden_store.HOME, jobs: Jobs = 2) -> int:
    """Check every file, recompute every golden, compare bits; exit 1 on drift, 2 on a damaged store."""
    manifest = golden_store.verify_files(directory)
    names = _names(kernels)
    drifts = _drifts(_stored(directory, manifest, names), _computed(names, jobs))
    _show(drifts)
    count = sum(entry.kernel in names for entry in manifest.entries)
    console().print(f"{count} goldens, {len(drifts)} with drift", highlight=False)
    return 1 if drifts else 0


@golden.command()
def regen(
    kernels: Kernels = None,
    accept: Annotated[str | None, typer.Option(help="Replace the goldens, for this reason.")] = None,
    directory: Directory = golden_store.HOME,
    jobs: Jobs = 2,
) -> int:
    """Recompute the goldens and show what moved; replace them only with --accept "reason"."""
    if accept is not None and not accept.strip():
        raise BadInput("--accept needs a reason; it is written to CHANGES.md")
    names = _names(kernels)
    stored, damage = _stored_or_damage(directory, names)
    if damage and kernels:
        raise BadInput(f"a damaged store is replaced as a whole, without naming kernels: {damage}")
    now = _computed(names, jobs)
    drifts = _drifts(stored, now)
    _show(drifts)
    if damage:
        console().print(f"the store is replaced as a whole: {damage}", highlight=False, markup=False)
    if not drifts and not damage:
        console().print(f"{len(now)} goldens, none moved")
        return 0
    if accept is None:
        console().print('nothing was written; to replace the goldens: --accept "reason"', highlight=False)
        return 1
    others = [] if damage else _others(directory, names)
    golden_store.write(directory, [*others, *now], _change(accept, drifts))
    console().print(f"{len(others) + len(now)} goldens written to {directory}", highlight=False)
    return 0


@golden.command()
def diff(
    kernels: Kernels = None,
    against: Annotated[
        Path | None, typer.Option(help="Another store, instead of the models as they are.")
    ] = None,
    directory: Directory = golden_store.HOME,
    jobs: Jobs = 2,
) -> int:
    """Show the worst elements of every output that moved; exit 1 if any did."""
    names = _names(kernels)
    stored = _stored(directory, golden_store.verify_files(directory), names)
    now = _computed(names, jobs) if against is None else _as_goldens(against, names)
    drifts = _drifts(stored, now)
    _show(drifts, detailed=True)
    return 1 if drifts else 0


# -------------------------------------------------------------------------------------- computing


@dataclass(frozen=True)
class Job:
    """One golden to compute, in words that another process understands."""

    kernel: str
    case: str


def compute(job: Job) -> Golden:
    """The golden of one case as the model says it now."""
    subject = selection.subject(job.kernel)
    return goldens.compute(subject, subject.case(job.case))


def _names(kernels: Sequence[str] | None) -> list[str]:
    return [subject.name for subject in selection.subjects(kernels or [])]


def _computed(names: Sequence[str], jobs: int) -> list[Golden]:
    pairs = goldens.golden_cases(map(selection.subject, names))
    todo = [Job(subject.name, case.id) for subject, case in pairs]
    return run_all(compute, todo, jobs, "computing")


Stored = list[tuple[GoldenEntry, Golden]]


def _stored(directory: Path, manifest: Manifest, names: Sequence[str]) -> Stored:
    """The entries of the named kernels; of kernels that are gone too where all are asked for."""
    gone = {entry.kernel for entry in manifest.entries} - set(_names(None))
    wanted = {*names, *gone} if set(names) == set(_names(None)) else set(names)
    chosen = [entry for entry in manifest.entries if entry.kernel in wanted]
    return [(entry, _as_golden(directory, manifest, entry)) for entry in chosen]


def _stored_or_damage(directory: Path, names: Sequence[str]) -> tuple[Stored, str]:
    """What is stored, or nothing and why: a damaged store must not stand in the way of a new one."""
    try:
        return _stored(directory, golden_store.verify_files(directory), names), ""
    except GoldenError as error:
        return [], str(error)


def _others(directory: Path, names: Sequence[str]) -> list[Golden]:
    """The goldens of the kernels that were not named, as they are stored."""
    manifest = golden_store.read_manifest(directory)
    known = set(_names(None)) - set(names)
    return [_as_golden(directory, manifest, one) for one in manifest.entries if one.kernel in known]


def _as_goldens(directory: Path, names: Sequence[str]) -> list[Golden]:
    return [one for _, one in _stored(directory, golden_store.verify_files(directory), names)]


def _as_golden(directory: Path, manifest: Manifest, entry: GoldenEntry) -> Golden:
    return Golden(
        kernel=entry.kernel,
        case=entry.case,
        config=entry.config,
        lane=entry.lane,
        seed=entry.seed,
        profile=manifest.profiles[entry.profile],
        profile_digest=entry.profile,
        outputs=golden_store.read(directory, entry),
        points=entry.points,
    )


def _drifts(stored: Stored, now: Sequence[Golden]) -> list[Drift]:
    """Every golden that differs, is new, or belongs to no case any more."""
    present = {(one.kernel, one.case): one for one in now}
    known = {entry.key for entry, _ in stored}
    moved = [drift(entry, one.outputs, present[entry.key]) for entry, one in stored if entry.key in present]
    gone = [Drift(*entry.key, facts=("gone",)) for entry, _ in stored if entry.key not in present]
    new = [Drift(*key, facts=("new",)) for key in present if key not in known]
    return [one for one in (*moved, *gone, *new) if one]


# ---------------------------------------------------------------------------------------- showing


_COLUMNS = ("kernel", "case", "what", "changed", "of", "by up to", "first point that moved")


def _show(drifts: Sequence[Drift], detailed: bool = False) -> None:
    if not drifts:
        return
    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for row in _rows(drifts):
        table.add_row(*row)
    console().print(table, markup=False)
    if detailed:
        for report in (output.report for one in drifts for output in one.outputs):
            console().print(f"\n{report}", markup=False, highlight=False)


def _rows(drifts: Sequence[Drift]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for one in drifts:
        rows += [(one.kernel, one.case, fact, "", "", "", "") for fact in one.facts]
        rows += [
            (one.kernel, one.case, output.name, str(output.changed), str(output.elements),
             "-" if output.max_ulp is None else ulp_text(output.max_ulp), one.first_point)
            for output in one.outputs
        ]  # fmt: skip
        if not one.facts and not one.outputs:
            rows.append((one.kernel, one.case, "no output", "0", "", "", one.first_point))
    return rows


def _change(reason: str, drifts: Sequence[Drift]) -> str:
    """The section of CHANGES.md: date, reason, and what moved."""
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    lines = [f"{today}: {' '.join(reason.split())}", ""]
    rows = _rows(drifts)
    if rows:
        lines += [_markdown(_COLUMNS), _markdown(("---",) * len(_COLUMNS)), *map(_markdown, rows)]
    return "\n".join(lines)


def _markdown(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
