"""Random numbers: rng, rand2, dropout, and the generators' seeds and states (vector and GpSimd engines)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .accumulator import lanes_of
from .core import Core
from .enums import engine as Engine
from .errors import MachineError
from .instruction import check_compute, instruction
from .operands import (
    INTEGERS,
    dtype_equal,
    dtype_in,
    elements,
    fp32_vector,
    no_psum_on_gpsimd,
    numeric,
    numeric_pair,
    pick_engine,
)
from .tensor import Tensor
from .xorwow import WORDS, Xorwow, seeded

#: dtypes that rand2 can write.
_UNIFORM = INTEGERS | {"float8_e4m3", "float8_e5m2", "float16", "bfloat16", "float32", "tfloat32"}
_FLOATS = _UNIFORM - INTEGERS | {"float8_e4m3fn"}


@instruction("vector")
def rng(core: Core, dst: Any, engine: Any = Engine.unknown) -> str:
    """dst = the low bits of 32 random bits per element."""
    target = check_compute("dst", dst)
    dtype_in("dst", target, INTEGERS)
    allowed = ("vector", "gpsimd") if core.generation.level >= 3 else ("vector",)
    chosen = pick_engine(engine, allowed, "vector")
    no_psum_on_gpsimd(chosen, dst=target)
    bits = _draw(core, chosen, target)
    width = target.itemsize
    core.write_bits("dst", target, bits.astype(f"u{width}").view(target.fmt.storage))
    return chosen


def _draw(core: Core, engine: str, target: Tensor) -> NDArray[np.uint32]:
    return core.generators[engine].draw(lanes_of(target), target.size // target.shape[0])


def _uniform(core: Core, target: Tensor) -> NDArray[np.float32]:
    """fp32 in [0, 1): the upper 24 bits of a draw, exact."""
    return (_draw(core, "vector", target) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


@instruction("vector", since=4)
def rand2(core: Core, dst: Any, min: Any, max: Any) -> None:
    """dst = uniform fp32 numbers from min to max, cast to dst: min + u (max - min), u in [0, 1)."""
    target = numeric("dst", dst)
    dtype_in("dst", target, _UNIFORM)
    count = target.shape[0]
    low, high = fp32_vector(core, "min", min, count), fp32_vector(core, "max", max, count)
    if not np.all(low < high):
        raise MachineError("rand2.range", "min must be below max in every partition", operand="min")
    core.write("dst", target, low + _uniform(core, target) * (high - low))


@instruction("vector")
def dropout(core: Core, dst: Any, data: Any, prob: Any) -> None:
    """dst = data with elements replaced by 0 with probability prob; survivors keep their bits."""
    target, source = numeric_pair(dst, data, "data")
    dtype_equal("data", source, "dst", target)
    threshold = _probability(core, prob, source)
    dropped = (_uniform(core, source) < threshold).reshape(source.shape)
    zero = np.zeros((), source.fmt.storage)
    core.write_bits("dst", target, np.where(dropped, zero, core.read("data", source)))


def _probability(core: Core, prob: Any, source: Tensor) -> Any:
    if isinstance(prob, Tensor):
        dtype_in("prob", prob, {"float32"} if source.fmt.kind != "float" else _FLOATS)
    threshold = fp32_vector(core, "prob", prob, source.shape[0])
    if not np.all((threshold >= 0) & (threshold <= 1)):
        raise MachineError("dropout.prob", f"{prob!r} is no probability", operand="prob", remedy="stay within 0 and 1")
    return threshold


# ---- seeds and states ----------------------------------------------------------------------------------


@instruction("vector")
def set_rng_seed(core: Core, src_seeds: Any) -> None:
    """Seed the vector engine's generators in all lanes with one 32-bit value."""
    source = check_compute("src_seeds", src_seeds)
    if source.size != 1 or source.itemsize != 4:
        raise MachineError("rng.seed", f"{source!r} must be one 32-bit value of shape (1, 1)", operand="src_seeds")
    seed = int(core.read("src_seeds", source).reshape(-1).view(np.uint32)[0])
    generator = core.generators["vector"]
    generator.state = seeded(seed, generator.generators)


@instruction("gpsimd", since=3)
def rand_set_state(core: Core, src_seeds: Any, engine: Any = Engine.gpsimd) -> str:
    """Load the generators' state of the lanes that src_seeds (P, 6 or 24) uint32 covers."""
    chosen, generator = _generator(core, engine)
    source = check_compute("src_seeds", src_seeds, psum=False)
    _check_state("src_seeds", source, generator)
    generator.state[lanes_of(source)] = core.read("src_seeds", source).reshape(source.shape[0], -1)
    return chosen


@instruction("gpsimd", since=3)
def rand_get_state(core: Core, dst: Any, engine: Any = Engine.gpsimd) -> str:
    """Store the generators' state of the lanes that dst (P, 6 or 24) uint32 covers."""
    chosen, generator = _generator(core, engine)
    target = check_compute("dst", dst, psum=core.generation.level >= 4)
    no_psum_on_gpsimd(chosen, dst=target)
    _check_state("dst", target, generator)
    core.write_bits("dst", target, generator.state[lanes_of(target)])
    return chosen


def _generator(core: Core, engine: Any) -> tuple[str, Xorwow]:
    allowed = ("gpsimd", "vector") if core.generation.level >= 4 else ("gpsimd",)
    chosen = pick_engine(engine, allowed, "gpsimd")
    return chosen, core.generators[chosen]


def _check_state(role: str, tensor: Tensor, generator: Xorwow) -> None:
    dtype_in(role, tensor, {"uint32"})
    elements(role, tensor, WORDS * generator.generators)
