"""Claim: collectives move and reduce data between the ranks of a launch as documented, and say so where
ranks disagree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from conformance.tests.machine.bench import target, tile
from reference.neuroncore.errors import DeadlockError, MachineError
from reference.neuroncore.options import Options

import nki  # isort: skip
import nki.collectives as ncc  # isort: skip
import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip


def ranks(
    function: Callable[..., Any], *per_rank: tuple[Any, ...], cores: int = 1, **options: Any
) -> list[Any]:
    """Run on one rank per argument tuple; each rank's output."""
    results = nki.jit(function)[cores].launch_ranks([(args, {}) for args in per_rank], Options(**options))
    return [result.outputs for result in results]


def data(rank: int, shape: tuple[int, ...] = (2, 4)) -> Any:
    return (np.arange(np.prod(shape)).reshape(shape) + 100 * rank).astype(np.float32)


def output(shape: tuple[int, ...], dtype: Any = nl.float32) -> Any:
    return nl.ndarray(shape, dtype, nl.shared_hbm)


EVERYONE = ncc.ReplicaGroup([[0, 1, 2]])
PAIRS = ncc.ReplicaGroup([[1, 0], [2, 3]])


# ---- dense ----


@pytest.mark.parametrize(("op", "witness"), [(nl.add, np.sum), (nl.maximum, np.max), (nl.minimum, np.min)])
def test_all_reduce(op: Any, witness: Any) -> None:
    def kernel(a: Any) -> Any:
        result = output(a.shape)
        ncc.all_reduce([a], [result], EVERYONE, op)
        return result

    arrays = [data(r) * (-1) ** r for r in range(3)]
    for got in ranks(kernel, *((a,) for a in arrays)):
        assert (got == witness(arrays, axis=0)).all()


def test_all_reduce_adds_in_group_order_and_rounds_once() -> None:
    def kernel(a: Any) -> Any:
        result = output(a.shape, a.dtype)
        ncc.all_reduce([a], [result], EVERYONE, nl.add)
        return result

    parts = [np.array([v], ml_dtypes.bfloat16) for v in (1.0, 2.0**-8, 2.0**-8)]
    assert [float(got[0]) for got in ranks(kernel, *((p,) for p in parts))] == [1 + 2.0**-7] * 3


def test_all_gather_in_hbm_joins_in_group_order() -> None:
    def kernel(a: Any) -> Any:
        result = output((4, 4))
        ncc.all_gather([a], [result], PAIRS, 0)
        return result

    got = ranks(kernel, *((data(r),) for r in range(4)))
    for rank, order in enumerate([(1, 0), (1, 0), (2, 3), (2, 3)]):
        assert (got[rank] == np.concatenate([data(r) for r in order])).all()


@pytest.mark.parametrize("dim", [0, 1])
def test_all_gather_on_chip(dim: int) -> None:
    def kernel(a: Any) -> Any:
        shape = (6, 4) if dim == 0 else (2, 12)
        gathered, result = nl.ndarray(shape, nl.float32), output(shape)
        ncc.all_gather([tile(a)], [gathered], EVERYONE, dim)
        nisa.dma_copy(result, gathered)
        return result

    for got in ranks(kernel, *((data(r),) for r in range(3))):
        assert (got == np.concatenate([data(r) for r in range(3)], axis=dim)).all()


def test_several_tensors_at_once() -> None:
    def kernel(a: Any, b: Any) -> Any:
        first, second = output((6, 4)), output((3, 3))
        ncc.all_gather([a, b], [first, second], EVERYONE, 0)
        return first, second

    got = ranks(kernel, *((data(r), data(r, (1, 3))) for r in range(3)))
    assert (got[1][1] == np.concatenate([data(r, (1, 3)) for r in range(3)])).all()


def test_reduce_scatter_and_all_to_all() -> None:
    def kernel(a: Any) -> Any:
        part, turned = output((2, 4)), output((6, 4))
        ncc.reduce_scatter([a], [part], EVERYONE, 0, nl.add)
        ncc.all_to_all([a], [turned], EVERYONE, 0)
        return part, turned

    arrays = [data(r, (6, 4)) for r in range(3)]
    for rank, (part, turned) in enumerate(ranks(kernel, *((a,) for a in arrays))):
        mine = slice(2 * rank, 2 * rank + 2)
        assert (part == np.sum(arrays, axis=0)[mine]).all()
        assert (turned == np.concatenate([a[mine] for a in arrays])).all()


# ---- point to point and rings ----


def test_collective_permute_moves_what_its_pairs_say() -> None:
    def kernel(a: Any) -> Any:
        result = nl.full((2, 4), -1, nl.float32, nl.shared_hbm)
        ncc.collective_permute([a], [result], [(0, 2), (2, 1)])
        return result

    got = ranks(kernel, *((data(r),) for r in range(3)))
    assert (got[0] == -1).all()
    assert (got[1] == data(2)).all()
    assert (got[2] == data(0)).all()


