"""One or two ALU operators applied to operands: fp32, bit patterns, or native 32-bit integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics import alu
from reference.numerics.cast import to_float32

from .core import Core, flat
from .errors import MachineError
from .operands import fp32_vector, is_whole, numeric
from .operators import Operator
from .tensor import Tensor

F32 = NDArray[np.float32]

#: Elements worked on at a time.
_BLOCK = 32768


@dataclass(frozen=True)
class Step:
    """One operator of an instruction with its second operand (None for unary operators)."""

    operator: Operator
    operand: Any
    reverse: bool = False


def check_partner(role: str, step: Step) -> None:
    """Unary operators take no second operand (None or 0); all others need one."""
    operand = step.operand
    empty = operand is None or (not isinstance(operand, Tensor) and np.ndim(operand) == 0 and operand == 0)
    if step.operator.unary and not empty:
        raise MachineError(
            "operator.unary",
            f"nl.{step.operator.name} takes one operand, got {operand!r} as the second",
            operand=role,
            remedy="pass None or 0",
        )
    if not step.operator.unary and operand is None:
        raise MachineError(
            "operator.binary",
            f"nl.{step.operator.name} needs a second operand",
            operand=role,
            remedy="pass a number or a (P, 1) tile",
        )


def apply(core: Core, left: F32, step: Step, right: Any) -> F32:
    """One operator in fp32. `right` is fp32, broadcast against `left`; unused by unary operators."""
    operator = step.operator
    if operator.unary:
        return alu.UNARY[operator.name](left, core.profile)
    function = alu.BINARY[operator.name]
    return function(right, left, core.profile) if step.reverse else function(left, right, core.profile)


def apply_two(core: Core, data: F32, first: Step, right0: Any, second: Step | None, right1: Any, fused: bool) -> F32:
    """Two operators in sequence; multiply-then-add rounds once where the profile says so (V1, S1)."""
    if second is None:
        return apply(core, data, first, right0)
    if fused and first.operator.name == "multiply" and second.operator.name in ("add", "subtract"):
        return _fused(core, data, right0, second, right1)
    return apply(core, apply(core, data, first, right0), second, right1)


def _fused(core: Core, data: F32, factor: Any, second: Step, term: Any) -> F32:
    # a*b - c and c - a*b: a sign moves into an exact operand.
    if second.operator.name == "subtract":
        data, term = (np.negative(data), term) if second.reverse else (data, np.negative(term))
    return alu.multiply_add(data, factor, term, core.profile, fused=True)


def partner(core: Core, role: str, step: Step | None, partitions: int) -> Any:
    """The second operand of a step as fp32, None for unary operators."""
    if step is None or step.operator.unary:
        return None
    return fp32_vector(core, role, step.operand, partitions)


# ---- whole tiles ---------------------------------------------------------------------------------------


def elementwise(
    core: Core,
    target: Tensor,
    sources: Sequence[tuple[str, Tensor]],
    vectors: Sequence[Any],
    function: Callable[..., F32],
) -> None:
    """dst = function(*sources as fp32, *vectors), row block by row block; all is read before dst is written.

    `vectors` are numbers or arrays [partitions, 1]. A block's fp32 temporaries stay in the second-level cache,
    which makes large tiles twice as fast.
    """
    arrays = [flat(core.read(role, tensor), tensor) for role, tensor in sources]
    rows, count = arrays[0].shape
    step = max(1, _BLOCK // count)
    if rows <= step:
        floats = [to_float32(array, tensor.fmt) for array, (_, tensor) in zip(arrays, sources, strict=True)]
        core.write("dst", target, function(*floats, *vectors))
        return
    result = np.empty((rows, count), target.fmt.storage)
    for start in range(0, rows, step):
        block = slice(start, start + step)
        floats = [to_float32(array[block], tensor.fmt) for array, (_, tensor) in zip(arrays, sources, strict=True)]
        local = [vector[block] if np.ndim(vector) == 2 else vector for vector in vectors]
        result[block] = core.rounded(function(*floats, *local), target)
    core.write_bits("dst", target, result)


# ---- bit patterns --------------------------------------------------------------------------------------


def bits_of(core: Core, role: str, tensor: Tensor) -> NDArray[Any]:
    """The operand's bit patterns as unsigned integers [partitions, elements]; may alias the tensor."""
    values = flat(core.read(role, tensor), tensor)
    return values.view(f"u{tensor.itemsize}")


def check_bits(role: str, value: Any, width: int | None = None) -> Tensor:
    """An operand of a bit-vector operator: integers, all of one width."""
    tensor = numeric(role, value)
    if tensor.fmt.kind not in ("int", "bool"):
        raise MachineError(
            "operand.dtype",
            f"{tensor.dtype}: bit-vector operators take integer dtypes",
            operand=role,
            remedy="view the tile as an integer dtype of its width",
        )
    if width is not None and tensor.itemsize != width:
        raise MachineError(
            "operand.dtype",
            f"{tensor.dtype} is not {8 * width} bits wide like the data: nothing is cast",
            operand=role,
            remedy="use integer dtypes of one width",
        )
    return tensor


def bits_vector(core: Core, role: str, value: Any, source: Tensor) -> Any:
    """The bit pattern of an immediate, or of a (P, 1) tensor of the data's width."""
    width = source.itemsize
    if isinstance(value, Tensor):
        tensor = check_bits(role, value, width)
        if tensor.shape[0] != source.shape[0] or tensor.size != source.shape[0]:
            raise MachineError(
                "operand.vector",
                f"{tensor.shape} must hold one element per partition of {source.shape}",
                operand=role,
            )
        return np.array(bits_of(core, role, tensor))
    if not is_whole(value):
        raise MachineError(
            "operand.scalar", f"{value!r}: the immediate of a bit-vector operator is an integer", operand=role
        )
    if not -(1 << (8 * width - 1)) <= int(value) < 1 << (8 * width):
        raise MachineError("operand.scalar", f"{value} does not fit {8 * width} bits", operand=role)
    return np.dtype(f"u{width}").type(int(value) & ((1 << (8 * width)) - 1))


def apply_bits(left: NDArray[Any], step: Step, right: Any) -> NDArray[Any]:
    """One bit-vector operator on unsigned patterns; a shift by the width or more gives 0."""
    function = alu.BITWISE[step.operator.name]
    if step.operator.unary:
        return function(left)
    if step.reverse:
        return function(np.broadcast_to(np.asarray(right, left.dtype), left.shape), left)
    return function(left, np.asarray(right, left.dtype))
