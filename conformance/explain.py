"""Where two traces of one case first part: those of model and kernel, or of the model under two profiles.

The model records a value under (core, tile name, occurrence); the machine keeps the tiles of the same names
with, per element, the instruction that wrote it last. Tiles are paired and looked at in the order in which the
model recorded them: whatever a tile was computed from stands before it, also where loops come back to a point
that the contract lists early. So the first tile that differs is where to look, and what differs behind it may
have inherited the error.

Not seen: what a named tile held before it was written again (the tap keeps the last bytes of each occurrence, as
the model records them once per occurrence); anything a kernel does outside the tiles that carry the contract's
names; and which of the tiles behind the first are wrong for a reason of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.backends.sim import SimBackend
from conformance.envelope import values64
from conformance.mismatch import bits_text, ulp_text
from conformance.subject import Arrays, Case, Subject, repro_command
from reference.neuroncore.options import Options
from reference.neuroncore.trace import Tap, Trace
from reference.numerics.cast import cast, to_float32
from reference.numerics.formats import format_of
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.ulp import NAN_DISTANCE, same_bits, ulp_distance
from reference.recorder import Entry, ListRecorder, split_name

Array = NDArray[Any]
Index = tuple[int, ...]
#: (core, tile name, occurrence)
Key = tuple[int, str, int]
#: The instruction that wrote an element and its source line, '' where the side has no instructions.
Writer = Callable[[Index], tuple[str, str]]


@dataclass(frozen=True)
class Divergence:
    """One tile that differs.

    `got` and `expected` are the first element that differs, `ulp` how far it is apart, `max_ulp` the farthest of the
    tile. `why` says that the tiles are of another dtype or shape. Of another dtype the values are compared all the
    same, as float64, and distances are those of what was got rounded once to the expected dtype; without an index
    every value is equal. Of another shape there are no values, and the instruction is that of the tile's first element.
    """

    point: str
    tile: str
    core: int
    occurrence: int
    why: str = ""
    index: Index = ()
    got: float = 0.0
    expected: float = 0.0
    got_bits: str = ""
    expected_bits: str = ""
    ulp: int = 0
    max_ulp: int = 0
    differing: int = 0
    elements: int = 0
    instruction: str = ""
    location: str = ""

    def text(self, sides: tuple[str, str]) -> str:
        """Name, place, both values in decimal and bits, distance, instruction and its source line."""
        again = f", occurrence {self.occurrence}" if self.occurrence else ""
        head = f"rounding point {self.point}: tile {self.tile} on core {self.core}{again}"
        told = [head + (f": {self.why}" if self.why else ""), *_element_lines(self, sides)]
        if not self.why:
            told[0:2] = [f"{head}: {told[1].lstrip()}"]
        return "\n".join(told)


@dataclass(frozen=True)
class Tally:
    """The tiles of one point, and how many of them differ by how much (0 where they cannot be compared)."""

    point: str
    differing: int
    tiles: int
    max_ulp: int

    def text(self) -> str:
        """One line."""
        distance = f", up to {ulp_text(self.max_ulp)}" if self.max_ulp else ""
        return f"{self.point}: {self.differing} of {self.tiles} tiles differ{distance}"


@dataclass(frozen=True)
class Gap:
    """One output that differs; `why` where it is missing, or of another dtype or shape. The rest is as of a Divergence,
    and the instruction is the one that wrote the first element that differs to memory."""

    name: str
    differing: int = 0
    elements: int = 0
    max_ulp: int = 0
    why: str = ""
    index: Index = ()
    got: float = 0.0
    expected: float = 0.0
    got_bits: str = ""
    expected_bits: str = ""
    ulp: int = 0
    instruction: str = ""
    location: str = ""

    def text(self, sides: tuple[str, str]) -> str:
        """What differs, in how many elements, and all that is known of the first."""
        farthest = f", up to {ulp_text(self.max_ulp)}" if self.differing else ""
        head = self.why or f"{self.name}: {self.differing} of {self.elements} elements{farthest}"
        return "\n".join([head, *_element_lines(self, sides)])


def _element_lines(one: Divergence | Gap, sides: tuple[str, str]) -> Iterator[str]:
    """How many elements differ, the first of them in decimal and bits on both sides, and who wrote it."""
    if one.got_bits:
        got, expected = f"{one.got:.9g} ({one.got_bits})", f"{one.expected:.9g} ({one.expected_bits})"
        farthest = f", others up to {ulp_text(one.max_ulp)}" if one.max_ulp > one.ulp else ""
        rounded = " once rounded to the expected dtype" if one.why else ""
        yield f"  {one.differing} of {one.elements} elements differ, first at {list(one.index)}"
        yield f"  {sides[1]} {got}, {sides[0]} {expected}, {ulp_text(one.ulp)}{farthest}{rounded}"
    elif one.elements:
        yield f"  the values of all {one.elements} elements are equal"
    if one.instruction:
        yield f"  written by {one.instruction} at {one.location}"


@dataclass(frozen=True)
class Explanation:
    """What the pairing of two traces found.

    sides          what the traces are called, the expected one first
    compared       number of tiles that have a partner
    first          the first tile that differs, in the order of the model
    points         all points that have paired tiles, in that order too
    only_expected  tiles of contract points that the other side never wrote, at most a few; `only_got` likewise
    outputs        outputs that differ
    notes          what else a reader should know, one sentence each
    """

    kernel: str
    case: str
    repro: str
    sides: tuple[str, str]
    compared: int
    first: Divergence | None
    points: tuple[Tally, ...]
    only_expected: tuple[str, ...]
    only_got: tuple[str, ...]
    outputs: tuple[Gap, ...]
    notes: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether nothing differs, at any point or in any output, and no tile lacks its partner."""
        return self.first is None and not (self.outputs or self.only_expected or self.only_got)

    @property
    def place(self) -> str:
        """file:line of what wrote the first wrong value: of the first tile that differs, else of the first output."""
        found: list[Divergence | Gap] = [*([self.first] if self.first else []), *self.outputs]
        return next((one.location for one in found if one.location), "")

    @property
    def infected(self) -> tuple[Tally, ...]:
        """Points with tiles that differ, but for the one where the first tile does."""
        return tuple(one for one in self.points if one.differing and self.first and one.point != self.first.point)

    def text(self) -> str:
        """The explanation, the first divergence first, the command to run again last."""
        return "\n".join([f"{self.kernel} {self.case}: {self._head()}", *self._lines(), f"again: {self.repro}"])

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        infected = [one.point for one in self.infected]
        return dataclasses.asdict(self) | {"agrees": self.agrees, "infected": infected, "place": self.place}

    def _head(self) -> str:
        expected, got = self.sides
        if self.first is not None:
            return f"{expected} and {got} first part here"
        if self.outputs:
            names = ", ".join(gap.name for gap in self.outputs)
            return (
                f"all {self.compared} tiles agree and {names} differ: look at what follows "
                "the last rounding point (stores, layout, the wrong core's part)"
            )
        if self.only_expected or self.only_got:
            return f"outputs and {self.compared} tiles agree; others have no partner to compare with"
        return f"all {self.compared} tiles and all outputs agree"

    def _lines(self) -> Iterator[str]:
        if self.first is not None:
            yield self.first.text(self.sides)
            yield from (f"  {one.text()}" for one in self.points if one.point == self.first.point)
            yield from self._behind(self.first.point)
        yield from (f"output {gap.text(self.sides)}" for gap in self.outputs)
        expected, got = self.sides
        if self.only_expected:
            yield f"recorded by {expected} alone: {', '.join(self.only_expected)}"
        if self.only_got:
            yield f"written by {got} alone: {', '.join(self.only_got)}"
        yield from self.notes

    def _behind(self, first: str) -> Iterator[str]:
        """What follows the first point in the order of the model, infected or not."""
        if self.infected:
            yield "it infects, in the order of the model:"
            yield from (f"  {one.text()}" for one in self.infected)
        places = [one.point for one in self.points]
        spared = [one.point for one in self.points[places.index(first) + 1 :] if not one.differing]
        if spared:
            yield f"agree behind it: {', '.join(spared)}"


