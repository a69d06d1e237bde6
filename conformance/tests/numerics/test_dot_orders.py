"""Every candidate order of the PE array does what its row says: recovered trees, probe vectors, plain loops.

The trees are recovered as FPRev does it (arXiv 2411.00442): leaf i is +M, leaf j is -M, all others are a unit
u that M swallows; what survives, in units, are the leaves that join after the two have met. The probe vectors
are those of the fact sheet, section 11, where each candidate has its own answer.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance.tests.numerics.fractions_reference import bits
from reference.numerics.chain import chain_dot, compiled_loop
from reference.numerics.dot import accumulate, double_row_pass, matmul_pass, matmul_passes, psum_add
from reference.numerics.exact_dot import exact_dot
from reference.numerics.profile import CHAIN, DEFAULT, PARTS, NumericsProfile

Array = NDArray[Any]
BF16 = np.dtype(ml_dtypes.bfloat16)
E5M2 = np.dtype(ml_dtypes.float8_e5m2)
E4M3 = np.dtype(ml_dtypes.float8_e4m3)
F32 = np.dtype(np.float32)

#: A summation tree: a leaf index, or nodes; more than two children meet in one fused step.
Tree = Any


# --- recovered trees --------------------------------------------------------------------------------------


def survivors(tree: Tree, i: int, j: int) -> int:
    """Units left over when leaf i is +M, leaf j is -M and M swallows units: leaves outside what meets."""

    def walk(node: Tree) -> tuple[int, bool, bool]:
        """(units, +M alive, -M alive) of a subtree."""
        if isinstance(node, int):
            return (0, True, False) if node == i else (0, False, True) if node == j else (1, False, False)
        parts = [walk(child) for child in node]
        units, plus, minus = sum(p[0] for p in parts), any(p[1] for p in parts), any(p[2] for p in parts)
        if plus and minus:
            return units, False, False
        return (0 if plus or minus else units), plus, minus

    return walk(tree)[0]


def chain_tree(leaves: list[Tree]) -> Tree:
    tree = leaves[0]
    for leaf in leaves[1:]:
        tree = (tree, leaf)
    return tree


def pairs_tree(leaves: list[Tree]) -> Tree:
    while len(leaves) > 1:
        paired = [tuple(leaves[k : k + 2]) for k in range(0, len(leaves) - 1, 2)]
        leaves = paired + leaves[2 * len(paired) :]
    return leaves[0]


TREES: dict[str, Callable[[int], Tree]] = {
    "exact": lambda n: tuple(range(n)),
    "chain": lambda n: chain_tree(list(range(n))),
    "chain_rev": lambda n: chain_tree(list(range(n))[::-1]),
    "seg32": lambda n: chain_tree([chain_tree(list(range(s, min(s + 32, n)))) for s in range(0, n, 32)]),
    "tree": lambda n: pairs_tree(list(range(n))),
}


def masked(count: int, large: float, dtype: np.dtype[Any]) -> tuple[Array, list[tuple[int, int]]]:
    """Columns of ones with +M at row i and -M at row j, one column for each ordered pair."""
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    columns = np.ones((count, len(pairs)), np.float32)
    for n, (i, j) in enumerate(pairs):
        columns[i, n], columns[j, n] = large, -large
    return columns.astype(dtype), pairs


@pytest.mark.parametrize("count", [5, 37, 128])
@pytest.mark.parametrize("order", list(TREES))
def test_recovered_tree_is_the_documented_one(order: str, count: int):
    columns, pairs = masked(count, 2.0**40, BF16)
    ones = np.ones((count, 1), BF16)
    got = matmul_pass(ones, columns, DEFAULT.replace(matmul_order=order))[0]
    tree = TREES[order](count)
    # At 128 leaves every 7th pair; the others see every pair.
    for n in range(0, len(pairs), 7 if count == 128 else 1):
        assert got[n] == survivors(tree, *pairs[n]), pairs[n]


def test_trees_of_all_orders_differ():
    seen = {tuple(survivors(tree(40), i, j) for i in range(40) for j in range(i)) for tree in TREES.values()}
    assert len(seen) == len(TREES)


def test_chain_of_the_fact_sheet():
    """Chain 0 -> 127: what is left is K - 1 - max(i, j)."""
    columns, pairs = masked(128, 2.0**40, BF16)
    got = matmul_pass(np.ones((128, 1), BF16), columns, CHAIN)[0]
    assert got.tolist() == [127 - max(pair) for pair in pairs]


@pytest.mark.parametrize(("order", "keeps"), [("fdpa24", 24), ("fdpa28", 28)])
def test_fused_adder_keeps_its_fraction_bits(order: str, keeps: int):
    profile = DEFAULT.replace(matmul_order=order)
    for distance in range(keeps - 3, keeps + 4):
        a = np.array([[1.0], [1.0], [-1.0], [1.0]], np.float32).astype(BF16)
        b = np.ldexp([[1.0], [0.0], [1.0], [1.0]], [[0], [0], [0], [-distance]]).astype(np.float32).astype(BF16)
        expected = 2.0**-distance if distance <= keeps else 0.0
        assert matmul_pass(a, b, profile)[0, 0] == expected, distance


def test_fused_adder_cuts_towards_zero_below_the_largest_exponent():
    profile = DEFAULT.replace(matmul_order="fdpa24")
    x = 3 * 2.0**-25
    a = np.array([[1.0, 1.0], [x, -x]], np.float32)
    b = np.array([[1.0], [1.0]], np.float32)
    # Cut to 2^-24: above 1 that is a tie and goes to even; below 1 it leaves a float32.
    assert matmul_pass(a, b, profile)[:, 0].tolist() == [1.0, 1 - 2.0**-24]
    # Uncut it is past the tie above 1, and itself a tie below.
    assert matmul_pass(a, b)[:, 0].tolist() == [1 + 2.0**-23, 1 - 2.0**-23]


def test_fused_adder_aligns_to_operand_exponents():
    """1.5 * 1.5 = 2.25 has operand exponents 0 + 0: the cut is at 2^-24, not at 2^-23."""
    profile = DEFAULT.replace(matmul_order="fdpa24")
    a = np.array([[1.5], [-1.5], [1.0]], np.float32)
    b = np.array([[1.5], [1.5], [2.0**-24]], np.float32)
    assert matmul_pass(a, b, profile)[0, 0] == 2.0**-24


# --- double row (U7) --------------------------------------------------------------------------------------

PES = 16


def _fused_chain(pes: int) -> Tree:
    tree: Tree = (0, 1)
    for p in range(1, pes):
        tree = (tree, 2 * p, 2 * p + 1)
    return tree


#: Leaf 2 p + s is slot s of PE p.
DOUBLE_ROW_TREES: dict[str, Tree] = {
    "exact_pair": _fused_chain(PES),
    "rounded_pair": chain_tree([(2 * p, 2 * p + 1) for p in range(PES)]),
    "two_steps": chain_tree(list(range(2 * PES))),
    "halves": chain_tree([*range(0, 2 * PES, 2), *range(1, 2 * PES, 2)]),
}


@pytest.mark.parametrize("pair", list(DOUBLE_ROW_TREES))
def test_double_row_chain_pairs_as_documented(pair: str):
    # e5m2: M = 2^15 * 2^15, u = 2^-2 * 2^-2, so that M swallows 32 units in float32.
    columns, pairs = masked(2 * PES, 2.0**34, F32)
    stationary, moving = np.where(np.abs(columns) > 1, 2.0**15, 0.25), np.sign(columns)
    moving = moving * np.where(np.abs(columns) > 1, 2.0**15, 0.25)
    assert set(np.unique(np.abs(stationary * moving))) == {2.0**-4, 2.0**30}
    # Each pair of masks has its own stationary column: take the matching output only.
    a, b = (x.astype(np.float32).astype(E5M2).reshape(PES, 2, -1) for x in (stationary, moving))
    profile = CHAIN.replace(double_row_pair=pair)
    for n in range(0, len(pairs), 3):
        got = double_row_pass(a[..., n : n + 1], b[..., n : n + 1], profile)[0, 0] * 16
        assert got == survivors(DOUBLE_ROW_TREES[pair], *pairs[n]), pairs[n]


def test_double_row_trees_differ():
    size = 2 * PES
    seen = {tuple(survivors(t, i, j) for i in range(size) for j in range(i)) for t in DOUBLE_ROW_TREES.values()}
    assert len(seen) == len(DOUBLE_ROW_TREES)


def random_fp8(seed: int, *shape: int) -> Array:
    values = np.random.default_rng(seed).standard_normal(shape) * 8
    return values.astype(np.float32).astype(E4M3)


def test_double_row_by_default_is_the_exact_sum_of_all_products():
    a, b = random_fp8(1, 3, 24, 2, 5), random_fp8(2, 3, 24, 2, 7)
    got = double_row_pass(a, b)
    assert bits(got) == bits(exact_dot(a.reshape(3, 48, 5), b.reshape(3, 48, 7)))
    for pair in ("two_steps", "halves"):
        assert bits(double_row_pass(a, b, DEFAULT.replace(double_row_pair=pair))) == bits(got)


def test_rounded_pair_differs_from_the_exact_pair_where_it_must():
    # 2^30 + 2^-4 needs 35 bits: rounded, the pair loses the small product.
    a = np.array([2.0**15, 0.25, 2.0**15, 0.0], np.float32).astype(E5M2).reshape(2, 2, 1)
    b = np.array([2.0**15, 0.25, -(2.0**15), 0.0], np.float32).astype(E5M2).reshape(2, 2, 1)
    answers = {pair: float(double_row_pass(a, b, DEFAULT.replace(double_row_pair=pair))[0, 0]) for pair in PAIRS}
    assert answers == {"exact_pair": 2.0**-4, "rounded_pair": 0.0, "two_steps": 2.0**-4, "halves": 2.0**-4}


PAIRS = list(PARTS["double_row_pair"].candidates)


def test_double_row_refuses_what_has_no_pairs():
    with pytest.raises(ValueError, match=r"\(4, 3\)"):
        double_row_pass(np.ones((4, 3), E4M3), np.ones((4, 3), E4M3))


# --- probes of the fact sheet, section 11.1 ---------------------------------------------------------------


def one_sum(x: list[float], y: list[float], profile: NumericsProfile, dtype: np.dtype[Any] = F32, **more: Any) -> float:
    a, b = (np.array(values, np.float32).astype(dtype)[:, None] for values in (x, y))
    return float(matmul_pass(a, b, profile, **more)[0, 0])


def test_probe_u2_width():
    for order in ("chain", "chain_rev", "tree", "seg32"):
        for rounding, width in (("rne", 24), ("wide28", 28)):
            profile = DEFAULT.replace(matmul_order=order, acc_round=rounding)
            for w in range(20, 32):
                # All placements, since the probe does not know the order; 1 - 2^24 would be exact.
                rows = permutations([2.0**w, 1.0, -(2.0**w)])
                got = min(one_sum(list(row), [1.0, 1.0, 1.0], profile, BF16) for row in rows)
                assert got == (1.0 if w < width else 0.0), (order, rounding, w)


@pytest.mark.parametrize("order", ["exact", "chain", "tree", "fdpa24"])
def test_probe_u2_rounding(order: str):
    profile = DEFAULT.replace(matmul_order=order)
    assert one_sum([2.0**24, 3.0], [1.0, 1.0], profile, BF16) == 16777220
    zero = profile.replace(acc_round="rz")
    assert one_sum([2.0**24, 3.0], [1.0, 1.0], zero, BF16) == 16777218
    assert one_sum([-(2.0**24), -3.0], [1.0, 1.0], zero, BF16) == -16777218


def test_probe_u2_chain_against_wide_and_fused():
    rows, ones = [2.0**24, 1.0, 1.0], [1.0, 1.0, 1.0]
    assert one_sum(rows, ones, CHAIN, BF16) == 2.0**24
    for profile in (DEFAULT, CHAIN.replace(acc_round="wide28"), DEFAULT.replace(matmul_order="fdpa24")):
        assert one_sum(rows, ones, profile, BF16) == 2.0**24 + 2


def test_probe_u3_where_psum_enters():
    acc = np.full((1, 1), 2.0**24, np.float32)
    ones = np.ones((128, 1), BF16)
    assert accumulate(acc, ones, ones, CHAIN)[0, 0] == 2.0**24 + 128
    assert accumulate(acc, ones, ones, CHAIN.replace(psum_entry="seeds_chain"))[0, 0] == 2.0**24
    three = np.full((1, 1), 3.0, np.float32).astype(BF16)
    assert accumulate(acc, three, ones[:1])[0, 0] == 16777220
    assert accumulate(acc, three, ones[:1], DEFAULT.replace(psum_add_round="rz"))[0, 0] == 16777218


@pytest.mark.parametrize("order", list(PARTS["matmul_order"].candidates))
def test_seeded_sum_of_integers_is_exact_in_every_order(order: str):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, (70, n)).astype(np.float32) for n in (5, 6))
    acc = rng.integers(-100, 100, (5, 6)).astype(np.float32)
    for entry in ("after_array", "seeds_chain"):
        profile = DEFAULT.replace(matmul_order=order, psum_entry=entry)
        assert accumulate(acc, a.astype(BF16), b.astype(BF16), profile).tolist() == (acc + a.T @ b).tolist()


E = 1 + 2.0**-12
U4_PROBES = {
    # candidate: (bits kept of x, lo.lo kept)
    "exact_products": (2.0**-9 + 2.0**-18, 2.0**-24),
    "split_12_12": (2.0**-9 + 2.0**-18, 2.0**-24),
    "split_11_13": (2.0**-9 + 2.0**-18, 2.0**-24),
    "split_bf16": (2.0**-9, 2.0**-24),
    "split_bf16_3": (2.0**-9, 0.0),
}


@pytest.mark.parametrize("split", list(U4_PROBES))
def test_probe_u4_split_and_lo_lo(split: str):
    profile = DEFAULT.replace(fp32_matmul=split)
    # A split needs the third bit group of 1 + 2^-9 + 2^-18 to be kept; bf16 + bf16 keeps 1 + 2^-9 here.
    x = 1 + 2.0**-9 + 2.0**-18
    kept, lo_lo = U4_PROBES[split]
    assert one_sum([x, -1.0], [1.0, 1.0], profile) == kept
    assert one_sum([E, -(1 + 2.0**-11)], [E, 1.0], profile) == lo_lo


def test_split_passes_of_halves_with_24_bits_give_nearly_the_exact_sum():
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((64, n)).astype(np.float32) for n in (8, 9))
    exact = matmul_pass(a, b)
    for split, ulps in (("split_12_12", 8), ("split_11_13", 8), ("split_bf16", 2**9)):
        got = matmul_pass(a, b, DEFAULT.replace(fp32_matmul=split))
        assert np.abs(got - exact).max() <= ulps * 2.0**-24 * np.abs(exact).max()
        assert bits(got) != bits(exact)


def test_split_keeps_infinity_and_nan():
    a = np.array([[np.inf, np.nan, 1.0]], np.float32)
    b = np.array([[1.5 + 2.0**-20]], np.float32)
    for split in ("split_12_12", "split_11_13", "split_bf16"):
        got = matmul_pass(a, b, DEFAULT.replace(fp32_matmul=split))[:, 0]
        assert got[0] == np.inf
        assert np.isnan(got[1])
        assert np.isfinite(got[2])


@pytest.mark.parametrize(
    ("rule", "third", "tie"), [("rne", 2.0**-9, 0.0), ("rz", 2.0**-10, 0.0), ("none", 3 * 2.0**-11, 2.0**-11)]
)
def test_probe_u5_tf32_operands(rule: str, third: float, tie: float):
    profile = DEFAULT.replace(tf32_operand=rule)
    formats = {"a_format": "tfloat32", "b_format": "tfloat32"}
    assert one_sum([1 + 3 * 2.0**-11, -1.0], [1.0, 1.0], profile, **formats) == third
    assert one_sum([1 + 2.0**-11, -1.0], [1.0, 1.0], profile, **formats) == tie


SUBNORMAL_PROBES = [
    (np.dtype(np.float16), 2.0**-24, 1.0),
    (E4M3, 2.0**-9, 1.0),
    (E5M2, 2.0**-16, 1.0),
    (BF16, 2.0**-130, 2.0**10),
    (F32, 2.0**-130, 2.0**10),
]


@pytest.mark.parametrize(("dtype", "x", "y"), SUBNORMAL_PROBES)
def test_probe_u6_subnormal_operands(dtype: np.dtype[Any], x: float, y: float):
    assert one_sum([x], [y], DEFAULT, dtype) == x * y
    for rule, expected in (("daz", 0.0), ("daz_ftz", 0.0), ("ftz", x * y)):
        assert one_sum([x], [y], DEFAULT.replace(subnormals=rule), dtype) == expected
    assert np.signbit(matmul_pass(*signed_zero_probe(dtype, x), DEFAULT.replace(subnormals="daz"))[0, 0]) == 0


def signed_zero_probe(dtype: np.dtype[Any], x: float) -> tuple[Array, Array]:
    return np.full((1, 1), -x, np.float32).astype(dtype), np.ones((1, 1), dtype)


def test_probe_u6_subnormal_results():
    assert one_sum([2.0**-70], [2.0**-70], DEFAULT) == 2.0**-140
    sums = [1.0, -1.5]
    assert one_sum(sums, [2.0**-126, 2.0**-126], DEFAULT) == -(2.0**-127)
    for rule in ("ftz", "daz_ftz"):
        assert one_sum([2.0**-70], [2.0**-70], DEFAULT.replace(subnormals=rule)) == 0.0
        assert one_sum(sums, [2.0**-126, 2.0**-126], DEFAULT.replace(subnormals=rule)) == 0.0
    acc = np.full((1, 1), 2.0**-126, np.float32)
    assert psum_add(acc, -1.5 * acc)[0, 0] == -(2.0**-127)
    assert psum_add(acc, -1.5 * acc, DEFAULT.replace(subnormals="ftz"))[0, 0] == 0.0


@pytest.mark.parametrize("order", list(PARTS["matmul_order"].candidates))
def test_probe_u12_product_rounding(order: str):
    x = 1 + 2.0**-7
    exact, rounded = (
        DEFAULT.replace(matmul_order=order),
        DEFAULT.replace(matmul_order=order, product_round="bf16"),
    )
    assert one_sum([x], [x], exact, BF16) == 1 + 2.0**-6 + 2.0**-14
    assert one_sum([x], [x], rounded, BF16) == 1 + 2.0**-6
    rows = [x, -(1 + 2.0**-6)]
    assert one_sum(rows, [x, 1.0], exact, BF16) == 2.0**-14
    assert one_sum(rows, [x, 1.0], rounded, BF16) == 0.0


# --- plain loops ------------------------------------------------------------------------------------------


def loop_sum(a: Array, b: Array, order: list[int], start: np.float32) -> np.float32:
    total = start
    for k in order:
        total = np.float32(total + np.float32(a[k] * b[k]))
    return total


def random_float32(rng: np.random.Generator, *shape: int) -> Array:
    return (rng.standard_normal(shape) * 2.0 ** rng.integers(-8, 9, shape)).astype(np.float32)


def test_chain_dot_is_the_scalar_loop():
    rng = np.random.default_rng(0)
    a, b = random_float32(rng, 50, 3), random_float32(rng, 50, 4)
    start = random_float32(rng, 3, 4)
    for fast in (False, True):
        got = chain_dot(a, b, start=start, fast=fast)
        for m in range(3):
            for n in range(4):
                assert got[m, n] == loop_sum(a[:, m], b[:, n], list(range(50)), start[m, n])


def test_compiled_chain_has_the_bits_of_the_numpy_chain():
    if compiled_loop() is None:
        pytest.skip("numba is not installed: the NumPy chain is the only one")
    rng = np.random.default_rng(1)
    for dtype in (F32, BF16, E4M3):
        a, b = (random_float32(rng, 2, 128, n).astype(dtype) for n in (33, 70))
        assert bits(chain_dot(a, b, fast=True)) == bits(chain_dot(a, b, fast=False))
    a = np.array([[np.inf], [1.0], [np.nan], [-0.0]], np.float32)
    for k in range(4):
        assert bits(chain_dot(a[: k + 1], a[: k + 1])) == bits(chain_dot(a[: k + 1], a[: k + 1], fast=False))


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=9), FINITE)
def test_chain_orders_on_any_float32(rows: list[tuple[float, float]], start: float):
    a, b = (np.array(side, np.float32)[:, None] for side in zip(*rows, strict=True))
    seed = np.full((1, 1), start, np.float32)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        forward = loop_sum(a[:, 0], b[:, 0], list(range(len(rows))), seed[0, 0])
        backward = loop_sum(a[:, 0], b[:, 0], list(range(len(rows)))[::-1], seed[0, 0])
    seeds = CHAIN.replace(psum_entry="seeds_chain")
    assert bits(matmul_pass(a, b, seeds, acc=seed)) == bits(forward)
    assert bits(matmul_pass(a, b, seeds.replace(matmul_order="chain_rev"), acc=seed)) == bits(backward)


@pytest.mark.parametrize("order", list(PARTS["matmul_order"].candidates))
@pytest.mark.parametrize("acc_round", list(PARTS["acc_round"].candidates))
def test_nan_and_infinity_are_ieee_in_every_order(order: str, acc_round: str):
    profile = DEFAULT.replace(matmul_order=order, acc_round=acc_round)
    a = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 0.0]], np.float32)
    b = np.array([[np.inf, np.nan, np.inf, 1.0], [1.0, 1.0, -np.inf, np.inf]], np.float32)
    got = matmul_pass(a[:, :1], b, profile)[0]
    assert got[0] == np.inf
    assert np.isnan(got[1:3]).all()
    assert got[3] == np.inf
    assert np.isnan(matmul_pass(a[:, 3:], b, profile)[0, 3])


@pytest.mark.parametrize("order", ["chain", "tree", "seg32", "fdpa24"])
def test_blocks_and_batches_do_not_change_bits(monkeypatch: pytest.MonkeyPatch, order: str):
    from reference.numerics import dot_orders

    rng = np.random.default_rng(2)
    a, b = random_float32(rng, 2, 1, 40, 5), random_float32(rng, 3, 40, 7)
    profile = DEFAULT.replace(matmul_order=order)
    whole = matmul_pass(a, b, profile)
    assert whole.shape == (2, 3, 5, 7)
    for i in range(2):
        for j in range(3):
            assert bits(whole[i, j]) == bits(matmul_pass(a[i, 0], b[j], profile))
    monkeypatch.setattr(dot_orders, "_BLOCK", 11)
    assert bits(matmul_pass(a, b, profile)) == bits(whole)


@pytest.mark.parametrize(
    "profile",
    [DEFAULT, CHAIN, DEFAULT.replace(psum_entry="seeds_chain"), DEFAULT.replace(psum_add_round="rz")],
)
def test_passes_equal_accumulating_instructions(profile: NumericsProfile):
    rng = np.random.default_rng(4)
    a, b = random_float32(rng, 4, 32, 5).astype(BF16), random_float32(rng, 4, 32, 6).astype(BF16)
    expected = matmul_pass(a[0], b[0], profile)
    for g in range(1, 4):
        expected = accumulate(expected, a[g], b[g], profile)
    assert bits(matmul_passes(a, b, profile)) == bits(expected)
    room = np.empty((5, 6), np.float32)
    assert matmul_passes(a, b, profile, out=room) is room
    assert bits(room) == bits(expected)


def test_default_after_array_rounds_twice_and_seeding_once():
    """2^24 + (1 + 2^-30): rounded to 1 first, the addition is a tie; seeded it is one rounding, upwards."""
    acc = np.full((1, 1), 2.0**24, np.float32)
    rows = [1.0, 2.0**-30]
    a, b = (np.array(side, np.float32)[:, None] for side in (rows, [1.0, 1.0]))
    assert accumulate(acc, a, b)[0, 0] == 2.0**24
    assert accumulate(acc, a, b, DEFAULT.replace(psum_entry="seeds_chain"))[0, 0] == 2.0**24 + 2
