"""Independent jobs in several processes, with a progress bar."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Job = TypeVar("Job")
Result = TypeVar("Result")

#: Read by the BLAS libraries that NumPy is built with, when they are loaded.
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class WorkerDied(Exception):
    """A worker process was killed or crashed; what it was working on has no result."""


def run_all(
    work: Callable[[Job], Result],
    todo: Sequence[Job],
    jobs: int,
    title: str,
    apart: bool = False,
    each: Callable[[Job, Result], None] = lambda job, result: None,
) -> list[Result]:
    """`work` of every job, in the order of `todo`; `each` is told of every result as soon as it is there, in this
    process, so that an interrupted run keeps what it has.

    With one process the work is done in this one, unless it is to be done `apart`. Otherwise processes
    are spawned, not forked: a fork of a process with BLAS threads may hang, and only a new process can be
    given one BLAS thread, without which two workers get in each other's way. `work` and the jobs must be
    importable and picklable.
    """
    processes = min(jobs, len(todo))
    with _progress(title, len(todo)) as advance:
        if processes == 0 or (processes == 1 and not apart):
            return [_noted(job, work(job), each, advance) for job in todo]
        with _single_threaded_children(), _executor(processes) as executor:
            futures = {executor.submit(work, job): job for job in todo}
            return _collect(futures, each, advance)


def _noted(
    job: Job, result: Result, each: Callable[[Job, Result], None], advance: Callable[[], None]
) -> Result:
    each(job, result)
    advance()
    return result


def _collect(
    futures: dict[Future[Result], Job], each: Callable[[Job, Result], None], advance: Callable[[], None]
) -> list[Result]:
    try:
        for future in as_completed(futures):
            _noted(futures[future], future.result(), each, advance)
        return [future.result() for future in futures]
    except BrokenProcessPool:
        raise WorkerDied("a worker process died (killed, or out of memory); try --jobs 1") from None
    finally:
        for future in futures:
            future.cancel()


def _executor(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))


@contextlib.contextmanager
def _single_threaded_children() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """On stderr, and only where someone is looking: stdout belongs to the results."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)
