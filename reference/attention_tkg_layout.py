"""The tensors of attention_tkg in one order for truth, model and bound, and back in the places the caller
wants.

Tokens come in logical order, columns as [batch, head, active token]. Data movement only; all bits are kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.attention_mask import block_rows, keep, position_mask
from reference.cascaded_softmax import FLOOR
from reference.contracts.attention_tkg import Config, results
from reference.contracts.attention_tkg_plan import FLASH_KEYS, PARTITIONS, Plan
from reference.kv_cache import flat_keys, flat_values, gather_blocks, resized_table
from reference.numerics.cast import to_float32
from reference.numerics.formats import format_of
from reference.numerics.profile import DEFAULT, NumericsProfile

Array = NDArray[Any]
Arrays = dict[str, Array]
Bool = NDArray[np.bool_]


def by_column(config: Config, tensor: Array, heads: int) -> Array:
    """q [d, B*H*s] or [B, d, H, s], k_active [d, B*s] or [B, d, s], as [d, B, heads, s]."""
    shape = (config.d_head, config.bs, heads, config.s_active)
    if config.qk_in_sb:
        return tensor.reshape(shape)
    return tensor.reshape(config.bs, config.d_head, heads, config.s_active).transpose(1, 0, 2, 3)


def prior_rows(config: Config, inputs: Arrays) -> tuple[Array, Array]:
    """Keys and values [B, S, d] of the cache, in token order; the last s slots are stale."""
    keys, values = inputs["k_prior"], inputs["v_prior"]
    if config.block_kv:
        table = inputs["active_blocks_table"]
        return gather_blocks(keys, table), gather_blocks(values, table)
    used = config.bs, config.curr_sprior
    return flat_keys(keys, config.tp_k_prior, *used), flat_values(values, *used)


def kept_keys(config: Config, inputs: Arrays, profile: NumericsProfile = DEFAULT) -> Bool:
    """Where the mask keeps, [B, S, G] in token order."""
    mask = keep(inputs["mask"], profile)
    if config.use_pos_id:
        mask = position_mask(inputs["rope_pos_ids"], mask, config.curr_sprior).view(np.bool_)
    elif config.block_kv:
        plan = config.plan
        mask = mask[np.argsort(block_rows(config.curr_sprior, plan.n_seq, plan.block_len))]
    return np.moveaxis(mask, 0, 1).reshape(config.bs, config.curr_sprior, -1)


def sink_columns(config: Config, inputs: Arrays) -> Array | None:
    """The sink logit of each column of a batch, float32 [G]."""
    if config.sink is None:
        return None
    return np.repeat(to_float32(inputs["sink"])[:, 0], config.s_active)


def share(plan: Plan, core: int, local: range) -> tuple[range, int]:
    """A core's batches, counted over the whole call, and its first token."""
    first = core * plan.batches_per_core if plan.n_bat == 2 else 0
    return range(first + local.start, first + local.stop), core * plan.keys_per_core if plan.n_seq == 2 else 0


def arranged(config: Config, out: Array) -> Array:
    """out [B, d, G] in its place: [LNC, d, B*G] in the SBUF of every core, [B, H, d, s] in HBM."""
    if config.out_in_sb:
        return _on_every_core(config, out.transpose(1, 0, 2))
    heads = out.reshape(config.bs, config.d_head, config.q_head, config.s_active)
    return np.ascontiguousarray(heads.transpose(0, 2, 1, 3))


def arranged_keys(config: Config, k_active: Array) -> Array:
    """k_active [d, B, 1, s] in its place: [LNC, d, B*s] in the SBUF of every core, [B, 1, d, s] in HBM."""
    if config.k_out_in_sb:
        return _on_every_core(config, k_active)
    return np.ascontiguousarray(k_active.transpose(1, 2, 0, 3))


def _on_every_core(config: Config, tile: Array) -> Array:
    return np.stack([tile.reshape(config.d_head, -1)] * config.lnc)


class DebugTensors:
    """The debug tensors, filled tile by tile."""

    def __init__(self, config: Config, dtype: type[Any]) -> None:
        self.config = config
        wanted = results(config)
        exact = dtype is np.float64
        self.found = {
            name: np.zeros(tensor.shape, dtype if exact else format_of(tensor.dtype).storage)
            for name, tensor in wanted.items()
            if name.startswith("dbg_")
        }

    def scores(self, core: int, f: int, local: range, score: Array, prob: Array) -> None:
        """Scores and exponentials [batches, n, 128, G] of a core's flash tile; `local` counts its batches."""
        plan = self.config.plan
        first = f * (FLASH_KEYS // PARTITIONS)
        tiles, columns = slice(first, first + score.shape[1]), self._place(local)
        for name, value in (("dbg_qk", score), ("dbg_qk_exp", prob)):
            place = self.found[name][:, core % plan.n_seq, :, core % plan.n_bat]
            place[:, tiles, columns] = value.transpose(2, 1, 0, 3).reshape(PARTITIONS, score.shape[1], -1)

    def column(self, core: int, local: range, top: Array, total: Array) -> None:
        """The final maximum and sum [batches, G]."""
        for name, value in (("dbg_qk_max", -np.maximum(top, FLOOR)), ("dbg_exp_sum", total)):
            place = self.found[name].reshape(self.config.plan.n_bat, -1)
            place[core, self._place(local)] = value.reshape(-1)

    def results(self, inputs: Arrays) -> Arrays:
        if self.config.block_kv:
            finer = resized_table(inputs["active_blocks_table"], self.config.plan.block_factor)
            folds = finer.reshape(self.config.bs, -1, PARTITIONS).transpose(2, 1, 0)
            self.found["dbg_active_table"][...] = folds.astype(np.int32)
        return self.found

    def _place(self, local: range) -> slice:
        width = self.config.columns_per_batch
        return slice(local.start * width, local.stop * width)
