"""Strategies draw the situations that faults have been found to need, the rare ones too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from conformance.pairwise import pool
from conformance.registry import kernel

#: Configs among which each situation must be.
DRAWN = 1200

#: Kernel, situation, whether a config has it.
SITUATIONS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("output_projection_tkg", "ragged shard", lambda c: not c.transpose_out and c.shard in (2560, 3584)),
    ("output_projection_tkg", "several PSUM tiles, transposed", lambda c: c.transpose_out and c.h2 * c.tokens > 512),
    (
        "output_projection_tkg", "bias of a second PSUM tile in SBUF",
        lambda c: c.transpose_out and c.h2 * c.tokens > 512 and c.bias and c.out_in_sb,
    ),
    ("output_projection_tkg", "double rows packed", lambda c: c.double_row and c.heads_per_group > 1),
    ("output_projection_tkg", "double rows streamed", lambda c: c.double_row and c.N == 18 and c.shard == 2048),
    ("qkv", "weights streamed", lambda c: c.I == 4096 and c.quantization == "NONE"),
    ("qkv", "FP8 weights streamed", lambda c: c.I == 4096 and c.quantization == "STATIC" and c.H >= 3584),
    ("qkv", "MX weights streamed", lambda c: c.I == 4096 and c.quantization == "MX" and c.H >= 3072),
    ("qkv", "32 tokens", lambda c: c.tokens == 32),
    ("qkv", "64 tokens", lambda c: c.tokens == 64),
    ("qkv", "a sequence of 96 in decode", lambda c: c.S == 96),
    ("qkv", "an upper limit alone", lambda c: c.fp8_max is not None and c.fp8_min is None),
    ("qkv", "a lower limit alone", lambda c: c.fp8_max is None and c.fp8_min is not None),
    ("qkv", "limits of other sizes", lambda c: None not in (c.fp8_max, c.fp8_min) and c.fp8_max != -c.fp8_min),
    ("qkv", "flat cache, several tiles of a sequence", lambda c: c.kv_cache == "FLAT" and c.S > 128 and c.B > 1),
    (
        "qkv", "several KV heads with RoPE in NBSd",
        lambda c: c.fused_rope and c.output_layout == "NBSd" and c.num_kv_heads > 1,
    ),
    ("qkv", "LayerNorm with a short piece", lambda c: c.norm == "LAYER_NORM" and c.H > 512 and c.H % 512 and c.S > 96),
    ("qkv", "tokens normalised in several steps", lambda c: c.norm != "NO_NORM" and c.B == 128 and c.H > 4096),
    ("qkv", "an eps that is no bfloat16", lambda c: c.norm_eps in (0.3, 77.3)),
    (
        "attention_tkg", "a block on both cores",
        lambda c: c.plan.sharding == "sequence" and c.block_len and c.curr_sprior // 2 % c.block_len,
    ),
    ("attention_tkg", "a flash tile inside a block", lambda c: c.plan.flash and c.block_len and 8192 % c.block_len),
    ("attention_tkg", "over 128 batches in blocks", lambda c: c.bs > 128 and c.block_len and c.lnc == 1),
    ("attention_tkg", "debug, several batch tiles", lambda c: c.debug and c.bs * c.columns_per_batch > 3500),
    (
        "attention_tkg", "128 columns exactly",
        lambda c: c.lnc == 2 and c.bs % 2 == 0 and c.bs * c.columns_per_batch == 128 and c.curr_sprior >= 256,
    ),
    ("attention_tkg", "256 keys exactly", lambda c: c.lnc == 2 and c.bs % 2 == 0 and c.curr_sprior == 256),
    (
        "attention_segmented_cte", "an odd row of long blocks",
        lambda c: c.lnc == 2 and c.rows % 2 and c.block_size >= 256 and c.seqlen_q > c.block_size,
    ),
    ("attention_segmented_cte", "a window on a shared row", lambda c: c.sliding_window and c.lnc == 2 and c.rows % 2),
    (
        "attention_segmented_cte", "tokens in front of a window",
        lambda c: 0 < c.sliding_window < c.max_blocks * c.block_size - c.seqlen_q,
    ),
    ("attention_segmented_cte", "k_scale on queries in rows", lambda c: c.k_scale and not c.tp_q),
    ("attention_segmented_cte", "kvp with short segments", lambda c: c.kvp and c.prior_seg_size <= 64),
    ("attention_block_tkg", "an eps of 0", lambda c: c.rmsnorm_X_enabled and c.rmsnorm_X_eps == 0.0),
    ("attention_block_tkg", "an eps like a mean square", lambda c: c.rmsnorm_X_enabled and c.rmsnorm_X_eps == 0.9),
    ("attention_block_tkg", "over four tiles of columns", lambda c: c.I > 2048),
    (
        "attention_block_tkg", "one token, interleaved RoPE",
        lambda c: c.S == 1 and c.cos and not c.rope_contiguous_layout,
    ),
    ("attention_block_tkg", "transposed keys, many batches", lambda c: c.B > 2 and c.K_cache_transposed),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "has"), [pytest.param(name, has, id=f"{name}: {situation}") for name, situation, has in SITUATIONS]
)
def test_the_situation_is_drawn(name: str, has: Callable[[Any], Any]) -> None:
    assert any(has(config) for config in _drawn(name))


@functools.cache
def _drawn(name: str) -> list[Any]:
    return pool(kernel(name), DRAWN, seed=3)
