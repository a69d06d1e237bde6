"""What a probe is: launches, how to read them, and a table of what each candidate would give."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.probes.host import Answers
from conformance.subject import Arrays, Call
from reference.numerics.profile import PARTS, NumericsProfile, Value

Array = NDArray[Any]
#: Outputs of one run: launch -> output -> array.
Outputs = Mapping[str, Arrays]


@dataclass(frozen=True)
class Band:
    """Expected cells that are known to lie between two ends, for what no candidate fixes to the bit."""

    low: Array
    high: Array


#: Cells of a reading in float64; integers and floats of up to 32 bits fit exactly.
Readings = dict[str, Array]
Expected = Mapping[str, Array | Band]


@dataclass(frozen=True)
class Setting:
    """Where a session runs: the generation asked, the NKI version, and the size of function tables."""

    generation: str = "gen3"
    nki: tuple[int, ...] = NumericsProfile().nki
    tables: str = "sample"

    @property
    def level(self) -> int:
        """2, 3 or 4: the order in which features appeared."""
        return int(self.generation[-1])

    @property
    def target(self) -> str:
        """The instance family of the generation."""
        return {"gen2": "trn1", "gen3": "trn2", "gen4": "trn3"}[self.generation]


@dataclass(frozen=True)
class Probe:
    """One probe. A question may have several, for its parts or for what only one generation can do.

    question  id of the question it works on
    asks      what is done, in one line
    fields    profile fields that its table tells apart
    needs     fields of other questions that shape the table; candidates of theirs may fall, too
    launches  (setting) -> what to run, by name; the outputs of a launch carry the names of its Call
    read      (outputs, setting) -> readings by name, each a small array of cells
    table     (answers to fields and needs, setting) -> expected readings. A reading without an expectation is
              recorded as evidence and decides nothing
    strict    whether the table says nothing where a need fits none of its candidates: random sums show every order
    optional  launches that give evidence alone: where one cannot run the probe goes on without it
    others    field -> known answers that the profile cannot play, with their meanings; the table knows them
    since     first generation that can run it
    notes     (readings, setting) -> lines to print: a recovered tree, the errors of a function table
    """

    question: str
    asks: str
    fields: tuple[str, ...]
    launches: Callable[[Setting], Mapping[str, Call]]
    read: Callable[[Outputs, Setting], Readings]
    table: Callable[[Answers, Setting], Expected]
    needs: tuple[str, ...] = ()
    strict: bool = False
    optional: tuple[str, ...] = ()
    others: Mapping[str, Mapping[Value, str]] = field(default_factory=lambda: MappingProxyType({}))
    since: int = 2
    notes: Callable[[Readings, Setting], Sequence[str]] = lambda readings, setting: ()

    @property
    def scope(self) -> tuple[str, ...]:
        """All fields that the table reads."""
        return (*self.fields, *self.needs)

    @property
    def name(self) -> str:
        """Question, first field, and what else tells it from other probes of the field."""
        kind = (".random" if self.strict else "") + (".gen4" if self.since > 3 else "")
        return f"{self.question}.{self.fields[0]}{kind}"


def call(kernel: str, arguments: Mapping[str, Any], *returns: str) -> Call:
    """The launch of 'module.kernel' of conformance/probes/kernels; one returned tensor is called 'out'.

    Kernels are imported when they are launched: they need an `nki`, and the tables do not.
    """
    module, _, name = kernel.partition(".")
    function = getattr(importlib.import_module(f"conformance.probes.kernels.{module}"), name)
    return Call(function, dict(arguments), returns or ("out",))


def cells(values: Any) -> Array:
    """Any real or integer storage array, or a list of numbers, as float64 cells."""
    array = np.asarray(values)
    if array.dtype.kind in "iufb":
        return array.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return array.astype(np.float32).astype(np.float64)


def fits(got: Array, expected: Array | Band) -> bool:
    """Whether cells are what was expected: any NaN equals any NaN, +0 differs from -0; or inside the band."""
    return got.shape == _shape(expected) and not misfits(got, expected).any()


def misfits(got: Array, expected: Array | Band) -> Array:
    """Per cell whether it is not what was expected; shapes must agree."""
    if isinstance(expected, Band):
        return np.asarray(~((got >= expected.low) & (got <= expected.high)))
    same = (got == expected) & (np.signbit(got) == np.signbit(expected))
    return np.asarray(~(same | (np.isnan(got) & np.isnan(expected))))


def _shape(expected: Array | Band) -> tuple[int, ...]:
    return expected.low.shape if isinstance(expected, Band) else expected.shape


def meaning(probe: Probe, name: str, value: Value) -> str:
    """One line on a candidate, of the profile or of `others`."""
    known = {**PARTS[name].candidates, **probe.others.get(name, {})}
    return known[value]


def digest(launches: Mapping[str, Call]) -> str:
    """12 hexadecimal digits over the kernels' names and every byte of the inputs."""
    total = hashlib.sha256()
    for name, call in launches.items():
        total.update(f"{name} {getattr(call.function, '__name__', '')}".encode())
        for key, value in sorted(call.arguments.items()):
            array = np.asarray(value)
            total.update(f"{key} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:12]
