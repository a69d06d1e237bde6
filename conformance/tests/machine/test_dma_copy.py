"""Claim: dma_copy moves bits between equal dtypes, rounds once through fp32 between others, reaches any
partition, and gathers, scatters and skips row by row."""

from __future__ import annotations

from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.tests.machine.bench import bits, launch, out, refusal, run, tile

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

FLOATS = ["float32", "bfloat16", "float16", "float8_e4m3", "float8_e5m2", "float8_e4m3fn"]
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32"]
SPECIAL = [
    0.0,
    -0.0,
    1.0,
    1.0 + 2.0**-8,
    1.0 + 3 * 2.0**-8,
    -2.5,
    0.5,
    1.5,
    240.0,
    247.9,
    300.0,
    70000.0,
    3.4e38,
    2.0**-9,
    2.0**-24,
    2.0**-133,
    -200.0,
    127.6,
    np.inf,
    -np.inf,
    np.nan,
]


def storage(name: str) -> Any:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def through_sbuf(a: Any, dtype: str) -> Any:
    return out(tile(a), dtype)


# ---- bits and casts ----


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS + ["float8_e8m0fnu"])
def test_equal_dtypes_keep_every_bit(dtype: str) -> None:
    kind = storage(dtype)
    raw = np.random.default_rng(0).integers(0, 256, (128, 6 * kind.itemsize), np.uint8).view(kind)
    assert (bits(run(through_sbuf, raw, dtype)) == bits(raw)).all()


@pytest.mark.parametrize(("source", "target"), [p for p in product(FLOATS, FLOATS) if p[0] != p[1]])
def test_float_casts_round_once_from_fp32(source: str, target: str) -> None:
    with np.errstate(all="ignore"):
        a = np.array([SPECIAL], np.float32).astype(storage(source))
        # ml_dtypes rounds float32 to nearest even, overflow to inf, or NaN where there is none.
        expected = a.astype(np.float32).astype(storage(target)).astype(np.float32)
    got = run(through_sbuf, a, target).astype(np.float32)
    assert ((bits(got) == bits(expected)) | (np.isnan(got) & np.isnan(expected))).all()


@pytest.mark.parametrize("target", INTEGERS)
def test_floats_become_integers_by_rint_and_saturation(target: str) -> None:
    a = np.array([[0.5, 1.5, 2.5, -0.5, 127.6, -200.0, 3e9, -3e9, 1e30, np.inf, -np.inf, np.nan]], np.float32)
    limits = np.iinfo(target)
    rounded = [0, 2, 2, 0, 128, -200, 3 * 10**9, -3 * 10**9, 10**30, 10**30, -(10**30), 0]
    expected = [min(max(v, limits.min), limits.max) for v in rounded]
    assert run(through_sbuf, a, target).tolist() == [expected]


def test_integers_pass_through_fp32() -> None:
    a = np.array([[2**24 + 1, 300, -5, 2**31 - 1]], np.int32)
    assert run(through_sbuf, a, "int16").tolist() == [[32767, 300, -5, 32767]]
    assert run(through_sbuf, a, "float32").tolist() == [[2.0**24, 300, -5, 2.0**31]]


def test_packed_types_are_not_converted() -> None:
    a = np.zeros((4, 2), np.uint32)
    assert refusal(through_sbuf, a, "float8_e4m3fn_x4").rule == "dma.dtype"
    assert run(lambda a: out(tile(a).view("float8_e4m3fn_x4")), a).dtype == np.uint32


# ---- where it reaches ----


@pytest.mark.parametrize("partition", [0, 1, 31, 77, 127])
def test_any_start_partition(partition: int) -> None:
    def kernel(a: Any) -> Any:
        big = nl.zeros((128, 3), nl.float32)
        nisa.dma_copy(big[partition : partition + 1], a)
        return out(big)

    a = np.arange(3, dtype=np.float32)
    expected = np.zeros((128, 3), np.float32)
    expected[partition] = a
    assert (run(kernel, a) == expected).all()


