"""Instructions between the two cores of an LNC2 launch.

Sources: API fact sheet 1.5 and 2.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .core import Core
from .enums import dma_engine as dma_engines
from .enums import engine as engines
from .enums import member
from .errors import MachineError
from .instruction import check_tensor, instruction
from .tensor import Tensor

#: Bytes per partition that the GpSimd's own DMA moves, by element size.
_GPSIMD_LIMIT = {4: 1024, 2: 512, 1: 256}


@instruction("gpsimd", since=3)
def core_barrier(core: Core, data: Any, cores: Sequence[int], engine: Any = engines.gpsimd) -> str | None:
    """Wait until every core of `cores` has come here."""
    shared = check_tensor("data", data)
    chosen = member(engines, engine, "engine")
    members = tuple(sorted({int(c) for c in cores}))
    count = len(core.launch.cores)
    if members != tuple(cores) and members != tuple(sorted(cores)):
        raise MachineError("barrier.cores", f"{tuple(cores)} names a core twice", operand="cores")
    if count > 1 and members and members[-1] >= count:
        raise MachineError(
            "barrier.cores", f"{members}: the launch has cores 0..{count - 1}", operand="cores"
        )
    if core.index in members and len(members) > 1 and count > 1:
        core.launch.barrier(core, members, shared)
    return chosen.name


@instruction("dma", since=3)
def sendrecv(
    core: Core,
    src: Any,
    dst: Any,
    send_to_rank: int,
    recv_from_rank: int,
    pipe_id: Any,
    dma_engine: Any = dma_engines.dma,
) -> None:
    """Send src to a core and receive into dst what another core sends on the same pipe."""
    source, target = check_tensor("src", src), check_tensor("dst", dst)
    _check_pair(source, target)
    if isinstance(dma_engine, bool):  # before 0.3: use_gpsimd_dma
        dma_engine = dma_engines.gpsimd_dma if dma_engine else dma_engines.dma
    if member(dma_engines, dma_engine, "dma_engine") is dma_engines.gpsimd_dma:
        _check_gpsimd(source)
    count = len(core.launch.cores)
    for role, rank in (("send_to_rank", send_to_rank), ("recv_from_rank", recv_from_rank)):
        if rank not in range(count):
            raise MachineError("sendrecv.rank", f"{rank}: the launch has cores 0..{count - 1}", operand=role)
    # A snapshot: both sides often overlap in one buffer.
    payload = np.array(core.read("src", source))
    received = core.launch.exchange(core, int(send_to_rank), int(recv_from_rank), pipe_id, payload)
    if received.shape != target.shape or received.dtype != target.fmt.storage:
        raise MachineError(
            "sendrecv.shape",
            f"receives {received.shape} {received.dtype} into {target.shape} {target.dtype}",
            operand="dst",
            remedy="send and receive tiles of the same shape and dtype on both cores",
        )
    core.write_bits("dst", target, received)
    core.counters.dma_bytes += target.nbytes


def _check_pair(source: Tensor, target: Tensor) -> None:
    for role, tensor in (("src", source), ("dst", target)):
        if tensor.buffer.name != "sbuf":
            raise MachineError(
                "operand.memory",
                f"must be in ['sbuf'], got {tensor.buffer.name}",
                operand=role,
                remedy="exchange HBM data through shared_hbm and nisa.core_barrier",
            )
    if source.shape != target.shape or source.dtype != target.dtype:
        raise MachineError(
            "sendrecv.shape",
            f"src {source.shape} {source.dtype} and dst {target.shape} {target.dtype} must agree",
        )


def _check_gpsimd(source: Tensor) -> None:
    limit = _GPSIMD_LIMIT.get(source.itemsize, 1024)
    size = source.nbytes // source.shape[0]
    if size > limit:
        raise MachineError(
            "sendrecv.gpsimd",
            f"{size} B per partition: gpsimd_dma moves up to {limit} B of {source.dtype}",
            operand="src",
            remedy="use dma_engine.dma, or send in pieces",
        )
