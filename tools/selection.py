"""From words on the command line to kernels and cases; whatever does not fit is BadInput."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Sequence

from conformance import registry
from conformance.backends import BACKENDS, available
from conformance.subject import Case, Subject, case_id
from tools.errors import BadInput


def subjects(names: Sequence[str]) -> list[Subject]:
    """The named kernels in the order given, each once; all kernels where none is named."""
    return [subject(name) for name in dict.fromkeys(names or registry.kernel_names())]


def subject(name: str) -> Subject:
    """One kernel by name."""
    if name not in registry.kernel_names():
        raise BadInput(f"no kernel '{name}'; known: {', '.join(registry.kernel_names()) or 'none'}")
    try:
        return registry.kernel(name)
    except registry.CaseModuleError as error:
        raise BadInput(str(error)) from None


def implementations(names: Sequence[str], implementation: str | None) -> list[Subject]:
    """The named kernels; where `implementation` ('module:attribute') is given, the one kernel judging it."""
    if implementation is None:
        return subjects(names)
    if len(names) != 1:
        raise BadInput("--kernel belongs to one kernel: name exactly one before it")
    judged = subject(names[0]).with_implementation(implementation)
    _require_importable(judged)
    return [judged]


def _require_importable(subject: Subject) -> None:
    # Kernels of others lie beside the caller, where a console script does not look by itself.
    sys.path.append("")
    try:
        subject.load()
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"--kernel {subject.implementation} cannot be imported: {error}") from None


def tagged(subject: Subject, tag: str) -> list[Case]:
    """The catalog cases that carry a tag; 'all' stands for every one."""
    known = sorted({one for case in subject.catalog for one in case.tags})
    if tag != "all" and tag not in known:
        raise BadInput(f"no case of {subject.name} is tagged '{tag}'; known: all, {', '.join(known)}")
    return [case for case in subject.catalog if tag in case.tags or tag == "all"]


def named(subject: Subject, names: Iterable[str]) -> list[Case]:
    """Cases by catalog id or by 'cfg:' text."""
    try:
        return [subject.case(name) for name in names]
    except (ValueError, TypeError) as error:
        raise BadInput(str(error)) from None


def with_data(subject: Subject, cases: Iterable[Case], lane: str | None, seed: int | None) -> list[Case]:
    """The same configs with data of another lane or seed; cases whose config the lane does not fit fall out.

    The id becomes the text from which the case can be run again.
    """
    if lane is not None and lane not in subject.lanes:
        raise BadInput(f"{subject.name} has no lane '{lane}'; its lanes are {', '.join(subject.lanes)}")
    if lane is None and seed is None:
        return list(cases)
    changed = (_with_data(case, lane, seed) for case in cases)
    return [case for case in changed if subject.lane_fits(case.config, case.lane)]


def _with_data(case: Case, lane: str | None, seed: int | None) -> Case:
    lane = case.lane if lane is None else lane
    seed = case.seed if seed is None else seed
    return dataclasses.replace(case, id=case_id(case.config, lane, seed), lane=lane, seed=seed)


def usable_backend(name: str) -> str:
    """The name of a backend that can run here."""
    if name not in BACKENDS:
        raise BadInput(f"no backend '{name}'; known: {', '.join(BACKENDS)}")
    found = available(name)
    if not found.here:
        raise BadInput(f"backend {name} cannot run here: {found.reason}")
    return name
