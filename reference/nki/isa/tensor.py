"""Tensor engine instructions of nki.isa."""

from __future__ import annotations

from typing import Any

from reference.neuroncore import tensor_engine as machine
from reference.neuroncore.enums import engine as engines
from reference.neuroncore.enums import matmul_perf_mode
from reference.neuroncore.instruction import NkiInstruction


def nc_matmul(
    dst: Any,
    stationary: Any,
    moving: Any,
    is_stationary_onezero: bool = False,
    is_moving_onezero: bool = False,
    is_transpose: bool = False,
    accumulate: bool | None = None,
    tile_position: Any = (),
    tile_size: Any = (),
    perf_mode: Any = matmul_perf_mode.none,
    name: str | None = None,
) -> NkiInstruction:
    """dst[m, n] (+)= sum over k of stationary[k, m] * moving[k, n], k along the partitions.

    stationary (K, M) and moving (K, N) in SBUF, free axes flattened, K and M up to 128; dst (M, N) in PSUM,
    float32 (gen4 also bfloat16), inside one bank on gen2 and gen3, N up to 512 (gen4: 4096, bfloat16 8192).
    Operands fp8, bf16 and fp16 mix; fp32 and tf32 pair only with each other; e4m3fn is an operand on gen4,
    never beside e4m3. NaN and Inf follow IEEE; the exact sum of one instruction is rounded once to fp32 and
    added in fp32 (profile U1 to U6).

    accumulate: False overwrites, True adds, None overwrites elements no matmul has written since the tensor
    was allocated and adds to the others. Adding to elements that were read in between (None), or that another
    instruction wrote (gen2, gen3), is an error.
    perf_mode double_row (gen3 on, fp8): (K, 2, M) and (K, 2, N), summed over both leading axes.
    is_transpose (gen3 on): the bits of stationary, transposed, where moving is an identity; dst has its
    dtype. tile_position, tile_size: part of the array to use; limits K and M, changes no value.
    is_stationary_onezero, is_moving_onezero: hints without effect here.
    """
    return machine.nc_matmul(
        dst,
        stationary,
        moving,
        is_stationary_onezero,
        is_moving_onezero,
        is_transpose,
        accumulate,
        tile_position,
        tile_size,
        perf_mode,
        name=name,
    )


def nc_transpose(
    dst: Any, data: Any, engine: Any = engines.unknown, name: str | None = None
) -> NkiInstruction:
    """dst (F, P) = data (P, F...) transposed, free axes flattened; dst.dtype == data.dtype.

    Tensor engine (chosen where dst is in PSUM): SBUF to PSUM, up to 128 x 128, the bits move on gen3 and
    later; on gen2 values pass a multiplication by an identity (NaN and Inf spread, -0 becomes +0). Vector
    engine: SBUF or PSUM on both sides, up to 32 x 32, bits move. Always overwrites.
    """
    return machine.nc_transpose(dst, data, engine, name=name)


def nc_matmul_mx(
    dst: Any,
    stationary: Any,
    moving: Any,
    stationary_scale: Any,
    moving_scale: Any,
    tile_position: Any = None,
    tile_size: Any = None,
    accumulate: bool | None = None,
    name: str | None = None,
) -> NkiInstruction:
    """dst[m, n] (+)= sum over k and the 4 lanes of (stationary[k, m] * its scale) * (moving[k, n] * its
    scale). gen4.

    stationary (K, M) and moving (K, N) hold packed fp8 or fp4 (x4 dtypes, which may differ), K a multiple of
    32 up to 128, M even; dst as for nc_matmul. Scales are uint8 or float8_e8m0fnu codes 2^(code - 127), one
    per 8 partitions x 4 lanes and column: those of data partitions 32 q .. 32 q + 31 in rows 32 q + o .. 32
    q + o + 3 of the scale tile, o = 0, 4, 8 or 12 being the start partition of the view; other rows are not
    read. Code 255 is NaN (profile U8). Row tiles only.
    """
    return machine.nc_matmul_mx(
        dst,
        stationary,
        moving,
        stationary_scale,
        moving_scale,
        tile_position,
        tile_size,
        accumulate,
        name=name,
    )
