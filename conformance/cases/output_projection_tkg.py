"""output_projection_tkg as the suite sees it: configs, inputs, and the calls of truth, model and kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance import lanes
from conformance.bounds import Bound
from conformance.cases._output_projection_spoilings import SPOILINGS
from conformance.cases._rarely import rarely
from conformance.nudged_scale import NUDGE, SCALE, TAKEN_BACK
from conformance.pairwise import flags
from conformance.randomness import Stream
from conformance.subject import Bench, Call, Case, Output, Subject
from reference import output_projection_tkg as reference
from reference import output_projection_tkg_bound
from reference.contracts.output_projection_tkg import (
    CONTRACT,
    FLOATS,
    FP8,
    FP8_MAX,
    QUANTIZATIONS,
    Config,
    inputs_refusal,
    refusal,
)
from reference.numerics.cast import cast, to_float32
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.recorder import NO_RECORD, Recorder

Arrays = dict[str, NDArray[Any]]

LANES = (
    "normal", "exact", "exact_rounding", "one_sided", "one_hot", "heavy_tailed", "fp8_edge", "subnormal", "poison",
)  # fmt: skip
#: Lanes that fill every tensor, and those whose scales are powers of two.
_OF_ALL = (*lanes.EXACT_LANES, "one_sided", "heavy_tailed", "subnormal")
_POWER_OF_TWO = ("exact", "one_hot", "subnormal")

#: Random FP8 weights are drawn with this deviation, so that they use the format's range and stay below 240.
_FP8_SPREAD = 32.0


# ---- inputs -----------------------------------------------------------------------------------------------------


def build(config: Config, lane: str, seed: int) -> Arrays:
    """Inputs by argument name, in storage dtypes. Scales repeat one row 128 times (decision D6)."""
    stream = Stream(seed, "output_projection_tkg", lane)
    inputs = {
        "attention": _attention(config, lane, stream.child("attention")),
        "weight": _weight(config, lane, stream.child("weight")),
    }
    if config.bias is not None:
        inputs["bias"] = _bias(config, lane, stream.child("bias"))
    inputs |= _scales(config, lane, stream.child("scales"))
    if lane in lanes.EXACT_LANES:
        _require_exact(config, inputs)
    return inputs


def _attention(config: Config, lane: str, stream: Stream) -> NDArray[Any]:
    shape = (config.D, config.B, config.N, config.S)
    if lane == "one_hot":
        # One place of the contraction per token, so that each row of the result is one row of the weight.
        rows = lanes.fill(lane, stream, (config.B, config.S, config.N * config.D), config.dtype)
        return np.ascontiguousarray(rows.reshape(config.B, config.S, config.N, config.D).transpose(3, 0, 2, 1))
    values = lanes.fill("normal" if lane == "poison" else lane, stream, shape, config.dtype)
    if lane == "poison":
        # One token is NaN everywhere: its row of the result must be NaN, and no other.
        keep = np.ones(shape, np.bool_)
        keep[:, -1, :, -1] = False
        values = lanes.poison(values, keep)
    return values


def _bias(config: Config, lane: str, stream: Stream) -> NDArray[Any]:
    if lane == "exact_rounding" and config.bias == "float32":
        # More bits than the result that it is added to.
        return stream.integers(-2047, 2048, (1, config.H)).astype(np.float32)
    return lanes.fill(lane if lane in _OF_ALL else "normal", stream, (1, config.H), config.bias)


def _weight(config: Config, lane: str, stream: Stream) -> NDArray[Any]:
    shape = (config.N * config.D, config.H)
    kind = "exact" if lane in lanes.EXACT_LANES else lane if lane in _OF_ALL else "normal"
    quantized = config.weight_dtype == FP8 and kind in ("normal", "one_sided")
    return lanes.fill(kind, stream, shape, config.weight_dtype, _FP8_SPREAD if quantized else 1.0)


def _scales(config: Config, lane: str, stream: Stream) -> Arrays:
    """STATIC: one scale for weight and input; ROW: one per hidden index. Powers of two where bits must tie."""
    if config.quantization == "NONE":
        return {}
    columns = config.H if config.quantization == "ROW" else 1
    if lane in (*_POWER_OF_TWO, "exact_rounding"):
        weight_scale = stream.choice((0.5, 1.0, 2.0), (1, columns))
    else:
        weight_scale = stream.uniform(0.5 / _FP8_SPREAD, 2.0 / _FP8_SPREAD, (1, columns))
    if lane == "exact_rounding":
        weight_scale = weight_scale * TAKEN_BACK
    scales = {"weight_scale": np.repeat(weight_scale, 128, axis=0)}
    if config.quantization == "STATIC":
        scales["input_scale"] = np.full((128, 1), _input_scale(lane, stream), np.float32)
        if lane == "exact_rounding":
            scales["weight_scale"] = scales["weight_scale"] * NUDGE
    return scales


def _input_scale(lane: str, stream: Stream) -> np.float32:
    if lane == "exact_rounding":
        # Some of the whole numbers up to 127 come to lie beyond 240.
        return np.float32(SCALE / np.float32(2))
    if lane in _POWER_OF_TWO:
        return np.float32(0.5)
    if lane == "fp8_edge":
        # The edges 240, 248 and 448 arrive at the clamp as they are.
        return np.float32(1.0)
    # Slightly too small for the largest value, so that the clamp is reached: 4.9 deviations at most.
    return np.float32(stream.uniform(0.7 * 4.9 / 240, 1.0 * 4.9 / 240))


def _require_exact(config: Config, inputs: Arrays) -> None:
    attention = to_float32(inputs["attention"]).transpose(2, 0, 1, 3).reshape(config.N * config.D, -1)
    if config.quantization == "STATIC":
        scaled = attention / np.float32(inputs["input_scale"][0, 0])
        attention = to_float32(cast(np.clip(scaled, -FP8_MAX, FP8_MAX), FP8))
    lanes.require_exact_dot(attention, to_float32(inputs["weight"]), axis=0)


# ---- configs ----------------------------------------------------------------------------------------------------

#: Units of one core's hidden indices: those of most configs, and wide ones that take several PSUM tiles, several
#: blocks of columns, and a last one that is short. 512 columns as they are, 128 transposed.
_UNITS, _WIDE_UNITS = (1, 2), (3, 4, 5, 7)
_TRANSPOSED_UNITS, _WIDE_TRANSPOSED_UNITS = (1, 2, 3, 4, 5), (9, 17, 20, 33)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Legal configs: every flag, dtype, packing and double-row situation, most at sizes of milliseconds."""
    quantization = draw(st.sampled_from(("NONE", "STATIC", "ROW")))
    double_row = quantization == "STATIC" and draw(st.booleans())
    transpose_out, lnc = draw(st.booleans()), draw(st.sampled_from((1, 2)))
    dtype, weight_dtype = draw(st.sampled_from(_dtype_pairs(quantization)))
    wide = rarely(draw, 6)
    sizes = _double_row_sizes(draw) if double_row else _wide_sizes(draw) if wide else _sizes(draw)
    shard = _shard(draw, transpose_out, wide)
    if double_row and rarely(draw, 12):
        # Nine passes of 2048 columns are more than one block of weights.
        sizes, shard = {"B": 16, "S": 4, "N": 18, "D": 128}, 2048
    return Config(
        **sizes,
        H=shard * lnc,
        dtype=dtype,
        weight_dtype=weight_dtype,
        bias=draw(st.sampled_from((None, *FLOATS))),
        transpose_out=transpose_out,
        out_in_sb=draw(st.booleans()),
        attention_in_sb=draw(st.booleans()),
        quantization=quantization,
        lnc=lnc,
    )


