"""Claim: reductions see fp32 values, in the order the profile names, and write once; registers live across
instructions.

Sums are checked against exact fractions rounded once, and against sequential fp32 additions written here.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.test_tensor_scalar import nearest32
from conformance.tests.machine.tiles import (
    INTEGERS,
    NUMERIC,
    Array,
    assert_same,
    execute,
    floats,
    numbers,
    refused,
    stored,
)
from reference.numerics.profile import DEFAULT

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

RESET, REDUCE, LOAD = nisa.reduce_cmd.reset_reduce, nisa.reduce_cmd.reduce, nisa.reduce_cmd.load_reduce
CHAIN = DEFAULT.replace(reduce_order="chain", accum_order="chain", partition_reduce_order="chain")
FP32_MAX = float(np.finfo(np.float32).max)


def finite(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Random values without NaN and infinity, of mixed magnitude."""
    rng = np.random.default_rng([seed, 77])
    values = rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 6, shape)
    return stored(values.astype(np.float32), dtype)


def exact_sum(row: Array) -> np.float32:
    """The exact sum of fp32 values, rounded once; +0 when it is zero."""
    total = sum((Fraction(float(x)) for x in row), Fraction(0))
    return np.float32(0) if total == 0 else nearest32(total)


def chain_sum(row: Array, start: float = 0.0) -> np.float32:
    """fp32 additions from left to right."""
    return functools.reduce(lambda total, x: np.float32(total + x), row, np.float32(start))


def reduced(data: Any, op: str, axis: Any, dtype: str, shape: tuple[int, ...], **options: Any) -> Array:
    negate = options.pop("negate", False)
    return execute(
        lambda t: nisa.tensor_reduce(t.dst, getattr(nl, op), t.data, axis, negate=negate),
        {"data": data},
        {"dst": (shape, dtype)},
        **options,
    )["dst"]


# --- tensor_reduce ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e4m3"])
@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_sums_are_exact_and_rounded_once(dtype: str, length: int) -> None:
    data = finite(dtype, (8, length))
    got = reduced(data, "add", 1, "float32", (8, 1))
    assert_same(got, np.array([[exact_sum(row)] for row in floats(data)], np.float32))


def test_the_order_of_a_sum_is_a_profile_choice() -> None:
    data = np.array([[2.0**60, 1, 1, -(2.0**60), 1, 3]], np.float32)
    assert reduced(data, "add", 1, "float32", (1, 1)).tolist() == [[6.0]]
    assert reduced(data, "add", 1, "float32", (1, 1), profile=CHAIN).tolist() == [[4.0]]
    rows = finite("float32", (16, 33))
    got = reduced(rows, "add", 1, "float32", (16, 1), profile=CHAIN)
    assert_same(got, np.array([[chain_sum(row)] for row in rows], np.float32))


@pytest.mark.parametrize(
    ("op", "formula"),
    [
        ("multiply", lambda row: functools.reduce(lambda a, b: np.float32(a * b), row, np.float32(1))),
        ("subtract", lambda row: nearest32(Fraction(float(row[0])) - sum(Fraction(float(x)) for x in row[1:]))),
        ("maximum", max),
        ("minimum", min),
        ("logical_and", lambda row: float(all(row != 0))),
        ("logical_or", lambda row: float(any(row != 0))),
        ("logical_xor", lambda row: float(np.count_nonzero(row) % 2)),
    ],
)
def test_other_reductions(op: str, formula: Any) -> None:
    data = finite("bfloat16", (16, 11))
    data[3:6, ::2] = 0
    expected = np.array([[formula(row)] for row in floats(data)], np.float32)
    assert_same(reduced(data, op, (1,), "float32", (16, 1)), expected, op)


@pytest.mark.parametrize(("axis", "shape"), [(3, (4, 2, 3)), ((3,), (4, 6)), ((2, 3), (4, 2)), ([1, 2, 3], (4, 1))])
def test_trailing_axes_are_reduced(axis: Any, shape: tuple[int, ...]) -> None:
    data = finite("float32", (4, 2, 3, 5))
    count = 1 if isinstance(axis, int) else len(axis)
    rows = data.reshape(-1, int(np.prod(data.shape[4 - count :])))
    expected = np.array([exact_sum(row) for row in rows], np.float32)
    assert_same(reduced(data, "add", axis, "float32", shape), expected)


