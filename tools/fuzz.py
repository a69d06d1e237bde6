"""`nki-oracle fuzz`: drawn configs and data, legal ones to the bit, illegal ones refused."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from conformance.fuzz import FuzzResult
from conformance.fuzz import fuzz as fuzz_kernel
from tools import selection
from tools.output import console, note, require_folder, write_json
from tools.pool import run_all

#: Examples of one job. Fixed, so that what a seed draws does not depend on the number of processes.
_PART = 25


@dataclass(frozen=True)
class Job:
    """One part of a run, with a seed of its own."""

    judged: selection.Judged
    backend: str
    examples: int
    seed: int
    minutes: float | None


def fuzz(
    kernels: Annotated[list[str] | None, typer.Argument(metavar="[KERNEL]...")] = None,
    examples: Annotated[int, typer.Option(help="Legal and illegal configs per kernel.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Fixes everything that is drawn.", min=0)] = 0,
    minutes: Annotated[float | None, typer.Option(help="No example begins later, per part.", min=0)] = None,
    backend: Annotated[str, typer.Option(help="What executes the kernels.")] = "sim",
    kernel: Annotated[str | None, typer.Option(help="Another implementation: module:attribute.")] = None,
    provider: Annotated[str | None, typer.Option(help="Somebody's kernels: module:attribute.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results here.")] = None,
) -> int:
    """Compare kernel and model on drawn configs; exit 1 with the smallest failing one, if there is any."""
    selection.usable_backend(backend)
    require_folder(json_file)
    chosen = selection.judged(kernels or [], kernel, provider)
    todo = [
        Job(selection.Judged.of(subject), backend, size, seed + part, minutes)
        for subject in chosen.subjects
        for part, size in enumerate(_parts(examples))
    ]
    results = run_all(run, todo, jobs, "fuzzing")
    if json_file is not None:
        write_json(json_file, _document(results) | {"not_provided": list(chosen.absent)})
    if json_file != Path("-"):
        _show(results)
        note(chosen.remark())
    return 0 if all(result.passed for result in results) else 1


def run(job: Job) -> FuzzResult:
    """The result of one part."""
    return fuzz_kernel(job.judged.subject(), job.examples, job.seed, job.minutes, job.backend)


def _parts(examples: int) -> list[int]:
    whole, rest = divmod(examples, _PART)
    return [_PART] * whole + [rest] * (rest > 0)


def _show(results: list[FuzzResult]) -> None:
    table = Table("kernel", "seed", "cases", "refusals", "seconds", "", box=None, pad_edge=False)
    for one in results:
        verdict = "[green]passed[/green]" if one.passed else "[red]failed[/red]"
        table.add_row(
            one.kernel, str(one.seed), str(one.examples), str(one.refusals), f"{one.seconds:.1f}", verdict
        )
    console().print(table)
    for failure in (one.failure for one in results if not one.passed):
        console().print(f"\n{failure}", markup=False, highlight=False)


def _document(results: list[FuzzResult]) -> dict[str, Any]:
    rows = [_plain(result) for result in results]
    return {"command": "fuzz", "version": 1, "passed": all(one.passed for one in results), "results": rows}


def _plain(result: FuzzResult) -> dict[str, Any]:
    case = None if result.case is None else result.case.to_dict()
    return dataclasses.asdict(dataclasses.replace(result, case=None)) | {"case": case}
