"""The parts of a report cut to the kernels it is of, and what has to be said of them: what was left out, and where a
part was made by other versions than the check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Part = Mapping[str, Any]

#: Parts whose rows stand under a name, and by which words the page calls these rows.
_ROWS = {"mutants": ("mutants", "planted faults"), "fuzz": ("results", "fuzzing"), "drift": ("changes", "drift rows")}
#: By which words the page calls the parts.
WORDS = {"mutants": "planted faults", "fuzz": "fuzzing", "drift": "drift", "probe": "probe"}


@dataclass(frozen=True)
class Sources:
    """JSON documents of the commands, as far as they were run; `check` always. `kernels` are those that were asked
    for, none where all are."""

    check: Part
    mutants: Part | None = None
    fuzz: Part | None = None
    probe: Part | None = None
    drift: Part | None = None
    budgets: Sequence[Part] = field(default_factory=tuple)
    kernels: Sequence[str] = ()

    @property
    def shown(self) -> list[str]:
        """The kernels that the page is of: those asked for that the check has results of."""
        names = dict.fromkeys(row["kernel"] for row in self.check["results"])
        return [name for name in names if not self.kernels or name in self.kernels]

    @property
    def others(self) -> dict[str, Part]:
        """Every part beside the check under the words for it."""
        found = {words: getattr(self, name) for name, words in WORDS.items()}
        found |= {f"budget of {one['kernel']} {one['case']}": one for one in self.budgets}
        return {words: part for words, part in found.items() if part is not None}


def cut(sources: Sources) -> Sources:
    """The same without the rows of kernels that the page is not of."""
    shown = sources.shown
    return Sources(
        check=_rows_of(sources.check, "results", shown),
        mutants=_mutants(sources.mutants, shown),
        fuzz=None if sources.fuzz is None else _rows_of(sources.fuzz, "results", shown),
        probe=sources.probe,
        drift=_drift(sources.drift, shown, bool(sources.kernels)),
        budgets=[one for one in sources.budgets if one["kernel"] in shown],
        kernels=sources.kernels,
    )


def left_out(sources: Sources) -> list[str]:
    """A line per part of which kernels are not shown."""
    why = "the page is of other kernels" if sources.kernels else "the check has no result of them"
    counts = {words: _hidden(getattr(sources, part), name, sources.shown) for part, (name, words) in _ROWS.items()}
    counts["budgets"] = Counter(one["kernel"] for one in sources.budgets if one["kernel"] not in sources.shown)
    told = {words: ", ".join(f"{name} ({count})" for name, count in found.items()) for words, found in counts.items()}
    return [f"left out: {words} of {names}: {why}" for words, names in told.items() if names]


def of_other_versions(sources: Sources) -> dict[str, str]:
    """Per part that was made by other versions than the check, or does not tell them: what differs."""
    base = sources.check.get("versions") or {}
    told = {words: _versions_apart(part.get("versions") or {}, base) for words, part in sources.others.items()}
    return {words: text for words, text in told.items() if text}


def _versions_apart(found: Mapping[str, str], base: Mapping[str, str]) -> str:
    if not (found and base):
        return f"by what versions is not known: {'the check' if found else 'its file'} does not tell them"
    names = [name for name in {**base, **found} if base.get(name, "") != found.get(name, "")]
    apart = (f"{name} {found.get(name) or 'none'} (check: {base.get(name) or 'none'})" for name in names)
    return f"made by other versions than the check: {', '.join(apart)}" if names else ""


def _hidden(part: Part | None, name: str, shown: Collection[str]) -> Counter[str]:
    rows = [] if part is None else part[name]
    return Counter(row["kernel"] for row in rows if row["kernel"] not in shown)


def _rows_of(part: Part, name: str, kernels: Collection[str]) -> Part:
    return {**part, name: [row for row in part.get(name, []) if row["kernel"] in kernels]}


def _mutants(part: Part | None, kernels: Collection[str]) -> Part | None:
    if part is None:
        return None
    for name in ("mutants", "variants", "beyond_noise"):
        part = _rows_of(part, name, kernels)
    # Every other figure of the summary is counted anew, of what is shown.
    return {**part, "summary": _rows_of(part.get("summary", {}), "margins", kernels)}


def _drift(part: Part | None, kernels: Collection[str], asked: bool) -> Part | None:
    if part is None:
        return None
    found = _rows_of(part, "changes", kernels)
    if not asked and len(found["changes"]) == len(part["changes"]):
        return part
    # What kept its bits is counted over all kernels together, so of some nothing is known.
    return {**found, "counts": Counter(row["change"] for row in found["changes"] if row["change"] != "same bits")}
