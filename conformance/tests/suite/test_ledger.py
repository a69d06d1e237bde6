"""Claim: a ledger gives back what was put in, whole, from however many processes, and never changes it; what is no
ledger, or a damaged one, is told in one line."""

from __future__ import annotations

import dataclasses
import multiprocessing
import sqlite3
from collections.abc import Callable, Iterator
from multiprocessing.pool import Pool
from pathlib import Path

import pytest

from conformance.config_codec import config_digest
from conformance.ledger import Key, Ledger, LedgerError, Row
from conformance.results import CaseResult
from conformance.runner import run_case
from conformance.subject import Case
from conformance.tests.suite import scaled_add
from conformance.tests.suite.scaled_add import SUBJECT, HostBackend
from conformance.versions import versions
from reference.numerics.profile import DEFAULT

SMALL = SUBJECT.catalog[0]
PROCESSES, EACH = 4, 15


def _result(name: str = "swaps_two_rows", case: Case = SMALL) -> CaseResult:
    return run_case(scaled_add.broken(name), case, HostBackend(), points=True)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Spawned once for all tests: starting an interpreter costs more than what it is to do."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as made:
        yield made


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "runs.ledger")


@pytest.mark.parametrize("name", ["swaps_two_rows", "makes_a_nan", "drops_a_column", "crashes"])
def test_a_result_comes_back_as_it_was(ledger: Ledger, name: str) -> None:
    """Infinite errors, missing figures, tracebacks and points included."""
    result = _result(name)
    run = ledger.begin("sim", DEFAULT, note="a note", task="check")
    assert ledger.add(run, Row.of(result))
    (row,) = ledger.rows(run)
    assert row.result == result
    assert row.key == Key("scaled_add", config_digest(SMALL.config), "normal", 0, "check", 0)


def test_a_run_tells_backend_profile_note_and_versions(ledger: Ledger) -> None:
    other = DEFAULT.replace(matmul_order="chain")
    ids = [ledger.begin("sim", DEFAULT, note="a note"), ledger.begin("trn2", other, task="fuzz")]
    first, second = ledger.runs()
    assert [first.id, second.id] == ids
    assert (first.backend, first.note, first.task, first.versions) == ("sim", "a note", "check", versions())
    assert (second.backend, second.task) == ("trn2", "fuzz")
    assert second.profile["matmul_order"] == "chain"
    assert ledger.run() == ledger.run(ids[1]) == second
    assert ledger.run(ids[0][:-1]) == first


def test_a_key_is_written_once_and_the_first_row_stays(ledger: Ledger) -> None:
    run = ledger.begin("sim", DEFAULT)
    first, second = _result("swaps_two_rows"), _result("is_dead")
    assert ledger.add(run, Row.of(first))
    assert not ledger.add(run, Row.of(second))
    assert [row.result for row in ledger.rows(run)] == [first]
    assert ledger.add(run, Row.of(second, repetition=1))
    assert ledger.add(run, Row.of(second, task="fuzz"))
    assert ledger.add(ledger.begin("sim", DEFAULT), Row.of(second))
    assert ledger.done(run) == {row.key for row in ledger.rows(run)}
    assert len(ledger.done(run)) == 3


@pytest.mark.parametrize("words", ["UPDATE result SET kernel = 'x'", "DELETE FROM result", "DELETE FROM run"])
def test_nothing_is_ever_changed(ledger: Ledger, words: str) -> None:
    run = ledger.begin("sim", DEFAULT)
    ledger.add(run, Row.of(_result()))
    with sqlite3.connect(ledger.path) as file, pytest.raises(sqlite3.IntegrityError, match="a ledger only grows"):
        file.execute(words)
    assert len(ledger.rows(run)) == 1


def test_nothing_is_created_by_reading(ledger: Ledger) -> None:
    for ask in (ledger.runs, ledger.run, lambda: ledger.rows("x"), lambda: ledger.done("x")):
        with pytest.raises(LedgerError, match="there is no such ledger"):
            ask()
    assert not ledger.path.exists()


# ----------------------------------------------------------------------------------- plan and end


ROWS = [Row.of(dataclasses.replace(_result(), seed=seed)) for seed in range(3)]


@pytest.fixture
def planned(ledger: Ledger) -> str:
    """A run that set out to do three cases."""
    run = ledger.begin("sim", DEFAULT)
    ledger.plan(run, (row.key for row in ROWS))
    return run


def _does(ledger: Ledger, run: str, rows: list[Row]) -> None:
    assert all(ledger.add(run, row) for row in rows)


def test_a_run_that_did_what_it_planned_lacks_nothing(ledger: Ledger, planned: str) -> None:
    _does(ledger, planned, ROWS)
    ledger.end(planned, ["a waiver is stale"])
    assert ledger.progress(planned).lacking == ""
    assert ledger.progress(planned).complaints == ("a waiver is stale",)


@pytest.mark.parametrize("ends", [False, True])
def test_a_run_with_fewer_results_than_planned_is_incomplete(ledger: Ledger, planned: str, ends: bool) -> None:
    _does(ledger, planned, [ROWS[0], dataclasses.replace(ROWS[0], repetition=1)])
    if ends:
        ledger.end(planned)
    assert ledger.progress(planned).lacking == "run incomplete: 1 of 3 cases"


def test_a_run_without_its_end_is_incomplete(ledger: Ledger, planned: str) -> None:
    _does(ledger, planned, ROWS)
    assert "did not come to its end" in ledger.progress(planned).lacking


