"""Softmax over keys that lie on partitions: maxima and sums first along the free axis, then across partitions.

Scores are [128, tiles, columns], one column per (batch, head, query). A column vector is a list of tiles
[<= 128, 1] fp32, one per column tile of 128, columns on partitions: that is where the tensor engine's results over
all keys come out, and where the vector engine works on all columns at once.
"""

import nki.isa as nisa
import nki.language as nl

P = 128
FLT_MAX = 3.4028235e38


def column_tiles(columns):
    """Number of column tiles."""
    return (columns + P - 1) // P


def tile_columns(columns, ct):
    """Columns of column tile ct."""
    return min(P, columns - ct * P)


def column_vector(space, columns, name):
    """Unwritten tiles [cols, 1], named `name`_<column tile>."""
    vector = []
    for ct in range(column_tiles(columns)):
        vector.append(space.alloc((tile_columns(columns, ct), 1), nl.float32, name=f"{name}_{ct}"))
    return vector


def maximum_over_keys(space, scores, name):
    """Column vector: maximum over tiles, then partitions, then at least -FLT_MAX; scores [128, tiles, columns].

    The clamp keeps the difference of two maxima of fully masked tiles a number: -inf - -inf would be NaN.
    """
    columns = scores.shape[2]
    result = column_vector(space, columns, name)
    space.open_scope("maximum over keys")
    over_tiles = space.alloc((P, columns), nl.float32, name="max_over_tiles")
    nisa.tensor_reduce(dst=over_tiles, op=nl.maximum, data=scores.permute((0, 2, 1)), axis=2)
    for ct in range(len(result)):
        cols = tile_columns(columns, ct)
        turned = nl.ndarray((cols, P), dtype=nl.float32, buffer=nl.psum, name="max_turned")
        nisa.nc_transpose(dst=turned, data=over_tiles[:, nl.ds(ct * P, cols)], engine=nisa.tensor_engine)
        unclamped = space.alloc((cols, 1), nl.float32, name="max_unclamped")
        nisa.tensor_reduce(dst=unclamped, op=nl.maximum, data=turned, axis=1)
        nisa.tensor_scalar(
            dst=result[ct], data=unclamped, op0=nl.maximum, operand0=-FLT_MAX, engine=nisa.vector_engine
        )
    space.close_scope()
    return result


def sum_over_keys(space, prob, ones, parts_name, name):
    """Column vector: sum of prob [128, tiles, columns], over the keys of a tile by matmul, then over tiles."""
    tiles, columns = prob.shape[1], prob.shape[2]
    result = column_vector(space, columns, name)
    for ct in range(len(result)):
        cols = tile_columns(columns, ct)
        parts = nl.ndarray((cols, tiles), dtype=nl.float32, buffer=nl.psum, name=f"{parts_name}_{ct}")
        for t in range(tiles):
            nisa.nc_matmul(dst=parts[:, t : t + 1], stationary=prob[:, t, nl.ds(ct * P, cols)], moving=ones)
        nisa.tensor_reduce(dst=result[ct], op=nl.add, data=parts, axis=1)
    return result


def broadcast_over_partitions(space, vector, columns, partitions, name):
    """[partitions, columns] fp32 with the column vector in every partition; bits are moved.

    The tensor engine transposes a stride-0 view of each column tile, four to a PSUM bank.
    """
    rows = space.alloc((partitions, columns), nl.float32, name=name)
    for low in range(0, columns, 4 * P):
        width = min(4 * P, columns - low)
        turned = nl.ndarray((partitions, width), dtype=nl.float32, buffer=nl.psum, name="turned_columns")
        for column in range(0, width, P):
            tile = vector[(low + column) // P]
            nisa.nc_transpose(
                dst=turned[:, nl.ds(column, tile.shape[0])], data=tile.broadcast(1, partitions),
                engine=nisa.tensor_engine,
            )
        nisa.tensor_copy(dst=rows[:, nl.ds(low, width)], src=turned, engine=nisa.vector_engine)
    return rows


def combine(dst, first, second, op):
    """Column vectors: dst := first op second, on the vector engine; the operands may be longer than dst."""
    for ct in range(len(dst)):
        cols = dst[ct].shape[0]
        nisa.tensor_tensor(
            dst=dst[ct], data1=first[ct][0:cols, :], data2=second[ct][0:cols, :], op=op, engine=nisa.vector_engine
        )


def copy_column(dst, src):
    """Column vectors: dst := src, bits moved."""
    for ct in range(len(dst)):
        nisa.tensor_copy(dst=dst[ct], src=src[ct], engine=nisa.vector_engine)


def shift_and_exponentiate(space, prob, scores, maximum, tiles_per_chunk, name):
    """prob [128, tiles, columns] := exp(scores - maximum), rounded once to its dtype; maximum is [128, columns].

    The difference is a tile of its own, `name`_<chunk>, so that one chunk is shifted while another is exponentiated.
    """
    tiles, columns = scores.shape[1], scores.shape[2]
    space.open_scope("shift", sections=2, section_bytes=4 * columns * min(tiles, tiles_per_chunk))
    for low in range(0, tiles, tiles_per_chunk):
        count = min(tiles_per_chunk, tiles - low)
        space.next_section()
        shift = space.alloc((P, count * columns), nl.float32, name=f"{name}_{low // tiles_per_chunk}")
        nisa.tensor_tensor(
            dst=shift,
            data1=scores[:, low : low + count, :],
            data2=maximum.expand_dim(1).broadcast(1, count),
            op=nl.subtract,
            engine=nisa.vector_engine,
        )
        nisa.activation(dst=prob[:, low : low + count, :], op=nl.exp, data=shift)
    space.close_scope()
