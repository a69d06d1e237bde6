"""The contract of `attention_tkg`: attention of a few new tokens over a KV cache, one KV head per call.

Letters: B batches, H query heads per KV head, s active tokens, G = H*s columns of a batch, S = curr_sprior
slots used, d head size, io dtype of q, kv dtype of the caches, L resized block length. The plan (cores, flash
tiles f, key tiles t, batch tiles bt, column tiles ct, score groups g, shift chunks k) is in
`attention_tkg_plan`. R_T(x) is one rounding of a float32 value to dtype T; every other operation named is one
rounding to float32.

Column of a batch tile: (b - first batch)*G + h*s + j. Key k of a flash tile with n key tiles sits at
partition p of key tile t: strided k = p*n + t, sequential k = t*128 + p, block k = (t//L)*128*L + p*L + t%L.

Sources of the limits: the published API page ("seed"); of the rounding points and further limits: the fact
sheet of this kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
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
from reference.contracts.attention_tkg_plan import BANK, PARTITIONS, Plan, plan
from reference.contracts.tensor_call import TENSOR_RULES, Tensor, TensorCall
from reference.numerics.formats import format_of

KERNEL = "attention_tkg"

FP8 = "float8_e4m3"
#: Legal dtypes of q, of the caches and of the active keys and values.
DTYPES = ("bfloat16", "float16", "float32", FP8)
#: Legal dtypes of out and of the sink.
FLOATS = ("float32", "bfloat16", "float16")
MASK_DTYPES = ("uint8", "int32", "float32", "bfloat16", "float16")
#: Which limits hold: those of the published page, or those of later public versions (decision D12).
LIMITS = ("seed", "latest")

#: Scores of one batch in a flash tile, as the bytes the public kernels count for it.
SCORE_BYTES = 8
SCORE_LIMIT = 16 * 1024 * 1024
#: Longest context of fused RoPE: above, the angle reduction leaves the range of the sine.
ROPE_LIMIT = 2**17
#: Block ids pass through float32.
ID_LIMIT = 2**24


@dataclass(frozen=True)
class Config:
    """One call: the fields of AttnTKGConfig first, in its order, then what its tensors and the launch add.

    Any values can be written down; `refusal` tells the legal ones.
    """

    bs: int
    q_head: int
    s_active: int
    curr_sprior: int
    full_sprior: int
    d_head: int
    #: Block length of a block KV cache, 0 for a flat one.
    block_len: int = 0
    tp_k_prior: bool = False
    strided_mm1: bool = True
    use_pos_id: bool = False
    fuse_rope: bool = False
    use_gpsimd_sb2sb: bool = True
    qk_in_sb: bool = True
    k_out_in_sb: bool = False
    out_in_sb: bool = False
    enable_fa_s_prior_tiling: bool = True
    #: dtype of q, called io.
    dtype: str = "bfloat16"
    #: dtype of k_prior and v_prior.
    kv_dtype: str = "bfloat16"
    #: dtype of k_active and v_active.
    active_dtype: str = "bfloat16"
    out_dtype: str = "bfloat16"
    mask_dtype: str = "uint8"
    #: dtype of the sink, None without one.
    sink: str | None = None
    #: Whether k_out is given.
    k_out: bool = False
    #: Whether DBG_TENSORS is given.
    debug: bool = False
    #: Rows of a flat cache (B+); 0 means bs.
    cache_rows: int = 0
    #: Blocks of a block KV cache; 0 means bs*S/block_len.
    num_blocks: int = 0
    lnc: int = 2
    limits: str = "seed"

    @property
    def columns_per_batch(self) -> int:
        """G: score columns of one batch."""
        return self.q_head * self.s_active

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one element of q."""
        return format_of(self.dtype).itemsize

    @property
    def block_kv(self) -> bool:
        return self.block_len > 0

    @property
    def rows(self) -> int:
        """Batch rows of a flat cache."""
        return self.cache_rows or self.bs

    @property
    def blocks(self) -> int:
        """Blocks of a block KV cache."""
        return self.num_blocks or (self.bs * self.curr_sprior // self.block_len if self.block_kv else 0)

    @property
    def plan(self) -> Plan:
        """The cuts of this call."""
        return plan(self)

    @property
    def kernel_config(self) -> dict[str, Any]:
        """The fields of AttnTKGConfig, in its order."""
        names = [item.name for item in fields(self)]
        return {name: getattr(self, name) for name in names[: names.index("dtype")]}


# --- shapes -----------------------------------------------------------------------------------------------


def tensors(config: Config) -> dict[str, Tensor]:
    """The tensors of a call by argument name, without those that are written."""
    c = config
    found = _active_tensors(c) | _cache_tensors(c)
    rows = c.s_active if c.use_pos_id else c.curr_sprior
    found["mask"] = Tensor((rows, c.bs, c.q_head, c.s_active), c.mask_dtype)
    if c.fuse_rope:
        found["inv_freqs"] = Tensor((c.d_head // 2, 1), "float32")
    if c.fuse_rope or c.use_pos_id:
        found["rope_pos_ids"] = Tensor((c.bs, c.s_active), "float32")
    if c.sink is not None:
        found["sink"] = Tensor((c.q_head, 1), c.sink)
    if c.block_kv:
        found["active_blocks_table"] = Tensor((c.bs, c.curr_sprior // c.block_len), "uint32")
    return found


def written(config: Config) -> dict[str, Tensor]:
    """The tensors that a call writes, as the caller passes them; those in SBUF are passed on every core."""
    c = config
    hbm, sbuf = (c.bs, c.q_head, c.d_head, c.s_active), (c.d_head, c.bs * c.columns_per_batch)
    found = {"out": _placed(c.out_in_sb, sbuf, hbm, c.out_dtype)}
    if c.k_out:
        hbm, sbuf = (c.bs, 1, c.d_head, c.s_active), (c.d_head, c.bs * c.s_active)
        found["k_out"] = _placed(c.k_out_in_sb, sbuf, hbm, c.dtype)
    return found | (_debug_tensors(c) if c.debug else {})


def results(config: Config) -> dict[str, Tensor]:
    """The results of a call as the model gives them: what stays in SBUF stacked, one copy per core."""
    return {
        name: replace(tensor, shape=(config.lnc, *tensor.shape)) if tensor.memory == "sbuf" else tensor
        for name, tensor in written(config).items()
    }


def _placed(in_sb: bool, sbuf: tuple[int, ...], hbm: tuple[int, ...], dtype: str) -> Tensor:
    return Tensor(sbuf, dtype, "sbuf") if in_sb else Tensor(hbm, dtype)


def _active_tensors(c: Config) -> dict[str, Tensor]:
    queries = (c.d_head, c.bs * c.columns_per_batch), (c.bs, c.d_head, c.q_head, c.s_active)
    keys = (c.d_head, c.bs * c.s_active), (c.bs, c.d_head, c.s_active)
    return {
        "q": _placed(c.qk_in_sb, *queries, c.dtype),
        "k_active": _placed(c.qk_in_sb, *keys, c.active_dtype),
        "v_active": Tensor((c.bs, 1, c.s_active, c.d_head), c.active_dtype),
    }


def _cache_tensors(c: Config) -> dict[str, Tensor]:
    if c.block_kv:
        block = Tensor((c.blocks, c.block_len, c.d_head), c.kv_dtype)
        return {"k_prior": block, "v_prior": block}
    rows_first = Tensor((c.rows, 1, c.full_sprior, c.d_head), c.kv_dtype)
    transposed = Tensor((c.rows, 1, c.d_head, c.full_sprior), c.kv_dtype)
    return {"k_prior": rows_first if c.tp_k_prior else transposed, "v_prior": rows_first}


def _debug_tensors(c: Config) -> dict[str, Tensor]:
    p = c.plan
    columns = p.batches_per_core * c.columns_per_batch
    scores = (PARTITIONS, p.n_seq, p.keys_per_core // PARTITIONS, p.n_bat, columns)
    tiles = -(-columns // PARTITIONS)
    column = (p.n_bat, tiles, PARTITIONS if tiles > 1 else columns)
    found = {
        "dbg_qk": Tensor(scores, "float32"),
        "dbg_qk_max": Tensor(column, "float32"),
        "dbg_qk_exp": Tensor(scores, c.dtype),
        "dbg_exp_sum": Tensor(column, "float32"),
    }
    if c.block_kv:
        folds = c.curr_sprior // (p.block_len * PARTITIONS)
        found["dbg_active_table"] = Tensor((PARTITIONS, folds, c.bs), "int32")
    return found


# --- arguments and results --------------------------------------------------------------------------------

_ARGUMENTS = (
    Argument(
        "q", "hbm or sbuf",
        "qk_in_sb: [d, B*G], column b*G + h*s + j, whole on every core; else [B, d, H, s]",
        DTYPES, "Queries, scaled by the caller unless fuse_rope; the dtype is called io.",
    ),
    Argument(
        "k_active", "hbm or sbuf", "qk_in_sb: [d, B*s], column b*s + j; else [B, d, s]", DTYPES,
        "New keys, dtype io or kv (io with fuse_rope); they replace slots S-s .. S-1 of the cache.",
    ),
    Argument("v_active", "hbm", "[B, 1, s, d]", DTYPES, "New values, dtype io or kv, for the same slots."),
    Argument(
        "k_prior", "hbm",
        "flat: tp_k_prior [B+, 1, Sf, d], else [B+, 1, d, Sf]; block: [blocks, block_len, d]",
        DTYPES, "Key cache. Rows from B, slots from S-s and what the mask drops are never looked at.",
    ),
    Argument(
        "v_prior", "hbm", "flat: [B+, 1, Sf, d]; block: [blocks, block_len, d]", DTYPES,
        "Value cache, dtype of k_prior. Slots that every column of the batch drops are never looked at.",
    ),
    Argument(
        "mask", "hbm", "[S, B, H, s], row = token (block KV: `block_rows`); use_pos_id: [s_key, B, H, s]",
        MASK_DTYPES, "Cast to uint8; nonzero keeps. With use_pos_id the part among the active tokens.",
    ),
    Argument("out", "hbm or sbuf", "out_in_sb: [d, B*G] as q; else [B, H, d, s]", FLOATS, "Written."),
    Argument("cfg", "", "", ("AttnTKGConfig",), "Shapes and flags."),
    Argument("sbm", "", "", ("SbufManager", "None"), "Places tiles; no effect on values."),
    Argument("inv_freqs", "hbm", "[d/2, 1]", ("float32",), "Given exactly with fuse_rope.", "None"),
    Argument(
        "rope_pos_ids", "hbm", "[B, s]", ("float32",),
        "Positions, finite and not negative; given exactly with fuse_rope or use_pos_id.", "None",
    ),
    Argument("sink", "hbm", "[H, 1]", FLOATS, "Logits without a value row, not scaled.", "None"),
    Argument(
        "active_blocks_table", "hbm", "[B, S/block_len]", ("uint32",),
        "Block ids in token order; given exactly with a block KV cache.", "None",
    ),
    Argument(
        "k_out", "hbm or sbuf", "k_out_in_sb: [d, B*s]; else [B, 1, d, s]", ("io",),
        "Written with the rotated new keys; only with fuse_rope.", "None",
    ),
    Argument(
        "DBG_TENSORS", "hbm", "4 tensors, 5 with block KV, as results dbg_*", ("tuple",),
        "Written with intermediates.", "None",
    ),
)  # fmt: skip

_RESULTS = (
    Result("out", "hbm", "[B, H, d, s]", "dtype of out", "not out_in_sb"),
    Result("out", "sbuf", "[d, B*G], the same on every core; stacked [LNC, d, B*G]", "dtype of out", "out_in_sb"),
    Result("k_out", "hbm", "[B, 1, d, s]", "io", "k_out, not k_out_in_sb"),
    Result("k_out", "sbuf", "[d, B*s], the same on every core; stacked [LNC, d, B*s]", "io", "k_out, k_out_in_sb"),
    Result(
        "dbg_qk", "hbm", "[128, n_seq, T/128, n_bat, Bc*G], key tile f*64 + t; -inf where dropped", "float32",
        "debug",
    ),
    Result(
        "dbg_qk_max", "hbm", "[n_bat, tiles, columns of a tile], -1 * maximum of the last flash tile, pad 0",
        "float32", "debug",
    ),
    Result("dbg_qk_exp", "hbm", "as dbg_qk: prob, with the maximum of its own flash tile", "io", "debug"),
    Result("dbg_exp_sum", "hbm", "as dbg_qk_max: the sum that is divided by", "float32", "debug"),
    Result(
        "dbg_active_table", "hbm", "[128, S/(128*L), B], block id at partition p of fold", "int32",
        "debug and block KV",
    ),
)  # fmt: skip


# --- rules ------------------------------------------------------------------------------------------------

_SIZES = ("bs", "q_head", "s_active", "curr_sprior", "full_sprior", "d_head")
_FLAGS = (
    "tp_k_prior", "strided_mm1", "use_pos_id", "fuse_rope", "use_gpsimd_sb2sb", "qk_in_sb", "k_out_in_sb",
    "out_in_sb", "enable_fa_s_prior_tiling", "k_out", "debug",
)  # fmt: skip


def _show(*names: str) -> Callable[[Config], str]:
    return lambda config: ", ".join(f"{name}={getattr(config, name)!r}" for name in names)


def _positive_sizes(c: Config) -> bool:
    sizes = [getattr(c, name) for name in _SIZES]
    extra = c.block_len, c.cache_rows, c.num_blocks
    whole = all(type(size) is int for size in (*sizes, *extra))
    return whole and min(sizes) >= 1 and min(extra) >= 0


def _legal_dtypes(c: Config) -> bool:
    wide = c.dtype in DTYPES and c.kv_dtype in DTYPES and c.active_dtype in DTYPES
    return wide and c.out_dtype in FLOATS and c.mask_dtype in MASK_DTYPES and c.sink in (None, *FLOATS)


def _active_pairs(c: Config) -> bool:
    return c.active_dtype == c.dtype if c.fuse_rope else c.active_dtype in (c.dtype, c.kv_dtype)


def _longest(c: Config) -> int:
    return max(tile.keys for tile in c.plan.flash_tiles)


def _score_bytes(c: Config) -> int:
    return SCORE_BYTES * c.columns_per_batch * _longest(c)


def _seed_allows_pos_id(c: Config, conflict: bool) -> bool:
    return not (c.use_pos_id and conflict and c.limits == "seed")


_SEED, _FACTS = "published API page", "fact sheet 2.1"
_RULES: tuple[Rule[Config], ...] = (
    Rule(
        "sizes", "cfg",
        "bs, q_head, s_active, curr_sprior, full_sprior and d_head must be integers of at least 1",
        _positive_sizes, _show(*_SIZES, "block_len", "cache_rows", "num_blocks"),
        "set the sizes of the call", _FACTS,
    ),
    Rule(
        "flags", "cfg", "flags must be bool", lambda c: all(type(getattr(c,
        name)) is bool for name in _FLAGS),
        _show(*_FLAGS), "pass the fields of the config by keyword", "fact sheet 2",
    ),
    Rule(
        "lnc", "launch grid", "LNC must be 1 or 2", lambda c: c.lnc in (1, 2), _show("lnc"),
        "launch on one or two cores", _FACTS,
    ),
    Rule(
        "limits", "cfg", "limits must be seed or latest", lambda c: c.limits in LIMITS, _show("limits"),
        "choose whose limits hold", "decision D12",
    ),
    Rule(
        "d_head", "cfg", "d_head must be at most 128", lambda c: c.d_head <= PARTITIONS, _show("d_head"),
        "split the heads", _SEED,
    ),
    Rule(
        "s_active", "cfg", "s_active must be at most 128", lambda c: c.s_active <= PARTITIONS,
        _show("s_active"),
        "this kernel is for decoding; use a context encoding kernel", _FACTS,
    ),
    Rule(
        "columns", "cfg", "q_head*s_active must be at most 512",
        lambda c: c.columns_per_batch <= BANK, _show("q_head", "s_active"), "split the heads", _FACTS,
    ),
    Rule(
        "sprior", "cfg", "s_active <= curr_sprior <= full_sprior must hold",
        lambda c: c.s_active <= c.curr_sprior <= c.full_sprior,
        _show("s_active", "curr_sprior", "full_sprior"),
        "curr_sprior counts the active tokens and lies within the cache", _FACTS,
    ),
    Rule(
        "cache_rows", "k_prior", "a flat cache must have at least bs rows",
        lambda c: c.rows >= c.bs, _show("cache_rows", "bs"), "allocate a row per batch", "fact sheet 3.1",
    ),
    Rule(
        "dtypes", "q, k_active, v_active, k_prior, v_prior, mask, out, sink",
        f"q, keys and values must be of {', '.join(DTYPES)}; out and sink of {', '.join(FLOATS)}; "
        f"mask of {', '.join(MASK_DTYPES)}",
        _legal_dtypes, _show("dtype", "kv_dtype", "active_dtype", "out_dtype", "mask_dtype", "sink"),
        "cast the tensor; float8_e5m2 caches are not supported", _FACTS,
    ),
    Rule(
        "fp8_kv", "k_active, v_active", "if any of keys and values is float8_e4m3, all four must be",
        lambda c: (c.kv_dtype == FP8) == (c.active_dtype == FP8),
        _show("kv_dtype", "active_dtype"), "quantize the active keys and values like the cache", _FACTS,
    ),
    Rule(
        "fp8_query", "q",
        "with float8_e4m3 keys q must not be float32; without them q must not be float8_e4m3",
        lambda c: c.dtype != "float32" if c.kv_dtype == FP8 else c.dtype != FP8,
        _show("dtype", "kv_dtype"), "cast q", _FACTS,
    ),
    Rule(
        "fp8_rope", "cfg", "float8_e4m3 keys need qk_in_sb and no fuse_rope",
        lambda c: c.kv_dtype != FP8 or (c.qk_in_sb and not c.fuse_rope),
        _show("kv_dtype", "qk_in_sb", "fuse_rope"),
        "rotate and quantize before the call", _FACTS,
    ),
    Rule(
        "float32_pair", "q", "q must be float32 exactly when the caches are",
        lambda c: (c.dtype == "float32") == (c.kv_dtype == "float32"), _show("dtype", "kv_dtype"),
        "cast q or the cache: the PE multiplies float32 with float32 only", "nc_matmul, operand dtypes",
    ),
    Rule(
        "active_dtype", "k_active, v_active",
        "dtype must be that of q or of the caches; with fuse_rope that of q",
        _active_pairs, _show("active_dtype", "dtype", "kv_dtype", "fuse_rope"),
        "cast the active keys and values",
        "fact sheet 7.1, row 3",
    ),
    Rule(
        "qk_in_sb", "cfg", "without fuse_rope, q and k_active must be in SBUF (qk_in_sb)",
        lambda c: c.fuse_rope or c.qk_in_sb, _show("qk_in_sb", "fuse_rope"), "load them first", _SEED,
    ),
    Rule(
        "block_strided", "cfg", "a block KV cache needs strided_mm1=False",
        lambda c: not (c.block_kv and c.strided_mm1), _show("block_len", "strided_mm1"),
        "the order of keys follows the blocks", _FACTS,
    ),
    Rule(
        "block_tp_k", "cfg", "a block KV cache needs tp_k_prior=True",
        lambda c: not c.block_kv or c.tp_k_prior, _show("block_len", "tp_k_prior"),
        "blocks hold keys as rows [block_len, d]", _FACTS,
    ),
    Rule(
        "block_qk_in_sb", "cfg", "a block KV cache needs qk_in_sb=True",
        lambda c: not c.block_kv or c.qk_in_sb, _show("block_len", "qk_in_sb"),
        "load q and k_active first", _SEED,
    ),
    Rule(
        "block_multiple", "active_blocks_table", "curr_sprior must be a multiple of block_len",
        lambda c: not c.block_kv or c.curr_sprior % c.block_len == 0, _show("curr_sprior", "block_len"),
        "round curr_sprior up to whole blocks and mask the rest", _FACTS,
    ),
    Rule(
        "key_tiles", "cfg", "curr_sprior must be a multiple of 128, of 256 when sharded over the sequence",
        lambda c: c.curr_sprior % (PARTITIONS * c.plan.n_seq) == 0, _show("curr_sprior", "bs", "lnc"),
        "round curr_sprior up and mask the rest", _FACTS,
    ),
    Rule(
        "block_ids", "k_prior", "block ids after the resize must be below 2**24",
        lambda c: not c.block_kv or c.blocks * c.plan.block_factor <= ID_LIMIT,
        lambda c: f"{c.blocks} blocks cut in {c.plan.block_factor}", "use longer blocks", "fact sheet 3.3",
    ),
    Rule(
        "rope_batch", "cfg", "fuse_rope needs bs*q_head*s_active <= 128 and no batch sharding",
        lambda c: not c.fuse_rope
        or (c.plan.sharding != "batch" and c.bs * c.columns_per_batch <= PARTITIONS),
        _show("bs", "q_head", "s_active", "curr_sprior", "lnc"), "rotate before the call", _FACTS,
    ),
    Rule(
        "rope_d", "cfg", "fuse_rope needs d_head 64 or 128", lambda c: not c.fuse_rope or c.d_head % 64 == 0,
        _show("d_head"), "rotate before the call", _FACTS,
    ),
    Rule(
        "rope_sprior", "cfg", f"fuse_rope needs curr_sprior <= {ROPE_LIMIT}",
        lambda c: not c.fuse_rope or c.curr_sprior <= ROPE_LIMIT, _show("curr_sprior"),
        "rotate before the call: the angle reduction loses its accuracy", _FACTS,
    ),
    Rule(
        "k_out_rope", "k_out", "k_out needs fuse_rope, and k_out_in_sb needs k_out",
        lambda c: (c.fuse_rope or not c.k_out) and (c.k_out or not c.k_out_in_sb),
        _show("k_out", "k_out_in_sb", "fuse_rope"), "leave k_out out: nothing would be written to it",
        "decision D7",
    ),
    Rule(
        "pos_id_batch", "cfg", "use_pos_id is not supported with batch sharding",
        lambda c: _seed_allows_pos_id(c, c.plan.sharding == "batch"),
        _show("use_pos_id", "bs", "q_head", "s_active", "curr_sprior", "lnc"), "pass the whole mask", _SEED,
    ),
    Rule(
        "pos_id_block", "cfg", "use_pos_id is not supported with a block KV cache",
        lambda c: _seed_allows_pos_id(c, c.block_kv), _show("use_pos_id", "block_len"),
        "pass the whole mask", _SEED,
    ),
    Rule(
        "psum_columns", "cfg", "without flash tiling a core must have at most 65536 keys",
        lambda c: _longest(c) <= PARTITIONS * BANK, _show("curr_sprior", "enable_fa_s_prior_tiling"),
        "leave enable_fa_s_prior_tiling on", _FACTS,
    ),
    Rule(
        "score_buffer", "cfg", "8 * q_head * s_active * keys of a flash tile must be at most 16 MiB",
        lambda c: _score_bytes(c) <= SCORE_LIMIT, lambda c: f"{_score_bytes(c)} bytes",
        "split the heads, or leave enable_fa_s_prior_tiling on", _FACTS,
    ),
)  # fmt: skip


# --- rounding points --------------------------------------------------------------------------------------


def _rope(
    name: str, index: str, formula: str, shape: str = "[d/2, B*s]", dtype: str = "float32"
) -> RoundingPoint:
    return RoundingPoint(name, dtype, "sbuf", shape, (index,) if index else (), formula, when="fuse_rope")


def _column(name: str, index: str, produced: str, when: str = "", exact: bool = False) -> RoundingPoint:
    shape, indices = "[columns of ct, 1]", tuple(index.split())
    return RoundingPoint(name, "float32", "sbuf", shape, indices, produced, exact, when)


_POINTS = (
    _rope("rope_angle", "", "rope_pos_ids[b, j] * inv_freqs[i]"),
    _rope("rope_shifted", "e", "angle + float32(pi) for e = 0 (sine), + float32(1.5 pi) for e = 1 (cosine)"),
    _rope(
        "rope_turns", "e", "shifted * float32(1/(2 pi)) then + -0.5, one tensor_scalar (V1 rounds between)",
    ),
    _rope("rope_count", "e", "R_int32(turns), nearest even", dtype="int32"),
    _rope("rope_whole", "e", "float32(count) * float32(2 pi)"),
    _rope("rope_diff", "e", "shifted - whole"),
    _rope("rope_residual", "e", "diff + float32(-pi)"),
    _rope("rope_wave", "e", "sin(residual) of the scalar engine, which does not reduce its argument"),
    _rope("rope_cosine_part", "r", "x * cos; r = 0: q, r = 1: k_active", "[d, columns]"),
    _rope(
        "rope_sine_part", "r", "R(rot * sin), rot = (-x[d/2:], x[:d/2]); float32 when x came from HBM",
        "[d, columns]", "float32 or io",
    ),
    _rope(
        "rope_sum", "r", "R_io(cosine_part + sine_part); r = 1 is k_active and k_out", "[d, columns]", "io",
    ),
    _rope("rope_query", "", "R_io(rope_sum_0 * float32(1/sqrt(d)))", "[d, B*G]", "io"),
    RoundingPoint(
        "score", "float32", "psum", "[128, tiles of g * G], free (t - first)*G + h*s + j", ("f", "b", "g"),
        "sum over d of K*q, one matmul per key tile, keys stationary; b counts all batches of the call",
    ),
    _column(
        "max_local", "f bt ct",
        "maximum over t, then over p, of scores where kept and -inf elsewhere; then maximum with -FLT_MAX",
        exact=True,
    ),
    _column("max_remote", "f bt ct", "the other core's candidate", "sequence, last f", exact=True),
    _column(
        "run_max", "f bt ct",
        "maximum(run_max of f-1, max_local); not sequence: with the sink at f = 0; sequence: at the last f "
        "with max_remote, then with the sink", exact=True,
    ),
    _column("corr", "f bt ct", "exp(-1.0 * run_max + run_max of f-1), scalar engine", "f > 0"),
    RoundingPoint(
        "shift", "float32", "sbuf", "[128, tiles of k * columns], free (t - first)*columns + c", ("f", "bt",
        "k"),
        "score (-inf where dropped) - run_max",
    ),
    RoundingPoint(
        "prob", "io", "sbuf", "[128, n * columns], free t*columns + c", ("f", "bt"),
        "R_io(exp(shift)), scalar engine",
    ),
    RoundingPoint(
        "sum_part", "float32", "psum", "[columns of ct, n]", ("f", "bt", "ct"),
        "per key tile: matmul of prob (stationary) with ones",
    ),
    _column("sum_local", "f bt ct", "sum of sum_part over t, vector engine"),
    _column("sink_shift", "bt ct", "sink - run_max; at f = 0, sequence: at the last f", "sink"),
    _column("sink_term", "bt ct", "exp(sink_shift), scalar engine, not rounded to io", "sink"),
    _column("sum_scaled", "f bt ct", "run_sum of f-1 * corr", "f > 0"),
    _column(
        "run_sum", "f bt ct",
        "f = 0: sum_local, plus sink_term when not sequence; f > 0: sum_scaled + sum_local",
    ),
    RoundingPoint(
        "pv", "float32", "psum", "[d, G]", ("f", "b"),
        "sum over t ascending, one matmul per key tile into PSUM: values stationary, prob moving",
    ),
    RoundingPoint(
        "out_scaled", "float32", "sbuf", "[d, columns]", ("f", "bt"), "run_out of f-1 * corr", when="f > 0",
    ),
    RoundingPoint(
        "run_out", "float32", "sbuf", "[d, columns]", ("f", "bt"), "f = 0: pv; f > 0: out_scaled + pv",
        when="several flash tiles",
    ),
    _column("sum_remote", "bt ct", "the other core's run_sum of the last f", "sequence", exact=True),
    _column("sum_pair", "bt ct", "run_sum + sum_remote", "sequence"),
    _column("sum_total", "bt ct", "sum_pair + sink_term", "sequence and sink"),
    _column("recip", "bt ct", "reciprocal of sum_total, else sum_pair, else run_sum; vector engine"),
    RoundingPoint("norm", "float32", "sbuf", "[d, columns]", ("bt",), "run_out (one flash tile: pv) * recip"),
    RoundingPoint(
        "norm_remote", "float32", "sbuf", "[d, columns]", ("bt",),
        "the other core's norm; on core 1 only if out_in_sb", exact=True, when="sequence",
    ),
    RoundingPoint(
        "norm_pair", "float32", "sbuf", "[d, columns]", ("bt",),
        "norm + norm_remote; on core 1 only if out_in_sb",
        when="sequence",
    ),
    RoundingPoint(
        "out_tile", "dtype of out", "sbuf", "[d, columns]", ("bt",),
        "R(norm_pair, else norm), vector engine; on core 1 of a sequence-sharded call only if out_in_sb",
    ),
)  # fmt: skip

_DECISIONS = (
    Decision(
        "D1", "q and k_active in HBM are [B, d, H, s] and [B, d, s].",
        "The published page says so; public code reads [B, H, s, d].",
    ),
    Decision(
        "D2", "tp_k_prior=True means that HBM holds [.., S, d] and the kernel transposes.",
        "The page contradicts itself; its parameter text and all public code agree on this reading.",
    ),
    Decision(
        "D3", "Maxima are kept un-negated and those of a flash tile are clamped to -FLT_MAX at once.",
        "Otherwise two fully masked leading tiles give exp(-inf + inf), defect B8. No finite result changes.",
    ),
    Decision(
        "D4",
        "Flash tiling above 8192 keys per core is part of the contract; one tile is the same algorithm.",
        "Later than the published page, which without it could not run long contexts.",
    ),
    Decision(
        "D5", "Values that every column of a batch drops are read as 0.",
        "Public kernels let 0 * NaN through (B18); a fresh cache may hold any bytes.",
    ),
    Decision(
        "D6", "The vector engine casts to the dtype of out, never the DMA.",
        "SBUF and HBM placement give one result.",
    ),
    Decision(
        "D7", "k_out has the dtype of q and is refused without fuse_rope.",
        "Public kernels leave it unwritten.",
    ),
    Decision(
        "D8", "Sums of two cores and the sink are added by tensor_tensor in a stated order.",
        "A reduction over three slots would depend on the open question V2.",
    ),
    Decision(
        "D9", "Where two cores do the same work, core 0 alone writes HBM.",
        "Public kernels write it from both: a race.",
    ),
    Decision("D10", "Any d_head can be exchanged between cores.", "Public code needs multiples of 16 (B15)."),
    Decision(
        "D11", "DBG_TENSORS are complete in every mode.",
        "Public kernels write zeros where the layout did not suit.",
    ),
    Decision(
        "D12",
        "use_pos_id with batch sharding or block KV is refused, unless the config asks for later limits.",
        "The published page excludes both; later public versions support both, and B4 lives there.",
    ),
    Decision(
        "D13", "RoPE reduces angles in float32 with one constant for 2 pi.",
        "The public algorithm; its error grows with the position, hence the limit of 2**17.",
    ),
    Decision(
        "D14", "Sizes of batch tiles and shift chunks are this project's.",
        "They change no value; traces need names.",
    ),
)  # fmt: skip

_DEFECTS = (
    Defect("B1", "run-to-run differences", "repeated runs, compared bit by bit, LNC2", "release notes 2.28"),
    Defect(
        "B2", "wrong slice of v_active with short blocks",
        "resized block_len below s and no divisor of it: (4,1,5,16640, block 16), distinct rows",
        "release notes 2.28",
    ),
    Defect(
        "B3", "2-byte tile at an odd 2-byte address", "flag SBUF tiles not 4-byte aligned",
        "release notes 2.30",
    ),
    Defect(
        "B4", "core 1 uses the active mask of core 0's batches",
        "batch-sharded, use_pos_id, a different active mask per batch", "release notes 2.28",
    ),
    Defect(
        "B5", "sliding window ends at each query's own position",
        "s=5, window, large values in slots pos..pos+4", "release notes 2.30",
    ),
    Defect("B7", "broadcast of a pre-indexed column", "more than 128 columns per core", "release notes 2.31"),
    Defect(
        "B8", "NaN after fully masked leading flash tiles",
        "sequence-sharded, S=49152, context 100; or LNC1, S=24576, only the last tile kept, no sink",
        "fact sheet 8",
    ),
    Defect("B9", "mask order of block KV with 96 key tiles", "(4,1,5,12288, block 16)", "public tests"),
    Defect(
        "B10", "block resize counts cores instead of sequence shards", "(8,8,5,4096, block 128): 32, not 16",
        "two public versions",
    ),
    Defect(
        "B11", "block table of more than 128 batches per core", "B/core > 128 with a resize",
        "two public versions",
    ),
    Defect("B12", "output exchange of 129 to 256 columns", "odd B, (5,7,7)", "two public versions"),
    Defect(
        "B13", "flat mask read in tile order", "strided, more than one key tile, natural rows",
        "fact sheet 5.2",
    ),
    Defect("B14", "select with one element per partition", "H*s = 1 and T = 128", "later public version"),
    Defect("B15", "exchange of a d_head that is no multiple of 16", "d=72, LNC2, S>=256", "fact sheet 2.1"),
    Defect("B16", "RoPE beyond its range", "positions near 131072; S > 2**17 refused", "fact sheet 9"),
    Defect(
        "B17", "float to int32 cut instead of rounded", "any angle with a fraction above 0.5",
        "release notes 0.6.0",
    ),
    Defect(
        "B18", "masked values leak, or a context above S-s",
        "NaN in dropped V slots; a position in (S-s, S]", "fact sheet 11.4",
    ),
)  # fmt: skip

CONTRACT: Contract[Config] = Contract(
    kernel=KERNEL,
    summary="softmax(q K) V of s new tokens over a cache whose last s slots they replace, one KV head.",
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


def _largest_id(call: Call) -> int:
    table = call.values("active_blocks_table")
    return 0 if table is None else int(np.max(table))


def _positions_legal(call: Call) -> bool:
    ids = call.values("rope_pos_ids")
    return ids is None or bool(np.all(np.isfinite(ids) & (ids >= 0)))


#: Tried after the rules about the Config.
CALL_RULES: tuple[Rule[Call], ...] = (
    *TENSOR_RULES,
    Rule(
        "block_id_range", "active_blocks_table", "block ids must be below the number of blocks",
        lambda c: not c.config.block_kv or _largest_id(c) < c.config.blocks,
        lambda c: f"id {_largest_id(c)} of {c.config.blocks} blocks",
        "point unused entries at any valid block",
        "fact sheet 3.3",
    ),
    Rule(
        "position_range", "rope_pos_ids", "positions must be finite and not negative",
        _positions_legal, lambda c: "a position that is not", "positions count from 0", "fact sheet 9",
    ),
)  # fmt: skip


def call_refusal(config: Config, given: Mapping[str, Any]) -> Refusal | None:
    """The first rule, about the Config or about the tensors beside it, that a call violates.

    `given` holds tensors by argument name,
    and by the names of `written` for those that are written; None counts as
    not given. Values are looked at where a tensor is a NumPy array.
    """
    return refusal(config) or first_refusal(KERNEL, CALL_RULES, Call(config, given, tensors(config), written(config)))


def validate_call(config: Config, given: Mapping[str, Any]) -> None:
    """Raises KernelArgumentError before anything is launched when a call is not legal."""
    raise_refusal(call_refusal(config, given))
