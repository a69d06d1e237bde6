"""Searches of the GpSimd engine: nonzero_with_count, sequence_bounds, topk."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import to_float32
from reference.numerics.profile import NumericsProfile

from .core import Core, flat
from .errors import MachineError
from .gather import GROUP
from .instruction import check_compute, instruction
from .max8 import ranking
from .operands import dtype_in, elements, is_whole, partitions
from .tensor import Tensor


def _int32(role: str, value: Any) -> int:
    if not is_whole(value) or not -(2**31) <= int(value) < 2**31:
        raise MachineError("operand.int32", f"{value!r} is no int32", operand=role)
    return int(value)


@instruction("gpsimd", since=3)
def nonzero_with_count(core: Core, dst: Any, src: Any, index_offset: Any = 0, padding_val: Any = -1) -> None:
    """Per group of 16 partitions, in its first one: positions of the nonzeros, padding, and their count."""
    target, source = check_compute("dst", dst, psum=False), check_compute("src", src, psum=False)
    dtype_in("src", source, {"float32", "int32"})
    dtype_in("dst", target, {"int32"})
    partitions("dst", target, source.shape[0])
    count = source.size // source.shape[0]
    elements("dst", target, count + 1)
    offset, padding = _int32("index_offset", index_offset), _int32("padding_val", padding_val)
    rows = range(0, source.shape[0], GROUP)
    results = [_nonzeros(core.read("src", source.slice(0, row, row + 1)), offset, padding) for row in rows]
    for row, result in zip(rows, results, strict=True):
        core.write_bits("dst", target.slice(0, row, row + 1), result)


def _nonzeros(values: NDArray[Any], offset: int, padding: int) -> NDArray[np.int32]:
    found = np.flatnonzero(values.reshape(-1))
    result = np.full(values.size + 1, padding, np.int64)
    result[: len(found)] = found + offset
    result[-1] = len(found)
    return result.astype(np.int32)


@instruction("gpsimd")
def sequence_bounds(core: Core, dst: Any, segment_ids: Any) -> None:
    """dst[0, 0, i], dst[0, 1, i] = start and exclusive end of the run of equal ids that holds i; id 0: (n,
    -1).
    """
    target, source = (
        check_compute("dst", dst, psum=False),
        check_compute("segment_ids", segment_ids, psum=False),
    )
    for role, tensor in (("dst", target), ("segment_ids", source)):
        dtype_in(role, tensor, {"float32", "int32"})
        partitions(role, tensor, 1)
    count = source.size
    elements("dst", target, 2 * count)
    ids = flat(core.read("segment_ids", source), source)[0]
    if (ids < 0).any() or (ids != np.floor(ids)).any():
        raise MachineError("sequence.ids", "segment ids must be non-negative integers", operand="segment_ids")
    core.write("dst", target, np.concatenate(_runs(ids)).astype(np.float32))


def _runs(ids: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    edges = np.flatnonzero(np.diff(ids)) + 1
    bounds = np.concatenate([[0], edges, [len(ids)]])
    run = np.searchsorted(edges, np.arange(len(ids)), side="right")
    padding = ids == 0
    return np.where(padding, len(ids), bounds[run]), np.where(padding, -1, bounds[run + 1])


# ---- topk ----------------------------------------------------------------------------------------------


@instruction("gpsimd")
def topk(core: Core, val_dst: Any, idx_dst: Any, src: Any, n: int) -> None:
    """Per group of 16 partitions: the k largest of its first n elements, ascending, and their indices.

    Elements and results lie in snake order: element e at partition e mod 16, position e div 16 of the group.
    k is the free size of val_dst; only the slots of the k results are written. The documents of NKI 0.6 leave
    the layout of results open; this is what the next release's page states.
    """
    values, places, source = _check_topk(val_dst, idx_dst, src, n)
    count = values.shape[1]
    found_bits = np.zeros(values.shape, values.fmt.storage)
    found_index = np.zeros(places.shape, np.uint32)
    for start in range(0, source.shape[0], GROUP):
        group = slice(start, start + GROUP)
        snake = _snake(core, source.slice(0, start, start + GROUP), n)
        best = _ascending(to_float32(snake, source.fmt), count, core.profile)
        _lay_out(found_bits[group], snake[best])
        _lay_out(found_index[group], best)
    taken = _slots(values.shape, count)
    core.write_where("val_dst", values, taken, found_bits)
    core.write_where("idx_dst", places, taken, found_index)


def _snake(core: Core, group: Tensor, n: int) -> NDArray[Any]:
    """The first n elements of one group; slots behind them need not be written."""
    whole, rest = divmod(n, GROUP)
    parts = [core.read("src", group.slice(1, 0, whole)).T.reshape(-1)] if whole else []
    if rest:
        parts.append(core.read("src", group.slice(0, 0, rest).slice(1, whole, whole + 1)).reshape(-1))
    return np.concatenate(parts)


def _check_topk(val_dst: Any, idx_dst: Any, src: Any, n: Any) -> tuple[Tensor, Tensor, Tensor]:
    values, places = (
        check_compute("val_dst", val_dst, psum=False),
        check_compute("idx_dst", idx_dst, psum=False),
    )
    source = check_compute("src", src, psum=False)
    dtype_in("src", source, {"bfloat16"})
    dtype_in("val_dst", values, {"bfloat16"})
    dtype_in("idx_dst", places, {"uint32"})
    for role, tensor in (("val_dst", values), ("idx_dst", places)):
        partitions(role, tensor, source.shape[0])
        if tensor.ndim != 2:
            raise MachineError("topk.rank", f"{tensor.shape} must be (P, k)", operand=role)
    if source.ndim != 2 or source.shape[0] % GROUP:
        raise MachineError("topk.partitions", f"{source.shape} must be (P, X), P a multiple of {GROUP}", operand="src")
    if not is_whole(n) or not 8 <= n < 65536 or source.shape[1] * GROUP < n:
        raise MachineError(
            "topk.n",
            f"n={n!r}: must be 8 to 65535 and fit the {source.shape[1] * GROUP} slots of a group",
            operand="n",
        )
    count = values.shape[1]
    if count > min(n, 32767) or places.shape[1] != count:
        raise MachineError(
            "topk.k",
            f"k={count} must not exceed n={n} nor 32767, and idx_dst {places.shape} must match",
            operand="val_dst",
        )
    return values, places, source


def _ascending(snake: NDArray[np.float32], count: int, profile: NumericsProfile) -> NDArray[np.intp]:
    """Positions of the `count` largest, from the smallest of them up; equal values in the order of G2."""
    best = ranking(snake[None], profile)[0][:count]
    values = snake[best]
    # NaN was ranked before infinity: the stable sort keeps it there, at the same key.
    return np.asarray(best[np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable")])


def _slots(shape: tuple[int, ...], count: int) -> NDArray[np.bool_]:
    """Slots of [P, k] tiles that hold one of the `count` results of their group."""
    partition, position = np.indices(shape)
    return np.asarray(position * GROUP + partition % GROUP < count)


def _lay_out(tile: NDArray[Any], results: NDArray[Any]) -> None:
    index = np.arange(len(results))
    tile[index % GROUP, index // GROUP] = results
