"""The contract of `output_projection_tkg`: out = attention @ weight (+ bias) for decode-sized batches.

Letters: B batch, N heads, S tokens per sequence, D head size, H hidden size; BS = B*S tokens, numbered
b*S + s; LNC cores, core c owns the hidden indices [c*Hs, (c+1)*Hs) with Hs = H/LNC. Packing folds g heads
into one contraction: n = N/g groups of d = g*D rows. Transposed results split h = h_0*128*H_2 + h_1*H_2 + h_2
with h_0 = core and H_2 = H/(128*LNC), so that one partition h_1 holds H_2 consecutive hidden indices.
R_T(x) is one rounding of a float32 value to dtype T.

Sources of the limits: the published API page (restrictions); of the rounding points: the fact sheet of this
kernel. "PE" is the tensor engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reference.contract import (
    Argument,
    Contract,
    Decision,
    Defect,
    Refusal,
    Result,
    RoundingPoint,
    Rule,
    first_refusal,
    raise_refusal,
)
from reference.contracts.tensor_call import dtype_name, other_config

KERNEL = "output_projection_tkg"

#: Legal dtypes of attention, bias and unquantised weights.
FLOATS = ("float32", "float16", "bfloat16")
#: Legal dtype of quantised weights, and the dtype STATIC rounds attention to.
FP8 = "float8_e4m3"
#: Largest finite value of FP8, the bound attention is clamped to before the cast.
FP8_MAX = 240.0
QUANTIZATIONS = ("NONE", "STATIC", "ROW")

#: Partitions of SBUF and PSUM, rows and columns of the PE.
PARTITIONS = 128
#: float32 values of one PSUM bank per partition: the widest matmul result.
BANK = 512
#: Widest N*H of transposed results, whose weights are resident: 32-bit weights, narrower weights.
NH_LIMIT_32BIT = 81920
NH_LIMIT = 163840


@dataclass(frozen=True)
class Config:
    """One call: sizes, dtype names, flags. Any values can be written down; `refusal` tells the legal ones."""

    B: int
    N: int
    S: int
    D: int
    H: int
    #: dtype of attention and of the result.
    dtype: str = "bfloat16"
    weight_dtype: str = "bfloat16"
    #: dtype of the bias, None without bias.
    bias: str | None = None
    transpose_out: bool = False
    out_in_sb: bool = False
    attention_in_sb: bool = False
    quantization: str = "NONE"
    lnc: int = 1

    @property
    def tokens(self) -> int:
        """BS: rows of the plain result."""
        return self.B * self.S

    @property
    def shard(self) -> int:
        """Hs: hidden indices of one core."""
        return self.H // self.lnc

    @property
    def h2(self) -> int:
        """H_2: consecutive hidden indices per partition of a transposed result."""
        return self.shard // PARTITIONS

    @property
    def heads_per_group(self) -> int:
        """g: heads folded into one contraction, 1 unless D is a multiple of 32.

        A packed head starts at partition k*D, and copies between partitions start at multiples of 32.
        """
        if self.D % 32:
            return 1
        return max((g for g in range(1, PARTITIONS // self.D + 1) if self.N % g == 0), default=1)

    @property
    def groups(self) -> int:
        """n: matmul passes per result element in the single-row mode."""
        return self.N // self.heads_per_group

    @property
    def rows(self) -> int:
        """d: contraction rows of one group."""
        return self.heads_per_group * self.D

    @property
    def double_row(self) -> bool:
        """Whether the PE contracts two groups per pass (fp8 operands only)."""
        even = self.groups % 2 == 0 and (self.groups * self.B) % 32 == 0
        return self.quantization == "STATIC" and even and self.tokens >= 64

    @property
    def h2_per_bank(self) -> int:
        """P: h_2 values side by side in one PSUM tile of a transposed result."""
        return BANK // self.tokens

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of outputs["out"] of the model: SBUF results of all cores are stacked on a leading axis."""
        if self.transpose_out:
            slab = (self.h2, self.tokens)
            return (self.lnc, PARTITIONS, *slab) if self.out_in_sb else (PARTITIONS, self.lnc, *slab)
        return (self.lnc, self.tokens, self.shard) if self.out_in_sb else (self.tokens, self.H)


