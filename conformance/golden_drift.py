"""What changed between the golden of a case and what the model says now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from conformance.golden_manifest import GoldenEntry, GoldenPoint
from conformance.golden_store import Golden
from conformance.mismatch import mismatch_report
from reference.numerics.metrics import compare

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class OutputDrift:
    """One output that is not what it was.

    `max_ulp` is None where shapes or dtypes differ or one side is missing; `NAN_DISTANCE` where a NaN
    came or went.
    """

    name: str
    changed: int
    elements: int
    max_ulp: int | None
    #: Worst elements first, several lines.
    report: str


@dataclass(frozen=True)
class Drift:
    """The difference between one stored golden and the present; nothing in it where there is none."""

    kernel: str
    case: str
    #: Facts about the case itself that changed: 'seed: 1 -> 2', 'new', 'gone'.
    facts: tuple[str, ...] = ()
    outputs: tuple[OutputDrift, ...] = ()
    #: First rounding point whose values moved; '' where all are as they were or none are known.
    first_point: str = ""

    def __bool__(self) -> bool:
        return bool(self.facts or self.outputs or self.first_point)


def drift(entry: GoldenEntry, stored: Arrays, now: Golden) -> Drift:
    """What moved between a stored golden and `now`, bit by bit; any NaN equals any NaN."""
    return Drift(
        entry.kernel,
        entry.case,
        facts=tuple(_facts(entry, now)),
        outputs=tuple(_outputs(stored, now.outputs)),
        first_point=_first_moved(entry.points, now.points),
    )


def _facts(entry: GoldenEntry, now: Golden) -> list[str]:
    before = {"config": entry.config, "lane": entry.lane, "seed": entry.seed, "profile": entry.profile}
    after = {"config": now.config, "lane": now.lane, "seed": now.seed, "profile": now.profile_digest}
    facts = [_fact(name, before[name], after[name]) for name in before if before[name] != after[name]]
    old, new = (_names(entry.points), _names(now.points))
    return [*facts, _fact("points", old, new)] if old != new else facts


def _fact(name: str, before: Any, after: Any) -> str:
    if isinstance(before, dict):
        moved = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        return "; ".join(_fact(f"{name}.{key}", before.get(key), after.get(key)) for key in moved)
    return f"{name}: {before} -> {after}"


def _names(points: tuple[GoldenPoint, ...]) -> str:
    return " ".join(point.name for point in points)


def _outputs(stored: Arrays, now: Arrays) -> list[OutputDrift]:
    drifts = [_output(name, stored.get(name), now.get(name)) for name in sorted({*stored, *now})]
    return [one for one in drifts if one is not None]


def _output(name: str, stored: NDArray[Any] | None, now: NDArray[Any] | None) -> OutputDrift | None:
    if stored is None or now is None:
        whole = sum(array.size for array in (stored, now) if array is not None)
        return OutputDrift(name, whole, whole, None, f"{name}: {'new' if stored is None else 'gone'}")
    if stored.shape != now.shape or stored.dtype != now.dtype:
        return OutputDrift(name, now.size, now.size, None, mismatch_report(name, now, stored))
    found = compare(now, stored)
    if not found.different:
        return None
    report = mismatch_report(name, now, stored)
    return OutputDrift(name, found.different, found.elements, found.max_ulp, report)


def _first_moved(before: tuple[GoldenPoint, ...], now: tuple[GoldenPoint, ...]) -> str:
    known = {point.name: point.digest for point in before}
    moved = (point.name for point in now if known.get(point.name, point.digest) != point.digest)
    return next(moved, "")
