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
from types import MappingProxyType


@dataclass(frozen=True)
class Sign:
    """Status of an exception whose classes and message `pattern` is found in."""

    status: str
    pattern: str
    source: str


#: The runtime's statuses by number: "Failed to execute the model status=1003" names none.
NRT_NAMES = MappingProxyType(
    {
        1: "NRT_FAILURE",
        2: "NRT_INVALID",
        3: "NRT_INVALID_HANDLE",
        4: "NRT_RESOURCE",
        5: "NRT_TIMEOUT",
        6: "NRT_HW_ERROR",
        7: "NRT_QUEUE_FULL",
        9: "NRT_LOAD_NOT_ENOUGH_NC",
        10: "NRT_UNSUPPORTED_NEFF_VERSION",
        11: "NRT_FAIL_HOST_MEM_ALLOC",
        13: "NRT_UNINITIALIZED",
        14: "NRT_CLOSED",
        15: "NRT_QUEUE_EMPTY",
        101: "NRT_EXEC_UNIT_UNRECOVERABLE",
        1002: "NRT_EXEC_BAD_INPUT",
        1003: "NRT_EXEC_COMPLETED_WITH_NUM_ERR",
        1004: "NRT_EXEC_COMPLETED_WITH_ERR",
        1005: "NRT_EXEC_NC_BUSY",
        1006: "NRT_EXEC_OOB",
        1100: "NRT_COLL_PENDING",
        1200: "NRT_EXEC_HW_ERR_COLLECTIVES",
        1201: "NRT_EXEC_HW_ERR_HBM_UE",
        1202: "NRT_EXEC_HW_ERR_NC_UE",
        1203: "NRT_EXEC_HW_ERR_DMA_ABORT",
        1204: "NRT_EXEC_SW_NQ_OVERFLOW",
        1205: "NRT_EXEC_HW_ERR_REPAIRABLE_HBM_UE",
        1206: "NRT_NETWORK_PROXY_FAILURE",
    }
)
#: The status that a program ends with is none of the runtime's, and a compiler's is told without these words.
_NUMBERED = re.compile(r"(?is)\b(?:nrt|execut|load)\w*\b.*?(?<!exit )\bstatus(?:[ _]code)?\s*[:=]?\s*(\d+)\b")

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
    Sign(
        "not-run",
        r"\bNRT_(RESOURCE|QUEUE_FULL|LOAD_NOT_ENOUGH_NC|FAIL_HOST_MEM_ALLOC|EXEC_NC_BUSY)\b",
        "nrt_status.h: cores or memory are not to be had, another process holds them",
    ),
    Sign("not-run", r"NeuronCore\(s\) not available", "troubleshooting of the runtime: Neuron Core is in use"),
    Sign("not-run", r"(?i)\bnrt_init\b.*\bfail|\bfail\w*\b.*\bnrt_init\b", "troubleshooting: no runtime starts"),
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
    numbers = (int(one) for one in _NUMBERED.findall(str(error)))
    return " ".join([f"{kinds}: {error}", *(NRT_NAMES[one] for one in numbers if one in NRT_NAMES)])


def _raised_in(error: BaseException, package: Path) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(package)
