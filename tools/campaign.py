"""`nki-oracle campaign`: check, fuzz and probe work over the workers of a Ray cluster, kept in one ledger."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from conformance import campaign as campaigning
from conformance.backends import is_hardware
from conformance.campaign import KINDS, Task
from conformance.cluster import Cluster, ClusterError
from conformance.ledger import Ledger, LedgerError, Run
from conformance.probes import record
from conformance.probes.session import Report
from conformance.results import CaseResult
from reference.numerics.profile import DEFAULT
from tools import chip, selection
from tools.errors import BadInput
from tools.output import console, require_folder, write_json
from tools.probe import show_findings
from tools.recording import interruptible, named

_SHOWN_FAILURES = 5


def campaign(
    kernels: Annotated[list[str] | None, typer.Argument(metavar="[KERNEL]...")] = None,
    ledger: Annotated[Path, typer.Option(help="The file that results are appended to.")] = Path("nki-oracle.ledger"),
    work: Annotated[list[str] | None, typer.Option(help="check, fuzz or probe; may come several times.")] = None,
    tag: Annotated[str, typer.Option(help="Which catalog cases are checked; 'all' for every one.")] = "check",
    examples: Annotated[int, typer.Option(help="Legal and illegal configs fuzzed per kernel.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Fixes what fuzzing draws.", min=0)] = 0,
    backend: Annotated[str, typer.Option(help="What executes the kernels.")] = "sim",
    provider: Annotated[str | None, typer.Option(help="Somebody's kernels: module:attribute.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds per launch in a child process.", min=0.1)] = None,
    workers: Annotated[int, typer.Option(help="Workers, where this process starts the cluster.", min=1)] = 2,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster; 'auto' for this machine's.")] = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this run; 'last' for the latest.")] = None,
    target: Annotated[str | None, typer.Option(help=chip.HELP)] = None,
    profile_out: Annotated[
        Path | None, typer.Option(help="Write the profile that the probes found, with its evidence.")
    ] = None,
) -> int:
    """Spread work over a cluster; exit 0 if every result is right. Broken off, it goes on with --resume last."""
    if address is None:
        selection.usable_backend(backend)
    require_folder(ledger)
    require_folder(profile_out)
    kinds = _kinds(work or ["check"], profile_out)
    setting = chip.setting(backend, target) if "probe" in kinds else None
    tasks = _tasks(kernels or [], kinds, tag, examples, seed, backend, provider, timeout)
    tasks += [] if setting is None else campaigning.probe_tasks(backend, setting, timeout)
    cores = campaigning.DEVICE_CORES if is_hardware(backend) else 0
    try:
        book = Ledger(ledger)
        asked = f"--provider {provider}" if provider else ""
        earlier = None if resume is None else named(book, resume, backend, "campaign", asked).id
        with Cluster(perform, workers, address, cores) as cluster:
            # Only now: where there is no cluster, there is no run.
            run = earlier or book.begin(backend, DEFAULT, note=asked, task="campaign")
            with _interruptible(tasks, book, run), _progress(tasks, book, run) as advance:
                campaigning.run(tasks, book, run, cluster, advance)
        found = [row.result for row in campaigning.latest(book.rows(run))]
        _show(ledger, run, found)
        right = setting is None or _found(campaigning.session_of(tasks, book, run, setting), book.run(run), profile_out)
    except (ClusterError, LedgerError) as error:
        raise BadInput(str(error)) from None
    return 0 if right and not _failures(found) else 1


def _found(report: Report, run: Run, profile_out: Path | None) -> bool:
    """Tells what the probes say together; whether all of it is known."""
    show_findings(report)
    if profile_out is not None:
        write_json(profile_out, record.profile_document(report, is_hardware(run.backend), run.versions))
    return record.passed(report)


def perform(task: Task) -> CaseResult:
    """The result of one task, in whatever process it is."""
    return campaigning.perform(
        task, lambda one: selection.Judged(one.subject, one.implementation, one.provider).subject()
    )


def _tasks(
    kernels: list[str],
    work: list[str],
    tag: str,
    examples: int,
    seed: int,
    backend: str,
    provider: str | None,
    timeout: float | None,
) -> list[Task]:
    subjects = selection.judged(kernels, None, provider).subjects
    tasks: list[Task] = []
    for subject in subjects:
        if "check" in work:
            tasks += campaigning.check_tasks(subject, selection.tagged(subject, tag), backend, timeout)
        if "fuzz" in work:
            tasks += campaigning.fuzz_tasks(subject, examples, seed, backend, timeout)
    return tasks


def _kinds(work: list[str], profile_out: Path | None) -> list[str]:
    if unknown := set(work) - set(KINDS):
        raise BadInput(f"--work {sorted(unknown)[0]}: known are {', '.join(KINDS)}")
    if profile_out is not None and "probe" not in work:
        raise BadInput("--profile-out is what probes found: give --work probe")
    return work


def _interruptible(tasks: list[Task], book: Ledger, run: str) -> contextlib.AbstractContextManager[None]:
    total = _number(tasks)
    return interruptible(lambda: total - len(campaigning.left(tasks, book, run)), total, book.path, "--resume last")


def _number(tasks: list[Task]) -> int:
    return len({task.key for task in tasks})


@contextlib.contextmanager
def _progress(tasks: list[Task], book: Ledger, run: str) -> Iterator[Callable[[CaseResult], None]]:
    """Tasks done of all, and how many results are not right, on stderr where someone is looking."""
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    wrong = 0
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        total = _number(tasks)
        bar = progress.add_task("campaign", total=total, completed=total - len(campaigning.left(tasks, book, run)))

        def advance(result: CaseResult) -> None:
            nonlocal wrong
            wrong += bool(_failures([result]))
            progress.update(bar, advance=1, description=f"campaign, {wrong} wrong" if wrong else "campaign")

        yield advance


def _failures(results: list[CaseResult]) -> list[CaseResult]:
    """What is not right. A config without room for what another lane promises says nothing of a kernel."""
    return [one for one in results if not one.tolerated and one.status != "unfit"]


def _show(ledger: Path, run: str, results: list[CaseResult]) -> None:
    table = Table("kernel", "lane", "tasks", "results", box=None, pad_edge=False)
    for (kernel, lane), group in sorted(_grouped(results).items()):
        counts = Counter(one.status for one in group)
        told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        table.add_row(kernel, lane, str(len(group)), told, style="red" if _failures(group) else None)
    console().print(table, highlight=False)
    failures = _failures(results)
    for result in failures[:_SHOWN_FAILURES]:
        console().print(result.report(), markup=False, highlight=False, end="\n\n")
    if len(failures) > _SHOWN_FAILURES:
        console().print(f"... and {len(failures) - _SHOWN_FAILURES} more in the ledger\n")
    console().print(
        f"{len(results) - len(failures)} of {len(results)} results right; run {run} in {ledger}",
        highlight=False, markup=False,
    )  # fmt: skip


def _grouped(results: list[CaseResult]) -> dict[tuple[str, str], list[CaseResult]]:
    groups: dict[tuple[str, str], list[CaseResult]] = {}
    for one in results:
        groups.setdefault((one.kernel, one.lane), []).append(one)
    return groups
