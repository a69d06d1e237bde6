"""Results of a run as they come, in a ledger, so that an interrupted run can go on where it stopped.

A run is gone on with only by one that asks the same of the same versions: results of another SDK are no part of it.
A case that timed out or died says nothing of its numbers and is tried again; both rows stay.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from conformance.config_codec import dict_digest
from conformance.ledger import Key, Ledger, Row, Run
from conformance.results import UNDONE, CaseResult
from conformance.subject import Case, config_to_dict
from conformance.versions import versions
from reference.numerics.profile import DEFAULT, NumericsProfile
from tools.errors import BadInput

_Key = tuple[str, str, str, int]


class Recording:
    """The results of one run of a command. `asked` is what decides them, beside backend, profile and versions, in
    words."""

    def __init__(
        self, path: Path, backend: str, task: str, asked: str, resume: bool, profile: NumericsProfile = DEFAULT
    ) -> None:
        self.path = path
        self._ledger, self._task = Ledger(path), task
        self._known: dict[_Key, CaseResult] = {}
        self._repetitions: dict[_Key, int] = {}
        found = latest(self._ledger, backend, task, asked, profile) if resume else None
        self._run = found.id if found else self._ledger.begin(backend, profile, note=asked, task=task)
        for row in self._ledger.rows(self._run):
            key = _key(row.result.kernel, row.result.config, row.result.lane, row.result.seed)
            self._known[key] = row.result
            self._repetitions[key] = row.repetition + 1

    def done(self, kernel: str, case: Case) -> CaseResult | None:
        """The result that this run has of a case; None where it has none that says anything."""
        found = self._known.get(_key(kernel, config_to_dict(case.config), case.lane, case.seed))
        # Two cases of a catalog may be of one config.
        return None if found is None or found.status in UNDONE else dataclasses.replace(found, case=case.id)

    def known(self, asked: CaseResult) -> CaseResult | None:
        """The latest result that this run has of what `asked` is of."""
        return self._known.get(_key(asked.kernel, asked.config, asked.lane, asked.seed))

    def plan(self, cases: Iterable[tuple[str, Case]]) -> None:
        """Says which cases of which kernels are to be there in the end."""
        keys = (_key(kernel, config_to_dict(case.config), case.lane, case.seed) for kernel, case in cases)
        self._ledger.plan(self._run, (Key(*key, self._task, 0) for key in keys))

    def end(self, complaints: Sequence[str]) -> None:
        """Says that they are, and what is wrong beside them."""
        self._ledger.end(self._run, complaints)

    def add(self, result: CaseResult) -> None:
        """Appends a result; it is on disk when this returns."""
        key = _key(result.kernel, result.config, result.lane, result.seed)
        self._ledger.add(self._run, Row.of(result, self._task, self._repetitions.get(key, 0)))


def latest(ledger: Ledger, backend: str, task: str, asked: str, profile: NumericsProfile = DEFAULT) -> Run | None:
    """The latest run of a command that asked the same; BadInput where it ran with other versions."""
    if not ledger.path.exists():
        return None
    runs = [run for run in ledger.runs() if not _unlike(run, backend, task, asked, profile)]
    if runs:
        _require_versions(runs[-1])
    return runs[-1] if runs else None


def named(ledger: Ledger, name: str, backend: str, task: str, asked: str) -> Run:
    """The run of an id, the latest for 'last'; BadInput where it asked something else, or with other versions."""
    run = ledger.run("" if name == "last" else name)
    if apart := _unlike(run, backend, task, asked, DEFAULT):
        raise BadInput(f"--resume: run {run.id} {apart}; leave --resume out to begin a new run")
    _require_versions(run)
    return run


@contextlib.contextmanager
def interruptible(
    done: Callable[[], int], of: int, file: Path | None, again: str = "--resume"
) -> Iterator[None]:
    """Tells, where what runs within is interrupted, how much there is by then and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        where = f"are in {file}" if file else "are lost"
        told = f"go on with {again}" if again and file else "--ledger FILE keeps them as they come"
        print(f"nki-oracle: interrupted: {done()} of {of} results {where}; {told}", file=sys.stderr)
        raise


def _unlike(run: Run, backend: str, task: str, asked: str, profile: NumericsProfile) -> str:
    """What a run was that this one is not, '' where both ask the same."""
    if (run.task, run.backend) != (task, backend):
        return f"was a {run.task} on {run.backend} (now a {task} on {backend})"
    if run.note != asked:
        return f"asked {run.note or 'no more'} (now {asked or 'no more'})"
    return "" if run.profile == profile.to_dict() else "ran under another profile"


def _require_versions(run: Run) -> None:
    if apart := _differences(run.versions, versions()):
        raise BadInput(f"--resume: run {run.id} had {apart}; leave --resume out to begin a new run")


def _key(kernel: str, config: Mapping[str, object], lane: str, seed: int) -> _Key:
    return kernel, dict_digest(config), lane, seed


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = [name for name in now if then.get(name, "") != now[name]]
    return ", ".join(f"{name} {then.get(name) or 'none'} (now {now[name] or 'none'})" for name in names)
