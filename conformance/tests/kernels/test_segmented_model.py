"""Claims about the model of `attention_segmented_cte`: the contract's arithmetic, and the distance from the truth.

The model is held against the contract evaluated in scalar rational arithmetic (`attention_segmented_cte_by_hand`)
bit by bit, and against truth within a bound derived from the roundings on an element's path. Unused blocks and
table entries are poison in every test. Every test is deterministic: run it again by its id.
"""

from __future__ import annotations

import dataclasses
import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.tests.kernels import attention_segmented_cte_by_hand as by_hand
from conformance.tests.kernels.attention_segmented_cte_inputs import build, by_row, config_of, same
from reference.attention_segmented_cte import model, truth
from reference.attention_segmented_cte_bound import bound
from reference.contracts.attention_segmented_cte import CONTRACT, Config, results
from reference.errors import KernelArgumentError
from reference.numerics import DEFAULT, variants
from reference.numerics.formats import format_of
from reference.recorder import ListRecorder
from reference.segment_schedule import schedule

Array = NDArray[Any]

TINY = {"d_head": 2, "prior_seg_size": 128}

#: Prior tokens and what differs from a small config.
BY_HAND: dict[str, tuple[int, dict[str, Any]]] = {
    "no prior": (0, {}),
    "full segments only, path A": (256, {}),
    "partial and full, path B": (208, {}),
    "partial only, one key tile and a rest": (560, {"prior_seg_size": 656}),
    "reciprocal below the integer": (656, {"prior_seg_size": 656}),
    "one large tile and a rest": (2304, {"prior_seg_size": 2304}),
    "sink, path B": (208, {"sink": "float32"}),
    "sink and scales": (144, {"sink": "bfloat16", "k_scale": True, "v_scale": True, "scale": 0.71}),
    "split row": (144, {"seqlen_q": 256, "sink": "float32"}),
    "split row at whole blocks": (256, {"seqlen_q": 768, "block_size": 256, "prior_seg_size": 256}),
    "window": (208, {"sliding_window": 64, "sink": "float32"}),
    "window without prior": (0, {"sliding_window": 64}),
    "window past the start": (48, {"sliding_window": 128}),
    "window over several key tiles": (704, {"sliding_window": 640, "block_size": 64, "prior_seg_size": 64}),
    "window in a split row": (64, {"sliding_window": 48, "seqlen_q": 256}),
    "offset": (208, {"kvp": True}),
    "float32 queries": (16, {"dtype": "float32", "k_scale": True}),
    "fp8 cache": (144, {"kv_dtype": "float8_e4m3", "k_pre_transposed": True, "tp_q": False, "tp_out": True}),
    "fp8_e5m2 cache, groups of heads": (144, {"kv_dtype": "float8_e5m2", "num_q_heads": 4, "num_kv_heads": 2}),
    "negative scale": (144, {"scale": -0.5}),
    "short blocks": (20, {"block_size": 4, "prior_seg_size": 12}),
}


def picked(config: Config) -> list[tuple[int, int]]:
    """Queries at the edges of groups, of the split and of the chunk, spread over the rows."""
    last = config.seqlen_q - 1
    own = [0, 63, 127, *((128, last) if last > 127 else ())]
    return [((config.rows - 1 - n) % config.rows, i) for n, i in enumerate(own)] + [(config.rows - 1, last)]


@pytest.mark.parametrize("name", BY_HAND)
def test_model_has_the_bits_of_the_contract_by_hand(name: str) -> None:
    prior, changes = BY_HAND[name]
    assert_by_hand(config_of(prior, **TINY | changes), prior)


@pytest.mark.parametrize("offset", [-40, 20, 150, 300])
def test_an_offset_that_hides_keys_has_the_bits_of_the_contract_by_hand(offset: int) -> None:
    assert_by_hand(config_of(208, **TINY, kvp=True, num_q_heads=2), 208, offset)


def assert_by_hand(config: Config, prior: int, offset: int | None = None) -> None:
    inputs = build(config, prior, seed=prior, offset=offset)
    got = model(config, inputs)
    out = by_row(config, got["out"])
    for row, i in picked(config):
        expected = by_hand.query(config, inputs, row, i)
        assert same(out[row, i], np.float32(expected.out)), (row, i)
        if config.kvp:
            assert same(got["neg_max"][row, i], np.float32(expected.neg_max)), (row, i)
            assert same(got["sum_recip"][row, i], np.float32(expected.sum_recip)), (row, i)


# --- distance from the truth ------------------------------------------------------------------------------

