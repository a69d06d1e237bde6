"""Loops, programs and indices of nki.language."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from reference.neuroncore.core import Core
from reference.neuroncore.errors import MachineError
from reference.neuroncore.launch import current_core
from reference.neuroncore.registers import VirtualRegister
from reference.neuroncore.tensor import Slice, Tensor
from reference.numerics.cast import to_float32

ds = Slice


def affine_range(start: int, stop: int | None = None, step: int = 1) -> range:
    """range(): iterations may run in any order on the device; here in ascending order."""
    return range(start) if stop is None else range(start, stop, step)


def sequential_range(start: int, stop: int | None = None, step: int = 1) -> range:
    """range(): iterations depend on each other."""
    return range(start) if stop is None else range(start, stop, step)


def static_range(start: int, stop: int | None = None, step: int = 1) -> range:
    """range(): unrolled by the compiler."""
    return range(start) if stop is None else range(start, stop, step)


def dynamic_range(start: Any, stop: Any = None, step: int = 1) -> Iterator[VirtualRegister]:
    """A run-time loop: bounds are ints or registers, read once; each iteration gets a frozen register.

    Deprecated since 0.6 in favour of `fori_loop`, and gone in 0.7. `step` must be a positive int.
    """
    warnings.warn("nl.dynamic_range is deprecated; use nl.fori_loop", DeprecationWarning, stacklevel=2)
    lower, upper = (0, start) if stop is None else (start, stop)
    return _iterate(lower, upper, step)


def fori_loop(lower: Any, upper: Any, body_fun: Callable[[Any], Any], step: int = 1) -> None:
    """body_fun(i) for i in range(lower, upper, step), i a frozen register; bounds are ints or registers,
    read once.

    A loop over a register that holds 0 or 1 is a run-time `if`. The body must return None. Tensors it makes
    end with its iteration.
    """
    core = _loop_core("fori_loop")
    for index in _iterate(lower, upper, step):
        with core.scope():
            if body_fun(index) is not None:
                raise MachineError("loop.body", "the body of nl.fori_loop must return None")


def while_loop(init: Any, body_fun: Callable[[Any], Any]) -> None:
    """r = init; while r is not 0: r = body_fun(copy of r). The body returns the next condition, a
    register."""
    core = _loop_core("while_loop")
    condition = VirtualRegister(_value(init))
    while condition.state != 0:
        with core.scope():
            following = body_fun(VirtualRegister(condition.state))
        if not isinstance(following, VirtualRegister):
            raise MachineError(
                "loop.body", "the body of nl.while_loop must return the next condition, a register"
            )
        condition = VirtualRegister(following.state)


@contextlib.contextmanager
def no_reorder() -> Iterator[None]:
    """The compiler keeps the order of instructions inside; the simulator always does. Run-time loops may not
    stand inside."""
    core = current_core()
    core.no_reorder += 1
    try:
        yield
    finally:
        core.no_reorder -= 1


def device_print(print_prefix: str, tensor: Any) -> None:
    """Print the prefix and the values of a tensor (or of a register) to stdout.

    Only looks: unwritten elements show what the memory holds, and PSUM does not count it as a read.
    """
    if isinstance(tensor, VirtualRegister):
        sys.stdout.write(f"{print_prefix} {tensor.state}\n")
        return
    values = to_float32(current_core().resolve("tensor", tensor).array(), tensor.fmt)
    sys.stdout.write(f"{print_prefix} {tensor!r}\n{np.array2string(values)}\n")


def program_id(axis: int = 0) -> int:
    """Index of this program in the launch grid: 0, or 0 and 1 on the two cores of LNC2."""
    _check_axis(axis)
    return current_core().index


def num_programs(axes: Any = 0) -> int:
    """Number of programs in the launch grid: 1 or 2."""
    if axes is not None:
        _check_axis(axes[0] if isinstance(axes, (tuple, list)) and len(axes) == 1 else axes)
    return len(current_core().launch.cores)


def program_ndim() -> int:
    """Axes of the launch grid: 0 for kernel(...), 1 for kernel[n](...)."""
    return int(current_core().launch.grid)


def _check_axis(axis: Any) -> None:
    if isinstance(axis, bool) or axis != 0:
        raise MachineError("launch.axis", f"invalid program axis {axis!r}", remedy="the grid has axis 0 only")


def _value(bound: Any) -> int:
    if isinstance(bound, VirtualRegister):
        return bound.state
    if isinstance(bound, Tensor):
        raise MachineError(
            "loop.bound", f"{bound!r} is a tensor", remedy="load it into a register with nisa.register_load"
        )
    return int(bound)


def _iterate(lower: Any, upper: Any, step: Any) -> Iterator[VirtualRegister]:
    if isinstance(step, bool) or not isinstance(step, (int, np.integer)) or step < 1:
        raise MachineError("loop.step", f"step {step!r} must be a positive compile-time int")
    return _registers(range(_value(lower), _value(upper), int(step)))


def _registers(values: range) -> Iterator[VirtualRegister]:
    for value in values:
        yield VirtualRegister(value, frozen=True)


def _loop_core(name: str) -> Core:
    core = current_core()
    if core.no_reorder:
        raise MachineError("loop.no_reorder", f"nl.{name} inside nl.no_reorder()")
    return core
