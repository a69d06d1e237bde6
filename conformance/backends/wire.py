"""Messages between a run and its child process, over one socket that nothing else writes to.

A message is a pickle with its arrays out of band. Kernels travel by name: the child has an `nki` of its own, so
the object itself would be of no use to it. Standard output takes no part; a compiler may print what it likes.
"""

from __future__ import annotations

import importlib
import inspect
import io
import pickle
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from conformance.backends.errors import NotRun

#: In front of every message, so that a stray write is noticed instead of being read as a length.
_MAGIC = b"nkio"
_HEAD = struct.Struct("<4sI")
_LENGTH = struct.Struct("<Q")
#: How often a wait looks whether the other side still lives, seconds.
_GLANCE = 0.25


class CannotTravel(NotRun):
    """Something in a launch has no name under which another process could find it."""


class Closed(Exception):
    """The other side closed the socket, or speaks something else."""


class Late(Exception):
    """The deadline passed."""


def send(channel: socket.socket, message: Any, deadline: float) -> None:
    """Writes one message until `deadline` (of time.monotonic). Late, Closed, CannotTravel."""
    payload, buffers = pack(message)
    parts = [memoryview(payload), *buffers]
    head = _HEAD.pack(_MAGIC, len(parts)) + b"".join(_LENGTH.pack(part.nbytes) for part in parts)
    try:
        for part in (memoryview(head), *parts):
            channel.settimeout(max(deadline - time.monotonic(), 1e-3))
            channel.sendall(part)
    except TimeoutError:
        raise Late from None
    except OSError as error:
        raise Closed(str(error)) from None


def receive(channel: socket.socket, deadline: float, alive: Callable[[], bool] = lambda: True) -> Any:
    """Reads one message until `deadline`. Late; Closed where the other side ended, even if a process that it
    forked still holds the socket."""
    magic, count = _HEAD.unpack(_read(channel, _HEAD.size, deadline, alive))
    if magic != _MAGIC:
        raise Closed(f"the other side wrote {bytes(magic)!r}")
    lengths = [_LENGTH.unpack(_read(channel, _LENGTH.size, deadline, alive))[0] for _ in range(count)]
    payload, *buffers = [_read(channel, length, deadline, alive) for length in lengths]
    return pickle.loads(payload, buffers=buffers)


def pack(message: Any) -> tuple[bytes, list[memoryview]]:
    """The pickle of a message and the bytes of its arrays. CannotTravel names what cannot be pickled."""
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    try:
        _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(message)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise CannotTravel(f"the launch cannot be handed to another process: {error}") from None
    return stream.getvalue(), [buffer.raw() for buffer in buffers]


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type) or value is _named or not callable(value):
            return NotImplemented
        found = name_of(value)
        return NotImplemented if found is None else (_named, found)


def name_of(value: Any) -> tuple[str, str] | None:
    """(module, attribute) under which any process can import this very object, or None.

    A jitted kernel stands where its function stood; a kernel that was bound to another name is searched for in
    its module, and one that does not tell its function in every module: nothing but being callable is promised of it.
    """
    for source in (value, getattr(value, "__wrapped__", None), getattr(value, "func", None)):
        module = sys.modules.get(getattr(source, "__module__", None) or "")
        if module is None or module.__name__ == "__main__":
            continue
        name = getattr(source, "__qualname__", "")
        if name and _attribute(module, name) is value:
            return module.__name__, name
        if other := _bound_in(module, value):
            return module.__name__, other
    # A lambda or an inner function stands under no name; what else there is may be somebody's wrapper.
    return None if inspect.isroutine(value) else _searched(value)


def _searched(value: Any) -> tuple[str, str] | None:
    """Where any module holds an object; one that imports nki goes first, since kernels stand in such."""
    found: list[tuple[str, str]] = []
    for name, module in list(sys.modules.items()):
        if name != "__main__" and isinstance(module, ModuleType) and (other := _bound_in(module, value)):
            found.append((name, other))
    return min(found, key=lambda one: "nki" not in vars(sys.modules[one[0]]), default=None)


def _bound_in(module: ModuleType, value: Any) -> str:
    return next((name for name, held in list(vars(module).items()) if held is value), "")


def _attribute(holder: Any, path: str) -> Any:
    for name in path.split("."):
        holder = getattr(holder, name, None)
    return holder


def _named(module: str, path: str) -> Any:
    return _attribute(importlib.import_module(module), path)


def _read(channel: socket.socket, size: int, deadline: float, alive: Callable[[], bool]) -> bytearray:
    got = bytearray(size)
    view = memoryview(got)
    filled = 0
    while filled < size:
        _await(channel, deadline, alive)
        try:
            count = channel.recv_into(view[filled:])
        except OSError as error:
            raise Closed(str(error)) from None
        if count == 0:
            raise Closed("the other side closed the connection")
        filled += count
    return got


def _await(channel: socket.socket, deadline: float, alive: Callable[[], bool]) -> None:
    """Until there is something to read. Life is asked before the socket, so that a last message is not lost."""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Late
        lived = alive()
        if select.select([channel], [], [], min(left, _GLANCE) if lived else 0)[0]:
            return
        if not lived:
            raise Closed("the process ended")