# --- model and kernel -------------------------------------------------------------------------------------------


def first_difference(subject: Subject, case: Case, profile: NumericsProfile = DEFAULT) -> Explanation:
    """Runs the model with a recorder and the kernel with taps, and pairs them.

    What either raises passes through: a kernel that stops leaves no trace to pair.
    """
    inputs = subject.build(case.config, case.lane, case.seed)
    recorder = ListRecorder()
    expected = subject.model(case.config, inputs, profile=profile, record=recorder)
    backend = SimBackend(Options(profile=profile, taps=True))
    run = backend.launch(subject.prepared(case.config, inputs))
    named = {row.name for row in subject.contract.points}
    taps = {key: tap for key, tap in run.trace.taps.items() if split_name(key[1])[0] in named and tap.instructions}
    return _explained(
        subject,
        case,
        ("model", "kernel"),
        repro_command(subject, case, verb="explain"),
        _paired(recorder, {key: (tap.values, _writer(tap)) for key, tap in taps.items()}),
        _gaps(run.outputs, expected, run.trace),
    )


def _writer(tap: Tap) -> Writer:
    def of(index: Index) -> tuple[str, str]:
        writer = tap.instructions[tap.writers[index]] if tap.writers[index] >= 0 else None
        return (writer.op, writer.location) if writer else ("nothing (never written)", "no line")

    return of


