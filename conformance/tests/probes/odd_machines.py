"""Backends for sessions that go wrong in some way: the embedded machine with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from conformance.backends import backend
from conformance.subject import Arrays, Backend, Call


def name_of(call: Call) -> str:
    """The name of the kernel a call launches."""
    kernel: Any = call.function
    return str(kernel.func.__name__)


@dataclass
class Odd:
    """The embedded machine; launches of the kernel `kernel` are handed to `change` with what they gave."""

    kernel: str
    change: Callable[[Call, Arrays], Arrays]
    name: str = "sim"
    launches: int = 0
    machine: Backend = field(default_factory=lambda: backend("sim"))

    def run(self, call: Call) -> Arrays:
        """Outputs of the machine, changed where it is the kernel's turn."""
        outputs = self.machine.run(call)
        if name_of(call) != self.kernel:
            return outputs
        self.launches += 1
        return self.change(call, outputs)


def refuses(kernel: str) -> Odd:
    """A machine that cannot run one kernel."""

    def change(call: Call, outputs: Arrays) -> Arrays:
        raise RuntimeError(f"no {kernel} today,\nnor tomorrow")

    return Odd(kernel, change)


def segments_of_16(call: Call, outputs: Arrays) -> Arrays:
    """A matmul that adds rows in chains of 16, then the chain of their sums: an order that no candidate has."""
    left, right = (np.asarray(call.arguments[name], np.float32) for name in ("stationary", "moving"))
    total = np.zeros((left.shape[1], right.shape[1]), np.float32)
    for first in range(0, len(left), 16):
        part = np.zeros_like(total)
        for a, b in zip(left[first : first + 16], right[first : first + 16], strict=True):
            part = part + a[:, None] * b[None, :]
        total = total + part
    return {"out": total}


def sloppy(call: Call, outputs: Arrays) -> Arrays:
    """Reciprocals a few ulp off, by a table of its own."""
    values = outputs["out"]
    return {"out": np.asarray(values * np.float32(1 + 3 * 2.0**-23))}


def drifting() -> Callable[[Call, Arrays], Arrays]:
    """Another result at every launch."""
    seen = iter(range(1000))

    def change(call: Call, outputs: Arrays) -> Arrays:
        return {name: values + np.float32(next(seen)) for name, values in outputs.items()}

    return change
