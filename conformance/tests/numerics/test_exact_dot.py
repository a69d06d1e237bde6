"""The exact dot product is the correctly rounded exact sum, whatever the operands, the blocks and the BLAS.

Expected values come from `fractions.Fraction`. Adversarial inputs check that they are what they claim before
they are used. A failure prints the inputs; the seeds are in the parameters.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance.tests.numerics.fractions_reference import bits, dot, nearest_float32
from reference.numerics.exact_dot import exact_dot, exact_dot_passes
from reference.numerics.operand import Columns, Operand, set_bit_span, widen

Array = NDArray[Any]

#: The package exports the function under the name of its module.
exact_dot_module = sys.modules[exact_dot.__module__]

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [
    np.dtype(np.float32),
    BF16,
    np.dtype(np.float16),
    np.dtype(ml_dtypes.float8_e4m3),
    np.dtype(ml_dtypes.float8_e4m3fn),
    np.dtype(ml_dtypes.float8_e5m2),
]


def by_fractions(a: Array, b: Array, rounding: str = "rne") -> Array:
    """[M, N] from a [K, M], b [K, N]; scalar and exact, with the IEEE rules for NaN and infinity."""
    out = np.empty((a.shape[1], b.shape[1]), np.float32)
    left, right = a.astype(np.float32).tolist(), b.astype(np.float32).tolist()
    for m in range(a.shape[1]):
        for n in range(b.shape[1]):
            out[m, n] = _one([row[m] for row in left], [row[n] for row in right], rounding)
    return out


def _one(x: list[float], y: list[float], rounding: str) -> np.float32:
    # Products of float32 values never overflow float64, so what is not finite here is special.
    special = [p * q for p, q in zip(x, y, strict=True) if not math.isfinite(p * q)]
    return np.float32(sum(special)) if special else nearest_float32(dot(x, y), rounding)


def random_operand(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], spread: int) -> Array:
    values = rng.standard_normal(shape) * 2.0 ** rng.integers(-spread, spread + 1, shape)
    limit = float(ml_dtypes.finfo(dtype).max)
    return np.clip(values, -limit, limit).astype(np.float32).astype(dtype)


@pytest.mark.parametrize("rounding", ["rne", "rz"])
@pytest.mark.parametrize("spread", [0, 4, 40])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_dot_is_correctly_rounded(dtype: np.dtype[Any], spread: int, rounding: str):
    rng = np.random.default_rng(spread)
    for depth in (1, 2, 7, 33):
        a, b = (random_operand(rng, (depth, n), dtype, spread) for n in (3, 5))
        assert bits(exact_dot(a, b, rounding=rounding)) == bits(by_fractions(a, b, rounding))


@pytest.mark.parametrize("left", DTYPES, ids=str)
@pytest.mark.parametrize("right", DTYPES, ids=str)
def test_operands_may_differ_in_format(left: np.dtype[Any], right: np.dtype[Any]):
    rng = np.random.default_rng(7)
    a, b = random_operand(rng, (9, 4), left, 2), random_operand(rng, (9, 3), right, 2)
    assert bits(exact_dot(a, b)) == bits(by_fractions(a, b))


def codes(dtype: np.dtype[Any]) -> st.SearchStrategy[int]:
    """Bit patterns of all kinds, and often enough the few that are special."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    with np.errstate(invalid="ignore"):
        special = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0, -1.0], np.float32).astype(dtype)
    return st.one_of(st.integers(0, 2 ** (8 * dtype.itemsize) - 1), st.sampled_from(special.view(unsigned).tolist()))


@st.composite
def any_operands(draw: st.DrawFn) -> tuple[Array, Array]:
    """Operands of any bit patterns: subnormals, infinities, NaN and huge ranges turn up by themselves."""
    dtype = draw(st.sampled_from(DTYPES))
    depth, m, n = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    unsigned = np.dtype(f"u{dtype.itemsize}")

    def operand(width: int) -> Array:
        patterns = draw(st.lists(codes(dtype), min_size=depth * width, max_size=depth * width))
        return np.array(patterns, unsigned).view(dtype).reshape(depth, width)

    return operand(m), operand(n)


@settings(max_examples=400, deadline=None)
@given(any_operands(), st.sampled_from(["rne", "rz"]))
def test_any_bit_patterns(operands: tuple[Array, Array], rounding: str):
    a, b = operands
    assert bits(exact_dot(a, b, rounding=rounding)) == bits(by_fractions(a, b, rounding))


