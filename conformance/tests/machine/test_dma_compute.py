"""Claim: dma_compute adds in fp32, left to right, rounds once, and adds to gathered and scattered rows."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from conformance.tests.machine.bench import out, refusal, run, tile
from reference.neuroncore.options import Options
from reference.numerics.profile import DEFAULT

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip


def added(*arrays: Any, dtype: str = "float32", **options: Any) -> Any:
    result = nl.ndarray(arrays[0].shape, dtype)
    nisa.dma_compute(result, [tile(a) for a in arrays], nl.add, **options)
    return out(result)


def test_sum_runs_left_to_right_in_fp32() -> None:
    parts = [np.array([[value]], np.float32) for value in (2.0**24, 1.0, 1.0)]
    assert run(added, *parts) == 2.0**24
    backwards = Options(profile=DEFAULT.replace(dma_add_order="list_rev"))
    assert run(added, *parts, options=backwards) == 2.0**24 + 2


def test_sum_is_rounded_once() -> None:
    parts = [np.array([[value]], np.float32) for value in (1.0, 2.0**-8, 2.0**-8)]
    got = run(lambda *p: added(*p, dtype="bfloat16"), *parts)
    assert got.astype(np.float32) == 1 + 2.0**-7


def test_mixed_dtypes_and_integers() -> None:
    a, b = np.array([[1.5, -2]], ml_dtypes.bfloat16), np.array([[3, 200]], np.int32)
    assert run(lambda a, b: added(a, b, dtype="int8"), a, b).tolist() == [[4, 127]]


def test_destination_may_be_a_source() -> None:
    def kernel(a: Any, b: Any) -> Any:
        x = tile(a)
        nisa.dma_compute(x, (x, tile(b)), nl.add, scales=[1.0, 1.0])
        return out(x)

    a = np.arange(4, dtype=np.float32).reshape(2, 2)
    assert (run(kernel, a, a) == 2 * a).all()


def test_older_argument_order() -> None:
    def kernel(a: Any) -> Any:
        x = nl.ndarray(a.shape, a.dtype)
        nisa.dma_compute(x, [tile(a), tile(a)], [1.0, 1.0], nl.add)
        return out(x)

    a = np.arange(4, dtype=np.float32).reshape(2, 2)
    assert (run(kernel, a) == 2 * a).all()


@pytest.mark.parametrize(
    ("options", "rule"),
    [({"scales": [2.0, 1.0]}, "dma.scales"), ({"scales": [1.0]}, "dma.scales"), ({}, None)],
)
def test_scales_are_ones(options: dict[str, Any], rule: str | None) -> None:
    a = np.ones((2, 2), np.float32)
    kernel = lambda a: added(a, a, **options)  # noqa: E731  (a kernel of one line)
    if rule is None:
        run(kernel, a)
    else:
        assert refusal(kernel, a).rule == rule


def test_only_add_and_at_most_16_sources() -> None:
    a = np.ones((1, 1), np.float32)

    def multiplied(a: Any) -> None:
        nisa.dma_compute(nl.ndarray((1, 1), nl.float32), [tile(a)] * 2, nl.multiply)

    assert refusal(multiplied, a).rule == "dma.op"
    assert refusal(lambda a: added(*[a] * 17), a).rule == "dma.sources"
    assert run(lambda a: added(*[a] * 16), a) == 16


TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)


def gather_add(v: Any, a: Any, i: Any, **options: Any) -> Any:
    x = tile(a)
    view = v.ap([[3, 2], [1, 3]], vector_offset=tile(i))
    nisa.dma_compute(x, [x, view], nl.add, **options)
    return out(x)


def scatter_add(v: Any, a: Any, i: Any, **options: Any) -> Any:
    view = v.ap([[3, 2], [1, 3]], vector_offset=tile(i))
    nisa.dma_compute(view, [view, tile(a)], nl.add, **options)
    return v


def index(values: list[int]) -> Any:
    return np.array(values, np.uint32).reshape(-1, 1)


def test_gather_add() -> None:
    a = np.full((2, 3), 100, np.float32)
    assert (run(gather_add, TABLE, a, index([3, 1])) == TABLE[[3, 1]] + 100).all()


def test_scatter_add() -> None:
    table = TABLE.copy()
    run(scatter_add, table, np.full((2, 3), 100, np.float32), index([3, 1]))
    assert (table == TABLE + np.array([[0], [100], [0], [100]])).all()


def test_rows_outside_are_skipped_or_refused() -> None:
    table, a = TABLE.copy(), np.full((2, 3), 100, np.float32)
    run(lambda *x: scatter_add(*x, oob_mode=nisa.oob_mode.skip), table, a, index([4, 1]))
    assert (table == TABLE + np.array([[0], [100], [0], [0]])).all()
    assert refusal(scatter_add, table, a, index([4, 1])).rule == "bounds"


def test_equal_rows_would_lose_a_sum() -> None:
    table, a = TABLE.copy(), np.full((2, 3), 100, np.float32)
    assert refusal(scatter_add, table, a, index([1, 1])).rule == "dma.unique"
    assert (table == TABLE).all()


def test_indirect_sums_have_two_sources_and_unique_indices() -> None:
    a = np.zeros((2, 3), np.float32)
    assert refusal(lambda *x: gather_add(*x, unique_indices=False), TABLE, a, index([3, 1])).rule == "dma.rmw"
