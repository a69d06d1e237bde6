"""A plain profile rounds as `cast` does; a study leaves its points alone, and its meter weighs the others."""

from __future__ import annotations

import numpy as np
import pytest

from reference.numerics.cast import cast
from reference.numerics.profile import CHAIN, DEFAULT
from reference.rounding import Meter, Study, alongside, carry, is_exact, is_study, round_to, tile_dtype, weigh

#: In bfloat16 1 + 2^-8 is a tie that goes to 1, 1 + 3 * 2^-8 one that goes to 1 + 2^-6.
VALUES = np.array([1.0, 1 + 2.0**-8, 1 + 3 * 2.0**-8, -np.inf, np.nan], np.float32)
ROUNDED = np.array([1.0, 1.0, 1 + 2.0**-6, -np.inf, np.nan], np.float32)


def test_plain_profile_rounds() -> None:
    got = round_to("prob", VALUES, "bfloat16", DEFAULT)
    assert got.dtype == cast(VALUES, "bfloat16").dtype
    assert np.array_equal(got.astype(np.float32), ROUNDED, equal_nan=True)


@pytest.mark.parametrize(("point", "tile"), [("prob", ()), ("rope_even", (1,))])
def test_exact_point_keeps_float32(point: str, tile: tuple[int, ...]) -> None:
    study = Study.of(DEFAULT, frozenset({"prob", "rope_even_1"}))
    got = round_to(point, VALUES, "bfloat16", study, tile)
    assert got.dtype == np.float32
    assert np.array_equal(got, VALUES, equal_nan=True)
    assert is_exact(point, study, tile)


@pytest.mark.parametrize(("point", "tile"), [("sum", ()), ("rope_even", (0,)), ("rope_even", ())])
def test_other_points_of_a_study_round(point: str, tile: tuple[int, ...]) -> None:
    study = Study.of(DEFAULT, frozenset({"prob", "rope_even_1"}))
    assert np.array_equal(round_to(point, VALUES, "bfloat16", study, tile).astype(np.float32), ROUNDED, equal_nan=True)
    assert not is_exact(point, study, tile)


def test_other_rounding_and_profile_reach_the_cast() -> None:
    assert float(round_to("x", VALUES[2:3], "bfloat16", DEFAULT, rounding="rz")[0]) == 1 + 2.0**-7
    flush = DEFAULT.replace(subnormals_cast="ftz")
    tiny = np.array([2.0**-15], np.float32)
    assert float(round_to("x", tiny, "float16", flush)[0]) == 0.0
    assert float(round_to("x", tiny, "float16", Study.of(flush))[0]) == 0.0


def test_study_answers_the_open_questions_as_its_profile() -> None:
    study = Study.of(CHAIN, frozenset({"prob"}))
    assert (study.matmul_order, study.reduce_order) == ("chain", "chain")
    changed = study.replace(matmul_order="exact")
    assert isinstance(changed, Study)
    assert changed.exact == {"prob"}
    assert is_study(study)
    assert not is_study(CHAIN)


def test_meter_weighs_what_is_rounded_away() -> None:
    meter = Meter()
    study = Study.of(DEFAULT, meter=meter)
    round_to("prob", VALUES, "bfloat16", study)
    row = meter.points["prob"]
    assert (row.format, row.elements, row.changed) == ("bfloat16", 5, 2)
    squares = 1 + (1 + 2.0**-8) ** 2 + (1 + 3 * 2.0**-8) ** 2
    assert row.introduced == pytest.approx((2 * 2.0**-16 / squares) ** 0.5)


def test_meter_sees_no_point_where_nothing_can_round() -> None:
    meter = Meter()
    study = Study.of(DEFAULT, meter=meter)
    round_to("wide", VALUES, "float32", study)
    round_to("same", cast(VALUES, "bfloat16"), "bfloat16", study)
    weigh("plain", VALUES, cast(VALUES, "bfloat16"), "bfloat16", DEFAULT)
    assert meter.points == {}


def test_meter_keeps_the_order_and_the_narrowest_format() -> None:
    meter = Meter()
    study = Study.of(DEFAULT, meter=meter)
    for point, fmt in (("second", "bfloat16"), ("first", "float16"), ("second", "float8_e4m3")):
        round_to(point, VALUES[:3], fmt, study)
    assert list(meter.points) == ["second", "first"]
    assert meter.points["second"].format == "float8_e4m3"
    assert meter.points["second"].elements == 6


def test_zeros_introduce_nothing() -> None:
    meter = Meter()
    round_to("x", np.zeros(3, np.float32), "bfloat16", Study.of(DEFAULT, meter=meter))
    assert meter.points["x"].introduced == 0.0


def test_what_carries_values_leaves_them_wide_in_a_study() -> None:
    assert carry(VALUES, "bfloat16", DEFAULT).dtype == cast(VALUES, "bfloat16").dtype
    assert carry(VALUES, "bfloat16", Study.of(DEFAULT)) is VALUES
    assert tile_dtype("bfloat16", DEFAULT) == cast(VALUES, "bfloat16").dtype
    assert tile_dtype("bfloat16", Study.of(DEFAULT)) == np.float32


def test_cache_and_rows_meet_in_float32_where_a_study_left_one_wide() -> None:
    cache, rows = cast(VALUES, "bfloat16"), VALUES
    for first, second in ((cache, rows), (rows, cache)):
        assert [x.dtype for x in alongside(first, second, Study.of(DEFAULT))] == [np.float32, np.float32]
    assert alongside(cache, rows, DEFAULT) == (cache, rows)
    assert alongside(cache, cache, Study.of(DEFAULT)) == (cache, cache)
