"""MX operands: x4 weights with their block scales, and activations quantised on the chip.

One scale belongs to 8 partitions x 4 lanes. That of group g (partitions 8g..8g+7) of a tile stands on partition
32*(g // 4) + g % 4 of the scale tile; nothing reads the other rows, which are zero.
"""

import nki.isa as nisa
import nki.language as nl


def packed_view(weights):
    """Weights as x4 elements; hosts hold them in plain 32-bit integers."""
    if weights.dtype == nl.float8_e4m3fn_x4:
        return weights
    return weights.view(nl.float8_e4m3fn_x4)


def load_scales(scales, first, count):
    """uint8 [128, count, I]: rows 16*t + g of the [H/32, I] scales for tiles t = first.., each on its partition."""
    rows, I = scales.shape
    codes = scales if scales.dtype == nl.uint8 else scales.view(nl.uint8)
    tile = nl.ndarray((128, count, I), dtype=nl.uint8)
    nisa.memset(dst=tile, value=0)
    groups = codes.reshape((rows // 16, 4, 4, I))
    for quadrant in range(4):
        nisa.dma_copy(
            dst=tile[nl.ds(32 * quadrant, 4), :, :],
            src=groups[nl.ds(first, count), quadrant, :, :].permute((1, 0, 2)),
        )
    return tile


def quantize_tokens(operand, s):
    """(operand_mx_{s}, operand_scale_{s}), both [128, tiles, tokens], of bf16 [128, tiles, tokens, 4]."""
    width, tiles, tokens, lanes = operand.shape
    data = nl.ndarray((width, tiles, tokens), dtype=nl.float8_e4m3fn_x4, name=f"operand_mx_{s}")
    scale = nl.ndarray((width, tiles, tokens), dtype=nl.uint8, name=f"operand_scale_{s}")
    nisa.memset(dst=scale, value=0)
    for t in range(tiles):
        nisa.quantize_mx(dst=data[:, t, :], src=operand[:, t, :, :], dst_scale=scale[:, t, :])
    return data, scale
