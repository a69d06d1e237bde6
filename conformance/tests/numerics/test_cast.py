"""Every conversion rounds once, to the nearest value by definition, and special cases go as documented.

The expected codes come from the bit fields (`code_tables`) and from a search for the nearest code written out
here; ml_dtypes and NumPy conversions are never asked. All codes of all narrow formats are walked, with the
midpoint between each code and the next and the float32 and float64 numbers around it.
"""

from __future__ import annotations

import warnings
from functools import cache
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.tests.numerics.code_tables import NARROW
from reference.numerics.cast import cast, to_float32
from reference.numerics.formats import FORMATS, format_of
from reference.numerics.profile import DEFAULT

Array = NDArray[Any]

#: e8m0 rounds and overflows by rules of its own, below.
SIGNED = [name for name in NARROW if name != "float8_e8m0fnu"]
INTEGERS = [name for name, row in FORMATS.items() if row.is_integer]


def bits_of(array: Array) -> Array:
    return array.view(f"u{array.dtype.itemsize}")


def assert_codes(*, got: Array, expected: Array, name: str, of: Array) -> None:
    """Same codes; every code of NaN counts as the same."""
    values = table(name)
    same = (got == expected) | (np.isnan(values[got]) & np.isnan(values[expected]))
    worst = [f"{of[i]!r}: got {got[i]:#x}, expected {expected[i]:#x}" for i in np.flatnonzero(~same)[:5]]
    assert same.all(), f"cast to {name}: {np.count_nonzero(~same)} wrong, first {worst}"


@cache
def table(name: str) -> Array:
    """float64 value of every code."""
    return np.array([NARROW[name].value(code) for code in range(2 ** NARROW[name].bits)])


@cache
def magnitudes(name: str) -> tuple[Array, Array]:
    """Values of the finite magnitude codes and the one after them, and the midpoints between neighbours."""
    row = NARROW[name]
    exact = [row.exact(code) for code in range(len(row.finite()) + 1)]
    midpoints = [(low + high) / 2 for low, high in pairwise(exact)]
    as_floats = np.array([float(x) for x in exact]), np.array([float(x) for x in midpoints])
    assert all(float(x) == x for x in midpoints), "a midpoint is no float64"
    return as_floats


def nearest(x: Array, name: str) -> Array:
    """Codes of float64 `x` by definition: the nearer neighbour, on a midpoint the even one, then overflow."""
    row, (_, midpoints) = NARROW[name], magnitudes(name)
    size = np.abs(x)
    below = np.searchsorted(midpoints, size, side="left")
    tie = (below < len(midpoints)) & (midpoints[np.minimum(below, len(midpoints) - 1)] == size)
    code = below + (tie & (below % 2 == 1))
    last = len(row.finite()) - 1
    # Infinity, NaN (e4m3fn) or, in the format that has neither, the largest number follows the last one.
    code = np.where(code > last, last + 1 if row.infinity is not None or row.nan else last, code)
    code = np.where(np.isnan(x), row.nan[0] if row.nan else 0, code)
    sign = np.signbit(x) | (np.isnan(x) & (name == "float4_e2m1fn"))
    return code + np.where(sign, len(row.magnitudes()), 0)


def both_signs(x: Array) -> Array:
    return np.concatenate([x, -x])


def around(x: Array) -> Array:
    """`x` and the numbers of its own type next to it."""
    down, up = np.nextafter(x, x.dtype.type(0)), np.nextafter(x, x.dtype.type(np.inf))
    return both_signs(np.concatenate([down, x, up]))


# --- codes to values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NARROW)
def test_value_of_every_code(name: str) -> None:
    codes = np.arange(2 ** NARROW[name].bits, dtype=np.uint16 if NARROW[name].bits == 16 else np.uint8)
    got = to_float32(codes.view(format_of(name).storage))
    expected = table(name).astype(np.float32)
    assert got.dtype == np.float32
    assert np.array_equal(expected.astype(np.float64), table(name), equal_nan=True), "not exact in float32"
    numbers = ~np.isnan(expected)
    assert np.array_equal(np.isnan(got), ~numbers)
    assert np.array_equal(bits_of(got)[numbers], bits_of(expected)[numbers])


