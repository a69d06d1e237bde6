"""`nki-oracle run`: a kernel in a file of anyone's, its outputs, counters and trace, and clear words for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tools.cli import run

KERNEL = '''
import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def scaled(x, factor=2.0):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    tile = nl.ndarray(x.shape, dtype=x.dtype, name="tile")
    nisa.dma_copy(dst=tile, src=x)
    nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=factor)
    nisa.dma_copy(dst=out, src=tile)
    return out


def product(x, y):
    out = nl.ndarray((x.shape[1], y.shape[1]), dtype=nl.float32, buffer=nl.shared_hbm)
    a = nl.ndarray(x.shape, dtype=x.dtype)
    b = nl.ndarray(y.shape, dtype=y.dtype)
    nisa.dma_copy(dst=a, src=x)
    nisa.dma_copy(dst=b, src=y)
    psum = nl.ndarray(out.shape, dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=psum, stationary=a, moving=b)
    sbuf = nl.ndarray(out.shape, dtype=nl.float32)
    nisa.tensor_copy(dst=sbuf, src=psum)
    nisa.dma_copy(dst=out, src=sbuf)
    return out
'''


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(KERNEL)
    return path


def test_outputs_counters_and_trace_are_saved(kernel: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    saved = tmp_path / "run.json"
    words = ["run", f"{kernel}:scaled", "--arg", f"x={tmp_path}/x.npy", "--arg", "factor=3.0", "--save", str(saved)]
    assert run(words) == 0
    document = json.loads(saved.read_text())
    assert document["outputs"][0]["values"] == [3.0 * i for i in range(12)]
    assert [one["op"] for one in document["instructions"]] == ["dma_copy", "tensor_scalar", "dma_copy"]
    assert document["cores"][0]["dma_bytes"] == 2 * 12 * 4
    assert document["cores"][0]["sbuf_high_water"] == 4 * 4
    tile = document["instructions"][1]["operands"][0]
    assert (tile["role"], tile["name"], tile["shape"], tile["region"]) == ("data", "tile", [3, 4], "sbuf")
    assert document["instructions"][1]["at"].endswith("mine.py:12")


def test_macs_of_a_plain_function_on_generated_data(kernel: Path, tmp_path: Path) -> None:
    saved = tmp_path / "run.json"
    data = ["--arg", "x=32x8:bfloat16:exact", "--arg", "y=32x16:bfloat16:exact"]
    assert run(["run", f"{kernel}:product", *data, "--save", str(saved)]) == 0
    document = json.loads(saved.read_text())
    assert document["cores"][0]["macs"] == 32 * 8 * 16
    values = np.array(document["outputs"][0]["values"])
    assert values.size == 8 * 16
    assert (values == np.rint(values)).all(), "sums of integers are integers"


def test_the_trace_names_engine_operands_and_line(kernel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", f"{kernel}:scaled", "--arg", "x=4x8:bfloat16", "--trace"]) == 0
    printed = capsys.readouterr().out
    assert "tensor_scalar" in printed
    assert "tile [4, 8] bfloat16 sbuf[0, 0]" in printed
    assert "128 B by DMA" in printed


def test_a_kernel_that_the_machine_stops_exits_1_with_its_line(
    kernel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", f"{kernel}:scaled", "--arg", "x=256x8:bfloat16"]) == 1
    printed = capsys.readouterr().out
    assert "partition dimension 256 exceeds maximum 128" in printed
    assert "mine.py:10" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scaled", "--arg", "x=4x8:bf99"], "'bf99' is not an NKI dtype"),
        (["scaled", "--arg", "x=4xq:bfloat16"], "write e.g. 128x512:bfloat16"),
        (["scaled", "--arg", "x=4x8:bfloat16:nolane"], "no lane 'nolane'"),
        (["scaled", "--arg", "x=nothing.npy"], "nothing.npy"),
        (["scaled", "--arg", "x=open("], "Python literal"),
        (["scaled", "--arg", "4x8"], "NAME=VALUE"),
        (["scaled"], "missing a required argument: 'x'"),
        (["missing"], "has no 'missing'"),
        (["scaled", "--arg", "x=4x8:bfloat16", "--checks", "loud"], "checks"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    kernel: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", f"{kernel}:{words[0]}", *words[1:]]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
