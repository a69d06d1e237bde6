"""DMA instructions of nki.isa."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reference.neuroncore import dma_engine as machine
from reference.neuroncore.enums import dge_mode as dge_modes
from reference.neuroncore.enums import engine as engines
from reference.neuroncore.enums import oob_mode as oob_modes
from reference.neuroncore.instruction import NkiInstruction


def dma_copy(
    dst: Any,
    src: Any,
    priority: Any = None,
    oob_mode: Any = oob_modes.error,
    dge_mode: Any = dge_modes.unknown,
    engine: Any = engines.unknown,
    name: str | None = None,
    dst_rmw_op: None = None,
) -> NkiInstruction:
    """dst = src between HBM and SBUF; any start partition, equal element counts, row-major order of both
    views.

    Equal dtypes keep their bits; others pass through fp32 (int32 above 2^24 loses bits) and are rounded once,
    which dge_mode.hwdge refuses. src with a vector offset gathers rows, dst scatters them (a row named twice
    keeps the last). oob_mode.skip leaves rows outside the tensor untransferred, oob_mode.error (default)
    raises. priority: 0 to 3, gen4. engine: sync or scalar, with hwdge. A fourth-release call with oob_mode
    in the place of priority is understood.
    """
    if dst_rmw_op is not None:
        raise TypeError("dma_copy: dst_rmw_op was removed in NKI 0.3; use nisa.dma_compute")
    if isinstance(priority, oob_modes):  # before 0.4 oob_mode stood third
        older = [priority, oob_mode, dge_mode]
        priority, oob_mode = None, older[0]
        dge_mode = older[1] if isinstance(older[1], dge_modes) else dge_mode
    return machine.dma_copy(dst, src, priority, oob_mode, dge_mode, engine, name=name)


def dma_transpose(
    dst: Any,
    src: Any,
    axes: Sequence[int] | None = None,
    priority: Any = None,
    dge_mode: Any = dge_modes.unknown,
    oob_mode: Any = oob_modes.error,
    name: str | None = None,
) -> NkiInstruction:
    """dst = src transposed by `axes`: (1, 0), (2, 1, 0) or (3, 1, 2, 0), by rank; dst has exactly the
    permuted shape and src's dtype, and the bits move. A src with a vector offset gathers rows first (index
    (R, C) uint32 in SBUF, read column by column; 2-byte dtypes, gen3 and later)."""
    if isinstance(priority, dge_modes):  # before 0.4 dge_mode stood fourth
        older = dge_mode
        priority, dge_mode = None, priority
        oob_mode = older if isinstance(older, oob_modes) else oob_mode
    return machine.dma_transpose(dst, src, axes, priority, dge_mode, oob_mode, name=name)


def dma_compute(
    dst: Any,
    srcs: Sequence[Any],
    reduce_op: Any,
    scales: Any = None,
    unique_indices: bool = True,
    oob_mode: Any = oob_modes.error,
    name: str | None = None,
) -> NkiInstruction:
    """dst = srcs[0] + srcs[1] + ... in fp32 in list order (profile D1), rounded once; up to 16 sources of
    equal element count; dst may be one of them. reduce_op: nl.add; scales: None or all 1.0. With a vector
    offset, two sources: gather-add into SBUF or scatter-add into HBM, with unique indices."""
    if reduce_op is None or isinstance(
        reduce_op, (list, tuple)
    ):  # before 0.3: (dst, srcs, scales, reduce_op)
        reduce_op, scales = scales, reduce_op
    return machine.dma_compute(dst, srcs, reduce_op, scales, unique_indices, oob_mode, name=name)
