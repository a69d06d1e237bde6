"""Pairs of options: every two values that are legal together stand in one config of a covering set at least.

A fault often needs two options at once, and drawing at random leaves rare pairs out for a long time. So a run of
the fuzzer begins with a set of configs that has them all. Which values an option has, a case module says (`flags`);
which pairs are legal nobody says: a pair is legal where a legal config has it, found among drawn ones or made by
changing one of them until no rule refuses. A pair that stays refused is reported with the rules that refuse it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

if TYPE_CHECKING:
    from conformance.subject import Subject
    from reference.contract import Rule

#: Legal configs that are drawn to choose from.
_POOL = 400
#: Drawn configs that one search starts from on either side of a pair.
_STARTS = 6
#: Drawn configs that must have a value before what is so of all of them is taken to be so of every one.
_WITNESSES = 20
#: Starts without a way out after which nothing legal is taken to be there.
_ENOUGH = 6
#: Starts without an end after which a search is given up.
_GIVE_UP = 2
#: Changes that are tried from one start before it is given up.
_PATIENCE = 5_000
#: Values of a size that a search tries, those of drawn configs.
_SIZES = 12


@dataclass(frozen=True)
class Flag:
    """An option with few values.

    field    name of the field of the config, or of the property where `of` is given
    values   what it may be; for a size, what matters of it: (0, 16) for 'none' and 'some'
    rest     whether every value that is not listed counts as the last one
    of       config -> value of what no field holds, such as the mode that serves a call; None for a field
    """

    field: str
    values: tuple[Any, ...]
    rest: bool = False
    of: Callable[[Any], Any] | None = None

    def index(self, config: Any) -> int | None:
        """Place in `values` of what a config has, None for a value that is not listed."""
        found = getattr(config, self.field) if self.of is None else self.of(config)
        for index, value in enumerate(self.values):
            # True is no 1, and a dtype None is no 'None'.
            if type(found) is type(value) and found == value:
                return index
        return len(self.values) - 1 if self.rest else None

    def text(self, index: int) -> str:
        """`lnc=2`; for a value that stands for others what it is not."""
        if self.rest and index == len(self.values) - 1:
            others = " or ".join(str(value) for value in self.values[:-1])
            return f"{self.field} not {others}"
        return f"{self.field}={self.values[index]}"


#: A flag by its place among the flags of a subject, and a value by its place among those of the flag.
Value = tuple[int, int]
Pair = tuple[Value, Value]


def flags(config_type: type[Any], /, *derived: Flag, **domains: tuple[Any, ...] | Flag) -> tuple[Flag, ...]:
    """The flags of a config type: every field of type bool, and the fields named, with their values.

    ValueError for a name that is no field, and for a field of names (str) without values: an option must not be
    left out by forgetting it.
    """
    hints = typing.get_type_hints(config_type)
    names = [one.name for one in dataclasses.fields(config_type)]
    if unknown := sorted(set(domains) - set(names)):
        raise ValueError(f"{config_type.__name__} has no field '{unknown[0]}'")
    found = []
    for name in names:
        domain = domains.get(name, (False, True) if hints[name] is bool else None)
        if domain is None and str in (hints[name], *typing.get_args(hints[name])):
            raise ValueError(f"field '{name}' of {config_type.__name__} holds a name, and no values are given")
        if domain is not None:
            found.append(domain if isinstance(domain, Flag) else Flag(name, domain))
    return (*found, *derived)


def some(field: str, none: Any, example: Any) -> Flag:
    """A flag for a field of which it matters whether it is `none`; `example` is tried where it is to be something."""
    return Flag(field, (none, example), rest=True)


@dataclass(frozen=True)
class Coverage:
    """Which pairs there are and which were met, by name; JSON-able, and sums of parts of a run can be made."""

    #: Pairs that a legal config has.
    pairs: frozenset[str] = frozenset()
    covered: frozenset[str] = frozenset()
    #: Pairs that no legal config has, and the rules that refuse them.
    impossible: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Pairs of which the search could not tell.
    unknown: frozenset[str] = frozenset()

    @property
    def missing(self) -> tuple[str, ...]:
        """Pairs that were not met and are not known to be impossible."""
        return tuple(sorted((self.pairs | self.unknown) - self.covered))

    def __add__(self, other: Coverage) -> Coverage:
        covered = self.covered | other.covered
        impossible = {**self.impossible, **other.impossible}
        return Coverage(
            # What was met is possible, whatever a search said of it.
            self.pairs | other.pairs | covered,
            covered,
            {pair: rules for pair, rules in impossible.items() if pair not in covered},
            (self.unknown | other.unknown) - covered,
        )

    def text(self) -> str:
        """One line."""
        met = len(self.pairs & self.covered)
        line = f"pairs covered {met} of {len(self.pairs)}, {len(self.impossible)} impossible"
        return f"{line}, {len(self.unknown)} unknown" if self.unknown else line

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with names for what is not covered."""
        return {
            "pairs": len(self.pairs),
            "covered": len(self.pairs & self.covered),
            "missing": list(self.missing),
            "impossible": [{"pair": pair, "rules": list(rules)} for pair, rules in sorted(self.impossible.items())],
        }


