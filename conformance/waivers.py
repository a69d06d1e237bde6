"""Known failures: each an entry with its reason, tolerated while it fails and no day longer.

A waived case still runs and its grades are shown as they are; the case is 'waived' instead of 'failed' where every
failure in it is covered. Where an entry fits a case and nothing that it tolerates went wrong, the case fails: the
entry has to go (or to say more narrowly what it means). An entry that fits no case at all fails the suite too.

An entry with `run=False` is for what takes a device down: the case is not launched there. It must name versions, so
that the first run under others launches the case again, and somebody learns whether the entry is still true.

Not for failures that come and go: a case that passes once in a while fails either with its entry or without.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from conformance.backends import BACKENDS, is_hardware
from conformance.repeat import RUNG as REPEAT
from conformance.results import STATUSES, CaseResult, OutputResult
from conformance.runner import run_case
from conformance.subject import Backend, Case, Subject, case_from_id, config_to_dict, repro_command
from conformance.versions import versions
from reference.numerics.profile import DEFAULT, NumericsProfile

_ID = re.compile(r"[a-z0-9][a-z0-9.-]*\Z")
#: Statuses that can be waived. What is unfit was not tried.
TOLERABLE = tuple(one for one in STATUSES if one not in ("passed", "waived", "unfit"))


@dataclass(frozen=True)
class Waiver:
    """One known failure; shell patterns, '*' for any.

    id         its name in reports
    kernel, case, output, backend
               what it is about; `case` also takes the 'cfg:' text of one case; `backend` is what produced the
               output, 'model' for the model judged against truth
    status     what is tolerated: 'failed' is an output below its grade, the others have no outputs
    implementation
               whose kernel, as results name it; the project's own unless told. It does not matter where `backend`
               is 'model'
    versions   per name of `conformance.versions` a pattern; names that are left out may be of any version
    reason     why this is not simply wrong, or not to be mended here and now
    reference  where the failure is described: a tracker's address, a page of a vendor's documents
    run        False: never launched on a device

    ValueError for an entry without reason or reference, or one that could never fit or never be noticed to be stale.
    """

    id: str
    kernel: str
    reason: str
    reference: str
    case: str = "*"
    output: str = "*"
    backend: str = "*"
    status: str = "failed"
    implementation: str = "kernels.*"
    versions: Mapping[str, str] = field(default_factory=dict)
    run: bool = True

    def __post_init__(self) -> None:
        for complaint in _complaints(self):
            raise ValueError(f"waiver '{self.id}': {complaint}")

    def concerns(self, kernel: str, case: str, now: Mapping[str, str]) -> bool:
        """Whether it is about this case under these versions."""
        fits = fnmatchcase(kernel, self.kernel) and (case == self.case or fnmatchcase(case, self.case))
        return fits and all(fnmatchcase(now.get(name, ""), pattern) for name, pattern in self.versions.items())


def _complaints(waiver: Waiver) -> Iterable[str]:
    if not _ID.match(waiver.id):
        yield "its id is not of lower-case letters, digits, '.', '-'"
    for name in ("kernel", "case", "output", "backend", "implementation", "reason", "reference"):
        if not getattr(waiver, name).strip():
            yield f"{name} is empty"
    if waiver.status not in TOLERABLE:
        yield f"status '{waiver.status}' cannot be waived; known: {', '.join(TOLERABLE)}"
    for name in waiver.versions:
        if name not in versions():
            yield f"nothing tells a version of '{name}'; known: {', '.join(versions())}"
    if waiver.status != "failed" and waiver.output != "*":
        yield f"there are no outputs where the status is '{waiver.status}': leave out output"
    if not waiver.run and not all(map(is_hardware, _backends(waiver))):
        yield "run=False is for devices; a simulator survives what it runs: name the device as backend"
    if not waiver.run and not waiver.versions:
        yield "run=False needs versions, or nobody would ever learn that the case runs again"


def _backends(waiver: Waiver) -> list[str]:
    """Names of backends that its pattern fits; 'model' stands for what every one of them is judged beside."""
    return [name for name in (*BACKENDS, "model") if fnmatchcase(name, waiver.backend)]


#: Statuses of cases that have outputs.
_RAN = ("passed", "failed")

#: The known failures. Today there is none.
WAIVERS: tuple[Waiver, ...] = ()


def run_waived(
    subject: Subject,
    case: Case,
    backend: str | Backend = "sim",
    profile: NumericsProfile = DEFAULT,
    rows: Sequence[Waiver] | None = None,
    **options: Any,
) -> CaseResult:
    """`run_case` with the known failures tolerated: `rows`, WAIVERS unless told. `options` are those of run_case.

    A case that is not to be launched comes back 'waived' without outputs.
    """
    chosen = WAIVERS if rows is None else rows
    name = backend if isinstance(backend, str) else backend.name
    if (waiver := withheld(subject, case, name, chosen)) is not None:
        return _not_launched(subject, case, name, profile, waiver)
    return tolerate(run_case(subject, case, backend, profile, **options), chosen)


def withheld(subject: Subject, case: Case, backend: str, rows: Sequence[Waiver]) -> Waiver | None:
    """The entry that forbids to launch a case on this backend, or None."""
    fitting = (row for row in rows if not row.run and _is_of(row, subject.judged, backend))
    # The rows come first: nobody is to wait for versions that no row asks for.
    return next((row for row in fitting if row.concerns(subject.name, case.id, versions())), None)


def tolerate(result: CaseResult, rows: Sequence[Waiver], now: Mapping[str, str] | None = None) -> CaseResult:
    """The result with what `rows` cover waived, or failed where a row covers nothing any more."""
    if not rows or result.status == "unfit":
        return result
    present = versions() if now is None else now
    rows = [row for row in rows if row.run and row.concerns(result.kernel, result.case, present)]
    marked = dataclasses.replace(result, outputs=tuple(_marked(result, output, rows) for output in result.outputs))
    used = [row for row in rows if _covers_status(row, marked) or _covers_outputs(row, marked)]
    stale = [row for row in rows if row not in used and _was_tried(row, marked)]
    if stale:
        told = [*([marked.error] if marked.error else []), *(_stale_text(row, marked) for row in stale)]
        status = "failed" if marked.status == "passed" else marked.status
        return dataclasses.replace(marked, status=status, error="; ".join(told))
    if not used or not _all_covered(marked, used):
        return marked
    return dataclasses.replace(marked, status="waived", waivers=tuple(row.id for row in used))


def unmatched(subjects: Iterable[Subject], rows: Sequence[Waiver] | None = None) -> list[str]:
    """One line per entry that fits nothing the project has: no case, no output, or no backend."""
    chosen = WAIVERS if rows is None else rows
    # Without an entry no kernel need be imported.
    known = list(subjects) if chosen else []
    told = [(row.id, _missing(row, known)) for row in chosen]
    return [f"waiver {name} matches no {what}: correct or remove it" for name, what in told if what]


# ---------------------------------------------------------------------------------------- one result


def _produced_by(output: OutputResult, result: CaseResult) -> str:
    """Runs that differ from one another are the backend's, like the outputs they differ in."""
    return result.backend if output.rung == REPEAT else output.rung


