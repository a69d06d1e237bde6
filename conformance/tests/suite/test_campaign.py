"""Campaigns: what is done, what is left after an interruption, and that the ledger takes each result once."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from conformance import campaign
from conformance.backends import backend
from conformance.backends.sim import SimBackend
from conformance.campaign import Here, Task
from conformance.ledger import Ledger
from conformance.probes import session
from conformance.probes.probe import Setting
from conformance.probes.record import passed as passed_all
from conformance.probes.record import profile_document
from conformance.results import CaseResult
from conformance.subject import Arrays, Call, Case, Subject
from conformance.tests.suite import scaled_add
from reference.numerics.profile import DEFAULT
from tools import chip

SUBJECT = scaled_add.SUBJECT
WRONG = "is_dead"
GEN3, GEN4 = Setting("gen3"), Setting("gen4")
CASES = [Case(f"case-{n}", scaled_add.Config(rows=n + 1), "normal", n) for n in range(5)]
TASKS = campaign.check_tasks(SUBJECT, CASES, "sim")


def passed(task: Task) -> CaseResult:
    return task.result(status="passed")


@pytest.fixture
def book(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def run(book: Ledger) -> str:
    return book.begin("sim", DEFAULT, task="campaign")


class BreaksOff:
    """Workers whose driver dies after some results."""

    def __init__(self, after: int) -> None:
        self.after = after

    def results(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, CaseResult | Exception]]:
        for task in tasks[: self.after]:
            yield task, passed(task)
        raise KeyboardInterrupt


class Twice:
    """Workers that do everything twice, as after a loss that was none."""

    def results(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, CaseResult | Exception]]:
        for task in (*tasks, *reversed(tasks)):
            yield task, passed(task)


class Loses:
    """Workers that lose every task they are given."""

    def results(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, CaseResult | Exception]]:
        for task in tasks:
            yield task, RuntimeError("the worker\nis gone")


def cases(book: Ledger, run: str) -> list[str]:
    return [row.result.case for row in book.rows(run)]


def test_every_task_has_one_result(book: Ledger, run: str) -> None:
    seen: list[CaseResult] = []
    assert campaign.run(TASKS, book, run, Here(passed), seen.append) == 5
    assert sorted(cases(book, run)) == sorted(case.id for case in CASES)
    assert len(seen) == 5


def test_after_an_interruption_only_what_is_missing_is_done(book: Ledger, run: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        campaign.run(TASKS, book, run, BreaksOff(2))
    assert [task.case.id for task in campaign.left(TASKS, book, run)] == ["case-2", "case-3", "case-4"]
    assert book.progress(run).lacking == "run incomplete: 2 of 5 cases"
    assert campaign.run(TASKS, book, run, Here(passed)) == 3
    assert sorted(cases(book, run)) == sorted(case.id for case in CASES)


def test_a_result_that_comes_twice_is_kept_once(book: Ledger, run: str) -> None:
    assert campaign.run(TASKS, book, run, Twice()) == 5
    assert len(cases(book, run)) == 5


def test_a_task_that_is_named_twice_is_done_once(book: Ledger, run: str) -> None:
    assert campaign.run([*TASKS, *TASKS], book, run, Here(passed)) == 5


def test_a_lost_task_is_told_and_tried_again_by_the_next_call(book: Ledger, run: str) -> None:
    campaign.run(TASKS[:1], book, run, Loses())
    (row,) = book.rows(run)
    assert (row.result.status, row.result.error) == ("died", "RuntimeError: the worker is gone")
    assert campaign.run(TASKS[:1], book, run, Here(passed)) == 1
    assert [row.result.status for row in book.rows(run)] == ["died", "passed"]
    assert campaign.left(TASKS[:1], book, run) == []


def test_fuzz_tasks_cover_the_examples_with_seeds_of_their_own() -> None:
    tasks = campaign.fuzz_tasks(SUBJECT, 60, 7, "sim")
    assert [(task.examples, task.case.seed) for task in tasks] == [(25, 7), (25, 8), (10, 9)]
    assert len({task.key for task in tasks}) == 3
    assert campaign.fuzz_tasks(SUBJECT, 60, 7, "sim") == tasks


def test_work_of_different_kinds_has_different_keys() -> None:
    tasks = [*TASKS, *campaign.fuzz_tasks(SUBJECT, 100, 0, "sim"), *campaign.probe_tasks("sim", GEN3)]
    assert len({task.key for task in tasks}) == len(tasks) == 5 + 4 + len(campaign.probe_tasks("sim", GEN3))


def test_a_wrong_kernel_is_found_by_check_and_by_fuzz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "named_backend", lambda name, timeout: scaled_add.HostBackend())
    right, wrong = SUBJECT, SUBJECT.with_implementation(f"{scaled_add.__name__}:{WRONG}")
    for subject, expected in ((right, "passed"), (wrong, "failed")):
        tasks = [*campaign.check_tasks(subject, CASES[-1:], "sim"), *campaign.fuzz_tasks(subject, 5, 0, "sim")]
        found = [campaign.perform(task, lambda task, subject=subject: subject) for task in tasks]  # type: ignore[misc]
        assert [one.status for one in found] == [expected, expected]
    assert "nki-oracle" in found[1].repro
    assert found[1].outputs


def probed(book: Ledger, run: str, tasks: list[Task]) -> None:
    """Does probes as workers do them: the tasks and their results travel."""
    here = Here(lambda task: pickle.loads(pickle.dumps(campaign.perform(pickle.loads(pickle.dumps(task)), unasked))))
    campaign.run(tasks, book, run, here)


@pytest.mark.parametrize("setting", [GEN3, GEN4], ids=lambda setting: setting.target)
def test_probes_of_a_campaign_find_what_a_session_finds(book: Ledger, run: str, setting: Setting) -> None:
    tasks = campaign.probe_tasks("sim", setting)
    probed(book, run, tasks)
    assert {row.result.status for row in book.rows(run)} == {"passed"}
    alone = session.run(backend("sim"), setting)
    together = campaign.session_of(tasks, book, run, setting)
    assert statuses(together) == statuses(alone)
    assert profile_document(together, False, {})["profile"] == profile_document(alone, False, {})["profile"]
    assert ("generation" in statuses(together).values()) == (setting is GEN3)
    assert campaign.left(tasks, book, run) == []


def test_a_probe_that_never_came_to_an_end_is_told(book: Ledger, run: str) -> None:
    tasks = [task for task in campaign.probe_tasks("sim", GEN3) if task.case.id != "V8.scan_state"]
    probed(book, run, tasks)
    together = campaign.session_of(campaign.probe_tasks("sim", GEN3), book, run, GEN3)
    assert statuses(together)["scan_state"] == "failed"
    assert not passed_all(together)


def test_probes_are_asked_of_the_chip_that_the_backend_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch for a generation that a chip is not would be refused by its backend."""
    launched: set[str] = set()

    class Chip(SimBackend):
        def run(self, call: Call) -> Arrays:
            launched.add(call.target)
            return super().run(call)

    monkeypatch.setattr(campaign, "named_backend", lambda name, timeout: Chip())
    (task,) = [one for one in campaign.probe_tasks("trn3", chip.setting("trn3")) if one.case.id == "V8.scan_state"]
    assert campaign.perform(task, unasked).status == "passed"
    assert launched == {"trn3"}


def statuses(report: session.Report) -> dict[str, str]:
    return {one.field: one.status for finding in report.findings for one in finding.fields}


def unasked(task: Task) -> Subject:
    raise AssertionError("a probe has no kernel")
