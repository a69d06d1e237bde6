"""Instructions of nki.isa between the two cores of an LNC2 launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reference.neuroncore import sync as machine
from reference.neuroncore.enums import dma_engine as dma_engines
from reference.neuroncore.enums import engine as engines
from reference.neuroncore.instruction import NkiInstruction


def sendrecv(
    src: Any,
    dst: Any,
    send_to_rank: int,
    recv_from_rank: int,
    pipe_id: Any,
    dma_engine: Any = dma_engines.dma,
    name: str | None = None,
    use_gpsimd_dma: bool | None = None,
) -> NkiInstruction:
    """Send src to core `send_to_rank` and receive into dst from core `recv_from_rank`, paired by `pipe_id`
    and order.

    Both in SBUF, same shape and dtype; src is read before anything is received, so the two may overlap. A
    send that nobody receives, or a receive that nobody sends, is an error. gen3 and later.
    """
    engine = dma_engine if use_gpsimd_dma is None else use_gpsimd_dma
    return machine.sendrecv(src, dst, send_to_rank, recv_from_rank, pipe_id, engine, name=name)


def core_barrier(
    data: Any, cores: Sequence[int], engine: Any = engines.gpsimd, name: str | None = None
) -> NkiInstruction:
    """Wait until all `cores` have come to a barrier of the same cores; orders their HBM accesses. No effect
    on a launch of one core, or for a single core. gen3 and later."""
    return machine.core_barrier(data, cores, engine, name=name)
