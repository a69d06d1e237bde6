"""Claim: two cores run in a fixed or seeded order, meet at barriers and sendrecvs, and every race and
deadlock is told with both places.

Every detector has a twin: a program that it must accept and one that it must catch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.bench import launch, out, refusal, run, tile
from reference.neuroncore.errors import DeadlockError, MachineWarning, RaceError
from reference.neuroncore.options import Options

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

A = np.arange(8, dtype=np.float32).reshape(2, 4)
SEEDS = range(8)


def shared(shape: tuple[int, ...] = (2, 4), name: str = "") -> Any:
    return nl.ndarray(shape, nl.float32, nl.shared_hbm, name=name)


def number(value: float, shape: tuple[int, ...] = (1, 4)) -> Any:
    return nl.full(shape, value, nl.float32)


# ---- programs ----


def test_programs_know_who_they_are() -> None:
    def kernel(a: Any) -> Any:
        result = nl.ndarray((2, 3), nl.int32, nl.shared_hbm)
        me = nl.program_id(0)
        for column, value in enumerate((me, nl.num_programs(), nl.program_ndim())):
            nisa.dma_copy(result[me : me + 1, column : column + 1], nl.full((1, 1), value, nl.int32))
        return result

    assert run(kernel, A, cores=2).tolist() == [[0, 2, 1], [1, 2, 1]]


def test_a_launch_without_grid_has_no_axis() -> None:
    from conformance.tests.machine.bench import nki

    seen = []

    @nki.jit
    def kernel(a: Any) -> None:
        seen.append((nl.program_ndim(), nl.program_id(0), nl.num_programs(None)))

    kernel(A)
    kernel[1](A)
    assert seen == [(0, 0, 1), (1, 0, 1)]
    assert refusal(lambda a: nl.program_id(1), A).rule == "launch.axis"


def test_arguments_of_two_cores_are_shared_hbm() -> None:
    def kernel(a: Any) -> None:
        assert a.buffer == (nl.shared_hbm if nl.num_programs() == 2 else nl.hbm)

    run(kernel, A, cores=1)
    run(kernel, A, cores=2)


def test_two_cores_need_gen3() -> None:
    def kernel(a: Any) -> int:
        return nl.num_programs()

    assert run(kernel, A, cores=2, generation="gen3") == 2
    assert run(kernel, A, cores=1, generation="gen2") == 1
    assert refusal(kernel, A, cores=2, generation="gen2").rule == "generation"


def test_shared_tensors_meet_by_order_and_by_name() -> None:
    def kernel(a: Any) -> Any:
        me = nl.program_id()
        first, named, third = shared(), shared(name="named"), shared()
        for value, tensor in ((1, first), (2, named), (3, third)):
            nisa.dma_copy(tensor[me : me + 1], number(value + 10 * me))
        return first, named, third

    got = run(kernel, A, cores=2)
    assert [t[:, 0].tolist() for t in got] == [[1, 11], [2, 12], [3, 13]]


def test_equal_names_are_matched_in_order() -> None:
    def kernel(a: Any) -> Any:
        me, results = nl.program_id(), []
        for value in (1, 2):
            tensor = shared(name="again")
            nisa.dma_copy(tensor[me : me + 1], number(value))
            results.append(tensor)
        return tuple(results)

    first, second = run(kernel, A, cores=2, options=Options(quantum=50))
    assert (first == 1).all()
    assert (second == 2).all()


def test_shared_tensors_must_agree() -> None:
    def kernel(a: Any) -> Any:
        return shared((2, 4 + nl.program_id()))

    assert refusal(kernel, A, cores=2).rule == "hbm.shared"


def test_a_shared_tensor_of_one_core_is_reported() -> None:
    def kernel(a: Any) -> None:
        if nl.program_id() == 0:
            shared(name="lonely")

    with pytest.warns(MachineWarning, match="'lonely'"):
        run(kernel, A, cores=2)


def test_sbuf_is_private() -> None:
    def kernel(a: Any) -> Any:
        me, result = nl.program_id(), shared()
        x = nl.ndarray((1, 4), nl.float32, address=(0, 0))
        nisa.memset(x, float(me))
        nisa.core_barrier(result, (0, 1))
        nisa.dma_copy(result[me : me + 1], x)
        return result

    assert run(kernel, A, cores=2)[:, 0].tolist() == [0, 1]


# ---- barriers ----


def handover(a: Any, barrier: bool) -> Any:
    """Core 0 writes a tensor, core 1 reads it."""
    middle, result = shared(), shared()
    if nl.program_id() == 0:
        nisa.dma_copy(middle, tile(a))
    if barrier:
        nisa.core_barrier(middle, [0, 1])
    if nl.program_id() == 1:
        nisa.dma_copy(result, tile(middle))
    return result


@pytest.mark.parametrize("seed", [None, *SEEDS])
def test_a_barrier_orders_the_cores(seed: int | None) -> None:
    assert (run(handover, A, True, cores=2, options=Options(seed=seed)) == A).all()


def test_a_read_before_the_write_is_told_as_such() -> None:
    # Without the barrier the fixed order lets core 1 read what is not there yet.
    error = refusal(handover, A, False, cores=2, options=Options(quantum=1))
    assert error.rule == "memory.unwritten"
    assert "nisa.core_barrier" in str(error.remedy)


@pytest.mark.parametrize("cores", [(0,), (1, 0), [0, 1]])
def test_barriers_of_one_core_or_one_launch_do_nothing(cores: Any) -> None:
    def kernel(a: Any) -> Any:
        nisa.core_barrier(a, cores)
        return out(tile(a))

    assert (run(kernel, A) == A).all()


def test_unequal_barriers_are_a_deadlock_with_both_places() -> None:
    def kernel(a: Any) -> None:
        tensor = shared()
        nisa.core_barrier(tensor, (0, 1))
        if nl.program_id() == 0:
            nisa.core_barrier(tensor, (0, 1))

    error = refusal(kernel, A, cores=2)
    assert isinstance(error, DeadlockError)
    assert "core 0 waits at core 0 #1 core_barrier (conformance/tests/machine/test_two_cores.py:" in str(
        error
    )
    assert "core 1 has returned" in str(error)


def test_different_barriers_do_not_meet() -> None:
    def kernel(a: Any) -> None:
        first, second = shared(name="first"), shared(name="second")
        nisa.core_barrier(first if nl.program_id() == 0 else second, (0, 1))

    error = refusal(kernel, A, cores=2)
    assert error.rule == "barrier.unequal"
    assert "'first'" in str(error)
    assert "'second'" in str(error)


def test_barriers_name_cores_that_exist() -> None:
    assert refusal(lambda a: nisa.core_barrier(a, (0, 2)), A, cores=2).rule == "barrier.cores"
    assert refusal(lambda a: nisa.core_barrier(a, (0, 0)), A, cores=2).rule == "barrier.cores"
    assert refusal(lambda a: nisa.core_barrier(a, (0, 1)), A, generation="gen2").rule == "generation"


# ---- sendrecv ----


def swap(a: Any, size: int = 4, **options: Any) -> Any:
    me, result = nl.program_id(), shared()
    mine, other = number(me + 1.0)[:, :size], number(0.0)
    nisa.sendrecv(mine, other[:, :size], 1 - me, 1 - me, 0, **options)
    nisa.dma_copy(result[me : me + 1], other)
    return result


@pytest.mark.parametrize("seed", [None, *SEEDS])
def test_cores_swap_tiles(seed: int | None) -> None:
    assert run(swap, A, cores=2, options=Options(seed=seed))[:, 0].tolist() == [2, 1]


def test_messages_keep_their_order_and_their_pipe() -> None:
    def kernel(a: Any) -> Any:
        me, result = nl.program_id(), shared()
        x, y = nl.zeros((1, 4), nl.float32), nl.zeros((1, 4), nl.float32)
        for column, pipe in enumerate((0, 1, 0, 1)):
            nisa.memset(x[:, column : column + 1], 10.0 * me + column)
            nisa.sendrecv(x[:, column : column + 1], y[:, column : column + 1], 1 - me, 1 - me, pipe)
        nisa.dma_copy(result[me : me + 1], y)
        return result

    assert run(kernel, A, cores=2).tolist() == [[10, 11, 12, 13], [0, 1, 2, 3]]


def test_source_is_read_before_anything_arrives() -> None:
    def kernel(a: Any) -> Any:
        me, result = nl.program_id(), shared()
        x = number(me + 1.0)
        nisa.sendrecv(x, x, 1 - me, 1 - me, 0)
        nisa.dma_copy(result[me : me + 1], x)
        return result

    assert run(kernel, A, cores=2)[:, 0].tolist() == [2, 1]


def test_sending_to_oneself_copies() -> None:
    def kernel(a: Any) -> Any:
        me, result = nl.program_id(), shared()
        x, y = number(me + 1.0), number(0.0)
        nisa.sendrecv(x, y, me, me, 0)
        nisa.dma_copy(result[me : me + 1], y)
        return result

    assert run(kernel, A, cores=2)[:, 0].tolist() == [1, 2]


def test_a_receive_that_nobody_sends_is_a_deadlock() -> None:
    def kernel(a: Any) -> None:
        if nl.program_id() == 0:
            nisa.sendrecv(number(1.0), number(0.0), 1, 1, 0)

    assert isinstance(refusal(kernel, A, cores=2), DeadlockError)


def test_a_message_that_nobody_receives_is_a_deadlock() -> None:
    # Every sendrecv sends one message and receives one, so whoever ends without receiving leaves another
    # waiting.
    def kernel(a: Any) -> None:
        if nl.program_id() == 0:
            nisa.sendrecv(number(1.0), number(0.0), 1, 0, 0)
        else:
            nisa.sendrecv(number(1.0), number(0.0), 0, 1, 0)

    assert isinstance(refusal(kernel, A, cores=2), DeadlockError)


@pytest.mark.parametrize(
    ("kernel", "rule"),
    [
        (lambda a: nisa.sendrecv(a, number(0.0), 0, 0, 0), "operand.memory"),
        (lambda a: nisa.sendrecv(number(0.0), number(0.0, (1, 3)), 0, 0, 0), "sendrecv.shape"),
        (lambda a: nisa.sendrecv(number(0.0), number(0.0), 2, 0, 0), "sendrecv.rank"),
    ],
)
def test_sendrecv_operands(kernel: Any, rule: str) -> None:
    assert refusal(kernel, A, cores=2).rule == rule


def test_tiles_of_other_shapes_do_not_arrive() -> None:
    def kernel(a: Any) -> None:
        me = nl.program_id()
        x = number(0.0, (1, 4 + me))
        nisa.sendrecv(x, number(0.0, (1, 4 + me)), 1 - me, 1 - me, 0)

    assert refusal(kernel, A, cores=2).rule == "sendrecv.shape"


@pytest.mark.parametrize(("width", "rule"), [(256, None), (257, "sendrecv.gpsimd")])
@pytest.mark.parametrize("option", [{"dma_engine": nisa.dma_engine.gpsimd_dma}, {"use_gpsimd_dma": True}])
def test_gpsimd_moves_little(width: int, rule: str | None, option: dict[str, Any]) -> None:
    def kernel(a: Any) -> None:
        x = number(0.0, (1, width))
        nisa.sendrecv(x, number(0.0, (1, width)), 1 - nl.program_id(), 1 - nl.program_id(), 0, **option)

    if rule is None:
        run(kernel, A, cores=2)
    else:
        assert refusal(kernel, A, cores=2).rule == rule


# ---- races ----


def halves(a: Any, overlap: int) -> Any:
    """Each core writes its half of a row, `overlap` elements more than that."""
    me, result = nl.program_id(), shared((1, 8))
    start = 4 * me
    stop = min(8, start + 4 + overlap)
    nisa.dma_copy(result[:, start:stop], number(me + 1.0, (1, stop - start)))
    return result


@pytest.mark.parametrize("seed", [None, *SEEDS])
def test_disjoint_writes_are_no_race_and_shared_ones_are(seed: int | None) -> None:
    options = Options(seed=seed)
    assert run(halves, A, 0, cores=2, options=options).tolist() == [[1] * 4 + [2] * 4]
    error = refusal(halves, A, 1, cores=2, options=options)
    assert isinstance(error, RaceError)
    for core in (0, 1):
        assert f"core {core} #1 dma_copy (conformance/tests/machine/test_two_cores.py:" in str(error)
    if seed is not None:
        assert f"(interleaving seed {seed})" in str(error)


def test_races_are_found_whichever_core_comes_first() -> None:
    def kernel(a: Any, reader: int) -> Any:
        middle, result = shared(), shared()
        me = nl.program_id()
        if me == 0:
            nisa.dma_copy(middle, a)
        nisa.core_barrier(middle, (0, 1))
        if me == reader:
            nisa.dma_copy(result, tile(middle))
        else:
            nisa.dma_copy(middle[0:1], number(1.0))
        return result

    for reader in (0, 1):
        error = refusal(kernel, A, reader, cores=2)
        assert isinstance(error, RaceError)
        assert "reads and writes" in str(error) or "writes and reads" in str(error)


def test_a_barrier_orders_nothing_before_the_last_core_comes() -> None:
    def kernel(a: Any, column: int) -> Any:
        result = shared((1, 2))
        me = nl.program_id()
        for _ in range(20 * me):  # core 0 waits at the barrier long before core 1 writes
            nisa.memset(nl.ndarray((1, 1), nl.float32), 0)
        column = column if me else 0
        nisa.dma_copy(result[:, column : column + 1], number(1.0, (1, 1)))
        nisa.core_barrier(result, (0, 1))
        return result

    run(kernel, A, 1, cores=2)
    assert isinstance(refusal(kernel, A, 0, cores=2), RaceError)


def test_a_race_of_two_bytes_in_strided_views() -> None:
    def kernel(a: Any, other: int) -> Any:
        result = shared((1, 8))
        start = 0 if nl.program_id() == 0 else other
        nisa.dma_copy(result[:, start : start + 7 : 2], number(1.0, (1, 4)))
        return result

    run(kernel, A, 1, cores=2)
    assert isinstance(refusal(kernel, A, 0, cores=2), RaceError)


def test_gathered_and_scattered_rows_race_row_by_row() -> None:
    table = np.zeros((8, 4), np.float32)

    def kernel(v: Any, i: Any) -> None:
        me = nl.program_id()
        view = v.ap([[4, 2], [1, 4]], vector_offset=tile(i[2 * me : 2 * me + 2]))
        nisa.dma_copy(view, number(me + 1.0, (2, 4)))

    run(kernel, table, np.array([[0], [5], [1], [7]], np.int32), cores=2)
    assert table[:, 0].tolist() == [1, 2, 0, 0, 0, 1, 0, 2]
    assert isinstance(refusal(kernel, table, np.array([[0], [5], [5], [7]], np.int32), cores=2), RaceError)


def test_both_cores_may_read_the_same() -> None:
    def kernel(a: Any) -> Any:
        me, result = nl.program_id(), shared()
        nisa.dma_copy(result[me : me + 1], tile(a)[me : me + 1])
        return result

    for seed in SEEDS:
        assert (run(kernel, A, cores=2, options=Options(seed=seed)) == A).all()


def test_private_hbm_does_not_race() -> None:
    def kernel(a: Any) -> Any:
        mine = nl.ndarray((2, 4), nl.float32, nl.private_hbm)
        nisa.dma_copy(mine, a)
        result = shared()
        me = nl.program_id()
        nisa.dma_copy(result[me : me + 1], tile(mine)[me : me + 1])
        return result

    assert (run(kernel, A, cores=2) == A).all()


def test_races_can_be_warnings_or_off() -> None:
    with pytest.warns(MachineWarning, match="both cores touch"):
        run(halves, A, 1, cores=2, options=Options(races="warn"))
    run(halves, A, 1, cores=2, options=Options(races="off"))


# ---- order ----


def order_of(a: Any) -> Any:
    """Which core ran the n-th instruction."""
    for _ in range(10):
        nisa.memset(nl.ndarray((1, 1), nl.float32), 0)


def sequence(**options: Any) -> list[int]:
    result = launch(order_of, A, cores=2, options=Options(trace=True, **options))
    return [instruction.core for instruction in result.trace.instructions]


def test_turns_are_fixed_without_a_seed() -> None:
    assert sequence(quantum=4) == ([0] * 4 + [1] * 4) * 2 + [0] * 2 + [1] * 2
    assert sequence(quantum=1) == [0, 1] * 10


def test_a_seed_shuffles_reproducibly() -> None:
    orders = [sequence(seed=seed) for seed in SEEDS]
    assert orders == [sequence(seed=seed) for seed in SEEDS]
    assert len({tuple(order) for order in orders}) > 4


def test_an_exception_on_one_core_ends_the_launch() -> None:
    def kernel(a: Any) -> None:
        if nl.program_id() == 1:
            raise ValueError("core 1 fails")
        nisa.core_barrier(shared(), (0, 1))

    with pytest.raises(ValueError, match=r"core 1 fails \(interleaving seed 3\)"):
        run(kernel, A, cores=2, options=Options(seed=3))
    assert (run(handover, A, True, cores=2) == A).all()


def test_numpy_error_state_is_the_callers_afterwards() -> None:
    with np.errstate(divide="raise"):
        run(handover, A, True, cores=2)
        with pytest.raises(FloatingPointError):
            np.divide(np.float32(1), np.float32(0))
