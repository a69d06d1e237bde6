"""Collectives between the ranks of a launch (`launch_ranks`).

Core c of a rank meets core c of the other ranks of its group, by the order of calls. Data is what the
tensors hold when the last rank arrives. Reductions are in fp32, in group order, rounded once.

Not modelled: which groups a topology allows, channels running at the same time, priorities.
Sources: API fact sheet section 7; numerics fact sheet section 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.alu import BINARY
from reference.numerics.cast import cast, to_float32

from .core import Core
from .errors import MachineError
from .instruction import check_tensor, instruction
from .launch import current_core
from .operators import operator_name
from .registers import VirtualRegister
from .tensor import Tensor

Array = NDArray[Any]


@dataclass(frozen=True)
class _Brought:
    """What one rank brings to a collective."""

    op: str
    where: str
    arrays: list[Array]


@instruction("dma")
def all_reduce(core: Core, srcs: Any, dsts: Any, groups: Any, op: Any, priority: int | None) -> None:
    """Every rank gets the reduction of all ranks' tensors."""
    sources, targets = _tensors(core, srcs, dsts, priority)
    ranks = _own_group(core, groups)
    _same_shapes(sources, targets)
    for target, parts in zip(targets, _meet(core, ranks, "all_reduce", sources), strict=True):
        _store(core, target, _reduced(core, parts, target, op))


@instruction("dma")
def all_gather(core: Core, srcs: Any, dsts: Any, groups: Any, dim: int, priority: int | None) -> None:
    """Every rank gets all ranks' tensors, joined along `dim` in group order."""
    sources, targets = _tensors(core, srcs, dsts, priority)
    ranks = _own_group(core, groups)
    _check_dim(sources[0], dim, (0, 1) if sources[0].on_chip else (0,))
    for target, parts in zip(targets, _meet(core, ranks, "all_gather", sources), strict=True):
        _store(core, target, np.concatenate(parts, axis=dim))


@instruction("dma")
def reduce_scatter(
    core: Core, srcs: Any, dsts: Any, groups: Any, dim: int, op: Any, priority: int | None
) -> None:
    """Rank i of the group gets the i-th part, along `dim`, of the reduction of all ranks' tensors."""
    sources, targets = _tensors(core, srcs, dsts, priority)
    ranks = _own_group(core, groups)
    _check_dim(sources[0], dim, (0,))
    mine = ranks.index(core.launch.rank)
    for target, parts in zip(targets, _meet(core, ranks, "reduce_scatter", sources), strict=True):
        _store(core, target, _reduced(core, [_share(p, len(ranks), mine) for p in parts], target, op))


@instruction("dma")
def all_to_all(core: Core, srcs: Any, dsts: Any, groups: Any, dim: int, priority: int | None) -> None:
    """Part i of a rank's tensor goes to rank i of the group; the parts that come are joined in group
    order."""
    sources, targets = _tensors(core, srcs, dsts, priority, sbuf=False)
    ranks = _own_group(core, groups)
    _check_dim(sources[0], dim, (0,))
    mine = ranks.index(core.launch.rank)
    for target, parts in zip(targets, _meet(core, ranks, "all_to_all", sources), strict=True):
        _store(core, target, np.concatenate([_share(part, len(ranks), mine) for part in parts]))


@instruction("dma")
def all_to_all_v(
    core: Core,
    srcs: Any,
    dsts: Any,
    groups: Any,
    metadata: Any,
    known: bool,
    displaced: bool,
    priority: int | None,
) -> None:
    """Flat exchange of chunks whose sizes and places stand in `metadata` (rows: send counts, send
    displacements, receive counts, receive displacements; one column per rank of the group)."""
    _variable(core, "all_to_all_v", (srcs, dsts, groups), metadata, known, displaced, priority)


