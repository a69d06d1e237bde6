"""Block formats: quantisation by groups of 32, scales, and the layouts that nc_matmul_mx reads.

A group is 8 consecutive partitions x 4 lanes (4 adjacent free elements before packing). Its scale is one e8m0
byte: 2^(byte - 127). Source: facts 3.8 and 4 of the numerics sheet (quantize_mx of NKI, OCP MX v1.0).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import cast, to_float32
from reference.numerics.formats import format_of
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.subnormals import read_operand

Array = NDArray[Any]

#: Partitions and lanes of one group.
GROUP_PARTITIONS = 8
LANES = 4
#: Scale sets that one quadrant of a scale tile can hold, 4 rows each.
SCALE_OFFSETS = (0, 4, 8, 12)
_NAN_SCALE = 0xFF


@dataclass(frozen=True)
class MxOperand:
    """One operand of nc_matmul_mx: element values and the scale of each group."""

    #: float32 [P, 4, F], the values of the packed elements without their scales.
    lanes: Array
    #: uint8 [P // 8, F].
    scales: Array
    #: Smallest normal magnitude of the element format.
    min_normal: float

    @classmethod
    def unpack(cls, data: Any, scales: Any, fmt: object) -> MxOperand:
        """From packed items [P, F] of an x4 format and scales [P // 8, F] (uint8 or e8m0)."""
        packed: Array = np.asarray(data)
        row = format_of(fmt)
        if row.kind != "packed" or packed.ndim != 2 or packed.shape[0] % GROUP_PARTITIONS:
            raise ValueError(f"mx operand: expects x4 items [8 n, F], got {packed.shape} of {row.name}")
        bytes_ = np.asarray(scales).view(np.uint8)
        if bytes_.shape != (packed.shape[0] // GROUP_PARTITIONS, packed.shape[1]):
            raise ValueError(f"mx operand: data {packed.shape} needs scales [P // 8, F], got {bytes_.shape}")
        values = to_float32(packed, row).reshape(*packed.shape, LANES)
        return cls(values.transpose(0, 2, 1), bytes_, format_of(row.element).min_normal)

    def values(self, profile: NumericsProfile = DEFAULT) -> Array:
        """Elements times their scales, float64 [P, 4, F]."""
        scale = np.repeat(scale_values(self.scales, profile), GROUP_PARTITIONS, axis=0)[:, None, :]
        with np.errstate(invalid="ignore"):
            scaled: Array = self.lanes.astype(np.float64) * scale
        return scaled

    def without_subnormals(self) -> MxOperand:
        """The operand whose subnormal elements read as zeros of their sign."""
        small = np.abs(self.lanes) < self.min_normal
        return replace(self, lanes=np.where(small, np.copysign(np.float32(0), self.lanes), self.lanes))


def scale_values(scales: Any, profile: NumericsProfile = DEFAULT) -> Array:
    """e8m0 bytes as float64: 2^(byte - 127); 0xFF is NaN, or 2^128 by `profile.mx_scale_ff`."""
    bytes_ = np.asarray(scales).view(np.uint8)
    values = np.ldexp(1.0, bytes_.astype(np.int32) - 127)
    return values if profile.mx_scale_ff == "pow128" else np.where(bytes_ == _NAN_SCALE, np.nan, values)


def encode_scale(exponent: Any) -> Array:
    """Exponents -127 .. 127 as e8m0 bytes, uint8; others raise ValueError."""
    values = np.asarray(exponent)
    if values.size and (values.min() < -127 or values.max() > 127):
        raise ValueError(f"mx scale: exponents run from -127 to 127, got {values.min()} to {values.max()}")
    return (values + 127).astype(np.uint8)


def scale_rows(partitions: int, offset: int = 0) -> Array:
    """Row of a scale tile that holds the scale of each of `partitions` data partitions: int64 [partitions].

    Quadrants of 32 partitions keep their scales in 4 rows of their own, at `offset` 0, 4, 8 or 12.
    """
    if offset not in SCALE_OFFSETS:
        raise ValueError(f"mx scale offset {offset} is none of {SCALE_OFFSETS}")
    p = np.arange(partitions)
    return 32 * (p // 32) + (p % 32) // GROUP_PARTITIONS + offset


def gather_scales(tile: Any, partitions: int, offset: int = 0) -> Array:
    """Scales of the groups [partitions // 8, F] out of a scale tile [rows, F]; its other rows are ignored."""
    rows = scale_rows(partitions, offset)[::GROUP_PARTITIONS]
    source: Array = np.asarray(tile)
    if rows.size and rows[-1] >= len(source):
        raise ValueError(f"mx scale tile has {len(source)} rows, {partitions} partitions need row {rows[-1]}")
    return source[rows]


def scatter_scales(tile: Array, scales: Any, offset: int = 0) -> None:
    """Write the scales of the groups [G, F] to their rows of a scale tile; its other rows stay."""
    groups = np.asarray(scales)
    tile[scale_rows(GROUP_PARTITIONS * len(groups), offset)[::GROUP_PARTITIONS]] = groups


def quantize_mx(x: Any, fmt: object, profile: NumericsProfile = DEFAULT) -> tuple[Array, Array]:
    """quantize_mx of one tile: packed items uint32 [P, F // 4] and scale bytes uint8 [P // 8, F // 4].

    The shared exponent is floor(log2 amax) - (Emax - 1) since NKI 0.5.0, where nothing can overflow, and
    floor(log2 amax) - Emax before (`profile.nki`), where elements are clipped to the largest finite value.
    NaN and infinity: by default the group's scale is 0xFF and its elements NaN (Q1). A group of zeros: scale
    byte 0, elements keep their signs. Elements too small for the scale become subnormals or zeros.

    Args:
        x: [P, F] bfloat16, float16 or float32 values, P a multiple of 8, F of 4.
        fmt: 'float8_e4m3fn_x4' or 'float8_e5m2_x4'.

    Raises:
        ValueError: another format or shape. (float4 has no quantisation instruction.)
    """
    row = format_of(fmt)
    values = read_operand(to_float32(x), profile)
    if row.name not in ("float8_e4m3fn_x4", "float8_e5m2_x4"):
        raise ValueError(f"quantize_mx: no quantisation to {row.name}; e4m3fn_x4 and e5m2_x4 only")
    if values.ndim != 2 or values.shape[0] % GROUP_PARTITIONS or values.shape[1] % LANES:
        raise ValueError(f"quantize_mx: expects [8 n, 4 m] values, got {values.shape}")
    groups = values.reshape(-1, GROUP_PARTITIONS, values.shape[1] // LANES, LANES)
    exponent, broken = _shared_exponents(groups, row.name, profile)
    scaled = np.ldexp(groups.astype(np.float64), -exponent[:, None, :, None])
    if profile.mx_scale_bias == 0:
        scaled = np.clip(scaled, -row.max_finite, row.max_finite)
    scaled[np.broadcast_to(broken[:, None, :, None], scaled.shape)] = np.nan
    packed = cast(scaled.reshape(values.shape), row, profile, rounding=profile.mx_round)
    scales: Array = encode_scale(exponent)
    scales[broken] = _NAN_SCALE
    return packed, scales


#: Exponent of the largest finite element.
_EMAX = {"float8_e4m3fn_x4": 8, "float8_e5m2_x4": 15}


def _shared_exponents(groups: Array, name: str, profile: NumericsProfile) -> tuple[Array, Array]:
    """(exponent of the scale, whether the group is NaN as a whole), both [G, F // 4]."""
    magnitude = np.abs(groups)
    finite = np.isfinite(groups).all(axis=(1, 3))
    with np.errstate(invalid="ignore"):
        top = np.where(np.isfinite(magnitude), magnitude, 0).max(axis=(1, 3))
    top_exponent = np.frexp(top)[1] - 1
    # 128 is what the exponent field of infinity and NaN would say.
    top_exponent = np.where(finite, top_exponent, 128)
    exponent = np.maximum(top_exponent - (_EMAX[name] - profile.mx_scale_bias), -127)
    exponent = np.where(finite & (top == 0), -127, exponent)
    broken: Array = np.logical_and(~finite, profile.mx_special == "nan_group")
    return np.where(broken, 0, exponent), broken
