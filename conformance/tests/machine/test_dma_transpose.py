"""Claim: dma_transpose moves bits through the three documented permutations, gathers rows first where asked,
and leaves rows outside untouched."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.tests.machine.bench import bits, out, refusal, run, tile

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip


def turned(a: Any, order: tuple[int, ...], **options: Any) -> Any:
    result = nl.ndarray(tuple(a.shape[i] for i in order), a.dtype)
    nisa.dma_transpose(result, a, **options)
    return out(result)


@pytest.mark.parametrize(
    ("shape", "order"), [((5, 7), (1, 0)), ((2, 3, 4), (2, 1, 0)), ((2, 3, 4, 5), (3, 1, 2, 0))]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int8])
@pytest.mark.parametrize("explicit", [True, False])
def test_permutations(shape: tuple[int, ...], order: tuple[int, ...], dtype: Any, explicit: bool) -> None:
    raw = np.random.default_rng(1).integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    a = raw.view(dtype)[..., 0]
    got = run(lambda a: turned(a, order, axes=order if explicit else None), a)
    assert (bits(got) == bits(a.transpose(order))).all()


def test_source_may_be_a_tile() -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert (run(lambda a: turned(tile(a), (1, 0)), a) == a.T).all()


@pytest.mark.parametrize("axes", [(0, 1), (2, 0, 1), (1, 0, 2)])
def test_no_other_permutation(axes: tuple[int, ...]) -> None:
    a = np.zeros((2, 3, 4)[: len(axes)], np.float32)
    assert "axes must be one of" in str(refusal(lambda a: turned(a, axes, axes=axes), a))


def test_shape_and_dtype_must_be_the_permuted_ones() -> None:
    a = np.zeros((2, 3), np.float32)
    wrong_shape = lambda a: nisa.dma_transpose(nl.ndarray((2, 3), nl.float32), a)  # noqa: E731  (a kernel of one line)
    wrong_rank = lambda a: nisa.dma_transpose(nl.ndarray((3, 1, 2), nl.float32), a)  # noqa: E731  (a kernel of one line)
    wrong_dtype = lambda a: nisa.dma_transpose(nl.ndarray((3, 2), nl.bfloat16), a)  # noqa: E731  (a kernel of one line)
    assert refusal(wrong_shape, a).rule == "dma.shape"
    assert refusal(wrong_rank, a).rule == "dma.shape"
    assert refusal(wrong_dtype, a).rule == "dma.dtype"


@pytest.mark.parametrize(
    ("shape", "dtype", "legal"),
    [
        ((16, 64), np.float16, True),
        ((16, 64), np.float32, False),
        ((32, 64), np.float16, False),
        ((16, 129), np.float16, False),
        ((4, 1, 8, 64), np.float16, True),
        ((4, 1, 2, 64), np.float16, False),
    ],
)
def test_limits_of_hardware_descriptors(shape: tuple[int, ...], dtype: Any, legal: bool) -> None:
    a = np.zeros(shape, dtype)
    order = (1, 0) if len(shape) == 2 else (3, 1, 2, 0)

    def kernel(a: Any) -> Any:
        result = nl.ndarray(tuple(a.shape[i] for i in order), a.dtype, nl.shared_hbm)
        nisa.dma_transpose(result, a, dge_mode=nisa.dge_mode.hwdge)
        return result

    if legal:
        run(kernel, a)
    else:
        assert refusal(kernel, a).rule == "dma.hwdge_transpose"
        kernel_by_choice = lambda a: turned(a, order) if a.shape[-1] <= 128 else None  # noqa: E731  (a kernel of one line)
        run(kernel_by_choice, a)


# ---- gathered rows ----


def table(rows: int, width: int) -> NDArray[Any]:
    return np.arange(rows * width).astype(np.uint16).reshape(rows, width).view(np.float16)


def gathered(v: Any, i: Any, rows: int, mode: Any = nisa.oob_mode.error, preset: float = 0.0) -> Any:
    width = v.shape[1]
    result = nl.full((width, rows), preset, v.dtype)
    nisa.dma_transpose(
        result, v.ap([[width, rows], [1, width]], vector_offset=tile(i)), axes=(1, 0), oob_mode=mode
    )
    return out(result)


def index(values: Any, shape: tuple[int, int]) -> NDArray[np.uint32]:
    return np.array(values, np.uint32).reshape(shape)


def test_rows_are_gathered_and_turned() -> None:
    v = table(40, 8)
    rows = np.random.default_rng(2).permutation(40)[:32]
    got = run(lambda v, i: gathered(v, i, 32), v, index(rows, (32, 1)))
    assert (bits(got) == bits(v[rows].T)).all()


def test_an_index_of_several_columns_is_read_column_by_column() -> None:
    v = table(300, 4)
    flat = np.random.default_rng(3).permutation(300)[:256]
    got = run(lambda v, i: gathered(v, i, 256), v, index(flat.reshape(2, 128).T, (128, 2)))
    assert (bits(got) == bits(v[flat].T)).all()


def test_four_axes_with_gathered_blocks() -> None:
    v = table(20, 12).reshape(20, 1, 3, 4)
    rows = [7, 3, 19, 0] * 4

    def kernel(v: Any, i: Any) -> Any:
        result = nl.ndarray((4, 1, 3, 16), nl.float16)
        pattern = [[12, 16], [12, 1], [4, 3], [1, 4]]
        nisa.dma_transpose(result, v.ap(pattern, vector_offset=tile(i)), axes=(3, 1, 2, 0))
        return out(result)

    got = run(kernel, v, index(rows, (16, 1)))
    assert (bits(got) == bits(v[rows].transpose(3, 1, 2, 0))).all()


def test_rows_outside_leave_the_destination_alone() -> None:
    v = table(20, 4)
    rows = [0, 20, 5, 2**32 - 1, *range(12)]
    skip = lambda v, i: gathered(v, i, 16, nisa.oob_mode.skip, 7.0)  # noqa: E731  (a kernel of one line)
    got = run(skip, v, index(rows, (16, 1)))
    expected = np.stack([v[r] if r < 20 else np.full(4, 7, np.float16) for r in rows], axis=1)
    assert (bits(got) == bits(expected)).all()
    assert refusal(lambda v, i: gathered(v, i, 16), v, index(rows, (16, 1))).rule == "bounds"


@pytest.mark.parametrize(
    ("rows", "shape", "text"),
    [(8, (8, 1), "multiple of 16"), (32, (16, 2), "128 index rows"), (16, (16, 1), None)],
)
def test_limits_of_gathered_rows(rows: int, shape: tuple[int, int], text: str | None) -> None:
    v = table(64, 4)
    i = index(range(rows), shape)
    if text is None:
        run(lambda v, i: gathered(v, i, rows), v, i)
    else:
        assert text in str(refusal(lambda v, i: gathered(v, i, rows), v, i))


def test_gathered_rows_have_two_byte_elements_and_need_gen3() -> None:
    v, i = np.zeros((32, 4), np.float32), index(range(16), (16, 1))
    assert "2-byte dtype" in str(refusal(lambda v, i: gathered(v, i, 16), v, i))
    assert "NeuronCore-v3" in str(
        refusal(lambda v, i: gathered(v, i, 16), table(32, 4), i, generation="gen2")
    )


def test_scalar_offset_with_skip() -> None:
    v = table(10, 4)

    def kernel(v: Any, start: int) -> Any:
        result = nl.full((4, 3), 7.0, nl.float16)
        view = v.ap([[4, 3], [1, 4]], scalar_offset=nisa.register_alloc(start), indirect_dim=0)
        nisa.dma_transpose(result, view, oob_mode=nisa.oob_mode.skip)
        return out(result)

    assert (bits(run(kernel, v, 7)) == bits(v[7:].T)).all()
    seven = np.full((4, 1), 7, np.float16)
    assert (bits(run(kernel, v, 8)) == bits(np.concatenate([v[8:].T, seven], axis=1))).all()