def _storer(trace: Trace | None, got: Array, expected: Array) -> Writer:
    """Who wrote an element of an output to memory. Where nothing did, a differing element that something wrote."""

    def of(index: Index) -> tuple[str, str]:
        if trace is None:
            return "", ""
        if writer := trace.writer(got, index):
            return writer.op, writer.location
        for other in _some_differing(got, expected):
            if writer := trace.writer(got, other):
                return f"nothing; {list(other)} by {writer.op}", writer.location
        return "nothing", "no line"

    return of


def _some_differing(got: Array, expected: Array, most: int = 64) -> list[Index]:
    """Differing elements from all over an output: asking for the writer of each would take long."""
    if got.shape != expected.shape:
        return []
    found = np.argwhere(~same_bits(*_comparable(got, expected)))
    return [tuple(int(i) for i in one) for one in found[:: max(1, len(found) // most)]]


# --- two profiles -----------------------------------------------------------------------------------------------


def profile_difference(
    subject: Subject, case: Case, profiles: tuple[NumericsProfile, NumericsProfile], names: tuple[str, str]
) -> Explanation:
    """Pairs the traces of the model under two profiles; the first is what the other is held against."""
    inputs = subject.build(case.config, case.lane, case.seed)
    recorders = ListRecorder(), ListRecorder()
    expected, got = (
        subject.model(case.config, inputs, profile=profile, record=recorder)
        for profile, recorder in zip(profiles, recorders, strict=True)
    )
    return _explained(
        subject,
        case,
        names,
        " ".join([repro_command(subject, case, verb="explain"), *(f"--profile '{name}'" for name in names)]),
        _paired(recorders[0], {_key(entry): (entry.value, _no_writer) for entry in recorders[1]}),
        _gaps(got, expected),
        (_answers(profiles),),
    )


def _no_writer(index: Index) -> tuple[str, str]:
    return "", ""


def _answers(profiles: tuple[NumericsProfile, NumericsProfile]) -> str:
    """Which questions the profiles answer differently."""
    first, second = (profile.to_dict() for profile in profiles)
    fields = [name for name in first if name != "evidence" and first[name] != second[name]]
    told = ", ".join(f"{name} ({first[name]}, {second[name]})" for name in fields)
    return f"the profiles differ in {told}" if fields else "the profiles give the same answers"


# --- pairing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pairing:
    """Two traces, tile by tile, in the order of the first."""

    found: Mapping[Key, tuple[Entry, Divergence | None]]
    only_expected: frozenset[Key]
    only_got: frozenset[Key]


def _paired(recorder: ListRecorder, got: Mapping[Key, tuple[Array, Writer]]) -> _Pairing:
    recorded = {_key(entry): entry for entry in recorder}
    found = {key: (entry, _divergence(entry, *got[key])) for key, entry in recorded.items() if key in got}
    return _Pairing(found, frozenset(set(recorded) - set(got)), frozenset(set(got) - set(recorded)))


def _explained(
    subject: Subject,
    case: Case,
    sides: tuple[str, str],
    repro: str,
    pairing: _Pairing,
    outputs: tuple[Gap, ...],
    notes: tuple[str, ...] = (),
) -> Explanation:
    return Explanation(
        kernel=subject.name,
        case=case.id,
        repro=repro,
        sides=sides,
        compared=len(pairing.found),
        first=next((one for _, one in pairing.found.values() if one is not None), None),
        points=tuple(_tallies(pairing.found.values())),
        only_expected=_names(pairing.only_expected),
        only_got=_names(pairing.only_got),
        outputs=outputs,
        notes=notes,
    )


def _key(entry: Entry) -> Key:
    return (entry.core, entry.name, entry.occurrence)


def _tallies(found: Iterable[tuple[Entry, Divergence | None]]) -> Iterator[Tally]:
    """Points in the order in which their first differing tile came, those that agree where they began."""
    tiles: dict[str, list[Divergence | None]] = {}
    place: dict[str, int] = {}
    for count, (entry, divergence) in enumerate(found):
        seen = tiles.setdefault(entry.point, [])
        if not seen or (divergence is not None and not any(seen)):
            place[entry.point] = count
        seen.append(divergence)
    for point in sorted(tiles, key=place.__getitem__):
        apart = [one for one in tiles[point] if one is not None]
        yield Tally(point, len(apart), len(tiles[point]), max((one.max_ulp for one in apart), default=0))


def _names(keys: frozenset[Key], most: int = 8) -> tuple[str, ...]:
    names = [f"{name} (core {core}, occurrence {occurrence})" for core, name, occurrence in sorted(keys)]
    return (*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else []))


def _divergence(entry: Entry, values: Array, writer: Writer) -> Divergence | None:
    """None where the tile has the recorded bits; what the model does not know of a tile is not looked at."""
    place = (entry.point, entry.name, entry.core, entry.occurrence)
    expected = _with_shape_of(entry.value, values)
    if expected is None:
        instruction, location = writer((0,) * values.ndim)
        why = f"shape {list(values.shape)}, expected {list(entry.value.shape)}"
        return Divergence(*place, why, instruction=instruction, location=location)
    got = values[tuple(slice(0, size) for size in expected.shape)]
    why = f"dtype {got.dtype}, expected {expected.dtype}" if got.dtype != expected.dtype else ""
    apart = _apart(got, expected, writer)
    return Divergence(*place, why, **apart) if why or apart["differing"] else None


def _apart(got: Array, expected: Array, writer: Writer) -> dict[str, Any]:
    """How two arrays of one shape differ, as the fields of a Divergence or a Gap."""
    differs = ~same_bits(*_comparable(got, expected))
    index = tuple(int(i) for i in np.argwhere(differs)[0]) if differs.any() else None
    instruction, location = writer((0,) * got.ndim if index is None else index)
    found: dict[str, Any] = {"differing": int(differs.sum()), "elements": expected.size}
    found |= {"instruction": instruction, "location": location}
    if index is None:
        return found
    distances = _distances(got[differs], expected[differs])
    return found | {
        "index": index,
        "got": float(values64(got[index])),
        "expected": float(values64(expected[index])),
        "got_bits": bits_text(got[index]),
        "expected_bits": bits_text(expected[index]),
        "ulp": int(distances[0]),
        "max_ulp": int(distances.max()),
    }


def _comparable(got: Array, expected: Array) -> tuple[Array, Array]:
    """The two as they are, or their values where their dtypes differ."""
    return (got, expected) if got.dtype == expected.dtype else (values64(got), values64(expected))


def _distances(got: Array, expected: Array) -> Array:
    """Distances in ULP of the expected dtype, to which other floats are rounded once; integers have steps of one."""
    if got.dtype == expected.dtype:
        return ulp_distance(got, expected)
    if format_of(expected.dtype).kind == "float":
        return ulp_distance(cast(to_float32(got), expected.dtype), expected)
    apart = np.abs(values64(got) - values64(expected))
    steps: Array = np.minimum(np.nan_to_num(apart, nan=NAN_DISTANCE), NAN_DISTANCE).astype(np.int64)
    return steps


def _with_shape_of(value: Array, tile: Array) -> Array | None:
    """The model's value in the rank of the other tile, no larger than it; None where that cannot be.

    Tiles may be allocated larger than what is used of them, and carry axes of size one.
    """
    if value.ndim != tile.ndim:
        if value.size != tile.size:
            return None
        value = value.reshape(tile.shape)
    return value if all(used <= size for used, size in zip(value.shape, tile.shape, strict=True)) else None


def _gaps(got: Arrays, expected: Arrays, trace: Trace | None = None) -> tuple[Gap, ...]:
    gaps = [_gap(name, got.get(name), expected.get(name), trace) for name in {**expected, **got}]
    return tuple(gap for gap in gaps if gap is not None)


def _gap(name: str, got: Array | None, expected: Array | None, trace: Trace | None) -> Gap | None:
    if got is None or expected is None:
        return Gap(name, why=f"{name} is {'missing' if got is None else 'none of the outputs'}")
    kinds = (f"{one.dtype} {list(one.shape)}" for one in (got, expected))
    why = f"{name}: {', expected '.join(kinds)}"
    writer = _storer(trace, got, expected)
    if got.shape != expected.shape:
        instruction, location = writer((0,) * got.ndim)
        return Gap(name, why=why, instruction=instruction, location=location)
    apart = _apart(got, expected, writer)
    if got.dtype != expected.dtype:
        return Gap(name, why=why, **apart)
    return Gap(name, **apart) if apart["differing"] else None