def _is_of(row: Waiver, implementation: str, by: str) -> bool:
    """Whether a row speaks of what comes from here. The model is the project's own, whoever's kernel is judged."""
    own = by == row.backend == "model" or fnmatchcase(implementation, row.implementation)
    return own and fnmatchcase(by, row.backend)


def _fits(row: Waiver, output: OutputResult, result: CaseResult) -> bool:
    mine = _is_of(row, result.implementation, _produced_by(output, result))
    return mine and row.status == "failed" and fnmatchcase(output.name, row.output)


def _marked(result: CaseResult, output: OutputResult, rows: Sequence[Waiver]) -> OutputResult:
    row = next((row for row in rows if _fits(row, output, result)), None)
    return output if output.passed or row is None else dataclasses.replace(output, waiver=row.id)


def _of_kernel(row: Waiver, result: CaseResult) -> bool:
    return _is_of(row, result.implementation, result.backend)


def _covers_outputs(row: Waiver, result: CaseResult) -> bool:
    return any(not output.passed and _fits(row, output, result) for output in result.outputs)


def _covers_status(row: Waiver, result: CaseResult) -> bool:
    return row.status not in _RAN and row.status == result.status and _of_kernel(row, result)


def _was_tried(row: Waiver, result: CaseResult) -> bool:
    """Whether the run could have shown what the row tolerates. A crash hides what outputs would have been."""
    if row.status == "failed":
        return any(_fits(row, output, result) for output in result.outputs)
    return _of_kernel(row, result) and result.status in _RAN


def _all_covered(result: CaseResult, used: Sequence[Waiver]) -> bool:
    if result.status == "failed":
        return all(output.passed or output.waiver for output in result.outputs)
    return any(_covers_status(row, result) for row in used)


def _stale_text(row: Waiver, result: CaseResult) -> str:
    shown = "passes" if row.status == "failed" else f"is no longer {row.status}"
    where = f"{result.kernel} {result.case}{'' if row.output == '*' else ' ' + row.output}"
    return f"waiver {row.id} is no longer needed: remove it ({where} {shown} on {result.backend})"


def _not_launched(subject: Subject, case: Case, backend: str, profile: NumericsProfile, waiver: Waiver) -> CaseResult:
    return CaseResult(
        kernel=subject.name,
        case=case.id,
        config=config_to_dict(case.config),
        lane=case.lane,
        seed=case.seed,
        backend=backend,
        profile=profile.to_dict(),
        repro=repro_command(subject, case, backend),
        status="waived",
        error=f"not launched: waiver {waiver.id}: {waiver.reason} ({waiver.reference})",
        implementation=subject.judged,
        waivers=(waiver.id,),
    )


# ------------------------------------------------------------------------------------ the whole table


def _missing(row: Waiver, subjects: Sequence[Subject]) -> str:
    """What a row would need and nothing is: '' where it fits something."""
    kernels = [subject for subject in subjects if fnmatchcase(subject.name, row.kernel)]
    if not any(_has_case(subject, row.case) for subject in kernels):
        return "case"
    if not any(fnmatchcase(output.name, row.output) for subject in kernels for output in subject.outputs):
        return "output"
    return "" if _backends(row) else "backend"


def _has_case(subject: Subject, pattern: str) -> bool:
    if any(fnmatchcase(case.id, pattern) for case in subject.catalog):
        return True
    try:
        return bool(case_from_id(subject, pattern))
    except (ValueError, TypeError):
        return False
