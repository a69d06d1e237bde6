"""The XORWOW generator of Marsaglia (2003), one per lane: five xorshift words and a counter.

The documents name the algorithm and the size of its state (6 words per lane on GpSimd, 4 x 6 on the vector
engine); seeding and the order in which a lane's four generators take turns are not public, so streams are
reproducible here and need not be a device's. Streams depend on the seed and the lane alone, not on shapes or
earlier launches.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

LANES = 128
#: Words of one generator: x, y, z, w, v and the counter d.
WORDS = 6
_WEYL = np.uint32(362437)
#: Increment of the splitmix32 sequence that spreads a seed over the state.
_GOLDEN = 0x9E3779B9


def seeded(seed: int, generators: int) -> Words:
    """State [128, 6 * generators] from a 32-bit seed; different in every lane and generator."""
    index = np.arange(LANES * generators * WORDS, dtype=np.uint64) + np.uint64(1)
    mixed = (np.uint64(seed & 0xFFFFFFFF) + index * np.uint64(_GOLDEN)) & np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed ^= mixed >> np.uint64(shift)
        mixed = (mixed * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    mixed ^= mixed >> np.uint64(16)
    return mixed.astype(np.uint32).reshape(LANES, generators * WORDS)


@dataclass(eq=False)
class Xorwow:
    """The generators of one engine: `state` uint32 [128 lanes, 6 words x generators per lane]."""

    generators: int
    state: Words = field(init=False)

    def __post_init__(self) -> None:
        self.state = seeded(0, self.generators)

    def draw(self, lanes: slice, count: int) -> Words:
        """`count` numbers of 32 random bits per lane, [lanes, count]; a lane's generators take turns."""
        state = self.state[lanes].reshape(-1, self.generators, WORDS)
        steps = -(-count // self.generators)
        drawn = np.empty((len(state), steps, self.generators), np.uint32)
        for step in range(steps):
            drawn[:, step] = _advance(state)
        self.state[lanes] = state.reshape(len(state), -1)
        return drawn.reshape(len(state), -1)[:, :count]


def _advance(state: Words) -> Words:
    """One step of the generators [..., 6], in place; returns their outputs [...]."""
    x, v = state[..., 0].copy(), state[..., 4].copy()
    t = x ^ (x >> np.uint32(2))
    state[..., 0:4] = state[..., 1:5].copy()
    state[..., 4] = (v ^ (v << np.uint32(4))) ^ (t ^ (t << np.uint32(1)))
    state[..., 5] += _WEYL
    return np.asarray(state[..., 4] + state[..., 5])
