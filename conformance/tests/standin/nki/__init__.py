"""The stand-in: names of the embedded machine's `nki`, but kernels are launched as `play` says."""

import os

if "NKI_ORACLE_STAND_IN" not in os.environ:
    raise ImportError("this nki is the stand-in of nki-oracle's own tests; it runs where NKI_ORACLE_STAND_IN says so")

from reference.dropin import HOME

# isa.py beside this file is there to be found, never imported: the machine's modules come first.
__path__.insert(0, str(HOME))

from nki import (  # noqa: E402  (found through the path that was put first)
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
from nki.play import Kernel, jit, simulate  # noqa: E402  (likewise)

STAND_IN = True
__version__ = "0.6.0+stand-in"

__all__ = [
    "STAND_IN",
    "Kernel",
    "collectives",
    "compiler",
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
