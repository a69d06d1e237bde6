"""Lanes of inputs: data built so that one class of bug becomes gross, and checked to be what they claim.

Random normal data hide bugs: a dropped token or two swapped rows can pass a published tolerance. A lane
either fills a tensor with values of a kind (`fill`), or arranges tensors so that a relation holds between
them (`conformance.score_lanes`, `conformance.pages`). Every builder verifies its own result and raises
`LaneError` where the shape or dtype leaves no room for what the lane promises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.randomness import Shape, Stream
from reference.numerics.cast import cast, to_float32
from reference.numerics.formats import Format, format_of

Array = NDArray[Any]

#: Values whose cast to an 8-bit float is decided by one bit: ties and limits of e4m3 (240; 248 and above is
#: infinite), of e4m3fn (448; above 464 is NaN), ties just above 1, and ties among the subnormals of both.
FP8_EDGES = (
    224.0, 232.0, 236.0, 240.0, 244.0, 247.0, 248.0, 252.0, 256.0, 416.0, 432.0, 440.0, 448.0, 456.0, 464.0,
    480.0, 1.0625, 1.1875, 1.3125, 2.0**-10, 3 * 2.0**-10, 5 * 2.0**-10, 2.0**-9, 7.5 * 2.0**-9, 2.0**-6,
)  # fmt: skip

#: Significant bits of a float32: sums of multiples of one power of two that stay within them are exact.
FLOAT32_BITS = 24


#: Lanes in which every legal order gives the same bits, so that nothing else is excused on any backend.
EXACT_LANES = ("exact", "exact_rounding")


class LaneError(ValueError):
    """Data that are not what their lane claims."""


@dataclass(frozen=True)
class Lane:
    """A kind of input: what it exposes, and for lanes of values how to fill and check one tensor.

    `values` gives float32 of the asked shape for a format; `complaint` says why an array (its values as
    float32) is not of the lane, or ''. Lanes of relations have neither and are filled with normal data.
    """

    name: str
    exposes: str
    values: Callable[[Stream, tuple[int, ...], Format], Array]
    complaint: Callable[[Array, Format], str]


def fill(lane: str, stream: Stream, shape: Shape, dtype: object, scale: float = 1.0) -> Array:
    """A tensor of a lane, in the storage of `dtype`, checked.

    `scale` multiplies the values before the one rounding into `dtype`; give a power of two where ties or
    exactness must survive. KeyError for an unknown lane; LaneError where the check fails.
    """
    target, row = format_of(dtype), LANES[lane]
    full = (shape,) if isinstance(shape, int) else tuple(shape)
    values = row.values(stream, full, target)
    stored = cast(values * np.float32(scale), target)
    _require(row, to_float32(stored) / np.float32(scale), target, full)
    return stored


def check(lane: str, stored: Array, dtype: object) -> None:
    """LaneError where `stored` (in the storage of `dtype`) is not of the lane."""
    _require(LANES[lane], to_float32(stored), format_of(dtype), stored.shape)


def _require(lane: Lane, values: Array, target: Format, shape: tuple[int, ...]) -> None:
    complaint = lane.complaint(values, target) if values.size else ""
    if complaint:
        raise LaneError(f"lane {lane.name}, {target.name} {list(shape)}: {complaint}")


# --- exactness: shown by exponents alone ---------------------------------------------------------------


def grid(values: Array) -> float:
    """The largest power of two that every finite value is a multiple of; inf where all are zero."""
    mantissas, exponents = np.frexp(np.abs(values.astype(np.float64)))
    whole = (mantissas * 2.0**53).astype(np.int64)
    lowest = (whole & -whole)[whole > 0]
    if lowest.size == 0:
        return math.inf
    steps = np.frexp(lowest.astype(np.float64))[1] - 1 + exponents[whole > 0]
    return float(2.0 ** (steps.min() - 53))


def require_exact_sum(terms: Array, axis: int = -1, bits: int = FLOAT32_BITS) -> None:
    """LaneError unless every order of adding `terms` (float values) along `axis` gives the same float32."""
    magnitude = float(np.abs(terms.astype(np.float64)).sum(axis=axis).max(initial=0.0))
    _require_exact(magnitude, grid(terms), bits, "a sum")


def require_exact_dot(a: Array, b: Array, axis: int = -1, bits: int = FLOAT32_BITS) -> None:
    """LaneError unless every order of adding the products of `a` and `b` along `axis` gives the same float32.

    Both are float values with the contraction on `axis`; all rows of one may meet all rows of the other.
    """
    sides = [np.abs(side.astype(np.float64)) for side in (a, b)]
    largest = [float(side.max(initial=0.0)) for side in sides]
    summed = [float(side.sum(axis=axis).max(initial=0.0)) for side in sides]
    magnitude = min(summed[0] * largest[1], summed[1] * largest[0])
    _require_exact(magnitude, grid(a) * grid(b), bits, "a dot product")


def _require_exact(magnitude: float, step: float, bits: int, what: str) -> None:
    """Partial sums are multiples of `step` and no larger than `magnitude`, whatever the order."""
    if magnitude > step * 2.0**bits:
        needed = math.log2(magnitude / step)
        raise LaneError(f"{what} needs {needed:.1f} bits, and only {bits} make every order exact")
    if step < 2.0**-126 or magnitude >= 2.0**127:
        raise LaneError(f"{what} of steps {step} up to {magnitude} leaves the normal range of float32")


# --- values and checks of the lanes --------------------------------------------------------------------


def _normal(stream: Stream, shape: tuple[int, ...], target: Format) -> Array:
    return stream.normal(shape)


def _no_complaint(values: Array, target: Format) -> str:
    return ""


def _not_finite(values: Array, target: Format) -> str:
    return "" if np.isfinite(values).all() else "it holds values that are not finite"


def _exact(stream: Stream, shape: tuple[int, ...], target: Format) -> Array:
    """Integers from -4 to 4 (from 0 in unsigned formats): exact in every float format, fp4 included."""
    return stream.integers(-4 if target.signed else 0, 5, shape).astype(np.float32)


def _not_exact(values: Array, target: Format) -> str:
    whole = np.isfinite(values).all() and bool((values == np.rint(values)).all())
    return "" if whole and np.abs(values).max() <= 4 else "it holds more than integers from -4 to 4"


def _one_sided(stream: Stream, shape: tuple[int, ...], target: Format) -> Array:
    return np.abs(stream.normal(shape))


def _not_one_sided(values: Array, target: Format) -> str:
    return "" if np.isfinite(values).all() and (values >= 0).all() else "it holds values that are not finite and >= 0"


def _exact_rounding(stream: Stream, shape: tuple[int, ...], target: Format) -> Array:
    """Integers of up to 7 bits, or as many as the format has: exact, and more than 8 bits when two are multiplied."""
    most = 2 ** min(7, target.mantissa_bits + 1) - 1
    return stream.integers(-most if target.signed else 0, most + 1, shape).astype(np.float32)


def _not_whole(values: Array, target: Format) -> str:
    whole = np.isfinite(values).all() and bool((values == np.rint(values)).all())
    return "" if whole and np.abs(values).max() < 128 else "it holds more than integers below 128"


def _one_hot(stream: Stream, shape: tuple[int, ...], target: Format) -> Array:
    """A single 1 in every row of the last axis."""
    places = stream.integers(0, shape[-1], shape[:-1])
    hot: Array = np.arange(shape[-1]) == places[..., None]
    return hot.astype(np.float32)


def _not_one_hot(values: Array, target: Format) -> str:
    ones, zeros = (values == 1).sum(axis=-1), (values == 0).sum(axis=-1)
    single = bool((ones == 1).all() and (zeros == values.shape[-1] - 1).all())
    return "" if single else "a row is not all zeros but for one 1"


def _heavy_tailed(stream: Stream, shape: tuple[int, ...], target: Format) -> Array:
    """Normal values times 2^k, k geometric: one in 2^(k+1), up to 2^8, kept inside the format."""
    coin = stream.words(math.prod(shape)).reshape(shape) & np.uint64(0xFF) | np.uint64(0x100)
    # The lowest set bit of a word of coin flips is 2^k with the chance 2^-(k+1).
    doubling = (coin & (~coin + np.uint64(1))).astype(np.float32)
    return kept_inside(stream.normal(shape) * doubling, target)


def kept_inside(values: Array, target: Format) -> Array:
    """No magnitude above half of the format's largest number, as lane `heavy_tailed` has it; NaN stays."""
    limit = np.float32(target.max_finite / 2)
    kept: Array = np.clip(values, -limit, limit)
    return kept


