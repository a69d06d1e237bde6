"""Probes of GpSimd (G1, G2), of DMA (D1, D2), and of casts, which every engine has (V4, V9, a part of U6).

Sources of the designs: numerics fact sheet, 11.2 and 11.4.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from conformance.probes import fprev, masks
from conformance.probes.host import Answers, bfloat16, float32
from conformance.probes.probe import Array, Band, Expected, Outputs, Probe, Readings, Setting, call, cells
from conformance.subject import Call

_NAN, _INF = math.nan, math.inf
_ENGINES = ("vector", "scalar", "gpsimd", "dma")


def _row(*values: float) -> Array:
    with np.errstate(over="ignore"):
        return np.array([values], np.float32)


def _cast(dtype: str, *values: float) -> Call:
    return call("gpsimd_dma.casts", {"x": _row(*values), "dtype": dtype}, *_ENGINES)


def _read_casts(out: Outputs, setting: Setting) -> Readings:
    return {f"{name}, {engine}": cells(out[name][engine])[0] for name in out for engine in _ENGINES}


# --- V4: special values -------------------------------------------------------------------------------------

_TO_INTEGERS = (_NAN, _INF, -_INF, 300.5, -300.5, 2.5, -0.0)
_LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "int32": (-(2**31), 2**31 - 1)}


def _integer(x: float, dtype: str, nan: str) -> float:
    low, high = _LIMITS[dtype]
    if math.isnan(x):
        return float({"zero": 0, "min": low, "max": high}[nan])
    return float(low if x < low else high if x > high else round(x))


def _integers_table(answers: Answers, setting: Setting) -> Expected:
    return {
        f"{dtype}, {engine}": np.array([_integer(x, dtype, answers["nan_to_int"]) for x in _TO_INTEGERS])
        if engine != "dma" or answers["dma_cast_round"] == "rne"
        else np.array([_integer(_cut(x), dtype, answers["nan_to_int"]) for x in _TO_INTEGERS])
        for dtype in _LIMITS
        for engine in _ENGINES
    }


def _cut(x: float) -> float:
    return float(math.trunc(x)) if math.isfinite(x) else x


V4_INTEGERS = Probe(
    "V4",
    "NaN, infinities, values out of range and a tie to int8, uint8, int16 and int32, on three engines and by DMA",
    ("nan_to_int",),
    lambda setting: {dtype: _cast(dtype, *_TO_INTEGERS) for dtype in _LIMITS},
    _read_casts,
    _integers_table,
    needs=("dma_cast_round",),
)

_TO_E4M3FN = (464.0, 464.01, 480.0, 1e9, _INF, -_INF, _NAN, -0.0, -1e9)


def _e4m3fn(x: float, overflow: str, cut: bool) -> float:
    """Only for the values of `_TO_E4M3FN`: 464 is the last that rounds to 448."""
    if math.isnan(x) or abs(x) == 0:
        return x
    if abs(x) <= 464 or overflow == "saturate" or (cut and math.isfinite(x)):
        return math.copysign(448.0, x)
    return _NAN


def _e4m3fn_table(answers: Answers, setting: Setting) -> Expected:
    def cast(engine: str) -> Array:
        cut = engine == "dma" and answers["dma_cast_round"] == "rz"
        return np.array([_e4m3fn(x, answers["e4m3fn_overflow"], cut) for x in _TO_E4M3FN])

    return {f"float8_e4m3fn, {engine}": cast(engine) for engine in _ENGINES}


V4_E4M3FN = Probe(
    "V4",
    "464, 464.01, 480, 1e9, infinities, NaN and -0 to float8_e4m3fn, on three engines and by DMA",
    ("e4m3fn_overflow",),
    lambda setting: {"float8_e4m3fn": _cast("float8_e4m3fn", *_TO_E4M3FN)},
    _read_casts,
    _e4m3fn_table,
    needs=("dma_cast_round",),
    since=4,
)


# --- U6: casts into the subnormals --------------------------------------------------------------------------

#: Format -> values whose codes are subnormal; the last one is the smallest normal number.
_INTO_SUBNORMALS = {
    "float16": (2.0**-24, 3 * 2.0**-20, 2.0**-15, 2.0**-14),
    "float8_e4m3": (2.0**-9, 3 * 2.0**-9, 2.0**-7, 2.0**-6),
    "float8_e5m2": (2.0**-16, 3 * 2.0**-16, 2.0**-15, 2.0**-14),
}


def _subnormal_codes(answers: Answers, setting: Setting) -> Expected:
    flush = answers["subnormals_cast"] == "ftz"
    return {
        f"{dtype}, {engine}": np.array([0.0 if flush and x < values[-1] else x for x in values])
        for dtype, values in _INTO_SUBNORMALS.items()
        for engine in _ENGINES
    }


U6_CASTS = Probe(
    "U6",
    "casts to fp16, e4m3 and e5m2 below their smallest normal numbers, on three engines and by DMA",
    ("subnormals_cast",),
    lambda setting: {dtype: _cast(dtype, *values) for dtype, values in _INTO_SUBNORMALS.items()},
    lambda out, setting: {name: values + 0.0 for name, values in _read_casts(out, setting).items()},
    _subnormal_codes,
)


# --- D1, D2: DMA --------------------------------------------------------------------------------------------

_TO_BF16 = (1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20, 3.4e38, -3.4e38)
_LARGEST_BF16 = 255 * 2.0**120


def dma_bfloat16(x: float, rule: str) -> float:
    """A DMA cast to bf16 (D1): to nearest even, or cut."""
    near = bfloat16(x)
    if rule == "rz" and abs(near) > abs(x):
        return math.copysign(abs(near) - 2.0 ** (math.frexp(x)[1] - 8), x)
    return math.copysign(_INF, x) if abs(near) > _LARGEST_BF16 else near


def _dma_casts(rule: str) -> Array:
    return np.array([dma_bfloat16(float(np.float32(x)), rule) for x in _TO_BF16])


D1_CAST = Probe(
    "D1",
    "ties, a value above a tie and 3.4e38 of both signs to bf16 by DMA",
    ("dma_cast_round",),
    lambda setting: {"bfloat16": _cast("bfloat16", *_TO_BF16)},
    _read_casts,
    lambda answers, setting: {
        "bfloat16, vector": _dma_casts("rne"),
        "bfloat16, dma": _dma_casts(answers["dma_cast_round"]),
    },
)

_SOURCES = ((2.0**24, 1.0, 1.0), (1.0, 1.0, 2.0**24), (1.0, 2.0**24, 1.0))


def _added(order: str) -> Array:
    totals = []
    for sources in _SOURCES:
        first, second, third = sources if order == "list" else sources[::-1]
        totals.append(float32(float32(first + second) + third))
    return np.array(totals)


D1_ORDER = Probe(
    "D1",
    "2^24, 1 and 1 in every place of the sources of dma_compute",
    ("dma_add_order",),
    lambda setting: {
        "sums": call(
            "gpsimd_dma.sum_of_sources",
            {name: _row(*column) for name, column in zip("abc", zip(*_SOURCES, strict=True), strict=True)},
        )
    },
    lambda out, setting: {"sums": cells(out["sums"]["out"])[0]},
    lambda answers, setting: {"sums": _added(answers["dma_add_order"])},
)

D2 = Probe(
    "D2",
    "the casts of D1 by descriptors of the compiler's choice and of software, and an uncast copy by hardware ones",
    ("dge_cast",),
    lambda setting: {
        "casts": call(
            "gpsimd_dma.descriptors", {"x": _row(*_TO_BF16), "dtype": "bfloat16"}, "unknown", "swdge", "hwdge, no cast"
        )
    },
    lambda out, setting: {name: cells(values)[0] for name, values in out["casts"].items()},
    lambda answers, setting: {
        "unknown": _dma_casts(answers["dma_cast_round"]),
        "swdge": _dma_casts(answers["dma_cast_round"]),
        "hwdge, no cast": cells(_row(*_TO_BF16))[0],
    },
    needs=("dma_cast_round",),
    since=3,
)


# --- V9: stochastic rounding --------------------------------------------------------------------------------

_COPIES, _PARTS = 128, 64


def _between() -> Array:
    """fp32 [128, 64]: column k holds 1 + 2^-7 k / 64 in every row, k 64ths of the way between two bf16 numbers."""
    return np.broadcast_to(1 + 2.0**-7 * np.arange(_PARTS, dtype=np.float32) / _PARTS, (_COPIES, _PARTS)).copy()


def _shares_up(answers: Answers, engine: str) -> Array | Band:
    """Share of the copies that were rounded up, per k."""
    way = np.arange(_PARTS) / _PARTS
    if answers["stochastic"] == "drawn":
        # 128 draws scatter by 0.044; five times that.
        return Band(np.maximum(way - 0.22, 0.0), np.minimum(way + 0.22, 1.0))
    cut = engine == "dma" and answers["dma_cast_round"] == "rz"
    return np.where(way > 0.5, 0.0 if cut else 1.0, 0.0)


V9 = Probe(
    "V9",
    "128 copies of each of 64 values between 1 and 1 + 2^-7 to bf16: the share rounded up, per engine",
    ("stochastic",),
    lambda setting: {"bf16": call("gpsimd_dma.casts", {"x": _between(), "dtype": "bfloat16"}, *_ENGINES)},
    lambda out, setting: {engine: (cells(out["bf16"][engine]) > 1).mean(axis=0) for engine in _ENGINES},
    lambda answers, setting: {engine: _shares_up(answers, engine) for engine in _ENGINES},
    needs=("dma_cast_round",),
    others={"stochastic": {"drawn": "rounded up with a probability of the distance; generator and bits not known"}},
)


# --- G1: GpSimd sums ----------------------------------------------------------------------------------------

_INTEGERS = {
    "a": (2**31 - 1, -(2**31), 65537, -65537, 3),
    "b": (1, -1, 65537, 65537, 4),
}


def _stored(x: int, rule: str) -> int:
    if rule == "wrap":
        return (x + 2**31) % 2**32 - 2**31
    return max(-(2**31), min(2**31 - 1, x))


def _integer_table(answers: Answers, setting: Setting) -> Expected:
    pairs, rule = list(zip(*_INTEGERS.values(), strict=True)), answers["int_overflow"]
    return {
        "a + b": np.array([float(_stored(a + b, rule)) for a, b in pairs]),
        "a - b": np.array([float(_stored(a - b, rule)) for a, b in pairs]),
        "a * b": np.array([float(_stored(a * b, rule)) for a, b in pairs]),
    }


def _read_integers(out: Outputs, setting: Setting) -> Readings:
    found = {name: cells(values)[0] for name, values in out["int32"].items()}
    if "average" in out:
        found["average of (1, 2), (2, 3), (-1, -2)"] = cells(out["average"]["out"])[0]
    return found


G1_OVERFLOW = Probe(
    "G1",
    "2^31 - 1 plus 1, -2^31 minus 1 and 65537 x 65537 on GpSimd; an integer average, as evidence",
    ("int_overflow",),
    lambda setting: {
        "int32": call(
            "gpsimd_dma.integers",
            {name: np.array([values], np.int32) for name, values in _INTEGERS.items()},
            "a + b",
            "a - b",
            "a * b",
        ),
        "average": call("gpsimd_dma.partition_average", {"columns": np.array([[1, 2, -1], [2, 3, -2]], np.int32)}),
    },
    _read_integers,
    _integer_table,
    optional=("average",),
)

G1_ORDER = Probe(
    "G1",
    "masked columns over 64 partitions through tensor_partition_reduce (FPRev); then random columns",
    ("partition_reduce_order",),
    lambda setting: {
        "masked": call("gpsimd_dma.partition_sums", {"columns": np.ascontiguousarray(masks.rows().T)}),
        "random": call("gpsimd_dma.partition_sums", {"columns": np.ascontiguousarray(masks.random_rows(5).T)}),
    },
    lambda out, setting: {
        "masked": fprev.counts(out["masked"]["out"]),
        "random": cells(out["random"]["out"])[0],
    },
    lambda answers, setting: {
        "masked": fprev.expected_counts(answers["partition_reduce_order"], masks.LENGTH),
        "random": masks.random_sums(5, answers["partition_reduce_order"]),
    },
    notes=lambda readings, setting: masks.describe("tensor_partition_reduce", {"fp32": readings["masked"]}),
)


# --- G2: ties -----------------------------------------------------------------------------------------------

#: Two twos among ones: the four best are ascending, so two of the ones come first.
_TIED = (1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
_PLACES = {"lowest": (0, 1, 2, 7), "highest": (15, 14, 7, 2)}
_ZEROS = (-1.0, -0.0, -1.0, 0.0, -0.0, -1.0, 0.0, -1.0, -1.0, -1.0)


def _eight_of_zeros(ties: str) -> Array:
    zeros = [x for x in _ZEROS if x == 0]
    return np.array((zeros if ties == "lowest" else zeros[::-1]) + [-1.0] * 4)


G2 = Probe(
    "G2",
    "topk of equal values: which places are named; the 8 largest of zeros of both signs: which comes first",
    ("ties",),
    lambda setting: {
        "topk": call("gpsimd_dma.ties", {"values": np.array(_TIED, ml_dtypes.bfloat16)[:, None]}, "best", "places"),
        "max8": call("gpsimd_dma.eight_of_zeros", {"rows": _row(*_ZEROS)}),
    },
    lambda out, setting: {
        "topk places": cells(out["topk"]["places"])[:, 0],
        "topk values": cells(out["topk"]["best"])[:, 0],
        "max8 of zeros": cells(out["max8"]["out"])[0],
    },
    lambda answers, setting: {
        "topk places": np.array(_PLACES[answers["ties"]], np.float64),
        "topk values": np.array([1.0, 1.0, 2.0, 2.0]),
        "max8 of zeros": _eight_of_zeros(answers["ties"]),
    },
)

PROBES = (U6_CASTS, V4_INTEGERS, V4_E4M3FN, V9, G1_OVERFLOW, G1_ORDER, G2, D1_CAST, D1_ORDER, D2)
