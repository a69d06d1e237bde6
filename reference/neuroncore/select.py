"""Selections of the vector engine with an optional running maximum: range_select, select_reduce."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics import alu

from .accumulator import command_of
from .core import Core
from .enums import reduce_cmd as ReduceCmd
from .errors import MachineError
from .instruction import instruction, same_elements
from .operands import (
    dtype_in,
    fp32_vector,
    not_both_in_psum,
    number,
    numeric,
    numeric_pair,
    result_vector,
)
from .operators import one_of
from .reduction import finish
from .tensor import Tensor

F32 = NDArray[np.float32]

#: The only fill value of range_select (hardware constraint).
FP32_MIN = np.finfo(np.float32).min
_FLOATS = ("float32", "tfloat32", "bfloat16", "float16", "float8_e4m3", "float8_e4m3fn", "float8_e5m2")
_BOUNDS = ("equal", "less", "less_equal", "greater", "greater_equal")
_PREDICATES = ("int8", "uint8", "int16", "uint16")
#: Indices are compared in fp32.
_EXACT = 1 << 24


@instruction("vector", since=3)
def range_select(
    core: Core,
    dst: Any,
    on_true_tile: Any,
    comp_op0: Any,
    comp_op1: Any,
    bound0: Any,
    bound1: Any,
    reduce_cmd: Any = ReduceCmd.reset_reduce,
    reduce_res: Any = None,
    reduce_op: Any = "maximum",
    range_start: Any = 0,
    on_false_value: Any = FP32_MIN,
) -> None:
    """dst = on_true_tile where both comparisons of the free index hold, else FP32_MIN; running maximum."""
    target, source = numeric_pair(dst, on_true_tile, "on_true_tile")
    dtype_in("on_true_tile", source, _FLOATS)
    one_of(core, reduce_op, ("maximum",), "reduce_op")
    _check_fill(on_false_value)
    command = command_of(reduce_cmd, ("idle", "reset_reduce", "reduce"))
    count = source.shape[0]
    result = None if reduce_res is None else result_vector("reduce_res", reduce_res, count)
    index = _free_index(range_start, source.size // count)
    taken = _within(core, index, comp_op0, bound0, 0, count) & _within(core, index, comp_op1, bound1, 1, count)
    output = np.where(taken, core.read_float("on_true_tile", source), FP32_MIN)
    finish(core, target, source, output, command, "maximum", result)


def _check_fill(value: Any) -> None:
    if isinstance(value, Tensor) or np.float32(number("on_false_value", value)) != FP32_MIN:
        raise MachineError(
            "range_select.fill",
            f"{value!r} must be FP32_MIN (-3.4028235e+38)",
            operand="on_false_value",
            remedy="leave on_false_value alone; use nisa.affine_select for other values",
        )


def _free_index(start: Any, count: int) -> F32:
    if not isinstance(start, (int, np.integer)) or abs(int(start)) + count > _EXACT:
        raise MachineError(
            "range_select.start",
            f"range_start={start!r} with {count} elements: indices must be ints within 2^24",
            operand="range_start",
        )
    return np.arange(int(start), int(start) + count, dtype=np.float32)[None, :]


def _within(core: Core, index: F32, op: Any, bound: Any, position: int, count: int) -> NDArray[np.bool_]:
    compare = one_of(core, op, _BOUNDS, f"comp_op{position}")
    role = f"bound{position}"
    if not isinstance(bound, Tensor) or bound.dtype != "float32":
        raise MachineError(
            "operand.dtype",
            f"{bound!r} must be a float32 (P, 1) tile",
            operand=role,
            remedy="copy the bound into one",
        )
    holds: F32 = alu.BINARY[compare.name](index, fp32_vector(core, role, bound, count), core.profile)
    return np.not_equal(holds, 0)


@instruction("vector")
def select_reduce(
    core: Core,
    dst: Any,
    predicate: Any,
    on_true: Any,
    on_false: Any,
    reduce_res: Any = None,
    reduce_cmd: Any = ReduceCmd.idle,
    reduce_op: Any = "maximum",
    reverse_pred: bool = False,
) -> None:
    """dst = on_true where predicate is not 0 (is 0 if reversed), else on_false; optional running maximum."""
    target, source = numeric_pair(dst, on_true, "on_true")
    mask = numeric("predicate", predicate)
    same_elements(("dst", target), ("predicate", mask))
    dtype_in("predicate", mask, _PREDICATES)
    not_both_in_psum("on_true", source, "predicate", mask)
    if source.dtype in ("tfloat32", "int32", "uint32"):
        raise MachineError("operand.dtype", f"{source.dtype} is not supported", operand="on_true")
    one_of(core, reduce_op, ("maximum",), "reduce_op")
    command = command_of(reduce_cmd, ("idle", "reset_reduce", "reduce"))
    count = source.shape[0]
    result = None if reduce_res is None else _float_result(reduce_res, count)
    taken = (core.read_float("predicate", mask) != 0) != bool(reverse_pred)
    otherwise = fp32_vector(core, "on_false", on_false, count)
    output = np.where(taken, core.read_float("on_true", source), otherwise)
    finish(core, target, source, output, command, "maximum", result)


def _float_result(value: Any, count: int) -> Tensor:
    result = result_vector("reduce_res", value, count)
    dtype_in("reduce_res", result, _FLOATS)
    return result
