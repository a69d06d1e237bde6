"""`nki-oracle check`: cases through truth, model and kernel, each output beside the grade it must reach."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from conformance import registry
from conformance.backends import TIME_LIMIT, in_child
from conformance.grades import Grade
from conformance.mismatch import ulp_text
from conformance.results import CaseResult, OutputResult
from conformance.runner import named_backend
from conformance.subject import Case, Subject
from conformance.versions import versions
from conformance.waivers import run_waived, unmatched
from tools import selection
from tools.errors import BadInput
from tools.output import console, note, require_folder, write_json
from tools.pool import run_all
from tools.recording import Recording, interruptible

_SHOWN_FAILURES = 5


@dataclass(frozen=True)
class Job:
    """One case to run, in words that another process understands."""

    judged: selection.Judged
    case: Case
    backend: str
    envelope: bool
    timeout: float | None = None
    repeat: int = 1
    points: bool = False


def check(
    kernels: Annotated[list[str] | None, typer.Argument(metavar="[KERNEL]...")] = None,
    case: Annotated[list[str] | None, typer.Option(help="Id of one case, or its 'cfg:' text.")] = None,
    tag: Annotated[str, typer.Option(help="Which catalog cases; 'all' for every one.")] = "check",
    lane: Annotated[str | None, typer.Option(help="Run the cases with data of this lane.")] = None,
    seed: Annotated[int | None, typer.Option(help="Run the cases with data of this seed.", min=0)] = None,
    backend: Annotated[str, typer.Option(help="What executes the kernels.")] = "sim",
    kernel: Annotated[str | None, typer.Option(help="Another implementation: module:attribute.")] = None,
    provider: Annotated[str | None, typer.Option(help="Somebody's kernels: module:attribute.")] = None,
    envelope: Annotated[
        bool, typer.Option("--envelope", help="Also try for grade B (many model runs).")
    ] = False,
    repeat: Annotated[int, typer.Option(help="Launches per case; the bits must be equal.", min=1)] = 1,
    timeout: Annotated[
        float | None, typer.Option(help=f"Seconds per launch in a child process. [{TIME_LIMIT:g}]", min=0.1)
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes. [2; on a device 1]", min=1)] = None,
    ledger: Annotated[Path | None, typer.Option(help="Append every result to this file as it comes.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last run in the ledger that asked the same.")
    ] = False,
    points: Annotated[
        bool, typer.Option("--points", help="Keep a digest per rounding point, by which drift locates a change.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the results here; - for stdout.")
    ] = None,
) -> int:
    """Run cases through truth, model and kernel; exit 0 if every output reaches its required grade."""
    started = time.perf_counter()
    selection.usable_backend(backend)
    require_folder(json_file)
    if case and len(kernels or []) != 1:
        raise BadInput("--case belongs to one kernel: name exactly one before it")
    timeout = selection.timed_backend(backend, timeout)
    chosen = selection.judged(kernels or [], kernel, provider)
    todo = [
        Job(selection.Judged.of(subject), one, backend, envelope, timeout, repeat, points)
        for subject in chosen.subjects
        for one in selection.with_data(subject, _cases(subject, case, tag), lane, seed)
    ]
    if not todo:
        raise BadInput(f"no case fits lane '{lane}'" if lane else "there is no case to run")
    if resume and ledger is None:
        raise BadInput("--resume goes on with a run in a ledger: give --ledger FILE")
    asked = _asked(kernel, provider, envelope, repeat, points)
    recording = None if ledger is None else Recording(ledger, backend, "check", asked, resume)
    if recording is not None:
        recording.plan((job.judged.kernel, job.case) for job in todo)
    results = _in_order(todo, selection.processes(backend, jobs), recording)
    complaints = unmatched(map(selection.subject, registry.kernel_names()))
    if recording is not None:
        recording.end(complaints)
    if all(result.status == "unfit" for result in results):
        raise BadInput(f"no case could be run with these data: {results[0].error}")
    if json_file is not None:
        more = {"not_provided": list(chosen.absent), "versions": versions(), "place": _place(backend, timeout)}
        write_json(json_file, _document(backend, results, complaints) | more)
    if json_file != Path("-"):
        _show(results, time.perf_counter() - started)
        note(chosen.remark())
        for complaint in complaints:
            note(complaint)
    return 1 if _failures(results) or complaints else 0


def run(job: Job) -> CaseResult:
    """The result of one job; never raises for what a kernel, model or truth does."""
    backend = named_backend(job.backend, timeout=job.timeout)
    return run_waived(
        job.judged.subject(),
        job.case,
        backend,
        envelope=job.envelope,
        repeat=job.repeat,
        points=job.points,
    )


def _place(backend: str, timeout: float | None) -> dict[str, str]:
    """What the child process of this process's launches told of itself; {} where there was none."""
    return dict(getattr(named_backend(backend, timeout=timeout), "facts", {})) if in_child(backend) else {}


