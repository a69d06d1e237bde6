"""Probes of quantize_mx (Q1, gen4).

Groups are 8 partitions x 4 adjacent elements. The destination is e5m2, which has an infinity, so that V4 has no
say. Source of the design: numerics fact sheet, 11.4 and 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from conformance.probes.host import Answers, number, rounded, whole
from conformance.probes.probe import Array, Expected, Outputs, Probe, Readings, Setting, call, cells
from conformance.subject import Call

_NAN, _INF = math.nan, math.inf
_EMAX = 15


@dataclass(frozen=True)
class Group:
    """Four elements of one partition that decide a group; the other partitions of the group hold ones or zeros."""

    name: str
    elements: tuple[float, float, float, float]
    rest: float = 0.0


_FINITE = (
    Group("1.1875, 1.125, 1.375, -1.1875", (1.1875, 1.125, 1.375, -1.1875)),
    Group("1.9375, 0.8125, 0.6875, -0.9375", (1.9375, 0.8125, 0.6875, -0.9375)),
    Group("zeros", (0.0, 0.0, 0.0, 0.0)),
    Group("2^-130", (2.0**-130, 0.0, 2.0**-131, 0.0)),
)
_SPECIAL = (
    Group("inf among ones", (1.0, _INF, 1.0, 1.0), 1.0),
    Group("NaN among ones", (_NAN, 1.0, 1.0, 1.0), 1.0),
)


def _source(groups: tuple[Group, ...]) -> Array:
    """bf16 [32, 4 groups]: each group in its own four columns, its elements in partition 0; other groups zeros."""
    values = np.zeros((32, 4 * len(groups)))
    for i, group in enumerate(groups):
        values[:8, 4 * i : 4 * i + 4] = group.rest
        values[0, 4 * i : 4 * i + 4] = group.elements
    return values.astype(np.float32).astype(ml_dtypes.bfloat16)


def _quantised(group: Group, answers: Answers, bias: int) -> tuple[float, Array]:
    """Scale byte, and the four elements as e5m2 values."""
    tiny = "daz" in answers.get("subnormals_alu", "keep")
    elements = [0.0 if tiny and abs(x) < 2.0**-126 else x for x in group.elements]
    broken = not all(math.isfinite(x) for x in elements)
    if broken and answers["mx_special"] == "nan_group":
        return 255.0, np.full(4, _NAN)
    top = max([abs(x) for x in elements] + [group.rest])
    exponent = -127 if top == 0 else max((128 if broken else math.frexp(top)[1] - 1) - (_EMAX - bias), -127)
    limit = _INF if bias else 57344.0
    scaled = [max(-limit, min(limit, x * 2.0**-exponent)) if not math.isnan(x) else x for x in elements]
    return exponent + 127.0, np.array([_e5m2(x, answers) for x in scaled])


def _e5m2(x: float, answers: Answers) -> float:
    """3 significant bits; what quantize_mx makes of finite values never overflows."""
    if not math.isfinite(x):
        return x
    value = number(rounded(whole(x), 3, answers["mx_round"], -16))
    return math.copysign(0.0 if answers.get("subnormals_cast") == "ftz" and abs(value) < 2.0**-14 else value, x)


def _probe(field: str, asks: str, groups: tuple[Group, ...], *needs: str) -> Probe:
    def table(answers: Answers, setting: Setting) -> Expected:
        bias = 1 if setting.nki >= (0, 5) else 0
        # What the groups of this probe cannot notice has any value.
        both = {"mx_round": "rne", "mx_special": "by_exponent", **answers}
        found: Readings = {}
        for group in groups:
            scale, elements = _quantised(group, both, bias)
            found |= {f"{group.name}: scale byte": np.array([scale]), f"{group.name}: elements": elements}
        return found

    def read(out: Outputs, setting: Setting) -> Readings:
        items = np.ascontiguousarray(out["e5m2"]["items"][:1]).view(np.uint8).view(ml_dtypes.float8_e5m2)
        found: Readings = {}
        scales, elements = cells(out["e5m2"]["scales"])[0], cells(items).reshape(-1, 4)
        for group, scale, four in zip(groups, scales, elements, strict=True):
            found |= {f"{group.name}: scale byte": np.array([scale]), f"{group.name}: elements": four}
        return found

    def launches(setting: Setting) -> dict[str, Call]:
        return {"e5m2": call("quantize.quantize", {"x": _source(groups)}, "items", "scales")}

    return Probe("Q1", asks, (field,), launches, read, table, needs=needs, since=4)


PROBES = (
    _probe(
        "mx_round",
        "groups with ties of e5m2, zeros and subnormals: scale bytes and elements",
        _FINITE,
        "subnormals_alu",
        "subnormals_cast",
    ),
    _probe("mx_special", "groups with an infinity and with a NaN: scale bytes and elements", _SPECIAL),
)
