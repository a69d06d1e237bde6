"""Claim: tensor_tensor computes every operator in fp32 with one rounding, exactly on 32-bit integers on
GpSimd, and on raw patterns for bit-vector operators.

Expected values are NumPy float32 operations (IEEE 754), Python integers, and formulas written here.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest

from conformance.tests.machine.bench import out, run, tile
from conformance.tests.machine.tiles import (
    INTEGERS,
    NUMERIC,
    SPECIAL,
    Array,
    assert_same,
    execute,
    floats,
    numbers,
    refused,
    stored,
)
from reference.neuroncore.options import Options
from reference.numerics.profile import DEFAULT

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip


def first_of_zeros(chosen: Any, a: Array, b: Array) -> Array:
    """Maxima and minima: NaN propagates and the first of two zeros stays (profile V5)."""
    return np.where((a == 0) & (b == 0), a, chosen(a, b))


FORMULAS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "maximum": lambda a, b: first_of_zeros(np.maximum, a, b),
    "minimum": lambda a, b: first_of_zeros(np.minimum, a, b),
    "equal": lambda a, b: np.where(a == b, 1, 0),
    "not_equal": lambda a, b: np.where(a == b, 0, 1),
    "greater": lambda a, b: np.where(a > b, 1, 0),
    "greater_equal": lambda a, b: np.where(a >= b, 1, 0),
    "less": lambda a, b: np.where(a < b, 1, 0),
    "less_equal": lambda a, b: np.where(a <= b, 1, 0),
    "logical_and": lambda a, b: np.where((a != 0) & (b != 0), 1, 0),
    "logical_or": lambda a, b: np.where((a != 0) | (b != 0), 1, 0),
    "logical_xor": lambda a, b: np.where((a != 0) ^ (b != 0), 1, 0),
}
MIXES = [
    ("float32", "float32", "float32"),
    ("bfloat16", "bfloat16", "bfloat16"),
    ("float16", "bfloat16", "float8_e4m3"),
    ("float8_e5m2", "float8_e4m3fn", "float16"),
    ("tfloat32", "float32", "tfloat32"),
    ("int8", "uint8", "int16"),
    ("int16", "float32", "uint16"),
    ("uint32", "bool_", "float32"),
    ("int32", "bfloat16", "int32"),
    ("float32", "float32", "bool_"),
]


def combined(a: Any, b: Any, dtype: str, op: str, **options: Any) -> Array:
    engine = options.pop("engine", nisa.engine.unknown)
    array = a[0] if isinstance(a, tuple) else a
    return execute(
        lambda t: nisa.tensor_tensor(t.dst, t.a, t.b, getattr(nl, op), engine=engine),
        {"a": a, "b": b},
        {"dst": (array.shape, dtype)},
        **options,
    )["dst"]


# --- fp32 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", MIXES, ids="-".join)
@pytest.mark.parametrize("op", FORMULAS)
def test_arithmetic_is_fp32_with_one_rounding(op: str, mix: tuple[str, str, str]) -> None:
    left, right, dtype = mix
    a, b = numbers(left, (32, 64), 1), numbers(right, (32, 64), 2)
    got = combined((a, left), (b, right), dtype, op)
    with np.errstate(all="ignore"):
        expected = FORMULAS[op](floats(a, left), floats(b, right))
    assert_same(got, stored(expected.astype(np.float32), dtype), op)


@pytest.mark.parametrize("op", FORMULAS)
def test_every_pair_of_special_values(op: str) -> None:
    a, b = (x.astype(np.float32) for x in np.meshgrid(SPECIAL, SPECIAL, indexing="ij"))
    with np.errstate(all="ignore"):
        expected = FORMULAS[op](a, b).astype(np.float32)
    assert_same(combined(a, b, "float32", op), expected, op)


@pytest.mark.parametrize("op", ["abs_max", "abs_min"])
def test_magnitudes_compare_and_signs_stay_on_gen4(op: str) -> None:
    a = np.array([[1, -3, 2, -2, 0.0, -0.0, np.inf]], np.float32)
    b = np.array([[-2, 2, -2, 2, -0.0, 0.0, -5]], np.float32)
    expected = {"abs_max": [-2, -3, -2, 2, -0.0, 0.0, np.inf], "abs_min": [1, 2, -2, 2, -0.0, 0.0, -5]}[op]
    assert_same(combined(a, b, "float32", op, generation="gen4"), np.array([expected], np.float32))
    error = refused(
        lambda t: nisa.tensor_tensor(t.dst, t.a, t.b, getattr(nl, op)),
        {"a": a, "b": b},
        {"dst": ((1, 7), "float32")},
    )
    assert error.rule == "operator.generation"
    assert "NeuronCore-v4" in str(error)


def test_power_is_correctly_rounded_and_runs_on_gpsimd() -> None:
    rng = np.random.default_rng(0)
    a = np.abs(rng.standard_normal((8, 16))).astype(np.float32)
    b = (rng.standard_normal((8, 16)) * 4).astype(np.float32)
    a[0, :4], b[0, :4] = [2, 0, 3, -2], [0.5, 2, 4, 3]
    with mpmath.workdps(60):
        exact = [mpmath.mpf(float(x)) ** mpmath.mpf(float(y)) for x, y in zip(a.ravel(), b.ravel(), strict=True)]
        # Doubles bracket the real power; both round to one float32 unless it is a tie, and there is none
        # here.
        low, high = (np.array([float(v * (1 + s * mpmath.mpf(2) ** -50)) for v in exact]) for s in (-1, 1))
    expected = low.astype(np.float32)
    assert (expected == high.astype(np.float32)).mean() > 0.99
    got = combined(a, b, "float32", "power").ravel()
    assert ((got == expected) | (got == high.astype(np.float32))).all()
    outputs = {"dst": ((8, 16), "float32")}
    for engine in (nisa.vector_engine, nisa.scalar_engine):
        error = refused(
            lambda t, engine=engine: nisa.tensor_tensor(t.dst, t.a, t.b, nl.power, engine=engine),
            {"a": a, "b": b},
            outputs,
        )
        assert error.rule == "engine"
    error = refused(lambda t: nisa.tensor_tensor(t.dst, t.a, t.b, nl.power), {"a": a, "b": b}, outputs, psum=("a",))
    assert error.rule == "operand.memory"


def test_the_profile_decides_maxima_with_nan_and_zeros() -> None:
    a = np.array([[np.nan, 1, 0.0, -0.0]], np.float32)
    b = np.array([[2, np.nan, -0.0, 0.0]], np.float32)
    cases = {
        "propagate": [np.nan, np.nan, 0.0, -0.0],
        "number": [2, 1, 0.0, -0.0],
        "second": [2, np.nan, 0.0, -0.0],
    }
    for rule, expected in cases.items():
        got = combined(a, b, "float32", "maximum", profile=DEFAULT.replace(maxmin_nan=rule))
        assert_same(got, np.array([expected], np.float32), rule)
    for rule, zeros in {"second": [-0.0, 0.0], "ieee": [0.0, 0.0]}.items():
        got = combined(a, b, "float32", "maximum", profile=DEFAULT.replace(maxmin_zero=rule))
        assert_same(got[:, 2:], np.array([zeros], np.float32), rule)


def test_subnormals_follow_the_profile() -> None:
    a, b = np.array([[2.0**-127, 2.0**-70]], np.float32), np.array([[1.0, 2.0**-70]], np.float32)
    for rule, expected in {
        "keep": [2.0**-127, 2.0**-140],
        "daz": [0, 2.0**-140],
        "ftz": [0, 0],
        "daz_ftz": [0, 0],
    }.items():
        got = combined(a, b, "float32", "multiply", profile=DEFAULT.replace(subnormals_alu=rule))
        assert_same(got, np.array([expected], np.float32), rule)


# --- 32-bit integers --------------------------------------------------------------------------------------

WORD_OPS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "maximum": max,
    "minimum": min,
    "equal": lambda a, b: int(a == b),
    "less": lambda a, b: int(a < b),
    "greater_equal": lambda a, b: int(a >= b),
    "logical_xor": lambda a, b: int(bool(a) ^ bool(b)),
}


def python_words(op: str, a: Array, b: Array, dtype: str) -> Array:
    """Python integers modulo 2^32."""
    values = [WORD_OPS[op](int(x), int(y)) % 2**32 for x, y in zip(a.ravel(), b.ravel(), strict=True)]
    return np.array(values, np.uint64).astype(np.uint32).view(dtype).reshape(a.shape)


@pytest.mark.parametrize(
    "dtypes", [("int32", "int32", "int32"), ("uint32", "uint32", "uint32"), ("int32", "uint32", "int32")]
)
@pytest.mark.parametrize("op", WORD_OPS)
def test_words_are_exact_modulo_2_to_32(op: str, dtypes: tuple[str, str, str]) -> None:
    a, b = numbers(dtypes[0], (16, 32), 3), numbers(dtypes[1], (16, 32), 4)
    assert_same(combined(a, b, dtypes[2], op), python_words(op, a, b, dtypes[2]), op)


def test_words_saturate_where_the_profile_says() -> None:
    a, b = np.array([[2**31 - 1, -(2**31)]], np.int32), np.array([[1, -1]], np.int32)
    got = combined(a, b, "int32", "add", profile=DEFAULT.replace(int_overflow="saturate"))
    assert got.tolist() == [[2**31 - 1, -(2**31)]]
    assert combined(a, b, "int32", "add").tolist() == [[-(2**31), 2**31 - 1]]


def test_words_go_through_fp32_on_the_vector_engine_and_in_psum() -> None:
    a, b = np.array([[2**24 + 1]], np.int32), np.array([[2]], np.int32)
    assert combined(a, b, "int32", "add").tolist() == [[2**24 + 3]]
    rounded = [[2**24 + 2]]
    assert combined(a, b, "int32", "add", engine=nisa.vector_engine).tolist() == rounded
    for psum in ("a", "dst"):
        assert combined(a, b, "int32", "add", psum=(psum,)).tolist() == rounded
    # One operand of another dtype is enough.
    assert combined(a, b.astype(np.int16), "int32", "add").tolist() == rounded


# --- bit patterns -----------------------------------------------------------------------------------------

BIT_OPS = {
    "bitwise_and": lambda a, b, w: a & b,
    "bitwise_or": lambda a, b, w: a | b,
    "bitwise_xor": lambda a, b, w: a ^ b,
    "left_shift": lambda a, b, w: (a << b) % 2**w if b < w else 0,
    "right_shift": lambda a, b, w: a >> b if b < w else 0,
}


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op", BIT_OPS)
def test_bit_patterns_are_combined_without_a_cast(op: str, dtype: str) -> None:
    a, b = numbers(dtype, (16, 64), 5), numbers(dtype, (16, 64), 6)
    width = 8 * a.dtype.itemsize
    if op.endswith("shift"):
        b = (b.view(f"u{a.dtype.itemsize}") % (width + 3)).view(b.dtype)
    unsigned = f"u{a.dtype.itemsize}"
    pairs = zip(a.view(unsigned).ravel().tolist(), b.view(unsigned).ravel().tolist(), strict=True)
    expected = np.array([BIT_OPS[op](x, y, width) for x, y in pairs], unsigned).view(a.dtype).reshape(a.shape)
    assert_same(combined(a, b, dtype, op), expected, op)


@pytest.mark.parametrize(
    ("left", "right", "dtype"),
    [("float32", "float32", "float32"), ("int32", "int16", "int32"), ("int8", "int8", "int16")],
)
def test_bit_patterns_need_integers_of_one_width(left: str, right: str, dtype: str) -> None:
    error = refused(
        lambda t: nisa.tensor_tensor(t.dst, t.a, t.b, nl.bitwise_and),
        {"a": numbers(left, (2, 2)), "b": numbers(right, (2, 2))},
        {"dst": ((2, 2), dtype)},
    )
    assert error.rule == "operand.dtype"


# --- operand rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("psum", [("a",), ("b",), ("dst",), ("a", "dst"), ("b", "dst")])
def test_one_input_and_the_output_may_be_in_psum(psum: tuple[str, ...]) -> None:
    a, b = numbers("float32", (32, 16), 1), numbers("float32", (32, 16), 2)
    with np.errstate(all="ignore"):
        assert_same(combined(a, b, "float32", "multiply", psum=psum), a * b)


def test_both_inputs_in_psum_are_refused() -> None:
    ones = np.ones((4, 4), np.float32)
    error = refused(
        lambda t: nisa.tensor_tensor(t.dst, t.a, t.b, nl.add),
        {"a": ones, "b": ones},
        {"dst": ((4, 4), "float32")},
        psum=("a", "b"),
    )
    assert error.rule == "operand.psum"


@pytest.mark.parametrize("shape", [(4, 1), (1, 8), (4, 7)])
def test_nothing_broadcasts(shape: tuple[int, int]) -> None:
    error = refused(
        lambda t: nisa.tensor_tensor(t.dst, t.a, t.b, nl.add),
        {"a": np.ones((4, 8), np.float32), "b": np.ones(shape, np.float32)},
        {"dst": ((4, 8), "float32")},
    )
    assert error.rule == "operand.shape"
    assert ".ap()" in str(error)


def test_a_stride_0_view_broadcasts() -> None:
    a, b = numbers("float32", (8, 12), 1), numbers("float32", (8, 1), 2)
    got = execute(
        lambda t: nisa.tensor_tensor(t.dst, t.a, t.b.ap([[1, 8], [0, 12]]), nl.add),
        {"a": a, "b": b},
        {"dst": ((8, 12), "float32")},
    )["dst"]
    with np.errstate(all="ignore"):
        assert_same(got, a + b)


def test_in_place_reads_before_it_writes() -> None:
    a = np.arange(8 * 20, dtype=np.float32).reshape(8, 20)
    got = execute(
        lambda t: nisa.tensor_tensor(t.a[:, 2:18], t.a[:, 1:17], t.a[:, 4:20], nl.subtract),
        {"a": a},
        {"a": ((8, 20), "float32")},
    )["a"]
    expected = a.copy()
    expected[:, 2:18] = a[:, 1:17] - a[:, 4:20]
    assert_same(got, expected)


def test_large_tiles_have_the_bits_of_small_ones() -> None:
    a, b = numbers("bfloat16", (128, 1024), 1), numbers("bfloat16", (128, 1024), 2)
    with np.errstate(all="ignore"):
        expected = stored(floats(a) + floats(b), "bfloat16")
    assert_same(combined(a, b, "bfloat16", "add"), expected)


@pytest.mark.parametrize(
    ("op", "rule", "remedy"),
    [
        ("divide", "operator.unknown", "reciprocal"),
        ("rsqrt", "operator.class", "tensor_scalar"),
        ("exp", "operator.unknown", "nisa.activation"),
        ("softmax", "operator.unknown", "nl.add"),
        ("bypass", "operator.generation", "NEURON_PLATFORM_TARGET_OVERRIDE"),
        ("invert", "operator.class", "tensor_scalar"),
        ("max", "operator.unknown", "nl.maximum"),
        ("logical_not", "operator.unknown", "nl.equal"),
    ],
)
def test_what_is_no_binary_operator_is_refused(op: str, rule: str, remedy: str) -> None:
    ones = np.ones((2, 2), np.int32)
    error = refused(
        lambda t: nisa.tensor_tensor(t.dst, t.a, t.b, getattr(nl, op)),
        {"a": ones, "b": ones},
        {"dst": ((2, 2), "int32")},
    )
    assert error.rule == rule
    assert remedy in (error.remedy or "")


@pytest.mark.parametrize("dtype", ["float8_e4m3fn_x4", "float8_e5m2_x4"])
def test_packed_types_hold_no_numbers(dtype: str) -> None:
    packed = (np.ones((2, 2), np.uint32), dtype)
    error = refused(lambda t: nisa.tensor_tensor(t.dst, t.a, t.a, nl.add), {"a": packed}, {"dst": ((2, 2), "float32")})
    assert error.rule == "operand.dtype"


def test_every_dtype_is_legal_on_both_sides() -> None:
    for dtype in NUMERIC:
        a = numbers(dtype, (2, 8))
        with np.errstate(all="ignore"):
            expected = stored(floats(a, dtype) * floats(a, dtype), dtype)
        if dtype in ("int32", "uint32"):
            expected = python_words("multiply", a, a, dtype)
        assert_same(combined((a, dtype), (a, dtype), dtype, "multiply"), expected, dtype)


def test_without_precise_fp_low_precision_tiles_keep_fp32() -> None:
    a, b = np.array([[1.0]], np.float32), np.array([[2.0**-20]], np.float32)

    def kernel(a: Any, b: Any) -> Any:
        x, y = tile(a), tile(b)
        total = nl.ndarray((1, 1), nl.bfloat16, nl.sbuf)
        nisa.tensor_tensor(total, x, y, nl.add)
        rest = nl.ndarray((1, 1), nl.float32, nl.sbuf)
        nisa.tensor_tensor(rest, total, x, nl.subtract)
        return out(rest)

    assert run(kernel, a, b).item() == 0
    assert run(kernel, a, b, options=Options(precise_fp=False)).item() == 2.0**-20
