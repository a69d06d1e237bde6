"""From words on the command line to kernels and cases; whatever does not fit is BadInput."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from conformance import registry
from conformance.backends import BACKENDS, available, in_child, is_hardware
from conformance.providers import ProviderError
from conformance.providers import provider as find_provider
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


@dataclass(frozen=True)
class Judged:
    """What is put to the test, in words that another process understands."""

    kernel: str
    implementation: str
    provider: str = ""

    @classmethod
    def of(cls, subject: Subject) -> Judged:
        """The words for a subject of the registry."""
        return cls(subject.name, subject.implementation, subject.provider)

    def subject(self) -> Subject:
        """The subject again."""
        found = subject(self.kernel).with_implementation(self.implementation)
        return found.with_provider(self.provider) if self.provider else found


@dataclass(frozen=True)
class Chosen:
    """The kernels to judge, and the names of those that the provider does not have."""

    subjects: list[Subject]
    absent: tuple[str, ...] = ()
    provider: str = ""

    def remark(self) -> str:
        """What is left out, in a line; '' for nothing."""
        return f"not provided by {self.provider}: {', '.join(self.absent)}" if self.absent else ""


def judged(names: Sequence[str], implementation: str | None, provider: str | None) -> Chosen:
    """The named kernels (all where none is named): this project's, or those of `provider` ('module:attribute'), or
    the one kernel `implementation` ('module:attribute')."""
    if provider is None:
        return Chosen(implementations(names, implementation))
    if implementation is not None:
        raise BadInput("--kernel and --provider both say whose kernel to judge: give one of them")
    # Providers of others lie beside the caller, where a console script does not look by itself.
    sys.path.append("")
    return _provided(subjects(names), provider)


def _provided(known: list[Subject], provider: str) -> Chosen:
    subjects: list[Subject] = []
    absent: list[Subject] = []
    try:
        name = find_provider(provider).name
        for subject in known:
            judged = subject.with_provider(provider)
            (absent if find_provider(provider).implementation(subject.name) is None else subjects).append(judged)
    except ProviderError as error:
        raise BadInput(f"--provider: {error}") from None
    if not subjects:
        raise BadInput(f"provider {name} has none of {', '.join(one.name for one in absent)}")
    return Chosen(subjects, tuple(one.name for one in absent), name)


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


def timed_backend(name: str, timeout: float | None) -> float | None:
    """The time limit of a launch, where one can be kept."""
    if timeout is not None and not (in_child(name) or name == "sim"):
        raise BadInput(f"--timeout: backend {name} launches in this process, which cannot be stopped")
    return timeout


def processes(name: str, jobs: int | None) -> int:
    """How many cases run at once where the caller does not say: two on a host, one on a device."""
    return jobs if jobs is not None else 1 if is_hardware(name) else 2
