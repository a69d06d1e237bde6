"""What a session knows: candidates left per field, and which combinations of them go together.

A table may tell apart combinations that no single field tells apart ("chain after the array, or tree"): the
survivors of each probe are kept as a relation, and later tables are enumerated over what all relations allow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reference.numerics.profile import Value

Assignment = dict[str, Value]


@dataclass(frozen=True)
class Relation:
    """Values of several fields that are possible together."""

    fields: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def allows(self, assignment: Mapping[str, Value]) -> bool:
        """Whether some row agrees with the assignment in every field that both have."""
        shared = [(i, name) for i, name in enumerate(self.fields) if name in assignment]
        return any(all(_same(row[i], assignment[name]) for i, name in shared) for row in self.rows)

    def restricted(self, fields: Sequence[str]) -> list[tuple[Value, ...]]:
        """The values of some of the fields, row by row."""
        places = [self.fields.index(name) for name in fields]
        return [tuple(row[i] for i in places) for row in self.rows]

    def within(self, left: Mapping[str, Sequence[Value]]) -> Relation:
        """The rows whose every value is still a candidate."""
        fitting = [
            row
            for row in self.rows
            if all(_among(value, left[name]) for name, value in zip(self.fields, row, strict=True))
        ]
        return Relation(self.fields, tuple(fitting))


class Knowledge:
    """Candidates left per field; starts from all of them."""

    def __init__(self, candidates: Mapping[str, Sequence[Value]]) -> None:
        self.left: dict[str, tuple[Value, ...]] = {name: tuple(values) for name, values in candidates.items()}
        self._relations: list[Relation] = []

    def assignments(self, fields: Sequence[str]) -> Iterator[Assignment]:
        """Every combination of values of these fields that is still possible."""
        for values in itertools.product(*(self.left[name] for name in fields)):
            assignment = dict(zip(fields, values, strict=True))
            if all(relation.allows(assignment) for relation in self._relations):
                yield assignment

    def keep(self, fields: Sequence[str], survivors: Sequence[Assignment]) -> None:
        """Only these combinations of the fields remain; ValueError where there are none."""
        if not survivors:
            raise ValueError(f"no combination left of {', '.join(fields)}")
        rows = tuple(tuple(one[name] for name in fields) for one in survivors)
        self._relations.append(Relation(tuple(fields), rows))
        self._settle()

    def one(self, preferred: Mapping[str, Value]) -> Assignment:
        """One possible value for every field: the preferred one where it is possible, else the first that is."""
        chosen: Assignment = {}
        for name, values in self.left.items():
            ranked = sorted(values, key=lambda value: not _same(value, preferred.get(name)))
            options = (value for value in ranked if self._possible({**chosen, name: value}))
            chosen[name] = next(options, ranked[0])
        return chosen

    def combinations(self) -> tuple[Relation, ...]:
        """What remains of combinations: relations over the fields that are not settled, where not all goes."""
        found = {}
        for relation in self._relations:
            fields = tuple(name for name in self.left if name in relation.fields and len(self.left[name]) > 1)
            rows = frozenset(relation.restricted(fields))
            total = math.prod(len(self.left[name]) for name in fields)
            if len(fields) > 1 and len(rows) < total:
                found[fields, rows] = Relation(fields, tuple(dict.fromkeys(relation.restricted(fields))))
        return tuple(found.values())

    def _possible(self, assignment: Mapping[str, Value]) -> bool:
        return all(relation.allows(assignment) for relation in self._relations)

    def _settle(self) -> None:
        """Until nothing changes: drop rows with values that are out, and values that are in no row."""
        before = None
        while before != self.left:
            before = dict(self.left)
            self._relations = [relation.within(self.left) for relation in self._relations]
            for relation in self._relations:
                for i, name in enumerate(relation.fields):
                    self.left[name] = tuple(v for v in self.left[name] if _among(v, [row[i] for row in relation.rows]))


def _same(x: Any, y: Any) -> bool:
    # True equals 1: flags and other values must not meet.
    return x == y and type(x) is type(y)


def _among(value: Value, values: Sequence[Value]) -> bool:
    return any(_same(value, other) for other in values)
