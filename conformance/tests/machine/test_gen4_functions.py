"""Claim: activate2 runs its stages in fp32 and its reductions from their identities; exponential subtracts,
exponentiates and sums in the shared accumulator. Both need gen4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.test_activation import real
from conformance.tests.machine.test_reductions import exact_sum
from conformance.tests.machine.test_tensor_scalar import apply32
from conformance.tests.machine.tiles import Array, assert_same, execute, floats, numbers, refused, stored
from reference.numerics.profile import DEFAULT

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

CMD = nisa.reduce_cmd
STAGES = [
    ("multiply", "add"),
    ("multiply", "subtract"),
    ("multiply", "bypass"),
    ("add", "bypass"),
    ("subtract", "bypass"),
    ("bypass", "bypass"),
]


# --- activate2 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("stages", STAGES, ids="-".join)
def test_stages_run_in_fp32(stages: tuple[str, str], reverse: bool, vectors: bool) -> None:
    data = numbers("bfloat16", (16, 24))
    imms = [numbers("float32", (16, 1), 1), numbers("float32", (16, 1), 2)] if vectors else [0.3, -1.7]
    reverses = {f"reverse{i}": reverse and name != "bypass" for i, name in enumerate(stages)}
    got = execute(
        lambda t: nisa.activate2(
            dst=t.dst,
            op=nl.copy,
            data=t.data,
            imm0=t.a if vectors else imms[0],
            imm1=t.b if vectors else imms[1],
            op0=getattr(nl, stages[0]),
            op1=getattr(nl, stages[1]),
            **reverses,
        ),
        {"data": data, **({"a": imms[0], "b": imms[1]} if vectors else {})},
        {"dst": ((16, 24), "float16")},
        generation="gen4",
    )["dst"]
    expected = floats(data)
    for i, name in enumerate(stages):
        if name != "bypass":
            imm = imms[i] if vectors else np.float32(imms[i])
            expected = apply32(name, *((imm, expected) if reverses[f"reverse{i}"] else (expected, imm)))
    assert_same(got, stored(expected, "float16"))


@pytest.mark.parametrize("slope", [0.25, "vector"])
def test_prelu_takes_its_slope(slope: Any) -> None:
    data, vector = numbers("float32", (8, 32)), numbers("float32", (8, 1), 3)
    got = execute(
        lambda t: nisa.activate2(
            t.dst, nl.prelu, t.data, 0.0, 0.0, nl.bypass, nl.bypass, relu_param=t.vector if slope == "vector" else slope
        ),
        {"data": data, "vector": vector},
        {"dst": ((8, 32), "float32")},
        generation="gen4",
    )["dst"]
    with np.errstate(all="ignore"):
        expected = np.where(data >= 0, data, (vector if slope == "vector" else np.float32(slope)) * data)
    assert_same(got, expected.astype(np.float32))


@pytest.mark.parametrize(
    ("op", "formula", "start"),
    [
        ("add", exact_sum, 0.0),
        ("maximum", max, -np.inf),
        ("minimum", min, np.inf),
        ("abs_max", lambda row: max(row, key=abs), 0.0),
        ("abs_min", lambda row: min(row, key=abs), np.inf),
    ],
)
def test_reductions_start_from_their_identity_and_go_on(op: str, formula: Any, start: float) -> None:
    rng = np.random.default_rng(4)
    first, second = (rng.standard_normal((8, 12)).astype(np.float32) for _ in range(2))

    def program(t: Any) -> None:
        plain = {"imm0": 0.0, "imm1": 0.0, "op0": nl.bypass, "op1": nl.bypass, "reduce_op": getattr(nl, op)}
        nisa.activate2(t.dst, nl.copy, t.first, reduce_cmd=CMD.reset, reduce_res=t.start, **plain)
        nisa.activate2(t.dst, nl.copy, t.first, reduce_cmd=CMD.reset_reduce, reduce_res=t.a, **plain)
        nisa.activate2(t.dst, nl.copy, t.second, reduce_cmd=CMD.reduce, reduce_res=t.b, **plain)

    got = execute(
        program,
        {"first": first, "second": second},
        {"dst": ((8, 12), "bfloat16"), **dict.fromkeys(("start", "a", "b"), ((8, 1), "float32"))},
        generation="gen4",
    )
    assert (got["start"] == start).all()
    assert_same(got["a"], np.array([[formula(row)] for row in first], np.float32))
    joined = [np.concatenate([[a], row]) for a, row in zip(got["a"][:, 0], second, strict=True)]
    assert_same(got["b"], np.array([[formula(row)] for row in joined], np.float32))


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"op0": nl.add, "op1": nl.multiply}, "operator.class"),
        ({"op0": nl.bypass, "op1": nl.add}, "operator.class"),
        ({"op1": nl.bypass, "reverse1": True}, "operator.reverse"),
        ({"op": nl.cos}, "operator.unknown"),
        ({"imm0": "float", "imm1": "half"}, "operand.dtype"),
        ({"imm0": "wide"}, "operand.vector"),
        ({"reduce_op": nl.multiply, "reduce_cmd": CMD.reset_reduce}, "operator.class"),
        ({"reduce_op": nl.add, "reduce_cmd": CMD.reduce}, "accumulator.undefined"),
    ],
)
def test_activate2_refuses(arguments: dict[str, Any], rule: str) -> None:
    column = np.ones((4, 1), np.float32)
    inputs = {
        "data": np.ones((4, 4), np.float32),
        "float": column,
        "half": stored(column, "float16"),
        "wide": np.ones((4, 2), np.float32),
    }
    base = {"op": nl.copy, "imm0": 1.0, "imm1": 1.0, "op0": nl.multiply, "op1": nl.add}

    def program(t: Any) -> None:
        named = {key: getattr(t, v) if isinstance(v, str) else v for key, v in {**base, **arguments}.items()}
        nisa.activate2(dst=t.dst, data=t.data, **named)

    assert refused(program, inputs, {"dst": ((4, 4), "float32")}, generation="gen4").rule == rule


# --- exponential ------------------------------------------------------------------------------------------


def powers(values: Array) -> Array:
    return np.array([real("exp", float(x)) for x in values.ravel()], np.float32).reshape(values.shape)


@pytest.mark.parametrize("source", ["float32", "bfloat16", "int8", "uint32"])
@pytest.mark.parametrize("highest", [0.0, "vector"])
def test_exponentials_of_differences(source: str, highest: Any) -> None:
    rng = np.random.default_rng(5)
    data = stored((np.abs(rng.standard_normal((8, 32))) * 6).astype(np.float32), source)
    vector = floats(data).max(axis=1, keepdims=True)
    got = execute(
        lambda t: nisa.exponential(
            t.dst,
            t.src,
            max_value=t.vector if highest == "vector" else highest,
            reduce_res=t.total,
            reduce_cmd=CMD.reset_reduce,
        ),
        {"src": data, "vector": vector},
        {"dst": ((8, 32), "bfloat16"), "total": ((8, 1), "float32")},
        generation="gen4",
    )
    expected = powers(floats(data) - (vector if highest == "vector" else np.float32(highest)))
    assert_same(got["dst"], stored(expected, "bfloat16"))
    assert_same(got["total"], np.array([[exact_sum(row)] for row in expected], np.float32))


def test_exact_values_and_running_sums() -> None:
    data = np.array([[0, -np.inf, 0, 0]], np.float32)

    def program(t: Any) -> None:
        nisa.exponential(t.dst, t.src, reduce_cmd=CMD.reset_reduce)
        nisa.exponential(t.dst, t.src, reduce_cmd=CMD.reduce, reduce_res=t.a)
        nisa.exponential(t.dst, t.src, reduce_cmd=CMD.load_reduce, reduce_init=0.5, reduce_res=t.b)
        nisa.exponential(t.dst, t.src, reduce_cmd=CMD.load_reduce, reduce_init=t.a, reduce_res=t.c)

    got = execute(
        program,
        {"src": data},
        {"dst": ((1, 4), "float32"), **dict.fromkeys("abc", ((1, 1), "float32"))},
        generation="gen4",
    )
    assert got["dst"].tolist() == [[1, 0, 1, 1]]
    assert [got[name].item() for name in "abc"] == [6, 3.5, 9]


@pytest.mark.parametrize(
    ("profile", "x", "expected"),
    [
        ({"exponential_gen4": "ulp_up"}, 1.0, np.nextafter(np.float32(np.e), np.float32(9))),
        ({"exponential_gen4": "ulp_up"}, 0.0, 1.0),
        ({"exp_underflow": "flush"}, -90.0, 0.0),
    ],
)
def test_its_accuracy_is_a_profile_choice(profile: dict[str, Any], x: float, expected: float) -> None:
    got = execute(
        lambda t: nisa.exponential(t.dst, t.src),
        {"src": np.array([[x]], np.float32)},
        {"dst": ((1, 1), "float32")},
        generation="gen4",
        profile=DEFAULT.replace(**profile),
    )["dst"]
    assert_same(got, np.array([[expected]], np.float32))


@pytest.mark.parametrize(
    ("source", "dtype", "result", "arguments", "rule"),
    [
        ("float8_e4m3fn", "float32", "float32", {}, "operand.dtype"),
        ("float32", "uint32", "float32", {}, "operand.dtype"),
        ("float32", "float32", "int32", {"reduce_cmd": CMD.reset_reduce}, "operand.dtype"),
        ("float32", "float32", "float32", {"reduce_cmd": CMD.reset}, "reduce_cmd"),
        ("float32", "float32", "float32", {"reduce_init": 1.0, "reduce_cmd": CMD.reset_reduce}, "reduce_init"),
        ("float32", "float32", "float32", {"reduce_cmd": CMD.reduce}, "accumulator.undefined"),
        ("float32", "float32", "float32", {}, "accumulator.idle"),
    ],
)
def test_exponential_refuses(source: str, dtype: str, result: str, arguments: dict[str, Any], rule: str) -> None:
    error = refused(
        lambda t: nisa.exponential(t.dst, t.src, reduce_res=t.total, **arguments),
        {"src": stored(np.ones((2, 4), np.float32), source)},
        {"dst": ((2, 4), dtype), "total": ((2, 1), result)},
        generation="gen4",
    )
    assert error.rule == rule
