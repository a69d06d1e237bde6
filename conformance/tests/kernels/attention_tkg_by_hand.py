"""attention_tkg in scalar arithmetic, written from the contract and from nothing else.

Rational numbers with one explicit rounding per operation (`by_hand`), mpmath for exp and sin, dictionaries and
loops. It has its own rules of sharding, tiling and layout. Slow: for a few hundred keys and a few columns, or
a few thousand keys and one.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import Any

import mpmath
import numpy as np

from conformance.tests.kernels import by_hand
from conformance.tests.kernels.by_hand import add, dot, multiply, to

FLOOR = -float(np.finfo(np.float32).max)


@cache
def function(name: str, x: float) -> float:
    """A real function of a float32, rounded once to float32."""
    if name == "exp" and x < -200:
        return 0.0  # far below half the smallest subnormal, and no rational number to write down
    with mpmath.workprec(160):
        value = getattr(mpmath, name)(mpmath.mpf(x))
        exact = Fraction(int(value.man)) * Fraction(2) ** int(value.exp)
        return by_hand.rounded(-exact if value < 0 else exact, "float32")


def subtract(x: float, y: float) -> float:
    return add(x, -y)


def resized(block_len: int, keys: int, flash: bool) -> int:
    """Largest divisor of the block length with whole folds of 128 blocks in every flash tile."""
    lengths = [min(8192, keys - start) for start in range(0, keys, 8192)] if flash else [keys]
    return max(
        n for n in range(1, block_len + 1) if block_len % n == 0 and all(k % (128 * n) == 0 for k in lengths)
    )


def shards(c: Any) -> tuple[int, int]:
    """(sequence shards, batch shards)."""
    if c.lnc == 2 and c.bs % 2 == 0 and (c.bs * c.q_head * c.s_active > 128 or c.curr_sprior < 256):
        return 1, 2
    return (2, 1) if c.lnc == 2 and c.curr_sprior >= 256 else (1, 1)


def slots(c: Any, keys: int, share: int) -> list[list[int]]:
    """The keys of one flash tile: for every key tile the 128 keys at partitions 0..127."""
    tiles = keys // 128
    flash = c.enable_fa_s_prior_tiling and share > 8192
    length = resized(c.block_len, share, flash) if c.block_len else 0
    at = {}
    for t in range(tiles):
        for p in range(128):
            if c.block_len:
                at[t, p] = (t // length) * 128 * length + p * length + t % length
            else:
                at[t, p] = p * tiles + t if c.strided_mm1 else t * 128 + p
    return [[at[t, p] for p in range(128)] for t in range(tiles)]


class Cache:
    """Keys, values and the mask by (batch, token), new tokens in place, rows nobody keeps zero."""

    def __init__(self, c: Any, inputs: dict[str, Any], k_active: dict[tuple[int, int], list[float]]) -> None:
        self.c, self.inputs = c, inputs
        self.k_prior, self.v_prior = (by_hand.values(inputs[name]) for name in ("k_prior", "v_prior"))
        self.v_active = by_hand.values(inputs["v_active"])
        self.mask = by_hand.values(inputs["mask"])
        self.k_active = k_active

    def place(self, b: int, token: int) -> tuple[int, int]:
        """(block, row) of a block cache."""
        block = int(self.inputs["active_blocks_table"][b, token // self.c.block_len])
        return block, token % self.c.block_len

    def key(self, b: int, token: int) -> list[float]:
        new = token - (self.c.curr_sprior - self.c.s_active)
        if new >= 0:
            return [to(x, self.c.kv_dtype) for x in self.k_active[b, new]]
        if self.c.block_len:
            block, row = self.place(b, token)
            return list(self.k_prior[block][row])
        if self.c.tp_k_prior:
            return list(self.k_prior[b][0][token])
        return [self.k_prior[b][0][i][token] for i in range(self.c.d_head)]

    def value(self, b: int, token: int) -> list[float]:
        if not any(self.kept(b, h, j, token) for h in range(self.c.q_head) for j in range(self.c.s_active)):
            return [0.0] * self.c.d_head
        new = token - (self.c.curr_sprior - self.c.s_active)
        if new >= 0:
            return [to(x, self.c.kv_dtype) for x in self.v_active[b][0][new]]
        if self.c.block_len:
            block, row = self.place(b, token)
            return list(self.v_prior[block][row])
        return list(self.v_prior[b][0][token])

    def kept(self, b: int, h: int, j: int, token: int) -> bool:
        c, new = self.c, token - (self.c.curr_sprior - self.c.s_active)
        if not c.use_pos_id:
            return bool(self.mask[self.row(token)][b][h][j] != 0)
        if new >= 0:
            return bool(self.mask[new][b][h][j] != 0)
        return bool(token < self.inputs["rope_pos_ids"][b, 0])

    def row(self, token: int) -> int:
        """Row of the mask that belongs to a token."""
        c = self.c
        if not c.block_len:
            return token
        share = c.curr_sprior // shards(c)[0]
        core, local = divmod(token, share)
        length = resized(c.block_len, share, c.enable_fa_s_prior_tiling and share > 8192)
        fold, rest = divmod(local, 128 * length)
        p, u = divmod(rest, length)
        return core * share + fold * 128 * length + u * 128 + p


def attention(c: Any, inputs: dict[str, Any]) -> dict[tuple[int, int, int], list[float]]:
    """out[b, h, j] as d values of the dtype of out."""
    q, k_active = queries(c, inputs)
    cache_ = Cache(c, inputs, k_active)
    return {column: _column(c, inputs, cache_, q[column], column) for column in q}


def _column(
    c: Any, inputs: dict[str, Any], held: Cache, q: list[float], column: tuple[int, int, int]
) -> list[float]:
    b, h, j = column
    n_seq = shards(c)[0]
    share = c.curr_sprior // n_seq
    flash = c.enable_fa_s_prior_tiling and share > 8192
    starts = list(range(0, share, 8192)) if flash else [0]
    sink = None if c.sink is None else float(inputs["sink"][h, 0])
    scores: dict[int, float] = {}
    for token in range(c.curr_sprior):
        kept = held.kept(b, h, j, token)
        scores[token] = dot(zip(held.key(b, token), q, strict=True)) if kept else -math.inf
    tops, states = [-math.inf] * n_seq, [(0.0, [0.0] * c.d_head)] * n_seq
    for start in starts:
        last = start == starts[-1]
        keys = min(8192, share - start) if flash else share
        older = list(tops)
        for core in range(n_seq):
            tile = [scores[core * share + start + k] for k in range(keys)]
            tops[core] = max(tops[core], *tile, FLOOR)
        if n_seq == 2 and last:
            tops = [max(tops)] * 2
        if sink is not None and (last if n_seq == 2 else start == 0):
            tops = [max(top, sink) for top in tops]
        for core in range(n_seq):
            tokens = [[core * share + start + k for k in row] for row in slots(c, keys, share)]
            total, out = _tile(c, held, b, tokens, scores, tops[core])
            if sink is not None and n_seq == 1 and start == 0:
                total = add(total, function("exp", subtract(sink, tops[core])))
            if start:
                corr = function("exp", add(-tops[core], older[core]))
                total = add(multiply(states[core][0], corr), total)
                out = [add(multiply(x, corr), y) for x, y in zip(states[core][1], out, strict=True)]
            states[core] = total, out
    return _finish(c, states, sink, tops[0])


def _tile(
    c: Any, held: Cache, b: int, tokens: list[list[int]], scores: dict[int, float], top: float
) -> tuple[float, list[float]]:
    """Sum of the exponentials of one flash tile and their product with V."""
    parts, out = [], [0.0] * c.d_head
    for t, row in enumerate(tokens):
        prob = [to(function("exp", subtract(scores[token], top)), c.dtype) for token in row]
        values = [held.value(b, token) for token in row]
        parts.append(dot((p, 1.0) for p in prob))
        for i in range(c.d_head):
            product = dot((p, v[i]) for p, v in zip(prob, values, strict=True))
            out[i] = product if t == 0 else add(out[i], product)
    return dot((part, 1.0) for part in parts), out


def _finish(c: Any, states: list[tuple[float, list[float]]], sink: float | None, top: float) -> list[float]:
    total = states[0][0]
    if len(states) == 2:
        total = add(total, states[1][0])
        if sink is not None:
            total = add(total, function("exp", subtract(sink, top)))
    if total == 0:
        return [math.nan] * c.d_head
    inverse = by_hand.reciprocal(total)
    halves = [[multiply(x, inverse) for x in out] for _, out in states]
    sums = halves[0] if len(halves) == 1 else [add(x, y) for x, y in zip(*halves, strict=True)]
    return [to(x, c.out_dtype) for x in sums]


# --- queries, and RoPE ------------------------------------------------------------------------------------


def queries(
    c: Any, inputs: dict[str, Any]
) -> tuple[dict[tuple[int, int, int], list[float]], dict[tuple[int, int], list[float]]]:
    """q[b, h, j] and k_active[b, j] as d values each, rotated where the kernel does so."""
    q, k = by_hand.values(inputs["q"]), by_hand.values(inputs["k_active"])
    width = c.q_head * c.s_active
    found_q, found_k = {}, {}
    for b in range(c.bs):
        for j in range(c.s_active):
            for h in range(c.q_head):
                column = b * width + h * c.s_active + j
                found_q[b, h, j] = [q[i][column] if c.qk_in_sb else q[b][i][h][j] for i in range(c.d_head)]
            found_k[b, j] = [k[i][b * c.s_active + j] if c.qk_in_sb else k[b][i][j] for i in range(c.d_head)]
    if not c.fuse_rope:
        return found_q, found_k
    scale = to(1 / math.sqrt(c.d_head), "float32")
    turned_q = {
        (b, h, j): [to(multiply(x, scale), c.dtype) for x in rotated(c, inputs, values, b, j)]
        for (b, h, j), values in found_q.items()
    }
    return turned_q, {(b, j): rotated(c, inputs, values, b, j) for (b, j), values in found_k.items()}


def rotated(c: Any, inputs: dict[str, Any], x: list[float], b: int, j: int) -> list[float]:
    """One head of d channels turned by the angles of a position, with the kernel's roundings."""
    position = float(inputs["rope_pos_ids"][b, j])
    half = c.d_head // 2
    sine_dtype = c.dtype if c.qk_in_sb else "float32"
    found = [0.0] * c.d_head
    for i in range(half):
        angle = multiply(position, float(inputs["inv_freqs"][i, 0]))
        sin, cos = wave(angle, math.pi), wave(angle, 1.5 * math.pi)
        for channel, turned in ((i, -x[i + half]), (i + half, x[i])):
            sine_part = to(multiply(turned, sin), sine_dtype)
            found[channel] = to(add(multiply(x[channel], cos), sine_part), c.dtype)
    return found


def wave(angle: float, shift: float) -> float:
    shifted = add(angle, to(shift, "float32"))
    turns = add(multiply(shifted, to(1 / (2 * math.pi), "float32")), -0.5)
    whole = multiply(float(round(turns)), to(2 * math.pi, "float32"))
    residual = add(subtract(shifted, whole), to(-math.pi, "float32"))
    assert abs(residual) <= math.pi, "choose positions whose residual stays where the sine is a sine"
    return function("sin", residual)
