"""Every defect of the contract's list on the kernel: its revealing input, and what a right kernel gives there.

Test names end in the defect's id. Expected values are written down, moved bits, or plain integer sums; where a
whole case is held against model and truth, `passes` does it as the suite would. Defects of options that this
contract does not have are tests of the refusal, or of the option's absence. Every test is deterministic.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.backends.sim import SimBackend
from conformance.cases.qkv import SUBJECT
from conformance.entry import launch
from conformance.mutants import mutants
from conformance.runner import run_case
from conformance.subject import Case
from conformance.tests.kernels.qkv_cte_inputs import cte_inputs, packed, swizzled
from conformance.tests.kernels.qkv_inputs import Inputs, random_inputs, stored
from reference.contracts.qkv import Config, mode, validate_call
from reference.contracts.qkv_call import call_of
from reference.errors import KernelArgumentError
from reference.neuroncore.options import Options
from reference.numerics.cast import to_float32
from reference.numerics.ulp import same_bits

pytestmark = pytest.mark.sim

Array = NDArray[Any]

BF16, FP8 = "bfloat16", "float8_e4m3"
HEADS: dict[str, Any] = {"d_head": 2, "num_q_heads": 2, "num_kv_heads": 1}
RMS: dict[str, Any] = {"norm": "RMS_NORM", "gamma": BF16}
LAYER: dict[str, Any] = {"norm": "LAYER_NORM", "gamma": "float32", "beta": BF16}
STATIC: dict[str, Any] = {"quantization": "STATIC", "weight_dtype": FP8, **HEADS}
ROW: dict[str, Any] = {"quantization": "ROW", "weight_dtype": FP8}
MX: dict[str, Any] = {"quantization": "MX", "weight_dtype": "float8_e4m3fn_x4", "generation": "gen4", "H": 512}
ROPE: dict[str, Any] = {"fused_rope": True, "rope_dtype": "float32", **HEADS}
FLAT: dict[str, Any] = {"kv_cache": "FLAT", "kv_dtype": FP8, "max_seq_len": 130, **HEADS}
BLOCK: dict[str, Any] = {"kv_cache": "BLOCK", "kv_dtype": FP8, "num_blocks": 40, "block_size": 4, **HEADS}
#: Decode and context encoding of the same options.
SIZES = {"TKG": {"B": 3, "S": 1}, "CTE": {"B": 1, "S": 97}}


#: Defects of options that this contract refuses: there is nothing of them in a kernel to be wrong.
REFUSED = {"QKV11", "QKV22", "QKV25"}


def test_every_defect_has_a_test_here_and_every_fault_a_mutant() -> None:
    listed = {defect.id for defect in SUBJECT.contract.defects}
    tested = {f"QKV{name.rpartition('_qkv')[2]}" for name in globals() if "_qkv" in name and name.startswith("test_")}
    assert tested == listed
    assert {mutant.source for mutant in mutants("qkv") if mutant.source.startswith("QKV")} == listed - REFUSED


# ---- helpers ------------------------------------------------------------------------------------------------------


def small(**fields: Any) -> Config:
    return Config(**{"B": 1, "S": 97, "H": 256, "I": 8, **fields})


def inputs_of(config: Config, octaves: float = 0.0) -> Inputs:
    return (random_inputs if mode(config) == "TKG" else cte_inputs)(config, octaves=octaves)


def run(config: Config, inputs: Inputs, options: Options | None = None) -> dict[str, Array]:
    """Outputs of the kernel on the machine, through the door that refuses."""
    return launch(SUBJECT, config, inputs, SimBackend(options or Options()))


def passes(config: Config, lane: str = "normal") -> bool:
    """Whether the kernel has the model's bits and the model is near truth."""
    return run_case(SUBJECT, Case("hazard", config, lane)).passed


def refused_by(config: Config, rule: str) -> bool:
    result = run_case(SUBJECT, Case("hazard", config))
    return result.status == "refused" and f"[{rule}]" in result.error


def launched_past_the_door(config: Config, **changes: Any) -> None:
    """The launch itself, with arguments changed or, as `...`, left out."""
    made = SUBJECT.call(config, inputs_of(config), SUBJECT.load())
    arguments = {name: value for name, value in {**made.arguments, **changes}.items() if value is not ...}
    SimBackend().run(replace(made, arguments=arguments))


