"""From weights to the output: sums over keys, weighted values, normalisation, the other core's half, the store."""

import nki.isa as nisa
import nki.language as nl

from kernels.attention_mask import kept_rows
from kernels.attention_tkg_call import (
    batch_group,
    batches_per_group,
    exchange_columns,
    first_column,
    loads_of,
)
from kernels.attention_tkg_debug import store_column_debug
from kernels.cascaded_softmax import (
    broadcast_over_partitions,
    column_vector,
    combine,
    copy_column,
    sum_over_keys,
)
from kernels.kv_load import LOAD_SECTION_BYTES, load_values, tiles_per_load
from kernels.lnc import exchange

# ---- sums --------------------------------------------------------------------------------------------------------


def correction(call, tile, state, before):
    """Column vector exp(maximum before - maximum now); None in the first flash tile."""
    if tile.f == 0:
        return None
    corr = column_vector(call.space, tile.columns, f"corr_{tile.f}_{tile.bt}")
    for ct in range(len(corr)):
        nisa.activation(
            dst=corr[ct], op=nl.exp, data=state.run_max[ct], scale=-1.0, bias=before.run_max[ct]
        )
    return corr


def sum_up(call, tile, state, before, prob, corr, term):
    """state.run_sum := sum of this flash tile and, rescaled, of those before it; `term` of the sink joins the first.

    With the keys on two cores the sink waits for the last sum of all (`divisor`).
    """
    plan, space = call.plan, call.space
    name = f"{tile.f}_{tile.bt}"
    local = sum_over_keys(space, prob, call.ones, f"sum_part_{name}", f"sum_local_{name}")
    if tile.f > 0:
        scaled = column_vector(space, tile.columns, f"sum_scaled_{name}")
        combine(scaled, before.run_sum, corr, nl.multiply)
        combine(state.run_sum, scaled, local, nl.add)
    elif term != None and plan.n_seq == 1:
        combine(state.run_sum, local, term, nl.add)
    else:
        copy_column(state.run_sum, local)


def sink_term(call, tile, maximum):
    """Column vector exp(sink - maximum) in fp32, in the flash tile where the sink joins; else None."""
    joins = tile.last if call.plan.n_seq == 2 else tile.f == 0
    if call.sink == None or not joins:
        return None
    shift = column_vector(call.space, tile.columns, f"sink_shift_{tile.bt}")
    term = column_vector(call.space, tile.columns, f"sink_term_{tile.bt}")
    combine(shift, call.sink, maximum, nl.subtract)
    for ct in range(len(term)):
        nisa.activation(dst=term[ct], op=nl.exp, data=shift[ct])
    return term


def divisor(call, tile, state, term):
    """Column vector: the sum of all weights, on both cores, with the sink."""
    if call.plan.n_seq == 1:
        return state.run_sum
    space = call.space
    remote = column_vector(space, tile.columns, f"sum_remote_{tile.bt}")
    exchange_columns(call, state.run_sum, remote)
    pair = column_vector(space, tile.columns, f"sum_pair_{tile.bt}")
    combine(pair, state.run_sum, remote, nl.add)
    if term == None:
        return pair
    total = column_vector(space, tile.columns, f"sum_total_{tile.bt}")
    combine(total, pair, term, nl.add)
    return total


# ---- weighted values ---------------------------------------------------------------------------------------------


def weigh(call, tile, state, before, prob, mask, corr, term):
    """Add the flash tile's weighted values to the output; the last flash tile normalises and stores it."""
    plan, space = call.plan, call.space
    d = plan.d_head
    scaled, factor, norm = None, None, None
    if tile.f > 0:
        rows = broadcast_over_partitions(space, corr, tile.columns, d, "correction")
        scaled = space.alloc((d, tile.columns), nl.float32, name=f"out_scaled_{tile.f}_{tile.bt}")
        multiply(scaled, before.run_out, rows)
    if tile.last:
        total = divisor(call, tile, state, term)
        store_column_debug(call, tile, state.run_max, total)
        factor = reciprocal_rows(call, tile, total)
        norm = space.alloc((d, tile.columns), nl.float32, name=f"norm_{tile.bt}")
    weigh_values(call, tile, state, prob, mask, scaled, factor, norm)
    if tile.last:
        if plan.flash_tiles() > 1:
            multiply(norm, state.run_out, factor)
        store(call, tile, norm)


def multiply(dst, first, second):
    """dst := first * second."""
    nisa.tensor_tensor(dst=dst, data1=first, data2=second, op=nl.multiply, engine=nisa.vector_engine)


