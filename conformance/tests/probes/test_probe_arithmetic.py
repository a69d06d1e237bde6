"""Claim: the host arithmetic behind the tables of probes is right, by numbers worked out by hand and by NumPy."""

from __future__ import annotations

import math
from random import Random

import ml_dtypes
import numpy as np
import pytest

from conformance.probes import functions, host
from conformance.probes.host_array import Block, array_sum, double_row_sum, instruction, mx_sum, wide_instruction

#: One answer to everything the array asks.
PLAIN = {
    "matmul_order": "chain",
    "acc_round": "rne",
    "product_round": "exact",
    "psum_entry": "after_array",
    "psum_add_round": "rne",
    "fp32_matmul": "exact_products",
    "double_row_pair": "exact_pair",
    "mx_dot": "dequant_exact",
    "mx_scale_overflow": "ieee",
    "mx_scale_ff": "nan",
}


def ones(*values: float) -> list[tuple[float, float]]:
    return [(value, 1.0) for value in values]


def test_rounding_is_that_of_numpy_and_ml_dtypes() -> None:
    source = Random(1)
    values = [source.uniform(-2, 2) * 2.0 ** source.randint(-149, 120) for _ in range(4000)]
    values += [1 + 2.0**-24, 1 + 3 * 2.0**-24, 2.0**-149 * 1.5, 2.0**-150, -(2.0**-150) * 1.1]
    assert [host.float32(x) for x in values] == [float(np.float32(x)) for x in values]
    singles = [float(np.float32(x)) for x in values]
    assert [host.bfloat16(x) for x in singles] == [float(np.float32(x).astype(ml_dtypes.bfloat16)) for x in singles]


@pytest.mark.parametrize(
    ("mode", "positive", "negative"),
    [("rne", 16777220, -16777220), ("rz", 16777218, -16777218), ("floor", 16777218, -16777220)],
)
def test_each_rounding_of_2_to_the_24_plus_3(mode: str, positive: int, negative: int) -> None:
    n = host.whole(2.0**24 + 3)
    assert host.number(host.rounded(n, 24, mode)) == positive
    assert host.number(host.rounded(-n, 24, mode)) == negative


def test_overflow_is_infinity_or_the_largest_number() -> None:
    n = host.whole(3.5e38)
    assert host.as_float32(-n) == -math.inf
    assert host.number(host.as_float32(n, "rz")) == float(np.finfo(np.float32).max)


@pytest.mark.parametrize("order", ["chain", "lanes4", "lanes8"])
def test_orders_are_those_of_float32_loops(order: str) -> None:
    source = Random(2)
    values = [float(np.float32(source.uniform(-1, 1) * 2.0 ** source.randint(-9, 9))) for _ in range(37)]
    count = {"chain": 1, "lanes4": 4, "lanes8": 8}[order]
    registers = [np.float32(0)] * count
    for i, x in enumerate(values):
        registers[i % count] = np.float32(registers[i % count] + np.float32(x))
    total = registers[0]
    for register in registers[1:]:
        total = np.float32(total + register)
    assert host.float32_sum(values, order) == float(total)


SUMS = {
    "a chain loses ones beside 2^24": (ones(2.0**24, 1.0, 1.0), {}, 2.0**24),
    "a reversed chain keeps them": (ones(2.0**24, 1.0, 1.0), {"matmul_order": "chain_rev"}, 2.0**24 + 2),
    "28 bits keep them": (ones(2.0**24, 1.0, 1.0), {"acc_round": "wide28"}, 2.0**24 + 2),
    "28 bits lose them beside 2^28": (ones(2.0**28, 1.0, -(2.0**28)), {"acc_round": "wide28"}, 0.0),
    "an exact sum keeps anything": (ones(2.0**60, 1.0, -(2.0**60)), {"matmul_order": "exact"}, 1.0),
    "24 bits below the top": (ones(2.0**24, 1.0, -(2.0**24)), {"matmul_order": "fdpa24"}, 1.0),
    "25 bits below the top": (ones(2.0**25, 1.0, -(2.0**25)), {"matmul_order": "fdpa24"}, 0.0),
    "28 bits below the top": (ones(2.0**28, 1.0, -(2.0**28)), {"matmul_order": "fdpa28"}, 1.0),
    "towards zero": (ones(2.0**24, 3.0), {"acc_round": "rz"}, 2.0**24 + 2),
    "a product of 15 bits": ([(1 + 2.0**-7, 1 + 2.0**-7)], {}, 1 + 2.0**-6 + 2.0**-14),
    "the same as bf16": ([(1 + 2.0**-7, 1 + 2.0**-7)], {"product_round": "bf16"}, 1 + 2.0**-6),
    "the same in 15 bits": ([(1 + 2.0**-7, 1 + 2.0**-7)], {"product_round": "15_bits"}, 1 + 2.0**-6 + 2.0**-14),
    "the same in 14 bits": ([(1 + 2.0**-7, 1 + 2.0**-7)], {"product_round": "14_bits"}, 1 + 2.0**-6),
}


@pytest.mark.parametrize("name", list(SUMS))
def test_sum_of_one_pass(name: str) -> None:
    rows, changes, expected = SUMS[name]
    assert host.number(array_sum(rows, {**PLAIN, **changes})) == expected


