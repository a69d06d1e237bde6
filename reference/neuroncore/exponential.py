"""The exponential of the gen4 vector engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from reference.numerics import alu
from reference.numerics.elementary import FUNCTIONS, with_accuracy
from reference.numerics.subnormals import write_result

from .accumulator import command_of
from .core import Core
from .enums import reduce_cmd as ReduceCmd
from .instruction import instruction
from .operands import dtype_in, fp32_vector, numeric_pair, result_vector
from .reduction import finish, initial

_SMALL = {
    "float8_e4m3",
    "float8_e5m2",
    "float16",
    "bfloat16",
    "float32",
    "int8",
    "int16",
    "int32",
    "uint8",
    "uint16",
}
_SOURCES = _SMALL | {"uint32"}
_TARGETS = _SMALL | {"tfloat32"}
_RESULTS = {"float8_e4m3", "float8_e5m2", "float16", "bfloat16", "float32", "tfloat32"}


@instruction("vector", since=4)
def exponential(
    core: Core,
    dst: Any,
    src: Any,
    max_value: Any = 0.0,
    reduce_res: Any = None,
    reduce_cmd: Any = ReduceCmd.idle,
    reduce_init: Any = 0.0,
) -> None:
    """dst = exp(src - max_value), with an optional running sum in the shared accumulator (V10, S3)."""
    target, source = numeric_pair(dst, src, "src")
    dtype_in("src", source, _SOURCES)
    dtype_in("dst", target, _TARGETS)
    count = source.shape[0]
    command = command_of(reduce_cmd, ("idle", "reset_reduce", "reduce", "load_reduce"))
    init = initial(core, command, reduce_init, count, unset=0.0)
    result = None if reduce_res is None else result_vector("reduce_res", reduce_res, count)
    if result is not None:
        dtype_in("reduce_res", result, _RESULTS)
    highest = fp32_vector(core, "max_value", max_value, count)
    shifted = alu.BINARY["subtract"](core.read_float("src", source), highest, core.profile)
    exp = FUNCTIONS["exp"]
    output = exp(shifted)
    output = with_accuracy(output, exp.is_exact(shifted, output), core.profile.exponential_gen4)
    if core.profile.exp_underflow == "flush":
        output = np.where(output < 2.0**-126, np.float32(0), output)
    finish(core, target, source, write_result(output, core.profile), command, "add", result, init)
