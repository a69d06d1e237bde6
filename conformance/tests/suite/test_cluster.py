"""Workers of a local Ray cluster: every task comes back once, whoever is killed on the way."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance import campaign
from conformance.cluster import ATTEMPTS, NEURON_CORES, Cluster, ClusterError, Lost
from conformance.ledger import Ledger
from conformance.registry import kernel
from conformance.tests import standin
from conformance.tests.suite.cluster_work import NOTES, Errand, on_stand_in, square
from reference.numerics.profile import DEFAULT
from tools import cli

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the extra cluster is not installed (pip install '.[cluster]')"
)


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that every worker of the running cluster knows."""
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def running(notes: Path) -> Iterator[str]:
    """The address of a Ray that somebody else has started: two processors and four cores of Neuron devices."""
    head = {"num_cpus": 2, "resources": {NEURON_CORES: 4}, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {NOTES: str(notes), standin.PLAN: "right", "RAY_USAGE_STATS_ENABLED": "0"}.items():
            environment.setenv(name, value)
        cluster = importlib.import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=head)
        yield cluster.address
        cluster.shutdown()


@needs_ray
def test_every_task_comes_back_once_although_workers_die(running: str, tmp_path: Path) -> None:
    errands = [Errand(n, tmp_path, kills=n == 5, raises=n == 7) for n in range(9)]
    hopeless = Errand(99, tmp_path, kills=1000)
    with Cluster(square, address=running) as cluster:
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
def test_a_worker_killed_from_outside_in_mid_task_costs_no_task(running: str, tmp_path: Path) -> None:
    errands = [Errand(n, tmp_path, seconds=0.3) for n in range(8)]
    killed: list[int] = []

    def kill_the_first_that_works() -> None:
        while not (seen := list(tmp_path.glob("*-0-*"))):
            time.sleep(0.01)
        killed.append(int(seen[0].name.rsplit("-", 1)[1]))
        os.kill(killed[0], signal.SIGKILL)

    threading.Thread(target=kill_the_first_that_works, daemon=True).start()
    with Cluster(square, address=running) as cluster:
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


@needs_ray
def test_a_campaign_goes_to_the_cluster_of_its_address(
    running: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["campaign", "output_projection_tkg", "--tag", "adversarial", "--ledger", str(tmp_path / "ledger")]
    assert cli.run([*words, "--address", running]) == 0
    assert "3 of 3 results right" in capsys.readouterr().out


# ---- cores of devices ----------------------------------------------------------------------------------------------


def _notes(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in folder.glob("notes-*") for line in file.read_text().splitlines()]


@needs_ray
def test_device_tasks_of_a_running_cluster_take_whole_pairs_of_cores_and_give_them_back(
    running: str, notes: Path, tmp_path: Path
) -> None:
    subject = kernel("output_projection_tkg")
    cases = [subject.case(name) for name in ("plain", "no-packing-d48", "plain-bias", "packing-n6-d32")]
    tasks = [*campaign.check_tasks(subject, cases, "trn2"), *campaign.fuzz_tasks(subject, 3, 0, "trn2")]
    book = Ledger(tmp_path / "ledger")
    run = book.begin("trn2", DEFAULT, task="campaign")
    with Cluster(on_stand_in, address=running, neuron_cores=campaign.DEVICE_CORES) as cluster:
        campaign.run(tasks, book, run, cluster)
    assert [(row.result.status, row.result.error) for row in book.rows(run)] == [("passed", "")] * len(tasks)

    children = [note for note in _notes(notes) if "visible" in note]
    assert {(note["lent"], note["lnc"]): note["visible"] for note in children}.items() <= {
        (("0,1", "1"), "0"), (("0,1", "2"), "0"), (("2,3", "1"), "2"), (("2,3", "2"), "1")
    }  # fmt: skip
    assert {note["lnc"] for note in children} == {"1", "2"}

    ended = [note for note in _notes(notes) if "ended" in note]
    assert len(ended) == len(tasks)
    assert {note["lent"] for note in ended} == {"0,1", "2,3"}
    assert [note["children"] for note in ended] == [[]] * len(tasks)
    for one, other in itertools.combinations(ended, 2):
        together = one["begun"] < other["ended"] and other["begun"] < one["ended"]
        assert not together or one["lent"] != other["lent"]

    # The twin: more than any node has would be waited for without end.
    with pytest.raises(ClusterError, match=r"no node of the Ray cluster offers 8 neuron_cores \(the most is 4\)"):
        Cluster(on_stand_in, address=running, neuron_cores=8).__enter__()
