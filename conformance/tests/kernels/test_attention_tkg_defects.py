"""Defects of public decode attention kernels, each with the input that reveals it, on the model.

The names B1 to B18 are those of the contract's list. Where a defect can be played by changing the inputs (a
mask read in another order, a wrong batch's mask), the test also shows that the input would reveal it. B3 (an
alignment) and B7 (a broadcast) have no place in a model; B6 belongs to another kernel.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.tests.kernels.attention_tkg_inputs import (
    BLOCK,
    ROPE,
    bits,
    build,
    by_query,
    config_of,
    same,
    stored,
)
from reference import cascaded_softmax
from reference.attention_mask import block_rows, position_mask
from reference.attention_tkg import model, truth
from reference.attention_tkg_bound import bound
from reference.contracts.attention_tkg import Config, refusal
from reference.kv_cache import token_map
from reference.recorder import ListRecorder

Array = NDArray[Any]
Inputs = dict[str, Array]


def sized(sizes: tuple[int, ...], **changes: Any) -> Config:
    """A config from (bs, q_head, s_active, curr_sprior) with a short head."""
    names = ("bs", "q_head", "s_active", "curr_sprior")
    return config_of(
        **{"d_head": 4, "full_sprior": sizes[3]} | dict(zip(names, sizes, strict=True)) | changes
    )


def natural_mask(config: Config, tokens: Array) -> Array:
    """uint8 [S, B, H, s], row = token, that keeps tokens [B, s] alone."""
    mask = np.zeros((config.curr_sprior, config.bs, config.q_head, config.s_active), np.uint8)
    for (b, j), token in np.ndenumerate(tokens):
        mask[token, b, :, j] = 1
    return mask


def in_blocks(config: Config, mask: Array) -> Array:
    return mask[block_rows(config.curr_sprior, config.plan.n_seq, config.plan.block_len)]


def rows_of_values(config: Config, inputs: Inputs, tokens: Array) -> Array:
    """float32 [B, s, d]: what the tokens [B, s] hold, new tokens included."""
    if config.block_kv:
        prior = inputs["v_prior"][inputs["active_blocks_table"]].reshape(config.bs, -1, config.d_head)
    else:
        prior = inputs["v_prior"][: config.bs, 0, : config.curr_sprior]
    whole = prior.copy()
    whole[:, config.curr_sprior - config.s_active :] = inputs["v_active"][:, 0]
    return np.take_along_axis(whole, tokens[:, :, None], axis=1).astype(np.float32)


def assert_selects(config: Config, inputs: Inputs, tokens: Array) -> None:
    """out is the value row of the one kept token, bit for bit."""
    out = by_query(config, model(config, inputs)["out"])
    assert (out == rows_of_values(config, inputs, tokens)[:, None]).all()


def test_b1_two_runs_give_the_same_bits() -> None:
    for changes in ({"sink": "float32"}, ROPE, BLOCK):
        config = config_of(**changes)
        inputs = build(config)
        assert same(model(config, inputs), model(config, inputs))


@pytest.mark.parametrize(("slots", "length"), [(16640, 1), (10240, 8)])
def test_b2_every_new_value_row_is_found_with_short_blocks(slots: int, length: int) -> None:
    config = sized((4, 1, 5, slots), **BLOCK)
    assert config.plan.block_len == length
    inputs = build(config)
    tokens = np.broadcast_to(np.arange(slots - 5, slots), (4, 5))
    inputs["mask"] = in_blocks(config, natural_mask(config, tokens))
    assert_selects(config, inputs, tokens)


def test_b4_each_core_uses_the_active_mask_of_its_own_batches() -> None:
    config = sized((4, 8, 5, 256), use_pos_id=True, limits="latest")
    assert config.plan.sharding == "batch"
    inputs = build(config)
    inputs["mask"] = np.random.default_rng(2).integers(0, 2, inputs["mask"].shape).astype(np.uint8)
    whole = dataclasses.replace(config, use_pos_id=False)
    right = position_mask(inputs["rope_pos_ids"], inputs["mask"], 256)
    wrong = position_mask(inputs["rope_pos_ids"], inputs["mask"][:, [0, 1, 0, 1]], 256)
    got = model(config, inputs)
    rest = {name: x for name, x in inputs.items() if name != "rope_pos_ids"}
    assert same(got, model(whole, rest | {"mask": right}))
    assert not same(got, model(whole, rest | {"mask": wrong}))


def test_b4_is_refused_under_the_limits_of_the_published_page() -> None:
    found = refusal(dataclasses.replace(sized((4, 8, 5, 256)), use_pos_id=True))
    assert found is not None
    assert found.rule == "pos_id_batch"


def test_b5_a_window_ends_at_the_first_query_for_all() -> None:
    """Large values planted in the slots that are still stale must not be seen by later queries."""
    config = sized((1, 2, 5, 512), lnc=1)
    inputs = build(config)
    first, width = 300, 128
    ends = np.full(5, first)
    starts = first + np.arange(5) - width + 1
    slots = np.arange(512)
    prior = (slots >= starts[:, None]) & (slots < ends[:, None])
    mask = np.zeros((512, 1, 2, 5), np.uint8)
    mask[:, 0] = prior.T[:, None]
    mask[507:, 0] = np.triu(np.ones((5, 5), np.uint8))[:, None]
    inputs["mask"] = mask
    plain = model(config, inputs)
    for slot in range(first, first + 5):
        inputs["v_prior"][0, 0, slot] = stored(1e30, "bfloat16")
    assert same(model(config, inputs), plain)
    own_end = (slots >= starts[:, None]) & (slots < first + np.arange(5)[:, None])
    assert own_end[4, first : first + 4].all()
    assert not prior[:, first:].any()


@pytest.mark.parametrize("sink", [None, "float32"])
def test_b8_fully_masked_leading_flash_tiles_of_core_1_give_no_nan(sink: str | None) -> None:
    config = sized((1, 1, 1, 49152), sink=sink)
    assert len(config.plan.flash_tiles) == 3
    inputs = build(config)
    inputs["mask"][100:-1] = 0
    inputs["mask"][-1] = 1
    assert_within(config, inputs)


def test_b8_shows_where_maxima_have_no_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    config = sized((1, 1, 1, 49152))
    inputs = build(config)
    inputs["mask"][100:-1] = 0
    monkeypatch.setattr(cascaded_softmax, "FLOOR", np.float32(-np.inf))
    assert np.isnan(model(config, inputs)["out"].astype(np.float32)).all()


@pytest.mark.parametrize("sink", [None, "float32"])
def test_b8_a_window_in_the_last_of_three_flash_tiles_gives_no_nan(sink: str | None) -> None:
    config = sized((1, 1, 1, 24576), lnc=1, sink=sink)
    inputs = build(config)
    inputs["mask"][:24000] = 0
    assert_within(config, inputs)


def assert_within(config: Config, inputs: Inputs) -> None:
    out, exact = model(config, inputs)["out"].astype(np.float64), truth(config, inputs)["out"]
    assert np.isfinite(out).all()
    assert (np.abs(out - exact) <= bound(config, inputs)["out"]).all()


def test_b9_the_mask_rows_of_block_kv_with_96_key_tiles() -> None:
    config = sized((4, 1, 5, 12288), **BLOCK, lnc=1)
    assert sum(tile.key_tiles for tile in config.plan.flash_tiles) == 96
    inputs = build(config)
    tokens = np.random.default_rng(4).integers(0, 12288, (4, 5))
    inputs["mask"] = in_blocks(config, natural_mask(config, tokens))
    assert_selects(config, inputs, tokens)


def test_b10_the_resize_counts_sequence_shards_not_cores() -> None:
    config = sized((8, 8, 5, 4096), **BLOCK | {"block_len": 128})
    assert config.plan.sharding == "batch"
    assert config.plan.block_len == 32
    inputs = build(config)
    tokens = np.random.default_rng(4).integers(0, 4096, (8, 5))
    mask = natural_mask(config, tokens)
    inputs["mask"] = in_blocks(config, mask)
    assert_selects(config, inputs, tokens)
    assert not (block_rows(4096, 1, 32) == block_rows(4096, 1, 16)).all()


def test_b11_block_tables_of_more_than_128_batches_per_core() -> None:
    config = sized((260, 1, 1, 128), **BLOCK)
    assert config.plan.batches_per_core == 130
    assert config.plan.block_factor == 16
    inputs = build(config)
    tokens = np.random.default_rng(4).integers(0, 128, (260, 1))
    inputs["mask"] = in_blocks(config, natural_mask(config, tokens))
    assert_selects(config, inputs, tokens)


@pytest.mark.parametrize("d_head", [72, 5, 128])
def test_b12_b15_any_width_and_head_size_is_exchanged(d_head: int) -> None:
    config = sized((5, 7, 7, 256), d_head=d_head, sink="float32")
    assert config.plan.sharding == "sequence"
    assert 128 < config.bs * config.columns_per_batch <= 256
    assert_within(config, build(config))


def test_b13_a_flat_mask_has_its_rows_in_token_order() -> None:
    config = sized((2, 1, 2, 1024), lnc=1)
    inputs = build(config)
    tokens = np.array([[1, 1000], [513, 1023]])
    inputs["mask"] = natural_mask(config, tokens)
    assert_selects(config, inputs, tokens)
    in_tiles = inputs | {"mask": inputs["mask"][token_map("strided", 1024).reshape(-1)]}
    assert not same(model(config, in_tiles), model(config, inputs))


def test_b14_one_column_and_one_key_tile() -> None:
    config = sized((1, 1, 1, 128), lnc=1)
    inputs = build(config)
    inputs["mask"] = natural_mask(config, np.array([[77]]))
    assert_selects(config, inputs, np.array([[77]]))
    inputs["mask"][:64] = 1
    assert_within(config, inputs)


def test_b16_rotation_near_the_end_of_its_range() -> None:
    config = sized((1, 2, 2, 256), **ROPE)
    inputs = build(config)
    inputs["rope_pos_ids"] = np.array([[2**17 - 2, 2**17 - 1]], np.float32)
    inputs["inv_freqs"] = np.linspace(1, 1e-4, 32, dtype=np.float32)[:, None]
    error = np.abs(model(config, inputs)["k_out"].astype(np.float64) - truth(config, inputs)["k_out"])
    assert (error <= bound(config, inputs)["k_out"]).all()
    longer = dataclasses.replace(config, curr_sprior=2**17 + 256, full_sprior=2**18)
    found = refusal(longer)
    assert found is not None
    assert found.rule == "rope_sprior"


def test_b17_turns_are_counted_to_the_nearest_integer() -> None:
    config = sized((1, 1, 5, 4096), **ROPE)
    inputs, record = build(config), ListRecorder()
    model(config, inputs, record=record)
    for e in (0, 1):
        turns, count = record.value("rope_turns", (e,)), record.value("rope_count", (e,))
        assert (count == np.rint(turns)).all()
        assert (np.abs(record.value("rope_residual", (e,))) <= np.pi + 1e-3).all()
        cut = record.value("rope_shifted", (e,)) - np.trunc(turns) * np.float32(2 * np.pi) - np.float32(np.pi)
        assert (np.abs(cut) > np.pi + 1).any()


def test_b18_dropped_values_do_not_leak_and_a_late_position_adds_nothing() -> None:
    config = config_of(use_pos_id=True, bs=1)
    inputs = build(config)
    inputs["rope_pos_ids"][:] = 200 + np.arange(3, dtype=np.float32)
    plain = model(config, inputs)
    inputs["v_prior"] = inputs["v_prior"].copy()
    inputs["v_prior"][0, 0, 200:] = np.nan
    assert same(model(config, inputs), plain)
    full = build(config)
    results = []
    for first in (509, 510, 512):
        full["rope_pos_ids"][:] = first
        results.append(bits(model(config, full)["out"]))
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all()
