"""GpSimd engine instructions of nki.isa. SBUF only (memset runs on the vector engine by default and reaches PSUM).

Source: documentation of nki.isa (NKI 0.6), API fact sheet 2.4; numerics fact sheet 7.
"""

from __future__ import annotations

from typing import Any

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
    partition. c counts dst's partitions from 0. int32 arithmetic, modulo 2^32; then integers saturate, floats go
    through fp32. offset may be a register.
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
    """dst (1, F...) = op over the partitions of data: add, average, maximum (fp32, order by profile G1), bitwise_or,
    bitwise_and (integer tiles of one width)."""
    return machine.tensor_partition_reduce(dst, op, data, name=name)


__all__ = [
    "affine_select",
    "iota",
    "memset",
    "tensor_partition_reduce",
]
