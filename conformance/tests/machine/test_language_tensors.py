"""Claim: the functions of nki.language that move, fill and make tensors put every element where they say."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from conformance.tests.machine.bench import bits, out, refusal, run, tile

import nki  # isort: skip
import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

X = np.array([[-3.75, -1.5, -1.0, -0.25, -0.0, 0.0, 0.3, 0.5, 1.0, 2.5, 7.0, 40.0]], np.float32)


def test_load_and_store() -> None:
    def kernel(x: Any) -> Any:
        result = nl.ndarray((12,), nl.float32, nl.shared_hbm)
        nl.store(result, nl.load(x[0]))
        return result, out(nl.load(x, dtype=nl.bfloat16))

    same, narrow = run(kernel, X)
    assert (same == X[0]).all()
    assert (bits(narrow) == bits(X.astype(ml_dtypes.bfloat16))).all()


def test_transposes_and_products() -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    b = np.arange(8, dtype=np.float32).reshape(4, 2)
    assert (run(lambda a: out(nl.load_transpose2d(a)), a) == a.T).all()
    assert (run(lambda a: out(nl.transpose(tile(a))), a) == a.T).all()
    assert (run(lambda a, b: out(nl.matmul(tile(a), tile(b))), a, b) == a @ b).all()
    assert (
        run(lambda a, b: out(nl.matmul(tile(a), tile(b), transpose_x=True)), a.T.copy(), b) == a @ b
    ).all()


def test_copy_keeps_bits_and_casts() -> None:
    x = np.array([[2**24 + 1, -3]], np.int32)
    assert (run(lambda x: out(nl.copy(tile(x))), x) == x).all()
    assert run(lambda x: out(nl.copy(tile(x), dtype=nl.float32)), x).tolist() == [[2.0**24, -3.0]]


def test_gather_expand_and_broadcast() -> None:
    a = np.arange(8, dtype=np.int32).reshape(2, 4)
    i = np.array([[3, 0, 0], [1, 2, 3]], np.uint32)
    got = run(lambda a, i: out(nl.gather_flattened(tile(a), tile(i))), a, i)
    assert (got == np.take_along_axis(a, i.astype(int), axis=1)).all()
    assert run(lambda a: out(nl.expand_dims(tile(a), -1)), a).shape == (2, 4, 1)
    assert (run(lambda a: out(nl.broadcast_to(tile(a[0:1]), (5, 4))), a) == a[:1].repeat(5, 0)).all()
    assert refusal(lambda a: nl.broadcast_to(tile(a), (4, 4)), a).rule == "operand.shape"


@pytest.mark.parametrize("buffer", [nl.sbuf, nl.psum, nl.shared_hbm, nl.private_hbm])
def test_filled_tensors(buffer: Any) -> None:
    def kernel(x: Any) -> Any:
        return tuple(
            out(t)
            for t in (
                nl.zeros((2, 3), nl.float32, buffer),
                nl.ones((2, 3), nl.bfloat16, buffer),
                nl.full((2, 3), -7, nl.int32, buffer),
            )
        )

    zeros, ones, sevens = run(kernel, X)
    assert (zeros.dtype, ones.dtype, sevens.dtype) == (np.float32, ml_dtypes.bfloat16, np.int32)
    assert ((zeros == 0) & (ones.astype(np.float32) == 1) & (sevens == -7)).all()


def test_likes_take_shape_and_dtype() -> None:
    def kernel(x: Any) -> Any:
        empty = nl.empty_like(x)
        assert (empty.shape, empty.dtype, empty.buffer) == (x.shape, x.dtype, x.buffer)
        like = nl.zeros_like(x, dtype=nl.int8)
        assert (like.buffer, like.dtype) == (nl.sbuf, nl.int8)
        return out(like)

    assert (run(kernel, X) == 0).all()


def test_identity_and_constants(tmp_path: Any) -> None:
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "table.npy", table)

    def kernel(x: Any) -> Any:
        given = nl.ndarray((3, 3), nl.bfloat16)
        assert nl.shared_identity_matrix(3, dst=given) is given
        return (
            out(nl.shared_identity_matrix(4)),
            out(given),
            out(tile(nl.shared_constant(table))),
            out(tile(nl.shared_constant(tmp_path / "table.npy"))),
            out(tile(nl.shared_constant(nki.tensor.identity(2)))),
            out(tile(nl.shared_constant(nki.tensor.arange(2, 5)))),
        )

    eye4, eye3, first, second, eye2, count = run(kernel, X)
    assert (eye4.dtype, eye4.tolist()) == (np.uint8, np.eye(4).tolist())
    assert (eye3.astype(np.float32) == np.eye(3)).all()
    assert (first == table).all()
    assert (second == table).all()
    assert eye2.tolist() == [[1, 0], [0, 1]]
    assert count.tolist() == [[2, 3, 4]]


def test_constants_are_not_written_and_have_nki_dtypes() -> None:
    assert refusal(lambda x: nl.shared_constant(np.zeros(3)), X).rule == "argument.dtype"
    write = lambda x: nisa.dma_copy(nl.shared_constant(X), x)  # noqa: E731  (a kernel of one line)
    assert refusal(write, X).rule == "hbm.constant"


def test_random_numbers_follow_their_seed() -> None:
    def kernel(x: Any, seed: int) -> Any:
        nl.random_seed(nl.full((1, 1), seed, nl.int32))
        return out(nl.rand((4, 64), nl.float32)), out(nl.dropout(nl.ones((4, 64), nl.float32), 0.25))

    first, kept = run(kernel, X, 5)
    again, _ = run(kernel, X, 5)
    other, _ = run(kernel, X, 6)
    assert (first == again).all()
    assert not (first == other).all()
    assert ((first >= 0) & (first < 1)).all()
    assert 0.4 < first.mean() < 0.6
    assert set(np.unique(kept)) == {0.0, 1.0}
    assert 0.65 < kept.mean() < 0.85
