"""Orders in which an array may add its products: the candidates of question U1, and of U7 and U8 where they
bring several products into one step.

A sum has steps k = 0 .. K-1. A step gives either one float32 term (a product rounded to float32, which for
operands of 16 bits and less is the exact product unless it leaves the float32 range) or a tuple of float64
parts, which enter with one rounding together. Orders are data (`ORDERS`): a function of the steps, the value
the sum starts from, and the rounding of each addition (U2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.exact_sum import add, few_total, narrow
from reference.numerics.operand import special_sums, widen

Array = NDArray[Any]
Term = Array | tuple[Array, ...]

#: Outputs of one block; accumulator and term together stay in the second-level cache.
_BLOCK = 64 * 1024


@dataclass(frozen=True)
class Steps:
    """The terms of one block of sums: `term(k)` for k in 0 .. depth-1, each of `shape`."""

    depth: int
    shape: tuple[int, ...]
    term: Callable[[int], Term]

    def enter(self, register: Array, k: int, rounding: str) -> Array:
        """The register after step k."""
        term = self.term(k)
        if isinstance(term, tuple):
            return few_total([np.asarray(part, np.float64) for part in (register, *term)], rounding)
        return add(register, term, rounding)

    def zero(self) -> Array:
        """The register before the first step: +0."""
        return np.zeros(self.shape, np.float32)


def chain(steps: Steps, start: Array | None, rounding: str) -> Array:
    """(((start + t0) + t1) + ...), start +0 if None."""
    return _chain_of(steps, range(steps.depth), start, rounding)


def chain_rev(steps: Steps, start: Array | None, rounding: str) -> Array:
    """The chain from the last step to the first."""
    return _chain_of(steps, range(steps.depth - 1, -1, -1), start, rounding)


def seg32(steps: Steps, start: Array | None, rounding: str) -> Array:
    """Chains of 32 steps, each from +0; then the chain of their sums, which `start` begins."""
    total = start
    for first in range(0, steps.depth, 32):
        part = _chain_of(steps, range(first, min(first + 32, steps.depth)), None, rounding)
        total = part if total is None else add(total, part, rounding)
    return steps.zero() if total is None else total


def tree(steps: Steps, start: Array | None, rounding: str) -> Array:
    """Neighbours in pairs, pairs of pairs, an odd one out moves up; then start + root."""
    root = _tree_of(steps, 0, steps.depth, rounding) if steps.depth else steps.zero()
    return root if start is None else add(start, root, rounding)


def _chain_of(steps: Steps, order: range, start: Array | None, rounding: str) -> Array:
    register = steps.zero() if start is None else start
    for k in order:
        register = steps.enter(register, k, rounding)
    return register


def _tree_of(steps: Steps, first: int, length: int, rounding: str) -> Array:
    if length == 1:
        return steps.enter(steps.zero(), first, rounding)
    # Pairing neighbours level by level splits off the largest power of two below the length.
    half = 1 << (length - 1).bit_length() - 1
    left = _tree_of(steps, first, half, rounding)
    return add(left, _tree_of(steps, first + half, length - half, rounding), rounding)


Order = Callable[[Steps, Array | None, str], Array]
ORDERS: Mapping[str, Order] = MappingProxyType({"chain": chain, "chain_rev": chain_rev, "seg32": seg32, "tree": tree})


def ordered_sum(steps: Steps, order: str, start: Array | None = None, rounding: str = "rne") -> Array:
    """Sum of all steps in one of `ORDERS`, as float32; see the order's function and `exact_sum.add`."""
    return narrow(ORDERS[order](steps, start, rounding))


