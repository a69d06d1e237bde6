"""Turns of the cores of a launch.

Each core is a greenlet. A core runs a few instructions and hands over; at a barrier, a sendrecv or a
collective it waits until the others have come. The order is fixed, or drawn from a seed among the legal
ones, and never depends on time. A worker is one core of one rank; ids run from 0.
"""

from __future__ import annotations

import contextvars
import random
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from greenlet import GreenletExit, greenlet

from .errors import DeadlockError


class Scheduler:
    """Runs one body per worker to completion."""

    def __init__(self, quantum: int, seed: int | None, labels: Sequence[str]) -> None:
        self.quantum = quantum
        self.seed = seed
        #: How messages name the workers.
        self.labels = tuple(labels)
        self._random = None if seed is None else random.Random(seed)
        self._left = self._turn()
        self._hub: greenlet | None = None
        self._workers: list[greenlet] = []
        self._waits: dict[int, tuple[Callable[[], bool], str]] = {}
        self._mail: dict[tuple[int, int, Hashable], deque[Any]] = defaultdict(deque)
        self._meetings: dict[tuple[tuple[int, ...], int], dict[int, Any]] = defaultdict(dict)
        self._rounds: dict[tuple[tuple[int, ...], int], int] = defaultdict(int)

    def _turn(self) -> int:
        return self.quantum if self._random is None else self._random.randint(1, 2 * self.quantum)

    # ---- running ----

    def run(self, bodies: Sequence[Callable[[], Any]], enter: Callable[[int], None]) -> list[Any]:
        """Execute all bodies; `enter(worker)` is called before a worker continues. Returns their results."""
        if len(bodies) == 1:
            enter(0)
            return [bodies[0]()]
        self._hub = greenlet.getcurrent()
        results: dict[int, Any] = {}
        self._workers = [self._worker(i, body, results) for i, body in enumerate(bodies)]
        try:
            self._loop(results, enter)
        finally:
            for worker in self._workers:
                if not worker.dead:
                    worker.throw(GreenletExit)
        return [results[i] for i in range(len(bodies))]

    def _worker(self, index: int, body: Callable[[], Any], results: dict[int, Any]) -> greenlet:
        def run() -> None:
            results[index] = body()

        worker = greenlet(run)
        # A greenlet starts in an empty context otherwise, which would lose NumPy's error state and options.
        worker.gr_context = contextvars.copy_context()
        return worker

    def _loop(self, results: dict[int, Any], enter: Callable[[int], None]) -> None:
        turn = self._choose(-1)
        while len(results) < len(self._workers):
            turn = self._next(turn, results)
            self._left = self._turn()
            enter(turn)
            self._workers[turn].switch()
            turn = self._choose(turn)

    def _choose(self, last: int) -> int:
        count = len(self._workers)
        return (last + 1) % count if self._random is None else self._random.randrange(count)

    def _next(self, preferred: int, results: dict[int, Any]) -> int:
        """The preferred worker, or the first one after it that can go on."""
        count = len(self._workers)
        for step in range(count):
            worker = (preferred + step) % count
            if worker in results:
                continue
            wait = self._waits.get(worker)
            if wait is None or wait[0]():
                self._waits.pop(worker, None)
                return worker
        raise DeadlockError(
            "deadlock",
            "no core can go on: " + "; ".join(self._position(i, i in results) for i in range(count)),
            remedy="all cores must pass the same barriers and collectives and pair every sendrecv",
        )

    def _position(self, worker: int, done: bool) -> str:
        state = "has returned" if done else f"waits at {self._waits[worker][1]}"
        return f"{self.labels[worker]} {state}"

    # ---- what instructions call ----

    def tick(self) -> None:
        """Called after every instruction: hand over when the turn is used up."""
        if self._hub is None:
            return
        self._left -= 1
        if self._left <= 0:
            self._hub.switch()

    def wait(self, worker: int, ready: Callable[[], bool], where: str) -> None:
        """Let the others run until `ready()`."""
        if ready():
            return
        self._waits[worker] = (ready, where)
        if self._hub is None:
            position = self._position(worker, False)
            raise DeadlockError("deadlock", f"{position}, and no other core runs")
        self._hub.switch()

    def meet(
        self,
        worker: int,
        members: tuple[int, ...],
        payload: Any,
        where: str,
        complete: Callable[[], None] | None = None,
    ) -> dict[int, Any]:
        """Wait until all `members` have come to their n-th meeting of these members; everyone's payload.
        `complete` runs once, at the moment the last one comes."""
        turn = self._rounds[members, worker]
        self._rounds[members, worker] += 1
        table = self._meetings[members, turn]
        table[worker] = payload
        if complete is not None and len(table) == len(members):
            complete()
        self.wait(worker, lambda: len(table) == len(members), where)
        if all(self._rounds[members, other] > turn for other in members):
            self._meetings.pop((members, turn), None)
        return table

    def exchange(self, worker: int, to: int, source: int, pipe: Hashable, payload: Any, where: str) -> Any:
        """Send `payload` to worker `to` and return what worker `source` sends on the same pipe.

        Each call sends one message and takes one, so no message is left when all workers have returned: a
        wrong pairing shows as a deadlock.
        """
        self._mail[worker, to, pipe].append(payload)
        inbox = self._mail[source, worker, pipe]
        self.wait(worker, lambda: bool(inbox), where)
        return inbox.popleft()
