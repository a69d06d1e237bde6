"""One golden file: named arrays as a safetensors file whose bytes depend on nothing but their content.

safetensors knows float8_e4m3 not at all and no type of ml_dtypes, so every tensor is stored as the
unsigned integers that hold its bits, and the dtype each stands for is written as sorted JSON under
the one metadata key `dtypes`. One key, because the order of several is not fixed by the library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

DTYPES = "dtypes"

#: Storage dtypes of the project by name. `np.dtype(name)` does not know the ones of ml_dtypes.
STORAGE: Mapping[str, np.dtype[Any]] = {
    np.dtype(one).name: np.dtype(one)
    for one in (
        np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
        np.float16, np.float32, np.float64,
        ml_dtypes.bfloat16, ml_dtypes.float8_e3m4, ml_dtypes.float8_e4m3, ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu, ml_dtypes.float4_e2m1fn,
    )
}  # fmt: skip


class GoldenFileError(ValueError):
    """A golden file that cannot be read; the message is one line and does not name the file."""


def encode(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The file's bytes; NaN payloads, signs of zero, shapes () and sizes 0 are kept as they are.

    TypeError names an array whose dtype is no storage dtype of the project.
    """
    names = {name: _dtype_name(name, array) for name, array in arrays.items()}
    bits = {name: _as_bits(array) for name, array in arrays.items()}
    return safetensors.numpy.save(bits, metadata={DTYPES: json.dumps(names, sort_keys=True)})


def decode(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays that `encode` turned into `data`; GoldenFileError for anything else."""
    try:
        names = _logical_dtypes(data)
        bits = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise GoldenFileError(f"no golden file: {' '.join(str(error).split())}") from None
    if set(names) != set(bits):
        raise GoldenFileError(f"tensors {sorted(bits)} but dtypes for {sorted(names)}")
    return {name: _from_bits(name, bits[name], names[name]) for name in sorted(bits)}


def _dtype_name(name: str, array: NDArray[Any]) -> str:
    if STORAGE.get(array.dtype.name) != array.dtype:
        raise TypeError(f"golden array '{name}' is {array.dtype}; known: {', '.join(STORAGE)}")
    return array.dtype.name


def _as_bits(array: NDArray[Any]) -> NDArray[Any]:
    # asarray, not ascontiguousarray: the latter makes a vector of a scalar.
    return np.asarray(array, order="C").view(f"u{array.dtype.itemsize}")


def _logical_dtypes(data: bytes) -> dict[str, str]:
    # The library returns metadata only for files on disk; the header is 8 bytes of length, then JSON.
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    names = json.loads(header["__metadata__"][DTYPES])
    if not isinstance(names, dict):
        raise TypeError(f"metadata key '{DTYPES}' holds no object")
    return names


def _from_bits(name: str, bits: NDArray[Any], logical: str) -> NDArray[Any]:
    dtype = STORAGE.get(logical)
    if dtype is None or bits.dtype != np.dtype(f"u{dtype.itemsize}"):
        raise GoldenFileError(f"tensor '{name}' is stored as {bits.dtype}, which holds no {logical}")
    return bits.view(dtype)
