"""Random data are the same bytes on every machine, and are what they are called.

The fixed words come from Philox-4x64-10 itself, keyed by the SHA-256 that the docstring of `Stream` names.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from conformance.randomness import Stream

_MASK = 2**64 - 1


def _philox_words(key: tuple[int, int], count: int) -> list[int]:
    """Philox-4x64-10 of Salmon et al. (SC'11), counter from 1 as NumPy starts it; plain Python integers."""
    words: list[int] = []
    for block in range(1, 1 + (count + 3) // 4):
        c, k = [block, 0, 0, 0], list(key)
        for _ in range(10):
            p0, p1 = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [(p1 >> 64) ^ c[1] ^ k[0], p1 & _MASK, (p0 >> 64) ^ c[3] ^ k[1], p0 & _MASK]
            k = [(k[0] + 0x9E3779B97F4A7C15) & _MASK, (k[1] + 0xBB67AE8584CAA73B) & _MASK]
        words += c
    return words[:count]


def test_words_are_those_of_philox_under_the_hashed_key() -> None:
    digest = hashlib.sha256(repr((7, "attention", "q")).encode()).digest()
    key = (int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little"))
    assert Stream(7, "attention", "q").words(10).tolist() == _philox_words(key, 10)


def test_streams_of_other_names_or_seeds_differ_and_children_do_not_move_their_parent() -> None:
    parent = Stream(1, "a")
    before = parent.child("b").words(4).tolist()
    assert parent.words(4).tolist() == Stream(1, "a").words(4).tolist()
    assert before == Stream(1, "a", "b").words(4).tolist()
    assert before != Stream(1, "ab").words(4).tolist()
    assert Stream(2, "a").words(4).tolist() != Stream(1, "a").words(4).tolist()


def test_normal_data_are_exact_sums_of_eight_uniform_integers() -> None:
    words = Stream(3, "x").words(2 * 5)
    lanes = [(int(word) >> shift) & 0xFFFF for word in words for shift in (0, 16, 32, 48)]
    sums = [sum(lanes[8 * i : 8 * i + 8]) for i in range(5)]
    deviation = (8 * (2.0**32 - 1) / 12) ** 0.5
    expected = [np.float32((total - 4 * 65535) * (1.0 / deviation)) for total in sums]
    assert Stream(3, "x").normal(5).tolist() == [float(value) for value in expected]


def test_normal_data_have_the_moments_their_docstring_states() -> None:
    values = Stream(0, "moments").normal((400, 500)).astype(np.float64)
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((values**4).mean() / (values**2).mean() ** 2 - 3 + 0.15) < 0.05
    assert np.abs(values).max() < 4.9


def test_integers_fill_their_range_and_no_more() -> None:
    draws = Stream(0, "integers").integers(-3, 4, 7000)
    counts = np.bincount(draws + 3, minlength=7)
    assert len(counts) == 7
    assert counts.min() > 850


@pytest.mark.parametrize(("low", "high"), [(3, 3), (4, 3), (0, 2**32 + 1)])
def test_an_empty_or_too_wide_range_is_refused(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="must hold 1 to 2\\^32 values"):
        Stream(0).integers(low, high)


def test_permutations_and_subsets_hold_what_they_say() -> None:
    assert sorted(Stream(5).permutation(100).tolist()) == list(range(100))
    assert Stream(5).permutation(100).tolist() != list(range(100))
    assert Stream(5).subset(100, 13).sum() == 13


def test_uniform_values_stay_inside_their_half_open_range() -> None:
    values = Stream(0, "u").uniform(-2.0, 6.0, 4000)
    assert values.min() >= -2.0
    assert values.max() < 6.0
    assert abs(float(values.mean()) - 2.0) < 0.2
