"""The memories of a core as byte arrays, and the regions of them that tensors occupy.

SBUF and PSUM have their true size: an address is a byte offset inside each partition. HBM tensors are linear
byte arrays of their own; an input shares its bytes with the caller's array, so that in-place updates show
there.

What is not modelled: the layout of HBM (no two HBM tensors are ever adjacent), ECC, and timing.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .bytemask import ByteMask
from .errors import MachineError
from .generation import Generation
from .region import MemoryRegion

#: Physical bytes between partitions exceed the architectural ones by this much. Not addressable; without it
#: all 128 partitions of a tile fall into a few cache sets of the host, since 224 KiB is a multiple of 32 KiB.
_HOST_PAD = 192

#: Byte arrays of finished launches by size, at most `_POOLED` of each: enough for two launches on two cores.
_POOL: defaultdict[int, list[NDArray[np.uint8]]] = defaultdict(list)
_POOLED = 4

#: Automatic allocations start on multiples of this many bytes.
_ALIGNMENT = 32

#: nl.tile_size.psum_min_align.
_PSUM_ALIGNMENT = 4


@dataclass(eq=False)
class Memory:
    """One physical memory: `partitions` rows of `row_bytes` addressable bytes."""

    region: MemoryRegion
    partitions: int
    row_bytes: int
    pitch: int
    data: NDArray[np.uint8]

    @classmethod
    def on_chip(cls, region: MemoryRegion, partitions: int, row_bytes: int) -> Memory:
        """SBUF or PSUM. Its bytes are arbitrary, perhaps those of an earlier launch: what nothing has
        written may not be read, or holds the sentinels that `Core.allocate` fills in."""
        pitch = row_bytes + _HOST_PAD
        return cls(region, partitions, row_bytes, pitch, _bytes(partitions * pitch))

    @classmethod
    def linear(cls, region: MemoryRegion, data: NDArray[np.uint8]) -> Memory:
        """HBM bytes of one tensor."""
        return cls(region, 1, data.size, data.size, data)


def _bytes(size: int) -> NDArray[np.uint8]:
    try:
        return _POOL[size].pop()
    except IndexError:
        return np.empty(size, np.uint8)


def _keep(memory: Memory) -> None:
    """Leave the bytes of an on-chip memory to the next launch: touching fresh pages costs milliseconds."""
    pool = _POOL[memory.data.size]
    if len(pool) < _POOLED:
        pool.append(memory.data)


@dataclass(eq=False)
class Storage:
    """The bytes of one tensor: a rectangle of partitions and bytes of a memory, with its shadow."""

    memory: Memory
    part0: int
    parts: int
    byte0: int
    row_bytes: int
    name: str = ""
    origin: str = ""  # file:line of the allocation
    core: int = 0
    is_input: bool = False
    written: ByteMask = field(init=False)
    matmul_written: ByteMask | None = None
    matmul_read: ByteMask | None = None
    foreign: ByteMask | None = None
    clobbered: ByteMask | None = None
    clobbered_by: str = ""
    peers: list[weakref.ref[Storage]] = field(default_factory=list)
    occurrence: int = 0
    dead: bool = False

    def __post_init__(self) -> None:
        self.written = ByteMask(self.parts, self.row_bytes, self.is_input)

    def label(self) -> str:
        """How messages name this tensor."""
        return f"'{self.name}'" if self.name else f"unnamed tensor of {self.origin or 'unknown origin'}"

    def live_peers(self) -> Iterator[Storage]:
        """Other live storages that share at least one byte with this one (explicit addresses)."""
        pairs = [(ref, ref()) for ref in self.peers]
        self.peers = [ref for ref, peer in pairs if peer is not None]
        yield from (peer for _, peer in pairs if peer is not None)

    def overlaps(self, other: Storage) -> bool:
        """Whether the two rectangles share a byte."""
        return (
            self.part0 < other.part0 + other.parts
            and other.part0 < self.part0 + self.parts
            and self.byte0 < other.byte0 + other.row_bytes
            and other.byte0 < self.byte0 + self.row_bytes
        )


class Allocator:
    """Places tensors in SBUF or PSUM of one core.

    Automatic placement is first fit over byte columns (a tensor owns its bytes in all partitions), and ends
    with the last reference to the tensor or to a view of it: that is the liveness a compiler would at least
    grant. Explicit placement (`address=`) may land anywhere inside the memory; where it shares bytes with
    another live tensor both learn of each other, and reading what the other overwrote is refused.
    """

    def __init__(self, memory: Memory, usable: int, bank_bytes: int | None = None) -> None:
        self.memory = memory
        self.usable = usable
        self.bank_bytes = bank_bytes
        self.high_water = 0
        self._live: list[weakref.ref[Storage]] = []

    def _living(self) -> list[Storage]:
        pairs = [(ref, ref()) for ref in self._live]
        self._live = [ref for ref, storage in pairs if storage is not None]
        return [storage for _, storage in pairs if storage is not None]

    def release(self) -> None:
        """End the use of the memory. Its bytes go to a later launch, unless a tensor still refers to them."""
        if not self._living():
            _keep(self.memory)

    def place(
        self, parts: int, row_bytes: int, name: str, origin: str, core: int, address: tuple[int, int] | None
    ) -> Storage:
        """A storage of `parts` x `row_bytes` at `address` (partition, byte), or wherever it fits."""
        living = self._living()
        if address is None:
            part0, byte0 = 0, self._first_fit(row_bytes, living, name, parts)
        else:
            part0, byte0 = address
            self._check_address(parts, row_bytes, part0, byte0, name)
        storage = Storage(self.memory, part0, parts, byte0, row_bytes, name, origin, core)
        if address is not None:
            self._introduce(storage, living)
        self._live.append(weakref.ref(storage))
        self.high_water = max(self.high_water, byte0 + row_bytes)
        return storage

    def _introduce(self, storage: Storage, living: list[Storage]) -> None:
        for other in living:
            if storage.overlaps(other):
                storage.peers.append(weakref.ref(other))
                other.peers.append(weakref.ref(storage))

    def _check_address(self, parts: int, row_bytes: int, part0: int, byte0: int, name: str) -> None:
        where = f"'{name}' at address=({part0}, {byte0})"
        if part0 < 0 or part0 + parts > self.memory.partitions or byte0 < 0:
            raise MachineError(
                "memory.address",
                f"{where} with {parts} partitions leaves the {self.memory.partitions} partitions",
                remedy="choose partition + shape[0] <= 128 and byte >= 0",
            )
        if self.bank_bytes is not None and byte0 % _PSUM_ALIGNMENT:
            raise MachineError(
                "memory.alignment",
                f"{where}: PSUM addresses are multiples of {_PSUM_ALIGNMENT} bytes",
                remedy="start on a bank boundary, 2048 bytes times the bank",
            )
        if byte0 + row_bytes > self.usable:
            raise MachineError(
                "memory.capacity",
                f"{where} ends at byte {byte0 + row_bytes} of {self.usable} usable per partition of "
                f"{self.memory.region.name}",
                remedy="place it lower or make the tile smaller",
            )

    def _gaps(self, living: list[Storage]) -> Iterator[tuple[int, int]]:
        end = 0
        for start, stop in sorted((s.byte0, s.byte0 + s.row_bytes) for s in living):
            if start > end:
                yield end, start
            end = max(end, stop)
        yield end, self.usable

    def _first_fit(self, row_bytes: int, living: list[Storage], name: str, parts: int) -> int:
        for start, stop in self._gaps(living):
            begin = self._aligned(start, row_bytes)
            if begin + row_bytes <= stop:
                return begin
        raise MachineError(
            "memory.capacity",
            f"no room for {name or 'a tile'} [{parts} partitions x {row_bytes} B]: "
            f"{sum(s.row_bytes for s in living)} of {self.usable} B per partition of "
            f"{self.memory.region.name} are in use by {len(living)} tensors{_largest(living)}",
            remedy="free tiles by reusing them, or tile smaller",
        )

    def _aligned(self, start: int, row_bytes: int) -> int:
        begin = -(-start // _ALIGNMENT) * _ALIGNMENT
        if self.bank_bytes is None:
            return begin
        # A matmul destination must stay inside one PSUM bank, so tiles that fit a bank never straddle two.
        offset = begin % self.bank_bytes
        if offset and offset + row_bytes > self.bank_bytes:
            begin += self.bank_bytes - offset
        return begin


def _largest(living: list[Storage]) -> str:
    top = sorted(living, key=lambda s: -s.row_bytes)[:3]
    return "; largest: " + ", ".join(f"{s.label()} {s.row_bytes} B" for s in top) if top else ""


def sbuf(generation: Generation) -> Memory:
    """A fresh SBUF of that generation."""
    return Memory.on_chip(MemoryRegion.sbuf, generation.partitions, generation.sbuf_bytes)


def psum(generation: Generation) -> Memory:
    """A fresh PSUM of that generation."""
    return Memory.on_chip(MemoryRegion.psum, generation.partitions, generation.psum_bytes)
