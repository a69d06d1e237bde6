"""Instructions on virtual registers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .core import Core
from .errors import MachineError
from .instruction import check_tensor, instruction
from .registers import VirtualRegister
from .tensor import Tensor


@instruction("sync")
def register_load(core: Core, dst: Any, src: Any) -> None:
    """dst = the one element of src, an integer in HBM or SBUF, or a whole float."""
    _register("dst", dst).set(element(core, "src", src))


@instruction("sync")
def register_move(core: Core, dst: Any, src: Any) -> None:
    """dst = src, an int or another register."""
    _register("dst", dst).set(src.state if isinstance(src, VirtualRegister) else int(src))


@instruction("sync")
def register_store(core: Core, dst: Any, src: Any) -> None:
    """The one element of dst = src, a register, an int; rounded where dst is a float."""
    target = check_tensor("dst", dst)
    if target.size != 1:
        raise MachineError("register.store", f"{target.shape} must hold one element", operand="dst")
    value = src.state if isinstance(src, VirtualRegister) else int(src)
    if target.fmt.kind == "float":
        core.write("dst", target, np.full(target.shape, value, np.float32))
    else:
        bits = target.fmt.storage.itemsize * 8
        limits = np.iinfo(target.fmt.storage)
        if not limits.min <= value <= limits.max:
            # A register holds 32 bits without a sign of its own; the store keeps the low ones.
            value = (value - limits.min) % (1 << bits) + limits.min
        core.write_bits("dst", target, np.full(target.shape, value, target.fmt.storage))


def element(core: Core, role: str, src: Any) -> int:
    """The value of a one-element tensor as an int."""
    source = check_tensor(role, src)
    if source.size != 1:
        raise MachineError("register.load", f"{source.shape} must hold one element", operand=role)
    value = core.read(role, source).reshape(-1)[0]
    if source.fmt.kind == "float" and float(value) != int(value):
        raise MachineError("register.load", f"{float(value)} is no integer", operand=role)
    return int(value)


def allocate(core: Core, value: Any) -> VirtualRegister:
    """A new register: 0, an int, another register's value, or the one element of a tensor."""
    if isinstance(value, VirtualRegister):
        return VirtualRegister(value.state)
    if isinstance(value, Tensor):
        register = VirtualRegister()
        register_load(register, value)
        return register
    return VirtualRegister(value)


def _register(role: str, value: Any) -> VirtualRegister:
    if not isinstance(value, VirtualRegister):
        raise MachineError(
            "operand.type",
            f"needs a register, got {type(value).__name__}",
            operand=role,
            remedy="make one with nisa.register_alloc()",
        )
    return value
