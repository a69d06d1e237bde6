"""Element-wise instructions of the vector engine: fp32 inside, one rounding on write.

tensor_copy, tensor_tensor and tensor_scalar may run on other engines as well; the rules are theirs then.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reference.numerics import alu

from .arithmetic import (
    Step,
    apply,
    apply_bits,
    apply_two,
    bits_of,
    bits_vector,
    check_bits,
    check_partner,
    elementwise,
    partner,
)
from .core import Core
from .enums import engine as Engine
from .errors import MachineError
from .instruction import check_compute, instruction, same_elements
from .operands import (
    WORDS,
    check_scatter,
    dtype_equal,
    dtype_in,
    in_psum,
    is_whole,
    no_psum_on_gpsimd,
    no_scatter_into_psum,
    not_both_in_psum,
    number,
    numeric,
    numeric_pair,
    pick_engine,
)
from .operators import Operator, arithmetic, operator_of, same_class
from .tensor import Tensor

#: What the scalar engine of NeuronCore-v3 can do in a tensor_scalar: (op0, op1).
_SCALAR_V3 = {("multiply", "add"), ("multiply", None), ("add", None)}


# ---- copies --------------------------------------------------------------------------------------------


@instruction("vector")
def tensor_copy(core: Core, dst: Any, src: Any, engine: Any = Engine.unknown) -> str:
    """dst = src: the same bits where dtypes agree, else through fp32 with one rounding."""
    target, source = check_compute("dst", dst), check_compute("src", src)
    same_elements(("dst", target), ("src", source))
    chosen = pick_engine(engine, ("vector", "scalar", "gpsimd"), "vector")
    no_psum_on_gpsimd(chosen, dst=target, src=source)
    if chosen == "scalar" and core.generation.level < 3:
        raise MachineError(
            "engine",
            "the scalar engine of NeuronCore-v2 has no tensor_copy",
            operand="engine",
            remedy="use nisa.activation(op=nl.copy), or another engine",
        )
    check_scatter(target, "src", source)
    if chosen == "scalar":
        no_scatter_into_psum(target)
    if target.dtype == source.dtype:
        core.write_bits("dst", target, core.read("src", source))
    else:
        numeric("dst", target), numeric("src", source)
        core.write("dst", target, core.read_float("src", source))
    return chosen


@instruction("vector")
def tensor_copy_predicated(core: Core, dst: Any, src: Any, predicate: Any, reverse_pred: bool = False) -> None:
    """dst = src where predicate is not 0 (is 0 if reversed); elsewhere dst keeps its bits."""
    target, mask = numeric("dst", dst), numeric("predicate", predicate)
    dtype_in("predicate", mask, ("uint8", "uint16", "uint32"))
    same_elements(("dst", target), ("predicate", mask))
    taken = (core.read("predicate", mask) != 0).reshape(target.shape) != bool(reverse_pred)
    if isinstance(src, Tensor):
        source = numeric("src", src)
        dtype_equal("src", source, "dst", target)
        same_elements(("dst", target), ("src", source))
        not_both_in_psum("src", source, "predicate", mask)
        values = core.read("src", source).reshape(target.shape)
    else:
        values = core.rounded(np.float32(number("src", src)), target)
    core.write_where("dst", target, taken, values)


@instruction("vector")
def reciprocal(core: Core, dst: Any, data: Any) -> None:
    """dst = 1 / data in fp32."""
    target, source = numeric_pair(dst, data, "data")
    elementwise(core, target, [("data", source)], (), lambda data: alu.UNARY["reciprocal"](data, core.profile))


# ---- two tensors ---------------------------------------------------------------------------------------


@instruction("vector")
def tensor_tensor(core: Core, dst: Any, data1: Any, data2: Any, op: Any, engine: Any = Engine.unknown) -> str:
    """dst = data1 op data2, element by element."""
    target, left = numeric_pair(dst, data1, "data1")
    right = numeric("data2", data2)
    same_elements(("dst", target), ("data2", right))
    not_both_in_psum("data1", left, "data2", right)
    operator = operator_of(core, op)
    _binary(operator)
    step = Step(operator, right)
    if operator.bitvec:
        chosen = pick_engine(engine, ("vector", "gpsimd"), "vector")
        no_psum_on_gpsimd(chosen, dst=target, data1=left, data2=right)
        _tensor_tensor_bits(core, target, left, right, step)
        return chosen
    chosen = _tensor_tensor_engine(operator, target, left, right, engine)
    if chosen == "gpsimd" and {target.dtype, left.dtype, right.dtype} <= WORDS and operator.name != "power":
        result = alu.INTEGER[operator.name](
            core.read_words("data1", left), core.read_words("data2", right), core.profile
        )
        core.write_words("dst", target, result)
    else:
        elementwise(core, target, [("data1", left), ("data2", right)], (), lambda a, b: apply(core, a, step, b))
    return chosen


def _binary(operator: Operator) -> None:
    if operator.unary or operator.kind == "token":
        raise MachineError(
            "operator.class",
            f"nl.{operator.name} is no binary operator",
            operand="op",
            remedy="use nisa.tensor_scalar or nisa.activation for functions of one tensor",
        )


def _tensor_tensor_engine(operator: Operator, dst: Tensor, left: Tensor, right: Tensor, engine: Any) -> str:
    """power runs on GpSimd; so do 32-bit integers by default, unless PSUM is involved."""
    if operator.name == "power":
        chosen = pick_engine(engine, ("gpsimd",), "gpsimd")
    else:
        words = {dst.dtype, left.dtype, right.dtype} <= WORDS
        psum = in_psum(dst) or in_psum(left) or in_psum(right)
        chosen = pick_engine(engine, ("vector", "gpsimd"), "gpsimd" if words and not psum else "vector")
    no_psum_on_gpsimd(chosen, dst=dst, data1=left, data2=right)
    return chosen


def _tensor_tensor_bits(core: Core, dst: Tensor, left: Tensor, right: Tensor, step: Step) -> None:
    width = check_bits("data1", left).itemsize
    check_bits("data2", right, width)
    check_bits("dst", dst, width)
    result = apply_bits(bits_of(core, "data1", left), step, bits_of(core, "data2", right))
    core.write_bits("dst", dst, result.view(dst.fmt.storage))


# ---- one tensor and per-partition scalars --------------------------------------------------------------


@instruction("vector")
def tensor_scalar(
    core: Core,
    dst: Any,
    data: Any,
    op0: Any,
    operand0: Any,
    reverse0: bool = False,
    op1: Any = None,
    operand1: Any = None,
    reverse1: bool = False,
    engine: Any = Engine.unknown,
) -> str:
    """dst = (data op0 operand0) op1 operand1, no rounding to dst in between."""
    target, source = numeric_pair(dst, data, "data")
    first = Step(operator_of(core, op0, "op0"), operand0, reverse0)
    second = None if op1 is None else Step(operator_of(core, op1, "op1"), operand1, reverse1)
    _check_steps(first, second, operand1)
    chosen = _tensor_scalar_engine(core, target, source, first, second, engine)
    if first.operator.bitvec:
        _tensor_scalar_bits(core, target, source, first, second)
    elif core.profile.int32_tensor_scalar == "native" and _all_words(target, source, first, second):
        _tensor_scalar_words(core, target, source, first, second)
    else:
        count = source.shape[0]
        fused = core.profile.fma_scalar if chosen == "scalar" else core.profile.fma_vector
        right0, right1 = partner(core, "operand0", first, count), partner(core, "operand1", second, count)
        elementwise(
            core,
            target,
            [("data", source)],
            (right0, right1),
            lambda data, r0, r1: apply_two(core, data, first, r0, second, r1, fused),
        )
    return chosen


def _check_steps(first: Step, second: Step | None, operand1: Any) -> None:
    for role, step in (("op0", first), ("op1", second)):
        if step is not None and step.operator.kind == "token":
            raise MachineError("operator.class", f"nl.{step.operator.name} is not supported here", operand=role)
    check_partner("operand0", first)
    if second is None:
        if operand1 is not None:
            raise MachineError("operator.binary", "operand1 without op1", operand="operand1", remedy="pass op1 as well")
        return
    check_partner("operand1", second)
    same_class(first.operator, second.operator)


def _tensor_scalar_engine(core: Core, dst: Tensor, data: Tensor, first: Step, second: Step | None, engine: Any) -> str:
    if first.operator.bitvec:
        return pick_engine(engine, ("vector",), "vector")
    chosen = pick_engine(engine, ("vector", "scalar", "gpsimd"), "vector")
    names = (first.operator.name, second.operator.name if second else None)
    if chosen == "gpsimd" and names != ("rsqrt", None):
        raise MachineError(
            "engine",
            f"engine.gpsimd executes rsqrt alone, not {_pair(names)}",
            operand="engine",
            remedy="use engine.vector",
        )
    no_psum_on_gpsimd(chosen, dst=dst, data=data)
    level = core.generation.level
    if chosen == "scalar" and (level < 3 or (level == 3 and names not in _SCALAR_V3)):
        raise MachineError(
            "engine",
            f"the scalar engine of {core.generation.chip} cannot execute {_pair(names)}",
            operand="engine",
            remedy="use engine.vector; on trn2 it does multiply+add, multiply or add",
        )
    return chosen


def _pair(names: tuple[str, str | None]) -> str:
    return "+".join(f"nl.{name}" for name in names if name)


def _tensor_scalar_bits(core: Core, dst: Tensor, data: Tensor, first: Step, second: Step | None) -> None:
    check_bits("data", data)
    check_bits("dst", dst, data.itemsize)
    result = bits_of(core, "data", data)
    for role, step in (("operand0", first), ("operand1", second)):
        if step is not None:
            right = None if step.operator.unary else bits_vector(core, role, step.operand, data)
            result = apply_bits(result, step, right)
    core.write_bits("dst", dst, result.view(dst.fmt.storage))


def _all_words(dst: Tensor, data: Tensor, *steps: Step | None) -> bool:
    """V11 'native': every tensor is int32 or uint32 and every immediate an integer."""
    operands = [step.operand for step in steps if step is not None]
    tensors = [dst, data, *(operand for operand in operands if isinstance(operand, Tensor))]
    numbers = [operand for operand in operands if not isinstance(operand, Tensor)]
    known = all(step is None or step.operator.name in alu.INTEGER for step in steps)
    return known and all(tensor.dtype in WORDS for tensor in tensors) and all(map(is_whole, numbers))


def _tensor_scalar_words(core: Core, dst: Tensor, data: Tensor, first: Step, second: Step | None) -> None:
    result = core.read_words("data", data)
    for role, step in (("operand0", first), ("operand1", second)):
        if step is None:
            continue
        right = step.operand
        right = core.read_words(role, numeric(role, right)) if isinstance(right, Tensor) else np.int64(int(right))
        function = alu.INTEGER[step.operator.name]
        pair = (right, result) if step.reverse else (result, right)
        result = function(*pair, core.profile)
    core.write_words("dst", dst, result)


@instruction("vector")
def scalar_tensor_tensor(
    core: Core,
    dst: Any,
    data: Any,
    op0: Any,
    operand0: Any,
    op1: Any,
    operand1: Any,
    reverse0: bool = False,
    reverse1: bool = False,
) -> None:
    """dst = (data op0 operand0) op1 operand1, operand0 per partition, operand1 per element."""
    target, source = numeric_pair(dst, data, "data")
    other = numeric("operand1", operand1)
    same_elements(("data", source), ("operand1", other))
    not_both_in_psum("data", source, "operand1", other)
    first = Step(arithmetic(core, op0, "op0"), operand0, reverse0)
    second = Step(arithmetic(core, op1, "op1", unary=False), other, reverse1)
    check_partner("operand0", first)
    right0 = partner(core, "operand0", first, source.shape[0])
    fused = core.profile.fma_vector
    elementwise(
        core,
        target,
        [("data", source), ("operand1", other)],
        (right0,),
        lambda data, tile, r0: apply_two(core, data, first, r0, second, tile, fused),
    )
