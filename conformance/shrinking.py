"""Making a case that fails smaller, field by field, where no strategy drew it and so none can shrink it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

from conformance.pairwise import covering
from conformance.subject import Case, Subject, case_id

#: Cases and seconds that are spent: shrinking is a courtesy and must end.
_TRIALS, _SECONDS = 150, 60.0


def smallest(subject: Subject, case: Case, fails: Callable[[Case], bool]) -> Case:
    """A legal case that fails like `case`, of which no single field can be made simpler, as far as trials go.

    Simpler is: normal data, seed 0, a field at its default or at the first value of its flag, a smaller size.
    """
    trials, end = _TRIALS, time.monotonic() + _SECONDS
    candidates = _simpler(subject, case)
    while trials and time.monotonic() < end and (simpler := next(candidates, None)):
        trials -= 1
        if fails(simpler):
            case, candidates = simpler, _simpler(subject, simpler)
    return case


def _simpler(subject: Subject, case: Case) -> Iterator[Case]:
    """Legal cases that differ from one in a single respect, by which they are simpler."""
    for lane, seed in (("normal", case.seed), (case.lane, 0)):
        if (lane, seed) != (case.lane, case.seed) and subject.lane_fits(case.config, lane):
            yield _case(case.config, lane, seed)
    for field in dataclasses.fields(case.config):
        for value in _simpler_values(subject, field, getattr(case.config, field.name)):
            config = dataclasses.replace(case.config, **{field.name: value})
            if subject.legal(config) is None and subject.lane_fits(config, case.lane):
                yield _case(config, case.lane, case.seed)


def _case(config: Any, lane: str, seed: int) -> Case:
    return Case(case_id(config, lane, seed), config, lane, seed)


def _simpler_values(subject: Subject, field: dataclasses.Field[Any], value: Any) -> list[Any]:
    """Values that come before this one, the simplest first."""
    option = next((one for one in subject.flags if one.field == field.name), None)
    known = [] if field.default is dataclasses.MISSING else [field.default]
    if option is not None and option.of is None:
        known += option.values
    elif type(value) is int:
        known += sorted({getattr(config, field.name) for config in covering(subject).configs} - {None})
        known = [size for size in known if size is not None and size < value]
    return list(dict.fromkeys(known[: known.index(value)] if value in known else known))
