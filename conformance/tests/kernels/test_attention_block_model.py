"""Claims about the model of `attention_block_tkg`: its distance from the truth, its stages one by one, its caches.

The stages that are other kernels have tests of their own; here every stage is isolated with identity weights, the
block's own steps are done again in rational arithmetic, caches are compared byte by byte, and a decode loop is held
against attention over all tokens seen so far. Every test is deterministic: run it again by its id.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.bounds import Bound, bound_faults, figures
from conformance.cases.attention_block_tkg import CATALOG, SUBJECT
from conformance.subject import Case
from conformance.tests.kernels import by_hand
from conformance.tests.kernels.attention_block_tkg_inputs import (
    BLOCK,
    FLOAT16,
    FP8_KV,
    NO_OUT,
    NO_ROPE,
    NORMS,
    PLAIN,
    STATIC,
    STATIC_OUT,
    Inputs,
    build,
    cached,
    config_of,
    stored,
)
from reference.attention_block_tkg import model, truth
from reference.attention_block_tkg_bound import bound
from reference.attention_block_tkg_layout import hidden_tile
from reference.contracts.attention_block_tkg import CONTRACT, SKIP, Config, results
from reference.contracts.attention_block_tkg_points import OWN_POINTS
from reference.numerics import NumericsProfile, variants
from reference.numerics.formats import format_of
from reference.recorder import ListRecorder

Array = NDArray[Any]


def bits(x: Array) -> Array:
    return np.ascontiguousarray(x).view(np.uint8)


def assert_same_bits(first: Array, second: Array) -> None:
    assert first.shape == second.shape
    assert first.dtype == second.dtype
    assert np.array_equal(bits(first), bits(second))


def wide(x: Array) -> Array:
    return np.asarray(x.astype(np.float32), np.float64)


# --- distance from the truth ------------------------------------------------------------------------------

#: Small scores: the worst case of a score's error enters its weight exponentially.
FLATTER = {"softmax_scale": 0.001}
WITHIN = {
    "bfloat16": {},
    "float16": FLOAT16,
    "one core": {"lnc": 1, "H": 512},
    "block": BLOCK,
    "transposed keys, X in SBUF": {"K_cache_transposed": True, "X_in_sb": True},
    "head norms": NORMS | {"softmax_scale": 1e-5},
    "head norms, interleaved RoPE": NORMS | {"softmax_scale": 1e-5, "rope_contiguous_layout": False, "d": 128},
    "no norms, no RoPE, no projection": PLAIN,
    "biases": {"bias_qkv": "bfloat16", "bias_out": "float32"},
    "STATIC": STATIC | NO_OUT,
    "ROW twice": {
        "quantization_type_qkv": "ROW", "W_qkv": "float8_e4m3", "quantization_type_out": "ROW",
        "W_out": "float8_e4m3", "bias_out": "bfloat16", "scale_rows": 1,
    },
    "STATIC projection": STATIC_OUT,
    "FP8 caches": FP8_KV | NO_OUT,
    "FP8 caches returned": FP8_KV | {"update_cache": False} | BLOCK,
    "sink, batch-sharded": {"S_ctx": 128, "S_max": 200, "sink": "float32"},
    "sink over the sequence": {"sink": "bfloat16"},
    "no attention": {"skip_attention": True},
    "no attention, no projection": {"skip_attention": True} | NO_OUT,
    "transposed result in SBUF": {"transposed_out": True, "out_in_sb": True, "H": 768},
    "attention in SBUF": NO_OUT | {"out_in_sb": True},
    "padded H": {"X_hidden_dim_actual": 900, "rmsnorm_X_eps": 1e-5},
}  # fmt: skip


@pytest.mark.parametrize("name", WITHIN)
def test_model_is_within_the_bound_of_truth(name: str) -> None:
    config = config_of(**FLATTER | WITHIN[name])
    inputs = build(config, seed=len(name))
    got, want, limit = model(config, inputs), truth(config, inputs), bound(config, inputs)
    for result in ("out", "K_out", "V_out"):
        assert np.isfinite(limit[result]).all(), result
        assert not (faults := bound_faults(got[result], want[result], Bound(limit[result], 1))), (result, faults)


@pytest.mark.parametrize("scale", [None, 4.0])
@pytest.mark.parametrize("name", WITHIN)
def test_where_scores_are_large_the_bound_is_finite_and_holds(name: str, scale: float | None) -> None:
    """A mean over values stays among them, however uncertain its weights are."""
    config = config_of(**WITHIN[name] | {"softmax_scale": scale})
    inputs = build(config, seed=len(name))
    got, want, limit = model(config, inputs), truth(config, inputs), bound(config, inputs)
    for result in ("out", "K_out", "V_out"):
        assert np.isfinite(limit[result]).all(), result
        assert (np.abs(wide(got[result]) - want[result]) <= limit[result]).all(), result


@pytest.mark.parametrize("case", [case for case in CATALOG if "ci" in case.tags], ids=lambda case: case.id)
def test_every_case_of_the_catalog_is_bounded_wherever_truth_is_finite_and_stays_within(case: Case) -> None:
    inputs = SUBJECT.build(case.config, case.lane, case.seed)
    got, want = SUBJECT.model(case.config, inputs), SUBJECT.truth(case.config, inputs)
    limits = SUBJECT.bounds(case.config, inputs)
    assert set(limits) == set(want)
    for result, bound_of in limits.items():
        found = figures(wide(got[result]), want[result], bound_of)
        assert (found.outside, found.judged) == (0, 1.0), result


@pytest.mark.parametrize("profile", [found for _, found in variants()], ids=[name for name, _ in variants()])
def test_every_answer_to_the_open_questions_is_within_the_bound(profile: NumericsProfile) -> None:
    for changes in (NORMS | {"softmax_scale": 1e-5}, FP8_KV | STATIC | NO_OUT | {"sink": "float32", "S": 1}):
        config = config_of(**FLATTER | changes)
        inputs = build(config)
        got, want, limit = model(config, inputs, profile), truth(config, inputs), bound(config, inputs)
        for result in ("out", "K_out", "V_out"):
            assert not (faults := bound_faults(got[result], want[result], Bound(limit[result], 1))), (result, faults)


@pytest.mark.parametrize("name", WITHIN)
def test_the_bound_refuses_zeros(name: str) -> None:
    config = config_of(**FLATTER | WITHIN[name])
    inputs = build(config, seed=len(name))
    want, limit = truth(config, inputs), bound(config, inputs)
    for result in ("out", "K_out", "V_out"):
        assert bound_faults(np.zeros_like(want[result]), want[result], Bound(limit[result], 1)), result


# --- stages by hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_head_norms_and_rope_have_the_bits_of_rational_arithmetic(dtype: str) -> None:
    config = config_of(B=1, S=2, q=1, lnc=1, H=512, rmsnorm_QK_pre_rope_eps=1e-3, **NORMS | NO_OUT | dtypes(dtype))
    inputs, record = build(config, 5), ListRecorder()
    model(config, inputs, record=record)
    for r, weight in ((0, "rmsnorm_QK_post_rope_W_Q"), (1, "rmsnorm_QK_post_rope_W_K")):
        for column in range(config.S):
            x = by_hand.values(record.value("heads", (r,))[:, column])
            x = head_norm_by_hand(x, None, 1e-3, dtype)
            assert x == by_hand.values(record.value("pre_normed", (r,))[:, column])
            x = rope_by_hand(x, inputs, column, dtype)
            assert x == by_hand.values(record.value("rotated", (r,))[:, column])
            x = head_norm_by_hand(x, by_hand.values(inputs[weight])[0], 1e-6, dtype)
            assert x == by_hand.values(record.value("post_normed", (r,))[:, column])


def dtypes(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "W_qkv": dtype, "kv_dtype": dtype}


def head_norm_by_hand(x: list[float], weight: list[float] | None, eps: float, io: str) -> list[float]:
    """One head, channel by channel: float32 squares, one exact sum, x*r before the weight."""
    total = by_hand.dot((by_hand.multiply(value, value), 1.0) for value in x)
    argument = by_hand.add(by_hand.multiply(total, float(np.float32(1 / len(x)))), float(np.float32(eps)))
    root = by_hand.reciprocal_root(argument)
    if weight is None:
        return [by_hand.to(by_hand.multiply(value, root), io) for value in x]
    return [
        by_hand.to(by_hand.multiply(by_hand.multiply(value, root), w), io) for value, w in zip(x, weight, strict=True)
    ]


def rope_by_hand(x: list[float], inputs: Inputs, s: int, io: str) -> list[float]:
    """One head of batch 0, contiguous: six roundings per pair."""
    half = len(x) // 2
    even, odd = [], []
    for i in range(half):
        e, o = x[i], x[i + half]
        c, w = (float(inputs[name][i, 0, s]) for name in ("cos", "sin"))
        ec, os, oc, es = (by_hand.to(by_hand.multiply(a, b), io) for a, b in ((e, c), (o, w), (o, c), (e, w)))
        even.append(by_hand.to(by_hand.add(ec, -os), io))
        odd.append(by_hand.to(by_hand.add(oc, es), io))
    return even + odd


# --- stages alone -----------------------------------------------------------------------------------------


def selecting(config: Config, columns: list[int]) -> Array:
    """W_qkv that copies columns of X: output column i is input column columns[i]."""
    weight = np.zeros((config.H, config.I), np.float32)
    weight[columns, np.arange(config.I)] = 1
    return stored(weight, config.W_qkv)


def isolated(seed: int = 0, **changes: Any) -> tuple[Config, Inputs, Array]:
    """A call whose QKV projection copies X, with X's columns in use as [B, S, heads + 2, d]."""
    config = config_of(**PLAIN | changes)
    inputs = build(config, seed)
    columns = [(7 * i + 3) % config.H for i in range(config.I)]
    inputs["W_qkv"] = selecting(config, columns)
    heads = inputs["X"][:, :, columns].reshape(config.B, config.S, config.q + 2, config.d)
    return config, inputs, heads


