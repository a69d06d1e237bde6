"""Claim: work done in several processes comes back in order, and a worker that dies is told in one line."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tools.pool import Steps, WorkerDied, as_they_come, run_all, stopped


def _square_slowly_at_first(number: int) -> int:
    time.sleep(0.2 if number == 0 else 0)
    return number * number


def _blas_threads(_: int) -> str:
    return os.environ.get("OPENBLAS_NUM_THREADS", "not set")


def _die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fail(_: int) -> None:
    raise ZeroDivisionError("by hand")


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_order_of_the_jobs(jobs: int) -> None:
    assert run_all(_square_slowly_at_first, [0, 1, 2, 3], jobs, "") == [0, 1, 4, 9]


def test_no_jobs_give_no_results() -> None:
    assert run_all(_square_slowly_at_first, [], 2, "") == []


def test_children_have_one_blas_thread_and_the_parent_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    assert run_all(_blas_threads, [0, 1], 2, "") == ["1", "1"]
    assert run_all(_blas_threads, [0], 1, "", apart=True) == ["1"]
    assert run_all(_blas_threads, [0], 1, "") == ["7"]


def test_dead_worker_is_told() -> None:
    with pytest.raises(WorkerDied, match="a worker process died"):
        run_all(_die, [0, 1], 2, "")


def test_exception_of_a_job_passes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        run_all(_fail, [0, 1], 2, "")


def _until_stopped(number: int) -> tuple[int, bool]:
    """A job that ends early when it is told to, and in any case."""
    end = time.monotonic() + 60
    while not stopped() and time.monotonic() < end:
        time.sleep(0.01)
    return number, stopped()


def test_results_come_as_they_are_ready_and_jobs_are_asked_for_when_there_is_room() -> None:
    asked: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(5):
            asked.append(number)
            yield number

    results = as_they_come(_square_slowly_at_first, jobs(), 2)
    first = next(results)
    # The slow job 0 is under way still, beside one more.
    assert first == 1
    assert len(asked) <= 3
    assert sorted([first, *results]) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_jobs_give_nothing_as_they_come(jobs: int) -> None:
    assert list(as_they_come(_square_slowly_at_first, iter([]), jobs)) == []


def test_at_an_interrupt_what_is_under_way_ends_early_and_still_gives_its_result() -> None:
    timer = threading.Timer(3.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    try:
        results = list(as_they_come(_until_stopped, itertools.count(), 2))
    finally:
        timer.cancel()
    assert sorted(results) == [(0, True), (1, True)]
    assert time.monotonic() - started < 30


def _three_steps(_: int) -> list[bool]:
    return [stopped() for _ in range(3)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_steps_are_counted_while_the_work_goes_on(jobs: int) -> None:
    steps = Steps()
    assert list(as_they_come(_three_steps, iter([0, 1]), jobs, steps)) == [[False] * 3] * 2
    assert int(steps) == 6
    # Outside of such work nothing is counted.
    assert not stopped()
    assert int(steps) == 6


def test_a_dead_worker_is_told_as_they_come() -> None:
    with pytest.raises(WorkerDied, match="a worker process died"):
        list(as_they_come(_die, iter([0, 1]), 2))


def test_an_exception_passes_through_as_they_come() -> None:
    with pytest.raises(ZeroDivisionError):
        list(as_they_come(_fail, iter([0, 1, 2]), 2))
