"""The context encoding of qkv on the machine: hazards of public kernels, what may not change a bit, what must fit.

Claims: on the inputs that reveal each known hazard (facts sheet, section 10; the number is in the test's name) the
kernel gives the model's bits, and where a hazard has a plain consequence that is looked at too. Cores, the way of
transposing, swizzled storage, streamed weights and other tokens' values change no bit; caches keep every byte of the
rows that no token addresses. The largest sizes fit the chip. A failure of a case ends with the command that runs it
again.

Not here: 2.31 arguments (FP8 input, static dequantisation of MX, transposed K) that the published signature lacks, and
what the host-side entry refuses.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import reference  # noqa: F401  (the doorway: `import nki` finds the drop-in)

import nki  # isort: skip

from conformance.backends.sim import SimBackend, Simulated
from conformance.cases.qkv import SUBJECT
from conformance.explain import first_difference
from conformance.subject import Case
from kernels.common_types import NormType, QuantizationType
from kernels.qkv import qkv
from reference.contracts.qkv import refusal
from reference.contracts.qkv_config import FP8, MX_WEIGHT, Config, mode
from reference.neuroncore.options import Options
from reference.numerics.cast import cast, to_float32

pytestmark = pytest.mark.sim

Array = NDArray[Any]
Arrays = dict[str, Array]

HEADS: dict[str, Any] = {"I": 384, "d_head": 128, "num_q_heads": 1, "num_kv_heads": 1}
PLAIN: dict[str, Any] = {"B": 1, "S": 150, "H": 384, **HEADS}
STATIC: dict[str, Any] = {**PLAIN, "quantization": "STATIC", "weight_dtype": FP8}
MX: dict[str, Any] = {**PLAIN, "H": 1024, "quantization": "MX", "weight_dtype": MX_WEIGHT, "generation": "gen4"}
ROPE: dict[str, Any] = {"fused_rope": True, "rope_dtype": "float32"}
FLAT: dict[str, Any] = {"kv_cache": "FLAT", "kv_dtype": FP8, "max_seq_len": 160}
BLOCK: dict[str, Any] = {"kv_cache": "BLOCK", "kv_dtype": FP8, "block_size": 16, "num_blocks": 12}
RMS: dict[str, Any] = {"norm": "RMS_NORM", "gamma": "bfloat16"}


def config_of(*parts: dict[str, Any], **fields: Any) -> Config:
    """A legal config of context encoding; later parts win."""
    merged: dict[str, Any] = {}
    for part in (*parts, fields):
        merged |= part
    config = Config(**merged)
    assert refusal(config) is None, refusal(config)
    assert mode(config) == "CTE"
    return config


def build(config: Config, lane: str = "normal", seed: int = 0) -> Arrays:
    return dict(SUBJECT.build(config, lane, seed))


def launched(config: Config, inputs: Arrays, options: Options | None = None) -> Simulated:
    """The launch of the kernel with its trace."""
    return SimBackend(options or Options()).launch(SUBJECT.call(config, inputs, SUBJECT.load()))


def outputs(config: Config, inputs: Arrays) -> Arrays:
    return dict(launched(config, inputs).outputs)


def same(left: Array, right: Array) -> bool:
    """The same bytes, any NaN equal to any NaN."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    a, b = to_float32(left), to_float32(right)
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


def assert_models_bits(config: Config, lane: str = "normal", seed: int = 0) -> None:
    """Every named tile and every output as the model has them."""
    found = first_difference(SUBJECT, Case("hazard", config, lane, seed))
    assert found.agrees, found.text()


def assert_models_outputs(config: Config, inputs: Arrays) -> Arrays:
    """The outputs, which are the model's on these inputs."""
    got, wanted = outputs(config, inputs), SUBJECT.model(config, inputs)
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        assert same(got[name], value), f"{name}: {config}"
    return got


def picking(config: Config, columns: Array) -> Array:
    """Weights whose output column i is input column columns[i]."""
    weights = np.zeros((config.H, config.I), np.float32)
    weights[columns, np.arange(config.I)] = 1
    return cast(weights, config.weight_dtype)


# --- hazards of public kernels --------------------------------------------------------------------------------


@pytest.mark.parametrize("H", [128, 4096])
def test_hazard_1_the_widest_projection_is_written_whole(H: int) -> None:
    # The machine refuses an output with an unwritten element; the model says what belongs there.
    config = config_of(B=1, S=130, H=H, I=4096, lnc=2)
    assert_models_outputs(config, build(config))


