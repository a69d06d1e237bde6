"""Tensors as strided access patterns over the bytes of a storage (nki.language.NkiTensor).

A tensor is a dtype, an offset and one (stride, count) pair per axis, all counted in elements of its dtype. On chip
axis 0 is the partition axis: element address e of a tensor with F elements per partition lies in partition e // F at
free position e % F. HBM is linear. Views share bytes; nothing here copies.

Rules and worked examples: API fact sheet, sections 4.1 to 4.4 (indexing, view methods, `ap`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.formats import Format, format_of

from .errors import MachineError, MachineWarning, OutOfBounds
from .region import MemoryRegion
from .registers import VirtualRegister

if TYPE_CHECKING:
    from .memory import Storage


class DType(str):
    """A dtype name. A string, as in NKI 0.5 and 0.6, so that it compares, hashes and prints like its name."""

    __slots__ = ()


_DTYPES: dict[str, DType] = {}


def dtype_of(dtype: Any) -> DType:
    """The canonical DType of any spelling that `format_of` accepts."""
    name = format_of(dtype).name
    return _DTYPES.setdefault(name, DType(name))


@dataclass(frozen=True)
class Slice:
    """nl.ds(start, size): `size` elements from `start`, which may be a register."""

    start: int | VirtualRegister
    size: int


@dataclass(frozen=True)
class Indirect:
    """A run-time part of an address.

    kind "scalar": `index` (register or one-element tensor) times `step` elements is added to the offset.
    kind "vector": row w of axis 0 starts at index[w] * step instead of w * stride.
    kind "free": `index` picks free positions (gen4 `.indirect`).
    `limit` is the largest legal index where the axis it indexes is known, None where only the storage limits it.
    """

    kind: str
    index: Any
    step: int
    dim: int = 0
    limit: int | None = None


class Tensor:
    """A view of a storage. Immutable; every method that returns a tensor returns a new view of the same bytes.

    Attributes: `shape`, `strides` (elements), `offset` (elements), `dtype` (a str), `buffer` (MemoryRegion),
    `name`, `ndim`, `size`.
    """

    __slots__ = (
        "__weakref__",
        "_array",
        "_overlaps",
        "dtype",
        "fmt",
        "indirection",
        "offset",
        "shape",
        "storage",
        "strides"
    )

    def __init__(
        self,
        storage: Storage,
        dtype: DType,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        offset: int = 0,
        fmt: Format | None = None,
        indirection: Indirect | None = None,
    ) -> None:
        self.storage = storage
        self.dtype = dtype
        self.fmt = format_of(dtype) if fmt is None else fmt
        self.shape = shape
        self.strides = strides
        self.offset = offset
        self.indirection = indirection
        self._array: NDArray[Any] | None = None
        self._overlaps: bool | None = None

    # ---- attributes -------------------------------------------------------------------------------------------

    @property
    def buffer(self) -> MemoryRegion:
        """The memory that holds the tensor."""
        return self.storage.memory.region

    @property
    def name(self) -> str:
        """The name given at allocation, or ''."""
        return self.storage.name

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one stored element."""
        return self.fmt.storage.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes the view covers, overlaps counted each time."""
        return self.size * self.itemsize

    @property
    def on_chip(self) -> bool:
        """True in SBUF and PSUM."""
        return self.storage.memory.region.on_chip

    @property
    def free_elements(self) -> int:
        """F: elements of this dtype in one partition of the storage (on chip); all elements in HBM."""
        return self.storage.row_bytes // self.itemsize

    @property
    def start_partition(self) -> int:
        """Physical partition of the first element (on chip)."""
        return self.storage.part0 + self.offset // self.free_elements

    @property
    def start_byte(self) -> int:
        """Byte address inside its partition (on chip), or inside the tensor (HBM), of the first element."""
        return self.storage.byte0 + (self.offset % self.free_elements) * self.itemsize

    @property
    def covers_storage(self) -> bool:
        """True when the view is exactly all bytes of its storage, each once."""
        return (
            self.offset == 0
            and self.indirection is None
            and self.size * self.itemsize == self.storage.parts * self.storage.row_bytes
            and 0 not in self.strides
            and self.strides == row_major(self.shape)
        )

    def __repr__(self) -> str:
        return f"NkiTensor({self.name or 'unnamed'}, {self.shape}, {self.dtype}, {self.buffer.name})"

    def _refuse(self, symbol: Any) -> Any:
        raise TypeError(f"arithmetic on {self!r} is not NKI; use nki.isa or nki.language functions")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __matmul__ = __pow__ = __mod__ = __floordiv__ = _refuse

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Any:
        raise TypeError(f"{self!r} cannot be iterated in a kernel; loop over range(shape[0]) and index")

    # ---- bytes ------------------------------------------------------------------------------------------------

    def byte_geometry(self, pitch: int, base: int = 0) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """(shape, byte strides, byte offset) of the view's bytes in rows of `pitch`, the last axis in bytes."""
        shape, strides, offset = self.geometry(pitch, base)
        item = self.itemsize
        if shape and strides[-1] == item:
            return (*shape[:-1], shape[-1] * item), (*strides[:-1], 1), offset
        return (*shape, item), (*strides, 1), offset

    def geometry(self, pitch: int, base: int = 0) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """(shape, byte strides, byte offset) of the elements in rows of `pitch` bytes starting at `base`."""
        item = self.itemsize
        if not self.storage.memory.region.on_chip:
            return self.shape, tuple(s * item for s in self.strides), base + self.offset * item
        free = self.free_elements
        row, column = divmod(self.offset, free)
        step = 0 if self.shape[0] == 1 else self.strides[0] // free
        strides = (step * pitch, *(s * item for s in self.strides[1:]))
        return self.shape, strides, base + row * pitch + column * item

    def array(self) -> NDArray[Any]:
        """The live bytes as a NumPy view in the storage dtype. No check, no shadow: instructions go through the
        core's `read` and `write`."""
        if self._array is None:
            memory = self.storage.memory
            base = self.storage.part0 * memory.pitch + self.storage.byte0 if self.on_chip else 0
            shape, strides, offset = self.geometry(memory.pitch, base)
            self._array = np.ndarray(shape, self.fmt.storage, memory.data.data, offset, strides)
        return self._array

    @property
    def overlaps_itself(self) -> bool:
        """Whether two elements of the view may share an address (stride 0, or strides shorter than what lies
        inside them): the order of writing matters then. Some interleaved patterns without overlap count too."""
        if self._overlaps is None:
            self._overlaps = _may_overlap(self.shape, self.strides)
        return self._overlaps

    def overlap_rows(self) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """(rows, address): the memory under the view as [rows, elements], and in row-major order the position of
        each of its elements in a row. A row is a partition; HBM is one row."""
        inner = slice(1, None) if self.on_chip else slice(0, None)
        address = np.zeros(1, np.intp)
        for stride, count in zip(self.strides[inner], self.shape[inner], strict=True):
            address = (address[:, None] + stride * np.arange(count)).reshape(-1)
        lowest = int(address.min())
        rows, step = (self.shape[0], self.strides[0]) if self.on_chip else (1, 1)
        window = Tensor(
            self.storage, self.dtype, (rows, int(address.max()) - lowest + 1), (step, 1), self.offset + lowest, self.fmt
        )
        return window.array(), address - lowest

    def with_view(
        self,
        shape: Sequence[int],
        strides: Sequence[int],
        offset: int | None = None,
        dtype: DType | None = None,
        indirection: Indirect | None = None,
        fmt: Format | None = None,
    ) -> Tensor:
        """A new view of the same storage."""
        keep = dtype is None or dtype == self.dtype
        return Tensor(
            self.storage,
            self.dtype if dtype is None else dtype,
            tuple(shape),
            tuple(strides),
            self.offset if offset is None else offset,
            fmt if fmt is not None else (self.fmt if keep else None),
            self.indirection if indirection is None else indirection,
        )

    # ---- indexing ---------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Tensor:
        """Index with ints, slices of positive step, `...`, nl.ds and tuples of these. No clamping.

        On chip an int on axis 0 keeps size 1, and at least two axes remain; HBM keeps at least one. A register
        index is read when the instruction runs. A one-column tensor index gathers rows (see `vector_select`).
        """
        keys = _expand_key(key, self)
        tensors = [dim for dim, item in enumerate(keys) if isinstance(item, Tensor)]
        if tensors:
            return self._gathered(keys, tensors)
        shape: list[int] = []
        strides: list[int] = []
        offset = self.offset
        dynamic: Indirect | None = None
        dropped: list[tuple[int, int]] = []
        for dim, (item, size, stride) in enumerate(zip(keys, self.shape, self.strides, strict=True)):
            self._check_axis_is_static(dim, item)
            register, start, count, step, drop = _resolve(item, size, dim, self)
            offset += start * stride
            if register is not None:
                if dynamic is not None or self.indirection is not None:
                    raise MachineError("index.register", "more than one register in one index",
                                       remedy="combine them into one register")
                dynamic = Indirect("scalar", register, stride, dim, size - count)
            if drop and not (self.on_chip and dim == 0):
                dropped.append((len(shape), stride))
                continue
            shape.append(count)
            strides.append(stride * step)
        least = 2 if self.on_chip else 1
        while len(shape) < least and dropped:
            position, stride = dropped.pop()
            shape.insert(position, 1)
            strides.insert(position, stride)
        return self.with_view(shape, strides, offset, indirection=dynamic)

    def _gathered(self, keys: list[Any], tensors: list[int]) -> Tensor:
        """Rows of one axis chosen by an index tensor, the other axes indexed as usual."""
        if len(tensors) > 1:
            raise MachineError("index.type", f"{self!r} indexed with several tensors", remedy="gather one axis")
        (dim,) = tensors
        index, keys[dim] = keys[dim], slice(None)
        return self[tuple(keys)].vector_select(dim, index)

    def _check_axis_is_static(self, dim: int, item: Any) -> None:
        if self.indirection is None or self.indirection.kind == "scalar" or item == slice(None):
            return
        if self.indirection.dim == dim:
            raise MachineError("view.indirect", f"axis {dim} of {self!r} is indirect and cannot be indexed")

    def __setitem__(self, key: Any, value: Any) -> None:
        """Assign a tensor or a number element-wise, flattened, with the rules of a copy."""
        from .instruction import assign

        assign(self[key], value)

    # ---- view methods -----------------------------------------------------------------------------------------

    def is_contiguous(self) -> bool:
        """Row-major without holes; on chip judged over the free axes; axes of size 1 do not count."""
        shape = self.shape[1:] if self.on_chip else self.shape
        strides = self.strides[1:] if self.on_chip else self.strides
        expect = 1
        for size, stride in zip(reversed(shape), reversed(strides), strict=True):
            if size != 1:
                if stride != expect:
                    return False
                expect *= size
        return True

    def free_runs(self) -> int:
        """How many free axes remain when adjacent ones that are one run of memory are merged (on chip)."""
        return len(_merge(self.shape[1:], self.strides[1:]))

    def get_pattern(self) -> list[list[int]]:
        """[[stride, count], ...] in elements."""
        return [[stride, count] for stride, count in zip(self.strides, self.shape, strict=True)]

    def is_indirect(self) -> bool:
        """True when part of the address is known only at run time."""
        return self.indirection is not None

    def slice(self, dim: int, start: int, end: int, step: int = 1) -> Tensor:
        """Elements start, start+step, ... below end of one axis; 0 <= start < end <= size."""
        dim = self._axis(dim)
        if not 0 <= start < end <= self.shape[dim] or step < 1:
            raise OutOfBounds(
                "view.slice",
                f"slice({dim}, {start}, {end}, {step}) of {self!r} needs 0 <= start < end <= {self.shape[dim]}",
            )
        self._keep_indirect_axis(dim, "sliced")
        shape, strides = list(self.shape), list(self.strides)
        shape[dim] = -(-(end - start) // step)
        strides[dim] *= step
        return self.with_view(shape, strides, self.offset + start * self.strides[dim])

    def select(self, dim: int, index: Any) -> Tensor:
        """Remove axis `dim` at a static int, or at a run-time index (register or one-element tensor). The partition
        axis stays, with size 1."""
        dim = self._axis(dim)
        self._keep_indirect_axis(dim, "selected")
        shape, strides = list(self.shape), list(self.strides)
        size, stride = shape.pop(dim), strides.pop(dim)
        if isinstance(index, (int, np.integer)):
            index = int(index)
            if not -size <= index < size:
                raise OutOfBounds("view.select", _out_of_bounds(self, dim, index, size))
            if self.on_chip and dim == 0:
                shape, strides = [1, *shape], [stride, *strides]
            return self.with_view(shape, strides, self.offset + (index % size) * stride)
        if self.on_chip and dim == 0:
            raise MachineError("view.select", "the partition axis takes no run-time index")
        self._only_one_indirection()
        return self.with_view(shape, strides, indirection=Indirect("scalar", index, stride, dim, size - 1))

    def vector_select(self, dim: int, vector_offset: Tensor) -> Tensor:
        """Rows of axis 0 chosen by an index tensor (P, 1); HBM only. The axis gets P rows."""
        if dim != 0 or self.on_chip:
            raise MachineError("view.vector_select", f"axis {dim} of {self!r}: only axis 0 of an HBM tensor")
        self._only_one_indirection()
        rows = vector_offset.shape[0]
        indirection = Indirect("vector", vector_offset, self.strides[0], 0, self.shape[0] - 1)
        return self.with_view((rows, *self.shape[1:]), self.strides, indirection=indirection)

    def permute(self, dims: Sequence[int]) -> Tensor:
        """Reorder the axes; on chip, and after vector_select, axis 0 stays first."""
        dims = [self._axis(d) for d in dims]
        if sorted(dims) != list(range(self.ndim)):
            raise MachineError("view.permute", f"{list(dims)} is no permutation of {self.ndim} axes")
        if dims[0] != 0 and (self.on_chip or self._vector_indirect()):
            raise MachineError("view.permute", f"axis 0 of {self!r} must stay first, got {list(dims)}")
        return self.with_view([self.shape[d] for d in dims], [self.strides[d] for d in dims])

    def broadcast(self, dim: int, size: int) -> Tensor:
        """Repeat an axis of size 1 `size` times (stride 0); not the partition axis."""
        dim = self._axis(dim)
        self._keep_indirect_axis(dim, "broadcast")
        if self.shape[dim] != 1 or (self.on_chip and dim == 0):
            raise MachineError("view.broadcast", f"axis {dim} of {self!r} must have size 1 and not be partitions")
        shape, strides = list(self.shape), list(self.strides)
        shape[dim], strides[dim] = size, 0
        return self.with_view(shape, strides)

    def expand_dim(self, dim: int) -> Tensor:
        """Insert an axis of size 1; not before the partition axis."""
        if not 0 <= dim <= self.ndim or ((self.on_chip or self._vector_indirect()) and dim == 0):
            raise MachineError("view.expand_dim", f"cannot insert axis {dim} into {self!r}")
        shape, strides = list(self.shape), list(self.strides)
        shape.insert(dim, 1)
        strides.insert(dim, strides[dim] * self.shape[dim] if dim < self.ndim else 1)
        return self.with_view(shape, strides)

    def squeeze_dim(self, dim: int) -> Tensor:
        """Remove an axis of size 1; not the partition axis."""
        dim = self._axis(dim)
        self._keep_indirect_axis(dim, "removed")
        if self.shape[dim] != 1 or (self.on_chip and dim == 0):
            raise MachineError("view.squeeze_dim", f"axis {dim} of {self!r} is no free axis of size 1")
        shape, strides = list(self.shape), list(self.strides)
        del shape[dim], strides[dim]
        return self.with_view(shape, strides)

    def reshape_dim(self, dim: int, shape: Sequence[int]) -> Tensor:
        """Split one axis; one entry may be -1. The partition axis splits only into itself."""
        dim = self._axis(dim)
        sizes = _infer(list(shape), self.shape[dim], f"reshape_dim({dim}) of {self!r}")
        if len(sizes) > 1:
            self._keep_indirect_axis(dim, "split")
        if self.on_chip and dim == 0 and sizes[0] != self.shape[0]:
            raise MachineError("view.reshape_dim", f"the partition axis of {self!r} cannot be split into {sizes}")
        steps = [self.strides[dim] * math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
        return self.with_view(
            (*self.shape[:dim], *sizes, *self.shape[dim + 1 :]),
            (*self.strides[:dim], *steps, *self.strides[dim + 1 :]),
        )

    def flatten_dims(self, start_dim: int, end_dim: int) -> Tensor:
        """Merge axes start_dim..end_dim (inclusive); they must lie in one run of memory."""
        first, last = self._axis(start_dim), self._axis(end_dim)
        if last > first:
            for dim in range(first, last + 1):
                self._keep_indirect_axis(dim, "merged")
        if self.on_chip and first == 0 and last > 0:
            raise MachineError("view.flatten_dims", f"the partition axis of {self!r} cannot be merged")
        merged = _merge(self.shape[first : last + 1], self.strides[first : last + 1])
        if len(merged) != 1:
            raise MachineError(
                "view.flatten_dims", f"axes {first}..{last} of {self!r} with strides {self.strides} have holes"
            )
        ((stride, size),) = merged
        return self.with_view(
            (*self.shape[:first], size, *self.shape[last + 1 :]),
            (*self.strides[:first], stride, *self.strides[last + 1 :]),
        )

    def reshape(self, new_shape: Any = None, shape: Any = None) -> Tensor:
        """Same elements in another shape, without copying; on chip axis 0 keeps its size.

        Fails where strides cannot express it: copy the tensor first.
        """
        wanted = list(new_shape if new_shape is not None else shape)
        wanted = _infer(wanted, self.size, f"reshape of {self!r}")
        if self.indirection is not None and self.indirection.kind == "free":
            raise MachineError("view.reshape", f"{self!r} is indirect and cannot be reshaped")
        if self.on_chip or self._vector_indirect():
            if wanted[0] != self.shape[0]:
                raise MachineError(
                    "view.reshape", f"Partition dim size must be preserved, got {self.shape[0]} -> {wanted[0]}"
                )
            free = _restride(self.shape[1:], self.strides[1:], wanted[1:], self)
            return self.with_view(wanted, (self.strides[0], *free))
        return self.with_view(wanted, _restride(self.shape, self.strides, wanted, self))

    def rearrange(self, src_pattern: Any, dst_pattern: Any, fixed_sizes: dict[str, int] | None = None) -> Tensor:
        """Split, reorder and merge axes by names, e.g. (('b', ('h', 'w')), ('b', 'w', 'h'), {'h': 4})."""
        view, names = self._split_by_names(src_pattern, dict(fixed_sizes or {}))
        groups = [g if isinstance(g, (tuple, list)) else (g,) for g in dst_pattern]
        order = [name for group in groups for name in group]
        if sorted(order) != sorted(names):
            raise MachineError("view.rearrange", f"{src_pattern} and {dst_pattern} name different axes")
        view = view.permute([names.index(name) for name in order])
        for position, group in enumerate(groups):
            if len(group) > 1:
                view = view.flatten_dims(position, position + len(group) - 1)
        return view

    def _split_by_names(self, pattern: Any, sizes: dict[str, int]) -> tuple[Tensor, list[str]]:
        if len(pattern) != self.ndim:
            raise MachineError("view.rearrange", f"{pattern} names {len(pattern)} axes of {self!r}")
        view, names = self, list[str]()
        for group in pattern:
            members = list(group) if isinstance(group, (tuple, list)) else [group]
            if len(members) > 1:
                view = view.reshape_dim(len(names), [sizes.get(name, -1) for name in members])
            names += members
        return view, names

    def view(self, dtype: Any) -> Tensor:
        """The same bits as another dtype; the last axis must be contiguous and hold whole elements."""
        target = dtype_of(dtype)
        new = format_of(target)
        old_size, new_size = self.itemsize, new.storage.itemsize
        if old_size == new_size:
            return self.with_view(self.shape, self.strides, dtype=target, fmt=new)
        if self.strides[-1] != 1 and self.shape[-1] != 1:
            raise MachineError("view.dtype", f"the last axis of {self!r} must be contiguous to view it as {target}")

        def scaled(value: int) -> int:
            if value * old_size % new_size:
                raise MachineError(
                    "view.dtype", f"{self!r} at offset {self.offset} has no whole {target} elements"
                )
            return value * old_size // new_size

        self._check_whole_rows(target, new_size)

        shape = (*self.shape[:-1], scaled(self.shape[-1]))
        strides = (*(scaled(s) if n > 1 else s for s, n in zip(self.strides[:-1], self.shape[:-1], strict=True)), 1)
        if self.on_chip and self.shape[0] == 1:
            strides = (self.storage.row_bytes // new_size, *strides[1:])
        moved = None
        if self.indirection is not None:
            ind = self.indirection
            if ind.kind == "free":
                raise MachineError("view.dtype", f"{self!r} is indirect; view the tensor first, then index it")
            moved = Indirect(ind.kind, ind.index, scaled(ind.step), ind.dim, ind.limit)
        return self.with_view(shape, strides, scaled(self.offset), target, moved, new)

    reinterpret_cast = view

    def indirect(self, index: Tensor, num_elem: int | None = None) -> Tensor:
        """gen4: element i of every partition uses free offset index[i mod G, i div G] of its group of G partitions
        (G = 32 for the tensor engine, else 16). Shape (P, num_elem), by default all of the index."""
        self._only_one_indirection()
        count = index.size // index.shape[0] * 16 if num_elem is None else num_elem
        return self.with_view(
            (self.shape[0], count), (self.strides[0], 1), indirection=Indirect("free", index, 1, 1)
        )

    def ap(
        self,
        pattern: Any,
        offset: int | None = None,
        scalar_offset: Any = None,
        vector_offset: Any = None,
        indirect_dim: int = 0,
        dtype: Any = None,
    ) -> Tensor:
        """A raw access pattern over the storage: [[stride, count], ...] in elements of `dtype` (or the view's).

        `offset` is added to the view's own offset. `scalar_offset` (register or one-element tensor) adds its value
        times the stride of `indirect_dim` of this tensor; `vector_offset` (P, 1) replaces the leading axis' step:
        row w starts at index[w] times the stride of axis 0. On chip the leading stride must be the elements per
        partition (any value where its count is 1).
        """
        target = self.dtype if dtype is None else dtype_of(dtype)
        fmt = self.fmt if dtype is None else format_of(target)
        if scalar_offset is not None and vector_offset is not None:
            raise MachineError("ap.offsets", "scalar_offset and vector_offset exclude each other")
        strides = tuple(int(pair[0]) for pair in pattern)
        counts = tuple(int(pair[1]) for pair in pattern)
        base = self.offset * self.itemsize
        if base % fmt.storage.itemsize:
            raise MachineError("ap.offset", f"offset {self.offset} of {self!r} is no whole {target} element")
        self._check_whole_rows(target, fmt.storage.itemsize)
        if offset is not None and self.offset != 0:
            warnings.warn(
                f".ap(offset={offset}) of {self!r}, which itself starts at element {self.offset}: the two are added",
                MachineWarning,
                stacklevel=2,
            )
        start = base // fmt.storage.itemsize + (0 if offset is None else int(offset))
        indirection = self._indirection(scalar_offset, vector_offset, indirect_dim, fmt)
        result = self.with_view(counts, strides, start, target, indirection, fmt)
        if indirection is None and self.indirection is not None:
            result.indirection = None
        result._check_pattern(pattern)
        return result

    def _indirection(self, scalar: Any, vector: Any, dim: int, fmt: Format) -> Indirect | None:
        if scalar is None and vector is None:
            return None
        if vector is not None and (dim != 0 or self.on_chip):
            raise MachineError("ap.vector_offset", "vector_offset works on axis 0 of an HBM tensor only")
        size = self.strides[dim] * self.itemsize
        if size % fmt.storage.itemsize:
            raise MachineError("ap.dtype", f"axis {dim} of {self!r} steps by no whole {fmt.name} elements")
        step = size // fmt.storage.itemsize
        return Indirect("scalar", scalar, step, dim) if vector is None else Indirect("vector", vector, step)

    def _check_pattern(self, pattern: Any) -> None:
        free = self.free_elements
        if any(count < 1 for count in self.shape) or not self.shape or (self.on_chip and self.ndim < 2):
            raise MachineError(
                "ap.pattern", f"pattern {pattern} needs counts >= 1" + (" and two axes" if self.on_chip else "")
            )
        if self.on_chip and any(stride < 0 for stride in self.strides):
            raise MachineError("ap.pattern", f"pattern {pattern}: strides on chip are >= 0")
        if self.on_chip and self.shape[0] > 1 and self.strides[0] != free:
            raise MachineError(
                "ap.partition",
                f"ap() pattern has invalid partition stride. Partition step {self.strides[0]} must equal tensor free "
                f"dimension size {free}. Pattern: {pattern}",
            )
        if self.on_chip and self.shape[0] == 1:
            self.strides = (free, *self.strides[1:])
        if self.indirection is None:
            self.check_bounds()

    def in_bounds(self) -> bool:
        """Whether every address of the static pattern lies in the storage, on chip in its own partition."""
        low, high = self.extent()
        limit = self.storage.parts * self.free_elements
        column_end = self.offset % self.free_elements + (high - low - self._partition_span())
        return low >= 0 and high < limit and not (self.on_chip and column_end >= self.free_elements)

    def check_bounds(self) -> None:
        """Raise OutOfBounds unless `in_bounds`."""
        if self.in_bounds():
            return
        low, high = self.extent()
        limit = self.storage.parts * self.free_elements
        raise OutOfBounds(
            "bounds",
            f"Out-of-bound access for tensor `{self.name or 'unnamed'}`: element addresses [{low}, {high}] of "
            f"pattern {self.get_pattern()} at offset {self.offset} exceed its {limit} elements"
            + (f" ({free_text(self)})" if self.on_chip else ""),
        )

    def _partition_span(self) -> int:
        return (self.shape[0] - 1) * self.strides[0] if self.on_chip else 0

    def extent(self) -> tuple[int, int]:
        """Lowest and highest element address of the static pattern."""
        reach = [stride * (count - 1) for stride, count in zip(self.strides, self.shape, strict=True)]
        return self.offset + sum(min(r, 0) for r in reach), self.offset + sum(max(r, 0) for r in reach)

    def shifted(self, elements: int) -> Tensor:
        """The same pattern moved by `elements`, static."""
        return Tensor(self.storage, self.dtype, self.shape, self.strides, self.offset + elements, self.fmt)

    def _axis(self, dim: int) -> int:
        if not -self.ndim <= dim < self.ndim:
            raise OutOfBounds("view.axis", f"{self!r} has no axis {dim}")
        return dim % self.ndim

    def _check_whole_rows(self, target: DType, itemsize: int) -> None:
        if self.storage.row_bytes % itemsize:
            what = "partition" if self.on_chip else "tensor"
            raise MachineError(
                "view.dtype", f"a {what} of {self!r} has {self.storage.row_bytes} bytes, no whole {target} elements"
            )

    def _keep_indirect_axis(self, dim: int, what: str) -> None:
        """The axis of a vector or free index takes no view operation that would change it."""
        indirect = self.indirection
        if indirect is not None and indirect.kind != "scalar" and indirect.dim == dim:
            raise MachineError("view.indirect", f"axis {dim} of {self!r} is indirect and cannot be {what}")

    def _vector_indirect(self) -> bool:
        return self.indirection is not None and self.indirection.kind == "vector"

    def _only_one_indirection(self) -> None:
        if self.indirection is not None:
            raise MachineError("view.indirect", f"{self!r} is indirect already; one run-time index per view")


def free_text(tensor: Tensor) -> str:
    """How many partitions and elements per partition the storage has."""
    return f"{tensor.storage.parts} partitions x {tensor.free_elements} elements"


def _may_overlap(shape: Sequence[int], strides: Sequence[int]) -> bool:
    reach = 0
    for stride, count in sorted((abs(stride), count) for stride, count in zip(strides, shape, strict=True)):
        if count > 1:
            if stride <= reach:
                return True
            reach += stride * (count - 1)
    return False


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense tensor, in elements."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)


def _expand_key(key: Any, tensor: Tensor) -> list[Any]:
    keys = list(key) if isinstance(key, tuple) else [key]
    gaps = [i for i, item in enumerate(keys) if item is Ellipsis]
    if len(gaps) > 1 or len(keys) - len(gaps) > tensor.ndim:
        raise OutOfBounds("index.rank", f"{len(keys)} indices for {tensor!r}")
    if gaps:
        keys[gaps[0] : gaps[0] + 1] = [slice(None)] * (tensor.ndim - len(keys) + 1)
    return keys + [slice(None)] * (tensor.ndim - len(keys))


def _resolve(item: Any, size: int, dim: int, tensor: Tensor) -> tuple[VirtualRegister | None, int, int, int, bool]:
    """(register, start, count, step, drop the axis) of one index."""
    if isinstance(item, VirtualRegister):
        return item, 0, 1, 1, True
    if isinstance(item, Slice):
        if isinstance(item.start, VirtualRegister):
            return item.start, 0, item.size, 1, False
        item = slice(item.start, item.start + item.size)
    if isinstance(item, slice):
        return (None, *_slice_bounds(item, size, dim, tensor), False)
    if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
        index = int(item)
        if not -size <= index < size:
            raise OutOfBounds("bounds", _out_of_bounds(tensor, dim, index, size))
        return None, index % size, 1, 1, True
    raise MachineError(
        "index.type", f"axis {dim} of {tensor!r} indexed with {type(item).__name__}",
        remedy="use int, slice, nl.ds, ..., a register or an index tensor",
    )


def _slice_bounds(item: slice, size: int, dim: int, tensor: Tensor) -> tuple[int, int, int]:
    step = 1 if item.step is None else int(item.step)
    start = 0 if item.start is None else int(item.start)
    stop = size if item.stop is None else int(item.stop)
    start, stop = (start + size if start < 0 else start), (stop + size if stop < 0 else stop)
    if step < 1 or not 0 <= start < stop or stop > size:
        raise OutOfBounds(
            "bounds",
            f"Out-of-bound access for tensor `{tensor.name or 'unnamed'}` on dimension {dim}: index range "
            f"[{start}, {stop - 1}] with step {step} exceed dimension size of {size}",
            remedy="slices are not clamped and may not be empty",
        )
    return start, -(-(stop - start) // step), step


def _out_of_bounds(tensor: Tensor, dim: int, index: int, size: int) -> str:
    return (
        f"Out-of-bound access for tensor `{tensor.name or 'unnamed'}` on dimension {dim}: index {index} exceed "
        f"dimension size of {size}"
    )


def _infer(shape: list[int], size: int, what: str) -> list[int]:
    sizes = [int(n) for n in shape]
    if sizes.count(-1) == 1:
        known = math.prod(n for n in sizes if n != -1)
        sizes[sizes.index(-1)] = size // known if known else 0
    if math.prod(sizes) != size or any(n < 1 for n in sizes):
        raise MachineError("view.reshape", f"{what} into {shape}: {size} elements do not fit")
    return sizes


def _merge(shape: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of axes that are one run of memory, as (stride, size), unit axes dropped."""
    runs: list[tuple[int, int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][0] == stride * size:
            runs[-1] = (stride, runs[-1][1] * size)
        else:
            runs.append((stride, size))
    return runs or [(1, 1)]


def _restride(shape: Sequence[int], strides: Sequence[int], wanted: Sequence[int], tensor: Tensor) -> list[int]:
    runs = _merge(shape, strides)
    result = [1] * len(wanted)
    axis = len(wanted) - 1
    for stride, size in reversed(runs):
        left = size
        while left > 1 or (axis >= 0 and wanted[axis] == 1):
            if axis < 0 or left % wanted[axis]:
                raise MachineError(
                    "view.reshape",
                    f"reshape of {tensor!r} with strides {tensor.strides} into {tuple(wanted)} needs a copy",
                    remedy="copy into a dense tile first",
                )
            result[axis] = stride
            stride *= wanted[axis]
            left //= wanted[axis]
            axis -= 1
    return result
