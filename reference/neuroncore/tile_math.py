"""What the functions of nki.language compute: each reads tiles and fills a fresh one.

They are conveniences, not single hardware instructions: fp32 inside, correctly rounded functions, one
rounding on write. Operators that an engine has go to that engine's instruction (`binary`). Sources: API fact
sheet 3.1, 3.3, 3.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.alu import BINARY
from reference.numerics.cast import cast, to_float32
from reference.numerics.elementary import FUNCTIONS
from reference.numerics.reduce import REDUCTIONS, reduce_add, reduce_max

from . import vector_engine
from .core import Core
from .errors import MachineError
from .instruction import check_compute, check_tensor, instruction, kernel_location
from .launch import current_core
from .region import MemoryRegion
from .tensor import Tensor

Array = NDArray[Any]


# ---- filling ----


@instruction("gpsimd")
def fill(core: Core, target: Tensor, value: Any) -> None:
    """Every element = value, rounded to the tensor's dtype."""
    if target.fmt.kind == "int":
        core.write_bits("dst", target, np.full(target.shape, int(value), target.fmt.storage))
    elif target.fmt.kind == "packed":
        if value != 0:
            raise MachineError("operand.dtype", f"{target.dtype} can only be filled with 0, got {value!r}")
        core.write_bits("dst", target, np.zeros(target.shape, target.fmt.storage))
    else:
        core.write("dst", target, np.full(target.shape, value, np.float32))


