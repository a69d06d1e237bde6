"""The eight largest values of a partition, where they are, and how they leave (vector engine)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.profile import NumericsProfile

from .core import Core, flat
from .errors import MachineError
from .instruction import instruction
from .operands import dtype_in, elements, number, numeric, numeric_pair, partitions
from .tensor import Tensor

F32 = NDArray[np.float32]

#: Elements per partition that these instructions take in, and results they give.
FEWEST, MOST, EIGHT = 8, 16384, 8


@instruction("vector")
def max8(core: Core, dst: Any, src: Any) -> None:
    """dst (P, 8) = the largest values of src per partition, descending, duplicates kept."""
    target, source = numeric("dst", dst), _searched("src", src)
    partitions("dst", target, source.shape[0])
    elements("dst", target, EIGHT)
    core.write("dst", target, largest(core.read_float("src", source), EIGHT, core.profile))


def _searched(role: str, value: Any) -> Tensor:
    tensor = numeric(role, value)
    count = tensor.size // tensor.shape[0]
    if not FEWEST <= count <= MOST:
        raise MachineError(
            "max8.elements",
            f"{count} elements per partition, must be {FEWEST} to {MOST}",
            operand=role,
            remedy="split the row, or pad it with -inf",
        )
    if tensor.ndim > 3:
        raise MachineError("max8.rank", f"{tensor.shape} has more than 3 axes", operand=role)
    return tensor


def largest(values: F32, count: int, profile: NumericsProfile) -> F32:
    """The `count` largest of fp32 [P, n], descending. NaN comes first where maxima propagate it (V5), else
    last.
    """
    order = ranking(values, profile)[:, :count]
    return np.take_along_axis(values, order, axis=1)


def ranking(values: F32, profile: NumericsProfile) -> NDArray[np.intp]:
    """Positions of fp32 [P, n] from the largest value to the smallest; equal values as G2 `ties` says."""
    nan_first = profile.maxmin_nan == "propagate"
    if profile.ties == "highest":
        return np.asarray(values.shape[1] - 1 - _descending(values[:, ::-1], nan_first))
    return _descending(values, nan_first)


def _descending(values: F32, nan_first: bool) -> NDArray[np.intp]:
    # np.argsort puts NaN last; -0 and +0 are equal to it, as they are to the engine.
    order = np.argsort(-values, axis=1, kind="stable")
    if nan_first and np.isnan(values).any():
        flags = np.isnan(np.take_along_axis(values, order, axis=1))
        order = np.take_along_axis(order, np.argsort(~flags, axis=1, kind="stable"), axis=1)
    return np.asarray(order)


@instruction("vector")
def nc_find_index8(core: Core, dst: Any, data: Any, vals: Any) -> None:
    """dst[p, i] = first position of vals[p, i] in data[p]; the k-th duplicate takes the k-th position."""
    target, source, wanted = numeric("dst", dst), _searched("data", data), numeric("vals", vals)
    dtype_in("dst", target, ("uint16", "uint32"))
    for role, tensor in (("dst", target), ("vals", wanted)):
        partitions(role, tensor, source.shape[0])
        elements(role, tensor, EIGHT)
    rows, keys = core.read_float("data", source), core.read_float("vals", wanted)
    found = _claim(rows, keys, range(EIGHT))
    core.write_bits("dst", target, found.astype(target.fmt.storage))


def _claim(rows: F32, keys: F32, turns: range) -> NDArray[np.int64]:
    """Position of each key in its row, each position given once, keys taking turns; -1 (all ones) if none is
    left.
    """
    found = np.full(keys.shape, -1, np.int64)
    free = np.ones(rows.shape, np.bool_)
    lane = np.arange(len(rows))
    for turn in turns:
        match = (rows == keys[:, turn : turn + 1]) & free
        position = match.argmax(axis=1)
        hit = match[lane, position]
        found[hit, turn] = position[hit]
        free[lane[hit], position[hit]] = False
    return found


@instruction("vector")
def nc_match_replace8(core: Core, dst: Any, data: Any, vals: Any, imm: Any, dst_idx: Any = None) -> None:
    """dst = data with, for i = 7..0, the first position of vals[i] not yet taken replaced by imm."""
    target, source = numeric_pair(dst, data, "data")
    _searched("data", source)
    wanted = numeric("vals", vals)
    partitions("vals", wanted, source.shape[0])
    elements("vals", wanted, EIGHT)
    rows = core.read_float("data", source)
    found = _claim(rows, core.read_float("vals", wanted), range(EIGHT - 1, -1, -1))
    if target.dtype == source.dtype:
        bits = flat(core.read("data", source), source).copy()
    else:
        bits = core.rounded(rows, target)
    lane, turn = np.nonzero(found >= 0)
    bits[lane, found[lane, turn]] = core.rounded(np.full(1, number("imm", imm), np.float32), target)
    places = None if dst_idx is None else _place_tile(dst_idx, source.shape[0])
    core.write_bits("dst", target, bits)
    if places is not None:
        core.write_bits("dst_idx", places, found.astype(places.fmt.storage))


def _place_tile(value: Any, count: int) -> Tensor:
    places = numeric("dst_idx", value)
    dtype_in("dst_idx", places, ("uint16", "uint32"))
    partitions("dst_idx", places, count)
    elements("dst_idx", places, EIGHT)
    return places
