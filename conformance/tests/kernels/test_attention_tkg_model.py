"""Claims about the model of `attention_tkg`: the contract's arithmetic, and the distance from the truth.

The model is held against the contract evaluated in scalar rational arithmetic (`attention_tkg_by_hand`), bit by
bit, and against truth within a bound derived from the roundings on an element's path. Every test is
deterministic: run it again by its id.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.tests.kernels import attention_tkg_by_hand as by_hand
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
from reference.attention_tkg import model, truth
from reference.attention_tkg_bound import bound
from reference.contracts.attention_tkg import CONTRACT, Config, results
from reference.errors import KernelArgumentError
from reference.numerics import CHAIN, DEFAULT, variants
from reference.numerics.formats import format_of
from reference.recorder import ListRecorder

Array = NDArray[Any]

SMALL = {"bs": 2, "q_head": 1, "s_active": 2, "curr_sprior": 256, "full_sprior": 256, "d_head": 3}

BY_HAND = {
    "strided, LNC2 over the sequence": SMALL | {"curr_sprior": 512, "full_sprior": 600, "bs": 1},
    "sequential": SMALL | {"strided_mm1": False, "lnc": 1},
    "strided, transposing K": SMALL | {"tp_k_prior": True, "lnc": 1},
    "block": SMALL | BLOCK | {"block_len": 4, "lnc": 1},
    "block cut shorter, LNC2": SMALL
    | BLOCK
    | {"block_len": 8, "curr_sprior": 512, "full_sprior": 512, "bs": 1},
    "sink, LNC2": SMALL | {"sink": "bfloat16", "q_head": 2, "bs": 1},
    "sink, LNC1": SMALL | {"sink": "float32", "lnc": 1, "bs": 1},
    "batch-sharded": SMALL | {"curr_sprior": 128, "full_sprior": 128},
    "neither": SMALL | {"curr_sprior": 128, "full_sprior": 128, "bs": 1, "out_in_sb": True},
    "float32": SMALL | dtype_changes("float32") | {"out_dtype": "float32", "bs": 1},
    "float16 queries, bfloat16 cache": SMALL | {"dtype": "float16", "active_dtype": "float16", "bs": 1},
    "FP8 cache": SMALL | FP8 | {"bs": 1},
    "all FP8": SMALL | dtype_changes("float8_e4m3") | {"bs": 1, "sink": "float16"},
    "positions": SMALL | {"use_pos_id": True, "bs": 1},
    "RoPE from HBM": SMALL | ROPE | {"bs": 1, "use_pos_id": True, "s_active": 1},
    "RoPE from SBUF": SMALL | ROPE | {"bs": 1, "qk_in_sb": True, "s_active": 1, "lnc": 1, "d_head": 128},
}
LONG = {
    "flash tiles, LNC1": {"curr_sprior": 8320, "lnc": 1},
    "flash tiles, LNC1, sink": {"curr_sprior": 8320, "lnc": 1, "sink": "float32"},
    "flash tiles, LNC2, sink": {"curr_sprior": 16640, "sink": "float32"},
    "flash tiles, block": BLOCK | {"curr_sprior": 8448, "lnc": 1, "block_len": 4},
}


@pytest.mark.parametrize("name", BY_HAND)
def test_model_has_the_bits_of_the_contract_by_hand(name: str) -> None:
    config = config_of(**BY_HAND[name])
    assert_by_hand(config, build(config, seed=len(name)))


@pytest.mark.parametrize("name", LONG)
def test_model_has_the_bits_of_the_contract_by_hand_over_flash_tiles(name: str) -> None:
    sizes = {"bs": 1, "q_head": 1, "s_active": 1, "d_head": 2}
    config = config_of(**sizes | LONG[name] | {"full_sprior": LONG[name]["curr_sprior"]})
    inputs = build(config, seed=len(name))
    # Scores of some size, so that the maximum moves from tile to tile and corrections are no ones.
    inputs["q"] = stored(4 * inputs["q"].astype(np.float32), config.dtype)
    assert_by_hand(config, inputs)


def assert_by_hand(config: Config, inputs: dict[str, Array]) -> None:
    expected = by_hand.attention(config, inputs)
    out = by_query(config, model(config, inputs)["out"])
    for (b, h, j), column in expected.items():
        want = stored(column, config.out_dtype).astype(np.float32)
        assert (bits(out[b, h, j]) == bits(want)).all(), (b, h, j)


@pytest.mark.parametrize("qk_in_sb", [False, True])
def test_k_out_has_the_bits_of_the_rotation_by_hand(qk_in_sb: bool) -> None:
    config = config_of(**ROPE | {"qk_in_sb": qk_in_sb, "bs": 2, "s_active": 2})
    inputs = build(config)
    k_out = model(config, inputs)["k_out"].astype(np.float32)
    for (b, j), channels in by_hand.queries(config, inputs)[1].items():
        assert (k_out[b, 0, :, j] == np.float32(channels)).all()


# --- distance from the truth ------------------------------------------------------------------------------

WITHIN = {
    "bfloat16": {},
    "float16": dtype_changes("float16") | {"out_dtype": "float16"},
    "float32": dtype_changes("float32") | {"out_dtype": "float32"},
    "all FP8": dtype_changes("float8_e4m3"),
    "FP8 cache": FP8,
    "float16 over a bfloat16 cache": {"dtype": "float16", "active_dtype": "float16", "out_dtype": "float32"},
    "sink, SBUF": {"sink": "float32", "out_in_sb": True, "bs": 3},
    "block": BLOCK,
    "sequential": {"strided_mm1": False},
    "batch-sharded": {"bs": 4, "q_head": 8, "s_active": 5},
    "RoPE from HBM": ROPE | {"use_pos_id": True},
    "RoPE from SBUF": ROPE | {"qk_in_sb": True, "d_head": 128, "k_out_in_sb": True},
    "flash tiles": {"bs": 1, "curr_sprior": 20480, "full_sprior": 20480, "sink": "bfloat16"},
}


@pytest.mark.parametrize("name", WITHIN)
def test_model_is_within_the_bound_of_the_truth(name: str) -> None:
    config = config_of(**WITHIN[name])
    inputs = build(config)
    got, exact, limit = model(config, inputs), truth(config, inputs), bound(config, inputs)
    for output, allowed in limit.items():
        assert (np.abs(got[output].astype(np.float64) - exact[output]) <= allowed).all(), output


@pytest.mark.parametrize(
    "profile", [profile for _, profile in variants()], ids=[name for name, _ in variants()]
)
def test_every_noise_class_answer_stays_within_the_bound(profile: Any) -> None:
    config = config_of(sink="float32", curr_sprior=256, full_sprior=256, d_head=16)
    inputs = build(config)
    got = model(config, inputs, profile)["out"].astype(np.float64)
    assert (np.abs(got - truth(config, inputs)["out"]) <= bound(config, inputs)["out"]).all()


def _last_token_lost(config: Config, inputs: dict[str, Array]) -> dict[str, Array]:
    mask = inputs["mask"].copy()
    mask[-1] = 0
    return inputs | {"mask": mask}


def _values_swapped(config: Config, inputs: dict[str, Array]) -> dict[str, Array]:
    values = inputs["v_prior"].copy()
    values[:, :, [3, 4]] = values[:, :, [4, 3]]
    return inputs | {"v_prior": values}


def _sink_ignored(config: Config, inputs: dict[str, Array]) -> dict[str, Array]:
    return inputs | {"sink": np.full_like(inputs["sink"], -1e30)}


@pytest.mark.parametrize("fault", [_last_token_lost, _values_swapped, _sink_ignored])
def test_the_bound_catches_faults(fault: Any) -> None:
    config = config_of(curr_sprior=256, full_sprior=256, sink="float32", out_dtype="float32")
    inputs = build(config)
    inputs["q"] = stored(3 * inputs["q"].astype(np.float32), config.dtype)
    inputs["mask"][[3, 4, 255]] = 1
    inputs["sink"][...] = 6
    got = model(config, fault(config, inputs))["out"].astype(np.float64)
    assert (np.abs(got - truth(config, inputs)["out"]) > bound(config, inputs)["out"]).any()


def test_the_bound_is_small_beside_the_output() -> None:
    config = config_of(curr_sprior=256, full_sprior=256)
    inputs = build(config)
    assert bound(config, inputs)["out"].max() < 0.03 * np.abs(truth(config, inputs)["out"]).max()


def test_debug_tensors_are_near_their_truth() -> None:
    for changes in (
        {"sink": "float32"},
        BLOCK | {"bs": 3},
        {"bs": 1, "curr_sprior": 20480, "full_sprior": 20480},
    ):
        config = config_of(**changes, debug=True)
        inputs = build(config)
        got, exact = model(config, inputs), truth(config, inputs)
        for name in set(got) - {"out"}:
            unit = 2.0**-8 if name in ("dbg_qk_exp", "dbg_exp_sum") else 2.0**-19
            np.testing.assert_allclose(got[name].astype(np.float64), exact[name], rtol=unit, atol=unit)


# --- what comes out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"out_in_sb": True}, ROPE, ROPE | {"k_out_in_sb": True}, {"debug": True}]
)
def test_results_have_the_contracts_names_shapes_and_dtypes(changes: dict[str, Any]) -> None:
    config = config_of(**changes)
    got = model(config, build(config))
    wanted = results(config)
    assert got.keys() == wanted.keys() == truth(config, build(config)).keys()
    for name, tensor in wanted.items():
        assert got[name].shape == tensor.shape
        assert format_of(got[name].dtype).name == tensor.dtype


def test_an_illegal_config_is_refused_by_model_truth_and_bound() -> None:
    config = dataclasses.replace(config_of(), curr_sprior=384)
    for function in (model, truth, bound):
        with pytest.raises(KernelArgumentError, match="key_tiles"):
            function(config, {})


def test_inputs_are_left_alone() -> None:
    for changes in ({}, {"tp_k_prior": True}, BLOCK, ROPE):
        config = config_of(**changes)
        inputs = build(config)
        before = {name: array.tobytes() for name, array in inputs.items()}
        model(config, inputs)
        truth(config, inputs)
        assert before == {name: array.tobytes() for name, array in inputs.items()}


# --- records ----------------------------------------------------------------------------------------------

RECORDED = {
    "sink, LNC2": {"sink": "float32", "out_in_sb": True},
    "batch-sharded": {"bs": 4, "q_head": 8, "s_active": 5},
    "RoPE": ROPE,
    "flash tiles": {"bs": 1, "curr_sprior": 20480, "full_sprior": 20480, "sink": "bfloat16"},
}


@pytest.mark.parametrize("name", RECORDED)
def test_recording_changes_no_bit_and_every_record_is_a_point_of_the_contract(name: str) -> None:
    config = config_of(**RECORDED[name])
    inputs, record = build(config), ListRecorder()
    assert same(model(config, inputs, DEFAULT, record), model(config, inputs))
    for entry in record:
        point = CONTRACT.point(entry.point)
        assert len(entry.tile) == len(point.index)
        assert entry.occurrence == 0
        assert entry.value.ndim == 2


def test_every_point_of_the_contract_is_recorded_by_some_config() -> None:
    seen: set[str] = set()
    for changes in RECORDED.values():
        record = ListRecorder()
        config = config_of(**changes)
        model(config, build(config), DEFAULT, record)
        seen |= set(record.points)
    assert seen == {point.name for point in CONTRACT.points}


def test_records_hold_the_values_of_the_steps() -> None:
    """One path through the points of one column, by the rounding of each step alone."""
    config = config_of(bs=1, q_head=1, s_active=1, curr_sprior=256, full_sprior=256, lnc=1, sink="float32")
    inputs, record = build(config), ListRecorder()
    out = model(config, inputs, DEFAULT, record)["out"]
    score = record.value("score", (0, 0, 0))
    kept = inputs["mask"][:, 0, 0, 0].reshape(128, 2) != 0
    top = max(score[kept].max(), inputs["sink"][0, 0])
    assert record.value("run_max", (0, 0, 0))[0, 0] == top
    assert (record.value("shift", (0, 0, 0)) == np.where(kept, score, -np.inf) - top).all()
    prob, parts = record.value("prob", (0, 0)), record.value("sum_part", (0, 0, 0))
    assert (parts[0] == prob.astype(np.float64).sum(axis=0).astype(np.float32)).all()
    assert record.value("sum_local", (0, 0, 0))[0, 0] == np.float32(parts[0, 0] + parts[0, 1])
    total = record.value("sum_local", (0, 0, 0)) + record.value("sink_term", (0, 0))
    assert record.value("run_sum", (0, 0, 0)) == total
    norm = record.value("pv", (0, 0)) * record.value("recip", (0, 0))
    assert (record.value("norm", (0,)) == norm).all()
    assert (
        record.value("out_tile", (0,)).astype(np.float32) == stored(norm, "bfloat16").astype(np.float32)
    ).all()
    assert (bits(out[0, 0]) == bits(record.value("out_tile", (0,)))).all()


def test_order_of_sums_is_visible_where_it_should_be() -> None:
    """CHAIN is no copy of DEFAULT: float32 sums differ, maxima and results of exact data do not."""
    config = config_of(out_dtype="float32")
    inputs = build(config)
    assert not same(model(config, inputs, CHAIN), model(config, inputs))
    inputs["q"] = np.zeros_like(inputs["q"])
    inputs["v_prior"], inputs["v_active"] = (np.ones_like(inputs[name]) for name in ("v_prior", "v_active"))
    assert same(model(config, inputs, CHAIN), model(config, inputs))
