"""Claim: max8, nc_find_index8 and nc_match_replace8 agree with sorting and searching in Python lists.

The two past faults of the official simulator are named tests: values taken in ascending turns, and a missing
value or a duplicate that reported the first match.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.tiles import NUMERIC, Array, assert_same, execute, floats, numbers, refused, stored
from reference.numerics.profile import DEFAULT

import nki.isa as nisa  # isort: skip

MISSING = {"uint16": 0xFFFF, "uint32": 0xFFFFFFFF}


def top8(data: Any, dtype: str = "float32", **options: Any) -> Array:
    array = data[0] if isinstance(data, tuple) else data
    return execute(lambda t: nisa.max8(t.dst, t.src), {"src": data}, {"dst": ((array.shape[0], 8), dtype)}, **options)[
        "dst"
    ]


@pytest.mark.parametrize("dtype", NUMERIC)
def test_the_eight_largest_descend_with_duplicates(dtype: str) -> None:
    data = numbers(dtype, (16, 3, 20))
    values = floats(data, dtype)
    if np.isnan(values).any():
        data = np.where(np.isnan(values), data.dtype.type(1), data)
        values = floats(data, dtype)
    got = top8((data, dtype))
    expected = [sorted(row.ravel().tolist(), reverse=True)[:8] for row in values]
    assert (got == np.array(expected, np.float32)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3", "int8", "uint16"])
def test_results_are_cast_once(dtype: str) -> None:
    data = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32) * 100
    expected = np.sort(data, axis=1)[:, ::-1][:, :8]
    assert_same(top8(data, dtype, psum=("src", "dst")), stored(expected, dtype))


def test_nan_leads_or_trails_by_profile() -> None:
    data = np.array([[1, np.nan, 3, np.inf, 2, 0, -1, -np.inf, 5]], np.float32)
    assert_same(top8(data), np.array([[np.nan, np.inf, 5, 3, 2, 1, 0, -1]], np.float32))
    number = top8(data, profile=DEFAULT.replace(maxmin_nan="number"))
    assert_same(number, np.array([[np.inf, 5, 3, 2, 1, 0, -1, -np.inf]], np.float32))


def test_zeros_of_both_signs_keep_the_order_of_the_profile() -> None:
    data = np.array([[0.0, -0.0, -1, -2, -3, -4, -5, -6]], np.float32)
    assert_same(top8(data), data)
    swapped = data[:, [1, 0, 2, 3, 4, 5, 6, 7]]
    assert_same(top8(data, profile=DEFAULT.replace(ties="highest")), swapped)


@pytest.mark.parametrize(("shape", "rule"), [((2, 7), "max8.elements"), ((2, 2, 2, 2), "max8.rank")])
def test_max8_limits(shape: tuple[int, ...], rule: str) -> None:
    outputs = {"dst": ((2, 8), "float32")}
    assert refused(lambda t: nisa.max8(t.dst, t.src), {"src": np.ones(shape, np.float32)}, outputs).rule == rule
    assert (top8(np.ones((2, 8), np.float32)) == 1).all()


def test_max8_takes_16384_elements_and_not_one_more() -> None:
    data = np.arange(16385, dtype=np.float32)[None, :]
    assert top8(data[:, :-1]).tolist() == [[16383 - i for i in range(8)]]
    outputs = {"dst": ((1, 8), "float32")}
    assert refused(lambda t: nisa.max8(t.dst, t.src), {"src": data}, outputs).rule == "max8.elements"
    wrong = {"dst": ((1, 7), "float32")}
    assert refused(lambda t: nisa.max8(t.dst, t.src), {"src": data[:, :9]}, wrong).rule == "operand.shape"


# --- nc_find_index8 ---------------------------------------------------------------------------------------


def python_find(row: list[float], vals: list[float], turns: Any) -> list[int]:
    free, found = set(range(len(row))), [-1] * 8
    for i in turns:
        matches = [k for k in sorted(free) if row[k] == vals[i]]
        if matches:
            found[i] = matches[0]
            free.discard(matches[0])
    return found


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("source", ["float32", "bfloat16", "int16"])
def test_indices_are_first_positions_and_duplicates_go_on(source: str, dtype: str) -> None:
    rng = np.random.default_rng(2)
    data = rng.integers(-4, 5, (32, 2, 12)).astype(np.float32)
    vals = rng.integers(-6, 6, (32, 8)).astype(np.float32)
    got = execute(
        lambda t: nisa.nc_find_index8(t.dst, t.data, t.vals),
        {"data": stored(data, source), "vals": vals},
        {"dst": ((32, 8), dtype)},
    )["dst"]
    rows = [python_find(row.ravel().tolist(), v.tolist(), range(8)) for row, v in zip(data, vals, strict=True)]
    expected = [[MISSING[dtype] if k < 0 else k for k in row] for row in rows]
    assert got.tolist() == expected
    assert any(k < 0 for row in rows for k in row), "the sample must hold missing values"


def test_nan_is_never_found_and_zeros_are_equal() -> None:
    data = np.array([[np.nan, 1, 0.0, 2, 3, 4, 5, 6]], np.float32)
    vals = np.array([[np.nan, -0.0, 6, 6, 1, 2, 3, 4]], np.float32)
    got = execute(
        lambda t: nisa.nc_find_index8(t.dst, t.data, t.vals), {"data": data, "vals": vals}, {"dst": ((1, 8), "uint32")}
    )["dst"]
    assert got.tolist() == [[0xFFFFFFFF, 2, 7, 0xFFFFFFFF, 1, 3, 4, 5]]


@pytest.mark.parametrize(
    ("dtype", "vals", "rule"),
    [("int32", (2, 8), "operand.dtype"), ("uint32", (2, 7), "operand.shape"), ("uint32", (1, 8), "operand.shape")],
)
def test_find_index_refuses(dtype: str, vals: tuple[int, int], rule: str) -> None:
    error = refused(
        lambda t: nisa.nc_find_index8(t.dst, t.data, t.vals),
        {"data": np.ones((2, 8), np.float32), "vals": np.ones(vals, np.float32)},
        {"dst": ((2, 8), dtype)},
    )
    assert error.rule == rule


# --- nc_match_replace8 ------------------------------------------------------------------------------------


def test_the_example_of_the_release_notes() -> None:
    data = np.array([[1, 2, 3, 4, 8, 8, 8, 8, 8, 8, 8]], np.float32)
    vals = np.array([[3, 8, 8, 8, 8, 8, 8, 8]], np.float32)
    got = execute(
        lambda t: nisa.nc_match_replace8(t.dst, t.data, t.vals, -1.0, dst_idx=t.index),
        {"data": data, "vals": vals},
        {"dst": ((1, 11), "float32"), "index": ((1, 8), "uint32")},
    )
    assert got["index"].tolist() == [[2, 10, 9, 8, 7, 6, 5, 4]]
    assert got["dst"].tolist() == [[1, 2, -1, 4, -1, -1, -1, -1, -1, -1, -1]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("imm", [-1e30, 2.0, math.inf])
def test_values_are_replaced_from_the_last_to_the_first(dtype: str, imm: float) -> None:
    rng = np.random.default_rng(3)
    data = rng.integers(-3, 4, (32, 20)).astype(np.float32)
    vals = rng.integers(-4, 4, (32, 8)).astype(np.float32)
    got = execute(
        lambda t: nisa.nc_match_replace8(t.data, t.data, t.vals, imm, dst_idx=t.index),
        {"data": stored(data, dtype), "vals": vals},
        {"data": ((32, 20), dtype), "index": ((32, 8), "uint16")},
    )
    found = [python_find(row.tolist(), v.tolist(), range(7, -1, -1)) for row, v in zip(data, vals, strict=True)]
    expected = data.copy()
    for row, places in enumerate(found):
        expected[row, [k for k in places if k >= 0]] = imm
    assert got["index"].tolist() == [[0xFFFF if k < 0 else k for k in row] for row in found]
    assert_same(got["data"], stored(expected, dtype))


def test_the_index_tile_may_be_left_out() -> None:
    data = np.arange(8, dtype=np.float32)[None, :]
    got = execute(
        lambda t: nisa.nc_match_replace8(dst=t.dst, data=t.data, vals=t.data, imm=0.5),
        {"data": data},
        {"dst": ((1, 8), "bfloat16")},
    )["dst"]
    assert (got.astype(np.float32) == 0.5).all()


@pytest.mark.parametrize(
    ("index", "imm", "rule"), [("int32", 1.0, "operand.dtype"), ("uint32", "data", "operand.scalar")]
)
def test_match_replace_refuses(index: str, imm: Any, rule: str) -> None:
    error = refused(
        lambda t: nisa.nc_match_replace8(t.dst, t.data, t.data, t.data if imm == "data" else imm, t.index),
        {"data": np.ones((2, 8), np.float32)},
        {"dst": ((2, 8), "float32"), "index": ((2, 8), index)},
    )
    assert error.rule == rule