@pytest.mark.parametrize("axis", [0, (0, 1), (1,), (1, 3), (4,), ()])
def test_other_axes_are_refused(axis: Any) -> None:
    error = refused(
        lambda t: nisa.tensor_reduce(t.dst, nl.add, t.data, axis),
        {"data": np.ones((4, 2, 3, 5), np.float32)},
        {"dst": ((4, 1), "float32")},
    )
    assert error.rule == "reduce.axis"


def test_the_destination_holds_the_kept_elements() -> None:
    error = refused(
        lambda t: nisa.tensor_reduce(t.dst, nl.add, t.data, 2),
        {"data": np.ones((4, 2, 3), np.float32)},
        {"dst": ((4, 3), "float32")},
    )
    assert error.rule == "operand.shape"


def test_negate_changes_the_sign_before_the_cast() -> None:
    assert reduced(np.array([[3, 7]], np.float32), "maximum", 1, "int8", (1, 1), negate=True).tolist() == [[-7]]
    # The zero of an exact sum is +0, so its negative is -0.
    assert_same(
        reduced(np.array([[1, -1]], np.float32), "add", 1, "float32", (1, 1), negate=True),
        np.array([[-0.0]], np.float32),
    )


def test_maxima_follow_the_nan_rule() -> None:
    data = np.array([[1, np.nan, 3, 2]], np.float32)
    for rule, expected in {"propagate": np.nan, "number": 3, "second": 3}.items():
        got = reduced(data, "maximum", 1, "float32", (1, 1), profile=DEFAULT.replace(maxmin_nan=rule))
        assert_same(got, np.array([[expected]], np.float32), rule)


@pytest.mark.parametrize("data", [[np.inf, 1, -np.inf], [np.nan, 1, 2], [np.inf, np.inf, 1], [FP32_MAX, FP32_MAX, 0]])
def test_sums_of_special_values_follow_ieee(data: list[float]) -> None:
    row = np.array([data], np.float32)
    with np.errstate(all="ignore"):
        expected = row[:, 0] + row[:, 1] + row[:, 2]
    assert_same(reduced(row, "add", 1, "float32", (1, 1)), expected[:, None])


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op", ["bitwise_and", "bitwise_or", "bitwise_xor"])
def test_bit_patterns_are_reduced_without_a_cast(op: str, dtype: str) -> None:
    data = numbers(dtype, (8, 6))
    ufunc = {"bitwise_and": int.__and__, "bitwise_or": int.__or__, "bitwise_xor": int.__xor__}[op]
    expected = [[functools.reduce(ufunc, row)] for row in data.tolist()]
    assert_same(reduced(data, op, 1, dtype, (8, 1)), np.array(expected, np.int64).astype(dtype))


@pytest.mark.parametrize(
    ("op", "negate", "dtype", "rule"),
    [
        ("bitwise_and", True, "int32", "reduce.negate"),
        ("bitwise_and", False, "float32", "operand.dtype"),
        ("equal", False, "float32", "operator.class"),
        ("rsqrt", False, "float32", "operator.class"),
        ("abs_max", False, "float32", "operator.generation"),
    ],
)
def test_what_is_no_reduction_is_refused(op: str, negate: bool, dtype: str, rule: str) -> None:
    error = refused(
        lambda t: nisa.tensor_reduce(t.dst, getattr(nl, op), t.data, 1, negate=negate),
        {"data": np.ones((2, 4), dtype)},
        {"dst": ((2, 1), dtype)},
    )
    assert error.rule == rule


@pytest.mark.parametrize("dtype", NUMERIC)
def test_every_dtype_can_be_reduced(dtype: str) -> None:
    data = numbers(dtype, (4, 4))
    got = reduced((data, dtype), "maximum", 1, "float32", (4, 1))
    values = floats(data, dtype)
    expected = np.where(np.isnan(values).any(axis=1), np.nan, np.max(values, axis=1)).astype(np.float32)
    assert ((got[:, 0] == expected) | (np.isnan(got[:, 0]) & np.isnan(expected))).all()


# --- tensor_scalar_reduce ---------------------------------------------------------------------------------


