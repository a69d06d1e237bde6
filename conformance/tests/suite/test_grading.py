"""Every gate and every grade has an output it must accept and one that it must catch.

Outputs are made by hand from codes of the formats; grades are those that the definitions give on paper.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from conformance import grading
from conformance.bounds import Bound
from conformance.envelope import Envelope
from conformance.grades import Grade
from conformance.grading import Evidence, judge, share_of_bound
from conformance.subject import Output
from conformance.tolerances import Tolerance

BF16 = ml_dtypes.bfloat16
E4M3 = ml_dtypes.float8_e4m3

TRUTH = np.array([[1.0, -2.5, 0.15625, 64.0], [3.0, 0.25, -8.0, 0.5]])
MODEL = TRUTH.astype(BF16)
LOOSE = Tolerance("*", "*", "*", 1e-2, 1e-5, "test")


def _changed(place: tuple[int, int], value: float, dtype: Any = BF16) -> NDArray[Any]:
    changed = TRUTH.astype(dtype)
    changed[place] = value
    return changed


def _evidence(**fields: Any) -> Evidence:
    return Evidence(**{"output": Output("y"), "model": MODEL, "truth": TRUTH, "tolerance": LOOSE, **fields})


def test_the_order_of_grades_is_that_of_the_alphabet() -> None:
    assert Grade.A.meets(Grade.C)
    assert Grade.C.meets(Grade.C)
    assert not Grade.D.meets(Grade.C)
    assert [grade.name for grade in Grade] == list("ABCDF")


def test_the_same_bits_are_grade_a() -> None:
    assert judge(MODEL.copy(), _evidence()).grade is Grade.A


def test_one_bit_is_not_grade_a() -> None:
    off_by_one = MODEL.view(np.uint16).copy()
    off_by_one[1, 2] ^= 1
    verdict = judge(off_by_one.view(BF16), _evidence())
    assert verdict.grade is Grade.D
    assert verdict.missed == {"A": "1 of 8 elements differ"}


def test_minus_zero_is_not_plus_zero() -> None:
    model = _changed((0, 0), 0.0)
    evidence = _evidence(model=model, truth=model.astype(np.float64))
    assert judge(_changed((0, 0), -0.0), evidence).missed["A"] == "1 of 8 elements differ"
    assert judge(model.copy(), evidence).grade is Grade.A


def test_any_nan_is_any_nan() -> None:
    model = _changed((0, 0), np.nan)
    other = model.view(np.uint16).copy()
    other[0, 0] ^= 0x8001
    assert np.isnan(other.view(BF16)[0, 0])
    assert judge(other.view(BF16), _evidence(model=model)).grade is Grade.A


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_or_inf_out_of_place_is_f_whatever_the_tolerance_says(value: float) -> None:
    everything_passes = dataclasses.replace(LOOSE, rtol=1.0, atol=1e9, pass_rate=0.0)
    for got, model in ((_changed((1, 1), value), MODEL), (MODEL, _changed((1, 1), value))):
        verdict = judge(got.copy(), _evidence(model=model, tolerance=everything_passes))
        assert verdict.grade is Grade.F
        assert "1 NaN or Inf out of place, the first at [1, 1]" in verdict.reason


def test_the_sign_of_infinity_counts() -> None:
    evidence = _evidence(model=_changed((0, 0), np.inf))
    assert judge(_changed((0, 0), -np.inf), evidence).grade is Grade.F
    assert judge(_changed((0, 0), np.inf), evidence).grade is Grade.A


def test_another_shape_or_dtype_is_f() -> None:
    assert judge(MODEL[:1], _evidence()).reason == "shape [1, 4], expected [2, 4]"
    assert judge(MODEL.astype(np.float32), _evidence()).reason == "dtype float32, expected bfloat16"


ANYTHING = dataclasses.replace(LOOSE, rtol=1.0, atol=1e9)


@pytest.mark.parametrize(
    ("got", "reason"),
    [(np.zeros_like(MODEL), "all zero"), (np.full_like(MODEL, 2.0), "constant 2")],
)
def test_a_dead_output_is_f_whatever_the_tolerance_says(got: NDArray[Any], reason: str) -> None:
    assert judge(got, _evidence(tolerance=ANYTHING)).reason == reason


def test_a_constant_output_lives_where_truth_is_constant_but_for_rounding() -> None:
    truth = np.full((2, 4), 1.0)
    truth[0, 0] += 2.0**-8
    constant = np.ones((2, 4), BF16)
    assert judge(constant, _evidence(model=None, truth=truth)).grade is Grade.D
    truth[0, 0] = 1.5
    assert judge(constant, _evidence(model=None, truth=truth)).reason == "constant 1"


def test_an_argument_that_was_never_written_is_f() -> None:
    output = Output("cache", argument="cache")
    before = np.full((2, 4), 7, BF16)
    evidence = _evidence(output=output, before=before, tolerance=ANYTHING)
    assert judge(before.copy(), evidence).reason == ("never written: argument cache is as it was before the launch")
    assert judge(MODEL.copy(), evidence).grade is Grade.A
    # Nothing to write: the model leaves the argument as it was, and so may the kernel.
    nothing_new = _evidence(output=output, before=MODEL, model=MODEL)
    assert judge(MODEL.copy(), nothing_new).grade is Grade.A


def test_a_sentinel_must_stand_and_takes_no_part_in_the_tolerance() -> None:
    sentinel = -9948.0
    output = Output("row_max", sentinels=(sentinel,))
    truth = np.where(TRUTH == 64.0, sentinel, TRUTH)
    evidence = _evidence(output=output, model=None, truth=truth)
    stored = np.where(TRUTH == 64.0, sentinel, TRUTH).astype(np.float32)
    assert judge(stored, evidence).grade is Grade.D
    gone = stored.copy()
    gone[0, 3] = 0
    assert judge(gone, evidence).reason == "1 sentinels missing or changed"
    # 0.05 is far inside 1 % of the sentinel, and outside 1 % of the largest real value, 8.
    off = stored.copy()
    off[1, 3] += 0.1
    assert judge(off, evidence).grade is Grade.F


def test_an_undefined_element_is_held_against_the_model_alone() -> None:
    undefined = np.zeros((2, 4), np.bool_)
    undefined[0, 3] = True
    got = _changed((0, 3), 63.0)
    assert judge(got, _evidence(undefined=undefined)).missed == {"A": "1 of 8 elements differ"}
    assert judge(got, _evidence(undefined=undefined, model=None)).grade is Grade.D
    assert judge(got, _evidence(model=None)).grade is Grade.F


def test_an_undefined_element_may_be_nan_where_only_truth_speaks() -> None:
    undefined = np.zeros((2, 4), np.bool_)
    undefined[0, 3] = True
    got = _changed((0, 3), np.nan)
    assert judge(got, _evidence(undefined=undefined, model=None)).grade is Grade.D
    assert judge(got, _evidence(undefined=undefined)).grade is Grade.F


def test_no_tolerance_excuses_a_bit_in_the_exact_lane() -> None:
    got = _changed((0, 0), 1.0078125)
    assert judge(got, _evidence()).grade is Grade.D
    verdict = judge(got, _evidence(exact=True))
    assert verdict.grade is Grade.F
    assert verdict.reason.startswith("in lane exact every legal order gives the model's bits; not A: 1 of 8")
    assert judge(MODEL.copy(), _evidence(exact=True)).grade is Grade.A
    # The model itself is held against truth, which does not round.
    assert judge(got, _evidence(exact=True, model=None)).grade is Grade.D


def _spans(low: NDArray[Any], high: NDArray[Any]) -> Any:
    return lambda: Envelope(low.astype(np.float64), high.astype(np.float64), ("base", "matmul_order=chain"))


def test_a_legal_variant_is_grade_b_and_two_steps_outside_it_are_not() -> None:
    high = _changed((0, 0), 1.0078125)
    evidence = _evidence(envelope=_spans(MODEL, high), tolerance=None)
    # 1.0078125 is inside, the next bfloat16 is one ULP outside (allowed), the one after is too far.
    assert judge(_changed((0, 0), 1.0078125), evidence).grade is Grade.B
    assert judge(_changed((0, 0), 1.015625), evidence).grade is Grade.B
    outside = judge(_changed((0, 0), 1.0234375), evidence)
    assert outside.grade is Grade.F
    assert "1 elements outside the envelope of 2 profiles, the first at [0, 0]: 1.0234375" in outside.reason


def test_the_envelope_is_not_computed_while_bits_agree() -> None:
    def explode() -> Envelope:
        raise RuntimeError("asked")

    assert judge(MODEL.copy(), _evidence(envelope=explode)).grade is Grade.A
    with pytest.raises(RuntimeError, match="asked"):
        judge(_changed((0, 0), 1.0078125), _evidence(envelope=explode))


def test_inside_its_bound_is_grade_c_and_outside_is_not() -> None:
    limit = np.full((2, 4), 2.0**-6)
    evidence = _evidence(bound=Bound(limit, roundings=1), tolerance=None)
    assert judge(_changed((0, 0), 1.0078125), evidence).grade is Grade.C
    outside = judge(_changed((0, 0), 1.0234375), evidence)
    assert outside.grade is Grade.F
    assert "1 elements outside their bound, the worst at 1.5 times it" in outside.reason


def test_without_model_or_truth_nothing_can_be_judged() -> None:
    with pytest.raises(ValueError, match="neither model nor truth"):
        judge(MODEL, Evidence(Output("y")))


def test_fp8_outputs_are_judged_in_their_own_codes() -> None:
    # 247 rounds to 240 in e4m3; a kernel that saturates and one that overflows part at 248.
    truth = np.array([247.0, -3.0, 0.5])
    model = np.array([240.0, -3.0, 0.5], E4M3)
    evidence = Evidence(Output("y"), model=model, truth=truth, tolerance=dataclasses.replace(LOOSE, rtol=0.1))
    assert judge(model.copy(), evidence).grade is Grade.A
    assert judge(np.array([np.inf, -3.0, 0.5], E4M3), evidence).grade is Grade.F
    assert judge(np.array([224.0, -3.0, 0.5], E4M3), evidence).grade is Grade.D


def test_integers_are_judged_beyond_24_bits() -> None:
    model = np.array([2**24 + 1, 5], np.int32)
    got = np.array([2**24, 5], np.int32)
    evidence = Evidence(Output("index"), model=model, truth=model.astype(np.float64))
    assert judge(got, evidence).missed["A"] == "1 of 2 elements differ"
    assert judge(model.copy(), evidence).grade is Grade.A


def _drawn(rng: np.random.Generator) -> tuple[NDArray[Any], Evidence]:
    """An output and its evidence, with every kind of likeness between output, model, argument and truth."""
    truth = rng.standard_normal(6) * (rng.random() < 0.8)
    truth[rng.random(6) < 0.1] = rng.choice([np.nan, np.inf, 7.0])
    model = truth.astype(BF16)
    got = [model.copy(), np.zeros_like(model), (truth * 1.01).astype(BF16), np.full_like(model, 7)][rng.integers(4)]
    before = [None, got.copy(), model.copy(), rng.standard_normal(6).astype(BF16)][rng.integers(4)]
    if rng.random() < 0.3:
        got[rng.integers(6)] = rng.choice([np.nan, -0.0, 7.0, np.inf])
    return got, Evidence(
        Output("y", argument="" if before is None else "y_before", sentinels=(7.0,) if rng.random() < 0.3 else ()),
        model=model if rng.random() < 0.7 else None,
        truth=truth,
        before=before,
        undefined=None if rng.random() < 0.7 else rng.random(6) < 0.3,
        bound=Bound(np.full(6, 0.02)) if rng.random() < 0.5 else None,
        tolerance=LOOSE,
        exact=bool(rng.random() < 0.2),
    )


def test_equal_bytes_change_how_long_a_verdict_takes_and_not_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(17)
    drawn = [_drawn(rng) for _ in range(1500)]
    with np.errstate(all="ignore"):
        quick = [judge(*one) for one in drawn]
        monkeypatch.setattr(grading, "same_bytes", lambda a, b: False)
        assert [judge(*one) for one in drawn] == quick
    assert {verdict.grade for verdict in quick} == {Grade.A, Grade.C, Grade.D, Grade.F}


def _share(got: NDArray[Any], **fields: Any) -> float | None:
    return share_of_bound(got, _evidence(bound=Bound(np.full((2, 4), 2.0**-6)), **fields))


def test_the_share_of_a_bound_is_that_of_its_worst_element() -> None:
    assert _share(MODEL) == 0
    assert _share(_changed((0, 0), 1.0078125)) == 0.5
    assert _share(_changed((0, 0), 1.03125)) == 2
    no_room = dataclasses.replace(_evidence(bound=Bound(np.zeros((2, 4)))))
    assert share_of_bound(MODEL, no_room) == 0
    assert share_of_bound(_changed((0, 0), 1.0078125), no_room) == np.inf
    assert _share(_changed((0, 0), np.nan)) == np.inf


def test_a_share_is_taken_of_what_truth_speaks_about_alone() -> None:
    undefined = np.zeros((2, 4), np.bool_)
    undefined[0, 0] = True
    assert _share(_changed((0, 0), 1.03125), undefined=undefined) == 0
    sentinel = _evidence(output=Output("y", sentinels=(64.0,)), bound=Bound(np.full((2, 4), 2.0**-6)))
    assert share_of_bound(_changed((0, 3), 65.0), sentinel) == 0
    assert share_of_bound(MODEL, _evidence()) is None
    assert share_of_bound(MODEL, _evidence(truth=None, bound=Bound(np.ones((2, 4))))) is None
