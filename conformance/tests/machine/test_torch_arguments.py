"""Claim: torch tensors go in and out with their bits, also bf16 and fp8, and in-place updates reach them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.bench import out, refusal, run, tile

import nki.isa as nisa  # isort: skip

torch = pytest.importorskip("torch", reason="torch is not installed")

DTYPES = [
    "float32",
    "float16",
    "bfloat16",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "float8_e4m3fn",
    "float8_e5m2",
]


def noise(dtype: str) -> Any:
    kind = getattr(torch, dtype)
    if dtype == "bool":
        return torch.tensor([[True, False, True]])
    size = torch.empty((), dtype=kind).element_size()
    raw = np.random.default_rng(1).integers(0, 256, (4, 6 * size), np.uint8)
    return torch.from_numpy(raw).view(kind)


def raw(value: Any) -> Any:
    return value.view(torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_go_in_and_out(dtype: str) -> None:
    a = noise(dtype)
    got = run(lambda a: out(tile(a)), a)
    assert got.dtype == a.dtype
    assert torch.equal(raw(got), raw(a))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e5m2"])
def test_updates_reach_the_tensor(dtype: str) -> None:
    cache, a = torch.zeros((4, 6), dtype=getattr(torch, dtype)), noise(dtype)

    def kernel(cache: Any, a: Any) -> Any:
        nisa.dma_copy(cache, a)
        return cache

    assert run(kernel, cache, a) is cache
    assert torch.equal(raw(cache), raw(a))


def test_strided_tensors_are_updated_too() -> None:
    base = torch.zeros((6, 4))

    def kernel(cache: Any, a: Any) -> None:
        nisa.dma_copy(cache, a)

    run(kernel, base.T, torch.arange(24, dtype=torch.float32).reshape(4, 6))
    assert torch.equal(base.T, torch.arange(24, dtype=torch.float32).reshape(4, 6))


def test_int64_is_refused() -> None:
    assert refusal(lambda a: None, torch.zeros((2, 2), dtype=torch.int64)).rule == "argument.dtype"
