"""Where a tensor can live."""

from __future__ import annotations

from enum import Enum


class MemoryRegion(Enum):
    """The memories of the NKI programming model (nki.language.MemoryRegion)."""

    sbuf = "sbuf"
    psum = "psum"
    private_hbm = "private_hbm"
    shared_hbm = "shared_hbm"

    @property
    def on_chip(self) -> bool:
        """True for SBUF and PSUM, whose first axis is the partition axis."""
        return self in (MemoryRegion.sbuf, MemoryRegion.psum)
