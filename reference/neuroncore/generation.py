"""Sizes and limits of one NeuronCore generation, as data.

Sources: the three architecture guides of the Neuron SDK (memory sizes, tensor-engine geometry) and, for the usable
SBUF bytes per partition, the open NKI front end; both as collected in the API fact sheet, sections 3.1 and 5.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from .errors import MachineError


@dataclass(frozen=True)
class Generation:
    """One NeuronCore generation. All `*_bytes` are bytes per partition."""

    name: str  # "gen2" | "gen3" | "gen4"
    level: int  # 2, 3, 4: the order in which features appeared
    chip: str  # the instance family people know it by
    sbuf_bytes: int  # physical SBUF bytes of one partition
    sbuf_usable_bytes: int  # what the allocator may hand out
    moving_fmax_fp32: int  # longest moving free size of one matmul with an fp32 destination
    moving_fmax_bf16: int  # the same with a bf16 destination (gen4 only)
    psum_bytes: int = 16384
    psum_bank_bytes: int = 2048
    partitions: int = 128


GENERATIONS = {
    "gen2": Generation("gen2", 2, "trn1", 192 * 1024, 180224, 512, 512),
    "gen3": Generation("gen3", 3, "trn2", 224 * 1024, 212984, 512, 512),
    "gen4": Generation("gen4", 4, "trn3", 256 * 1024, 245752, 4096, 8192),
}

#: Spellings that NEURON_PLATFORM_TARGET_OVERRIDE accepts.
_TARGETS = {
    "trn1": "gen2",
    "inf2": "gen2",
    "gen2": "gen2",
    "trn2": "gen3",
    "gen3": "gen3",
    "trn3": "gen4",
    "gen4": "gen4",
}


def current_generation() -> Generation:
    """The generation that NEURON_PLATFORM_TARGET_OVERRIDE names; gen3 (trn2) when it is unset.

    Read at launch, not at import, as the official simulator does. An unknown target is a MachineError.
    """
    target = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE", "").strip().lower() or "trn2"
    if target not in _TARGETS:
        raise MachineError(
            "generation.target",
            f"NEURON_PLATFORM_TARGET_OVERRIDE={target!r} names no known target",
            remedy=f"use one of {', '.join(_TARGETS)}",
        )
    return GENERATIONS[_TARGETS[target]]
