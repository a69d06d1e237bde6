"""Which keys a slice of queries meets in `attention_segmented_cte`, in order, and in which tiles.

The trip counts of the kernel's run-time loops, the segments, their masks, and the tiles that a group of queries
processes, as the contract lays them down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reference.contracts.attention_segmented_cte import Config
from reference.contracts.attention_segmented_cte_plan import PARTITIONS, Slice
from reference.float_to_int import floor_to_int32

Bool = NDArray[np.bool_]

#: Keys of a key tile: one PSUM bank of float32.
KEY_TILE = 512
#: Keys of a large tile, whose products with V are accumulated in PSUM.
LARGE_TILE = 2048

#: Kinds of segments, as tile names count them.
ACTIVE, PARTIAL, FULL, EXTRA, WINDOW = range(5)


@dataclass(frozen=True)
class Schedule:
    """The trip counts that a core computes from `prior_tokens`."""

    #: float32(P) * float32(1/G): below an integer quotient where the reciprocal was rounded down.
    turns: np.float32
    num_full: int
    partial: int


def schedule(prior: int, segment: int) -> Schedule:
    """Full segments and the tokens of the partial one; a multiplication by the rounded reciprocal.

    P = G = 5248 gives 0 full segments and a partial one of 5248 tokens. The product is never above the
    quotient, so `partial` is never negative.
    """
    turns = np.float32(prior) * np.float32(1.0 / segment)
    full = int(floor_to_int32(np.array([turns]))[0])
    return Schedule(turns, full, prior - full * segment)


@dataclass(frozen=True)
class Segment:
    """`length` keys in a row, the first of them token `start` of the sequence (negative: before the first).

    Keys below `loaded_from` and keys from `loaded_to` on are zeros, not what the cache holds there.
    """

    kind: int
    start: int
    length: int
    loaded_from: int
    loaded_to: int
    #: Key index that the first query of the slice is at, where later keys are in its future; None for no
    #: causal mask.
    diagonal: int | None = None
    #: How many keys a query sees up to and with its own; None for all.
    window: int | None = None
    #: Whether tiles that the static masks hide from a whole group are left out.
    skips: bool = False

    @property
    def key_tiles(self) -> tuple[range, ...]:
        return tuple(self._cut(KEY_TILE))

    @property
    def value_tiles(self) -> tuple[range, ...]:
        return tuple(self._cut(PARTITIONS))

    def _cut(self, size: int) -> Iterator[range]:
        # In the window's segment the prior area is whole key tiles, so active tiles start on a tile too.
        for first in range(0, self.length, size):
            yield range(first, min(first + size, self.length))

    def meets(self, group: int, keys: range) -> bool:
        """Whether a tile is processed for a group of queries."""
        if not self.skips or self.diagonal is None:
            return True
        lowest = self.diagonal + group * PARTITIONS
        if keys[0] > lowest + PARTITIONS - 1:
            return False
        return self.window is None or keys[-1] >= lowest - (self.window - 1)

    def visible(self, queries: range, keys: range) -> Bool | None:
        """Which keys the queries of the slice see, [queries, keys]; None where they see all."""
        if self._all_visible(queries, keys):
            return None
        key = np.arange(keys.start, keys.stop)[None]
        found = (key >= self.loaded_from) & (key < self.loaded_to)
        if self.diagonal is None:
            return np.broadcast_to(found, (len(queries), len(keys)))
        own = self.diagonal + np.arange(queries.start, queries.stop)[:, None]
        found = found & (key <= own)
        return found if self.window is None else found & (key > own - self.window)

    def _all_visible(self, queries: range, keys: range) -> bool:
        loaded = self.loaded_from <= keys[0] and keys[-1] < self.loaded_to
        if self.diagonal is None or not loaded:
            return loaded
        causal = keys[-1] <= self.diagonal + queries[0]
        return causal and (self.window is None or keys[0] > self.diagonal + queries[-1] - self.window)


def segments(config: Config, part: Slice, prior: int, offset: int | None = None) -> Iterator[Segment]:
    """The segments of a slice in order.

    Args:
        prior: the value of `prior_tokens`.
        offset: the value of `kvp_offset`, None without it.
    """
    if config.sliding_window:
        yield window_segment(config, part, prior)
        return
    size = config.prior_seg_size
    trips = schedule(prior, size)

    def kvp(start: int) -> int | None:
        return None if offset is None else part.first + offset - start

    start = prior + part.first
    own = 0 if offset is None else kvp(start)
    yield Segment(ACTIVE, start, part.length, 0, part.length, own, skips=offset is None)
    if trips.partial:
        start = trips.num_full * size
        yield Segment(PARTIAL, start, size, 0, trips.partial, kvp(start))
    for index in reversed(range(trips.num_full)):
        start = index * size
        yield Segment(FULL, start, size, 0, size, kvp(start))
    if part.first and offset is None:
        yield Segment(EXTRA, prior, part.first, 0, part.first)


def window_segment(config: Config, part: Slice, prior: int) -> Segment:
    """Whole key tiles of prior tokens, right-aligned, and the slice's own tokens behind them."""
    area = KEY_TILE * -(-config.sliding_window // KEY_TILE)
    before = prior + part.first
    first = max(area - config.sliding_window, area - before)
    return Segment(
        WINDOW, before - area, area + part.length, first, area + part.length, area, config.sliding_window, skips=True
    )
