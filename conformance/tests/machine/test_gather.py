"""Claim: the GpSimd gathers and searches move the elements that Python lists, indexed by the documents'
rules, give.

Published test cases of the SDK (local_gather, nonzero_with_count, sequence_bounds) stand here by value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.bench import bits
from conformance.tests.machine.tiles import Array, assert_same, execute, floats, host, numbers, refused, stored
from reference.numerics.profile import DEFAULT

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

# --- local_gather -----------------------------------------------------------------------------------------


def gathered(source: Any, index: Array, count: int, **arguments: Any) -> Array:
    array, dtype = source if isinstance(source, tuple) else (source, source.dtype)
    return execute(
        lambda t: nisa.local_gather(t.dst, t.src, t.index, **arguments),
        {"src": (array, dtype), "index": index},
        {"dst": ((array.shape[0], count), str(dtype))},
    )["dst"]


def test_the_published_case() -> None:
    source = np.arange(16 * 20, dtype=np.float32).reshape(16, 20)
    index = np.stack([np.arange(16), np.arange(15, -1, -1)], axis=1).astype(np.uint16)
    got = gathered(source, index, 32)
    assert_same(got, np.concatenate([source[:, :16], source[:, 15::-1]], axis=1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3", "uint32", "int8"])
@pytest.mark.parametrize("length", [1, 2, 4, 8, 16, 32])
def test_groups_gather_runs_from_element_offsets(length: int, dtype: str) -> None:
    rng = np.random.default_rng(length)
    source = rng.integers(0, 256, (48, 80 * host(dtype).itemsize), np.uint8).view(host(dtype))
    index = rng.integers(0, 80 - length + 1, (48, 3)).astype(np.uint16)
    got = gathered((source, dtype), index, 40 * length, num_elem_per_idx=length, num_valid_indices=40)
    expected = np.empty_like(got)
    for partition in range(48):
        first = partition // 16 * 16
        order = [int(index[first + i % 16, i // 16]) for i in range(40)]
        expected[partition] = np.concatenate([source[partition, o : o + length] for o in order])
    assert (bits(got) == bits(expected)).all()


def test_free_axes_of_the_source_are_flattened_and_unused_indices_need_not_be_written() -> None:
    source = np.arange(16 * 24, dtype=np.int32).reshape(16, 2, 12)

    def program(t: Any) -> None:
        index = nl.ndarray((16, 4), nl.uint16, nl.sbuf)
        nisa.memset(index[:, 0:1], 13)
        nisa.local_gather(t.dst, t.src, index, num_valid_indices=16)

    got = execute(program, {"src": source}, {"dst": ((16, 16), "int32")})["dst"]
    assert_same(got, np.repeat(source.reshape(16, 24)[:, 13:14], 16, axis=1))


@pytest.mark.parametrize(
    ("partitions", "dtype", "index_dtype", "count", "arguments", "rule"),
    [
        (17, "float32", "uint16", 32, {}, "gather.partitions"),
        (16, "float32", "uint32", 32, {}, "operand.dtype"),
        (16, "float32", "int16", 32, {}, "operand.dtype"),
        (16, "bfloat16", "uint16", 32, {}, "operand.dtype"),
        (16, "float32", "uint16", 96, {"num_elem_per_idx": 3}, "gather.length"),
        (16, "float32", "uint16", 33, {"num_valid_indices": 33}, "gather.count"),
        (16, "float32", "uint16", 31, {}, "operand.shape"),
        (16, "float32", "uint16", 32, {"num_elem_per_idx": 2}, "operand.shape"),
    ],
)
def test_local_gather_refuses(
    partitions: int, dtype: str, index_dtype: str, count: int, arguments: dict[str, Any], rule: str
) -> None:
    error = refused(
        lambda t: nisa.local_gather(t.dst, t.src, t.index, **arguments),
        {"src": np.ones((partitions, 8), np.float32), "index": np.zeros((partitions, 2), index_dtype)},
        {"dst": ((partitions, count), dtype)},
    )
    assert error.rule == rule


def test_an_index_outside_the_source_is_refused() -> None:
    index = np.zeros((16, 1), np.uint16)
    assert gathered(np.ones((16, 4), np.float32), index + 3, 16).all()
    for bad, arguments, count in ((4, {}, 16), (3, {"num_elem_per_idx": 2}, 32)):
        error = refused(
            lambda t, arguments=arguments: nisa.local_gather(t.dst, t.src, t.index, **arguments),
            {"src": np.ones((16, 4), np.float32), "index": index + np.uint16(bad)},
            {"dst": ((16, count), "float32")},
        )
        assert error.rule == "bounds"


# --- nc_n_gather ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8", "float8_e5m2"])
def test_partitions_gather_for_themselves(dtype: str) -> None:
    rng = np.random.default_rng(5)
    source = rng.integers(0, 256, (20, 4, 6 * host(dtype).itemsize), np.uint8).view(host(dtype))
    index = rng.integers(0, 24, (20, 3, 10)).astype(np.uint32)
    got = execute(
        lambda t: nisa.nc_n_gather(t.dst, t.data, t.indices),
        {"data": (source, dtype), "indices": index},
        {"dst": ((20, 30), dtype)},
    )["dst"]
    rows = source.reshape(20, 24)
    expected = [[rows[p, i] for i in index[p].ravel()] for p in range(20)]
    assert (bits(got) == bits(np.array(expected, source.dtype))).all()


@pytest.mark.parametrize(
    ("index", "shape", "rule"),
    [
        (np.zeros((2, 4), np.int32), (2, 4), "operand.dtype"),
        (np.full((2, 4), 8, np.uint32), (2, 4), "bounds"),
        (np.full((2, 4), 0xFFFFFFFF, np.uint32), (2, 4), "bounds"),
        (np.zeros((2, 4), np.uint32), (2, 3), "operand.shape"),
        (np.zeros((1, 4), np.uint32), (2, 4), "operand.shape"),
    ],
)
def test_nc_n_gather_refuses(index: Array, shape: tuple[int, int], rule: str) -> None:
    error = refused(
        lambda t: nisa.nc_n_gather(t.dst, t.data, t.indices),
        {"data": np.ones((2, 8), np.float32), "indices": index},
        {"dst": (shape, "float32")},
    )
    assert error.rule == rule


# --- nonzero_with_count -----------------------------------------------------------------------------------


def test_the_published_nonzeros() -> None:
    got = execute(
        lambda t: nisa.nonzero_with_count(t.dst, t.src, index_offset=16, padding_val=-1),
        {"src": np.array([[0, 1, 1, 0, 0, 1, 0, 0]], np.int32)},
        {"dst": ((1, 9), "int32")},
    )["dst"]
    assert got.tolist() == [[17, 18, 21, -1, -1, -1, -1, -1, 3]]


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_the_first_partition_of_each_group_is_read_and_written(dtype: str) -> None:
    rng = np.random.default_rng(6)
    source = (rng.standard_normal((48, 20)) * rng.integers(0, 2, (48, 20)) * 9).astype(dtype)
    if dtype == "float32":
        source[0, :2] = [np.nan, -0.0]
    old = np.full((48, 21), 77, np.int32)
    got = execute(
        lambda t: nisa.nonzero_with_count(t.dst, t.src, index_offset=-5, padding_val=9),
        {"dst": old, "src": source},
        {"dst": ((48, 21), "int32")},
    )["dst"]
    expected = old.copy()
    for row in (0, 16, 32):
        found = [i - 5 for i, x in enumerate(source[row].tolist()) if x != 0]
        expected[row] = found + [9] * (20 - len(found)) + [len(found)]
    assert_same(got, expected)


def test_other_partitions_need_not_be_written() -> None:
    def program(t: Any) -> None:
        source = nl.ndarray((32, 4), nl.float32, nl.sbuf)
        places = nl.ndarray((32, 5), nl.int32, nl.sbuf)
        nisa.memset(source[0:1], 0)
        nisa.dma_copy(source[16:17], t.row)
        nisa.nonzero_with_count(places, source)
        nisa.dma_copy(t.dst, places[16:17])

    got = execute(program, {"row": np.array([[0, 2, 0, 3]], np.float32)}, {"dst": ((1, 5), "int32")})["dst"]
    assert got.tolist() == [[1, 3, -1, -1, 2]]


@pytest.mark.parametrize(
    ("source", "dtype", "width", "arguments", "generation", "rule"),
    [
        ("bfloat16", "int32", 5, {}, "gen3", "operand.dtype"),
        ("float32", "uint32", 5, {}, "gen3", "operand.dtype"),
        ("float32", "int32", 4, {}, "gen3", "operand.shape"),
        ("float32", "int32", 5, {"index_offset": 2**31}, "gen3", "operand.int32"),
        ("float32", "int32", 5, {"padding_val": 0.5}, "gen3", "operand.int32"),
        ("float32", "int32", 5, {}, "gen2", "generation"),
    ],
)
def test_nonzero_refuses(
    source: str, dtype: str, width: int, arguments: dict[str, Any], generation: str, rule: str
) -> None:
    error = refused(
        lambda t: nisa.nonzero_with_count(t.dst, t.src, **arguments),
        {"src": np.ones((1, 4), host(source))},
        {"dst": ((1, width), dtype)},
        generation=generation,
    )
    assert error.rule == rule


# --- sequence_bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("source", ["float32", "int32"])
def test_the_published_bounds(source: str, dtype: str) -> None:
    ids = np.array([[0, 1, 1, 2, 2, 2, 0, 3, 3]], source)
    got = execute(lambda t: nisa.sequence_bounds(t.dst, t.ids), {"ids": ids}, {"dst": ((1, 2, 9), dtype)})["dst"]
    assert got.dtype == dtype
    assert got.tolist() == [[[9, 1, 1, 3, 3, 3, 9, 7, 7], [-1, 3, 3, 6, 6, 6, -1, 9, 9]]]


@pytest.mark.parametrize("ids", [[1], [0], [4, 4, 4], [1, 2, 1, 1], [0, 0, 5]])
def test_bounds_of_runs(ids: list[int]) -> None:
    count = len(ids)
    starts, ends = [], []
    for i, value in enumerate(ids):
        first = last = i
        while first and ids[first - 1] == value:
            first -= 1
        while last + 1 < count and ids[last + 1] == value:
            last += 1
        starts.append(first if value else count)
        ends.append(last + 1 if value else -1)
    got = execute(
        lambda t: nisa.sequence_bounds(t.dst, t.ids),
        {"ids": np.array([ids], np.int32)},
        {"dst": ((1, 2, count), "int32")},
    )["dst"]
    assert got.tolist() == [[starts, ends]]


@pytest.mark.parametrize(
    ("ids", "shape", "rule"),
    [
        (np.array([[1, -1]], np.int32), (1, 2, 2), "sequence.ids"),
        (np.array([[1, 0.5]], np.float32), (1, 2, 2), "sequence.ids"),
        (np.ones((1, 2), np.uint32), (1, 2, 2), "operand.dtype"),
        (np.ones((2, 2), np.int32), (1, 2, 2), "operand.shape"),
        (np.ones((1, 2), np.int32), (1, 2), "operand.shape"),
    ],
)
def test_bounds_refuse(ids: Array, shape: tuple[int, ...], rule: str) -> None:
    error = refused(lambda t: nisa.sequence_bounds(t.dst, t.ids), {"ids": ids}, {"dst": (shape, "float32")})
    assert error.rule == rule


# --- topk -------------------------------------------------------------------------------------------------


def snake(rows: Array, n: int) -> list[float]:
    return [float(rows[e % 16, e // 16]) for e in range(n)]


def python_topk(values: list[float], k: int, highest: bool = False) -> list[int]:
    """Positions of the k largest, smallest first; among equals the lowest (or highest) index ranks first."""
    sign = -1 if highest else 1
    best = sorted(range(len(values)), key=lambda i: (-values[i], sign * i))[:k]
    return sorted(best, key=lambda i: (values[i], sign * i))


@pytest.mark.parametrize("ties", ["lowest", "highest"])
@pytest.mark.parametrize(("n", "k"), [(8, 1), (33, 20), (64, 5), (61, 61)])
def test_topk_ranks_each_group_in_snake_order(n: int, k: int, ties: str) -> None:
    rng = np.random.default_rng(n)
    source = stored(rng.integers(-6, 7, (32, 4)).astype(np.float32), "bfloat16")
    got = execute(
        lambda t: nisa.topk(t.values, t.places, t.src, n),
        {
            "src": source,
            "values": stored(np.full((32, k), 99, np.float32), "bfloat16"),
            "places": np.full((32, k), 1234, np.uint32),
        },
        {"values": ((32, k), "bfloat16"), "places": ((32, k), "uint32")},
        profile=DEFAULT.replace(ties=ties),
    )
    for group in (slice(0, 16), slice(16, 32)):
        line = snake(floats(source[group]), n)
        best = python_topk(line, k, ties == "highest")
        values, places = floats(got["values"][group]), got["places"][group]
        assert [places[j % 16, j // 16] for j in range(k)] == best
        assert [values[j % 16, j // 16] for j in range(k)] == [line[i] for i in best]
        untouched = [(p, c) for p in range(16) for c in range(k) if c * 16 + p >= k]
        assert all(places[at] == 1234 and values[at] == 99 for at in untouched)


def test_topk_reads_only_the_active_elements() -> None:
    def program(t: Any) -> None:
        source = nl.ndarray((16, 3), nl.bfloat16, nl.sbuf)
        nisa.tensor_copy(source[:, 0:1], t.column)
        nisa.dma_copy(source[0:4, 1:2], t.column[0:4])
        nisa.memset(t.places, 0)
        nisa.topk(t.values, t.places, source, 20)

    column = stored(np.arange(16, dtype=np.float32)[:, None], "bfloat16")
    got = execute(
        program,
        {"column": column, "values": column[:, [0, 0]]},
        {"values": ((16, 2), "bfloat16"), "places": ((16, 2), "uint32")},
    )
    assert got["places"][:2, 0].tolist() == [14, 15]


@pytest.mark.parametrize(
    ("source", "values", "places", "n", "rule"),
    [
        ((16, 2, "float32"), (16, 2, "bfloat16"), (16, 2, "uint32"), 16, "operand.dtype"),
        ((16, 2, "bfloat16"), (16, 2, "float32"), (16, 2, "uint32"), 16, "operand.dtype"),
        ((16, 2, "bfloat16"), (16, 2, "bfloat16"), (16, 2, "int32"), 16, "operand.dtype"),
        ((8, 2, "bfloat16"), (8, 2, "bfloat16"), (8, 2, "uint32"), 16, "topk.partitions"),
        ((16, 2, "bfloat16"), (16, 2, "bfloat16"), (16, 2, "uint32"), 7, "topk.n"),
        ((16, 2, "bfloat16"), (16, 2, "bfloat16"), (16, 2, "uint32"), 33, "topk.n"),
        ((16, 2, "bfloat16"), (16, 9, "bfloat16"), (16, 9, "uint32"), 8, "topk.k"),
        ((16, 2, "bfloat16"), (16, 2, "bfloat16"), (16, 3, "uint32"), 16, "topk.k"),
    ],
)
def test_topk_refuses(source: Any, values: Any, places: Any, n: int, rule: str) -> None:
    error = refused(
        lambda t: nisa.topk(t.values, t.places, t.src, n),
        {"src": numbers(source[2], source[:2])},
        {"values": (values[:2], values[2]), "places": (places[:2], places[2])},
    )
    assert error.rule == rule
