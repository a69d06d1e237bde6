"""attention_segmented_cte in scalar arithmetic, written from the contract and from nothing else.

Rational numbers with one explicit rounding per operation (`by_hand`), mpmath for exp, loops over tokens. It has
its own schedule, split and block look-up. Slow: for a few queries over a thousand keys of a short head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from conformance.tests.kernels import by_hand
from conformance.tests.kernels.attention_tkg_by_hand import function
from conformance.tests.kernels.by_hand import add, dot, multiply, to

TOP = 2.0**127
LEAST_SUM = 2.0**-126


@dataclass
class Result:
    """What a query ends with, in values of the output's dtype and float32."""

    out: list[float]
    neg_max: float
    sum_recip: float


@dataclass
class State:
    n: float
    total: float
    out: list[float]


#: One key of a segment: its token (None: nothing is loaded there) and whether the query sees it.
Key = tuple[int | None, bool]


def query(c: Any, inputs: dict[str, Any], row: int, i: int) -> Result:
    """One query of one row."""
    held = Held(c, inputs, row)
    q = held.query(i)
    state: State | None = None
    for kind, keys in segments(c, inputs, row, i):
        state = extended(c, held, q, kind, keys, state)
    assert state is not None
    return finished(c, inputs, state)


class Held:
    """Queries, keys and values of one row by number of the query and the token."""

    def __init__(self, c: Any, inputs: dict[str, Any], row: int) -> None:
        self.c, self.inputs, self.row = c, inputs, row
        self.head = (row % c.num_q_heads) * c.num_kv_heads // c.num_q_heads
        self.table = [int(x) for x in inputs["block_tables"][row // c.num_q_heads]]

    def query(self, i: int) -> list[float]:
        c, q = self.c, self.inputs["q"]
        found = []
        for dim in range(c.d_head):
            x = to(float(q[self.row, i, dim] if c.tp_q else q[self.row, dim, i]), "bfloat16")
            if c.k_scale:
                x = to(multiply(x, float(self.inputs["k_scale"][dim, 0])), "bfloat16")
            found.append(x)
        return found

    def block(self, token: int | None) -> int:
        return -1 if token is None else self.table[token // self.c.block_size]

    def key(self, token: int | None) -> list[float]:
        c, block = self.c, self.block(token)
        if token is None or block < 0:
            return [0.0] * c.d_head
        place = token % c.block_size
        k = self.inputs["k_cache"]
        if c.k_pre_transposed:
            page = k[block * c.num_kv_heads + self.head]
            return [float(page[dim, place]) for dim in range(c.d_head)]
        return [float(x) for x in k[block, self.head, place]]

    def value(self, token: int | None) -> list[float]:
        block = self.block(token)
        if token is None or block < 0:
            return [0.0] * self.c.d_head
        return [float(x) for x in self.inputs["v_cache"][block, self.head, token % self.c.block_size]]

    def sink(self) -> float | None:
        return None if self.c.sink is None else float(self.inputs["sink"][self.row, 0])


def slice_start(c: Any, row: int, i: int) -> int:
    """First query of the slice that query i of a row belongs to."""
    rows = c.batch * c.num_q_heads
    if c.lnc == 1 or c.kvp or rows % 2 == 0 or row != rows - 1:
        return 0
    unit = max(128, c.block_size)
    cut = unit * math.ceil(c.seqlen_q / (2 * unit))
    return cut if i >= cut else 0


def segments(c: Any, inputs: dict[str, Any], row: int, i: int) -> list[tuple[str, list[Key]]]:
    """Kind and keys of every segment a query meets, in order."""
    prior, size = int(inputs["prior_tokens"][0, 0]), c.prior_seg_size
    first = slice_start(c, row, i)
    last = prior + i
    if c.kvp:
        last = i + int(inputs["kvp_offset"][0, 0])
    own = range(prior + first, prior + slice_end(c, row, first))
    if c.sliding_window:
        area = 512 * math.ceil(c.sliding_window / 512)
        start, lowest = prior + first - area, max(0, prior + first - c.sliding_window)
        tokens = [t if t >= lowest else None for t in range(start, own.stop)]
        near = [(t, t is not None and last - c.sliding_window < t <= last) for t in tokens]
        return [("first", near)]
    full = math.floor(multiply(float(prior), to(1.0 / size, "float32")))
    found: list[tuple[str, list[Key]]] = [("first", [(t, t <= last) for t in own])]
    partial = prior - full * size
    if partial:
        tokens = [full * size + k if k < partial else None for k in range(size)]
        found.append(("merge", [(t, t is not None and (not c.kvp or t <= last)) for t in tokens]))
    for index in range(full - 1, -1, -1):
        tokens_of = range(index * size, index * size + size)
        found.append(("merge" if c.kvp else "flash", [(t, not c.kvp or t <= last) for t in tokens_of]))
    if first:
        found.append(("merge", [(t, True) for t in range(prior, prior + first)]))
    return found


def slice_end(c: Any, row: int, first: int) -> int:
    if first or slice_start(c, row, c.seqlen_q - 1) == 0:
        return int(c.seqlen_q)
    return slice_start(c, row, c.seqlen_q - 1)


def extended(
    c: Any, held: Held, q: list[float], kind: str, keys: list[Key], before: State | None
) -> State:
    """The state after one segment."""
    scale = to(float(c.scale), "float32")
    logits = [
        multiply(dot(zip(q, held.key(token), strict=True)), scale) if seen else -math.inf for token, seen in keys
    ]
    sink = held.sink() if kind == "first" else None
    highest = max(logits if sink is None else [*logits, sink])
    n = min(-highest, TOP)
    if kind == "flash":
        assert before is not None
        n = min(before.n, n)
    e = [0.0 if x == -math.inf else function("exp", add(x, n)) for x in logits]
    sums = [dot((x, 1.0) for x in e[t : t + 512]) for t in range(0, len(e), 512)]
    if sink is not None:
        sums.append(function("exp", add(sink, n)))
    now = State(n, dot((x, 1.0) for x in sums), products(c, held, keys, [to(x, "bfloat16") for x in e]))
    if before is None:
        return now
    return flashed(before, now) if kind == "flash" else merged(before, now)


def products(c: Any, held: Held, keys: list[Key], prob: list[float]) -> list[float]:
    """P V: sums of 128 keys, added up over 2048 keys, and these added up."""
    out = [0.0] * c.d_head
    values = [held.value(token) for token, _ in keys]
    for large in range(0, len(keys), 2048):
        psum = [0.0] * c.d_head
        for start in range(large, min(large + 2048, len(keys)), 128):
            span = range(start, min(start + 128, large + 2048, len(keys)))
            for dim in range(c.d_head):
                psum[dim] = add(psum[dim], dot((prob[k], values[k][dim]) for k in span))
        out = [add(x, y) for x, y in zip(out, psum, strict=True)]
    return out


def flashed(before: State, now: State) -> State:
    factor = function("exp", add(-before.n, now.n))
    out = [add(multiply(x, factor), y) for x, y in zip(before.out, now.out, strict=True)]
    return State(now.n, add(multiply(before.total, factor), now.total), out)


def merged(before: State, now: State) -> State:
    n = min(before.n, now.n)
    old, new = (function("exp", add(n, -state.n)) for state in (before, now))
    total = add(multiply(before.total, old), multiply(now.total, new))
    out = [add(multiply(y, new), multiply(x, old)) for x, y in zip(before.out, now.out, strict=True)]
    return State(n, total, out)


def finished(c: Any, inputs: dict[str, Any], state: State) -> Result:
    recip = by_hand.rounded(1 / Fraction(max(state.total, LEAST_SUM)), "float32")
    out = [multiply(to(x, "bfloat16"), recip) for x in state.out]
    if c.v_scale:
        out = [multiply(x, float(inputs["v_scale"][dim, 0])) for dim, x in enumerate(out)]
    return Result([to(x, "bfloat16") for x in out], state.n, recip)


def floor(x: float) -> int:
    """Floor of a float32 in the range of int32, saturating; 0 for NaN."""
    if math.isnan(x):
        return 0
    return int(np.clip(x, -(2**31), 2**31 - 1)) if abs(x) >= 2**31 else math.floor(Fraction(x))