@dataclass(frozen=True)
class Covering:
    """Legal configs that have all pairs found, none of them superfluous, and what is known of the other pairs."""

    configs: tuple[Any, ...]
    coverage: Coverage


@functools.cache
def covering(subject: Subject) -> Covering:
    """The covering set of a subject; the same on every run. Takes seconds, but for a subject without flags."""
    return _Search(subject).covering() if subject.flags else Covering((), Coverage())


def met(subject: Subject, config: Any) -> frozenset[str]:
    """Names of the pairs that a config has."""
    options = subject.flags
    return frozenset(_name(options, pair) for pair in _pairs(options, config))


def pool(subject: Subject, count: int = _POOL, seed: int = 0) -> list[Any]:
    """Different legal configs, drawn from the strategy of the subject."""
    found: dict[Any, None] = {}

    def keep(config: Any) -> None:
        found.setdefault(config)

    settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )(seeded(seed)(given(subject.strategy())(keep)))()
    return [config for config in found if subject.legal(config) is None]


def _name(options: Sequence[Flag], pair: Pair) -> str:
    return " & ".join(options[flag].text(index) for flag, index in pair)


def _values(options: Sequence[Flag], config: Any) -> list[Value]:
    found = ((flag, option.index(config)) for flag, option in enumerate(options))
    return [(flag, index) for flag, index in found if index is not None]


def _pairs(options: Sequence[Flag], config: Any) -> Iterator[Pair]:
    return itertools.combinations(_values(options, config), 2)


@dataclass(frozen=True)
class _Answer:
    """What a search found: a legal config, or the rules that refuse all it tried. `sure`: it tried all there is."""

    config: Any = None
    rules: tuple[str, ...] = ()
    sure: bool = True


