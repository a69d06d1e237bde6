"""Claim: tensor_scalar and scalar_tensor_tensor apply two operators with a fp32 rounding after each, in the
order asked for, on the engines that have them; reciprocal is the fp32 quotient.

Expected values are NumPy float32 operations, exact fractions for the fused candidates, and Python integers.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.test_tensor_tensor import BIT_OPS, FORMULAS
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

OPERATORS = {name: getattr(nl, name) for name in FORMULAS}


def scaled(data: Any, dtype: str, *, extra: dict[str, Any] | None = None, **arguments: Any) -> Array:
    """tensor_scalar; operand0 / operand1 may name a tile of `extra`."""
    settings = {key: arguments.pop(key) for key in ("psum", "generation", "profile") if key in arguments}
    array = data[0] if isinstance(data, tuple) else data

    def program(t: Any) -> None:
        named = {key: getattr(t, value) if isinstance(value, str) else value for key, value in arguments.items()}
        nisa.tensor_scalar(dst=t.dst, data=t.data, **named)

    return execute(program, {"data": data, **(extra or {})}, {"dst": (array.shape, dtype)}, **settings)["dst"]


def refusal_of(data: Any, dtype: str, *, extra: dict[str, Any] | None = None, **arguments: Any) -> Any:
    settings = {key: arguments.pop(key) for key in ("psum", "generation", "profile") if key in arguments}
    array = data[0] if isinstance(data, tuple) else data

    def program(t: Any) -> None:
        named = {key: getattr(t, value) if isinstance(value, str) else value for key, value in arguments.items()}
        nisa.tensor_scalar(dst=t.dst, data=t.data, **named)

    return refused(program, {"data": data, **(extra or {})}, {"dst": (array.shape, dtype)}, **settings)


def apply32(op: str, left: Any, right: Any) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(FORMULAS[op](np.float32(left), np.float32(right)), np.float32)


# --- two operators ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("op1", ["add", "subtract", "maximum", "less", None])
@pytest.mark.parametrize("op0", FORMULAS)
def test_operators_follow_each_other_in_fp32(op0: str, op1: str | None, reverse: tuple[bool, bool]) -> None:
    data, vector = numbers("float32", (16, 32), 1), numbers("float32", (16, 1), 2)
    arguments: dict[str, Any] = {"op0": OPERATORS[op0], "operand0": 1.3, "reverse0": reverse[0]}
    pair = (np.float32(1.3), data) if reverse[0] else (data, np.float32(1.3))
    expected = apply32(op0, *pair)
    if op1 is not None:
        arguments |= {"op1": OPERATORS[op1], "operand1": "vector", "reverse1": reverse[1]}
        expected = apply32(op1, *((vector, expected) if reverse[1] else (expected, vector)))
    got = scaled(data, "float32", extra={"vector": vector}, **arguments)
    assert_same(got, expected + np.zeros_like(data) if expected.shape != data.shape else expected, f"{op0} {op1}")


@pytest.mark.parametrize("dtype", NUMERIC)
@pytest.mark.parametrize("source", NUMERIC)
def test_every_pair_of_dtypes_passes_fp32_once(source: str, dtype: str) -> None:
    data = numbers(source, (16, 16))
    got = scaled((data, source), dtype, op0=nl.multiply, operand0=0.75, op1=nl.add, operand1=-1.5)
    with np.errstate(all="ignore"):
        expected = floats(data, source) * np.float32(0.75) + np.float32(-1.5)
    assert_same(got, stored(expected, dtype), f"{source} -> {dtype}")


@pytest.mark.parametrize("operand", ["float32", "bfloat16", "float16", "int32", "uint8", "int16"])
@pytest.mark.parametrize("psum", [(), ("vector",), ("data",), ("dst", "data", "vector")])
def test_vector_operands_of_any_dtype_and_place(operand: str, psum: tuple[str, ...]) -> None:
    data, vector = numbers("bfloat16", (32, 8), 1), numbers(operand, (32, 1), 2)
    got = scaled(data, "float32", extra={"vector": vector}, op0=nl.multiply, operand0="vector", psum=psum)
    with np.errstate(all="ignore"):
        assert_same(got, floats(data) * floats(vector))


def test_multiply_and_add_round_twice_unless_the_profile_fuses_them() -> None:
    x = np.float32(1 + 2.0**-12)
    arguments = {"op0": nl.multiply, "operand0": float(x), "op1": nl.add, "operand1": -(1 + 2.0**-11)}
    data = np.array([[x]], np.float32)
    assert scaled(data, "float32", **arguments).tolist() == [[0.0]]
    assert scaled(data, "float32", profile=DEFAULT.replace(fma_vector=True), **arguments).tolist() == [[2.0**-24]]
    on_scalar = {**arguments, "engine": nisa.scalar_engine}
    assert scaled(data, "float32", profile=DEFAULT.replace(fma_vector=True), **on_scalar).tolist() == [[0.0]]
    assert scaled(data, "float32", profile=DEFAULT.replace(fma_scalar=True), **on_scalar).tolist() == [[2.0**-24]]


@pytest.mark.parametrize("reverse1", [False, True])
@pytest.mark.parametrize("op1", ["add", "subtract"])
def test_the_fused_candidate_is_the_exact_value_rounded_once(op1: str, reverse1: bool) -> None:
    rng = np.random.default_rng(3)
    data = (1 + rng.integers(0, 2**10, (4, 64)) * 2.0**-10).astype(np.float32)
    factor, term = np.float32(1 + 3 * 2.0**-12), np.float32(-1.2000001)
    got = scaled(
        data,
        "float32",
        profile=DEFAULT.replace(fma_vector=True),
        op0=nl.multiply,
        operand0=float(factor),
        op1=OPERATORS[op1],
        operand1=float(term),
        reverse1=reverse1,
    )
    sign = {("add", False): (1, 1), ("add", True): (1, 1), ("subtract", False): (1, -1)}.get((op1, reverse1), (-1, 1))
    expected = [
        nearest32(sign[0] * Fraction(float(x)) * Fraction(float(factor)) + sign[1] * Fraction(float(term)))
        for x in data.ravel()
    ]
    assert_same(got, np.array(expected, np.float32).reshape(data.shape))


def nearest32(value: Fraction) -> np.float32:
    """The float32 nearest to an exact value, ties to even."""
    guess = np.float32(float(value))
    around = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(around, key=lambda y: (abs(Fraction(float(y)) - value), int(y.view(np.uint32)) & 1))


def test_no_rounding_to_the_destination_in_between() -> None:
    data = np.array([[1.0]], np.float32).astype("bfloat16")
    got = scaled(data, "bfloat16", op0=nl.add, operand0=2.0**-9, op1=nl.subtract, operand1=1.0)
    assert float(got[0, 0]) == 2.0**-9


# --- unary operators --------------------------------------------------------------------------------------


@pytest.mark.parametrize("operand", [None, 0, 0.0])
def test_unary_operators_stand_first(operand: Any) -> None:
    data = numbers("float32", (8, 32))
    assert_same(scaled(data, "float32", op0=nl.abs, operand0=operand), np.abs(data))
    got = scaled(data, "float32", op0=nl.abs, operand0=operand, op1=nl.maximum, operand1=1.0)
    assert_same(got, np.maximum(np.abs(data), np.float32(1)))
    with np.errstate(all="ignore"):
        assert_same(scaled(data, "float32", op0=nl.reciprocal, operand0=operand), np.float32(1) / data)


def test_rsqrt_is_correctly_rounded_and_may_run_on_gpsimd() -> None:
    data = np.abs(numbers("float32", (8, 64)))
    data = np.where(data == 0, np.float32(4), data)
    got = scaled(data, "float32", op0=nl.rsqrt, operand0=None, engine=nisa.gpsimd_engine)
    for x, y in zip(data.ravel(), got.ravel(), strict=True):
        if np.isfinite(x):
            # y is nearest iff the midpoints to its neighbours enclose 1/sqrt(x): compare squares exactly.
            low = (Fraction(float(y)) + Fraction(float(np.nextafter(y, np.float32(0))))) / 2
            high = (Fraction(float(y)) + Fraction(float(np.nextafter(y, np.float32(np.inf))))) / 2
            assert low * low * Fraction(float(x)) <= 1 <= high * high * Fraction(float(x)), float(x)
        else:
            assert y == 0 or np.isnan(x)
    assert refusal_of(data, "float32", op0=nl.rsqrt, operand0=None, engine=nisa.gpsimd_engine, psum=("data",)).rule == (
        "operand.memory"
    )


@pytest.mark.parametrize(("op", "formula"), [("square", lambda x: x * x), ("relu", lambda x: np.where(x <= 0, 0, x))])
def test_square_and_relu_are_operators_from_gen4_on(op: str, formula: Any) -> None:
    data = numbers("float16", (4, 64))
    with np.errstate(all="ignore"):
        expected = formula(floats(data)).astype(np.float32)
    assert_same(scaled(data, "float32", op0=getattr(nl, op), operand0=None, generation="gen4"), expected)
    assert refusal_of(data, "float32", op0=getattr(nl, op), operand0=None).rule == "operator.generation"


def test_the_profile_moves_inexact_reciprocals() -> None:
    data = np.array([[2, 3, 5, 0.25]], np.float32)
    up = scaled(
        data,
        "float32",
        op0=nl.reciprocal,
        operand0=None,
        profile=DEFAULT.replace(reciprocal_accuracy="ulp_up"),
    )
    exact = np.float32(1) / data
    expected = np.where([[True, False, False, True]], exact, np.nextafter(exact, np.float32(np.inf)))
    assert_same(up, expected)


# --- bit patterns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op", BIT_OPS)
def test_bit_patterns_with_immediates(op: str, dtype: str) -> None:
    data = numbers(dtype, (8, 64))
    width, unsigned = 8 * data.dtype.itemsize, f"u{data.dtype.itemsize}"
    immediate = 3 if op.endswith("shift") else (1 << (width - 1)) | 5
    got = scaled(data, dtype, op0=getattr(nl, op), operand0=immediate, op1=nl.bitwise_xor, operand1=1)
    codes = [BIT_OPS[op](x, immediate, width) ^ 1 for x in data.view(unsigned).ravel().tolist()]
    assert_same(got, np.array(codes, unsigned).view(dtype).reshape(data.shape), op)


def test_right_shift_is_logical_and_reversed_shifts_shift_the_immediate() -> None:
    data = np.array([[-1, -8, 4, 33]], np.int32)
    assert scaled(data, "int32", op0=nl.right_shift, operand0=28).tolist() == [[15, 15, 0, 0]]
    got = scaled(data[:, 2:], "int32", op0=nl.left_shift, operand0=3, reverse0=True)
    assert got.tolist() == [[48, 0]]


def test_invert_takes_no_second_operand() -> None:
    data = numbers("int16", (4, 8))
    assert_same(scaled(data, "int16", op0=nl.invert, operand0=None), ~data)
    assert refusal_of(data, "int16", op0=nl.invert, operand0=5).rule == "operator.unary"


def test_bit_vectors_take_vectors_of_the_same_width() -> None:
    data, mask = numbers("uint16", (8, 16)), numbers("uint16", (8, 1), 9)
    got = scaled(data, "uint16", extra={"mask": mask}, op0=nl.bitwise_and, operand0="mask")
    assert_same(got, data & mask)
    wide = {"mask": mask.astype(np.uint32)}
    assert refusal_of(data, "uint16", extra=wide, op0=nl.bitwise_and, operand0="mask").rule == "operand.dtype"


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"op0": nl.bitwise_and, "operand0": 1.5}, "operand.scalar"),
        ({"op0": nl.bitwise_and, "operand0": 1 << 16}, "operand.scalar"),
        ({"op0": nl.bitwise_and, "operand0": 1, "op1": nl.add, "operand1": 1}, "operator.class"),
        ({"op0": nl.bitwise_and, "operand0": 1, "engine": nisa.scalar_engine}, "engine"),
        ({"op0": nl.add, "operand0": None}, "operator.binary"),
        ({"op0": nl.add, "operand0": 1, "operand1": 2}, "operator.binary"),
        ({"op0": nl.add, "operand0": 1, "op1": nl.multiply}, "operator.binary"),
        ({"op0": nl.abs, "operand0": 2}, "operator.unary"),
        ({"op0": nl.average, "operand0": 2}, "operator.class"),
        ({"op0": nl.exp, "operand0": None}, "operator.unknown"),
    ],
)
def test_malformed_operators_are_refused(arguments: dict[str, Any], rule: str) -> None:
    assert refusal_of(np.ones((2, 2), np.uint16), "uint16", **arguments).rule == rule


# --- int32 (V11) ------------------------------------------------------------------------------------------


def test_words_go_through_fp32_unless_the_profile_says_native() -> None:
    data = np.array([[2**24 + 1, -(2**31), 2**31 - 1]], np.int32)
    arguments = {"op0": nl.add, "operand0": 2, "op1": nl.multiply, "operand1": 1}
    assert scaled(data, "int32", **arguments).tolist() == [[2**24 + 2, -(2**31), 2**31 - 1]]
    native = DEFAULT.replace(int32_tensor_scalar="native")
    assert scaled(data, "int32", profile=native, **arguments).tolist() == [[2**24 + 3, -(2**31) + 2, -(2**31) + 1]]
    # A float immediate, or a tile of another dtype, keeps the fp32 path.
    assert scaled(data, "int32", profile=native, op0=nl.add, operand0=2.0).tolist()[0][0] == 2**24 + 2
    assert scaled(data, "float32", profile=native, op0=nl.add, operand0=2).tolist()[0][0] == 2**24 + 2


def test_native_words_keep_a_negative_intermediate() -> None:
    data = np.array([[3, 10]], np.int32)
    for profile in (DEFAULT, DEFAULT.replace(int32_tensor_scalar="native")):
        got = scaled(data, "uint32", profile=profile, op0=nl.subtract, operand0=7, op1=nl.maximum, operand1=0)
        assert got.tolist() == [[0, 3]]


def test_integer_chains_below_2_to_24_are_exact() -> None:
    data = np.arange(-64, 64, dtype=np.int32).reshape(8, 16)
    got = scaled(data, "int32", op0=nl.minimum, operand0=10, op1=nl.multiply, operand1=1000)
    assert_same(got, (np.minimum(data, 10) * 1000).astype(np.int32))
    assert_same(scaled(data, "uint8", op0=nl.less_equal, operand0=0), (data <= 0).astype(np.uint8))


# --- engines ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op0", "op1", "generation", "legal"),
    [
        ("multiply", "add", "gen3", True),
        ("multiply", None, "gen3", True),
        ("add", None, "gen3", True),
        ("add", "multiply", "gen3", False),
        ("subtract", None, "gen3", False),
        ("multiply", "add", "gen2", False),
        ("add", "multiply", "gen4", True),
        ("maximum", None, "gen4", True),
    ],
)
def test_the_scalar_engine_has_few_combinations(op0: str, op1: str | None, generation: str, legal: bool) -> None:
    data = numbers("float32", (4, 8))
    arguments: dict[str, Any] = {"op0": OPERATORS[op0], "operand0": 2.0, "engine": nisa.scalar_engine}
    if op1:
        arguments |= {"op1": OPERATORS[op1], "operand1": 3.0}
    if not legal:
        assert refusal_of(data, "float32", generation=generation, **arguments).rule == "engine"
        return
    expected = apply32(op0, data, np.float32(2))
    expected = apply32(op1, expected, np.float32(3)) if op1 else expected
    assert_same(scaled(data, "float32", generation=generation, **arguments), expected)


def test_gpsimd_executes_rsqrt_alone() -> None:
    ones = np.ones((2, 2), np.float32)
    assert refusal_of(ones, "float32", op0=nl.add, operand0=1, engine=nisa.gpsimd_engine).rule == "engine"


@pytest.mark.parametrize("shape", [(4, 2), (3, 1), (1, 1)])
def test_vector_operands_have_one_element_per_partition(shape: tuple[int, int]) -> None:
    vector = np.ones(shape, np.float32)
    error = refusal_of(np.ones((4, 8), np.float32), "float32", extra={"v": vector}, op0=nl.add, operand0="v")
    assert error.rule == "operand.vector"
    assert "(P, 1)" in str(error)


# --- scalar_tensor_tensor and reciprocal ------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [(False, False), (True, True)])
@pytest.mark.parametrize("op1", ["add", "multiply", "subtract", "minimum"])
@pytest.mark.parametrize("op0", ["multiply", "subtract", "maximum", "greater"])
def test_scalar_tensor_tensor(op0: str, op1: str, reverse: tuple[bool, bool]) -> None:
    data, tile, vector = (
        numbers("bfloat16", (16, 32), 1),
        numbers("float32", (16, 32), 2),
        numbers("float32", (16, 1), 3),
    )
    for operand, value in (("vector", vector), (0.3, np.float32(0.3))):
        got = execute(
            lambda t, operand=operand: nisa.scalar_tensor_tensor(
                dst=t.dst,
                data=t.data,
                op0=OPERATORS[op0],
                operand0=getattr(t, operand) if isinstance(operand, str) else operand,
                op1=OPERATORS[op1],
                operand1=t.tile,
                reverse0=reverse[0],
                reverse1=reverse[1],
            ),
            {"data": data, "tile": tile, "vector": vector},
            {"dst": ((16, 32), "float16")},
        )["dst"]
        inner = apply32(op0, *((value, floats(data)) if reverse[0] else (floats(data), value)))
        expected = apply32(op1, *((tile, inner) if reverse[1] else (inner, tile)))
        assert_same(got, stored(expected, "float16"))


def test_scalar_tensor_tensor_fuses_by_profile() -> None:
    x = np.array([[1 + 2.0**-12]], np.float32)
    tile = np.array([[-(1 + 2.0**-11)]], np.float32)
    for fused, expected in ((False, 0.0), (True, 2.0**-24)):
        got = execute(
            lambda t: nisa.scalar_tensor_tensor(t.dst, t.x, nl.multiply, float(x[0, 0]), nl.add, t.tile),
            {"x": x, "tile": tile},
            {"dst": ((1, 1), "float32")},
            profile=DEFAULT.replace(fma_vector=fused),
        )["dst"]
        assert got.tolist() == [[expected]]


@pytest.mark.parametrize(
    ("op0", "op1", "psum", "rule"),
    [
        ("add", "add", ("data", "tile"), "operand.psum"),
        ("bitwise_and", "add", (), "operator.class"),
        ("add", "bitwise_or", (), "operator.class"),
        ("add", "rsqrt", (), "operator.class"),
    ],
)
def test_scalar_tensor_tensor_refuses(op0: str, op1: str, psum: tuple[str, ...], rule: str) -> None:
    ones = np.ones((4, 4), np.float32)
    error = refused(
        lambda t: nisa.scalar_tensor_tensor(t.dst, t.data, getattr(nl, op0), 1, getattr(nl, op1), t.tile),
        {"data": ones, "tile": ones},
        {"dst": ((4, 4), "float32")},
        psum=psum,
    )
    assert error.rule == rule


@pytest.mark.parametrize("dtype", NUMERIC)
def test_reciprocal_is_the_fp32_quotient(dtype: str) -> None:
    data = numbers(dtype, (64, 1024))
    got = execute(lambda t: nisa.reciprocal(t.dst, t.data), {"data": (data, dtype)}, {"dst": ((64, 1024), "float32")})[
        "dst"
    ]
    with np.errstate(all="ignore"):
        assert_same(got, np.float32(1) / floats(data, dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_reciprocal_of_every_16_bit_code(dtype: str) -> None:
    data = np.arange(65536, dtype=np.uint16).reshape(128, 512).view(numbers(dtype, (1, 1)).dtype)
    got = execute(
        lambda t: nisa.reciprocal(t.dst, t.data), {"data": data}, {"dst": ((128, 512), dtype)}, psum=("data",)
    )
    with np.errstate(all="ignore"):
        assert_same(got["dst"], stored(np.float32(1) / floats(data), dtype))


def test_large_tiles_take_vector_operands_row_by_row() -> None:
    data, vector = numbers("bfloat16", (128, 2048), 1), numbers("float32", (128, 1), 2)
    got = scaled(
        data,
        "float32",
        extra={"vector": vector},
        op0=nl.multiply,
        operand0="vector",
        op1=nl.add,
        operand1="vector",
    )
    with np.errstate(all="ignore"):
        assert_same(got, floats(data) * vector + vector)
