"""How a model tells the values at its rounding points.

A model calls `record(point, tile, value, core)`; the kernel's trace holds the same names on its tiles. Two
traces are paired by (point, tile, core, occurrence), where a name that comes again under the same core counts
up from 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_TILE_NAME = re.compile(r"(?P<point>.*?)(?P<tile>(?:_\d+)*)", re.DOTALL)


class Recorder(Protocol):
    """What a model accepts as `record`."""

    @property
    def enabled(self) -> bool:
        """False when values are thrown away: a model then skips the work of cutting its arrays into tiles."""

    def __call__(self, point: str, tile: tuple[int, ...], value: NDArray[Any], core: int = 0) -> None:
        """Take the complete content of one tile; it may be a view that changes later, so copy to keep it."""


class _NoRecord:
    """Throws everything away."""

    enabled = False

    def __call__(self, point: str, tile: tuple[int, ...], value: NDArray[Any], core: int = 0) -> None:
        return None


#: The default of every model.
NO_RECORD: Recorder = _NoRecord()


@dataclass(frozen=True)
class Entry:
    """One recorded tile."""

    point: str
    tile: tuple[int, ...]
    core: int
    #: How often this core had recorded this tile before.
    occurrence: int
    value: NDArray[Any]

    @property
    def name(self) -> str:
        """The tile's name in a kernel, e.g. "psum_0_3"."""
        return tile_name(self.point, self.tile)


@dataclass
class ListRecorder:
    """Keeps a copy of every value, in the order in which they came."""

    entries: list[Entry] = field(default_factory=list)
    enabled: bool = True
    _by_key: dict[tuple[str, tuple[int, ...], int], list[Entry]] = field(default_factory=dict, repr=False)

    def __call__(self, point: str, tile: tuple[int, ...], value: NDArray[Any], core: int = 0) -> None:
        """Append a contiguous copy of `value`."""
        seen = self._by_key.setdefault((point, tuple(tile), core), [])
        entry = Entry(point, tuple(tile), core, len(seen), np.array(value))
        seen.append(entry)
        self.entries.append(entry)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def points(self) -> tuple[str, ...]:
        """The points recorded, in the order of their first appearance."""
        return tuple(dict.fromkeys(entry.point for entry in self.entries))

    def value(
        self, point: str, tile: tuple[int, ...] = (), core: int = 0, occurrence: int = -1
    ) -> NDArray[Any]:
        """The value of one tile; the last occurrence unless told. KeyError when it was never recorded."""
        seen = self._by_key.get((point, tuple(tile), core), [])
        try:
            return seen[occurrence].value
        except IndexError:
            where = f"{tile_name(point, tile)} on core {core}, occurrence {occurrence}"
            raise KeyError(f"{where} was not recorded; points: {', '.join(self.points) or 'none'}") from None


def tile_name(point: str, tile: tuple[int, ...] = ()) -> str:
    """The name of a tile: the point followed by "_<integer>" per index; ("psum", (0, 3)) gives "psum_0_3"."""
    return "_".join((point, *map(str, tile)))


def split_name(name: str) -> tuple[str, tuple[int, ...]]:
    """Inverse of `tile_name`: "psum_0_3" gives ("psum", (0, 3)), "inv_scale" gives ("inv_scale", ())."""
    match = _TILE_NAME.fullmatch(name)
    assert match is not None  # the pattern matches every string
    return match["point"], tuple(int(part) for part in match["tile"].split("_")[1:])
