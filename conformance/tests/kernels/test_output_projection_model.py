"""Claims about the truth and the model of `output_projection_tkg`.

The model is held against (a) truth, within a bound derived from the roundings on an element's path, (b) the
rounding-point table evaluated element by element in rational arithmetic (`by_hand`), bit by bit, and (c)
inputs that make one defect of the contract's list gross. Every test is deterministic: run it again by its id.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.tests.kernels import by_hand
from reference.contracts.output_projection_tkg import CONTRACT, Config
from reference.numerics import DEFAULT
from reference.output_projection_tkg import model, truth
from reference.recorder import ListRecorder

Array = NDArray[Any]
Inputs = dict[str, Any]

STORAGE = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3": ml_dtypes.float8_e4m3,
}


def stored(values: Any, dtype: str) -> Array:
    return np.asarray(values, np.float32).astype(STORAGE[dtype])


def random_inputs(config: Config, seed: int = 0, octaves: float = 9.0) -> Inputs:
    """Magnitudes over +-`octaves` powers of two, evenly: float32 sums round, fp8 clamps and underflows."""
    draw = np.random.default_rng(seed)

    def numbers(*shape: int) -> Array:
        return np.asarray(
            np.copysign(np.exp2(draw.uniform(-octaves, octaves, shape)), draw.normal(size=shape))
        )

    attention, weight = (
        numbers(config.D, config.B, config.N, config.S),
        numbers(config.N * config.D, config.H),
    )
    inputs: Inputs = {}
    if config.quantization == "STATIC":
        inputs["input_scale"] = np.full((128, 1), 0.0137, np.float32)
        inputs["weight_scale"] = np.full((128, 1), 0.0371, np.float32)
        attention = attention * 0.0137
    if config.quantization == "ROW":
        inputs["weight_scale"] = np.tile(np.exp2(draw.uniform(-5, 3, config.H)).astype(np.float32), (128, 1))
    inputs["attention"] = stored(attention, config.dtype)
    inputs["weight"] = stored(np.clip(weight, -240, 240), config.weight_dtype)
    if config.bias is not None:
        inputs["bias"] = stored(numbers(1, config.H), config.bias)
    return inputs


def token(config: Config, b: int, s: int) -> int:
    return b * config.S + s


def element(config: Config, out: Array, t: int, h: int) -> Any:
    """Result of token t, hidden index h, by the documented index rule."""
    if not config.transpose_out:
        core, column = divmod(h, config.H // config.lnc)
        return out[core, t, column] if config.out_in_sb else out[t, h]
    size = config.H // (config.lnc * 128)
    h_0, rest = divmod(h, 128 * size)
    h_1, h_2 = divmod(rest, size)
    return out[h_0, h_1, h_2, t] if config.out_in_sb else out[h_1, h_0, h_2, t]


def bits_of(value: float) -> str:
    return "nan" if value != value else float(value).hex()


# --- the rounding-point table, element by element ---------------------------------------------------------


def head_packing(N: int, D: int) -> tuple[int, int, int]:
    if D % 32 != 0:
        return N, D, 1
    g = N
    while N % g != 0 or g * D > 128:
        g -= 1
    return N // g, D * g, g


def passes(config: Config) -> list[list[tuple[int, int]]]:
    """(n, d) summed by each matmul pass, in the order of accumulation."""
    n, _, g = head_packing(config.N, config.D)
    groups = [[(G * g + off, d) for off in range(g) for d in range(config.D)] for G in range(n)]
    tokens = config.B * config.S
    if config.quantization == "STATIC" and n % 2 == 0 and (n * config.B) % 32 == 0 and tokens >= 64:
        return [groups[2 * k] + groups[2 * k + 1] for k in range(n // 2)]
    return groups


def fp8_by_hand(x: float, inverse: float, io: str) -> float:
    scaled = by_hand.to(by_hand.multiply(x, inverse), io)
    return by_hand.to(max(min(scaled, 240.0), -240.0), "float8_e4m3")


class Table:
    """Rows of the table for single elements: psum, dequant (None where absent), out."""

    def __init__(self, config: Config, inputs: Inputs) -> None:
        self.config = config
        self.attention = by_hand.values(inputs["attention"])
        self.weight = by_hand.values(inputs["weight"])
        self.bias = by_hand.values(inputs["bias"])[0] if config.bias else None
        self.passes = passes(config)
        self.scale = None
        if config.quantization == "STATIC":
            self.scale = by_hand.multiply(
                float(inputs["weight_scale"][5, 0]), float(inputs["input_scale"][5, 0])
            )
            self.inverse = by_hand.reciprocal(float(inputs["input_scale"][5, 0]))
        if config.quantization == "ROW":
            self.row_scale = by_hand.values(inputs["weight_scale"])[7]

    def operand(self, d: int, b: int, n: int, s: int) -> float:
        x: float = self.attention[d][b][n][s]
        return x if self.scale is None else fp8_by_hand(x, self.inverse, self.config.dtype)

    def psum(self, b: int, s: int, h: int) -> float:
        total = None
        for members in self.passes:
            part = by_hand.dot(
                (self.operand(d, b, n, s), self.weight[n * self.config.D + d][h]) for n, d in members
            )
            total = part if total is None else by_hand.add(total, part)
        assert total is not None
        return total

    def element(self, b: int, s: int, h: int) -> tuple[float, float | None, float]:
        io, psum, dequant = self.config.dtype, self.psum(b, s, h), None
        value = psum
        if self.config.quantization != "NONE":
            scale = self.row_scale[h] if self.scale is None else self.scale
            value = by_hand.to(by_hand.multiply(psum, scale), io)
            dequant = None if self.bias is None else value
        if self.bias is not None:
            value = by_hand.add(value, self.bias[h])
        return psum, dequant, by_hand.to(value, io)


#: One row per way through the table; sizes small enough for rational arithmetic.
TABLE_CONFIGS = {
    "plain": Config(2, 3, 2, 8, 512),
    "plain-bias": Config(3, 2, 2, 5, 1024, bias="float32", lnc=2),
    "mixed16": Config(2, 3, 1, 7, 512, "float16", "bfloat16", "bfloat16", out_in_sb=True),
    "mixed16-transposed": Config(1, 2, 3, 7, 768, "bfloat16", "float16", "float16", True, lnc=2),
    "fp32": Config(2, 3, 2, 9, 512, "float32", "float32", "bfloat16"),
    "fp32-packed": Config(2, 6, 1, 32, 512, "float32", "float32"),
    "fp32-transposed": Config(2, 3, 2, 9, 768, "float32", "float32", "float32", True, True, lnc=2),
    "packed": Config(1, 8, 2, 32, 512, bias="bfloat16", attention_in_sb=True),
    "static": Config(2, 3, 2, 8, 512, "bfloat16", "float8_e4m3", "bfloat16", quantization="STATIC"),
    "static-no-bias": Config(2, 3, 2, 8, 512, "float16", "float8_e4m3", quantization="STATIC"),
    "static-fp32": Config(2, 3, 2, 8, 512, "float32", "float8_e4m3", "float32", quantization="STATIC"),
    "static-transposed": Config(
        2, 6, 2, 32, 512, "bfloat16", "float8_e4m3", "float16", True, lnc=2, quantization="STATIC"
    ),
    "double-row": Config(32, 4, 2, 3, 512, "float32", "float8_e4m3", quantization="STATIC"),
    "double-row-transposed": Config(
        32, 4, 2, 3, 256, "bfloat16", "float8_e4m3", "bfloat16", True, True, quantization="STATIC"
    ),
    "row": Config(2, 3, 2, 8, 512, "bfloat16", "float8_e4m3", "float16", quantization="ROW"),
    "row-no-bias": Config(2, 3, 2, 8, 1024, "float16", "float8_e4m3", lnc=2, quantization="ROW"),
    "row-transposed": Config(
        2, 3, 2, 8, 768, "bfloat16", "float8_e4m3", "float32", True, lnc=2, quantization="ROW"
    ),
}  # fmt: skip


def sample(config: Config) -> list[tuple[int, int, int]]:
    """(b, s, h) to look at: both ends of every shard, tile borders, and some between; few tokens."""
    borders = {0, 1, 127, 128, 255, 256, 511, config.H // 2 - 1, config.H // 2, config.H - 1}
    columns = sorted(h for h in borders | set(range(5, config.H, 53)) if h < config.H)
    tokens = list(itertools.product(range(config.B), range(config.S)))
    return [(b, s, h) for b, s in tokens[:3] + tokens[-1:] for h in columns]


@pytest.mark.parametrize("name", TABLE_CONFIGS)
def test_every_recorded_value_has_the_bits_of_the_rounding_point_table(name: str) -> None:
    config = TABLE_CONFIGS[name]
    inputs, record = random_inputs(config, seed=3), ListRecorder()
    out, table = model(config, inputs, record=record)["out"], Table(config, inputs)
    for b, s, h in sample(config):
        t = token(config, b, s)
        psum, dequant, expected = table.element(b, s, h)
        got = {"out": element(config, out, t, h), "out_psum": tile_element(config, record, "out_psum", t, h)}
        want = {"out": expected, "out_psum": psum}
        if dequant is not None:
            got["out_dequant"], want["out_dequant"] = tile_element(config, record, "out_dequant", t, h), dequant
        assert {k: bits_of(v) for k, v in got.items()} == {k: bits_of(v) for k, v in want.items()}, (b, s, h)


def tile_element(config: Config, record: ListRecorder, point: str, t: int, h: int) -> Any:
    """The element of token t, hidden index h in the PSUM tiling of the contract."""
    core, column = divmod(h, config.H // config.lnc)
    if not config.transpose_out:
        return record.value(point, (0, column // 512), core)[t, column % 512]
    h_1, h_2 = divmod(column, config.H // (128 * config.lnc))
    per_tile = 512 // (config.B * config.S)
    return record.value(point, (h_2 // per_tile,), core)[h_1, h_2 % per_tile, t]


def test_the_table_test_has_teeth() -> None:
    # Its data must tell one rounding more or less: the double-row and the single-row passes differ somewhere.
    config = TABLE_CONFIGS["double-row"]
    inputs = random_inputs(config, seed=3)
    double, single = Table(config, inputs), Table(config, inputs)
    single.passes = [[(n, d) for d in range(config.D)] for n in range(config.N)]
    assert any(double.psum(*at) != single.psum(*at) for at in sample(config))


@pytest.mark.parametrize("io", ["bfloat16", "float16", "float32"])
def test_quantised_attention_is_rounded_to_io_then_clamped_then_to_fp8(io: str) -> None:
    config = Config(4, 2, 2, 16, 512, io, "float8_e4m3", quantization="STATIC")
    inputs, record = random_inputs(config, seed=8), ListRecorder()
    model(config, inputs, record=record)
    inverse = by_hand.reciprocal(float(inputs["input_scale"][0, 0]))
    scale = by_hand.multiply(float(inputs["weight_scale"][0, 0]), float(inputs["input_scale"][0, 0]))
    assert record.value("inv_scale").shape == record.value("scale").shape == (128, 1)
    assert {float(x) for x in record.value("inv_scale").flat} == {inverse}
    assert {float(x) for x in record.value("scale").flat} == {scale}
    scaled = [by_hand.to(by_hand.multiply(x, inverse), io) for x in flat(inputs["attention"])]
    assert flat(record.value("attention_scaled")) == scaled
    assert flat(record.value("attention_fp8")) == [
        fp8_by_hand(x, inverse, io) for x in flat(inputs["attention"])
    ]
    assert max(map(abs, scaled)) > 240 >= max(map(abs, flat(record.value("attention_fp8"))))


def flat(array: Array) -> list[float]:
    values: list[float] = array.astype(np.float32).ravel().tolist()
    return values


# --- truth ------------------------------------------------------------------------------------------------

UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
#: Half the smallest subnormal: the largest error of a rounding that underflows.
TINY = {"float32": 2.0**-150, "float16": 2.0**-25, "bfloat16": 2.0**-134}


def plain_operands(config: Config, inputs: Inputs) -> tuple[Array, Array]:
    """|attention| as [BS, N*D] and |weight|, float64, for the companion run on absolute values."""
    attention = inputs["attention"].astype(np.float64).transpose(1, 3, 2, 0)
    return np.abs(attention.reshape(config.tokens, -1)), np.abs(inputs["weight"].astype(np.float64))


def error_bound(config: Config, inputs: Inputs) -> Array:
    """|model - truth| at most, [BS, H]: every rounding on the path once, its operands in absolute value."""
    io, f32 = UNIT[config.dtype], UNIT["float32"]
    a, w = plain_operands(config, inputs)
    scale = np.ones(1)
    operand_error = np.zeros_like(a)
    if config.quantization == "STATIC":
        s = float(inputs["input_scale"][0, 0])
        scale = np.array([float(inputs["weight_scale"][0, 0]) * s])
        a = np.minimum(a / s, 240)
        # reciprocal and multiply, io; fp8 in steps of a sixteenth, subnormals in halves of 2^-9.
        first = (2.01 * f32 + 1.01 * io) * a + TINY[config.dtype]
        operand_error = first + (a + first) / 16 + 2.0**-10
    if config.quantization == "ROW":
        scale = inputs["weight_scale"][0].astype(np.float64)
    size = a @ w
    # One rounding per pass and one per addition of passes; a pass is at most the sum of magnitudes.
    psum_error = operand_error @ w + 1.01 * config.N * f32 * (size + operand_error @ w)
    error, size = psum_error * scale, size * scale
    if config.quantization != "NONE":
        error = error + (2.01 * f32 + 1.01 * io) * (size + error) + TINY[config.dtype]
    if config.bias is not None:
        size = size + np.abs(inputs["bias"].astype(np.float64))
    return error + (1.01 * io + 1.01 * f32) * (size + error) + TINY[config.dtype]


BOUND_CONFIGS = [
    Config(2, 6, 3, 32, 1024, dtype, dtype if kind == "NONE" else "float8_e4m3", bias, transposed,
           in_sb, in_sb, kind, lnc)
    for dtype, kind, (bias, in_sb, lnc) in itertools.product(
        ("float32", "float16", "bfloat16"), ("NONE", "STATIC", "ROW"),
        ((None, False, 1), ("float32", True, 2), ("bfloat16", False, 2), ("float16", True, 1)),
    )
    for transposed in (False, True)
    if not (kind == "ROW" and dtype == "float32")
]  # fmt: skip


def in_plain_order(config: Config, out: Array) -> Array:
    """Any result as float64 [BS, H], element by element of the index rule."""
    plain = np.empty((config.tokens, config.H))
    for h in range(config.H):
        plain[:, h] = element(config, out, slice(None), h)  # type: ignore[arg-type]
    return plain


@pytest.mark.parametrize(
    "config", BOUND_CONFIGS, ids=lambda c: "-".join(map(str, dataclasses.astuple(c)[5:]))
)
def test_model_stays_within_the_derived_bound_of_truth(config: Config) -> None:
    inputs = random_inputs(config, seed=11, octaves=4)
    if config.quantization == "STATIC":
        inputs["attention"][:, 0] *= inputs["attention"].dtype.type(64)  # sequence 0 meets the clamp
    exact, got = (in_plain_order(config, f(config, inputs)["out"]) for f in (truth, model))
    bound = error_bound(config, inputs)
    assert np.all(np.abs(got - exact) <= bound), float(np.max(np.abs(got - exact) / bound))
    # The bound is no blanket: two hidden indices swapped, or one token for another, break it.
    assert not np.all(np.abs(np.roll(got, 1, axis=1) - exact) <= bound)
    assert not np.all(np.abs(np.roll(got, 1, axis=0) - exact) <= bound)


def test_truth_is_the_plain_formula_in_float64() -> None:
    config = Config(2, 3, 2, 5, 512, "float32", "float32", "float32")
    inputs = random_inputs(config, seed=1)
    formula = np.einsum(
        "dbns,ndh->bsh",
        inputs["attention"].astype(np.float64),
        inputs["weight"].astype(np.float64).reshape(3, 5, 512),
    )
    expected = formula.reshape(4, 512) + inputs["bias"].astype(np.float64)
    assert np.allclose(truth(config, inputs)["out"], expected, rtol=1e-13, atol=1e-13)


def test_truth_clamps_but_does_not_round_static_attention() -> None:
    config = Config(1, 1, 1, 3, 512, "float32", "float8_e4m3", quantization="STATIC")
    inputs: Inputs = {
        "attention": stored([1.0003, 1000.0, -1000.0], "float32").reshape(3, 1, 1, 1),
        "weight": stored(np.tile([[1.0], [2.0], [0.5]], (1, 512)), "float8_e4m3"),
        "weight_scale": np.full((128, 1), 2.0, np.float32),
        "input_scale": np.full((128, 1), 0.5, np.float32),
    }
    expected = (float(np.float32(1.0003)) / 0.5 + 240 * 2 - 240 * 0.5) * 1.0
    assert np.all(truth(config, inputs)["out"] == expected)


# --- layouts: defects OP1 to OP9 --------------------------------------------------------------------------


@pytest.mark.parametrize("function", [truth, model])
@pytest.mark.parametrize(("H", "lnc"), [(256, 2), (768, 2), (384, 1)])
@pytest.mark.parametrize("out_in_sb", [False, True])
def test_transposed_result_holds_consecutive_hidden_indices_per_partition_op1_op2(
    function: Any, H: int, lnc: int, out_in_sb: bool
) -> None:
    config = Config(1, 1, 1, 1, H, "float32", "float32", None, True, out_in_sb, lnc=lnc)
    inputs: Inputs = {"attention": stored([[[[1]]]], "float32"), "weight": stored([range(H)], "float32")}
    out = function(config, inputs)["out"]
    h = np.arange(H).reshape(lnc, 128, H // (128 * lnc))
    expected = h if out_in_sb else h.swapaxes(0, 1)
    assert np.array_equal(out, expected[..., None])


@pytest.mark.parametrize("transposed", [False, True])
def test_each_core_adds_its_own_part_of_the_bias_op3(transposed: bool) -> None:
    config = Config(2, 1, 1, 4, 1024, "float32", "float32", "float32", transposed, lnc=2)
    inputs: Inputs = {
        "attention": stored(np.zeros((4, 2, 1, 1)), "float32"),
        "weight": stored(np.ones((4, 1024)), "float32"),
        "bias": stored([range(1024)], "float32"),
    }
    out = model(config, inputs)["out"]
    assert all(element(config, out, t, h) == h for t in range(2) for h in range(1024))


@pytest.mark.parametrize("tokens", [1, 31, 32, 33, 63, 64, 96, 97, 127, 128])
def test_every_token_row_gets_the_bias_op4(tokens: int) -> None:
    config = Config(tokens, 1, 1, 2, 512, bias="bfloat16")
    inputs: Inputs = {
        "attention": stored(np.zeros((2, tokens, 1, 1)), "bfloat16"),
        "weight": stored(np.ones((2, 512)), "bfloat16"),
        "bias": stored(np.full((1, 512), 3), "bfloat16"),
    }
    record = ListRecorder()
    assert np.all(model(config, inputs, record=record)["out"].astype(np.float32) == 3)
    assert record.value("out_bias").shape == (tokens, 512)


@pytest.mark.parametrize(("N", "D"), [(6, 32), (8, 32), (4, 64), (3, 64), (2, 48), (3, 13)])
@pytest.mark.parametrize("transposed", [False, True])
def test_every_head_meets_its_own_weights_op5_op6_op7(N: int, D: int, transposed: bool) -> None:
    # One-hot attention at (d, n) of token (b, s): the result is that single weight. B, N, S differ.
    config = Config(4, N, 5, D, 512, "float32", "float32", None, transposed)
    weight = np.arange(N * D * 512).reshape(N * D, 512)
    attention = np.zeros((D, 4, N, 5))
    hot = {(b, s): ((7 * b + 3 * s + 1) % N, (5 * b + 11 * s) % D) for b in range(4) for s in range(5)}
    for (b, s), (n, d) in hot.items():
        attention[d, b, n, s] = 1
    out = model(config, {"attention": stored(attention, "float32"), "weight": stored(weight, "float32")})[
        "out"
    ]
    for (b, s), (n, d) in hot.items():
        row = [float(element(config, out, token(config, b, s), h)) for h in range(0, 512, 73)]
        assert row == [float(weight[n * D + d, h]) for h in range(0, 512, 73)]


#: (N, D): (groups, rows, heads per group), and (N, B, S): double row; from the fact sheet's examples.
PACKING = {
    (8, 32): (2, 128, 4), (6, 32): (2, 96, 3), (5, 32): (5, 32, 1), (8, 64): (4, 128, 2), (3, 64): (3, 64, 1),
    (8, 96): (8, 96, 1), (7, 128): (7, 128, 1), (10, 52): (10, 52, 1), (2, 48): (2, 48, 1), (1, 1): (1, 1, 1),
}  # fmt: skip


@pytest.mark.parametrize(("N", "D"), PACKING)
def test_heads_are_packed_as_the_contract_says_op6(N: int, D: int) -> None:
    config = Config(1, N, 1, D, 512)
    assert (config.groups, config.rows, config.heads_per_group) == PACKING[N, D]


def test_packing_follows_the_published_search_for_every_legal_head_size() -> None:
    for N, D in itertools.product(range(1, 65), range(1, 129)):
        config = Config(1, N, 1, D, 512)
        assert (config.groups, config.rows, config.heads_per_group) == head_packing(N, D)


@pytest.mark.parametrize(
    ("N", "B", "S", "expected"),
    [
        (8, 32, 2, True), (7, 32, 2, False), (8, 64, 1, True), (8, 60, 2, True), (8, 62, 2, False),
        (8, 4, 15, False), (8, 4, 16, True), (2, 16, 4, True), (2, 15, 5, False), (2, 8, 8, False),
    ],
)  # fmt: skip
def test_double_row_is_used_exactly_when_its_three_conditions_hold_op15(
    N: int, B: int, S: int, expected: bool
) -> None:
    static = Config(B, N, S, 128, 512, weight_dtype="float8_e4m3", quantization="STATIC")
    assert static.double_row is expected
    assert not dataclasses.replace(static, quantization="ROW").double_row


def test_packed_heads_share_one_pass() -> None:
    # 2^30 + 1 - 2^30 is 1 in one pass; accumulated over passes the 1 is lost.
    def psum_of(D: int) -> float:
        config = Config(1, 4, 1, D, 512, "float32", "float32")
        attention = np.zeros((D, 1, 4, 1))
        attention[0, 0, :, 0] = [2.0**30, 1, -(2.0**30), 0]
        weight = np.ones((4 * D, 512))
        out = model(config, {"attention": stored(attention, "float32"), "weight": stored(weight, "float32")})
        return float(out["out"][0, 0])

    assert psum_of(32) == 1
    assert psum_of(48) == 0


def one_hot_heads(N: int, first: list[float], B: int = 32, S: int = 2) -> tuple[Config, Inputs]:
    """STATIC, unit scales, head n contributing first[n] (a product of two fp8 numbers) through d = 0."""
    config = Config(B, N, S, 5, 512, "float32", "float8_e4m3", quantization="STATIC")
    attention, weight = np.zeros((5, B, N, S)), np.zeros((N, 5, 512))
    for n, value in enumerate(first):
        small = abs(value) < 1
        attention[0, :, n] = 2.0**-9 if small else np.sign(value) * 240
        weight[n, 0] = 2.0**-9 if small and value else abs(value) / 240
    unit = np.ones((128, 1), np.float32)
    return config, {
        "attention": stored(attention, "float32"),
        "weight": stored(weight.reshape(N * 5, 512), "float8_e4m3"),
        "weight_scale": unit,
        "input_scale": unit,
    }


BIG, SMALL = 240.0 * 240, 2.0**-18


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        # Pairs (0,1), (2,3): BIG cancels inside a pass and SMALL survives. Pairs (0,2), (1,3) would lose it.
        ([BIG, -BIG, SMALL, 0], SMALL),
        # The other way round: SMALL is rounded away against BIG before -BIG arrives in the next pass.
        ([BIG, SMALL, -BIG, 0], 0.0),
    ],
)
def test_double_row_pairs_neighbouring_groups_op16(heads: list[float], expected: float) -> None:
    config, inputs = one_hot_heads(4, heads)
    assert config.double_row
    assert np.all(model(config, inputs)["out"] == np.float32(expected))


def test_an_odd_number_of_groups_takes_the_single_row_path_op15() -> None:
    config, inputs = one_hot_heads(3, [BIG, SMALL, -BIG])
    assert not config.double_row
    assert np.all(model(config, inputs)["out"] == 0)


def test_the_last_psum_tile_holds_the_rest_of_h2_op8() -> None:
    config = Config(4, 2, 5, 16, 28 * 128, transpose_out=True)
    inputs, record = random_inputs(config), ListRecorder()
    out = model(config, inputs, record=record)["out"]
    tiles = [record.value("out_psum", (t,)) for t in range(2)]
    assert [tile.shape for tile in tiles] == [(128, 25, 20), (128, 3, 20)]
    assert np.array_equal(np.concatenate(tiles, axis=1).astype(ml_dtypes.bfloat16), out[:, 0])


# --- quantisation: defects OP10 to OP14, OP17, OP18 -------------------------------------------------------


def scalar_static(
    io: str,
    attention: float,
    weight: float,
    weight_scale: float,
    input_scale: float,
    bias: float | None = None,
) -> tuple[Config, Inputs]:
    """One product per result element."""
    config = Config(
        1, 1, 1, 1, 512, io, "float8_e4m3", None if bias is None else "float32", quantization="STATIC"
    )
    inputs: Inputs = {
        "attention": stored([[[[attention]]]], io),
        "weight": stored(np.full((1, 512), weight), "float8_e4m3"),
        "weight_scale": np.full((128, 1), weight_scale, np.float32),
        "input_scale": np.full((128, 1), input_scale, np.float32),
    }
    if bias is not None:
        inputs["bias"] = np.full((1, 512), bias, np.float32)
    return config, inputs


def result_of(config: Config, inputs: Inputs) -> float:
    out = model(config, inputs)["out"].astype(np.float32)
    assert len({bits_of(value) for value in out.ravel().tolist()}) == 1
    return float(out.flat[0])


def test_dequantised_value_is_rounded_before_the_bias_is_added_op11() -> None:
    # 1 + 2^-8 is a tie of bfloat16 and goes to 1; with the bias 2^-9 in one rounding it would be 1 + 2^-7.
    config, inputs = scalar_static("bfloat16", 1, 1, 1 + 2.0**-8, 1, bias=2.0**-9)
    assert result_of(config, inputs) == 1.0


def test_without_quantisation_the_bias_is_added_before_the_one_rounding_op11() -> None:
    config = Config(1, 1, 1, 1, 512, "bfloat16", "bfloat16", "float32")
    inputs: Inputs = {
        "attention": stored([[[[1 + 2.0**-7]]]], "bfloat16"),
        "weight": stored(np.full((1, 512), 1 + 2.0**-7), "bfloat16"),
        "bias": np.full((1, 512), 2.0**-8 - 2.0**-13, np.float32),
    }
    # (1 + 2^-7)^2 = 1 + 2^-6 + 2^-14, the sum lies just below the tie 1 + 2^-6 + 2^-8.
    assert result_of(config, inputs) == 1 + 2.0**-6


def test_bias_is_added_unscaled_after_dequantisation_op10() -> None:
    assert result_of(*scalar_static("float32", 2, 3, 0.5, 1, bias=10)) == 13


def test_combined_scale_uses_the_input_scale_and_not_its_reciprocal_op12() -> None:
    assert result_of(*scalar_static("float32", 1, 1, 1, 0.25)) == 1


@pytest.mark.parametrize("attention", [240.0, 241.0, 247.0, 248.0, 256.0, 300.0, 448.0, 1e4, float("inf")])
def test_attention_beyond_240_is_clamped_to_240_op13_op14(attention: float) -> None:
    assert result_of(*scalar_static("float32", attention, 1, 1, 1)) == 240
    assert result_of(*scalar_static("float32", -attention, 1, 1, 1)) == -240


def test_attention_is_rounded_to_io_before_fp8() -> None:
    # 1/0.94107 = 1.06262...: bfloat16 rounds it to 1.0625, a tie of fp8 that goes to 1; directly it is 1.125.
    scale = 0.94107
    assert 1.0625 < 1 / scale < 1.0625 + 2.0**-9
    for io, expected in (("bfloat16", 1.0), ("float32", 1.125)):
        record = ListRecorder()
        config, inputs = scalar_static(io, 1, 1, 1, scale)
        model(config, inputs, record=record)
        assert record.value("attention_fp8").astype(np.float32).item() == expected


def test_nan_attention_stays_nan_through_the_clamp() -> None:
    config, inputs = scalar_static("bfloat16", float("nan"), 1, 1, 1)
    assert DEFAULT.maxmin_nan == "propagate"
    assert np.isnan(model(config, inputs)["out"].astype(np.float32)).all()


def test_row_scale_has_no_use_for_an_input_scale_and_keeps_attention_in_io() -> None:
    # 1 + 2^-7 would not survive fp8.
    config = Config(1, 1, 1, 1, 512, "bfloat16", "float8_e4m3", quantization="ROW")
    scale = np.exp2(np.arange(512) % 7).astype(np.float32)
    inputs: Inputs = {
        "attention": stored([[[[1 + 2.0**-7]]]], "bfloat16"),
        "weight": stored(np.ones((1, 512)), "float8_e4m3"),
        "weight_scale": np.tile(scale, (128, 1)),
    }
    assert np.array_equal(model(config, inputs)["out"].astype(np.float32)[0], (1 + 2.0**-7) * scale)


@pytest.mark.parametrize("name", TABLE_CONFIGS)
def test_inputs_keep_their_bytes_op18(name: str) -> None:
    config = TABLE_CONFIGS[name]
    inputs = random_inputs(config)
    before = {key: value.tobytes() for key, value in inputs.items()}
    for value in inputs.values():
        value.flags.writeable = False
    first, second = (model(config, inputs)["out"] for _ in range(2))
    assert {key: value.tobytes() for key, value in inputs.items()} == before
    assert first.tobytes() == second.tobytes()


# --- special values and open questions --------------------------------------------------------------------


def product_of(dtype: str, attention: float, weight: float, bias: float | None = None) -> float:
    """The one value of an unquantised projection with a contraction of one."""
    config = Config(1, 1, 1, 1, 512, dtype, dtype, None if bias is None else "float32")
    inputs: Inputs = {
        "attention": stored([[[[attention]]]], dtype),
        "weight": stored(np.full((1, 512), weight), dtype),
    }
    if bias is not None:
        inputs["bias"] = np.full((1, 512), bias, np.float32)
    return result_of(config, inputs)


@pytest.mark.parametrize(
    ("dtype", "attention", "weight", "bias", "expected"),
    [
        ("float16", 300, 300, None, np.inf),
        ("float16", 300, -300, None, -np.inf),
        ("float16", 300, 300, -30000, 60000),  # the bias joins before the rounding, in time
        ("bfloat16", 2.0**70, 2.0**70, None, np.inf),
        ("float32", np.inf, 1, -np.inf, np.nan),
        ("float32", np.inf, 0, None, np.nan),
        ("float32", np.nan, 0, None, np.nan),
        ("float32", 2.0**-100, -(2.0**-100), None, -0.0),
        ("float32", 2.0**-100, -(2.0**-100), 0, 0.0),
        ("float32", 2.0**-70, 2.0**-70, None, 2.0**-140),
        ("float16", 2.0**-12, 2.0**-13, None, 0.0),  # 2^-25, half the smallest subnormal, ties to even
        ("float16", 2.0**-12, 1.5 * 2.0**-13, None, 2.0**-24),
    ],
)
def test_overflow_underflow_and_special_values(
    dtype: str, attention: float, weight: float, bias: float | None, expected: float
) -> None:
    assert bits_of(product_of(dtype, attention, weight, bias)) == bits_of(expected)


@pytest.mark.parametrize("name", ["plain", "packed", "mixed16-transposed", "row"])
def test_the_profile_decides_the_order_inside_a_pass(name: str) -> None:
    # chain: float32 additions over the partitions of a group in ascending order, from +0.
    config = TABLE_CONFIGS[name]
    inputs, record = random_inputs(config, seed=5), ListRecorder()
    model(config, inputs, profile=DEFAULT.replace(matmul_order="chain"), record=record)
    table, differs = Table(config, inputs), 0
    for b, s, h in sample(config):
        total = None
        for members in table.passes:
            part = 0.0
            for n, d in members:
                product = table.operand(d, b, n, s) * table.weight[n * config.D + d][h]  # exact in float64
                part = by_hand.add(part, product)
            total = part if total is None else by_hand.add(total, part)
        assert tile_element(config, record, "out_psum", token(config, b, s), h) == total
        differs += total != table.psum(b, s, h)
    assert differs


# --- outputs and records ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE_CONFIGS)
def test_result_has_the_shape_of_the_contract_and_attention_dtype_op19(name: str) -> None:
    config = TABLE_CONFIGS[name]
    for function, dtype in ((model, STORAGE[config.dtype]), (truth, np.float64)):
        out = function(config, random_inputs(config))["out"]  # type: ignore[operator]
        shapes = {
            (False, False): (config.tokens, config.H),
            (False, True): (config.lnc, config.tokens, config.H // config.lnc),
            (True, False): (128, config.lnc, config.H // (128 * config.lnc), config.tokens),
            (True, True): (config.lnc, 128, config.H // (128 * config.lnc), config.tokens),
        }
        assert out.shape == config.out_shape == shapes[config.transpose_out, config.out_in_sb]
        assert out.dtype == dtype


@pytest.mark.parametrize(
    "name", [name for name, c in TABLE_CONFIGS.items() if c.lnc == 1 and not c.transpose_out]
)
def test_the_number_of_cores_changes_no_bit_of_the_plain_result(name: str) -> None:
    one = dataclasses.replace(TABLE_CONFIGS[name], H=1024, out_in_sb=False)
    inputs = random_inputs(one)
    two = dataclasses.replace(one, lnc=2)
    assert model(one, inputs)["out"].tobytes() == model(two, inputs)["out"].tobytes()


POINTS = {
    "NONE": {"attention_packed", "out_psum", "out"},
    "STATIC": {"scale", "inv_scale", "attention_scaled", "attention_fp8", "attention_packed", "out_psum", "out"},
    "ROW": {"attention_packed", "row_scale", "out_psum", "out"},
}


@pytest.mark.parametrize("name", TABLE_CONFIGS)
def test_every_core_records_the_points_of_the_contract_and_no_others(name: str) -> None:
    config = TABLE_CONFIGS[name]
    record = ListRecorder()
    recorded = model(config, random_inputs(config), record=record)["out"]
    expected = set(POINTS[config.quantization])
    if config.bias is not None:
        expected |= {"out_bias"} | ({"out_dequant"} if config.quantization != "NONE" else set())
    for core in range(config.lnc):
        assert {entry.point for entry in record if entry.core == core} == expected
    assert expected <= {point.name for point in CONTRACT.points}
    assert {entry.occurrence for entry in record} == {0}
    assert recorded.tobytes() == model(config, random_inputs(config))["out"].tobytes()


@pytest.mark.parametrize("name", TABLE_CONFIGS)
def test_recorded_tiles_have_the_shapes_and_dtypes_of_the_contract(name: str) -> None:
    config = TABLE_CONFIGS[name]
    record = ListRecorder()
    model(config, random_inputs(config), record=record)
    n, d, _ = head_packing(config.N, config.D)
    tokens, shard, size = config.B * config.S, config.H // config.lnc, config.H // (config.lnc * 128)
    attention = (config.D, config.B, config.N, config.S)
    hidden = (128, size) if config.transpose_out else (tokens, shard)
    per_tile = 512 // tokens
    shapes: dict[str, set[tuple[int, ...]]] = {
        "scale": {(128, 1)}, "inv_scale": {(128, 1)},
        "attention_scaled": {attention}, "attention_fp8": {attention},
        "attention_packed": {(d, 2, n // 2 * tokens) if config.double_row else (d, n * tokens)},
        "out_bias": {hidden}, "row_scale": {hidden},
        "out_psum": {(128, min(per_tile, size - j), tokens) for j in range(0, size, per_tile)}
        if config.transpose_out else {(tokens, 512)},
        "out": {(128, size, tokens)} if config.transpose_out else {(tokens, shard)},
    }  # fmt: skip
    shapes["out_dequant"] = shapes["out_psum"]
    dtypes = dict.fromkeys(("scale", "inv_scale", "row_scale", "out_psum"), "float32")
    dtypes |= dict.fromkeys(("attention_scaled", "out_dequant", "out"), config.dtype)
    dtypes |= {"attention_fp8": "float8_e4m3", "out_bias": config.bias or ""}
    dtypes["attention_packed"] = "float8_e4m3" if config.quantization == "STATIC" else config.dtype
    for point in record.points:
        entries = [entry for entry in record if entry.point == point]
        assert {entry.value.shape for entry in entries} == shapes[point], point
        assert {str(entry.value.dtype) for entry in entries} == {dtypes[point]}, point


@pytest.mark.parametrize("name", ["fp32-packed", "double-row", "plain"])
def test_attention_packed_is_laid_out_as_the_contract_says(name: str) -> None:
    config = TABLE_CONFIGS[name]
    inputs, record = random_inputs(config), ListRecorder()
    model(config, inputs, record=record)
    source = record.value("attention_fp8") if config.quantization == "STATIC" else inputs["attention"]
    packed = record.value("attention_packed")
    _, _, g = head_packing(config.N, config.D)
    for d, b, n, s in itertools.product(*map(range, source.shape)):
        (G, off), t = divmod(n, g), b * config.S + s
        row = packed[off * config.D + d]
        got = row[G % 2, G // 2 * config.tokens + t] if config.double_row else row[G * config.tokens + t]
        assert got == source[d, b, n, s]


def test_inputs_of_another_config_are_refused() -> None:
    config = Config(2, 3, 2, 8, 512)
    inputs = random_inputs(config)
    with pytest.raises(ValueError, match="inputs are those of"):
        model(dataclasses.replace(config, dtype="float16"), inputs)
    with pytest.raises(ValueError, match="weight_rows"):
        model(config, {**inputs, "weight": inputs["weight"][:-1]})
