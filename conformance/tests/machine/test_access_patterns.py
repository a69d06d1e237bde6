"""Claim: instructions take any view of up to four free axes, and on gen4 gathered and scattered ones where they may be.

Expected values index NumPy arrays; the refusals have a legal twin beside them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.tiles import Array, assert_same, execute, numbers, refused

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip


def test_four_free_axes_are_the_most_an_access_pattern_has() -> None:
    data = np.arange(2 * 3 * 2 * 3 * 2 * 4, dtype=np.float32).reshape(2, -1)

    def program(t: Any, axes: int) -> None:
        view = t.x.reshape((2, 3, 2, 3, 2, 4))
        picked = view.permute([0, 5, 4, 3, 2, 1]) if axes == 5 else view.permute([0, 5, 4, 3, 1, 2])
        nisa.tensor_copy(t.dst, picked)

    outputs = {"dst": ((2, 144), "float32")}
    got = execute(lambda t: program(t, 4), {"x": data}, outputs)["dst"]
    assert_same(got, data.reshape(2, 3, 2, 3, 2, 4).transpose(0, 5, 4, 3, 1, 2))
    error = refused(lambda t: program(t, 5), {"x": data}, outputs)
    assert error.rule == "operand.rank"
    assert "needs 5 free axes" in str(error)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_reversed_counts_strides_and_overlaps_as_sources(dtype: str) -> None:
    data = numbers(dtype, (8, 40))

    def program(t: Any) -> None:
        nisa.tensor_copy(t.windows, t.x.ap([[40, 8], [5, 6], [1, 9]]))
        nisa.tensor_copy(t.repeated, t.x.ap([[40, 8], [0, 3], [7, 4]], offset=2))

    got = execute(program, {"x": data}, {"windows": ((8, 54), dtype), "repeated": ((8, 12), dtype)})
    windows = [[data[p, 5 * i + j] for i in range(6) for j in range(9)] for p in range(8)]
    assert_same(got["windows"], np.array(windows, data.dtype))
    repeated = [[data[p, 2 + 7 * j] for _ in range(3) for j in range(4)] for p in range(8)]
    assert_same(got["repeated"], np.array(repeated, data.dtype))


@pytest.mark.parametrize(
    ("name", "arguments", "formula"),
    [
        ("activation", {"op": nl.square}, lambda x: x * x),
        ("tensor_scalar", {"op0": nl.add, "operand0": 3.0}, lambda x: x + np.float32(3)),
        ("reciprocal", {}, lambda x: np.float32(1) / x),
    ],
)
def test_instructions_work_in_place_on_overlapping_views(name: str, arguments: dict[str, Any], formula: Any) -> None:
    data = np.arange(1, 8 * 20 + 1, dtype=np.float32).reshape(8, 20)
    got = execute(
        lambda t: getattr(nisa, name)(dst=t.x[:, 3:19], data=t.x[:, 0:16], **arguments),
        {"x": data},
        {"x": ((8, 20), "float32")},
    )["x"]
    expected = data.copy()
    expected[:, 3:19] = formula(data[:, 0:16])
    assert_same(got, expected)


def test_a_vector_operand_may_be_overwritten_by_the_result() -> None:
    data, vector = numbers("float32", (16, 8), 1), numbers("float32", (16, 1), 2)
    tile = np.concatenate([data, vector], axis=1)
    got = execute(
        lambda t: nisa.tensor_scalar(t.x, t.x, nl.add, t.x[:, 8:9]), {"x": tile}, {"x": ((16, 9), "float32")}
    )["x"]
    with np.errstate(all="ignore"):
        assert_same(got, tile + vector)


def test_partitions_may_be_shifted_between_source_and_destination() -> None:
    data = numbers("float32", (128, 4))
    got = execute(
        lambda t: nisa.tensor_tensor(t.x[64:96], t.x[0:32], t.x[96:128], nl.maximum),
        {"x": np.nan_to_num(data)},
        {"x": ((128, 4), "float32")},
    )["x"]
    expected = np.nan_to_num(data)
    expected[64:96] = np.maximum(expected[0:32], expected[96:128])
    assert (got == expected).all()


# --- gathers and scatters of gen4 -------------------------------------------------------------------------


def snake(index: Array) -> Array:
    """Free position of element i of a partition: index[i mod 16, i div 16] of its group of 16."""
    return np.stack([index[p // 16 * 16 : p // 16 * 16 + 16].T.reshape(-1) for p in range(len(index))])


def test_arithmetic_gathers_its_operands() -> None:
    data, other = numbers("bfloat16", (32, 10), 1), numbers("float32", (32, 32), 2)
    index = np.random.default_rng(0).integers(0, 10, (32, 2)).astype(np.uint32)
    got = execute(
        lambda t: nisa.tensor_tensor(t.dst, t.x.indirect(t.index), t.other, nl.add),
        {"x": data, "other": other, "index": index},
        {"dst": ((32, 32), "float32")},
        generation="gen4",
    )["dst"]
    picked = np.take_along_axis(data.astype(np.float32), snake(index).astype(int), axis=1)
    with np.errstate(all="ignore"):
        assert_same(got, picked + other)


@pytest.mark.parametrize("engine", ["vector", "scalar"])
@pytest.mark.parametrize("psum", [(), ("dst",)])
def test_scattering_into_psum_is_not_for_the_scalar_engine(engine: str, psum: tuple[str, ...]) -> None:
    data = np.arange(16 * 4, dtype=np.float32).reshape(16, 4)
    index = np.zeros((16, 1), np.uint32)
    index[:4, 0] = [5, 2, 0, 7]

    def program(t: Any) -> None:
        nisa.memset(t.dst, -1)
        view = t.dst.indirect(t.index, 4)
        if engine == "scalar":
            nisa.activation(view, nl.copy, t.x)
        else:
            nisa.tensor_scalar(view, t.x, nl.add, 0.0)

    inputs, outputs = {"x": data, "index": index}, {"dst": ((16, 8), "float32")}
    if engine == "scalar" and psum:
        assert refused(program, inputs, outputs, psum=psum, generation="gen4").rule == "indirect.psum"
        return
    expected = np.full((16, 8), -1, np.float32)
    expected[:, [5, 2, 0, 7]] = data
    assert_same(execute(program, inputs, outputs, psum=psum, generation="gen4")["dst"], expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda t, v: nisa.tensor_scalar(t.dst, t.x, nl.add, v),
        lambda t, v: nisa.activation(t.dst, nl.copy, t.x, bias=v),
        lambda t, v: nisa.activation(t.dst, nl.copy, t.x, scale=v),
        lambda t, v: nisa.activation_reduce(t.dst, nl.copy, t.x, nl.add, v),
        lambda t, v: nisa.scalar_tensor_tensor(t.dst, t.x, nl.add, v, nl.add, t.x),
    ],
    ids=["operand0", "bias", "scale", "reduce_res", "stt.operand0"],
)
def test_per_partition_operands_are_not_gathered(call: Any) -> None:
    inputs = {
        "x": np.ones((16, 4), np.float32),
        "column": np.ones((16, 3), np.float32),
        "index": np.zeros((16, 1), np.uint32),
    }
    outputs = {"dst": ((16, 4), "float32")}
    execute(lambda t: call(t, t.column[:, 0:1]), inputs, outputs, generation="gen4")
    error = refused(lambda t: call(t, t.column.indirect(t.index, 1)), inputs, outputs, generation="gen4")
    assert error.rule == "indirect.operand"


@pytest.mark.parametrize("start", [0, 32])
def test_the_index_of_a_scatter_lies_with_its_data(start: int) -> None:
    data = np.ones((64, 4), np.float32)
    index = np.tile(np.arange(4, dtype=np.uint32), 16)[:, None]

    def program(t: Any) -> None:
        nisa.memset(t.dst, 0)
        nisa.tensor_scalar(t.dst[0:16].indirect(t.index[0:16], 4), t.x[start : start + 16], nl.add, 1.0)

    inputs, outputs = {"x": data, "index": index}, {"dst": ((64, 8), "float32")}
    if start:
        assert refused(program, inputs, outputs, generation="gen4").rule == "indirect.base"
    else:
        assert execute(program, inputs, outputs, generation="gen4")["dst"][:16, :4].sum() == 128
