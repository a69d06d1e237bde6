"""Claims about the truth of `qkv`: each option against its published formula, element by element in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.tests.kernels.qkv_inputs import Inputs, random_inputs, stored
from reference.contracts.qkv import Config
from reference.numerics.cast import to_float32
from reference.qkv import truth

Array = NDArray[Any]

PLAIN = Config(B=2, S=3, H=512, I=24, d_head=6, num_q_heads=2, num_kv_heads=1)
FP8 = "float8_e4m3"


def wide(inputs: Inputs, name: str) -> Array:
    return to_float32(inputs[name]).astype(np.float64)


def product(inputs: Inputs) -> Array:
    return np.asarray(wide(inputs, "input") @ wide(inputs, "fused_qkv_weights"))


def close(got: Array, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


def test_rope_turns_each_query_and_key_head_with_the_first_half_of_sin_qkv9() -> None:
    config = replace(PLAIN, I=24, fused_rope=True, rope_dtype="float32")
    inputs = random_inputs(config)
    draw = np.random.default_rng(5)
    for name in ("cos_cache", "sin_cache"):
        inputs[name] = stored(draw.normal(size=(2, 3, 6)), "float32")
    got, plain = truth(config, inputs)["out"], product(inputs)
    cos, sin = wide(inputs, "cos_cache"), wide(inputs, "sin_cache")
    for b, s, head, i in np.ndindex(2, 3, 4, 6):
        x = plain[b, s, 6 * head : 6 * head + 6]
        other = -x[i + 3] if i < 3 else x[i - 3]
        expected = x[i] * cos[b, s, i] + other * sin[b, s, i % 3] if head < 3 else x[i]
        assert math.isclose(got[b, s, 6 * head + i], expected, rel_tol=1e-9, abs_tol=1e-9)


def with_cache(config: Config, cache_shape: tuple[int, ...]) -> Inputs:
    inputs = random_inputs(config)
    for name, scale in (("k", 0.25), ("v", 2.0)):
        inputs[f"{name}_cache"] = stored(np.arange(math.prod(cache_shape)).reshape(cache_shape) % 8, FP8)
        inputs[f"{name}_scale"] = np.full((128, 1), scale, np.float32)
    return inputs


def test_a_flat_cache_gets_the_rows_of_its_own_batch_divided_by_the_scale_qkv20() -> None:
    config = replace(PLAIN, kv_cache="FLAT", kv_dtype=FP8, max_seq_len=5, fp8_max=30.0)
    inputs = with_cache(config, (2, 5, 6))
    got, plain = truth(config, inputs), product(inputs)
    close(got["out"], plain[:, :, :12])
    for name, first, scale in (("k", 12, 0.25), ("v", 18, 2.0)):
        cache = got[f"{name}_cache"]
        close(cache[:, :3], np.clip(plain[:, :, first : first + 6] / scale, -30, 30))
        assert (cache[:, 3:] == wide(inputs, f"{name}_cache")[:, 3:]).all()
    assert (np.abs(got["k_cache"][:, :3]) == 30).any()


def test_a_cache_in_blocks_gets_rows_by_slot_and_none_for_minus_one_qkv23() -> None:
    config = replace(PLAIN, kv_cache="BLOCK", kv_dtype=FP8, num_blocks=4, block_size=2)
    inputs = with_cache(config, (4, 2, 6))
    inputs["slot_mapping"] = np.array([[7, 0, -1], [3, 2, 6]], np.int32)
    got, plain = truth(config, inputs), product(inputs)
    cache = got["v_cache"].reshape(8, 6)
    for (b, s), slot in np.ndenumerate(inputs["slot_mapping"]):
        if slot >= 0:
            close(cache[slot], np.clip(plain[b, s, 18:] / 2, -240, 240))
    untouched = [1, 4, 5]
    assert (cache[untouched] == wide(inputs, "v_cache").reshape(8, 6)[untouched]).all()


def mx_inputs(config: Config) -> tuple[Inputs, Array]:
    """Inputs, and the weight [H, I] that codes and scales stand for."""
    draw = np.random.default_rng(6)
    codes = draw.integers(0, 0x77, (config.H, config.I)).astype(np.uint8)
    exponents = draw.integers(120, 134, (config.H // 32, config.I)).astype(np.uint8)
    lanes = codes.reshape(-1, 4, config.I).astype(np.uint32)
    weight = sum(lanes[:, k] << np.uint32(8 * k) for k in range(4))

    def value(code: Any) -> float:
        # Float8 e4m3fn by definition, positive codes.
        exponent, fraction = int(code) >> 3, int(code) & 7
        return (8 + fraction) * 2.0 ** (exponent - 10) if exponent else fraction * 2.0**-9

    values = np.vectorize(value)(codes) * np.exp2(np.repeat(exponents.astype(np.float64), 32, axis=0) - 127)
    inputs = {"input": stored(draw.normal(size=(config.B, config.S, config.H)), "bfloat16")}
    return {**inputs, "fused_qkv_weights": np.asarray(weight), "qkv_w_scale": exponents}, values


MX = replace(PLAIN, quantization="MX", weight_dtype="float8_e4m3fn_x4", generation="gen4", H=1024)


def test_mx_weights_are_their_codes_times_the_scale_of_32_rows() -> None:
    inputs, values = mx_inputs(MX)
    close(truth(MX, inputs)["out"], wide(inputs, "input") @ values)


def test_a_swizzled_input_gives_the_result_of_the_same_input_in_order() -> None:
    inputs, _ = mx_inputs(MX)
    plain = inputs["input"]
    swizzled = np.empty_like(plain)
    for k, t, p in np.ndindex(4, 2, 128):
        swizzled[:, :, k * 256 + t * 128 + p] = plain[:, :, 512 * t + 4 * p + k]
    got = truth(replace(MX, is_input_swizzled=True), {**inputs, "input": swizzled})["out"]
    close(got, truth(MX, inputs)["out"])


@pytest.mark.parametrize("norm", ["RMS_NORM_SKIP_GAMMA", "RMS_NORM"])
def test_the_root_mean_square_counts_hidden_actual_columns(norm: str) -> None:
    gamma = "float32" if norm == "RMS_NORM" else None
    config = replace(PLAIN, norm=norm, gamma=gamma, hidden_actual=400, norm_eps=0.5)
    inputs = random_inputs(config)
    x = wide(inputs, "input")
    unit = x / np.sqrt((x * x).sum(-1, keepdims=True) / 400 + 0.5)
    if gamma:
        unit = unit * wide(inputs, "gamma_norm_weights")[0]
    close(truth(config, inputs)["out"], unit @ wide(inputs, "fused_qkv_weights"))


def test_static_clamps_the_scaled_input_and_scales_q_k_v_apart() -> None:
    config = replace(PLAIN, quantization="STATIC", weight_dtype=FP8, bias="bfloat16")
    inputs = random_inputs(config)
    scale = np.float64(inputs["qkv_in_scale"][0, 0])
    tokens = np.clip(wide(inputs, "input") / scale, -240, 240)
    assert (np.abs(tokens) == 240).any()
    q, k, v = wide(inputs, "qkv_w_scale")[0]
    factors = np.array([q] * 12 + [k] * 6 + [v] * 6) * scale
    expected = (tokens @ wide(inputs, "fused_qkv_weights")) * factors + wide(inputs, "bias")[0]
    close(truth(config, inputs)["out"], expected)


def test_the_residual_sum_is_a_result_of_token_generation_only() -> None:
    short = replace(PLAIN, fused_residual_add=True)
    assert set(truth(short, random_inputs(short))) == {"out", "fused_hidden"}
    long = replace(short, B=1, S=97)
    assert set(truth(long, random_inputs(long))) == {"out"}
