"""What moved between two sides, and what it means.

Goldens of two versions of a model hold arrays. The new ones are judged with the old ones in the place of the model
(conformance/drift_values.py): A same bits; B legal variant, inside the envelope of the open questions laid around the
old values; C in bound, |new - truth| within the derived bound, gates included; else out. In the exact lanes every
other bit is out.

Ledgers hold no arrays but digests and the grade that every output reached against the model of its own time. Equal
digests are the same bits. Of others the grade of the new side decides: A or B is a legal variant, C in bound, D and F
are out. So 'legal variant' says of a kernel that it has the bits of its model or lies in its envelope (what the
model itself did is a row of its own), and of a model, which is judged against truth alone, nothing: models that moved
are in bound or out. For the finer answer compare goldens. Where one side is a golden folder, models alone are
compared.

Beside the class, a grade that fell is told even where the bits are the same: the model under it may have moved.

A run that was broken off says nothing of the cases it did not come to, so a side that is not whole fails the drift.

What has no outputs on the new side although it ran before is out, with what happened; what is not deterministic all
at once is out too. A case or an output that only one side has is new or gone. Cases are the same where kernel, lane,
seed, task and all fields of the config that both sides know are equal; a field that only one version knows is a fact
beside the row.

Where a change began is told by the digests of the rounding points: the kernel's where both sides have them, else the
model's. A model without digests is run again if that gives the stored bits (so two profiles can be told apart, two
versions of the model cannot). Otherwise it says what is known, and how to know more.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from conformance.backends import is_hardware
from conformance.config_codec import dict_digest
from conformance.drift_outputs import apart
from conformance.drift_sides import KERNEL, MODEL, PROFILE, Output, Record, Side
from conformance.drift_values import CannotJudge, Judge, recomputed_points
from conformance.grades import Grade
from conformance.repeat import RUNG as REPEAT
from conformance.results import OutputResult

AFTER_THE_LAST = "after the last point"


class Change(enum.Enum):
    """What became of an output; the worst first."""

    OUT = "out"
    IN_BOUND = "in bound"
    LEGAL = "legal variant"
    GONE = "gone"
    NEW = "new"
    SAME = "same bits"


#: What the grade of the new side says of bits that differ.
_OF_GRADE = {
    Grade.A: Change.LEGAL,
    Grade.B: Change.LEGAL,
    Grade.C: Change.IN_BOUND,
    Grade.D: Change.OUT,
    Grade.F: Change.OUT,
}


@dataclass(frozen=True)
class Moved:
    """One output that is not what it was, or a whole case where `output` is ''.

    grades, shares, ulps   old and new, of ledgers: the grade, the share of the bound, the largest ULP distance from
                           the model; None on a side that does not know
    required   the grade that is required of the new one, '' where nothing is
    fell       the required grade was reached and is not any more
    waived     a waiver tolerates what is on the new side
    apart      of goldens: how new and old differ, in words
    first      the first stage that moved, or why none is known; '' where nothing is to be located
    facts      what else changed about the case: fields of the config, lane, seed, profile
    why        what kept the output from a better class
    report     of goldens: the worst elements
    """

    kernel: str
    case: str
    change: Change
    output: str = ""
    rung: str = ""
    grades: tuple[str | None, str | None] = (None, None)
    required: str = ""
    fell: bool = False
    waived: bool = False
    shares: tuple[float | None, float | None] = (None, None)
    ulps: tuple[int | None, int | None] = (None, None)
    apart: str = ""
    first: str = ""
    facts: tuple[str, ...] = ()
    why: str = ""
    report: str = ""

    @property
    def fails(self) -> bool:
        """Whether somebody has to look at it before a release."""
        return (self.change is Change.OUT or self.fell) and not self.waived

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"change": self.change.value, "fails": self.fails}


@dataclass(frozen=True)
class Pair:
    """One case on both sides; None where a side does not have it. `facts` is what differs about the case itself."""

    old: Record | None
    new: Record | None
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drift:
    """The difference of two sides. `moved` is in the order in which to read it; `same` counts outputs that kept
    their bits, `silent` cases that gave no outputs on either side; `lacking` names sides that are not whole."""

    old: str
    new: str
    differs: tuple[tuple[str, str, str], ...]
    moved: tuple[Moved, ...]
    same: int
    silent: int
    lacking: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Per class how many outputs, or cases where a whole case is new, gone or without outputs."""
        found = Counter(one.change for one in self.moved)
        return {change.value: self.same if change is Change.SAME else found[change] for change in Change}

    @property
    def passed(self) -> bool:
        """Whether both sides are whole, nothing is out and no grade fell below what is required."""
        return not self.lacking and not any(one.fails for one in self.moved)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "old": self.old,
            "new": self.new,
            "passed": self.passed,
            "differs": [dict(zip(("what", "old", "new"), row, strict=True)) for row in self.differs],
            "counts": self.counts,
            "silent": self.silent,
            "lacking": list(self.lacking),
            "changes": [one.to_dict() for one in self.moved],
        }


