"""Where the golden of a case and something newer first part: the model as it is, or the same case of another store.

A golden keeps outputs and one digest per rounding point. The first point, in the order of the newer side, whose
digest differs is where the change began. Old values of points are not kept; where the golden was computed under
another numerics profile and today's model still gives its digest under that, the profile is what changed, and both
traces are paired value by value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.config_codec import config_from_dict, config_to_dict
from conformance.drift import facts_between
from conformance.drift_outputs import Apart, outputs_apart
from conformance.drift_sides import Record, record_of, stored
from conformance.explain import Explanation, profile_difference
from conformance.golden_manifest import GoldenEntry, GoldenPoint, Manifest
from conformance.golden_store import Golden, GoldenError, read_manifest
from conformance.mismatch import ulp_text
from conformance.point_digests import PointDigests
from conformance.subject import Case, Subject
from reference.numerics.cast import to_float32
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.recorder import ListRecorder

Array = NDArray[Any]


@dataclass(frozen=True)
class GoldenExplanation:
    """What moved between a golden and a newer result of its case.

    sides    what the two are called, the older first
    facts    what changed of the case: lane, seed, config, profile, names of points
    outputs  what changed of its outputs
    moved    points whose digest differs, in the order of the newer side; `kept` those whose does not
    present  the tiles of the first of them as the model has them now; '' between two stores
    traces   both traces value by value, where another profile explains the difference
    """

    kernel: str
    case: str
    repro: str
    sides: tuple[str, str]
    facts: tuple[str, ...]
    outputs: tuple[Apart, ...]
    moved: tuple[str, ...]
    kept: tuple[str, ...]
    present: str = ""
    traces: Explanation | None = None

    @property
    def agrees(self) -> bool:
        """Whether outputs and digests are equal; the same bits under another seed or profile are still equal."""
        return not (self.moved or self.outputs)

    def text(self) -> str:
        """The first point that moved, what it infects, the outputs, and the command to run again."""
        lines = [f"{self.kernel} {self.case}: {self._head()}"]
        lines += [f"  {fact}" for fact in self.facts]
        lines += [self.present] if self.present else []
        lines += [f"it infects, in the order of the model: {', '.join(self.moved[1:])}"] if self.moved[1:] else []
        lines += [f"unmoved: {', '.join(self.kept)}"] if self.moved and self.kept else []
        lines += [f"output {one.name}: {_moved_by(one.changed, one.elements, one.max_ulp)}" for one in self.outputs]
        lines += ["with the profile of the golden the model still gives this golden; between the two profiles:"] * bool(
            self.traces
        )
        lines += [self.traces.text()] if self.traces else [f"again: {self.repro}"]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        outputs = [
            {"name": one.name, "changed": one.changed, "elements": one.elements, "max_ulp": one.max_ulp}
            for one in self.outputs
        ]
        return {
            "kernel": self.kernel, "case": self.case, "repro": self.repro, "sides": list(self.sides),
            "agrees": self.agrees, "facts": list(self.facts), "first": self.moved[0] if self.moved else "",
            "moved": list(self.moved), "kept": list(self.kept), "present": self.present, "outputs": outputs,
            "traces": self.traces.to_dict() if self.traces else None,
        }  # fmt: skip

    def _head(self) -> str:
        old, new = self.sides
        if self.moved:
            return f"{new} first parts from {old} at rounding point {self.moved[0]}"
        if self.outputs:
            return f"no rounding point moved between {old} and {new}, outputs did: look behind the last one"
        return f"{new} has the bits of {old}, at every rounding point and in every output"


def _moved_by(changed: int, elements: int, max_ulp: int | None) -> str:
    distance = "not comparable" if max_ulp is None else f"up to {ulp_text(max_ulp)}"
    return f"{changed} of {elements} elements, {distance}"


def golden_difference(
    subject: Subject, case: str, store: Path, profile: NumericsProfile = DEFAULT
) -> GoldenExplanation:
    """Holds the model of now against the golden of a case, with the config, lane and seed of the golden.

    Raises:
        GoldenError: the store is damaged or has no such golden.
        ValueError: the config of the golden is none of this kernel any more.
    """
    manifest, entry = _entry(subject, case, store)
    chosen = Case(case, config_from_dict(subject.config_type, entry.config), entry.lane, entry.seed)
    tee = _Tee()
    now = _computed(subject, chosen, profile, tee)
    moved, kept = _compared(entry.points, now.points)
    return GoldenExplanation(
        kernel=subject.name,
        case=case,
        repro=_repro(subject, case, [store]),
        sides=(f"the golden of {store}", "the model"),
        **_drift(record_of(stored(store, manifest, entry)), record_of(now)),
        moved=moved,
        kept=kept,
        present=_present(tee.values, moved[0]) if moved else "",
        traces=_traces(subject, chosen, manifest.profiles[entry.profile], profile, entry.points) if moved else None,
    )


def store_difference(subject: Subject, case: str, stores: tuple[Path, Path]) -> GoldenExplanation:
    """Holds the golden of a case in one store against that in another, the older first.

    Raises:
        GoldenError: a store is damaged or has no such golden.
    """
    (before, old), (after, new) = (_entry(subject, case, store) for store in stores)
    moved, kept = _compared(old.points, new.points)
    return GoldenExplanation(
        kernel=subject.name,
        case=case,
        repro=_repro(subject, case, stores),
        sides=(f"the golden of {stores[0]}", f"that of {stores[1]}"),
        **_drift(record_of(stored(stores[0], before, old)), record_of(stored(stores[1], after, new))),
        moved=moved,
        kept=kept,
    )


def _entry(subject: Subject, case: str, store: Path) -> tuple[Manifest, GoldenEntry]:
    manifest = read_manifest(store)
    entry = manifest.entry(subject.name, case)
    if entry is None:
        known = [one.case for one in manifest.entries if one.kernel == subject.name]
        raise GoldenError(
            f"{store}: no golden of {subject.name} {case}; it has {', '.join(known) or 'none of this kernel'}"
        )
    return manifest, entry


def _drift(old: Record, new: Record) -> dict[str, Any]:
    return {"facts": facts_between(old, new), "outputs": outputs_apart(old, new)}


class _Tee:
    """Digests of all tiles, and their values."""

    enabled = True

    def __init__(self) -> None:
        self.digests, self.values = PointDigests(), ListRecorder()

    def __call__(self, point: str, tile: tuple[int, ...], value: Array, core: int = 0) -> None:
        self.digests(point, tile, value, core)
        self.values(point, tile, value, core)


def _computed(subject: Subject, case: Case, profile: NumericsProfile, tee: _Tee) -> Golden:
    inputs = subject.build(case.config, case.lane, case.seed)
    outputs = subject.model(case.config, inputs, profile=profile, record=tee)
    return Golden(
        kernel=subject.name,
        case=case.id,
        config=config_to_dict(case.config),
        lane=case.lane,
        seed=case.seed,
        profile=profile.to_dict(),
        profile_digest=profile.digest(),
        outputs=outputs,
        points=tee.digests.points(),
    )


def _compared(old: Sequence[GoldenPoint], new: Sequence[GoldenPoint]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of points that moved and that did not; points of one side alone are told among the facts."""
    before = {point.name: point.digest for point in old}
    common = [point for point in new if point.name in before]
    moved = tuple(point.name for point in common if point.digest != before[point.name])
    return moved, tuple(point.name for point in common if point.name not in moved)


