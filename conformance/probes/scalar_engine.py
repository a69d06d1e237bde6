"""Probes of the scalar engine: S1 to S6.

Sources of the designs: numerics fact sheet, 11.3 and 6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import numpy as np

from conformance.probes import fprev, functions, masks
from conformance.probes.host import Answers
from conformance.probes.probe import Array, Band, Expected, Outputs, Probe, Readings, Setting, call, cells
from conformance.probes.vector_engine import FUSED_OPERANDS, NARROW_ROWS, fused_residue, narrow_sums
from conformance.subject import Call

# --- S1: scale and bias -------------------------------------------------------------------------------------

S1 = Probe(
    "S1",
    "(1 + 2^-12)^2 - (1 + 2^-11) as scale and bias of activation(copy) and as tensor_scalar: 2^-24 where fused",
    ("fma_scalar",),
    lambda setting: {"sums": call("scalar.scale_and_bias", FUSED_OPERANDS, "activation", "tensor_scalar")},
    lambda out, setting: {name: cells(values)[:, 0] for name, values in out["sums"].items()},
    lambda answers, setting: dict.fromkeys(("activation", "tensor_scalar"), fused_residue(answers["fma_scalar"])),
    since=3,
)

S1_STAGES = Probe(
    "S1",
    "the same in the two stages of activate2",
    ("fma_scalar",),
    lambda setting: {"sums": call("scalar.staged_scale_and_bias", FUSED_OPERANDS)},
    lambda out, setting: {"activate2": cells(out["sums"]["out"])[:, 0]},
    lambda answers, setting: {"activate2": fused_residue(answers["fma_scalar"])},
    since=4,
)


# --- S2: tables ---------------------------------------------------------------------------------------------

_NAMES = tuple(functions.FUNCTIONS)


@cache
def _arguments(setting: Setting) -> Array:
    """fp32 [P, n]; the sample lies in the documented range of every table."""
    if setting.tables == "sample":
        return functions.sample(2, 64, 2.0**-3, 1.0).reshape(8, 8)
    return functions.all_bfloat16().reshape(128, 512)


@cache
def _judged(setting: Setting) -> Mapping[str, tuple[Array, Array, Array, Array]]:
    """Function -> (where it is judged, arguments, correctly rounded values, where inexact)."""
    x = _arguments(setting).reshape(-1)
    found = {}
    for name in _NAMES:
        inside = functions.domain(name, x)
        found[name] = (inside, x[inside], *functions.nearest(name, x[inside]))
    return found


def _read_tables(out: Outputs, setting: Setting) -> Readings:
    rows = cells(out["tables"]["out"]).reshape(len(_NAMES), -1)
    return {name: row[_judged(setting)[name][0]] for name, row in zip(_NAMES, rows, strict=True)}


def _tables_table(answers: Answers, setting: Setting) -> Expected:
    accuracy = answers["act_table"]
    return {name: functions.moved(near, inexact, accuracy) for name, (_, _, near, inexact) in _judged(setting).items()}


def _table_notes(readings: Readings, setting: Setting) -> list[str]:
    judged = _judged(setting)
    return functions.all_errors({name: (judged[name][1], readings[name], judged[name][2]) for name in _NAMES})


S2 = Probe(
    "S2",
    "19 functions against correctly rounded values",
    ("act_table",),
    lambda setting: {"tables": call("scalar.functions", {"x": _arguments(setting)})},
    _read_tables,
    _tables_table,
    notes=_table_notes,
)


# --- S3: the ends of exp ------------------------------------------------------------------------------------

_ENDS = (88.7, 88.72, 88.73, 89.0, -87.3, -87.4, -88.0, -90.0, -95.0, -100.0, -103.0, -104.5)


def _ends(answers: Answers) -> Band:
    """exp within 1 %, and a few of the smallest subnormals, so that the errors of tables are S2's business."""
    flushed = answers["exp_underflow"] == "flush" or "ftz" in answers["subnormals_alu"]
    true = np.array([math.exp(x) for x in _ENDS])
    true[true > 2.0**128] = math.inf
    if flushed:
        true[true < 2.0**-126] = 0.0
    slack = np.where((true > 0) & (true < math.inf), 0.01 * np.minimum(true, 1e308) + 3 * 2.0**-149, 0.0)
    # Below the smallest subnormal both candidates may give 0 or, by an error of the table, the smallest ones.
    slack[-1] = 0.0 if flushed else 3 * 2.0**-149
    return Band(true - slack, true + slack)


def _ends_tile() -> Array:
    return np.array([_ENDS], np.float32)


S3 = Probe(
    "S3",
    "exp around 88.72 and from -87.3 to -104: where it overflows, and whether results below 2^-126 are zero",
    ("exp_underflow",),
    lambda setting: {"scalar": call("scalar.exponential", {"x": _ends_tile()})},
    lambda out, setting: {"scalar engine": cells(out["scalar"]["out"])[0]},
    lambda answers, setting: {"scalar engine": _ends(answers)},
    needs=("subnormals_alu",),
)

S3_VECTOR = Probe(
    "S3",
    "the same on the exponential of the vector engine",
    ("exp_underflow",),
    lambda setting: {"vector": call("vector.exponential", {"x": _ends_tile()})},
    lambda out, setting: {"vector engine": cells(out["vector"]["out"])[0]},
    lambda answers, setting: {"vector engine": _ends(answers)},
    needs=("subnormals_alu",),
    since=4,
)


