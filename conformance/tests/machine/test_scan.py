"""Claim: scans carry an fp32 state along the flattened free axes, one element after the other, and write it
cast.

Expected values are loops of NumPy float32 operations written here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.test_tensor_scalar import OPERATORS, apply32
from conformance.tests.machine.tiles import Array, assert_same, execute, floats, numbers, refused, stored
from reference.numerics.profile import DEFAULT

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

CMD = nisa.reduce_cmd


def scanned(data0: Array, data1: Array, initial: Any, dtype: str = "float32", **arguments: Any) -> Array:
    settings = {key: arguments.pop(key) for key in ("psum", "profile") if key in arguments}
    tiles = {"initial": initial} if isinstance(initial, np.ndarray) else {}
    return execute(
        lambda t: nisa.tensor_tensor_scan(
            dst=t.dst, data0=t.data0, data1=t.data1, initial=t.initial if tiles else initial, **arguments
        ),
        {"data0": data0, "data1": data1, **tiles},
        {"dst": (data0.shape, dtype)},
        **settings,
    )["dst"]


@pytest.mark.parametrize("reverse", [(False, False), (True, True)])
@pytest.mark.parametrize("op1", ["add", "subtract", "maximum"])
@pytest.mark.parametrize("op0", ["multiply", "subtract", "minimum", "greater"])
def test_each_state_is_made_of_the_one_before(op0: str, op1: str, reverse: tuple[bool, bool]) -> None:
    rng = np.random.default_rng(0)
    data0 = rng.standard_normal((8, 12)).astype(np.float32)
    data1 = stored(rng.standard_normal((8, 12)).astype(np.float32), "bfloat16")
    initial = rng.standard_normal((8, 1)).astype(np.float32)
    got = scanned(
        data0, data1, initial, op0=OPERATORS[op0], op1=OPERATORS[op1], reverse0=reverse[0], reverse1=reverse[1]
    )
    state, expected = initial[:, 0], np.empty_like(data0)
    for i in range(12):
        inner = apply32(op0, *((state, data0[:, i]) if reverse[0] else (data0[:, i], state)))
        right = floats(data1)[:, i]
        state = apply32(op1, *((right, inner) if reverse[1] else (inner, right)))
        expected[:, i] = state
    assert_same(got, expected)


def test_a_cumulative_sum() -> None:
    got = scanned(np.ones((1, 3), np.float32), np.array([[1, 2, 3]], np.float32), 0.0, op0=nl.multiply, op1=nl.add)
    assert got.tolist() == [[1, 3, 6]]


def test_the_state_is_not_rounded_to_the_destination_unless_the_profile_says_so() -> None:
    ones, steps = np.ones((1, 4), np.float32), np.full((1, 4), 2.0**-9, np.float32)
    arguments = {"dtype": "bfloat16", "op0": nl.multiply, "op1": nl.add}
    # 1 + 2^-9, 1 + 2^-8 (tie), 1 + 3 * 2^-9, 1 + 2^-7.
    assert scanned(ones, steps, 1.0, **arguments).astype(np.float32).tolist() == [[1, 1, 1 + 2.0**-7, 1 + 2.0**-7]]
    rounded = scanned(ones, steps, 1.0, profile=DEFAULT.replace(scan_state="rounded"), **arguments)
    assert (rounded.astype(np.float32) == 1).all()


def test_multiply_and_add_fuse_by_profile() -> None:
    x = np.array([[1 + 2.0**-12]], np.float32)
    term = np.array([[-(1 + 2.0**-11)]], np.float32)
    for fused, expected in ((False, 0.0), (True, 2.0**-24)):
        got = scanned(x, term, float(x[0, 0]), op0=nl.multiply, op1=nl.add, profile=DEFAULT.replace(fma_vector=fused))
        assert got.tolist() == [[expected]]


@pytest.mark.parametrize(
    ("op0", "op1", "psum", "rule"),
    [
        ("bitwise_and", "add", (), "operator.class"),
        ("add", "abs", (), "operator.class"),
        ("add", "add", ("data0", "data1"), "operand.psum"),
    ],
)
def test_scan_refuses(op0: str, op1: str, psum: Any, rule: str) -> None:
    ones = np.ones((2, 4), np.float32)
    error = refused(
        lambda t: nisa.tensor_tensor_scan(t.dst, t.data0, t.data1, 0.0, getattr(nl, op0), getattr(nl, op1)),
        {"data0": ones, "data1": ones},
        {"dst": ((2, 4), "float32")},
        psum=psum,
    )
    assert error.rule == rule


def test_scan_reads_before_it_writes_and_takes_psum_on_one_side() -> None:
    data = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
    got = execute(
        lambda t: nisa.tensor_tensor_scan(t.data1, t.data0, t.data1, 1.0, nl.multiply, nl.add),
        {"data0": data, "data1": data},
        {"data1": ((2, 4), "float32")},
        psum=("data0",),
    )["data1"]
    expected, state = np.empty_like(data), np.ones(2, np.float32)
    for i in range(4):
        state = data[:, i] * state + data[:, i]
        expected[:, i] = state
    assert_same(got, expected)


# --- tensor_scalar_cumulative -----------------------------------------------------------------------------

STARTS = {"add": 0.0, "subtract": 0.0, "multiply": 1.0, "maximum": -np.inf, "minimum": np.inf}


@pytest.mark.parametrize("op1", STARTS)
@pytest.mark.parametrize("op0", ["multiply", "subtract", "maximum"])
def test_the_register_runs_through_the_tile(op0: str, op1: str) -> None:
    data = numbers("float16", (8, 2, 6))
    data = np.where(np.isnan(floats(data)), data.dtype.type(0.25), data)
    vector = np.random.default_rng(1).standard_normal((8, 1)).astype(np.float32)
    got = execute(
        lambda t: nisa.tensor_scalar_cumulative(t.dst, t.data, OPERATORS[op0], OPERATORS[op1], t.vector),
        {"data": data, "vector": vector},
        {"dst": ((8, 12), "bfloat16")},
    )["dst"]
    values = apply32(op0, floats(data).reshape(8, 12), vector)
    register, expected = np.full(8, STARTS[op1], np.float32), np.empty((8, 12), np.float32)
    for i in range(12):
        # The new value is the left operand.
        register = apply32(op1, values[:, i], register)
        expected[:, i] = register
    assert_same(got, stored(expected, "bfloat16"))


def test_the_register_is_the_shared_accumulator() -> None:
    data = np.array([[1, 2, 3]], np.float32)

    def program(t: Any) -> None:
        nisa.tensor_scalar_cumulative(t.a, t.data, nl.multiply, nl.add, 1.0)
        nisa.tensor_scalar_cumulative(t.b, t.data, nl.multiply, nl.add, 1.0, reduce_cmd=CMD.reduce)
        nisa.tensor_scalar_cumulative(t.c, t.data, nl.multiply, nl.add, 1.0, imm1=100.0, reduce_cmd=CMD.load_reduce)
        nisa.tensor_scalar_reduce(t.d, t.data, nl.add, 0.0, nl.add, t.total, reduce_cmd=CMD.reduce)

    got = execute(program, {"data": data}, {**dict.fromkeys("abcd", ((1, 3), "float32")), "total": ((1, 1), "float32")})
    assert got["a"].tolist() == [[1, 3, 6]]
    assert got["b"].tolist() == [[7, 9, 12]]
    assert got["c"].tolist() == [[101, 103, 106]]
    assert got["total"].tolist() == [[112]]


def test_the_register_keeps_fp32_unless_the_profile_says_otherwise() -> None:
    data = np.array([[1, 2.0**-9, 2.0**-9, 2.0**-9]], np.float32)

    def run(profile: Any) -> Array:
        return execute(
            lambda t: nisa.tensor_scalar_cumulative(t.dst, t.data, nl.multiply, nl.add, 1.0),
            {"data": data},
            {"dst": ((1, 4), "bfloat16")},
            profile=profile,
        )["dst"].astype(np.float32)

    assert run(DEFAULT).tolist() == [[1, 1, 1, 1 + 2.0**-7]]
    assert run(DEFAULT.replace(accum_precast=False)).tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("arguments", "source", "dtype", "rule"),
    [
        ({}, "int32", "float32", "operand.dtype"),
        ({}, "float32", "uint32", "operand.dtype"),
        ({"op1": nl.logical_and}, "float32", "float32", "operator.class"),
        ({"op0": nl.bitwise_or}, "float32", "float32", "operator.class"),
        ({"imm1": 1.0}, "float32", "float32", "reduce_init"),
        ({"reduce_cmd": CMD.load_reduce}, "float32", "float32", "reduce_init"),
        ({"reduce_cmd": CMD.idle}, "float32", "float32", "reduce_cmd"),
        ({"reduce_cmd": CMD.reduce}, "float32", "float32", "accumulator.undefined"),
    ],
)
def test_cumulative_refuses(arguments: dict[str, Any], source: str, dtype: str, rule: str) -> None:
    named = {"op0": nl.add, "op1": nl.add, "imm0": 1.0, **arguments}
    error = refused(
        lambda t: nisa.tensor_scalar_cumulative(dst=t.dst, src=t.data, **named),
        {"data": np.ones((2, 4), source)},
        {"dst": ((2, 4), dtype)},
    )
    assert error.rule == rule
