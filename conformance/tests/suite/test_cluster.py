"""Workers of a local Ray cluster: every task comes back once, whoever is killed on the way."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from conformance.cluster import ATTEMPTS, Cluster, ClusterError, Lost
from conformance.tests.suite.cluster_work import Errand, square

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the extra cluster is not installed (pip install '.[cluster]')"
)


@needs_ray
def test_every_task_comes_back_once_although_workers_die(tmp_path: Path) -> None:
    errands = [Errand(n, tmp_path, kills=n == 5, raises=n == 7) for n in range(9)]
    hopeless = Errand(99, tmp_path, kills=1000)
    with Cluster(square, cpus=2) as cluster:
        found = {task.number: result for task, result in cluster.results([*errands, hopeless])}
    assert sorted(found) == [*range(9), 99]
    assert {n: found[n] for n in range(9) if n != 7} == {n: n**2 for n in range(9) if n != 7}
    assert isinstance(found[7], ZeroDivisionError)
    # What a worker raises is an answer and is not asked again; a worker that dies is.
    assert len(list(tmp_path.glob("7-*"))) == 1
    assert len(list(tmp_path.glob("5-*"))) == 2
    assert isinstance(found[99], Lost)
    assert len(list(tmp_path.glob("99-*"))) == ATTEMPTS


@needs_ray
def test_a_worker_killed_from_outside_in_mid_task_costs_no_task(tmp_path: Path) -> None:
    errands = [Errand(n, tmp_path, seconds=0.3) for n in range(8)]
    killed: list[int] = []

    def kill_the_first_that_works() -> None:
        while not (seen := list(tmp_path.glob("*-0-*"))):
            time.sleep(0.01)
        killed.append(int(seen[0].name.rsplit("-", 1)[1]))
        os.kill(killed[0], signal.SIGKILL)

    threading.Thread(target=kill_the_first_that_works, daemon=True).start()
    with Cluster(square, cpus=2) as cluster:
        found = sorted((task.number, result) for task, result in cluster.results(errands))
    assert found == [(n, n**2) for n in range(8)]
    assert killed
    assert len(list(tmp_path.glob("*"))) > len(errands)


def test_a_missing_ray_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"ray is not installed.*\[cluster\]"), Cluster(square):
        pass


@needs_ray
def test_a_cluster_that_does_not_answer_is_told_in_one_line() -> None:
    with pytest.raises(ClusterError, match=r"no Ray cluster at 127\.0\.0\.1:9") as told:
        Cluster(square, address="127.0.0.1:9").__enter__()
    assert "\n" not in str(told.value)
