"""The records a kernel's contract is made of.

A contract is data: arguments, results, the rules that refuse a configuration, the named rounding points,
and the decisions taken where public sources are silent or disagree. Checks, fuzzing strategies, negative
tests, traces, reports and documents read the same records, so a limit or a rounding point is stated in one
place.

`C` is the kernel's frozen `Config`, the JSON-able description of one call (shapes, dtype names, flags, LNC).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from reference.errors import KernelArgumentError

C = TypeVar("C")

#: Tile names end in "_<integer>" per index, so a point whose own name does would be ambiguous.
_ENDS_IN_INDEX = re.compile(r"_\d+$")


@dataclass(frozen=True)
class Argument:
    """One argument of the kernel's entry, in call order."""

    name: str
    #: 'hbm', 'sbuf', 'hbm or sbuf' for tensors; '' for flags and options.
    memory: str
    #: Shape and index rule in the contract's letters, e.g. "[N*D, H], row n*D + d"; '' for flags and options.
    shape: str
    #: Legal dtype names, or legal values of an option; may depend on the mode, then `meaning` says how.
    domain: tuple[str, ...]
    meaning: str
    #: Python text of the default; None when the caller must give the argument.
    default: str | None = None


@dataclass(frozen=True)
class Result:
    """One output, or one argument updated in place, under the name it has in the model's result dict."""

    name: str
    memory: str
    shape: str
    dtype: str
    #: The configurations that have it, in the contract's letters; '' means all.
    when: str = ""


@dataclass(frozen=True)
class Refusal:
    """A rule that one configuration violates."""

    kernel: str
    rule: str
    argument: str
    condition: str
    got: str
    remedy: str

    def error(self) -> KernelArgumentError:
        """The exception to raise for it."""
        return KernelArgumentError(
            self.kernel, self.argument, self.rule, self.condition, self.got, self.remedy
        )


@dataclass(frozen=True)
class Rule(Generic[C]):
    """A condition every legal configuration fulfils.

    Rules are tried in the contract's order, and `holds` is asked only when all earlier rules hold: it may
    rely on them.
    """

    #: Short and stable: negative tests name the rule they expect.
    id: str
    #: The argument to blame.
    argument: str
    #: The condition in words, as the message says it ("B*S must be at most 128").
    condition: str
    holds: Callable[[C], bool]
    #: The offending value, formatted for the message.
    got: Callable[[C], str]
    remedy: str
    #: Where the condition comes from.
    source: str = ""

    def refusal(self, kernel: str, subject: C) -> Refusal | None:
        """The refusal of `subject`, None when the rule holds."""
        if self.holds(subject):
            return None
        return Refusal(kernel, self.id, self.argument, self.condition, self.got(subject), self.remedy)


@dataclass(frozen=True)
class RoundingPoint:
    """A named intermediate value: kernel tiles and model records carry this name and the tile index."""

    name: str
    #: dtype of the tile; 'io' and the like refer to an argument's dtype.
    dtype: str
    memory: str
    #: Shape of one tile, partition first, in the contract's letters.
    shape: str
    #: Names of the trailing tile indices, outermost first; () for one tile per core.
    index: tuple[str, ...]
    #: Formula, reduction order and engine.
    produced: str
    #: True for copies and casts that cannot round: such a point locates layout errors, not rounding.
    exact: bool = False
    #: The configurations that have it; '' means all.
    when: str = ""

    def __post_init__(self) -> None:
        if _ENDS_IN_INDEX.search(self.name):
            raise ValueError(f"rounding point {self.name!r}: a trailing integer would read as a tile index")


@dataclass(frozen=True)
class Decision:
    """What this contract says where public sources are silent, disagree, or describe a defect."""

    id: str
    text: str
    reason: str


@dataclass(frozen=True)
class Defect:
    """A known or likely bug of implementations, and the input idea that makes it visible."""

    id: str
    name: str
    reveals: str
    origin: str = ""


@dataclass(frozen=True)
class Contract(Generic[C]):
    """Everything that is agreed about one kernel."""

    kernel: str
    summary: str
    #: In call order.
    arguments: tuple[Argument, ...]
    results: tuple[Result, ...]
    #: In the order in which they are tried.
    rules: tuple[Rule[C], ...]
    #: In the order in which a core reaches them.
    points: tuple[RoundingPoint, ...]
    decisions: tuple[Decision, ...] = ()
    defects: tuple[Defect, ...] = ()

    def __post_init__(self) -> None:
        for kind, names in self._names():
            _refuse_repeats(self.kernel, kind, names)

    def _names(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return (
            ("argument", tuple(row.name for row in self.arguments)),
            ("rule", tuple(row.id for row in self.rules)),
            ("rounding point", tuple(row.name for row in self.points)),
            ("decision", tuple(row.id for row in self.decisions)),
            ("defect", tuple(row.id for row in self.defects)),
        )

    @property
    def signature(self) -> str:
        """The call as text: "kernel(first, second, third=None)"."""
        parts = (a.name if a.default is None else f"{a.name}={a.default}" for a in self.arguments)
        return f"{self.kernel}({', '.join(parts)})"

    def refusal(self, config: C) -> Refusal | None:
        """The first rule that `config` violates, None when it is legal."""
        return first_refusal(self.kernel, self.rules, config)

    def validate(self, config: C) -> None:
        """Raises KernelArgumentError for the first rule that `config` violates."""
        raise_refusal(self.refusal(config))

    def rule(self, id: str) -> Rule[C]:
        """The rule with that id; KeyError when there is none."""
        return {row.id: row for row in self.rules}[id]

    def point(self, name: str) -> RoundingPoint:
        """The rounding point with that name; KeyError when there is none."""
        return {row.name: row for row in self.points}[name]


def first_refusal(kernel: str, rules: Iterable[Rule[C]], subject: C) -> Refusal | None:
    """The first violated rule, also of rules about something else than a Config (the arguments of a call)."""
    return next((found for rule in rules if (found := rule.refusal(kernel, subject))), None)


def raise_refusal(refusal: Refusal | None) -> None:
    """Raises the refusal's KernelArgumentError; does nothing for None."""
    if refusal is not None:
        raise refusal.error()


def _refuse_repeats(kernel: str, kind: str, names: tuple[str, ...]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"contract {kernel}: {kind} defined twice: {', '.join(repeated)}")
