"""Claim: activation computes op(data * scale + bias) correctly rounded in fp32, for every code of the narrow
formats, and keeps its sums in registers.

Expected values are definitions in mpmath and Python's math module: a double estimate with an error bound
decides nearly all codes, mpmath with 60 digits the rest. The functions under test are not asked.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from conformance.tests.machine.test_reductions import CHAIN, chain_sum, exact_sum
from conformance.tests.machine.tiles import (
    Array,
    assert_same,
    execute,
    floats,
    host,
    numbers,
    refused,
    stored,
)
from reference.neuroncore.errors import MachineWarning
from reference.neuroncore.scalar_engine import ACTIVATIONS
from reference.numerics.profile import DEFAULT

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

mp = mpmath.mp
CMD = nisa.reduce_cmd


def sigmoid(m: Any, x: Any) -> Any:
    return 1 / (1 + m.exp(-x))


def normal_cdf(m: Any, x: Any) -> Any:
    return m.erfc(-x / m.sqrt(2)) / 2


def tanh_argument(m: Any, x: Any) -> Any:
    return m.sqrt(2 / m.pi) * (x + m.mpf("0.044715") * x**3)


#: Definitions, evaluated in mpmath. Kept apart from the implementation on purpose.
DEFINITIONS: dict[str, Callable[[Any, Any], Any]] = {
    "exp": lambda m, x: m.exp(x),
    "tanh": lambda m, x: m.tanh(x),
    "sigmoid": sigmoid,
    "silu": lambda m, x: x * sigmoid(m, x),
    "silu_dx": lambda m, x: sigmoid(m, x) * (1 + x * (1 - sigmoid(m, x))),
    "gelu": lambda m, x: x * normal_cdf(m, x),
    "gelu_dx": lambda m, x: normal_cdf(m, x) + x * m.exp(-x * x / 2) / m.sqrt(2 * m.pi),
    "gelu_apprx_tanh": lambda m, x: x * sigmoid(m, 2 * tanh_argument(m, x)),
    "gelu_apprx_sigmoid": lambda m, x: x * sigmoid(m, m.mpf("1.702") * x),
    "gelu_apprx_sigmoid_dx": lambda m, x: (
        sigmoid(m, m.mpf("1.702") * x) * (1 + m.mpf("1.702") * x * sigmoid(m, -m.mpf("1.702") * x))
    ),
    "erf": lambda m, x: m.erf(x),
    "erf_dx": lambda m, x: 2 / m.sqrt(m.pi) * m.exp(-x * x),
    "softplus": lambda m, x: m.log1p(m.exp(x)) if x < 100 else x + m.exp(-x),
    "mish": lambda m, x: x * m.tanh(m.log1p(m.exp(x))) if x < 60 else x,
    "log": lambda m, x: m.log(x),
    "sin": lambda m, x: m.sin(x),
    "arctan": lambda m, x: m.atan(x),
    "sqrt": lambda m, x: m.sqrt(x),
    "rsqrt": lambda m, x: 1 / m.sqrt(x),
}
#: Functions that are a float32 operation or none.
EXACT: dict[str, Callable[[Array], Array]] = {
    "copy": lambda x: x,
    "square": lambda x: x * x,
    "abs": np.abs,
    "sign": lambda x: np.where(np.isnan(x) | (x == 0), x, np.where(x > 0, 1, -1)),
    "relu": lambda x: np.where(np.isnan(x), x, np.where(x > 0, x, 0)),
    "reciprocal": lambda x: np.float32(1) / x,
}
#: Where the documents call the table valid; sin is not tested beyond, the others are the functions they name.
LIMITS = {"log": (0, np.inf), "sin": (-math.pi, math.pi), "sqrt": (0, np.inf), "rsqrt": (0, np.inf)}


@functools.cache
def real(name: str, x: float) -> np.float32:
    """The float32 nearest to the function of x, by mpmath."""
    with mpmath.workdps(80):
        value = DEFINITIONS[name](mp, mpmath.mpf(x))
        return nearest(value)


def nearest(value: Any) -> np.float32:
    if abs(value) >= mpmath.mpf(2) ** 128 - mpmath.mpf(2) ** 103:
        return np.float32(math.copysign(math.inf, float(mpmath.sign(value))))
    exponent = max(mpmath.frexp(value)[1] - 24, -149)
    scaled = mpmath.ldexp(value, -exponent)
    # A result that underflows keeps the sign of the function.
    return np.float32(math.copysign(math.ldexp(float(mpmath.nint(scaled)), exponent), float(mpmath.sign(value))))


def evaluated(op: str, data: Any, dtype: str = "float32", **arguments: Any) -> Array:
    settings = {key: arguments.pop(key) for key in ("psum", "generation", "profile") if key in arguments}
    array = data[0] if isinstance(data, tuple) else data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MachineWarning)
        return execute(
            lambda t: nisa.activation(dst=t.dst, op=getattr(nl, op), data=t.data, **arguments),
            {"data": data},
            {"dst": (array.shape, dtype)},
            **settings,
        )["dst"]


def codes_of(dtype: str) -> Array:
    """All codes of an 8-bit or 16-bit dtype, as [P, F]."""
    kind = host(dtype)
    if kind.itemsize == 1:
        return np.arange(256, dtype=np.uint8).reshape(4, 64).view(kind)
    return np.arange(65536, dtype=np.uint16).view(kind).reshape(128, 512)


# --- the functions ----------------------------------------------------------------------------------------


def test_every_documented_function_is_covered_here() -> None:
    assert set(DEFINITIONS) | set(EXACT) == ACTIVATIONS


@pytest.mark.parametrize("dtype", ["float8_e4m3", "float8_e4m3fn", "float8_e5m2", "int8", "uint8"])
@pytest.mark.parametrize("op", DEFINITIONS)
def test_all_8_bit_codes_are_correctly_rounded(op: str, dtype: str) -> None:
    data = codes_of(dtype)
    got = evaluated(op, data)
    values = floats(data)
    low, high = LIMITS.get(op, (-np.inf, np.inf))
    inside = np.isfinite(values) & (values > low) & (values < high) & (values != 0)
    expected = np.array([real(op, float(x)) for x in values[inside]], np.float32)
    assert_same(got[inside], expected, op)


#: Double formulas for the 16-bit walk: (value, magnitude of the largest term it is made of).
def doubles(op: str, x: Array) -> tuple[Array, Array]:
    s = 1 / (1 + np.exp(-x))
    erfc = np.vectorize(math.erfc, otypes=[float])
    k = 1.702
    with np.errstate(all="ignore"):
        if op == "gelu_dx":
            cdf, bell = erfc(-x / math.sqrt(2)) / 2, x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
            return cdf + bell, np.abs(cdf) + np.abs(bell) * (1 + x * x)
        if op in ("silu_dx", "gelu_apprx_sigmoid_dx"):
            z = x if op == "silu_dx" else k * x
            up, down = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
            return up + z * up * down, (up + np.abs(z) * up * down) * (1 + np.minimum(np.abs(z), 750))
        value = {
            "exp": lambda: np.exp(np.minimum(x, 700)),
            "tanh": lambda: np.tanh(x),
            "sigmoid": lambda: s,
            "silu": lambda: x * s,
            "gelu": lambda: x * erfc(-x / math.sqrt(2)) / 2,
            "gelu_apprx_tanh": lambda: x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
            "gelu_apprx_sigmoid": lambda: x / (1 + np.exp(-k * x)),
            "erf": lambda: np.vectorize(math.erf, otypes=[float])(x),
            "erf_dx": lambda: 2 / math.sqrt(math.pi) * np.exp(-x * x),
            "softplus": lambda: np.log1p(np.exp(np.minimum(x, 700))) * (x < 700) + x * (x >= 700),
            "mish": lambda: x * np.tanh(np.log1p(np.exp(np.minimum(x, 700)))),
            "log": lambda: np.log(x),
            "sin": lambda: np.sin(x),
            "arctan": lambda: np.arctan(x),
            "sqrt": lambda: np.sqrt(x),
            "rsqrt": lambda: 1 / np.sqrt(x),
        }[op]()
    # Exponents of magnitude a carry an error of a ulps into the result.
    argument = np.minimum(np.abs(x) ** 3 + np.abs(x) + 1, 1e4) if op.startswith("gelu") or op == "erf_dx" else 1
    return value, np.abs(value) * argument


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("op", DEFINITIONS)
def test_all_16_bit_codes_are_the_function(op: str, dtype: str) -> None:
    data = codes_of(dtype)
    got = evaluated(op, data).ravel()
    low, high = LIMITS.get(op, (-np.inf, np.inf))
    with np.errstate(all="ignore"):
        x = floats(data).ravel().astype(np.float64)
        inside = np.isfinite(x) & (x > low) & (x < high) & (np.abs(x) > 1e-30)
        value, scale = doubles(op, x[inside])
        bound = scale * 2.0**-46
        below, above = (value - bound).astype(np.float32), (value + bound).astype(np.float32)
    found = got[inside]
    # The interval holds the real value, and rounding is monotonic: so it holds the rounded one.
    wrong = ~((found >= below) & (found <= above))
    assert not wrong.any(), f"{op}: {x[inside][wrong][:5]} gave {found[wrong][:5]}, not {value[wrong][:5]}"
    doubtful = np.flatnonzero(below != above)
    wide = np.nextafter(below, np.float32(np.inf)) < above
    assert wide.mean() < 0.02, "an interval of two neighbours says enough, a wider one too little"
    for index in doubtful[:: max(1, len(doubtful) // 40)]:
        assert found[index] == real(op, float(x[inside][index])), (op, x[inside][index])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3", "float8_e5m2", "int8", "uint16", "bool_"])
@pytest.mark.parametrize("op", EXACT)
def test_functions_that_are_float32_operations(op: str, dtype: str) -> None:
    data = numbers(dtype, (64, 64)) if dtype == "bool_" else codes_of(dtype)
    with np.errstate(all="ignore"):
        expected = EXACT[op](floats(data, dtype)).astype(np.float32)
    assert_same(evaluated(op, (data, dtype)), expected, op)


@pytest.mark.parametrize(
    ("op", "x", "expected"),
    [
        ("exp", 0.0, 1.0),
        ("exp", -np.inf, 0.0),
        ("exp", np.inf, np.inf),
        ("exp", 89.0, np.inf),
        ("exp", -104.0, 0.0),
        ("sigmoid", -np.inf, 0.0),
        ("sigmoid", 0.0, 0.5),
        ("tanh", np.inf, 1.0),
        ("silu", 0.0, 0.0),
        ("gelu", -0.0, -0.0),
        ("erf", -np.inf, -1.0),
        ("softplus", -np.inf, 0.0),
        ("sqrt", 4.0, 2.0),
        ("rsqrt", 0.25, 2.0),
        ("log", 1.0, 0.0),
        ("sin", 0.0, 0.0),
        ("relu", -0.0, 0.0),
        ("copy", -0.0, -0.0),
        ("sign", -3.0, -1.0),
    ],
)
def test_values_the_documents_or_definitions_fix(op: str, x: float, expected: float) -> None:
    assert_same(evaluated(op, np.array([[x]], np.float32)), np.array([[expected]], np.float32), op)


@pytest.mark.parametrize("op", sorted(ACTIVATIONS))
def test_nan_stays_nan(op: str) -> None:
    assert np.isnan(evaluated(op, np.array([[np.nan]], np.float32))).all()


def test_sin_beyond_pi_is_a_cubic() -> None:
    got = evaluated("sin", np.array([[9.0, -9.0]], np.float32))
    d = 9 - math.pi
    assert abs(got[0, 0] - (-d + d**3 / 6)) < 4e-6
    assert got[0, 1] == -got[0, 0]
    math_sin = evaluated("sin", np.array([[9.0]], np.float32), profile=DEFAULT.replace(sin_outside="math"))
    assert math_sin[0, 0] == real("sin", 9.0)


@pytest.mark.parametrize(
    ("op", "inside", "outside"),
    [
        ("sin", np.float32(np.pi), 3.2),
        ("log", 2.0**64, 0.0),
        ("arctan", 1.5, 1.6),
        ("sqrt", 2.0**-116, 0.0),
        ("rsqrt", 2.0**97, 2.0**98),
        ("reciprocal", -(2.0**42), 2.0**-43),
    ],
)
def test_arguments_outside_the_table_are_reported(op: str, inside: float, outside: float) -> None:
    def program(t: Any) -> None:
        nisa.activation(t.dst, getattr(nl, op), t.data)

    outputs = {"dst": ((1, 1), "float32")}
    with warnings.catch_warnings():
        warnings.simplefilter("error", MachineWarning)
        execute(program, {"data": np.array([[inside]], np.float32)}, outputs)
    with pytest.warns(MachineWarning, match=f"1 of 1 arguments of {op} lie outside"):
        execute(program, {"data": np.array([[outside]], np.float32)}, outputs)


# --- scale, bias, cast ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 0.3, "vector"])
@pytest.mark.parametrize("bias", [None, 0.7, "vector", "bf16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3", "int8"])
def test_scale_and_bias_round_one_after_the_other(scale: Any, bias: Any, dtype: str) -> None:
    data = numbers("bfloat16", (32, 24), 1)
    vectors = {"vector": numbers("float32", (32, 1), 2), "bf16": numbers("bfloat16", (32, 1), 3)}

    def program(t: Any) -> None:
        nisa.activation(
            dst=t.dst,
            op=nl.copy,
            data=t.data,
            scale=t.vector if scale == "vector" else scale,
            bias=getattr(t, bias) if isinstance(bias, str) else bias,
        )

    got = execute(program, {"data": data, **vectors}, {"dst": ((32, 24), dtype)})["dst"]
    with np.errstate(all="ignore"):
        expected = floats(data) * (vectors["vector"] if scale == "vector" else np.float32(scale))
        if bias is not None:
            expected = expected + (floats(vectors[bias]) if isinstance(bias, str) else np.float32(bias))
    assert_same(got, stored(expected, dtype))


def test_scale_and_bias_fuse_by_profile() -> None:
    x = np.array([[1 + 2.0**-12]], np.float32)
    for fused, expected in ((False, 0.0), (True, 2.0**-24)):
        got = evaluated(
            "copy", x, scale=float(x[0, 0]), bias=-(1 + 2.0**-11), profile=DEFAULT.replace(fma_scalar=fused)
        )
        assert got.tolist() == [[expected]]


@pytest.mark.parametrize("psum", [(), ("data",), ("dst",), ("data", "dst")])
def test_psum_is_in_reach(psum: tuple[str, ...]) -> None:
    data = numbers("float32", (16, 8))
    with np.errstate(all="ignore"):
        assert_same(evaluated("square", data, psum=psum), data * data)


def test_functions_write_large_tiles_like_small_ones() -> None:
    data = numbers("bfloat16", (128, 1024))
    with np.errstate(all="ignore"):
        assert_same(evaluated("square", data, "bfloat16"), stored(floats(data) * floats(data), "bfloat16"))


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ({"act_table": "ulp_up"}, np.nextafter(np.float32(math.e), np.float32(9))),
        ({"act_table": "ulp_down"}, np.nextafter(np.float32(math.e), np.float32(0))),
    ],
)
def test_the_profile_moves_inexact_results(profile: dict[str, Any], expected: float) -> None:
    got = evaluated("exp", np.array([[1.0, 0.0]], np.float32), profile=DEFAULT.replace(**profile))
    assert_same(got, np.array([[expected, 1.0]], np.float32))


def test_subnormals_follow_the_profile() -> None:
    data = np.array([[2.0**-130, -(2.0**-130), 2.0**-70]], np.float32)
    cases = {"keep": [2.0**-130, -(2.0**-130), 2.0**-70], "daz": [0.0, -0.0, 2.0**-70], "ftz": [0.0, -0.0, 2.0**-70]}
    for rule, expected in cases.items():
        profile = DEFAULT.replace(subnormals_alu=rule)
        assert_same(evaluated("copy", data, profile=profile), np.array([expected], np.float32), rule)
        assert evaluated("square", data[:, 2:], profile=profile).item() == (0 if rule == "ftz" else 2.0**-140)


def test_exp_underflow_follows_the_profile() -> None:
    data = np.array([[-90.0]], np.float32)
    assert evaluated("exp", data)[0, 0] == real("exp", -90.0) > 0
    assert evaluated("exp", data, profile=DEFAULT.replace(exp_underflow="flush"))[0, 0] == 0


# --- the registers ----------------------------------------------------------------------------------------


def registers(program: Any, inputs: dict[str, Any], *names: str, **options: Any) -> dict[str, Array]:
    shape = inputs["data"].shape
    outputs = {"dst": (shape, options.pop("dtype", "float32")), **dict.fromkeys(names, ((shape[0], 1), "float32"))}
    return execute(program, inputs, outputs, **options)


def test_commands_reset_sum_add_and_leave_alone() -> None:
    data = stored(np.random.default_rng(0).standard_normal((16, 12)).astype(np.float32), "float32")

    def program(t: Any) -> None:
        nisa.activation(t.dst, nl.copy, t.data, reduce_op=nl.add, reduce_res=t.a, reduce_cmd=CMD.reset_reduce)
        nisa.activation(t.dst, nl.square, t.data, reduce_op=nl.add, reduce_res=t.b, reduce_cmd=CMD.idle)
        nisa.activation(t.dst, nl.copy, t.data, scale=2.0, reduce_op=nl.add, reduce_res=t.c, reduce_cmd=CMD.reduce)
        nisa.activation(t.dst, nl.copy, t.data, reduce_res=t.d, reduce_cmd=CMD.reset)

    got = registers(program, {"data": data}, "a", "b", "c", "d", profile=CHAIN.replace(act_reduce_order="chain"))
    first = np.array([[chain_sum(row)] for row in data], np.float32)
    assert_same(got["a"], first)
    assert_same(got["b"], first)
    assert_same(
        got["c"], np.array([[chain_sum(row * 2, s[0])] for row, s in zip(data, first, strict=True)], np.float32)
    )
    assert not got["d"].any()


def test_sums_are_exact_by_default_and_before_the_cast() -> None:
    data = np.full((4, 4), 1 + 2.0**-10, np.float32)

    def program(t: Any) -> None:
        nisa.activation_reduce(t.dst, nl.copy, t.data, nl.add, t.total)

    assert (registers(program, {"data": data}, "total", dtype="bfloat16")["total"] == 4 + 2.0**-8).all()
    late = DEFAULT.replace(act_reduce_precast=False)
    assert (registers(program, {"data": data}, "total", dtype="bfloat16", profile=late)["total"] == 4).all()
    mixed = np.array([[2.0**60, 1, -(2.0**60), 1]], np.float32)
    assert registers(program, {"data": mixed}, "total")["total"].tolist() == [[float(exact_sum(mixed[0]))]]


def test_activation_reduce_is_activation_with_reset_reduce() -> None:
    data = numbers("bfloat16", (8, 2, 8))
    data = np.where(np.isfinite(floats(data)) & (np.abs(floats(data)) < 50), data, data.dtype.type(0.5))

    def program(t: Any) -> None:
        nisa.activation_reduce(
            dst=t.dst, op=nl.exp, data=t.data, reduce_op=nl.add, reduce_res=t.a, bias=-1.0, scale=0.5
        )

    got = registers(program, {"data": data}, "a")
    values = floats(data) * np.float32(0.5) + np.float32(-1)
    expected = np.array([[real("exp", float(x)) for x in row.ravel()] for row in values], np.float32)
    assert_same(got["dst"], expected)
    assert_same(got["a"], np.array([[exact_sum(row)] for row in expected], np.float32))


def test_a_result_on_the_bytes_of_dst_ends_with_the_sum() -> None:
    data = np.arange(12, dtype=np.float32).reshape(4, 3)
    got = execute(
        lambda t: nisa.activation_reduce(t.x, nl.copy, t.x, nl.add, t.x[:, 1:2]),
        {"x": data},
        {"x": ((4, 3), "float32")},
    )["x"]
    expected = data.copy()
    expected[:, 1] = data.sum(axis=1)
    assert_same(got, expected)


def test_a_stride_0_destination_keeps_the_last_element() -> None:
    data = np.arange(12, dtype=np.float32).reshape(4, 3)

    def program(t: Any) -> None:
        nisa.activation_reduce(t.last.ap([[1, 4], [0, 3]]), nl.copy, t.data, nl.add, t.total)

    got = execute(program, {"data": data}, {"last": ((4, 1), "float32"), "total": ((4, 1), "float32")})
    assert_same(got["last"], data[:, 2:])
    assert_same(got["total"], data.sum(axis=1, keepdims=True))


def test_registers_that_were_never_set_are_not_read() -> None:
    data = np.ones((2, 2), np.float32)
    outputs = {"dst": ((2, 2), "float32"), "total": ((2, 1), "float32")}
    for arguments in ({"reduce_res": True}, {"reduce_op": nl.add, "reduce_cmd": CMD.reduce}):

        def program(t: Any, arguments: dict[str, Any] = arguments) -> None:
            named = {**arguments, "reduce_res": t.total}
            nisa.activation(t.dst, nl.copy, t.data, **named)

        assert refused(program, {"data": data}, outputs).rule == "accumulator.undefined"


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "generation", "rule"),
    [
        ({"op": nl.cos}, "gen3", "operator.unknown"),
        ({"op": nl.prelu}, "gen3", "operator.unknown"),
        ({"op": nl.add}, "gen3", "operator.unknown"),
        ({"bias": 1.0}, "gen2", "activation.bias"),
        ({"op": nl.reciprocal, "bias": "vector"}, "gen2", "activation.bias"),
        ({"bias": "tf32"}, "gen3", "operand.dtype"),
        ({"scale": "bf16"}, "gen3", "operand.dtype"),
        ({"scale": "wide"}, "gen3", "operand.vector"),
        ({"reduce_op": nl.maximum, "reduce_cmd": CMD.reset_reduce}, "gen3", "operator.class"),
        ({"reduce_cmd": CMD.reset_reduce}, "gen3", "reduce_op"),
        ({"reduce_op": nl.add, "reduce_cmd": CMD.load_reduce}, "gen3", "reduce_cmd"),
        ({"reduce_op": nl.add, "reduce_cmd": "sum"}, "gen3", "operand.enum"),
    ],
)
def test_activation_refuses(arguments: dict[str, Any], generation: str, rule: str) -> None:
    ones = np.ones((4, 1), np.float32)
    inputs = {
        "data": np.ones((4, 4), np.float32),
        "vector": ones,
        "tf32": (ones, "tfloat32"),
        "bf16": stored(ones, "bfloat16"),
        "wide": np.ones((4, 2), np.float32),
    }

    def program(t: Any) -> None:
        named = {
            key: getattr(t, value) if isinstance(value, str) and hasattr(t, value) else value
            for key, value in arguments.items()
        }
        nisa.activation(**{"dst": t.dst, "op": nl.copy, "data": t.data, **named})

    assert refused(program, inputs, {"dst": ((4, 4), "float32")}, generation=generation).rule == rule


def test_a_number_as_bias_is_legal_from_gen3_on_and_a_vector_before() -> None:
    data, vector = numbers("float32", (4, 4), 1), numbers("float32", (4, 1), 2)
    with np.errstate(all="ignore"):
        assert_same(evaluated("copy", data, bias=1.5), data + np.float32(1.5))
        got = execute(
            lambda t: nisa.activation(t.dst, nl.copy, t.data, bias=t.vector),
            {"data": data, "vector": vector},
            {"dst": ((4, 4), "float32")},
            generation="gen2",
        )["dst"]
        assert_same(got, data + vector)
