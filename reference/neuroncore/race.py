"""Races between the two cores on HBM bytes.

Between two barriers a byte may be read by both cores, or be touched by one. As soon as a shared tensor is written,
one flag byte per byte of it says who read and who wrote it since the last barrier; reads from before the first write
are kept as patterns until then, so that read-only weights cost nothing.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .bytemask import Taken
from .errors import RaceError

if TYPE_CHECKING:
    from .memory import Storage
    from .tensor import Tensor
    from .trace import Instruction

#: Flag bits: core c wrote = 1 << c, core c read = 4 << c.
_WROTE, _READ = 1, 4


@dataclass(frozen=True)
class Access:
    """One access to a shared storage since the last barrier."""

    instruction: Instruction
    tensor: Tensor
    writes: bool
    taken: Taken = None


class RaceDetector:
    """Byte-exact conflict detection for one launch of two cores."""

    def __init__(self) -> None:
        self._accesses: dict[int, list[Access]] = {}
        self._flags: dict[int, NDArray[np.uint8]] = {}
        self._storages: dict[int, weakref.ref[Storage]] = {}

    def barrier(self) -> None:
        """Order everything before against everything after."""
        self._accesses.clear()
        self._flags.clear()

    def access(self, tensor: Tensor, instruction: Instruction, writes: bool, taken: Taken = None) -> None:
        """Note an access of `instruction.core`; RaceError when it conflicts with the other core's."""
        key = id(tensor.storage)
        log = self._accesses.setdefault(key, [])
        log.append(Access(instruction, tensor, writes, taken))
        flags = self._flags.get(key)
        if flags is None:
            if not writes:
                return
            flags = self._flags[key] = np.zeros(tensor.storage.row_bytes, np.uint8)
            for earlier in log[:-1]:
                _mark(earlier, flags)
        view = _flag_view(tensor, flags)
        other = 1 - instruction.core
        enemy = (_WROTE << other) | ((_READ << other) if writes else 0)
        if (view[_chosen(log[-1])] & enemy).any():
            self._report(log, enemy)
        _mark(log[-1], flags)

    def _report(self, log: list[Access], enemy: int) -> None:
        current = log[-1]
        culprit = next(a for a in log if a.instruction.core != current.instruction.core and _share(a, current))
        kinds = " and ".join("writes" if a.writes else "reads" for a in (current, culprit))
        raise RaceError(
            "race",
            f"both cores touch the same bytes of {current.tensor.storage.label()} between barriers ({kinds}): "
            f"{current.instruction} and {culprit.instruction}",
            remedy="put nisa.core_barrier between them or let each core write its own part",
        )


def _bit(access: Access) -> int:
    return (_WROTE if access.writes else _READ) << access.instruction.core


def _chosen(access: Access) -> Any:
    return ... if access.taken is None else access.taken


def _mark(access: Access, flags: NDArray[np.uint8]) -> None:
    view = _flag_view(access.tensor, flags)
    view[_chosen(access)] |= np.uint8(_bit(access))


def _flag_view(tensor: Tensor, flags: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The flags of a tensor's bytes, [*shape, bytes of an element]."""
    shape, strides, offset = tensor.geometry(tensor.storage.row_bytes)
    return np.ndarray((*shape, tensor.itemsize), np.uint8, flags.data, offset, (*strides, 1))


def _share(earlier: Access, current: Access) -> bool:
    if not (earlier.writes or current.writes):
        return False
    marks = np.zeros(current.tensor.storage.row_bytes, np.uint8)
    _flag_view(earlier.tensor, marks)[_chosen(earlier)] = 1
    return bool(_flag_view(current.tensor, marks)[_chosen(current)].any())
