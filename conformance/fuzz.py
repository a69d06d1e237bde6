"""Fuzzing a kernel: legal configs must give the model's bits, illegal ones must be refused at the door.

Configs come from the subject's own strategies, so a failure shrinks to the smallest config that shows it,
and is told with the command that runs it again. A seed fixes everything that is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from conformance.entry import launch
from conformance.results import CaseResult
from conformance.runner import run_case
from conformance.subject import Arrays, Backend, Call, Case, Subject, case_id
from reference.errors import KernelArgumentError
from reference.numerics.profile import DEFAULT, NumericsProfile

#: Seeds of data that are drawn beside a config.
_DATA_SEEDS = 1000
#: Examples of one run of Hypothesis; a time limit is looked at between runs, and before each example.
_ROUND = 100


@dataclass(frozen=True)
class FuzzSize:
    """How many legal and illegal configs one run draws, and in how many independent parts tests split it."""

    legal: int
    illegal: int
    parts: int = 1


#: By the name of the Hypothesis profile. 'ci' has to fit a run of the whole suite on two cores.
SIZES: Mapping[str, FuzzSize] = MappingProxyType(
    {
        "ci": FuzzSize(legal=16, illegal=40, parts=2),
        "dev": FuzzSize(legal=16, illegal=40, parts=2),
        "nightly": FuzzSize(legal=2000, illegal=1000, parts=8),
    }
)


@dataclass(frozen=True)
class FuzzResult:
    """What a run drew and found. `failure` is the report on the smallest failing case, '' for none."""

    kernel: str
    examples: int
    refusals: int
    seconds: float
    seed: int
    failure: str = ""
    #: The failing case, where a legal config failed.
    case: CaseResult | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.failure


def fuzz(
    subject: Subject,
    examples: int,
    seed: int,
    minutes: float | None = None,
    backend: str | Backend = "sim",
    profile: NumericsProfile = DEFAULT,
    illegal: int | None = None,
) -> FuzzResult:
    """Draws `examples` legal configs and `illegal` illegal ones (as many, unless told), until one fails.

    `minutes` bounds the time: no example begins after it, but one that failed is shrunk to its end.
    """
    deadline = _Deadline(minutes)
    started = time.perf_counter()
    counts = {"legal": 0, "illegal": 0}
    failure, case = "", None
    try:
        counts["illegal"] = fuzz_illegal(subject, examples if illegal is None else illegal, seed, deadline)
        counts["legal"] = fuzz_legal(subject, examples, seed, backend, profile, deadline)
    except FuzzFailure as found:
        failure, case = str(found), found.result
    seconds = time.perf_counter() - started
    return FuzzResult(subject.name, counts["legal"], counts["illegal"], seconds, seed, failure, case)


class FuzzFailure(AssertionError):
    """The smallest example that fails; `result` for a legal config."""

    def __init__(self, report: str, result: CaseResult | None = None) -> None:
        super().__init__(report)
        self.result = result


def fuzz_legal(
    subject: Subject,
    examples: int,
    seed: int,
    backend: str | Backend = "sim",
    profile: NumericsProfile = DEFAULT,
    deadline: _Deadline | None = None,
) -> int:
    """Model against kernel on drawn configs, lanes and data; number of cases. FuzzFailure at the first."""

    def check(config: Any, lane: str, data_seed: int) -> None:
        if not subject.lane_fits(config, lane):
            reject()
        case = Case(case_id(config, lane, data_seed), config, lane, data_seed)
        result = run_case(subject, case, backend, profile, rungs=("model", "kernel"))
        if result.status == "unfit":
            reject()
        if not result.passed:
            raise FuzzFailure(result.report(), result)

    lanes, seeds = st.sampled_from(subject.lanes), st.integers(0, _DATA_SEEDS - 1)
    return _drive(check, (subject.strategy(), lanes, seeds), examples, seed, deadline)


def fuzz_illegal(subject: Subject, examples: int, seed: int, deadline: _Deadline | None = None) -> int:
    """Refusal of drawn illegal configs; number of configs tried. FuzzFailure at the first not refused."""

    def check(drawn: tuple[Any, str]) -> None:
        complaint = refusal_complaint(subject, *drawn)
        if complaint:
            raise FuzzFailure(f"{subject.name} {case_id(drawn[0], 'normal', 0)}: {complaint}")

    return _drive(check, (subject.illegal(),), examples, seed, deadline)


def refusal_complaint(subject: Subject, config: Any, rule: str) -> str:
    """What is wrong with the way `config` is refused; '' where `rule` refuses it and nothing is touched."""
    inputs = _inputs_as_far_as_they_exist(subject, config)
    before = {name: array.tobytes() for name, array in inputs.items()}
    try:
        launch(subject, config, inputs, _SEALED)
    except KernelArgumentError as error:
        touched = [name for name, array in inputs.items() if array.tobytes() != before[name]]
        if touched:
            return f"refused, but {touched[0]} was changed"
        return "" if error.rule == rule else f"refused by rule '{error.rule}', expected '{rule}'"
    except _Launched:
        return f"launched, expected a refusal by rule '{rule}'"
    return "neither refused nor launched"


class _Launched(Exception):
    """A kernel was launched that should have been refused."""


class _Sealed:
    """A backend behind a door that must not open."""

    name = "sealed"

    def run(self, call: Call) -> NoReturn:
        raise _Launched


_SEALED = _Sealed()


def _inputs_as_far_as_they_exist(subject: Subject, config: Any) -> Arrays:
    try:
        return subject.build(config, "normal", 0)
    except Exception:
        # Shapes of an illegal config may be impossible (negative, no multiple); then nothing can be touched.
        return {}


class _Deadline:
    """Whether examples may still begin."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    def is_over(self) -> bool:
        return self._end is not None and time.monotonic() > self._end


def _drive(
    check: Callable[..., None],
    drawn: tuple[st.SearchStrategy[Any], ...],
    examples: int,
    seed: int,
    deadline: _Deadline | None,
) -> int:
    """Runs `check` on drawn values in rounds, each from a seed of its own; number of checks that passed."""
    passed = 0
    while passed < examples and not (deadline and deadline.is_over()):
        wanted = min(_ROUND, examples - passed)
        done = _round(check, drawn, wanted, seed + passed, deadline)
        passed += done
        if done < wanted:
            # The strategy has no more to give, or time is over.
            break
    return passed


def _round(
    check: Callable[..., None],
    drawn: tuple[st.SearchStrategy[Any], ...],
    examples: int,
    seed: int,
    deadline: _Deadline | None,
) -> int:
    """One run of Hypothesis, which shrinks what fails."""
    state = {"passed": 0, "failed": 0}

    def body(values: tuple[Any, ...]) -> None:
        # Once something failed, replays must go on: an early return would look like a flaky test.
        if deadline is not None and deadline.is_over() and not state["failed"]:
            return
        try:
            check(*values)
        except FuzzFailure:
            state["failed"] += 1
            raise
        state["passed"] += 1

    test = given(st.tuples(*drawn))(body)
    settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )(seeded(seed)(test))()
    return state["passed"]
