"""Register instructions of nki.isa, and questions about the target."""

from __future__ import annotations

from typing import Any

from reference.neuroncore import register_file as machine
from reference.neuroncore.enums import nc_version
from reference.neuroncore.generation import current_generation
from reference.neuroncore.launch import current_core, is_active
from reference.neuroncore.registers import VirtualRegister


def register_alloc(x: Any = None) -> VirtualRegister:
    """A 32-bit register holding 0, an int, or the element of a one-element tensor."""
    return machine.allocate(current_core(), x)


def register_load(dst: VirtualRegister, src: Any, name: str | None = None) -> VirtualRegister:
    """dst = the one element of src (HBM or SBUF, an integer or a whole float). Returns dst."""
    machine.register_load(dst, src, name=name)
    return dst


def register_move(
    dst: VirtualRegister, src: Any = None, name: str | None = None, imm: int | None = None
) -> VirtualRegister:
    """dst = src, an int or a register (`imm` was its name before 0.3). Returns dst."""
    machine.register_move(dst, imm if src is None else src, name=name)
    return dst


def register_store(dst: Any, src: Any, name: str | None = None) -> Any:
    """The one element of dst = src, a register or an int. Returns src."""
    machine.register_store(dst, src, name=name)
    return src


def get_nc_version() -> nc_version:
    """The NeuronCore generation of the target."""
    generation = current_core().generation if is_active() else current_generation()
    return nc_version(generation.level)


def get_nc_sub_version() -> int:
    """0: the first silicon of the generation."""
    return 0
