"""Claim: nki.jit and nki.simulate launch kernels as the API documents, and refuse what it refuses in one
clear line."""

from __future__ import annotations

import importlib
from collections import namedtuple
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from conformance.tests.machine.bench import bits, out, refusal, run, target, tile
from reference.neuroncore.errors import MachineError, NkiValidationError
from reference.neuroncore.options import Options, using

import nki  # isort: skip
import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

A = np.arange(8, dtype=np.float32).reshape(2, 4)


def double(a: Any, factor: float = 2.0) -> Any:
    """Multiplies by `factor`."""
    x = tile(a)
    nisa.tensor_scalar(x, x, nl.multiply, factor)
    return out(x)


# ---- jit ----


@pytest.mark.parametrize(
    "kernel",
    [
        nki.jit(double),
        nki.jit()(double),
        nki.jit(mode="auto", debug_kernel=True)(double),
        nki.simulate(double),
        nki.simulate(nki.jit(double)),
        nki.simulate(nki.jit(double)[1]),
        nki.jit(nki.jit(double)),
        nki.cpu_simulate(double),
    ],
)
def test_ways_to_launch(kernel: Any) -> None:
    assert (kernel(A) == 2 * A).all()
    assert (kernel(a=A, factor=3.0) == 3 * A).all()


def test_platform_target_is_gone() -> None:
    with pytest.raises(TypeError, match="NEURON_PLATFORM_TARGET_OVERRIDE"):
        nki.jit(platform_target="trn2")


def test_kernels_look_like_their_function() -> None:
    kernel = nki.jit(double)
    assert (kernel.__name__, kernel.__doc__, kernel.__wrapped__) == (
        "double",
        "Multiplies by `factor`.",
        double,
    )
    assert isinstance(kernel, importlib.import_module("nki.framework.kernel").Kernel)
    assert kernel.func is double


@pytest.mark.parametrize("count", [0, 3, 4, "2", 2.0, True, None])
def test_one_or_two_cores(count: Any) -> None:
    with pytest.raises(NkiValidationError, match="NKI only supports LNC 1 or 2"):
        nki.jit(double)[count]


def test_a_one_element_tuple_is_understood() -> None:
    with pytest.warns(UserWarning, match=r"write kernel\[n\]"):
        kernel = nki.jit(double)[(2,)]
    assert kernel.lnc == 2


def test_compiler_settings_give_new_kernels_that_compute_the_same() -> None:
    kernel = nki.jit(double)
    changed = (
        kernel.with_schedule([("a", "b"), ("a", ["b", "c"])])
        .disable_address_rotation()
        .enable_address_rotation()
        .enable_core_barrier_checker()
        .disable_core_barrier_checker()
    )
    assert changed is not kernel
    assert (changed(A) == 2 * A).all()
    with pytest.raises(TypeError, match="with_schedule needs"):
        kernel.with_schedule([("a", 1, 2)])


def test_kernels_call_kernels() -> None:
    inner = nki.jit(double)
    assert (run(lambda a: out(tile(inner(a))), A) == 2 * A).all()


def test_arguments_are_bound_like_a_call() -> None:
    with pytest.raises(TypeError, match=r"double: missing a required argument: 'a'"):
        nki.jit(double)()
    with pytest.raises(TypeError, match="unexpected keyword argument 'b'"):
        nki.jit(double)(A, b=1)


def test_positional_rest_is_named_in_messages() -> None:
    def kernel(*arrays: Any) -> Any:
        return out(tile(arrays[1]))

    assert (run(kernel, A, A + 1) == A + 1).all()
    assert "'arrays[1]'" in str(refusal(kernel, A, np.zeros(2)))


def test_calls_outside_a_launch_say_so() -> None:
    with pytest.raises(MachineError, match="outside a kernel launch"):
        nl.ndarray((1, 1), nl.float32)


# ---- arguments ----

Pair = namedtuple("Pair", ["first", "second"])


def test_containers_are_searched_and_kept() -> None:
    def kernel(pair: Any, items: Any, table: Any, number: int, flag: bool, nothing: None) -> Any:
        assert (type(number), type(flag), nothing) == (int, bool, None)
        return Pair(out(tile(pair.first)), [out(tile(items[0])), 5]), {"t": (out(tile(table["k"][0])),)}

    pair, rest = run(kernel, Pair(A, 1), [A + 1], {"k": (A + 2,)}, 3, True, None)
    assert isinstance(pair, Pair)
    assert (pair.first == A).all()
    assert (pair.second[0] == A + 1).all()
    assert pair.second[1] == 5
    assert (rest["t"][0] == A + 2).all()


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.uint64, np.complex64, "U3"])
def test_dtypes_that_nki_lacks_are_refused_by_name(dtype: Any) -> None:
    error = refusal(double, np.zeros((2, 2), dtype))
    assert error.rule == "argument.dtype"
    assert "argument 'a'" in str(error)
    assert str(np.dtype(dtype)) in str(error)


def test_empty_arrays_are_refused() -> None:
    assert refusal(double, np.zeros((0, 4), np.float32)).rule == "argument.shape"


@pytest.mark.parametrize(
    "dtype",
    [
        bool,
        np.int8,
        np.uint8,
        np.int16,
        np.uint16,
        np.int32,
        np.uint32,
        np.float16,
        np.float32,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e8m0fnu,
    ],
)
def test_every_nki_dtype_goes_in_and_out(dtype: Any) -> None:
    kind = np.dtype(dtype)
    raw = (
        np.random.default_rng(1)
        .integers(0, 2 if kind.kind == "b" else 256, (4, 3 * kind.itemsize), np.uint8)
        .view(kind)
    )
    got = run(lambda a: out(tile(a)), raw)
    assert (bits(got) == bits(raw)).all()


