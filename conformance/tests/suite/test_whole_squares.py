"""Tokens of whole numbers have the sums they were asked for, and sizes without a solution are refused."""

from __future__ import annotations

import numpy as np
import pytest

from conformance.lanes import LaneError
from conformance.randomness import Stream
from conformance.whole_squares import shuffled, whole_squares


@pytest.mark.parametrize("count", [128, 512, 2048])
@pytest.mark.parametrize("total", [0, 1])
def test_sum_and_squares_are_those_asked_for(count: int, total: int) -> None:
    # 4096 a piece, with the parity of the sum.
    squares = 4096 * count + total * count
    found = whole_squares(Stream(3), count, squares, total * count, 127)
    assert int(found.sum()) == total * count
    assert int((found * found).sum()) == squares
    assert int(np.abs(found).max()) <= 127
    # Not one magnitude over and over, which no permutation would change.
    assert len(np.unique(np.abs(found))) > 40


def test_the_same_stream_gives_the_same_numbers() -> None:
    first, second = (whole_squares(Stream(3, "row"), 128, 4096 * 128, 0, 127) for _ in range(2))
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize(
    ("count", "squares", "total", "most"),
    [(4, 101, 0, 127), (4, 10, 20, 127), (4, 4 * 128 * 128, 0, 127)],
    ids=["parity", "sum beyond its squares", "squares beyond the largest"],
)
def test_what_has_no_solution_is_refused(count: int, squares: int, total: int, most: int) -> None:
    with pytest.raises(LaneError, match=f"no {count} integers"):
        whole_squares(Stream(3), count, squares, total, most)


def test_rows_are_permutations_with_signs_where_the_sum_is_free() -> None:
    values = whole_squares(Stream(3), 128, 4096 * 128, 0, 127)
    plain = shuffled(Stream(4), values, 5, signs=False)
    assert all(sorted(row) == sorted(values) for row in plain.tolist())
    assert len({tuple(row) for row in plain.tolist()}) == 5
    signed = shuffled(Stream(4), values, 5, signs=True)
    assert all(sorted(map(abs, row)) == sorted(np.abs(values)) for row in signed.tolist())
    assert len({int(row.sum()) for row in signed}) > 1