@instruction("dma")
def fill_identity(core: Core, target: Tensor) -> None:
    """Ones on the diagonal, zeros elsewhere."""
    values = np.eye(target.shape[0], target.size // target.shape[0], dtype=np.float32)
    core.write("dst", target, values)


@instruction("gpsimd")
def fill_random(core: Core, target: Tensor) -> None:
    """Uniform numbers in [0, 1) from the generator of this core."""
    core.write("dst", target, _uniform(core, target.size).reshape(target.shape))


@instruction("gpsimd")
def random_seed(core: Core, seed: Any) -> None:
    """Seed the generator from a one-element tensor."""
    source = check_tensor("seed", seed)
    if source.size != 1:
        raise MachineError("random.seed", f"{source.shape} must be (1, 1)", operand="seed")
    word = core.read("seed", source).reshape(1).view(f"u{source.itemsize}")[0]
    core.random_counter = int(word) << 32


def _uniform(core: Core, count: int) -> NDArray[np.float32]:
    """24 random bits as fp32 in [0, 1): splitmix64 of a counter, integer operations only."""
    z = np.arange(core.random_counter, core.random_counter + count, dtype=np.uint64)
    core.random_counter += count
    with np.errstate(over="ignore"):
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


# ---- element-wise ----


def _fmod(a: Array, b: Array) -> Array:
    # The remainder of a truncated division is exact, in C as in IEEE 754.
    return np.asarray(np.fmod(a, b), np.float32)


def _mod(a: Array, b: Array) -> Array:
    """Remainder with the sign of the divisor."""
    rest = _fmod(a, b)
    wrong = (rest != 0) & ((rest < 0) != (b < 0))
    return np.asarray(np.where(wrong, rest + b, rest), np.float32)


#: Functions that no engine has: IEEE-exact, or exact by nature.
_OWN: Mapping[str, Callable[..., Array]] = {
    "divide": np.divide,
    "mod": _mod,
    "fmod": _fmod,
    "negative": np.negative,
    "ceil": np.ceil,
    "floor": np.floor,
    "trunc": np.trunc,
    "logical_not": lambda x: np.asarray(x == 0, np.float32),
}


def fresh(shape: tuple[int, ...], dtype: Any, region: MemoryRegion = MemoryRegion.sbuf) -> Tensor:
    """A fresh tile for a result."""
    file, line = kernel_location()
    return current_core().allocate(shape, dtype, region, "", None, f"{file}:{line}")


def unary(name: str, x: Any, dtype: Any) -> Tensor:
    """A tile of `name` of every element; dtype defaults to x's."""
    source = check_tensor("x", x)
    target = fresh(source.shape, source.dtype if dtype is None else dtype)
    if name == "invert":
        vector_engine.tensor_scalar(target, source, "invert", None)
    else:
        elementwise(target, name, source)
    return target


def binary(name: str, x: Any, y: Any, dtype: Any) -> Tensor:
    """A tile of x `name` y; either may be a number; dtype defaults to that of the first tile."""
    tiles = [value for value in (x, y) if isinstance(value, Tensor)]
    if not tiles:
        raise MachineError("operand.type", f"nl.{name} needs a tile, got {x!r} and {y!r}")
    if len(tiles) == 2 and tiles[0].shape != tiles[1].shape:
        raise MachineError(
            "operand.shape",
            f"nl.{name} of {tiles[0].shape} and {tiles[1].shape}: shapes must be equal",
            remedy="nothing is broadcast; use .broadcast or a stride-0 .ap() view",
        )
    target = fresh(tiles[0].shape, tiles[0].dtype if dtype is None else dtype)
    if name in _OWN or (name == "power" and len(tiles) == 1):
        elementwise(target, name, x, y)
    elif len(tiles) == 2:
        vector_engine.tensor_tensor(target, x, y, name)
    else:
        number = y if isinstance(x, Tensor) else x
        vector_engine.tensor_scalar(target, tiles[0], name, number, not isinstance(x, Tensor))
    return target


@instruction("vector")
def elementwise(core: Core, target: Tensor, name: str, *operands: Any) -> None:
    """target = name(operands) in fp32, one rounding."""
    values = [_fp32(core, f"operand {i}", value, target) for i, value in enumerate(operands)]
    function: Any = _OWN.get(name) or FUNCTIONS.get(name)
    result = function(*values) if function is not None else BINARY[name](*values, core.profile)
    core.write("dst", target, np.asarray(result, np.float32))


def _fp32(core: Core, role: str, value: Any, target: Tensor) -> Array:
    if not isinstance(value, Tensor):
        return np.asarray(np.float32(value))
    return core.read_float(role, check_compute(role, value)).reshape(target.shape)


def where(condition: Any, x: Any, y: Any, dtype: Any) -> Tensor:
    """x where condition is not 0, else y; x and y tiles or numbers. Equal dtypes keep their bits."""
    mask = check_tensor("condition", condition)
    tiles = [value for value in (x, y) if isinstance(value, Tensor)]
    kind = dtype if dtype is not None else (tiles[0] if tiles else mask).dtype
    target = fresh(mask.shape, kind)
    select(target, mask, x, y)
    return target


@instruction("vector")
def select(core: Core, target: Tensor, mask: Tensor, x: Any, y: Any) -> None:
    """target = where(mask, x, y)."""
    chosen = core.read("condition", check_compute("condition", mask)) != 0
    sides = [_stored(core, role, value, target) for role, value in (("x", x), ("y", y))]
    core.write_bits("dst", target, np.where(chosen, *sides))


def _stored(core: Core, role: str, value: Any, target: Tensor) -> Array:
    """A number or a tile in the storage dtype of `target`."""
    if not isinstance(value, Tensor):
        if target.fmt.kind == "int" and isinstance(value, (int, np.integer)):
            return np.full(target.shape, value, target.fmt.storage)
        return cast(np.full(target.shape, value, np.float32), target.fmt, core.profile)
    tile = check_compute(role, value)
    if tile.size != target.size or tile.shape[0] != target.shape[0]:
        raise MachineError("operand.shape", f"{tile.shape} does not match {target.shape}", operand=role)
    values = core.read(role, tile).reshape(target.shape)
    return (
        values if tile.dtype == target.dtype else cast(to_float32(values, tile.fmt), target.fmt, core.profile)
    )


def dropout(x: Any, rate: float, dtype: Any) -> Tensor:
    """x with each element zeroed with probability `rate`; nothing is rescaled."""
    source = check_tensor("x", x)
    target = fresh(source.shape, source.dtype if dtype is None else dtype)
    _drop(target, source, rate)
    return target


@instruction("vector")
def _drop(core: Core, target: Tensor, source: Tensor, rate: float) -> None:
    values = _stored(core, "x", source, target)
    kept = _uniform(core, target.size).reshape(target.shape) >= np.float32(rate)
    core.write_bits("dst", target, np.where(kept, values, np.zeros((), values.dtype)))


# ---- reductions ----


def reduce(name: str, x: Any, axis: Any, dtype: Any, keepdims: bool) -> Tensor:
    """A tile of x reduced over its last contiguous free axes."""
    source = check_tensor("x", x)
    count = len(free_axes(source, axis))
    kept = source.shape[: source.ndim - count]
    shape = kept + (1,) * (count if keepdims else int(len(kept) == 1))
    target = fresh(shape, source.dtype if dtype is None else dtype)
    reduction(target, name, source, count)
    return target


def free_axes(tensor: Tensor, axis: Any) -> tuple[int, ...]:
    """`axis` as ascending axes, which must be the last ones and not the partition axis."""
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = tuple(sorted(int(a) % tensor.ndim for a in given))
    if not axes or axes != tuple(range(tensor.ndim - len(axes), tensor.ndim)) or axes[0] == 0:
        raise MachineError(
            "reduce.axis",
            f"axis {axis} of {tensor.shape}: axis must be the last contiguous free dim(s) of the tile",
        )
    return axes


@instruction("vector")
def reduction(core: Core, target: Tensor, name: str, source: Tensor, count: int) -> None:
    """target = name over the last `count` axes, in fp32."""
    values = core.read_float("x", check_compute("x", source)).reshape(source.shape)
    rows = values.reshape(*source.shape[: source.ndim - count], -1)
    core.write("dst", target, _reduced(core, name, rows))


def _reduced(core: Core, name: str, rows: Array) -> Array:
    length = np.float32(rows.shape[-1])
    if name == "mean":
        return np.asarray(reduce_add(rows, core.profile) / length)
    if name == "var":
        mean = reduce_add(rows, core.profile) / length
        return np.asarray(reduce_add(np.square(rows - mean[..., None]), core.profile) / length)
    return REDUCTIONS[name](rows, core.profile)


def softmax(x: Any, axis: Any, dtype: Any) -> Tensor:
    """exp(x - max) * (1 / sum), each step in fp32."""
    source = check_tensor("x", x)
    target = fresh(source.shape, source.dtype if dtype is None else dtype)
    _softmax(target, source, len(free_axes(source, axis)))
    return target


@instruction("vector")
def _softmax(core: Core, target: Tensor, source: Tensor, count: int) -> None:
    values = core.read_float("x", check_compute("x", source)).reshape(source.shape)
    rows = values.reshape(*source.shape[: source.ndim - count], -1)
    weights = FUNCTIONS["exp"](rows - reduce_max(rows, core.profile)[..., None])
    total = reduce_add(weights, core.profile)[..., None]
    core.write("dst", target, weights * FUNCTIONS["reciprocal"](total))


def rms_norm(x: Any, w: Any, axis: Any, n: int, epsilon: float, dtype: Any, compute_dtype: Any) -> Tensor:
    """x * rsqrt(sum of squares / n + epsilon) * w; `compute_dtype` rounds the normed value before the
    weight."""
    source = check_tensor("x", x)
    target = fresh(source.shape, source.dtype if dtype is None else dtype)
    _rms_norm(target, source, w, len(free_axes(source, axis)), n, epsilon, compute_dtype)
    return target


@instruction("vector")
def _rms_norm(
    core: Core, target: Tensor, source: Tensor, w: Any, count: int, n: int, epsilon: float, middle: Any
) -> None:
    values = core.read_float("x", check_compute("x", source)).reshape(source.shape)
    rows = values.reshape(*source.shape[: source.ndim - count], -1)
    mean = reduce_add(np.square(rows), core.profile) / np.float32(n)
    normed = rows * FUNCTIONS["rsqrt"](mean + np.float32(epsilon))[..., None]
    normed = normed.reshape(source.shape)
    if middle is not None:
        normed = to_float32(cast(normed, middle, core.profile), middle)
    weight = check_compute("w", w)
    core.write("dst", target, normed * core.read_float("w", weight).reshape(weight.shape))


# ---- moving ----


@instruction("dma")
def spread(core: Core, target: Tensor, source: Tensor) -> None:
    """target = source repeated along axes of size 1, also the partition axis."""
    values = core.read("x", check_compute("x", source))
    if source.dtype != target.dtype:
        values = cast(to_float32(values, source.fmt), target.fmt, core.profile)
    core.write_bits("dst", target, np.broadcast_to(values, target.shape))


@instruction("gpsimd")
def gather(core: Core, target: Tensor, data: Tensor, indices: Tensor) -> None:
    """target[p, k] = data[p, indices[p, k]] with flattened free axes."""
    source = check_compute("data", data)
    values = core.read("data", source).reshape(source.shape[0], -1)
    index = check_compute("indices", indices)
    positions = core.read("indices", index).reshape(index.shape[0], -1).astype(np.int64)
    if (positions < 0).any() or (positions >= values.shape[1]).any():
        raise MachineError(
            "bounds", f"an index outside the {values.shape[1]} elements of a partition", operand="indices"
        )
    picked = np.take_along_axis(values, positions, axis=1)
    if source.dtype != target.dtype:
        picked = cast(to_float32(picked, source.fmt), target.fmt, core.profile)
    core.write_bits("dst", target, picked)
