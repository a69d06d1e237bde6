"""Every defect of the contract's list on the fused block: its revealing input, and what a right kernel gives there.

Test names end in the defect's id. Expected values are written down or moved bits: heads come out of the bias of QKV
under zero weights, or are columns of X. Defects that this contract refuses are tests of the refusal. Every test is
deterministic.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.backends.sim import SimBackend
from conformance.cases.attention_block_tkg import SUBJECT
from conformance.entry import launch
from conformance.mutants.attention_block_tkg import MUTANTS, NOT_PLAYED, ROW_INDEX_IN_FLOAT32
from conformance.mutants.patched import forget, implementation
from conformance.mutants.trial import trial
from conformance.runner import run_case
from conformance.subject import Case
from conformance.tests.kernels.attention_block_tkg_inputs import (
    BLOCK,
    FLOAT16,
    FP8_KV,
    PLAIN,
    STATIC,
    Inputs,
    build,
    config_of,
    stored,
)
from reference.attention_mask import block_rows
from reference.contracts.attention_block_tkg import CONTRACT, SKIP, Config, call_refusal, refusal
from reference.neuroncore.errors import MachineError
from reference.neuroncore.options import Options
from reference.numerics.ulp import same_bits

pytestmark = pytest.mark.sim

Array = NDArray[Any]
BIAS: dict[str, Any] = {"bias_qkv": "bfloat16", "H": 256, "S": 1}
NEW: dict[str, Any] = {"update_cache": False}


def test_every_defect_has_a_test_here() -> None:
    tested = {f"AB{found[1]}" for name in globals() if (found := re.fullmatch(r"test_\w+_ab(\d+)", name))}
    assert tested == {defect.id for defect in CONTRACT.defects}


def test_every_defect_is_played_by_a_mutant_or_said_not_to_be() -> None:
    played = {mutant.source for mutant in MUTANTS if mutant.source.startswith("AB")}
    assert not played & set(NOT_PLAYED)
    assert played | set(NOT_PLAYED) == {defect.id for defect in CONTRACT.defects}


# ---- helpers ----------------------------------------------------------------------------------------------------


def kernel(config: Config, inputs: Inputs) -> Inputs:
    return launch(SUBJECT, config, inputs, SimBackend(Options()))


def numbers(x: Array) -> Array:
    return np.asarray(x.astype(np.float64))


def same(one: Array, other: Array) -> bool:
    return one.shape == other.shape and bool(same_bits(one, other).all())


def copied(**changes: Any) -> tuple[Config, Inputs, Array]:
    """A call whose projection copies columns of X, which are its heads [B, S, q+2, d]."""
    config = config_of(**PLAIN | {"H": 256} | changes)
    inputs = build(config)
    columns = [(7 * i + 3) % config.H for i in range(config.I)]
    weight = np.zeros((config.H, config.I))
    weight[columns, np.arange(config.I)] = 1
    inputs["W_qkv"] = stored(weight, config.W_qkv)
    if config.quantized_kv:
        # Whole numbers that FP8 has, and scales that leave them.
        inputs["X"] = np.random.default_rng(8).integers(-8, 9, inputs["X"].shape).astype(inputs["X"].dtype)
        inputs["k_scale"][:], inputs["v_scale"][:] = 1, 1
    return config, inputs, inputs["X"][:, :, columns].reshape(config.B, config.S, config.q + 2, config.d)


def constant(q: float = 0, k: float = 0, v: float = 0, cached: float = 0, **changes: Any) -> tuple[Config, Inputs]:
    """Every token's queries are q and keys k in channel 0, its values v; cached keys are 0, values `cached`."""
    config = config_of(**PLAIN | BIAS | changes)
    inputs = build(config)
    heads = np.zeros((config.q + 2, config.d))
    heads[:-2, 0], heads[-2, 0], heads[-1] = q, k, v
    inputs["W_qkv"], inputs["bias_qkv"] = inputs["W_qkv"] * 0, stored(heads.reshape(1, -1), "bfloat16")
    inputs["K_cache"] = inputs["K_cache"] * 0
    inputs["V_cache"] = stored(np.full(inputs["V_cache"].shape, cached), config.kv_dtype)
    return config, inputs


