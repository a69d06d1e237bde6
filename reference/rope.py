"""Rotary position embedding: pairs, rotations with tables, and the angles that a kernel makes itself.

A head of d channels is d/2 pairs (e, o), each turned by its angle: e' = e cos - o sin, o' = o cos + e sin.
In the contiguous layout pair i is channels (i, i + d/2), in the interleaved one (2i, 2i + 1). Channels are
the first axis everywhere, as on the partitions of the chip; cos and sin have d/2 rows and broadcast against
the columns of x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reference.activation import activation
from reference.numerics.alu import BINARY, multiply_add
from reference.numerics.cast import cast, to_float32
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.recorder import NO_RECORD, Recorder
from reference.rounding import round_to

Array = NDArray[Any]
Float32 = NDArray[np.float32]

LAYOUTS = ("contiguous", "interleaved")

#: The shift of the angle that makes the reduction below give the sine, and the cosine as a shifted sine.
SHIFTS = (np.float32(np.pi), np.float32(1.5 * np.pi))
TURN = np.float32(2 * np.pi)
PER_TURN = np.float32(1 / (2 * np.pi))
HALF = np.float32(-0.5)
BACK = np.float32(-np.pi)


# --- pairs ------------------------------------------------------------------------------------------------


def split_pairs(x: Array, layout: str) -> tuple[Array, Array]:
    """The first and second members (e, o) of all pairs, views [d/2, ...] of x [d, ...]."""
    _check_layout(layout)
    if layout == "contiguous":
        half = len(x) // 2
        return x[:half], x[half:]
    return x[0::2], x[1::2]


def join_pairs(e: Array, o: Array, layout: str) -> Array:
    """Inverse of `split_pairs`, a new array [d, ...]."""
    _check_layout(layout)
    if layout == "contiguous":
        return np.concatenate((e, o))
    return np.stack((e, o), axis=1).reshape(2 * len(e), *e.shape[1:])


def _check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"RoPE layout {layout!r} is not known; choose one of {', '.join(LAYOUTS)}")


def rotate_exact(x: Array, cos: Array, sin: Array, layout: str) -> Array:
    """The rotation in float64, no intermediate rounding modelled."""
    e, o = (np.asarray(part, np.float64) for part in split_pairs(x, layout))
    return join_pairs(e * cos - o * sin, o * cos + e * sin, layout)


# --- rotation with tables, every product rounded ----------------------------------------------------------


class RoundedRotation(NamedTuple):
    """Steps of `rounded_rotation`; all [d/2, ...] but the last, [d, ...]."""

    even_cos: Array
    odd_sin: Array
    odd_cos: Array
    even_sin: Array
    even: Array
    odd: Array
    total: Array


def rounded_rotation(
    x: Array,
    cos: Array,
    sin: Array,
    layout: str,
    profile: NumericsProfile = DEFAULT,
    dtype: object = None,
    tile: tuple[int, ...] = (),
) -> RoundedRotation:
    """The rotation of a kernel that is given cos and sin: every product and sum rounded to the dtype of x.

    e' = R(R(e cos) - R(o sin)), o' = R(R(o cos) + R(e sin)), six roundings per pair; R rounds the float32
    result of one operation. NaN and infinity spread within their pair.

    Args:
        x: [d, ...] of a float storage dtype.
        cos, sin: [d/2, ...], broadcast against the halves of x; any float storage dtype.
        layout: of the input and of the result.
        dtype: what is rounded to; None for the dtype of x.
        tile: index of the tile in the names of the points, rope_even_cos and the like.
    """
    e, o = (to_float32(part) for part in split_pairs(x, layout))
    c, s = (to_float32(wave) for wave in (cos, sin))
    fmt = x.dtype if dtype is None else dtype

    def rounded(point: str, op: str, first: Array, second: Array) -> Array:
        return round_to(point, BINARY[op](to_float32(first), to_float32(second), profile), fmt, profile, tile)

    even_cos = rounded("rope_even_cos", "multiply", e, c)
    odd_sin = rounded("rope_odd_sin", "multiply", o, s)
    odd_cos = rounded("rope_odd_cos", "multiply", o, c)
    even_sin = rounded("rope_even_sin", "multiply", e, s)
    turned_e = rounded("rope_even", "subtract", even_cos, odd_sin)
    turned_o = rounded("rope_odd", "add", odd_cos, even_sin)
    total = join_pairs(turned_e, turned_o, layout)
    return RoundedRotation(even_cos, odd_sin, odd_cos, even_sin, turned_e, turned_o, total)


# --- angles made by the kernel ----------------------------------------------------------------------------


def angles(positions: Array, inv_freqs: Array, profile: NumericsProfile = DEFAULT) -> Float32:
    """position * inverse frequency, one rounding: [d/2, B*s] from float32 [B, s] and [d/2, 1]."""
    at = np.asarray(positions, np.float32).reshape(1, -1)
    shape = len(inv_freqs), at.shape[1]
    return np.asarray(BINARY["multiply"](np.broadcast_to(at, shape), inv_freqs, profile))


def reduced_wave(
    angle: Float32,
    which: int,
    profile: NumericsProfile = DEFAULT,
    record: Recorder = NO_RECORD,
    core: int = 0,
) -> Float32:
    """sin(angle) for which = 0, cos(angle) for which = 1, with the float32 angle reduction of the kernels.

    The angle is shifted by pi (or 3 pi/2), the whole turns below it are counted in int32 (to nearest even,
    of turns - 1/2) and taken away with one float32 constant for 2 pi, so the error grows with the angle:
    about 2e-7 times the count of turns, plus the rounding of the shifted angle. The residual lies in [-pi,
    pi] up to that error; the engine's sine does not reduce and beyond pi follows profile question S6.

    Needs angle >= 0. NaN and infinity: the count of a NaN follows V4, the result is NaN.

    Args:
        angle: float32 [d/2, N].
        record, core: where to report the intermediate values, points rope_*.
    """
    steps = _Steps(record, which, core)
    shifted = steps("rope_shifted", BINARY["add"](angle, SHIFTS[which], profile))
    turns = steps("rope_turns", _per_turn(shifted, profile))
    count = steps("rope_count", cast(turns, "int32", profile))
    whole = steps("rope_whole", BINARY["multiply"](to_float32(count), TURN, profile))
    diff = steps("rope_diff", BINARY["subtract"](shifted, whole, profile))
    residual = steps("rope_residual", BINARY["add"](diff, BACK, profile))
    return steps("rope_wave", activation("sin", residual, profile))


@dataclass(frozen=True)
class _Steps:
    """Reports each step under its point and hands it on."""

    record: Recorder
    which: int
    core: int

    def __call__(self, point: str, value: Array) -> Array:
        if self.record.enabled:
            self.record(point, (self.which,), value, self.core)
        return value


def _per_turn(shifted: Float32, profile: NumericsProfile) -> Array:
    """Turns minus one half, one two-op instruction of the vector engine (V1)."""
    return multiply_add(shifted, PER_TURN, HALF, profile, fused=profile.fma_vector)


@dataclass(frozen=True)
class Rotation:
    """The values on the way to a rotated x: x cos, rot sin, and their sum, all [d, ...]."""

    cosine_part: Float32
    sine_part: Array
    total: Array


def rotate_fused(
    x: Array,
    cos: Float32,
    sin: Float32,
    sine_dtype: str,
    dtype: str,
    profile: NumericsProfile = DEFAULT,
    tile: tuple[int, ...] = (),
) -> Rotation:
    """The rotation of a kernel that makes its own angles, contiguous layout.

    total = R_dtype(x cos + R_sine_dtype(rot sin)) with rot = (-o, e): the cosine product stays float32, the
    sine product is stored in `sine_dtype`.

    Args:
        x: [d, ...] of a float storage dtype.
        cos, sin: float32 [d/2, ...].
        tile: index of the tile in the names of the points, rope_sine_part and rope_sum.
    """
    e, o = (to_float32(part) for part in split_pairs(x, "contiguous"))
    both = np.concatenate
    c, s = (np.broadcast_to(both((wave, wave)), x.shape) for wave in (cos, sin))
    cosine_part = BINARY["multiply"](both((e, o)), c, profile)
    sine = BINARY["multiply"](both((-o, e)), s, profile)
    sine_part = round_to("rope_sine_part", sine, sine_dtype, profile, tile)
    total = BINARY["add"](cosine_part, to_float32(sine_part), profile)
    return Rotation(cosine_part, sine_part, round_to("rope_sum", total, dtype, profile, tile))