@pytest.mark.parametrize("lnc", [1, 2])
@pytest.mark.parametrize("changes", [{}, {"B": 5, "S": 13, "q": 1}, {"H": 5376}], ids=["small", "65 tokens", "rest"])
def test_identity_weights_give_keys_and_values_unchanged(lnc: int, changes: dict[str, Any]) -> None:
    config, inputs, heads = isolated(lnc=lnc, update_cache=False, **changes)
    found = model(config, inputs)
    assert_same_bits(found["K_out"], heads[:, :, -2].transpose(2, 0, 1))
    assert_same_bits(found["V_out"], heads[:, :, -1][:, None])


def test_skipped_attention_gives_the_queries_unscaled() -> None:
    config, inputs, heads = isolated(skip_attention=True, softmax_scale=0.05)
    queries = heads[:, :, : config.q].transpose(3, 0, 2, 1).reshape(config.d, -1)
    assert_same_bits(model(config, inputs)["out"], queries)
    in_sb = dataclasses.replace(config, out_in_sb=True)
    assert_same_bits(model(in_sb, inputs)["out"], np.stack([queries, queries]))


@pytest.mark.parametrize("contiguous", [True, False])
def test_a_quarter_turn_moves_channels_exactly(contiguous: bool) -> None:
    waves = {"cos": "bfloat16", "sin": "bfloat16", "rope_contiguous_layout": contiguous}
    config, inputs, heads = isolated(update_cache=False, **waves)
    inputs["cos"], inputs["sin"] = (stored(np.full(inputs["cos"].shape, x), "bfloat16") for x in (0, 1))
    keys = wide(heads[:, :, -2])
    half = config.d // 2
    even, odd = (slice(0, half), slice(half, None)) if contiguous else (slice(0, None, 2), slice(1, None, 2))
    turned = np.empty_like(keys)
    turned[..., even], turned[..., odd] = -keys[..., odd], keys[..., even]
    assert (wide(model(config, inputs)["K_out"]) == turned.transpose(2, 0, 1)).all()


