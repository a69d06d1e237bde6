"""One core: its memories, accumulator registers, and the checked reads and writes that every instruction uses."""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.alu import store_integer
from reference.numerics.cast import cast, to_float32
from reference.numerics.formats import FORMATS, Format, format_of

from . import memory as memories
from .accumulator import Accumulator
from .bytemask import ByteMask, Taken
from .errors import MachineError, MachineWarning
from .indirect import Selection, scalar_move, select_free
from .memory import Allocator, Memory, Storage
from .region import MemoryRegion
from .tensor import DType, Tensor, dtype_of, row_major
from .trace import Instruction, Operand
from .xorwow import Xorwow

if TYPE_CHECKING:
    from .launch import Launch

F32 = NDArray[np.float32]


class Core:
    """One of the one or two cores of a launch."""

    def __init__(self, launch: Launch, index: int) -> None:
        self.launch = launch
        self.index = index
        self.options = launch.options
        self.profile = launch.options.profile
        self.generation = launch.generation
        self.checked = launch.options.checks != "off"
        generation = launch.generation
        bounded = launch.options.precise_fp
        self.sbuf = Allocator(
            memories.sbuf(generation), generation.sbuf_usable_bytes if bounded else generation.sbuf_bytes
        )
        self.psum = Allocator(memories.psum(generation), generation.psum_bytes, generation.psum_bank_bytes)
        violate = self.violate if self.checked else _ignore
        self.vector_accumulator = Accumulator("vector", violate)
        self.scalar_accumulator = Accumulator("scalar", violate)
        self.instruction = Instruction(-1, "", index, "", 0)
        self.counters = launch.trace.counters[index]
        #: How many nl.no_reorder() blocks are open.
        self.no_reorder = 0
        #: Position of the generator behind nl.rand and nl.dropout.
        self.random_counter = 0
        self._sequence = 0
        self._scopes: list[list[weakref.ref[Storage]]] = []

    @functools.cached_property
    def generators(self) -> dict[str, Xorwow]:
        """The random generators: 4 per lane of the vector engine, 1 per lane of GpSimd."""
        return {"vector": Xorwow(4), "gpsimd": Xorwow(1)}

    # ---- allocation -------------------------------------------------------------------------------------------

    def allocate(
        self,
        shape: Any,
        dtype: Any,
        buffer: MemoryRegion,
        name: str | None = "",
        address: tuple[int, int] | None = None,
        origin: str = "",
    ) -> Tensor:
        """A new tensor. On chip `shape[0]` is the partition axis; `address` = (partition, byte per partition).

        `origin` is the kernel's file:line of the allocation, for messages about the tensor.
        """
        try:
            return self._allocate(shape, dtype, buffer, name, address, origin)
        except MachineError as error:
            # An allocation is no instruction: the one that ran last must not get the blame.
            error.instruction, error.location = error.instruction or "nl.ndarray", error.location or origin
            raise

    def _allocate(
        self,
        shape: Any,
        dtype: Any,
        buffer: MemoryRegion,
        name: str | None,
        address: tuple[int, int] | None,
        origin: str,
    ) -> Tensor:
        dims = tuple(int(n) for n in shape)
        kind = dtype_of(dtype)
        fmt = self.effective_format(kind)
        _check_shape(dims, buffer, name)
        strides = row_major(dims)
        if not buffer.on_chip:
            storage = self.launch.hbm(self, dims, fmt, buffer, name or "", origin)
            self._enter_scope(storage)
            return Tensor(storage, kind, dims, strides, 0, fmt)
        row_bytes = math.prod(dims[1:]) * fmt.storage.itemsize
        allocator = self.sbuf if buffer is MemoryRegion.sbuf else self.psum
        storage = allocator.place(dims[0], row_bytes, name or "", origin, self.index, address)
        self._enter_scope(storage)
        tensor = Tensor(storage, kind, dims, strides, 0, fmt)
        if self.options.checks != "error":
            fill_sentinel(tensor)
        trace = self.launch.trace
        if trace.keep_taps:
            trace.allocated(self.index, tensor)
            weakref.finalize(storage, trace.released_id, id(storage))
        return tensor

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """One iteration of a run-time loop: tensors made inside may not be used after it."""
        self._scopes.append([])
        try:
            yield
        finally:
            for ref in self._scopes.pop():
                storage = ref()
                if storage is not None:
                    storage.dead = True

    def _enter_scope(self, storage: Storage) -> None:
        if self._scopes:
            self._scopes[-1].append(weakref.ref(storage))

    def effective_format(self, dtype: DType) -> Format:
        """How a dtype is stored: itself, or fp32 for low-precision floats when NKI_PRECISE_FP=0."""
        fmt = format_of(dtype)
        if self.options.precise_fp or fmt.kind != "float" or fmt.name == "float8_e8m0fnu":
            return fmt
        return FORMATS["float32"]

    # ---- operand access ---------------------------------------------------------------------------------------

    def resolve(self, role: str, tensor: Tensor) -> Tensor:
        """The static view of a tensor whose address holds a register or a one-element tensor."""
        if tensor.indirection is None:
            return tensor
        if tensor.indirection.kind != "scalar":
            raise MachineError(
                "operand.indirect",
                f"{tensor!r} has a {tensor.indirection.kind} index, which this operand does not take",
                operand=role,
                remedy="gather into a tile with nisa.dma_copy first",
            )
        moved = tensor.shifted(scalar_move(self, role, tensor.indirection))
        moved.check_bounds()
        return moved

    def read(self, role: str, tensor: Tensor, group: int = 16) -> NDArray[Any]:
        """The elements of an operand in its storage dtype and shape: a live view, or a copy of gathered elements
        (`group`: partitions that share the index of a gen4 `.indirect` view)."""
        if tensor.indirection is not None:
            if tensor.indirection.kind == "free":
                return self.read_selection(role, select_free(self, role, tensor, group))
            tensor = self.resolve(role, tensor)
        if self.checked:
            self.check_readable(role, tensor)
            if tensor.storage.matmul_read is not None:
                tensor.storage.matmul_read.set(tensor)
        self._note(role, tensor, writes=False)
        return tensor.array()

    def read_float(self, role: str, tensor: Tensor) -> F32:
        """An operand as fp32 [partitions, elements per partition] (HBM: [1, elements]); may alias the tensor."""
        values = self.read(role, tensor)
        return to_float32(flat(values, tensor), tensor.fmt)

    def write(self, role: str, tensor: Tensor, values: NDArray[Any]) -> None:
        """Round fp32 `values` (any shape of the right size) to the tensor's dtype, once, and store them."""
        self.write_bits(role, tensor, cast(values, tensor.fmt, self.profile))

    def write_bits(self, role: str, tensor: Tensor, values: NDArray[Any]) -> None:
        """Store values that already have the tensor's storage dtype. Where elements of the view share an address,
        the last one (row-major) stays."""
        if tensor.indirection is not None:
            if tensor.indirection.kind == "free":
                self.write_selection(role, select_free(self, role, tensor, 16), values.reshape(tensor.shape))
                return
            tensor = self.resolve(role, tensor)
        if tensor.storage.is_input:
            self.launch.before_input_write(tensor.storage)
        if tensor.overlaps_itself:
            _store_in_order(tensor, values, None)
        else:
            tensor.array()[...] = values if values.shape == tensor.shape else values.reshape(tensor.shape)
        self.mark_written(role, tensor)

    def write_where(self, role: str, tensor: Tensor, taken: NDArray[np.bool_], values: NDArray[Any]) -> None:
        """Store `values` (storage dtype, broadcast to the tensor's shape) where `taken`; the rest keeps its bits
        and stays unwritten if it was."""
        tensor = self.resolve(role, tensor)
        if tensor.storage.is_input:
            self.launch.before_input_write(tensor.storage)
        if tensor.overlaps_itself:
            _store_in_order(tensor, np.broadcast_to(values, tensor.shape), taken)
        else:
            np.copyto(tensor.array(), values, where=taken)
        self.mark_written(role, tensor, taken=None if taken.all() else taken)

    def read_selection(self, role: str, selection: Selection) -> NDArray[Any]:
        """The elements of a selection in their storage dtype, as a copy."""
        tensor, index = selection.base, selection.index
        if index is None:
            return self.read(role, tensor)
        if self.checked:
            self.check_readable(role, tensor, index)
        self._note(role, tensor, writes=False, taken=index)
        return np.asarray(tensor.array()[index])

    def write_selection(self, role: str, selection: Selection, values: NDArray[Any]) -> None:
        """Store values (storage dtype, the selection's shape); where elements repeat, the last one stays."""
        tensor, index = selection.base, selection.index
        if index is None:
            self.write_bits(role, tensor, values)
            return
        if tensor.storage.is_input:
            self.launch.before_input_write(tensor.storage)
        tensor.array()[index] = values
        self.mark_written(role, tensor, taken=index)

    def rounded(self, values: NDArray[Any] | np.generic, tensor: Tensor) -> NDArray[Any]:
        """fp32 `values` in the storage dtype of `tensor`."""
        return cast(values, tensor.fmt, self.profile)

    def read_words(self, role: str, tensor: Tensor) -> NDArray[np.int64]:
        """An int32 or uint32 operand as exact int64 [partitions, elements]: the native integer path."""
        return flat(self.read(role, tensor), tensor).astype(np.int64)

    def write_words(self, role: str, tensor: Tensor, values: NDArray[np.int64]) -> None:
        """Store exact integers in an int32 or uint32 tensor; out of range wraps or saturates by profile (G1)."""
        self.write_bits(role, tensor, store_integer(values, tensor.fmt.storage, self.profile))

    def mark_written(self, role: str, tensor: Tensor, matmul: bool = False, taken: Taken = None) -> None:
        """Shadow, race and trace bookkeeping of a write that has been done (`matmul`: by the tensor engine;
        `taken`: to these elements only, a NumPy index into the tensor)."""
        storage = tensor.storage
        if self.checked:
            storage.written.set(tensor, True, taken)
            if storage.foreign is not None and not matmul:
                storage.foreign.set(tensor, True, taken)
            if storage.peers:
                self._clobber(tensor, taken)
        self._note(role, tensor, writes=True, taken=taken)
        if self.launch.trace.keep_taps:
            self.launch.trace.written(tensor, self.instruction, taken)

    def _note(self, role: str, tensor: Tensor, writes: bool, taken: Taken = None) -> None:
        launch = self.launch
        if launch.races is not None and tensor.storage.memory.region is MemoryRegion.shared_hbm:
            launch.note_shared(tensor, self.instruction, writes, taken)
        if launch.trace.keep_instructions:
            self.instruction.operands.append(_operand(role, tensor))

    def check_readable(self, role: str, tensor: Tensor, taken: Taken = None) -> None:
        """Refuse bytes that nothing has written, or that an overlapping tensor has destroyed."""
        storage = tensor.storage
        if not (storage.written.full or storage.written.all(tensor, taken)):
            self.violate(
                MachineError(
                    "memory.unwritten",
                    f"reads bytes of {storage.label()} that nothing has written "
                    f"({_first_missing(storage.written, tensor, taken)})",
                    operand=role,
                    remedy=self._unwritten_remedy(storage),
                )
            )
        self.check_clobbered(role, tensor, taken)

    def _unwritten_remedy(self, storage: Storage) -> str:
        if storage.memory.region is MemoryRegion.shared_hbm and len(self.launch.cores) > 1:
            return "write it first; if the other core writes it, wait with nisa.core_barrier"
        return "memset the tile, or narrow the access to what was written"

    def check_clobbered(self, role: str, tensor: Tensor, taken: Taken = None) -> None:
        """Refuse bytes that a write through a tensor at the same address has destroyed."""
        storage = tensor.storage
        if storage.clobbered is not None and storage.clobbered.any(tensor, taken):
            self.violate(
                MachineError(
                    "memory.overlap",
                    f"reads bytes of {storage.label()} that were overwritten through {storage.clobbered_by}, which "
                    "shares its address",
                    operand=role,
                    remedy="give the two tensors different addresses or end the first one's use earlier",
                )
            )

    def _clobber(self, tensor: Tensor, taken: Taken) -> None:
        storage = tensor.storage
        if storage.clobbered is not None:
            storage.clobbered.set(tensor, False, taken)
        for peer in storage.live_peers():
            _mark_lost(peer, tensor, taken, f"{storage.label()} by {self.instruction}")

    def violate(self, error: MachineError) -> None:
        """Raise, or warn when the launch says so."""
        if self.options.checks == "error":
            raise error
        self.enrich(error)
        warnings.warn(str(error), MachineWarning, stacklevel=2)

    # ---- instruction life cycle -------------------------------------------------------------------------------

    def begin(self, op: str, file: str, line: int, label: str) -> Instruction:
        """Start an instruction."""
        self.instruction = Instruction(self._sequence, op, self.index, file, line, "", label)
        self._sequence += 1
        return self.instruction

    def retire(self, engine: str) -> None:
        """Count the instruction and let the other core have its turn."""
        instruction = self.instruction
        instruction.engine = engine
        self.counters.instructions[engine] += 1
        self.counters.ops[instruction.op] += 1
        if self.launch.trace.keep_instructions:
            self.launch.trace.instructions.append(instruction)
        self.launch.scheduler.tick()

    def enrich(self, error: MachineError) -> MachineError:
        """Add the running instruction's name and place to an error that has none."""
        if error.instruction is None and self.instruction.op:
            error.instruction = f"nisa.{self.instruction.op}"
        if error.location is None and self.instruction.file:
            error.location = self.instruction.location
        return error


