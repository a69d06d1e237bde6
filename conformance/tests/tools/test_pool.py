"""Claim: work done in several processes comes back in order, and a worker that dies is told in one line."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tools.pool import WorkerDied, run_all


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
