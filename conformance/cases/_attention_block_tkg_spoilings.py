"""What is done to the inputs of attention_block_tkg so that a rule about its tensors refuses them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from conformance.randomness import Stream
from conformance.spoilings import Arrays, Changes, Spoiling, any_place, misshapen, missing, pick, unused, with_value
from reference.contracts.attention_block_tkg import SKIP, Config, tensors

_INDEX = "kv_cache_update_idx"


def _block_id(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    table = inputs["active_blocks_table"]
    beyond = pick(stream, (config.blocks, config.blocks + 1, 2**24, 2**32 - 1))
    return {"active_blocks_table": with_value(table, any_place(stream.child("place"), table), beyond)}


def _rows(config: Config) -> int:
    """Slots of a batch, in blocks those that all batches share."""
    return config.blocks * config.block_len if config.block_kv else config.S_max


def _run(config: Config) -> int:
    """Slots that one index writes."""
    return 1 if config.idx_per_token else config.S


def _beyond(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    index, end = inputs[_INDEX], _rows(config)
    first = pick(stream, (end, end - _run(config) + 1, end + 1, 2**31, SKIP - 1))
    return {_INDEX: with_value(index, any_place(stream.child("place"), index), first)}


def _crossing(config: Config) -> NDArray[np.int64]:
    """First rows whose runs begin in one block and end in another one, or in a third."""
    first = np.arange(max(0, _rows(config) - config.S + 1))
    return first[first % config.block_len + config.S > config.block_len]


def _across(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    index, first = inputs[_INDEX], _crossing(config)
    return {_INDEX: with_value(index, any_place(stream.child("place"), index), first[stream.integers(0, first.size)])}


def _twice(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    """Two batches, or two tokens of one, at the same slot, or at runs that overlap in their ends."""
    shape = inputs[_INDEX].shape
    # In a flat cache every batch has slots of its own.
    batches = range(shape[0]) if config.block_kv else [int(stream.integers(0, shape[0]))]
    places = [(b, j) for b in batches for j in range(shape[1])]
    one, other = (places[i] for i in stream.child("places").permutation(len(places))[:2])
    run = _run(config)
    room = (config.block_len if config.block_kv else _rows(config)) - run
    inside = int(stream.child("inside").integers(0, room + 1))
    near = min(room, inside + int(stream.child("near").integers(0, run)))
    block = int(stream.child("block").integers(0, config.blocks)) * config.block_len if config.block_kv else 0
    return {_INDEX: with_value(with_value(inputs[_INDEX], one, block + inside), other, block + near)}


def _can_meet(config: Config) -> bool:
    c = config
    if c.idx_per_token:
        return c.update_cache and (c.S > 1 or (c.block_kv and c.B > 1))
    return c.update_cache and c.block_kv and c.B > 1 and c.block_len >= c.S


SPOILINGS = (
    missing(),
    unused(
        tensors, "sink", "bias_qkv", "cos", "bias_out", "active_blocks_table", "k_scale", "rmsnorm_X_gamma", "W_out"
    ),
    misshapen(),
    Spoiling("block_id_range", _block_id, lambda config: config.block_kv),
    Spoiling("idx_range", _beyond, lambda config: config.update_cache),
    Spoiling(
        "idx_block",
        _across,
        lambda config: config.update_cache
        and config.block_kv
        and not config.idx_per_token
        and bool(_crossing(config).size),
    ),
    Spoiling("idx_distinct", _twice, _can_meet),
)
