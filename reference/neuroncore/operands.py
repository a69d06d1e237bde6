"""Rules about operands that several instructions of the compute engines share."""

from __future__ import annotations

import numbers
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .core import Core
from .enums import engine as Engine
from .enums import member
from .errors import MachineError
from .instruction import check_compute, same_elements
from .tensor import Tensor

INTEGERS = frozenset({"int8", "int16", "int32", "uint8", "uint16", "uint32"})
WORDS = frozenset({"int32", "uint32"})


def numeric(role: str, value: Any, *, psum: bool = True) -> Tensor:
    """An on-chip operand whose elements are numbers (the packed x4 types are not)."""
    tensor = check_compute(role, value, psum=psum)
    if tensor.fmt.kind == "packed":
        raise MachineError(
            "operand.dtype",
            f"{tensor.dtype} holds packed elements, not numbers",
            operand=role,
            remedy="view it as uint32, or unpack it",
        )
    return tensor


def numeric_pair(dst: Any, data: Any, role: str, *, psum: bool = True) -> tuple[Tensor, Tensor]:
    """Destination and source of an element-wise instruction: both numeric, same elements."""
    target, source = numeric("dst", dst, psum=psum), numeric(role, data, psum=psum)
    same_elements(("dst", target), (role, source))
    if target.indirection is not None:
        check_scatter(target, role, source)
    return target, source


def check_scatter(target: Tensor, role: str, source: Tensor) -> None:
    """The index of a scattered destination lies in the partitions its SBUF data come from (gen4)."""
    if not is_scattered(target) or in_psum(source):
        return
    assert target.indirection is not None
    start = target.indirection.index.start_partition
    if start != source.start_partition:
        raise MachineError(
            "indirect.base",
            f"the index of dst starts at partition {start}, {role} at {source.start_partition}: both must be the same",
            operand="dst",
        )


def no_scatter_into_psum(target: Tensor) -> None:
    """The scalar engine has no scatter into PSUM."""
    if is_scattered(target) and in_psum(target):
        raise MachineError(
            "indirect.psum",
            "the scalar engine cannot scatter into PSUM",
            operand="dst",
            remedy="scatter into SBUF",
        )


def is_scattered(tensor: Tensor) -> bool:
    """Whether the tensor is a gen4 `.indirect` view."""
    return tensor.indirection is not None and tensor.indirection.kind == "free"


def dtype_in(role: str, tensor: Tensor, allowed: Collection[str]) -> None:
    """The operand's dtype is one of `allowed`."""
    if tensor.dtype not in allowed:
        raise MachineError(
            "operand.dtype",
            f"{tensor.dtype} is not supported",
            operand=role,
            remedy=f"use {', '.join(sorted(allowed))}",
        )


def dtype_equal(role: str, tensor: Tensor, other_role: str, other: Tensor) -> None:
    """Two operands have one dtype: the instruction moves bits."""
    if tensor.dtype != other.dtype:
        raise MachineError(
            "operand.dtype",
            f"{tensor.dtype} differs from {other_role} {other.dtype}: bits are moved, nothing is cast",
            operand=role,
            remedy="use equal dtypes, or cast with nisa.tensor_copy",
        )


def elements(role: str, tensor: Tensor, count: int) -> None:
    """The operand has `count` elements in each partition."""
    if tensor.size != count * tensor.shape[0]:
        raise MachineError(
            "operand.shape",
            f"{tensor.shape} has {tensor.size // tensor.shape[0]} elements per partition, not {count}",
            operand=role,
        )


def partitions(role: str, tensor: Tensor, count: int) -> None:
    """The operand has `count` partitions."""
    if tensor.shape[0] != count:
        raise MachineError("operand.shape", f"{tensor.shape} must have {count} partitions", operand=role)


def not_both_in_psum(role_a: str, a: Tensor, role_b: str, b: Tensor) -> None:
    """The engine has one read port to PSUM."""
    if in_psum(a) and in_psum(b):
        raise MachineError(
            "operand.psum",
            f"{role_a} and {role_b} are both in PSUM",
            operand=role_a,
            remedy="copy one of them to SBUF first",
        )


def in_psum(tensor: Tensor) -> bool:
    """Whether the tensor lies in PSUM."""
    return tensor.buffer.name == "psum"


def pick_engine(value: Any, allowed: Collection[str], default: str) -> str:
    """The engine that executes: `default` where the compiler may choose."""
    chosen = member(Engine, value, "engine").name
    if chosen == "unknown":
        return default
    if chosen not in allowed:
        raise MachineError(
            "engine",
            f"engine.{chosen} cannot execute this",
            operand="engine",
            remedy=f"use {', '.join(f'engine.{name}' for name in allowed)}",
        )
    return chosen


def no_psum_on_gpsimd(chosen: str, **tensors: Tensor) -> None:
    """The GpSimd engine has no path to PSUM."""
    if chosen != "gpsimd":
        return
    for role, tensor in tensors.items():
        if in_psum(tensor):
            raise MachineError(
                "operand.memory",
                "is in PSUM, which GpSimd cannot access",
                operand=role,
                remedy="use engine.vector, or move it to SBUF",
            )


def number(role: str, value: Any) -> Any:
    """A compile-time number; tensors, registers and None are refused."""
    if isinstance(value, (numbers.Number, np.generic)):
        return value
    raise MachineError(
        "operand.scalar",
        f"{type(value).__name__} is no compile-time number",
        operand=role,
        remedy="pass a Python number",
    )


def is_whole(value: Any) -> bool:
    """A Python or NumPy integer (bool is none)."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def fp32_vector(core: Core, role: str, value: Any, count: int) -> NDArray[Any] | np.float32:
    """A number as fp32, or a (P, 1) tensor of any numeric dtype as fp32 [P, 1].

    A copy: it stays what it was while the instruction writes.
    """
    if not isinstance(value, Tensor):
        return np.float32(number(role, value))
    return np.array(core.read_float(role, _per_partition(role, value, count)))


def _per_partition(role: str, value: Any, count: int) -> Tensor:
    tensor = numeric(role, value)
    if is_scattered(tensor):
        raise MachineError(
            "indirect.operand",
            "an .indirect() view cannot be a per-partition operand",
            operand=role,
            remedy="gather it into a (P, 1) tile with nisa.tensor_copy first",
        )
    if tensor.shape[0] != count or tensor.size != count:
        raise MachineError(
            "operand.vector",
            f"{tensor.shape} must hold one element for each of the {count} partitions",
            operand=role,
            remedy="pass a number or a (P, 1) tile",
        )
    return tensor


def result_vector(role: str, value: Any, count: int) -> Tensor:
    """A (P, 1) destination."""
    return _per_partition(role, value, count)
