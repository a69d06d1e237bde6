"""Instructions of the vector engine: fp32 inside, one rounding on write."""

from __future__ import annotations

from typing import Any

from .core import Core, flat
from .instruction import check_compute, instruction, same_elements


@instruction("vector")
def tensor_copy(core: Core, dst: Any, src: Any, engine: str = "unknown") -> str | None:
    """dst = src: the same bits where dtypes agree, else through fp32 with one rounding."""
    target, source = check_compute("dst", dst), check_compute("src", src)
    same_elements(("dst", target), ("src", source))
    if target.dtype == source.dtype:
        core.write_bits("dst", target, core.read("src", source))
    else:
        core.write("dst", target, core.read_float("src", source))
    return None if engine == "unknown" else engine


__all__ = ["flat", "tensor_copy"]
