"""What kernels refuse themselves, launched past the host-side entry as another kernel calls them.

Claims: whatever shapes, dtypes and numbers show to be wrong is refused in a sentence of the kernel's own, before the
machine finds it or worse; the same calls without the fault run. Those of attention_block_tkg are tested beside it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.backends.sim import SimBackend
from conformance.cases.attention_segmented_cte import SUBJECT as SEGMENTED
from conformance.cases.attention_tkg import SUBJECT as ATTENTION
from conformance.cases.output_projection_tkg import SUBJECT as PROJECTION
from conformance.cases.qkv import SUBJECT as QKV
from conformance.subject import Call, Subject
from kernels.attention_segmented_cte import load_kv_cache
from kernels.attention_tkg import AttnTKGConfig, attention_tkg
from kernels.common_types import NormType
from reference.contracts.attention_segmented_cte import CONTRACT as SEGMENTED_CONTRACT
from reference.contracts.attention_tkg import CONTRACT as ATTENTION_CONTRACT
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


# ---- attention_tkg -----------------------------------------------------------------------------------------------

_SLOTS: dict[str, Any] = {
    "bs": 2, "q_head": 3, "s_active": 2, "curr_sprior": 256, "full_sprior": 300, "d_head": 64, "lnc": 1,
}  # fmt: skip
_FP8_KV = {"kv_dtype": FP8, "active_dtype": FP8}
ATTENTIONS: dict[str, dict[str, Any]] = {
    "plain": {**_SLOTS, "sink": "float32", "debug": True},
    "rows": {**_SLOTS, "tp_k_prior": True},
    "cores": {**_SLOTS, "lnc": 2},
    "on-chip": {**_SLOTS, "out_in_sb": True},
    "positions": {**_SLOTS, "use_pos_id": True},
    "rope": {**_SLOTS, "fuse_rope": True, "qk_in_sb": False, "k_out": True},
    "rope-on-chip": {**_SLOTS, "fuse_rope": True, "k_out": True, "k_out_in_sb": True},
    "block": {**_SLOTS, "block_len": 32, "num_blocks": 20, "tp_k_prior": True, "strided_mm1": False, "debug": True},
    "fp8": {**_SLOTS, **_FP8_KV},
}
ATTENTION_REFUSED: tuple[Row, ...] = (
    # new tokens: [d, B*H*s] and [d, B*s] on chip, [B, d, H, s] and [B, d, s] in HBM
    ("plain", "q", operand("bfloat16", 64, 24), "q must be of shape"),
    ("cores", "q", operand("bfloat16", 64, 24), "q must be of shape"),
    ("plain", "q", operand("bfloat16", 64, 2, 6), "q must be of shape"),
    ("rope", "q", operand("bfloat16", 2, 3, 64, 2), "q must be of shape"),
    ("rope", "q", operand("bfloat16", 4, 64, 3, 2), "q must be of shape"),
    ("plain", "q", operand("int32", 64, 12), "q must be float32"),
    ("plain", "q", operand("float8_e5m2", 64, 12), "q must be float32"),
    ("plain", "q", operand("float32", 64, 12), "float32 multiplies only with float32"),
    ("plain", "q", operand(FP8, 64, 12), "a float8_e4m3 q needs"),
    ("plain", "k_active", operand("bfloat16", 64, 8), "k_active must be of shape"),
    ("rope", "k_active", operand("bfloat16", 2, 64, 4), "k_active must be of shape"),
    ("plain", "k_active", operand("float16", 64, 4), "k_active and v_active must have one dtype"),
    ("fp8", "k_active", operand("bfloat16", 64, 4), "k_active and v_active must have one dtype"),
    ("plain", "v_active", operand("bfloat16", 4, 1, 2, 64), "v_active must be of shape"),
    ("plain", "v_active", operand("bfloat16", 2, 1, 4, 64), "v_active must be of shape"),
    ("plain", "v_active", operand("bfloat16", 2, 2, 64), "v_active must be of shape"),
    # caches
    ("plain", "k_prior", operand("bfloat16", 2, 1, 300, 64), "k_prior must be as tp_k_prior says"),
    ("rows", "k_prior", operand("bfloat16", 2, 1, 64, 300), "k_prior must be as tp_k_prior says"),
    ("plain", "k_prior", operand("float16", 2, 1, 64, 300), "k_prior and v_prior must have one dtype"),
    ("plain", "k_prior", operand("int32", 2, 1, 64, 300), "k_prior must be float32"),
    ("plain", "v_prior", operand("bfloat16", 2, 1, 301, 64), r"v_prior must be \[B\+, 1, full_sprior, d\]"),
    ("plain", "v_prior", operand("bfloat16", 1, 1, 300, 64), "a row per batch"),
    ("block", "k_prior", operand("bfloat16", 20, 64, 32), "block caches must be"),
    ("block", "v_prior", operand("bfloat16", 21, 32, 64), "block caches must be"),
    ("block", "active_blocks_table", None, "belong together"),
    ("plain", "active_blocks_table", operand("uint32", 2, 8), "belong together"),
    ("block", "active_blocks_table", operand("uint32", 2, 16), "active_blocks_table must be of shape"),
    ("block", "active_blocks_table", operand("uint32", 4, 8), "active_blocks_table must be of shape"),
    ("block", "active_blocks_table", operand("int32", 2, 8), "active_blocks_table must be uint32"),
    # who attends to whom
    ("plain", "mask", operand("uint8", 512, 2, 3, 2), "mask must be of shape"),
    ("plain", "mask", operand("uint8", 300, 2, 3, 2), "mask must be of shape"),
    ("plain", "mask", operand("uint8", 256, 2, 6, 2), "mask must be of shape"),
    ("plain", "mask", operand("uint8", 256, 2, 6), "mask must be of shape"),
    ("block", "mask", operand("uint8", 512, 2, 3, 2), "mask must be of shape"),
    ("positions", "mask", operand("uint8", 256, 2, 3, 2), "mask must be of shape"),
    ("plain", "mask", operand("uint32", 256, 2, 3, 2), "mask must be uint8"),
    ("plain", "mask", operand(FP8, 256, 2, 3, 2), "mask must be uint8"),
    ("plain", "sink", operand("float32", 6, 1), "sink must be of shape"),
    ("plain", "sink", operand("float32", 1, 3), "sink must be of shape"),
    ("plain", "sink", operand("int32", 3, 1), "sink must be float32"),
    # positions
    ("rope", "inv_freqs", None, "inv_freqs is given exactly"),
    ("plain", "inv_freqs", operand("float32", 32, 1), "inv_freqs is given exactly"),
    ("rope", "inv_freqs", operand("float32", 64, 1), "inv_freqs must be of shape"),
    ("rope", "inv_freqs", operand("float32", 1, 32), "inv_freqs must be of shape"),
    ("rope", "inv_freqs", operand("bfloat16", 32, 1), "inv_freqs must be float32"),
    ("positions", "rope_pos_ids", None, "rope_pos_ids is given exactly"),
    ("plain", "rope_pos_ids", operand("float32", 2, 2), "rope_pos_ids is given exactly"),
    ("positions", "rope_pos_ids", operand("float32", 4, 2), "rope_pos_ids must be of shape"),
    ("positions", "rope_pos_ids", operand("float32", 2, 1), "rope_pos_ids must be of shape"),
    ("rope", "rope_pos_ids", operand("float32", 4, 2), "rope_pos_ids must be of shape"),
    ("rope", "rope_pos_ids", operand("int32", 2, 2), "rope_pos_ids must be float32"),
)
#: Of a legal call: a tensor to write to, or one of DBG_TENSORS, the shape, dtype and memory that it must not have.
WRITTEN_REFUSED: tuple[tuple[str, str, tuple[int, ...], str, Any, str], ...] = (
    ("plain", "out", (2, 3, 128, 2), "bfloat16", nl.shared_hbm, "out must be of shape"),
    ("plain", "out", (4, 3, 64, 2), "bfloat16", nl.shared_hbm, "out must be of shape"),
    ("plain", "out", (2, 3, 64, 2), FP8, nl.shared_hbm, "out must be float32"),
    ("plain", "out", (64, 12), "bfloat16", nl.sbuf, "out must be in SBUF exactly"),
    ("on-chip", "out", (2, 3, 64, 2), "bfloat16", nl.shared_hbm, "out must be in SBUF exactly"),
    ("on-chip", "out", (64, 24), "bfloat16", nl.sbuf, "out must be of shape"),
    ("on-chip", "out", (64, 12), "int32", nl.sbuf, "out must be float32"),
    ("plain", "k_out", (2, 1, 64, 2), "bfloat16", nl.shared_hbm, "k_out is written with fuse_rope alone"),
    ("rope", "k_out", (2, 1, 64, 4), "bfloat16", nl.shared_hbm, "k_out must be of shape"),
    ("rope", "k_out", (2, 64, 2), "bfloat16", nl.shared_hbm, "k_out must be of shape"),
    ("rope", "k_out", (2, 1, 64, 2), "float32", nl.shared_hbm, "k_out must have the dtype of q"),
    ("rope", "k_out", (64, 4), "bfloat16", nl.sbuf, "k_out must be in SBUF exactly"),
    ("rope-on-chip", "k_out", (2, 1, 64, 2), "bfloat16", nl.shared_hbm, "k_out must be in SBUF exactly"),
    ("rope-on-chip", "k_out", (64, 8), "bfloat16", nl.sbuf, "k_out must be of shape"),
    ("plain", "DBG_TENSORS[0]", (128, 1, 3, 1, 12), "float32", nl.shared_hbm, r"DBG_TENSORS\[0\] must be of shape"),
    ("plain", "DBG_TENSORS[0]", (128, 1, 2, 1, 12), "bfloat16", nl.shared_hbm, r"DBG_TENSORS\[0\] must be float32"),
    ("plain", "DBG_TENSORS[1]", (1, 1, 128), "float32", nl.shared_hbm, r"DBG_TENSORS\[1\] must be of shape"),
    ("plain", "DBG_TENSORS[2]", (128, 1, 2, 1, 12), "float32", nl.shared_hbm, r"DBG_TENSORS\[2\] must be bfloat16"),
    ("plain", "DBG_TENSORS[3]", (1, 1, 12), "int32", nl.shared_hbm, r"DBG_TENSORS\[3\] must be float32"),
    ("plain", "DBG_TENSORS[4]", (128, 1, 2), "int32", nl.shared_hbm, "4 tensors, 5 with block KV"),
    ("block", "DBG_TENSORS[4]", (128, 2, 2), "int32", nl.shared_hbm, r"DBG_TENSORS\[4\] must be of shape"),
    ("block", "DBG_TENSORS[4]", (128, 1, 2), "uint32", nl.shared_hbm, r"DBG_TENSORS\[4\] must be int32"),
)
#: Of a legal call: a field of its config, a value that it must not have, and words of the refusal.
FIELDS_REFUSED: tuple[Row, ...] = (
    ("plain", "tp_k_prior", 2, "flags must be bool"),
    ("plain", "block_len", -32, "block_len must be 0"),
    ("plain", "curr_sprior", 128, "mask must be of shape"),
    ("plain", "d_head", 32, "q must be of shape"),
    ("plain", "q_head", 2, "q must be of shape"),
    ("plain", "bs", 1, "q must be of shape"),
    ("rope", "k_out_in_sb", True, "k_out must be in SBUF exactly"),
)


@pytest.mark.parametrize("legal", ATTENTIONS)
def test_what_attention_tkg_refuses_in_part_it_takes_as_a_whole(legal: str) -> None:
    run(ATTENTION, ATTENTIONS[legal])


@pytest.mark.parametrize(("legal", "argument", "wrong", "words"), ATTENTION_REFUSED)
def test_attention_tkg_refuses_what_shapes_and_dtypes_show(legal: str, argument: str, wrong: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        run(ATTENTION, ATTENTIONS[legal], **{argument: wrong})


#: The tensors that attention_tkg writes to, as its caller names them.
_PLACES = ("q", "k_active", "v_active", "k_prior", "v_prior", "mask", "out", "cfg", "sbm")


def replacing(name: str, make: Any) -> Any:
    """attention_tkg that is handed make(what its caller handed it) for its argument `name`."""

    def attend(*places: Any, **named: Any) -> Any:
        arguments = dict(zip(_PLACES, places, strict=True)) | named
        return attention_tkg(**arguments | {name: make(arguments[name])})

    return attend


@pytest.mark.parametrize(("legal", "argument", "shape", "dtype", "memory", "words"), WRITTEN_REFUSED)
def test_attention_tkg_refuses_places_for_results_that_do_not_fit(
    legal: str, argument: str, shape: tuple[int, ...], dtype: str, memory: Any, words: str
) -> None:
    name, _, index = argument.rstrip("]").partition("[")

    def make(given: Any) -> Any:
        wrong = nl.ndarray(shape, dtype=getattr(nl, dtype), buffer=memory)
        return (*given[: int(index)], wrong, *given[int(index) + 1 :]) if index else wrong

    with pytest.raises(AssertionError, match=words):
        run(ATTENTION, ATTENTIONS[legal], attend=replacing(name, make))


@pytest.mark.parametrize(("legal", "field", "wrong", "words"), FIELDS_REFUSED)
def test_attention_tkg_refuses_a_config_that_is_not_that_of_its_tensors(
    legal: str, field: str, wrong: Any, words: str
) -> None:
    def make(given: Any) -> Any:
        return AttnTKGConfig(**vars(given) | {field: wrong})

    with pytest.raises(AssertionError, match=words):
        run(ATTENTION, ATTENTIONS[legal], attend=replacing("cfg", make))


# ---- attention_segmented_cte -------------------------------------------------------------------------------------

_CHUNK: dict[str, Any] = {
    "batch": 2, "num_q_heads": 2, "seqlen_q": 128, "d_head": 64, "block_size": 16, "prior_seg_size": 128,
    "max_blocks": 24, "num_blocks": 50, "lnc": 1,
}  # fmt: skip
SEGMENTS: dict[str, dict[str, Any]] = {
    "plain": {**_CHUNK, "sink": "float32", "k_scale": True, "v_scale": True},
    "cores": {**_CHUNK, "lnc": 2, "sink": "bfloat16"},
    "turned": {**_CHUNK, "tp_q": False, "tp_out": True, "k_pre_transposed": True, "num_kv_heads": 2},
    "window": {**_CHUNK, "sliding_window": 64},
    "offset": {**_CHUNK, "kvp": True, "sink": "float32"},
    "fp8": {**_CHUNK, "kv_dtype": "float8_e5m2", "dtype": "float32"},
}
SEGMENT_REFUSED: tuple[Row, ...] = (
    # queries
    ("plain", "q", operand("bfloat16", 8, 128, 64), "a row per sequence and head"),
    ("plain", "q", operand("bfloat16", 4, 64, 128), "one head size"),
    ("turned", "q", operand("bfloat16", 4, 128, 64), "one head size"),
    ("plain", "q", operand("bfloat16", 512, 64), r"q must be \[B\*H, S, d\]"),
    ("plain", "q", operand("bfloat16", 4, 192, 64), "the chunk must be a multiple of 128"),
    ("plain", "q", operand("float16", 4, 128, 64), "q must be bfloat16 or float32"),
    ("plain", "q", operand("bfloat16", 4, 512, 64), "room for the chunk"),
    # caches
    ("plain", "k_cache", operand("bfloat16", 49, 1, 16, 64), "k_cache must be of shape"),
    ("plain", "k_cache", operand("bfloat16", 51, 1, 16, 64), "k_cache must be of shape"),
    ("plain", "k_cache", operand("bfloat16", 50, 1, 64, 16), "k_cache must be of shape"),
    ("plain", "k_cache", operand("bfloat16", 50, 64, 16), "k_cache must be of shape"),
    ("turned", "k_cache", operand("bfloat16", 50, 2, 16, 64), "k_cache must be of shape"),
    ("turned", "k_cache", operand("bfloat16", 50, 64, 16), "k_cache must be of shape"),
    ("plain", "k_cache", operand(FP8, 50, 1, 16, 64), "both caches must have one dtype"),
    ("plain", "v_cache", operand("bfloat16", 49, 1, 16, 64), "k_cache must be of shape"),
    ("plain", "v_cache", operand("bfloat16", 50, 16, 64), "v_cache must be"),
    ("plain", "v_cache", operand("bfloat16", 50, 1, 48, 64), "block_size must be a power of two"),
    ("plain", "v_cache", operand("bfloat16", 50, 1, 16, 160), "head size must be at most 128"),
    ("fp8", "v_cache", operand(FP8, 50, 1, 16, 64), "both caches must have one dtype"),
    # pages
    ("plain", "block_tables", operand("uint32", 2, 24), "block_tables must be int32"),
    ("plain", "block_tables", operand("int32", 4, 24), "a row per sequence and head"),
    ("plain", "block_tables", operand("int32", 2, 7), "room for the chunk"),
    ("plain", "block_tables", operand("int32", 48), "block_tables must be"),
    ("plain", "prior_tokens", operand("uint32", 1, 1), "prior_tokens must be int32"),
    ("window", "prior_tokens", operand("uint32", 1, 1), "prior_tokens must be int32"),
    ("plain", "prior_tokens", operand("int32", 2, 1), "prior_tokens must be of shape"),
    ("plain", "prior_tokens", operand("int32", 1), "prior_tokens must be of shape"),
    ("window", "prior_tokens", operand("int32", 1, 2), "prior_tokens must be of shape"),
    ("offset", "kvp_offset", operand("uint32", 1, 1), "kvp_offset must be int32"),
    ("offset", "kvp_offset", operand("float32", 1, 1), "kvp_offset must be int32"),
    ("offset", "kvp_offset", operand("int32", 2, 1), "kvp_offset must be of shape"),
    ("offset", "kvp_offset", operand("int32", 1, 2), "kvp_offset must be of shape"),
    ("window", "kvp_offset", operand("int32", 1, 1), "cannot be combined"),
    # logits and scales
    ("plain", "sink", operand("float32", 8, 1), "sink must be of shape"),
    ("plain", "sink", operand("float32", 2, 1), "sink must be of shape"),
    ("cores", "sink", operand("bfloat16", 1, 4), "sink must be of shape"),
    ("plain", "sink", operand("float16", 4, 1), "sink must be float32 or bfloat16"),
    ("plain", "k_scale", operand("float32", 64, 1), "k_scale must be of shape"),
    ("plain", "k_scale", operand("bfloat16", 128, 1), "k_scale must be float32"),
    ("plain", "v_scale", operand("float32", 1, 128), "v_scale must be of shape"),
    ("plain", "v_scale", operand("float32", 256, 1), "v_scale must be of shape"),
    ("plain", "v_scale", operand("float16", 128, 1), "v_scale must be float32"),
    # numbers and flags
    ("plain", "scale", float("nan"), "scale must be finite"),
    ("plain", "scale", float("inf"), "scale must be finite"),
    ("plain", "scale", 3.5e38, "scale must be finite"),
    ("plain", "block_size", 32, "block_size must be that of the caches"),
    ("plain", "prior_seg_size", 0, "prior_seg_size must be at least 1"),
    ("plain", "prior_seg_size", 120, "prior_seg_size must be a multiple"),
    ("window", "sliding_window", -64, "sliding_window must be None or at least 0"),
    ("window", "sliding_window", 72, "sliding_window must be a multiple"),
    ("window", "sliding_window", 10256, "at most 10240 tokens"),
    ("plain", "num_q_heads", 0, "num_q_heads must be at least 1"),
    ("turned", "num_q_heads", 3, "a row per sequence and head"),
    ("plain", "tp_out", 2, "flags must be bool"),
    ("plain", "k_pre_transposed", "no", "flags must be bool"),
)


@pytest.mark.parametrize("legal", SEGMENTS)
def test_what_segmented_attention_refuses_in_part_it_takes_as_a_whole(legal: str) -> None:
    run(SEGMENTED, SEGMENTS[legal])


@pytest.mark.parametrize(("legal", "argument", "wrong", "words"), SEGMENT_REFUSED)
def test_segmented_attention_refuses_what_shapes_dtypes_and_numbers_show(
    legal: str, argument: str, wrong: Any, words: str
) -> None:
    with pytest.raises(AssertionError, match=words):
        run(SEGMENTED, SEGMENTS[legal], **{argument: wrong})


#: A call of its loader alone; tiles by shape and dtype.
LOAD: dict[str, Any] = {
    "k_cache": operand("bfloat16", 9, 2, 16, 64), "v_cache": operand("bfloat16", 9, 2, 16, 64),
    "block_tables": operand("int32", 2, 12), "k_sbuf": ("bfloat16", 64, 512), "v_sbuf": ("bfloat16", 128, 64),
    "b_i": 1, "h_i": 1, "block_table_offset": operand("uint32", 1, 1), "num_blocks": 4, "k_pre_transposed": False,
}  # fmt: skip
LOAD_REFUSED: tuple[tuple[str, Any, str], ...] = (
    ("k_cache", operand("bfloat16", 8, 2, 16, 64), "k_cache must be of shape"),
    ("k_pre_transposed", True, "k_cache must be of shape"),
    ("v_cache", operand("float16", 9, 2, 16, 64), "both caches must have one dtype"),
    ("block_tables", operand("uint32", 2, 12), "block_tables must be int32"),
    ("k_sbuf", ("bfloat16", 64, 256), "tiles of k_sbuf must be"),
    ("k_sbuf", ("float32", 64, 512), "tiles of k_sbuf must be"),
    ("v_sbuf", ("bfloat16", 128, 128), "tiles of v_sbuf must be"),
    ("v_sbuf", ("float16", 128, 64), "tiles of v_sbuf must be"),
    ("b_i", 2, "b_i must be a row"),
    ("h_i", 2, "h_i must be a KV head"),
    ("h_i", -1, "h_i must be a KV head"),
    ("block_table_offset", operand("float32", 1, 1), "block_table_offset must be int32 or uint32"),
    ("block_table_offset", operand("int32", 2, 1), "block_table_offset must be of shape"),
    ("num_blocks", 0, "num_blocks must be at least 1"),
)


@nki.jit
def load_alone(  # type: ignore[no-untyped-def]  # kernels carry no annotations
    k_cache, v_cache, block_tables, k_sbuf, v_sbuf, b_i, h_i, block_table_offset, num_blocks, k_pre_transposed
):
    """load_kv_cache into one tile of keys and one of values, which come back."""
    keys, values = (nl.ndarray(tile[1:], dtype=getattr(nl, tile[0])) for tile in (k_sbuf, v_sbuf))
    offset = nl.ndarray(block_table_offset.shape, dtype=block_table_offset.dtype)
    nisa.dma_copy(dst=offset, src=block_table_offset)
    load_kv_cache(
        k_cache, v_cache, block_tables, [keys], [values], b_i, h_i, offset, num_blocks, None, k_pre_transposed
    )
    out = nl.ndarray(values.shape, dtype=values.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=values)
    return out


def test_what_the_loader_refuses_in_part_it_takes_as_a_whole() -> None:
    SimBackend(Options()).launch(Call(load_alone, LOAD, ("out",), 1))


@pytest.mark.parametrize(("argument", "wrong", "words"), LOAD_REFUSED)
def test_the_loader_refuses_what_shapes_dtypes_and_numbers_show(argument: str, wrong: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        SimBackend(Options()).launch(Call(load_alone, LOAD | {argument: wrong}, ("out",), 1))


# ---- all of them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contract", "rows"),
    [
        (PROJECTION_CONTRACT, PROJECTION_REFUSED),
        (QKV_CONTRACT, QKV_REFUSED),
        (ATTENTION_CONTRACT, (*ATTENTION_REFUSED, *WRITTEN_REFUSED)),
        (SEGMENTED_CONTRACT, SEGMENT_REFUSED),
    ],
    ids=["out", "qkv", "attention", "segmented"],
)
def test_every_operand_has_a_wrong_twin(contract: Any, rows: tuple[tuple[Any, ...], ...]) -> None:
    tried = {row[1].partition("[")[0] for row in rows}
    assert {argument.name for argument in contract.arguments if argument.memory} <= tried
