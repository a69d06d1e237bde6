"""attention_segmented_cte as the suite sees it: configs, inputs, and the calls of truth, model and kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance import lanes
from conformance.bounds import Bound, likely_limit
from conformance.cases._attention_segmented_inputs import build, fits
from conformance.cases._attention_segmented_spoilings import SPOILINGS
from conformance.pairwise import flags, some
from conformance.subject import Bench, Call, Case, Output, Subject, Unrounded
from reference import attention_segmented_cte as reference
from reference.attention_segmented_cte_bound import errors
from reference.attention_segmented_cte_truth import truth_of
from reference.contracts.attention_segmented_cte import (
    CONTRACT,
    DTYPES,
    KV_DTYPES,
    SINK_DTYPES,
    Config,
    call_refusal,
    refusal,
    results,
)
from reference.numerics.cast import to_float32

Arrays = dict[str, NDArray[Any]]

LANES = (
    "normal", "exact", "exact_rounding", "one_sided", "rising", "shift", "one_hot", "pages", "poison", "fp8_edge",
    "heavy_tailed",
)  # fmt: skip

#: What a query that sees nothing has: a maximum of -2**127 and a sum of 2**-126.
OUTPUTS = (
    Output("out", description="attention output"),
    Output("neg_max", sentinels=(2.0**127,), description="-1 * row maximum, with kvp_offset"),
    Output("sum_recip", sentinels=(2.0**126,), description="1 / row sum, with kvp_offset"),
)

# ---- configs -----------------------------------------------------------------------------------------------------

#: (batch, KV heads, query heads of each).
_ROWS = (
    (1, 1, 1), (1, 1, 2), (1, 1, 3), (2, 1, 1), (1, 2, 2), (3, 1, 1), (2, 2, 1), (1, 3, 1), (1, 1, 5),
)  # fmt: skip
_FEW_ROWS = ((1, 1, 1), (1, 1, 1), (1, 1, 2), (1, 1, 3), (2, 1, 1))
#: Scores of a config at most, all rows together: tens of milliseconds each.
_MOST_SCORES = 2**20


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Legal configs: every path, layout, dtype and way to share the work, at sizes of tens of milliseconds."""
    block = draw(st.sampled_from((4, 8, 16, 32, 64, 128, 256, 512)))
    unit = max(128, block)
    queries = unit * draw(st.sampled_from((1, 1, 2, 3)))
    # Long blocks leave room for the scores of few rows; a row that two cores share is the one that matters.
    rows = _ROWS if block < 256 else _FEW_ROWS
    batch, kv_heads, per_kv = draw(st.sampled_from(rows))
    single = draw(st.integers(0, 9)) == 0
    segment = block * max(1, draw(st.sampled_from((128, 256, 384, 512, 640, 656, 1024, block))) // block)
    path = draw(st.sampled_from(("prior", "prior", "window", "kvp")))
    prior = draw(st.sampled_from((0, 1, 2, 3))) * segment + block * draw(st.integers(0, segment // block))
    entries = (queries + min(prior, 2048) // block * block) // block
    config = Config(
        batch=batch,
        seqlen_q=queries,
        d_head=draw(st.sampled_from((128, 64, 1, 16, 48, 100))),
        block_size=block,
        prior_seg_size=segment,
        num_blocks=batch * entries + draw(st.integers(0, 5)),
        max_blocks=entries + draw(st.sampled_from((0, 0, 1, 40))),
        num_q_heads=1 if single else kv_heads * per_kv,
        num_kv_heads=kv_heads,
        scale=draw(st.sampled_from((1.0, 1.0, 0.125, -0.5, 0.3))),
        sliding_window=block * draw(st.integers(1, max(1, 1100 // block))) if path == "window" else 0,
        kvp=path == "kvp",
        sink=draw(st.sampled_from((None, *SINK_DTYPES))),
        dtype=draw(st.sampled_from(DTYPES)),
        kv_dtype=draw(st.sampled_from(("bfloat16", *KV_DTYPES))),
        **{name: draw(st.booleans()) for name in ("tp_q", "tp_out", "k_pre_transposed", "k_scale", "v_scale")},
        lnc=draw(st.sampled_from((1, 2, 2))),
    )
    keys = min(config.max_blocks, config.num_blocks // batch) * block
    assume(config.rows * queries * keys <= _MOST_SCORES and refusal(config) is None)
    return config


#: A plain config that any one change takes past a single rule.
_PLAIN: dict[str, Any] = {
    "seqlen_q": 512, "block_size": 16, "prior_seg_size": 512, "num_blocks": 256, "max_blocks": 64, "sliding_window": 0,
    "kvp": False,
}  # fmt: skip

#: Per rule, what turns a plain config into one that this rule refuses first.
_VIOLATIONS: Mapping[str, Callable[[Config], Mapping[str, Any]]] = {
    "sizes": lambda c: {"prior_seg_size": 0},
    "flags": lambda c: {"tp_q": 1},
    "lnc": lambda c: {"lnc": 4},
    "scale": lambda c: {"scale": float("inf")},
    "dtypes": lambda c: {"dtype": "float16"},
    "d_head": lambda c: {"d_head": 129},
    "block_size": lambda c: {"block_size": 48},
    "heads": lambda c: {"num_q_heads": 3, "num_kv_heads": 2},
    "seqlen": lambda c: {"seqlen_q": 464},
    "seqlen_limit": lambda c: {"seqlen_q": 10368, "max_blocks": 648, "num_q_heads": 1, "num_kv_heads": 1},
    "segment": lambda c: {"prior_seg_size": 520},
    "segment_limit": lambda c: {"prior_seg_size": 10256},
    "window": lambda c: {"sliding_window": 100},
    "window_limit": lambda c: {"sliding_window": 10256},
    "window_kvp": lambda c: {"sliding_window": 128, "kvp": True},
    "tokens": lambda c: {"max_blocks": 2**19 + 1},
    "table": lambda c: {"max_blocks": 31},
}


@st.composite
def illegal(draw: st.DrawFn) -> tuple[Config, str]:
    """(config, rule that refuses it first)."""
    rule = draw(st.sampled_from(sorted(_VIOLATIONS)))
    plain = dataclasses.replace(draw(configs()), **_PLAIN)
    return dataclasses.replace(plain, **_VIOLATIONS[rule](plain)), rule


# ---- the rungs ---------------------------------------------------------------------------------------------------


def call(config: Config, inputs: Arrays, implementation: Callable[..., Any]) -> Call:
    """The launch."""
    arguments: dict[str, Any] = dict(inputs) | {
        "block_size": config.block_size,
        "prior_seg_size": config.prior_seg_size,
        "scale": config.scale,
        "tp_q": config.tp_q,
        "tp_out": config.tp_out,
        "sliding_window": config.sliding_window or None,
        "num_q_heads": config.num_q_heads,
        "k_pre_transposed": config.k_pre_transposed,
    }
    return Call(implementation, arguments, tuple(results(config)), config.lnc)


def unrounded(config: Config, lane: str, seed: int) -> Arrays:
    """The caches as they are drawn, before the one rounding into their dtype."""
    # Edges of a format are of it before anything is rounded.
    edges = lane == "fp8_edge"
    found = build(config if edges else dataclasses.replace(config, kv_dtype="float32"), lane, seed)
    caches = {name: to_float32(found[name]) for name in ("k_cache", "v_cache")}
    return {name: lanes.before_rounding(lane, cache, config.kv_dtype) for name, cache in caches.items()}


def _bounds(config: Config, inputs: Arrays) -> Mapping[str, Bound]:
    """Grade C. The channels of a query share the errors of its weights.

    A query that is rounded moves all scores, and the worst case of their exponentials says nothing of the statistics.
    """
    limits = {}
    for name, known in errors(config, inputs).items():
        spread = np.sqrt(known.variance)
        limit = known.error if name == "out" else likely_limit(known.error, spread)
        limits[name] = Bound(limit, spread=spread, alike=((1,) if config.tp_out else (2,)) if name == "out" else ())
    return limits


def _plain_fp32(config: Config, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The same mathematics in plain fp32 NumPy without options; inputs are fp32 already."""
    c = config
    prior = int(inputs["prior_tokens"][0, 0])
    total = prior + c.seqlen_q
    found = np.empty((c.rows, c.seqlen_q, c.d_head), np.float32)
    hidden = np.arange(total) > prior + np.arange(c.seqlen_q)[:, None]
    for row in range(c.rows):
        blocks = inputs["block_tables"][c.sequence(row), : total // c.block_size].astype(np.int64)
        k, v = (inputs[name][blocks, c.kv_head(row)].reshape(total, c.d_head) for name in ("k_cache", "v_cache"))
        scores = inputs["q"][row] @ k.T
        scores[hidden] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        found[row] = weights @ v / weights.sum(axis=1, keepdims=True)
    return found


# ---- the catalog -------------------------------------------------------------------------------------------------

_CI, _GOLDEN, _CHECK = frozenset({"ci", "check"}), frozenset({"ci", "golden", "check"}), frozenset({"check"})
_CORNER = frozenset({"ci"})


def _case(
    name: str, lane: str = "normal", tags: frozenset[str] = _GOLDEN, seed: int = 0, note: str = "", **fields: Any
) -> Case:
    return Case(name, Config(**fields), lane, seed, tags, note)


def _sized(batch: int, heads: int, queries: int, block: int, segment: int, prior: int, d: int, **more: Any) -> Any:
    """With seed 0 the table holds exactly `prior` tokens and the chunk."""
    entries = (prior + queries) // block
    return {
        "batch": batch, "num_q_heads": heads, "seqlen_q": queries, "block_size": block, "prior_seg_size": segment,
        "max_blocks": entries, "num_blocks": batch * entries + 4, "d_head": d,
    } | more  # fmt: skip


_GQA: dict[str, Any] = {"num_kv_heads": 2}
_LLAMA = _sized(1, 8, 2048, 16, 2048, 6144, 128)
#: Two of the eight heads, so that all checks together take half a minute on two cores.
_TWO_HEADS = _sized(1, 2, 2048, 128, 2048, 6144, 128)
#: What lies before a window is never read.
_WINDOWED = _sized(1, 2, 2048, 16, 2048, 2048, 128)
_WINDOWED_128 = _sized(1, 2, 2048, 128, 2048, 2048, 128)
_FP8: dict[str, Any] = {"kv_dtype": "float8_e4m3", "k_scale": True, "v_scale": True}
_ODD = _sized(1, 3, 256, 16, 256, 640, 64)
_WINDOW: dict[str, Any] = {"sliding_window": 128}
_TWELVE: dict[str, Any] = {
    "batch": 1, "seqlen_q": 128, "d_head": 16, "block_size": 128, "prior_seg_size": 256, "num_blocks": 12,
    "max_blocks": 10,
}  # fmt: skip

CATALOG = (
    _case("full", note="path A, C", **_sized(1, 2, 256, 16, 256, 512, 64)),
    _case("partial", note="path B, C", **_sized(1, 2, 256, 16, 256, 336, 64)),
    _case("partial-sink", sink="float32", **_sized(2, 2, 128, 16, 256, 400, 64)),
    _case("no-prior", sink="bfloat16", **_sized(1, 2, 256, 32, 512, 0, 64)),
    _case("split-row", note="path D", **_ODD),
    _case("split-row-sink", sink="float32", tp_out=True, **_ODD),
    _case("split-row-512", note="block of 512 tokens", **_sized(1, 1, 1024, 512, 512, 512, 16)),
    _case("window", note="path E", **_WINDOW, **_sized(1, 2, 256, 16, 256, 640, 64)),
    _case("window-sink", sink="float32", sliding_window=640, **_sized(1, 3, 256, 128, 256, 768, 64)),
    _case("window-no-prior", sink="float32", **_WINDOW, **_sized(1, 2, 128, 128, 128, 0, 64)),
    _case("kvp", kvp=True, note="path F", **_sized(1, 2, 256, 16, 256, 592, 64)),
    _case("kvp-drawn", kvp=True, seed=5, sink="float32", **_sized(1, 3, 128, 16, 256, 592, 64)),
    _case("gqa", **_GQA, **_sized(2, 4, 128, 32, 256, 320, 64)),
    _case("keys-turned", k_pre_transposed=True, **_GQA, **_sized(1, 4, 128, 128, 384, 640, 64)),
    _case("query-columns", tp_q=False, tp_out=True, dtype="float32", **_sized(1, 2, 128, 64, 256, 448, 100)),
    _case("float32-rows", dtype="float32", v_scale=True, **_sized(1, 2, 128, 64, 256, 448, 48)),
    _case("short-blocks", **_sized(1, 2, 128, 4, 20, 52, 16)),
    _case("scaled", scale=0.125, **_sized(1, 2, 128, 16, 256, 272, 64)),
    _case("scaled-down", scale=-0.5, sink="float32", **_sized(1, 2, 128, 16, 256, 272, 64)),
    _case("fp8", **_FP8, **_sized(1, 2, 128, 16, 256, 400, 64)),
    _case("fp8-e5m2-turned", **_FP8 | {"kv_dtype": "float8_e5m2"}, k_pre_transposed=True,
          **_sized(1, 2, 128, 16, 256, 400, 64)),
    _case("large-tiles", note="several large tiles", **_sized(1, 1, 128, 128, 4224, 4352, 16)),
    _case("alone", lnc=1, sink="float32", **_ODD),
    _case("exact", "exact", sink="float32", **_ODD),
    _case("exact-rounding", "exact_rounding", tags=_CI, sink="float32", **_sized(2, 2, 128, 16, 256, 400, 64)),
    _case("one-sided", "one_sided", tags=_CI, **_sized(1, 2, 128, 16, 256, 400, 64)),
    _case("one-hot", "one_hot", **_sized(1, 2, 256, 16, 256, 400, 64)),
    _case("rising", "rising", sink="float32", **_sized(1, 2, 128, 16, 256, 656, 64)),
    _case("shift", "shift", sink="float32", **_sized(1, 2, 128, 16, 256, 400, 64)),
    _case("pages", "pages", **_GQA, **_sized(2, 2, 128, 16, 256, 400, 64)),
    _case("padded-pages", "poison", seed=3, **_sized(3, 1, 256, 16, 256, 400, 64)),
    _case("poison", "poison", **_FP8, **_ODD | {"num_kv_heads": 3}),
    _case("poison-window", "poison", **_WINDOW, **_sized(1, 2, 128, 16, 256, 400, 64)),
    _case("fp8-edge", "fp8_edge", **_FP8, **_sized(1, 2, 128, 16, 256, 400, 64)),
    _case("heavy-tailed", "heavy_tailed", sink="float32", **_sized(1, 2, 128, 16, 256, 400, 64)),
    _case("prefill-6k", tags=_CHECK, note="8 heads over one KV head", **_LLAMA),
    _case("prefill-6k-128", tags=_CHECK, sink="float32", **_TWO_HEADS),
    _case("prefill-window", tags=_CHECK, sliding_window=1024, **_WINDOWED_128),
    _case("prefill-window-sink", tags=_CHECK, sliding_window=128, sink="bfloat16", **_WINDOWED),
    _case("prefill-6k-fp8", tags=_CHECK, k_pre_transposed=True, **_FP8, **_TWO_HEADS),
    # Corners of the option space: each shows a fault that no other short case shows.
    _case(
        "nothing-seen", "normal", _CORNER, seed=13, note="rows that see nothing of a shard, after ones that did",
        kvp=True, **_TWELVE,
    ),
    _case(
        "nothing-seen-poisoned", "poison", _CORNER, seed=1,
        note="rows that see nothing of a shard, with poison behind the tokens", kvp=True, **_TWELVE,
    ),
    _case(
        "many-full-segments", "normal", _CORNER, seed=18, note="many full segments of one page behind an offset",
        batch=1, seqlen_q=128, d_head=16, block_size=16, prior_seg_size=16, num_blocks=40, max_blocks=30, kvp=True,
    ),
    _case(
        "window-split-row", "normal", _CORNER, note="a window on a row that two cores share", batch=1, seqlen_q=256,
        d_head=16, block_size=128, prior_seg_size=256, num_blocks=4, max_blocks=3, sliding_window=256,
    ),
    _case(
        "window-poisoned", "poison", _CORNER, note="poison in front of the window", batch=1, seqlen_q=128, d_head=16,
        block_size=16, prior_seg_size=256, num_blocks=60, max_blocks=50, sliding_window=144,
    ),
    _case(
        "odd-row-256", "normal", _CORNER, note="an odd row cut at blocks of 256", batch=1, seqlen_q=768, d_head=16,
        block_size=256, prior_seg_size=256, num_blocks=12, max_blocks=10,
    ),
    _case(
        "split-row-tp-out", "normal", _CORNER, note="a row that two cores share, results transposed", batch=1,
        seqlen_q=768, d_head=16, block_size=16, prior_seg_size=256, num_blocks=90, max_blocks=80, tp_out=True,
    ),
    _case(
        "k-scale-rows-of-q", "normal", _CORNER, note="k_scale on queries that come as rows", tp_q=False,
        kv_dtype="float8_e4m3", k_scale=True, **_TWELVE,
    ),
    _case(
        "k-scale-rows-of-fp32-q", "normal", _CORNER, note="k_scale on float32 queries that come as rows", tp_q=False,
        kv_dtype="float8_e4m3", k_scale=True, dtype="float32", **_TWELVE,
    ),
    _case(
        "rounded-reciprocal", "normal", _CORNER, note="a segment length whose reciprocal decides the count", batch=1,
        seqlen_q=128, d_head=16, block_size=16, prior_seg_size=5248, num_blocks=336, max_blocks=336,
    ),
    _case(
        "split-row-unequal", "normal", _CORNER, note="a row shared in unequal parts", batch=1, seqlen_q=384, d_head=16,
        block_size=128, prior_seg_size=256, num_blocks=12, max_blocks=10,
    ),
)  # fmt: skip

FLAGS = flags(
    Config,
    num_q_heads=some("num_q_heads", 1, 2),
    num_kv_heads=some("num_kv_heads", 1, 2),
    sliding_window=some("sliding_window", 0, 128),
    sink=(None, *SINK_DTYPES),
    dtype=DTYPES,
    kv_dtype=KV_DTYPES,
    lnc=(1, 2),
)

SUBJECT = Subject(
    name="attention_segmented_cte",
    config_type=Config,
    contract=CONTRACT,
    outputs=OUTPUTS,
    lanes=LANES,
    catalog=CATALOG,
    implementation="kernels.attention_segmented_cte:attention_segmented_cte",
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
    quantization=lambda config: "none" if config.kv_dtype == "bfloat16" else "fp8-kv",
    bounds=_bounds,
    flags=FLAGS,
    bench=(Bench("prefill-6k", Config(**_LLAMA), _plain_fp32),),
    unrounded=Unrounded(unrounded, truth_of),
)

__all__ = ["CATALOG", "LANES", "SUBJECT", "build", "call", "configs", "illegal"]
