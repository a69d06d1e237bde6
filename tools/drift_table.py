"""How a drift is shown: what differs, how much moved, and a row for everything that did, the worst first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich.markup import escape
from rich.table import Table

from conformance.drift import Change, Drift, Moved
from conformance.mismatch import ulp_text
from tools.output import console

COLUMNS = ("change", "kernel", "case", "what", "rung", "grade", "of bound", "moved by", "first stage that moved")

_COLORS = {Change.OUT: "red", Change.IN_BOUND: "yellow", Change.LEGAL: "cyan"}
#: Versions by the words people use for them.
_WORDS = {"neuronx-cc": "compiler (neuronx-cc)", "nki_oracle": "nki-oracle", "commit": "nki-oracle commit"}
_REASONS = 5
#: So many cases that are new or gone in one kernel have a row each.
_APART = 3


def show(drift: Drift, most: int | None = None, detailed: bool = False) -> None:
    """Prints a drift, at most so many rows; `detailed` with the worst elements of goldens."""
    out = console()
    out.print(f"old: {drift.old}\nnew: {drift.new}", markup=False, highlight=False, soft_wrap=True)
    for line in drift.lacking:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    out.print(summary(drift), markup=False, highlight=False)
    if drift.differs:
        out.print(_differences(drift.differs))
    rows = grouped(drift.moved)
    shown = rows if most is None else rows[:most]
    if shown:
        out.print(_table(shown))
    if len(shown) < len(rows):
        out.print(f"... and {len(rows) - len(shown)} rows more: --all", highlight=False)
    for row in [row for row in drift.moved if row.fails][:_REASONS]:
        out.print(reason(row), markup=False, highlight=False, soft_wrap=True)
    for report in [row.report for row in drift.moved if row.report and detailed]:
        out.print(f"\n{report}", markup=False, highlight=False)


def summary(drift: Drift) -> str:
    """'1 out, 2 legal variant, 40 same bits': what there is, the worst first."""
    told = [f"{count} {change}" for change, count in drift.counts.items() if count]
    fell = sum(row.fell and not row.waived for row in drift.moved)
    waived = sum(row.waived for row in drift.moved)
    told += [f"{fell} below the required grade"] if fell else []
    told += [f"{waived} waived"] if waived else []
    told += [f"{drift.silent} cases without outputs on either side"] if drift.silent else []
    return ", ".join(told) or "nothing to compare"


def grouped(rows: Sequence[Moved]) -> list[Moved]:
    """The rows, with many cases of one kernel in one row where they tell the same: cases that one side alone has, since
    two selections were compared, or cases that kept their bits while something moved inside."""
    lists: dict[tuple[str, ...], list[Moved]] = {}
    for row in rows:
        plain = row.change in (Change.NEW, Change.GONE, Change.SAME) and not (row.output or row.facts or row.why)
        key = (row.change.value, row.kernel, row.rung, row.first) if plain else (str(id(row)),)
        lists.setdefault(key, []).append(row)
    return [row for some in lists.values() for row in (some if len(some) <= _APART else [_one_row(some)])]


def _one_row(rows: Sequence[Moved]) -> Moved:
    return replace(rows[0], case=f"{len(rows)} cases: {rows[0].case} ... {rows[-1].case}")


def cells(row: Moved) -> tuple[str, ...]:
    """The plain text of one row, as the columns have it."""
    return (
        row.change.value + (" (waived)" if row.waived else ""),
        row.kernel,
        row.case,
        "; ".join(part for part in (row.output or row.why.partition(":")[0], *row.facts) if part),
        row.rung,
        _grade(row),
        _pair([_share(one) for one in row.shares]),
        row.apart or _pair(["-" if one is None else ulp_text(one).removesuffix(" ULP") for one in row.ulps]),
        row.first,
    )


def reason(row: Moved) -> str:
    """One line: why a row fails."""
    what = " ".join(part for part in (row.kernel, row.case, row.output, row.rung) if part)
    fell = f"grade {row.grades[1]} is below the required {row.required}" if row.fell else ""
    return f"{what}: {'; '.join(part for part in (fell, row.why) if part) or row.change.value}"


def markdown(drift: Drift) -> list[str]:
    """The rows as lines of a Markdown table; nothing where nothing moved."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(cells, grouped(drift.moved))]
    return [_markdown(row) for row in rows] if drift.moved else []


def _markdown(row: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _differences(rows: Iterable[tuple[str, str, str]]) -> Table:
    table = Table("what differs", "old", "new", box=None, pad_edge=False)
    for name, old, new in rows:
        table.add_row(*map(escape, (_WORDS.get(name, name), old or "none", new or "none")))
    return table


def _table(rows: Iterable[Moved]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, overflow="fold")
    for row in rows:
        color = _COLORS.get(row.change, "red" if row.fails else "")
        change, *rest = map(escape, cells(row))
        table.add_row(f"[{color}]{change}[/{color}]" if color else change, *rest)
    return table


def _grade(row: Moved) -> str:
    told = _pair([grade or "-" for grade in row.grades])
    return f"{told}, needs {row.required}" if row.fell else told


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _pair(values: Sequence[str]) -> str:
    """Old and new: one word where they are equal, nothing where neither is known."""
    old, new = values
    if old == new:
        return "" if old == "-" else old
    return f"{old} -> {new}"
