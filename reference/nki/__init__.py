"""A drop-in `nki`: the public NKI API over the embedded simulator.

Loaded under the name `nki` only where no official `nki` (one that has `nki.isa`) is installed.
"""

from . import (
    collectives,
    compiler,
    dtype,
    experimental,
    framework,
    isa,
    language,
    meta,
    runtime,
    tensor,
    typing,
)
from .kernel import Kernel, jit, simulate

#: Name under which an older harness asks for the simulator.
cpu_simulate = simulate

__version__ = "0.6.0+oracle"

__all__ = [
    "Kernel",
    "__version__",
    "collectives",
    "compiler",
    "cpu_simulate",
    "dtype",
    "experimental",
    "framework",
    "isa",
    "jit",
    "language",
    "meta",
    "runtime",
    "simulate",
    "tensor",
    "typing",
]