@instruction("dma")
def all_gather_v(
    core: Core,
    srcs: Any,
    dsts: Any,
    groups: Any,
    metadata: Any,
    known: bool,
    displaced: bool,
    priority: int | None,
) -> None:
    """As all_to_all_v, with one chunk (the first column of rows 0 and 1) that goes to every rank."""
    _variable(core, "all_gather_v", (srcs, dsts, groups), metadata, known, displaced, priority)


@instruction("dma")
def collective_permute(core: Core, srcs: Any, dsts: Any, pairs: Any, priority: int | None) -> None:
    """The tensor of each pair's source rank goes to its target rank; ranks that receive nothing keep
    theirs."""
    sources, targets = _tensors(core, srcs, dsts, priority, sbuf=False, single=True)
    _same_shapes(sources, targets)
    sender = _senders(pairs)
    everyone = tuple(sorted({int(rank) for pair in pairs for rank in pair}))
    _check_ranks(core, everyone)
    (parts,) = _meet(core, everyone, "collective_permute", sources)
    if core.launch.rank in sender:
        _store(core, targets[0], parts[everyone.index(sender[core.launch.rank])])


@instruction("dma")
def collective_permute_implicit(
    core: Core, srcs: Any, dsts: Any, groups: Any, channels: Sequence[int], priority: int | None
) -> None:
    """Each rank's tensor goes to its successor in the ring, channel by channel."""
    _check_channels(channels, srcs, dsts)
    for src, dst in zip(srcs, dsts, strict=True):
        sources, targets = _tensors(core, src, dst, priority, sbuf=False, single=True)
        _same_shapes(sources, targets)
        ranks = _own_group(core, groups)
        (parts,) = _meet(core, ranks, "collective_permute_implicit", sources)
        _store(core, targets[0], parts[ranks.index(core.launch.rank) - 1])


@instruction("dma")
def collective_permute_implicit_reduce(
    core: Core,
    srcs0: Any,
    srcs1: Any,
    dsts: Any,
    groups: Any,
    op: Any,
    channels: Sequence[int],
    priority: int | None,
) -> None:
    """op(srcs0, srcs1) of each rank goes to its successor in the ring, channel by channel."""
    _check_channels(channels, srcs0, dsts)
    for first, second, dst in zip(srcs0, srcs1, dsts, strict=True):
        sources, targets = _tensors(core, [*first, *second], dst, priority, sbuf=False, single=False)
        ranks = _own_group(core, groups)
        parts = _meet(core, ranks, "collective_permute_implicit_reduce", sources)
        before = ranks.index(core.launch.rank) - 1
        pair = [values[before] for values in parts]
        _store(core, targets[0], _reduced(core, pair, targets[0], op))


def processing_rank(core: Core, iteration: Any, groups: Any, channel: int) -> VirtualRegister:
    """The rank whose data a ring algorithm processes at a step: its own at 0, then its predecessors."""
    if channel not in range(4):
        raise MachineError("collective.channel", f"channel {channel}: 0 to 3")
    step = iteration.state if isinstance(iteration, VirtualRegister) else int(iteration)
    ranks = _own_group(core, groups)
    return VirtualRegister(ranks[(ranks.index(core.launch.rank) - step) % len(ranks)])


def own_rank() -> VirtualRegister:
    """The rank of the running program."""
    return VirtualRegister(current_core().launch.rank)


# ---- operands ----


