"""Backends for sessions that go wrong in some way: the embedded machine with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
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


def chained_where(length: int) -> Callable[[Call, Arrays], Arrays]:
    """Row sums, in a float32 chain where rows have this length."""

    def change(call: Call, outputs: Arrays) -> Arrays:
        rows = np.asarray(call.arguments["rows"], np.float32)
        return {"out": np.add.accumulate(rows, axis=1)[:, -1:]} if rows.shape[1] == length else outputs

    return change


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


# --- answers that the embedded machine cannot play -----------------------------------------------------------------


def products_of(bits: int) -> Callable[[Call, Arrays], Arrays]:
    """A matmul whose products keep so many significant bits, added in a float32 chain."""

    def change(call: Call, outputs: Arrays) -> Arrays:
        return {"out": _chained(*_operands(call), lambda product: _significant(product, bits), np.add)}

    return change


def floors(call: Call, outputs: Arrays) -> Arrays:
    """A matmul whose every addition rounds towards -inf, in a chain."""
    return {"out": _chained(*_operands(call), lambda product: product, _added_down)}


def floors_onto(call: Call, outputs: Arrays) -> Arrays:
    """A matmul onto a PSUM tile: the sum of the array is rounded to nearest, the one with what was there down."""
    before = _exact(*(np.asarray(call.arguments[f"first_{name}"], np.float64) for name in ("stationary", "moving")))
    return {"out": _added_down(before, _exact(*_operands(call)))}


def tiles_as_one(call: Call, outputs: Arrays) -> Arrays:
    """Row tiles of one sum that the array joins before anything leaves it."""
    return {**outputs, "tiled": outputs["whole"]}


def gelu_by(factor: float) -> Callable[[Call, Arrays], Arrays]:
    """A gelu_apprx_sigmoid with another constant."""

    def change(call: Call, outputs: Arrays) -> Arrays:
        x = np.asarray(call.arguments["x"], np.float64)
        return {**outputs, "gelu_apprx_sigmoid": (x / (1 + np.exp(-factor * x))).astype(np.float32)}

    return change


def kept_wide(call: Call, outputs: Arrays) -> Arrays:
    """Accumulation into a bf16 tile that is kept in float32 until it is read."""
    sums = np.asarray(call.arguments["moving"], np.float32).sum(axis=(0, 1))
    return {"out": sums.astype(outputs["out"].dtype)[None]}


def drawn() -> Callable[[Call, Arrays], Arrays]:
    """Casts to bf16 that round up with the probability of the distance."""
    source = np.random.default_rng(9)

    def change(call: Call, outputs: Arrays) -> Arrays:
        if np.size(call.arguments["x"]) <= 100:
            return outputs
        way = (np.asarray(call.arguments["x"], np.float64) - 1) * 2.0**7
        kind = outputs["vector"].dtype
        return {n: np.where(source.random(way.shape) < way, 1 + 2.0**-7, 1.0).astype(kind) for n in outputs}

    return change


def _operands(call: Call) -> tuple[np.ndarray, np.ndarray]:
    stationary, moving = (np.asarray(call.arguments[name], np.float64) for name in ("stationary", "moving"))
    return stationary, moving


def _chained(
    left: np.ndarray, right: np.ndarray, narrowed: Callable[[np.ndarray], np.ndarray], add: Callable[..., np.ndarray]
) -> np.ndarray:
    """Row after row; products of operands of up to 16 bits are exact in float64."""
    total = np.zeros((left.shape[1], right.shape[1]), np.float32)
    for a, b in zip(left, right, strict=True):
        total = add(total, narrowed(a[:, None] * b[None, :]).astype(np.float32))
    return total


def _exact(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The sums of the diagonal, rounded once; nobody reads the others."""
    out = np.zeros((left.shape[1], right.shape[1]), np.float32)
    for column in range(left.shape[1]):
        total = sum((Fraction(a) * Fraction(b) for a, b in zip(left[:, column], right[:, column], strict=True)))
        out[column, column] = _nearest(Fraction(total))
    return out


def _nearest(exact: Fraction) -> np.float32:
    """The float32 nearest to a fraction, of two that are the one whose last bit is zero."""
    about = np.float32(float(exact))
    near = (about, np.nextafter(about, np.float32(-np.inf)), np.nextafter(about, np.float32(np.inf)))
    return min(near, key=lambda one: (abs(Fraction(float(one)) - exact), int(one.view(np.uint32)) & 1))


def _significant(values: np.ndarray, bits: int) -> np.ndarray:
    """float64 to so many significant bits, to nearest even."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)


def _added_down(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x + y of float32 arrays, rounded towards -inf: the error of the float64 sum tells on which side it lies."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    total = a + b
    error = (a - (total - (total - a))) + (b - (total - a))
    near = total.astype(np.float32)
    above = (near > total) | ((near == total) & (error < 0))
    return np.where(above, np.nextafter(near, np.float32(-np.inf)), near)
