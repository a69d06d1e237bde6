"""One launch of a kernel on one or two simulated cores."""

from __future__ import annotations

import math
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import cast, to_float32
from reference.numerics.formats import Format, format_of

from .bytemask import Taken
from .core import Core, fill_sentinel
from .errors import MachineError, MachineWarning, RaceError
from .generation import Generation, current_generation
from .memory import Memory, Storage
from .options import Options, active_options
from .race import RaceDetector
from .region import MemoryRegion
from .scheduler import Scheduler
from .tensor import DType, Tensor, dtype_of, row_major
from .trace import Instruction, Trace

_state = threading.local()


def current_core() -> Core:
    """The core whose program is running in this thread."""
    core: Core | None = getattr(_state, "core", None)
    if core is None:
        raise MachineError(
            "launch.none",
            "an NKI call outside a kernel launch",
            remedy="call it inside a function launched by kernel(...), kernel[lnc](...) or nki.simulate(kernel)(...)",
        )
    return core


def is_active() -> bool:
    """Whether a launch is running in this thread."""
    return getattr(_state, "core", None) is not None


@dataclass
class Result:
    """What a launch returned (arrays in the caller's family) and what it did."""

    outputs: Any
    trace: Trace


class Launch:
    """State shared by the cores of one launch."""

    def __init__(self, cores: int, options: Options, grid: bool = False) -> None:
        self.options = options
        #: Whether the caller wrote kernel[n]: program_ndim() is 1 then, else 0.
        self.grid = grid
        self.generation: Generation = current_generation()
        self.trace = Trace(cores, options.trace, options.taps)
        self.scheduler = Scheduler(options.quantum, options.seed)
        self.races = RaceDetector() if cores > 1 and options.races != "off" else None
        self.inputs: dict[int, tuple[str, Any]] = {}  # id(storage) -> (argument name, caller's array)
        self.copies: list[tuple[NDArray[Any], Tensor]] = []
        self._inputs_alive: list[Storage] = []
        self._shared: dict[Any, tuple[Storage, tuple[int, ...], str]] = {}
        self._shared_count = [0] * cores
        self._barrier_data: dict[tuple[int, ...], tuple[Storage, str]] = {}
        self.cores = [Core(self, i) for i in range(cores)]

    # ---- HBM --------------------------------------------------------------------------------------------------

    def hbm(
        self, core: Core, shape: tuple[int, ...], fmt: Format, region: MemoryRegion, name: str, origin: str
    ) -> Storage:
        """HBM bytes. A shared tensor is one storage: both cores execute the same allocation and meet in it, matched
        by name, else by the running number of unnamed shared allocations."""
        if region is not MemoryRegion.shared_hbm or len(self.cores) == 1:
            return _fresh_hbm(shape, fmt, region, name, origin, self.options.checks != "error")
        key: Any = name
        if not name:
            key = self._shared_count[core.index]
            self._shared_count[core.index] += 1
        known = self._shared.get((key, core.index))
        if known is None:
            known = (
                _fresh_hbm(shape, fmt, region, name, origin, self.options.checks != "error"), shape, fmt.name
            )
            for other in self.cores:
                if other is not core:
                    self._shared[key, other.index] = known
            return known[0]
        del self._shared[key, core.index]
        if known[1:] != (shape, fmt.name):
            raise MachineError(
                "hbm.shared",
                f"shared_hbm tensor '{name}' is {known[1]} {known[2]} on one core and {shape} {fmt.name} on the other",
                remedy="both cores must declare the same shared tensors in the same order",
            )
        return known[0]

    def constant(self, array: NDArray[Any], dtype: DType | None) -> Tensor:
        """An HBM tensor that holds a compile-time array."""
        kind = _dtype_of_array("constant", array) if dtype is None else dtype
        fmt = self.cores[0].effective_format(kind)
        stored = np.atleast_1d(np.ascontiguousarray(array))
        if stored.dtype != fmt.storage:
            stored = cast(stored, fmt)
        data = np.array(stored).reshape(-1).view(np.uint8)
        memory = Memory.linear(MemoryRegion.private_hbm, data)
        storage = Storage(memory, 0, 1, 0, data.size, "", origin="shared_constant", is_input=True)
        return Tensor(storage, kind, stored.shape, row_major(stored.shape), 0, fmt)

    def note_shared(self, tensor: Tensor, instruction: Instruction, writes: bool, taken: Taken = None) -> None:
        """Race bookkeeping of one access to shared HBM."""
        assert self.races is not None
        try:
            self.races.access(tensor, instruction, writes, taken)
        except RaceError as race:
            if self.options.races == "error":
                raise
            warnings.warn(str(race), MachineWarning, stacklevel=3)

    # ---- the other core ----------------------------------------------------------------------------------------

    def barrier(self, core: Core, members: tuple[int, ...], data: Tensor) -> None:
        """Wait for `members`; the accesses before it cannot race with those after it."""
        where = str(core.instruction)
        self._check_barrier_data(core, members, data, where)
        if self.scheduler.barrier(core.index, members, where):
            self._barrier_data.pop(members, None)
            if self.races is not None and len(members) == len(self.cores):
                self.races.barrier()

    def _check_barrier_data(self, core: Core, members: tuple[int, ...], data: Tensor, where: str) -> None:
        """Cores that meet at one barrier must mean the same one: the same shared tensor."""
        if data.buffer is not MemoryRegion.shared_hbm:
            return
        first = self._barrier_data.setdefault(members, (data.storage, where))
        if first[0] is not data.storage:
            core.violate(
                MachineError(
                    "barrier.unequal",
                    f"meets {first[1]} at a barrier for {first[0].label()}, its own is for {data.storage.label()}",
                    operand="data", remedy="both cores must pass the same barriers in the same order",
                )
            )

    def exchange(self, core: Core, to: int, source: int, pipe: Any, payload: NDArray[Any]) -> NDArray[Any]:
        """Send to one core and receive from one."""
        received: NDArray[Any] = self.scheduler.exchange(
            core.index, to, source, pipe, payload, str(core.instruction)
        )
        return received

    def input_written(self, storage: Storage, instruction: Instruction) -> None:
        """Refuse a write to an argument that was not declared in-place."""
        allowed = self.options.in_place
        name = self.inputs[id(storage)][0] if id(storage) in self.inputs else storage.name
        if allowed is not None and name not in allowed:
            raise MachineError(
                "hbm.input", f"writes to the input '{name}', which is not declared in-place",
                remedy="write to an output tensor, or declare the argument in-place",
            )

    # ---- arguments and results --------------------------------------------------------------------------------

    def wrap(self, name: str, value: Any) -> Any:
        """Arrays become HBM tensors that share the caller's memory; containers are searched; the rest passes."""
        if isinstance(value, Tensor):
            return value
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return tuple(self.wrap(f"{name}[{i}]", item) for i, item in enumerate(value))
        if isinstance(value, list):
            return [self.wrap(f"{name}[{i}]", item) for i, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: self.wrap(f"{name}[{key!r}]", item) for key, item in value.items()}
        array = as_array(value)
        return value if array is None else self._wrap_array(name, value, array)

    def _wrap_array(self, name: str, original: Any, array: NDArray[Any]) -> Tensor:
        region = MemoryRegion.private_hbm if len(self.cores) == 1 else MemoryRegion.shared_hbm
        dtype = _dtype_of_array(f"argument '{name}'", array, _torch_name(original))
        fmt = self.cores[0].effective_format(dtype)
        stored = np.ascontiguousarray(array)
        if fmt.storage != stored.dtype:
            stored = _restored(stored, format_of(dtype), fmt)
        stored = np.atleast_1d(stored)
        data = stored.reshape(-1).view(np.uint8)
        storage = Storage(
            Memory.linear(region, data), 0, 1, 0, data.size, name, origin=f"argument {name}", is_input=True
        )
        tensor = Tensor(storage, dtype, stored.shape, row_major(stored.shape), 0, fmt)
        self.inputs[id(storage)] = (name, original)
        if not np.shares_memory(stored, array):
            self.copies.append((array, tensor))
        self._inputs_alive.append(storage)
        return tensor

    def copy_back(self) -> None:
        """Write in-place updates back to arguments that could not share memory."""
        for array, tensor in self.copies:
            if not array.flags.writeable:
                continue
            values = tensor.array()
            if values.dtype != array.dtype:
                values = cast(values, format_of(array.dtype))
            array[...] = values.reshape(array.shape)

    def unwrap(self, value: Any, like: Any = None) -> Any:
        """Returned tensors become arrays; structure is kept; a returned input is the caller's own array."""
        if isinstance(value, Tensor):
            return self._unwrap_tensor(value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self.unwrap(item) for item in value))
        if isinstance(value, (tuple, list)):
            return type(value)(self.unwrap(item) for item in value)
        if isinstance(value, dict):
            return {key: self.unwrap(item) for key, item in value.items()}
        return value

    def _unwrap_tensor(self, tensor: Tensor) -> Any:
        source = self.inputs.get(id(tensor.storage))
        if source is not None and tensor.covers_storage and tensor.shape == np.shape(source[1]):
            return source[1]
        if self.options.checks != "off" and not tensor.storage.written.all(tensor):
            missing = np.argwhere(~tensor.storage.written.elements(tensor))
            error = MachineError(
                "output.unwritten",
                f"{len(missing)} of {tensor.size} elements of the returned {tensor!r} were never written, first at "
                f"{missing[0].tolist()} (allocated at {tensor.storage.origin})",
                remedy="write every element of an output",
            )
            if self.options.checks == "error":
                raise error
            warnings.warn(str(error), MachineWarning, stacklevel=3)
        values = np.array(tensor.array())
        if tensor.fmt.name != tensor.dtype and format_of(tensor.dtype).storage != values.dtype:
            values = cast(values, format_of(tensor.dtype))
        return values

    # ---- running ----------------------------------------------------------------------------------------------

    def run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Execute the kernel on every core and return core 0's value, unwrapped."""

        def body(core: Core) -> Callable[[], Any]:
            def execute() -> Any:
                with np.errstate(all="ignore"):
                    return function(*args, **kwargs)

            return execute

        def enter(index: int) -> None:
            _state.core = self.cores[index]

        try:
            results = self.scheduler.run([body(core) for core in self.cores], enter)
            self.scheduler.check_idle()
        except MachineError as error:
            core: Core = getattr(_state, "core", None) or self.cores[0]
            raise self._explained(core.enrich(error)) from error.__cause__
        finally:
            _state.core = None
            self._close()
        outputs = self.unwrap(results[0])
        self.copy_back()
        return outputs

    def _explained(self, error: MachineError) -> MachineError:
        if self.options.seed is not None and isinstance(error, MachineError):
            error.message += f" (interleaving seed {self.options.seed})"
        return error

    def _close(self) -> None:
        for core in self.cores:
            core.counters.sbuf_high_water = core.sbuf.high_water
            core.counters.psum_high_water = core.psum.high_water


