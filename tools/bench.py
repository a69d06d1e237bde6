"""`nki-oracle bench`: how slow the reference is, as ratios to plain NumPy measured in the same run.

Seconds say more about the machine than about the code, so every figure stands beside one of NumPy that
was measured in turn with it, on one BLAS thread, in one process of its own. Times are medians. Peak memory
is what Python and NumPy allocated above the inputs (tracemalloc), in a run that is not timed.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import ml_dtypes
import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from conformance.backends import available, backend
from conformance.entry import launch
from conformance.subject import Bench, Subject
from reference.numerics.cast import to_float32
from reference.numerics.dot import chain_dot, exact_dot
from reference.numerics.formats import format_of
from tools import selection
from tools.bench_machine import (
    LAUNCHES,
    ROWS,
    InstructionFigures,
    MemoryFigures,
    measure_instruction,
    measure_memory,
)
from tools.output import console, note, require_folder, write_json
from tools.pool import run_all

Arrays = Mapping[str, NDArray[Any]]
Steps = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True)
class KernelFigures:
    """One row of the kernel table; `sim_ratio` is None where the machine cannot run here."""

    kernel: str
    row: str
    numpy_seconds: float
    model_ratio: float
    sim_ratio: float | None
    model_peak_mib: float
    sim_peak_mib: float | None


@dataclass(frozen=True)
class DotRow:
    """One product of the dot table: `tiles` products [K, M] x [K, N] at once."""

    name: str
    dtype: Any
    function: Callable[..., Any]
    k: int = 128
    m: int = 128
    n: int = 512
    tiles: int = 16

    @property
    def operations(self) -> int:
        """Multiplications and additions of all tiles."""
        return 2 * self.tiles * self.k * self.m * self.n


@dataclass(frozen=True)
class DotFigures:
    """One row of the dot table."""

    row: str
    gflops: float
    sgemm_gflops: float
    sgemm_ratio: float


DOT_ROWS = (
    DotRow("exact, bfloat16", ml_dtypes.bfloat16, exact_dot),
    DotRow("exact, float16", np.float16, exact_dot),
    DotRow("exact, float8_e4m3", ml_dtypes.float8_e4m3, exact_dot),
    DotRow("exact, float32", np.float32, exact_dot),
    DotRow("chain, bfloat16", ml_dtypes.bfloat16, chain_dot, tiles=2),
)


@dataclass(frozen=True)
class Job:
    """One row: of a kernel, or where there is none to judge of the table that `table` names."""

    judged: selection.Judged | None
    row: int
    repeats: int
    table: str = "dot"


def bench(
    kernels: Annotated[list[str] | None, typer.Argument(metavar="[KERNEL]...")] = None,
    repeats: Annotated[int, typer.Option(help="Measurements per figure; the median counts.", min=1)] = 5,
    provider: Annotated[str | None, typer.Option(help="Somebody's kernels: module:attribute.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> int:
    """Ratios of model and simulated kernel to plain NumPy, the exact dot product, and what the machine costs."""
    chosen = selection.judged(kernels or [], None, provider)
    require_folder(json_file)
    asked = [(selection.Judged.of(subject), range(len(subject.bench))) for subject in chosen.subjects]
    todo = [Job(judged, row, repeats) for judged, rows in asked for row in rows]
    todo += [Job(None, row, repeats) for row in range(len(DOT_ROWS))]
    if available("sim").here:
        todo += [Job(None, row, repeats, "machine") for row in range(len(ROWS))]
        todo.append(Job(None, 0, repeats, "memory"))
    figures = run_all(measure, todo, 1, "measuring", apart=True)
    ladder = [one for one in figures if isinstance(one, KernelFigures)]
    dots = [one for one in figures if isinstance(one, DotFigures)]
    machine = [one for one in figures if isinstance(one, InstructionFigures)]
    memory = [one for one in figures if isinstance(one, MemoryFigures)]
    if json_file is not None:
        tables: dict[str, list[Any]] = {"kernels": ladder, "dots": dots, "instructions": machine, "memory": memory}
        rows = {name: [asdict(one) for one in table] for name, table in tables.items()}
        write_json(json_file, {"command": "bench", "version": 1, **rows})
    if json_file != Path("-"):
        console().print(_kernel_table(ladder), "", _dot_table(dots), "", _machine_table(machine))
        for one in memory:
            console().print(_memory_line(one), soft_wrap=True, highlight=False)
        note(chosen.remark())
    return 0


def measure(job: Job) -> KernelFigures | DotFigures | InstructionFigures | MemoryFigures:
    """The figures of one row, measured in this process."""
    if job.table == "machine":
        return measure_instruction(ROWS[job.row], job.repeats)
    if job.table == "memory":
        return measure_memory()
    if job.judged is None:
        return _measure_dot(DOT_ROWS[job.row], job.repeats)
    subject = job.judged.subject()
    return _measure_kernel(subject, subject.bench[job.row], job.repeats)


def _measure_kernel(subject: Subject, row: Bench, repeats: int) -> KernelFigures:
    inputs = subject.build(row.config, row.lane, row.seed)
    plain = {name: _fp32(array) for name, array in inputs.items()}
    steps: dict[str, Callable[[], Any]] = {
        "numpy": lambda: row.numpy_fp32(row.config, plain),
        "model": lambda: subject.model(row.config, inputs),
    }
    if available("sim").here:
        sim = backend("sim")
        steps["sim"] = lambda: launch(subject, row.config, inputs, sim)
    seconds = _medians(steps, repeats)
    return KernelFigures(
        subject.name,
        row.name,
        seconds["numpy"],
        seconds["model"] / seconds["numpy"],
        seconds["sim"] / seconds["numpy"] if "sim" in seconds else None,
        _peak_mib(steps["model"]),
        _peak_mib(steps["sim"]) if "sim" in steps else None,
    )


def _fp32(array: NDArray[Any]) -> NDArray[Any]:
    return to_float32(array) if format_of(array.dtype).kind == "float" else array


def _measure_dot(row: DotRow, repeats: int) -> DotFigures:
    generator = np.random.default_rng(0)
    a = generator.standard_normal((row.tiles, row.k, row.m), np.float32).astype(row.dtype)
    b = generator.standard_normal((row.tiles, row.k, row.n), np.float32).astype(row.dtype)
    left, right = to_float32(a).swapaxes(-1, -2), to_float32(b)
    seconds = _medians({"dot": lambda: row.function(a, b), "sgemm": lambda: left @ right}, repeats)
    gflops = {name: row.operations / one / 1e9 for name, one in seconds.items()}
    return DotFigures(row.name, gflops["dot"], gflops["sgemm"], seconds["dot"] / seconds["sgemm"])


def _medians(steps: Steps, repeats: int) -> dict[str, float]:
    """Median seconds per step; taken in turn, so that a slow moment of the machine hits all of them."""
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in times.items()}


def _peak_mib(step: Callable[[], Any]) -> float:
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def _kernel_table(figures: list[KernelFigures]) -> Table:
    table = _table("kernel", "row", "NumPy fp32 ms", "model / NumPy", "sim / NumPy", "model MiB", "sim MiB")
    for one in figures:
        milliseconds = f"{one.numpy_seconds * 1e3:.2f}"
        peaks = f"{one.model_peak_mib:.1f}", _number(one.sim_peak_mib)
        table.add_row(one.kernel, one.row, milliseconds, f"{one.model_ratio:.1f}", _number(one.sim_ratio), *peaks)
    return table


def _machine_table(figures: list[InstructionFigures]) -> Table:
    table = _table("instruction", "", "us, all checks", "us, no checks", "/ plain", "", "aim")
    for one in figures:
        aim = "" if one.aim is None else f"{one.aim:.0f}" + (" us" if one.ratio is None else "x")
        ratio = _number(one.ratio, "")
        table.add_row(one.row, "", f"{one.checked_us:.1f}", f"{one.unchecked_us:.1f}", ratio, one.plain, aim)
    return table


def _memory_line(one: MemoryFigures) -> str:
    return (
        f"one core: {one.core_mib:.0f} MiB of SBUF and PSUM, shadowed only where tiles are written in part; "
        f"a small launch {one.launch_us:.0f} us; {LAUNCHES:,} launches grew the process by {one.grown_kib:.0f} KiB"
    )


def _number(value: float | None, none: str = "-") -> str:
    return none if value is None else f"{value:.1f}"


def _dot_table(figures: list[DotFigures]) -> Table:
    table = _table("dot product", "", "GFLOP/s", "sgemm GFLOP/s", "time / sgemm")
    for one in figures:
        table.add_row(one.row, "", f"{one.gflops:.1f}", f"{one.sgemm_gflops:.1f}", f"{one.sgemm_ratio:.1f}")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index < 2 else "right")
    return table
