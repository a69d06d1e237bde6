"""What output_projection_tkg and qkv refuse themselves, launched past the host-side entry as another kernel calls them.

Claims: whatever shapes, dtypes and numbers show to be wrong is refused in a sentence of the kernel's own, before the
machine finds it or worse; the same calls without the fault run. Those of attention_block_tkg are tested beside it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.backends.sim import SimBackend
from conformance.cases.output_projection_tkg import SUBJECT as PROJECTION
from conformance.cases.qkv import SUBJECT as QKV
from conformance.subject import Subject
from kernels.common_types import NormType
from reference.contracts.output_projection_tkg import CONTRACT as PROJECTION_CONTRACT
from reference.contracts.qkv import CONTRACT as QKV_CONTRACT
from reference.neuroncore.options import Options
from reference.numerics.cast import cast

pytestmark = pytest.mark.sim

FP8 = "float8_e4m3"
Row = tuple[str, str, Any, str]


def operand(dtype: str, *shape: int) -> NDArray[Any]:
    """A tensor of ones."""
    return np.ones(shape, dtype) if "int" in dtype else cast(np.ones(shape, np.float32), dtype)


def run(subject: Subject, fields: dict[str, Any], **arguments: Any) -> None:
    """Launch the call of a config; `arguments` replace those of it."""
    config = subject.config_type(**fields)
    call = subject.call(config, subject.build(config, "normal", 6), subject.load())
    SimBackend(Options()).launch(dataclasses.replace(call, arguments={**call.arguments, **arguments}))


# ---- output_projection_tkg ---------------------------------------------------------------------------------------

_SIZES = {"B": 2, "N": 2, "S": 3, "D": 64, "H": 512}
PROJECTIONS: dict[str, dict[str, Any]] = {
    "plain": {**_SIZES, "bias": "float32"},
    "transposed": {**_SIZES, "transpose_out": True},
    "static": {**_SIZES, "quantization": "STATIC", "weight_dtype": FP8},
    "row": {**_SIZES, "quantization": "ROW", "weight_dtype": FP8},
    "float32": {**_SIZES, "dtype": "float32", "weight_dtype": "float32"},
}
PROJECTION_REFUSED: tuple[Row, ...] = (
    ("plain", "attention", operand("bfloat16", 64, 2, 6), "attention must be"),
    ("plain", "attention", operand("bfloat16", 64, 2, 2, 65), r"B\*S must be <= 128"),
    ("plain", "attention", operand(FP8, 64, 2, 2, 3), "attention must be float32"),
    ("plain", "weight", operand("bfloat16", 192, 512), "weight must be"),
    ("plain", "weight", operand("bfloat16", 2, 64, 512), "weight must be"),
    ("float32", "weight", operand("float32", 128, 640), "H must be a multiple of 512"),
    ("transposed", "weight", operand("bfloat16", 128, 576), "TRANSPOSE_OUT needs H to be"),
    ("plain", "weight", operand("int32", 128, 512), "weight must be float32"),
    ("plain", "weight", operand(FP8, 128, 512), "weight must be float32"),
    ("plain", "weight", operand("float32", 128, 512), "float32 multiplies only with float32"),
    ("float32", "weight", operand("float16", 128, 512), "float32 multiplies only with float32"),
    ("plain", "bias", operand("float32", 1, 1024), "bias must be of shape"),
    ("plain", "bias", operand("float32", 512, 1), "bias must be of shape"),
    ("plain", "bias", operand("int32", 1, 512), "bias must be float32"),
    ("plain", "TRANSPOSE_OUT", 2, "flags must be bool"),
    ("plain", "OUT_IN_SB", "yes", "flags must be bool"),
    ("plain", "weight_scale", operand("float32", 128, 1), "NONE takes no scales"),
    ("static", "weight", operand("bfloat16", 128, 512), "quantised weights must be"),
    ("static", "weight_scale", None, "weight_scale is missing"),
    ("static", "weight_scale", operand("float32", 1, 1), "STATIC scales must be"),
    ("static", "weight_scale", operand("bfloat16", 128, 1), "weight_scale must be float32"),
    ("static", "input_scale", operand("float32", 128, 2), "STATIC scales must be"),
    ("static", "input_scale", operand("float16", 128, 1), "input_scale must be float32"),
    ("row", "weight_scale", operand("float32", 128, 1), "ROW weight_scale must be"),
    ("row", "weight_scale", operand("bfloat16", 128, 512), "weight_scale must be float32"),
    ("row", "input_scale", operand("float32", 128, 1), "ROW takes no input_scale"),
)


@pytest.mark.parametrize("legal", PROJECTIONS)
def test_what_output_projection_refuses_in_part_it_takes_as_a_whole(legal: str) -> None:
    run(PROJECTION, PROJECTIONS[legal])


@pytest.mark.parametrize(("legal", "argument", "wrong", "words"), PROJECTION_REFUSED)
def test_output_projection_refuses_what_shapes_and_dtypes_show(
    legal: str, argument: str, wrong: Any, words: str
) -> None:
    with pytest.raises(AssertionError, match=words):
        run(PROJECTION, PROJECTIONS[legal], **{argument: wrong})


# ---- qkv ---------------------------------------------------------------------------------------------------------

_DECODE: dict[str, Any] = {"B": 3, "S": 1, "H": 256, "I": 256, "d_head": 64, "num_q_heads": 2, "num_kv_heads": 1}
_CONTEXT: dict[str, Any] = {**_DECODE, "B": 1, "S": 97}
_STATIC = {"quantization": "STATIC", "weight_dtype": FP8}
_RMS = {"norm": "RMS_NORM", "gamma": "bfloat16"}
QKVS: dict[str, dict[str, Any]] = {
    "decode": {**_DECODE, **_RMS, "bias": "bfloat16", "fused_residual_add": True},
    "decode-static": {**_DECODE, **_STATIC},
    "decode-row": {**_DECODE, "quantization": "ROW", "weight_dtype": FP8, "scale_rows": 1},
    "cores": {**_DECODE, "lnc": 2},
    "layer": {**_DECODE, "norm": "LAYER_NORM", "gamma": "float32", "beta": "bfloat16"},
    "context": {**_CONTEXT, **_RMS, "bias": "float32", "fused_residual_add": True, "fused_rope": True,
                "rope_dtype": "float32"},
    "context-static": {**_CONTEXT, **_STATIC},
    "mx": {**_CONTEXT, "H": 512, "quantization": "MX", "weight_dtype": "float8_e4m3fn_x4", "generation": "gen4"},
    "flat": {**_CONTEXT, "kv_cache": "FLAT", "kv_dtype": FP8, "max_seq_len": 100},
    "block": {**_CONTEXT, "kv_cache": "BLOCK", "kv_dtype": FP8, "num_blocks": 8, "block_size": 16},
}  # fmt: skip
QKV_REFUSED: tuple[Row, ...] = (
    # the product
    ("decode", "input", operand("bfloat16", 3, 256), "input must be"),
    ("decode", "input", operand("int32", 3, 1, 256), "input must be float32"),
    ("decode", "fused_qkv_weights", operand("bfloat16", 384, 256), "fused_qkv_weights must be"),
    ("decode", "fused_qkv_weights", operand("bfloat16", 256, 320), "bias must be of shape"),
    ("layer", "fused_qkv_weights", operand("bfloat16", 256, 320), "the heads must fill I"),
    ("decode", "fused_qkv_weights", operand(FP8, 256, 256), "fused_qkv_weights must be float32"),
    ("decode", "fused_qkv_weights", operand("float32", 256, 256), "float32 multiplies only with float32"),
    ("decode-static", "fused_qkv_weights", operand("bfloat16", 256, 256), "weights of STATIC and ROW"),
    ("mx", "fused_qkv_weights", operand("bfloat16", 128, 256), "weights of MX"),
    ("decode", "bias", operand("bfloat16", 1, 512), "bias must be of shape"),
    ("decode", "bias", operand("float32", 1, 256), "in decode bias must have the dtype of input"),
    ("context", "bias", operand("int32", 1, 256), "bias must be float32"),
    ("decode", "fused_rope", 2, "flags must be bool"),
    ("decode", "d_head", 0, "d_head must be"),
    # scales of the quantizations
    ("decode", "qkv_w_scale", operand("float32", 128, 3), "scales belong to a quantization"),
    ("decode-static", "qkv_w_scale", operand("float32", 64, 3), "qkv_w_scale must have 1 or 128 rows"),
    ("decode-static", "qkv_w_scale", operand("float32", 128, 1), "qkv_w_scale must have 1 or 128 rows"),
    ("decode-static", "qkv_w_scale", operand("float16", 128, 3), "qkv_w_scale must be float32"),
    ("decode-static", "qkv_in_scale", None, "STATIC needs"),
    ("context-static", "qkv_in_scale", operand("float32", 2, 1), "qkv_in_scale must have 1 or 128 rows"),
    ("context-static", "qkv_in_scale", operand("bfloat16", 128, 1), "qkv_in_scale must be float32"),
    ("decode-row", "qkv_w_scale", operand("float32", 1, 3), "qkv_w_scale must have 1 or 128 rows"),
    ("decode-row", "qkv_in_scale", operand("float32", 1, 1), "ROW needs qkv_w_scale alone"),
    ("mx", "qkv_w_scale", operand("uint8", 15, 256), "qkv_w_scale of MX must be"),
    ("mx", "qkv_w_scale", operand("float32", 16, 256), "qkv_w_scale of MX must be"),
    ("mx", "input", operand("float16", 1, 97, 512), "MX needs a bfloat16 or float32 input"),
    # residual and norm
    ("decode", "mlp_prev", None, "residual needs both tensors"),
    ("decode", "mlp_prev", operand("bfloat16", 3, 2, 256), "mlp_prev must be like input"),
    ("decode", "mlp_prev", operand("float16", 3, 1, 256), "mlp_prev must be like input"),
    ("context", "attention_prev", operand("float32", 1, 97, 256), "attention_prev must be like input"),
    ("decode", "gamma_norm_weights", None, "gamma belongs to"),
    ("decode", "gamma_norm_weights", operand("bfloat16", 1, 512), "gamma_norm_weights must be of shape"),
    ("context", "gamma_norm_weights", operand("bfloat16", 256, 1), "gamma_norm_weights must be of shape"),
    ("decode", "gamma_norm_weights", operand("int32", 1, 256), "gamma_norm_weights must be float32"),
    ("decode", "layer_norm_bias", operand("float32", 1, 256), "layer_norm_bias belongs to"),
    ("layer", "layer_norm_bias", operand("float32", 1, 512), "layer_norm_bias must be of shape"),
    ("layer", "hidden_actual", 200, "LAYER_NORM cannot leave out padding"),
    ("decode", "fused_norm_type", NormType.NO_NORM, "gamma belongs to"),
    ("decode", "hidden_actual", 257, "hidden_actual must be"),
    ("decode", "hidden_actual", 0, "hidden_actual must be"),
    ("decode", "norm_eps", -1e-6, "norm_eps must be"),
    ("decode", "norm_eps", float("nan"), "norm_eps must be"),
    ("context", "norm_eps", float("inf"), "norm_eps must be"),
    # RoPE
    ("context", "sin_cache", None, "cos and sin belong to fused_rope"),
    ("decode", "cos_cache", operand("float32", 3, 1, 64), "cos and sin belong to fused_rope"),
    ("context", "cos_cache", operand("float32", 1, 97, 32), "cos_cache must be of shape"),
    ("context", "sin_cache", operand("float32", 1, 98, 64), "sin_cache must be of shape"),
    ("context", "sin_cache", operand("bfloat16", 1, 97, 64), "one dtype"),
    ("context", "d_head", None, "fused_rope needs the head sizes"),
    # caches
    ("flat", "k_cache", operand(FP8, 1, 100, 128), "the caches must be alike"),
    ("flat", "v_cache", operand(FP8, 1, 101, 64), "the caches must be alike"),
    ("flat", "v_cache", operand("bfloat16", 1, 100, 64), "the caches must be fp8"),
    ("flat", "k_scale", operand("float32", 1, 1), "k_scale must have 128 rows"),
    ("flat", "v_scale", operand("bfloat16", 128, 1), "k_scale and v_scale must be float32"),
    ("flat", "kv_dtype", "float8_e5m2", "kv_dtype must be"),
    ("flat", "kv_dtype", None, "kv_dtype must be"),
    ("flat", "fp8_max", float("nan"), "fp8_max and fp8_min must be finite"),
    ("flat", "fp8_min", float("-inf"), "fp8_max and fp8_min must be finite"),
    ("flat", "num_kv_heads", None, "a KV cache needs"),
    ("flat", "block_size", 16, "belong to use_block_kv"),
    ("block", "block_size", 8, "caches in blocks must be"),
    ("block", "slot_mapping", operand("uint32", 1, 97), "slot_mapping must be int32"),
    ("block", "slot_mapping", operand("int32", 97, 1), r"slot_mapping must be \[B, S\]"),
)


@pytest.mark.parametrize("legal", QKVS)
def test_what_qkv_refuses_in_part_it_takes_as_a_whole(legal: str) -> None:
    run(QKV, QKVS[legal])


@pytest.mark.parametrize(("legal", "argument", "wrong", "words"), QKV_REFUSED)
def test_qkv_refuses_what_shapes_dtypes_and_numbers_show(legal: str, argument: str, wrong: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        run(QKV, QKVS[legal], **{argument: wrong})


def test_decode_refuses_an_h_that_its_cores_cannot_share() -> None:
    inputs = {"input": operand("bfloat16", 3, 1, 384), "fused_qkv_weights": operand("bfloat16", 384, 256)}
    with pytest.raises(AssertionError, match="H/128 must be a multiple of the LNC size"):
        run(QKV, QKVS["cores"], **inputs)


def test_mx_refuses_an_h_without_whole_tiles() -> None:
    inputs = {
        "input": operand("bfloat16", 1, 97, 640), "fused_qkv_weights": operand("uint32", 160, 256),
        "qkv_w_scale": operand("uint8", 20, 256),
    }  # fmt: skip
    with pytest.raises(AssertionError, match="MX needs H to be a multiple of 512"):
        run(QKV, QKVS["mx"], **inputs)


@pytest.mark.parametrize(
    ("contract", "rows"), [(PROJECTION_CONTRACT, PROJECTION_REFUSED), (QKV_CONTRACT, QKV_REFUSED)], ids=["out", "qkv"]
)
def test_every_operand_has_a_wrong_twin(contract: Any, rows: tuple[Row, ...]) -> None:
    tried = {argument for _, argument, _, _ in rows}
    assert {argument.name for argument in contract.arguments if argument.memory} <= tried
