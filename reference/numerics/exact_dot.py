"""The exact dot product: exact products, their exact sum over K, rounded once to float32.

The definition does not depend on an order, so neither do the bits on BLAS, CPU or threads; BLAS does the work
all the same: float64 products of operands of 24 or fewer bits are exact, and a float64 sum over K is settled
by the first of these certificates that holds:
- exponents: if all products of an output are multiples of one power of two and their sum fits 53 bits, the
  float64 sum is exact in any order. This holds for 99.9 % of random bfloat16 outputs, and decides ties, of
  which bfloat16 has many (11 % of random outputs at K = 128), and exact cancellation;
- the interval: an error bound that holds for every order, with or without FMA, and both ends of the interval
  round to the same float32;
- the same two, sharper: by the bits that are really set, and by the bound of Cauchy and Schwarz;
- the exact sum (`exact_sum`), for one random output in 100,000 or fewer.

Operands are widened to float64 block by block, so that no block leaves the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.exact_sum import ROUNDINGS, UNIT, narrow, total_to_float32
from reference.numerics.formats import format_of
from reference.numerics.operand import Columns, Operand, set_bit_span, special_sums, widen

Array = NDArray[Any]
#: (batch, row, column) of some outputs.
Index = tuple[Array, Array, Array]

#: Elements of one widened block of the moving operand (512 KiB), measured best with 1 to 2 MiB of L2.
_BLOCK = 64 * 1024
_NOTHING: Index = (np.empty(0, np.intp),) * 3


def exact_dot(a: Any, b: Any, *, seed: Any = None, rounding: str = "rne", out: Array | None = None) -> Array:
    """Sum over K of a[..., k, m] * b[..., k, n] with one rounding, as float32 [..., M, N].

    NaN: any NaN operand in the row or column, inf * 0, and +inf with -inf among the products. Infinity: an
    infinite product otherwise, and a finite sum that rounds beyond the float32 range (products and partial
    sums never overflow: 1e30*1e30 - 1e30*1e30 is 0). Zero: an exact zero sum is +0, also when all products
    are -0, since the array starts from +0; a nonzero sum that underflows keeps its sign. Subnormals are kept.

    Args:
        a: [..., K, M] in any float storage dtype, or float64 holding 24 significant bits or fewer, magnitudes
            0 or 2^-400 to 2^400. Leading axes broadcast against those of `b`.
        b: [..., K, N], likewise.
        seed: float32 [..., M, N] that joins the exact sum before it is rounded.
        rounding: 'rne' or 'rz' (towards zero, never overflows from finite operands); 'wide28' means 'rne' here,
            where nothing is rounded but the result.
        out: float32 [..., M, N] to write to; must not overlap the operands.

    Raises:
        ValueError: K or the leading axes of `a` and `b` do not fit, a dtype is no float format, or the rounding
            is not known.
    """
    left, right = np.asarray(a), np.asarray(b)
    lead = _check(left, right)
    if rounding not in ROUNDINGS:
        raise ValueError(f"dot: rounding {rounding!r} is none of {', '.join(ROUNDINGS)}")
    shape = (*lead, left.shape[-1], right.shape[-1])
    if out is None:
        out = np.empty(shape, np.float32)
    flat = out.reshape(math.prod(lead), *shape[-2:])
    start = None if seed is None else np.broadcast_to(np.asarray(seed, np.float32), shape).reshape(flat.shape)
    _fill(flat, _batches(left, lead), _batches(right, lead), start, rounding)
    if not np.shares_memory(flat, out):
        out[...] = flat.reshape(shape)
    return out


def exact_dot_passes(a: Any, b: Any, *, start: Any = None, out: Array | None = None) -> Array:
    """((start + pass 0) + pass 1) + ... in float32, pass g being exact_dot(a[g], b[g]); [M, N].

    This is a matmul whose contraction is longer than one instruction: one PSUM tile, G accumulating
    instructions. Without `start` the first pass overwrites. NaN, infinity and zero: as `exact_dot`, then
    IEEE float32 addition.

    Args:
        a: [G, K, M] stationary operands.
        b: [G, K, N] moving operands.
        start: float32 [M, N], the content of PSUM before the first pass; may be `out`.
        out: float32 [M, N] to write to.

    Raises:
        ValueError: shapes that do not fit, or no pass at all.
    """
    left, right = np.asarray(a), np.asarray(b)
    if left.ndim != 3 or right.ndim != 3 or len(left) != len(right) or len(left) == 0:
        raise ValueError(f"exact_dot_passes: expects [G, K, M] and [G, K, N], got {left.shape} and {right.shape}")
    _check(left, right)
    total = np.empty((left.shape[-1], right.shape[-1]), np.float32) if out is None else out
    if start is None:
        exact_dot(left[0], right[0], out=total)
    elif start is not total:
        total[...] = start
    part = np.empty_like(total)
    with np.errstate(over="ignore", invalid="ignore"):
        for index in range(0 if start is not None else 1, len(left)):
            total += exact_dot(left[index], right[index], out=part)
    return total


def _check(left: Array, right: Array) -> tuple[int, ...]:
    if left.ndim < 2 or right.ndim < 2 or left.shape[-2] != right.shape[-2]:
        raise ValueError(f"dot: expects a [..., K, M] and b [..., K, N], got {left.shape} and {right.shape}")
    for x in (left, right):
        if not _is_operand(x.dtype):
            raise ValueError(f"dot: {x.dtype} is no operand dtype; cast to a float format first")
    if left.ndim == right.ndim == 2:
        return ()
    return np.broadcast_shapes(left.shape[:-2], right.shape[:-2])


@cache
def _is_operand(dtype: np.dtype[Any]) -> bool:
    return dtype == np.float64 or (format_of(dtype).is_float and format_of(dtype).signed)


def _batches(x: Array, lead: tuple[int, ...]) -> Array:
    """[..., K, n] as [B, K, n], without a copy for one matrix that serves the whole batch."""
    if x.ndim == 2 and not lead:
        return x[None]
    if math.prod(x.shape[:-2]) == 1:
        return np.broadcast_to(x.reshape(x.shape[-2:]), (math.prod(lead), *x.shape[-2:]))
    return np.broadcast_to(x, (*lead, *x.shape[-2:])).reshape(math.prod(lead), *x.shape[-2:])


def _fill(out: Array, left: Array, right: Array, seed: Array | None, rounding: str) -> None:
    """out[B, M, N] from left[B, K, M] and right[B, K, N], block by block; the larger operand streams."""
    if left.shape[-1] > right.shape[-1]:
        turned = None if seed is None else seed.transpose(0, 2, 1)
        return _fill(out.transpose(0, 2, 1), right, left, turned, rounding)
    depth, width = right.shape[1:]
    if out.size == 0 or depth == 0:
        out[...] = 0.0 if seed is None else seed + np.float32(0)
        return None
    if len(out) == 1 and width * max(depth, left.shape[-1]) <= _BLOCK:
        # One block, as most instructions are: no cutting.
        return _block(out, _operand(left), _operand(right), seed, rounding)
    for batch in _cut(len(out), max(1, _BLOCK // (depth * width))):
        still = _operand(left[batch])
        facts = Columns.of(right[batch])
        for columns in _cut(width, max(1, _BLOCK // depth)):
            moving = Operand(widen(right[batch, :, columns]), facts.part(columns))
            for rows in _cut(left.shape[-1], max(1, _BLOCK // (columns.stop - columns.start))):
                part = None if seed is None else seed[batch, rows, columns]
                _block(out[batch, rows, columns], still.part(rows), moving, part, rounding)
    return None


def _operand(x: Array) -> Operand:
    return Operand(widen(x), Columns.of(x))


def _cut(length: int, step: int) -> Iterator[slice]:
    # Pieces of equal size rather than full ones and a small rest.
    pieces = -(-length // step)
    for index in range(pieces):
        yield slice(index * length // pieces, (index + 1) * length // pieces)


def _block(out: Array, still: Operand, moving: Operand, seed: Array | None, rounding: str) -> None:
    """One block: float64 sums by BLAS, then the certificates, from the cheapest to the exact sum."""
    start_is_finite = seed is None or bool(np.isfinite(seed).all())
    if not (still.columns.finite and moving.columns.finite and start_is_finite):
        return _with_specials(out, still, moving, seed, rounding)
    total = np.matmul(still.values.transpose(0, 2, 1), moving.values)
    if seed is not None:
        total += seed
    # A BLAS may give an exact zero either sign; adding +0 makes it +0.
    total += 0.0
    out[...] = narrow(total, rounding)
    doubt = _beyond_53_bits(still, moving) if seed is None else None
    if doubt is None or len(doubt[0]):
        doubt = _by_interval(total, still, moving, seed, doubt, rounding)
        _settle(out, total, still, moving, seed, doubt, rounding)
    return None


def _beyond_53_bits(still: Operand, moving: Operand) -> Index | None:
    """Outputs whose float64 sum exponents do not prove exact; None when these are most of the block."""
    room = 53 - math.ceil(math.log2(still.depth))
    left, right = still.columns.span, moving.columns.span
    if int(left.max()) + int(right.max()) <= room:
        return _NOTHING
    beyond = left[:, :, None] + right[:, None, :] > room
    return None if np.count_nonzero(beyond) > beyond.size // 8 else _where(beyond)


def _by_interval(
    total: Array, still: Operand, moving: Operand, seed: Array | None, doubt: Index | None, rounding: str
) -> Index:
    """Those of `doubt` (None: of all) for which the ends of the error interval round differently."""
    sums = np.abs(still.values).sum(axis=1) * _relative_bound(still.depth)
    if doubt is None:
        bound = sums[:, :, None] * moving.columns.largest[:, None, :]
        if seed is not None:
            # In float64: the seed's own float32 would lose a bound that small.
            bound += 4 * UNIT * np.abs(seed.astype(np.float64))
        return _where(_ends_differ(total, bound, rounding))
    batch, row, column = doubt
    bound = sums[batch, row] * moving.columns.largest[batch, column]
    open_ = _ends_differ(total[doubt], bound, rounding)
    return batch[open_], row[open_], column[open_]


def _where(mask: Array) -> Index:
    # np.nonzero takes as long as the matmul; one-dimensional it is fast.
    batch, row, column = np.unravel_index(np.flatnonzero(mask), mask.shape)
    return batch, row, column


def _ends_differ(total: Array, bound: Array, rounding: str) -> Array:
    """Where total - bound and total + bound round to different float32 bits (-0 and +0 are different)."""
    low = narrow(total - bound, rounding)
    high = narrow(np.add(total, bound, out=bound), rounding)
    return np.not_equal(low.view(np.int32), high.view(np.int32))


def _relative_bound(depth: int) -> float:
    """Error of a float64 sum of `depth` exact products over the sum of their magnitudes; any order, any FMA.

    Higham's gamma_K, and 8 units more for the roundings of the bound itself and of the interval's ends.
    """
    return 1.01 * (depth + 8) * UNIT


def _settle(
    out: Array, total: Array, still: Operand, moving: Operand, seed: Array | None, doubt: Index, rounding: str
) -> None:
    """Decide the outputs that the cheap certificates left open, one batch entry after the other."""
    for entry in np.unique(doubt[0]):
        here = doubt[0] == entry
        rows, columns = doubt[1][here], doubt[2][here]
        left, right = still.values[entry], moving.values[entry]
        if seed is None:
            open_ = _by_set_bits(left, right, rows, columns, total[entry, rows, columns], rounding)
            rows, columns = rows[open_], columns[open_]
        for m, n in zip(rows, columns, strict=True):
            terms = (left[:, m] * right[:, n]).tolist()
            start = [] if seed is None else [float(seed[entry, m, n])]
            out[entry, m, n] = total_to_float32(terms + start, rounding)


def _by_set_bits(left: Array, right: Array, rows: Array, columns: Array, total: Array, rounding: str) -> Array:
    """Outputs still open after the span of really set bits and the bound of Cauchy and Schwarz, as a mask."""
    some_rows, row = np.unique(rows, return_inverse=True)
    some_columns, column = np.unique(columns, return_inverse=True)
    left, right = left[:, some_rows], right[:, some_columns]
    exact = set_bit_span(left)[row] + set_bit_span(right)[column] <= 53 - math.ceil(math.log2(len(left)))
    norms = np.sqrt((left * left).sum(axis=0))[row] * np.sqrt((right * right).sum(axis=0))[column]
    return ~exact & _ends_differ(total, _relative_bound(len(left)) * norms, rounding)


def _with_specials(out: Array, still: Operand, moving: Operand, seed: Array | None, rounding: str) -> None:
    """A block with NaN or infinity among its operands: the finite part as usual, the special part on top."""
    special = special_sums(still.values, moving.values)
    start = seed
    if seed is not None:
        start = np.where(np.isfinite(seed), seed, np.float32(0))
        with np.errstate(invalid="ignore"):
            special = special + np.where(np.isfinite(seed), np.float32(0), seed)
    _block(out, still.finite_part(), moving.finite_part(), start, rounding)
    np.copyto(out, special, where=special != 0, casting="unsafe")
