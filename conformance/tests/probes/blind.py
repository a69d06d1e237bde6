"""Sessions on the embedded machine under a profile that the probes are not told."""

from __future__ import annotations

from conformance.backends import backend
from conformance.probes import inseparable, session
from conformance.probes.probe import Setting
from conformance.probes.session import Report
from reference.neuroncore.options import Options
from reference.numerics.profile import PARTS, NumericsProfile, Value


def probed(
    profile: NumericsProfile, generation: str = "gen4", questions: tuple[str, ...] = (), repeat: int = 1
) -> Report:
    """A session on the machine that plays the profile; trn3 can be asked everything."""
    machine = backend("sim", options=Options(profile=profile))
    return session.run(machine, Setting(generation, profile.nki), questions, repeat)


def found(report: Report) -> dict[str, tuple[Value, ...]]:
    """Candidates left per field."""
    return {one.field: one.left for finding in report.findings for one in finding.fields}


def expected(profile: NumericsProfile) -> dict[str, set[Value]]:
    """What can be left of every field, by the answers alone."""
    answers = {name: getattr(profile, name) for name in PARTS}
    return {name: set(inseparable.values(name, answers)) for name in PARTS}
