"""The ledger: one SQLite file to which every run appends what came of its cases, so that runs can be compared later.

Three tables: `run` (when, on what backend, under which profile and versions), `result` (one case each, as JSON
with a digest over it), and `mark` (which keys a run set out to fill, and that it came to its end): a run that was
killed half way must not look like a whole one. Nothing is ever changed or deleted; triggers refuse it. A row whose key
is there already is not written again, which is what makes an interrupted run resumable and a retried task harmless.

Several processes may append at once: every operation is a transaction on a connection of its own, the file is in
WAL mode, and a writer waits for another instead of failing. A `Ledger` holds nothing but its path, so it can be
sent to other processes. Not for network file systems: WAL needs memory that all its users share.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from conformance.config_codec import dict_digest
from conformance.results import CaseResult
from conformance.versions import versions
from reference.numerics.profile import NumericsProfile

T = TypeVar("T")

#: In the header of the file: what it is (the letters NKIO), and the meaning of its columns.
APPLICATION_ID = 0x4E4B494F
VERSION = 1
#: How long a writer waits for others.
PATIENCE_SECONDS = 60.0

_TABLES = {
    "run": """
        CREATE TABLE run (
          serial INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
          document TEXT NOT NULL, digest TEXT NOT NULL)""",
    "result": """
        CREATE TABLE result (
          serial INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL REFERENCES run (id), kernel TEXT NOT NULL,
          config TEXT NOT NULL, lane TEXT NOT NULL, seed INTEGER NOT NULL, task TEXT NOT NULL,
          repetition INTEGER NOT NULL, document TEXT NOT NULL, digest TEXT NOT NULL,
          UNIQUE (run, kernel, config, lane, seed, task, repetition))""",
    "mark": """
        CREATE TABLE IF NOT EXISTS mark (
          serial INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL REFERENCES run (id), kind TEXT NOT NULL,
          document TEXT NOT NULL, digest TEXT NOT NULL)""",
}
_FOREVER = """
    CREATE TRIGGER IF NOT EXISTS {table}_{verb} BEFORE {verb} ON {table}
    BEGIN SELECT RAISE(ABORT, 'a ledger only grows'); END"""


#: The kinds of marks.
_PLAN, _END = "plan", "end"


class LedgerError(Exception):
    """The ledger cannot be read or written; the message is one line that names the file."""


class Key(NamedTuple):
    """What a row is of, unique within a run; `config` is its digest."""

    kernel: str
    config: str
    lane: str
    seed: int
    task: str
    repetition: int


@dataclass(frozen=True)
class Row:
    """One result in a run. `task` is what asked for it (check, fuzz, ...), `repetition` counts equal tasks."""

    result: CaseResult
    task: str = "check"
    repetition: int = 0

    @classmethod
    def of(cls, result: CaseResult, task: str = "check", repetition: int = 0) -> Row:
        """The row of a result, whose outputs carry their digests, histograms and shares of the bound."""
        return cls(result, task, repetition)

    @property
    def key(self) -> Key:
        """What the row is of."""
        one = self.result
        return Key(one.kernel, dict_digest(one.config), one.lane, one.seed, self.task, self.repetition)


@dataclass(frozen=True)
class Run:
    """One run; `profile` is the dict of its numerics profile, `started` UTC in ISO format."""

    id: str
    started: str
    backend: str
    profile: dict[str, Any]
    note: str = ""
    task: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """How far a run came: the keys it set out to fill (repetition 0), those it has a result of, whether it reached its
    end, and what it complained of beside its results. A run that kept no plan has no keys and counts as whole."""

    planned: frozenset[Key] = frozenset()
    done: frozenset[Key] = frozenset()
    ended: bool = True
    complaints: tuple[str, ...] = ()

    def of(self, kernels: Sequence[str]) -> Progress:
        """The part of it that is about these kernels; all of it for none."""
        planned = frozenset(key for key in self.planned if not kernels or key.kernel in kernels)
        return replace(self, planned=planned)

    @property
    def lacking(self) -> str:
        """'run incomplete: 3 of 9 cases'; '' where nothing is known to lack."""
        there = len(self.planned & self.done)
        if there < len(self.planned):
            return f"run incomplete: {there} of {len(self.planned)} cases"
        return "" if self.ended else "run incomplete: every case is there, and the run did not come to its end"


@dataclass(frozen=True)
class Ledger:
    """A ledger file, created by the first `begin`. Every method raises LedgerError for a file that is none, is
    damaged, of another version, or cannot be written."""

    path: Path

    def begin(
        self, backend: str, profile: NumericsProfile | Mapping[str, Any], note: str = "", task: str = "check"
    ) -> str:
        """Starts a run and gives its id; versions are those of this process."""
        now = datetime.now(timezone.utc)
        plain = profile.to_dict() if isinstance(profile, NumericsProfile) else dict(profile)
        run = Run(
            id=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
            started=now.isoformat(timespec="seconds"),
            backend=backend,
            profile=plain,
            note=note,
            task=task,
            versions=versions(),
        )
        document = _sealed(dict(vars(run)))
        words = "INSERT INTO run (id, document, digest) VALUES (?, ?, ?)"
        self._do(lambda file: file.execute(words, (run.id, *document)), creates=True)
        return run.id

    def add(self, run: str, row: Row) -> bool:
        """Appends one row; False, with nothing written, where the run has one of this key already."""
        words = (
            "INSERT OR IGNORE INTO result (run, kernel, config, lane, seed, task, repetition, document, digest) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )

        def insert(file: sqlite3.Connection) -> bool:
            document = _sealed(_without_profile(row.result, self._run(file, run)))
            return file.execute(words, (run, *row.key, *document)).rowcount == 1

        return self._do(insert)

    def plan(self, run: str, keys: Iterable[Key]) -> None:
        """Says which keys the run sets out to fill; a run that is gone on with may plan more."""
        self._mark(run, _PLAN, {"keys": sorted(set(keys))})

    def end(self, run: str, complaints: Sequence[str] = ()) -> None:
        """Says that the run did what it last planned, and what is wrong beside its results."""
        self._mark(run, _END, {"complaints": list(complaints)})

    def progress(self, run: str) -> Progress:
        """How far a run came."""
        marks = self._marks(run)
        planned = {Key(*key) for kind, plain in marks if kind == _PLAN for key in plain["keys"]}
        last, plain = marks[-1] if marks else (_END, {"complaints": []})
        done = frozenset(key._replace(repetition=0) for key in self.done(run))
        return Progress(frozenset(planned), done, last == _END, tuple(plain.get("complaints", ())))

    def runs(self) -> list[Run]:
        """Every run, the oldest first."""
        found = self._do(lambda file: file.execute("SELECT document, digest FROM run ORDER BY serial").fetchall())
        return [self._read(lambda plain: Run(**plain), *one) for one in found]

    def run(self, name: str = "") -> Run:
        """The run whose id this is or begins with; the latest for ''. LedgerError where none or several fit."""
        runs = self.runs()
        fitting = [run for run in runs if run.id.startswith(name)]
        if not fitting:
            what = f"no run '{name}'; the latest is {runs[-1].id}" if runs else "no run yet"
            raise LedgerError(f"{self.path}: it has {what}")
        if name and len(fitting) > 1:
            raise LedgerError(f"{self.path}: '{name}' fits {len(fitting)} runs: {', '.join(one.id for one in fitting)}")
        return fitting[-1]

    def rows(self, run: str) -> list[Row]:
        """All rows of a run, in the order in which they were added."""
        words = "SELECT task, repetition, document, digest FROM result WHERE run = ? ORDER BY serial"
        of, found = self._of_run(run, words)

        def result(plain: dict[str, Any]) -> CaseResult:
            return CaseResult.from_dict({"profile": of.profile, **plain})

        return [
            Row(self._read(result, document, digest), task, repetition) for task, repetition, document, digest in found
        ]

    def done(self, run: str) -> set[Key]:
        """The keys of a run: what a resumed run need not do again."""
        words = "SELECT kernel, config, lane, seed, task, repetition FROM result WHERE run = ?"
        return {Key(*one) for one in self._of_run(run, words)[1]}

    def _mark(self, run: str, kind: str, plain: Mapping[str, Any]) -> None:
        def insert(file: sqlite3.Connection) -> None:
            self._run(file, run)
            # Ledgers of earlier releases have no such table.
            for statement in (_TABLES["mark"], *_triggers("mark")):
                file.execute(statement)
            words = "INSERT INTO mark (run, kind, document, digest) VALUES (?, ?, ?, ?)"
            file.execute(words, (run, kind, *_sealed(plain)))

        self._do(insert)

    def _marks(self, run: str) -> list[tuple[str, dict[str, Any]]]:
        def select(file: sqlite3.Connection) -> list[Any]:
            self._run(file, run)
            if not file.execute("SELECT 1 FROM sqlite_master WHERE name = 'mark'").fetchone():
                return []
            words = "SELECT kind, document, digest FROM mark WHERE run = ? ORDER BY serial"
            return file.execute(words, (run,)).fetchall()

        return [(kind, self._read(dict, document, digest)) for kind, document, digest in self._do(select)]

    def _of_run(self, run: str, words: str) -> tuple[Run, list[Any]]:
        return self._do(lambda file: (self._run(file, run), file.execute(words, (run,)).fetchall()))

    def _run(self, file: sqlite3.Connection, run: str) -> Run:
        found = file.execute("SELECT document, digest FROM run WHERE id = ?", (run,)).fetchone()
        if found is None:
            raise LedgerError(f"{self.path}: it has no run '{run}'")
        return self._read(lambda plain: Run(**plain), *found)

    def _read(self, make: Callable[[dict[str, Any]], T], document: str, digest: str) -> T:
        """A record from its document. SQLite does not notice a flipped bit; the digest does."""
        if _digest(document) != digest:
            raise LedgerError(f"{self.path}: it is damaged: a record does not match its digest")
        try:
            return make(json.loads(document))
        except (ValueError, TypeError, KeyError) as error:
            told = f"{type(error).__name__}: {error}"
            raise LedgerError(f"{self.path}: a record of another form ({told}); another version wrote it") from None

    def _do(self, work: Callable[[sqlite3.Connection], T], creates: bool = False) -> T:
        """`work` on a connection of its own; each statement of it is one transaction."""
        if not creates and not self.path.is_file():
            raise LedgerError(f"{self.path}: there is no such ledger")
        try:
            with _connected(self.path, creates) as file:
                if creates and _is_fresh(file):
                    _create(file)
                self._require_ledger(file)
                return work(file)
        except sqlite3.Error as error:
            raise LedgerError(f"{self.path}: {' '.join(str(error).split())}") from None

    def _require_ledger(self, file: sqlite3.Connection) -> None:
        if _pragma(file, "application_id") != APPLICATION_ID:
            raise LedgerError(f"{self.path}: an SQLite file, but no ledger of nki-oracle")
        if (found := _pragma(file, "user_version")) != VERSION:
            raise LedgerError(f"{self.path}: a ledger of version {found}; this program reads version {VERSION}")


@contextlib.contextmanager
def _connected(path: Path, creates: bool) -> Iterator[sqlite3.Connection]:
    # As a URI, so that reading never creates a file; isolation_level None: transactions are told, not guessed.
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if creates else 'rw'}"
    file = sqlite3.connect(uri, uri=True, timeout=PATIENCE_SECONDS, isolation_level=None)
    try:
        yield file
    finally:
        file.close()


def _pragma(file: sqlite3.Connection, name: str) -> int:
    return int(file.execute(f"PRAGMA {name}").fetchone()[0])


def _is_fresh(file: sqlite3.Connection) -> bool:
    """Whether the file was only just created, by this process or by another that is about to fill it."""
    return _pragma(file, "page_count") == 0 or (
        _pragma(file, "application_id") == 0 and _pragma(file, "schema_version") == 0
    )


def _create(file: sqlite3.Connection) -> None:
    # SQLite does not wait for others by itself where the mode of the journal changes.
    _patiently(lambda: file.execute("PRAGMA journal_mode = WAL"))
    file.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been first.
        if _is_fresh(file):
            triggers = [trigger for table in _TABLES for trigger in _triggers(table)]
            header = [f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {VERSION}"]
            for statement in (*_TABLES.values(), *triggers, *header):
                file.execute(statement)
        file.execute("COMMIT")
    except BaseException:
        file.execute("ROLLBACK")
        raise


def _triggers(table: str) -> list[str]:
    return [_FOREVER.format(table=table, verb=verb) for verb in ("UPDATE", "DELETE")]


def _patiently(work: Callable[[], object]) -> None:
    """`work`, tried again while another process holds a lock that it cannot wait for."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            work()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)


def _without_profile(result: CaseResult, run: Run) -> dict[str, Any]:
    """A third of a row would be the profile that its run tells already."""
    plain = result.to_dict()
    same = json.loads(json.dumps(result.profile)) == run.profile
    return {name: value for name, value in plain.items() if not (same and name == "profile")}


def _sealed(plain: Mapping[str, Any]) -> tuple[str, str]:
    document = json.dumps(plain, separators=(",", ":"), allow_nan=False)
    return document, _digest(document)


def _digest(document: str) -> str:
    return hashlib.sha256(document.encode()).hexdigest()
