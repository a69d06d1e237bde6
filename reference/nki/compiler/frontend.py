"""nki.compiler.frontend."""

from .absent import Absent


class NKIFrontend(Absent):
    """The tracing front end."""


class ParserFrontend(Absent):
    """The parsing front end."""


__all__ = ["NKIFrontend", "ParserFrontend"]
