"""Messages to a child process arrive whole, kernels by name; silence and nonsense are noticed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from conformance.backends import wire
from conformance.tests.suite import scaled_add_nki
from kernels.attention_tkg import AttnTKGConfig
from kernels.common_types import QuantizationType

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def _soon(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


def _through(pair: Pair, message: Any) -> Any:
    sender = threading.Thread(target=wire.send, args=(pair[0], message, _soon()))
    sender.start()
    got = wire.receive(pair[1], _soon())
    sender.join()
    return got


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(600_000, dtype=np.uint8),
        np.arange(24, dtype=np.int32).reshape(4, 6)[::2, ::3],
        np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
        np.array(3.5, ml_dtypes.bfloat16),
        np.array([np.nan, -0.0, 240], ml_dtypes.float8_e4m3),
        np.empty((0, 4), ml_dtypes.float8_e4m3fn),
    ],
    ids=lambda array: f"{array.dtype}-{'x'.join(map(str, array.shape))}",
)
def test_arrays_keep_dtype_shape_and_bytes_and_may_be_written(pair: Pair, array: np.ndarray[Any, Any]) -> None:
    got = _through(pair, {"x": array})["x"]
    assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())
    got[...] = 1


def test_kernels_travel_by_name_and_arguments_by_value(pair: Pair) -> None:
    message = (scaled_add_nki.scaled_add, QuantizationType.ROW, AttnTKGConfig(bs=4), ((1, 2), None), "bfloat16")
    kernel, kind, config, shapes, dtype = _through(pair, message)
    assert kernel is scaled_add_nki.scaled_add
    assert kind is QuantizationType.ROW
    assert config.bs == 4
    assert (shapes, dtype) == (((1, 2), None), "bfloat16")


def test_a_kernel_bound_to_another_name_is_found_by_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = scaled_add_nki.nki.jit(lambda a: a)
    assert wire.name_of(kernel) is None
    kernel.func.__module__ = scaled_add_nki.__name__
    monkeypatch.setattr(scaled_add_nki, "another", kernel, raising=False)
    object.__setattr__(kernel, "__module__", scaled_add_nki.__name__)
    assert wire.name_of(kernel) == (scaled_add_nki.__name__, "another")


class _Opaque:
    """A wrapper that tells nothing of its function."""

    __slots__ = ()

    def __call__(self) -> None:
        """Nothing."""


def test_a_kernel_that_does_not_tell_its_function_is_found_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = _Opaque()
    assert wire.name_of(kernel) is None
    monkeypatch.setattr(wire, "held_by_an_importer", kernel, raising=False)
    assert wire.name_of(kernel) == (wire.__name__, "held_by_an_importer")
    monkeypatch.setattr(scaled_add_nki, "opaque", kernel, raising=False)
    assert wire.name_of(kernel) == (scaled_add_nki.__name__, "opaque")
    # The twin: an equal object of the same class is another one.
    assert wire.name_of(_Opaque()) is None


def test_a_kernel_without_a_name_cannot_travel_and_nothing_is_sent(pair: Pair) -> None:
    with pytest.raises(wire.CannotTravel, match="cannot be handed to another process"):
        wire.send(pair[0], (lambda a: a,), _soon())
    pair[1].settimeout(0)
    with pytest.raises(BlockingIOError):
        pair[1].recv(1)


def test_silence_is_late(pair: Pair) -> None:
    with pytest.raises(wire.Late):
        wire.receive(pair[1], _soon(0.05))


def test_a_message_that_nobody_reads_is_late(pair: Pair) -> None:
    with pytest.raises(wire.Late):
        wire.send(pair[0], np.zeros(10_000_000, np.uint8), _soon(0.05))


def test_a_closed_socket_is_told_from_silence(pair: Pair) -> None:
    pair[0].close()
    with pytest.raises(wire.Closed):
        wire.receive(pair[1], _soon())


def test_a_process_that_ended_is_noticed_while_another_holds_its_socket(pair: Pair) -> None:
    with pytest.raises(wire.Closed, match="the process ended"):
        wire.receive(pair[1], _soon(), alive=lambda: False)


def test_the_last_words_of_a_process_that_ended_are_read(pair: Pair) -> None:
    wire.send(pair[0], "last", _soon())
    assert wire.receive(pair[1], _soon(), alive=lambda: False) == "last"


def test_a_stray_write_is_not_read_as_a_message(pair: Pair) -> None:
    pair[0].sendall(b"[INFO] compiling\n")
    with pytest.raises(wire.Closed, match="the other side wrote"):
        wire.receive(pair[1], _soon())
