"""A campaign: check, fuzz and probe work cut into tasks, done by many workers, kept in one ledger.

A task is known by its key (kernel, digest of what it is, lane, seed, kind of work). Workers may do a task twice,
after one of them was lost; the ledger takes the first result of a key and no second, and a campaign that was
broken off goes on with the keys that are not there yet. The driver alone writes, so workers may be anywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from conformance.backends import is_hardware
from conformance.backends.child import ChildBackend
from conformance.fuzz import FuzzResult, fuzz
from conformance.ledger import Key, Ledger, Row
from conformance.probes import catalog, evidence, session
from conformance.probes.evidence import PROBE, Evidence
from conformance.probes.probe import Probe, Setting, digest
from conformance.results import UNDONE, CaseResult
from conformance.runner import named_backend
from conformance.subject import Backend, Case, Subject, config_to_dict
from conformance.waivers import run_waived
from reference.numerics.profile import DEFAULT

#: What a campaign can do.
KINDS = ("check", "fuzz", "probe")
#: Physical cores of a task on a device: a logical core of two for LNC=2, which fuzzing draws as it goes, and for LNC=1
#: one of them.
DEVICE_CORES = 2
#: Launches of a probe, whose bits must be equal.
PROBE_REPEAT = 2
#: Legal and illegal configs of one fuzz task: minutes, not hours, are lost with a worker.
FUZZ_PART = 25


@dataclass(frozen=True)
class Task:
    """One piece of work; picklable, and the same on every machine for the same campaign.

    `case` is what is checked; for fuzzing it carries the seed that draws, for a probe its name, and no config.
    `setting` is where a probe runs, and `inputs` the digest of what it launches.
    """

    kind: str
    subject: str
    implementation: str
    backend: str
    case: Case
    examples: int = 0
    provider: str = ""
    timeout: float | None = None
    setting: Setting | None = None
    inputs: str = ""

    @property
    def key(self) -> Key:
        """What the ledger knows it by: that of its result, the first time it is done."""
        return Row(self.result(), self.kind).key

    def result(self, **fields: Any) -> CaseResult:
        """A result of it; what `fields` do not say is as for a task that came to nothing."""
        plain: dict[str, Any] = {
            "kernel": self.subject,
            "case": self.case.id,
            "config": _described(self),
            "lane": self.case.lane,
            "seed": self.case.seed,
            "backend": self.backend,
            "profile": DEFAULT.to_dict(),
            "repro": "",
            "status": "died",
        }
        return CaseResult(**plain | fields)


class Workers(Protocol):
    """Whatever does tasks: `conformance.cluster.Cluster`, or a loop."""

    def results(self, tasks: Sequence[Task]) -> Iterable[tuple[Task, CaseResult | Exception]]:
        """Each task with its result, in any order."""


def check_tasks(subject: Subject, cases: Iterable[Case], backend: str, timeout: float | None = None) -> list[Task]:
    """One task per case."""
    return [
        Task("check", subject.name, subject.implementation, backend, case, 0, subject.provider, timeout)
        for case in cases
    ]


def fuzz_tasks(
    subject: Subject, examples: int, seed: int, backend: str, timeout: float | None = None
) -> list[Task]:
    """Tasks of FUZZ_PART examples, each from a seed of its own: the same for the same examples and seed."""
    sizes = [min(FUZZ_PART, examples - start) for start in range(0, examples, FUZZ_PART)]
    return [
        Task(
            "fuzz", subject.name, subject.implementation, backend,
            Case(f"fuzz-{size}-from-{seed + part}", None, "drawn", seed + part), size, subject.provider, timeout,
        )
        for part, size in enumerate(sizes)
    ]  # fmt: skip


def probe_tasks(backend: str, setting: Setting, timeout: float | None = None) -> list[Task]:
    """One task per probe that the chip can be asked. They only launch: what the outcomes say together is judged by
    `session_of`, so that no launch is done for several questions."""
    return [
        Task(
            "probe", PROBE, "", backend, Case(probe.name, None, PROBE),
            timeout=timeout, setting=setting, inputs=digest(probe.launches(setting)),
        )
        for probe in catalog.PROBES
        if probe.since <= setting.level
    ]  # fmt: skip


def session_of(tasks: Sequence[Task], ledger: Ledger, run_id: str, setting: Setting) -> session.Report:
    """What the evidence of the probes among these tasks says together."""
    keys = {task.case.id: task.key for task in tasks if task.kind == "probe"}
    found = {_whole(row.key): evidence.of_result(row.result) for row in latest(ledger.rows(run_id))}
    none = Evidence("", status="died", error="no worker came to an end with it")

    def known(probe: Probe) -> Evidence:
        return found.get(keys[probe.name]) or none

    held = session.Session(ledger.run(run_id).backend, setting, known)
    for probe in held.probes:
        held.ask(probe)
    return held.report()


def perform(task: Task, subject: Callable[[Task], Subject]) -> CaseResult:
    """Does a task; whatever a kernel, model or truth does becomes a status."""
    backend = named_backend(task.backend, timeout=task.timeout)
    try:
        return _done(task, subject, backend)
    finally:
        # The cores go back to the cluster with the end of the task, and a child would hold them.
        if isinstance(backend, ChildBackend) and is_hardware(task.backend):
            backend.close()


def _done(task: Task, subject: Callable[[Task], Subject], backend: Backend) -> CaseResult:
    if task.kind == "check":
        return run_waived(subject(task), task.case, backend)
    if task.setting is not None:
        found = evidence.gather(backend, task.setting, catalog.named(task.case.id), PROBE_REPEAT)
        return evidence.row(catalog.named(task.case.id), task.setting, task.backend, DEFAULT.to_dict(), found)
    return _of_fuzz(task, fuzz(subject(task), task.examples, task.case.seed, backend=backend))


def _of_fuzz(task: Task, found: FuzzResult) -> CaseResult:
    """A fuzz result as a row, with the outputs of the smallest failing case where there is one."""
    again = f"nki-oracle fuzz {task.subject} --examples {task.examples} --seed {task.case.seed}"
    seconds = {"fuzz": found.seconds}
    if found.passed:
        return task.result(status="passed", seconds=seconds, repro=again)
    if found.case is None:
        return task.result(status="failed", seconds=seconds, repro=again, error=found.failure)
    small = found.case
    return task.result(
        status=small.status, outputs=small.outputs, seconds=seconds, repro=small.repro, error=small.case,
        details=found.failure,
    )  # fmt: skip


def run(
    tasks: Sequence[Task],
    ledger: Ledger,
    run_id: str,
    workers: Workers,
    advance: Callable[[CaseResult], None] = lambda result: None,
) -> int:
    """Does what the run does not have yet, and appends each result as it comes; number of results added.

    What is to be there in the end is written down first, and last that it is.
    A task whose every attempt lost its worker becomes a result of status 'died'. A row of that status, or of one
    that timed out, says nothing of the numbers: the next call tries again, and both rows stay.
    """
    ledger.plan(run_id, (task.key for task in tasks))
    tried = Counter(_whole(row.key) for row in ledger.rows(run_id))
    added = 0
    for task, found in workers.results(left(tasks, ledger, run_id)):
        result = found if isinstance(found, CaseResult) else task.result(error=_one_line(found))
        added += ledger.add(run_id, Row.of(result, task.kind, tried[task.key]))
        advance(result)
    ledger.end(run_id)
    return added


def latest(rows: Iterable[Row]) -> list[Row]:
    """Of rows of one task the last: what was tried again is known by what came of it then."""
    return list({_whole(row.key): row for row in rows}.values())


def left(tasks: Sequence[Task], ledger: Ledger, run_id: str) -> list[Task]:
    """Tasks that the run has no result of, each once."""
    done = {_whole(row.key) for row in ledger.rows(run_id) if row.result.status not in UNDONE}
    unique = {task.key: task for task in tasks}
    return [task for key, task in unique.items() if key not in done]


@dataclass(frozen=True)
class Here:
    """Workers that are none: tasks done one after another in this process."""

    work: Callable[[Task], CaseResult]

    def results(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, CaseResult | Exception]]:
        """In the order given."""
        for task in tasks:
            yield task, self.work(task)


def _whole(key: Key) -> Key:
    """The key of a task, whose attempts differ in their repetition."""
    return key._replace(repetition=0)


def _described(task: Task) -> dict[str, Any]:
    """What stands for the config in the ledger; its digest is part of the key."""
    if task.kind == "check":
        return config_to_dict(task.case.config)
    if task.setting is not None:
        return evidence.config(catalog.named(task.case.id), task.setting, task.inputs)
    return {"examples": task.examples}


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
