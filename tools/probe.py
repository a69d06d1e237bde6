"""`nki-oracle probe`: what the hardware does where documents leave it open, by experiments on a backend."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from conformance.backends import TIME_LIMIT, is_hardware
from conformance.backends.settings import TARGET
from conformance.probes import record
from conformance.probes.probe import Setting
from conformance.probes.session import FieldFinding, Finding, Report, Session
from conformance.runner import named_backend
from conformance.subject import Backend
from conformance.versions import versions
from reference.numerics.profile import DEFAULT, PARTS, NumericsProfile, Value
from tools import profile_option, selection
from tools.errors import BadInput
from tools.output import console, require_folder, write_json
from tools.pool import run_all

_GENERATIONS = {"trn1": "gen2", "inf2": "gen2", "trn2": "gen3", "trn3": "gen4"}
_COLORS = {"decided": "green", "open": "yellow", "generation": "bright_black"}


def probe(
    question: Annotated[
        list[str] | None, typer.Option(help="Id of a question; may come several times. What it needs is asked, too.")
    ] = None,
    backend: Annotated[str, typer.Option(help="What executes the probes.")] = "sim",
    target: Annotated[str | None, typer.Option(help="Chip that a simulator plays: trn2, trn3. [trn2]")] = None,
    profile: Annotated[str, typer.Option(help="What the embedded machine plays. " + profile_option.HELP)] = "default",
    repeat: Annotated[int, typer.Option(help="Launches per probe; the bits must be equal.", min=1)] = 2,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Function tables on all bf16 inputs, reciprocals of a whole binade.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option(help=f"Seconds per launch in a child process. [{TIME_LIMIT:g}]", min=0.1)
    ] = None,
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
    on = named_backend(backend, played, selection.timed_backend(backend, timeout))
    session = _session(on, _setting(backend, target, played, exhaustive), question or [], repeat)
    run_all(session.ask, session.probes, 1, "probing")
    report = session.report()
    told = versions()
    if json_file is not None:
        write_json(json_file, record.document(report, told))
    if profile_out is not None:
        write_json(profile_out, record.profile_document(report, is_hardware(backend), told))
    if json_file != Path("-"):
        _show(report, time.perf_counter() - started, repeat, profile_out, is_hardware(backend))
    return 0 if record.passed(report) else 1


def _session(on: Backend, setting: Setting, questions: list[str], repeat: int) -> Session:
    try:
        return Session(on, setting, [one.upper() for one in questions], repeat)
    except ValueError as error:
        raise BadInput(f"--question: {error}") from None


def _setting(backend: str, target: str | None, played: NumericsProfile, exhaustive: bool) -> Setting:
    chip = backend if is_hardware(backend) else target or os.environ.get(TARGET, "") or "trn2"
    if is_hardware(backend) and target not in (None, backend):
        raise BadInput(f"--target {target}: backend {backend} is a chip, and no simulator of one")
    if chip not in _GENERATIONS:
        raise BadInput(f"--target {chip}: known are {', '.join(_GENERATIONS)}")
    nki = played.nki if backend == "sim" else _version(versions()["nki"]) or played.nki
    return Setting(_GENERATIONS[chip], nki, "exhaustive" if exhaustive else "sample")


def _version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version; () where there are none."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


# ---------------------------------------------------------------------------------------- showing


def _show(report: Report, seconds: float, repeat: int, profile_out: Path | None, hardware: bool) -> None:
    out = console()
    out.print(_table(report))
    for title, lines in _sections(report):
        out.print(f"\n[bold]{title}[/bold]")
        for line in lines:
            out.print(f"  {line}", markup=False, highlight=False)
    out.print()
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