WITHIN: dict[str, tuple[int, dict[str, Any]]] = {
    "path A": (1024, {"num_q_heads": 3}),
    "path B": (1296, {"num_q_heads": 3, "sink": "float32"}),
    "many segments": (4096, {"prior_seg_size": 128, "block_size": 128}),
    "split row": (1296, {"seqlen_q": 640}),
    "window": (1296, {"sliding_window": 272, "sink": "bfloat16", "seqlen_q": 384}),
    "offset": (1296, {"kvp": True, "num_q_heads": 2}),
    "float32 queries, scales": (272, {"dtype": "float32", "k_scale": True, "v_scale": True}),
    "scale and sequences": (272, {"scale": 1.7, "batch": 2, "num_q_heads": 2, "tp_out": True}),
    "fp8": (272, {"kv_dtype": "float8_e4m3", "k_pre_transposed": True}),
}


@pytest.mark.parametrize("name", WITHIN)
def test_model_is_within_the_bound_of_the_truth(name: str) -> None:
    prior, changes = WITHIN[name]
    config = config_of(prior, **{"d_head": 64} | changes)
    assert_within(config, build(config, prior))


@pytest.mark.parametrize("offset", [-500, -40, 100, 700])
def test_a_hidden_query_is_zero_and_statistics_are_within_their_bounds(offset: int) -> None:
    config = config_of(528, kvp=True, num_q_heads=2)
    inputs = build(config, 528, offset=offset)
    assert_within(config, inputs)
    got = model(config, inputs)
    blind = max(0, min(config.seqlen_q, -offset))
    assert (got["out"][:, :blind] == 0).all()
    assert (got["neg_max"][:, :blind] == 2.0**127).all()
    assert (got["sum_recip"][:, :blind] == 2.0**126).all()


def assert_within(config: Config, inputs: dict[str, Array], profile: Any = DEFAULT) -> None:
    got, exact, limit = model(config, inputs, profile), truth(config, inputs), bound(config, inputs)
    assert set(got) == set(exact) == set(limit) == set(results(config))
    for name, allowed in limit.items():
        assert got[name].dtype == format_of(results(config)[name].dtype).storage
        assert (np.abs(got[name].astype(np.float64) - exact[name]) <= allowed).all(), name


@pytest.mark.parametrize(
    "profile", [profile for _, profile in variants()], ids=[name for name, _ in variants()]
)
def test_every_noise_class_answer_stays_within_the_bound(profile: Any) -> None:
    config = config_of(656, sink="float32", seqlen_q=256)
    assert_within(config, build(config, 656), profile)


def test_the_bound_is_narrow_enough_to_see_a_value_row_swapped() -> None:
    config = config_of(272)
    inputs = build(config, 272)
    swapped = inputs | {"v_cache": inputs["v_cache"].copy()}
    block = int(inputs["block_tables"][0, 0])
    swapped["v_cache"][block, 0, [3, 4]] = inputs["v_cache"][block, 0, [4, 3]]
    off = np.abs(model(config, swapped)["out"].astype(np.float64) - truth(config, inputs)["out"])
    assert (off > bound(config, inputs)["out"]).any()


def test_truth_is_plain_softmax_attention() -> None:
    config = config_of(32, sink="float32", scale=0.7, num_q_heads=2)
    inputs = build(config, 32)
    table = inputs["block_tables"][0, :10]
    keys, values = (inputs[n][table, 0].reshape(160, -1).astype(np.float64) for n in ("k_cache", "v_cache"))
    exact = truth(config, inputs)["out"]
    for row, i in ((0, 0), (0, 100), (1, 127)):
        scores = 0.7 * keys[: 33 + i] @ inputs["q"][row, i].astype(np.float64)
        weights = np.exp(scores)
        expected = weights @ values[: 33 + i] / (weights.sum() + np.exp(float(inputs["sink"][row, 0])))
        np.testing.assert_allclose(exact[row, i], expected, rtol=1e-12, atol=1e-14)


# --- what changes no bit ----------------------------------------------------------------------------------


def _out(config: Config, inputs: dict[str, Array]) -> Array:
    return by_row(config, model(config, inputs)["out"])


def test_layouts_of_queries_keys_and_result_change_no_bit() -> None:
    plain = config_of(272, num_q_heads=4, num_kv_heads=2, sink="float32")
    inputs = build(plain, 272)
    turned = dataclasses.replace(plain, tp_q=False, tp_out=True, k_pre_transposed=True)
    keys = inputs["k_cache"].transpose(0, 1, 3, 2).reshape(-1, plain.d_head, plain.block_size)
    other = inputs | {"q": inputs["q"].transpose(0, 2, 1), "k_cache": keys}
    assert same(_out(turned, other), _out(plain, inputs))


