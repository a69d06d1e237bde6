"""The compile check that no compiler is at hand for: is a kernel inside the NKI subset of Python, and does it
call the API by its documented names and signatures?

`check_target("kernels/a.py")` or `check_target("kernels/a.py:kernel")` returns findings over the kernel and
all it reaches. What it cannot see: types, so that a method of an unknown object is held to the tensor's
signature only where the name is the tensor's own; and what a call does (the simulator sees that).
"""

from tools.kernel_lint.check import Finding, check_target, check_targets

__all__ = ["Finding", "check_target", "check_targets"]
