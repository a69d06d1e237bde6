"""Claims about the contract of `attention_block_tkg`: every rule refuses, legal calls make legal stages."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest

from conformance.config_codec import config_from_dict, config_to_dict
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
    build,
    config_of,
)
from reference.attention_block_tkg import model, truth
from reference.contracts import attention_tkg, output_projection_tkg, qkv
from reference.contracts.attention_block_tkg import CALL_RULES, CONTRACT, SKIP, Config, call_refusal, refusal, validate
from reference.errors import KernelArgumentError

LEGAL = {
    "default": {},
    "block": BLOCK,
    "block, head axis 1": BLOCK | {"cache_rank": 4, "block_head_axis": 1},
    "an index per token": {"idx_per_token": True},
    "block, an index per token": BLOCK | {"idx_per_token": True},
    "float16": FLOAT16,
    "FP8": FP8_KV | BLOCK,
    "quantized": STATIC | STATIC_OUT,
    "norms": NORMS | {"d": 128},
    "plain": PLAIN,
    "batch-sharded": {"S_ctx": 128},
    "one core": {"lnc": 1, "B": 3, "S_ctx": 128},
    "many tokens": {"B": 1, "S": 128, "q": 1, "S_max": 512},
    "transposed": {"transposed_out": True, "H": 768},
    "wide": {"H": 24576, "d": 128, "q": 8, "B": 4, "S": 4},
}
#: Per rule, what makes the default config illegal by it first.
ILLEGAL: dict[str, dict[str, Any]] = {
    "flags": {"transposed_out": "STATIC"},
    "quantization_kinds": {"quantization_type_qkv": "MX"},
    "sizes": {"S": 0},
    "lnc": {"lnc": 3},
    "generation": {"generation": "gen2"},
    "cache_rank": {"cache_rank": 5},
    "dtypes": {"dtype": "float32", "W_qkv": "float32", "kv_dtype": "float32"},
    "d_even": {"d": 63, **NO_ROPE},
    "d_head": {"d": 130, **NO_ROPE},
    "columns": {"B": 8, "S": 5, "q": 8},
    "h_limit": {"H": 24576 + 1024},
    "h_multiple": {"H": 1024 + 128},
    "i_limit": {"q": 63, "B": 1, "S": 1},
    "hidden_actual": {"X_hidden_dim_actual": 1025},
    "eps": {"rmsnorm_QK_pre_rope_eps": -1e-6},
    "softmax_scale": {"softmax_scale": float("inf")},
    "gamma": {"rmsnorm_X_enabled": False},
    "scale_rows": {"scale_rows": 2},
    "rope_pair": {"sin": None},
    "rope_d": {"d": 96},
    "head_weights": {"W_Q": "float32"},
    "kv_scales_pair": {"k_scale": "float32"},
    "kv_dtype": {"kv_dtype": "float8_e4m3"},
    "head_axis": BLOCK | {"block_head_axis": 1},
    "idx_per_token": {"idx_per_token": True, "update_cache": False},
    "block_transposed": BLOCK | {"K_cache_transposed": True},
    "block_multiple": BLOCK | {"block_len": 48},
    "context": {"S_max": 255},
    "key_tiles": {"S_ctx": 384, "S_max": 512},
    "block_ids": BLOCK | {"num_blocks": 2**24 + 1},
    "transposed_needs_out": {"transposed_out": True, **NO_OUT},
    "out_unused": {"bias_out": "float32", **NO_OUT},
    "out_h_plain": {"H": 1024 + 512},
    "out_nh": {"transposed_out": True, "H": 24576, "q": 8},
}
MORE = {
    "W_qkv of another dtype": ("dtypes", {"W_qkv": "float16"}),
    "quantized weight unnamed": ("dtypes", {"W_qkv": "float8_e4m3"}),
    "bool as a size": ("sizes", {"B": True}),
    "norm without gamma": ("gamma", {"gamma": None}),
    "cos and sin of two dtypes": ("rope_pair", {"sin": "float32"}),
    "quantization without a projection": ("out_unused", {"quantization_type_out": "ROW", **NO_OUT}),
    "scales without FP8 caches": ("kv_dtype", {"k_scale": "float32", "v_scale": "float32"}),
    "NaN scale": ("softmax_scale", {"softmax_scale": float("nan")}),
    "scale beyond float32": ("softmax_scale", {"softmax_scale": 4e38}),
    "negative scale beyond float32": ("softmax_scale", {"softmax_scale": -1e300}),
    "scale beyond float64": ("softmax_scale", {"softmax_scale": 10**400}),
    "bool as a scale": ("softmax_scale", {"softmax_scale": True}),
    "eps of X beyond float32": ("eps", {"rmsnorm_X_eps": 1e39}),
    "eps before RoPE beyond float64": ("eps", {"rmsnorm_QK_pre_rope_eps": 10**400}),
    "eps after RoPE beyond float32": ("eps", {"rmsnorm_QK_post_rope_eps": 1e39}),
    "index per token of one token": ("idx_per_token", {"S": 1, "idx_per_token": True}),
    "head axis 1 of a flat cache": ("head_axis", {"cache_rank": 4, "block_head_axis": 1}),
    "head axis 0": ("head_axis", BLOCK | {"cache_rank": 4, "block_head_axis": 0}),
    "head axis 3": ("head_axis", BLOCK | {"cache_rank": 4, "block_head_axis": 3}),
    "bool as a head axis": ("head_axis", BLOCK | {"cache_rank": 4, "block_head_axis": True}),
    "more than 128 tokens": ("columns", {"B": 129, "S": 1, "q": 1}),
}


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_call_is_made_of_legal_stages(name: str) -> None:
    config = config_of(**LEGAL[name])
    assert attention_tkg.refusal(config.attention) is None
    if config.W_out is not None:
        assert output_projection_tkg.CONTRACT.refusal(config.projection) is None
    # Beyond 96 new tokens `qkv` alone would choose its other mode; the block never does.
    if config.S <= 96:
        assert qkv.refusal(config.qkv) is None
        assert qkv.mode(config.qkv) == "TKG"


@pytest.mark.parametrize("name", LEGAL)
def test_a_config_survives_json(name: str) -> None:
    config = config_of(**LEGAL[name])
    assert config_from_dict(Config, config_to_dict(config)) == config


def test_every_rule_has_a_violation() -> None:
    assert set(ILLEGAL) == {rule.id for rule in CONTRACT.rules}


@pytest.mark.parametrize("rule", ILLEGAL)
def test_violations_are_refused_by_their_rule(rule: str) -> None:
    config = dataclasses.replace(config_of(), **ILLEGAL[rule])
    found = refusal(config)
    assert found is not None
    assert found.rule == rule
    with pytest.raises(KernelArgumentError, match=rf"\[{rule}\]"):
        validate(config)


@pytest.mark.parametrize("name", MORE)
def test_other_violations_are_refused_by_their_rule(name: str) -> None:
    rule, changes = MORE[name]
    found = refusal(dataclasses.replace(config_of(), **changes))
    assert found is not None
    assert found.rule == rule


@pytest.mark.parametrize(
    "changes",
    [
        {"softmax_scale": 3.4028235e38},
        {"softmax_scale": -3.4028235e38},
        {"softmax_scale": 10**38},
        {"rmsnorm_X_eps": 3.4028235e38},
        {"rmsnorm_X_eps": 1e-300},
        {"rmsnorm_QK_pre_rope_eps": 0},
    ],
)
def test_scalars_that_float32_holds_are_legal(changes: dict[str, Any]) -> None:
    assert refusal(dataclasses.replace(config_of(), **changes)) is None


def block_call(index: list[int]) -> tuple[Config, dict[str, Any]]:
    config = config_of(**BLOCK)
    return config, build(config) | {"kv_cache_update_idx": np.array(index, np.uint32)[:, None]}


def token_call(index: list[list[int]], **changes: Any) -> tuple[Config, dict[str, Any]]:
    config = config_of(**changes, idx_per_token=True)
    return config, build(config) | {"kv_cache_update_idx": np.array(index, np.uint32)}


def flat_call(**tensors: Any) -> tuple[Config, dict[str, Any]]:
    config = config_of()
    return config, build(config) | tensors


CALLS: dict[str, tuple[Config, dict[str, Any]]] = {
    "tensors_given": flat_call(cos=None),
    "tensors_unused": flat_call(sink=np.zeros((2, 1), np.float32)),
    "tensor_shapes": flat_call(kv_cache_update_idx=np.zeros((2, 1), np.int32)),
    "block_id_range": (config_of(**BLOCK), build(config_of(**BLOCK)) | {
        "active_blocks_table": np.full((2, 16), 40, np.uint32),
    }),
    "idx_range": flat_call(kv_cache_update_idx=np.array([[0], [298]], np.uint32)),
    "idx_block": block_call([0, 30]),
    "idx_distinct": block_call([32, 34]),
}  # fmt: skip
MORE_CALLS: dict[str, tuple[str, tuple[Config, dict[str, Any]]]] = {
    "an index per batch for one per token": ("tensor_shapes", token_call([[0], [0]])),
    "an index per token for one per batch": ("tensor_shapes", flat_call(
        kv_cache_update_idx=np.zeros((2, 3), np.uint32),
    )),
    "head axis 2 for 1": ("tensor_shapes", (
        config_of(**BLOCK, cache_rank=4, block_head_axis=1), build(config_of(**BLOCK, cache_rank=4)),
    )),
    "a token past a flat cache": ("idx_range", token_call([[0, 1, 2], [SKIP, 300, SKIP]])),
    "a token past a block cache": ("idx_range", token_call([[0, 1, 2], [3, 4, 640]], **BLOCK)),
    "two tokens of a flat batch": ("idx_distinct", token_call([[7, 8, 7], [0, 1, 2]])),
    "two tokens of a block batch": ("idx_distinct", token_call([[7, 8, 7], [0, 1, 2]], **BLOCK)),
    "tokens of two block batches": ("idx_distinct", token_call([[7, 8, 9], [10, 11, 8]], **BLOCK)),
}  # fmt: skip


def test_every_rule_of_calls_has_a_violation() -> None:
    assert set(CALLS) == {rule.id for rule in CALL_RULES}


@pytest.mark.parametrize("rule", CALLS)
@pytest.mark.parametrize("run", [model, truth])
def test_illegal_calls_are_refused_by_their_rule(rule: str, run: Any) -> None:
    config, inputs = CALLS[rule]
    with pytest.raises(KernelArgumentError, match=rf"\[{rule}\]"):
        run(config, inputs)


@pytest.mark.parametrize("name", MORE_CALLS)
def test_other_illegal_calls_are_refused_by_their_rule(name: str) -> None:
    rule, call = MORE_CALLS[name]
    found = call_refusal(*call)
    assert found is not None
    assert found.rule == rule


@pytest.mark.parametrize(
    ("index", "layout"),
    [
        ([[299, 0, 7], [7, 299, SKIP]], {}),
        ([[5, SKIP, SKIP], [SKIP, SKIP, SKIP]], {"K_cache_transposed": True}),
        ([[639, 0, 15], [16, 320, SKIP]], BLOCK),
        ([[14, 15, 16], [SKIP, 31, 32]], BLOCK),
    ],
)
def test_an_index_per_token_names_any_slots_in_any_order(index: list[list[int]], layout: dict[str, Any]) -> None:
    assert call_refusal(*token_call(index, **layout)) is None


@pytest.mark.parametrize("index", [[297, 0], [0, 0], [SKIP, SKIP]])
def test_indices_at_the_edge_of_flat_caches_are_legal(index: list[int]) -> None:
    config, inputs = flat_call(kv_cache_update_idx=np.array(index, np.uint32)[:, None])
    assert call_refusal(config, inputs) is None


@pytest.mark.parametrize("index", [[13, 29], [32, 35], [SKIP, 637]])
def test_indices_at_the_edge_of_blocks_are_legal(index: list[int]) -> None:
    config, inputs = block_call(index)
    assert call_refusal(config, inputs) is None


def test_signature_is_legal_python_and_keeps_the_published_order() -> None:
    text = CONTRACT.signature
    names = [argument.name for argument in CONTRACT.arguments]
    scope: dict[str, Any] = {}
    exec(f"def {text}: pass", scope)
    assert list(inspect.signature(scope[CONTRACT.kernel]).parameters) == names
    given = [argument.name for argument in CONTRACT.arguments if argument.default is None]
    assert given[:3] == ["X", "X_hidden_dim_actual", "rmsnorm_X_enabled"]
    assert names[len(given) :] == ["softmax_scale", "k_scale", "v_scale", "sbm", "skip_attention"]


def test_the_fact_sheets_defects_are_all_there() -> None:
    assert [defect.id for defect in CONTRACT.defects] == [f"AB{i}" for i in range(1, 37)]
