"""`nki-oracle fuzz`: drawn configs and data, legal ones to the bit and inside their bounds, illegal ones refused."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from conformance import adversarial
from conformance.fuzz import fuzz as fuzz_kernel
from conformance.fuzz_result import FuzzResult, worst_by_output
from conformance.subject import Subject
from tools import selection
from tools.errors import BadInput
from tools.fuzz_board import Board, cells, is_complete, on_screen, results_table
from tools.output import console, note, require_folder, write_json
from tools.pool import Steps, as_they_come, stopped

INTERRUPTED = 130
#: Examples of one job. Fixed, so that what a seed draws does not depend on the number of processes.
_PART = 200
#: Configs of each kind per kernel, where neither a number nor a time is given.
_EXAMPLES = 100
#: Illegal configs of a kernel in a run that ends by time.
_ILLEGAL = 200
#: Where examples are kept in a run that ends by time.
_DATABASE = Path(".nki-oracle") / "examples"


@dataclass(frozen=True)
class Job:
    """One part of a run, with a seed of its own."""

    judged: selection.Judged
    backend: str
    seed: int
    legal: int = 0
    illegal: int = 0
    #: Whether this part runs the cases that have every pair of options.
    pairs: bool = False
    seek: bool = True
    #: Time of the clock after which no example begins.
    until: float | None = None
    database: Path | None = None
    #: Whether this part begins with the examples that are kept.
    replay: bool = False


@dataclass(frozen=True)
class Wish:
    """What one run is asked for: a number of examples per kernel, or as many as fit in the time after all pairs."""

    backend: str
    examples: int | None
    seed: int
    seek: bool
    minutes: float | None
    database: Path | None

    def jobs(
        self,
        subjects: list[Subject],
        is_over: Callable[[str], bool],
        begun: Callable[[float | None], None] = lambda until: None,
    ) -> Iterator[Job]:
        """The parts: pairs of options, illegal configs, then drawn ones, kernel by kernel in turns.

        `is_over` tells of a kernel whether it has shown enough; asked before each of its parts. Every pair is run,
        whatever time that takes: the minutes begin where the pairs have been handed out, and `begun` is told their end.
        """
        judged = [selection.Judged.of(subject) for subject in subjects]
        for one in judged:
            yield self._job(one, self.seed, pairs=True)
        until = None if self.minutes is None else time.time() + 60 * self.minutes
        begun(until)
        for one in judged:
            yield self._job(one, self.seed, illegal=self.examples or _ILLEGAL, replay=True, until=until)
        parts = itertools.repeat(_PART) if self.examples is None else iter(_parts(self.examples))
        for number, size in enumerate(parts):
            running = [one for one in judged if not is_over(one.kernel)]
            for one in running:
                if until is not None and time.time() >= until:
                    return
                yield self._job(one, self.seed + number, legal=size, replay=number == 0, until=until)
            if not running:
                return

    def _job(self, judged: selection.Judged, seed: int, **more: Any) -> Job:
        return Job(judged, self.backend, seed, seek=self.seek, database=self.database, **more)


def fuzz(
    kernels: Annotated[list[str] | None, typer.Argument(metavar="[KERNEL]...")] = None,
    examples: Annotated[
        int | None, typer.Option(help=f"Legal and illegal configs per kernel. [{_EXAMPLES}]", min=1)
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="As many examples as fit in this time, all kernels together, after every pair of options."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes what is drawn, unless time or a database decides.", min=0)] = 0,
    seek: Annotated[
        bool, typer.Option("--seek/--bits-only", help="Climb towards the bounds, or compare bits alone.")
    ] = True,
    database: Annotated[
        Path | None,
        typer.Option(help=f"Keep examples here, and begin with those that failed. [with --minutes {_DATABASE}]"),
    ] = None,
    keep_worst: Annotated[
        bool, typer.Option("--keep-worst", help="Keep the cases nearest to their bounds, where they are worse.")
    ] = False,
    backend: Annotated[str, typer.Option(help="What executes the kernels.")] = "sim",
    kernel: Annotated[str | None, typer.Option(help="Another implementation: module:attribute.")] = None,
    provider: Annotated[str | None, typer.Option(help="Somebody's kernels: module:attribute.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes. [2; on a device 1]", min=1)] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results here.")] = None,
) -> int:
    """Compare kernel, model and truth on drawn configs; exit 1 with the smallest failing case of each finding."""
    started = time.monotonic()
    _require_sense(examples, minutes, database)
    selection.usable_backend(backend)
    require_folder(json_file)
    if keep_worst and (kernel or provider):
        raise BadInput("--keep-worst keeps cases of this project's own kernels, not of --kernel or --provider")
    chosen = selection.judged(kernels or [], kernel, provider)
    if minutes is not None and database is None:
        database = _DATABASE
    drawn = None if minutes is not None else examples or _EXAMPLES
    wish = Wish(backend, drawn, seed, seek, minutes, database)
    sums, interrupted = _run_all(wish, chosen.subjects, selection.processes(backend, jobs))
    kept = {name: adversarial.keep(selection.subject(name), one.worst) for name, one in sums.items() if keep_worst}
    if json_file is not None:
        found = _document(sums, interrupted, time.monotonic() - started)
        write_json(json_file, found | {"not_provided": list(chosen.absent)})
    if json_file != Path("-"):
        _show(sums)
        _say(f"\n{time.monotonic() - started:.1f} s in all")
        note(chosen.remark())
        _show_kept(kept)
    if not all(one.passed for one in sums.values()):
        return 1
    if interrupted:
        return INTERRUPTED
    return 0 if all(is_complete(one) for one in sums.values()) else 1


def _require_sense(examples: int | None, minutes: float | None, database: Path | None) -> None:
    if examples is not None and minutes is not None:
        raise BadInput("--examples and --minutes each say when to end; give one of them")
    if minutes is not None and not minutes > 0:
        raise BadInput(f"--minutes {minutes:g} is no time to draw examples in; give more than 0")
    if database is not None and database.exists() and not database.is_dir():
        raise BadInput(f"--database {database} is a file, and examples are kept in a folder")


def run(job: Job) -> FuzzResult:
    """The result of one part."""
    minutes = None if job.until is None else max(0.0, job.until - time.time()) / 60
    return fuzz_kernel(
        job.judged.subject(),
        job.legal,
        job.seed,
        minutes,
        job.backend,
        illegal=job.illegal,
        seek=job.seek,
        first=None if job.pairs else (),
        database=job.database,
        replay=job.replay,
        stop=stopped,
    )


def _run_all(wish: Wish, subjects: list[Subject], processes: int) -> tuple[dict[str, FuzzResult], bool]:
    """The results by kernel, and whether the user ended the run."""
    sums: dict[str, FuzzResult] = {}
    steps = Steps()
    board = Board([subject.name for subject in subjects], None, steps)
    jobs = wish.jobs(subjects, lambda kernel: kernel in sums and not sums[kernel].passed, board.end_at)
    try:
        with on_screen(board):
            for result in as_they_come(run, jobs, processes, steps):
                known = sums.get(result.kernel)
                sums[result.kernel] = result if known is None else known + result
                board.show(sums)
                if result.interrupted and processes == 1:
                    break
    except KeyboardInterrupt:
        return sums, True
    return sums, any(one.interrupted for one in sums.values())


def _parts(examples: int) -> list[int]:
    whole, rest = divmod(examples, _PART)
    return [_PART] * whole + [rest] * (rest > 0)


# ---------------------------------------------------------------------------------------- showing


def _show(sums: dict[str, FuzzResult]) -> None:
    table = results_table()
    for one in sums.values():
        table.add_row(*cells(one))
    console().print(table)
    for one in sums.values():
        _show_coverage(one)
        _show_worst(one)
    for one in sums.values():
        for finding in one.findings:
            _say(f"\n{finding.report}")


def _show_coverage(result: FuzzResult) -> None:
    if result.coverage.pairs:
        _say(f"\n{result.kernel}: {result.coverage.text()}")
        for pair in result.coverage.missing:
            _say(f"  not covered: {pair}")


def _show_worst(result: FuzzResult) -> None:
    for output, one in worst_by_output(result.worst).items():
        _say(f"{result.kernel} {output}: at most {one.share:.3f} of its bound ({one.family})\n  {one.repro}")
    for remark in result.remarks:
        _say(f"{result.kernel} {remark.output}: the model is inside its bound, {remark.why}\n  {remark.repro}")
    if result.remarks:
        _say("  no finding, as truth says too little of such data; check, which asks for grade C, exits 1 there")


def _show_kept(kept: dict[str, list[str]]) -> None:
    for kernel, changes in kept.items():
        for line in changes:
            _say(f"kept: {kernel} {line}")
    changed = [kernel for kernel, changes in kept.items() if changes]
    if changed:
        _say(f'their goldens: nki-oracle golden regen {" ".join(changed)} --accept "worst cases that fuzzing found"')


def _say(text: str) -> None:
    console().print(text, markup=False, highlight=False, soft_wrap=True)


def _document(sums: dict[str, FuzzResult], interrupted: bool, seconds: float) -> dict[str, Any]:
    return {
        "command": "fuzz",
        "version": 1,
        "passed": all(one.passed and is_complete(one) for one in sums.values()),
        "interrupted": interrupted,
        "seconds": seconds,
        "results": [one.to_dict() for one in sums.values()],
    }
