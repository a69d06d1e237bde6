"""The kill table: which gate, on data of which lane, rejects which mutant, and which mutants are left.

A mutant runs in the embedded machine on the case that reveals it, on its further cases, and on the same config with
data of every other lane that fits. Where the machine stops it, it runs once more without the machine's rules, as a
device would run it: memory that nobody wrote then holds NaN, and cores that race take fixed turns. What the gates
of a device say is what they say of those outputs. Where there are none even then (the machine's model of an instruction
ends: an address outside its tensor, operands that do not fit each other), that is a stop. It counts for a device only
where its own compiler or runtime is documented to refuse the same, which the mutant's record then says.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from conformance.backends.sim import SimBackend
from conformance.entry import launch
from conformance.explain import first_difference
from conformance.gates import Sight, look, reference_of, stopped
from conformance.judging import Reference
from conformance.lanes import LaneError
from conformance.mutants import Mutant, PatchError, implementation
from conformance.mutants.patched import forget
from conformance.registry import kernel
from conformance.subject import Arrays, Case, Subject, case_id
from reference.errors import KernelArgumentError
from reference.neuroncore.errors import MachineError, MachineWarning, NkiValidationError
from reference.neuroncore.options import Options

#: The machine as a device is: nothing checked that a device does not check.
UNCHECKED = Options(checks="off", races="off")
#: What has to be killed by the gates that a device has.
LEAST_ON_HARDWARE = 0.95
_CI = "ci"


@dataclass(frozen=True)
class Standing:
    """What became of one mutant.

    sights    per case what the gates say, the revealing case first
    point     rounding point at which its trace first parts from the model's in that case, '' where it does not
    location  file:line of the instruction that wrote the first wrong value, or at which the machine stopped
    explained whether both were looked for
    broken    why its trial says nothing: the patch makes no kernel, or the right kernel fails as well
    """

    mutant: Mutant
    sights: tuple[Sight, ...] = ()
    point: str = ""
    location: str = ""
    explained: bool = False
    broken: str = ""

    @property
    def killed(self) -> bool:
        """Whether the embedded machine shows it on its revealing case."""
        return bool(self.sights) and self.sights[0].differs

    @property
    def by_outputs(self) -> bool:
        """Whether what it returns misses a grade required of a device on some case."""
        return any(sight.hardware for sight in self.sights)

    @property
    def by_stop(self) -> bool:
        """Whether it returns nothing on some case, and shows in no output on any."""
        return not self.by_outputs and self.killed_by("stop")

    @property
    def on_hardware(self) -> bool:
        """Whether a device shows it: by its outputs, or by a refusal that is documented."""
        return self.by_outputs or self.refused()

    @property
    def by_tolerance(self) -> bool:
        """Whether the published tolerance alone rejects it on some lane; a refusal needs no tolerance."""
        return self.killed_by("D") or self.refused()

    @property
    def by_tolerance_on_normal(self) -> bool:
        """Whether the published tolerance rejects it on random normal data, which is what it is published for."""
        return self.killed_by("D", "normal") or self.refused("normal")

    @property
    def on_a_named_case(self) -> bool:
        """Whether its outputs show it on a case that its record names."""
        mutant = self.mutant
        cases_named = [sight for sight in self.sights if sight.case in (mutant.case, *mutant.also)]
        in_lane = [sight for sight in self.sights if mutant.seen_in and sight.lane == mutant.seen_in]
        return any(sight.hardware for sight in cases_named + in_lane)

    def refused(self, lane: str = "") -> bool:
        """Whether it stops where a device is documented to, on one lane or on any."""
        return bool(self.mutant.refused) and self.killed_by("stop", lane)

    @property
    def by(self) -> str:
        """The first that shows it: hardware's gate and lane where there is one, else the machine's."""
        for sight in self.sights:
            if sight.hardware:
                return f"lane {sight.lane}: {sight.hardware}"
        for sight in self.sights[:1]:
            for gate, why in sight.faults.items():
                told = "stop" if self.refused() and "stop" in sight.faults else gate
                return f"lane {sight.lane}: {told}: {why}"
        return "nothing"

    @property
    def share(self) -> float | None:
        """Largest share of its bound that an output reaches on any case."""
        return max((sight.share for sight in self.sights if sight.share is not None), default=None)

    @property
    def load(self) -> float | None:
        """Most of the nearest limit of grade C that an output uses up on any case."""
        return max((sight.load for sight in self.sights if sight.load is not None), default=None)

    @property
    def complaints(self) -> tuple[str, ...]:
        """Why this standing is not as it has to be."""
        if self.broken:
            return (self.broken,)
        found = [] if self.killed else ["the embedded machine does not show it"]
        if self.explained and self.point != self.mutant.point:
            found.append(f"parts from the model at {self.point or 'no point'}, its record says {self.mutant.point!r}")
        if self.on_hardware and self.mutant.unseen:
            found.append("listed as unseen by hardware, and seen")
        if not self.on_hardware and not self.mutant.unseen:
            found.append("no gate of hardware shows it, and no reason is listed")
        if self.by_outputs and not self.on_a_named_case:
            found.append(f"hardware sees it on no case that its record names, and on {self._seen_on()}")
        if self.mutant.refused and not self.killed_by("stop"):
            found.append("said to be refused by a device, and stops nowhere")
        return tuple(found)

    def _seen_on(self) -> str:
        return next(sight.case for sight in self.sights if sight.hardware)

    def killed_by(self, gate: str, lane: str = "") -> bool:
        """Whether one gate rejects it, on one lane or on any."""
        return any(gate in sight.faults for sight in self.sights if lane in ("", sight.lane))

    def asked(self, gate: str) -> bool:
        """Whether a gate had anything to judge."""
        return any(gate in sight.asked for sight in self.sights)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        mutant, gates = self.mutant, sorted({gate for sight in self.sights for gate in sight.asked})
        return {
            "id": mutant.id,
            "kernel": mutant.kernel,
            "class": mutant.kind,
            "title": mutant.fault,
            "case": mutant.case,
            "lane": self.sights[0].lane if self.sights else "",
            "killed": self.killed,
            "hardware": self.on_hardware,
            "outputs": self.by_outputs,
            "stops": self.by_stop,
            "refused": mutant.refused,
            "tolerance": self.by_tolerance,
            "tolerance_on_normal": self.by_tolerance_on_normal,
            "gates": {gate: self.killed_by(gate) for gate in gates},
            "by": self.by,
            "point": self.point,
            "location": self.location,
            "share_of_bound": self.share,
            "load_of_bound": self.load,
            "survives": [mutant.unseen] if not self.on_hardware and mutant.unseen else [],
            "complaints": list(self.complaints),
            "sights": [_sight_to_dict(sight) for sight in self.sights],
        }


class NoTrial(Exception):
    """A trial that says nothing of the suite."""


def stand(mutant: Mutant, explain: bool = True, everywhere: bool = True) -> Standing:
    """Runs one mutant on all its cases, or on those alone that its record names.

    A trial that says nothing, or a patch that no longer applies, is told.
    """
    try:
        return _stand(mutant, explain, everywhere)
    except (NoTrial, PatchError) as error:
        return Standing(mutant, broken=str(error))


def _stand(mutant: Mutant, explain: bool, everywhere: bool) -> Standing:
    subject = kernel(mutant.kernel)
    faulty = subject.with_implementation(implementation(mutant, subject.implementation))
    try:
        sights = list(_sights(faulty, cases(mutant, subject) if everywhere else named(mutant, subject)))
        if everywhere and not (any(sight.hardware for sight in sights) or mutant.unseen or mutant.refused):
            sights += _until_seen(faulty, subject, {sight.case for sight in sights})
        point, location = _explained(faulty, mutant, sights[0]) if explain else ("", "")
    finally:
        forget(mutant)
    return Standing(mutant, tuple(sights), point, location, explain)


def named(mutant: Mutant, subject: Subject) -> list[Case]:
    """The cases that its record names, the revealing one first: by outputs hardware sees it on one of them."""
    found = [subject.case(name) for name in (mutant.case, *mutant.also)]
    return found + ([with_lane(found[0], mutant.seen_in)] if mutant.seen_in else [])


def cases(mutant: Mutant, subject: Subject) -> list[Case]:
    """Those that its record names, and the revealing config with data of every other lane that fits."""
    found = named(mutant, subject)
    first, known = found[0], {found[0].lane, mutant.seen_in}
    others = [lane for lane in subject.lanes if lane not in known and subject.lane_fits(first.config, lane)]
    return found + [with_lane(first, lane) for lane in others]


def with_lane(case: Case, lane: str) -> Case:
    """The same config and seed with data of another lane."""
    return dataclasses.replace(case, id=case_id(case.config, lane, case.seed), lane=lane)


def sight(subject: Subject, case: Case, reference: Reference) -> Sight:
    """What the gates say of the implementation under test; where the machine stops it, of a run without rules.

    NoTrial for an exception that neither machine nor kernel raises on purpose: then it is no kernel that ran.
    """
    try:
        return look(subject, case, _outputs(subject, case, reference, Options()), reference)
    except (NkiValidationError, KernelArgumentError, AssertionError) as error:
        why = _told(error)
    except Exception as error:
        raise NoTrial(f"crashes on {case.id}: {_told(error)}") from error
    try:
        free = _outputs(subject, case, reference, UNCHECKED)
    except Exception as error:
        return stopped(case, f"{why}; without rules: {_told(error)}")
    seen = look(subject, case, free, reference)
    return dataclasses.replace(seen, faults={"machine": why} | dict(seen.faults), asked=seen.asked | {"machine"})


def margin(standings: Iterable[Standing]) -> float | None:
    """The smallest load of the bound among mutants that the bound kills, each on its best case; None for none."""
    loads = [one.load for one in standings if one.killed_by("C") and one.load is not None]
    return min(loads, default=None)


def _outputs(subject: Subject, case: Case, reference: Reference, options: Options) -> Arrays:
    with warnings.catch_warnings():
        # A kernel may be wrong in ways the machine only warns of; the gates say what comes of it.
        warnings.simplefilter("ignore", MachineWarning)
        return launch(subject, case.config, reference.inputs, SimBackend(options))


def _sights(faulty: Subject, chosen: Iterable[Case]) -> Iterator[Sight]:
    for case in chosen:
        reference = _reference(faulty.name, case.id)
        if reference is not None:
            yield sight(faulty, case, reference)


def _until_seen(faulty: Subject, subject: Subject, known: set[str]) -> list[Sight]:
    """Sights of the cases that every test run has, up to the first on which hardware sees the fault."""
    found = []
    for one in _sights(faulty, [case for case in subject.catalog if _CI in case.tags and case.id not in known]):
        found.append(one)
        if one.hardware:
            break
    return found


@functools.lru_cache(maxsize=64)
def _reference(name: str, identifier: str) -> Reference | None:
    """None where the config has no room for the lane. Many mutants share their cases.

    NoTrial where the right kernel is not right here: gates that reject everything kill every mutant.
    """
    subject = kernel(name)
    case = subject.case(identifier)
    try:
        reference = reference_of(subject, case)
    except LaneError:
        return None
    right = sight(subject, case, reference)
    if right.differs:
        raise NoTrial(f"the right kernel fails on {identifier}: {next(iter(right.faults.values()))}")
    return reference


def _explained(faulty: Subject, mutant: Mutant, seen: Sight) -> tuple[str, str]:
    """Point and place of the first difference in the revealing case."""
    case = faulty.case(mutant.case)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MachineWarning)
            found = first_difference(faulty, case)
    except MachineError as error:
        return "", error.location or ""
    except Exception:
        # A crash has no place in a kernel that the machine could name.
        return "", ""
    return found.first.point if found.first else "", found.place


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _sight_to_dict(one: Sight) -> dict[str, Any]:
    plain = dataclasses.asdict(one)
    return plain | {"faults": dict(one.faults), "asked": sorted(one.asked)}