def test_scalars_and_single_values() -> None:
    assert run(lambda a: out(nl.load(a)), np.array(3.0, np.float32)).tolist() == [[3.0]]
    assert (run(double, A, np.float32(0.5)) == A / 2).all()


def test_nothing_may_be_returned() -> None:
    assert run(lambda a: None, A) is None


# ---- environment ----


@pytest.mark.parametrize(("name", "level"), [("trn1", 2), ("inf2", 2), ("gen3", 3), ("TRN2", 3), ("trn3", 4)])
def test_target_is_read_at_launch(name: str, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = nki.jit(lambda a: int(nisa.get_nc_version()))
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", name)
    assert kernel(A) == level
    monkeypatch.delenv("NEURON_PLATFORM_TARGET_OVERRIDE")
    assert kernel(A) == 3


def test_unknown_targets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn9")
    with pytest.raises(MachineError, match="'trn9' names no known target"):
        nki.jit(double)(A)


def test_simulator_switch_changes_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NKI_SIMULATOR", "1")
    assert (nki.jit(double)(A) == 2 * A).all()


def test_imprecise_mode_keeps_low_precision_tiles_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(a: Any) -> Any:
        x = nl.ndarray(a.shape, nl.bfloat16)
        nisa.tensor_scalar(x, tile(a), nl.multiply, 1.0)
        nisa.tensor_scalar(x, x, nl.multiply, 2.0**8)
        assert x.dtype == nl.bfloat16
        return out(x, nl.float32), out(x)

    a = np.array([[1 + 2.0**-12]], np.float32)
    precise, _ = nki.jit(kernel)(a)
    monkeypatch.setenv("NKI_PRECISE_FP", "0")
    exact, narrow = nki.jit(kernel)(a)
    assert (precise, exact) == (2.0**8, a * 2.0**8)
    assert (narrow.dtype, narrow.astype(np.float32)) == (ml_dtypes.bfloat16, 2.0**8)


def test_imprecise_mode_takes_narrow_arguments_and_updates_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(a: Any, weights: Any) -> Any:
        x = tile(a)
        product = nl.ndarray((4, 4), nl.float32, nl.psum)
        nisa.nc_matmul(product, x, tile(weights))
        nisa.dma_copy(a, x)
        return out(product)

    a, w = A.astype(ml_dtypes.bfloat16), A.astype(ml_dtypes.float8_e5m2)
    monkeypatch.setenv("NKI_PRECISE_FP", "0")
    assert (nki.jit(kernel)(a, w) == a.astype(np.float32).T @ w.astype(np.float32)).all()
    assert (a == A.astype(ml_dtypes.bfloat16)).all()


def test_options_of_a_block_reach_the_launch() -> None:
    broken = nki.jit(lambda a: out(nl.ndarray((2, 4), nl.float32)))
    with pytest.raises(MachineError):
        broken(A)
    with using(Options(checks="off")):
        assert np.isnan(broken(A)).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [({"checks": "maybe"}, "checks='maybe'"), ({"races": ""}, "races=''"), ({"quantum": 0}, "quantum=0")],
)
def test_options_are_validated(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Options(**change)


# ---- names that others import ----


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (
            "nki",
            ["jit", "simulate", "language", "isa", "collectives", "typing", "dtype", "compiler", "tensor"],
        ),
        ("nki.typing", ["tensor", "mutable_tensor"]),
        ("nki.meta.tensor", ["zeros", "arange", "identity"]),
        ("nki.compiler.frontend", ["NKIFrontend", "ParserFrontend"]),
        ("nki.compiler.kernel_builder", ["compile_kernel"]),
        ("nki.compiler.ncc_driver", ["CompileOptions"]),
        ("nki.compiler.target", []),
        ("nki.framework.kernel", ["Kernel"]),
        ("nki.experimental", ["while_loop"]),
        ("nki.runtime", []),
        ("neuronxcc.nki.typing", ["tensor", "mutable_tensor"]),
    ],
)
def test_importable_names(module: str, names: list[str]) -> None:
    loaded = importlib.import_module(module)
    assert all(hasattr(loaded, name) for name in names)


def test_typing_tensors_take_an_index() -> None:
    from nki.typing import mutable_tensor, tensor

    assert tensor[128, 512] is tensor
    assert mutable_tensor[1] is mutable_tensor


def test_the_compiler_says_that_it_is_absent() -> None:
    from nki.compiler.frontend import NKIFrontend
    from nki.compiler.kernel_builder import compile_kernel

    for use in (NKIFrontend, compile_kernel):
        with pytest.raises(RuntimeError, match="this package simulates"):
            use(1)


def test_instructions_return_handles_and_take_names() -> None:
    def kernel(a: Any) -> Any:
        x = nl.ndarray(a.shape, a.dtype)
        first = nisa.dma_copy(x, a, name="load")
        assert isinstance(first, nisa.NkiInstruction)
        assert nisa.memset(x, 0, name=None).depends_on(first) is not None
        with pytest.raises(TypeError):
            nisa.dma_copy(x, a, mask=None)  # type: ignore[call-arg]
        return out(x)

    with target("gen3"):
        run(kernel, A)


def test_errors_answer_to_all_documented_classes() -> None:
    error = refusal(lambda a: out(tile(a)[:, 9]), A)
    assert isinstance(error, (nisa.NkiValidationError, AssertionError))
    assert isinstance(error, IndexError)
    assert isinstance(error, nisa.NkiValidationError)
