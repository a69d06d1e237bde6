"""Reductions along free axes and running registers, in the orders of the profile (V2, V3, S4, G1).

'exact' is the exact sum of the float32 values rounded once, the same for every order: float64 gives it where
both ends of its error interval round alike or exponents prove the float64 sum exact, `exact_sum` gives the
rest. The other candidates add in float32 in the order they name. Maxima and minima do not round; what they
do with NaN and with zeros of both signs is V5.

Not modelled: a chain that flushes its subnormal partial sums one by one (U6); operands and results are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.exact_sum import UNIT, narrow, total_to_float32
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.subnormals import read_operand, write_result

Array = NDArray[Any]
Axes = int | tuple[int, ...]
Binary = Callable[[Array, Array], Array]


def reduce_add(x: Any, profile: NumericsProfile = DEFAULT, axis: Axes = -1, *, order: str | None = None) -> Array:
    """Sum of float32 values along one or several axes, row-major where several; float32 without these axes.

    IEEE at NaN and infinity. 'exact' overflows only if the exact sum does. An exact zero sum, the empty one
    included, is +0, also of -0 values.

    Args:
        x: float32 [...].
        axis: axis or axes to reduce.
        order: one of the candidates of V2; by default `profile.reduce_order`.
    """
    return write_result(sum_rows(_rows(x, axis, profile), order or profile.reduce_order), profile)


def reduce_subtract(x: Any, profile: NumericsProfile = DEFAULT, axis: Axes = -1, *, order: str | None = None) -> Array:
    """First value minus all the others: `reduce_add` of (x0, -x1, -x2, ...)."""
    rows = _rows(x, axis, profile)
    signed = np.concatenate([rows[..., :1], -rows[..., 1:]], axis=-1)
    return write_result(sum_rows(signed, order or profile.reduce_order), profile)


def reduce_multiply(x: Any, profile: NumericsProfile = DEFAULT, axis: Axes = -1, *, order: str | None = None) -> Array:
    """Product of float32 values; every multiplication rounds, so 'exact' means the chain. Empty: 1."""
    rows = _rows(x, axis, profile)
    return write_result(_ordered(rows, order or profile.reduce_order, np.multiply, np.float32(1)), profile)


def reduce_max(x: Any, profile: NumericsProfile = DEFAULT, axis: Axes = -1) -> Array:
    """Largest float32 value; the chain ((x0 max x1) max x2) ... under the rules of V5. Empty: -inf."""
    return write_result(_extremum(_rows(x, axis, profile), profile, np.maximum, -np.inf), profile)


def reduce_min(x: Any, profile: NumericsProfile = DEFAULT, axis: Axes = -1) -> Array:
    """Smallest float32 value; the chain ((x0 min x1) min x2) ... under the rules of V5. Empty: +inf."""
    return write_result(_extremum(_rows(x, axis, profile), profile, np.minimum, np.inf), profile)


def reduce_abs_max(x: Any, profile: NumericsProfile = DEFAULT, axis: Axes = -1) -> Array:
    """Value of the largest magnitude with its sign; of equal magnitudes the last (gen4). Empty: 0."""
    return write_result(_extremum_of_magnitude(_rows(x, axis, profile), profile, np.maximum, 0.0), profile)


def reduce_abs_min(x: Any, profile: NumericsProfile = DEFAULT, axis: Axes = -1) -> Array:
    """Value of the smallest magnitude with its sign; of equal magnitudes the last (gen4). Empty: +inf."""
    return write_result(_extremum_of_magnitude(_rows(x, axis, profile), profile, np.minimum, np.inf), profile)


def reduce_logical_and(x: Any, profile: NumericsProfile = DEFAULT, axis: Axes = -1) -> Array:
    """1.0 where all values are true (nonzero, NaN included), else 0.0. Empty: 1."""
    return np.asarray((_rows(x, axis, profile) != 0).all(axis=-1), np.float32)


def reduce_logical_or(x: Any, profile: NumericsProfile = DEFAULT, axis: Axes = -1) -> Array:
    """1.0 where any value is true (nonzero, NaN included), else 0.0. Empty: 0."""
    return np.asarray((_rows(x, axis, profile) != 0).any(axis=-1), np.float32)


def reduce_logical_xor(x: Any, profile: NumericsProfile = DEFAULT, axis: Axes = -1) -> Array:
    """1.0 where the number of true values is odd, else 0.0. Empty: 0."""
    return np.asarray((_rows(x, axis, profile) != 0).sum(axis=-1) % 2, np.float32)


#: Reductions by NKI operator name: (x, profile, axis) -> float32.
REDUCTIONS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "add": reduce_add,
        "subtract": reduce_subtract,
        "multiply": reduce_multiply,
        "maximum": reduce_max,
        "minimum": reduce_min,
        "abs_max": reduce_abs_max,
        "abs_min": reduce_abs_min,
        "logical_and": reduce_logical_and,
        "logical_or": reduce_logical_or,
        "logical_xor": reduce_logical_xor,
    }
)


def accumulate(
    register: Any,
    x: Any,
    op: str = "add",
    profile: NumericsProfile = DEFAULT,
    *,
    engine: str = "vector",
    axis: Axes = -1,
) -> Array:
    """A running register after one instruction has reduced `x` into it: float32 [...].

    Sums: 'exact' is the exact sum of register and values, rounded once per instruction; 'chain' starts from
    the register; with lanes the register is lane 0; 'tree' adds the root onto the register. Other ops:
    register first, then the values in order. NaN: as `reduce_add` and V5.

    Args:
        register: float32 [...], the shape of `x` without the reduced axes.
        x: float32 values, before or after the cast to the destination: V3 and S4 decide what the caller
            passes.
        op: 'add', 'multiply', or any other name of `REDUCTIONS`.
        engine: 'vector' reads V3 `accum_order`, 'scalar' S4 `act_reduce_order`, 'gpsimd' G1.
    """
    order = getattr(profile, REGISTER_ORDERS[engine])
    rows = _rows(x, axis, profile)
    start = np.broadcast_to(np.asarray(register, np.float32), rows.shape[:-1])
    if op == "add":
        return write_result(sum_rows(rows, order, start), profile)
    if op == "multiply":
        return write_result(_ordered(rows, order, np.multiply, np.float32(1), start), profile)
    with_start = np.concatenate([start[..., None], rows], axis=-1)
    if op == "subtract":
        return reduce_subtract(with_start, profile, order=order)
    return REDUCTIONS[op](with_start, profile)


#: Engine -> profile field with the order of its accumulation registers.
REGISTER_ORDERS: Mapping[str, str] = MappingProxyType(
    {"vector": "accum_order", "scalar": "act_reduce_order", "gpsimd": "partition_reduce_order"}
)


def _rows(x: Any, axis: Axes, profile: NumericsProfile) -> Array:
    """float32 [..., n] with the reduced axes, in row-major order, as the last one."""
    values: Array = np.asarray(x)
    if values.dtype != np.float32:
        raise ValueError(f"reduce: engines reduce float32 values, got {values.dtype}; use to_float32 first")
    axes = tuple(sorted(a % values.ndim for a in ((axis,) if isinstance(axis, int) else axis)))
    moved = np.moveaxis(values, axes, range(values.ndim - len(axes), values.ndim))
    kept = moved.shape[: values.ndim - len(axes)]
    rows = moved.reshape(*kept, math.prod(moved.shape[len(kept) :]))
    return read_operand(rows, profile)


def _flat(rows: Array) -> Array:
    return rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1])


# --- sums -------------------------------------------------------------------------------------------------


def sum_rows(rows: Array, order: str, start: Array | None = None) -> Array:
    """Sum over the last axis of float32 [..., n] in one of the orders of V2, from `start` [...] or +0."""
    if order != "exact":
        return _ordered(rows, order, np.add, np.float32(0), start)
    if start is not None:
        rows = np.concatenate([start[..., None], rows], axis=-1)
    return exact_reduce_add(rows)


def exact_reduce_add(rows: Array, rounding: str = "rne") -> Array:
    """Exact sum over the last axis of float32 [..., n], rounded once ('rne', 'rz'); see `reduce_add`."""
    flat = _flat(rows)
    if not flat.size:
        return np.zeros(rows.shape[:-1], np.float32)
    with np.errstate(invalid="ignore"):
        total = flat.sum(axis=-1, dtype=np.float64) + 0.0
    result = narrow(total, rounding)
    for row in _open_rows(flat, total, rounding):
        result[row] = total_to_float32(flat[row].tolist(), rounding)
    return result.reshape(rows.shape[:-1])


def _open_rows(flat: Array, total: Array, rounding: str) -> Array:
    """Rows whose float64 sum no certificate settles, the cheapest certificate first."""
    largest = np.maximum(flat.max(axis=-1), -flat.min(axis=-1)).astype(np.float64)
    unsure = _ends_differ(total, flat.shape[-1] * largest, flat.shape[-1], rounding)
    open_ = np.flatnonzero(unsure & np.isfinite(total))
    if len(open_):
        open_ = open_[_beyond_53_bits(flat[open_])]
    if len(open_):
        reach = np.abs(flat[open_]).sum(axis=-1, dtype=np.float64)
        open_ = open_[_ends_differ(total[open_], reach, flat.shape[-1], rounding)]
    return open_


def _ends_differ(total: Array, reach: Array, length: int, rounding: str) -> Array:
    """Where the ends of the error interval of a float64 sum of magnitudes up to `reach` round differently."""
    bound = 1.01 * (length + 8) * UNIT * reach
    with np.errstate(invalid="ignore"):
        low, high = narrow(total - bound, rounding), narrow(total + bound, rounding)
    return np.not_equal(low.view(np.int32), high.view(np.int32))


def _beyond_53_bits(flat: Array) -> Array:
    """Rows whose float64 sum exponents do not prove exact in any order; finite values only."""
    codes = flat.view(np.uint32) & np.uint32(0x7FFFFFFF)
    used = np.bitwise_or.reduce(codes, axis=-1).astype(np.int64)
    # Trailing fraction bits that no element of the row uses: float32 often holds what was bfloat16.
    idle = np.clip(np.frexp((used & -used).astype(np.float64))[1] - 1, 0, 23)
    top = codes.max(axis=-1) >> 23
    codes -= np.uint32(1)  # a zero wraps round to the largest code
    low = np.maximum((codes.min(axis=-1) + np.uint32(1)) >> 23, 1)
    span = 24 - idle + top.astype(np.int32) - low.astype(np.int32)
    return np.asarray(span + math.ceil(math.log2(flat.shape[-1])) > 53)


def _ordered(rows: Array, order: str, op: np.ufunc, identity: np.float32, start: Array | None = None) -> Array:
    begin = np.full(rows.shape[:-1], identity) if start is None else start
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        total: Array = _ORDERS["chain" if order == "exact" else order](rows, op, identity, begin)
        return total


def _chain(rows: Array, op: np.ufunc, identity: np.float32, start: Array) -> Array:
    # `accumulate` keeps every partial result, so NumPy cannot reorder it as it reorders `reduce`.
    steps = op.accumulate(np.concatenate([start[..., None], rows], axis=-1), axis=-1)
    return np.ascontiguousarray(steps[..., -1])


def _lanes(count: int) -> Callable[[Array, np.ufunc, np.float32, Array], Array]:
    def in_lanes(rows: Array, op: np.ufunc, identity: np.float32, start: Array) -> Array:
        register = [start, *(np.full(start.shape, identity) for _ in range(count - 1))]
        lanes = [_chain(rows[..., i::count], op, identity, register[i]) for i in range(count)]
        total = lanes[0]
        for lane in lanes[1:]:
            total = op(total, lane)
        return total

    return in_lanes


def _tree(rows: Array, op: np.ufunc, identity: np.float32, start: Array) -> Array:
    level = rows
    while level.shape[-1] > 1:
        pairs = level.shape[-1] // 2
        joined = op(level[..., 0 : 2 * pairs : 2], level[..., 1 : 2 * pairs : 2])
        level = np.concatenate([joined, level[..., 2 * pairs :]], axis=-1)
    return op(start, level[..., 0]) if level.shape[-1] else start


_ORDERS: Mapping[str, Callable[[Array, np.ufunc, np.float32, Array], Array]] = MappingProxyType(
    {"chain": _chain, "lanes4": _lanes(4), "lanes8": _lanes(8), "tree": _tree}
)


# --- maxima and minima ------------------------------------------------------------------------------------


def _extremum(rows: Array, profile: NumericsProfile, op: np.ufunc, empty: float) -> Array:
    """Chain of maxima or minima over the last axis. NumPy finds the value; which of two zeros it returns
    depends on the machine, so zeros are decided here."""
    if rows.shape[-1] == 0:
        return np.full(rows.shape[:-1], empty, np.float32)
    flat = _flat(rows)
    best: Array = op.reduce(flat, axis=-1)
    zero = np.flatnonzero(best == 0)
    best[zero] = _zero_of(flat[zero], op, profile)
    for row in _revived(best, profile):
        best[row] = _extremum(_survivors(flat[row], profile), profile, op, np.nan)
    return best.reshape(rows.shape[:-1])


def _revived(best: Array, profile: NumericsProfile) -> Array:
    """Rows whose chain passes NaN and need not end in it."""
    return np.flatnonzero(np.isnan(best) & (profile.maxmin_nan != "propagate"))


def _survivors(row: Array, profile: NumericsProfile) -> Array:
    """Values that a chain through NaN can still return: the numbers, or what follows the last NaN."""
    bad = np.isnan(row)
    return row[~bad] if profile.maxmin_nan == "number" else row[len(row) - int(np.argmax(bad[::-1])) :]


def _zero_of(rows: Array, op: np.ufunc, profile: NumericsProfile) -> Array:
    """The zero that the chain ends with, for rows whose extremum is a zero."""
    if profile.maxmin_zero == "ieee":
        wanted = op is np.minimum
        found = ((rows == 0) & (np.signbit(rows) == wanted)).any(axis=-1)
        return np.where(found == wanted, np.float32(-0.0), np.float32(0.0))
    return _pick(rows, rows == 0, last=profile.maxmin_zero == "second")


def _extremum_of_magnitude(rows: Array, profile: NumericsProfile, op: np.ufunc, empty: float) -> Array:
    """Chain of abs_max or abs_min over the last axis; of equal magnitudes the second operand, so the last."""
    if rows.shape[-1] == 0:
        return np.full(rows.shape[:-1], empty, np.float32)
    flat = _flat(rows)
    size = np.abs(flat)
    best: Array = op.reduce(size, axis=-1)
    sound = np.flatnonzero(~np.isnan(best))
    best[sound] = _pick(flat[sound], size[sound] == best[sound, None], last=True)
    for row in _revived(best, profile):
        best[row] = _extremum_of_magnitude(_survivors(flat[row], profile), profile, op, np.nan)
    return best.reshape(rows.shape[:-1])


def _pick(rows: Array, hits: Array, last: bool) -> Array:
    """Per row the first or the last element that is hit."""
    if last:
        rows, hits = rows[:, ::-1], hits[:, ::-1]
    return np.take_along_axis(rows, hits.argmax(axis=-1)[:, None], axis=-1)[:, 0]
