"""Movement across the partitions of a 32-partition quadrant (vector engine)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .core import Core, flat
from .errors import MachineError
from .instruction import check_tensor, instruction
from .operands import dtype_equal, is_whole
from .tensor import Tensor

#: Partitions of a quadrant, and the mask entry that leaves a destination partition alone.
QUADRANT = 32
KEEP = 255


@instruction("vector")
def nc_stream_shuffle(core: Core, dst: Any, src: Any, shuffle_mask: Any) -> None:
    """dst[32 b + i] = src[32 b + mask[i]] for each quadrant b; mask 255 keeps dst. Bits are moved."""
    target, source = check_tensor("dst", dst), check_tensor("src", src)
    dtype_equal("src", source, "dst", target)
    _check_places(target, source)
    origin = _origins(_checked_mask(shuffle_mask), target.shape[0], source.shape[0])
    moved = origin >= 0
    if not moved.any():
        return
    values = _read_rows(core, source, origin[moved])
    bits = np.empty((target.shape[0], values.shape[1]), values.dtype)
    bits[moved] = values
    if moved.all():
        core.write_bits("dst", target, bits)
    else:
        taken = np.broadcast_to(moved.reshape(-1, *[1] * (target.ndim - 1)), target.shape)
        core.write_where("dst", target, taken, bits.reshape(target.shape))


def _check_places(target: Tensor, source: Tensor) -> None:
    """On chip, equal elements per partition, and the start partitions that the active quadrants allow."""
    if source.size * target.shape[0] != target.size * source.shape[0]:
        raise MachineError(
            "operand.shape",
            f"{source.shape} and dst {target.shape} differ in elements per partition",
            operand="src",
        )
    active = -(-max(source.shape[0], target.shape[0]) // QUADRANT) * QUADRANT
    step = 128 if active > 64 else active
    for role, tensor in (("src", source), ("dst", target)):
        if not tensor.on_chip:
            raise MachineError(
                "operand.memory",
                f"must be in ['sbuf', 'psum'], got {tensor.buffer.name}",
                operand=role,
                remedy="move it with nisa.dma_copy first",
            )
        if active > 128 or tensor.start_partition % step:
            raise MachineError(
                "partition.start",
                f"{active} active partitions starting at {tensor.start_partition}: "
                f"the start must be a multiple of {step}",
                operand=role,
                remedy="place the tile at a legal partition",
            )


def _checked_mask(mask: Any) -> list[int]:
    entries = list(mask)
    if len(entries) != QUADRANT or not all(is_whole(m) and (0 <= m < QUADRANT or m == KEEP) for m in entries):
        raise MachineError(
            "shuffle.mask",
            f"{entries} is no list of {QUADRANT} integers, each 0..31 or {KEEP}",
            operand="shuffle_mask",
        )
    return [int(m) for m in entries]


def _origins(mask: list[int], targets: int, sources: int) -> NDArray[np.intp]:
    """Source partition of every destination partition, -1 where dst is kept."""
    partition = np.arange(targets)
    entry = np.array(mask)[partition % QUADRANT]
    origin = np.where(entry == KEEP, -1, partition // QUADRANT * QUADRANT + entry)
    if (origin >= sources).any():
        wrong = int(np.argmax(origin >= sources))
        raise MachineError(
            "shuffle.mask",
            f"dst partition {wrong} would take src partition {origin[wrong]} of {sources}",
            operand="shuffle_mask",
            remedy="address partitions that src has",
        )
    return origin


def _read_rows(core: Core, source: Tensor, origin: NDArray[np.intp]) -> NDArray[Any]:
    """Copies of the source partitions, one per entry; partitions that no entry names need not be written."""
    used = np.unique(origin)
    if len(used) == source.shape[0]:
        return flat(core.read("src", source), source)[origin]
    rows = {int(row): _row(core, source, int(row)) for row in used}
    return np.stack([rows[int(row)] for row in origin])


def _row(core: Core, source: Tensor, row: int) -> NDArray[Any]:
    return core.read("src", source.slice(0, row, row + 1)).reshape(-1)
