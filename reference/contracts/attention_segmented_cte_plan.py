"""How `attention_segmented_cte` shares rows between cores.

A row is one head of one sequence. A slice is the part of a row's queries that one core owns; its groups of
128 queries are counted within the slice. The segments of keys that a slice meets are in `segment_schedule`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reference.contracts.attention_segmented_cte import Config

#: Queries of a group, and keys of a value tile: the partitions of the PE array.
PARTITIONS = 128


@dataclass(frozen=True)
class Slice:
    """Queries `first` .. `first + length - 1` of row `row`, on core `core`."""

    row: int
    core: int
    first: int
    length: int

    @property
    def groups(self) -> int:
        return self.length // PARTITIONS


def slices(config: Config) -> tuple[Slice, ...]:
    """All slices of a call: core 0 first, rows ascending."""
    rows, queries = config.rows, config.seqlen_q
    if config.lnc == 1:
        return tuple(Slice(row, 0, 0, queries) for row in range(rows))
    half = -(-rows // 2) if config.kvp else rows // 2
    whole = [(row, 0) for row in range(half)] + [
        (row, 1) for row in range(half, rows if config.kvp else 2 * half)
    ]
    found = [Slice(row, core, 0, queries) for row, core in whole]
    if rows % 2 and not config.kvp:
        found += split_row(config, rows - 1)
    return tuple(sorted(found, key=lambda part: (part.core, part.row)))


def split_row(config: Config, row: int) -> list[Slice]:
    """A row whose queries two cores share; core 1 has none where the first unit is all there is."""
    unit = max(PARTITIONS, config.block_size)
    first = unit * -(-config.seqlen_q // (2 * unit))
    rest = config.seqlen_q - first
    return [Slice(row, 0, 0, first)] + ([Slice(row, 1, first, rest)] if rest > 0 else [])
