"""`nki-oracle budget`: which rounding points the error of a result comes from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.bar import Bar
from rich.console import Console
from rich.progress import track
from rich.table import Table

from conformance.budget import METHOD, Budget, CacheError, Part
from conformance.budget import budget as take_apart
from conformance.lanes import LaneError
from reference.rounding import Study
from tools import profile_option, selection
from tools.errors import BadInput
from tools.output import console, require_folder, write_json

_CHARTS = (".svg", ".png", ".pdf")
#: Rows below this share are summed up in one line.
_LEAST_SHARE = 0.005
_BAR_WIDTH = 20
_TEXT_WIDTH = 62


def budget(
    name: Annotated[str, typer.Argument(metavar="KERNEL")],
    case: Annotated[str, typer.Option(help="Id of a case, or its 'cfg:' text.")],
    lane: Annotated[str | None, typer.Option(help="Data of this lane.")] = None,
    seed: Annotated[int | None, typer.Option(help="Data of this seed.", min=0)] = None,
    output: Annotated[str | None, typer.Option(help="The output to look at; the first one if none.")] = None,
    caches: Annotated[
        bool | None,
        typer.Option(help="Count the rounding of data into caches; by default where these are 8 bits wide."),
    ] = None,
    profile: Annotated[str, typer.Option(help=profile_option.HELP)] = "default",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the budget here; - for stdout.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Draw the shares as bars: .svg, .png or .pdf.")] = None,
) -> int:
    """Switch every rounding point to exact in turn: its share of the error, and what an FP8 cache costs."""
    require_folder(json_file)
    _require_chart(chart)
    subject = selection.subject(name)
    chosen = selection.with_data(subject, selection.named(subject, [case]), lane, seed)
    if not chosen:
        raise BadInput(f"lane {lane} does not fit this config")
    if (refusal := subject.legal(chosen[0].config)) is not None:
        raise BadInput(f"this config is refused: {refusal.error()}")
    arithmetic = profile_option.profile_of(profile)
    try:
        found = take_apart(subject, chosen[0], arithmetic, caches, watch=_watched)
    except LaneError as error:
        raise BadInput(f"these data cannot be built: {error}") from None
    except CacheError as error:
        raise BadInput(f"--caches: {error}") from None
    shown = _output(found, output)
    if json_file is not None:
        write_json(json_file, {"command": "budget", "version": 1, **found.to_dict(shown)})
    if chart is not None:
        _draw(found, shown, chart)
    if json_file != Path("-"):
        _show(found, shown)
    return 0


def _watched(studies: Iterable[Study]) -> Iterable[Study]:
    """With a progress bar on stderr, where someone is looking."""
    screen = Console(stderr=True)
    return track(list(studies), "switching points", console=screen, transient=True, disable=not screen.is_terminal)


def _output(found: Budget, name: str | None) -> str:
    known = tuple(found.totals)
    if name is not None and name not in known:
        raise BadInput(f"this case has no output '{name}'; its outputs are {', '.join(known)}")
    return name or known[0]


def _require_chart(path: Path | None) -> None:
    require_folder(path)
    if path is not None and path.suffix.lower() not in _CHARTS:
        raise BadInput(f"--chart {path}: give a name that ends in {', '.join(_CHARTS)}")


def _draw(found: Budget, output: str, path: Path) -> None:
    from conformance.budget_chart import draw

    try:
        draw(found, output, path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from None


# ---------------------------------------------------------------------------------------- showing


def _show(found: Budget, output: str) -> None:
    screen = console()

    def say(text: str) -> None:
        # Not wrapped: the last line is there to be copied.
        screen.print(text, markup=False, highlight=False, soft_wrap=True)

    for line in _head(found, output):
        say(line)
    if found.totals[output].error:
        screen.print(_table(found, output, full=screen.width >= 140))
    for line in _foot(found, output):
        say(line)


def _head(found: Budget, output: str) -> Iterable[str]:
    total = found.totals[output]
    yield f"{found.kernel} {found.case}: error of {output} {total.error:.2e} of truth ({total.elements} elements)"
    bound = "" if total.share_of_bound is None else f"; no element beyond {total.share_of_bound:.2g} of its bound"
    yield f"the kernel alone, its inputs as given: {total.kernel:.2e}{bound}"
    if found.caches is not None:
        adds = found.caches.adds
        others = [f"in {dtype} {by[output]:.2e}" for dtype, by in adds.items() if dtype != found.caches.dtype]
        own, names = adds[found.caches.dtype][output], ", ".join(found.caches.arguments)
        yield f"{names} in {found.caches.dtype} add {own:.2e}; they would add {', '.join(others)}"


def _table(found: Budget, output: str, full: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("point", "rounds to"):
        table.add_column(name, no_wrap=True)
    for name in ("introduced", "adds", "without", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    if full:
        table.add_column("what", no_wrap=True, max_width=_TEXT_WIDTH, overflow="ellipsis")
    shown, rest = _split(found, output)
    for part in shown:
        table.add_row(*_cells(part, output), *([part.description] if full else []))
    if rest:
        share = sum(part.effects[output].share for part in rest)
        table.add_row(f"{len(rest)} others", "", "", "", "", _percent(share))
    return table


def _split(found: Budget, output: str) -> tuple[list[Part], list[Part]]:
    ranked = found.ranked(output)
    shown = [part for part in ranked if abs(part.effects[output].share) >= _LEAST_SHARE or part.kind == "float32"]
    return shown, [part for part in ranked if part not in shown]


def _cells(part: Part, output: str) -> tuple[Any, ...]:
    effect = part.effects[output]
    aside = "input" if part.kind == "input" else part.operand
    name = f"{part.name} ({aside})" if aside else part.name
    dtype = "" if part.kind == "float32" else part.dtype
    bar = Bar(1.0, 0.0, min(1.0, max(0.0, effect.share)), width=_BAR_WIDTH)
    return name, dtype, _size(part.introduced), _size(effect.adds), _size(effect.without), _percent(effect.share), bar


def _percent(share: float) -> str:
    # Adding 0 takes the sign off a share that rounds to it.
    return f"{round(share, 3) + 0.0:.1%}"


def _size(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"


def _foot(found: Budget, output: str) -> Iterable[str]:
    if not found.totals[output].error:
        yield "every element is truth's own: with these data nothing that rounds changes a value"
    fit = [name for name, why in found.idle.items() if why.startswith("all values fit")]
    if fit:
        yield f"round nothing here: {', '.join(fit)}"
    others = [name for name in found.totals if name != output]
    if others:
        told = ", ".join(f"{name} {found.totals[name].error:.2e}" for name in others)
        yield f"other outputs (--output): {told}"
    yield from found.outside
    yield from METHOD
    yield f"again: {found.repro}"
