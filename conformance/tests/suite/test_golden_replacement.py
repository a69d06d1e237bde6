"""Claim: whatever interrupts a replacement of the goldens, the old set or the new set is there, whole.

The exhaustive test kills the writer with SIGKILL before every single operation on files it makes, one
process per operation; the random one kills at instants drawn by seed, between operations or within.
The writer must be a process: nothing after SIGKILL may run, no `finally` and no `except`.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance import golden_store
from conformance.golden_store import GoldenError
from conformance.tests.suite.golden_samples import golden, golden_set

#: fork: a writer that imports nothing reaches its first operation within a millisecond.
PROCESSES = multiprocessing.get_context("fork")
#: Every call through which the store changes the disk, with its module.
OPERATIONS = ("replace", "unlink", "fsync", "mkdir", "rmdir", "open")
OLD, NEW = 10, 50
Bits = tuple[tuple[Any, ...], ...]


def _content(directory: Path) -> int:
    """OLD or NEW: which set a store holds, every bit of it looked at."""
    manifest = golden_store.verify_files(directory)
    held = {(entry.case, _bits(golden_store.read(directory, entry))) for entry in manifest.entries}
    fits = [fill for fill in (OLD, NEW) if held == _expected(fill, len(manifest.entries))]
    assert len(fits) == 1
    return fits[0]


def _expected(fill: int, cases: int) -> set[tuple[str, Bits]]:
    return {(one.case, _bits(one.outputs)) for one in golden_set(fill, cases)}


def _bits(arrays: Mapping[str, NDArray[Any]]) -> Bits:
    return tuple((name, one.shape, one.dtype.name, one.tobytes()) for name, one in sorted(arrays.items()))


def _kill_before(operation: int) -> None:
    """Makes this process die before its n-th operation on files."""
    count = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count
            if count == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return original(*arguments, **keywords)

        return call

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))


def _replace(directory: Path, fill: int, operation: int | None) -> None:
    if operation is not None:
        _kill_before(operation)
    golden_store.write(directory, golden_set(fill), f"set {fill}")
    # Skips what a forked test process would still do at its end.
    os._exit(0)


def _run(directory: Path, fill: int, operation: int | None) -> int:
    process = PROCESSES.Process(target=_replace, args=(directory, fill, operation))
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def test_kill_before_every_operation_leaves_one_whole_set(tmp_path: Path) -> None:
    seen, code = [], None
    for operation in range(200):
        directory = tmp_path / str(operation) / "golden"
        golden_store.write(directory, golden_set(OLD), "set 10")
        code = _run(directory, NEW, operation)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        seen.append(_content(directory))
    assert code == 0
    # The commit is one instant: before it the old set stands, after it the new one.
    assert len(seen) > 20
    assert seen == sorted(seen)
    assert set(seen) == {OLD, NEW}


def test_kill_of_a_writer_that_settles_leaves_one_whole_set(tmp_path: Path) -> None:
    directory = tmp_path / "golden"
    golden_store.write(directory, golden_set(OLD), "set 10")
    for operation in range(37):
        # What the killed writer of the turn before left is settled first, and that is interrupted too.
        _run(directory, NEW if operation % 2 else OLD, operation)
        assert _content(directory) in (OLD, NEW)


def test_writer_after_a_killed_one_leaves_no_trace_of_it(tmp_path: Path) -> None:
    for operation in range(0, 45, 4):
        directory = tmp_path / str(operation) / "golden"
        golden_store.write(directory, golden_set(OLD), "set 10")
        _run(directory, NEW, operation)
        golden_store.write(directory, golden_set(OLD + 1), "last")
        manifest = golden_store.verify_files(directory)
        names = {path.name for path in directory.iterdir()}
        assert names == {"CHANGES.md", "manifest.json", *(entry.file for entry in manifest.entries)}
        assert [path.name for path in directory.parent.iterdir()] == ["golden"]


def test_every_change_that_took_effect_is_in_the_log_once(tmp_path: Path) -> None:
    for operation in range(1, 45, 4):
        directory = tmp_path / str(operation) / "golden"
        golden_store.write(directory, golden_set(OLD), "set 10")
        _run(directory, NEW, operation)
        took_effect = _content(directory) == NEW
        golden_store.write(directory, golden_set(OLD), "back again")
        log = (directory / golden_store.CHANGES).read_text()
        assert log.count("set 50") == int(took_effect)
        assert log.count("back again") == 1


def _replace_forever(directory: Path) -> None:
    for turn in range(10_000):
        golden_store.write(directory, golden_set(NEW if turn % 2 else OLD, cases=6), f"turn {turn}")


def test_kill_at_random_instants_leaves_one_whole_set(tmp_path: Path) -> None:
    directory = tmp_path / "golden"
    golden_store.write(directory, golden_set(OLD, cases=6), "first")
    instants = random.Random(20)
    for _ in range(30):
        process = PROCESSES.Process(target=_replace_forever, args=(directory,))
        process.start()
        time.sleep(instants.uniform(0.005, 0.06))
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert _content(directory) in (OLD, NEW)


def test_failure_while_preparing_leaves_the_old_set(tmp_path: Path) -> None:
    directory = tmp_path / "golden"
    golden_store.write(directory, golden_set(OLD), "first")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    bad = golden("bad", 1, out=np.zeros(2, np.complex64))
    with pytest.raises(TypeError, match="complex64"):
        golden_store.write(directory, [*golden_set(NEW), bad], "second")
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["golden"]


def test_second_writer_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "golden"
    directory.mkdir()
    with golden_store._locked(directory), pytest.raises(GoldenError, match="another process is writing"):
        golden_store.write(directory, golden_set(OLD), "first")


def test_damaged_store_can_be_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "golden"
    golden_store.write(directory, golden_set(OLD), "first")
    (directory / golden_store.MANIFEST).write_text("{")
    golden_store.write(directory, golden_set(NEW), "second")
    assert _content(directory) == NEW
