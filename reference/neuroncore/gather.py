"""Gathers of the GpSimd engine: local_gather (per group of 16 partitions), nc_n_gather (per partition)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .core import Core, flat
from .errors import MachineError, OutOfBounds
from .instruction import check_compute, instruction
from .operands import dtype_equal, dtype_in, elements, is_whole, partitions
from .tensor import Tensor

#: Partitions that one of the eight GpSimd cores reaches.
GROUP = 16
_LENGTHS = (1, 2, 4, 8, 16, 32)
_MOST_INDICES = 4096


@instruction("gpsimd")
def local_gather(
    core: Core,
    dst: Any,
    src_buffer: Any,
    index: Any,
    num_elem_per_idx: int = 1,
    num_valid_indices: Any = None,
) -> None:
    """dst[p, i n : i n + n] = src[p, idx[i] : idx[i] + n], idx read down the partitions of p's group of
    16.
    """
    target, source = (
        check_compute("dst", dst, psum=False),
        check_compute("src_buffer", src_buffer, psum=False),
    )
    where = check_compute("index", index, psum=False)
    dtype_equal("src_buffer", source, "dst", target)
    dtype_in("index", where, {"uint16"})
    for role, tensor in (("dst", target), ("index", where)):
        partitions(role, tensor, source.shape[0])
    valid = _check_counts(source, where, num_elem_per_idx, num_valid_indices)
    elements("dst", target, valid * num_elem_per_idx)
    columns = -(-valid // GROUP)
    indices = _first_columns(core, where, columns).astype(np.int64)
    rows = flat(core.read("src_buffer", source), source)
    result = np.empty((len(rows), valid * num_elem_per_idx), rows.dtype)
    for start in range(0, len(rows), GROUP):
        group = slice(start, start + GROUP)
        starts = indices[group].T.reshape(-1)[:valid]
        positions = (starts[:, None] + np.arange(num_elem_per_idx)).reshape(-1)
        _check_inside(positions, rows.shape[1], start)
        result[group] = rows[group][:, positions]
    core.write_bits("dst", target, result)


def _check_counts(source: Tensor, where: Tensor, length: Any, valid: Any) -> int:
    if source.shape[0] % GROUP:
        raise MachineError(
            "gather.partitions",
            f"{source.shape[0]} partitions are no multiple of {GROUP}",
            operand="src_buffer",
        )
    if length not in _LENGTHS:
        raise MachineError("gather.length", f"{length!r} is none of {_LENGTHS}", operand="num_elem_per_idx")
    held = where.size // where.shape[0] * GROUP
    count = held if valid is None else valid
    if not is_whole(count) or not 1 <= count <= min(held, _MOST_INDICES):
        raise MachineError(
            "gather.count",
            f"{count!r} indices per group: must be 1 to {min(held, _MOST_INDICES)}",
            operand="num_valid_indices",
            remedy="gather in several instructions",
        )
    return int(count)


def _first_columns(core: Core, where: Tensor, columns: int) -> NDArray[Any]:
    """The index tile as far as it is used: unused columns need not be written."""
    if where.ndim == 2 and columns < where.shape[1]:
        where = where.slice(1, 0, columns)
    return flat(core.read("index", where), where)


def _check_inside(positions: NDArray[np.int64], size: int, partition: int) -> None:
    if positions.max() >= size or positions.min() < 0:
        raise OutOfBounds(
            "bounds",
            f"index {int(positions.max())} of partition {partition} exceeds the {size} elements there",
            operand="index",
        )


@instruction("gpsimd")
def nc_n_gather(core: Core, dst: Any, data: Any, indices: Any) -> None:
    """dst[p, i] = data[p] (flattened) at indices[p, i]."""
    target, source = check_compute("dst", dst, psum=False), check_compute("data", data, psum=False)
    where = check_compute("indices", indices, psum=False)
    dtype_equal("data", source, "dst", target)
    dtype_in("indices", where, {"uint32"})
    partitions("dst", target, source.shape[0])
    partitions("indices", where, source.shape[0])
    elements("dst", target, where.size // where.shape[0])
    positions = flat(core.read("indices", where), where).astype(np.int64)
    rows = flat(core.read("data", source), source)
    _check_inside(positions, rows.shape[1], int(positions.max(axis=1).argmax()))
    core.write_bits("dst", target, np.take_along_axis(rows, positions, axis=1))
