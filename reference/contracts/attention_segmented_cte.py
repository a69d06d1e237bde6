"""The contract of `attention_segmented_cte`: attention of a chunk of new tokens over a paged KV cache that
already holds them, segment by segment.

Letters: B sequences, H query heads of a sequence, BQ = B*H rows of q (row = sequence*H + head), Hkv KV heads,
S new tokens, P prior tokens (a device value), d head size, bs tokens of a block, NB blocks of the cache, MB
entries of a sequence's block table, G tokens of a prior segment, W sliding window. io is the dtype of q, kv
that of the caches. Slices and groups are those of `attention_segmented_cte_plan`, segments and tiles those of
`reference.segment_schedule`. R_T(x) is one rounding of a float32 value to dtype T; every other operation named
is one rounding to float32.

Sources of the limits: the published API page ("seed"); of the rounding points and further limits: the fact
sheet of this kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

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
from reference.contracts.attention_segmented_cte_plan import PARTITIONS, Slice, slices
from reference.contracts.float32_number import is_float32_number
from reference.contracts.tensor_call import TENSOR_RULES, Tensor, TensorCall

KERNEL = "attention_segmented_cte"

#: Legal dtypes of q and of the result.
DTYPES = ("bfloat16", "float32")
KV_DTYPES = ("bfloat16", "float8_e4m3", "float8_e5m2")
SINK_DTYPES = ("float32", "bfloat16")
BLOCK_SIZES = tuple(2**n for n in range(2, 10))
#: Longest chunk, prior segment and window: what one section of the public core holds.
SECTION = 10240
#: Token positions and block rows pass through float32.
TOKEN_LIMIT = 2**23
ROW_LIMIT = 2**24
#: Rows of the scale tensors, whatever the head size.
SCALE_ROWS = 128


@dataclass(frozen=True)
class Config:
    """One call without its values: `prior_tokens` and `kvp_offset` are known to the device only.

    Any values can be written down; `refusal` tells the legal ones.
    """

    batch: int
    seqlen_q: int
    d_head: int
    block_size: int
    prior_seg_size: int
    num_blocks: int
    #: Entries of a row of `block_tables`.
    max_blocks: int
    num_q_heads: int = 1
    num_kv_heads: int = 1
    scale: float = 1.0
    tp_q: bool = True
    tp_out: bool = False
    #: Tokens a query sees up to and with its own; 0 for all.
    sliding_window: int = 0
    #: dtype of the sink, None without one.
    sink: str | None = None
    #: Whether kvp_offset is given.
    kvp: bool = False
    k_pre_transposed: bool = False
    #: Whether k_scale and v_scale are given.
    k_scale: bool = False
    v_scale: bool = False
    #: dtype of q and of the result, called io.
    dtype: str = "bfloat16"
    #: dtype of k_cache and v_cache.
    kv_dtype: str = "bfloat16"
    lnc: int = 2

    @property
    def rows(self) -> int:
        """BQ: rows of q."""
        return self.batch * self.num_q_heads

    def kv_head(self, row: int) -> int:
        """The KV head that a row of q attends."""
        return (row % self.num_q_heads) * self.num_kv_heads // self.num_q_heads

    def sequence(self, row: int) -> int:
        """The sequence that a row of q belongs to."""
        return row // self.num_q_heads

    @property
    def slices(self) -> tuple[Slice, ...]:
        """The shares of the cores."""
        return slices(self)


# --- shapes -----------------------------------------------------------------------------------------------


def tensors(config: Config) -> dict[str, Tensor]:
    """The tensors of a call by argument name."""
    c = config
    found = {
        "q": Tensor(_turned((c.rows, c.seqlen_q, c.d_head), not c.tp_q), c.dtype),
        "k_cache": _keys(c),
        "v_cache": Tensor((c.num_blocks, c.num_kv_heads, c.block_size, c.d_head), c.kv_dtype),
        "block_tables": Tensor((c.batch, c.max_blocks), "int32"),
        "prior_tokens": Tensor((1, 1), "int32"),
    }
    if c.sink is not None:
        found["sink"] = Tensor((c.rows, 1), c.sink)
    if c.kvp:
        found["kvp_offset"] = Tensor((1, 1), "int32")
    for name in ("k_scale", "v_scale"):
        if getattr(c, name):
            found[name] = Tensor((SCALE_ROWS, 1), "float32")
    return found


def results(config: Config) -> dict[str, Tensor]:
    """The results of a call."""
    c = config
    found = {"out": Tensor(_turned((c.rows, c.seqlen_q, c.d_head), c.tp_out), c.dtype)}
    if c.kvp:
        statistics = Tensor((c.rows, c.seqlen_q), "float32")
        found |= {"neg_max": statistics, "sum_recip": statistics}
    return found


def _turned(shape: tuple[int, int, int], turn: bool) -> tuple[int, ...]:
    return (shape[0], shape[2], shape[1]) if turn else shape


def _keys(c: Config) -> Tensor:
    if c.k_pre_transposed:
        return Tensor((c.num_blocks * c.num_kv_heads, c.d_head, c.block_size), c.kv_dtype)
    return Tensor((c.num_blocks, c.num_kv_heads, c.block_size, c.d_head), c.kv_dtype)


# --- arguments and results --------------------------------------------------------------------------------

_FLAG = ("True", "False")
_ARGUMENTS = (
    Argument("q", "hbm", "tp_q: [BQ, S, d]; else [BQ, d, S]", DTYPES, "Queries; the dtype is called io."),
    Argument(
        "k_cache", "hbm",
        "[NB, Hkv, bs, d]; k_pre_transposed: [NB*Hkv, d, bs], row block*Hkv + KV head", KV_DTYPES,
        "Paged keys, those of the new tokens included.",
    ),
    Argument(
        "v_cache", "hbm", "[NB, Hkv, bs, d]", KV_DTYPES, "Paged values, dtype of k_cache, never transposed.",
    ),
    Argument(
        "block_tables", "hbm", "[B, MB], entry e of a row: block of tokens e*bs .. e*bs + bs - 1", ("int32",),
        "Prior blocks first, those of the new tokens right behind. Only entries in use are followed; -1 "
        "skips a page, which reads as zeros.",
    ),
    Argument(
        "prior_tokens", "hbm", "[1, 1]", ("int32",), "P, a multiple of bs, one count for all sequences."
    ),
    Argument("block_size", "", "", ("int",), "bs, a power of two from 4 to 512."),
    Argument("prior_seg_size", "", "", ("int",), "G, a multiple of bs."),
    Argument("scale", "", "", ("float",), "Multiplies the scores, not the sink.", "1.0"),
    Argument("tp_q", "", "", _FLAG, "Layout of q.", "True"),
    Argument("tp_out", "", "", _FLAG, "Layout of the result.", "False"),
    Argument(
        "sliding_window", "", "", ("int", "None"),
        "W: a query sees W tokens with its own; a multiple of bs. None and 0: all.", "None",
    ),
    Argument(
        "sink", "hbm", "[BQ, 1]", SINK_DTYPES, "One logit per row of q, without a value row.", "None"
    ),
    Argument("num_q_heads", "", "", ("int",), "H.", "1"),
    Argument(
        "kvp_offset", "hbm", "[1, 1]", ("int32",),
        "Query i sees local key j iff j <= i + kvp_offset; the result has statistics beside it.", "None",
    ),
    Argument("k_pre_transposed", "", "", _FLAG, "Layout of k_cache.", "False"),
    Argument("k_scale", "hbm", "[128, 1], row = head dim", ("float32",), "Multiplies q before QK^T.", "None"),
    Argument(
        "v_scale", "hbm", "[128, 1], row = head dim", ("float32",), "Multiplies the normalised result.", "None"
    ),
)  # fmt: skip

_RESULTS = (
    Result("out", "hbm", "tp_out: [BQ, d, S]; else [BQ, S, d]", "io"),
    Result("neg_max", "hbm", "[BQ, S], -1 * row maximum; 2**127 where nothing is seen", "float32", "kvp_offset"),
    Result("sum_recip", "hbm", "[BQ, S], 1 / row sum; 2**126 where nothing is seen", "float32", "kvp_offset"),
)


# --- rules ------------------------------------------------------------------------------------------------

_SIZES = (
    "batch", "num_q_heads", "num_kv_heads", "seqlen_q", "d_head", "block_size", "num_blocks", "max_blocks",
    "prior_seg_size",
)  # fmt: skip
_FLAGS = ("tp_q", "tp_out", "k_pre_transposed", "kvp", "k_scale", "v_scale")


def _show(*names: str) -> Callable[[Config], str]:
    return lambda config: ", ".join(f"{name}={getattr(config, name)!r}" for name in names)


def _positive_sizes(c: Config) -> bool:
    sizes = [getattr(c, name) for name in _SIZES]
    whole = all(type(size) is int for size in (*sizes, c.sliding_window))
    return whole and min(sizes) >= 1 and c.sliding_window >= 0


def _legal_dtypes(c: Config) -> bool:
    return c.dtype in DTYPES and c.kv_dtype in KV_DTYPES and c.sink in (None, *SINK_DTYPES)


_SEED, _FACTS = "published API page", "fact sheet 3"
_RULES: tuple[Rule[Config], ...] = (
    Rule(
        "sizes", "shapes", "all sizes must be integers of at least 1, sliding_window of at least 0",
        _positive_sizes, _show(*_SIZES, "sliding_window"), "set the sizes of the call", _FACTS,
    ),
    Rule(
        "flags", "flags", "flags must be bool",
        lambda c: all(type(getattr(c, name)) is bool for name in _FLAGS), _show(*_FLAGS),
        "pass options by keyword", _SEED,
    ),
    Rule(
        "lnc", "launch grid", "LNC must be 1 or 2", lambda c: c.lnc in (1, 2), _show("lnc"),
        "launch on one or two cores", _FACTS,
    ),
    Rule(
        "scale", "scale", "scale must be a finite float32 number",
        lambda c: is_float32_number(c.scale), _show("scale"), "pass a number",
        "decision D2",
    ),
    Rule(
        "dtypes", "q, k_cache, v_cache, sink",
        f"q must be of {', '.join(DTYPES)}; both caches of {', '.join(KV_DTYPES)}; sink of "
        f"{', '.join(SINK_DTYPES)}",
        _legal_dtypes, _show("dtype", "kv_dtype", "sink"), "cast the tensor", "decision D10",
    ),
    Rule(
        "d_head", "q", "the head size must be at most 128", lambda c: c.d_head <= PARTITIONS, _show("d_head"),
        "split the head: larger ones need a later kernel", _FACTS,
    ),
    Rule(
        "block_size", "block_size", "block_size must be a power of two from 4 to 512",
        lambda c: c.block_size in BLOCK_SIZES, _show("block_size"), "choose another page size", _FACTS,
    ),
    Rule(
        "heads", "num_q_heads", "num_q_heads must be a multiple of the KV heads, or 1",
        lambda c: c.num_q_heads == 1 or c.num_q_heads % c.num_kv_heads == 0,
        _show("num_q_heads", "num_kv_heads"), "repeat KV heads", _FACTS,
    ),
    Rule(
        "seqlen", "q", "the chunk must be a multiple of 128 tokens and of block_size",
        lambda c: c.seqlen_q % PARTITIONS == 0 and c.seqlen_q % c.block_size == 0,
        _show("seqlen_q", "block_size"), "pad q, and its pages with -1", _FACTS,
    ),
    Rule(
        "seqlen_limit", "q", f"the chunk must be at most {SECTION} tokens", lambda c: c.seqlen_q <= SECTION,
        _show("seqlen_q"), "pass shorter chunks", _FACTS,
    ),
    Rule(
        "segment", "prior_seg_size", "prior_seg_size must be a multiple of block_size",
        lambda c: c.prior_seg_size % c.block_size == 0, _show("prior_seg_size", "block_size"),
        "round it up", _FACTS,
    ),
    Rule(
        "segment_limit", "prior_seg_size", f"prior_seg_size must be at most {SECTION}",
        lambda c: c.prior_seg_size <= SECTION, _show("prior_seg_size"), "use shorter segments", _FACTS,
    ),
    Rule(
        "window", "sliding_window", "sliding_window must be a multiple of block_size",
        lambda c: c.sliding_window % c.block_size == 0, _show("sliding_window", "block_size"),
        "use shorter blocks", _FACTS,
    ),
    Rule(
        "window_limit", "sliding_window", f"sliding_window must be at most {SECTION}",
        lambda c: c.sliding_window <= SECTION, _show("sliding_window"), "attend without a window",
        "decision D7",
    ),
    Rule(
        "window_kvp", "kvp_offset", "kvp_offset cannot be combined with sliding_window",
        lambda c: not (c.kvp and c.sliding_window), _show("sliding_window"), "leave one of them out",
        "fact sheet 10, B17",
    ),
    Rule(
        "tokens", "block_tables", "max_blocks*block_size must be at most 2**23, blocks*KV heads below 2**24",
        lambda c: c.max_blocks * c.block_size <= TOKEN_LIMIT and c.num_blocks * c.num_kv_heads < ROW_LIMIT,
        _show("max_blocks", "block_size", "num_blocks", "num_kv_heads"),
        "shorten the table: positions pass through float32", "fact sheet 6.2",
    ),
    Rule(
        "table", "block_tables", "the table must have room for the chunk",
        lambda c: c.max_blocks * c.block_size >= c.seqlen_q, _show("max_blocks", "block_size", "seqlen_q"),
        "widen the table", _FACTS,
    ),
)  # fmt: skip


# --- rounding points --------------------------------------------------------------------------------------


def _point(
    name: str, index: str, shape: str, produced: str, when: str = "", *, dtype: str = "float32",
    memory: str = "sbuf", exact: bool = False,
) -> RoundingPoint:  # fmt: skip
    return RoundingPoint(name, dtype, memory, shape, tuple(index.split()), produced, exact, when)


def _merge(name: str, produced: str, shape: str = "[128, 1]", exact: bool = False) -> RoundingPoint:
    return _point(name, "row kind group", shape, produced, "segments that are merged", exact=exact)


_PRIOR, _FLASH = "no window", "full segments without kvp_offset"
_OF_SEGMENT = "row kind group"
_POINTS = (
    _point("turns", "", "[1, 1]", "float32(P) * float32(1/G), vector engine", _PRIOR),
    _point("num_full", "", "[1, 1]", "floor(turns)", _PRIOR, dtype="int32", exact=True),
    _point("partial", "", "[1, 1]", "P - num_full*G", _PRIOR, dtype="int32", exact=True),
    _point("query", "row", "[d, queries of the slice]", "R_bf16(q)", dtype="bfloat16"),
    _point("query_scaled", "row", "[d, queries of the slice]", "R_bf16(query * k_scale[d])", "k_scale",
           dtype="bfloat16"),
    _point("score", f"{_OF_SEGMENT} tile", "[128, keys of the tile]",
           "sum over d of query*K, one matmul, queries stationary", memory="psum"),
    _point("logit", f"{_OF_SEGMENT} tile", "[128, keys of the tile]",
           "score * scale (vector engine) where visible, else -3.4028235e38"),
    _point("neg_max", _OF_SEGMENT, "[128, 1]",
           "minimum(-1 * maximum of logits and sink, 2**127); full segments without kvp_offset: minimum with "
           "that of the running state before it", exact=True),
    _point("prob", f"{_OF_SEGMENT} tile", "[128, keys of the tile]",
           "R_bf16(exp(logit + neg_max)), scalar engine", dtype="bfloat16"),
    _point("row_sums", _OF_SEGMENT, "[128, processed tiles, then the sink's]",
           "sum of exp(logit + neg_max) before it is rounded, by the scalar engine's accumulator; sink: "
           "exp(sink + neg_max)"),
    _point("sum", _OF_SEGMENT, "[128, 1]", "sum of row_sums over its columns, vector engine"),
    _point("pv", f"{_OF_SEGMENT} large_tile", "[128, d]",
           "sum over value tiles ascending, one matmul each into PSUM: prob^T stationary, V moving",
           memory="psum"),
    _point("o_part", f"{_OF_SEGMENT} large_tile", "[128, d]", "sum of the earlier large tiles + pv",
           "not for the first large tile"),
    _point("corr", "row group", "[128, 1]", "exp(-1.0 * neg_max before + neg_max), scalar engine", _FLASH),
    _point("run_sum", "row group", "[128, 1]", "sum before * corr, then + sum (V1 rounds between)", _FLASH),
    _point("run_out", "row group", "[128, d]", "out before * corr, then + out of the segment (V1)", _FLASH),
    _merge("merged_top", "minimum of both neg_max", exact=True),
    _merge("old_factor", "exp(merged_top - neg_max before): subtract, stored, then exp"),
    _merge("new_factor", "exp(merged_top - neg_max)"),
    _merge("old_sum", "sum before * old_factor"),
    _merge("new_sum", "sum * new_factor"),
    _merge("merged_sum", "old_sum + new_sum"),
    _merge("old_out", "out before * old_factor", "[128, d]"),
    _merge("merged_out", "out of the segment * new_factor, then + old_out (V1 rounds between)", "[128, d]"),
    _point("recip", "row group", "[128, 1]", "reciprocal of maximum(sum, 2**-126), vector engine"),
    _point("rounded", "row group", "[128, d]", "R_bf16(out), before it is normalised", dtype="bfloat16"),
    _point("norm", "row group", "[128, d]", "rounded * recip", "v_scale"),
    _point("out", "row group", "[128, d]", "R_bf16(rounded * recip), with v_scale R_bf16(norm * v_scale[d])",
           dtype="bfloat16"),
)  # fmt: skip

_DECISIONS = (
    Decision(
        "D1", "Block tables are left-aligned: entry = token // block_size. A skipped page among prior tokens "
        "in use is refused.",
        "The published page speaks of prepended -1, which no public code reads.",
    ),
    Decision(
        "D2", "Any finite scale; it multiplies before the mask.",
        "Public kernels work with 1.0 only; after the mask a negative scale would turn the mask around.",
    ),
    Decision(
        "D3", "v_scale runs along the head dim, k_scale acts in every segment, a row has its own sink, which "
        "is counted once.",
        "What the published page says; defects B1, B3, B5, B7.",
    ),
    Decision(
        "D4", "The extra segment of a split row and the partial segment under kvp_offset attend their own "
        "keys only, and the latter masks by query as well.",
        "Public kernels add zero columns to the denominator: B2, B12.",
    ),
    Decision("D5", "Tiles of K and V hold bfloat16, whatever the cache.", "Exact, and one PE path."),
    Decision(
        "D6", "A split row is cut at a multiple of the block size.",
        "A table entry cannot be half of one core's tokens.",
    ),
    Decision(
        "D7", "The window's prior tokens are right-aligned in whole key tiles; one softmax over all.",
        "Masks and tiles are then known before the launch; public kernels left-align.",
    ),
    Decision(
        "D8", "Row maxima are at least -2**127, sums at least 2**-126.",
        "A row that sees nothing (kvp_offset) stays finite and has weight 0 in a later merge.",
    ),
    Decision("D9", "Segments are as long as their keys, not rounded up to 512.", "B6; no bit depends on it."),
    Decision(
        "D10", "float16 queries, head sizes above 128 and kvp_offset with a window are refused.",
        "The kernel computes in bfloat16; later versions have the others.",
    ),
    Decision("D11", "kvp_offset uses both cores, by rows.", "Public kernels leave one idle."),
    Decision(
        "D12", "A NaN in V of a new token reaches the queries of its own group of 128 and later ones.",
        "The PE multiplies by 0. Pages of padding tokens should be -1.",
    ),
)  # fmt: skip

_DEFECTS = (
    Defect("B1", "sink lost or counted twice", "W=128, P=0; P in 0, G/2, G, 2.5 G; sink near the row's log-sum-exp",
           "release notes 2.30"),
    Defect("B2", "zero columns in the extra segment", "odd BQ, LNC2, S=256", "release notes 2.31"),
    Defect("B3", "sink of head 0 for all rows", "a different sink per row", "release notes 2.31"),
    Defect("B4", "never-written SBUF meets a weight of 0", "poisoned SBUF, S=256, G=1024, P=0, odd BQ, LNC2",
           "release notes 2.31"),
    Defect("B5", "k_scale missing in the partial pass", "k_scale 1.5, P no multiple of G", "two public versions"),
    Defect("B6", "tails of tiles not loaded", "W=640, bs=128; G no multiple of 512; pre-transposed K", "fact sheet 10"),
    Defect("B7", "v_scale along queries", "v_scale = linspace(0.5, 1.5)", "two public versions"),
    Defect("B8", "prior attended twice", "P=256, G=512", "public code comment"),
    Defect("B9", "tiles share SBUF addresses", "a machine with real addresses", "two public versions"),
    Defect("B10", "output accumulated in bf16", "G=512, P=65536, signed inputs", "public code comment"),
    Defect("B11", "table offset shared by rows", "BQ >= 2 and 2 full segments", "public code comment"),
    Defect("B12", "zero scores under kvp_offset", "kvp_offset = P, partial prior", "fact sheet 10"),
    Defect("B13", "rounded reciprocal counts one segment less", "P = G = 5248, or 656 with bs=16", "fact sheet 2.3"),
    Defect("B14", "skipped page is an error or stale", "-1 behind the tokens, partial prior, d=64", "fact sheet 2.4"),
    Defect("B15", "block 0 read as padding", "NaN in block 0, partial prior", "fact sheet 2.4"),
    Defect("B16", "table narrower than the window", "W=128, S=128, P=0, G=128, MB=1", "fact sheet 10"),
    Defect("B17", "offset ignored under a window", "both given", "fact sheet 10"),
)  # fmt: skip

CONTRACT: Contract[Config] = Contract(
    kernel=KERNEL,
    summary="Causal attention of a chunk over a paged KV cache, in segments, with online softmax.",
    arguments=_ARGUMENTS,
    results=_RESULTS,
    rules=_RULES,
    points=_POINTS,
    decisions=_DECISIONS,
    defects=_DEFECTS,
)

refusal, validate = CONTRACT.refusal, CONTRACT.validate


# --- calls ------------------------------------------------------------------------------------------------


Call = TensorCall[Config]


def _number(call: Call, name: str) -> int | None:
    """The value of a (1, 1) tensor, None where it is not known here."""
    tensor = call.values(name)
    return None if tensor is None else int(tensor[0, 0])


def _prior_fits(call: Call) -> bool:
    c, prior = call.config, _number(call, "prior_tokens")
    if prior is None:
        return True
    return prior >= 0 and prior % c.block_size == 0 and prior + c.seqlen_q <= c.max_blocks * c.block_size


def entries_in_use(config: Config, prior: int) -> tuple[int, int, int]:
    """First entry that is followed, first entry of the new tokens, end: the same for every sequence."""
    own = prior // config.block_size
    first = max(0, own - config.sliding_window // config.block_size) if config.sliding_window else 0
    return first, own, own + config.seqlen_q // config.block_size


def _stray_entry(call: Call) -> str:
    """The first table entry in use that names no block, in words; '' for none."""
    table, prior = call.values("block_tables"), _number(call, "prior_tokens")
    if table is None or prior is None:
        return ""
    first, own, end = entries_in_use(call.config, prior)
    named = (table >= 0) & (table < call.config.num_blocks)
    skipped = np.logical_and.accumulate(table[:, own:end][:, ::-1] == -1, axis=1)[:, ::-1]
    fine = np.concatenate([named[:, first:own], named[:, own:end] | skipped], axis=1)
    if fine.all():
        return ""
    row, entry = (int(index) for index in np.argwhere(~fine)[0])
    return f"block_tables[{row}, {first + entry}] = {int(table[row, first + entry])}"


def _offset_fits(call: Call) -> bool:
    offset = _number(call, "kvp_offset")
    return offset is None or abs(offset) < TOKEN_LIMIT


#: Tried after the rules about the Config.
CALL_RULES: tuple[Rule[Call], ...] = (
    *TENSOR_RULES,
    Rule(
        "prior_tokens", "prior_tokens",
        "prior_tokens must be a multiple of block_size, not negative, and fit the table with the chunk",
        _prior_fits, lambda c: f"{_number(c, 'prior_tokens')}",
        "round the prior to whole pages, or widen the table", _SEED,
    ),
    Rule(
        "table_entries", "block_tables",
        "entries in use must name a block of the cache; only the last pages of the chunk may be -1",
        lambda c: not _stray_entry(c), _stray_entry, "left-align the table, -1 only behind the tokens",
        "decision D1",
    ),
    Rule(
        "kvp_offset", "kvp_offset", "kvp_offset must be below 2**23 in magnitude",
        _offset_fits, lambda c: f"{_number(c, 'kvp_offset')}", "positions pass through float32", "fact sheet 6.2",
    ),
)  # fmt: skip


def call_refusal(config: Config, given: Mapping[str, Any]) -> Refusal | None:
    """The first rule, about the Config or about the tensors, that a call violates.

    `given` holds tensors by argument name; None counts as not given. Values are looked at where a tensor is a
    NumPy array.
    """
    return refusal(config) or first_refusal(KERNEL, CALL_RULES, Call(config, given, tensors(config)))


def validate_call(config: Config, given: Mapping[str, Any]) -> None:
    """Raises KernelArgumentError before anything is launched when a call is not legal."""
    raise_refusal(call_refusal(config, given))
