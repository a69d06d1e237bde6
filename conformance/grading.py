"""One output, one grade: the best that holds of A, B, C and D, after the gates that make it F at once.

Order of the gates: shape and dtype; places of NaN and Inf; liveness (never written, all zero, constant);
sentinels; then bits, envelope, bound, tolerance. A tolerance can therefore never excuse a dead output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.bounds import Bound, Figures, faults_in, figures, load
from conformance.envelope import Envelope, envelope_faults, values64
from conformance.grades import Grade
from conformance.subject import Output
from conformance.tolerances import Tolerance, tolerance_faults
from reference.numerics.cast import cast, to_float32
from reference.numerics.formats import format_of
from reference.numerics.ulp import same_bits, same_bytes, ulp_distance

Array = NDArray[Any]

#: Truth that is constant (or zero, or as before the launch) but for so many ULPs may rightly come out so.
_ROUNDING_IN_ULP = 8


@dataclass(frozen=True)
class Evidence:
    """What an output is judged against. What is None is not there, and its grade cannot be had.

    output      the record of the output
    model       the model's array, in storage dtype
    truth       float64, the same shape
    before      for an output in place: the argument before the launch
    undefined   bool, True where the contract leaves the value open; judged against the model alone
    envelope    () -> Envelope; asked only when bits differ, since it costs many model runs
    bound       per element bound against truth
    tolerance   the published row
    exact       every legal choice gives the model's bits, so that no lesser grade excuses another bit
    """

    output: Output
    model: Array | None = None
    truth: Array | None = None
    before: Array | None = None
    undefined: Array | None = None
    envelope: Callable[[], Envelope] | None = None
    bound: Bound | None = None
    tolerance: Tolerance | None = None
    exact: bool = False
    _rounded: dict[str, Array] = field(default_factory=dict, init=False, repr=False, compare=False)
    _figures: dict[int, tuple[Array, Figures]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def rounded_truth(self, dtype: Any) -> Array:
        """Truth rounded once to a dtype."""
        assert self.truth is not None
        name = format_of(dtype).name
        if name not in self._rounded:
            self._rounded[name] = cast(np.asarray(self.truth, np.float64), name)
        return self._rounded[name]


@dataclass(frozen=True)
class Verdict:
    """The grade, and per better grade why it was missed ({'A': '3 of 512 elements differ'}).

    A gate that rules out every grade stands under ''. Grades for which there is no evidence are not named.
    """

    grade: Grade
    missed: dict[str, str] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """One line: what kept the output from the next better grade."""
        return "; ".join(f"not {name}: {why}" if name else why for name, why in self.missed.items())


def judge(got: Array, evidence: Evidence) -> Verdict:
    """The grade of one output. ValueError where there is neither model nor truth to judge it against."""
    golden = golden_of(got, evidence)
    if evidence.model is not None and same_bytes(got, golden):
        # No gate can be shut for what is golden itself.
        return Verdict(Grade.A)
    faults = structure_faults(got, golden, _open_to(evidence))
    if not faults:
        faults = liveness_faults(got, golden, evidence) + sentinel_faults(got, golden, evidence)
    if faults:
        return Verdict(Grade.F, {"": "; ".join(faults)})
    missed: dict[str, str] = {}
    for grade, is_available, faults_of in _GRADES:
        if is_available(evidence):
            faults = faults_of(got, golden, evidence)
            if not faults:
                return Verdict(grade, missed)
            missed[grade.name] = "; ".join(faults)
            if grade is Grade.A and evidence.exact:
                return Verdict(Grade.F, {"": "in lane exact every legal order gives the model's bits"} | missed)
    if evidence.truth is not None and evidence.bound is None:
        missed[Grade.C.name] = "no bound is derived; Subject.bounds may give one"
    if evidence.truth is not None and evidence.tolerance is None:
        missed[Grade.D.name] = "no tolerance is published; Subject.tolerances may give one"
    return Verdict(Grade.F, missed)


def grade_faults(grade: Grade, got: Array, evidence: Evidence) -> list[str] | None:
    """What keeps an output from this one grade, whatever the others say; None where there is no evidence for it.

    Shape, dtype and liveness are not looked at: `structure_faults` and `liveness_faults` come first.
    """
    for known, is_available, faults_of in _GRADES:
        if known is grade and is_available(evidence):
            return faults_of(got, golden_of(got, evidence), evidence)
    return None


def structure_faults(got: Array, golden: Array, undefined: Array | None = None) -> list[str]:
    """Differences of shape, dtype, or (where values are defined) the places and signs of NaN and Inf."""
    if got.shape != golden.shape:
        return [f"shape {list(got.shape)}, expected {list(golden.shape)}"]
    if got.dtype != golden.dtype:
        return [f"dtype {got.dtype}, expected {golden.dtype}"]
    if all(np.isfinite(_numbers(array)).all() for array in (got, golden)):
        return []
    special = [_special(array) for array in (got, golden)]
    apart = special[0] != special[1]
    if undefined is not None:
        apart &= ~undefined
    if not apart.any():
        return []
    where = tuple(int(i) for i in np.argwhere(apart)[0])
    found, expected = (float(values64(array[where])) for array in (got, golden))
    count = int(apart.sum())
    return [f"{count} NaN or Inf out of place, the first at {list(where)}: {found}, expected {expected}"]


def liveness_faults(got: Array, golden: Array, evidence: Evidence) -> list[str]:
    """Whether an output is dead: unwritten, all zero or constant where golden is clearly something else."""
    if same_bytes(got, golden):
        return []
    judged = _judged(golden, evidence)
    out, want = _picked(got, judged), _picked(golden, judged)
    if not want.size:
        return []
    before = None if evidence.before is None else _picked(evidence.before, judged)
    if before is not None and _same(out, before) and _clearly_apart(want, before):
        return [f"never written: argument {evidence.output.argument} is as it was before the launch"]
    # Where truth stands for the right values, it differs from them by as much as its bound has room for.
    bound = None if evidence.model is not None else evidence.bound
    room = 0.0 if bound is None else _picked(bound.limit, judged)
    if not _numbers(out).any() and _clearly_apart(want, np.zeros_like(want), room):
        return ["all zero"]
    alike = _same(out, np.full_like(out, out[0]))
    if alike and _clearly_apart(want, np.full_like(want, want[0])) and _clearly_apart(want, out, room):
        return [f"constant {float(values64(out[0])):.9g}"]
    return []


def share_of_bound(got: Array, evidence: Evidence) -> float | None:
    """Largest |error| / bound over the elements that truth speaks about, 0 where it speaks about none.

    Infinite where a value is missed that has no room, or is not finite; None where there is no bound.
    """
    if evidence.bound is None or evidence.truth is None:
        return None
    return _figures(got, evidence).share


def load_of_bound(got: Array, evidence: Evidence) -> float | None:
    """How much of the nearest limit of grade C an output uses up; None where there is no bound."""
    if evidence.bound is None or evidence.truth is None:
        return None
    return load(_figures(got, evidence))


def _figures(got: Array, evidence: Evidence) -> Figures:
    """The figures of an output, which both its grade and its report ask for."""
    assert evidence.bound is not None
    known = evidence._figures.get(id(got))
    if known is None or known[0] is not got:
        truth = _judged_truth(golden_of(got, evidence), evidence)
        known = evidence._figures[id(got)] = (got, figures(values64(got), truth, evidence.bound))
    return known[1]


def _open_to(evidence: Evidence) -> Array | None:
    """Elements about which golden says nothing: a model has a value for every one.

    Truth says nothing where the contract does not, and where the bound has room for an overflow: there infinity and
    the largest finite number are equally right.
    """
    if evidence.model is not None:
        return None
    if evidence.bound is None or evidence.truth is None:
        return evidence.undefined
    overflow = np.isfinite(_truth(evidence)) & ~np.isfinite(evidence.bound.limit)
    return overflow if evidence.undefined is None else overflow | evidence.undefined


def golden_of(got: Array, evidence: Evidence) -> Array:
    """What stands for the right values: the model's, else truth rounded once into the output's dtype."""
    if evidence.model is not None:
        return evidence.model
    if evidence.truth is None:
        raise ValueError(f"output {evidence.output.name}: neither model nor truth to judge it against")
    return evidence.rounded_truth(got.dtype)


def _numbers(array: Array) -> Array:
    """Values in whichever of the host's own types is at hand."""
    return array if array.dtype.kind in "iu" else to_float32(array)


