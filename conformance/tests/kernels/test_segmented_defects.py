"""Defects of public segmented attention kernels, each with the input that reveals it, on the model.

The names B1 to B17 are those of the contract's list. Each test shows that the model is right on that input, and
where the defect can be played (by changing inputs, the result, or one step of the model) that the input would
reveal it. B9, tiles that share addresses, has no place in a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.tests.kernels.attention_segmented_cte_inputs import build, by_row, config_of, same
from reference import attention_segmented_cte, segmented_softmax
from reference.attention_segmented_cte import model, truth
from reference.attention_segmented_cte_bound import bound
from reference.attention_segmented_cte_truth import parts
from reference.contracts.attention_segmented_cte import Config, refusal
from reference.contracts.attention_segmented_cte_plan import Slice
from reference.numerics.cast import cast, to_float32
from reference.segment_schedule import FULL, PARTIAL, Segment, schedule, segments

Array = NDArray[Any]
Inputs = dict[str, Array]


def right(config: Config, inputs: Inputs, out: Array | None = None) -> bool:
    """Whether a result, by default the model's, is as near the truth as a right kernel must be."""
    got = model(config, inputs)["out"] if out is None else out
    off = np.abs(got.astype(np.float64) - truth(config, inputs)["out"])
    return bool((off <= bound(config, inputs)["out"]).all())


def wrong(config: Config, inputs: Inputs, played: Inputs) -> bool:
    """Whether other inputs give a result that these inputs must not give."""
    return not right(config, inputs, model(config, inputs | played)["out"])


def diluted(config: Config, inputs: Inputs, columns: int, first: int = 0) -> Array:
    """The model's result for queries from `first` on with zero scores added to the denominator."""
    out = model(config, inputs)["out"].astype(np.float64)
    for part in parts(config, inputs):
        more = columns * np.exp(-part.top)
        factor = part.total / (part.total + more)
        at = np.arange(part.queries.start, part.queries.stop) >= first
        out[part.row, part.queries] *= np.where(at, factor, 1.0)[:, None]
    return out


@pytest.mark.parametrize("changes", [{"sliding_window": 128}, {}])
@pytest.mark.parametrize("prior", [0, 256, 512, 1280])
def test_b1_the_sink_counts_once_whatever_the_prior(prior: int, changes: dict[str, Any]) -> None:
    config = config_of(prior, sink="float32", **changes)
    inputs = build(config, prior)
    assert right(config, inputs)
    assert wrong(config, inputs, {"sink": np.full((1, 1), -1e30, np.float32)})
    assert wrong(config, inputs, {"sink": inputs["sink"] + np.float32(np.log(2))})


@pytest.mark.parametrize("queries", [256, 640])
def test_b2_the_extra_segment_has_no_zero_columns(queries: int) -> None:
    config = config_of(512, seqlen_q=queries)
    inputs = build(config, 512)
    first = config.slices[-1].first
    assert first
    assert right(config, inputs)
    assert not right(config, inputs, diluted(config, inputs, -first % 512, first))


def test_b3_every_row_has_its_own_sink() -> None:
    config = config_of(0, sink="float32", batch=2, num_q_heads=2)
    inputs = build(config)
    assert right(config, inputs)
    assert wrong(config, inputs, {"sink": np.repeat(inputs["sink"][:1], 4, axis=0)})


