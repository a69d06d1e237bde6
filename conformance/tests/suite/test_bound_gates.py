"""What grade C lets through and what it catches, on one small attention each of two kernels.

The kernels here are plain NumPy, 128 queries or 16 columns of 2048 keys and 128 channels, with every choice that
the arithmetic leaves open made by hand: the legal ones must pass, the faults of facts/grading.md must not, though
the published tolerance passes several of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.bounds import Bound, bound_faults, figures
from conformance.cases.attention_segmented_cte import SUBJECT as SEGMENTED
from conformance.cases.attention_tkg import SUBJECT as DECODE
from conformance.randomness import Stream
from conformance.tolerances import tolerance_faults, tolerance_for
from reference.contracts.attention_segmented_cte import Config as SegmentedConfig
from reference.contracts.attention_tkg import Config as DecodeConfig

Array = NDArray[Any]
Rounding = Callable[[Array], Array]

KEYS, CHANNELS, TILE = 2048, 128, 128


# --- number handling, by bits ---------------------------------------------------------------------------------------


def to_bf16(x: Array) -> Array:
    return x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def cut_to_bf16(x: Array) -> Array:
    """Towards zero: the low half of the bits is dropped."""
    return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def to_f32(x: Array) -> Array:
    return np.asarray(x, np.float32)


def cut_to_f32(x: Array) -> Array:
    """Towards zero, from float64."""
    near = x.astype(np.float32)
    return np.where(np.abs(near) > np.abs(x), np.nextafter(near, np.float32(0)), near)


def one_up(x: Array) -> Array:
    return np.nextafter(x, np.float32(np.inf))


def one_step_off(x: Array) -> Array:
    """Every element of a bfloat16 array away from zero by one step."""
    bits = x.astype(np.float32).view(np.uint32) + np.uint32(0x10000)
    return bits.view(np.float32)


# --- an attention with choices --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choices:
    """How a kernel computes; the defaults are the plain way."""

    tile: int = TILE
    reverse: bool = False
    #: One addition of the tensor engine, from float64.
    add: Rounding = to_f32
    exp: Rounding = to_f32
    weight: Rounding = to_bf16
    reciprocal: Rounding = to_f32
    out: Rounding = to_bf16
    score: float = 1.0


def attend(q: Array, k: Array, v: Array, how: Choices, summed_rounded: bool) -> Array:
    """q [n, d], k and v [K, d], float32 holding bfloat16; weights are summed rounded or as they are."""
    scores = how.add(q.astype(np.float64) @ k.T.astype(np.float64)) * np.float32(how.score)
    raised = how.exp(np.exp((scores - scores.max(axis=1, keepdims=True)).astype(np.float64)).astype(np.float32))
    weights = how.weight(raised)
    summed = weights if summed_rounded else raised
    total, out = np.zeros((len(q), 1), np.float32), np.zeros((len(q), v.shape[1]), np.float32)
    starts = range(0, len(k), how.tile)
    for start in reversed(starts) if how.reverse else starts:
        at = slice(start, start + how.tile)
        of_tile = how.add(weights[:, at].astype(np.float64) @ v[at].astype(np.float64))
        out = how.add(out.astype(np.float64) + of_tile)
        total = how.add(total + summed[:, at].sum(axis=1, keepdims=True, dtype=np.float64))
    return how.out(out * how.reciprocal(np.float32(1) / total))


LEGAL = {
    "plain": Choices(),
    "reversed": Choices(reverse=True),
    "key after key": Choices(tile=1),
    "sums towards zero": Choices(add=cut_to_f32),
    "sums towards zero, few keys at a time": Choices(add=cut_to_f32, tile=8),
    "exponential one unit high": Choices(exp=one_up),
    "reciprocal one unit high": Choices(reciprocal=one_up),
}

Mutant = Callable[[Array, Array, Array, bool], Array]


def _choosing(**changes: Any) -> Mutant:
    how = replace(Choices(), **changes)
    return lambda q, k, v, summed_rounded: attend(q, k, v, how, summed_rounded)


def _swapped(q: Array, k: Array, v: Array, summed_rounded: bool) -> Array:
    v = v.copy()
    v[[3, 900]] = v[[900, 3]]
    return attend(q, k, v, Choices(), summed_rounded)


def _without(count: int) -> Mutant:
    def mutant(q: Array, k: Array, v: Array, summed_rounded: bool) -> Array:
        return attend(q, k[:-count], v[:-count], Choices(), summed_rounded)

    return mutant


MUTANTS: Mapping[str, Mutant] = {
    "sums kept in bfloat16": _choosing(add=to_bf16),
    "result truncated": _choosing(out=cut_to_bf16),
    "every result one step off": lambda *call: one_step_off(attend(*call[:3], Choices(), call[3])),
    "scores times 1.01": _choosing(score=1.01),
    "last key dropped": _without(1),
    "last tile dropped": _without(TILE),
    "two rows swapped": _swapped,
}
#: Where weights are summed as they are, their truncation pulls every result towards zero; where the sum has them
#: truncated as well, what is left is as accurate as rounding.
TRUNCATED = _choosing(weight=cut_to_bf16)
#: Passed by the published tolerance as well as the legal ones.
UNSEEN = ("sums kept in bfloat16", "result truncated", "every result one step off")


# --- the two kernels ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """Operands of one kernel, its truth and bound, and how to lay out a result."""

    parts: list[tuple[Array, Array, Array]]
    truth: Array
    bound: Bound
    summed_rounded: bool
    kernel: str

    def run(self, compute: Callable[[Array, Array, Array, bool], Array]) -> Array:
        rows = np.stack([compute(q, k, v, self.summed_rounded) for q, k, v in self.parts])
        return rows.reshape(self.truth.shape)

    def faults(self, compute: Callable[[Array, Array, Array, bool], Array]) -> list[str]:
        return bound_faults(self.run(compute), self.truth, self.bound)


def _normal(name: str, shape: tuple[int, ...]) -> Array:
    return to_bf16(Stream(7, name).normal(shape))


@cache
def decode() -> Stage:
    """attention_tkg: 16 columns of their own keys; rounded weights are summed."""
    config = DecodeConfig(
        bs=16, q_head=1, s_active=1, curr_sprior=KEYS, full_sprior=KEYS, d_head=CHANNELS, lnc=1, tp_k_prior=True
    )
    inputs = DECODE.build(config, "normal", 0)
    scale = np.float32(CHANNELS**-0.5)
    q, k, v = to_bf16(_normal("q", (16, 1, CHANNELS)) * scale), *(_normal(x, (16, KEYS, CHANNELS)) for x in "kv")
    narrow = {name: x.astype(ml_dtypes.bfloat16) for name, x in (("q", q), ("k", k), ("v", v))}
    inputs |= {
        "q": np.ascontiguousarray(narrow["q"].transpose(2, 0, 1).reshape(CHANNELS, 16)),
        "k_prior": narrow["k"][:, None],
        "v_prior": narrow["v"][:, None],
        "k_active": np.ascontiguousarray(narrow["k"][:, -1].T),
        "v_active": narrow["v"][:, -1:][:, None],
        "mask": np.ones_like(inputs["mask"]),
    }
    truth, bound = DECODE.truth(config, inputs)["out"], DECODE.bounds(config, inputs)["out"]
    return Stage(list(zip(q, k, v, strict=True)), truth, bound, True, DECODE.name)


@cache
def segmented() -> Stage:
    """attention_segmented_cte: 128 queries at the end of one prompt; weights are summed as they are."""
    config = SegmentedConfig(
        batch=1, num_q_heads=1, seqlen_q=128, block_size=128, prior_seg_size=KEYS, max_blocks=KEYS // 128,
        num_blocks=KEYS // 128, d_head=CHANNELS, kvp=True, scale=1.0, lnc=1,
    )  # fmt: skip
    inputs = SEGMENTED.build(config, "normal", 0)
    q = to_bf16(_normal("q", (128, CHANNELS)) * np.float32(CHANNELS**-0.5))
    k, v = (_normal(x, (KEYS, CHANNELS)) for x in "kv")
    pages = (KEYS // 128, 1, 128, CHANNELS)
    inputs |= {
        "q": q[None].astype(ml_dtypes.bfloat16),
        "k_cache": k.reshape(pages).astype(ml_dtypes.bfloat16),
        "v_cache": v.reshape(pages).astype(ml_dtypes.bfloat16),
        "block_tables": np.arange(KEYS // 128, dtype=np.int32)[None],
        "prior_tokens": np.array([[KEYS - 128]], np.int32),
        # As if the queries came after all keys, so that each sees them all.
        "kvp_offset": np.array([[KEYS]], np.int32),
    }
    truth, bound = SEGMENTED.truth(config, inputs)["out"], SEGMENTED.bounds(config, inputs)["out"]
    return Stage([(q, k, v)], truth, bound, False, SEGMENTED.name)


STAGES = {"decode": decode, "segmented": segmented}


@pytest.mark.parametrize("legal", LEGAL)
@pytest.mark.parametrize("stage", STAGES)
def test_every_legal_arithmetic_is_in_bound(stage: str, legal: str) -> None:
    it = STAGES[stage]()
    assert it.faults(lambda q, k, v, summed: attend(q, k, v, LEGAL[legal], summed)) == []


@pytest.mark.parametrize("stage", STAGES)
def test_the_plain_arithmetic_errs_as_its_spread_says(stage: str) -> None:
    """The spread is no guess: the mean square of error/spread is 1, give or take the representable."""
    it = STAGES[stage]()
    found = figures(it.run(lambda q, k, v, summed: attend(q, k, v, Choices(), summed)), it.truth, it.bound)
    assert 0.6 < found.variance.value < 1.2
    assert max(abs(mean.value) for mean in found.bias) < 0.1


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("stage", STAGES)
def test_every_fault_is_caught(stage: str, mutant: str) -> None:
    assert STAGES[stage]().faults(MUTANTS[mutant]) != []


def test_truncated_weights_are_caught_where_the_sum_has_them_whole() -> None:
    assert segmented().faults(TRUNCATED) != []


@pytest.mark.parametrize("mutant", UNSEEN)
@pytest.mark.parametrize("stage", STAGES)
def test_the_published_tolerance_sees_nothing_of_these(stage: str, mutant: str) -> None:
    it = STAGES[stage]()
    row = tolerance_for(it.kernel, "none", "out")
    assert row is not None
    assert tolerance_faults(it.run(MUTANTS[mutant]), it.truth, row) == []
