"""nki.compiler: the names that callers import. Nothing compiles here; kernels run in the simulator."""

from . import frontend, kernel_builder, ncc_driver, target

__all__ = ["frontend", "kernel_builder", "ncc_driver", "target"]
