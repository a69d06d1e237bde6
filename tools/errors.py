"""What a command reports in one line on stderr instead of a traceback."""

from __future__ import annotations


class BadInput(Exception):
    """What was asked for cannot be done; exit code 2. The message says what, and what would work."""
