"""Where model and kernel first part: the two traces paired point by point, in the contract's order.

The model records a value under (core, tile name, occurrence); the machine keeps the tiles of the same names
with, per element, the instruction that wrote it last. Downstream points inherit an error, so the first
differing point of the contract's order is where to look.

Not seen: a difference between two writes of one tile (the tap keeps the last), and anything a kernel does
outside the tiles that carry the contract's names.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.backends.sim import SimBackend
from conformance.mismatch import bits_text, ulp_text
from conformance.subject import Arrays, Case, Subject, repro_command
from reference.neuroncore.options import Options
from reference.neuroncore.trace import Tap
from reference.numerics.metrics import compare
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.ulp import same_bits
from reference.recorder import Entry, ListRecorder, split_name

Array = NDArray[Any]
Taps = Mapping[tuple[int, str, int], Tap]


@dataclass(frozen=True)
class Divergence:
    """One tile that differs; `why` is set instead of the values where the tiles cannot be compared."""

    point: str
    tile: str
    core: int
    occurrence: int
    why: str = ""
    index: tuple[int, ...] = ()
    kernel: float = 0.0
    model: float = 0.0
    kernel_bits: str = ""
    model_bits: str = ""
    ulp: int = 0
    differing: int = 0
    elements: int = 0
    instruction: str = ""
    location: str = ""

    def text(self) -> str:
        """Name, place, both values in decimal and bits, distance, instruction and its source line."""
        again = f", occurrence {self.occurrence}" if self.occurrence else ""
        head = f"rounding point {self.point}: tile {self.tile} on core {self.core}{again}"
        if self.why:
            return f"{head}: {self.why}"
        values = f"kernel {self.kernel:.9g} ({self.kernel_bits}), model {self.model:.9g} ({self.model_bits})"
        return "\n".join(
            (
                f"{head}: {self.differing} of {self.elements} elements differ, first at {list(self.index)}",
                f"  {values}, {ulp_text(self.ulp)}",
                f"  written by {self.instruction} at {self.location}",
            )
        )


@dataclass(frozen=True)
class Explanation:
    """What the pairing of two traces found.

    `compared` counts tiles; `by_point` differing tiles per point; `only_model` and `only_kernel` name tiles
    of contract points that the other side never wrote, at most a few; `outputs` names outputs that differ.
    """

    kernel: str
    case: str
    repro: str
    compared: int
    first: Divergence | None
    by_point: Mapping[str, tuple[int, int]]
    only_model: tuple[str, ...]
    only_kernel: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether nothing differs, at any point or in any output, and no tile lacks its partner."""
        return self.first is None and not (self.outputs or self.only_model or self.only_kernel)

    def text(self) -> str:
        """The explanation, the first divergence first, the command to run again last."""
        lines = [f"{self.kernel} {self.case}: {self._head()}"]
        lines += [self.first.text()] if self.first else []
        bad = {point: (worse, total) for point, (worse, total) in self.by_point.items() if worse}
        lines += [f"  {point}: {worse} of {total} tiles differ" for point, (worse, total) in bad.items()]
        lines += [f"recorded by the model alone: {', '.join(self.only_model)}"] if self.only_model else []
        lines += [f"written by the kernel alone: {', '.join(self.only_kernel)}"] if self.only_kernel else []
        return "\n".join([*lines, f"again: {self.repro}"])

    def _head(self) -> str:
        if self.first is not None:
            return "model and kernel first part here"
        if self.outputs:
            return (
                f"all {self.compared} tiles agree and {', '.join(self.outputs)} differ: look at what follows "
                "the last rounding point (stores, layout, the wrong core's part)"
            )
        if self.only_model or self.only_kernel:
            return f"outputs and {self.compared} tiles agree; others have no partner to compare with"
        return f"all {self.compared} tiles and all outputs agree"


def first_difference(subject: Subject, case: Case, profile: NumericsProfile = DEFAULT) -> Explanation:
    """Runs the model with a recorder and the kernel with taps, and pairs them.

    What either raises passes through: a kernel that stops leaves no trace to pair.
    """
    inputs = subject.build(case.config, case.lane, case.seed)
    recorder = ListRecorder()
    expected = subject.model(case.config, inputs, profile=profile, record=recorder)
    backend = SimBackend(Options(profile=profile, taps=True))
    run = backend.launch(subject.prepared(case.config, inputs))
    return _explained(subject, case, recorder, run.trace.taps, _differing(run.outputs, expected))


