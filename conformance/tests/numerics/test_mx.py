"""Block formats: the vectors of the fact sheet (section 4 and 3.8), both scale rules, and MX matmuls.

Expected quantisations are found by a search over all element codes in rational numbers.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.tests.numerics.fractions_reference import bits, nearest_float32
from reference.numerics.cast import cast, to_float32
from reference.numerics.dot import mx_pass
from reference.numerics.mx import (
    MxOperand,
    encode_scale,
    gather_scales,
    quantize_mx,
    scale_rows,
    scale_values,
    scatter_scales,
)
from reference.numerics.profile import CHAIN, DEFAULT, PARTS, NumericsProfile

Array = NDArray[Any]
E4M3 = "float8_e4m3fn_x4"
E5M2 = "float8_e5m2_x4"
OLD = DEFAULT.replace(nki=(0, 4))
NEW = DEFAULT


def one_group(value: float) -> Array:
    """[32, 4] bfloat16 zeros with `value` at the first place: four groups, the first one not zero."""
    x = np.zeros((32, 4), np.float32)
    x[0, 0] = value
    return x.astype(ml_dtypes.bfloat16)


def first_byte(packed: Array) -> int:
    return int(packed[0, 0]) & 0xFF


# (a, format, profile, scale byte, data byte): facts, section 4.
VECTORS = [
    (1.0, E4M3, NEW, 120, 0x70),
    (1.0, E4M3, OLD, 119, 0x78),
    (1.0, E5M2, NEW, 113, 0x74),
    (1.0, E5M2, OLD, 112, 0x78),
    (448.0, E4M3, NEW, 128, 0x76),
    (448.0, E4M3, OLD, 127, 0x7E),
    (448.0, E5M2, NEW, 121, 0x77),
    (448.0, E5M2, OLD, 120, 0x7B),
    (1.9375, E4M3, NEW, 120, 0x78),
    (1.9375, E4M3, OLD, 119, 0x7E),
    (1.9375, E5M2, NEW, 113, 0x78),
    (1.9375, E5M2, OLD, 112, 0x7B),
    (0.0, E4M3, NEW, 0, 0x00),
    (0.0, E5M2, OLD, 0, 0x00),
]


@pytest.mark.parametrize(("value", "fmt", "profile", "scale", "byte"), VECTORS)
def test_vector_of_the_fact_sheet(value: float, fmt: str, profile: NumericsProfile, scale: int, byte: int):
    packed, scales = quantize_mx(one_group(value), fmt, profile)
    assert (scales[0, 0], first_byte(packed)) == (scale, byte)
    assert packed.dtype == np.uint32
    assert packed.shape == (32, 1)
    assert scales.shape == (4, 1)
    assert not packed[1:].any()
    assert not scales[1:].any()


@cache
def finite_codes(fmt: str) -> list[tuple[Fraction, int]]:
    """(value, code) of all finite non-negative codes, by the bit fields."""
    fraction_bits, bias = {E4M3: (3, 7), E5M2: (2, 15)}[fmt]
    top = {E4M3: 0x7E, E5M2: 0x7B}[fmt]
    rows = []
    for code in range(top + 1):
        exponent, fraction = code >> fraction_bits, code & (2**fraction_bits - 1)
        significand = fraction + (2**fraction_bits if exponent else 0)
        rows.append((significand * Fraction(2) ** (max(exponent, 1) - bias - fraction_bits), code))
    return rows


def quantised_code(value: Fraction, fmt: str, rounding: str) -> int:
    """Code of the nearest element (ties to the even code) or of the next one towards zero; clipped at the top."""
    size = abs(value)
    if rounding == "rz":
        code = max(code for v, code in finite_codes(fmt) if v <= size)
    else:
        code = min(finite_codes(fmt), key=lambda row: (abs(row[0] - size), row[1] % 2))[1]
    return code | (0x80 if value < 0 else 0)


@pytest.mark.parametrize("rounding", ["rne", "rz"])
@pytest.mark.parametrize("version", [(0, 4), (0, 6)])
@pytest.mark.parametrize("fmt", [E4M3, E5M2])
def test_random_groups_against_a_search_over_codes(fmt: str, version: tuple[int, ...], rounding: str):
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((32, 8)) * 2.0 ** rng.integers(-12, 3, (32, 8))).astype(np.float32)
    x = x.astype(ml_dtypes.bfloat16)
    packed, scales = quantize_mx(x, fmt, DEFAULT.replace(nki=version, mx_round=rounding))
    got = packed.view(np.uint8).reshape(32, 8)
    values = x.astype(np.float32)
    for group in range(4):
        for column in range(2):
            rows, lanes = slice(8 * group, 8 * group + 8), slice(4 * column, 4 * column + 4)
            block = values[rows, lanes]
            floor_log2 = int(np.floor(np.log2(np.abs(block).max().astype(np.float64))))
            exponent = floor_log2 - {E4M3: 8, E5M2: 15}[fmt] + (1 if version >= (0, 5) else 0)
            assert scales[group, column] == exponent + 127
            expected = [
                quantised_code(Fraction(float(v)) / Fraction(2) ** exponent, fmt, rounding) for v in block.ravel()
            ]
            # A negative value that rounds to zero keeps its sign, which a Fraction of -0 cannot show.
            assert got[rows, lanes].ravel().tolist() == expected


@pytest.mark.parametrize("fmt", [E4M3, E5M2])
def test_new_rule_cannot_saturate_and_the_old_one_clips(fmt: str):
    largest = {E4M3: 448.0, E5M2: 57344.0}[fmt]
    top = np.float16(2) - np.float16(2.0**-10)
    # New: 256 or 32768, rounded up to a power of two. Old: just under 512 or 65536, clipped.
    for profile, bound in ((NEW, largest / 1.75), (OLD, largest)):
        packed, _ = quantize_mx(np.full((8, 4), top), fmt, profile)
        assert (to_float32(packed, fmt) == bound).all()


def test_probe_q1_rounding():
    """1.1875 -> 152: RNE 160 (0x72), RZ 144 (0x71). 1.0625 -> 136: RNE 128 (0x70)."""
    for value, rounding, byte in ((1.1875, "rne", 0x72), (1.1875, "rz", 0x71), (1.0625, "rne", 0x70)):
        packed, _ = quantize_mx(one_group(value), E4M3, DEFAULT.replace(mx_round=rounding))
        assert first_byte(packed) == byte


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("fmt", [E4M3, E5M2])
def test_probe_q1_specials_spoil_their_group_and_no_other(fmt: str, bad: float):
    x = np.ones((16, 8), np.float32)
    x[9, 2] = bad
    packed, scales = quantize_mx(x, fmt)
    values = to_float32(packed, fmt)
    assert scales.tolist() == [[scales[0, 0]] * 2, [0xFF, scales[0, 0]]]
    assert np.isnan(values[8:, :4]).all()
    assert np.isfinite(values[:8]).all()
    assert np.isfinite(values[8:, 4:]).all()


def test_probe_q1_specials_by_exponent():
    x = np.ones((8, 4), np.float32)
    x[0, 0], x[0, 1] = np.inf, np.nan
    packed, scales = quantize_mx(x, E5M2, DEFAULT.replace(mx_special="by_exponent"))
    values = to_float32(packed, E5M2).reshape(8, 4)
    assert scales[0, 0] == 127 + 128 - 14
    assert values[0, 0] == np.inf
    assert np.isnan(values[0, 1])
    assert (values[1:] == 0).all()  # 2^-114 is below the smallest element


def test_probe_q1_subnormal_group_has_the_smallest_scale():
    x = one_group(2.0**-130)
    for rule, value in (("keep", 2.0**-3), ("daz", 0.0)):
        packed, scales = quantize_mx(x, E4M3, DEFAULT.replace(subnormals_alu=rule))
        assert (scales[0, 0], to_float32(packed, E4M3)[0, 0]) == (0, value)


def test_tiny_quotients_become_subnormals_and_zeros_gradually():
    x = np.zeros((8, 4), np.float32)
    x[:, 0] = [1.0, 2.0**-13, 2.0**-15, 2.0**-16, 2.0**-17, 1.5 * 2.0**-17, -(2.0**-17), 2.0**-40]
    packed, scales = quantize_mx(x, E4M3)
    assert scales[0, 0] == 120
    values = to_float32(packed, E4M3).reshape(8, 4)[:, 0]
    step = 2.0**-9
    assert values.tolist() == [128.0, 2.0**-6, 2.0**-8, step, 0.0, step, 0.0, 0.0]
    assert np.signbit(values).tolist() == [False] * 6 + [True, False]


REFUSED = [
    ((np.zeros((8, 4), np.float32), "float4_e2m1fn_x4"), "float4_e2m1fn_x4"),
    ((np.zeros((8, 4), np.float32), "float8_e4m3fn"), "float8_e4m3fn"),
    ((np.zeros((12, 4), np.float32), E4M3), r"\(12, 4\)"),
    ((np.zeros((8, 6), np.float32), E4M3), r"\(8, 6\)"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_quantisation_refuses_other_formats_and_shapes(arguments: tuple[Array, str], message: str):
    with pytest.raises(ValueError, match=message):
        quantize_mx(*arguments)


# --- scales and their layout ------------------------------------------------------------------------------


def test_scale_rows_of_the_fact_sheet():
    assert scale_rows(128)[[0, 7, 8, 31, 32, 40, 127]].tolist() == [0, 0, 1, 3, 32, 33, 99]
    assert scale_rows(128, 12)[[0, 127]].tolist() == [12, 111]
    with pytest.raises(ValueError, match="offset 5"):
        scale_rows(32, 5)


def test_four_scale_sets_share_one_tile():
    tile = np.full((128, 6), 77, np.uint8)
    sets = {offset: np.arange(16 * 6, dtype=np.uint8).reshape(16, 6) + offset for offset in (0, 4, 8, 12)}
    for offset, scales in sets.items():
        scatter_scales(tile, scales, offset)
    for offset, scales in sets.items():
        assert gather_scales(tile, 128, offset).tolist() == scales.tolist()
        assert tile[32 * 3 + 2 + offset].tolist() == scales[14].tolist()
    untouched = [row for row in range(128) if row % 32 >= 16]
    assert (tile[untouched] == 77).all()


def test_small_operand_has_a_small_scale_tile():
    tile = np.arange(8, dtype=np.uint8).reshape(4, 2)
    assert gather_scales(tile, 32).tolist() == tile.tolist()
    with pytest.raises(ValueError, match=r"4 rows.*row 32"):
        gather_scales(tile, 40)


def test_scale_bytes_are_powers_of_two():
    values = scale_values(np.arange(256, dtype=np.uint8))
    assert values[:255].tolist() == [2.0 ** (b - 127) for b in range(255)]
    assert np.isnan(values[255])
    assert scale_values(np.array([255], np.uint8), DEFAULT.replace(mx_scale_ff="pow128"))[0] == 2.0**128
    assert scale_values(np.array([130], np.uint8).view(ml_dtypes.float8_e8m0fnu))[0] == 8.0
    assert encode_scale([-127, 0, 127]).tolist() == [0, 127, 254]
    with pytest.raises(ValueError, match="128"):
        encode_scale([128])


# --- MX matmul --------------------------------------------------------------------------------------------


def operand(values: Any, scales: Any, fmt: str = E5M2) -> MxOperand:
    """Element values [P, 4 F] (lane 0 first) and scale exponents [P // 8, F]."""
    packed = cast(np.asarray(values, np.float32), fmt)
    return MxOperand.unpack(packed, (np.asarray(scales) + 127).astype(np.uint8), fmt)


def random_operand(seed: int, columns: int, fmt: str, spread: int = 3) -> tuple[MxOperand, Array]:
    """An operand of 32 partitions, and its dequantised values [128, columns] in float64."""
    rng = np.random.default_rng(seed)
    drawn = (rng.standard_normal((32, 4 * columns)) * 3).astype(np.float32)
    scales = rng.integers(-spread, spread + 1, (4, columns))
    values = to_float32(cast(drawn, fmt), fmt).reshape(32, columns, 4).astype(np.float64)
    values *= np.repeat(np.ldexp(1.0, scales), 8, axis=0)[:, :, None]
    return operand(drawn, scales, fmt), values.transpose(0, 2, 1).reshape(128, columns)


@pytest.mark.parametrize("left", [E4M3, E5M2, "float4_e2m1fn_x4"])
@pytest.mark.parametrize("right", [E4M3, "float4_e2m1fn_x4"])
def test_mx_matmul_is_the_exact_sum_of_dequantised_products(left: str, right: str):
    a, x = random_operand(1, 5, left)
    b, y = random_operand(2, 6, right)
    got = mx_pass(a, b)
    for m in range(5):
        for n in range(6):
            exact = sum((Fraction(p) * Fraction(q) for p, q in zip(x[:, m], y[:, n], strict=True)), Fraction(0))
            assert bits(got[m, n]) == bits(nearest_float32(exact))


MX_PROFILES = [
    base.replace(mx_dot=dot, mx_scale_overflow=overflow)
    for base in (
        DEFAULT,
        CHAIN,
        DEFAULT.replace(matmul_order="fdpa24"),
        DEFAULT.replace(psum_entry="seeds_chain"),
    )
    for dot in PARTS["mx_dot"].candidates
    for overflow in PARTS["mx_scale_overflow"].candidates
]


@pytest.mark.parametrize("profile", MX_PROFILES, ids=lambda p: ",".join(map(str, p.changed().values())))
def test_mx_matmul_of_small_integers_is_exact_in_every_variant(profile: NumericsProfile):
    rng = np.random.default_rng(5)
    x, y = rng.integers(-4, 5, (32, 4, 3)), rng.integers(-4, 5, (32, 4, 2))
    a = operand(x.transpose(0, 2, 1).reshape(32, 12), np.zeros((4, 3), int))
    b = operand(y.transpose(0, 2, 1).reshape(32, 8), np.ones((4, 2), int))
    acc = np.full((3, 2), 100, np.float32)
    expected = 100 + 2 * np.einsum("pqm,pqn->mn", x, y)
    assert mx_pass(a, b, profile, acc=acc).tolist() == expected.tolist()


def lanes_of_one(values: list[float], partition: int = 0) -> Array:
    x = np.zeros((8, 4), np.float32)
    x[partition] = values
    return x


ONES = np.ones((8, 4), np.float32)


@pytest.mark.parametrize(("dot", "keeps"), [("fused20", 20), ("fused24", 24), ("dequant_exact", 31), ("group_dot", 31)])
def test_probe_u8_fraction_bits(dot: str, keeps: int):
    """(2^e, -2^e, 2^(e-w), 0) in one x4: the last w that survives is the number of fraction bits."""
    profile = DEFAULT.replace(mx_dot=dot)
    for width in range(16, 32):
        a = operand(lanes_of_one([2.0**15, -(2.0**15), 2.0 ** (15 - width), 0.0]), [[0]])
        survived = mx_pass(a, operand(ONES, [[0]]), profile)[0, 0]
        assert survived == (2.0 ** (15 - width) if width <= keeps else 0.0), width


def test_probe_u8_scales_before_or_after_the_group_sum():
    """Magnitudes carried by scales: the group sum knows nothing of the other group's scale."""
    x = np.concatenate([lanes_of_one([1.0, 0, 0, 0]), lanes_of_one([1.0, 2.0**-14, 0, 0])])
    a, b = operand(x, [[30], [0]]), operand(np.ones((16, 4)), [[0], [0]])
    assert mx_pass(a, b, DEFAULT.replace(mx_dot="fused24"))[0, 0] == 2.0**30
    opposite = operand(np.concatenate([ONES, ONES]) * np.array([[1.0]] * 8 + [[-1.0]] * 8), [[127], [127]])
    loud = operand(np.concatenate([lanes_of_one([1.0, 0, 0, 0])] * 2), [[127], [127]])
    assert np.isnan(mx_pass(opposite, loud, DEFAULT.replace(mx_dot="group_dot"))[0, 0])
    assert mx_pass(opposite, loud, DEFAULT.replace(mx_dot="group_dot", mx_scale_overflow="wide"))[0, 0] == 0.0
    assert mx_pass(opposite, loud)[0, 0] == 0.0


def test_probe_u8_scaled_operand_beyond_float32():
    large = operand(lanes_of_one([4.0, 0, 0, 0]), [[127]])
    small = operand(lanes_of_one([1.0, 0, 0, 0]), [[-20]])
    assert mx_pass(large, small)[0, 0] == np.inf
    assert mx_pass(large, small, DEFAULT.replace(mx_scale_overflow="wide"))[0, 0] == 2.0**109


def test_probe_u8_scale_bytes_at_the_ends():
    one = lanes_of_one([1.0, 0, 0, 0])
    assert mx_pass(operand(one, [[-127]]), operand(one, [[0]]))[0, 0] == 2.0**-127
    spoiled = operand(one, [[128]])
    assert np.isnan(mx_pass(spoiled, operand(one, [[0]])))[0, 0]
    half = operand(lanes_of_one([0.5, 0, 0, 0]), [[0]])
    power = DEFAULT.replace(mx_scale_ff="pow128", mx_scale_overflow="wide")
    assert mx_pass(spoiled, half, power)[0, 0] == 2.0**127


def test_mx_subnormal_elements_read_as_zero_when_asked():
    a = operand(lanes_of_one([2.0**-16, 2.0**-14, 0, 0]), [[0]])
    b = operand(ONES, [[0]])
    assert mx_pass(a, b)[0, 0] == 2.0**-16 + 2.0**-14
    assert mx_pass(a, b, DEFAULT.replace(subnormals="daz"))[0, 0] == 2.0**-14


def test_mx_operands_must_fit():
    with pytest.raises(ValueError, match="contractions differ"):
        mx_pass(operand(np.ones((8, 4)), [[0]]), operand(np.ones((16, 4)), [[0], [0]]))
    with pytest.raises(ValueError, match="needs scales"):
        operand(np.ones((16, 4)), [[0]])
    with pytest.raises(ValueError, match="x4 items"):
        MxOperand.unpack(np.zeros((8, 1), np.uint8), np.zeros((1, 1), np.uint8), "float8_e5m2")
