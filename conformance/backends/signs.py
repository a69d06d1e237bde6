"""By which signs an exception of somebody else's compiler or runtime is sorted into a status.

The official packages promise no exception classes, so names of classes and words of messages have to do. What no
row fits is 'crashed', never something milder.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sign:
    """Status of an exception whose classes and message `pattern` is found in."""

    status: str
    pattern: str
    source: str


#: The first row that fits decides, so narrow ones stand first.
SIGNS = (
    Sign("refused", r"Kernel validation exception", "prefix of every refusal of the public library's kernels"),
    Sign("refused", r"\bKernelArgumentError\b", "this project's refusals, raised in another process"),
    Sign("violation", r"\bNkiValidationError\b", "nki.isa: the class for violated hardware constraints"),
    Sign("timed-out", r"\bNRT_TIMEOUT\b", "nrt_status.h: status 5"),
    Sign(
        "died",
        r"\bNRT_(HW_ERROR|EXEC_UNIT_UNRECOVERABLE|EXEC_HW_ERR_\w+|UNINITIALIZED|CLOSED)\b",
        "nrt_status.h: the device, or the runtime's hold on it, is gone",
    ),
    Sign("crashed", r"\bNRT_[A-Z]\w+\b", "nrt_status.h: every other status of the runtime"),
    Sign("compile-failed", r"\bNCC_[A-Z]+\d+\b", "error codes of the compiler's reference pages"),
    Sign("compile-failed", r"(?i)compil\w*(error|exception|failure)\b", "a class named for compiling"),
    Sign("compile-failed", r"(?i)\bcompil\w+ (error|failed|failure)\b", "a message about compiling"),
    Sign("compile-failed", r"(?i)\bCalledProcessError\b.*neuronx?-?cc", "the compiler is a program of its own"),
)


def status_of(error: BaseException, package: Path | None = None) -> str:
    """The status that an exception stands for; its causes are asked too, the outermost first.

    An AssertionError raised inside `package` (the folder of the official nki) is a violated rule: most checks of
    its simulator raise that class.
    """
    for one in _chain(error):
        text = _text(one)
        for sign in SIGNS:
            if re.search(sign.pattern, text):
                return sign.status
        if package is not None and isinstance(one, AssertionError) and _raised_in(one, package):
            return "violation"
    return "crashed"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _text(error: BaseException) -> str:
    kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
    return f"{kinds}: {error}"


def _raised_in(error: BaseException, package: Path) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(package)
