"""`nki-oracle campaign` on a local Ray of two workers: nothing lost and nothing twice, whoever is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.campaign import Task
from conformance.ledger import Ledger, LedgerError
from conformance.probes import catalog
from conformance.registry import kernel
from conformance.results import CaseResult
from conformance.tests.suite.cluster_work import GATE, Here
from conformance.tests.tools.command_line import Answer
from conformance.versions import versions
from tools import campaign as campaign_command
from tools import cli, recording

KERNEL = "qkv"
CASES = [case.id for case in kernel(KERNEL).catalog if "adversarial" in case.tags]
WORDS = ["campaign", KERNEL, "--tag", "adversarial", "--ledger"]
#: Cases that are done before anybody is killed, the first to be begun.
FREE = CASES[:2]

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the extra cluster is not installed (pip install '.[cluster]')"
)


_GATED = (
    "import sys; from tools import campaign, cli; from conformance.tests.suite.cluster_work import gated; "
    "campaign.perform = gated; sys.exit(cli.run(sys.argv[1:]))"
)


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder: the cases named in its file 'free' are done at once, all others wait for its file 'open'."""
    folder = tmp_path / "gate"
    folder.mkdir()
    (folder / "free").write_text(" ".join(FREE))
    monkeypatch.setenv(GATE, str(folder))
    return folder


