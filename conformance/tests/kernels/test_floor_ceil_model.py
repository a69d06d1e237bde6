"""Claims about floor and ceiling of the segmented attention's helpers, as the model computes them.

Expected values come from Python's exact rationals, and for many values at once from NumPy's own floor, an
IEEE-exact operation that the model does not use. `conformance/audit_floor.py` walks ten million values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance import audit_floor
from conformance.tests.kernels import attention_segmented_cte_by_hand as by_hand
from reference.float_to_int import ceil_to_int32, floor_to_int32
from reference.numerics import DEFAULT

Array = NDArray[Any]
LARGEST = 2**31 - 1

#: Value, floor, ceiling.
TABLE = (
    (1.7, 1, 2),
    (-1.5, -2, -1),
    (-0.3, -1, 0),
    (0.5, 0, 1),
    (-0.5, -1, 0),
    (2.5, 2, 3),
    (3.0, 3, 3),
    (-7.0, -7, -7),
    (0.0, 0, 0),
    (-0.0, 0, 0),
    (2.0**-149, 0, 1),
    (-(2.0**-149), -1, 0),
    (8388607.5, 8388607, 8388608),
    (-8388607.5, -8388608, -8388607),
    (2.0**24 + 2, 2**24 + 2, 2**24 + 2),
    (-(2.0**24) - 2, -(2**24) - 2, -(2**24) - 2),
    (2.0**31 - 128, 2**31 - 128, 2**31 - 128),
    (2.0**31, LARGEST, LARGEST),
    (-(2.0**31), -(2**31), -(2**31)),
    (1e30, LARGEST, LARGEST),
    (-1e30, -(2**31), -(2**31)),
    (np.inf, LARGEST, LARGEST),
    (-np.inf, -(2**31), -(2**31)),
    (np.nan, 0, 0),
)


@pytest.mark.parametrize(("value", "floor", "ceiling"), TABLE)
def test_table_of_edges(value: float, floor: int, ceiling: int) -> None:
    x = np.float32([value])
    assert (int(floor_to_int32(x)[0]), int(ceil_to_int32(x)[0])) == (floor, ceiling)


def all_bfloat16() -> Array:
    return (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)


def test_every_bfloat16_code_has_the_floor_of_its_exact_value() -> None:
    values = all_bfloat16()
    got = floor_to_int32(values)
    assert [int(n) for n in got] == [by_hand.floor(float(x)) for x in values]


def test_every_bfloat16_code_has_the_ceiling_of_its_exact_value() -> None:
    values = all_bfloat16()
    finite = np.abs(values) < 2.0**31
    got = ceil_to_int32(values[finite])
    assert [int(n) for n in got] == [-by_hand.floor(-float(x)) for x in values[finite]]


def test_random_values_around_integers_and_of_all_codes() -> None:
    assert not audit_floor.disagreements(audit_floor.samples(500_000, seed=1))


def test_the_audit_sees_a_truncating_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.float32([-0.5, 1.5, -3.25, 4.0])
    assert not audit_floor.disagreements(values)
    monkeypatch.setattr(audit_floor, "floor_to_int32", lambda x: np.trunc(x).astype(np.int32))
    assert [line.split(" =")[0] for line in audit_floor.disagreements(values)] == [
        "floor(-0x1.0000000000000p-1)",
        "floor(-0x1.a000000000000p+1)",
    ]


@pytest.mark.parametrize("shape", [(1, 1), (128, 3), (2, 0)])
def test_shapes_are_kept(shape: tuple[int, ...]) -> None:
    x = np.full(shape, -1.25, np.float32)
    assert floor_to_int32(x).shape == ceil_to_int32(x).shape == shape
    assert (floor_to_int32(x) == -2).all()
    assert (ceil_to_int32(x) == -1).all()


def test_an_engine_that_reads_subnormals_as_zero_floors_them_to_zero() -> None:
    values = np.float32([-(2.0**-149), -(2.0**-126)])
    daz = DEFAULT.replace(subnormals_alu="daz")
    assert floor_to_int32(values, daz).tolist() == [0, -1]
    assert floor_to_int32(values).tolist() == [-1, -1]


@pytest.mark.parametrize(("answer", "wanted"), [("zero", 0), ("min", -(2**31)), ("max", LARGEST)])
def test_nan_follows_the_profile(answer: str, wanted: int) -> None:
    assert floor_to_int32(np.float32([np.nan]), DEFAULT.replace(nan_to_int=answer)).tolist() == [wanted]
