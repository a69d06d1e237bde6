"""Claim: nc_stream_shuffle moves the bits of partitions within quadrants as its mask says, and 255 keeps the old."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.bench import bits
from conformance.tests.machine.tiles import NUMERIC, Array, assert_same, execute, host, refused

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

IDENTITY = list(range(32))


def raw(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Arbitrary bit patterns."""
    itemsize = host(dtype).itemsize
    data = np.random.default_rng(seed).integers(0, 256, (*shape[:-1], shape[-1] * itemsize), np.uint8)
    return data.view(host(dtype))


def shuffled(source: Any, old: Any, mask: Any, **options: Any) -> Array:
    array, dtype = old if isinstance(old, tuple) else (old, old.dtype)
    return execute(
        lambda t: nisa.nc_stream_shuffle(t.dst, t.src, mask),
        {"src": source, "dst": (array, dtype)},
        {"dst": (array.shape, str(dtype))},
        **options,
    )["dst"]


def expected_of(source: Array, old: Array, mask: list[int]) -> Array:
    result = old.copy()
    for partition in range(len(old)):
        entry = mask[partition % 32]
        if entry != 255:
            result[partition] = source[partition // 32 * 32 + entry].reshape(result[partition].shape)
    return result


@pytest.mark.parametrize("dtype", NUMERIC)
@pytest.mark.parametrize("psum", [(), ("src",), ("dst",), ("src", "dst")])
def test_bits_move_within_quadrants(dtype: str, psum: tuple[str, ...]) -> None:
    source, old = raw(dtype, (128, 3), 1), raw(dtype, (128, 3), 2)
    mask = np.random.default_rng(3).permutation(32).tolist()
    got = shuffled((source, dtype), (old, dtype), mask, psum=psum)
    assert (bits(got) == bits(expected_of(source, old, mask))).all()


def test_255_keeps_the_destination() -> None:
    source = np.arange(5, 37, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
    got = shuffled(source, np.full((32, 2), -1, np.float32), [0] * 31 + [255])
    assert (got[:31] == 5).all()
    assert (got[31] == -1).all()


def test_everything_kept_changes_nothing() -> None:
    old = raw("bfloat16", (64, 4))
    assert (bits(shuffled(raw("bfloat16", (64, 4), 1), old, [255] * 32)) == bits(old)).all()


def test_in_place_reads_all_partitions_first() -> None:
    data = np.arange(64, dtype=np.float32)[:, None]
    mask = [31 - i for i in range(32)]
    got = execute(lambda t: nisa.nc_stream_shuffle(t.x, t.x, mask), {"x": data}, {"x": ((64, 1), "float32")})["x"]
    assert_same(got, expected_of(data, data, mask))


@pytest.mark.parametrize("count", [1, 7, 32])
def test_one_partition_is_broadcast(count: int) -> None:
    source = raw("float32", (1, 6))
    got = execute(
        lambda t: nisa.nc_stream_shuffle(t.dst, t.src, [0] * 32), {"src": source}, {"dst": ((count, 6), "float32")}
    )["dst"]
    assert (bits(got) == bits(np.repeat(source, count, axis=0))).all()


def test_source_and_destination_may_lie_in_different_quadrants() -> None:
    data = np.arange(128, dtype=np.float32)[:, None]
    got = execute(
        lambda t: nisa.nc_stream_shuffle(t.x[64:96], t.x[32:64], IDENTITY[::-1]),
        {"x": data},
        {"x": ((128, 1), "float32")},
    )["x"]
    expected = data.copy()
    expected[64:96] = data[63:31:-1]
    assert_same(got, expected)


def test_partitions_that_are_not_moved_need_not_be_written() -> None:
    def program(t: Any) -> None:
        source = nl.ndarray((32, 2), nl.float32, nl.sbuf)
        nisa.memset(source[0:1], 3)
        nisa.nc_stream_shuffle(t.dst, source, [0] * 32)

    got = execute(program, {}, {"dst": ((32, 2), "float32")})["dst"]
    assert (got == 3).all()

    def moves_too_much(t: Any) -> None:
        source = nl.ndarray((32, 2), nl.float32, nl.sbuf)
        nisa.memset(source[0:1], 3)
        nisa.nc_stream_shuffle(t.dst, source, [0] * 31 + [1])

    assert refused(moves_too_much, {}, {"dst": ((32, 2), "float32")}).rule == "memory.unwritten"


def test_partitions_that_are_kept_stay_unwritten() -> None:
    mask = [0] * 16 + [255] * 16
    source = {"src": np.ones((32, 2), np.float32)}
    outputs = {"dst": ((32, 2), "float32")}
    assert refused(lambda t: nisa.nc_stream_shuffle(t.dst, t.src, mask), source, outputs).rule == "memory.unwritten"


@pytest.mark.parametrize(
    ("source", "target", "start", "mask", "dtype", "rule"),
    [
        ((32, 2), (32, 2), 0, IDENTITY[:31], "float32", "shuffle.mask"),
        ((32, 2), (32, 2), 0, [*IDENTITY[:31], 32], "float32", "shuffle.mask"),
        ((32, 2), (32, 2), 0, [*IDENTITY[:31], -1], "float32", "shuffle.mask"),
        ((32, 2), (32, 2), 0, [*IDENTITY[:31], 0.5], "float32", "shuffle.mask"),
        ((1, 2), (32, 2), 0, IDENTITY, "float32", "shuffle.mask"),
        ((32, 2), (64, 2), 0, IDENTITY, "float32", "shuffle.mask"),
        ((32, 2), (32, 2), 0, IDENTITY, "int32", "operand.dtype"),
        ((32, 2), (32, 3), 0, IDENTITY, "float32", "operand.shape"),
        ((64, 2), (64, 2), 32, IDENTITY, "float32", "partition.start"),
        ((96, 2), (96, 2), 32, IDENTITY, "float32", "partition.start"),
    ],
)
def test_shuffle_refuses(source: Any, target: Any, start: int, mask: Any, dtype: str, rule: str) -> None:
    def program(t: Any) -> None:
        whole = nl.ndarray((128, target[1]), nl.float32, nl.sbuf)
        nisa.nc_stream_shuffle(whole[start : start + target[0]], t.src, mask)

    error = refused(program, {"src": np.ones(source, dtype)}, {"dst": ((1, 1), "float32")})
    assert error.rule == rule
