"""Arrays that enter and leave a launch.

Every array argument becomes an HBM tensor over the caller's own bytes, so that in-place updates show there;
where that cannot be (strided or converted arrays) they are copied back at the end. Sources: API fact sheet
1.3 and 1.6.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import cast, to_float32
from reference.numerics.formats import Format, format_of

from .errors import MachineError, MachineWarning
from .memory import Memory, Storage
from .region import MemoryRegion
from .tensor import DType, Tensor, dtype_of, row_major
from .torch_bridge import as_torch, is_torch, to_numpy, torch_dtype_name

if TYPE_CHECKING:
    from .launch import Launch

Array = NDArray[Any]


@dataclass
class _Input:
    """One array argument."""

    name: str
    original: Any
    #: The caller's array, or the NumPy view of the caller's torch tensor.
    array: Array
    tensor: Tensor
    shares: bool


class Arguments:
    """The arguments of one rank's launch, and what becomes of its outputs."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._region = MemoryRegion.private_hbm if len(launch.cores) == 1 else MemoryRegion.shared_hbm
        self._by_storage: dict[int, _Input] = {}
        self._by_object: dict[int, _Input] = {}

    # ---- in ----

    def wrap_all(self, args: tuple[Any, ...], names: tuple[str, ...]) -> tuple[Any, ...]:
        """Positional arguments, named for messages."""
        labels = [*names, *(f"argument {i}" for i in range(len(names), len(args)))]
        return tuple(self.wrap(label, value) for label, value in zip(labels, args, strict=False))

    def wrap_named(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments."""
        return {name: self.wrap(name, value) for name, value in kwargs.items()}

    def wrap(self, name: str, value: Any) -> Any:
        """Arrays become tensors; tuples, lists, dicts and NKI objects that hold arrays are searched; the rest
        passes as it is."""
        if isinstance(value, np.ndarray) or is_torch(value):
            return self._wrap_array(name, value)
        if isinstance(value, tuple):
            items = [self.wrap(f"{name}[{i}]", item) for i, item in enumerate(value)]
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        if isinstance(value, list):
            return [self.wrap(f"{name}[{i}]", item) for i, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: self.wrap(f"{name}[{key!r}]", item) for key, item in value.items()}
        if getattr(type(value), "_nki_object", False):
            return self._wrap_object(name, value)
        return value

    def _wrap_object(self, name: str, value: Any) -> Any:
        changed = {key: self.wrap(f"{name}.{key}", item) for key, item in vars(value).items()}
        if all(changed[key] is item for key, item in vars(value).items()):
            return value
        twin = copy.copy(value)
        for key, item in changed.items():
            object.__setattr__(twin, key, item)
        return twin

    def _wrap_array(self, name: str, original: Any) -> Tensor:
        known = self._by_object.get(id(original))
        if known is not None:
            # The same array twice is the same memory: both parameters see every write.
            return known.tensor
        array = to_numpy(original) if is_torch(original) else original
        dtype = dtype_of_array(f"argument '{name}'", array, torch_dtype_name(original))
        if array.size == 0:
            raise MachineError("argument.shape", f"argument '{name}' of shape {array.shape} is empty")
        fmt = self._launch.cores[0].effective_format(dtype)
        stored = np.atleast_1d(_stored(array, format_of(dtype), fmt))
        shares = np.shares_memory(stored, array)
        if shares and not array.flags.writeable:
            stored, shares = stored.copy(), False
        data = stored.reshape(-1).view(np.uint8)
        memory = Memory.linear(self._region, data)
        storage = Storage(memory, 0, 1, 0, data.size, name, origin=f"argument {name}", is_input=True)
        tensor = Tensor(storage, dtype, stored.shape, row_major(stored.shape), 0, fmt)
        entry = _Input(name, original, array, tensor, shares)
        self._by_storage[id(storage)] = self._by_object[id(original)] = entry
        return tensor

    def check_writable(self, storage: Storage) -> None:
        """Refuse a write to an input that was not declared in-place, or that the caller cannot have
        written."""
        entry = self._by_storage.get(id(storage))
        if entry is None:
            raise MachineError("hbm.constant", f"writes to the constant {storage.label()}")
        allowed = self._launch.options.in_place
        if allowed is not None and entry.name not in allowed:
            raise MachineError(
                "hbm.input",
                f"writes to the input '{entry.name}', which is not declared in-place",
                remedy="write to an output tensor, or declare the argument in-place",
            )
        if not entry.array.flags.writeable:
            raise MachineError(
                "hbm.input",
                f"writes to the input '{entry.name}', whose array is read-only",
                remedy="pass a writable copy",
            )

    # ---- out ----

    def outputs(self, value: Any) -> Any:
        """The kernel's return value with arrays for tensors, after in-place updates have reached the
        caller."""
        result = self._unwrap(value)
        for entry in self._by_storage.values():
            if not entry.shares and entry.array.flags.writeable:
                _copy_back(entry)
            self._launch.trace.left(entry.original, entry.tensor)
        return result

    def _unwrap(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._unwrap_tensor(value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self._unwrap(item) for item in value))
        if isinstance(value, (tuple, list)):
            return type(value)(self._unwrap(item) for item in value)
        if isinstance(value, dict):
            return {key: self._unwrap(item) for key, item in value.items()}
        return value

    def _unwrap_tensor(self, tensor: Tensor) -> Any:
        source = self._by_storage.get(id(tensor.storage))
        if source is not None and tensor.covers_storage and tensor.shape == source.tensor.shape:
            return source.original
        self._check_output(tensor)
        values = np.array(tensor.array())
        fmt = format_of(tensor.dtype)
        if fmt.storage != values.dtype:
            values = cast(values, fmt)
        self._launch.trace.left(values, tensor)
        return as_torch(values, tensor.dtype) if self._speaks_torch() else values

    def _speaks_torch(self) -> bool:
        return any(is_torch(entry.original) for entry in self._by_storage.values())

    def _check_output(self, tensor: Tensor) -> None:
        if tensor.on_chip:
            self._violate(
                "output.memory",
                f"returns {tensor!r}, which lives on chip",
                "copy it to an nl.shared_hbm tensor and return that",
            )
        if tensor.indirection is not None:
            raise MachineError("output.indirect", f"returns the indirect view {tensor!r}")
        written = tensor.storage.written
        if not written.all(tensor):
            missing = np.argwhere(~written.elements(tensor))
            self._violate(
                "output.unwritten",
                f"{len(missing)} of {tensor.size} elements of the returned {tensor!r} were never written, first at "
                f"{missing[0].tolist()} (allocated at {tensor.storage.origin})",
                "write every element of an output",
            )

    def _violate(self, rule: str, text: str, remedy: str) -> None:
        severity = self._launch.options.checks
        error = MachineError(rule, text, remedy=remedy)
        if severity == "error":
            raise error
        if severity == "warn":
            warnings.warn(str(error), MachineWarning, stacklevel=4)


def dtype_of_array(what: str, array: Array, name: str | None = None) -> DType:
    """The NKI dtype of a host array; int64, float64 and others have none."""
    try:
        return dtype_of(array.dtype if name is None else name)
    except ValueError as error:
        raise MachineError(
            "argument.dtype", f"{what}: {error}", remedy="convert it to an NKI dtype before the launch"
        ) from None


def _stored(array: Array, source: Format, target: Format) -> Array:
    """An array in the storage dtype of its tensor: its bits, or, where the tensor is kept in fp32, its
    value."""
    contiguous: Array = np.ascontiguousarray(array)
    if contiguous.dtype == target.storage:
        return contiguous
    if target.name == source.name:
        return contiguous.view(target.storage)
    return to_float32(contiguous, source)


def _copy_back(entry: _Input) -> None:
    values = entry.tensor.array()
    if values.dtype != entry.array.dtype:
        fmt = format_of(entry.tensor.dtype)
        values = (values != 0) if fmt.kind == "bool" else cast(values, fmt)
    entry.array[...] = values.reshape(entry.array.shape)