@pytest.mark.parametrize("name", SIGNED)
def test_every_code_survives_the_way_through_float32(name: str) -> None:
    codes = np.arange(2 ** NARROW[name].bits, dtype=np.uint16 if NARROW[name].bits == 16 else np.uint8)
    for values in (table(name), table(name).astype(np.float32)):
        got = bits_of(cast(values, name)).astype(int)
        assert_codes(got=got, expected=codes.astype(int), name=name, of=values)


@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (2, 0, 5)])
@pytest.mark.parametrize("name", [*NARROW, "tfloat32", "float32", "int16", "bool_"])
def test_shape_is_kept(name: str, shape: tuple[int, ...]) -> None:
    stored = cast(np.ones(shape, np.float32), name)
    assert (stored.shape, stored.dtype) == (shape, format_of(name).storage)
    assert to_float32(stored).shape == shape
    assert (to_float32(stored) == 1).all()


def test_strided_and_float64_input_are_read_in_place() -> None:
    x = np.arange(24, dtype=np.float64).reshape(4, 6)
    for view in (x.T[::2], x.astype(np.float32).T[::2]):
        for name in ("float8_e5m2", "bfloat16", "tfloat32"):
            assert np.array_equal(to_float32(cast(view, name)), to_float32(cast(np.array(view), name)))
    codes = np.arange(16, dtype=np.uint8).view(ml_dtypes.float8_e4m3)[::3]
    assert np.array_equal(to_float32(codes), table("float8_e4m3")[:16:3])


# --- rounding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SIGNED)
def test_boundaries_and_midpoints_of_all_neighbouring_codes(name: str, dtype: type) -> None:
    values, midpoints = magnitudes(name)
    with np.errstate(over="ignore"):
        x = around(np.concatenate([values, midpoints]).astype(dtype))
    got = bits_of(cast(x, name)).astype(int)
    assert_codes(got=got, expected=nearest(x.astype(np.float64), name), name=name, of=x)


@pytest.mark.parametrize("name", SIGNED)
def test_random_patterns_go_to_the_nearest_code(name: str) -> None:
    rng = np.random.default_rng(7)
    # All float32 patterns are equally likely: every exponent, subnormals, NaN.
    single = rng.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    scaled = rng.standard_normal(100_000) * 2.0 ** rng.integers(-12, 12, 100_000)
    for x in (single, scaled):
        with np.errstate(invalid="ignore"):
            expected = nearest(x.astype(np.float64), name)
        assert_codes(got=bits_of(cast(x, name)).astype(int), expected=expected, name=name, of=x)


def test_float64_is_not_rounded_by_way_of_float32() -> None:
    """A float64 just past a midpoint is on the midpoint in float32, and then goes to the wrong neighbour."""
    assert to_float32(cast(np.float64(1 + 2.0**-8 + 2.0**-40), "bfloat16")) == 1 + 2.0**-7
    assert to_float32(cast(np.float64(248 - 2.0**-30), "float8_e4m3")) == 240
    assert to_float32(cast(np.float64(2.0**-134 + 2.0**-180), "bfloat16")) == 2.0**-133
    assert to_float32(cast(np.float64(1 + 2.0**-11 + 2.0**-40), "tfloat32")) == 1 + 2.0**-10
    assert cast(np.float64(0.5 + 2.0**-40), "int8") == 1
    assert to_float32(cast(np.float64(1e300), "bfloat16")) == np.inf
    assert bits_of(cast(np.float64(-1e-300), "float16")) == 0x8000


