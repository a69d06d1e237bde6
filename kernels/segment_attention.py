"""Attention of groups of 128 queries over one segment of keys: scores, weights, their sum, weighted values.

Queries lie on partitions. A key tile is 512 keys (one PSUM bank of scores), a value tile 128, a large tile 2048: its
weights are turned and its products with V are summed in PSUM.
"""

import nki.isa as nisa
import nki.language as nl

from kernels.paged_load import P
from kernels.segment_state import GroupResult, vector

KEY_TILE = 512
LARGE_TILE = 2048
#: -1 * a maximum is at most this, so that a row that sees nothing has weights of 0 and not of NaN.
TOP = 2.0**127


class Segment(nl.NKIObject):
    """`length` keys [d, length] and values [128, value tiles, d]; what a query sees of them.

    A query sees keys lower .. upper: fp32 tiles with a column per group of queries, or one column for all. What is
    known before the launch also says which tiles a group can leave out, and which need no mask: the first query sees
    no key after number `diagonal` (None: nothing is known), and `window` keys up to that (0: all). Keys before
    `certain` are masked whatever the rest says.
    """

    kind: int = 0
    length: int = 0
    keys: nl.ndarray = None
    values: nl.ndarray = None
    lower: nl.ndarray = None
    upper: nl.ndarray = None
    diagonal: int = None
    window: int = 0
    certain: int = 0

    def meets(self, g, first, count):
        """Whether group g can see any of `count` keys from `first` on."""
        if self.diagonal == None:
            return True
        lowest = self.diagonal + g * P
        if first > lowest + P - 1:
            return False
        return self.window == 0 or first + count - 1 >= lowest - (self.window - 1)

    def is_masked(self, g, first, count):
        """Whether some query of group g may not see some of these keys."""
        if self.upper == None:
            return False
        if self.diagonal == None or first < self.certain:
            return True
        lowest = self.diagonal + g * P
        if first + count - 1 > lowest:
            return True
        return self.window > 0 and first <= lowest + P - 1 - self.window

    def tiles(self, g, size, low, high):
        """(index, first key, keys) of the tiles of `size` keys in low .. high - 1 that group g can see."""
        found = []
        for first in range(low, min(high, self.length), size):
            count = min(size, self.length - first)
            if self.meets(g, first, count):
                found.append((first // size, first, count))
        return found


def column(tile, g):
    """Column g of a tile that has one per group, else its only one."""
    if tile.shape[1] == 1:
        return tile
    return tile[:, g : g + 1]


def attend(state, segment, g, scale, before, with_sink):
    """The GroupResult of group g over a segment. `before` (fp32 [128, 1] or None): the running n to take in."""
    name = f"{state.row}_{segment.kind}_{g}"
    tiles = segment.tiles(g, KEY_TILE, 0, segment.length)
    extra = 1 if with_sink else 0
    tops = nl.ndarray((P, len(tiles) + extra), dtype=nl.float32)
    logits = []
    for i in range(len(tiles)):
        t, first, count = tiles[i]
        logit = vector((P, count), f"logit_{name}_{t}")
        score(logit, tops[:, i : i + 1], state, segment, g, scale, t, first, count)
        logits.append(logit)
    if with_sink:
        nisa.tensor_copy(dst=tops[:, len(tiles) : len(tiles) + 1], src=state.sink, engine=nisa.vector_engine)
    n = negated_maximum(tops, before, f"neg_max_{name}")
    sums = vector((P, len(tiles) + extra), f"row_sums_{name}")
    if with_sink:
        nisa.activation(dst=sums[:, len(tiles) : len(tiles) + 1], op=nl.exp, data=state.sink, bias=n)
    o = weigh(segment, g, tiles, logits, n, sums, name)
    total = vector((P, 1), f"sum_{name}")
    nisa.tensor_reduce(dst=total, op=nl.add, data=sums[:, 0 : len(tiles) + extra], axis=1)
    return GroupResult(n=n, sum=total, o=o)


# ---- scores ------------------------------------------------------------------------------------------------------


def score(logit, top, state, segment, g, scale, t, first, count):
    """logit := masked, scaled scores of a key tile; top := their maximum. The PSUM bank is free on return."""
    psum = nl.ndarray(
        (P, count), dtype=nl.float32, buffer=nl.psum, name=f"score_{state.row}_{segment.kind}_{g}_{t}"
    )
    nisa.nc_matmul(
        dst=psum, stationary=state.query[:, nl.ds(g * P, P)], moving=segment.keys[:, nl.ds(first, count)]
    )
    if not segment.is_masked(g, first, count):
        nisa.tensor_scalar_reduce(
            dst=logit, data=psum, op0=nl.multiply, operand0=scale, reduce_op=nl.maximum, reduce_res=top
        )
        return
    scaled = nl.ndarray((P, count), dtype=nl.float32)
    nisa.tensor_scalar(dst=scaled, data=psum, op0=nl.multiply, operand0=scale, engine=nisa.vector_engine)
    nisa.range_select(
        dst=logit, on_true_tile=scaled, comp_op0=nl.greater_equal, comp_op1=nl.less_equal,
        bound0=column(segment.lower, g), bound1=column(segment.upper, g), reduce_res=top, reduce_op=nl.maximum,
        range_start=first,
    )


def negated_maximum(tops, before, name):
    """fp32 [128, 1]: -1 * maximum of tops, at most TOP and `before`."""
    n = vector((P, 1), name)
    top = tops
    if tops.shape[1] > 1:
        top = nl.ndarray((P, 1), dtype=nl.float32)
        nisa.tensor_reduce(dst=top, op=nl.maximum, data=tops, axis=1)
    # A running n is at most TOP itself.
    limit = TOP if before == None else before
    nisa.tensor_scalar(
        dst=n, data=top, op0=nl.multiply, operand0=-1.0, op1=nl.minimum, operand1=limit, engine=nisa.vector_engine
    )
    return n


# ---- weights and values ------------------------------------------------------------------------------------------


def weigh(segment, g, tiles, logits, n, sums, name):
    """Weighted values of all large tiles; fills a column of `sums` per key tile.

    A single large tile stays in PSUM. Of several, the running total is a tile per large tile.
    """
    total = None
    low = 0
    while low < len(tiles):
        u = tiles[low][1] // LARGE_TILE
        high = low
        while high < len(tiles) and tiles[high][1] // LARGE_TILE == u:
            high = high + 1
        single = low == 0 and high == len(tiles)
        total = weigh_large_tile(segment, g, tiles, logits, low, high, n, sums, name, u, total, single)
        low = high
    return total


def weigh_large_tile(segment, g, tiles, logits, low, high, n, sums, name, u, total, single):
    """total + weighted values of large tile u, whose key tiles are low .. high - 1 of `tiles`."""
    base = u * LARGE_TILE
    d = segment.keys.shape[0]
    turned = nl.ndarray((P, LARGE_TILE // P, P), dtype=nl.bfloat16)
    for i in range(low, high):
        t, first, count = tiles[i]
        exponentiate(turned, logits[i], n, sums[:, i : i + 1], f"prob_{name}_{t}", (first - base) // P)
    psum = nl.ndarray((P, d), dtype=nl.float32, buffer=nl.psum, name=f"pv_{name}_{u}")
    pieces = segment.tiles(g, P, base, base + LARGE_TILE)
    for k in range(len(pieces)):
        v, first, count = pieces[k]
        nisa.nc_matmul(
            dst=psum, stationary=turned[0:count, v - base // P, :], moving=segment.values[0:count, v, :],
            accumulate=k > 0,
        )
    if single:
        return psum
    if total == None:
        total = nl.ndarray((P, d), dtype=nl.float32)
        nisa.tensor_copy(dst=total, src=psum, engine=nisa.vector_engine)
        return total
    part = vector((P, d), f"o_part_{name}_{u}")
    nisa.tensor_tensor(dst=part, data1=total, data2=psum, op=nl.add, engine=nisa.vector_engine)
    return part


def exponentiate(turned, logit, n, total, name, place):
    """turned [keys, value tile, queries] from value tile `place` on := weights of a key tile; total := their sum."""
    count = logit.shape[1]
    prob = nl.ndarray((P, count), dtype=nl.bfloat16, name=name)
    nisa.activation(
        dst=prob, op=nl.exp, data=logit, bias=n, reduce_op=nl.add, reduce_res=total,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )
    whole = count // P
    if whole > 0:
        nisa.dma_transpose(
            dst=turned[:, nl.ds(place, whole), :].reshape((P, 1, whole, P)),
            src=prob[:, 0 : whole * P].reshape((P, 1, whole, P)),
            axes=(3, 1, 2, 0),
        )
    rest = count - whole * P
    if rest > 0:
        nisa.dma_transpose(
            dst=turned[0:rest, nl.ds(place + whole, 1), :].reshape((rest, 1, 1, P)),
            src=prob[:, nl.ds(whole * P, rest)].reshape((P, 1, 1, rest)),
            axes=(3, 1, 2, 0),
        )
