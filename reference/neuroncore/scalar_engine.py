"""Instructions of the scalar engine: scale and bias, a function, and a sum in the engine's registers.

fp32 inside, one rounding on write. The functions are those of `numerics.elementary` under the profile (S1 to
S6); the tables of a real device are not public.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics import alu
from reference.numerics.cast import to_float32
from reference.numerics.elementary import FUNCTIONS, activate, prelu
from reference.numerics.subnormals import read_operand, write_result

from .accumulator import command_of, lanes_of
from .arithmetic import Step, apply_two, elementwise
from .core import Core
from .enums import reduce_cmd as ReduceCmd
from .errors import MachineError, MachineWarning
from .instruction import instruction
from .operands import fp32_vector, no_scatter_into_psum, numeric_pair, result_vector
from .operators import one_of, operator_name
from .tensor import Tensor

F32 = NDArray[np.float32]

#: Functions that `activation` documents. prelu needs the parameter of activate2.
ACTIVATIONS = frozenset(
    (
        "abs",
        "arctan",
        "copy",
        "erf",
        "erf_dx",
        "exp",
        "gelu",
        "gelu_apprx_sigmoid",
        "gelu_apprx_sigmoid_dx",
        "gelu_apprx_tanh",
        "gelu_dx",
        "log",
        "mish",
        "reciprocal",
        "relu",
        "rsqrt",
        "sigmoid",
        "sign",
        "silu",
        "silu_dx",
        "sin",
        "softplus",
        "sqrt",
        "square",
        "tanh",
    )
)

#: (op0, op1) of activate2.
_STAGES = {
    ("multiply", "add"),
    ("multiply", "subtract"),
    ("multiply", "bypass"),
    ("add", "bypass"),
    ("subtract", "bypass"),
    ("bypass", "bypass"),
}
_COMMANDS = ("idle", "reset", "reduce", "reset_reduce")


@dataclass(frozen=True)
class Request:
    """What an instruction asks of the registers, as the kernel wrote it."""

    op: Any
    result: Any
    command: Any


@dataclass(frozen=True)
class Reduction:
    """The same, checked."""

    command: str
    op: str
    result: Tensor | None


@instruction("scalar")
def activation(
    core: Core,
    dst: Any,
    op: Any,
    data: Any,
    bias: Any = None,
    scale: Any = 1.0,
    reduce_op: Any = None,
    reduce_res: Any = None,
    reduce_cmd: Any = ReduceCmd.idle,
) -> None:
    """dst = op(data * scale + bias); see `nki.isa.activation`."""
    _activation(core, dst, op, data, bias, scale, Request(reduce_op, reduce_res, reduce_cmd))


@instruction("scalar")
def activation_reduce(
    core: Core,
    dst: Any,
    op: Any,
    data: Any,
    reduce_op: Any,
    reduce_res: Any,
    bias: Any = None,
    scale: Any = 1.0,
) -> None:
    """activation with reduce_cmd.reset_reduce and a result tile."""
    _activation(core, dst, op, data, bias, scale, Request(reduce_op, reduce_res, ReduceCmd.reset_reduce))


def _operands(dst: Any, data: Any) -> tuple[Tensor, Tensor]:
    target, source = numeric_pair(dst, data, "data")
    no_scatter_into_psum(target)
    return target, source


def _activation(core: Core, dst: Any, op: Any, data: Any, bias: Any, scale: Any, request: Request) -> None:
    target, source = _operands(dst, data)
    reduction = _reduction(core, source, request, ("add",))
    name = _function(op, ACTIVATIONS)
    if bias is not None:
        _check_bias(core, name, bias)
    if isinstance(scale, Tensor) and scale.dtype != "float32":
        raise MachineError("operand.dtype", f"{scale.dtype} must be float32", operand="scale")
    factor = fp32_vector(core, "scale", scale, source.shape[0])
    term = None if bias is None else fp32_vector(core, "bias", bias, source.shape[0])
    if reduction.command == "idle" and reduction.result is None and not (core.checked and _is_limited(name)):
        elementwise(
            core,
            target,
            [("data", source)],
            (factor, term),
            lambda data, f, t: _evaluate(core, name, _scaled(core, data, f, t)),
        )
        return
    values = _scaled(core, core.read_float("data", source), factor, term)
    if core.checked:
        _warn_outside(core, name, values)
    _finish(core, target, source, _evaluate(core, name, values), reduction)


def _function(op: Any, allowed: frozenset[str]) -> str:
    name = operator_name(op)
    if name not in allowed:
        remedy = "use nisa.activate2 (gen4) for prelu" if name == "prelu" else f"use {', '.join(sorted(allowed))}"
        raise MachineError("operator.unknown", f"nl.{name} is no activation function here", operand="op", remedy=remedy)
    return name


def _check_bias(core: Core, name: str, bias: Any) -> None:
    level = core.generation.level
    if not isinstance(bias, Tensor) and level < 3:
        raise MachineError(
            "activation.bias",
            "a number as bias needs NeuronCore-v3",
            operand="bias",
            remedy="pass a (P, 1) tile",
        )
    if isinstance(bias, Tensor) and bias.dtype == "tfloat32":
        raise MachineError("operand.dtype", "tfloat32 is the one dtype a bias cannot have", operand="bias")
    if name == "reciprocal" and level < 3:
        raise MachineError("activation.bias", "reciprocal takes no bias on NeuronCore-v2", operand="bias")


def _scaled(core: Core, values: F32, factor: Any, term: Any) -> F32:
    """data * scale + bias. A scale of 1 and no bias leave the bits alone, the sign of zero included."""
    if term is not None and core.profile.fma_scalar:
        return alu.multiply_add(values, factor, term, core.profile, fused=True)
    if isinstance(factor, np.ndarray) or factor != 1:
        values = alu.BINARY["multiply"](values, factor, core.profile)
    return values if term is None else alu.BINARY["add"](values, term, core.profile)


# ---- the function --------------------------------------------------------------------------------------


def _evaluate(core: Core, name: str, values: F32) -> F32:
    # The functions know nothing of flushed subnormals (U6).
    return write_result(activate(name, read_operand(values, core.profile), core.profile), core.profile)


def _is_limited(name: str) -> bool:
    """Whether the function's table covers a part of the line only."""
    return FUNCTIONS[name].valid != (-math.inf, math.inf)


