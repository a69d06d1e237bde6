"""Claim: random instructions are reproducible by seed and lane, have the documented ranges and states, and XORWOW
is the published recurrence. Streams of a real device are not public; nothing here claims them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.bench import bits
from conformance.tests.machine.tiles import (
    INTEGERS,
    Array,
    assert_same,
    execute,
    floats,
    host,
    numbers,
    refused,
    stored,
)

import nki.isa as nisa  # isort: skip

SEED = np.array([[12345]], np.uint32)


def drawn(shape: tuple[int, int], dtype: str = "uint32", seed: Array = SEED, **options: Any) -> Array:
    engine = options.pop("engine", nisa.engine.vector)

    def program(t: Any) -> None:
        nisa.set_rng_seed(t.seed)
        nisa.rng(t.dst, engine=engine)

    return execute(program, {"seed": seed}, {"dst": (shape, dtype)}, **options)["dst"]


def marsaglia(state: list[int], count: int) -> list[int]:
    """XORWOW as published (2003), in Python integers."""
    x, y, z, w, v, d = state
    result = []
    for _ in range(count):
        t = x ^ (x >> 2)
        x, y, z, w = y, z, w, v
        v = (v ^ (v << 4) ^ (t ^ (t << 1))) % 2**32
        d = (d + 362437) % 2**32
        result.append((v + d) % 2**32)
    return result


def test_gpsimd_draws_the_published_recurrence() -> None:
    state = np.random.default_rng(0).integers(0, 2**32, (16, 6), np.uint32)

    def program(t: Any) -> None:
        nisa.rand_set_state(t.state)
        nisa.rng(t.dst, engine=nisa.gpsimd_engine)
        nisa.rand_get_state(t.after)

    got = execute(program, {"state": state}, {"dst": ((16, 9), "uint32"), "after": ((16, 6), "uint32")})
    assert got["dst"].tolist() == [marsaglia(row, 9) for row in state.tolist()]
    assert (got["after"][:, 5] == (state[:, 5].astype(np.uint64) + 9 * 362437) % 2**32).all()


def test_the_vector_engine_takes_its_four_generators_in_turn_on_gen4() -> None:
    state = np.random.default_rng(1).integers(0, 2**32, (8, 24), np.uint32)

    def program(t: Any) -> None:
        nisa.rand_set_state(t.state, engine=nisa.vector_engine)
        nisa.rng(t.dst)

    got = execute(program, {"state": state}, {"dst": ((8, 8), "uint32")}, generation="gen4")["dst"]
    for lane in range(8):
        streams = [marsaglia(state[lane, 6 * g : 6 * g + 6].tolist(), 2) for g in range(4)]
        assert got[lane].tolist() == [streams[i % 4][i // 4] for i in range(8)]


def test_seeds_repeat_streams_and_lanes_differ() -> None:
    first = drawn((128, 64))
    assert (first == drawn((128, 64))).all()
    assert (first != drawn((128, 64), seed=SEED + np.uint32(1))).mean() > 0.99
    assert len(np.unique(first)) > 0.99 * first.size
    ones = np.unpackbits(first.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 0.01


def test_lanes_follow_the_partition_and_not_the_shape() -> None:
    def program(t: Any) -> None:
        nisa.set_rng_seed(t.seed)
        nisa.memset(t.dst, 0)
        nisa.rng(t.dst[32:64])

    got = execute(program, {"seed": SEED}, {"dst": ((64, 8), "uint32")})["dst"]
    assert (got[32:] == drawn((64, 8))[32:]).all()


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("psum", [(), ("dst",)])
def test_narrow_types_take_the_low_bits(dtype: str, psum: Any) -> None:
    wide = drawn((4, 8))
    got = drawn((4, 8), dtype, psum=psum)
    assert (bits(got) == wide.astype(f"u{host(dtype).itemsize}")).all()


@pytest.mark.parametrize(
    ("dtype", "engine", "psum", "generation", "rule"),
    [
        ("float32", "vector", (), "gen3", "operand.dtype"),
        ("uint32", "scalar", (), "gen3", "engine"),
        ("uint32", "gpsimd", (), "gen2", "engine"),
        ("uint32", "gpsimd", ("dst",), "gen3", "operand.memory"),
    ],
)
def test_rng_refuses(dtype: str, engine: str, psum: Any, generation: str, rule: str) -> None:
    error = refused(
        lambda t: nisa.rng(t.dst, engine=nisa.engine[engine]),
        {},
        {"dst": ((2, 2), dtype)},
        psum=psum,
        generation=generation,
    )
    assert error.rule == rule


@pytest.mark.parametrize(
    ("call", "state", "generation", "rule"),
    [
        (lambda s: nisa.set_rng_seed(s), np.ones((1, 2), np.uint32), "gen3", "rng.seed"),
        (lambda s: nisa.set_rng_seed(s), np.ones((1, 1), np.uint16), "gen3", "rng.seed"),
        (lambda s: nisa.rand_set_state(s), np.ones((4, 5), np.uint32), "gen3", "operand.shape"),
        (lambda s: nisa.rand_set_state(s), np.ones((4, 6), np.int32), "gen3", "operand.dtype"),
        (lambda s: nisa.rand_set_state(s, engine=nisa.vector_engine), np.ones((4, 24), np.uint32), "gen3", "engine"),
        (lambda s: nisa.rand_get_state(s), np.ones((4, 24), np.uint32), "gen3", "operand.shape"),
    ],
)
def test_states_and_seeds_have_their_shape(call: Any, state: Array, generation: str, rule: str) -> None:
    error = refused(lambda t: call(t.state), {"state": state}, {"dst": ((1, 1), "float32")}, generation=generation)
    assert error.rule == rule


# --- dropout ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3", "int32", "uint8"])
def test_dropout_keeps_bits_or_writes_zero(dtype: str) -> None:
    data = numbers(dtype, (64, 256))

    def run(prob: Any) -> Array:
        def program(t: Any) -> None:
            nisa.set_rng_seed(t.seed)
            nisa.dropout(t.dst, t.data, t.vector if prob is None else prob)

        vector = np.tile(np.array([[0.0], [1.0]], np.float32), (32, 1))
        return execute(program, {"seed": SEED, "data": (data, dtype), "vector": vector}, {"dst": ((64, 256), dtype)})[
            "dst"
        ]

    assert (bits(run(0.0)) == bits(data)).all()
    assert not bits(run(1.0)).any()
    by_row = bits(run(None))
    assert (by_row[0::2] == bits(data)[0::2]).all()
    assert not by_row[1::2].any()
    part = run(0.25)
    kept = bits(part) == bits(data)
    assert (kept | (bits(part) == 0)).all()
    alive = (bits(data) != 0) & kept
    assert abs(alive.sum() / (bits(data) != 0).sum() - 0.75) < 0.02


@pytest.mark.parametrize(
    ("data", "dtype", "prob", "rule"),
    [
        ("float32", "bfloat16", 0.5, "operand.dtype"),
        ("float32", "float32", 1.5, "dropout.prob"),
        ("float32", "float32", float("nan"), "dropout.prob"),
        ("int32", "int32", "bf16", "operand.dtype"),
        ("float32", "float32", "int", "operand.dtype"),
    ],
)
def test_dropout_refuses(data: str, dtype: str, prob: Any, rule: str) -> None:
    half = np.full((2, 1), 0.5, np.float32)
    inputs = {"data": np.ones((2, 4), data), "bf16": stored(half, "bfloat16"), "int": np.ones((2, 1), np.int32)}
    error = refused(
        lambda t: nisa.dropout(t.dst, t.data, getattr(t, prob) if isinstance(prob, str) else prob),
        inputs,
        {"dst": ((2, 4), dtype)},
    )
    assert error.rule == rule


def test_probability_0_keeps_even_the_smallest_draw() -> None:
    # Generators that step from all zeros return their counter, here 0 for the first element of each lane.
    state = np.zeros((4, 24), np.uint32)
    state[:, 5::6] = 2**32 - 362437

    def program(t: Any) -> None:
        nisa.rand_set_state(t.state, engine=nisa.vector_engine)
        nisa.rng(t.drawn)
        nisa.rand_set_state(t.state, engine=nisa.vector_engine)
        nisa.dropout(t.dst, t.data, 0.0)

    got = execute(
        program,
        {"state": state, "data": np.ones((4, 4), np.float32)},
        {"dst": ((4, 4), "float32"), "drawn": ((4, 4), "uint32")},
        generation="gen4",
    )
    assert not got["drawn"].any()
    assert (got["dst"] == 1).all()


# --- rand2 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "float8_e4m3"])
def test_rand2_is_uniform_between_its_bounds(dtype: str) -> None:
    low = np.linspace(-50, 40, 64, dtype=np.float32)[:, None]

    def program(t: Any) -> None:
        nisa.set_rng_seed(t.seed)
        nisa.rand2(t.dst, t.low, 60.0)

    got = execute(program, {"seed": SEED, "low": low}, {"dst": ((64, 512), dtype)}, generation="gen4")["dst"]
    values = floats(got)
    assert (values >= stored(low, dtype).astype(np.float32)).all()
    assert (values <= 60).all()
    assert np.abs(values.mean(axis=1) - (low[:, 0] + 60) / 2).max() < 8


def test_rand2_scales_24_random_bits() -> None:
    def program(t: Any) -> None:
        nisa.set_rng_seed(t.seed)
        nisa.rand2(t.dst, -1.0, 3.0)

    got = execute(program, {"seed": SEED}, {"dst": ((4, 16), "float32")}, generation="gen4")["dst"]
    unit = (drawn((4, 16)) >> 8).astype(np.float32) / np.float32(2**24)
    assert_same(got, np.float32(-1) + unit * np.float32(4))


@pytest.mark.parametrize(
    ("low", "high", "dtype", "rule"),
    [
        (1.0, 1.0, "float32", "rand2.range"),
        (0.0, 1.0, "float8_e4m3fn", "operand.dtype"),
        (2.0, 1.0, "int8", "rand2.range"),
    ],
)
def test_rand2_refuses(low: float, high: float, dtype: str, rule: str) -> None:
    error = refused(lambda t: nisa.rand2(t.dst, low, high), {}, {"dst": ((2, 2), dtype)}, generation="gen4")
    assert error.rule == rule
