"""A small bench for single instructions: launch a function, move arrays in and out, read what was refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import reference  # noqa: F401 - makes `import nki` work
from reference.neuroncore.errors import MachineError
from reference.neuroncore.launch import Result
from reference.neuroncore.options import Options

import nki  # isort: skip
import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

TARGETS = {"gen2": "trn1", "gen3": "trn2", "gen4": "trn3"}


@contextlib.contextmanager
def target(generation: str) -> Iterator[None]:
    """Launches inside run on that generation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", TARGETS[generation])
        yield


def launch(
    function: Callable[..., Any],
    *args: Any,
    cores: int = 1,
    generation: str = "gen3",
    options: Options | None = None,
    **kwargs: Any,
) -> Result:
    """Run `function` as a kernel; outputs and trace."""
    with target(generation):
        return nki.jit(function)[cores].launch(args, kwargs, options or Options())


def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run `function` as a kernel; its outputs."""
    return launch(function, *args, **kwargs).outputs


def refusal(function: Callable[..., Any], *args: Any, **kwargs: Any) -> MachineError:
    """The rule that stops `function`."""
    with pytest.raises(MachineError) as caught:
        run(function, *args, **kwargs)
    return caught.value


def tile(source: Any, dtype: Any = None, buffer: Any = None, shape: Any = None) -> Any:
    """Inside a kernel: an SBUF tile with the content of an HBM tensor of the same dtype."""
    result = nl.ndarray(
        source.shape if shape is None else shape, source.dtype if dtype is None else dtype, nl.sbuf
    )
    nisa.dma_copy(result, source)
    return result


def out(source: Any, dtype: Any = None) -> Any:
    """Inside a kernel: an HBM output with the content of a tile; PSUM goes through SBUF."""
    if source.buffer is nl.psum:
        copy = nl.ndarray(source.shape, source.dtype, nl.sbuf)
        nisa.tensor_copy(copy, source)
        source = copy
    result = nl.ndarray(source.shape, source.dtype if dtype is None else dtype, nl.shared_hbm)
    nisa.dma_copy(result, source)
    return result


def bits(array: Any) -> NDArray[Any]:
    """The bit patterns of an array."""
    values = np.ascontiguousarray(array)
    return values.view(f"u{values.dtype.itemsize}")
