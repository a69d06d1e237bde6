"""Where the error of a result comes from: every rounding point switched to exact in turn.

Truth is float64 without roundings, the model rounds where the kernel does; the error of an output is what is
between them. A study (`reference.rounding`) is a model whose chosen points do not round.

The share of a point. Let r_0 be the result with every point exact, r_k that with the first k points rounding, in
the order in which the model reaches them, and r_N the model itself. Then the error is taken apart without a rest:

    r_N - truth = (r_0 - truth) + (r_1 - r_0) + ... + (r_N - r_(N-1))

Term k is what rounding at point k, of the values that really arrive there, changes in the result when everything
behind it is exact. `adds` is its length relative to that of truth, `share` its projection on the whole error,
<term, error> / <error, error>: shares sum to 1, and one below 0 takes away from the error of others. A point that
feeds no element of an output has a share of exactly 0 in it.

`without` is the error of the model with this point alone exact. It tells what there is to gain, and only roughly:
values that change ever so slightly are rounded anew by every point behind, so that two runs differ by the chance
of these roundings as well, the more the fewer elements an output has, most of all in front of an 8-bit format.

`introduced` is the error at the point itself, relative to the values there; the SONNX profile calls the two sides
error introduced and error propagated.

float32. No wider result of the same operations is at hand to switch to, so that all float32 arithmetic (sums in
PSUM, exponentials, running maxima and sums, ...) is one row: r_0 - truth, the error that is left when nothing else
rounds.

Caches. The builders round data into the dtype of a cache before the kernel sees them. Where they can give the data
as they were before (`Subject.unrounded`), each such argument is a point of its own in front of all others, and the
truth is that of the unrounded data. By default this is so for caches narrower than the rest of the tensors, which
answers what an FP8 cache costs. Other inputs count as given, FP8 and MX weights among them: they are drawn as codes,
and there is nothing before these.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.bounds import Bound
from conformance.envelope import values64
from conformance.lanes import LaneError
from conformance.subject import Arrays, Case, Subject, config_to_dict, repro_command
from reference.contract import Contract
from reference.numerics.cast import cast
from reference.numerics.formats import format_of
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.ulp import same_bits
from reference.recorder import split_name
from reference.rounding import Meter, Study, Weighed

Array = NDArray[Any]
Float64 = NDArray[np.float64]
Watch = Callable[[Iterable[Study]], Iterable[Study]]

#: Name of the row of all float32 arithmetic.
FLOAT32 = "float32"

#: What caches can be kept in beside their own dtype.
CACHE_DTYPES = ("bfloat16", "float8_e4m3")

#: Roundings for which the tables of the contracts have no point.
UNNAMED: Mapping[str, str] = {
    "eps": "R_C(norm_eps): the constant as it stands in its tile",
    "weight": "R_C(weight), by DMA",
    "k_active_cast": "R_kv(k_active): new keys in the dtype of the cache",
    "v_active_cast": "R_kv(v_active): new values in the dtype of the cache",
}

#: Narrow points that have no switch: (kernel, point) and why.
UNSWITCHED: Mapping[tuple[str, str], str] = {
    ("attention_tkg", "rope_count"): "the whole part of a number of turns: kept exact, nothing would be reduced",
    ("attention_block_tkg", "x"): "X in its own dtype: the block adds no residual to it",
    ("qkv", "operand_scale"): "scale bytes of operand_mx, switched with it",
}

METHOD = (
    "share: part of the squared error that the point's own rounding makes, with the points before it rounding and "
    "those behind it exact; shares sum to 100 %.",
    "introduced: relative error at the point. adds: what of it reaches the output, relative to truth. "
    "without: error of the output with this point alone exact; chance decides its last digits.",
)


class CacheError(ValueError):
    """The rounding of caches was asked for, and there are no data before it."""


@dataclass(frozen=True)
class Effect:
    """What one point does to one output; see the module."""

    share: float
    adds: float
    #: None for float32 arithmetic, which cannot be switched.
    without: float | None


@dataclass(frozen=True)
class Part:
    """One row of a budget."""

    #: 'point', 'input' (an argument rounded before the kernel sees it) or 'float32'.
    kind: str
    #: Name of the switch: a point, with a tile index behind it where several operands have a point each.
    name: str
    #: The contract's name of it.
    point: str
    #: Which operand it is of, where several have a point each: "K"; '' elsewhere.
    operand: str
    description: str
    #: Number format that is rounded to.
    dtype: str
    #: Relative error at the point; None for float32 arithmetic, which has no one place.
    introduced: float | None
    #: Elements that the rounding changed, of all that passed.
    changed: int
    elements: int
    effects: Mapping[str, Effect]


@dataclass(frozen=True)
class Total:
    """The error of one output: relative L2, over `elements` judged ones."""

    error: float
    #: The same against the truth of the inputs as given: what the kernel's own roundings make of it.
    kernel: float
    #: Largest |error|/bound of grade C, inputs as given; None where no bound is derived.
    share_of_bound: float | None
    elements: int


@dataclass(frozen=True)
class CacheCost:
    """What rounding the caches adds to the error of each output, all of them together, by the dtype they are kept in.

    `dtype` is the one that the case has; others are what else one could choose.
    """

    arguments: tuple[str, ...]
    dtype: str
    adds: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Budget:
    """The errors of all outputs of one case, taken apart."""

    kernel: str
    case: str
    config: dict[str, Any]
    lane: str
    seed: int
    profile: dict[str, Any]
    repro: str
    totals: Mapping[str, Total]
    #: In the order in which the model reaches them, float32 arithmetic first.
    parts: tuple[Part, ...]
    #: Points that were reached and rounded nothing, with the reason.
    idle: Mapping[str, str]
    caches: CacheCost | None
    #: What the budget leaves out, one sentence each.
    outside: tuple[str, ...]

    def ranked(self, output: str) -> tuple[Part, ...]:
        """The rows of an output, largest share first."""
        return tuple(sorted(self.parts, key=lambda part: -_sortable(part.effects[output].share)))

    def to_dict(self, output: str) -> dict[str, Any]:
        """JSON-able; share, error and without of a point are those of `output`, the other outputs stand below."""
        total = self.totals[output]
        return {
            "kernel": self.kernel,
            "case": self.case,
            "config": self.config,
            "lane": self.lane,
            "seed": self.seed,
            "profile": self.profile,
            "repro": self.repro,
            "output": output,
            "total": total.error,
            "kernel_alone": total.kernel,
            "share_of_bound": total.share_of_bound,
            "points": [_row(part, output) for part in self.ranked(output)],
            "outputs": {name: _record(one) for name, one in self.totals.items()},
            "idle": dict(self.idle),
            "caches": None if self.caches is None else _record(self.caches),
            "outside": list(self.outside),
            "method": list(METHOD),
        }


def _row(part: Part, output: str) -> dict[str, Any]:
    effect = part.effects[output]
    plain = {key: value for key, value in _record(part).items() if key != "effects"}
    chosen = {"share": effect.share, "error": effect.adds, "without": effect.without}
    return plain | chosen | {"outputs": {name: _record(one) for name, one in part.effects.items()}}


def _record(row: Any) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(row).items()}


def _sortable(share: float) -> float:
    return share if math.isfinite(share) else math.inf


def budget(
    subject: Subject,
    case: Case,
    profile: NumericsProfile = DEFAULT,
    caches: bool | None = None,
    watch: Watch = iter,
) -> Budget:
    """Takes the errors of a legal case apart; two model runs per point.

    Args:
        caches: whether rounding data into caches counts; None for where they are narrower than other tensors.
        watch: wraps the studies as they are worked off, to show progress.

    Raises:
        LaneError: the config has no room for the lane.
        CacheError: the rounding of caches was asked for and the builder has no data before it.
    """
    bench = _Bench(subject, case, profile, caches)
    return bench.budget(watch)


# --- the runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Names:
    """A recorder that notes which points hold narrow values, and which float32 ones."""

    narrow: dict[str, str] = field(default_factory=dict)
    wide: dict[str, str] = field(default_factory=dict)
    enabled: bool = True

    def __call__(self, point: str, tile: tuple[int, ...], value: Array, core: int = 0) -> None:
        (self.wide if value.dtype == np.float32 else self.narrow)[point] = value.dtype.name


class _Bench:
    """One case: its data, its truth, and model runs with chosen points exact."""

    def __init__(self, subject: Subject, case: Case, profile: NumericsProfile, caches: bool | None) -> None:
        self.subject, self.case, self.profile = subject, case, profile
        self.inputs = subject.build(case.config, case.lane, case.seed)
        self.given_truth = subject.truth(case.config, self.inputs)
        self.names, self.meter = _Names(), Meter()
        self.base = subject.model(case.config, self.inputs, profile=profile, record=self.names)
        #: Why there are no caches before rounding.
        self.no_caches = ""
        self.before = self._before_rounding()
        #: The arguments whose rounding counts, as they were before it.
        self.wide = self._chosen(caches)
        for name, value in self.wide.items():
            self.meter.weigh(name, value, self.inputs[name], format_of(self.inputs[name].dtype))
        self.truth = self._truth(self.inputs | self.wide) if self.wide else self.given_truth
        self._model(Study.of(profile, meter=self.meter))
        self.defined = {name: self._judged(name) for name in self.truth}
        #: Switches in the order of the model, without those that round nothing here.
        self.switches = tuple(name for name, row in self.meter.points.items() if row.changed)

    def budget(self, watch: Watch) -> Budget:
        case, config = self.case, self.case.config
        return Budget(
            kernel=self.subject.name,
            case=case.id,
            config=config_to_dict(config),
            lane=case.lane,
            seed=case.seed,
            profile=self.profile.to_dict(),
            repro=repro_command(self.subject, case, verb="budget"),
            totals=self._totals(),
            parts=self._parts(self._effects(watch)),
            idle=dict(self._idle()),
            caches=self._cache_cost(),
            outside=tuple(self._outside()),
        )

    # -- data ----------------------------------------------------------------------------------------------------

    def _chosen(self, caches: bool | None) -> Arrays:
        if caches and not self.before:
            raise CacheError(self.no_caches)
        widest = 1 if caches is None else 2 if caches else 0
        return {name: x for name, x in self.before.items() if self.inputs[name].dtype.itemsize <= widest}

    def _before_rounding(self) -> Arrays:
        """Caches before they were rounded; only where rounding them gives the very inputs of the case."""
        source, case = self.subject.unrounded, self.case
        if source is None:
            self.no_caches = f"{self.subject.name} reads no cache"
            return {}
        try:
            found = source.inputs(case.config, case.lane, case.seed)
        except LaneError:
            found = {}
        self.no_caches = f"lane {case.lane} draws caches in their own dtype: there is nothing before rounding"
        given = {name: self.inputs[name] for name in found}
        alike = all(np.all(same_bits(cast(x, given[name].dtype), given[name])) for name, x in found.items())
        return found if alike else {}

    def _truth(self, inputs: Arrays) -> Arrays:
        """Truth of inputs whose caches may be in any dtype."""
        assert self.subject.unrounded is not None
        with np.errstate(all="ignore"):
            return self.subject.unrounded.truth(self.case.config, inputs)

    def _judged(self, name: str) -> NDArray[np.bool_]:
        """Elements that have an error: finite, defined, no sentinel, and written by the call."""
        truth, output = self.truth[name], self.subject.output(name)
        judged = np.isfinite(truth) & np.isfinite(_wide(self.base[name]))
        judged &= ~np.isin(_wide(self.base[name]), np.asarray(output.sentinels, np.float64))
        if (open_ := self.subject.undefined(self.case.config, self.inputs).get(name)) is not None:
            judged &= ~open_
        argument = self._in_place.get(name)
        if argument is not None:
            before = _wide((self.inputs | self.wide)[argument])
            judged &= truth != before
        return np.asarray(judged)

    @property
    def _in_place(self) -> Mapping[str, str]:
        return self.subject.call(self.case.config, self.inputs, _no_kernel).in_place

    def _model(self, study: Study) -> Arrays:
        """Results under a study; arguments among its exact points come as they were before rounding."""
        inputs = self.inputs | {name: x for name, x in self.wide.items() if name in study.exact}
        with np.errstate(all="ignore"):
            return self.subject.model(self.case.config, inputs, profile=study)

    def _errors(self, results: Arrays, truth: Arrays | None = None) -> dict[str, Float64]:
        """result - truth of the judged elements, per output."""
        against = self.truth if truth is None else truth
        with np.errstate(invalid="ignore"):
            return {name: (_wide(results[name]) - against[name])[at] for name, at in self.defined.items()}

    # -- what points do ------------------------------------------------------------------------------------------

    def _effects(self, watch: Watch) -> dict[str, dict[str, Effect]]:
        """Per switch, and for float32 arithmetic, the effect on every output."""
        whole = self._errors(self.base)
        every = frozenset(self.meter.points)
        studies = [Study.of(self.profile, every)]
        for count, name in enumerate(self.switches):
            rounding = frozenset(self.switches[: count + 1])
            studies += [Study.of(self.profile, every - rounding), Study.of(self.profile, frozenset({name}))]
        runs: Iterator[dict[str, Float64]] = (self._errors(self._model(study)) for study in watch(studies))
        before = next(runs)
        found = {FLOAT32: {name: self._effect(name, before[name], whole[name], None) for name in whole}}
        for switch, (after, without) in zip(self.switches, _pairs(runs), strict=True):
            found[switch] = {
                name: self._effect(name, after[name] - before[name], whole[name], without[name]) for name in whole
            }
            before = after
        return found

    def _effect(self, output: str, term: Float64, whole: Float64, without: Float64 | None) -> Effect:
        length = float(whole @ whole)
        share = float(term @ whole) / length if length else 0.0
        return Effect(share, self._relative(output, term), None if without is None else self._relative(output, without))

    def _relative(self, output: str, error: Float64, against: Arrays | None = None) -> float:
        """Length of an error relative to that of truth."""
        truth = (self.truth if against is None else against)[output][self.defined[output]]
        length, size = float(np.sqrt(truth @ truth)), float(np.sqrt(error @ error))
        return size / length if length else (0.0 if size == 0 else math.inf)

    def _parts(self, effects: Mapping[str, Mapping[str, Effect]]) -> tuple[Part, ...]:
        count = len(self.names.wide)
        text = f"float32 arithmetic of {count} points: products, sums, functions"
        parts = [Part("float32", FLOAT32, FLOAT32, "", text, FLOAT32, None, 0, 0, effects[FLOAT32])]
        return (*parts, *(self._part(name, self.meter.points[name], effects[name]) for name in self.switches))

    def _part(self, name: str, row: Weighed, effects: Mapping[str, Effect]) -> Part:
        rest = (row.format, row.introduced, row.changed, row.elements, effects)
        if name in self.wide:
            return Part("input", name, name, "", "the argument as it is given", *rest)
        point, tile = split_name(name)
        text = UNNAMED[point] if point in UNNAMED else self.subject.contract.point(point).produced
        return Part("point", name, point, operand_of(self.subject.contract, point, tile), text, *rest)

    # -- beside the points ---------------------------------------------------------------------------------------

    def _totals(self) -> dict[str, Total]:
        config, errors = self.case.config, self._errors(self.base)
        own = self._errors(self.base, self.given_truth)
        bounds = self.subject.bounds(config, self.inputs)
        return {
            name: Total(
                self._relative(name, errors[name]),
                self._relative(name, own[name], self.given_truth),
                _share_of_bound(own[name], bounds.get(name), self.defined[name]),
                own[name].size,
            )
            for name in errors
        }

    def _idle(self) -> Iterator[tuple[str, str]]:
        for name, row in self.meter.points.items():
            if not row.changed:
                yield name, f"all values fit {row.format} as they are"
        points = {point_of(name) for name in self.meter.points}
        for point in self.names.narrow:
            if (why := UNSWITCHED.get((self.subject.name, point))) is not None:
                yield point, why
            elif point not in points:
                exact = self.subject.contract.point(point).exact
                yield point, "exact by the contract" if exact else "copies what was rounded before, or was given so"

    def _cache_cost(self) -> CacheCost | None:
        """How far truth moves when caches are rounded, into their own dtype and into others: the mathematics alone."""
        if not self.before:
            return None
        exact = self._truth(self.inputs | self.before)
        own = "/".join(sorted({format_of(self.inputs[name].dtype).name for name in self.before}))
        kept = {own: {name: self.inputs[name] for name in self.before}}
        others = [dtype for dtype in CACHE_DTYPES if dtype != own]
        kept |= {dtype: {name: cast(x, dtype) for name, x in self.before.items()} for dtype in others}
        moved = {dtype: self._errors(self._truth(self.inputs | caches), exact) for dtype, caches in kept.items()}
        return CacheCost(
            tuple(self.before),
            own,
            {dtype: {name: self._relative(name, x) for name, x in errors.items()} for dtype, errors in moved.items()},
        )

    def _outside(self) -> Iterator[str]:
        narrow = [name for name, x in self.inputs.items() if _is_rounded(x) and name not in self.wide]
        if narrow:
            yield f"Rounding of inputs into their dtype is not part of the error: {', '.join(narrow)} count as given."
        if self.subject.unrounded is not None and not self.before:
            yield f"What the dtype of the caches costs cannot be told: {self.no_caches}."


def _wide(x: Array) -> Float64:
    """float64, also of float64: truth is not to be rounded on the way."""
    return np.asarray(x if x.dtype == np.float64 else values64(x), np.float64)


def _is_rounded(x: Array) -> bool:
    fmt = format_of(x.dtype)
    return fmt.is_float and fmt.bits < 32


def _no_kernel(*arguments: Any) -> None:
    """Stands where a launch names its kernel; never called."""


def _pairs(runs: Iterator[dict[str, Float64]]) -> Iterator[tuple[dict[str, Float64], dict[str, Float64]]]:
    return zip(runs, runs, strict=True)


def _share_of_bound(error: Float64, bound: Bound | None, judged: NDArray[np.bool_]) -> float | None:
    if bound is None:
        return None
    # An infinite limit frees an element.
    limit = bound.limit[judged]
    error, limit = (np.abs(x)[np.isfinite(limit)] for x in (error, limit))
    shares = np.divide(error, limit, out=np.where(error == 0, 0.0, np.inf), where=limit > 0)
    return float(shares.max()) if shares.size else None


def point_of(name: str) -> str:
    """The contract's name of a switch: without tile index."""
    return split_name(name)[0]


def operand_of(contract: Contract[Any], point: str, tile: tuple[int, ...]) -> str:
    """What the contract calls the operand that a tile index stands for ("r = 1: K"), '' where it does not say."""
    if not tile:
        return ""
    letter = contract.point(point).index[0]
    meant = re.compile(rf"\b{letter} = {tile[0]}: (\w+)")
    rows = [contract.point(point), *contract.points]
    texts = (f"{row.shape}; {row.produced}" for row in rows if row.index[:1] == (letter,))
    return next((found[1] for text in texts if (found := meant.search(text))), "")
