"""How far a run of the fuzzer is: a table that is drawn anew while it goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, SupportsInt

from rich.console import Console
from rich.live import Live
from rich.table import Table

from conformance.fuzz_result import FuzzResult


class Board:
    """One row per kernel: what was run and found in the parts that are done, under a line about all of them.

    `until` is when the run ends, None for when it is done; `steps` how many examples have begun.
    """

    def __init__(self, kernels: list[str], until: float | None, steps: SupportsInt = 0) -> None:
        self._started, self._until, self._steps = time.time(), until, steps
        self._sums: dict[str, FuzzResult | None] = dict.fromkeys(kernels)

    def show(self, sums: Mapping[str, FuzzResult]) -> None:
        """Takes new sums over."""
        self._sums |= sums

    def end_at(self, until: float | None) -> None:
        """The time has begun to run."""
        self._until = until

    def __rich__(self) -> Table:
        table = results_table(self._title())
        for kernel, found in self._sums.items():
            table.add_row(*(cells(found) if found else (kernel, "0", "0", "0", "-", "-", "-", "")))
        return table

    def _title(self) -> str:
        now = time.time()
        gone = f"fuzzing for {_clock(now - self._started)}, {int(self._steps)} examples begun"
        return gone if self._until is None else f"{gone}, {_clock(self._until - now)} left"


@contextlib.contextmanager
def on_screen(board: Board) -> Iterator[None]:
    """The board on stderr, and only where someone is looking: stdout belongs to the results."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with Live(board, console=console, refresh_per_second=2, transient=True):
        yield


def results_table(title: str = "") -> Table:
    """An empty table for rows of `cells`."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    table.add_column("kernel")
    for name in ("cases", "refusals", "spoiled", "worst share", "pairs", "work in s"):
        table.add_column(name, justify="right")
    table.add_column("")
    return table


def is_complete(found: FuzzResult) -> bool:
    """Whether every pair of options that a legal config can have was run."""
    return found.coverage.pairs <= found.coverage.covered


def _verdict(found: FuzzResult) -> str:
    if not found.passed:
        return f"[red]findings: {len(found.findings)}[/red]"
    if not is_complete(found):
        return "[red]pairs incomplete[/red]"
    return f"[green]nothing found[/green]{f', remarks: {len(found.remarks)}' if found.remarks else ''}"


def cells(found: FuzzResult) -> tuple[Any, ...]:
    """What a row says of one kernel."""
    share = "-" if found.worst_share is None else f"{found.worst_share:.3f}"
    known = len(found.coverage.pairs)
    pairs = f"{len(found.coverage.covered & found.coverage.pairs)}/{known}" if known else "-"
    refused = str(found.refusals), str(found.spoiled)
    return found.kernel, str(found.examples), *refused, share, pairs, f"{found.seconds:.1f}", _verdict(found)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"