def test_rope_layouts_agree_on_permuted_channels() -> None:
    config, inputs, _ = isolated(update_cache=False, skip_attention=True, cos="float32", sin="float32")
    turned, order = model(config, inputs), np.arange(config.d).reshape(2, -1).T.reshape(-1)
    weight = inputs["W_qkv"].reshape(config.H, config.q + 2, config.d).copy()
    weight[:, :-1] = weight[:, :-1][..., order]
    inputs["W_qkv"] = weight.reshape(config.H, -1)
    pairs = model(dataclasses.replace(config, rope_contiguous_layout=False), inputs)
    for name in ("out", "K_out"):
        assert_same_bits(turned[name][order], pairs[name])


def test_nan_in_interleaved_rope_stays_in_its_pair() -> None:
    config, inputs, _ = isolated(update_cache=False, cos="float32", sin="float32", rope_contiguous_layout=False)
    # NaN in X or W_qkv would reach every channel by way of a weight of 0.
    inputs["cos"][5] = np.nan
    keys = wide(model(config, inputs)["K_out"])
    assert set(np.flatnonzero(np.isnan(keys).any(axis=(1, 2)))) == {10, 11}


def test_weights_of_query_and_key_norms_are_not_swapped() -> None:
    norms = {"rmsnorm_QK_post_rope_enabled": True, "W_Q": "float32", "W_K": "float32"}
    config, inputs, _ = isolated(update_cache=False, skip_attention=True, **norms)
    one = model(config, inputs | {"rmsnorm_QK_post_rope_W_Q": 2 * inputs["rmsnorm_QK_post_rope_W_Q"]})
    plain = model(config, inputs)
    assert (wide(one["out"]) == 2 * wide(plain["out"])).all()
    assert_same_bits(one["K_out"], plain["K_out"])


