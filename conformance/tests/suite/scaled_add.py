"""A tiny kernel as subject of the suite's own tests: y = a * scale + b, and total += a * scale in place.

`kernel` is right; every other function is wrong in one way that its name tells. They run on the host, so
that the suite is tested without the machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance import lanes
from conformance.bounds import Bound
from conformance.randomness import Stream
from conformance.spoilings import Spoiling, other_shape
from conformance.subject import Arrays, Call, Case, Output, Subject
from conformance.tolerances import Tolerance
from reference.contract import Contract, Refusal, RoundingPoint, Rule
from reference.error_terms import exact, plus, rounded, scaled
from reference.numerics.cast import cast, to_float32
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.recorder import NO_RECORD, Recorder

Array = NDArray[Any]


@dataclass(frozen=True)
class Config:
    rows: int = 4
    cols: int = 8
    dtype: str = "bfloat16"
    scale: float = 0.75


RULES: tuple[Rule[Config], ...] = (
    Rule(
        "rows", "a", "rows must be 1 to 128", lambda c: 1 <= c.rows <= 128, lambda c: f"{c.rows}", "tile it"
    ),
    Rule(
        "scale",
        "scale",
        "scale must not be 0",
        lambda c: c.scale != 0,
        lambda c: f"{c.scale}",
        "leave it out",
    ),
)
CONTRACT = Contract[Config](
    kernel="scaled_add",
    summary="y = a * scale + b; total += a * scale",
    arguments=(),
    results=(),
    rules=RULES,
    points=(
        RoundingPoint("product", "float32", "sbuf", "[rows, cols]", ("i",), "a * scale, one rounding"),
        RoundingPoint("sum", "float32", "sbuf", "[rows, cols]", ("i",), "product + b, one rounding"),
    ),
)


def build(config: Config, lane: str, seed: int) -> Arrays:
    shape = (max(config.rows, 0), config.cols)
    stream = Stream(seed, "scaled_add")
    return {
        "a": lanes.fill(lane, stream.child("a"), shape, config.dtype),
        "b": lanes.fill(lane, stream.child("b"), shape, config.dtype),
        "total": lanes.fill(lane, stream.child("total"), shape, "float32"),
    }


SAME_SHAPE: Rule[Arrays] = Rule(
    "same_shape", "b", "b must have the shape of a", lambda given: given["b"].shape == given["a"].shape,
    lambda given: f"{given['b'].shape}", "repeat its rows",
)  # fmt: skip


def call_refusal(config: Config, inputs: Arrays) -> Refusal | None:
    return SAME_SHAPE.refusal("scaled_add", inputs)


def truth(config: Config, inputs: Arrays) -> Arrays:
    a, b, total = (to_float32(inputs[name]).astype(np.float64) for name in ("a", "b", "total"))
    return {"y": a * config.scale + b, "total": total + a * config.scale}


def model(
    config: Config, inputs: Arrays, profile: NumericsProfile = DEFAULT, record: Recorder = NO_RECORD
) -> Arrays:
    product = to_float32(inputs["a"]) * np.float32(config.scale)
    record("product", (0,), product)
    total = product + to_float32(inputs["b"])
    record("sum", (0,), total)
    return {"y": cast(total, config.dtype), "total": inputs["total"] + product}


def bounds(config: Config, inputs: Arrays) -> dict[str, Bound]:
    """y has a rounded product, a sum and a cast; total a product and a sum."""
    a, b, total = (exact(to_float32(inputs[name])) for name in ("a", "b", "total"))
    product = rounded(scaled(a, config.scale), "float32")
    found = {"y": rounded(plus(product, b), config.dtype), "total": rounded(plus(product, total), "float32")}
    return {name: Bound(known.error, spread=np.sqrt(known.variance)) for name, known in found.items()}


def call(config: Config, inputs: Arrays, implementation: Callable[..., Any]) -> Call:
    return Call(
        implementation,
        {"a": inputs["a"], "b": inputs["b"], "total": inputs["total"], "scale": config.scale},
        returns=("y",),
        in_place={"total": "total"},
    )


def strategy() -> st.SearchStrategy[Config]:
    return st.builds(
        Config,
        rows=st.integers(1, 16),
        cols=st.integers(2, 16),
        dtype=st.sampled_from(("bfloat16", "float16", "float32")),
        scale=st.sampled_from((0.75, 1.0, -3.0)),
    )


def illegal() -> st.SearchStrategy[tuple[Config, str]]:
    rows = st.sampled_from((0, 129)).map(lambda n: (Config(rows=n), "rows"))
    return st.one_of(rows, st.just((Config(scale=0.0), "scale")))


def kernel(a: Array, b: Array, total: Array, scale: float) -> Array:
    """Right."""
    product = to_float32(a) * np.float32(scale)
    total += product
    return cast(product + to_float32(b), a.dtype)


def rounds_the_product(a: Array, b: Array, total: Array, scale: float) -> Array:
    product = to_float32(cast(to_float32(a) * np.float32(scale), a.dtype))
    total += to_float32(a) * np.float32(scale)
    return cast(product + to_float32(b), a.dtype)


def swaps_two_rows(a: Array, b: Array, total: Array, scale: float) -> Array:
    y = kernel(a, b, total, scale)
    y[[0, 1]] = y[[1, 0]]
    return y


def is_dead(a: Array, b: Array, total: Array, scale: float) -> Array:
    kernel(a, b, total, scale)
    return np.zeros_like(a)


def leaves_total(a: Array, b: Array, total: Array, scale: float) -> Array:
    return kernel(a, b, total.copy(), scale)


def returns_float32(a: Array, b: Array, total: Array, scale: float) -> Array:
    return to_float32(kernel(a, b, total, scale))


def drops_a_column(a: Array, b: Array, total: Array, scale: float) -> Array:
    return kernel(a, b, total, scale)[:, 1:]


def makes_a_nan(a: Array, b: Array, total: Array, scale: float) -> Array:
    y = kernel(a, b, total, scale)
    y[-1, -1] = np.nan
    return y


def crashes(a: Array, b: Array, total: Array, scale: float) -> Array:
    raise IndexError("list index out of range")


#: The wrong kernels and the output each of them spoils, '' for a crash.
BROKEN = {
    "rounds_the_product": "y",
    "swaps_two_rows": "y",
    "is_dead": "y",
    "leaves_total": "total",
    "returns_float32": "y",
    "drops_a_column": "y",
    "makes_a_nan": "y",
    "crashes": "",
}


class HostBackend:
    """Runs kernels that are plain Python functions."""

    name = "sim"

    def __init__(self) -> None:
        self.calls = 0

    def run(self, call: Call) -> Arrays:
        self.calls += 1
        arguments = {
            name: value.copy() if isinstance(value, np.ndarray) else value
            for name, value in call.arguments.items()
        }
        outputs = dict(zip(call.returns, (call.function(**arguments),), strict=True))
        return outputs | {output: arguments[name] for output, name in call.in_place.items()}


SUBJECT = Subject(
    name="scaled_add",
    config_type=Config,
    contract=CONTRACT,
    outputs=(Output("y"), Output("total", argument="total")),
    lanes=("normal", "exact"),
    catalog=(
        Case("small", Config(), tags=frozenset({"ci"})),
        Case("exact", Config(rows=16, scale=2.0), lane="exact", seed=3, tags=frozenset({"ci"})),
    ),
    implementation="conformance.tests.suite.scaled_add:kernel",
    legal=CONTRACT.refusal,
    call_refusal=call_refusal,
    spoilings=(Spoiling("same_shape", lambda config, inputs, stream: {"b": other_shape(stream, inputs["b"])}),),
    strategy=strategy,
    illegal=illegal,
    build=build,
    truth=truth,
    model=model,
    call=call,
    bounds=bounds,
    tolerances=(Tolerance("scaled_add", "*", "*", 1e-2, 0.0, "one bfloat16 step of the largest value"),),
)


@dataclass(frozen=True)
class Hill:
    """A config whose error depends on it, and is largest at one place that few draws come near to."""

    x: int = 0
    y: int = 0
    z: int = 0


#: Where the hill is highest, and the range of each coordinate.
SUMMIT, EXTENT = Hill(701, 295, 543), 2**10


def height(config: Hill) -> float:
    """1 at the summit, 0 as far from it as can be."""
    away = sum(abs(getattr(config, name) - getattr(SUMMIT, name)) for name in ("x", "y", "z"))
    return 1 - away / (3 * EXTENT)


def hill(tallest: float) -> Subject:
    """A subject whose model and kernel are off by the height of the hill, times `tallest`, in bounds of 1."""

    def wrong(config: Hill, inputs: Arrays, **_: Any) -> Arrays:
        return {"y": (inputs["a"] + np.float64(tallest * height(config))).astype(np.float32)}

    on_the_map = Rule[Hill]("x", "x", "x must not be negative", lambda c: c.x >= 0, lambda c: f"{c.x}", "turn back")
    return dataclasses.replace(
        SUBJECT,
        config_type=Hill,
        outputs=(Output("y"),),
        catalog=(),
        legal=lambda config: on_the_map.refusal("scaled_add", config),
        illegal=lambda: st.just((Hill(x=-1), "x")),
        call_refusal=lambda config, inputs: None,
        spoilings=(),
        strategy=lambda: st.builds(Hill, *(st.integers(0, EXTENT) for _ in range(3))),
        build=lambda config, lane, seed: {"a": np.arange(4, dtype=np.float32)},
        truth=lambda config, inputs: {"y": inputs["a"].astype(np.float64)},
        model=wrong,
        call=lambda config, inputs, _: Call(lambda: wrong(config, inputs)["y"], {}, ("y",)),
        bounds=lambda config, inputs: {"y": Bound(np.ones(4))},
        tolerances=(Tolerance("scaled_add", "*", "*", 10.0, 10.0, "bounds decide here"),),
    )


def broken(name: str) -> Subject:
    """The subject with one of the wrong kernels."""
    return SUBJECT.with_implementation(f"conformance.tests.suite.scaled_add:{name}")
