"""One digest per rounding point of a model run: enough to tell later which of them moved first."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.digests import array_digest
from conformance.golden_manifest import GoldenPoint

_DIGITS = 16


class PointDigests:
    """A Recorder that keeps digests instead of values.

    The digest of a point does not depend on the order in which its tiles were recorded, so that a
    model may be vectorised differently without a golden changing. Every NaN counts as the same value:
    its sign and payload depend on the processor.
    """

    enabled = True

    def __init__(self) -> None:
        self._tiles: dict[str, dict[tuple[int, tuple[int, ...], int], bytes]] = {}

    def __call__(self, point: str, tile: tuple[int, ...], value: NDArray[Any], core: int = 0) -> None:
        """Takes one tile in; the value may change afterwards."""
        tiles = self._tiles.setdefault(point, {})
        occurrence = 0
        while (core, tuple(tile), occurrence) in tiles:
            occurrence += 1
        tiles[core, tuple(tile), occurrence] = array_digest(np.asarray(value))

    def points(self) -> tuple[GoldenPoint, ...]:
        """Name and digest of every point, in the order of their first appearance."""
        return tuple(GoldenPoint(name, _joined(tiles)) for name, tiles in self._tiles.items())


def _joined(tiles: dict[tuple[int, tuple[int, ...], int], bytes]) -> str:
    state = hashlib.sha256()
    for key in sorted(tiles):
        state.update(repr(key).encode() + tiles[key])
    return state.hexdigest()[:_DIGITS]
