"""Claim: iota and affine_select follow their affine pattern in integers, range_select and select_reduce
choose per element and keep a running maximum of what they chose before it is cast.
"""

from __future__ import annotations

import itertools
import operator
from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.bench import bits
from conformance.tests.machine.tiles import (
    FLOATS,
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
from reference.neuroncore.errors import MachineWarning

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

CMD = nisa.reduce_cmd
FP32_MIN = np.float32(-3.4028235e38)
COMPARE = {
    "equal": operator.eq,
    "not_equal": operator.ne,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
}


def affine(pattern: list[list[int]], offset: int, multiplier: int, partitions: int) -> list[list[int]]:
    """The pattern's values in Python integers, as int32."""
    rows = []
    for channel in range(partitions):
        indices = itertools.product(*(range(count) for _, count in pattern))
        values = (
            offset + channel * multiplier + sum(i * s for i, (s, _) in zip(ix, pattern, strict=True)) for ix in indices
        )
        rows.append([(v + 2**31) % 2**32 - 2**31 for v in values])
    return rows


PATTERNS = [
    ([[1, 4]], 10, 100),
    ([[-1, 7]], 0, 1),
    ([[2, 3], [0, 2], [5, 2]], -4, 0),
    ([[1, 2], [10, 2], [100, 2], [1000, 2]], 7, -3),
    ([[2**30, 5]], 2**31 - 1, 2**30),
]


# --- iota -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NUMERIC)
@pytest.mark.parametrize(("pattern", "offset", "multiplier"), PATTERNS)
def test_iota_counts_in_int32_and_casts(pattern: Any, offset: int, multiplier: int, dtype: str) -> None:
    rows = affine(pattern, offset, multiplier, 3)
    got = execute(
        lambda t: nisa.iota(t.dst, pattern, offset=offset, channel_multiplier=multiplier),
        {},
        {"dst": ((3, len(rows[0])), dtype)},
    )["dst"]
    if dtype in INTEGERS:
        limits = np.iinfo(dtype)
        expected = np.array([[min(max(v, limits.min), limits.max) for v in row] for row in rows], dtype)
    else:
        expected = stored(np.array(rows, np.int64).astype(np.float32), dtype)
    assert_same(got, expected)


def test_iota_of_the_documents() -> None:
    got = execute(
        lambda t: nisa.iota(t.dst, [[1, 4]], offset=10, channel_multiplier=100), {}, {"dst": ((2, 4), "float32")}
    )["dst"]
    assert got.tolist() == [[10, 11, 12, 13], [110, 111, 112, 113]]


def test_iota_counts_channels_from_the_view_and_takes_a_register() -> None:
    def program(t: Any) -> None:
        nisa.memset(t.dst, 0)
        register = nisa.register_alloc(1000)
        nisa.iota(t.dst[32:34, 2:4], [[1, 2]], offset=register, channel_multiplier=10)

    got = execute(program, {}, {"dst": ((34, 4), "int32")})["dst"]
    assert got[32:34].tolist() == [[0, 0, 1000, 1001], [0, 0, 1010, 1011]]
    assert not got[:32].any()


@pytest.mark.parametrize(
    ("pattern", "arguments", "psum", "rule"),
    [
        ([[1, 3]], {}, (), "operand.shape"),
        ([[1, 4, 2]], {}, (), "pattern"),
        ([[1, 1]] * 5, {}, (), "pattern"),
        ([], {}, (), "pattern"),
        ([[1, 4]], {"offset": 2**31}, (), "operand.int32"),
        ([[1, 4]], {"offset": 0.5}, (), "operand.int32"),
        ([[1, 4]], {"channel_multiplier": -(2**31) - 1}, (), "operand.int32"),
        ([[1, 4]], {}, ("dst",), "operand.memory"),
    ],
)
def test_iota_refuses(pattern: Any, arguments: dict[str, Any], psum: Any, rule: str) -> None:
    error = refused(lambda t: nisa.iota(t.dst, pattern, **arguments), {}, {"dst": ((2, 4), "int32")}, psum=psum)
    assert error.rule == rule


# --- affine_select ----------------------------------------------------------------------------------------


def test_affine_select_makes_a_causal_mask() -> None:
    data = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
    got = execute(
        lambda t: nisa.affine_select(
            dst=t.dst,
            pattern=[[-1, 4]],
            channel_multiplier=1,
            on_true_tile=t.data,
            on_false_value=-1.0,
            cmp_op=nl.greater_equal,
            offset=0,
        ),
        {"data": data},
        {"dst": ((3, 4), "float32")},
    )["dst"]
    expected = np.where(np.arange(4)[None, :] <= np.arange(3)[:, None], data, -1)
    assert_same(got, expected.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3", "int32"])
@pytest.mark.parametrize("source", ["float32", "bfloat16", "int32"])
@pytest.mark.parametrize("compare", COMPARE)
def test_affine_select_keeps_bits_or_casts_once(compare: str, source: str, dtype: str) -> None:
    pattern, offset, multiplier = [[2, 3], [-1, 4]], -2, 1
    data = numbers(source, (8, 12))
    got = execute(
        lambda t: nisa.affine_select(
            t.dst, pattern, multiplier, t.data, 1 + 2.0**-8, cmp_op=getattr(nl, compare), offset=offset
        ),
        {"data": data},
        {"dst": ((8, 12), dtype)},
    )["dst"]
    taken = COMPARE[compare](np.array(affine(pattern, offset, multiplier, 8)), 0)
    kept = data if source == dtype else stored(floats(data), dtype)
    expected = np.where(taken, bits(kept), bits(stored(np.float32(1 + 2.0**-8).reshape(1, 1), dtype)))
    same = bits(got) == expected
    assert (same | (np.isnan(floats(got)) & taken)).all()


def test_affine_select_works_in_place_and_takes_infinities() -> None:
    data = numbers("bfloat16", (4, 6))
    got = execute(
        lambda t: nisa.affine_select(t.data, [[1, 6]], 0, t.data, float("-inf"), cmp_op=nl.less, offset=-3),
        {"data": data},
        {"data": ((4, 6), "bfloat16")},
    )["data"]
    assert (bits(got[:, :3]) == bits(data[:, :3])).all()
    assert (floats(got[:, 3:]) == -np.inf).all()


def test_affine_select_takes_its_offset_from_a_register() -> None:
    def program(t: Any) -> None:
        register = nisa.register_alloc(-2)
        nisa.affine_select(t.dst, [[1, 6]], 0, t.data, 0.0, cmp_op=nl.greater_equal, offset=register)

    got = execute(program, {"data": np.ones((2, 6), np.float32)}, {"dst": ((2, 6), "float32")})["dst"]
    assert got.tolist() == [[0, 0, 1, 1, 1, 1]] * 2


@pytest.mark.parametrize(
    ("compare", "psum", "shape", "rule"),
    [
        ("add", (), (4, 6), "operator.class"),
        ("less", ("data",), (4, 6), "operand.memory"),
        ("less", ("dst",), (4, 6), "operand.memory"),
        ("less", (), (4, 5), "operand.shape"),
    ],
)
def test_affine_select_refuses(compare: str, psum: Any, shape: tuple[int, int], rule: str) -> None:
    error = refused(
        lambda t: nisa.affine_select(t.dst, [[1, 6]], 0, t.data, 0.0, cmp_op=getattr(nl, compare)),
        {"data": np.ones(shape, np.float32)},
        {"dst": ((4, 6), "float32")},
        psum=psum,
    )
    assert error.rule == rule


# --- range_select -----------------------------------------------------------------------------------------


def ranged(data: Array, lower: Array, upper: Array, dtype: str, **arguments: Any) -> dict[str, Array]:
    settings = {key: arguments.pop(key) for key in ("psum", "generation") if key in arguments}
    named = {"comp_op0": nl.greater_equal, "comp_op1": nl.less, **arguments}
    return execute(
        lambda t: nisa.range_select(
            dst=t.dst, on_true_tile=t.data, bound0=t.lower, bound1=t.upper, reduce_res=t.top, **named
        ),
        {"data": data, "lower": lower, "upper": upper},
        {"dst": (data.shape, dtype), "top": ((len(data), 1), "float32")},
        **settings,
    )


@pytest.mark.parametrize("source", ["float32", "bfloat16", "float16", "float8_e4m3", "float8_e5m2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_range_select_chooses_and_keeps_the_maximum(source: str, dtype: str) -> None:
    data = numbers(source, (16, 5, 8))
    data = np.where(np.isnan(floats(data)), data.dtype.type(0.5), data)
    lower, upper = (np.arange(16)[:, None] % 7).astype(np.float32), np.full((16, 1), 30, np.float32)
    got = ranged(data, lower, upper, dtype, range_start=-3)
    index = (np.arange(40) - 3).reshape(5, 8)
    taken = (index >= lower[:, :, None]) & (index < upper[:, :, None])
    chosen = np.where(taken, floats(data), FP32_MIN)
    assert_same(got["dst"], stored(chosen, dtype))
    assert_same(got["top"], chosen.max(axis=(1, 2))[:, None])


@pytest.mark.parametrize("op1", ["equal", "less", "less_equal", "greater", "greater_equal"])
@pytest.mark.parametrize("op0", ["equal", "less", "less_equal", "greater", "greater_equal"])
def test_range_select_compares_with_both_bounds(op0: str, op1: str) -> None:
    data = np.arange(1, 33, dtype=np.float32).reshape(4, 8)
    lower, upper = np.array([[0], [2], [2.5], [7]], np.float32), np.array([[7], [2], [6], [3]], np.float32)
    got = ranged(data, lower, upper, "float32", comp_op0=getattr(nl, op0), comp_op1=getattr(nl, op1))
    taken = COMPARE[op0](np.arange(8), lower) & COMPARE[op1](np.arange(8), upper)
    assert_same(got["dst"], np.where(taken, data, FP32_MIN))


def test_a_fully_masked_row_keeps_fp32_min_in_the_accumulator() -> None:
    data, bound = np.ones((2, 4), np.float32), np.full((2, 1), 9, np.float32)
    got = ranged(data, bound, bound, "bfloat16")
    assert (got["dst"].astype(np.float32) == -np.inf).all()
    assert (got["top"] == FP32_MIN).all()


def test_range_select_goes_on_with_the_running_maximum() -> None:
    data = np.array([[5, 1, 2, 3]], np.float32)
    zero, four = np.zeros((1, 1), np.float32), np.full((1, 1), 4, np.float32)

    def program(t: Any) -> None:
        common = {"comp_op0": nl.greater_equal, "comp_op1": nl.less, "bound0": t.zero, "bound1": t.four}
        nisa.range_select(dst=t.dst, on_true_tile=t.data, **common)
        nisa.range_select(dst=t.dst, on_true_tile=t.low, reduce_cmd=CMD.reduce, reduce_res=t.top, **common)

    got = execute(
        program,
        {"data": data, "low": data - 4, "zero": zero, "four": four},
        {"dst": ((1, 4), "float32"), "top": ((1, 1), "float32")},
    )
    assert got["top"].tolist() == [[5]]


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"on_false_value": 0.0}, "range_select.fill"),
        ({"on_false_value": -1e38}, "range_select.fill"),
        ({"comp_op0": nl.not_equal}, "operator.class"),
        ({"reduce_op": nl.add}, "operator.class"),
        ({"range_start": 2**24}, "range_select.start"),
        ({"range_start": 1.5}, "range_select.start"),
        ({"bound0": "narrow"}, "operand.dtype"),
        ({"bound1": 3.0}, "operand.dtype"),
        ({"on_true_tile": "whole"}, "operand.dtype"),
        ({"reduce_cmd": CMD.load_reduce}, "reduce_cmd"),
        ({"reduce_cmd": CMD.reduce}, "accumulator.undefined"),
        ({"reduce_cmd": CMD.idle, "reduce_res": "top"}, "accumulator.idle"),
    ],
)
def test_range_select_refuses(arguments: dict[str, Any], rule: str) -> None:
    bound = np.zeros((2, 1), np.float32)
    inputs = {
        "data": np.ones((2, 4), np.float32),
        "whole": np.ones((2, 4), np.int32),
        "bound": bound,
        "narrow": stored(bound, "bfloat16"),
    }
    base = {
        "on_true_tile": "data",
        "comp_op0": nl.less,
        "comp_op1": nl.less,
        "bound0": "bound",
        "bound1": "bound",
        "reduce_res": None,
    }

    def program(t: Any) -> None:
        named = {**base, **arguments}
        nisa.range_select(dst=t.dst, **{key: getattr(t, v) if isinstance(v, str) else v for key, v in named.items()})

    outputs = {"dst": ((2, 4), "float32"), "top": ((2, 1), "float32")}
    assert refused(program, inputs, outputs).rule == rule