def drift(old: Side, new: Side) -> Drift:
    """Everything that moved, judged in this process."""
    pairs = paired(old, new)
    return gathered(old, new, pairs, [moved(pair) for pair in pairs if stirs(pair)])


# ------------------------------------------------------------------------------------------- pairing


def paired(old: Side, new: Side) -> list[Pair]:
    """The cases of both sides, side by side: those of one name, as far as they are the same case, then those that
    are the same under another name. Models alone where one side has nothing else."""
    if old.has_kernels != new.has_kernels:
        old, new = _models_of(old), _models_of(new)
    pairs: list[Pair] = []
    olds, news = list(old.records), list(new.records)
    for key in (_name, _content):
        known = {key(one): one for one in news}
        found = [(one, known[key(one)]) for one in olds if key(one) in known and _is_same_case(one, known[key(one)])]
        pairs += [Pair(left, right, facts_between(left, right)) for left, right in found]
        olds, news = _without(olds, (left for left, _ in found)), _without(news, (right for _, right in found))
    named = {_name(one): one for one in (*olds, *news)}
    pairs += [Pair(one, None, facts_between(one, named[_name(one)])) for one in olds]
    by_name = {_name(one): one for one in olds}
    return pairs + [Pair(None, one, facts_between(by_name.get(_name(one), one), one)) for one in news]


def _models_of(side: Side) -> Side:
    records = [replace(one, outputs=tuple(out for out in one.outputs if out.kind == MODEL)) for one in side.records]
    return replace(side, records=tuple(records), has_kernels=False)


def _name(record: Record) -> tuple[str, ...]:
    return record.kernel, record.case, record.task


def _content(record: Record) -> tuple[Any, ...]:
    return record.kernel, dict_digest(record.config), record.lane, record.seed, record.task


def _without(records: Sequence[Record], taken: Iterable[Record]) -> list[Record]:
    gone = {id(one) for one in taken}
    return [one for one in records if id(one) not in gone]


def _is_same_case(old: Record, new: Record) -> bool:
    shared = old.config.keys() & new.config.keys()
    data = (old.lane, old.seed) == (new.lane, new.seed)
    return data and all(old.config[name] == new.config[name] for name in shared)


def facts_between(old: Record, new: Record) -> tuple[str, ...]:
    """What differs about two cases beside their outputs: name, lane, seed, fields of the config, and of goldens the
    answers of the profile (those of a run stand above all of its cases) and the names of the points."""
    data = [{"case": one.case, "lane": one.lane, "seed": one.seed} for one in (old, new)]
    facts = _differences("", data[0], data[1]) + _differences("config.", old.config, new.config)
    if old.backend == new.backend == MODEL:
        facts += _differences("profile.", old.profile, new.profile)
    names = [" ".join(one.points.get(MODEL, {})) for one in (old, new)]
    return (*facts, *([f"points: {names[0]} -> {names[1]}"] if all(names) and names[0] != names[1] else []))


def _differences(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**old, **new} if old.get(name) != new.get(name) and name != "evidence"]
    return [f"{prefix}{name}: {old.get(name)} -> {new.get(name)}" for name in names]


# ------------------------------------------------------------------------------------------- judging


def stirs(pair: Pair) -> bool:
    """Whether there is anything to tell of a pair; if not, `moved` need not be asked."""
    if pair.old is None or pair.new is None or pair.facts:
        return True
    sides = [_figures(one) for one in (pair.old, pair.new)]
    return sides[0] != sides[1] or _points_moved(pair.old, pair.new)


