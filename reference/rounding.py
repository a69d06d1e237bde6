"""Rounding at a named point, and profiles under which chosen points do not round.

Models narrow values with `round_to` wherever the contract names the result. Under a plain profile that is `cast`
and nothing else. Under a `Study` the points it lists keep the float32 values that the instruction computed, and
every later step takes them as they come; a meter, where the study has one, weighs what each point rounds away.

A study lists points by the names of their switches: the contract's, with a tile index behind it ("rope_even_1") where
several operands have a point each.

Not covered: rounding to float32 itself. No wider value exists to put in its place; it is what is left of the error
when every other point is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import cast, to_float32
from reference.numerics.formats import Format, format_of
from reference.numerics.profile import NumericsProfile
from reference.recorder import tile_name

Array = NDArray[Any]


@dataclass
class Weighed:
    """What one point did to all values that passed it in one run."""

    #: Name of the narrowest format it rounded to.
    format: str
    elements: int = 0
    #: Elements that the rounding changed.
    changed: int = 0
    #: Sums of squares over the finite elements: of the values, of what was rounded away.
    values: float = 0.0
    errors: float = 0.0

    @property
    def introduced(self) -> float:
        """What was rounded away, relative to the values, in the Euclidean norm; 0 where all values are zero."""
        return math.sqrt(self.errors / self.values) if self.values else 0.0


@dataclass
class Meter:
    """Weighs the points of a run, in the order in which they are first reached."""

    points: dict[str, Weighed] = field(default_factory=dict)

    def weigh(self, name: str, value: Array, rounded: Array, fmt: Format) -> None:
        """Take one rounding in; `value` and `rounded` have one shape."""
        before, after = (to_float32(x).astype(np.float64).reshape(-1) for x in (value, rounded))
        row = self.points.setdefault(name, Weighed(fmt.name))
        if fmt.bits < format_of(row.format).bits:
            row.format = fmt.name
        # Infinity means "not seen" to the softmax, NaN poison: neither has a size.
        finite = np.isfinite(before) & np.isfinite(after)
        before, apart = before[finite], after[finite] - before[finite]
        row.elements += value.size
        row.changed += int(np.count_nonzero(apart))
        row.values += float(before @ before)
        row.errors += float(apart @ apart)


@dataclass(frozen=True)
class Study(NumericsProfile):
    """A profile under which the points in `exact` do not round.

    A model that gets one takes its inputs as they are, for they may be wider than the contract allows, and gives
    results in float32 where the last point before them is exact.
    """

    #: Names as the module says; those that nothing in a run bears have no effect.
    exact: frozenset[str] = frozenset()
    meter: Meter | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, profile: NumericsProfile, exact: frozenset[str] = frozenset(), meter: Meter | None = None) -> Study:
        """A study of the arithmetic that `profile` describes."""
        answers = {item.name: getattr(profile, item.name) for item in fields(NumericsProfile)}
        return cls(**answers, exact=exact, meter=meter)


def is_study(profile: NumericsProfile) -> bool:
    """Whether tensors may be wider than the contract allows, so that its rules for dtypes do not hold."""
    return isinstance(profile, Study)


def is_exact(point: str, profile: NumericsProfile, tile: tuple[int, ...] = ()) -> bool:
    """Whether a study keeps the point exact; for the few roundings that are no `cast`."""
    return isinstance(profile, Study) and tile_name(point, tile) in profile.exact


def round_to(
    point: str,
    value: Array,
    fmt: object,
    profile: NumericsProfile,
    tile: tuple[int, ...] = (),
    *,
    rounding: str = "rne",
) -> Array:
    """`cast(value, fmt, profile, rounding=rounding)`, or the float32 values where a study keeps the point exact.

    NaN, infinity, overflow, zero: as `cast`; an exact point leaves them as they are. A conversion that cannot
    round (to float32, or to the format `value` has) is no point to a study and gives what `cast` gives.

    Args:
        point: name in the contract, or a name of its own where the contract has none.
        value: float32, or any storage dtype.
        tile: index of the tile, where a study is to tell the operands of one point apart.
    """
    if is_exact(point, profile, tile) and format_of(fmt).name != "float32":
        return to_float32(value)
    rounded = cast(value, fmt, profile, rounding=rounding)
    if isinstance(profile, Study) and rounded.dtype not in (value.dtype, np.float32):
        weigh(point, value, rounded, fmt, profile, tile)
    return rounded


def weigh(
    point: str, value: Array, rounded: Array, fmt: object, profile: NumericsProfile, tile: tuple[int, ...] = ()
) -> None:
    """Tell a study's meter of one rounding; does nothing without one."""
    if isinstance(profile, Study) and profile.meter is not None:
        profile.meter.weigh(tile_name(point, tile), value, rounded, format_of(fmt))


def carry(value: Array, fmt: object, profile: NumericsProfile) -> Array:
    """A conversion that rounds nothing by the contract: `cast`, under a study the values as they come.

    Where a point before it is exact, `value` is wider than the chip would have it, and must stay so.
    """
    return value if isinstance(profile, Study) else cast(value, fmt, profile)


def alongside(cache: Array, rows: Array, profile: NumericsProfile) -> tuple[Array, Array]:
    """A cache and rows for it: as they are, or both in float32 where a study left one of them so."""
    if is_study(profile) and cache.dtype != rows.dtype:
        return to_float32(cache), to_float32(rows)
    return cache, rows


def tile_dtype(fmt: object, profile: NumericsProfile) -> np.dtype[Any]:
    """dtype of an array that collects results of `round_to`: the format's storage, float32 in every study."""
    return np.dtype(np.float32) if isinstance(profile, Study) else format_of(fmt).storage