def test_rings_step_to_the_successor() -> None:
    ring = ncc.ReplicaGroup([[2, 0, 1]])

    def kernel(a: Any, b: Any) -> Any:
        first, second, added = (output((2, 4)) for _ in range(3))
        ncc.collective_permute_implicit([[a], [b]], [[first], [second]], ring, channel_ids=[0, 1])
        ncc.collective_permute_implicit_reduce([[a]], [[b]], [[added]], ring, nl.add)
        return first, second, added

    got = ranks(kernel, *((data(r), -data(r)) for r in range(3)))
    for rank, before in ((0, 2), (1, 0), (2, 1)):
        first, second, added = got[rank]
        assert (first == data(before)).all()
        assert (second == -data(before)).all()
        assert (added == 0).all()


def test_rank_and_ring_position_are_registers() -> None:
    ring = ncc.ReplicaGroup([[2, 0, 1]])

    def kernel(a: Any) -> Any:
        x = nl.ndarray((1, 4), nl.int32)
        nisa.register_store(x[:, 0:1], ncc.rank_id())
        for step in range(3):
            rank = ncc.collective_permute_implicit_current_processing_rank_id(step, ring)
            nisa.register_store(x[:, step + 1 : step + 2], rank)
        result = output((1, 4), nl.int32)
        nisa.dma_copy(result, x)
        return result

    got = [r.tolist()[0] for r in ranks(kernel, *((data(r),) for r in range(3)))]
    assert got == [[0, 0, 2, 1], [1, 1, 0, 2], [2, 2, 1, 0]]


# ---- sizes known at run time ----

SENDS = [[1, 2], [3, 0]]  # SENDS[r][s]: elements that rank r sends to rank s


def table(rank: int, rows: int) -> Any:
    counts = SENDS[rank]
    metadata = np.zeros((rows, 2), np.uint32)
    metadata[0], metadata[1] = counts, [0, counts[0]]
    if rows == 4:
        metadata[3] = [5, 1]
    return metadata