def before_rounding(lane: str, values: Array, dtype: object) -> Array:
    """Float32 values as a lane draws them for `dtype`, before it rounds them; `values` are drawn for float32."""
    return kept_inside(values, format_of(dtype)) if lane == "heavy_tailed" else values


def _not_heavy(values: Array, target: Format) -> str:
    if not np.isfinite(values).all():
        return "it holds values that are not finite"
    # Too few values say nothing of a tail.
    squares = np.square(values.astype(np.float64))
    light = values.size >= 256 and float(np.square(squares).mean()) < 6 * float(squares.mean()) ** 2
    return "its tail is not heavy (kurtosis under 6)" if light else ""


def _fp8_edge(stream: Stream, shape: tuple[int, ...], target: Format) -> Array:
    usable = [edge for edge in FP8_EDGES if edge <= target.max_finite]
    return stream.choice(usable, shape) * (stream.signs(shape) if target.signed else np.float32(1))


def _not_at_edges(values: Array, target: Format) -> str:
    at_edges = np.isin(np.abs(values), np.asarray(FP8_EDGES, np.float32)).mean()
    # A narrow format rounds many edges to neighbours that are none; half of them stay.
    few = values.size >= 64 and at_edges < 0.25
    return f"only {at_edges:.0%} of it are at the edges of 8-bit floats" if few else ""


