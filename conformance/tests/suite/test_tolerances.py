"""The published comparator, with the figures of its rows, and the two traps that are closed here.

Expected verdicts are computed by hand: allowed error = atol + rtol * largest finite golden value.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.registry import kernels
from conformance.tolerances import TOLERANCES, Tolerance, tolerance_faults, tolerance_for

ROW = Tolerance("*", "*", "*", rtol=1e-2, atol=0.5, source="test")
GOLDEN = np.array([100.0, 1.0, -2.0, 0.0])  # allowed error 1.5


def test_the_error_may_reach_the_allowance_and_not_pass_it() -> None:
    assert tolerance_faults(GOLDEN + np.array([1.5, 0, 0, -1.5]), GOLDEN, ROW) == []
    assert tolerance_faults(GOLDEN + np.array([0, 0, 0, 1.625]), GOLDEN, ROW) == [
        "75.00% of elements within 1.5 (rtol 0.01, atol 0.5), 100% asked; worst 1.62"
    ]


def test_a_pass_rate_lets_so_many_elements_go() -> None:
    lenient = Tolerance("*", "*", "*", 1e-2, 0.5, "test", pass_rate=0.75)
    assert tolerance_faults(GOLDEN + np.array([0, 0, 0, 9.0]), GOLDEN, lenient) == []
    assert tolerance_faults(GOLDEN + np.array([0, 0, 9.0, 9.0]), GOLDEN, lenient) != []


def test_infinities_and_nan_must_stand_where_goldens_do() -> None:
    golden = np.array([np.inf, np.nan, 1.0])
    assert tolerance_faults(golden.copy(), golden, ROW) == []
    for wrong in ([-np.inf, np.nan, 1.0], [np.inf, 1.0, 1.0], [np.inf, np.nan, np.inf], [1.0, np.nan, 1.0]):
        assert tolerance_faults(np.array(wrong), golden, ROW) == [
            "1 NaN or Inf at places or of signs other than golden's"
        ]


def test_the_cosine_gate_catches_what_a_wide_atol_lets_through() -> None:
    wide = Tolerance("*", "*", "*", 0.0, 16.0, "test", cosine=0.99)
    golden = np.linspace(-4, 4, 64)
    assert tolerance_faults(golden * 1.5, golden, wide) == []
    assert tolerance_faults(golden[::-1].copy(), golden, wide) == ["cosine -1.0000, at least 0.99 asked"]
    assert tolerance_faults(np.zeros(64), golden, wide) == ["cosine 0.0000, at least 0.99 asked"]
    assert tolerance_faults(np.zeros(64), np.zeros(64), wide) == []


def test_an_empty_output_passes() -> None:
    assert tolerance_faults(np.zeros(0), np.zeros(0), ROW) == []


@pytest.mark.parametrize(
    ("asked", "figures"),
    [
        (("attention_tkg", "none", "out"), (1e-2, 1e-5)),
        (("attention_tkg", "fp8-kv", "out"), (3e-2, 3e-2)),
        (("attention_segmented_cte", "none", "out"), (1e-2, 1e-2)),
        (("output_projection_tkg", "none", "out"), (2e-2, 1e-5)),
        (("output_projection_tkg", "row", "out"), (5e-2, 1e-5)),
        (("qkv", "cte", "q"), (2e-2, 1e-5)),
        (("qkv", "cte-static", "q"), (5e-2, 2e-2)),
        (("qkv", "cte-mx", "q"), (5e-2, 1e-2)),
        (("qkv", "cte+fp8-cache", "k_cache"), (1e-1, 1e-5)),
        (("qkv", "cte+fp8-cache", "q"), (2e-2, 1e-5)),
        (("qkv", "tkg", "q"), (2e-2, 1e-5)),
        (("qkv", "tkg-row", "q"), (4e-2, 1e-5)),
        (("attention_block_tkg", "none", "out"), (1.5e-2, 1e-5)),
        (("attention_block_tkg", "static+fp8-kv", "out"), (7e-2, 16.0)),
        (("attention_block_tkg", "static+fp8-kv", "K_out"), (7e-2, 16.0)),
    ],
)
def test_rows_carry_the_published_figures(asked: tuple[str, str, str], figures: tuple[float, float]) -> None:
    row = tolerance_for(*asked)
    assert row is not None
    assert (row.rtol, row.atol) == figures


def test_only_the_quantised_block_output_has_a_pass_rate_below_one() -> None:
    assert [(row.kernel, row.output) for row in TOLERANCES if row.pass_rate < 1] == [("attention_block_tkg", "out")]


@pytest.mark.parametrize("row", TOLERANCES, ids=lambda row: f"{row.kernel}-{row.quantization}-{row.output}")
def test_every_row_is_of_a_kernel_and_an_output_that_there_are(row: Tolerance) -> None:
    assert any(fnmatchcase(output.name, row.output) for output in kernels()[row.kernel].outputs)


def test_a_kernel_without_row_has_no_tolerance() -> None:
    assert tolerance_for("softmax", "none", "out") is None


def test_every_catalog_case_of_the_project_has_a_row_for_every_output() -> None:
    missing = [
        (subject.name, case.id, output.name)
        for subject in kernels().values()
        for case in subject.catalog
        for output in subject.outputs
        if tolerance_for(
            subject.name, subject.quantization(case.config), output.name, (*subject.tolerances, *TOLERANCES)
        )
        is None
    ]
    assert missing == []


@given(
    golden=st.lists(st.floats(-100, 100), min_size=1, max_size=8),
    share=st.floats(-1.0, 1.0),
)
def test_anything_within_the_allowance_passes(golden: list[float], share: float) -> None:
    want = np.array(golden)
    allowed = 0.5 + 1e-2 * float(np.abs(want).max())
    assert tolerance_faults(want + 0.99 * share * allowed, want, ROW) == []
