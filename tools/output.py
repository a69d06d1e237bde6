"""Where commands print to."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from conformance.versions import versions
from tools.errors import BadInput

#: Into a pipe or a file there is no window; tables then take the width they need.
_PIPE_WIDTH = 160


def console() -> Console:
    """The console of results, on stdout; made anew so that it follows a redirected stdout."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(width=width)


def note(remark: str) -> None:
    """A line beside the results; nothing for ''."""
    if remark:
        console().print(remark, markup=False, highlight=False, soft_wrap=True)


def require_folder(path: Path | None) -> None:
    """BadInput where a file could not be created for want of its folder; asked before long work."""
    if path is not None and not path.absolute().parent.is_dir():
        raise BadInput(f"cannot write {path}: there is no such folder")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a document as JSON to a file, or to stdout for '-'; NaN and Inf become strings. What a command found is
    worth little without the versions it found it with, so they are always told."""
    if "command" in document and "versions" not in document:
        document = {**document, "versions": versions()}
    text = json.dumps(_plain(document), indent=1, allow_nan=False) + "\n"
    if path == Path("-"):
        sys.stdout.write(text)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return repr(value)
    return value