@pytest.mark.parametrize("size", [1024, 2048])
def test_b4_never_written_memory_meets_no_weight(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(0, seqlen_q=256, prior_seg_size=size)
    inputs = build(config)
    assert right(config, inputs)
    partial = config_of(64, prior_seg_size=size)
    inputs = build(partial, 64)
    assert right(partial, inputs)
    monkeypatch.setattr(attention_segmented_cte, "load_blocks", _stale(attention_segmented_cte.load_blocks))
    assert np.isnan(model(partial, inputs)["out"].astype(np.float32)).all()


def _stale(load: Any) -> Any:
    """A loader that leaves NaN where it loads nothing."""

    def loaded(pages: Array, table: Array, offset: int, num_blocks: int, length: int) -> Array:
        rows: Array = load(pages, table, offset, num_blocks, length)
        rows[num_blocks * pages.shape[1] :] = np.nan
        return rows

    return loaded


def test_b5_k_scale_acts_in_the_partial_segment() -> None:
    prior = 256
    config = config_of(prior, k_scale=True, seqlen_q=512)
    inputs = build(config, prior)
    inputs["k_scale"][: config.d_head] = 1.5
    assert right(config, inputs)
    unscaled = inputs["k_cache"].copy()
    of_prior = inputs["block_tables"][0, : prior // config.block_size]
    unscaled[of_prior] = (unscaled[of_prior].astype(np.float32) / 1.5).astype(unscaled.dtype)
    assert wrong(config, inputs, {"k_cache": unscaled})


@pytest.mark.parametrize(
    ("prior", "changes"),
    [
        (768, {"sliding_window": 640, "block_size": 128, "prior_seg_size": 128}),
        (1216, {"prior_seg_size": 640, "block_size": 64}),
        (208, {"prior_seg_size": 336, "k_pre_transposed": True}),
        (128, {"block_size": 128, "k_pre_transposed": True}),
    ],
)
def test_b6_tails_of_tiles_are_loaded(prior: int, changes: dict[str, Any]) -> None:
    config = config_of(prior, **changes)
    assert right(config, build(config, prior))


def test_b7_v_scale_runs_along_the_head_dim() -> None:
    config = config_of(128, v_scale=True, d_head=128)
    inputs = build(config, 128)
    inputs["v_scale"][:, 0] = np.linspace(0.5, 1.5, 128)
    assert right(config, inputs)
    scale = inputs["v_scale"][:, 0].astype(np.float64)
    turned = model(config, inputs)["out"].astype(np.float64) / scale * np.resize(scale, 128)[:, None]
    assert not right(config, inputs, turned)


def _played(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let `change(part, segment)` give the segments that the model attends in place of one."""

    def changed(config: Config, part: Slice, prior: int, offset: int | None = None) -> Iterator[Segment]:
        for segment in segments(config, part, prior, offset):
            yield from change(part, segment)

    monkeypatch.setattr(attention_segmented_cte, "segments", changed)


def test_b8_the_prior_is_attended_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(256)
    inputs = build(config, 256)
    assert right(config, inputs)
    _played(monkeypatch, lambda part, segment: [segment] * (2 if segment.kind == PARTIAL else 1))
    assert not right(config, inputs)


def test_b10_the_output_is_kept_in_float32_between_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(4096, prior_seg_size=16)
    inputs = build(config, 4096)
    assert right(config, inputs)
    exact_flash = segmented_softmax.flash

    def narrow_flash(old: Any, new: Any, profile: Any) -> Any:
        state, factor = exact_flash(old, new, profile)
        return dataclasses.replace(state, out=to_float32(cast(state.out, "bfloat16"))), factor

    monkeypatch.setattr(attention_segmented_cte, "flash", narrow_flash)
    assert not right(config, inputs)


def test_b11_rows_do_not_share_a_table_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(1024, num_q_heads=2)
    inputs = build(config, 1024)
    inputs["q"][1] = inputs["q"][0]
    out = model(config, inputs)["out"]
    assert same(out[0], out[1])
    assert right(config, inputs)

    def stale(part: Slice, segment: Segment) -> list[Segment]:
        late = part.row == 1 and segment.kind == FULL
        return [dataclasses.replace(segment, start=max(0, segment.start - 512)) if late else segment]

    _played(monkeypatch, stale)
    assert not right(config, inputs)


def test_b12_an_offset_of_the_prior_adds_no_zero_scores() -> None:
    config = config_of(656, kvp=True)
    inputs = build(config, 656)
    assert right(config, inputs)
    assert not right(config, inputs, diluted(config, inputs, 512))


@pytest.mark.parametrize(("prior", "block"), [(656, 16), (5248, 128)])
def test_b13_a_reciprocal_below_the_integer_changes_the_path_and_not_the_result(prior: int, block: int) -> None:
    config = config_of(prior, prior_seg_size=prior, block_size=block, d_head=4)
    trips = schedule(prior, prior)
    assert (trips.num_full, trips.partial) == (0, prior)
    assert right(config, build(config, prior))


@pytest.mark.parametrize("changes", [{}, {"d_head": 64}, {"k_pre_transposed": True}, {"block_size": 4}])
def test_b14_entries_behind_the_tokens_may_be_skipped_or_anything(changes: dict[str, Any]) -> None:
    config = config_of(80, **changes)
    inputs = build(config, 80)
    assert right(config, inputs)
    skipped = (inputs["block_tables"] == -1) | (inputs["block_tables"] >= config.num_blocks)
    assert skipped.any()
    for other in (0, 2**31 - 1, -7):
        table = np.where(skipped, np.int32(other), inputs["block_tables"])
        again = model(config, inputs | {"block_tables": table})["out"]
        assert same(again, model(config, inputs)["out"])


def test_b15_block_0_is_a_block_like_any_other() -> None:
    config = config_of(80)
    inputs = build(config, 80)
    table = inputs["block_tables"].copy()
    spare = next(n for n in range(config.num_blocks) if n not in table)
    for name in ("k_cache", "v_cache"):
        inputs[name][spare] = inputs[name][0]
        inputs[name][0] = np.nan
    table[table == 0] = spare
    inputs["block_tables"] = table
    assert right(config, inputs)


def test_b16_a_table_narrower_than_the_window() -> None:
    sizes = {"sliding_window": 128, "block_size": 128, "prior_seg_size": 128, "max_blocks": 1}
    config = config_of(0, **sizes)
    assert right(config, build(config))


def test_b17_an_offset_with_a_window_is_refused() -> None:
    legal = config_of(0, sliding_window=64)
    found = refusal(dataclasses.replace(legal, kvp=True))
    assert found is not None
    assert found.rule == "window_kvp"


def test_results_come_in_the_callers_layout() -> None:
    config = config_of(0, tp_out=True)
    inputs = build(config)
    out = model(config, inputs)["out"]
    assert out.shape == (1, config.d_head, config.seqlen_q)
    assert by_row(config, out).shape == (1, config.seqlen_q, config.d_head)
