"""What a change of values means: judged by the old values as reference, and traced through the model.

Neither side is right by itself, so nothing here is compared with the present model: it may be the very thing that
changed, and would then be inside its own envelope whatever it says. The envelope of grade B is laid around the *old*
values instead: per element as far below and above them as the model of today goes below and above its own base when
the open questions of the old profile take their other answers. A model that has lost a token has the same small
envelope as before, and the lost token lies outside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from conformance import registry
from conformance.bounds import Bound
from conformance.config_codec import config_from_dict
from conformance.digests import digest_text
from conformance.drift_sides import MODEL, Record
from conformance.envelope import Envelope, envelopes, values64
from conformance.grades import Grade
from conformance.grading import judge
from conformance.judging import Reference, evidence_of
from conformance.point_digests import PointDigests
from conformance.subject import Arrays, Case, Subject
from reference.numerics.profile import NumericsProfile

Array = NDArray[Any]
Float64 = NDArray[np.float64]
T = TypeVar("T")


class Judged(NamedTuple):
    """The grade of new values with the old ones as model, and what kept them from a better one."""

    grade: Grade
    why: str


class CannotJudge(Exception):
    """This project cannot build the case any more; the message says why."""


@dataclass
class Judge:
    """Judges the outputs of one case: `old` and `new` are what the two sides hold of it. What is costly is computed
    when first needed, once for all outputs."""

    old: Record
    new: Record

    def grade(self, name: str) -> Judged:
        """The grade of one output of the new side. CannotJudge where the case is none of this project."""
        held = self.new.output(MODEL, name)
        assert held is not None
        assert held.values is not None
        reference = Reference(
            self._inputs,
            self._truth,
            model=self._old_values,
            spans=self._spans if self._old_values else None,
            undefined=_tried(lambda: self._subject.undefined(self._config, self._inputs)),
        )
        evidence = evidence_of(self._subject, self._case, name, reference, self._bounds)
        if evidence.model is None and evidence.truth is None:
            raise CannotJudge(f"truth has no output {name}")
        verdict = judge(held.values, evidence)
        return Judged(verdict.grade, verdict.reason)

    @functools.cached_property
    def _subject(self) -> Subject:
        return _subject(self.new)

    @functools.cached_property
    def _config(self) -> Any:
        return _config(self._subject, self.new)

    @property
    def _case(self) -> Case:
        return Case(self.new.case, self._config, self.new.lane, self.new.seed)

    @functools.cached_property
    def _inputs(self) -> Arrays:
        return _tried(lambda: self._subject.build(self._config, self.new.lane, self.new.seed))

    @functools.cached_property
    def _truth(self) -> Arrays:
        return _tried(lambda: self._subject.truth(self._config, self._inputs))

    @functools.cached_property
    def _bounds(self) -> Mapping[str, Bound]:
        return _tried(lambda: self._subject.bounds(self._config, self._inputs))

    @functools.cached_property
    def _old_values(self) -> Arrays:
        return {one.name: one.values for one in self.old.outputs if one.kind == MODEL and one.values is not None}

    def _spans(self) -> Mapping[str, Envelope]:
        return self._laid

    @functools.cached_property
    def _laid(self) -> Mapping[str, Envelope]:
        return _tried(self._around_old)

    def _around_old(self) -> Mapping[str, Envelope]:
        profile = NumericsProfile.from_dict(self.old.profile)
        base = self._subject.model(self._config, self._inputs, profile=profile)
        spans = envelopes(self._subject, self._config, self._inputs, profile)
        return {name: _around(self._old_values[name], base.get(name), spans.get(name)) for name in self._old_values}


def _around(old: Array, base: Array | None, span: Envelope | None) -> Envelope:
    """`span`, which lies around `base`, laid around `old`; nothing but `old` where the model has no such output."""
    values = values64(old)
    if base is None or span is None or base.shape != old.shape:
        return Envelope(values, values, ("base",))
    center = values64(base)
    return Envelope(values + _reach(span.low, center), values + _reach(span.high, center), span.profiles)


def _reach(end: Float64, center: Float64) -> Float64:
    """How far an end is from the center; no way where either is not finite, which no rounding explains."""
    finite = np.isfinite(end) & np.isfinite(center)
    return np.subtract(end, center, out=np.zeros_like(center), where=finite)


def recomputed_points(record: Record) -> Mapping[str, str] | None:
    """Digests of the rounding points of the model of a record, by the model of today; None unless that gives the
    record's bits, since what another model did inside is not to be known from its outputs."""
    try:
        return _recomputed(record)
    except CannotJudge:
        return None


def _recomputed(record: Record) -> Mapping[str, str] | None:
    subject = _subject(record)
    config, digests = _config(subject, record), PointDigests()
    profile = _tried(lambda: NumericsProfile.from_dict(record.profile))
    inputs = _tried(lambda: subject.build(config, record.lane, record.seed))
    outputs = _tried(lambda: subject.model(config, inputs, profile=profile, record=digests))
    held = {one.name: one.digest for one in record.outputs if one.kind == MODEL}
    same = held == {name: digest_text(array) for name, array in outputs.items()}
    return digests.by_name() if same else None


def _subject(record: Record) -> Subject:
    try:
        return registry.kernel(record.kernel)
    except (KeyError, registry.CaseModuleError) as error:
        raise CannotJudge(f"no kernel {record.kernel} here") from error


def _config(subject: Subject, record: Record) -> Any:
    return _tried(lambda: config_from_dict(subject.config_type, record.config))


def _tried(step: Callable[[], T]) -> T:
    """What a step gives; whatever it raises, for want of a field, a lane or a profile, means that there is no case."""
    try:
        return step()
    except CannotJudge:
        raise
    except Exception as error:
        raise CannotJudge(f"the case cannot be computed here: {type(error).__name__}: {error}") from error
