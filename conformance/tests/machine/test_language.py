"""Claim: functions of nki.language give the correctly rounded fp32 function of each element, rounded once to
the dtype, and the names of nki.language are what kernels take them for."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, dataclass
from enum import Enum
from typing import Any, Optional

import ml_dtypes
import mpmath
import numpy as np
import pytest

from conformance.tests.machine.bench import bits, out, refusal, run, target, tile

import nki  # isort: skip
import nki.dtype  # isort: skip
import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

X = np.array([[-3.75, -1.5, -1.0, -0.25, -0.0, 0.0, 0.3, 0.5, 1.0, 2.5, 7.0, 40.0]], np.float32)
Y = np.array([[2.0, -0.5, 3.0, 0.25, 1.0, -2.0, 0.3, 4.0, -1.0, 2.5, -3.0, 0.1]], np.float32)


def of_mp(function: Any, x: np.float32) -> np.float32:
    """The real function in 60 digits, rounded to fp32."""
    with mpmath.workdps(60):
        try:
            value = function(mpmath.mpf(float(x)))
        except (ValueError, ZeroDivisionError):
            return np.float32(np.nan)
        if isinstance(value, mpmath.mpc):
            return np.float32(np.nan)
        # A 60-digit value passes float64 without a tie that fp32 could see, for these arguments.
        return np.float32(float(value))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


def normal(x: Any) -> Any:
    return mpmath.ncdf(x)


def apprx(x: Any) -> Any:
    return x * sigmoid(mpmath.mpf("1.702") * x)


UNARY: dict[str, Any] = {
    "abs": abs,
    "square": lambda x: x * x,
    "negative": lambda x: -x,
    "sign": mpmath.sign,
    "ceil": mpmath.ceil,
    "floor": mpmath.floor,
    "trunc": lambda x: mpmath.floor(x) if x > 0 else mpmath.ceil(x),
    "logical_not": lambda x: mpmath.mpf(x == 0),
    "exp": mpmath.exp,
    "tanh": mpmath.tanh,
    "sigmoid": sigmoid,
    "relu": lambda x: max(x, mpmath.mpf(0)),
    "gelu": lambda x: x * normal(x),
    "gelu_dx": lambda x: normal(x) + x * mpmath.npdf(x),
    "gelu_apprx_sigmoid": apprx,
    "gelu_apprx_sigmoid_dx": lambda x: mpmath.diff(apprx, x),
    "gelu_apprx_tanh": lambda x: (
        x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)))
    ),
    "silu": lambda x: x * sigmoid(x),
    "silu_dx": lambda x: sigmoid(x) * (1 + x * (1 - sigmoid(x))),
    "softplus": lambda x: mpmath.log(1 + mpmath.exp(x)),
    "mish": lambda x: x * mpmath.tanh(mpmath.log(1 + mpmath.exp(x))),
    "erf": mpmath.erf,
    "erf_dx": lambda x: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-x * x),
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tan": mpmath.tan,
    "arctan": mpmath.atan,
}
POSITIVE: dict[str, Any] = {
    "log": mpmath.log,
    "sqrt": mpmath.sqrt,
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "reciprocal": lambda x: 1 / x,
}


def applied(x: Any, name: str, dtype: Any = None) -> Any:
    return out(getattr(nl, name)(tile(x), dtype=dtype))


@pytest.mark.parametrize("name", sorted(UNARY))
def test_unary_functions(name: str) -> None:
    got = run(applied, X, name)
    assert got.tolist() == [[of_mp(UNARY[name], x) for x in X[0]]]


@pytest.mark.parametrize("name", sorted(POSITIVE))
def test_functions_of_positive_numbers(name: str) -> None:
    x = np.abs(X[:, [0, 1, 2, 3, 6, 9, 10, 11]])
    assert run(applied, x, name).tolist() == [[of_mp(POSITIVE[name], v) for v in x[0]]]


def test_results_take_the_dtype_of_the_tile_or_the_one_asked_for() -> None:
    x = X.astype(ml_dtypes.bfloat16)
    same = run(applied, x, "exp")
    wide = run(applied, x, "exp", nl.float32)
    assert (same.dtype, wide.dtype) == (ml_dtypes.bfloat16, np.float32)
    assert (bits(same) == bits(wide.astype(ml_dtypes.bfloat16))).all()


def test_nan_and_infinities_pass() -> None:
    x = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    assert run(applied, x, "exp")[0, 1:].tolist() == [np.inf, 0.0]
    assert np.isnan(run(applied, x, "exp")[0, 0])
    assert run(applied, x, "tanh")[0, 1:].tolist() == [1.0, -1.0]


BINARY: dict[str, Any] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}


def combined(x: Any, y: Any, name: str, dtype: Any = None) -> Any:
    return out(getattr(nl, name)(tile(x), tile(y), dtype=dtype))


@pytest.mark.parametrize("name", sorted(BINARY))
def test_binary_functions(name: str) -> None:
    with np.errstate(all="ignore"):
        expected = BINARY[name](X, Y).astype(np.float32)
    assert (run(combined, X, Y, name) == expected).all()


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "maximum", "less"])
def test_numbers_on_either_side(name: str) -> None:
    function = getattr(nl, name)
    with np.errstate(all="ignore"):
        right, left = BINARY[name](X, np.float32(0.3)), BINARY[name](np.float32(0.3), X)
    assert (run(lambda x: out(function(tile(x), 0.3)), X) == right.astype(np.float32)).all()
    assert (run(lambda x: out(function(0.3, tile(x))), X) == left.astype(np.float32)).all()


def test_remainders() -> None:
    assert run(combined, X, Y, "fmod").tolist() == [
        [math.fmod(x, y) for x, y in zip(X[0], Y[0], strict=True)]
    ]
    python = [[np.float32(float(x) % float(y)) for x, y in zip(X[0], Y[0], strict=True)]]
    assert run(combined, X, Y, "mod").tolist() == python


def test_power() -> None:
    x, y = np.abs(X[:, [0, 1, 6, 9]]), Y[:, [0, 1, 2, 3]]
    with mpmath.workdps(60):
        expected = [
            [
                np.float32(float(mpmath.mpf(float(a)) ** mpmath.mpf(float(b))))
                for a, b in zip(x[0], y[0], strict=True)
            ]
        ]
    assert run(combined, x, y, "power").tolist() == expected
    assert run(lambda x: out(nl.power(tile(x), 2.0)), X).tolist() == (X * X).tolist()


def test_magnitude_operators_take_the_second_on_a_tie() -> None:
    x, y = np.array([[1.0, -3.0, 2.0]], np.float32), np.array([[-1.0, 2.0, -5.0]], np.float32)
    assert run(combined, x, y, "abs_max", generation="gen4").tolist() == [[-1.0, -3.0, -5.0]]
    assert run(combined, x, y, "abs_min", generation="gen4").tolist() == [[-1.0, 2.0, 2.0]]
    refusal(combined, x, y, "abs_max", generation="gen3")


def test_bit_operators_work_on_patterns() -> None:
    x, y = np.array([[0b1100, -1]], np.int32), np.array([[0b1010, 4]], np.int32)
    assert run(combined, x, y, "bitwise_and").tolist() == [[0b1000, 4]]
    assert run(combined, x, y, "bitwise_or").tolist() == [[0b1110, -1]]
    assert run(combined, x, y, "bitwise_xor").tolist() == [[0b0110, -5]]
    assert run(combined, x, y, "left_shift").tolist() == [[0b1100 << 10, -16]]
    assert run(combined, x, y, "right_shift").tolist() == [[0b1100 >> 10, 2**28 - 1]]
    assert run(applied, x, "invert").tolist() == [[~0b1100, 0]]


def test_shapes_are_equal_and_one_side_is_a_tile() -> None:
    assert refusal(lambda x, y: combined(x, y, "add"), X, Y[:, :1]).rule == "operand.shape"
    assert refusal(lambda x: nl.add(1.0, 2.0), X).rule == "operand.type"


def test_where_keeps_bits_of_equal_dtypes() -> None:
    x, y = np.array([[2**24 + 1, 5]], np.int32), np.array([[7, 2**24 + 3]], np.int32)
    condition = np.array([[1, 0]], np.uint8)
    assert run(lambda c, x, y: out(nl.where(tile(c), tile(x), tile(y))), condition, x, y).tolist() == [
        [2**24 + 1, 2**24 + 3]
    ]
    assert run(lambda c, x: out(nl.where(tile(c), tile(x), -1)), condition, x).tolist() == [[2**24 + 1, -1]]


# ---- reductions ----

Z = np.array([[[1, 2, 3], [4, 5, -6]], [[0.5, 0, 7], [1, 1, 1]]], np.float32)


@pytest.mark.parametrize(
    ("name", "witness"),
    [
        ("sum", np.sum),
        ("prod", np.prod),
        ("max", np.max),
        ("min", np.min),
        (
            "mean",
            lambda x, axis: np.sum(x, axis=axis) / np.float32(x.size / 2 if isinstance(axis, tuple) else 3),
        ),
    ],
)
@pytest.mark.parametrize(("axis", "axes"), [(2, 2), (-1, 2), ((1, 2), (1, 2))])
def test_reductions(name: str, witness: Any, axis: Any, axes: Any) -> None:
    got = run(lambda x: out(getattr(nl, name)(tile(x), axis)), Z)
    expected = witness(Z, axis=axes)
    assert got.shape == (expected.shape if expected.ndim > 1 else (2, 1))
    assert (got.reshape(expected.shape) == expected.astype(np.float32)).all()
    assert run(lambda x: out(getattr(nl, name)(tile(x), axis, keepdims=True)), Z).ndim == 3


def test_variance_and_all() -> None:
    got = run(lambda x: out(nl.var(tile(x), 2)), Z)
    assert got.shape == (2, 2, 1)
    assert got[0, 0, 0] == np.float32(2.0) / np.float32(3.0)
    assert run(lambda x: out(nl.all(tile(x), axis=2)), Z).tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize("axis", [0, 1, (0, 1, 2), (0, 2)])
def test_only_the_last_free_axes_are_reduced(axis: Any) -> None:
    assert refusal(lambda x: nl.sum(tile(x), axis), Z).rule == "reduce.axis"


def test_softmax_and_rms_norm_step_by_step() -> None:
    x = np.array([[0.0, 1.0, -2.0, 3.0]], np.float32)
    e = np.array([of_mp(mpmath.exp, v) for v in x[0] - np.float32(3.0)], np.float32)
    total = np.float32(math.fsum(float(v) for v in e))
    inverse = np.float32(1) / total
    assert (run(lambda x: out(nl.softmax(tile(x))), x) == e * inverse).all()
    w = np.array([[1.0, 2.0, 0.5, -1.0]], np.float32)
    mean = np.float32(math.fsum(float(v) for v in np.square(x[0]))) / np.float32(4)
    scale = of_mp(POSITIVE["rsqrt"], mean + np.float32(1e-6))
    got = run(lambda x, w: out(nl.rms_norm(tile(x), tile(w), 1, 4)), x, w)
    assert (got == x * scale * w).all()


# ---- moving and making ----


def test_load_and_store() -> None:
    def kernel(x: Any) -> Any:
        result = nl.ndarray((12,), nl.float32, nl.shared_hbm)
        nl.store(result, nl.load(x[0]))
        return result, out(nl.load(x, dtype=nl.bfloat16))

    same, narrow = run(kernel, X)
    assert (same == X[0]).all()
    assert (bits(narrow) == bits(X.astype(ml_dtypes.bfloat16))).all()


def test_transposes_and_products() -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    b = np.arange(8, dtype=np.float32).reshape(4, 2)
    assert (run(lambda a: out(nl.load_transpose2d(a)), a) == a.T).all()
    assert (run(lambda a: out(nl.transpose(tile(a))), a) == a.T).all()
    assert (run(lambda a, b: out(nl.matmul(tile(a), tile(b))), a, b) == a @ b).all()
    assert (
        run(lambda a, b: out(nl.matmul(tile(a), tile(b), transpose_x=True)), a.T.copy(), b) == a @ b
    ).all()


def test_copy_keeps_bits_and_casts() -> None:
    x = np.array([[2**24 + 1, -3]], np.int32)
    assert (run(lambda x: out(nl.copy(tile(x))), x) == x).all()
    assert run(lambda x: out(nl.copy(tile(x), dtype=nl.float32)), x).tolist() == [[2.0**24, -3.0]]


def test_gather_expand_and_broadcast() -> None:
    a = np.arange(8, dtype=np.int32).reshape(2, 4)
    i = np.array([[3, 0, 0], [1, 2, 3]], np.uint32)
    got = run(lambda a, i: out(nl.gather_flattened(tile(a), tile(i))), a, i)
    assert (got == np.take_along_axis(a, i.astype(int), axis=1)).all()
    assert run(lambda a: out(nl.expand_dims(tile(a), -1)), a).shape == (2, 4, 1)
    assert (run(lambda a: out(nl.broadcast_to(tile(a[0:1]), (5, 4))), a) == a[:1].repeat(5, 0)).all()
    assert refusal(lambda a: nl.broadcast_to(tile(a), (4, 4)), a).rule == "operand.shape"


@pytest.mark.parametrize("buffer", [nl.sbuf, nl.psum, nl.shared_hbm, nl.private_hbm])
def test_filled_tensors(buffer: Any) -> None:
    def kernel(x: Any) -> Any:
        return tuple(
            out(t)
            for t in (
                nl.zeros((2, 3), nl.float32, buffer),
                nl.ones((2, 3), nl.bfloat16, buffer),
                nl.full((2, 3), -7, nl.int32, buffer),
            )
        )

    zeros, ones, sevens = run(kernel, X)
    assert (zeros.dtype, ones.dtype, sevens.dtype) == (np.float32, ml_dtypes.bfloat16, np.int32)
    assert ((zeros == 0) & (ones.astype(np.float32) == 1) & (sevens == -7)).all()


def test_likes_take_shape_and_dtype() -> None:
    def kernel(x: Any) -> Any:
        empty = nl.empty_like(x)
        assert (empty.shape, empty.dtype, empty.buffer) == (x.shape, x.dtype, x.buffer)
        like = nl.zeros_like(x, dtype=nl.int8)
        assert (like.buffer, like.dtype) == (nl.sbuf, nl.int8)
        return out(like)

    assert (run(kernel, X) == 0).all()


def test_identity_and_constants(tmp_path: Any) -> None:
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "table.npy", table)

    def kernel(x: Any) -> Any:
        given = nl.ndarray((3, 3), nl.bfloat16)
        assert nl.shared_identity_matrix(3, dst=given) is given
        return (
            out(nl.shared_identity_matrix(4)),
            out(given),
            out(tile(nl.shared_constant(table))),
            out(tile(nl.shared_constant(tmp_path / "table.npy"))),
            out(tile(nl.shared_constant(nki.tensor.identity(2)))),
            out(tile(nl.shared_constant(nki.tensor.arange(2, 5)))),
        )

    eye4, eye3, first, second, eye2, count = run(kernel, X)
    assert (eye4.dtype, eye4.tolist()) == (np.uint8, np.eye(4).tolist())
    assert (eye3.astype(np.float32) == np.eye(3)).all()
    assert (first == table).all()
    assert (second == table).all()
    assert eye2.tolist() == [[1, 0], [0, 1]]
    assert count.tolist() == [[2, 3, 4]]


def test_constants_are_not_written_and_have_nki_dtypes() -> None:
    assert refusal(lambda x: nl.shared_constant(np.zeros(3)), X).rule == "argument.dtype"
    write = lambda x: nisa.dma_copy(nl.shared_constant(X), x)  # noqa: E731
    assert refusal(write, X).rule == "hbm.constant"


def test_random_numbers_follow_their_seed() -> None:
    def kernel(x: Any, seed: int) -> Any:
        nl.random_seed(nl.full((1, 1), seed, nl.int32))
        return out(nl.rand((4, 64), nl.float32)), out(nl.dropout(nl.ones((4, 64), nl.float32), 0.25))

    first, kept = run(kernel, X, 5)
    again, _ = run(kernel, X, 5)
    other, _ = run(kernel, X, 6)
    assert (first == again).all()
    assert not (first == other).all()
    assert ((first >= 0) & (first < 1)).all()
    assert 0.4 < first.mean() < 0.6
    assert set(np.unique(kept)) == {0.0, 1.0}
    assert 0.65 < kept.mean() < 0.85


# ---- names ----


def test_dtypes_are_their_names() -> None:
    assert nl.bfloat16 == "bfloat16"
    assert str(nl.float32) == "float32"
    assert {nl.float8_e4m3: 1}["float8_e4m3"] == 1
    assert np.dtype(nl.float8_e4m3) == ml_dtypes.float8_e4m3
    assert nki.dtype.int8 is nl.int8
    assert run(lambda x: tuple(str(tile(x).dtype)), X) == tuple("float32")


@pytest.mark.parametrize(
    "spelling",
    ["bfloat16", "nki.language.bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16), nl.bfloat16],
)
def test_dtype_spellings(spelling: Any) -> None:
    assert run(lambda x: nl.ndarray((1, 1), spelling).dtype == nl.bfloat16, X)


def test_buffers_and_predicates() -> None:
    assert nl.hbm is nl.private_hbm
    assert nl.sbuf is nl.MemoryRegion.sbuf
    seen = [
        (nl.is_sbuf(b), nl.is_psum(b), nl.is_hbm(b), nl.is_on_chip(b))
        for b in (nl.sbuf, nl.psum, nl.shared_hbm)
    ]
    assert seen == [(True, False, False, True), (False, True, False, True), (False, False, True, False)]
    with pytest.warns(UserWarning, match=r"write nl\.psum"):
        run(lambda x: nl.ndarray((1, 1), nl.float32, "psum") and None, X)


def test_tile_size_follows_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for generation in ("gen2", "gen3", "gen4"):
        with target(generation):
            size = nl.tile_size
            seen.append((size.sbuf_size_bytes >> 20, size.total_available_sbuf_size, size.sbuf_fmax * 4))
    assert seen == [(24, 180224, 180224), (28, 212984, 212984), (32, 245752, 245752)]
    fixed = nl.tile_size
    assert (fixed.pmax, fixed.psum_fmax, fixed.psum_bank_fmax_bytes, fixed.psum_num_banks) == (
        128,
        512,
        2048,
        8,
    )
    monkeypatch.setenv("NKI_DMA_TRANSPOSE_AS_PE_TRANSPOSE", "true")
    assert nl.tile_size.psum_num_banks == 7


@pytest.mark.parametrize(("generation", "version"), [("gen2", 2), ("gen3", 3), ("gen4", 4)])
def test_versions_order_against_ints_and_each_other(generation: str, version: int) -> None:
    with target(generation):
        assert nisa.get_nc_version() == version
        assert (nisa.get_nc_version() >= nisa.nc_version.gen3) == (version >= 3)
    assert run(lambda x: nisa.get_nc_version() is nisa.nc_version[generation], X, generation=generation)
    assert nisa.get_nc_sub_version() == 0


def test_ndarray_serves_annotations() -> None:
    def helper(x: nl.ndarray | None, y: Optional[nl.ndarray] = None) -> "nl.NkiTensor":  # noqa: UP045
        assert isinstance(x, nl.ndarray)
        assert isinstance(x, nl.NkiTensor)
        return x

    assert (run(lambda x: out(helper(tile(x))), X) == X).all()
    assert not isinstance(X, nl.ndarray)


def test_constants_module_has_the_same_objects() -> None:
    import nki.isa.constants as constants

    for name in constants.__all__:
        assert getattr(constants, name) is getattr(nisa, name)


def test_operator_tokens_carry_their_name() -> None:
    assert (nl.add.nki_op, nl.add.__name__, nl.average.nki_op) == ("add", "add", "average")
    assert {nl.add: 1}[nl.add] == 1
    assert nl.add != nl.subtract


# ---- objects ----


class Plain(nl.NKIObject):
    x: int
    y: int = 5
    z = 7


class Derived(Plain):
    w: str = "w"


@dataclass
class Data(nl.NKIObject):
    x: int
    y: Any = None
    z = 7


@dataclass(frozen=True)
class Frozen(nl.NKIObject):
    x: int
    y: nl.ndarray | None = None


class Own(nl.NKIObject):
    def __init__(self, x: int) -> None:
        super().__init__()
        self.x = x


class After(nl.NKIObject):
    x: int = 1

    def __post_init__(self) -> None:
        self.y = self.x + 1


class Kind(Enum):
    one = 1


def test_objects_without_decorator() -> None:
    assert vars(Plain(3)) == {"x": 3, "y": 5, "z": 7}
    assert vars(Derived(1, 2, w="v")) == {"x": 1, "y": 2, "z": 7, "w": "v"}
    assert Plain(1, z=2) == Plain(x=1, y=5, z=2)
    assert Plain(1) != Derived(1)
    assert Plain().x is None
    assert After(4).y == 5
    with pytest.raises(TypeError, match="unexpected field 'q'"):
        Plain(q=1)


def test_dataclass_objects_and_own_constructors() -> None:
    assert (Data(1, z=3).z, Data().x, Own(4).x) == (3, None, 4)
    frozen = Frozen(x=2)
    assert frozen == Frozen(2)
    with pytest.raises(FrozenInstanceError):
        frozen.x = 3  # type: ignore[misc]
    assert len({Plain(1), Plain(1), Plain(2)}) == 2


def test_arrays_inside_objects_become_tensors() -> None:
    def kernel(config: Any, kind: Any) -> Any:
        assert kind == Kind.one
        return out(tile(config.y))

    given = Data(x=1, y=X)
    assert (run(kernel, given, Kind.one) == X).all()
    assert given.y is X
