"""What can execute a kernel, and whether it can here."""

from conformance.backends.detection import BACKENDS, Availability, available, backend

__all__ = ["BACKENDS", "Availability", "available", "backend"]
