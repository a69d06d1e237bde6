"""What is done to the inputs of attention_tkg so that a rule about its tensors refuses them."""

from __future__ import annotations

from conformance.randomness import Stream
from conformance.spoilings import Arrays, Changes, Spoiling, any_place, misshapen, missing, pick, unused, with_value
from reference.contracts.attention_tkg import Config, tensors


def _block_id(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    table = inputs["active_blocks_table"]
    beyond = pick(stream, (config.blocks, config.blocks + 1, 2**24, 2**32 - 1))
    return {"active_blocks_table": with_value(table, any_place(stream.child("place"), table), beyond)}


def _position(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    ids = inputs["rope_pos_ids"]
    bad = pick(stream, (-1.0, -(2.0**-149), float("nan"), float("inf")))
    return {"rope_pos_ids": with_value(ids, any_place(stream.child("place"), ids), bad)}


SPOILINGS = (
    missing(),
    unused(tensors, "sink", "inv_freqs", "rope_pos_ids", "active_blocks_table"),
    misshapen(),
    Spoiling("block_id_range", _block_id, lambda config: config.block_kv),
    Spoiling("position_range", _position, lambda config: config.fuse_rope or config.use_pos_id),
)
