"""Claim: the tree of an accumulation follows from sums with two masked terms, whatever shape it has.

Sums are computed here by a plain float32 evaluator of trees, not by the project's arithmetic.
"""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.probes import fprev
from conformance.probes.fprev import Tree


def evaluated(tree: Tree, row: NDArray[np.float32]) -> np.float32:
    """The sum along a tree: float32 additions; a node of several children cuts 24 bits below the largest."""
    if isinstance(tree, int):
        return np.float32(row[tree])
    parts = [evaluated(child, row) for child in tree]
    if len(parts) == 2:
        return np.float32(parts[0] + parts[1])
    top = max((int(np.frexp(part)[1]) - 1 for part in parts if part), default=0)
    return np.float32(sum(float(np.trunc(np.ldexp(float(part), 24 - top))) for part in parts) * 2.0 ** (top - 24))


def counts_of(tree: Tree, n: int) -> NDArray[Any]:
    return fprev.counts(np.array([evaluated(tree, row) for row in fprev.masked(n)]))


def random_tree(source: Random, leaves: list[int]) -> Tree:
    """Binary and fused nodes over the leaves in any order."""
    items: list[Tree] = list(leaves)
    source.shuffle(items)
    while len(items) > 1:
        count = min(len(items), source.choice((2, 2, 2, 3, 5)))
        joined = tuple(items.pop(source.randrange(len(items))) for _ in range(count))
        items.append(joined)
    return items[0]


def unordered(tree: Tree) -> Any:
    """A tree without the order of its children, which no sum shows."""
    return tree if isinstance(tree, int) else frozenset(map(unordered, tree))


@pytest.mark.parametrize("seed", range(12))
def test_any_tree_is_rebuilt_from_its_counts(seed: int) -> None:
    tree = random_tree(Random(seed), list(range(13)))
    found = fprev.rebuilt(counts_of(tree, 13), 13)
    assert found is not None
    assert unordered(found) == unordered(tree)


@pytest.mark.parametrize("name", ["chain", "chain_rev", "seg32", "tree", "lanes4", "lanes8", "fdpa24"])
@pytest.mark.parametrize("n", [13, 40])
def test_the_counts_of_a_candidate_are_those_of_its_sums(name: str, n: int) -> None:
    assert (fprev.expected_counts(name, n) == counts_of(fprev.TREES[name](n), n)).all()


@pytest.mark.parametrize("seed", range(4))
def test_sizes_of_some_pairs_are_those_of_all(seed: int) -> None:
    tree, chosen = random_tree(Random(seed), list(range(21))), fprev.some_pairs(21, 16)
    whole = fprev.common_sizes(tree, 21)
    assert fprev.sizes_of(tree, chosen).tolist() == [whole[pair] for pair in chosen]


@pytest.mark.parametrize("name", ["chain", "chain_rev", "tree", "lanes4", "lanes8"])
def test_long_rows_leave_what_their_candidate_says(name: str) -> None:
    some = tuple(fprev.some_pairs(2048, 6))
    sums = np.zeros(len(some), np.float32)
    for number, row in enumerate(fprev.masked(2048, some)):
        sums[number] = summed(name, row)
    assert (fprev.counts(sums) == fprev.expected_counts(name, 2048, some)).all()


def summed(name: str, row: NDArray[np.float32]) -> np.float32:
    """The sum of a row of a power of two in the order of a candidate, by float32 additions."""
    if name == "tree":
        while len(row) > 1:
            row = row[0::2] + row[1::2]
        return np.float32(row[0])
    lanes = int(name[5:]) if name.startswith("lanes") else 1
    parts = [np.add.accumulate(row[::-1] if name == "chain_rev" else row[lane::lanes])[-1] for lane in range(lanes)]
    return np.float32(np.add.accumulate(np.array(parts, np.float32))[-1])


def test_exact_sums_show_no_order() -> None:
    sums = fprev.masked(9).astype(np.float64).sum(axis=1)
    assert (fprev.counts(sums) == fprev.expected_counts("exact", 9)).all()
    assert "no order shows" in fprev.describe(fprev.counts(sums), 9)


def test_counts_survive_an_adder_that_rounds_towards_zero() -> None:
    def towards_zero(x: float, y: float) -> float:
        total = np.float32(x + y)
        beyond = abs(float(total)) > abs(x + y)
        return float(np.nextafter(total, np.float32(0)) if beyond else total)

    sums = []
    for row in fprev.masked(128)[::37]:
        register = 0.0
        # From the end: the negative mask comes first, and every one takes something off it.
        for x in row[::-1]:
            register = towards_zero(register, float(x))
        sums.append(register)
    assert max(sums) > 128  # the masks did leave something behind
    assert (fprev.counts(np.array(sums)) == fprev.expected_counts("chain_rev", 128)[::37]).all()


def test_counts_of_no_tree_are_called_that() -> None:
    counts = fprev.expected_counts("chain", 8).copy()
    counts[5] += 1
    assert fprev.rebuilt(counts, 8) is None
    assert fprev.describe(counts, 8) == "the counts belong to no tree of additions"


def test_a_count_that_is_no_number_belongs_to_no_tree() -> None:
    counts = fprev.expected_counts("chain", 8).copy()
    counts[0] = np.nan
    assert fprev.rebuilt(counts, 8) is None


TEXTS = {
    "chain": "chain(0, 1 .. 127)",
    "chain_rev": "chain(127, 126 .. 0)",
    "seg32": "chain(chain(0, 1 .. 31), chain(32, 33 .. 63), chain(64, 65 .. 95), chain(96, 97 .. 127))",
    "tree": "balanced(0, 1 .. 127)",
    "lanes4": "chain(chain(0, 4 .. 124), chain(1, 5 .. 125), chain(2, 6 .. 126), chain(3, 7 .. 127))",
    "fdpa24": "fused(0, 1 .. 127): one adder of 128 terms, cut below the largest",
}


@pytest.mark.parametrize("name", list(TEXTS))
def test_a_recovered_order_reads_as_its_name(name: str) -> None:
    assert fprev.describe(fprev.expected_counts(name, 128), 128) == TEXTS[name]


def test_fused_groups_read_as_such() -> None:
    groups: Tree = fprev.chain([tuple(range(i, i + 4)) for i in range(0, 16, 4)])
    text = fprev.describe(counts_of(groups, 16), 16)
    assert text == "chain(fused(0, 1, 2, 3), fused(4, 5, 6, 7), fused(8, 9, 10, 11), fused(12, 13, 14, 15))"
