"""The bars of an error budget as a picture, SVG or PNG, legible on light and on dark ground."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conformance.budget import Budget, Part

#: Mid tones: contrast enough against white and against black, so that one picture serves both.
_TEXT, _GRID = "#767b83", "#9aa0a8"
_COLORS = {"input": "#c77d24", "point": "#3f86c9", "float32": "#5f9e6e", "rest": "#8a9099"}
_LABELS = {"input": "rounding of inputs", "point": "rounding in the kernel", "float32": "float32 arithmetic"}

#: Bars that are drawn; what is left is one bar more.
_MOST = 14
_LEAST_SHARE = 0.005


def draw(found: Budget, output: str, path: Path) -> None:
    """Writes the shares of one output as bars to `path`, whose suffix names the format (.svg, .png, .pdf).

    Equal budgets give equal files. ValueError for a format that is none; OSError where it cannot be written.
    """
    import matplotlib

    # Without a display, and with the same ids in every run.
    matplotlib.use("Agg")
    # Text stays text: a reader can search it, and the page that shows it chooses the font.
    settings: dict[Any, Any] = {
        "svg.hashsalt": "nki-oracle",
        "svg.fonttype": "none",
        "font.size": 9.0,
        "text.color": _TEXT,
    }
    with matplotlib.rc_context(settings):
        _draw(found, output, path)


def _draw(found: Budget, output: str, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = _rows(found, output)
    kinds = {kind for _, kind, _ in rows}
    figure = Figure(figsize=(7.2, 1.45 + 0.27 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    colors = [_COLORS[kind] for _, kind, _ in rows]
    bars = axes.barh([label for label, _, _ in rows], [100 * share for _, _, share in rows], color=colors, height=0.68)
    axes.bar_label(bars, [f"{100 * share:.1f} %" for _, _, share in rows], padding=4, color=_TEXT)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("share of the squared error", color=_TEXT)
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.tick_params(colors=_TEXT, length=0)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=_GRID, alpha=0.35, linewidth=0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.suptitle(_title(found, output), color=_TEXT, fontsize=10)
    handles = [Patch(color=_COLORS[kind], label=label) for kind, label in _LABELS.items() if kind in kinds]
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, labelcolor=_TEXT)
    figure.savefig(path, transparent=True, dpi=160, metadata=_metadata(path))


def _rows(found: Budget, output: str) -> list[tuple[str, str, float]]:
    """(label, kind, share), the largest first; small ones and those that take away together at the end."""
    ranked = [part for part in found.ranked(output) if part.effects[output].share >= _LEAST_SHARE]
    rows = [(_label(part), part.kind, part.effects[output].share) for part in ranked[:_MOST]]
    rest = sum(part.effects[output].share for part in found.parts) - sum(share for _, _, share in rows)
    others = len(found.parts) - len(rows)
    return [*rows, (f"{others} others", "rest", rest)] if others else rows


def _label(part: Part) -> str:
    operand = f" ({part.operand})" if part.operand else ""
    return "float32 arithmetic" if part.kind == "float32" else f"{part.name}{operand}  {part.dtype}"


def _title(found: Budget, output: str) -> str:
    return f"{found.kernel} {_short(found.case)}: relative error of {output} {found.totals[output].error:.2e}"


def _short(case: str, most: int = 40) -> str:
    return case if len(case) <= most else f"{case[: most - 3]}..."


def _metadata(path: Path) -> dict[str, str | None]:
    """No date in the file."""
    return {"Date": None} if path.suffix.lower() == ".svg" else {}