# --- adversarial sums -------------------------------------------------------------------------------------

H = 2.0**-12
CASES: dict[str, tuple[list[float], list[float]]] = {
    "tie to even below": ([1.0, H], [1.0, H]),
    "tie to even above": ([1.0 + 2.0**-23, H], [1.0, H]),
    "a hair above a tie": ([1.0, H, 2.0**-100], [1.0, H, 2.0**-30]),
    "a hair below a tie": ([1.0, H, 2.0**-100], [1.0, H, -(2.0**-30)]),
    "a hair above a tie of large numbers": ([2.0**60, 2.0**30, 1.0], [2.0**40, 2.0**46, 2.0**-140]),
    "exact cancellation": ([3.0, 5.0, -7.0], [7.0, 0.0, 3.0]),
    "cancellation down to a hair": ([1 + 2.0**-23, 1 + 2.0**-23, -1.0], [1 + 2.0**-23, -1.0, 2.0**-23]),
    "cancellation of huge products": ([1e30, -1e30, 1.0], [1e30, 1e30, 2.0**-149]),
    "subnormal tie": ([2.0**-75], [2.0**-75]),
    "a hair above a subnormal tie": ([2.0**-75, 2.0**-140], [2.0**-75, 2.0**-140]),
    "negative underflow": ([-(2.0**-100)], [2.0**-100]),
    "smallest products": ([2.0**-149, 2.0**-149], [2.0**-149, 2.0**-149]),
    "largest finite": ([2.0**127, 2.0**127, -(2.0**102)], [1.0, 1.0, 1.0]),
    "just below overflow": ([2.0**127, 2.0**127, -(2.0**103), -(2.0**-100)], [1.0, 1.0, 1.0, 1.0]),
    "overflow by a tie": ([2.0**127, 2.0**127, -(2.0**103)], [1.0, 1.0, 1.0]),
    "overflow on the way only": ([2.0**127, 2.0**127, -(2.0**127)], [1.0, 1.0, 1.0]),
}


@pytest.mark.parametrize("rounding", ["rne", "rz"])
@pytest.mark.parametrize("case", list(CASES))
def test_adversarial_sum(case: str, rounding: str):
    x, y = CASES[case]
    a, b = (np.array(values, np.float32)[:, None] for values in (x, y))
    assert a[:, 0].tolist() == pytest.approx(x, rel=1e-7)
    for sign in (1, -1):
        expected = by_fractions(sign * a, b, rounding)
        assert bits(exact_dot(sign * a, b, rounding=rounding)) == bits(expected)
        assert bits(exact_dot(b, sign * a, rounding=rounding)) == bits(expected)


def test_the_cases_are_what_they_claim():
    def value(case: str) -> Fraction:
        return dot(*([float(np.float32(v)) for v in side] for side in CASES[case]))

    assert value("tie to even below") == 1 + Fraction(1, 2**24)
    assert value("exact cancellation") == 0
    assert 0 < value("cancellation down to a hair") < Fraction(1, 2**40)
    assert value("overflow by a tie") == 2**128 - 2**103
    for case in ("a hair above a tie", "a hair above a tie of large numbers", "a hair above a subnormal tie"):
        once, twice = nearest_float32(value(case)), np.float32(float(value(case)))
        assert once != twice, case


def test_exact_zero_is_plus_zero_even_from_negative_zeros():
    minus = np.full((4, 3), -0.0, np.float32)
    plus = np.full((4, 2), 5.0, np.float32)
    assert bits(exact_dot(minus, plus)) == [0] * 6
    assert bits(exact_dot(plus, minus)) == [0] * 6
    assert bits(exact_dot(minus.astype(BF16), plus.astype(BF16))) == [0] * 6


def test_underflow_keeps_the_sign():
    tiny = np.full((1, 1), 2.0**-100, np.float32)
    assert bits(exact_dot(tiny, -tiny)) == [0x80000000]
    assert bits(exact_dot(tiny, tiny)) == [0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_hot_selects_exactly(dtype: np.dtype[Any]):
    rng = np.random.default_rng(5)
    data = random_operand(rng, (128, 200), dtype, 3)
    order = rng.permutation(128)
    select = np.eye(128, dtype=np.float32)[:, order].astype(dtype)
    expected = data.astype(np.float32)[order] + np.float32(0)
    assert bits(exact_dot(select, data)) == bits(expected)


def test_integers_are_exact_and_cancel():
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-3, 4, (128, n)) for n in (64, 96))
    got = exact_dot(a.astype(np.float32).astype(BF16), b.astype(np.float32).astype(BF16))
    expected = a.T @ b
    assert (expected == 0).sum() > 10
    assert got.tolist() == expected.tolist()
    assert not np.signbit(got[got == 0]).any()


