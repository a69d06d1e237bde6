"""nki.experimental: names that have since moved."""

from .language import while_loop

__all__ = ["while_loop"]