def test_range_select_takes_the_python_float_of_fp32_min_and_needs_gen3() -> None:
    data, bound = np.ones((2, 4), np.float32), np.full((2, 1), 2, np.float32)
    got = ranged(data, bound, bound, "float32", on_false_value=-3.4028235e38, psum=("data", "dst"))
    assert (got["dst"] == FP32_MIN).all()
    error = refused(
        lambda t: nisa.range_select(
            dst=t.dst, on_true_tile=t.data, comp_op0=nl.less, comp_op1=nl.less, bound0=t.bound, bound1=t.bound
        ),
        {"data": data, "bound": bound},
        {"dst": ((2, 4), "float32")},
        generation="gen2",
    )
    assert error.rule == "generation"


# --- select_reduce ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("predicate_dtype", ["int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("on_false", [-2.5, "vector"])
def test_select_reduce_chooses(predicate_dtype: str, on_false: Any, reverse: bool) -> None:
    data = numbers("bfloat16", (16, 12))
    data = np.where(np.isnan(floats(data)), data.dtype.type(3), data)
    predicate = np.random.default_rng(0).integers(0, 3, (16, 3, 4)).astype(predicate_dtype)
    vector = numbers("bfloat16", (16, 1), 5)
    vector = np.where(np.isnan(floats(vector)), vector.dtype.type(1), vector)
    got = execute(
        lambda t: nisa.select_reduce(
            t.dst,
            t.predicate,
            t.data,
            t.vector if on_false == "vector" else on_false,
            reduce_res=t.top,
            reduce_cmd=CMD.reset_reduce,
            reverse_pred=reverse,
        ),
        {"data": data, "predicate": predicate, "vector": vector},
        {"dst": ((16, 12), "float16"), "top": ((16, 1), "float32")},
    )
    taken = (predicate.reshape(16, 12) != 0) != reverse
    chosen = np.where(taken, floats(data), floats(vector) if on_false == "vector" else np.float32(-2.5))
    assert_same(got["dst"], stored(chosen, "float16"))
    assert_same(got["top"], chosen.max(axis=1)[:, None])


