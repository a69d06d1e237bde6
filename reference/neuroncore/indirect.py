"""Addresses that are known only when the instruction runs: gathers and scatters.

Three kinds of indirect views exist. A scalar offset moves the whole pattern. A vector offset gives every
leading index ("row") its own start in HBM; DMA only. `.indirect` (gen4) picks free positions per group of
partitions.

A row whose address range leaves the tensor is illegal: an error, or not transferred (oob_mode.skip).
Sources: API fact sheet 4.4 (rules 4 and 7) and 4.3.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import MachineError, MachineWarning, OutOfBounds
from .registers import VirtualRegister
from .tensor import Indirect, Tensor

if TYPE_CHECKING:
    from .core import Core

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Selection:
    """The elements `base.array()[index]` of a static view; index None means all of it."""

    base: Tensor
    index: Any = None


@dataclass(frozen=True)
class RowAddresses:
    """Element address of the start of every row of an indirect HBM operand, and which rows are legal."""

    tensor: Tensor
    starts: Rows
    legal: Flags

    def selection(self, keep: Flags | None = None) -> Selection:
        """All rows (which must be legal), or the elements of the operand's shape where `keep` is set."""
        base, shift = _every_row(self.tensor)
        if keep is None:
            return Selection(base, (self.starts + shift,))
        first, *rest = np.nonzero(keep)
        return Selection(base, (self.starts[first] + shift, *rest))


def scalar_value(core: Core, role: str, index: Any) -> int:
    """The run-time value of a scalar offset: a register, or one element of a tensor."""
    if isinstance(index, VirtualRegister):
        return index.state
    if not isinstance(index, Tensor):
        return int(index)
    if index.size != 1:
        raise MachineError("ap.scalar_offset", f"needs one element, got {index!r}", operand=role)
    return int(_indices(core, f"{role}.scalar_offset", index)[0])


def scalar_move(core: Core, role: str, indirect: Indirect) -> int:
    """Elements by which a scalar offset moves its pattern; an index past a known axis is out of bounds."""
    index = scalar_value(core, role, indirect.index)
    if not in_limit(indirect, index):
        raise OutOfBounds(
            "bounds", f"run-time index {index} on axis {indirect.dim} exceeds {indirect.limit}", operand=role
        )
    return index * indirect.step


def in_limit(indirect: Indirect, index: int) -> bool:
    """Whether a run-time index lies on the axis it indexes, as far as that is known."""
    return indirect.limit is None or 0 <= index <= indirect.limit


def row_addresses(core: Core, role: str, tensor: Tensor, count: int | None = None) -> RowAddresses:
    """Resolve an HBM operand with a scalar or vector offset. `count` limits a column-major (R, C) index."""
    assert tensor.indirection is not None
    indirect = tensor.indirection
    if indirect.kind == "scalar":
        index = scalar_value(core, role, indirect.index)
        first = tensor.offset + index * indirect.step
        starts = first + np.arange(tensor.shape[0], dtype=np.int64) * tensor.strides[0]
        return RowAddresses(tensor, starts, _legal(tensor, starts, role) & in_limit(indirect, index))
    rows = _row_indices(core, role, indirect, tensor.shape[0], count)
    starts = tensor.offset + rows * indirect.step
    legal = _legal(tensor, starts, role) & (rows >= 0)
    return RowAddresses(tensor, starts, legal if indirect.limit is None else legal & (rows <= indirect.limit))


def select_free(core: Core, role: str, tensor: Tensor, group: int) -> Selection:
    """Resolve a gen4 `.indirect` operand: element i of partition p takes free position
    index[i mod G, i div G] of p's group of G partitions."""
    assert tensor.indirection is not None
    _check_bases(role, tensor, tensor.indirection.index)
    positions = free_positions(core, role, tensor, group)
    return Selection(
        _whole_partitions(tensor, role, positions), (np.arange(tensor.shape[0])[:, None], positions)
    )


def select_scales(core: Core, role: str, scales: Tensor, data: Tensor, quadrant: int) -> Selection:
    """The scale rows of one quadrant of an `.indirect` MX operand: columns picked by the data's own index."""
    assert data.indirection is not None
    if scales.indirection is None or scales.indirection.index is not data.indirection.index:
        raise MachineError(
            "indirect.scale",
            "data and scale of a matmul operand must share one index",
            operand=role,
            remedy="call .indirect() with the same index tensor on both",
        )
    positions = free_positions(core, role, data, 32)[32 * quadrant]
    base = _whole_partitions(scales, role, positions[None])
    return Selection(base, (np.arange(32 * quadrant, 32 * quadrant + 4)[:, None], positions[None]))


