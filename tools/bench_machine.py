"""Rows of `nki-oracle bench` for the machine itself: what an instruction costs, and what a core occupies.

An instruction is timed inside a launch, so that its own cost is seen and not that of launching; next to it stands
plain NumPy doing the same arithmetic, timed in turn with it.
"""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from reference.neuroncore.generation import current_generation
from reference.neuroncore.options import Options
from reference.numerics.cast import to_float32
from reference.numerics.dot import exact_dot

#: Launches over which memory may not grow.
LAUNCHES = 10_000
_BF16 = np.dtype(ml_dtypes.bfloat16)
_BURST = 20


@dataclass(frozen=True)
class InstructionRow:
    """One instruction: `make(nl, nisa, shape)` allocates operands and returns what issues it once; `plain(x)` is the
    same arithmetic in NumPy on an fp32 (or, for exact_dot, bf16) array of that shape."""

    name: str
    make: Callable[[Any, Any, tuple[int, int]], Callable[[], Any]]
    shape: tuple[int, int]
    plain: Callable[[NDArray[Any]], Any] | None = None
    of: str = ""
    #: The aim: microseconds with all checks where there is no `plain`, else the ratio to it.
    aim: float | None = None


@dataclass(frozen=True)
class InstructionFigures:
    """Microseconds with all checks on and off; the ratio of the former to plain NumPy, None without."""

    row: str
    checked_us: float
    unchecked_us: float
    plain: str
    ratio: float | None
    aim: float | None


@dataclass(frozen=True)
class MemoryFigures:
    """MiB of SBUF and PSUM of one core as allocated, and KiB the process grew by over `LAUNCHES` launches."""

    core_mib: float
    grown_kib: float
    launch_us: float


def _tile(nl: Any, nisa: Any, shape: tuple[int, int], dtype: str = "bfloat16") -> Any:
    tile = nl.ndarray(shape, dtype=dtype)
    nisa.memset(dst=tile, value=0.5)
    return tile


def _tensor_tensor(nl: Any, nisa: Any, shape: tuple[int, int]) -> Callable[[], Any]:
    a, b, c = _tile(nl, nisa, shape), _tile(nl, nisa, shape), _tile(nl, nisa, shape)
    return lambda: nisa.tensor_tensor(dst=c, data1=a, data2=b, op=nl.add)


def _activation(op: str) -> Callable[[Any, Any, tuple[int, int]], Callable[[], Any]]:
    def make(nl: Any, nisa: Any, shape: tuple[int, int]) -> Callable[[], Any]:
        a, c = _tile(nl, nisa, shape), _tile(nl, nisa, shape)
        return lambda: nisa.activation(dst=c, op=getattr(nl, op), data=a)

    return make


def _dma_copy(nl: Any, nisa: Any, shape: tuple[int, int]) -> Callable[[], Any]:
    a, c = _tile(nl, nisa, shape), _tile(nl, nisa, shape)
    return lambda: nisa.dma_copy(dst=c, src=a)


def _nc_matmul(nl: Any, nisa: Any, shape: tuple[int, int]) -> Callable[[], Any]:
    stationary, moving = _random_tile(nl, nisa, (128, 128)), _random_tile(nl, nisa, shape)
    psum = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
    return lambda: nisa.nc_matmul(dst=psum, stationary=stationary, moving=moving, accumulate=False)


def _random_tile(nl: Any, nisa: Any, shape: tuple[int, int]) -> Any:
    constant = nl.shared_constant(_random(shape).astype(_BF16))
    tile = nl.ndarray(shape, dtype=nl.bfloat16)
    nisa.dma_copy(dst=tile, src=constant)
    return tile


def _random(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


_SMALL, _WIDE = (128, 64), (128, 2048)
ROWS = (
    InstructionRow("tensor_tensor [128 x 64]", _tensor_tensor, _SMALL, aim=60),
    InstructionRow("activation copy [128 x 64]", _activation("copy"), _SMALL, aim=60),
    InstructionRow("activation exp [128 x 64]", _activation("exp"), _SMALL, aim=60),
    InstructionRow("dma_copy [128 x 64]", _dma_copy, _SMALL, aim=60),
    InstructionRow("tensor_tensor [128 x 2048]", _tensor_tensor, _WIDE, lambda x: x + x, "fp32 add", 10),
    InstructionRow("activation square [128 x 2048]", _activation("square"), _WIDE, np.square, "fp32 square", 10),
    InstructionRow("activation exp [128 x 2048]", _activation("exp"), _WIDE, np.exp, "fp32 exp", 15),
    InstructionRow("nc_matmul 128 x 128 x 512", _nc_matmul, (128, 512), None, "exact dot", 2),
)


def measure_instruction(row: InstructionRow, repeats: int) -> InstructionFigures:
    """Medians over `repeats` bursts of each kind, taken in turn."""
    plain = _plain(row)
    checked, unchecked, reference = [], [], []
    for _ in range(repeats):
        checked.append(_burst(row, "error"))
        unchecked.append(_burst(row, "off"))
        if plain is not None:
            reference.append(_timed(plain))
    ratio = statistics.median(checked) / statistics.median(reference) if reference else None
    return InstructionFigures(
        row.name, statistics.median(checked) * 1e6, statistics.median(unchecked) * 1e6, row.of, ratio, row.aim
    )


def _plain(row: InstructionRow) -> Callable[[], Any] | None:
    if row.of == "exact dot":
        a, b = _random((128, 128)).astype(_BF16), _random(row.shape).astype(_BF16)
        return lambda: exact_dot(a, b)
    if row.plain is None:
        return None
    function, x = row.plain, to_float32(_random(row.shape).astype(_BF16))
    return lambda: function(x)


def _timed(step: Callable[[], Any]) -> float:
    """Seconds of one call: the best of a burst, since anything slower measured something else."""
    best = float("inf")
    for _ in range(_BURST):
        started = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - started)
    return best


def _burst(row: InstructionRow, checks: str) -> float:
    import nki
    import nki.isa as nisa
    import nki.language as nl

    seconds: list[float] = []
    kernel: Any = nki.simulate(lambda: seconds.append(_timed(row.make(nl, nisa, row.shape))))
    kernel.launch((), {}, Options(checks=checks))
    return seconds[0]


def measure_memory() -> MemoryFigures:
    """What one core's SBUF and PSUM take, what a launch costs, and how far launches make the process grow."""
    import nki
    import nki.isa as nisa
    import nki.language as nl

    @nki.jit
    def small(x: Any) -> Any:
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        tile = nl.ndarray(x.shape, dtype=x.dtype)
        nisa.dma_copy(dst=tile, src=x)
        nisa.dma_copy(dst=out, src=tile)
        return out

    x = _random(_SMALL)
    for _ in range(100):
        small(x)
    gc.collect()
    before, started = _resident_kib(), time.perf_counter()
    for _ in range(LAUNCHES):
        small(x)
    seconds = time.perf_counter() - started
    generation = current_generation()
    core = generation.partitions * (generation.sbuf_bytes + generation.psum_bytes)
    return MemoryFigures(core / 2**20, _resident_kib() - before, seconds / LAUNCHES * 1e6)


def _resident_kib() -> float:
    # The high-water mark: it can only grow, and does so as soon as anything is kept.
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