#: float32 in -> bfloat16, float16, e4m3, e4m3fn, e5m2; None where the sheet gives no code. From facts 15.
VECTORS: list[tuple[float, tuple[int | None, ...]]] = [
    (1 + 2.0**-8, (0x3F80, 0x3C04, 0x38, 0x38, 0x3C)),
    (1 + 3 * 2.0**-8, (0x3F82, 0x3C0C, 0x38, 0x38, 0x3C)),
    (1.0625, (0x3F88, 0x3C40, 0x38, 0x38, 0x3C)),
    (1.1875, (0x3F98, 0x3CC0, 0x3A, 0x3A, 0x3D)),
    (247.99, (0x4378, 0x5BC0, 0x77, 0x77, 0x5C)),
    (248.0, (0x4378, 0x5BC0, 0x78, 0x78, 0x5C)),
    (464.0, (0x43E8, 0x5F40, 0x78, 0x7E, 0x5F)),
    (464.01, (0x43E8, 0x5F40, 0x78, 0x7F, 0x5F)),
    (61440.0, (0x4770, 0x7B80, 0x78, 0x7F, 0x7C)),
    (65519.9, (0x4780, 0x7BFF, 0x78, 0x7F, 0x7C)),
    (65520.0, (0x4780, 0x7C00, 0x78, 0x7F, 0x7C)),
    (-3.4028235e38, (0xFF80, 0xFC00, 0xF8, 0x7F, 0xFC)),
    (2.0**-9, (None, None, 0x01, 0x01, 0x18)),
    (2.0**-10, (None, None, 0x00, 0x00, None)),
    (1.5 * 2.0**-10, (None, None, 0x01, 0x01, None)),
    (2.0**-17, (None, None, 0x00, 0x00, 0x00)),
    (1.5 * 2.0**-17, (None, None, 0x00, 0x00, 0x01)),
    (2.0**-25, (None, 0x0000, 0, 0, 0)),
    (1.5 * 2.0**-25, (None, 0x0001, 0, 0, 0)),
    (2.0**-134, (0x0000, 0, 0, 0, 0)),
]


@pytest.mark.parametrize(("x", "codes"), VECTORS, ids=lambda v: repr(v) if isinstance(v, float) else "")
def test_published_vectors(x: float, codes: tuple[int | None, ...]) -> None:
    names = ("bfloat16", "float16", "float8_e4m3", "float8_e4m3fn", "float8_e5m2")
    for name, code in zip(names, codes, strict=True):
        if code is not None:
            got = bits_of(cast(np.float32([x]), name)).astype(int)
            assert_codes(got=got, expected=np.array([code]), name=name, of=np.array([x]))


def test_two_roundings_differ_from_one() -> None:
    """The tile dtype in between matters: 247.99 becomes 240, but infinity by way of bfloat16."""
    assert to_float32(cast(np.float32(247.99), "float8_e4m3")) == 240
    assert to_float32(cast(cast(np.float32(247.99), "bfloat16"), "float8_e4m3")) == np.inf


# --- tfloat32 ---------------------------------------------------------------------------------------------


def tf32_by_definition(x: Array, rounding: Any) -> Array:
    """x as a whole number of its own 11-bit units, rounded in float64."""
    wide = x.astype(np.float64)
    exponent = np.maximum(np.frexp(wide)[1], -125)
    with np.errstate(over="ignore"):
        return (rounding(np.ldexp(wide, 11 - exponent)) * np.ldexp(1.0, exponent - 11)).astype(np.float32)


@pytest.mark.parametrize(("choice", "rounding"), [("rne", np.rint), ("rz", np.trunc)])
def test_tfloat32_keeps_ten_fraction_bits(choice: str, rounding: Any) -> None:
    x = np.random.default_rng(1).integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    ties = (np.arange(0x3F800000, 0x3F900000, 0x800, dtype=np.uint32)).view(np.float32)
    x = np.concatenate([x[np.isfinite(x)], ties, np.float32([0, -0.0, 3.4028235e38, 2.0**-149, 2.0**-137])])
    got = cast(x, "tfloat32", DEFAULT.replace(tf32_operand=choice))
    assert np.array_equal(bits_of(got), bits_of(tf32_by_definition(x, rounding)))


