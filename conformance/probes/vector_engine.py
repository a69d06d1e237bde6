"""Probes of the vector engine: V1 to V3, V5 to V8, V10, V11, and the part of U6 that all ALUs share.

Sources of the designs: numerics fact sheet, 11.2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from functools import cache, reduce

import ml_dtypes
import numpy as np

from conformance.probes import fprev, functions, masks
from conformance.probes.host import Answers, bfloat16, float32, float32_sum
from conformance.probes.probe import Array, Expected, Outputs, Probe, Readings, Setting, call, cells
from conformance.subject import Call
from reference.numerics.profile import Value

_BF16 = ml_dtypes.bfloat16
_NAN, _INF = math.nan, math.inf


def _column(*values: float) -> Array:
    return np.array(values, np.float32)[:, None]


# --- U6: subnormal numbers in the ALUs ----------------------------------------------------------------------

#: (x, y): an operand that is subnormal with a subnormal and with a normal product; a subnormal product alone.
_TINY = ((2.0**-130, 1.0), (2.0**-130, 2.0**10), (2.0**-70, 2.0**-70))


def _tiny_product(x: float, y: float, policy: str) -> float:
    small = 2.0**-126
    if "daz" in policy and min(abs(x), abs(y)) < small:
        return 0.0
    return 0.0 if "ftz" in policy and x * y < small else x * y


def _tiny_table(answers: Answers, setting: Setting) -> Expected:
    expected = np.array([_tiny_product(x, y, answers["subnormals_alu"]) for x, y in _TINY])
    return dict.fromkeys(("vector", "scalar", "gpsimd"), expected)


U6_ALU = Probe(
    "U6",
    "2^-130 x 1, 2^-130 x 2^10 and 2^-70 x 2^-70 on the vector engine, the scalar engine and GpSimd",
    ("subnormals_alu",),
    lambda setting: {
        "products": call(
            "vector.products",
            {"x": _column(*(x for x, _ in _TINY)), "y": _column(*(y for _, y in _TINY))},
            "vector",
            "scalar",
            "gpsimd",
        )
    },
    lambda out, setting: {name: cells(values)[:, 0] + 0.0 for name, values in out["products"].items()},
    _tiny_table,
    since=3,
)


# --- V1: multiply and add -----------------------------------------------------------------------------------

_FACTOR, _TERM = 1 + 2.0**-12, -(1 + 2.0**-11)
FUSED_OPERANDS = {"x": _column(_FACTOR), "factor": _column(_FACTOR), "term": _column(_TERM)}


def fused_residue(fused: Value) -> Array:
    """(1 + 2^-12)^2 - (1 + 2^-11): the last bit of the product, where nothing rounds it away."""
    return np.array([2.0**-24 if fused else 0.0])


V1 = Probe(
    "V1",
    "(1 + 2^-12)^2 - (1 + 2^-11) by tensor_scalar, scalar_tensor_tensor and a scan: 2^-24 where fused",
    ("fma_vector",),
    lambda setting: {
        "sums": call(
            "vector.multiply_add", FUSED_OPERANDS, "tensor_scalar", "scalar_tensor_tensor", "tensor_tensor_scan"
        )
    },
    lambda out, setting: {name: cells(values)[:, 0] for name, values in out["sums"].items()},
    lambda answers, setting: dict.fromkeys(
        ("tensor_scalar", "scalar_tensor_tensor", "tensor_tensor_scan"), fused_residue(answers["fma_vector"])
    ),
)


# --- V2: tensor_reduce --------------------------------------------------------------------------------------


_WAYS = ("fp32", "bf16", "two axes", "strided")
#: Other lengths of rows, in both dtypes: an engine may add short rows, long ones and halves in ways of their own.
_LENGTHS = {
    f"{length} long {name}": (dtype, length)
    for length in (masks.SHORT, *masks.LONG)
    for name, dtype in (("fp32", np.float32), ("bf16", _BF16))
}


def _reduce_launches(setting: Setting) -> dict[str, Call]:
    masked = masks.rows()
    lengths = {name: call("vector.row_sums", {"rows": masks.rows(*one)}) for name, one in _LENGTHS.items()}
    return {
        "fp32": call("vector.row_sums", {"rows": masked}),
        "bf16": call("vector.row_sums", {"rows": masks.rows(_BF16)}),
        "two axes": call("vector.row_sums_two_axes", {"rows": masked.reshape(-1, 8, 8)}),
        "strided": call("vector.row_sums_strided", {"rows": masks.spread(masked)}),
        **lengths,
        "random": call("vector.row_sums", {"rows": masks.random_rows(2)}),
    }


def _read_reduce(out: Outputs, setting: Setting) -> Readings:
    found = {name: fprev.counts(outputs["out"]) for name, outputs in out.items() if name != "random"}
    return found | {"random": cells(out["random"]["out"])[:, 0]}


def _reduce_table(answers: Answers, setting: Setting) -> Expected:
    order = answers["reduce_order"]
    lengths = {name: masks.counts(order, length) for name, (_, length) in _LENGTHS.items()}
    return dict.fromkeys(_WAYS, masks.counts(order)) | lengths | {"random": masks.random_sums(2, order)}


def _reduce_notes(readings: Readings, setting: Setting) -> list[str]:
    short = [name for name, (_, length) in _LENGTHS.items() if length == masks.SHORT]
    return [
        *masks.describe("tensor_reduce", {name: readings[name] for name in _WAYS}),
        *masks.describe("tensor_reduce", {name: readings[name] for name in short}, masks.SHORT),
    ]


V2 = Probe(
    "V2",
    "tensor_reduce of masked rows (FPRev): of 64 in fp32, bf16, over two axes, strided; of 8, 512, 2048; random rows",
    ("reduce_order",),
    _reduce_launches,
    _read_reduce,
    _reduce_table,
    notes=_reduce_notes,
)


# --- V3: accumulator registers ------------------------------------------------------------------------------

_START = 2.0**24


def _loaded() -> dict[str, Array]:
    """A register of 2^24 and 64 ones: lanes beside the first keep theirs until the end."""
    return {"first": _column(_START), "rows": np.ones((1, masks.LENGTH), np.float32)}


def loaded_sum(order: str) -> Array:
    """The register after `_loaded`."""
    return np.array([float32_sum([1.0] * masks.LENGTH, order, _START)])


def _register_table(answers: Answers, setting: Setting) -> Expected:
    order = answers["accum_order"]
    return {
        "masked": fprev.expected_counts(order, masks.LENGTH),
        "2^24, then 64 ones": loaded_sum(order),
        "random": masks.random_sums(3, order),
    }


V3_ORDER = Probe(
    "V3",
    "masked rows of 64 through the register of tensor_scalar_reduce (FPRev); 64 ones onto a register of 2^24",
    ("accum_order",),
    lambda setting: {
        "masked": call("vector.register_sums", {"rows": masks.rows()}),
        "loaded": call("vector.register_goes_on", _loaded()),
        "random": call("vector.register_sums", {"rows": masks.random_rows(3)}),
    },
    lambda out, setting: {
        "masked": fprev.counts(out["masked"]["out"]),
        "2^24, then 64 ones": cells(out["loaded"]["out"])[:, 0],
        "random": cells(out["random"]["out"])[:, 0],
    },
    _register_table,
    notes=lambda readings, setting: masks.describe("tensor_scalar_reduce", {"fp32": readings["masked"]}),
)

V3_EXPONENTIAL = Probe(
    "V3",
    "64 times exp(0) = 1 onto a register of 2^24, on the exponential of the vector engine",
    ("accum_order",),
    lambda setting: {
        "loaded": call(
            "vector.exponential_goes_on",
            {"first": _column(_START), "rows": np.zeros((1, masks.LENGTH), np.float32)},
        )
    },
    lambda out, setting: {"exponential: 2^24, then 64 ones": cells(out["loaded"]["out"])[:, 0]},
    lambda answers, setting: {"exponential: 2^24, then 64 ones": loaded_sum(answers["accum_order"])},
    since=4,
)

NARROW_ROWS = np.array([[1 + 2.0**-10] * 4, [1.0, 2.0**-9, 2.0**-9, 2.0**-9]], np.float32)


def narrow_sums(precast: Value) -> Array:
    """Sums of `NARROW_ROWS` where the register sees fp32 values, or bf16 ones."""
    read = float if precast else bfloat16
    return np.array([math.fsum(read(float(x)) for x in row) for row in NARROW_ROWS])


def _running(precast: Value) -> Array:
    """tensor_scalar_cumulative into bf16: what is stored, from a register that is or is not what was stored."""
    states = []
    for row in NARROW_ROWS:
        register = 0.0
        for x in row:
            register = float32(register + float(x)) if precast else bfloat16(register + float(x))
            states.append(bfloat16(register))
    return np.array(states)


V3_PRECAST = Probe(
    "V3",
    "four times 1 + 2^-10 behind a bf16 destination: 4 + 2^-8 where the register sees fp32; a running sum likewise",
    ("accum_precast",),
    lambda setting: {"bf16": call("vector.register_behind_bf16", {"rows": NARROW_ROWS}, "register", "running")},
    lambda out, setting: {
        "register": cells(out["bf16"]["register"])[:, 0],
        "running sum": cells(out["bf16"]["running"]).reshape(-1),
    },
    lambda answers, setting: {
        "register": narrow_sums(answers["accum_precast"]),
        "running sum": _running(answers["accum_precast"]),
    },
)


# --- V5: maximum and minimum --------------------------------------------------------------------------------

_PAIRS = list(itertools.product((_NAN, 1.0, -0.0, 0.0, _INF), repeat=2))
_ROWS = (
    (_NAN, 1.0, 2.0, 3.0),
    (1.0, 2.0, 3.0, _NAN),
    (3.0, _NAN, 2.0, 1.0),
    (-0.0, 0.0, -0.0, -0.0),
    (0.0, -0.0, 0.0, 0.0),
)
#: Largest of 16 values, one of them NaN.
_SIXTEEN = (7.0, 3.0, _NAN, 1.0, 15.0, 2.0, 9.0, 4.0, 5.0, 6.0, 8.0, 10.0, 11.0, 12.0, 13.0, 14.0)


def _extreme(a: float, b: float, answers: Answers, sign: int) -> float:
    """maximum (sign 1) or minimum (sign -1) of two numbers under V5."""
    if math.isnan(a) or math.isnan(b):
        return _with_nan(a, b, answers["maxmin_nan"])
    if a == 0 and b == 0:
        plus_or_minus = math.copysign(1, a) + math.copysign(1, b)
        by_sign = math.copysign(0.0, sign if plus_or_minus == 0 else plus_or_minus)
        return {"first": a, "second": b, "ieee": by_sign}[answers["maxmin_zero"]]
    return a if sign * a > sign * b else b


def _with_nan(a: float, b: float, rule: str) -> float:
    if rule == "propagate":
        return _NAN
    if rule == "second":
        return b
    return b if math.isnan(a) else a


def _folded(row: tuple[float, ...], answers: Answers, sign: int) -> float:
    return reduce(lambda a, b: _extreme(a, b, answers, sign), row)


def _best_of_sixteen(rule: str) -> Array:
    """The 8 largest of `_SIXTEEN`: NaN in front where maxima propagate it, else last."""
    return np.array(([_NAN] if rule == "propagate" else []) + [15.0 - i for i in range(8)])[:8]


def _has_nan(values: tuple[float, ...]) -> bool:
    return any(math.isnan(x) for x in values)


def _extreme_cells(nan: bool) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    """Pairs and rows, those with NaN or those without."""
    return [pair for pair in _PAIRS if _has_nan(pair) == nan], [row for row in _ROWS if _has_nan(row) == nan]


def _extreme_probe(field: str, asks: str, nan: bool) -> Probe:
    pairs, rows = _extreme_cells(nan)
    names = [f"{engine} {op}" for engine in ("vector", "gpsimd") for op in ("maximum", "minimum")]
    reduced = ["tensor_reduce maximum", "tensor_reduce minimum"]

    def launches(setting: Setting) -> dict[str, Call]:
        a, b = (np.array([part], np.float32) for part in zip(*pairs, strict=True))
        tile = np.array([*(row * 4 for row in rows), _SIXTEEN], np.float32)
        return {
            "pairs": call("vector.extremes", {"a": a, "b": b}, *names),
            "rows": call("vector.row_extremes", {"rows": tile}, *reduced, "max8"),
        }

    def read(out: Outputs, setting: Setting) -> Readings:
        found = {name: cells(values)[0] for name, values in out["pairs"].items()}
        found |= {name: cells(out["rows"][name])[:-1, 0] for name in reduced}
        return found | ({"max8 with NaN": cells(out["rows"]["max8"])[-1]} if nan else {})

    def table(answers: Answers, setting: Setting) -> Expected:
        # Cells with NaN hold no two zeros, and the other way round.
        both = {"maxmin_nan": "propagate", "maxmin_zero": "first", **answers}
        found = {}
        for name in (*names, *reduced):
            sign = 1 if name.endswith("maximum") else -1
            found[name] = np.array([_folded(one, both, sign) for one in (pairs if name in names else rows)])
        return found | ({"max8 with NaN": _best_of_sixteen(both["maxmin_nan"])} if nan else {})

    return Probe("V5", asks, (field,), launches, read, table)


V5_NAN = _extreme_probe(
    "maxmin_nan",
    "maximum and minimum of NaN and 1, -0, +0, inf on two engines; reductions with NaN first, last, inside; max8",
    nan=True,
)
V5_ZERO = _extreme_probe(
    "maxmin_zero", "maximum and minimum of zeros of both signs, on two engines and in reductions", nan=False
)


# --- V6, V10: functions of the vector engine and GpSimd -----------------------------------------------------

_EXPONENTS = (2.0, 3.0, 0.5, -0.5, 1.5, -1.0, -2.0, 0.75)


@cache
def _arguments(setting: Setting) -> Array:
    if setting.tables == "sample":
        return functions.sample(6, 512, 2.0**-8, 2.0**8).reshape(8, 64)
    return functions.sample(6, 1 << 14, 2.0**-20, 2.0**20).reshape(64, 256)


@cache
def _binade(part: int) -> Array:
    """One eighth of all float32 in [1, 2), as [128, 8192]."""
    fraction = np.arange(1 << 20, dtype=np.uint32) + np.uint32(part << 20)
    return (fraction | np.uint32(127 << 23)).view(np.float32).reshape(128, -1)


def _exponents(x: Array) -> Array:
    return np.broadcast_to(np.resize(np.array(_EXPONENTS, np.float32), x.shape[1]), x.shape).copy()


def _accuracy_launches(setting: Setting) -> dict[str, Call]:
    x = _arguments(setting)
    launches = {
        "sample": call("vector.reciprocal", {"x": x}),
        "gpsimd": call("vector.rsqrt_and_power", {"x": x, "y": _exponents(x)}, "rsqrt", "power"),
    }
    if setting.tables == "exhaustive":
        launches |= {f"binade {i}": call("vector.reciprocal", {"x": _binade(i)}) for i in range(8)}
    return launches


def _read_accuracy(out: Outputs, setting: Setting) -> Readings:
    found = {"reciprocal": cells(out["sample"]["out"]).reshape(-1)}
    found |= {name: cells(out["gpsimd"][name]).reshape(-1) for name in ("rsqrt", "power")}
    parts = [cells(out[name]["out"]).reshape(-1) for name in sorted(out) if name.startswith("binade")]
    return found | ({"reciprocal of [1, 2)": np.concatenate(parts)} if parts else {})


@cache
def _true_values(setting: Setting) -> Mapping[str, tuple[Array, Array, Array]]:
    """Reading -> (arguments, correctly rounded values, where inexact)."""
    x = _arguments(setting)
    flat = x.reshape(-1)
    powers = [functions.exact_power(float(a), float(b)) for a, b in zip(flat, _exponents(x).reshape(-1), strict=True)]
    values, inexact = (np.array(part) for part in zip(*powers, strict=True))
    found = {name: (flat, *functions.nearest(name, flat)) for name in ("reciprocal", "rsqrt")}
    found["power"] = (flat, values, inexact)
    if setting.tables == "exhaustive":
        found["reciprocal of [1, 2)"] = _reciprocals()
    return found


def _reciprocals() -> tuple[Array, Array, Array]:
    """1/x for all x = m 2^-23 in [1, 2), in whole numbers: twice the 24 bits and what is left decide."""
    m = np.arange(1 << 23, 1 << 24, dtype=np.int64)
    twice, rest = np.divmod(np.int64(1) << 48, m)
    kept, half = twice >> 1, twice & 1
    nearest = kept + (half & ((rest > 0) | (kept & 1)))
    return m * 2.0**-23, nearest * 2.0**-24, (half != 0) | (rest != 0)


def _accuracy_table(answers: Answers, setting: Setting) -> Expected:
    truth, accuracy = _true_values(setting), answers["reciprocal_accuracy"]
    return {name: functions.moved(near, inexact, accuracy) for name, (_, near, inexact) in truth.items()}


def _accuracy_notes(readings: Readings, setting: Setting) -> list[str]:
    truth = _true_values(setting)
    return functions.all_errors({name: (x, readings[name], near) for name, (x, near, _) in truth.items()})


V6 = Probe(
    "V6",
    "reciprocal (vector), rsqrt and power (GpSimd) against correctly rounded values",
    ("reciprocal_accuracy",),
    _accuracy_launches,
    _read_accuracy,
    _accuracy_table,
    notes=_accuracy_notes,
)


@cache
def _exp_arguments(setting: Setting) -> Array:
    if setting.tables == "sample":
        x = functions.sample(10, 256, 2.0**-6, 2.0**6)
        return np.concatenate([x, -x])
    x = functions.all_bfloat16()
    return x[functions.domain("exp", x)]


def _as_tile(x: Array) -> Array:
    """[16, n], the last argument repeated as often as it takes."""
    missing = -len(x) % 16
    return np.ascontiguousarray(np.concatenate([x, np.repeat(x[-1:], missing)]).reshape(16, -1))


def _exp_table(answers: Answers, setting: Setting) -> Expected:
    near, inexact = functions.nearest("exp", _as_tile(_exp_arguments(setting)).reshape(-1))
    return {"exp": functions.moved(near, inexact, answers["exponential_gen4"])}


def _exp_notes(readings: Readings, setting: Setting) -> list[str]:
    x = _as_tile(_exp_arguments(setting)).reshape(-1)
    return functions.all_errors({"exp": (x, readings["exp"], functions.nearest("exp", x)[0])})


V10 = Probe(
    "V10",
    "exp on the vector engine against correctly rounded values",
    ("exponential_gen4",),
    lambda setting: {"exp": call("vector.exponential", {"x": _as_tile(_exp_arguments(setting))})},
    lambda out, setting: {"exp": cells(out["exp"]["out"]).reshape(-1)},
    _exp_table,
    since=4,
    notes=_exp_notes,
)


# --- V7: batch-norm statistics ------------------------------------------------------------------------------

#: Even and odd elements are 8 numbers each, 2^20 + {0, 1}: exact in sums of any order, hopeless as squares.
_BATCH = np.array([[2.0**20 + bit for bit in (0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 0)]], np.float32)


def _welford(x: list[float]) -> tuple[float, float]:
    mean = m2 = 0.0
    for i, value in enumerate(x):
        before = float32(value - mean)
        mean = float32(mean + float32(before / (i + 1)))
        m2 = float32(m2 + float32(before * float32(value - mean)))
    return mean, m2


def _twopass(x: list[float]) -> tuple[float, float]:
    mean = math.fsum(x) / len(x)
    return mean, math.fsum((value - mean) ** 2 for value in x)


def _sum_of_squares(x: list[float]) -> tuple[float, float]:
    total = math.fsum(x)
    squares = math.fsum(float32(value * value) for value in x)
    mean = total / len(x)
    return mean, float32(squares - float32(total * mean))


_MOMENTS: Mapping[str, Callable[[list[float]], tuple[float, float]]] = {
    "twopass": _twopass,
    "welford": _welford,
    "sumsq": _sum_of_squares,
}


def _moments(answers: Answers, setting: Setting) -> Expected:
    halves = [[float(x) for x in _BATCH[0, start::2]] for start in (0, 1)]
    stats = [(8.0, *_MOMENTS[answers["bn"]](half)) for half in halves]
    return {"bn_stats of 2^20 + {0, 1}": np.array(stats).reshape(-1)}


def _empty_half(answers: Answers, setting: Setting) -> Expected:
    nothing = 0.0 if answers["bn_empty"] == "zero" else _NAN
    return {"bn_stats of one element": np.array([1.0, _BATCH[0, 0], 0.0, 0.0, nothing, nothing])}


def _batch_launch(setting: Setting) -> dict[str, Call]:
    return {"bn": call("vector.batch_statistics", {"rows": _BATCH}, "stats", "single", "moments")}


V7_MOMENTS = Probe(
    "V7",
    "bn_stats of 2^20 + {0, 1}, where squares lose everything and running means round; bn_aggr as evidence",
    ("bn",),
    _batch_launch,
    lambda out, setting: {
        "bn_stats of 2^20 + {0, 1}": cells(out["bn"]["stats"])[0],
        "bn_aggr of the same": cells(out["bn"]["moments"])[0],
    },
    _moments,
)
V7_EMPTY = Probe(
    "V7",
    "bn_stats of a single element, whose odd half is empty",
    ("bn_empty",),
    _batch_launch,
    lambda out, setting: {"bn_stats of one element": cells(out["bn"]["single"])[0]},
    _empty_half,
)


# --- V8: scans ----------------------------------------------------------------------------------------------

_STEPS = 16


def _states(rule: str) -> Array:
    state, found = 1.0, []
    for _ in range(_STEPS):
        state = state + 2.0**-9 if rule == "fp32" else bfloat16(state + 2.0**-9)
        found.append(bfloat16(state))
    return np.array(found)


V8 = Probe(
    "V8",
    "1 + 2^-9 + 2^-9 + ... as a scan that stores bf16: a state read back from there never leaves 1",
    ("scan_state",),
    lambda setting: {
        "scan": call(
            "vector.scan_into_bf16",
            {
                "ones": np.ones((1, _STEPS), np.float32),
                "steps": np.full((1, _STEPS), 2.0**-9, np.float32),
                "first": _column(1.0),
            },
        )
    },
    lambda out, setting: {"states": cells(out["scan"]["out"])[0]},
    lambda answers, setting: {"states": _states(answers["scan_state"])},
)


# --- V11: integers in tensor_scalar -------------------------------------------------------------------------

_WORDS = (2**24 + 1, 2**30 + 3, -(2**24) - 1, 7)


def _words_table(answers: Answers, setting: Setting) -> Expected:
    native = answers["int32_tensor_scalar"] == "native"

    def through(x: float) -> float:
        return x if native else float32(x)

    return {
        "x + 0": np.array([through(float(x)) for x in _WORDS]),
        "x * 1": np.array([through(float(x)) for x in _WORDS]),
        "x + 1": np.array([through(through(float(x)) + 1) for x in _WORDS]),
    }


V11 = Probe(
    "V11",
    "2^24 + 1 as int32 plus 0, times 1, plus 1 in tensor_scalar; plus an fp32 zero, as evidence",
    ("int32_tensor_scalar",),
    lambda setting: {
        "words": call(
            "vector.integers_and_scalars",
            {"x": np.array([_WORDS], np.int32), "operand": _column(0.0)},
            "x + 0",
            "x * 1",
            "x + 1",
            "x + fp32 0",
        )
    },
    lambda out, setting: {name: cells(values)[0] for name, values in out["words"].items()},
    _words_table,
)

PROBES = (U6_ALU, V1, V2, V3_ORDER, V3_EXPONENTIAL, V3_PRECAST, V5_NAN, V5_ZERO, V6, V7_MOMENTS, V7_EMPTY, V8, V10, V11)
