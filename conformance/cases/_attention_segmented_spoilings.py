"""What is done to the inputs of attention_segmented_cte so that a rule about its tensors refuses them."""

from __future__ import annotations

import numpy as np

from conformance.randomness import Stream
from conformance.spoilings import Arrays, Changes, Spoiling, misshapen, missing, pick, unused, with_value
from reference.contracts.attention_segmented_cte import TOKEN_LIMIT, Config, entries_in_use, tensors


def _prior(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    """Negative, part of a page, or so much that the chunk does not fit the table."""
    prior, room = int(inputs["prior_tokens"][0, 0]), config.max_blocks * config.block_size
    bad = pick(stream, (-1, -config.block_size, prior + 1, room - config.seqlen_q + config.block_size, room))
    return {"prior_tokens": np.full((1, 1), bad, np.int32)}


def _entry(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    """An entry in use that names no block, also -1 where it skips a page that others follow."""
    table = inputs["block_tables"]
    first, own, end = entries_in_use(config, int(inputs["prior_tokens"][0, 0]))
    row, entry = int(stream.integers(0, config.batch)), int(stream.integers(first, end))
    followed = entry < own or bool((table[row, entry + 1 : end] != -1).any())
    bad = (config.num_blocks, config.num_blocks + 7, 2**31 - 1, -2, -(2**31))
    value = pick(stream.child("value"), (*bad, -1) if followed else bad)
    return {"block_tables": with_value(table, (row, entry), value)}


def _offset(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    bad = pick(stream, (TOKEN_LIMIT, -TOKEN_LIMIT, TOKEN_LIMIT + 1, 2**31 - 1, -(2**31)))
    return {"kvp_offset": np.full((1, 1), bad, np.int32)}


SPOILINGS = (
    missing(),
    unused(tensors, "sink", "kvp_offset", "k_scale", "v_scale"),
    misshapen(),
    Spoiling("prior_tokens", _prior),
    Spoiling("table_entries", _entry),
    Spoiling("kvp_offset", _offset, lambda config: config.kvp),
)
