"""What every instruction shares: its place in the kernel, its generation gate, operand rules, and its life cycle."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .core import Core
from .errors import MachineError
from .launch import current_core
from .tensor import Tensor

#: Free axes of an access pattern in the instruction set (architecture guides).
_MAX_FREE_AXES = 4

#: Frames of these packages belong to the machine, not to a kernel.
_OWN = ("reference.", "nki.", "nki_cpu_simulator")


class NkiInstruction:
    """Handle of an issued instruction (NKI 0.6). `depends_on` orders it after others: program order already does."""

    __slots__ = ()

    def depends_on(self, *producers: NkiInstruction) -> NkiInstruction:
        """Returns itself; the simulator executes in program order."""
        return self


_HANDLE = NkiInstruction()


def kernel_location() -> tuple[str, int]:
    """(file, line) of the innermost frame that is not the machine's own."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not (module == "nki" or module.startswith(_OWN)):
            return _short(frame.f_code.co_filename), frame.f_lineno
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "", 0


@functools.lru_cache(maxsize=256)
def _short(filename: str) -> str:
    relative = os.path.relpath(filename)
    return filename if relative.startswith("..") else relative


def instruction(
    engine: str, since: int = 2
) -> Callable[[Callable[..., str | None]], Callable[..., NkiInstruction]]:
    """Turn `op(core, *operands)` into an instruction of `engine`, available from NeuronCore-v`since`.

    The function may return the engine it really ran on (where the choice depends on operands). The instruction
    takes one keyword more than the function: `name`, a label.
    """

    def decorate(function: Callable[..., str | None]) -> Callable[..., NkiInstruction]:
        op = function.__name__

        @functools.wraps(function)
        def issue(*args: Any, **kwargs: Any) -> NkiInstruction:
            core = current_core()
            label = kwargs.pop("name", None) or ""
            core.begin(op, *kernel_location(), str(label))
            try:
                if core.generation.level < since:
                    raise MachineError(
                        "generation",
                        f"needs NeuronCore-v{since} or newer, the target is {core.generation.chip} "
                        f"(NeuronCore-v{core.generation.level})",
                        remedy="set NEURON_PLATFORM_TARGET_OVERRIDE, or take another instruction",
                    )
                ran_on = function(core, *args, **kwargs) or engine
            except MachineError as error:
                raise core.enrich(error) from error.__cause__
            core.retire(ran_on)
            return _HANDLE

        return issue

    return decorate


# ---- operand rules ------------------------------------------------------------------------------------------------


def require(condition: bool, rule: str, message: str, operand: str | None = None, remedy: str | None = None) -> None:
    """Raise a MachineError unless `condition`. Build costly messages outside hot paths."""
    if not condition:
        raise MachineError(rule, message, operand=operand, remedy=remedy)


def check_tensor(role: str, value: Any) -> Tensor:
    """The operand as a tensor, or a clear error."""
    if not isinstance(value, Tensor):
        raise MachineError(
            "operand.type", f"needs a tensor, got {type(value).__name__}", operand=role,
            remedy="allocate with nl.ndarray and pass the tensor or a view of it",
        )
    if value.storage.dead:
        raise MachineError(
            "loop.scope", f"{value.storage.label()} was made inside a run-time loop that has moved on", operand=role,
            remedy="allocate it before the loop",
        )
    return value


def check_compute(role: str, value: Any, *, psum: bool = True, sbuf: bool = True) -> Tensor:
    """Operand of a compute engine: on chip, at most 128 partitions, legal start partition, static inside bounds."""
    tensor = check_tensor(role, value)
    region = tensor.buffer.name
    allowed = [name for name, ok in (("sbuf", sbuf), ("psum", psum)) if ok]
    if region not in allowed:
        raise MachineError(
            "operand.memory", f"must be in {allowed}, got {region}", operand=role,
            remedy="move it with nisa.dma_copy or nisa.tensor_copy first",
        )
    check_partitions(role, tensor)
    if tensor.ndim > _MAX_FREE_AXES + 1:
        _check_free_axes(role, tensor)
    return tensor


def _check_free_axes(role: str, tensor: Tensor) -> None:
    axes = tensor.free_runs()
    if axes > _MAX_FREE_AXES:
        raise MachineError(
            "operand.rank",
            f"{tensor!r} needs {axes} free axes, adjacent ones of one run of memory counted once; an access pattern "
            f"has {_MAX_FREE_AXES}",
            operand=role,
            remedy="issue one instruction per index of an outer axis",
        )


def check_partitions(role: str, tensor: Tensor) -> None:
    """Start partition 0 for more than 64 partitions, 0/64 for 33 to 64, 0/32/64/96 for up to 32 (architecture
    guides, section on cross-partition connectivity)."""
    count = tensor.shape[0]
    start = tensor.start_partition
    if count > 128:
        raise MachineError("partition.count", f"partition dimension {count} exceeds maximum 128", operand=role)
    step = 128 if count > 64 else 64 if count > 32 else 32
    if start % step:
        raise MachineError(
            "partition.start", f"{count} partitions starting at {start}: the start must be a multiple of {step}",
            operand=role, remedy="place the tile at a legal partition, or move it by DMA",
        )
    if start + count > 128:
        raise MachineError(
            "partition.end", f"partitions {start}..{start + count - 1} leave the 128 partitions", operand=role
        )


def same_elements(first: tuple[str, Tensor], second: tuple[str, Tensor]) -> None:
    """Equal partition counts and equal elements per partition; ranks may differ."""
    (role_a, a), (role_b, b) = first, second
    if a.shape[0] != b.shape[0] or a.size != b.size:
        raise MachineError(
            "operand.shape",
            f"{a.shape} does not match {role_b} {b.shape}: partitions and elements per partition must agree",
            operand=role_a, remedy="slice both alike; broadcast with a stride-0 .ap() view",
        )


@instruction("vector")
def assign(core: Core, target: Tensor, value: Any) -> None:
    """`t[...] = value`: a copy of equal element count, or a fill."""
    if isinstance(value, Tensor):
        require(value.size == target.size, "operand.shape", f"{value.shape} assigned to {target.shape}")
        if value.dtype == target.dtype:
            core.write_bits("target", target, np.array(core.read("value", value)))
        else:
            core.write("target", target, core.read_float("value", value).reshape(target.shape))
    else:
        core.write("target", target, np.full(target.shape, value, np.float32))