def _orthogonal(rng: np.random.Generator) -> tuple[Array, Array]:
    """float32 columns whose products cancel in pairs: every output is exactly 0, no float64 sum need be."""
    half = rng.standard_normal((16, 40)).astype(np.float32)
    other = rng.standard_normal((16, 50)).astype(np.float32)
    return np.concatenate([half, half]), np.concatenate([other, -other])


def _nearly_orthogonal(rng: np.random.Generator) -> tuple[Array, Array]:
    a, b = _orthogonal(rng)
    a[3] = np.nextafter(a[3], np.float32(9))
    return a, b


def _one_loud_column(rng: np.random.Generator) -> tuple[Array, Array]:
    a, b = (rng.standard_normal((32, n)).astype(np.float32) for n in (40, 50))
    b[5, 7] = 1e30
    return a, b


def _ties(rng: np.random.Generator) -> tuple[Array, Array]:
    """bfloat16 numbers of one binade: many sums need exactly one bit more than float32 has."""
    a, b = ((1 + rng.random((128, n))).astype(np.float32).astype(BF16) for n in (12, 20))
    return a, b


def _integers(rng: np.random.Generator) -> tuple[Array, Array]:
    """Small integers: exact zeros that exponents alone prove."""
    a, b = (rng.integers(-2, 3, (20, n)).astype(np.float32).astype(BF16) for n in (12, 20))
    return a, b


BUILDS = [_orthogonal, _nearly_orthogonal, _one_loud_column, _ties, _integers]


@pytest.mark.parametrize("build", BUILDS)
def test_every_certificate_hands_on_what_it_cannot_settle(build: Callable[..., tuple[Array, Array]]):
    a, b = build(np.random.default_rng(11))
    assert bits(exact_dot(a, b)) == bits(by_fractions(a, b))


def test_float32_that_holds_bfloat16_values_gives_the_same_bits():
    rng = np.random.default_rng(2)
    a, b = random_operand(rng, (128, 30), BF16, 1), random_operand(rng, (128, 40), BF16, 1)
    assert bits(exact_dot(a.astype(np.float32), b.astype(np.float32))) == bits(exact_dot(a, b))


def test_naive_float64_product_has_wrong_bits_somewhere():
    """Twin of the tests above: rounding the float64 product of BLAS is not good enough."""
    a, b = _nearly_orthogonal(np.random.default_rng(11))
    naive = (a.T.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)
    assert bits(naive) != bits(by_fractions(a, b))


# --- certificates -----------------------------------------------------------------------------------------


def _lowest_bit(x: float) -> int:
    """Exponent of the lowest set bit of a nonzero number."""
    numerator, denominator = x.as_integer_ratio()
    return (numerator & -numerator).bit_length() - denominator.bit_length()


@settings(max_examples=300, deadline=None)
@given(any_operands())
def test_span_covers_every_set_bit(operands: tuple[Array, Array]):
    for x in operands:
        if not np.isfinite(x.astype(np.float32)).all():
            continue
        coarse, sharp = Columns.of(x[None]).span[0], set_bit_span(widen(x))
        for column in range(x.shape[1]):
            values = [float(v) for v in x[:, column].astype(np.float32) if v != 0]
            if values:
                top = max(math.frexp(v)[1] for v in values)
                assert sharp[column] == top - min(map(_lowest_bit, values)) <= coarse[column]


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float32)], ids=str)
@pytest.mark.parametrize("depth", [30, 33, 34, 35, 36, 37, 38])
def test_exponents_prove_53_bits_and_not_one_more(dtype: np.dtype[Any], depth: int):
    """Three largest products and one that is 2^depth below, all with 8 set bits: 18 + depth bits in all."""
    full, odd = 2 - 2.0**-7, 1 + 2.0**-7
    low = depth // 2
    a = np.array([[full], [full], [full], [np.ldexp(odd, -low)]], np.float32)
    b = np.array([[full], [full], [full], [np.ldexp(odd, low - depth)]], np.float32)
    exact = [Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a[:, 0], b[:, 0], strict=True)]
    assert sum(exact) / Fraction(2) ** (-depth - 14) > 2 ** (17 + depth)
    operands = [Operand(widen(x), Columns.of(x)) for x in (a.astype(dtype)[None], b.astype(dtype)[None])]
    proven = exact_dot_module._beyond_53_bits(*operands)
    assert (proven is not None and len(proven[0]) == 0) == (18 + depth <= 53)


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float32)], ids=str)
def test_sum_of_54_bits_next_to_a_tie(dtype: np.dtype[Any]):
    """The two last products leave 2^-53 of each other, which float64 loses on the way."""
    a = [2 - 2.0**-7, 2.0**-12, (1 + 2.0**-7) * 2.0**-19, -(1 + 2.0**-6) * 2.0**-19]
    b = [2 - 2.0**-7, 2.0**-11, (1 + 2.0**-7) * 2.0**-20, 2.0**-20]
    left, right = (np.array(side, np.float32).astype(dtype)[:, None] for side in (a, b))
    tie = Fraction(a[0]) * Fraction(b[0]) + Fraction(2) ** -23
    assert dot(a, b) == tie + Fraction(2) ** -53
    assert float(sum(p * q for p, q in zip(a, b, strict=True))) == tie
    assert exact_dot(left, right)[0, 0] == nearest_float32(dot(a, b)) > tie


