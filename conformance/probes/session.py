"""Runs probes on a backend, eliminates candidates, and says what is left.

An outcome is held against the table of every combination of answers that is still possible; combinations that
give other cells fall. Where none is left the outcome fits none of the known candidates, and that is what is
reported, with the raw values: nothing is guessed, and later tables go on with all candidates of that field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from conformance.probes import catalog
from conformance.probes.evidence import Evidence, gather, one_line
from conformance.probes.knowledge import Assignment, Knowledge, Relation
from conformance.probes.probe import Array, Band, Expected, Outputs, Probe, Readings, Setting, fits, misfits
from conformance.subject import Backend
from reference.numerics.profile import PARTS, QUESTIONS, Value

#: Of a field: one candidate left; several; none of the known fits; this generation cannot be asked; its table rests
#: on an answer that fits nothing known; a launch failed; repeated launches differed.
STATUSES = ("decided", "open", "none", "generation", "skipped", "failed", "unstable")
_WORST_FIRST = ("none", "unstable", "failed", "skipped", "open", "generation", "decided")
#: Values and answers that a line lists before it only counts them.
_NAMED = 4


@dataclass(frozen=True)
class ReadingResult:
    """One reading: its cells, and per field of its probe the candidates that this reading alone leaves.

    `against` tells, where no combination fits, the first cell that misfits and what each candidate gives there.
    """

    name: str
    cells: Array
    fits: Mapping[str, tuple[Value, ...]]
    decisive: bool
    against: str = ""


@dataclass(frozen=True)
class ProbeResult:
    """One probe as it ran. `status` is one of STATUSES but 'decided' and 'open', or 'ran'."""

    probe: Probe
    status: str
    error: str = ""
    inputs: str = ""
    repeats: int = 0
    seconds: float = 0.0
    readings: tuple[ReadingResult, ...] = ()
    notes: tuple[str, ...] = ()
    outputs: Outputs = field(default_factory=dict)


@dataclass(frozen=True)
class FieldFinding:
    """What is known of one field of the profile: its status, and the candidates left."""

    field: str
    status: str
    left: tuple[Value, ...]

    @property
    def modelled(self) -> bool:
        """Whether every candidate left can be played."""
        return all(value in PARTS[self.field].candidates for value in self.left)


@dataclass(frozen=True)
class Finding:
    """What is known of one question after a session."""

    question: str
    fields: tuple[FieldFinding, ...]
    probes: tuple[ProbeResult, ...]

    @property
    def status(self) -> str:
        """The worst status of its fields."""
        found = {one.status for one in self.fields}
        return next(status for status in _WORST_FIRST if status in found)

    @property
    def decided(self) -> bool:
        """Whether every field has one answer, and the profile can hold it."""
        return all(one.status == "decided" and one.modelled for one in self.fields)


@dataclass(frozen=True)
class Report:
    """A whole session. `possible` is one assignment that everything seen allows; `unasked` are probes that it did not
    come to."""

    backend: str
    setting: Setting
    findings: tuple[Finding, ...]
    possible: Assignment
    combinations: tuple[Relation, ...] = ()
    unasked: tuple[str, ...] = ()

    def finding(self, question: str) -> Finding:
        """The finding of one question; KeyError where it was not asked."""
        for one in self.findings:
            if one.question == question:
                return one
        raise KeyError(question)


def run(backend: Backend, setting: Setting, questions: Sequence[str] = (), repeat: int = 2) -> Report:
    """A whole session at once, each launch `repeat` times; see `Session`."""
    session = Session(backend.name, setting, lambda probe: gather(backend, setting, probe, repeat), questions)
    for probe in session.probes:
        session.ask(probe)
    return session.report()


class Session:
    """The questions (all where none is named) with what they need. `launch` gives the evidence of a probe, from the
    backend of that name or from where it was kept.

    `ask` the `probes` in their order, then `report`, which tells of those that were asked. ValueError for an unknown
    question.
    """

    def __init__(
        self, backend: str, setting: Setting, launch: Callable[[Probe], Evidence], questions: Sequence[str] = ()
    ) -> None:
        self.probes = catalog.chosen(questions)
        self.results: list[ProbeResult] = []
        self._backend, self._setting, self._launch = backend, setting, launch
        self._knowledge = Knowledge(catalog.candidates(self.probes))
        self._unknown: set[str] = set()

    def ask(self, probe: Probe) -> None:
        """Run one probe and keep what it leaves."""
        self.results.append(self._asked(probe))

    def _asked(self, probe: Probe) -> ProbeResult:
        if probe.since > self._setting.level:
            return ProbeResult(probe, "generation")
        if unknown := [name for name in probe.needs if probe.strict and name in self._unknown]:
            return ProbeResult(probe, "skipped", f"its table needs {', '.join(unknown)}, which fits nothing known")
        found = self._launch(probe)
        try:
            if found.error:
                return self._failed(probe, found, found.error)
            return self._read(probe, found)
        except Exception as error:
            # Outputs of a wrong shape are an answer, too; the session goes on without this probe.
            return self._failed(probe, found, one_line(error))

    def _read(self, probe: Probe, found: Evidence) -> ProbeResult:
        readings = probe.read(found.outputs, self._setting)
        same = found.status == "passed"
        status, judged = self._judged(probe, readings) if same else ("unstable", _evidence(readings))
        notes = (*probe.notes(readings, self._setting), *_missing(probe.optional, found.outputs))
        return ProbeResult(
            probe, status, "", found.inputs, found.repeats, found.seconds, judged, notes, found.outputs
        )  # fmt: skip

    def _failed(self, probe: Probe, found: Evidence, error: str) -> ProbeResult:
        return ProbeResult(probe, "failed", error, found.inputs, seconds=found.seconds)

    def _judged(self, probe: Probe, readings: Readings) -> tuple[str, tuple[ReadingResult, ...]]:
        tables = [(one, probe.table(one, self._setting)) for one in self._knowledge.assignments(probe.scope)]
        survivors = [one for one, table in tables if all(fits(readings[name], table[name]) for name in table)]
        if survivors:
            self._knowledge.keep(probe.scope, survivors)
        else:
            self._unknown.update(probe.fields)
        found = tuple(_reading(probe, name, got, tables) for name, got in readings.items())
        return "ran" if survivors else "none", found

    def report(self) -> Report:
        """What the session found, question by question in the order of the profile."""
        asked = {result.probe.question for result in self.results}
        findings = tuple(self._finding(question) for question in QUESTIONS if question in asked)
        defaults = {name: part.default for name, part in PARTS.items()}
        possible = self._knowledge.one(defaults)
        unasked = tuple(probe.name for probe in self.probes[len(self.results) :])
        return Report(self._backend, self._setting, findings, possible, self._knowledge.combinations(), unasked)

    def _finding(self, question: str) -> Finding:
        probes = tuple(result for result in self.results if result.probe.question == question)
        parts = [part.field for part in QUESTIONS[question].parts]
        return Finding(question, tuple(self._field(name) for name in parts), probes)

    def _field(self, name: str) -> FieldFinding:
        left = self._knowledge.left[name]
        found = [result.status for result in self.results if name in result.probe.fields]
        for status in ("none", "unstable"):
            if status in found:
                return FieldFinding(name, status, () if status == "none" else left)
        if "ran" in found:
            return FieldFinding(name, "decided" if len(left) == 1 else "open", left)
        # A session that was broken off has not come to all the fields of a question.
        unasked = next((one for one in ("failed", "skipped", "generation") if one in found), "skipped")
        return FieldFinding(name, unasked, left)


def _missing(optional: Sequence[str], outputs: Outputs) -> Iterator[str]:
    yield from (f"'{name}', which gives evidence alone, could not run" for name in optional if name not in outputs)


def _evidence(readings: Readings) -> tuple[ReadingResult, ...]:
    return tuple(ReadingResult(name, got, {}, False) for name, got in readings.items())


def _reading(probe: Probe, name: str, got: Array, tables: Sequence[tuple[Assignment, Expected]]) -> ReadingResult:
    if not any(name in table for _, table in tables):
        return ReadingResult(name, got, {}, False)
    fitting = [one for one, table in tables if fits(got, table[name])]
    left = {part: tuple(dict.fromkeys(one[part] for one in fitting)) for part in probe.fields}
    return ReadingResult(name, got, left, True, "" if fitting else _against(probe, name, got, tables))


def _against(probe: Probe, name: str, got: Array, tables: Sequence[tuple[Assignment, Expected]]) -> str:
    """The first cell that misfits, and what the candidates give there."""
    first = tables[0][1][name]
    if (first.low if isinstance(first, Band) else first).shape != got.shape:
        return f"{got.shape} cells, which no candidate has"
    cell = tuple(int(i) for i in np.argwhere(misfits(got, first))[0])
    given: dict[str, list[str]] = {}
    for one, table in tables:
        answer = "+".join(str(one[part]).lower() for part in probe.fields)
        given.setdefault(_cell_text(table[name], cell), []).append(answer)
    each = [f"{value} by {_few(list(dict.fromkeys(answers)), ' or ')}" for value, answers in given.items()]
    listed = _few(each, "; ")
    return f"cell {cell[0] if len(cell) == 1 else list(cell)} is {float(got[cell])!r}; expected {listed}"


def _few(words: Sequence[str], between: str) -> str:
    more = [f"{len(words) - _NAMED} more"] if len(words) > _NAMED else []
    return between.join([*words[:_NAMED], *more])


def _cell_text(expected: Array | Band, cell: tuple[int, ...]) -> str:
    if isinstance(expected, Band):
        return f"{float(expected.low[cell])!r} to {float(expected.high[cell])!r}"
    return repr(float(expected[cell]))