def mask_of(config: Config, kept: Array) -> Array:
    """The mask of tokens [S_ctx] or [S_ctx, S] that every batch and head keeps, in the row order of the cache."""
    whole = np.zeros((config.S_ctx, config.B, config.q, config.S), np.uint8)
    whole[:] = kept.reshape(config.S_ctx, 1, 1, -1)
    if config.block_kv:
        plan = config.attention.plan
        whole = whole[block_rows(config.S_ctx, plan.n_seq, plan.block_len)]
    return whole


def prior_and_new(config: Config, count: int) -> Array:
    token = np.arange(config.S_ctx)
    return mask_of(config, (token < count) | (token == config.S_ctx - 1))


def only_new(config: Config) -> Array:
    """Query s keeps new token s and nothing else."""
    return mask_of(config, np.arange(config.S_ctx)[:, None] == config.S_ctx - config.S + np.arange(config.S))


def written(config: Config, inputs: Inputs, heads: Array) -> tuple[Array, Array]:
    """Both caches with the new rows of batches and tokens that do not skip."""
    caches = inputs["K_cache"].copy(), inputs["V_cache"].copy()
    keys, values = (rank_3(config, cache) for cache in caches)
    for b, s in np.ndindex(config.B, config.S):
        named = int(inputs["kv_cache_update_idx"][b, s if config.idx_per_token else 0])
        if named == SKIP:
            continue
        row = named + (0 if config.idx_per_token else s)
        place = (row // config.block_len, row % config.block_len) if config.block_kv else (b, row)
        values[place] = heads[b, s, -1]
        if config.K_cache_transposed:
            keys[b, :, row] = heads[b, s, -2]
        else:
            keys[place] = heads[b, s, -2]
    return caches


def rank_3(config: Config, cache: Array) -> Array:
    """A view of a cache without its axis of one head."""
    return cache.reshape((-1, config.block_len, config.d) if config.block_kv else (config.B, *cache.shape[-2:]))


def assert_written(config: Config, inputs: Inputs, heads: Array) -> None:
    got = kernel(config, inputs)
    keys, values = written(config, inputs, heads)
    assert got["K_out"].tobytes() == keys.tobytes()
    assert got["V_out"].tobytes() == values.tobytes()
    assert keys.tobytes() != inputs["K_cache"].tobytes()


def refused_by(config: Config, inputs: Inputs) -> str:
    found = call_refusal(config, inputs)
    return found.rule if found else ""


# ---- slots that are written -------------------------------------------------------------------------------------


@pytest.mark.parametrize("skipped", [0, 1, 2])
@pytest.mark.parametrize("turned", [False, True])
def test_a_skipped_batch_of_a_flat_cache_writes_nothing_anywhere_ab1(turned: bool, skipped: int) -> None:
    config, inputs, heads = copied(B=3, S=1, K_cache_transposed=turned)
    inputs["kv_cache_update_idx"][skipped] = SKIP
    assert_written(config, inputs, heads)


#: Layouts of caches, each in its dtype and in FP8.
LAYOUTS: dict[str, dict[str, Any]] = {
    "flat": {},
    "transposed": {"K_cache_transposed": True},
    "block": BLOCK,
    "block, head axis 1": BLOCK | {"cache_rank": 4, "block_head_axis": 1},
    "block, head axis 2": BLOCK | {"cache_rank": 4},
}
#: A run across the end of block 7, whose next one is 2, and tokens of blocks 0 and 5 in no order, one of them skipped.
BLOCK_TOKENS = [[126, 127, 32, 33, 34], [81, 15, SKIP, 14, 80]]
FLAT_TOKENS = [[299, 0, 7, 8, 150], [3, 299, SKIP, 1, 2]]


@pytest.mark.parametrize("lnc", [1, 2])
@pytest.mark.parametrize("kv", [{}, FP8_KV], ids=["bfloat16", "float8"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_token_is_written_where_its_index_says_ab2(layout: str, kv: dict[str, Any], lnc: int) -> None:
    config, inputs, heads = copied(**LAYOUTS[layout], **kv, S=5, lnc=lnc, idx_per_token=True)
    if config.block_kv:
        inputs["active_blocks_table"][:, :2] = [[7, 2], [0, 5]]
    inputs["kv_cache_update_idx"][:] = BLOCK_TOKENS if config.block_kv else FLAT_TOKENS
    assert refused_by(config, inputs) == ""
    assert_written(config, inputs, heads)


def test_tokens_that_follow_the_first_end_in_the_physically_next_block_ab2() -> None:
    config, inputs, heads = copied(**BLOCK, S=5, idx_per_token=True)
    inputs["kv_cache_update_idx"][:] = BLOCK_TOKENS
    mutant = next(mutant for mutant in MUTANTS if mutant.id == "block-tokens-follow-the-first")
    faulty = SUBJECT.with_implementation(implementation(mutant, SUBJECT.implementation))
    try:
        got = launch(faulty, config, inputs, SimBackend(Options()))
    finally:
        forget(mutant)
    wanted = dict(zip("KV", written(config, inputs, heads), strict=True))
    for name, want in wanted.items():
        rows = (got[f"{name}_out"] != inputs[f"{name}_cache"]).any(axis=2).reshape(-1)
        assert np.flatnonzero(rows).tolist() == [*range(81, 86), *range(126, 131)]
        assert got[f"{name}_out"].tobytes() != want.tobytes()


@pytest.mark.parametrize("token", [(0, 0), (0, 2), (1, 1)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_skipped_token_alone_is_not_written_ab2(layout: str, token: tuple[int, int]) -> None:
    config, inputs, heads = copied(**LAYOUTS[layout], idx_per_token=True)
    inputs["kv_cache_update_idx"][token] = SKIP
    assert_written(config, inputs, heads)


def test_rows_across_a_block_boundary_need_an_index_per_token_ab2() -> None:
    config, inputs, heads = copied(**BLOCK, S=5)
    inputs["kv_cache_update_idx"][:, 0] = 16 * inputs["active_blocks_table"][:, 0] + 14
    assert refused_by(config, inputs) == "idx_block"
    inputs["kv_cache_update_idx"][:, 0] -= 3
    assert refused_by(config, inputs) == ""
    assert_written(config, inputs, heads)


@pytest.mark.parametrize("S", [1, 3])
def test_a_skipped_batch_of_a_block_cache_writes_nothing_ab3(S: int) -> None:
    config, inputs, heads = copied(**BLOCK, S=S)
    inputs["kv_cache_update_idx"][-1] = SKIP
    assert_written(config, inputs, heads)


@pytest.mark.parametrize("layout", [{}, BLOCK, {"K_cache_transposed": True}])
@pytest.mark.parametrize("lnc", [1, 2])
def test_both_caches_get_their_own_rows_ab4(lnc: int, layout: dict[str, Any]) -> None:
    assert_written(*copied(lnc=lnc, **layout))


@pytest.mark.parametrize("name", ["K_out", "V_out"])
def test_a_cache_that_is_left_alone_is_called_so_ab4(name: str) -> None:
    unwritten = next(mutant for mutant in MUTANTS if mutant.id == "block-keys-not-updated")
    results = [result for result in trial(unwritten, explain=False).result.outputs if result.rung == "sim"]
    missed = {result.name: result.missed for result in results}
    assert ("never written: argument K_cache" in missed[name]) == (name == "K_out")


def test_float16_is_written_ab22() -> None:
    assert_written(*copied(**{**FLOAT16, "W_out": None}))


def test_rows_past_the_slots_of_a_batch_are_refused_ab26() -> None:
    config, inputs, heads = copied(S=2)
    inputs["kv_cache_update_idx"][:] = config.S_max - 1
    assert refused_by(config, inputs) == "idx_range"
    inputs["kv_cache_update_idx"][:] = config.S_max - 2
    assert refused_by(config, inputs) == ""
    assert_written(config, inputs, heads)


def test_rows_of_a_large_cache_are_exact_ab27() -> None:
    small, inputs, heads = copied(S=1, d=2, lnc=1)
    config = replace(small, S_max=2**23 + 8)
    for name in ("K_cache", "V_cache"):
        inputs[name] = np.zeros((2, config.S_max, 2), inputs[name].dtype)
    # Row 2**24 + 9 of the flattened cache, which float32 does not have.
    inputs["kv_cache_update_idx"] = np.array([[SKIP], [2**23 + 1]], np.uint32)
    got = kernel(config, inputs)
    for name, head in (("K_out", -2), ("V_out", -1)):
        assert np.argwhere(got[name].any(axis=2)).tolist() == [[1, 2**23 + 1]]
        assert (got[name][1, 2**23 + 1] == heads[1, 0, head]).all()
    faulty = SUBJECT.with_implementation(implementation(ROW_INDEX_IN_FLOAT32, SUBJECT.implementation))
    try:
        rounded = launch(faulty, config, inputs, SimBackend(Options()))["V_out"]
    finally:
        forget(ROW_INDEX_IN_FLOAT32)
    assert np.argwhere(rounded.any(axis=2)).tolist() == [[1, 2**23]]


@pytest.mark.parametrize("layout", [{}, BLOCK, {"K_cache_transposed": True}])
def test_without_update_new_rows_come_back_and_caches_stay_ab28(layout: dict[str, Any]) -> None:
    config, inputs, heads = copied(**NEW, **layout)
    # The machine refuses a write to an argument that the call does not name as written in place.
    assert not SUBJECT.call(config, inputs, SUBJECT.load()).in_place
    got = kernel(config, inputs)
    assert same(got["K_out"], heads[:, :, -2].transpose(2, 0, 1))
    assert same(got["V_out"], heads[:, :, -1][:, None])
    updating, index = replace(config, update_cache=True), np.zeros((config.B, 1), np.uint32)
    call = SUBJECT.call(updating, inputs | {"kv_cache_update_idx": index}, SUBJECT.load())
    with pytest.raises(MachineError):
        SimBackend(Options()).launch(replace(call, in_place={}))


@pytest.mark.parametrize("lnc", [1, 2])
@pytest.mark.parametrize(
    ("layout", "axis"), [({}, 1), ({"K_cache_transposed": True}, 1), (BLOCK, 2), (BLOCK, 1), (BLOCK | FP8_KV, 1)]
)
def test_caches_of_rank_4_come_back_as_they_were_ab29(layout: dict[str, Any], axis: int, lnc: int) -> None:
    config, inputs, _ = copied(**layout, lnc=lnc)
    wide = inputs | {name: np.expand_dims(inputs[name], axis) for name in ("K_cache", "V_cache")}
    as_given = replace(config, cache_rank=4, block_head_axis=axis if config.block_kv else 2)
    flat, got = kernel(config, inputs), kernel(as_given, wide)
    for name in ("K_out", "V_out"):
        assert same(got[name], np.expand_dims(flat[name], axis))
    assert same(got["out"], flat["out"])


# ---- slots that are read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lnc", [1, 2])
def test_every_new_token_of_a_block_cache_is_its_own_ab5(lnc: int) -> None:
    config, inputs, heads = copied(**{**BLOCK, "num_blocks": 70, "S_max": 512}, S_ctx=512, S=3, lnc=lnc)
    inputs["attention_mask"] = only_new(config)
    assert same(kernel(config, inputs)["out"], np.stack([heads[:, :, -1].transpose(0, 2, 1)] * config.q, axis=1))


@pytest.mark.parametrize(("count", "want"), [(0, 1.0), (255, 1 / 256)])
@pytest.mark.parametrize("layout", [{}, BLOCK])
def test_new_tokens_count_once_ab6(layout: dict[str, Any], count: int, want: float) -> None:
    config, inputs = constant(v=1, **layout)
    inputs["attention_mask"] = prior_and_new(config, count)
    stale = 1000.0
    if config.block_kv:
        for blocks in inputs["active_blocks_table"]:
            inputs["V_cache"][blocks[-1], -1] = stale
    else:
        inputs["V_cache"][:, 255:] = stale
    assert (kernel(config, inputs)["out"] == want).all()


@pytest.mark.parametrize("layout", [{}, BLOCK, {"K_cache_transposed": True}, {"lnc": 1}])
def test_nothing_leaks_out_of_masked_slots_ab7(layout: dict[str, Any]) -> None:
    config, inputs, _ = copied(**layout)
    inputs["attention_mask"] = only_new(config)
    clean = kernel(config, inputs)["out"]
    for bad in (np.nan, np.inf):
        dirty = inputs | {name: stored(np.full(inputs[name].shape, bad), "bfloat16") for name in ("K_cache", "V_cache")}
        assert same(kernel(config, dirty)["out"], clean)
    assert np.isfinite(numbers(clean)).all()


def test_blocks_of_unused_entries_leave_no_trace_ab8() -> None:
    config, inputs = constant(v=1, cached=1, **BLOCK)
    # 40 tokens are in three blocks; the other entries name a block of garbage.
    inputs["attention_mask"] = prior_and_new(config, 40)
    inputs["active_blocks_table"][:, :3] = [[1, 5, 3], [8, 2, 9]]
    inputs["active_blocks_table"][:, 3:] = 0
    inputs["K_cache"][0], inputs["V_cache"][0] = np.nan, np.nan
    assert (kernel(config, inputs)["out"] == 1).all()
    inputs["active_blocks_table"][:, 3:] = 0xFFFFFFFF
    assert refused_by(config, inputs) == "block_id_range"


@pytest.mark.parametrize("sink", [None, "float32"])
def test_masked_leading_flash_tiles_leave_the_new_token_ab9(sink: str | None) -> None:
    config, inputs = constant(v=3, B=1, q=1, d=32, S_ctx=24576, S_max=24576, lnc=1, sink=sink)
    inputs["attention_mask"] = prior_and_new(config, 0)
    if sink:
        inputs["sink"][:] = -1000
    assert (kernel(config, inputs)["out"] == 3).all()


def test_a_query_that_keeps_nothing_is_nan_alone_ab10() -> None:
    config, inputs, _ = copied()
    inputs["attention_mask"][:, 1, 0, 2] = 0
    lost = np.isnan(numbers(kernel(config, inputs)["out"])).all(axis=2)
    assert np.argwhere(lost).tolist() == [[1, 0, 2]]
    assert np.isnan(numbers(kernel(config, inputs)["out"])).sum() == config.d


@pytest.mark.parametrize("lnc", [1, 2])
@pytest.mark.parametrize("count", [1, 200, 777])
def test_masks_of_blocks_stand_in_their_row_order_ab11(count: int, lnc: int) -> None:
    config, inputs = constant(v=1, block_len=32, S_ctx=1024, S_max=1024, num_blocks=70, lnc=lnc)
    inputs["attention_mask"] = prior_and_new(config, count)
    token = np.arange(1024).reshape(32, 32)
    for blocks in inputs["active_blocks_table"]:
        inputs["V_cache"][blocks] = stored(np.where(token < count, 1, 1000), "bfloat16")[:, :, None]
    assert (kernel(config, inputs)["out"] == 1).all()


@pytest.mark.parametrize("lnc", [1, 2])
def test_slots_beyond_the_context_are_not_read_ab25(lnc: int) -> None:
    config, inputs = constant(v=1, cached=1, lnc=lnc)
    inputs["V_cache"][:, config.S_ctx :] = 1000
    inputs["V_cache"][1, : config.S_ctx] = 2
    inputs["attention_mask"] = prior_and_new(config, config.S_ctx)
    out = numbers(kernel(config, inputs)["out"])
    assert (out[0] == 1).all()
    assert (np.abs(out[1] - (2 - 1 / 256)) <= 2.0**-7).all()


def test_heads_of_different_requests_are_not_mixed_ab30() -> None:
    config, inputs, heads = copied(S=1, skip_attention=True)
    assert same(kernel(config, inputs)["out"], heads[:, 0, : config.q].transpose(2, 0, 1).reshape(config.d, -1))
    config, inputs, _ = copied(S=1)
    inputs["attention_mask"][:] = 0
    for b, h, slot in ((0, 0, 5), (0, 1, 77), (1, 0, 130), (1, 1, 200)):
        inputs["attention_mask"][slot, b, h] = 1
    out = kernel(config, inputs)["out"][..., 0]
    for b, h, slot in ((0, 0, 5), (0, 1, 77), (1, 0, 130), (1, 1, 200)):
        assert (out[b, h] == inputs["V_cache"][b, slot]).all()


# ---- from X to heads --------------------------------------------------------------------------------------------


def test_the_default_eps_is_a_thousandth_ab12() -> None:
    config, inputs, _ = copied(rmsnorm_X_enabled=True, gamma="bfloat16", **NEW)
    inputs["X"][:], inputs["rmsnorm_X_gamma"][:] = 2.0**-10, 1
    want = 2.0**-10 / np.sqrt(2.0**-20 + 1e-3)
    assert (np.abs(numbers(kernel(config, inputs)["V_out"]) - want) <= 2.0**-8 * want).all()


def test_the_mean_leaves_padding_out_ab13() -> None:
    config, inputs, _ = copied(
        rmsnorm_X_enabled=True, gamma="bfloat16", rmsnorm_X_eps=0.0, X_hidden_dim_actual=128, **NEW
    )
    inputs["X"][:], inputs["rmsnorm_X_gamma"][:] = 0, 1
    inputs["X"][..., :128] = 3
    assert set(np.unique(numbers(kernel(config, inputs)["V_out"]))) == {0.0, 1.0}


def test_queries_and_keys_have_their_own_weights_ab14() -> None:
    norm = {"rmsnorm_QK_post_rope_enabled": True, "W_Q": "float32", "W_K": "bfloat16"}
    config, inputs, _ = copied(skip_attention=True, **norm, **NEW)
    inputs["X"][:] = 1
    inputs["rmsnorm_QK_post_rope_W_Q"][:], inputs["rmsnorm_QK_post_rope_W_K"][:] = 2, 4
    got = kernel(config, inputs)
    assert (got["out"] == 2).all()
    assert (got["K_out"] == 4).all()


@pytest.mark.parametrize("contiguous", [True, False])
def test_a_quarter_turn_has_its_sign_layout_and_token_ab15(contiguous: bool) -> None:
    waves = {"cos": "bfloat16", "sin": "bfloat16", "rope_contiguous_layout": contiguous}
    config, inputs, heads = copied(skip_attention=True, **waves, **NEW)
    signs = np.random.default_rng(15).choice([-1.0, 1.0], inputs["sin"].shape)
    inputs["cos"][:], inputs["sin"] = 0, stored(signs, "bfloat16")
    half = config.d // 2
    even, odd = (slice(0, half), slice(half, None)) if contiguous else (slice(0, None, 2), slice(1, None, 2))
    given, factor = numbers(heads[:, :, :-1]), signs.transpose(1, 2, 0)[:, :, None]
    turned = np.empty_like(given)
    turned[..., even], turned[..., odd] = -given[..., odd] * factor, given[..., even] * factor
    got = kernel(config, inputs)
    assert (numbers(got["K_out"]) == turned[:, :, -1].transpose(2, 0, 1)).all()
    assert (numbers(got["out"]) == turned[:, :, :-1].transpose(3, 0, 2, 1).reshape(config.d, -1)).all()


def test_cosines_without_sines_are_refused_ab16() -> None:
    for missing in ("cos", "sin"):
        found = refusal(replace(config_of(), **{missing: None}))
        assert found is not None
        assert found.rule == "rope_pair"


def test_half_precision_overflows_before_the_scale_and_bfloat16_does_not_ab21() -> None:
    # 240 * 240 * 256 / 2**20 = 14.0625, whose raw sum float16 does not have.
    for dtype, want in (("float16", np.inf), ("bfloat16", 14.0625)):
        config = config_of(**PLAIN | STATIC | {"H": 256, "dtype": dtype, "kv_dtype": dtype} | NEW)
        inputs = build(config)
        inputs["X"][:], inputs["W_qkv"][:] = 240, 240
        inputs["weight_dequant_scale_qkv"][:], inputs["input_dequant_scale_qkv"][:] = 2.0**-20, 1
        assert (kernel(config, inputs)["V_out"] == want).all()


@pytest.mark.parametrize("T", [32, 33, 64, 65])
def test_qkv_is_rounded_as_often_as_stated_ab23(T: int) -> None:
    sizes = {"B": T, "S": 1, "q": 1, "d": 32, "H": 5376, "S_ctx": 128, "S_max": 128, "skip_attention": True}
    config = config_of(**PLAIN | sizes | NEW | {"bias_qkv": "bfloat16"})
    assert run_case(SUBJECT, Case("hazard", config)).passed


@pytest.mark.parametrize("lnc", [1, 2])
def test_the_bias_counts_once_ab24(lnc: int) -> None:
    config, inputs = constant(k=5, v=3, lnc=lnc, **NEW)
    got = kernel(config, inputs)
    assert (got["V_out"] == 3).all()
    assert (got["K_out"][0] == 5).all()


@pytest.mark.parametrize("lnc", [1, 2])
@pytest.mark.parametrize("kind", [{}, STATIC])
def test_x_on_chip_keeps_its_bits_ab34(kind: dict[str, Any], lnc: int) -> None:
    config = config_of(X_in_sb=True, W_out=None, H=256, lnc=lnc, **kind)
    inputs = build(config)
    kept = kernel(config, inputs)["X_kept"]
    assert kept.shape[0] == lnc
    assert all(same(tile, inputs["X"]) for tile in kept)


def test_a_zero_token_is_its_bias_and_more_tokens_are_refused_ab35() -> None:
    config = config_of(**STATIC, **NEW, W_out=None, H=256, cos=None, sin=None, bias_qkv="bfloat16", rmsnorm_X_eps=1e-5)
    inputs = build(config)
    inputs["X"][1, 2] = 0
    got, bias = kernel(config, inputs), inputs["bias_qkv"].reshape(-1, config.d)
    assert (got["K_out"][:, 1, 2] == bias[-2]).all()
    assert (got["V_out"][1, 0, 2] == bias[-1]).all()
    assert np.isfinite(numbers(got["out"])).all()
    found = refusal(replace(config, B=130, S=1, q=1))
    assert found is not None
    assert found.rule == "columns"


# ---- scales -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [None, 1.0, 0.05])
def test_the_scale_is_applied_once_to_queries_ab17(scale: float | None) -> None:
    config, inputs = constant(q=2, k=1, v=1, softmax_scale=scale, **NEW)
    inputs["attention_mask"] = prior_and_new(config, 1)
    got = kernel(config, inputs)
    want = 1 / (1 + np.exp(-2 * (0.125 if scale is None else scale)))
    assert (np.abs(numbers(got["out"]) - want) <= 2.0**-8).all()
    assert (got["K_out"][0] == 1).all()
    skipped = kernel(replace(config, skip_attention=True), inputs)["out"]
    assert (skipped[0] == 2).all()


@pytest.mark.parametrize("rows", [1, 128])
def test_new_keys_and_values_are_multiplied_and_clamped_ab18(rows: int) -> None:
    config, inputs = constant(**FP8_KV, **NEW, k_scale_rows=rows, v_scale_rows=rows)
    heads = np.zeros((config.q + 2, config.d))
    heads[-2:, :5] = 1, 2, -3, 2.40625, -1000
    inputs["bias_qkv"] = stored(heads.reshape(1, -1), "bfloat16")
    inputs["k_scale"][:], inputs["v_scale"][:] = 104.3, 104.3
    want = [104, 208, -240, 240, -240]
    got = kernel(config, inputs)
    assert (numbers(got["K_out"])[:5] == np.array(want)[:, None, None]).all()
    assert (numbers(got["V_out"])[..., :5] == want).all()


def test_nothing_is_dequantized_ab19() -> None:
    config, inputs = constant(q=2, k=1, v=1, **FP8_KV, **NEW)
    inputs["attention_mask"] = prior_and_new(config, 1)
    inputs["k_scale"][:], inputs["v_scale"][:] = 4, 2
    # Score 2 * 4 * 0.125 against 0, value 2.
    want = 2 / (1 + np.exp(-1.0))
    assert (np.abs(numbers(kernel(config, inputs)["out"]) - want) <= 2.0**-7).all()


def test_attention_sees_the_quantized_tokens_ab20() -> None:
    # 1.0625 lies between 1 and 1.125 and goes to the even code.
    config, inputs = constant(v=1.0625, **FP8_KV, **NEW)
    inputs["attention_mask"] = prior_and_new(config, 0)
    inputs["v_scale"][:] = 1
    got = kernel(config, inputs)
    assert (numbers(got["V_out"]) == 1).all()
    assert (got["out"] == 1).all()


@pytest.mark.parametrize("lnc", [1, 2])
@pytest.mark.parametrize(("sink", "want"), [(0.0, 0.5), (1000.0, 0.0), (-1000.0, 1.0)])
def test_a_sink_counts_once_and_in_the_maximum_ab33(sink: float, want: float, lnc: int) -> None:
    config, inputs = constant(v=1, sink="float32", lnc=lnc)
    inputs["attention_mask"], inputs["sink"][:] = prior_and_new(config, 0), sink
    assert (kernel(config, inputs)["out"] == want).all()


# ---- results, runs, calls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_chip", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_results_have_their_order_and_shard_ab31(turned: bool, on_chip: bool) -> None:
    sizes = {"H": 1024, "q": 16, "S": 1, "W_out": "bfloat16", "transposed_out": turned, "out_in_sb": on_chip}
    config, inputs, heads = copied(**sizes)
    inputs["attention_mask"], inputs["W_out"] = only_new(config), stored(np.eye(1024), "bfloat16")
    want = np.tile(heads[:, 0, -1], (1, 16)).reshape(2, 2, 512)  # [T, core, H/2]
    if turned:
        # h = core*512 + p*4 + j as [p, core, j, T], on chip [core, p, j, T].
        order = (2, 1, 3, 0) if not on_chip else (1, 2, 3, 0)
        want = want.reshape(2, 2, 128, 4).transpose(order)
    else:
        want = want.transpose(1, 0, 2) if on_chip else want.reshape(2, 1024)
    assert same(kernel(config, inputs)["out"], np.ascontiguousarray(want))


@pytest.mark.parametrize("layout", [{}, BLOCK])
def test_runs_have_the_same_bits_ab32(layout: dict[str, Any]) -> None:
    config = config_of(**layout)
    inputs = build(config)
    first = kernel(config, inputs)
    for _ in range(3):
        again = kernel(config, inputs)
        assert all(again[name].tobytes() == first[name].tobytes() for name in first)


def test_the_signature_is_the_contracts_and_calls_name_every_argument_ab36() -> None:
    parameters = inspect.signature(getattr(SUBJECT.load(), "func", SUBJECT.load())).parameters
    assert list(parameters) == [argument.name for argument in CONTRACT.arguments]
    config = config_of()
    call = SUBJECT.call(config, build(config), SUBJECT.load())
    assert set(call.arguments) <= set(parameters)
