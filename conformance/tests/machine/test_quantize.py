"""Claim: quantize_mx writes, per group of 8 partitions x 4 elements, the scale byte and the element bytes of its rule.

The rule is written here with Python integers and ml_dtypes: X = 2^(floor(log2 amax) - (Emax - 1)), value / X rounded to
nearest even; before NKI 0.5 twice that quotient, clipped.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from conformance.tests.machine.tiles import Array, execute, host, numbers, refused, stored
from reference.numerics.profile import DEFAULT

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

TYPES = {
    "float8_e4m3fn_x4": (ml_dtypes.float8_e4m3fn, 8, 448.0),
    "float8_e5m2_x4": (ml_dtypes.float8_e5m2, 15, 57344.0),
}
OLD = DEFAULT.replace(nki=(0, 4, 0))


def quantized(source: Array, dtype: str, scale_dtype: str = "uint8", **options: Any) -> tuple[Array, Array]:
    partitions, columns = source.shape[0], source.size // source.shape[0] // 4

    def program(t: Any) -> None:
        nisa.memset(t.scale.view(nl.uint8), 7)
        nisa.quantize_mx(t.dst, t.src, t.scale)

    outputs = {"dst": ((partitions, columns), dtype), "scale": ((partitions, columns), scale_dtype)}
    got = execute(program, {"src": source}, outputs, generation="gen4", **options)
    return got["dst"], got["scale"].view(np.uint8)


def by_rule(source: Array, dtype: str, old: bool = False) -> tuple[Array, Array]:
    """(element bytes [P, F], scale codes [P / 8, F / 4])."""
    element, emax, largest = TYPES[dtype]
    values = source.astype(np.float64).reshape(source.shape[0], -1)
    data, scales = np.empty(values.shape, np.uint8), np.empty((len(values) // 8, values.shape[1] // 4), np.uint8)
    for row in range(len(scales)):
        for column in range(scales.shape[1]):
            group = (slice(8 * row, 8 * row + 8), slice(4 * column, 4 * column + 4))
            amax = np.abs(values[group]).max()
            exponent = -127 if amax == 0 else max(math.frexp(amax)[1] - 1 - (emax - (0 if old else 1)), -127)
            quotient = values[group] * 2.0**-exponent
            if old:
                quotient = np.clip(quotient, -largest, largest)
            data[group] = quotient.astype(np.float32).astype(element).view(np.uint8)
            scales[row, column] = exponent + 127
    return data, scales


def check(source: Array, dtype: str, **options: Any) -> None:
    packed, scale = quantized(source, dtype, **options)
    data, codes = by_rule(source, dtype, old=options.get("profile") is OLD)
    assert (packed.view(np.uint8) == data).all()
    for group in range(len(codes)):
        assert (scale[32 * (group // 4) + group % 4] == codes[group]).all()
    kept = np.ones(len(scale), bool)
    kept[[32 * (group // 4) + group % 4 for group in range(len(codes))]] = False
    assert (scale[kept] == 7).all(), "rows that hold no scale are left alone"


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("source", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(32, 4), (64, 16), (128, 8), (32, 2, 8)])
@pytest.mark.parametrize("profile", [DEFAULT, OLD], ids=["0.5", "0.4"])
def test_groups_follow_the_rule(shape: tuple[int, ...], source: str, dtype: str, profile: Any) -> None:
    rng = np.random.default_rng(shape[0])
    values = rng.standard_normal(shape) * 2.0 ** rng.integers(-8, 8, shape)
    check(stored(values.astype(np.float32), source), dtype, profile=profile)


@pytest.mark.parametrize("profile", [DEFAULT, OLD], ids=["0.5", "0.4"])
@pytest.mark.parametrize(
    ("amax", "expected"),
    [
        (1.0, {"float8_e4m3fn_x4": [(120, 0x70), (119, 0x78)], "float8_e5m2_x4": [(113, 0x74), (112, 0x78)]}),
        (448.0, {"float8_e4m3fn_x4": [(128, 0x76), (127, 0x7E)], "float8_e5m2_x4": [(121, 0x77), (120, 0x7B)]}),
        (1.9375, {"float8_e4m3fn_x4": [(120, 0x78), (119, 0x7E)], "float8_e5m2_x4": [(113, 0x78), (112, 0x7B)]}),
        (0.0, {"float8_e4m3fn_x4": [(0, 0), (0, 0)], "float8_e5m2_x4": [(0, 0), (0, 0)]}),
    ],
)
def test_the_table_of_the_documents(amax: float, expected: Any, profile: Any) -> None:
    source = np.zeros((32, 4), ml_dtypes.bfloat16)
    source[3, 2] = amax
    for dtype, rows in expected.items():
        packed, scale = quantized(source, dtype, profile=profile)
        code, byte = rows[0 if profile is DEFAULT else 1]
        assert scale[0, 0] == code
        assert packed.view(np.uint8).reshape(32, 4)[3, 2] == byte


def test_scales_may_be_e8m0_and_share_a_tile_in_sets_of_four_rows() -> None:
    first, second = (stored(np.random.default_rng(i).standard_normal((64, 8)), "bfloat16") for i in (1, 2))

    def program(t: Any) -> None:
        nisa.memset(t.scale.view(nl.uint8), 9)
        nisa.quantize_mx(t.a, t.first, t.scale)
        nisa.quantize_mx(t.b, t.second, t.scale[4:64])

    got = execute(
        program,
        {"first": first, "second": second},
        {
            "a": ((64, 2), "float8_e4m3fn_x4"),
            "b": ((64, 2), "float8_e4m3fn_x4"),
            "scale": ((64, 2), "float8_e8m0fnu"),
        },
        generation="gen4",
    )
    scale = got["scale"].view(np.uint8)
    for offset, source in ((0, first), (4, second)):
        codes = by_rule(source, "float8_e4m3fn_x4")[1]
        assert (scale[offset : offset + 4] == codes[:4]).all()
        assert (scale[32 + offset : 36 + offset] == codes[4:]).all()
    assert (scale[8:32] == 9).all()


def test_special_values_follow_the_profile() -> None:
    source = np.ones((32, 8), ml_dtypes.bfloat16)
    source[0, 0], source[9, 5] = np.inf, np.nan
    packed, scale = quantized(source, "float8_e4m3fn_x4")
    data = packed.view(np.uint8).reshape(32, 8)
    assert scale[0].tolist() == [0xFF, 120]
    assert scale[1].tolist() == [120, 0xFF]
    assert ((data[0:8, 0:4] & 0x7F) == 0x7F).all()
    assert (data[0:8, 4:8] == 0x70).all()
    subnormal = np.zeros((32, 4), ml_dtypes.bfloat16)
    subnormal[0, 0] = 2.0**-130
    assert quantized(subnormal, "float8_e4m3fn_x4")[1][0, 0] == 0


def test_rounding_is_to_nearest_even_unless_the_profile_cuts() -> None:
    source = np.zeros((32, 4), ml_dtypes.bfloat16)
    source[0, 0] = 1.1875
    for rule, byte in (("rne", 0x72), ("rz", 0x71)):
        packed, _ = quantized(source, "float8_e4m3fn_x4", profile=DEFAULT.replace(mx_round=rule))
        assert packed.view(np.uint8)[0, 0] == byte


def test_every_finite_bfloat16_magnitude_is_quantised_by_the_rule() -> None:
    codes = np.arange(0x7F80, dtype=np.uint16).view(ml_dtypes.bfloat16)
    source = np.resize(codes[::16], (64, 32)).astype(ml_dtypes.bfloat16)
    check(source, "float8_e4m3fn_x4")


@pytest.mark.parametrize(
    ("source", "dst", "scale", "rule"),
    [
        (((32, 8), "float32"), ((32, 2), "float8_e4m3fn_x4"), ((32, 2), "uint8"), "operand.dtype"),
        (((32, 8), "bfloat16"), ((32, 2), "float4_e2m1fn_x4"), ((32, 2), "uint8"), "operand.dtype"),
        (((32, 8), "bfloat16"), ((32, 2), "uint32"), ((32, 2), "uint8"), "operand.dtype"),
        (((32, 8), "bfloat16"), ((32, 2), "float8_e4m3fn_x4"), ((32, 2), "int8"), "operand.dtype"),
        (((16, 8), "bfloat16"), ((16, 2), "float8_e4m3fn_x4"), ((32, 2), "uint8"), "mx.shape"),
        (((32, 6), "bfloat16"), ((32, 2), "float8_e4m3fn_x4"), ((32, 2), "uint8"), "mx.shape"),
        (((32, 8), "bfloat16"), ((32, 3), "float8_e4m3fn_x4"), ((32, 2), "uint8"), "operand.shape"),
        (((64, 8), "bfloat16"), ((64, 2), "float8_e4m3fn_x4"), ((35, 2), "uint8"), "mx.scale_shape"),
        (((32, 8), "bfloat16"), ((32, 2), "float8_e4m3fn_x4"), ((3, 2), "uint8"), "mx.scale_shape"),
        (((32, 8), "bfloat16"), ((32, 2), "float8_e4m3fn_x4"), ((32, 3), "uint8"), "mx.scale_shape"),
    ],
)
def test_quantize_refuses(source: Any, dst: Any, scale: Any, rule: str) -> None:
    error = refused(
        lambda t: nisa.quantize_mx(t.dst, t.src, t.scale),
        {"src": numbers(source[1], source[0])},
        {"dst": dst, "scale": scale},
        generation="gen4",
    )
    assert error.rule == rule


@pytest.mark.parametrize(("offset", "legal"), [(0, True), (12, True), (2, False), (16, False)])
def test_scale_sets_start_at_rows_0_4_8_and_12(offset: int, legal: bool) -> None:
    source = np.ones((32, 4), host("bfloat16"))
    outputs = {"dst": ((32, 1), "float8_e5m2_x4"), "scale": ((32, 1), "uint8")}

    def program(t: Any) -> None:
        nisa.memset(t.scale, 0)
        nisa.quantize_mx(t.dst, t.src, t.scale[offset : offset + 4])

    if legal:
        got = execute(program, {"src": source}, outputs, generation="gen4")
        assert (got["scale"][offset : offset + 4] == 113).all()
    else:
        assert refused(program, {"src": source}, outputs, generation="gen4").rule == "mx.scale_offset"