def _reversed_rows(x: Array, y: Array) -> Array:
    return _plain_matmul(x[..., ::-1].copy(), y[..., ::-1, :].copy())


def _negative_zeros(x: Array, y: Array) -> Array:
    return -_plain_matmul(-x, y)


def _by_halves(x: Array, y: Array) -> Array:
    half = x.shape[-1] // 2
    return _plain_matmul(x[..., :half], y[..., :half, :]) + _plain_matmul(x[..., half:], y[..., half:, :])


def _chain_of_rows(x: Array, y: Array) -> Array:
    total = np.zeros((*x.shape[:-1], y.shape[-1]))
    for k in range(x.shape[-1]):
        total += x[..., k, None] * y[..., None, k, :]
    return total


_plain_matmul = np.matmul


@pytest.mark.parametrize("blas", [_reversed_rows, _negative_zeros, _by_halves, _chain_of_rows])
@pytest.mark.parametrize("build", BUILDS)
def test_bits_do_not_depend_on_the_blas(monkeypatch: pytest.MonkeyPatch, build: Any, blas: Any):
    a, b = build(np.random.default_rng(12))
    expected = exact_dot(a, b)
    # Any of these is a legal float64 matmul.
    monkeypatch.setattr(exact_dot_module.np, "matmul", blas)
    assert bits(exact_dot(a, b)) == bits(expected)


# --- seeds ------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(any_operands(), st.integers(0, 2**32 - 1), st.sampled_from(["rne", "rz"]))
def test_seed_joins_the_exact_sum(operands: tuple[Array, Array], pattern: int, rounding: str):
    a, b = operands
    seed = np.full((a.shape[1], b.shape[1]), np.array(pattern, np.uint32).view(np.float32))
    ones = [np.ones((1, x.shape[1]), np.float32) for x in (a, b)]
    left, right = (np.concatenate([x.astype(np.float32), one]) for x, one in zip((a, b), ones, strict=True))
    left[-1] = seed[:, 0]
    assert bits(exact_dot(a, b, seed=seed, rounding=rounding)) == bits(by_fractions(left, right, rounding))


# --- shapes, blocks, buffers ------------------------------------------------------------------------------


def test_leading_axes_broadcast():
    rng = np.random.default_rng(1)
    a = random_operand(rng, (2, 1, 8, 3), BF16, 1)
    b = random_operand(rng, (5, 8, 4), BF16, 1)
    got = exact_dot(a, b)
    assert got.shape == (2, 5, 3, 4)
    for i in range(2):
        for j in range(5):
            assert bits(got[i, j]) == bits(by_fractions(a[i, 0], b[j]))


@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3), (4, 2, 0)])
def test_empty_axes(shape: tuple[int, int, int]):
    depth, m, n = shape
    got = exact_dot(np.ones((depth, m), np.float32), np.ones((depth, n), np.float32))
    assert got.shape == (m, n)
    assert not got.any()


