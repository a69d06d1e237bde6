"""How far a right output_projection_tkg may be from the truth, per element.

A companion run of truth on absolute values; the terms of single operations are those of `error_terms`. In the
order of the rounding points of the contract:

operand   NONE, ROW: exact. STATIC: attention times the reciprocal of input_scale, which is one float32 operation
          and one function (3 u for a reciprocal one unit off, V6), rounded to io; the clamp; the cast to fp8. An
          operand that meets the clamp from both sides of 240 ends there, so saturation costs nothing.
psum      a dot of N*D products: n passes of g*D rows (2*g*D in double row, whose pairs may be added first or last,
          U7), each pass any order of additions, and one addition of each pass onto PSUM. LNC2 shards columns, so no
          sum crosses cores; packing and layout decide which rows share a pass, the worst of them counts.
dequant   STATIC, ROW: times a float32 scale (STATIC: itself a rounded product of two), one operation, rounded to io.
out       plus the bias, one operation, rounded to io; without bias and dequantisation only rounded.

The public quantised paths round dequantised sums before the bias, hence two casts there and one without.
MX weights are not options of this kernel (the contract refuses them).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.contracts.output_projection_tkg import FP8, FP8_MAX, Config
from reference.error_terms import (
    Known,
    additions,
    dot,
    each,
    exact,
    joined,
    matrix,
    plus,
    product,
    quantised,
    rounded,
)
from reference.numerics.cast import to_float32
from reference.output_projection_tkg import arrange

Array = NDArray[Any]
Inputs = Mapping[str, Any]

#: Columns of weight worked on at a time.
_BLOCK = 512


def errors(config: Config, inputs: Inputs) -> dict[str, Known]:
    """{"out": truth, worst case and variance} in the shape of the result, for a legal call.

    Where an operand is NaN or infinite, or a result overflows io, the worst case is infinite or NaN.
    """
    with np.errstate(all="ignore"):
        attention = exact(inputs["attention"])
        rows = each(attention, lambda part: part.transpose(1, 3, 2, 0).reshape(config.tokens, -1))
        return {"out": projected(config, inputs, rows)}


def projected(config: Config, inputs: Inputs, rows: Known) -> Known:
    """The result of attention [BS, N*D] that may carry errors of stages before, arranged as the call asks."""
    operand = rows
    if config.quantization == "STATIC":
        inverse = 1 / np.float64(inputs["input_scale"][0, 0])
        operand = quantised(rows, inverse, FP8, (-FP8_MAX, FP8_MAX), stored=config.dtype)
    blocks = [slice(start, start + _BLOCK) for start in range(0, config.H, _BLOCK)]
    plain = joined([_columns(config, inputs, operand, columns) for columns in blocks], axis=1)
    return each(plain, lambda part: arrange(config, part))


def _columns(config: Config, inputs: Inputs, operand: Known, columns: slice) -> Known:
    """Some columns of the result, [BS, columns]."""
    total = dot(operand, matrix(to_float32(inputs["weight"][:, columns])), _additions(config))
    if config.quantization != "NONE":
        total = rounded(product(total, _scale(config, inputs, columns)), config.dtype)
    elif config.bias is None:
        return rounded(total, config.dtype, operations=0)
    if config.bias is None:
        return total
    return rounded(plus(total, exact(inputs["bias"][:, columns])), config.dtype)


def _additions(config: Config) -> int:
    rows, passes = config.rows, config.groups
    if config.double_row:
        rows, passes = 2 * rows, passes // 2
    return additions(rows, passes, config.dtype if config.quantization == "NONE" else FP8)


def _scale(config: Config, inputs: Inputs, columns: slice) -> Known:
    """What sums are multiplied by, [1, 1] or [1, columns]."""
    if config.quantization == "ROW":
        return exact(inputs["weight_scale"][:1, columns])
    both = inputs["weight_scale"][:1, :1].astype(np.float64) * np.float64(inputs["input_scale"][0, 0])
    return rounded(exact(both), "float32")