_ARGUMENTS = (
    Argument(
        "attention", "hbm or sbuf", "[D, B, N, S], index [d, b, n, s]", FLOATS,
        "Attention result; its dtype is called io. In SBUF: partition d, free b*(N*S) + n*S + s, the whole "
        "tensor on every core.",
    ),
    Argument(
        "weight", "hbm", "[N*D, H], row n*D + d", (*FLOATS, FP8),
        "Projection. float8_e4m3 exactly when quantized; float32 exactly when attention is, in mode NONE.",
    ),
    Argument(
        "bias", "hbm", "[1, H]", (*FLOATS, "None"), "Added after dequantisation; any dtype beside any io.",
    ),
    Argument(
        "TRANSPOSE_OUT", "", "", ("False", "True"), "Hidden index on the partitions of the result.", "False",
    ),
    Argument(
        "OUT_IN_SB", "", "", ("False", "True"), "Leave the result in SBUF, each core its shard.", "False",
    ),
    Argument(
        "quantization_type", "", "", QUANTIZATIONS,
        "STATIC: fp8 weight and attention, one scale each. ROW: fp8 weight, one scale per hidden index.",
        "QuantizationType.NONE",
    ),
    Argument(
        "weight_scale", "hbm", "STATIC [128, 1]; ROW [128, H]; all 128 rows identical", ("float32",),
        "Given exactly when quantized.", "None",
    ),
    Argument(
        "input_scale", "hbm", "STATIC [128, 1]; all 128 rows identical", ("float32",),
        "Given exactly in mode STATIC.", "None",
    ),
    Argument("sbm", "", "", ("None",), "Reserved for an SBUF manager; only None.", "None"),
)  # fmt: skip

_RESULTS = (
    Result(
        "out", "hbm", "[BS, H]; core c writes columns of its shard", "io",
        "not TRANSPOSE_OUT, not OUT_IN_SB",
    ),
    Result("out", "sbuf", "[BS, Hs] per core; stacked [LNC, BS, Hs]", "io", "not TRANSPOSE_OUT, OUT_IN_SB"),
    Result(
        "out", "hbm", "[128, LNC, H_2, BS]; core c writes slab [:, c]", "io", "TRANSPOSE_OUT, not OUT_IN_SB",
    ),
    Result(
        "out", "sbuf", "[128, H_2, BS] per core; stacked [LNC, 128, H_2, BS]", "io",
        "TRANSPOSE_OUT, OUT_IN_SB",
    ),
)  # fmt: skip


def _sizes(config: Config) -> str:
    return ", ".join(f"{name}={getattr(config, name)!r}" for name in "BNSDH")


def _all_positive(config: Config) -> bool:
    return all(type(size) is int and size >= 1 for size in (config.B, config.N, config.S, config.D, config.H))


def _flags(config: Config) -> tuple[object, ...]:
    return config.transpose_out, config.out_in_sb, config.attention_in_sb


def _h_and_lnc(config: Config) -> str:
    return f"H={config.H} with LNC={config.lnc}"


def _pe_pairs(config: Config) -> bool:
    if config.quantization == "STATIC":
        return True
    return (config.dtype == "float32") == (config.weight_dtype == "float32")


def _nh_limit(config: Config) -> int:
    return NH_LIMIT_32BIT if config.weight_dtype == "float32" else NH_LIMIT


