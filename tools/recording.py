"""Results of a run as they come, in a ledger, so that an interrupted run can go on where it stopped.

A run is gone on with only by one that asks the same of the same versions: results of another SDK are no part of it.
A case that timed out or died says nothing of its numbers and is tried again; both rows stay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from conformance.config_codec import dict_digest
from conformance.ledger import Ledger, Row, Run
from conformance.results import UNDONE, CaseResult
from conformance.subject import Case, config_to_dict
from conformance.versions import versions
from reference.numerics.profile import DEFAULT
from tools.errors import BadInput

_Key = tuple[str, str, str, int]


class Recording:
    """The results of one run of a command. `asked` is what decides them, beside backend and versions, in words."""

    def __init__(self, path: Path, backend: str, task: str, asked: str, resume: bool) -> None:
        self._ledger, self._task = Ledger(path), task
        self._known: dict[_Key, CaseResult] = {}
        self._repetitions: dict[_Key, int] = {}
        found = self._earlier(backend, asked) if resume else None
        self._run = found.id if found else self._ledger.begin(backend, DEFAULT, note=asked, task=task)
        for row in self._ledger.rows(self._run):
            key = _key(row.result.kernel, row.result.config, row.result.lane, row.result.seed)
            self._known[key] = row.result
            self._repetitions[key] = row.repetition + 1

    def done(self, kernel: str, case: Case) -> CaseResult | None:
        """The result that this run has of a case; None where it has none that says anything."""
        found = self._known.get(_key(kernel, config_to_dict(case.config), case.lane, case.seed))
        # Two cases of a catalog may be of one config.
        return None if found is None or found.status in UNDONE else dataclasses.replace(found, case=case.id)

    def add(self, result: CaseResult) -> None:
        """Appends a result; it is on disk when this returns."""
        key = _key(result.kernel, result.config, result.lane, result.seed)
        self._ledger.add(self._run, Row.of(result, self._task, self._repetitions.get(key, 0)))

    def _earlier(self, backend: str, asked: str) -> Run | None:
        """The latest run that asked the same; BadInput where it ran with other versions."""
        if not self._ledger.path.exists():
            return None
        wanted = (backend, self._task, asked, DEFAULT.to_dict())
        runs = [run for run in self._ledger.runs() if (run.backend, run.task, run.note, run.profile) == wanted]
        if not runs:
            return None
        if apart := _differences(runs[-1].versions, versions()):
            raise BadInput(f"--resume: run {runs[-1].id} had {apart}; leave --resume out to begin a new run")
        return runs[-1]


def _key(kernel: str, config: Mapping[str, object], lane: str, seed: int) -> _Key:
    return kernel, dict_digest(config), lane, seed


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = [name for name in now if then.get(name, "") != now[name]]
    return ", ".join(f"{name} {then.get(name) or 'none'} (now {now[name] or 'none'})" for name in names)
