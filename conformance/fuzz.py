"""Fuzzing a kernel: legal configs must give the model's bits inside their bounds; illegal ones must be refused, and
so must legal ones whose tensors are spoiled.

Configs come from the subject's own strategies, so a failure shrinks to the smallest config that shows it, and is
told with the command that runs it again. What is drawn does not stop at finding wrong bits: Hypothesis is told
how much of its bound each output used, and climbs. A seed fixes everything that is drawn, unless a time limit or
a database of earlier examples has a say.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hypothesis import HealthCheck, Phase, given, reject, settings, target
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase

from conformance.bounds import VACUOUS
from conformance.fuzz_result import Finding, FuzzResult, Remark, Worst, is_inside, shares, told_once, worst_of
from conformance.lanes import LaneError
from conformance.pairwise import Coverage, covering, met
from conformance.refusals import call_complaint, refusal_complaint
from conformance.results import CaseResult, OutputResult
from conformance.runner import RUNGS, named_backend, run_case
from conformance.shrinking import smallest
from conformance.spoilings import Spoiling, lane_of, rule_of
from conformance.subject import Backend, Case, Subject, case_id, repro_command
from reference.neuroncore.errors import MachineWarning
from reference.numerics.formats import format_of
from reference.numerics.profile import DEFAULT, NumericsProfile

__all__ = [
    "SIZES",
    "FuzzFailure",
    "FuzzResult",
    "FuzzSize",
    "fuzz",
    "fuzz_cases",
    "fuzz_illegal",
    "fuzz_legal",
    "fuzz_spoiled",
    "pair_cases",
]

#: Seeds of data that are drawn beside a config.
_DATA_SEEDS = 1000
#: Examples of one run of Hypothesis at most; it climbs in the second half, and a longer climb gets higher.
_ROUND = 500


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
        "nightly": FuzzSize(legal=3000, illegal=1000, parts=8),
    }
)


class FuzzFailure(AssertionError):
    """The smallest example that fails; `repro` runs it again, `result` is that of a legal config."""

    def __init__(self, report: str, result: CaseResult | None = None, repro: str = "") -> None:
        super().__init__(report)
        self.result = result
        self.repro = repro or (result.repro if result else "")

    def finding(self) -> Finding:
        """As a result holds it."""
        return Finding(str(self), self.repro, self.result)


def fuzz(
    subject: Subject,
    examples: int,
    seed: int,
    minutes: float | None = None,
    backend: str | Backend = "sim",
    profile: NumericsProfile = DEFAULT,
    illegal: int | None = None,
    *,
    seek: bool = True,
    first: Sequence[Case] | None = (),
    database: Path | None = None,
    replay: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> FuzzResult:
    """Runs the cases `first`, then draws `illegal` illegal configs (as many as legal ones, unless told), as many
    legal ones with spoiled inputs, and `examples` legal ones; each of the four until something fails.

    minutes    bounds the time: no example begins after it, but one that failed is shrunk to its end
    seek       also computes truth and bounds: an output outside its bound is a failure, and drawing climbs towards
               it. Without, only bits are compared.
    first      None for cases that have every pair of options, `pair_cases(subject)`
    database   folder where examples that failed are kept, and such as came near their bounds
    replay     whether examples kept there come before new ones
    stop       asked before every example whether to end early

    KeyboardInterrupt ends the run, too, and what was found so far is returned.
    """
    run = _Run(subject, backend, profile, seek, _Deadline(minutes, stop))
    kinds = ("illegal", "spoiled", "legal")
    paths = [None if database is None else database / _folder(subject) / kind for kind in kinds]
    refused = examples if illegal is None else illegal
    steps: tuple[Callable[[], None], ...] = (
        lambda: run.cases(pair_cases(subject) if first is None else first),
        lambda: run.illegal(refused, seed, _Kept(paths[0], replay)),
        lambda: run.spoiled(refused, seed, _Kept(paths[1], replay)),
        lambda: run.legal(examples, seed, _Kept(paths[2], replay)),
    )
    started = time.perf_counter()
    findings, interrupted = [], False
    for step in steps:
        try:
            step()
        except FuzzFailure as found:
            findings.append(found.finding())
        except KeyboardInterrupt:
            interrupted = True
            break
    return FuzzResult(
        kernel=subject.name,
        examples=run.examples,
        refusals=run.refusals,
        spoiled=run.spoiled_by.total(),
        seconds=time.perf_counter() - started,
        seed=seed,
        findings=tuple(findings),
        worst=worst_of(run.worst),
        remarks=told_once(run.remarks),
        coverage=Coverage(covered=frozenset(run.pairs)) + (covering(subject).coverage if first is None else Coverage()),
        interrupted=interrupted or stop(),
    )


def fuzz_legal(
    subject: Subject,
    examples: int,
    seed: int,
    backend: str | Backend = "sim",
    profile: NumericsProfile = DEFAULT,
    seek: bool = True,
) -> int:
    """Model against kernel (and truth) on drawn configs, lanes and data; number of cases. FuzzFailure at the first."""
    run = _Run(subject, backend, profile, seek)
    run.legal(examples, seed)
    return run.examples


def fuzz_illegal(subject: Subject, examples: int, seed: int) -> int:
    """Refusal of drawn illegal configs; number of configs tried. FuzzFailure at the first not refused."""
    run = _Run(subject, "sim", DEFAULT, seek=False)
    run.illegal(examples, seed)
    return run.refusals


def fuzz_spoiled(subject: Subject, examples: int, seed: int) -> Counter[str]:
    """Refusal of drawn calls with spoiled inputs; how many by which rule. FuzzFailure at the first not refused."""
    run = _Run(subject, "sim", DEFAULT, seek=False)
    run.spoiled(examples, seed)
    return run.spoiled_by


def fuzz_cases(
    subject: Subject,
    cases: Iterable[Case],
    backend: str | Backend = "sim",
    profile: NumericsProfile = DEFAULT,
    seek: bool = True,
) -> frozenset[str]:
    """Given cases instead of drawn ones; names of the pairs of options that they met. FuzzFailure at the first."""
    run = _Run(subject, backend, profile, seek)
    run.cases(cases)
    return frozenset(run.pairs)


def pair_cases(subject: Subject) -> tuple[Case, ...]:
    """Cases that have together every pair of options that is legal; lanes by turns, as far as they fit."""
    return tuple(_of_some_lane(subject, config, turn) for turn, config in enumerate(covering(subject).configs))


def _of_some_lane(subject: Subject, config: Any, turn: int) -> Case:
    lanes = [lane for lane in subject.lanes if subject.lane_fits(config, lane)] or ["normal"]
    lane = lanes[turn % len(lanes)]
    return Case(case_id(config, lane, 0), config, lane, 0)


# -------------------------------------------------------------------------------------- one run


class _Deadline:
    """Whether examples may still begin."""

    def __init__(self, minutes: float | None = None, stop: Callable[[], bool] = lambda: False) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self._stop = stop

    def is_over(self) -> bool:
        return self._stop() or (self._end is not None and time.monotonic() > self._end)


@dataclass(frozen=True)
class _Kept:
    """Where Hypothesis keeps examples, None for nowhere, and whether it begins with those that are kept."""

    path: Path | None = None
    replay: bool = True

    def settings(self) -> dict[str, Any]:
        database = None if self.path is None else DirectoryBasedExampleDatabase(self.path)
        first = (Phase.reuse,) if self.replay and database is not None else ()
        return {"database": database, "phases": (*first, Phase.generate, Phase.target, Phase.shrink)}


@dataclass
class _Run:
    """What is fuzzed, and what was met so far."""

    subject: Subject
    backend: str | Backend
    profile: NumericsProfile
    seek: bool
    deadline: _Deadline = field(default_factory=_Deadline)
    examples: int = 0
    refusals: int = 0
    spoiled_by: Counter[str] = field(default_factory=Counter)
    worst: list[Worst] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    pairs: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if isinstance(self.backend, str):
            self.backend = named_backend(self.backend, self.profile)

    def cases(self, cases: Iterable[Case]) -> None:
        """Given cases; one that fails is made smaller field by field."""
        for case in cases:
            if self.deadline.is_over():
                return
            result = self._result(case)
            if result.status == "unfit":
                # The pairs of its config are wanted; any data will do.
                case = Case(case_id(case.config, "normal", case.seed), case.config, "normal", case.seed)
                result = self._result(case)
            if result.status == "unfit":
                continue
            self._judge(result, case, lambda failing: _failure(self._result(failing)) is not None)

    def legal(self, examples: int, seed: int, kept: _Kept = _Kept()) -> None:
        """Drawn configs, lanes and seeds of data."""

        def check(case: Case) -> None:
            result = self._result(case)
            if result.status == "unfit":
                reject()
            self._judge(result, case)
            for output, share in shares(result).items():
                target(share, label=output)

        self.drive(check, _cases(self.subject), examples, seed, kept)

    def illegal(self, examples: int, seed: int, kept: _Kept = _Kept()) -> None:
        """Drawn illegal configs, each with the rule that has to refuse it."""

        def check(drawn: tuple[Any, str]) -> None:
            complaint = refusal_complaint(self.subject, *drawn)
            if complaint:
                raise self._not_refused(Case(case_id(drawn[0], "normal", 0), drawn[0]), complaint)
            self.refusals += 1

        self.drive(check, self.subject.illegal(), examples, seed, kept)

    def spoiled(self, examples: int, seed: int, kept: _Kept = _Kept()) -> None:
        """Drawn legal configs with inputs that one rule has to refuse, every rule equally often."""

        def check(case: Case) -> None:
            try:
                complaint = call_complaint(self.subject, case)
            except LaneError:
                reject()
            if complaint:
                raise self._not_refused(case, complaint)
            self.spoiled_by[rule_of(case.lane)] += 1

        spoilings = self.subject.spoilings
        for one in spoilings:
            place = kept if kept.path is None else _Kept(kept.path / one.rule, kept.replay)
            self.drive(check, _spoiled_cases(self.subject, one), -(-examples // len(spoilings)), seed, place)

    def _not_refused(self, case: Case, complaint: str) -> FuzzFailure:
        again = repro_command(self.subject, case)
        return FuzzFailure(f"{self.subject.name} {case.id}: {complaint}\nagain: {again}", repro=again)

    def drive(
        self, check: Callable[[Any], None], drawn: st.SearchStrategy[Any], examples: int, seed: int, kept: _Kept
    ) -> None:
        """Runs `check` on drawn values in rounds, each from a seed of its own."""
        passed = 0
        while passed < examples and not self.deadline.is_over():
            wanted = min(_ROUND, examples - passed)
            done = _round(check, drawn, wanted, seed + passed, self.deadline, kept)
            passed += done
            kept = _Kept(kept.path, replay=False)
            if done < wanted:
                # The strategy has no more to give, or time is over.
                break

    def _result(self, case: Case) -> CaseResult:
        rungs = RUNGS if self.seek else ("model", "kernel")
        with warnings.catch_warnings():
            # What is drawn leaves the range of the hardware's tables often; results say what came of it.
            warnings.simplefilter("ignore", MachineWarning)
            return run_case(self.subject, case, self.backend, self.profile, rungs)

    def _judge(self, result: CaseResult, case: Case, fails: Callable[[Case], bool] | None = None) -> None:
        """Counts a case that is right, else raises FuzzFailure.

        `fails` tells the same of other cases; given where nothing else makes the failing one smaller.
        """
        if _failure(result) is not None:
            result = result if fails is None else self._result(smallest(self.subject, case, fails))
            raise FuzzFailure(_failure(result) or result.report(), result)
        self.examples += 1
        self.pairs |= met(self.subject, case.config)
        self._note(result, case)

    def _note(self, result: CaseResult, case: Case) -> None:
        size = sum(one.elements * format_of(one.dtype).itemsize for one in result.outputs if one.rung != "model")
        family, repro = self.subject.quantization(case.config), repro_command(self.subject, case)
        for output, share in shares(result).items():
            self.worst.append(Worst(output, family, share, case.id, repro, size))
        for one in filter(_says_too_little, result.outputs):
            self.remarks.append(Remark(one.name, family, one.missed, case.id, repro))


def _cases(subject: Subject) -> st.SearchStrategy[Case]:
    """Legal configs with data of a lane that fits them."""

    @st.composite
    def cases(draw: st.DrawFn) -> Case:
        config = draw(subject.strategy())
        lanes = [lane for lane in subject.lanes if subject.lane_fits(config, lane)]
        if not lanes:
            reject()
        lane, seed = draw(st.sampled_from(lanes)), draw(st.integers(0, _DATA_SEEDS - 1))
        return Case(case_id(config, lane, seed), config, lane, seed)

    return cases()


def _spoiled_cases(subject: Subject, spoiling: Spoiling) -> st.SearchStrategy[Case]:
    """Legal configs in which a rule about arguments can be violated, with inputs that do."""

    @st.composite
    def cases(draw: st.DrawFn) -> Case:
        config = draw(subject.strategy().filter(spoiling.fits))
        lane, seed = lane_of(spoiling.rule), draw(st.integers(0, _DATA_SEEDS - 1))
        return Case(case_id(config, lane, seed), config, lane, seed)

    return cases()


def _round(
    check: Callable[[Any], None],
    drawn: st.SearchStrategy[Any],
    examples: int,
    seed: int,
    deadline: _Deadline,
    kept: _Kept,
) -> int:
    """One run of Hypothesis, which shrinks what fails; number of checks that passed."""
    state = {"passed": 0, "failed": 0}

    def body(value: Any) -> None:
        # Once something failed, replays must go on: an early return would look like a flaky test.
        if deadline.is_over() and not state["failed"]:
            return
        try:
            check(value)
        except FuzzFailure:
            state["failed"] += 1
            raise
        state["passed"] += 1

    settings(
        max_examples=examples,
        deadline=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        **kept.settings(),
    )(seeded(seed)(given(drawn)(body)))()
    return state["passed"]


def _folder(subject: Subject) -> str:
    """Examples of another implementation are its own."""
    if subject.implementation.startswith("kernels."):
        return subject.name
    return f"{subject.name}-{hashlib.sha256(subject.implementation.encode()).hexdigest()[:8]}"


# -------------------------------------------------------------------------------------- verdicts


def _failure(result: CaseResult) -> str | None:
    """The report on a case that is wrong; None for one that is right, or says nothing."""
    if result.status == "unfit":
        return None
    bad = [one for one in result.outputs if not (one.passed or _says_too_little(one))]
    if bad or not (result.passed or result.status == "failed"):
        return result.report()
    outside = [
        f"{name}: an error of {share:.4g} times its bound"
        for name, share in shares(result).items()
        if not is_inside(share)
    ]
    head = f"{result.kernel} {result.case} on {result.backend}: outside its bound"
    return "\n".join([head, *outside, f"again: {result.repro}"]) if outside else None


def _says_too_little(output: OutputResult) -> bool:
    """Whether a model is inside its bound, which is infinite for most elements: truth has little to say of such data.

    `check` asks for grade C there all the same, of data that somebody chose. What errors do over a whole tensor is no
    excuse: a right model fails those gates once in a million times.
    """
    share = output.share_of_bound
    if output.passed or output.rung != "model" or share is None or not is_inside(share):
        return False
    return output.missed.startswith("not C: ") and VACUOUS in output.missed
