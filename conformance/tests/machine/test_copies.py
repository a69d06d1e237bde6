"""Claim: copies keep bits where dtypes agree and round once where they differ, on every engine and access
pattern.

Reproduce a failure with the dtype pair in the test id; `tiles.numbers` gives the same values each time.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.bench import bits
from conformance.tests.machine.tiles import (
    INTEGERS,
    NUMERIC,
    assert_same,
    execute,
    floats,
    host,
    numbers,
    refused,
    stored,
)

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip


def copied(source: Any, dtype: str, **options: Any) -> Any:
    engine = options.pop("engine", nisa.engine.unknown)
    array = source[0] if isinstance(source, tuple) else source
    return execute(
        lambda t: nisa.tensor_copy(t.dst, t.src, engine=engine),
        {"src": source},
        {"dst": (array.shape, dtype)},
        **options,
    )["dst"]


# --- tensor_copy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["vector", "scalar", "gpsimd"])
@pytest.mark.parametrize("dtype", NUMERIC)
def test_equal_dtypes_keep_every_bit(dtype: str, engine: str) -> None:
    itemsize = host(dtype).itemsize
    raw = np.random.default_rng(1).integers(0, 256, (128, 512 * itemsize), np.uint8)
    source = raw.view(host(dtype))
    assert (bits(copied((source, dtype), dtype, engine=nisa.engine[engine])) == bits(source)).all()


@pytest.mark.parametrize("source_dtype", NUMERIC)
@pytest.mark.parametrize("dtype", NUMERIC)
def test_other_dtypes_round_once_through_fp32(source_dtype: str, dtype: str) -> None:
    if source_dtype == dtype:
        return
    source = numbers(source_dtype, (64, 64))
    got = copied((source, source_dtype), dtype)
    assert_same(got, stored(floats(source, source_dtype), dtype), f"{source_dtype} -> {dtype}")


def test_fp32_to_int8_rounds_to_even_and_saturates() -> None:
    source = np.array([[0.5, 1.5, 2.5, -0.5, 127.6, -200]], np.float32)
    assert copied(source, "int8").tolist() == [[0, 2, 2, 0, 127, -128]]


def test_large_integers_keep_their_bits_only_without_a_cast() -> None:
    source = np.array([[2**24 + 1, -(2**31), 2**31 - 1]], np.int32)
    assert copied(source, "int32").tolist() == source.tolist()
    assert copied(source, "uint32").tolist() == [[2**24, 0, 2**31]]


def test_psum_is_in_reach_of_vector_and_scalar_but_not_of_gpsimd() -> None:
    source = numbers("float32", (16, 8))
    for engine in (nisa.engine.vector, nisa.engine.scalar):
        assert_same(copied(source, "float32", engine=engine, psum=("dst",)), source)
    assert (
        refused(
            lambda t: nisa.tensor_copy(t.dst, t.src, engine=nisa.engine.gpsimd),
            {"src": source},
            {"dst": ((16, 8), "float32")},
            psum=("src",),
        ).rule
        == "operand.memory"
    )


def test_scalar_engine_copies_from_gen3_on() -> None:
    source = numbers("bfloat16", (4, 4))

    def program(t: SimpleNamespace) -> None:
        nisa.tensor_copy(t.dst, t.src, engine=nisa.scalar_engine)

    outputs = {"dst": ((4, 4), "bfloat16")}
    assert_same(execute(program, {"src": source}, outputs, generation="gen3")["dst"], source)
    assert refused(program, {"src": source}, outputs, generation="gen2").rule == "engine"


def test_tensor_engine_cannot_copy() -> None:
    error = refused(
        lambda t: nisa.tensor_copy(t.dst, t.src, engine=nisa.tensor_engine),
        {"src": numbers("float32", (4, 4))},
        {"dst": ((4, 4), "float32")},
    )
    assert error.rule == "engine"
    assert "engine.vector" in str(error)


# --- access patterns --------------------------------------------------------------------------------------


def test_any_view_can_be_source_and_destination() -> None:
    source = np.arange(16 * 24, dtype=np.float32).reshape(16, 24)

    def program(t: SimpleNamespace) -> None:
        nisa.memset(t.dst, 0)
        nisa.tensor_copy(t.dst[:, 0:24:3], t.src[:, 16:24])
        nisa.tensor_copy(t.dst.reshape((16, 4, 6))[:, :, 1], t.src.reshape((16, 6, 4))[:, 2, :])
        nisa.tensor_copy(t.dst.ap([[24, 16], [12, 2], [4, 2]], offset=2), t.src.ap([[24, 16], [1, 2], [8, 2]]))

    got = execute(program, {"src": source}, {"dst": ((16, 24), "float32")})["dst"]
    expected = np.zeros_like(source)
    expected[:, 0::3] = source[:, 16:24]
    expected[:, 1::6] = source[:, 8:12]
    expected[:, [2, 6, 14, 18]] = source[:, [0, 8, 1, 9]]
    assert_same(got, expected)


def test_ranks_may_differ_where_counts_agree() -> None:
    source = numbers("bfloat16", (8, 24))
    got = execute(lambda t: nisa.tensor_copy(t.dst, t.src), {"src": source}, {"dst": ((8, 2, 3, 4), "bfloat16")})["dst"]
    assert_same(got, source.reshape(8, 2, 3, 4))
    assert (
        refused(lambda t: nisa.tensor_copy(t.dst, t.src), {"src": source}, {"dst": ((8, 23), "bfloat16")}).rule
        == "operand.shape"
    )


def test_overlapping_source_and_destination_are_read_before_they_are_written() -> None:
    source = np.arange(8 * 20, dtype=np.float32).reshape(8, 20)
    got = execute(lambda t: nisa.tensor_copy(t.x[:, 1:17], t.x[:, 0:16]), {"x": source}, {"x": ((8, 20), "float32")})
    expected = source.copy()
    expected[:, 1:17] = source[:, 0:16]
    assert_same(got["x"], expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_last_element_stays_where_destinations_share_an_address(dtype: str) -> None:
    source = np.arange(4 * 6, dtype=np.float32).reshape(4, 6)
    got = execute(
        lambda t: nisa.tensor_copy(t.dst.ap([[1, 4], [0, 6]]), t.src),
        {"src": source},
        {"dst": ((4, 1), dtype)},
    )["dst"]
    assert_same(got, stored(source[:, 5:], dtype))

    def sliding(t: SimpleNamespace) -> None:
        nisa.memset(t.dst, -1)
        nisa.tensor_copy(t.dst.ap([[5, 4], [1, 3], [2, 2]]), t.src)

    got = execute(sliding, {"src": source}, {"dst": ((4, 5), dtype)})["dst"]
    expected = np.full((4, 5), -1, np.float32)
    for i in range(3):
        for j in range(2):
            expected[:, i + 2 * j] = source[:, 2 * i + j]
    assert_same(got, stored(expected, dtype))


# --- tensor_copy_predicated -------------------------------------------------------------------------------


@pytest.mark.parametrize("predicate_dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("reverse", [False, True])
def test_predicated_copies_where_the_predicate_says(predicate_dtype: str, reverse: bool) -> None:
    source, old = numbers("float16", (32, 24), 1), numbers("float16", (32, 24), 2)
    predicate = np.random.default_rng(0).integers(0, 3, (32, 24)).astype(predicate_dtype)
    got = execute(
        lambda t: nisa.tensor_copy_predicated(t.dst, t.src, t.predicate, reverse_pred=reverse),
        {"dst": old, "src": source, "predicate": predicate},
        {"dst": ((32, 24), "float16")},
    )["dst"]
    taken = (predicate == 0) if reverse else (predicate != 0)
    assert (bits(got) == np.where(taken, bits(source), bits(old))).all()


def test_predicated_takes_numbers_and_differing_ranks() -> None:
    old = numbers("bfloat16", (8, 12))
    predicate = (np.arange(96).reshape(8, 3, 4) % 5 == 0).astype(np.uint8)
    got = execute(
        lambda t: nisa.tensor_copy_predicated(t.dst, 1 + 2.0**-8, t.predicate),
        {"dst": old, "predicate": predicate},
        {"dst": ((8, 12), "bfloat16")},
    )["dst"]
    taken = predicate.reshape(8, 12) != 0
    assert (bits(got) == np.where(taken, np.uint16(0x3F80), bits(old))).all()


def test_predicated_leaves_untaken_elements_unwritten() -> None:
    inputs = {"src": np.ones((4, 4), np.float32), "predicate": np.eye(4, dtype=np.uint8)}

    def program(t: SimpleNamespace) -> None:
        nisa.tensor_copy_predicated(t.dst, t.src, t.predicate)

    error = refused(program, inputs, {"dst": ((4, 4), "float32")})
    assert error.rule == "memory.unwritten"
    assert "12 of 16 elements" in str(error)
    full = {**inputs, "predicate": np.ones((4, 4), np.uint8)}
    assert_same(execute(program, full, {"dst": ((4, 4), "float32")})["dst"], inputs["src"])


@pytest.mark.parametrize(
    ("dtype", "predicate_dtype", "psum", "rule"),
    [
        ("float32", "int32", (), "operand.dtype"),
        ("bfloat16", "uint8", (), "operand.dtype"),
        ("float32", "uint8", ("src", "predicate"), "operand.psum"),
    ],
)
def test_predicated_refuses(dtype: str, predicate_dtype: str, psum: tuple[str, ...], rule: str) -> None:
    inputs = {
        "dst": np.ones((4, 4), np.float32),
        "src": np.ones((4, 4), np.float32).astype(host(dtype)),
        "predicate": np.ones((4, 4), predicate_dtype),
    }
    error = refused(
        lambda t: nisa.tensor_copy_predicated(t.dst, t.src, t.predicate),
        inputs,
        {"dst": ((4, 4), "float32")},
        psum=psum,
    )
    assert error.rule == rule


# --- memset -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, -1, 7])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_memset_stores_whole_numbers_in_integers(dtype: str, value: int) -> None:
    def program(t: SimpleNamespace) -> None:
        nisa.memset(t.dst, value)

    outputs = {"dst": ((5, 7), dtype)}
    if value < 0 and dtype.startswith("u"):
        assert refused(program, {}, outputs).rule == "memset.value"
        return
    assert_same(execute(program, {}, outputs)["dst"], np.full((5, 7), value, dtype))


@pytest.mark.parametrize("value", [0, -0.0, 1 + 2.0**-8, np.inf, -np.inf, np.nan, 1e-40, 3.4e38, -240.0])
@pytest.mark.parametrize("dtype", [name for name in NUMERIC if name not in INTEGERS])
@pytest.mark.parametrize("buffer", ["sbuf", "psum"])
def test_memset_rounds_numbers_to_the_dtype(dtype: str, value: float, buffer: str) -> None:
    psum = ("dst",) if buffer == "psum" else ()
    got = execute(lambda t: nisa.memset(t.dst, value), {}, {"dst": ((3, 5), dtype)}, psum=psum)["dst"]
    assert_same(got, stored(np.full((3, 5), value, np.float32), dtype))


@pytest.mark.parametrize(
    ("dtype", "value"), [("int32", 1.5), ("int8", 128), ("uint8", np.nan), ("float8_e4m3fn_x4", 1)]
)
def test_memset_refuses_what_the_dtype_cannot_hold(dtype: str, value: float) -> None:
    assert refused(lambda t: nisa.memset(t.dst, value), {}, {"dst": ((2, 2), dtype)}).rule == "memset.value"


@pytest.mark.parametrize("dtype", ["float8_e4m3fn_x4", "float8_e5m2_x4", "float4_e2m1fn_x4", "float8_e8m0fnu"])
def test_memset_clears_packed_and_scale_types_with_0(dtype: str) -> None:
    def program(t: SimpleNamespace) -> None:
        nisa.memset(t.dst, 0)
        nisa.tensor_copy(t.seen, t.dst.view(nl.uint8))

    assert not execute(program, {}, {"dst": ((2, 4), dtype), "seen": ((2, 4 * size(dtype)), "uint8")})["seen"].any()


def size(dtype: str) -> int:
    return {"float4_e2m1fn_x4": 2, "float8_e8m0fnu": 1}.get(dtype, 4)


def test_memset_refuses_tensors_and_gpsimd_in_psum() -> None:
    ones = np.ones((2, 2), np.float32)
    outputs = {"dst": ((2, 2), "float32")}
    assert refused(lambda t: nisa.memset(t.dst, t.x), {"x": ones}, outputs).rule == "operand.scalar"

    def program(t: SimpleNamespace) -> None:
        nisa.memset(t.dst, 1, engine=nisa.gpsimd_engine)

    assert_same(execute(program, {}, outputs)["dst"], ones)
    assert refused(program, {}, outputs, psum=("dst",)).rule == "operand.memory"
