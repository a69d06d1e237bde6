"""Turns of the two cores of an LNC2 launch.

Each core is a greenlet. A core runs a few instructions and hands over; at a barrier or a sendrecv it waits until the
other one has come. The order is fixed, or drawn from a seed among the legal ones, and never depends on time.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from greenlet import GreenletExit, greenlet

from .errors import DeadlockError, MachineError


class Scheduler:
    """Runs one body per core to completion. Core ids are 0 .. n-1."""

    def __init__(self, quantum: int, seed: int | None) -> None:
        self.quantum = quantum
        self.seed = seed
        self.current = 0
        self._random = None if seed is None else random.Random(seed)
        self._left = self._turn()
        self._hub: greenlet | None = None
        self._cores: list[greenlet] = []
        self._waits: dict[int, tuple[Callable[[], bool], str]] = {}
        self._mail: dict[tuple[int, int, Any], deque[Any]] = defaultdict(deque)
        self._barriers: dict[tuple[int, ...], dict[int, str]] = defaultdict(dict)
        self._generation: dict[tuple[int, ...], int] = defaultdict(int)

    def _turn(self) -> int:
        return self.quantum if self._random is None else self._random.randint(1, 2 * self.quantum)

    def run(self, bodies: list[Callable[[], Any]], enter: Callable[[int], None]) -> list[Any]:
        """Execute all bodies; `enter(core)` is called before a core continues. Returns their results."""
        if len(bodies) == 1:
            enter(0)
            return [bodies[0]()]
        self._hub = greenlet.getcurrent()
        results: dict[int, Any] = {}
        self._cores = [greenlet(self._runner(i, body, results)) for i, body in enumerate(bodies)]
        try:
            self._loop(results, enter)
        finally:
            for core in self._cores:
                if not core.dead:
                    core.throw(GreenletExit)
        return [results[i] for i in range(len(bodies))]

    def _runner(self, core: int, body: Callable[[], Any], results: dict[int, Any]) -> Callable[[], None]:
        def run() -> None:
            results[core] = body()

        return run

    def _loop(self, results: dict[int, Any], enter: Callable[[int], None]) -> None:
        core = 0 if self._random is None else self._random.randrange(len(self._cores))
        while len(results) < len(self._cores):
            core = self._next(core, results)
            self.current = core
            self._left = self._turn()
            enter(core)
            self._cores[core].switch()
            core = (core + 1) % len(self._cores)

    def _next(self, preferred: int, results: dict[int, Any]) -> int:
        count = len(self._cores)
        for step in range(count):
            core = (preferred + step) % count
            if core in results:
                continue
            wait = self._waits.get(core)
            if wait is None or wait[0]():
                self._waits.pop(core, None)
                return core
        positions = "; ".join(
            f"core {i} {'has returned' if i in results else 'waits at ' + self._waits[i][1]}" for i in range(count)
        )
        raise DeadlockError(
            "deadlock",
            f"no core can go on: {positions}",
            remedy="both cores must pass the same barriers and pair every sendrecv",
        )

    def tick(self) -> None:
        """Called after every instruction: hand over when the turn is used up."""
        if self._hub is None:
            return
        self._left -= 1
        if self._left <= 0:
            self._hub.switch()

    def wait(self, core: int, ready: Callable[[], bool], where: str) -> None:
        """Let the others run until `ready()`."""
        if ready():
            return
        if self._hub is None:
            raise DeadlockError("deadlock", f"core {core} waits at {where} and no other core runs")
        self._waits[core] = (ready, where)
        self._hub.switch()

    def barrier(self, core: int, cores: tuple[int, ...], where: str) -> bool:
        """Wait until all `cores` have arrived; True on the core that completes it."""
        arrived = self._barriers[cores]
        arrived[core] = where
        if len(arrived) == len(cores):
            self._generation[cores] += 1
            arrived.clear()
            return True
        passed = self._generation[cores]
        self.wait(core, lambda: self._generation[cores] > passed, where)
        return False

    def exchange(self, core: int, to: int, source: int, pipe: Any, payload: Any, where: str) -> Any:
        """Send `payload` to core `to` and return what core `source` sends on the same pipe."""
        self._mail[core, to, pipe].append(payload)
        inbox = self._mail[source, core, pipe]
        self.wait(core, lambda: bool(inbox), where)
        return inbox.popleft()

    def check_idle(self) -> None:
        """Nothing may be pending when all cores have returned."""
        for (source, to, pipe), box in self._mail.items():
            if box:
                raise MachineError(
                    "sendrecv.pending",
                    f"{len(box)} message(s) from core {source} to core {to} on pipe {pipe} were never received",
                    remedy="pair every sendrecv",
                )