def _picked(array: Array, judged: NDArray[np.bool_]) -> Array:
    """The judged elements in a row."""
    return array.reshape(-1) if judged.all() else array[judged]


def _special(array: Array) -> NDArray[np.int8]:
    """0 for finite elements, 1 and -1 for infinities, 2 for NaN."""
    values = values64(array)
    code = np.where(np.isnan(values), 2, np.where(np.isinf(values), np.sign(np.nan_to_num(values)), 0))
    return code.astype(np.int8)


def _judged(golden: Array, evidence: Evidence) -> NDArray[np.bool_]:
    """Elements that truth speaks about: defined, finite, no sentinel."""
    judged = np.isfinite(_numbers(golden))
    if evidence.output.sentinels:
        judged &= ~_is_sentinel(golden, evidence.output)
    return judged if evidence.undefined is None else judged & ~evidence.undefined


def _is_sentinel(golden: Array, output: Output) -> NDArray[np.bool_]:
    codes = cast(np.asarray(output.sentinels, np.float64), format_of(golden.dtype))
    return np.isin(values64(golden), values64(codes))


def sentinel_faults(got: Array, golden: Array, evidence: Evidence) -> list[str]:
    """Whether a value that stands for "nothing here" is missing where golden has it."""
    if not evidence.output.sentinels:
        return []
    places = _is_sentinel(golden, evidence.output)
    wrong = places & (values64(got) != values64(golden))
    return [f"{int(wrong.sum())} sentinels missing or changed"] if wrong.any() else []


