"""Whether what a contract refuses is refused at the door: by the right rule, with nothing launched or written."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from conformance.entry import launch
from conformance.randomness import Stream
from conformance.spoilings import rule_of
from conformance.subject import Arrays, Call, Case, Subject
from reference.errors import KernelArgumentError


def refusal_complaint(subject: Subject, config: Any, rule: str) -> str:
    """What is wrong with the way `config` is refused; '' where `rule` refuses it and nothing is touched."""
    return _complaint(subject, config, _inputs_as_far_as_they_exist(subject, config), rule)


def call_complaint(subject: Subject, case: Case) -> str:
    """The same of a legal config with spoiled inputs, a case of a lane `spoiled_<rule>`; LaneError of its builder.

    Its legal twin is held as well: before they are spoiled, nothing refuses the inputs.
    """
    rule, inputs = rule_of(case.lane), subject.build(case.config, "normal", case.seed)
    early = subject.legal(case.config) or subject.call_refusal(case.config, inputs)
    if early is not None:
        return f"refused by rule '{early.rule}' before anything was spoiled"
    stream = Stream(case.seed, subject.name, case.lane)
    return _complaint(subject, case.config, subject.spoiling(rule).spoiled(case.config, inputs, stream), rule)


def _complaint(subject: Subject, config: Any, inputs: Arrays, rule: str) -> str:
    before = _bytes(inputs)
    try:
        launch(subject, config, inputs, _SEALED)
    except KernelArgumentError as error:
        touched = [name for name, held in _bytes(inputs).items() if held != before[name]]
        if touched:
            return f"refused, but {touched[0]} was changed"
        return "" if error.rule == rule else f"refused by rule '{error.rule}', expected '{rule}'"
    except _Launched:
        return f"launched, expected a refusal by rule '{rule}'"
    except Exception as error:
        # What is not refused may crash on its way to the launch already.
        return f"{type(error).__name__}: {error}, expected a refusal by rule '{rule}'"
    return "neither refused nor launched"


def _bytes(inputs: Arrays) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in inputs.items() if isinstance(array, np.ndarray)}


def _inputs_as_far_as_they_exist(subject: Subject, config: Any) -> Arrays:
    try:
        return subject.build(config, "normal", 0)
    except Exception:
        # Shapes of an illegal config may be impossible (negative, no multiple); then nothing can be touched.
        return {}


class _Launched(Exception):
    """A kernel was launched that should have been refused."""


class _Sealed:
    """A backend behind a door that must not open."""

    name = "sealed"

    def run(self, call: Call) -> NoReturn:
        raise _Launched


_SEALED = _Sealed()
