"""Inputs of attention_segmented_cte for the tests of its model: signed data, scattered pages, poison around.

Scores have a spread of about two and the sink lies near the row's log-sum-exp, so that a lost sink, a zero
column or a missing scale is seen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.contracts.attention_segmented_cte import Config, entries_in_use, refusal, tensors
from reference.numerics.cast import cast

Array = NDArray[Any]
Inputs = dict[str, Array]

SMALL = {
    "batch": 1, "seqlen_q": 128, "d_head": 16, "block_size": 16, "prior_seg_size": 512, "num_blocks": 0,
    "max_blocks": 0,
}  # fmt: skip


def config_of(prior: int = 0, **changes: Any) -> Config:
    """A legal config whose cache and table have a little more room than `prior` and the chunk need."""
    config = Config(**(SMALL | changes))
    entries = (prior + config.seqlen_q) // config.block_size
    table = config.max_blocks or entries + 3
    config = replace(config, max_blocks=table, num_blocks=config.num_blocks or config.batch * entries + 2)
    assert (found := refusal(config)) is None, found
    return config


def stored(values: Any, dtype: str) -> Array:
    return cast(np.asarray(values, np.float32), dtype)


def build(config: Config, prior: int = 0, seed: int = 0, offset: int | None = None) -> Inputs:
    """Normal values, blocks in random order; blocks and table entries that are not in use hold poison."""
    draw = np.random.default_rng(seed)
    shapes = tensors(config)
    inputs: Inputs = {"prior_tokens": np.array([[prior]], np.int32)}
    inputs["block_tables"] = _table(config, prior, draw)
    q = draw.standard_normal(shapes["q"].shape) * 2 * config.d_head**-0.5
    inputs["q"] = stored(q, config.dtype)
    for name in ("k_cache", "v_cache"):
        inputs[name] = stored(draw.standard_normal(shapes[name].shape), config.kv_dtype)
    if config.sink is not None:
        near = np.log(prior + config.seqlen_q) + draw.standard_normal(shapes["sink"].shape)
        inputs["sink"] = stored(near, config.sink)
    if config.kvp:
        inputs["kvp_offset"] = np.array([[prior if offset is None else offset]], np.int32)
    for name in ("k_scale", "v_scale"):
        if name in shapes:
            inputs[name] = draw.uniform(0.5, 1.5, shapes[name].shape).astype(np.float32)
            inputs[name][config.d_head :] = np.nan
    poison(config, inputs)
    return inputs


def _table(config: Config, prior: int, draw: np.random.Generator) -> Array:
    """Distinct random blocks for the entries in use, entries of no block for the others."""
    first, _, end = entries_in_use(config, prior)
    table = np.full((config.batch, config.max_blocks), 2**30, np.int32)
    ids = draw.permutation(config.num_blocks)[: config.batch * (end - first)]
    table[:, first:end] = ids.reshape(config.batch, -1)
    table[:, end:] = -1
    return table


def poison(config: Config, inputs: Inputs) -> None:
    """NaN in all blocks that no entry in use names."""
    first, _, end = entries_in_use(config, int(inputs["prior_tokens"][0, 0]))
    used = np.zeros(config.num_blocks, np.bool_)
    named = inputs["block_tables"][:, first:end]
    used[named[named >= 0]] = True
    inputs["v_cache"][~used] = np.nan
    rows = np.repeat(~used, config.num_kv_heads) if config.k_pre_transposed else ~used
    inputs["k_cache"][rows] = np.nan


def by_row(config: Config, out: Array) -> Array:
    """out as [BQ, S, d]."""
    return out.transpose(0, 2, 1) if config.tp_out else out


def same(a: Array, b: Array) -> bool:
    """Equal bits; NaN equals NaN."""
    x, y = np.asarray(a, np.float32), np.asarray(b, np.float32)
    both = np.isnan(x) & np.isnan(y)
    return bool(((x.view(np.int32) == y.view(np.int32)) | both).all())