def _figures(record: Record) -> dict[tuple[str, str], Any]:
    """What decides whether an output has something to tell."""
    grades = {key: one.result and (one.result.grade, one.result.required) for key, one in _outputs(record).items()}
    return {key: (one.digest, grades[key]) for key, one in _outputs(record).items()}


def _outputs(record: Record) -> dict[tuple[str, str], Output]:
    return {(one.kind, one.name): one for one in record.outputs}


def moved(pair: Pair) -> list[Moved]:
    """What moved in one case, nothing else: the costly part, which needs no other case."""
    old, new = pair.old, pair.new
    if old is None or new is None:
        return [_alone(pair)]
    if not old.outputs or not new.outputs:
        return _speechless(old, new, pair.facts)
    judge, rows = Judge(old, new), []
    for key in dict.fromkeys((*_outputs(old), *_outputs(new))):
        row = _row(judge, key, pair.facts)
        rows += [row] if row.change is not Change.SAME or row.fell else []
    return rows or _remarks(old, new, pair.facts)


def _alone(pair: Pair) -> Moved:
    record = pair.new or pair.old
    assert record is not None
    change = Change.GONE if pair.new is None else Change.NEW
    why = "" if record.status == "passed" else _told(record)
    return Moved(record.kernel, record.case, change, rung=record.backend, facts=pair.facts, why=why)


def _speechless(old: Record, new: Record, facts: tuple[str, ...]) -> list[Moved]:
    """The row of a case without outputs on one side; none where it has them on neither."""
    whole = partial(Moved, new.kernel, new.case, rung=new.backend, facts=facts)
    if new.outputs:
        return [whole(change=Change.NEW, why=f"it had no outputs before: {_told(old)}")]
    if not old.outputs:
        return []
    untried = new.status in ("unfit", "waived")
    change = Change.GONE if untried else Change.OUT
    return [whole(change=change, waived=new.status == "waived", why=_told(new))]


def _told(record: Record) -> str:
    return f"{record.status}: {record.error}" if record.error else record.status


def _row(judge: Judge, key: tuple[str, str], facts: tuple[str, ...]) -> Moved:
    """The row of one output, whatever became of it."""
    old, new = judge.old.output(*key), judge.new.output(*key)
    shown = new or old
    assert shown is not None
    row = partial(
        Moved,
        judge.new.kernel,
        judge.new.case,
        output=shown.name,
        rung=shown.rung,
        facts=facts,
        **_of_results(old.result if old else None, new.result if new else None),
    )
    if old is None or new is None:
        return row(change=_come_or_gone(new))
    if old.digest == new.digest:
        return row(change=Change.SAME)
    change, why = _class_of(judge, old, new)
    first = _first(judge.old, judge.new, new.kind)
    if old.values is None or new.values is None or (far := apart(new.name, old.values, new.values)) is None:
        return row(change=change, why=why, first=first)
    return row(change=change, why=why, first=first, apart=far.text(), report=far.report)


def _come_or_gone(new: Output | None) -> Change:
    if new is None:
        return Change.GONE
    return Change.OUT if new.result is not None and not new.result.passed else Change.NEW


def _of_results(old: OutputResult | None, new: OutputResult | None) -> dict[str, Any]:
    """What a row tells of the results on both sides, as far as they are known."""

    def both(what: Callable[[OutputResult], Any]) -> tuple[Any, Any]:
        return (None if old is None else what(old), None if new is None else what(new))

    return {
        "grades": both(lambda one: one.grade.name),
        "shares": both(lambda one: one.share_of_bound),
        "ulps": both(lambda one: one.max_ulp),
        "required": "" if new is None else new.required.name,
        "fell": old is not None and new is not None and old.passed and not new.passed,
        "waived": new is not None and bool(new.waiver),
    }


def _class_of(judge: Judge, old: Output, new: Output) -> tuple[Change, str]:
    """The class of an output whose bits differ, and why it is no better one."""
    if new.values is None:
        assert new.result is not None
        return _OF_GRADE[new.result.grade], new.result.missed
    try:
        grade, why = judge.grade(new.name)
    except CannotJudge as error:
        return Change.OUT, f"not judged: {error}"
    return _OF_GRADE[grade], why