class _Search:
    """Looks for legal configs by changing drawn ones."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.options = subject.flags
        listed = [case.config for case in subject.catalog if "ci" in case.tags and "adversarial" not in case.tags]
        self.pool = list(dict.fromkeys([*pool(subject), *listed]))
        self._rules: tuple[Rule[Any], ...] = subject.contract.rules
        self.fields = [one.name for one in dataclasses.fields(subject.config_type)]
        self.alternatives = {name: self._alternatives(name) for name in self.fields}
        self.has = {config: frozenset(_values(self.options, config)) for config in self.pool}

    def covering(self) -> Covering:
        every = self._every_pair()
        chosen = self._greedy(self.pool, set(every))
        left = set(every).difference(*(set(_pairs(self.options, config)) for config in chosen))
        impossible: dict[Pair, tuple[str, ...]] = {}
        unknown: set[Pair] = set()
        alone = self._look_for_values(left)
        for pair in every:
            if pair not in left:
                continue
            answer = next((alone[value] for value in pair if value in alone), None) or self._find(pair)
            if answer.config is not None:
                chosen.append(answer.config)
                left.difference_update(_pairs(self.options, answer.config))
            elif answer.sure:
                impossible[pair] = answer.rules
            else:
                unknown.add(pair)
        legal = set(every) - set(impossible) - unknown
        coverage = Coverage(
            frozenset(self._named(legal)),
            frozenset(),
            {_name(self.options, pair): rules for pair, rules in impossible.items()},
            frozenset(self._named(unknown)),
        )
        # Configs found late often have the pairs of early ones.
        return Covering(tuple(self._without_superfluous(self._greedy(chosen, legal))), coverage)

    def _named(self, pairs: Iterable[Pair]) -> Iterator[str]:
        return (_name(self.options, pair) for pair in pairs)

    def _every_pair(self) -> list[Pair]:
        values = [[(flag, index) for index in range(len(one.values))] for flag, one in enumerate(self.options)]
        return [pair for a, b in itertools.combinations(values, 2) for pair in itertools.product(a, b)]

    def _greedy(self, configs: Sequence[Any], wanted: set[Pair]) -> list[Any]:
        """Few of the configs that have together all the wanted pairs that any of them has."""
        gains = {config: wanted.intersection(_pairs(self.options, config)) for config in configs}
        left, chosen = set(wanted), []
        while gains:
            # The earliest of the best: what is drawn first is small.
            best = max(gains, key=lambda config: len(gains[config]))
            if not gains[best]:
                break
            chosen.append(best)
            left -= gains[best]
            gains = {config: gain & left for config, gain in gains.items() if gain & left}
        return chosen

    def _without_superfluous(self, configs: list[Any]) -> list[Any]:
        counts = Counter(pair for config in configs for pair in _pairs(self.options, config))
        kept = []
        for config in reversed(configs):
            pairs = set(_pairs(self.options, config))
            if any(counts[pair] == 1 for pair in pairs):
                kept.append(config)
            else:
                counts.subtract(pairs)
        return kept[::-1]

    def _look_for_values(self, left: set[Pair]) -> dict[Value, _Answer]:
        """Values that were never drawn: configs found for them join the pool; those that have none are answered.

        What no config has in itself has no pair either, and what is rare is a good start for its pairs.
        """
        alone = {}
        for value in sorted({value for pair in left for value in pair} - set().union(*self.has.values())):
            answer = self._find((value,))
            if answer.config is None:
                alone[value] = answer
            elif answer.config not in self.has:
                self.pool.append(answer.config)
                self.has[answer.config] = frozenset(_values(self.options, answer.config))
        return alone

    def _find(self, wanted: Sequence[Value]) -> _Answer:
        """A legal config with the wanted values, made from a drawn one by as few changes as it takes.

        From wherever the search starts it can reach every config that differs in values that were drawn, so a few
        starts without a way out are enough.
        """
        obstacles, ends = Counter[str](), Counter[bool]()
        # A value alone has its answer used for all its pairs: every start is heard.
        enough = _ENOUGH if len(wanted) > 1 else len(self.pool)
        arrived: list[Any] = []
        for start in self._starts(wanted):
            found, is_dead_end = self._walk(start, wanted, obstacles)
            if found is not None:
                arrived.append(found)
            else:
                ends[is_dead_end] += 1
            if len(arrived) == 2 or ends[True] == enough or ends[False] == _GIVE_UP:
                break
        if arrived:
            return _Answer(min(arrived, key=_volume))
        if ends[True] > ends[False]:
            return _Answer(rules=_ranked(obstacles))
        # Too many ways to go them all; a rule that nothing drawn gets past answers as well.
        refusing = self._always_broken(wanted)
        return _Answer(rules=refusing or _ranked(obstacles), sure=bool(refusing))

    def _always_broken(self, wanted: Sequence[Value]) -> tuple[str, ...]:
        """Up to three rules of which one is broken in every drawn config of either value that is given the other too.

        () where there are none. Where few configs have a value, it is given to all.
        """
        witnesses = [config for side in self._sides(wanted) for config in self._given(side, wanted)]
        broken = [frozenset(row.id for row in self._rules if _is_broken(row, config)) for config in witnesses]
        names = sorted(set().union(*broken))
        for size in (1, 2, 3):
            for rules in itertools.combinations(names, size):
                if all(not one.isdisjoint(rules) for one in broken):
                    return rules
        return ()

    def _sides(self, wanted: Sequence[Value]) -> Iterator[list[Any]]:
        derived = [value for value in wanted if self.options[value[0]].of is not None]
        for value in derived or wanted:
            side = [config for config in self.pool if value in self.has[config]]
            yield side if len(side) >= _WITNESSES else self.pool

    def _given(self, configs: Iterable[Any], wanted: Sequence[Value]) -> Iterator[Any]:
        """The configs with the wanted values; without those that so lose what no field holds."""
        lost = {_follows(self.options[flag]) for flag, _ in wanted}
        changed = (dataclasses.replace(config, **self._settable(wanted)) for config in configs)
        return (config for config in changed if self._obstacle(config, wanted) not in lost)

    def _settable(self, wanted: Sequence[Value]) -> dict[str, Any]:
        found = {self.options[flag].field: self.options[flag].values[index] for flag, index in wanted}
        return {name: value for name, value in found.items() if name in self.alternatives}

    def _starts(self, wanted: Sequence[Value]) -> list[Any]:
        """Drawn configs that have something of what is wanted, by turns of either side; any where none has."""
        sides = [_spread([config for config in self.pool if value in self.has[config]]) for value in wanted]
        mixed = [config for turn in itertools.zip_longest(*sides) for config in turn if config is not None]
        return mixed or list(_spread(self.pool))

    def _walk(self, start: Any, wanted: Sequence[Value], obstacles: Counter[str]) -> tuple[Any, bool]:
        """The first legal config on the ways from one start, None for none; and whether all ways were gone."""
        settable = self._settable(wanted)
        # A field that was set once stays: else a search would go round in circles between two rules.
        layer = {(dataclasses.replace(start, **settable), frozenset(settable)): None}
        tried = 0
        while layer:
            following: dict[tuple[Any, frozenset[str]], None] = {}
            for config, settled in layer:
                obstacle = self._obstacle(config, wanted)
                if obstacle is None:
                    return config, True
                ways, cost = self._ways_round(config, obstacle, wanted, settled)
                obstacles[obstacle] += not ways
                following |= dict.fromkeys(ways)
                tried += cost
                if tried > _PATIENCE:
                    return None, False
            layer = following
        return None, True

    def _obstacle(self, config: Any, wanted: Sequence[Value]) -> str | None:
        """The property that a config has not as wanted, or the rule that refuses it; None where all is well."""
        for flag, index in wanted:
            option = self.options[flag]
            if option.of is not None and self._value(option, config) != index:
                return _follows(option)
        refusal = self.subject.legal(config)
        return None if refusal is None else refusal.rule

    def _value(self, option: Flag, config: Any) -> int | None:
        try:
            return option.index(config)
        except (ArithmeticError, ValueError, AssertionError):
            # A property need not exist where a rule is broken.
            return None

    def _ways_round(
        self, config: Any, obstacle: str, wanted: Sequence[Value], settled: frozenset[str]
    ) -> tuple[list[tuple[Any, frozenset[str]]], int]:
        """Configs that this obstacle does not stop, one field changed, or two where no one field does it.

        Beside each the fields that are settled by then; and how many changes were tried.
        """
        scope = self._scope(config, obstacle, wanted) - settled
        changes = [
            (name, value)
            for name in self.fields
            if name in scope
            for value in self.alternatives[name]
            if value != getattr(config, name)
        ]
        # What is as wanted must not be given up for the sake of a rule.
        follows = {_follows(self.options[flag]) for flag, _ in wanted}
        lost = set() if obstacle in follows else follows
        tried = 0
        for size in (1, 2):
            found: dict[tuple[str, ...], list[Any]] = {}
            for chosen in map(dict, itertools.combinations(changes, size)):
                alike = found.setdefault(tuple(chosen), [])
                if len(chosen) == size:
                    tried += 1
                    changed = dataclasses.replace(config, **chosen)
                    if self._obstacle(changed, wanted) not in (obstacle, *lost):
                        alike.append(changed)
            ways = [(one, settled | frozenset(names)) for names, alike in found.items() for one in _outer(alike)]
            if ways:
                return ways, tried
        return [], tried

    def _scope(self, config: Any, obstacle: str, wanted: Sequence[Value]) -> set[str]:
        """Fields on which an obstacle depends: those that the rule or the property reads of a config."""
        rows = [row.holds for row in self._rules if row.id == obstacle]
        derived = [self.options[flag].of for flag, _ in wanted]
        readers = rows or [of for of in derived if of is not None]
        return set().union(*(_reads(reader, config) for reader in readers)) if readers else set(self.fields)

    def _alternatives(self, name: str) -> list[Any]:
        """Values to try for a field: those of its flag, else those that drawn configs have most often."""
        drawn = Counter(getattr(config, name) for config in self.pool)
        common = [value for value, _ in drawn.most_common(_SIZES)]
        # Small sizes first: the configs that are found are to be run.
        common.sort(key=lambda value: (isinstance(value, int), value if isinstance(value, int) else 0))
        option = next((one for one in self.options if one.field == name and one.of is None), None)
        if option is None:
            return common
        return list(option.values) + [value for value in common if option.rest and value not in option.values]


def _is_broken(rule: Rule[Any], config: Any) -> bool:
    try:
        return not rule.holds(config)
    except (ArithmeticError, LookupError, TypeError, ValueError, AssertionError):
        # A rule may rely on those before it.
        return False


def _follows(option: Flag) -> str:
    return f"{option.field} follows from other fields"


def _spread(configs: Sequence[Any], count: int = _STARTS) -> Sequence[Any]:
    """Some of the configs, from all over the list."""
    return configs[:: max(1, len(configs) // count)][:count]


def _volume(config: Any) -> int:
    """Grows with what a config costs to run: the product of its sizes."""
    sizes = (getattr(config, one.name) for one in dataclasses.fields(config))
    return math.prod(size for size in sizes if type(size) is int and size > 0)


def _outer(alike: list[Any]) -> list[Any]:
    """Of changes of the same fields that all take an obstacle away: the first, the middle and the last.

    Sizes stand in order, so that what a later rule asks to be small or large is among them.
    """
    return list(dict.fromkeys((alike[0], alike[len(alike) // 2], alike[-1]))) if alike else []


def _ranked(refusals: Counter[str]) -> tuple[str, ...]:
    return tuple(rule for rule, count in refusals.most_common(3) if count)


def _reads(reader: Callable[[Any], Any], config: Any) -> set[str]:
    """Names of the fields that a rule or a property reads of a config."""
    traced, reads = _traced(config)
    reader(traced)
    return reads


def _traced(config: Any) -> tuple[Any, set[str]]:
    """A copy of a config that notes which of its fields are read, and the notes."""
    reads: set[str] = set()
    values = {one.name: getattr(config, one.name) for one in dataclasses.fields(config)}
    kind: Any = type(config)
    traced = object.__new__(_tracing(kind))
    for name, value in values.items():
        object.__setattr__(traced, name, value)
    object.__setattr__(traced, "_reads", reads)
    return traced, reads


@functools.cache
def _tracing(config_type: type[Any]) -> type[Any]:
    names = {one.name for one in dataclasses.fields(config_type)}

    def __getattribute__(self: Any, name: str) -> Any:
        if name in names:
            object.__getattribute__(self, "_reads").add(name)
        return object.__getattribute__(self, name)

    return type(f"Traced{config_type.__name__}", (config_type,), {"__getattribute__": __getattribute__})
