"""What a launch did: instruction records, counters, and the values of named tiles."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .bytemask import Taken

if TYPE_CHECKING:
    from .tensor import Tensor


@dataclass(frozen=True)
class Operand:
    """One operand of an executed instruction."""

    role: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    region: str
    address: tuple[int, int]  # (partition, byte) on chip, (0, byte) in HBM


@dataclass(slots=True)
class Instruction:
    """One executed instruction."""

    seq: int
    op: str
    core: int
    file: str
    line: int
    engine: str = ""
    label: str = ""
    operands: list[Operand] = field(default_factory=list)

    @property
    def location(self) -> str:
        """file:line in the kernel."""
        return f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return f"core {self.core} #{self.seq} {self.op} ({self.location})"


@dataclass
class Counters:
    """Totals of one core."""

    instructions: Counter[str] = field(default_factory=Counter)  # per engine
    ops: Counter[str] = field(default_factory=Counter)  # per instruction name
    macs: int = 0
    dma_bytes: int = 0
    sbuf_high_water: int = 0  # bytes per partition
    psum_high_water: int = 0


@dataclass
class Tap:
    """The bytes of one named tile and, per element, the instruction that wrote it last.

    `values` has the tile's allocated shape and storage dtype; `writers` the index into `instructions`, -1 where
    nothing was written.
    """

    dtype: str
    values: NDArray[Any]
    writers: NDArray[np.int32]
    instructions: list[Instruction] = field(default_factory=list)


#: (core, tile name, occurrence)
TapKey = tuple[int, str, int]


class Trace:
    """Records of one launch."""

    def __init__(self, cores: int, keep_instructions: bool, keep_taps: bool) -> None:
        self.instructions: list[Instruction] = []
        self.counters = [Counters() for _ in range(cores)]
        self.taps: dict[TapKey, Tap] = {}
        self.keep_instructions = keep_instructions
        self.keep_taps = keep_taps
        self._names: Counter[tuple[int, str]] = Counter()
        self._by_storage: dict[int, Tap] = {}

    def allocated(self, core: int, tensor: Tensor) -> None:
        """Start a tap for a named tile."""
        storage = tensor.storage
        if not self.keep_taps or not storage.name:
            return
        storage.occurrence = self._names[core, storage.name]
        self._names[core, storage.name] += 1
        tap = Tap(
            str(tensor.dtype),
            np.zeros(tensor.shape, tensor.fmt.storage),
            np.full(tensor.shape, -1, np.int32),
        )
        self.taps[core, storage.name, storage.occurrence] = tap
        self._by_storage[id(storage)] = tap

    def released_id(self, identity: int) -> None:
        """Forget a storage that has died: its id may be used again."""
        self._by_storage.pop(identity, None)

    def written(self, tensor: Tensor, instruction: Instruction, taken: Taken = None) -> None:
        """Copy what an instruction wrote through `tensor` (to the elements `taken`) into its tap."""
        tap = self._by_storage.get(id(tensor.storage))
        if tap is None:
            return
        chosen = ... if taken is None else taken
        pitch = tensor.storage.row_bytes
        shape, strides, offset = tensor.geometry(pitch)
        # As bytes: the narrow float dtypes export no buffer of their own.
        tile = tap.values.reshape(-1).view(np.uint8)
        target = np.ndarray(shape, tensor.fmt.storage, tile, offset, strides)
        target[chosen] = tensor.array()[chosen]
        if not tap.instructions or tap.instructions[-1] is not instruction:
            tap.instructions.append(instruction)
        writer = len(tap.instructions) - 1
        item = tap.values.itemsize
        if tensor.itemsize != item:
            tap.writers[...] = writer
            return
        scaled = tuple(s // item * 4 for s in strides)
        np.ndarray(shape, np.int32, tap.writers.data, offset // item * 4, scaled)[chosen] = writer