@pytest.mark.parametrize("shapes", [((6, 4), (2, 12)), ((24,), (4, 6)), ((2, 3, 4), (6, 4))])
def test_elements_travel_in_row_major_order(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a = np.arange(24, dtype=np.float32).reshape(shapes[0])

    def kernel(a: Any) -> Any:
        x = nl.ndarray(shapes[1], nl.float32)
        nisa.dma_copy(x, a)
        return out(x)

    assert (run(kernel, a) == a.reshape(shapes[1])).all()


def test_overlapping_copy_reads_before_it_writes() -> None:
    def kernel(a: Any) -> Any:
        x = tile(a)
        nisa.dma_copy(x[:, 1:8], x[:, 0:7])
        return out(x)

    a = np.arange(16, dtype=np.float32).reshape(2, 8)
    assert (run(kernel, a) == np.concatenate([a[:, :1], a[:, :7]], axis=1)).all()


def test_broadcast_source_and_strided_destination() -> None:
    def kernel(a: Any) -> Any:
        x = nl.zeros((4, 6), nl.float32)
        nisa.dma_copy(x[:, 0:6:2], a.ap([[0, 4], [1, 3]]))
        return out(x)

    expected = np.zeros((4, 6), np.float32)
    expected[:, ::2] = [5, 6, 7]
    assert (run(kernel, np.array([5, 6, 7], np.float32)) == expected).all()


def test_psum_and_unequal_counts_are_refused() -> None:
    a = np.zeros((2, 3), np.float32)

    def to_psum(a: Any) -> None:
        nisa.dma_copy(nl.ndarray((2, 3), nl.float32, nl.psum), a)

    def shorter(a: Any) -> None:
        nisa.dma_copy(nl.ndarray((2, 2), nl.float32), a)

    assert refusal(to_psum, a).rule == "operand.memory"
    assert "requires src and dst to have the same number of elements" in str(refusal(shorter, a))


# ---- modes ----


def moded(a: Any, dtype: str = "float32", **options: Any) -> Any:
    x = nl.ndarray(a.shape, dtype)
    nisa.dma_copy(x, a, **options)
    return out(x)


A = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("options", "generation", "rule"),
    [
        ({"dge_mode": nisa.dge_mode.hwdge}, "gen3", None),
        ({"dge_mode": nisa.dge_mode.hwdge}, "gen2", "generation"),
        ({"dge_mode": nisa.dge_mode.hwdge, "engine": nisa.engine.sync}, "gen3", None),
        ({"dge_mode": nisa.dge_mode.hwdge, "engine": nisa.engine.vector}, "gen3", "dma.engine"),
        ({"dge_mode": nisa.dge_mode.swdge, "engine": nisa.engine.scalar}, "gen3", "dma.engine"),
        ({"priority": 1}, "gen4", None),
        ({"priority": 1}, "gen3", "generation"),
        ({"priority": 4}, "gen4", "dma.priority"),
        ({"priority": 0, "dge_mode": nisa.dge_mode.none}, "gen4", "dma.priority"),
        ({"dge_mode": nisa.dge_mode.hwdge, "dtype": "bfloat16"}, "gen3", "dma.dtype"),
    ],
)
def test_modes(options: dict[str, Any], generation: str, rule: str | None) -> None:
    kernel = lambda a: moded(a, **options)  # noqa: E731  (a kernel of one line)
    if rule is None:
        assert (run(kernel, A, generation=generation) == A).all()
    else:
        assert refusal(kernel, A, generation=generation).rule == rule


def test_third_position_was_the_bounds_mode_before_0_4() -> None:
    def kernel(a: Any) -> Any:
        x = nl.ndarray(a.shape, a.dtype)
        nisa.dma_copy(x, a, nisa.oob_mode.skip, nisa.dge_mode.swdge)
        return out(x)

    assert (run(kernel, A) == A).all()


# ---- indirect ----

V = np.arange(30, dtype=np.int32).reshape(2, 5, 3)


def index(values: list[int], dtype: Any = np.int32) -> NDArray[Any]:
    return np.array(values, np.int64).astype(dtype).reshape(-1, 1)


