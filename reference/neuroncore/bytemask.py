"""One truth value per byte of a storage, cheap while it is uniform.

The shadow of a tensor ("was this byte ever written"), the record of what a matmul wrote, and the bytes lost to an
overlapping tensor are all such masks. Nearly every tensor is written whole by its first instruction, so a mask is
`EMPTY` or `FULL` without any array until a partial write forces one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .tensor import Tensor

_BOOL = np.dtype(np.bool_)

#: Some elements of a tensor: a NumPy index into its shape (bool mask, or tuple of index arrays), None for all.
Taken = Any


class ByteMask:
    """Truth per byte of a storage of `parts` rows of `row_bytes`, addressed by tensor views."""

    __slots__ = ("_bits", "_credit", "_uniform", "parts", "row_bytes")

    def __init__(self, parts: int, row_bytes: int, value: bool = False) -> None:
        self.parts = parts
        self.row_bytes = row_bytes
        self._bits: NDArray[np.bool_] | None = None
        self._uniform = value
        # Bytes set since the last full count: only when it reaches the size can the mask have become full.
        self._credit = 0

    @property
    def full(self) -> bool:
        """True when every byte is known to be set."""
        return self._bits is None and self._uniform

    @property
    def empty(self) -> bool:
        """True when no byte is set (a mask that was partly set and cleared again may say False)."""
        return self._bits is None and not self._uniform

    def view(self, tensor: Tensor) -> NDArray[np.bool_]:
        """The bytes of `tensor` as a bool array (shape of the tensor, last axis times its bytes)."""
        bits = self._materialise()
        shape, strides, offset = tensor.byte_geometry(self.row_bytes)
        return np.ndarray(shape, _BOOL, bits.data, offset, strides)

    def set(self, tensor: Tensor, value: bool = True, taken: Taken = None) -> None:
        """Set the bytes that `tensor` covers (of the elements in `taken` only, if given)."""
        if self._bits is None and self._uniform == value:
            return
        if taken is not None:
            view = self._by_element(tensor)
            view[taken] = value
            if value:
                self._credit += _count(taken, tensor) * tensor.itemsize
                self._collapse()
            return
        if tensor.covers_storage:
            self._bits, self._uniform, self._credit = None, value, 0
            return
        self.view(tensor)[...] = value
        if value:
            self._credit += tensor.nbytes
            self._collapse()

    def all(self, tensor: Tensor, taken: Taken = None) -> bool:
        """Whether every byte that `tensor` covers (of the elements in `taken`) is set."""
        if self._bits is None:
            return self._uniform
        return bool((self.view(tensor) if taken is None else self._by_element(tensor)[taken]).all())

    def any(self, tensor: Tensor, taken: Taken = None) -> bool:
        """Whether at least one byte that `tensor` covers (of the elements in `taken`) is set."""
        if self._bits is None:
            return self._uniform
        return bool((self.view(tensor) if taken is None else self._by_element(tensor)[taken]).any())

    def elements(self, tensor: Tensor) -> NDArray[np.bool_]:
        """Per element of `tensor`: whether its first byte is set."""
        if self._bits is None:
            return np.broadcast_to(np.bool_(self._uniform), tensor.shape)
        view = self.view(tensor)
        return view.reshape(*tensor.shape, tensor.itemsize)[..., 0]

    def _by_element(self, tensor: Tensor) -> NDArray[np.bool_]:
        """The bytes of `tensor` as [*shape, bytes of an element]."""
        bits = self._materialise()
        shape, strides, offset = tensor.geometry(self.row_bytes)
        return np.ndarray((*shape, tensor.itemsize), _BOOL, bits.data, offset, (*strides, 1))

    def share(self) -> float:
        """Share of bytes that are set."""
        if self._bits is None:
            return 1.0 if self._uniform else 0.0
        return float(self._bits.mean())

    def rows(self) -> NDArray[np.bool_]:
        """The whole mask as a read-only [parts, row_bytes] array."""
        if self._bits is None:
            return np.broadcast_to(np.bool_(self._uniform), (self.parts, self.row_bytes))
        return self._bits.reshape(self.parts, self.row_bytes)

    def merge(self, row: int, byte: int, other: NDArray[np.bool_]) -> None:
        """Set the bytes of the rectangle at (row, byte) where `other` is set."""
        if self._bits is None and (self._uniform or not other.any()):
            return
        rows = self._materialise().reshape(self.parts, self.row_bytes)
        rows[row : row + other.shape[0], byte : byte + other.shape[1]] |= other

    def _materialise(self) -> NDArray[np.bool_]:
        if self._bits is None:
            make: Any = np.ones if self._uniform else np.zeros
            self._bits = make(self.parts * self.row_bytes, _BOOL)
        return self._bits

    def _collapse(self) -> None:
        if self._bits is None or self._credit < self._bits.size:
            return
        self._credit = 0
        if self._bits.all():
            self._bits, self._uniform = None, True


def _count(taken: Taken, tensor: Tensor) -> int:
    """How many elements an index takes, repeated ones counted each time."""
    if not isinstance(taken, tuple):
        return int(np.count_nonzero(taken))
    return math.prod(np.broadcast_shapes(*(np.shape(i) for i in taken))) * math.prod(tensor.shape[len(taken) :])
