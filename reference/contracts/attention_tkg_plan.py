"""How attention_tkg cuts its work: cores, flash tiles, batch tiles, block folds. From shapes alone.

Everything here decides which core, tile and partition a token meets. Batch tiles, score groups and shift
chunks never change a value, the rest does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

#: Partitions of SBUF and PSUM, and the length of one contraction over keys.
PARTITIONS = 128
#: Keys of one flash tile; flash tiling is active above it.
FLASH_KEYS = 8192
#: fp32 values of one PSUM bank, the longest moving operand of a matmul.
BANK = 512
#: Key tiles of one score group where the bank allows: 4096 keys.
GROUP_TILES = 32
#: Columns of one shift chunk times its key tiles.
CHUNK_VALUES = 2048
#: SBUF bytes per partition that the buffers of one batch tile may take.
BATCH_TILE_BYTES = 128 * 1024


class Shapes(Protocol):
    """The fields of a Config that the plan reads."""

    @property
    def bs(self) -> int: ...
    @property
    def q_head(self) -> int: ...
    @property
    def s_active(self) -> int: ...
    @property
    def curr_sprior(self) -> int: ...
    @property
    def block_len(self) -> int: ...
    @property
    def strided_mm1(self) -> bool: ...
    @property
    def enable_fa_s_prior_tiling(self) -> bool: ...
    @property
    def dtype_bytes(self) -> int: ...
    @property
    def lnc(self) -> int: ...


@dataclass(frozen=True)
class FlashTile:
    """Keys `offset .. offset + keys - 1` of a core's share, in `keys / 128` key tiles."""

    offset: int
    keys: int

    @property
    def key_tiles(self) -> int:
        return self.keys // PARTITIONS


@dataclass(frozen=True)
class Plan:
    """The cuts of one call."""

    #: 'batch', 'sequence' or 'none' (every core computes everything).
    sharding: str
    lnc: int
    batches: int
    columns_per_batch: int
    keys_per_core: int
    flash_tiles: tuple[FlashTile, ...]
    #: 'strided', 'sequential' or 'block'.
    layout: str
    #: Block length after the resize and how many such blocks one table entry becomes; (0, 1) for flat caches.
    block_len: int
    block_factor: int
    batch_tile: int

    @property
    def n_seq(self) -> int:
        return 2 if self.sharding == "sequence" else 1

    @property
    def n_bat(self) -> int:
        return 2 if self.sharding == "batch" else 1

    @property
    def shards(self) -> int:
        """Cores that do different work."""
        return self.n_seq * self.n_bat

    @property
    def batches_per_core(self) -> int:
        return self.batches // self.n_bat

    @property
    def flash(self) -> bool:
        return len(self.flash_tiles) > 1

    @property
    def batch_tiles(self) -> tuple[range, ...]:
        """Batches of each batch tile, counted from the first batch of the core."""
        ends = range(0, self.batches_per_core, self.batch_tile)
        return tuple(range(b, min(b + self.batch_tile, self.batches_per_core)) for b in ends)

    @property
    def score_group(self) -> int:
        """Key tiles whose scores share one PSUM bank."""
        fits = GROUP_TILES * self.columns_per_batch <= BANK
        return GROUP_TILES if fits else BANK // self.columns_per_batch

    def shift_chunk(self, columns: int) -> int:
        """Key tiles of one shift chunk of a batch tile with that many columns."""
        return max(1, CHUNK_VALUES // columns)


def plan(shapes: Shapes) -> Plan:
    """The plan of a legal config."""
    kind = sharding(shapes)
    keys = shapes.curr_sprior // (2 if kind == "sequence" else 1)
    tiles = flash_tiles(keys, shapes.enable_fa_s_prior_tiling)
    length = _resized(shapes, keys, len(tiles) > 1)
    batches = shapes.bs // (2 if kind == "batch" else 1)
    return Plan(
        sharding=kind,
        lnc=shapes.lnc,
        batches=shapes.bs,
        columns_per_batch=shapes.q_head * shapes.s_active,
        keys_per_core=keys,
        flash_tiles=tiles,
        layout="block" if shapes.block_len else "strided" if shapes.strided_mm1 else "sequential",
        block_len=length,
        block_factor=shapes.block_len // length if length else 1,
        batch_tile=batch_tile(batches, shapes, tiles),
    )


def sharding(shapes: Shapes) -> str:
    """'batch', 'sequence' or 'none'. Source: the seed's section on adaptive LNC2 sharding."""
    if shapes.lnc == 1:
        return "none"
    columns = shapes.bs * shapes.q_head * shapes.s_active
    if shapes.bs % 2 == 0 and (columns > PARTITIONS or shapes.curr_sprior < 2 * PARTITIONS):
        return "batch"
    return "sequence" if shapes.curr_sprior >= 2 * PARTITIONS else "none"


def flash_tiles(keys: int, enabled: bool) -> tuple[FlashTile, ...]:
    """Tiles of 8192 keys and a rest, when enabled and there are more keys than that; else one tile."""
    if not enabled or keys <= FLASH_KEYS:
        return (FlashTile(0, keys),)
    return tuple(FlashTile(o, min(FLASH_KEYS, keys - o)) for o in range(0, keys, FLASH_KEYS))


def resized_block_len(block_len: int, keys: int, flash: bool) -> int:
    """Longest block length that divides `block_len` and fills folds of 128 blocks in every flash tile.

    `keys` are those of one core. The order of rows in a pre-generated mask follows from it, so callers need
    it too.
    """
    tiles = keys // PARTITIONS
    if flash:
        tiles = math.gcd(tiles, FLASH_KEYS // PARTITIONS)
        if keys % FLASH_KEYS:
            tiles = math.gcd(tiles, keys % FLASH_KEYS // PARTITIONS)
    return math.gcd(block_len, tiles)


def batch_tile(batches: int, shapes: Shapes, tiles: tuple[FlashTile, ...]) -> int:
    """Batches whose scores (fp32), mask (uint8), exponentials (io) and column vectors fit the SBUF budget."""
    longest = max(tile.key_tiles for tile in tiles)
    per_column = longest * (4 + 1 + shapes.dtype_bytes) + 32
    fit = BATCH_TILE_BYTES // (shapes.q_head * shapes.s_active * per_column)
    return max(1, min(batches, fit))


def _resized(shapes: Shapes, keys: int, flash: bool) -> int:
    return resized_block_len(shapes.block_len, keys, flash) if shapes.block_len else 0
