"""Claim: one command judges a device, whatever the device does; every case is told for what it came to.

The device is played by the stand-in (conformance/tests/standin), which here is a row of the table of backends.
"""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.backends import child, detection, wire
from conformance.backends.availability import Availability
from conformance.backends.child import ChildBackend
from conformance.ledger import Ledger
from conformance.providers import Provider
from conformance.tests import standin
from conformance.tests.standin.fixtures import Stage, stage
from conformance.tests.suite import scaled_add
from conformance.tests.tools.command_line import CommandLine
from conformance.versions import versions
from tools import check as checking
from tools import doctor, recording, selection

__all__ = ["stage"]

CHECK = ("check", "scaled_add", "--backend", standin.NAME, "--jobs", "1")


@pytest.fixture
def row(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in as a row of the table of backends."""
    made = detection._Row(lambda: Availability(True, "the stand-in"), "conformance.tests.standin:make", True)
    shared: dict[Any, Any] = {}
    for module in (detection, selection, doctor):
        monkeypatch.setattr(module, "BACKENDS", {**module.BACKENDS, standin.NAME: made})
    monkeypatch.setattr(detection, "_shared", shared)
    yield
    for backend in shared.values():
        assert isinstance(backend, ChildBackend)
        backend.close()


@pytest.fixture
def device(command: CommandLine, row: None) -> CommandLine:
    """The command line, knowing the kernel scaled_add in NKI and the stand-in as a backend."""
    command.judge(scaled_add.SUBJECT.with_implementation("conformance.tests.suite.scaled_add_nki:scaled_add"))
    return command


def _results(device: CommandLine, file: Path, *words: str) -> tuple[int, list[dict[str, Any]]]:
    code = device(*CHECK, *words, "--json", str(file)).code
    return code, json.loads(file.read_text())["results"]


def test_a_device_is_judged_case_by_case(device: CommandLine, tmp_path: Path) -> None:
    code, results = _results(device, tmp_path / "results.json")
    assert code == 0
    assert [(one["case"], one["backend"], one["status"]) for one in results] == [
        ("small", "stand-in", "passed"),
        ("exact", "stand-in", "passed"),
    ]


@pytest.mark.usefixtures("row")
def test_a_report_never_counts_the_stand_in_as_hardware(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run, check, page = CommandLine(capsys), tmp_path / "check.json", tmp_path / "page.html"
    words = ("check", "output_projection_tkg", "--case", "plain", "--backend", standin.NAME, "--jobs", "1")
    assert run(*words, "--json", str(check)).code == 0
    place = json.loads(check.read_text())["place"]
    assert place["nki"].endswith("+stand-in")
    assert place["preflight on 2 core(s)"] == "right"
    assert "NEURON_CC_FLAGS unset, NKI_COMPILER_FRONTEND unset" in place["settings"]
    run("report", "--check", str(check), "--output", str(page))
    told = json.loads(page.with_suffix(".json").read_text())
    assert (told["backend"], told["hardware"]) == ("stand-in", False)
    # The twin: the same results under the name of a chip would count.
    check.write_text(check.read_text().replace('"backend": "stand-in"', '"backend": "trn2"'))
    run("report", "--check", str(check), "--output", str(page))
    assert json.loads(page.with_suffix(".json").read_text())["hardware"] is True


@pytest.mark.parametrize(
    ("plan", "statuses"),
    [
        (("exit", "right"), ["died", "passed"]),
        (("compile-error", "right"), ["compile-failed", "passed"]),
        (("right", "refuses"), ["passed", "refused"]),
        (("zeros", "raises"), ["failed", "crashed"]),
        (("right", "runtime-timeout"), ["passed", "timed-out"]),
    ],
)
def test_what_goes_wrong_costs_its_own_case(
    device: CommandLine, stage: Stage, tmp_path: Path, plan: tuple[str, ...], statuses: list[str]
) -> None:
    stage.plays(*plan)
    code, results = _results(device, tmp_path / "results.json")
    assert code == 1
    assert [one["status"] for one in results] == statuses


class _LeapingClock:
    """Time as children's limits are measured by, some seconds ahead once a file is there."""

    def __init__(self, file: Path, seconds: float) -> None:
        self._file, self._seconds = file, seconds

    def monotonic(self) -> float:
        return time.monotonic() + (self._seconds if self._file.exists() else 0.0)


def test_a_launch_that_hangs_is_ended_by_the_time_limit(
    device: CommandLine, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit holds for starts and right launches too, and these take their time on a busy machine: the seconds pass
    when the launch has come to hang. That they pass by themselves is for test_child.py to see."""
    hangs = tmp_path / "hangs"
    for module in (child, wire):
        monkeypatch.setattr(module, "time", _LeapingClock(hangs, 240))
    stage.plays(f"hang:{hangs}", "right")
    answer = device(*CHECK, "--timeout", "240")
    assert answer.code == 1
    assert "1 of 2 cases passed" in answer.out
    assert "small on stand-in: timed-out" in answer.out
    assert "no answer within 240 s; it was killed" in answer.out
    assert f"again: nki-oracle check scaled_add --case small --backend {standin.NAME}" in answer.out


def test_bits_that_change_between_runs_are_a_failure(device: CommandLine, stage: Stage) -> None:
    stage.plays("unsteady")
    answer = device(*CHECK, "--case", "small", "--repeat", "3")
    assert answer.code == 1
    assert "not deterministic: " in answer.out
    assert "elements differ between run 1 and run 2" in answer.out
    assert "--repeat 3" in answer.out
    assert stage.launches == 3


def test_bits_that_stay_pass_the_repetition(device: CommandLine, stage: Stage, tmp_path: Path) -> None:
    code, results = _results(device, tmp_path / "results.json", "--repeat", "3")
    assert code == 0
    assert {one["repeats"] for one in results} == {3}
    assert stage.launches == 6


# ---- results as they come ------------------------------------------------------------------------------------------


def _interrupted_after(cases: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a run of check end as by Ctrl-C before case number `cases` + 1."""
    original, begun = checking.run, []

    def run(job: Any) -> Any:
        begun.append(job)
        if len(begun) > cases:
            raise KeyboardInterrupt
        return original(job)

    monkeypatch.setattr(checking, "run", run)


def test_an_interrupted_run_goes_on_with_what_it_has(
    device: CommandLine, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ("--ledger", str(tmp_path / "results"))
    with monkeypatch.context() as interrupted:
        _interrupted_after(1, interrupted)
        answer = device(*CHECK, *ledger)
        assert answer.code == 130
        assert f"interrupted: 1 of 2 results are in {tmp_path / 'results'}; go on with --resume" in answer.err
    (run,) = Ledger(tmp_path / "results").runs()
    assert [row.result.case for row in Ledger(tmp_path / "results").rows(run.id)] == ["small"]
    code, results = _results(device, tmp_path / "results.json", *ledger, "--resume")
    assert code == 0
    assert [(one["case"], one["status"]) for one in results] == [("small", "passed"), ("exact", "passed")]
    assert stage.launches == 2
    assert [one.id for one in Ledger(tmp_path / "results").runs()] == [run.id]


def test_an_interrupted_run_without_a_ledger_tells_what_is_lost(
    device: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupted_after(1, monkeypatch)
    answer = device(*CHECK)
    assert answer.code == 130
    assert "interrupted: 1 of 2 results are lost; --ledger FILE keeps them as they come" in answer.err


#: Runs a check; in place of a case that is named it kills its own process, as nothing in Python can notice.
_CHECK = """
import os, signal, sys
from tools import check, cli
fatal, *words = sys.argv[1:]
original = check.run
def run(job):
    if job.case.id == fatal: os.kill(os.getpid(), signal.SIGKILL)
    print("ran", job.case.id, flush=True)
    return original(job)
check.run = run
sys.exit(cli.run(["check", "output_projection_tkg", "--case", "plain", "--case", "plain-bias", "--jobs", "1", *words]))
"""


def _checked(*words: str, fatal: str = "") -> tuple[int, list[str]]:
    """Exit code and the cases that were run, of a check in a process of its own."""
    command = [sys.executable, "-c", _CHECK, fatal, *words]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True)
    return done.returncode, re.findall(r"^ran (\S+)$", done.stdout, re.MULTILINE)


def _judged(file: Path) -> list[tuple[Any, ...]]:
    """What was said of each output, without what differs from run to run."""
    told = ("name", "rung", "grade", "digest")
    return [
        (one["case"], one["status"], [tuple(output[word] for word in told) for output in one["outputs"]])
        for one in json.loads(file.read_text())["results"]
    ]


def test_a_run_that_was_killed_goes_on_too(tmp_path: Path) -> None:
    """Killed between two cases, so that no line of Python ran any more: the rows are on disk by then."""
    file, resumed, whole = (tmp_path / name for name in ("results", "resumed.json", "whole.json"))
    ledger = ("--ledger", str(file))
    assert _checked(*ledger, fatal="plain-bias") == (-signal.SIGKILL, ["plain"])
    (run,) = Ledger(file).runs()
    assert [row.result.case for row in Ledger(file).rows(run.id)] == ["plain"]
    assert _checked(*ledger, "--resume", "--json", str(resumed)) == (0, ["plain-bias"])
    assert [one.id for one in Ledger(file).runs()] == [run.id]
    rows = Ledger(file).rows(run.id)
    assert [(row.result.case, row.repetition) for row in rows] == [("plain", 0), ("plain-bias", 0)]
    # As if nothing had happened, the case from before the death among it.
    assert _checked("--json", str(whole)) == (0, ["plain", "plain-bias"])
    assert _judged(resumed) == _judged(whole)
    assert [case for case, status, outputs in _judged(whole) if outputs] == ["plain", "plain-bias"]


def test_what_died_or_timed_out_is_tried_again_and_what_failed_is_not(
    device: CommandLine, stage: Stage, tmp_path: Path
) -> None:
    ledger = ("--ledger", str(tmp_path / "results"))
    stage.plays("exit", "zeros", "right")
    assert device(*CHECK, *ledger).code == 1
    code, results = _results(device, tmp_path / "results.json", *ledger, "--resume")
    assert code == 1
    assert [(one["case"], one["status"]) for one in results] == [("small", "passed"), ("exact", "failed")]
    assert stage.launches == 3
    (run,) = Ledger(tmp_path / "results").runs()
    rows = [(row.result.case, row.result.status, row.repetition) for row in Ledger(tmp_path / "results").rows(run.id)]
    assert rows == [("small", "died", 0), ("exact", "failed", 0), ("small", "passed", 1)]


def test_what_was_never_launched_is_tried_again_and_what_crashed_is_not(
    device: CommandLine, stage: Stage, tmp_path: Path
) -> None:
    ledger = ("--ledger", str(tmp_path / "results"))
    stage.plays("busy", "raises", "right")
    code, results = _results(device, tmp_path / "results.json", *ledger)
    assert (code, [one["status"] for one in results]) == (1, ["not-run", "crashed"])
    code, results = _results(device, tmp_path / "results.json", *ledger, "--resume")
    assert (code, [one["status"] for one in results]) == (1, ["passed", "crashed"])
    assert stage.launches == 3


def test_a_run_that_stochastic_rounding_stopped_goes_on_once_it_is_off(
    device: CommandLine, row: None, stage: Stage, tmp_path: Path
) -> None:
    ledger = ("--ledger", str(tmp_path / "results"))
    stage.plays("right", preflight="stochastic")
    code, results = _results(device, tmp_path / "results.json", *ledger)
    assert (code, {one["status"] for one in results}, stage.launches) == (1, {"not-run"}, 0)
    stage.plays("right")
    for backend in detection._shared.values():
        backend.close()  # type: ignore[attr-defined]
    detection._shared.clear()
    code, results = _results(device, tmp_path / "results.json", *ledger, "--resume")
    assert (code, {one["status"] for one in results}, stage.launches) == (0, {"passed"}, 2)


@pytest.mark.parametrize("other", [("--repeat", "2"), ("--envelope",)])
def test_a_run_that_asked_something_else_is_not_gone_on_with(
    device: CommandLine, stage: Stage, tmp_path: Path, other: tuple[str, ...]
) -> None:
    ledger = ("--ledger", str(tmp_path / "results"))
    assert device(*CHECK, *ledger).code == 0
    assert device(*CHECK, *ledger, *other, "--resume").code == 0
    assert len(Ledger(tmp_path / "results").runs()) == 2


def test_a_run_with_other_versions_is_not_gone_on_with(
    device: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ("--ledger", str(tmp_path / "results"))
    assert device(*CHECK, *ledger).code == 0
    later = {**versions(), "nki": "0.7.0"}
    monkeypatch.setattr(recording, "versions", lambda: later)
    answer = device(*CHECK, *ledger, "--resume")
    assert answer.code == 2
    assert "had nki none (now 0.7.0); leave --resume out to begin a new run" in answer.err


def test_without_resume_a_run_begins_anew(device: CommandLine, stage: Stage, tmp_path: Path) -> None:
    ledger = ("--ledger", str(tmp_path / "results"))
    assert [device(*CHECK, *ledger).code for _ in range(2)] == [0, 0]
    assert stage.launches == 4
    assert len(Ledger(tmp_path / "results").runs()) == 2


# ---- what cannot be asked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--resume",), "--resume goes on with a run in a ledger: give --ledger FILE"),
        (("--ledger", __file__), "file is not a database"),
        (("--timeout", "5", "--backend", "host"), "--timeout: backend host launches in this process"),
        (("--timeout", "0"), "Invalid value for '--timeout'"),
        (("--repeat", "0"), "Invalid value for '--repeat'"),
        (("--backend", "trn2"), "backend trn2 cannot run here: missing: "),
        (("--backend", "nki-sim"), "backend nki-sim cannot run here: missing: "),
        (("--provider", "no.such:thing"), "--provider: provider no.such:thing cannot be imported"),
        (("--provider", "a:b", "--kernel", "a:b"), "--kernel and --provider both say whose kernel to judge"),
        (("--provider", f"{__name__}:Nothing"), "provider nothing has none of scaled_add"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_code_2(device: CommandLine, words: tuple[str, ...], told: str) -> None:
    answer = device("check", "scaled_add", "--jobs", "1", *words)
    assert answer.code == 2
    assert told in answer.err
    assert answer.err.count("\n") == 1


class Nothing(Provider):
    """Provides nothing."""

    name = "nothing"

    def implementation(self, kernel: str) -> None:
        return None


OURS = "conformance.tests.suite.test_providers:Ours"


def test_a_providers_kernel_is_judged_and_what_it_lacks_is_told(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from conformance import registry

    monkeypatch.setattr(registry, "kernel_names", lambda: ("scaled_add", "another"))
    known = command.subject
    other = dataclasses.replace(known, name="another")
    monkeypatch.setattr(registry, "kernel", lambda name: known if name == "scaled_add" else other)
    file = tmp_path / "results.json"
    answer = command("check", "--backend", "host", "--jobs", "1", "--provider", OURS, "--json", str(file))
    assert answer.code == 0
    assert "not provided by ours: another" in answer.out
    document = json.loads(file.read_text())
    assert document["not_provided"] == ["another"]
    assert {one["implementation"] for one in document["results"]} == {OURS}


# ---- doctor --------------------------------------------------------------------------------------------------------


def test_doctor_tells_what_is_missing_and_exits_0(command: CommandLine) -> None:
    answer = command("doctor")
    assert answer.code == 0
    assert "the embedded machine" in answer.out
    for part in ("Neuron driver", "Neuron device", "neuronx-cc"):
        assert part in answer.out


def test_doctor_launches_a_known_kernel_on_one_core_and_two(device: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "doctor.json"
    answer = device("doctor", "--backend", standin.NAME, "--json", str(file))
    assert answer.code == 0
    document = json.loads(file.read_text())
    assert document["preflight"] == {"1 core(s)": "right", "2 core(s)": "right"}
    assert document["place"]["nki"].endswith("+stand-in")


@pytest.mark.parametrize(
    ("manner", "told"),
    [
        ("stochastic", "stochastic rounding is on"),
        ("compile-error", "compile-failed: "),
    ],
)
def test_doctor_exits_1_where_the_known_launch_comes_out_wrong(
    device: CommandLine, stage: Stage, manner: str, told: str
) -> None:
    stage.plays("right", preflight=manner)
    answer = device("doctor", "--backend", standin.NAME)
    assert answer.code == 1
    assert told in answer.out


@pytest.mark.parametrize(("version", "lines"), [("0.7.1", 0), ("0.8.0", 1)])
def test_doctor_names_a_version_that_was_not_read_about(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, version: str, lines: int
) -> None:
    later = {**versions(), "nki": version}
    monkeypatch.setattr(doctor, "versions", lambda: later)
    answer = command("doctor")
    assert answer.code == 0
    assert answer.out.count(f"nki {version} is not read about: documents were read up to 0.7, see TRN2.md") == lines


def test_doctor_on_the_machine_itself(command: CommandLine) -> None:
    assert command("doctor", "--backend", "sim").code == 0


def test_doctor_cannot_launch_where_nothing_is(command: CommandLine) -> None:
    answer = command("doctor", "--backend", "trn2")
    assert answer.code == 2
    assert "missing: package nki" in answer.err


def test_the_settings_of_a_launch_are_told_with_what_this_shell_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_RT_STOCHASTIC_ROUNDING_EN", "1")
    monkeypatch.setattr(doctor, "_flights", lambda *_: ({}, {}))
    told = {one["setting"]: one["remark"] for one in doctor._findings("trn2", 1.0)["settings"]}
    assert told["NEURON_RT_STOCHASTIC_ROUNDING_EN=0"] == "1 in this shell, which launches do not inherit"
    assert told["NEURON_LOGICAL_NC_CONFIG=2"] == ""


@pytest.mark.parametrize(("backend", "jobs"), [("sim", 2), ("nki-sim", 2), ("trn2", 1), ("trn3", 1)])
def test_a_device_is_not_shared_unless_asked(backend: str, jobs: int) -> None:
    assert selection.processes(backend, None) == jobs
    assert selection.processes(backend, 4) == 4