@pytest.mark.parametrize("rows", [1, 128])
def test_new_keys_and_values_are_multiplied_clamped_and_rounded_once(rows: int) -> None:
    config, inputs, heads = isolated(**FP8_KV | {"update_cache": False, "k_scale_rows": rows, "v_scale_rows": rows})
    for name, scale in (("k_scale", 104.3), ("v_scale", 200.0)):
        inputs[name] = np.full(inputs[name].shape, scale, np.float32)
    found = model(config, inputs)
    for head, name, got in ((-2, "k_scale", found["K_out"].transpose(1, 2, 0)), (-1, "v_scale", found["V_out"][:, 0])):
        factor = float(inputs[name][0, 0])
        want = [fp8_by_hand(x, factor) for x in wide(heads[:, :, head]).reshape(-1)]
        assert wide(got).reshape(-1).tolist() == want
        assert max(want) == 240


def fp8_by_hand(x: float, scale: float) -> float:
    return by_hand.to(max(min(by_hand.multiply(float(x), scale), 240.0), -240.0), "float8_e4m3")


@pytest.mark.parametrize("lnc", [1, 2])
def test_a_single_kept_token_gives_its_value(lnc: int) -> None:
    """softmax over one token is 1, so scale, keys and queries have no say; GQA repeats the value for every head."""
    config, inputs, heads = isolated(lnc=lnc, S=1, B=3)
    inputs["attention_mask"] = np.zeros_like(inputs["attention_mask"])
    inputs["attention_mask"][-1] = 1
    out = model(config, inputs)["out"]
    for h in range(config.q):
        assert_same_bits(out[:, h, :, 0], heads[:, 0, -1])


def test_quantized_values_are_what_attention_sees() -> None:
    config, inputs, _ = isolated(**FP8_KV | {"S": 1, "update_cache": False})
    inputs["attention_mask"] = np.zeros_like(inputs["attention_mask"])
    inputs["attention_mask"][-1] = 1
    found = model(config, inputs)
    assert (wide(found["out"])[:, 0, :, 0] == wide(found["V_out"])[:, 0, 0]).all()


def test_softmax_scale_is_applied_once_and_to_queries_alone() -> None:
    config, inputs, _ = isolated()
    plain, record = model(config, inputs), ListRecorder()
    half = model(dataclasses.replace(config, softmax_scale=config.scale / 2), inputs, record=record)
    doubled = inputs["W_qkv"].copy()
    doubled[:, : config.q * config.d] *= 2
    same = model(dataclasses.replace(config, softmax_scale=config.scale / 2), inputs | {"W_qkv": doubled})
    assert_same_bits(same["out"], plain["out"])
    assert_same_bits(half["K_out"], plain["K_out"])
    assert (bits(half["out"]) != bits(plain["out"])).any()


def test_the_default_scale_does_not_know_the_kv_scales() -> None:
    config, inputs, _ = isolated(**FP8_KV)
    assert config.scale == 0.125
    explicit = model(dataclasses.replace(config, softmax_scale=0.125), inputs)
    assert_same_bits(explicit["out"], model(config, inputs)["out"])