def started(ledger: Path, *words: str) -> subprocess.Popen[str]:
    """A campaign in a process group of its own, whose tasks wait at the gate."""
    command = [sys.executable, "-c", _GATED, *WORDS, str(ledger), *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def rows(ledger: Path) -> list[str]:
    """The cases that have a result by now; none while the file is only being made."""
    try:
        return [row.result.case for row in Ledger(ledger).rows(Ledger(ledger).run().id)]
    except LedgerError:
        return []


def wait_until(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until something is so, while the process runs."""
    end = time.monotonic() + 120
    while not what():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.05)


@needs_ray
def test_a_killed_worker_and_then_a_killed_driver_lose_no_result_and_double_none(tmp_path: Path, gate: Path) -> None:
    ledger = tmp_path / "ledger"
    waiting = lambda: {int(file.name.rpartition("-")[2]) for file in gate.glob("waiting-*")}  # noqa: E731  (asked again and again)
    first = started(ledger)
    try:
        wait_until(lambda: len(rows(ledger)) == len(FREE) and len(waiting()) == 2, first)
        os.kill(min(waiting()), signal.SIGKILL)
        # What it was at is begun again by another worker.
        wait_until(lambda: len(waiting()) == 3, first)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert Counter(rows(ledger)) == Counter(FREE)

    (gate / "open").touch()
    second = started(ledger, "--resume", "last")
    out = second.communicate(timeout=240)[0]
    assert second.returncode == 0, out
    assert Counter(rows(ledger)) == Counter(CASES)
    assert len(Ledger(ledger).runs()) == 1
    assert f"{len(CASES)} of {len(CASES)} results right" in " ".join(out.split())

    page = tmp_path / "report.html"
    assert cli.run(["report", "--ledger", str(ledger), "-o", str(page)]) == 0
    assert f"{len(CASES)} cases of 1 kernels" in page.read_text()


def test_what_cannot_be_asked_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = tmp_path / "ledger"
    for words, told in (
        (["--work", "bake"], "--work bake: known are check, fuzz, probe"),
        (["--tag", "nonsense"], "is tagged 'nonsense'"),
        (["--work", "probe", "--target", "trn9"], "--target trn9: known are trn1, inf2, trn2, trn3"),
        (["--profile-out", "found.json"], "--profile-out is what probes found: give --work probe"),
        (["--resume", "last"], "there is no such ledger"),
        (["--backend", "trn2"], "backend trn2 cannot run here"),
    ):
        assert cli.run([*WORDS, str(ledger), *words]) == 2
        assert told in capsys.readouterr().err
    assert not ledger.exists()


def test_without_a_cluster_there_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.run([*WORDS, str(tmp_path / "ledger")]) == 2
    assert "ray is not installed" in capsys.readouterr().err
    assert not (tmp_path / "ledger").exists()


def test_a_run_of_another_command_is_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "ledger"
    assert cli.run(["check", KERNEL, "--case", CASES[0], "--ledger", str(ledger)]) == 0
    assert cli.run([*WORDS, str(ledger), "--resume", "last"]) == 2
    assert "was a check on sim (now a campaign on sim)" in capsys.readouterr().err


def _judged(task: Task) -> CaseResult:
    """Somebody else's kernels are all wrong."""
    return task.result(status="failed" if task.provider else "passed")


@pytest.fixture
def resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Goes on with a finished campaign of this project's own kernel."""
    monkeypatch.setattr(campaign_command, "Cluster", Here)
    monkeypatch.setattr(campaign_command, "perform", _judged)
    ledger = str(tmp_path / "ledger")
    assert cli.run([*WORDS, ledger]) == 0

    def run(*words: str) -> Answer:
        capsys.readouterr()
        return Answer(cli.run([*WORDS, ledger, "--resume", "last", *words]), *capsys.readouterr())

    return run


def test_the_results_of_other_kernels_are_not_taken_for_these(
    resumed: Callable[..., Answer], tmp_path: Path
) -> None:
    assert resumed().code == 0
    bad = ("--provider", "conformance.tests.suite.cluster_work:Bad")
    answer = resumed(*bad)
    assert answer.code == 2
    assert "asked no more (now --provider conformance.tests.suite.cluster_work:Bad)" in answer.err
    assert "leave --resume out to begin a new run" in answer.err
    # The twin: a campaign of their own finds them wrong, and goes on with itself.
    assert cli.run([*WORDS, str(tmp_path / "ledger"), *bad]) == 1
    assert resumed(*bad).code == 1


def test_the_results_of_other_versions_are_not_gone_on_with(
    resumed: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "versions", lambda: {**versions(), "neuronx-cc": "2.99"})
    answer = resumed()
    assert answer.code == 2
    assert "had neuronx-cc none (now 2.99)" in answer.err


def test_an_interruption_is_told_with_what_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "ledger"
    monkeypatch.setattr(campaign_command, "Cluster", Here)
    monkeypatch.setattr(campaign_command, "perform", _judged)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(Here, "after", 2)
        assert cli.run([*WORDS, str(ledger)]) == 130
    told = f"interrupted: 2 of {len(CASES)} results are in {ledger}; go on with --resume last"
    assert told in capsys.readouterr().err
    assert cli.run([*WORDS, str(ledger), "--resume", "last"]) == 0
    assert Counter(rows(ledger)) == Counter(CASES)
    assert "interrupted" not in capsys.readouterr().err


@pytest.mark.parametrize("target", ["trn2", "trn3"])
def test_probes_of_a_campaign_leave_a_profile(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, found, alone = (tmp_path / name for name in ("ledger", "found.json", "alone.json"))
    monkeypatch.setattr(campaign_command, "Cluster", Here)
    # Those of V4 ask the later chip for more.
    monkeypatch.setattr(catalog, "PROBES", tuple(catalog.chosen(["U1", "V4", "V8"])))
    words = ["campaign", KERNEL, "--work", "probe", "--target", target, "--ledger", str(ledger)]
    with monkeypatch.context() as interrupted:
        interrupted.setattr(Here, "after", 2)
        assert cli.run(words) == 130
    assert cli.run([*words, "--resume", "last", "--profile-out", str(found)]) == 0
    assert ("not on trn2" in capsys.readouterr().out) == (target == "trn2")
    assert cli.run(["probe", "--target", target, "--profile-out", str(alone)]) == 0
    one, other = (json.loads(file.read_text()) for file in (found, alone))
    assert one["profile"] == other["profile"]
    assert one["measurements"].keys() == other["measurements"].keys()
    assert one["unasked"] == []
