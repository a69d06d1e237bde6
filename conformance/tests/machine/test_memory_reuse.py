"""Claim: the on-chip bytes of a finished launch serve the next one, and nothing of one launch shows in another."""

from __future__ import annotations

import gc
import pathlib
from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.bench import launch, out, refusal, run, tile
from reference.neuroncore import memory
from reference.neuroncore.options import Options

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip


def fill(a: Any) -> Any:
    whole = nl.ndarray((128, 4096), nl.float32, nl.sbuf)
    nisa.memset(whole, 5)
    return out(tile(a))


def peek(a: Any) -> Any:
    whole = nl.ndarray((128, 4096), nl.float32, nl.sbuf)
    return out(whole[:, 0:4])


A = np.ones((4, 4), np.float32)


def test_old_bytes_count_as_unwritten() -> None:
    run(fill, A)
    assert refusal(peek, A).rule == "memory.unwritten"


@pytest.mark.parametrize("checks", ["warn", "off"])
@pytest.mark.filterwarnings("ignore::reference.neuroncore.errors.MachineWarning")
def test_without_checks_fresh_tiles_hold_the_sentinel(checks: str) -> None:
    run(fill, A)
    assert np.isnan(run(peek, A, options=Options(checks=checks))).all()


def resident_kib() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="reads /proc/self/statm of Linux")
def test_many_launches_do_not_grow() -> None:
    for _ in range(50):
        run(fill, A)
    before = resident_kib()
    for _ in range(1000):
        run(fill, A)
    # One SBUF is 28 MiB, its touched part here 2 MiB: a leak of even one per hundred launches would show.
    assert resident_kib() - before < 8 * 1024


def test_two_cores_and_nested_sizes_take_their_own_bytes() -> None:
    def kernel(a: Any) -> Any:
        core = nl.program_id(0)
        mine = nl.ndarray((128, 8), nl.float32, nl.sbuf)
        nisa.memset(mine, core + 1)
        result = nl.ndarray((2, 8), nl.float32, nl.shared_hbm)
        nisa.dma_copy(result[core : core + 1], mine[0:1])
        return result

    for _ in range(3):
        assert launch(kernel, A, cores=2).outputs.tolist() == [[1] * 8, [2] * 8]


def test_bytes_that_a_tensor_still_refers_to_are_not_given_away() -> None:
    kept: list[Any] = []

    def keep(a: Any) -> Any:
        x = tile(a)
        kept.append(x)
        return out(x)

    run(keep, A)
    seen = kept[0].array()
    pooled = [data for pool in memory._POOL.values() for data in pool]
    assert not any(np.shares_memory(seen, data) for data in pooled)
    run(fill, A)
    assert (seen == 1).all()
    kept.clear()
    gc.collect()


def test_a_failed_launch_does_not_disturb_the_next() -> None:
    def broken(a: Any) -> Any:
        nisa.tensor_tensor(tile(a), tile(a), tile(a)[:, 0:1], nl.add)

    for _ in range(3):
        assert refusal(broken, A).rule == "operand.shape"
        assert (run(fill, A) == A).all()
