"""Claims about the truth of `qkv` and its model in token generation.

The model is held against (a) truth, within the bound of `reference.qkv_tkg_bound`, (b) the rounding-point table
evaluated element by element in rational arithmetic (`qkv_tkg_by_hand`), bit by bit, and (c) inputs that make
one defect of the contract's list gross. Every test is deterministic: run it again by its id.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.bounds import Bound, bound_faults
from conformance.tests.kernels.qkv_inputs import Inputs, random_inputs, stored
from conformance.tests.kernels.qkv_tkg_by_hand import Table
from reference.contracts.qkv import CONTRACT, Config
from reference.numerics import CHAIN
from reference.numerics.cast import to_float32
from reference.qkv import model, truth
from reference.qkv_tkg import Groups
from reference.qkv_tkg_bound import limits
from reference.recorder import ListRecorder

Array = NDArray[Any]

BF16 = "bfloat16"
HEADS: dict[str, Any] = {"d_head": 2, "num_q_heads": 2, "num_kv_heads": 1}
STATIC: dict[str, Any] = {"weight_dtype": "float8_e4m3", "quantization": "STATIC", **HEADS}
ROW: dict[str, Any] = {"weight_dtype": "float8_e4m3", "quantization": "ROW"}
RMS: dict[str, Any] = {"norm": "RMS_NORM", "gamma": BF16}
LAYER: dict[str, Any] = {"norm": "LAYER_NORM", "gamma": "float16", "beta": BF16}
FP32: dict[str, Any] = {"dtype": "float32", "weight_dtype": "float32"}


def small(**fields: Any) -> Config:
    return Config(**{"B": 1, "S": 2, "H": 256, "I": 8, **fields})


#: Configs whose every recorded value is recomputed by hand.
TABLE = {
    "plain": small(),
    "bias": small(bias=BF16, lnc=2),
    "four-groups": small(H=128 * 4, bias=BF16),
    "five-tiles-one-group": small(H=128 * 5, bias=BF16),
    "whole-blocks-and-a-rest": small(S=1, H=128 * 21, I=2, bias=BF16),
    "two-groups": small(B=33, S=1, H=256, I=1),
    "one-group": small(B=65, S=1, H=256, I=1, bias=BF16),
    "residual": small(fused_residual_add=True, lnc=2),
    "rms": small(**RMS, hidden_actual=200, norm_eps=1e-5),
    "rms-residual-lnc2": small(**RMS, fused_residual_add=True, bias=BF16, lnc=2),
    "rms-fp16": small(norm="RMS_NORM", gamma="float32", dtype="float16", weight_dtype=BF16),
    "rms-fp32": small(norm="RMS_NORM", gamma=BF16, **FP32, bias="float32", lnc=2),
    "layer": small(**LAYER, lnc=2),
    "layer-without-beta": small(norm="LAYER_NORM", gamma=BF16, bias=BF16),
    "layer-h384": small(**LAYER, H=384),
    "static": small(**STATIC, bias=BF16),
    "static-rms-lnc2": small(**STATIC, **RMS, bias=BF16, lnc=2),
    "static-fp32": small(**STATIC, dtype="float32", bias="float32", scale_rows=1),
    "row": small(**ROW, bias=BF16, lnc=2),
    "row-layer": small(**ROW, **LAYER, dtype="float16"),
}


def hexadecimal(values: Any) -> list[str]:
    return ["nan" if v != v else float(v).hex() for v in np.asarray(values, np.float32).reshape(-1).tolist()]


@pytest.mark.parametrize("name", TABLE)
def test_results_have_the_bits_of_the_rounding_point_table(name: str) -> None:
    config = TABLE[name]
    inputs = random_inputs(config, octaves=3)
    got = model(config, inputs)
    table = Table(config, inputs)
    tokens = range(config.tokens)
    expected = [table.out(t, i) for t in tokens for i in range(config.I)]
    assert hexadecimal(got["out"]) == hexadecimal(expected)
    if config.fused_residual_add:
        fused = [table.x(t, h) for t in tokens for h in range(config.H)]
        assert hexadecimal(got["fused_hidden"]) == hexadecimal(fused)


@pytest.mark.parametrize("name", ["rms", "rms-residual-lnc2", "layer", "layer-h384", "static-rms-lnc2"])
def test_steps_of_the_norm_have_the_bits_of_the_table(name: str) -> None:
    config = TABLE[name]
    inputs = random_inputs(config, seed=1, octaves=3)
    record = ListRecorder()
    model(config, inputs, record=record)
    table = Table(config, inputs)
    width = config.h_tiles // config.lnc
    for core in range(config.lnc):
        places = [(p, t, j, table.hidden_index(core, p, j)) for p in (0, 77, 127) for t in (0, 1) for j in range(width)]
        for point in ("norm_centred", "norm_gamma", "y", "scaled"):
            if point in record.points:
                tile = record.value(point, (0,), core)
                expected = [getattr(table, point)(t, h) for _, t, _, h in places]
                assert hexadecimal([tile[p, t, j] for p, t, j, _ in places]) == hexadecimal(expected), point
        for point in (row for row in record.points if row.startswith("norm_")):
            tile = record.value(point, (0,), core)
            if tile.ndim == 2 and point not in ("norm_part", "norm_sum"):
                expected = [table.statistic(point, t) for t in (0, 1)]
                assert hexadecimal(tile[5]) == hexadecimal(expected), point
        assert hexadecimal(record.value("norm_part", (0,), core)[9]) == hexadecimal([table.part(t, 9) for t in (0, 1)])


def test_the_table_test_has_teeth() -> None:
    # The same sums without the groups: one rounding less.
    config = TABLE["four-groups"]
    inputs = random_inputs(config, octaves=3)
    table = Table(config, inputs)
    table.group_of = lambda j: 0  # type: ignore[method-assign]
    wrong = [table.out(t, i) for t in range(config.tokens) for i in range(config.I)]
    assert hexadecimal(model(config, inputs)["out"]) != hexadecimal(wrong)


@pytest.mark.parametrize(
    ("tokens", "tiles", "groups"),
    [
        (32, 16, [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]),
        (33, 4, [[0, 2], [1, 3]]),
        (64, 3, [[0, 1, 2]]),
        (65, 5, [[0, 1, 2, 3, 4]]),
        (1, 1, [[0]]),
        (1, 4, [[0], [1], [2], [3]]),
        (1, 6, [[0, 1, 2, 3, 4, 5]]),
        (1, 18, [[0, 4, 8, 12, 16, 17], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]),
        (1, 20, [[0, 4, 8, 12, 16], [1, 5, 9, 13, 17], [2, 6, 10, 14, 18], [3, 7, 11, 15, 19]]),
        (40, 18, [[*range(0, 18, 2)], [*range(1, 18, 2)]]),
    ],
)
def test_pe_tiles_are_grouped_by_tokens_and_by_the_rest_of_a_block(
    tokens: int, tiles: int, groups: list[list[int]]
) -> None:
    found = Groups(tiles, tokens)
    members = [[j for part in found.members(g) for j in range(tiles)[part]] for g in range(found.count)]
    assert members == groups


# --- against truth ----------------------------------------------------------------------------------------

MEDIUM: dict[str, Any] = {"B": 2, "S": 3, "H": 3072, "I": 512, "d_head": 128, "num_q_heads": 2, "num_kv_heads": 1}
BOUNDED = {
    "plain": Config(**MEDIUM),
    "fp16": Config(**MEDIUM, dtype="float16", weight_dtype="float16", bias="float16", lnc=2),
    "fp32": Config(**MEDIUM, **FP32, bias="float32", lnc=2),
    "nbsd": Config(**MEDIUM, output_layout="NBSd", bias=BF16, lnc=2),
    "rms-residual": Config(**MEDIUM, **RMS, fused_residual_add=True, bias=BF16, lnc=2),
    "rms-fp32": Config(**MEDIUM, **FP32, norm="RMS_NORM", gamma="float32", hidden_actual=3000),
    "layer": Config(**MEDIUM, **LAYER, fused_residual_add=True, lnc=2),
    "layer-fp32": Config(**MEDIUM, **FP32, norm="LAYER_NORM", gamma="float32"),
    "static": Config(**{**MEDIUM, **STATIC, **{k: MEDIUM[k] for k in HEADS}}, bias=BF16, lnc=2),
    "static-rms-fp32": Config(
        **{**MEDIUM, **STATIC, **{k: MEDIUM[k] for k in HEADS}}, dtype="float32", bias="float32",
        norm="RMS_NORM", gamma="float32",
    ),
    "row": Config(**MEDIUM, **ROW, bias=BF16, lnc=2),
    "row-fp16": Config(**MEDIUM, **ROW, dtype="float16"),
    "tokens-40": Config(**{**MEDIUM, "B": 40, "S": 1}, bias=BF16),
    "tokens-128": Config(**{**MEDIUM, "B": 128, "S": 1, "H": 2304}, **RMS, lnc=2),
}  # fmt: skip


def faults(config: Config, inputs: Inputs, got: dict[str, Array]) -> list[str]:
    exact, allowed = truth(config, inputs), limits(config, inputs)
    assert set(got) == set(exact) == set(allowed)
    found: list[str] = []
    for name, value in got.items():
        assert value.shape == exact[name].shape
        found += bound_faults(to_float32(value), exact[name], Bound(allowed[name], 1))
    return found


@pytest.mark.parametrize("name", BOUNDED)
def test_model_stays_within_the_derived_bound_of_truth(name: str) -> None:
    config = BOUNDED[name]
    inputs = random_inputs(config)
    assert faults(config, inputs, model(config, inputs)) == []
    assert faults(config, inputs, model(config, inputs, CHAIN)) == []


@pytest.mark.parametrize("name", BOUNDED)
def test_the_bound_catches_swapped_tokens(name: str) -> None:
    config = BOUNDED[name]
    inputs = random_inputs(config)
    swapped = {**inputs, "input": np.roll(inputs["input"], 1, axis=0)}
    assert faults(config, inputs, model(config, swapped)) != []


@pytest.mark.parametrize("name", [name for name in BOUNDED if not name.startswith("static")])
def test_the_bound_catches_a_missing_pe_tile(name: str) -> None:
    # 128 of 3072 hidden columns. The worst case of fp8 tokens is too large for this: they are left out.
    config = BOUNDED[name]
    inputs = random_inputs(config)
    weight = inputs["fused_qkv_weights"].copy()
    weight[:: config.h_tiles] = 0
    assert faults(config, inputs, model(config, {**inputs, "fused_qkv_weights": weight})) != []


def test_truth_is_the_plain_formula_in_float64() -> None:
    config = Config(**MEDIUM, **LAYER, bias=BF16, fused_residual_add=True)
    inputs = random_inputs(config)
    wide = {name: to_float32(value).astype(np.float64) for name, value in inputs.items()}
    x = wide["input"] + wide["mlp_prev"] + wide["attention_prev"]
    unit = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    y = unit * wide["gamma_norm_weights"][0] + wide["layer_norm_bias"][0]
    expected = y @ wide["fused_qkv_weights"] + wide["bias"][0]
    np.testing.assert_allclose(truth(config, inputs)["out"], expected, rtol=1e-11, atol=1e-11)


def test_the_rms_sum_keeps_padded_columns_and_only_the_divisor_changes() -> None:
    config = small(norm="RMS_NORM", gamma="float32", hidden_actual=64, H=128, I=128, norm_eps=0.0, **FP32)
    inputs = random_inputs(config)
    inputs["input"][:] = 1.0
    inputs["gamma_norm_weights"][:] = 1.0
    inputs["fused_qkv_weights"] = np.eye(128, dtype=np.float32)
    # 128 ones over 64 are a mean of 2.
    root = np.float32(1 / np.sqrt(np.float64(2)))
    assert (model(config, inputs)["out"] == root).all()


# --- layout, sharing of work, order -----------------------------------------------------------------------


def test_every_hidden_column_meets_its_own_row_of_the_weight() -> None:
    config = Config(B=3, S=1, H=768, I=768, lnc=2)
    inputs = random_inputs(config)
    inputs["fused_qkv_weights"] = stored(np.eye(768), BF16)
    assert (model(config, inputs)["out"] == inputs["input"]).all()


def test_heads_of_nbsd_are_the_columns_of_bsd() -> None:
    config = Config(B=2, S=3, H=256, I=512, d_head=128)
    inputs = random_inputs(config)
    plain = model(config, inputs)["out"]
    heads = model(replace(config, output_layout="NBSd"), inputs)["out"]
    assert heads.shape == (4, 2, 3, 128)
    assert all((heads[n] == plain[:, :, 128 * n : 128 * n + 128]).all() for n in range(4))


def test_the_residual_is_summed_input_attention_mlp_in_float32() -> None:
    config = small(fused_residual_add=True, **FP32)
    inputs = random_inputs(config)
    values = {"input": 2.0**24, "attention_prev": 1.0, "mlp_prev": -(2.0**24)}
    for name, value in values.items():
        inputs[name] = np.full((1, 2, 256), value, np.float32)
    # 2^24 + 1 rounds to 2^24 before the third term takes it away; input, mlp, attention would leave 1.
    assert (model(config, inputs)["fused_hidden"] == 0).all()


def test_the_result_beside_the_residual_has_the_sum_before_the_norm() -> None:
    config = small(**RMS, fused_residual_add=True)
    inputs = random_inputs(config)
    got = model(config, inputs)
    exact = sum(to_float32(inputs[k]).astype(np.float64) for k in ("input", "mlp_prev", "attention_prev"))
    assert set(got) == {"out", "fused_hidden"}
    assert np.abs(to_float32(got["fused_hidden"]) - exact).max() <= 2.0**-8 * np.abs(exact).max()


@pytest.mark.parametrize("norm", [{}, RMS, LAYER])
def test_a_token_does_not_depend_on_its_neighbours(norm: dict[str, Any]) -> None:
    # 30 tokens and the first 3 of them: the same groups, another number of token tiles.
    many = Config(B=30, S=1, H=4096, I=64, **norm, lnc=2)
    inputs = random_inputs(many)
    few = {**inputs, "input": inputs["input"][:3]}
    assert (model(many, inputs)["out"][:3] == model(replace(many, B=3), few)["out"]).all()


def test_both_cores_end_with_the_same_bits() -> None:
    config = Config(B=2, S=2, H=1024, I=600, lnc=2, bias=BF16)
    record = ListRecorder()
    out = model(config, random_inputs(config), record=record)["out"].reshape(4, 600)
    for i, width in enumerate((512, 88)):
        first, second = (record.value("total", (i,), core) for core in (0, 1))
        assert first.shape == (4, width)
        assert (first == second).all()
        assert (first == out[:, 512 * i : 512 * i + width]).all()


# --- rounding ---------------------------------------------------------------------------------------------


def one_hot_groups(bias: float | None, first: float, second: float) -> tuple[Config, Inputs]:
    """One token, two groups of one product each: `first` in group 0, `second` in group 1."""
    config = Config(B=64, S=1, H=256, I=1, bias=None if bias is None else BF16)
    inputs = random_inputs(config)
    inputs["input"] = stored(np.zeros((64, 1, 256)), BF16)
    # Partition 0, columns 0 and 1.
    inputs["input"][:, :, 0], inputs["input"][:, :, 1] = first, second
    inputs["fused_qkv_weights"] = stored(np.ones((256, 1)), BF16)
    if bias is not None:
        inputs["bias"] = stored([[bias]], BF16)
    return config, inputs


def test_every_group_is_rounded_to_io_when_it_is_added() -> None:
    # 256 + 1 + 1: one rounding gives 258, two roundings to 8 bits give 256 (both ties go to even).
    config, inputs = one_hot_groups(256.0, 1.0, 1.0)
    assert (model(config, inputs)["out"] == 256).all()


def test_the_bias_enters_before_the_first_group() -> None:
    # (-256 + 256) + 1 keeps the 1 that 256 + 1 loses; (1 + 256) - 256 loses it.
    config, inputs = one_hot_groups(-256.0, 256.0, 1.0)
    assert (model(config, inputs)["out"] == 1).all()
    config, inputs = one_hot_groups(1.0, 256.0, -256.0)
    assert (model(config, inputs)["out"] == 0).all()


def test_the_first_group_is_added_to_a_positive_zero() -> None:
    # A product that underflows float32 leaves -0 in PSUM; 0 + -0 is +0.
    config, inputs = one_hot_groups(None, -(2.0**-120), -(2.0**-120))
    inputs["fused_qkv_weights"][:] = 2.0**-60
    out = to_float32(model(config, inputs)["out"])
    assert (out == 0).all()
    assert not np.signbit(out).any()


def test_rms_norm_rounds_to_io_once_with_gamma_first() -> None:
    config = small(norm="RMS_NORM", gamma=BF16, H=128, I=128, norm_eps=0.0)
    inputs = random_inputs(config)
    inputs["fused_qkv_weights"] = stored(np.eye(128), BF16)
    x, gamma = to_float32(inputs["input"])[0], to_float32(inputs["gamma_norm_weights"])[0]
    root = 1 / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True))
    once = stored(x * gamma * root, BF16)
    twice = stored(to_float32(stored(x * root, BF16)) * gamma, BF16)
    got = model(config, inputs)["out"][0]
    assert (got == once).mean() > 0.99
    assert (got == twice).mean() < 0.9


def test_layer_norm_takes_a_negative_variance_as_zero_qkv16() -> None:
    # E[x^2] - E[x]^2 of 384 equal numbers is negative here, since 1/384 is rounded.
    config = small(norm="LAYER_NORM", gamma="float32", H=384, norm_eps=1e-6, **FP32)
    inputs = random_inputs(config)
    inputs["input"][:] = 1000.3
    record = ListRecorder()
    out = model(config, inputs, record=record)["out"]
    spreads = record.value("norm_spread", (0,))
    assert (record.value("norm_variance", (0,)) == np.maximum(spreads, 0)).all()
    assert np.isfinite(out).all()


def test_some_constant_token_has_a_negative_spread() -> None:
    # Keeps the test above honest: among these tokens the public formula would take the root of a negative number.
    config = Config(B=32, S=1, H=384, I=1, norm="LAYER_NORM", gamma="float32", **FP32)
    inputs = random_inputs(config)
    inputs["input"][:] = np.linspace(900, 1100, 32, dtype=np.float32)[:, None, None]
    record = ListRecorder()
    out = model(config, inputs, record=record)["out"]
    assert (record.value("norm_spread", (0,)) < -1e-6).any()
    assert np.isfinite(out).all()


# --- quantization -----------------------------------------------------------------------------------------


def static_token(value: float, in_scale: float = 1.0, **fields: Any) -> float:
    config = small(**STATIC, H=128, S=1, **fields)
    inputs = random_inputs(config)
    inputs["input"] = stored(np.zeros((1, 1, 128)), config.dtype)
    inputs["input"][0, 0, 0] = value
    inputs["fused_qkv_weights"] = stored(np.ones((128, 8)), "float8_e4m3")
    inputs["qkv_in_scale"][:], inputs["qkv_w_scale"][:] = in_scale, 1.0
    return float(model(config, inputs)["out"][0, 0, 0])


@pytest.mark.parametrize("value", [240.0, 248.0, 300.0, 448.0, 1e4])
def test_static_input_beyond_240_is_clamped_and_never_infinite_qkv31(value: float) -> None:
    assert static_token(value) == 240
    assert static_token(-value) == -240


def test_static_input_is_rounded_to_io_before_fp8() -> None:
    # 17.00390625 / 1: bfloat16 first gives 17, a tie of fp8 that goes to 16; directly it would be 18.
    inverse = float(np.float32(1) / np.float32(0.99977))
    assert 17 < 17 * inverse < 17.0625
    assert static_token(17.0, in_scale=0.99977) == float(stored(16 * np.float32(0.99977), BF16))


def test_static_scales_q_k_and_v_by_their_own_segments_qkv29() -> None:
    # Fewer query than key heads, which one public golden gets wrong.
    heads: dict[str, Any] = {"d_head": 1, "num_q_heads": 2, "num_kv_heads": 3}
    config = small(**{**STATIC, **heads}, H=128, S=1)
    inputs = random_inputs(config)
    inputs["input"] = stored(np.eye(1, 128)[None], BF16)
    inputs["fused_qkv_weights"] = stored(np.ones((128, 8)), "float8_e4m3")
    inputs["qkv_in_scale"][:], inputs["qkv_w_scale"][:] = 1.0, [[2.0, 4.0, 8.0]]
    assert model(config, inputs)["out"].astype(float).reshape(-1).tolist() == [2, 2, 4, 4, 4, 8, 8, 8]


@pytest.mark.parametrize("kind", [STATIC, ROW])
def test_the_bias_is_added_once_and_unscaled_qkv30(kind: dict[str, Any]) -> None:
    config = small(**kind, bias=BF16, lnc=2)
    inputs = random_inputs(config)
    inputs["input"][:] = 0
    inputs["qkv_w_scale"][:] = 64.0
    assert (model(config, inputs)["out"] == inputs["bias"]).all()


def test_row_keeps_the_input_in_io_and_scales_every_column() -> None:
    config = small(**ROW, H=128, S=1)
    inputs = random_inputs(config)
    inputs["input"] = stored(1.0078125 * np.eye(1, 128)[None], BF16)
    inputs["fused_qkv_weights"] = stored(np.ones((128, 8)), "float8_e4m3")
    inputs["qkv_w_scale"][:] = np.exp2(np.arange(8, dtype=np.float32))
    # 1 + 2^-7 has more bits than fp8.
    assert model(config, inputs)["out"].astype(float).reshape(-1).tolist() == [1.0078125 * 2**i for i in range(8)]


def test_raw_sums_of_float16_overflow_before_they_are_scaled_qkv17() -> None:
    config = small(**ROW, dtype="float16", H=128, S=1)
    inputs = random_inputs(config)
    inputs["input"][:] = 8.0
    inputs["fused_qkv_weights"] = stored(np.full((128, 8), 240.0), "float8_e4m3")
    inputs["qkv_w_scale"][:] = 2.0**-10
    assert np.isinf(model(config, inputs)["out"]).all()
    inputs["input"][:] = 2.0
    assert (model(config, inputs)["out"] == 60).all()


@pytest.mark.parametrize("kind", [STATIC, ROW])
def test_one_row_of_scales_gives_the_bits_of_128(kind: dict[str, Any]) -> None:
    config = small(**kind, bias=BF16)
    inputs = random_inputs(config)
    one = {k: v[:1] if k.endswith("_scale") else v for k, v in inputs.items()}
    assert (model(config, inputs)["out"] == model(replace(config, scale_rows=1), one)["out"]).all()


# --- special values, records, refusals --------------------------------------------------------------------


@pytest.mark.parametrize("norm", [{}, RMS, LAYER])
def test_nan_stays_in_its_token(norm: dict[str, Any]) -> None:
    config = small(**norm, S=3, lnc=2)
    inputs = random_inputs(config)
    inputs["input"][0, 1, 17] = np.nan
    bad = np.isnan(to_float32(model(config, inputs)["out"]))
    assert bad[0, 1].all()
    assert not bad[0, [0, 2]].any()


def test_a_zero_token_gives_the_bias_under_a_norm() -> None:
    config = small(**RMS, bias=BF16)
    inputs = random_inputs(config)
    inputs["input"][:] = 0
    assert (model(config, inputs)["out"] == inputs["bias"]).all()


@pytest.mark.parametrize("name", TABLE)
def test_inputs_keep_their_bytes(name: str) -> None:
    inputs = random_inputs(TABLE[name])
    before = {key: value.tobytes() for key, value in inputs.items()}
    model(TABLE[name], inputs)
    assert {key: value.tobytes() for key, value in inputs.items()} == before


@pytest.mark.parametrize("name", TABLE)
def test_every_core_records_points_of_the_contract_and_ends_in_the_result(name: str) -> None:
    config = TABLE[name]
    record = ListRecorder()
    model(config, random_inputs(config), record=record)
    known = {point.name for point in CONTRACT.points}
    assert set(record.points) <= known
    assert {"x", "psum", "partial"} <= set(record.points)
    assert ("y" in record.points) == (config.norm != "NO_NORM")
    assert ("dequant" in record.points) == (config.quantization != "NONE")
    assert ("total" in record.points) == (config.lnc == 2)
    cores = {entry.core for entry in record}
    assert cores == set(range(config.lnc))
    assert {entry.core for entry in record if entry.point in ("bias_tile", "biased")} <= {0}
    assert all(entry.occurrence == 0 for entry in record)


def test_tiles_have_the_shapes_of_the_contract() -> None:
    config = Config(B=60, S=1, H=16384, I=600, **RMS, bias=BF16, lnc=2)
    record = ListRecorder()
    model(config, random_inputs(config), record=record)
    # 4096 // 128 = 32 tokens per tile, 28 in the second.
    assert record.value("norm_square", (1,), 1).shape == (128, 28, 128)
    assert record.value("norm_part", (0,), 1).shape == (128, 32)
    assert record.value("y", (0,), 0).shape == (128, 32, 64)
    assert record.value("psum", (1, 1), 0).shape == (60, 88)
    assert record.value("bias_tile", (), 0).shape == (60, 600)
    assert record.value("x", (1,), 0)[3, 5, 64 + 7] == record.value("x", (1,), 1)[3, 5, 71]


def test_x_and_y_hold_consecutive_hidden_columns_per_partition() -> None:
    config = Config(B=2, S=1, H=1024, I=8, lnc=2)
    inputs = random_inputs(config)
    record = ListRecorder()
    model(config, inputs, record=record)
    for core in (0, 1):
        tile = record.value("x", (0,), core)
        assert tile.shape == (128, 2, 4)
        assert (tile[5, 1] == inputs["input"][1, 0, core * 512 + 20 : core * 512 + 24]).all()


def test_inputs_of_another_config_are_refused() -> None:
    config = small(bias=BF16)
    with pytest.raises(ValueError, match="inputs are those of"):
        model(replace(config, bias=None), random_inputs(config))