def test_tfloat32_specials_and_the_choice_not_to_round() -> None:
    x = np.array([np.inf, -np.inf, np.nan], np.float32)
    full_nan = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)
    for choice in ("rne", "rz", "none"):
        profile = DEFAULT.replace(tf32_operand=choice)
        assert np.array_equal(cast(x, "tfloat32", profile), x, equal_nan=True)
        assert np.isnan(cast(full_nan, "tfloat32", profile)).all()
    unrounded = DEFAULT.replace(tf32_operand="none")
    assert cast(np.float64(1 + 2.0**-23), "tfloat32", unrounded) == np.float32(1 + 2.0**-23)
    assert cast(np.float64(1 + 2.0**-30), "tfloat32", unrounded) == 1


# --- special values ---------------------------------------------------------------------------------------


def test_e4m3fn_overflow_follows_the_profile() -> None:
    x = np.array([464, 464.01, 480, 1e9, np.inf, -464.01, -np.inf, np.nan, 448, -0.0], np.float32)
    nan = to_float32(cast(x, "float8_e4m3fn", DEFAULT.replace(e4m3fn_overflow="nan")))
    saturated = to_float32(cast(x, "float8_e4m3fn", DEFAULT.replace(e4m3fn_overflow="saturate")))
    n = np.nan
    assert np.array_equal(nan, [448, n, n, n, n, n, n, n, 448, 0], equal_nan=True)
    assert np.array_equal(saturated, [448, 448, 448, 448, 448, -448, -448, n, 448, 0], equal_nan=True)
    assert np.signbit(saturated[-1])
    assert np.signbit(nan[-1])


def test_saturation_of_e4m3fn_leaves_other_formats_alone() -> None:
    saturate = DEFAULT.replace(e4m3fn_overflow="saturate")
    for name in ("float8_e4m3", "float8_e5m2", "bfloat16"):
        assert np.isinf(to_float32(cast(np.float32(np.inf), name, saturate)))


def test_fp4_saturates_and_has_no_nan() -> None:
    x = np.array([5, 7, 1e9, np.inf, -np.inf, np.nan, -np.nan], np.float32)
    assert bits_of(cast(x, "float4_e2m1fn")).tolist() == [6, 7, 7, 7, 15, 8, 8]


def test_e8m0_is_the_nearest_power_of_two_ties_upwards() -> None:
    x = [1, 1.49, 1.5, 0.74, 0.75, 3, 2.0**127, 1.49 * 2.0**127, 1.5 * 2.0**127, 2.0**-127, 2.0**-149]
    assert bits_of(cast(np.float32(x), "float8_e8m0fnu")).tolist() == [
        127, 127, 128, 126, 127, 129, 254, 254, 255, 0, 0,
    ]  # fmt: skip
    refused = np.float32([0, -0.0, -1, np.inf, -np.inf, np.nan])
    assert (bits_of(cast(refused, "float8_e8m0fnu")) == 0xFF).all()


def test_e8m0_every_code_and_the_numbers_around_each_midpoint() -> None:
    codes = np.arange(255)
    assert np.array_equal(bits_of(cast(table("float8_e8m0fnu")[:255], "float8_e8m0fnu")), codes)
    midpoints = np.ldexp(1.5, codes[:254] - 127)
    for dtype in (np.float32, np.float64):
        x = midpoints.astype(dtype)
        assert np.array_equal(bits_of(cast(x, "float8_e8m0fnu")), codes[1:])
        below = np.nextafter(x, dtype(0))
        assert np.array_equal(bits_of(cast(below, "float8_e8m0fnu")), codes[:254])


def test_infinity_and_signed_zero_survive() -> None:
    x = np.array([np.inf, -np.inf, 0.0, -0.0], np.float32)
    for name in ("bfloat16", "float16", "float8_e4m3", "float8_e5m2", "tfloat32", "float32"):
        assert np.array_equal(bits_of(to_float32(cast(x, name))), bits_of(x)), name


