"""`nki-oracle mutants`: what the suite is worth, by the faulty kernels it kills and the legal ones it lets pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from conformance.gates import GATES
from conformance.kill_table import LEAST_ON_HARDWARE, Standing, margin, stand
from conformance.legal_variants import VariantResult, largest_load, play
from conformance.legal_variants import cases as variant_cases
from conformance.mutants import Mutant
from conformance.mutants import mutants as all_mutants
from conformance.mutants.kinds import KINDS
from conformance.subject import Case
from tools import selection
from tools.errors import BadInput
from tools.output import console, require_folder, write_json
from tools.pool import run_all

#: Mutants of one case at most in one job: enough to share what the case costs, few enough to share the work.
_MOST_TOGETHER = 12
#: What the columns of the table count, beside one per gate.
_COUNTS: tuple[tuple[str, Callable[[Standing], bool]], ...] = (
    ("sim", lambda one: one.killed),
    ("hardware", lambda one: one.on_hardware),
    ("D alone", lambda one: one.by_tolerance),
    ("D alone, normal data", lambda one: one.by_tolerance_on_normal),
)

Outcome = list[Standing] | list[VariantResult]


@dataclass(frozen=True)
class Job:
    """Mutants that share a case, or all variants on one case."""

    mutants: tuple[Mutant, ...] = ()
    kernel: str = ""
    case: Case | None = None


def mutants(
    kernels: Annotated[list[str] | None, typer.Argument(metavar="[KERNEL]...")] = None,
    identifier: Annotated[list[str] | None, typer.Option("--id", help="Only this mutant.")] = None,
    kind: Annotated[list[str] | None, typer.Option("--class", help="Only mutants of this class.")] = None,
    variants: Annotated[
        bool, typer.Option("--variants/--no-variants", help="Also let every legal variant pass.")
    ] = True,
    jobs: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the results here; - for stdout.")
    ] = None,
) -> int:
    """Run faulty kernels against every gate and lane, and legal variants of the right ones; exit 0 if all faults die
    in simulation, all but the listed ones (5 % at most) by what a device is held to, and every legal variant passes."""
    started = time.perf_counter()
    require_folder(json_file)
    names = [subject.name for subject in selection.subjects(kernels or [])]
    chosen = _chosen(names, identifier, kind)
    # A part of the catalog says little of the suite, and nothing of what legal kernels may do.
    played = [] if identifier or kind or not variants else names
    todo = _mutant_jobs(chosen) + [
        Job(kernel=name, case=case) for name in played for case in variant_cases(selection.subject(name))
    ]
    outcomes = run_all(run, todo, jobs, "breaking kernels")
    found = [one for outcome in outcomes for one in outcome]
    order = {mutant.id: place for place, mutant in enumerate(chosen)}
    standings = sorted(
        (one for one in found if isinstance(one, Standing)), key=lambda one: order[one.mutant.id]
    )
    results = [one for one in found if isinstance(one, VariantResult)]
    if json_file is not None:
        write_json(json_file, _document(standings, results))
    if json_file != Path("-"):
        _show(standings, results, time.perf_counter() - started)
    return 1 if _complaints(standings, results) else 0


def run(job: Job) -> Outcome:
    """What became of one job."""
    if job.case is not None:
        return play(selection.subject(job.kernel), job.case)
    return [stand(mutant) for mutant in job.mutants]


def _chosen(names: list[str], identifiers: list[str] | None, kinds: list[str] | None) -> list[Mutant]:
    known = [mutant for mutant in all_mutants() if mutant.kernel in names]
    for one in identifiers or []:
        if one not in {mutant.id for mutant in known}:
            raise BadInput(f"no mutant '{one}' of {', '.join(names)}; `nki-oracle mutants --json -` lists all")
    for one in kinds or []:
        if one not in KINDS:
            raise BadInput(f"no class '{one}' of mutants; known: {', '.join(KINDS)}")
    found = [m for m in known if not identifiers or m.id in identifiers]
    found = [m for m in found if not kinds or m.kind in kinds]
    if not found:
        raise BadInput("no mutant is of all that was asked")
    return found


def _mutant_jobs(chosen: Sequence[Mutant]) -> list[Job]:
    """Mutants of one case together, so that its truth, model and bounds are computed once; the dearest first."""
    by_case: dict[tuple[str, str], list[Mutant]] = {}
    for mutant in chosen:
        by_case.setdefault((mutant.kernel, mutant.case), []).append(mutant)
    groups = sorted(by_case.values(), key=len, reverse=True)
    return [
        Job(tuple(group[start : start + _MOST_TOGETHER]))
        for group in groups
        for start in range(0, len(group), _MOST_TOGETHER)
    ]


# ---------------------------------------------------------------------------------------- figures


def _summary(standings: Sequence[Standing], results: Sequence[VariantResult]) -> dict[str, Any]:
    counts = {name: sum(map(is_so, standings)) for name, is_so in _COUNTS}
    legal = [one for one in results if one.noise]
    return {
        "mutants": len(standings),
        "killed": counts["sim"],
        "hardware": counts["hardware"],
        "hardware_rate": counts["hardware"] / len(standings),
        "least_hardware_rate": LEAST_ON_HARDWARE,
        "tolerance": counts["D alone"],
        "tolerance_on_normal": counts["D alone, normal data"],
        "variants": len(legal),
        "variants_passed": sum(one.passed for one in legal),
        "margins": _margins(standings, results),
        "passed": not _complaints(standings, results),
    }


def _margins(standings: Sequence[Standing], results: Sequence[VariantResult]) -> list[dict[str, Any]]:
    """Per kernel the largest load of a bound by a legal variant, and the smallest by a mutant that the bound kills."""
    return [
        {
            "kernel": name,
            "legal": largest_load(one for one in results if one.kernel == name),
            "killed": margin(one for one in standings if one.mutant.kernel == name),
        }
        for name in dict.fromkeys(one.mutant.kernel for one in standings)
    ]


def _complaints(standings: Sequence[Standing], results: Sequence[VariantResult]) -> list[str]:
    """What is not as it has to be, a line each."""
    found = [f"{one.mutant.id}: {why}" for one in standings for why in one.complaints]
    found += [f"{one.kernel} {one.case} under {one.profile}: {one.missed}" for one in results if one.wrong]
    rate = sum(one.on_hardware for one in standings) / len(standings)
    # One mutant of a few that were picked by hand may well be one of the listed.
    if len(standings) > 1 / (1 - LEAST_ON_HARDWARE) and rate < LEAST_ON_HARDWARE:
        found.append(f"hardware would kill {rate:.1%}, at least {LEAST_ON_HARDWARE:.0%} are required")
    return found


# ---------------------------------------------------------------------------------------- showing


def _show(standings: Sequence[Standing], results: Sequence[VariantResult], seconds: float) -> None:
    told = console()
    for name in dict.fromkeys(one.mutant.kernel for one in standings):
        told.print(_kernel_table(name, [one for one in standings if one.mutant.kernel == name]), end="\n\n")
    told.print(_lane_table(standings), end="\n\n")
    _list("Not seen by hardware, and why", [f"{one.mutant.id}: {one.mutant.unseen}" for one in _unseen(standings)])
    if results:
        told.print(_margin_table(standings, results), end="\n\n")
        _list("Beyond noise, and so another profile", _beyond_noise(results))
    _list("Not as it has to be", _complaints(standings, results))
    told.print(_words(_summary(standings, results), seconds), highlight=False)


def _unseen(standings: Sequence[Standing]) -> list[Standing]:
    return [one for one in standings if one.mutant.unseen and not one.on_hardware]


def _list(title: str, lines: Sequence[str]) -> None:
    if lines:
        console().print("\n".join((f"{title}:", *(f"  {line}" for line in lines))), markup=False, highlight=False)
        console().print()


def _kernel_table(kernel: str, standings: Sequence[Standing]) -> Table:
    """Classes by gates: how many each gate rejects on some lane."""
    table = _table(kernel, "faults", *GATES, *(name for name, _ in _COUNTS))
    kinds = [name for name in KINDS if any(one.mutant.kind == name for one in standings)]
    for name in kinds:
        table.add_row(name, *_cells([one for one in standings if one.mutant.kind == name]))
    table.add_section()
    table.add_row("all", *_cells(standings))
    return table


def _cells(standings: Sequence[Standing]) -> list[str]:
    gates = [str(sum(one.killed_by(gate) for one in standings) or "") for gate in GATES]
    counts = [sum(map(is_so, standings)) for _, is_so in _COUNTS]
    marked = [str(count) if count == len(standings) else f"[yellow]{count}[/yellow]" for count in counts]
    return [str(len(standings)), *gates, *marked]


def _lane_table(standings: Sequence[Standing]) -> Table:
    """Gates by lanes: how many mutants a gate rejects on data of that lane."""
    lanes = list(dict.fromkeys(sight.lane for one in standings for sight in one.sights))
    table = _table("gate", *lanes)
    for gate in GATES:
        counts = [sum(one.killed_by(gate, lane) for one in standings) for lane in lanes]
        table.add_row(gate, *(str(count or "") for count in counts))
    seen = [sum(any(s.hardware and s.lane == lane for s in one.sights) for one in standings) for lane in lanes]
    table.add_section()
    table.add_row("hardware", *(str(count or "") for count in seen))
    return table


def _margin_table(standings: Sequence[Standing], results: Sequence[VariantResult]) -> Table:
    table = _table("kernel", "legal variants", "pass", "largest load of a bound", "smallest of a mutant it kills")
    for row in _margins(standings, results):
        legal = [one for one in results if one.kernel == row["kernel"] and one.noise]
        passed = sum(one.passed for one in legal)
        table.add_row(row["kernel"], str(len(legal)), str(passed), _share(row["legal"]), _share(row["killed"]))
    return table


def _beyond_noise(results: Sequence[VariantResult]) -> list[str]:
    """Candidates outside the noise class that a kernel's gates reject, by name."""
    missed: dict[str, set[str]] = {}
    for one in results:
        if not one.noise and not one.passed:
            missed.setdefault(one.profile, set()).add(one.kernel)
    return [f"{profile}: told by {', '.join(sorted(names))}" for profile, names in sorted(missed.items())]


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _words(summary: dict[str, Any], seconds: float) -> str:
    count = summary["mutants"]
    words = (
        f"{summary['killed']} of {count} mutants killed in simulation, {summary['hardware']} "
        f"({summary['hardware_rate']:.1%}) by what a device is held to; the published tolerance alone would kill "
        f"{summary['tolerance']}, and {summary['tolerance_on_normal']} with the normal data it is used with"
    )
    if summary["variants"]:
        words += f"; {summary['variants_passed']} of {summary['variants']} legal variants pass"
    return f"{words}; {seconds:.0f} s"


def _document(standings: Sequence[Standing], results: Sequence[VariantResult]) -> dict[str, Any]:
    return {
        "command": "mutants",
        "version": 1,
        "passed": not _complaints(standings, results),
        "gates": dict(GATES),
        "classes": dict(KINDS),
        "mutants": [one.to_dict() for one in standings],
        "variants": [one.to_dict() for one in results if one.noise],
        "beyond_noise": [one.to_dict() for one in results if not one.noise],
        "summary": _summary(standings, results),
    }
