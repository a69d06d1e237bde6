"""The report as one HTML page: no script, nothing loaded from anywhere, every text escaped."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

HERE = Path(__file__).parent


def page(document: Mapping[str, Any]) -> str:
    """HTML of a report document, complete in itself."""
    return _ENVIRONMENT.get_template("page.html.j2").render(
        report=_with_gaps(document), style=(HERE / "style.css").read_text(encoding="utf-8")
    )


def _with_gaps(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document, whose versions and remarks on parts are empty where they are not told."""
    return {**document, **{name: defaultdict(str, document[name]) for name in ("versions", "apart")}}


def _percent(share: float | str | None, digits: int = 0) -> str:
    """'97 %'; what is not quite nothing or all says so: '<1 %', '>99 %'. NaN and infinities come as words."""
    if share is None or isinstance(share, str):
        return share or "-"
    step = 10.0 ** -(digits + 2)
    edge = {share < step: ("<", step), share > 1 - step: (">", 1 - step)}.get(True) if 0 < share < 1 else None
    sign, shown = edge or ("", share)
    return f"{sign}{shown:.{digits}%}".replace("%", " %")


def _width(share: float | str | None) -> str:
    """How long a bar is, whatever its sign; none for what is no finite number."""
    return f"{0.0 if share is None or isinstance(share, str) else 100 * min(abs(share), 1):.2f}%"


def _figure(value: float | str | None, digits: int = 1) -> str:
    """'1.2e-03'; a word as it is, nothing for nothing."""
    return value or "" if value is None or isinstance(value, str) else f"{value:.{digits}e}"


def _log_height(count: int, most: int) -> float:
    """Percent of the height of a bar on a logarithmic scale; one element still shows."""
    return 0.0 if count <= 0 else 100.0 * (1 + math.log10(count)) / (1 + math.log10(max(most, 1)))


def _short(value: object) -> str:
    """A number as people write it."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _worst_of_each(worst: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per output the row that comes nearest to its bound."""
    found: dict[str, dict[str, Any]] = {}
    for one in sorted(worst, key=lambda row: -float(row["share"])):
        found.setdefault(one["output"], one)
    return list(found.values())


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "percent": _percent,
    "width": _width,
    "figure": _figure,
    "log_height": _log_height,
    "short": _short,
    "worst_of_each": _worst_of_each,
}