# --- S4: reduction registers --------------------------------------------------------------------------------


def _register_table(answers: Answers, setting: Setting) -> Expected:
    order = answers["act_reduce_order"]
    return {"masked": fprev.expected_counts(order, masks.LENGTH), "random": masks.random_sums(4, order)}


S4_ORDER = Probe(
    "S4",
    "masked rows of 64 through the registers of activation(copy) (FPRev); then random rows",
    ("act_reduce_order",),
    lambda setting: {
        "masked": call("scalar.activation_sums", {"rows": masks.rows()}),
        "random": call("scalar.activation_sums", {"rows": masks.random_rows(4)}),
    },
    lambda out, setting: {
        "masked": fprev.counts(out["masked"]["out"]),
        "random": cells(out["random"]["out"])[:, 0],
    },
    _register_table,
    notes=lambda readings, setting: masks.describe("activation", {"fp32": readings["masked"]}),
)

S4_PRECAST = Probe(
    "S4",
    "four times 1 + 2^-10 behind a bf16 destination: 4 + 2^-8 where the registers see fp32",
    ("act_reduce_precast",),
    lambda setting: {"bf16": call("scalar.activation_sums_behind_bf16", {"rows": NARROW_ROWS})},
    lambda out, setting: {"register": cells(out["bf16"]["out"])[:, 0]},
    lambda answers, setting: {"register": narrow_sums(answers["act_reduce_precast"])},
)


# --- S5: formulas -------------------------------------------------------------------------------------------

_AT = tuple(sign * k / 8 for k in range(2, 33, 2) for sign in (1, -1))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _by_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _softplus(x: float) -> float:
    return math.log1p(math.exp(x))


#: Candidate -> factor inside the sigmoid. Others are constants in use elsewhere.
_FACTORS = {"formulas": 1.702, "sigmoid_1_7": 1.7, "sigmoid_1_6": math.sqrt(8 / math.pi)}


def _gelu_table(answers: Answers, setting: Setting) -> Expected:
    factor = _FACTORS[answers["gelu"]]
    true = {
        "gelu_apprx_sigmoid": [x * _sigmoid(factor * x) for x in _AT],
        "gelu_apprx_tanh": [_by_tanh(x) for x in _AT],
        "mish": [x * math.tanh(_softplus(x)) for x in _AT],
        "softplus": [_softplus(x) for x in _AT],
    }
    return {name: _close(np.array(values)) for name, values in true.items()}


def _close(values: Array) -> Band:
    """Within 2^-13: a quarter of what the nearest two constants differ by, and more than a table should err."""
    slack = 2.0**-13 * np.maximum(np.abs(values), 1.0)
    return Band(values - slack, values + slack)


def _gelu_launch(setting: Setting) -> dict[str, Call]:
    names = ("gelu_apprx_sigmoid", "gelu_apprx_tanh", "mish", "softplus")
    return {"gelu": call("scalar.gelu_variants", {"x": np.array([_AT], np.float32)}, *names)}


S5 = Probe(
    "S5",
    "gelu_apprx_sigmoid, gelu_apprx_tanh, mish and softplus against formulas with the constants in use",
    ("gelu",),
    _gelu_launch,
    lambda out, setting: {name: cells(values)[0] for name, values in out["gelu"].items()},
    _gelu_table,
    others={
        "gelu": {
            "sigmoid_1_7": "x sigmoid(1.7 x)",
            "sigmoid_1_6": "x sigmoid(2 sqrt(2/pi) x)",
        }
    },
)


# --- S6: sin beyond pi --------------------------------------------------------------------------------------

_FAR = (9.0, -9.0, 6.0, 4.0)


def _near_pi() -> tuple[float, ...]:
    """Steps of 8 float32 around pi, where fused RoPE lands."""
    return tuple(float(np.float32(math.pi) + np.float32(k * 2.0**-19)) for k in range(-16, 17))


def _beyond(x: float, rule: str) -> float:
    d = abs(x) - math.pi
    return math.sin(x) if rule == "math" else math.copysign(1, x) * (d**3 / 6 - d)


def _sine_table(answers: Answers, setting: Setting) -> Expected:
    true = np.array([_beyond(x, answers["sin_outside"]) for x in _FAR])
    # The documents print two decimals of 27.65; the coefficients of the last segment are not public.
    return {"sin of 9, -9, 6, 4": Band(true - 0.01, true + 0.01)}


S6 = Probe(
    "S6",
    "sin(9), where the documents print 27.65, and nearer by; the values around pi are evidence",
    ("sin_outside",),
    lambda setting: {"sine": call("scalar.sine", {"x": np.array([_FAR + _near_pi()], np.float32)})},
    lambda out, setting: {
        "sin of 9, -9, 6, 4": cells(out["sine"]["out"])[0, : len(_FAR)],
        "sin around pi": cells(out["sine"]["out"])[0, len(_FAR) :],
    },
    _sine_table,
)

PROBES = (S1, S1_STAGES, S2, S3, S3_VECTOR, S4_ORDER, S4_PRECAST, S5, S6)
