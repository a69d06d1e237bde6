"""One digest per rounding point of a run: enough to tell later which of them moved first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.digests import array_digest
from conformance.golden_manifest import GoldenPoint
from reference.neuroncore.trace import Tap, TapKey
from reference.recorder import split_name

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
        return tuple(GoldenPoint(name, digest) for name, digest in self.by_name().items())

    def by_name(self) -> dict[str, str]:
        """Digest by point, in the same order."""
        return {name: _joined(tiles) for name, tiles in self._tiles.items()}


def tap_digests(taps: Mapping[TapKey, Tap], points: Iterable[str]) -> dict[str, str]:
    """Digest by point of what a kernel left in the tiles that carry the points' names, in the order of `points`.

    To be compared with those of other runs of the kernel, never with a model's: tiles are allocated larger than
    what is used of them, and keep the last of several writes.
    """
    tiles: dict[str, dict[tuple[int, tuple[int, ...], int], bytes]] = {point: {} for point in points}
    for (core, name, occurrence), tap in taps.items():
        point, tile = split_name(name)
        if point in tiles and tap.instructions:
            written = np.packbits(tap.writers >= 0).tobytes()
            tiles[point][core, tile, occurrence] = array_digest(tap.values) + written
    return {point: _joined(found) for point, found in tiles.items() if found}


def _joined(tiles: dict[tuple[int, tuple[int, ...], int], bytes]) -> str:
    state = hashlib.sha256()
    for key in sorted(tiles):
        state.update(repr(key).encode() + tiles[key])
    return state.hexdigest()[:_DIGITS]
