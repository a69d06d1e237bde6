"""ULP distances count representable numbers; bits are compared with NaN as one class and zeros as two."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.tests.numerics.code_tables import NARROW
from reference.numerics.formats import FORMATS, format_of
from reference.numerics.ulp import NAN_DISTANCE, same_bits, same_bytes, ulp_distance, ulp_size

Array = NDArray[Any]


def codes(name: str, patterns: Any) -> Array:
    row = format_of(name)
    return np.asarray(patterns, f"u{row.itemsize}").view(row.storage)


def ascending(name: str) -> list[int]:
    """All codes but NaN from -inf (or the most negative number) to +inf, with one zero."""
    row = NARROW[name]
    if not row.signed:
        return list(row.finite())
    positive = [*row.finite(), *([] if row.infinity is None else [row.infinity])]
    return [len(row.magnitudes()) + m for m in reversed(positive[1:])] + positive


@pytest.mark.parametrize("name", NARROW)
def test_neighbouring_codes_are_one_apart(name: str) -> None:
    ordered = codes(name, ascending(name))
    values = [NARROW[name].value(code) for code in ascending(name)]
    assert all(low < high for low, high in pairwise(values))
    assert (ulp_distance(ordered[1:], ordered[:-1], name) == 1).all()
    assert ulp_distance(ordered[0], ordered[-1], name) == len(ordered) - 1
    assert (ulp_distance(ordered, ordered, name) == 0).all()


def test_float32_distances_across_zero_binades_and_signs() -> None:
    tiny = np.float32(2.0**-149)
    pairs = [(0.0, -0.0, 0), (tiny, -tiny, 2), (1.0, np.nextafter(np.float32(1), np.float32(2)), 1)]
    pairs += [
        (np.nextafter(np.float32(1), np.float32(0)), 1.0, 1),
        (1.0, 2.0, 2**23),
        (-1.0, 1.0, 2 * 0x3F800000),
    ]
    pairs += [(np.inf, np.finfo(np.float32).max, 1), (np.inf, -np.inf, 2 * 0x7F800000)]
    for a, b, distance in pairs:
        assert ulp_distance(np.float32(a), np.float32(b), "float32") == distance
        assert ulp_distance(np.float32(b), np.float32(a)) == distance


def test_tfloat32_counts_its_own_steps() -> None:
    a, b = np.float32([1, -1, 0]), np.float32([1 + 2.0**-10, -1 + 2.0**-11, 2.0**-136])
    assert ulp_distance(a, b, "tfloat32").tolist() == [1, 1, 1]


def test_nan_is_as_far_as_can_be_from_numbers_and_at_itself() -> None:
    quiet, other = np.uint32([0x7FC00000, 0xFF800001]).view(np.float32)
    assert ulp_distance(quiet, other) == 0
    assert ulp_distance(quiet, np.float32(np.inf)) == NAN_DISTANCE
    assert ulp_distance(np.float32(-np.inf), np.float32(np.inf)) < NAN_DISTANCE


def test_integers_differ_by_their_difference() -> None:
    assert ulp_distance(np.int32([-(2**31)]), np.int32([2**31 - 1])) == 2**32 - 1
    assert ulp_distance(np.uint8([255]), np.uint8([250]), "uint8") == 5


def test_distances_of_wrong_containers_are_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16 is stored as bfloat16, got an array of float32"):
        ulp_distance(np.float32(1), np.float32(1), "bfloat16")
    with pytest.raises(ValueError, match="unpack float8_e5m2_x4 first"):
        ulp_distance(np.uint32(1), np.uint32(1), "float8_e5m2_x4")


@pytest.mark.parametrize("name", [name for name in NARROW if NARROW[name].nan])
def test_same_bits_takes_all_nan_for_one_and_zeros_for_two(name: str) -> None:
    row = NARROW[name]
    nans = codes(name, list(row.nan))
    assert same_bits(nans, nans[::-1]).all()
    assert not same_bits(nans, np.broadcast_to(codes(name, [0]), nans.shape)).any()
    if row.signed:
        assert not same_bits(codes(name, [0]), codes(name, [len(row.magnitudes())])).any()


def test_same_bits_sees_every_single_bit() -> None:
    one = np.float32(1).view(np.uint32)
    for bit in range(32):
        flipped = np.array(one ^ np.uint32(1 << bit)).view(np.float32)
        assert not same_bits(np.float32(1), flipped), bit
    assert same_bits(np.float32(1), np.float32(1))
    assert same_bits(np.uint32([7]), np.uint32([7])).all()
    with pytest.raises(ValueError, match="dtypes differ, float32 and float16"):
        same_bits(np.float32(1), np.float16(1))


@pytest.mark.parametrize("name", [name for name in NARROW if NARROW[name].signed])
def test_ulp_size_is_the_gap_above_every_finite_code(name: str) -> None:
    row = NARROW[name]
    finite = [float(row.exact(code)) for code in row.finite()]
    gaps = [high - low for low, high in pairwise(finite)]
    assert ulp_size(np.array(finite[:-1]), name).tolist() == gaps
    assert ulp_size(-np.array(finite[:-1]), name).tolist() == gaps
    # Between two codes the gap is theirs; past the last code it is the last one.
    assert ulp_size(np.array(finite[:-1]) + np.array(gaps) / 2, name).tolist() == gaps
    assert ulp_size(np.array([1e300]), name).tolist() == gaps[-1:]


def test_ulp_size_of_float32_and_of_what_is_not_finite() -> None:
    assert ulp_size(np.array([1.0, 1.5, 2.0, 0.0, 1e-45]), "float32").tolist() == [
        2.0**-23, 2.0**-23, 2.0**-22, 2.0**-149, 2.0**-149,
    ]  # fmt: skip
    assert ulp_size(np.array([3.0]), "int32").tolist() == [1.0]
    assert math.isnan(ulp_size(np.nan, "float32"))
    assert math.isnan(ulp_size(np.inf, FORMATS["bfloat16"]))


def test_same_bytes_tells_every_bit_shape_and_dtype() -> None:
    values = np.array([1, -0.0, np.nan, np.inf], np.float32)
    assert same_bytes(values, values.copy())
    assert same_bytes(values[::2], np.array([1, np.nan], np.float32))
    other_nan = values.copy()
    other_nan.view(np.uint32)[2] ^= 1
    assert same_bits(values, other_nan).all()
    for apart in (other_nan, np.abs(values), values.reshape(2, 2), values.astype(np.float16), values[:3]):
        assert not same_bytes(values, apart)


def test_same_bits_of_nan_broadcasts() -> None:
    rows = np.array([[1, np.nan], [np.nan, np.nan]], np.float32)
    rows.view(np.uint32)[1, 1] ^= 1
    assert same_bits(rows, np.array([np.nan, np.nan], np.float32)).tolist() == [[False, True], [True, True]]