def same(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return one.keys() == other.keys() and all(bool(same_bits(one[name], other[name]).all()) for name in one)


def identity(config: Config) -> Array:
    """A weight that hands the first I columns of the input on."""
    eye = np.eye(config.H, config.I)
    if config.quantization == "MX":
        return packed(eye.reshape(config.H // 4, 4, config.I).transpose(0, 2, 1))
    return stored(eye, config.weight_dtype)


def one_hot(config: Config, columns: Array) -> Array:
    """Token t is 1 in column columns[t] and 0 elsewhere."""
    tokens = np.zeros((config.tokens, config.H))
    tokens[np.arange(config.tokens), columns] = 1
    return stored(tokens.reshape(config.B, config.S, config.H), config.dtype)


# ---- sizes and dispatch -------------------------------------------------------------------------------------------


def test_every_element_of_the_widest_result_is_written_qkv1() -> None:
    config = Config(B=1, S=256, H=4096, I=4096)
    weight = stored(np.random.default_rng(1).integers(1, 256, (4096, 4096), np.int32), BF16)
    columns = np.arange(256) * 37 % 4096
    # A token that is one-hot picks a row of the weight.
    out = run(config, {"input": one_hot(config, columns), "fused_qkv_weights": weight})["out"]
    assert (out[0] == weight[columns]).all()


def test_the_largest_hidden_size_with_the_widest_result_is_written_qkv1() -> None:
    config = Config(B=1, S=97, H=24576, I=4096)
    bf16 = stored(0, BF16).dtype
    inputs = {"input": np.zeros((1, 97, 24576), bf16), "fused_qkv_weights": np.zeros((24576, 4096), bf16)}
    inputs["input"][0, :, 24575] = np.arange(97)
    inputs["fused_qkv_weights"][24575] = 1
    assert (run(config, inputs)["out"][0].astype(np.float32) == np.arange(97)[:, None]).all()


def test_256_tokens_of_short_sequences_are_projected_qkv2() -> None:
    config = Config(B=64, S=4, H=256, I=256)
    inputs = inputs_of(config) | {"fused_qkv_weights": identity(config)}
    assert (run(config, inputs)["out"] == inputs["input"]).all()
    assert passes(replace(config, **RMS))


@pytest.mark.parametrize(("B", "S", "served"), [(1, 96, "TKG"), (1, 97, "CTE"), (128, 1, "TKG"), (129, 1, "CTE")])
def test_the_borders_of_the_modes_have_the_bits_of_their_mode_qkv2(B: int, S: int, served: str) -> None:
    config = small(B=B, S=S, **RMS)
    assert mode(config) == served
    assert passes(config)


def test_a_short_call_fills_its_caches_qkv3() -> None:
    config = small(**FLAT, S=64)
    inputs = inputs_of(config)
    got = run(config, inputs)
    assert set(got) == {"out", "k_cache", "v_cache"}
    assert got["out"].shape == (1, 64, 4)
    for name in ("k_cache", "v_cache"):
        codes = got[name].view(np.uint8)
        assert (codes[0, :64] != 0x11).any(axis=-1).all()
        assert (codes[0, 64:] == 0x11).all()
    assert passes(config)


def test_row_scales_are_applied_in_decode_and_refused_in_context_encoding_qkv4() -> None:
    assert refused_by(small(**ROW, S=128), "cte_row")
    with pytest.raises(AssertionError, match="ROW"):
        launched_past_the_door(small(**ROW, S=128))
    config = small(**ROW, S=3)
    inputs = inputs_of(config)
    twice = inputs | {"qkv_w_scale": inputs["qkv_w_scale"] * 2}
    assert (run(config, twice)["out"].astype(np.float32) == 2 * run(config, inputs)["out"].astype(np.float32)).all()


def test_every_column_has_its_own_row_scale_qkv4() -> None:
    config = small(**ROW, B=3, S=1, I=1100)
    inputs = inputs_of(config)
    inputs["input"], inputs["fused_qkv_weights"][:] = one_hot(config, np.arange(3)), 1
    inputs["qkv_w_scale"][:] = np.exp2(np.arange(1100) % 61 - 30.0)
    assert (run(config, inputs)["out"].astype(np.float32) == inputs["qkv_w_scale"][0]).all()


@pytest.mark.parametrize(
    "missing",
    [("k_scale",), ("v_scale",), ("k_scale", "v_scale"), ("k_cache", "v_cache"), ("k_cache",), ("slot_mapping",)],
)
def test_half_of_a_cache_is_refused_and_never_ignored_qkv5(missing: tuple[str, ...]) -> None:
    config = small(**BLOCK, S=3)
    made = call_of(config, inputs_of(config))
    without: dict[str, Any] = dict.fromkeys(missing)
    validate_call(made)
    whole = run(config, inputs_of(config))
    assert all((whole[name].view(np.uint8) != 0x11).any() for name in ("k_cache", "v_cache"))
    with pytest.raises(KernelArgumentError):
        validate_call(replace(made, **without))
    with pytest.raises(AssertionError):
        launched_past_the_door(config, **dict.fromkeys(missing, ...))


# ---- STATIC in context encoding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [RMS, {"norm": "RMS_NORM_SKIP_GAMMA"}, LAYER])
def test_a_zero_token_under_static_is_the_bias_qkv6(norm: dict[str, Any]) -> None:
    # eps in fp8 is 0, the root infinite, and 0 * inf is NaN; a bias in fp8 loses bits.
    config = small(**STATIC, **norm, bias=BF16)
    inputs = inputs_of(config)
    inputs["input"][0, 3] = 0
    if "layer_norm_bias" in inputs:
        inputs["layer_norm_bias"][:] = 0
    out = run(config, inputs)["out"]
    assert (out[0, 3] == inputs["bias"][0]).all()
    assert np.isfinite(to_float32(out)).all()


def test_rope_under_static_keeps_bfloat16_qkv6() -> None:
    # cos = 1 + 2^-7 has more bits than fp8.
    config = small(**{**STATIC, **ROPE})
    inputs = unit_static(config)
    inputs["input"][:], inputs["fused_qkv_weights"] = 1, identity(config)
    inputs["cos_cache"][:], inputs["sin_cache"][:] = 1 + 2.0**-7, 0
    assert (run(config, inputs)["out"][..., :6] == 1 + 2.0**-7).all()


def unit_static(config: Config) -> Inputs:
    """Inputs with all scales 1."""
    inputs = inputs_of(config)
    inputs["qkv_in_scale"][:], inputs["qkv_w_scale"][:] = 1, 1
    return inputs


@pytest.mark.parametrize("tiles", [1, 3, 5])
def test_an_odd_number_of_row_tiles_is_contracted_to_the_last_qkv7(tiles: int) -> None:
    config = small(**STATIC, H=128 * tiles)
    inputs = unit_static(config)
    inputs["input"][:], inputs["fused_qkv_weights"][:] = 1, 1
    assert (run(config, inputs)["out"] == 128 * tiles).all()


def test_double_rows_are_rounded_once_per_256_rows_qkv27() -> None:
    # 57600 + 2^-18 in the first row tile, -57600 in the second: two roundings would lose the small term.
    config = small(**STATIC)
    inputs = unit_static(config)
    inputs["input"][:], inputs["fused_qkv_weights"][:] = 0, 0
    for h, x, w in ((0, 240.0, 240.0), (1, 2.0**-9, 2.0**-9), (200, -240.0, 240.0)):
        inputs["input"][..., h], inputs["fused_qkv_weights"][h] = x, w
    assert (run(config, inputs)["out"] == 2.0**-18).all()


@pytest.mark.parametrize("served", SIZES)
def test_q_k_and_v_have_their_own_scales_with_few_query_heads_qkv29(served: str) -> None:
    config = small(**{**STATIC, "d_head": 1, "num_q_heads": 2, "num_kv_heads": 3}, **SIZES[served])
    assert mode(config) == served
    inputs = unit_static(config)
    inputs["input"] = one_hot(config, np.arange(config.tokens))
    inputs["fused_qkv_weights"][:], inputs["qkv_w_scale"][:] = 1, [[2.0, 4.0, 8.0]]
    assert (run(config, inputs)["out"].astype(float) == [2, 2, 4, 4, 4, 8, 8, 8]).all()


@pytest.mark.parametrize("served", SIZES)
@pytest.mark.parametrize("lnc", [1, 2])
def test_the_bias_is_added_once_and_unscaled_qkv30(served: str, lnc: int) -> None:
    kinds = (STATIC, ROW) if served == "TKG" else (STATIC, {**STATIC, **ROPE})
    for kind in kinds:
        config = small(**kind, bias=BF16, lnc=lnc, **SIZES[served])
        inputs = inputs_of(config)
        inputs["input"][:], inputs["qkv_w_scale"][:] = 0, 64.0
        # V, which RoPE does not turn.
        assert (run(config, inputs)["out"][..., 6:] == inputs["bias"][0, 6:]).all()


@pytest.mark.parametrize("served", SIZES)
@pytest.mark.parametrize("generation", ["gen3", "gen4"])
def test_what_exceeds_240_is_240_on_every_generation_qkv31(served: str, generation: str) -> None:
    config = small(**STATIC, generation=generation, **SIZES[served])
    for value in (240.0, 248.0, 300.0, 448.0, 1e4):
        for sign in (1, -1):
            inputs = unit_static(config)
            inputs["input"][:] = 0
            inputs["input"][..., 0], inputs["fused_qkv_weights"][:] = sign * value, 1
            assert (run(config, inputs)["out"].astype(float) == sign * 240).all()


@pytest.mark.parametrize(("dtype", "largest"), [(FP8, 240.0), ("float8_e5m2", 57344.0), ("float8_e4m3fn", 448.0)])
def test_a_cache_holds_the_largest_value_of_its_format_for_what_exceeds_it_qkv31(dtype: str, largest: float) -> None:
    config = small(**{**FLAT, "kv_dtype": dtype}, S=3, generation="gen4")
    inputs = inputs_of(config) | {"fused_qkv_weights": identity(config)}
    inputs["k_scale"][:], inputs["v_scale"][:] = 1, 1
    for factor in (1.0, 1.03125, 1.0625, 2.0, 1e6):
        inputs["input"][:] = np.where(np.arange(256) % 2, -1.0, 1.0) * largest * factor
        got = run(config, inputs)
        for name in ("k_cache", "v_cache"):
            assert (got[name][0, :3].astype(float) == [largest, -largest]).all()


# ---- RoPE ---------------------------------------------------------------------------------------------------------


def rope_case(d: int, heads: tuple[int, int]) -> tuple[Config, Inputs]:
    """A projection that is the input, to be turned."""
    q, kv = heads
    width = (q + 2 * kv) * d
    sizes = {"d_head": d, "num_q_heads": q, "num_kv_heads": kv, "H": -(-width // 128) * 128, "I": width}
    config = small(**{**ROPE, **sizes}, S=5)
    return config, inputs_of(config) | {"fused_qkv_weights": identity(config)}


@pytest.mark.parametrize(("d", "heads"), [(96, (6, 1)), (88, (6, 2)), (128, (5, 1))])
def test_heads_that_straddle_512_columns_turn_where_they_lie_qkv8(d: int, heads: tuple[int, int]) -> None:
    # A quarter turn moves halves without rounding: (x1, x2) becomes (-x2, x1).
    config, inputs = rope_case(d, heads)
    inputs["cos_cache"][:], inputs["sin_cache"][:] = 0, 1
    x = to_float32(inputs["input"])[0, :, : config.I].reshape(5, -1, 2, d // 2)
    expected = np.stack([-x[:, :, 1], x[:, :, 0]], axis=2)
    expected[:, sum(heads) :] = x[:, sum(heads) :]
    assert (to_float32(run(config, inputs)["out"]).reshape(expected.shape) == expected).all()


def test_the_second_half_of_sin_is_not_read_and_that_of_cos_is_qkv9() -> None:
    config, inputs = rope_case(8, (2, 1))
    plain = run(config, inputs)
    inputs["sin_cache"][..., 4:] = np.nan
    assert same(run(config, inputs), plain)
    inputs["cos_cache"][..., 4:] *= 2
    assert not same(run(config, inputs), plain)


# ---- MX -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("S", [130, 320, 321])
def test_a_swizzled_input_has_the_bits_of_the_plain_one_to_the_last_row_qkv10(S: int) -> None:
    config = small(**{**MX, "H": 1024}, S=S, lnc=2)
    inputs = inputs_of(config, octaves=6)
    mixed = inputs | {"input": swizzled(inputs["input"])}
    assert same(run(replace(config, is_input_swizzled=True), mixed), run(config, inputs))


def test_an_fp8_input_of_mx_is_refused_qkv11() -> None:
    assert refused_by(small(**MX, dtype=FP8), "input_dtype")
    assert refused_by(small(**MX, dtype="float8_e4m3fn"), "input_dtype")


def test_an_input_scale_with_mx_is_refused_qkv12() -> None:
    config = small(**MX)
    made = call_of(config, inputs_of(config))
    validate_call(made)
    with pytest.raises(KernelArgumentError, match="qkv_in_scale"):
        validate_call(replace(made, qkv_in_scale=np.full((128, 1), 0.5, np.float32)))


@pytest.mark.parametrize("served", SIZES)
def test_the_input_scale_divides_the_input_and_multiplies_the_result_qkv12(served: str) -> None:
    config = small(**STATIC, **SIZES[served])
    inputs = unit_static(config)
    inputs["input"][:], inputs["qkv_in_scale"][:], inputs["qkv_w_scale"][:] = 100.0, 0.25, 8.0
    inputs["fused_qkv_weights"] = identity(config)
    # 400 quarters are clamped to 240 of them: 60.
    assert (run(config, inputs)["out"] == 480).all()


@pytest.mark.parametrize("fields", [RMS, {"fused_residual_add": True}, {"norm": "LAYER_NORM", "gamma": BF16}, {}])
@pytest.mark.parametrize("kind", [MX, STATIC, {}])
def test_the_dma_flag_changes_no_bit_qkv13(kind: dict[str, Any], fields: dict[str, Any]) -> None:
    config = small(**kind, **fields)
    inputs = inputs_of(config)
    assert same(run(replace(config, load_input_with_DMA_transpose=False), inputs), run(config, inputs))


@pytest.mark.parametrize("lnc", [1, 2])
def test_every_block_of_a_long_mx_weight_is_at_its_row_qkv14(lnc: int) -> None:
    # 5120 packed rows; a second block taken from row 1 would give column 8192 what belongs to column 4.
    config = small(**{**MX, "H": 20480}, S=5, lnc=lnc)
    columns = np.array([0, 4, 8191, 8192, 20479])
    inputs = inputs_of(config)
    inputs["input"], inputs["qkv_w_scale"][:] = one_hot(config, columns), 127
    codes = inputs["fused_qkv_weights"].view(np.uint8).reshape(5120, 8, 4)
    rows = codes[columns // 4, :, columns % 4].view(stored(0, "float8_e4m3fn").dtype)
    assert (run(config, inputs)["out"][0].astype(np.float32) == rows.astype(np.float32)).all()


@pytest.mark.parametrize("served", SIZES)
def test_every_block_of_a_long_weight_is_at_its_rows_qkv14(served: str) -> None:
    config = small(H=16384, I=1024, lnc=2, **SIZES[served])
    weight = stored(np.random.default_rng(2).integers(1, 256, (16384, 1024), np.int32), BF16)
    columns = 16383 - np.arange(config.tokens) * 167
    inputs = {"input": one_hot(config, columns), "fused_qkv_weights": weight}
    assert (run(config, inputs)["out"].reshape(-1, 1024) == weight[columns]).all()


@pytest.mark.parametrize("tiles", [1, 3, 17])
@pytest.mark.parametrize("lnc", [1, 2])
def test_the_last_of_an_odd_number_of_row_tiles_counts_in_decode_qkv15(tiles: int, lnc: int) -> None:
    config = small(B=3, S=1, H=128 * tiles * lnc, lnc=lnc)
    inputs = inputs_of(config)
    inputs["input"][:], inputs["fused_qkv_weights"][:] = 1, 1
    # Sums of ones, rounded to bfloat16 like the partial sums on their way.
    assert (run(config, inputs)["out"] == stored(config.H, BF16)).all()


def test_the_last_512_columns_of_an_odd_number_of_mx_tiles_count_qkv15() -> None:
    config = small(**{**MX, "H": 1536}, S=4, lnc=2)
    inputs = inputs_of(config)
    inputs["input"], inputs["qkv_w_scale"][:] = one_hot(config, np.array([1023, 1024, 1500, 1535])), 127
    inputs["fused_qkv_weights"] = packed(np.ones((384, 8, 4)))
    assert (run(config, inputs)["out"] == 1).all()


@pytest.mark.parametrize("tokens", [1, 3, 127, 129])
def test_any_number_of_tokens_is_quantised_qkv24(tokens: int) -> None:
    config = small(**MX, S=130)
    inputs = inputs_of(config)
    fewer = inputs | {"input": np.ascontiguousarray(inputs["input"][:, :tokens])}
    got = run(replace(config, S=tokens), fewer)["out"]
    assert same_bits(got, run(config, inputs)["out"][:, :tokens]).all()


@pytest.mark.parametrize("exponent", [-20, 0, 20])
def test_a_group_just_below_a_power_of_two_is_not_clipped_qkv26(exponent: int) -> None:
    # The older rule takes half the scale: 1.875 became 480 of its units and was clipped to 448, 1.75.
    config = small(**MX, S=2)
    inputs = inputs_of(config)
    inputs["input"][:] = 0
    inputs["input"][0, 0, :3] = np.array([1.875, -1.875, 1.0]) * 2.0**exponent
    inputs["fused_qkv_weights"], inputs["qkv_w_scale"][:] = identity(config), 127
    expected = np.array([1.875, -1.875, 1, 0, 0, 0, 0, 0]) * 2.0**exponent
    assert (run(config, inputs)["out"][0, 0].astype(float) == expected).all()


def test_scales_of_streamed_mx_weights_belong_to_their_tiles_qkv27() -> None:
    config = small(**{**MX, "H": 16384, "I": 1024}, S=4)
    inputs = inputs_of(config)
    columns = np.array([31, 512, 8000, 16383])
    inputs["input"] = one_hot(config, columns)
    inputs["fused_qkv_weights"] = np.full((4096, 1024), packed(np.ones(4)), np.uint32)
    inputs["qkv_w_scale"] = np.repeat(np.arange(512) % 100 + 77, 1024).reshape(512, 1024).astype(np.uint8)
    expected = np.exp2(columns // 32 % 100 - 50.0)
    assert (run(config, inputs)["out"][0].astype(float) == expected[:, None]).all()


# ---- decode -------------------------------------------------------------------------------------------------------


def test_layer_norm_of_constant_and_nearly_constant_tokens_is_finite_qkv16() -> None:
    config = small(S=4, H=384, **LAYER, dtype="float32", weight_dtype="float32")
    inputs = inputs_of(config)
    inputs["input"][:] = np.array([1000.3, 1000.0, -3e4, 1.0], np.float32)[:, None]
    assert np.isfinite(run(config, inputs)["out"]).all()
    assert passes(config, "near_constant")
    wide = small(S=100, H=384, **LAYER)
    inputs = inputs_of(wide) | {"fused_qkv_weights": identity(wide)}
    inputs["input"][:] = 1000.0
    # Context encoding has its variance from deviations: a constant token is beta.
    assert (run(wide, inputs)["out"] == inputs["layer_norm_bias"][0, :8]).all()


def test_raw_sums_of_float16_overflow_and_smaller_ones_do_not_qkv17() -> None:
    config = small(**ROW, dtype="float16", S=1, H=128)
    inputs = inputs_of(config)
    inputs["fused_qkv_weights"][:], inputs["qkv_w_scale"][:] = 240, 2.0**-10
    inputs["input"][:] = 8
    assert np.isposinf(run(config, inputs)["out"]).all()
    inputs["input"][:] = 2
    assert (run(config, inputs)["out"] == 60).all()


@pytest.mark.parametrize(("norm", "tokens"), [(RMS, 19), (LAYER, 11), (RMS, 1), (LAYER, 127)])
def test_odd_tokens_with_residual_norm_and_two_cores_are_served_qkv18(norm: dict[str, Any], tokens: int) -> None:
    config = small(B=tokens, S=1, lnc=2, fused_residual_add=True, **norm)
    assert mode(config) == "TKG"
    assert passes(config)


@pytest.mark.parametrize("norm", [RMS, LAYER])
def test_ten_runs_on_two_cores_have_the_same_bits_qkv19(norm: dict[str, Any]) -> None:
    config = small(B=5, S=4, H=512, I=640, bias=BF16, lnc=2, fused_residual_add=True, **norm)
    inputs = inputs_of(config)
    first = run(config, inputs)
    for seed in range(9):
        assert same(run(config, inputs, Options(seed=seed, quantum=1)), first)


# ---- KV cache -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lnc", [1, 2])
def test_flat_caches_hold_every_batch_in_its_own_rows_qkv20(lnc: int) -> None:
    config = small(**{**FLAT, "max_seq_len": 300}, B=2, S=256, lnc=lnc)
    inputs = inputs_of(config)
    got = run(config, inputs)
    for b in range(2):
        part = {k: v[b : b + 1] if k in ("input", "k_cache", "v_cache") else v for k, v in inputs.items()}
        alone = run(replace(config, B=1), part)
        assert same({name: value[b : b + 1] for name, value in got.items()}, alone)
    assert (got["k_cache"][:, 256:].view(np.uint8) == 0x11).all()


@pytest.mark.parametrize("B", [1, 2])
def test_keys_are_stored_token_by_token_in_the_order_of_their_heads_qkv21(B: int) -> None:
    # No option stores keys transposed. Token t of batch b is 1 in its own column of H.
    assert "transpose_k_cache" not in inspect.signature(SUBJECT.load()).parameters
    config = small(**{**FLAT, "num_q_heads": 1, "num_kv_heads": 3}, B=B, S=101, I=14)
    inputs = inputs_of(config)
    weight = np.random.default_rng(5).integers(-8, 9, (256, 14))
    inputs["input"], inputs["fused_qkv_weights"] = one_hot(config, np.arange(config.tokens)), stored(weight, BF16)
    inputs["k_scale"][:], inputs["v_scale"][:] = 1, 0.5
    got = run(config, inputs)
    rows = weight[: config.tokens].reshape(B, 101, 14)
    assert (got["out"].astype(int) == rows[..., :2]).all()
    assert (got["k_cache"][:, :101].astype(int) == rows[..., 2:8]).all()
    assert (got["v_cache"][:, :101].astype(int) == 2 * rows[..., 8:]).all()


def test_slots_of_one_dimension_are_refused_qkv22() -> None:
    config = small(**BLOCK, S=3)
    inputs = inputs_of(config)
    made = call_of(config, inputs)
    validate_call(made)
    flat = inputs["slot_mapping"].reshape(-1)
    with pytest.raises(KernelArgumentError, match="slot_mapping"):
        validate_call(replace(made, slot_mapping=flat))
    with pytest.raises(AssertionError, match="slot_mapping"):
        launched_past_the_door(config, slot_mapping=flat)


@pytest.mark.parametrize("lnc", [1, 2])
def test_slot_minus_one_writes_nothing_and_nowhere_else_qkv23(lnc: int) -> None:
    config = small(**BLOCK, S=150, lnc=lnc)
    inputs = inputs_of(config)
    slots = inputs["slot_mapping"][0]
    got = run(config, inputs)
    flat = {k: v for k, v in inputs.items() if k != "slot_mapping"}
    flat |= {name: np.ascontiguousarray(inputs[name].reshape(1, 160, 2)[:, :150]) for name in ("k_cache", "v_cache")}
    plain = replace(config, kv_cache="FLAT", num_blocks=None, block_size=None, max_seq_len=150)
    rows = run(plain, flat)
    for name in ("k_cache", "v_cache"):
        table, expected = got[name].reshape(160, 2).view(np.uint8), rows[name][0].view(np.uint8)
        assert (table[slots[slots >= 0]] == expected[slots >= 0]).all()
        assert (table[np.setdiff1d(np.arange(160), slots)] == 0x11).all()
    inputs["slot_mapping"] = np.full((1, 150), -1, np.int32)
    skipped = run(config, inputs)
    assert all((skipped[name].view(np.uint8) == 0x11).all() for name in ("k_cache", "v_cache"))
    assert same({"out": skipped["out"]}, {"out": got["out"]})


def test_no_query_heads_are_refused_qkv25() -> None:
    assert refused_by(small(**{**FLAT, "num_q_heads": 0, "num_kv_heads": 2}), "optional_sizes_positive")


# ---- memory -------------------------------------------------------------------------------------------------------

#: Options whose tiles are wider than a ragged tile of 127 tokens.
RAGGED: dict[str, dict[str, Any]] = {
    "rms": RMS, "layer": LAYER, "static": STATIC, "mx": MX, "rope": ROPE, "flat": FLAT, "no-dma": {
        **RMS, "load_input_with_DMA_transpose": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RAGGED)
def test_memory_beyond_the_tokens_reaches_no_row_qkv28(name: str) -> None:
    config = small(**RAGGED[name], S=127)
    inputs = inputs_of(config)
    checked = run(config, inputs)
    # Without checks, fresh memory is NaN; with them, reading it stops the launch.
    assert same(run(config, inputs, Options(checks="off")), checked)
    assert np.isfinite(to_float32(checked["out"])).all()
    inputs["input"][0, 126, 17] = np.nan
    bad = np.isnan(to_float32(run(config, inputs)["out"]))
    assert bad[0, 126].all()
    assert not bad[0, :126].any()
