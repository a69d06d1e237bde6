"""Claim: transposes move bits, on every engine that has one, and refuse what the engine cannot do."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from conformance.tests.machine.bench import bits, out, refusal, run, tile

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

#: Every code of the one-byte types appears, every class of the others: NaN payloads, infinities, -0,
#: subnormals.
TYPES = ["float32", "bfloat16", "float16", "float8_e4m3", "float8_e5m2", "int32", "uint16", "int8", "uint8"]


def noise(shape: tuple[int, int], dtype: str) -> Any:
    storage = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    raw = np.random.default_rng(7).integers(0, 256, (*shape, storage.itemsize), np.uint8)
    return raw.view(storage)[..., 0]


def turned(a: Any, engine: Any = nisa.engine.unknown, buffer: Any = None) -> Any:
    x = tile(a)
    result = nl.ndarray((x.shape[1], x.shape[0]), x.dtype, nl.psum if buffer is None else buffer)
    nisa.nc_transpose(result, x, engine=engine)
    return out(result)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(128, 128), (3, 17), (1, 128)])
def test_tensor_engine_moves_bits(dtype: str, shape: tuple[int, int]) -> None:
    a = noise(shape, dtype)
    assert (bits(run(turned, a)) == bits(a.T)).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("buffer", [nl.sbuf, nl.psum])
def test_vector_engine_moves_bits(dtype: str, buffer: Any) -> None:
    a = noise((32, 20), dtype)
    got = run(lambda a: turned(a, nisa.engine.vector, buffer), a)
    assert (bits(got) == bits(a.T)).all()


def test_sbuf_destination_chooses_the_vector_engine() -> None:
    a = noise((32, 32), "float32")
    assert (bits(run(lambda a: turned(a, buffer=nl.sbuf), a)) == bits(a.T)).all()
    assert refusal(lambda a: turned(a, buffer=nl.sbuf), noise((33, 2), "float32")).rule == "transpose.shape"


def test_vector_engine_is_small_and_tensor_engine_larger() -> None:
    a = noise((33, 4), "float32")
    assert refusal(lambda a: turned(a, nisa.engine.vector), a).rule == "transpose.shape"
    # 129 columns would become 129 partitions, which no tile has.
    assert refusal(turned, noise((4, 129), "float32")).rule == "memory.partitions"


def test_gen2_multiplies_by_an_identity() -> None:
    a = np.array([[1.0, -0.0], [np.nan, 2.0]], np.float32)
    got = run(turned, a, generation="gen2")
    # NaN spreads along the row it meets; -0 becomes +0.
    assert np.isnan(got[0]).all()
    assert (bits(got[1]) == bits(np.array([0.0, 2.0], np.float32))).all()


def test_a_tile_takes_many_transposes() -> None:
    a = noise((8, 4), "bfloat16")

    def kernel(a: Any) -> Any:
        x = tile(a)
        buffer = nl.ndarray((4, 8), nl.bfloat16, nl.psum)
        for _ in range(3):
            nisa.nc_transpose(buffer, x)
            kept = nl.ndarray((4, 8), nl.bfloat16)
            nisa.tensor_copy(kept, buffer)
        return out(kept)

    assert (bits(run(kernel, a)) == bits(a.T)).all()


def test_free_axes_are_flattened_on_both_sides() -> None:
    a = noise((8, 12), "bfloat16")

    def kernel(a: Any) -> Any:
        result = nl.ndarray((12, 2, 4), nl.bfloat16, nl.psum)
        nisa.nc_transpose(result, tile(a).reshape((8, 3, 4)))
        return out(result)

    assert (bits(run(kernel, a)) == bits(a.T.reshape(12, 2, 4))).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_transpose_mode_of_matmul_moves_bits_through_an_identity(dtype: str) -> None:
    a = noise((16, 24), dtype)

    def kernel(a: Any) -> Any:
        x = tile(a)
        result = nl.ndarray((24, 16), x.dtype, nl.psum)
        nisa.nc_matmul(result, x, nl.shared_identity_matrix(16, x.dtype), is_transpose=True)
        return out(result)

    assert (bits(run(kernel, a)) == bits(a.T)).all()


def test_transpose_mode_with_another_moving_tile_multiplies() -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    swap = np.array([[0, 1], [1, 0]], np.float32)

    def kernel(a: Any, b: Any) -> Any:
        result = nl.ndarray((3, 2), nl.float32, nl.psum)
        nisa.nc_matmul(result, tile(a), tile(b), is_transpose=True)
        return out(result)

    assert (run(kernel, a, swap) == a.T[:, ::-1]).all()


def test_transpose_keeps_the_dtype() -> None:
    def kernel(a: Any) -> Any:
        nisa.nc_transpose(nl.ndarray((3, 2), nl.float32, nl.psum), tile(a))

    assert refusal(kernel, noise((2, 3), "bfloat16")).rule == "transpose.dtype"


def test_only_tensor_and_vector_transpose() -> None:
    a = noise((4, 4), "float32")
    assert refusal(lambda a: turned(a, nisa.engine.gpsimd), a).rule == "operand.engine"
