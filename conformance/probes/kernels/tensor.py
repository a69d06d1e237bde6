"""Kernels of the tensor-engine probes. A cell is one sum over the partitions; results leave PSUM by a vector copy."""

import nki
import nki.isa as nisa
import nki.language as nl

from conformance.probes.kernels.tiles import load, out_of_psum


@nki.jit
def matmul(stationary, moving):
    """stationary [K, M], moving [K, N] -> fp32 [M, N]; every 512 columns one overwriting instruction."""
    out = nl.ndarray((stationary.shape[1], moving.shape[1]), dtype=nl.float32, buffer=nl.shared_hbm)
    left = load(stationary)
    for start in range(0, moving.shape[1], 512):
        width = min(512, moving.shape[1] - start)
        right = load(moving[:, nl.ds(start, width)])
        psum = nl.ndarray((stationary.shape[1], width), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(dst=psum, stationary=left, moving=right, accumulate=False)
        nisa.dma_copy(dst=out[:, nl.ds(start, width)], src=out_of_psum(psum, nl.float32))
    return out


@nki.jit
def matmul_onto(first_stationary, first_moving, stationary, moving):
    """Two instructions into one PSUM tile: the first overwrites, the second accumulates; fp32 [M, N]."""
    out = nl.ndarray((stationary.shape[1], moving.shape[1]), dtype=nl.float32, buffer=nl.shared_hbm)
    psum = nl.ndarray((stationary.shape[1], moving.shape[1]), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=psum, stationary=load(first_stationary), moving=load(first_moving), accumulate=False)
    nisa.nc_matmul(dst=psum, stationary=load(stationary), moving=load(moving), accumulate=True)
    nisa.dma_copy(dst=out, src=out_of_psum(psum, nl.float32))
    return out


@nki.jit
def row_tiles(stationary, moving):
    """K = 128 as four accumulating instructions on row tiles of 32, and as one instruction; two fp32 [M, N]."""
    shape = (stationary.shape[1], moving.shape[1])
    tiled = nl.ndarray(shape, dtype=nl.float32, buffer=nl.shared_hbm)
    whole = nl.ndarray(shape, dtype=nl.float32, buffer=nl.shared_hbm)
    left = load(stationary)
    right = load(moving)
    parts = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
    for row in range(0, 128, 32):
        nisa.nc_matmul(
            dst=parts,
            stationary=left[row : row + 32, :],
            moving=right[row : row + 32, :],
            accumulate=row > 0,
            tile_position=(row, 0),
            tile_size=(32, 128),
        )
    psum = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=psum, stationary=left, moving=right, accumulate=False)
    nisa.dma_copy(dst=tiled, src=out_of_psum(parts, nl.float32))
    nisa.dma_copy(dst=whole, src=out_of_psum(psum, nl.float32))
    return tiled, whole


@nki.jit
def matmul_tf32(stationary, moving):
    """fp32 bits viewed as tfloat32 on both sides; fp32 [M, N]."""
    out = nl.ndarray((stationary.shape[1], moving.shape[1]), dtype=nl.float32, buffer=nl.shared_hbm)
    left = load(stationary)
    right = load(moving)
    psum = nl.ndarray(out.shape, dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=psum, stationary=left.view(nl.tfloat32), moving=right.view(nl.tfloat32), accumulate=False)
    nisa.dma_copy(dst=out, src=out_of_psum(psum, nl.float32))
    return out


@nki.jit
def matmul_onezero(stationary, moving):
    """fp32 [K, M] and [K, N] with the stationary operand declared to hold ones and zeros only; fp32 [M, N]."""
    out = nl.ndarray((stationary.shape[1], moving.shape[1]), dtype=nl.float32, buffer=nl.shared_hbm)
    psum = nl.ndarray(out.shape, dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(
        dst=psum, stationary=load(stationary), moving=load(moving), is_stationary_onezero=True, accumulate=False
    )
    nisa.dma_copy(dst=out, src=out_of_psum(psum, nl.float32))
    return out


@nki.jit
def double_row(stationary, moving):
    """fp8 stationary [K, 2, M], moving [K, 2, N]: two products per element of the array; fp32 [M, N]."""
    out = nl.ndarray((stationary.shape[2], moving.shape[2]), dtype=nl.float32, buffer=nl.shared_hbm)
    psum = nl.ndarray(out.shape, dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(
        dst=psum,
        stationary=load(stationary),
        moving=load(moving),
        accumulate=False,
        perf_mode=nisa.matmul_perf_mode.double_row,
    )
    nisa.dma_copy(dst=out, src=out_of_psum(psum, nl.float32))
    return out


@nki.jit
def matmul_mx(stationary, moving, stationary_scale, moving_scale):
    """gen4: e5m2_x4 items as uint32 [K, M] and [K, N], scale bytes uint8 [K, M] and [K, N]; fp32 [M, N]."""
    out = nl.ndarray((stationary.shape[1], moving.shape[1]), dtype=nl.float32, buffer=nl.shared_hbm)
    left = load(stationary)
    right = load(moving)
    psum = nl.ndarray(out.shape, dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul_mx(
        dst=psum,
        stationary=left.view(nl.float8_e5m2_x4),
        moving=right.view(nl.float8_e5m2_x4),
        stationary_scale=load(stationary_scale),
        moving_scale=load(moving_scale),
        accumulate=False,
    )
    nisa.dma_copy(dst=out, src=out_of_psum(psum, nl.float32))
    return out


@nki.jit
def accumulate_bf16(stationary, moving):
    """gen4: stationary [steps, K, M], moving [steps, K, N] into one bf16 PSUM tile, step after step; bf16 [M, N]."""
    out = nl.ndarray((stationary.shape[2], moving.shape[2]), dtype=nl.bfloat16, buffer=nl.shared_hbm)
    psum = nl.ndarray(out.shape, dtype=nl.bfloat16, buffer=nl.psum)
    for step in range(stationary.shape[0]):
        nisa.nc_matmul(dst=psum, stationary=load(stationary[step]), moving=load(moving[step]), accumulate=step > 0)
    nisa.dma_copy(dst=out, src=out_of_psum(psum, nl.bfloat16))
    return out
