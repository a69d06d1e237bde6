"""Instructions of the DMA engines."""

from __future__ import annotations

from typing import Any

from .core import Core
from .instruction import check_tensor, instruction, require


@instruction("dma")
def dma_copy(core: Core, dst: Any, src: Any) -> None:
    """dst = src between HBM and SBUF, row-major element order; casts through fp32 where dtypes differ."""
    target, source = check_tensor("dst", dst), check_tensor("src", src)
    require(target.size == source.size, "dma.size", f"dst has {target.size} elements, src {source.size}")
    if target.dtype == source.dtype:
        core.write_bits("dst", target, core.read("src", source))
    else:
        core.write("dst", target, core.read_float("src", source))
    core.counters.dma_bytes += target.nbytes
