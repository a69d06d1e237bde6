"""Every conversion between number formats, in one place and with one rounding.

The rules are those of the write port of the compute engines: values are float32, rounding is to nearest even,
floats overflow to infinity, integers saturate. Sources: facts 2.1 to 2.4 of the numerics sheet; what is open
is a profile field (V4 `e4m3fn_overflow` and `nan_to_int`, U5 `tf32_operand`, U6 `subnormals_cast`).

Not modelled: stochastic rounding (V9), and the payload and sign of NaN, which differ between machines;
compare NaN as a class.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from reference.numerics.formats import Format, format_of
from reference.numerics.profile import DEFAULT, NumericsProfile

Array = NDArray[Any]

_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
#: The formats whose container tells them.
_FORMAT_OF = {_FLOAT32: format_of("float32"), _BFLOAT16: format_of("bfloat16")}
#: Host types that no format has and that a cast nevertheless reads.
_HOST_TYPES = tuple(map(np.dtype, (np.float64, np.int64, np.uint64)))


def to_float32(x: Any, fmt: object = None) -> Array:
    """The value of every element of `x` as float32, in an array of the same shape that may be `x` itself.

    NaN stays NaN, infinities, subnormals and -0 are kept. Exact for every float format and for integers up to
    2^24; larger integers round to nearest even, as they do on the way into an engine. e8m0 code b is
    2^(b - 127), 0xFF is NaN. bool_ is 0 or 1: any other byte counts as 1. float64 and 64-bit integers are
    rounded once, to nearest even, overflow to infinity.

    Args:
        x: array [..., n] of any storage dtype, or float64, int64, uint64.
        fmt: format of `x` where the container does not tell it: bool_, tfloat32 (read as it stands: its low
            bits were zeroed when it was written) or packed. Packed items give their lanes, lane 0 first,
            along the last axis: [..., lanes * n].

    Raises:
        ValueError: unknown format or dtype, or an array whose dtype is not the storage of `fmt`.
    """
    values: Array = np.asarray(x)
    # The two most frequent cases first: the rest of the way costs as much as converting a small tile.
    if fmt is None or fmt is _FORMAT_OF.get(values.dtype):
        if values.dtype == _BFLOAT16:
            return values.astype(np.float32)
        if values.dtype == _FLOAT32:
            return values
    if fmt is not None:
        return _decode(values, format_of(fmt))
    if values.dtype == _FLOAT32:
        return values
    if values.dtype not in _HOST_TYPES and (source := format_of(values.dtype)).is_float and source.bits <= 8:
        return _by_table(values, source)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values.astype(np.float32)


def cast(x: Any, fmt: object, profile: NumericsProfile = DEFAULT, *, rounding: str = "rne") -> Array:
    """`x` rounded once into `fmt`, as a new array of `fmt.storage`.

    NaN: stays NaN; to integers by `profile.nan_to_int`; to bool_ 1; to fp4, which has none, -0.
    Infinity and overflow: infinity in formats that have it; e4m3fn NaN or +-448 by `profile.e4m3fn_overflow`;
    fp4 +-6; integers their limits; e8m0 NaN (0xFF), which it also gives for zero and negative values.
    -0 and subnormals are kept (subnormal results become zeros under `profile.subnormals_cast` 'ftz').
    Ties go to even; in e8m0, which has no fraction to be even, upwards (as ml_dtypes). To bool_: x != 0.

    A conversion to the dtype `x` already has copies the bits (except into tfloat32 and bool_). All other
    sources but float64 pass through float32, as they do on the chip, so int32 -> int16 loses bits above 2^24
    before it saturates. float64 is rounded directly, never through float32.

    Args:
        x: array [..., n] of any storage dtype or float64, int64, uint64; for packed `fmt` the values
            [..., lanes * n], lane 0 first.
        fmt: anything `format_of` takes.
        rounding: 'rne', or 'rz' for the candidates that cut towards zero (D1, Q1): finite values then never
            overflow to infinity.

    Raises:
        ValueError: unknown format, dtype or rounding, or a last axis that does not fill packed items.
    """
    target = format_of(fmt)
    plain = rounding == "rne" and profile.subnormals_cast == "keep"
    if plain and target.storage == _BFLOAT16 and type(x) is np.ndarray and x.dtype == _FLOAT32 and x.ndim:
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return x.astype(_BFLOAT16)
    if rounding not in ("rne", "rz"):
        raise ValueError(f"cast: rounding {rounding!r} is not known; choose 'rne' or 'rz'")
    if target.kind == "packed":
        return _pack(cast(x, target.element, profile, rounding=rounding), target)
    source: Array = np.asarray(x)
    if source.ndim == 0:
        return cast(source.reshape(1), target, profile, rounding=rounding).reshape(())
    if source.dtype == target.storage and target.name not in ("tfloat32", "bool_"):
        return source.copy()
    values = source if source.dtype == _FLOAT64 else to_float32(source)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return _encode(values, target, profile, rounding)


def _encode(x: Array, target: Format, profile: NumericsProfile, rounding: str) -> Array:
    """float32 or float64 into an unpacked format."""
    if target.kind == "bool":
        return np.not_equal(x, 0).astype(target.storage)
    if target.is_integer:
        return _to_integer(np.rint(x) if rounding == "rne" else np.trunc(x), target, profile)
    if target.name == "tfloat32" and profile.tf32_operand == "none":
        target = format_of("float32")
    code = _nearest(x, target, profile)
    if rounding == "rz":
        code = _towards_zero(x, code, target)
    return _flush(code, target) if profile.subnormals_cast == "ftz" else code


def _nearest(x: Array, target: Format, profile: NumericsProfile) -> Array:
    if target.name == "float32":
        return x.astype(np.float32)
    if x.dtype == _FLOAT64:
        x = _round_to_odd(x)
    if target.name == "tfloat32":
        return _to_tfloat32(x, profile)
    if target.bits <= 8:
        return _to_byte(x, target, profile)
    return x.astype(target.storage)


# --- float64 in one rounding ------------------------------------------------------------------------------


def _round_to_odd(x: Array) -> Array:
    """float64 to a float32 that no later rounding to 22 or fewer significant bits can tell from it.

    Inexact values go to the neighbour with the odd significand (Boldo and Melquiond 2008), so overflow gives
    the largest finite value and underflow the smallest subnormal. NaN and infinities pass.
    """
    y = x.astype(np.float32)
    widened = y.astype(np.float64)
    bits = y.view(np.uint32)
    # Towards zero first (the pattern of a float orders like its magnitude), then to the odd one of the two.
    bits -= np.abs(widened) > np.abs(x)
    bits |= (widened != x) & ~np.isnan(x)
    return y


# --- integers ---------------------------------------------------------------------------------------------


def _to_integer(rounded: Array, target: Format, profile: NumericsProfile) -> Array:
    """Saturation. The limits of 32-bit integers are no float32 values, so these are clipped in float64."""
    wide = rounded.astype(np.float64) if target.bits == 32 else rounded
    is_nan = np.isnan(wide)
    limited = np.clip(wide, target.min_finite, target.max_finite)
    if is_nan.any():
        limited[is_nan] = {"zero": 0, "min": target.min_finite, "max": target.max_finite}[profile.nan_to_int]
    return np.asarray(limited.astype(target.storage))


# --- tfloat32 ---------------------------------------------------------------------------------------------


def _to_tfloat32(x: Array, profile: NumericsProfile) -> Array:
    """The low 13 fraction bits rounded away (U5 'rne') or cut off ('rz').

    A carry out of the fraction moves into the exponent, and from the largest finite value to infinity.
    """
    bits = x.view(np.uint32)
    if profile.tf32_operand == "rne":
        bits = bits + (0xFFF + ((bits >> 13) & 1))
    kept = (bits & 0xFFFFE000).view(np.float32)
    # The arithmetic on patterns can turn a NaN into an infinity or a zero.
    return np.where(np.isnan(x), x, kept)


# --- formats of 8 and fewer bits, by table ----------------------------------------------------------------


@cache
def _values(fmt: Format) -> Array:
    """float32 value of every code of a one-byte format (fp4: of its 16 codes)."""
    codes = np.arange(2**fmt.bits, dtype=np.uint8)
    with np.errstate(invalid="ignore"):
        return codes.view(fmt.storage).astype(np.float32)


def _by_table(x: Array, fmt: Format) -> Array:
    """Values by table: several times faster than the element-wise conversion of ml_dtypes."""
    return np.asarray(_values(fmt).take(x.view(np.uint8), mode="clip"))


@cache
def _codes(fmt: Format, saturate: bool) -> Array:
    """Code of `fmt` for each of the 65,536 bfloat16 patterns; every NaN has the same code."""
    values = np.arange(65536, dtype=np.uint16).view(_BFLOAT16).astype(np.float32)
    if not fmt.signed:
        return _e8m0_codes(values)
    is_nan = np.isnan(values)
    with np.errstate(over="ignore", invalid="ignore"):
        codes = np.where(is_nan, np.float32(np.nan), values).astype(fmt.storage).view(np.uint8)
        if saturate:
            limited = np.clip(values, fmt.min_finite, fmt.max_finite).astype(fmt.storage).view(np.uint8)
            codes = np.where(is_nan, codes, limited)
    if not fmt.has_nan:
        codes[is_nan] = 1 << (fmt.bits - 1)
    return codes


def _e8m0_codes(values: Array) -> Array:
    """Number of midpoints 1.5 * 2^k at or below the value.

    Not by ml_dtypes: version 0.6 takes values just below 1.5 * 2^-127 up to 2^-126.
    """
    midpoints = np.ldexp(1.5, np.arange(255) - 127)
    codes = np.searchsorted(midpoints, values.astype(np.float64), side="right")
    return np.where(values > 0, codes, 0xFF).astype(np.uint8)


def _to_byte(x: Array, target: Format, profile: NumericsProfile) -> Array:
    """float32 to 8 and fewer bits: round to odd at bfloat16 precision, then look the code up.

    Eight significant bits, the last one sticky, decide any rounding to six or fewer (Boldo and Melquiond).
    """
    saturate = target.name == "float8_e4m3fn" and profile.e4m3fn_overflow == "saturate"
    bits = x.view(np.uint32)
    index = bits >> 16
    index |= (bits & 0xFFFF) != 0
    return np.asarray(_codes(target, saturate).take(index, mode="clip").view(target.storage))


# --- other roundings of the profile -----------------------------------------------------------------------


def _towards_zero(x: Array, code: Array, target: Format) -> Array:
    """One step back where rounding to nearest went away from zero; codes order like magnitudes.

    Covers overflow: infinity (or, in e4m3fn, NaN) from a finite value steps back to the largest finite code.
    """
    value = to_float32(code).astype(np.float64)
    beyond = (np.abs(value) > np.abs(x)) | (np.isnan(value) & np.isfinite(x) & target.signed)
    step = 1 << 13 if target.name == "tfloat32" else 1
    patterns = code.view(f"u{target.itemsize}")
    return np.asarray((patterns - beyond * patterns.dtype.type(step)).view(target.storage))


def _flush(code: Array, target: Format) -> Array:
    """Subnormal results become zeros of the same sign (U6 'ftz'); float32 is no narrowing, e8m0 has none."""
    if target.name == "float32" or not target.signed:
        return code
    sign = code.view(f"u{target.itemsize}") & code.dtype.type(-0.0).view(f"u{target.itemsize}")
    small = np.abs(to_float32(code)) < target.min_normal
    return np.where(small, sign.view(target.storage), code)


# --- packed items, and containers that do not tell their format -------------------------------------------


def _decode(x: Array, fmt: Format) -> Array:
    if x.dtype != fmt.storage and not (fmt.kind == "bool" and x.dtype == np.bool_):
        raise ValueError(f"{fmt.name} is stored as {fmt.storage}, got an array of {x.dtype}")
    if fmt.kind == "packed":
        return _by_table(_unpack(x, fmt), format_of(fmt.element))
    return (x != 0).astype(np.float32) if fmt.kind == "bool" else to_float32(x)


def _pack(lanes: Array, target: Format) -> Array:
    """Lane codes in one byte each [..., lanes * n] to packed items [..., n], lane 0 least significant."""
    if lanes.ndim == 0 or lanes.shape[-1] % target.lanes:
        raise ValueError(f"{target.name} packs {target.lanes} values: last axis of {lanes.shape} is short")
    codes = lanes.view(np.uint8).astype(target.storage)
    items = codes[..., 0 :: target.lanes].copy()
    for lane, shift in enumerate(_lane_shifts(target)[1:], start=1):
        items |= codes[..., lane :: target.lanes] << shift
    return items


def _unpack(x: Array, fmt: Format) -> Array:
    """Packed items [..., n] to lane codes in one byte each [..., lanes * n]."""
    mask = fmt.storage.type(2 ** (fmt.bits // fmt.lanes) - 1)
    codes: Array = (x[..., None] >> _lane_shifts(fmt)) & mask
    return codes.astype(np.uint8).reshape(*x.shape[:-1], -1)


def _lane_shifts(fmt: Format) -> Array:
    return np.arange(0, fmt.bits, fmt.bits // fmt.lanes, dtype=fmt.storage)