def test_a_run_that_is_gone_on_with_owes_both_plans_and_another_end(ledger: Ledger, planned: str) -> None:
    _does(ledger, planned, ROWS)
    ledger.end(planned)
    more = Row.of(dataclasses.replace(_result(), seed=9))
    ledger.plan(planned, [more.key])
    assert ledger.progress(planned).lacking == "run incomplete: 3 of 4 cases"
    _does(ledger, planned, [more])
    ledger.end(planned)
    assert ledger.progress(planned).lacking == ""


def test_progress_is_asked_for_some_kernels_alone(ledger: Ledger, planned: str) -> None:
    progress = ledger.progress(planned)
    assert progress.of(["scaled_add"]).lacking == progress.of([]).lacking == "run incomplete: 0 of 3 cases"
    assert progress.of(["another"]).planned == frozenset()


def test_a_ledger_from_before_there_were_plans_is_read_and_gone_on_with(ledger: Ledger) -> None:
    run = ledger.begin("sim", DEFAULT)
    with sqlite3.connect(ledger.path) as file:
        file.execute("DROP TABLE mark")
    _does(ledger, run, ROWS[:1])
    assert ledger.progress(run).lacking == ""
    ledger.plan(run, (row.key for row in ROWS))
    assert ledger.progress(run).lacking == "run incomplete: 1 of 3 cases"
    with sqlite3.connect(ledger.path) as file, pytest.raises(sqlite3.IntegrityError, match="a ledger only grows"):
        file.execute("DELETE FROM mark")


def _append(path: Path, shared: str, process: int) -> list[bool]:
    """One process of several: a run of its own, and the same rows to a shared run as everybody else."""
    ledger, result = Ledger(path), _result()
    own = ledger.begin("sim", DEFAULT, note=str(process))
    rows = [Row.of(dataclasses.replace(result, seed=seed)) for seed in range(EACH)]
    assert all(ledger.add(own, row) for row in rows)
    return [ledger.add(shared, row) for row in rows]


def test_several_processes_append_at_once_and_nothing_is_lost_or_doubled(ledger: Ledger, pool: Pool) -> None:
    shared = ledger.begin("sim", DEFAULT)
    told = pool.starmap(_append, [(ledger.path, shared, process) for process in range(PROCESSES)], chunksize=1)
    assert [sum(answers) for answers in zip(*told, strict=True)] == [1] * EACH
    runs = {run.note: run.id for run in ledger.runs() if run.note}
    assert len(runs) == PROCESSES
    for run in (shared, *runs.values()):
        assert {row.key.seed for row in ledger.rows(run)} == set(range(EACH))
    # The file alone is the ledger once nobody has it open.
    assert [path.name for path in ledger.path.parent.iterdir()] == [ledger.path.name]


def _begin(path: Path) -> str:
    return Ledger(path).begin("sim", DEFAULT)


def test_several_processes_create_one_ledger(ledger: Ledger, pool: Pool) -> None:
    ids = pool.map(_begin, [ledger.path] * PROCESSES, chunksize=1)
    assert {run.id for run in ledger.runs()} == set(ids)


# ------------------------------------------------------------------------------ foreign and damaged


def _text(path: Path) -> None:
    path.write_text("kernel,grade\nqkv,A\n" * 100)


def _folder(path: Path) -> None:
    path.mkdir()


def _database_of_others(path: Path) -> None:
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE run (id)")


def _later_version(path: Path) -> None:
    _filled(path)
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")


def _truncated(path: Path) -> None:
    _filled(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flipped(path: Path) -> None:
    """One letter of a stored record, which SQLite takes for another record."""
    _filled(path)
    data = path.read_bytes()
    assert data.count(b'"rung":"sim"') > 0
    path.write_bytes(data.replace(b'"rung":"sim"', b'"rung":"sin"'))


def _other_columns(path: Path) -> None:
    _filled(path)
    with sqlite3.connect(path) as file:
        file.execute("DROP TABLE result")


def _filled(path: Path) -> None:
    ledger = Ledger(path)
    run = ledger.begin("sim", DEFAULT)
    for seed in range(20):
        ledger.add(run, Row.of(dataclasses.replace(_result(), seed=seed)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_text, "file is not a database"),
        (_folder, "there is no such ledger"),
        (_database_of_others, "an SQLite file, but no ledger of nki-oracle"),
        (_later_version, "a ledger of version 99; this program reads version 1"),
        (_truncated, "malformed"),
        (_flipped, "a record does not match its digest"),
        (_other_columns, "no such table: result"),
    ],
)
def test_what_is_no_whole_ledger_is_told_in_one_line(
    ledger: Ledger, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(ledger.path)
    with pytest.raises(LedgerError, match=message) as raised:
        ledger.rows(ledger.run().id)
    assert str(raised.value).startswith(f"{ledger.path}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("spoil", [_text, _folder, _database_of_others])
def test_a_file_of_others_is_left_as_it_is(ledger: Ledger, spoil: Callable[[Path], None]) -> None:
    spoil(ledger.path)
    before = ledger.path.read_bytes() if ledger.path.is_file() else b""
    with pytest.raises(LedgerError):
        ledger.begin("sim", DEFAULT)
    assert (ledger.path.read_bytes() if ledger.path.is_file() else b"") == before


def test_an_empty_file_becomes_a_ledger(ledger: Ledger) -> None:
    ledger.path.touch()
    assert ledger.run(ledger.begin("sim", DEFAULT)).backend == "sim"


def test_a_run_that_is_not_there_is_told_with_what_is(ledger: Ledger) -> None:
    ids = [ledger.begin("sim", DEFAULT) for _ in range(2)]
    with pytest.raises(LedgerError, match=f"it has no run 'x'; the latest is {ids[1]}"):
        ledger.run("x")
    with pytest.raises(LedgerError, match="'2' fits 2 runs"):
        ledger.run("2")
    with pytest.raises(LedgerError, match="it has no run 'x'"):
        ledger.add("x", Row.of(_result()))
