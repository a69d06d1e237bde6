"""All probes in the order in which a session runs them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from conformance.probes import gpsimd_dma, quantize, scalar_engine, tensor_engine, vector_engine
from conformance.probes.probe import Probe
from reference.numerics.profile import PARTS, QUESTIONS, Value, question_of

#: Later tables rest on earlier answers (numerics fact sheet, 11.5); the questions not named there come last.
ORDER = (
    *("U12", "U6", "U2", "U3", "U1", "U7", "U4", "U5", "U9", "U8"),
    *("V4", "V1", "S1", "V5", "V2", "V3", "S4", "V8", "V6", "V10", "S2", "Q1", "D1", "V9"),
    *("U10", "U11", "V7", "V11", "S3", "S5", "S6", "G1", "G2", "D2"),
)

_MODULES = (tensor_engine, vector_engine, scalar_engine, gpsimd_dma, quantize)


def _place(probe: Probe) -> tuple[int, bool]:
    """Where a probe stands: with its question, or, if it is strict, behind all that it needs."""
    needed = [question_of(name).id for name in probe.needs] if probe.strict else []
    return max(ORDER.index(question) for question in (probe.question, *needed)), probe.strict


PROBES: tuple[Probe, ...] = tuple(sorted((probe for module in _MODULES for probe in module.PROBES), key=_place))


def named(name: str) -> Probe:
    """A probe by its name; KeyError where there is none."""
    return {probe.name: probe for probe in PROBES}[name]


def chosen(questions: Iterable[str]) -> list[Probe]:
    """The probes of these questions and of all that they need, in order; every probe where none is named.

    ValueError for an id that no question has.
    """
    wanted = set(questions)
    unknown = sorted(wanted - set(QUESTIONS))
    if unknown:
        raise ValueError(f"no question '{unknown[0]}'; known: {', '.join(QUESTIONS)}")
    return [probe for probe in PROBES if not wanted or probe.question in _with_needs(wanted)]


def _with_needs(questions: set[str]) -> set[str]:
    fields = {name for probe in PROBES if probe.question in questions for name in probe.scope}
    wider = {probe.question for probe in PROBES if fields & set(probe.fields)}
    return questions if wider <= questions else _with_needs(questions | wider)


def candidates(probes: Sequence[Probe]) -> dict[str, tuple[Value, ...]]:
    """Every field that the probes read, with the profile's candidates and those that tables know beside them."""
    fields = dict.fromkeys(name for probe in probes for name in probe.scope)
    return {name: (*PARTS[name].candidates, *others(name)) for name in fields}


def others(name: str) -> dict[Value, str]:
    """Known answers to a field that the profile cannot play: value -> meaning."""
    return {value: text for probe in PROBES for value, text in probe.others.get(name, {}).items()}
