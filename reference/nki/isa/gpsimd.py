"""GpSimd engine instructions of nki.isa. SBUF only (memset runs on the vector engine by default and reaches
PSUM).

Source: documentation of nki.isa (NKI 0.6), API fact sheet 2.4; numerics fact sheet 7.
"""

from __future__ import annotations

from typing import Any

from reference.neuroncore import gather, search
from reference.neuroncore import gpsimd_engine as machine
from reference.neuroncore.enums import engine as engines
from reference.neuroncore.instruction import NkiInstruction


def memset(dst: Any, value: Any, engine: Any = engines.unknown, name: str | None = None) -> NkiInstruction:
    """dst = value, a compile-time number, rounded to the dtype of dst (inf and NaN allowed in floats).

    Integer dtypes take whole numbers in their range only; x4 types only 0; in float8_e8m0fnu 0 is the byte 0
    (2^-127). engine: vector (default) or gpsimd (no PSUM).
    """
    return machine.memset(dst, value, engine, name=name)


def iota(
    dst: Any, pattern: Any, offset: Any = 0, channel_multiplier: int = 0, name: str | None = None
) -> NkiInstruction:
    """dst[c, w, z, y, x] = offset + c * channel_multiplier + w * sw + z * sz + y * sy + x * sx.

    pattern: [[sw, nw], ...], 1 to 4 pairs, outermost first; the product of the counts is dst's elements per
    partition. c counts dst's partitions from 0. int32 arithmetic, modulo 2^32; then integers saturate, floats
    go through fp32. offset may be a register.
    """
    return machine.iota(dst, pattern, offset, channel_multiplier, name=name)


def affine_select(
    dst: Any,
    pattern: Any,
    channel_multiplier: int,
    on_true_tile: Any,
    on_false_value: Any,
    cmp_op: Any = "equal",
    offset: Any = 0,
    name: str | None = None,
) -> NkiInstruction:
    """dst = on_true_tile where cmp_op(v, 0), else on_false_value (fp32); v is what iota would make.

    Equal dtypes move bits, others go through fp32. dst may be on_true_tile.
    """
    return machine.affine_select(
        dst, pattern, channel_multiplier, on_true_tile, on_false_value, cmp_op, offset, name=name
    )


def tensor_partition_reduce(dst: Any, op: Any, data: Any, name: str | None = None) -> NkiInstruction:
    """dst (1, F...) = op over the partitions of data: add, average, maximum (fp32, order by profile G1),
    bitwise_or, bitwise_and (integer tiles of one width)."""
    return machine.tensor_partition_reduce(dst, op, data, name=name)


def local_gather(
    dst: Any,
    src_buffer: Any,
    index: Any,
    num_elem_per_idx: int = 1,
    num_valid_indices: int | None = None,
    name: str | None = None,
) -> NkiInstruction:
    """dst[p, i n : i n + n] = src_buffer[p, idx[i] : idx[i] + n], n = num_elem_per_idx (1, 2, 4, 8, 16 or
    32).

    idx: the index tile (uint16) of p's group of 16 partitions, read down the partitions first; element
    offsets, the first num_valid_indices of them (default all, up to 4096). Free axes of src_buffer are
    flattened. Bits are moved; dst holds num_valid_indices * n elements per partition. An index outside is an
    error (undefined on hardware).
    """
    return gather.local_gather(dst, src_buffer, index, num_elem_per_idx, num_valid_indices, name=name)


def nc_n_gather(dst: Any, data: Any, indices: Any, name: str | None = None) -> NkiInstruction:
    """dst[p, i] = data[p] at indices[p, i] (uint32), free axes flattened; bits are moved, an index outside
    errors.
    """
    return gather.nc_n_gather(dst, data, indices, name=name)


def nonzero_with_count(
    dst: Any, src: Any, index_offset: int = 0, padding_val: int = -1, name: str | None = None
) -> NkiInstruction:
    """gen3 on. In partitions 0, 16, ..., 112 alone: dst = positions of the nonzeros of src + index_offset,
    then padding_val, and last their count.

    src float32 or int32 (NaN counts as nonzero, -0 as zero), dst int32 with one element more per partition.
    """
    return search.nonzero_with_count(dst, src, index_offset, padding_val, name=name)


def sequence_bounds(dst: Any, segment_ids: Any, name: str | None = None) -> NkiInstruction:
    """dst (1, 2, N) = start and exclusive end of the run of equal ids in segment_ids (1, N); id 0: (N, -1).

    float32 or int32; ids are non-negative integers.
    """
    return search.sequence_bounds(dst, segment_ids, name=name)


def topk(val_dst: Any, idx_dst: Any, src: Any, n: int, name: str | None = None) -> NkiInstruction:
    """The k largest of the first n elements of every group of 16 partitions of src (bfloat16), ascending.

    Snake order on both sides: element e of a group at partition e mod 16, position e div 16. val_dst (P, k)
    bfloat16 and idx_dst (P, k) uint32; only the slots of k results are written. Ties by profile G2, NaN as in
    max8. 8 <= n < 65536, k <= n.
    """
    return search.topk(val_dst, idx_dst, src, n, name=name)


__all__ = [
    "affine_select",
    "iota",
    "local_gather",
    "memset",
    "nc_n_gather",
    "nonzero_with_count",
    "sequence_bounds",
    "tensor_partition_reduce",
    "topk",
]
