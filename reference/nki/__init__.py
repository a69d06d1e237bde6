"""A drop-in `nki`: the public NKI API over the embedded simulator.

Loaded under the name `nki` only where no official `nki` (one that has `nki.isa`) is installed.
"""

from nki import isa, language
from nki.kernel import Kernel, jit, simulate

__version__ = "0.6.0+oracle"

__all__ = ["Kernel", "__version__", "isa", "jit", "language", "simulate"]
