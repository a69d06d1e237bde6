"""Random data whose bytes are the same on every machine and under every NumPy.

NumPy keeps the raw words of a bit generator stable for ever, but neither the methods of `Generator`
nor the last bits of its normal distribution, whose tails go through exp and log of the C library. So
only raw words are drawn here, and all else is integer arithmetic and IEEE-exact float operations.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Shape = int | tuple[int, ...]

#: Standard deviation of a sum of eight independent uniform integers in [0, 2^16).
_SUM_OF_EIGHT_DEVIATION = math.sqrt(8 * (2.0**32 - 1) / 12)
_SUM_OF_EIGHT_MEAN = 8 * (2**16 - 1) / 2
#: Values drawn at a time, so that what lies between words and values stays in cache.
_BLOCK = 16384
_EVEN_LANES = np.uint64(0x0000FFFF0000FFFF)


class Stream:
    """An endless sequence of random words that belongs to a seed and a name.

    Streams of different names are independent: a new argument of a kernel gets a new name, and leaves
    the data of the others as they were.
    """

    def __init__(self, seed: int, *names: str) -> None:
        self.seed = seed
        self.names = names
        key = hashlib.sha256(repr((int(seed), *names)).encode()).digest()[:16]
        self._words = np.random.Philox(key=np.frombuffer(key, "<u8").astype(np.uint64))

    def child(self, name: str) -> Stream:
        """An independent stream; drawing from it does not move this one."""
        return Stream(self.seed, *self.names, name)

    def words(self, count: int) -> NDArray[np.uint64]:
        """`count` uniform 64-bit words."""
        words: NDArray[np.uint64] = self._words.random_raw(count)
        return words

    def integers(self, low: int, high: int, shape: Shape = ()) -> NDArray[np.int64]:
        """Integers in [low, high), int64; ranges up to 2^32, biased by less than range * 2^-32.

        ValueError for an empty or wider range.
        """
        if not 0 < high - low <= 2**32:
            raise ValueError(f"integers in [{low}, {high}): the range must hold 1 to 2^32 values")
        draws = (self.words(_count(shape)) >> np.uint64(32)) * np.uint64(high - low) >> np.uint64(32)
        return draws.astype(np.int64).reshape(_tuple(shape)) + low

    def normal(self, shape: Shape = ()) -> NDArray[np.float32]:
        """Approximately standard normal values, float32: sums of eight uniform integers, scaled.

        Mean 0, deviation 1, excess kurtosis -0.15, nothing beyond 4.9 in magnitude; 2^19 distinct values.
        Heavier tails are a lane of their own.
        """
        count = _count(shape)
        values = np.empty(count, np.float32)
        for start in range(0, count, _BLOCK):
            values[start : start + _BLOCK] = self._normal_block(min(_BLOCK, count - start))
        return values.reshape(_tuple(shape))

    def _normal_block(self, count: int) -> NDArray[np.float64]:
        # Integer addition: no order of summation can change it. Two 16-bit lanes ride in each half word.
        words = self.words(2 * count)
        pairs = (words & _EVEN_LANES) + (words >> np.uint64(16) & _EVEN_LANES)
        quads = pairs[0::2] + pairs[1::2]
        sums = ((quads & np.uint64(0xFFFFFFFF)) + (quads >> np.uint64(32))).astype(np.float64)
        scaled: NDArray[np.float64] = (sums - _SUM_OF_EIGHT_MEAN) * (1.0 / _SUM_OF_EIGHT_DEVIATION)
        return scaled

    def uniform(self, low: float, high: float, shape: Shape = ()) -> NDArray[np.float32]:
        """Values in [low, high], float32: multiples of (high - low) * 2^-24, rounded once."""
        steps = self.integers(0, 2**24, shape).astype(np.float64) * 2.0**-24
        return (low + steps * (high - low)).astype(np.float32)

    def choice(self, values: Sequence[float], shape: Shape = ()) -> NDArray[np.float32]:
        """Values drawn from a list with equal chance, float32."""
        return np.asarray(values, np.float32)[self.integers(0, len(values), shape)]

    def signs(self, shape: Shape = ()) -> NDArray[np.float32]:
        """+1 and -1, float32."""
        return self.choice((1.0, -1.0), shape)

    def permutation(self, count: int) -> NDArray[np.int64]:
        """The integers 0..count-1 in random order, int64."""
        return np.argsort(self.words(count), kind="stable")

    def subset(self, count: int, size: int) -> NDArray[np.bool_]:
        """A mask of `count` places, `size` of them True."""
        chosen = np.zeros(count, np.bool_)
        chosen[self.permutation(count)[:size]] = True
        return chosen


def _tuple(shape: Shape) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


def _count(shape: Shape) -> int:
    return math.prod(_tuple(shape))
