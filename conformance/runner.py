"""One case on the ladder: truth, model, kernel; each rung judged against the one before it."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from conformance.backends import backend as make_backend
from conformance.backends import in_child
from conformance.backends.errors import BackendError
from conformance.backends.sim import SimBackend, Tapped, timed
from conformance.entry import launch
from conformance.envelope import envelopes
from conformance.judging import Reference, judge_rung
from conformance.lanes import LaneError
from conformance.point_digests import PointDigests, tap_digests
from conformance.refusals import call_complaint
from conformance.repeat import RUNG, unsteady_outputs
from conformance.results import CaseResult, OutputResult
from conformance.spoilings import rule_of
from conformance.subject import Arrays, Backend, Case, Subject, config_to_dict, repro_command
from reference.errors import KernelArgumentError
from reference.neuroncore.errors import NkiValidationError
from reference.neuroncore.options import Options
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.recorder import NO_RECORD

T = TypeVar("T")

RUNGS = ("truth", "model", "kernel")


def run_case(
    subject: Subject,
    case: Case,
    backend: str | Backend = "sim",
    profile: NumericsProfile = DEFAULT,
    rungs: Iterable[str] = RUNGS,
    envelope: bool = False,
    candidates: Iterable[str] = (),
    repeat: int = 1,
    points: bool = False,
) -> CaseResult:
    """Runs a case and grades its outputs; whatever kernel, model or truth raise becomes a status.

    `rungs` may leave some out: without 'truth' nothing is held against it, without 'model' the kernel is
    graded against truth alone, without 'kernel' the model is. `envelope` allows grade B at the cost of one
    model run per candidate of the open questions; `candidates` adds questions by name (U12). `repeat` launches
    the kernel so many times and demands the bits of the first run every time. `points` keeps digests of all rounding
    points, the kernel's only from a machine in this process: nothing else shows them. An illegal config is taken to the
    kernel's door only, and so are spoiled inputs, where being refused by their rule is passing. ValueError for an
    unknown rung; RuntimeError where the backend cannot run here.
    """
    chosen = tuple(rungs)
    if unknown := set(chosen) - set(RUNGS):
        raise ValueError(f"unknown rung {sorted(unknown)[0]!r}; known: {', '.join(RUNGS)}")
    on = named_backend(backend, profile) if isinstance(backend, str) else backend
    return _Ladder(subject, case, on, profile, chosen, envelope, tuple(candidates), repeat, points).climb()


def named_backend(name: str, profile: NumericsProfile = DEFAULT, timeout: float | None = None) -> Backend:
    """A backend by name, the embedded machine under `profile`. RuntimeError where it cannot run here.

    `timeout` is the time limit of one launch in seconds; None leaves it to the backend: TIME_LIMIT where launches
    happen in a child process anyway, none for the machine in this process. ValueError where there is no child.
    """
    if name == "sim":
        options = Options(profile=profile)
        return make_backend(name, options=options) if timeout is None else timed(options, timeout)
    if timeout is None:
        return make_backend(name)
    if not in_child(name):
        raise ValueError(f"backend {name} runs in this process and has no time limit")
    return make_backend(name, timeout=timeout)


class _Raised(Exception):
    """Something was raised on the rung that this names; the cause is what."""


@dataclass
class _Ladder:
    subject: Subject
    case: Case
    backend: Backend
    profile: NumericsProfile
    rungs: tuple[str, ...]
    envelope: bool
    candidates: tuple[str, ...]
    repeat: int
    points: bool
    seconds: dict[str, float] = field(default_factory=dict)
    digests: dict[str, dict[str, str]] = field(default_factory=dict)

    def climb(self) -> CaseResult:
        try:
            if rule_of(self.case.lane):
                complaint = self._timed("refusal", lambda: call_complaint(self.subject, self.case))
                return self._result("failed" if complaint else "passed", error=complaint)
            outputs = self._outputs()
        except _Raised as raised:
            return self._unfinished(str(raised), raised.__cause__ or raised)
        status = "passed" if all(output.passed for output in outputs) else "failed"
        unsteady = [output.name for output in outputs if output.rung == RUNG]
        error = f"not deterministic: {', '.join(unsteady)}" if unsteady else ""
        return self._result(status, outputs=tuple(outputs), error=error)

    def _outputs(self) -> list[OutputResult]:
        subject, config = self.subject, self.case.config
        if self._timed("legal", lambda: subject.legal(config)) is not None:
            self._timed("kernel", lambda: launch(subject, config, {}, self.backend))
        inputs = self._timed("build", lambda: subject.build(config, self.case.lane, self.case.seed))
        truth = self._asked("truth", lambda: subject.truth(config, inputs))
        model = self._asked("model", lambda: self._model(inputs))
        kernel = self._asked("kernel", lambda: self._launched(inputs))
        unsteady = self._timed("repeat", lambda: self._unsteady(inputs, kernel)) if self.repeat > 1 else []
        return self._timed("grading", lambda: self._judged(inputs, truth, model, kernel)) + unsteady

    def _model(self, inputs: Arrays) -> Arrays:
        record = PointDigests() if self.points else NO_RECORD
        outputs = self.subject.model(self.case.config, inputs, profile=self.profile, record=record)
        if isinstance(record, PointDigests):
            self.digests["model"] = record.by_name()
        return outputs

    def _launched(self, inputs: Arrays) -> Arrays:
        tapped = Tapped(self.backend) if self.points and isinstance(self.backend, SimBackend) else None
        outputs = launch(self.subject, self.case.config, inputs, tapped or self.backend)
        if tapped is not None:
            names = [point.name for point in self.subject.contract.points]
            self.digests[self.backend.name] = tap_digests(tapped.taps, names)
        return outputs

    def _unsteady(self, inputs: Arrays, kernel: Arrays | None) -> list[OutputResult]:
        if kernel is None:
            return []
        again = functools.partial(launch, self.subject, self.case.config, inputs, self.backend)
        return unsteady_outputs(kernel, again, self.repeat)

    def _judged(
        self, inputs: Arrays, truth: Arrays | None, model: Arrays | None, kernel: Arrays | None
    ) -> list[OutputResult]:
        config = self.case.config
        undefined = self.subject.undefined(config, inputs)
        # Both rungs are held to the same bounds, and these cost as much as truth.
        bounds = functools.cache(lambda: self.subject.bounds(config, inputs))
        judge = functools.partial(judge_rung, self.subject, self.case)
        results: list[OutputResult] = []
        if model is not None and truth is not None:
            results += judge("model", model, Reference(inputs, truth, bounds=bounds, undefined=undefined))
        if kernel is not None and (model is not None or truth is not None):
            spans = self._spans(inputs) if self.envelope and model is not None else None
            below = {result.name: result for result in results}
            results += judge(
                self.backend.name, kernel, Reference(inputs, truth, model, spans, bounds, undefined, below)
            )
        return results

    def _spans(self, inputs: Arrays) -> Callable[[], Any]:
        config, base = self.case.config, self.profile
        return functools.cache(lambda: envelopes(self.subject, config, inputs, base, self.candidates))

    def _asked(self, rung: str, step: Callable[[], Arrays]) -> Arrays | None:
        return self._timed(rung, step) if rung in self.rungs else None

    def _timed(self, rung: str, step: Callable[[], T]) -> T:
        started = time.perf_counter()
        try:
            return step()
        except Exception as error:
            raise _Raised(rung) from error
        finally:
            self.seconds[rung] = time.perf_counter() - started

    def _unfinished(self, rung: str, error: BaseException) -> CaseResult:
        status = _status(rung, error)
        if isinstance(error, BackendError):
            # The traceback of this process ends at the pipe to the child; the child's own tells where it was.
            return self._result(status, error=f"{rung}: {error}", details=error.details)
        traced = status in ("crashed", "violation")
        details = "".join(traceback.format_exception(error)) if traced else ""
        return self._result(status, error=f"{rung}: {type(error).__name__}: {error}", details=details)

    def _result(self, status: str, **more: Any) -> CaseResult:
        case = self.case
        return CaseResult(
            kernel=self.subject.name,
            case=case.id,
            config=config_to_dict(case.config),
            lane=case.lane,
            seed=case.seed,
            backend=self.backend.name,
            profile=self.profile.to_dict(),
            repro=repro_command(self.subject, case, self.backend.name, repeat=self.repeat),
            status=status,
            seconds=self.seconds,
            repeats=self.repeat,
            implementation=self.subject.judged,
            points=self.digests,
            **more,
        )


def _status(rung: str, error: BaseException) -> str:
    """Only a refusal at the kernel's door is one; the same exception out of a model is a crash."""
    if rung in ("build", "refusal") and isinstance(error, LaneError):
        return "unfit"
    if rung not in ("kernel", RUNG):
        return "crashed"
    if isinstance(error, BackendError):
        return error.status
    if isinstance(error, KernelArgumentError):
        return "refused"
    return "violation" if isinstance(error, NkiValidationError) else "crashed"