def _subnormal(stream: Stream, shape: tuple[int, ...], target: Format) -> Array:
    """Half subnormals of the format, half integers up to 4, so that results do not vanish altogether."""
    if target.mantissa_bits == 0:
        raise LaneError(f"lane subnormal: {target.name} has no subnormals")
    steps = stream.integers(1, 2**target.mantissa_bits, shape).astype(np.float64)
    tiny = (steps * target.min_subnormal).astype(np.float32) * stream.signs(shape)
    return np.where(stream.integers(0, 2, shape) == 0, tiny, _exact(stream, shape, target))


def _not_subnormal(values: Array, target: Format) -> str:
    magnitude = np.abs(values)
    share = ((magnitude > 0) & (magnitude < target.min_normal)).mean()
    few = values.size >= 64 and share < 0.25
    return f"only {share:.0%} of it are subnormal" if few else ""


_ROWS = (
    Lane(
        "normal",
        "nothing in particular; the ground level",
        _normal,
        _not_finite,
    ),
    Lane(
        "exact",
        "wrong index, mask, page, head or token: every legal order gives the same bits, so zero tolerance on "
        "every backend",
        _exact,
        _not_exact,
    ),
    Lane(
        "exact_rounding",
        "a rounding dropped, doubled, or to another dtype: as exact, with more bits than the narrow formats hold, so "
        "that every rounding point has something to round",
        _exact_rounding,
        _not_whole,
    ),
    Lane(
        "one_sided",
        "errors that lean to one side, such as truncation: no term is negative, so that nothing cancels",
        _one_sided,
        _not_one_sided,
    ),
    Lane(
        "one_hot",
        "wrong layout: each output shows one place of one input",
        _one_hot,
        _not_one_hot,
    ),
    Lane(
        "heavy_tailed",
        "lost range: clamps, scales and norms that fit normal data only",
        _heavy_tailed,
        _not_heavy,
    ),
    Lane(
        "fp8_edge",
        "wrong limit (240, 248, 448), wrong tie, clamp after instead of before a cast",
        _fp8_edge,
        _not_at_edges,
    ),
    Lane(
        "subnormal",
        "flushed subnormals, in operands, products or results",
        _subnormal,
        _not_subnormal,
    ),
    Lane(
        "shift",
        "a softmax without max subtraction: all scores carry one large constant",
        _normal,
        _not_finite,
    ),
    Lane(
        "rising",
        "a stale maximum or a missing rescale: later tiles hold the larger scores",
        _normal,
        _not_finite,
    ),
    Lane(
        "poison",
        "reads of what is none of the kernel's business: NaN in padding, unused blocks, masked slots",
        _normal,
        _no_complaint,
    ),
    Lane(
        "pages",
        "wrong page table: blocks lie in random order among poisoned ones",
        _normal,
        _no_complaint,
    ),
)

#: Every lane by name. A case module may have lanes of its own beside these.
LANES: Mapping[str, Lane] = MappingProxyType({row.name: row for row in _ROWS})


def poison(values: Array, keep: NDArray[np.bool_], integer: int = -1) -> Array:
    """A copy with NaN wherever `keep` (broadcast to its shape) is False; in integer arrays `integer`.

    LaneError where the dtype has no NaN.
    """
    poisoned = values.copy()
    dropped = ~np.broadcast_to(keep, values.shape)
    # Both NumPy's integers and unsigned ones: -1 becomes the largest code, out of range for any index.
    bad = np.array(integer).astype(values.dtype) if values.dtype.kind in "iu" else _not_a_number(values.dtype)
    poisoned[dropped] = bad
    require_poison(poisoned, keep, integer)
    return poisoned


def require_poison(values: Array, keep: NDArray[np.bool_], integer: int = -1) -> None:
    """LaneError unless everything outside `keep` is NaN (in integer arrays `integer`)."""
    outside = values[~np.broadcast_to(keep, values.shape)]
    whole = values.dtype.kind in "iu"
    bad = outside == np.array(integer).astype(values.dtype) if whole else np.isnan(to_float32(outside))
    if not np.all(bad):
        raise LaneError(
            f"lane poison: {int((~np.asarray(bad)).sum())} values outside what may be read are not poison"
        )


def _not_a_number(dtype: np.dtype[Any]) -> Array:
    if not format_of(dtype).has_nan:
        raise LaneError(f"lane poison: {format_of(dtype).name} has no NaN")
    return cast(np.float32("nan"), dtype)