# --- integers and bool_ -----------------------------------------------------------------------------------


def test_published_integer_vectors() -> None:
    assert cast(np.float32([0.5, 1.5, 2.5, -1.5]), "int32").tolist() == [0, 2, 2, -2]
    assert cast(np.float32(3e9), "int32") == 2147483647
    assert cast(np.float32([3e9, -1, 255.5]), "uint8").tolist() == [255, 0, 255]
    assert cast(np.float32(300), "int8") == 127


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", INTEGERS)
def test_integers_saturate_at_their_limits(name: str, dtype: type) -> None:
    info = np.iinfo(name)
    x = np.array([np.inf, -np.inf, 1e30, -1e30, info.max, info.min, np.nan], dtype)
    assert cast(x, name).tolist() == [info.max, info.min, info.max, info.min, info.max, info.min, 0]


@pytest.mark.parametrize("name", ["int8", "uint8", "int16", "uint16"])
def test_halves_go_to_the_even_integer(name: str) -> None:
    info = np.iinfo(name)
    whole = np.arange(info.min - 2, info.max + 3)
    for x in ((whole + 0.5).astype(np.float32), whole + 0.5):
        expected = np.clip(whole + whole % 2, info.min, info.max)
        assert np.array_equal(cast(x, name), expected)
    assert np.array_equal(cast(whole.astype(np.float32), name), np.clip(whole, info.min, info.max))


def test_large_float32_values_reach_32_bit_integers_exactly() -> None:
    x = np.float32([2147483520, -2147483648, 2147483648, 4294967040, 4294967296, 16777217])
    assert cast(x, "int32").tolist() == [2147483520, -(2**31), 2**31 - 1, 2**31 - 1, 2**31 - 1, 16777216]
    assert cast(x, "uint32").tolist() == [2147483520, 0, 2**31, 4294967040, 2**32 - 1, 16777216]


@pytest.mark.parametrize("name", INTEGERS)
def test_nan_to_integer_follows_the_profile(name: str) -> None:
    info = np.iinfo(name)
    for choice, expected in {"zero": 0, "min": info.min, "max": info.max}.items():
        assert cast(np.float32([np.nan]), name, DEFAULT.replace(nan_to_int=choice))[0] == expected


def test_integers_of_another_width_pass_through_float32() -> None:
    x = np.array([2**24 + 1, 300, -5, 2**31 - 1], np.int32)
    assert cast(x, "int16").tolist() == [32767, 300, -5, 32767]
    assert cast(x, "uint32").tolist() == [2**24, 300, 0, 2**31]
    assert cast(x, "int32").tolist() == x.tolist()
    assert to_float32(x).tolist() == [2**24, 300, -5, 2**31]
    assert to_float32(np.array([2**24 + 3], np.uint32)).tolist() == [2**24 + 4]


def test_bool_is_whether_the_value_is_not_zero() -> None:
    x = np.float32([0, -0.0, 1, 0.3, -2, np.nan, np.inf])
    assert cast(x, "bool_").tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert cast(np.uint8([0, 1, 7]), "bool_").tolist() == [0, 1, 1]
    assert to_float32(np.uint8([0, 1, 7]), "bool_").tolist() == [0, 1, 1]
    assert to_float32(np.array([False, True])).tolist() == [0, 1]
    assert to_float32(np.array([False, True]), "bool_").tolist() == [0, 1]


# --- packed formats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "item"),
    [("float8_e4m3fn_x4", 0x48444038), ("float8_e5m2_x4", 0x4442403C), ("float4_e2m1fn_x4", 0x6542)],
)
def test_lane_zero_is_least_significant(name: str, item: int) -> None:
    values = np.float32([[1, 2, 3, 4]])
    assert cast(values, name).tolist() == [[item]]
    assert to_float32(np.array([[item]], FORMATS[name].storage), name).tolist() == values.tolist()