@pytest.mark.parametrize("block", [1, 64, 1000, 10**9])
@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float32)], ids=str)
def test_blocks_do_not_change_bits(monkeypatch: pytest.MonkeyPatch, block: int, dtype: np.dtype[Any]):
    rng = np.random.default_rng(4)
    a, b = random_operand(rng, (3, 17, 9), dtype, 2), random_operand(rng, (3, 17, 23), dtype, 2)
    expected = bits(exact_dot(a, b))
    monkeypatch.setattr(exact_dot_module, "_BLOCK", block)
    assert bits(exact_dot(a, b)) == expected
    assert bits(exact_dot(b, a).transpose(0, 2, 1)) == expected


def test_strided_operands_and_output():
    rng = np.random.default_rng(6)
    a, b = random_operand(rng, (40, 16), BF16, 1), random_operand(rng, (60, 40), BF16, 1)
    room = np.full((16, 2, 60), np.float32(-1))
    got = exact_dot(a[::2], b[:, ::2].T, out=room[:, 0])
    assert bits(room[:, 0]) == bits(got) == bits(by_fractions(a[::2], b[:, ::2].T))
    assert (room[:, 1] == -1).all()


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "contraction": (lambda: exact_dot(np.ones((3, 2), np.float32), np.ones((4, 2), np.float32)), r"\(3, 2\)"),
    "vector": (lambda: exact_dot(np.ones(3, np.float32), np.ones((3, 2), np.float32)), r"\(3,\)"),
    "integers": (lambda: exact_dot(np.ones((3, 2), np.int32), np.ones((3, 2), np.float32)), "int32"),
    "rounding": (lambda: exact_dot(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32), rounding="up"), "'up'"),
    "passes": (
        lambda: exact_dot_passes(np.ones((2, 3, 1), np.float32), np.ones((3, 3, 1), np.float32)),
        r"\(2, 3, 1\)",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_misfit_is_refused_with_its_shape(case: str):
    act, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        act()


# --- passes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [False, True])
def test_passes_add_in_float32_in_ascending_order(start: bool):
    rng = np.random.default_rng(8)
    a, b = random_operand(rng, (5, 6, 3), BF16, 3), random_operand(rng, (5, 6, 4), BF16, 3)
    begin = rng.standard_normal((3, 4)).astype(np.float32) if start else None
    expected = begin
    for x, y in zip(a, b, strict=True):
        value = by_fractions(x, y)
        expected = value if expected is None else expected + value
    assert bits(exact_dot_passes(a, b, start=begin)) == bits(expected)
    room = np.empty((3, 4), np.float32) if begin is None else begin
    assert exact_dot_passes(a, b, start=begin, out=room) is room
    assert bits(room) == bits(expected)


# --- machines ---------------------------------------------------------------------------------------------

SCRIPT = """
import hashlib, warnings
warnings.simplefilter("ignore")
import ml_dtypes, numpy as np
from reference.numerics.exact_dot import exact_dot
from reference.numerics.reduce import reduce_add
rng = np.random.default_rng(0)
h = hashlib.sha256()
for dtype in (np.float32, ml_dtypes.bfloat16, np.float16, ml_dtypes.float8_e4m3):
    for shape in ((128, 128, 256), (128, 4, 1024), (64, 300, 20)):
        k, m, n = shape
        a, b = (rng.standard_normal((k, x)).astype(np.float32).astype(dtype) for x in (m, n))
        h.update(exact_dot(a, b).tobytes())
h.update(reduce_add(rng.standard_normal((64, 2048)).astype(np.float32)).tobytes())
print(h.hexdigest())
"""
MACHINES = {
    "two threads": {"OPENBLAS_NUM_THREADS": "2"},
    "old CPU": {"OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Nehalem"},
    "other kernels": {"OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Haswell"},
    "no dispatch": {"OPENBLAS_NUM_THREADS": "1", "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512_SKX AVX2 FMA3"},
}


def _digest_on(machine: dict[str, str]) -> str:
    # Whatever the host has set is overridden; a feature that NumPy was not built to dispatch only warns.
    command, root = [sys.executable, "-c", SCRIPT], Path(__file__).parents[3]
    environment = {**os.environ, **machine, "PYTHONPATH": str(root)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    digest = run.stdout.strip()
    assert len(digest) == 64, run.stderr
    return digest


@pytest.fixture(scope="module")
def digest_of_one_thread() -> str:
    return _digest_on({"OPENBLAS_NUM_THREADS": "1"})


@pytest.mark.parametrize("machine", list(MACHINES))
def test_bits_do_not_depend_on_threads_or_cpu(machine: str, digest_of_one_thread: str):
    assert _digest_on(MACHINES[machine]) == digest_of_one_thread
