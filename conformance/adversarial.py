"""Adversarial cases: those that fuzzing found nearest to their bounds, kept as data and replayed like any other.

One file of text holds them, sealed. Every kernel keeps, for each kind of number formats, the case that used most of
the bound of its first output, and for each other output the worst of all. They join the catalog with the tags below;
so they have goldens, and what checks the catalog checks them, on a device, too.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.fuzz_result import SMALL, Worst, is_inside, shares
from conformance.runner import run_case
from conformance.sealed_json import SealError, seal, unseal
from conformance.subject import Case, Subject, case_from_id

FILE = Path(__file__).with_name("adversarial.json")
FORMAT, VERSION = "nki-oracle adversarial cases", 1
TAGS = frozenset({"adversarial", "golden", "ci", "check"})

#: A share must be larger by so much to be worse; less is rounding of truth, which is float64.
_WORSE = 1.005


class AdversarialError(ValueError):
    """The file of adversarial cases cannot be used; the message is one line."""


@dataclass(frozen=True)
class Entry:
    """One kept case: what it is the worst of, its text, and how much of its bound it used when it was kept."""

    kernel: str
    id: str
    output: str
    family: str
    case: str
    share: float

    def to_case(self, subject: Subject) -> Case | None:
        """The case as one of the catalog; None where the kernel's config or lanes no longer know it."""
        try:
            case = case_from_id(subject, self.case)
        except (ValueError, TypeError):
            return None
        if subject.legal(case.config) is not None or not subject.lane_fits(case.config, case.lane):
            return None
        note = f"error {self.share:g} of the bound of {self.output}, found by fuzzing"
        return dataclasses.replace(case, id=self.id, tags=TAGS, note=note)


def entries(path: Path | None = None) -> tuple[Entry, ...]:
    """All kept cases; none where there is no file. AdversarialError for a file that was touched by hand."""
    path = path or FILE
    if not path.exists():
        return ()
    try:
        document = unseal(path.read_bytes())
        if (document["format"], document["version"]) != (FORMAT, VERSION):
            raise SealError(f"it is no file of format '{FORMAT}', version {VERSION}")
        return tuple(Entry(**one) for one in document["cases"])
    except (SealError, KeyError, TypeError) as error:
        raise AdversarialError(f"{path.name}: {error}; take it from the repository again") from None


def with_cases(subject: Subject, path: Path | None = None) -> Subject:
    """The subject with its kept cases at the end of the catalog, as far as they can still be read."""
    found = (one.to_case(subject) for one in entries(path) if one.kernel == subject.name)
    cases = tuple(case for case in found if case is not None)
    return dataclasses.replace(subject, catalog=(*subject.catalog, *cases)) if cases else subject


def slot(subject: Subject, worst: Worst) -> str:
    """What a case is kept as the worst of, as an id of the catalog."""
    first = subject.outputs[0].name
    return "worst-" + _slug(worst.family if worst.output == first else worst.output)


def share_now(subject: Subject, entry: Entry) -> float | None:
    """How much of its bound a kept case uses today; None where it can no longer be run or is not inside."""
    case = entry.to_case(subject)
    if case is None:
        return None
    share = shares(run_case(subject, case, rungs=("truth", "model"))).get(entry.output)
    return share if share is not None and is_inside(share) else None


def keep(subject: Subject, worst: Iterable[Worst], path: Path | None = None) -> list[str]:
    """Keeps the cases that are worse than those kept so far, and says in a line each what changed.

    Shares of kept cases are taken anew first, since a bound may have become tighter; what can no longer be run is
    dropped. Cases whose outputs are too large for a golden are left out.
    """
    others = [one for one in entries(path) if one.kernel != subject.name]
    before = {one.id: one for one in entries(path) if one.kernel == subject.name}
    kept: dict[str, Entry] = {}
    for name, one in before.items():
        share = share_now(subject, one)
        if share is not None:
            kept[name] = dataclasses.replace(one, share=_rounded(share))
    for found in worst:
        name = slot(subject, found)
        is_worse = name not in kept or found.share > kept[name].share * _WORSE
        if found.size <= SMALL and 0 < found.share <= 1 and is_worse:
            kept[name] = Entry(subject.name, name, found.output, found.family, found.case, _rounded(found.share))
    if kept != before:
        _write(path or FILE, [*others, *kept.values()])
    return list(_changes(before, kept))


def _changes(before: Mapping[str, Entry], kept: Mapping[str, Entry]) -> Iterable[str]:
    for name in sorted(before.keys() | kept.keys()):
        old, new = before.get(name), kept.get(name)
        if new is None:
            yield f"{name}: dropped, it cannot be run any more"
        elif new != old:
            yield f"{name}: {new.output} at {new.share:g}" + (f", before {old.share:g}" if old else "")


def _write(path: Path, cases: Iterable[Entry]) -> None:
    ordered = sorted(cases, key=lambda one: (one.kernel, one.id))
    rows: list[dict[str, Any]] = [dataclasses.asdict(one) for one in ordered]
    data = seal({"format": FORMAT, "version": VERSION, "cases": rows})
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(data)
    os.replace(fresh, path)


def _rounded(share: float) -> float:
    """Four digits: more depend on the machine."""
    return float(f"{share:.4g}")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_.-]+", "-", text.lower())
