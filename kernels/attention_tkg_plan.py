"""How attention_tkg cuts its work: cores, flash tiles, batch tiles, block folds. From shapes alone.

Key k of a flash tile with n key tiles of 128 keys sits at partition p of key tile t:
    strided     k = p*n + t           each partition reads a contiguous run of n tokens
    sequential  k = t*128 + p
    block       k = (t // L)*128*L + p*L + t % L      one block of L tokens per partition, 128 blocks a fold
"""

from dataclasses import dataclass

import nki.language as nl

from kernels.item_size import item_size

P = 128
#: Keys of one flash tile; flash tiling is active above it.
FLASH_KEYS = 8192
#: fp32 values of one PSUM bank.
BANK = 512
#: Key tiles whose scores share one PSUM tile, where the bank allows.
GROUP_TILES = 32
#: Columns of one shift chunk times its key tiles.
CHUNK_VALUES = 2048
#: SBUF bytes per partition that scores, mask and exponentials of a batch tile may take.
BATCH_TILE_BYTES = 131072
#: SBUF bytes per partition of one load of keys or values; two are in flight.
LOAD_BYTES = 16384


@dataclass
class AttnPlan(nl.NKIObject):
    """The cuts of one call, as one core sees them."""

    #: Programs of the launch and the own id.
    n_prgs: int
    prg: int
    #: Cores that share the keys, cores that share the batches; never both 2.
    n_seq: int
    n_bat: int
    #: Keys, batches and columns per batch (q_head * s_active) of this core.
    keys: int
    batches: int
    columns: int
    s_active: int
    d_head: int
    #: Batches of a batch tile, key tiles of a score group.
    batch_tile: int
    score_group: int
    #: Keys of a full flash tile: all of them without flash tiling.
    flash_keys: int
    #: 'strided', 'sequential' or 'block'; the resized block length and blocks per table entry (0, 1 if flat).
    layout: str
    block_len: int
    block_factor: int

    def first_batch(self):
        """Global index of the core's first batch."""
        return self.prg * self.batches if self.n_bat == 2 else 0

    def first_key(self):
        """Token of the core's first key."""
        return self.prg * self.keys if self.n_seq == 2 else 0

    def owns_tail(self):
        """Whether the last s slots, those of the active tokens, are this core's."""
        return self.n_seq == 1 or self.prg == 1

    def stores_columns(self):
        """Whether this core writes results that are per column to HBM."""
        return self.n_bat == 2 or self.prg == 0

    def stores_keys(self):
        """Whether this core writes results that are per key to HBM."""
        return self.n_seq == 2 or self.stores_columns()

    def flash_tiles(self):
        """Number of flash tiles."""
        return (self.keys + self.flash_keys - 1) // self.flash_keys

    def key_tiles(self, f):
        """n: key tiles of flash tile f."""
        return min(self.flash_keys, self.keys - f * self.flash_keys) // P

    def first_token(self, f):
        """Token of the first key of flash tile f."""
        return self.first_key() + f * self.flash_keys

    def batch_tiles(self):
        """Number of batch tiles."""
        return (self.batches + self.batch_tile - 1) // self.batch_tile

    def tail_width(self, n):
        """Consecutive tokens of a partition at the end of a flash tile of n key tiles."""
        if self.layout == "strided":
            return n
        if self.layout == "block":
            return self.block_len
        return 1


def attention_plan(cfg, io, n_prgs, prg):
    """The plan of a call with queries of dtype `io`."""
    columns = cfg.q_head * cfg.s_active
    n_bat = 1
    if n_prgs == 2 and cfg.bs % 2 == 0 and (cfg.bs * columns > P or cfg.curr_sprior < 2 * P):
        n_bat = 2
    n_seq = 2 if n_prgs == 2 and n_bat == 1 and cfg.curr_sprior >= 2 * P else 1
    keys = cfg.curr_sprior // n_seq
    batches = cfg.bs // n_bat
    flash_keys = FLASH_KEYS if cfg.enable_fa_s_prior_tiling and keys > FLASH_KEYS else keys
    layout = "strided" if cfg.strided_mm1 else "sequential"
    block_len, factor = 0, 1
    if cfg.block_len > 0:
        layout = "block"
        block_len = resized_block_len(cfg.block_len, keys, flash_keys)
        factor = cfg.block_len // block_len
    per_column = (flash_keys // P) * (5 + item_size(io)) + 32
    return AttnPlan(
        n_prgs=n_prgs, prg=prg, n_seq=n_seq, n_bat=n_bat, keys=keys, batches=batches, columns=columns,
        s_active=cfg.s_active, d_head=cfg.d_head,
        batch_tile=max(1, min(batches, BATCH_TILE_BYTES // (columns * per_column))),
        score_group=GROUP_TILES if GROUP_TILES * columns <= BANK else BANK // columns,
        flash_keys=flash_keys, layout=layout, block_len=block_len, block_factor=factor,
    )


def resized_block_len(block_len, keys, flash_keys):
    """The longest block length that divides `block_len` and fills folds of 128 blocks in every flash tile.

    `keys` are those of one core: what counts is over how many cores the sequence is split, not how many there are.
    """
    length = common_divisor(block_len, flash_keys // P)
    if keys % flash_keys != 0:
        length = common_divisor(length, keys % flash_keys // P)
    return length


def common_divisor(a, b):
    """The greatest common divisor of two positive integers."""
    while b > 0:
        a, b = b, a % b
    return a