@pytest.mark.parametrize("transposed", [False, True])
def test_identity_projection_gives_attention(transposed: bool) -> None:
    sizes = {"H": 1024, "q": 16, "d": 64, "S": 1, "W_out": "bfloat16", "transposed_out": transposed}
    config, inputs, _ = isolated(**sizes)
    inputs["W_out"] = stored(np.eye(config.H), "bfloat16")
    out = model(config, inputs)["out"]
    alone = {name: tensor for name, tensor in inputs.items() if name != "W_out"}
    attention = model(config_of(**PLAIN | sizes | {"W_out": None, "transposed_out": False}), alone)["out"]
    if transposed:
        # [128, LNC, H_2, T] with h = h_0*128*H_2 + h_1*H_2 + h_2.
        out = out.transpose(3, 1, 0, 2).reshape(config.tokens, config.H)
    assert_same_bits(out, np.ascontiguousarray(attention[..., 0].reshape(config.B, -1)))


@pytest.mark.parametrize("lnc", [1, 2])
def test_bias_of_qkv_is_counted_once(lnc: int) -> None:
    config, inputs, _ = isolated(lnc=lnc, update_cache=False, bias_qkv="bfloat16")
    inputs["W_qkv"] = np.zeros_like(inputs["W_qkv"])
    found, bias = model(config, inputs), inputs["bias_qkv"].reshape(-1, config.d)
    assert (found["K_out"] == bias[-2][:, None, None]).all()
    assert (found["V_out"] == bias[-1]).all()


def test_default_eps_is_a_thousandth() -> None:
    config = config_of(rmsnorm_X_eps=None, update_cache=False)
    inputs = build(config)
    inputs["X"] = stored(1e-3 * wide(inputs["X"]), "bfloat16")
    given = model(dataclasses.replace(config, rmsnorm_X_eps=1e-3), inputs)
    other = model(dataclasses.replace(config, rmsnorm_X_eps=1e-6), inputs)
    assert_same_bits(model(config, inputs)["V_out"], given["V_out"])
    assert (bits(other["V_out"]) != bits(given["V_out"])).any()


def test_the_mean_leaves_out_padding() -> None:
    config = config_of(X_hidden_dim_actual=700, **NO_OUT)
    inputs = build(config)
    inputs["X"] = inputs["X"].copy()
    inputs["X"][..., 700:] = 0
    # Padding that is counted is the same as a sum of squares that much smaller.
    record, padded = ListRecorder(), ListRecorder()
    model(config, inputs, record=record)
    model(dataclasses.replace(config, X_hidden_dim_actual=None), inputs, record=padded)
    ratio = record.value("norm_rsqrt", (0,)) / padded.value("norm_rsqrt", (0,))
    assert np.allclose(ratio, np.sqrt(700 / 1024), rtol=1e-3)


# --- places -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lnc", [1, 2])
@pytest.mark.parametrize(
    "changes", [{}, STATIC, {"rmsnorm_X_enabled": False, "gamma": None}], ids=["norm", "STATIC", "no norm"]
)
def test_x_in_sbuf_changes_no_bit_and_is_not_written(lnc: int, changes: dict[str, Any]) -> None:
    config = config_of(lnc=lnc, **changes)
    inputs = build(config)
    tile = hidden_tile(config, inputs["X"])
    before = tile.tobytes()
    on_chip = model(dataclasses.replace(config, X_in_sb=True), inputs | {"X": tile})
    assert_same_bits(on_chip["out"], model(config, inputs)["out"])
    assert tile.tobytes() == before