def gather(v: Any, i: Any, rows: int, width: int, preset: int = -1, **options: Any) -> Any:
    """Rows of the 2-D table v by an index tile, into a tile preset to a constant."""
    x = nl.full((rows, width), preset, v.dtype)
    nisa.dma_copy(x, v.ap([[width, rows], [1, width]], vector_offset=tile(i)), **options)
    return out(x)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_gather_rows(dtype: Any) -> None:
    table = V.reshape(10, 3)
    rows = [4, 7, 0, 9, 4]
    got = run(lambda v, i: gather(v, i, 5, 3), table, index(rows, dtype))
    assert (got == table[rows]).all()


def test_gather_with_a_pattern_inside_each_row() -> None:
    def kernel(v: Any, i: Any) -> Any:
        x = nl.ndarray((2, 2, 3), nl.int32)
        view = v.reshape((10, 3)).ap(
            [[1, 2], [3, 2], [1, 3]], offset=0, vector_offset=tile(i), indirect_dim=0
        )
        nisa.dma_copy(x, view)
        return out(x)

    expected = [[[12, 13, 14], [15, 16, 17]], [[21, 22, 23], [24, 25, 26]]]
    assert run(kernel, V, index([4, 7])).tolist() == expected


def test_indices_on_one_axis_count_single_elements() -> None:
    def kernel(v: Any, i: Any) -> Any:
        x = nl.ndarray((2, 3), nl.int32)
        nisa.dma_copy(x, v.reshape((30,)).ap([[3, 2], [1, 3]], vector_offset=tile(i)))
        return out(x)

    assert run(kernel, V, index([4, 7])).tolist() == [[4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize("bad", [10, 99, -1, 2**32 - 1])
def test_rows_outside_are_skipped_or_refused(bad: int) -> None:
    table = V.reshape(10, 3)
    dtype = np.uint32 if bad > 2**31 else np.int32
    skip = lambda v, i: gather(v, i, 3, 3, oob_mode=nisa.oob_mode.skip)  # noqa: E731  (a kernel of one line)
    got = run(skip, table, index([1, bad, 0], dtype))
    assert got.tolist() == [[3, 4, 5], [-1, -1, -1], [0, 1, 2]]
    error = refusal(lambda v, i: gather(v, i, 3, 3), table, index([1, bad, 0], dtype))
    assert (error.rule, "row 1" in str(error)) == ("bounds", True)


def test_a_negative_index_is_outside_even_where_it_would_meet_memory() -> None:
    def kernel(v: Any, i: Any) -> Any:
        x = nl.full((2, 3), -1, nl.int32)
        view = v.ap([[3, 2], [1, 3]], offset=3, vector_offset=tile(i))
        nisa.dma_copy(x, view, oob_mode=nisa.oob_mode.skip)
        return out(x)

    assert run(kernel, V.reshape(10, 3), index([-1, 1])).tolist() == [[-1, -1, -1], [6, 7, 8]]


def test_a_row_that_is_half_outside_is_left_out_whole() -> None:
    def kernel(v: Any, i: Any) -> Any:
        x = nl.full((2, 3), -1, nl.int32)
        nisa.dma_copy(x, v.ap([[1, 2], [1, 3]], vector_offset=tile(i)), oob_mode=nisa.oob_mode.skip)
        return out(x)

    with pytest.warns(UserWarning, match="partly outside"):
        assert run(kernel, np.arange(10, dtype=np.int32), index([2, 8])).tolist() == [[2, 3, 4], [-1, -1, -1]]


def test_skipped_rows_keep_large_integers() -> None:
    table = np.array([[2**31 - 1, 2**24 + 1]], np.int32)
    kernel = lambda v, i: gather(v, i, 2, 2, 2**24 + 3, oob_mode=nisa.oob_mode.skip)  # noqa: E731  (a kernel of one line)
    assert run(kernel, table, index([0, 5])).tolist() == [[2**31 - 1, 2**24 + 1], [2**24 + 3, 2**24 + 3]]


def test_packed_rows_are_skipped_like_others() -> None:
    table = np.arange(6, dtype=np.uint32).reshape(3, 2)

    def kernel(v: Any, i: Any) -> Any:
        x = nl.zeros((2, 2), "float8_e4m3fn_x4")
        view = v.view("float8_e4m3fn_x4").ap([[2, 2], [1, 2]], vector_offset=tile(i))
        nisa.dma_copy(x, view, oob_mode=nisa.oob_mode.skip)
        return out(x)

    assert run(kernel, table, index([2, 3]), generation="gen4").tolist() == [[4, 5], [0, 0]]


def test_skipped_rows_stay_unwritten() -> None:
    def kernel(v: Any, i: Any) -> Any:
        x = nl.ndarray((2, 3), nl.int32)
        nisa.dma_copy(x, v.ap([[3, 2], [1, 3]], vector_offset=tile(i)), oob_mode=nisa.oob_mode.skip)
        return out(x)

    error = refusal(kernel, V.reshape(10, 3), index([1, 10]))
    assert error.rule == "memory.unwritten"
    assert "3 of 6 elements, first at [1, 0]" in str(error)


def scatter(v: Any, a: Any, i: Any, **options: Any) -> Any:
    """Rows of a tile into a table by an index tile."""
    rows, width = a.shape
    nisa.dma_copy(v.ap([[width, rows], [1, width]], vector_offset=tile(i)), tile(a), **options)
    return v


def test_scatter_rows_and_the_last_of_equal_ones_stays() -> None:
    table = np.zeros((5, 2), np.float32)
    a = np.arange(6, dtype=np.float32).reshape(3, 2)
    run(scatter, table, a, index([3, 0, 3]))
    assert table.tolist() == [[2, 3], [0, 0], [0, 0], [4, 5], [0, 0]]


def test_scatter_skips_rows_outside() -> None:
    table = np.zeros((3, 2), np.float32)
    a = np.ones((2, 2), np.float32)
    run(lambda v, a, i: scatter(v, a, i, oob_mode=nisa.oob_mode.skip), table, a, index([3, 1]))
    assert table.tolist() == [[0, 0], [1, 1], [0, 0]]
    assert refusal(scatter, table, a, index([3, 1])).rule == "bounds"


def test_gather_meets_scatter() -> None:
    table, target = np.arange(12, dtype=np.int32).reshape(4, 3), np.full((4, 3), -1, np.int32)

    def kernel(v: Any, w: Any, i: Any, j: Any) -> Any:
        nisa.dma_copy(
            w.ap([[3, 3], [1, 3]], vector_offset=tile(j)),
            v.ap([[3, 3], [1, 3]], vector_offset=tile(i)),
            oob_mode=nisa.oob_mode.skip,
        )
        return w

    run(kernel, table, target, index([0, 9, 2]), index([3, 1, 9]))
    assert target.tolist() == [[-1] * 3, [-1] * 3, [-1] * 3, [0, 1, 2]]


@pytest.mark.parametrize("mode", [nisa.dge_mode.unknown, nisa.dge_mode.swdge, nisa.dge_mode.hwdge])
def test_scalar_offset_moves_the_pattern_in_every_mode(mode: Any) -> None:
    def kernel(v: Any) -> Any:
        x = nl.ndarray((2, 3), nl.int32)
        view = v.ap([[3, 2], [1, 3]], offset=1 * 5 * 3, scalar_offset=nisa.register_alloc(2), indirect_dim=1)
        nisa.dma_copy(x, view, dge_mode=mode)
        return out(x)

    assert run(kernel, V).tolist() == [[21, 22, 23], [24, 25, 26]]


def test_scalar_offset_from_one_element_of_a_tile() -> None:
    def kernel(v: Any, i: Any) -> Any:
        row = nl.ndarray((1, 3), nl.int32)
        nisa.dma_copy(row, i)
        x = nl.ndarray((2, 3), nl.int32)
        start = row.ap([[3, 1], [1, 1]], offset=2)
        nisa.dma_copy(x, v.ap([[3, 2], [1, 3]], scalar_offset=start, indirect_dim=0))
        return out(x)

    assert (run(kernel, V, np.array([9, 9, 1], np.int32)) == V[1, :2]).all()


def test_scalar_offset_skips_row_by_row() -> None:
    def kernel(v: Any, shape: Any, pattern: Any) -> Any:
        x = nl.full(shape, -1, nl.int32)
        view = v.ap(pattern, scalar_offset=nisa.register_alloc(3), indirect_dim=0)
        nisa.dma_copy(x, view, oob_mode=nisa.oob_mode.skip)
        return out(x)

    table = np.arange(5, dtype=np.int32)
    # Start 3 of 5: as a column, rows 3 and 4 arrive; as one row, nothing does.
    assert run(lambda v: kernel(v, (4, 1), [[1, 4], [1, 1]]), table).tolist() == [[3], [4], [-1], [-1]]
    with pytest.warns(UserWarning, match="partly outside"):
        assert run(lambda v: kernel(v, (1, 4), [[1, 1], [1, 4]]), table).tolist() == [[-1] * 4]


@pytest.mark.parametrize("skip", [True, False])
def test_scalar_offset_on_chip(skip: bool) -> None:
    def kernel(a: Any, start: int) -> Any:
        x, y = tile(a), nl.full((2, 2), -1, nl.int32)
        view = x.ap([[6, 2], [1, 2]], scalar_offset=nisa.register_alloc(start), indirect_dim=1)
        nisa.dma_copy(y, view, oob_mode=nisa.oob_mode.skip if skip else nisa.oob_mode.error)
        return out(y)

    a = np.arange(12, dtype=np.int32).reshape(2, 6)
    assert (run(kernel, a, 4) == a[:, 4:]).all()
    if skip:
        assert (run(kernel, a, 5) == -1).all()
    else:
        assert refusal(kernel, a, 5).rule == "bounds"


def test_vector_offsets_need_software_descriptors_hbm_and_an_index_on_chip() -> None:
    table = V.reshape(10, 3)
    hardware = lambda v, i: gather(v, i, 2, 3, dge_mode=nisa.dge_mode.hwdge)  # noqa: E731  (a kernel of one line)
    assert refusal(hardware, table, index([1, 2])).rule == "dma.dge"

    def from_hbm(v: Any, i: Any) -> None:
        nisa.dma_copy(nl.ndarray((2, 3), nl.int32), v.ap([[3, 2], [1, 3]], vector_offset=i))

    def of_a_tile(v: Any, i: Any) -> None:
        tile(v).ap([[3, 2], [1, 3]], vector_offset=tile(i))

    assert refusal(from_hbm, table, index([1, 2])).rule == "ap.vector_offset"
    assert refusal(of_a_tile, table, index([1, 2])).rule == "ap.vector_offset"
    assert refusal(lambda v, i: gather(v, i, 3, 3), table, index([1, 2])).rule == "ap.vector_offset"
    assert refusal(lambda v, i: gather(v, i, 2, 3), table, index([1, 2], np.int16)).rule == "ap.index_dtype"


def test_casts_and_gathers_at_once() -> None:
    table = np.arange(30, dtype=np.float32).reshape(10, 3) + 2.0**-9

    def kernel(v: Any, i: Any) -> Any:
        x = nl.ndarray((2, 3), nl.bfloat16)
        nisa.dma_copy(x, v.ap([[3, 2], [1, 3]], vector_offset=tile(i)))
        return out(x)

    expected = table[[8, 2]].astype(ml_dtypes.bfloat16)
    assert (bits(run(kernel, table, index([8, 2]))) == bits(expected)).all()


def test_bytes_are_counted() -> None:
    a = np.zeros((4, 8), ml_dtypes.bfloat16)
    counters = launch(lambda a: out(tile(a)), a).trace.counters[0]
    assert counters.dma_bytes == 2 * 4 * 8 * 2
    assert counters.ops["dma_copy"] == 2