@pytest.mark.parametrize("name", ["float8_e4m3fn_x4", "float8_e5m2_x4", "float4_e2m1fn_x4"])
def test_packing_is_the_cast_of_each_lane(name: str) -> None:
    x = np.random.default_rng(3).standard_normal((5, 3, 32)).astype(np.float32)
    packed = cast(x, name)
    assert (packed.shape, packed.dtype) == ((5, 3, 8), FORMATS[name].storage)
    assert np.array_equal(to_float32(packed, name), to_float32(cast(x, FORMATS[name].element)))


def test_lanes_that_do_not_fill_an_item_are_refused() -> None:
    for shape in [(6,), ()]:
        with pytest.raises(ValueError, match="float4_e2m1fn_x4 packs 4 values"):
            cast(np.zeros(shape, np.float32), "float4_e2m1fn_x4")


# --- candidates of the profile, and misuse ----------------------------------------------------------------


@pytest.mark.parametrize("name", SIGNED)
def test_rounding_towards_zero_takes_the_code_below(name: str) -> None:
    values, midpoints = magnitudes(name)
    last = len(NARROW[name].finite()) - 1
    for dtype in (np.float32, np.float64):
        x = around(np.concatenate([values[:-1], midpoints]).astype(dtype))
        size = np.abs(x).astype(np.float64)
        expected = np.minimum(np.searchsorted(values, size, side="right") - 1, last)
        expected += np.where(np.signbit(x), len(NARROW[name].magnitudes()), 0)
        got = bits_of(cast(x, name, rounding="rz")).astype(int)
        assert_codes(got=got, expected=expected, name=name, of=x)


def test_rounding_towards_zero_keeps_infinity_and_cuts_integers() -> None:
    assert to_float32(cast(np.float32([np.inf, 3e38]), "float16", rounding="rz")).tolist() == [np.inf, 65504]
    assert cast(np.float32([1.9, -1.9, 300]), "int8", rounding="rz").tolist() == [1, -1, 127]
    assert cast(np.float64(1 + 2.0**-23 - 2.0**-40), "float32", rounding="rz") == 1
    assert cast(np.float32(1 + 2.0**-10 - 2.0**-20), "tfloat32", rounding="rz") == 1
    assert np.isnan(to_float32(cast(np.float32(np.inf), "float8_e4m3fn", rounding="rz")))


@pytest.mark.parametrize("name", [name for name in SIGNED if name != "float4_e2m1fn"])
def test_subnormal_results_are_flushed_when_the_profile_says_so(name: str) -> None:
    row = format_of(name)
    x = np.float32([row.min_subnormal, -row.min_subnormal, row.min_normal, 1, -0.0])
    got = to_float32(cast(x, name, DEFAULT.replace(subnormals_cast="ftz")))
    assert np.array_equal(bits_of(got), bits_of(np.float32([0, -0.0, row.min_normal, 1, -0.0])))
    assert np.array_equal(bits_of(to_float32(cast(x, name))), bits_of(x))


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="rounding 'up' is not known"):
        cast(np.float32(1), "bfloat16", rounding="up")
    with pytest.raises(ValueError, match="is stored as uint32, got an array of uint16"):
        to_float32(np.zeros(1, np.uint16), "float8_e5m2_x4")
    with pytest.raises(ValueError, match="not an NKI dtype"):
        to_float32(np.zeros(1, np.complex64))


def test_no_conversion_warns_of_what_it_is_meant_to_do() -> None:
    x = np.uint32([0x7F800001, 0xFF800001, 0x7F7FFFFF, 0x7F800000, 0x00000001]).view(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in FORMATS:
            if FORMATS[name].lanes == 1:
                to_float32(cast(x, name))


def test_the_input_is_never_written() -> None:
    x = np.random.default_rng(5).standard_normal(64)
    for source in (x, x.astype(np.float32)):
        source.setflags(write=False)
        for name in ("float32", "tfloat32", "bfloat16", "float8_e4m3", "int8", "int32", "float8_e5m2_x4"):
            assert cast(source, name).flags.writeable