def test_permuting_blocks_with_the_cache_changes_no_bit() -> None:
    config = config_of(272, batch=2)
    inputs = build(config, 272)
    order = np.random.default_rng(1).permutation(config.num_blocks)
    table, named = inputs["block_tables"], inputs["block_tables"] >= 0
    moved = np.where(named, np.argsort(order)[np.where(named, table, 0)], -1).astype(np.int32)
    other = inputs | {name: inputs[name][order] for name in ("k_cache", "v_cache")} | {"block_tables": moved}
    assert same(_out(config, other), _out(config, inputs))


@pytest.mark.parametrize("changes", [{"num_q_heads": 2}, {"batch": 3, "kvp": True}, {"batch": 1}, {"batch": 3}])
def test_one_core_and_two_have_the_same_bits_where_no_row_is_split(changes: dict[str, Any]) -> None:
    config = config_of(272, **changes)
    inputs = build(config, 272)
    assert same(_out(dataclasses.replace(config, lnc=1), inputs), _out(config, inputs))


def test_a_split_row_differs_from_a_whole_one_by_rounding_only() -> None:
    config = config_of(272, seqlen_q=640)
    inputs = build(config, 272)
    two, one = _out(config, inputs), _out(dataclasses.replace(config, lnc=1), inputs)
    limit = bound(config, inputs)["out"]
    assert same(two[:, :384], one[:, :384])
    assert not same(two, one)
    assert (np.abs(two.astype(np.float64) - one.astype(np.float64)) <= 2 * limit).all()


def test_an_fp8_cache_equals_its_values_in_bfloat16() -> None:
    config = config_of(272, kv_dtype="float8_e4m3")
    inputs = build(config, 272)
    wide = inputs | {n: inputs[n].astype(np.float32).astype(inputs["q"].dtype) for n in ("k_cache", "v_cache")}
    assert same(_out(dataclasses.replace(config, kv_dtype="bfloat16"), wide), _out(config, inputs))


def test_k_scale_of_a_power_of_two_equals_scaled_queries() -> None:
    config = config_of(272, k_scale=True)
    inputs = build(config, 272)
    inputs["k_scale"][...] = 2.0
    plain = {name: x for name, x in inputs.items() if name != "k_scale"}
    plain["q"] = (2 * plain["q"].astype(np.float32)).astype(plain["q"].dtype)
    assert same(_out(dataclasses.replace(config, k_scale=False), plain), _out(config, inputs))


def test_one_chunk_and_several_over_a_growing_cache_differ_by_rounding_only() -> None:
    prior, whole = 208, config_of(208, seqlen_q=512)
    inputs = build(whole, prior)
    once, limit = _out(whole, inputs), bound(whole, inputs)["out"]
    for first in range(0, 512, 128):
        config = dataclasses.replace(whole, seqlen_q=128)
        piece = inputs | {
            "q": inputs["q"][:, first : first + 128],
            "prior_tokens": np.array([[prior + first]], np.int32),
        }
        off = _out(config, piece).astype(np.float64) - once[:, first : first + 128].astype(np.float64)
        both = limit[:, first : first + 128] + bound(config, piece)["out"]
        assert (np.abs(off) <= both).all(), first


@pytest.mark.parametrize("size", [16, 128, 336, 1024])
def test_the_length_of_segments_changes_rounding_only(size: int) -> None:
    config = config_of(1008)
    inputs = build(config, 1008)
    other = dataclasses.replace(config, prior_seg_size=size)
    off = _out(other, inputs).astype(np.float64) - _out(config, inputs).astype(np.float64)
    assert (np.abs(off) <= bound(config, inputs)["out"] + bound(other, inputs)["out"]).all()


def test_a_window_over_everything_equals_none_up_to_rounding() -> None:
    config = config_of(272)
    inputs = build(config, 272)
    wide = dataclasses.replace(config, sliding_window=400)
    off = _out(wide, inputs).astype(np.float64) - _out(config, inputs).astype(np.float64)
    assert (np.abs(off) <= bound(config, inputs)["out"] + bound(wide, inputs)["out"]).all()


def test_an_offset_equal_to_the_prior_gives_the_plain_result_up_to_rounding() -> None:
    config = config_of(1296, num_q_heads=2)
    inputs = build(config, 1296)
    offset = dataclasses.replace(config, kvp=True)
    given = inputs | {"kvp_offset": np.array([[1296]], np.int32)}
    off = _out(offset, given).astype(np.float64) - _out(config, inputs).astype(np.float64)
    assert (np.abs(off) <= 2 * bound(config, inputs)["out"]).all()