def _dtype_of_array(what: str, array: NDArray[Any], name: str | None = None) -> DType:
    """The NKI dtype of a host array; int64, float64 and others have none."""
    try:
        return dtype_of(array.dtype if name is None else name)
    except ValueError as error:
        raise MachineError(
            "argument.dtype", f"{what}: {error}", remedy="convert it to an NKI dtype before the launch"
        ) from None


def _fresh_hbm(
    shape: tuple[int, ...], fmt: Format, region: MemoryRegion, name: str, origin: str, sentinel: bool
) -> Storage:
    data = np.empty(math.prod(shape) * fmt.storage.itemsize, np.uint8)
    storage = Storage(Memory.linear(region, data), 0, 1, 0, data.size, name, origin)
    if sentinel:
        fill_sentinel(Tensor(storage, dtype_of(fmt.name), shape, row_major(shape), 0, fmt))
    return storage


def as_array(value: Any) -> NDArray[Any] | None:
    """The NumPy array behind an argument (NumPy or torch), or None."""
    if isinstance(value, np.ndarray):
        return value
    if _torch_name(value) is not None:
        from .torch_bridge import to_numpy

        return to_numpy(value)
    return None


def _torch_name(value: Any) -> str | None:
    module = type(value).__module__
    if module.split(".")[0] != "torch" or not hasattr(value, "dtype") or not hasattr(value, "untyped_storage"):
        return None
    return str(value.dtype).removeprefix("torch.")


def _restored(array: NDArray[Any], source: Format, target: Format) -> NDArray[Any]:
    """An argument in the storage dtype of its tensor: bits where sizes agree, else its fp32 value."""
    if array.dtype.itemsize == target.storage.itemsize and target.name == source.name:
        return array.view(target.storage)
    return to_float32(array, source)


def launch(
    function: Callable[..., Any],
    cores: int,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    names: tuple[str, ...] = (),
    options: Options | None = None,
    grid: bool = False,
) -> Result:
    """Run `function` on `cores` simulated cores. `names` are the parameter names of `args`, for messages."""
    machine = Launch(cores, options or active_options(), grid)
    labels = [*names, *(f"argument {i}" for i in range(len(names), len(args)))]
    wrapped = tuple(machine.wrap(label, value) for label, value in zip(labels, args, strict=False))
    outputs = machine.run(function, wrapped, {name: machine.wrap(name, value) for name, value in kwargs.items()})
    return Result(outputs, machine.trace)


__all__ = ["Launch", "Result", "as_array", "current_core", "is_active", "launch", "weakref"]
