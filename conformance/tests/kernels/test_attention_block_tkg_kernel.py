"""The fused attention block on the machine: what its update of caches must not do, and what may not change a bit.

Claims: without its barrier the update races with the other core's attention, and with it not; a skipped batch keeps
every byte in every layout; places of rows are exact above 2**24 under both answers to how integers overflow, whether
the index names batches or tokens; a manager of SBUF, defaults that are written out, and whose tile X is change no bit;
what flags, shapes, dtypes and scalars show to be wrong is refused in a sentence of the kernel's own, and only that. Run
a test again by its id.
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
from conformance.cases.attention_block_tkg import SUBJECT
from conformance.subject import Call
from kernels.cache_update import row_slots
from kernels.sbuf_manager import SbufManager
from reference.contracts.attention_block_tkg import CONTRACT, SKIP, Config
from reference.neuroncore.errors import RaceError
from reference.neuroncore.options import Options
from reference.numerics.cast import cast
from reference.numerics.profile import DEFAULT
from reference.numerics.ulp import same_bits

pytestmark = pytest.mark.sim

Arrays = dict[str, NDArray[Any]]

SMALL: dict[str, Any] = {"B": 2, "S": 2, "H": 1024, "q": 2, "d": 64, "S_ctx": 256, "S_max": 256}
LAYOUTS: dict[str, dict[str, Any]] = {
    "rows": {},
    "transposed": {"K_cache_transposed": True, "S_max": 300},
    "rank-4": {"cache_rank": 4},
    "block": {"block_len": 32},
    "fp8": {"kv_dtype": "float8_e4m3", "k_scale": "float32", "v_scale": "float32"},
}


def outputs(config: Config, inputs: Arrays, **arguments: Any) -> Arrays:
    """Named outputs of the kernel; `arguments` replace those of the config."""
    call = SUBJECT.call(config, inputs, SUBJECT.load())
    call = dataclasses.replace(call, arguments={**call.arguments, **arguments})
    found: Arrays = SimBackend(Options()).launch(call).outputs
    return found


def assert_same(got: Arrays, wanted: Arrays) -> None:
    for name in ("out", "K_out", "V_out"):
        assert same_bits(got[name], wanted[name]).all(), name


@pytest.mark.parametrize("barrier", [True, False], ids=["with-barrier", "without-barrier"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_barrier_keeps_the_update_from_racing_with_attention(
    layout: str, barrier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(**SMALL | LAYOUTS[layout])
    inputs = SUBJECT.build(config, "normal", 0)
    if config.block_kv:
        # The first block of either batch and its first rows, which the first core reads and the last one writes.
        inputs["kv_cache_update_idx"][:, 0] = inputs["active_blocks_table"][:, 0] * config.block_len
    else:
        inputs["kv_cache_update_idx"][:] = 0
    if barrier:
        outputs(config, inputs)
        return
    monkeypatch.setattr(nisa, "core_barrier", lambda **arguments: None)
    with pytest.raises(RaceError):
        outputs(config, inputs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_skipped_batch_keeps_every_byte_and_still_attends_to_its_new_tokens(layout: str) -> None:
    config = Config(**SMALL | LAYOUTS[layout])
    inputs = SUBJECT.build(config, "normal", 1)
    inputs["kv_cache_update_idx"][:] = SKIP
    got = outputs(config, inputs)
    for output, argument in (("K_out", "K_cache"), ("V_out", "V_cache")):
        assert got[output].tobytes() == inputs[argument].tobytes()
    if not config.block_kv:
        inputs["kv_cache_update_idx"][:] = 5
        written = outputs(config, inputs)
        assert same_bits(written["out"], got["out"]).all()
        assert written["V_out"].tobytes() != inputs["V_cache"].tobytes()


@nki.jit
def slots_of(idx, S, batch_rows):  # type: ignore[no-untyped-def]
    """row_slots in HBM."""
    slots = row_slots(idx, S, batch_rows)
    out = nl.ndarray(slots.shape, dtype=slots.dtype, buffer=nl.shared_hbm, name="out")
    nisa.dma_copy(dst=out, src=slots)
    return out


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
def test_rows_are_exact_above_2_24_and_skipped_ones_stay_outside(overflow: str) -> None:
    rows = 2**24 + 3
    idx = np.array([[2**24 + 1], [7], [SKIP], [2**24 - 1]], np.uint32)
    options = Options(profile=DEFAULT.replace(int_overflow=overflow))
    call = Call(slots_of, {"idx": idx, "S": 2, "batch_rows": rows}, ("out",))
    got = SimBackend(options).launch(call).outputs["out"].ravel().tolist()
    assert got[:4] == [2**24 + 1, 2**24 + 2, rows + 7, rows + 8]
    assert got[4:6] == [SKIP, SKIP]
    assert got[6:] == [3 * rows + 2**24 - 1, 3 * rows + 2**24]


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
def test_an_index_of_tokens_is_taken_token_by_token(overflow: str) -> None:
    rows = 2**24 + 3
    idx = np.array([[2**24 + 1, 5, SKIP], [SKIP, 2**24 + 2, 0], [SKIP, SKIP, SKIP]], np.uint32)
    options = Options(profile=DEFAULT.replace(int_overflow=overflow))
    call = Call(slots_of, {"idx": idx, "S": 3, "batch_rows": rows}, ("out",))
    got = SimBackend(options).launch(call).outputs["out"].ravel().tolist()
    assert got == [2**24 + 1, 5, SKIP, SKIP, rows + 2**24 + 2, rows, SKIP, SKIP, SKIP]


def test_a_manager_changes_no_bit() -> None:
    config = Config(**SMALL)
    inputs = SUBJECT.build(config, "normal", 2)
    wanted = outputs(config, inputs)
    for manager in (SbufManager(), SbufManager(lower=1024, upper=190000)):
        assert_same(outputs(config, inputs, sbm=manager), wanted)


def test_defaults_written_out_change_no_bit_and_other_values_do() -> None:
    config = Config(**SMALL)
    inputs = SUBJECT.build(config, "normal", 3)
    wanted = outputs(config, inputs)
    assert_same(outputs(config, inputs, rmsnorm_X_eps=1e-3, softmax_scale=0.125, X_hidden_dim_actual=1024), wanted)
    for name, value in (("rmsnorm_X_eps", 1e-1), ("softmax_scale", 0.25), ("X_hidden_dim_actual", 900)):
        assert not same_bits(outputs(config, inputs, **{name: value})["out"], wanted["out"]).all()


def test_x_on_chip_gives_the_bits_of_x_in_hbm() -> None:
    config = Config(**SMALL)
    on_chip = dataclasses.replace(config, X_in_sb=True)
    wanted = outputs(config, SUBJECT.build(config, "normal", 4))
    assert_same(outputs(on_chip, SUBJECT.build(on_chip, "normal", 4)), wanted)


# ---- what the kernel itself refuses ------------------------------------------------------------------------------

#: Legal calls, which together have every operand.
LEGAL: dict[str, dict[str, Any]] = {
    "plain": {"bias_qkv": "bfloat16", "sink": "float32", "bias_out": "float32", "rmsnorm_QK_post_rope_enabled": True,
              "W_Q": "float32", "W_K": "float16", "S_max": 300},
    "transposed": {"K_cache_transposed": True, "S_max": 300},
    "block": {"block_len": 32},
    "block-4": {"block_len": 32, "cache_rank": 4},
    "static": {"quantization_type_qkv": "STATIC", "W_qkv": "float8_e4m3", "quantization_type_out": "STATIC",
               "W_out": "float8_e4m3", "kv_dtype": "float8_e4m3", "k_scale": "float32", "v_scale": "bfloat16"},
    "row": {"quantization_type_qkv": "ROW", "W_qkv": "float8_e4m3", "quantization_type_out": "ROW",
            "W_out": "float8_e4m3", "scale_rows": 1},
    "bare": {"W_out": None, "rmsnorm_X_enabled": False, "gamma": None},
}  # fmt: skip


def operand(dtype: str, *shape: int) -> NDArray[Any]:
    """A tensor of ones."""
    return np.ones(shape, dtype) if "int" in dtype else cast(np.ones(shape, np.float32), dtype)


#: Of a legal call above: the argument, a value that it must not have, and words of the refusal.
REFUSED: tuple[tuple[str, str, Any, str], ...] = (
    # scalars
    ("plain", "X_hidden_dim_actual", 5000, "X_hidden_dim_actual must be None or 1 to H"),
    ("plain", "X_hidden_dim_actual", 1025, "X_hidden_dim_actual must be None or 1 to H"),
    ("plain", "X_hidden_dim_actual", 0, "X_hidden_dim_actual must be None or 1 to H"),
    ("plain", "rmsnorm_X_eps", -1e-3, "rmsnorm_X_eps must be"),
    ("plain", "rmsnorm_X_eps", float("nan"), "rmsnorm_X_eps must be"),
    ("plain", "rmsnorm_QK_pre_rope_eps", -1.0, "rmsnorm_QK_pre_rope_eps must be"),
    ("plain", "rmsnorm_QK_post_rope_eps", float("inf"), "rmsnorm_QK_post_rope_eps must be"),
    ("plain", "rmsnorm_QK_post_rope_eps", 3.5e38, "rmsnorm_QK_post_rope_eps must be"),
    ("plain", "softmax_scale", float("-inf"), "softmax_scale must be"),
    ("plain", "softmax_scale", float("nan"), "softmax_scale must be"),
    ("plain", "rope_contiguous_layout", 2, "flags must be bool"),
    # the first projection
    ("plain", "X", operand("float32", 2, 2, 1024), "X must be bfloat16 or float16"),
    ("plain", "X", operand("bfloat16", 2, 2, 2048), r"X must be \[B, S, H\]"),
    ("plain", "rmsnorm_X_gamma", operand("bfloat16", 1, 2048), "rmsnorm_X_gamma must be of shape"),
    ("plain", "rmsnorm_X_gamma", operand("bfloat16", 1024, 1), "rmsnorm_X_gamma must be of shape"),
    ("plain", "rmsnorm_X_gamma", operand("int32", 1, 1024), "rmsnorm_X_gamma must be float32"),
    ("plain", "rmsnorm_X_gamma", None, "rmsnorm_X_gamma is given exactly"),
    ("bare", "rmsnorm_X_gamma", operand("bfloat16", 1, 1024), "rmsnorm_X_gamma is given exactly"),
    ("plain", "W_qkv", operand("float16", 1024, 256), "W_qkv must have the dtype of X"),
    ("plain", "W_qkv", operand("bfloat16", 1024, 320), r"W_qkv must be \[H, d\*\(q\+2\)\]"),
    ("plain", "W_qkv", operand("float8_e4m3", 1024, 256), "exactly when quantized"),
    ("plain", "bias_qkv", operand("float32", 1, 256), "bias_qkv must have the dtype of X"),
    ("plain", "bias_qkv", operand("bfloat16", 1, 320), "bias_qkv must be of shape"),
    ("plain", "bias_qkv", operand("bfloat16", 256, 1), "bias_qkv must be of shape"),
    ("static", "weight_dequant_scale_qkv", None, "weight_dequant_scale is given exactly"),
    ("static", "weight_dequant_scale_qkv", operand("float32", 64, 3), "weight_dequant_scale must have 1 or 128 rows"),
    ("static", "weight_dequant_scale_qkv", operand("float32", 128, 1), "weight_dequant_scale must have 1 or 128 rows"),
    ("static", "weight_dequant_scale_qkv", operand("bfloat16", 128, 3), "weight_dequant_scale must be float32"),
    ("static", "input_dequant_scale_qkv", operand("float32", 64, 1), "input_dequant_scale must have 1 or 128 rows"),
    ("static", "input_dequant_scale_qkv", operand("float16", 128, 1), "input_dequant_scale must be float32"),
    ("row", "weight_dequant_scale_qkv", operand("float32", 1, 255), "weight_dequant_scale must have 1 or 128 rows"),
    ("row", "input_dequant_scale_qkv", operand("float32", 1, 1), "input_dequant_scale is given exactly in STATIC"),
    # heads
    ("plain", "sin", None, "both or neither"),
    ("plain", "sin", operand("float32", 32, 2, 2), "one dtype"),
    ("plain", "cos", operand("bfloat16", 32, 2, 3), "cos must be of shape"),
    ("plain", "sin", operand("bfloat16", 64, 2, 2), "sin must be of shape"),
    ("plain", "rmsnorm_QK_post_rope_W_Q", operand("float32", 1, 128), "W_Q must be of shape"),
    ("plain", "rmsnorm_QK_post_rope_W_K", operand("float32", 64, 1), "W_K must be of shape"),
    ("bare", "rmsnorm_QK_post_rope_W_K", operand("float32", 1, 64), "belong to rmsnorm_QK_post_rope_enabled"),
    # attention and caches
    ("plain", "sink", operand("float32", 4, 1), "sink must be of shape"),
    ("plain", "sink", operand("int32", 2, 1), "sink must be float32"),
    ("plain", "attention_mask", operand("uint8", 256, 4, 2), "attention_mask must be"),
    ("plain", "attention_mask", operand("uint8", 384, 2, 2, 2), "S_ctx <= S_max"),
    ("plain", "attention_mask", operand("uint8", 192, 2, 2, 2), "S_ctx must be a multiple of 128"),
    ("plain", "attention_mask", operand("float8_e4m3", 256, 2, 2, 2), "attention_mask must be"),
    ("plain", "K_cache", operand("bfloat16", 2, 301, 64), "K_cache must be as V_cache"),
    ("transposed", "K_cache", operand("bfloat16", 2, 300, 64), "K_cache must be as V_cache"),
    ("plain", "K_cache", operand("bfloat16", 2, 1, 300, 64), "same rank"),
    ("plain", "K_cache", operand("float16", 2, 300, 64), "caches are float8_e4m3 with both scales, else like X"),
    ("plain", "V_cache", operand("bfloat16", 3, 300, 64), "V_cache must be"),
    ("block", "K_cache", operand("bfloat16", 15, 32, 64), "must have one shape"),
    ("block-4", "K_cache", operand("bfloat16", 16, 1, 32, 64), "must have one shape"),
    ("block", "K_cache_transposed", True, "holds keys as rows"),
    ("block", "active_blocks_table", operand("int32", 2, 8), "active_blocks_table must be uint32"),
    ("block", "active_blocks_table", operand("uint32", 2, 16), "active_blocks_table must be"),
    ("block", "active_blocks_table", operand("uint32", 2, 7), "active_blocks_table must be"),
    ("block", "active_blocks_table", operand("uint32", 3, 8), "active_blocks_table must be"),
    ("plain", "k_scale", operand("float32", 1, 1), "both or neither"),
    ("static", "k_scale", operand("float32", 64, 1), "k_scale must have 1 or 128 rows"),
    ("static", "v_scale", operand("float32", 128, 2), "v_scale must have 1 or 128 rows"),
    ("static", "v_scale", operand("int32", 128, 1), "v_scale must be float32"),
    # the update
    ("plain", "update_cache", False, "exactly with update_cache"),
    ("plain", "kv_cache_update_idx", None, "exactly with update_cache"),
    ("plain", "kv_cache_update_idx", operand("int32", 2, 1), "kv_cache_update_idx must be uint32"),
    ("plain", "kv_cache_update_idx", operand("uint32", 3, 1), "kv_cache_update_idx must be"),
    ("plain", "kv_cache_update_idx", operand("uint32", 2, 3), "kv_cache_update_idx must be"),
    # the last projection
    ("plain", "W_out", operand("bfloat16", 128, 2048), "W_out must be"),
    ("plain", "W_out", operand("bfloat16", 64, 1024), "W_out must be"),
    ("plain", "W_out", operand("float32", 128, 1024), "W_out must be bfloat16 or float16"),
    ("plain", "bias_out", operand("float32", 1, 2048), "bias_out must be of shape"),
    ("bare", "transposed_out", True, "transposed_out needs W_out"),
    ("bare", "bias_out", operand("float32", 1, 1024), "without W_out no bias"),
    ("bare", "weight_dequant_scale_out", operand("float32", 128, 1), "without W_out no scales"),
    ("static", "weight_dequant_scale_out", operand("float32", 1, 1), "weight_dequant_scale must have 128 rows"),
    ("static", "input_dequant_scale_out", operand("float32", 1, 1), "input_dequant_scale must have 128 rows"),
    ("row", "weight_dequant_scale_out", operand("float32", 128, 1023), "weight_dequant_scale must have 128 rows"),
)  # fmt: skip


@pytest.mark.parametrize("legal", LEGAL)
def test_what_the_kernel_refuses_in_part_it_takes_as_a_whole(legal: str) -> None:
    config = Config(**SMALL | LEGAL[legal])
    outputs(config, SUBJECT.build(config, "normal", 5))


@pytest.mark.parametrize(("legal", "argument", "wrong", "words"), REFUSED)
def test_the_kernel_itself_refuses_what_flags_shapes_and_dtypes_show(
    legal: str, argument: str, wrong: Any, words: str
) -> None:
    config = Config(**SMALL | LEGAL[legal])
    inputs = SUBJECT.build(config, "normal", 5)
    with pytest.raises(AssertionError, match=words):
        outputs(config, inputs, **{argument: wrong})


def test_every_operand_has_a_wrong_twin() -> None:
    """Every tensor and every number of the contract; the other scalars are enumerations and flags."""
    tried = {argument for _, argument, _, _ in REFUSED}
    scalars = {"X_hidden_dim_actual", "rmsnorm_X_eps", "rmsnorm_QK_pre_rope_eps", "rmsnorm_QK_post_rope_eps"}
    tensors = {argument.name for argument in CONTRACT.arguments if argument.memory}
    assert tensors | scalars | {"softmax_scale"} <= tried