def _tensors(
    core: Core, srcs: Any, dsts: Any, priority: int | None, *, sbuf: bool = True, single: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    if priority is not None and (core.generation.level < 4 or priority not in (0, 1, 2, 3)):
        raise MachineError("dma.priority", f"priority {priority!r}: 0 to 3, NeuronCore-v4 or newer")
    if not isinstance(srcs, (list, tuple)) or not isinstance(dsts, (list, tuple)):
        raise MachineError("operand.type", "srcs and dsts are lists of tensors")
    sources = [check_tensor(f"srcs[{i}]", src) for i, src in enumerate(srcs)]
    targets = [check_tensor(f"dsts[{i}]", dst) for i, dst in enumerate(dsts)]
    regions = {"hbm" if "hbm" in t.buffer.name else t.buffer.name for t in (*sources, *targets)}
    legal = ({"hbm"}, {"sbuf"}) if sbuf else ({"hbm"},)
    if regions not in legal:
        raise MachineError(
            "operand.memory",
            f"tensors in {', '.join(sorted(regions))}",
            remedy="keep all in HBM" + (" or all in SBUF" if sbuf else ""),
        )
    if (single or "sbuf" in regions) and (len(sources) > 1 or len(targets) > 1):
        raise MachineError("collective.coalesced", f"{len(sources)} tensors at once: one is possible here")
    return sources, targets


def _same_shapes(sources: list[Tensor], targets: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        if source.size != target.size or source.dtype != target.dtype:
            raise MachineError(
                "collective.shape",
                f"src {source.shape} {source.dtype} and dst {target.shape} {target.dtype} must agree",
            )


def _check_dim(source: Tensor, dim: int, allowed: tuple[int, ...]) -> None:
    if dim not in allowed or (source.on_chip and source.ndim != 2):
        raise MachineError(
            "collective.dim",
            f"collective_dim {dim} of {source.shape} in {source.buffer.name}: {allowed}, rank 2 in SBUF",
        )


def _check_channels(channels: Sequence[int], srcs: Any, dsts: Any) -> None:
    if list(channels) != list(range(len(srcs))) or len(srcs) != len(dsts) or len(srcs) > 4:
        raise MachineError(
            "collective.channel",
            f"channels {list(channels)} for {len(srcs)} sources and {len(dsts)} destinations",
            remedy="number up to 4 channels 0, 1, ... with one source and one destination each",
        )


def _own_group(core: Core, groups: Any) -> tuple[int, ...]:
    """The ranks of the group that this rank belongs to."""
    lists = [tuple(int(rank) for rank in group) for group in groups]
    flat = [rank for group in lists for rank in group]
    if len(set(flat)) != len(flat):
        raise MachineError("collective.group", f"a rank stands in {lists} twice")
    for group in lists:
        if core.launch.rank in group:
            _check_ranks(core, group)
            return group
    raise MachineError("collective.group", f"rank {core.launch.rank} is in none of {lists}")


def _check_ranks(core: Core, ranks: Sequence[int]) -> None:
    if any(rank not in range(core.launch.ranks) for rank in ranks):
        raise MachineError(
            "collective.ranks",
            f"group {list(ranks)} in a launch of {core.launch.ranks} rank(s)",
            remedy="launch one call per rank: kernel.launch_ranks([...])",
        )


def _senders(pairs: Any) -> dict[int, int]:
    targets = [int(target) for _, target in pairs]
    if len(set(targets)) != len(targets):
        raise MachineError("collective.pairs", f"a rank receives twice in {list(pairs)}")
    return {int(target): int(source) for source, target in pairs}


# ---- data ----


def _meet(core: Core, ranks: tuple[int, ...], op: str, sources: list[Tensor]) -> list[list[Array]]:
    """Per tensor: the arrays of all ranks, in group order."""
    arrays = [np.array(core.read(f"srcs[{i}]", source)) for i, source in enumerate(sources)]
    brought = _exchange(core, ranks, op, arrays)
    return [[rank.arrays[i] for rank in brought] for i in range(len(sources))]


def _exchange(core: Core, ranks: tuple[int, ...], op: str, arrays: list[Array]) -> list[_Brought]:
    if core.launch.rank not in ranks:
        return [_Brought(op, "", arrays)] * len(ranks)
    brought: list[_Brought] = core.launch.gather(core, ranks, _Brought(op, str(core.instruction), arrays))
    for other in brought:
        if other.op != op or len(other.arrays) != len(arrays):
            raise MachineError(
                "collective.unequal",
                f"{op} meets {other.op} at {other.where}",
                remedy="all ranks of a group must call the same collectives in the same order",
            )
    return brought


def _reduced(core: Core, parts: list[Array], target: Tensor, op: Any) -> Array:
    name = operator_name(op)
    if name not in ("add", "minimum", "maximum"):
        raise MachineError(
            "collective.op", f"nl.{name}: only nl.add, nl.minimum and nl.maximum", operand="op"
        )

    def combine(a: Array, b: Array) -> Array:
        return BINARY[name](a, b, core.profile)

    total = reduce(combine, [to_float32(part, target.fmt) for part in parts])
    return cast(total, target.fmt, core.profile)


def _share(array: Array, count: int, index: int) -> Array:
    if array.shape[0] % count:
        raise MachineError(
            "collective.shape", f"{array.shape} does not split into {count} parts along axis 0"
        )
    size = array.shape[0] // count
    return array[index * size : (index + 1) * size]


def _store(core: Core, target: Tensor, values: Array) -> None:
    if values.size != target.size or values.dtype != target.fmt.storage:
        raise MachineError(
            "collective.shape",
            f"receives {values.shape} {values.dtype} into {target.shape} {target.dtype}",
            operand="dst",
        )
    core.write_bits("dst", target, values)
    core.counters.dma_bytes += target.nbytes


def _variable(
    core: Core,
    op: str,
    operands: tuple[Any, Any, Any],
    metadata: Any,
    known: bool,
    displaced: bool,
    priority: int | None,
) -> None:
    """Chunks of run-time size: this rank's dst gets from every rank r what r's metadata sends here."""
    srcs, dsts, groups = operands
    (source,), (target,) = _tensors(core, srcs, dsts, priority, sbuf=False, single=True)
    ranks = _own_group(core, groups)
    table = _read_table(core, metadata, len(ranks), displaced)
    data = np.array(core.read("src", source)).reshape(-1)
    brought = _exchange(core, ranks, op, [data, table])
    mine = ranks.index(core.launch.rank)
    slot = target.size // len(ranks)
    for r, other in enumerate(brought):
        column = mine if op == "all_to_all_v" else 0
        count, start = (int(other.arrays[1][row, column]) for row in (0, 1))
        place = int(table[3, r]) if displaced else slot * r
        chunk = other.arrays[0][start : start + count]
        if len(chunk) != count or place + count > target.size:
            raise MachineError(
                "collective.count",
                f"{count} elements from {start} of rank {ranks[r]} to {place}: src or dst is too short",
                remedy="correct the metadata",
            )
        if count:
            _store(core, _flat_slice(target, place, count), chunk)
        if not known:
            _store(core, _cell(metadata, 2, r), np.array([count], np.uint32))


def _read_table(core: Core, metadata: Any, ranks: int, displaced: bool) -> Array:
    """Rows of the metadata as uint32 [3 or 4, ranks]; rows that are outputs are not read and stay 0."""
    tensor = check_tensor("metadata_tensor", metadata)
    rows = 4 if displaced else 3
    if tensor.dtype != "uint32" or tensor.size != rows * ranks:
        raise MachineError(
            "collective.metadata",
            f"{tensor.shape} {tensor.dtype} must be uint32 with {rows} rows of {ranks}",
            operand="metadata_tensor",
        )
    table = np.zeros((rows, ranks), np.uint32)
    for row in (0, 1, 3)[: rows - 1]:
        for column in range(ranks):
            table[row, column] = core.read("metadata_tensor", _cell(tensor, row, column)).reshape(-1)[0]
    return table


def _cell(metadata: Tensor, row: int, column: int) -> Tensor:
    return metadata[0, row, column] if metadata.on_chip else metadata[row, column]


def _flat_slice(target: Tensor, start: int, count: int) -> Tensor:
    return target.reshape((target.size,)).slice(0, start, start + count)