@pytest.mark.parametrize("displaced", [False, True])
@pytest.mark.parametrize("on_chip", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_all_to_all_v(displaced: bool, on_chip: bool, known: bool) -> None:
    pair = ncc.ReplicaGroup([[0, 1]])

    def kernel(a: Any, m: Any) -> Any:
        result = nl.full((8,), -1, nl.float32, nl.shared_hbm)
        metadata = m
        if on_chip:
            metadata = nl.ndarray((1, *m.shape), nl.uint32)
            nisa.dma_copy(metadata, m)
        ncc.all_to_all_v([a], [result], pair, metadata, recv_counts_known=known, has_rdispls=displaced)
        if on_chip:
            nisa.dma_copy(m, metadata)
        return result

    tables = [table(r, 4 if displaced else 3) for r in range(2)]
    got = ranks(kernel, *((data(r, (8,)), tables[r]) for r in range(2)))
    for rank in range(2):
        expected = np.full(8, -1, np.float32)
        for source in range(2):
            count, start = SENDS[source][rank], [0, SENDS[source][0]][rank]
            place = (5, 1)[source] if displaced else 4 * source
            expected[place : place + count] = data(source, (8,))[start : start + count]
        assert (got[rank] == expected).all()
        counts = [0, 0] if known else [SENDS[source][rank] for source in range(2)]
        assert tables[rank][2].tolist() == counts


def test_all_gather_v() -> None:
    def kernel(a: Any, m: Any) -> Any:
        result = nl.full((9,), -1, nl.float32, nl.shared_hbm)
        ncc.all_gather_v([a], [result], EVERYONE, m)
        return result

    tables = []
    for rank in range(3):
        metadata = np.full((3, 3), 99, np.uint32)
        metadata[0, 0], metadata[1, 0] = rank + 1, 2
        tables.append(metadata)
    expected = np.full(9, -1, np.float32)
    for rank in range(3):
        expected[3 * rank : 3 * rank + rank + 1] = data(rank, (6,))[2 : 3 + rank]
    for got in ranks(kernel, *((data(r, (6,)), tables[r]) for r in range(3))):
        assert (got == expected).all()
    assert [t[2].tolist() for t in tables] == [[1, 2, 3]] * 3


def test_chunks_that_do_not_fit_are_refused() -> None:
    def kernel(a: Any, m: Any) -> Any:
        result = output((2,))
        ncc.all_gather_v([a], [result], ncc.ReplicaGroup([[0]]), m)
        return result

    metadata = np.array([[5], [0], [0]], np.uint32)
    with pytest.raises(MachineError, match="too short"):
        ranks(kernel, (data(0, (8,)), metadata))


# ---- agreement ----


def gather(a: Any, group: Any) -> Any:
    result = output((2 * len(group[0]), 4))
    ncc.all_gather([a], [result], ncc.ReplicaGroup(group), 0)
    return result


def test_one_rank_copies() -> None:
    assert (nki.jit(gather)(data(0), [[0]]) == data(0)).all()


@pytest.mark.parametrize(
    ("group", "rule"),
    [([[0, 1]], "collective.ranks"), ([[1]], "collective.group"), ([[0], [0]], "collective.group")],
)
def test_groups_name_ranks_that_run(group: Any, rule: str) -> None:
    with pytest.raises(MachineError) as caught:
        nki.jit(gather)(data(0), group)
    assert caught.value.rule == rule


def test_ranks_call_the_same_collectives() -> None:
    def kernel(a: Any, rank: int) -> Any:
        result = output((2, 4))
        if rank == 0:
            ncc.all_reduce([a], [result], ncc.ReplicaGroup([[0, 1]]), nl.add)
        else:
            ncc.all_to_all([a], [result], ncc.ReplicaGroup([[0, 1]]), 0)
        return result

    with pytest.raises(MachineError) as caught:
        ranks(kernel, (data(0), 0), (data(1), 1))
    assert caught.value.rule == "collective.unequal"


def test_a_rank_that_stays_away_is_a_deadlock() -> None:
    def kernel(a: Any, rank: int) -> Any:
        return gather(a, [[0, 1]]) if rank == 0 else None

    with pytest.raises(
        DeadlockError, match=r"rank 0 core 0 waits at .*all_gather.*rank 1 core 0 has returned"
    ):
        ranks(kernel, (data(0), 0), (data(1), 1))


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_cores_of_a_rank_meet_their_own_kind(seed: int | None) -> None:
    def kernel(a: Any) -> Any:
        me = nl.program_id()
        gathered, result = nl.ndarray((1, 12), nl.float32), output((2, 12))
        ncc.all_gather([tile(a[me : me + 1])], [gathered], EVERYONE, 1)
        nisa.dma_copy(result[me : me + 1], gathered)
        return result

    for got in ranks(kernel, *((data(r),) for r in range(3)), cores=2, seed=seed):
        assert (got == np.concatenate([data(r) for r in range(3)], axis=1)).all()


@pytest.mark.parametrize(
    ("kernel", "rule"),
    [
        (
            lambda a: ncc.all_gather([a], [nl.ndarray((2, 4), nl.float32)], ncc.ReplicaGroup([[0]]), 0),
            "operand.memory",
        ),
        (lambda a: ncc.all_to_all([tile(a)], [tile(a)], ncc.ReplicaGroup([[0]]), 0), "operand.memory"),
        (
            lambda a: ncc.all_reduce([tile(a)] * 2, [tile(a)] * 2, ncc.ReplicaGroup([[0]]), nl.add),
            "collective.coalesced",
        ),
        (lambda a: ncc.all_gather([a], [a], ncc.ReplicaGroup([[0]]), 1), "collective.dim"),
        (lambda a: ncc.all_reduce([a], [a], ncc.ReplicaGroup([[0]]), nl.multiply), "collective.op"),
        (lambda a: ncc.all_reduce([a], [a[0:1]], ncc.ReplicaGroup([[0]]), nl.add), "collective.shape"),
        (lambda a: ncc.all_reduce(a, a, ncc.ReplicaGroup([[0]]), nl.add), "operand.type"),
        (lambda a: ncc.all_reduce([a], [a], ncc.ReplicaGroup([[0]]), nl.add, priority=1), "dma.priority"),
        (
            lambda a: ncc.collective_permute_implicit([[a]], [[a]], ncc.ReplicaGroup([[0]]), [1]),
            "collective.channel",
        ),
    ],
)
def test_operands(kernel: Any, rule: str) -> None:
    with pytest.raises(MachineError) as caught:
        nki.jit(kernel)(data(0))
    assert caught.value.rule == rule


def test_priority_is_for_gen4() -> None:
    def kernel(a: Any) -> Any:
        result = output(a.shape)
        ncc.all_reduce([a], [result], ncc.ReplicaGroup([[0]]), nl.add, priority=1)
        return result

    with target("gen4"):
        assert (nki.jit(kernel)(data(0)) == data(0)).all()


def test_groups_hash_compare_and_print() -> None:
    assert ncc.ReplicaGroup([[0, 1]]) == ncc.ReplicaGroup([[0, 1]])
    assert hash(ncc.ReplicaGroup([[0, 1]])) == hash(ncc.ReplicaGroup([[0, 1]]))
    assert "[[0, 1]]" in repr(ncc.ReplicaGroup([[0, 1]]))