def _present(values: ListRecorder, point: str) -> str:
    """What the model has at a point: tiles, and the range of their values."""
    tiles = [to_float32(entry.value).astype(np.float64).reshape(-1) for entry in values if entry.point == point]
    flat = np.concatenate(tiles)
    finite = flat[np.isfinite(flat)]
    span = f"{finite.min():.9g} to {finite.max():.9g}" if finite.size else "nothing finite"
    beside = f", {flat.size - finite.size} not finite" if finite.size < flat.size else ""
    here = f"the model has {len(tiles)} tiles of it, {flat.size} values, {span}{beside}"
    return f"  {here}; the golden keeps its digest alone"


def _traces(
    subject: Subject, case: Case, then: dict[str, Any], now: NumericsProfile, points: Sequence[GoldenPoint]
) -> Explanation | None:
    """Both traces, where the model under the golden's profile still has the golden's digests."""
    try:
        old = NumericsProfile.from_dict(then)
    except ValueError:
        return None  # a question that is asked no more, or asked otherwise
    if old.digest() == now.digest():
        return None
    tee = _Tee()
    again = _computed(subject, case, old, tee)
    if again.points != tuple(points):
        return None
    return profile_difference(subject, case, (old, now), ("the golden's profile", "the profile of now"))


def _repro(subject: Subject, case: str, stores: Sequence[Path]) -> str:
    return " ".join(["nki-oracle", "explain", subject.name, "--case", case, *(f"--golden {one}" for one in stores)])
