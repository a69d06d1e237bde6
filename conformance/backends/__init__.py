"""What can execute a kernel, and whether it can here.

sim      the embedded machine, in this process
nki-sim  the official simulator, in a child process
trn2     a Trainium2 through the official package, in a child process; trn3 likewise
"""

from conformance.backends.availability import Availability
from conformance.backends.child import TIME_LIMIT
from conformance.backends.detection import BACKENDS, available, backend, in_child, is_hardware

__all__ = ["BACKENDS", "TIME_LIMIT", "Availability", "available", "backend", "in_child", "is_hardware"]