def _warn_outside(core: Core, name: str, values: F32) -> None:
    """Outside the documented range of a table the hardware gives invalid results."""
    if not _is_limited(name):
        return
    low, high = (np.float32(end) for end in FUNCTIONS[name].valid)
    tested = np.abs(values) if name == "reciprocal" else values
    outside = (tested < low) | (tested > high)
    if outside.any():
        example = float(values[outside][0])
        warnings.warn(
            f"nisa.{core.instruction.op}: {int(outside.sum())} of {values.size} arguments of {name} lie "
            f"outside [{low:g}, {high:g}], where the hardware's table is invalid, e.g. {example:g} "
            f"({core.instruction.location})",
            MachineWarning,
            stacklevel=2,
        )


# ---- the registers -------------------------------------------------------------------------------------


def _reduction(core: Core, source: Tensor, request: Request, allowed: tuple[str, ...]) -> Reduction:
    command = command_of(request.command, _COMMANDS)
    if request.op is None and command in ("reduce", "reset_reduce"):
        raise MachineError(
            "reduce_op",
            f"reduce_cmd.{command} without reduce_op",
            operand="reduce_op",
            remedy="pass reduce_op=nl.add",
        )
    op = "add" if request.op is None else one_of(core, request.op, allowed, "reduce_op").name
    result = request.result
    return Reduction(command, op, None if result is None else result_vector("reduce_res", result, source.shape[0]))


def _finish(core: Core, target: Tensor, source: Tensor, output: F32, reduction: Reduction) -> None:
    """Write dst, then the registers, then the read-out: a reduce_res on the bytes of dst ends with the sum."""
    bits = core.rounded(output, target)
    lanes = lanes_of(source)
    registers = core.scalar_accumulator
    seen = output
    if not core.profile.act_reduce_precast and reduction.command != "idle":
        seen = to_float32(bits, target.fmt)
    registers.run(reduction.command, reduction.op, lanes, seen, core.profile)
    core.write_bits("dst", target, bits)
    if reduction.result is not None:
        core.write("reduce_res", reduction.result, registers.read(lanes))


# ---- activate2 -----------------------------------------------------------------------------------------


@instruction("scalar", since=4)
def activate2(
    core: Core,
    dst: Any,
    op: Any,
    data: Any,
    imm0: Any,
    imm1: Any,
    op0: Any,
    op1: Any,
    relu_param: Any = 0.0,
    reverse0: bool = False,
    reverse1: bool = False,
    reduce_op: Any = None,
    reduce_res: Any = None,
    reduce_cmd: Any = ReduceCmd.idle,
) -> None:
    """dst = op((data op0 imm0) op1 imm1); see `nki.isa.activate2`."""
    target, source = _operands(dst, data)
    request = Request(reduce_op, reduce_res, reduce_cmd)
    reduction = _reduction(core, source, request, ("add", "maximum", "minimum", "abs_max", "abs_min"))
    name = _function(op, ACTIVATIONS | {"prelu"})
    values = _staged(core, source, (op0, imm0, reverse0), (op1, imm1, reverse1))
    if name == "prelu":
        slope = fp32_vector(core, "relu_param", relu_param, source.shape[0])
        output = write_result(prelu(read_operand(values, core.profile), slope), core.profile)
    else:
        if core.checked:
            _warn_outside(core, name, values)
        output = _evaluate(core, name, values)
    _finish(core, target, source, output, reduction)


def _staged(core: Core, source: Tensor, stage0: tuple[Any, Any, bool], stage1: tuple[Any, Any, bool]) -> F32:
    names = (operator_name(stage0[0]), operator_name(stage1[0]))
    if names not in _STAGES:
        listed = "; ".join(f"{a}, {b}" for a, b in sorted(_STAGES))
        raise MachineError(
            "operator.class",
            f"(op0, op1) = {names} is not supported",
            operand="op0",
            remedy=f"use one of {listed}",
        )
    imms = [imm for imm in (stage0[1], stage1[1]) if isinstance(imm, Tensor)]
    if len(imms) == 2 and imms[0].dtype != imms[1].dtype:
        raise MachineError(
            "operand.dtype",
            f"imm0 {imms[0].dtype} and imm1 {imms[1].dtype} must have one dtype",
            operand="imm1",
        )
    steps = [_stage(core, position, *stage) for position, stage in enumerate((stage0, stage1))]
    values = core.read_float("data", source)
    if steps[0] is None:
        return values
    rights = [
        None if step is None else fp32_vector(core, f"imm{position}", step.operand, source.shape[0])
        for position, step in enumerate(steps)
    ]
    return apply_two(core, values, steps[0], rights[0], steps[1], rights[1], core.profile.fma_scalar)


def _stage(core: Core, position: int, op: Any, imm: Any, reverse: bool) -> Step | None:
    known = one_of(core, op, ("multiply", "add", "subtract", "bypass"), f"op{position}")
    if known.name != "bypass":
        return Step(known, imm, reverse)
    if reverse:
        raise MachineError(
            "operator.reverse",
            f"reverse{position} has no operator to reverse",
            operand=f"op{position}",
            remedy="pass reverse=False with nl.bypass",
        )
    return None
