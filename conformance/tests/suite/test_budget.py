"""An error budget gives each rounding its part of the error: all of it to one that dominates, none to one off the path.

The toy's terms are computed here by casts alone, without a study. The cases of the kernels hold the sums, and walk
the contracts: a narrow point that no study can switch is named with its reason.
By hand: `nki-oracle budget attention_tkg --case fp8-kv`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance import registry
from conformance.budget import FLOAT32, UNNAMED, UNSWITCHED, Budget, CacheError, budget, operand_of, point_of
from conformance.budget_chart import draw
from conformance.subject import Arrays, Case, Subject
from conformance.tests.suite.rounding_toy import CASE, subject
from reference.numerics.cast import cast, to_float32
from reference.numerics.profile import CHAIN, DEFAULT
from reference.recorder import ListRecorder
from reference.rounding import Meter, Study, Weighed

Array = NDArray[Any]
KERNELS = registry.kernel_names()


def _shares(found: Budget, output: str) -> dict[str, float]:
    return {part.name: part.effects[output].share for part in found.parts}


def _golden_cases(kernel: str) -> tuple[Subject, list[Case]]:
    chosen = registry.kernel(kernel)
    return chosen, [case for case in chosen.catalog if "golden" in case.tags]


# ---- the toy -----------------------------------------------------------------------------------------------------


def test_a_rounding_that_dominates_has_nearly_all_of_the_error() -> None:
    shares = _shares(budget(subject("float8_e4m3", "bfloat16"), CASE), "y")
    assert shares["product"] > 0.98
    assert abs(shares["sum_0"]) + abs(shares["sum_1"]) < 0.02


def test_a_rounding_that_is_dominated_has_nearly_none() -> None:
    shares = _shares(budget(subject("bfloat16", "float8_e4m3"), CASE), "y")
    assert abs(shares["product"]) < 0.02
    assert shares["sum_0"] + shares["sum_1"] > 0.98


def test_a_rounding_off_the_path_of_an_output_has_none_of_its_error() -> None:
    found = budget(subject("float8_e4m3", "bfloat16"), CASE)
    assert _shares(found, "y")["total_sum"] == 0.0
    total = {part.name: part.effects["total"] for part in found.parts}
    for name in ("product", "sum_0", "sum_1"):
        assert (total[name].share, total[name].adds) == (0.0, 0.0)
        assert total[name].without == found.totals["total"].error
    assert total["total_sum"].share == pytest.approx(1.0, abs=1e-3)
    assert total["total_sum"].without is not None
    assert total["total_sum"].without < 1e-3 * found.totals["total"].error


def test_terms_are_those_of_casts_made_by_hand() -> None:
    toy = subject("float8_e4m3", "bfloat16")
    found = budget(toy, CASE)
    inputs = toy.build(CASE.config, CASE.lane, CASE.seed)
    truth = inputs["a"].astype(np.float64) * CASE.config.scale + inputs["b"].astype(np.float64)
    product = to_float32(inputs["a"]) * np.float32(CASE.config.scale)
    b = to_float32(inputs["b"])
    exact = product + b
    narrow = product.astype(cast(product, "float8_e4m3").dtype).astype(np.float32)
    first = narrow + b
    last = first.astype(inputs["a"].dtype).astype(np.float32)
    whole = (last - truth).ravel()
    term = (first.astype(np.float64) - exact).ravel()
    part = next(part for part in found.parts if part.name == "product")
    assert part.effects["y"].share == pytest.approx(term @ whole / (whole @ whole))
    assert part.effects["y"].adds == pytest.approx(float(np.linalg.norm(term) / np.linalg.norm(truth)))
    assert part.introduced == pytest.approx(float(np.linalg.norm(narrow - product) / np.linalg.norm(product)))
    assert found.totals["y"].error == pytest.approx(float(np.linalg.norm(whole) / np.linalg.norm(truth)))
    alone = (exact.astype(inputs["a"].dtype).astype(np.float64) - truth).ravel()
    assert part.effects["y"].without == pytest.approx(float(np.linalg.norm(alone) / np.linalg.norm(truth)))


def test_operands_of_one_point_are_told_apart_by_the_contract() -> None:
    found = budget(subject("float8_e4m3", "bfloat16"), CASE)
    assert [(part.name, part.point, part.operand) for part in found.parts[2:4]] == [
        ("sum_0", "sum", "left"),
        ("sum_1", "sum", "right"),
    ]


def test_a_rounding_that_changes_nothing_is_named_and_has_no_row() -> None:
    exact = dataclasses.replace(CASE.config, scale=2.0)
    toy = subject("bfloat16", "float8_e4m3")
    found = budget(toy, Case("doubled", exact))
    assert "product" not in _shares(found, "y")
    assert found.idle["product"] == "all values fit bfloat16 as they are"


def test_without_any_error_every_share_is_zero() -> None:
    kernel = registry.kernel("attention_tkg")
    case = kernel.case("exact")
    found = budget(kernel, case)
    assert found.totals["out"].error == 0.0
    assert set(_shares(found, "out").values()) == {0.0}


# ---- the kernels -------------------------------------------------------------------------------------------------

CASES = (
    ("attention_tkg", "fp8-kv"), ("attention_tkg", "rope"), ("attention_block_tkg", "all-fp8"), ("qkv", "cte-mx"),
    ("qkv", "tkg-static"), ("output_projection_tkg", "static-bias"), ("attention_segmented_cte", "kvp-drawn"),
)  # fmt: skip


@pytest.mark.parametrize(("kernel", "name"), CASES)
def test_shares_sum_to_one_in_every_output_that_errs(kernel: str, name: str) -> None:
    chosen = registry.kernel(kernel)
    found = budget(chosen, chosen.case(name))
    for output, total in found.totals.items():
        if total.error:
            assert math.fsum(_shares(found, output).values()) == pytest.approx(1.0, abs=1e-9)
    json.dumps(found.to_dict("out"), allow_nan=False)


@dataclass(frozen=True)
class Run:
    """One case as its model has it, and as a study without exact points does."""

    case: Case
    inputs: Arrays
    model: Arrays
    study: Arrays
    #: Points that hold something else than float32.
    narrow: frozenset[str]
    #: Points that round, in the order of the model.
    metered: dict[str, Weighed]
    #: Magnitude of the largest score.
    top: float


@functools.cache
def _runs(kernel: str) -> tuple[Run, ...]:
    chosen, cases = _golden_cases(kernel)
    if kernel in _MORE:
        name, changes = _MORE[kernel]
        cases.append(Case(name, dataclasses.replace(chosen.case(name).config, **changes)))
    return tuple(_run(chosen, case) for case in cases)


def _run(chosen: Subject, case: Case) -> Run:
    inputs, recorder, meter = chosen.build(case.config, case.lane, case.seed), ListRecorder(), Meter()
    model = chosen.model(case.config, inputs, record=recorder)
    study = _studied(chosen, case, inputs, Study.of(DEFAULT, meter=meter))
    narrow = frozenset(entry.point for entry in recorder if entry.value.dtype != np.float32)
    scores = [np.abs(to_float32(entry.value)) for entry in recorder if entry.point == "score"]
    top = max((float(score[np.isfinite(score)].max(initial=0)) for score in scores), default=0.0)
    return Run(case, inputs, model, study, narrow, meter.points, top)


def _studied(chosen: Subject, case: Case, inputs: Arrays, study: Study) -> Arrays:
    with np.errstate(all="ignore"):
        return chosen.model(case.config, inputs, profile=study)


#: Points that round in no golden: tables of RoPE come in the dtype of their tiles, and 1/sqrt(64) is a power of two.
_MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "qkv": ("cte-rope", {"rope_dtype": "float32"}),
    "attention_tkg": ("rope", {"d_head": 128}),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_study_without_exact_points_has_the_values_of_the_model(kernel: str) -> None:
    for run in _runs(kernel):
        for output, expected in run.model.items():
            same = np.array_equal(_values(run.study[output]), _values(expected), equal_nan=True)
            assert same, f"{kernel} {run.case.id} {output}"


#: Lanes whose scores are in the hundreds by design.
_LARGE_SCORES = ("shift", "rising", "heavy_tailed")


def _of_float32(run: Run) -> float:
    """Relative error that float32 arithmetic has at most.

    Reducing angles costs more than all else, and the exponential of a score takes on its absolute error.
    """
    turned = getattr(run.case.config, "fuse_rope", False)
    of_exponentials = run.top * (1e-5 if turned else 2.0**-24) if run.case.lane in _LARGE_SCORES else 0.0
    return (2e-5 if turned else 2e-6) + of_exponentials


@pytest.mark.parametrize("kernel", KERNELS)
def test_with_every_point_exact_float32_arithmetic_is_all_that_errs(kernel: str) -> None:
    chosen = registry.kernel(kernel)
    for run in _runs(kernel):
        config, limit = run.case.config, _of_float32(run)
        truth, undefined = chosen.truth(config, run.inputs), chosen.undefined(config, run.inputs)
        results = _studied(chosen, run.case, run.inputs, Study.of(DEFAULT, frozenset(run.metered)))
        for output, expected in truth.items():
            judged = np.isfinite(expected) & ~undefined.get(output, np.zeros(expected.shape, np.bool_))
            error = np.linalg.norm(_values(results[output])[judged] - expected[judged])
            assert error <= limit * np.linalg.norm(expected[judged]), f"{kernel} {run.case.id} {output}"


def _values(x: Array) -> Array:
    return np.asarray(x if x.dtype == np.float64 else to_float32(x), np.float64)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_narrow_point_of_a_contract_can_be_switched_or_says_why_not(kernel: str) -> None:
    chosen = registry.kernel(kernel)
    narrow = {name for run in _runs(kernel) for name in run.narrow}
    rounding = {name: run for run in _runs(kernel) for name, row in run.metered.items() if row.changed}
    points = {point_of(name) for name in rounding}
    exact = {row.name for row in chosen.contract.points if row.exact}
    assert narrow - exact - points == {point for owner, point in UNSWITCHED if owner == kernel}
    assert points - {row.name for row in chosen.contract.points} <= set(UNNAMED)
    for name, run in rounding.items():
        assert _moves(chosen, run, name) != (name in _TOO_SMALL), f"{kernel} {run.case.id}: {name}"


#: The constant eps in bfloat16 differs from that in float32 by less than a bit of the norm that it is added to.
_TOO_SMALL = ("eps",)


def _moves(chosen: Subject, run: Run, name: str) -> bool:
    """Whether rounding at one point, with all others exact, moves any output."""
    every = frozenset(run.metered)
    without, alone = (
        _studied(chosen, run.case, run.inputs, Study.of(DEFAULT, exact)) for exact in (every, every - {name})
    )
    return any(not np.array_equal(_values(without[key]), _values(alone[key]), equal_nan=True) for key in without)


# ---- caches ------------------------------------------------------------------------------------------------------


def test_an_fp8_cache_costs_sixteen_times_what_a_bfloat16_cache_does() -> None:
    kernel = registry.kernel("attention_tkg")
    config = dataclasses.replace(kernel.case("decode-8k-fp8").config, curr_sprior=1024, full_sprior=1024)
    found = budget(kernel, Case("decode-1k-fp8", config))
    assert found.caches is not None
    fp8, bf16 = (found.caches.adds[dtype]["out"] for dtype in ("float8_e4m3", "bfloat16"))
    # Three fraction bits against seven; what is below the normal range of the eight bits adds a little.
    assert 15.5 < fp8 / bf16 < 17.5
    shares = _shares(found, "out")
    assert shares["k_prior"] + shares["v_prior"] > 0.98
    total = found.totals["out"]
    assert total.kernel < total.error / 10


def test_bfloat16_caches_count_only_when_asked_for() -> None:
    kernel = registry.kernel("attention_tkg")
    case = kernel.case("sequence")
    plain, asked = budget(kernel, case), budget(kernel, case, caches=True)
    assert {part.kind for part in plain.parts} == {"float32", "point"}
    assert {part.name for part in asked.parts if part.kind == "input"} >= {"k_prior", "v_prior"}
    assert plain.totals["out"].error == plain.totals["out"].kernel == asked.totals["out"].kernel
    assert asked.totals["out"].error > 1.2 * plain.totals["out"].error


def test_fp8_caches_can_be_left_out() -> None:
    kernel = registry.kernel("attention_tkg")
    found = budget(kernel, kernel.case("fp8-kv"), caches=False)
    assert "k_prior" not in _shares(found, "out")
    assert found.totals["out"].error == found.totals["out"].kernel
    assert any("k_prior" in sentence for sentence in found.outside)


def test_rows_of_a_cache_that_the_call_leaves_alone_take_no_part() -> None:
    kernel = registry.kernel("attention_block_tkg")
    case = kernel.case("fp8-kv")
    found = budget(kernel, case)
    config = case.config
    written = int((kernel.build(config, case.lane, case.seed)["kv_cache_update_idx"] != 0xFFFFFFFF).sum()) * config.S
    assert found.totals["K_out"].elements <= written * config.d
    # Rounding to three fraction bits: about 2.6 % of the values that are written.
    assert 0.02 < found.totals["K_out"].error < 0.035


@pytest.mark.parametrize(
    ("kernel", "name", "why"),
    [
        ("attention_tkg", "fp8-edge", "lane fp8_edge draws caches in their own dtype"),
        ("output_projection_tkg", "plain", "output_projection_tkg reads no cache"),
    ],
)
def test_what_lies_before_the_rounding_of_a_cache_is_not_made_up(kernel: str, name: str, why: str) -> None:
    chosen = registry.kernel(kernel)
    with pytest.raises(CacheError, match=why):
        budget(chosen, chosen.case(name), caches=True)
    assert budget(chosen, chosen.case(name)).caches is None


@pytest.mark.parametrize("kernel", ["attention_tkg", "attention_block_tkg", "attention_segmented_cte"])
def test_unrounded_caches_round_to_those_of_the_case(kernel: str) -> None:
    chosen, cases = _golden_cases(kernel)
    assert chosen.unrounded is not None
    for case in cases:
        if case.lane == "fp8_edge":
            continue
        given = chosen.build(case.config, case.lane, case.seed)
        for name, wide in chosen.unrounded.inputs(case.config, case.lane, case.seed).items():
            assert wide.dtype == np.float32
            rounded = to_float32(cast(wide, given[name].dtype))
            assert np.array_equal(rounded, to_float32(given[name]), equal_nan=True), f"{case.id} {name}"


@pytest.mark.parametrize(
    ("kernel", "config", "name"),
    [
        ("attention_tkg", {"bs": 2, "d_head": 64, "kv_dtype": "float8_e4m3", "active_dtype": "float8_e4m3"}, "k_prior"),
        ("attention_block_tkg", {"kv_dtype": "float8_e4m3"}, "K_cache"),
    ],
)
def test_what_a_heavy_tail_had_cut_off_is_no_rounding_of_the_cache(
    kernel: str, config: dict[str, object], name: str
) -> None:
    chosen = registry.kernel(kernel)
    assert chosen.unrounded is not None
    drawn = dataclasses.replace(chosen.case("heavy-tailed").config, **config)
    given, wide = (build(drawn, "heavy_tailed", 1)[name] for build in (chosen.build, chosen.unrounded.inputs))
    assert np.abs(wide).max() == 120, "nothing was cut off"
    assert np.array_equal(to_float32(cast(wide, given.dtype)), to_float32(given))


# ---- arithmetic, names and pictures ------------------------------------------------------------------------------


def test_another_profile_has_another_error_of_float32_arithmetic() -> None:
    kernel = registry.kernel("output_projection_tkg")
    found = [budget(kernel, kernel.case("plain-fp32"), profile) for profile in (DEFAULT, CHAIN)]
    exact, chain = (one.totals["out"].error for one in found)
    assert chain > 1.5 * exact
    assert [part.name for part in found[1].parts] == [FLOAT32]


@pytest.mark.parametrize(
    ("kernel", "point", "tile", "operand"),
    [
        ("attention_block_tkg", "kv_quantized", (2,), "V"),
        ("attention_block_tkg", "rope_even", (0,), "Q"),
        ("attention_tkg", "rope_sum", (1,), "k_active"),
        ("attention_tkg", "prob", (), ""),
    ],
)
def test_operand_is_read_from_the_contract(kernel: str, point: str, tile: tuple[int, ...], operand: str) -> None:
    assert operand_of(registry.kernel(kernel).contract, point, tile) == operand


def test_chart_is_the_same_file_twice_and_holds_its_labels(tmp_path: Path) -> None:
    found = budget(subject("float8_e4m3", "bfloat16"), CASE)
    for name in ("one.svg", "two.svg"):
        draw(found, "y", tmp_path / name)
    one, two = ((tmp_path / name).read_text() for name in ("one.svg", "two.svg"))
    assert one == two
    assert "product  float8_e4m3" in one
    assert "relative error of y" in one
    draw(found, "y", tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
