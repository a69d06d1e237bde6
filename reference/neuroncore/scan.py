"""Instructions of the vector engine whose elements depend on the one before: scans along the free axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import cast, to_float32

from .accumulator import command_of, lanes_of
from .arithmetic import Step, apply, apply_two, check_partner, partner
from .core import Core
from .enums import reduce_cmd as ReduceCmd
from .errors import MachineError
from .instruction import instruction, same_elements
from .operands import dtype_in, fp32_vector, not_both_in_psum, numeric, numeric_pair
from .operators import arithmetic, one_of
from .tensor import Tensor

F32 = NDArray[np.float32]

#: dtypes of tensor_scalar_cumulative (the 32-bit integers are missing in the instruction set).
_CUMULATIVE = (
    "bfloat16",
    "float16",
    "float32",
    "float8_e4m3",
    "float8_e4m3fn",
    "float8_e5m2",
    "uint8",
    "uint16",
    "int8",
    "int16",
)


@instruction("vector")
def tensor_tensor_scan(
    core: Core,
    dst: Any,
    data0: Any,
    data1: Any,
    initial: Any,
    op0: Any,
    op1: Any,
    reverse0: bool = False,
    reverse1: bool = False,
) -> None:
    """dst[i] = (data0[i] op0 dst[i-1]) op1 data1[i], from `initial`."""
    target, first = numeric_pair(dst, data0, "data0")
    second = numeric("data1", data1)
    same_elements(("data0", first), ("data1", second))
    not_both_in_psum("data0", first, "data1", second)
    step0 = Step(arithmetic(core, op0, "op0", unary=False), initial, reverse0)
    step1 = Step(arithmetic(core, op1, "op1", unary=False), second, reverse1)
    count = first.shape[0]
    state = np.broadcast_to(fp32_vector(core, "initial", initial, count), (count, 1)).copy()
    left, right = core.read_float("data0", first), core.read_float("data1", second)
    output = np.empty(left.shape, np.float32)
    for i in range(left.shape[1]):
        column = slice(i, i + 1)
        state = apply_two(core, left[:, column], step0, state, step1, right[:, column], core.profile.fma_vector)
        if core.profile.scan_state == "rounded":
            state = _as_stored(core, state, target)
        output[:, column] = state
    core.write("dst", target, output)


def _as_stored(core: Core, values: F32, target: Tensor) -> F32:
    return to_float32(cast(values, target.fmt, core.profile), target.fmt)


@instruction("vector")
def tensor_scalar_cumulative(
    core: Core,
    dst: Any,
    src: Any,
    op0: Any,
    op1: Any,
    imm0: Any,
    imm1: Any = None,
    reduce_cmd: Any = ReduceCmd.reset_reduce,
) -> None:
    """register = (src[i] op0 imm0) op1 register; dst[i] = register. The shared accumulator is the
    register.
    """
    target, source = numeric_pair(dst, src, "src")
    dtype_in("src", source, _CUMULATIVE)
    dtype_in("dst", target, _CUMULATIVE)
    count = source.shape[0]
    step = Step(arithmetic(core, op0, "op0"), imm0)
    check_partner("imm0", step)
    running = Step(one_of(core, op1, ("add", "subtract", "multiply", "maximum", "minimum"), "op1"), None)
    command = command_of(reduce_cmd, ("reset_reduce", "reduce", "load_reduce"))
    start = _start(core, command, imm1, count)
    values = apply(core, core.read_float("src", source), step, partner(core, "imm0", step, count))
    lanes = lanes_of(source)
    register = core.vector_accumulator.start(command, running.operator.name, lanes, start)[:, None].copy()
    output = np.empty(values.shape, np.float32)
    for i in range(values.shape[1]):
        column = slice(i, i + 1)
        # The new value is the left operand, which matters for subtract.
        register = apply(core, values[:, column], running, register)
        if not core.profile.accum_precast:
            register = _as_stored(core, register, target)
        output[:, column] = register
    core.vector_accumulator.set(lanes, register[:, 0])
    core.write("dst", target, output)


def _start(core: Core, command: str, value: Any, count: int) -> Any:
    if (command == "load_reduce") != (value is not None):
        raise MachineError(
            "reduce_init",
            f"imm1={value!r} with reduce_cmd.{command}: a start value goes with load_reduce, and only there",
            operand="imm1",
        )
    return None if value is None else fp32_vector(core, "imm1", value, count)
