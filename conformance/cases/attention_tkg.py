"""attention_tkg as the suite sees it: configs, inputs, and the calls of truth, model and kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance import lanes
from conformance.bounds import Bound
from conformance.cases._attention_tkg_inputs import build, fits
from conformance.cases._attention_tkg_spoilings import SPOILINGS
from conformance.cases._rarely import rarely
from conformance.pairwise import Flag, flags, some
from conformance.subject import Bench, Call, Case, Output, Subject, Unrounded
from reference import attention_tkg as reference
from reference.attention_tkg_bound import errors
from reference.attention_tkg_truth import truth_of
from reference.contracts.attention_tkg import (
    CONTRACT,
    DTYPES,
    FLOATS,
    FP8,
    LIMITS,
    MASK_DTYPES,
    Config,
    call_refusal,
    refusal,
    written,
)

Arrays = dict[str, NDArray[Any]]

LANES = (
    "normal", "exact", "exact_rounding", "one_sided", "shift", "rising", "one_hot", "pages", "poison", "fp8_edge",
    "heavy_tailed",
)  # fmt: skip

OUTPUTS = (
    Output("out", description="attention output; what stays in SBUF comes stacked by core"),
    Output("k_out", description="rotated new keys; what stays in SBUF comes stacked by core"),
    Output("dbg_qk", description="masked scores"),
    Output("dbg_qk_max", description="-1 * running maximum"),
    Output("dbg_qk_exp", description="weights before they are normalised"),
    Output("dbg_exp_sum", description="sum that was divided by"),
    Output("dbg_active_table", description="block ids after the resize"),
)

# ---- configs -----------------------------------------------------------------------------------------------------

#: Rows (io, kv, active) by what is special about them.
_DTYPES = {
    "plain": [
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float16", "float16", "float16"),
        ("float32", "float32", "float32"),
        ("bfloat16", "float16", "bfloat16"),
        ("float16", "bfloat16", "bfloat16"),
        ("float16", "bfloat16", "float16"),
    ],
    "fp8": [("bfloat16", FP8, FP8), ("float16", FP8, FP8), (FP8, FP8, FP8)],
}
#: (B, H, s) with few columns, with about 128, and with several column tiles on a core.
_COLUMNS = (
    (1, 1, 1), (1, 3, 2), (2, 1, 1), (2, 2, 3), (3, 1, 5), (3, 4, 1), (4, 2, 1), (4, 1, 5), (5, 2, 2), (2, 16, 4),
    (5, 7, 4), (3, 16, 7), (1, 40, 4), (1, 64, 8), (1, 1, 128), (1, 24, 5), (1, 33, 1), (131, 1, 1), (33, 2, 2),
    (2, 8, 8),
)  # fmt: skip
#: More batches than a gather has partitions: ids of blocks are resized in several tiles.
_MANY_BATCHES = ((200, 1, 1), (131, 1, 2), (256, 1, 1))
#: So many columns that one core takes them in several tiles of batches.
_BATCH_TILES = ((9, 64, 8), (7, 128, 5), (14, 40, 7))
#: The same for even batches that two cores divide among them.
_DIVIDED = ((2, 16, 5), (4, 8, 5), (4, 4, 9), (6, 4, 6), (8, 8, 3), (32, 4, 2), (130, 1, 1), (2, 1, 65), (2, 40, 4))
#: Key tiles per core; 65 and 66 are the smallest flash tilings.
_KEY_TILES = (1, 2, 3, 4, 5, 6, 8)
_FLASH_TILES = (65, 66)
#: Tokens of a block; the longer ones may lie on both sides of the cores' boundary, or of flash tiles.
_BLOCKS = (1, 8, 16, 32, 48, 64, 128, 256, 320, 512)
#: Short blocks in long contexts are a gather per key tile: none of them where flash tiling makes contexts long.
_FLASH_BLOCKS = (16, 128, 256, 640)
#: Elements of one core's keys; above, a config takes longer than tens of milliseconds.
_MOST_KEYS = 2**17


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Legal configs: every flag, dtype, layout and way to share the work, at sizes of tens of milliseconds."""
    kind = draw(st.sampled_from(("flat", "block", "divided", "rope", "flash")))
    sizes = _batch_tiles(draw) if kind == "flat" and rarely(draw, 8) else _sizes(draw, kind)
    fields = sizes | _formats(draw, kind) | _placement(draw, kind, sizes)
    config = Config(**fields)
    plan = config.plan
    conflict = config.use_pos_id and (plan.sharding == "batch" or config.block_kv)
    config = dataclasses.replace(config, limits="latest" if conflict else "seed")
    assume(refusal(config) is None)
    return config


