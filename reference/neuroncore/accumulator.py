"""The accumulator registers of the vector and of the scalar engine: one fp32 value per lane, kept across
instructions.

Each engine has one set, shared by all its accumulating instructions (API fact sheet, 2.2). A lane is the
partition its data come from. A register that was never set, or that an idle vector instruction may have
changed, is undefined: continuing from it or reading it out is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.profile import NumericsProfile
from reference.numerics.reduce import accumulate

from .enums import member
from .enums import reduce_cmd as ReduceCmd
from .errors import MachineError
from .tensor import Tensor

F32 = NDArray[np.float32]

#: Value of a register after a reset: the identity of the operator.
IDENTITY = {
    "add": 0.0,
    "subtract": 0.0,
    "multiply": 1.0,
    "maximum": -np.inf,
    "minimum": np.inf,
    "abs_max": 0.0,
    "abs_min": np.inf,
}


@dataclass(eq=False)
class Accumulator:
    """The registers of one engine of one core."""

    engine: str  # "vector" or "scalar": whose order of accumulation the profile is asked for
    violate: Callable[[MachineError], None]  # raises, warns or ignores, as the launch says
    values: F32 = field(default_factory=lambda: np.full(128, np.nan, np.float32))
    defined: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(128, np.bool_))

    def run(self, command: str, op: str, lanes: slice, values: F32, profile: NumericsProfile, init: Any = None) -> None:
        """Carry out a reduce command: `values` fp32 [lanes, elements], `init` a number or fp32 [lanes, 1]."""
        if command == "idle":
            return
        self.start(command, op, lanes, init)
        if command != "reset":
            self.set(lanes, accumulate(self.values[lanes], values, op, profile, engine=self.engine))

    def start(self, command: str, op: str, lanes: slice, init: Any = None) -> F32:
        """Reset, load or keep the registers of `lanes`; returns what the reduction starts from."""
        if command in ("reset", "reset_reduce"):
            self.set(lanes, IDENTITY[op])
        elif command == "load_reduce":
            self.set(lanes, np.reshape(init, -1))
        return self.read(lanes)

    def set(self, lanes: slice, values: Any) -> None:
        """Give the registers of `lanes` defined values."""
        self.values[lanes] = values
        self.defined[lanes] = True

    def read(self, lanes: slice) -> F32:
        """The registers of `lanes`; an undefined one violates a rule, and is NaN where that is no error."""
        missing = np.flatnonzero(~self.defined[lanes])
        if missing.size:
            lane = lanes.start + int(missing[0])
            self.violate(
                MachineError(
                    "accumulator.undefined",
                    f"the {self.engine} engine's register of lane {lane} is undefined",
                    operand="reduce_cmd",
                    remedy="begin with reduce_cmd.reset_reduce",
                )
            )
        return self.values[lanes]

    def poison(self, lanes: slice) -> None:
        """Forget the registers of `lanes`."""
        self.values[lanes] = np.nan
        self.defined[lanes] = False


def lanes_of(tensor: Tensor) -> slice:
    """The lanes that process a tensor: its physical partitions."""
    start = tensor.start_partition
    return slice(start, start + tensor.shape[0])


def command_of(value: Any, allowed: Collection[str]) -> str:
    """A reduce command out of those that the instruction documents."""
    name = member(ReduceCmd, value, "reduce_cmd").name
    if name not in allowed:
        raise MachineError(
            "reduce_cmd",
            f"reduce_cmd.{name} is not supported here",
            operand="reduce_cmd",
            remedy=f"use {', '.join(f'reduce_cmd.{known}' for known in allowed)}",
        )
    return name
