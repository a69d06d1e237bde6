"""The weights of a context encoding in SBUF: whole when they fit, else streamed in blocks of row tiles."""

import nki.isa as nisa
import nki.language as nl

from kernels.item_size import item_size
from kernels.mx_load import load_scales, packed_view

#: Bytes per partition for everything: gen3 offers 208 KiB, gen4 more.
SBUF_BYTES = 204800
#: Bytes per partition of one streamed block; two are in flight.
BLOCK_BYTES = 16384


class WeightBlock(nl.NKIObject):
    """Row tiles first.. as data [128, count, I]; MX: x4 data and the scales of each, [128, count, I] too."""

    data: object = None
    scale: object = None
    first: int = 0
    count: int = 0


class WeightPlan(nl.NKIObject):
    """What to load: the HBM tensors, the dtype in SBUF, row tiles in all and per block, and a block that stays."""

    weights: object = None
    scales: object = None
    dtype: object = None
    tiles: int = 0
    step: int = 0
    resident: object = None


def weight_plan(weights, scales, dtype, working_bytes):
    """Plan for weights [tiles*128, I]; `scales` only with MX. Whole if it fits beside working_bytes a partition."""
    source = weights if scales == None else packed_view(weights)
    tiles, I = source.shape[0] // 128, source.shape[1]
    tile_bytes = I * (5 if scales != None else item_size(dtype))
    # Even, so that double rows find both of their tiles in one block.
    step = max(2, BLOCK_BYTES // tile_bytes // 2 * 2)
    plan = WeightPlan(weights=source, scales=scales, dtype=dtype, tiles=tiles, step=min(step, tiles))
    if tiles * tile_bytes + working_bytes <= SBUF_BYTES:
        plan.step = tiles
        plan.resident = load_block(plan, 0)
    return plan


def weight_block(plan, first):
    """The block of row tiles first .. first + step - 1, or fewer at the end."""
    if plan.resident != None:
        return plan.resident
    return load_block(plan, first)


def load_block(plan, first):
    """Load one block; DMA casts to the dtype of the products. Rows of I columns are contiguous in HBM."""
    count, I = min(plan.step, plan.tiles - first), plan.weights.shape[1]
    data = nl.ndarray((128, count, I), dtype=plan.dtype)
    rows = plan.weights.reshape((plan.tiles, 128, I))[nl.ds(first, count), :, :]
    nisa.dma_copy(dst=data, src=rows.permute((1, 0, 2)))
    block = WeightBlock(data=data, first=first, count=count)
    if plan.scales != None:
        block.scale = load_scales(plan.scales, first, count)
    return block
