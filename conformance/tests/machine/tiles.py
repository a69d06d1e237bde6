"""Run instructions on tiles: arrays become SBUF or PSUM tiles, a program issues instructions, tiles come
back.

Beside it the witnesses of the instruction tests: test data with every class of values, and the rounding of
fp32 to each dtype by NumPy and ml_dtypes, which the machine's own `cast` is not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from conformance.tests.machine.bench import launch, refusal
from reference.neuroncore.errors import MachineError
from reference.neuroncore.options import Options
from reference.numerics.profile import DEFAULT, NumericsProfile

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

Array = NDArray[Any]
Program = Callable[[SimpleNamespace], None]

FLOATS = ("float32", "tfloat32", "bfloat16", "float16", "float8_e4m3", "float8_e4m3fn", "float8_e5m2")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
NUMERIC = (*FLOATS, *INTEGERS, "bool_")

#: How the host holds a dtype that NumPy has no name for.
_HOST = {
    "tfloat32": np.float32,
    "bool_": np.uint8,
    "float8_e4m3fn_x4": np.uint32,
    "float8_e5m2_x4": np.uint32,
    "float4_e2m1fn_x4": np.uint16,
}

#: Zeros, ties and limits of every format, subnormals, infinities, NaN.
_SPECIAL = """
    0 -0 1 -1 0.5 1.5 2.5 -2.5 3 127.5 240 247.99 248 256 448 464 464.01 65504 65520 88.7 -87.4
    0x1p-149 -0x1p-149 0x1p-126 0x1.8p-127 0x1p-24 0x1p-25 0x1p-9 0x1p-10 0x1.01p0 0x1.03p0
    0x1p24 0x1.000002p24 0x1p31 0x1p32 3e9 -3e9 inf -inf nan 0x1.fffffep127 -0x1.fffffep127
    1e30 -1e-30 3.1415927
"""
SPECIAL = np.array([float.fromhex(x) if "x" in x else float(x) for x in _SPECIAL.split()], np.float32)


def host(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype that holds the bits of a dtype."""
    return np.dtype(_HOST.get(dtype) or getattr(ml_dtypes, dtype, None) or dtype)