# ------------------------------------------------------------------------------------------- locating


def _first(old: Record, new: Record, kind: str) -> str:
    """The first stage that moved, or what is known instead."""
    if kind == REPEAT:
        return ""
    if old.points.get(kind) and new.points.get(kind):
        return _first_of(old.points[kind], new.points[kind]) or AFTER_THE_LAST
    if kind == MODEL:
        return _first_of_model(old, new)
    models = [{key: one.digest for key, one in _outputs(record).items() if key[0] == MODEL} for record in (old, new)]
    if not all(models):
        return f"unknown: no model was run; {_remedy(new)}"
    if models[0] != models[1]:
        return f"model: {_first(old, new, MODEL)}"
    return f"the kernel's own, as its model kept every bit; {_remedy(new)}"


def _first_of_model(old: Record, new: Record) -> str:
    points = [record.points.get(MODEL) or recomputed_points(record) for record in (old, new)]
    if points[0] and points[1]:
        return _first_of(points[0], points[1]) or AFTER_THE_LAST
    lacking = " and ".join(word for word, known in zip(("old", "new"), points, strict=True) if not known)
    return f"unknown: no digests of points on the {lacking} side, and its model is not today's; {_remedy(new)}"


def _remedy(record: Record) -> str:
    if is_hardware(record.backend):
        return f"{record.backend} shows no inner values: explain in sim"
    return "check --points keeps digests"


def _first_of(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """The first point in the order of the new side whose digest differs; '' where none does."""
    return next((name for name, digest in new.items() if old.get(name, digest) != digest), "")


def _points_moved(old: Record, new: Record) -> bool:
    return any(_first_of(points, new.points.get(kind, {})) for kind, points in old.points.items())


def _remarks(old: Record, new: Record, facts: tuple[str, ...]) -> list[Moved]:
    """A row for what changed about a case, or inside of it, although every output kept its bits."""
    kinds = [kind for kind in (KERNEL, MODEL) if _first_of(old.points.get(kind, {}), new.points.get(kind, {}))]
    if not facts and not kinds:
        return []
    first = _first(old, new, kinds[0]) if kinds else ""
    return [Moved(new.kernel, new.case, Change.SAME, rung=new.backend, facts=facts, first=first)]


# ------------------------------------------------------------------------------------------ gathering


def gathered(old: Side, new: Side, pairs: Iterable[Pair], rows: Iterable[Sequence[Moved]]) -> Drift:
    """The drift of two sides from what moved in their pairs."""
    both = [(pair.old, pair.new) for pair in pairs if pair.old is not None and pair.new is not None]
    differs = tuple(_differing_facts(old.facts, new.facts))
    # What stands above all rows need not stand in each.
    above = {f"profile.{name.removeprefix(PROFILE)}" for name, _, _ in differs if name.startswith(PROFILE)}
    told = [replace(row, facts=_but(row.facts, above)) for some in rows for row in some]
    return Drift(
        old=old.label,
        new=new.label,
        differs=differs,
        moved=tuple(sorted(told, key=_rank)),
        same=sum(_same_outputs(*pair) for pair in both),
        silent=sum(not (one.outputs or other.outputs) for one, other in both),
        lacking=tuple(f"{side.label}: {side.lacking}" for side in (old, new) if side.lacking),
    )


def _but(facts: Iterable[str], above: set[str]) -> tuple[str, ...]:
    return tuple(fact for fact in facts if fact.partition(":")[0] not in above)


def _differing_facts(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Facts that both sides tell, and questions that one profile alone asks; goldens know no versions."""
    for name in {**old, **new} if old and new else ():
        told = (name in old and name in new) or name.startswith(PROFILE)
        if told and old.get(name, "") != new.get(name, ""):
            yield name, old.get(name, ""), new.get(name, "")


def _rank(row: Moved) -> tuple[Any, ...]:
    """The worst first: what fails, then by class, then by how much of the bound is used."""
    share = row.shares[1] if row.shares[1] is not None else -1.0
    return not row.fails, list(Change).index(row.change), -share, row.kernel, row.case, row.rung, row.output


def _same_outputs(old: Record, new: Record) -> int:
    known = {key: one.digest for key, one in _outputs(old).items()}
    return sum(known.get(key) == one.digest for key, one in _outputs(new).items())
