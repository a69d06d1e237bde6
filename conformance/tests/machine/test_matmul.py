"""Claim: nc_matmul leaves in PSUM the exact sum of its products, rounded once, added where the kernel means
it.

Expected values come from fractions. To repeat one case: pytest -k "<test name>"
conformance/tests/machine/test_matmul.py
"""

from __future__ import annotations

from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.tests.machine.bench import bits, launch, out, refusal, run, tile
from conformance.tests.numerics.fractions_reference import dot, nearest_float32
from reference.neuroncore.options import Options
from reference.numerics.profile import DEFAULT

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

STORAGE: dict[str, Any] = {
    "float8_e4m3": ml_dtypes.float8_e4m3,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float32": np.float32,
}
NARROW = ("float8_e4m3", "float8_e5m2", "bfloat16", "float16")


def values(shape: tuple[int, ...], dtype: str, seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape).astype(np.float32).astype(STORAGE[dtype])


def exact(a: NDArray[Any], b: NDArray[Any], start: Any = None) -> NDArray[np.float32]:
    """[M, N]: sum over K of a[k, m] * b[k, n], rounded once; with `start` added in a second fp32 rounding."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    sums = np.array(
        [[nearest_float32(dot(a[:, m], b[:, n])) for n in range(b.shape[1])] for m in range(a.shape[1])],
        np.float32,
    )
    return sums if start is None else np.float32(start) + sums


def once(a: Any, b: Any, **options: Any) -> Any:
    x, y = tile(a), tile(b)
    double = options.get("perf_mode") is not None
    height, width = x.size // x.shape[0], y.size // y.shape[0]
    shape = (height // 2, width // 2) if double else (height, width)
    result = nl.ndarray(shape, nl.float32, nl.psum)
    nisa.nc_matmul(result, x, y, **options)
    return out(result)


# ---- one instruction ----


@pytest.mark.parametrize(("left", "right"), [*product(NARROW, NARROW), ("float32", "float32")])
def test_sum_is_exact_and_rounded_once(left: str, right: str) -> None:
    a, b = values((37, 5), left, 1), values((37, 9), right, 2)
    assert (bits(run(once, a, b)) == bits(exact(a, b))).all()


def test_sum_does_not_lose_what_cancels() -> None:
    a = np.array([[1e8, 1.0, -1e8]], np.float32).T
    assert run(once, a, np.ones((3, 1), np.float32)) == 1.0


@pytest.mark.parametrize("shape", [(1, 1, 1), (128, 128, 512), (128, 1, 512), (1, 128, 3), (64, 7, 511)])
def test_shapes_up_to_the_limits(shape: tuple[int, int, int]) -> None:
    k, m, n = shape
    rng = np.random.default_rng(3)
    # Small integers: every order of adding is exact, so NumPy's own product is a fair witness.
    a, b = rng.integers(-8, 9, (k, m)), rng.integers(-8, 9, (k, n))
    got = run(once, a.astype(ml_dtypes.bfloat16), b.astype(ml_dtypes.bfloat16))
    assert (got == (a.T @ b).astype(np.float32)).all()


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([np.inf, 1], [1, 1], np.inf),
        ([np.inf, 1], [0, 1], np.nan),
        ([np.inf, np.inf], [1, -1], np.nan),
        ([np.nan, 1], [0, 1], np.nan),
        ([3e38, 3e38], [1, 1], np.inf),
        ([-0.0], [1.0], 0.0),
        ([2.0**-133], [1.0], 2.0**-133),
    ],
    ids=["inf", "inf*0", "inf-inf", "nan*0", "overflow", "minus-zero", "subnormal"],
)
def test_special_values_follow_ieee(a: list[float], b: list[float], expected: float) -> None:
    x, y = (np.array(v, np.float32).astype(ml_dtypes.bfloat16).reshape(-1, 1) for v in (a, b))
    got = run(once, x, y)
    assert np.isnan(got).all() if np.isnan(expected) else (bits(got) == bits(np.float32(expected))).all()


def test_free_axes_are_flattened() -> None:
    a, b = values((16, 6), "bfloat16", 1), values((16, 12), "bfloat16", 2)

    def kernel(a: Any, b: Any) -> Any:
        result = nl.ndarray((6, 3, 4), nl.float32, nl.psum)
        nisa.nc_matmul(result, tile(a).reshape((16, 2, 3)), tile(b).reshape((16, 2, 6)))
        return out(result)

    assert (run(kernel, a, b).reshape(6, 12) == exact(a, b)).all()


def test_strided_and_permuted_operands() -> None:
    a, b = values((8, 12), "bfloat16", 1), values((8, 12), "bfloat16", 2)

    def kernel(a: Any, b: Any) -> Any:
        result = nl.ndarray((4, 24), nl.float32, nl.psum)
        nisa.nc_matmul(result[:, 1:24:2], tile(a)[:, 0:12:3], tile(b).reshape((8, 3, 4)).permute((0, 2, 1)))
        return out(result.slice(1, 1, 24, 2))

    moving = b.reshape(8, 3, 4).transpose(0, 2, 1).reshape(8, 12)
    assert (run(kernel, a, b) == exact(a[:, ::3], moving)).all()


def test_tfloat32_operands_are_rounded_to_ten_bits() -> None:
    a = np.array([[1 + 3 * 2.0**-11]], np.float32)

    def kernel(a: Any, b: Any) -> Any:
        result = nl.ndarray((1, 1), nl.float32, nl.psum)
        nisa.nc_matmul(result, tile(a).view(nl.tfloat32), tile(b).view(nl.tfloat32))
        return out(result)

    assert run(kernel, a, np.ones((1, 1), np.float32)) == 1 + 4 * 2.0**-11


def test_fp32_operands_are_not_rounded() -> None:
    a = np.array([[1 + 2.0**-23]], np.float32)
    assert run(once, a, np.ones((1, 1), np.float32)) == a


@pytest.mark.parametrize(("order", "expected"), [("exact", 1.0), ("chain", 0.0), ("chain_rev", 0.0)])
def test_open_questions_are_answered_by_the_profile(order: str, expected: float) -> None:
    a = np.array([[1e8, 1.0, -1e8]], np.float32).T
    profile = Options(profile=DEFAULT.replace(matmul_order=order))
    assert run(once, a, np.ones((3, 1), np.float32), options=profile) == expected


# ---- double row ----


@pytest.mark.parametrize("mode", [nisa.matmul_perf_mode.double_row, "double_row"], ids=["enum", "string"])
def test_double_row_by_hand(mode: Any) -> None:
    a = np.array([[[2], [3]]], np.float32).astype(ml_dtypes.float8_e4m3)
    b = np.array([[[1, 10], [100, 1000]]], np.float32).astype(ml_dtypes.float8_e5m2)
    got = run(lambda a, b: once(a, b, perf_mode=mode), a, b)
    b = b.astype(np.float64)
    assert (got == [[2 * b[0, 0, 0] + 3 * b[0, 1, 0], 2 * b[0, 0, 1] + 3 * b[0, 1, 1]]]).all()


def test_double_row_equals_one_long_contraction() -> None:
    a, b = values((32, 2, 5), "float8_e4m3", 1), values((32, 2, 7), "float8_e5m2", 2)
    got = run(lambda a, b: once(a, b, perf_mode=nisa.matmul_perf_mode.double_row), a, b)
    assert (got == exact(a.reshape(64, 5), b.reshape(64, 7))).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float8_e4m3fn"])
def test_double_row_is_for_fp8(dtype: str) -> None:
    a = values((4, 2, 3), dtype)
    error = refusal(lambda a, b: once(a, b, perf_mode="double_row"), a, a)
    assert error.rule == "matmul.dtype"


def test_double_row_needs_pairs() -> None:
    a = values((4, 3, 2), "float8_e4m3")
    assert refusal(lambda a, b: once(a, b, perf_mode="double_row"), a, a).rule == "matmul.shape"


# ---- accumulation ----


def twice(accumulate: tuple[Any, Any], between: Any = None, generation: str = "gen3") -> Any:
    """Two matmuls of ones into one tile: what each is told about accumulation, and what happens in
    between."""

    def kernel(a: Any) -> Any:
        x = tile(a)
        result = nl.ndarray((2, 4), nl.float32, nl.psum)
        nisa.nc_matmul(result, x[:, :2], x[:, :4], accumulate=accumulate[0])
        if between is not None:
            between(result)
        nisa.nc_matmul(result, x[:, :2], x[:, :4], accumulate=accumulate[1])
        return out(result)

    return kernel


ONES = np.ones((3, 4), np.float32).astype(ml_dtypes.bfloat16)


@pytest.mark.parametrize(
    ("accumulate", "expected"),
    [((None, None), 6), ((False, True), 6), ((False, None), 6), ((None, False), 3), ((None, True), 6)],
)
def test_accumulate_flags(accumulate: tuple[Any, Any], expected: float) -> None:
    assert (run(twice(accumulate), ONES) == expected).all()


def read(result: Any) -> None:
    nisa.tensor_copy(nl.ndarray(result.shape, result.dtype), result)


def clear(result: Any) -> None:
    nisa.memset(result, 0)


def test_silent_accumulation_onto_what_was_read_is_caught() -> None:
    error = refusal(twice((None, None), read), ONES)
    assert error.rule == "psum.open_group"
    assert error.remedy is not None


@pytest.mark.parametrize("second", [True, False])
def test_meant_accumulation_onto_what_was_read_is_accepted(second: bool) -> None:
    assert (run(twice((None, second), read), ONES) == (6 if second else 3)).all()


@pytest.mark.parametrize("between", [read, clear])
def test_a_new_sum_may_be_continued(between: Any) -> None:
    def kernel(a: Any) -> Any:
        x = tile(a)
        result = nl.ndarray((2, 4), nl.float32, nl.psum)
        nisa.nc_matmul(result, x[:, :2], x[:, :4])
        between(result)
        nisa.nc_matmul(result, x[:, :2], x[:, :4], accumulate=False)
        nisa.nc_matmul(result, x[:, :2], x[:, :4])
        return out(result)

    assert (run(kernel, ONES) == 6).all()


@pytest.mark.parametrize("generation", ["gen2", "gen3"])
@pytest.mark.parametrize("second", [None, True])
def test_accumulation_onto_foreign_data_is_caught(generation: str, second: Any) -> None:
    assert refusal(twice((None, second), clear), ONES, generation=generation).rule == "psum.foreign"


def test_gen4_accumulates_onto_foreign_data() -> None:
    assert (run(twice((None, True), clear), ONES, generation="gen4") == 3).all()


def test_explicit_accumulation_onto_a_memset_is_caught_before_gen4() -> None:
    def kernel(a: Any) -> Any:
        x = tile(a)
        result = nl.zeros((2, 4), nl.float32, nl.psum)
        nisa.nc_matmul(result, x[:, :2], x[:, :4], accumulate=True)
        return out(result)

    assert refusal(kernel, ONES).rule == "psum.foreign"
    assert (run(kernel, ONES, generation="gen4") == 3).all()


def test_explicit_accumulation_onto_nothing_is_caught() -> None:
    assert refusal(twice((True, None)), ONES).rule == "memory.unwritten"


def test_first_matmul_overwrites_a_memset() -> None:
    def kernel(a: Any) -> Any:
        x = tile(a)
        result = nl.full((2, 4), 100.0, nl.float32, nl.psum)
        nisa.nc_matmul(result, x[:, :2], x[:, :4])
        return out(result)

    assert (run(kernel, ONES) == 3).all()


def test_only_the_overlap_accumulates() -> None:
    def kernel(a: Any) -> Any:
        x = tile(a)
        result = nl.ndarray((2, 6), nl.float32, nl.psum)
        nisa.nc_matmul(result[:, 0:4], x[:, :2], x[:, :4])
        nisa.nc_matmul(result[:, 2:6], x[:, :2], x[:, :4])
        return out(result)

    assert (run(kernel, ONES) == [3, 3, 6, 6, 3, 3]).all()


def test_a_fresh_tile_at_the_same_address_starts_anew() -> None:
    def kernel(a: Any) -> Any:
        x = tile(a)
        for _ in range(2):
            result = nl.ndarray((2, 4), nl.float32, nl.psum, address=(0, 2048))
            nisa.nc_matmul(result, x[:, :2], x[:, :4])
        return out(result)

    assert (run(kernel, ONES) == 3).all()


def test_accumulation_is_an_fp32_addition_after_the_sum() -> None:
    # 2^24 + (1 + 1): the second instruction's own sum is 2; adding one at a time would give 2^24.
    big = np.array([[2.0**24]], np.float32)
    small = np.ones((2, 1), np.float32)

    def kernel(a: Any, b: Any) -> Any:
        result = nl.ndarray((1, 1), nl.float32, nl.psum)
        nisa.nc_matmul(result, tile(a), tile(b)[0:1])
        nisa.nc_matmul(result, tile(b), tile(b))
        return out(result)

    assert run(kernel, big, small) == 2.0**24 + 2


def test_bf16_psum_rounds_at_every_write() -> None:
    steps = np.array([[1.0, 2.0**-9, 2.0**-9, 2.0**-9]], np.float32)

    def kernel(a: Any) -> Any:
        x, one = tile(a), nl.ones((1, 1), nl.float32)
        result = nl.ndarray((1, 1), nl.bfloat16, nl.psum)
        for i in range(4):
            nisa.nc_matmul(result, x[:, i : i + 1], one)
        return out(result)

    assert run(kernel, steps, generation="gen4").astype(np.float32) == 1.0
    assert refusal(kernel, steps, generation="gen3").rule == "matmul.dtype"


def test_dropping_checks_keeps_the_accumulation_rule() -> None:
    got = launch(twice((None, None), read), ONES, options=Options(checks="off")).outputs
    assert (got == 6).all()


# ---- refusals ----


@pytest.mark.parametrize(("left", "right"), [*product(("float32",), NARROW), *product(NARROW, ("float32",))])
def test_fp32_pairs_with_no_narrow_type(left: str, right: str) -> None:
    assert refusal(once, values((4, 2), left), values((4, 2), right)).rule == "matmul.dtype"


def test_ocp_fp8_needs_gen4_and_never_meets_e4m3() -> None:
    fn, ieee = values((4, 2), "float8_e4m3fn"), values((4, 2), "float8_e4m3")
    assert refusal(once, fn, fn, generation="gen3").rule == "matmul.dtype"
    assert refusal(once, fn, ieee, generation="gen4").rule == "matmul.dtype"
    assert (run(once, fn, fn, generation="gen4") == exact(fn, fn)).all()


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        ((4, 2), (5, 2), "contraction dimension mismatch: stationary[0]=4 != moving[0]=5"),
        ((4, 129), (4, 2), "stationary free dimension 129 exceeds gemm_stationary_fmax=128"),
        ((4, 2), (4, 513), "moving free dimension 513 exceeds gemm_moving_fmax=512"),
    ],
)
def test_limits_name_the_value_and_the_limit(a: tuple[int, int], b: tuple[int, int], text: str) -> None:
    def kernel(a: Any, b: Any) -> Any:
        result = nl.ndarray((128, 513), nl.float32, nl.psum)
        nisa.nc_matmul(result, tile(a), tile(b))

    error = refusal(kernel, values(a, "bfloat16"), values(b, "bfloat16"))
    assert text in str(error)
    assert "nisa.nc_matmul" in str(error)
    assert "test_matmul.py" in str(error)


def test_gen4_moves_4096_columns() -> None:
    a, b = np.ones((2, 1), ml_dtypes.bfloat16), np.ones((2, 4096), ml_dtypes.bfloat16)
    assert (run(once, a, b, generation="gen4") == 2).all()


@pytest.mark.parametrize(("start", "rule"), [(0, None), (256, "psum.bank"), (512, None)])
def test_destination_stays_inside_one_bank(start: int, rule: str | None) -> None:
    def kernel(a: Any) -> Any:
        x = tile(a)
        result = nl.ndarray((1, 1024), nl.float32, nl.psum)
        nisa.nc_matmul(result[:, start : start + 512], x[:, 0:1], x)
        return out(result[:, start : start + 512])

    a = np.ones((1, 512), ml_dtypes.bfloat16)
    if rule is None:
        assert (run(kernel, a) == 1).all()
    else:
        assert refusal(kernel, a).rule == rule
        assert (run(kernel, a, generation="gen4") == 1).all()


def test_operands_and_result_live_where_the_engine_reaches() -> None:
    def to_sbuf(a: Any) -> Any:
        x = tile(a)
        nisa.nc_matmul(nl.ndarray((4, 4), nl.float32), x, x)

    def from_hbm(a: Any) -> Any:
        nisa.nc_matmul(nl.ndarray((4, 4), nl.float32, nl.psum), a, a)

    a = values((3, 4), "bfloat16")
    assert "must be in ['psum'], got sbuf" in str(refusal(to_sbuf, a))
    assert "must be in ['sbuf'], got private_hbm" in str(refusal(from_hbm, a))


@pytest.mark.parametrize(
    ("position", "size", "legal"),
    [
        ((0, 0), (32, 128), True),
        ((32, 0), (32, 128), True),
        ((0, 32), (128, 32), True),
        ((16, 0), (32, 128), False),
        ((0, 0), (16, 128), False),
        ((), (32, 128), False),
        ((128, 0), (32, 128), False),
    ],
)
def test_tiles_of_the_array(position: Any, size: Any, legal: bool) -> None:
    a = values((8, 4), "bfloat16")

    def kernel(a: Any) -> Any:
        x = tile(a)
        result = nl.ndarray((4, 4), nl.float32, nl.psum)
        nisa.nc_matmul(result, x, x, tile_position=position, tile_size=size)
        return out(result)

    if legal:
        assert (run(kernel, a) == exact(a, a)).all()
    else:
        assert refusal(kernel, a).rule == "matmul.tile"


def test_a_tile_limits_rows_and_columns() -> None:
    a = values((64, 4), "bfloat16")
    assert "exceeds pmax=32" in str(
        refusal(lambda a, b: once(a, b, tile_position=(0, 0), tile_size=(32, 128)), a, a)
    )


def test_column_tiles_land_in_the_partitions_of_dst() -> None:
    a, b = values((16, 8), "bfloat16", 1), values((16, 5), "bfloat16", 2)

    def kernel(a: Any, b: Any) -> Any:
        x, y = tile(a), tile(b)
        result = nl.ndarray((128, 5), nl.float32, nl.psum)
        for column in range(4):
            nisa.nc_matmul(
                result[32 * column : 32 * column + 8],
                x,
                y,
                tile_position=(0, 32 * column),
                tile_size=(128, 32),
            )
        return out(result[96:104])

    assert (run(kernel, a, b) == exact(a, b)).all()


def test_macs_are_counted() -> None:
    a, b = values((16, 8), "bfloat16"), values((16, 5), "bfloat16")
    assert launch(once, a, b).trace.counters[0].macs == 16 * 8 * 5
    pair = values((16, 2, 8), "float8_e4m3")
    double = launch(lambda a, b: once(a, b, perf_mode="double_row"), pair, pair)
    assert double.trace.counters[0].macs == 32 * 8 * 8
