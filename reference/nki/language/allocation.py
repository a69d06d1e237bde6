"""Tensors made by nki.language: fresh tiles, filled tiles, constants."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from reference.neuroncore import tile_math as machine
from reference.neuroncore.errors import MachineWarning
from reference.neuroncore.instruction import kernel_location
from reference.neuroncore.launch import current_core
from reference.neuroncore.tensor import Tensor, dtype_of

from .types import region, sbuf


class _TensorType(type):
    """Instances of nl.ndarray are tensors."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor)


class ndarray(metaclass=_TensorType):
    """nl.ndarray(shape, dtype, buffer=nl.sbuf, name='', address=None): a fresh tensor, its bytes unwritten.

    On chip shape[0] is the partition axis and two axes are the least; `address` = (partition, byte) places
    the tile (bytes per partition; PSUM bank b starts at 2048 b) and is ignored in HBM. A class, so that
    annotations such as `nl.ndarray | None` work; calling it gives an NkiTensor.
    """

    def __new__(  # type: ignore[misc]
        cls, shape: Any, dtype: Any, buffer: Any = sbuf, name: str | None = "", address: Any = None
    ) -> Tensor:
        where = region(sbuf if buffer is None else buffer)
        if isinstance(buffer, str):
            warnings.warn(f"buffer={buffer!r}: write nl.{where.name}", MachineWarning, stacklevel=2)
        place = None if address is None or not where.on_chip else (int(address[0]), int(address[1]))
        file, line = kernel_location()
        return current_core().allocate(shape, dtype, where, name, place, f"{file}:{line}")


def _new(shape: Any, dtype: Any, buffer: Any, name: str | None) -> Tensor:
    return ndarray(shape, dtype, buffer, name)


def full(shape: Any, fill_value: Any, dtype: Any, buffer: Any = sbuf, name: str | None = "") -> Tensor:
    """A fresh tensor with every element `fill_value`, rounded to `dtype`."""
    tensor = _new(shape, dtype, buffer, name)
    machine.fill(tensor, fill_value)
    return tensor


def zeros(shape: Any, dtype: Any, buffer: Any = sbuf, name: str | None = "") -> Tensor:
    """A fresh tensor of zeros."""
    return full(shape, 0, dtype, buffer, name)


def ones(shape: Any, dtype: Any, buffer: Any = sbuf, name: str | None = "") -> Tensor:
    """A fresh tensor of ones."""
    return full(shape, 1, dtype, buffer, name)


def zeros_like(x: Tensor, dtype: Any = None, buffer: Any = None, name: str | None = "") -> Tensor:
    """Zeros of x's shape, in SBUF unless `buffer` says otherwise."""
    return zeros(x.shape, x.dtype if dtype is None else dtype, sbuf if buffer is None else buffer, name)


def empty_like(x: Tensor, dtype: Any = None, buffer: Any = None, name: str | None = "") -> Tensor:
    """A fresh tensor of x's shape, in x's memory unless `buffer` says otherwise."""
    return _new(x.shape, x.dtype if dtype is None else dtype, x.buffer if buffer is None else buffer, name)


def rand(shape: Any, dtype: Any, buffer: Any = sbuf, name: str | None = "") -> Tensor:
    """Pseudo-random numbers in [0, 1), reproducible from `random_seed`; the stream of the hardware is not
    public."""
    tensor = _new(shape, dtype, buffer, name)
    machine.fill_random(tensor)
    return tensor


def random_seed(seed: Tensor) -> None:
    """Seed the generator of this core from a (1, 1) tensor of 32 bits."""
    machine.random_seed(seed)


def shared_constant(constant: Any, dtype: Any = None) -> Tensor:
    """An HBM tensor that holds a NumPy array, or the array in a .npy file named by its path.

    The array's dtype must be an NKI dtype; `dtype` (up to 0.2 and since 0.4 not needed) converts it first.
    """
    if isinstance(constant, (str, os.PathLike)):
        constant = np.load(constant, allow_pickle=False)
    return current_core().launch.constant(np.asarray(constant), None if dtype is None else dtype_of(dtype))


def shared_identity_matrix(n: int, dtype: Any = "uint8", dst: Tensor | None = None) -> Tensor:
    """The n x n identity in SBUF; with `dst`, written there."""
    tensor = _new((n, n), dtype, sbuf, "") if dst is None else dst
    machine.fill_identity(tensor)
    return tensor
