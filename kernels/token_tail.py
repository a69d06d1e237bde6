"""Where the last slots of a flash tile lie: the active tokens replace them, whatever the layout of keys.

The last 128 * width tokens of a flash tile fill `width` key tiles, partition by partition: token r of them sits at
partition r // width of key tile n - width + r % width. The last s <= 128 tokens therefore are the end of one
partition and all of the partitions after it.
"""

import nki.isa as nisa
import nki.language as nl


class TailPiece(nl.NKIObject):
    """Tokens at `partitions` x `tiles` places: token `first + i*row + skip + j` goes to (partition + i, tile + j).

    `tile` counts from the first key tile of the load; a row of `row` tokens belongs to one partition.
    """

    partition: int
    partitions: int
    tile: int
    tiles: int
    first: int
    row: int
    skip: int


def tail_pieces(s, width, n, low, count):
    """The pieces of the last `s` tokens that lie in key tiles low .. low+count-1 of the n of a flash tile."""
    start = 128 * width - s
    partition, skipped = start // width, start % width
    pieces = []
    head = 0
    if skipped > 0:
        head = width - skipped
        append_piece(pieces, partition, 1, n - head, head, 0, low, count)
        partition = partition + 1
    if partition < 128:
        append_piece(pieces, partition, 128 - partition, n - width, width, head, low, count)
    return pieces


def append_piece(pieces, partition, partitions, tile, row, first, low, count):
    """Add `partitions` rows of `row` tokens from key tile `tile` on, as far as the load has them."""
    begin, end = max(tile, low), min(tile + row, low + count)
    if begin < end:
        pieces.append(
            TailPiece(
                partition=partition, partitions=partitions, tile=begin - low, tiles=end - begin, first=first,
                row=row, skip=begin - tile,
            )
        )


def rows_of(source, dim, piece):
    """The tokens of a piece, along axis `dim` of `source`, as two axes [partitions, tiles]."""
    tokens = source.slice(dim, piece.first, piece.first + piece.partitions * piece.row)
    split = tokens.reshape_dim(dim, (piece.partitions, piece.row))
    return split.slice(dim + 1, piece.skip, piece.skip + piece.tiles)


def place_tail(tile, source, pieces):
    """tile [128, key tiles, ...] := rows of source [s, ...] at the places of the pieces, bits moved by DMA.

    Source in HBM: one DMA per piece. Source in SBUF, token on the partition axis: one per partition of the piece,
    or one in all where each partition takes a single token.
    """
    for k in range(len(pieces)):
        piece = pieces[k]
        place = tile[piece.partition : piece.partition + piece.partitions, nl.ds(piece.tile, piece.tiles)]
        if not nl.is_sbuf(source.buffer):
            nisa.dma_copy(dst=place, src=rows_of(source, 0, piece))
        elif piece.row == 1:
            nisa.dma_copy(dst=place, src=source[piece.first : piece.first + piece.partitions])
        else:
            for i in range(piece.partitions):
                first = piece.first + i * piece.row + piece.skip
                nisa.dma_copy(dst=place[i : i + 1], src=source[first : first + piece.tiles])
