"""Claims about the contract of `qkv`: the dispatch, limits that accept their edge and refuse the next step, and
raw arguments that are refused before anything is launched."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict, fields, replace
from enum import Enum
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from reference.contracts.qkv import (
    CALL_RULES,
    CONTRACT,
    Call,
    Config,
    call_of,
    call_refusal,
    mode,
    refusal,
    validate,
    validate_call,
)
from reference.errors import KernelArgumentError

HEADS: dict[str, Any] = {"d_head": 128, "num_q_heads": 2, "num_kv_heads": 1}
FP8 = "float8_e4m3"
PLAIN = Config(B=4, S=1, H=1024, I=512)
HEADED = replace(PLAIN, **HEADS)
RMS = replace(PLAIN, norm="RMS_NORM", gamma="bfloat16")
LAYER = replace(RMS, norm="LAYER_NORM", beta="bfloat16")
STATIC = replace(HEADED, quantization="STATIC", weight_dtype=FP8)
ROW = replace(PLAIN, quantization="ROW", weight_dtype=FP8)
LONG = replace(PLAIN, S=128)
ROPE = replace(HEADED, fused_rope=True, rope_dtype="bfloat16")
FLAT = replace(HEADED, kv_cache="FLAT", kv_dtype=FP8, max_seq_len=64)
BLOCK = replace(HEADED, kv_cache="BLOCK", kv_dtype=FP8, num_blocks=8, block_size=16)
MX = replace(PLAIN, quantization="MX", weight_dtype="float8_e4m3fn_x4", generation="gen4")


# --- dispatch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PLAIN, "TKG"),
        (replace(PLAIN, B=1, S=96), "TKG"),
        (replace(PLAIN, B=1, S=97), "CTE"),
        (replace(PLAIN, B=128), "TKG"),
        (replace(PLAIN, B=129), "CTE"),
        (replace(PLAIN, B=2, S=64), "TKG"),
        (replace(PLAIN, B=64, S=4), "CTE"),  # QKV2
        (ROPE, "CTE"),
        (FLAT, "CTE"),  # QKV3
        (BLOCK, "CTE"),
        (replace(PLAIN, norm="RMS_NORM_SKIP_GAMMA"), "CTE"),
        (MX, "CTE"),
        (replace(MX, is_input_swizzled=True), "CTE"),
        (STATIC, "TKG"),
        (ROW, "TKG"),
        (RMS, "TKG"),
        (LAYER, "TKG"),
        (replace(HEADED, output_layout="NBSd"), "TKG"),
        (replace(PLAIN, fused_residual_add=True), "TKG"),
    ],
)
def test_a_call_is_served_by_the_mode_that_its_sizes_and_options_need_qkv2_qkv3(config: Config, expected: str) -> None:
    assert refusal(config) is None
    assert mode(config) == expected


@pytest.mark.parametrize("lnc", [1, 2])
def test_the_dispatch_does_not_depend_on_the_cores_or_on_hints(lnc: int) -> None:
    hints = {"lnc": lnc, "use_auto_allocation": True, "load_input_with_DMA_transpose": False}
    assert mode(replace(PLAIN, **hints)) == "TKG"
    assert mode(replace(LONG, **hints)) == "CTE"


# --- rules about the Config -------------------------------------------------------------------------------

#: rule id: (a config at the edge that is legal, one step past it).
EDGES: dict[str, list[tuple[Config, Config]]] = {
    "flags_are_bool": [
        (replace(PLAIN, fused_residual_add=True), replace(PLAIN, fused_residual_add=1)),
        (ROPE, replace(ROPE, fused_rope="yes")),
        (PLAIN, replace(PLAIN, use_auto_allocation=None)),
    ],
    "output_layout": [(replace(HEADED, output_layout="NBSd"), replace(HEADED, output_layout="NBdS"))],
    "quantization_kind": [(STATIC, replace(STATIC, quantization="STATIC_MX"))],
    "norm_kind": [(RMS, replace(RMS, norm="L2_NORM"))],
    "kv_cache_kind": [(FLAT, replace(FLAT, kv_cache="PAGED"))],
    "sizes_positive": [
        *((replace(PLAIN, **{n: 1}), replace(PLAIN, **{n: 0})) for n in "BS"),
        (PLAIN, replace(PLAIN, H=0)),
        (replace(PLAIN, I=1), replace(PLAIN, I=0)),
        (PLAIN, replace(PLAIN, B=4.0)),
    ],
    "optional_sizes_positive": [
        (HEADED, replace(HEADED, num_q_heads=0)),
        (HEADED, replace(HEADED, num_kv_heads=-1)),
        (replace(RMS, hidden_actual=1), replace(RMS, hidden_actual=0)),
        (BLOCK, replace(BLOCK, block_size=True)),
    ],
    "lnc": [(replace(PLAIN, lnc=2), replace(PLAIN, lnc=3)), (PLAIN, replace(PLAIN, lnc=0))],
    "generation": [(replace(PLAIN, generation="gen4"), replace(PLAIN, generation="gen2"))],
    "store_output_in_sbuf": [(PLAIN, replace(PLAIN, store_output_in_sbuf=True))],
    "h_limit": [
        (replace(PLAIN, H=24576), replace(PLAIN, H=24704)),
        (replace(LONG, H=24576), replace(LONG, H=24577)),
    ],
    "h_multiple_of_128": [(replace(PLAIN, H=128), replace(PLAIN, H=129)), (LONG, replace(LONG, H=1000))],
    "i_limit": [(replace(PLAIN, I=4096), replace(PLAIN, I=4097)), (replace(LONG, I=4096), replace(LONG, I=4608))],
    "input_dtype": [(replace(PLAIN, dtype="float16"), replace(PLAIN, dtype=FP8))],
    "weight_dtype": [
        (PLAIN, replace(PLAIN, weight_dtype=FP8)),
        (STATIC, replace(STATIC, weight_dtype="bfloat16")),
        (STATIC, replace(STATIC, weight_dtype="float8_e4m3fn")),
        (ROW, replace(ROW, weight_dtype="float8_e5m2")),
        (MX, replace(MX, weight_dtype=FP8)),
    ],
    "bias_dtype": [(replace(LONG, bias="float32"), replace(LONG, bias="int32"))],
    "head_columns": [(HEADED, replace(HEADED, I=640)), (HEADED, replace(HEADED, num_kv_heads=2))],
    "nbsd_d_head": [
        (replace(HEADED, output_layout="NBSd"), replace(PLAIN, output_layout="NBSd")),
        (replace(HEADED, d_head=64, num_q_heads=6), replace(HEADED, d_head=64, num_q_heads=6, output_layout="NBSd")),
    ],
    "nbsd_columns": [
        (replace(PLAIN, d_head=128, output_layout="NBSd"), replace(PLAIN, I=520, d_head=128, output_layout="NBSd"))
    ],
    "gamma_needed": [
        (RMS, replace(RMS, gamma=None)),
        (LAYER, replace(LAYER, gamma=None)),
        (replace(LONG, norm="RMS_NORM_SKIP_GAMMA"), replace(LONG, norm="RMS_NORM")),
    ],
    "gamma_unused": [
        (PLAIN, replace(PLAIN, gamma="bfloat16")),
        (RMS, replace(RMS, norm="RMS_NORM_SKIP_GAMMA")),
    ],
    "gamma_dtype": [(replace(RMS, gamma="float32"), replace(RMS, gamma="int8"))],
    "beta_unused": [(LAYER, replace(RMS, beta="bfloat16")), (PLAIN, replace(PLAIN, beta="bfloat16"))],
    "beta_dtype": [(replace(LAYER, beta="float16"), replace(LAYER, beta="int8"))],
    "norm_eps": [
        (replace(RMS, norm_eps=0.0), replace(RMS, norm_eps=-1e-9)),
        (replace(RMS, norm_eps=77), replace(RMS, norm_eps=float("inf"))),
        (replace(RMS, norm_eps=3.4028235e38), replace(RMS, norm_eps=1e39)),
        (replace(RMS, norm_eps=10**38), replace(RMS, norm_eps=10**400)),
        (RMS, replace(RMS, norm_eps=None)),
        (RMS, replace(RMS, norm_eps=float("nan"))),
    ],
    "hidden_actual_limit": [(replace(RMS, hidden_actual=1024), replace(RMS, hidden_actual=1025))],
    "hidden_actual_layer_norm": [(replace(LAYER, hidden_actual=1024), replace(LAYER, hidden_actual=1000))],
    "scale_rows": [(replace(STATIC, scale_rows=1), replace(STATIC, scale_rows=2))],
    "static_heads": [
        (STATIC, replace(STATIC, d_head=None)),
        (STATIC, replace(STATIC, num_q_heads=None)),
        (STATIC, replace(STATIC, num_kv_heads=None)),
    ],
    "rope_caches": [(ROPE, replace(ROPE, rope_dtype=None)), (HEADED, replace(HEADED, rope_dtype="bfloat16"))],
    "kv_scale_options": [
        (FLAT, replace(HEADED, kv_dtype=FP8)),
        (replace(FLAT, fp8_max=100.0), replace(HEADED, fp8_max=100.0)),
        (replace(FLAT, fp8_min=-100.0), replace(HEADED, fp8_min=-100.0)),
    ],
    "kv_cache_sizes": [
        (FLAT, replace(FLAT, max_seq_len=None)),
        (FLAT, replace(FLAT, block_size=16)),
        (BLOCK, replace(BLOCK, block_size=None)),
        (HEADED, replace(HEADED, max_seq_len=64)),
    ],
    "tkg_h_per_core": [
        (replace(PLAIN, H=128), replace(PLAIN, H=128, lnc=2)),
        (replace(LONG, H=384, lnc=2), replace(PLAIN, H=384, lnc=2)),
    ],
    "tkg_bias_dtype": [
        (replace(PLAIN, bias="bfloat16"), replace(PLAIN, bias="float32")),
        (replace(LONG, bias="float32"), replace(STATIC, bias="float16")),
    ],
    "tkg_pe_float32": [
        (replace(PLAIN, dtype="float32", weight_dtype="float32"), replace(PLAIN, dtype="float32")),
        (replace(PLAIN, weight_dtype="float16"), replace(PLAIN, weight_dtype="float32")),
        (replace(STATIC, dtype="float32"), replace(ROW, dtype="float32")),
    ],
    "tkg_sbm": [(replace(PLAIN, sbm="auto"), replace(PLAIN, sbm="manual"))],
    "cte_row": [(replace(ROW, S=32), replace(ROW, S=33))],
    "rope_heads": [(ROPE, replace(ROPE, num_kv_heads=None))],
    "rope_d_even": [
        (replace(ROPE, d_head=2, I=8), replace(ROPE, d_head=3, I=12)),
        (replace(ROPE, d_head=96, I=384), replace(ROPE, d_head=1, I=4)),
    ],
    "rope_dtype": [(replace(ROPE, rope_dtype="float32"), replace(ROPE, rope_dtype="int8"))],
    "kv_layout": [(FLAT, replace(FLAT, output_layout="NBSd")), (BLOCK, replace(BLOCK, output_layout="NBSd"))],
    "kv_heads": [(FLAT, replace(FLAT, d_head=None)), (BLOCK, replace(BLOCK, num_q_heads=None))],
    "kv_dtype": [
        (replace(FLAT, kv_dtype="float8_e5m2"), replace(FLAT, kv_dtype="bfloat16")),
        (FLAT, replace(FLAT, kv_dtype=None)),
    ],
    "kv_dtype_generation": [
        (replace(FLAT, kv_dtype="float8_e4m3fn", generation="gen4"), replace(FLAT, kv_dtype="float8_e4m3fn"))
    ],
    "kv_limits": [
        (replace(FLAT, fp8_max=100.5), replace(FLAT, fp8_max=float("nan"))),
        (replace(FLAT, fp8_max=240), replace(FLAT, fp8_max=10**400)),
        (replace(FLAT, fp8_max=100, fp8_min=-240), replace(FLAT, fp8_max=100, fp8_min=-1e39)),
        (replace(FLAT, fp8_max=-3.0, fp8_min=-3.0), replace(FLAT, fp8_max=-3.0, fp8_min=-2.0)),
        (replace(FLAT, fp8_max=240.0), replace(FLAT, fp8_max=241.0)),
    ],
    "kv_room": [(replace(FLAT, S=64, max_seq_len=64), replace(FLAT, S=65, max_seq_len=64))],
    "cte_sbm": [
        (replace(LONG, sbm="manual"), replace(LONG, sbm="manual", use_auto_allocation=True)),
        (replace(LONG, sbm="auto", use_auto_allocation=True), replace(LONG, sbm="auto")),
    ],
    "mx_generation": [(MX, replace(MX, generation="gen3"))],
    "mx_h": [(replace(MX, H=512), replace(MX, H=640))],
    "mx_input_dtype": [(replace(MX, dtype="float32"), replace(MX, dtype="float16"))],
    "swizzled_mx": [(replace(MX, is_input_swizzled=True), replace(LONG, is_input_swizzled=True))],
    "swizzled_plain": [
        (replace(MX, is_input_swizzled=True), replace(MX, is_input_swizzled=True, fused_residual_add=True)),
        (
            replace(MX, norm="RMS_NORM_SKIP_GAMMA"),
            replace(MX, norm="RMS_NORM_SKIP_GAMMA", is_input_swizzled=True),
        ),
    ],
}


def test_every_rule_has_an_edge() -> None:
    assert list(EDGES) == [rule.id for rule in CONTRACT.rules]


@pytest.mark.parametrize(("rule", "row"), [(rule, i) for rule, rows in EDGES.items() for i in range(len(rows))])
def test_limit_accepts_its_edge_and_refuses_the_next_step(rule: str, row: int) -> None:
    legal, illegal = EDGES[rule][row]
    assert refusal(legal) is None
    validate(legal)
    found = refusal(illegal)
    assert found is not None
    assert found.rule == rule
    with pytest.raises(KernelArgumentError) as caught:
        validate(illegal)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"qkv: {found.argument}: ")
    for part in (found.condition, found.got, found.remedy):
        assert part
        assert part in message


@pytest.mark.parametrize("config", [PLAIN, LAYER, STATIC, ROW, ROPE, replace(FLAT, fp8_max=1.5), BLOCK, MX])
def test_config_survives_json(config: Config) -> None:
    assert Config(**json.loads(json.dumps(asdict(config)))) == config


def test_odd_tokens_with_residual_norm_and_two_cores_are_legal_qkv18() -> None:
    for config, tokens in ((RMS, 19), (LAYER, 11)):
        assert refusal(replace(config, B=tokens, fused_residual_add=True, lnc=2)) is None


def test_limits_of_the_cache_follow_its_dtype_and_the_upper_one() -> None:
    assert (FLAT.kv_min, FLAT.kv_max) == (-240.0, 240.0)
    assert replace(FLAT, kv_dtype="float8_e5m2").kv_max == 57344.0
    assert replace(FLAT, fp8_max=100.0).kv_min == -100.0
    assert replace(FLAT, fp8_max=100.0, fp8_min=-7.0).kv_min == -7.0


# --- rules about the arguments of a call ------------------------------------------------------------------


class Kind(Enum):
    NONE = 0
    STATIC = 1
    ROW = 2
    MX = 3
    STATIC_MX = 4


class Norm(Enum):
    NO_NORM = 0
    RMS_NORM = 1
    LAYER_NORM = 2


class Tensor:
    """Shape and dtype, as a tensor of any framework has them."""

    def __init__(self, shape: tuple[int, ...], dtype: Any = ml_dtypes.bfloat16) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)


F32, E4M3 = np.float32, ml_dtypes.float8_e4m3
SCALE = Tensor((128, 1), F32)
CACHE = Tensor((2, 64, 128), E4M3)
BLOCKS = Tensor((8, 16, 128), E4M3)


def call(**changes: Any) -> Call:
    """A legal call without options, B=2, S=3, H=256, I=512, with some arguments changed."""
    return Call(**{"input": Tensor((2, 3, 256)), "fused_qkv_weights": Tensor((256, 512)), **changes})


def static(**changes: Any) -> Call:
    quantized = {
        "fused_qkv_weights": Tensor((256, 512), E4M3), "quantization_type": Kind.STATIC, **HEADS,
        "qkv_w_scale": Tensor((128, 3), F32), "qkv_in_scale": SCALE,
    }  # fmt: skip
    return call(**{**quantized, **changes})


def row(**changes: Any) -> Call:
    quantized = {"quantization_type": Kind.ROW, "qkv_w_scale": Tensor((1, 512), F32), "qkv_in_scale": None}
    return static(**{**quantized, **changes})


def packed(**changes: Any) -> Call:
    quantized = {
        "input": Tensor((2, 3, 512)), "fused_qkv_weights": Tensor((128, 512), np.uint32),
        "quantization_type": Kind.MX, "qkv_w_scale": Tensor((16, 512), np.uint8), "generation": "gen4",
    }  # fmt: skip
    return call(**{**quantized, **changes})


def cached(**changes: Any) -> Call:
    caches = {"k_cache": CACHE, "v_cache": CACHE, "k_scale": SCALE, "v_scale": SCALE, "kv_dtype": E4M3, **HEADS}
    return call(**{**caches, **changes})


def slots(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int32).reshape(2, 3)


def blocks(**changes: Any) -> Call:
    mapped = {"k_cache": BLOCKS, "v_cache": BLOCKS, "use_block_kv": True, "block_size": 16}
    return cached(**{**mapped, "slot_mapping": slots(5, 127, 0, 8, -1, 64), **changes})


def roped(**changes: Any) -> Call:
    tables = {"cos_cache": Tensor((2, 3, 128)), "sin_cache": Tensor((2, 3, 128)), "fused_rope": True, **HEADS}
    return call(**{**tables, **changes})


def residual(**changes: Any) -> Call:
    others = {"mlp_prev": Tensor((2, 3, 256)), "attention_prev": Tensor((2, 3, 256)), "fused_residual_add": True}
    return call(**{**others, **changes})


#: rule id: (a legal call, one step past the rule).
CALLS: dict[str, list[tuple[Call, Call]]] = {
    "input_rank": [(call(), call(input=Tensor((6, 256)))), (call(), call(input=Tensor((128, 6, 2, 1))))],
    "call_quantization_kind": [
        (static(), static(quantization_type=Kind.STATIC_MX)),
        (call(), call(quantization_type=1)),
    ],
    "weight_rows": [
        (call(), call(fused_qkv_weights=Tensor((255, 512)))),
        (call(), call(fused_qkv_weights=Tensor((384, 512)))),
        (call(), call(fused_qkv_weights=Tensor((2, 128, 512)))),
        (packed(), packed(fused_qkv_weights=Tensor((512, 512), np.uint32))),
    ],
    "bias_shape": [
        (call(bias=Tensor((1, 512))), call(bias=Tensor((512,)))),
        (call(bias=Tensor((1, 512))), call(bias=Tensor((1, 511)))),
    ],
    "qkv_w_scale": [
        (call(), call(qkv_w_scale=Tensor((128, 3), F32))),
        (static(), static(qkv_w_scale=None)),
        (static(), static(qkv_w_scale=Tensor((128, 1), F32))),
        (static(), static(qkv_w_scale=Tensor((128, 3)))),
        (static(), static(qkv_w_scale=Tensor((64, 3), F32))),
        (row(), row(qkv_w_scale=Tensor((1, 511), F32))),
        (packed(), packed(qkv_w_scale=None)),
        (packed(), packed(qkv_w_scale=Tensor((8, 512), np.uint8))),
        (packed(), packed(qkv_w_scale=Tensor((16, 512), F32))),
    ],
    "qkv_in_scale": [
        (call(), call(qkv_in_scale=SCALE)),
        (static(), static(qkv_in_scale=None)),
        (static(), static(qkv_in_scale=Tensor((1, 1), F32))),
        (row(), row(qkv_in_scale=Tensor((1, 1), F32))),
        (packed(), packed(qkv_in_scale=SCALE)),
    ],
    "residual_tensors": [
        (residual(), residual(mlp_prev=None)),
        (residual(), residual(attention_prev=None)),
        (residual(), residual(fused_residual_add=False)),
        (residual(), residual(mlp_prev=Tensor((2, 3, 128)))),
        (residual(), residual(attention_prev=Tensor((2, 3, 256), F32))),
        (call(), call(attention_prev=Tensor((2, 3, 256)))),
    ],
    "gamma_shape": [
        (
            call(fused_norm_type=Norm.RMS_NORM, gamma_norm_weights=Tensor((1, 256))),
            call(fused_norm_type=Norm.RMS_NORM, gamma_norm_weights=Tensor((256,))),
        ),
    ],
    "beta_shape": [
        (
            call(
                fused_norm_type=Norm.LAYER_NORM, gamma_norm_weights=Tensor((1, 256)), layer_norm_bias=Tensor((1, 256))
            ),
            call(
                fused_norm_type=Norm.LAYER_NORM, gamma_norm_weights=Tensor((1, 256)), layer_norm_bias=Tensor((1, 128))
            ),
        ),
    ],
    "rope_shape": [
        (roped(), roped(sin_cache=None)),
        (roped(), roped(cos_cache=None)),
        (roped(), roped(cos_cache=Tensor((2, 3, 64)))),
        (roped(), roped(sin_cache=Tensor((3, 128)))),
        (roped(), roped(sin_cache=Tensor((2, 3, 128), F32))),
    ],
    "kv_together": [
        (cached(), cached(k_scale=None)),
        (cached(), cached(v_scale=None)),
        (cached(), cached(k_cache=None)),
        (cached(), cached(k_scale=None, v_scale=None)),
    ],
    "kv_scale_shape": [
        (cached(), cached(k_scale=Tensor((1, 1), F32))),
        (cached(), cached(v_scale=Tensor((128, 1)))),
    ],
    "use_block_kv_bool": [(blocks(), blocks(use_block_kv=1))],
    "block_arguments": [
        (blocks(), blocks(block_size=None)),
        (blocks(), blocks(slot_mapping=None)),
        (cached(), cached(block_size=16)),
        (cached(), cached(slot_mapping=slots(0, 1, 2, 3, 4, 5))),
        (call(), call(use_block_kv=True, block_size=16, slot_mapping=slots(0, 1, 2, 3, 4, 5))),
    ],
    "kv_cache_shape": [
        (cached(), cached(v_cache=Tensor((2, 65, 128), E4M3))),
        (cached(), cached(k_cache=Tensor((3, 64, 128), E4M3), v_cache=Tensor((3, 64, 128), E4M3))),
        (cached(), cached(k_cache=Tensor((2, 64, 256), E4M3), v_cache=Tensor((2, 64, 256), E4M3))),
        (cached(), cached(v_cache=Tensor((2, 64, 128)))),
        (blocks(), blocks(block_size=32)),
        (cached(), cached(k_cache=Tensor((128, 128), E4M3), v_cache=Tensor((128, 128), E4M3))),
    ],
    "kv_dtype_of_cache": [
        (cached(), cached(kv_dtype=None)),
        (cached(kv_dtype="float8_e4m3"), cached(kv_dtype="float8_e5m2")),
    ],
    "slot_mapping": [
        (blocks(), blocks(slot_mapping=slots(0, 1, 2, 3, 4, 5).reshape(-1))),
        (blocks(), blocks(slot_mapping=slots(0, 1, 2, 3, 4, 5).astype(np.int16))),
    ],
    "slot_values": [
        (blocks(), blocks(slot_mapping=slots(5, 128, 0, 8, -1, 64))),
        (blocks(), blocks(slot_mapping=slots(5, -2, 0, 8, -1, 64))),
        (blocks(slot_mapping=slots(5, -1, 0, 8, -1, 64)), blocks(slot_mapping=slots(5, 0, 0, 8, -1, 64))),
    ],
}  # fmt: skip


def test_every_rule_about_calls_has_an_edge() -> None:
    assert list(CALLS) == [rule.id for rule in CALL_RULES]


@pytest.mark.parametrize(("rule", "row"), [(rule, i) for rule, rows in CALLS.items() for i in range(len(rows))])
def test_call_is_accepted_or_refused_by_the_named_rule(rule: str, row: int) -> None:
    legal, illegal = CALLS[rule][row]
    assert call_refusal(legal) is None
    with pytest.raises(KernelArgumentError, match=rf"\[{rule}\]"):
        validate_call(illegal)


def test_a_contraction_mismatch_is_a_value_error_and_an_assertion_error() -> None:
    mismatch = call(fused_qkv_weights=Tensor((384, 512)))
    for expected in (ValueError, AssertionError):
        with pytest.raises(expected, match="weight_rows"):
            validate_call(mismatch)


def test_a_missing_norm_weight_is_refused_from_the_raw_arguments_too() -> None:
    with pytest.raises(AssertionError, match="gamma_needed"):
        validate_call(call(fused_norm_type=Norm.RMS_NORM))


@pytest.mark.parametrize("lone", ["kv_dtype", "fp8_max", "fp8_min"])
def test_cache_options_without_a_cache_are_refused_qkv5(lone: str) -> None:
    value = E4M3 if lone == "kv_dtype" else 100.0
    with pytest.raises(KernelArgumentError, match="kv_scale_options"):
        validate_call(call(**{lone: value}))


def test_calls_become_the_configs_they_describe() -> None:
    assert validate_call(call(lnc=2)) == Config(2, 3, 256, 512, lnc=2)
    assert validate_call(row(bias=Tensor((1, 512)))) == Config(
        2, 3, 256, 512, weight_dtype=FP8, bias="bfloat16", quantization="ROW", scale_rows=1, **HEADS
    )
    assert validate_call(cached(fp8_max=100.0)) == Config(
        2, 3, 256, 512, kv_cache="FLAT", kv_dtype=FP8, max_seq_len=64, fp8_max=100.0, **HEADS
    )
    assert validate_call(blocks()) == Config(
        2, 3, 256, 512, kv_cache="BLOCK", kv_dtype=FP8, num_blocks=8, block_size=16, **HEADS
    )
    assert validate_call(packed()).weight_dtype == "float8_e4m3fn_x4"
    assert validate_call(roped()).rope_dtype == "bfloat16"


@pytest.mark.parametrize("made", [call(), residual(), static(), row(), packed(), cached(), blocks(), roped()])
def test_a_config_and_its_tensors_make_the_call_again(made: Call) -> None:
    config = validate_call(made)
    tensors = {f.name: v for f in fields(Call) if isinstance(v := getattr(made, f.name), (Tensor, np.ndarray))}
    again = call_of(config, tensors)
    assert validate_call(again) == config
    assert again.config() == made.config()


def test_a_short_call_with_a_cache_is_served_by_context_encoding_qkv3() -> None:
    assert mode(validate_call(cached())) == "CTE"


def test_arguments_of_another_version_in_their_places_are_refused() -> None:
    # A release that inserts one argument shifts all after it.
    with pytest.raises(KernelArgumentError):
        validate_call(Call(Tensor((2, 3, 256)), Tensor((256, 512)), "BSD", None, None, Kind.NONE))


# --- the record -------------------------------------------------------------------------------------------


def test_arguments_of_the_record_are_those_of_a_call_in_the_published_order() -> None:
    names = [argument.name for argument in CONTRACT.arguments]
    assert names == [name for name in inspect.signature(Call).parameters if name not in ("lnc", "generation")]
    assert names[:6] == [
        "input", "fused_qkv_weights", "output_layout", "bias", "quantization_type", "qkv_w_scale",
    ]  # fmt: skip
    assert names[-5:] == [
        "store_output_in_sbuf", "sbm", "use_auto_allocation", "load_input_with_DMA_transpose", "is_input_swizzled",
    ]  # fmt: skip


def test_defects_and_decisions_are_complete() -> None:
    assert [defect.id for defect in CONTRACT.defects] == [f"QKV{i}" for i in range(1, 32)]
    assert [decision.id for decision in CONTRACT.decisions] == [f"Q{i}" for i in range(1, 15)]


def test_points_of_both_modes_have_one_row_each() -> None:
    names = [point.name for point in CONTRACT.points]
    assert len(names) == len(set(names))
    assert {"psum", "partial", "total"} <= set(names)