def test_hazard_2_many_short_sequences_are_context_encoding() -> None:
    assert_models_bits(config_of(HEADS, B=64, S=4, H=256, lnc=2))


@pytest.mark.parametrize("cache", [FLAT, BLOCK], ids=["flat", "block"])
def test_hazard_3_short_sequences_fill_their_cache(cache: dict[str, Any]) -> None:
    config = config_of(PLAIN, cache, S=64)
    inputs = build(config)
    got = assert_models_outputs(config, inputs)
    assert not same(got["k_cache"], inputs["k_cache"])
    assert not same(got["v_cache"], inputs["v_cache"])


def test_hazard_4_row_scales_are_refused_in_context_encoding() -> None:
    inputs = build(config_of(PLAIN))
    inputs["fused_qkv_weights"] = cast(np.ones(inputs["fused_qkv_weights"].shape, np.float32), "float8_e4m3")
    arguments = {"quantization_type": QuantizationType.ROW, "qkv_w_scale": np.ones((1, 384), np.float32)}
    with pytest.raises(AssertionError, match="ROW is not supported in context encoding"):
        nki.jit(qkv.func)(**inputs, **arguments)


@pytest.mark.parametrize("missing", ["k_cache", "v_cache", "k_scale", "v_scale", "slot_mapping"])
def test_hazard_5_half_a_cache_is_refused(missing: str) -> None:
    config = config_of(PLAIN, BLOCK)
    call = SUBJECT.call(config, build(config), SUBJECT.load())
    arguments = {name: value for name, value in call.arguments.items() if name != missing}
    with pytest.raises(AssertionError, match=r"belong|need"):
        nki.jit(qkv.func)(**arguments)


def test_hazard_6_static_keeps_eps_bias_and_rotation_out_of_fp8() -> None:
    config = config_of(STATIC, ROPE, RMS, bias="float32")
    inputs = build(config, "zero_token")
    inputs["qkv_in_scale"][:] = 1.0
    got = assert_models_outputs(config, inputs)
    # A zero token norms to zero, so V is the bias alone: in bfloat16, which e4m3 could not hold.
    bias = cast(inputs["bias"][0, 256:], "bfloat16")
    assert same(got["out"][0, -1, 256:], bias)
    assert not same(cast(bias, FP8).astype(np.float32), bias.astype(np.float32))


def test_hazard_6_static_adds_eps_in_float32() -> None:
    # 0.3 is no bfloat16, and in e4m3 it is further off; a zero token has nothing but eps under its root.
    config = config_of(STATIC, RMS, norm_eps=0.3)
    inputs = build(config, "zero_token")
    root = launched(config, inputs, Options(taps=True)).trace.taps[0, "inverse_root_1", 0].values
    assert root[-1, 0] == np.float32(1 / np.sqrt(np.float64(np.float32(0.3))))
    assert_models_bits(config, "zero_token")


def test_hazard_6_static_rotates_in_bfloat16_whatever_the_input() -> None:
    config = config_of(STATIC, ROPE, dtype="float16", bias="float32")
    assert_models_bits(config)
    assert outputs(config, build(config))["out"].dtype == np.dtype("bfloat16")


@pytest.mark.parametrize("H", [128, 384, 8320])
def test_hazard_7_an_odd_row_tile_is_multiplied_alone(H: int) -> None:
    config = config_of(STATIC, H=H)
    inputs = build(config)
    # Only the last row tile counts; a stale one in its place would show.
    inputs["input"][:, :, : H - 128] = 0
    got = assert_models_outputs(config, inputs)
    assert (got["out"].astype(np.float32) != 0).any()


@pytest.mark.parametrize("part", [PLAIN, STATIC], ids=["plain", "static"])
@pytest.mark.parametrize("d", [88, 96])
def test_hazard_8_heads_that_straddle_the_banks_are_rotated(d: int, part: dict[str, Any]) -> None:
    assert_models_bits(config_of(part, ROPE, I=8 * d, d_head=d, num_q_heads=6, bias="bfloat16"))


