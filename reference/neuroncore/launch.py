"""One launch of a kernel: on one or two cores, and, for collectives, on several ranks at once."""

from __future__ import annotations

import math
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import cast
from reference.numerics.formats import Format

from .arguments import Arguments, dtype_of_array
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
            remedy="call it inside a function launched by kernel(...), kernel[n](...) or nki.simulate(kernel)",
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


@dataclass
class Call:
    """The arguments of one rank."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    #: Parameter names of `args`, for messages and in-place declarations.
    names: tuple[str, ...] = ()


class Launch:
    """State shared by the cores of one rank."""

    def __init__(
        self, cores: int, options: Options, grid: bool = False, rank: int = 0, ranks: int = 1
    ) -> None:
        self.options = options
        #: Whether the caller wrote kernel[n]: program_ndim() is 1 then, else 0.
        self.grid = grid
        self.rank = rank
        self.ranks = ranks
        self.generation: Generation = current_generation()
        if cores > 1 and self.generation.level < 3:
            raise MachineError(
                "generation",
                f"kernel[{cores}]: logical cores of two need NeuronCore-v3 or newer, the target is "
                f"{self.generation.chip}",
                remedy="launch with kernel[1], or set NEURON_PLATFORM_TARGET_OVERRIDE",
            )
        self.trace = Trace(cores, options.trace, options.taps)
        self.scheduler = _scheduler(1, cores, options)
        self.races = RaceDetector() if cores > 1 and options.races != "off" else None
        self._shared: dict[Any, tuple[Storage, tuple[int, ...], str]] = {}
        self._shared_counts: Counter[tuple[int, str]] = Counter()
        self.cores = [Core(self, i) for i in range(cores)]
        self.arguments = Arguments(self)

    # ---- HBM ----

    def hbm(
        self, core: Core, shape: tuple[int, ...], fmt: Format, region: MemoryRegion, name: str, origin: str
    ) -> Storage:
        """HBM bytes. A shared tensor is one storage: both cores execute the same allocation and meet in it,
        matched by name and, among equal (or no) names, by number."""
        if region is not MemoryRegion.shared_hbm or len(self.cores) == 1:
            return self._fresh_hbm(shape, fmt, region, name, origin)
        number = self._shared_counts[core.index, name]
        self._shared_counts[core.index, name] += 1
        known = self._shared.pop((name, number, core.index), None)
        if known is None:
            known = (self._fresh_hbm(shape, fmt, region, name, origin), shape, fmt.name)
            self._shared[name, number, 1 - core.index] = known
        elif known[1:] != (shape, fmt.name):
            raise MachineError(
                "hbm.shared",
                f"shared_hbm tensor '{name}' is {known[1]} {known[2]} on one core and {shape} {fmt.name} on the "
                "other",
                remedy="both cores must declare the same shared tensors in the same order",
            )
        return known[0]

    def _fresh_hbm(
        self, shape: tuple[int, ...], fmt: Format, region: MemoryRegion, name: str, origin: str
    ) -> Storage:
        data = np.empty(math.prod(shape) * fmt.storage.itemsize, np.uint8)
        storage = Storage(Memory.linear(region, data), 0, 1, 0, data.size, name, origin)
        if self.options.checks != "error":
            fill_sentinel(Tensor(storage, dtype_of(fmt.name), shape, row_major(shape), 0, fmt))
        return storage

    def constant(self, array: NDArray[Any], dtype: DType | None) -> Tensor:
        """An HBM tensor that holds a compile-time array."""
        kind = dtype_of_array("constant", array) if dtype is None else dtype
        fmt = self.cores[0].effective_format(kind)
        stored = np.atleast_1d(np.ascontiguousarray(array))
        if stored.dtype != fmt.storage:
            stored = cast(stored, fmt)
        data = np.array(stored).reshape(-1).view(np.uint8)
        memory = Memory.linear(MemoryRegion.private_hbm, data)
        storage = Storage(memory, 0, 1, 0, data.size, "", origin="shared_constant", is_input=True)
        return Tensor(storage, kind, stored.shape, row_major(stored.shape), 0, fmt)

    def note_shared(
        self, tensor: Tensor, instruction: Instruction, writes: bool, taken: Taken = None
    ) -> None:
        """Race bookkeeping of one access to shared HBM."""
        assert self.races is not None
        try:
            self.races.access(tensor, instruction, writes, taken)
        except RaceError as race:
            if self.options.races == "error":
                raise
            warnings.warn(str(race), MachineWarning, stacklevel=3)

    def before_input_write(self, storage: Storage) -> None:
        """Refuse a write to an argument that was not declared in-place."""
        self.arguments.check_writable(storage)

    # ---- the other cores ----

    def worker(self, core_index: int, rank: int | None = None) -> int:
        """The scheduler's id of a core of this rank, or of another."""
        return (self.rank if rank is None else rank) * len(self.cores) + core_index

    def barrier(self, core: Core, members: tuple[int, ...], data: Tensor) -> None:
        """Wait for `members`; the accesses before it cannot race with those after it."""
        where = str(core.instruction)

        def complete() -> None:
            if self.races is not None and len(members) == len(self.cores):
                self.races.barrier()

        workers = tuple(self.worker(index) for index in members)
        table = self.scheduler.meet(self.worker(core.index), workers, (where, data), where, complete)
        _check_same_barrier(core, list(table.values()))

    def exchange(self, core: Core, to: int, source: int, pipe: Any, payload: NDArray[Any]) -> NDArray[Any]:
        """Send to one core and receive from one."""
        me, there, other = (self.worker(index) for index in (core.index, to, source))
        received: NDArray[Any] = self.scheduler.exchange(
            me, there, other, pipe, payload, str(core.instruction)
        )
        return received

    def gather(self, core: Core, ranks: Sequence[int], payload: Any) -> list[Any]:
        """What the same core of every rank in `ranks` brings to this collective, in that order."""
        workers = tuple(self.worker(core.index, rank) for rank in ranks)
        where = str(core.instruction)
        table = self.scheduler.meet(self.worker(core.index), workers, payload, where)
        return [table[worker] for worker in workers]

    # ---- the end ----

    def finish(self, value: Any) -> Any:
        """Core 0's value as the caller's arrays, after the checks that end a launch."""
        for name, _, index in self._shared:
            self.violate_softly(
                f"core {index} never declared the shared_hbm tensor '{name}' that core {1 - index} declared"
            )
        for core in self.cores:
            core.counters.sbuf_high_water = core.sbuf.high_water
            core.counters.psum_high_water = core.psum.high_water
        return self.arguments.outputs(value)

    def violate_softly(self, text: str) -> None:
        """Warn, unless checks are off."""
        if self.options.checks != "off":
            warnings.warn(text, MachineWarning, stacklevel=2)