def test_x_tile_has_the_grouping_of_the_contract() -> None:
    config = config_of(X_in_sb=True)
    rows = np.arange(config.tokens * config.H).reshape(config.B, config.S, config.H)
    tile, H1s = hidden_tile(config, rows), config.H // 128 // config.lnc
    for p, t, shard, j in ((0, 0, 0, 0), (5, 3, 1, 2), (127, 5, 1, 3)):
        assert tile[p, t, shard * H1s + j] == rows.reshape(-1, config.H)[t, shard * config.H // 2 + p * H1s + j]


def test_results_have_the_shapes_and_dtypes_of_the_contract() -> None:
    for changes in WITHIN.values():
        config = config_of(**FLATTER | changes)
        found = model(config, build(config))
        assert list(found) == ["out", "K_out", "V_out"]
        for name, wanted in results(config).items():
            assert (found[name].shape, format_of(found[name].dtype).name) == (wanted.shape, wanted.dtype)


# --- caches -----------------------------------------------------------------------------------------------

LAYOUTS: dict[str, dict[str, Any]] = {
    "flat": {},
    "flat, one token": {"S": 1, "B": 4},
    "transposed": {"K_cache_transposed": True},
    "four dimensions": {"cache_rank": 4},
    "four dimensions, transposed": {"cache_rank": 4, "K_cache_transposed": True},
    "float16": FLOAT16,
    "FP8": FP8_KV,
    "FP8, transposed": FP8_KV | {"K_cache_transposed": True},
    "block": BLOCK,
    "block, one token": BLOCK | {"S": 1, "B": 4, "num_blocks": 70},
    "block, FP8, four dimensions": BLOCK | FP8_KV | {"cache_rank": 4},
    "block, head axis 1": BLOCK | {"cache_rank": 4, "block_head_axis": 1},
    "an index per token": {"idx_per_token": True},
    "FP8, transposed, an index per token": FP8_KV | {"K_cache_transposed": True, "idx_per_token": True},
    "block, an index per token": BLOCK | {"idx_per_token": True},
}


def poisoned(config: Config, inputs: Inputs) -> Inputs:
    """All bytes drawn at random, NaN and infinity among them, in every slot that the mask drops."""
    draw, found = np.random.default_rng(9), dict(inputs)
    for name in ("K_cache", "V_cache"):
        cache = found[name]
        found[name] = draw.integers(0, 256, cache.nbytes, np.uint8).view(cache.dtype).reshape(cache.shape)
    found["attention_mask"] = np.zeros_like(found["attention_mask"])
    found["attention_mask"][-1] = 1
    return found


def slots(config: Config, name: str, cache: Array, slot: int, b: int) -> Array:
    """The view [d] of one slot."""
    if config.block_kv:
        blocks: Array = cache.reshape(config.num_blocks, config.block_len, config.d)
        return blocks[slot // config.block_len, slot % config.block_len]
    rows: Array = cache[b].reshape(cache.shape[-2:])
    return rows[:, slot] if name == "K_cache" and config.K_cache_transposed else rows[slot]


def slot_of(config: Config, index: Array, b: int, s: int) -> int | None:
    """Where token s of batch b goes; None where it is not written."""
    named = int(index[b, s if config.idx_per_token else 0])
    return None if named == SKIP else named + (0 if config.idx_per_token else s)


@pytest.mark.parametrize("skipped", [(), (0,), (1,), "all"], ids=["none", "first", "second", "all"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_byte_of_the_caches_is_where_it_belongs(name: str, skipped: Any) -> None:
    config = config_of(**LAYOUTS[name])
    inputs = poisoned(config, build(config))
    index = inputs["kv_cache_update_idx"]
    index[list(range(config.B) if skipped == "all" else skipped)] = SKIP
    if config.idx_per_token:
        # And one token alone.
        index[1, 1] = SKIP
    before = {name: inputs[name].tobytes() for name in ("K_cache", "V_cache")}
    found = model(config, inputs)
    given = {key: tensor for key, tensor in inputs.items() if key != "kv_cache_update_idx"}
    new = model(dataclasses.replace(config, update_cache=False, idx_per_token=False), given)
    rows = {"K_cache": new["K_out"].transpose(1, 2, 0), "V_cache": new["V_out"][:, 0]}
    for cache, result in (("K_cache", "K_out"), ("V_cache", "V_out")):
        want = inputs[cache].copy()
        for b in range(config.B):
            for s in range(config.S):
                if (slot := slot_of(config, index, b, s)) is not None:
                    slots(config, cache, want, slot, b)[...] = rows[cache][b, s]
        assert_same_bits(found[result], want)
        assert inputs[cache].tobytes() == before[cache]


@pytest.mark.parametrize("name", LAYOUTS)
def test_slots_that_the_mask_drops_change_nothing(name: str) -> None:
    """Random bytes, NaN and infinity among them: new tokens come from the chip, not from the cache."""
    config = config_of(**LAYOUTS[name])
    inputs = poisoned(config, build(config))
    clean = inputs | {cache: np.zeros_like(inputs[cache]) for cache in ("K_cache", "V_cache")}
    out = model(config, inputs)["out"]
    assert np.isfinite(wide(out)[:, 0]).all()
    assert_same_bits(out, model(config, clean)["out"])


def test_attention_reads_the_cache_as_it_was() -> None:
    """A slot that the mask keeps and the update writes: its old content counts."""
    config = config_of(S=1, **NO_OUT)
    inputs = build(config)
    inputs["attention_mask"] = np.ones_like(inputs["attention_mask"])
    elsewhere = inputs | {"kv_cache_update_idx": np.full((config.B, 1), SKIP, np.uint32)}
    assert_same_bits(model(config, inputs)["out"], model(config, elsewhere)["out"])


def test_transposed_keys_give_the_same_bits() -> None:
    config = config_of()
    inputs = build(config)
    turned = inputs | {"K_cache": np.ascontiguousarray(inputs["K_cache"].transpose(0, 2, 1))}
    plain, transposed = model(config, inputs), model(dataclasses.replace(config, K_cache_transposed=True), turned)
    assert_same_bits(plain["out"], transposed["out"])
    assert_same_bits(np.ascontiguousarray(plain["K_out"].transpose(0, 2, 1)), transposed["K_out"])


def test_the_index_of_a_large_cache_is_exact() -> None:
    """B*S_max beyond 2**24, where float32 cannot tell neighbouring rows."""
    slot = 2**23 + 1
    config = config_of(S=1, d=2, S_max=2**23 + 8, lnc=1, H=512, **NO_ROPE | NO_OUT | {"B": 3})
    inputs = build(config_of(S=1, d=2, lnc=1, H=512, **NO_ROPE | NO_OUT | {"B": 3}))
    for cache in ("K_cache", "V_cache"):
        inputs[cache] = np.zeros((3, config.S_max, 2), inputs[cache].dtype)
    inputs["kv_cache_update_idx"] = np.array([[SKIP], [slot], [slot + 2]], np.uint32)
    found = model(config, inputs)["V_out"]
    assert {tuple(place) for place in np.argwhere(found)[:, :2].tolist()} == {(1, slot), (2, slot + 2)}


# --- a decode loop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flat", "transposed", "four dimensions", "FP8", "block", "float16"])
def test_a_decode_loop_attends_to_all_tokens_so_far(name: str) -> None:
    """Caches start as random bytes and grow; every step is held against softmax over the tokens seen, in float64."""
    config = config_of(**LAYOUTS[name] | NO_OUT | {"S": 2, "softmax_scale": 0.05})
    inputs = poisoned(config, build(config))
    history: list[list[tuple[Array, Array]]] = [[] for _ in range(config.B)]
    start = [0, 4]
    for step in range(5):
        inputs = grown(config, inputs, step, start)
        record = ListRecorder()
        found = model(config, inputs, record=record)
        query = wide(record.value("scaled_query")).reshape(config.d, config.B, config.q, config.S)
        remember(config, inputs, history)
        for b in range(config.B):
            check_step(config, query[:, b], history[b], wide(found["out"][b]), started=step >= (b * 2))
        inputs = inputs | {"K_cache": found["K_out"], "V_cache": found["V_out"]}


def grown(config: Config, inputs: Inputs, step: int, start: list[int]) -> Inputs:
    """The inputs of one step: new X, the mask of the tokens so far, indices behind them; batch 1 starts later."""
    count = np.array([max(0, 2 * step - first) for first in start])
    fresh = build(dataclasses.replace(config), 100 + step)
    token = np.arange(config.S_ctx)[:, None]
    prior = (token < count) & (token < config.S_ctx - config.S)
    mask = np.repeat(prior[:, :, None], config.q * config.S, axis=2).reshape(-1, config.B, config.q, config.S)
    for j in range(config.S):
        mask[config.S_ctx - config.S + j, :, :, j:] = True
    found = inputs | {name: fresh[name] for name in ("X", "cos", "sin")}
    index = count.copy()
    if config.block_kv:
        plan = config.attention.plan
        mask = mask[by_block_row(config.S_ctx, plan.n_seq, plan.block_len)]
        table = inputs["active_blocks_table"].astype(np.int64)
        index = table[np.arange(config.B), count // config.block_len] * config.block_len + count % config.block_len
    # A batch that has not started writes nothing.
    index = np.where([2 * step >= first for first in start], index, SKIP)
    return found | {"attention_mask": mask.astype(np.uint8), "kv_cache_update_idx": index.astype(np.uint32)[:, None]}


def by_block_row(slots: int, shards: int, length: int) -> list[int]:
    """The token of every mask row, written down from the contract's formula."""
    share = slots // shards
    rows = []
    for i in range(slots):
        c, r = divmod(i, share)
        fold, rest = divmod(r, 128 * length)
        rows.append(c * share + fold * 128 * length + (rest % 128) * length + rest // 128)
    return rows


def remember(config: Config, inputs: Inputs, history: list[list[tuple[Array, Array]]]) -> None:
    """Append the step's keys and values to those of every batch."""
    given = {key: tensor for key, tensor in inputs.items() if key != "kv_cache_update_idx"}
    new = model(dataclasses.replace(config, update_cache=False), given)
    keys, values = wide(new["K_out"]), wide(new["V_out"])
    for b, tokens in enumerate(history):
        tokens.extend((keys[:, b, s], values[b, 0, s]) for s in range(config.S))


def check_step(config: Config, query: Array, tokens: list[tuple[Array, Array]], out: Array, started: bool) -> None:
    """out [q, d, S] of one batch against softmax over its tokens; forgets those of a batch that wrote nothing."""
    keys, values = (np.array(part) for part in zip(*tokens, strict=True))
    for h in range(config.q):
        for j in range(config.S):
            seen = len(keys) - config.S + j + 1
            weights = np.exp(keys[:seen] @ query[:, h, j])
            want = weights @ values[:seen] / weights.sum()
            # 16-bit weights and a 16-bit result: a few units of the largest value.
            assert np.abs(out[h, :, j] - want).max() <= 2.0**-6 * np.abs(values[:seen]).max()
    if not started:
        del tokens[-config.S :]


# --- records ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITHIN)
def test_records_are_those_of_the_contract(name: str) -> None:
    config = config_of(**FLATTER | WITHIN[name])
    inputs, record = build(config), ListRecorder()
    plain = model(config, inputs)
    recorded = model(config, inputs, record=record)
    for result in plain:
        assert_same_bits(plain[result], recorded[result])
    assert {entry.core for entry in record} == set(range(config.lnc))
    for entry in record:
        index = CONTRACT.point(entry.point).index
        # A plain projection numbers its tiles by both indices, a transposed one by the first alone.
        assert len(entry.tile) == len(index) or entry.point in ("out_psum", "out_dequant"), entry.name
    columns = {0: config.B * config.q * config.S, 1: config.B * config.S}
    for r, width in columns.items():
        assert record.value("heads", (r,)).shape == (config.d, width)
        assert ("rotated" in record.points) == config.rope
        if config.rope:
            assert record.value("rope_even", (r,)).shape == (config.d // 2, width)
    assert ("scaled_query" in record.points) == (not config.skip_attention)
    assert ("kv_quantized" in record.points) == config.quantized_kv


def test_a_point_belongs_to_one_stage_and_comes_once_per_core() -> None:
    config = config_of(bias_qkv="bfloat16", bias_out="float32")
    record = ListRecorder()
    model(config, build(config), record=record)
    assert {entry.occurrence for entry in record} == {0}
    assert record.value("bias_tile").shape == (config.tokens, config.I)
    # QKV adds its bias on the first core, the projection on every core.
    assert {entry.core for entry in record if entry.point == "bias_tile"} == {0}
    for core in (0, 1):
        assert record.value("out_bias", (), core).shape == (config.tokens, config.H // 2)


def test_cached_counts_differ_between_batches() -> None:
    """The inputs of these tests would not reveal mixed-up batches otherwise."""
    for changes in ({}, BLOCK):
        assert len(set(cached(config_of(**changes)).tolist())) == 2


@pytest.mark.parametrize("name", ["head norms", "FP8 caches returned", "float16"])
def test_the_blocks_own_tiles_have_the_dtypes_and_sizes_of_the_contract(name: str) -> None:
    config, record = config_of(**FLATTER | WITHIN[name] | NORMS), ListRecorder()
    model(config, build(config), record=record)
    keys, queries = config.B * config.S, config.B * config.q * config.S
    sizes = {("kv_scaled", 2): (config.tokens, config.d), ("kv_quantized", 2): (config.tokens, config.d)}
    own = {point.name: point for point in OWN_POINTS}
    seen = [entry for entry in record if entry.point in own]
    assert {entry.point for entry in seen} >= {"heads", "pre_normed", "rotated", "post_scaled", "scaled_query"}
    for entry in seen:
        wanted = own[entry.point].dtype
        assert format_of(entry.value.dtype).name == (config.dtype if wanted == "io" else wanted), entry.name
        r = entry.tile[0] if entry.tile else 0
        half = entry.point.startswith("rope_")
        columns = config.d // 2 if half else config.d, queries if r == 0 else keys
        assert entry.value.shape == sizes.get((entry.point, r), columns), entry.name
