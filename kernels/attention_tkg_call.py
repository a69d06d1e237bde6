"""What the steps of attention_tkg share: the call, one flash tile of it, and what a flash tile leaves behind."""

import nki.language as nl

from kernels.attention_tkg_plan import P
from kernels.block_table import sub_block_ids
from kernels.kv_load import KvLoad
from kernels.lnc import exchange

#: Sub-block ids of one batch group: 16 KiB per partition.
GROUP_IDS = 4096


class AttnCall(nl.NKIObject):
    """One call on one core: config, plan, the manager that places tiles, operands, and where results go.

    `sink` is a column vector for a whole batch tile or None; `ones` is [128, 1] in the dtype of q.
    """

    cfg: nl.NKIObject
    plan: nl.NKIObject
    space: nl.NKIObject
    q: nl.NkiTensor
    k_active: nl.NkiTensor
    v_active: nl.NkiTensor
    k_prior: nl.NkiTensor
    v_prior: nl.NkiTensor
    mask: nl.NkiTensor
    rope_pos_ids: nl.NkiTensor
    table: nl.NkiTensor
    sink: list
    ones: nl.NkiTensor
    out: nl.NkiTensor
    debug: tuple


class FlashTile(nl.NKIObject):
    """Flash tile f of batch tile bt: `batches` batches of the core from its `first`, n key tiles, `columns` columns."""

    f: int
    bt: int
    first: int
    batches: int
    n: int
    columns: int
    last: bool


class FlashState(nl.NKIObject):
    """Running maximum and sum (column vectors) and un-normalised output [d, columns] up to a flash tile.

    `run_out` is None where there is one flash tile.
    """

    run_max: list
    run_sum: list
    run_out: nl.NkiTensor


class BatchGroup(nl.NKIObject):
    """Batches low .. low+batches-1 of a batch tile whose block ids are at hand: uint32 [128, folds, batches].

    `ids` is None for flat caches, whose batches are all one group.
    """

    low: int
    batches: int
    ids: nl.NkiTensor


def batches_per_group(plan, tile):
    """Batches whose block ids are made at once."""
    if plan.layout != "block":
        return tile.batches
    return max(1, min(P, GROUP_IDS // (tile.n // plan.block_len)))


def batch_group(call, tile, low):
    """The group of batches that begins at `low`, its ids made."""
    plan = call.plan
    batches = min(batches_per_group(plan, tile), tile.batches - low)
    ids = None
    if plan.layout == "block":
        ids = sub_block_ids(
            call.space,
            call.table,
            plan.first_batch() + tile.first + low,
            batches,
            plan.first_token(tile.f) // plan.block_len,
            tile.n // plan.block_len,
            plan.block_factor,
        )
    return BatchGroup(low=low, batches=batches, ids=ids)


def loads_of(plan, tile, group, tiles):
    """The loads of a group, up to `tiles` key tiles each: whole batches together, or one batch in pieces."""
    together = max(1, tiles // tile.n)
    loads = []
    for b in range(0, group.batches, together):
        for t in range(0, tile.n, tiles):
            loads.append(
                KvLoad(
                    f=tile.f,
                    batch=plan.first_batch() + tile.first + group.low + b,
                    batches=min(together, group.batches - b),
                    low=t,
                    tiles=min(tiles, tile.n - t),
                    ids=group.ids,
                    id_column=b,
                )
            )
    return loads


def first_column(plan, tile, batch):
    """Column of the batch tile where those of global batch `batch` begin."""
    return (batch - plan.first_batch() - tile.first) * plan.columns


def exchange_columns(call, src, dst):
    """Column vectors: dst := src of the other core."""
    for ct in range(len(dst)):
        exchange(src[ct], dst[ct], call.plan.prg, call.cfg.use_gpsimd_sb2sb)
