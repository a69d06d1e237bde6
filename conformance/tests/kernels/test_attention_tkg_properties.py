"""What must not change a bit of `attention_tkg`, what must give a known result, and what must never be read.

No tolerance anywhere: each claim is about bits. Deterministic; run a test again by its id.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.tests.kernels.attention_tkg_inputs import (
    BLOCK,
    FP8,
    ROPE,
    bits,
    build,
    by_query,
    config_of,
    dtype_changes,
    same,
    stored,
)
from reference.attention_mask import position_mask
from reference.attention_tkg import model, truth
from reference.attention_tkg_bound import bound
from reference.contracts import attention_tkg_plan
from reference.contracts.attention_tkg import Config, refusal

Array = NDArray[Any]
Inputs = dict[str, Array]

LAYOUTS = {
    "strided": {},
    "strided, LNC1": {"lnc": 1},
    "sequential": {"strided_mm1": False},
    "transposing K": {"tp_k_prior": True},
    "block": BLOCK,
    "block, LNC1": BLOCK | {"lnc": 1},
    "batch-sharded": {"bs": 4, "q_head": 8, "s_active": 5},
}
DTYPES = {
    "bfloat16": {},
    "float16": dtype_changes("float16") | {"out_dtype": "float16"},
    "float32": dtype_changes("float32") | {"out_dtype": "float32"},
    "FP8 cache": FP8,
    "all FP8": dtype_changes("float8_e4m3"),
}


def changed(config: Config, **changes: Any) -> Config:
    found = dataclasses.replace(config, **changes)
    assert refusal(found) is None, refusal(found)
    return found


def keep_only(config: Config, inputs: Inputs, tokens: Array) -> None:
    """Leave one key per batch and query: tokens [B, s], in the row order the mask has for this config."""
    plan = config.plan
    mask = np.zeros_like(inputs["mask"])
    for b in range(config.bs):
        for j in range(config.s_active):
            mask[row_of(config, plan, int(tokens[b, j])), b, :, j] = 1
    inputs["mask"] = mask


def row_of(config: Config, plan: attention_tkg_plan.Plan, token: int) -> int:
    """Row of a token in a pre-generated mask: tile, then partition, for a block cache; else the token."""
    if not config.block_kv:
        return token
    core, local = divmod(token, plan.keys_per_core)
    fold, rest = divmod(local, 128 * plan.block_len)
    p, u = divmod(rest, plan.block_len)
    return core * plan.keys_per_core + (fold * plan.block_len + u) * 128 + p


def value_at(config: Config, inputs: Inputs, b: int, token: int) -> Array:
    """The row of V that a token has, new tokens included, float32 [d]."""
    new = token - (config.curr_sprior - config.s_active)
    if new >= 0:
        return inputs["v_active"][b, 0, new].astype(np.float32)
    if config.block_kv:
        block = int(inputs["active_blocks_table"][b, token // config.block_len])
        return inputs["v_prior"][block, token % config.block_len].astype(np.float32)
    return inputs["v_prior"][b, 0, token].astype(np.float32)


def swap_rows(x: Array) -> Array:
    return np.ascontiguousarray(x.swapaxes(2, 3))


# --- same bits --------------------------------------------------------------------------------------------


def test_transposing_k_on_load_changes_no_bit() -> None:
    config = config_of()
    inputs = build(config)
    turned = inputs | {"k_prior": swap_rows(inputs["k_prior"])}
    assert same(model(changed(config, tp_k_prior=True), turned), model(config, inputs))


def test_transport_of_the_exchange_changes_no_bit() -> None:
    config = config_of()
    inputs = build(config)
    assert same(model(changed(config, use_gpsimd_sb2sb=False), inputs), model(config, inputs))


def test_placement_of_results_changes_no_bit() -> None:
    config = config_of(**ROPE, bs=2)
    inputs = build(config)
    in_hbm = model(config, inputs)
    placed = changed(config, out_in_sb=True, k_out_in_sb=True)
    in_sbuf = model(placed, inputs)
    shape = (config.d_head, config.bs, config.q_head, config.s_active)
    assert (bits(in_sbuf["out"][0].reshape(shape).transpose(1, 2, 0, 3)) == bits(in_hbm["out"])).all()
    keys = in_sbuf["k_out"][1].reshape(config.d_head, config.bs, config.s_active).transpose(1, 0, 2)
    assert (bits(keys) == bits(in_hbm["k_out"][:, 0])).all()


def test_size_of_the_cache_changes_no_bit() -> None:
    config = config_of(full_sprior=512)
    inputs = build(config)
    larger = changed(config, full_sprior=700, cache_rows=5)
    padded = inputs | {
        "k_prior": stored(np.full((5, 1, config.d_head, 700), np.nan), "bfloat16"),
        "v_prior": stored(np.full((5, 1, 700, config.d_head), np.nan), "bfloat16"),
    }
    padded["k_prior"][:2, :, :, :512] = inputs["k_prior"]
    padded["v_prior"][:2, :, :512] = inputs["v_prior"]
    assert same(model(larger, padded), model(config, inputs))


@pytest.mark.parametrize("changes", [{"bs": 1}, {"lnc": 1}, {"bs": 1, "sink": "float32"}])
def test_positions_and_the_equal_mask_give_the_same_bits(changes: dict[str, Any]) -> None:
    config = config_of(**changes, use_pos_id=True)
    inputs = build(config)
    active = inputs["mask"]
    whole = inputs | {"mask": position_mask(inputs["rope_pos_ids"], active, config.curr_sprior)}
    del whole["rope_pos_ids"]
    assert same(model(changed(config, use_pos_id=False), whole), model(config, inputs))


@pytest.mark.parametrize("changes", [{}, {"sink": "float32"}, {"lnc": 1}])
def test_permuting_pages_changes_no_bit(changes: dict[str, Any]) -> None:
    config = config_of(**BLOCK | changes)
    inputs = build(config)
    order = np.random.default_rng(5).permutation(config.blocks)
    moved = dict(inputs)
    for name in ("k_prior", "v_prior"):
        moved[name] = np.empty_like(inputs[name])
        moved[name][order] = inputs[name]
    moved["active_blocks_table"] = order[inputs["active_blocks_table"]].astype(np.uint32)
    assert not (moved["active_blocks_table"] == inputs["active_blocks_table"]).all()
    assert same(model(config, moved), model(config, inputs))


def one_batch(config: Config, inputs: Inputs, b: int) -> tuple[Config, Inputs]:
    alone = {}
    for name, x in inputs.items():
        if name in ("q", "k_active"):
            alone[name] = x.reshape(config.d_head, config.bs, -1)[:, b]
        elif name == "mask":
            alone[name] = x[:, b : b + 1]
        elif name == "sink":
            alone[name] = x
        else:
            alone[name] = x[b : b + 1]
    return changed(config, bs=1), alone


@pytest.mark.parametrize("changes", [{"bs": 3}, {"bs": 5, "q_head": 7, "s_active": 7, "sink": "float32"}])
def test_a_batch_alone_has_the_bits_it_has_among_others(changes: dict[str, Any]) -> None:
    config = config_of(**changes)
    inputs = build(config)
    together = model(config, inputs)["out"]
    for b in range(config.bs):
        alone = model(*one_batch(config, inputs, b))["out"]
        assert (bits(alone[0]) == bits(together[b])).all()


def test_a_head_alone_has_the_bits_it_has_among_others() -> None:
    config = config_of(q_head=4, sink="bfloat16")
    inputs = build(config)
    together = model(config, inputs)["out"]
    for h in range(config.q_head):
        q = (
            inputs["q"]
            .reshape(config.d_head, config.bs, config.q_head, -1)[:, :, h]
            .reshape(config.d_head, -1)
        )
        alone = inputs | {"q": q, "mask": inputs["mask"][:, :, h : h + 1], "sink": inputs["sink"][h : h + 1]}
        assert (bits(model(changed(config, q_head=1), alone)["out"][:, 0]) == bits(together[:, h])).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"bs": 4, "q_head": 8, "s_active": 5, "sink": "float32"},
        {"curr_sprior": 128},
        {"curr_sprior": 128, "bs": 3},
        {"bs": 4, "q_head": 8, "s_active": 5, **BLOCK},
    ],
)
def test_two_cores_that_share_no_sequence_have_the_bits_of_one(changes: dict[str, Any]) -> None:
    config = config_of(**changes)
    assert config.plan.n_seq == 1
    inputs = build(config)
    assert same(model(changed(config, lnc=1), inputs), model(config, inputs))


def test_cutting_the_batch_into_tiles_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    for changes in ({"bs": 5, "sink": "float32"}, {"bs": 4, "q_head": 8, "s_active": 5, "debug": True}):
        config = config_of(**changes)
        inputs = build(config)
        whole = model(config, inputs)
        with monkeypatch.context() as patch:
            patch.setattr(attention_tkg_plan, "BATCH_TILE_BYTES", 1)
            assert config.plan.batch_tile == 1
            assert same(model(config, inputs), whole)


def test_a_sink_that_weighs_nothing_changes_no_bit() -> None:
    config = config_of()
    inputs = build(config)
    sink = np.full((config.q_head, 1), -1e30, np.float32)
    assert same(model(changed(config, sink="float32"), inputs | {"sink": sink}), model(config, inputs))


# --- known results ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_single_kept_key_returns_its_value_row(layout: str, dtype: str) -> None:
    config = config_of(**LAYOUTS[layout] | DTYPES[dtype])
    inputs = build(config)
    tokens = np.random.default_rng(3).integers(0, config.curr_sprior, (config.bs, config.s_active))
    tokens[0, 0], tokens[-1, -1] = config.curr_sprior - 1, 0
    keep_only(config, inputs, tokens)
    out = by_query(config, model(config, inputs)["out"])
    for b in range(config.bs):
        for j in range(config.s_active):
            expected = stored(value_at(config, inputs, b, int(tokens[b, j])), config.out_dtype)
            assert (out[b, :, j] == expected.astype(np.float32)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tied_scores_return_the_mean(layout: str) -> None:
    config = config_of(**LAYOUTS[layout] | {"out_dtype": "float32"})
    inputs = build(config)
    draw = np.random.default_rng(1)
    inputs["q"] = np.zeros_like(inputs["q"])
    for name in ("v_prior", "v_active"):
        inputs[name] = stored(draw.integers(-4, 5, inputs[name].shape), config.kv_dtype)
    inputs["mask"] = np.ones_like(inputs["mask"])
    out = by_query(config, model(config, inputs)["out"])
    for b in range(config.bs):
        rows = [value_at(config, inputs, b, token) for token in range(config.curr_sprior)]
        assert (out[b] == np.mean(rows, axis=0, dtype=np.float64).astype(np.float32)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_column_that_keeps_nothing_is_nan_and_disturbs_no_other(dtype: str) -> None:
    config = config_of(**dtype_changes(dtype))
    inputs = build(config)
    whole = by_query(config, model(config, inputs)["out"])
    inputs["mask"][:, 1, 0, 2] = 0
    out = by_query(config, model(config, inputs)["out"])
    lost = np.zeros(out.shape, bool)
    lost[1, 0, 2] = True
    assert np.isnan(out[lost]).all()
    assert (out[~lost] == whole[~lost]).all()


def test_a_column_that_keeps_nothing_is_zero_with_a_sink() -> None:
    for changes in ({}, {"lnc": 1}, {"curr_sprior": 20480, "full_sprior": 20480, "bs": 1}):
        config = config_of(**changes, sink="float32")
        inputs = build(config)
        inputs["mask"][:, 0, 1] = 0
        assert (by_query(config, model(config, inputs)["out"])[0, 1] == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_constant_on_all_scores_overflows_nothing(layout: str) -> None:
    config = config_of(**LAYOUTS[layout])
    inputs = build(config)
    inputs["q"].reshape(config.d_head, -1)[0] = 16
    axis = 2 if config.block_kv else 3 if config.tp_k_prior else 2
    np.moveaxis(inputs["k_prior"], axis, 0)[0] = 24
    inputs["k_active"][0] = 24
    out = model(config, inputs)["out"].astype(np.float64)
    assert np.isfinite(out).all()
    assert (np.abs(out - truth(config, inputs)["out"]) <= bound(config, inputs)["out"]).all()


def test_rising_scores_leave_the_last_key_alone_in_every_flash_tile() -> None:
    """Every later tile holds larger scores: a stale maximum or a missing correction shows at once."""
    for lnc, slots in ((1, 24576), (2, 49152)):
        config = config_of(
            bs=1, q_head=1, s_active=1, d_head=2, curr_sprior=slots, full_sprior=slots, lnc=lnc
        )
        inputs = build(config)
        inputs["q"] = stored([[1], [1]], "bfloat16")
        steps = np.arange(slots) // 128 * 16.0
        inputs["k_prior"] = stored(np.stack([steps, np.zeros(slots)])[None, None], "bfloat16")
        inputs["k_active"] = stored([[16384], [0]], "bfloat16")
        inputs["mask"] = np.ones_like(inputs["mask"])
        out = model(config, inputs)["out"].reshape(-1)
        assert (bits(out) == bits(inputs["v_active"].reshape(-1))).all()


# --- never read -------------------------------------------------------------------------------------------


def poison_unread(config: Config, inputs: Inputs, filling: float) -> Inputs:
    """A copy with `filling` in every byte of the caches that no column keeps, and in stale slots."""
    found = {name: x.copy() for name, x in inputs.items()}
    plan, slots = config.plan, config.curr_sprior
    seen = np.zeros((config.bs, slots), bool)
    for token in range(slots - config.s_active):
        seen[:, token] = inputs["mask"][row_of(config, plan, token)].any(axis=(1, 2))
    rows_first = config.block_kv or config.tp_k_prior
    for name in ("k_prior", "v_prior"):
        x = found[name] if rows_first or name == "v_prior" else found[name].swapaxes(2, 3)
        touched = np.zeros(x.shape[:-1], bool)
        for b, token in np.argwhere(seen):
            if config.block_kv:
                touched[
                    inputs["active_blocks_table"][b, token // config.block_len], token % config.block_len
                ] = True
            else:
                touched[b, 0, token] = True
        x[~touched] = filling
    for token in range(slots - config.s_active, slots):
        lost = ~inputs["mask"][row_of(config, plan, token)].any(axis=(1, 2))
        new = token - slots + config.s_active
        found["v_active"][lost, 0, new] = filling
        found["k_active"].reshape(config.d_head, config.bs, -1)[:, lost, new] = filling
    return found


@pytest.mark.parametrize("filling", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_poison_in_dropped_and_stale_slots_shows_nowhere(layout: str, filling: float) -> None:
    changes = {"full_sprior": 640, "cache_rows": 6, "num_blocks": 0}
    if "block_len" in LAYOUTS[layout]:
        changes = {"num_blocks": 200}
    config = config_of(**LAYOUTS[layout] | changes)
    inputs = build(config)
    # Whole keys are dropped by all columns, single ones by some; so are some of the new tokens.
    dropped = np.random.default_rng(9).random(inputs["mask"].shape[:2]) < 0.3
    inputs["mask"][dropped] = 0
    inputs["mask"][-1, 0] = 0
    poisoned = poison_unread(config, inputs, filling)
    assert not np.isfinite(poisoned["v_prior"].astype(np.float32)).all() or filling == 1e30
    assert same(model(config, poisoned), model(config, inputs))


@pytest.mark.parametrize("name", ["k_prior", "v_prior"])
def test_poison_in_a_kept_slot_does_show(name: str) -> None:
    config = config_of()
    inputs = build(config)
    inputs["mask"][7, 0] = 1
    inputs[name] = inputs[name].copy()
    (inputs[name] if name == "v_prior" else inputs[name].swapaxes(2, 3))[0, 0, 7] = np.nan
    out = by_query(config, model(config, inputs)["out"])
    assert np.isnan(out[0]).all()
    assert np.isfinite(out[1]).all()
