"""`nki-oracle mutants`: what the suite is worth, by the faulty kernels it kills and the legal ones it lets pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
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
    ("outputs", lambda one: one.by_outputs),
    ("hardware", lambda one: one.on_hardware),
    ("D alone", lambda one: one.by_tolerance),
    ("D alone, normal data", lambda one: one.by_tolerance_on_normal),
)

#: Headings of these and of the gates where the terminal is narrow, and what is narrow.
_SHORT = {
    "faults": "n",
    "machine": "mach",
    "structure": "struct",
    "outputs": "out",
    "hardware": "hw",
    "D alone": "D-",
    "D alone, normal data": "D-n",
}
_NARROW = 120
_LEGEND = f"In short: {', '.join(f'{short} {name}' for name, short in _SHORT.items())}"

Outcome = list[Standing] | list[VariantResult]


@dataclass(frozen=True)
class Job:
    """Mutants that share a case, or all variants on one case."""

    mutants: tuple[Mutant, ...] = ()
    kernel: str = ""
    case: Case | None = None


@dataclass(frozen=True)
class Found:
    """What came of a run; `whole` is one of all kernels and classes, of which alone the required rate says anything."""

    standings: Sequence[Standing]
    results: Sequence[VariantResult]
    whole: bool

    @property
    def rate(self) -> float:
        """Share of the mutants that hardware would kill."""
        return sum(one.on_hardware for one in self.standings) / len(self.standings)

    @property
    def complaints(self) -> list[str]:
        """What is not as it has to be, a line each."""
        found = [f"{one.mutant.id}: {why}" for one in self.standings for why in one.complaints]
        found += [f"{one.kernel} {one.case} under {one.profile}: {one.missed}" for one in self.results if one.wrong]
        if self.whole and self.rate < LEAST_ON_HARDWARE:
            found.append(f"hardware would kill {self.rate:.1%}, at least {LEAST_ON_HARDWARE:.0%} are required")
        return found


def mutants(
    kernels: Annotated[list[str] | None, typer.Argument(metavar="[KERNEL]...")] = None,
    identifier: Annotated[list[str] | None, typer.Option("--id", help="Only this mutant.")] = None,
    kind: Annotated[list[str] | None, typer.Option("--class", help="Only mutants of this class.")] = None,
    variants: Annotated[
        bool, typer.Option("--variants/--no-variants", help="Also let every legal variant pass.")
    ] = True,
    listing: Annotated[bool, typer.Option("--list", help="Name the mutants, and run none.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the results here; - for stdout.")
    ] = None,
) -> int:
    """Run faulty kernels against every gate and lane, and legal variants of the right ones; exit 0 if all faults die
    in simulation, all but the listed ones (of the whole catalog 5 % at most) by what a device is held to, and every
    legal variant passes."""
    started = time.perf_counter()
    require_folder(json_file)
    names = [subject.name for subject in selection.subjects(kernels or [])]
    chosen = _chosen(names, identifier, kind)
    if listing:
        console().print(_catalog(chosen))
        return 0
    selection.usable_backend("sim")
    # A part of the catalog says little of the suite, and nothing of what legal kernels may do.
    picked = bool(identifier or kind)
    found = _found(chosen, [] if picked or not variants else names, not picked and names == _all_names(), jobs)
    if json_file is not None:
        write_json(json_file, _document(found))
    if json_file != Path("-"):
        _show(found, time.perf_counter() - started)
    return 1 if found.complaints else 0


def _all_names() -> list[str]:
    return [subject.name for subject in selection.subjects([])]


def _found(chosen: Sequence[Mutant], played: Sequence[str], whole: bool, jobs: int) -> Found:
    """What came of the chosen mutants, in their order, and of the legal variants of the kernels to be played."""
    todo = _mutant_jobs(chosen) + [
        Job(kernel=name, case=case) for name in played for case in variant_cases(selection.subject(name))
    ]
    came = [one for outcome in run_all(run, todo, jobs, "breaking kernels") for one in outcome]
    order = {mutant.id: place for place, mutant in enumerate(chosen)}
    standings = sorted((one for one in came if isinstance(one, Standing)), key=lambda one: order[one.mutant.id])
    return Found(standings, [one for one in came if isinstance(one, VariantResult)], whole)


def run(job: Job) -> Outcome:
    """What became of one job."""
    if job.case is not None:
        return play(selection.subject(job.kernel), job.case)
    return [stand(mutant) for mutant in job.mutants]


def _chosen(names: list[str], identifiers: list[str] | None, kinds: list[str] | None) -> list[Mutant]:
    known = [mutant for mutant in all_mutants() if mutant.kernel in names]
    for one in identifiers or []:
        if one not in {mutant.id for mutant in known}:
            raise BadInput(f"no mutant '{one}' of {', '.join(names)}; `nki-oracle mutants --list` names all")
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


def _summary(found: Found) -> dict[str, Any]:
    counts = {name: sum(map(is_so, found.standings)) for name, is_so in _COUNTS}
    legal = [one for one in found.results if one.noise]
    return {
        "mutants": len(found.standings),
        "whole": found.whole,
        "killed": counts["sim"],
        "outputs": counts["outputs"],
        "stops": sum(one.by_stop for one in found.standings),
        "hardware": counts["hardware"],
        "hardware_rate": found.rate,
        "least_hardware_rate": LEAST_ON_HARDWARE,
        "tolerance": counts["D alone"],
        "tolerance_on_normal": counts["D alone, normal data"],
        "variants": len(legal),
        "variants_passed": sum(one.passed for one in legal),
        "margins": _margins(found.standings, found.results),
        "passed": not found.complaints,
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


# ---------------------------------------------------------------------------------------- showing


def _show(found: Found, seconds: float) -> None:
    told, standings = console(), found.standings
    narrow = told.width < _NARROW
    for name in dict.fromkeys(one.mutant.kernel for one in standings):
        of_kernel = [one for one in standings if one.mutant.kernel == name]
        told.print(_kernel_table(name, of_kernel, narrow), end="\n\n")
    told.print(_lanes_down(standings) if narrow else _lane_table(standings), end="\n\n")
    if narrow:
        told.print(_LEGEND, highlight=False, end="\n\n")
    _list("Refused by a device instead of computed", [f"{m.id}: {m.refused}" for m in _refused(standings)])
    _list("Not seen by hardware, and why", [f"{one.mutant.id}: {one.mutant.unseen}" for one in _unseen(standings)])
    if found.results:
        told.print(_margin_table(standings, found.results, narrow), end="\n\n")
        _list("Beyond noise, and so another profile", _beyond_noise(found.results))
    _list("Not as it has to be", found.complaints)
    if any(one.complaints for one in standings):
        _list("One of them again", ["nki-oracle mutants --id ID", "nki-oracle explain KERNEL --mutant ID"])
    told.print(_words(_summary(found), seconds), highlight=False)


def _catalog(chosen: Sequence[Mutant]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True)
    for name in ("kernel", "class", "fault"):
        table.add_column(name)
    for one in chosen:
        table.add_row(one.id, one.kernel, one.kind, escape(one.fault))
    return table


def _unseen(standings: Sequence[Standing]) -> list[Standing]:
    return [one for one in standings if one.mutant.unseen and not one.on_hardware]


def _refused(standings: Sequence[Standing]) -> list[Mutant]:
    return [one.mutant for one in standings if one.by_stop and one.refused()]


def _list(title: str, lines: Sequence[str]) -> None:
    if lines:
        console().print("\n".join((f"{title}:", *(f"  {line}" for line in lines))), markup=False, highlight=False)
        console().print()


def _kernel_table(kernel: str, standings: Sequence[Standing], narrow: bool = False) -> Table:
    """Classes by gates: how many each gate rejects on some lane."""
    table = _table(kernel, "faults", *GATES, *(name for name, _ in _COUNTS), narrow=narrow)
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


def _lanes(standings: Sequence[Standing]) -> list[str]:
    return list(dict.fromkeys(sight.lane for one in standings for sight in one.sights))


def _on_lane(standings: Sequence[Standing], lane: str) -> list[str]:
    """How many mutants each gate, and a device, rejects on data of a lane."""
    counts = [sum(one.killed_by(gate, lane) for one in standings) for gate in GATES]
    counts.append(sum(any(s.hardware and s.lane == lane for s in one.sights) for one in standings))
    return [str(count or "") for count in counts]


def _lane_table(standings: Sequence[Standing]) -> Table:
    """Gates by lanes."""
    lanes = _lanes(standings)
    table = _table("gate", *lanes)
    columns = [_on_lane(standings, lane) for lane in lanes]
    *rows, last = zip((*GATES, "hardware"), *columns, strict=True)
    for row in rows:
        table.add_row(*row)
    table.add_section()
    table.add_row(*last)
    return table


def _lanes_down(standings: Sequence[Standing]) -> Table:
    """The same turned: there are fewer gates than lanes."""
    table = _table("lane", *GATES, "hardware", narrow=True)
    for lane in _lanes(standings):
        table.add_row(lane, *_on_lane(standings, lane))
    return table


def _margin_table(standings: Sequence[Standing], results: Sequence[VariantResult], narrow: bool = False) -> Table:
    long = ("legal variants", "pass", "largest load of a bound", "smallest of a mutant it kills")
    table = _table("kernel", *(("legal", "pass", "most load", "least killed") if narrow else long))
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


def _table(first: str, *others: str, narrow: bool = False) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0) if narrow else (0, 1))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(_SHORT.get(name, name) if narrow else name, justify="right", overflow="fold")
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _words(summary: dict[str, Any], seconds: float) -> str:
    count = summary["mutants"]
    words = (
        f"{summary['killed']} of {count} mutants killed in simulation, {summary['hardware']} "
        f"({summary['hardware_rate']:.1%}) by what a device is held to, {summary['outputs']} of them by outputs; the "
        f"published tolerance alone would kill "
        f"{summary['tolerance']}, and {summary['tolerance_on_normal']} with the normal data it is used with"
    )
    if summary["variants"]:
        words += f"; {summary['variants_passed']} of {summary['variants']} legal variants pass"
    if not summary["whole"]:
        words += f"; this is a part of the catalog, so {LEAST_ON_HARDWARE:.0%} by a device are not asked of it"
    return f"{words}; {seconds:.0f} s"


def _document(found: Found) -> dict[str, Any]:
    return {
        "command": "mutants",
        "version": 1,
        "passed": not found.complaints,
        "complaints": found.complaints,
        "gates": dict(GATES),
        "classes": dict(KINDS),
        "mutants": [one.to_dict() | {"repro": _again(one.mutant)} for one in found.standings],
        "variants": [one.to_dict() for one in found.results if one.noise],
        "beyond_noise": [one.to_dict() for one in found.results if not one.noise],
        "summary": _summary(found),
    }


def _again(mutant: Mutant) -> str:
    return f"nki-oracle mutants {mutant.kernel} --id {mutant.id}"
