"""Claims about rotary embeddings: pairs, roundings one by one, and the angles a kernel reduces itself."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from conformance.tests.kernels import by_hand
from conformance.tests.kernels.attention_tkg_by_hand import wave
from conformance.tests.kernels.by_hand import add, multiply, to
from reference.numerics import DEFAULT
from reference.numerics.cast import cast
from reference.recorder import ListRecorder
from reference.rope import (
    LAYOUTS,
    angles,
    join_pairs,
    reduced_wave,
    rotate_exact,
    rotate_fused,
    rounded_rotation,
    split_pairs,
)

DTYPES = ("bfloat16", "float16", "float32", "float8_e4m3")


def waves(half: int, columns: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, (half, columns))
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def test_pairs_are_halves_or_neighbours() -> None:
    x = np.arange(8)
    assert [part.tolist() for part in split_pairs(x, "contiguous")] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [part.tolist() for part in split_pairs(x, "interleaved")] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    for layout in LAYOUTS:
        assert (join_pairs(*split_pairs(x, layout), layout) == x).all()
    with pytest.raises(ValueError, match="layout 'halves' is not known"):
        split_pairs(x, "halves")


def test_a_rotation_keeps_lengths_and_angles_between_positions() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 6))
    theta = np.array([0.3, 1.1, 2.0])
    for layout in LAYOUTS:
        turned = [rotate_exact(v, np.cos(n * theta), np.sin(n * theta), layout) for v, n in ((x, 5), (y, 3))]
        relative = rotate_exact(x, np.cos(2 * theta), np.sin(2 * theta), layout)
        assert turned[0] @ turned[1] == pytest.approx(relative @ y, abs=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tables_round_every_product_and_sum(layout: str, dtype: str) -> None:
    draw = np.random.default_rng(1)
    x = cast(draw.standard_normal((8, 5)).astype(np.float32), dtype)
    cos, sin = (cast(table, dtype) for table in waves(4, 5))
    got = by_hand.values(rounded_rotation(x, cos, sin, layout).total)
    v, c, s = by_hand.values(x), by_hand.values(cos), by_hand.values(sin)
    for i in range(4):
        first, second = (i, i + 4) if layout == "contiguous" else (2 * i, 2 * i + 1)
        for n in range(5):
            e, o = v[first][n], v[second][n]
            ec, oc, es, os = (
                to(multiply(a, b), dtype) for a, b in ((e, c[i][n]), (o, c[i][n]), (e, s[i][n]), (o, s[i][n]))
            )
            assert got[first][n] == to(add(ec, -os), dtype)
            assert got[second][n] == to(add(oc, es), dtype)


def test_both_layouts_give_the_same_bits_on_permuted_channels() -> None:
    x = cast(np.random.default_rng(2).standard_normal((16, 7)).astype(np.float32), "bfloat16")
    cos, sin = waves(8, 7)
    neighbours = join_pairs(*split_pairs(x, "contiguous"), "interleaved")
    turned = rounded_rotation(neighbours, cos, sin, "interleaved").total
    expected = rounded_rotation(x, cos, sin, "contiguous").total
    assert (join_pairs(*split_pairs(turned, "interleaved"), "contiguous") == expected).all()


@pytest.mark.parametrize("sine_dtype", ["float32", "bfloat16"])
def test_a_fused_rotation_rounds_the_sine_product_where_it_is_stored(sine_dtype: str) -> None:
    x = cast(np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32), "bfloat16")
    cos, sin = waves(3, 4)
    got = rotate_fused(x, cos, sin, sine_dtype, "bfloat16")
    v, c, s = by_hand.values(x), by_hand.values(cos), by_hand.values(sin)
    total = by_hand.values(got.total)
    for i in range(3):
        for n in range(4):
            for channel, turned in ((i, -v[i + 3][n]), (i + 3, v[i][n])):
                sine_part = to(multiply(turned, s[i][n]), sine_dtype)
                assert total[channel][n] == to(add(multiply(v[channel][n], c[i][n]), sine_part), "bfloat16")
    assert got.cosine_part.dtype == np.float32


def test_where_the_sine_product_is_stored_changes_bits() -> None:
    x = cast(np.random.default_rng(3).standard_normal((64, 32)).astype(np.float32), "bfloat16")
    cos, sin = waves(32, 32)
    wide, narrow = (rotate_fused(x, cos, sin, dtype, "bfloat16").total for dtype in ("float32", "bfloat16"))
    assert (wide != narrow).any()


# --- angles -----------------------------------------------------------------------------------------------


def test_angles_are_products_rounded_once() -> None:
    positions = np.array([[3, 70001], [123456, 1]], np.float32)
    frequencies = np.float32([[1], [0.1], [1e-4]])
    got = angles(positions, frequencies)
    for i in range(3):
        assert got[i].tolist() == [
            multiply(float(p), float(frequencies[i, 0])) for p in positions.reshape(-1)
        ]


def test_waves_have_the_bits_of_the_reduction_by_hand() -> None:
    angle = np.float32(np.random.default_rng(5).uniform(0, 3000, (1, 60)))
    for which, shift in ((0, math.pi), (1, 1.5 * math.pi)):
        assert reduced_wave(angle, which)[0].tolist() == [wave(float(a), shift) for a in angle[0]]


@pytest.mark.parametrize(("largest", "error"), [(100.0, 2e-5), (8e3, 2e-3), (1.3e5, 3e-2)])
def test_the_error_of_waves_grows_with_the_angle(largest: float, error: float) -> None:
    """Public figures: 5e-6 at 100, 4e-4 at 8e3, 8e-3 at 1.3e5; the bound is the sum of the constants' errors."""
    angle = np.float32(np.linspace(0.9 * largest, largest, 400))[None]
    for which, name in ((0, "sin"), (1, "cos")):
        exact = [float(getattr(mpmath, name)(mpmath.mpf(float(a)))) for a in angle[0]]
        off = np.abs(reduced_wave(angle, which)[0] - exact).max()
        assert off < error
        assert off > error / 300


def test_a_fused_multiply_and_add_is_heard_only_in_the_turns() -> None:
    angle = np.float32(np.random.default_rng(6).uniform(0, 20, (1, 4000)))
    records = [ListRecorder(), ListRecorder()]
    fused = DEFAULT.replace(fma_vector=True)
    waves_ = [
        reduced_wave(angle, 0, profile, record)
        for profile, record in zip((DEFAULT, fused), records, strict=True)
    ]
    turns = [record.value("rope_turns", (0,)) for record in records]
    assert (turns[0] != turns[1]).any()
    counts = [record.value("rope_count", (0,)) for record in records]
    assert (waves_[0] == waves_[1])[counts[0] == counts[1]].all()


def test_not_a_number_stays_one() -> None:
    assert np.isnan(reduced_wave(np.float32([[np.nan]]), 0)).all()
