"""`nki-oracle campaign` on a local Ray of two workers: nothing lost and nothing twice, whoever is killed."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from conformance.ledger import Ledger, LedgerError
from conformance.registry import kernel
from tools import cli

KERNEL = "output_projection_tkg"
CASES = sorted(case.id for case in kernel(KERNEL).catalog if "ci" in case.tags)
WORDS = ["campaign", KERNEL, "--tag", "ci", "--ledger"]

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the extra cluster is not installed (pip install '.[cluster]')"
)


def started(ledger: Path, *words: str) -> subprocess.Popen[str]:
    """A campaign in a process group of its own."""
    command = [sys.executable, "-m", "tools.cli", *WORDS, str(ledger), *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def rows(ledger: Path) -> list[str]:
    """The cases that have a result by now; none while the file is only being made."""
    try:
        return [row.result.case for row in Ledger(ledger).rows(Ledger(ledger).run().id)]
    except LedgerError:
        return []


def wait_for_rows(ledger: Path, process: subprocess.Popen[str]) -> None:
    """Until the first results are on disk."""
    end = time.monotonic() + 120
    while not rows(ledger):
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.05)


def workers(of: int) -> list[int]:
    """Worker processes of Ray under a driver, by their command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
        except OSError:
            continue
        if words.startswith(b"ray::") and session == of:
            found.append(int(folder.name))
    return found


@needs_ray
def test_a_killed_worker_and_then_a_killed_driver_lose_no_result_and_double_none(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    first = started(ledger)
    try:
        wait_for_rows(ledger, first)
        busy = workers(first.pid)
        assert busy
        os.kill(busy[0], signal.SIGKILL)
    finally:
        time.sleep(0.3)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    before = rows(ledger)
    assert 0 < len(before) < len(CASES), "the driver ended before it was killed"

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
    assert "that is a run of check on sim" in capsys.readouterr().err