def _check_same_barrier(core: Core, arrivals: list[tuple[str, Tensor]]) -> None:
    """Cores that meet at one barrier must mean the same one: the same shared tensor."""
    if any(data.buffer is not MemoryRegion.shared_hbm for _, data in arrivals):
        return
    (first_where, first), *others = arrivals
    for where, data in others:
        if data.storage is not first.storage:
            core.violate(
                MachineError(
                    "barrier.unequal",
                    f"cores meet at different barriers: {first_where} for {first.storage.label()}, {where} for "
                    f"{data.storage.label()}",
                    operand="data",
                    remedy="both cores must pass the same barriers in the same order",
                )
            )


def _scheduler(ranks: int, cores: int, options: Options) -> Scheduler:
    labels = [
        f"core {core}" if ranks == 1 else f"rank {rank} core {core}"
        for rank in range(ranks)
        for core in range(cores)
    ]
    return Scheduler(options.quantum, options.seed, labels)


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
    return launch_ranks(function, cores, [Call(args, kwargs, names)], options, grid)[0]


def launch_ranks(
    function: Callable[..., Any],
    cores: int,
    calls: Sequence[Call],
    options: Options | None = None,
    grid: bool = False,
) -> list[Result]:
    """Run `function` on one rank per call, all at once; collectives meet across ranks. Results in rank
    order."""
    chosen = options or active_options()
    machines = [Launch(cores, chosen, grid, rank, len(calls)) for rank in range(len(calls))]
    scheduler = _scheduler(len(calls), cores, chosen)
    for machine in machines:
        machine.scheduler = scheduler
    wrapped = [
        (machine.arguments.wrap_all(call.args, call.names), machine.arguments.wrap_named(call.kwargs))
        for machine, call in zip(machines, calls, strict=True)
    ]
    values = _run(function, machines, wrapped, scheduler)
    results = [Result(machine.finish(values[machine.worker(0)]), machine.trace) for machine in machines]
    for machine in machines:
        for core in machine.cores:
            core.sbuf.release()
            core.psum.release()
    return results


def _run(
    function: Callable[..., Any],
    machines: Sequence[Launch],
    wrapped: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
    scheduler: Scheduler,
) -> list[Any]:
    """Execute the kernel on every core of every rank."""
    workers = [
        (core, call) for machine, call in zip(machines, wrapped, strict=True) for core in machine.cores
    ]

    def body(call: tuple[tuple[Any, ...], dict[str, Any]]) -> Callable[[], Any]:
        return lambda: function(*call[0], **call[1])

    def enter(index: int) -> None:
        _state.core = workers[index][0]

    try:
        with np.errstate(all="ignore"):
            values = scheduler.run([body(call) for _, call in workers], enter)
    except Exception as error:
        raise _explained(error, scheduler) from error.__cause__
    finally:
        _state.core = None
    return values


def _explained(error: Exception, scheduler: Scheduler) -> Exception:
    """The error with the place where it happened and the seed that leads there again."""
    core: Core | None = getattr(_state, "core", None)
    seed = "" if scheduler.seed is None else f" (interleaving seed {scheduler.seed})"
    if isinstance(error, MachineError):
        if core is not None:
            core.enrich(error)
        error.message += seed
    elif seed and error.args and isinstance(error.args[0], str):
        error.args = (error.args[0] + seed, *error.args[1:])
    return error


__all__ = ["Call", "Launch", "Result", "current_core", "is_active", "launch", "launch_ranks"]