def _explained(
    subject: Subject, case: Case, recorder: ListRecorder, taps: Taps, outputs: tuple[str, ...]
) -> Explanation:
    points = tuple(point.name for point in subject.contract.points)
    order = {point: place for place, point in enumerate(points)}
    named = {key: tap for key, tap in taps.items() if split_name(key[1])[0] in order and tap.instructions}
    recorded = {_key(entry): entry for entry in recorder if entry.point in order}
    # Within a point the tile index decides, then the occurrence: the order of the loops that made them.
    paired = sorted(set(named) & set(recorded), key=lambda key: _rank(recorded[key], order))
    found = {key: _divergence(recorded[key], named[key]) for key in paired}
    return Explanation(
        kernel=subject.name,
        case=case.id,
        repro=repro_command(subject, case, verb="explain"),
        compared=len(paired),
        first=next((one for one in found.values() if one is not None), None),
        by_point=dict(_counts(points, recorded, found)),
        only_model=_names(set(recorded) - set(named)),
        only_kernel=_names(set(named) - set(recorded)),
        outputs=outputs,
    )


def _key(entry: Entry) -> tuple[int, str, int]:
    return (entry.core, entry.name, entry.occurrence)


def _rank(entry: Entry, order: Mapping[str, int]) -> tuple[Any, ...]:
    return (order[entry.point], entry.occurrence, entry.tile, entry.core)


def _counts(
    points: tuple[str, ...], recorded: Mapping[Any, Entry], found: Mapping[Any, Divergence | None]
) -> Iterator[tuple[str, tuple[int, int]]]:
    for point in points:
        tiles = [one for key, one in found.items() if recorded[key].point == point]
        yield point, (sum(one is not None for one in tiles), len(tiles))


def _names(keys: set[tuple[int, str, int]], most: int = 8) -> tuple[str, ...]:
    names = [f"{name} (core {core}, occurrence {occurrence})" for core, name, occurrence in sorted(keys)]
    return (*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else []))


def _divergence(entry: Entry, tap: Tap) -> Divergence | None:
    """None where the tile has the model's bits; what the model does not know of a tile is not looked at."""
    tile = functools.partial(Divergence, entry.point, entry.name, entry.core, entry.occurrence)
    model = _with_shape_of(entry.value, tap.values)
    if model is None:
        return tile(f"shape {list(tap.values.shape)} in the kernel, {list(entry.value.shape)} in the model")
    corner = tuple(slice(0, size) for size in model.shape)
    kernel, writers = tap.values[corner], tap.writers[corner]
    if kernel.dtype != model.dtype:
        return tile(f"dtype {kernel.dtype} in the kernel, {model.dtype} in the model")
    apart = ~same_bits(kernel, model)
    if not apart.any():
        return None
    index = tuple(int(i) for i in np.argwhere(apart)[0])
    worst = compare(kernel[index], model[index]).worst[0]
    writer = tap.instructions[writers[index]] if writers[index] >= 0 else None
    return tile(
        index=index,
        kernel=worst.got,
        model=worst.expected,
        kernel_bits=bits_text(kernel[index]),
        model_bits=bits_text(model[index]),
        ulp=worst.ulp,
        differing=int(apart.sum()),
        elements=model.size,
        instruction=writer.op if writer else "nothing (never written)",
        location=writer.location if writer else "no line",
    )


def _with_shape_of(value: Array, tile: Array) -> Array | None:
    """The model's value in the rank of the kernel's tile, no larger than it; None where that cannot be.

    Tiles may be allocated larger than what is used of them, and carry axes of size one.
    """
    if value.ndim != tile.ndim:
        if value.size != tile.size:
            return None
        value = value.reshape(tile.shape)
    return value if all(used <= size for used, size in zip(value.shape, tile.shape, strict=True)) else None


def _differing(got: Arrays, expected: Arrays) -> tuple[str, ...]:
    names = [name for name in expected if name not in got or not _equal(got[name], expected[name])]
    return (*names, *(name for name in got if name not in expected))


def _equal(got: Array, expected: Array) -> bool:
    alike = got.shape == expected.shape and got.dtype == expected.dtype
    return alike and bool(np.all(same_bits(got, expected)))
