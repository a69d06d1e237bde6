"""attention_block_tkg: the model that gives the kernel's bits, and the truth it is judged by.

The block is a chain of stages, three of them whole models of other kernels: `qkv_tkg`, `attention_tkg` and
`output_projection_tkg`. Between them queries and keys are normalised and rotated head by head, keys and values
quantized, queries scaled. Every core computes these steps alike.

Not modelled: DMA, transposes and layouts on the chip (all exact), and which core writes which cache. Contract:
the module of that name in contracts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference import attention_tkg, output_projection_tkg, qkv_tkg
from reference.attention_block_tkg_layout import (
    arranged,
    attention_inputs,
    by_channel,
    projection_inputs,
    qkv_inputs,
    returned,
    split_heads,
    stored,
    waves,
)
from reference.attention_block_tkg_truth import truth
from reference.contracts.attention_block_tkg import Config, validate_call
from reference.contracts.attention_block_tkg_config import FP8, FP8_MAX
from reference.head_norm import head_norm
from reference.kv_store import clamp_rows
from reference.numerics.alu import BINARY
from reference.numerics.cast import to_float32
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.recorder import NO_RECORD, Recorder
from reference.rope import rounded_rotation
from reference.rounding import alongside, is_study, round_to

__all__ = ["model", "truth"]

Array = NDArray[Any]
Arrays = dict[str, Array]

#: Tile index of queries, keys and values in the names of the block's own points.
QUERIES, KEYS, VALUES = 0, 1, 2


def model(
    config: Config, inputs: Arrays, profile: NumericsProfile = DEFAULT, record: Recorder = NO_RECORD
) -> Arrays:
    """The results with the kernel's bits, in storage dtypes: out, K_out, V_out; the inputs are never written.

    K_out and V_out are the whole caches after the call with update_cache, else the new keys [d, B, S] and values
    [B, 1, S, d]. A query that keeps nothing and has no sink is NaN, with a sink 0. NaN and infinities stay within
    their token up to attention. Cache slots that the mask drops may hold anything.

    Args:
        config: a legal Config.
        inputs: arrays in storage dtypes by argument name, shapes as `contracts.attention_block_tkg.tensors` says.
        profile: answers to the open questions of the arithmetic.
        record: takes the values of the contract's rounding points.

    Raises:
        KernelArgumentError: the config or a tensor is not legal.
    """
    if not is_study(profile):
        validate_call(config, inputs)
    with np.errstate(all="ignore"):
        return _Call(config, inputs, profile, record).run()


@dataclass(frozen=True)
class _Call:
    """One call: what its stages read."""

    config: Config
    inputs: Arrays
    profile: NumericsProfile
    record: Recorder

    def run(self) -> Arrays:
        q, keys, values = split_heads(self.config, self.projected())
        q, keys = self.processed(q, QUERIES), self.processed(keys, KEYS)
        if self.config.quantized_kv:
            keys = self.quantized(keys, "k_scale", KEYS, keys.shape[0])
            values = self.quantized(values, "v_scale", VALUES, self.config.tokens)
        attention = q if self.config.skip_attention else self.attended(self.scaled(q), keys, values)
        return {"out": self.output(attention)} | self.stored(keys, values)

    # --- before attention -----------------------------------------------------------------------------

    def projected(self) -> Array:
        """Queries, keys and values side by side, [B, S, I] in io."""
        stage = qkv_tkg.model(self.config.qkv, qkv_inputs(self.config, self.inputs), self.profile, self.record)
        return stage["out"]

    def processed(self, x: Array, r: int) -> Array:
        """Heads [d, B, heads, S] normalised, rotated and normalised again, as the call asks."""
        config = self.config
        self.tell("heads", r, x)
        if config.rmsnorm_QK_pre_rope_enabled:
            x = self.normed(x, "pre", r, None, config.rmsnorm_QK_pre_rope_eps)
        if config.rope:
            x = self.rotated(x, r)
        if config.rmsnorm_QK_post_rope_enabled:
            weight = self.inputs.get(f"rmsnorm_QK_post_rope_W_{'QK'[r]}")
            x = self.normed(x, "post", r, weight, config.rmsnorm_QK_post_rope_eps)
        return x

    def normed(self, x: Array, prefix: str, r: int, weight: Array | None, eps: float) -> Array:
        columns = x.reshape(self.config.d, -1)
        weights, dtype = None if weight is None else weight[0], self.config.dtype
        steps = head_norm(columns, weights, eps, self.profile, dtype, f"{prefix}_normed", (r,))
        for name, value in steps._asdict().items():
            if value is not None:
                self.tell(f"{prefix}_{name}", r, value)
        return steps.normed.reshape(x.shape)

    def rotated(self, x: Array, r: int) -> Array:
        tables, layout = waves(self.config, self.inputs), self.config.rope_layout
        steps = rounded_rotation(x, *tables, layout, self.profile, self.config.dtype, (r,))
        for name, value in steps._asdict().items():
            self.tell("rotated" if name == "total" else f"rope_{name}", r, value)
        return steps.total

    def quantized(self, x: Array, scale: str, r: int, rows: int) -> Array:
        """New keys or values times their scale, in FP8."""
        product = BINARY["multiply"](to_float32(x), to_float32(self.inputs[scale])[:1, :1].reshape(()), self.profile)
        order, limits = ("minimum", "maximum"), (-FP8_MAX, FP8_MAX)
        codes = clamp_rows(product, limits, FP8, self.profile, order, "kv_quantized", (r,))
        self.tell("kv_scaled", r, product, rows)
        self.tell("kv_quantized", r, codes, rows)
        return codes

    def scaled(self, q: Array) -> Array:
        product = BINARY["multiply"](to_float32(q), np.float32(self.config.scale), self.profile)
        query = round_to("scaled_query", product, self.config.dtype, self.profile)
        for core in self.cores():
            self.record("scaled_query", (), query.reshape(self.config.d, -1), core=core)
        return query

    # --- attention and after --------------------------------------------------------------------------

    def attended(self, q: Array, keys: Array, values: Array) -> Array:
        """Attention over the caches as they were before the call, [d, B, q, S] in io."""
        stage_inputs = attention_inputs(self.config, self.inputs, q, keys, values)
        stage = attention_tkg.model(self.config.attention, stage_inputs, self.profile, self.record)
        return by_channel(self.config, stage["out"])

    def output(self, attention: Array) -> Array:
        if self.config.W_out is None:
            return arranged(self.config, attention)
        stage_inputs = projection_inputs(self.config, self.inputs, attention)
        return output_projection_tkg.model(self.config.projection, stage_inputs, self.profile, self.record)["out"]

    def stored(self, keys: Array, values: Array) -> Arrays:
        if not self.config.update_cache:
            return returned(self.config, keys, values)
        k_cache, keys = alongside(self.inputs["K_cache"], keys, self.profile)
        v_cache, values = alongside(self.inputs["V_cache"], values, self.profile)
        return stored(self.config, k_cache, v_cache, keys, values, self.inputs["kv_cache_update_idx"])

    # --- records --------------------------------------------------------------------------------------

    def cores(self) -> Iterator[int]:
        """The cores to record for: all of them compute alike; none when nothing is recorded."""
        yield from range(self.config.lnc if self.record.enabled else 0)

    def tell(self, point: str, r: int, value: Array, rows: int = 0) -> None:
        """A tile that every core holds alike; `rows` partitions, or as many as the first axis has."""
        for core in self.cores():
            self.record(point, (r,), value.reshape(rows or len(value), -1), core=core)
