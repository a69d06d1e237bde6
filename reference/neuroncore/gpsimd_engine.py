"""Instructions of the GpSimd engine that make or select values: real integer arithmetic, SBUF only.

memset and the affine pattern of iota and affine_select live here; gathers are in `gather`, searches in
`search`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.reduce import reduce_add, reduce_max

from .arithmetic import bits_of, check_bits
from .core import Core, flat
from .enums import engine as Engine
from .errors import MachineError
from .instruction import check_compute, instruction, same_elements
from .operands import elements, is_whole, no_psum_on_gpsimd, number, numeric, partitions, pick_engine
from .operators import COMPARISONS, one_of
from .registers import VirtualRegister
from .tensor import Tensor

#: Pairs of an affine pattern.
_MAX_PATTERN = 4


# ---- constants -----------------------------------------------------------------------------------------


@instruction("vector")
def memset(core: Core, dst: Any, value: Any, engine: Any = Engine.unknown) -> str:
    """Fill dst with a compile-time constant."""
    target = check_compute("dst", dst)
    chosen = pick_engine(engine, ("vector", "gpsimd"), "vector")
    no_psum_on_gpsimd(chosen, dst=target)
    bits = _constant(core, target, number("value", value))
    core.write_bits("dst", target, np.broadcast_to(bits, target.shape))
    return chosen


def _constant(core: Core, target: Tensor, value: Any) -> NDArray[Any]:
    """The constant in the storage dtype, in an array of one element."""
    fmt = target.fmt
    if fmt.kind == "packed" or fmt.name == "float8_e8m0fnu":
        # e8m0 has no zero; kernels clear scale tiles with 0 and mean the byte (2^-127).
        if value == 0:
            return np.zeros(1, np.uint8 if fmt.kind != "packed" else fmt.storage).view(fmt.storage)
        if fmt.kind == "packed":
            raise MachineError(
                "memset.value",
                f"{value!r} into {fmt.name}: packed types can only be set to 0",
                operand="value",
                remedy="memset a uint32 or uint16 view",
            )
    if fmt.kind == "int":
        return np.full(1, _whole_constant(target, value), fmt.storage)
    return core.rounded(np.full(1, float(value), np.float32), target)


def _whole_constant(target: Tensor, value: Any) -> int:
    if value != value or math.isinf(value) or int(value) != value:
        raise MachineError(
            "memset.value",
            f"{value!r} is no integer, dst is {target.dtype}",
            operand="value",
            remedy="pass an integer, or fill a float tile",
        )
    limits = np.iinfo(target.fmt.storage)
    if not limits.min <= int(value) <= limits.max:
        raise MachineError("memset.value", f"{value!r} does not fit {target.dtype}", operand="value")
    return int(value)


# ---- affine patterns -----------------------------------------------------------------------------------


def affine_values(pattern: Any, offset: Any, channel_multiplier: Any, target: Tensor) -> NDArray[np.int32]:
    """offset + c * channel_multiplier + sum of index * step for c in dst's partitions: int32 [partitions,
    elements], modulo 2^32. `offset` may be a register."""
    steps, counts = _checked_pattern(pattern)
    elements("dst", target, math.prod(counts))
    start = offset.state if isinstance(offset, VirtualRegister) else _int32("offset", offset)
    row = np.zeros(1, np.int64)
    for step, count in zip(steps, counts, strict=True):
        row = (row[:, None] + step * np.arange(count, dtype=np.int64)).reshape(-1)
    channel = np.arange(target.shape[0], dtype=np.int64) * _int32("channel_multiplier", channel_multiplier)
    # int64 to int32 keeps the low 32 bits: the engine's wraparound.
    return (start + channel[:, None] + row).astype(np.int32)


def _checked_pattern(pattern: Any) -> tuple[list[int], list[int]]:
    pairs = [tuple(pair) for pair in pattern]
    if not 1 <= len(pairs) <= _MAX_PATTERN or any(len(pair) != 2 or int(pair[1]) < 1 for pair in pairs):
        raise MachineError(
            "pattern",
            f"{pattern} is no list of 1 to {_MAX_PATTERN} pairs [step, count >= 1]",
            operand="pattern",
        )
    return [_int32("pattern", step) for step, _ in pairs], [int(count) for _, count in pairs]


def _int32(role: str, value: Any) -> int:
    if not is_whole(value) or not -(2**31) <= int(value) < 2**31:
        raise MachineError("operand.int32", f"{value!r} is no int32", operand=role, remedy="pass a Python int")
    return int(value)


def write_integers(core: Core, role: str, target: Tensor, values: NDArray[np.int32]) -> None:
    """Store int32 results: exactly (saturated) in integer tensors, through fp32 in others."""
    if target.fmt.kind == "int":
        limits = np.iinfo(target.fmt.storage)
        core.write_bits(role, target, np.clip(values.astype(np.int64), limits.min, limits.max).astype(limits.dtype))
    else:
        core.write(role, target, values.astype(np.float32))


@instruction("gpsimd")
def iota(core: Core, dst: Any, pattern: Any, offset: Any = 0, channel_multiplier: Any = 0) -> None:
    """dst[c, w, z, y, x] = offset + c * channel_multiplier + w * sw + z * sz + y * sy + x * sx."""
    target = numeric("dst", dst, psum=False)
    write_integers(core, "dst", target, affine_values(pattern, offset, channel_multiplier, target))


@instruction("gpsimd")
def affine_select(
    core: Core,
    dst: Any,
    pattern: Any,
    channel_multiplier: Any,
    on_true_tile: Any,
    on_false_value: Any,
    cmp_op: Any = "equal",
    offset: Any = 0,
) -> None:
    """dst = on_true_tile where cmp_op(affine value, 0), else on_false_value (fp32)."""
    target, source = numeric("dst", dst, psum=False), numeric("on_true_tile", on_true_tile, psum=False)
    same_elements(("dst", target), ("on_true_tile", source))
    compare = one_of(core, cmp_op, sorted(COMPARISONS), "cmp_op")
    taken = _COMPARE_WITH_ZERO[compare.name](affine_values(pattern, offset, channel_multiplier, target))
    otherwise = core.rounded(np.full(1, number("on_false_value", on_false_value), np.float32), target)
    if source.dtype == target.dtype:
        values = flat(core.read("on_true_tile", source), source)
    else:
        values = core.rounded(core.read_float("on_true_tile", source), target)
    core.write_bits("dst", target, np.where(taken, values, otherwise))


_COMPARE_WITH_ZERO = {
    "equal": lambda v: v == 0,
    "not_equal": lambda v: v != 0,
    "greater": lambda v: v > 0,
    "greater_equal": lambda v: v >= 0,
    "less": lambda v: v < 0,
    "less_equal": lambda v: v <= 0,
}


# ---- across partitions ---------------------------------------------------------------------------------


@instruction("gpsimd")
def tensor_partition_reduce(core: Core, dst: Any, op: Any, data: Any) -> None:
    """dst[0, f] = op over the partitions of data[:, f], ascending."""
    target, source = numeric("dst", dst, psum=False), numeric("data", data, psum=False)
    partitions("dst", target, 1)
    elements("dst", target, source.size // source.shape[0])
    operator = one_of(core, op, ("add", "average", "maximum", "bitwise_or", "bitwise_and"))
    if operator.bitvec:
        check_bits("dst", target, check_bits("data", source).itemsize)
        bits = bits_of(core, "data", source)
        reduced = (np.bitwise_or if operator.name == "bitwise_or" else np.bitwise_and).reduce(bits, axis=0)
        core.write_bits("dst", target, reduced.view(target.fmt.storage))
        return
    values = core.read_float("data", source)
    profile = core.profile
    if operator.name == "maximum":
        core.write("dst", target, reduce_max(values, profile, axis=0))
        return
    total = reduce_add(values, profile, axis=0, order=profile.partition_reduce_order)
    if operator.name == "average":
        # A division, as a product with 1/P would round twice; the sum has rounded once already.
        total = total / np.float32(source.shape[0])
    core.write("dst", target, total)