def _clearly_apart(a: Array, b: Array, room: Array | float = 0.0) -> bool:
    """Whether some element differs by more than rounding could explain, or than there is room for."""
    far = ulp_distance(a, b, format_of(a.dtype)) > _ROUNDING_IN_ULP
    within = room[far] if isinstance(room, np.ndarray) else room
    return bool((~(np.abs(values64(a[far]) - values64(b[far])) <= within)).any())


def _same(a: Array, b: Array) -> bool:
    return bool(np.all(same_bits(a, b)))


def _bit_faults(got: Array, golden: Array, evidence: Evidence) -> list[str]:
    differing = got.size - int(np.count_nonzero(same_bits(got, golden)))
    return [f"{differing} of {got.size} elements differ"] if differing else []


def _envelope_faults(got: Array, golden: Array, evidence: Evidence) -> list[str]:
    assert evidence.envelope is not None
    return envelope_faults(got, evidence.envelope())


def _bound_faults(got: Array, golden: Array, evidence: Evidence) -> list[str]:
    return faults_in(_figures(got, evidence))


def _judged_truth(golden: Array, evidence: Evidence) -> Array:
    """Truth, NaN where it does not speak about the output."""
    return np.where(_judged(golden, evidence), _truth(evidence), np.nan)


def _tolerance_faults(got: Array, golden: Array, evidence: Evidence) -> list[str]:
    assert evidence.tolerance is not None
    judged = _judged(golden, evidence)
    return tolerance_faults(values64(got)[judged], _truth(evidence)[judged], evidence.tolerance)


def _truth(evidence: Evidence) -> Array:
    return np.asarray(evidence.truth, np.float64)


Check = Callable[[Array, Array, Evidence], list[str]]

#: Grades from the best down, when there is evidence for them, and how faults are found.
_GRADES: tuple[tuple[Grade, Callable[[Evidence], bool], Check], ...] = (
    (Grade.A, lambda evidence: evidence.model is not None, _bit_faults),
    (Grade.B, lambda evidence: evidence.envelope is not None, _envelope_faults),
    (Grade.C, lambda evidence: not (evidence.bound is None or evidence.truth is None), _bound_faults),
    (Grade.D, lambda evidence: not (evidence.tolerance is None or evidence.truth is None), _tolerance_faults),
)
