"""The enumerations of nki.isa, with the values of NKI 0.2 and later (API fact sheet, section 2.0).

Class names are those of the API. `member` brings what older kernels pass (plain ints, strings) to a member.
"""

from __future__ import annotations

import enum
import warnings
from typing import Any, TypeVar

from .errors import MachineError, MachineWarning

E = TypeVar("E", bound=enum.Enum)


class engine(enum.Enum):
    """Which engine executes an instruction; `unknown` leaves the choice to the compiler."""

    unknown = 0
    tensor = 1
    scalar = 2
    gpsimd = 3
    dma = 4
    vector = 5
    sync = 6


class reduce_cmd(enum.Enum):
    """What an instruction does with the accumulator registers of its engine."""

    idle = 0
    reset = 1
    reduce = 2
    reset_reduce = 3
    load_reduce = 4


class dge_mode(enum.Enum):
    """Who makes DMA descriptors: software, hardware, nobody at run time, or the compiler decides."""

    unknown = 0
    swdge = 1
    hwdge = 2
    none = 3


class oob_mode(enum.Enum):
    """What a run-time index outside its tensor does: raise, or leave that row untransferred."""

    error = 0
    skip = 1


class matmul_perf_mode(enum.Enum):
    """FP8 double rate of the tensor engine."""

    none = "none"
    double_row = "double_row"


class nc_version(enum.IntEnum):
    """NeuronCore generation. Ordered, also against ints: public kernels write `>= 3`."""

    gen2 = 2
    gen3 = 3
    gen4 = 4


class dma_engine(enum.Enum):
    """Which engine moves a sendrecv."""

    dma = 1
    gpsimd_dma = 2


def member(kind: type[E], value: Any, operand: str) -> E:
    """`value` as a member of `kind`. Members pass; their values and names pass with a warning (NKI 0.3
    refuses raw ints); anything else is a MachineError that lists the members."""
    if isinstance(value, kind):
        return value
    for known in kind:
        # `is True` and `1 ==` would let a bool pass for a member.
        if not isinstance(value, bool) and value in (known.value, known.name):
            if not isinstance(known.value, str):
                warnings.warn(f"{operand}={value!r}: write {kind.__name__}.{known.name}", MachineWarning, stacklevel=4)
            return known
    raise MachineError(
        "operand.enum",
        f"{value!r} is no {kind.__name__}",
        operand=operand,
        remedy=f"use {', '.join(f'{kind.__name__}.{known.name}' for known in kind)}",
    )
