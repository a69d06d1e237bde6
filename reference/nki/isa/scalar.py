"""Scalar engine instructions of nki.isa.

fp32 inside, one rounding to the dtype of dst (to nearest even; floats overflow to infinity, integers
saturate). Tiles are SBUF or PSUM, at most 128 partitions, equal partition counts and elements per partition.
Functions are correctly rounded by default; profile S2 plays other errors, S3 the underflow of exp, S6 sin
beyond pi. Outside the documented range of a function (log, sin, arctan, sqrt, rsqrt, reciprocal) a
MachineWarning is given. Source: documentation of nki.isa (NKI 0.6), API fact sheet 2.3; numerics fact sheet
6.
"""

from __future__ import annotations

from typing import Any

from reference.neuroncore import scalar_engine as machine
from reference.neuroncore.enums import reduce_cmd as reduce_cmds
from reference.neuroncore.instruction import NkiInstruction


def activation(
    dst: Any,
    op: Any,
    data: Any,
    bias: Any = None,
    scale: Any = 1.0,
    reduce_op: Any = None,
    reduce_res: Any = None,
    reduce_cmd: Any = reduce_cmds.idle,
    name: str | None = None,
) -> NkiInstruction:
    """dst = op(data * scale + bias).

    scale: number or float32 (P, 1) tile; bias: (P, 1) tile of any dtype but tfloat32, from gen3 on also a
    number. Two roundings, or one by profile S1. A scale of 1 without bias leaves data as it is. reduce_cmd:
    reset (registers 0), reset_reduce (sum of the fp32 results), reduce (added), idle (untouched), the sum
    over all free axes, order by profile S4; reduce_op is nl.add. reduce_res (P, 1), written after dst,
    receives the registers; registers that were never set are an error.
    """
    return machine.activation(dst, op, data, bias, scale, reduce_op, reduce_res, reduce_cmd, name=name)


def activation_reduce(
    dst: Any,
    op: Any,
    data: Any,
    reduce_op: Any,
    reduce_res: Any,
    bias: Any = None,
    scale: Any = 1.0,
    name: str | None = None,
) -> NkiInstruction:
    """activation with reduce_cmd.reset_reduce: reduce_res (P, 1) = sum of op(data * scale + bias) before the
    cast.
    """
    return machine.activation_reduce(dst, op, data, reduce_op, reduce_res, bias, scale, name=name)


def activate2(
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
    reduce_cmd: Any = reduce_cmds.idle,
    name: str | None = None,
) -> NkiInstruction:
    """gen4. dst = op((data op0 imm0) op1 imm1); prelu takes its slope from relu_param (number or (P, 1)
    tile).

    (op0, op1): multiply with add, subtract or bypass; add, subtract or bypass with bypass. Immediates are
    numbers or (P, 1) tiles, of one dtype if both are tiles. reduce_op add, maximum, minimum, abs_max, abs_min
    from its identity; reduce_cmd and reduce_res as in activation, whose registers these are.
    """
    return machine.activate2(
        dst,
        op,
        data,
        imm0,
        imm1,
        op0,
        op1,
        relu_param,
        reverse0,
        reverse1,
        reduce_op,
        reduce_res,
        reduce_cmd,
        name=name,
    )


__all__ = [
    "activate2",
    "activation",
    "activation_reduce",
]