def _dtype_pairs(quantization: str) -> list[tuple[str, str]]:
    if quantization == "STATIC":
        return [(io, FP8) for io in FLOATS]
    if quantization == "ROW":
        return [(io, FP8) for io in FLOATS if io != "float32"]
    return [(io, w) for io in FLOATS for w in FLOATS if (io == "float32") == (w == "float32")]


def _shard(draw: st.DrawFn, transpose_out: bool, wide: bool) -> int:
    if transpose_out:
        return 128 * draw(st.sampled_from(_WIDE_TRANSPOSED_UNITS if wide else _TRANSPOSED_UNITS))
    return 512 * draw(st.sampled_from(_WIDE_UNITS if wide else _UNITS))


def _wide_sizes(draw: st.DrawFn) -> dict[str, int]:
    """Few tokens or few rows, so that a wide shard costs as little as it can."""
    B, S, N, D = draw(
        st.sampled_from(((1, 1, 3, 48), (2, 1, 2, 64), (3, 1, 8, 128), (8, 4, 2, 64), (5, 7, 1, 13), (2, 1, 10, 128)))
    )
    return {"B": B, "S": S, "N": N, "D": D}


def _sizes(draw: st.DrawFn) -> dict[str, int]:
    tokens_left = 128
    B = draw(st.sampled_from((1, 2, 3, 4, 5, 8, 16, 31, 33, 64, 128)))
    tokens_left //= B
    S = draw(st.integers(1, min(tokens_left, 8)))
    D = draw(st.sampled_from((1, 13, 16, 32, 48, 64, 80, 96, 128)))
    return {"B": B, "S": S, "N": draw(st.integers(1, 8)), "D": D}