def test_an_idle_instruction_leaves_the_accumulator_undefined() -> None:
    inputs = {"data": np.ones((2, 4), np.float32), "predicate": np.ones((2, 4), np.uint8)}

    def program(t: Any, idle: bool) -> None:
        nisa.select_reduce(t.dst, t.predicate, t.data, 0.0, reduce_cmd=CMD.reset_reduce)
        if idle:
            nisa.select_reduce(t.dst, t.predicate, t.data, 0.0)
        nisa.select_reduce(t.dst, t.predicate, t.data, 0.0, reduce_res=t.top, reduce_cmd=CMD.reduce)

    outputs = {"dst": ((2, 4), "float32"), "top": ((2, 1), "float32")}
    assert (execute(lambda t: program(t, False), inputs, outputs)["top"] == 1).all()
    assert refused(lambda t: program(t, True), inputs, outputs).rule == "accumulator.undefined"


def test_an_undefined_accumulator_is_nan_where_checks_are_no_errors() -> None:
    inputs = {"data": np.ones((2, 4), np.float32), "predicate": np.ones((2, 4), np.uint8)}
    outputs = {"dst": ((2, 4), "float32"), "top": ((2, 1), "float32")}

    def program(t: Any) -> None:
        nisa.select_reduce(t.dst, t.predicate, t.data, 0.0, reduce_res=t.top, reduce_cmd=CMD.reduce)

    assert np.isnan(execute(program, inputs, outputs, checks="off")["top"]).all()
    with pytest.warns(MachineWarning, match="register of lane 0 is undefined"):
        assert np.isnan(execute(program, inputs, outputs, checks="warn")["top"]).all()


