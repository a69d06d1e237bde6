"""What the suite needs to know of a kernel: the record that every case module fills in.

A case module `conformance/cases/<kernel>.py` exposes one `SUBJECT`. Command line, fuzzing, goldens,
reports, benchmarks and device backends all work from it; no other place lists kernels.

The ladder of one case: `build` makes the inputs, `truth` and `model` are the reference, and
`kernel` (through `call` and a backend) is what is being judged. All three return the same named
outputs; an argument updated in place is an output like any other, whole array, old parts included.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from conformance.config_codec import (
    config_digest,
    config_from_dict,
    config_from_text,
    config_text,
    config_to_dict,
)
from conformance.spoilings import Spoiling, lane_of

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from conformance.bounds import Bound
    from conformance.pairwise import Flag
    from conformance.providers import Provider
    from conformance.tolerances import Tolerance
    from reference.contract import Contract, Refusal

__all__ = [
    "Backend",
    "Bench",
    "Call",
    "Case",
    "Output",
    "Subject",
    "Unrounded",
    "case_from_id",
    "case_id",
    "config_digest",
    "config_from_dict",
    "config_from_text",
    "config_text",
    "config_to_dict",
    "repro_command",
]

Arrays = dict[str, NDArray[Any]]

#: Ids of catalog cases, fit for file names and pytest ids.
_CATALOG_ID = re.compile(r"[a-z0-9][a-z0-9_.-]*\Z")
_FREE_ID = re.compile(r"cfg:lane=(?P<lane>[a-z0-9_]+),seed=(?P<seed>[0-9]+),(?P<config>.*)\Z")


@dataclass(frozen=True)
class Case:
    """One point of a kernel's space: a legal config, the lane its data come from, and a seed.

    `tags` select cases: 'ci' is run by every test run, 'golden' has a golden file, 'slow' is left to
    nightly runs, 'device' is what a hardware session runs first.
    """

    id: str
    config: Any
    lane: str = "normal"
    seed: int = 0
    tags: frozenset[str] = frozenset()
    note: str = ""


def _always(config: Any) -> bool:
    return True


@dataclass(frozen=True)
class Output:
    """What the suite may hold against one named output.

    `argument` names the input that the output updates in place ('' for a fresh tensor), in the configs for
    which `updates` holds; in others the output is a fresh tensor as well. An updated argument must come back
    whole, and refused arguments must leave it as it was. `sentinels` are values that stand for
    "nothing here" (a row maximum of masked rows, a padded slot): where truth has one, the output must
    have exactly it, and such elements take no part in tolerances or statistics.
    """

    name: str
    argument: str = ""
    sentinels: tuple[float, ...] = ()
    description: str = ""
    updates: Callable[[Any], bool] = _always

    def updated(self, config: Any) -> str:
        """The argument that the output is under a config, '' where it is a tensor of its own."""
        return self.argument if self.argument and self.updates(config) else ""


@dataclass(frozen=True)
class Call:
    """One launch as data: what to run, with which keyword arguments, and where outputs come out.

    `function` is the `nki.jit` object (or a wrapper kernel around it); `lnc` the number of cores;
    `returns` names the returned tensors in order; `in_place` maps an output name to the keyword
    argument that carries it. `target` is the instance family the launch needs ("trn3"), '' for whatever the
    backend has. Arrays are in storage dtypes; backends never change them.
    """

    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    returns: tuple[str, ...]
    lnc: int = 1
    in_place: Mapping[str, str] = field(default_factory=dict)
    target: str = ""


class Backend(Protocol):
    """Something that executes kernels: the embedded machine, the official simulator, a chip."""

    @property
    def name(self) -> str:
        """Name in reports and in the table of required grades: sim, nki-sim, trn2, trn3."""

    def run(self, call: Call) -> Arrays:
        """Named outputs of one launch; the arrays in `call.arguments` keep their bytes."""


@dataclass(frozen=True)
class Bench:
    """One row of the benchmark table: a config, and the same mathematics in plain fp32 NumPy."""

    name: str
    config: Any
    numpy_fp32: Callable[[Any, Mapping[str, NDArray[Any]]], Any]
    lane: str = "normal"
    seed: int = 0


@dataclass(frozen=True)
class Unrounded:
    """The data of a case before its builder rounded them into the dtypes of arguments that hold a cache.

    `inputs` gives such arguments in float32, for (config, lane, seed); `truth` takes them in place of the others.
    """

    inputs: Callable[[Any, str, int], Arrays]
    truth: Callable[[Any, Arrays], Arrays]


def _nothing_undefined(config: Any, inputs: Arrays) -> Arrays:
    return {}


def _every_lane_fits(config: Any, lane: str) -> bool:
    return True


def _not_quantised(config: Any) -> str:
    return "none"


def _no_bounds(config: Any, inputs: Arrays) -> Mapping[str, Bound]:
    return {}


@dataclass(frozen=True)
class Subject:
    """A kernel as the suite sees it.

    name            the kernel's name, equal to its case module's
    config_type     frozen dataclass of reference/contracts/<kernel>.py
    contract        its Contract record
    outputs         every output that any config can have; a config may produce fewer
    lanes           lanes that `build` supports; 'normal' is always among them
    catalog         the named cases
    implementation  'package.module:attribute' of the kernel under test; `with_implementation` swaps it
    provider        'package.module:attribute' of a provider (conformance/providers) whose kernel is under test
                    instead, '' for none; `with_provider` sets it
    legal           first violated rule of a config, or None
    call_refusal    (config, inputs) -> first violated rule of a legal config's call, about shapes, dtypes and values
                    of the arguments, or None
    strategy        () -> Hypothesis strategy of legal configs, small ones first
    illegal         () -> Hypothesis strategy of (config, id of the rule that refuses it)
    spoilings       how inputs of a legal config are made to violate each rule about arguments
    build           (config, lane, seed) -> inputs by argument name, in storage dtypes; also for
                    illegal configs, as far as shapes exist, so that refusal is tested at the door
    truth           (config, inputs) -> outputs in float64
    model           (config, inputs, profile=..., record=...) -> outputs in storage dtypes
    call            (config, inputs, implementation) -> Call
    undefined       (config, inputs) -> per output a bool array, True where the contract leaves the value
                    open (padded rows): left out of comparison with truth, not of that with the model
    lane_fits       (config, lane) -> whether this lane can be built for this config
    quantization    config -> label of its number formats, by which tolerances and required grades are
                    looked up (conformance/tolerances.py lists the labels); 'none' where nothing is quantised
    bounds          (config, inputs) -> per output the error bound of grade C, as far as one is derived
    tolerances      rows of grade D that come before those of conformance/tolerances.py
    bench           rows of the benchmark
    flags           options with few values, made by `conformance.pairwise.flags`: fuzzing meets every pair of them
    unrounded       caches before they were rounded into their dtype, where the kernel reads some
    """

    name: str
    config_type: type[Any]
    contract: Contract[Any]
    outputs: tuple[Output, ...]
    lanes: tuple[str, ...]
    catalog: tuple[Case, ...]
    implementation: str
    legal: Callable[[Any], Refusal | None]
    call_refusal: Callable[[Any, Arrays], Refusal | None]
    strategy: Callable[[], SearchStrategy[Any]]
    illegal: Callable[[], SearchStrategy[tuple[Any, str]]]
    build: Callable[[Any, str, int], Arrays]
    truth: Callable[[Any, Arrays], Arrays]
    model: Callable[..., Arrays]
    call: Callable[[Any, Arrays, Callable[..., Any]], Call]
    undefined: Callable[[Any, Arrays], Arrays] = _nothing_undefined
    lane_fits: Callable[[Any, str], bool] = _every_lane_fits
    quantization: Callable[[Any], str] = _not_quantised
    bounds: Callable[[Any, Arrays], Mapping[str, Bound]] = _no_bounds
    tolerances: tuple[Tolerance, ...] = ()
    bench: tuple[Bench, ...] = ()
    flags: tuple[Flag, ...] = ()
    unrounded: Unrounded | None = None
    spoilings: tuple[Spoiling, ...] = ()
    provider: str = ""

    def __post_init__(self) -> None:
        for complaint in _complaints(self):
            raise ValueError(f"subject {self.name}: {complaint}")

    def kernel(self, config: Any, inputs: Arrays, backend: Backend) -> Arrays:
        """Outputs of the implementation under test; `inputs` keep their bytes.

        Does not check arguments: `conformance.entry.launch` is the door that refuses.
        """
        return backend.run(self.prepared(config, inputs))

    def prepared(self, config: Any, inputs: Arrays) -> Call:
        """The launch of the implementation under test, as its provider wants it."""
        call = self.call(config, inputs, self.load())
        return self._provider().adapt_call(self.name, call) if self.provider else call

    def load(self) -> Callable[..., Any]:
        """The implementation under test, imported when first needed. LookupError where the provider has none."""
        if self.provider:
            return self._provided()
        module_name, _, path = self.implementation.partition(":")
        found: Any = importlib.import_module(module_name)
        for attribute in path.split("."):
            found = getattr(found, attribute)
        loaded: Callable[..., Any] = found
        return loaded

    def with_implementation(self, implementation: str) -> Subject:
        """The same subject judging another kernel of the same API, named 'module:attribute'."""
        return dataclasses.replace(self, implementation=implementation)

    def with_provider(self, provider: str) -> Subject:
        """The same subject judging the kernel of a provider, named 'module:attribute'."""
        return dataclasses.replace(self, provider=provider)

    @property
    def judged(self) -> str:
        """What is under test, in a word: 'module:attribute' of the provider or of the kernel."""
        return self.provider or self.implementation

    def _provided(self) -> Callable[..., Any]:
        found = self._provider().implementation(self.name)
        if found is None:
            raise LookupError(f"{self.name} is not provided by {self._provider().name}")
        return found

    def _provider(self) -> Provider:
        from conformance.providers import provider

        return provider(self.provider)

    def output(self, name: str) -> Output:
        """The record of one output; KeyError lists the known names."""
        for output in self.outputs:
            if output.name == name:
                return output
        raise KeyError(f"{self.name} has no output {name!r}, only {[output.name for output in self.outputs]}")

    def spoiling(self, rule: str) -> Spoiling:
        """How a rule about arguments is violated; KeyError where nothing does."""
        return {one.rule: one for one in self.spoilings}[rule]

    def in_place(self, config: Any) -> dict[str, str]:
        """Outputs that are arguments under a config, with the names of these."""
        named = {output.name: output.updated(config) for output in self.outputs}
        return {name: argument for name, argument in named.items() if argument}

    def case(self, case_id: str) -> Case:
        """A catalog case by its id, or any case from its 'cfg:' text."""
        return case_from_id(self, case_id)


def case_id(config: Any, lane: str, seed: int) -> str:
    """Text of a case that is in no catalog: `cfg:lane=exact,seed=7,bs=4,~1a2b3c`."""
    return f"cfg:lane={lane},seed={seed},{config_text(config)}"


def case_from_id(subject: Subject, text: str) -> Case:
    """The case named by a catalog id or by the text that `case_id` wrote.

    ValueError where neither fits, naming the ids there are.
    """
    for case in subject.catalog:
        if case.id == text:
            return case
    match = _FREE_ID.match(text)
    if match is None:
        known = ", ".join(case.id for case in subject.catalog)
        raise ValueError(
            f"{subject.name} has no case '{text}'; known: {known}; or 'cfg:lane=...,seed=...,field=value'"
        )
    config = config_from_text(subject.config_type, match["config"])
    if match["lane"] not in (*subject.lanes, *(lane_of(one.rule) for one in subject.spoilings)):
        raise ValueError(
            f"{subject.name} has no lane '{match['lane']}'; its lanes are {', '.join(subject.lanes)}"
        )
    return Case(text, config, match["lane"], int(match["seed"]))


def repro_command(
    subject: Subject, case: Case, backend: str = "sim", verb: str = "check", repeat: int = 1
) -> str:
    """The one line that runs a case again; catalog cases by id, others by their text."""
    listed = any(case.id == known.id for known in subject.catalog)
    name = case.id if listed else case_id(case.config, case.lane, case.seed)
    words = ["nki-oracle", verb, subject.name, "--case", name]
    if backend != "sim":
        words += ["--backend", backend]
    if subject.provider:
        words += ["--provider", subject.provider]
    elif not subject.implementation.startswith("kernels."):
        words += ["--kernel", subject.implementation]
    if repeat > 1:
        words += ["--repeat", str(repeat)]
    return " ".join(words)


def _complaints(subject: Subject) -> list[str]:
    """Why a record cannot be used, in the order a reader would fix it."""
    ids = [case.id for case in subject.catalog]
    names = [output.name for output in subject.outputs]
    complaints = [
        f"case id '{one}' is not of lower-case letters, digits, '_', '.', '-'"
        for one in ids
        if not _CATALOG_ID.match(one)
    ]
    complaints += [
        f"case id '{one}' stands twice" for one in sorted({one for one in ids if ids.count(one) > 1})
    ]
    complaints += [
        f"output '{one}' stands twice" for one in sorted({one for one in names if names.count(one) > 1})
    ]
    complaints += [
        f"case '{case.id}' is of lane '{case.lane}', which is not among its lanes"
        for case in subject.catalog
        if case.lane not in subject.lanes
    ]
    if "normal" not in subject.lanes:
        complaints.append("lane 'normal' is missing")
    if not names:
        complaints.append("it has no outputs")
    if ":" not in subject.implementation:
        complaints.append(f"implementation '{subject.implementation}' is not of the form 'module:attribute'")
    return complaints
