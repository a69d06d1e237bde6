"""The number formats of NKI as records: one row per dtype name, and nothing else knows their fields.

Adding a format is adding one row to `FORMATS`; casts, ULP distances and every parametrised test follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class Format:
    """One number format. For packed formats (`lanes` > 1) the numeric fields are those of one element."""

    name: str
    #: Bits of one item; a packed item holds `lanes` elements. (An ml_dtypes fp4 element wastes half a byte.)
    bits: int
    #: 'float', 'int', 'bool' or 'packed'.
    kind: str
    #: NumPy dtype that holds the bits (packed items are unsigned integers, tfloat32 lives in a float32).
    storage: np.dtype[Any]
    exponent_bits: int = 0
    #: Stored fraction bits, without the implied leading one.
    mantissa_bits: int = 0
    bias: int = 0
    max_finite: float = 0.0
    #: Smallest positive normal value, and smallest positive value of all.
    min_normal: float = 0.0
    min_subnormal: float = 0.0
    has_inf: bool = False
    has_nan: bool = False
    signed: bool = True
    lanes: int = 1
    #: Name of the format of one lane of a packed item, else None.
    element: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def itemsize(self) -> int:
        """Bytes of one stored item."""
        return self.storage.itemsize

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind == "int"

    @property
    def min_finite(self) -> float:
        """Most negative finite value; formats without a sign start at 0 (e8m0: at 2^-127)."""
        if not self.signed:
            return self.min_subnormal if self.is_float else 0.0
        return -self.max_finite - 1.0 if self.is_integer else -self.max_finite


def _float(
    name: str,
    storage: Any,
    exponent_bits: int,
    mantissa_bits: int,
    max_finite: float,
    *aliases: str,
    bias: int | None = None,
    has_inf: bool = True,
    has_nan: bool = True,
) -> Format:
    bias = 2 ** (exponent_bits - 1) - 1 if bias is None else bias
    dtype = np.dtype(storage)
    return Format(
        name=name,
        bits=8 * dtype.itemsize,
        kind="float",
        storage=dtype,
        exponent_bits=exponent_bits,
        mantissa_bits=mantissa_bits,
        bias=bias,
        max_finite=max_finite,
        min_normal=2.0 ** (1 - bias),
        min_subnormal=2.0 ** (1 - bias - mantissa_bits),
        has_inf=has_inf,
        has_nan=has_nan,
        aliases=aliases,
    )


def _integer(name: str) -> Format:
    info = np.iinfo(name)
    return Format(
        name=name,
        bits=info.bits,
        kind="int",
        storage=np.dtype(name),
        max_finite=float(info.max),
        min_normal=1.0,
        min_subnormal=1.0,
        signed=info.min < 0,
    )


def _packed(element: Format, storage: Any) -> Format:
    fields = {**element.__dict__, "aliases": ()}
    dtype = np.dtype(storage)
    fields.update(name=f"{element.name}_x4", bits=8 * dtype.itemsize, kind="packed", storage=dtype)
    return Format(**{**fields, "lanes": 4, "element": element.name})


#: No sign, no zero, no infinity, no subnormals: a code b is 2^(b - 127), 0xFF is NaN.
_E8M0 = Format(
    name="float8_e8m0fnu",
    bits=8,
    kind="float",
    storage=np.dtype(ml_dtypes.float8_e8m0fnu),
    exponent_bits=8,
    bias=127,
    max_finite=2.0**127,
    min_normal=2.0**-127,
    min_subnormal=2.0**-127,
    has_nan=True,
    signed=False,
)

_BOOL = Format(
    name="bool_",
    bits=8,
    kind="bool",
    storage=np.dtype(np.uint8),
    max_finite=1.0,
    min_normal=1.0,
    min_subnormal=1.0,
    signed=False,
    aliases=("bool",),
)

_FLOAT32 = _float("float32", np.float32, 8, 23, float(np.finfo(np.float32).max))
#: A float32 container whose low 13 fraction bits are zero.
_TFLOAT32 = _float("tfloat32", np.float32, 8, 10, (2 - 2.0**-10) * 2.0**127, "float32r")
_BFLOAT16 = _float("bfloat16", ml_dtypes.bfloat16, 8, 7, (2 - 2.0**-7) * 2.0**127)
_FLOAT16 = _float("float16", np.float16, 5, 10, 65504.0)
#: The IEEE-style e4m3 (240, has infinity), which the Neuron documents call FP8_EXP4, not the OCP one.
_E4M3 = _float("float8_e4m3", ml_dtypes.float8_e4m3, 4, 3, 240.0, "float8e4")
_E4M3FN = _float("float8_e4m3fn", ml_dtypes.float8_e4m3fn, 4, 3, 448.0, has_inf=False)
_E5M2 = _float("float8_e5m2", ml_dtypes.float8_e5m2, 5, 2, 57344.0, "float8e5")
_E2M1 = replace(_float("float4_e2m1fn", ml_dtypes.float4_e2m1fn, 2, 1, 6.0, has_inf=False, has_nan=False), bits=4)

#: The formats NKI has a dtype name for.
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        row.name: row
        for row in (
            _BOOL,
            *map(_integer, ("int8", "int16", "int32", "uint8", "uint16", "uint32")),
            _FLOAT16,
            _FLOAT32,
            _BFLOAT16,
            _TFLOAT32,
            _E4M3,
            _E4M3FN,
            _E5M2,
            _E8M0,
            _packed(_E4M3FN, np.uint32),
            _packed(_E5M2, np.uint32),
            _packed(_E2M1, np.uint16),
        )
    }
)

#: Formats that exist only as lanes of a packed one; NKI has no dtype name for them.
LANE_FORMATS: Mapping[str, Format] = MappingProxyType({_E2M1.name: _E2M1})

_BY_NAME = {name: row for row in (*FORMATS.values(), *LANE_FORMATS.values()) for name in (row.name, *row.aliases)}
#: tfloat32, bool_ and the packed formats share a container with a plain type: a NumPy dtype means that one.
_BY_STORAGE = {row.storage: row for row in _BY_NAME.values() if row.kind in ("float", "int") and row.name != "tfloat32"}
_BY_STORAGE[np.dtype(np.bool_)] = _BOOL


def format_of(dtype: object) -> Format:
    """The format that `dtype` names.

    Accepts a `Format`; a name or alias, with or without a module prefix ('nki.language.bfloat16'); a NumPy
    dtype or scalar type, ml_dtypes types included; and foreign dtypes whose str() ends in such a name
    (torch.bfloat16). A float32 container means float32 (tfloat32 must be named), uint8 means uint8.

    Raises:
        ValueError: anything else, among them float64 and int64, which NKI does not have.
    """
    if isinstance(dtype, Format):
        return dtype
    found = _by_name(dtype) if isinstance(dtype, str) else _by_numpy(dtype) or _by_name(str(dtype))
    if found is None:
        raise ValueError(f"{dtype!r} is not an NKI dtype; known are {', '.join(FORMATS)}")
    return found


def _by_name(name: str) -> Format | None:
    return _BY_NAME.get(name.rpartition(".")[2])


def _by_numpy(dtype: Any) -> Format | None:
    # np.dtype(None) would answer float64.
    if dtype is None:
        return None
    try:
        return _BY_STORAGE.get(np.dtype(dtype))
    except TypeError:
        return None
