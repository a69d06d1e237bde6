"""`nki-oracle golden`: verify the goldens, show what moved, replace them with a reason."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from conformance import golden_store, goldens
from conformance.drift import Drift
from conformance.drift_sides import side_of_goldens, stored
from conformance.golden_manifest import Manifest
from conformance.golden_store import Golden, GoldenError
from tools import drift_table, selection
from tools.drift import compared
from tools.errors import BadInput
from tools.output import console
from tools.pool import run_all

golden = typer.Typer(help="The stored outputs of the models.", no_args_is_help=True)

#: The other side of a comparison where it is no folder.
MODELS = "the models as they are"

Kernels = Annotated[list[str] | None, typer.Argument(metavar="[KERNEL]...")]
Directory = Annotated[Path, typer.Option("--directory", help="The golden store.")]
Jobs = Annotated[int, typer.Option(help="Processes.", min=1)]


@golden.command()
def verify(kernels: Kernels = None, directory: Directory = golden_store.HOME, jobs: Jobs = 2) -> int:
    """Check every file, recompute every golden, compare bits; exit 1 on drift, 2 on a damaged store."""
    manifest = golden_store.verify_files(directory)
    names = _names(kernels)
    found = _drift(directory, _stored(directory, manifest, names), _computed(names, jobs), jobs)
    _show(found)
    count = sum(entry.kernel in names for entry in manifest.entries)
    console().print(f"{count} goldens, {_cases(found)} with drift", highlight=False)
    return 1 if found.moved else 0


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
    before, damage = _stored_or_damage(directory, names)
    if damage and kernels:
        raise BadInput(f"a damaged store is replaced as a whole, without naming kernels: {damage}")
    now = _computed(names, jobs)
    found = _drift(directory, before, now, jobs)
    _show(found)
    if damage:
        console().print(f"the store is replaced as a whole: {damage}", highlight=False, markup=False)
    if not found.moved and not damage:
        console().print(f"{len(now)} goldens, none moved")
        return 0
    if accept is None:
        console().print('nothing was written; to replace the goldens: --accept "reason"', highlight=False)
        return 1
    others = [] if damage else _others(directory, names)
    golden_store.write(directory, [*others, *now], _change(accept, found))
    console().print(f"{len(others) + len(now)} goldens written to {directory}", highlight=False)
    return 0


@golden.command()
def diff(
    kernels: Kernels = None,
    against: Annotated[Path | None, typer.Option(help="Another store, instead of the models as they are.")] = None,
    directory: Directory = golden_store.HOME,
    jobs: Jobs = 2,
) -> int:
    """Show the worst elements of every output that moved; exit 1 if any did."""
    names = _names(kernels)
    before = _stored(directory, golden_store.verify_files(directory), names)
    now = _computed(names, jobs) if against is None else _as_goldens(against, names)
    found = _drift(directory, before, now, jobs, str(against or MODELS))
    _show(found, detailed=True)
    return 1 if found.moved else 0


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


def _stored(directory: Path, manifest: Manifest, names: Sequence[str]) -> list[Golden]:
    """The goldens of the named kernels; of kernels that are gone too where all are asked for."""
    gone = {entry.kernel for entry in manifest.entries} - set(_names(None))
    wanted = {*names, *gone} if set(names) == set(_names(None)) else set(names)
    return [stored(directory, manifest, entry) for entry in manifest.entries if entry.kernel in wanted]


def _stored_or_damage(directory: Path, names: Sequence[str]) -> tuple[list[Golden], str]:
    """What is stored, or nothing and why: a damaged store must not stand in the way of a new one."""
    try:
        return _stored(directory, golden_store.verify_files(directory), names), ""
    except GoldenError as error:
        return [], str(error)


def _others(directory: Path, names: Sequence[str]) -> list[Golden]:
    """The goldens of the kernels that were not named, as they are stored."""
    manifest = golden_store.read_manifest(directory)
    known = set(_names(None)) - set(names)
    return [stored(directory, manifest, one) for one in manifest.entries if one.kernel in known]


def _as_goldens(directory: Path, names: Sequence[str]) -> list[Golden]:
    return _stored(directory, golden_store.verify_files(directory), names)


def _drift(directory: Path, before: Sequence[Golden], now: Sequence[Golden], jobs: int, label: str = MODELS) -> Drift:
    """Every golden that differs, is new, or belongs to no case any more."""
    return compared(side_of_goldens(str(directory), before), side_of_goldens(label, now), jobs)


# ---------------------------------------------------------------------------------------- showing


def _show(found: Drift, detailed: bool = False) -> None:
    if found.moved:
        drift_table.show(found, detailed=detailed)


def _cases(found: Drift) -> int:
    return len({(row.kernel, row.case) for row in found.moved})


def _change(reason: str, found: Drift) -> str:
    """The section of CHANGES.md: date, reason, and what moved."""
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    told = [drift_table.summary(found), ""] if found.moved else []
    return "\n".join([f"{today}: {' '.join(reason.split())}", "", *told, *drift_table.markdown(found)])
