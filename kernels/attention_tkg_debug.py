"""DBG_TENSORS of attention_tkg: intermediates in HBM, complete in every mode.

    0 scores, -inf where dropped     [128, n_seq, T/128, n_bat, columns]
    1 -1 * maximum                   [n_bat, column tiles, columns of a tile], pad 0
    2 weights                        as 0, in the dtype of q
    3 sum that was divided by        as 1
    4 block ids after the resize     [128, folds, B] int32, block KV only
"""

import nki.isa as nisa
import nki.language as nl

from kernels.attention_tkg_plan import FLASH_KEYS, P


def store_score_debug(debug, plan, tile, scores, prob):
    """Tensors 0 and 2, the part of one flash tile and batch tile."""
    if debug == None or not plan.stores_keys():
        return
    first = tile.f * FLASH_KEYS // P
    seq = plan.prg if plan.n_seq == 2 else 0
    bat = plan.prg if plan.n_bat == 2 else 0
    columns = nl.ds(tile.first * plan.columns, tile.columns)
    nisa.dma_copy(dst=debug[0][:, seq, first : first + tile.n, bat, columns], src=scores)
    nisa.dma_copy(dst=debug[2][:, seq, first : first + tile.n, bat, columns], src=prob)


def store_column_debug(call, tile, maximum, total):
    """Tensors 1 and 3, the columns of one batch tile, and zeros behind the last column."""
    plan, debug = call.plan, call.debug
    if debug == None or not plan.stores_columns():
        return
    negated = []
    for ct in range(len(maximum)):
        one = call.space.alloc(maximum[ct].shape, nl.float32, name="debug_maximum")
        nisa.tensor_scalar(
            dst=one, data=maximum[ct], op0=nl.multiply, operand0=-1.0, engine=nisa.vector_engine
        )
        negated.append(one)
    store_columns(call, tile, debug[1], negated)
    store_columns(call, tile, debug[3], total)


def store_columns(call, tile, target, vector):
    """One column vector into [n_bat, column tiles, columns of a tile]."""
    plan = call.plan
    bat = plan.prg if plan.n_bat == 2 else 0
    row = target[bat, :, :].reshape((target.shape[1] * target.shape[2], 1))
    first = tile.first * plan.columns
    for ct in range(len(vector)):
        nisa.dma_copy(dst=row[nl.ds(first + ct * P, vector[ct].shape[0]), :], src=vector[ct])
    end = plan.batches * plan.columns
    if first + tile.columns == end and end < row.shape[0]:
        zeros = call.space.alloc((1, row.shape[0] - end), nl.float32, name="debug_pad")
        nisa.memset(dst=zeros, value=0.0)
        nisa.dma_copy(dst=row[end : row.shape[0], :], src=zeros)


def store_table_debug(debug, plan, tile, group):
    """Tensor 4, the ids of one batch group and flash tile."""
    if debug == None or group.ids == None or not plan.stores_keys():
        return
    fold = plan.first_token(tile.f) // (plan.block_len * P)
    first = plan.first_batch() + tile.first + group.low
    place = debug[4][:, fold : fold + group.ids.shape[1], first : first + group.batches]
    nisa.dma_copy(dst=place, src=group.ids.view(nl.int32))