_API = "published API page, Restrictions"
_RULES: tuple[Rule[Config], ...] = (
    Rule(
        "flags_are_bool", "TRANSPOSE_OUT, OUT_IN_SB", "the flags must be bool",
        lambda c: all(type(flag) is bool for flag in _flags(c)), lambda c: repr(_flags(c)),
        "pass every argument after bias by keyword: versions of this API order them differently",
        "decision D4",
    ),
    Rule(
        "quantization_kind", "quantization_type", "the kind must be NONE, STATIC or ROW",
        lambda c: c.quantization in QUANTIZATIONS, lambda c: repr(c.quantization),
        "quantize per tensor (STATIC) or per hidden index (ROW)", "fact sheet 4, row 3",
    ),
    Rule(
        "sizes_positive", "attention", "B, N, S, D and H must be integers of at least 1",
        _all_positive, _sizes, "do not launch on empty tensors", "the machine has no empty tiles",
    ),
    Rule(
        "lnc", "launch grid", "LNC must be 1 or 2",
        lambda c: type(c.lnc) is int and c.lnc in (1, 2), lambda c: repr(c.lnc),
        "launch on one or two cores", "logical cores of trn2",
    ),
    Rule(
        "attention_dtype", "attention", f"dtype must be one of {', '.join(FLOATS)}",
        lambda c: c.dtype in FLOATS, lambda c: repr(c.dtype),
        "cast attention", "published API page, Data Types",
    ),
    Rule(
        "weight_dtype", "weight",
        f"dtype must be one of {', '.join(FLOATS)}, and {FP8} exactly when quantized",
        lambda c: c.weight_dtype in (FLOATS if c.quantization == "NONE" else (FP8,)),
        lambda c: f"{c.weight_dtype!r} with {c.quantization}",
        "name the quantization the weight has", "fact sheet 2",
    ),
    Rule(
        "bias_dtype", "bias", f"dtype must be one of {', '.join(FLOATS)}",
        lambda c: c.bias is None or c.bias in FLOATS, lambda c: repr(c.bias), "cast the bias", "fact sheet 2",
    ),
    Rule(
        "pe_float32", "weight", "the PE multiplies float32 with float32 only",
        _pe_pairs, lambda c: f"attention {c.dtype}, weight {c.weight_dtype}",
        "cast one of them so that both or neither are float32", "nc_matmul, operand dtypes",
    ),
    Rule(
        "h_multiple_of_lnc", "weight", "H must be a multiple of LNC",
        lambda c: c.H % c.lnc == 0, _h_and_lnc, "pad H, or launch on one core", _API,
    ),
    Rule(
        "tokens_at_most_128", "attention", "B*S must be at most 128",
        lambda c: c.tokens <= PARTITIONS, lambda c: f"B*S={c.tokens}",
        "split the batch", _API,
    ),
    Rule(
        "head_size_at_most_128", "attention", "D must be at most 128",
        lambda c: c.D <= PARTITIONS, lambda c: f"D={c.D}", "split the heads", _API,
    ),
    Rule(
        "h_multiple_of_512_lnc", "weight", "without TRANSPOSE_OUT, H must be a multiple of 512*LNC",
        lambda c: c.transpose_out or c.H % (BANK * c.lnc) == 0, _h_and_lnc, "pad H", _API,
    ),
    Rule(
        "h_multiple_of_128_lnc", "weight", "with TRANSPOSE_OUT, H must be a multiple of 128*LNC",
        lambda c: not c.transpose_out or c.H % (PARTITIONS * c.lnc) == 0, _h_and_lnc, "pad H", _API,
    ),
    Rule(
        "nh_limit", "weight",
        f"with TRANSPOSE_OUT, N*H must be at most {NH_LIMIT}, with float32 weight at most {NH_LIMIT_32BIT}",
        lambda c: not c.transpose_out or _nh_limit(c) >= c.N * c.H,
        lambda c: f"N*H={c.N * c.H} with {c.weight_dtype} weight",
        "call once per part of H", _API,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """The arguments of one call as the entry sees them, with whatever shapes they came.

    Tensors are anything with `shape` and `dtype`. Rules about a call are those that must hold before a Config
    can describe it.
    """

    attention: Any
    weight: Any
    bias: Any = None
    TRANSPOSE_OUT: Any = False
    OUT_IN_SB: Any = False
    quantization_type: Any = "NONE"
    weight_scale: Any = None
    input_scale: Any = None
    sbm: Any = None
    attention_in_sb: bool = False
    lnc: int = 1

    @property
    def quantization(self) -> str:
        """The kind by name; an enum member gives its `name`."""
        kind = self.quantization_type
        return kind if isinstance(kind, str) else str(getattr(kind, "name", kind))

    @property
    def weight_scale_shape(self) -> tuple[int, ...] | None:
        """The shape weight_scale must have, None where it must not be given."""
        return {"STATIC": (PARTITIONS, 1), "ROW": (PARTITIONS, self.weight.shape[1])}.get(self.quantization)

    @property
    def input_scale_shape(self) -> tuple[int, ...] | None:
        """The shape input_scale must have, None where it must not be given."""
        return (PARTITIONS, 1) if self.quantization == "STATIC" else None

    def config(self) -> Config:
        """The Config of a call whose shapes agree."""
        D, B, N, S = self.attention.shape
        return Config(
            B=B, N=N, S=S, D=D, H=self.weight.shape[1],
            dtype=dtype_name(self.attention), weight_dtype=dtype_name(self.weight),
            bias=None if self.bias is None else dtype_name(self.bias),
            transpose_out=self.TRANSPOSE_OUT, out_in_sb=self.OUT_IN_SB, attention_in_sb=self.attention_in_sb,
            quantization=self.quantization, lnc=self.lnc,
        )  # fmt: skip


def call_of(config: Config, tensors: Mapping[str, Any]) -> Call:
    """The call that `config` describes with these tensors, by argument name; the inverse of `Call.config`.

    An option that stands among the tensors comes before what `config` says of it.
    """
    options: dict[str, Any] = {
        "TRANSPOSE_OUT": config.transpose_out, "OUT_IN_SB": config.out_in_sb,
        "quantization_type": config.quantization, "attention_in_sb": config.attention_in_sb, "lnc": config.lnc,
    }  # fmt: skip
    return Call(**options | dict(tensors))


def _shape(tensor: Any) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _scale_fits(scale: Any, shape: tuple[int, ...] | None) -> bool:
    if scale is None or shape is None:
        return scale is None and shape is None
    return _shape(scale) == shape and dtype_name(scale) == "float32"


def _scale_text(call: Call, scale: Any) -> str:
    what = "None" if scale is None else f"{dtype_name(scale)} {_shape(scale)}"
    return f"{what} with {call.quantization}"


#: Tried before the rules about the Config.
CALL_RULES: tuple[Rule[Call], ...] = (
    Rule(
        "call_quantization_kind", "quantization_type", "the kind must be NONE, STATIC or ROW",
        lambda c: c.quantization in QUANTIZATIONS, lambda c: repr(c.quantization_type),
        "quantize per tensor (STATIC) or per hidden index (ROW)", "fact sheet 4, row 3",
    ),
    Rule(
        "sbm_none", "sbm", "an SBUF manager is not supported",
        lambda c: c.sbm is None, lambda c: type(c.sbm).__name__, "leave sbm at None", "decision D5",
    ),
    Rule(
        "attention_rank", "attention", "attention must have four dimensions [D, B, N, S]",
        lambda c: len(c.attention.shape) == 4, lambda c: str(_shape(c.attention)),
        "reshape attention", "fact sheet 2",
    ),
    Rule(
        "weight_rows", "weight", "weight must have shape [N*D, H]",
        lambda c: len(c.weight.shape) == 2
        and c.weight.shape[0] == c.attention.shape[0] * c.attention.shape[2],
        lambda c: f"{_shape(c.weight)} with N={c.attention.shape[2]}, D={c.attention.shape[0]}",
        "pass the weight as [N*D, H] with row n*D + d", _API,
    ),
    Rule(
        "bias_shape", "bias", "bias must be None or have shape [1, H]",
        lambda c: c.bias is None or _shape(c.bias) == (1, c.weight.shape[1]),
        lambda c: f"{_shape(c.bias)} with H={c.weight.shape[1]}", "reshape the bias to [1, H]", _API,
    ),
    Rule(
        "weight_scale", "weight_scale",
        "weight_scale must be float32 [128, 1] (STATIC), float32 [128, H] (ROW), None (NONE)",
        lambda c: _scale_fits(c.weight_scale, c.weight_scale_shape), lambda c: _scale_text(c, c.weight_scale),
        "repeat the scale on 128 rows, or leave it out where nothing is quantized",
        "fact sheet 4, row 4; decision D5",
    ),
    Rule(
        "input_scale", "input_scale", "input_scale must be float32 [128, 1] (STATIC), None (NONE, ROW)",
        lambda c: _scale_fits(c.input_scale, c.input_scale_shape), lambda c: _scale_text(c, c.input_scale),
        "repeat the scale on 128 rows, or leave it out where attention is not quantized",
        "fact sheet 4, row 4; decision D5",
    ),
)  # fmt: skip


_POINTS = (
    RoundingPoint(
        "scale", "float32", "sbuf", "[128, 1]", (),
        "float32(weight_scale * input_scale), from the input_scale given", when="STATIC",
    ),
    RoundingPoint(
        "inv_scale", "float32", "sbuf", "[128, 1]", (), "float32 reciprocal of input_scale", when="STATIC",
    ),
    RoundingPoint(
        "attention_scaled", "io", "sbuf", "[D, B, N, S]", (),
        "R_io(float32(attention) * inv_scale); a multiply by the reciprocal, rounded to io", when="STATIC",
    ),
    RoundingPoint(
        "attention_fp8", FP8, "sbuf", "[D, B, N, S]", (),
        "R_fp8(max(min(float32(attention_scaled), 240), -240)): the second rounding of attention",
        when="STATIC",
    ),
    RoundingPoint(
        "attention_packed", "io; STATIC: float8_e4m3", "sbuf",
        "[d, n*BS], [off*D + dd, G*BS + t] is head G*g + off; double row [d, 2, (n/2)*BS], slot j of column "
        "k*BS + t is group 2k + j", (), "copies", exact=True,
    ),
    RoundingPoint(
        "out_bias", "dtype of bias", "sbuf",
        "[BS, Hs], every row the shard; transposed [128, H_2], [h_1, h_2] is h = c*Hs + h_1*H_2 + h_2", (),
        "copies", exact=True, when="bias",
    ),
    RoundingPoint(
        "row_scale", "float32", "sbuf",
        "[BS, Hs], row r of weight_scale; transposed [128, H_2] as out_bias", (), "copies",
        exact=True, when="ROW",
    ),
    RoundingPoint(
        "out_psum", "float32", "psum",
        "[BS, 512], i counts the H tiles of the shard, t = 0; transposed [128, p_t, BS], index (t,): tile t "
        "holds the p_t = min(P, H_2 - t*P) values h_2 = t*P + j, P = 512 // BS", ("t", "i"),
        "((pass_0 + pass_1) + pass_2) + ..., groups ascending, the first pass overwrites; a pass sums d "
        "products, in double row the 2*d products of groups 2k and 2k + 1. Plain: attention stationary; "
        "transposed: weight columns {h_1*H_2 + h_2} stationary",
    ),
    RoundingPoint(
        "out_dequant", "io", "sbuf", "as out_psum", ("t", "i"),
        "STATIC: R_io(out_psum * scale); ROW: R_io(out_psum * row_scale)", when="bias and (STATIC or ROW)",
    ),
    RoundingPoint(
        "out", "io", "sbuf", "[BS, Hs]; transposed [128, H_2, BS]", ("t",),
        "NONE: R_io(out_psum + bias), one rounding, without bias R_io(out_psum). Quantized with bias: "
        "R_io(float32(out_dequant) + bias), the second rounding; without bias R_io(out_psum * scale)",
    ),
)  # fmt: skip

_DECISIONS = (
    Decision(
        "D1", "B*S above 128, and without TRANSPOSE_OUT an H that is no multiple of 512*LNC, are refused.",
        "The published API page lists both as restrictions; public versions that accept more extend it.",
    ),
    Decision(
        "D2", "An attention tile in the caller's SBUF is never written.",
        "Public versions round it in place in mode STATIC (OP18), so that a second call sees other numbers.",
    ),
    Decision(
        "D3", "The result has attention's dtype.", "Public behaviour; weight and bias dtypes do not matter.",
    ),
    Decision(
        "D4", "The first five arguments keep the published order, quantization is appended after them.",
        "Versions differ in the order (OP21); refusing a flag that is not bool catches a shifted call.",
    ),
    Decision(
        "D5", "Scales and sbm that the mode cannot use are refused.",
        "An option that is not honoured must not be ignored in silence; public versions ignore them.",
    ),
    Decision(
        "D6", "The 128 rows of a scale are identical; row 0 is read.",
        "Layouts read different rows of the same tensor, so differing rows have no common meaning.",
    ),
    Decision(
        "D7", "No exchange between cores: without TRANSPOSE_OUT, LNC 1 and 2 give the same bits.",
        "Every result element is one contraction on one core.",
    ),
    Decision(
        "D8", "SBUF capacity beyond the limits stated is the machine's error, not a rule.",
        "It depends on the generation; the published page leaves it open for float32.",
    ),
    Decision(
        "D9", "attention_packed is written in every mode, also where no heads are folded (g = 1).",
        "Moves data only; one layout for the matmul operands keeps traces of all modes alike.",
    ),
    Decision(
        "D10", "Double row depends on the sizes alone, not on the generation.",
        "The kernel is written for gen3 and later; gen2 has no double_row, and the machine says so.",
    ),
)  # fmt: skip

_DEFECTS = (
    Defect(
        "OP1", "transposed index taken as h = h_2*128 + h_1",
        "H_2 > 1 with the hidden index encoded in the values",
    ),
    Defect("OP2", "slab order h_0 wrong", "LNC=2, H=256, TRANSPOSE_OUT: H_2 = 1"),
    Defect("OP3", "bias shard offset ignored on core 1", "LNC=2, bias[h] = h"),
    Defect(
        "OP4", "bias replicated with a wrong quadrant tail", "B*S in {1, 31, 32, 33, 63, 96, 97, 127, 128}",
    ),
    Defect("OP5", "heads packed in the wrong order", "N=6, D=32 (g=3), one-hot attention per head"),
    Defect(
        "OP6", "packing attempted when D % 32 != 0", "D=48 with N=2 (96 rows would fit), D in {13, 26, 52}",
    ),
    Defect("OP7", "axes B, N, S mixed up", "B, N, S pairwise distinct, S > 1, B > 1"),
    Defect(
        "OP8", "last partial PSUM tile dropped or read uninitialised",
        "TRANSPOSE_OUT with H_2 no multiple of 512 // (B*S): B*S=20 (P=25), H_2=28",
    ),
    Defect("OP9", "narrow last H tile mishandled", "H=5378, LNC=2; outside this contract, refused (D1)"),
    Defect("OP10", "bias added before dequantisation, or scaled", "STATIC or ROW, bias != 0, scale != 1"),
    Defect(
        "OP11", "single instead of double rounding, or the reverse",
        "STATIC + bias, psum*scale near a tie of io",
    ),
    Defect("OP12", "reciprocal taken before the combined scale", "STATIC, input_scale != 1"),
    Defect(
        "OP13", "clamp missing: fp8 overflows to infinity",
        "STATIC, |attention|/input_scale in {241, 248, 256, 1e4}",
    ),
    Defect("OP14", "clamp at 448 instead of 240", "STATIC, attention/input_scale = 300"),
    Defect("OP15", "double row with an odd number of groups", "STATIC, N=7, B=32, S=2, D=128: single row"),
    Defect("OP16", "double row pairs groups (0, n/2)", "STATIC, N=8, B=32, S=2, D=128, one-hot heads"),
    Defect(
        "OP17", "row scale taken from a wrong row or column", "ROW in both layouts, scale[h] distinct per h",
    ),
    Defect("OP18", "attention in SBUF overwritten", "STATIC with attention_in_sb, called twice"),
    Defect("OP19", "result dtype taken from weight or bias", "io bfloat16, bias float32"),
    Defect("OP20", "bias=None crashes", "bias None in every mode"),
    Defect("OP21", "positional arguments shifted", "a quantization_type in fourth position is refused"),
    Defect(
        "OP22", "limits off by one",
        "N*H = 163840 (N=10, H=16384) accepted, the next multiple refused; float32 81920",
    ),
    Defect("OP23", "run-to-run differences", "ten runs, compared bit by bit"),
    Defect("OP24", "rarely used combination broken", "every combination of flags at least once"),
)  # fmt: skip

CONTRACT: Contract[Config] = Contract(
    kernel=KERNEL,
    summary="out[b*S+s, h] = sum over n, d of attention[d, b, n, s] * weight[n*D+d, h] + bias[0, h], decode.",
    arguments=_ARGUMENTS,
    results=_RESULTS,
    rules=_RULES,
    points=_POINTS,
    decisions=_DECISIONS,
    defects=_DEFECTS,
)

refusal, validate = CONTRACT.refusal, CONTRACT.validate


def call_refusal(call: Call) -> Refusal | None:
    """The first rule, about the arguments or about the Config they make, that a call violates."""
    return first_refusal(KERNEL, CALL_RULES, call) or refusal(call.config())


def inputs_refusal(config: Config, tensors: Mapping[str, Any]) -> Refusal | None:
    """The first rule that the call which `config` describes with these tensors violates, or that they tell another."""
    call = call_of(config, tensors)
    return call_refusal(call) or other_config(KERNEL, call.config(), config)


def validate_call(call: Call) -> Config:
    """The Config of a legal call; raises KernelArgumentError before anything is launched otherwise."""
    raise_refusal(call_refusal(call))
    return call.config()