def test_the_vector_accumulator_is_shared() -> None:
    data = np.array([[1, 2, 3, 4]], np.float32)
    inputs = {"data": data, "predicate": np.ones((1, 4), np.uint8)}

    def program(t: Any) -> None:
        nisa.tensor_scalar_reduce(t.dst, t.data, nl.add, 0.0, nl.add)
        nisa.select_reduce(t.dst, t.predicate, t.data, 0.0, reduce_res=t.top, reduce_cmd=CMD.reduce)

    got = execute(program, inputs, {"dst": ((1, 4), "float32"), "top": ((1, 1), "float32")})
    assert got["top"].tolist() == [[10]]


@pytest.mark.parametrize(
    ("source", "predicate", "result", "arguments", "psum", "rule"),
    [
        ("int32", "uint8", "float32", {}, (), "operand.dtype"),
        ("float32", "uint32", "float32", {}, (), "operand.dtype"),
        ("float32", "float32", "float32", {}, (), "operand.dtype"),
        ("float32", "uint8", "int32", {"reduce_cmd": CMD.reset_reduce}, (), "operand.dtype"),
        ("float32", "uint8", "float32", {"reduce_cmd": CMD.load_reduce}, (), "reduce_cmd"),
        ("float32", "uint8", "float32", {"reduce_op": nl.minimum}, (), "operator.class"),
        ("float32", "uint8", "float32", {}, ("data", "predicate"), "operand.psum"),
    ],
)
def test_select_reduce_refuses(
    source: str, predicate: str, result: str, arguments: dict[str, Any], psum: Any, rule: str
) -> None:
    error = refused(
        lambda t: nisa.select_reduce(t.dst, t.predicate, t.data, 0.0, reduce_res=t.top, **arguments),
        {"data": np.ones((2, 4), source), "predicate": np.ones((2, 4), predicate)},
        {"dst": ((2, 4), "float32"), "top": ((2, 1), result)},
        psum=psum,
    )
    assert error.rule == rule


@pytest.mark.parametrize("dtype", [name for name in FLOATS if name != "tfloat32"])
def test_select_reduce_takes_every_float_but_tf32(dtype: str) -> None:
    data = numbers(dtype, (4, 8))
    got = execute(
        lambda t: nisa.select_reduce(t.dst, t.predicate, t.data, 0.0),
        {"data": data, "predicate": np.ones((4, 8), np.uint8)},
        {"dst": ((4, 8), dtype)},
    )["dst"]
    assert_same(got, data)
