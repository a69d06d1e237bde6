"""Matmul instructions: what one pass through the PE array leaves in PSUM, under a profile.

By default: exact products, their sum over the contraction of the one instruction rounded once to float32
(`exact_dot`), then a float32 addition onto PSUM. The other answers to U1 to U8 and U12 are played here.
Sources: facts 3.2 to 3.8 and 11.1 of the numerics sheet.

All `*_pass` functions take the old content of PSUM as `acc`; None means that the pass overwrites.

Not modelled: payloads of NaN (U10), a bf16 PSUM tile (U9: the caller rounds what it stores), transposes
(exact copies on gen3 and later).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import cast, to_float32
from reference.numerics.chain import chain_dot
from reference.numerics.dot_orders import Steps, by_blocks, fused_sum, ordered_sum, outer, product_steps
from reference.numerics.exact_dot import exact_dot, exact_dot_passes
from reference.numerics.exact_sum import add, few_total, narrow
from reference.numerics.formats import format_of
from reference.numerics.mx import MxOperand, scale_values
from reference.numerics.operand import zero_subnormals
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.reduce import exact_reduce_add

__all__ = [
    "accumulate",
    "chain_dot",
    "double_row_pass",
    "exact_dot",
    "exact_dot_passes",
    "matmul_pass",
    "matmul_passes",
    "mx_pass",
    "psum_add",
]

Array = NDArray[Any]
_FLOAT32 = np.dtype(np.float32)


def matmul_pass(
    a: Any,
    b: Any,
    profile: NumericsProfile = DEFAULT,
    *,
    acc: Any = None,
    a_format: object = None,
    b_format: object = None,
) -> Array:
    """PSUM after one matmul instruction: float32 [..., M, N].

    Default profile: see `exact_dot` for NaN, infinity, zero and overflow. Other orders add in float32 and
    follow IEEE at every step, from +0.

    Args:
        a: stationary operand [..., K, M] in its storage dtype.
        b: moving operand [..., K, N].
        acc: float32 [..., M, N], PSUM before an accumulating instruction; None if it overwrites.
        a_format, b_format: name the format where the container does not tell it, that is 'tfloat32'.
    """
    left, right = _operand(a, a_format, profile), _operand(b, b_format, profile)
    total = None if acc is None else np.asarray(acc, np.float32)
    for x, y in _array_passes(left, right, profile):
        total = _onto_psum(partial(_array_sum, x, y, profile), total, profile)
    assert total is not None
    return total


def accumulate(acc: Any, a: Any, b: Any, profile: NumericsProfile = DEFAULT, **formats: object) -> Array:
    """`matmul_pass` of an accumulating instruction onto `acc`, in the way of the profile (U3)."""
    return matmul_pass(a, b, profile, acc=acc, **formats)


def matmul_passes(
    a: Any, b: Any, profile: NumericsProfile = DEFAULT, *, acc: Any = None, out: Array | None = None
) -> Array:
    """G accumulating instructions onto one PSUM tile: a [G, K, M], b [G, K, N] -> float32 [M, N].

    The same bits as `matmul_pass` and `accumulate` in ascending order, without the copies in between.
    """
    if _is_plain(profile, np.asarray(a).dtype, np.asarray(b).dtype):
        return exact_dot_passes(a, b, start=acc, out=out)
    total = acc
    for left, right in zip(a, b, strict=True):
        total = matmul_pass(left, right, profile, acc=total)
    if total is None:
        raise ValueError("matmul_passes: no pass")
    if out is None:
        return np.asarray(total)
    out[...] = total
    return out


def double_row_pass(a: Any, b: Any, profile: NumericsProfile = DEFAULT, *, acc: Any = None) -> Array:
    """PSUM after one double_row instruction: each PE multiplies and adds two fp8 pairs; float32 [..., M, N].

    NaN, infinity, zero: as `matmul_pass`. Under a fused order (fdpa) all 2K products are fused.

    Args:
        a: [..., K, 2, M], logical row k and k + K in slots 0 and 1 of one PE.
        b: [..., K, 2, N].
        acc: float32 [..., M, N], PSUM before an accumulating instruction.
    """
    left, right = _operand(a, None, profile), _operand(b, None, profile)
    if left.ndim < 3 or right.ndim < 3 or left.shape[-3:-1] != right.shape[-3:-1] or left.shape[-2] != 2:
        raise ValueError(f"double_row: expects [..., K, 2, M] and [..., K, 2, N], got {left.shape}, {right.shape}")
    total = None if acc is None else np.asarray(acc, np.float32)
    return _onto_psum(partial(_double_row_sum, left, right, profile), total, profile)


def mx_pass(a: MxOperand, b: MxOperand, profile: NumericsProfile = DEFAULT, *, acc: Any = None) -> Array:
    """PSUM after one nc_matmul_mx instruction: float32 [M, N], the contraction over partitions and lanes.

    A scale byte 0xFF is NaN (or 2^128, U8) for its whole group. NaN, infinity, zero: as `matmul_pass`.

    Args:
        a: stationary operand of P partitions and M columns.
        b: moving operand of P partitions and N columns.
        acc: float32 [M, N], PSUM before an accumulating instruction.
    """
    if a.lanes.shape[:2] != b.lanes.shape[:2]:
        raise ValueError(f"mx_pass: contractions differ, {a.lanes.shape[:2]} against {b.lanes.shape[:2]}")
    total = None if acc is None else np.asarray(acc, np.float32)
    return _onto_psum(partial(_mx_sum, a, b, profile), total, profile)


def psum_add(acc: Any, value: Any, profile: NumericsProfile = DEFAULT) -> Array:
    """The addition of a finished array sum onto PSUM, float32; IEEE, rounding by profile (U3)."""
    total = add(np.asarray(acc, np.float32), np.asarray(value, np.float32), profile.psum_add_round)
    return _flush_result(total, profile)


ArraySum = Callable[[Array | None], Array]


def _onto_psum(array_sum: ArraySum, acc: Array | None, profile: NumericsProfile) -> Array:
    if acc is not None and profile.psum_entry == "seeds_chain":
        return _flush_result(array_sum(acc), profile)
    value = _flush_result(array_sum(None), profile)
    return value if acc is None else psum_add(acc, value, profile)


# --- operands ---------------------------------------------------------------------------------------------


def _operand(x: Any, fmt: object, profile: NumericsProfile) -> Array:
    values: Array = np.asarray(x)
    if fmt is not None and format_of(fmt).name == "tfloat32":
        values = cast(values, "tfloat32", profile)
    return zero_subnormals(values) if profile.subnormals in ("daz", "daz_ftz") else values


def _flush_result(total: Array, profile: NumericsProfile) -> Array:
    return zero_subnormals(total) if profile.subnormals in ("ftz", "daz_ftz") else total


def _array_passes(left: Array, right: Array, profile: NumericsProfile) -> Iterator[tuple[Array, Array]]:
    """The operand pairs of the passes through the array: several for fp32 operands (U4), else one."""
    if profile.fp32_matmul == "exact_products" or left.dtype != _FLOAT32 or right.dtype != _FLOAT32:
        yield left, right
        return
    pieces = [_halves(x, profile.fp32_matmul) for x in (left, right)]
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        if profile.fp32_matmul != "split_bf16_3" or (i, j) != (1, 1):
            yield pieces[0][i], pieces[1][j]


#: Low fraction bits of a float32 that the high half gives up.
_LOW_BITS = {"split_12_12": 12, "split_11_13": 13}


def _halves(x: Array, split: str) -> tuple[Array, Array]:
    """x = hi + lo; exactly so where the halves have 24 bits together. NaN and infinity stay in hi, lo is 0.

    An infinite hi meets the zero lo of the other operand in a later pass, and that is NaN.
    """
    if split in _LOW_BITS:
        mask = np.uint32(0xFFFFFFFF ^ ((1 << _LOW_BITS[split]) - 1))
        high = np.where(np.isnan(x), x, (x.view(np.uint32) & mask).view(np.float32))
    else:
        high = to_float32(cast(x, "bfloat16"))
    with np.errstate(invalid="ignore"):
        low = np.where(np.isfinite(high), x - high, np.float32(0))
    return high, low if split in _LOW_BITS else to_float32(cast(low, "bfloat16"))


# --- sums of one pass -------------------------------------------------------------------------------------


def _is_plain(profile: NumericsProfile, left: np.dtype[Any], right: np.dtype[Any]) -> bool:
    """Whether the profile plays the default for everything a pass of these dtypes can notice."""
    open_fields = ("matmul_order", "psum_entry", "psum_add_round", "subnormals", "product_round")
    return (
        all(getattr(profile, name) == getattr(DEFAULT, name) for name in open_fields)
        and profile.acc_round != "rz"
        and not (left == right == _FLOAT32 and profile.fp32_matmul != "exact_products")
    )


def _array_sum(a: Array, b: Array, profile: NumericsProfile, start: Array | None) -> Array:
    order, rounding = profile.matmul_order, profile.acc_round
    if order == "exact" and profile.product_round == "exact":
        return exact_dot(a, b, seed=start, rounding=rounding)
    if order == "chain" and rounding == "rne" and profile.product_round == "exact":
        return chain_dot(a, b, start=start)

    def fill(left: Array, right: Array, begin: Array | None) -> Array:
        if order.startswith("fdpa"):
            return fused_sum(left, right, _fraction(order), begin, rounding, _product_round(profile))
        steps = product_steps(to_float32(left), to_float32(right), _product_round(profile))
        return _sum_steps(steps, profile, begin)

    return by_blocks(fill, a, b, start)


def _double_row_sum(a: Array, b: Array, profile: NumericsProfile, start: Array | None) -> Array:
    pair = profile.double_row_pair
    if pair == "halves":
        a, b = (np.moveaxis(x, -2, -3) for x in (a, b))
    a, b = (x.reshape(*x.shape[:-3], -1, x.shape[-1]) for x in (a, b))
    fused = profile.matmul_order.startswith("fdpa")
    exact = profile.matmul_order == "exact"
    if fused or pair in ("two_steps", "halves") or (exact and pair == "exact_pair"):
        return _array_sum(a, b, profile, start)

    def fill(left: Array, right: Array, begin: Array | None) -> Array:
        steps = _grouped_steps(left, right, 2, _product_round(profile))
        return _sum_steps(_rounded(steps) if pair == "rounded_pair" else steps, profile, begin)

    return by_blocks(fill, to_float32(a), to_float32(b), start)


def _fraction(order: str) -> int:
    return int(order[-2:])


def _product_round(profile: NumericsProfile) -> Callable[[Array], Array]:
    if profile.product_round == "exact":
        return np.asarray
    return lambda products: to_float32(cast(narrow(products), "bfloat16"))


def _grouped_steps(a: Array, b: Array, size: int, product_round: Callable[[Array], Array]) -> Steps:
    """Steps of `size` products each, which enter together with one rounding; a [B, size * K, M] and b."""
    left, right = a.astype(np.float64), b.astype(np.float64)

    def term(k: int) -> tuple[Array, ...]:
        with np.errstate(invalid="ignore"):
            return tuple(product_round(outer(left, right, size * k + lane)) for lane in range(size))

    return Steps(a.shape[1] // size, (len(a), a.shape[2], b.shape[2]), term)


def _rounded(steps: Steps) -> Steps:
    """Steps whose parts are summed and rounded to float32 before they enter."""

    def term(k: int) -> Array:
        return few_total([np.asarray(part, np.float64) for part in steps.term(k)])

    return Steps(steps.depth, steps.shape, term)


def _sum_steps(steps: Steps, profile: NumericsProfile, start: Array | None) -> Array:
    if profile.matmul_order != "exact":
        return ordered_sum(steps, profile.matmul_order, start, profile.acc_round)
    terms = [steps.term(k) for k in range(steps.depth)]
    flat = [part for term in terms for part in (term if isinstance(term, tuple) else (term,))]
    if start is not None:
        flat.append(start)
    return exact_reduce_add(np.stack([narrow(part) for part in flat], axis=-1), rounding=profile.acc_round)


# --- block formats ----------------------------------------------------------------------------------------


def _mx_sum(a: MxOperand, b: MxOperand, profile: NumericsProfile, start: Array | None) -> Array:
    if profile.subnormals in ("daz", "daz_ftz"):
        a, b = a.without_subnormals(), b.without_subnormals()
    if profile.mx_dot == "group_dot":
        return _group_dot(a, b, profile, start)
    left, right = _scaled(a, profile), _scaled(b, profile)
    order = profile.matmul_order
    if profile.mx_dot == "dequant_exact" or (profile.mx_dot == "dequant_order" and order == "exact"):
        return exact_dot(left, right, seed=start, rounding=profile.acc_round)

    def fill(x: Array, y: Array, begin: Array | None) -> Array:
        if profile.mx_dot.startswith("fused") or order.startswith("fdpa"):
            fraction = _fraction(order if profile.mx_dot == "dequant_order" else profile.mx_dot)
            return fused_sum(x, y, fraction, begin, profile.acc_round)
        return ordered_sum(_grouped_steps(x, y, 4, np.asarray), order, begin, profile.acc_round)

    return by_blocks(fill, left, right, start)


def _scaled(operand: MxOperand, profile: NumericsProfile) -> Array:
    """Element times scale, [4 P, F], row 4 p + lane: float32 with its range, or float64 without (U8)."""
    values = operand.values(profile).reshape(-1, operand.lanes.shape[-1])
    wide = profile.mx_scale_overflow == "wide" or profile.mx_dot.startswith("fused")
    return values if wide else narrow(values)


def _group_dot(a: MxOperand, b: MxOperand, profile: NumericsProfile, start: Array | None) -> Array:
    """Dot of each group of 8 partitions x 4 lanes, rounded; times both scales; then the sum over groups."""
    left, right = (x.lanes.reshape(-1, 32, x.lanes.shape[-1]) for x in (a, b))
    dots = exact_dot(left, right, rounding=profile.acc_round).astype(np.float64)
    with np.errstate(invalid="ignore"):
        dots *= outer_scales(scale_values(a.scales, profile), scale_values(b.scales, profile))
    if profile.mx_scale_overflow == "ieee":
        dots = narrow(dots).astype(np.float64)
    steps = Steps(len(dots), dots.shape[1:], lambda group: (dots[group],))
    if profile.matmul_order in ("exact", "fdpa24", "fdpa28"):
        begin = [] if start is None else [start.astype(np.float64)]
        return few_total([*dots, *begin], "rz" if profile.acc_round == "rz" else "rne")
    return ordered_sum(steps, profile.matmul_order, start, profile.acc_round)


def outer_scales(a: Array, b: Array) -> Array:
    """Products of scales [G, M] and [G, N]: [G, M, N], exact in float64."""
    return np.multiply(a[:, :, None], b[:, None, :])
