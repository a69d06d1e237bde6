"""The records of the number formats agree with their bit fields; every spelling of a dtype finds its row."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from conformance.tests.numerics.code_tables import NARROW
from reference.numerics.formats import FORMATS, LANE_FORMATS, Format, format_of

NKI_NAMES = {
    "bool_", "int8", "int16", "int32", "uint8", "uint16", "uint32",
    "float16", "float32", "bfloat16", "tfloat32",
    "float8_e4m3", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu",
    "float8_e4m3fn_x4", "float8_e5m2_x4", "float4_e2m1fn_x4",
}  # fmt: skip


def test_there_is_one_record_per_nki_dtype_name() -> None:
    assert set(FORMATS) == NKI_NAMES
    assert all(name == row.name for name, row in FORMATS.items())


@pytest.mark.parametrize("name", NARROW)
def test_record_agrees_with_the_bit_fields(name: str) -> None:
    row, bits = format_of(name), NARROW[name]
    finite = [float(bits.exact(code)) for code in bits.finite()]
    assert (row.bits, row.exponent_bits, row.mantissa_bits, row.bias, row.signed) == (
        bits.bits, bits.exponent_bits, bits.fraction_bits, bits.bias, bits.signed,
    )  # fmt: skip
    assert row.max_finite == max(finite)
    assert row.min_subnormal == min(value for value in finite if value > 0)
    assert row.min_normal == float(bits.exact(2**bits.fraction_bits)) if bits.signed else min(finite)
    assert row.has_inf == (bits.infinity is not None)
    assert row.has_nan == bool(bits.nan)


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("float8_e4m3", 240),
        ("float8_e4m3fn", 448),
        ("float8_e5m2", 57344),
        ("float16", 65504),
        ("float4_e2m1fn", 6),
    ],
)
def test_largest_finite_values_are_those_of_the_documents(name: str, largest: float) -> None:
    assert format_of(name).max_finite == largest


def test_tfloat32_is_a_float32_container_with_ten_fraction_bits() -> None:
    row = FORMATS["tfloat32"]
    assert (row.storage, row.bits, row.mantissa_bits) == (np.dtype(np.float32), 32, 10)
    assert row.max_finite == np.array([0x7F7FE000], np.uint32).view(np.float32)[0]
    assert (row.min_normal, row.min_subnormal) == (2.0**-126, 2.0**-136)


@pytest.mark.parametrize(
    ("name", "itemsize", "element"),
    [
        ("float8_e4m3fn_x4", 4, "float8_e4m3fn"),
        ("float8_e5m2_x4", 4, "float8_e5m2"),
        ("float4_e2m1fn_x4", 2, "float4_e2m1fn"),
    ],
)
def test_packed_records_hold_four_lanes_of_their_element(name: str, itemsize: int, element: str) -> None:
    row = FORMATS[name]
    assert (row.kind, row.lanes, row.itemsize, row.element) == ("packed", 4, itemsize, element)
    assert row.bits == 4 * format_of(element).bits


@pytest.mark.parametrize("name", ["int8", "int16", "int32", "uint8", "uint16", "uint32"])
def test_integer_records_span_their_type(name: str) -> None:
    row, info = FORMATS[name], np.iinfo(name)
    assert (row.min_finite, row.max_finite, row.signed) == (info.min, info.max, name.startswith("int"))


@pytest.mark.parametrize("row", [*FORMATS.values(), *LANE_FORMATS.values()], ids=lambda row: row.name)
def test_every_spelling_of_a_name_finds_its_record(row: Format) -> None:
    for name in (row.name, *row.aliases):
        assert format_of(name) is row
        assert format_of(f"nki.language.{name}") is row
        assert format_of(np.str_(name)) is row
    assert format_of(row) is row


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (np.float32, "float32"),
        (np.dtype("float16"), "float16"),
        (np.uint8, "uint8"),
        (np.bool_, "bool_"),
        (bool, "bool_"),
        (ml_dtypes.bfloat16, "bfloat16"),
        (np.dtype(ml_dtypes.float8_e4m3), "float8_e4m3"),
        (ml_dtypes.float8_e4m3fn, "float8_e4m3fn"),
        (ml_dtypes.float8_e8m0fnu, "float8_e8m0fnu"),
        (ml_dtypes.float4_e2m1fn, "float4_e2m1fn"),
        (np.ones(1, ml_dtypes.bfloat16).dtype, "bfloat16"),
    ],
    ids=str,
)
def test_numpy_types_find_their_record(given: object, name: str) -> None:
    assert format_of(given).name == name


def test_foreign_dtypes_are_known_by_how_they_print() -> None:
    class Foreign:
        def __str__(self) -> str:
            return "torch.bfloat16"

    assert format_of(Foreign()).name == "bfloat16"


@pytest.mark.parametrize("given", [None, float, "float64", np.int64, "", "bf16", object, 3, np.dtype(">f4")], ids=repr)
def test_what_is_no_nki_dtype_is_refused_in_one_line(given: object) -> None:
    with pytest.raises(ValueError, match="is not an NKI dtype") as caught:
        format_of(given)
    assert "\n" not in str(caught.value)