def reciprocal_rows(call, tile, total):
    """1 / total in every partition: [d, columns]."""
    recip = column_vector(call.space, tile.columns, f"recip_{tile.bt}")
    for ct in range(len(recip)):
        nisa.reciprocal(dst=recip[ct], data=total[ct])
    return broadcast_over_partitions(call.space, recip, tile.columns, call.plan.d_head, "reciprocal")


def weigh_values(call, tile, state, prob, mask, scaled, factor, norm):
    """One PSUM tile [d, columns of a batch] per batch: values stationary, weights moving, key tiles ascending."""
    plan, space = call.plan, call.space
    keep = kept_rows(space, mask, plan.columns)
    tiles = tiles_per_load(call.v_prior.dtype, False)
    for low in range(0, tile.batches, batches_per_group(plan, tile)):
        space.open_scope("batch group")
        group = batch_group(call, tile, low)
        space.open_scope("values", sections=2, section_bytes=LOAD_SECTION_BYTES)
        loads = loads_of(plan, tile, group, tiles)
        psum = None
        for k in range(len(loads)):
            load = loads[k]
            space.next_section()
            first = first_column(plan, tile, load.batch) // plan.columns
            kept = keep[:, nl.ds(load.low, load.tiles), nl.ds(first, load.batches)]
            values = load_values(space, call.v_prior, call.v_active, plan, load, kept)
            psum = weigh_load(call, tile, prob, values, load, psum, state, scaled, factor, norm)
        space.close_scope()
        space.close_scope()


def weigh_load(call, tile, prob, values, load, psum, state, scaled, factor, norm):
    """Matmuls of one load; returns the PSUM tile of an unfinished batch."""
    plan = call.plan
    for b in range(load.batches):
        batch = load.batch + b
        columns = nl.ds(first_column(plan, tile, batch), plan.columns)
        if load.low == 0:
            name = f"pv_{tile.f}_{batch}"
            psum = nl.ndarray((plan.d_head, plan.columns), dtype=nl.float32, buffer=nl.psum, name=name)
        for t in range(load.low, load.low + load.tiles):
            nisa.nc_matmul(
                dst=psum, stationary=values[:, b, t - load.low, :], moving=prob[:, t, columns], accumulate=t > 0
            )
        if load.low + load.tiles == tile.n:
            take_weighted(call, tile, psum, columns, state, scaled, factor, norm)
    return psum


def take_weighted(call, tile, psum, columns, state, scaled, factor, norm):
    """Move one batch out of PSUM: normalised where there is one flash tile, else added to the running output."""
    if call.plan.flash_tiles() == 1:
        multiply(norm[:, columns], psum, factor[:, columns])
    elif tile.f == 0:
        nisa.tensor_copy(dst=state.run_out[:, columns], src=psum, engine=nisa.vector_engine)
    else:
        nisa.tensor_tensor(
            dst=state.run_out[:, columns], data1=scaled[:, columns], data2=psum, op=nl.add,
            engine=nisa.vector_engine,
        )


# ---- the result --------------------------------------------------------------------------------------------------


def store(call, tile, norm):
    """Add the other core's part, round to the dtype of out, and store the columns of a batch tile."""
    plan, cfg, space = call.plan, call.cfg, call.space
    total = norm
    if plan.n_seq == 2:
        total = add_other_core(call, tile, norm)
    if total == None:
        return
    rounded = space.alloc(norm.shape, call.out.dtype, name=f"out_tile_{tile.bt}")
    nisa.tensor_copy(dst=rounded, src=total, engine=nisa.vector_engine)
    first = plan.first_batch() + tile.first
    if cfg.out_in_sb:
        place = call.out[:, nl.ds(first * plan.columns, tile.columns)]
        nisa.tensor_copy(dst=place, src=rounded, engine=nisa.vector_engine)
    elif plan.stores_columns():
        place = call.out[first : first + tile.batches, :, :, :].permute((2, 0, 1, 3))
        nisa.dma_copy(dst=place, src=rounded)


def add_other_core(call, tile, norm):
    """norm of both cores; None on the core that has nothing to store."""
    keeps = call.cfg.out_in_sb or call.plan.prg == 0
    # A rendezvous has two sides: the core without a use for the sum receives, too, under another name.
    name = f"norm_remote_{tile.bt}" if keeps else "norm_unused"
    remote = call.space.alloc(norm.shape, nl.float32, name=name)
    exchange(norm, remote, call.plan.prg, call.cfg.use_gpsimd_sb2sb)
    if not keeps:
        return None
    total = call.space.alloc(norm.shape, nl.float32, name=f"norm_pair_{tile.bt}")
    nisa.tensor_tensor(dst=total, data1=norm, data2=remote, op=nl.add, engine=nisa.vector_engine)
    return total