def test_ranks_of_a_divided_cache_join_to_the_whole() -> None:
    """Two ranks with 256 tokens each and their own offsets, joined by their statistics in float64."""
    whole = config_of(384, batch=1)
    inputs = build(whole, 384)
    parts = []
    for rank in (0, 1):
        config = dataclasses.replace(whole, kvp=True)
        table = np.full_like(inputs["block_tables"], -1)
        # A rank holds 256 tokens: 128 behind 128 of prior, seen through its own offset.
        table[:, :16] = inputs["block_tables"][:, 16 * rank : 16 * rank + 16]
        offset = 384 - 256 * rank
        given = inputs | {
            "block_tables": table,
            "prior_tokens": np.array([[128]], np.int32),
            "kvp_offset": np.array([[offset]], np.int32),
        }
        parts.append({n: x.astype(np.float64) for n, x in model(config, given).items()})
    top = np.maximum(-parts[0]["neg_max"], -parts[1]["neg_max"])
    weights = [np.exp(-p["neg_max"] - top) / p["sum_recip"] for p in parts]
    joined = sum(w[..., None] * p["out"] for w, p in zip(weights, parts, strict=True)) / sum(weights)[..., None]
    assert (np.abs(joined - truth(whole, inputs)["out"]) <= 2 * bound(whole, inputs)["out"]).all()


def test_memory_grows_with_the_chunk_and_not_with_the_prior() -> None:
    peaks = {}
    for prior, queries in ((1024, 256), (16384, 256), (1024, 2048)):
        config = config_of(prior, block_size=128, seqlen_q=queries, d_head=64)
        inputs = build(config, prior)
        tracemalloc.start()
        model(config, inputs)
        peaks[prior, queries] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[16384, 256] < 1.1 * peaks[1024, 256]
    assert peaks[1024, 2048] > 1.5 * peaks[1024, 256]


# --- skipped pages and poison -----------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"seqlen_q": 256}, {"sliding_window": 64}, {"kvp": True}])
def test_nothing_but_the_pages_in_use_is_read(changes: dict[str, Any]) -> None:
    config = config_of(208, **changes)
    inputs = build(config, 208)
    clean = inputs | {name: np.nan_to_num(inputs[name]) for name in ("k_cache", "v_cache")}
    clean["block_tables"] = np.where((inputs["block_tables"] < 0), 0, inputs["block_tables"])
    assert np.isnan(inputs["v_cache"].astype(np.float32)).any()
    assert same(_out(config, inputs), _out(config, clean))
    assert np.isfinite(_out(config, inputs).astype(np.float32)).all()


def test_a_nan_in_a_page_in_use_is_seen() -> None:
    config = config_of(208)
    inputs = build(config, 208)
    inputs["v_cache"][inputs["block_tables"][0, 0], 0, 0, 0] = np.nan
    assert np.isnan(_out(config, inputs)[..., 0].astype(np.float32)).all()


