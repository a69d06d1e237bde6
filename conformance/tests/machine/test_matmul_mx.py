"""Claim: nc_matmul_mx sums scaled products of packed elements exactly, taking scales from the rows that the
layout names and from no others."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.tests.machine.bench import out, refusal, run, tile
from conformance.tests.numerics.fractions_reference import nearest_float32

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

#: Value of every nibble of fp4 (E2M1), by the OCP table.
FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]


def lanes(packed: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """[K, 4, F]: the values of the packed elements, lane 0 in the low bits."""
    if dtype == "float4_e2m1fn_x4":
        nibbles = np.stack([(packed >> shift) & 15 for shift in (0, 4, 8, 12)], axis=1)
        return np.array(FP4)[nibbles]
    element = getattr(ml_dtypes, dtype.removesuffix("_x4"))
    codes = np.stack([(packed >> shift) & 255 for shift in (0, 8, 16, 24)], axis=1).astype(np.uint8)
    return codes.view(element).astype(np.float64)


def expected(a: Any, a_type: str, a_scale: Any, b: Any, b_type: str, b_scale: Any) -> NDArray[np.float32]:
    """By fractions; scales are given per group, [K // 8, F]."""
    left, right = lanes(a, a_type), lanes(b, b_type)
    left = left * 2.0 ** (np.repeat(a_scale, 8, axis=0).astype(np.float64) - 127)[:, None, :]
    right = right * 2.0 ** (np.repeat(b_scale, 8, axis=0).astype(np.float64) - 127)[:, None, :]
    rows = [
        [
            nearest_float32(
                sum(
                    (
                        Fraction(x) * Fraction(y)
                        for x, y in zip(left[..., m].flat, right[..., n].flat, strict=True)
                    ),
                    Fraction(0),
                )
            )
            for n in range(right.shape[2])
        ]
        for m in range(left.shape[2])
    ]
    return np.array(rows, np.float32)


def multiply(
    a: Any, b: Any, a_scale: Any, b_scale: Any, a_type: str, b_type: str, dst: str = "float32"
) -> Any:
    """Packed operands and scale tiles arrive as plain integers and are viewed as what they hold."""
    x, y = tile(a).view(a_type), tile(b).view(b_type)
    result = nl.ndarray((x.shape[1], y.shape[1]), dst, nl.psum)
    nisa.nc_matmul_mx(result, x, y, tile(a_scale), tile(b_scale))
    return out(result)


def spread(groups: NDArray[np.uint8], partitions: int, offset: int = 0) -> NDArray[np.uint8]:
    """Scales [K // 8, F] in the rows of a scale tile; all other rows hold NaN."""
    result = np.full((128, groups.shape[1]), 255, np.uint8)
    for p in range(0, partitions, 8):
        result[32 * (p // 32) + offset + (p % 32) // 8] = groups[p // 8]
    return result


def packed(shape: tuple[int, int], dtype: str, seed: int) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    if dtype == "float4_e2m1fn_x4":
        return rng.integers(0, 1 << 16, shape, np.uint16)
    codes = rng.integers(0, 120, (*shape, 4), np.uint8) | rng.choice(
        np.array([0, 128], np.uint8), (*shape, 4)
    )
    return codes.view(np.uint32)[..., 0]


def test_ones_with_neutral_and_doubled_scales() -> None:
    data = np.full((32, 2), 0x38383838, np.uint32)
    neutral, doubled = np.full((4, 2), 127, np.uint8), np.full((4, 2), 128, np.uint8)
    kernel = lambda a, b, s, t: multiply(a, b, s, t, "float8_e4m3fn_x4", "float8_e4m3fn_x4")  # noqa: E731  (a kernel of one line)
    assert (run(kernel, data, data, neutral, neutral, generation="gen4") == 128).all()
    assert (run(kernel, data, data, doubled, neutral, generation="gen4") == 256).all()


@pytest.mark.parametrize(
    ("a_type", "b_type"),
    [
        ("float8_e4m3fn_x4", "float8_e4m3fn_x4"),
        ("float8_e5m2_x4", "float8_e4m3fn_x4"),
        ("float4_e2m1fn_x4", "float8_e5m2_x4"),
        ("float4_e2m1fn_x4", "float4_e2m1fn_x4"),
    ],
)
@pytest.mark.parametrize("partitions", [32, 96])
def test_products_are_exact_with_scales_by_group(a_type: str, b_type: str, partitions: int) -> None:
    a, b = packed((partitions, 4), a_type, 1), packed((partitions, 3), b_type, 2)
    rng = np.random.default_rng(3)
    s, t = (rng.integers(120, 134, (partitions // 8, n), np.uint8) for n in (4, 3))

    def kernel(a: Any, b: Any, s: Any, t: Any) -> Any:
        return multiply(a, b, s, t, a_type, b_type)

    got = run(kernel, a, b, spread(s, partitions), spread(t, partitions), generation="gen4")
    assert (got == expected(a, a_type, s, b, b_type, t)).all()


@pytest.mark.parametrize("offset", [4, 8, 12])
def test_sliced_scale_tiles_are_read_at_their_offset(offset: int) -> None:
    kind = "float8_e4m3fn_x4"
    a = packed((64, 2), kind, 1)
    scales = np.random.default_rng(3).integers(120, 134, (8, 2), np.uint8)

    def kernel(a: Any, s: Any) -> Any:
        x = tile(a).view(kind)
        sliced = tile(s)[offset:, :]
        result = nl.ndarray((2, 2), nl.float32, nl.psum)
        nisa.nc_matmul_mx(result, x, x, sliced, sliced)
        return out(result)

    got = run(kernel, a, spread(scales, 64, offset), generation="gen4")
    assert (got == expected(a, kind, scales, a, kind, scales)).all()


def test_scale_rows_and_columns_that_are_not_used_may_be_unwritten() -> None:
    data = np.full((32, 2), 0x38383838, np.uint32)

    def kernel(a: Any) -> Any:
        x = tile(a).view("float8_e4m3fn_x4")
        scales = nl.ndarray((128, 8), nl.uint8)
        nisa.memset(scales[0:4, 0:2], 127)
        result = nl.ndarray((2, 2), nl.float32, nl.psum)
        nisa.nc_matmul_mx(result, x, x, scales, scales)
        return out(result)

    assert (run(kernel, data, generation="gen4") == 128).all()


def test_scale_255_is_nan_for_its_group() -> None:
    data = np.full((32, 2), 0x38383838, np.uint32)
    scales = np.full((4, 2), 127, np.uint8)
    scales[1, 0] = 255
    kind = "float8_e4m3fn_x4"
    neutral = np.full((4, 2), 127, np.uint8)
    got = run(lambda *args: multiply(*args, kind, kind), data, data, scales, neutral, generation="gen4")
    assert np.isnan(got[0]).all()
    assert (got[1] == 128).all()


def test_accumulates_like_other_matmuls_and_rounds_bf16_at_every_write() -> None:
    data = np.full((32, 2), 0x38383838, np.uint32)
    scales = np.full((4, 2), 127, np.uint8)

    def kernel(a: Any, s: Any) -> Any:
        x, scale = tile(a).view("float8_e4m3fn_x4"), tile(s)
        result = nl.ndarray((2, 2), nl.bfloat16, nl.psum)
        nisa.nc_matmul_mx(result, x, x, scale, scale)
        nisa.nc_matmul_mx(result, x, x, scale, scale)
        return out(result)

    assert (run(kernel, data, scales, generation="gen4").astype(np.float32) == 256).all()


@pytest.mark.parametrize(
    ("rows", "columns", "rule"),
    [(16, 2, "matmul.shape"), (32, 3, "matmul.shape"), (32, 2, None)],
    ids=["16-partitions", "odd-columns", "legal"],
)
def test_shapes(rows: int, columns: int, rule: str | None) -> None:
    data = np.zeros((rows, columns), np.uint32)
    scales = np.full((128, columns), 127, np.uint8)
    kind = "float8_e4m3fn_x4"
    kernel = lambda *args: multiply(*args, kind, kind)  # noqa: E731  (a kernel of one line)
    if rule is None:
        run(kernel, data, data, scales, scales, generation="gen4")
    else:
        assert refusal(kernel, data, data, scales, scales, generation="gen4").rule == rule


def test_needs_gen4_packed_operands_and_all_scales() -> None:
    data, scales = np.zeros((64, 2), np.uint32), np.full((128, 2), 127, np.uint8)
    kind = "float8_e4m3fn_x4"
    kernel = lambda *args: multiply(*args, kind, kind)  # noqa: E731  (a kernel of one line)
    assert refusal(kernel, data, data, scales, scales, generation="gen3").rule == "generation"
    plain = lambda *args: multiply(*args, "uint32", kind)  # noqa: E731  (a kernel of one line)
    assert refusal(plain, data, data, scales, scales, generation="gen4").rule == "matmul.dtype"
    assert refusal(kernel, data, data, scales[:8], scales, generation="gen4").rule == "matmul.scale"


def test_scales_start_at_one_of_four_rows() -> None:
    data, scales = np.zeros((32, 2), np.uint32), np.full((128, 2), 127, np.uint8)

    def kernel(a: Any, s: Any) -> None:
        x, sliced = tile(a).view("float8_e4m3fn_x4"), tile(s)[2:, :]
        nisa.nc_matmul_mx(nl.ndarray((2, 2), nl.float32, nl.psum), x, x, sliced, sliced)

    assert refusal(kernel, data, scales, generation="gen4").rule == "partition.start"


def test_indirect_operands_take_data_and_scale_by_one_index() -> None:
    kind = "float8_e4m3fn_x4"
    a = packed((64, 6), kind, 1)
    scales = np.random.default_rng(3).integers(120, 134, (8, 6), np.uint8)
    # Each quadrant has its own order of the columns: element i is index[32 q + i mod 32, i div 32].
    order = np.array([[5, 0, 3, 3], [1, 4, 2, 0]])
    index = np.zeros((64, 1), np.uint32)
    index[:4, 0], index[32:36, 0] = order

    def kernel(a: Any, s: Any, i: Any, shared: bool) -> Any:
        x, scale, picked = tile(a).view(kind), tile(s), tile(i)
        other = picked if shared else tile(i)
        result = nl.ndarray((4, 6), nl.float32, nl.psum)
        nisa.nc_matmul_mx(result, x.indirect(picked, 4), x, scale.indirect(other, 4), scale)
        return out(result)

    columns = np.repeat(order, [32, 32], axis=0)
    chosen = np.take_along_axis(a, columns, axis=1)
    groups = np.take_along_axis(scales, np.repeat(order, 4, axis=0), axis=1)
    spreads = spread(scales, 64)
    got = run(kernel, a, spreads, index, True, generation="gen4")
    assert (got == expected(chosen, kind, groups, a, kind, scales)).all()
    assert refusal(kernel, a, spreads, index, False, generation="gen4").rule == "indirect.scale"
