"""Block ids of a paged cache, resized and laid out as a gather wants them: one id per partition.

A table entry `a` stands for `factor` consecutive sub-blocks a*factor .. a*factor + factor - 1. Sub-block i of the
wanted run goes to partition i % 128 of fold i // 128.
"""

import nki.isa as nisa
import nki.language as nl

#: Sub-blocks of one batch that are expanded at a time: 16 KiB per partition.
CHUNK = 4096
#: fp32 values of one PSUM bank.
BANK = 512


def sub_block_ids(space, table, batch, batches, first, folds, factor):
    """uint32 [128, folds, batches]: ids of sub-blocks first .. first + 128*folds - 1 of table rows batch ...

    Ids pass through fp32, exact below 2**24. At most 128 batches.
    """
    ids = space.alloc((128, folds, batches), nl.uint32, name="block_ids")
    step = max(1, CHUNK // 128)
    for low in range(0, folds, step):
        count = min(step, folds - low)
        space.open_scope("block ids")
        expanded = expand_entries(space, table, batch, batches, first + 128 * low, 128 * count, factor)
        turn_to_partitions(ids[:, low : low + count, :], expanded)
        space.close_scope()
    return ids


def expand_entries(space, table, batch, batches, first, count, factor):
    """fp32 [batches, count]: ids of sub-blocks first .. first + count - 1."""
    low, high = first // factor, (first + count + factor - 1) // factor
    entries = space.alloc((batches, high - low), table.dtype, name="table_entries")
    nisa.dma_copy(dst=entries, src=table[batch : batch + batches, low:high])
    wide = space.alloc((batches, high - low, factor), nl.float32, name="table_wide")
    repeated = entries.expand_dim(2).broadcast(2, factor)
    if factor == 1:
        nisa.tensor_copy(dst=wide, src=repeated, engine=nisa.vector_engine)
    else:
        inside = space.alloc((batches, high - low, factor), nl.float32, name="place_in_entry")
        nisa.iota(dst=inside, pattern=[[0, high - low], [1, factor]], offset=0, channel_multiplier=0)
        nisa.scalar_tensor_tensor(
            dst=wide, data=repeated, op0=nl.multiply, operand0=factor, op1=nl.add, operand1=inside
        )
    skip = first - low * factor
    return wide.reshape((batches, (high - low) * factor))[:, skip : skip + count]


def turn_to_partitions(ids, expanded):
    """ids [128, folds, batches] := expanded [batches, folds*128] transposed, as many folds at a time as fit a bank."""
    folds, batches = ids.shape[1], expanded.shape[0]
    step = BANK // batches
    for low in range(0, folds, step):
        count = min(step, folds - low)
        turned = nl.ndarray((128, count, batches), dtype=nl.float32, buffer=nl.psum, name="ids_turned")
        for i in range(count):
            nisa.nc_transpose(
                dst=turned[:, i, :], data=expanded[:, nl.ds((low + i) * 128, 128)], engine=nisa.tensor_engine
            )
        nisa.tensor_copy(dst=ids[:, low : low + count, :], src=turned, engine=nisa.vector_engine)
