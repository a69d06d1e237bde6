"""Claim: SBUF, PSUM and HBM are real: they end, they overlap, they start unwritten, and outputs must be
complete.

Every rule has a twin: a kernel that it must accept and one that it must catch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.bench import launch, out, refusal, run, tile
from reference.neuroncore.errors import MachineWarning
from reference.neuroncore.options import Options

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

A = np.arange(8, dtype=np.float32).reshape(2, 4)
USABLE = {"gen2": 180224, "gen3": 212984, "gen4": 245752}


# ---- capacity ----


@pytest.mark.parametrize("generation", sorted(USABLE))
def test_sbuf_ends_where_the_generation_says(generation: str) -> None:
    def kernel(a: Any, size: int) -> Any:
        nisa.memset(nl.ndarray((128, size), nl.int8), 1)
        return out(tile(a))

    # The tile of `a` takes its place after the big one has gone.
    run(kernel, A, USABLE[generation], generation=generation)
    error = refusal(kernel, A, USABLE[generation] + 1, generation=generation)
    assert error.rule == "memory.capacity"


def test_sbuf_is_shared_by_what_lives() -> None:
    half = USABLE["gen3"] // 2 + 64

    def kernel(a: Any, keep: bool) -> Any:
        kept = []
        for _ in range(3):
            big = nl.ndarray((128, half), nl.int8)
            nisa.memset(big, 1)
            if keep:
                kept.append(big)
            del big
        return out(tile(a))

    run(kernel, A, False)
    error = refusal(kernel, A, True)
    assert error.rule == "memory.capacity"
    assert "largest: " in str(error)


@pytest.mark.parametrize(("banks", "rule"), [(8, None), (9, "memory.capacity")])
def test_psum_has_eight_banks(banks: int, rule: str | None) -> None:
    def kernel(a: Any) -> Any:
        x = nl.ndarray((2, banks * 512), nl.float32, nl.psum)
        nisa.memset(x, 0)
        return out(tile(a))

    if rule is None:
        run(kernel, A)
    else:
        assert refusal(kernel, A).rule == rule


def test_psum_tiles_of_a_bank_never_straddle_two() -> None:
    def kernel(a: Any) -> Any:
        first = nl.ndarray((2, 300), nl.float32, nl.psum)
        second = nl.ndarray((2, 300), nl.float32, nl.psum)
        assert first.start_byte // 2048 != second.start_byte // 2048
        return out(tile(a))

    run(kernel, A)


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ((0, 0), None),
        ((0, 212984 - 16), None),
        ((0, 212984 - 12), "memory.capacity"),
        ((126, 0), None),
        ((127, 0), "memory.address"),
        ((0, 6), None),
        ((0, -4), "memory.address"),
        ((-1, 0), "memory.address"),
    ],
)
def test_explicit_addresses_lie_inside(address: tuple[int, int], rule: str | None) -> None:
    def kernel(a: Any) -> Any:
        x = nl.ndarray((2, 4), nl.float32, address=address)
        nisa.dma_copy(x, a)
        return out(x)

    if rule is None:
        assert (run(kernel, A) == A).all()
    else:
        assert refusal(kernel, A).rule == rule


@pytest.mark.parametrize(("byte", "rule"), [(2048, None), (2052, None), (2050, "memory.alignment")])
def test_psum_addresses_are_multiples_of_four(byte: int, rule: str | None) -> None:
    def kernel(a: Any) -> Any:
        x = nl.ndarray((2, 4), nl.float32, nl.psum, address=(0, byte))
        nisa.memset(x, 1)
        return out(x)

    if rule is None:
        assert (run(kernel, A) == 1).all()
    else:
        assert refusal(kernel, A).rule == rule


@pytest.mark.parametrize(
    ("shape", "rule"),
    [((2,), "memory.shape"), ((2, 0), "memory.shape"), ((129, 1), "memory.partitions"), ([2, 4], None)],
)
def test_shapes_on_chip(shape: Any, rule: str | None) -> None:
    def kernel(a: Any) -> Any:
        x = nl.ndarray(shape, nl.float32)
        nisa.dma_copy(x, a)
        return out(x)

    if rule is None:
        run(kernel, A)
    else:
        assert refusal(kernel, A).rule == rule


# ---- overlap ----


def overlapping(a: Any, second: tuple[int, int], again: bool) -> Any:
    first = nl.ndarray((2, 4), nl.float32, name="first", address=(0, 0))
    nisa.dma_copy(first, a)
    other = nl.ndarray((2, 4), nl.float32, name="other", address=second)
    nisa.memset(other, 0)
    if again:
        nisa.dma_copy(first, a)
    return out(first)


@pytest.mark.parametrize("second", [(0, 16), (32, 0)])
def test_neighbours_do_not_disturb(second: tuple[int, int]) -> None:
    assert (run(overlapping, A, second, False) == A).all()


@pytest.mark.parametrize("second", [(0, 0), (0, 12), (1, 8)])
def test_reading_what_an_overlapping_tile_overwrote_is_caught(second: tuple[int, int]) -> None:
    if second[0] % 32:
        # memset may not start there; the write goes by DMA instead.
        def kernel(a: Any) -> Any:
            first = nl.ndarray((2, 4), nl.float32, name="first", address=(0, 0))
            nisa.dma_copy(first, a)
            nisa.dma_copy(nl.ndarray((2, 4), nl.float32, name="other", address=second), a)
            return out(first)

        error = refusal(kernel, A)
    else:
        error = refusal(overlapping, A, second, False)
    assert error.rule == "memory.overlap"
    assert "'other'" in str(error)


def test_a_tile_written_anew_is_whole_again() -> None:
    assert (run(overlapping, A, (0, 0), True) == A).all()


def test_circular_buffers_in_program_order_are_accepted() -> None:
    def kernel(a: Any) -> Any:
        result = nl.ndarray((4, 2, 4), nl.float32, nl.shared_hbm)
        tiles = [nl.ndarray((2, 4), nl.float32, address=(0, 16 * (i % 2))) for i in range(4)]
        for i, x in enumerate(tiles):
            nisa.dma_copy(x, a)
            nisa.dma_copy(result[i], x)
        return result

    assert (run(kernel, A) == A).all()


# ---- never written ----


def test_reading_bytes_that_nothing_wrote() -> None:
    def kernel(a: Any, width: int) -> Any:
        x = nl.ndarray((2, 4), nl.float32, name="x")
        nisa.dma_copy(x[:, 0:3], a[:, 0:3])
        return out(x[:, 0:width])

    assert (run(kernel, A, 3) == A[:, :3]).all()
    error = refusal(kernel, A, 4)
    assert error.rule == "memory.unwritten"
    assert "'x'" in str(error)
    assert "2 of 8 elements, first at [0, 3]" in str(error)
    assert "bench.py:" in str(error)


def test_warnings_instead_of_errors_show_sentinels() -> None:
    def kernel(a: Any, dtype: Any) -> Any:
        return out(nl.ndarray((2, 4), dtype))

    with pytest.warns(MachineWarning, match="nothing has written"):
        got = run(kernel, A, nl.float32, options=Options(checks="warn"))
    assert np.isnan(got).all()
    assert (run(kernel, A, nl.int16, options=Options(checks="off")) == 4).all()


def test_checks_off_is_silent() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: pytest.fail("warned"))
        run(lambda a: out(nl.ndarray((2, 4), nl.float32)), A, options=Options(checks="off"))


def test_views_of_other_dtypes_share_the_shadow() -> None:
    def kernel(a: Any, width: int) -> Any:
        x = nl.ndarray((2, 4), nl.float32)
        nisa.memset(x.view(nl.int8)[:, 0:6], 0)
        return out(x.view(nl.int8)[:, 0:width])

    run(kernel, A, 6)
    assert refusal(kernel, A, 7).rule == "memory.unwritten"


# ---- outputs and inputs ----


def test_every_element_of_every_output_is_written() -> None:
    def kernel(a: Any, width: int) -> Any:
        whole = out(tile(a))
        part = nl.ndarray((2, 4), nl.float32, nl.shared_hbm, name="part")
        nisa.dma_copy(part[:, 0:width], a[:, 0:width])
        return whole, {"part": part}

    assert (run(kernel, A, 4)[1]["part"] == A).all()
    error = refusal(kernel, A, 3)
    assert error.rule == "output.unwritten"
    assert "2 of 8 elements" in str(error)
    assert "first at [0, 3]" in str(error)


def test_outputs_live_in_hbm() -> None:
    assert refusal(lambda a: tile(a), A).rule == "output.memory"


def update(cache: Any, a: Any) -> Any:
    nisa.dma_copy(cache[:, 1:3], a[:, 1:3])
    return cache


def test_in_place_updates_reach_the_caller() -> None:
    cache = np.zeros((2, 4), np.float32)
    result = run(update, cache, A)
    assert result is cache
    assert (cache == A * [0, 1, 1, 0]).all()


@pytest.mark.parametrize("view", [lambda c: c[:, ::2], lambda c: c.T, lambda c: c[::-1]])
def test_in_place_updates_reach_strided_arrays(view: Any) -> None:
    base = np.zeros((4, 4), np.float32)
    cache = view(base)
    fresh = np.arange(cache.size, dtype=np.float32).reshape(cache.shape) + 1

    def kernel(cache: Any, a: Any) -> Any:
        nisa.dma_copy(cache, a)
        return cache

    assert run(kernel, cache, fresh) is cache
    assert (view(base) == fresh).all()


def test_undeclared_updates_are_caught_before_they_happen() -> None:
    cache = np.zeros((2, 4), np.float32)
    run(update, cache, A, options=Options(in_place=frozenset({"cache"})))
    assert cache.any()
    cache[...] = 0
    error = refusal(update, cache, A, options=Options(in_place=frozenset({"a"})))
    assert error.rule == "hbm.input"
    assert "'cache'" in str(error)
    assert not cache.any()


def test_must_alias_arguments_are_declared_in_place() -> None:
    cache = np.zeros((2, 4), np.float32)
    named: dict[str, Any] = {"cache.must_alias_input": cache, "a": A}
    launch(update, options=Options(in_place=frozenset()), **named)
    assert cache.any()


def test_read_only_arrays_can_be_read_but_not_written() -> None:
    cache = np.zeros((2, 4), np.float32)
    cache.flags.writeable = False
    assert (run(lambda c: out(tile(c)), cache) == 0).all()
    assert refusal(update, cache, A).rule == "hbm.input"


def test_the_same_array_twice_is_the_same_memory() -> None:
    cache = np.zeros((2, 4), np.float32)

    def kernel(x: Any, y: Any, a: Any) -> Any:
        nisa.dma_copy(x, a)
        return out(tile(y))

    assert (run(kernel, cache, cache, A) == A).all()
    strided = np.zeros((4, 2), np.float32).T
    assert (run(kernel, strided, strided, A) == A).all()


def test_returned_views_give_their_elements() -> None:
    def kernel(a: Any) -> Any:
        return a[:, 1:3], a.reshape((8,))

    part, flat = run(kernel, A)
    assert (part == A[:, 1:3]).all()
    assert (flat == A.reshape(8)).all()


# ---- partitions ----


@pytest.mark.parametrize(
    ("start", "count", "legal"),
    [
        (0, 128, True),
        (0, 65, True),
        (32, 65, False),
        (64, 64, True),
        (32, 64, False),
        (96, 32, True),
        (32, 32, True),
        (16, 32, False),
        (96, 1, True),
        (97, 1, False),
        (64, 33, True),
        (96, 33, False),
    ],
)
def test_start_partitions_of_compute_engines(start: int, count: int, legal: bool) -> None:
    def kernel(a: Any) -> Any:
        big = nl.zeros((128, 2), nl.float32)
        nisa.memset(big[start : start + count], 1)
        return out(big)

    if start + count > 128:
        refusal(kernel, A)
        return
    if legal:
        expected = np.zeros((128, 2), np.float32)
        expected[start : start + count] = 1
        assert (run(kernel, A) == expected).all()
    else:
        assert refusal(kernel, A).rule == "partition.start"


def test_high_water_marks() -> None:
    def kernel(a: Any) -> Any:
        nisa.memset(nl.ndarray((1, 1000), nl.float32), 0)
        nisa.memset(nl.ndarray((1, 600), nl.float32, nl.psum), 0)
        return out(tile(a))

    counters = launch(kernel, A).trace.counters[0]
    assert counters.sbuf_high_water == 4000
    assert counters.psum_high_water == 2400