def _double_row_sizes(draw: st.DrawFn) -> dict[str, int]:
    """Sizes at and around the double-row condition: groups even, groups*B a multiple of 32, B*S >= 64."""
    D, N = draw(st.sampled_from(((128, 2), (128, 4), (128, 3), (64, 4), (64, 2), (32, 8), (96, 2), (48, 2))))
    B, S = draw(st.sampled_from(((32, 2), (16, 4), (64, 1), (128, 1), (16, 8), (32, 4), (31, 2), (8, 8))))
    return {"B": B, "S": S, "N": N, "D": D}


#: Per rule, what turns a legal config into one that this rule refuses first.
_VIOLATIONS: Mapping[str, Callable[[Config], Mapping[str, Any]]] = {
    "flags_are_bool": lambda c: {"transpose_out": "STATIC"},
    "quantization_kind": lambda c: {"quantization": "MX"},
    "sizes_positive": lambda c: {"S": 0},
    "lnc": lambda c: {"lnc": 3},
    "attention_dtype": lambda c: {"dtype": FP8},
    "weight_dtype": lambda c: {"weight_dtype": "bfloat16" if c.quantization != "NONE" else FP8},
    "bias_dtype": lambda c: {"bias": "int32"},
    "pe_float32": lambda c: {
        "quantization": "NONE", "dtype": "float32", "weight_dtype": "bfloat16", "bias": None,
    },
    "h_multiple_of_lnc": lambda c: {"lnc": 2, "H": c.H // c.lnc * 2 + 1},
    "tokens_at_most_128": lambda c: {"B": 129, "S": 1},
    "head_size_at_most_128": lambda c: {"D": 129},
    "h_multiple_of_512_lnc": lambda c: {"transpose_out": False, "H": 512 * c.lnc + 128 * c.lnc},
    "h_multiple_of_128_lnc": lambda c: {"transpose_out": True, "H": 128 * c.lnc + 64 * c.lnc},
    "nh_limit": lambda c: {
        "transpose_out": True, "N": (81920 if c.weight_dtype == "float32" else 163840) // (512 * c.lnc) + 1,
        "H": 512 * c.lnc, "D": 1,
    },
}  # fmt: skip


@st.composite
def illegal(draw: st.DrawFn) -> tuple[Config, str]:
    """(config, rule that refuses it first)."""
    rule = draw(st.sampled_from(sorted(_VIOLATIONS)))
    legal = draw(configs())
    return dataclasses.replace(legal, **_VIOLATIONS[rule](legal)), rule


# ---- the three rungs --------------------------------------------------------------------------------------------


def _kept(config: Config, inputs: Arrays) -> Arrays:
    """An attention tile in the caller's SBUF comes back as it went in (decision D2)."""
    if not config.attention_in_sb:
        return {}
    return {"attention_kept": np.stack([inputs["attention"]] * config.lnc)}


def truth(config: Config, inputs: Arrays) -> Arrays:
    """The result in float64, and the caller's tile."""
    kept = {name: to_float32(value).astype(np.float64) for name, value in _kept(config, inputs).items()}
    return reference.truth(config, inputs) | kept


def model(
    config: Config, inputs: Arrays, profile: NumericsProfile = DEFAULT, record: Recorder = NO_RECORD
) -> Arrays:
    """The bit-faithful result, and the caller's tile."""
    return reference.model(config, inputs, profile, record) | _kept(config, inputs)


def call(config: Config, inputs: Arrays, implementation: Callable[..., Any]) -> Call:
    """The launch. On-chip operands go through a kernel that loads attention and stores the result."""
    from kernels.common_types import QuantizationType
    from kernels.output_projection_tkg_on_chip import output_projection_tkg_on_chip

    arguments: dict[str, Any] = {
        "attention": inputs["attention"],
        "weight": inputs["weight"],
        "bias": inputs.get("bias"),
        "TRANSPOSE_OUT": config.transpose_out,
        "OUT_IN_SB": config.out_in_sb,
        "quantization_type": QuantizationType[config.quantization],
        "weight_scale": inputs.get("weight_scale"),
        "input_scale": inputs.get("input_scale"),
    }
    function = implementation
    if config.attention_in_sb or config.out_in_sb:
        function = output_projection_tkg_on_chip
        arguments |= {"attention_in_sb": config.attention_in_sb, "project": implementation}
    returns = ("out", "attention_kept") if config.attention_in_sb else ("out",)
    return Call(function, arguments, returns, config.lnc)


def bounds(config: Config, inputs: Arrays) -> Mapping[str, Bound]:
    """Grade C, and equality of the caller's tile. In STATIC the elements of a token share its operand's roundings."""
    limits = {name: Bound(np.zeros(value.shape)) for name, value in _kept(config, inputs).items()}
    alike: tuple[int, ...] = ()
    if config.quantization == "STATIC":
        alike = (0, 1, 2) if config.transpose_out else (0, 2) if config.out_in_sb else (1,)
    for name, known in output_projection_tkg_bound.errors(config, inputs).items():
        limits[name] = Bound(known.error, spread=np.sqrt(known.variance), alike=alike)
    return limits


def _plain_fp32(config: Config, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The same mathematics in plain fp32 NumPy; inputs are fp32 already."""
    attention = inputs["attention"].transpose(1, 3, 2, 0).reshape(config.tokens, -1)
    result: NDArray[np.float32] = attention @ inputs["weight"]
    return result + inputs["bias"] if "bias" in inputs else result


# ---- the catalog ------------------------------------------------------------------------------------------------

_CI, _GOLDEN, _CHECK = frozenset({"ci", "check"}), frozenset({"ci", "golden", "check"}), frozenset({"check"})
_CORNER = frozenset({"ci"})


def _case(name: str, lane: str = "normal", tags: frozenset[str] = _GOLDEN, note: str = "", **fields: Any) -> Case:
    return Case(name, Config(**fields), lane, 0, tags, note)


_LLAMA: dict[str, Any] = {"B": 4, "N": 8, "S": 1, "D": 128, "H": 8192, "lnc": 2}
_SMALL: dict[str, Any] = {"B": 2, "N": 4, "S": 3, "D": 64, "H": 1024, "lnc": 2}
_FP8: dict[str, Any] = {"weight_dtype": FP8, "bias": "bfloat16"}

CATALOG = (
    _case("decode-b4", tags=_CHECK, note="Llama-3-70B at TP8", **_LLAMA),
    _case("decode-b4-bias", tags=_CHECK, bias="bfloat16", **_LLAMA),
    _case("decode-b4-transposed", tags=_CHECK, transpose_out=True, **_LLAMA),
    _case("decode-b4-static", tags=_CHECK, quantization="STATIC", **_FP8, **_LLAMA),
    _case("decode-b4-row", tags=_CHECK, quantization="ROW", **_FP8, **_LLAMA),
    _case("decode-b128", tags=_CHECK, note="the widest batch", B=128, N=8, S=1, D=128, H=8192, lnc=2),
    _case("double-row-b32-s2", tags=_CHECK, quantization="STATIC", **_FP8, B=32, N=8, S=2, D=128, H=3072, lnc=2),
    _case("limit-nh", tags=_CHECK, note="N*H at its limit", transpose_out=True, B=1, N=10, S=1, D=128, H=16384),
    _case("plain", **_SMALL),
    _case("plain-bias", bias="float32", **_SMALL),
    _case("two-tiles", bias="bfloat16", B=2, N=4, S=3, D=64, H=2048, lnc=2),
    _case("bias-33-tokens", bias="bfloat16", B=33, N=2, S=1, D=64, H=512, lnc=1),
    _case("plain-fp16", dtype="float16", weight_dtype="float16", bias="float16", **_SMALL),
    _case("plain-fp32", dtype="float32", weight_dtype="float32", bias="float32", **_SMALL),
    _case("mixed-fp16-weight", weight_dtype="float16", **_SMALL),
    _case("transposed-bias", transpose_out=True, bias="bfloat16", **_SMALL),
    _case("transposed-ragged-tile", transpose_out=True, bias="bfloat16", B=5, N=2, S=4, D=128, H=7168, lnc=2),
    _case("transposed-lnc2-h2-1", transpose_out=True, bias="bfloat16", B=2, N=2, S=2, D=64, H=256, lnc=2),
    _case("sbuf-in-out", attention_in_sb=True, out_in_sb=True, bias="bfloat16", **_SMALL),
    _case("sbuf-transposed", attention_in_sb=True, out_in_sb=True, transpose_out=True, **_SMALL),
    _case("no-packing-d48", B=3, N=2, S=2, D=48, H=512, lnc=1),
    _case("packing-n6-d32", "one_hot", B=2, N=6, S=2, D=32, H=512, lnc=1),
    _case("static-bias", quantization="STATIC", **_FP8, **_SMALL),
    _case("static-transposed", quantization="STATIC", transpose_out=True, **_FP8, **_SMALL),
    _case("sbuf-static", quantization="STATIC", attention_in_sb=True, **_FP8, **_SMALL),
    _case("static-edge", "fp8_edge", quantization="STATIC", weight_dtype=FP8, **_SMALL),
    _case("static-double-row", quantization="STATIC", **_FP8, B=32, N=4, S=2, D=128, H=1024, lnc=2),
    _case("static-odd-groups", quantization="STATIC", **_FP8, B=32, N=7, S=2, D=128, H=512, lnc=1),
    _case("row-bias", quantization="ROW", **_FP8, **_SMALL),
    _case("row-transposed", quantization="ROW", transpose_out=True, **_FP8, **_SMALL),
    _case("exact", "exact", bias="bfloat16", **_SMALL),
    _case("exact-static", "exact", quantization="STATIC", **_FP8, **_SMALL),
    _case("exact-rounding", "exact_rounding", _CI, bias="float32", **_SMALL),
    _case("exact-rounding-static", "exact_rounding", _CI, quantization="STATIC", **_FP8, **_SMALL),
    _case("one-sided", "one_sided", _CI, bias="bfloat16", **_SMALL),
    _case("heavy-tailed", "heavy_tailed", bias="bfloat16", **_SMALL),
    _case("subnormal", "subnormal", dtype="float16", weight_dtype="float16", **_SMALL),
    _case("nan-token", "poison", bias="bfloat16", **_SMALL),
    # Corners of the option space: each shows a fault that no other short case shows.
    _case(
        "shard-2560", "normal", _CORNER, note="a shard of more than one block of columns, the last one ragged", B=2,
        N=2, S=1, D=64, H=2560,
    ),
    _case(
        "double-rows-streamed", "normal", _CORNER, note="double rows, weights in more than one block of passes", B=16,
        N=18, S=4, D=128, H=2048, weight_dtype="float8_e4m3", quantization="STATIC",
    ),
    _case(
        "sbuf-transposed-bias-two-tiles", "normal", _CORNER, note="transposed in SBUF, bias of a second PSUM tile",
        B=8, N=2, S=4, D=64, H=2176, bias="bfloat16", transpose_out=True, out_in_sb=True,
    ),
    _case(
        "double-rows-packed", "normal", _CORNER, note="double rows of packed heads", B=64, N=4, S=1, D=64, H=512,
        weight_dtype="float8_e4m3", quantization="STATIC",
    ),
    _case(
        "transposed-wide-bias", "exact_rounding", _CORNER, note="transposed, a bias wider than the results", B=2, N=2,
        S=2, D=64, H=256, bias="float32", transpose_out=True,
    ),
    _case(
        "static-fp16", "exact_rounding", _CORNER, note="float16 activations rounded before their clamp", B=2, N=2, S=2,
        D=64, H=512, dtype="float16", weight_dtype="float8_e4m3", quantization="STATIC",
    ),
    _case(
        "transposed-fp16-weight", "normal", _CORNER, note="transposed, float16 weights beside bfloat16", B=2, N=2, S=2,
        D=64, H=256, weight_dtype="float16", transpose_out=True,
    ),
    _case(
        "double-rows-not-at-16", "normal", _CORNER, note="16 groups of batches: one step short of double rows", B=8,
        N=2, S=8, D=128, H=512, dtype="float32", weight_dtype="float8_e4m3", quantization="STATIC",
    ),
    _case(
        "double-rows-at-64", "normal", _CORNER, note="64 tokens: the first that take double rows", B=64, N=2, S=1,
        D=128, H=512, dtype="float32", weight_dtype="float8_e4m3", quantization="STATIC",
    ),
    _case(
        "packing-of-three", "normal", _CORNER, note="three heads to a pass", B=2, N=6, S=2, D=32, H=512,
        dtype="float32", weight_dtype="float32",
    ),
)

FLAGS = flags(
    Config,
    dtype=FLOATS,
    weight_dtype=(*FLOATS, FP8),
    bias=(None, *FLOATS),
    quantization=QUANTIZATIONS,
    lnc=(1, 2),
)

SUBJECT = Subject(
    name="output_projection_tkg",
    config_type=Config,
    contract=CONTRACT,
    outputs=(
        Output("out", description="projected hidden state; SBUF results stacked by core"),
        Output("attention_kept", description="the caller's SBUF attention after the call, stacked by core"),
    ),
    lanes=LANES,
    catalog=CATALOG,
    implementation="kernels.output_projection_tkg:output_projection_tkg",
    legal=refusal,
    call_refusal=inputs_refusal,
    strategy=configs,
    illegal=illegal,
    spoilings=SPOILINGS,
    build=build,
    truth=truth,
    model=model,
    call=call,
    quantization=lambda config: {"NONE": "none"}.get(config.quantization, config.quantization.lower()),
    bounds=bounds,
    flags=FLAGS,
    bench=(
        Bench("decode-b4", Config(**_LLAMA), _plain_fp32),
        Bench("decode-b128", Config(B=128, N=8, S=1, D=128, H=8192, lnc=2), _plain_fp32),
    ),
)

__all__ = ["CATALOG", "SUBJECT", "build", "call", "configs", "illegal"]