def free_positions(core: Core, role: str, tensor: Tensor, group: int) -> Rows:
    """Free positions of every element of an `.indirect` view, [partitions, elements]."""
    assert tensor.indirection is not None
    index: Tensor = tensor.indirection.index
    if core.generation.level < 4:
        raise MachineError(
            "generation",
            f".indirect() needs NeuronCore-v4, the target is {core.generation.chip}",
            operand=role,
        )
    values = _indices(core, f"{role}.index", index).reshape(index.shape[0], -1)
    return np.stack([_snake(values, p, group, tensor.shape[1]) for p in range(tensor.shape[0])])


def _whole_partitions(tensor: Tensor, role: str, positions: Rows) -> Tensor:
    """The partitions of an `.indirect` view from its offset to their ends, which every position must lie
    in."""
    room = tensor.free_elements - tensor.offset % tensor.free_elements
    wrong = (positions < 0) | (positions >= room)
    if wrong.any():
        p, i = (int(n) for n in np.argwhere(wrong)[0])
        raise OutOfBounds(
            "bounds",
            f"free index {positions[p, i]} of partition {p}, element {i} exceeds the {room} elements there",
            operand=role,
        )
    shape, strides = (tensor.shape[0], room), (tensor.free_elements, 1)
    return Tensor(tensor.storage, tensor.dtype, shape, strides, tensor.offset, tensor.fmt)


def out_of_bounds(role: str, rows: RowAddresses) -> OutOfBounds:
    """The error for the first illegal row."""
    row = int(np.argmin(rows.legal))
    return OutOfBounds(
        "bounds",
        f"{len(rows.legal) - int(rows.legal.sum())} of {len(rows.legal)} rows leave {rows.tensor!r}, first row "
        f"{row} at element {int(rows.starts[row])}",
        operand=role,
        remedy="correct the index, or use oob_mode.skip to leave such rows untransferred",
    )


def _snake(values: Rows, partition: int, group: int, count: int) -> Rows:
    first = partition // group * group
    flat = values[first : first + group].T.reshape(-1)
    if count > flat.size:
        raise MachineError(
            "view.indirect",
            f"{count} elements wanted, the index of the group holds {flat.size}",
            operand="index",
        )
    return flat[:count]


def _check_bases(role: str, tensor: Tensor, index: Tensor) -> None:
    start = index.start_partition
    if start % 32 or start != tensor.start_partition:
        raise MachineError(
            "indirect.base",
            f"index starts at partition {start}, the operand at {tensor.start_partition}: both must be the same "
            "of 0, 32, 64, 96",
            operand=role,
        )


def _row_indices(core: Core, role: str, indirect: Indirect, rows: int, count: int | None) -> Rows:
    index: Tensor = indirect.index
    if index.buffer.name != "sbuf":
        raise MachineError(
            "ap.vector_offset", f"the index must be in sbuf, got {index.buffer.name}", operand=role
        )
    values = _indices(core, f"{role}.vector_offset", index)
    if count is not None:
        values = values.reshape(index.shape[0], -1).T.reshape(-1)[:count]
    if values.size != rows:
        raise MachineError(
            "ap.vector_offset", f"{index.shape} must hold one index for each of the {rows} rows", operand=role
        )
    return values


def _indices(core: Core, role: str, index: Tensor) -> Rows:
    if index.dtype not in ("int32", "uint32"):
        raise MachineError("ap.index_dtype", f"{index.dtype} must be int32 or uint32", operand=role)
    return core.read(role, index).reshape(-1).astype(np.int64)


def _inner_extent(tensor: Tensor) -> tuple[int, int]:
    reach = [step * (count - 1) for step, count in zip(tensor.strides[1:], tensor.shape[1:], strict=True)]
    return sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach)


def _legal(tensor: Tensor, starts: Rows, role: str) -> Flags:
    low, high = _inner_extent(tensor)
    limit = tensor.free_elements
    legal = (starts + low >= 0) & (starts + high < limit)
    partly = ~legal & (starts >= 0) & (starts < limit)
    if partly.any():
        warnings.warn(
            f"{role}: row {int(np.argmax(partly))} of {tensor!r} lies partly outside; it counts as outside, which "
            "no document states",
            MachineWarning,
            stacklevel=2,
        )
    return np.asarray(legal)


def _every_row(tensor: Tensor) -> tuple[Tensor, int]:
    """A static view whose axis 0 enumerates every legal start, and what to add to a start to index it."""
    low, high = _inner_extent(tensor)
    count = tensor.free_elements - (high - low)
    shape, strides = (max(count, 0), *tensor.shape[1:]), (1, *tensor.strides[1:])
    return Tensor(tensor.storage, tensor.dtype, shape, strides, -low, tensor.fmt), low
