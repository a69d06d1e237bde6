"""Whether an exception was raised while a front end traced a kernel: the kernel's own code is on the stack then.

On a device no line of a kernel runs as Python but for its specialisation, so nothing was launched.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

from conformance.backends.wire import name_of

#: What Python itself raises where a kernel asks for what this version of the package does not have, or does not take.
PLAIN = (AttributeError, ImportError, NameError, NotImplementedError, SyntaxError, TypeError)


def was_tracing(error: BaseException, kernel: Any, package: Path | None) -> bool:
    """Whether a plain exception, caught where a launch was called, passed through code of the kernel's module or its
    own package. `package` is the folder of nki, which is none of that.

    An assertion is the kernel's own word, and whatever classes a compiler has are told by their names (signs.py).
    """
    if not isinstance(error, PLAIN):
        return False
    homes = _homes(kernel)
    # The first frame is that of the caller.
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)[1:]]
    own = [file for file in files if package is None or not file.is_relative_to(package)]
    return any(file.is_relative_to(home) for file in own for home in homes)


def _homes(kernel: Any) -> list[Path]:
    """The folder of the kernel's package, or the file of a module that stands alone."""
    named = name_of(kernel)
    top = sys.modules.get(named[0].partition(".")[0]) if named else None
    if top is None:
        return []
    return [Path(one) for one in getattr(top, "__path__", [])] or [Path(str(top.__file__))]