def _ignore(error: MachineError) -> None:
    """What happens to a broken rule that the launch does not check."""


def flat(values: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
    """[partitions, elements per partition] of an on-chip operand, [1, elements] of one in HBM."""
    if values.ndim == 2 and tensor.on_chip:
        return values
    return values.reshape(values.shape[0] if tensor.on_chip else 1, -1)


def fill_sentinel(tensor: Tensor) -> None:
    """NaN in floats, 4 in integers, all-ones bytes in packed types: what the official simulator fills in."""
    array = tensor.array()
    if tensor.fmt.kind == "float":
        array[...] = cast(np.float32(np.nan).reshape(1), tensor.fmt)[0]
    elif tensor.fmt.kind == "packed":
        array.view(array.dtype)[...] = np.iinfo(array.dtype).max
    else:
        array[...] = 4


def _check_shape(shape: tuple[int, ...], buffer: MemoryRegion, name: str | None) -> None:
    if any(n < 1 for n in shape) or not shape:
        raise MachineError("memory.shape", f"tensor '{name or ''}' of shape {shape}", remedy="every axis needs >= 1")
    if buffer.on_chip and len(shape) < 2:
        raise MachineError(
            "memory.shape",
            "SBUF and PSUM tensors must have at least 2 dimensions (partition-dim and free-dim), "
            f"got {shape} for '{name or ''}'",
        )
    if buffer.on_chip and shape[0] > 128:
        raise MachineError(
            "memory.partitions",
            f"tensor '{name or ''}' of shape {shape}: partition dimension {shape[0]} exceeds maximum 128",
            remedy="tile axis 0 by 128",
        )


def _operand(role: str, tensor: Tensor) -> Operand:
    address = (tensor.start_partition if tensor.on_chip else 0, tensor.start_byte)
    return Operand(role, tensor.name, str(tensor.dtype), tensor.shape, tensor.buffer.name, address)


def _first_missing(mask: ByteMask, tensor: Tensor, taken: Taken) -> str:
    written = mask.elements(tensor) if taken is None else mask.elements(tensor)[taken]
    missing = np.argwhere(~written)
    first = tuple(int(i) for i in missing[0]) if len(missing) else ()
    return f"{len(missing)} of {written.size} elements, first at {list(first)}"


def _store_in_order(tensor: Tensor, values: NDArray[Any], taken: NDArray[np.bool_] | None) -> None:
    """Write through a view whose elements share addresses, as if one after the other."""
    rows, address = tensor.overlap_rows()
    ordered = values.reshape(rows.shape[0], -1)
    if taken is None:
        _last_wins(rows, address, ordered)
        return
    for row, mask in enumerate(taken.reshape(rows.shape[0], -1)):
        _last_wins(rows[row : row + 1], address[mask], ordered[row : row + 1, mask])


def _last_wins(rows: NDArray[Any], address: NDArray[np.intp], ordered: NDArray[Any]) -> None:
    # Which of several values an assignment through overlapping strides keeps is NumPy's choice, hence the
    # explicit last occurrence.
    unique, position = np.unique(address[::-1], return_index=True)
    rows[:, unique] = ordered[:, len(address) - 1 - position]


def _mark_lost(peer: Storage, tensor: Tensor, taken: Taken, by: str) -> None:
    """Mark the bytes of `peer` that a write through `tensor` (another storage at the same place) destroyed."""
    source = tensor.storage
    if peer.clobbered is None:
        peer.clobbered = ByteMask(peer.parts, peer.row_bytes)
    hit = ByteMask(source.parts, source.row_bytes)
    hit.set(tensor, True, taken)
    part = slice(max(peer.part0, source.part0), min(peer.part0 + peer.parts, source.part0 + source.parts))
    byte = slice(max(peer.byte0, source.byte0), min(peer.byte0 + peer.row_bytes, source.byte0 + source.row_bytes))
    lost = hit.rows()[
        part.start - source.part0 : part.stop - source.part0, byte.start - source.byte0 : byte.stop - source.byte0
    ]
    peer.clobbered.merge(part.start - peer.part0, byte.start - peer.byte0, lost)
    if lost.any():
        peer.clobbered_by = by


__all__ = ["Core", "Memory", "fill_sentinel", "flat"]