def test_psum_behind_the_array_or_in_front_of_it() -> None:
    before, rows = host.whole(2.0**24), ones(*[1.0] * 128)
    assert host.number(instruction(rows, PLAIN, before)) == 2.0**24 + 128
    assert host.number(instruction(rows, {**PLAIN, "psum_entry": "seeds_chain"}, before)) == 2.0**24
    assert host.number(instruction(ones(3.0), {**PLAIN, "psum_add_round": "rz"}, before)) == 2.0**24 + 2


@pytest.mark.parametrize(
    ("split", "residue"), [("exact_products", 2.0**-9 + 2.0**-18), ("split_bf16", 2.0**-9), ("split_bf16_3", 2.0**-9)]
)
def test_residue_that_needs_the_low_half(split: str, residue: float) -> None:
    x = 1 + 2.0**-9 + 2.0**-18
    rows = [(x, 1.0), (-1.0, 1.0)]
    assert host.number(wide_instruction(rows, {**PLAIN, "fp32_matmul": split})) == residue


def test_lo_lo_is_what_the_three_pass_split_lacks() -> None:
    rows = [(1 + 2.0**-10, 1 + 2.0**-10)]
    with_it = host.number(wide_instruction(rows, {**PLAIN, "fp32_matmul": "split_bf16"}))
    without = host.number(wide_instruction(rows, {**PLAIN, "fp32_matmul": "split_bf16_3"}))
    assert with_it - without == 2.0**-20


def test_pairs_enter_exactly_or_rounded() -> None:
    slots = (ones(2.0**24, -(2.0**24)), ones(1.0, 0.0))
    assert host.number(double_row_sum(slots, {**PLAIN, "double_row_pair": "exact_pair"})) == 0.0
    assert host.number(double_row_sum(slots, {**PLAIN, "double_row_pair": "halves"})) == 1.0
    exact = {**PLAIN, "matmul_order": "exact"}
    assert host.number(double_row_sum(slots, exact)) == 1.0
    assert host.number(double_row_sum(slots, {**exact, "double_row_pair": "rounded_pair"})) == 0.0


def blocks(*items: tuple[float, int]) -> list[Block]:
    found = [Block((0.0, 0.0, 0.0, 0.0), 127)] * (8 * len(items))
    for i, (value, scale) in enumerate(items):
        found[8 * i : 8 * i + 8] = [Block((0.0, 0.0, 0.0, 0.0), scale)] * 8
        found[8 * i] = Block((value, 0.0, 0.0, 0.0), scale)
    return found


def test_scales_of_blocks() -> None:
    one = blocks((1.0, 127), (1.0, 127), (1.0, 127))
    far = blocks((1.0, 150), (-1.0, 150), (1.0, 127))
    assert host.number(mx_sum(far, one, PLAIN)) == 1.0
    assert host.number(mx_sum(far, one, {**PLAIN, "mx_dot": "fused24"})) == 1.0
    assert host.number(mx_sum(far, one, {**PLAIN, "mx_dot": "fused20"})) == 0.0
    huge, tiny = blocks((2.0**15, 254)), blocks((2.0**-14, 0))
    assert host.number(mx_sum(huge, tiny, PLAIN)) == math.inf
    assert host.number(mx_sum(huge, tiny, {**PLAIN, "mx_scale_overflow": "wide"})) == 2.0
    assert math.isnan(host.number(mx_sum(blocks((1.0, 255)), blocks((1.0, 0)), PLAIN)))


def test_functions_at_points_known_by_heart() -> None:
    x = np.array([1.0, 0.5], np.float32)
    assert functions.nearest("exp", x)[0].tolist() == [float(np.float32(math.e)), float(np.float32(math.sqrt(math.e)))]
    values, inexact = functions.nearest("sqrt", np.array([4.0, 2.0], np.float32))
    assert values.tolist() == [2.0, float(np.float32(math.sqrt(2)))]
    assert inexact.tolist() == [False, True]
    assert functions.nearest("rsqrt", np.array([16.0], np.float32))[0][0] == 0.25
    assert functions.exact_power(3.0, 2.0) == (9.0, False)
    assert functions.exact_power(2.0, 0.5) == (float(np.float32(math.sqrt(2))), True)


def test_a_moved_value_is_the_next_float32() -> None:
    values = np.array([1.0, -1.0, 2.0**-126])
    up = functions.moved(values, np.array([True, True, False]), "ulp_up")
    down = functions.moved(values, np.array([True, True, False]), "ulp_down")
    assert up.tolist() == [1 + 2.0**-23, -(1 - 2.0**-24), 2.0**-126]
    assert down.tolist() == [1 - 2.0**-24, -(1 + 2.0**-23), 2.0**-126]


def test_errors_name_the_worst_argument() -> None:
    x = np.array([1.0, 2.0])
    text = functions.errors("exp", x, np.array([1.0, 1 + 2.0**-21]), np.array([1.0, 1.0]))
    assert text == "exp: 50.0% of 2 correctly rounded, at most 4 ulp off (at 2.0: 1.0000004768371582, nearest 1.0)"
