"""The order of an accumulation, recovered from sums with two masked terms.

One term is +M, another -M, all others 1, M so large that it swallows every 1 it meets. What is left of the ones
when the masks have met tells how many leaves lie under their lowest common ancestor: n - result. From these sizes
for all pairs the whole tree follows, nodes of several children (fused adders) included. After FPRev (Xie et al.,
USENIX ATC 2025, arXiv 2411.00442).

M = 2^40 leaves what directed rounding takes off the masks in multiples of 2^16, so that a count of up to 128 is read
modulo 2^16 whatever way the adder rounds, and a register of up to 31 bits still swallows the ones. In float32 the
masks swallow partial sums of up to 2^15 ones, so rows may be that long.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tree = int | tuple["Tree", ...]
Array = NDArray[Any]

MASK = 2.0**40
_LEFTOVER = 2**16
#: Leaves of a chain or a run that are written out before it is shortened.
_WRITTEN = 4


def pairs(n: int) -> list[tuple[int, int]]:
    """All pairs i < j of n leaves, in the order of the rows of `masked`."""
    return list(itertools.combinations(range(n), 2))


def some_pairs(n: int, count: int) -> list[tuple[int, int]]:
    """Pairs spread over a row too long for all of them: neighbours, and the first element with others."""
    places = [1 + i * (n - 2) // (count // 2 - 1) for i in range(count // 2)]
    return [(0, j) for j in places] + [(j - 1, j) for j in places]


def masked(n: int, of: Sequence[tuple[int, int]] = ()) -> Array:
    """One row per pair, of all of them by default: float32 [pairs, n], +M at i, -M at j, 1 elsewhere."""
    chosen = np.array(of or pairs(n))
    rows = np.ones((len(chosen), n), np.float32)
    rows[np.arange(len(chosen)), chosen[:, 0]] = MASK
    rows[np.arange(len(chosen)), chosen[:, 1]] = -MASK
    return rows


def counts(sums: Array) -> Array:
    """The ones that survived, per row, with what directed rounding left of the masks taken off."""
    values = np.asarray(sums, np.float64).reshape(-1)
    finite = np.where(np.isfinite(values), values, 0.5)
    return np.where(np.isfinite(values), np.mod(finite, _LEFTOVER), values)


# --- trees --------------------------------------------------------------------------------------------------


def chain(items: Sequence[Tree]) -> Tree:
    """((x0 + x1) + x2) + ..."""
    total = items[0]
    for item in items[1:]:
        total = (total, item)
    return total


def balanced(items: Sequence[Tree]) -> Tree:
    """Neighbours in pairs, pairs of pairs; an odd one out moves up."""
    level = list(items)
    while len(level) > 1:
        paired = [(x, y) for x, y in zip(level[0::2], level[1::2], strict=False)]
        level = [*paired, *level[len(level) // 2 * 2 :]]
    return level[0]


def _strided(n: int, count: int) -> Tree:
    return chain([chain(range(i, n, count)) for i in range(min(count, n))])


#: Candidate -> n -> its tree. 'exact' has none: nothing is swallowed.
TREES: Mapping[str, Callable[[int], Tree]] = {
    "chain": lambda n: chain(range(n)),
    "chain_rev": lambda n: chain(range(n)[::-1]),
    "seg32": lambda n: chain([chain(range(i, min(i + 32, n))) for i in range(0, n, 32)]),
    "tree": lambda n: balanced(range(n)),
    "lanes4": lambda n: _strided(n, 4),
    "lanes8": lambda n: _strided(n, 8),
    "fdpa24": lambda n: tuple(range(n)),
    "fdpa28": lambda n: tuple(range(n)),
}


def leaves(tree: Tree) -> list[int]:
    """The leaves of a tree, from left to right."""
    # Chains are deeper than Python likes to recurse.
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, int):
            found.append(node)
        else:
            waiting.extend(reversed(node))
    return found


@cache
def expected_counts(order: str, n: int, of: tuple[tuple[int, int], ...] = ()) -> Array:
    """What `counts` gives for a candidate of U1 or V2, from its tree alone; for all pairs by default."""
    if order == "exact":
        return np.full(len(of or pairs(n)), n - 2.0)
    tree = TREES[order](n)
    if of:
        return n - sizes_of(tree, of)
    chosen = np.array(pairs(n))
    return np.asarray(n - common_sizes(tree, n)[chosen[:, 0], chosen[:, 1]])


def sizes_of(tree: Tree, of: Sequence[tuple[int, int]]) -> Array:
    """`common_sizes` of some pairs, for trees of so many leaves that all of them are too many."""
    parents: list[int] = []
    places: dict[int, int] = {}
    waiting = [(tree, -1)]
    while waiting:
        node, parent = waiting.pop()
        if isinstance(node, int):
            places[node] = len(parents)
        else:
            waiting.extend((child, len(parents)) for child in node)
        parents.append(parent)
    under = _leaves_under(parents, set(places.values()))
    return np.array([under[_meeting(parents, places[i], places[j])] for i, j in of], np.float64)


def _leaves_under(parents: list[int], found: set[int]) -> list[int]:
    under = [int(place in found) for place in range(len(parents))]
    # A node stands before its children.
    for place in range(len(parents) - 1, 0, -1):
        under[parents[place]] += under[place]
    return under


def _meeting(parents: list[int], one: int, other: int) -> int:
    while one != other:
        one, other = (parents[one], other) if one > other else (one, parents[other])
    return one


def common_sizes(tree: Tree, n: int) -> Array:
    """[n, n]: leaves under the lowest common ancestor of each pair; 1 on the diagonal."""
    sizes = np.ones((n, n))
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, int):
            continue
        parts = [leaves(child) for child in node]
        whole = sum(map(len, parts))
        for one, other in itertools.permutations(parts, 2):
            sizes[np.ix_(one, other)] = whole
        waiting.extend(node)
    return sizes


# --- back from counts ---------------------------------------------------------------------------------------


def rebuilt(found: Array, n: int) -> Tree | None:
    """The tree whose pairs leave these counts, None where no tree does."""
    sizes = np.ones((n, n))
    sizes[np.triu_indices(n, 1)] = n - found
    sizes = np.maximum(sizes, sizes.T)
    if not np.isfinite(found).all() or (found != np.round(found)).any():
        return None
    tree = _grown(list(range(n)), sizes)
    return tree if tree is not None and (common_sizes(tree, n) == sizes).all() else None


def _grown(members: list[int], sizes: Array) -> Tree | None:
    """The subtree over `members`, grown around the first of them: what joins it, the nearest first."""
    anchor, others = members[0], np.array(members[1:], int)
    node: Tree = anchor
    for size in np.unique(sizes[anchor, others]):
        group = [int(j) for j in others[sizes[anchor, others] == size]]
        children = [_grown(part, sizes) for part in _classes(group, size, sizes)]
        if any(child is None for child in children):
            return None
        node = (node, *(child for child in children if child is not None))
    return node


def _classes(group: list[int], size: float, sizes: Array) -> Iterator[list[int]]:
    """Members that meet each other before they meet the anchor belong to one child."""
    while group:
        first = group[0]
        near = [j for j in group if j == first or sizes[first, j] < size]
        yield near
        group = [j for j in group if j not in near]


def describe(found: Array, n: int) -> str:
    """The accumulation that left these counts, as text."""
    if (found == n - 2).all():
        return f"no order shows: every sum of {n} terms is exact (or its adder is wider than the masks)"
    if (found == 0).all():
        return f"fused({_run(list(range(n)))}): one adder of {n} terms, cut below the largest"
    tree = rebuilt(found, n)
    return "the counts belong to no tree of additions" if tree is None else text(tree)


def text(tree: Tree) -> str:
    """A tree in words: chain(...), balanced(...), fused(...), with runs of leaves shortened."""
    if isinstance(tree, int):
        return str(tree)
    if len(tree) > 2:
        return f"fused({_listed(tree)})"
    under = leaves(tree)
    if len(under) > 2 and tree == balanced(under):
        return f"balanced({_run(under)})"
    return f"chain({_listed(_links(tree))})"


def _links(tree: Tree) -> list[Tree]:
    """What a chain adds, one after the other. The deeper child is where the chain goes on."""
    links: list[Tree] = []
    while isinstance(tree, tuple) and len(tree) == 2:
        deep, link = sorted(tree, key=lambda child: -len(leaves(child)))
        links.append(link)
        tree = deep
        if len(leaves(deep)) == len(leaves(link)):
            break
    first_two = [tree, *links[-1:]]
    # Which of the first two came first does not show; the one nearer to the third reads better behind.
    if len(links) > 1 and all(isinstance(item, int) for item in (*first_two, links[-2])):
        first_two.sort(key=lambda leaf: -abs(leaf - links[-2]))  # type: ignore[operator]
    return [*first_two, *links[:-1][::-1]]


def _listed(items: Sequence[Tree]) -> str:
    if all(isinstance(item, int) for item in items):
        return _run([item for item in items if isinstance(item, int)])
    return ", ".join(text(item) for item in items)


def _run(numbers: list[int]) -> str:
    """'0, 1, 2' or '0, 1 .. 127' where the steps are even."""
    steps = {y - x for x, y in itertools.pairwise(numbers)}
    if len(numbers) <= _WRITTEN or len(steps) > 1:
        return ", ".join(map(str, numbers))
    return f"{numbers[0]}, {numbers[1]} .. {numbers[-1]}"
