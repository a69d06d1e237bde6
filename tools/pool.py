"""Independent jobs in several processes, with a progress bar."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Job = TypeVar("Job")
Result = TypeVar("Result")

#: Read by the BLAS libraries that NumPy is built with, when they are loaded.
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_DIED = "a worker process died (killed, or out of memory); try --jobs 1"


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
        raise WorkerDied(_DIED) from None
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


# ------------------------------------------------------------------------- jobs without a known end

#: In a worker process: set when the user wants the run to end, and how many steps all workers have begun.
_STOPPED: Event | None = None
_STEPS: Steps | None = None


class Steps:
    """A number that workers count up in and others read, while results are not there yet."""

    def __init__(self) -> None:
        self._shared = multiprocessing.get_context("spawn").Value("Q", 0)

    def add(self) -> None:
        """One more."""
        with self._shared.get_lock():
            self._shared.value += 1

    def __int__(self) -> int:
        return int(self._shared.value)


def stopped() -> bool:
    """In a worker of `as_they_come`: whether what is under way should end early and give what it has.

    To be asked before every step of the work; asking counts the step.
    """
    if _STEPS is not None:
        _STEPS.add()
    return _STOPPED is not None and _STOPPED.is_set()


def as_they_come(
    work: Callable[[Job], Result], todo: Iterator[Job], jobs: int, steps: Steps | None = None
) -> Iterator[Result]:
    """Results as they are ready; `todo` is asked for its next job only when a process is free for it.

    `steps` counts what the workers have begun meanwhile.

    At an interrupt no job begins any more, those under way are told by `stopped`, and their results still come;
    a second one ends the processes. With one process the work is done in this one, and `work` has to catch what
    it wants to survive. WorkerDied where a process ends.
    """
    if jobs == 1:
        with _counting(steps):
            yield from map(work, todo)
        return
    event = multiprocessing.get_context("spawn").Event()
    with _single_threaded_children(), _interruptible(jobs, event, steps) as executor:
        with _interrupts_ignored():
            # All processes start here, and inherit that they do not hear the interrupts of a terminal.
            waiting = {executor.submit(work, job) for job in itertools.islice(todo, jobs)}
        while waiting:
            try:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                if event.is_set():
                    raise
                event.set()
                continue
            for future in done:
                if not event.is_set():
                    waiting |= {executor.submit(work, job) for job in itertools.islice(todo, 1)}
                yield _result(future)


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except BrokenProcessPool:
        raise WorkerDied(_DIED) from None


@contextlib.contextmanager
def _interruptible(jobs: int, event: Event, steps: Steps | None) -> Iterator[ProcessPoolExecutor]:
    """Workers that leave interrupts to this process, and end with it."""
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_leave_interrupts, initargs=(event, steps))
    try:
        yield executor
        executor.shutdown()
    except BaseException:
        for process in list(executor._processes.values()):
            process.terminate()
        executor.shutdown(cancel_futures=True)
        raise


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _counting(steps: Steps | None) -> Iterator[None]:
    global _STEPS
    _STEPS = steps
    try:
        yield
    finally:
        _STEPS = None


def _leave_interrupts(event: Event, steps: Steps | None) -> None:
    global _STOPPED, _STEPS
    _STOPPED, _STEPS = event, steps
    signal.signal(signal.SIGINT, signal.SIG_IGN)