def _asked(kernel: str | None, provider: str | None, envelope: bool, repeat: int, points: bool) -> str:
    """What decides the results of a case, beside backend and versions, in words."""
    options = {"--kernel": kernel, "--provider": provider, "--repeat": repeat if repeat > 1 else None}
    words = [f"{name} {value}" for name, value in options.items() if value is not None]
    flags = {"--envelope": envelope, "--points": points}
    return " ".join([*words, *(name for name, given in flags.items() if given)])


def _in_order(todo: list[Job], processes: int, recording: Recording | None) -> list[CaseResult]:
    """Results in the order of `todo`, those that a resumed run has already among them.

    Run by number of cores: a child process, and the runtime in it, has to be started again where that changes.
    """
    done = {} if recording is None else _already(todo, recording)
    order = sorted(set(range(len(todo))) - done.keys(), key=lambda i: (getattr(todo[i].case.config, "lnc", 1), i))
    came: list[CaseResult] = []

    def each(job: Job, result: CaseResult) -> None:
        if recording is not None:
            recording.add(result)
        came.append(result)

    with interruptible(lambda: len(done) + len(came), len(todo), None if recording is None else recording.path):
        found = run_all(run, [todo[i] for i in order], processes, "checking", each=each)
    results = done | dict(zip(order, found, strict=True))
    return [results[i] for i in range(len(todo))]


def _already(todo: list[Job], recording: Recording) -> dict[int, CaseResult]:
    found = {i: recording.done(job.judged.kernel, job.case) for i, job in enumerate(todo)}
    return {i: result for i, result in found.items() if result is not None}


def _failures(results: list[CaseResult]) -> list[CaseResult]:
    """What did not pass. A config without room for what another lane promises says nothing of a kernel, and a known
    failure says nothing new."""
    return [result for result in results if not result.tolerated and result.status != "unfit"]


def _cases(subject: Subject, names: list[str] | None, tag: str) -> list[Case]:
    return selection.named(subject, names) if names else selection.tagged(subject, tag)


# ---------------------------------------------------------------------------------------- showing


def _show(results: list[CaseResult], seconds: float) -> None:
    console().print(_table(results))
    failures = _failures(results)
    for result in failures[:_SHOWN_FAILURES]:
        console().print(result.report(), markup=False, highlight=False, end="\n\n")
    if len(failures) > _SHOWN_FAILURES:
        console().print(f"... and {len(failures) - _SHOWN_FAILURES} more; --json holds all of them\n")
    fit = [result for result in results if result.status != "unfit"]
    passed = sum(result.passed for result in fit)
    console().print(f"{passed} of {len(fit)} cases passed{_waived(results)} in {seconds:.1f} s", highlight=False)


def _waived(results: list[CaseResult]) -> str:
    waived = [result for result in results if result.status == "waived"]
    names = sorted({name for result in waived for name in result.waivers})
    return f", {len(waived)} waived ({', '.join(names)})" if waived else ""


def _table(results: list[CaseResult]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("kernel", "case", "output", "rung"):
        table.add_column(name, overflow="fold")
    for name in ("grade", "required", "max ULP", "rel. error vs truth", "seconds"):
        table.add_column(name, justify="right")
    for result in results:
        for index, output in enumerate(result.outputs):
            table.add_row(
                *_case_cells(result, index), *_output_cells(output), _seconds(result, output, index)
            )
        if not result.outputs:
            color = "yellow" if result.tolerated else "red"
            table.add_row(*_case_cells(result, 0), "", "", f"[{color}]{result.status}[/{color}]")
    return table


def _case_cells(result: CaseResult, index: int) -> tuple[str, str]:
    return (result.kernel, result.case) if index == 0 else ("", "")


def _output_cells(output: OutputResult) -> tuple[str, ...]:
    color = "green" if output.passed else "yellow" if output.waiver else "red"
    required = "-" if output.required is Grade.F else str(output.required)
    grade = f"[{color}]{output.grade}{' waived' if output.waiver else ''}[/{color}]"
    return output.name, output.rung, grade, required, _ulp(output.max_ulp), _error(output.relative_l2)


def _seconds(result: CaseResult, output: OutputResult, index: int) -> str:
    """On the first row of each rung: how long that rung took."""
    if any(other.rung == output.rung for other in result.outputs[:index]):
        return ""
    return f"{result.seconds.get('model' if output.rung == 'model' else 'kernel', 0.0):.2f}"


def _ulp(value: int | None) -> str:
    return "-" if value is None else ulp_text(value).removesuffix(" ULP")


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"


def _document(backend: str, results: list[CaseResult], complaints: list[str]) -> dict[str, Any]:
    return {
        "command": "check",
        "version": 1,
        "backend": backend,
        "passed": not _failures(results) and not complaints,
        "complaints": complaints,
        "results": [result.to_dict() for result in results],
    }