@pytest.mark.parametrize("quantized", [{}, {"quantization": "STATIC", "weight_dtype": FP8}], ids=["plain", "static"])
def test_hazard_9_half_of_the_sines_is_read_and_all_of_the_cosines(quantized: dict[str, Any]) -> None:
    config = config_of(PLAIN, ROPE, quantized)
    inputs = build(config)
    before = assert_models_outputs(config, inputs)["out"]
    poisoned = inputs | {"sin_cache": inputs["sin_cache"].copy()}
    poisoned["sin_cache"][:, :, 64:] = np.nan
    assert same(outputs(config, poisoned)["out"], before)
    turned = inputs | {"cos_cache": inputs["cos_cache"].copy()}
    turned["cos_cache"][:, :, 64:] *= -1
    assert not same(outputs(config, turned)["out"], before)


@pytest.mark.parametrize("S", [320, 131])
def test_hazard_10_swizzled_rows_beyond_a_tile_are_kept(S: int) -> None:
    config = config_of(MX, S=S, lnc=2)
    inputs = build(config)
    plain = assert_models_outputs(config, inputs)["out"]
    column = np.arange(config.H)
    place = (column % 4 * (config.H // 512) + column // 512) * 128 + column % 512 // 4
    swizzled = np.empty_like(inputs["input"])
    swizzled[:, :, place] = inputs["input"]
    config = dataclasses.replace(config, is_input_swizzled=True)
    assert same(assert_models_outputs(config, inputs | {"input": swizzled})["out"], plain)


@pytest.mark.parametrize("S", [1, 5, 33])
def test_hazard_20_flat_caches_have_a_row_of_tokens_per_sequence(S: int) -> None:
    config = config_of(PLAIN, FLAT, B=5, S=S, lnc=2, max_seq_len=S + 3)
    inputs = build(config)
    got = assert_models_outputs(config, inputs)
    for name in ("k_cache", "v_cache"):
        assert same(got[name][:, S:], inputs[name][:, S:])
        assert np.isfinite(got[name][:, :S].astype(np.float32)).all()


def test_hazard_22_one_dimensional_slots_are_refused() -> None:
    config = config_of(PLAIN, BLOCK)
    call = SUBJECT.call(config, build(config), SUBJECT.load())
    slots = call.arguments["slot_mapping"].reshape(-1)
    with pytest.raises(AssertionError, match=r"slot_mapping must be \[B, S\]"):
        nki.jit(qkv.func)(**{**call.arguments, "slot_mapping": slots})


@pytest.mark.parametrize("lnc", [1, 2])
def test_hazard_23_a_slot_of_minus_one_writes_nothing(lnc: int) -> None:
    config = config_of(PLAIN, BLOCK, ROPE, lnc=lnc)
    inputs = build(config)
    slots = inputs["slot_mapping"]
    slots[0, ::7] = -1
    addressed = np.zeros(config.block_size * config.num_blocks, np.bool_)  # type: ignore[operator]
    addressed[slots[slots >= 0]] = True
    # The last row is where -1 would wrap to.
    if addressed[-1]:
        slots[slots == addressed.size - 1] = -1
        addressed[-1] = False
    got = assert_models_outputs(config, inputs)
    for name in ("k_cache", "v_cache"):
        rows, before = (array.reshape(addressed.size, -1) for array in (got[name], inputs[name]))
        assert (rows[~addressed].view(np.uint8) == before[~addressed].view(np.uint8)).all()
        assert np.isfinite(rows[addressed].astype(np.float32)).all()


def test_hazard_26_a_group_just_below_a_power_of_two_is_not_clipped() -> None:
    config = config_of(MX)
    inputs = build(config)
    # 1.9921875 * 2^8 would clip to 448 under the scale of old releases.
    inputs["input"][:] = cast(np.full(1, 1.9921875, np.float32), "bfloat16")
    assert_models_outputs(config, inputs)
    trace = launched(config, inputs, Options(taps=True)).trace
    operand = trace.taps[0, "operand_mx_0", 0].values
    scale = trace.taps[0, "operand_scale_0", 0].values
    # 2^(120-127) * 256 = 2: rounded up, not clipped.
    assert set(scale.reshape(4, 32, -1)[:, :4].ravel().tolist()) == {120}
    assert set(operand.view(np.uint8).ravel().tolist()) == {0x78}


@pytest.mark.parametrize("lnc", [1, 2])
def test_hazard_28_no_token_takes_part_in_another(lnc: int) -> None:
    for part in (PLAIN, STATIC, MX):
        config = config_of(part, RMS, S=127, lnc=lnc)
        inputs = build(config)
        before = outputs(config, inputs)["out"]
        inputs["input"][0, 60] = np.nan
        after = outputs(config, inputs)["out"]
        others = np.arange(127) != 60
        assert same(after[:, others], before[:, others])
        assert np.isnan(after[0, 60].astype(np.float32)).all()


@pytest.mark.parametrize("rope", [{}, ROPE], ids=["plain", "rope"])
def test_hazard_29_segments_end_where_the_heads_end(rope: dict[str, Any]) -> None:
    config = config_of(STATIC, rope, I=7 * 96, d_head=96, num_q_heads=1, num_kv_heads=3)
    inputs = build(config)
    inputs["qkv_w_scale"][:] = (1.0, 2.0, 4.0)
    got = assert_models_outputs(config, inputs)["out"].astype(np.float32)
    inputs["qkv_w_scale"][:] = (1.0, 1.0, 1.0)
    unit = assert_models_outputs(config, inputs)["out"].astype(np.float32)
    assert (got == unit * np.repeat([1, 2, 4], [96, 288, 288]).astype(np.float32)).all()


@pytest.mark.parametrize("rope", [{}, ROPE], ids=["plain", "rope"])
def test_hazard_30_the_bias_is_never_scaled(rope: dict[str, Any]) -> None:
    config = config_of(STATIC, rope, bias="bfloat16")
    inputs = build(config)
    inputs["fused_qkv_weights"][:] = 0
    got = assert_models_outputs(config, inputs)["out"]
    # V is not rotated: what comes out is the bias.
    assert same(got[0, :, 256:], np.repeat(inputs["bias"][:, 256:], 150, axis=0))


@pytest.mark.parametrize("generation", ["gen3", "gen4"])
def test_hazard_31_inputs_beyond_the_range_become_240(generation: str) -> None:
    config = config_of(STATIC, generation=generation)
    inputs = build(config)
    inputs["input"][:] = 1000
    inputs["qkv_in_scale"][:] = 1.0
    inputs["qkv_w_scale"][:] = 1.0
    inputs["fused_qkv_weights"] = picking(config, np.arange(config.I))
    assert (assert_models_outputs(config, inputs)["out"] == 240).all()


# --- what changes no bit ----------------------------------------------------------------------------------------

WAYS = {
    "plain": config_of(PLAIN, ROPE, S=257, bias="float32", norm="RMS_NORM_SKIP_GAMMA", dtype="float32"),
    "static": config_of(STATIC, S=257, norm="LAYER_NORM", gamma="float32", beta="bfloat16"),
    "mx": config_of(MX, S=257, fused_residual_add=True),
    "flat": config_of(PLAIN, FLAT, B=2, S=99),
    "block": config_of(PLAIN, BLOCK, ROPE, S=129),
}


@pytest.mark.parametrize("name", WAYS)
def test_two_cores_give_the_bits_of_one(name: str) -> None:
    config = WAYS[name]
    inputs = build(config)
    one, two = outputs(config, inputs), outputs(dataclasses.replace(config, lnc=2), inputs)
    assert all(same(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", WAYS)
def test_both_ways_of_transposing_give_the_same_tiles(name: str) -> None:
    config = WAYS[name]
    for flag in (True, False):
        assert_models_bits(dataclasses.replace(config, load_input_with_DMA_transpose=flag))


@pytest.mark.parametrize("part", [PLAIN, STATIC, MX], ids=["none", "static", "mx"])
def test_streamed_weights_give_the_bits_of_resident_ones(part: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(part, H=1536 if part is MX else 640, S=300)
    inputs = build(config)
    resident = outputs(config, inputs)["out"]
    # No room for weights, one or two row tiles to a block: token tiles go in groups.
    monkeypatch.setattr("kernels.qkv_cte_weights.SBUF_BYTES", 0)
    monkeypatch.setattr("kernels.qkv_cte_weights.BLOCK_BYTES", 1)
    assert same(outputs(config, inputs)["out"], resident)
    loads = launched(config, inputs).trace.counters[0].ops["dma_copy"]
    monkeypatch.setattr("kernels.qkv_cte.GROUP_BYTES", 0)
    assert same(outputs(config, inputs)["out"], resident)
    assert launched(config, inputs).trace.counters[0].ops["dma_copy"] > loads


def test_a_single_token_leaves_the_first_core_idle() -> None:
    assert_models_bits(config_of(PLAIN, ROPE, RMS, S=1, lnc=2, bias="bfloat16"))


# --- order of operations ------------------------------------------------------------------------------------------


def test_the_residual_adds_mlp_before_attention() -> None:
    config = config_of(PLAIN, fused_residual_add=True)
    inputs = build(config)
    # (2^60 - 2^60) + 1 = 1, while (2^60 + 1) - 2^60 = 0.
    for name, value in (("input", 2.0**60), ("mlp_prev", -(2.0**60)), ("attention_prev", 1.0)):
        inputs[name][:] = value
    inputs["fused_qkv_weights"] = picking(config, np.arange(config.I))
    assert (assert_models_outputs(config, inputs)["out"] == 1).all()


def test_limits_of_a_cache_clamp_before_the_cast() -> None:
    config = config_of(PLAIN, FLAT, fp8_max=100.5, fp8_min=-50.25)
    inputs = build(config)
    inputs["input"][:, ::2], inputs["input"][:, 1::2] = 1000.0, -1000.0
    inputs["k_scale"][:], inputs["v_scale"][:] = 1.0, 2.0
    inputs["fused_qkv_weights"] = picking(config, np.arange(config.I))
    got = assert_models_outputs(config, inputs)
    for name in ("k_cache", "v_cache"):
        assert (got[name][:, 0:150:2] == 104).all()
        # -50.25 lies between -48 and -52 of e4m3.
        assert (got[name][:, 1:150:2] == -52).all()


def test_the_sum_of_a_padded_hidden_size_divides_by_the_actual_one() -> None:
    config = config_of(PLAIN, norm="RMS_NORM_SKIP_GAMMA", hidden_actual=96, norm_eps=0.0)
    inputs = build(config)
    inputs["input"][:] = 1
    inputs["fused_qkv_weights"] = picking(config, np.arange(config.I))
    # sqrt(384 / 96) = 2.
    assert (assert_models_outputs(config, inputs)["out"] == 0.5).all()


def test_heads_go_to_rows_of_their_own() -> None:
    config = config_of(PLAIN, B=2, S=70, output_layout="NBSd", I=640, num_q_heads=3)
    inputs = build(config)
    flat = outputs(dataclasses.replace(config, output_layout="BSD"), inputs)["out"]
    heads = assert_models_outputs(config, inputs)["out"]
    assert same(heads, np.ascontiguousarray(flat.reshape(2, 70, 5, 128).transpose(2, 0, 1, 3)))


def test_float32_results_are_those_of_bfloat16() -> None:
    config = config_of(PLAIN, RMS, dtype="float32", weight_dtype="float32")
    got = assert_models_outputs(config, build(config))["out"]
    assert got.dtype == np.float32
    assert same(cast(got, "bfloat16").astype(np.float32), got)


def test_a_swizzled_input_is_not_normed() -> None:
    config = config_of(MX, is_input_swizzled=True)
    call = SUBJECT.call(config, build(config), SUBJECT.load())
    arguments = {**call.arguments, "fused_norm_type": NormType.RMS_NORM_SKIP_GAMMA}
    with pytest.raises(AssertionError, match="a swizzled input is projected as it is"):
        nki.jit(qkv.func)(**arguments)


# --- what must fit --------------------------------------------------------------------------------------------------

_MOST: dict[str, Any] = {"B": 1, "S": 128, "H": 24576, "I": 4096, "d_head": 128, "num_q_heads": 24, "num_kv_heads": 4}
_BETA: dict[str, Any] = {"norm": "LAYER_NORM", "gamma": "float32", "beta": "float32", "bias": "float32"}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        pytest.param(config_of(_MOST, _BETA, ROPE, dtype="float32", weight_dtype="float32"), 212984, id="float32"),
        pytest.param(
            config_of(_MOST, _BETA, ROPE, FLAT, quantization="STATIC", weight_dtype=FP8), 212984, id="static-cache"
        ),
    ],
)
def test_the_largest_sizes_fit_the_chip(config: Config, limit: int) -> None:
    result = launched(config, build(config))
    counters = result.trace.counters[0]
    assert counters.sbuf_high_water <= limit
    assert counters.psum_high_water == 16384
    assert np.isfinite(result.outputs["out"].astype(np.float32)).all()