def by_blocks(fill: Callable[[Array, Array, Array | None], Array], a: Array, b: Array, start: Any) -> Array:
    """`fill(a block, b block, start block)` over blocks of batches and columns: float32 [..., M, N].

    a [..., K, M] and b [..., K, N] broadcast over their leading axes. What a block is never changes a bit:
    every output is a sum of its own.
    """
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape, count = (*lead, a.shape[-1], b.shape[-1]), math.prod(lead)
    left = np.broadcast_to(a, (*lead, *a.shape[-2:])).reshape(count, *a.shape[-2:])
    right = np.broadcast_to(b, (*lead, *b.shape[-2:])).reshape(count, *b.shape[-2:])
    begin = None if start is None else np.broadcast_to(start, shape).reshape(count, *shape[-2:])
    out = np.empty((len(left), *shape[-2:]), np.float32)
    batches = max(1, _BLOCK // max(1, shape[-2] * shape[-1]))
    columns = max(1, _BLOCK // max(1, shape[-2]))
    for i in range(0, len(out), batches):
        for j in range(0, shape[-1], columns):
            rows, cut = slice(i, i + batches), slice(j, j + columns)
            part = None if begin is None else begin[rows, :, cut]
            out[rows, :, cut] = fill(left[rows], right[rows, :, cut], part)
    return out.reshape(shape)


def outer(a: Array, b: Array, k: int) -> Array:
    """Products of row k of a [B, K, M] and b [B, K, N]: [B, M, N] in the dtype of the operands."""
    return np.multiply(a[:, k, :, None], b[:, k, None, :])


def product_steps(a: Array, b: Array, product_round: Callable[[Array], Array] = np.asarray) -> Steps:
    """One float32 term per row of the contraction of float32 a [B, K, M] and b [B, K, N]."""

    def term(k: int) -> Array:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return product_round(outer(a, b, k))

    return Steps(a.shape[1], (len(a), a.shape[2], b.shape[2]), term)


def fused_sum(
    a: Array,
    b: Array,
    fraction: int,
    start: Array | None = None,
    rounding: str = "rne",
    product_round: Callable[[Array], Array] = np.asarray,
) -> Array:
    """The fused dot-product-add of one block: float32 [B, M, N] from a [B, K, M] and b [B, K, N].

    Every product (and `start`) is cut, towards zero, to a multiple of 2^(top - fraction), where top is the
    largest sum of operand exponents; the cut terms are added exactly and rounded once ('rne' or 'rz').
    NaN and infinity as in `exact_dot`. After the "truncated fused dot-product-add" family of MMA-Sim
    (arXiv 2511.10909), which public work fits to other matrix engines.
    """
    left, right = widen(a), widen(b)
    special = special_sums(left, right) if not _all_finite(left, right, start) else None
    left, right = (np.where(np.isfinite(x), x, 0.0) for x in (left, right))
    seed = None if start is None else np.where(np.isfinite(start), start, 0.0).astype(np.float64)
    top = _top_exponent(left, right, seed)
    total = np.zeros((len(left), left.shape[2], right.shape[2]))
    for k in range(left.shape[1]):
        total += np.trunc(np.ldexp(product_round(outer(left, right, k)), fraction - top))
    if seed is not None:
        total += np.trunc(np.ldexp(seed, fraction - top))
    result = narrow(np.ldexp(total, top - fraction) + 0.0, rounding)
    if special is None:
        return result
    with np.errstate(invalid="ignore"):
        special = special if start is None else special + np.where(np.isfinite(start), 0.0, start)
    return np.where(special != 0, special.astype(np.float32), result)


def _all_finite(left: Array, right: Array, start: Array | None) -> bool:
    return all(bool(np.isfinite(x).all()) for x in (left, right, start) if x is not None)


def _top_exponent(left: Array, right: Array, seed: Array | None) -> Array:
    """Largest exponent of a term, floor(log2 |a|) + floor(log2 |b|): the product may reach twice that."""
    top = np.full((len(left), left.shape[2], right.shape[2]), -(1 << 20))
    left_exponent, right_exponent = (np.frexp(x)[1] - 1 for x in (left, right))
    for k in range(left.shape[1]):
        both = (left[:, k, :, None] != 0) & (right[:, k, None, :] != 0)
        exponent = left_exponent[:, k, :, None] + right_exponent[:, k, None, :]
        np.maximum(top, exponent, out=top, where=both)
    if seed is not None:
        np.maximum(top, np.frexp(seed)[1] - 1, out=top, where=seed != 0)
    # Without any nonzero term the exponent is free; 0 keeps ldexp in range.
    return np.where(top == -(1 << 20), 0, top)