def test_skipped_pages_of_padding_reach_padding_only() -> None:
    config = config_of(208, seqlen_q=256)
    inputs = build(config, 208)
    table = inputs["block_tables"].copy()
    table[:, (208 + 96) // 16 :] = -1
    short, whole = _out(config, inputs | {"block_tables": table}), _out(config, inputs)
    assert same(short[:, :96], whole[:, :96])
    assert np.isfinite(short.astype(np.float32)).all()
    assert not same(short[:, 96:], whole[:, 96:])


# --- schedule, points, refusals ---------------------------------------------------------------------------


def test_the_product_with_the_reciprocal_never_counts_a_segment_too_many() -> None:
    short = set()
    for size in range(128, 10241, 128):
        for count in range(131072 // size + 1):
            full = schedule(count * size, size).num_full
            assert full in (count, count - 1)
            if full != count:
                short.add(size)
    assert short == {5248, 6016, 7040, 7808}


def test_every_recorded_point_is_in_the_contract_and_every_point_is_recorded() -> None:
    seen: set[str] = set()
    for name in ("split row", "sink and scales", "window", "offset", "one large tile and a rest"):
        prior, changes = BY_HAND[name]
        config = config_of(prior, **TINY | changes)
        record = ListRecorder()
        got = model(config, build(config, prior), record=record)
        assert same(_out(config, build(config, prior)), by_row(config, got["out"]))
        for entry in record:
            point = CONTRACT.point(entry.point)
            assert len(entry.tile) == len(point.index), entry.name
            assert entry.value.dtype == format_of(point.dtype).storage, entry.name
        seen |= set(record.points)
    full = config_of(256, **TINY)
    record = ListRecorder()
    model(full, build(full, 256), record=record)
    seen |= set(record.points)
    assert record.value("num_full")[0, 0] == 2
    assert sum(entry.name == "corr_0_0" for entry in record) == 2
    assert seen == {point.name for point in CONTRACT.points}


REFUSED = {
    "d_head": {"d_head": 129},
    "block_size": {"block_size": 2},
    "heads": {"num_q_heads": 3, "num_kv_heads": 2},
    "seqlen": {"seqlen_q": 192},
    "seqlen_limit": {"seqlen_q": 10368},
    "segment": {"prior_seg_size": 24},
    "segment_limit": {"prior_seg_size": 10256},
    "window": {"sliding_window": 24},
    "window_limit": {"sliding_window": 10256},
    "window_kvp": {"sliding_window": 64, "kvp": True},
    "dtypes": {"dtype": "float16"},
    "scale": {"scale": float("nan")},
    "lnc": {"lnc": 3},
    "flags": {"tp_q": 1},
    "sizes": {"batch": 0},
    "table": {"max_blocks": 7},
    "tokens": {"max_blocks": 2**20},
}


@pytest.mark.parametrize("rule", REFUSED)
def test_an_illegal_config_is_refused_by_its_rule(rule: str) -> None:
    legal = config_of(0)
    found = CONTRACT.refusal(dataclasses.replace(legal, **REFUSED[rule]))
    assert found is not None
    assert found.rule == rule


@pytest.mark.parametrize("scale", [4e38, -1e300, 10**400, float("-inf"), True, None, "1"])
def test_a_scale_that_no_float32_holds_is_refused(scale: Any) -> None:
    found = CONTRACT.refusal(dataclasses.replace(config_of(0), scale=scale))
    assert found is not None
    assert found.rule == "scale"


EDGES: tuple[dict[str, Any], ...] = (
    {"d_head": 128},
    {"d_head": 1},
    {"block_size": 4, "prior_seg_size": 4},
    {"block_size": 512, "seqlen_q": 512},
    {"num_q_heads": 1, "num_kv_heads": 5},
    {"seqlen_q": 10240},
    {"prior_seg_size": 10240},
    {"sliding_window": 10240},
    {"max_blocks": 8},
    {"max_blocks": 2**19},
    {"scale": -3.4e38},
    {"scale": 3.4028235e38},
)


@pytest.mark.parametrize("change", EDGES, ids=str)
def test_the_last_legal_config_is_accepted(change: dict[str, Any]) -> None:
    assert config_of(0, **change)


@pytest.mark.parametrize("lnc", [1, 2])
@pytest.mark.parametrize("change", [{}, {"kvp": True}, {"block_size": 256, "prior_seg_size": 256}], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("queries", [256, 1280])
def test_slices_hold_every_query_once(queries: int, rows: int, change: dict[str, Any], lnc: int) -> None:
    config = config_of(0, seqlen_q=queries, batch=rows, lnc=lnc, **change)
    held = np.zeros((rows, queries), np.int64)
    for part in config.slices:
        held[part.row, part.first : part.first + part.length] += 1
        assert part.first % config.block_size == part.length % 128 == 0
    assert (held == 1).all()
    assert {part.core for part in config.slices} <= set(range(lnc))


def test_every_rule_about_configs_has_a_config_that_breaks_it() -> None:
    assert set(REFUSED) == {rule.id for rule in CONTRACT.rules}


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("tensors_given", {"q": None}),
        ("tensors_unused", {"sink": np.zeros((1, 1), np.float32)}),
        ("tensor_shapes", {"prior_tokens": np.zeros((1,), np.int32)}),
        ("prior_tokens", {"prior_tokens": np.array([[8]], np.int32)}),
        ("prior_tokens", {"prior_tokens": np.array([[-16]], np.int32)}),
        ("prior_tokens", {"prior_tokens": np.array([[112]], np.int32)}),
        ("table_entries", {"block_tables": np.array([[-1, *range(13)]], np.int32)}),
        ("table_entries", {"block_tables": np.array([[*range(5), -1, *range(6, 14)]], np.int32)}),
        ("table_entries", {"block_tables": np.array([[*range(5), 99, *range(6, 14)]], np.int32)}),
    ],
)
def test_an_illegal_call_is_refused_by_its_rule(rule: str, change: dict[str, Any]) -> None:
    config = config_of(48)
    inputs = build(config, 48)
    model(config, inputs)
    with pytest.raises(KernelArgumentError, match=rf"\[{rule}\]"):
        model(config, inputs | change)
