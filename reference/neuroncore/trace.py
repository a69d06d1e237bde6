"""What a launch did: instruction records, counters, the values of named tiles, and who wrote what to HBM."""

from __future__ import annotations

from collections import Counter, defaultdict
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


@dataclass(frozen=True, eq=False)
class Store:
    """One write to HBM: the view, and the elements of it (a NumPy index) where it was not all of them."""

    tensor: Tensor
    instruction: Instruction
    taken: Taken

    def covers(self, byte: int) -> bool:
        """Whether it wrote this byte of its storage."""
        shape, strides, offset = self.tensor.geometry(0)
        ends = [(count - 1) * stride for count, stride in zip(shape, strides, strict=True)]
        least, most = (offset + sum(pick(0, end) for end in ends) for pick in (min, max))
        if not least <= byte < most + self.tensor.itemsize:
            return False
        places = offset + sum(np.ix_(*map(np.multiply, map(np.arange, shape), strides)), np.zeros((), np.int64))
        written = np.asarray(places)[... if self.taken is None else self.taken]
        return bool(np.any((written <= byte) & (byte < written + self.tensor.itemsize)))


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
        self._stores: defaultdict[int, list[Store]] = defaultdict(list)
        self._left: dict[int, tuple[NDArray[Any], Tensor]] = {}

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

    def left(self, array: Any, tensor: Tensor) -> None:
        """Remember of which tensor an array of the caller holds the values after the launch."""
        if self.keep_taps and isinstance(array, np.ndarray):
            self._left[id(array)] = (array, tensor)

    def writer(self, array: NDArray[Any], index: tuple[int, ...]) -> Instruction | None:
        """The instruction that wrote this element of an output last, with taps; None where none is known."""
        _, tensor = self._left.get(id(array), (array, None))
        if tensor is None or len(tensor.shape) != len(index):
            return None
        _, strides, offset = tensor.geometry(0)
        byte = offset + sum(step * place for step, place in zip(strides, index, strict=True))
        stores = reversed(self._stores.get(id(tensor.storage), ()))
        return next((store.instruction for store in stores if store.covers(byte)), None)

    def released_id(self, identity: int) -> None:
        """Forget a storage that has died: its id may be used again."""
        self._by_storage.pop(identity, None)

    def written(self, tensor: Tensor, instruction: Instruction, taken: Taken = None) -> None:
        """Copy what an instruction wrote through `tensor` (to the elements `taken`) into its tap."""
        if not tensor.storage.memory.region.on_chip:
            self._stores[id(tensor.storage)].append(Store(tensor, instruction, taken))
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
