"""Claim: tensor views address exactly the elements that their rules name, NumPy being the witness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.tests.machine.bench import out, refusal, run, tile
from reference.neuroncore.errors import OutOfBounds

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip


def viewed(a: Any, view: Any) -> Any:
    """What a view of an SBUF tile with the content of `a` holds."""
    return run(lambda a: out(view(tile(a))), a)


def viewed_hbm(a: Any, view: Any) -> Any:
    """What a view of an HBM tensor holds."""
    return run(lambda a: out(view(a)), a)


def counting(*shape: int, dtype: Any = np.int32) -> Any:
    return np.arange(np.prod(shape)).astype(dtype).reshape(shape)


# ---- indexing ----


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ((0, 0, 10), (1, 1)),
        ((slice(None), 0), (64, 64)),
        ((slice(None), 0, 10), (64, 1)),
        ((0,), (1, 64, 64)),
        ((slice(3, 9), slice(2, 64, 5), -1), (6, 13)),
        ((Ellipsis, 5), (64, 64)),
    ],
)
def test_on_chip_indexing_keeps_partitions_and_two_axes(key: Any, shape: tuple[int, ...]) -> None:
    a = counting(64, 64, 64)
    got = viewed(a, lambda t: t[key])
    # NumPy drops what the tile keeps, so only the elements are compared with it.
    assert got.shape == shape
    assert (got.reshape(-1) == np.atleast_1d(a[key]).reshape(-1)).all()


@pytest.mark.parametrize(
    ("key", "shape"), [((1,), (3, 4)), ((1, 2), (4,)), ((1, 2, 3), (1,)), ((slice(0, 1), 2), (1, 4))]
)
def test_hbm_indexing_drops_axes_down_to_one(key: Any, shape: tuple[int, ...]) -> None:
    a = counting(2, 3, 4)
    got = viewed_hbm(a, lambda t: t[key])
    assert got.shape == shape
    assert (got.reshape(-1) == np.atleast_1d(a[key]).reshape(-1)).all()


@st.composite
def indexed(draw: Any) -> tuple[Any, Any]:
    shape = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple))
    key = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        stop = draw(st.integers(start + 1, size))
        key.append(slice(start, stop, draw(st.integers(1, 3))))
    return counting(*shape), tuple(key)


@given(indexed(), indexed())
@settings(max_examples=60, deadline=None)
def test_slices_compose(first: Any, second: Any) -> None:
    a, key = first
    inner = a[key]
    again = tuple(slice(0, n, 2) for n in inner.shape)
    assert (viewed(a, lambda t: t[key][again]) == inner[again]).all()
    assert (viewed_hbm(a, lambda t: t[key][again]) == inner[again]).all()


@pytest.mark.parametrize("key", [slice(0, 5), slice(2, 2), slice(3, 1), 4, -5, slice(4, 6)])
def test_nothing_is_clamped(key: Any) -> None:
    error = refusal(lambda a: tile(a)[:, key], counting(2, 4))
    assert isinstance(error, OutOfBounds)


def test_negative_indices_count_from_the_end() -> None:
    a = counting(3, 5)
    assert (viewed(a, lambda t: t[:, -2]) == a[:, -2:-1]).all()
    assert (viewed(a, lambda t: t[:, -4:-1]) == a[:, -4:-1]).all()


def test_ds_is_a_slice() -> None:
    a = counting(3, 8)
    assert (viewed(a, lambda t: t[:, nl.ds(2, 4)]) == a[:, 2:6]).all()


def test_registers_index_when_the_instruction_runs() -> None:
    a = counting(3, 8)

    def kernel(a: Any) -> Any:
        x, y = tile(a), nl.ndarray((3, 2), nl.int32)
        where = nisa.register_alloc(1)
        view = x[:, nl.ds(where, 2)]
        nisa.register_move(where, 5)
        nisa.tensor_copy(y, view)
        return out(y)

    assert (run(kernel, a) == a[:, 5:7]).all()


@pytest.mark.parametrize("start", [7, -1])
def test_a_register_past_its_axis_is_out_of_bounds(start: int) -> None:
    def kernel(a: Any) -> Any:
        # Row 1 column 7 + 1 is still memory of the tensor; it is not part of the axis.
        return out(a.reshape((6, 8))[1:3, nl.ds(nisa.register_alloc(start), 2)])

    assert refusal(kernel, counting(6, 8)).rule == "bounds"


def test_a_tensor_index_gathers_rows() -> None:
    a, i = counting(6, 4, 3), np.array([[5], [0], [2]], np.int32)

    def kernel(a: Any, i: Any) -> Any:
        return out(a[tile(i)[:, 0], :4, 1:3])

    assert (run(kernel, a, i) == a[[5, 0, 2], :4, 1:3]).all()


def test_assignment_copies_or_fills() -> None:
    def kernel(a: Any) -> Any:
        x = nl.zeros((3, 4), nl.int32)
        x[:, 0:2] = tile(a)[:, 2:4]
        x[1:2, 3] = 7
        return out(x)

    a = counting(3, 4) + 2**24
    expected = np.zeros((3, 4), np.int32)
    expected[:, :2], expected[1, 3] = a[:, 2:4], 7
    assert (run(kernel, a) == expected).all()


# ---- view methods ----


@pytest.mark.parametrize(
    ("name", "view", "witness"),
    [
        ("slice", lambda t: t.slice(1, 1, 6, 2), lambda a: a[:, 1:6:2]),
        ("select", lambda t: t.select(2, 3), lambda a: a[:, :, 3]),
        ("select-partition", lambda t: t.select(0, 1), lambda a: a[1:2]),
        ("permute", lambda t: t.permute((0, 2, 1)), lambda a: a.transpose(0, 2, 1)),
        ("broadcast", lambda t: t.slice(2, 3, 4).broadcast(2, 5), lambda a: np.repeat(a[:, :, 3:4], 5, 2)),
        ("expand", lambda t: t.expand_dim(1), lambda a: a[:, None]),
        ("squeeze", lambda t: t.expand_dim(1).squeeze_dim(1), lambda a: a),
        ("reshape_dim", lambda t: t.reshape_dim(1, (2, -1)), lambda a: a.reshape(3, 2, 3, 4)),
        ("flatten", lambda t: t.flatten_dims(1, 2), lambda a: a.reshape(3, 24)),
        ("reshape", lambda t: t.reshape((3, 4, 6)), lambda a: a.reshape(3, 4, 6)),
        ("reshape-keyword", lambda t: t.reshape(shape=(3, 4, -1)), lambda a: a.reshape(3, 4, 6)),
        ("rearrange", lambda t: t.rearrange(("p", ("a", "b"), "c"), ("p", "c", ("b", "a")), {"a": 2}), None),
    ],
)
def test_view_methods(name: str, view: Any, witness: Any) -> None:
    a = counting(3, 6, 4)
    if name == "rearrange":
        # Merging (b, a) backwards has no stride, so the view itself is refused.
        assert refusal(lambda a: view(tile(a)), a).rule == "view.flatten_dims"
        return
    assert (viewed(a, view) == witness(a)).all()
    assert (viewed_hbm(a, view) == witness(a)).all()


def test_rearrange_of_the_documentation() -> None:
    a = counting(128, 24)
    got = viewed(a, lambda t: t.rearrange(("b", ("h", "w")), ("b", "w", "h"), {"h": 4}))
    assert (got == a.reshape(128, 4, 6).transpose(0, 2, 1)).all()


def test_rearrange_merges_what_lies_together() -> None:
    a = counting(2, 3, 4)
    assert (viewed(a, lambda t: t.rearrange(("p", "a", "b"), ("p", ("a", "b")))) == a.reshape(2, 12)).all()


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t.permute((1, 0, 2)),
        lambda t: t.broadcast(0, 5),
        lambda t: t.expand_dim(0),
        lambda t: t.squeeze_dim(0),
        lambda t: t.reshape_dim(0, (1, 3)),
        lambda t: t.flatten_dims(0, 1),
        lambda t: t.reshape((18, 4)),
        lambda t: t.reshape((3, 5, 5)),
        lambda t: t.permute((0, 2, 1)).flatten_dims(1, 2),
        lambda t: t.permute((0, 2, 1)).reshape((3, 24)),
        lambda t: t.slice(1, 0, 7),
        lambda t: t.select(1, 6),
        lambda t: t.broadcast(1, 2),
    ],
)
def test_views_that_strides_cannot_express_are_refused(view: Any) -> None:
    refusal(lambda a: view(tile(a)), counting(3, 6, 4))


def test_hbm_views_reach_across_the_first_axis() -> None:
    a = counting(2, 3, 4)
    assert (viewed_hbm(a, lambda t: t.reshape((6, 4))) == a.reshape(6, 4)).all()
    assert (viewed_hbm(a, lambda t: t.permute((2, 0, 1))) == a.transpose(2, 0, 1)).all()
    assert (viewed_hbm(a, lambda t: t.reshape((24,))) == a.reshape(24)).all()


def test_contiguity_and_patterns() -> None:
    def kernel(a: Any) -> Any:
        x = tile(a)
        assert x.is_contiguous()
        assert x[:, 0:3].is_contiguous()
        assert not x[:, :, 0:2].is_contiguous()
        assert not x.permute((0, 2, 1)).is_contiguous()
        assert a.is_contiguous()
        assert not a[:, 0:3].is_contiguous()
        assert x[1:3, 2].get_pattern() == [[24, 2], [1, 4]]
        assert (x.shape, x.strides, x.offset, x.ndim, x.size) == ((3, 6, 4), (24, 4, 1), 0, 3, 72)
        assert (x.dtype, x.buffer, x.name) == ("int32", nl.sbuf, "")
        assert not x.is_indirect()
        assert x.select(1, nisa.register_alloc(0)).is_indirect()
        return out(x)

    run(kernel, counting(3, 6, 4))


def test_truth_and_arithmetic_of_a_tensor() -> None:
    def kernel(a: Any) -> Any:
        x = tile(a)
        assert x
        for wrong in (lambda: x + x, lambda: 2 * x, lambda: list(x), lambda: x @ x):
            with pytest.raises(TypeError):
                wrong()
        return out(x)

    run(kernel, counting(2, 3))


# ---- the same bits as another dtype ----

WORDS = np.array([[0x00020001, 0x00040003, -1, 0x7FFF8000], [0, 1, 2, 3]], np.int32)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
@pytest.mark.parametrize("place", [viewed, viewed_hbm], ids=["sbuf", "hbm"])
def test_view_reinterprets_bits(dtype: Any, place: Any) -> None:
    name = np.dtype(dtype).name
    assert (place(WORDS, lambda t: t.view(name)).view(np.uint8) == WORDS.view(np.uint8)).all()
    assert (place(WORDS, lambda t: t.view(name).view("int32")) == WORDS).all()
    assert (place(WORDS, lambda t: t[:, 1:3].reinterpret_cast(name)).view(np.int32) == WORDS[:, 1:3]).all()


def test_views_need_whole_elements() -> None:
    odd = np.zeros((2, 3), np.int16)
    assert refusal(lambda a: tile(a).view("int32"), odd).rule == "view.dtype"
    assert refusal(lambda a: tile(a)[:, 1:3].view("int32"), np.zeros((2, 4), np.int16)).rule == "view.dtype"
    assert refusal(lambda a: tile(a)[:, 0:4:2].view("int32"), np.zeros((2, 4), np.int16)).rule == "view.dtype"


def test_writing_through_a_view_shows_in_the_others() -> None:
    def kernel(a: Any) -> Any:
        x = tile(a)
        nisa.memset(x.view(nl.uint8)[:, 0:4], 255)
        return out(x)

    expected = WORDS.copy()
    expected[:, 0] = -1
    assert (run(kernel, WORDS) == expected).all()


# ---- access patterns ----


@pytest.mark.parametrize(
    ("pattern", "offset", "expected"),
    [
        ([[8, 4], [2, 3], [1, 2]], 1, lambda t: np.stack([t[:, 1:7:2], t[:, 2:8:2]], axis=2)),
        ([[8, 2], [3, 2]], 17, lambda t: t[2:4, 1:7:3]),
        ([[8, 4], [0, 3], [1, 2]], 0, lambda t: np.repeat(t[:, None, :2], 3, axis=1)),
        ([[5, 1], [1, 8]], 16, lambda t: t[2:3]),
    ],
)
def test_patterns_on_chip(pattern: Any, offset: int, expected: Any) -> None:
    a = counting(4, 8)
    assert (viewed(a, lambda t: t.ap(pattern, offset=offset)) == expected(a)).all()


def test_patterns_in_hbm() -> None:
    a = counting(2, 3, 4)
    assert viewed_hbm(a, lambda t: t.ap([[0, 3], [5, 4]], offset=2)).tolist() == [[2, 7, 12, 17]] * 3
    got = viewed_hbm(a, lambda t: t.ap([[1, 4], [12, 2], [4, 3]]))
    assert (got == a.transpose(2, 0, 1)).all()
    assert got[1].tolist() == [[1, 5, 9], [13, 17, 21]]


def test_patterns_count_elements_of_their_dtype() -> None:
    first = viewed(WORDS, lambda t: t.ap([[8, 2], [1, 8]], dtype=nl.int16))
    assert first[0].tolist() == [1, 2, 3, 4, -1, -1, -32768, 32767]
    high = viewed(WORDS, lambda t: t.ap([[8, 2], [2, 4]], offset=1, dtype=nl.int16))
    assert high[0].tolist() == [2, 4, -1, 32767]


def test_a_second_pattern_replaces_the_first() -> None:
    a = counting(4, 8)
    assert (viewed(a, lambda t: t.ap([[8, 4], [2, 4]]).ap([[8, 4], [1, 8]])) == a).all()


def test_offset_adds_to_that_of_the_view_and_says_so() -> None:
    a = counting(4, 8)
    with pytest.warns(UserWarning, match="are added"):
        got = viewed(a, lambda t: t[2:4].ap([[8, 2], [1, 3]], offset=1))
    assert (got == a[2:4, 1:4]).all()
    assert (viewed(a, lambda t: t[2:4].ap([[8, 2], [1, 3]])) == a[2:4, 0:3]).all()


@pytest.mark.parametrize(
    ("pattern", "offset", "rule"),
    [
        ([[7, 4], [1, 8]], 0, "ap.partition"),
        ([[8, 4], [1, 9]], 0, "bounds"),
        ([[8, 5], [1, 8]], 0, "bounds"),
        ([[8, 4], [1, 8]], 1, "bounds"),
        ([[8, 4], [-1, 8]], 7, "ap.pattern"),
        ([[8, 4], [1, 0]], 0, "ap.pattern"),
        ([[8, 4]], 0, "ap.pattern"),
        ([[8, 4], [1, 8]], -1, "bounds"),
    ],
)
def test_patterns_that_leave_the_tile(pattern: Any, offset: int, rule: str) -> None:
    error = refusal(lambda a: tile(a).ap(pattern, offset=offset), counting(4, 8))
    assert error.rule == rule


def test_two_run_time_offsets_exclude_each_other() -> None:
    def kernel(a: Any, i: Any) -> None:
        a.ap([[4, 2], [1, 4]], scalar_offset=nisa.register_alloc(0), vector_offset=tile(i))

    assert refusal(kernel, counting(4, 4), np.zeros((2, 1), np.int32)).rule == "ap.offsets"


def test_an_indirect_view_is_not_made_indirect_again() -> None:
    def kernel(a: Any) -> None:
        tile(a).select(1, nisa.register_alloc(0)).select(1, nisa.register_alloc(0))

    assert refusal(kernel, counting(4, 4, 4)).rule == "view.indirect"


# ---- gen4: free positions by index ----


def snake(index: Any, group: int) -> Any:
    """Positions per partition: element i is index[i mod G, i div G] of the group."""
    rows = [index[p // group * group : p // group * group + group].T.reshape(-1) for p in range(len(index))]
    return np.stack(rows)


def test_indirect_gather_by_groups_of_16() -> None:
    a = counting(32, 10)
    index = np.random.default_rng(4).integers(0, 10, (32, 2)).astype(np.uint32)

    def kernel(a: Any, i: Any) -> Any:
        x, result = tile(a), nl.ndarray((32, 32), nl.int32)
        nisa.tensor_copy(result, x.indirect(tile(i)))
        return out(result)

    expected = np.take_along_axis(a, snake(index, 16).astype(int), axis=1)
    assert (run(kernel, a, index, generation="gen4") == expected).all()
    assert refusal(kernel, a, index, generation="gen3").rule == "generation"


def test_indirect_scatter_leaves_the_rest() -> None:
    a = counting(16, 4)
    index = np.zeros((16, 1), np.uint32)
    index[:4, 0] = [7, 1, 5, 3]

    def kernel(a: Any, i: Any) -> Any:
        result = nl.full((16, 8), -1, nl.int32)
        nisa.tensor_copy(result.indirect(tile(i), 4), tile(a))
        return out(result)

    expected = np.full((16, 8), -1, np.int32)
    expected[:, [7, 1, 5, 3]] = a
    assert (run(kernel, a, index, generation="gen4") == expected).all()


def test_indirect_positions_stay_inside_a_partition() -> None:
    def kernel(a: Any, i: Any) -> Any:
        result = nl.ndarray((16, 16), nl.int32)
        nisa.tensor_copy(result, tile(a).indirect(tile(i)))
        return out(result)

    assert (
        refusal(kernel, counting(16, 4), np.full((16, 1), 4, np.uint32), generation="gen4").rule == "bounds"
    )


def test_matmul_operands_are_gathered_by_groups_of_32() -> None:
    import ml_dtypes

    a = np.random.default_rng(5).integers(-4, 5, (32, 8)).astype(ml_dtypes.bfloat16)
    index = np.random.default_rng(6).integers(0, 8, (32, 1)).astype(np.uint32)

    def kernel(a: Any, i: Any) -> Any:
        x = tile(a)
        result = nl.ndarray((8, 32), nl.float32, nl.psum)
        nisa.nc_matmul(result, x, x.indirect(tile(i), 32))
        return out(result)

    moving = np.take_along_axis(a.astype(np.float32), snake(index, 32).astype(int), axis=1)
    assert (run(kernel, a, index, generation="gen4") == a.astype(np.float32).T @ moving).all()


def test_indirect_matmul_operands_use_the_whole_array() -> None:
    def kernel(a: Any, i: Any, position: Any) -> Any:
        x = tile(a)
        result = nl.ndarray((8, 8), nl.float32, nl.psum)
        nisa.nc_matmul(result, x, x.indirect(tile(i), 8), tile_position=position, tile_size=(32, 128))
        return out(result)

    a, index = np.ones((32, 8), np.float32), np.zeros((32, 1), np.uint32)
    assert (run(kernel, a, index, (0, 0), generation="gen4") == 32).all()
    assert refusal(kernel, a, index, (32, 0), generation="gen4").rule == "matmul.tile"


def test_an_index_starts_where_its_operand_does() -> None:
    def kernel(a: Any, i: Any, start: int) -> Any:
        x = tile(a)
        result = nl.ndarray((16, 16), nl.int32)
        nisa.tensor_copy(result, x[32:48].indirect(tile(i)[start : start + 16]))
        return out(result)

    a, index = counting(64, 4), np.ones((64, 1), np.uint32)
    assert (run(kernel, a, index, 32, generation="gen4") == a[32:48, 1:2]).all()
    assert refusal(kernel, a, index, 0, generation="gen4").rule == "indirect.base"
