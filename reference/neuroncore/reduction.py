"""Reductions of the vector engine along free axes: tensor_reduce, tensor_scalar_reduce."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import to_float32
from reference.numerics.reduce import REDUCTIONS

from .accumulator import command_of, lanes_of
from .arithmetic import Step, apply, bits_of, check_bits, check_partner, partner
from .core import Core
from .enums import reduce_cmd as ReduceCmd
from .errors import MachineError
from .instruction import instruction
from .operands import elements, fp32_vector, numeric, numeric_pair, partitions, result_vector
from .operators import Operator, arithmetic, one_of, operator_of
from .tensor import Tensor

F32 = NDArray[np.float32]

_BITWISE = {"bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor}


@instruction("vector")
def tensor_reduce(
    core: Core, dst: Any, op: Any, data: Any, axis: Any, negate: bool = False, keepdims: bool = False
) -> None:
    """dst = op over the last free axes of data; fp32 inside, bit patterns for bit-vector operators."""
    target, source = numeric("dst", dst), numeric("data", data)
    reduced = _reduced_axes(axis, source)
    partitions("dst", target, source.shape[0])
    kept = math.prod(source.shape[1 : source.ndim - reduced])
    elements("dst", target, kept)
    operator = operator_of(core, op)
    if not operator.reduces:
        raise MachineError(
            "operator.class",
            f"nl.{operator.name} is no reduction",
            operand="op",
            remedy="use nl.add, nl.multiply, nl.maximum, nl.minimum, nl.subtract or a logical or bitwise one",
        )
    if operator.bitvec:
        _reduce_bits(core, target, source, operator, kept, negate)
        return
    values = core.read_float("data", source).reshape(source.shape[0], kept, -1)
    # In the profile's order (V2), NaN and zeros of both signs as V5 says.
    result = REDUCTIONS[operator.name](values, core.profile)
    core.write("dst", target, np.negative(result) if negate else result)


def _reduced_axes(axis: Any, source: Tensor) -> int:
    """How many trailing axes `axis` names; they must be the last free ones."""
    named = [axis] if isinstance(axis, (int, np.integer)) else list(axis)
    wanted = sorted(int(a) + source.ndim if int(a) < 0 else int(a) for a in named)
    expected = list(range(source.ndim - len(wanted), source.ndim))
    if not wanted or wanted != expected or wanted[0] < 1:
        raise MachineError(
            "reduce.axis",
            f"tensor_reduce axis must be the last contiguous dim(s) of the tile, got {axis} for shape {source.shape}",
            operand="axis",
            remedy="axis 0 holds the partitions; permute the view so that reduced axes come last",
        )
    return len(wanted)


def _reduce_bits(core: Core, target: Tensor, source: Tensor, operator: Operator, kept: int, negate: bool) -> None:
    if negate:
        raise MachineError(
            "reduce.negate", f"nl.{operator.name} works on bit patterns, which have no sign", operand="negate"
        )
    check_bits("dst", target, check_bits("data", source).itemsize)
    bits = bits_of(core, "data", source).reshape(source.shape[0], kept, -1)
    core.write_bits("dst", target, _BITWISE[operator.name].reduce(bits, axis=-1).view(target.fmt.storage))


@instruction("vector")
def tensor_scalar_reduce(
    core: Core,
    dst: Any,
    data: Any,
    op0: Any,
    operand0: Any,
    reduce_op: Any,
    reduce_res: Any = None,
    reverse0: bool = False,
    reduce_cmd: Any = ReduceCmd.reset_reduce,
    reduce_init: Any = None,
    reduce_res_negate: bool = False,
) -> None:
    """dst = data op0 operand0, and its reduction over all free axes in the shared accumulator."""
    target, source = numeric_pair(dst, data, "data")
    count = source.shape[0]
    step = Step(arithmetic(core, op0, "op0"), operand0)
    check_partner("operand0", step)
    if reverse0:
        raise MachineError(
            "operator.reverse",
            "reverse0 is not supported here",
            operand="reverse0",
            remedy="swap the operands with nisa.tensor_scalar first",
        )
    operator = one_of(core, reduce_op, ("add", "multiply", "maximum", "minimum"), "reduce_op")
    command = command_of(reduce_cmd, ("reset_reduce", "reduce", "load_reduce"))
    init = initial(core, command, reduce_init, count)
    result = None if reduce_res is None else result_vector("reduce_res", reduce_res, count)
    output = apply(core, core.read_float("data", source), step, partner(core, "operand0", step, count))
    finish(core, target, source, output, command, operator.name, result, init, negate=reduce_res_negate)


def initial(core: Core, command: str, value: Any, count: int, unset: float | None = None) -> Any:
    """The start value of load_reduce, which alone takes one."""
    if command == "load_reduce":
        if value is None:
            raise MachineError(
                "reduce_init",
                "reduce_cmd.load_reduce needs a start value",
                operand="reduce_init",
                remedy="pass a number or a (P, 1) tile",
            )
        return fp32_vector(core, "reduce_init", value, count)
    if value is not None and (isinstance(value, Tensor) or value != unset):
        raise MachineError(
            "reduce_init",
            f"a start value goes with reduce_cmd.load_reduce, not {command}",
            operand="reduce_init",
        )
    return None


def finish(
    core: Core,
    target: Tensor,
    source: Tensor,
    output: F32,
    command: str,
    op: str,
    result: Tensor | None,
    init: Any = None,
    negate: bool = False,
) -> None:
    """Write dst, then the shared accumulator of the vector engine, then its read-out.

    The accumulator sees fp32 values before the cast (V3). An idle instruction leaves the registers undefined.
    """
    bits = core.rounded(output, target)
    lanes = lanes_of(source)
    registers = core.vector_accumulator
    if command == "idle":
        if result is not None:
            raise MachineError(
                "accumulator.idle",
                "reduce_cmd.idle leaves the accumulator undefined: there is nothing to read out",
                operand="reduce_res",
                remedy="pass reduce_cmd.reset_reduce",
            )
        registers.poison(lanes)
    else:
        seen = output if core.profile.accum_precast else to_float32(bits, target.fmt)
        registers.run(command, op, lanes, seen.reshape(source.shape[0], -1), core.profile, init)
    core.write_bits("dst", target, bits)
    if result is not None:
        values = registers.read(lanes)
        core.write("reduce_res", result, np.negative(values) if negate else values)
