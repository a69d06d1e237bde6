"""`nki-oracle run`: one kernel of anyone's, on the embedded machine, with what it executed."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from conformance import lanes
from conformance.randomness import Stream
from reference.neuroncore.errors import NkiValidationError
from reference.neuroncore.options import Options
from reference.neuroncore.trace import Instruction, Trace
from reference.numerics.formats import format_of
from tools import selection
from tools.errors import BadInput
from tools.output import console, require_folder, write_json

_ARG_HELP = (
    "NAME=VALUE, once per argument. VALUE: a .npy file; SHAPE:DTYPE[:LANE] for generated data, e.g. "
    "128x512:bfloat16 or 4:int32:exact; or a Python literal (True, None, 0.5, (1, 2))."
)


def run(
    target: Annotated[str, typer.Argument(metavar="FILE:KERNEL")],
    arg: Annotated[list[str] | None, typer.Option(help=_ARG_HELP)] = None,
    lnc: Annotated[int, typer.Option(min=1, max=2, help="Cores of the launch.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of generated data.")] = 0,
    interleaving: Annotated[int | None, typer.Option(help="Seed of the cores' turns; fixed turns if none.")] = None,
    checks: Annotated[str, typer.Option(help="error, warn or off: what a broken rule of the machine does.")] = "error",
    trace: Annotated[bool, typer.Option("--trace", help="List every instruction.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write trace, counters and outputs as JSON ('-': stdout).")] = None,
) -> int:
    """Run a kernel, print outputs, counters and, with --trace, instructions; exit 1 if the machine stops it."""
    selection.usable_backend("sim")
    require_folder(save)
    kernel = load_kernel(target)
    arguments = dict(_argument(text, seed) for text in arg or [])
    options = _options(checks, interleaving, trace or save is not None)
    try:
        result = kernel[lnc].launch((), arguments, options)
    except NkiValidationError as error:
        console().print(f"{target}: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1
    except TypeError as error:
        raise BadInput(f"{target}: {error}") from None
    if trace:
        _print_instructions(result.trace)
    _print_summary(target, result.outputs, result.trace)
    if save is not None:
        write_json(save, _document(target, result.outputs, result.trace))
    return 0


def load_kernel(target: str) -> Any:
    """The Kernel that `FILE:KERNEL` names; a plain function is wrapped. BadInput where there is none."""
    name, _, attribute = target.partition(":")
    path = Path(name)
    if not path.is_file() or not attribute:
        raise BadInput(f"'{target}' is no FILE:KERNEL; name a Python file and a function in it")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Kernels import their neighbours, as they would when run from their own folder.
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadInput(f"{name} cannot be imported: {type(error).__name__}: {error}") from None
    if not hasattr(module, attribute):
        raise BadInput(f"{name} has no '{attribute}'")
    import nki

    return nki.simulate(getattr(module, attribute))


def _options(checks: str, interleaving: int | None, trace: bool) -> Options:
    try:
        return Options(checks=checks, races="off" if checks == "off" else checks, seed=interleaving, trace=trace)
    except ValueError as error:
        raise BadInput(str(error)) from None


def _argument(text: str, seed: int) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise BadInput(f"--arg {text}: write NAME=VALUE")
    if value.endswith(".npy"):
        return name, _file(name, value)
    if ":" in value:
        return name, _generated(name, value, seed)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        raise BadInput(f"--arg {text}: {value!r} is no .npy file, SHAPE:DTYPE or Python literal") from None


def _file(name: str, value: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(value, allow_pickle=False)
        return array
    except (OSError, ValueError) as error:
        raise BadInput(f"--arg {name}={value}: {error}") from None


def _generated(name: str, value: str, seed: int) -> NDArray[Any]:
    shape, _, rest = value.partition(":")
    dtype, _, lane = rest.partition(":")
    try:
        sizes = tuple(int(size) for size in shape.split("x"))
        fmt = format_of(dtype)
    except ValueError as error:
        raise BadInput(f"--arg {name}={value}: {error}; write e.g. 128x512:bfloat16") from None
    kind = lane or ("normal" if fmt.kind == "float" else "exact")
    if kind not in lanes.LANES:
        raise BadInput(f"--arg {name}={value}: no lane '{kind}'; known: {', '.join(lanes.LANES)}")
    return lanes.fill(kind, Stream(seed, "run", name), sizes, fmt)


def _print_instructions(trace: Trace) -> None:
    table = Table("core", "#", "engine", "instruction", "operands", "where", title="instructions")
    for one in trace.instructions:
        table.add_row(str(one.core), str(one.seq), one.engine, one.op, _operands(one), one.location)
    console().print(table)


def _operands(instruction: Instruction) -> str:
    return "\n".join(
        f"{operand.role}: {operand.name or '-'} {list(operand.shape)} {operand.dtype} "
        f"{operand.region}[{operand.address[0]}, {operand.address[1]}]"
        for operand in instruction.operands
    )


def _print_summary(target: str, outputs: Any, trace: Trace) -> None:
    table = Table("core", "engine", "instructions", title=f"{target}")
    for core, counters in enumerate(trace.counters):
        for engine, count in sorted(counters.instructions.items()):
            table.add_row(str(core), engine, str(count))
    screen = console()
    screen.print(table)
    for core, counters in enumerate(trace.counters):
        screen.print(
            f"core {core}: {counters.macs:,} MACs, {counters.dma_bytes:,} B by DMA, at most "
            f"{counters.sbuf_high_water:,} B of SBUF and {counters.psum_high_water:,} B of PSUM per partition",
            highlight=False,
        )
    for place, array in enumerate(_arrays(outputs)):
        screen.print(f"output {place}: {array.dtype} {list(array.shape)}", highlight=False, markup=False)
        screen.print(np.array2string(array.astype(np.float64), threshold=16, precision=6), markup=False)


def _arrays(outputs: Any) -> list[NDArray[Any]]:
    if isinstance(outputs, np.ndarray):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = tuple(outputs.values())
    return [array for item in outputs or () for array in _arrays(item)] if isinstance(outputs, (tuple, list)) else []


def _document(target: str, outputs: Any, trace: Trace) -> dict[str, Any]:
    return {
        "kernel": target,
        "cores": [
            {
                "instructions": dict(counters.instructions),
                "ops": dict(counters.ops),
                "macs": counters.macs,
                "dma_bytes": counters.dma_bytes,
                "sbuf_high_water": counters.sbuf_high_water,
                "psum_high_water": counters.psum_high_water,
            }
            for counters in trace.counters
        ],
        "by_line": dict(Counter(one.location for one in trace.instructions)),
        "instructions": [_record(one) for one in trace.instructions],
        "outputs": [
            {"dtype": str(a.dtype), "shape": a.shape, "values": a.astype(np.float64).ravel().tolist()}
            for a in _arrays(outputs)
        ],
    }


def _record(one: Instruction) -> dict[str, Any]:
    operands = [
        {"role": o.role, "name": o.name, "dtype": o.dtype, "shape": o.shape, "region": o.region, "address": o.address}
        for o in one.operands
    ]
    return {"core": one.core, "seq": one.seq, "op": one.op, "engine": one.engine, "at": one.location,
            "label": one.label, "operands": operands}  # fmt: skip
