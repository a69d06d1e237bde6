"""nki.collectives: communication between ranks.

Tensors come in lists, all in HBM or all in SBUF; several at once only in HBM. Core c of each rank of a group
meets core c of the others, by the order of calls. A launch has one rank unless started with
`kernel.launch_ranks`; a group that names a rank the launch does not have is an error. `priority` (gen4) and
`name` change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from reference.neuroncore import collectives as machine
from reference.neuroncore.instruction import NkiInstruction
from reference.neuroncore.launch import current_core
from reference.neuroncore.registers import VirtualRegister

from .language.types import NKIObject


@dataclass(eq=True)
class ReplicaGroup(NKIObject):
    """Disjoint lists of ranks; the lists are the groups of a collective."""

    groups: Any

    def __hash__(self) -> int:
        return hash(tuple(tuple(group) for group in self.groups))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.groups)


def all_reduce(
    srcs: Any, dsts: Any, replica_group: Any, op: Any, priority: int | None = None, name: str | None = None
) -> NkiInstruction:
    """dst = reduction (nl.add, nl.minimum, nl.maximum) of all ranks' src, in fp32 in group order, rounded
    once."""
    return machine.all_reduce(srcs, dsts, replica_group, op, priority, name=name)


def all_gather(
    srcs: Any,
    dsts: Any,
    replica_group: Any,
    collective_dim: int,
    priority: int | None = None,
    name: str | None = None,
) -> NkiInstruction:
    """dst = all ranks' src joined along collective_dim (HBM: 0; SBUF, two axes: 0 or 1) in group order."""
    return machine.all_gather(srcs, dsts, replica_group, collective_dim, priority, name=name)


def all_gather_v(
    srcs: Any,
    dsts: Any,
    replica_group: Any,
    metadata_tensor: Any,
    recv_counts_known: bool = False,
    has_rdispls: bool = False,
    priority: int | None = None,
    name: str | None = None,
) -> NkiInstruction:
    """Flat gather of chunks of run-time size. metadata (uint32, one column per rank): row 0 send count and
    row 1 send displacement (first column), row 2 receive counts (written unless recv_counts_known), row 3
    receive displacements (with has_rdispls; else equal slots)."""
    return machine.all_gather_v(
        srcs, dsts, replica_group, metadata_tensor, recv_counts_known, has_rdispls, priority, name=name
    )


def reduce_scatter(
    srcs: Any,
    dsts: Any,
    replica_group: Any,
    collective_dim: int,
    op: Any,
    priority: int | None = None,
    name: str | None = None,
) -> NkiInstruction:
    """dst of rank i = i-th part along axis 0 of the reduction of all ranks' src, in fp32, rounded once."""
    return machine.reduce_scatter(srcs, dsts, replica_group, collective_dim, op, priority, name=name)


def all_to_all(
    srcs: Any,
    dsts: Any,
    replica_group: Any,
    collective_dim: int,
    priority: int | None = None,
    name: str | None = None,
) -> NkiInstruction:
    """Part i of src along axis 0 goes to rank i; dst = the parts that come, in group order. HBM."""
    return machine.all_to_all(srcs, dsts, replica_group, collective_dim, priority, name=name)


def all_to_all_v(
    srcs: Any,
    dsts: Any,
    replica_group: Any,
    metadata_tensor: Any,
    recv_counts_known: bool = False,
    has_rdispls: bool = False,
    priority: int | None = None,
    name: str | None = None,
) -> NkiInstruction:
    """Flat exchange of chunks of run-time size; metadata as in all_gather_v, with a count and a displacement
    for each receiving rank. metadata (rows, ranks) in HBM, (1, rows, ranks) in SBUF."""
    return machine.all_to_all_v(
        srcs, dsts, replica_group, metadata_tensor, recv_counts_known, has_rdispls, priority, name=name
    )


def collective_permute(
    srcs: Any, dsts: Any, source_target_pairs: Any, priority: int | None = None, name: str | None = None
) -> NkiInstruction:
    """For each (source, target): dst of target = src of source. One tensor in HBM; other ranks keep their
    dst."""
    return machine.collective_permute(srcs, dsts, source_target_pairs, priority, name=name)


def collective_permute_implicit(
    srcs_by_channel: Any,
    dsts_by_channel: Any,
    replica_group: Any,
    channel_ids: Sequence[int] = (0,),
    priority: int | None = None,
    name: str | None = None,
) -> NkiInstruction:
    """One ring step per channel: dst = src of the predecessor in the group. HBM, up to 4 channels."""
    return machine.collective_permute_implicit(
        srcs_by_channel, dsts_by_channel, replica_group, channel_ids, priority, name=name
    )


def collective_permute_implicit_reduce(
    srcs0_by_channel: Any,
    srcs1_by_channel: Any,
    dsts_by_channel: Any,
    replica_group: Any,
    op: Any,
    channel_ids: Sequence[int] = (0,),
    priority: int | None = None,
    name: str | None = None,
) -> NkiInstruction:
    """One ring step per channel: dst = op(src0, src1) of the predecessor, in fp32, rounded once."""
    return machine.collective_permute_implicit_reduce(
        srcs0_by_channel,
        srcs1_by_channel,
        dsts_by_channel,
        replica_group,
        op,
        channel_ids,
        priority,
        name=name,
    )


def collective_permute_implicit_current_processing_rank_id(
    iteration_id: Any, replica_group: Any, channel_id: int = 0, name: str | None = None
) -> VirtualRegister:
    """A register: the rank whose data is at hand at a step of the ring: the own at 0, then the
    predecessors."""
    return machine.processing_rank(current_core(), iteration_id, replica_group, channel_id)


def rank_id(name: str | None = None) -> VirtualRegister:
    """A register: the rank of this program."""
    return machine.own_rank()


__all__ = [
    "ReplicaGroup",
    "all_gather",
    "all_gather_v",
    "all_reduce",
    "all_to_all",
    "all_to_all_v",
    "collective_permute",
    "collective_permute_implicit",
    "collective_permute_implicit_current_processing_rank_id",
    "collective_permute_implicit_reduce",
    "rank_id",
    "reduce_scatter",
]
