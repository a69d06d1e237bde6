"""The profile of open questions: what public documents leave unsaid about the arithmetic, as data.

One `Question` row per open question; one field of `NumericsProfile` per part of a question. Models and the
machine read the same profile, so an answer from a probe on a device changes data and never code. A candidate
that is listed can be played: some module computes differently when it is chosen. Candidates that are known
but not modelled stand in `Question.unmodelled`, in words.

Nothing here computes; this module imports no NumPy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

Value = str | bool

KERNELS = ("qkv", "attention_tkg", "attention_segmented_cte", "output_projection_tkg", "attention_block_tkg")
GENERATIONS = ("gen2", "gen3", "gen4")
STATUSES = ("documented", "inferred", "measured", "open")

_ATTENTION = ("attention_tkg", "attention_segmented_cte", "attention_block_tkg")
_NORMED = ("qkv", "attention_block_tkg")
_QUANTISED = ("qkv", "output_projection_tkg", "attention_block_tkg")


@dataclass(frozen=True)
class Part:
    """One field of the profile: its candidates with their meanings, and the default."""

    field: str
    candidates: Mapping[Value, str]
    default: Value
    #: Candidates that differ by accumulation noise only, which grade B plays. Empty: not in the envelope.
    envelope: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Question:
    """One open question of facts/numerics.md, section 11: the rows of the profile."""

    id: str
    question: str
    parts: tuple[Part, ...]
    #: Status of the default: documented, inferred from documents, measured on a device, or open.
    status: str
    source: str
    engines: tuple[str, ...]
    #: Which of the five kernels can notice the answer.
    kernels: tuple[str, ...] = KERNELS
    #: Candidates that are known of and that nothing here can play.
    unmodelled: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        """Name of the first (for most questions the only) profile field."""
        return self.parts[0].field

    @property
    def candidates(self) -> Mapping[Value, str]:
        """Candidates of the first field: value -> one-line meaning."""
        return self.parts[0].candidates

    @property
    def default(self) -> Value:
        """Default of the first field."""
        return self.parts[0].default


def _part(name: str, candidates: dict[Value, str], envelope: Iterable[Value] = ()) -> Part:
    """A part whose default is the first candidate listed."""
    default = next(iter(candidates))
    return Part(name, MappingProxyType(dict(candidates)), default, tuple(envelope))


_SUM_ORDERS: dict[Value, str] = {
    "exact": "exact sum of the fp32 values, rounded once to fp32 (the same for every order)",
    "chain": "one fp32 register, element after element in ascending order",
    "lanes4": "4 fp32 registers, element i goes to i mod 4, then ((r0+r1)+r2)+r3",
    "lanes8": "8 fp32 registers, element i goes to i mod 8, then r0..r7 in a chain",
    "tree": "balanced binary tree of fp32 additions of neighbours, padded with nothing",
}
_ACCURACY: dict[Value, str] = {
    "correct": "correctly rounded fp32 of the mathematical function",
    "ulp_up": "the correctly rounded value moved one fp32 ulp towards +inf where it is inexact",
    "ulp_down": "the correctly rounded value moved one fp32 ulp towards -inf where it is inexact",
}
_FMA: dict[Value, str] = {
    False: "two fp32 roundings, one after the multiply and one after the add",
    True: "one rounding: multiply and add are fused",
}
_PRECAST: dict[Value, str] = {
    True: "the register accumulates the fp32 value before the cast to the destination",
    False: "the register accumulates the value after the cast to the destination",
}

# The table is laid out by hand: one question, one block.
# fmt: off
_ROWS = (
    Question(
        "U1", "In which order does one matmul instruction add its products over K?",
        (_part("matmul_order", {
            "exact": "exact sum of all products of the instruction, rounded once to fp32",
            "chain": "row 0 to row K-1, from +0, one fp32 addition per row",
            "chain_rev": "row K-1 to row 0, from +0, one fp32 addition per row",
            "seg32": "chains of 32 rows, then the segment sums in a chain, ascending",
            "tree": "balanced binary tree of fp32 additions of neighbouring rows",
            "fdpa24": "fused: products cut to 24 fraction bits below the largest, summed, rounded once",
            "fdpa28": "fused: products cut to 28 fraction bits below the largest, summed, rounded once",
        }, ("exact", "chain", "chain_rev", "seg32", "tree", "fdpa24", "fdpa28")),),
        "open", "not documented; default order-neutral, nearest to all candidates (facts 3.3)", ("tensor",),
    ),
    Question(
        "U2", "How wide is the accumulator of the array and how does it round?",
        (_part("acc_round", {
            "rne": "every addition rounds to fp32, to nearest even",
            "rz": "every addition rounds to fp32, towards zero",
            "wide28": "every addition rounds to 28 significant bits, to nearest even; fp32 once at the end",
        }, ("rne", "rz", "wide28")),),
        "inferred", "accumulation precision is fp32 (ISA:587, A2:103-105); rounding not stated", ("tensor",),
        unmodelled=("floor (towards -inf)",),
    ),
    Question(
        "U3", "Where does the old PSUM value enter, and how does that addition round?",
        (_part("psum_entry", {
            "after_array": "the array sum is completed and rounded, then added to PSUM in fp32",
            "seeds_chain": "the PSUM value takes the place of the +0 the array starts from",
        }, ("after_array", "seeds_chain")),
         _part("psum_add_round", {
            "rne": "to nearest even",
            "rz": "towards zero",
        }, ("rne", "rz"))),
        "documented", "'read-accumulate-write' near memory (A2:784-795), spelled out for bf16 (A4:139-141)",
        ("tensor",),
    ),
    Question(
        "U4", "How are fp32 operands split for the 4-pass matmul?",
        (_part("fp32_matmul", {
            "exact_products": "24 x 24 bit products, exact, one pass",
            "split_12_12": "hi 12 + lo 12 bits (truncated), passes hi.hi, hi.lo, lo.hi, lo.lo",
            "split_11_13": "hi 11 + lo 13 bits (truncated), passes hi.hi, hi.lo, lo.hi, lo.lo",
            "split_bf16": "hi = bf16(x), lo = bf16(x - hi), passes hi.hi, hi.lo, lo.hi, lo.lo",
            "split_bf16_3": "as split_bf16 without the lo.lo pass",
        }, ("exact_products", "split_12_12", "split_11_13")),),
        "open", "4x cost (A2:268-270), two FP32_LO_HI instructions (profile schema); the split is not public",
        ("tensor",), unmodelled=("other pass orders", "what is_*_onezero skips on data other than 0 and 1"),
    ),
    Question(
        "U5", "How are tfloat32 operands brought from 23 to 10 mantissa bits?",
        (_part("tf32_operand", {
            "rne": "to nearest even",
            "rz": "truncated",
            "none": "not rounded: runs as fp32",
        }),),
        "open", "not documented (facts 1.3)", ("tensor",), kernels=(),
    ),
    Question(
        "U6", "What happens to subnormal numbers?",
        (_part("subnormals", {
            "keep": "tensor engine: gradual underflow on operands and results",
            "daz": "tensor engine: operands subnormal in their own format read as zero",
            "ftz": "tensor engine: subnormal fp32 sums are written as zero",
            "daz_ftz": "tensor engine: both",
        }),
         _part("subnormals_alu", {
            "keep": "vector, scalar, gpsimd: gradual underflow",
            "daz": "vector, scalar, gpsimd: subnormal fp32 operands read as zero",
            "ftz": "vector, scalar, gpsimd: subnormal fp32 results become zero",
            "daz_ftz": "vector, scalar, gpsimd: both",
        }),
         _part("subnormals_cast", {
            "keep": "casts to narrower floats round gradually into the subnormals",
            "ftz": "casts to narrower floats give zero below the smallest normal number",
        })),
        "open", "nothing public states flushing for any engine (facts 2.6)",
        ("tensor", "vector", "scalar", "gpsimd", "dma"),
    ),
    Question(
        "U7", "How do the two products of a double_row element enter the sum?",
        (_part("double_row_pair", {
            "exact_pair": "the pair is summed exactly, then enters the sum as one term",
            "rounded_pair": "the pair is summed and rounded to fp32, then enters the sum as one term",
            "two_steps": "two terms one after the other: row p slot 0, row p slot 1, row p+1 slot 0 ...",
            "halves": "all rows of slot 0, then all rows of slot 1",
        }, ("exact_pair", "rounded_pair", "two_steps", "halves")),),
        "inferred", "two fp8 products and their addition per cycle (A3:80)", ("tensor",), kernels=_QUANTISED,
    ),
    Question(
        "U8", "How does the MX matmul apply scales and add (gen4)?",
        (_part("mx_dot", {
            "dequant_exact": "operands scaled first, exact sum of all products, rounded once",
            "dequant_order": "operands scaled first, the 4 products of a PE exact, then as matmul_order",
            "fused20": "scale exponents join the products, cut to 20 fraction bits below the largest, summed",
            "fused24": "scale exponents join the products, cut to 24 fraction bits below the largest, summed",
            "group_dot": "dot of each group of 32 rounded to fp32, scaled, then summed like matmul_order",
        }, ("dequant_exact", "dequant_order", "fused24", "group_dot")),
         _part("mx_scale_overflow", {
            "ieee": "a scaled operand beyond the fp32 range is inf, below it rounds into the subnormals",
            "wide": "exponents add without limit; only the sum is rounded to fp32",
        }),
         _part("mx_scale_ff", {
            "nan": "scale byte 0xFF is NaN",
            "pow128": "scale byte 0xFF is 2^128",
        })),
        "open", "public golden dequantises first (MXC:112-183); one print hints at 20 bits (facts 3.8)",
        ("tensor",), kernels=_QUANTISED,
    ),
    Question(
        "U9", "What does a bf16 PSUM tile hold between accumulating instructions (gen4)?",
        (_part("bf16_psum", {
            "rounded_each": "bf16: upcast, fp32 add, round to bf16 at every write",
        }),),
        "documented", "A4:137-141", ("tensor",), kernels=(),
        unmodelled=("fp32 kept between instructions: the tile has no bytes for it",),
    ),
    Question(
        "U10", "Which NaN comes out, and what gives one?",
        (_part("nan", {
            "class": "IEEE 754 decides what is NaN; all NaN bit patterns count as one",
        }),),
        "open", "nothing public on payloads (facts 2.6)", ("tensor", "vector", "scalar", "gpsimd"),
        unmodelled=("payload and sign of NaN",),
    ),
    Question(
        "U11", "Does a row-tiled accumulation equal one K=128 instruction?",
        (_part("row_tiling", {
            "per_instruction": "every instruction is its own sum; follows from U1 and U3",
        }),),
        "inferred", "a row tile uses fewer rows of the same chain (facts 3.1)", ("tensor",),
    ),
    Question(
        "U12", "Are products of 16-bit operands exact on their way into the adder?",
        (_part("product_round", {
            "exact": "exact: 22 bits at most, fits fp32",
            "bf16": "every product is rounded to bf16 first",
        }),),
        "inferred", "fp32 by passes over one array needs exact products; one report differs (facts U12)",
        ("tensor",), unmodelled=("other widths",),
    ),
    Question(
        "V1", "Is there a rounding between op0 and op1 on the vector engine?",
        (_part("fma_vector", _FMA, (False, True)),),
        "inferred", "documented as two sequential fp32 operations (ISA:1081-1158)", ("vector", "gpsimd"),
    ),
    Question(
        "V2", "In which order does tensor_reduce add along the free axes?",
        (_part("reduce_order", _SUM_ORDERS, _SUM_ORDERS),),
        "open", "not documented; default is order-neutral", ("vector",),
        unmodelled=("orders of several axes other than row-major",),
    ),
    Question(
        "V3", "How do accumulating instructions fill their register (exponential, tensor_scalar_reduce ...)?",
        (_part("accum_order", _SUM_ORDERS, _SUM_ORDERS),
         _part("accum_precast", _PRECAST)),
        "inferred", "pre-cast follows from the range_select note (ISA:2842-2846); order not documented",
        ("vector",), kernels=_ATTENTION,
    ),
    Question(
        "V4", "What do the special casts give?",
        (_part("e4m3fn_overflow", {
            "nan": "beyond 464 and infinity: NaN (OCP without saturation)",
            "saturate": "beyond 464 and infinity: 448 with the sign kept",
        }),
         _part("nan_to_int", {
            "zero": "0",
            "min": "the smallest integer of the destination",
            "max": "the largest integer of the destination",
        })),
        "open", "not documented; inf to int saturates like every value out of range (RN:71-72)",
        ("tensor", "vector", "scalar", "gpsimd", "dma"), kernels=_QUANTISED,
    ),
    Question(
        "V5", "What do maximum and minimum give for NaN and for zeros of both signs?",
        (_part("maxmin_nan", {
            "propagate": "NaN if either operand is NaN",
            "number": "the other operand if exactly one is NaN",
            "second": "the second operand if either is NaN",
        }),
         _part("maxmin_zero", {
            "first": "the first operand when both are zero",
            "second": "the second operand when both are zero",
            "ieee": "max gives +0, min gives -0",
        })),
        "open", "not documented", ("vector", "scalar", "gpsimd"),
    ),
    Question(
        "V6", "How accurate are the vector reciprocal and the GpSimd rsqrt and power?",
        (_part("reciprocal_accuracy", _ACCURACY, _ACCURACY),),
        "open", "documented as more precise than the scalar engine's (SH:222-262)", ("vector", "gpsimd"),
        unmodelled=("table and Newton step",),
    ),
    Question(
        "V7", "How does bn_stats compute, and what does an empty half give?",
        (_part("bn", {
            "twopass": "mean first, then the sum of squared deviations",
            "welford": "running mean and M2, element after element",
            "sumsq": "sum and sum of squares",
        }),
         _part("bn_empty", {
            "zero": "count, mean and M2 of an empty half are 0",
            "nan": "mean and M2 of an empty half are NaN",
        })),
        "open", "only the results are described (ISA:1939-1994)", ("vector",), kernels=(),
    ),
    Question(
        "V8", "Which precision has the state of a scan with a 16-bit destination?",
        (_part("scan_state", {
            "fp32": "fp32, cast on output only",
            "rounded": "the stored value is read back",
        }),),
        "inferred", "fp32 maths with a cast at the output (ISA:1997-2049)", ("vector",), kernels=(),
    ),
    Question(
        "V9", "How does stochastic rounding draw its bits?",
        (_part("stochastic", {
            "off": "not modelled: round to nearest even everywhere",
        }),),
        "documented", "off unless NEURON_RT_STOCHASTIC_ROUNDING_EN=1 (facts 2.1)",
        ("tensor", "vector", "scalar", "gpsimd", "dma"),
        unmodelled=("LFSR or XORWOW, 8 to 23 bits",),
    ),
    Question(
        "V10", "How accurate is the exponential of the gen4 vector engine?",
        (_part("exponential_gen4", _ACCURACY, _ACCURACY),),
        "open", "in fp32 (ISA:2283-2385); default is exp of fp32(src - max), rounded once", ("vector",),
        kernels=_ATTENTION, unmodelled=("the table of the scalar engine",),
    ),
    Question(
        "V11", "Does tensor_scalar on int32 compute natively?",
        (_part("int32_tensor_scalar", {
            "fp32": "through fp32, exact to 2^24",
            "native": "32-bit integer arithmetic when data and operands are integers",
        }),),
        "open", "an address-arithmetic lowering exists, its rule is not public (ISA:1124-1126)",
        ("vector", "gpsimd"),
    ),
    Question(
        "S1", "Is scale and bias of the scalar engine fused?",
        (_part("fma_scalar", _FMA, (False, True)),),
        "open", "'pipelined multiply-add' (A2:434-460)", ("scalar",),
    ),
    Question(
        "S2", "How far are the function tables from the functions?",
        (_part("act_table", _ACCURACY, _ACCURACY),),
        "open", "piecewise polynomials without published errors (SH:140-203)", ("scalar",),
        unmodelled=("the tables of a device",),
    ),
    Question(
        "S3", "Where does exp overflow and underflow?",
        (_part("exp_underflow", {
            "gradual": "subnormal results down to 2^-149",
            "flush": "zero below 2^-126",
        }),),
        "open", "only exp(0)=1 and exp(-inf)=0 are documented (ISA:2839-2846)", ("scalar", "vector"),
        kernels=_ATTENTION,
    ),
    Question(
        "S4", "How does activation fill its reduction registers?",
        (_part("act_reduce_order", _SUM_ORDERS, _SUM_ORDERS),
         _part("act_reduce_precast", _PRECAST)),
        "inferred", "post-activation values in 32-bit registers (ISA:1474-1497); order not documented",
        ("scalar",),
    ),
    Question(
        "S5", "Which formulas stand behind gelu_apprx_sigmoid, gelu_apprx_tanh, mish and softplus?",
        (_part("gelu", {
            "formulas": "x sigmoid(1.702 x); 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))",
        }),),
        "inferred", "usual definitions (facts 6.3)", ("scalar",), kernels=(),
        unmodelled=("other constants",),
    ),
    Question(
        "S6", "What does the scalar sin give outside [-pi, pi]?",
        (_part("sin_outside", {
            "cubic": "the cubic Taylor polynomial about the nearer end, continued",
            "math": "the mathematical sine",
        }),),
        "inferred", "sin(9.0) = 27.65: cubic about pi (SH:205-219)", ("scalar",), kernels=("attention_tkg",),
    ),
    Question(
        "G1", "How do GpSimd integers overflow, and in which order does it add across partitions?",
        (_part("int_overflow", {
            "wrap": "modulo 2^32",
            "saturate": "to the ends of the range",
        }),
         _part("partition_reduce_order", _SUM_ORDERS, _SUM_ORDERS)),
        "open", "not documented", ("gpsimd",), kernels=(), unmodelled=("rounding of an integer average",),
    ),
    Question(
        "G2", "Which of equal values do topk and the max family report?",
        (_part("ties", {
            "lowest": "the lowest index first",
            "highest": "the highest index first",
        }),),
        "open", "unknown (ISA:3321-3359)", ("gpsimd", "vector"), kernels=(),
    ),
    Question(
        "D1", "How do DMA casts round, and in which order does dma_compute add?",
        (_part("dma_cast_round", {
            "rne": "to nearest even, overflow to infinity",
            "rz": "towards zero, overflow to the largest finite number",
        }),
         _part("dma_add_order", {
            "list": "in the order of the source list",
            "list_rev": "in the reverse order of the source list",
        }, ("list", "list_rev"))),
        "inferred", "casts go through fp32 (ISA:283-285); the order is not documented", ("dma",),
    ),
    Question(
        "D2", "Do hardware and software descriptors cast differently?",
        (_part("dge_cast", {
            "same": "no difference; hardware descriptors refuse differing dtypes",
        }),),
        "inferred", "RN:390", ("dma",), kernels=(),
    ),
    Question(
        "Q1", "How does quantize_mx round, and what do NaN, infinity and subnormal groups give (gen4)?",
        (_part("mx_round", {
            "rne": "to nearest even",
            "rz": "towards zero",
        }),
         _part("mx_special", {
            "nan_group": "a NaN or infinity makes the scale 0xFF and the whole group NaN",
            "by_exponent": "NaN and infinity count as exponent 128; each element is cast by itself",
        })),
        # A subnormal amax asks nothing more: its true exponent and an exponent field of 0 both end at the
        # smallest scale, 2^-127. Flushed operands are U6.
        "open", "not documented (facts 4); the public CPU formula reads the exponent field", ("vector",),
        kernels=_QUANTISED, unmodelled=("stochastic rounding",),
    ),
)
# fmt: on

QUESTIONS: Mapping[str, Question] = MappingProxyType({row.id: row for row in _ROWS})
#: Profile field -> its part, over all questions.
PARTS: Mapping[str, Part] = MappingProxyType({part.field: part for row in _ROWS for part in row.parts})


def question_of(name: str) -> Question:
    """The question that the profile field `name` belongs to; KeyError if no question has it."""
    for row in _ROWS:
        if any(part.field == name for part in row.parts):
            return row
    raise KeyError(name)


def _text(name: str) -> Any:
    return field(default=PARTS[name].default)


@dataclass(frozen=True)
class NumericsProfile:
    """One answer to every open question, for one chip generation and NKI version.

    Fields carry the names of `PARTS`; `QUESTIONS` says what each candidate means. A value that is no
    candidate raises ValueError naming the field, the value and the candidates.
    """

    #: gen2 (trn1, inf2), gen3 (trn2) or gen4 (trn3).
    generation: str = "gen3"
    #: NKI version; decides the quantize_mx scale rule (changed in 0.5.0).
    nki: tuple[int, ...] = (0, 6, 0)
    matmul_order: str = _text("matmul_order")
    acc_round: str = _text("acc_round")
    psum_entry: str = _text("psum_entry")
    psum_add_round: str = _text("psum_add_round")
    fp32_matmul: str = _text("fp32_matmul")
    tf32_operand: str = _text("tf32_operand")
    subnormals: str = _text("subnormals")
    subnormals_alu: str = _text("subnormals_alu")
    subnormals_cast: str = _text("subnormals_cast")
    double_row_pair: str = _text("double_row_pair")
    mx_dot: str = _text("mx_dot")
    mx_scale_overflow: str = _text("mx_scale_overflow")
    mx_scale_ff: str = _text("mx_scale_ff")
    bf16_psum: str = _text("bf16_psum")
    nan: str = _text("nan")
    row_tiling: str = _text("row_tiling")
    product_round: str = _text("product_round")
    fma_vector: bool = _text("fma_vector")
    reduce_order: str = _text("reduce_order")
    accum_order: str = _text("accum_order")
    accum_precast: bool = _text("accum_precast")
    e4m3fn_overflow: str = _text("e4m3fn_overflow")
    nan_to_int: str = _text("nan_to_int")
    maxmin_nan: str = _text("maxmin_nan")
    maxmin_zero: str = _text("maxmin_zero")
    reciprocal_accuracy: str = _text("reciprocal_accuracy")
    bn: str = _text("bn")
    bn_empty: str = _text("bn_empty")
    scan_state: str = _text("scan_state")
    stochastic: str = _text("stochastic")
    exponential_gen4: str = _text("exponential_gen4")
    int32_tensor_scalar: str = _text("int32_tensor_scalar")
    fma_scalar: bool = _text("fma_scalar")
    act_table: str = _text("act_table")
    exp_underflow: str = _text("exp_underflow")
    act_reduce_order: str = _text("act_reduce_order")
    act_reduce_precast: bool = _text("act_reduce_precast")
    gelu: str = _text("gelu")
    sin_outside: str = _text("sin_outside")
    int_overflow: str = _text("int_overflow")
    partition_reduce_order: str = _text("partition_reduce_order")
    ties: str = _text("ties")
    dma_cast_round: str = _text("dma_cast_round")
    dma_add_order: str = _text("dma_add_order")
    dge_cast: str = _text("dge_cast")
    mx_round: str = _text("mx_round")
    mx_special: str = _text("mx_special")
    #: (question id, where it was measured) for the answers that a device has given. Not part of the digest.
    evidence: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        _check_choice("generation", self.generation, GENERATIONS)
        _check_version(self.nki)
        for name, part in PARTS.items():
            _check_choice(name, getattr(self, name), part.candidates)
        for identifier, _ in self.evidence:
            _check_choice("evidence", identifier, QUESTIONS)

    @property
    def mx_scale_bias(self) -> int:
        """1 for the quantize_mx scale rule since NKI 0.5.0, 0 for the OCP sample rule before (facts 4)."""
        return 1 if self.nki >= (0, 5) else 0

    def replace(self, **changes: Any) -> NumericsProfile:
        """A copy with the named fields changed; unknown fields and values raise ValueError."""
        _check_names(changes)
        return replace(self, **changes)

    def status(self, identifier: str) -> str:
        """Status of the answer to question `identifier`: 'measured' when this profile has evidence."""
        measured = dict(self.evidence)
        return "measured" if identifier in measured else QUESTIONS[identifier].status

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, in the order of the fields."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain["nki"] = list(self.nki)
        plain["evidence"] = [list(pair) for pair in self.evidence]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> NumericsProfile:
        """The profile of a dictionary; absent fields take the default, unknown ones raise ValueError."""
        _check_names(plain)
        changes = dict(plain)
        if "nki" in changes:
            changes["nki"] = tuple(changes["nki"])
        if "evidence" in changes:
            changes["evidence"] = tuple((str(key), str(text)) for key, text in changes["evidence"])
        return cls(**changes)

    def changed(self) -> dict[str, Value]:
        """Fields whose choice differs from the default, in the order of the questions."""
        chosen = {name: getattr(self, name) for name in PARTS}
        return {name: value for name, value in chosen.items() if value != PARTS[name].default}

    def digest(self) -> str:
        """12 hexadecimal digits that depend on every number-giving field and on nothing else."""
        plain = self.to_dict()
        del plain["evidence"]
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _check_choice(name: str, value: Any, candidates: Iterable[Any]) -> None:
    # type() beside ==: True equals 1 and would otherwise pass for a bool candidate.
    if not any(value == known and type(value) is type(known) for known in candidates):
        listed = ", ".join(repr(known) for known in candidates)
        raise ValueError(f"profile field '{name}': {value!r} is no candidate; choose one of {listed}")


def _check_version(version: Any) -> None:
    whole = isinstance(version, tuple) and all(type(part) is int and part >= 0 for part in version)
    if not whole or not version:
        raise ValueError(f"profile field 'nki': {version!r} is no version; give integers like (0, 6, 0)")


def _check_names(names: Iterable[str]) -> None:
    known = [item.name for item in fields(NumericsProfile)]
    unknown = sorted(set(names) - set(known))
    if unknown:
        named = ", ".join(map(repr, unknown))
        raise ValueError(f"profile has no field {named}; fields are {', '.join(known)}")


#: The answers the goldens are computed with: order-neutral sums, correctly rounded functions.
DEFAULT = NumericsProfile()

#: Every sum in sequence, in fp32. Elements that differ between DEFAULT and CHAIN are order-sensitive.
CHAIN = DEFAULT.replace(
    matmul_order="chain",
    mx_dot="dequant_order",
    reduce_order="chain",
    accum_order="chain",
    act_reduce_order="chain",
    partition_reduce_order="chain",
)


def variants(base: NumericsProfile = DEFAULT, include: Iterable[str] = ()) -> Iterator[tuple[str, NumericsProfile]]:
    """Profiles that answer one open question differently from `base`, for the envelope of grade B.

    Yields ("field=value", profile). Questions outside the noise class are played only when their id or field
    is in `include` (U12 is such a question); an id or field that no question has raises ValueError.
    """
    wanted = set(include)
    for name in wanted:
        _check_choice("include", name, [*QUESTIONS, *PARTS])
    for row in _ROWS:
        for part in row.parts:
            asked = row.id in wanted or part.field in wanted
            for value in part.candidates if asked else part.envelope:
                if value != getattr(base, part.field):
                    yield f"{part.field}={value}", base.replace(**{part.field: value})