def test_the_accumulator_sees_values_before_the_cast() -> None:
    data = np.full((2, 4), 1 + 2.0**-10, np.float32)

    def program(t: Any) -> None:
        nisa.tensor_scalar_reduce(t.dst, t.data, nl.multiply, 1.0, nl.add, t.total)

    outputs = {"dst": ((2, 4), "bfloat16"), "total": ((2, 1), "float32")}
    got = execute(program, {"data": data}, outputs)
    assert (got["dst"].astype(np.float32) == 1).all()
    assert (got["total"] == 4 + 2.0**-8).all()
    late = execute(program, {"data": data}, outputs, profile=DEFAULT.replace(accum_precast=False))
    assert (late["total"] == 4).all()


@pytest.mark.parametrize(("op", "start"), [("add", 0.0), ("multiply", 1.0), ("maximum", -np.inf), ("minimum", np.inf)])
def test_registers_start_go_on_and_are_loaded(op: str, start: float) -> None:
    parts = [finite("float32", (8, 5), seed) for seed in range(3)]
    vector = finite("float32", (8, 1), 9)

    def program(t: Any) -> None:
        reduce = getattr(nl, op)
        nisa.tensor_scalar_reduce(t.dst, t.a, nl.add, 1.0, reduce, t.first)
        nisa.tensor_scalar_reduce(t.dst, t.b, nl.add, 1.0, reduce, t.second, reduce_cmd=REDUCE)
        nisa.tensor_scalar_reduce(t.dst, t.c, nl.add, 1.0, reduce, t.third, reduce_cmd=LOAD, reduce_init=t.vector)
        nisa.tensor_scalar_reduce(t.dst, t.c, nl.add, 1.0, reduce, t.fourth, reduce_cmd=LOAD, reduce_init=2.5)

    names = ("first", "second", "third", "fourth")
    got = execute(
        program,
        {"a": parts[0], "b": parts[1], "c": parts[2], "vector": vector},
        {"dst": ((8, 5), "float32"), **dict.fromkeys(names, ((8, 1), "float32"))},
        profile=CHAIN,
    )
    step = {
        "add": lambda a, b: np.float32(a + b),
        "multiply": lambda a, b: np.float32(a * b),
        "maximum": max,
        "minimum": min,
    }[op]

    def running(begin: Any, part: Array) -> Array:
        rows = part + np.float32(1)
        return np.array(
            [
                functools.reduce(step, row, np.float32(s))
                for s, row in zip(np.broadcast_to(begin, 8), rows, strict=True)
            ],
            np.float32,
        )

    first = running(start, parts[0])
    expected = {
        "first": first,
        "second": running(first, parts[1]),
        "third": running(vector[:, 0], parts[2]),
        "fourth": running(2.5, parts[2]),
    }
    for name in names:
        assert_same(got[name][:, 0], expected[name], name)


def test_absolute_maximum_of_all_free_axes() -> None:
    data = numbers("bfloat16", (16, 3, 8))
    data = np.where(np.isfinite(floats(data)), data, data.dtype.type(-7))
    got = execute(
        lambda t: nisa.tensor_scalar_reduce(t.dst, t.data, nl.abs, 0.0, nl.maximum, t.top, reduce_res_negate=True),
        {"data": data},
        {"dst": ((16, 3, 8), "bfloat16"), "top": ((16, 1), "float32")},
    )
    assert_same(got["dst"], np.abs(data))
    assert_same(got["top"], -np.abs(floats(data)).max(axis=(1, 2))[:, None])


def test_the_result_may_be_left_in_the_register() -> None:
    data = np.ones((4, 8), np.float32)

    def program(t: Any) -> None:
        nisa.tensor_scalar_reduce(t.dst, t.data, nl.multiply, 2.0, nl.add)
        nisa.tensor_scalar_reduce(t.dst, t.data, nl.multiply, 1.0, nl.add, t.total, reduce_cmd=REDUCE)

    got = execute(program, {"data": data}, {"dst": ((4, 8), "float32"), "total": ((4, 1), "float32")})
    assert (got["total"] == 24).all()


