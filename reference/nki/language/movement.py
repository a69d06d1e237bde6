"""Loads, stores and rearrangements of nki.language."""

from __future__ import annotations

from typing import Any

from reference.neuroncore import dma_engine, tensor_engine, tile_math, vector_engine
from reference.neuroncore.errors import MachineError
from reference.neuroncore.instruction import check_tensor
from reference.neuroncore.tensor import Tensor

from .math import Operator
from .types import psum


def load(src: Any, dtype: Any = None) -> Tensor:
    """A fresh SBUF tile with the content of an HBM tensor; a one-axis source becomes (1, n)."""
    source = check_tensor("src", src)
    shape = source.shape if source.ndim > 1 else (1, *source.shape)
    tile = tile_math.fresh(shape, source.dtype if dtype is None else dtype)
    dma_engine.dma_copy(tile, source)
    return tile


def store(dst: Any, value: Any) -> None:
    """HBM tensor = SBUF tile."""
    dma_engine.dma_copy(dst, value)


def load_transpose2d(src: Any, dtype: Any = None) -> Tensor:
    """A fresh SBUF tile (F, P) with the transpose of an HBM tensor (P, F)."""
    source = check_tensor("src", src)
    if source.ndim != 2:
        raise MachineError("operand.shape", f"{source.shape} must have two axes", operand="src")
    tile = tile_math.fresh((source.shape[1], source.shape[0]), source.dtype)
    dma_engine.dma_transpose(tile, source, (1, 0))
    return tile if dtype is None else copy(tile, dtype)


class Copy(Operator):
    """nl.copy(x, dtype=None): also an activation function."""

    def __call__(self, x: Any, dtype: Any = None) -> Tensor:
        source = check_tensor("x", x)
        tile = tile_math.fresh(source.shape, source.dtype if dtype is None else dtype)
        vector_engine.tensor_copy(tile, source)
        return tile


copy = Copy("copy", "A fresh SBUF tile with x's content; equal dtypes keep their bits.")


def transpose(x: Any, dtype: Any = None) -> Tensor:
    """A fresh PSUM tile with the transpose of a two-axis SBUF tile."""
    source = check_tensor("x", x)
    turned = tile_math.fresh((source.size // source.shape[0], source.shape[0]), source.dtype, psum)
    tensor_engine.nc_transpose(turned, source)
    if dtype is None:
        return turned
    result = tile_math.fresh(turned.shape, dtype, psum)
    vector_engine.tensor_copy(result, turned)
    return result


def matmul(x: Any, y: Any, transpose_x: bool = False) -> Tensor:
    """x @ y, or x.T @ y where x is given transposed, in a fresh float32 PSUM tile.

    x (M, K) up to 128 x 128, or (K, M) with transpose_x; y (K, N), N up to 512. Without transpose_x the
    transpose of x passes the tensor engine and SBUF first.
    """
    left = check_tensor("x", x) if transpose_x else copy(transpose(x))
    right = check_tensor("y", y)
    result = tile_math.fresh((left.size // left.shape[0], right.size // right.shape[0]), "float32", psum)
    tensor_engine.nc_matmul(result, left, right)
    return result


def gather_flattened(data: Any, indices: Any, axis: int = 0, dtype: Any = None) -> Tensor:
    """A fresh tile: result[p, k] = data[p, indices[p, k]], free axes flattened."""
    if axis != 0:
        raise MachineError("gather.axis", f"axis {axis}: only 0", operand="axis")
    source, index = check_tensor("data", data), check_tensor("indices", indices)
    tile = tile_math.fresh(index.shape, source.dtype if dtype is None else dtype)
    tile_math.gather(tile, source, index)
    return tile


def expand_dims(x: Any, axis: int) -> Tensor:
    """A view of x with an axis of size 1 inserted."""
    source = check_tensor("x", x)
    return source.expand_dim(axis + source.ndim + 1 if axis < 0 else axis)


def broadcast_to(x: Any, shape: Any, dtype: Any = None) -> Tensor:
    """A fresh tile of `shape`: x repeated along its axes of size 1; equal rank."""
    source = check_tensor("x", x)
    wanted = tuple(int(n) for n in shape)
    if len(wanted) != source.ndim or any(a not in (1, b) for a, b in zip(source.shape, wanted, strict=True)):
        raise MachineError(
            "operand.shape", f"{source.shape} does not broadcast to {wanted}: only axes of size 1 grow"
        )
    tile = tile_math.fresh(wanted, source.dtype if dtype is None else dtype)
    tile_math.spread(tile, source)
    return tile
