"""torch tensors as arguments and results, where torch is installed. Bits are kept, also of bf16 and fp8.

torch is never imported here: a caller that passes a tensor has it loaded.
"""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .errors import MachineError

#: torch dtypes without a NumPy twin, by name: the type of their bits in both worlds.
_BITS = {
    "bfloat16": ("int16", ml_dtypes.bfloat16),
    "float8_e4m3fn": ("uint8", ml_dtypes.float8_e4m3fn),
    "float8_e5m2": ("uint8", ml_dtypes.float8_e5m2),
    "float8_e8m0fnu": ("uint8", ml_dtypes.float8_e8m0fnu),
}
#: torch dtypes whose name NKI spells otherwise.
_NAMES = {"bool": "bool_", "half": "float16", "float": "float32"}


def is_torch(value: Any) -> bool:
    """Whether `value` is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def torch_dtype_name(value: Any) -> str | None:
    """The dtype name of a torch tensor, None for anything else."""
    if not is_torch(value):
        return None
    name = str(value.dtype).removeprefix("torch.")
    return _NAMES.get(name, name)


def to_numpy(value: Any) -> NDArray[Any]:
    """The memory of a CPU torch tensor as a NumPy array in the ml_dtypes twin of its dtype; nothing is
    copied."""
    if value.device.type != "cpu":
        raise MachineError("argument.torch", f"a tensor on {value.device}", remedy="pass tensor.cpu()")
    torch = sys.modules["torch"]
    tensor = value.detach()
    name = str(value.dtype).removeprefix("torch.")
    if name not in _BITS:
        array: NDArray[Any] = tensor.numpy()
        return array
    bits, dtype = _BITS[name]
    return np.asarray(tensor.view(getattr(torch, bits)).numpy().view(dtype))


def as_torch(array: NDArray[Any], dtype: str) -> Any:
    """A NumPy result as a torch tensor of the same dtype; float8_e4m3, which torch lacks, as its bytes
    (uint8)."""
    torch = sys.modules["torch"]
    contiguous = np.ascontiguousarray(array)
    if dtype in _BITS:
        bits, _ = _BITS[dtype]
        return torch.from_numpy(contiguous.view(bits)).view(getattr(torch, dtype))
    if dtype == "bool_":
        contiguous = contiguous != 0
    if dtype == "float8_e4m3":
        contiguous = contiguous.view(np.uint8)
    return torch.from_numpy(contiguous)
