"""Claim: a trace names every instruction with its place and operands, counts work, and keeps named tiles
with the instruction that wrote each element."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.bench import launch, out, tile
from reference.neuroncore.options import Options

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

A = np.arange(12, dtype=np.float32).reshape(3, 4)
ALL = Options(trace=True, taps=True)


def kernel(a: Any) -> Any:
    x = nl.ndarray((3, 4), nl.float32, name="x")
    nisa.dma_copy(x, a)
    nisa.memset(x[:, 1:2], -1, name="clear")
    return out(x)


def test_instructions_are_recorded_with_place_and_operands() -> None:
    trace = launch(kernel, A, options=ALL).trace
    first, second, _ = trace.instructions
    assert [i.op for i in trace.instructions] == ["dma_copy", "memset", "dma_copy"]
    assert first.file.endswith("test_trace.py")
    assert second.line == first.line + 1
    assert (second.label, second.engine, second.core, second.seq) == ("clear", "vector", 0, 1)
    source, target = first.operands
    assert (source.role, source.name, source.region, source.shape) == ("src", "a", "private_hbm", (3, 4))
    assert (target.role, target.name, target.region, target.dtype) == ("dst", "x", "sbuf", "float32")
    assert second.operands[0].address == (0, 4)


def test_counters_are_kept_without_a_trace() -> None:
    result = launch(kernel, A)
    assert result.trace.instructions == []
    counters = result.trace.counters[0]
    assert counters.ops == {"dma_copy": 2, "memset": 1}
    assert sum(counters.instructions.values()) == 3
    assert counters.dma_bytes == 2 * A.nbytes


def test_taps_hold_values_and_writers() -> None:
    tap = launch(kernel, A, options=ALL).trace.taps[0, "x", 0]
    expected = A.copy()
    expected[:, 1] = -1
    assert (tap.values == expected).all()
    assert [i.op for i in tap.instructions] == ["dma_copy", "memset"]
    assert tap.writers.tolist() == [[0, 1, 0, 0]] * 3


def test_elements_never_written_have_no_writer() -> None:
    def partly(a: Any) -> Any:
        x = nl.ndarray((3, 4), nl.float32, name="x")
        nisa.dma_copy(x[:, 2:4], a[:, 2:4])
        return out(x[:, 2:4])

    tap = launch(partly, A, options=ALL).trace.taps[0, "x", 0]
    assert tap.writers.tolist() == [[-1, -1, 0, 0]] * 3


def test_masked_and_gathered_writes_mark_their_elements_only() -> None:
    def skipping(a: Any, i: Any) -> Any:
        x = nl.ndarray((3, 4), nl.float32, name="x")
        nisa.memset(x, 0)
        view = a.ap([[4, 3], [1, 4]], vector_offset=tile(i))
        nisa.dma_copy(x, view, oob_mode=nisa.oob_mode.skip)
        return out(x)

    index = np.array([[2], [9], [0]], np.int32)
    tap = launch(skipping, A, index, options=ALL).trace.taps[0, "x", 0]
    assert tap.writers[:, 0].tolist() == [1, 0, 1]
    assert tap.values[1].tolist() == [0, 0, 0, 0]


def test_a_tap_does_not_show_what_the_memory_held_before() -> None:
    def skipping(a: Any, i: Any) -> Any:
        before = nl.ndarray((2, 4), nl.float32, address=(0, 0))
        nisa.memset(before, 7.0)
        x = nl.ndarray((2, 4), nl.float32, name="x", address=(0, 0))
        view = a.ap([[4, 2], [1, 4]], vector_offset=tile(i))
        nisa.dma_copy(x, view, oob_mode=nisa.oob_mode.skip)
        del before
        return out(x[0:1])

    tap = launch(skipping, A, np.array([[2], [9]], np.int32), options=ALL).trace.taps[0, "x", 0]
    assert tap.values.tolist() == [[8, 9, 10, 11], [0, 0, 0, 0]]
    assert tap.writers.tolist() == [[0] * 4, [-1] * 4]


def test_equal_names_are_numbered_per_core() -> None:
    def again(a: Any) -> Any:
        for value in (1.0, 2.0):
            x = nl.full((1, 1), value + 10 * nl.program_id(), nl.float32, name="x")
        result = nl.ndarray((2, 1), nl.float32, nl.shared_hbm)
        me = nl.program_id()
        nisa.dma_copy(result[me : me + 1], x)
        return result

    taps = launch(again, A, cores=2, options=ALL).trace.taps
    assert {key: tap.values.item() for key, tap in taps.items()} == {
        (0, "x", 0): 1.0,
        (0, "x", 1): 2.0,
        (1, "x", 0): 11.0,
        (1, "x", 1): 12.0,
    }


def test_views_of_other_dtypes_write_into_the_tap() -> None:
    def patterns(a: Any) -> Any:
        x = nl.ndarray((3, 4), nl.float32, name="x")
        nisa.dma_copy(x, a)
        nisa.memset(x.view(nl.uint8), 0)
        return out(x)

    tap = launch(patterns, A, options=ALL).trace.taps[0, "x", 0]
    assert (tap.values == 0).all()
    assert (tap.writers == 1).all()


def test_counters_are_per_core() -> None:
    def uneven(a: Any) -> None:
        for _ in range(1 + nl.program_id()):
            tile(a)

    counters = launch(uneven, A, cores=2).trace.counters
    assert [c.dma_bytes for c in counters] == [A.nbytes, 2 * A.nbytes]


# ---- who wrote an element of an output ----------------------------------------------------------------------------


def stores(x: Any, kept: Any) -> Any:
    """Rows 0 and 1 at once, row 1 again, and a column of `kept`."""
    held = tile(x)
    y = nl.ndarray((3, 4), nl.float32, buffer=nl.shared_hbm)
    nisa.dma_copy(y, held)  # whole
    nisa.dma_copy(y[1:2, :], held[0:1, :])  # row
    nisa.dma_copy(kept[:, 2:3], held[:, 0:1])  # column
    return y


def _line(mark: str) -> int:
    lines, start = inspect.getsourcelines(stores)
    return start + next(place for place, line in enumerate(lines) if line.rstrip().endswith(f"# {mark}"))


@pytest.mark.parametrize(
    ("output", "index", "mark"),
    [("y", (0, 3), "whole"), ("y", (1, 0), "row"), ("y", (2, 0), "whole"), ("kept", (1, 2), "column")],
)
def test_the_last_store_of_an_element_is_known(output: str, index: tuple[int, ...], mark: str) -> None:
    kept = np.zeros_like(A)
    done = launch(stores, A, kept, options=ALL)
    writer = done.trace.writer({"y": done.outputs, "kept": kept}[output], index)
    assert writer is not None
    assert (writer.op, writer.line) == ("dma_copy", _line(mark))


def test_no_store_is_named_for_what_nothing_wrote_and_for_foreign_arrays() -> None:
    kept = np.zeros_like(A)
    done = launch(stores, A, kept, options=ALL)
    assert done.trace.writer(kept, (1, 1)) is None
    assert done.trace.writer(np.zeros_like(A), (1, 2)) is None


def test_stores_are_not_kept_without_taps() -> None:
    done = launch(stores, A, np.zeros_like(A))
    assert done.trace.writer(done.outputs, (0, 0)) is None