def _sizes(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    lnc = 2 if kind == "divided" else draw(st.sampled_from((1, 2, 2)))
    rows, tiles, sizes = _COLUMNS, _KEY_TILES, (1, 8, 13, 32, 64, 72, 100, 128)
    if kind == "divided":
        rows = _DIVIDED
    elif kind == "flash":
        rows, tiles, sizes = ((1, 1, 1), (1, 2, 3), (2, 2, 1), (3, 1, 2)), _FLASH_TILES, (8, 16)
    elif kind == "rope":
        rows, sizes = tuple(row for row in rows if row[0] * row[1] * row[2] <= 128), (64, 128)
    elif kind == "block":
        rows = _MANY_BATCHES if rarely(draw, 8) else rows
    B, H, s = draw(st.sampled_from(rows))
    d = draw(st.sampled_from(sizes))
    fit = [n for n in tiles if B * n * 128 * d <= _MOST_KEYS] or [tiles[0]]
    whole = kind == "divided" or lnc == 1
    S = 128 * draw(st.sampled_from(fit)) * (1 if whole else 2)
    extra = draw(st.sampled_from((0, 0, 128, 200)))
    return {"bs": B, "q_head": H, "s_active": s, "curr_sprior": S, "full_sprior": S + extra, "d_head": d, "lnc": lnc}


def _batch_tiles(draw: st.DrawFn) -> dict[str, Any]:
    B, H, s = draw(st.sampled_from(_BATCH_TILES))
    S, d = 128, draw(st.sampled_from((8, 16)))
    return {"bs": B, "q_head": H, "s_active": s, "curr_sprior": S, "full_sprior": S, "d_head": d, "lnc": 1}


def _formats(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    eight_bits = kind != "rope" and draw(st.integers(0, 3)) == 0
    rows = _DTYPES["fp8" if eight_bits else "plain"]
    if kind == "rope":
        rows = [row for row in rows if row[0] == row[2]]
    io, kv, active = draw(st.sampled_from(rows))
    return {
        "dtype": io,
        "kv_dtype": kv,
        "active_dtype": active,
        "out_dtype": draw(st.sampled_from(FLOATS)),
        "mask_dtype": draw(st.sampled_from(("uint8", *MASK_DTYPES))),
        "sink": draw(st.sampled_from((None, None, *FLOATS))),
    }


def _placement(draw: st.DrawFn, kind: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    flags = {
        name: draw(st.booleans())
        for name in ("tp_k_prior", "strided_mm1", "use_gpsimd_sb2sb", "out_in_sb", "debug", "use_pos_id")
    }
    found: dict[str, Any] = dict(flags)
    found["enable_fa_s_prior_tiling"] = draw(st.integers(0, 4)) > 0
    block = kind == "block" or (kind != "flat" and kind != "rope" and draw(st.booleans()))
    if block:
        found |= {"strided_mm1": False, "tp_k_prior": True}
        S, lengths = sizes["curr_sprior"], _FLASH_BLOCKS if kind == "flash" else _BLOCKS
        found["block_len"] = draw(st.sampled_from([length for length in lengths if S % length == 0]))
        # Some more than are in use.
        spare = draw(st.sampled_from((None, 0, 5)))
        found["num_blocks"] = 0 if spare is None else sizes["bs"] * S // found["block_len"] + spare
    if kind == "rope":
        k_out = draw(st.booleans())
        found |= {"fuse_rope": True, "qk_in_sb": draw(st.booleans()), "k_out": k_out}
        found["k_out_in_sb"] = k_out and draw(st.booleans())
    return found


#: A plain config that any one change takes past a single rule.
_PLAIN: dict[str, Any] = {
    "block_len": 0, "num_blocks": 0, "cache_rows": 0, "tp_k_prior": True, "strided_mm1": True,
    "use_pos_id": False, "fuse_rope": False, "qk_in_sb": True, "k_out_in_sb": False, "k_out": False,
    "dtype": "bfloat16", "kv_dtype": "bfloat16", "active_dtype": "bfloat16", "limits": "seed",
    "enable_fa_s_prior_tiling": True,
}  # fmt: skip
_SMALL_ROPE: dict[str, Any] = {
    "bs": 1, "q_head": 2, "s_active": 2, "curr_sprior": 256, "full_sprior": 256, "fuse_rope": True, "d_head": 64,
}  # fmt: skip
_BLOCK: dict[str, Any] = {"block_len": 16, "strided_mm1": False}



def _slots(count: int) -> dict[str, int]:
    return {"curr_sprior": count, "full_sprior": count}


#: Per rule, what turns a plain config into one that this rule refuses first.
_VIOLATIONS: Mapping[str, Callable[[Config], Mapping[str, Any]]] = {
    "sizes": lambda c: {"q_head": 0},
    "flags": lambda c: {"strided_mm1": 1},
    "lnc": lambda c: {"lnc": 4},
    "limits": lambda c: {"limits": "none"},
    "d_head": lambda c: {"d_head": 129},
    "s_active": lambda c: {"s_active": 129, "q_head": 1},
    "columns": lambda c: {"q_head": 513, "s_active": 1},
    "sprior": lambda c: {"full_sprior": c.curr_sprior - 1},
    "cache_rows": lambda c: {"bs": c.bs + 1, "cache_rows": c.bs},
    "dtypes": lambda c: {"kv_dtype": "float8_e5m2"},
    "fp8_kv": lambda c: {"active_dtype": FP8},
    "fp8_query": lambda c: {"dtype": FP8},
    "fp8_rope": lambda c: {"kv_dtype": FP8, "active_dtype": FP8, "fuse_rope": True},
    "float32_pair": lambda c: {"dtype": "float32"},
    "active_dtype": lambda c: {"active_dtype": "float16"},
    "qk_in_sb": lambda c: {"qk_in_sb": False},
    "block_strided": lambda c: {"block_len": 16},
    "block_tp_k": lambda c: _BLOCK | {"tp_k_prior": False},
    "block_qk_in_sb": lambda c: _BLOCK | {"qk_in_sb": False, "fuse_rope": True},
    "block_multiple": lambda c: _BLOCK | {"block_len": c.curr_sprior // 128 * 48 + 1},
    "key_tiles": lambda c: {"bs": 1, "q_head": 1, "s_active": 1} | _slots(384 if c.lnc == 2 else 320),
    "block_ids": lambda c: _BLOCK | {"num_blocks": 2**24 + 1},
    "rope_batch": lambda c: _SMALL_ROPE | {"bs": 65, "q_head": 2, "s_active": 1},
    "rope_d": lambda c: _SMALL_ROPE | {"d_head": 96},
    "rope_sprior": lambda c: _SMALL_ROPE | _slots(2**17 + 256),
    "k_out_rope": lambda c: {"k_out": True},
    "pos_id_batch": lambda c: {
        "bs": 2, "q_head": 130, "s_active": 1, "use_pos_id": True, "lnc": 2, **_slots(256),
    },
    "pos_id_block": lambda c: _BLOCK | {"bs": 1, "q_head": 1, "use_pos_id": True},
    "psum_columns": lambda c: {
        "bs": 1, "q_head": 1, "s_active": 1, "d_head": 8, "enable_fa_s_prior_tiling": False, **_slots(2**17 + 256),
    },
    "score_buffer": lambda c: {"bs": 1, "q_head": 512, "s_active": 1, "d_head": 8, **_slots(8448)},
}  # fmt: skip


@st.composite
def illegal(draw: st.DrawFn) -> tuple[Config, str]:
    """(config, rule that refuses it first)."""
    rule = draw(st.sampled_from(sorted(_VIOLATIONS)))
    plain = dataclasses.replace(draw(configs()), **_PLAIN)
    return dataclasses.replace(plain, **_VIOLATIONS[rule](plain)), rule


# ---- the rungs ---------------------------------------------------------------------------------------------------


def call(config: Config, inputs: Arrays, implementation: Callable[..., Any]) -> Call:
    """The launch of a kernel that loads operands into SBUF as the config asks, and stores what stays there."""
    from kernels.attention_tkg import AttnTKGConfig
    from kernels.attention_tkg_on_chip import attention_tkg_on_chip

    results = written(config)
    debug = tuple(tensor.shape for name, tensor in results.items() if name.startswith("dbg_"))
    arguments: dict[str, Any] = dict(inputs) | {
        "cfg": AttnTKGConfig(**config.kernel_config),
        "out_dtype": config.out_dtype,
        "with_k_out": config.k_out,
        "debug_shapes": debug if config.debug else None,
        "attend": implementation,
    }
    return Call(attention_tkg_on_chip, arguments, tuple(results), config.lnc)


def unrounded(config: Config, lane: str, seed: int) -> Arrays:
    """Keys and values as they are drawn, before the one rounding into the dtypes of caches and new tokens."""
    found = build(dataclasses.replace(config, kv_dtype="float32", active_dtype="float32"), lane, seed)
    dtypes = {"prior": config.kv_dtype, "active": config.active_dtype}
    return {
        f"{name}_{part}": lanes.before_rounding(lane, found[f"{name}_{part}"], dtype)
        for part, dtype in dtypes.items()
        for name in ("k", "v")
    }


def _bounds(config: Config, inputs: Arrays) -> Mapping[str, Bound]:
    """Grade C. The channels of a column share the errors of its weights; on chip every core has all of them."""
    alike = {"out": (0, 1) if config.out_in_sb else (2,), "k_out": (0, 1) if config.k_out_in_sb else (2,)}
    return {
        name: Bound(known.error, spread=np.sqrt(known.variance), alike=alike.get(name, ()))
        for name, known in errors(config, inputs).items()
    }


def _plain_fp32(config: Config, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The same mathematics in plain fp32 NumPy for a flat cache of rows; inputs are fp32 already, the mask is bytes."""
    c = config
    split = c.curr_sprior - c.s_active
    q = inputs["q"].reshape(c.d_head, c.bs, c.columns_per_batch).transpose(1, 2, 0)
    k, v = inputs["k_prior"][: c.bs, 0, : c.curr_sprior], inputs["v_prior"][: c.bs, 0, : c.curr_sprior]
    k[:, split:] = inputs["k_active"].reshape(c.d_head, c.bs, c.s_active).transpose(1, 2, 0)
    v[:, split:] = inputs["v_active"][:, 0]
    keep = inputs["mask"].transpose(1, 2, 3, 0).reshape(c.bs, c.columns_per_batch, c.curr_sprior) != 0
    scores = np.where(keep, q @ k.transpose(0, 2, 1), np.float32(-np.inf))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    out: NDArray[np.float32] = weights @ v / weights.sum(axis=-1, keepdims=True)
    return out


# ---- the catalog -------------------------------------------------------------------------------------------------

_CI, _GOLDEN, _CHECK = frozenset({"ci", "check"}), frozenset({"ci", "golden", "check"}), frozenset({"check"})
_CORNER = frozenset({"ci"})


def _case(name: str, lane: str = "normal", tags: frozenset[str] = _GOLDEN, note: str = "", **fields: Any) -> Case:
    defaults = {"full_sprior": fields["curr_sprior"]}
    return Case(name, Config(**defaults | fields), lane, 0, tags, note)


def _sized(B: int, H: int, s: int, S: int, d: int, **fields: Any) -> dict[str, Any]:
    return {"bs": B, "q_head": H, "s_active": s, "curr_sprior": S, "d_head": d} | fields


_LLAMA = _sized(4, 8, 1, 8192, 128, tp_k_prior=True)
_LLAMA_SPECULATIVE = _sized(4, 8, 5, 8192, 128, tp_k_prior=True)
_PAGED: dict[str, Any] = {"tp_k_prior": True, "strided_mm1": False}
_SEQUENCE = _sized(3, 2, 3, 512, 32)
_BATCH = _sized(4, 8, 5, 256, 32)
_ALONE = _sized(2, 3, 2, 384, 64, lnc=1)
_ROPE = _sized(2, 2, 3, 512, 64, fuse_rope=True, qk_in_sb=False)
_FP8: dict[str, Any] = {"kv_dtype": FP8, "active_dtype": FP8}
_FP32: dict[str, Any] = {
    "dtype": "float32", "kv_dtype": "float32", "active_dtype": "float32", "out_dtype": "float32",
}  # fmt: skip

CATALOG = (
    _case("decode-8k", tags=_CHECK, note="Llama-3-70B at TP8", **_LLAMA),
    _case("decode-8k-s5", tags=_CHECK, note="Llama-3-70B at TP8, speculative", **_LLAMA_SPECULATIVE),
    _case("decode-8k-lnc1", tags=_CHECK, lnc=1, **_LLAMA),
    _case("decode-8k-sink", tags=_CHECK, sink="float32", out_in_sb=True, **_LLAMA),
    _case("decode-8k-fp8", tags=_CHECK, **_FP8, **_LLAMA),
    _case("decode-32k", tags=_CHECK, note="two flash tiles per core", **_sized(2, 8, 1, 32768, 128, tp_k_prior=True)),
    _case("batch-64", tags=_CHECK, note="many short contexts", **_sized(64, 8, 1, 512, 128, tp_k_prior=True)),
    _case("paged-16", "pages", tags=_CHECK, **_sized(4, 8, 1, 8192, 128), block_len=16, num_blocks=2304, **_PAGED),
    _case("paged-128", "pages", tags=_CHECK, **_sized(4, 8, 5, 8192, 128), block_len=128, num_blocks=288, **_PAGED),
    _case("rope-8k", tags=_CHECK, **_sized(4, 8, 1, 8192, 128), fuse_rope=True, qk_in_sb=False, k_out=True),
    _case("sequence", **_SEQUENCE),
    _case("sequence-sink", sink="bfloat16", **_SEQUENCE),
    _case("sequence-dma", sink="float32", use_gpsimd_sb2sb=False, out_in_sb=True, **_SEQUENCE),
    _case("sequence-sequential", strided_mm1=False, **_SEQUENCE),
    _case("sequence-rows", tp_k_prior=True, full_sprior=640, cache_rows=4, **_SEQUENCE),
    _case("sequence-pos-id", use_pos_id=True, mask_dtype="float32", **_SEQUENCE),
    _case("sequence-wide", sink="float32", **_sized(5, 7, 5, 256, 72)),
    _case("batch", **_BATCH),
    _case("batch-sbuf", out_in_sb=True, sink="float32", **_BATCH),
    _case("batch-pos-id", use_pos_id=True, limits="latest", **_BATCH),
    _case("both-alone", note="two cores, nothing to share", **_sized(3, 1, 5, 128, 32), sink="float16"),
    _case("alone", **_ALONE),
    _case("alone-sink", sink="float32", mask_dtype="int32", **_ALONE),
    _case("one-element", note="one column, one key tile", **_sized(1, 1, 1, 128, 32, lnc=1)),
    _case("fp16", dtype="float16", kv_dtype="float16", active_dtype="float16", out_dtype="float16", **_ALONE),
    _case("fp32", sink="float32", **_FP32, **_SEQUENCE),
    _case("cast-active", dtype="float16", active_dtype="float16", strided_mm1=False, **_ALONE),
    _case("cast-active-strided", dtype="float16", active_dtype="float16", **_sized(3, 1, 5, 512, 32)),
    _case("fp8-kv", **_FP8, **_SEQUENCE),
    _case("fp8-query", dtype=FP8, tp_k_prior=True, **_FP8, **_ALONE),
    _case("fp8-edge", "fp8_edge", **_FP8, **_SEQUENCE),
    _case("block-16", "pages", **_sized(3, 2, 3, 512, 32), block_len=16, num_blocks=100, **_PAGED),
    _case("block-128-d128", "pages", sink="float32", **_sized(2, 2, 1, 1024, 128), block_len=64, **_PAGED),
    _case("block-fp8", **_FP8, **_sized(2, 2, 5, 512, 64), block_len=32, **_PAGED),
    _case("block-batch", **_sized(8, 8, 5, 256, 16), block_len=128, note="resized over one share", **_PAGED),
    _case("block-pos-id", use_pos_id=True, limits="latest", **_sized(3, 1, 5, 512, 32), block_len=8, **_PAGED),
    _case("flash", sink="float32", debug=True, **_sized(1, 2, 2, 16640, 16)),
    _case("flash-alone", sink="float32", **_sized(2, 1, 3, 8448, 16, lnc=1)),
    _case("flash-block", debug=True, **_sized(1, 2, 5, 16640, 16), block_len=16, **_PAGED),
    _case("flash-batch", tags=frozenset({"ci"}), debug=True, **_sized(2, 65, 1, 8320, 8)),
    _case("flash-off", enable_fa_s_prior_tiling=False, **_sized(1, 2, 2, 16640, 16)),
    _case("rope", k_out=True, **_ROPE),
    _case("rope-sbuf", k_out=True, k_out_in_sb=True, **_ROPE | {"qk_in_sb": True}),
    _case("rope-fp32-d128", k_out=True, **_FP32, **_ROPE | {"d_head": 128, "lnc": 1}),
    _case("debug", debug=True, sink="float32", **_SEQUENCE),
    _case("debug-batch", debug=True, **_BATCH),
    _case("debug-block", debug=True, **_sized(3, 2, 3, 512, 32), block_len=16, **_PAGED),
    _case("exact", "exact", sink="float32", **_SEQUENCE),
    _case("exact-block", "exact", **_sized(3, 2, 3, 512, 32), block_len=16, **_PAGED),
    _case("exact-rounding", "exact_rounding", tags=_CI, sink="float32", **_SEQUENCE),
    _case("one-sided", "one_sided", tags=_CI, **_SEQUENCE),
    _case("shift", "shift", sink="bfloat16", **_SEQUENCE),
    _case("rising", "rising", **_SEQUENCE),
    _case("rising-flash", "rising", **_sized(1, 2, 1, 33024, 16)),
    _case("one-hot", "one_hot", **_SEQUENCE),
    _case("one-hot-block", "one_hot", **_sized(3, 2, 3, 512, 32), block_len=16, **_PAGED),
    _case("poison", "poison", full_sprior=640, cache_rows=4, **_SEQUENCE),
    _case("poison-sink", "poison", sink="float32", **_BATCH),
    _case("poison-pos-id", "poison", use_pos_id=True, **_SEQUENCE),
    _case("poison-block", "poison", **_sized(3, 2, 3, 512, 32), block_len=16, num_blocks=100, **_PAGED),
    _case("heavy-tailed", "heavy_tailed", **_SEQUENCE),
    # Corners of the option space: each shows a fault that no other short case shows.
    _case(
        "entry-across-cores", "normal", _CORNER, note="a table entry on both sides of the cores' boundary", bs=1,
        q_head=1, s_active=1, curr_sprior=768, d_head=32, block_len=256, tp_k_prior=True, strided_mm1=False,
    ),
    _case(
        "flash-inside-entry", "normal", _CORNER, note="a flash tile that begins inside a table entry", bs=1, q_head=1,
        s_active=1, curr_sprior=16640, d_head=16, block_len=640, lnc=1, tp_k_prior=True, strided_mm1=False,
    ),
    _case(
        "blocks-200-batches", "normal", _CORNER, note="ids of more than 128 batches", bs=200, q_head=1, s_active=1,
        curr_sprior=128, d_head=16, block_len=16, lnc=1, tp_k_prior=True, strided_mm1=False,
    ),
    _case(
        "wide-mask-chunks", "normal", _CORNER, note="a mask of four bytes in several chunks", bs=8, q_head=8,
        s_active=8, curr_sprior=2048, d_head=16, mask_dtype="float32", lnc=1,
    ),
    _case(
        "loads-poisoned", "poison", _CORNER, note="rows that nobody keeps, in every load", bs=1, q_head=2, s_active=2,
        curr_sprior=16384, d_head=16, enable_fa_s_prior_tiling=False, lnc=1,
    ),
    _case(
        "loads-two-batches", "normal", _CORNER, note="new keys of the second batch in the last load", bs=2, q_head=1,
        s_active=2, curr_sprior=8192, d_head=16, out_dtype="float32", lnc=1, dtype="float32", kv_dtype="float32",
        active_dtype="float32",
    ),
    _case(
        "batch-tiles-debug", "normal", _CORNER, note="tiles of batches whose columns begin anywhere", bs=6, q_head=12,
        s_active=5, curr_sprior=8192, d_head=16, lnc=1, debug=True,
    ),
    _case(
        "batch-tiles-wide-mask", "normal", _CORNER, note="the wide mask of new tokens in a second tile of batches",
        bs=6, q_head=12, s_active=5, curr_sprior=8192, d_head=16, lnc=1, use_pos_id=True, mask_dtype="float32",
    ),
    _case(
        "nothing-kept-debug", "poison", _CORNER, note="the maximum of nothing", bs=1, q_head=2, s_active=1,
        curr_sprior=256, d_head=16, lnc=1, debug=True,
    ),
    _case(
        "batches-at-128-columns", "normal", _CORNER, note="128 columns: one short of sharding batches", bs=2, q_head=8,
        s_active=8, curr_sprior=256, d_head=32, out_dtype="float32",
    ),
    _case(
        "batches-at-256-keys", "normal", _CORNER, note="256 keys: one step short of sharding the sequence", bs=2,
        q_head=2, s_active=1, curr_sprior=256, d_head=32, debug=True,
    ),
)

_BENCH_8K = Config(**_LLAMA, full_sprior=8192)
_BENCH_32K = Config(**_LLAMA | {"curr_sprior": 32768}, full_sprior=32768)

FLAGS = flags(
    Config,
    Flag("sharding", ("none", "sequence", "batch"), of=lambda config: config.plan.sharding),
    Flag("flash", (False, True), of=lambda config: config.plan.flash),
    block_len=some("block_len", 0, 16),
    dtype=DTYPES,
    kv_dtype=DTYPES,
    active_dtype=DTYPES,
    out_dtype=FLOATS,
    mask_dtype=MASK_DTYPES,
    sink=(None, *FLOATS),
    cache_rows=some("cache_rows", 0, 8),
    num_blocks=some("num_blocks", 0, 600),
    lnc=(1, 2),
    limits=LIMITS,
)

SUBJECT = Subject(
    name="attention_tkg",
    config_type=Config,
    contract=CONTRACT,
    outputs=OUTPUTS,
    lanes=LANES,
    catalog=CATALOG,
    implementation="kernels.attention_tkg:attention_tkg",
    legal=refusal,
    call_refusal=call_refusal,
    strategy=configs,
    illegal=illegal,
    spoilings=SPOILINGS,
    build=build,
    truth=reference.truth,
    model=reference.model,
    call=call,
    lane_fits=fits,
    quantization=lambda config: "fp8-kv" if config.kv_dtype == FP8 else "none",
    bounds=_bounds,
    flags=FLAGS,
    bench=(Bench("decode-8k", _BENCH_8K, _plain_fp32), Bench("decode-32k", _BENCH_32K, _plain_fp32)),
    unrounded=Unrounded(unrounded, truth_of),
)

__all__ = ["CATALOG", "SUBJECT", "build", "call", "configs", "illegal"]
