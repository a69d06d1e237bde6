"""SbufManager: a stack of scopes over explicit addresses, and the machine as witness of what may still be read.

Claims: tiles of open scopes never share bytes, closed scopes and old sections give theirs back, a scope that
overflows says so with its name, and a manager of nothing leaves placement to the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import reference  # noqa: F401  (the doorway: `import nki` finds the drop-in)

import nki  # isort: skip
import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

from kernels.sbuf_manager import SbufManager, bytes_per_partition, manager_or_automatic, round_up
from reference.neuroncore.errors import MachineError

pytestmark = pytest.mark.sim


def launch(body: Callable[[], None]) -> None:
    """Runs `body` as a kernel of one core."""

    def kernel(unused: Any) -> Any:
        body()
        return unused

    nki.jit(kernel)(np.zeros((1, 1), np.float32))


def filled(space: SbufManager, name: str, elements: int = 8) -> Any:
    """A tile of fp32 ones."""
    tile = space.alloc((128, elements), nl.float32, name=name)
    nisa.memset(dst=tile, value=1.0)
    return tile


def read(tile: Any) -> None:
    """An instruction that needs every byte of `tile`."""
    copy = nl.ndarray(tile.shape, dtype=tile.dtype, buffer=nl.psum)
    nisa.tensor_copy(dst=copy, src=tile)


def span(tile: Any) -> tuple[int, int]:
    return tile.start_byte, tile.start_byte + bytes_per_partition(tile.shape, tile.dtype)


# --- the stack --------------------------------------------------------------------------------------------


def test_tiles_of_open_scopes_share_no_byte() -> None:
    def body() -> None:
        space = SbufManager(1000, 20000)
        space.open_scope("outer")
        tiles = [filled(space, "a"), filled(space, "b", 3)]
        space.open_scope("inner")
        tiles.append(filled(space, "c"))
        spans = sorted(map(span, tiles))
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert spans[0][0] >= 1000
        for tile in tiles:
            read(tile)

    launch(body)


def test_a_closed_scope_gives_its_bytes_back() -> None:
    def body() -> None:
        space = SbufManager(0, 4096)
        space.open_scope("outer")
        kept = filled(space, "kept")
        space.open_scope("first")
        first = span(filled(space, "x"))
        space.close_scope()
        space.open_scope("second")
        assert span(filled(space, "y")) == first
        space.close_scope()
        read(kept)
        assert space.next_free() == span(kept)[1]

    launch(body)


def test_the_machine_catches_a_tile_that_outlives_its_scope() -> None:
    def body() -> None:
        space = SbufManager(0, 4096)
        space.open_scope("outer")
        space.open_scope("first")
        stale = filled(space, "stale")
        space.close_scope()
        read(stale)
        fresh = filled(space, "fresh")
        read(fresh)
        read(stale)

    with pytest.raises(MachineError, match="'stale' that were overwritten through 'fresh'"):
        launch(body)


def test_a_scope_may_be_filled_to_its_last_byte() -> None:
    def body() -> None:
        space = SbufManager(0, 96)
        space.open_scope("tight")
        filled(space, "a", 8)
        filled(space, "b", 16)
        assert (space.free_bytes(), space.peak) == (0, 96)

    launch(body)


def test_a_scope_that_overflows_names_itself_and_the_tile() -> None:
    def body() -> None:
        space = SbufManager(0, 96)
        space.open_scope("tight")
        filled(space, "a", 8)
        filled(space, "b", 17)

    with pytest.raises(AssertionError, match="'tight' overflows: tile 'b' takes bytes 32 to 100, the scope ends at 96"):
        launch(body)


# --- sections ---------------------------------------------------------------------------------------------


def test_a_section_lives_until_its_turn_comes_again() -> None:
    def body() -> None:
        space = SbufManager(0, 4096)
        space.open_scope("ring", sections=2, section_bytes=64)
        before = None
        for turn in range(5):
            space.next_section()
            now = filled(space, f"turn {turn}")
            if before is not None:
                read(before)
            before = now

    launch(body)


def test_the_machine_catches_a_tile_of_a_section_that_is_used_again() -> None:
    def body() -> None:
        space = SbufManager(0, 4096)
        space.open_scope("ring", sections=2, section_bytes=64)
        tiles = []
        for turn in range(3):
            space.next_section()
            tiles.append(filled(space, f"turn {turn}"))
        read(tiles[1])
        read(tiles[0])

    with pytest.raises(MachineError, match="'turn 0' that were overwritten through 'turn 2'"):
        launch(body)


def test_a_section_does_not_run_into_the_next_one() -> None:
    def body(elements: int) -> None:
        space = SbufManager(0, 4096)
        space.open_scope("ring", sections=2, section_bytes=64)
        space.next_section()
        filled(space, "tile", elements)

    launch(lambda: body(16))
    with pytest.raises(AssertionError, match="'ring' overflows: tile 'tile' takes bytes 0 to 68, the scope ends at 64"):
        launch(lambda: body(17))


def test_a_scope_inside_a_ring_lies_above_all_of_its_sections() -> None:
    def body() -> None:
        space = SbufManager(0, 4096)
        space.open_scope("ring", sections=3, section_bytes=64)
        space.next_section()
        filled(space, "in the ring")
        space.open_scope("inside")
        assert span(filled(space, "above"))[0] == 3 * 64
        space.close_scope()
        space.next_section()
        assert span(filled(space, "in the ring"))[0] == 64

    launch(body)


# --- misuse -----------------------------------------------------------------------------------------------


def _alloc_without_scope(space: SbufManager) -> None:
    space.alloc((128, 1), nl.float32, name="tile")


def _alloc_before_section(space: SbufManager) -> None:
    space.open_scope("ring", sections=2, section_bytes=64)
    space.alloc((128, 1), nl.float32, name="tile")


def _section_of_plain_scope(space: SbufManager) -> None:
    space.open_scope("plain")
    space.next_section()


def _close_twice(space: SbufManager) -> None:
    space.open_scope("plain")
    space.close_scope()
    space.close_scope()


def _too_large_a_ring(space: SbufManager) -> None:
    space.open_scope("ring", sections=2, section_bytes=4000)


def _two_byte_alignment(space: SbufManager) -> None:
    space.open_scope("plain")
    space.alloc((128, 1), nl.bfloat16, name="ones", align=2)


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (_alloc_without_scope, "alloc without an open scope"),
        (_alloc_before_section, "'ring' needs next_section before alloc"),
        (_section_of_plain_scope, "'plain' was opened without sections"),
        (_close_twice, "close_scope without an open scope"),
        (_too_large_a_ring, "'ring' needs bytes 0 to 8000, the manager ends at 4096"),
        (_two_byte_alignment, "'ones': align must be a multiple of 4 bytes, not 2"),
    ],
)
def test_misuse_is_told_in_one_sentence(misuse: Callable[[SbufManager], None], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        launch(lambda: misuse(SbufManager(0, 4096)))


# --- placement --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align", [4, 32, 64, 256])
def test_tiles_start_at_multiples_of_their_alignment(align: int) -> None:
    def body() -> None:
        space = SbufManager(0, 4096)
        space.open_scope("plain")
        space.alloc((128, 1), nl.bfloat16, name="odd", align=4)
        start = space.alloc((128, 3), nl.float32, name="tile", align=align).start_byte
        assert start == round_up(2, align)

    launch(body)


def test_without_bounds_the_compiler_places_the_tiles() -> None:
    def body() -> None:
        space = manager_or_automatic(None)
        assert space.is_automatic()
        space.open_scope("any", sections=2, section_bytes=1)
        space.next_section()
        first, second = filled(space, "first"), filled(space, "second")
        space.close_scope()
        assert span(first) != span(second)
        read(first)

    launch(body)


def test_a_kernel_takes_what_is_free_and_leaves_the_callers_manager_alone() -> None:
    caller = SbufManager(0, 4096)
    caller.open_scope("caller")

    def body() -> None:
        caller.alloc((128, 8), nl.float32, name="mine")
        space = manager_or_automatic(caller)
        assert (space.lower, space.upper) == (32, 4096)
        space.open_scope("kernel")
        assert filled(space, "theirs").start_byte == 32
        assert caller.next_free() == 32

    launch(body)
