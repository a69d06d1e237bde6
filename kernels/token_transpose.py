"""From tokens on the partitions to columns on the partitions: the stationary operand of a projection.

`source` is a view [tokens, tiles, lanes, 128] of a tile of tokens, `dst` a view [128, tiles, lanes, tokens]. Both ways
of transposing move bits; what multiplies by gamma does so on the way out of PSUM.
"""

import nki.isa as nisa
import nki.language as nl

#: Transposes of 128 16-bit tokens that one PSUM bank of 2 KiB holds.
BANK_TILES = 8


def transpose_tokens(dst, source, gamma, beta, use_dma):
    """dst[p, t, k, r] := source[r, t, k, p], times gamma[p, t*lanes + k], plus beta, rounded once to dst's dtype.

    gamma and beta are fp32 [128, tiles * lanes] or None (beta only with gamma). Without gamma one DMA may do it all.
    """
    if use_dma and gamma == None:
        nisa.dma_transpose(dst=dst, src=source, axes=(3, 1, 2, 0))
        return
    tokens, tiles, lanes, width = source.shape
    step = BANK_TILES // lanes
    for low in range(0, tiles, step):
        count = min(step, tiles - low)
        transpose_bank(dst, source, gamma, beta, low, count)


def transpose_bank(dst, source, gamma, beta, low, count):
    """The tiles low.. that share one PSUM bank, which is free again on return."""
    tokens, tiles, lanes, width = source.shape
    # 128 columns each, whatever the number of tokens: an odd number of 16-bit values would end between two words.
    turned = nl.ndarray((width, count, lanes, 128), dtype=source.dtype, buffer=nl.psum)
    for t in range(count):
        for k in range(lanes):
            nisa.nc_transpose(dst=turned[:, t, k, 0:tokens], data=source[:, low + t, k, :], engine=nisa.tensor_engine)
    out, value = dst[:, nl.ds(low, count), :, :], turned[:, :, :, 0:tokens]
    if gamma == None:
        nisa.tensor_copy(dst=out, src=value, engine=nisa.vector_engine)
    elif beta == None:
        weights = gamma[:, nl.ds(low * lanes, count * lanes)].reshape((width, count, lanes))
        nisa.tensor_tensor(
            dst=out,
            data1=value,
            data2=weights.expand_dim(3).broadcast(3, tokens),
            op=nl.multiply,
            engine=nisa.vector_engine,
        )
    else:
        scale_and_shift(out, value, gamma, beta, low * lanes)


def scale_and_shift(out, value, gamma, beta, first):
    """out := value * gamma + beta, a tile and lane at a time: two-op instructions take one value per partition."""
    width, count, lanes, tokens = out.shape
    for t in range(count):
        for k in range(lanes):
            column = nl.ds(first + t * lanes + k, 1)
            nisa.tensor_scalar(
                dst=out[:, t, k, :],
                data=value[:, t, k, :],
                op0=nl.multiply,
                operand0=gamma[:, column],
                op1=nl.add,
                operand1=beta[:, column],
                engine=nisa.vector_engine,
            )