def test_lanes_are_the_partitions_of_the_data() -> None:
    data = np.arange(64, dtype=np.float32)[:, None] * np.ones((64, 3), np.float32)

    def program(t: Any) -> None:
        nisa.tensor_scalar_reduce(t.dst, t.data, nl.add, 0.0, nl.add)
        nisa.tensor_scalar_reduce(t.dst[32:64], t.data[32:64], nl.add, 0.0, nl.add, t.upper, reduce_cmd=REDUCE)
        nisa.tensor_scalar_reduce(t.dst[0:32], t.data[0:32], nl.add, 0.0, nl.add, t.lower, reduce_cmd=REDUCE)

    outputs = {"dst": ((64, 3), "float32"), "upper": ((32, 1), "float32"), "lower": ((32, 1), "float32")}
    got = execute(program, {"data": data}, outputs)
    assert_same(got["upper"], 6 * data[32:, :1])
    assert_same(got["lower"], 6 * data[:32, :1])


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"reduce_cmd": REDUCE}, "accumulator.undefined"),
        ({"reduce_cmd": nisa.reduce_cmd.idle}, "reduce_cmd"),
        ({"reduce_cmd": nisa.reduce_cmd.reset}, "reduce_cmd"),
        ({"reduce_cmd": LOAD}, "reduce_init"),
        ({"reduce_init": 1.0}, "reduce_init"),
        ({"reverse0": True}, "operator.reverse"),
        ({"reduce_op": nl.subtract}, "operator.class"),
        ({"op0": nl.bitwise_and}, "operator.class"),
    ],
)
def test_tensor_scalar_reduce_refuses(arguments: dict[str, Any], rule: str) -> None:
    settings = {"op0": nl.add, "operand0": 0.0, "reduce_op": nl.add, **arguments}
    error = refused(
        lambda t: nisa.tensor_scalar_reduce(dst=t.dst, data=t.data, reduce_res=t.total, **settings),
        {"data": np.ones((4, 4), np.float32)},
        {"dst": ((4, 4), "float32"), "total": ((4, 1), "float32")},
    )
    assert error.rule == rule


# --- tensor_partition_reduce ------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["add", "average", "maximum"])
def test_partitions_are_reduced_in_fp32(op: str) -> None:
    data = finite("bfloat16", (37, 3, 4))
    got = execute(
        lambda t: nisa.tensor_partition_reduce(t.dst, getattr(nl, op), t.data),
        {"data": data},
        {"dst": ((1, 3, 4), "float32")},
    )["dst"]
    columns = floats(data).reshape(37, -1).T
    formula = {
        "add": exact_sum,
        "average": lambda column: np.float32(exact_sum(column) / np.float32(37)),
        "maximum": max,
    }[op]
    assert_same(got, np.array([formula(column) for column in columns], np.float32))


def test_partition_sums_take_their_own_order() -> None:
    data = np.array([[2.0**60], [1], [-(2.0**60)], [1]], np.float32)
    for profile, expected in ((DEFAULT, 2.0), (CHAIN, 1.0)):
        got = execute(
            lambda t: nisa.tensor_partition_reduce(t.dst, nl.add, t.data),
            {"data": data},
            {"dst": ((1, 1), "float32")},
            profile=profile,
        )
        assert got["dst"].tolist() == [[expected]]


@pytest.mark.parametrize("op", ["bitwise_or", "bitwise_and"])
def test_partitions_of_bits(op: str) -> None:
    data = numbers("uint16", (5, 9))
    got = execute(
        lambda t: nisa.tensor_partition_reduce(t.dst, getattr(nl, op), t.data),
        {"data": data},
        {"dst": ((1, 9), "uint16")},
    )["dst"]
    ufunc = int.__or__ if op == "bitwise_or" else int.__and__
    expected = [functools.reduce(ufunc, column) for column in data.T.tolist()]
    assert_same(got, np.array(expected, np.uint16))


@pytest.mark.parametrize(
    ("op", "shape", "dtype", "psum", "rule"),
    [
        ("minimum", (1, 4), "float32", (), "operator.class"),
        ("add", (2, 4), "float32", (), "operand.shape"),
        ("add", (1, 3), "float32", (), "operand.shape"),
        ("add", (1, 4), "float32", ("data",), "operand.memory"),
        ("bitwise_or", (1, 4), "float32", (), "operand.dtype"),
    ],
)
def test_partition_reduce_refuses(op: str, shape: tuple[int, int], dtype: str, psum: Any, rule: str) -> None:
    error = refused(
        lambda t: nisa.tensor_partition_reduce(t.dst, getattr(nl, op), t.data),
        {"data": np.ones((2, 4), dtype)},
        {"dst": (shape, dtype)},
        psum=psum,
    )
    assert error.rule == rule
