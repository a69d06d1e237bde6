"""From keys to weights: masked scores of a flash tile, their running maximum, and exp(score - maximum)."""

import nki.isa as nisa
import nki.language as nl

from kernels.attention_mask import load_mask, make_mask
from kernels.attention_tkg_call import (
    batch_group,
    batches_per_group,
    exchange_columns,
    first_column,
    loads_of,
)
from kernels.attention_tkg_debug import store_score_debug, store_table_debug
from kernels.attention_tkg_plan import CHUNK_VALUES, P
from kernels.cascaded_softmax import (
    broadcast_over_partitions,
    column_vector,
    combine,
    copy_column,
    maximum_over_keys,
    shift_and_exponentiate,
)
from kernels.kv_load import LOAD_SECTION_BYTES, keys_are_staged, load_keys, tiles_per_load

MINUS_INFINITY = float("-inf")


def exponentiate(call, tile, state, before, prob, mask):
    """prob := exp(score - running maximum) where mask keeps, 0 elsewhere; fills mask and state.run_max."""
    plan, space = call.plan, call.space
    batch = plan.first_batch() + tile.first
    if call.cfg.use_pos_id:
        make_mask(space, mask, call.mask, call.rope_pos_ids, plan, tile.f, batch, tile.batches)
    else:
        load_mask(space, mask, call.mask, plan, tile.f, batch, tile.batches)
    space.open_scope("scores")
    scores = space.alloc((P, tile.n, tile.columns), nl.float32, name="masked_scores")
    nisa.memset(dst=scores, value=MINUS_INFINITY)
    score(call, tile, scores, mask)
    update_maximum(call, tile, state, before, scores)
    maximum = broadcast_over_partitions(space, state.run_max, tile.columns, P, "maximum")
    chunk = max(1, CHUNK_VALUES // tile.columns)
    shift_and_exponentiate(space, prob, scores, maximum, chunk, f"shift_{tile.f}_{tile.bt}")
    store_score_debug(call.debug, plan, tile, scores, prob)
    space.close_scope()


def score(call, tile, scores, mask):
    """scores := q K where mask is not 0; batch after batch, several to a load where they are short."""
    plan, space = call.plan, call.space
    dtype = call.k_prior.dtype
    tiles = tiles_per_load(dtype, keys_are_staged(plan, dtype, call.cfg.tp_k_prior))
    for low in range(0, tile.batches, batches_per_group(plan, tile)):
        space.open_scope("batch group")
        group = batch_group(call, tile, low)
        store_table_debug(call.debug, plan, tile, group)
        space.open_scope("keys", sections=2, section_bytes=LOAD_SECTION_BYTES)
        loads = loads_of(plan, tile, group, tiles)
        psum = None
        for k in range(len(loads)):
            space.next_section()
            keys = load_keys(space, call.k_prior, call.k_active, plan, loads[k], call.cfg.tp_k_prior)
            psum = score_load(call, tile, scores, mask, keys, loads[k], psum)
        space.close_scope()
        space.close_scope()


def score_load(call, tile, scores, mask, keys, load, psum):
    """Matmuls of one load, a group of key tiles to a PSUM tile; returns the PSUM tile of an unfinished group."""
    plan = call.plan
    width, group = plan.columns, plan.score_group
    for b in range(load.batches):
        batch = load.batch + b
        column = first_column(plan, tile, batch)
        queries = call.q[:, nl.ds(batch * width, width)]
        for t in range(load.low, load.low + load.tiles):
            begin = t // group * group
            count = min(group, tile.n - begin)
            if t == begin:
                name = f"score_{tile.f}_{batch}_{t // group}"
                psum = nl.ndarray((P, count * width), dtype=nl.float32, buffer=nl.psum, name=name)
            nisa.nc_matmul(
                dst=psum[:, nl.ds((t - begin) * width, width)],
                stationary=keys[:, b, t - load.low, :],
                moving=queries,
            )
            if t == begin + count - 1:
                nisa.tensor_copy_predicated(
                    dst=scores[:, nl.ds(begin, count), nl.ds(column, width)],
                    src=psum,
                    predicate=mask[:, nl.ds(begin, count), nl.ds(column, width)],
                )
    return psum


def update_maximum(call, tile, state, before, scores):
    """state.run_max := maximum of this tile and those before it, at the end also of the other core, and the sink."""
    plan, space = call.plan, call.space
    name = f"{tile.f}_{tile.bt}"
    meets = plan.n_seq == 2 and tile.last
    joins = call.sink != None and (meets or (plan.n_seq == 1 and tile.f == 0))
    running = maximum_over_keys(space, scores, f"max_local_{name}")
    if tile.f == 0 and not meets and not joins:
        copy_column(state.run_max, running)
    if tile.f > 0:
        running = larger(call, tile, state, before.run_max, running, meets or joins)
    if meets:
        remote = column_vector(space, tile.columns, f"max_remote_{name}")
        exchange_columns(call, running, remote)
        running = larger(call, tile, state, running, remote, joins)
    if joins:
        larger(call, tile, state, running, call.sink, False)


def larger(call, tile, state, first, second, goes_on):
    """maximum(first, second), in state.run_max unless there is more to come."""
    result = column_vector(call.space, tile.columns, "max_so_far") if goes_on else state.run_max
    combine(result, first, second, nl.maximum)
    return result
