"""Instructions of the DMA engines: copies, gathers, scatters, transposes and sums between HBM and SBUF.

DMA knows no partition rule: any start partition is legal. Elements travel in row-major order of the views;
equal dtypes keep their bits, others pass through fp32 with one rounding (profile D1). Sources: API fact
sheet 2.5 and 4.4, numerics fact sheet section 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import cast, to_float32

from . import indirect
from .core import Core
from .enums import dge_mode as dge_modes
from .enums import engine as engines
from .enums import member
from .enums import oob_mode as oob_modes
from .errors import MachineError
from .indirect import RowAddresses, Selection
from .instruction import check_tensor, instruction
from .operators import operator_name
from .tensor import Tensor

Array = NDArray[Any]

#: Default and only permutations of dma_transpose, by rank.
_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}


@instruction("dma")
def dma_copy(
    core: Core,
    dst: Any,
    src: Any,
    priority: int | None = None,
    oob_mode: Any = oob_modes.error,
    dge_mode: Any = dge_modes.unknown,
    engine: Any = engines.unknown,
) -> None:
    """dst = src between HBM and SBUF, gathering or scattering where an operand is indirect; see `nki.isa`."""
    target, source = _operand("dst", dst), _operand("src", src)
    if target.size != source.size:
        raise MachineError(
            "dma.size",
            "dma_copy requires src and dst to have the same number of elements, got "
            f"src={source.shape}, dst={target.shape}",
        )
    mode = _check_modes(core, priority, dge_mode, engine)
    skip = member(oob_modes, oob_mode, "oob_mode") is oob_modes.skip
    _check_conversion(source, target, mode)
    if source.indirection is None and target.indirection is None:
        core.write_bits("dst", target, _converted(core, core.read("src", source), source, target))
        core.counters.dma_bytes += target.nbytes
        return
    _check_indirect(mode, source, target)
    _copy_indirect(core, target, source, skip)


@instruction("dma")
def dma_transpose(
    core: Core,
    dst: Any,
    src: Any,
    axes: Sequence[int] | None = None,
    priority: int | None = None,
    dge_mode: Any = dge_modes.unknown,
    oob_mode: Any = oob_modes.error,
) -> None:
    """dst = transpose(src, axes), with gathered rows where src is indirect; see `nki.isa.dma_transpose`."""
    target, source = _operand("dst", dst), _operand("src", src)
    order = _transpose_order(source, axes)
    _check_transpose(target, source, order)
    mode = _check_modes(core, priority, dge_mode, engines.unknown)
    skip = member(oob_modes, oob_mode, "oob_mode") is oob_modes.skip
    if source.indirection is None:
        if mode is dge_modes.hwdge:
            _check_hardware_transpose(source)
        core.write_bits("dst", target, _turned(core.read("src", source), order))
        core.counters.dma_bytes += target.nbytes
        return
    if source.indirection.kind == "vector":
        _check_gather_transpose(core, source, mode)
    rows = _locate(core, "src", source, skip)
    if rows is None:
        return
    if rows.legal.all():
        core.write_bits("dst", target, _turned(core.read_selection("src", rows.selection()), order))
        core.counters.dma_bytes += target.nbytes
        return
    values = np.zeros(source.shape, source.fmt.storage)
    legal = np.broadcast_to(rows.legal.reshape(-1, *[1] * (source.ndim - 1)), source.shape)
    values[legal] = core.read_selection("src", rows.selection(legal))
    core.write_where("dst", target, legal.transpose(order), values.transpose(order))
    core.counters.dma_bytes += int(legal.sum()) * target.itemsize


@instruction("dma")
def dma_compute(
    core: Core,
    dst: Any,
    srcs: Sequence[Any],
    reduce_op: Any,
    scales: Sequence[float] | None = None,
    unique_indices: bool = True,
    oob_mode: Any = oob_modes.error,
) -> None:
    """dst = sum of srcs in fp32, rounded once; gather-add and scatter-add with one vector offset."""
    target = _operand("dst", dst)
    sources = [_operand(f"srcs[{i}]", src) for i, src in enumerate(srcs)]
    _check_compute(target, sources, reduce_op, scales)
    skip = member(oob_modes, oob_mode, "oob_mode") is oob_modes.skip
    if target.indirection is None and all(source.indirection is None for source in sources):
        values = [to_float32(core.read(f"srcs[{i}]", s), s.fmt) for i, s in enumerate(sources)]
        total = _added(core, [value.reshape(target.shape) for value in values])
        core.write_bits("dst", target, _rounded(core, total, target))
        core.counters.dma_bytes += target.nbytes
        return
    _check_rmw(sources, unique_indices)
    _compute_indirect(core, target, sources, skip)


# ---- rules ----


def _operand(role: str, value: Any) -> Tensor:
    tensor = check_tensor(role, value)
    if tensor.buffer.name == "psum":
        raise MachineError(
            "operand.memory",
            "DMA requires HBM or SBUF tensors, got psum",
            operand=role,
            remedy="copy it to SBUF with nisa.tensor_copy first",
        )
    return tensor


def _check_modes(core: Core, priority: int | None, dge: Any, engine: Any) -> dge_modes:
    mode = member(dge_modes, dge, "dge_mode")
    chosen = member(engines, engine, "engine")
    if mode is dge_modes.hwdge and core.generation.level < 3:
        raise MachineError("generation", "hwdge needs NeuronCore-v3 or newer", operand="dge_mode")
    if chosen not in (engines.unknown, engines.sync, engines.scalar) or (
        chosen is not engines.unknown and mode is not dge_modes.hwdge
    ):
        raise MachineError(
            "dma.engine",
            f"engine {chosen.name} with dge_mode {mode.name}",
            operand="engine",
            remedy="only dge_mode.hwdge takes an engine, and that is sync or scalar",
        )
    if priority is not None:
        _check_priority(core, priority, mode)
    return mode


def _check_priority(core: Core, priority: int, mode: dge_modes) -> None:
    if core.generation.level < 4:
        raise MachineError(
            "generation",
            "priority is only supported for NeuronCore-v4 or newer",
            operand="priority",
            remedy="leave priority=None",
        )
    if priority not in (0, 1, 2, 3) or mode is dge_modes.none:
        raise MachineError(
            "dma.priority", f"priority {priority!r} with dge_mode {mode.name}: 0 to 3, not with dge_mode.none"
        )


def _check_conversion(source: Tensor, target: Tensor, mode: dge_modes) -> None:
    if source.dtype == target.dtype:
        return
    if mode is dge_modes.hwdge:
        raise MachineError(
            "dma.dtype",
            f"hwdge cannot cast {source.dtype} to {target.dtype}",
            remedy="use dge_mode.unknown, or cast on an engine",
        )
    if "packed" in (source.fmt.kind, target.fmt.kind):
        raise MachineError(
            "dma.dtype",
            f"no conversion between {source.dtype} and {target.dtype}",
            remedy="view one side as the other's dtype with .view(dtype) or .ap(dtype=...)",
        )


def _check_indirect(mode: dge_modes, source: Tensor, target: Tensor) -> None:
    for role, tensor in (("src", source), ("dst", target)):
        kind = tensor.indirection.kind if tensor.indirection is not None else None
        if kind == "free":
            raise MachineError("operand.indirect", ".indirect() views are for compute engines", operand=role)
        if kind == "vector" and mode not in (dge_modes.unknown, dge_modes.swdge):
            raise MachineError(
                "dma.dge",
                f"a vector offset with dge_mode {mode.name}",
                operand=role,
                remedy="use dge_mode.unknown or swdge",
            )


def _transpose_order(source: Tensor, axes: Sequence[int] | None) -> tuple[int, ...]:
    order = _AXES.get(source.ndim, ()) if axes is None else tuple(int(a) for a in axes)
    if order not in _AXES.values() or len(order) != source.ndim:
        raise MachineError(
            "dma.axes",
            f"dma_transpose axes must be one of [(1, 0), (2, 1, 0), (3, 1, 2, 0)], got {order or axes} for "
            f"rank {source.ndim}",
            operand="axes",
        )
    return order


def _check_transpose(target: Tensor, source: Tensor, order: tuple[int, ...]) -> None:
    expected = tuple(source.shape[a] for a in order)
    if target.shape != expected:
        raise MachineError(
            "dma.shape", f"dst {target.shape} must be {expected}, src {source.shape} permuted by {order}"
        )
    if target.dtype != source.dtype:
        raise MachineError("dma.dtype", f"dst {target.dtype} must have src's dtype {source.dtype}")
    if target.indirection is not None:
        raise MachineError(
            "operand.indirect", "the destination of a transpose cannot be indirect", operand="dst"
        )


def _check_hardware_transpose(source: Tensor) -> None:
    """Limits of an explicit hwdge transpose (0.6)."""
    rows, last = source.shape[0], source.shape[-1]
    fits = rows == 16 if source.ndim == 2 else rows in (1, 2, 4, 8, 16) and rows * source.shape[-2] % 16 == 0
    if source.itemsize != 2 or not fits or last > 128:
        raise MachineError(
            "dma.hwdge_transpose",
            f"{source.shape} {source.dtype}: hwdge needs a 2-byte dtype, shape[0] = 16 (rank 2) or in 1, 2, 4, "
            "8, 16 with shape[0] * shape[-2] a multiple of 16, and shape[-1] <= 128",
            operand="src",
            remedy="use dge_mode.unknown",
        )


def _check_gather_transpose(core: Core, source: Tensor, mode: dge_modes) -> None:
    """Limits of a transpose with gathered rows (software descriptors, gen3 and later)."""
    assert source.indirection is not None
    index: Tensor = source.indirection.index
    rows, columns = index.shape[0], index.size // index.shape[0]
    wrong = [
        text
        for ok, text in (
            (core.generation.level >= 3, "NeuronCore-v3 or newer"),
            (mode in (dge_modes.unknown, dge_modes.swdge), "dge_mode unknown or swdge"),
            (source.itemsize == 2, "a 2-byte dtype"),
            (index.dtype == "uint32", "a uint32 index"),
            (16 <= rows <= 128 and rows % 16 == 0, "index rows a multiple of 16 in 16..128"),
            (columns == 1 or rows == 128, "128 index rows where it has several columns"),
            (index.size >= source.shape[0], "an index for every row"),
            (source.shape[0] % 16 == 0, "shape[0] a multiple of 16"),
            (source.shape[-1] <= 128, "shape[-1] <= 128"),
            (source.ndim != 4 or 1 in source.shape[1:3], "shape[1] or shape[2] = 1 for rank 4"),
        )
        if not ok
    ]
    if wrong:
        raise MachineError(
            "dma.gather_transpose",
            f"{source.shape} {source.dtype} with index {index.shape} {index.dtype} needs {'; '.join(wrong)}",
            operand="src",
            remedy="gather with nisa.dma_copy and transpose with nisa.nc_transpose",
        )


def _check_compute(target: Tensor, sources: list[Tensor], reduce_op: Any, scales: Any) -> None:
    if operator_name(reduce_op) != "add":
        raise MachineError("dma.op", f"reduce_op {operator_name(reduce_op)}: only nl.add is supported")
    if not 1 <= len(sources) <= 16:
        raise MachineError("dma.sources", f"{len(sources)} sources: 1 to 16 are possible", operand="srcs")
    if scales is not None and (len(scales) != len(sources) or any(scale != 1.0 for scale in scales)):
        raise MachineError(
            "dma.scales",
            f"scales {list(scales)} for {len(sources)} sources: all must be 1.0",
            remedy="scale on a compute engine first",
        )
    for i, source in enumerate(sources):
        if source.size != target.size:
            raise MachineError(
                "dma.size",
                f"{source.shape} has not the element count of dst {target.shape}",
                operand=f"srcs[{i}]",
            )


def _check_rmw(sources: list[Tensor], unique_indices: bool) -> None:
    if len(sources) != 2 or not unique_indices:
        raise MachineError(
            "dma.rmw",
            f"an indirect dma_compute with {len(sources)} sources and unique_indices={unique_indices}",
            remedy="give exactly two sources and unique indices",
        )


# ---- moving ----


#: Rows of one block of a transpose: with rows of up to as many elements it stays in a first-level cache.
_BLOCK_ROWS = 128
#: Blocks smaller than this are not worth a step of their own.
_BLOCK_ELEMENTS = 1024


def _turned(values: Array, order: tuple[int, ...]) -> Array:
    """values.transpose(order), first and last axis exchanged; large ones block by block, since a straight copy
    jumps through memory with every element."""
    if values.size // math.prod(values.shape[1:-1]) < _BLOCK_ELEMENTS:
        return values.transpose(order)
    turned = np.empty([values.shape[a] for a in order], values.dtype)
    for place in np.ndindex(*turned.shape[1:-1]):
        into, out_of = turned[(slice(None), *place)], values[(slice(None), *place)]
        for low in range(0, len(out_of), _BLOCK_ROWS):
            into[:, low : low + _BLOCK_ROWS] = out_of[low : low + _BLOCK_ROWS].T
    return turned


@dataclass(frozen=True)
class _Fixed:
    """An operand whose address is known: all rows legal."""

    tensor: Tensor

    @property
    def legal(self) -> NDArray[np.bool_]:
        return np.ones(self.tensor.shape[0], bool)

    def selection(self, keep: NDArray[np.bool_] | None = None) -> Selection:
        return Selection(self.tensor, None if keep is None else np.nonzero(keep))


def _locate(core: Core, role: str, tensor: Tensor, skip: bool) -> RowAddresses | _Fixed | None:
    """Where an operand lies; None when oob_mode.skip leaves nothing of it."""
    if tensor.indirection is None:
        return _Fixed(tensor)
    if tensor.on_chip:
        return _locate_on_chip(core, role, tensor, skip)
    count = tensor.shape[0]
    rows = indirect.row_addresses(core, role, tensor, count)
    if not skip and not rows.legal.all():
        raise indirect.out_of_bounds(role, rows)
    return rows if rows.legal.any() else None


def _locate_on_chip(core: Core, role: str, tensor: Tensor, skip: bool) -> _Fixed | None:
    """A scalar offset moves all partitions alike, so an illegal one leaves no legal row."""
    assert tensor.indirection is not None
    index = indirect.scalar_value(core, role, tensor.indirection.index)
    moved = tensor.shifted(index * tensor.indirection.step)
    if not indirect.in_limit(tensor.indirection, index) or not moved.in_bounds():
        if skip:
            return None
        core.resolve(role, tensor)  # says what is out of bounds
    return _Fixed(moved)


def _copy_indirect(core: Core, target: Tensor, source: Tensor, skip: bool) -> None:
    into, out_of = _locate(core, "dst", target, skip), _locate(core, "src", source, skip)
    if into is None or out_of is None:
        return
    if into.legal.all() and out_of.legal.all():
        _transfer(core, into.selection(), out_of.selection(), target, source, target.shape)
        core.counters.dma_bytes += target.nbytes
        return
    keep = _elements(into, target) & _elements(out_of, source)
    _transfer(
        core,
        into.selection(keep.reshape(target.shape)),
        out_of.selection(keep.reshape(source.shape)),
        target,
        source,
        (-1,),
    )
    core.counters.dma_bytes += int(keep.sum()) * target.itemsize


def _elements(rows: RowAddresses | _Fixed, tensor: Tensor) -> NDArray[np.bool_]:
    """Row-major, per element: whether its row is legal."""
    return np.repeat(rows.legal, tensor.size // tensor.shape[0])


def _transfer(
    core: Core, into: Selection, out_of: Selection, target: Tensor, source: Tensor, shape: tuple[int, ...]
) -> None:
    values = _converted(core, core.read_selection("src", out_of), source, target)
    core.write_selection("dst", into, values.reshape(shape))


def _converted(core: Core, values: Array, source: Tensor, target: Tensor) -> Array:
    """The bits to store: as they are for equal dtypes, else through fp32."""
    if source.dtype == target.dtype:
        return values
    return _rounded(core, to_float32(values, source.fmt), target)


def _rounded(core: Core, values: Array, target: Tensor) -> Array:
    return cast(values, target.fmt, core.profile, rounding=core.profile.dma_cast_round)


def _added(core: Core, values: list[Array]) -> Array:
    """fp32 sum in the order of the list, or its reverse (profile D1)."""
    ordered = values if core.profile.dma_add_order == "list" else values[::-1]
    total = ordered[0]
    for value in ordered[1:]:
        total = total + value
    return total


def _compute_indirect(core: Core, target: Tensor, sources: list[Tensor], skip: bool) -> None:
    """Read, add, write back: rows of HBM chosen by an index are gathered into, or scattered from, SBUF."""
    places = [_locate(core, f"srcs[{i}]", source, skip) for i, source in enumerate(sources)]
    into = _locate(core, "dst", target, skip)
    if into is None or any(place is None for place in places):
        return
    if isinstance(into, RowAddresses):
        _check_unique(into)
    keep = _elements(into, target)
    for place, source in zip(places, sources, strict=True):
        assert place is not None
        keep = keep & _elements(place, source)
    values = []
    for i, (place, source) in enumerate(zip(places, sources, strict=True)):
        assert place is not None
        picked = core.read_selection(f"srcs[{i}]", place.selection(keep.reshape(source.shape)))
        values.append(to_float32(picked, source.fmt))
    total = _rounded(core, _added(core, values), target)
    core.write_selection("dst", into.selection(keep.reshape(target.shape)), total)
    core.counters.dma_bytes += int(keep.sum()) * target.itemsize


def _check_unique(rows: RowAddresses) -> None:
    starts = rows.starts[rows.legal]
    if len(np.unique(starts)) != len(starts):
        raise MachineError(
            "dma.unique",
            "the scatter index of a dma_compute holds a row twice; one of the two sums would be lost",
            operand="dst",
            remedy="make the indices unique",
        )
