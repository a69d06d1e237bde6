"""Claim: registers hold 32 bits that only instructions see, and run-time loops read them once and free what
they make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.bench import out, refusal, run, tile

import nki.experimental  # isort: skip
import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

A = np.array([[3, -2], [2**31 - 1, 7]], np.int32)


def stored(register: Any, dtype: Any = None) -> Any:
    x = nl.ndarray((1, 1), nl.int32 if dtype is None else dtype)
    nisa.register_store(x, register)
    return out(x)


# ---- registers ----


@pytest.mark.parametrize(("given", "expected"), [(None, 0), (5, 5), (-5, -5), (2**31 - 1, 2**31 - 1)])
def test_alloc(given: int | None, expected: int) -> None:
    assert run(lambda a: stored(nisa.register_alloc(given)), A) == expected


def test_alloc_from_an_element() -> None:
    assert run(lambda a: stored(nisa.register_alloc(tile(a)[0:1, 1:2])), A) == -2


def test_load_move_store() -> None:
    def kernel(a: Any) -> Any:
        first, second = nisa.register_alloc(), nisa.register_alloc()
        nisa.register_load(first, a[1, 0:1])
        nisa.register_move(second, first)
        nisa.register_move(first, 1)
        return stored(first), stored(second)

    assert run(kernel, A) == (1, 2**31 - 1)


def test_move_knew_imm_before_0_3() -> None:
    assert run(lambda a: stored(nisa.register_move(nisa.register_alloc(), imm=4)), A) == 4


def test_store_keeps_the_low_bits_of_integers_and_rounds_floats() -> None:
    assert run(lambda a: stored(nisa.register_alloc(300), nl.uint8), A) == 300 - 256
    assert run(lambda a: stored(nisa.register_alloc(-1), nl.uint32), A) == 2**32 - 1
    assert run(lambda a: stored(nisa.register_alloc(2**24 + 1), nl.float32), A) == 2**24


def test_a_whole_float_loads_and_a_broken_one_does_not() -> None:
    kernel = lambda a: stored(nisa.register_load(nisa.register_alloc(), a[0:1]))  # noqa: E731  (a kernel of one line)
    assert run(kernel, np.array([3.0], np.float32)) == 3
    assert refusal(kernel, np.array([3.5], np.float32)).rule == "register.load"


def test_one_element_at_a_time() -> None:
    assert refusal(lambda a: nisa.register_load(nisa.register_alloc(), a), A).rule == "register.load"
    assert refusal(lambda a: nisa.register_store(tile(a), nisa.register_alloc()), A).rule == "register.store"
    assert refusal(lambda a: nisa.register_load(5, a[0, 0:1]), A).rule == "operand.type"


def test_registers_have_32_bits() -> None:
    assert refusal(lambda a: nisa.register_alloc(2**32), A).rule == "register.range"


def test_registers_have_no_value_in_python() -> None:
    def kernel(a: Any) -> Any:
        register = nisa.register_alloc(3)
        for use in (
            lambda: register + 1,
            lambda: int(register),
            lambda: range(register),
            lambda: register < 4,
        ):
            with pytest.raises(TypeError):
                use()
        return stored(register)

    assert run(kernel, A) == 3


def test_while_over_a_register_ends_at_zero() -> None:
    def kernel(a: Any) -> Any:
        x, left = nl.zeros((1, 1), nl.int32), nl.full((1, 1), 3, nl.int32)
        register = nisa.register_alloc(3)
        while register:
            nisa.tensor_scalar(x, x, nl.add, 10)
            nisa.tensor_scalar(left, left, nl.subtract, 1)
            nisa.register_load(register, left)
        return out(x)

    with pytest.warns(DeprecationWarning, match="while_loop"):
        assert run(kernel, A) == 30


# ---- loops ----


def counted(body: Any) -> Any:
    """Runs `body(visit)` and returns how often visit was called with which register values."""

    def kernel(a: Any) -> Any:
        x = nl.full((1, 8), -1, nl.int32)
        place = nisa.register_alloc(0)
        steps = [0]

        def visit(register: Any) -> None:
            nisa.register_store(x[:, nl.ds(place, 1)], register)
            steps[0] += 1
            nisa.register_move(place, steps[0])

        body(visit)
        return out(x)

    values: list[int] = run(kernel, A)[0].tolist()
    return [v for v in values if v != -1]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [((0, 3), [0, 1, 2]), ((2, 8, 3), [2, 5]), ((3, 3), []), ((5, 2), [])],
)
def test_fori_loop(bounds: tuple[int, ...], expected: list[int]) -> None:
    lower, upper, *step = bounds

    def body(visit: Any) -> None:
        nl.fori_loop(nisa.register_alloc(lower), nisa.register_alloc(upper), visit, *step)

    assert counted(body) == expected
    assert counted(lambda visit: nl.fori_loop(lower, upper, visit, *step)) == expected


def test_fori_loop_reads_its_bounds_once() -> None:
    def body(visit: Any) -> None:
        upper = nisa.register_alloc(2)

        def grow(index: Any) -> None:
            visit(index)
            nisa.register_move(upper, 100)

        nl.fori_loop(0, upper, grow)

    assert counted(body) == [0, 1]


def test_fori_loop_over_a_flag_is_a_run_time_if() -> None:
    for flag in (0, 1):
        seen = counted(lambda visit, flag=flag: nl.fori_loop(0, nisa.register_alloc(flag), visit))
        assert seen == [0] * flag


@pytest.mark.parametrize(
    ("arguments", "expected"), [((3,), [0, 1, 2]), ((1, 3), [1, 2]), ((0, 5, 2), [0, 2, 4])]
)
def test_dynamic_range(arguments: tuple[int, ...], expected: list[int]) -> None:
    def body(visit: Any) -> None:
        with pytest.warns(DeprecationWarning, match="fori_loop"):
            indices = nl.dynamic_range(*arguments)
        for index in indices:
            visit(index)

    assert counted(body) == expected


@pytest.mark.parametrize("loop", [nl.while_loop, nki.experimental.while_loop])
def test_while_loop_goes_on_with_the_register_its_body_returns(loop: Any) -> None:
    def body(visit: Any) -> None:
        values = iter([2, 1, 0])

        def step(register: Any) -> Any:
            visit(register)
            return nisa.register_alloc(next(values))

        loop(nisa.register_alloc(3), step)

    assert counted(body) == [3, 2, 1]


def test_induction_registers_are_frozen() -> None:
    body = lambda index: nisa.register_move(index, 1)  # noqa: E731  (the body of a loop)
    error = refusal(lambda a: nl.fori_loop(0, 1, body), A)
    assert (error.rule, isinstance(error, AssertionError)) == ("register.frozen", True)


@pytest.mark.parametrize("step", [0, -1, 1.5, True])
def test_steps_are_positive_compile_time_ints(step: Any) -> None:
    assert refusal(lambda a: nl.fori_loop(0, 1, lambda i: None, step), A).rule == "loop.step"


def test_a_register_is_no_step() -> None:
    assert (
        refusal(lambda a: nl.fori_loop(0, 4, lambda i: None, nisa.register_alloc(1)), A).rule == "loop.step"
    )


def test_bodies_return_what_the_loop_needs() -> None:
    assert refusal(lambda a: nl.fori_loop(0, 1, lambda i: 1), A).rule == "loop.body"
    assert refusal(lambda a: nl.while_loop(nisa.register_alloc(1), lambda r: None), A).rule == "loop.body"


def test_a_tensor_is_no_bound() -> None:
    assert refusal(lambda a: nl.fori_loop(0, tile(a)[0:1, 0:1], lambda i: None), A).rule == "loop.bound"


def test_loops_do_not_stand_inside_no_reorder() -> None:
    def kernel(a: Any) -> Any:
        with nl.no_reorder():
            x = tile(a)
        nl.fori_loop(0, 1, lambda i: None)
        return out(x)

    def inside(a: Any) -> None:
        with nl.no_reorder():
            nl.fori_loop(0, 1, lambda i: None)

    assert (run(kernel, A) == A).all()
    assert refusal(inside, A).rule == "loop.no_reorder"


def test_tiles_made_in_a_body_end_with_it() -> None:
    def kernel(a: Any, leak: bool) -> Any:
        before, kept = tile(a), []

        def body(index: Any) -> None:
            inner = tile(a)
            kept.append(inner)
            nisa.tensor_copy(before, inner)

        nl.fori_loop(0, 2, body)
        return out(kept[0] if leak else before)

    assert (run(kernel, A, False) == A).all()
    assert refusal(kernel, A, True).rule == "loop.scope"


def test_static_ranges_are_ranges() -> None:
    for kind in (nl.affine_range, nl.sequential_range, nl.static_range, nl.range):
        assert list(kind(3)) == [0, 1, 2]
        assert list(kind(1, 7, 3)) == [1, 4]


def test_device_print(capsys: pytest.CaptureFixture[str]) -> None:
    def kernel(a: Any) -> None:
        nl.device_print("tile", tile(a))
        nl.device_print("register", nisa.register_alloc(42))

    run(kernel, A)
    printed = capsys.readouterr().out
    assert "tile NkiTensor" in printed
    assert "register 42" in printed


def test_device_print_only_looks(capsys: pytest.CaptureFixture[str]) -> None:
    def kernel(a: Any) -> Any:
        x, result = tile(a), nl.ndarray((2, 2), nl.float32, nl.psum)
        nl.device_print("unwritten", result)
        nisa.nc_matmul(result, x, x)
        nl.device_print("open", result)
        nisa.nc_matmul(result, x, x)
        return out(result)

    ones = np.ones((3, 2), np.float32)
    assert (run(kernel, ones) == 6).all()
    assert "open NkiTensor" in capsys.readouterr().out