def numbers(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Values of every class of a dtype (NaN, infinities, zeros, subnormals, ties, limits) among random
    ones."""
    rng = np.random.default_rng([seed, *map(ord, dtype)])
    count = int(np.prod(shape))
    kind = host(dtype)
    if dtype == "bool_":
        return rng.integers(0, 2, shape).astype(np.uint8)
    if kind.itemsize == 1:
        return np.resize(np.arange(256, dtype=np.uint8), count).reshape(shape).view(kind)
    if dtype in INTEGERS:
        limits = np.iinfo(kind)
        values = rng.integers(limits.min, limits.max, count, dtype=np.int64, endpoint=True) >> rng.integers(
            0, 31, count
        )
        values[:6] = np.resize([0, 1, limits.max, limits.min, 3, 2**24 % limits.max], min(6, count))
        return values.astype(kind).reshape(shape)
    values = (rng.standard_normal(count) * 2.0 ** rng.integers(-30, 30, count)).astype(np.float32)
    special = rng.permutation(len(SPECIAL))[: min(count // 2, len(SPECIAL))]
    values[rng.permutation(count)[: len(special)]] = SPECIAL[special]
    return stored(values, dtype).reshape(shape)


def floats(array: Array, dtype: str | None = None) -> Array:
    """The fp32 value of every element, as an engine reads it."""
    if dtype == "bool_":
        return (array != 0).astype(np.float32)
    with np.errstate(invalid="ignore"):
        return array.astype(np.float32)


def stored(values: Array, dtype: str) -> Array:
    """fp32 `values` rounded once to a dtype, by NumPy and ml_dtypes: to nearest even; integers saturate, NaN
    is 0."""
    values = np.asarray(values, np.float32)
    with np.errstate(all="ignore"):
        if dtype == "bool_":
            return (values != 0).astype(np.uint8)
        if dtype in INTEGERS:
            limits = np.iinfo(dtype)
            whole = np.rint(values.astype(np.float64))
            return np.clip(np.where(np.isnan(whole), 0, whole), limits.min, limits.max).astype(dtype)
        if dtype == "tfloat32":
            codes = values.view(np.uint32).astype(np.uint64)
            rounded = ((codes + 0xFFF + ((codes >> 13) & 1)) & 0xFFFFE000).astype(np.uint32).view(np.float32)
            return np.where(np.isnan(values), values, rounded)
        return values.astype(host(dtype))


def assert_same(got: Array, expected: Array, what: str = "") -> None:
    """Equal shapes and bits; any NaN equals any NaN, +0 differs from -0."""
    expected = np.asarray(expected)
    assert got.dtype == expected.dtype, f"{what}: got {got.dtype}, expected {expected.dtype}"
    assert got.size == expected.size, f"{what}: got {got.shape}, expected {expected.shape}"
    expected = expected.reshape(got.shape)
    code = f"u{got.dtype.itemsize}"
    same = np.ascontiguousarray(got).view(code) == np.ascontiguousarray(expected).view(code)
    if got.dtype.kind not in "iu":
        same |= np.isnan(got.astype(np.float32)) & np.isnan(expected.astype(np.float32))
    if not same.all():
        where = [tuple(map(int, index)) for index in np.argwhere(~same)[:5]]
        shown = "; ".join(f"{index}: got {got[index]!r}, expected {expected[index]!r}" for index in where)
        raise AssertionError(f"{what}: {np.count_nonzero(~same)} of {same.size} differ: {shown}")


def execute(
    program: Program,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, tuple[tuple[int, ...], str]],
    *,
    psum: Collection[str] = (),
    generation: str = "gen3",
    profile: NumericsProfile = DEFAULT,
    checks: str = "error",
) -> dict[str, Array]:
    """Load `inputs` (array, or (array, dtype)) into tiles, run `program(tiles)`, and return the `outputs`.

    A name in both is updated in place. Names in `psum` become PSUM tiles, the others SBUF tiles.
    """
    options = Options(profile=profile, checks=checks)
    arrays, function = _kernel(program, inputs, outputs, psum)
    results = launch(function, *arrays, generation=generation, options=options).outputs
    return dict(zip(outputs, results, strict=True))


def refused(
    program: Program,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, tuple[tuple[int, ...], str]],
    *,
    psum: Collection[str] = (),
    generation: str = "gen3",
    profile: NumericsProfile = DEFAULT,
) -> MachineError:
    """The MachineError that stops `program`; it names an instruction and a place in the tests."""
    arrays, function = _kernel(program, inputs, outputs, psum)
    error = refusal(function, *arrays, generation=generation, options=Options(profile=profile))
    text = str(error)
    assert text.startswith("nisa."), text
    assert "tests/machine/" in (error.location or ""), text
    return error


def _kernel(
    program: Program,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, tuple[tuple[int, ...], str]],
    psum: Collection[str],
) -> tuple[list[Array], Callable[..., Any]]:
    pairs = {name: value if isinstance(value, tuple) else (value, value.dtype) for name, value in inputs.items()}

    def kernel(*sources: Any) -> Any:
        tiles = SimpleNamespace()
        for (name, (_, dtype)), source in zip(pairs.items(), sources, strict=True):
            setattr(tiles, name, _loaded(source, dtype, name in psum))
        for name, (shape, dtype) in outputs.items():
            if name not in pairs:
                setattr(tiles, name, nl.ndarray(shape, dtype, nl.psum if name in psum else nl.sbuf))
        program(tiles)
        return tuple(_unloaded(getattr(tiles, name)) for name in outputs)

    return [np.ascontiguousarray(array) for array, _ in pairs.values()], kernel


def _loaded(source: Any, dtype: Any, in_psum: bool) -> Any:
    tile = nl.ndarray(source.shape, dtype, nl.sbuf)
    nisa.dma_copy(tile.view(source.dtype), source)
    if not in_psum:
        return tile
    moved = nl.ndarray(source.shape, dtype, nl.psum)
    nisa.tensor_copy(moved, tile)
    return moved


def _unloaded(tile: Any) -> Any:
    if tile.buffer is nl.psum:
        copy = nl.ndarray(tile.shape, tile.dtype, nl.sbuf)
        nisa.tensor_copy(copy, tile)
        tile = copy
    plain = tile.view(host(str(tile.dtype)))
    result = nl.ndarray(tile.shape, plain.dtype, nl.shared_hbm)
    nisa.dma_copy(result, plain)
    return result
