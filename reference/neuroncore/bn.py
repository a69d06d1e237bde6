"""bn_stats and bn_aggr of the vector engine: the arithmetic is `numerics.bn`."""

from __future__ import annotations

from typing import Any

from reference.numerics import bn

from .core import Core
from .errors import MachineError
from .instruction import instruction
from .operands import elements, numeric, partitions

#: Elements of one partition that one bn_stats can take in.
BN_STATS_FMAX = 512


@instruction("vector")
def bn_stats(core: Core, dst: Any, data: Any) -> None:
    """dst (P, 6) = (count, mean, variance * count) of the even, then of the odd elements of data."""
    target, source = numeric("dst", dst), numeric("data", data)
    partitions("dst", target, source.shape[0])
    elements("dst", target, 6)
    count = source.size // source.shape[0]
    if count > BN_STATS_FMAX:
        raise MachineError(
            "bn.fmax",
            f"{count} elements per partition exceed {BN_STATS_FMAX}",
            operand="data",
            remedy="call bn_stats on parts of 512 and join them with bn_aggr",
        )
    core.write("dst", target, bn.bn_stats(core.read_float("data", source), core.profile))


@instruction("vector")
def bn_aggr(core: Core, dst: Any, data: Any) -> None:
    """dst (P, 2) = (mean, population variance) of the (count, mean, variance * count) triples in data."""
    target, source = numeric("dst", dst), numeric("data", data)
    partitions("dst", target, source.shape[0])
    elements("dst", target, 2)
    if source.size // source.shape[0] % 3:
        raise MachineError(
            "bn.triples",
            f"{source.shape} holds no whole number of (count, mean, variance * count) triples",
            operand="data",
        )
    core.write("dst", target, bn.bn_aggr(core.read_float("data", source), core.profile))
