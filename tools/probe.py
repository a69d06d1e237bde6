"""`nki-oracle probe`: what the hardware does where documents leave it open, by experiments on a backend."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from conformance.backends import TIME_LIMIT, is_hardware
from conformance.probes import evidence, record
from conformance.probes.evidence import Evidence
from conformance.probes.probe import Probe, Setting, digest
from conformance.probes.session import FieldFinding, Finding, Report, Session
from conformance.results import CaseResult
from conformance.runner import named_backend
from conformance.subject import Backend
from conformance.versions import versions
from reference.numerics.profile import DEFAULT, PARTS, NumericsProfile, Value
from tools import chip, profile_option, selection
from tools.errors import BadInput
from tools.output import console, require_folder, write_json
from tools.pool import run_all
from tools.recording import Recording, interruptible

_COLORS = {"decided": "green", "open": "yellow", "generation": "bright_black"}


def probe(
    question: Annotated[
        list[str] | None, typer.Option(help="Id of a question; may come several times. What it needs is asked, too.")
    ] = None,
    backend: Annotated[str, typer.Option(help="What executes the probes.")] = "sim",
    target: Annotated[str | None, typer.Option(help=chip.HELP)] = None,
    profile: Annotated[str, typer.Option(help="What the embedded machine plays. " + profile_option.HELP)] = "default",
    repeat: Annotated[int, typer.Option(help="Launches per probe; the bits must be equal.", min=1)] = 2,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Function tables on all bf16 inputs, reciprocals of a whole binade.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option(help=f"Seconds per launch in a child process. [{TIME_LIMIT:g}]", min=0.1)
    ] = None,
    ledger: Annotated[Path | None, typer.Option(help="Append what every probe gave to this file as it comes.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last run in the ledger that asked the same.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write findings and evidence here; - for stdout.")
    ] = None,
    profile_out: Annotated[
        Path | None, typer.Option(help="Write the profile that was found, with its evidence.")
    ] = None,
) -> int:
    """Settle the open questions of the numerics profile; exit 1 if an outcome fits no known candidate or none came."""
    started = time.perf_counter()
    selection.usable_backend(backend)
    require_folder(json_file)
    require_folder(profile_out)
    played = profile_option.profile_of(profile)
    if played != DEFAULT and backend != "sim":
        raise BadInput(f"--profile: backend {backend} has answers of its own; only sim plays them")
    if resume and ledger is None:
        raise BadInput("--resume goes on with a run in a ledger: give --ledger FILE")
    on = named_backend(backend, played, selection.timed_backend(backend, timeout))
    setting = chip.setting(backend, target, played, exhaustive)
    launches = Launches(on, setting, repeat, played)
    session = _session(on.name, setting, launches, question or [])
    if ledger is not None:
        launches.recording = Recording(ledger, backend, evidence.PROBE, f"--repeat {repeat}", resume, played)
    kept, again = (ledger, "--resume") if ledger else (json_file or profile_out, "")
    written = functools.partial(_written, session, json_file, profile_out, is_hardware(backend))
    try:
        with interruptible(lambda: len(session.results), len(session.probes), kept, again):
            run_all(session.ask, session.probes, 1, "probing")
    except KeyboardInterrupt:
        written()
        raise
    report = written()
    if json_file != Path("-"):
        _show(report, time.perf_counter() - started, repeat, profile_out, is_hardware(backend))
    return 0 if record.passed(report) else 1


@dataclass
class Launches:
    """Evidence of probes from a backend. With a recording it is on disk when it is given, and what the run has there is
    not asked again."""

    on: Backend
    setting: Setting
    repeat: int
    played: NumericsProfile
    recording: Recording | None = None

    def __call__(self, probe: Probe) -> Evidence:
        if self.recording is None:
            return evidence.gather(self.on, self.setting, probe, self.repeat)
        asked = self._row(probe, Evidence(digest(probe.launches(self.setting))))
        known = self.recording.known(asked)
        if known is not None and (kept := evidence.of_result(known)) is not None:
            return kept
        found = evidence.gather(self.on, self.setting, probe, self.repeat)
        self.recording.add(self._row(probe, found))
        return found

    def _row(self, probe: Probe, found: Evidence) -> CaseResult:
        return evidence.row(probe, self.setting, self.on.name, self.played.to_dict(), found)


def _session(backend: str, setting: Setting, launches: Launches, questions: list[str]) -> Session:
    try:
        return Session(backend, setting, launches, [one.upper() for one in questions])
    except ValueError as error:
        raise BadInput(f"--question: {error}") from None


def _written(session: Session, json_file: Path | None, profile_out: Path | None, hardware: bool) -> Report:
    """The report of what was asked so far, after it was written to the files."""
    report, told = session.report(), versions()
    if json_file is not None:
        write_json(json_file, record.document(report, told))
    if profile_out is not None:
        write_json(profile_out, record.profile_document(report, hardware, told))
    return report


# ---------------------------------------------------------------------------------------- showing


def show_findings(report: Report) -> None:
    """Prints the verdict on every question, and below it what does not fit into a table."""
    out = console()
    out.print(_table(report))
    for title, lines in _sections(report):
        out.print(f"\n[bold]{title}[/bold]")
        for line in lines:
            out.print(f"  {line}", markup=False, highlight=False)
    out.print()


def _show(report: Report, seconds: float, repeat: int, profile_out: Path | None, hardware: bool) -> None:
    out = console()
    show_findings(report)
    for line in _summary(report, seconds, repeat, hardware):
        out.print(line, markup=False, highlight=False)
    if profile_out is not None:
        out.print(f"profile written to {profile_out}; --profile {profile_out} plays it", markup=False, highlight=False)


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("question", "field", "verdict", "left", "meaning", "profile"):
        table.add_column(name, overflow="fold")
    for finding in report.findings:
        for i, found in enumerate(finding.fields):
            color = _COLORS.get(found.status, "red")
            verdict = record.verdict(found.status, report)
            cells = (f"[{color}]{verdict}[/{color}]", _left(found), _means(found, report), _changes(found))
            table.add_row(finding.question if i == 0 else "", found.field, *cells)
    return table


def _left(found: FieldFinding) -> str:
    return "-" if found.status in ("generation", "none", "skipped") else ", ".join(map(_spelled, found.left))


def _spelled(value: Value) -> str:
    return str(value).lower()


def _means(found: FieldFinding, report: Report) -> str:
    if found.status == "decided":
        return record.meaning(found.field, found.left[0])
    if found.status == "open":
        why = record.reason(found, report)
        return f"these look alike: {why}" if why else "all of these fit what was seen"
    return {
        "generation": "asked on trn3 and later",
        "none": "see below",
        "unstable": "repeated launches differed",
        "failed": "see below",
        "skipped": "see below",
    }[found.status]


def _changes(found: FieldFinding) -> str:
    """What the finding says of the default of the profile."""
    default = PARTS[found.field].default
    if found.status == "decided" and found.left[0] not in PARTS[found.field].candidates:
        return "the profile cannot play it"
    if found.status == "decided":
        return "as the default" if found.left[0] == default else f"default was {_spelled(default)}"
    if found.status == "open":
        return "default fits" if default in found.left else f"default {_spelled(default)} is out"
    return ""


def _sections(report: Report) -> Iterator[tuple[str, list[str]]]:
    """Titles and lines of what is said below the table; empty sections are left out."""
    results = [result for finding in report.findings for result in finding.probes]
    notes = [f"{result.probe.question}  {note}" for result in results for note in result.notes]
    sections = {
        "What was recovered": notes,
        "Only together": [_together(one.fields, row) for one in report.combinations for row in one.rows],
        "Outcomes that fit none of the known candidates": [line for one in report.findings for line in _misfits(one)],
        "Probes without an outcome": [
            f"{result.probe.name}  {result.error}" for result in results if result.status in ("failed", "skipped")
        ],
    }
    yield from ((title, lines) for title, lines in sections.items() if lines)


def _together(fields: tuple[str, ...], row: tuple[Value, ...]) -> str:
    return ", ".join(f"{name}={_spelled(value)}" for name, value in zip(fields, row, strict=True))


def _misfits(finding: Finding) -> Iterator[str]:
    for result in finding.probes:
        if result.status != "none":
            continue
        yield f"{result.probe.name}: {result.probe.asks}"
        for one in result.readings:
            if one.against:
                yield f"  {one.name}: {one.against}"
            elif one.decisive:
                yield f"  {one.name}: fits {_fitting(one.fits)}"


def _fitting(fits: Mapping[str, Sequence[Value]]) -> str:
    return "; ".join(f"{name} {', '.join(map(_spelled, values))}" for name, values in fits.items())


def _summary(report: Report, seconds: float, repeat: int, hardware: bool) -> Iterator[str]:
    counts = Counter(record.verdict(one.status, report) for one in report.findings)
    listed = ", ".join(f"{count} {name}" for name, count in counts.items())
    launches = sum(result.repeats for one in report.findings for result in one.probes)
    yield f"{len(report.findings)} questions on {report.backend} ({report.setting.target}): {listed}"
    yield f"{launches} runs of probes ({repeat} of each, bits compared) in {seconds:.1f} s"
    changed = record.profile_of(report, hardware).changed()
    yield "profile found: " + (
        ", ".join(f"{name}={_spelled(value)}" for name, value in changed.items()) or "the default"
    )
    if not hardware:
        yield f"{report.backend} is no hardware: this tells what it plays, and measures nothing"
